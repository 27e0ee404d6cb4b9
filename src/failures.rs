//! Writes that failed, for barriers: a barrier that was accepted behind one, before its callback
//! started, must not pretend durability.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Mutex;

use crate::gate::lock;

/// More are not remembered, where callbacks have started. For one to be missed, a barrier would have
/// to be on its way while so many writes fail, each with its callback.
const MOST: usize = 1 << 16;

#[derive(Default)]
pub(crate) struct Failures {
    any: AtomicBool,
    list: Mutex<Vec<Failure>>,
}

struct Failure {
    fd: RawFd,
    /// In the order of acceptance.
    number: u64,
    errno: i32,
    started: Option<Started>,
}

/// How far the context was when the callback of a failed write started.
#[derive(Clone, Copy)]
pub(crate) struct Started {
    /// Events accepted.
    pub accepted: u64,
    /// Names the moment for [`crate::ledger::Ledger::drained`].
    pub point: u64,
}

impl Failures {
    /// A write has failed. `drained` says of earlier ones whether all that was accepted before their
    /// callbacks started has gone its way: they are forgotten.
    pub(crate) fn add(&self, fd: RawFd, number: u64, errno: i32, drained: impl Fn(u64) -> bool) {
        let mut list = lock(&self.list);
        list.retain(|failure| failure.started.is_none_or(|started| !drained(started.point)));
        if list.len() >= MOST {
            if let Some(oldest) = list.iter().position(|failure| failure.started.is_some()) {
                list.remove(oldest);
            }
        }
        list.push(Failure { fd, number, errno, started: None });
        self.any.store(true, SeqCst);
    }

    /// The callback of a failed write starts.
    pub(crate) fn start(&self, number: u64, started: Started) {
        let mut list = lock(&self.list);
        // The latest is most likely the last.
        let failure = list.iter_mut().rev().find(|failure| failure.number == number);
        if let Some(failure) = failure {
            failure.started = Some(started);
        }
    }

    /// The error of the first write that a barrier of this descriptor with this number is behind.
    pub(crate) fn before(&self, fd: RawFd, number: u64) -> Option<i32> {
        if !self.any.load(SeqCst) {
            return None;
        }
        let list = lock(&self.list);
        let earlier = list.iter().filter(|failure| {
            let in_time = failure.started.is_none_or(|started| number < started.accepted);
            failure.fd == fd && failure.number < number && in_time
        });
        earlier.min_by_key(|failure| failure.number).map(|failure| failure.errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_for_barriers_between_it_and_its_callback() {
        let failures = Failures::default();
        assert_eq!(failures.before(3, 100), None);
        failures.add(3, 10, libc::EIO, |_| false);
        failures.add(3, 12, libc::ENOSPC, |_| false);
        assert_eq!(failures.before(3, 11), Some(libc::EIO));
        assert_eq!(failures.before(3, 100), Some(libc::EIO), "the first");
        assert_eq!(failures.before(3, 9), None, "accepted before it");
        assert_eq!(failures.before(4, 11), None, "another descriptor");
        failures.start(10, Started { accepted: 50, point: 1 });
        assert_eq!(failures.before(3, 49), Some(libc::EIO));
        assert_eq!(failures.before(3, 50), Some(libc::ENOSPC));
        failures.start(12, Started { accepted: 60, point: 2 });
        assert_eq!(failures.before(3, 60), None);
        failures.add(4, 70, libc::EIO, |point| point == 1);
        assert_eq!(failures.before(3, 49), Some(libc::ENOSPC), "what is over is forgotten");
        assert_eq!(failures.before(4, 71), Some(libc::EIO));
    }
}
