//! How events get from submitters to the reactor: two lanes between threads, and a backlog for what
//! the reactor's own thread submits.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossfire::flavor::Flavor;
use crossfire::stream::AsyncStream;
use crossfire::{mpsc, AsyncRx, TryRecvError};

use crate::tasks::IOEvent;
use crate::thread::here;
use crate::wake::WakeUp;

/// What a foreign channel calls when an event is sent after it was armed: its senders do not know
/// of the reactor.
struct SendWaker {
    armed: AtomicBool,
    wake_up: Arc<WakeUp>,
}

impl std::task::Wake for SendWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.armed.store(false, SeqCst);
        self.wake_up.wake();
    }
}

/// The receiving end of one channel.
struct Lane<C: Send + 'static, F: Flavor<Item = IOEvent<C>>> {
    stream: AsyncStream<F>,
    /// For a foreign channel. Whoever sends into the context's own also wakes its reactor.
    waker: Option<(Arc<SendWaker>, Waker)>,
    open: bool,
}

impl<C: Send + 'static, F: Flavor<Item = IOEvent<C>>> Lane<C, F> {
    fn own(receiver: AsyncRx<F>) -> Self {
        Lane { stream: receiver.into_stream(), waker: None, open: true }
    }

    fn foreign(receiver: AsyncRx<F>, wake_up: &Arc<WakeUp>) -> Self {
        let armed = AtomicBool::new(false);
        let waker = Arc::new(SendWaker { armed, wake_up: wake_up.clone() });
        let task = waker.clone().into();
        Lane { stream: receiver.into_stream(), waker: Some((waker, task)), open: true }
    }

    fn take(&mut self) -> Option<IOEvent<C>> {
        if !self.open {
            return None;
        }
        match self.stream.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.open = false;
                None
            }
        }
    }

    /// The last look before a sleep that the next event ends.
    fn arm(&mut self) -> Option<IOEvent<C>> {
        let Some((waker, task)) = &self.waker else { return self.take() };
        // One that was not called is still in its place; registering it anew would allocate.
        if !self.open || waker.armed.swap(true, SeqCst) {
            return None;
        }
        match self.stream.poll_item(&mut Context::from_waker(task)) {
            Poll::Pending => None,
            Poll::Ready(event) => {
                waker.armed.store(false, SeqCst);
                self.open = event.is_some();
                event
            }
        }
    }
}

/// The lane of callbacks on other threads: it can always take one more.
pub(crate) type InnerFlavor<C> = mpsc::List<IOEvent<C>>;
/// The lane of everybody else, where the context made it itself.
pub(crate) type OuterFlavor<C> = mpsc::Array<IOEvent<C>>;

/// Both lanes, as the reactor sees them.
pub(crate) struct Lanes<C: Send + 'static, Q: Flavor<Item = IOEvent<C>>> {
    outer: Lane<C, Q>,
    inner: Option<Lane<C, InnerFlavor<C>>>,
    wake_up: Arc<WakeUp>,
    /// Events of the outer lane were not counted in by their submitter.
    pub(crate) foreign: bool,
}

impl<C: Send + 'static, Q: Flavor<Item = IOEvent<C>>> Lanes<C, Q> {
    /// Without an inner lane, the outer one is a channel of somebody else's.
    pub(crate) fn new(
        outer: AsyncRx<Q>,
        inner: Option<AsyncRx<InnerFlavor<C>>>,
        wake_up: &Arc<WakeUp>,
    ) -> Self {
        let foreign = inner.is_none();
        let outer = if foreign { Lane::foreign(outer, wake_up) } else { Lane::own(outer) };
        Lanes { outer, foreign, inner: inner.map(Lane::own), wake_up: wake_up.clone() }
    }

    pub(crate) fn take_outer(&mut self) -> Option<IOEvent<C>> {
        self.outer.take()
    }

    pub(crate) fn take_inner(&mut self) -> Option<IOEvent<C>> {
        self.inner.as_mut()?.take()
    }

    /// Every sender of the outer lane is gone, and it is empty.
    pub(crate) fn ended(&self) -> bool {
        !self.outer.open
    }

    /// Prepares for sleep: from here on an event sent ends the wait. An event that came before is
    /// handed out instead (with whether it is from the outer lane), and there is no sleep.
    /// `outer_too` says whether the outer lane may be taken from; asked after the sleep was
    /// announced, so that a change of the answer also ends the wait.
    pub(crate) fn arm(&mut self, outer_too: impl FnOnce() -> bool) -> Option<(IOEvent<C>, bool)> {
        self.wake_up.prepare_sleep();
        let outer = if outer_too() { self.outer.arm() } else { None };
        let event = match outer {
            Some(event) => Some((event, true)),
            None => self.inner.as_mut().and_then(Lane::arm).map(|event| (event, false)),
        };
        if event.is_some() {
            self.awake();
        }
        event
    }

    /// Prepares for a sleep that only what cannot wait for a slot ends.
    pub(crate) fn arm_busy(&self) {
        self.wake_up.prepare_busy_sleep();
    }

    /// The sleep is over: until the next `arm`, sending costs no system call.
    pub(crate) fn awake(&self) {
        self.wake_up.awake();
    }
}

