//! The bench's transfers by the crate io-engine 0.12, as its documentation would have them done
//! fast: memory that is wrapped and not allocated for each event, a bounded channel that makes who
//! submits wait (spsc for one thread, mpsc for several), and one of these:
//!
//! - callbacks inline on the crate's own thread; they only look at a result and set a flag;
//! - callbacks on threads behind another channel (spsc for one, mpmc for several);
//! - callbacks inline that submit the next transfer themselves, so that no other thread does;
//! - where there is a limit for it, its MergeSubmitter.
//!
//! Driven by bench/peer_reference.c. Arguments are NAME=NUMBER, but for `driver=uring|aio`; the
//! file is descriptor 3. For each line "COUNT GENERATION" on standard input that many blocks are
//! transferred. The answer is a line "WRONG USER_NS SYSTEM_NS TIMED", and TIMED latencies in ns,
//! four bytes each.

use std::alloc::{alloc_zeroed, Layout};
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::env;
use std::ffi::c_void;
use std::io::{self, BufRead, Write};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossfire::{mpmc, mpsc, spsc, BlockingRxTrait, BlockingTxTrait};
use io_buffer::Buffer;
use io_engine::merge::MergeSubmitter;
use io_engine::{setup, CbArgs, Driver, IOAction, IOEvent, InlineClosure, Worker};
use rustix::io::Errno;

const FILE: RawFd = 3;
const SECTOR: u64 = 512;
const SAMPLE_EVERY: u64 = 16;
const PAGE: usize = 4096;

/// As in bench.h.
struct Work {
    writes: u64,
    sequential: bool,
    block: usize,
    blocks: u64,
    depth: usize,
    queue: usize,
    batch: usize,
    limit: usize,
    threads: usize,
    seed: u64,
    latency_every: u64,
    max_latencies: usize,
    generation: AtomicU64,
}

fn draw(random: &mut u64, limit: u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z >> 32) * limit) >> 32
}

impl Work {
    fn new(arguments: &HashMap<String, u64>) -> Self {
        let number = |name: &str| arguments[name];
        Work {
            writes: number("writes"),
            sequential: number("sequential") != 0,
            block: number("block") as usize,
            blocks: number("blocks"),
            depth: number("depth") as usize,
            queue: number("queue") as usize,
            batch: number("batch") as usize,
            limit: number("limit") as usize,
            threads: number("threads") as usize,
            seed: number("seed"),
            latency_every: number("latency_every"),
            max_latencies: number("max_latencies") as usize,
            generation: AtomicU64::new(0),
        }
    }

    fn is_written(&self, block: u64) -> bool {
        let mut scattered = block;
        self.writes == 100 || (self.writes != 0 && draw(&mut scattered, 100) < self.writes)
    }

    fn stamps(&self, block: u64) -> (u64, u64) {
        let sectors = self.block as u64 / SECTOR;
        let generation = self.generation.load(Ordering::Relaxed);
        let writer = if self.is_written(block) { generation << 40 } else { 0 };
        (writer + block * sectors + 1, writer + (block + 1) * sectors)
    }

    fn stamp(&self, data: &mut [u8], block: u64) {
        let (first, last) = self.stamps(block);
        data[..8].copy_from_slice(&first.to_ne_bytes());
        data[self.block - 8..].copy_from_slice(&last.to_ne_bytes());
    }

    fn is(&self, data: &[u8], block: u64) -> bool {
        let (first, last) = self.stamps(block);
        data[..8] == first.to_ne_bytes() && data[self.block - 8..] == last.to_ne_bytes()
    }

    /// What a thread may have accepted: as in work_buffers, so that it is the crate that makes it
    /// wait. Merged, there are in the kernel depth operations of the whole limit.
    fn slots(&self) -> usize {
        match self.limit {
            0 => self.queue / self.threads + self.batch + 4,
            limit => (self.channel() + self.depth + 8) * (limit / self.block),
        }
    }

    /// What is accepted is in the channel or in the kernel: together, as many as the queue of the
    /// engine. Merged, the channel holds as many events as that queue does single ones.
    fn channel(&self) -> usize {
        match self.limit {
            0 => self.queue.saturating_sub(self.depth).max(1),
            limit => self.queue / (limit / self.block),
        }
    }

    /// Where events may be merged their memory is apart, so that this is seen to be copied.
    fn stride(&self) -> usize {
        if self.limit > 0 {
            2 * self.block
        } else {
            self.block
        }
    }
}

/// What a thread that submits draws.
struct Progress {
    random: u64,
    first: u64,
    issued: u64,
}

/// What travels with an event: which slot it came from.
struct Slot(usize);
impl CbArgs for Slot {}

