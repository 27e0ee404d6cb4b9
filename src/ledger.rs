//! The counts behind three promises: submitters that find `queue_size` events of their kind before
//! them wait, a drain that ends when the callbacks of all earlier events have returned, and a
//! shutdown after which nothing is accepted.
//!
//! An event passes through three steps, each counted here: accepted, started (its callback is
//! called now) and returned (its callback has returned). One from outside callbacks also takes a
//! place, of which there are `queue_size`, until it starts. One from inside takes none: it cannot
//! wait for one, and if it took one all the same, callbacks that resubmit could keep all places for
//! ever. Nothing here knows what an event is.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::failures::{Failures, Started};
use crate::gate::{lock, Deadline, Gate};

/// The bits of `Ledger::entry` below the count of accepted events.
const EPOCH: u64 = 1;
const CLOSED: u64 = 2;
const ONE: u64 = 4;

/// Keeps what submitters write away from what the reactor and the callback threads write.
#[repr(align(128))]
#[derive(Default)]
struct Padded<T>(T);

/// How long a submitter waits for room for several.
const PATIENCE: Duration = Duration::from_millis(1);

/// Why an event was not accepted.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Refused {
    Full,
    Closed,
}

/// What an accepted event carries until its callback has returned: `Ledger::entry` as it found it,
/// with the epoch and how many were accepted before it, and in the place of CLOSED, whether it took
/// one of the places.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Admission(u64);

impl Admission {
    const PLACE: u64 = CLOSED;

    pub(crate) fn has_place(self) -> bool {
        self.0 & Self::PLACE != 0
    }

    /// Its place in the order of acceptance, of which a context has one.
    pub(crate) fn number(self) -> u64 {
        self.0 / ONE
    }

    /// The drain generation in which it was accepted: 0 or 1.
    fn epoch(self) -> usize {
        (self.0 & EPOCH) as usize
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    accepted: Padded<Accepted>,
    done: Padded<Done>,
    /// What `Done::returned` has to reach for the older epoch to be over.
    goal: [AtomicU64; 2],
    limit: u64,
    /// With fewer places taken there is room for several.
    several: u64,
    /// One thread does everything (a polled context): counting needs no locked instruction.
    single: bool,
    /// Somebody found all places taken since the last one was left.
    short_of_room: AtomicBool,
    /// Submitters sleep until there is room for several.
    waits_for_room: AtomicBool,
    room: Gate,
    wake_calls: AtomicU64,
    /// Called with the waiters at `room`: a reactor that takes no more until there is room.
    on_room: OnceCell<Box<dyn Fn() + Send + Sync>>,
    settled: Arc<Gate>,
    epochs: Mutex<Epochs>,
    failures: Failures,
}

/// What submitters write.
#[derive(Default)]
struct Accepted {
    /// Accepted events times four, and the two bits above: one compare-and-swap decides whether
    /// an event gets in, and to which epoch it belongs.
    entry: AtomicU64,
    /// How often a place was taken, and how often one had been left when somebody last looked.
    taken: AtomicU64,
    left: AtomicU64,
}

/// What the reactor and the callback threads write.
#[derive(Default)]
struct Done {
    /// How often a place was left: by an event that started.
    left: AtomicU64,
    /// Started events that had no place.
    others: AtomicU64,
    returned: [AtomicU64; 2],
}

#[derive(Default)]
struct Epochs {
    /// How many epochs were closed. Events of the current one carry its parity.
    closed: u64,
    /// The accepted count when the last one was closed.
    accepted: u64,
}

impl Ledger {
    pub(crate) fn new(limit: u32, single: bool) -> Self {
        let limit = u64::from(limit);
        Ledger { limit, several: limit, single, ..Default::default() }
    }

    /// The same, where `depth` events keep everything busy. There is room for several where half of
    /// the places are free, or an eighth where less than `depth` would be taken then.
    pub(crate) fn keeping(self, depth: u32) -> Self {
        let several = (self.limit - self.limit / 8).min(depth.into()).max(self.limit / 2).max(1);
        Ledger { several, ..self }
    }

    /// The same, with a gate for those who wait for several ledgers.
    pub(crate) fn settling_at(self, settled: Arc<Gate>) -> Self {
        Ledger { settled, ..self }
    }

    #[inline(always)]
    fn add(&self, counter: &AtomicU64) -> u64 {
        if self.single {
            let sum = counter.load(Relaxed) + 1;
            counter.store(sum, Relaxed);
            sum
        } else {
            counter.fetch_add(1, SeqCst) + 1
        }
    }

