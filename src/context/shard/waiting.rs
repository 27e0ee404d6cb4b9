//! Events whose submitter waits: done on its own thread where that will do, and by the reactor where
//! not.

use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;
use std::time::Duration;

use super::{Errno, Seat, Shard};
use crate::attempt::{outcome, Attempt, Verdict};
use crate::callback_worker::starts;
use crate::callers::Turn;
use crate::clock;
use crate::driver::direct;
use crate::gate::Latch;
use crate::reactor::report_stall;
use crate::stats::Counters;
use crate::tasks::{Extent, IOAction, IOCallback, IOEvent, Op};
use crate::thread::{here, Here};

impl<C: IOCallback> Shard<C> {
    /// Runs an event and waits for it, and returns its result. Its callback is not called. Not in a
    /// callback of the context. `reactors` says that a reactor's thread of the context calls, from the
    /// program's log function.
    #[inline(always)]
    pub(in crate::context) fn submit_wait(
        &self,
        event: &mut IOEvent<C>,
        reactors: bool,
    ) -> Result<i64, Errno> {
        let here = here();
        self.launch(event, here)?;
        // What the calling thread cannot do by itself; the owner of a polled context cannot sleep until
        // its own reactor's sync is done.
        let sync = event.is_sync() && self.config.sync_groups;
        let reactors_turn =
            sync && self.config.polled && self.core.callers.reactor_comes(event.fd());
        let is_reactors = event.is_barrier() || event.is_timed() || event.priority() != 0;
        if is_reactors || reactors_turn {
            return self.run_there(event, here, reactors).inspect_err(|_| event.abort_launch());
        }
        let accept = || self.ledger().accept(false);
        let accepted = match event.is_write() {
            true => self.core.callers.write(event.fd(), accept),
            false => accept(),
        };
        let admission = accepted.map_err(|_| {
            event.abort_launch();
            libc::ESHUTDOWN
        })?;
        event.set_owner(Arc::as_ptr(&self.core.ledger), admission);
        // In a callback, the end of another one's sync might wait for this one's; in the program's log
        // function, on the reactor's thread, it does.
        let beside = here.in_callback || !self.config.polled && reactors;
        Ok(match sync && !beside {
            true => self.sync_here(event),
            false => self.run_here(event),
        })
    }

    /// Syncs on the calling thread, for all that wait by then; or waits for somebody who does.
    fn sync_here(&self, event: &mut IOEvent<C>) -> i64 {
        let callers = &self.core.callers;
        let fd = event.fd();
        let whole = event.kind() == IOAction::Fsync;
        if let Some(waiter) = callers.want_sync(fd, whole) {
            loop {
                let wakes = waiter.wakes();
                match waiter.turn() {
                    Turn::Leads => break,
                    Turn::Done(result) => {
                        let joined = Counters { syncs_joined: 1, ..Counters::default() };
                        return self.finish_here(event, result, joined);
                    }
                    Turn::Waits => {}
                }
                if let Some(errno) = event.ending(clock::now) {
                    if callers.leave(fd, &waiter) {
                        let none = Counters::default();
                        return self.finish_here(event, -i64::from(errno), none);
                    }
                }
                waiter.sleep(wakes);
            }
        }
        // One that failed since its acceptance took the error with it.
        if let Some(errno) = self.ledger().failure_before(fd, event.number(), false) {
            if callers.end_sync(fd, 0) {
                self.tell_reactor();
            }
            return self.finish_here(event, -i64::from(errno), Counters::default());
        }
        let followers = callers.start_sync(fd);
        let mut op = event.next_op();
        if followers.iter().any(|follower| follower.whole) {
            op.action = IOAction::Fsync;
        }
        let (result, stalled) = self.call(&op);
        let counters = Counters { operations: 1, system_calls: 1, ..Counters::default() };
        if result < 0 {
            self.ledger().sync_failed(fd, -result as i32);
        }
        if callers.end_sync(fd, result) {
            self.tell_reactor();
        }
        followers.iter().for_each(|follower| follower.finish(result));
        let result = self.finish_here(event, result.min(0), counters);
        // Outside of everything: the program may do anything in its log function.
        stalled.into_iter().for_each(|age| report_stall((Extent::from(&op), age)));
        result
    }

    /// Does an operation on the calling thread. How it ended; and how long it took, if that is still to
    /// be reported.
    fn call(&self, op: &Op) -> (i64, Option<Duration>) {
        if self.config.stall_ms == 0 {
            return (direct::run(op), None);
        }
        let (what, begun) = (Extent::from(op), clock::now());
        // The owner of a polled context has nobody who watches.
        if !self.config.polled && self.core.callers.begin_call(what, begun) {
            self.tell_reactor();
        }
        let result = direct::run(op);
        let reported = !self.config.polled && self.core.callers.end_call(what, begun);
        let age = clock::now() - begun;
        let stalled = age >= Duration::from_millis(self.config.stall_ms.into());
        (result, Some(age).filter(|_| stalled && !reported))
    }