type Event = Box<IOEvent<Slot>>;

#[repr(align(64))]
struct SlotState {
    is_free: AtomicBool,
    /// Where its latency is wanted; touched by whoever has the slot.
    start: UnsafeCell<Option<Instant>>,
}

struct Shared {
    work: Work,
    memory: usize,
    slots: Vec<SlotState>,
    latencies: Vec<AtomicU32>,
    timed: AtomicUsize,
    done: AtomicU64,
    wrong: AtomicU64,
    /// Whoever waits for the last callback.
    caller: thread::Thread,
    wanted: AtomicU64,
}

// SAFETY: a slot's start is touched by the thread that took the slot, then by the callback, which
// the channels order; is_free hands it back.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(work: Work, slots: usize) -> Self {
        let len = slots * work.stride();
        let layout = Layout::from_size_align(len, PAGE).expect("a layout");
        // SAFETY: the size is not 0. Never freed: the crate's threads are not joined at the end.
        let memory = unsafe { alloc_zeroed(layout) };
        assert!(!memory.is_null(), "no memory");
        // SAFETY: the allocation just made; page faults now, not under the clock.
        unsafe { std::slice::from_raw_parts_mut(memory, len) }.fill(1);
        let state = || SlotState { is_free: AtomicBool::new(true), start: UnsafeCell::new(None) };
        Shared {
            memory: memory as usize,
            slots: (0..slots).map(|_| state()).collect(),
            latencies: (0..work.max_latencies).map(|_| AtomicU32::new(0)).collect(),
            timed: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            caller: thread::current(),
            wanted: AtomicU64::new(0),
            work,
        }
    }

    /// The next transfer of a thread, in a slot that is free.
    fn next(&self, progress: &mut Progress, slot: usize) -> IOEvent<Slot> {
        let work = &self.work;
        let n = progress.issued;
        let wanted = work.latency_every > 0 && n % work.latency_every == 0;
        // SAFETY: see Sync.
        unsafe { *self.slots[slot].start.get() = wanted.then(Instant::now) };
        progress.issued += 1;
        let block = if work.sequential {
            (progress.first + n) % work.blocks
        } else {
            draw(&mut progress.random, work.blocks)
        };
        let at = self.memory + slot * work.stride();
        // SAFETY: within the allocation; the slot is free, so that nobody else looks there.
        let data = unsafe { std::slice::from_raw_parts_mut(at as *mut u8, work.block) };
        let action = if work.is_written(block) {
            work.stamp(data, block);
            IOAction::Write
        } else {
            IOAction::Read
        };
        // SAFETY: the memory lives as long as the process.
        let buffer = unsafe { Buffer::from_c_ref_mut(at as *mut c_void, work.block as i32) };
        let mut event = IOEvent::new(FILE, buffer, action, (block * work.block as u64) as i64);
        event.set_args(Slot(slot));
        event
    }

    /// Every callback begins with this.
    fn check(&self, slot: usize, offset: i64, result: Result<Option<Buffer>, Errno>) {
        let work = &self.work;
        let block = offset as u64 / work.block as u64;
        let right = match result {
            Ok(Some(data)) => {
                data.len() == work.block
                    && (block % SAMPLE_EVERY != 0
                        || work.is_written(block)
                        || work.is(&data, block))
            }
            _ => false,
        };
        if !right {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: see Sync.
        if let Some(start) = unsafe { *self.slots[slot].start.get() } {
            let n = self.timed.fetch_add(1, Ordering::Relaxed);
            if let Some(room) = self.latencies.get(n) {
                room.store(start.elapsed().as_nanos() as u32, Ordering::Relaxed);
            }
        }
    }

    fn finish(&self) {
        if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.wanted.load(Ordering::Acquire) {
            self.caller.unpark();
        }
    }

    /// What a callback does that gives its slot back.
    fn give_back(&self, slot: usize, offset: i64, result: Result<Option<Buffer>, Errno>) {
        self.check(slot, offset, result);
        self.slots[slot].is_free.store(true, Ordering::Release);
        self.finish();
    }
}

/// The callback of slots that are given back.
fn callback(
    shared: &Arc<Shared>,
) -> impl Fn(Slot, i64, Result<Option<Buffer>, Errno>) + Send + 'static {
    let shared = shared.clone();
    move |slot, offset, result| shared.give_back(slot.0, offset, result)
}

/// A thread that runs callbacks.
fn serve<R>(shared: &Arc<Shared>, events: R)
where
    R: BlockingRxTrait<Event> + Send + 'static,
{
    let callback = callback(shared);
    thread::spawn(move || {
        while let Ok(event) = events.recv() {
            event.callback_unchecked(&callback);
        }
    });
}

