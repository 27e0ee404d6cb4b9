//! Histories against a model: the whole engine but the kernel, driven from a printed seed. After
//! every callback and at the end, files, results and counts are what the model says.
//!
//! `SEED` and `OPS` in the environment choose the first history and how many kernel operations to
//! run at least; see `make sim`.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::clock;
use crate::context::{Config, Shards};
use crate::driver::aio::Aio;
use crate::driver::backed::Backed;
use crate::driver::sim::{
    descriptor, set_meanwhile, with_world, File, Flight, Sim, SimAio, Sync, Trouble, BLOCK,
    MAX_REACTORS,
};
use crate::merger::Merger;
use crate::tasks::{flags, IOAction, IOCallback, IOEvent};
use crate::thread::set_number;

const DEFAULT_OPS: u64 = 1_000_000;
const STEPS_PER_HISTORY: u32 = 150;
/// More than are made in one step.
const MAX_MEMBERS: u32 = 8;
const REGION: usize = 2048;
const REGIONS: usize = 12;

/// What the test remembers of an event, from its first submission to its last callback.
struct Expected {
    action: IOAction,
    file: usize,
    /// Nobody else touches these meanwhile.
    regions: Range<usize>,
    offset: u64,
    len: usize,
    memory: Memory,
    /// The bytes of a write.
    pattern: Vec<u8>,
    size_before: usize,
    /// Bytes that got through before the last submission; others may have changed them since.
    moved_before: usize,
    submissions: u32,
    callbacks: u32,
    /// The engine's name for it, in its present life.
    name: u64,
    flags: u32,
    priority: u16,
    limit: Option<Duration>,
    accepted: u64,
    /// For a barrier: the writes before it, with the number of the submission.
    behind: Vec<(u32, u32)>,
}

impl Expected {
    /// It was submitted, and its callback has not begun.
    fn flies(&self) -> bool {
        self.submissions > self.callbacks
    }
}

/// A part of a buffer that several events may share.
#[derive(Clone)]
struct Memory {
    buffer: Rc<Buffer>,
    first: usize,
    len: usize,
}

impl Memory {
    fn at(&self) -> *mut u8 {
        self.buffer.as_ptr().wrapping_add(self.first)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: inside the buffer, which lives, and no other event's part.
        unsafe { std::slice::from_raw_parts_mut(self.at(), self.len) }
    }
}

/// What a callback does with its event.
#[derive(Clone, Copy)]
enum Next {
    Free,
    Keep,
    Resubmit,
}

#[derive(Default)]
struct Model {
    files: Vec<Vec<u8>>,
    busy: HashMap<(usize, usize), u32>,
    events: HashMap<u32, Expected>,
    kept: VecDeque<(u32, IOEvent<Check>)>,
    mergers: Vec<(usize, IOAction, Rc<Merger<Check>>)>,
    context: Option<Arc<Shards<Check>>>,
    callbacks: u64,
    failed: Option<u32>,
    closed: bool,
    /// Submitted, and somebody waits for them instead of callbacks.
    waited_for: Vec<u32>,
    /// Names of lives that are over.
    old_names: Vec<u64>,
    /// How writes ended, by event and submission: their results, and when the kernel was done.
    writes: HashMap<(u32, u32), (i64, u64)>,
    /// Syncs that a kernel's sync answered.
    synced: u64,
}

thread_local! {
    static MODEL: RefCell<Model> = RefCell::default();
}

/// The callback under test: it knows which event it belongs to.
#[derive(Clone, Copy)]
struct Check(u32);

/// Marks the history as failed when a callback panics.
struct Fails(u32);

impl Drop for Fails {
    fn drop(&mut self) {
        if std::thread::panicking() {
            MODEL.with_borrow_mut(|model| model.failed = Some(self.0));
        }
    }
}

impl IOCallback for Check {
    fn call(self, event: IOEvent<Self>) {
        // The engine catches what panics in a callback, so the history is told.
        let _told = Fails(self.0);
        let next = MODEL.with_borrow_mut(|model| model.completed(self.0, &event));
        match next {
            Next::Free => {
                MODEL.with_borrow_mut(|model| model.events.remove(&self.0));
            }
            Next::Keep => MODEL.with_borrow_mut(|model| model.kept.push_back((self.0, event))),
            Next::Resubmit => resubmit(self.0, event),
        }
    }
}

