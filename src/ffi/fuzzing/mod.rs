//! The exported calls, driven by arbitrary bytes against the simulator: for the targets in `fuzz/`,
//! and for a test that replays what they found.
//!
//! A model says for each call what it may answer. Where one of the causes holds that the header lists,
//! the answer is the errno of one that does; where none does, the call succeeds. What the header has
//! under "Requires:" is kept: handles are NULL or alive, memory is as long as it is said to be.

mod contexts;
mod events;
mod header;
mod input;
#[cfg(test)]
mod replay;
mod structs;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use self::contexts::{Context, Merger, Workers};
use self::events::Event;
use self::input::Input;
use crate::clock;
use crate::driver::sim::{with_world, File, Shared, Trouble};
use crate::gate::lock;

const EVENTS: usize = 12;
const CONTEXTS: usize = 3;
const MERGERS: usize = 3;
const WORKERS: usize = 2;
const BUFFERS: usize = 2;
const FILES: usize = 3;
const FILE_SIZE: usize = 1 << 14;
/// How deep callbacks that call what runs callbacks may be in each other.
const MAX_DEPTH: usize = 6;
const MAX_STEPS: u32 = 500;

/// The target `calls`: any sequence of all calls. Contexts are polled, so that the same bytes do the same
/// again.
pub fn calls(data: &[u8]) {
    play(data, false, Run::step);
}

/// The target `threads`: the same, with contexts that have threads.
pub fn threads(data: &[u8]) {
    play(data, true, Run::step);
}

/// The target `structs`: contexts from configurations of any bytes and any size, and what is asked of
/// them.
pub fn structs(data: &[u8]) {
    play(data, true, Run::step_of_structs);
}

fn play(data: &[u8], threads: bool, step: fn(&Run)) {
    let shared = Shared::new();
    shared.clone().join();
    let mut input = Input::new(data);
    set_up_world(&mut input);
    let state = Mutex::new(State::new(input));
    let run = Run { threads, shared, state, failed: AtomicBool::new(false) };
    run.state().tie(&run);
    RUN.set(&run);
    while run.state().goes_on() {
        step(&run);
        assert!(!run.failed.load(SeqCst), "a check in a callback failed");
    }
    run.end();
    RUN.set(ptr::null());
    assert!(!run.failed.load(SeqCst), "a check in a callback failed");
    with_world(|world| assert!(world.flights.is_empty(), "in flight at the end"));
}

/// Files, and the troubles of their kernel.
fn set_up_world(input: &mut Input) {
    // From here on time passes only where the simulator has it.
    clock::advance(Duration::ZERO);
    let kinds = input.byte();
    let seed = input.byte();
    let mut random = fastrand::Rng::with_seed(seed.into());
    let mut chance = |bit: u8| if kinds & bit != 0 { random.u8(1..80) } else { 0 };
    let trouble = Trouble {
        short: chance(1),
        fail: chance(2) / 4,
        again: chance(4),
        delay: chance(8) * 3,
        lack: chance(16),
        reject: chance(32) / 8,
        refuse: chance(64) / 32,
        breaks: chance(128),
        capacity: 1 + random.usize(..16),
    };
    let lens: [usize; FILES] = std::array::from_fn(|_| random.usize(..FILE_SIZE));
    let files = lens.iter().enumerate().map(|(file, len)| File {
        data: (0..*len).map(|at| events::byte_at(file, at as u64)).collect(),
        capacity: FILE_SIZE,
        bad: (kinds & 2 != 0).then(|| random.usize(..FILE_SIZE)),
        flags: [0, libc::O_APPEND, libc::O_DSYNC][file],
    });
    let files = files.collect();
    with_world(|world| {
        world.random = random;
        world.trouble = trouble;
        world.files = files;
        world.ends = true;
        world.serves = true;
    });
}

/// What a callback is given.
pub(super) struct Tag {
    run: *const Run,
    slot: usize,
}

/// One sequence of calls.
struct Run {
    threads: bool,
    shared: Shared,
    /// Not locked in a call that may come back here. In all others it is, so that no other thread takes
    /// away what is looked at.
    state: Mutex<State>,
    failed: AtomicBool,
}

/// The engine catches what panics in a callback, so that is noticed.
struct Notices<'a>(&'a Run);

impl Drop for Notices<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, SeqCst);
        }
    }
}

struct State {
    input: Input,
    steps: u32,
    events: Vec<Event>,
    contexts: Vec<Context>,
    mergers: Vec<Merger>,
    workers: Vec<Workers>,
    buffers: Vec<*mut u8>,
    /// Ids of lives that are over.
    old_ids: HashSet<u64>,
    last_id: u64,
    submissions: u64,
    /// Where the last prepared request ended: neighbours begin there.
    next_offset: u64,
}

thread_local! {
    /// Whose callbacks run on this thread now: contexts, and the events.
    static STACK: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    /// This thread is in the log function.
    static IN_LOG: Cell<bool> = const { Cell::new(false) };
    /// Whose calls this thread makes; NULL: nobody's.
    static RUN: Cell<*const Run> = const { Cell::new(ptr::null()) };
}

/// Whether a callback of the context runs on this thread.
fn in_callback_of(context: usize) -> bool {
    STACK.with_borrow(|stack| stack.iter().any(|(other, _)| *other == context))
}

fn in_callback() -> bool {
    STACK.with_borrow(|stack| !stack.is_empty())
}

impl State {
    fn new(input: Input) -> Self {
        State {
            input,
            steps: 0,
            events: (0..EVENTS).map(|_| Event::default()).collect(),
            contexts: (0..CONTEXTS).map(|_| Context::default()).collect(),
            mergers: (0..MERGERS).map(|_| Merger::default()).collect(),
            workers: (0..WORKERS).map(|_| Workers::default()).collect(),
            buffers: vec![std::ptr::null_mut(); BUFFERS],
            old_ids: HashSet::new(),
            last_id: 0,
            submissions: 0,
            next_offset: 0,
        }
    }

