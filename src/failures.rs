//! What failed, for those that must not pretend durability: a barrier that was accepted behind a failed
//! write, before its callback started, and a sync that was accepted before another one of its
//! descriptor failed. The kernel tells an error once (fsync(2)).

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Mutex;

use crate::gate::lock;

/// When so many are remembered, those whose callbacks started first become one, for every
/// descriptor: an error too many is better than durability that is none.
const MOST: usize = 1 << 14;

/// It is not worth looking for what can be forgotten among fewer.
const FEW: usize = 16;

#[derive(Default)]
pub(crate) struct Failures {
    any: AtomicBool,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    all: Vec<Failure>,
    /// How many were left when it was last looked for what can be forgotten.
    kept: usize,
    /// The latest of those that became one.
    many: Option<(i32, Started)>,
}

struct Failure {
    fd: RawFd,
    /// Of a write, in the order of acceptance; `None` for a sync.
    number: Option<u64>,
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
        self.push(Failure { fd, number: Some(number), errno, started: None }, drained);
    }

    /// A sync has failed, when the context was as far as this.
    pub(crate) fn add_sync(
        &self,
        fd: RawFd,
        errno: i32,
        started: Started,
        drained: impl Fn(u64) -> bool,
    ) {
        self.push(Failure { fd, number: None, errno, started: Some(started) }, drained);
    }

    fn push(&self, failure: Failure, drained: impl Fn(u64) -> bool) {
        let mut list = lock(&self.list);
        // Each time twice as many: looking for them costs little for each.
        if list.all.len() >= FEW.max(2 * list.kept).min(MOST) {
            list.forget(drained);
        }
        list.all.push(failure);
        self.any.store(true, SeqCst);
    }

    /// The callback of a failed write starts.
    pub(crate) fn start(&self, number: u64, started: Started) {
        let mut list = lock(&self.list);
        // The latest is most likely the last.
        let failure = list.all.iter_mut().rev().find(|failure| failure.number == Some(number));
        if let Some(failure) = failure {
            failure.started = Some(started);
        }
    }

    /// The error that a sync of this descriptor with this number must hear: of another sync or, for a
    /// `barrier`, of the first write.
    pub(crate) fn before(&self, fd: RawFd, number: u64, barrier: bool) -> Option<i32> {
        if !self.any.load(SeqCst) {
            return None;
        }
        let list = lock(&self.list);
        let earlier = list.all.iter().filter(|failure| {
            let in_time = failure.started.is_none_or(|started| number < started.accepted);
            let earlier = failure.number.is_none_or(|write| barrier && write < number);
            failure.fd == fd && earlier && in_time
        });
        let first = earlier.min_by_key(|failure| failure.number).map(|failure| failure.errno);
        let many = list.many.filter(|(_, started)| number < started.accepted);
        first.or(many.map(|(errno, _)| errno))
    }
}

impl List {
    fn forget(&mut self, drained: impl Fn(u64) -> bool) {
        // Moments come one after the other: with one, all before it are over.
        let (mut over, mut not_over) = (None, None);
        let mut is_over = |point| match (over, not_over) {
            (Some(yes), _) if point <= yes => true,
            (_, Some(no)) if point >= no => false,
            _ if drained(point) => {
                over = Some(point);
                true
            }
            _ => {
                not_over = Some(point);
                false
            }
        };
        self.all.retain(|failure| failure.started.is_none_or(|started| !is_over(started.point)));
        self.many = self.many.filter(|(_, started)| !is_over(started.point));
        if self.all.len() >= MOST {
            let (older, newer) = (self.all.len() / 2, std::mem::take(&mut self.all));
            for (number, failure) in newer.into_iter().enumerate() {
                match failure.started.filter(|_| number < older) {
                    Some(started) => {
                        let latest =
                            |(_, known): &(i32, Started)| known.accepted > started.accepted;
                        let many = self.many.filter(latest);
                        self.many = many.or(Some((failure.errno, started)));
                    }
                    None => self.all.push(failure),
                }
            }
        }
        self.kept = self.all.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_for_barriers_between_it_and_its_callback() {
        let failures = Failures::default();
        assert_eq!(failures.before(3, 100, true), None);
        failures.add(3, 10, libc::EIO, |_| false);
        failures.add(3, 12, libc::ENOSPC, |_| false);
        assert_eq!(failures.before(3, 11, true), Some(libc::EIO));
        assert_eq!(failures.before(3, 100, true), Some(libc::EIO), "the first");
        assert_eq!(failures.before(3, 9, true), None, "accepted before it");
        assert_eq!(failures.before(4, 11, true), None, "another descriptor");
        failures.start(10, Started { accepted: 50, point: 1 });
        assert_eq!(failures.before(3, 49, true), Some(libc::EIO));
        assert_eq!(failures.before(3, 50, true), Some(libc::ENOSPC));
        failures.start(12, Started { accepted: 60, point: 2 });
        assert_eq!(failures.before(3, 60, true), None);
        assert_eq!(failures.before(3, 49, false), None, "no barrier");
        failures.add_sync(4, libc::EDQUOT, Started { accepted: 90, point: 3 }, |_| false);
        assert_eq!(failures.before(4, 0, false), Some(libc::EDQUOT));
        assert_eq!(failures.before(4, 89, true), Some(libc::EDQUOT));
        assert_eq!(failures.before(4, 90, true), None, "accepted when it had failed");
        assert_eq!(failures.before(5, 1, false), None);
        lock(&failures.list).forget(|point| point == 1);
        assert_eq!(failures.before(3, 49, true), Some(libc::ENOSPC), "what is over is forgotten");
    }

    #[test]
    fn too_many_to_remember_are_one_for_everybody() {
        let failures = Failures::default();
        failures.add(3, 1, libc::EIO, |_| false);
        failures.start(1, Started { accepted: 1000, point: 0 });
        for number in 2..3 * MOST as u64 {
            failures.add(4, number, libc::ENOSPC, |_| false);
            failures.start(number, Started { accepted: 1000 + number, point: 1 });
        }
        assert!(lock(&failures.list).all.len() <= MOST);
        assert!(failures.before(3, 999, true).is_some(), "a barrier on its way since long ago");
        assert_eq!(failures.before(3, 1000 + 3 * MOST as u64, true), None);
        lock(&failures.list).forget(|_| true);
        assert_eq!(failures.before(3, 999, true), None);
    }
}
