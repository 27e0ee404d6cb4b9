//! io_uring(7): a ring that one thread owns.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::{opcode, squeue, types, IoUring, Probe};
use once_cell::race::OnceBox;

use super::direct::is_direct;
use super::{
    forbidden, Descriptors, Done, Driver, Entered, Interface, Prep, Refusal, Wait, NOT_TAKEN,
};
use crate::log::{log, Level};
use crate::tasks::{flags, IOAction, Memory, Op};
use crate::wake::clear_eventfd;

/// How long an SQPOLL kernel thread spins before it sleeps.
const SQPOLL_IDLE_MS: u32 = 100;

/// The most io-wq threads for regular files, and for everything else (IORING_REGISTER_IOWQ_MAX_WORKERS,
/// Linux 5.15). Without a bound the kernel allows 4 per CPU and depth for the first, and
/// RLIMIT_NPROC for the second.
const IO_WORKERS: [u32; 2] = [16, 4];

/// How long to wait before asking again whether a closed ring is gone.
const PAUSE: Duration = Duration::from_millis(1);

/// The user data of the poll on the wake-up descriptor; an operation's is the number of its slot.
const WAKE: u64 = u64::MAX;
/// That of a request to cancel.
const CANCEL: u64 = u64::MAX - 1;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const ENTER_EXT_ARG: u32 = 8;

/// What a context asks of its ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub depth: u32,
    pub sqpoll: bool,
    pub iopoll: bool,
    /// An eventfd whose writing ends a wait; an IOPOLL ring cannot watch it.
    pub wake: RawFd,
}

pub(crate) struct Uring {
    /// Unmapped and closed by `drop`, but not in a forked child, where the mapping is gone.
    ring: ManuallyDrop<IoUring>,
    /// The reading end of a pipe whose writing end only the ring holds: it ends when the ring is
    /// gone, and with it all that it had in the kernel.
    witness: ManuallyDrop<OwnedFd>,
    descriptors: Descriptors,
    generation: crate::fork::Generation,
    options: Options,
    actions: Actions,
    /// For each slot, the number of its operation among all entries that were put into the submission
    /// queue; 0 for none.
    held: Vec<u64>,
    /// Whether the poll on the wake-up descriptor has to be set (again).
    rearm: bool,
    /// Entries put into the submission queue, and which of them are no operations.
    pushed: u64,
    own: VecDeque<u64>,
    /// Slots to be asked for back when the submission queue has room.
    unasked: Vec<u32>,
    /// The kernel knows the multishot poll (Linux 5.13).
    multishot: bool,
    system_calls: u64,
}

/// Which operations the kernel's ring knows (IORING_REGISTER_PROBE), asked once per process.
#[derive(Clone, Copy)]
struct Actions {
    transfer: bool,
    fsync: bool,
    fallocate: bool,
    sync_range: bool,
    truncate: bool,
    advise: bool,
}

