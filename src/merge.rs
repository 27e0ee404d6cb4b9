//! Joining neighbours into one operation. An operation of several events is a chain of them, in the
//! order of their bytes; it goes through queues and slots as its first event does.
//!
//! Automatic merging ([`Config::merge_limit`](crate::Config::merge_limit)) and the explicit kind
//! ([`MergeSubmitter`], [`MergeBuffer`]) join by the same rule. Nothing is copied: the kernel gets the
//! events' own memory. Each event has its own callback and its own result, as if it had travelled
//! alone.
//!
//! ```
//! use io_engine::callback_worker::IOWorkers;
//! use io_engine::merge::MergeSubmitter;
//! use io_engine::tasks::{ClosureCb, IOAction, IOEvent};
//! use io_engine::{Buffer, Config, IOContext};
//! use std::os::fd::AsRawFd;
//!
//! let file = std::fs::File::open("/proc/self/exe")?;
//! let context = IOContext::<ClosureCb>::with_config(Config::default(), &IOWorkers::new(1))?;
//! let mut merger = MergeSubmitter::new(file.as_raw_fd(), &context, 1 << 16, IOAction::Read);
//! for number in 0..4 {
//!     let buffer = Buffer::aligned(512)?;
//!     let mut event = IOEvent::new(file.as_raw_fd(), buffer, IOAction::Read, 512 * number);
//!     event.set_callback(ClosureCb(Box::new(|event| assert_eq!(event.result(), 512))));
//!     merger.add_event(event).map_err(|(_event, error)| error)?;
//! }
//! merger.flush()?;
//! context.drain(-1)?;
//! assert_eq!(context.stats().operations, 1);
//! # drop(merger);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use crossfire::flavor::Flavor;
use crossfire::{MTx, Tx};

use crate::driver::direct::DIRECT_BOUNDARY;
use crate::tasks::{
    self, flags, IOAction, IOCallback, IOEvent, Link, Memory, Op, MAX_CHUNK, MAX_SEGMENTS,
};

/// The most bytes that one merged operation may span.
pub const MAX_LIMIT: u64 = MAX_CHUNK;

/// What a transfer, or several joined ones, have left to do: where in the file, and where in memory.
#[derive(Clone, Copy)]
struct Span {
    fd: RawFd,
    action: IOAction,
    /// Flags and priority.
    manner: (u32, u16),
    start: u64,
    end: u64,
    /// Where the memory of the first segment begins, and where that of the last one ends.
    memory: usize,
    memory_end: usize,
    /// Segments, those that are adjacent in memory counted as one.
    segments: usize,
}

impl Span {
    /// `None` for what moves no bytes, or goes alone.
    fn of_one<C>(event: &IOEvent<C>) -> Option<Self> {
        let action = event.action().filter(|action| action.is_transfer())?;
        let (fd, manner) = (event.fd(), (event.flags(), event.priority()));
        if manner.0 & flags::ALONE != 0 {
            return None;
        }
        let start = event.offset() + event.transferred();
        let end = event.offset() + event.get_size();
        if let Some(plain) = event.plain_rest() {
            let memory = plain.iov_base as usize;
            let memory_end = memory + plain.iov_len;
            let span = Span { fd, action, manner, start, end, memory, memory_end, segments: 1 };
            return (plain.iov_len > 0).then_some(span);
        }
        let mut parts = event.rest().filter(|segment| segment.iov_len > 0);
        let first = parts.next()?;
        let (last, segments) = parts.fold((first, 1), |(_, count), part| (part, count + 1));
        let memory = first.iov_base as usize;
        let memory_end = last.iov_base as usize + last.iov_len;
        Some(Span { fd, action, manner, start, end, memory, memory_end, segments })
    }

    /// Of an event and those joined with it.
    fn of<C>(run: &IOEvent<C>) -> Option<Self> {
        let first = Self::of_one(run);
        if !run.is_joined() {
            return first;
        }
        run.chain().skip(1).fold(first, |span, event| span?.then(&Self::of_one(event)?))
    }

    /// Both in one operation, if `next` begins where this one ends.
    fn then(&self, next: &Span) -> Option<Span> {
        let like = self.fd == next.fd && self.action == next.action && self.manner == next.manner;
        let adjacent = like && self.end == next.start;
        let seam = usize::from(self.memory_end == next.memory);
        adjacent.then(|| Span {
            end: next.end,
            memory_end: next.memory_end,
            segments: self.segments + next.segments - seam,
            ..*self
        })
    }

