//! What callers do on their own threads, as far as others have to know of it: the writes that a
//! barrier waits for, and whose turn it is to sync a descriptor.
//!
//! One sync of a descriptor runs at a time. Whoever comes meanwhile waits; whoever is next, a caller
//! or the reactor, syncs for all that wait when it starts. Where stalls are looked for, the reactor also
//! watches what callers do.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::gate::{lock, sleep_while, wake};
use crate::ledger::{Admission, Refused};
use crate::tasks::Extent;

#[derive(Default)]
pub(crate) struct Callers {
    writes: Mutex<Vec<Write>>,
    list: Mutex<List>,
    /// Something ended that the reactor waits for.
    ended: AtomicBool,
}

#[derive(Default)]
struct List {
    syncs: Vec<Sync>,
    /// Where stalls are looked for: what runs now, and whether the reactor will look at it.
    calls: Vec<Call>,
    watched: bool,
}

struct Call {
    what: Extent,
    since: Instant,
    reported: bool,
}

struct Write {
    fd: RawFd,
    /// In the order of acceptance.
    number: u64,
    /// The reactor waits for its end.
    awaited: bool,
}

/// A sync that runs, or is about to.
struct Sync {
    fd: RawFd,
    /// Whose it is: the reactor's, or a caller's.
    reactors: bool,
    /// It runs; otherwise its turn has come, and all that wait may still join it.
    runs: bool,
    /// The reactor has syncs that come next.
    reactor_waits: bool,
    waiting: Vec<Arc<Waiter>>,
}

impl Sync {
    /// The reactor's runs at once; a caller says when it does.
    fn new(fd: RawFd, reactors: bool) -> Self {
        Sync { fd, reactors, runs: reactors, reactor_waits: false, waiting: Vec::new() }
    }
}

/// A caller that waits for its turn, or for somebody who syncs for it.
pub(crate) struct Waiter {
    /// How often it was woken.
    wakes: AtomicU32,
    /// It wants an fsync, not only an fdatasync.
    pub whole: bool,
    /// [`WAITS`], [`LEADS`], or the result.
    state: AtomicI64,
}

const WAITS: i64 = 1;
const LEADS: i64 = 2;

/// How it stands with a waiter.
pub(crate) enum Turn {
    Waits,
    /// It is its turn to sync, for itself and all that wait.
    Leads,
    /// Somebody synced for it, with this result.
    Done(i64),
}

impl Waiter {
    pub(crate) fn turn(&self) -> Turn {
        match self.state.load(SeqCst) {
            WAITS => Turn::Waits,
            LEADS => Turn::Leads,
            result => Turn::Done(result),
        }
    }

    /// How often it was woken, to be asked before it looks whether it still waits.
    pub(crate) fn wakes(&self) -> u32 {
        self.wakes.load(SeqCst)
    }

    /// Sleeps until it is woken once more.
    pub(crate) fn sleep(&self, wakes: u32) {
        sleep_while(&self.wakes, wakes);
    }

    fn wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
        wake(self.wakes.as_ptr());
    }

    fn tell(&self, state: i64) {
        self.state.store(state, SeqCst);
        self.wake();
    }

    /// Tells the result: 0 or a negated errno.
    pub(crate) fn finish(&self, result: i64) {
        self.tell(result.min(0));
    }
}

impl List {
    fn sync(&mut self, fd: RawFd) -> Option<&mut Sync> {
        self.syncs.iter_mut().find(|sync| sync.fd == fd)
    }

    /// The sync of a descriptor is over: the next has its turn. An error is for all that wait: the kernel
    /// would not tell it again.
    fn pass_on(&mut self, fd: RawFd, result: i64) -> Passed {
        let Some(at) = self.syncs.iter().position(|sync| sync.fd == fd) else {
            return Passed::default();
        };
        let sync = &mut self.syncs[at];
        let told = if result < 0 { std::mem::take(&mut sync.waiting) } else { Vec::new() };
        sync.runs = false;
        sync.reactors = std::mem::take(&mut sync.reactor_waits);
        let reactors = sync.reactors;
        let mut leader = None;
        if !reactors {
            match sync.waiting.is_empty() {
                true => drop(self.syncs.swap_remove(at)),
                false => leader = Some(sync.waiting.remove(0)),
            }
        }
        Passed { reactors, leader, told, result }
    }
}

