//! What the engine moves: an event, its action, its callback, and how far its transfer has come.
//!
//! An event belongs to the caller, except between its submission and the start of its callback.
//! In that time the engine owns everything but the words that getters may read from any thread,
//! which are atomics.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::clock;
use crate::gate::Latch;
use crate::identity::{Cell, State};
use crate::ledger::{Admission, Ledger};

/// The result of an event that has not completed.
pub const PENDING: i64 = i64::MIN;

/// The most bytes one kernel operation is asked to move. Below the kernel's own limit of
/// 0x7ffff000 bytes (read(2)), and a multiple of every block size, so that a direct transfer goes
/// on at an aligned offset.
pub(crate) const MAX_CHUNK: u64 = 1 << 30;

/// The most segments of a vectored transfer (IOV_MAX of limits.h on Linux).
pub const MAX_SEGMENTS: usize = 1024;

/// What an event asks of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IOAction {
    /// Read from the file into the buffer.
    Read,
    /// Write the buffer to the file.
    Write,
    /// Make the file's data and metadata durable (fsync(2)).
    Fsync,
    /// Make the file's data durable (fdatasync(2)).
    Fdatasync,
    /// Allocate or free space; the mode is that of fallocate(2).
    Fallocate(i32),
    /// Begin the write-back of a range, or wait for it; the flags are those of sync_file_range(2).
    SyncRange(u32),
    /// Make the file as long as the length says (ftruncate(2)).
    Truncate,
    /// Say how a range will be used; the advice is that of posix_fadvise(2).
    Advise(i32),
}

impl IOAction {
    /// Whether the file may grow, and with it exceed RLIMIT_FSIZE.
    pub(crate) fn may_extend(self) -> bool {
        matches!(self, IOAction::Write | IOAction::Fallocate(_) | IOAction::Truncate)
    }

    /// Whether bytes move between memory and the file.
    pub fn is_transfer(self) -> bool {
        matches!(self, IOAction::Read | IOAction::Write)
    }

    /// Whether data that is written is made durable.
    pub fn is_sync(self) -> bool {
        matches!(self, IOAction::Fsync | IOAction::Fdatasync)
    }
}

/// What an event asks beside its action, with the values of the RWF_ flags of preadv2(2), and
/// [`flags::BARRIER`].
pub mod flags {
    /// High priority: polled for, on a ring made for that.
    pub const HIPRI: u32 = libc::RWF_HIPRI as u32;
    /// Durable when it completes, as with O_DSYNC.
    pub const DSYNC: u32 = libc::RWF_DSYNC as u32;
    /// Fails with `EAGAIN` where it would wait.
    pub const NOWAIT: u32 = libc::RWF_NOWAIT as u32;
    /// Written at the end of the file, wherever that is then.
    pub const APPEND: u32 = libc::RWF_APPEND as u32;
    /// Written as a whole, or not at all (Linux 6.11).
    pub const ATOMIC: u32 = 0x40;
    /// Leaves nothing in the page cache (Linux 6.14).
    pub const DONTCACHE: u32 = 0x80;
    /// A sync that starts when all earlier writes of its descriptor are done.
    pub const BARRIER: u32 = 1 << 30;

    /// Those for writes alone.
    pub(super) const OF_WRITES: u32 = DSYNC | APPEND | ATOMIC;
    pub(super) const OF_TRANSFERS: u32 = OF_WRITES | HIPRI | NOWAIT | DONTCACHE;
    /// What has them never travels in one operation with others.
    pub(crate) const ALONE: u32 = HIPRI | NOWAIT | APPEND | ATOMIC;
}

/// What happens with a completed event. Implement it for a struct to carry state without an
/// allocation, for an enum to have several kinds, or use [`ClosureCb`].
pub trait IOCallback: Sized + Send + 'static {
    /// Called exactly once for every accepted event. The event is the receiver's again.
    ///
    /// A panic in here is caught and logged; the engine goes on.
    fn call(self, event: IOEvent<Self>);
}

/// A callback around a closure.
pub struct ClosureCb(pub Box<dyn FnOnce(IOEvent<ClosureCb>) + Send>);

