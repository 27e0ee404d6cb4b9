//! A kernel that is none: files in memory, and everything that a real one may do, decided by a
//! seeded generator. It reorders, delays, shortens, fails, refuses to queue and refuses to take.
//!
//! The world that it works on belongs to the thread, and to the threads of its contexts. Whose bytes an operation moves it knows by their
//! memory: every byte belongs to one event in flight, and to one place in a file.

#![cfg_attr(fuzzing, allow(dead_code))] // the histories look at more

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::aio::{Calls, Command, IoEvent, Iocb};
use super::backed::Behind;
use super::{Done, Driver, Entered, Interface, Prep, Refusal, Wait, NOT_TAKEN};
use crate::clock::{self, Clock};
use crate::gate::lock;
use crate::tasks::{flags, IOAction, Memory, Op};
use crate::wake::clear_eventfd;

/// Direct I/O on a file marked direct is refused off this boundary.
pub(crate) const BLOCK: u64 = 512;

/// No descriptor of the test's process.
const FIRST_DESCRIPTOR: RawFd = 1 << 20;

const FILES: RawFd = 16;

/// As many reactors of a context may work on one world.
pub(crate) const MAX_REACTORS: usize = 4;

/// As many of all contexts, one after the other.
pub(crate) const MAX_SERVED: usize = 16;

/// As deep is one that serves: the machine's limit.
const MAX_DEPTH: u32 = 64;

/// The descriptor of a file; that of what moves no bytes also says whose it is.
pub(crate) fn descriptor(event: u32, file: usize) -> RawFd {
    FIRST_DESCRIPTOR + event as RawFd * FILES + file as RawFd
}

/// The file of a descriptor: one that there is not, for a number that is none.
pub(crate) fn file_of(fd: RawFd) -> usize {
    match fd {
        FIRST_DESCRIPTOR.. => ((fd - FIRST_DESCRIPTOR) % FILES) as usize,
        _ => NO_FILE,
    }
}

const NO_FILE: usize = FILES as usize;

fn event_of(fd: RawFd) -> u32 {
    ((fd - FIRST_DESCRIPTOR) / FILES) as u32
}

#[derive(Default)]
pub(crate) struct File {
    pub data: Vec<u8>,
    /// Writes and allocations stop here with ENOSPC.
    pub capacity: usize,
    /// This byte can be neither read nor written.
    pub bad: Option<usize>,
    /// O_ flags of open(2).
    pub flags: i32,
}

impl File {
    fn is(&self, flag: i32) -> bool {
        self.flags & flag == flag
    }
}

/// What the kernel knows of an event in flight.
#[derive(Default, Debug)]
pub(crate) struct Flight {
    pub file: usize,
    pub offset: u64,
    /// The memory it may touch: where, and how much.
    pub memory: usize,
    pub len: usize,
    /// Bytes that it moved.
    pub moved: u64,
    pub operations: u32,
    /// The result that ends the event: an error, or 0 where the file ended.
    pub last: Option<i32>,
    /// It has to be asked for by itself from here on.
    pub alone: bool,
    /// It travelled behind another event.
    pub followed: bool,
    /// What its operations have to carry.
    pub flags: u32,
    pub priority: u16,
    /// When it is to end; whether somebody asked for it back.
    pub deadline: Option<Instant>,
    pub cancelled: bool,
    /// Operations that were prepared and are not done.
    pub in_kernel: u32,
    /// When its last operation ended.
    pub ended: u64,
}

impl Flight {
    /// Fails where this cannot be how the event ended. The errno with which it did, if so.
    pub(crate) fn check(
        &self,
        id: u32,
        action: IOAction,
        result: i64,
        transferred: u64,
    ) -> Option<i32> {
        let Flight { moved, last, cancelled, deadline, operations, len, .. } = *self;
        assert_eq!(self.in_kernel, 0, "event {id}: the kernel is not done with it");
        let due = deadline.is_some_and(|at| at <= clock::now());
        let stopped = result == -i64::from(libc::ECANCELED) && cancelled
            || result == -i64::from(libc::ETIMEDOUT) && due;
        let done = operations > 0 && moved > 0 && moved == len as u64;
        assert!(!stopped || !done, "event {id} was whole");
        let own = last.filter(|errno| *errno > 0);
        let fatal = if stopped { Some(-result as i32) } else { own };
        assert_eq!(transferred, moved, "event {id}: transferred is what the kernel moved");
        match fatal {
            Some(errno) => assert_eq!(result, -i64::from(errno), "event {id}"),
            None if action.is_transfer() => assert_eq!(result, moved as i64, "event {id}"),
            None if action.is_sync() => {}
            None => assert_eq!(result, 0, "event {id}"),
        }
        fatal
    }