impl Model {
    /// Compares a completed event with what may have happened to it.
    fn completed(&mut self, id: u32, event: &IOEvent<Check>) -> Next {
        self.callbacks += 1;
        let expected = self.events.get_mut(&id).expect("a callback of a known event");
        expected.callbacks += 1;
        assert_eq!(expected.callbacks, expected.submissions, "event {id}: one callback each");
        let flight = with_world(|world| world.flights.remove(&id)).expect("it was in flight");
        let Flight { moved, ended, .. } = flight;
        assert_ne!(event.id(), expected.name, "event {id}: a new life");
        self.old_names.push(expected.name);
        let result = event.result();
        let fatal = flight.check(id, expected.action, result, event.transferred());
        if expected.action == IOAction::Write {
            self.writes.insert((id, expected.submissions), (result, ended));
        }
        if expected.action.is_sync() && fatal.is_none() {
            let before = expected.behind.iter().filter_map(|write| self.writes.get(write).copied());
            let all_done = before.clone().count() == expected.behind.len();
            let failed = before.clone().find(|(result, _)| *result < 0);
            let wanted = before.clone().map(|(_, ended)| ended).max().unwrap_or(0);
            let wanted = wanted.max(expected.accepted);
            let expected = &*expected;
            let syncs = with_world(|world| std::mem::take(&mut world.syncs));
            let own = |sync: &&Sync| sync.file == expected.file;
            let answered = syncs.iter().filter(own).any(|sync| {
                let enough = sync.fsync || expected.action == IOAction::Fdatasync;
                // Nobody is told success after an error that he was to hear of.
                let unheard = syncs.iter().filter(own).any(|other| {
                    let before = other.ended > expected.accepted && other.ended < sync.started;
                    before && other.result < 0
                });
                let heard = !unheard || result < 0 || !with_world(|world| world.groups);
                enough && sync.started > wanted && sync.result == result && heard
            });
            // A failed one is told to all that wait behind it.
            let told = syncs
                .iter()
                .filter(own)
                .any(|sync| result < 0 && sync.ended > expected.accepted && sync.result == result);
            with_world(|world| world.syncs = syncs);
            assert!(all_done || told, "event {id}: a barrier before its writes");
            match failed {
                Some(_) => assert!(
                    told || before.clone().any(|(other, _)| other == result),
                    "event {id}: a barrier behind a failed write: {result}"
                ),
                None => {
                    assert!(answered || told, "event {id}: no sync since {wanted} says {result}");
                    self.synced += 1;
                }
            }
        }
        let start = expected.offset as usize;
        let moved = moved as usize;
        let new = expected.moved_before..moved;
        let place = start + new.start..start + moved;
        let model = &mut self.files[expected.file];
        let whole = fatal.is_none() && moved == expected.len;
        if !new.is_empty() {
            // A read may find a hole that a write behind it has made, and not yet completed.
            model.resize(model.len().max(place.end), 0);
        }
        with_world(|world| {
            let data = &world.files[expected.file].data;
            match expected.action {
                IOAction::Write => {
                    if !new.is_empty() {
                        model[place].copy_from_slice(&expected.pattern[new]);
                    }
                    assert!(fatal.is_some() || whole, "event {id}: a write is whole or an error");
                }
                IOAction::Read => {
                    let end = start + moved;
                    let read = &expected.memory.bytes()[new];
                    assert!(read == model.get(place).unwrap_or_default(), "event {id}: read");
                    let ended = end >= expected.size_before || start >= expected.size_before;
                    assert!(fatal.is_some() || whole || ended, "event {id}: short before the end");
                }
                IOAction::Fallocate(_) if fatal.is_none() => {
                    model.resize(model.len().max(start + expected.len), 0);
                }
                IOAction::Truncate if fatal.is_none() => model.resize(expected.len, 0),
                _ => {}
            }
            // Others may have extended the file, but nobody touched these regions.
            let end = (start + expected.len).min(model.len()).min(data.len());
            assert!(start >= end || data[start..end] == model[start..end], "event {id}: file");
        });
        let incomplete = expected.action.is_transfer() && !whole;
        self.gives_back(id);
        with_world(|world| match world.random.u8(..4) {
            0 => Next::Keep,
            1 if incomplete => Next::Resubmit,
            _ => Next::Free,
        })
    }

    /// How many events are in flight in these regions.
    fn users(&self, file: usize, regions: &Range<usize>) -> u32 {
        regions.clone().filter_map(|region| self.busy.get(&(file, region))).sum()
    }

    /// An event has its regions.
    fn takes(&mut self, id: u32) {
        let Expected { file, regions, .. } = &self.events[&id];
        for region in regions.clone() {
            *self.busy.entry((*file, region)).or_default() += 1;
        }
    }

    fn gives_back(&mut self, id: u32) {
        let Expected { file, regions, .. } = &self.events[&id];
        for region in regions.clone() {
            *self.busy.get_mut(&(*file, region)).expect("it was taken") -= 1;
        }
    }
}

/// From here on the thread is any of several, as far as reactors tell them apart.
fn be_any_thread() {
    set_number(with_world(|world| world.random.u32(..MAX_REACTORS as u32)));
}

