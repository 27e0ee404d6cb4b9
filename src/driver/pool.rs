//! Plain system calls on threads: a driver by itself, and what stands behind the others.
//!
//! Threads that wait in a system call are many, threads that run are few: one that is about to wait
//! sees to it that another one takes what is left. Cached reads never wait, so one thread does them
//! all; direct ones wait each on a thread of its own.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use once_cell::race::OnceNonZeroUsize;

use super::backed::Behind;
use super::direct;
use super::{timespec, Done, Entered, Interface, Prep, Wait};
use crate::fork;
use crate::gate::lock;
use crate::log::{log, Level};
use crate::tasks::{IOAction, Op};
use crate::thread::{spawn, NO_THREAD};
use crate::wake::{clear_eventfd, write_eventfd, WakeUp};

/// The most threads of one pool.
pub(crate) const MAX_THREADS: u32 = 64;

/// How long a thread without work stays: as long as those of io-wq.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// How long the pool makes do with fewer threads after one could not be started.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// How long to sleep at a time where ppoll(2) is forbidden.
const PAUSE: Duration = Duration::from_millis(1);

/// Operations waiting for one running thread that are worth waking another, where there is a
/// processor for it.
const BACKLOG: usize = 32;

/// Bytes done, with at least a page for each operation, that are worth waking the reactor for while
/// the same thread has more to do: for one page alone, waking costs more than reading.
const BATCH: u64 = 64 << 10;
const PAGE: u64 = 4096;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    staged: Vec<Job>,
    /// Handed over and not collected.
    pending: usize,
    system_calls: u64,
    /// Made by the reactor's thread.
    own_calls: u64,
    generation: fork::Generation,
}

struct Job {
    slot: u32,
    op: Op,
    /// Certain to wait: anything but a read through the page cache.
    waits: bool,
}

// SAFETY: what the operation refers to stays valid, for whichever thread, until it is done.
unsafe impl Send for Job {}

struct Shared {
    state: Mutex<State>,
    wake_up: Arc<WakeUp>,
    /// Running threads that the machine has processors for. The reactor mostly sleeps.
    runners: usize,
    most: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
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
}

impl Pool {
    /// A pool without threads: they come when there is work. `wake_up` ends the wait of whoever
    /// waits for completions.
    pub(crate) fn new(depth: u32, wake_up: Arc<WakeUp>) -> Self {
        let most = depth.min(MAX_THREADS) as usize;
        let state = Mutex::new(State {
            queue: VecDeque::with_capacity(depth as usize),
            done: Vec::with_capacity(depth as usize),
            limit: most,
            ..State::default()
        });
        Pool {
            shared: Arc::new(Shared { state, wake_up, runners: processors(), most }),
            staged: Vec::with_capacity(depth as usize),
            pending: 0,
            system_calls: 0,
            own_calls: 0,
            generation: fork::generation(),
        }
    }

    /// Gives the staged operations to the threads, and takes what is done.
    fn exchange(&mut self, done: &mut Vec<Done>) {
        self.sort_out();
        let mut state = lock(&self.shared.state);
        if !self.staged.is_empty() {
            state.queue.extend(self.staged.drain(..));
            state = self.shared.call_threads(state);
            if state.threads == 0 {
                state = work_here(&self.shared, state);
            }
        }
        let before = done.len();
        done.append(&mut state.done);
        state.done_bytes = 0;
        state.wanted = usize::MAX;
        self.system_calls = state.system_calls;
        drop(state);
        self.pending -= done.len() - before;
    }

    /// Finds out which of the staged operations wait.
    fn sort_out(&mut self) {
        // All of these are in flight together, so one number is one file.
        let mut asked = None;
        for job in self
            .staged
            .iter_mut()
            .filter(|job| job.op.action == IOAction::Read && job.op.flags == 0)
        {
            let fd = job.op.fd;
            job.waits = match asked {
                Some((known, direct)) if known == fd => direct,
                _ => {
                    self.own_calls += 1;
                    direct::is_direct(fd)
                }
            };
            asked = Some((fd, job.waits));
        }
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
        self.staged.push(Job { slot, op: *op, waits: true });
        Prep::Queued
    }

    fn queued(&self) -> usize {
        self.staged.len()
    }

    fn enter(&mut self, _submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        self.pending += self.staged.len();
        let before = done.len();
        self.exchange(done);
        let Wait::For(min, time) = wait else { return Entered::Fine };
        let missing = (min as usize).saturating_sub(done.len() - before);
        if missing == 0 || self.announce(missing) {
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
        } else if let Some(at) = self.staged.iter().position(is_it) {
            self.staged.remove(at);
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
    fn announce_wait(&mut self) -> bool {
        self.announce(1)
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
            let spawned = spawn("ioe-pool".into(), move || shared.work());
            state = lock(&self.state);
            match spawned {
                Ok(handle) => {
                    // Those that have ended are on their last steps: joined, and not forgotten.
                    let handles = std::mem::take(&mut state.handles).into_iter();
                    let (ended, living) = handles.partition(JoinHandle::is_finished);
                    let ended: Vec<_> = ended;
                    state.handles = living;
                    state.handles.push(handle);
                    ended.into_iter().for_each(|thread| drop(thread.join()));
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
        let wanted = match state.queue.front() {
            None => 0,
            Some(job) if job.waits => 1,
            Some(_) => state.queue.len().div_ceil(BACKLOG).min(self.runners),
        };
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
        let mut state = lock(&self.state);
        loop {
            let Some(job) = state.queue.pop_front() else {
                match self.rest(state) {
                    Some(called) => state = called,
                    None => return,
                }
                continue;
            };
            if job.op.len >= BATCH {
                state = self.wake_reactor(state);
            }
            let mut result = None;
            if !job.waits {
                drop(state);
                result = direct::read_at_once(&job.op);
                state = lock(&self.state);
                state.system_calls += 1;
            }
            let result = match result {
                Some(result) => result,
                None => {
                    let result = self.wait_for(state, &job.op);
                    state = lock(&self.state);
                    state.running += 1;
                    result
                }
            };
            state.done.push(Done { slot: job.slot, result });
            state.done_bytes += job.op.len.max(PAGE);
            if let Some(fd) = state.notify.filter(|_| state.done.len() == 1) {
                // Before anybody can take what is done: a late word would be a false one.
                write_eventfd(fd);
                state.system_calls += 1;
            }
            if state.queue.is_empty() || state.done_bytes >= BATCH {
                state = self.wake_reactor(state);
            }
        }
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

/// Takes an idle thread off the list, to be called.
fn idle_thread(state: &mut State) -> Option<Thread> {
    let (_, thread) = state.idle.pop()?;
    state.running += 1;
    state.system_calls += 1;
    Some(thread)
}

/// Asked once: it reads the files of the cgroup.
fn processors() -> usize {
    static COUNT: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let one = std::num::NonZeroUsize::MIN;
    COUNT.get_or_init(|| std::thread::available_parallelism().unwrap_or(one)).get()
}

/// Does all that is queued on the reactor's own thread: there is no other.
fn work_here<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    while let Some(job) = state.queue.pop_front() {
        drop(state);
        let result = direct::perform(&job.op);
        state = lock(&shared.state);
        state.system_calls += 1;
        state.done.push(Done { slot: job.slot, result });
    }
    state
}
