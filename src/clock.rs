//! The time, for deadlines: CLOCK_MONOTONIC, and in a simulation whatever that says.

#[cfg(not(any(test, fuzzing)))]
pub(crate) use real::now;
#[cfg(any(test, fuzzing))]
pub(crate) use simulated::{advance, now, Clock};

#[cfg(not(any(test, fuzzing)))]
mod real {
    use std::time::Instant;

    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(any(test, fuzzing))]
mod simulated {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// A clock that stands still, but for [`advance`]: of a thread, or of several.
    #[derive(Clone)]
    pub(crate) struct Clock {
        start: Instant,
        nanoseconds: Arc<AtomicU64>,
    }

    thread_local!(static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) });

    impl Clock {
        pub(crate) fn new() -> Clock {
            Clock { start: Instant::now(), nanoseconds: Arc::default() }
        }

        /// This thread's, which stands still from here on.
        pub(crate) fn own() -> Clock {
            CLOCK.with_borrow_mut(|clock| clock.get_or_insert_with(Clock::new).clone())
        }

        /// From here on it is this thread's.
        pub(crate) fn join(self) {
            CLOCK.set(Some(self));
        }
    }

    /// The time, which from the first `advance` on stands still between the calls of it.
    pub(crate) fn now() -> Instant {
        let passed = |clock: &Clock| Duration::from_nanos(clock.nanoseconds.load(SeqCst));
        CLOCK.with_borrow(|clock| {
            clock.as_ref().map_or_else(Instant::now, |clock| clock.start + passed(clock))
        })
    }

    /// Lets time pass on this thread, and on those with the same clock. A time too long for it passes in
    /// part.
    pub(crate) fn advance(time: Duration) {
        let Clock { nanoseconds, .. } = Clock::own();
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let passed = nanoseconds.load(SeqCst);
        nanoseconds.store(passed.saturating_add(time).min(MOST), SeqCst);
    }

    /// A hundred years: an `Instant` has room for more.
    const MOST: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;
}
