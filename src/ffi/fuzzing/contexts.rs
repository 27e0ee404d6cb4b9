//! Calls about contexts, mergers, workers, memory, and those that need none of them.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;
use std::thread::{self, ThreadId};

use libc::{EAGAIN, EBUSY, EDEADLK, EINVAL, EMFILE, EPERM, ESHUTDOWN, ETIMEDOUT};

use super::super::buffer::*;
use super::super::context::*;
use super::super::event::ioe_action;
use super::super::library::*;
use super::super::merge::*;
use super::structs::Wanted;
use super::{
    cause, check, in_callback, in_callback_of, Run, State, BUFFERS, MERGERS, RUN, WORKERS,
};
use crate::driver::sim::{descriptor, with_world};
use crate::tasks::IOAction;

#[derive(Default)]
pub(super) struct Context {
    pub(super) raw: *mut ioe_context,
    /// What it was made of.
    pub(super) wanted: Wanted,
    pub(super) polled: bool,
    /// It is being freed.
    pub(super) closing: bool,
    /// The one thread that may use it.
    owner: Option<ThreadId>,
    places: u32,
    pub(super) accepted: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    fd: Option<c_int>,
}

#[derive(Default)]
pub(super) struct Merger {
    raw: *mut ioe_merger,
    context: usize,
    fd: c_int,
    action: c_int,
}

#[derive(Default)]
pub(super) struct Workers {
    pub(super) raw: *mut ioe_workers,
    pub(super) threads: u32,
}

impl Context {
    /// It is polled, and another thread's.
    pub(super) fn is_anothers(&self) -> bool {
        self.owner.is_some_and(|owner| owner != thread::current().id())
    }

    pub(super) fn is_full(&self) -> bool {
        self.places >= self.wanted.queue_size
    }

    pub(super) fn accepted(&mut self, place: bool) {
        self.accepted += 1;
        self.places += u32::from(place);
    }

    pub(super) fn refused(&mut self, place: bool) {
        self.accepted -= 1;
        self.places -= u32::from(place);
    }

    /// The callback of an event starts.
    pub(super) fn returned(&mut self, place: bool, failed: bool) {
        self.completed += 1;
        self.failed += u64::from(failed);
        self.places -= u32::from(place);
    }
}

/// Milliseconds: mostly none, or for ever.
fn any_timeout(state: &mut State) -> i64 {
    match state.input.byte() {
        0..64 => 0,
        64..192 => -1,
        _ => state.input.number() as i64,
    }
}

impl Run {
    pub(super) fn context_new(&self) {
        let mut state = self.state();
        let Some(slot) = state.no_context() else { return };
        let shared = Self::any_workers(&mut state);
        let mut wanted = Wanted {
            driver: i32::from(state.input.byte() % 4),
            depth: 1 + u32::from(state.input.byte() % 16),
            queue_size: 1 + u32::from(state.input.byte() % 24),
            workers: u32::from(state.input.byte() % 4),
            merge_limit: [0, 1, 512, 8192][state.input.below(4)],
            flags: 1 | if state.input.one_in(8) { 8 } else { 0 },
            ..Wanted::default()
        };
        if state.input.one_in(8) {
            wanted.stall_ms = state.input.number() as u32;
        }
        if self.threads && state.input.byte() & 3 > 0 {
            wanted.flags &= !1;
            wanted.shared = shared;
            wanted.reactors = u32::from(state.input.byte() % 4);
        }
        drop(state);
        self.make_context(slot, wanted);
    }

    /// Workers that there are, now and then.
    pub(super) fn any_workers(state: &mut State) -> Option<usize> {
        let any = state.input.below(WORKERS * 2);
        { Some(any) }.filter(|any| state.workers.get(*any).is_some_and(|it| !it.raw.is_null()))
    }

    fn make_context(&self, slot: usize, wanted: Wanted) {
        let state = self.state();
        let bytes = wanted.bytes(&state, size_of::<ioe_config>());
        drop(state);
        self.context_from(slot, wanted, &bytes);
    }

    /// Makes a context of a configuration that is as long as it says.
    pub(super) fn context_from(&self, slot: usize, wanted: Wanted, bytes: &[u64]) {
        let mut raw: *mut ioe_context = ptr::dangling_mut();
        let served = with_world(|world| world.served);
        // SAFETY: as long as it says, and aligned; `raw` is writable.
        let answer = unsafe { ioe_context_new(bytes.as_ptr().cast(), &mut raw) };
        let full = cause(EMFILE, served == crate::driver::sim::MAX_SERVED);
        let mut causes = wanted.causes(bytes);
        if causes.is_empty() {
            causes.extend(full);
        }
        check("ioe_context_new", answer.into(), &causes);
        if answer < 0 {
            return assert_eq!(raw, ptr::dangling_mut(), "written without success");
        }
        let limit = u64::from(wanted.merge_limit);
        let reactors = with_world(|world| {
            world.limit = world.limit.max(limit);
            (world.served - served) as u32
        });
        let polled = wanted.flags & 1 != 0;
        let wanted = Wanted { reactors, asked: wanted.reactors.max(1), ..wanted };
        let mut owner = None;
        if self.threads && polled {
            // Before a callback of another one can.
            // SAFETY: a context that lives.
            assert_eq!(unsafe { ioe_poll(raw, 0, 0) }, 0);
            owner = Some(thread::current().id());
        }
        self.state().contexts[slot] = Context { raw, wanted, polled, owner, ..Context::default() };
    }

