//! Linux AIO: io_submit(2) and its three companions, for what they do without blocking: transfers
//! of O_DIRECT descriptors, fsync and fdatasync.
//!
//! The structures are those of linux/aio_abi.h; the page with completions, which io_getevents(2)
//! reads without a system call where it can, is that of fs/aio.c since Linux 2.6.

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use super::direct::{is_direct, last_errno, Known};
use super::{
    forbidden, timespec, Done, Driver, Entered, Interface, Prep, Refusal, Wait, NOT_TAKEN,
};
use crate::fork;
use crate::tasks::{flags, IOAction, Memory, Op};
use crate::wake::clear_eventfd;

/// How long to wait for completions at a time where io_getevents(2) is forbidden.
const PAUSE: Duration = Duration::from_millis(1);

/// The data of the poll on the wake-up descriptor; slots are 32 bits.
const WAKE: u64 = u64::MAX;

/// What an operation is called (`aio_lio_opcode`); fsync since Linux 4.18, poll since 4.19.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum Command {
    Read = 0,
    Write = 1,
    Fsync = 2,
    Fdatasync = 3,
    Poll = 5,
    ReadVectored = 7,
    WriteVectored = 8,
}

/// `aio_flags`: completion also writes the eventfd in `resfd`.
const FLAG_RESFD: u32 = 1;
/// `aio_flags`: there is a priority (Linux 4.18).
const FLAG_PRIORITY: u32 = 2;

/// `struct iocb`. Key and flags change places on big-endian machines; both are 0 here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Iocb {
    pub data: u64,
    key: u32,
    pub rw_flags: u32,
    pub command: Command,
    pub priority: i16,
    pub fd: u32,
    pub at: u64,
    pub len: u64,
    pub offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

impl Iocb {
    fn new(data: u64, command: Command, fd: RawFd) -> Self {
        Iocb {
            data,
            key: 0,
            rw_flags: 0,
            command,
            priority: 0,
            fd: fd as u32,
            at: 0,
            len: 0,
            offset: 0,
            reserved: 0,
            flags: 0,
            resfd: 0,
        }
    }
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct IoEvent {
    pub data: u64,
    pub object: u64,
    pub result: i64,
    pub result2: i64,
}

/// The system calls, so that a simulator can stand in for the kernel.
pub(crate) trait Calls: Send {
    /// io_submit(2): how many of the first were taken, or the errno of the first.
    fn submit(&mut self, batch: &[*mut Iocb]) -> Result<usize, i32>;
    /// Completions that can be had without a system call.
    fn reap(&mut self, events: &mut Vec<IoEvent>);
    fn has_completions(&self) -> bool;
    /// io_getevents(2): waits for `min` completions at least.
    fn wait(
        &mut self,
        min: usize,
        time: Option<Duration>,
        events: &mut Vec<IoEvent>,
    ) -> Result<(), i32>;
    /// Whether io_submit(2) would not block on a transfer.
    fn is_direct(&self, fd: RawFd) -> bool;
}

/// `struct aio_ring` of fs/aio.c, which the kernel maps at the address that is the context's id.
#[repr(C)]
struct Ring {
    id: u32,
    /// How many events there is room for.
    count: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compat_features: u32,
    incompat_features: u32,
    header_length: u32,
}

const RING_MAGIC: u32 = 0xa10a_10a1;

/// An AIO context of the kernel.
pub(crate) struct Kernel {
    id: u64,
    generation: fork::Generation,
}

impl Kernel {
    fn new(depth: u32) -> Result<Self, Refusal> {
        let mut id = 0u64;
        // SAFETY: the id is writable, and 0 as io_setup(2) wants it.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut id) };
        if made != 0 {
            return Err(refusal(last_errno(), depth));
        }
        let kernel = Kernel { id, generation: fork::generation() };
        let ring = kernel.ring();
        if ring.magic != RING_MAGIC || ring.incompat_features != 0 {
            return Err(refusal(libc::ENOSYS, depth));
        }
        Ok(kernel)
    }

    fn ring(&self) -> &Ring {
        // SAFETY: mapped by io_setup(2) until io_destroy(2); the fields that change are atomics.
        unsafe { &*(self.id as *const Ring) }
    }
}

impl Calls for Kernel {
    fn submit(&mut self, batch: &[*mut Iocb]) -> Result<usize, i32> {
        // SAFETY: as many pointers as are given, each to an iocb that lives; what these refer to
        // is valid until the operation is done.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.id, batch.len(), batch.as_ptr()) };
        usize::try_from(taken).map_err(|_| last_errno())
    }

