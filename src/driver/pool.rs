//! Plain system calls on threads: a driver by itself, and what stands behind the others.
//!
//! Reads through the page cache are tried before anything waits for them: by the reactor, and where
//! they are many, by threads beside it. What has to wait does so on a thread of its own: one that is
//! about to sees to it that another one takes what is left.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use super::backed::Behind;
use super::direct::{self, Known};
use super::{timespec, Done, Entered, Interface, Prep, Wait};
use crate::fork;
use crate::gate::lock;
use crate::log::{log, Level};
use crate::spin::{processors, spin, Spin};
use crate::tasks::Op;
use crate::thread::{spawn_small, NO_THREAD};
use crate::wake::{clear_eventfd, write_eventfd, WakeUp};

/// The most threads of one pool.
pub(crate) const MAX_THREADS: u32 = 64;

/// How long a thread without work stays: as long as those of io-wq.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// How long the pool makes do with fewer threads after one could not be started.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// How long to sleep at a time where ppoll(2) is forbidden.
const PAUSE: Duration = Duration::from_millis(1);

/// Reads to be tried that are worth a thread beside the reactor: waking one costs as much as several.
const SHARED: usize = 16;

/// Bytes to be tried, with at least a page for each read, that are worth another thread, where there
/// is a processor for it.
const BACKLOG: u64 = 128 << 10;

/// Reads that are tried together, and bytes of these where they are several.
const CHUNK: usize = 8;
const CHUNK_BYTES: u64 = 64 << 10;

/// Bytes done, with at least a page for each operation, that are worth waking the reactor for while
/// the same thread has more to do: for one page alone, waking costs more than reading.
const BATCH: u64 = 64 << 10;
const PAGE: u64 = 4096;

/// Bytes that the reactor reads itself in one turn, at most: what is more goes to threads, which
/// copy at the same time, and keeps nobody waiting.
const AT_ONCE: u64 = 1 << 20;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// To be handed over.
    staged: Vec<Job>,
    /// Reads to be tried, and their bytes.
    tries: Vec<Job>,
    tries_bytes: u64,
    /// There may be reads to be tried among what was handed over.
    sharing: bool,
    known: Known,
    /// Handed over and not collected.
    pending: usize,
    system_calls: u64,
    /// Made by the reactor's thread.
    own_calls: u64,
    spin: Spin,
    generation: fork::Generation,
}

struct Job {
    slot: u32,
    op: Op,
}

impl Job {
    /// The bytes that it costs as much as.
    fn weight(&self) -> u64 {
        self.op.len.max(PAGE)
    }
}

// SAFETY: what the operation refers to stays valid, for whichever thread, until it is done.
unsafe impl Send for Job {}

struct Shared {
    state: Mutex<State>,
    /// What `state` has, to look at without its lock: operations to be taken, and completions.
    waiting: AtomicUsize,
    completed: AtomicUsize,
    wake_up: Arc<WakeUp>,
    /// Processors beside that of the reactor.
    runners: usize,
    most: usize,
}

#[derive(Default)]
struct State {
    /// Operations that wait, or may; and reads to be tried, and their weight.
    queue: VecDeque<Job>,
    tries: VecDeque<Job>,
    tries_weight: u64,
    done: Vec<Done>,
    /// Of `done`, as `BATCH` counts them.
    done_bytes: u64,
    /// Completions that end the reactor's wait.
    wanted: usize,
    notify: Option<RawFd>,
    /// All threads; at most `limit`, which is lower until the time comes to try again.
    threads: usize,
    limit: usize,
    retry_at: Option<Instant>,
    /// Threads that are not waiting in a system call, those that were just called included.
    running: usize,
    /// Threads without work. The last one to come is the next to be called: the others get old.
    idle: Vec<(ThreadId, Thread)>,
    handles: Vec<JoinHandle<()>>,
    ending: bool,
    system_calls: u64,
    /// Of the threads. One of them at a time does it, and counts as running.
    spin: Spin,
    spinning: bool,
}

