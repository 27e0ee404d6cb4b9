//! Calls that need no context: version, errors, drivers, log.

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_void};

use once_cell::sync::OnceCell;

use super::{done, guard};
use crate::driver::{choice, Driver};
use crate::log;

/// The kernel interface behind a context.
#[repr(C)]
#[allow(dead_code)] // the header's names for what arrives as a number
pub enum ioe_driver {
    /// The first of the following that works here. The environment variable `IOE_DRIVER`
    /// (`auto`, `uring`, `aio` or `pool`) overrides this value, and only this one.
    IOE_DRIVER_AUTO = 0,
    /// io_uring(7). Needs Linux 5.11, and a seccomp profile and sysctl kernel.io_uring_disabled
    /// that allow it.
    IOE_DRIVER_URING = 1,
    /// Linux AIO, io_submit(2), for transfers of descriptors opened with O_DIRECT, fsync and
    /// fdatasync; the rest goes to a pool of threads, because io_submit would block on it. Needs
    /// Linux 4.19, and room below sysctl fs.aio-max-nr.
    IOE_DRIVER_AIO = 2,
    /// pread(2), pwrite(2), fsync(2) and their like on a pool of at most 64 threads per reactor,
    /// started when there is work and ended after 5 seconds without. Works wherever plain files
    /// do.
    IOE_DRIVER_POOL = 3,
}

/// How much a log message matters; a smaller number matters more.
#[repr(C)]
#[allow(dead_code)] // the header's names for what arrives as a number
pub enum ioe_log_level {
    /// No messages.
    IOE_LOG_OFF = 0,
    /// Something failed and somebody has to act.
    IOE_LOG_ERROR = 1,
    /// Something is not as asked for, and the library goes on.
    IOE_LOG_WARN = 2,
    /// What was chosen and why.
    IOE_LOG_INFO = 3,
    /// For whoever works on the library itself.
    IOE_LOG_DEBUG = 4,
}

/// Receives a message of at most the level asked for, one of `ioe_log_level`. `message` lives for
/// the call. Called on whichever thread has something to say, also on several at once; it may call
/// the library, but must not wait for a context.
pub type ioe_log_fn =
    Option<unsafe extern "C" fn(level: c_int, message: *const c_char, arg: *mut c_void)>;

/// The version of the library that runs. It may be newer than the header's, which
/// `IOE_VERSION_MAJOR`, `IOE_VERSION_MINOR` and `IOE_VERSION_PATCH` tell. Any thread.
///
/// Returns "MAJOR.MINOR.PATCH": static, never NULL.
///
/// ```c
/// printf("built with io_engine %d.%d.%d, runs %s\n", IOE_VERSION_MAJOR,
///        IOE_VERSION_MINOR, IOE_VERSION_PATCH, ioe_version());
/// ```
#[no_mangle]
pub extern "C" fn ioe_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version without NUL"),
        };
    guard(|| VERSION.as_ptr())
}

/// The name and the meaning of an errno, negated or not. Any thread.
///
/// Returns a text such as "EIO: Input/output error", "success" for 0, "unknown error" for what is
/// no errno: static, never NULL.
///
/// ```c
/// int ret = ioe_submit(ctx, event);
/// if (ret < 0)
///     fprintf(stderr, "submit: %s\n", ioe_strerror(ret));
/// ```
#[no_mangle]
pub extern "C" fn ioe_strerror(err: c_int) -> *const c_char {
    guard(|| {
        static TEXTS: OnceCell<Vec<CString>> = OnceCell::new();
        let texts = TEXTS.get_or_init(|| (0..=LAST_ERRNO).map(describe).collect());
        let text = texts.get(err.unsigned_abs() as usize);
        text.map_or(c"unknown error", |text| text.as_c_str()).as_ptr()
    })
}

/// EHWPOISON, the last errno of Linux.
const LAST_ERRNO: i32 = 133;