    /// Whether it is to end before it is whole.
    pub(crate) fn ends(&self) -> bool {
        self.cancelled || self.deadline.is_some_and(|at| at <= clock::now())
    }
}

/// A sync that the kernel did.
#[derive(Debug)]
pub(crate) struct Sync {
    pub file: usize,
    pub fsync: bool,
    pub started: u64,
    pub ended: u64,
    pub result: i64,
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
    /// AIO refuses an operation when it is submitted.
    pub reject: u8,
    /// Of 65536: the interface breaks for good.
    pub breaks: u8,
}

/// What the interfaces of one reactor know of each other.
#[derive(Clone, Default)]
pub(crate) struct Interfaces {
    /// The kernel's broke; what it still did may be told with an error.
    pub broken: bool,
    /// Operations in the pool, which end a wait in the kernel.
    in_pool: usize,
    announced: bool,
}

#[derive(Default)]
pub(crate) struct World {
    pub random: fastrand::Rng,
    pub files: Vec<File>,
    pub flights: BTreeMap<u32, Flight>,
    /// Events that travelled behind another.
    pub merged: u64,
    /// What an operation of several events may span.
    pub limit: u64,
    pub trouble: Trouble,
    /// Of each reactor.
    pub reactors: [Interfaces; MAX_SERVED],
    pub operations: u64,
    /// Counts everything that happens.
    pub tick: u64,
    pub syncs: Vec<Sync>,
    /// Syncs of a file are joined: no two run at a time.
    pub groups: bool,
    pub syncing: BTreeMap<usize, u32>,
    /// Events are cancelled, and have time limits.
    pub ends: bool,
    /// An interface says what it prepares at once.
    pub sees_all: bool,
    /// Contexts that are made on its threads work on it: whether they do, and how many reactors they
    /// have had.
    pub serves: bool,
    pub served: usize,
}

/// What another thread might do at any moment, between any two steps of the reactor.
type Meanwhile = Box<dyn Fn()>;

/// A world and its clock, to be had by other threads too.
#[derive(Clone)]
pub(crate) struct Shared {
    world: Arc<Mutex<World>>,
    clock: Clock,
}

impl Shared {
    /// A new one, of nobody yet.
    pub(crate) fn new() -> Self {
        Shared { world: Arc::default(), clock: Clock::new() }
    }

    /// This thread's.
    pub(crate) fn own() -> Self {
        Shared { world: WORLD.with_borrow(Arc::clone), clock: Clock::own() }
    }

    /// From here on it is this thread's.
    pub(crate) fn join(self) {
        WORLD.set(self.world);
        self.clock.join();
    }
}

thread_local! {
    static WORLD: RefCell<Arc<Mutex<World>>> = RefCell::default();
    static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
}

/// Has this called at every step of the kernel.
pub(crate) fn set_meanwhile(meanwhile: impl Fn() + 'static) {
    MEANWHILE.set(Some(Box::new(meanwhile)));
}

fn meanwhile() {
    MEANWHILE.with_borrow(|meanwhile| meanwhile.iter().for_each(|act| act()));
}

/// Looks at the world, or changes it, between the calls of the engine.
pub(crate) fn with_world<R>(f: impl FnOnce(&mut World) -> R) -> R {
    let world = WORLD.with_borrow(Arc::clone);
    let mut world = lock(&world);
    f(&mut world)
}

/// What an operation does that a caller wants done on his own thread; `None` where the world serves no
/// contexts.
pub(crate) fn run(op: &Op) -> Option<i64> {
    with_world(|world| {
        world.serves.then(|| {
            let since = world.arrives(op);
            let result = world.perform(op, since);
            world.leaves(op);
            result
        })
    })
}

/// What a context gets instead of a driver, where the world serves contexts: a number for its
/// reactor, and a depth, not below the least.
pub(crate) fn stand_in(
    driver: Driver,
    depth: u32,
    least: u32,
) -> Option<Result<(usize, u32), Refusal>> {
    with_world(|world| {
        let number = world.served;
        let chosen = world.serves.then(|| match number {
            0..MAX_SERVED => Ok((number, depth.min(MAX_DEPTH.max(least)))),
            _ => Err(Refusal::new(driver, libc::EMFILE, "the world is full", depth)),
        });
        world.served += usize::from(matches!(chosen, Some(Ok(_))));
        chosen
    })
}