impl IOCallback for ClosureCb {
    fn call(self, event: IOEvent<Self>) {
        (self.0)(event)
    }
}

/// One operation as a driver sees it: a plain value. The reactor keeps what the pointer refers to
/// valid until the operation has completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub action: IOAction,
    pub fd: RawFd,
    pub offset: u64,
    /// Bytes to move, or those of a range, or a file's new length; 0 for a sync.
    pub len: u64,
    pub memory: Memory,
    /// The RWF_ flags of preadv2(2).
    pub flags: u32,
    /// As ioprio_set(2) takes it; 0: none.
    pub priority: u16,
}

/// What of a file an operation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub action: IOAction,
    pub fd: RawFd,
    pub offset: u64,
    pub len: u64,
}

impl From<&Op> for Extent {
    fn from(op: &Op) -> Self {
        let Op { action, fd, offset, len, .. } = *op;
        Extent { action, fd, offset, len }
    }
}

/// Where the bytes of an operation lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    None,
    Plain(*mut u8),
    Segments(*const libc::iovec, u32),
}

/// Why an event cannot be submitted, prepared or freed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unfit {
    InFlight,
    Unprepared,
    Whole,
}

impl Unfit {
    pub(crate) fn errno(self) -> i32 {
        match self {
            Unfit::InFlight => libc::EBUSY,
            Unfit::Unprepared | Unfit::Whole => libc::EINVAL,
        }
    }
}

/// How ioprio_set(2) puts class and level together.
const PRIORITY_CLASS_SHIFT: u32 = 13;
const LEVEL_MASK: i32 = (1 << PRIORITY_CLASS_SHIFT) - 1;

/// What a plain operation touches comes first, in two cache lines.
#[repr(C, align(64))]
struct Inner<C> {
    /// Its state, and its name.
    cell: &'static Cell,
    /// Bytes that got through since the event was prepared.
    transferred: AtomicU64,
    result: AtomicI64,
    setup: Setup,
    has_callback: UnsafeCell<bool>,
    callback: UnsafeCell<MaybeUninit<C>>,
    link: UnsafeCell<Link<C>>,
    progress: UnsafeCell<Progress>,
    /// How long it may take from its acceptance. `None` in a plain event.
    limit: Option<Duration>,
    buffer: Option<Buffer>,
}

/// What travels with an event, through the queues and to the kernel. An event that is the caller's
/// has none.
pub(crate) enum Link<C> {
    None,
    /// The next member of the same operation: its bytes follow this one's.
    Joined(IOEvent<C>),
    /// The next one that was handed over together with this one.
    Batched(IOEvent<C>),
}

/// What prep and set calls set; nobody changes it while the event is in flight.
#[repr(C)]
struct Setup {
    offset: u64,
    len: u64,
    memory: *mut u8,
    action: IOAction,
    fd: RawFd,
    flags: u32,
    priority: u16,
    /// A transfer from or to memory in one piece, for one operation, and nothing else was set.
    plain: bool,
}

/// What only the engine touches while the event is in flight.
#[repr(C)]
struct Progress {
    admission: Admission,
    /// The result before the launch.
    earlier: i64,
    /// Where a thread waits for it, instead of a callback.
    waiter: Option<NonNull<Latch>>,
    /// The one before it of those that the thread waits for.
    awaited_before: Option<NonNull<()>>,
    /// The errno with which it is to end, unless it is whole before; 0: none.
    ending: i32,
    /// When it is to end. `None` where it has no limit.
    deadline: Option<Instant>,
    /// The segments of a vectored transfer, none of a plain one. Those before `next` are done; the one
    /// at `next` is shortened by what was done of it.
    segments: Vec<libc::iovec>,
    next: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            segments: Vec::new(),
            next: 0,
            admission: Admission::default(),
            earlier: PENDING,
            deadline: None,
            ending: 0,
            waiter: None,
            awaited_before: None,
        }
    }
}

/// Goes on by `bytes` in segments of which those before `next` are done; the one there is shortened
/// by what was done of it. Empty ones are passed over.
pub(crate) fn advance(segments: &mut [libc::iovec], next: &mut usize, bytes: usize) {
    let mut left = bytes;
    while let Some(segment) = segments.get_mut(*next) {
        if left < segment.iov_len {
            segment.iov_base = segment.iov_base.cast::<u8>().wrapping_add(left).cast();
            segment.iov_len -= left;
            break;
        }
        left -= segment.iov_len;
        *next += 1;
    }
}