fn describe(errno: i32) -> CString {
    if errno == 0 {
        return c"success".into();
    }
    let mut meaning = [0u8; 128];
    // SAFETY: a buffer of the length given; the XSI variant that libc binds ends it with NUL.
    unsafe { libc::strerror_r(errno, meaning.as_mut_ptr().cast(), meaning.len()) };
    let meaning = CStr::from_bytes_until_nul(&meaning).unwrap_or_default().to_string_lossy();
    let text = match name_of(errno) {
        Some(name) => format!("{name}: {meaning}"),
        None => format!("errno {errno}: {meaning}"),
    };
    CString::new(text).unwrap_or_default()
}

pub(super) fn name_of(errno: i32) -> Option<&'static str> {
    NAMES.iter().find(|(number, _)| *number == errno).map(|(_, name)| *name)
}

macro_rules! names {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name))),*] };
}

/// The errnos that file I/O and the library itself can answer with.
const NAMES: &[(i32, &str)] = names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS
    EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENODATA ETIME
    EREMOTE ENOLINK EPROTO EBADMSG EOVERFLOW EBADFD EILSEQ EUSERS EOPNOTSUPP ENOBUFS ESHUTDOWN
    ETIMEDOUT ECONNREFUSED EHOSTDOWN EALREADY EINPROGRESS ESTALE EUCLEAN EREMOTEIO EDQUOT
    ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EOWNERDEAD ENOTRECOVERABLE EHWPOISON
};

/// Whether a driver works on this machine now. It is found out by real I/O on a file in memory,
/// each time; contexts probe a driver once per process. `IOE_DRIVER_AUTO`: whether any works. Any
/// thread.
///
/// Returns 0 where it works, the negated errno of that I/O where it failed, else:
/// - `-EPERM`: forbidden by seccomp or by sysctl kernel.io_uring_disabled.
/// - `-ENOSYS`: not in this kernel, or hidden by seccomp.
/// - `-EAGAIN`, `-ENOMEM`, `-EMFILE`, `-ENFILE`: a limit is used up at the moment.
/// - `-EINVAL`: no such driver, or `IOE_DRIVER` in the environment names none.
///
/// ```c
/// for (int i = IOE_DRIVER_URING; i <= IOE_DRIVER_POOL; i++) {
///     int ret = ioe_probe(i);
///     printf("%s: %s\n", ioe_driver_name(i),
///            ret == 0 ? "works" : ioe_strerror(ret));
/// }
/// ```
#[no_mangle]
pub extern "C" fn ioe_probe(driver: c_int) -> c_int {
    guard(|| {
        let Some(driver) = Driver::from_number(driver) else { return -libc::EINVAL };
        done(choice::probe(driver).map_err(|refusal| refusal.errno))
    })
}

/// The name of a driver, as `IOE_DRIVER` in the environment has it. Any thread.
///
/// Returns "auto", "uring", "aio" or "pool"; "unknown" for other numbers: static, never NULL.
#[no_mangle]
pub extern "C" fn ioe_driver_name(driver: c_int) -> *const c_char {
    guard(|| {
        let name = match Driver::from_number(driver) {
            Some(Driver::Auto) => c"auto",
            Some(Driver::Uring) => c"uring",
            Some(Driver::Aio) => c"aio",
            Some(Driver::Pool) => c"pool",
            None => c"unknown",
        };
        name.as_ptr()
    })
}

/// Sets the function that receives the library's messages. There is one for the process; it is
/// given `arg`, and messages up to `max_level`, one of `ioe_log_level`. NULL turns them off, as
/// they are at the start. A call that has already begun on another thread may end after this
/// returns. Any thread.
///
/// ```c
/// static void on_message(int level, const char *message, void *arg)
/// {
///     fprintf((FILE *)arg, "io_engine[%d]: %s\n", level, message);
/// }
///
/// ioe_set_log(on_message, stderr, IOE_LOG_WARN);
/// ```
#[no_mangle]
pub extern "C" fn ioe_set_log(r#fn: ioe_log_fn, arg: *mut c_void, max_level: c_int) {
    guard(|| log::set(r#fn, arg, max_level))
}