impl World {
    pub(crate) fn happens(&mut self, chance: u8) -> bool {
        self.random.u8(..) < chance
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// An operation comes to the kernel.
    fn arrives(&mut self, op: &Op) -> u64 {
        if op.action.is_sync() {
            let running = self.syncing.entry(file_of(op.fd)).or_default();
            *running += 1;
            assert!(*running == 1 || !self.groups, "two syncs of a file at a time");
        } else {
            let ends = self.sees_all;
            for id in self.members_of(op) {
                let flight = self.flight(id);
                let over = flight.deadline.is_some_and(|at| at <= clock::now());
                assert!(!ends || !over, "issued when its time was up: event {id}");
                flight.in_kernel += 1;
            }
        }
        self.tick()
    }

    /// The kernel is done with an operation.
    fn leaves(&mut self, op: &Op) {
        let tick = self.tick();
        if op.action.is_sync() {
            *self.syncing.entry(file_of(op.fd)).or_default() -= 1;
            return;
        }
        for id in self.members_of(op) {
            let flight = self.flight(id);
            flight.in_kernel -= 1;
            flight.ended = tick;
        }
    }

    /// Asks for an operation back. Its result, where there is one: it did nothing.
    fn gives_back(&mut self, op: &Op) -> Option<i64> {
        if !op.action.is_sync() {
            for id in self.members_of(op) {
                assert!(self.flight(id).ends(), "nobody wanted event {id} back: {op:?}");
            }
        }
        match self.random.u8(..3) {
            0 => None,
            1 => Some(-i64::from(libc::EINTR)),
            _ => Some(-i64::from(libc::ECANCELED)),
        }
    }

    /// The events whose bytes the operation moves, in order. Each byte goes between its event's own
    /// memory and its own place in the file.
    fn members_of(&mut self, op: &Op) -> Vec<u32> {
        let file = file_of(op.fd);
        let mut segments: Vec<(usize, usize)> = match op.memory {
            Memory::None => vec![],
            Memory::Plain(at) => vec![(at as usize, op.len as usize)],
            Memory::Segments(at, count) => {
                // SAFETY: the events under test keep their segments until their callbacks.
                let segments = unsafe { std::slice::from_raw_parts(at, count as usize) };
                segments.iter().map(|part| (part.iov_base as usize, part.iov_len)).collect()
            }
        };
        let len = segments.iter().map(|(_, len)| *len as u64).sum::<u64>();
        if len > 0 {
            // Those may be anywhere.
            segments.retain(|(_, len)| *len > 0);
        }
        assert!(!op.action.is_transfer() || len == op.len, "{op:?}");
        assert!(segments.len() <= 1024, "more segments than a kernel takes");
        let mut members: Vec<u32> = Vec::new();
        if !op.action.is_transfer() {
            // Without a file nobody can tell.
            members.extend((file < self.files.len()).then(|| event_of(op.fd)));
            return members;
        }
        let mut offset = op.offset;
        for (mut at, mut len) in segments {
            while len > 0 || members.is_empty() {
                let owner = self.flights.iter().find(|(_, flight)| {
                    let inside = at.wrapping_sub(flight.memory);
                    let touches = inside < flight.len || len == 0 && inside == flight.len;
                    let touches = touches && (op.len > 0) == (flight.len > 0);
                    let place = flight.offset.wrapping_add(inside as u64) == offset;
                    flight.file == file && flight.memory > 0 && touches && place
                });
                let (id, flight) = owner.unwrap_or_else(|| panic!("foreign memory: {op:?}"));
                let part = len.min(flight.memory + flight.len - at);
                if members.last() != Some(id) {
                    members.push(*id);
                }
                (at, len, offset) = (at + part, len - part, offset + part as u64);
            }
        }
        assert!(members.len() < 2 || op.len <= self.limit, "beyond {}: {op:?}", self.limit);
        members
    }

    /// The same, for an operation that is done now.
    fn members(&mut self, op: &Op) -> Vec<u32> {
        let members = self.members_of(op);
        for (number, id) in members.iter().enumerate() {
            let flight = self.flight(*id);
            flight.operations += 1;
            assert!(flight.last.is_none(), "an operation after the last: event {id}, {op:?}");
            let alone = flight.alone || flight.flags & flags::ALONE != 0;
            assert!(!alone || members.len() == 1, "event {id} has to be alone: {op:?}");
            assert_eq!(flight.flags, op.flags, "event {id}: {op:?}");
            assert_eq!(flight.priority, op.priority, "event {id}: {op:?}");
            let whole = flight.moved == 0 && flight.len as u64 == op.len;
            assert!(op.flags & flags::ATOMIC == 0 || whole, "event {id}, split: {op:?}");
            if number > 0 && !std::mem::replace(&mut flight.followed, true) {
                self.merged += 1;
            }
        }
        members
    }

    fn flight(&mut self, id: u32) -> &mut Flight {
        self.flights.get_mut(&id).expect("an event in flight")
    }

    /// An operation failed: says what that means for its events, as the engine must see it.
    fn fail(&mut self, op: &Op, members: &[u32], errno: i32) -> i64 {
        let file = self.files.get(file_of(op.fd));
        let own = [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EINVAL];
        let durable = file.is_some_and(|file| file.is(libc::O_SYNC) || file.is(libc::O_DSYNC))
            || op.flags & flags::DSYNC != 0;
        let apart = op.action == IOAction::Read || own.contains(&errno) && !durable;
        for id in members {
            let flight = self.flight(*id);
            match members {
                [_, _, ..] if apart => flight.alone = true,
                _ => flight.last = Some(errno),
            }
        }
        -i64::from(errno)
    }

    /// Does an operation as a kernel might, and says how it ended.
    fn perform(&mut self, op: &Op, started: u64) -> i64 {
        self.operations += 1;
        if self.ends {
            clock::advance(Duration::from_micros(self.random.u64(..400)));
        }
        if op.action.is_sync() {
            let result = match self.happens(self.trouble.fail) {
                _ if file_of(op.fd) >= self.files.len() => -i64::from(libc::EBADF),
                true => -i64::from(libc::EIO),
                false => 0,
            };
            let (file, fsync) = (file_of(op.fd), op.action == IOAction::Fsync);
            let ended = self.tick();
            self.syncs.push(Sync { file, fsync, started, ended, result });
            return result;
        }
        let members = self.members(op);
        let again = self.happens(self.trouble.again);
        let fail = self.happens(self.trouble.fail);
        let short = self.happens(self.trouble.short);
        if file_of(op.fd) >= self.files.len() {
            return self.fail(op, &members, libc::EBADF);
        }
        if !op.action.is_transfer() {
            let file = &mut self.files[file_of(op.fd)];
            let end = (op.offset + op.len) as usize;
            let errno = if self.random.bool() { libc::EAGAIN } else { libc::EINTR };
            return match op.action {
                _ if fail => self.fail(op, &members, libc::EIO),
                // It has no second chance.
                IOAction::SyncRange(_) if again => self.fail(op, &members, errno),
                _ if again => -i64::from(errno),
                IOAction::Fallocate(_) if end > file.capacity => {
                    self.fail(op, &members, libc::ENOSPC)
                }
                IOAction::Fallocate(_) => {
                    file.data.resize(file.data.len().max(end), 0);
                    0
                }
                IOAction::Truncate if end > file.capacity => self.fail(op, &members, libc::EFBIG),
                IOAction::Truncate => {
                    file.data.resize(end, 0);
                    0
                }
                _ => 0,
            };
        }
        if again && op.flags & flags::NOWAIT != 0 && self.random.bool() {
            return self.fail(op, &members, libc::EAGAIN);
        }
        if again && op.flags & flags::NOWAIT != 0 {
            return -i64::from(libc::EINTR);
        }
        if again {
            return -i64::from(if self.random.bool() { libc::EAGAIN } else { libc::EINTR });
        }
        if fail {
            // Reads have a meaning of their own for EINVAL.
            let errnos = [libc::EIO, libc::EBADF, libc::EOPNOTSUPP, libc::EDQUOT, libc::EINVAL];
            let kinds = if op.action == IOAction::Read { 4 } else { 5 };
            let errno = errnos[self.random.usize(..kinds)];
            return self.fail(op, &members, errno);
        }
        self.transfer(op, &members, short)
    }

    fn transfer(&mut self, op: &Op, members: &[u32], short: bool) -> i64 {
        let file = &self.files[file_of(op.fd)];
        let (direct, append) = (file.is(libc::O_DIRECT), file.is(libc::O_APPEND));
        let offset = op.offset as usize;
        let room = match op.action {
            IOAction::Read => file.data.len().saturating_sub(offset),
            _ => file.capacity.saturating_sub(offset),
        };
        let mut whole = room.min(op.len as usize);
        let bad = file.bad.and_then(|at| at.checked_sub(offset)).filter(|at| *at < whole);
        if append && op.action == IOAction::Write {
            assert_eq!(members.len(), 1, "appended together: {op:?}");
        }
        if direct {
            for id in members.iter().filter(|_| members.len() > 1) {
                let Flight { offset, memory, len, moved, .. } = *self.flight(*id);
                let aligned = (offset | memory as u64 | len as u64) % BLOCK == 0;
                assert!(aligned || moved > 0, "joined though misaligned: event {id}, {op:?}");
            }
            if op.offset % BLOCK != 0 {
                let first = self.flight(members[0]);
                if members.len() == 1 && op.action == IOAction::Read && first.moved > 0 {
                    // The end of a direct read, asked for again.
                    first.last = Some(0);
                    return -i64::from(libc::EINVAL);
                }
                return self.fail(op, members, libc::EINVAL);
            }
        }
        if whole == 0 && op.len > 0 {
            if op.action == IOAction::Read {
                members.iter().for_each(|id| self.flight(*id).last = Some(0));
                return 0;
            }
            return self.fail(op, members, libc::ENOSPC);
        }
        if let Some(at) = bad {
            // As much as there is before it, in blocks where that is the file's manner.
            whole = if direct { at - at % BLOCK as usize } else { at };
            if whole == 0 {
                return self.fail(op, members, libc::EIO);
            }
        }
        if op.flags & flags::ATOMIC != 0 && whole < op.len as usize {
            return self.fail(op, members, libc::ENOSPC);
        }
        if short && whole > 1 && op.flags & flags::ATOMIC == 0 {
            let limit = whole;
            whole = self.random.usize(1..whole);
            if direct {
                whole = (whole as u64).next_multiple_of(BLOCK).min(limit as u64) as usize;
            }
        }
        let mut at = offset;
        let end = offset + whole;
        for id in members {
            let flight = self.flight(*id);
            let from = at - flight.offset as usize;
            let until = flight.len.min(end.saturating_sub(flight.offset as usize));
            let len = flight.len;
            let memory = flight.memory as *mut u8;
            if until > from {
                flight.moved = until as u64;
            }
            // SAFETY: the memory of an event in flight, which the test gave and keeps.
            let bytes = unsafe { std::slice::from_raw_parts_mut(memory.add(from), len - from) };
            let moved = until.saturating_sub(from);
            let data = &mut self.files[file_of(op.fd)].data;
            match op.action {
                IOAction::Read => {
                    let there = data.get(at..at + moved).unwrap_or_default();
                    bytes[..moved].copy_from_slice(there);
                    // What was asked for and not read may hold anything meanwhile.
                    bytes[moved..].fill(0xdb);
                }
                _ if moved > 0 => {
                    data.resize(data.len().max(at + moved), 0);
                    data[at..at + moved].copy_from_slice(&bytes[..moved]);
                }
                _ => {}
            }
            at = at + len - from;
        }
        whole as i64
    }
}

/// What a simulated interface stands for.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Role {
    #[default]
    Kernel,
    Pool,
}

