//! The one loop: takes events in, hands their operations to a driver, continues what came back
//! short, retries what the kernel asks to retry, and hands the rest to callbacks.
//!
//! What short I/O and which errno mean is decided by [`Attempt`], and nowhere else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfire::flavor::Flavor;
use once_cell::sync::OnceCell;

use crate::attempt::{Attempt, Verdict};
use crate::callback_worker::Delivery;
use crate::driver::direct::FileSizeSignal;
use crate::driver::{forbidden, Done, Entered, Interface, Prep, Wait, NOT_TAKEN};
use crate::gate::Deadline;
use crate::intake::{Backlog, Lanes};
use crate::ledger::{Ledger, Refused};
use crate::log::{log, Level};
use crate::merge::{self, Segments, Waiting};
use crate::stats::{Counters, Published};
use crate::tasks::{IOCallback, IOEvent, Link, Unfit};
use crate::thread::here;
use crate::wake::{clear_eventfd, write_eventfd};

/// How many events that may be joined are taken from one source before the next has its turn.
const TAKEN_AT_ONCE: usize = 64;

/// How long to leave a kernel alone that takes nothing while it holds nothing of ours.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// What a reactor shares with its submitters and its observers.
pub(crate) struct Core<C> {
    pub ledger: Arc<Ledger>,
    pub backlog: Backlog<C>,
    /// Counted by the reactor.
    pub counters: Published,
    /// Everything was delivered, or nobody will ask any more: the reactor's thread may end.
    pub stop: AtomicBool,
    /// The descriptor of `ioe_context_fd`, once it was asked for.
    pub notify: OnceCell<OwnedFd>,
    /// The errno with which the kernel interface broke: since then the pool does everything.
    pub broken: OnceCell<i32>,
}

/// An event whose operation is the kernel's next or is in it, and all that travel with it.
struct Slot<C> {
    event: Option<IOEvent<C>>,
    attempt: Attempt,
    /// The events do not travel together any more, but one after the other.
    apart: bool,
    /// Where the bytes of joined events lie.
    segments: Segments,
}

pub(crate) struct Reactor<C: IOCallback, I, Q: Flavor<Item = IOEvent<C>>> {
    interface: I,
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
    /// Events taken in, for which there is no slot yet.
    waiting: Waiting<C>,
    /// Events in slots behind the first of each.
    followers: usize,
    /// Slots whose operation has to be issued.
    issue: VecDeque<u32>,
    done: Vec<Done>,
    /// Completed events whose callbacks come next.
    ready: VecDeque<IOEvent<C>>,
    /// `None` in a polled context.
    lanes: Option<Lanes<C, Q>>,
    delivery: Delivery<C>,
    /// Operations prepared and not done.
    pending: usize,
    /// The source that `take` asks first: 0 backlog, 1 inner lane, 2 outer lane.
    source: u8,
    /// Operations lately completed while they were submitted (the page cache): look for
    /// completions before paying for a sleep.
    eager: bool,
    /// The kernel took nothing the last time.
    refused: bool,
    /// Something was queued that might exceed RLIMIT_FSIZE.
    may_extend: bool,
    notifying: bool,
    /// System calls made to ask how descriptors were opened.
    asked: u64,
    counters: Counters,
}

impl<C: IOCallback, I: Interface, Q: Flavor<Item = IOEvent<C>>> Reactor<C, I, Q> {
    pub(crate) fn new(
        interface: I,
        depth: u32,
        merge_limit: u32,
        lanes: Option<Lanes<C, Q>>,
        delivery: Delivery<C>,
    ) -> Self {
        let slot = |_| Slot {
            event: None,
            attempt: Attempt::default(),
            apart: false,
            segments: Segments::default(),
        };
        Reactor {
            interface,
            slots: (0..depth).map(slot).collect(),
            free: (0..depth).rev().collect(),
            waiting: Waiting::new(merge_limit.into()),
            followers: 0,
            issue: VecDeque::with_capacity(depth as usize),
            done: Vec::with_capacity(depth as usize),
            ready: VecDeque::with_capacity(depth as usize),
            lanes,
            delivery,
            pending: 0,
            source: 0,
            eager: false,
            refused: false,
            may_extend: false,
            notifying: false,
            asked: 0,
            counters: Counters::default(),
        }
    }

