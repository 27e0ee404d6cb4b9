//! The program's log callback, and nothing else: no formatting where nobody listens.

use std::ffi::CString;
use std::os::raw::{c_char, c_int, c_void};
use std::sync::RwLock;

/// How much a message matters. A smaller number matters more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
pub enum Level {
    /// Something failed and somebody has to act.
    Error = 1,
    /// Something is not as asked for, and the engine goes on.
    Warn = 2,
    /// What was chosen and why.
    Info = 3,
    /// For whoever works on the engine itself.
    Debug = 4,
}

/// A function that takes a message: its level, a NUL-terminated text that lives for the call, and
/// the pointer given with it.
pub type LogFn = unsafe extern "C" fn(level: c_int, message: *const c_char, arg: *mut c_void);

#[derive(Clone, Copy)]
struct Sink {
    function: LogFn,
    arg: *mut c_void,
    max_level: i32,
}

// SAFETY: the pointer is only handed back to the caller's function, which by the contract of
// `ioe_set_log` is called from any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Sets or, with `None`, removes the function that receives messages up to `max_level`.
pub(crate) fn set(function: Option<LogFn>, arg: *mut c_void, max_level: i32) {
    let sink = function.map(|function| Sink { function, arg, max_level });
    *SINK.write().unwrap_or_else(|poison| poison.into_inner()) = sink;
}

/// For `map_err`: tells the program what failed and what to do about it, and passes the error on.
pub(crate) fn explain(what: &'static str) -> impl FnOnce(std::io::Error) -> std::io::Error {
    move |error| {
        log(Level::Error, || format!("{what} ({error})"));
        error
    }
}

/// Hands a message to the program. Lost where the sink is being replaced at this very moment:
/// a logger that never blocks is also safe in a forked child.
pub(crate) fn log(level: Level, message: impl FnOnce() -> String) {
    // Copied out, so that the function may itself call `set`.
    let sink = SINK.try_read().ok().and_then(|sink| *sink);
    let Some(sink) = sink.filter(|sink| level as i32 <= sink.max_level) else { return };
    let text = CString::new(message().replace('\0', " ")).unwrap_or_default();
    // SAFETY: the program promised a function that can be called with these from any thread.
    unsafe { (sink.function)(level as c_int, text.as_ptr(), sink.arg) }
}
