//! Looking for a while before a sleep: where what is waited for comes soon, that is cheaper than to
//! sleep and be woken, for both sides. Whether it does is learned, and a thread whose looking is in
//! vain soon does it hardly ever.

use std::time::{Duration, Instant};

use once_cell::race::OnceNonZeroUsize;

/// How long to look: about what it costs to sleep and be woken.
const SPIN_TIME: Duration = Duration::from_micros(25);

/// How many sleeps at most pass without looking.
const MAX_SKIPPED: u32 = 1 << 10;

/// Looks between two at the clock.
const LOOKS: u32 = 16;

/// What a thread has learned.
#[derive(Default)]
pub(crate) struct Spin {
    skips: u32,
    skipped: u32,
}

impl Spin {
    /// Whether to look before this sleep.
    pub(crate) fn is_worth_it(&mut self) -> bool {
        let worth = self.skipped >= self.skips && processors() > 1;
        self.skipped = if worth { 0 } else { self.skipped + 1 };
        worth
    }

    /// Whether what was looked for came.
    pub(crate) fn learn(&mut self, came: bool) {
        self.skips = if came { 0 } else { (2 * self.skips).clamp(1, MAX_SKIPPED) };
    }
}

/// Looks until it is there, or the time is up. Whether it is there.
pub(crate) fn spin(mut is_there: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + SPIN_TIME;
    loop {
        for _ in 0..LOOKS {
            if is_there() {
                return true;
            }
            std::hint::spin_loop();
        }
        if Instant::now() >= until {
            return false;
        }
    }
}

/// Those of the machine that the process may use. Asked once: it reads the files of the cgroup.
pub(crate) fn processors() -> usize {
    static COUNT: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let one = std::num::NonZeroUsize::MIN;
    COUNT.get_or_init(|| std::thread::available_parallelism().unwrap_or(one)).get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_vain_it_is_done_ever_more_seldom_and_then_again() {
        let mut spin = Spin::default();
        let mut done = 0;
        for _ in 0..10 * MAX_SKIPPED {
            if spin.is_worth_it() {
                done += 1;
                spin.learn(false);
            }
        }
        let most = MAX_SKIPPED.ilog2() + 10;
        assert!(processors() == 1 || (10..=most).contains(&done), "{done}");
        spin.learn(true);
        assert_eq!(spin.is_worth_it(), processors() > 1);
    }
}
