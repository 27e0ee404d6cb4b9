//! One reactor of a context, and the ways to and from it: its own ledger, lanes, wake-up and driver.
//! Everything here may be called from any thread; what must happen on one thread is the reactor's.

mod waiting;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossfire::flavor::Flavor;
use crossfire::{mpsc, AsyncRx, MTx};
use once_cell::sync::OnceCell;

use super::{Config, Errno, Stats};
use crate::callback_worker::IOWorkers;
use crate::driver::backed::Backed;
use crate::driver::choice::{choose, Choice, Chosen, Passed, Wish};
use crate::driver::pool::Pool;
#[cfg(any(test, fuzzing))]
use crate::driver::{
    aio::Aio,
    sim::{Sim, SimAio},
};
use crate::driver::{Descriptors, Driver, Interface, Refusal};
use crate::fork;
use crate::gate::{lock, Deadline, Gate};
use crate::gathered::Gathered;
use crate::identity::Cell as Identity;
use crate::intake::{InnerFlavor, Lanes, OuterFlavor};
use crate::ledger::{Ledger, Refused};
use crate::merge::MAX_LIMIT;
use crate::reactor::{count_in, count_in_one, Core, PollEnd, Polled, Reactor, Settings};
use crate::stats::{Counters, Published};
use crate::tasks::{IOCallback, IOEvent, Link, Unfit};
use crate::thread::{here, set_number, spawn, Here, NO_THREAD};
use crate::wake::{new_eventfd, write_eventfd, WakeUp, NO_WAKE_UP};

/// The part of a context that outlives its handle as long as a caller is inside.
pub(crate) struct Shard<C: IOCallback> {
    /// Dropped before the core, whose descriptor it may write.
    seat: Seat<C>,
    /// Also held by the reactor's thread.
    core: Arc<Core<C>>,
    /// Itself, for the list of what a polling thread owns.
    me: Weak<Shard<C>>,
    /// Those of the other reactors of the context, where there are any.
    others: OnceCell<Box<[Weak<Shard<C>>]>>,
    /// Senders of the context's own lanes. `None` in a polled context and with a foreign channel.
    outer: Option<MTx<OuterFlavor<C>>>,
    inner: Option<MTx<InnerFlavor<C>>>,
    wake_up: Arc<WakeUp>,
    workers: IOWorkers<C>,
    /// In force: the driver is never AUTO.
    config: Config,
    pub(crate) gathered: Gathered<C>,
    /// Counted by callers that do I/O on their own thread.
    callers: Published,
    generation: fork::Generation,
    /// Held for a forked child to close, without asking anybody.
    descriptors: Descriptors,
}

/// One of how many reactors it is, and what it shares with the others.
pub(super) struct Place {
    pub number: u32,
    /// The depth below which it is of no use.
    pub least: u32,
    /// Where those wait who wait for all.
    pub settled: Arc<Gate>,
}

/// A reactor, and why its driver is not the one that was asked for.
type Started<C> = Result<(Arc<Shard<C>>, Passed), Refusal>;

/// Who turns the reactor.
enum Seat<C> {
    Thread(Mutex<Option<JoinHandle<()>>>),
    Owner(PolledSeat<C>),
}

/// A reactor that is used only on its owner's thread.
struct PolledSeat<C> {
    reactor: UnsafeCell<Box<dyn Polled<C>>>,
    /// The owner is inside the reactor: its callbacks must not come back to it.
    busy: Cell<bool>,
    started: Cell<bool>,
}

// SAFETY: everything in here is used by the thread for which `Backlog::is_mine` holds, and by
// `Drop`, which has no company.
unsafe impl<C> Sync for PolledSeat<C> {}
// SAFETY: as above; the reactor is made on one thread and used on another.
unsafe impl<C> Send for PolledSeat<C> {}

