//! The reactors of a context, and which of them an event goes to.
//!
//! Each is a [`Shard`] of its own, with its own driver, queue, depth and counts; they share the
//! callback threads and nothing that is written while events come and go. Reads may go to any of them:
//! each thread has one, and a reactor's thread itself. Writes, syncs and all else of a descriptor go
//! to one, because a barrier waits for the writes before it, and syncs are joined, inside of a reactor.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crossfire::flavor::Flavor;
use crossfire::AsyncRx;
use once_cell::sync::OnceCell;

use super::shard::{Place, Shard};
use super::{Config, Errno, Stats, MAX_REACTORS};
use crate::callback_worker::IOWorkers;
use crate::driver::choice::{Passed, MIN_DEPTH};
use crate::driver::Driver;
use crate::fork;
use crate::gate::{Deadline, Gate, Latch};
use crate::gathered::Gathered;
use crate::log::{log, Level};
use crate::merge;
use crate::tasks::{IOAction, IOCallback, IOEvent, Link};
use crate::thread::{here, in_callback_of, number, Here};

/// The part of a context that its handle stands for.
pub(crate) struct Shards<C: IOCallback> {
    /// At least one; a polled context has one.
    list: Box<[Arc<Shard<C>>]>,
    passed: Passed,
    /// What a program is told of `passed`, and of a driver that broke since.
    reasons: [OnceCell<CString>; 2],
    generation: fork::Generation,
}

/// What runs now.
pub(crate) struct Runs<'a> {
    pub driver: Driver,
    pub uring_errno: Errno,
    pub aio_errno: Errno,
    pub reason: &'a CStr,
}

impl<C: IOCallback> Shards<C> {
    /// A context with channels of its own. The first reactor chooses the driver and the depth. Where
    /// a later one cannot be had just so, there are fewer.
    pub(crate) fn new(config: Config, workers: &IOWorkers<C>) -> io::Result<Arc<Self>> {
        // Before it costs gigabytes.
        config.check()?;
        let settled: Arc<Gate> = Arc::default();
        let place = |number, least| Place { number, least, settled: settled.clone() };
        let wanted = config.reactors.max(1);
        let (first, mut passed) = Shard::new(config, place(0, MIN_DEPTH), workers)?;
        let config = first.config().clone();
        let mut list = vec![first];
        for number in 1..wanted {
            match Shard::new(config.clone(), place(number, config.depth), workers) {
                Ok((shard, _)) => list.push(shard),
                Err(refusal) => {
                    let advice = refusal.advice;
                    passed.say(&format!("{advice}: {number} of {wanted} reactors are used"));
                    break;
                }
            }
        }
        Ok(Self::of_list(list, passed))
    }

    /// A context that drains a channel of somebody else's.
    pub(super) fn draining<Q: Flavor<Item = IOEvent<C>>>(
        config: Config,
        receiver: AsyncRx<Q>,
        workers: &IOWorkers<C>,
    ) -> io::Result<Arc<Self>> {
        config.check()?;
        let place = Place { number: 0, least: MIN_DEPTH, settled: Arc::default() };
        let (shard, passed) = Shard::draining(config, place, receiver, workers)?;
        Ok(Self::of_list(vec![shard], passed))
    }

    fn of_list(list: Vec<Arc<Shard<C>>>, passed: Passed) -> Arc<Self> {
        let Config { driver, depth, .. } = *list[0].config();
        let (name, count) = (driver.name(), list.len());
        log(Level::Info, || format!("context on {name}, depth {depth}, reactors: {count}"));
        for shard in list.iter().filter(|_| count > 1) {
            let others = list.iter().filter(|other| !Arc::ptr_eq(other, shard));
            shard.set_others(others.map(Arc::downgrade));
        }
        let (list, generation) = (list.into(), fork::generation());
        Arc::new(Shards { list, passed, reasons: Default::default(), generation })
    }