    fn fits(&self, limit: u64) -> bool {
        self.len() <= limit && self.segments <= MAX_SEGMENTS
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// Ties a run behind an event or another run.
fn tie<C>(run: IOEvent<C>, next: Option<IOEvent<C>>) -> IOEvent<C> {
    if let (Some(last), Some(next)) = (run.chain().last(), next) {
        last.set_link(Link::Joined(next));
    }
    run
}

/// Ties events together, each behind the one before.
pub(crate) fn join<C>(
    events: impl IntoIterator<Item = IOEvent<C>, IntoIter: DoubleEndedIterator>,
) -> Option<IOEvent<C>> {
    events.into_iter().rev().fold(None, |run, event| Some(tie(event, run)))
}

/// Takes off what is tied to an event.
pub(crate) fn untie<C>(event: &IOEvent<C>) -> Option<IOEvent<C>> {
    match event.set_link(Link::None) {
        Link::Joined(next) | Link::Batched(next) => Some(next),
        Link::None => None,
    }
}

/// The same, but for what travels in its operation.
#[inline(always)]
pub(crate) fn unbatch<C>(event: &IOEvent<C>) -> Option<IOEvent<C>> {
    match event.link() {
        Link::Batched(_) => untie(event),
        _ => None,
    }
}

/// Takes what is to end out of what is joined behind an event.
pub(crate) fn take_out_behind<C>(
    first: &IOEvent<C>,
    ends: impl Fn(&IOEvent<C>) -> bool,
    mut out: impl FnMut(IOEvent<C>),
) {
    let mut kept = Vec::new();
    let mut next = untie(first);
    while let Some(event) = next {
        next = untie(&event);
        match ends(&event) {
            true => out(event),
            false => kept.push(event),
        }
    }
    if let Some(rest) = join(kept) {
        first.set_link(Link::Joined(rest));
    }
}

/// Makes a batch of joined events.
pub(crate) fn part<C>(run: &IOEvent<C>) {
    let mut at = run;
    while let Some(next) = untie(at) {
        at.set_link(Link::Batched(next));
        let Link::Batched(next) = at.link() else { return };
        at = next;
    }
}

/// Where the bytes of joined events lie; what is adjacent in memory is one segment.
#[derive(Default)]
pub(crate) struct Segments {
    all: Vec<libc::iovec>,
    /// Those before it are done; the one here is shortened by what was done of it.
    next: usize,
    /// Bytes to move.
    len: u64,
}

impl Segments {
    pub(crate) fn set<C>(&mut self, run: &IOEvent<C>) {
        self.all.clear();
        self.next = 0;
        self.len = 0;
        for part in run.chain().flat_map(IOEvent::rest).filter(|part| part.iov_len > 0) {
            self.len += part.iov_len as u64;
            match self.all.last_mut() {
                Some(last) if last.iov_base as usize + last.iov_len == part.iov_base as usize => {
                    last.iov_len += part.iov_len;
                }
                _ => self.all.push(part),
            }
        }
    }

    /// The operation for all that is left of the run. The segments stay as they are until it is done.
    pub(crate) fn operation<C>(&self, run: &IOEvent<C>) -> Op {
        let memory = match &self.all[self.next..] {
            [one] => Memory::Plain(one.iov_base.cast()),
            many => Memory::Segments(many.as_ptr(), many.len() as u32),
        };
        Op { len: self.len, memory, ..run.next_op() }
    }

    /// Goes on by what was moved.
    pub(crate) fn advance(&mut self, moved: u64) {
        let left = moved.min(self.len) as usize;
        self.len -= left as u64;
        tasks::advance(&mut self.all, &mut self.next, left);
    }
}

/// Whether the kernel would do to joined events what it does to each by itself. `flags` says how the
/// descriptor was opened, negative where it is none; `boundary` what its direct I/O is aligned to,
/// where that is known.
pub(crate) fn may_travel<C>(
    run: &IOEvent<C>,
    flags: i32,
    boundary: impl FnOnce() -> Option<u64>,
) -> bool {
    if flags < 0 {
        return true;
    }
    // Appended where the file ends, whatever the offset: neighbours only by chance (pwrite(2)).
    if flags & libc::O_APPEND != 0 && run.action() == Some(IOAction::Write) {
        return false;
    }
    if flags & libc::O_DIRECT == 0 {
        return true;
    }
    // Together they could pass where one of them is to fail.
    let to = boundary().unwrap_or(DIRECT_BOUNDARY);
    run.chain().all(|event| {
        let start = event.offset() + event.transferred();
        let mut rest = event.rest();
        start % to == 0 && rest.all(|part| (part.iov_base as u64 | part.iov_len as u64) % to == 0)
    })
}

/// No entry.
const NONE: u32 = u32::MAX;

/// How many neighbours are tried that would exceed the limit, where many share one place.
const MAX_CANDIDATES: usize = 8;

/// The two ends of a span, under which an entry is found.
const START: usize = 0;
const END: usize = 1;

/// Events that wait for a slot, the oldest first. With a limit, the neighbours of the oldest leave
/// with it.
pub(crate) struct Waiting<C> {
    /// Bytes that one merged operation may span; 0: no merging.
    limit: u64,
    entries: Vec<Entry<C>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    /// Ends of spans by their hash: chains of entry numbers times two, plus the end.
    buckets: Vec<u32>,
    /// What leaves together, in the order of its bytes; empty between calls.
    leaving: VecDeque<u32>,
}

struct Entry<C> {
    event: Option<IOEvent<C>>,
    /// `None` where it stays alone.
    span: Option<Span>,
    older: u32,
    newer: u32,
    chains: [Chain; 2],
}

#[derive(Clone, Copy)]
struct Chain {
    before: u32,
    after: u32,
}

impl<C> Waiting<C> {
    pub(crate) fn new(limit: u64) -> Self {
        Waiting {
            limit,
            entries: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            buckets: Vec::new(),
            leaving: VecDeque::new(),
        }
    }

    /// Whether what waits is joined.
    pub(crate) fn merges(&self) -> bool {
        self.limit > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.oldest == NONE
    }

    /// Puts in an event, or a run, as the newest.
    pub(crate) fn push(&mut self, run: IOEvent<C>) {
        let joins = |span: &Span| span.len() < self.limit;
        let span = self.merges().then(|| Span::of(&run)).flatten().filter(joins);
        self.insert(run, span, NONE);
    }

    /// Puts in all that are tied together, as the oldest, each by itself from here on.
    pub(crate) fn push_apart(&mut self, first: IOEvent<C>) {
        let before = self.oldest;
        let mut next = Some(first);
        while let Some(event) = next {
            next = untie(&event);
            self.insert(event, None, before);
        }
    }

    /// All that waits, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &IOEvent<C>> {
        let next = |number: u32| (number != NONE).then(|| &self.entries[number as usize]);
        let all = std::iter::successors(next(self.oldest), move |entry| next(entry.newer));
        all.filter_map(|entry| entry.event.as_ref()).flat_map(IOEvent::chain)
    }

    /// Takes out what is to end. What was joined with it stays, each by itself.
    pub(crate) fn take_out(
        &mut self,
        ends: impl Fn(&IOEvent<C>) -> bool,
        mut out: impl FnMut(IOEvent<C>),
    ) {
        let mut number = self.oldest;
        while number != NONE {
            let newer = self.entries[number as usize].newer;
            let event = &mut self.entries[number as usize].event;
            if event.as_ref().is_some_and(|run| run.chain().any(&ends)) {
                let mut next = event.take();
                self.remove(number);
                self.free.push(number);
                while let Some(event) = next {
                    next = untie(&event);
                    match ends(&event) {
                        true => out(event),
                        false => self.insert(event, None, newer),
                    }
                }
            }
            number = newer;
        }
    }

    /// Takes out the oldest, and with it whatever may be joined with it.
    pub(crate) fn pop(&mut self) -> Option<IOEvent<C>> {
        let oldest = self.oldest;
        if oldest == NONE {
            return None;
        }
        let mut whole = self.entries[oldest as usize].span;
        self.remove(oldest);
        self.leaving.push_back(oldest);
        for end in [END, START] {
            while let Some((number, joined)) = whole.and_then(|whole| self.neighbour(&whole, end)) {
                self.remove(number);
                match end {
                    END => self.leaving.push_front(number),
                    _ => self.leaving.push_back(number),
                }
                whole = Some(joined);
            }
        }
        let mut run = None;
        while let Some(number) = self.leaving.pop_back() {
            self.free.push(number);
            if let Some(event) = self.entries[number as usize].event.take() {
                run = Some(tie(event, run));
            }
        }
        run
    }

    /// An entry whose span has this end where `whole` has the other, and what both make.
    fn neighbour(&self, whole: &Span, end: usize) -> Option<(u32, Span)> {
        let at = if end == END { whole.start } else { whole.end };
        let first = self.buckets[self.bucket(whole, at, end)];
        let some = |node: u32| (node != NONE).then_some(node);
        let nodes = std::iter::successors(some(first), |node| {
            some(self.entries[*node as usize / 2].chains[*node as usize % 2].after)
        });
        let neighbours = nodes.filter_map(|node| {
            let span = self.entries[node as usize / 2].span?;
            let joined = match end {
                _ if node as usize % 2 != end => None,
                END => span.then(whole),
                _ => whole.then(&span),
            };
            Some((node / 2, joined?))
        });
        neighbours.take(MAX_CANDIDATES).find(|(_, joined)| joined.fits(self.limit))
    }

    fn insert(&mut self, event: IOEvent<C>, span: Option<Span>, before: u32) {
        let number = self.free.pop().unwrap_or(self.entries.len() as u32);
        let older = match before {
            NONE => std::mem::replace(&mut self.newest, number),
            _ => std::mem::replace(&mut self.entries[before as usize].older, number),
        };
        match older {
            NONE => self.oldest = number,
            _ => self.entries[older as usize].newer = number,
        }
        let chains = [Chain { before: NONE, after: NONE }; 2];
        let entry = Entry { event: Some(event), span, older, newer: before, chains };
        match self.entries.get_mut(number as usize) {
            Some(place) => *place = entry,
            None => {
                self.entries.push(entry);
                self.grow();
            }
        }
        if span.is_some() {
            self.index(number);
        }
    }

    fn remove(&mut self, number: u32) {
        let Entry { older, newer, span, .. } = self.entries[number as usize];
        match older {
            NONE => self.oldest = newer,
            _ => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.entries[newer as usize].older = older,
        }
        let Some(span) = span else { return };
        for end in [START, END] {
            // Both ends may be neighbours in one chain.
            let Chain { before, after } = *self.chain(number * 2 + end as u32);
            match before {
                NONE => {
                    let bucket = self.bucket_of(&span, end);
                    self.buckets[bucket] = after;
                }
                _ => self.chain(before).after = after,
            }
            if after != NONE {
                self.chain(after).before = before;
            }
        }
    }

    fn chain(&mut self, node: u32) -> &mut Chain {
        &mut self.entries[node as usize / 2].chains[node as usize % 2]
    }

    fn index(&mut self, number: u32) {
        let Some(span) = self.entries[number as usize].span else { return };
        for end in [START, END] {
            let bucket = self.bucket_of(&span, end);
            let node = number * 2 + end as u32;
            let after = std::mem::replace(&mut self.buckets[bucket], node);
            *self.chain(node) = Chain { before: NONE, after };
            if after != NONE {
                self.chain(after).before = node;
            }
        }
    }

    fn bucket_of(&self, span: &Span, end: usize) -> usize {
        self.bucket(span, if end == START { span.start } else { span.end }, end)
    }

    /// Fibonacci hashing: the upper bits of a product with the golden ratio.
    fn bucket(&self, span: &Span, at: u64, end: usize) -> usize {
        let write = u64::from(span.action == IOAction::Write);
        let key = at.rotate_left(20) ^ (span.fd as u64) << 2 ^ write << 1 ^ end as u64;
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The number of buckets is a power of two, and two at least.
        (hash >> (u64::BITS - self.buckets.len().trailing_zeros())) as usize
    }

    /// Keeps at least as many buckets as there are ends, and indexes all anew where they grow.
    fn grow(&mut self) {
        if !self.merges() || self.buckets.len() >= self.entries.len() * 2 {
            return;
        }
        self.buckets = vec![NONE; (self.entries.len() * 4).next_power_of_two()];
        // The last entry made them grow, and is indexed by whoever put it in.
        let last = self.entries.len() as u32 - 1;
        let mut number = self.oldest;
        while number != NONE {
            if number != last {
                self.index(number);
            }
            number = self.entries[number as usize].newer;
        }
    }
}

/// Gathers neighbouring events of one descriptor and action, to be sent as one: through a context's
/// channel, or by [`crate::IOContext::submit`]. Nothing is copied: the kernel gets the events' own
/// buffers, and each event has its own result and callback.
pub struct MergeBuffer<C> {
    limit: u64,
    events: VecDeque<IOEvent<C>>,
    span: Option<Span>,
}

impl<C> MergeBuffer<C> {
    /// Gathers up to `limit` bytes, and no more than [`MAX_LIMIT`].
    pub fn new(limit: usize) -> Self {
        MergeBuffer { limit: MAX_LIMIT.min(limit as u64), events: VecDeque::new(), span: None }
    }

