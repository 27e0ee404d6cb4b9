//! Calls about one event, and what the model knows of it.

use std::os::raw::{c_int, c_void};
use std::ptr;
use std::time::Duration;

use libc::{EAGAIN, EBUSY, EDEADLK, EINVAL, ENOENT, EPERM, ESHUTDOWN};

use super::super::event::*;
use super::super::options::*;
use super::super::submit::*;
use super::contexts::{is_action, Context};
use super::{
    cause, check, in_callback, in_callback_of, Notices, Run, State, Tag, CONTEXTS, EVENTS, FILES,
    IN_LOG, MAX_DEPTH, RUN, STACK,
};
use crate::clock;
use crate::driver::sim::{descriptor, file_of, with_world, Flight};
use crate::tasks::{flags, IOAction, PENDING};

/// The most memory that an event is given.
const MAX_LEN: usize = 4096;
const PRIORITY_NAMES: [i32; 4] = [1 << 13, 2 << 13 | 4, 3 << 13 | 7, 0];

/// The byte that belongs in this place of a file. Every write writes it; a hole has 0.
pub(super) fn byte_at(file: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(31) >> 3) as u8 ^ (file as u8) << 4 | 1
}

/// Whose an event is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Owner {
    #[default]
    Nobody,
    Program,
    Library,
}

/// What was asked for with a prep call.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Asked {
    action: Option<IOAction>,
    fd: c_int,
    memory: *mut c_void,
    len: u64,
    offset: u64,
}

const NOTHING: Asked = Asked { action: None, fd: -1, memory: ptr::null_mut(), len: 0, offset: 0 };

pub(super) struct Event {
    pub(super) raw: *mut ioe_event,
    pub(super) tags: Box<[Tag]>,
    owner: Owner,
    asked: Asked,
    /// The memory is as long as the request says.
    honest: bool,
    memory: Box<[u8]>,
    /// Number of the callback that is set.
    callback: Option<usize>,
    flags: u32,
    priority: u16,
    limit: Option<Duration>,
    result: i64,
    transferred: u64,
    pub(super) id: u64,
    /// Where it is in flight; whether it has a place in the queue there, or somebody waits for it.
    pub(super) context: usize,
    pub(super) place: bool,
    waited_for: bool,
    /// Which of all submissions it was.
    submission: u64,
}

impl Default for Event {
    fn default() -> Self {
        Event {
            raw: ptr::null_mut(),
            tags: Box::default(),
            owner: Owner::Nobody,
            asked: NOTHING,
            honest: false,
            memory: Box::default(),
            callback: None,
            flags: 0,
            priority: 0,
            limit: None,
            result: PENDING,
            transferred: 0,
            id: 0,
            context: 0,
            place: false,
            waited_for: false,
            submission: 0,
        }
    }
}

impl Event {
    pub(super) fn flies(&self) -> bool {
        self.owner == Owner::Library
    }

    fn is_whole(&self) -> bool {
        let transfer = self.asked.action.is_some_and(IOAction::is_transfer);
        self.result >= 0 && (!transfer || self.result as u64 == self.asked.len)
    }

    /// Why no call would take it.
    fn unfit(&self, needs_callback: bool) -> impl Iterator<Item = i32> {
        let unprepared = self.raw.is_null() || self.asked.action.is_none();
        let lacks = unprepared || needs_callback && self.callback.is_none() || self.is_whole();
        cause(EINVAL, lacks).into_iter().chain(cause(EBUSY, self.flies()))
    }

    fn prepared(&mut self, asked: Asked) {
        self.asked = asked;
        (self.flags, self.priority, self.limit) = (0, 0, None);
        (self.result, self.transferred) = (PENDING, 0);
    }

    /// May be submitted, as far as the program has to see to it.
    fn is_safe(&self) -> bool {
        self.raw.is_null() || self.asked.action.is_none() || self.honest
    }
}

/// Whether a request may end there.
fn in_range(offset: u64, len: Option<u64>) -> bool {
    let end = len.and_then(|len| offset.checked_add(len));
    end.is_some_and(|end| end <= i64::MAX as u64)
}

unsafe extern "C" fn first_callback(event: *mut ioe_event, arg: *mut c_void) {
    called(event, arg, 0)
}

unsafe extern "C" fn second_callback(event: *mut ioe_event, arg: *mut c_void) {
    called(event, arg, 1)
}

