//! The bench's sequential transfers by the crate io-engine 0.12 and its MergeSubmitter, as its
//! documentation would have them done fast: memory that is wrapped and not allocated for each
//! event, a bounded channel that makes the producer wait, callbacks inline on the crate's own
//! thread (they only look at a result and set a flag). Driven by bench/peer_reference.c.
//!
//! Arguments: DRIVER read|write BLOCK BLOCKS DEPTH QUEUE LIMIT; the file is descriptor 3. For each
//! line "COUNT GENERATION" on standard input that many blocks are transferred; then the number of
//! those that went wrong is printed.

use std::alloc::{alloc_zeroed, Layout};
use std::env;
use std::ffi::c_void;
use std::io::{self, BufRead, Write};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;

use crossfire::{mpsc, MTx};
use io_buffer::Buffer;
use io_engine::merge::MergeSubmitter;
use io_engine::{setup, CbArgs, Driver, IOAction, IOEvent, InlineClosure};
use rustix::io::Errno;

const FILE: RawFd = 3;
const SECTOR: u64 = 512;
const SAMPLE_EVERY: u64 = 16;
const PAGE: usize = 4096;

/// As in bench.h: what a block carries at its two ends.
#[derive(Clone, Copy)]
struct Work {
    write: bool,
    block: usize,
    blocks: u64,
    generation: u64,
}

impl Work {
    fn stamps(&self, block: u64) -> (u64, u64) {
        let sectors = self.block as u64 / SECTOR;
        let writer = if self.write { self.generation << 40 } else { 0 };
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
}

fn in_sample(block: u64) -> bool {
    block & (SAMPLE_EVERY - 1) == 0
}

/// What travels with an event: which slot it came from.
struct Slot(usize);
impl CbArgs for Slot {}

struct Shared {
    free: Vec<AtomicBool>,
    done: AtomicU64,
    wrong: AtomicU64,
    /// Whoever waits for the last callback.
    caller: thread::Thread,
    wanted: AtomicU64,
}

impl Shared {
    fn finish(&self, slot: usize, right: bool) {
        if !right {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
        self.free[slot].store(true, Ordering::Release);
        if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.wanted.load(Ordering::Acquire) {
            self.caller.unpark();
        }
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |i: usize| -> u64 { arguments[i].parse().expect("a number") };
    let driver = match arguments[0].as_str() {
        "uring" => Driver::Uring,
        "aio" => Driver::Aio,
        other => {
            eprintln!("reference: the crate has no driver {other}");
            std::process::exit(1);
        }
    };
    let write = arguments[1] == "write";
    let mut work = Work { write, block: number(2) as usize, blocks: number(3), generation: 0 };
    let (depth, queue, limit) = (number(4) as usize, number(5) as usize, number(6) as usize);

    // The channel holds merged events. As many as the queue of the engine holds single ones; beside
    // those that it holds there are depth in the kernel, and a few on their way.
    let merged = limit / work.block;
    let channel = queue / merged;
    let slots = (channel + depth + 8) * merged;
    let stride = 2 * work.block;
    let layout = Layout::from_size_align(slots * stride, PAGE).expect("a layout");
    // SAFETY: the size is not 0. Never freed: the crate's threads are not joined at the end.
    let memory = unsafe { alloc_zeroed(layout) };
    assert!(!memory.is_null(), "no memory");
    // SAFETY: the allocation just made; page faults now, not under the clock.
    unsafe { std::slice::from_raw_parts_mut(memory, slots * stride) }.fill(1);

    let shared = Arc::new(Shared {
        free: (0..slots).map(|_| AtomicBool::new(true)).collect(),
        done: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
        caller: thread::current(),
        wanted: AtomicU64::new(0),
    });
    let (tx, rx) = mpsc::bounded_blocking::<Box<IOEvent<Slot>>>(channel);
    let callback = {
        let shared = shared.clone();
        move |slot: Slot, offset: i64, result: Result<Option<Buffer>, Errno>| {
            let block = offset as u64 / work.block as u64;
            let right = match result {
                Err(_) => false,
                Ok(_) if work.write => true,
                Ok(Some(data)) => {
                    data.len() == work.block && (!in_sample(block) || work.is(&data, block))
                }
                Ok(None) => false,
            };
            shared.finish(slot.0, right);
        }
    };
    setup::<Slot, _, _>(depth, rx, InlineClosure(Box::new(callback)), driver).expect("set up");
    let action = || if write { IOAction::Write } else { IOAction::Read };
    let failed = {
        let shared = shared.clone();
        move |slot: Slot, _: Errno| shared.finish(slot.0, false)
    };
    let mut merger: MergeSubmitter<Slot, MTx<_>, _, _> =
        MergeSubmitter::new(FILE, tx.clone(), limit, action(), failed);

    let (mut issued, mut slot) = (0u64, 0usize);
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line");
        let mut numbers = line.split_whitespace().map(|n| n.parse().expect("a number"));
        let mut next = || numbers.next().expect("two numbers");
        let count: u64 = next();
        work.generation = next();
        shared.wanted.store(issued + count, Ordering::Release);
        for _ in 0..count {
            while !shared.free[slot].load(Ordering::Acquire) {
                thread::yield_now();
            }
            shared.free[slot].store(false, Ordering::Relaxed);
            let block = issued % work.blocks;
            // SAFETY: within the allocation; the slot is free, so that nobody else looks there.
            let data =
                unsafe { std::slice::from_raw_parts_mut(memory.add(slot * stride), work.block) };
            if write {
                work.stamp(data, block);
            }
            // SAFETY: the memory lives as long as the process.
            let buffer = unsafe {
                Buffer::from_c_ref_mut(data.as_mut_ptr() as *mut c_void, work.block as i32)
            };
            let offset = (block * work.block as u64) as i64;
            let mut event = IOEvent::new(FILE, buffer, action(), offset);
            event.set_args(Slot(slot));
            merger.add_event(event).expect("added");
            issued += 1;
            slot = if slot + 1 < slots { slot + 1 } else { 0 };
        }
        merger.flush().expect("flushed");
        while shared.done.load(Ordering::Acquire) < issued {
            thread::park();
        }
        println!("{}", shared.wrong.swap(0, Ordering::Relaxed));
        io::stdout().flush().expect("answered");
    }
}