/// A single I/O request. It lives on the heap and moves as one pointer, through every queue.
pub struct IOEvent<C> {
    inner: NonNull<Inner<C>>,
}

// SAFETY: an event is moved between threads, never used by two at once, except for its atomics;
// what it carries (callback, buffer) is Send. Raw pointers in it are the caller's promise.
unsafe impl<C: Send> Send for IOEvent<C> {}

impl<C> IOEvent<C> {
    /// An event that moves the buffer's whole length, or syncs, or allocates the length of the
    /// buffer. Without a callback it cannot be submitted, nor where it would end beyond the
    /// largest offset of a file, `i64::MAX`.
    ///
    /// # Panics
    /// Where memory for the event itself is short.
    pub fn new(fd: RawFd, buffer: Buffer, action: IOAction, offset: u64) -> Self {
        let mut event = Self::try_unprepared().expect("memory for an event");
        let memory = buffer.as_ptr();
        let len = buffer.len() as u64;
        event.inner_mut().buffer = Some(buffer);
        if offset.checked_add(len).is_some_and(|end| end <= i64::MAX as u64) {
            event.prepare(action, fd, memory, len, offset);
        }
        event
    }

    /// An event that cannot be submitted yet; `None` where memory is short.
    pub(crate) fn try_unprepared() -> Option<Self> {
        let layout = std::alloc::Layout::new::<Inner<C>>();
        let cell = Cell::take()?;
        // SAFETY: the layout is not empty; the memory is filled before anybody sees it, and
        // `drop` returns it as the box it is.
        unsafe {
            let Some(inner) = NonNull::new(std::alloc::alloc(layout).cast::<Inner<C>>()) else {
                cell.give_back();
                return None;
            };
            inner.write(Inner {
                cell,
                transferred: AtomicU64::new(0),
                result: AtomicI64::new(PENDING),
                setup: Setup {
                    offset: 0,
                    len: 0,
                    memory: std::ptr::null_mut(),
                    action: IOAction::Fsync,
                    fd: -1,
                    flags: 0,
                    priority: 0,
                    plain: false,
                },
                has_callback: UnsafeCell::new(false),
                callback: UnsafeCell::new(MaybeUninit::zeroed()),
                link: UnsafeCell::new(Link::None),
                progress: UnsafeCell::default(),
                limit: None,
                buffer: None,
            });
            Some(IOEvent { inner })
        }
    }

    fn inner(&self) -> &Inner<C> {
        // SAFETY: the pointer is valid from `try_unprepared` to `drop`. Fields that change while
        // others look are atomics or in an UnsafeCell.
        unsafe { self.inner.as_ref() }
    }

    fn inner_mut(&mut self) -> &mut Inner<C> {
        // SAFETY: as in `inner`; the caller owns the event, so nobody else refers to it.
        unsafe { self.inner.as_mut() }
    }

    /// Gives up ownership; the pointer stands for the event in the C interface.
    pub(crate) fn into_raw(self) -> *mut () {
        let raw = self.inner.as_ptr().cast();
        std::mem::forget(self);
        raw
    }

    /// The event behind a pointer of [`IOEvent::into_raw`]; must not be dropped twice.
    ///
    /// # Safety
    /// The pointer came from `into_raw` of the same type and was not freed since.
    pub(crate) unsafe fn from_raw(raw: NonNull<()>) -> Self {
        IOEvent { inner: raw.cast() }
    }

    /// Another handle of the same event.
    ///
    /// # Safety
    /// One of the two is forgotten, never dropped; what goes for two threads with one event goes for
    /// the handles.
    pub(crate) unsafe fn second_handle(&self) -> Self {
        IOEvent { inner: self.inner }
    }