/// The simulated interface of a reactor.
#[derive(Default)]
pub(crate) struct Sim {
    reactor: usize,
    role: Role,
    queued: Vec<Task>,
    taken: Vec<Task>,
    refusals: u32,
    /// The wake-up of a reactor with a thread of its own.
    wake: Option<RawFd>,
    /// The world it was made in.
    shared: Option<Shared>,
}

/// An operation that an interface has.
struct Task {
    slot: u64,
    op: Op,
    /// When it came.
    since: u64,
    /// It was given back, and does nothing.
    given_back: Option<i64>,
}

impl Task {
    fn new(world: &mut World, slot: u64, op: Op) -> Self {
        Task { slot, op, since: world.arrives(&op), given_back: None }
    }

    /// Does the operation, and says how it ended.
    fn perform(self, world: &mut World) -> i64 {
        let result = match self.given_back {
            Some(result) => {
                world.operations += 1;
                result
            }
            None => world.perform(&self.op, self.since),
        };
        world.leaves(&self.op);
        result
    }
}

// SAFETY: used on one thread at a time; what its operations point to is the world's matter.
unsafe impl Send for Sim {}

impl Sim {
    pub(crate) fn new(reactor: usize) -> Self {
        Sim { reactor, ..Sim::default() }
    }

    /// One that takes everything, never refuses and never breaks.
    pub(crate) fn pool(reactor: usize) -> Self {
        Sim { reactor, role: Role::Pool, ..Sim::default() }
    }

