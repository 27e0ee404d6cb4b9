//! The C interface: translates, checks, and lets no panic through. The only place with
//! `extern "C"` functions; what they do is done by the modules they call.
//!
//! `include/io_engine.h` is generated from here, doc comments included.
#![allow(non_camel_case_types)]

mod buffer;
mod context;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod library;
mod merge;
mod options;
mod submit;

use std::os::raw::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::log::{log, Level};

/// What a call answers when its own code panicked: a defect of the library, never of the caller.
trait Panicked {
    const ANSWER: Self;
}

impl Panicked for () {
    const ANSWER: Self = ();
}
impl Panicked for i32 {
    const ANSWER: Self = -libc::ENOTRECOVERABLE;
}
impl Panicked for i64 {
    const ANSWER: Self = -(libc::ENOTRECOVERABLE as i64);
}
impl Panicked for u64 {
    const ANSWER: Self = 0;
}
impl Panicked for usize {
    const ANSWER: Self = 0;
}
impl Panicked for bool {
    const ANSWER: Self = false;
}
impl<T> Panicked for *mut T {
    const ANSWER: Self = std::ptr::null_mut();
}
impl<T> Panicked for *const T {
    const ANSWER: Self = c"".as_ptr().cast();
}

/// Every exported function runs its body in here: panics end, and `errno` is as it was.
fn guard<R: Panicked>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the address of this thread's errno is valid for the thread's life.
    let errno = unsafe { libc::__errno_location() };
    // Volatile, because the compiler believes that allocating leaves errno alone.
    // SAFETY: as above.
    let before = unsafe { errno.read_volatile() };
    let answer = guard_quiet(body);
    // SAFETY: as above.
    unsafe { errno.write_volatile(before) };
    answer
}

/// The same for a body that calls nothing of libc, so that it cannot change `errno`.
#[inline(always)]
fn guard_quiet<R: Panicked>(body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        log(Level::Error, || {
            "a defect of io_engine was caught at its border; please report".into()
        });
        R::ANSWER
    })
}

/// A result as C sees it: 0 or a count, or a negated errno.
#[inline(always)]
fn answer<T: Into<i64>>(result: Result<T, i32>) -> i32 {
    match result {
        Ok(count) => i32::try_from(count.into()).unwrap_or(i32::MAX),
        Err(errno) => -errno,
    }
}

#[inline(always)]
fn done(result: Result<(), i32>) -> i32 {
    result.map_or_else(|errno| -errno, |()| 0)
}

fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The versioned structs end here at the latest, as in clone3(2) and its like.
const MAX_STRUCT_SIZE: usize = 4096;

/// Plain data that starts with its own `size` and grows at the end.
///
/// # Safety
/// `repr(C)`, starts with a `usize`, made of nothing but integers and pointers, no padding.
unsafe trait Versioned: Copy {}

fn check_struct_size(size: usize) -> Result<(), i32> {
    match size {
        0..8 => Err(libc::EINVAL),
        _ if size % 8 != 0 => Err(libc::EINVAL),
        _ if size > MAX_STRUCT_SIZE => Err(libc::E2BIG),
        _ => Ok(()),
    }
}

/// Reads a caller's struct over the defaults of what an older caller does not know.
///
/// # Safety
/// `from` points to as many readable bytes as its leading `size` says.
unsafe fn read_struct<T: Versioned>(from: *const T, defaults: T) -> Result<T, i32> {
    let own = size_of::<T>();
    // SAFETY: by the caller's promise; bytes are copied, so no alignment is needed.
    unsafe {
        let size = from.cast::<usize>().read_unaligned();
        check_struct_size(size)?;
        let tail = (own..size).map(|at| from.cast::<u8>().add(at).read());
        if tail.into_iter().any(|byte| byte != 0) {
            return Err(libc::E2BIG);
        }
        let mut value = defaults;
        let known = size.min(own);
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), known);
        Ok(value)
    }
}

/// Fills a caller's struct as far as it goes, and zeroes what the library does not know.
///
/// # Safety
/// `to` points to `size` writable bytes.
unsafe fn write_struct<T: Versioned>(value: T, to: *mut T, size: usize) -> Result<(), i32> {
    check_struct_size(size)?;
    let known = size.min(size_of::<T>());
    // SAFETY: by the caller's promise; bytes are copied, so no alignment is needed.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), to.cast::<u8>(), known);
        to.cast::<u8>().add(known).write_bytes(0, size - known);
    }
    Ok(())
}

/// What an event of the C interface carries.
#[derive(Clone, Copy)]
struct CCallback {
    function: event::ioe_callback,
    arg: *mut c_void,
}

// SAFETY: the pointer is only handed back to the program, which promised that its callback can
// be called from the context's threads.
unsafe impl Send for CCallback {}

impl crate::tasks::IOCallback for CCallback {
    fn call(self, mut event: crate::tasks::IOEvent<Self>) {
        // It survives: an event can be submitted again as it is.
        event.restore_callback();
        let raw = event.into_raw();
        if let Some(function) = self.function {
            // SAFETY: the program's function, with the event that it owns from here on.
            unsafe { function(raw.cast(), self.arg) }
        }
    }
}