    /// What is gathered with the event, and whether it comes behind that.
    fn with(&self, event: &IOEvent<C>) -> Option<(Span, bool)> {
        let new = Span::of(event)?;
        let Some(span) = &self.span else {
            return self.events.is_empty().then_some((new, true));
        };
        let (joined, behind) = match span.then(&new) {
            Some(joined) => (joined, true),
            None => (new.then(span)?, false),
        };
        joined.fits(self.limit).then_some((joined, behind))
    }

    /// Gathers an event, or what [`MergeBuffer::flush`] returned. Where something was gathered that
    /// it is not adjacent to, or there is no room for it, it comes back.
    pub fn push_event(&mut self, event: IOEvent<C>) -> Result<(), IOEvent<C>> {
        match self.with(&event) {
            Some((span, behind)) => {
                self.span = Some(span);
                match behind {
                    true => self.events.push_back(event),
                    false => self.events.push_front(event),
                }
            }
            // One that moves nothing goes alone.
            None if self.events.is_empty() => self.events.push_back(event),
            None => return Err(event),
        }
        Ok(())
    }

    /// Whether nothing more can be gathered.
    pub fn is_full(&self) -> bool {
        match &self.span {
            Some(span) => span.len() >= self.limit || span.segments >= MAX_SEGMENTS,
            None => !self.events.is_empty(),
        }
    }

