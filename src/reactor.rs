//! The one loop: takes events in, hands their operations to a driver, continues what came back
//! short, retries what the kernel asks to retry, and hands the rest to callbacks.
//!
//! What short I/O and which errno mean is decided in [`Attempt::judge`], and nowhere else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfire::flavor::Flavor;
use once_cell::sync::OnceCell;

use crate::callback_worker::Delivery;
use crate::driver::direct::FileSizeSignal;
use crate::driver::{forbidden, Done, Entered, Interface, Prep, Wait, NOT_TAKEN};
use crate::gate::Deadline;
use crate::intake::{Backlog, Lanes};
use crate::ledger::Ledger;
use crate::log::{log, Level};
use crate::stats::{Counters, Published};
use crate::tasks::{IOAction, IOCallback, IOEvent, Op, Unfit};
use crate::thread::here;
use crate::wake::{clear_eventfd, write_eventfd};

/// How often in a row an operation that made no progress is retried on EINTR or EAGAIN.
const MAX_RETRIES: u32 = 100;

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

/// A boundary that every block device accepts direct I/O at.
const DIRECT_BOUNDARY: u64 = 4096;

/// How far the engine is with the current operation of an event.
#[derive(Default)]
pub(crate) struct Attempt {
    /// Bytes the operation was asked to move.
    asked: u64,
    retries: u32,
    /// The operation before this one came back short.
    short: bool,
    /// Where the transfer was when it was set back to a boundary.
    set_back: Option<u64>,
}

/// What an operation's result means for its event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another operation is needed.
    Again,
    /// The event is complete with this result.
    Complete(i64),
}

impl Attempt {
    pub(crate) fn begin(&mut self, op: &Op) {
        self.asked = op.len;
    }

    /// Judges what the kernel answered to the operation that `begin` announced.
    pub(crate) fn judge<C>(
        &mut self,
        event: &mut IOEvent<C>,
        result: i64,
        counters: &mut Counters,
    ) -> Verdict {
        let action = event.action().unwrap_or(IOAction::Fsync);
        match action {
            // A sync that failed is never asked again: the kernel reports an error once, and the
            // second answer would be yes while the data is gone (fsync(2)).
            IOAction::Fsync | IOAction::Fdatasync => return Verdict::Complete(result.min(0)),
            IOAction::Fallocate(_) if result >= 0 => return Verdict::Complete(0),
            IOAction::Read | IOAction::Write if result > 0 => {
                let moved = result as u64;
                if moved > self.asked {
                    log(Level::Error, || {
                        format!("the kernel moved {moved} of {} bytes", self.asked)
                    });
                    return Verdict::Complete(-i64::from(libc::EIO));
                }
                match action {
                    IOAction::Read => counters.bytes_read += moved,
                    _ => counters.bytes_written += moved,
                }
                self.retries = 0;
                self.short = moved < self.asked;
                if event.advance(moved) {
                    return Verdict::Complete(event.transferred() as i64);
                }
                counters.continued += u64::from(self.short);
                return Verdict::Again;
            }
            _ => {}
        }
        match -result as i32 {
            // The end of the file; a transfer of no bytes is whole as well.
            0 if action == IOAction::Read || self.asked == 0 => {
                Verdict::Complete(event.transferred() as i64)
            }
            // A write that moves nothing and fails with nothing would go on for ever.
            0 => Verdict::Complete(-i64::from(libc::EIO)),
            libc::EINTR | libc::EAGAIN if self.retries < MAX_RETRIES => {
                self.retries += 1;
                Verdict::Again
            }
            // A direct read comes back short only at the end of the file. Where that is not at a
            // block boundary, going on from there is refused as misaligned (open(2), O_DIRECT).
            libc::EINVAL if action == IOAction::Read && self.short => {
                Verdict::Complete(event.transferred() as i64)
            }
            // One that goes on, after an earlier submission ended at such a place, begins once
            // more at the boundary before it.
            libc::EINVAL if action == IOAction::Read && self.set_back.is_none() => {
                let reached = event.transferred();
                let beyond = (event.offset() + reached) % DIRECT_BOUNDARY;
                if beyond == 0 || reached < beyond || !event.set_transferred(reached - beyond) {
                    return Verdict::Complete(result);
                }
                self.set_back = Some(reached);
                Verdict::Again
            }
            _ => {
                if let Some(reached) = self.set_back.filter(|at| *at > event.transferred()) {
                    event.set_transferred(reached);
                }
                Verdict::Complete(result)
            }
        }
    }
}

