//! The time, for deadlines: CLOCK_MONOTONIC, and in a simulation whatever that says.

#[cfg(not(test))]
pub(crate) use real::now;
#[cfg(test)]
pub(crate) use simulated::{advance, now};

#[cfg(not(test))]
mod real {
    use std::time::Instant;

    pub(crate) fn now() -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod simulated {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    thread_local!(static PASSED: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) });

    /// The time, which from the first `advance` on stands still between the calls of it.
    pub(crate) fn now() -> Instant {
        PASSED.get().map_or_else(Instant::now, |(start, passed)| start + passed)
    }

    /// Lets time pass on this thread.
    pub(crate) fn advance(time: Duration) {
        let (start, passed) = PASSED.get().unwrap_or((Instant::now(), Duration::ZERO));
        PASSED.set(Some((start, passed + time)));
    }
}