fn called(event: *mut ioe_event, arg: *mut c_void, number: usize) {
    // SAFETY: the tags live as long as the run.
    let tag = unsafe { &*arg.cast::<Tag>() };
    // SAFETY: the run frees its contexts before it ends.
    let run = unsafe { &*tag.run };
    run.shared.clone().join();
    let _noticed = Notices(run);
    let mut state = run.state();
    let known = &state.events[tag.slot];
    assert_eq!(known.raw, event, "another event's callback");
    assert!(ptr::eq(&known.tags[number], tag), "another argument");
    assert_eq!(known.callback, Some(number), "another callback");
    assert!(!known.waited_for, "a callback of an event that is waited for");
    let context = known.context;
    state.completed(tag.slot);
    let actions = state.input.below(4);
    drop(state);
    let outer = RUN.replace(run);
    STACK.with_borrow_mut(|stack| stack.push((context, tag.slot)));
    for _ in 0..actions {
        let deep = STACK.with_borrow(Vec::len) >= MAX_DEPTH;
        if deep || !run.state().goes_on() {
            break;
        }
        run.step();
    }
    STACK.with_borrow_mut(Vec::pop);
    RUN.set(outer);
}

impl State {
    /// An event came back.
    pub(super) fn completed(&mut self, slot: usize) {
        let event = &mut self.events[slot];
        assert_eq!(event.owner, Owner::Library, "event {slot}: completed twice, or never accepted");
        event.owner = Owner::Program;
        let raw = event.raw;
        // SAFETY: it is the program's again.
        let (result, transferred, id) =
            unsafe { (ioe_event_result(raw), ioe_event_transferred(raw), ioe_event_id(raw)) };
        let flight = with_world(|world| world.flights.remove(&(slot as u32))).expect("a flight");
        let Asked { action: Some(action), fd, offset, len, .. } = event.asked else {
            panic!("event {slot} was never prepared");
        };
        let nowhere = file_of(fd) >= FILES;
        // A caller's own thread does not ask the kernel for that.
        let lacks = event.flags & flags::HIPRI != 0 && result == -i64::from(libc::EOPNOTSUPP);
        if lacks && event.waited_for {
            assert_eq!(transferred, flight.moved, "event {slot}");
        } else if nowhere && !action.is_transfer() {
            // No operation of it could be seen.
            let ended = cause(libc::ECANCELED, flight.cancelled)
                .into_iter()
                .chain(cause(libc::ETIMEDOUT, flight.deadline.is_some()))
                .chain([libc::EBADF, libc::EPERM]);
            assert!({ ended }.any(|errno| result == -i64::from(errno)), "event {slot}: {result}");
        } else {
            flight.check(slot as u32, action, result, transferred);
        }
        if action == IOAction::Write && result >= 0 {
            assert_eq!(result as u64, len, "event {slot}: a write is whole, or an error");
        }
        if let IOAction::Read = action {
            let read = event.memory[..transferred as usize].iter().zip(offset..);
            let right = { read }.all(|(byte, at)| *byte == byte_at(file_of(fd), at) || *byte == 0);
            assert!(right, "event {slot}: bytes of another place");
        }
        (event.result, event.transferred) = (result, transferred);
        let told = event.flags & flags::NOWAIT != 0 && result == -i64::from(libc::EAGAIN);
        assert_ne!(id, event.id, "event {slot}: a new life has a new id");
        let (old, place, context) = (event.id, event.place, event.context);
        self.over(old);
        self.contexts[context].returned(place, result < 0 && !told);
    }

    fn over(&mut self, id: u64) {
        self.old_ids.insert(id);
        self.last_id = id;
    }

    /// Whether the program may hand an event to the library, whatever that answers.
    pub(super) fn may_be_submitted(&self, slot: usize, threads: bool) -> bool {
        let event = &self.events[slot];
        event.is_safe() && !(threads && event.flies())
    }

    /// How many events of a context are waited for.
    pub(super) fn waited_for(&self, context: usize) -> u64 {
        let waits = |event: &&Event| event.flies() && event.waited_for && event.context == context;
        self.events.iter().filter(waits).count() as u64
    }

    pub(super) fn unfit(&self, slot: usize) -> Vec<i32> {
        self.events[slot].unfit(true).collect()
    }

    /// Whether an event is what a merger takes.
    pub(super) fn is_for(&self, slot: usize, fd: c_int, action: c_int) -> bool {
        let asked = &self.events[slot].asked;
        asked.fd == fd && is_action(asked.action, action)
    }

