//! The wake-up of a reactor that sleeps, and the eventfd(2) that it and others are made of.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{fence, AtomicU64, AtomicU8, Ordering::Relaxed, Ordering::SeqCst};

use crate::fork;

/// An eventfd(2) that ends the reactor's wait. Written only while the reactor sleeps.
pub(crate) struct WakeUp {
    /// Not closed in a forked child by itself: there the context closes what it knows of.
    fd: ManuallyDrop<OwnedFd>,
    generation: fork::Generation,
    sleep: AtomicU8,
    writes: AtomicU64,
}

/// What to do where there is none.
pub(crate) const NO_WAKE_UP: &str =
    "no descriptor for the wake-up: raise RLIMIT_NOFILE (ulimit -n) \
                                     or sysctl fs.file-max, allow eventfd2";

/// What the reactor is doing.
const AWAKE: u8 = 0;
/// Asleep, and anything that comes ends that.
const ASLEEP: u8 = 1;
/// Asleep with all slots taken: only what cannot wait for one ends that.
const BUSY: u8 = 2;

impl WakeUp {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(WakeUp {
            fd: ManuallyDrop::new(new_eventfd()?),
            generation: fork::generation(),
            sleep: AtomicU8::new(AWAKE),
            writes: AtomicU64::new(0),
        })
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Announces a sleep. Whoever brings work after this calls [`WakeUp::wake`] and is heard; what
    /// was brought before is there to be found. The fences make one of the two true.
    pub(crate) fn prepare_sleep(&self) {
        self.sleep.store(ASLEEP, SeqCst);
        fence(SeqCst);
    }

    /// Announces a sleep that only [`WakeUp::wake_busy`] ends.
    pub(crate) fn prepare_busy_sleep(&self) {
        self.sleep.store(BUSY, SeqCst);
        fence(SeqCst);
    }

    /// The sleep is over: from here on a wake-up costs no system call.
    pub(crate) fn awake(&self) {
        self.sleep.store(AWAKE, SeqCst);
    }

    /// Whether a sleep is announced that nobody has ended yet.
    pub(crate) fn is_asleep(&self) -> bool {
        self.sleep.load(Relaxed) != AWAKE
    }

    /// Ends the reactor's sleep, if it sleeps. Called after the work was put in its place.
    pub(crate) fn wake(&self) {
        fence(SeqCst);
        let asleep = self.sleep.load(SeqCst) == ASLEEP;
        let ended = || self.sleep.compare_exchange(ASLEEP, AWAKE, SeqCst, SeqCst).is_ok();
        if asleep && ended() {
            self.write();
        }
    }

    /// The same, also where it sleeps with all slots taken.
    pub(crate) fn wake_busy(&self) {
        fence(SeqCst);
        if self.sleep.load(SeqCst) != AWAKE && self.sleep.swap(AWAKE, SeqCst) != AWAKE {
            self.write();
        }
    }

    /// Ends the sleep of a reactor that does not announce it, or its next one.
    pub(crate) fn write(&self) {
        self.writes.fetch_add(1, Relaxed);
        write_eventfd(self.fd.as_raw_fd());
    }

    /// System calls made to wake the reactor.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }
}

impl Drop for WakeUp {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            // SAFETY: the last use.
            unsafe { ManuallyDrop::drop(&mut self.fd) }
        }
    }
}

pub(crate) fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that is not negative is fresh and ours.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

pub(crate) fn write_eventfd(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight readable bytes. It fails only where the counter is full: readable anyway.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

pub(crate) fn clear_eventfd(fd: RawFd) {
    let mut count = 0u64;
    // SAFETY: eight writable bytes. It fails only where there is nothing to clear.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
}