/// Puts an event of the model in flight: new, or once more where it stopped.
fn set_off(id: u32, event: &IOEvent<Check>) -> Arc<Shards<Check>> {
    MODEL.with_borrow_mut(|model| {
        let moved = event.transferred();
        let behind = match event.is_barrier() {
            false => Vec::new(),
            true => {
                let file = model.events[&id].file;
                let writes = model.events.iter().filter(|(_, other)| {
                    other.flies() && other.file == file && other.action == IOAction::Write
                });
                writes.map(|(id, other)| (*id, other.submissions)).collect()
            }
        };
        let expected = model.events.get_mut(&id).expect("known");
        expected.behind = behind;
        expected.moved_before = moved as usize;
        expected.submissions += 1;
        expected.name = event.id();
        expected.accepted = with_world(|world| world.tick());
        with_world(|world| {
            expected.size_before = world.files[expected.file].data.len();
            let Expected { action, file, offset, len, flags, priority, limit, .. } = *expected;
            let memory = if action.is_transfer() { expected.memory.at() as usize } else { 0 };
            let flight = Flight {
                file,
                offset,
                memory,
                len,
                moved,
                flags,
                priority,
                deadline: limit.map(|limit| clock::now() + limit),
                ..Flight::default()
            };
            assert!(world.flights.insert(id, flight).is_none(), "event {id} is in flight");
        });
        model.takes(id);
        model.context.clone().expect("a context")
    })
}

/// An event was refused, for want of room or because the context is closed: it is gone.
fn refused(id: u32, (event, errno): (IOEvent<Check>, i32)) {
    MODEL.with_borrow_mut(|model| {
        let expected_errno = if model.closed { libc::ESHUTDOWN } else { libc::EAGAIN };
        assert_eq!(errno, expected_errno, "event {id}");
        with_world(|world| world.flights.remove(&id));
        model.gives_back(id);
        model.events.remove(&id);
    });
    drop(event);
}

/// Submits an event, mostly through a merger for its like, where there is one.
fn submit(id: u32, event: IOEvent<Check>) {
    be_any_thread();
    let context = set_off(id, &event);
    let merger = MODEL.with_borrow(|model| {
        let Expected { file, action, .. } = &model.events[&id];
        let fits = |(other, kind, _): &&(usize, IOAction, _)| other == file && kind == action;
        model.mergers.iter().find(fits).map(|(_, _, merger)| merger.clone())
    });
    let submitted = match merger.filter(|_| with_world(|world| world.random.u8(..4) > 0)) {
        Some(merger) => merger.add(event),
        None => context.submit(event, true),
    };
    submitted.unwrap_or_else(|back| refused(id, back));
}

/// Submits an event that the reactor does, and waits for it instead of a callback.
fn submit_wait(id: u32, mut event: IOEvent<Check>) {
    if !event.is_barrier() && !event.is_timed() && event.priority() == 0 {
        return submit(id, event);
    }
    be_any_thread();
    let context = set_off(id, &event);
    MODEL.with_borrow_mut(|model| model.waited_for.push(id));
    context.submit_wait(&mut event).expect("it is accepted");
    MODEL.with_borrow_mut(|model| {
        model.waited_for.clear();
        model.callbacks += 1;
        model.completed(id, &event);
        model.callbacks -= 1;
        model.events.remove(&id);
    });
}

/// Makes events in several regions, a barrier among them now and then, submits them as one batch and waits
/// for all instead of callbacks.
fn submit_wait_batch(first_ids: impl Iterator<Item = u32>) {
    be_any_thread();
    let mut ids = Vec::new();
    let mut batch = Vec::new();
    for first in first_ids {
        for (id, event) in new_events(first) {
            set_off(id, &event);
            ids.push(id);
            batch.push(event.into_raw());
        }
    }
    let context = MODEL.with_borrow_mut(|model| {
        model.waited_for.clone_from(&ids);
        model.context.clone().expect("a context")
    });
    if batch.len() == 1 {
        // It would be done on this thread, by the real kernel.
        batch.push(std::ptr::null_mut());
    }
    // SAFETY: as many, all of `into_raw` or NULL.
    let accepted = unsafe { context.submit_wait_batch(batch.as_ptr(), batch.len()) };
    assert_eq!(accepted, Ok(ids.len()), "so many were accepted");
    MODEL.with_borrow_mut(|model| {
        model.waited_for.clear();
        for (id, raw) in ids.into_iter().zip(batch.into_iter().filter_map(NonNull::new)) {
            // SAFETY: it came from `into_raw`, and is done.
            model.completed(id, &unsafe { IOEvent::from_raw(raw) });
            model.events.remove(&id);
        }
    });
}

