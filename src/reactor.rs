//! The one loop: takes events in, hands their operations to a driver, continues what came back
//! short, retries what the kernel asks to retry, and hands the rest to callbacks.
//!
//! What short I/O and which errno mean is decided by [`Attempt`], and nowhere else.

mod polled;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfire::flavor::Flavor;
use once_cell::sync::OnceCell;

use crate::alarm::Alarm;
use crate::attempt::{gave_back, outcome, Attempt, Verdict};
use crate::callback_worker::{hand_back, Delivery};
use crate::callers::{Callers, Waiter};
use crate::clock;
use crate::driver::direct::FileSizeSignal;
use crate::driver::{Done, Entered, Interface, Prep, Wait, NOT_TAKEN};
use crate::intake::{Backlog, Lanes};
use crate::ledger::{Ledger, Refused};
use crate::log::{log, Level};
use crate::merge::{self, Segments, Waiting};
use crate::spin::{spin, Spin};
use crate::stats::{Counters, Published};
use crate::syncs::{Next, Syncs};
use crate::tasks::{Extent, IOAction, IOCallback, IOEvent, Op, Unfit};
use crate::thread::here;

pub(crate) use polled::{PollEnd, Polled};

/// How many events that may be joined are taken from one source before the next has its turn.
const TAKEN_AT_ONCE: usize = 64;

/// How long to leave a kernel alone that takes nothing while it holds nothing of ours.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// How long a reactor sleeps at most, where a slot or a completion is all that it waits for, and
/// somebody might want it for something else: to notice time limits of events that it has not taken
/// in, or, in a wait for several completions, a cancel.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a reactor works.
pub(crate) struct Settings {
    pub depth: u32,
    pub merge_limit: u32,
    /// Syncs that wait together are joined.
    pub sync_groups: bool,
    /// An operation that the kernel has for longer is reported.
    pub stall: Option<Duration>,
}

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
    pub callers: Callers,
    /// There is something that the reactor has to look at even if no slot is free.
    pub news: AtomicBool,
    /// Some event was cancelled.
    pub cancelled: AtomicBool,
    /// While it sleeps with all slots taken: when it will look at `news` by itself, in nanoseconds
    /// from `start`.
    pub looks_at: AtomicU64,
    pub start: Instant,
}

impl<C> Core<C> {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Core {
            ledger: Arc::new(ledger),
            backlog: Backlog::new(),
            counters: Published::default(),
            stop: AtomicBool::new(false),
            notify: OnceCell::new(),
            broken: OnceCell::new(),
            callers: Callers::default(),
            news: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            looks_at: AtomicU64::new(0),
            start: clock::now(),
        }
    }

    /// A time, as `looks_at` has it.
    pub(crate) fn time_of(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.start).as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

/// An event whose operation is the kernel's next or is in it, and all that travel with it.
/// What a plain one touches comes first, in one cache line.
#[repr(C, align(64))]
struct Slot<C> {
    event: Option<IOEvent<C>>,
    attempt: Attempt,
    /// The events do not travel together any more, but one after the other.
    apart: bool,
    /// The interface has its operation, was asked to give it back, and since when it has it, where
    /// that is watched.
    in_kernel: bool,
    asked_back: bool,
    since: Option<Instant>,
    /// Where the bytes of joined events lie.
    segments: Segments,
    /// Callers that wait for the same sync.
    followers: Vec<Arc<Waiter>>,
}