impl Pool {
    /// A pool without threads: they come when there is work. `wake_up` ends the wait of whoever
    /// waits for completions.
    pub(crate) fn new(depth: u32, wake_up: Arc<WakeUp>) -> Self {
        let most = depth.min(MAX_THREADS) as usize;
        let state = Mutex::new(State {
            queue: VecDeque::with_capacity(depth as usize),
            tries: VecDeque::with_capacity(depth as usize),
            done: Vec::with_capacity(depth as usize),
            idle: Vec::with_capacity(most),
            limit: most,
            ..State::default()
        });
        Pool {
            shared: Arc::new(Shared {
                state,
                waiting: AtomicUsize::new(0),
                completed: AtomicUsize::new(0),
                wake_up,
                runners: processors().saturating_sub(1).max(1),
                most,
            }),
            staged: Vec::with_capacity(depth as usize),
            tries: Vec::with_capacity(depth as usize),
            tries_bytes: 0,
            sharing: false,
            known: Known::default(),
            pending: 0,
            system_calls: 0,
            own_calls: 0,
            spin: Spin::default(),
            generation: fork::generation(),
        }
    }

    /// Gives what is staged to the threads, and takes what is done.
    fn exchange(&mut self, done: &mut Vec<Done>) {
        let shares = self.tries.len() >= SHARED || self.tries_bytes > AT_ONCE;
        self.pending += self.staged.len() + if shares { self.tries.len() } else { 0 };
        if self.pending == 0 {
            return;
        }
        let mut state = lock(&self.shared.state);
        let mut calls = !self.staged.is_empty();
        state.queue.extend(self.staged.drain(..));
        if shares {
            calls = true;
            self.sharing = true;
            self.tries_bytes = 0;
            state.tries_weight += self.tries.iter().map(Job::weight).sum::<u64>();
            state.tries.extend(self.tries.drain(..));
        }
        if calls {
            self.shared.waiting.store(state.waiting(), Relaxed);
            state = self.shared.call_threads(state);
            if state.threads == 0 {
                state = work_here(&self.shared, state);
            }
        }
        let before = done.len();
        self.shared.completed.store(0, Relaxed);
        done.append(&mut state.done);
        state.done_bytes = 0;
        state.wanted = usize::MAX;
        self.system_calls = state.system_calls;
        drop(state);
        self.pending -= done.len() - before;
    }

    /// Reads what is in the page cache: on this thread, as waking another one costs more, and beside
    /// the others where they have been given some. What has to wait is left staged. False where there
    /// was nothing to do.
    fn read_at_once(&mut self, done: &mut Vec<Done>) -> bool {
        if self.tries.is_empty() && !self.sharing {
            return false;
        }
        let mut room = AT_ONCE;
        let mut tried = 0;
        let mut chunk = std::mem::take(&mut self.tries);
        self.tries_bytes = 0;
        loop {
            tried += chunk.len();
            for job in chunk.drain(..) {
                match direct::read_at_once(&job.op) {
                    Ok(result) => done.push(Done { slot: job.slot, result }),
                    Err(errno) => {
                        self.known.refused(job.op.fd, errno);
                        self.staged.push(job);
                    }
                }
            }
            if self.sharing {
                let mut state = lock(&self.shared.state);
                room -= state.take_tries(&mut chunk, room);
                self.shared.waiting.store(state.waiting(), Relaxed);
                self.sharing = !state.tries.is_empty();
                self.pending -= chunk.len();
            }
            if chunk.is_empty() {
                break;
            }
        }
        self.tries = chunk;
        self.own_calls += tried as u64;
        tried > 0
    }

    /// Looks whether `wanted` completions come soon. Who wakes a reactor that sleeps is noticed.
    fn spin(&mut self, wanted: usize) -> bool {
        if self.pending < wanted || !self.spin.is_worth_it() {
            return false;
        }
        let Shared { wake_up, completed, .. } = &*self.shared;
        let announced = wake_up.is_asleep();
        let came = || completed.load(Relaxed) >= wanted;
        spin(|| came() || announced && !wake_up.is_asleep());
        self.spin.learn(came());
        came()
    }