/// Sets up the driver and puts a reactor around it: on a thread of its own, or in the seat of
/// whoever polls.
fn start<C: IOCallback, Q: Flavor<Item = IOEvent<C>>>(
    config: Config,
    place: Place,
    workers: &IOWorkers<C>,
    wake_up: Arc<WakeUp>,
    lanes: Option<Lanes<C, Q>>,
    outer: Option<MTx<OuterFlavor<C>>>,
    inner: Option<MTx<InnerFlavor<C>>>,
) -> Started<C> {
    let Config { driver, depth, sqpoll, iopoll, .. } = config;
    let choice = choose(Wish { driver, depth, least: place.least, sqpoll, iopoll }, &wake_up)?;
    let Choice { kernel, depth, passed } = choice;
    let driver = match kernel {
        Chosen::Uring(_) => Driver::Uring,
        Chosen::Aio(_) => Driver::Aio,
        Chosen::Pool => Driver::Pool,
        #[cfg(any(test, fuzzing))]
        Chosen::Simulated(driver, _) => driver,
    };
    let is_ring = driver == Driver::Uring;
    let (sqpoll, iopoll) = (sqpoll && is_ring, iopoll && is_ring);
    let merge_limit = config.merge_limit.min(MAX_LIMIT as u32);
    let config = Config { driver, depth, sqpoll, iopoll, merge_limit, ..config };
    let workers = if config.polled { IOWorkers::none() } else { workers.share() };
    let parts = Parts { config, place, workers, wake_up, lanes, outer, inner };
    let pool = Pool::new(depth, parts.wake_up.clone());
    let shard = match kernel {
        Chosen::Uring(ring) => assemble(parts, Backed::new(ring, pool)),
        Chosen::Aio(context) => assemble(parts, Backed::new(context, pool)),
        Chosen::Pool => assemble(parts, pool),
        #[cfg(any(test, fuzzing))]
        Chosen::Simulated(driver, number) => {
            let wake = parts.lanes.is_some().then(|| parts.wake_up.descriptor());
            let (ring, pool) = (Sim::new(number).woken_by(wake), Sim::pool(number).woken_by(wake));
            let aio = || Aio::over(SimAio::new(number), depth, -1);
            match driver {
                Driver::Pool => assemble(parts, pool),
                // It has no wake-up to sleep on.
                Driver::Aio if wake.is_none() => assemble(parts, Backed::new(aio(), pool)),
                _ => assemble(parts, Backed::new(ring, pool)),
            }
        }
    };
    Ok((shard?, passed))
}

/// What it is made of, whatever its driver.
struct Parts<C: IOCallback, Q: Flavor<Item = IOEvent<C>>> {
    config: Config,
    place: Place,
    workers: IOWorkers<C>,
    wake_up: Arc<WakeUp>,
    /// `None` in a polled context.
    lanes: Option<Lanes<C, Q>>,
    outer: Option<MTx<OuterFlavor<C>>>,
    inner: Option<MTx<InnerFlavor<C>>>,
}

fn assemble<C: IOCallback, Q: Flavor<Item = IOEvent<C>>>(
    parts: Parts<C, Q>,
    mut interface: impl Interface + 'static,
) -> Result<Arc<Shard<C>>, Refusal> {
    let Parts { config, place, workers, wake_up, lanes, outer, inner } = parts;
    let Place { number, settled, .. } = place;
    let ledger =
        Ledger::new(config.queue_size, config.polled).keeping(config.depth).settling_at(settled);
    let core = Arc::new(Core::new(ledger));
    let descriptors = interface.descriptors();
    let Config { depth, merge_limit, sync_groups, stall_ms, .. } = config;
    let stall = (stall_ms > 0).then(|| Duration::from_millis(stall_ms.into()));
    let settings = Settings { depth, merge_limit, sync_groups, stall };
    let delivery = workers.delivery();
    let seat = if lanes.is_none() {
        let reactor = Reactor::<C, _, OuterFlavor<C>>::new(interface, settings, None, delivery);
        Seat::Owner(PolledSeat {
            reactor: UnsafeCell::new(Box::new(reactor)),
            busy: Cell::new(false),
            started: Cell::new(false),
        })
    } else {
        let (started, outcome) = crossfire::oneshot::oneshot();
        let core = core.clone();
        let thread = spawn("ioe-reactor".into(), move || {
            set_number(number);
            let begun = interface.start();
            let works = begun.is_ok();
            started.send(begun);
            if works {
                Reactor::new(interface, settings, lanes, delivery).run(&core);
            }
        })
        .map_err(Refusal::because(NO_THREAD))?;
        match outcome.recv() {
            Ok(Ok(())) => Seat::Thread(Mutex::new(Some(thread))),
            failed => {
                let _ = thread.join();
                let error = failed.ok().and_then(Result::err);
                let error = error.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO));
                return Err(Refusal::because("a driver did not start on its thread")(error));
            }
        }
    };
    Ok(Arc::new_cyclic(|me| Shard {
        seat,
        core,
        me: me.clone(),
        others: OnceCell::new(),
        outer,
        inner,
        wake_up,
        workers,
        config,
        gathered: Gathered::default(),
        callers: Published::default(),
        generation: fork::generation(),
        descriptors,
    }))
}

