//! Where callbacks run: on worker threads that several contexts may share, or on the reactor's own
//! thread. The one place that calls a callback.

use std::cell::Cell;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossfire::{mpmc, MRx, MTx, TryRecvError};

use crate::fork;
use crate::gate::{lock, Gate, Latch};
use crate::ledger::{Admission, Ledger};
use crate::log::{explain, log, Level};
use crate::merge;
use crate::tasks::{IOCallback, IOEvent, Link};
use crate::thread::{spawn, within, NO_THREAD};

/// The most threads of one set.
pub const MAX_WORKERS: u32 = 256;

type Queue<C> = mpmc::List<IOEvent<C>>;

/// A set of threads that run callbacks, for one context or for several.
pub struct IOWorkers<C: IOCallback> {
    set: Option<Arc<Set<C>>>,
}

struct Set<C: IOCallback> {
    /// `None` once the set is ending.
    sender: Mutex<Option<MTx<Queue<C>>>>,
    /// Where threads without work sleep.
    work: Arc<Gate>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    count: u32,
    contexts: AtomicUsize,
    generation: fork::Generation,
}

impl<C: IOCallback> IOWorkers<C> {
    /// Starts the threads; with 0, callbacks run on the thread of each context's reactor.
    ///
    /// # Panics
    /// Where the threads cannot be started; [`IOWorkers::try_new`] says why instead.
    pub fn new(threads: u32) -> Self {
        Self::try_new(threads).expect("callback threads")
    }