    /// Takes in what waits: as much as there are free slots, or all of it where it is joined. The
    /// sources take turns, so that none of them starves, whatever the others bring.
    fn take(&mut self, core: &Core<C>) {
        self.fill();
        let sources = if self.lanes.is_some() { 3 } else { 1 };
        let mut empty = 0;
        while empty < sources && (self.waiting.merges() || !self.free.is_empty()) {
            let source = self.source % sources;
            self.source = source + 1;
            let share = match self.waiting.merges() {
                true => TAKEN_AT_ONCE,
                false => self.free.len().div_ceil(sources.into()),
            };
            let taken = (0..share).take_while(|_| self.take_from(core, source)).count();
            empty = if taken == 0 { empty + 1 } else { 0 };
        }
        self.fill();
    }

    fn take_from(&mut self, core: &Core<C>, source: u8) -> bool {
        let event = match (source, &mut self.lanes) {
            (0, _) => core.backlog.pop(),
            (1, Some(lanes)) => lanes.take_inner(),
            (_, Some(lanes)) if lanes.foreign && !core.ledger.has_room() => None,
            (_, Some(lanes)) => {
                let event = lanes.take_outer();
                match lanes.foreign {
                    true => event.map(|event| admit(&core.ledger, event)),
                    false => event,
                }
            }
            (_, None) => None,
        };
        event.map(|event| self.arrive(event)).is_some()
    }

    /// Takes in what came through a queue: an event, joined ones, or a batch.
    #[inline]
    fn arrive(&mut self, event: IOEvent<C>) {
        match event.link() {
            Link::Batched(_) => {
                let mut batch = Some(event);
                while let Some(event) = batch {
                    batch = merge::untie(&event);
                    self.arrive_one(event);
                }
            }
            _ => self.arrive_one(event),
        }
    }

    #[inline]
    fn arrive_one(&mut self, run: IOEvent<C>) {
        let waits = self.free.is_empty() || self.waiting.merges() || !self.waiting.is_empty();
        if run.is_done() {
            // A foreign event that could not be launched.
            self.ready.push_back(run);
        } else if waits || run.is_joined() {
            self.waiting.push(run);
        } else {
            self.hold(run);
        }
    }

    /// Gives slots to what waits.
    fn fill(&mut self) {
        while !self.free.is_empty() {
            let Some(run) = self.waiting.pop() else { return };
            if run.is_joined() && !self.may_travel(&run) {
                self.waiting.push_apart(run);
                continue;
            }
            self.hold(run);
        }
    }

    fn may_travel(&mut self, run: &IOEvent<C>) -> bool {
        self.asked += 1;
        let flags = self.interface.status_flags(run.fd());
        merge::may_travel(run, flags, || {
            self.asked += 1;
            self.interface.direct_boundary(run.fd())
        })
    }

    /// Puts an event, or joined ones, into a free slot.
    fn hold(&mut self, run: IOEvent<C>) {
        let Some(number) = self.free.pop() else { unreachable!("only while a slot is free") };
        let slot = &mut self.slots[number as usize];
        if run.is_joined() {
            let followers = run.chain().count() - 1;
            self.followers += followers;
            self.counters.merged += followers as u64;
            slot.segments.set(&run);
        }
        slot.event = Some(run);
        slot.attempt = Attempt::default();
        slot.apart = false;
        // What waits to be issued comes first.
        if !self.issue.is_empty() || !self.issue_one(number) {
            self.issue.push_back(number);
        }
    }

    /// Hands what waits to the interface until it is full.
    fn issue(&mut self) {
        while let Some(&number) = self.issue.front() {
            if !self.issue_one(number) {
                return;
            }
            self.issue.pop_front();
        }
    }