    /// Polled contexts around any interfaces, as one.
    #[cfg(test)]
    pub(crate) fn over<I: crate::driver::Interface + 'static>(
        config: Config,
        interfaces: impl IntoIterator<Item = I>,
    ) -> Arc<Self> {
        let settled: Arc<Gate> = Arc::default();
        let shard = |interface| {
            let place = Place { number: 0, least: MIN_DEPTH, settled: settled.clone() };
            Shard::over(config.clone(), place, interface)
        };
        Self::of_list(interfaces.into_iter().map(shard).collect(), Passed::default())
    }

    #[cfg(test)]
    pub(crate) fn reactor(&self, number: usize) -> &Shard<C> {
        &self.list[number]
    }

    /// Where the calling thread's reads go: on a reactor's own thread, to that one.
    #[inline]
    fn own(&self) -> usize {
        match self.list.len() {
            1 => 0,
            count => number() as usize % count,
        }
    }

    /// Where events of this descriptor and action go.
    #[inline]
    fn index(&self, fd: RawFd, action: IOAction) -> usize {
        /// 2^32 divided by the golden ratio: neighbouring numbers end up far apart.
        const SPREAD: u32 = 0x9e37_79b9;
        match self.list.len() {
            1 => 0,
            _ if action == IOAction::Read => self.own(),
            count => {
                let spread = (fd as u32).wrapping_mul(SPREAD);
                ((u64::from(spread) * count as u64) >> 32) as usize
            }
        }
    }

    /// The reactor for events of this descriptor and action.
    #[inline]
    pub(crate) fn of(&self, fd: RawFd, action: IOAction) -> &Arc<Shard<C>> {
        &self.list[self.index(fd, action)]
    }

    /// The one for the calling thread: as long as it is held, the context's memory stays.
    #[inline]
    pub(crate) fn home(&self) -> &Arc<Shard<C>> {
        &self.list[self.own()]
    }

    /// Whether somebody holds one of them.
    pub(crate) fn is_held(&self) -> bool {
        self.list.iter().any(|shard| Arc::strong_count(shard) > 1)
    }

    /// Fails in a forked child with `EOWNERDEAD`: nothing of the parent's context works there.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<(), Errno> {
        fork::check(self.generation)
    }

    /// Hands an event in, or joined ones. What is not accepted comes back as it was. The caller has
    /// asked `check_process`.
    #[inline]
    pub(crate) fn submit(
        &self,
        event: IOEvent<C>,
        may_wait: bool,
    ) -> Result<(), (IOEvent<C>, Errno)> {
        self.of(event.fd(), event.kind()).submit(event, may_wait)
    }

    /// The first of many to be submitted, as far as a polled context takes them at once; how many. What
    /// is left, whatever the reason, is submitted as usual.
    ///
    /// # Safety
    /// `events` has `count` pointers, each NULL or of [`IOEvent::into_raw`].
    #[inline(always)]
    pub(crate) unsafe fn take_plain(&self, events: *const *mut (), count: usize) -> usize {
        let shard = &self.list[0];
        match shard.config().polled {
            // SAFETY: by the caller's promise.
            true => unsafe { shard.take_plain(events, count) },
            false => 0,
        }
    }

    /// A batch: its events reach each reactor together, so that it can join them.
    pub(crate) fn batch(&self) -> Batch<'_, C> {
        Batch { shards: self, here: here(), newest: None }
    }

    /// Runs an event and waits for it, and returns its result. Its callback is not called.
    // One of a few hundred instructions: a call for the sake of a second caller would be seen.
    #[inline(always)]
    pub(crate) fn submit_wait(&self, event: &mut IOEvent<C>) -> Result<i64, Errno> {
        self.check_process()?;
        self.check_outside(0)?;
        let reactors = self.is_reactors_thread();
        self.of(event.fd(), event.kind()).submit_wait(event, reactors)
    }

    /// Hands many events over together and waits for all, up to the first that is refused. How many; an
    /// errno where that is the first. Their callbacks are not called.
    ///
    /// # Safety
    /// `events` has `count` pointers, each NULL or of [`IOEvent::into_raw`].
    pub(crate) unsafe fn submit_wait_batch(
        &self,
        events: *const *mut (),
        count: usize,
    ) -> Result<usize, Errno> {
        // SAFETY: by the caller's promise.
        let pointer =
            |at: usize| NonNull::new(unsafe { events.add(at).read() }).ok_or(libc::EINVAL);
        // SAFETY: one of those; and the handle is not dropped.
        let event = |raw| ManuallyDrop::new(unsafe { IOEvent::<C>::from_raw(raw) });
        match count {
            0 => return Ok(0),
            // It may not have to be handed over.
            1 => return self.submit_wait(&mut event(pointer(0)?)).map(|_| 1),
            _ => {}
        }
        self.check_process()?;
        self.check_outside(0)?;
        let here = here();
        self.list[0].check_may_wait(here, self.is_reactors_thread())?;
        let latch = Latch::default();
        let mut batch = Batch { shards: self, here, newest: None };
        let mut accepted = 0;
        // Kept here: the list may be gone before they are done.
        let mut newest = None;
        while accepted < count {
            let add = |raw| batch.add_awaited(event(raw), &latch, newest).map(|()| raw);
            match pointer(accepted).and_then(add) {
                Ok(raw) => {
                    newest = Some(raw);
                    accepted += 1;
                }
                Err(errno) if accepted == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        drop(batch);
        while latch.left() > 0 {
            // Each of them has to be polled, where nobody else does.
            self.list.iter().for_each(|shard| shard.wait_at(&latch));
        }
        // None is the program's again before all are done.
        while let Some(raw) = newest {
            newest = event(raw).release_awaited();
        }
        Ok(accepted)
    }

    /// Fails inside a callback of the context, or of another one on these workers: either could wait
    /// for itself.
    fn check_outside(&self, workers: usize) -> Result<(), Errno> {
        let has = |ledger| self.list.iter().any(|shard| ptr::eq(shard.ledger(), ledger));
        match in_callback_of(has, workers) {
            true => Err(libc::EDEADLK),
            false => Ok(()),
        }
    }

    /// Asks for an event back; `ENOENT` where none of this id is in flight here.
    pub(crate) fn cancel(&self, id: u64) -> Result<(), Errno> {
        let all = self.list.iter().map(|shard| shard.cancel(id));
        { all }.find(|found| *found != Err(libc::ENOENT)).unwrap_or(Err(libc::ENOENT))
    }

    /// Runs callbacks of a polled context; `EINVAL` for one that has threads.
    pub(crate) fn poll(&self, min: u32, deadline: Deadline) -> Result<u32, Errno> {
        self.check_process()?;
        self.check_outside(0)?;
        self.list[0].poll(min, deadline)
    }

    /// The descriptor that is readable when a poll would hand something out.
    pub(crate) fn notify_descriptor(&self) -> Result<RawFd, Errno> {
        self.list[0].notify_descriptor()
    }

    /// Waits for the callbacks of everything accepted before the call.
    pub(crate) fn drain(&self, deadline: Deadline) -> Result<(), Errno> {
        self.check_process()?;
        self.check_outside(self.list[0].workers().id())?;
        match self.wait_drained(deadline)? {
            true => Ok(()),
            false => Err(libc::ETIMEDOUT),
        }
    }

    fn wait_drained(&self, deadline: Deadline) -> Result<bool, Errno> {
        // All before the first wait: what comes later holds nothing back.
        let mut points = [0; MAX_REACTORS as usize];
        for (shard, point) in self.list.iter().zip(&mut points) {
            *point = shard.ledger().drain_point();
        }
        let all = || self.list.iter().zip(&points);
        if self.config().polled {
            for (shard, point) in all() {
                if !shard.poll_until_drained(*point, deadline)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        // Each is asked every time: that is what closes its epochs.
        let drained =
            || all().fold(true, |all, (shard, &point)| shard.ledger().drained(point) && all);
        let settled = || {
            let drained = drained();
            if !drained {
                // Again for what was gathered since, where the drain needs that.
                self.list.iter().for_each(|shard| shard.flush_gathered());
            }
            drained
        };
        Ok(self.list[0].ledger().wait_settled(deadline, settled))
    }

    /// From here on no merger is made; `EBUSY` where there is one.
    fn close_gathered(&self) -> Result<(), Errno> {
        match Gathered::close(self.list.iter().map(|shard| &shard.gathered)) {
            true => Ok(()),
            false => Err(libc::EBUSY),
        }
    }

    /// Lets the reactors' threads end when they have nothing left to do.
    pub(super) fn stop(&self) {
        self.list.iter().for_each(|shard| shard.stop());
    }

    /// Refuses new events, completes all accepted ones, runs their callbacks, ends the threads.
    pub(crate) fn shut_down(&self) -> Result<(), Errno> {
        self.check_process()?;
        self.check_outside(self.list[0].workers().id())?;
        for shard in &self.list {
            shard.claim_end(|| self.close_gathered())?;
        }
        let finish = || {
            for shard in &self.list {
                shard.ledger().close();
            }
            self.wait_drained(None).map(|_| ())
        };
        // A foreign channel is emptied by the reactor before it ends, and counted in by it; nothing
        // may be closed before that.
        if !self.list[0].is_foreign() {
            finish()?;
        }
        self.stop();
        self.list.iter().for_each(|shard| shard.join());
        finish()
    }

    /// What a forked child may do with its copy: see [`Shard::abandon_in_child`].
    pub(crate) fn abandon_in_child(&self) {
        self.list.iter().for_each(|shard| shard.clone().abandon_in_child());
    }

    pub(crate) fn stats(&self) -> Stats {
        self.list.iter().fold(Stats::default(), |sum, shard| sum.plus(&shard.stats()))
    }

    /// Whether this is the thread of a reactor of the context, which outlives it.
    #[inline]
    pub(crate) fn is_reactors_thread(&self) -> bool {
        self.home().is_reactors_thread()
    }

    /// The configuration of each reactor that was in force at the start: the driver is never AUTO.
    pub(crate) fn config(&self) -> &Config {
        self.list[0].config()
    }

    pub(crate) fn reactors(&self) -> u32 {
        self.list.len() as u32
    }

    pub(crate) fn worker_threads(&self) -> u32 {
        self.list[0].workers().threads()
    }

    /// Which driver runs, and why not another one.
    pub(crate) fn runs(&self) -> Runs<'_> {
        let Passed { mut uring_errno, mut aio_errno, ref reason } = self.passed;
        let driver = self.config().driver;
        let text = |text: String| CString::new(text).unwrap_or_default();
        let Some(errno) = self.list.iter().find_map(|shard| shard.broken()) else {
            let reason = self.reasons[0].get_or_init(|| text(reason.clone()));
            return Runs { driver, uring_errno, aio_errno, reason };
        };
        match driver {
            Driver::Aio => aio_errno = errno,
            _ => uring_errno = errno,
        }
        let reason = self.reasons[1].get_or_init(|| {
            let error = io::Error::from_raw_os_error(errno);
            let name = driver.name();
            text(format!("{name}: forbidden or broken while it ran, the pool goes on ({error})"))
        });
        Runs { driver: Driver::Pool, uring_errno, aio_errno, reason }
    }
}

/// Events that are handed over together, at its end at the latest.
pub(crate) struct Batch<'a, C: IOCallback> {
    shards: &'a Shards<C>,
    here: Here,
    /// Each is tied to the one before it.
    newest: Option<IOEvent<C>>,
}

impl<C: IOCallback> Batch<'_, C> {
    /// Adds an event, waiting as a submit does. One that is not accepted comes back as it was.
    #[inline(always)]
    pub(crate) fn add(&mut self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, Errno)> {
        let Batch { shards, here, .. } = *self;
        let shard = shards.of(event.fd(), event.kind());
        // To wait for its own events would be to wait for ever.
        if let Err(errno) = shard.accept(&event, here, true, || self.hand_over()) {
            return Err((event, errno));
        }
        self.put(shard, event);
        Ok(())
    }

    /// Adds an event that is waited for at this latch, with those `before`. One that is not accepted stays as
    /// it was.
    fn add_awaited(
        &mut self,
        event: ManuallyDrop<IOEvent<C>>,
        latch: &Latch,
        before: Option<NonNull<()>>,
    ) -> Result<(), Errno> {
        let shard = self.shards.of(event.fd(), event.kind());
        shard.accept_awaited(&event, self.here, latch, before)?;
        self.put(shard, ManuallyDrop::into_inner(event));
        Ok(())
    }

    /// Takes in what was accepted.
    #[inline(always)]
    fn put(&mut self, shard: &Shard<C>, event: IOEvent<C>) {
        // On the reactor's own thread it would gain nothing.
        if shard.config().merge_limit == 0 && shard.is_reactors_thread() {
            return shard.hand_over(event, self.here);
        }
        if let Some(older) = self.newest.take() {
            event.set_link(Link::Batched(older));
        }
        self.newest = Some(event);
    }

    #[inline(always)]
    fn hand_over(&mut self) {
        if let Some(newest) = self.newest.take() {
            self.hand_over_all(newest);
        }
    }

    #[inline(never)]
    fn hand_over_all(&self, newest: IOEvent<C>) {
        let shards = self.shards;
        // For each reactor, tied the other way round.
        let mut oldest = [const { None }; MAX_REACTORS as usize];
        let mut rest = Some(newest);
        while let Some(event) = rest {
            rest = merge::untie(&event);
            let oldest = &mut oldest[shards.index(event.fd(), event.kind())];
            if let Some(newer) = oldest.take() {
                event.set_link(Link::Batched(newer));
            }
            *oldest = Some(event);
        }
        for (shard, batch) in shards.list.iter().zip(oldest) {
            batch.into_iter().for_each(|batch| shard.hand_over(batch, self.here));
        }
    }
}