impl<C> Slot<C> {
    /// Its events travel in one transfer, by a list of segments.
    fn is_joined_transfer(&self) -> bool {
        let joined = |event: &IOEvent<C>| event.is_joined() && event.is_transfer();
        !self.apart && self.event.as_ref().is_some_and(joined)
    }
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
    /// Syncs that wait for something else than a slot.
    syncs: Syncs<C>,
    /// Completed events whose callbacks come next, and those that somebody waits for instead.
    ready: Vec<IOEvent<C>>,
    waited_for: Vec<IOEvent<C>>,
    /// Those of a joined operation that are whole; empty between calls.
    whole: Vec<IOEvent<C>>,
    /// Events that were taken in may end before they are done: they were cancelled, or have a time
    /// limit.
    may_end: bool,
    /// One of those is over: it may have been the last.
    one_ended: bool,
    /// Some have a time limit.
    timed: bool,
    /// When the next time limit is over, or the next operation stalls.
    next_look: Option<Instant>,
    stall: Option<Duration>,
    alarm: Alarm,
    /// `None` in a polled context.
    lanes: Option<Lanes<C, Q>>,
    delivery: Delivery<C>,
    /// What is left of the last batch of each source.
    rest: [Option<IOEvent<C>>; 3],
    /// Operations prepared and not done.
    pending: usize,
    /// The source that `take` asks first: 0 backlog, 1 inner lane, 2 outer lane.
    source: u8,
    /// Operations lately completed while they were submitted (the page cache): look for
    /// completions before paying for a sleep.
    eager: bool,
    spin: Spin,
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
        settings: Settings,
        lanes: Option<Lanes<C, Q>>,
        delivery: Delivery<C>,
    ) -> Self {
        let Settings { depth, merge_limit, sync_groups, stall } = settings;
        let slot = |_| Slot {
            event: None,
            attempt: Attempt::default(),
            apart: false,
            segments: Segments::default(),
            in_kernel: false,
            asked_back: false,
            since: None,
            followers: Vec::new(),
        };
        Reactor {
            interface,
            slots: (0..depth).map(slot).collect(),
            free: (0..depth).rev().collect(),
            waiting: Waiting::new(merge_limit.into()),
            followers: 0,
            issue: VecDeque::with_capacity(depth as usize),
            done: Vec::with_capacity(depth as usize),
            syncs: Syncs::new(sync_groups),
            ready: Vec::with_capacity(depth as usize),
            waited_for: Vec::new(),
            whole: Vec::new(),
            may_end: false,
            one_ended: false,
            timed: false,
            next_look: None,
            stall,
            alarm: Alarm::default(),
            lanes,
            delivery,
            rest: [const { None }; 3],
            pending: 0,
            source: 0,
            eager: false,
            spin: Spin::default(),
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
        self.look(core);
        if std::mem::take(&mut self.one_ended) {
            self.find_what_may_end();
        }
        if !self.waiting.merges() {
            // Before others come. What is joined is joined with those, too.
            self.fill(core);
        }
        let sources = self.sources();
        let mut empty = 0;
        while empty < sources && (self.waiting.merges() || !self.free.is_empty()) {
            let source = self.source % sources;
            self.source = source + 1;
            let share = match self.waiting.merges() {
                true => TAKEN_AT_ONCE,
                false => self.free.len().div_ceil(sources.into()),
            };
            let taken = self.take_from(core, source, share);
            empty = if taken == 0 { empty + 1 } else { 0 };
        }
        if self.syncs.has_uncounted() {
            // What came before a barrier may be in another queue than itself.
            self.sweep(core);
            self.count_writes(core);
        }
        if self.is_due() {
            self.look_over(core);
        }
        self.fill(core);
    }

    fn sources(&self) -> u8 {
        if self.lanes.is_some() {
            3
        } else {
            1
        }
    }

    /// Takes in up to `share` of what waits in one source; how many.
    fn take_from(&mut self, core: &Core<C>, source: u8, share: usize) -> usize {
        if source == 0 {
            return core.backlog.take(share, |event| self.arrive(core, event));
        }
        let mut taken = 0;
        while taken < share {
            let Some(event) = self.take_from_lane(core, source) else { break };
            if !self.waiting.merges() {
                // No more of a batch than there are slots; it is not joined.
                self.rest[usize::from(source)] = merge::unbatch(&event);
            }
            self.arrive(core, event);
            taken += 1;
        }
        taken
    }

    #[inline(always)]
    fn take_from_lane(&mut self, core: &Core<C>, source: u8) -> Option<IOEvent<C>> {
        if let Some(event) = self.rest[usize::from(source)].take() {
            return Some(event);
        }
        let lanes = self.lanes.as_mut()?;
        match source {
            1 => lanes.take_inner(),
            _ if !lanes.foreign => lanes.take_outer(),
            _ if !core.ledger.has_room() => None,
            _ => lanes.take_outer().map(|event| admit(&core.ledger, event)),
        }
    }

    /// Takes in everything, whether or not there are slots for it.
    fn sweep(&mut self, core: &Core<C>) {
        for source in 0..self.sources() {
            self.take_from(core, source, usize::MAX);
        }
    }

    /// Takes in what came through a queue: an event, joined ones, or a batch.
    #[inline(always)]
    fn arrive(&mut self, core: &Core<C>, event: IOEvent<C>) {
        if let Some(event) = self.arrive_plain(core, event) {
            self.arrive_other(core, event);
        }
    }

    /// Gives a plain event a slot, where nothing is in its way. Another one comes back; so does a foreign
    /// one that could not be launched, and is done.
    #[inline(always)]
    fn arrive_plain(&mut self, core: &Core<C>, event: IOEvent<C>) -> Option<IOEvent<C>> {
        let other = !event.is_plain() || event.is_done() || event.is_cancelled();
        if other || self.looks_at_all() || !self.issue.is_empty() {
            return Some(event);
        }
        let Some(number) = self.free.pop() else { return Some(event) };
        let op = event.plain_op();
        self.hold_plain(number, event);
        if !self.prep_plain(number, &op) {
            self.issue_later(core, number);
        }
        None
    }

    /// Even a plain event may have to wait, to be joined, or to be watched.
    #[inline(always)]
    fn looks_at_all(&self) -> bool {
        let waits = self.waiting.merges() || !self.waiting.is_empty();
        waits || self.may_end || self.stall.is_some() || self.syncs.has_barriers()
    }

    #[inline(never)]
    fn arrive_other(&mut self, core: &Core<C>, event: IOEvent<C>) {
        let mut next = Some(event);
        while let Some(event) = next {
            next = merge::unbatch(&event);
            if let Some(event) = self.arrive_plain(core, event) {
                self.arrive_one(core, event);
            }
        }
    }

    fn arrive_one(&mut self, core: &Core<C>, run: IOEvent<C>) {
        let waits = self.free.is_empty() || self.waiting.merges() || !self.waiting.is_empty();
        if run.is_done() {
            // A foreign event that could not be launched.
            self.ready.push(run);
            return;
        }
        if let Some(deadline) = run.first_deadline() {
            self.may_end = true;
            self.timed = true;
            self.look_at(deadline);
        }
        if run.chain().any(IOEvent::is_cancelled) {
            // By somebody who could not tell where it was.
            self.may_end = true;
            self.look_at(clock::now());
        }
        if self.syncs.has_barriers() && run.is_write() {
            run.chain().for_each(|event| self.syncs.write_came(event.fd(), event.number()));
        }
        if self.syncs.holds(&run) {
            self.syncs.push(run);
        } else if waits || run.is_joined() {
            self.waiting.push(run);
        } else {
            self.hold(core, run);
        }
    }

    /// Gives slots to what waits.
    fn fill(&mut self, core: &Core<C>) {
        if self.syncs.has_news() {
            self.start_syncs(core);
        }
        while !self.free.is_empty() {
            let Some(run) = self.waiting.pop() else { return };
            if run.is_joined() && !self.may_travel(&run) {
                self.waiting.push_apart(run);
                continue;
            }
            self.hold(core, run);
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

    /// Starts the syncs that wait for nothing any more. One to a descriptor, so they come before
    /// everything else without being in its way.
    fn start_syncs(&mut self, core: &Core<C>) {
        let failure = |fd, number, barrier| core.ledger.failure_before(fd, number, barrier);
        while let Some(next) = self.syncs.next(!self.free.is_empty(), failure, &core.callers) {
            match next {
                Next::Start(run, followers) => {
                    let number = self.take_slot();
                    self.slots[number as usize].followers = followers;
                    self.hold_in(core, number, run);
                }
                Next::Failed(event, errno) => self.finish(core, event, -i64::from(errno)),
            }
        }
    }

    /// Counts the writes that new barriers wait for.
    fn count_writes(&mut self, core: &Core<C>) {
        let slots = || self.slots.iter().filter_map(|slot| slot.event.as_ref());
        let here = |fd, number| {
            let all = slots().flat_map(IOEvent::chain).chain(self.waiting.iter());
            let before = |event: &&IOEvent<C>| {
                event.is_write() && event.fd() == fd && event.number() < number
            };
            all.filter(before).count()
        };
        self.syncs.count(here, |fd, number| core.callers.write_before(fd, number));
    }

    /// Has [`Reactor::look_over`] called when that time has come.
    fn look_at(&mut self, at: Instant) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    /// Looks at what others want and what the time brings.
    fn look(&mut self, core: &Core<C>) {
        if core.news.load(SeqCst) && core.news.swap(false, SeqCst) {
            let cancelled = core.cancelled.swap(false, SeqCst);
            self.may_end |= cancelled;
            self.sweep(core);
            if core.callers.take_ended() {
                self.syncs.callers_ended(|fd, number| core.callers.write_before(fd, number));
                core.callers.reactors_turns().into_iter().for_each(|fd| self.syncs.look_at(fd));
            }
            if cancelled || self.stall.is_some() {
                return self.look_over(core);
            }
        }
        if self.is_due() {
            self.look_over(core);
        }
    }

    fn is_due(&self) -> bool {
        self.next_look.is_some_and(|at| clock::now() >= at)
    }

    /// Goes through everything: completes what is to end and is not in the kernel, asks the kernel for
    /// what is, and reports what stalls there.
    fn look_over(&mut self, core: &Core<C>) {
        let now = clock::now();
        let stall = self.stall;
        let mut stalled = Vec::new();
        let mut next = stall.and_then(|stall| core.callers.stalled(now, stall, &mut stalled));
        let mut at = |time: Option<Instant>| next = next.into_iter().chain(time).min();
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let Some(first) = &slot.event else { continue };
            let mut all_end = true;
            for event in first.chain() {
                if event.ending(|| now).is_none() {
                    all_end = false;
                    at(event.deadline());
                }
            }
            if slot.in_kernel && all_end && !slot.asked_back && slot.followers.is_empty() {
                slot.asked_back = self.interface.cancel(number as u32);
            }
            if let Some((since, stall)) = slot.since.zip(stall).filter(|_| slot.in_kernel) {
                if since + stall > now {
                    at(Some(since + stall));
                    continue;
                }
                slot.since = None;
                stalled.push((Extent::from(&slot.operation()), now - since));
            }
        }
        let ends = |event: &IOEvent<C>| event.ending(|| now).is_some();
        let mut ended = Vec::new();
        self.waiting.take_out(ends, |event| ended.push(event));
        self.syncs.take_out(ends, |event| ended.push(event));
        self.waiting.iter().chain(self.syncs.iter()).for_each(|event| at(event.deadline()));
        self.next_look = next;
        stalled.into_iter().for_each(report_stall);
        for number in 0..self.slots.len() as u32 {
            self.part_from_ending(core, number);
        }
        // The interface may be full for long.
        for _ in 0..self.issue.len() {
            let Some(number) = self.issue.pop_front() else { break };
            if !self.ends(core, number) {
                self.issue.push_back(number);
            }
        }
        self.finish_ended(core, ended);
        // Some of those that may end are over.
        self.one_ended = true;
    }

    /// Goes through everything: whether there are events that may end before they are done.
    #[cold]
    fn find_what_may_end(&mut self) {
        let held = self.slots.iter().filter_map(|slot| slot.event.as_ref());
        let held =
            held.flat_map(IOEvent::chain).chain(self.waiting.iter()).chain(self.syncs.iter());
        (self.may_end, self.timed) = held.fold((false, false), |(may_end, timed), event| {
            let limited = event.deadline().is_some();
            (may_end || limited || event.is_cancelled(), timed || limited)
        });
    }

    /// Completes what is to end and is in no slot: as if the kernel had given it back.
    fn finish_ended(&mut self, core: &Core<C>, ended: Vec<IOEvent<C>>) {
        for event in ended {
            self.finish(core, event, -i64::from(libc::ECANCELED));
        }
    }

    fn take_slot(&mut self) -> u32 {
        let Some(number) = self.free.pop() else { unreachable!("only while a slot is free") };
        number
    }

    /// Puts an event, or joined ones, into a free slot.
    #[inline(always)]
    fn hold(&mut self, core: &Core<C>, run: IOEvent<C>) {
        let number = self.take_slot();
        self.hold_in(core, number, run);
    }

    fn hold_in(&mut self, core: &Core<C>, number: u32, run: IOEvent<C>) {
        let slot = &mut self.slots[number as usize];
        slot.apart = false;
        slot.attempt = Attempt::default();
        if run.is_joined() {
            self.followers += slot.join(&run, &mut self.counters);
        }
        slot.event = Some(run);
        // What waits to be issued comes first.
        if !self.issue.is_empty() || !self.issue_one(core, number) {
            self.issue_later(core, number);
        }
    }

    /// The same for a plain event, which is not issued yet.
    #[inline(always)]
    fn hold_plain(&mut self, number: u32, event: IOEvent<C>) {
        let slot = &mut self.slots[number as usize];
        slot.apart = false;
        slot.attempt = Attempt::default();
        // A free one has none.
        std::mem::forget(slot.event.replace(event));
    }

    /// Has the operation of a slot issued when those before it have been.
    #[cold]
    fn issue_later(&mut self, core: &Core<C>, number: u32) {
        if !self.ends_now(core, number) {
            self.issue.push_back(number);
        }
    }

    /// Hands what waits to the interface until it is full.
    fn issue(&mut self, core: &Core<C>) {
        let mut issued = 0;
        while let Some(&number) = self.issue.get(issued) {
            if !self.issue_plain(number) && !self.issue_one(core, number) {
                break;
            }
            issued += 1;
        }
        self.issue.drain(..issued);
    }

    /// Hands over the next operation of a slot with a plain event, where nothing has to be watched; false
    /// where it has to be asked for once more.
    #[inline(always)]
    fn issue_plain(&mut self, number: u32) -> bool {
        if self.may_end || self.stall.is_some() {
            return false;
        }
        let event = self.slots[number as usize].event.as_ref();
        let Some(event) = event.filter(|event| event.is_plain()) else { return false };
        // In a polled context it is the next poll that acts on a cancel.
        if self.lanes.is_some() && event.is_cancelled() {
            return false;
        }
        let op = event.plain_op();
        self.prep_plain(number, &op)
    }

    /// Hands over the operation of a plain event; false where the interface is full, or lacks it.
    #[inline(always)]
    fn prep_plain(&mut self, number: u32, op: &Op) -> bool {
        let slot = &mut self.slots[number as usize];
        slot.attempt.begin_plain(op);
        if self.interface.prep(number, op) != Prep::Queued {
            return false;
        }
        self.note_queued(number, op.action);
        true
    }

    /// Hands over the next operation of a slot; false where the interface is full.
    fn issue_one(&mut self, core: &Core<C>, number: u32) -> bool {
        if self.ends_now(core, number) {
            return true;
        }
        let slot = &mut self.slots[number as usize];
        let Some(event) = &slot.event else { unreachable!("issued without an event") };
        let op = slot.operation();
        if let Err(errno) = slot.attempt.begin(&op, event) {
            self.complete_unissued(core, number, errno);
            return true;
        }
        match self.interface.prep(number, &op) {
            Prep::Queued => {
                self.note_queued(number, op.action);
                if let Some(stall) = self.stall {
                    self.watch(number, stall);
                }
            }
            Prep::Full => return false,
            Prep::Unsupported => self.complete_unissued(core, number, libc::EOPNOTSUPP),
        }
        true
    }

    /// The interface has the operation of a slot.
    #[inline(always)]
    fn note_queued(&mut self, number: u32, action: IOAction) {
        let slot = &mut self.slots[number as usize];
        slot.in_kernel = true;
        slot.asked_back = false;
        self.pending += 1;
        self.counters.operations += 1;
        self.may_extend |= action.may_extend();
    }

    /// As `ends`, where that may be: maybe it was cancelled just now.
    fn ends_now(&mut self, core: &Core<C>, number: u32) -> bool {
        let first = &self.slots[number as usize].event;
        let cancelled = || first.iter().flat_map(IOEvent::chain).any(IOEvent::is_cancelled);
        (self.may_end || cancelled()) && self.ends(core, number)
    }

    /// Notices since when the interface has an operation.
    #[cold]
    fn watch(&mut self, number: u32, stall: Duration) {
        let now = clock::now();
        self.slots[number as usize].since = Some(now);
        self.look_at(now + stall);
    }

    /// Completes the event of a slot that is to end, instead of issuing it. One that travels with
    /// others leaves them; they go on one after the other.
    #[cold]
    fn ends(&mut self, core: &Core<C>, number: u32) -> bool {
        let slot = &mut self.slots[number as usize];
        let Some(event) = &slot.event else { return false };
        let ending = |event: &IOEvent<C>| event.ending(clock::now);
        if slot.is_joined_transfer() && event.chain().any(|event| ending(event).is_some()) {
            slot.apart = true;
            slot.attempt.part(event);
        } else if event.is_joined() && !slot.apart || !slot.followers.is_empty() {
            return false;
        }
        let errno = ending(event);
        self.part_from_ending(core, number);
        match errno {
            Some(errno) => self.complete_unissued(core, number, errno),
            None => return false,
        }
        true
    }

    /// Where the events of a slot go one after the other: those that wait for the first one, and are to
    /// end, do so.
    fn part_from_ending(&mut self, core: &Core<C>, number: u32) {
        let slot = &self.slots[number as usize];
        let Some(first) = slot.event.as_ref().filter(|first| slot.apart && first.is_joined())
        else {
            return;
        };
        let mut ended = Vec::new();
        let ends = |event: &IOEvent<C>| event.ending(clock::now).is_some();
        merge::take_out_behind(first, ends, |event| ended.push(event));
        self.followers -= ended.len();
        self.finish_ended(core, ended);
    }

    /// Completes the event of a slot, and all that travel with it: an error is everybody's, and
    /// without one each has what it moved. Where they go one after the other, the next has its turn.
    fn complete(&mut self, core: &Core<C>, number: u32, result: i64, by_kernel: bool) {
        let slot = &mut self.slots[number as usize];
        let Some(event) = slot.event.take() else { unreachable!("completed without an event") };
        if self.syncs.groups && event.is_sync() {
            let lost = by_kernel && result < 0 && !gave_back(result);
            self.end_sync(core, number, event.fd(), result, lost);
        }
        if event.is_joined() {
            return self.complete_joined(core, number, event, result);
        }
        let result = if result < 0 { result } else { event.transferred() as i64 };
        self.finish(core, event, result);
        self.free.push(number);
    }

    /// The same with an error, for what the kernel was not asked for.
    #[cold]
    fn complete_unissued(&mut self, core: &Core<C>, number: u32, errno: i32) {
        self.complete(core, number, -i64::from(errno), false);
    }

    /// The sync of a descriptor is done. Where data is `lost`, all that wait behind it hear of that.
    #[cold]
    fn end_sync(&mut self, core: &Core<C>, number: u32, fd: RawFd, result: i64, lost: bool) {
        let followers = std::mem::take(&mut self.slots[number as usize].followers);
        // With all that came meanwhile, so that no caller overtakes it.
        if self.lanes.is_some() {
            self.sweep(core);
        }
        if lost {
            core.ledger.sync_failed(fd, -result as i32);
        }
        let behind = if lost { result } else { 0 };
        core.callers.end_reactors_sync(fd, self.syncs.has_ready(fd), behind);
        self.syncs.ended(fd);
        followers.iter().for_each(|follower| follower.finish(result));
    }

    #[inline(never)]
    fn complete_joined(&mut self, core: &Core<C>, number: u32, first: IOEvent<C>, result: i64) {
        let apart = self.slots[number as usize].apart;
        let mut next = Some(first);
        while let Some(event) = next {
            next = if event.is_joined() { merge::untie(&event) } else { None };
            let result = if result < 0 { result } else { event.transferred() as i64 };
            self.finish(core, event, result);
            if next.is_none() {
                break;
            }
            self.followers -= 1;
            if apart {
                let slot = &mut self.slots[number as usize];
                slot.event = next;
                slot.attempt = Attempt::default();
                self.issue.push_back(number);
                return;
            }
        }
        self.free.push(number);
    }

    /// An event ends with this result.
    fn finish(&mut self, core: &Core<C>, event: IOEvent<C>, result: i64) {
        let result = outcome(&event, result);
        event.complete(result);
        self.counters.failed += u64::from(event.fails_with(result));
        if result < 0 && event.is_write() {
            core.ledger.write_failed(event.fd(), event.number(), -result as i32);
        }
        self.finished(event);
    }

    /// An event has its result: all of them come through here.
    #[inline(always)]
    fn finished(&mut self, event: IOEvent<C>) {
        if self.may_end {
            self.one_ended |= event.is_cancelled();
        }
        if self.syncs.has_barriers() && event.is_write() {
            self.syncs.write_done(event.fd(), event.number());
        }
        match event.is_waited_for() {
            true => self.waited_for.push(event),
            false => self.ready.push(event),
        }
    }

    /// Completed events that nobody has been told of.
    fn untold(&self) -> usize {
        self.ready.len() + self.waited_for.len()
    }

    /// Operations that the kernel holds.
    fn in_kernel(&self) -> usize {
        self.pending - self.interface.queued()
    }

    /// Nothing is left to do but callbacks.
    fn is_idle(&self, core: &Core<C>) -> bool {
        let nothing_held = self.pending == 0 && self.issue.is_empty() && self.waiting.is_empty();
        nothing_held && self.syncs.is_empty() && core.backlog.is_empty()
    }

    /// Issues, enters the kernel once at most, and settles what completed.
    fn turn(&mut self, core: &Core<C>, wait: Wait) -> Entered {
        let untold = self.untold();
        self.issue(core);
        // What was refused is offered again after a completion, if one can come.
        let submit = !self.refused || self.in_kernel() == 0;
        let wait = match wait {
            // The interface was full, or refused an operation for good: no sleep before the rest
            // is handed over, and before its callback.
            _ if !self.issue.is_empty() || self.untold() > untold => Wait::No,
            _ if self.refused && submit => {
                std::thread::sleep(REFUSED_PAUSE);
                Wait::No
            }
            // No more can complete than the kernel holds.
            Wait::For(min, time) if !submit => Wait::For(min.min(self.in_kernel() as u32), time),
            wait => wait,
        };
        let submitted = if submit { self.interface.queued() } else { 0 };
        core.counters.set_operations(self.counters.operations);
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
        self.settle(core);
        self.counters.system_calls =
            self.interface.system_calls() + self.delivery.wake_calls + self.asked;
        core.counters.set(&self.counters);
        entered
    }

    /// Judges everything that is done.
    fn settle(&mut self, core: &Core<C>) {
        let mut done = std::mem::take(&mut self.done);
        self.pending -= done.len();
        for &Done { slot: number, result } in &done {
            let slot = &mut self.slots[number as usize];
            slot.in_kernel = false;
            let attempt = &mut slot.attempt;
            match slot.event.take_if(|event| attempt.is_whole(event, result, &mut self.counters)) {
                Some(event) => {
                    self.finished(event);
                    self.free.push(number);
                }
                None => self.settle_other(core, number, result),
            }
        }
        done.clear();
        self.done = done;
    }

    #[inline(never)]
    fn settle_other(&mut self, core: &Core<C>, number: u32, result: i64) {
        if result == NOT_TAKEN {
            self.counters.operations -= 1;
            return self.issue_later(core, number);
        }
        match self.judge(core, number, result) {
            Verdict::Again => self.issue_later(core, number),
            Verdict::Complete(result) => self.complete(core, number, result, true),
            Verdict::Apart => {
                // Not all at once: the block layer might join them again.
                self.slots[number as usize].apart = true;
                self.issue_later(core, number);
            }
        }
    }

    fn judge(&mut self, core: &Core<C>, number: u32, result: i64) -> Verdict {
        let slot = &mut self.slots[number as usize];
        let joined = slot.is_joined_transfer();
        let Slot { event, attempt, segments, .. } = slot;
        let Some(event) = event else { unreachable!("done without an event") };
        if !joined {
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
        let whole = |event| self.whole.push(event);
        let verdict = attempt.judge_joined(event, result, &mut self.counters, status_flags, whole);
        let mut whole = std::mem::take(&mut self.whole);
        self.followers -= whole.len();
        for event in whole.drain(..) {
            let bytes = event.transferred();
            self.finish(core, event, bytes as i64);
        }
        self.whole = whole;
        verdict
    }

    /// Ends the kernel interface: the pool does everything from here on.
    fn give_up(&mut self, core: &Core<C>, errno: i32) {
        self.interface.end(errno, &mut self.done);
        broke(core, errno);
        self.settle(core);
    }

    /// Tells of what is completed. To how many.
    fn deliver(&mut self, core: &Core<C>) -> u32 {
        // In a poll callbacks come first: who waits, further up this stack, has not heard yet.
        let polled = self.lanes.is_none();
        let before = if polled { self.delivery.deliver(&core.ledger, &mut self.ready) } else { 0 };
        let waited_for = self.waited_for.len() as u32;
        self.waited_for.drain(..).for_each(|event| hand_back(&core.ledger, event));
        before + waited_for + self.delivery.deliver(&core.ledger, &mut self.ready)
    }

    /// The life of a context's own thread: until it is told to stop, or the foreign lane ends.
    pub(crate) fn run(mut self, core: &Core<C>) {
        core.backlog.claim(here().token);
        while let Some(wait) = self.next_wait(core) {
            self.turn(core, wait);
            if let Some(lanes) = &self.lanes {
                lanes.awake();
            }
            if self.syncs.has_news() && self.untold() > 0 {
                // The disk first: the next sync starts before all that this one answers are woken.
                self.fill(core);
                self.turn(core, Wait::No);
            }
            self.deliver(core);
        }
    }

    /// Takes events in and says how the next turn may wait; `None` at the end.
    fn next_wait(&mut self, core: &Core<C>) -> Option<Wait> {
        self.take(core);
        let unsent = !self.issue.is_empty() || self.interface.queued() > 0;
        if self.untold() > 0 || unsent && self.eager {
            return Some(Wait::No);
        }
        if self.free.is_empty() {
            return Some(self.wait_for_slot(core));
        }
        if self.pending == 0 && !unsent && self.spin.is_worth_it() {
            let came =
                spin(|| (0..self.sources()).any(|source| self.take_from(core, source, 1) > 0));
            self.spin.learn(came);
            if came {
                self.take(core);
                return Some(Wait::No);
            }
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
            self.arrive(core, event);
            self.fill(core);
            return Some(Wait::No);
        }
        // Looked at after the sleep was announced, as the lanes are.
        if core.news.load(SeqCst) {
            return Some(Wait::No);
        }
        // A foreign channel that could not be looked at, for want of room, may hold more.
        let over = core.stop.load(SeqCst) && looked || lanes.ended();
        (!over || !self.is_idle(core)).then(|| Wait::For(1, self.time_left()))
    }

    /// How to wait for nothing but a slot, and for what must not wait for one.
    fn wait_for_slot(&mut self, core: &Core<C>) -> Wait {
        let Some(lanes) = &self.lanes else { return Wait::For(1, self.time_left()) };
        let mut wakes_at = self.next_look;
        if self.timed {
            // An event with a time limit that comes meanwhile need not wake it for that.
            let soon = clock::now() + LOOK_EVERY;
            wakes_at = Some(wakes_at.map_or(soon, |at| at.min(soon)));
        }
        core.looks_at.store(wakes_at.map_or(u64::MAX, |at| core.time_of(at)), SeqCst);
        lanes.arm_busy();
        match core.news.load(SeqCst) {
            true => Wait::No,
            false => Wait::For(1, time_until(wakes_at)),
        }
    }

    /// How long until something is due.
    fn time_left(&self) -> Option<Duration> {
        time_until(self.next_look)
    }
}

fn time_until(at: Option<Instant>) -> Option<Duration> {
    at.map(|at| at.saturating_duration_since(clock::now()))
}

impl<C> Slot<C> {
    /// Gets ready for joined events. How many travel with the first.
    #[cold]
    fn join(&mut self, run: &IOEvent<C>, counters: &mut Counters) -> usize {
        let followers = run.chain().count() - 1;
        if run.is_sync() {
            counters.syncs_joined += followers as u64;
        } else {
            counters.merged += followers as u64;
            self.segments.set(run);
        }
        followers
    }

    /// The next operation of its event, or of all that travel with it.
    fn operation(&self) -> Op {
        let Some(event) = &self.event else { unreachable!("an operation without an event") };
        if self.is_joined_transfer() {
            return self.segments.operation(event);
        }
        let mut op = event.next_op();
        if self.followers.iter().any(|follower| follower.whole) {
            op.action = IOAction::Fsync;
        }
        op
    }
}

/// Tells of an operation that the kernel has had for too long.
pub(crate) fn report_stall((what, age): (Extent, Duration)) {
    log(Level::Warn, || {
        let Extent { action, fd, offset, len } = what;
        let name = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        let name = name.map_or("unknown".into(), |name| name.display().to_string());
        let age = age.as_millis();
        format!(
            "stalled: {action:?} of descriptor {fd} ({name}), offset {offset}, length {len}, in the \
             kernel for {age} ms"
        )
    });
}

/// Says that the pool does everything from here on.
fn broke<C>(core: &Core<C>, errno: i32) {
    let error = io::Error::from_raw_os_error(errno);
    log(Level::Error, || format!("the kernel interface broke; the thread pool goes on: {error}"));
    let _ = core.broken.set(errno);
}

/// Counts in one event. It needs a place, if it is `bounded`.
#[inline(always)]
pub(crate) fn count_in_one<C>(
    ledger: &Arc<Ledger>,
    event: &IOEvent<C>,
    bounded: bool,
) -> Result<(), Refused> {
    event.set_owner(Arc::as_ptr(ledger), ledger.accept(bounded)?);
    Ok(())
}

/// Counts in an event, or joined ones: the first as above; those joined with it take places as far
/// as there are any.
pub(crate) fn count_in<C>(
    ledger: &Arc<Ledger>,
    run: &IOEvent<C>,
    bounded: bool,
) -> Result<(), Refused> {
    count_in_one(ledger, run, bounded)?;
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
        let core = Core::new(Ledger::new(4, false));
        core.backlog.claim(here().token);
        let mut reactor = Reactor::<ClosureCb, Sim, OuterFlavor<ClosureCb>>::new(
            Sim::default(),
            Settings { depth: 4, merge_limit: 0, sync_groups: true, stall: None },
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