    /// Hands over the next operation of a slot; false where the interface is full.
    fn issue_one(&mut self, number: u32) -> bool {
        let slot = &mut self.slots[number as usize];
        let Some(event) = &slot.event else { unreachable!("issued without an event") };
        let op = match event.is_joined() && !slot.apart {
            true => slot.segments.operation(event),
            false => event.next_op(),
        };
        slot.attempt.begin(&op);
        match self.interface.prep(number, &op) {
            Prep::Queued => {
                self.pending += 1;
                self.counters.operations += 1;
                self.may_extend |= op.action.may_extend();
            }
            Prep::Full => return false,
            Prep::Unsupported => self.complete(number, -i64::from(libc::EOPNOTSUPP)),
        }
        true
    }

    /// Completes the event of a slot, and all that travel with it: an error is everybody's, and
    /// without one each has what it moved. Where they go one after the other, the next has its turn.
    fn complete(&mut self, number: u32, result: i64) {
        let slot = &mut self.slots[number as usize];
        let mut next = slot.event.take();
        while let Some(event) = next {
            next = if event.is_joined() { merge::untie(&event) } else { None };
            self.counters.failed += u64::from(result < 0);
            event.complete(if result < 0 { result } else { event.transferred() as i64 });
            self.ready.push_back(event);
            if next.is_none() {
                break;
            }
            self.followers -= 1;
            if slot.apart {
                slot.event = next;
                slot.attempt = Attempt::default();
                self.issue.push_back(number);
                return;
            }
        }
        self.free.push(number);
    }

    /// Operations that the kernel holds.
    fn in_kernel(&self) -> usize {
        self.pending - self.interface.queued()
    }

    /// Nothing is left to do but callbacks.
    fn is_idle(&self, core: &Core<C>) -> bool {
        let nothing_held = self.pending == 0 && self.issue.is_empty() && self.waiting.is_empty();
        nothing_held && core.backlog.is_empty()
    }

    /// Issues, enters the kernel once at most, and settles what completed.
    fn turn(&mut self, core: &Core<C>, wait: Wait) -> Entered {
        let ready = self.ready.len();
        self.issue();
        // What was refused is offered again after a completion, if one can come.
        let submit = !self.refused || self.in_kernel() == 0;
        let wait = match wait {
            // The interface was full, or refused an operation for good: no sleep before the rest
            // is handed over, and before its callback.
            _ if !self.issue.is_empty() || self.ready.len() > ready => Wait::No,
            _ if self.refused && submit => {
                std::thread::sleep(REFUSED_PAUSE);
                Wait::No
            }
            // No more can complete than the kernel holds.
            Wait::For(min, time) if !submit => Wait::For(min.min(self.in_kernel() as u32), time),
            wait => wait,
        };
        let submitted = if submit { self.interface.queued() } else { 0 };
        // The engine's own threads block the signal.
        let signal = (self.may_extend && self.lanes.is_none()).then(FileSizeSignal::hold);
        let entered = match (self.pending, wait) {
            // Nothing to submit and nothing to wait for.
            (0, Wait::No) => Entered::Fine,
            _ => self.interface.enter(submit, wait, &mut self.done),
        };
        drop(signal);
        // What was refused is still to be handed over.
        self.may_extend &= self.interface.queued() > 0;
        if submitted > 0 {
            self.eager = match wait {
                Wait::No => !self.done.is_empty(),
                Wait::For(..) => self.done.len() > 1 && self.done.len() >= submitted,
            };
        }
        self.refused = match entered {
            Entered::Broken(errno) => {
                broke(core, errno);
                false
            }
            Entered::Refused(errno) => {
                if !self.refused {
                    let error = io::Error::from_raw_os_error(errno);
                    log(Level::Warn, || format!("submission refused, trying again: {error}"));
                }
                if !submit {
                    // Not even waiting works.
                    std::thread::sleep(REFUSED_PAUSE);
                }
                true
            }
            _ => false,
        };
        self.settle();
        self.counters.system_calls =
            self.interface.system_calls() + self.delivery.wake_calls + self.asked;
        core.counters.set(&self.counters);
        entered
    }

