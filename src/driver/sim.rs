//! A kernel that is none: files in memory, and everything that a real one may do, decided by a
//! seeded generator. It reorders, delays, shortens, fails, refuses to queue and refuses to take.
//!
//! The world that it works on belongs to the thread. A descriptor carries the event's number and
//! its file, so that the simulator knows whose memory it touches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;

use super::{Done, Entered, Interface, Prep, Wait};
use crate::tasks::{IOAction, Memory, Op};

const FILE_BITS: u32 = 4;
/// Direct I/O on a file marked direct is refused off this boundary.
const BLOCK: u64 = 512;

pub(crate) fn descriptor(event: u32, file: usize) -> RawFd {
    (event << FILE_BITS) as RawFd | file as RawFd
}

#[derive(Default)]
pub(crate) struct File {
    pub data: Vec<u8>,
    /// Writes stop here with ENOSPC.
    pub capacity: usize,
    pub direct: bool,
}

/// What the kernel knows of an event in flight.
#[derive(Default, Debug)]
pub(crate) struct Flight {
    /// The memory it may touch.
    pub memory: Vec<(usize, usize)>,
    /// Bytes that it moved.
    pub moved: u64,
    pub operations: u32,
    /// The error that ends the event.
    pub fatal: Option<i32>,
}

/// How likely each trouble is, of 256.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// Operations that the submission queue holds: not a chance.
    pub capacity: usize,
    pub short: u8,
    pub fail: u8,
    pub again: u8,
    pub refuse: u8,
    pub delay: u8,
    pub lack: u8,
    /// Of 65536: the ring breaks for good.
    pub breaks: u8,
}

#[derive(Default)]
pub(crate) struct World {
    pub random: fastrand::Rng,
    pub files: Vec<File>,
    pub flights: HashMap<u32, Flight>,
    pub trouble: Trouble,
    pub broken: bool,
    pub operations: u64,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Looks at the world, or changes it, between the calls of the engine.
pub(crate) fn with_world<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(f)
}

impl World {
    pub(crate) fn happens(&mut self, chance: u8) -> bool {
        self.random.u8(..) < chance
    }

    fn flight(&mut self, op: &Op) -> &mut Flight {
        let event = op.fd as u32 >> FILE_BITS;
        self.flights.get_mut(&event).expect("an operation of an event in flight")
    }

    /// Does an operation as a kernel might, and says how it ended.
    fn perform(&mut self, op: &Op) -> i64 {
        let event = op.fd as u32 >> FILE_BITS;
        let file = op.fd as usize & ((1 << FILE_BITS) - 1);
        self.operations += 1;
        let again = self.happens(self.trouble.again);
        let fail = self.happens(self.trouble.fail);
        let short = self.happens(self.trouble.short);
        let flight = self.flights.get_mut(&event).expect("an operation of an event in flight");
        flight.operations += 1;
        assert!(flight.fatal.is_none(), "an operation after an error: event {event}, {op:?}");
        if !op.action.is_transfer() {
            assert_eq!(flight.operations, 1, "a sync was retried: event {event}");
            if fail {
                flight.fatal = Some(libc::EIO);
                return -i64::from(libc::EIO);
            }
            if let IOAction::Fallocate(_) = op.action {
                let data = &mut self.files[file].data;
                let end = (op.offset + op.len) as usize;
                data.resize(data.len().max(end), 0);
            }
            return 0;
        }
        if again {
            return -i64::from(if self.random.bool() { libc::EAGAIN } else { libc::EINTR });
        }
        if fail {
            flight.fatal = Some(libc::EIO);
            return -i64::from(libc::EIO);
        }
        let segments: Vec<(usize, usize)> = match op.memory {
            Memory::None => panic!("a transfer without memory: {op:?}"),
            Memory::Plain(at) => vec![(at as usize, op.len as usize)],
            Memory::Segments(at, count) => {
                // SAFETY: the event under test keeps its segments until its callback.
                let segments = unsafe { std::slice::from_raw_parts(at, count as usize) };
                segments.iter().map(|part| (part.iov_base as usize, part.iov_len)).collect()
            }
        };
        for (at, len) in &segments {
            let inside = |(start, size): &(usize, usize)| at >= start && at + len <= start + size;
            assert!(*len == 0 || flight.memory.iter().any(inside), "foreign memory: {op:?}");
        }
        assert_eq!(segments.iter().map(|(_, len)| *len as u64).sum::<u64>(), op.len, "{op:?}");
        let File { data, capacity, direct } = &mut self.files[file];
        if *direct && !op.offset.is_multiple_of(BLOCK) {
            // The end of a direct read, asked for again; anything else would be the event's fault.
            assert!(op.action == IOAction::Read && flight.moved > 0, "misaligned: {op:?}");
            return -i64::from(libc::EINVAL);
        }
        let offset = op.offset as usize;
        let room = match op.action {
            IOAction::Read => data.len().saturating_sub(offset),
            _ => capacity.saturating_sub(offset),
        };
        let mut whole = room.min(op.len as usize);
        if whole == 0 && op.len > 0 {
            if op.action == IOAction::Read {
                return 0;
            }
            flight.fatal = Some(libc::ENOSPC);
            return -i64::from(libc::ENOSPC);
        }
        if short && whole > 1 {
            whole = self.random.usize(1..whole);
            if *direct {
                whole = (whole as u64).next_multiple_of(BLOCK).min(room.min(op.len as usize) as u64)
                    as usize;
            }
        }
        flight.moved += whole as u64;
        let mut at = offset;
        let mut left = whole;
        for (memory, len) in segments {
            // SAFETY: checked above to be the memory of an event in flight.
            let bytes = unsafe { std::slice::from_raw_parts_mut(memory as *mut u8, len) };
            let moved = len.min(left);
            match op.action {
                IOAction::Read => {
                    let there = data.get(at..at + moved).unwrap_or_default();
                    bytes[..moved].copy_from_slice(there);
                    // What was not read may hold anything meanwhile.
                    bytes[moved..].fill(0xdb);
                }
                _ if moved > 0 => {
                    data.resize(data.len().max(at + moved), 0);
                    data[at..at + moved].copy_from_slice(&bytes[..moved]);
                }
                _ => {}
            }
            at += moved;
            left -= moved;
        }
        whole as i64
    }
}