/// Inline, or on so many threads.
fn start<Q>(shared: &Arc<Shared>, rx: Q, workers: usize, driver: Driver)
where
    Q: BlockingRxTrait<Event> + Send + 'static,
{
    let depth = shared.work.depth;
    let room = shared.slots.len();
    match workers {
        0 => go(depth, rx, InlineClosure(Box::new(callback(shared))), driver),
        1 => {
            let (done, events) = spsc::bounded_blocking::<Event>(room);
            serve(shared, events);
            go(depth, rx, done, driver);
        }
        n => {
            let (done, events) = mpmc::bounded_blocking::<Event>(room);
            for _ in 0..n {
                serve(shared, events.clone());
            }
            go(depth, rx, done, driver);
        }
    }
}

fn go<Q, W>(depth: usize, rx: Q, worker: W, driver: Driver)
where
    Q: BlockingRxTrait<Event> + Send + 'static,
    W: Worker<Slot> + Send + 'static,
{
    setup::<Slot, _, _>(depth, rx, worker, driver).expect("set up");
}

/// A thread that submits: its part of the slots, and how it hands an event over.
struct Producer<T> {
    shared: Arc<Shared>,
    progress: Progress,
    tx: T,
    first_slot: usize,
    slots: usize,
    next_slot: usize,
}

impl<T: BlockingTxTrait<Event>> Producer<T> {
    fn next(&mut self) -> IOEvent<Slot> {
        let slot = self.first_slot + self.next_slot;
        self.next_slot = if self.next_slot + 1 < self.slots { self.next_slot + 1 } else { 0 };
        let state = &self.shared.slots[slot];
        while !state.is_free.load(Ordering::Acquire) {
            thread::yield_now();
        }
        state.is_free.store(false, Ordering::Relaxed);
        self.shared.next(&mut self.progress, slot)
    }

    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let event = Box::new(self.next());
            assert!(self.tx.send(event).is_ok(), "the channel is closed");
        }
    }
}

fn progress_of(work: &Work, thread: usize) -> Progress {
    Progress {
        random: work.seed.wrapping_add((thread as u64) << 32),
        first: work.blocks / work.threads as u64 * thread as u64,
        issued: 0,
    }
}

fn cpu_ns() -> (u64, u64) {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the struct is the call's to fill.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
    (ns(usage.ru_utime), ns(usage.ru_stime))
}

/// Obeys: `submit` hands over so many transfers, and what it returns when all are done is told.
fn obey(shared: &Shared, mut submit: impl FnMut(u64)) {
    let mut all = 0;
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line");
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().expect("a number"));
        let count = numbers.next().expect("a count");
        shared.work.generation.store(numbers.next().expect("a generation"), Ordering::Relaxed);
        shared.timed.store(0, Ordering::Relaxed);
        all += count;
        shared.wanted.store(all, Ordering::Release);
        let (user, system) = cpu_ns();
        submit(count);
        while shared.done.load(Ordering::Acquire) < all {
            thread::park();
        }
        let (user_then, system_then) = cpu_ns();
        let timed = shared.timed.load(Ordering::Relaxed).min(shared.latencies.len());
        let mut out = io::stdout().lock();
        let wrong = shared.wrong.swap(0, Ordering::Relaxed);
        writeln!(out, "{wrong} {} {} {timed}", user_then - user, system_then - system)
            .expect("answered");
        let latencies: Vec<u8> = shared.latencies[..timed]
            .iter()
            .flat_map(|ns| ns.load(Ordering::Relaxed).to_ne_bytes())
            .collect();
        out.write_all(&latencies).and_then(|()| out.flush()).expect("answered");
    }
}

/// Each of the producers on a thread of its own; the first on the calling one.
fn obey_with<T>(shared: &Arc<Shared>, senders: Vec<T>)
where
    T: BlockingTxTrait<Event> + Send + 'static,
{
    let threads = senders.len();
    let slots = shared.work.slots();
    let mut producers = senders.into_iter().enumerate().map(|(i, tx)| Producer {
        shared: shared.clone(),
        progress: progress_of(&shared.work, i),
        tx,
        first_slot: i * slots,
        slots,
        next_slot: 0,
    });
    let mut mine = producers.next().expect("a thread");
    let others: Vec<_> = producers
        .map(|mut producer| {
            let (tx, rx) = spsc::bounded_blocking::<u64>(1);
            thread::spawn(move || {
                while let Ok(count) = rx.recv() {
                    producer.run(count);
                }
            });
            tx
        })
        .collect();
    obey(shared, |count| {
        let of = |thread: usize| {
            count / threads as u64 + u64::from((thread as u64) < count % threads as u64)
        };
        for (i, other) in others.iter().enumerate() {
            other.send(of(i + 1)).expect("a thread");
        }
        mine.run(of(0));
    });
}

