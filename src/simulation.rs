//! Histories against a model: the whole engine but the kernel, driven from a printed seed. After
//! every callback and at the end, files, results and counts are what the model says.
//!
//! `SEED` and `OPS` in the environment choose the first history and how many kernel operations to
//! run at least; see `make sim`.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::context::{Config, Shared};
use crate::driver::aio::Aio;
use crate::driver::backed::Backed;
use crate::driver::sim::{descriptor, with_world, File, Flight, Sim, SimAio, Trouble};
use crate::tasks::{IOAction, IOCallback, IOEvent};

const DEFAULT_OPS: u64 = 1_000_000;
const EVENTS_PER_HISTORY: u32 = 250;
const REGION: usize = 2048;
const REGIONS: usize = 12;

/// What the test remembers of an event, from its first submission to its last callback.
struct Expected {
    action: IOAction,
    file: usize,
    region: usize,
    offset: u64,
    len: usize,
    buffer: Buffer,
    /// The bytes of a write.
    pattern: Vec<u8>,
    size_before: usize,
    /// Bytes that got through before the last submission; others may have changed them since.
    moved_before: usize,
    submissions: u32,
    callbacks: u32,
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
    context: Option<Arc<Shared<Check>>>,
    callbacks: u64,
    failed: Option<u32>,
    closed: bool,
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
        let Flight { moved, fatal, .. } = flight;
        assert_eq!(event.transferred(), moved, "event {id}: transferred is what the kernel moved");
        match fatal {
            Some(errno) => assert_eq!(event.result(), -i64::from(errno), "event {id}"),
            None if expected.action.is_transfer() => {
                assert_eq!(event.result(), moved as i64, "event {id}")
            }
            None => assert_eq!(event.result(), 0, "event {id}"),
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
                    let read = &expected.buffer[new];
                    assert!(read == model.get(place).unwrap_or_default(), "event {id}: read");
                    let ended = end >= expected.size_before || start >= expected.size_before;
                    assert!(fatal.is_some() || whole || ended, "event {id}: short before the end");
                }
                IOAction::Fallocate(_) if fatal.is_none() => {
                    model.resize(model.len().max(start + expected.len), 0);
                }
                _ => {}
            }
            // Others may have extended the file, but nobody touched this region.
            let end = (start + expected.len).min(model.len()).min(data.len());
            assert!(start >= end || data[start..end] == model[start..end], "event {id}: file");
        });
        let users = self.busy.get_mut(&(expected.file, expected.region)).expect("it was taken");
        *users -= 1;
        let incomplete = expected.action.is_transfer() && !whole;
        with_world(|world| match world.random.u8(..4) {
            0 => Next::Keep,
            1 if incomplete => Next::Resubmit,
            _ => Next::Free,
        })
    }
}

/// Submits an event of the model: new, or once more where it stopped.
fn submit(id: u32, event: IOEvent<Check>) {
    let context = MODEL.with_borrow_mut(|model| {
        let moved = event.transferred();
        let expected = model.events.get_mut(&id).expect("known");
        expected.moved_before = moved as usize;
        expected.submissions += 1;
        *model.busy.entry((expected.file, expected.region)).or_default() += 1;
        with_world(|world| {
            expected.size_before = world.files[expected.file].data.len();
            let memory = vec![(expected.buffer.as_ptr() as usize, expected.buffer.len())];
            let flight = Flight { memory, moved, ..Flight::default() };
            assert!(world.flights.insert(id, flight).is_none(), "event {id} is in flight");
        });
        model.context.clone().expect("a context")
    });
    if let Err((event, errno)) = context.submit(event, true) {
        MODEL.with_borrow_mut(|model| {
            let expected_errno = if model.closed { libc::ESHUTDOWN } else { libc::EAGAIN };
            assert_eq!(errno, expected_errno, "event {id}");
            with_world(|world| world.flights.remove(&id));
            let expected = model.events.get_mut(&id).expect("known");
            expected.submissions -= 1;
            *model.busy.get_mut(&(expected.file, expected.region)).expect("taken") -= 1;
        });
        drop(event);
        MODEL.with_borrow_mut(|model| model.events.remove(&id));
    }
}