    /// Judges everything that is done.
    fn settle(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        for Done { slot: number, result } in done.drain(..) {
            self.pending -= 1;
            if result == NOT_TAKEN {
                self.counters.operations -= 1;
                self.issue.push_back(number);
                continue;
            }
            match self.judge(number, result) {
                Verdict::Again => self.issue.push_back(number),
                Verdict::Complete(result) => self.complete(number, result),
                Verdict::Apart => {
                    // Not all at once: the block layer might join them again.
                    self.slots[number as usize].apart = true;
                    self.issue.push_back(number);
                }
            }
        }
        self.done = done;
    }

    fn judge(&mut self, number: u32, result: i64) -> Verdict {
        let Slot { event, attempt, apart, segments } = &mut self.slots[number as usize];
        let Some(event) = event else { unreachable!("done without an event") };
        if *apart || !event.is_joined() {
            return attempt.judge(event, result, &mut self.counters);
        }
        if result > 0 {
            segments.advance(result as u64);
        }
        let fd = event.fd();
        let status_flags = || {
            self.asked += 1;
            self.interface.status_flags(fd)
        };
        attempt.judge_joined(event, result, &mut self.counters, status_flags, |whole| {
            whole.complete(whole.transferred() as i64);
            self.followers -= 1;
            self.ready.push_back(whole);
        })
    }

    /// Ends the kernel interface: the pool does everything from here on.
    fn give_up(&mut self, core: &Core<C>, errno: i32) {
        self.interface.end(errno, &mut self.done);
        broke(core, errno);
        self.settle();
    }

    fn deliver(&mut self, core: &Core<C>) -> u32 {
        self.delivery.deliver(&core.ledger, &mut self.ready)
    }

    /// The life of a context's own thread: until it is told to stop, or the foreign lane ends.
    pub(crate) fn run(mut self, core: &Core<C>) {
        core.backlog.claim(here().token);
        while let Some(wait) = self.next_wait(core) {
            self.turn(core, wait);
            if let Some(lanes) = &self.lanes {
                lanes.awake();
            }
            self.deliver(core);
        }
    }

    /// Takes events in and says how the next turn may wait; `None` at the end.
    fn next_wait(&mut self, core: &Core<C>) -> Option<Wait> {
        self.take(core);
        let unsent = !self.issue.is_empty() || self.interface.queued() > 0;
        if !self.ready.is_empty() || unsent && self.eager {
            return Some(Wait::No);
        }
        if self.free.is_empty() {
            return Some(Wait::For(1, None));
        }
        let lanes = self.lanes.as_mut()?;
        let foreign = lanes.foreign;
        let mut looked = false;
        let may_look = || {
            looked = !foreign || core.ledger.has_room();
            looked
        };
        if let Some((event, outer)) = lanes.arm(may_look) {
            let event = if outer && foreign { admit(&core.ledger, event) } else { event };
            self.arrive(event);
            self.fill();
            return Some(Wait::No);
        }
        // A foreign channel that could not be looked at, for want of room, may hold more.
        let over = core.stop.load(SeqCst) && looked || lanes.ended();
        (!over || !self.is_idle(core)).then_some(Wait::For(1, None))
    }
}

/// Says that the pool does everything from here on.
fn broke<C>(core: &Core<C>, errno: i32) {
    let error = io::Error::from_raw_os_error(errno);
    log(Level::Error, || format!("the kernel interface broke; the thread pool goes on: {error}"));
    let _ = core.broken.set(errno);
}

/// Counts in an event, or joined ones. The first needs a place, if it is `bounded`; those joined
/// with it take places as far as there are any.
#[inline(always)]
pub(crate) fn count_in<C>(
    ledger: &Arc<Ledger>,
    run: &IOEvent<C>,
    bounded: bool,
) -> Result<(), Refused> {
    run.set_owner(Arc::as_ptr(ledger), ledger.accept(bounded)?);
    if run.is_joined() {
        for event in run.chain().skip(1) {
            let accepted = ledger.accept(bounded).or_else(|_| ledger.accept(false));
            // Nobody closes the ledger of a context whose lane, or handle, is in use.
            event.set_owner(Arc::as_ptr(ledger), accepted.unwrap_or_default());
        }
    }
    Ok(())
}

