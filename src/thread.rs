//! What the engine knows of a thread: who it is, whether it runs a callback, and how to start one.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};

use crate::ledger::Ledger;

thread_local!(static TOP: Cell<*const Frame> = const { Cell::new(ptr::null()) });

/// The calling thread, looked at once.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    /// A number that no other living thread has.
    pub token: usize,
    /// The thread runs a callback now, of whatever context.
    pub in_callback: bool,
}

pub(crate) fn here() -> Here {
    TOP.with(|top| Here { token: ptr::from_ref(top) as usize, in_callback: !top.get().is_null() })
}

thread_local!(static NUMBER: Cell<u32> = const { Cell::new(NO_NUMBER) });
static NUMBERS: AtomicU32 = AtomicU32::new(0);
const NO_NUMBER: u32 = u32::MAX;

/// A number of this thread's, for what threads are to be spread over: one after the other, as they
/// ask for the first time, or what was set.
#[inline]
pub(crate) fn number() -> u32 {
    match NUMBER.get() {
        NO_NUMBER => {
            set_number(NUMBERS.fetch_add(1, Relaxed));
            NUMBER.get()
        }
        number => number,
    }
}

pub(crate) fn set_number(number: u32) {
    NUMBER.set(number);
}

/// Says that this thread is running callbacks of a context, on a set of workers or without.
struct Frame {
    ledger: *const Ledger,
    workers: usize,
    below: *const Frame,
}

/// Runs `body`, which calls callbacks of the context, so that [`in_callback_of`] knows it.
pub(crate) fn within(ledger: &Ledger, workers: usize, body: impl FnOnce()) {
    let frame = Frame { ledger, workers, below: TOP.get() };
    TOP.set(&frame);
    // Panics end in `run`, so this is always reached.
    body();
    TOP.set(frame.below);
}

/// Whether this thread runs a callback of a context that has this ledger, or one on the same workers:
/// either could wait for itself.
pub(crate) fn in_callback_of(has: impl Fn(*const Ledger) -> bool, workers: usize) -> bool {
    let mut at = TOP.get();
    // SAFETY: frames on the list belong to calls further up this thread's stack.
    while let Some(frame) = unsafe { at.as_ref() } {
        if has(frame.ledger) || workers != 0 && frame.workers == workers {
            return true;
        }
        at = frame.below;
    }
    false
}

/// What to do where [`spawn`] fails.
pub(crate) const NO_THREAD: &str =
    "no thread: raise RLIMIT_NPROC (ulimit -u) or the cgroup's pids.max";

/// Starts a thread that leaves the program's signals to the program: it blocks all but those that
/// its own instructions raise. SIGXFSZ is blocked too, so a write beyond RLIMIT_FSIZE is EFBIG.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    start(Builder::new().name(name), body)
}

/// The same, for one that never runs what is the program's: a callback.
pub(crate) fn spawn_small(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    start(Builder::new().name(name).stack_size(SMALL_STACK), body)
}

/// Room for the few frames of the engine's own, and for whoever stands in front of a system call.
const SMALL_STACK: usize = 256 << 10;

fn start(thread: Builder, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    const OWN: [i32; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
    // SAFETY: sets are initialised by the calls that fill them; the new thread inherits the mask,
    // and this thread gets its own back.
    unsafe {
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut blocked);
        for signal in OWN {
            libc::sigdelset(&mut blocked, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, &mut before);
        let thread = thread.spawn(body);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        thread
    }
}