impl<C: IOCallback> Shard<C> {
    /// A polled one around any interface.
    #[cfg(test)]
    pub(super) fn over(
        config: Config,
        place: Place,
        interface: impl Interface + 'static,
    ) -> Arc<Self> {
        let parts = Parts::<C, OuterFlavor<C>> {
            config,
            place,
            workers: IOWorkers::none(),
            wake_up: Arc::new(WakeUp::new().expect("a descriptor")),
            lanes: None,
            outer: None,
            inner: None,
        };
        assemble(parts, interface).expect("no threads to start")
    }

    /// One with channels of its own.
    pub(super) fn new(config: Config, place: Place, workers: &IOWorkers<C>) -> Started<C> {
        let wake_up = Arc::new(WakeUp::new().map_err(Refusal::because(NO_WAKE_UP))?);
        if config.polled {
            return start::<C, OuterFlavor<C>>(config, place, workers, wake_up, None, None, None);
        }
        let (outer, outer_end) = mpsc::bounded_blocking_async(config.queue_size as usize);
        let (inner, inner_end) = mpsc::unbounded_blocking();
        let lanes = Lanes::new(outer_end, Some(inner_end.into()), &wake_up);
        start(config, place, workers, wake_up, Some(lanes), Some(outer), Some(inner))
    }

    /// One that drains a channel of somebody else's.
    pub(super) fn draining<Q: Flavor<Item = IOEvent<C>>>(
        config: Config,
        place: Place,
        receiver: AsyncRx<Q>,
        workers: &IOWorkers<C>,
    ) -> Started<C> {
        let wake_up = Arc::new(WakeUp::new().map_err(Refusal::because(NO_WAKE_UP))?);
        let lanes = Lanes::new(receiver, None, &wake_up);
        let room = wake_up.clone();
        let (shard, passed) = start(config, place, workers, wake_up, Some(lanes), None, None)?;
        shard.core.ledger.set_on_room(move || room.wake());
        Ok((shard, passed))
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.core.ledger
    }

    /// Fails in a forked child with `EOWNERDEAD`: nothing of the parent's context works there.
    pub(crate) fn check_process(&self) -> Result<(), Errno> {
        fork::check(self.generation)
    }

    /// Makes the calling thread the owner of a polled context, where none is.
    #[inline(always)]
    fn seat(&self, here: Here) -> Result<Option<&PolledSeat<C>>, Errno> {
        let Seat::Owner(seat) = &self.seat else { return Ok(None) };
        if !(self.core.backlog.belongs_to(here.token) && seat.started.get()) {
            self.take_seat(seat, here)?;
        }
        Ok(Some(seat))
    }