/// Asks for an event back that is in flight, or for one that was.
fn cancel_any() {
    let Some(context) = MODEL.with_borrow(|model| model.context.clone()) else { return };
    let any = |limit: usize| with_world(|world| world.random.usize(..limit));
    MODEL.with_borrow(|model| {
        let mut ids: Vec<u32> = flying(model).into_iter().map(|(id, _)| id).collect();
        // A hash map has no order of its own to replay.
        ids.sort_unstable();
        if any(4) == 0 && !model.old_names.is_empty() {
            let old = model.old_names[any(model.old_names.len())];
            assert_eq!(context.cancel(old), Err(libc::ENOENT), "what is over");
        } else if !ids.is_empty() {
            let id = ids[any(ids.len())];
            let found = context.cancel(model.events[&id].name);
            // One that is waited for is told before the model is.
            assert!(found.is_ok() || model.waited_for.contains(&id), "event {id} flies: {found:?}");
            if found.is_ok() {
                with_world(|world| world.flights.get_mut(&id).expect("it flies").cancelled = true);
            }
        }
    });
}

/// Events in flight, with the number of the submission.
fn flying(model: &Model) -> Vec<(u32, u32)> {
    let all = model.events.iter().filter(|(_, event)| event.flies());
    all.map(|(id, event)| (*id, event.submissions)).collect()
}

/// Those that are to end, and that the kernel does not have.
fn ending(model: &Model) -> Vec<(u32, u32)> {
    with_world(|world| {
        let ends = |flight: &Flight| flight.in_kernel == 0 && flight.memory > 0 && flight.ends();
        let all = world.flights.iter().filter(|(_, flight)| world.sees_all && ends(flight));
        all.map(|(id, _)| (*id, model.events[id].submissions)).collect()
    })
}

/// The callbacks of these submissions have begun.
fn assert_returned(submissions: Vec<(u32, u32)>, what: &str) {
    MODEL.with_borrow(|model| {
        for (id, submission) in submissions {
            let stays = |event: &Expected| event.callbacks < submission;
            assert!(!model.events.get(&id).is_some_and(stays), "event {id} was {what}, and stays");
        }
    });
}

/// Polls one reactor, or all in any order.
fn poll_some(context: &Shards<Check>, mut order: Vec<usize>) {
    let ending = MODEL.with_borrow(ending);
    let all = with_world(|world| {
        world.random.shuffle(&mut order);
        let all = world.random.bool();
        order.truncate(if all { order.len() } else { 1 });
        all
    });
    for number in order {
        let reactor = context.reactor(number);
        let min = with_world(|world| world.random.u32(..4));
        let before = reactor.stats().in_flight;
        let ran = reactor.poll(min, None).expect("a poll by the owner");
        assert!(u64::from(ran) >= before.min(min.into()), "a poll that came back early");
    }
    if all {
        assert_returned(ending, "to end");
    }
}

/// Submits events as one batch.
fn submit_batch(events: Vec<(u32, IOEvent<Check>)>) {
    let context = MODEL.with_borrow(|model| model.context.clone()).expect("a context");
    be_any_thread();
    let mut batch = context.batch();
    for (id, event) in events {
        set_off(id, &event);
        batch.add(event).unwrap_or_else(|back| refused(id, back));
    }
}

/// Lets an incomplete event go on, unless its region is somebody else's by now.
fn resubmit(id: u32, mut event: IOEvent<Check>) {
    let goes = MODEL.with_borrow(|model| {
        let expected = &model.events[&id];
        let users = model.users(expected.file, &expected.regions);
        let whole = event.result() == expected.len as i64;
        // Off its boundary a direct file refuses to go on.
        let aligned = event.transferred() % 512 == 0;
        users == 0 && !whole && expected.action.is_transfer() && aligned
    });
    if goes {
        event.set_callback(Check(id));
        submit(id, event);
    } else {
        MODEL.with_borrow_mut(|model| model.events.remove(&id));
    }
}