    fn reap(&mut self, events: &mut Vec<IoEvent>) {
        let ring = self.ring();
        let first = ring.header_length as usize;
        let mut head = ring.head.load(Acquire);
        let tail = ring.tail.load(Acquire);
        while head != tail {
            let at = self.id as usize + first + head as usize * size_of::<IoEvent>();
            // SAFETY: inside the mapping, as the kernel keeps head and tail below its count; it has
            // written this one before it moved the tail.
            events.push(unsafe { (at as *const IoEvent).read() });
            head = (head + 1) % ring.count;
        }
        ring.head.store(head, Release);
    }

    fn has_completions(&self) -> bool {
        let ring = self.ring();
        ring.head.load(Acquire) != ring.tail.load(Acquire)
    }

    fn wait(
        &mut self,
        min: usize,
        time: Option<Duration>,
        events: &mut Vec<IoEvent>,
    ) -> Result<(), i32> {
        let time = time.map(timespec);
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let room = events.spare_capacity_mut();
        let (at, max) = (room.as_mut_ptr(), room.len());
        // SAFETY: room for as many events as are asked for; a time or none, which lives for the
        // call.
        let got =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.id, min.min(max), max, at, time) };
        let got = usize::try_from(got).map_err(|_| last_errno())?;
        // SAFETY: so many the kernel has written, behind those that were there.
        unsafe { events.set_len(events.len() + got) };
        Ok(())
    }

    fn is_direct(&self, fd: RawFd) -> bool {
        is_direct(fd)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // To a forked child the context means nothing.
        if self.generation == fork::generation() {
            // SAFETY: the last use. It waits for what is in flight, of which nothing is.
            unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
        }
    }
}

pub(crate) struct Aio<K> {
    calls: K,
    /// One for each slot, and one for the wake-up; the kernel reads them during io_submit(2).
    iocbs: Box<[UnsafeCell<Iocb>]>,
    /// Those to be submitted next.
    queue: Vec<*mut Iocb>,
    events: Vec<IoEvent>,
    known: Known,
    wake: RawFd,
    /// The poll on the wake-up descriptor is in the kernel, or queued as the first of all.
    watching: bool,
    watch_queued: bool,
    /// Operations in the kernel; those of which `notify` does not tell.
    in_kernel: usize,
    silent: usize,
    notify: Option<RawFd>,
    /// Takes transfers of every descriptor, even if they block.
    takes_all: bool,
    system_calls: u64,
}

// SAFETY: the pointers in the queue go to its own boxed iocbs.
unsafe impl<K: Send> Send for Aio<K> {}

impl Aio<Kernel> {
    /// An AIO context. `wake` is an eventfd whose writing ends a wait.
    pub(crate) fn new(depth: u32, wake: RawFd) -> Result<Self, Refusal> {
        // The wake-up needs a place beside `depth` operations.
        let mut aio = Aio::over(Kernel::new(depth + 1)?, depth, wake);
        // That can be forbidden where making the context is not.
        aio.watch();
        let mut none = Vec::new();
        let outcome = match aio.submit(1, &mut none) {
            Submitted::All => aio.calls.wait(0, Some(Duration::ZERO), &mut aio.events),
            Submitted::Again(errno) | Submitted::Broken(errno) => Err(errno),
        };
        match outcome {
            // A signal says nothing about the driver.
            Ok(()) | Err(libc::EINTR) => Ok(aio),
            // An older kernel does not know the poll.
            Err(libc::EINVAL) => Err(refusal(libc::ENOSYS, depth)),
            Err(errno) => Err(refusal(errno, depth)),
        }
    }

    /// One that tries every file, for a probe.
    pub(crate) fn for_probe(depth: u32, wake: RawFd) -> Result<Self, Refusal> {
        let mut aio = Self::new(depth, wake)?;
        aio.takes_all = true;
        Ok(aio)
    }
}

/// What became of a batch.
enum Submitted {
    All,
    Again(i32),
    Broken(i32),
}

