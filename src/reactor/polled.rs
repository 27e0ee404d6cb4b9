//! The reactor of a polled context: turned by its owner, a poll at a time.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crossfire::flavor::Flavor;

use super::{count_in_one, time_until, Core, Reactor, LOOK_EVERY};
use crate::clock;
use crate::driver::{forbidden, Entered, Interface, Wait};
use crate::gate::Deadline;
use crate::log::{log, Level};
use crate::tasks::{IOCallback, IOEvent};
use crate::wake::{clear_eventfd, write_eventfd};

/// What a polled context needs of its reactor, whatever the driver.
pub(crate) trait Polled<C> {
    /// Called once on the owner's thread.
    fn start(&mut self, core: &Core<C>) -> io::Result<()>;
    /// Accepts and takes in the first of many events, up to one that is not plain or not to be accepted,
    /// or for which there is no slot. How many.
    ///
    /// # Safety
    /// `events` has `count` pointers, each NULL or of [`IOEvent::into_raw`].
    unsafe fn take_plain(&mut self, core: &Core<C>, events: *const *mut (), count: usize) -> usize;
    /// Submits what is queued and runs callbacks until there were `min`, or nothing is in flight,
    /// or the deadline or a signal came. How many ran.
    fn poll(&mut self, core: &Core<C>, min: u32, deadline: Deadline) -> (u32, PollEnd);
    /// Finishes all I/O, without callbacks.
    fn finish(&mut self, core: &Core<C>);
    /// Lets go of all events without touching them: they are the parent's, in a forked child.
    fn forget_events(&mut self, core: &Core<C>);
    /// Starts writing the descriptor of `Core::notify`, if there is one.
    fn sync_notify(&mut self, core: &Core<C>) -> io::Result<()>;
}

/// Why a poll returned.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum PollEnd {
    Satisfied,
    TimedOut,
    Signal,
}

impl<C: IOCallback, I: Interface, Q: Flavor<Item = IOEvent<C>>> Polled<C> for Reactor<C, I, Q> {
    fn start(&mut self, core: &Core<C>) -> io::Result<()> {
        if let Err(error) = self.interface.start() {
            // Forbidden since it was made.
            self.give_up(core, error.raw_os_error().unwrap_or(libc::EIO));
        }
        self.sync_notify(core)
    }

    unsafe fn take_plain(&mut self, core: &Core<C>, events: *const *mut (), count: usize) -> usize {
        if !core.backlog.is_empty() || self.looks_at_all() {
            return 0;
        }
        let count = count.min(self.free.len());
        for taken in 0..count {
            // SAFETY: by the caller's promise.
            let Some(raw) = NonNull::new(unsafe { events.add(taken).read() }) else { return taken };
            // SAFETY: by the caller's promise.
            let event = ManuallyDrop::new(unsafe { IOEvent::<C>::from_raw(raw) });
            if !(event.is_plain() && accept(core, &event)) {
                return taken;
            }
            let number = self.take_slot();
            self.hold_plain(number, ManuallyDrop::into_inner(event));
            // Until the next poll it can be cancelled.
            self.issue.push_back(number);
        }
        count
    }