impl Uring {
    /// A ring, disabled until its thread calls `start`.
    pub(crate) fn new(options: Options) -> Result<Self, Refusal> {
        let ring = build(options).map_err(|error| refusal(&error, options))?;
        if !ring.params().is_feature_ext_arg() {
            let advice =
                "the kernel's io_uring cannot wait with a time limit: use Linux 5.11 or later";
            return Err(Refusal { errno: libc::ENOSYS, advice: advice.into() });
        }
        // A ring that can be made may still be forbidden to enter; a disabled one says EBADFD.
        // SAFETY: nothing is submitted, and no argument is given.
        match unsafe { ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) } {
            Err(error) if error.raw_os_error().is_some_and(forbidden) => {
                return Err(refusal(&error, options));
            }
            _ => {}
        }
        // Nobody waits for another's answer: a child forked meanwhile would wait for ever.
        static ACTIONS: OnceBox<Actions> = OnceBox::new();
        let actions = ACTIONS.get_or_try_init(|| Actions::ask(&ring).map(Box::new));
        let actions = *actions.map_err(|error| refusal(&error, options))?;
        let witness = witness(&ring).map_err(|error| refusal(&error, options))?;
        let descriptors = Descriptors::new([ring.as_raw_fd(), witness.as_raw_fd()]);
        Ok(Uring {
            ring: ManuallyDrop::new(ring),
            witness: ManuallyDrop::new(witness),
            descriptors,
            generation: crate::fork::generation(),
            options,
            actions,
            held: vec![0; options.depth as usize],
            rearm: !options.iopoll,
            pushed: 0,
            own: VecDeque::new(),
            unasked: Vec::new(),
            multishot: true,
            system_calls: 0,
        })
    }

    /// Whether the ring carries this transfer. One with IOPOLL carries nothing but direct ones
    /// (io_uring_setup(2)).
    #[inline(always)]
    fn may_transfer(&self, op: &Op) -> bool {
        self.actions.transfer
            && match self.options.iopoll {
                true => is_direct(op.fd),
                false => op.flags & flags::HIPRI == 0,
            }
    }

    /// The entry of what is no transfer from or to memory in one piece; `None` where the ring does not
    /// carry it.
    #[inline(never)]
    fn other_entry(&self, op: &Op) -> Option<squeue::Entry> {
        let fd = types::Fd(op.fd);
        let (flags, priority) = (op.flags as i32, op.priority);
        let Actions { fsync, fallocate, sync_range, truncate, advise, .. } = self.actions;
        let sync = fsync && !self.options.iopoll;
        // An entry has 32 bits for the length of a range that is synced, or advised about.
        let fits = !self.options.iopoll && u32::try_from(op.len).is_ok();
        let entry = match (op.action, op.memory) {
            (IOAction::Read, Memory::Segments(at, count)) if self.may_transfer(op) => {
                opcode::Readv::new(fd, at, count)
                    .offset(op.offset)
                    .rw_flags(flags)
                    .ioprio(priority)
                    .build()
            }
            (IOAction::Write, Memory::Segments(at, count)) if self.may_transfer(op) => {
                opcode::Writev::new(fd, at, count)
                    .offset(op.offset)
                    .rw_flags(flags)
                    .ioprio(priority)
                    .build()
            }
            (IOAction::Fsync, _) if sync => opcode::Fsync::new(fd).build(),
            (IOAction::Fdatasync, _) if sync => {
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
            }
            (IOAction::Fallocate(mode), _) if fallocate && !self.options.iopoll => {
                opcode::Fallocate::new(fd, op.len).offset(op.offset).mode(mode).build()
            }
            (IOAction::SyncRange(how), _) if sync_range && fits => {
                opcode::SyncFileRange::new(fd, op.len as u32).offset(op.offset).flags(how).build()
            }
            (IOAction::Truncate, _) if truncate && !self.options.iopoll => {
                opcode::Ftruncate::new(fd, op.len).build()
            }
            (IOAction::Advise(advice), _) if advise && fits => {
                opcode::Fadvise::new(fd, op.len as i64, advice).offset(op.offset).build()
            }
            _ => return None,
        };
        Some(entry)
    }

    #[inline(always)]
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the reactor keeps memory and descriptor of every operation valid until it is
        // done; the poll entry refers to no memory.
        let pushed = unsafe { self.ring.submission().push(entry).is_ok() };
        self.pushed += u64::from(pushed);
        pushed
    }

    /// As `push`, for what is no operation.
    fn push_own(&mut self, entry: &squeue::Entry) -> bool {
        let pushed = self.push(entry);
        if pushed {
            let taken = self.taken();
            while self.own.front().is_some_and(|own| *own <= taken) {
                self.own.pop_front();
            }
            self.own.push_back(self.pushed);
        }
        pushed
    }

    /// Sets the multishot poll on the wake-up descriptor. One that is readable already, because
    /// somebody was quicker, ends the wait at once.
    fn watch_wake(&mut self) {
        if !self.rearm {
            return;
        }
        let fd = types::Fd(self.options.wake);
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(self.multishot);
        self.rearm = !self.push_own(&poll.build().user_data(WAKE));
    }

    /// Takes all completions. How many entries there were.
    fn collect(&mut self, done: &mut Vec<Done>) -> u32 {
        let mut poll_ended = false;
        let mut count = 0;
        for entry in self.ring.completion() {
            count += 1;
            let user_data = entry.user_data();
            if let Some(order) = self.held.get_mut(user_data as usize) {
                *order = 0;
                let slot = user_data as u32;
                if !self.unasked.is_empty() {
                    // The slot's next operation is somebody else's.
                    self.unasked.retain(|unasked| *unasked != slot);
                }
                done.push(Done { slot, result: entry.result().into() });
            } else if user_data == WAKE {
                self.multishot &= entry.result() != -libc::EINVAL;
                poll_ended |= !io_uring::cqueue::more(entry.flags());
            }
        }
        if poll_ended {
            self.rearm = true;
            // The reactor is awake and will look at its lanes, so nothing is missed. Later, a
            // write that announces a new event could be cleared away with the old ones.
            clear_eventfd(self.options.wake);
        }
        count
    }

    /// How many entries the kernel has taken: it takes them in order.
    fn taken(&self) -> u64 {
        // SAFETY: the ring has one owner, who is here; nobody else holds its submission queue.
        self.pushed - unsafe { self.ring.submission_shared().len() } as u64
    }

    /// Operations in the submission queue that the kernel has not taken.
    fn untaken(&self) -> usize {
        let taken = self.taken();
        let own = self.own.iter().rev().take_while(|own| **own > taken).count();
        (self.pushed - taken) as usize - own
    }
}