    pub(super) fn context_free(&self) {
        let slot = self.state().any_context();
        if self.threads && in_callback() && !in_callback_of(slot) {
            // Another thread may be in there, or it would wait for this one.
            return;
        }
        self.free_context(slot);
    }

    pub(super) fn free_context(&self, slot: usize) {
        let mut state = self.state();
        let raw = state.contexts[slot].raw;
        let lives = |merger: &Merger| !merger.raw.is_null() && merger.context == slot;
        let mergers = state.mergers.iter().any(lives);
        let inside = !raw.is_null() && in_callback_of(slot);
        let before = state.contexts[slot].closing;
        let causes: Vec<i32> = cause(EINVAL, raw.is_null())
            .into_iter()
            .chain(cause(EDEADLK, inside))
            .chain(cause(EBUSY, mergers))
            .collect();
        state.contexts[slot].closing |= causes.is_empty();
        drop(state);
        // SAFETY: NULL, or a context that lives; nobody else uses it.
        let answer = unsafe { ioe_context_free(raw) };
        check("ioe_context_free", answer.into(), &causes);
        let mut state = self.state();
        if answer < 0 {
            state.contexts[slot].closing = before;
            return;
        }
        assert_eq!(Self::flying(&state, slot, u64::MAX), 0, "in flight after the end");
        let Context { accepted, completed, .. } = state.contexts[slot];
        assert_eq!(accepted, completed, "one callback for every accepted event");
        state.contexts[slot] = Context::default();
    }

    pub(super) fn drain(&self) {
        let mut state = self.state();
        let slot = state.any_context();
        let timeout = any_timeout(&mut state);
        let raw = state.contexts[slot].raw;
        let inside = !raw.is_null() && in_callback_of(slot);
        if self.threads && in_callback() && !inside {
            // Two callbacks might wait for each other.
            return;
        }
        let causes: Vec<i32> = cause(EINVAL, raw.is_null() || timeout < -1)
            .into_iter()
            .chain(cause(EDEADLK, inside))
            .collect();
        let before = state.submissions;
        let held = (!causes.is_empty()).then_some(state);
        // SAFETY: NULL, or a context that lives.
        let answer = unsafe { ioe_drain(raw, timeout) };
        drop(held);
        if answer == -ETIMEDOUT && timeout >= 0 && causes.is_empty() {
            return;
        }
        check("ioe_drain", answer.into(), &causes);
        if answer == 0 {
            // What callbacks submitted since does not hold it back.
            let flying = Self::flying(&self.state(), slot, before);
            assert!(flying == 0, "in flight after a drain");
        }
    }

    pub(super) fn poll(&self) {
        let mut state = self.state();
        let slot = state.any_context();
        let timeout = any_timeout(&mut state);
        let min = match state.input.byte() {
            few @ 0..192 => u32::from(few % 8),
            _ => state.input.number() as u32,
        };
        let Context { raw, polled, completed, .. } = state.contexts[slot];
        let flying = Self::flying(&state, slot, u64::MAX) as u64;
        let inside = !raw.is_null() && in_callback_of(slot);
        let causes: Vec<i32> = cause(EINVAL, !polled || timeout < -1)
            .into_iter()
            .chain(cause(EDEADLK, inside))
            .chain(cause(EPERM, state.contexts[slot].is_anothers()))
            .collect();
        let held = (!causes.is_empty()).then_some(state);
        // SAFETY: NULL, or a context that lives.
        let answer = unsafe { ioe_poll(raw, min, timeout) };
        drop(held);
        check("ioe_poll", answer.into(), &causes);
        if causes.is_empty() {
            let ran = self.state().contexts[slot].completed - completed;
            assert_eq!(answer as u64, ran, "so many callbacks ran");
            assert!(ran >= flying.min(min.into()) || timeout >= 0, "a poll that came back early");
        }
    }