/// An event that the reactor holds.
struct Slot<C> {
    event: Option<IOEvent<C>>,
    attempt: Attempt,
}

pub(crate) struct Reactor<C: IOCallback, I, Q: Flavor<Item = IOEvent<C>>> {
    interface: I,
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
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
    counters: Counters,
}

impl<C: IOCallback, I: Interface, Q: Flavor<Item = IOEvent<C>>> Reactor<C, I, Q> {
    pub(crate) fn new(
        interface: I,
        depth: u32,
        lanes: Option<Lanes<C, Q>>,
        delivery: Delivery<C>,
    ) -> Self {
        let slot = |_| Slot { event: None, attempt: Attempt::default() };
        Reactor {
            interface,
            slots: (0..depth).map(slot).collect(),
            free: (0..depth).rev().collect(),
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
            counters: Counters::default(),
        }
    }

    /// Takes in what waits, as long as slots are free. The sources take turns, so that none of
    /// them starves, whatever the others bring.
    fn take(&mut self, core: &Core<C>) {
        let sources = if self.lanes.is_some() { 3 } else { 1 };
        let mut empty = 0;
        while !self.free.is_empty() && empty < sources {
            let source = self.source % sources;
            self.source = source + 1;
            let share = self.free.len().div_ceil(sources.into());
            let taken = (0..share).take_while(|_| self.take_from(core, source)).count();
            empty = if taken == 0 { empty + 1 } else { 0 };
        }
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
        event.map(|event| self.hold(event)).is_some()
    }

    /// Puts an event into a free slot.
    fn hold(&mut self, event: IOEvent<C>) {
        if event.is_done() {
            // A foreign event that could not be launched.
            self.ready.push_back(event);
            return;
        }
        let Some(number) = self.free.pop() else { unreachable!("taken only while a slot is free") };
        let slot = &mut self.slots[number as usize];
        slot.event = Some(event);
        slot.attempt = Attempt::default();
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
        let op = event.next_op();
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

    fn complete(&mut self, number: u32, result: i64) {
        let Some(event) = self.slots[number as usize].event.take() else { return };
        self.counters.failed += u64::from(result < 0);
        event.complete(result);
        self.ready.push_back(event);
        self.free.push(number);
    }

    /// Operations that the kernel holds.
    fn in_kernel(&self) -> usize {
        self.pending - self.interface.queued()
    }

    /// Nothing is left to do but callbacks.
    fn is_idle(&self, core: &Core<C>) -> bool {
        self.pending == 0 && self.issue.is_empty() && core.backlog.is_empty()
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
        self.counters.system_calls = self.interface.system_calls() + self.delivery.wake_calls;
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
            let slot = &mut self.slots[number as usize];
            let Some(event) = &mut slot.event else { unreachable!("done without an event") };
            match slot.attempt.judge(event, result, &mut self.counters) {
                Verdict::Again => self.issue.push_back(number),
                Verdict::Complete(result) => self.complete(number, result),
            }
        }
        self.done = done;
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
            self.hold(event);
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

/// Counts in an event that its submitter put straight into a channel. One that cannot run comes
/// back completed, so that its callback hears of it.
fn admit<C>(ledger: &Arc<Ledger>, mut event: IOEvent<C>) -> IOEvent<C> {
    let launched = event.launch();
    // There is room: the reactor, which alone takes places here, has asked. And the ledger is
    // closed only after the lane has ended.
    let admission = ledger.accept(true).unwrap_or_default();
    event.set_owner(Arc::as_ptr(ledger), admission);
    if let Err(Unfit::InFlight | Unfit::Unprepared | Unfit::Whole) = launched {
        event.complete(-i64::from(libc::EINVAL));
    }
    event
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
            let missing = min.saturating_sub(ran + self.ready.len() as u32);
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
        if !core.backlog.is_empty() {
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
        while let Some(event) = core.backlog.pop() {
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
    use crate::tasks::ClosureCb;
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