fn obey_merging<T>(shared: &Arc<Shared>, tx: T)
where
    T: BlockingTxTrait<Event> + Clone,
{
    let work = &shared.work;
    let failed = {
        let shared = shared.clone();
        move |slot: Slot, errno: Errno| shared.give_back(slot.0, 0, Err(errno))
    };
    let action = if work.writes > 0 { IOAction::Write } else { IOAction::Read };
    let mut merger = MergeSubmitter::new(FILE, tx.clone(), work.limit, action, failed);
    let mut producer = Producer {
        shared: shared.clone(),
        progress: progress_of(work, 0),
        tx,
        first_slot: 0,
        slots: shared.slots.len(),
        next_slot: 0,
    };
    obey(shared, |count| {
        for _ in 0..count {
            merger.add_event(producer.next()).expect("added");
        }
        merger.flush().expect("flushed");
    });
}

/// What the callbacks of the closed loop share with who starts it.
struct Loop {
    progress: Progress,
    to_issue: u64,
}
struct LoopCell(UnsafeCell<Loop>);
// SAFETY: touched by the caller before it sends the first events and after the last callback, and
// by the callbacks, which the crate runs on one thread, in between.
unsafe impl Send for LoopCell {}
unsafe impl Sync for LoopCell {}

fn obey_in_a_loop(shared: &Arc<Shared>, driver: Driver) {
    let depth = shared.work.depth;
    // Never full: a callback that waited for room in it would wait for itself.
    let (tx, rx) = mpsc::bounded_blocking::<Event>(2 * depth);
    let cell = Arc::new(LoopCell(UnsafeCell::new(Loop {
        progress: progress_of(&shared.work, 0),
        to_issue: 0,
    })));
    let callback = {
        let (shared, cell, tx) = (shared.clone(), cell.clone(), tx.clone());
        move |slot: Slot, offset: i64, result: Result<Option<Buffer>, Errno>| {
            shared.check(slot.0, offset, result);
            // SAFETY: see LoopCell.
            let mine = unsafe { &mut *cell.0.get() };
            if mine.to_issue > 0 {
                mine.to_issue -= 1;
                let event = Box::new(shared.next(&mut mine.progress, slot.0));
                assert!(tx.send(event).is_ok(), "the channel is closed");
            }
            shared.finish();
        }
    };
    go(depth, rx, InlineClosure(Box::new(callback)), driver);
    obey(shared, |count| {
        // SAFETY: see LoopCell.
        let mine = unsafe { &mut *cell.0.get() };
        let n = count.min(depth as u64);
        mine.to_issue = count - n;
        let events: Vec<Event> =
            (0..n as usize).map(|i| Box::new(shared.next(&mut mine.progress, i))).collect();
        for event in events {
            assert!(tx.send(event).is_ok(), "the channel is closed");
        }
    });
}

fn main() {
    let mut driver = Driver::Uring;
    let mut arguments = HashMap::new();
    for argument in env::args().skip(1) {
        let (name, value) = argument.split_once('=').expect("NAME=VALUE");
        match (name, value) {
            ("driver", "uring") => {}
            ("driver", "aio") => driver = Driver::Aio,
            ("driver", other) => {
                eprintln!("reference: the crate has no driver {other}");
                std::process::exit(1);
            }
            _ => {
                arguments.insert(name.to_string(), value.parse().expect("a number"));
            }
        }
    }
    let work = Work::new(&arguments);
    let workers = arguments["workers"] as usize;
    let (threads, channel) = (work.threads, work.channel());
    let is_loop = arguments["loop"] != 0;
    let slots = if is_loop { work.depth } else { threads * work.slots() };
    let shared = Arc::new(Shared::new(work, slots));
    if is_loop {
        obey_in_a_loop(&shared, driver);
    } else if shared.work.limit > 0 {
        let (tx, rx) = mpsc::bounded_blocking::<Event>(channel);
        start(&shared, rx, workers, driver);
        obey_merging(&shared, tx);
    } else if threads == 1 {
        let (tx, rx) = spsc::bounded_blocking::<Event>(channel);
        start(&shared, rx, workers, driver);
        obey_with(&shared, vec![tx]);
    } else {
        let (tx, rx) = mpsc::bounded_blocking::<Event>(channel);
        start(&shared, rx, workers, driver);
        obey_with(&shared, vec![tx; threads]);
    }
}