    fn tie(&mut self, run: *const Run) {
        for (slot, event) in self.events.iter_mut().enumerate() {
            event.tags = Box::new([Tag { run, slot }, Tag { run, slot }]);
        }
    }

    fn goes_on(&mut self) -> bool {
        self.steps += 1;
        !self.input.is_empty() && self.steps < MAX_STEPS
    }

    /// Any event slot: mostly one with an event, often that of the callback which runs.
    fn any_event(&mut self) -> usize {
        let byte = usize::from(self.input.byte());
        let own = STACK.with_borrow(|stack| stack.last().map(|(_, slot)| *slot));
        if let Some(own) = own.filter(|_| byte >= 192) {
            return own;
        }
        let lives = |slot: &usize| byte < 16 || !self.events[*slot].raw.is_null();
        let some: Vec<usize> = (0..EVENTS).filter(lives).collect();
        some.get(byte % some.len().max(1)).copied().unwrap_or(0)
    }

    /// A context slot without one.
    fn no_context(&self) -> Option<usize> {
        self.contexts.iter().position(|context| context.raw.is_null() && !context.closing)
    }

    /// Any context slot that may be used now: mostly one with a context. While one is being freed, only
    /// its own callbacks may call it.
    fn any_context(&mut self) -> usize {
        let byte = usize::from(self.input.byte());
        let own = STACK.with_borrow(|stack| stack.last().map(|(context, _)| *context));
        let usable = |slot: &usize| {
            let lives = byte < 32 || !self.contexts[*slot].raw.is_null();
            lives && (!self.contexts[*slot].closing || in_callback_of(*slot))
        };
        let some: Vec<usize> = (0..CONTEXTS).filter(usable).collect();
        some.get(byte % some.len().max(1)).copied().or(own).unwrap_or(0)
    }
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Makes a call inside the log function, which must not wait.
    fn logged(&self) {
        if IN_LOG.replace(true) {
            return;
        }
        let _noticed = Notices(self);
        // In a call that holds the lock there is nothing to be done.
        let kind = self.state.try_lock().ok().map(|mut state| state.input.byte());
        if let Some(kind) = kind.filter(|kind| *kind >= 64) {
            self.step_of(kind % 23);
        }
        IN_LOG.set(false);
    }

    /// Makes one call, of any.
    fn step(&self) {
        let kind = self.state().input.byte() % 48;
        self.step_of(kind);
    }

    fn step_of(&self, kind: u8) {
        // One thread makes contexts and what belongs to them, and frees them: it knows who uses them.
        let of_one_thread = matches!(kind, 26 | 27 | 36..=42);
        if of_one_thread && self.threads && in_callback() {
            return self.getters();
        }
        match kind {
            0..=2 => self.event_new(),
            3 => self.event_free(),
            4..=8 => self.prep_transfer(),
            9 | 10 => self.prep_vectored(),
            11 | 12 => self.prep_sync(),
            13 => self.prep_fallocate(),
            14 | 15 => self.set_callback(),
            16 => self.set_flags(),
            17 => self.set_priority(),
            18 => self.set_timeout(),
            19 => self.getters(),
            20..=22 => self.submit(),
            23 => self.submit_batch(),
            24 => self.submit_wait(),
            25 => self.cancel(),
            26 | 27 => self.context_new(),
            28 => self.context_free(),
            29 => self.context_info(),
            30 => self.context_stats(),
            31 => self.drain(),
            32..=34 => self.poll(),
            35 => self.context_fd(),
            36 => self.merger_new(),
            37 | 38 => self.merger_add(),
            39 => self.merger_flush(),
            40 => self.merger_free(),
            41 => self.workers_new(),
            42 => self.workers_free(),
            43 => self.library_calls(),
            44 => self.prep_sync_range(),
            45 => self.prep_truncate(),
            46 => self.prep_advise(),
            _ => self.submit_wait_batch(),
        }
    }

    fn step_of_structs(&self) {
        let kind = self.state().input.byte();
        match kind % 12 {
            0 => self.config_init(),
            1..=4 => self.context_of_bytes(),
            5 | 6 => self.context_info(),
            7 => self.context_stats(),
            8 => self.context_free(),
            9 => self.workers_new(),
            10 => self.workers_free(),
            _ => self.library_calls(),
        }
    }

    /// Frees everything, and finds it as it has to be.
    fn end(&self) {
        for merger in 0..MERGERS {
            self.free_merger(merger);
        }
        for context in 0..CONTEXTS {
            self.free_context(context);
        }
        for event in 0..EVENTS {
            self.free_event(event);
        }
        for workers in 0..WORKERS {
            self.free_workers(workers);
        }
        for buffer in 0..BUFFERS {
            self.free_buffer(buffer);
        }
        self.set_log(false);
    }
}

/// Checks what a call answered. `causes` are the errnos whose causes hold.
fn check(call: &str, answer: i64, causes: &[i32]) {
    if answer < 0 {
        let known = header::documents(call, -answer as i32);
        assert!(known, "{call} answers {answer}, which the header does not have");
    }
    match causes {
        [] => assert!(answer >= 0, "{call} answers {answer}, and has no cause to"),
        _ => {
            let caused = answer < 0 && causes.contains(&(-answer as i32));
            assert!(caused, "{call} answers {answer}; there is cause for {causes:?}");
        }
    }
}

/// The errno where its cause holds.
fn cause(errno: i32, holds: bool) -> Option<i32> {
    holds.then_some(errno)
}