    /// How many events are gathered.
    pub fn len(&self) -> usize {
        self.events.iter().map(|event| event.chain().count()).sum()
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// What was gathered, tied together: send it as one event.
    pub fn flush(&mut self) -> Option<IOEvent<C>> {
        self.span = None;
        join(self.events.drain(..))
    }
}

/// What takes events: a context, or the sending end of one's channel.
pub trait Submit<C> {
    /// Hands an event in; one that is not taken comes back with the reason.
    fn submit(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)>;
}

impl<C: IOCallback, F: Flavor<Item = IOEvent<C>>> Submit<C> for MTx<F> {
    fn submit(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)> {
        self.send(event).map_err(|refused| (refused.0, io::ErrorKind::BrokenPipe.into()))
    }
}

impl<C: IOCallback, F: Flavor<Item = IOEvent<C>>> Submit<C> for Tx<F> {
    fn submit(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)> {
        self.send(event).map_err(|refused| (refused.0, io::ErrorKind::BrokenPipe.into()))
    }
}

impl<C, S: Submit<C>> Submit<C> for &S {
    fn submit(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)> {
        (**self).submit(event)
    }
}

/// Gathers neighbouring events of one file and hands them over as one operation. A gap, a full
/// limit, [`MergeSubmitter::flush`] and its end hand over what was gathered; only then are the
/// events accepted.
pub struct MergeSubmitter<C, S: Submit<C>> {
    fd: RawFd,
    action: IOAction,
    sender: S,
    buffer: MergeBuffer<C>,
}

impl<C, S: Submit<C>> MergeSubmitter<C, S> {
    /// For events of one descriptor and action, joined up to `limit` bytes.
    pub fn new(fd: RawFd, sender: S, limit: usize, action: IOAction) -> Self {
        MergeSubmitter { fd, action, sender, buffer: MergeBuffer::new(limit) }
    }