/// A queue that only one thread uses: the reactor's. Everyone may hold a reference, and asks
/// [`Backlog::is_mine`] first.
pub(crate) struct Backlog<C> {
    thread: AtomicUsize,
    queue: UnsafeCell<VecDeque<IOEvent<C>>>,
}

// SAFETY: the queue is touched only on the thread whose token `thread` holds.
unsafe impl<C: Send> Sync for Backlog<C> {}

/// No thread has this token: it stands for a reactor whose thread has ended.
const ENDED: usize = 1;

impl<C> Backlog<C> {
    pub(crate) fn new() -> Self {
        Backlog { thread: AtomicUsize::new(0), queue: UnsafeCell::new(VecDeque::new()) }
    }

    /// Makes the calling thread the reactor's, where none is. True where it is now.
    pub(crate) fn claim(&self, token: usize) -> bool {
        self.belongs_to(token) || self.thread.compare_exchange(0, token, SeqCst, SeqCst).is_ok()
    }

    /// Whether the reactor's thread is the one with this token.
    pub(crate) fn belongs_to(&self, token: usize) -> bool {
        self.thread.load(Relaxed) == token
    }

    pub(crate) fn is_mine(&self) -> bool {
        self.belongs_to(here().token)
    }

    pub(crate) fn is_unclaimed(&self) -> bool {
        self.thread.load(SeqCst) == 0
    }

    /// Whether the reactor's thread has ended, and nobody took over.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.thread.load(SeqCst) == ENDED
    }

    /// The reactor's thread ends. The next to call `seize` inherits.
    pub(crate) fn abandon(&self) {
        self.thread.store(ENDED, SeqCst);
    }

    /// Makes the calling thread the reactor's, where none is, or none any more. What it was before;
    /// `None` where another thread is.
    pub(crate) fn seize(&self) -> Option<usize> {
        let token = here().token;
        let was = |before| self.thread.compare_exchange(before, token, SeqCst, SeqCst).is_ok();
        [token, 0, ENDED].into_iter().find(|before| was(*before))
    }

    /// Takes a `seize` back.
    pub(crate) fn give_back(&self, before: usize) {
        self.thread.store(before, SeqCst);
    }

    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(&mut VecDeque<IOEvent<C>>) -> R) -> R {
        debug_assert!(self.is_mine());
        // SAFETY: only this thread gets here, and `f` calls nothing that comes back.
        f(unsafe { &mut *self.queue.get() })
    }

    /// On the reactor's thread only.
    #[inline(always)]
    pub(crate) fn push(&self, event: IOEvent<C>) {
        self.with(|queue| queue.push_back(event))
    }

    /// On the reactor's thread only.
    pub(crate) fn pop(&self) -> Option<IOEvent<C>> {
        self.with(VecDeque::pop_front)
    }

    /// Takes up to `count` of the oldest; how many. On the reactor's thread only.
    #[inline(always)]
    pub(crate) fn take(&self, count: usize, taken: impl FnMut(IOEvent<C>)) -> usize {
        // Whoever looks meanwhile finds an empty one.
        let mut queue = self.with(std::mem::take);
        let count = count.min(queue.len());
        queue.drain(..count).for_each(taken);
        self.with(|pushed| {
            queue.append(pushed);
            *pushed = queue;
        });
        count
    }

    /// On the reactor's thread only.
    pub(crate) fn is_empty(&self) -> bool {
        self.with(|queue| queue.is_empty())
    }
}
