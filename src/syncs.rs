//! Syncs that wait: for one of the same descriptor that runs, and barriers for earlier writes. What
//! waits when a sync ends is joined into the next.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::callers::{Callers, Waiter};
use crate::merge::join;
use crate::tasks::{IOAction, IOEvent};

pub(crate) struct Syncs<C> {
    /// Whether they are joined at all.
    pub groups: bool,
    files: BTreeMap<RawFd, File<C>>,
    /// Descriptors where something may be able to start.
    look: VecDeque<RawFd>,
    /// Barriers that wait, and those of them whose earlier writes have not been counted.
    barriers: usize,
    uncounted: usize,
}

struct File<C> {
    running: bool,
    /// It is among those to look at.
    looked_at: bool,
    held: Vec<Held<C>>,
}

struct Held<C> {
    event: IOEvent<C>,
    number: u64,
    wait: Wait,
}

impl<C> Held<C> {
    /// A barrier whose writes are done.
    fn has_passed(&self) -> bool {
        self.wait == Wait::Writes { here: 0, callers: false }
    }

    /// It waits for nothing but its turn.
    fn is_ready(&self) -> bool {
        self.wait == Wait::Nothing || self.has_passed()
    }
}

/// What keeps a sync from the next group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// A barrier that has just come.
    Uncounted,
    /// A barrier: so many writes that the reactor has, and others that callers do.
    Writes {
        here: usize,
        callers: bool,
    },
}

/// What comes of a sync that waited.
pub(crate) enum Next<C> {
    /// To be issued: one, or several joined, and callers for whom it is done too.
    Start(IOEvent<C>, Vec<Arc<Waiter>>),
    /// It must hear of this errno, and not ask the kernel.
    Failed(IOEvent<C>, i32),
}

impl<C> Syncs<C> {
    pub(crate) fn new(groups: bool) -> Self {
        Syncs { groups, files: BTreeMap::new(), look: VecDeque::new(), barriers: 0, uncounted: 0 }
    }

    /// Whether this one has to wait here.
    pub(crate) fn holds(&self, event: &IOEvent<C>) -> bool {
        event.is_sync() && (self.groups || event.is_barrier())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.values().all(|file| file.held.is_empty())
    }

    /// Whether the end of a write matters to anybody.
    pub(crate) fn has_barriers(&self) -> bool {
        self.barriers > 0
    }

    /// Whether barriers have come whose earlier writes are to be counted.
    pub(crate) fn has_uncounted(&self) -> bool {
        self.uncounted > 0
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.look.is_empty()
    }

    pub(crate) fn push(&mut self, event: IOEvent<C>) {
        let (fd, number) = (event.fd(), event.number());
        let wait = match event.is_barrier() {
            true => Wait::Uncounted,
            false => Wait::Nothing,
        };
        self.barriers += usize::from(event.is_barrier());
        self.uncounted += usize::from(event.is_barrier());
        self.file(fd).held.push(Held { event, number, wait });
        self.look_at(fd);
    }

    fn file(&mut self, fd: RawFd) -> &mut File<C> {
        let new = || File { running: false, looked_at: false, held: Vec::new() };
        self.files.entry(fd).or_insert_with(new)
    }

    pub(crate) fn look_at(&mut self, fd: RawFd) {
        let file = self.file(fd);
        if !std::mem::replace(&mut file.looked_at, true) {
            self.look.push_back(fd);
        }
    }

    /// Has the writes before each new barrier counted: of a descriptor, accepted before this number.
    /// `here` counts those that the reactor has, `callers` asks for the others.
    pub(crate) fn count(
        &mut self,
        here: impl Fn(RawFd, u64) -> usize,
        callers: impl Fn(RawFd, u64) -> bool,
    ) {
        self.uncounted = 0;
        self.change_all(|fd, number, wait| {
            if *wait == Wait::Uncounted {
                *wait = Wait::Writes { here: here(fd, number), callers: callers(fd, number) };
            }
        });
    }

    /// Looks again at what callers do.
    pub(crate) fn callers_ended(&mut self, callers: impl Fn(RawFd, u64) -> bool) {
        self.change_all(|fd, number, wait| {
            if let Wait::Writes { callers: waits @ true, .. } = wait {
                *waits = callers(fd, number);
            }
        });
    }

    /// Changes what syncs wait for, and has all of them looked at.
    fn change_all(&mut self, change: impl Fn(RawFd, u64, &mut Wait)) {
        for (fd, file) in &mut self.files {
            file.held.iter_mut().for_each(|held| change(*fd, held.number, &mut held.wait));
            if !std::mem::replace(&mut file.looked_at, true) {
                self.look.push_back(*fd);
            }
        }
    }