/// Makes random events in a region that nobody uses, if there is one: neighbours, in any order.
fn new_events(first_id: u32) -> Vec<(u32, IOEvent<Check>)> {
    let any = |limit: usize| with_world(|world| world.random.usize(..limit));
    let file = any(with_world(|world| world.files.len()));
    let region = any(REGIONS);
    let kind = any(13);
    let action = match kind {
        0 => IOAction::Fsync,
        1 => IOAction::Fdatasync,
        2 => IOAction::Fallocate(0),
        3 => IOAction::SyncRange(0),
        4 => IOAction::Truncate,
        5 => IOAction::Advise(0),
        6..=8 => IOAction::Write,
        _ => IOAction::Read,
    };
    let truncates = action == IOAction::Truncate;
    let regions = if truncates { 0..REGIONS } else { region..region + 1 };
    if MODEL.with_borrow(|model| model.users(file, &regions)) > 0 {
        return Vec::new();
    }
    let direct = with_world(|world| world.files[file].flags & libc::O_DIRECT != 0);
    // A misaligned one, now and then.
    let unit = if direct && any(8) > 0 { BLOCK as usize } else { 1 };
    let from = any(REGION / unit);
    let units = any(REGION / unit - from + 1);
    let members = if action.is_transfer() { 1 + any(6) } else { 1 };
    let mut cuts: Vec<usize> = (1..members).map(|_| any(units + 1)).collect();
    cuts.extend([0, units]);
    cuts.sort_unstable();
    let mut parts: Vec<(usize, usize)> =
        cuts.windows(2).map(|cut| (cut[0] * unit, (cut[1] - cut[0]) * unit)).collect();
    if action == IOAction::Read && any(4) == 0 {
        // What overlaps stays alone.
        parts.push(parts[any(parts.len())]);
    }
    let room = REGION.next_multiple_of(BLOCK as usize);
    let buffer = Rc::new(Buffer::aligned(room * (parts.len() + 1)).expect("memory"));
    let together = any(2) == 0;
    let mut events: Vec<(u32, IOEvent<Check>)> = Vec::new();
    for (number, (at, len)) in parts.into_iter().enumerate() {
        // One after the other in memory too, or anywhere.
        let tells = len > 0 && number < members;
        let first = if together && tells { at } else { (number + 1) * room };
        let id = first_id + number as u32;
        let offset = (region * REGION + from * unit + at) as u64;
        let (offset, len) = match action {
            IOAction::Fallocate(_) => (offset, len.max(1)),
            IOAction::Truncate => (0, any(REGION * REGIONS)),
            _ => (offset, len),
        };
        let memory = Memory { buffer: buffer.clone(), first, len: len.min(room) };
        let file = (file, regions.clone());
        events.push((id, new_event(id, file, action, offset, len, memory)));
    }
    with_world(|world| world.random.shuffle(&mut events));
    events
}

fn new_event(
    id: u32,
    (file, regions): (usize, Range<usize>),
    action: IOAction,
    offset: u64,
    len: usize,
    mut memory: Memory,
) -> IOEvent<Check> {
    let pattern: Vec<u8> = with_world(|world| (0..len).map(|_| world.random.u8(..)).collect());
    if action == IOAction::Write {
        memory.bytes().copy_from_slice(&pattern);
    }
    let mut event = IOEvent::try_unprepared().expect("memory");
    let of_its_own = if action.is_transfer() || action.is_sync() { 0 } else { id };
    let fd = descriptor(of_its_own, file);
    event.prepare(action, fd, memory.at(), len as u64, offset);
    let (flags, priority, limit) = with_world(|world| {
        let random = &mut world.random;
        let all = [0, flags::DONTCACHE, flags::NOWAIT, flags::DSYNC, flags::ATOMIC, flags::APPEND];
        let kinds = if action == IOAction::Write { 6 } else { 3 };
        let rare = random.u8(..3) == 0;
        let flags = match action {
            IOAction::Read | IOAction::Write if rare => all[random.usize(..kinds)],
            IOAction::Fsync | IOAction::Fdatasync if random.bool() => flags::BARRIER,
            _ => 0,
        };
        let priority = if action.is_transfer() && random.u8(..6) == 0 { 2 << 13 | 4 } else { 0 };
        let limit = (world.ends && world.random.u8(..4) == 0)
            .then(|| Duration::from_micros(world.random.u64(1..3000)));
        (flags, priority, limit)
    });
    event.set_flags(flags).expect("known flags");
    if priority > 0 {
        event.set_priority(priority.into()).expect("a priority");
    }
    event.set_timeout(limit).expect("a time limit");
    let (split, direct) = with_world(|world| {
        (world.random.usize(..5), world.files[file].flags & libc::O_DIRECT != 0)
    });
    if split > 0 && action.is_transfer() && !direct {
        let mut cuts: Vec<usize> =
            with_world(|world| (0..split).map(|_| world.random.usize(..=len)).collect());
        cuts.sort_unstable();
        cuts.push(len);
        let mut at = 0;
        let segments = cuts.into_iter().map(|cut| {
            let base = memory.at().wrapping_add(at).cast();
            let part = libc::iovec { iov_base: base, iov_len: cut - at };
            at = cut;
            part
        });
        event.set_segments(&segments.collect::<Vec<_>>());
    }
    event.set_callback(Check(id));
    let expected = Expected {
        action,
        file,
        regions,
        offset,
        len,
        memory,
        pattern,
        size_before: 0,
        moved_before: 0,
        submissions: 0,
        callbacks: 0,
        name: 0,
        flags: flags & !flags::BARRIER,
        priority,
        limit,
        accepted: 0,
        behind: Vec::new(),
    };
    MODEL.with_borrow_mut(|model| model.events.insert(id, expected));
    event
}