/// Counts in what its submitter put straight into a channel. An event that cannot run comes back
/// completed, so that its callback hears of it.
fn admit<C>(ledger: &Arc<Ledger>, run: IOEvent<C>) -> IOEvent<C> {
    // There is room: the reactor, which alone takes places here, has asked. And the ledger is
    // closed only after the lane has ended.
    let _ = count_in(ledger, &run, true);
    let mut all_fit = true;
    for event in run.chain() {
        if let Err(Unfit::InFlight | Unfit::Unprepared | Unfit::Whole) = event.launch() {
            event.complete(-i64::from(libc::EINVAL));
            all_fit = false;
        }
    }
    if !all_fit {
        merge::part(&run);
    }
    run
}

/// What a polled context needs of its reactor, whatever the driver.
pub(crate) trait Polled<C> {
    /// Called once on the owner's thread.
    fn start(&mut self, core: &Core<C>) -> io::Result<()>;
    /// Submits what is queued and runs callbacks until there were `min`, or nothing is in flight,
    /// or the deadline or a signal came. How many ran.
    fn poll(&mut self, core: &Core<C>, min: u32, deadline: Deadline) -> (u32, PollEnd);
    /// Finishes all I/O, without callbacks.
    fn finish(&mut self, core: &Core<C>);
    /// Lets go of all events without touching them: they are the parent's, in a forked child.
    fn forget_events(&mut self, core: &Core<C>);
    /// Starts writing the descriptor of `Core::notify`, if there is one.
    fn sync_notify(&mut self, core: &Core<C>) -> io::Result<()>;
}

/// Why a poll returned.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum PollEnd {
    Satisfied,
    TimedOut,
    Signal,
}

impl<C: IOCallback, I: Interface, Q: Flavor<Item = IOEvent<C>>> Polled<C> for Reactor<C, I, Q> {
    fn start(&mut self, core: &Core<C>) -> io::Result<()> {
        if let Err(error) = self.interface.start() {
            // Forbidden since it was made.
            self.give_up(core, error.raw_os_error().unwrap_or(libc::EIO));
        }
        self.sync_notify(core)
    }

    fn poll(&mut self, core: &Core<C>, min: u32, deadline: Deadline) -> (u32, PollEnd) {
        let min = core.ledger.in_flight().min(min.into()) as u32;
        let mut ran = 0;
        let end = loop {
            self.take(core);
            self.issue();
            let mut missing = min.saturating_sub(ran + self.ready.len() as u32);
            if self.followers > 0 {
                // One operation may complete them all.
                missing = missing.min(1);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = match missing.min(self.pending as u32) {
                0 => Wait::No,
                // An IOPOLL ring looks for completions without a time limit of its own.
                _ if self.interface.must_poll() && left.is_some() => Wait::No,
                _ if left == Some(Duration::ZERO) => Wait::No,
                missing => Wait::For(missing, left),
            };
            let entered = self.turn(core, wait);
            ran += self.deliver(core);
            if ran >= min || core.ledger.in_flight() == 0 {
                break PollEnd::Satisfied;
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                break PollEnd::TimedOut;
            }
            if entered == Entered::Interrupted && wait != Wait::No {
                break PollEnd::Signal;
            }
        };
        let waits = !core.backlog.is_empty() || !self.waiting.is_empty();
        if waits && !self.free.is_empty() {
            self.take(core);
            self.turn(core, Wait::No);
        }
        // It may have been asked for since: by a callback, or by another thread before the start.
        if let Err(error) = self.sync_notify(core) {
            log(Level::Error, || format!("the descriptor of ioe_context_fd stays silent: {error}"));
        }
        self.renew_notice(core);
        (ran, end)
    }

    fn finish(&mut self, core: &Core<C>) {
        loop {
            self.take(core);
            if self.is_idle(core) {
                return;
            }
            self.turn(core, Wait::For(1, None));
        }
    }

    fn forget_events(&mut self, core: &Core<C>) {
        let held = self.slots.iter_mut().filter_map(|slot| slot.event.take());
        held.chain(self.ready.drain(..)).for_each(std::mem::forget);
        while let Some(event) = self.waiting.pop().or_else(|| core.backlog.pop()) {
            std::mem::forget(event);
        }
    }

    fn sync_notify(&mut self, core: &Core<C>) -> io::Result<()> {
        let Some(fd) = core.notify.get().filter(|_| !self.notifying) else { return Ok(()) };
        let told = self.interface.notify(fd.as_raw_fd());
        match told.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(errno)) if forbidden(errno) => {
                self.give_up(core, errno);
                self.interface.notify(fd.as_raw_fd())?;
            }
            _ => told?,
        }
        self.notifying = true;
        self.renew_notice(core);
        Ok(())
    }
}

