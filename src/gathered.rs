//! What the mergers of a context have gathered: events that are accepted already, so they are handed
//! over whenever somebody might wait for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::gate::lock;
use crate::merge::MergeBuffer;
use crate::tasks::IOEvent;

/// What one merger has gathered.
type Shelf<C> = Arc<Mutex<MergeBuffer<C>>>;

/// What all of them have.
pub(crate) struct Gathered<C> {
    /// Locked before one of them, never after.
    list: Mutex<List<C>>,
    mergers: AtomicUsize,
    events: AtomicUsize,
    /// Submitters that wait for room: meanwhile gathered events do not take up all of it.
    waiting: AtomicUsize,
    /// The owner of a polled context has to flush: somebody wants an event back.
    wanted: AtomicBool,
}

struct List<C> {
    /// By the address of each.
    all: BTreeMap<usize, Shelf<C>>,
    /// The context is being freed.
    closed: bool,
}

impl<C> Default for Gathered<C> {
    fn default() -> Self {
        Gathered {
            list: Mutex::new(List { all: BTreeMap::new(), closed: false }),
            mergers: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            wanted: AtomicBool::new(false),
        }
    }
}

impl<C> Gathered<C> {
    /// For a new merger; `None` where the context is being freed.
    pub(crate) fn add(&self, limit: usize) -> Option<Shelf<C>> {
        let shelf = Arc::new(Mutex::new(MergeBuffer::new(limit)));
        let mut list = lock(&self.list);
        if list.closed {
            return None;
        }
        list.all.insert(Arc::as_ptr(&shelf) as usize, shelf.clone());
        self.mergers.store(list.all.len(), SeqCst);
        Some(shelf)
    }

    /// For a merger that ends. It has handed over everything.
    pub(crate) fn remove(&self, shelf: &Shelf<C>) {
        let mut list = lock(&self.list);
        list.all.remove(&(Arc::as_ptr(shelf) as usize));
        self.mergers.store(list.all.len(), SeqCst);
    }

    /// Gathers an event. What was gathered before it, or with it, and has to go now is handed over.
    pub(crate) fn push(
        &self,
        shelf: &mut MergeBuffer<C>,
        event: IOEvent<C>,
        hand_over: impl Fn(IOEvent<C>),
    ) {
        // A time limit is looked at by the reactor alone.
        let timed = event.is_timed();
        if let Err(event) = shelf.push_event(event) {
            self.flush_one(shelf, &hand_over);
            // Nothing is in its way any more.
            let _ = shelf.push_event(event);
        }
        self.events.fetch_add(1, SeqCst);
        if shelf.is_full() || timed {
            self.flush_one(shelf, &hand_over);
        }
    }

    /// Hands over what one merger gathered.
    pub(crate) fn flush_one(&self, shelf: &mut MergeBuffer<C>, hand_over: &impl Fn(IOEvent<C>)) {
        let count = shelf.len();
        if let Some(run) = shelf.flush() {
            self.events.fetch_sub(count, SeqCst);
            hand_over(run);
        }
    }

    /// Hands over what any of them gathered.
    pub(crate) fn flush(&self, hand_over: impl Fn(IOEvent<C>)) {
        if self.mergers.load(SeqCst) == 0 {
            return;
        }
        for shelf in lock(&self.list).all.values() {
            self.flush_one(&mut lock(shelf), &hand_over);
        }
    }

    /// Has the owner of a polled context flush when it comes by.
    pub(crate) fn want(&self) {
        self.wanted.store(true, SeqCst);
    }

    /// Whether somebody wanted that since the last time.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.load(SeqCst) && self.wanted.swap(false, SeqCst)
    }

    /// How many events are gathered.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(SeqCst) as u64
    }

    /// Until the answer is dropped, [`Gathered::is_waited_for`].
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, SeqCst);
        Waiting(&self.waiting)
    }

    /// Whether submitters wait for room.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Lets no more mergers be made in any of these; false, and changes nothing, while there are any.
    pub(crate) fn close<'a>(all: impl Iterator<Item = &'a Self>) -> bool
    where
        C: 'a,
    {
        let mut lists: Vec<_> = all.map(|gathered| lock(&gathered.list)).collect();
        let empty = lists.iter().all(|list| list.all.is_empty());
        lists.iter_mut().for_each(|list| list.closed |= empty);
        empty
    }

    /// Lets go of all events without touching them, in a forked child.
    pub(crate) fn forget_events(&self) {
        let Ok(list) = self.list.try_lock() else { return };
        for shelf in list.all.values() {
            if let Ok(mut shelf) = shelf.try_lock() {
                std::mem::forget(std::mem::replace(&mut *shelf, MergeBuffer::new(0)));
            }
        }
    }
}

/// A submitter waits for room, while it lives.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
