//! A context: configured, started, submitted to, drained, shut down. Everything here may be called
//! from any thread; what must happen on one thread is the reactor's.

mod shard;
mod shards;

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use crossfire::flavor::Flavor;
use crossfire::AsyncRx;

pub(crate) use shard::Shard;
pub(crate) use shards::{Runs, Shards};

use crate::callback_worker::IOWorkers;
use crate::driver::Driver;
use crate::gate::deadline_after;
use crate::intake::OuterFlavor;
use crate::log::{log, Level};
use crate::merge::Submit;
use crate::tasks::{IOCallback, IOEvent};

/// The most operations a context has in the kernel at once: the kernel's own limit for a ring
/// (IORING_MAX_ENTRIES).
pub const MAX_DEPTH: u32 = 32768;
/// The most events a context accepts before their callbacks start.
pub const MAX_QUEUE_SIZE: u32 = 1 << 20;
/// The most reactors of a context.
pub const MAX_REACTORS: u32 = 64;

/// An errno, positive, as the kernel's headers have it.
pub(crate) type Errno = i32;

/// What a context is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The kernel interface.
    pub driver: Driver,
    /// Operations in the kernel at once, of each reactor: 1 to [`MAX_DEPTH`].
    pub depth: u32,
    /// Accepted events whose callback has not started, of each reactor: 1 to [`MAX_QUEUE_SIZE`].
    pub queue_size: u32,
    /// Bytes that one merged operation may span; 0: no merging. At most [`MAX_LIMIT`](crate::merge::MAX_LIMIT) in force.
    pub merge_limit: u32,
    /// No threads: the owner polls.
    pub polled: bool,
    /// A kernel thread submits (io_uring_setup(2), IORING_SETUP_SQPOLL).
    pub sqpoll: bool,
    /// Completions are looked for, not announced (IORING_SETUP_IOPOLL). Needs `polled`.
    pub iopoll: bool,
    /// Syncs of a descriptor that wait while one runs are joined into the next.
    pub sync_groups: bool,
    /// An operation longer in the kernel, in milliseconds, is reported; 0: never.
    pub stall_ms: u32,
    /// Reactors, each with its own driver, thread, depth and queue: 1 to [`MAX_REACTORS`]; 0 is 1.
    /// Not with `polled`.
    pub reactors: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            driver: Driver::Auto,
            depth: 128,
            queue_size: 1024,
            merge_limit: 0,
            polled: false,
            sqpoll: false,
            iopoll: false,
            sync_groups: true,
            stall_ms: 0,
            reactors: 1,
        }
    }
}

