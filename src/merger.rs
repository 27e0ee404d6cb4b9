//! Mergers of a context: they gather events that the context has accepted already, and so hand them
//! over whenever somebody might wait for those.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::context::{Errno, Shared};
use crate::gate::lock;
use crate::merge::MergeBuffer;
use crate::tasks::{IOAction, IOCallback, IOEvent};
use crate::thread::{here, Here};

type Gathered<C> = Mutex<MergeBuffer<C>>;

/// All mergers of a context.
pub(crate) struct Mergers<C> {
    /// Locked before one of them, never after.
    list: Mutex<List<C>>,
    count: AtomicUsize,
    /// Events that all of them have gathered.
    gathered: AtomicUsize,
    /// Drains going on: meanwhile nothing is held back.
    draining: AtomicUsize,
    /// Submitters that wait for room: meanwhile gathered events do not take up all of it.
    short_of_room: AtomicUsize,
}

struct List<C> {
    /// By the address of each.
    all: BTreeMap<usize, Arc<Gathered<C>>>,
    /// The context is being freed.
    closed: bool,
}

impl<C> Default for Mergers<C> {
    fn default() -> Self {
        Mergers {
            list: Mutex::new(List { all: BTreeMap::new(), closed: false }),
            count: AtomicUsize::new(0),
            gathered: AtomicUsize::new(0),
            draining: AtomicUsize::new(0),
            short_of_room: AtomicUsize::new(0),
        }
    }
}

impl<C: IOCallback> Mergers<C> {
    /// Hands over what any of them gathered.
    pub(crate) fn flush(&self, context: &Shared<C>) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        for gathered in lock(&self.list).all.values() {
            hand_over(&mut lock(gathered), context, here());
        }
    }

    /// Hands over what any of them gathered, and all that is added until the answer is dropped.
    pub(crate) fn drain(&self, context: &Shared<C>) -> During<'_> {
        let draining = During::begin(&self.draining);
        self.flush(context);
        draining
    }

    /// Hands over what any of them gathered, if nothing else takes up room: whatever else does will
    /// leave it by itself, and the mergers may go on.
    pub(crate) fn make_room(&self, context: &Shared<C>) {
        if self.gathered.load(SeqCst) as u64 >= context.ledger().places() {
            self.flush(context);
        }
    }

    /// The same, now and until the answer is dropped.
    pub(crate) fn wait_for_room(&self, context: &Shared<C>) -> During<'_> {
        let waiting = During::begin(&self.short_of_room);
        self.make_room(context);
        waiting
    }

    /// Lets no more be made; false, and changes nothing, while there are any.
    pub(crate) fn close(&self) -> bool {
        let mut list = lock(&self.list);
        list.closed |= list.all.is_empty();
        list.all.is_empty()
    }

    /// Takes `close` back.
    pub(crate) fn open(&self) {
        lock(&self.list).closed = false;
    }

    /// Lets go of all events without touching them, in a forked child.
    pub(crate) fn forget_events(&self) {
        let Ok(list) = self.list.try_lock() else { return };
        for gathered in list.all.values() {
            if let Ok(mut gathered) = gathered.try_lock() {
                std::mem::forget(std::mem::replace(&mut *gathered, MergeBuffer::new(0)));
            }
        }
    }
}

/// Counts one who waits, while it lives.
pub(crate) struct During<'a>(&'a AtomicUsize);

impl<'a> During<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        During(count)
    }
}

impl Drop for During<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn hand_over<C: IOCallback>(gathered: &mut MergeBuffer<C>, context: &Shared<C>, here: Here) {
    let count = gathered.len();
    if let Some(run) = gathered.flush() {
        context.mergers.gathered.fetch_sub(count, SeqCst);
        context.hand_over(run, here);
    }
}

/// Joins the neighbouring events of one file that it is given.
pub(crate) struct Merger<C: IOCallback> {
    context: Arc<Shared<C>>,
    fd: RawFd,
    action: IOAction,
    gathered: Arc<Gathered<C>>,
}

impl<C: IOCallback> Merger<C> {
    pub(crate) fn new(
        context: Arc<Shared<C>>,
        fd: RawFd,
        action: IOAction,
        limit: usize,
    ) -> Result<Self, Errno> {
        context.check_owner()?;
        let gathered = Arc::new(Mutex::new(MergeBuffer::new(limit)));
        let mut list = lock(&context.mergers.list);
        if list.closed {
            return Err(libc::ESHUTDOWN);
        }
        list.all.insert(address(&gathered), gathered.clone());
        context.mergers.count.store(list.all.len(), SeqCst);
        drop(list);
        Ok(Merger { context, fd, action, gathered })
    }

    pub(crate) fn check_process(&self) -> Result<(), Errno> {
        self.context.check_process()
    }

    /// Accepts an event and gathers it. One that is not accepted comes back as it was. The caller
    /// has asked `check_process`.
    pub(crate) fn add(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, Errno)> {
        if event.fd() != self.fd || event.action() != Some(self.action) {
            return Err((event, libc::EINVAL));
        }
        let here = here();
        let context = &*self.context;
        if let Err(errno) = context.launch(&event, here) {
            return Err((event, errno));
        }
        loop {
            // Counted in and gathered in one step: whoever drains finds both, or neither.
            let mut gathered = lock(&self.gathered);
            let Err(refused) = context.count_in(&event, here) else {
                self.gather(&mut gathered, event, here);
                drop(gathered);
                // Whoever waits looked before this one was gathered, or it is seen here.
                if context.mergers.short_of_room.load(SeqCst) > 0 {
                    context.mergers.make_room(context);
                }
                return Ok(());
            };
            drop(gathered);
            if let Err(errno) = context.make_room(refused, &event, true) {
                return Err((event, errno));
            }
        }
    }

    fn gather(&self, gathered: &mut MergeBuffer<C>, event: IOEvent<C>, here: Here) {
        if let Err(event) = gathered.push_event(event) {
            hand_over(gathered, &self.context, here);
            // Nothing is in its way any more.
            let _ = gathered.push_event(event);
        }
        self.context.mergers.gathered.fetch_add(1, SeqCst);
        if gathered.is_full() || self.context.mergers.draining.load(SeqCst) > 0 {
            hand_over(gathered, &self.context, here);
        }
    }

    /// Hands over what was gathered.
    pub(crate) fn flush(&self) -> Result<(), Errno> {
        self.context.check_owner()?;
        hand_over(&mut lock(&self.gathered), &self.context, here());
        Ok(())
    }

    /// Whether the calling thread may free it: its user, or anybody where that is gone, and what it
    /// had gathered flushed.
    pub(crate) fn check_free(&self) -> Result<(), Errno> {
        self.context.check_process()?;
        match self.context.has_lost_owner() {
            true => Ok(()),
            false => self.context.check_owner(),
        }
    }
}

fn address<C>(gathered: &Arc<Gathered<C>>) -> usize {
    Arc::as_ptr(gathered) as usize
}

impl<C: IOCallback> Drop for Merger<C> {
    fn drop(&mut self) {
        hand_over(&mut lock(&self.gathered), &self.context, here());
        let mut list = lock(&self.context.mergers.list);
        list.all.remove(&address(&self.gathered));
        self.context.mergers.count.store(list.all.len(), SeqCst);
    }
}