impl<C: IOCallback> Drop for Batch<'_, C> {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::Sim;
    use crate::tasks::ClosureCb;
    use crate::thread::set_number;

    #[test]
    fn reads_go_by_thread_and_all_else_by_descriptor() {
        let config = Config { polled: true, ..Config::default() };
        let context = Shards::<ClosureCb>::over(config, (0..3).map(Sim::pool));
        let others = [
            IOAction::Write,
            IOAction::Fsync,
            IOAction::Fdatasync,
            IOAction::Fallocate(0),
            IOAction::SyncRange(0),
            IOAction::Truncate,
            IOAction::Advise(0),
        ];
        let mut of_descriptors = [0; 3];
        for fd in 0..30 {
            let index = context.index(fd, IOAction::Write);
            of_descriptors[index] += 1;
            for thread in 0..6 {
                set_number(thread);
                assert_eq!(context.index(fd, IOAction::Read), thread as usize % 3);
                assert!(ptr::eq(&**context.home(), &*context.list[thread as usize % 3]));
                assert!(others.iter().all(|action| context.index(fd, *action) == index));
            }
        }
        assert!(of_descriptors.iter().all(|count| (8..=12).contains(count)), "{of_descriptors:?}");
    }

    #[test]
    fn threads_take_turns() {
        let one_more = || std::thread::spawn(|| [number(), number()]).join().unwrap();
        let first = one_more();
        let second = one_more();
        assert!(first[0] == first[1] && second[0] == second[1], "each keeps its own");
        assert_ne!(first, second);
    }
}