    /// Describes the request. The event must be owned by the caller (see [`IOEvent::fit`]).
    #[inline(always)]
    pub(crate) fn prepare(
        &mut self,
        action: IOAction,
        fd: RawFd,
        memory: *mut u8,
        len: u64,
        offset: u64,
    ) {
        let inner = self.inner_mut();
        let plain = action.is_transfer() && len <= MAX_CHUNK;
        if !inner.setup.plain {
            inner.limit = None;
            let progress = inner.progress.get_mut();
            progress.deadline = None;
            progress.segments.clear();
            progress.next = 0;
        }
        inner.setup = Setup { offset, len, memory, action, fd, flags: 0, priority: 0, plain };
        inner.transferred.store(0, Relaxed);
        inner.result.store(PENDING, Relaxed);
        inner.cell.renew(State::Owned);
    }

    /// Sets what the event asks beside its action: a union of [`flags`]. Until the next prep.
    ///
    /// Fails with `EBUSY` in flight, or with `EINVAL`: never prepared, a bit that is none, or one
    /// that the action has no use for.
    pub fn set_flags(&mut self, flags: u32) -> io::Result<()> {
        let known = match self.inner().setup.action {
            IOAction::Read => flags::OF_TRANSFERS & !flags::OF_WRITES,
            IOAction::Write => flags::OF_TRANSFERS,
            IOAction::Fsync | IOAction::Fdatasync => flags::BARRIER,
            IOAction::Fallocate(_)
            | IOAction::SyncRange(_)
            | IOAction::Truncate
            | IOAction::Advise(_) => 0,
        };
        self.change(flags & !known == 0, |event| event.setup.flags = flags)
    }

    /// Sets the priority of a transfer as ioprio_set(2) has it: a class, 1 to 3, times 8192, and a
    /// level, 0 to 7; or 0 for none. Until the next prep.
    ///
    /// Fails as [`IOEvent::set_flags`] does.
    pub fn set_priority(&mut self, priority: i32) -> io::Result<()> {
        let (class, level) = (priority >> PRIORITY_CLASS_SHIFT, priority & LEVEL_MASK);
        let valid = priority == 0 || (1..=3).contains(&class) && (0..=7).contains(&level);
        let valid = valid && self.inner().setup.action.is_transfer();
        self.change(valid, |event| event.setup.priority = priority as u16)
    }