    /// Puts an event in flight, before the library is asked to take it.
    pub(super) fn set_off(&mut self, slot: usize, context: usize, place: bool, waited_for: bool) {
        let event = &mut self.events[slot];
        event.owner = Owner::Library;
        (event.context, event.place, event.waited_for) = (context, place, waited_for);
        self.submissions += 1;
        event.submission = self.submissions;
        // SAFETY: still the program's.
        event.id = unsafe { ioe_event_id(event.raw) };
        assert!(event.id != 0 && !self.old_ids.contains(&event.id), "an id of another life");
        let Asked { fd, len, offset, action, .. } = event.asked;
        let transfer = action.is_some_and(IOAction::is_transfer);
        let flight = Flight {
            file: file_of(fd),
            offset,
            memory: if transfer { event.memory.as_ptr() as usize } else { 0 },
            len: len as usize,
            moved: event.transferred,
            flags: event.flags & !flags::BARRIER,
            priority: event.priority,
            deadline: event.limit.and_then(|limit| clock::now().checked_add(limit)),
            ..Flight::default()
        };
        with_world(|world| {
            assert!(world.flights.insert(slot as u32, flight).is_none(), "event {slot} flies");
        });
        self.contexts[context].accepted(place);
    }

    /// The library did not take it after all.
    fn bring_back(&mut self, slot: usize) {
        let event = &mut self.events[slot];
        event.owner = Owner::Program;
        with_world(|world| world.flights.remove(&(slot as u32)));
        self.contexts[event.context].refused(event.place);
    }
}

impl Run {
    pub(super) fn event_new(&self) {
        let mut state = self.state();
        let empty = state.events.iter().position(|event| event.raw.is_null());
        let Some(slot) = empty else { return };
        let raw = ioe_event_new();
        assert!(!raw.is_null());
        let tags = std::mem::take(&mut state.events[slot].tags);
        state.events[slot] = Event { raw, tags, owner: Owner::Program, ..Event::default() };
        drop(state);
        self.look_at(slot);
    }

    pub(super) fn event_free(&self) {
        let slot = self.state().any_event();
        self.free_event(slot);
    }

    pub(super) fn free_event(&self, slot: usize) {
        let mut state = self.state();
        let event = &mut state.events[slot];
        let (raw, flies) = (event.raw, event.flies());
        if !self.may_touch(event) {
            return;
        }
        // SAFETY: NULL, or an event that lives.
        let answer = unsafe { ioe_event_free(raw) };
        check("ioe_event_free", answer.into(), cause(EBUSY, flies).as_slice());
        if answer == 0 {
            let id = event.id;
            let tags = std::mem::take(&mut event.tags);
            *event = Event { tags, ..Event::default() };
            state.over(id);
        }
    }

    /// Whether other calls than getters may be made. With threads, what is in flight may come back at
    /// any moment, and be its callback's.
    fn may_touch(&self, event: &Event) -> bool {
        !self.threads || !event.flies()
    }

    /// A descriptor: mostly of one file, so that there are neighbours.
    fn any_fd(state: &mut State, of_its_own: u32) -> c_int {
        match state.input.byte() {
            0..128 => descriptor(of_its_own, 0),
            common @ 128..240 => descriptor(of_its_own, usize::from(common) % FILES),
            // None at all, or of no file.
            _ => (state.input.number() as i32).min(descriptor(0, FILES)),
        }
    }

    /// An offset: mostly where a neighbour would begin.
    fn any_offset(state: &mut State) -> u64 {
        match state.input.byte() {
            0..128 => state.next_offset,
            128..192 => u64::from(state.input.byte()) * 64,
            _ => state.input.number(),
        }
    }

    /// A range of a file, of an event that moves no bytes; and whether there can be such a range.
    fn any_range(state: &mut State, slot: usize) -> (Asked, bool) {
        let (fd, offset) = (Self::any_fd(state, slot as u32), Self::any_offset(state));
        let len = state.input.number();
        (Asked { fd, offset, len, ..NOTHING }, in_range(offset, Some(len)))
    }

    /// The checks and the model around a prep call.
    fn prep(
        &self,
        name: &str,
        action: IOAction,
        honest: bool,
        choose: impl FnOnce(&mut State, usize) -> (Asked, bool),
        call: impl FnOnce(*mut ioe_event, &Asked) -> c_int,
    ) {
        let mut state = self.state();
        let slot = state.any_event();
        if !self.may_touch(&state.events[slot]) {
            return;
        }
        let (asked, valid) = choose(&mut state, slot);
        let event = &mut state.events[slot];
        let causes: Vec<i32> = cause(EINVAL, event.raw.is_null() || !valid)
            .into_iter()
            .chain(cause(EBUSY, event.flies()))
            .collect();
        // SAFETY: NULL, or an event that lives.
        let before = unsafe { ioe_event_id(event.raw) };
        let answer = call(event.raw, &asked);
        check(name, answer.into(), &causes);
        if answer == 0 {
            event.prepared(Asked { action: Some(action), ..asked });
            event.honest = honest;
            // SAFETY: an event that lives.
            assert_ne!(before, unsafe { ioe_event_id(event.raw) }, "a prep gives a new id");
            let end = asked.offset + asked.len;
            state.over(before);
            state.next_offset = if end < MAX_LEN as u64 * 4 { end } else { 0 };
        }
        drop(state);
        self.look_at(slot);
    }