/// Lets an incomplete event go on, unless its region is somebody else's by now.
fn resubmit(id: u32, mut event: IOEvent<Check>) {
    let goes = MODEL.with_borrow(|model| {
        let expected = &model.events[&id];
        let users = model.busy.get(&(expected.file, expected.region)).copied().unwrap_or(0);
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

/// Makes a random event in a region that no writer uses, if there is one.
fn new_event(id: u32) -> Option<IOEvent<Check>> {
    let (file, region, kind, first, len, split, direct) = with_world(|world| {
        let file = world.random.usize(..world.files.len());
        let direct = world.files[file].direct;
        let unit = if direct { 512 } else { 1 };
        let first = world.random.usize(..REGION / unit) * unit;
        let room = (REGION - first) / unit;
        let len = world.random.usize(..=room) * unit;
        let split = world.random.usize(..5);
        (file, world.random.usize(..REGIONS), world.random.u8(..10), first, len, split, direct)
    });
    let users = MODEL.with_borrow(|model| model.busy.get(&(file, region)).copied().unwrap_or(0));
    if users > 0 {
        return None;
    }
    let (action, len) = match kind {
        0 => (IOAction::Fsync, 0),
        1 => (IOAction::Fdatasync, 0),
        2 => (IOAction::Fallocate(0), len.max(1)),
        3..=5 => (IOAction::Write, len),
        _ => (IOAction::Read, len),
    };
    let offset = (region * REGION + first) as u64;
    let mut buffer = Buffer::aligned(len.max(1)).expect("memory");
    let pattern: Vec<u8> = with_world(|world| (0..len).map(|_| world.random.u8(..)).collect());
    if action == IOAction::Write {
        buffer[..len].copy_from_slice(&pattern);
    }
    let mut event = IOEvent::try_unprepared().expect("memory");
    event.prepare(action, descriptor(id, file), buffer.as_ptr(), len as u64, offset);
    if split > 0 && action.is_transfer() && !direct {
        let mut cuts: Vec<usize> =
            with_world(|world| (0..split).map(|_| world.random.usize(..=len)).collect());
        cuts.sort_unstable();
        cuts.push(len);
        let mut at = 0;
        let segments = cuts.into_iter().map(|cut| {
            let base = buffer.as_ptr().wrapping_add(at).cast();
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
        region,
        offset,
        len,
        buffer,
        pattern,
        size_before: 0,
        moved_before: 0,
        submissions: 0,
        callbacks: 0,
    };
    MODEL.with_borrow_mut(|model| model.events.insert(id, expected));
    Some(event)
}

/// One history. Returns how many operations the kernel did.
fn run_history(seed: u64) -> u64 {
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
        world.broken = false;
        world.in_pool = 0;
        world.flights.clear();
        world.files = (0..3)
            .map(|number| {
                let len = world.random.usize(..REGION * REGIONS);
                let data = (0..len).map(|_| world.random.u8(..)).collect();
                let full = world.random.usize(..REGION * REGIONS).next_multiple_of(512);
                let full = full.max(len.next_multiple_of(512));
                let capacity = if world.random.bool() { full } else { usize::MAX };
                File { data, capacity, direct: number == 2 }
            })
            .collect();
        Config {
            depth: world.random.u32(1..12),
            queue_size: world.random.u32(1..24),
            polled: true,
            ..Config::default()
        }
    });
    let depth = config.depth;
    let context = match with_world(|world| world.random.u8(..4)) {
        0 => Shared::over(config, Sim::pool()),
        1 => Shared::over(config, Backed::new(Sim::default(), Sim::pool())),
        _ => {
            Shared::over(config, Backed::new(Aio::over(SimAio::default(), depth, -1), Sim::pool()))
        }
    };
    MODEL.with_borrow_mut(|model| {
        *model = Model { context: Some(context.clone()), ..Model::default() };
        model.files = with_world(|world| world.files.iter().map(|f| f.data.clone()).collect());
    });
    let any = |limit: u8| with_world(|world| world.random.u8(..limit));
    for id in 1..=EVENTS_PER_HISTORY {
        match any(8) {
            0 => {
                let min = any(4).into();
                let before = context.stats().in_flight;
                let ran = context.poll(min, None).expect("a poll by the owner");
                assert!(u64::from(ran) >= before.min(min.into()), "a poll that came back early");
            }
            1 => {
                let kept = MODEL.with_borrow_mut(|model| model.kept.pop_front());
                if let Some((id, event)) = kept {
                    resubmit(id, event);
                }
            }
            2 if any(8) == 0 => context.drain(None).expect("a drain that ends"),
            _ => {
                if let Some(event) = new_event(id) {
                    submit(id, event);
                }
            }
        }
        MODEL.with_borrow(|model| assert_eq!(model.failed, None, "the event of a failed check"));
        let stats = context.stats();
        assert_eq!(stats.accepted, stats.completed + stats.in_flight, "nothing gets lost");
    }
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
            for (file, model) in world.files.iter().zip(&model.files) {
                assert!(file.data == *model, "a file differs from its model");
            }
        });
    });
    MODEL.with_borrow_mut(|model| *model = Model::default());
    with_world(|world| world.operations)
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
    let mut operations = 0;
    let mut histories = 0;
    while operations < wanted {
        let announce = Announce(first + histories);
        operations += run_history(announce.0);
        histories += 1;
    }
    println!("{operations} operations in {histories} histories from seed {first}");
}