    /// Counts an event in. `bounded` ones need a place; those from callbacks do not.
    #[inline(always)]
    pub(crate) fn accept(&self, bounded: bool) -> Result<Admission, Refused> {
        match self.single {
            true => self.accept_alone(bounded),
            false => self.accept_shared(bounded),
        }
    }

    #[inline(always)]
    fn accept_alone(&self, bounded: bool) -> Result<Admission, Refused> {
        let Accepted { entry: counter, taken, .. } = &self.accepted.0;
        let entry = counter.load(Relaxed);
        if entry & CLOSED != 0 {
            return Err(Refused::Closed);
        }
        let mut admission = entry;
        if bounded {
            let before = taken.load(Relaxed);
            if before - self.done.0.left.load(Relaxed) >= self.limit {
                return Err(Refused::Full);
            }
            taken.store(before + 1, Relaxed);
            admission |= Admission::PLACE;
        }
        counter.store(entry + ONE, Relaxed);
        Ok(Admission(admission))
    }

    fn accept_shared(&self, bounded: bool) -> Result<Admission, Refused> {
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        // The second look is for a place that was left before anybody knew it was wanted.
        if bounded && !self.take_place() && !(self.has_room() && self.take_place()) {
            return Err(Refused::Full);
        }
        let counter = &self.accepted.0.entry;
        let mut entry = counter.load(SeqCst);
        loop {
            if entry & CLOSED != 0 {
                if bounded {
                    self.accepted.0.taken.fetch_sub(1, SeqCst);
                }
                return Err(Refused::Closed);
            }
            let admission = Admission(entry | if bounded { Admission::PLACE } else { 0 });
            match counter.compare_exchange_weak(entry, entry + ONE, SeqCst, Relaxed) {
                Ok(_) => return Ok(admission),
                Err(now) => entry = now,
            }
        }
    }

    fn take_place(&self) -> bool {
        let Accepted { taken, left, .. } = &self.accepted.0;
        let mut before = taken.load(SeqCst);
        loop {
            // What others write is looked at only where it looked full the last time. Who lost a race
            // may know of more that were left than were taken before his own.
            let fits = |left: u64| (before.wrapping_sub(left) as i64) < self.limit as i64;
            if !fits(left.load(Relaxed)) {
                let now = self.done.0.left.load(SeqCst);
                left.store(now, Relaxed);
                if !fits(now) {
                    return false;
                }
            }
            match taken.compare_exchange_weak(before, before + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => before = now,
            }
        }
    }

    /// Places taken now, or a moment ago.
    pub(crate) fn places(&self) -> u64 {
        // In this order: no more can have been left than had been taken.
        let left = self.done.0.left.load(SeqCst);
        self.accepted.0.taken.load(SeqCst) - left
    }

    /// Whether there is a place now; if not, `on_room` is called when there is.
    #[cold]
    pub(crate) fn has_room(&self) -> bool {
        let there_is = || self.places() < self.limit;
        there_is() || {
            self.short_of_room.store(true, SeqCst);
            there_is()
        }
    }

    /// Sets what is called when there is room again for one who asked [`Ledger::has_room`].
    pub(crate) fn set_on_room(&self, on_room: impl Fn() + Send + Sync + 'static) {
        // Set once, before the context is shared.
        let _ = self.on_room.set(Box::new(on_room));
    }

    /// Waits for room, without taking it. False where the ledger was closed.
    ///
    /// Woken for each place, submitter and reactor would meet at every event, so it waits for several;
    /// but not for long, because a callback may want what its submitter holds.
    pub(crate) fn wait_for_room(&self) -> bool {
        let several = || {
            self.waits_for_room.store(true, SeqCst);
            self.is_closed() || self.has_room_for_several()
        };
        if !self.room.wait_until(Some(Instant::now() + PATIENCE), several) {
            self.room.wait_until(None, || self.is_closed() || self.has_room());
        }
        !self.is_closed()
    }

    fn has_room_for_several(&self) -> bool {
        self.places() < self.several
    }

    /// The callback of an event is about to be called: the event leaves its place.
    #[inline(always)]
    pub(crate) fn start(&self, admission: Admission) {
        if !admission.has_place() {
            self.add(&self.done.0.others);
            return;
        }
        self.add(&self.done.0.left);
        // Who waits said so, and looked after that. A system call only where somebody sleeps.
        if self.short_of_room.load(SeqCst) || self.waits_for_room.load(SeqCst) {
            self.there_is_room();
        }
    }