    /// Sets how long the event may take from its acceptance; `None`: as long as it takes. Until the
    /// next prep.
    ///
    /// Fails as [`IOEvent::set_flags`] does.
    pub fn set_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.change(true, |event| event.limit = limit)
    }

    fn change(&mut self, valid: bool, change: impl FnOnce(&mut Inner<C>)) -> io::Result<()> {
        self.fit().map_err(|unfit| io::Error::from_raw_os_error(unfit.errno()))?;
        if !valid {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let inner = self.inner_mut();
        change(inner);
        let setup = &mut inner.setup;
        let unset = (setup.flags, setup.priority, inner.limit) == (0, 0, None);
        let progress = inner.progress.get_mut();
        let one = setup.len <= MAX_CHUNK && progress.segments.is_empty();
        setup.plain = unset && one && setup.action.is_transfer();
        progress.deadline = None;
        Ok(())
    }

    /// Names the event until its next prep or its next completion, and never another one: for
    /// [`crate::IOContext::cancel`].
    pub fn id(&self) -> u64 {
        self.inner().cell.id()
    }

    /// A transfer from or to memory in one piece, for one operation, alone, without flags, priority or
    /// limit: what most are.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.inner().setup.plain && matches!(self.link(), Link::None)
    }

    /// The union of [`flags`] that was set.
    pub(crate) fn flags(&self) -> u32 {
        self.inner().setup.flags
    }

    pub(crate) fn priority(&self) -> u16 {
        self.inner().setup.priority
    }

    /// Whether this result is a failure. That a transfer would wait is what NOWAIT asks to be told.
    pub(crate) fn fails_with(&self, result: i64) -> bool {
        let told =
            result == -i64::from(libc::EAGAIN) && self.inner().setup.flags & flags::NOWAIT != 0;
        result < 0 && !told
    }

    /// A sync that waits for earlier writes.
    pub(crate) fn is_barrier(&self) -> bool {
        self.inner().setup.flags & flags::BARRIER != 0
    }

    /// Whether it ends after a time.
    pub(crate) fn is_timed(&self) -> bool {
        self.inner().limit.is_some()
    }

    /// Takes memory for a vectored transfer of `count` segments; false where it is short.
    pub(crate) fn reserve_segments(&mut self, count: usize) -> bool {
        let segments = &mut self.inner_mut().progress.get_mut().segments;
        segments.try_reserve(count.saturating_sub(segments.len())).is_ok()
    }

    /// Makes a prepared transfer a vectored one over a copy of `segments`.
    pub(crate) fn set_segments(&mut self, segments: &[libc::iovec]) {
        let inner = self.inner_mut();
        inner.setup.plain = false;
        inner.progress.get_mut().segments.extend_from_slice(segments);
        // Leading empty segments are done: an operation of 0 bytes would look like end of file.
        self.advance(0);
    }

    /// Sets what is called when the event completes.
    pub fn set_callback(&mut self, callback: C) {
        let inner = self.inner_mut();
        if std::mem::replace(inner.has_callback.get_mut(), true) {
            // SAFETY: the flag said that the slot is filled; it is refilled below.
            unsafe { inner.callback.get_mut().assume_init_drop() }
        }
        inner.callback.get_mut().write(callback);
    }

    /// Whether a callback is set.
    #[inline(always)]
    pub(crate) fn has_callback(&self) -> bool {
        // SAFETY: written only by the event's owner, who alone asks.
        unsafe { *self.inner().has_callback.get() }
    }

    /// Takes the callback out. What it held stays readable for [`IOEvent::peek_callback`].
    pub(crate) fn take_callback(&mut self) -> Option<C> {
        let inner = self.inner();
        // SAFETY: the flag is touched by whoever holds the event; it says that the slot is
        // filled, and afterwards that it is not.
        unsafe {
            let filled = std::mem::replace(&mut *inner.has_callback.get(), false);
            filled.then(|| (*inner.callback.get()).assume_init_read())
        }
    }

    /// Whether the event has completed. Grants no ownership.
    pub fn is_done(&self) -> bool {
        self.result() != PENDING
    }

    /// Bytes transferred since the event was prepared (0 for what is no transfer), a negated errno, or
    /// [`PENDING`].
    pub fn result(&self) -> i64 {
        self.inner().result.load(Acquire)
    }

    /// Bytes that got through, also when the result is an error.
    pub fn transferred(&self) -> u64 {
        self.inner().transferred.load(Acquire)
    }

    /// The action; `None` before the first prep.
    pub fn action(&self) -> Option<IOAction> {
        let prepared = self.inner().cell.state() != State::Unprepared;
        prepared.then_some(self.inner().setup.action)
    }

    /// The action of an event that was prepared.
    #[inline(always)]
    pub(crate) fn kind(&self) -> IOAction {
        self.inner().setup.action
    }

    /// A read or a write.
    #[inline(always)]
    pub(crate) fn is_transfer(&self) -> bool {
        self.kind().is_transfer()
    }

    #[inline(always)]
    pub(crate) fn is_write(&self) -> bool {
        self.kind() == IOAction::Write
    }

    pub(crate) fn is_sync(&self) -> bool {
        self.kind().is_sync()
    }

    /// The descriptor; -1 before the first prep.
    pub fn fd(&self) -> RawFd {
        self.inner().setup.fd
    }

    /// The file offset where the whole request begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.inner().setup.offset
    }

    /// The length of the whole request in bytes.
    pub fn get_size(&self) -> u64 {
        self.inner().setup.len
    }

    /// The memory of the request, or of its first segment.
    pub(crate) fn memory(&self) -> *mut u8 {
        self.inner().setup.memory
    }

    /// How a write ended: the bytes written, always the full length, or the error.
    pub fn get_write_result(&self) -> io::Result<u64> {
        match self.result() {
            PENDING => Err(io::Error::from_raw_os_error(libc::EINPROGRESS)),
            result if result < 0 => Err(io::Error::from_raw_os_error(-result as i32)),
            result => Ok(result as u64),
        }
    }

    /// Takes out the buffer of a read, cut to the bytes that were read: fewer than asked for only
    /// where the file ended. A second call fails with `EINVAL`.
    pub fn get_read_result(&mut self) -> io::Result<Buffer> {
        let len = self.get_write_result()?;
        let buffer = self.inner_mut().buffer.take();
        let mut buffer = buffer.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        buffer.truncate(len as usize);
        // The memory is gone: the event needs a new prep.
        self.inner_mut().cell.set_state(State::Unprepared);
        Ok(buffer)
    }

    /// Whether the caller may prepare, free or submit the event.
    #[inline(always)]
    pub(crate) fn fit(&self) -> Result<(), Unfit> {
        match self.inner().cell.state() {
            State::InFlight | State::Cancelled => Err(Unfit::InFlight),
            State::Unprepared => Err(Unfit::Unprepared),
            State::Owned => Ok(()),
        }
    }

    /// Whether [`IOEvent::launch`] would take it now, and its result so far.
    #[inline(always)]
    pub(crate) fn check_launch(&self) -> Result<i64, Unfit> {
        self.fit()?;
        let result = self.result();
        match result >= 0 && self.is_whole(result) {
            true => Err(Unfit::Whole),
            false => Ok(result),
        }
    }

    #[cold]
    fn is_whole(&self, result: i64) -> bool {
        let Setup { action, len, .. } = self.inner().setup;
        !action.is_transfer() || result as u64 == len
    }

    /// Takes the event from its caller for one run, whoever else tries at the same time. One that
    /// completed short or with an error goes on where it stopped; a whole one is refused.
    #[inline(always)]
    pub(crate) fn launch(&self) -> Result<(), Unfit> {
        let inner = self.inner();
        let Some(owned) = inner.cell.owned() else {
            return Err(self.fit().err().unwrap_or(Unfit::InFlight));
        };
        let result = self.result();
        if result >= 0 && self.is_whole(result) {
            return Err(Unfit::Whole);
        }
        if !inner.cell.launch(owned) {
            return Err(Unfit::InFlight);
        }
        let progress = self.progress();
        progress.earlier = result;
        progress.ending = 0;
        inner.result.store(PENDING, Release);
        Ok(())
    }

    /// Gives a launched event back as it was: it was not accepted after all.
    pub(crate) fn abort_launch(&self) {
        self.complete(self.progress().earlier);
        self.inner().cell.set_state(State::Owned);
    }

    /// Remembers the ledger that counted the event in. It outlives the event's flight.
    #[inline(always)]
    pub(crate) fn set_owner(&self, ledger: *const Ledger, admission: Admission) {
        let progress = self.progress();
        progress.admission = admission;
        if !self.inner().setup.plain {
            // A time too far away for the clock never comes.
            let limit = self.inner().limit;
            progress.deadline = limit.and_then(|limit| clock::now().checked_add(limit));
        }
        self.inner().cell.set_owner(ledger);
    }

    /// The ledger that counted the event in, and how.
    pub(crate) fn owner(&self) -> (*const Ledger, Admission) {
        (self.inner().cell.owner(), self.progress().admission)
    }

    /// Its place in the order of acceptance.
    pub(crate) fn number(&self) -> u64 {
        self.progress().admission.number()
    }

    /// How it was counted in.
    #[inline(always)]
    pub(crate) fn admission(&self) -> Admission {
        self.progress().admission
    }

    /// What only the engine touches, while it holds the event.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    fn progress(&self) -> &mut Progress {
        // SAFETY: the engine holds the event, on one thread at a time, and no caller keeps this.
        unsafe { &mut *self.inner().progress.get() }
    }

    /// When the event is to end.
    #[inline(always)]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.progress().deadline
    }

    /// When the first is to end of all that are tied together.
    #[inline(always)]
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        match self.link() {
            Link::None => self.deadline(),
            _ => self.chain().filter_map(IOEvent::deadline).min(),
        }
    }

    /// The errno with which the event ends unless it is whole before, where that has come: it was
    /// cancelled, or its time is up.
    pub(crate) fn ending(&self, now: impl FnOnce() -> Instant) -> Option<i32> {
        let progress = self.progress();
        if progress.ending == 0 && self.inner().cell.is_cancelled() {
            progress.ending = libc::ECANCELED;
        }
        if progress.ending == 0 && progress.deadline.is_some_and(|at| at <= now()) {
            progress.ending = libc::ETIMEDOUT;
        }
        (progress.ending != 0).then_some(progress.ending)
    }

    /// Whether somebody asked for it back.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.inner().cell.is_cancelled()
    }

    /// The calling thread waits for the event at this latch, which counts it: it has no callback. `before`
    /// is the one before of those that it waits for, of [`IOEvent::into_raw`].
    pub(crate) fn set_waiter(&self, latch: &Latch, before: Option<NonNull<()>>) {
        latch.count_up();
        let progress = self.progress();
        progress.waiter = Some(latch.into());
        progress.awaited_before = before;
    }

    /// Gives an event that was waited for, and is done, back to its caller. The one before it.
    pub(crate) fn release_awaited(&self) -> Option<NonNull<()>> {
        let before = self.progress().awaited_before.take();
        self.release();
        before
    }

    #[inline(always)]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.progress().waiter.is_some()
    }

    pub(crate) fn take_waiter(&self) -> Option<NonNull<Latch>> {
        self.progress().waiter.take()
    }

    /// Whether the engine holds the event.
    #[inline(always)]
    pub(crate) fn is_in_flight(&self) -> bool {
        self.fit() == Err(Unfit::InFlight)
    }

    /// The next operation of a launched event: all that is left of it, as far as one operation
    /// may reach.
    pub(crate) fn next_op(&self) -> Op {
        let Setup { action, flags, priority, .. } = self.inner().setup;
        match action.is_transfer() && self.progress().segments.is_empty() {
            true => {
                let all = self.plain_op();
                Op { len: all.len.min(MAX_CHUNK), flags, priority, ..all }
            }
            false => self.next_op_of_segments(),
        }
    }

    /// The same of a plain event.
    #[inline(always)]
    pub(crate) fn plain_op(&self) -> Op {
        let Setup { offset, len, memory, action, fd, .. } = self.inner().setup;
        let done = self.inner().transferred.load(Relaxed);
        Op {
            action,
            fd,
            offset: offset + done,
            len: len - done,
            // Stays inside the caller's buffer: `done` never exceeds its length.
            memory: Memory::Plain(memory.wrapping_add(done as usize)),
            flags: 0,
            priority: 0,
        }
    }

    /// The same of what is not in one piece of memory, or in none.
    fn next_op_of_segments(&self) -> Op {
        let Setup { offset, len, memory, action, fd, flags, priority, .. } = self.inner().setup;
        let operation = |offset, len, memory| {
            let flags = flags & flags::OF_TRANSFERS;
            Op { action, fd, offset, len, memory, flags, priority }
        };
        if !action.is_transfer() {
            return operation(offset, len, Memory::None);
        }
        let offset = offset + self.inner().transferred.load(Relaxed);
        let progress = self.progress();
        let rest = &progress.segments[progress.next..];
        // As many whole segments as fit; a segment too large by itself goes alone, in parts.
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|segment| {
            bytes += segment.iov_len as u64;
            bytes <= MAX_CHUNK
        });
        let count = fitting.count();
        match rest {
            [] => operation(offset, 0, Memory::Plain(memory)),
            [first, ..] if count <= 1 => {
                let len = (first.iov_len as u64).min(MAX_CHUNK);
                operation(offset, len, Memory::Plain(first.iov_base.cast()))
            }
            _ => {
                let len = rest[..count].iter().map(|segment| segment.iov_len as u64).sum();
                let memory = Memory::Segments(rest.as_ptr(), count as u32);
                operation(offset, len, memory)
            }
        }
    }

    /// What is left of a transfer whose memory is in one piece; `None` for another.
    pub(crate) fn plain_rest(&self) -> Option<libc::iovec> {
        let Setup { len, memory, .. } = self.inner().setup;
        let done = self.inner().transferred.load(Relaxed);
        // SAFETY: the engine holds the event, and it alone touches the progress.
        let progress = unsafe { &*self.inner().progress.get() };
        progress.segments.is_empty().then(|| libc::iovec {
            iov_base: memory.wrapping_add(done as usize).cast(),
            iov_len: (len - done) as usize,
        })
    }

    /// What is left of a transfer, as segments in memory.
    pub(crate) fn rest(&self) -> impl Iterator<Item = libc::iovec> + '_ {
        // SAFETY: as in `plain_rest`.
        let progress = unsafe { &*self.inner().progress.get() };
        self.plain_rest().into_iter().chain(progress.segments[progress.next..].iter().copied())
    }

    /// Ties what comes next to the event, and returns what was tied to it before.
    pub(crate) fn set_link(&self, link: Link<C>) -> Link<C> {
        // SAFETY: whoever holds the event, and nobody else, touches the link.
        std::mem::replace(unsafe { &mut *self.inner().link.get() }, link)
    }

    /// What is tied to the event.
    #[inline(always)]
    pub(crate) fn link(&self) -> &Link<C> {
        // SAFETY: as in `set_link`, which nobody calls while he looks.
        unsafe { &*self.inner().link.get() }
    }

    /// Whether other events travel in its operation.
    #[inline(always)]
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.link(), Link::Joined(_))
    }

    /// The event and all that are tied to it, however.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &IOEvent<C>> {
        std::iter::successors(Some(self), |event| match event.link() {
            Link::Joined(next) | Link::Batched(next) => Some(next),
            Link::None => None,
        })
    }

    /// The whole of a plain event got through.
    #[inline(always)]
    pub(crate) fn set_whole(&self) {
        let inner = self.inner();
        inner.transferred.store(inner.setup.len, Release);
        inner.result.store(inner.setup.len as i64, Release);
    }

    /// Moves the transfer on by `bytes` of its current operation. True where nothing is left.
    #[inline(always)]
    pub(crate) fn advance(&mut self, bytes: u64) -> bool {
        let inner = self.inner();
        let done = inner.transferred.load(Relaxed) + bytes;
        inner.transferred.store(done, Release);
        let Progress { segments, next, .. } = self.progress();
        if !segments.is_empty() {
            advance(segments, next, bytes as usize);
        }
        done == inner.setup.len
    }

    /// Sets a plain transfer back to where it had come earlier, or forth again; false for a vectored
    /// one, whose segments are used up.
    #[inline(always)]
    pub(crate) fn set_transferred(&self, bytes: u64) -> bool {
        // SAFETY: the engine holds the event, and it alone touches the progress.
        let plain = unsafe { (*self.inner().progress.get()).segments.is_empty() };
        if plain {
            self.inner().transferred.store(bytes, Release);
        }
        plain
    }

    /// Sets the result. The event is still in flight until its callback starts.
    pub(crate) fn complete(&self, result: i64) {
        self.inner().result.store(result, Release);
    }

    /// The event is the caller's again: its callback starts now. One that was never launched
    /// stays unprepared.
    #[inline(always)]
    pub(crate) fn release(&self) {
        if self.is_in_flight() {
            self.inner().cell.renew(State::Owned);
        }
    }
}

