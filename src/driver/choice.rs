//! Which driver a context gets: the one that was named, or the first that works, at the depth that
//! was asked for or as near to it as the machine's limits allow.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use once_cell::race::OnceBox;

use super::aio::{Aio, Kernel};
use super::direct::FileSizeSignal;
use super::pool::Pool;
use super::uring::{Options, Uring};
use super::{Driver, Entered, Interface, Prep, Refusal, Wait};
use crate::log::{log, Level};
use crate::tasks::{IOAction, Memory, Op};
use crate::wake::WakeUp;

/// A ring or an AIO context that does not fit the machine's limits is tried with half the depth, and
/// half of that, down to here. Below, another driver serves better.
pub const MIN_DEPTH: u32 = 16;

const PROBE_DEPTH: u32 = 2;

/// How often a probe offers an operation again, after a pause, to a kernel that took nothing for now.
const MAX_REFUSALS: u32 = 100;
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// The order in which AUTO tries.
const ORDER: [Driver; 3] = [Driver::Uring, Driver::Aio, Driver::Pool];

/// What a context asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub driver: Driver,
    pub depth: u32,
    /// How far the depth may be lowered.
    pub least: u32,
    pub sqpoll: bool,
    pub iopoll: bool,
}

/// What it gets.
pub(crate) struct Choice {
    pub kernel: Chosen,
    pub depth: u32,
    pub passed: Passed,
}

#[allow(clippy::large_enum_variant)] // moved once in its life
pub(crate) enum Chosen {
    Uring(Uring),
    Aio(Aio<Kernel>),
    /// The pool alone.
    Pool,
    /// What stands for this driver in a simulation, and its number there.
    #[cfg(any(test, fuzzing))]
    Simulated(Driver, usize),
}

/// Why it is not what was asked for.
#[derive(Default, Debug)]
pub(crate) struct Passed {
    pub uring_errno: i32,
    pub aio_errno: i32,
    pub reason: String,
}

impl Passed {
    fn note(&mut self, driver: Driver, refusal: &Refusal) {
        match driver {
            Driver::Uring => self.uring_errno = refusal.errno,
            Driver::Aio => self.aio_errno = refusal.errno,
            Driver::Auto | Driver::Pool => {}
        }
        self.say(&refusal.advice);
    }

    pub(crate) fn say(&mut self, what: &str) {
        log(Level::Warn, || what.into());
        if !self.reason.is_empty() {
            self.reason.push_str("; ");
        }
        self.reason.push_str(what);
    }
}

/// Whether the next attempt may end otherwise: a limit is used up at the moment.
fn is_passing(errno: i32) -> bool {
    matches!(errno, libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EINTR)
}

/// The driver that is meant: the environment variable `IOE_DRIVER` overrides AUTO, and only AUTO.
fn named(wish: Driver) -> Result<Driver, Refusal> {
    match (wish, std::env::var_os("IOE_DRIVER")) {
        (Driver::Auto, Some(name)) if !name.is_empty() => {
            let driver = name.to_str().and_then(Driver::from_name);
            driver.ok_or_else(|| Refusal {
                errno: libc::EINVAL,
                advice: format!("IOE_DRIVER is {name:?}: use auto, uring, aio or pool"),
            })
        }
        (wish, _) => Ok(wish),
    }
}

/// Makes the driver that is named, or the first that works.
pub(crate) fn choose(wish: Wish, wake_up: &WakeUp) -> Result<Choice, Refusal> {
    let driver = named(wish.driver)?;
    if matches!(wish.driver, Driver::Aio | Driver::Pool) && (wish.sqpoll || wish.iopoll) {
        let what = "SQPOLL and IOPOLL are for rings: leave them out, or use uring or auto";
        return Err(Refusal::new(wish.driver, libc::EINVAL, what, wish.depth));
    }
    let mut passed = Passed::default();
    if driver != Driver::Auto {
        let (kernel, depth) = make(driver, wish, wake_up, &mut passed)?;
        return Ok(Choice { kernel, depth, passed });
    }
    let mut last = None;
    for driver in ORDER {
        match make(driver, wish, wake_up, &mut passed) {
            Ok((kernel, depth)) => return Ok(Choice { kernel, depth, passed }),
            Err(refusal) => {
                passed.note(driver, &refusal);
                last = Some(refusal);
            }
        }
    }
    Err(last.expect("there is an order"))
}

fn make(
    driver: Driver,
    wish: Wish,
    wake_up: &WakeUp,
    passed: &mut Passed,
) -> Result<(Chosen, u32), Refusal> {
    #[cfg(any(test, fuzzing))]
    if let Some(chosen) = super::sim::stand_in(driver, wish.depth, wish.least) {
        return chosen.map(|(number, depth)| (Chosen::Simulated(driver, number), depth));
    }
    let wake = wake_up.descriptor();
    match driver {
        // It makes the calls that every file needs: there is nothing to find out.
        Driver::Auto | Driver::Pool => Ok((Chosen::Pool, wish.depth)),
        Driver::Uring => {
            known(driver)?;
            let Wish { sqpoll, iopoll, .. } = wish;
            let ring = |depth| Uring::new(Options { depth, sqpoll, iopoll, wake });
            let (ring, depth) = fit(wish, &[libc::ENOMEM], ring, passed)?;
            Ok((Chosen::Uring(ring), depth))
        }
        Driver::Aio => {
            known(driver)?;
            let too_large = [libc::EAGAIN, libc::ENOMEM];
            let context = |depth| Aio::new(depth, wake);
            let (context, depth) = fit(wish, &too_large, context, passed)?;
            Ok((Chosen::Aio(context), depth))
        }
    }
}