    #[cold]
    fn there_is_room(&self) {
        let several = self.has_room_for_several() && self.waits_for_room.swap(false, SeqCst);
        let one = self.short_of_room.swap(false, SeqCst);
        if (several || one) && self.room.wake() {
            self.wake_calls.fetch_add(1, Relaxed);
        }
        if let Some(on_room) = self.on_room.get().filter(|_| one) {
            on_room();
        }
    }

    /// The callback of an event has returned. The last touch of the ledger for it.
    #[inline(always)]
    pub(crate) fn finish(&self, admission: Admission) {
        let epoch = admission.epoch();
        let returned = self.add(&self.done.0.returned[epoch]);
        // In a polled context nobody sleeps until then.
        let waited_for = !self.single && self.settled.has_waiters();
        if waited_for && returned == self.goal[epoch].load(SeqCst) {
            self.settled.wake();
        }
    }

    /// No event is accepted from here on; submitters that wait are turned away. False where it
    /// was closed before.
    pub(crate) fn close(&self) -> bool {
        let before = self.accepted.0.entry.fetch_or(CLOSED, SeqCst);
        self.room.wake();
        before & CLOSED == 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.accepted.0.entry.load(SeqCst) & CLOSED != 0
    }

    /// Names the moment of the call for [`Ledger::drained`].
    pub(crate) fn drain_point(&self) -> u64 {
        lock(&self.epochs).closed
    }

    /// Whether the callbacks of all events accepted before the drain point have returned.
    ///
    /// Events of the current epoch can be told apart from those of the one before, so an epoch is
    /// closed only when its predecessor is over; a drain needs at most two of them, however much
    /// is submitted meanwhile.
    pub(crate) fn drained(&self, point: u64) -> bool {
        let mut epochs = lock(&self.epochs);
        if epochs.closed > point + 1 {
            // The next one could be closed only when that of the point was over.
            return true;
        }
        loop {
            let older = (epochs.closed & 1 ^ 1) as usize;
            if self.done.0.returned[older].load(SeqCst) != self.goal[older].load(SeqCst) {
                return false;
            }
            if epochs.closed > point {
                return true;
            }
            let current = (epochs.closed & 1) as usize;
            let accepted = self.accepted.0.entry.fetch_xor(EPOCH, SeqCst) / ONE;
            let goal = self.goal[current].load(SeqCst) + (accepted - epochs.accepted);
            self.goal[current].store(goal, SeqCst);
            epochs.accepted = accepted;
            epochs.closed += 1;
        }
    }

    /// Waits until `settled` says yes, which is asked again when an epoch is over, of this ledger or of
    /// one that shares its gate; false where the deadline came first.
    pub(crate) fn wait_settled(&self, deadline: Deadline, settled: impl Fn() -> bool) -> bool {
        self.settled.wait_until(deadline, settled)
    }

    /// A write has failed; its callback has not started.
    pub(crate) fn write_failed(&self, fd: RawFd, number: u64, errno: i32) {
        self.failures.add(fd, number, errno, |point| self.drained(point));
    }

    /// The callback of a write that failed starts.
    #[cold]
    pub(crate) fn failed_write_starts(&self, number: u64) {
        let started = Started { accepted: self.accepted(), point: self.drain_point() };
        self.failures.start(number, started);
    }

    /// A sync has failed: what was accepted by now must hear of it.
    pub(crate) fn sync_failed(&self, fd: RawFd, errno: i32) {
        let now = Started { accepted: self.accepted(), point: self.drain_point() };
        self.failures.add_sync(fd, errno, now, |point| self.drained(point));
    }

    /// The error that a sync of this descriptor with this number must hear: of another sync that failed
    /// since its acceptance, or, for a `barrier`, of a write before it whose callback had not started.
    pub(crate) fn failure_before(&self, fd: RawFd, number: u64, barrier: bool) -> Option<i32> {
        self.failures.before(fd, number, barrier)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.0.entry.load(SeqCst) / ONE
    }

    pub(crate) fn started(&self) -> u64 {
        self.done.0.left.load(SeqCst) + self.done.0.others.load(SeqCst)
    }

    /// System calls made to wake submitters.
    pub(crate) fn wake_calls(&self) -> u64 {
        self.wake_calls.load(Relaxed)
    }

    /// Accepted and started as they were at one moment: apart, their difference could exceed what
    /// ever was in flight.
    pub(crate) fn accepted_and_started(&self) -> (u64, u64) {
        loop {
            let started = self.started();
            let accepted = self.accepted();
            if self.started() == started {
                // The owner of a polled context counts without fences.
                return (accepted.max(started), started);
            }
        }
    }