    #[cold]
    fn take_seat(&self, seat: &PolledSeat<C>, here: Here) -> Result<(), Errno> {
        if !self.core.backlog.claim(here.token) {
            return Err(libc::EPERM);
        }
        if !seat.started.get() {
            if !Owned::add(self.me.clone()) {
                // The thread is past its own end: it could not finish what it began.
                self.core.backlog.abandon();
                return Err(libc::EPERM);
            }
            seat.with(|reactor| reactor.start(&self.core))?.map_err(errno_of)?;
            seat.started.set(true);
        }
        Ok(())
    }

    /// Hands an event in, or joined ones. What is not accepted comes back as it was. The caller has
    /// asked `check_process`.
    #[inline]
    pub(super) fn submit(
        &self,
        event: IOEvent<C>,
        may_wait: bool,
    ) -> Result<(), (IOEvent<C>, Errno)> {
        let here = here();
        match self.accept(&event, here, may_wait, || {}) {
            Ok(()) => {
                self.hand_over(event, here);
                Ok(())
            }
            Err(errno) => Err((event, errno)),
        }
    }

    /// What [`Shards::take_plain`] does, in a polled context.
    ///
    /// # Safety
    /// As there.
    ///
    /// [`Shards::take_plain`]: super::shards::Shards::take_plain
    pub(super) unsafe fn take_plain(&self, events: *const *mut (), count: usize) -> usize {
        if self.check_process().is_err() {
            return 0;
        }
        let Ok(Some(seat)) = self.seat(here()) else { return 0 };
        // SAFETY: by the caller's promise.
        let taken = seat.with(|reactor| unsafe { reactor.take_plain(&self.core, events, count) });
        taken.unwrap_or(0)
    }

    /// Takes an event from its caller and counts it in, with all that are joined with it; or leaves
    /// them as they were. `before_waiting` is called where that may take a while.
    #[inline(always)]
    pub(super) fn accept(
        &self,
        event: &IOEvent<C>,
        here: Here,
        may_wait: bool,
        mut before_waiting: impl FnMut(),
    ) -> Result<(), Errno> {
        if !event.is_plain() {
            return self.accept_other(event, here, may_wait, &mut before_waiting);
        }
        self.seat(here)?;
        event.launch().map_err(Unfit::errno)?;
        match count_in_one(&self.core.ledger, event, !here.in_callback) {
            Ok(()) => Ok(()),
            Err(refused) => self.insist(event, here, may_wait, &mut before_waiting, refused),
        }
    }