    pub(super) fn context_fd(&self) {
        let mut state = self.state();
        let slot = state.any_context();
        let context = &mut state.contexts[slot];
        // SAFETY: NULL, or a context that lives.
        let answer = unsafe { ioe_context_fd(context.raw) };
        let causes: Vec<i32> = cause(EINVAL, !context.polled)
            .into_iter()
            .chain(cause(EPERM, context.is_anothers()))
            .collect();
        check("ioe_context_fd", answer.into(), &causes);
        if answer >= 0 {
            let before = *context.fd.get_or_insert(answer);
            assert_eq!(before, answer, "another descriptor");
        }
    }

    pub(super) fn merger_new(&self) {
        let mut state = self.state();
        let slot = state.input.below(MERGERS);
        let context = state.any_context();
        if !state.mergers[slot].raw.is_null() {
            return;
        }
        let fd = match state.input.byte() {
            0..128 => descriptor(0, 0),
            common @ 128..224 => descriptor(0, usize::from(common) % super::FILES),
            _ => state.input.number() as c_int,
        };
        let action = match state.input.byte() {
            common @ 0..224 => 1 + c_int::from(common & 1),
            _ => state.input.number() as c_int,
        };
        let limit = match state.input.byte() {
            0..160 => 4096,
            _ => state.input.number() as usize,
        };
        let no_out = state.input.one_in(32);
        let Context { raw: handle, closing, .. } = state.contexts[context];
        let transfers = [ioe_action::IOE_READ as c_int, ioe_action::IOE_WRITE as c_int];
        let invalid = handle.is_null() || no_out || limit == 0 || !transfers.contains(&action);
        let causes: Vec<i32> =
            cause(EINVAL, invalid).into_iter().chain(cause(ESHUTDOWN, closing)).collect();
        with_world(|world| world.limit = world.limit.max(limit as u64).min(1 << 30));
        drop(state);
        let mut raw: *mut ioe_merger = ptr::dangling_mut();
        let out = if no_out { ptr::null_mut() } else { &raw mut raw };
        // SAFETY: a context or NULL; writable or NULL.
        let answer = unsafe { ioe_merger_new(handle, fd, action, limit, out) };
        check("ioe_merger_new", answer.into(), &causes);
        match answer {
            0 => self.state().mergers[slot] = Merger { raw, context, fd, action },
            _ => assert_eq!(raw, ptr::dangling_mut(), "written without success"),
        }
    }

    pub(super) fn merger_add(&self) {
        let mut state = self.state();
        let slot = state.input.below(MERGERS);
        let event = state.any_event();
        let Merger { raw: merger, context, fd, action } = state.mergers[slot];
        if !state.may_be_submitted(event, self.threads) {
            return;
        }
        let mut causes = state.unfit(event);
        let fits = state.is_for(event, fd, action);
        causes.extend(cause(EINVAL, merger.is_null() || !fits));
        let full = state.contexts[context].polled && !in_callback();
        causes.extend(cause(EAGAIN, full && state.contexts[context].is_full()));
        if causes.is_empty() {
            state.set_off(event, context, !in_callback(), false);
        }
        let raw = state.events[event].raw;
        let held = (!causes.is_empty()).then_some(state);
        // SAFETY: a merger or NULL, an event or NULL; its memory lives.
        let answer = unsafe { ioe_merger_add(merger, raw) };
        drop(held);
        check("ioe_merger_add", answer.into(), &causes);
    }

    pub(super) fn merger_flush(&self) {
        let mut state = self.state();
        let slot = state.input.below(MERGERS);
        let raw = state.mergers[slot].raw;
        drop(state);
        // SAFETY: NULL, or a merger that lives.
        let answer = unsafe { ioe_merger_flush(raw) };
        check("ioe_merger_flush", answer.into(), cause(EINVAL, raw.is_null()).as_slice());
    }

    pub(super) fn merger_free(&self) {
        let mut state = self.state();
        let slot = state.input.below(MERGERS);
        drop(state);
        self.free_merger(slot);
    }

    pub(super) fn free_merger(&self, slot: usize) {
        let raw = std::mem::take(&mut self.state().mergers[slot]).raw;
        // SAFETY: NULL, or a merger that lives, used no more.
        let answer = unsafe { ioe_merger_free(raw) };
        check("ioe_merger_free", answer.into(), cause(EINVAL, raw.is_null()).as_slice());
    }

    pub(super) fn workers_new(&self) {
        let mut state = self.state();
        let slot = state.input.below(WORKERS);
        let threads = match state.input.byte() {
            few @ 0..224 => u32::from(few) % 4,
            // Many take time: those at the edge are for `structs`.
            _ => (state.input.number() as u32).wrapping_add(257).max(257),
        };
        let no_out = state.input.one_in(16);
        if !state.workers[slot].raw.is_null() {
            return;
        }
        drop(state);
        let mut raw: *mut ioe_workers = ptr::dangling_mut();
        let out = if no_out { ptr::null_mut() } else { &raw mut raw };
        // SAFETY: writable or NULL.
        let answer = unsafe { ioe_workers_new(threads, out) };
        let invalid = no_out || !(1..=256).contains(&threads);
        check("ioe_workers_new", answer.into(), cause(EINVAL, invalid).as_slice());
        match answer {
            0 => self.state().workers[slot] = Workers { raw, threads },
            _ => assert_eq!(raw, ptr::dangling_mut(), "written without success"),
        }
    }