    /// The same for a reactor's thread, which is to work on this thread's world. It sleeps where nothing
    /// can complete, until this descriptor is written.
    pub(crate) fn woken_by(self, wake: Option<RawFd>) -> Self {
        Sim { wake, shared: Some(Shared::own()), ..self }
    }

    /// Sleeps if there is nothing that a wait would end with; whether it did. Time passes where nobody
    /// ends it.
    fn sleep(&self, wait: Wait) -> bool {
        let (Some(fd), Wait::For(_, time)) = (self.wake, wait) else { return false };
        let has_some = !self.queued.is_empty() || !self.taken.is_empty();
        let in_pool = || with_world(|world| world.reactors[self.reactor].in_pool > 0);
        if has_some || self.role == Role::Kernel && in_pool() {
            return false;
        }
        let mut wake = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, as it says.
        let woken = unsafe { libc::poll(&mut wake, 1, if time.is_some() { 1 } else { -1 }) };
        match time.filter(|_| woken == 0) {
            Some(time) => clock::advance(time),
            None => clear_eventfd(fd),
        }
        true
    }

    /// Does some of what was taken, `wanted` operations at least.
    fn complete(&mut self, world: &mut World, wanted: usize, done: &mut Vec<Done>) {
        let mut completed = 0;
        while !self.taken.is_empty() {
            if completed >= wanted && world.happens(world.trouble.delay) {
                break;
            }
            let next = world.random.usize(..self.taken.len());
            let task = self.taken.swap_remove(next);
            let slot = task.slot as u32;
            done.push(Done { slot, result: task.perform(world) });
            completed += 1;
        }
        if self.role == Role::Pool {
            world.reactors[self.reactor].in_pool -= completed;
        }
    }

