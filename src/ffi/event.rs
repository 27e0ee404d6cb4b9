//! Events: made, prepared, looked at, released.

use std::mem::ManuallyDrop;
use std::os::raw::{c_int, c_void};
use std::ptr::NonNull;

use super::{done, guard, guard_quiet, CCallback};
use crate::tasks::{IOAction, IOEvent, Unfit, MAX_SEGMENTS, PENDING};

/// One I/O request, and its result. An event is yours, except between a successful submit and the
/// start of its callback. In the callback it is yours again: read it, free it, keep it, or
/// prepare and submit it again. In between its buffers live, its descriptor stays open, and only
/// its getters may be called, from any thread.
pub struct ioe_event {
    _opaque: [u8; 0],
}

/// What an event does.
#[repr(C)]
pub enum ioe_action {
    /// Nothing yet: never prepared.
    IOE_NONE = 0,
    /// Reads, plain or vectored.
    IOE_READ = 1,
    /// Writes, plain or vectored.
    IOE_WRITE = 2,
    /// fsync(2).
    IOE_FSYNC = 3,
    /// fdatasync(2).
    IOE_FDATASYNC = 4,
    /// fallocate(2).
    IOE_FALLOCATE = 5,
    /// sync_file_range(2).
    IOE_SYNC_RANGE = 6,
    /// ftruncate(2).
    IOE_TRUNCATE = 7,
    /// posix_fadvise(2).
    IOE_ADVISE = 8,
}

/// Called exactly once for every accepted event, on a callback thread, on the driver thread
/// (`workers` 0) or inside the owner's poll (`IOE_POLLED`). `arg` is that of
/// `ioe_event_set_callback`. The event is yours again. The function must not throw, `longjmp`, or
/// end its thread; a child that it forks must not return from it, but call _exit(2) or exec(3).
pub type ioe_callback = Option<unsafe extern "C" fn(event: *mut ioe_event, arg: *mut c_void)>;

/// The event behind a pointer; `None` for NULL. It stays the caller's: never dropped here.
///
/// # Safety
/// The pointer is NULL or an event that was not freed.
pub(super) unsafe fn from_c(event: *const ioe_event) -> Option<ManuallyDrop<IOEvent<CCallback>>> {
    let raw = NonNull::new(event.cast_mut())?;
    // SAFETY: by the caller's promise.
    Some(ManuallyDrop::new(unsafe { IOEvent::from_raw(raw.cast()) }))
}

/// Makes an event, to be prepared. Released with `ioe_event_free`. Any thread.
///
/// Returns the event; NULL when out of memory.
///
/// ```c
/// event = ioe_event_new();
/// if (event == NULL)
///     return -ENOMEM;
/// ```
#[no_mangle]
pub extern "C" fn ioe_event_new() -> *mut ioe_event {
    guard(|| {
        let event = IOEvent::<CCallback>::try_unprepared();
        event.map_or(std::ptr::null_mut(), |event| event.into_raw().cast())
    })
}

/// Releases an event, not its buffers. NULL is fine. Also from its own callback. Any thread.
///
/// Returns 0, or:
/// - `-EBUSY`: the event is in flight; nothing was freed.
///
/// ```c
/// static void on_done(ioe_event *event, void *arg)
/// {
///     *(int64_t *)arg = ioe_event_result(event);
///     ioe_event_free(event); // in its callback it is the program's
/// }
///
/// static int64_t result = IOE_PENDING;
/// err = ioe_event_set_callback(event, on_done, &result);
/// ```
///
/// # Safety
/// `event` is NULL or came from `ioe_event_new` and was not freed.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_free(event: *mut ioe_event) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let Some(event) = (unsafe { from_c(event) }) else { return 0 };
        if event.fit() == Err(Unfit::InFlight) {
            return -libc::EBUSY;
        }
        drop(ManuallyDrop::into_inner(event));
        0
    })
}

/// The check and the work of every prep call but the vectored ones. `memory` is `None` for what
/// moves no bytes.
///
/// # Safety
/// `event` is NULL or an event that was not freed.
#[inline(always)]
unsafe fn prepare(
    event: *mut ioe_event,
    action: IOAction,
    fd: c_int,
    memory: Option<*mut c_void>,
    len: u64,
    offset: u64,
) -> Result<(), i32> {
    // SAFETY: by the caller's promise.
    let mut event = unsafe { free_event(event) }?;
    check_range(offset, Some(len))?;
    if memory.is_some_and(|memory| memory.is_null()) {
        return Err(libc::EINVAL);
    }
    event.prepare(action, fd, memory.unwrap_or(std::ptr::null_mut()).cast(), len, offset);
    Ok(())
}