    /// Memory for a request, if nobody else uses it.
    fn give_memory(event: &mut Event, action: IOAction, fd: c_int, offset: u64, len: usize) {
        if event.flies() {
            return;
        }
        // One without bytes has a place of its own too.
        event.memory = vec![0; len.max(1)].into();
        if action == IOAction::Write {
            let bytes = event.memory.iter_mut().zip(offset..);
            bytes.for_each(|(byte, at)| *byte = byte_at(file_of(fd), at));
        }
    }

    pub(super) fn prep_transfer(&self) {
        let kind = self.state().input.byte();
        let action = if kind & 1 == 0 { IOAction::Read } else { IOAction::Write };
        let honest = kind & 0xf0 != 0xf0;
        let call = |raw, asked: &Asked| {
            let Asked { fd, memory, len, offset, .. } = *asked;
            // SAFETY: an event or NULL; memory of that length, or the event is never submitted.
            unsafe {
                match action {
                    IOAction::Read => ioe_prep_read(raw, fd, memory, len as usize, offset),
                    _ => ioe_prep_write(raw, fd, memory, len as usize, offset),
                }
            }
        };
        let choose = |state: &mut State, slot: usize| {
            let (fd, offset) = (Self::any_fd(state, 0), Self::any_offset(state));
            let len = state.input.number();
            let null = state.input.one_in(32);
            let len = if honest { len % (MAX_LEN as u64 + 1) } else { len };
            let event = &mut state.events[slot];
            let valid = in_range(offset, Some(len)) && !null;
            if honest && valid {
                Self::give_memory(event, action, fd, offset, len as usize);
            }
            let memory = if null { ptr::null_mut() } else { event.memory.as_mut_ptr().cast() };
            (Asked { action: None, fd, memory, len, offset }, valid)
        };
        let name = if action == IOAction::Read { "ioe_prep_read" } else { "ioe_prep_write" };
        self.prep(name, action, honest, choose, call);
    }

    pub(super) fn prep_vectored(&self) {
        let kind = self.state().input.byte();
        let action = if kind & 1 == 0 { IOAction::Read } else { IOAction::Write };
        let honest = kind & 0xf0 != 0xf0;
        let mut segments: Vec<libc::iovec> = Vec::new();
        let mut count = 0;
        let list = std::cell::RefCell::new((&mut segments, &mut count));
        let choose = |state: &mut State, slot: usize| {
            let mut list = list.borrow_mut();
            let (fd, offset) = (Self::any_fd(state, 0), Self::any_offset(state));
            let parts = match state.input.byte() {
                few @ 0..200 => usize::from(few) % 6,
                many => usize::from(many) * 5,
            };
            let lens: Vec<u64> = (0..parts)
                .map(|_| match honest {
                    true if parts > 6 => u64::from(state.input.byte() & 3),
                    true => state.input.number() % (MAX_LEN as u64 / 6),
                    false => state.input.number(),
                })
                .collect();
            let len = { lens.iter() }.try_fold(0u64, |sum, len| sum.checked_add(*len));
            let (no_list, no_base) = (state.input.one_in(32), state.input.one_in(32));
            // Refused ones may say anything, and the list need not be there.
            let odd_count = state.input.one_in(32).then(|| state.input.number() as i32);
            let odd_count = odd_count.filter(|count| !(1..=1024).contains(count));
            let count = odd_count.unwrap_or(parts as i32);
            let lacks_base = no_base && lens.first().is_some_and(|len| *len > 0);
            let known = !no_list && !lacks_base && (1..=1024).contains(&count);
            let valid = known && in_range(offset, len);
            let event = &mut state.events[slot];
            let bytes = len.filter(|_| honest && valid).unwrap_or(0);
            if honest && valid {
                Self::give_memory(event, action, fd, offset, bytes as usize);
            }
            let mut at = if honest { event.memory.as_mut_ptr() } else { ptr::dangling_mut() };
            for (number, len) in lens.iter().enumerate() {
                // Where there is nothing to move there need not be memory.
                let empty = *len == 0 && number > 0 && bytes > 0;
                let null = empty || lacks_base && number == 0;
                let base = if null { ptr::null_mut() } else { at };
                list.0.push(libc::iovec { iov_base: base.cast(), iov_len: *len as usize });
                if honest && valid {
                    at = at.wrapping_add(*len as usize);
                }
            }
            *list.1 = count;
            if no_list {
                list.0.clear();
            }
            let memory = list.0.first().map_or(ptr::null_mut(), |part| part.iov_base);
            (Asked { action: None, fd, memory, len: len.unwrap_or(0), offset }, valid)
        };
        let call = |raw, asked: &Asked| {
            let list = list.borrow();
            let (segments, count) = (&list.0, *list.1);
            let at = if segments.is_empty() { ptr::null() } else { segments.as_ptr() };
            // SAFETY: an event or NULL; as many segments, or a count that is refused; memory as above.
            unsafe {
                match action {
                    IOAction::Read => ioe_prep_readv(raw, asked.fd, at, count, asked.offset),
                    _ => ioe_prep_writev(raw, asked.fd, at, count, asked.offset),
                }
            }
        };
        let name = if action == IOAction::Read { "ioe_prep_readv" } else { "ioe_prep_writev" };
        self.prep(name, action, honest, choose, call);
    }

