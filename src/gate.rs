//! Waiting for a condition that other threads bring about: a waiter sleeps, whoever changes the
//! condition wakes it, and nobody pays more than one load while nobody waits.

use std::sync::atomic::{fence, AtomicU32, Ordering::SeqCst};
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
