//! A merger of a context: accepts the neighbouring events of one file, and gathers them.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use crate::context::{Errno, Shard, Shards};
use crate::gate::lock;
use crate::merge::MergeBuffer;
use crate::tasks::{IOAction, IOCallback, IOEvent};
use crate::thread::here;

pub(crate) struct Merger<C: IOCallback> {
    context: Arc<Shard<C>>,
    fd: RawFd,
    action: IOAction,
    shelf: Arc<Mutex<MergeBuffer<C>>>,
}

impl<C: IOCallback> Merger<C> {
    pub(crate) fn new(
        context: &Shards<C>,
        fd: RawFd,
        action: IOAction,
        limit: usize,
    ) -> Result<Self, Errno> {
        let context = context.of(fd, action).clone();
        context.check_owner()?;
        let shelf = context.gathered.add(limit).ok_or(libc::ESHUTDOWN)?;
        Ok(Merger { context, fd, action, shelf })
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
            let mut shelf = lock(&self.shelf);
            let Err(refused) = context.count_in(&event, here) else {
                context.gathered.push(&mut shelf, event, |run| context.hand_over(run, here));
                drop(shelf);
                // Whoever waits looked before this one was gathered, or he is seen here.
                if context.gathered.is_waited_for() {
                    context.leave_room();
                }
                return Ok(());
            };
            drop(shelf);
            if let Err(errno) = context.make_room(refused, &event, true) {
                return Err((event, errno));
            }
        }
    }

    /// Hands over what was gathered.
    pub(crate) fn flush(&self) -> Result<(), Errno> {
        self.context.check_owner()?;
        self.hand_over();
        Ok(())
    }

    fn hand_over(&self) {
        let here = here();
        let mut shelf = lock(&self.shelf);
        self.context.gathered.flush_one(&mut shelf, &|run| self.context.hand_over(run, here));
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

impl<C: IOCallback> Drop for Merger<C> {
    fn drop(&mut self) {
        self.hand_over();
        self.context.gathered.remove(&self.shelf);
    }
}