    pub(super) fn prep_sync(&self) {
        let data = self.state().input.byte() & 1 == 0;
        let action = if data { IOAction::Fdatasync } else { IOAction::Fsync };
        let choose = |state: &mut State, _| (Asked { fd: Self::any_fd(state, 0), ..NOTHING }, true);
        let call = |raw, asked: &Asked| {
            // SAFETY: an event or NULL.
            unsafe {
                match data {
                    true => ioe_prep_fdatasync(raw, asked.fd),
                    false => ioe_prep_fsync(raw, asked.fd),
                }
            }
        };
        let name = if data { "ioe_prep_fdatasync" } else { "ioe_prep_fsync" };
        self.prep(name, action, true, choose, call);
    }

    pub(super) fn prep_fallocate(&self) {
        let mode = self.state().input.number() as i32;
        let call = |raw, asked: &Asked| {
            // SAFETY: an event or NULL.
            unsafe { ioe_prep_fallocate(raw, asked.fd, mode, asked.offset, asked.len) }
        };
        let action = IOAction::Fallocate(mode);
        self.prep("ioe_prep_fallocate", action, true, Self::any_range, call);
    }

    pub(super) fn prep_sync_range(&self) {
        let flags = self.state().input.number() as u32;
        let call = |raw, asked: &Asked| {
            // SAFETY: an event or NULL.
            unsafe { ioe_prep_sync_range(raw, asked.fd, asked.offset, asked.len, flags) }
        };
        let action = IOAction::SyncRange(flags);
        self.prep("ioe_prep_sync_range", action, true, Self::any_range, call);
    }

    pub(super) fn prep_truncate(&self) {
        let choose = |state: &mut State, slot: usize| {
            let (fd, len) = (Self::any_fd(state, slot as u32), state.input.number());
            (Asked { fd, len, ..NOTHING }, in_range(0, Some(len)))
        };
        // SAFETY: an event or NULL.
        let call = |raw, asked: &Asked| unsafe { ioe_prep_truncate(raw, asked.fd, asked.len) };
        self.prep("ioe_prep_truncate", IOAction::Truncate, true, choose, call);
    }

    pub(super) fn prep_advise(&self) {
        let advice = self.state().input.number() as i32;
        let call = |raw, asked: &Asked| {
            // SAFETY: an event or NULL.
            unsafe { ioe_prep_advise(raw, asked.fd, asked.offset, asked.len, advice) }
        };
        let action = IOAction::Advise(advice);
        self.prep("ioe_prep_advise", action, true, Self::any_range, call);
    }

    /// The checks and the model around a call that sets something.
    fn set(
        &self,
        name: &str,
        call: impl FnOnce(*mut ioe_event, &mut State) -> (c_int, bool, Box<dyn FnOnce(&mut Event)>),
        slot: usize,
        needs_prep: bool,
    ) {
        let mut state = self.state();
        let event = &state.events[slot];
        if !self.may_touch(event) {
            return;
        }
        let (raw, flies) = (event.raw, event.flies());
        let lacks = raw.is_null() || needs_prep && event.asked.action.is_none();
        let (answer, valid, keep) = call(raw, &mut state);
        let causes: Vec<i32> =
            cause(EINVAL, lacks || !valid).into_iter().chain(cause(EBUSY, flies)).collect();
        check(name, answer.into(), &causes);
        if answer == 0 {
            keep(&mut state.events[slot]);
        }
        drop(state);
        self.look_at(slot);
    }

    pub(super) fn set_callback(&self) {
        let slot = self.state().any_event();
        let call = |raw, state: &mut State| {
            let number = state.input.below(9);
            let function: ioe_callback = match number {
                8 => None,
                _ if number % 2 == 0 => Some(first_callback),
                _ => Some(second_callback),
            };
            let number = number % 2;
            let arg = (&raw const state.events[slot].tags[number]).cast_mut().cast();
            // SAFETY: an event or NULL.
            let answer = unsafe { ioe_event_set_callback(raw, function, arg) };
            let keep = move |event: &mut Event| event.callback = Some(number);
            (answer, function.is_some(), Box::new(keep) as Box<_>)
        };
        self.set("ioe_event_set_callback", call, slot, false);
    }