/// Makes something with the largest depth that it can be made with.
fn fit<T>(
    wish: Wish,
    too_large: &[i32],
    make: impl Fn(u32) -> Result<T, Refusal>,
    passed: &mut Passed,
) -> Result<(T, u32), Refusal> {
    let mut depth = wish.depth;
    let mut first = None;
    loop {
        match make(depth) {
            Ok(made) => {
                if let Some(Refusal { advice, .. }) = first {
                    passed.say(&format!("{advice}: depth {depth} is used"));
                }
                return Ok((made, depth));
            }
            Err(refusal) if too_large.contains(&refusal.errno) && depth > wish.least => {
                first.get_or_insert(refusal);
                depth = (depth / 2).max(wish.least);
            }
            Err(refusal) => return Err(first.unwrap_or(refusal)),
        }
    }
}

/// What a probe of a driver said, found out once per process; what may be otherwise the next time is
/// not kept.
fn known(driver: Driver) -> Result<(), Refusal> {
    static KNOWN: [OnceBox<Result<(), Refusal>>; 4] = [const { OnceBox::new() }; 4];
    let known = &KNOWN[driver as usize];
    if let Some(outcome) = known.get() {
        return outcome.clone();
    }
    // Nobody waits for another's probe: a child forked meanwhile would wait for ever.
    let outcome = probe_one(driver);
    if !matches!(&outcome, Err(refusal) if is_passing(refusal.errno)) {
        let _ = known.set(Box::new(outcome.clone()));
    }
    outcome
}

/// Does real I/O through a driver: whether it works on this machine now. AUTO: whether any does.
pub(crate) fn probe(wish: Driver) -> Result<(), Refusal> {
    match named(wish)? {
        Driver::Auto => {
            let mut outcomes = ORDER.into_iter().map(probe_one);
            let first = outcomes.next().expect("there is an order");
            first.or_else(|refusal| outcomes.find(Result::is_ok).unwrap_or(Err(refusal)))
        }
        driver => probe_one(driver),
    }
}

fn probe_one(driver: Driver) -> Result<(), Refusal> {
    let failed = |error: io::Error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let what = match errno {
            libc::EMFILE | libc::ENFILE => {
                "no descriptor for a probe: raise RLIMIT_NOFILE (ulimit -n) or sysctl fs.file-max"
            }
            _ => "a probe with real I/O failed",
        };
        Refusal::new(driver, errno, what, PROBE_DEPTH)
    };
    let wake_up = Arc::new(WakeUp::new().map_err(failed)?);
    let wake = wake_up.descriptor();
    let outcome = match driver {
        Driver::Auto | Driver::Pool => try_out(Pool::new(PROBE_DEPTH, wake_up), wake),
        Driver::Aio => try_out(Aio::for_probe(PROBE_DEPTH, wake)?, wake),
        Driver::Uring => {
            let options = Options { depth: PROBE_DEPTH, sqpoll: false, iopoll: false, wake };
            try_out(Uring::new(options)?, wake)
        }
    };
    outcome.map_err(failed)
}

/// Writes, syncs and reads a file in memory. Where there can be none, that the driver answers at all
/// has to do.
fn try_out(mut interface: impl Interface, wake: RawFd) -> io::Result<()> {
    interface.start()?;
    let _signal = FileSizeSignal::hold();
    // SAFETY: the name is a C string; the descriptor is fresh, and nobody else has it.
    let memory = unsafe {
        let fd = libc::memfd_create(c"io_engine probe".as_ptr(), libc::MFD_CLOEXEC);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    };
    let Some(file) = memory else {
        return try_one(&mut interface, IOAction::Fdatasync, wake, &mut []).map(|_| ());
    };
    let mut bytes = *b"probe...";
    for action in [IOAction::Write, IOAction::Fdatasync, IOAction::Read] {
        let result = try_one(&mut interface, action, file.as_raw_fd(), &mut bytes)?;
        match -result as i32 {
            // RLIMIT_FSIZE and a full tmpfs say nothing about the driver.
            libc::EFBIG | libc::ENOSPC => return Ok(()),
            errno @ 1.. => return Err(io::Error::from_raw_os_error(errno)),
            _ => {}
        }
    }
    Ok(())
}

/// One operation and its result.
fn try_one(
    interface: &mut impl Interface,
    action: IOAction,
    fd: RawFd,
    bytes: &mut [u8],
) -> io::Result<i64> {
    let (memory, len) = match action.is_transfer() {
        true => (Memory::Plain(bytes.as_mut_ptr()), bytes.len() as u64),
        false => (Memory::None, 0),
    };
    if interface.prep(0, &Op { action, fd, offset: 0, len, memory, flags: 0, priority: 0 })
        != Prep::Queued
    {
        // What it lacks the pool does.
        return Ok(0);
    }
    let mut done = Vec::new();
    let mut refusals = 0;
    while done.is_empty() {
        match interface.enter(true, Wait::For(1, None), &mut done) {
            Entered::Refused(_) if refusals < MAX_REFUSALS => {
                refusals += 1;
                std::thread::sleep(REFUSED_PAUSE);
            }
            Entered::Refused(errno) => {
                // The kernel may have the operation all the same, and with it the memory.
                interface.end(errno, &mut done);
                return Err(io::Error::from_raw_os_error(errno));
            }
            Entered::Broken(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Entered::Fine | Entered::Interrupted => {}
        }
    }
    Ok(done[0].result)
}