impl<C> std::fmt::Debug for IOEvent<C> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("IOEvent")
            .field("action", &self.action())
            .field("fd", &self.fd())
            .field("offset", &self.offset())
            .field("size", &self.get_size())
            .field("result", &self.result())
            .finish_non_exhaustive()
    }
}

impl<C: Copy> IOEvent<C> {
    /// Where the callback lies, whether or not it was taken. The slot is written only by
    /// `set_callback`, thus never while the event is in flight.
    pub(crate) fn callback_slot(&self) -> *const C {
        self.inner().callback.get().cast()
    }

    /// Puts back a callback that was taken: it is still in its slot.
    pub(crate) fn restore_callback(&mut self) {
        // SAFETY: the flag is touched by whoever holds the event.
        unsafe { *self.inner().has_callback.get() = true }
    }
}

impl<C> Drop for IOEvent<C> {
    fn drop(&mut self) {
        // One after the other: each would drop the next, and a stack has an end.
        let mut link = self.set_link(Link::None);
        while let Link::Joined(next) | Link::Batched(next) = link {
            link = next.set_link(Link::None);
        }
        drop(self.take_callback());
        self.inner().cell.give_back();
        // SAFETY: the owner drops the event, so nobody else refers to it; it came from a Box.
        drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
    }
}