    #[inline(never)]
    fn accept_other(
        &self,
        event: &IOEvent<C>,
        here: Here,
        may_wait: bool,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<(), Errno> {
        self.launch(event, here)?;
        if let Err(refused) = self.count_in(event, here) {
            self.insist(event, here, may_wait, before_waiting, refused)?;
        }
        if event.is_barrier() {
            // What was gathered before it is among what it waits for.
            self.flush_all_gathered();
        }
        Ok(())
    }

    /// Waits for room and counts in what was refused.
    #[cold]
    fn insist(
        &self,
        event: &IOEvent<C>,
        here: Here,
        may_wait: bool,
        before_waiting: &mut dyn FnMut(),
        mut refused: Refused,
    ) -> Result<(), Errno> {
        loop {
            before_waiting();
            self.make_room(refused, event, may_wait)?;
            match self.count_in(event, here) {
                Ok(()) => return Ok(()),
                Err(again) => refused = again,
            }
        }
    }

    /// Takes an event from its caller, with all that are joined with it.
    pub(crate) fn launch(&self, run: &IOEvent<C>, here: Here) -> Result<(), Errno> {
        self.seat(here)?;
        if !run.is_joined() {
            return run.launch().map_err(Unfit::errno);
        }
        for (number, event) in run.chain().enumerate() {
            if let Err(unfit) = event.launch() {
                run.chain().take(number).for_each(IOEvent::abort_launch);
                return Err(unfit.errno());
            }
        }
        Ok(())
    }

    /// Counts in what was launched. Inside a callback there is always room: a callback that waited
    /// could wait for itself.
    pub(crate) fn count_in(&self, run: &IOEvent<C>, here: Here) -> Result<(), Refused> {
        count_in(&self.core.ledger, run, !here.in_callback)
    }

    /// Waits for room for an event that was refused. Where that will not do, the event is given
    /// back to its caller.
    #[cold]
    pub(crate) fn make_room(
        &self,
        refused: Refused,
        run: &IOEvent<C>,
        may_wait: bool,
    ) -> Result<(), Errno> {
        let errno = match refused {
            Refused::Closed => libc::ESHUTDOWN,
            Refused::Full => {
                let _waiting = self.gathered.wait();
                self.leave_room();
                if may_wait && !self.config.polled {
                    self.ledger().wait_for_room();
                    return Ok(());
                }
                libc::EAGAIN
            }
        };
        run.chain().for_each(IOEvent::abort_launch);
        Err(errno)
    }

    /// Hands over what mergers gathered.
    pub(super) fn flush_gathered(&self) {
        self.gathered.flush(|run| self.hand_over(run, here()));
    }

    /// Sets whose mergers [`Shard::flush_all_gathered`] flushes as well: once, before the context is
    /// shared.
    pub(super) fn set_others(&self, others: impl Iterator<Item = Weak<Shard<C>>>) {
        let _ = self.others.set(others.collect());
    }

    /// The same for all reactors of the context.
    pub(super) fn flush_all_gathered(&self) {
        self.flush_gathered();
        let others = self.others.get().into_iter().flatten();
        others.filter_map(Weak::upgrade).for_each(|other| other.flush_gathered());
    }

    /// The same if nothing else takes up room: whatever else does will leave it by itself, and the
    /// mergers may go on.
    pub(crate) fn leave_room(&self) {
        if self.gathered.events() >= self.ledger().places() {
            self.flush_gathered();
        }
    }

    /// Fails with `EPERM` where a polled context is another thread's.
    pub(crate) fn check_owner(&self) -> Result<(), Errno> {
        self.check_process()?;
        let backlog = &self.core.backlog;
        match self.config.polled && !backlog.is_mine() && !backlog.is_unclaimed() {
            true => Err(libc::EPERM),
            false => Ok(()),
        }
    }

    /// Whether the thread that owned a polled context has ended.
    pub(crate) fn has_lost_owner(&self) -> bool {
        self.core.backlog.is_abandoned()
    }

    /// Gives accepted events to the reactor.
    #[inline(always)]
    pub(crate) fn hand_over(&self, event: IOEvent<C>, here: Here) {
        let core = &*self.core;
        let mine = core.backlog.belongs_to(here.token);
        if mine && (here.in_callback || matches!(self.seat, Seat::Owner(_))) {
            if !event.is_plain() && event.first_deadline().is_some() {
                core.news.store(true, SeqCst);
            }
            return core.backlog.push(event);
        }
        self.send(event);
    }

    /// The same by another thread than the reactor's.
    #[inline(never)]
    fn send(&self, event: IOEvent<C>) {
        let core = &*self.core;
        let deadline = event.first_deadline();
        let alone_sync = match event.link() {
            Link::None if event.is_sync() => Some(event.fd()),
            _ => None,
        };
        let admission = event.admission();
        // Neither can fail: the receivers live until everything accepted has been taken, and the
        // bounded one has room for as many as there are places in the ledger.
        match (admission.has_place(), &self.inner, &self.outer) {
            (true, _, Some(lane)) => drop(lane.send(event)),
            (false, Some(lane), _) => drop(lane.send(event)),
            _ => unreachable!("a context with a thread and without lanes has no submit"),
        }
        if let Some(deadline) = deadline {
            core.news.store(true, SeqCst);
            // Otherwise it looks by itself in time.
            if core.time_of(deadline) < core.looks_at.load(SeqCst) {
                return self.wake_up.wake_busy();
            }
        } else if alone_sync.is_some_and(|fd| core.callers.reactor_comes(fd)) {
            // It has to wait for a sync, whose end wakes the reactor.
            return;
        }
        self.wake_up.wake();
    }

    /// Asks for an event back; `ENOENT` where none of this id is in flight here.
    pub(super) fn cancel(&self, id: u64) -> Result<(), Errno> {
        self.check_process()?;
        if !Identity::cancel(id, Arc::as_ptr(&self.core.ledger)) {
            return Err(libc::ENOENT);
        }
        self.core.cancelled.store(true, SeqCst);
        if self.config.polled {
            self.gathered.want();
            self.core.news.store(true, SeqCst);
            // Whether or not the owner sleeps, and on which of them.
            self.wake_up.write();
            if let Some(fd) = self.core.notify.get() {
                write_eventfd(fd.as_raw_fd());
            }
        } else {
            // It may be among what was gathered, or a caller's that waits for a sync.
            self.flush_all_gathered();
            self.core.callers.wake_waiters();
            self.tell_reactor();
        }
        Ok(())
    }

    /// Runs callbacks of a polled context, outside of them; `EINVAL` for one that has threads.
    pub(crate) fn poll(&self, min: u32, deadline: Deadline) -> Result<u32, Errno> {
        let seat = self.seat(here())?.ok_or(libc::EINVAL)?;
        let wanted = self.gathered.take_wanted();
        if wanted || min > 0 {
            // Gathered events are in flight, and might be what is waited for.
            self.flush_gathered();
        }
        if wanted {
            // What was flushed may be behind others.
            self.core.news.store(true, SeqCst);
        }
        Ok(seat.with(|reactor| reactor.poll(&self.core, min, deadline))?.0)
    }

    /// The descriptor that is readable when a poll would hand something out.
    pub(super) fn notify_descriptor(&self) -> Result<RawFd, Errno> {
        let Seat::Owner(seat) = &self.seat else {
            return self.check_process().and(Err(libc::EINVAL));
        };
        self.check_owner()?;
        let fd = self.core.notify.get_or_try_init(new_eventfd).map_err(errno_of)?.as_raw_fd();
        // Before the start nothing can complete; inside the reactor, it looks for itself.
        if self.core.backlog.is_mine() && seat.started.get() && !seat.busy.get() {
            seat.with(|reactor| reactor.sync_notify(&self.core))?.map_err(errno_of)?;
        }
        Ok(fd)
    }

    /// Polls until everything before the point has returned; false where the deadline came first.
    pub(super) fn poll_until_drained(&self, point: u64, deadline: Deadline) -> Result<bool, Errno> {
        let Some(seat) = self.seat(here())? else { unreachable!("only a polled context") };
        while !self.ledger().drained(point) {
            self.flush_gathered();
            let (_, end) = seat.with(|reactor| reactor.poll(&self.core, 1, deadline))?;
            if end == PollEnd::TimedOut && !self.ledger().drained(point) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the calling thread the one that may end a polled context: its owner, or anybody where
    /// that is gone. `close` has to succeed; who fails has not become the owner.
    pub(super) fn claim_end(&self, close: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        let Seat::Owner(seat) = &self.seat else { return close() };
        let backlog = &self.core.backlog;
        let before = backlog.seize().ok_or(libc::EPERM)?;
        if seat.busy.get() {
            return Err(libc::EDEADLK);
        }
        close().inspect_err(|_| backlog.give_back(before))
    }

    /// Lets the reactor's thread end when it has nothing left to do.
    pub(super) fn stop(&self) {
        self.core.stop.store(true, SeqCst);
        self.wake_up.wake();
    }

    /// Waits for the end of the reactor's thread.
    pub(super) fn join(&self) {
        let Seat::Thread(thread) = &self.seat else { return };
        if let Some(thread) = lock(thread).take() {
            // It ends without a panic: callbacks are caught, and the loop has none.
            let _ = thread.join();
        }
    }

    /// Its events come through a channel of somebody else's.
    pub(super) fn is_foreign(&self) -> bool {
        self.outer.is_none() && !self.config.polled
    }

    /// What a forked child may do with its copy: close the descriptors, and free memory that no
    /// other thread can have been changing at the moment of the fork. The parent's ring is not
    /// touched; threads, locks and mappings are left alone.
    pub(super) fn abandon_in_child(self: Arc<Self>) {
        let close = |fd: RawFd| {
            // SAFETY: the child's copy of a descriptor that only the context used.
            unsafe { libc::close(fd) };
        };
        self.descriptors.open().for_each(close);
        close(self.wake_up.descriptor());
        let quiet = matches!(&self.seat, Seat::Owner(seat)
            if !seat.busy.get() && self.core.backlog.claim(here().token)
                && seat.with(|reactor| reactor.forget_events(&self.core)).is_ok());
        if quiet {
            self.gathered.forget_events();
            drop(self);
        } else {
            self.core.notify.get().into_iter().for_each(|fd| close(fd.as_raw_fd()));
            std::mem::forget(self);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let Counters {
            failed,
            bytes_read,
            bytes_written,
            operations,
            system_calls,
            merged,
            continued,
            syncs_joined,
        } = self.core.counters.read() + self.callers.read();
        let wake_ups = self.wake_up.writes() + self.ledger().wake_calls();
        let (accepted, completed) = self.ledger().accepted_and_started();
        Stats {
            accepted,
            completed,
            failed,
            bytes_read,
            bytes_written,
            operations,
            system_calls: system_calls + wake_ups,
            merged,
            continued,
            syncs_joined,
            in_flight: accepted - completed,
        }
    }

    /// Whether this is the reactor's thread, which the context outlives.
    pub(crate) fn is_reactors_thread(&self) -> bool {
        self.core.backlog.is_mine()
    }

    /// The configuration that was in force at the start: the driver is never AUTO.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The errno with which the kernel interface broke, if it did.
    pub(super) fn broken(&self) -> Option<Errno> {
        self.core.broken.get().copied()
    }

    pub(super) fn workers(&self) -> &IOWorkers<C> {
        &self.workers
    }
}

fn errno_of(error: io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl<C> PolledSeat<C> {
    /// Uses the reactor, on its owner's thread. `EDEADLK` inside itself: in a callback, or in the
    /// program's log function.
    fn with<R>(&self, f: impl FnOnce(&mut dyn Polled<C>) -> R) -> Result<R, Errno> {
        if self.busy.replace(true) {
            return Err(libc::EDEADLK);
        }
        // SAFETY: one thread, and `busy` says that nobody further up its stack is inside.
        let result = f(unsafe { (*self.reactor.get()).as_mut() });
        self.busy.set(false);
        Ok(result)
    }
}

/// A polled context, as the end of its owner's thread sees it.
trait Orphan {
    /// The owner ends. Only its thread may use the ring, so what is in flight is finished now;
    /// the callbacks are left to whoever frees the context.
    fn owner_ends(&self);
}

impl<C: IOCallback> Orphan for Shard<C> {
    fn owner_ends(&self) {
        if self.check_process().is_err() {
            return;
        }
        self.flush_gathered();
        match &self.seat {
            // A thread that left the reactor by force has left it in pieces.
            Seat::Owner(seat) if seat.with(|reactor| reactor.finish(&self.core)).is_ok() => {
                self.core.backlog.abandon();
            }
            _ => {}
        }
    }
}

/// The polled contexts of this thread.
#[derive(Default)]
struct Owned(RefCell<Vec<Weak<dyn Orphan>>>);

thread_local!(static OWNED: Owned = Owned::default());

impl Owned {
    /// False where nobody is left to tell the thread's end.
    fn add(context: Weak<dyn Orphan>) -> bool {
        let added = OWNED.try_with(|owned| {
            let mut list = owned.0.borrow_mut();
            list.retain(|context| context.strong_count() > 0);
            list.push(context);
        });
        added.is_ok()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        for context in self.0.get_mut().drain(..) {
            if let Some(context) = context.upgrade() {
                context.owner_ends();
            }
        }
    }
}