    /// Accepted, callback not started.
    pub(crate) fn in_flight(&self) -> u64 {
        let (accepted, started) = self.accepted_and_started();
        accepted - started
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn waits(ledger: &Ledger, point: u64) -> bool {
        let soon = Some(Instant::now() + Duration::from_millis(1));
        ledger.wait_settled(soon, || ledger.drained(point))
    }

    #[test]
    fn places_are_taken_and_left() {
        let ledger = Ledger::new(2, false);
        let first = ledger.accept(true).unwrap();
        let second = ledger.accept(true).unwrap();
        assert_eq!(ledger.accept(true), Err(Refused::Full));
        let inside = ledger.accept(false).expect("a callback is never refused for room");
        ledger.start(inside);
        assert_eq!(ledger.accept(true), Err(Refused::Full), "it had no place to leave");
        ledger.start(first);
        ledger.accept(true).unwrap();
        assert_eq!(ledger.accept(true), Err(Refused::Full));
        ledger.start(second);
        assert_eq!(ledger.in_flight(), 1);
    }

    #[test]
    fn a_drain_is_not_held_up_by_another() {
        let ledger = Ledger::new(4, false);
        let finish = |admission| {
            ledger.start(admission);
            ledger.finish(admission);
        };
        let early = ledger.accept(true).unwrap();
        let first = ledger.drain_point();
        assert!(!ledger.drained(first));
        let late = ledger.accept(true).unwrap();
        finish(early);
        let second = ledger.drain_point();
        assert!(!ledger.drained(second), "what came later is in flight");
        assert!(ledger.drained(first), "all before its point is over");
        finish(late);
        assert!(ledger.drained(second));
    }

    #[test]
    fn callbacks_that_resubmit_keep_no_places() {
        let ledger = Ledger::new(1, false);
        let mut chain = ledger.accept(true).unwrap();
        for _ in 0..10 {
            ledger.start(chain);
            chain = ledger.accept(false).unwrap();
            let outside = ledger.accept(true).expect("the chain is not in the way");
            ledger.start(outside);
        }
    }

    #[test]
    fn a_waiter_for_room_is_woken() {
        let ledger = Ledger::new(1, false);
        let first = ledger.accept(true).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| ledger.wait_for_room());
            ledger.start(first);
            assert!(waiter.join().unwrap());
            ledger.accept(true).unwrap();
            let waiter = scope.spawn(|| ledger.wait_for_room());
            assert!(ledger.close());
            assert!(!waiter.join().unwrap(), "closing turns waiters away");
        });
        assert_eq!(ledger.accept(false), Err(Refused::Closed));
        assert!(!ledger.close());
    }

    #[test]
    fn the_first_place_left_wakes_a_waiter() {
        // Many times, because a waiter that comes late finds the place by itself.
        for _ in 0..100 {
            let ledger = Ledger::new(100, false);
            let first = ledger.accept(true).unwrap();
            while ledger.has_room() {
                ledger.accept(true).unwrap();
            }
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| ledger.wait_for_room());
                while !ledger.room.has_waiters() {
                    std::thread::yield_now();
                }
                ledger.start(first);
                assert!(waiter.join().unwrap(), "the callback may want what the waiter holds");
            });
        }
    }

    #[test]
    fn a_drain_waits_for_what_came_before_and_nothing_later() {
        let ledger = Ledger::new(100, false);
        let early = ledger.accept(true).unwrap();
        let point = ledger.drain_point();
        assert!(!ledger.drained(point));
        let late = ledger.accept(true).unwrap();
        assert_ne!(early, late, "they belong to different epochs");
        ledger.finish(early);
        assert!(ledger.drained(point), "the later event does not hold the drain back");
        let second = ledger.drain_point();
        assert!(!waits(&ledger, second));
        ledger.finish(late);
        assert!(ledger.drained(second));
    }

    #[test]
    fn a_drain_that_gave_up_does_not_spoil_the_next() {
        let ledger = Ledger::new(100, false);
        let first = ledger.accept(true).unwrap();
        assert!(!waits(&ledger, ledger.drain_point()));
        let second = ledger.accept(true).unwrap();
        let point = ledger.drain_point();
        assert!(!waits(&ledger, point));
        ledger.finish(second);
        assert!(!waits(&ledger, point), "the first is still out");
        ledger.finish(first);
        assert!(ledger.drained(point));
    }
}