    pub(super) fn set_flags(&self) {
        let slot = self.state().any_event();
        let call = |raw, state: &mut State| {
            let flags = match state.input.byte() {
                bit @ 0..128 => 1 << (bit % 32),
                few @ 128..160 => u32::from(few) & 0x1b,
                160..192 => flags::BARRIER,
                _ => state.input.number() as u32,
            };
            let of_writes = flags::DSYNC | flags::APPEND | flags::ATOMIC;
            let of_all = flags::HIPRI | flags::NOWAIT | flags::DONTCACHE;
            let known = match state.events[slot].asked.action {
                Some(IOAction::Read) => of_all,
                Some(IOAction::Write) => of_all | of_writes,
                Some(IOAction::Fsync | IOAction::Fdatasync) => flags::BARRIER,
                _ => 0,
            };
            // SAFETY: an event or NULL.
            let answer = unsafe { ioe_event_set_flags(raw, flags) };
            let keep = move |event: &mut Event| event.flags = flags;
            (answer, flags & !known == 0, Box::new(keep) as Box<_>)
        };
        self.set("ioe_event_set_flags", call, slot, true);
    }

    pub(super) fn set_priority(&self) {
        let slot = self.state().any_event();
        let call = |raw, state: &mut State| {
            let priority = match state.input.byte() {
                known @ 0..128 => PRIORITY_NAMES[usize::from(known) % PRIORITY_NAMES.len()],
                _ => state.input.number() as i32,
            };
            let (class, level) = (priority >> 13, priority & 0x1fff);
            let known = priority == 0 || (1..=3).contains(&class) && level < 8;
            let transfer = state.events[slot].asked.action.is_some_and(IOAction::is_transfer);
            // SAFETY: an event or NULL.
            let answer = unsafe { ioe_event_set_priority(raw, priority) };
            let keep = move |event: &mut Event| event.priority = priority as u16;
            (answer, known && transfer, Box::new(keep) as Box<_>)
        };
        self.set("ioe_event_set_priority", call, slot, true);
    }

    pub(super) fn set_timeout(&self) {
        let slot = self.state().any_event();
        let call = |raw, state: &mut State| {
            let ns = match state.input.byte() {
                short @ 0..128 => i64::from(short) * 1000,
                _ => state.input.number() as i64,
            };
            // SAFETY: an event or NULL.
            let answer = unsafe { ioe_event_set_timeout(raw, ns) };
            let limit = u64::try_from(ns).ok().filter(|ns| *ns > 0).map(Duration::from_nanos);
            let keep = move |event: &mut Event| event.limit = limit;
            (answer, ns >= 0, Box::new(keep) as Box<_>)
        };
        self.set("ioe_event_set_timeout", call, slot, true);
    }

    pub(super) fn getters(&self) {
        let slot = self.state().any_event();
        self.look_at(slot);
    }

    /// Compares what the getters say with the model.
    fn look_at(&self, slot: usize) {
        let state = self.state();
        let event = &state.events[slot];
        let raw = event.raw;
        let Asked { action, fd, memory, len, offset } = event.asked;
        let kind = match action {
            None => ioe_action::IOE_NONE,
            Some(IOAction::Read) => ioe_action::IOE_READ,
            Some(IOAction::Write) => ioe_action::IOE_WRITE,
            Some(IOAction::Fsync) => ioe_action::IOE_FSYNC,
            Some(IOAction::Fdatasync) => ioe_action::IOE_FDATASYNC,
            Some(IOAction::Fallocate(_)) => ioe_action::IOE_FALLOCATE,
            Some(IOAction::SyncRange(_)) => ioe_action::IOE_SYNC_RANGE,
            Some(IOAction::Truncate) => ioe_action::IOE_TRUNCATE,
            Some(IOAction::Advise(_)) => ioe_action::IOE_ADVISE,
        };
        let arg = event.callback.map_or(ptr::null(), |number| &raw const event.tags[number]);
        // SAFETY: NULL, or an event that lives; getters may always be called.
        unsafe {
            assert_eq!(ioe_event_action(raw), kind as c_int, "action of event {slot}");
            assert_eq!(ioe_event_fd(raw), fd);
            assert_eq!(ioe_event_buffer(raw), memory);
            assert_eq!(ioe_event_size(raw) as u64, len);
            assert_eq!(ioe_event_offset(raw), offset);
            assert_eq!(ioe_event_arg(raw), arg.cast_mut().cast());
            assert_eq!(ioe_event_id(raw) == 0, raw.is_null());
            let (result, transferred) = (ioe_event_result(raw), ioe_event_transferred(raw));
            let done = ioe_event_is_done(raw);
            if raw.is_null() {
                assert_eq!((result, transferred, done), (-i64::from(EINVAL), 0, false));
            } else if event.flies() {
                assert!(transferred <= len, "more than was asked for");
                assert!(self.threads || done == (result != PENDING));
            } else {
                assert_eq!((result, transferred), (event.result, event.transferred));
                assert_eq!(done, result != PENDING);
            }
        }
    }