    fn poll(&mut self, core: &Core<C>, min: u32, deadline: Deadline) -> (u32, PollEnd) {
        let min = core.ledger.in_flight().min(min.into()) as u32;
        let mut ran = 0;
        let end = loop {
            self.take(core);
            self.issue(core);
            let mut missing = min.saturating_sub(ran + self.untold() as u32);
            if self.followers > 0 {
                // One operation may complete them all.
                missing = missing.min(1);
            }
            let mut until = deadline.into_iter().chain(self.next_look).min();
            if missing > 1 && !self.interface.must_poll() {
                // A wake-up is one of those that it waits for, and does not end the wait.
                let soon = clock::now() + LOOK_EVERY;
                until = until.into_iter().chain(Some(soon)).min();
            }
            let left = time_until(until);
            let wait = match missing.min(self.pending as u32) {
                0 => Wait::No,
                // An IOPOLL ring looks for completions without a time limit of its own.
                _ if self.interface.must_poll() && left.is_some() => Wait::No,
                _ if left == Some(Duration::ZERO) => Wait::No,
                missing => Wait::For(missing, left),
            };
            let entered = self.turn(core, wait);
            ran += self.deliver(core);
            if ran >= min || core.ledger.in_flight() == 0 {
                break PollEnd::Satisfied;
            }
            if deadline.is_some_and(|at| clock::now() >= at) {
                break PollEnd::TimedOut;
            }
            let interrupted = entered == Entered::Interrupted && wait != Wait::No;
            if interrupted && until.is_none_or(|at| clock::now() < at) {
                break PollEnd::Signal;
            }
        };
        let waits = !core.backlog.is_empty() || !self.waiting.is_empty() || self.syncs.has_news();
        if waits && !self.free.is_empty() {
            self.take(core);
            self.turn(core, Wait::No);
        }
        // It may have been asked for since: by a callback, or by another thread before the start.
        if let Err(error) = self.sync_notify(core) {
            log(Level::Error, || format!("the descriptor of ioe_context_fd stays silent: {error}"));
        }
        self.renew_notice(core);
        (ran, end)
    }

    fn finish(&mut self, core: &Core<C>) {
        loop {
            self.take(core);
            if self.is_idle(core) {
                return;
            }
            self.turn(core, Wait::For(1, self.time_left()));
        }
    }

    fn forget_events(&mut self, core: &Core<C>) {
        let held = self.slots.iter_mut().filter_map(|slot| slot.event.take());
        held.chain(self.ready.drain(..)).for_each(std::mem::forget);
        self.waited_for.drain(..).for_each(std::mem::forget);
        self.syncs.take_out(|_| true, std::mem::forget);
        while let Some(event) = self.waiting.pop().or_else(|| core.backlog.pop()) {
            std::mem::forget(event);
        }
    }

    fn sync_notify(&mut self, core: &Core<C>) -> io::Result<()> {
        let Some(fd) = core.notify.get().filter(|_| !self.notifying) else { return Ok(()) };
        let told = self.interface.notify(fd.as_raw_fd());
        match told.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(errno)) if forbidden(errno) => {
                self.give_up(core, errno);
                self.interface.notify(fd.as_raw_fd())?;
            }
            _ => told?,
        }
        self.notifying = true;
        self.renew_notice(core);
        Ok(())
    }
}

/// Takes a plain event from its caller and counts it in; or leaves it as it was.
#[inline(always)]
fn accept<C>(core: &Core<C>, event: &IOEvent<C>) -> bool {
    if event.launch().is_err() {
        return false;
    }
    let accepted = event.has_callback() && count_in_one(&core.ledger, event, true).is_ok();
    if !accepted {
        event.abort_launch();
    }
    accepted
}

impl<C: IOCallback, I: Interface, Q: Flavor<Item = IOEvent<C>>> Reactor<C, I, Q> {
    /// Makes the notification descriptor readable if there is something to poll for, and only
    /// then: cleared first and looked at after, so that nothing is missed in between.
    fn renew_notice(&mut self, core: &Core<C>) {
        let Some(fd) = core.notify.get().filter(|_| self.notifying) else { return };
        clear_eventfd(fd.as_raw_fd());
        self.alarm.set(self.next_look, fd.as_raw_fd());
        let wanted = core.news.load(SeqCst) || self.is_due();
        let stuck = self.interface.queued() > 0 || !self.issue.is_empty();
        // Without operations, what the interface has is its own wake-up.
        let news = self.pending > 0 && (self.interface.is_silent() || self.interface.has_news());
        if wanted || stuck || news || self.untold() > 0 {
            write_eventfd(fd.as_raw_fd());
        }
    }
}