/// Whose turn is next, and who has none any more. They are woken when the list is not locked.
#[derive(Default)]
struct Passed {
    reactors: bool,
    leader: Option<Arc<Waiter>>,
    told: Vec<Arc<Waiter>>,
    result: i64,
}

impl Passed {
    /// True where the turn is the reactor's.
    fn wake(self) -> bool {
        self.leader.into_iter().for_each(|leader| leader.tell(LEADS));
        self.told.iter().for_each(|waiter| waiter.finish(self.result));
        self.reactors
    }
}

impl Callers {
    /// A caller is about to write. It is accepted and seen here in one step, so that a barrier finds
    /// both, or neither.
    pub(crate) fn write(
        &self,
        fd: RawFd,
        accept: impl FnOnce() -> Result<Admission, Refused>,
    ) -> Result<Admission, Refused> {
        let mut writes = lock(&self.writes);
        let admission = accept()?;
        writes.push(Write { fd, number: admission.number(), awaited: false });
        Ok(admission)
    }

    /// What a caller wrote is done. Whether the reactor has to be told.
    pub(crate) fn end_write(&self, number: u64) -> bool {
        let mut writes = lock(&self.writes);
        let Some(at) = writes.iter().position(|write| write.number == number) else {
            return false;
        };
        let awaited = writes.swap_remove(at).awaited;
        if awaited {
            self.ended.store(true, SeqCst);
        }
        awaited
    }

    /// Whether callers write to the descriptor what was accepted before. If so, the reactor is told of
    /// their end.
    pub(crate) fn write_before(&self, fd: RawFd, number: u64) -> bool {
        let mut any = false;
        for write in lock(&self.writes).iter_mut() {
            if write.fd == fd && write.number < number {
                write.awaited = true;
                any = true;
            }
        }
        any
    }

    /// A caller, already accepted, wants to sync a descriptor: now, or when its waiter says so.
    pub(crate) fn want_sync(&self, fd: RawFd, whole: bool) -> Option<Arc<Waiter>> {
        let mut list = lock(&self.list);
        let Some(sync) = list.sync(fd) else {
            list.syncs.push(Sync::new(fd, false));
            return None;
        };
        let state = AtomicI64::new(WAITS);
        let waiter = Arc::new(Waiter { wakes: AtomicU32::new(0), whole, state });
        sync.waiting.push(waiter.clone());
        Some(waiter)
    }

    /// A caller whose turn it is starts. All for whom it syncs.
    pub(crate) fn start_sync(&self, fd: RawFd) -> Vec<Arc<Waiter>> {
        let mut list = lock(&self.list);
        let Some(sync) = list.sync(fd) else { return Vec::new() };
        sync.runs = true;
        std::mem::take(&mut sync.waiting)
    }

    /// The sync of a caller is done. Whether the reactor has to be told.
    pub(crate) fn end_sync(&self, fd: RawFd, result: i64) -> bool {
        let passed = lock(&self.list).pass_on(fd, result);
        let reactors = passed.wake();
        if reactors {
            self.ended.store(true, SeqCst);
        }
        reactors
    }

    /// A caller waits no longer, unless somebody syncs for it already, or its turn has come.
    pub(crate) fn leave(&self, fd: RawFd, waiter: &Arc<Waiter>) -> bool {
        let mut list = lock(&self.list);
        let Some(sync) = list.sync(fd) else { return false };
        let before = sync.waiting.len();
        sync.waiting.retain(|other| !Arc::ptr_eq(other, waiter));
        sync.waiting.len() < before
    }