    /// Why a context would not take an event now.
    fn refusals(&self, state: &State, context: usize) -> Vec<i32> {
        let context = &state.contexts[context];
        let full = context.polled && !in_callback() && context.is_full();
        cause(EINVAL, context.raw.is_null())
            .into_iter()
            .chain(cause(EPERM, context.is_anothers()))
            .chain(cause(ESHUTDOWN, context.closing && !self.threads))
            .chain(cause(EAGAIN, full))
            .collect()
    }

    pub(super) fn submit(&self) {
        let mut state = self.state();
        let (slot, context) = (state.any_event(), state.any_context());
        let waits = state.input.byte() & 1 == 0 && !IN_LOG.get();
        let event = &state.events[slot];
        if !self.may_touch(event) || !event.is_safe() {
            return;
        }
        let mut causes: Vec<i32> = event.unfit(true).collect();
        causes.extend(self.refusals(&state, context));
        if causes.is_empty() {
            state.set_off(slot, context, !in_callback(), false);
        }
        let raw = state.events[slot].raw;
        let Context { raw: handle, polled, closing, .. } = state.contexts[context];
        // It does not wait for a callback.
        let held = (in_callback() || !causes.is_empty()).then_some(state);
        let (name, answer) = match waits {
            // SAFETY: a context or NULL, an event or NULL; its memory lives.
            true => ("ioe_submit", unsafe { ioe_submit(handle, raw) }),
            // SAFETY: as above.
            false => ("ioe_try_submit", unsafe { ioe_try_submit(handle, raw) }),
        };
        drop(held);
        let full = answer == -EAGAIN && !polled && !waits && !in_callback();
        // That it is being freed was known a moment ago.
        let closed = answer == -ESHUTDOWN && closing && self.threads;
        if causes.is_empty() && (full || closed) {
            return self.state().bring_back(slot);
        }
        check(name, answer.into(), &causes);
    }

    pub(super) fn submit_batch(&self) {
        let mut state = self.state();
        let context = state.any_context();
        let count = state.input.below(EVENTS + 4);
        let no_list = state.input.one_in(16);
        let slots: Vec<usize> = (0..count).map(|_| state.input.below(EVENTS)).collect();
        let mut taken = Vec::new();
        let mut causes = Vec::new();
        let handle = state.contexts[context].raw;
        let mut list = Vec::new();
        for slot in slots {
            let event = &state.events[slot];
            if !self.may_touch(event) || !event.is_safe() {
                continue;
            }
            list.push(event.raw);
            if causes.is_empty() && !no_list {
                causes = event.unfit(true).collect();
                causes.extend(self.refusals(&state, context));
                if causes.is_empty() {
                    state.set_off(slot, context, !in_callback(), false);
                    taken.push(slot);
                }
            }
        }
        if self.threads && !in_callback() {
            // The others may be freed while it waits.
            list.truncate(taken.len());
        }
        let closing = state.contexts[context].closing;
        let held = in_callback().then_some(state);
        let at = if no_list { ptr::null() } else { list.as_ptr() };
        // SAFETY: a context or NULL; a list of that length or NULL, of events or NULL.
        let answer = unsafe { ioe_submit_batch(handle, at, list.len()) };
        drop(held);
        if no_list || handle.is_null() {
            return check("ioe_submit_batch", answer.into(), &[EINVAL]);
        }
        if self.threads && closing && answer == -ESHUTDOWN {
            let mut state = self.state();
            return taken.into_iter().for_each(|slot| state.bring_back(slot));
        }
        match taken.len() {
            0 if !list.is_empty() => check("ioe_submit_batch", answer.into(), &causes),
            count => assert_eq!(answer, count as c_int, "so many of a batch"),
        }
    }