impl Actions {
    fn ask(ring: &IoUring) -> io::Result<Self> {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let knows = |code| probe.is_supported(code);
        Ok(Actions {
            transfer: [
                opcode::Read::CODE,
                opcode::Write::CODE,
                opcode::Readv::CODE,
                opcode::Writev::CODE,
            ]
            .into_iter()
            .all(knows),
            fsync: knows(opcode::Fsync::CODE),
            fallocate: knows(opcode::Fallocate::CODE),
            sync_range: knows(opcode::SyncFileRange::CODE),
            truncate: knows(opcode::Ftruncate::CODE),
            advise: knows(opcode::Fadvise::CODE),
        })
    }
}

/// Gives a ring the writing end of a pipe to hold, and returns the other.
fn witness(ring: &IoUring) -> io::Result<OwnedFd> {
    let mut ends = [-1; 2];
    // SAFETY: room for both descriptors, which are fresh and nobody else's.
    let [reading, writing] = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        ends.map(|end| OwnedFd::from_raw_fd(end))
    };
    ring.submitter().register_files(&[writing.as_raw_fd()])?;
    Ok(reading)
}

impl Interface for Uring {
    fn start(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        // Older kernels lack it and go on with their own bound.
        let _ = self.ring.submitter().register_iowq_max_workers(&mut IO_WORKERS.clone());
        Ok(())
    }

    #[inline(always)]
    fn prep(&mut self, slot: u32, op: &Op) -> Prep {
        let queued = match (op.action, op.memory) {
            (IOAction::Read, Memory::Plain(at)) if self.may_transfer(op) => {
                let read = opcode::Read::new(types::Fd(op.fd), at, op.len as u32)
                    .offset(op.offset)
                    .rw_flags(op.flags as i32)
                    .ioprio(op.priority);
                self.push(&read.build().user_data(slot.into()))
            }
            (IOAction::Write, Memory::Plain(at)) if self.may_transfer(op) => {
                let write = opcode::Write::new(types::Fd(op.fd), at, op.len as u32)
                    .offset(op.offset)
                    .rw_flags(op.flags as i32)
                    .ioprio(op.priority);
                self.push(&write.build().user_data(slot.into()))
            }
            // A copy, so that the others need not lie in memory.
            _ => match self.other_entry(&{ *op }) {
                Some(entry) => self.push(&entry.user_data(slot.into())),
                None => return Prep::Unsupported,
            },
        };
        if !queued {
            return Prep::Full;
        }
        self.held[slot as usize] = self.pushed;
        Prep::Queued
    }

    fn queued(&self) -> usize {
        if self.options.sqpoll {
            // The kernel's thread takes them without a call.
            return 0;
        }
        self.untaken()
    }

