//! # io_engine
//!
//! Asynchronous disk I/O for C and C++ databases: programs hand events to a context; its reactor, or one
//! of several, moves them through a kernel interface and hands each back to its callback exactly
//! once, whole.
//!
//! C programs use `include/io_engine.h`. From Rust, an [`IOContext`] drains a crossfire channel,
//! or takes events by [`IOContext::submit`]:
//!
//! ```
//! use io_engine::callback_worker::IOWorkers;
//! use io_engine::tasks::{ClosureCb, IOAction, IOEvent};
//! use io_engine::{Buffer, Driver, IOContext};
//! use std::os::fd::AsRawFd;
//!
//! let file = std::fs::File::open("/proc/self/exe")?;
//! let (events, receiver) = crossfire::mpsc::bounded_blocking(128);
//! let context = IOContext::<ClosureCb, _>::new(16, receiver, &IOWorkers::new(1), Driver::Auto)?;
//! let mut event = IOEvent::new(file.as_raw_fd(), Buffer::aligned(4)?, IOAction::Read, 0);
//! let (done, wait) = crossfire::oneshot::oneshot();
//! event.set_callback(ClosureCb(Box::new(move |event| done.send(event))));
//! events.send(event).expect("the context lives");
//! let mut event = wait.recv().expect("every event comes back");
//! assert_eq!(event.get_read_result()?[1..4], *b"ELF");
//! # drop(context);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Dependencies point one way: `ffi`, `merger`, [`mod@context`], `reactor`, then `attempt`, `syncs`,
//! [`merge`], then [`callback_worker`], [`mod@driver`], `callers` and `intake`, then [`tasks`], which
//! knows of `identity` and the `ledger`, and [`buffer`].

mod alarm;
mod attempt;
pub mod buffer;
pub mod callback_worker;
mod callers;
mod clock;
pub mod context;
pub mod driver;
mod failures;
mod ffi;
mod fork;
mod gate;
mod gathered;
mod identity;
mod intake;
mod ledger;
pub mod log;
pub mod merge;
mod merger;
mod reactor;
#[cfg(test)]
mod simulation;
mod spin;
mod stats;
mod syncs;
pub mod tasks;
mod thread;
mod wake;

pub use buffer::Buffer;
pub use context::{Config, IOContext, Stats};
pub use driver::Driver;
#[cfg(fuzzing)]
pub use ffi::fuzzing;