    fn breaks(&mut self, world: &mut World, done: &mut Vec<Done>) -> Entered {
        world.reactors[self.reactor].broken = true;
        for task in self.taken.drain(..) {
            let slot = task.slot as u32;
            let result = match world.random.bool() {
                true => task.perform(world),
                false => {
                    let result = world.lose(&task.op, task.since, libc::EPERM);
                    world.leaves(&task.op);
                    result
                }
            };
            done.push(Done { slot, result });
        }
        for task in self.queued.drain(..) {
            world.leaves(&task.op);
            done.push(Done { slot: task.slot as u32, result: NOT_TAKEN });
        }
        Entered::Broken(libc::EPERM)
    }
}

impl World {
    /// An operation is done, or not, and nobody can tell any more.
    fn lose(&mut self, op: &Op, started: u64, errno: i32) -> i64 {
        self.operations += 1;
        let result = -i64::from(errno);
        if op.action.is_sync() {
            let (file, fsync) = (file_of(op.fd), op.action == IOAction::Fsync);
            let ended = self.tick();
            self.syncs.push(Sync { file, fsync, started, ended, result });
            return result;
        }
        let members = self.members(op);
        self.fail(op, &members, errno)
    }

    /// How many completions a wait must bring, of those that can come.
    fn wait_for(&mut self, reactor: usize, wait: Wait, taken: usize) -> usize {
        let Wait::For(min, timeout) = wait else { return 0 };
        if let Some(time) = timeout.filter(|_| self.ends && self.random.u8(..3) == 0) {
            clock::advance(time);
            return 0;
        }
        if self.reactors[reactor].in_pool > 0 {
            assert!(self.reactors[reactor].announced, "a wait that the pool cannot end");
            assert!(min <= 1, "a wait for more than the first of either");
            return if self.random.bool() { 0 } else { taken.min(1) };
        }
        let min = min as usize;
        assert!(self.ends && timeout.is_some() || min <= taken, "a wait without an end");
        if let Some(time) = timeout.filter(|_| min > taken) {
            clock::advance(time);
        }
        min.min(taken)
    }
}

impl Interface for Sim {
    fn start(&mut self) -> io::Result<()> {
        if let Some(shared) = self.shared.take() {
            shared.join();
        }
        Ok(())
    }