/// Makes a merger, flushes one or ends one.
fn change_mergers(context: &Arc<Shards<Check>>) {
    let any = |limit: usize| with_world(|world| world.random.usize(..limit));
    let mut mergers = MODEL.with_borrow_mut(|model| std::mem::take(&mut model.mergers));
    match (any(4), mergers.len()) {
        (0 | 1, ..4) => {
            be_any_thread();
            let (file, limit) = (any(3), 1 + any(REGION * 2));
            let action = if any(2) == 0 { IOAction::Read } else { IOAction::Write };
            with_world(|world| world.limit = world.limit.max(limit as u64));
            let merger = Merger::new(context, descriptor(0, file), action, limit);
            mergers.push((file, action, Rc::new(merger.expect("a merger"))));
        }
        (2, 1..) => mergers[any(mergers.len())].2.flush().expect("a flush by the owner"),
        (_, 1..) => drop(mergers.swap_remove(any(mergers.len()))),
        _ => {}
    }
    MODEL.with_borrow_mut(|model| model.mergers = mergers);
}

/// One history. Returns how many operations the kernel did, and how many events were merged.
fn run_history(seed: u64) -> (u64, u64) {
    // From here on time passes only where the history has it.
    clock::advance(Duration::ZERO);
    let config = with_world(|world| {
        world.random.seed(seed);
        let random = &mut world.random;
        let mut chance = || if random.bool() { random.u8(..80) } else { 0 };
        world.trouble = Trouble {
            capacity: usize::from(1 + chance() / 8),
            short: chance(),
            fail: chance() / 4,
            again: chance(),
            refuse: chance() / 8,
            delay: chance() * 3,
            lack: chance(),
            reject: chance() / 8,
            breaks: if chance() == 0 { 0 } else { chance() },
        };
        world.operations = 0;
        world.reactors = Default::default();
        world.merged = 0;
        world.flights.clear();
        world.syncs.clear();
        world.syncing.clear();
        world.groups = world.random.u8(..4) > 0;
        world.ends = world.random.bool();
        world.files = (0..3)
            .map(|number| {
                let len = world.random.usize(..REGION * REGIONS);
                let data = (0..len).map(|_| world.random.u8(..)).collect();
                let full = world.random.usize(..REGION * REGIONS).next_multiple_of(512);
                let full = full.max(len.next_multiple_of(512));
                let capacity = if world.random.bool() { full } else { usize::MAX };
                let bad = world.random.bool().then(|| world.random.usize(..REGION * REGIONS));
                let manners = [libc::O_APPEND, libc::O_DSYNC, libc::O_SYNC, 0, 0, 0];
                let flags = manners[world.random.usize(..manners.len())];
                let direct = if number == 2 { libc::O_DIRECT } else { 0 };
                File { data, capacity, bad, flags: flags | direct }
            })
            .collect();
        let limits = [0, 1, REGION as u32 / 8, REGION as u32, REGION as u32 * 4];
        let merge_limit = limits[world.random.usize(..limits.len())];
        world.limit = merge_limit.into();
        Config {
            depth: world.random.u32(1..12),
            queue_size: world.random.u32(1..24),
            merge_limit,
            polled: true,
            sync_groups: world.groups,
            ..Config::default()
        }
    });
    let depth = config.depth;
    let kind = with_world(|world| {
        let kind = world.random.u8(..4);
        world.sees_all = kind < 2;
        kind
    });
    let reactors = 0..with_world(|world| world.random.usize(1..=MAX_REACTORS));
    let context = match kind {
        0 => Shards::over(config, reactors.clone().map(Sim::pool)),
        1 => {
            let ring = |number| Backed::new(Sim::new(number), Sim::pool(number));
            Shards::over(config, reactors.clone().map(ring))
        }
        _ => {
            let aio = |number| Aio::over(SimAio::new(number), depth, -1);
            let both = |number| Backed::new(aio(number), Sim::pool(number));
            Shards::over(config, reactors.clone().map(both))
        }
    };
    MODEL.with_borrow_mut(|model| {
        *model = Model { context: Some(context.clone()), ..Model::default() };
        model.files = with_world(|world| world.files.iter().map(|f| f.data.clone()).collect());
    });
    let any = |limit: u8| with_world(|world| world.random.u8(..limit));
    if with_world(|world| world.ends) {
        set_meanwhile(|| {
            let now = with_world(|world| world.ends && world.random.u8(..16) == 0);
            if now {
                cancel_any();
            }
        });
    }
    for id in 1..=STEPS_PER_HISTORY {
        match any(10) {
            0 => poll_some(&context, reactors.clone().collect()),
            8 if with_world(|world| world.ends) => cancel_any(),
            9 => {
                for (id, event) in new_events(id * MAX_MEMBERS) {
                    submit_wait(id, event);
                }
            }
            1 => {
                let kept = MODEL.with_borrow_mut(|model| model.kept.pop_front());
                if let Some((id, event)) = kept {
                    resubmit(id, event);
                }
            }
            2 if any(8) == 0 => {
                let flying = MODEL.with_borrow(flying);
                context.drain(None).expect("a drain that ends");
                assert_returned(flying, "drained");
            }
            2 => change_mergers(&context),
            3 if any(2) == 0 => {
                let parts = 1 + u32::from(any(3));
                let part = |part| (id + part * STEPS_PER_HISTORY) * MAX_MEMBERS;
                submit_wait_batch((0..parts).map(part));
            }
            3 => submit_batch(new_events(id * MAX_MEMBERS)),
            _ => new_events(id * MAX_MEMBERS).into_iter().for_each(|(id, event)| submit(id, event)),
        }
        MODEL.with_borrow(|model| assert_eq!(model.failed, None, "the event of a failed check"));
        let stats = context.stats();
        assert_eq!(stats.accepted, stats.completed + stats.in_flight, "nothing gets lost");
    }
    // Freeing it waits for nobody's merger: there must be none.
    drop(MODEL.with_borrow_mut(|model| std::mem::take(&mut model.mergers)));
    MODEL.with_borrow_mut(|model| model.closed = true);
    context.shut_down().expect("a shutdown by the owner");
    MODEL.with_borrow(|model| {
        assert_eq!(model.failed, None, "the event of a failed check");
        for (id, expected) in &model.events {
            assert_eq!(expected.callbacks, expected.submissions, "event {id} at the end");
        }
        let stats = context.stats();
        assert_eq!(stats.in_flight, 0);
        assert_eq!(stats.completed, model.callbacks, "one callback for every accepted event");
        with_world(|world| {
            assert!(world.flights.is_empty(), "in flight after shutdown: {:?}", world.flights);
            assert_eq!(stats.operations, world.operations, "every operation is counted");
            // What a broken interface had queued, or what was given back, was merged, but not seen to
            // be.
            let broken = world.reactors.iter().any(|interfaces| interfaces.broken);
            let unseen = broken || world.ends;
            assert!(stats.merged == world.merged || unseen, "every merged event is counted");
            let joined = model.synced.wrapping_sub(world.syncs.len() as u64);
            // Who heard of another one's error was not joined.
            let failed = world.syncs.iter().any(|sync| sync.result < 0);
            let unseen = unseen || failed;
            assert!(stats.syncs_joined == joined || unseen, "every joined sync is counted");
            assert!(stats.syncs_joined == 0 || world.groups, "joined against the program's will");
            for (file, model) in world.files.iter().zip(&model.files) {
                assert!(file.data == *model, "a file differs from its model");
            }
        });
    });
    with_world(|world| world.ends = false);
    MODEL.with_borrow_mut(|model| *model = Model::default());
    with_world(|world| (world.operations, world.merged))
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Says which history failed, whatever made it fail.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: replay with `make sim SEED={} OPS=1`", self.0);
        }
    }
}