impl<K: Calls> Aio<K> {
    pub(crate) fn over(calls: K, depth: u32, wake: RawFd) -> Self {
        let poll = Iocb { at: libc::POLLIN as u64, ..Iocb::new(WAKE, Command::Poll, wake) };
        let room = depth as usize + 1;
        Aio {
            calls,
            iocbs: (0..room).map(|_| UnsafeCell::new(poll)).collect(),
            queue: Vec::with_capacity(room),
            events: Vec::with_capacity(room),
            known: Known::default(),
            wake,
            watching: false,
            watch_queued: false,
            in_kernel: 0,
            silent: 0,
            notify: None,
            takes_all: false,
            system_calls: 0,
        }
    }

    /// Queues the poll on the wake-up descriptor, before everything else. One that is readable
    /// already, because somebody was quicker, ends the wait at once.
    fn watch(&mut self) {
        if !self.watching {
            let last = self.iocbs.len() - 1;
            self.queue.insert(0, self.iocbs[last].get());
            self.watching = true;
            self.watch_queued = true;
        }
    }

    /// Submits the first `count` of the queue. io_submit(2) stops at the first that it cannot take:
    /// at the head of a batch that is an errno, which is this operation's answer and no other's.
    fn submit(&mut self, count: usize, done: &mut Vec<Done>) -> Submitted {
        let mut through = 0;
        let mut outcome = Submitted::All;
        while through < count {
            self.system_calls += 1;
            match self.calls.submit(&self.queue[through..count]) {
                Ok(0) | Err(libc::EAGAIN) => {
                    outcome = Submitted::Again(libc::EAGAIN);
                    break;
                }
                Ok(taken) => {
                    through += taken;
                    self.in_kernel += taken;
                }
                // A security module's word on one file, or a filter's on the system call: that
                // forbids to submit nothing as well.
                Err(errno) if forbidden(errno) && self.calls.submit(&[]).is_err() => {
                    outcome = Submitted::Broken(errno);
                    break;
                }
                Err(errno) => {
                    // SAFETY: a pointer to one of its own iocbs.
                    let data = unsafe { (*self.queue[through]).data };
                    through += 1;
                    if data == WAKE {
                        self.watch_queued = false;
                        outcome = Submitted::Broken(errno);
                        break;
                    }
                    done.push(Done { slot: data as u32, result: -i64::from(errno) });
                }
            }
        }
        if through > 0 && std::mem::take(&mut self.watch_queued) {
            // The poll is no operation.
            self.in_kernel -= 1;
        }
        self.queue.drain(..through);
        outcome
    }

    /// Takes all completions; true where the wake-up is among them.
    fn collect(&mut self, done: &mut Vec<Done>) -> bool {
        self.calls.reap(&mut self.events);
        let mut woken = false;
        for event in self.events.drain(..) {
            if event.data == WAKE {
                woken = true;
                continue;
            }
            let slot = event.data as u32;
            if self.silent > 0 {
                // SAFETY: its own iocb; the kernel read it when it was submitted.
                let told = unsafe { (*self.iocbs[slot as usize].get()).flags & FLAG_RESFD != 0 };
                self.silent -= usize::from(!told);
            }
            self.in_kernel -= 1;
            done.push(Done { slot, result: event.result });
        }
        if woken {
            self.watching = false;
            // The reactor is awake and will look at its lanes, so nothing is missed.
            clear_eventfd(self.wake);
        }
        woken
    }
}

impl<K: Calls> Interface for Aio<K> {
    fn prep(&mut self, slot: u32, op: &Op) -> Prep {
        let command = match (op.action, op.memory) {
            (IOAction::Fsync, _) => Command::Fsync,
            (IOAction::Fdatasync, _) => Command::Fdatasync,
            (
                IOAction::Fallocate(_)
                | IOAction::SyncRange(_)
                | IOAction::Truncate
                | IOAction::Advise(_),
                _,
            ) => return Prep::Unsupported,
            (IOAction::Read, Memory::Segments(..)) => Command::ReadVectored,
            (IOAction::Write, Memory::Segments(..)) => Command::WriteVectored,
            (IOAction::Read, _) => Command::Read,
            (IOAction::Write, _) => Command::Write,
        };
        if op.flags & flags::HIPRI != 0 {
            // The kernel would take it, and leave that out.
            return Prep::Unsupported;
        }
        if op.action.is_transfer() && !self.takes_all {
            let Aio { calls, system_calls, .. } = self;
            let ask = || {
                *system_calls += 1;
                calls.is_direct(op.fd)
            };
            if !self.known.is_direct(op.fd, ask) {
                return Prep::Unsupported;
            }
        }
        let (at, len) = match op.memory {
            Memory::None => (0, 0),
            Memory::Plain(at) => (at as u64, op.len),
            Memory::Segments(at, count) => (at as u64, count.into()),
        };
        let (mut flags, resfd) = self.notify.map_or((0, 0), |fd| (FLAG_RESFD, fd as u32));
        if op.priority != 0 {
            flags |= FLAG_PRIORITY;
        }
        let (rw_flags, priority) = (op.flags, op.priority as i16);
        let offset = if op.action.is_transfer() { op.offset as i64 } else { 0 };
        let iocb = Iocb {
            at,
            len,
            offset,
            flags,
            resfd,
            rw_flags,
            priority,
            ..Iocb::new(slot.into(), command, op.fd)
        };
        let place = self.iocbs[slot as usize].get();
        // SAFETY: the slot's own iocb, which is not in the queue while the slot is free.
        unsafe { place.write(iocb) };
        self.queue.push(place);
        Prep::Queued
    }