    /// There is something that it has to look at.
    pub(super) fn tell_reactor(&self) {
        self.core.news.store(true, SeqCst);
        self.wake_up.wake_busy();
    }

    /// Does an event on the calling thread.
    #[inline(always)]
    fn run_here(&self, event: &mut IOEvent<C>) -> i64 {
        let mut counters = Counters::default();
        let mut attempt = Attempt::default();
        let mut stalled = Vec::new();
        let result = loop {
            if let Some(errno) = event.ending(clock::now) {
                break -i64::from(errno);
            }
            let op = event.next_op();
            if let Err(errno) = attempt.begin(&op, event) {
                break -i64::from(errno);
            }
            counters.operations += 1;
            counters.system_calls += 1;
            let (result, age) = self.call(&op);
            stalled.extend(age.map(|age| (Extent::from(&op), age)));
            if let Verdict::Complete(result) = attempt.judge(event, result, &mut counters) {
                break result;
            }
        };
        if result < 0 && event.is_sync() && self.config.sync_groups {
            // Others wait for theirs meanwhile.
            self.ledger().sync_failed(event.fd(), -result as i32);
        }
        let result = self.finish_here(event, result, counters);
        for stall in stalled {
            report_stall(stall);
        }
        result
    }

    /// Completes an event that the calling thread did.
    fn finish_here(&self, event: &mut IOEvent<C>, result: i64, mut counters: Counters) -> i64 {
        let result = outcome(event, result);
        counters.failed += u64::from(event.fails_with(result));
        self.callers.add(&counters);
        event.complete(result);
        let number = event.number();
        let write = event.is_write();
        if result < 0 && write {
            self.ledger().write_failed(event.fd(), number, -result as i32);
        }
        if write && self.core.callers.end_write(number) {
            self.tell_reactor();
        }
        let admission = starts(self.ledger(), event);
        self.ledger().finish(admission);
        if let Seat::Owner(seat) = &self.seat {
            if self.ledger().in_flight() > 0 {
                // Where the reactor is busy, it comes by itself to what this would do.
                let _ = seat.with(|reactor| reactor.poll(&self.core, 0, None));
            }
        }
        // Callbacks that ran in there found it in flight: who waits for it has not heard yet.
        event.release();
        result
    }

    /// Has the reactor do an event, and waits for it.
    fn run_there(&self, event: &mut IOEvent<C>, here: Here, reactors: bool) -> Result<i64, Errno> {
        self.check_may_wait(here, reactors)?;
        let latch = Latch::default();
        self.count_in_awaited(event, &latch, None)?;
        // SAFETY: the reactor gives this handle up before it counts down.
        self.hand_over(unsafe { event.second_handle() }, here);
        while latch.left() > 0 {
            self.wait_at(&latch);
        }
        let result = event.result();
        event.release();
        Ok(result)
    }

    /// Fails where nobody would do what the calling thread waits for: in the program's log function, called
    /// by the reactor.
    pub(in crate::context) fn check_may_wait(
        &self,
        here: Here,
        reactors: bool,
    ) -> Result<(), Errno> {
        match self.seat(here)?.map_or(reactors, |seat| seat.busy.get()) {
            true => Err(libc::EDEADLK),
            false => Ok(()),
        }
    }

    /// Takes an event from its caller, who waits for it at this latch, and for those `before`; or leaves it as
    /// it was.
    pub(in crate::context) fn accept_awaited(
        &self,
        event: &IOEvent<C>,
        here: Here,
        latch: &Latch,
        before: Option<NonNull<()>>,
    ) -> Result<(), Errno> {
        self.launch(event, here)?;
        self.count_in_awaited(event, latch, before).inspect_err(|_| event.abort_launch())
    }

    /// Counts in what was launched. It needs no room: a callback may want what the thread that waits holds.
    fn count_in_awaited(
        &self,
        event: &IOEvent<C>,
        latch: &Latch,
        before: Option<NonNull<()>>,
    ) -> Result<(), Errno> {
        let admission = self.ledger().accept(false).map_err(|_| libc::ESHUTDOWN)?;
        event.set_owner(Arc::as_ptr(&self.core.ledger), admission);
        event.set_waiter(latch, before);
        if event.is_barrier() {
            self.flush_all_gathered();
        }
        Ok(())
    }

    /// Waits for something of what was handed over for this latch, or for all of it.
    pub(in crate::context) fn wait_at(&self, latch: &Latch) {
        let left = latch.left();
        match &self.seat {
            _ if left == 0 => {}
            Seat::Thread(_) => latch.sleep(left),
            // Neither a signal nor another event's end ends the wait of a caller.
            Seat::Owner(_) => drop(self.poll(left, None)),
        }
    }
}