    fn enter(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        self.watch_wake();
        for slot in std::mem::take(&mut self.unasked) {
            // What finds no room again waits for the next time.
            self.cancel(slot);
        }
        // Where the queue was too full for the poll, nobody could end a sleep; nor one for operations
        // that are to be asked back.
        let unsaid = self.rearm || !self.unasked.is_empty();
        let wait = if unsaid && submit { Wait::No } else { wait };
        let sqpoll = self.options.sqpoll;
        let queue = self.ring.submission();
        let to_submit = if submit { queue.len() } else { 0 };
        let wakeup = sqpoll && to_submit > 0 && queue.need_wakeup();
        let must_look = queue.taskrun() || queue.cq_overflow() || self.options.iopoll;
        drop(queue);
        let (min, timeout) = match wait {
            Wait::For(min, timeout) => {
                // The kernel counts what is there already.
                let there = self.ring.completion().len() as u32;
                (if there < min { min } else { 0 }, timeout)
            }
            Wait::No => (0, None),
        };
        if !(wakeup || must_look || min > 0 || to_submit > 0 && !sqpoll) {
            self.collect(done);
            return Entered::Fine;
        }
        let mut flags = ENTER_GETEVENTS;
        if wakeup {
            flags |= ENTER_SQ_WAKEUP;
        }
        let time = types::Timespec::from(timeout.unwrap_or(Duration::ZERO));
        let mut args = types::SubmitArgs::new();
        if timeout.is_some() && min > 0 {
            flags |= ENTER_EXT_ARG;
            args = args.timespec(&time);
        }
        self.system_calls += 1;
        let submitter = self.ring.submitter();
        // SAFETY: the flags say whether `args` is given, and it lives for the call.
        let entered = unsafe {
            match flags & ENTER_EXT_ARG {
                0 => submitter.enter::<libc::sigset_t>(to_submit as u32, min, flags, None),
                _ => submitter.enter(to_submit as u32, min, flags, Some(&args)),
            }
        };
        let collected = self.collect(done);
        match entered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
            // A call that also submitted does not say that a signal or the time ended its wait.
            Ok(taken) if taken == to_submit && collected < min => Entered::Interrupted,
            Ok(_) => Entered::Fine,
            Err(libc::EINTR | libc::ETIME) => Entered::Interrupted,
            // No memory at the moment, or completions to be taken first (io_uring_enter(2)).
            Err(errno @ (libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) => Entered::Refused(errno),
            Err(errno) => self.end(errno, done),
        }
    }

    fn has_news(&mut self) -> bool {
        let queue = self.ring.submission();
        let pending = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        pending || !self.ring.completion().is_empty()
    }

    fn notify(&mut self, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(fd)
    }

    fn must_poll(&self) -> bool {
        self.options.iopoll
    }

    fn cancel(&mut self, slot: u32) -> bool {
        let held = self.held[slot as usize] > 0;
        // An IOPOLL ring carries nothing but transfers, which no device gives back.
        if !held || self.options.iopoll {
            return false;
        }
        let entry = opcode::AsyncCancel::new(slot.into()).build();
        if !self.push_own(&entry.user_data(CANCEL)) {
            self.unasked.push(slot);
        }
        true
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    /// Completes what the ring held. Some completions appear only inside the ring's own system call,
    /// so they are never seen; the kernel finishes all that it has when the ring is closed, and the
    /// witness tells when. A forked child that still holds the ring delays that.
    fn end(&mut self, errno: i32, done: &mut Vec<Done>) -> Entered {
        let taken = match self.options.sqpoll {
            // The kernel's thread goes on taking them until the ring is closed.
            true => self.pushed,
            false => self.taken(),
        };
        let busy = self.held.iter().any(|order| (1..=taken).contains(order));
        self.descriptors.forget();
        // SAFETY: not used again; `drop` knows by the empty list of what is held.
        unsafe { ManuallyDrop::drop(&mut self.ring) }
        let (fd, mut byte) = (self.witness.as_raw_fd(), 0u8);
        // SAFETY: room for the byte, which nobody writes: it ends with the other end.
        while busy && unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } != 0 {
            // A signal, or a filter that forbids even this.
            std::thread::sleep(PAUSE);
        }
        for (slot, order) in std::mem::take(&mut self.held).into_iter().enumerate() {
            let result = match order {
                0 => continue,
                order if order > taken => NOT_TAKEN,
                _ => -i64::from(errno),
            };
            done.push(Done { slot: slot as u32, result });
        }
        clear_eventfd(self.options.wake);
        Entered::Broken(errno)
    }