    /// A write came to the reactor: also one that a barrier behind it has overtaken on the way.
    pub(crate) fn write_came(&mut self, fd: RawFd, number: u64) {
        self.change(fd, number, |here| *here += 1);
    }

    /// A write that came to the reactor is done.
    pub(crate) fn write_done(&mut self, fd: RawFd, number: u64) {
        if self.change(fd, number, |here| *here -= 1) {
            self.look_at(fd);
        }
    }

    fn change(&mut self, fd: RawFd, number: u64, change: impl Fn(&mut usize)) -> bool {
        let Some(file) = self.files.get_mut(&fd) else { return false };
        let mut none_left = false;
        for held in file.held.iter_mut().filter(|held| held.number > number) {
            if let Wait::Writes { here, .. } = &mut held.wait {
                change(here);
                none_left |= *here == 0;
            }
        }
        none_left
    }

    /// Whether some wait for nothing but the end of the one that runs.
    pub(crate) fn has_ready(&self, fd: RawFd) -> bool {
        self.files.get(&fd).is_some_and(|file| file.held.iter().any(Held::is_ready))
    }

    /// The running sync of a descriptor is done.
    pub(crate) fn ended(&mut self, fd: RawFd) {
        self.file(fd).running = false;
        self.look_at(fd);
    }

    /// What can go on now. `failure` tells the error that a sync of this descriptor and number must hear,
    /// a barrier or not. Syncs start only where they are `wanted`.
    pub(crate) fn next(
        &mut self,
        wanted: bool,
        failure: impl Fn(RawFd, u64, bool) -> Option<i32>,
        callers: &Callers,
    ) -> Option<Next<C>> {
        for _ in 0..self.look.len() {
            let fd = self.look.pop_front()?;
            let groups = self.groups;
            let file = self.files.get_mut(&fd)?;
            file.looked_at = false;
            let failed = file.held.iter().enumerate().find_map(|(at, held)| {
                let errno = failure(fd, held.number, held.has_passed())?;
                Some((at, errno))
            });
            if let Some((at, errno)) = failed {
                let held = file.held.remove(at);
                self.barriers -= usize::from(held.event.is_barrier());
                self.uncounted -= usize::from(held.wait == Wait::Uncounted);
                self.look_at(fd);
                return Some(Next::Failed(held.event, errno));
            }
            let ready = file.held.iter().any(Held::is_ready);
            if groups && !ready && !file.running {
                callers.reactor_waives(fd);
            }
            if file.held.is_empty() && !file.running {
                self.files.remove(&fd);
                continue;
            }
            if groups && file.running || !ready {
                // What it waits for will have it looked at.
                continue;
            }
            if !wanted {
                if groups {
                    // Callers need no slot.
                    callers.reactor_waives(fd);
                }
                self.look_at(fd);
                continue;
            }
            let begun = if groups { callers.begin_reactors_sync(fd) } else { Some(Vec::new()) };
            // A caller that has its turn hands it on.
            let Some(followers) = begun else { continue };
            file.running = groups;
            let mut run = Vec::new();
            let mut at = 0;
            while at < file.held.len() && (groups || run.is_empty()) {
                match file.held[at].is_ready() {
                    true => run.push(file.held.remove(at).event),
                    false => at += 1,
                }
            }
            self.barriers -= run.iter().filter(|event| event.is_barrier()).count();
            if !groups {
                self.look_at(fd);
            }
            // One that syncs more than the others goes first: the operation is its own.
            if let Some(whole) = run.iter().position(|event| event.kind() == IOAction::Fsync) {
                run.swap(0, whole);
            }
            return join(run).map(|run| Next::Start(run, followers));
        }
        None
    }

    /// All that waits.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &IOEvent<C>> {
        self.files.values().flat_map(|file| &file.held).map(|held| &held.event)
    }

    /// Takes out what is to end, or all.
    pub(crate) fn take_out(
        &mut self,
        ends: impl Fn(&IOEvent<C>) -> bool,
        mut out: impl FnMut(IOEvent<C>),
    ) {
        for (fd, file) in &mut self.files {
            if !std::mem::replace(&mut file.looked_at, true) {
                self.look.push_back(*fd);
            }
            let mut at = 0;
            while at < file.held.len() {
                if !ends(&file.held[at].event) {
                    at += 1;
                    continue;
                }
                let held = file.held.remove(at);
                self.barriers -= usize::from(held.event.is_barrier());
                self.uncounted -= usize::from(held.wait == Wait::Uncounted);
                out(held.event);
            }
        }
    }
}