    pub(super) fn workers_free(&self) {
        let mut state = self.state();
        let slot = state.input.below(WORKERS);
        drop(state);
        self.free_workers(slot);
    }

    pub(super) fn free_workers(&self, slot: usize) {
        let state = self.state();
        let raw = state.workers[slot].raw;
        let uses = |context: &Context| {
            !context.raw.is_null() && !context.polled && context.wanted.shared == Some(slot)
        };
        let used = !raw.is_null() && state.contexts.iter().any(uses);
        drop(state);
        // SAFETY: NULL, or workers that live.
        let answer = unsafe { ioe_workers_free(raw) };
        let causes: Vec<i32> =
            cause(EINVAL, raw.is_null()).into_iter().chain(cause(EBUSY, used)).collect();
        check("ioe_workers_free", answer.into(), &causes);
        if answer == 0 {
            self.state().workers[slot] = Workers::default();
        }
    }

    /// Those that need no context.
    pub(super) fn library_calls(&self) {
        let kind = self.state().input.byte();
        let number = self.state().input.number();
        match kind % 5 {
            0 => {
                // SAFETY: it never is NULL.
                let text = unsafe { CStr::from_ptr(ioe_strerror(number as c_int)) };
                let known = (number as c_int).unsigned_abs() < 134;
                assert!(!text.is_empty() && (text == c"unknown error") != known, "{text:?}");
            }
            1 => {
                // SAFETY: it never is NULL.
                let name = unsafe { CStr::from_ptr(ioe_driver_name(number as c_int)) };
                assert_eq!(name == c"unknown", !(0..4).contains(&(number as c_int)));
                // SAFETY: as above.
                let version = unsafe { CStr::from_ptr(ioe_version()) };
                assert_eq!(version.to_bytes(), env!("CARGO_PKG_VERSION").as_bytes());
            }
            // A probe of a driver that there is asks the kernel.
            2 if !(0..4).contains(&(number as c_int)) => {
                check("ioe_probe", ioe_probe(number as c_int).into(), &[EINVAL]);
            }
            3 => self.set_log(number % 2 == 0),
            _ => self.buffer(number),
        }
    }

    pub(super) fn set_log(&self, on: bool) {
        unsafe extern "C" fn note(level: c_int, message: *const c_char, arg: *mut c_void) {
            assert!((1..=4).contains(&level) && arg.is_null());
            // SAFETY: it lives for the call.
            assert!(!unsafe { CStr::from_ptr(message) }.is_empty());
            // SAFETY: the run of this thread, which it leaves before that ends.
            if let Some(run) = unsafe { RUN.get().as_ref() } {
                run.logged();
            }
        }
        let level = self.state().input.number() as c_int;
        ioe_set_log(on.then_some(note), ptr::null_mut(), level);
    }

    fn buffer(&self, len: u64) {
        let mut state = self.state();
        let slot = state.input.below(BUFFERS);
        let align = match state.input.byte() {
            shift @ 0..128 => 1usize << (shift % 64),
            _ => state.input.number() as usize,
        };
        if !state.buffers[slot].is_null() {
            drop(state);
            return self.free_buffer(slot);
        }
        let block = ioe_buffer_alloc(len as usize, align).cast::<u8>();
        state.buffers[slot] = block;
        if block.is_null() {
            let large = len > 1 << 30 || align > 1 << 30;
            return assert!(len == 0 || align != 0 && !align.is_power_of_two() || large);
        }
        assert_eq!(block as usize % align.max(4096), 0, "aligned");
        // SAFETY: so many bytes.
        unsafe {
            assert_eq!((block.read(), block.add(len as usize - 1).read()), (0, 0), "zeroed");
            block.write(1);
            block.add(len as usize - 1).write(1);
        }
    }

    pub(super) fn free_buffer(&self, slot: usize) {
        let block = std::mem::replace(&mut self.state().buffers[slot], ptr::null_mut());
        // SAFETY: NULL, or a buffer that lives.
        unsafe { ioe_buffer_free(block.cast()) };
    }
}

/// The action of a number of the header.
pub(super) fn is_action(action: Option<IOAction>, number: c_int) -> bool {
    match action {
        Some(IOAction::Read) => number == ioe_action::IOE_READ as c_int,
        Some(IOAction::Write) => number == ioe_action::IOE_WRITE as c_int,
        _ => false,
    }
}