    fn descriptors(&self) -> Descriptors {
        self.descriptors.clone()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.generation != crate::fork::generation() {
            // In a forked child the mapping's addresses may already be somebody else's, so there
            // the ring is left alone; its descriptors are closed by the context.
            return;
        }
        // SAFETY: the last use; one that ended has dropped its ring.
        unsafe {
            if !self.held.is_empty() {
                ManuallyDrop::drop(&mut self.ring);
            }
            ManuallyDrop::drop(&mut self.witness);
        }
    }
}

/// Sets up a ring with all that the kernel has for a single owner, dropping one flag after the
/// other where an older kernel answers EINVAL. What the caller asked for is never dropped.
fn build(options: Options) -> io::Result<IoUring> {
    /// From the newest flag (Linux 6.1) to the oldest (5.19).
    const TUNING: [&str; 3] = ["DEFER_TASKRUN", "SINGLE_ISSUER", "COOP_TASKRUN"];
    // Neither makes sense with a kernel thread that submits (io_uring_setup(2)).
    let first = if options.sqpoll { 1 } else { 0 };
    let mut error = io::Error::from_raw_os_error(libc::EINVAL);
    for dropped in first..=TUNING.len() {
        let kept = |flag: &str| {
            let at = TUNING.iter().position(|name| *name == flag);
            at.is_some_and(|at| at >= dropped)
        };
        let mut builder = IoUring::builder();
        builder.dontfork().setup_r_disabled().setup_clamp();
        // The wake-up poll needs a place beside `depth` operations.
        builder.setup_cqsize((options.depth + 1).next_power_of_two().max(2));
        if options.sqpoll {
            builder.setup_sqpoll(SQPOLL_IDLE_MS);
        } else if kept("DEFER_TASKRUN") {
            builder.setup_defer_taskrun();
        }
        if kept("SINGLE_ISSUER") {
            builder.setup_single_issuer();
        }
        if kept("COOP_TASKRUN") && !options.sqpoll {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        if options.iopoll {
            builder.setup_iopoll();
        }
        match builder.build(options.depth) {
            Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => error = refused,
            outcome => {
                if outcome.is_ok() && dropped > first {
                    log(Level::Debug, || format!("uring: set up without {:?}", &TUNING[..dropped]));
                }
                return outcome;
            }
        }
    }
    Err(error)
}

/// Puts an errno of the set-up into a sentence that says what to do.
fn refusal(error: &io::Error, options: Options) -> Refusal {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let memlock;
    let what = match errno {
        libc::EPERM | libc::EACCES => match switch().trim() {
            "1" => {
                "io_uring is for a group and for CAP_SYS_ADMIN only: join the group of sysctl \
                 kernel.io_uring_group, or set sysctl kernel.io_uring_disabled to 0"
            }
            "2" => "io_uring is switched off: set sysctl kernel.io_uring_disabled to 0",
            _ => {
                "io_uring is forbidden here: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile"
            }
        },
        libc::ENOSYS => {
            "the kernel has no io_uring, or seccomp hides it: allow it, or use Linux 5.11 or later"
        }
        libc::ENOMEM => {
            memlock = memory_advice();
            &memlock
        }
        libc::EMFILE => "no descriptor for the ring: raise RLIMIT_NOFILE (ulimit -n)",
        libc::ENFILE => "no file for the ring: raise sysctl fs.file-max",
        libc::EOPNOTSUPP | libc::EINVAL if options.iopoll => {
            "this kernel has no IOPOLL ring of this kind: leave out IOE_IOPOLL"
        }
        libc::EINVAL if options.sqpoll => {
            "this kernel has no SQPOLL ring of this kind: leave out IOE_SQPOLL"
        }
        _ => "the ring could not be set up",
    };
    Refusal::new(Driver::Uring, errno, what, options.depth)
}

/// The value of sysctl kernel.io_uring_disabled (Linux 6.6).
fn switch() -> String {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default()
}

fn memory_advice() -> String {
    // SAFETY: plain data, filled by the call.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        (libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) == 0).then_some(limit.rlim_cur)
    };
    let now = match limit {
        Some(libc::RLIM_INFINITY) | None => "unlimited".into(),
        Some(bytes) => format!("{} KiB", bytes / 1024),
    };
    format!("no memory for the ring: raise RLIMIT_MEMLOCK (ulimit -l, now {now}), or lower depth")
}
