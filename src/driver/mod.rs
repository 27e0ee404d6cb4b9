//! Kernel interfaces behind one trait. A driver translates and decides nothing: what short I/O,
//! retry and shutdown mean is the reactor's.

pub(crate) mod aio;
pub(crate) mod backed;
pub(crate) mod choice;
pub(crate) mod direct;
pub(crate) mod pool;
#[cfg(any(test, fuzzing))]
pub(crate) mod sim;
pub(crate) mod uring;

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

use crate::log::{log, Level};
use crate::tasks::Op;

/// Which kernel interface a context uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(i32)]
pub enum Driver {
    /// The first that works here.
    #[default]
    Auto = 0,
    /// io_uring(7).
    Uring = 1,
    /// Linux AIO: io_submit(2).
    Aio = 2,
    /// A pool of threads that make plain system calls.
    Pool = 3,
}

impl Driver {
    const ALL: [Driver; 4] = [Driver::Auto, Driver::Uring, Driver::Aio, Driver::Pool];

    /// The driver of a number; `None` for every number that stands for none.
    pub fn from_number(number: i32) -> Option<Driver> {
        Self::ALL.into_iter().find(|driver| *driver as i32 == number)
    }

    /// The driver of a name as [`Driver::name`] gives it.
    pub fn from_name(name: &str) -> Option<Driver> {
        Self::ALL.into_iter().find(|driver| driver.name() == name)
    }

    /// The name, as the environment variable `IOE_DRIVER` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Auto => "auto",
            Driver::Uring => "uring",
            Driver::Aio => "aio",
            Driver::Pool => "pool",
        }
    }
}

/// One operation that the kernel is done with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub slot: u32,
    /// Bytes or a negated errno, as the system call would return them, or [`NOT_TAKEN`].
    pub result: i64,
}

/// The result of an operation that an interface had queued when it broke: it never began.
pub(crate) const NOT_TAKEN: i64 = i64::MIN;

/// What became of an operation handed to [`Interface::prep`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Prep {
    Queued,
    /// No room before the next [`Interface::enter`].
    Full,
    /// The interface lacks this action, or would block on it.
    Unsupported,
}

/// How long to stay in [`Interface::enter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    No,
    /// Until so many operations completed, or the wake-up descriptor was written, or the time is
    /// up (`None`: never), or a signal came.
    For(u32, Option<Duration>),
}

/// How [`Interface::enter`] ended. Whatever it was, `done` holds all that had completed by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entered {
    Fine,
    /// A signal or the end of the time.
    Interrupted,
    /// The kernel took nothing for now, with this errno: reap, then try again.
    Refused(i32),
    /// The kernel refuses for good, with this errno. It is done with everything it held, and all of
    /// that is in `done`: what was queued is [`NOT_TAKEN`]; what it took and cannot tell about any
    /// more has this errno. Nothing may be called any more.
    Broken(i32),
}

/// One kernel interface, owned by one thread. What belongs to an operation (memory, descriptor)
/// stays valid from `prep` until its `Done`.
pub(crate) trait Interface: Send {
    /// Called once, on the thread that will make all later calls.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn prep(&mut self, slot: u32, op: &Op) -> Prep;
    /// Operations that wait for an `enter` to be taken by the kernel.
    fn queued(&self) -> usize;
    /// Hands over what is queued, unless `submit` is false, waits, and collects: in one system
    /// call where one is needed at all.
    fn enter(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered;
    /// Whether `enter` would collect something now.
    fn has_news(&mut self) -> bool;
    /// Has this eventfd(2) written at every completion.
    fn notify(&mut self, fd: RawFd) -> io::Result<()>;
    /// Whether completions appear only while somebody looks for them.
    fn must_poll(&self) -> bool {
        false
    }
    /// Whether something may complete of which the descriptor of `notify` does not tell.
    fn is_silent(&self) -> bool {
        self.must_poll()
    }
    /// Asks for an operation back. Advisory: it is done when its [`Done`] says so, with ECANCELED or
    /// EINTR, or as if nobody had asked. False where this interface does not have it, or cannot.
    fn cancel(&mut self, _slot: u32) -> bool {
        false
    }
    fn system_calls(&self) -> u64;
    /// Gives the interface up, for this errno, as if it had refused for good:
    /// [`Entered::Broken`].
    fn end(&mut self, errno: i32, _done: &mut Vec<Done>) -> Entered {
        Entered::Broken(errno)
    }
    /// How a descriptor was opened: O_ flags of open(2), negative where it is none.
    fn status_flags(&self, fd: RawFd) -> i32 {
        direct::status_flags(fd)
    }
    /// What direct I/O on the descriptor has to be aligned to, where that is known.
    fn direct_boundary(&self, fd: RawFd) -> Option<u64> {
        direct::direct_boundary(fd)
    }
    /// What a forked child has to close.
    fn descriptors(&self) -> Descriptors {
        Descriptors::default()
    }
}

/// Numbers of open descriptors. A forked child may look at any moment.
#[derive(Clone)]
pub(crate) struct Descriptors(Arc<[AtomicI32; 2]>);

impl Default for Descriptors {
    fn default() -> Self {
        Descriptors::new([-1, -1])
    }
}

impl Descriptors {
    fn new(fds: [RawFd; 2]) -> Self {
        Descriptors(Arc::new(fds.map(AtomicI32::new)))
    }

    /// Before they are closed, and their numbers somebody else's.
    fn forget(&self) {
        self.0.iter().for_each(|fd| fd.store(-1, SeqCst));
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.0.iter().map(|fd| fd.load(SeqCst)).filter(|fd| *fd >= 0)
    }
}

/// Why a driver cannot be used, for a person who can change that.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub errno: i32,
    pub advice: String,
}

impl Refusal {
    pub(crate) fn new(driver: Driver, errno: i32, what: &str, depth: u32) -> Self {
        let error = io::Error::from_raw_os_error(errno);
        Refusal { errno, advice: format!("{}: {what} ({error}, depth {depth})", driver.name()) }
    }

    /// For `map_err`, where it has nothing to do with which driver it is.
    pub(crate) fn because(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Refusal {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            advice: format!("{what} ({error})"),
        }
    }
}

/// Whether a system call answers so where a filter or a switch keeps it from the process.
pub(crate) fn forbidden(errno: i32) -> bool {
    matches!(errno, libc::EPERM | libc::ENOSYS | libc::EACCES)
}

/// A time as the kernel takes it.
fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        log(Level::Error, || refusal.advice.clone());
        io::Error::from_raw_os_error(refusal.errno)
    }
}