    fn prep(&mut self, slot: u32, op: &Op) -> Prep {
        meanwhile();
        let known = |task: &Task| task.slot == u64::from(slot);
        assert!(
            !self.queued.iter().any(known) && !self.taken.iter().any(known),
            "slot {slot} is used"
        );
        with_world(|world| {
            if self.role == Role::Kernel {
                assert!(
                    !world.reactors[self.reactor].broken,
                    "prepared for a ring that is broken for good"
                );
                if self.queued.len() >= world.trouble.capacity {
                    return Prep::Full;
                }
                // An old kernel lacks everything but transfers; some files block it.
                if world.happens(world.trouble.lack) {
                    return Prep::Unsupported;
                }
            } else {
                world.reactors[self.reactor].in_pool += 1;
            }
            self.queued.push(Task::new(world, slot.into(), *op));
            Prep::Queued
        })
    }

    fn queued(&self) -> usize {
        self.queued.len()
    }

    fn enter(&mut self, submit: bool, wait: Wait, done: &mut Vec<Done>) -> Entered {
        meanwhile();
        if self.sleep(wait) {
            return Entered::Fine;
        }
        with_world(|world| {
            if self.role == Role::Pool {
                self.taken.append(&mut self.queued);
                let wanted = match wait {
                    Wait::No => 0,
                    Wait::For(_, Some(time)) if self.taken.is_empty() || world.random.bool() => {
                        clock::advance(time);
                        0
                    }
                    Wait::For(min, _) => self.taken.len().min(min as usize),
                };
                self.complete(world, wanted, done);
                return Entered::Fine;
            }
            assert!(!world.reactors[self.reactor].broken, "entered a ring that is broken for good");
            if world.random.u16(..) < world.trouble.breaks.into() {
                return self.breaks(world, done);
            }
            // Never for ever: a kernel that refuses always is not waited for by anyone.
            if submit && self.refusals < 3 && world.happens(world.trouble.refuse) {
                self.refusals += 1;
                let errno = if world.random.bool() { libc::EAGAIN } else { libc::EBUSY };
                return Entered::Refused(errno);
            }
            self.refusals = 0;
            if submit {
                let mut count = self.queued.len();
                if count > 1 && world.happens(world.trouble.refuse) {
                    count = world.random.usize(1..count);
                }
                self.taken.extend(self.queued.drain(..count));
            }
            // As the kernel does, when it did not take all.
            let wait = if submit && !self.queued.is_empty() { Wait::No } else { wait };
            let wanted = world.wait_for(self.reactor, wait, self.taken.len());
            self.complete(world, wanted, done);
            Entered::Fine
        })
    }

    fn has_news(&mut self) -> bool {
        !self.taken.is_empty()
    }

    fn notify(&mut self, _fd: RawFd) -> io::Result<()> {
        Ok(())
    }

    fn cancel(&mut self, slot: u32) -> bool {
        let is_it = |task: &&mut Task| task.slot == u64::from(slot);
        let all = self.taken.iter_mut().chain(&mut self.queued);
        let Some(task) = { all }.find(is_it) else { return false };
        assert!(task.given_back.is_none(), "asked for slot {slot} twice");
        with_world(|world| task.given_back = world.gives_back(&task.op));
        true
    }

    fn system_calls(&self) -> u64 {
        0
    }

    fn status_flags(&self, fd: RawFd) -> i32 {
        with_world(|world| world.files.get(file_of(fd)).map_or(-1, |file| file.flags))
    }

    fn direct_boundary(&self, _fd: RawFd) -> Option<u64> {
        with_world(|world| world.random.bool().then_some(BLOCK))
    }
}

impl Behind for Sim {
    fn announce_wait(&mut self, _alone: bool) -> bool {
        with_world(|world| {
            world.reactors[self.reactor].announced = true;
            world.random.bool()
        })
    }

    fn waited(&mut self) {
        with_world(|world| world.reactors[self.reactor].announced = false);
    }
}

/// The system calls of Linux AIO, with the manners of the kernel's: io_submit(2) takes some of a
/// batch, stops at one that it refuses, and says why only when that one comes first.
#[derive(Default)]
pub(crate) struct SimAio {
    reactor: usize,
    taken: Vec<Task>,
    completed: Vec<IoEvent>,
    watching: bool,
    refusals: u32,
    /// The operation that the next call refuses, because the last one stopped at it.
    rejected: Option<u64>,
}

// SAFETY: made and used on one thread, whose world it works on.
unsafe impl Send for SimAio {}

impl SimAio {
    pub(crate) fn new(reactor: usize) -> Self {
        SimAio { reactor, ..SimAio::default() }
    }

