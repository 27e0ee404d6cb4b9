//! A kernel interface with a pool behind it. What the kernel's lacks goes to the pool, and when it
//! breaks, everything does.

use std::io;
use std::os::fd::RawFd;

use super::{Descriptors, Done, Entered, Interface, Prep, Wait};
use crate::tasks::Op;

/// An interface that works while another one does the waiting.
pub(crate) trait Behind: Interface {
    /// The other is about to wait: from here on a completion ends its wait. True where there is
    /// one already. `alone`: what the other waits for is this interface's.
    fn announce_wait(&mut self, alone: bool) -> bool;
    /// The wait is over.
    fn waited(&mut self);
}

/// How often a kernel may refuse everything, with a pause of a millisecond each time, before it is
/// given up.
const MAX_REFUSALS: u32 = 5000;

pub(crate) struct Backed<K, P> {
    /// `None` once it broke.
    kernel: Option<K>,
    pool: P,
    /// Operations that each of them has.
    in_kernel: usize,
    in_pool: usize,
    /// How often in a row the kernel refused while it held nothing.
    refusals: u32,
    /// System calls of a kernel interface that broke.
    system_calls: u64,
}

impl<K: Interface, P: Behind> Backed<K, P> {
    pub(crate) fn new(kernel: K, pool: P) -> Self {
        Backed {
            kernel: Some(kernel),
            pool,
            in_kernel: 0,
            in_pool: 0,
            refusals: 0,
            system_calls: 0,
        }
    }

    fn enter_pool(&mut self, wait: Wait, done: &mut Vec<Done>) -> Entered {
        let before = done.len();
        let entered = self.pool.enter(true, wait, done);
        self.in_pool -= done.len() - before;
        entered
    }

    fn enter_kernel(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        let Some(kernel) = &mut self.kernel else { return Entered::Fine };
        let before = done.len();
        let mut entered = kernel.enter(submit, wait, done);
        self.in_kernel -= done.len() - before;
        match entered {
            // Nothing that could complete would change its mind.
            Entered::Refused(errno) if kernel.queued() == self.in_kernel => {
                self.refusals += 1;
                if self.refusals > MAX_REFUSALS {
                    return self.end(errno, done);
                }
            }
            Entered::Refused(_) => {}
            Entered::Fine | Entered::Interrupted => self.refusals = 0,
            Entered::Broken(errno) => entered = self.broke(errno),
        }
        entered
    }

    fn broke(&mut self, errno: i32) -> Entered {
        self.system_calls = self.kernel.take().map_or(self.system_calls, |k| k.system_calls());
        Entered::Broken(errno)
    }

    /// While the pool has operations, the kernel's wait ends with the first completion of either:
    /// neither knows how many of a number wanted the other will have.
    fn enter_both(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        let before = done.len();
        self.enter_pool(Wait::No, done);
        let time = match wait {
            Wait::For(_, time) if done.len() == before => time,
            _ => return self.enter_kernel(submit, Wait::No, done),
        };
        // With nothing in the kernel, what it refused before is offered again: no completion of its
        // own would end the wait, and the wake-up may be among what is queued.
        let idle = self.kernel.as_ref().is_none_or(|kernel| kernel.queued() == self.in_kernel);
        let submit = submit || idle;
        if self.kernel.as_ref().is_some_and(K::must_poll) {
            // A ring without announcements cannot be slept in.
            return match self.in_kernel {
                0 => self.enter_pool(wait, done),
                _ => self.enter_kernel(submit, Wait::No, done),
            };
        }
        let wait = if self.pool.announce_wait(self.in_kernel == 0) {
            Wait::No
        } else {
            Wait::For(1, time)
        };
        let entered = self.enter_kernel(submit, wait, done);
        self.pool.waited();
        self.enter_pool(Wait::No, done);
        entered
    }
}

impl<K: Interface, P: Behind> Interface for Backed<K, P> {
    fn start(&mut self) -> io::Result<()> {
        self.kernel.as_mut().map_or(Ok(()), K::start)
    }

    #[inline(always)]
    fn prep(&mut self, slot: u32, op: &Op) -> Prep {
        match self.kernel.as_mut().map(|kernel| kernel.prep(slot, op)) {
            Some(Prep::Queued) => {
                self.in_kernel += 1;
                Prep::Queued
            }
            Some(Prep::Full) => Prep::Full,
            Some(Prep::Unsupported) | None => {
                // A copy, so that what the kernel takes need not lie in memory.
                let prep = self.pool.prep(slot, &{ *op });
                self.in_pool += usize::from(prep == Prep::Queued);
                prep
            }
        }
    }

    fn queued(&self) -> usize {
        self.kernel.as_ref().map_or(0, K::queued) + self.pool.queued()
    }

    fn enter(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        match (&self.kernel, self.in_pool) {
            (None, _) => self.enter_pool(wait, done),
            (Some(_), 0) => self.enter_kernel(submit, wait, done),
            (Some(_), _) => self.enter_both(submit, wait, done),
        }
    }

    fn has_news(&mut self) -> bool {
        self.kernel.as_mut().is_some_and(K::has_news) || self.in_pool > 0 && self.pool.has_news()
    }

    fn notify(&mut self, fd: RawFd) -> io::Result<()> {
        self.pool.notify(fd)?;
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.notify(fd))
    }

    fn must_poll(&self) -> bool {
        self.in_kernel > 0 && self.kernel.as_ref().is_some_and(K::must_poll)
    }

    fn is_silent(&self) -> bool {
        self.in_kernel > 0 && self.kernel.as_ref().is_some_and(K::is_silent)
    }

    fn cancel(&mut self, slot: u32) -> bool {
        self.kernel.as_mut().is_some_and(|kernel| kernel.cancel(slot)) || self.pool.cancel(slot)
    }

    fn system_calls(&self) -> u64 {
        let kernel = self.kernel.as_ref().map_or(self.system_calls, K::system_calls);
        kernel + self.pool.system_calls()
    }

    fn end(&mut self, errno: i32, done: &mut Vec<Done>) -> Entered {
        let before = done.len();
        if let Some(kernel) = &mut self.kernel {
            kernel.end(errno, done);
        }
        self.in_kernel -= done.len() - before;
        self.broke(errno)
    }

    fn status_flags(&self, fd: RawFd) -> i32 {
        self.pool.status_flags(fd)
    }

    fn direct_boundary(&self, fd: RawFd) -> Option<u64> {
        self.pool.direct_boundary(fd)
    }

    fn descriptors(&self) -> Descriptors {
        self.kernel.as_ref().map(K::descriptors).unwrap_or_default()
    }
}