    fn queued(&self) -> usize {
        self.queue.len() - usize::from(self.watch_queued)
    }

    fn enter(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        let before = done.len();
        self.known.forget();
        if wait != Wait::No {
            self.watch();
        }
        let count = if submit { self.queue.len() } else { usize::from(self.watch_queued) };
        let submitted = self.submit(count, done);
        if let Submitted::Broken(errno) = submitted {
            return self.end(errno, done);
        }
        let mut woken = self.collect(done);
        if let Submitted::Again(errno) = submitted {
            return Entered::Refused(errno);
        }
        let Wait::For(min, time) = wait else { return Entered::Fine };
        let missing = (min as usize).saturating_sub(done.len() - before);
        if missing == 0 || woken {
            return Entered::Fine;
        }
        self.system_calls += 1;
        match self.calls.wait(missing, time, &mut self.events) {
            Ok(()) | Err(libc::EINTR) => {}
            Err(errno) => return self.end(errno, done),
        }
        woken = self.collect(done);
        match woken || done.len() - before >= min as usize {
            true => Entered::Fine,
            false => Entered::Interrupted,
        }
    }

    fn has_news(&mut self) -> bool {
        self.calls.has_completions()
    }

    fn notify(&mut self, fd: RawFd) -> io::Result<()> {
        self.notify = Some(fd);
        for iocb in &self.queue {
            // SAFETY: its own iocbs, which the kernel has not seen yet.
            unsafe {
                if (**iocb).data != WAKE {
                    (**iocb).flags |= FLAG_RESFD;
                    (**iocb).resfd = fd as u32;
                }
            }
        }
        self.silent = self.in_kernel;
        Ok(())
    }

    fn is_silent(&self) -> bool {
        self.silent > 0
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    fn end(&mut self, errno: i32, done: &mut Vec<Done>) -> Entered {
        while self.in_kernel > 0 {
            if self.calls.wait(1, None, &mut self.events).is_err() {
                std::thread::sleep(PAUSE);
            }
            self.collect(done);
        }
        for iocb in self.queue.drain(..) {
            // SAFETY: a pointer to one of its own iocbs.
            let data = unsafe { (*iocb).data };
            if data != WAKE {
                done.push(Done { slot: data as u32, result: NOT_TAKEN });
            }
        }
        clear_eventfd(self.wake);
        Entered::Broken(errno)
    }
}

/// Puts an errno of the set-up into a sentence that says what to do.
fn refusal(errno: i32, depth: u32) -> Refusal {
    let limit = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/{name}"));
        text.map_or("unknown".into(), |text| text.trim().to_string())
    };
    let what = match errno {
        libc::EAGAIN => format!(
            "no room for another context: raise sysctl fs.aio-max-nr (now {}, of which {} are used)",
            limit("aio-max-nr"),
            limit("aio-nr")
        ),
        libc::ENOMEM => "no memory for the context: lower depth".into(),
        libc::ENOSYS => {
            "the kernel has no AIO with poll (Linux 4.19, CONFIG_AIO), or seccomp hides it".into()
        }
        errno if forbidden(errno) => {
            "io_setup(2) or its companions are forbidden here: allow them in the container's \
             seccomp profile"
                .into()
        }
        _ => "the context could not be set up".to_string(),
    };
    Refusal::new(Driver::Aio, errno, &what, depth)
}