    /// Like [`IOWorkers::new`]. Fails with `EINVAL` beyond [`MAX_WORKERS`], or with the errno of
    /// pthread_create(3), mostly `EAGAIN`: RLIMIT_NPROC or the cgroup's pids.max is used up.
    pub fn try_new(threads: u32) -> io::Result<Self> {
        if threads > MAX_WORKERS {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if threads == 0 {
            return Ok(Self::none());
        }
        let (sender, receiver) = mpmc::unbounded_blocking();
        let set = Arc::new(Set {
            sender: Mutex::new(Some(sender)),
            work: Arc::default(),
            threads: Mutex::new(Vec::new()),
            count: threads,
            contexts: AtomicUsize::new(0),
            generation: fork::generation(),
        });
        let workers = IOWorkers { set: Some(set.clone()) };
        for number in 0..threads {
            let receiver: MRx<Queue<C>> = receiver.clone();
            let id = Arc::as_ptr(&set) as usize;
            let gate = set.work.clone();
            let name = format!("ioe-worker-{number}");
            let thread = spawn(name, move || work(&receiver, &gate, id));
            let thread = thread.map_err(explain(NO_THREAD))?;
            lock(&set.threads).push(thread);
        }
        Ok(workers)
    }

    /// Callbacks run on the reactor's thread, or in the owner's poll.
    pub(crate) fn none() -> Self {
        IOWorkers { set: None }
    }

    /// How many threads.
    pub fn threads(&self) -> u32 {
        self.set.as_ref().map_or(0, |set| set.count)
    }

    /// Contexts that use the set now.
    pub(crate) fn contexts(&self) -> usize {
        self.set.as_ref().map_or(0, |set| set.contexts.load(SeqCst))
    }

    pub(crate) fn share(&self) -> Self {
        IOWorkers { set: self.set.clone() }
    }

    /// The way of a context's completed events to their callbacks, counted as a use of the set.
    pub(crate) fn delivery(&self) -> Delivery<C> {
        let workers = self.set.as_ref().and_then(|set| {
            let sender = lock(&set.sender).clone()?;
            set.contexts.fetch_add(1, SeqCst);
            Some(ToWorkers { sender, set: set.clone() })
        });
        Delivery { workers, wake_calls: 0 }
    }

    /// Identifies the set; 0 where there are no threads.
    pub(crate) fn id(&self) -> usize {
        self.set.as_ref().map_or(0, |set| Arc::as_ptr(set) as usize)
    }
}

impl<C: IOCallback> Drop for Set<C> {
    /// Ends the threads when the last user is gone, after all that was delivered.
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            // A forked child has neither the threads nor a say in their locks.
            std::mem::forget(std::mem::take(&mut self.threads));
            std::mem::forget(std::mem::take(&mut self.sender));
            return;
        }
        drop(lock(&self.sender).take());
        self.work.wake();
        let own = std::thread::current().id();
        for thread in lock(&self.threads).drain(..) {
            // A callback that drops the last handle runs on one of them; it ends by itself.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

/// Where the reactor puts completed events. Never makes it wait.
pub(crate) struct Delivery<C: IOCallback> {
    workers: Option<ToWorkers<C>>,
    /// System calls made to wake workers.
    pub(crate) wake_calls: u64,
}

/// The sender comes first: the set waits for its threads, and they for the last sender.
struct ToWorkers<C: IOCallback> {
    sender: MTx<Queue<C>>,
    set: Arc<Set<C>>,
}

impl<C: IOCallback> Delivery<C> {
    /// Runs the callbacks of all `events` here, or hands them to the workers. How many there were.
    pub(crate) fn deliver(&mut self, ledger: &Ledger, events: &mut Vec<IOEvent<C>>) -> u32 {
        let count = events.len() as u32;
        match &self.workers {
            Some(_) if count == 0 => {}
            Some(ToWorkers { sender, set }) => {
                // The set's threads hold the receiver for as long as this sender lives.
                let send = |event| drop(sender.send(event));
                // One thread calls them one after the other: they go together. Several do not: a
                // callback that waits for another's would keep those behind it from the others.
                let messages = match set.count {
                    1 => {
                        tie(events.drain(..).rev()).into_iter().for_each(send);
                        1
                    }
                    _ => {
                        events.drain(..).for_each(send);
                        count as usize
                    }
                };
                self.wake_calls += u64::from(set.work.wake_for(messages));
            }
            None if count > 0 => {
                let mut events = events.drain(..);
                within(ledger, 0, || run(ledger, || events.next()));
            }
            None => {}
        }
        count
    }
}

impl<C: IOCallback> Drop for Delivery<C> {
    fn drop(&mut self) {
        if let Some(ToWorkers { set, .. }) = &self.workers {
            set.contexts.fetch_sub(1, SeqCst);
        }
    }
}

/// The callback of an event starts now, or whoever waits for it instead goes on.
#[inline(always)]
pub(crate) fn starts<C>(ledger: &Ledger, event: &IOEvent<C>) -> Admission {
    let admission = event.admission();
    ledger.start(admission);
    if event.result() < 0 && event.is_write() {
        ledger.failed_write_starts(admission.number());
    }
    admission
}

/// Calls one callback after the other. Afterwards nothing of its event is touched: it is somebody
/// else's.
#[inline(always)]
fn run<C: IOCallback>(ledger: &Ledger, mut next: impl FnMut() -> Option<IOEvent<C>>) {
    let running = Cell::new(Admission::default());
    let mut run_all = || {
        while let Some(mut event) = next() {
            let admission = starts(ledger, &event);
            running.set(admission);
            event.release();
            if let Some(callback) = event.take_callback() {
                callback.call(event);
            }
            ledger.finish(admission);
        }
    };
    while let Err(payload) = catch_unwind(AssertUnwindSafe(&mut run_all)) {
        // Dropping it could panic again.
        std::mem::forget(payload);
        log(Level::Error, || "a callback panicked; the engine goes on".into());
        ledger.finish(running.get());
    }
}

/// Gives an event to the thread that waits for it instead of a callback, and that releases it.
/// Afterwards nothing of it is touched.
pub(crate) fn hand_back<C>(ledger: &Ledger, event: IOEvent<C>) {
    let admission = starts(ledger, &event);
    ledger.finish(admission);
    let latch = event.take_waiter();
    // It is a second handle of the waiter's own.
    event.into_raw();
    // SAFETY: it was counted up for this event.
    latch.into_iter().for_each(|latch| unsafe { Latch::count_down(latch) });
}

/// Makes one message of several events, the last first.
fn tie<C>(events: impl Iterator<Item = IOEvent<C>>) -> Option<IOEvent<C>> {
    events.reduce(|next, event| {
        event.set_link(Link::Batched(next));
        event
    })
}

/// The life of one worker thread.
fn work<C: IOCallback>(receiver: &MRx<Queue<C>>, gate: &Gate, set: usize) {
    // Kept while its events come one after the other: a context may be freed as soon as its last
    // callback has returned, and its ledger is still in use here for an instant.
    let mut current: Option<Arc<Ledger>> = None;
    loop {
        let event = match receiver.try_recv() {
            Ok(event) => event,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                current = None;
                // Not the channel's own wait, which allocates each time.
                gate.wait_until(None, || !receiver.is_empty() || receiver.is_disconnected());
                continue;
            }
        };
        let (owner, _) = event.owner();
        let ledger = match &current {
            Some(ledger) if ptr::eq(Arc::as_ptr(ledger), owner) => ledger,
            _ => {
                // SAFETY: the ledger is in an Arc, and lives at least until this event returned.
                let ledger = unsafe {
                    Arc::increment_strong_count(owner);
                    Arc::from_raw(owner)
                };
                current.insert(ledger)
            }
        };
        let mut rest = Some(event);
        let next = || {
            let event = rest.take()?;
            rest = merge::untie(&event);
            Some(event)
        };
        within(ledger, set, || run(ledger, next));
    }
}