/// An event that its caller may prepare.
///
/// # Safety
/// `event` is NULL or an event that was not freed.
#[inline(always)]
unsafe fn free_event(event: *mut ioe_event) -> Result<ManuallyDrop<IOEvent<CCallback>>, i32> {
    // SAFETY: by the caller's promise.
    let event = unsafe { from_c(event) }.ok_or(libc::EINVAL)?;
    match event.is_in_flight() {
        true => Err(libc::EBUSY),
        false => Ok(event),
    }
}

/// Fails where a request would end beyond the largest offset of a file.
#[inline(always)]
fn check_range(offset: u64, len: Option<u64>) -> Result<(), i32> {
    let end = len.and_then(|len| offset.checked_add(len));
    match end.is_some_and(|end| end <= i64::MAX as u64) {
        true => Ok(()),
        false => Err(libc::EINVAL),
    }
}

/// The check and the work of the vectored prep calls.
///
/// # Safety
/// `event` is NULL or an event that was not freed; `iov` is NULL or points to `iovcnt` segments.
unsafe fn prepare_segments(
    event: *mut ioe_event,
    action: IOAction,
    fd: c_int,
    iov: *const libc::iovec,
    iovcnt: c_int,
    offset: u64,
) -> Result<(), i32> {
    let count = usize::try_from(iovcnt).unwrap_or(0);
    if iov.is_null() || !(1..=MAX_SEGMENTS).contains(&count) || !iov.is_aligned() {
        return Err(libc::EINVAL);
    }
    // SAFETY: by the caller's promise.
    let segments = unsafe { std::slice::from_raw_parts(iov, count) };
    // SAFETY: by the caller's promise.
    let mut event = unsafe { free_event(event) }?;
    if segments.iter().any(|segment| segment.iov_base.is_null() && segment.iov_len > 0) {
        return Err(libc::EINVAL);
    }
    let mut lens = segments.iter().map(|segment| segment.iov_len as u64);
    let len = lens.try_fold(0u64, u64::checked_add);
    check_range(offset, len)?;
    if !event.reserve_segments(count) {
        return Err(libc::ENOMEM);
    }
    event.prepare(action, fd, segments[0].iov_base.cast(), len.unwrap_or_default(), offset);
    event.set_segments(segments);
    Ok(())
}

/// Makes the event a read of `len` bytes at `offset` into `buf`. Both are in bytes, and `len` may
/// exceed 2 GiB. `fd` is not looked at: a bad one is the kernel's to judge, and arrives in the
/// callback as `-EBADF`. What the event was before is forgotten, but not its callback. Any thread
/// that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` or `buf` is NULL, or `offset` or `offset + len` is above INT64_MAX.
///
/// ```c
/// err = ioe_prep_read(event, fd, buf, len, offset);
/// if (err == 0)
///     err = ioe_submit(ctx, event);
/// ```
///
/// # Safety
/// `event` is NULL or an event; `buf` has `len` writable bytes until the event completes.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_read(
    event: *mut ioe_event,
    fd: c_int,
    buf: *mut c_void,
    len: usize,
    offset: u64,
) -> c_int {
    let bytes = Some(buf);
    // SAFETY: by the caller's promise.
    guard_quiet(|| done(unsafe { prepare(event, IOAction::Read, fd, bytes, len as u64, offset) }))
}

/// Makes the event a write of `len` bytes from `buf` at `offset`. As `ioe_prep_read`. Any thread
/// that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` or `buf` is NULL, or `offset` or `offset + len` is above INT64_MAX.
///
/// ```c
/// err = ioe_prep_write(event, fd, buf, len, offset);
/// int64_t n = err == 0 ? ioe_submit_wait(ctx, event) : err;
/// if (n < 0)
///     fprintf(stderr, "write: %s, %" PRIu64 " bytes got through\n",
///             ioe_strerror((int)n), ioe_event_transferred(event));
/// ```
///
/// # Safety
/// `event` is NULL or an event; `buf` has `len` readable bytes until the event completes.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_write(
    event: *mut ioe_event,
    fd: c_int,
    buf: *const c_void,
    len: usize,
    offset: u64,
) -> c_int {
    let buf = Some(buf.cast_mut());
    // SAFETY: by the caller's promise.
    guard_quiet(|| done(unsafe { prepare(event, IOAction::Write, fd, buf, len as u64, offset) }))
}

