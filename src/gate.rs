//! Waiting for a condition that other threads bring about: a waiter sleeps, whoever changes the
//! condition wakes it, and nobody pays more than one load while nobody waits.

use std::ptr::NonNull;
use std::sync::atomic::{
    fence, AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// Locks a mutex whose data is valid at every instant, so a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a wait gives up. `None` is never.
pub(crate) type Deadline = Option<Instant>;

/// A deadline from a timeout in milliseconds: negative waits for ever, and so does a time too far
/// away for the clock.
pub(crate) fn deadline_after(timeout_ms: i64) -> Deadline {
    let timeout = Duration::from_millis(u64::try_from(timeout_ms).ok()?);
    clock::now().checked_add(timeout)
}

#[derive(Default)]
pub(crate) struct Gate {
    waiters: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Gate {
    /// Waits until `condition` holds; false where the deadline came first.
    ///
    /// The condition reads what others write before they call [`Gate::wake`]: either the waker sees
    /// the waiter, or the waiter sees the new value.
    pub(crate) fn wait_until(&self, deadline: Deadline, condition: impl Fn() -> bool) -> bool {
        if condition() {
            return true;
        }
        self.waiters.fetch_add(1, SeqCst);
        fence(SeqCst);
        let mut guard = lock(&self.lock);
        let held = loop {
            if condition() {
                break true;
            }
            guard = match deadline {
                None => self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break false;
                    }
                    let waited = self.changed.wait_timeout(guard, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        drop(guard);
        self.waiters.fetch_sub(1, SeqCst);
        held
    }

    /// Whether somebody waits, asked by who has changed the condition with a SeqCst operation:
    /// either he is seen here, or he sees the change.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters.load(SeqCst) != 0
    }

    /// Wakes every waiter to look at its condition again. Whether that took a system call.
    pub(crate) fn wake(&self) -> bool {
        self.wake_for(usize::MAX)
    }

    /// Wakes enough waiters for `count` things of which each waiter takes one.
    pub(crate) fn wake_for(&self, count: usize) -> bool {
        // What the condition reads was written before, and must not be seen after.
        fence(SeqCst);
        let waited_for = self.has_waiters();
        if waited_for {
            drop(lock(&self.lock));
            match count {
                1 => self.changed.notify_one(),
                _ => self.changed.notify_all(),
            }
        }
        waited_for
    }
}

/// Sleeps while the word has this value, until it is woken; or a little, for no reason. A futex(2), and not
/// the standard library's handle of a thread: one that ends has none any more when its last destructors
/// run.
pub(crate) fn sleep_while(word: &AtomicU32, value: u32) {
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let no_limit = std::ptr::null::<libc::timespec>();
    // SAFETY: a word that lives as long as the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), wait, value, no_limit) };
}

/// Wakes who sleeps there, if anybody does. Nothing is read: the word may be gone, and somebody else sleep
/// there, who looks again.
pub(crate) fn wake(word: *const u32) {
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel takes any address for it.
    unsafe { libc::syscall(libc::SYS_futex, word, wake, 1) };
}

/// Where one thread waits for several things, each of which counts down once. It lies on the stack
/// of that thread, which must not leave before.
#[derive(Default)]
pub(crate) struct Latch {
    /// How many are left; and [`SLEEPS`], where the thread has to be woken.
    word: AtomicU32,
}

const SLEEPS: u32 = 1 << 31;

impl Latch {
    /// One more thing is waited for.
    pub(crate) fn count_up(&self) {
        self.word.fetch_add(1, Relaxed);
    }

    /// How many are waited for. What they did before they counted down can be seen where none is.
    pub(crate) fn left(&self) -> u32 {
        self.word.load(Acquire) & !SLEEPS
    }

    /// Sleeps while there are as many as that, until the last is done; or a little, for no reason.
    pub(crate) fn sleep(&self, left: u32) {
        self.word.fetch_or(SLEEPS, Relaxed);
        sleep_while(&self.word, left | SLEEPS);
    }

    /// One of them is done. The last one, and no other, wakes the thread, if it sleeps.
    ///
    /// # Safety
    /// The latch is there: it was counted up for this.
    pub(crate) unsafe fn count_down(latch: NonNull<Latch>) {
        // SAFETY: it is there until this one has counted down.
        let (word, before) = unsafe {
            let word = &latch.as_ref().word;
            (word.as_ptr(), word.fetch_sub(1, AcqRel))
        };
        if before == 1 | SLEEPS {
            wake(word);
        }
    }
}
