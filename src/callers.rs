//! What callers do on their own threads, as far as syncs have to know of it: the writes that a
//! barrier waits for, and which descriptor has a sync running.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Mutex;

use crate::gate::lock;
use crate::ledger::{Admission, Refused};

#[derive(Default)]
pub(crate) struct Callers {
    list: Mutex<Vec<Running>>,
    /// Something ended that the reactor waits for.
    ended: AtomicBool,
}

struct Running {
    what: What,
    fd: RawFd,
    /// In the order of acceptance; 0 for the reactor's.
    number: u64,
    /// The reactor waits for its end.
    awaited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Write,
    Sync,
    /// The reactor runs it, or has it from a caller and will.
    ReactorsSync,
}

impl Callers {
    /// A caller is about to write. It is accepted and seen here in one step, so that a barrier finds
    /// both, or neither.
    pub(crate) fn write(
        &self,
        fd: RawFd,
        accept: impl FnOnce() -> Result<Admission, Refused>,
    ) -> Result<Admission, Refused> {
        let mut list = lock(&self.list);
        let admission = accept()?;
        let number = admission.number();
        list.push(Running { what: What::Write, fd, number, awaited: false });
        Ok(admission)
    }

    /// A caller is about to sync; `None` where a sync of the descriptor runs, which it must not join,
    /// unless it has to go `beside` that.
    pub(crate) fn sync(
        &self,
        fd: RawFd,
        beside: bool,
        accept: impl FnOnce() -> Result<Admission, Refused>,
    ) -> Result<Option<Admission>, Refused> {
        let mut list = lock(&self.list);
        if !beside && list.iter().any(|running| running.fd == fd && running.what != What::Write) {
            return Ok(None);
        }
        let admission = accept()?;
        let number = admission.number();
        list.push(Running { what: What::Sync, fd, number, awaited: false });
        Ok(Some(admission))
    }

    /// What a caller did is done. Whether the reactor has to be told.
    pub(crate) fn end(&self, number: u64) -> bool {
        let mut list = lock(&self.list);
        let mine =
            |running: &Running| running.number == number && running.what != What::ReactorsSync;
        let Some(at) = list.iter().position(mine) else { return false };
        let awaited = list.swap_remove(at).awaited;
        if awaited {
            self.ended.store(true, SeqCst);
        }
        awaited
    }

    /// Whether something ended that the reactor waits for, since it last asked.
    pub(crate) fn take_ended(&self) -> bool {
        self.ended.load(SeqCst) && self.ended.swap(false, SeqCst)
    }

    /// Whether callers write to the descriptor what was accepted before. If so, the reactor is told of
    /// their end.
    pub(crate) fn write_before(&self, fd: RawFd, number: u64) -> bool {
        let mut any = false;
        for running in lock(&self.list).iter_mut() {
            if running.what == What::Write && running.fd == fd && running.number < number {
                running.awaited = true;
                any = true;
            }
        }
        any
    }

    /// The reactor is about to sync the descriptor. False where a caller does; then the reactor is told
    /// of its end.
    pub(crate) fn begin_sync(&self, fd: RawFd) -> bool {
        let mut list = lock(&self.list);
        let callers = |running: &&mut Running| running.fd == fd && running.what == What::Sync;
        match list.iter_mut().find(callers) {
            Some(running) => {
                running.awaited = true;
                false
            }
            None => {
                list.push(Running { what: What::ReactorsSync, fd, number: 0, awaited: false });
                true
            }
        }
    }

    /// The reactor's sync of the descriptor is done.
    pub(crate) fn end_sync(&self, fd: RawFd) {
        let reactors = |running: &Running| running.fd == fd && running.what == What::ReactorsSync;
        let mut list = lock(&self.list);
        if let Some(at) = list.iter().position(reactors) {
            list.swap_remove(at);
        }
    }

    /// Whether the reactor syncs the descriptor now: when that is done, it looks at what was submitted
    /// meanwhile, without being woken.
    pub(crate) fn reactor_syncs(&self, fd: RawFd) -> bool {
        let reactors = |running: &Running| running.fd == fd && running.what == What::ReactorsSync;
        lock(&self.list).iter().any(reactors)
    }
}