/// The simulated interface.
#[derive(Default)]
pub(crate) struct Sim {
    queued: Vec<(u32, Op)>,
    taken: Vec<(u32, Op)>,
    refusals: u32,
}

impl Interface for Sim {
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn prep(&mut self, slot: u32, op: &Op) -> Prep {
        let known = |(other, _): &(u32, Op)| *other == slot;
        assert!(
            !self.queued.iter().any(known) && !self.taken.iter().any(known),
            "slot {slot} is used"
        );
        if self.queued.len() >= with_world(|world| world.trouble.capacity) {
            return Prep::Full;
        }
        // An old kernel lacks everything but transfers.
        if !op.action.is_transfer() && with_world(|world| world.happens(world.trouble.lack)) {
            with_world(|world| world.flight(op).fatal = Some(libc::EOPNOTSUPP));
            return Prep::Unsupported;
        }
        self.queued.push((slot, *op));
        Prep::Queued
    }

    fn queued(&self) -> usize {
        self.queued.len()
    }

    fn enter(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        with_world(|world| {
            assert!(!submit || !world.broken, "submitted to a ring that is broken for good");
            if submit && world.random.u16(..) < world.trouble.breaks.into() {
                // It takes nothing any more, and hands out what it holds.
                world.broken = true;
                for (_, op) in &self.queued {
                    world.flight(op).fatal = Some(libc::EPERM);
                }
                return Entered::Refused(libc::EPERM);
            }
            // Never for ever: a kernel that refuses always is not waited for by anyone.
            if submit && self.refusals < 3 && world.happens(world.trouble.refuse) {
                self.refusals += 1;
                return Entered::Refused(if world.random.bool() {
                    libc::EAGAIN
                } else {
                    libc::EBUSY
                });
            }
            self.refusals = 0;
            if submit {
                let mut count = self.queued.len();
                if count > 1 && world.happens(world.trouble.refuse) {
                    count = world.random.usize(1..count);
                }
                self.taken.extend(self.queued.drain(..count));
            }
            let wanted = match wait {
                Wait::No => 0,
                // As the kernel does, when it did not take all.
                _ if submit && !self.queued.is_empty() => 0,
                Wait::For(min, timeout) => {
                    let min = min as usize;
                    assert!(timeout.is_some() || min <= self.taken.len(), "a wait without an end");
                    min.min(self.taken.len())
                }
            };
            let mut completed = 0;
            while !self.taken.is_empty() {
                if completed >= wanted && world.happens(world.trouble.delay) {
                    break;
                }
                let next = world.random.usize(..self.taken.len());
                let (slot, op) = self.taken.swap_remove(next);
                done.push(Done { slot, result: world.perform(&op) });
                completed += 1;
            }
            Entered::Fine
        })
    }

    fn has_news(&mut self) -> bool {
        !self.taken.is_empty()
    }

    fn notify(&mut self, _fd: RawFd) -> io::Result<()> {
        Ok(())
    }

    fn must_poll(&self) -> bool {
        false
    }

    fn system_calls(&self) -> u64 {
        0
    }
}
