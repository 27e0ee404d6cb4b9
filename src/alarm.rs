//! A thread that writes a descriptor when it is time. Only for polled contexts whose owner sleeps on
//! that descriptor: nobody else would notice that a time limit is over.

use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::fork;
use crate::gate::lock;
use crate::log::{log, Level};
use crate::thread::{spawn, NO_THREAD};
use crate::wake::write_eventfd;

#[derive(Default)]
pub(crate) struct Alarm {
    thread: Option<(JoinHandle<()>, fork::Generation)>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    at: Option<Instant>,
    ending: bool,
}

impl Alarm {
    /// Has the descriptor, always the same one, written at this time and not at the one set before.
    pub(crate) fn set(&mut self, at: Option<Instant>, fd: RawFd) {
        let mut state = lock(&self.shared.state);
        if state.at == at {
            return;
        }
        // A later time is found when the earlier one comes.
        let sooner = at.is_some_and(|at| state.at.is_none_or(|before| at < before));
        state.at = at;
        drop(state);
        if sooner {
            self.shared.changed.notify_one();
        }
        if self.thread.is_none() {
            let shared = self.shared.clone();
            match spawn("ioe-alarm".into(), move || shared.run(fd)) {
                Ok(thread) => self.thread = Some((thread, fork::generation())),
                Err(error) => log(Level::Error, || {
                    format!("time limits are noticed only inside ioe_poll: {NO_THREAD} ({error})")
                }),
            }
        }
    }
}

impl Shared {
    fn run(&self, fd: RawFd) {
        let mut state = lock(&self.state);
        while !state.ending {
            let left = state.at.map(|at| at.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => {
                    state.at = None;
                    write_eventfd(fd);
                    state
                }
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some((thread, generation)) = self.thread.take() else { return };
        if generation != fork::generation() {
            // A forked child has no such thread, and must not ask for its lock.
            std::mem::forget(self.shared.clone());
            std::mem::forget(thread);
            return;
        }
        lock(&self.shared.state).ending = true;
        self.shared.changed.notify_one();
        let _ = thread.join();
    }
}