impl<C: IOCallback, I: Interface, Q: Flavor<Item = IOEvent<C>>> Reactor<C, I, Q> {
    /// Makes the notification descriptor readable if there is something to poll for, and only
    /// then: cleared first and looked at after, so that nothing is missed in between.
    fn renew_notice(&mut self, core: &Core<C>) {
        let Some(fd) = core.notify.get().filter(|_| self.notifying) else { return };
        clear_eventfd(fd.as_raw_fd());
        let stuck = self.interface.queued() > 0 || !self.issue.is_empty();
        // Without operations, what the interface has is its own wake-up.
        let news = self.pending > 0 && (self.interface.is_silent() || self.interface.has_news());
        if stuck || news || !self.ready.is_empty() {
            write_eventfd(fd.as_raw_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callback_worker::IOWorkers;
    use crate::driver::sim::{descriptor, with_world, Flight, Sim, Trouble};
    use crate::intake::OuterFlavor;
    use crate::tasks::{ClosureCb, IOAction};
    use crate::wake::WakeUp;

    /// What a reactor's thread does, a turn at a time. The simulator has no wake-up descriptor, so
    /// it fails a wait for what cannot come.
    #[test]
    fn an_operation_refused_for_good_is_not_slept_on() {
        let (sender, receiver) = crossfire::mpsc::bounded_blocking(4);
        let (_inner, inner_end) = crossfire::mpsc::unbounded_async();
        let wake_up = Arc::new(WakeUp::new().unwrap());
        let lanes = Lanes::new(receiver.into(), Some(inner_end), &wake_up);
        let delivery = IOWorkers::try_new(0).unwrap().delivery();
        let core = Core {
            ledger: Arc::new(Ledger::new(4, false)),
            backlog: Backlog::new(),
            counters: Published::default(),
            stop: AtomicBool::new(false),
            notify: OnceCell::new(),
            broken: OnceCell::new(),
        };
        core.backlog.claim(here().token);
        let mut reactor = Reactor::<ClosureCb, Sim, OuterFlavor<ClosureCb>>::new(
            Sim::default(),
            4,
            0,
            Some(lanes),
            delivery,
        );
        with_world(|world| {
            // Full at first, so that the operation is refused in a turn.
            world.trouble = Trouble { lack: u8::MAX, capacity: 0, ..Trouble::default() };
            world.flights.insert(1, Flight::default());
        });
        let mut event = IOEvent::try_unprepared().unwrap();
        event.prepare(IOAction::Fsync, descriptor(1, 0), std::ptr::null_mut(), 0, 0);
        let (done, result) = crossfire::oneshot::oneshot();
        event.set_callback(ClosureCb(Box::new(move |event| done.send(event.result()))));
        event.launch().unwrap();
        let admission = core.ledger.accept(true).unwrap();
        event.set_owner(Arc::as_ptr(&core.ledger), admission);
        sender.send(event).unwrap();
        while core.ledger.started() == 0 {
            let wait = reactor.next_wait(&core).expect("it is not told to stop");
            with_world(|world| world.trouble.capacity = 4);
            reactor.turn(&core, wait);
            reactor.deliver(&core);
        }
        assert_eq!(result.recv().unwrap(), -i64::from(libc::EOPNOTSUPP));
    }
}