    /// From here on `wanted` completions end the wait. True where they are there.
    fn announce(&self, wanted: usize) -> bool {
        let mut state = lock(&self.shared.state);
        state.wanted = wanted;
        let there = state.done.len() >= wanted;
        if !there {
            self.shared.wake_up.prepare_sleep();
        }
        there
    }

    /// Waits on the wake-up descriptor alone. False where a signal or the end of the time came.
    fn sleep(&mut self, time: Option<Duration>) -> bool {
        let fd = self.shared.wake_up.descriptor();
        let mut watched = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let time = time.map(timespec);
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: one pollfd, a time or none; both live for the call.
        let ready = unsafe { libc::ppoll(&mut watched, 1, time, std::ptr::null()) };
        if ready < 0 && direct::last_errno() != libc::EINTR {
            // Forbidden: looks now and then.
            std::thread::sleep(PAUSE);
        }
        self.shared.wake_up.awake();
        let mut calls = 1;
        if ready > 0 {
            clear_eventfd(fd);
            calls = 2;
        }
        self.own_calls += calls;
        ready > 0
    }
}

impl Interface for Pool {
    fn prep(&mut self, slot: u32, op: &Op) -> Prep {
        let calls = &mut self.own_calls;
        let ask = || {
            *calls += 1;
            direct::is_direct(op.fd)
        };
        let cached = direct::may_be_at_once(op) && !self.known.is_direct(op.fd, ask);
        if cached && self.known.tries(op.fd) {
            self.tries_bytes += op.len;
            self.tries.push(Job { slot, op: *op });
        } else {
            self.staged.push(Job { slot, op: *op });
        }
        Prep::Queued
    }

    fn queued(&self) -> usize {
        self.staged.len() + self.tries.len()
    }

    fn enter(&mut self, _submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        self.known.forget();
        let before = done.len();
        let announced = self.shared.wake_up.is_asleep();
        self.exchange(done);
        // While the threads do theirs; and instead of a wait, if nobody else wants anything.
        while self.read_at_once(done) {
            self.exchange(done);
            let waits = matches!(wait, Wait::For(min, None) if done.len() - before < min as usize);
            if !waits || announced && !self.shared.wake_up.is_asleep() {
                break;
            }
        }
        let Wait::For(min, time) = wait else { return Entered::Fine };
        let missing = (min as usize).saturating_sub(done.len() - before);
        if missing == 0 || self.spin(missing) || self.announce(missing) {
            self.exchange(done);
            return Entered::Fine;
        }
        let woken = self.sleep(time);
        self.exchange(done);
        if woken || done.len() - before >= min as usize {
            Entered::Fine
        } else {
            Entered::Interrupted
        }
    }

    fn has_news(&mut self) -> bool {
        self.pending > 0 && !lock(&self.shared.state).done.is_empty()
    }

    fn notify(&mut self, fd: RawFd) -> io::Result<()> {
        lock(&self.shared.state).notify = Some(fd);
        Ok(())
    }

    /// What no thread has begun is given back.
    fn cancel(&mut self, slot: u32) -> bool {
        let is_it = |job: &Job| job.slot == slot;
        let mut state = lock(&self.shared.state);
        if let Some(at) = state.queue.iter().position(is_it) {
            state.queue.remove(at);
        } else if let Some(at) = state.tries.iter().position(is_it) {
            let weight = state.tries.remove(at).map_or(0, |job| job.weight());
            state.tries_weight -= weight;
        } else if let Some(at) = self.staged.iter().position(is_it) {
            self.staged.remove(at);
            self.pending += 1;
        } else if let Some(at) = self.tries.iter().position(is_it) {
            self.tries_bytes -= self.tries.remove(at).op.len;
            self.pending += 1;
        } else {
            return false;
        }
        state.done.push(Done { slot, result: -i64::from(libc::ECANCELED) });
        true
    }