    /// Gathers an event; what was gathered before is handed over where the event is no neighbour
    /// of it. An event of another descriptor or action, or one that cannot be submitted, comes back
    /// with `EINVAL`; one before which what was gathered could not be handed over, with the reason
    /// of that.
    pub fn add_event(&mut self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)> {
        let own = event.fd() == self.fd && event.action() == Some(self.action);
        let ready = event.chain().all(|event| event.check_launch().is_ok() && event.has_callback());
        if !own || !ready {
            return Err((event, io::Error::from_raw_os_error(libc::EINVAL)));
        }
        if let Err(event) = self.buffer.push_event(event) {
            if let Err(error) = self.flush() {
                return Err((event, error));
            }
            // Nothing is in its way any more.
            let _ = self.buffer.push_event(event);
        }
        if self.buffer.is_full() {
            // The event is among those that stay gathered where that fails.
            let _ = self.flush();
        }
        Ok(())
    }

    /// Hands over what was gathered. Where that fails, it stays gathered.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(run) = self.buffer.flush() else { return Ok(()) };
        self.sender.submit(run).map_err(|(run, error)| {
            // Nothing else is gathered, so it is taken.
            let _ = self.buffer.push_event(run);
            error
        })
    }
}

impl<C, S: Submit<C>> Drop for MergeSubmitter<C, S> {
    fn drop(&mut self) {
        // Where nobody takes them, they are dropped unaccepted.
        let _ = self.flush();
    }
}