/// Makes the event a read at `offset` into several segments. There are `iovcnt` of them in `iov`,
/// filled one after the other. The array is copied and may go; the segments' memory may not.
/// Otherwise as `ioe_prep_read`. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` or `iov` is NULL, `iov` is not aligned, `iovcnt` is below 1 or above
///   IOV_MAX (1024), a segment with bytes has no memory, or `offset` or `offset` plus all lengths
///   is above INT64_MAX.
/// - `-ENOMEM`: no memory for the copy of the array.
///
/// # Safety
/// `event` is NULL or an event; `iov` has `iovcnt` segments, writable until the event completes.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_readv(
    event: *mut ioe_event,
    fd: c_int,
    iov: *const libc::iovec,
    iovcnt: c_int,
    offset: u64,
) -> c_int {
    let action = IOAction::Read;
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare_segments(event, action, fd, iov, iovcnt, offset) }))
}

/// Makes the event a write at `offset` from several segments. These are the `iovcnt` of `iov`. As
/// `ioe_prep_readv`. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` or `iov` is NULL, `iov` is not aligned, `iovcnt` is below 1 or above
///   IOV_MAX (1024), a segment with bytes has no memory, or `offset` or `offset` plus all lengths
///   is above INT64_MAX.
/// - `-ENOMEM`: no memory for the copy of the array.
///
/// ```c
/// struct iovec parts[] = {{&header, sizeof header}, {buf, len}};
/// err = ioe_prep_writev(event, fd, parts, 2, offset);
/// ```
///
/// # Safety
/// `event` is NULL or an event; `iov` has `iovcnt` segments, readable until the event completes.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_writev(
    event: *mut ioe_event,
    fd: c_int,
    iov: *const libc::iovec,
    iovcnt: c_int,
    offset: u64,
) -> c_int {
    let action = IOAction::Write;
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare_segments(event, action, fd, iov, iovcnt, offset) }))
}

/// Makes the event an fsync(2). Data and metadata of writes that completed before it was submitted
/// are durable when it completes with 0. A failed one is never retried by the library: the kernel
/// reports an error of the file once. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL.
///
/// ```c
/// err = ioe_prep_fsync(event, fd);
/// int64_t ret = err == 0 ? ioe_submit_wait(ctx, event) : err;
/// if (ret < 0) // data is lost: another fsync would hide that
///     abort();
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_fsync(event: *mut ioe_event, fd: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare(event, IOAction::Fsync, fd, None, 0, 0) }))
}

/// Makes the event an fdatasync(2). As `ioe_prep_fsync`, without metadata that reading the data
/// back does not need. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_fdatasync(event: *mut ioe_event, fd: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare(event, IOAction::Fdatasync, fd, None, 0, 0) }))
}

/// Makes the event a fallocate(2) of `len` bytes at `offset`. Both are in bytes; `mode` is that of
/// fallocate(2). What the file system makes of mode and length arrives in the callback. Any thread
/// that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL, or `offset` or `offset + len` is above INT64_MAX.
///
/// ```c
/// // Room for a log of 64 MiB; 0 is the plain mode.
/// err = ioe_prep_fallocate(event, fd, 0, 0, 64 << 20);
/// if (err == 0)
///     err = (int)ioe_submit_wait(ctx, event);
/// if (err == -EOPNOTSUPP) // not on this file system: do without
///     err = 0;
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_fallocate(
    event: *mut ioe_event,
    fd: c_int,
    mode: c_int,
    offset: u64,
    len: u64,
) -> c_int {
    let action = IOAction::Fallocate(mode);
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare(event, action, fd, None, len, offset) }))
}

/// Makes the event a sync_file_range(2) of `len` bytes at `offset`. Both are in bytes; a `len` of 0 is
/// to the end of the file. `flags` are those of sync_file_range(2), and the kernel's to judge: with
/// SYNC_FILE_RANGE_WRITE the write-back of the range begins, with the other two the event waits for
/// it. So a sync that comes later has less to do. Nothing is durable by this: neither metadata nor
/// what is in the disk's cache. A failed one is never retried by the library: one that waits takes the
/// file's error, and the next fsync of the descriptor may say yes. It is not joined with others, and
/// no barrier waits for it. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL, or `offset` or `offset + len` is above INT64_MAX.
///
/// ```c
/// // What was written goes to the disk meanwhile: a shorter fsync.
/// err = ioe_prep_sync_range(event, fd, offset, len,
///                           SYNC_FILE_RANGE_WRITE);
/// if (err == 0)
///     err = ioe_submit(ctx, event);
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_sync_range(
    event: *mut ioe_event,
    fd: c_int,
    offset: u64,
    len: u64,
    flags: u32,
) -> c_int {
    let action = IOAction::SyncRange(flags);
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare(event, action, fd, None, len, offset) }))
}