    /// Has all callers that wait look at their events again.
    pub(crate) fn wake_waiters(&self) {
        let list = lock(&self.list);
        list.syncs.iter().flat_map(|sync| &sync.waiting).for_each(|waiter| waiter.wake());
    }

    /// A caller is about to make a system call. Whether the reactor has to be told that there is
    /// something to watch.
    pub(crate) fn begin_call(&self, what: Extent, since: Instant) -> bool {
        let mut list = lock(&self.list);
        list.calls.push(Call { what, since, reported: false });
        !std::mem::replace(&mut list.watched, true)
    }

    /// It has returned. Whether it was reported as stalled meanwhile.
    pub(crate) fn end_call(&self, what: Extent, since: Instant) -> bool {
        let mut list = lock(&self.list);
        let mine = |call: &Call| call.what == what && call.since == since;
        let at = list.calls.iter().position(mine);
        at.is_some_and(|at| list.calls.swap_remove(at).reported)
    }

    /// Takes note of calls that last longer than `stall`, each once, with how long; and when to look
    /// again.
    pub(crate) fn stalled(
        &self,
        now: Instant,
        stall: Duration,
        found: &mut Vec<(Extent, Duration)>,
    ) -> Option<Instant> {
        let mut list = lock(&self.list);
        let mut next = None;
        for call in list.calls.iter_mut().filter(|call| !call.reported) {
            if call.since + stall > now {
                next = next.into_iter().chain(Some(call.since + stall)).min();
                continue;
            }
            call.reported = true;
            found.push((call.what, now - call.since));
        }
        list.watched = next.is_some();
        next
    }

    /// Whether something ended that the reactor waits for, since it last asked.
    pub(crate) fn take_ended(&self) -> bool {
        self.ended.load(SeqCst) && self.ended.swap(false, SeqCst)
    }

    /// Descriptors where it is the reactor's turn to sync.
    pub(crate) fn reactors_turns(&self) -> Vec<RawFd> {
        let list = lock(&self.list);
        let turns = list.syncs.iter().filter(|sync| sync.reactors && !sync.runs);
        turns.map(|sync| sync.fd).collect()
    }

    /// The reactor wants to sync a descriptor. The callers for whom it does so too; `None` where it is
    /// a caller's turn, and the reactor's is next.
    pub(crate) fn begin_reactors_sync(&self, fd: RawFd) -> Option<Vec<Arc<Waiter>>> {
        let mut list = lock(&self.list);
        match list.sync(fd) {
            Some(sync) if sync.reactors => {
                sync.runs = true;
                Some(std::mem::take(&mut sync.waiting))
            }
            Some(sync) => {
                sync.reactor_waits = true;
                None
            }
            None => {
                list.syncs.push(Sync::new(fd, true));
                Some(Vec::new())
            }
        }
    }

    /// The reactor's sync of the descriptor is done; `more` where it has others that come next.
    pub(crate) fn end_reactors_sync(&self, fd: RawFd, more: bool, result: i64) {
        let mut list = lock(&self.list);
        if let Some(sync) = list.sync(fd) {
            sync.reactor_waits = more;
        }
        let passed = list.pass_on(fd, result);
        drop(list);
        passed.wake();
    }

    /// The reactor has nothing to sync on a descriptor, though it may have had.
    pub(crate) fn reactor_waives(&self, fd: RawFd) {
        let mut list = lock(&self.list);
        let passed = match list.sync(fd) {
            Some(sync) if sync.reactors && !sync.runs => list.pass_on(fd, 0),
            Some(sync) => {
                sync.reactor_waits = false;
                return;
            }
            None => return,
        };
        drop(list);
        passed.wake();
    }

    /// Whether the reactor will look at what is submitted now without being woken: it syncs the
    /// descriptor, or is next.
    pub(crate) fn reactor_comes(&self, fd: RawFd) -> bool {
        lock(&self.list).sync(fd).is_some_and(|sync| sync.reactors || sync.reactor_waits)
    }
}