impl Config {
    /// Fails with `EINVAL` where a value is out of range, before anything is spent on it.
    pub fn check(&self) -> io::Result<()> {
        let most_reactors = if self.polled { 1 } else { MAX_REACTORS };
        let in_range = (1..=MAX_DEPTH).contains(&self.depth)
            && (1..=MAX_QUEUE_SIZE).contains(&self.queue_size)
            && (self.polled || !self.iopoll)
            && self.reactors <= most_reactors;
        match in_range {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

/// What a context did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events accepted.
    pub accepted: u64,
    /// Events whose callback has started.
    pub completed: u64,
    /// Of those completed or about to be, events whose result is an errno, but for the `EAGAIN` that
    /// [`NOWAIT`](crate::tasks::flags::NOWAIT) asks for.
    pub failed: u64,
    /// Bytes moved from files to memory.
    pub bytes_read: u64,
    /// Bytes moved from memory to files.
    pub bytes_written: u64,
    /// Operations handed to the kernel.
    pub operations: u64,
    /// System calls made for them, wake-ups included.
    pub system_calls: u64,
    /// Events that travelled in another's operation.
    pub merged: u64,
    /// Operations issued for the rest of a short one.
    pub continued: u64,
    /// Syncs answered by another's operation.
    pub syncs_joined: u64,
    /// Events accepted whose callback has not started.
    pub in_flight: u64,
}

impl Stats {
    /// Of two reactors together.
    fn plus(self, other: &Stats) -> Stats {
        Stats {
            accepted: self.accepted + other.accepted,
            completed: self.completed + other.completed,
            failed: self.failed + other.failed,
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
            operations: self.operations + other.operations,
            system_calls: self.system_calls + other.system_calls,
            merged: self.merged + other.merged,
            continued: self.continued + other.continued,
            syncs_joined: self.syncs_joined + other.syncs_joined,
            in_flight: self.in_flight + other.in_flight,
        }
    }
}

/// The engine for one stream of events: its reactors, and the ways to and from them.
///
/// `Q` is the channel that events come through. A context made by [`IOContext::new`] drains the
/// caller's receiver and ends when its last sender is dropped; one made by
/// [`IOContext::with_config`] has its own, behind [`IOContext::submit`].
pub struct IOContext<C: IOCallback, Q = OuterFlavor<C>> {
    shards: Arc<Shards<C>>,
    channel: PhantomData<fn() -> Q>,
}

impl<C: IOCallback, Q: Flavor<Item = IOEvent<C>>> IOContext<C, Q> {
    /// A context that drains `receiver` until its last sender is gone. `depth` bounds operations
    /// in the kernel; it takes no more events than 1024, or `depth` where that is more, before
    /// their callbacks start. What is still in the channel when the context is dropped is
    /// completed first.
    ///
    /// Fails with `EINVAL` for a depth out of range, or with the errno of the driver.
    pub fn new(
        depth: u32,
        receiver: impl Into<AsyncRx<Q>>,
        workers: &IOWorkers<C>,
        driver: Driver,
    ) -> io::Result<Self> {
        let defaults = Config::default();
        let queue_size = defaults.queue_size.max(depth);
        let config = Config { driver, depth, queue_size, ..defaults };
        let shards = Shards::draining(config, receiver.into(), workers)?;
        Ok(IOContext { shards, channel: PhantomData })
    }
}

impl<C: IOCallback> IOContext<C> {
    /// A context of its own, for [`IOContext::submit`]. The workers are not used by a polled one.
    ///
    /// Fails with `EINVAL` for values out of range, or with the errno of the driver.
    pub fn with_config(config: Config, workers: &IOWorkers<C>) -> io::Result<Self> {
        let shards = Shards::new(config, workers)?;
        Ok(IOContext { shards, channel: PhantomData })
    }

    /// Hands an event in, waiting while the queue is full; inside a callback it never waits. A
    /// polled context does not wait: it gives the event back with `EAGAIN`.
    ///
    /// An event that is not accepted comes back with the reason.
    pub fn submit(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)> {
        if !event.chain().all(IOEvent::has_callback) {
            return Err((event, io::Error::from_raw_os_error(libc::EINVAL)));
        }
        if let Err(errno) = self.shards.check_process() {
            return Err((event, io::Error::from_raw_os_error(errno)));
        }
        let submitted = self.shards.submit(event, true);
        submitted.map_err(|(event, errno)| (event, io::Error::from_raw_os_error(errno)))
    }
}

impl<C: IOCallback> Submit<C> for IOContext<C> {
    fn submit(&self, event: IOEvent<C>) -> Result<(), (IOEvent<C>, io::Error)> {
        IOContext::submit(self, event)
    }
}

impl<C: IOCallback, Q> IOContext<C, Q> {
    /// Returns when the callback of every event accepted before the call has returned. Fails with
    /// `ETIMEDOUT`, or with `EDEADLK` inside a callback. A negative timeout waits for ever.
    pub fn drain(&self, timeout_ms: i64) -> io::Result<()> {
        self.shards.drain(deadline_after(timeout_ms)).map_err(io::Error::from_raw_os_error)
    }

    /// Runs callbacks of a polled context until there were `min`, at most those in flight.
    pub fn poll(&self, min: u32, timeout_ms: i64) -> io::Result<u32> {
        self.shards.poll(min, deadline_after(timeout_ms)).map_err(io::Error::from_raw_os_error)
    }

    /// Asks for an event in flight back, by its [`IOEvent::id`]. It completes with `ECANCELED`, or with
    /// its own result if it was whole before. Fails with `ENOENT` where no event of this id is in
    /// flight here.
    pub fn cancel(&self, id: u64) -> io::Result<()> {
        self.shards.cancel(id).map_err(io::Error::from_raw_os_error)
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.shards.stats()
    }
}

impl<C: IOCallback, Q> Drop for IOContext<C, Q> {
    /// Completes everything accepted, then ends the threads. Inside one of its own callbacks that
    /// cannot be waited for, and the thread ends by itself. A polled context that is dropped by
    /// another thread than its owner's, or inside a callback, is leaked, because the kernel may
    /// still use its memory; its callbacks do not run.
    fn drop(&mut self) {
        let Err(errno) = self.shards.shut_down() else { return };
        if errno == libc::EOWNERDEAD {
            return self.shards.abandon_in_child();
        }
        let error = io::Error::from_raw_os_error(errno);
        match self.shards.config().polled {
            true => {
                std::mem::forget(self.shards.clone());
                log(Level::Error, || format!("a dropped polled context is leaked: {error}"));
            }
            false => {
                self.shards.stop();
                log(Level::Warn, || format!("a dropped context ends by itself: {error}"));
            }
        }
    }
}