/// Makes the event an ftruncate(2) to `length` bytes. What was beyond is gone; where the file was
/// shorter, it has zeros up to there. As with all events, order is the program's: a write in flight
/// may make the file longer again, and no barrier waits for a truncation. Any thread that has the
/// event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL, or `length` is above INT64_MAX.
///
/// ```c
/// // The log ends with its last whole record.
/// err = ioe_prep_truncate(event, fd, offset + len);
/// if (err == 0)
///     err = (int)ioe_submit_wait(ctx, event);
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_truncate(event: *mut ioe_event, fd: c_int, length: u64) -> c_int {
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare(event, IOAction::Truncate, fd, None, length, 0) }))
}

/// Makes the event a posix_fadvise(2) about `len` bytes at `offset`. Both are in bytes; a `len` of 0 is
/// to the end of the file. `advice` is one of POSIX_FADV_, and the kernel's to judge, which may do
/// nothing: POSIX_FADV_WILLNEED begins to read the range into the page cache, POSIX_FADV_DONTNEED
/// drops from there what needs no writing. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL, or `offset` or `offset + len` is above INT64_MAX.
///
/// ```c
/// // These are read soon: the disk may begin.
/// err = ioe_prep_advise(event, fd, offset, len, POSIX_FADV_WILLNEED);
/// if (err == 0)
///     err = ioe_submit(ctx, event);
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_prep_advise(
    event: *mut ioe_event,
    fd: c_int,
    offset: u64,
    len: u64,
    advice: c_int,
) -> c_int {
    let action = IOAction::Advise(advice);
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { prepare(event, action, fd, None, len, offset) }))
}

/// Sets what is called when the event completes. It is given `arg`. Both survive completion and a
/// new prep. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` or `cb` is NULL.
///
/// ```c
/// static void on_read(ioe_event *event, void *arg)
/// {
///     int64_t n = ioe_event_result(event);
///     if (n < 0)
///         fprintf(stderr, "read: %s\n", ioe_strerror((int)n));
///     else
///         fwrite(ioe_event_buffer(event), 1, (size_t)n, (FILE *)arg);
/// }
///
/// err = ioe_event_set_callback(event, on_read, stdout);
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_set_callback(
    event: *mut ioe_event,
    cb: ioe_callback,
    arg: *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let Some(mut event) = (unsafe { from_c(event) }) else { return -libc::EINVAL };
        match (event.fit(), cb) {
            (Err(Unfit::InFlight), _) => -libc::EBUSY,
            (_, None) => -libc::EINVAL,
            (_, function) => {
                event.set_callback(CCallback { function, arg });
                0
            }
        }
    })
}

/// The callback of an event, whatever its state.
pub(super) fn callback(event: &IOEvent<CCallback>) -> CCallback {
    // SAFETY: it was made of zeros, which stand for none; only the event's owner writes it.
    unsafe { event.callback_slot().read() }
}

/// The work of every getter: `absent` stands for NULL.
///
/// # Safety
/// `event` is NULL or an event that was not freed.
unsafe fn get<R: super::Panicked>(
    event: *const ioe_event,
    absent: R,
    getter: impl FnOnce(&IOEvent<CCallback>) -> R,
) -> R {
    // SAFETY: by the caller's promise.
    guard(|| unsafe { from_c(event) }.map_or(absent, |event| getter(&event)))
}