    fn operation(iocb: &Iocb) -> Op {
        let (at, count) = (iocb.at as usize, iocb.len as u32);
        let (action, vectored) = match iocb.command {
            Command::Read => (IOAction::Read, false),
            Command::ReadVectored => (IOAction::Read, true),
            Command::Write => (IOAction::Write, false),
            Command::WriteVectored => (IOAction::Write, true),
            Command::Fsync => (IOAction::Fsync, false),
            Command::Fdatasync => (IOAction::Fdatasync, false),
            Command::Poll => panic!("a poll is no operation"),
        };
        let (memory, len) = match (action.is_transfer(), vectored) {
            (false, _) => (Memory::None, 0),
            (true, false) => (Memory::Plain(at as *mut u8), iocb.len),
            (true, true) => {
                let segments = at as *const libc::iovec;
                // SAFETY: the event under test keeps its segments until its callback.
                let parts = unsafe { std::slice::from_raw_parts(segments, count as usize) };
                let len = parts.iter().map(|part| part.iov_len as u64).sum();
                (Memory::Segments(segments, count), len)
            }
        };
        Op {
            action,
            fd: iocb.fd as RawFd,
            offset: iocb.offset as u64,
            len,
            memory,
            flags: iocb.rw_flags,
            priority: iocb.priority as u16,
        }
    }

    fn complete(&mut self, world: &mut World, wanted: usize) {
        while !self.taken.is_empty() {
            if self.completed.len() >= wanted && world.happens(world.trouble.delay) {
                break;
            }
            let next = world.random.usize(..self.taken.len());
            let task = self.taken.swap_remove(next);
            let data = task.slot;
            let result = task.perform(world);
            self.completed.push(IoEvent { data, result, ..IoEvent::default() });
        }
    }
}

impl Calls for SimAio {
    fn submit(&mut self, batch: &[*mut Iocb]) -> Result<usize, i32> {
        meanwhile();
        with_world(|world| {
            if world.random.u16(..) < world.trouble.breaks.into() && !batch.is_empty() {
                world.reactors[self.reactor].broken = true;
            }
            if world.reactors[self.reactor].broken {
                return Err(libc::EPERM);
            }
            let mut taken = 0;
            for iocb in batch {
                // SAFETY: the driver's own, alive for the call.
                let iocb = unsafe { **iocb };
                let again = self.refusals < 3 && world.happens(world.trouble.refuse);
                if iocb.command == Command::Poll {
                    assert!(!std::mem::replace(&mut self.watching, true), "watched twice");
                    taken += 1;
                    continue;
                }
                let known = self.rejected == Some(iocb.data);
                if known || world.happens(world.trouble.reject) {
                    self.rejected = Some(iocb.data);
                    if taken > 0 {
                        return Ok(taken);
                    }
                    self.rejected = None;
                    let op = Self::operation(&iocb);
                    let now = world.tick();
                    world.lose(&op, now, libc::EBADF);
                    return Err(libc::EBADF);
                }
                if again {
                    self.refusals += 1;
                    return if taken > 0 { Ok(taken) } else { Err(libc::EAGAIN) };
                }
                self.refusals = 0;
                assert!(self.rejected.is_none(), "a refused operation was passed over");
                self.taken.push(Task::new(world, iocb.data, Self::operation(&iocb)));
                taken += 1;
            }
            Ok(taken)
        })
    }

    fn reap(&mut self, events: &mut Vec<IoEvent>) {
        with_world(|world| self.complete(world, 0));
        events.append(&mut self.completed);
    }

    fn has_completions(&self) -> bool {
        !self.completed.is_empty() || !self.taken.is_empty()
    }

    fn wait(
        &mut self,
        min: usize,
        time: Option<Duration>,
        events: &mut Vec<IoEvent>,
    ) -> Result<(), i32> {
        with_world(|world| {
            let wait = Wait::For(min as u32, time);
            let wanted = match world.reactors[self.reactor].broken {
                true => min,
                false => world.wait_for(self.reactor, wait, self.taken.len()),
            };
            self.complete(world, wanted);
            events.append(&mut self.completed);
            if events.len() < min && std::mem::take(&mut self.watching) {
                events.push(IoEvent { data: u64::MAX, ..IoEvent::default() });
            }
        });
        Ok(())
    }

    fn is_direct(&self, _fd: RawFd) -> bool {
        with_world(|world| !world.happens(world.trouble.lack))
    }
}