    pub(super) fn submit_wait(&self) {
        let mut state = self.state();
        let (slot, context) = (state.any_event(), state.any_context());
        let event = &state.events[slot];
        if !self.may_touch(event) || !event.is_safe() {
            return;
        }
        if self.threads && in_callback() && !in_callback_of(context) {
            // Two callbacks might wait for each other's threads.
            return;
        }
        let (closing, handle) = (state.contexts[context].closing, state.contexts[context].raw);
        let causes: Vec<i32> = { event.unfit(false) }
            .chain(cause(EINVAL, handle.is_null()))
            .chain(cause(EPERM, state.contexts[context].is_anothers()))
            .chain(cause(ESHUTDOWN, closing))
            .chain(cause(EDEADLK, !handle.is_null() && in_callback_of(context)))
            .collect();
        if causes.is_empty() {
            state.set_off(slot, context, false, true);
        }
        let raw = state.events[slot].raw;
        let held = (!causes.is_empty()).then_some(state);
        // SAFETY: a context or NULL, an event or NULL; its memory lives.
        let answer = unsafe { ioe_submit_wait(handle, raw) };
        drop(held);
        if !causes.is_empty() {
            return check("ioe_submit_wait", answer, &causes);
        }
        let mut state = self.state();
        state.completed(slot);
        assert_eq!(answer, state.events[slot].result, "the result of event {slot}");
    }

    pub(super) fn submit_wait_batch(&self) {
        let mut state = self.state();
        let context = state.any_context();
        let count = state.input.below(EVENTS + 4);
        let no_list = state.input.one_in(16);
        let slots: Vec<usize> = (0..count).map(|_| state.input.below(EVENTS)).collect();
        if self.threads && in_callback() && !in_callback_of(context) {
            // Two callbacks might wait for each other's threads.
            return;
        }
        let (closing, handle) = (state.contexts[context].closing, state.contexts[context].raw);
        let refusals: Vec<i32> = { cause(EINVAL, no_list || handle.is_null()).into_iter() }
            .chain(cause(EPERM, state.contexts[context].is_anothers()))
            .chain(cause(ESHUTDOWN, closing))
            .chain(cause(EDEADLK, !handle.is_null() && in_callback_of(context)))
            .collect();
        let mut list = Vec::new();
        let mut taken = Vec::new();
        let mut causes = Vec::new();
        for slot in slots {
            let event = &state.events[slot];
            if !self.may_touch(event) || !event.is_safe() {
                continue;
            }
            list.push(event.raw);
            if causes.is_empty() {
                causes = event.unfit(false).chain(refusals.iter().copied()).collect();
            }
            if causes.is_empty() {
                state.set_off(slot, context, false, true);
                taken.push(slot);
            }
        }
        if self.threads && !taken.is_empty() {
            // The others may be freed while it waits.
            list.truncate(taken.len());
        }
        let held = taken.is_empty().then_some(state);
        let at = if no_list { ptr::null() } else { list.as_ptr() };
        // SAFETY: a context or NULL; a list of that length or NULL, of events or NULL; their memory lives.
        let answer = unsafe { ioe_submit_wait_batch(handle, at, list.len()) };
        drop(held);
        if no_list || handle.is_null() {
            return check("ioe_submit_wait_batch", answer.into(), &[EINVAL]);
        }
        if taken.is_empty() && !list.is_empty() {
            return check("ioe_submit_wait_batch", answer.into(), &causes);
        }
        assert_eq!(answer, taken.len() as c_int, "so many of a batch");
        let mut state = self.state();
        taken.into_iter().for_each(|slot| state.completed(slot));
    }

    pub(super) fn cancel(&self) {
        let mut state = self.state();
        let (slot, context) = (state.any_event(), state.any_context());
        let kind = state.input.byte();
        let event = &state.events[slot];
        let id = match kind {
            0..192 => event.id,
            192..224 => state.last_id,
            _ => state.input.number(),
        };
        let handle = state.contexts[context].raw;
        let known = |event: &Event| event.flies() && event.id == id && event.context == context;
        let found = state.events.iter().position(known).filter(|_| !handle.is_null());
        let sure = found.is_some_and(|slot| !self.threads && !state.events[slot].waited_for);
        if let Some(slot) = found {
            with_world(|world| {
                let flight = world.flights.get_mut(&(slot as u32)).expect("a flight");
                flight.cancelled = true;
            });
        }
        // SAFETY: a context or NULL.
        let answer = unsafe { ioe_cancel(handle, id) };
        let causes: Vec<i32> = match found {
            Some(_) if sure || answer == 0 => vec![],
            _ => cause(EINVAL, handle.is_null()).or(Some(ENOENT)).into_iter().collect(),
        };
        check("ioe_cancel", answer.into(), &causes);
    }

    /// Events of a context in flight that were among the first `submissions`, but for those that somebody
    /// waits for.
    pub(super) fn flying(state: &State, context: usize, submissions: u64) -> usize {
        let flies =
            |event: &&Event| event.flies() && !event.waited_for && event.submission <= submissions;
        state.events.iter().filter(flies).filter(|event| event.context == context).count()
    }
}

const _: () = assert!(EVENTS < 1 << 10 && CONTEXTS < 8);