    fn system_calls(&self) -> u64 {
        self.system_calls + self.own_calls
    }
}

impl Behind for Pool {
    fn announce_wait(&mut self, alone: bool) -> bool {
        alone && self.spin(1) || self.announce(1)
    }

    fn waited(&mut self) {
        self.shared.wake_up.awake();
    }
}

impl Drop for Pool {
    /// Ends the threads. Nothing is queued or running by now.
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            // A forked child has none of the threads, and must not ask for their lock.
            std::mem::forget(self.shared.clone());
            return;
        }
        let mut state = lock(&self.shared.state);
        state.ending = true;
        let handles = std::mem::take(&mut state.handles);
        state.idle.drain(..).for_each(|(_, thread)| thread.unpark());
        drop(state);
        for thread in handles {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Calls threads for what is queued, as many as can run, if not enough are running.
    fn call_threads<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        while self.is_short(&state) {
            if let Some(thread) = idle_thread(&mut state) {
                // Outside of the lock, which it wants at once.
                drop(state);
                thread.unpark();
                state = lock(&self.state);
                continue;
            }
            if state.retry_at.is_some_and(|at| Instant::now() >= at) {
                state.limit = self.most;
                state.retry_at = None;
            }
            if state.threads >= state.limit {
                break;
            }
            state.running += 1;
            state.threads += 1;
            drop(state);
            let shared = self.clone();
            let spawned = spawn_small("ioe-pool".into(), move || shared.work());
            state = lock(&self.state);
            match spawned {
                Ok(handle) => {
                    // Those that have ended are on their last steps: joined, and not forgotten.
                    let handles = &mut state.handles;
                    while let Some(place) = handles.iter().position(JoinHandle::is_finished) {
                        drop(handles.swap_remove(place).join());
                    }
                    handles.push(handle);
                }
                Err(error) => {
                    state.running -= 1;
                    state.threads -= 1;
                    state.limit = state.threads.max(1);
                    state.retry_at = Some(Instant::now() + RETRY_TIME);
                    let threads = state.threads;
                    drop(state);
                    log(Level::Warn, || {
                        format!("pool: goes on with {threads} threads, {NO_THREAD} ({error})")
                    });
                    return lock(&self.state);
                }
            }
        }
        state
    }

    /// Whether more threads should be running: one, which calls the next before it waits, or as
    /// many as there are processors for work that does not wait.
    fn is_short(&self, state: &State) -> bool {
        let for_tries = state.tries_weight.div_ceil(BACKLOG) as usize;
        let wanted = for_tries.min(self.runners).max(state.queue.len().min(1));
        state.running < wanted
    }

    /// Does one operation while the thread does not count as running and another takes its place.
    fn wait_for<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>, op: &Op) -> i64 {
        state.running -= 1;
        state.system_calls += 1;
        state = self.wake_reactor(state);
        if self.is_short(&state) {
            match idle_thread(&mut state) {
                Some(thread) => {
                    drop(state);
                    thread.unpark();
                }
                None => drop(self.call_threads(state)),
            }
        } else {
            drop(state);
        }
        direct::perform(op)
    }

    /// The life of a thread.
    fn work(self: Arc<Self>) {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut results = Vec::with_capacity(CHUNK);
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.queue.pop_front() {
                self.waiting.store(state.waiting(), Relaxed);
                if job.op.len >= BATCH {
                    state = self.wake_reactor(state);
                }
                let result = self.wait_for(state, &job.op);
                state = lock(&self.state);
                state.running += 1;
                state = self.tell(state, job.weight(), [Done { slot: job.slot, result }]);
                continue;
            }
            state.take_tries(&mut chunk, u64::MAX);
            self.waiting.store(state.waiting(), Relaxed);
            if chunk.is_empty() {
                match self.rest(state) {
                    Some(called) => state = called,
                    None => return,
                }
                continue;
            }
            drop(state);
            let calls = chunk.len() as u64;
            let mut weight = 0;
            chunk.retain(|job| {
                let read = direct::read_at_once(&job.op);
                if let Ok(result) = read {
                    weight += job.weight();
                    results.push(Done { slot: job.slot, result });
                }
                read.is_err()
            });
            state = lock(&self.state);
            state.system_calls += calls;
            state.queue.extend(chunk.drain(..));
            if !results.is_empty() {
                state = self.tell(state, weight, results.drain(..));
            }
        }
    }

    /// Has the reactor told of what is done.
    fn tell<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        weight: u64,
        done: impl IntoIterator<Item = Done>,
    ) -> MutexGuard<'a, State> {
        let first = state.done.is_empty();
        state.done.extend(done);
        self.completed.store(state.done.len(), Relaxed);
        state.done_bytes += weight;
        if let Some(fd) = state.notify.filter(|_| first) {
            // Before anybody can take what is done: a late word would be a false one.
            write_eventfd(fd);
            state.system_calls += 1;
        }
        if state.waiting() == 0 || state.done_bytes >= BATCH {
            state = self.wake_reactor(state);
        }
        state
    }

    /// Ends the reactor's wait, if it waits for no more than what is done.
    fn wake_reactor<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.done.is_empty() || state.done.len() < state.wanted {
            return state;
        }
        state.wanted = usize::MAX;
        drop(state);
        self.wake_up.wake();
        lock(&self.state)
    }

    /// Waits for a call; `None` where the thread has to end.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Option<MutexGuard<'a, State>> {
        if !state.spinning && state.spin.is_worth_it() {
            state.spinning = true;
            drop(state);
            spin(|| self.waiting.load(Relaxed) > 0);
            state = lock(&self.state);
            state.spinning = false;
            let came = state.waiting() > 0;
            state.spin.learn(came);
            if came {
                return Some(state);
            }
        }
        let me = std::thread::current();
        let since = Instant::now();
        state.running -= 1;
        state.idle.push((me.id(), me.clone()));
        loop {
            if state.ending {
                return None;
            }
            // Who calls a thread takes it off the list, and counts it as running.
            let place = state.idle.iter().position(|(id, _)| *id == me.id());
            let Some(place) = place else { return Some(state) };
            let left = IDLE_TIME.saturating_sub(since.elapsed());
            if left.is_zero() {
                state.idle.remove(place);
                state.threads -= 1;
                return None;
            }
            drop(state);
            std::thread::park_timeout(left);
            state = lock(&self.state);
        }
    }
}