/// The result of an event: bytes transferred since it was prepared, 0 for what is no transfer, or a
/// negated errno. A write's is its full length or an errno; a read's is less than its length only
/// where the file ends. Any thread.
///
/// An errno is what preadv2(2), pwritev2(2), fsync(2), fallocate(2), sync_file_range(2), ftruncate(2)
/// or posix_fadvise(2) said, such as `-EBADF`, `-EIO` or `-ENOSPC`; `-EOPNOTSUPP` for a flag that the
/// kernel, the file or the driver lacks; `-ECANCELED` after `ioe_cancel`; `-ETIMEDOUT` after
/// `ioe_event_set_timeout`; for a sync, that of the sync it was joined with; for a barrier, that of a
/// write before it.
///
/// Returns the result; `IOE_PENDING` before completion. Where there is no event:
/// - `-EINVAL`: `event` is NULL.
///
/// ```c
/// int64_t n = ioe_event_result(event);
/// if (n >= 0 && (size_t)n < ioe_event_size(event))
///     memset((char *)buf + n, 0, len - (size_t)n); // the file ended
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_result(event: *const ioe_event) -> i64 {
    debug_assert_eq!(PENDING, i64::MIN);
    // SAFETY: by the caller's promise.
    unsafe { get(event, -i64::from(libc::EINVAL), |event| event.result()) }
}

/// Bytes that got through since the event was prepared. They count also when its result is an
/// errno, and while it is in flight. Any thread.
///
/// Returns them; 0 for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_transferred(event: *const ioe_event) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe { get(event, 0, |event| event.transferred()) }
}

/// Whether the event has a result. It may be true a little before the callback starts: it grants
/// no ownership. Any thread.
///
/// Returns that; false for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_is_done(event: *const ioe_event) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { get(event, false, |event| event.is_done()) }
}

/// The descriptor of the event. Any thread.
///
/// Returns it; -1 where never prepared, or for NULL.
///
/// ```c
/// // The next read of as many bytes, into the same memory.
/// err = ioe_prep_read(event, ioe_event_fd(event),
///                     ioe_event_buffer(event), ioe_event_size(event),
///                     ioe_event_offset(event) + ioe_event_size(event));
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_fd(event: *const ioe_event) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { get(event, -1, |event| event.fd()) }
}

/// What the event does, one of `ioe_action`. Any thread.
///
/// Returns it; `IOE_NONE` where never prepared, or for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_action(event: *const ioe_event) -> c_int {
    let number = |event: &IOEvent<CCallback>| match event.action() {
        None => ioe_action::IOE_NONE as c_int,
        Some(IOAction::Read) => ioe_action::IOE_READ as c_int,
        Some(IOAction::Write) => ioe_action::IOE_WRITE as c_int,
        Some(IOAction::Fsync) => ioe_action::IOE_FSYNC as c_int,
        Some(IOAction::Fdatasync) => ioe_action::IOE_FDATASYNC as c_int,
        Some(IOAction::Fallocate(_)) => ioe_action::IOE_FALLOCATE as c_int,
        Some(IOAction::SyncRange(_)) => ioe_action::IOE_SYNC_RANGE as c_int,
        Some(IOAction::Truncate) => ioe_action::IOE_TRUNCATE as c_int,
        Some(IOAction::Advise(_)) => ioe_action::IOE_ADVISE as c_int,
    };
    // SAFETY: by the caller's promise.
    unsafe { get(event, ioe_action::IOE_NONE as c_int, number) }
}

/// The memory of the request, or of its first segment. Any thread.
///
/// Returns it; NULL for what is no transfer, where never prepared, or for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_buffer(event: *const ioe_event) -> *mut c_void {
    // SAFETY: by the caller's promise.
    unsafe { get(event, std::ptr::null_mut(), |event| event.memory().cast()) }
}

/// The length of the whole request in bytes, all segments together; of a truncation, the file's. Any
/// thread.
///
/// Returns it; 0 for a sync, where never prepared, or for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_size(event: *const ioe_event) -> usize {
    // SAFETY: by the caller's promise.
    unsafe { get(event, 0, |event| event.get_size() as usize) }
}

/// The file offset in bytes at which the whole request begins. Any thread.
///
/// Returns it; 0 for a sync or a truncation, where never prepared, or for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_offset(event: *const ioe_event) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe { get(event, 0, |event| event.offset()) }
}

/// The `arg` of `ioe_event_set_callback`. Any thread.
///
/// Returns it; NULL where none was set, or for NULL.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_arg(event: *const ioe_event) -> *mut c_void {
    // SAFETY: by the caller's promise.
    unsafe { get(event, std::ptr::null_mut(), |event| callback(event).arg) }
}

/// Names the event, for `ioe_cancel`. The name is good until the event's next prep or its next
/// completion, and never another event's. To be read before the event is submitted: afterwards it
/// may have completed already. Any thread.
///
/// Returns the name; 0 for NULL: no event has that.
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_id(event: *const ioe_event) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe { get(event, 0, |event| event.id()) }
}