#[test]
fn histories_agree_with_the_model() {
    let first = from_environment("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let wanted = from_environment("OPS").unwrap_or(DEFAULT_OPS);
    println!("seed {first}");
    let (mut operations, mut merged) = (0, 0);
    let mut histories = 0;
    while operations < wanted {
        let announce = Announce(first + histories);
        let (more_operations, more_merged) = run_history(announce.0);
        operations += more_operations;
        merged += more_merged;
        histories += 1;
    }
    println!(
        "{operations} operations in {histories} histories from seed {first}, {merged} events merged"
    );
    assert!(merged >= wanted / 100, "too little was merged to tell anything");
}

/// One way to do the transfers of a case.
#[derive(Clone, Copy, Debug)]
enum Window {
    Singles,
    Batch,
    Merger,
}

/// Neighbouring transfers, in the order of their arrival: where from the start of the range, and how
/// much.
#[derive(Debug)]
struct Case {
    action: IOAction,
    flags: i32,
    parts: Vec<(usize, usize)>,
    start: usize,
    file_len: usize,
    bad: Option<usize>,
    capacity: usize,
}

thread_local! {
    static OUTCOMES: RefCell<HashMap<u32, (i64, u64)>> = RefCell::default();
}

/// Notes how an event ended.
struct Note(u32);

impl IOCallback for Note {
    fn call(self, event: IOEvent<Self>) {
        let outcome = (event.result(), event.transferred());
        let before = OUTCOMES.with_borrow_mut(|all| all.insert(self.0, outcome));
        assert_eq!(before, None, "one callback each");
    }
}

impl Case {
    fn random(seed: u64) -> (Case, Config, Window) {
        let mut random = fastrand::Rng::with_seed(seed);
        let direct = random.u8(..3) == 0;
        let unit = if direct { BLOCK as usize } else { 1 };
        let total = 1 + random.usize(..REGION * 2 / unit);
        let mut cuts: Vec<usize> =
            (0..random.usize(..12)).map(|_| random.usize(..=total)).collect();
        cuts.extend([0, total]);
        cuts.sort_unstable();
        let mut parts: Vec<(usize, usize)> =
            cuts.windows(2).map(|cut| (cut[0] * unit, (cut[1] - cut[0]) * unit)).collect();
        match random.u8(..3) {
            0 => random.shuffle(&mut parts),
            1 => parts.reverse(),
            _ => {}
        }
        let start = random.usize(..4) * unit;
        let end = start + total * unit;
        let write = random.bool();
        let case = Case {
            action: if write { IOAction::Write } else { IOAction::Read },
            flags: if direct { libc::O_DIRECT } else { 0 },
            parts,
            start,
            file_len: random.usize(..=end + 1),
            bad: random.bool().then(|| random.usize(start..end)),
            capacity: match random.bool() {
                true => random.usize(..=end).next_multiple_of(unit),
                false => usize::MAX,
            },
        };
        let config = Config {
            depth: random.u32(1..5),
            queue_size: 64,
            merge_limit: random.u32(1..=(total * unit) as u32 + 1),
            polled: true,
            ..Config::default()
        };
        (case, config, [Window::Singles, Window::Batch, Window::Merger][random.usize(..3)])
    }

    /// Does the transfers. How each ended, the memory that was read into, and the file afterwards.
    fn run(&self, config: Config, window: Window) -> (Vec<(i64, u64)>, Vec<u8>, Vec<u8>) {
        let limit = config.merge_limit as usize;
        let end = self.parts.iter().map(|(at, len)| at + len).max().unwrap_or(0);
        let mut buffer = Buffer::aligned(end.max(1)).expect("memory");
        if self.action == IOAction::Write {
            (0..end).for_each(|at| buffer[at] = (at % 251) as u8 + 1);
        }
        with_world(|world| {
            let data = (0..self.file_len).map(|at| (at % 241) as u8 + 1).collect();
            let (bad, capacity, flags) = (self.bad, self.capacity, self.flags);
            world.files = vec![File { data, capacity, bad, flags }];
            world.flights.clear();
            world.limit = limit as u64;
            world.trouble = Trouble { short: 80, delay: 40, ..Trouble::default() };
            world.reactors = Default::default();
            world.sees_all = false;
        });
        OUTCOMES.take();
        let context = Shards::over(config, [Sim::pool(0)]);
        let merger = match window {
            Window::Merger => Merger::new(&context, descriptor(0, 0), self.action, limit).ok(),
            _ => None,
        };
        let mut batch = context.batch();
        for (id, (at, len)) in self.parts.iter().enumerate() {
            let (id, memory, offset) =
                (id as u32, buffer.as_ptr().wrapping_add(*at), self.start + at);
            let mut event = IOEvent::try_unprepared().expect("memory");
            event.prepare(self.action, descriptor(0, 0), memory, *len as u64, offset as u64);
            event.set_callback(Note(id));
            let flight = Flight {
                offset: offset as u64,
                memory: memory as usize,
                len: *len,
                ..Flight::default()
            };
            with_world(|world| world.flights.insert(id, flight));
            let submitted = match (&merger, window) {
                (Some(merger), _) => merger.add(event),
                (_, Window::Batch) => batch.add(event),
                _ => context.submit(event, true),
            };
            assert!(submitted.is_ok(), "there is room");
        }
        drop((batch, merger));
        context.shut_down().expect("a shutdown by the owner");
        let outcomes = OUTCOMES.take();
        let all = (0..self.parts.len() as u32).map(|id| outcomes[&id]).collect();
        for (id, (at, len)) in self.parts.iter().enumerate() {
            // What was not read may hold anything.
            let got = outcomes[&(id as u32)].1 as usize;
            buffer[at + got..at + len].fill(0);
        }
        let file = with_world(|world| std::mem::take(&mut world.files[0].data));
        (all, buffer.to_vec(), file)
    }
}

/// Any split of any range, in any order, with any limit and through any window, the file ending and
/// failing anywhere: merging changes nothing for anybody.
#[test]
fn merging_changes_no_result() {
    let first = from_environment("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut merged = 0;
    for seed in first..first + 3000 {
        let (case, config, window) = Case::random(seed);
        with_world(|world| world.random.seed(seed));
        let merging = case.run(config.clone(), window);
        merged += with_world(|world| std::mem::take(&mut world.merged));
        let alone = case.run(Config { merge_limit: 0, ..config.clone() }, Window::Singles);
        let what = || format!("SEED={seed}: {case:?}, limit {}, {window:?}", config.merge_limit);
        assert!(merging == alone, "{}\n{:?}\n{:?}", what(), merging.0, alone.0);
    }
    assert!(merged > 1000, "too little was merged to tell anything: {merged}");
}