impl State {
    /// Operations that no thread has begun.
    fn waiting(&self) -> usize {
        self.queue.len() + self.tries.len()
    }

    /// Takes some of the reads that are to be tried, of no more than this weight. Of how much.
    fn take_tries(&mut self, chunk: &mut Vec<Job>, most: u64) -> u64 {
        let mut weight = 0;
        while let Some(job) = self.tries.front() {
            let more = weight + job.weight();
            if chunk.len() == CHUNK || more > most || !chunk.is_empty() && more > CHUNK_BYTES {
                break;
            }
            weight = more;
            chunk.extend(self.tries.pop_front());
        }
        self.tries_weight -= weight;
        weight
    }
}

/// Takes an idle thread off the list, to be called.
fn idle_thread(state: &mut State) -> Option<Thread> {
    let (_, thread) = state.idle.pop()?;
    state.running += 1;
    state.system_calls += 1;
    Some(thread)
}

/// Does all that is queued on the reactor's own thread: there is no other.
fn work_here<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    state.tries_weight = 0;
    loop {
        let next = state.queue.pop_front();
        let Some(job) = next.or_else(|| state.tries.pop_front()) else { return state };
        drop(state);
        let result = direct::perform(&job.op);
        state = lock(&shared.state);
        state.system_calls += 1;
        state.done.push(Done { slot: job.slot, result });
    }
}
