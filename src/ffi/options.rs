//! What an event may be told beside its request: flags, a priority, a time limit.

use std::os::raw::c_int;
use std::time::Duration;

use super::event::{from_c, ioe_event};
use super::{done, errno_of, guard, CCallback};
use crate::tasks::{flags, IOEvent};

/// What an event asks beside its action: bits of `ioe_event_set_flags`. But for `IOE_BARRIER` they
/// are the RWF_ flags of preadv2(2), with their values, and the kernel's to judge: what the kernel,
/// the file or the driver lacks arrives in the callback as `-EOPNOTSUPP`. Events are merged only
/// with events of the same flags and priority.
#[repr(C)]
pub enum ioe_event_flag {
    /// RWF_HIPRI: the completion is polled for. For O_DIRECT transfers of a context with
    /// `IOE_IOPOLL`; `-EOPNOTSUPP` for all others, where the kernel would leave it out silently.
    /// Never merged.
    IOE_HIPRI = 0x01,
    /// RWF_DSYNC (Linux 4.7), for writes: durable when it completes, as with O_DSYNC of open(2).
    IOE_DSYNC = 0x02,
    /// RWF_NOWAIT (Linux 4.14): `-EAGAIN` where the transfer would wait, for the disk or for a lock.
    /// That is its answer, never tried again; what got through before it, `ioe_event_transferred`
    /// tells. Never merged.
    IOE_NOWAIT = 0x08,
    /// RWF_APPEND (Linux 4.16), for writes: goes to the end of the file, wherever that is when the
    /// kernel does it, and the offset does not matter. Never merged.
    IOE_APPEND = 0x10,
    /// RWF_ATOMIC (Linux 6.11), for writes: all of it reaches the disk, or nothing, also when power
    /// fails. Length and alignment that the file allows: STATX_WRITE_ATOMIC of statx(2); `-EINVAL`
    /// in the callback for others. Never split, merged or continued.
    IOE_ATOMIC = 0x40,
    /// RWF_DONTCACHE (Linux 6.14): what passes through the page cache does not stay there.
    IOE_DONTCACHE = 0x80,
    /// For fsync and fdatasync: it starts only when every write of the same descriptor is done that
    /// was accepted before it and whose callback had not started then: in a queue, in the kernel,
    /// gathered in a merger (which a barrier flushes), or in `ioe_submit_wait` on another thread;
    /// with all its continuations. Where one of them failed, or was cancelled, the barrier completes
    /// with that error and syncs nothing. Later writes, and other descriptors, go on meanwhile. The
    /// order is that of the submit calls: what had returned before this one began was accepted
    /// before.
    IOE_BARRIER = 0x40000000,
}

const _: () = assert!(
    ioe_event_flag::IOE_HIPRI as u32 == flags::HIPRI
        && ioe_event_flag::IOE_DSYNC as u32 == flags::DSYNC
        && ioe_event_flag::IOE_NOWAIT as u32 == flags::NOWAIT
        && ioe_event_flag::IOE_APPEND as u32 == flags::APPEND
        && ioe_event_flag::IOE_ATOMIC as u32 == flags::ATOMIC
        && ioe_event_flag::IOE_DONTCACHE as u32 == flags::DONTCACHE
        && ioe_event_flag::IOE_BARRIER as u32 == flags::BARRIER
);

/// The work of every set call.
///
/// # Safety
/// `event` is NULL or an event that was not freed.
unsafe fn set(
    event: *mut ioe_event,
    set: impl FnOnce(&mut IOEvent<CCallback>) -> std::io::Result<()>,
) -> c_int {
    // SAFETY: by the caller's promise.
    match unsafe { from_c(event) } {
        Some(mut event) => done(set(&mut event).map_err(|error| errno_of(&error))),
        None => -libc::EINVAL,
    }
}

/// Sets what the event asks beside its action. `flags` are bits of `ioe_event_flag`, instead of
/// those set before. After the prep, which clears them; they survive completion. Any thread that
/// has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL or was never prepared; an unknown bit; `IOE_BARRIER` for anything
///   but fsync and fdatasync, or another bit for anything but reads and writes; `IOE_DSYNC`,
///   `IOE_APPEND` or `IOE_ATOMIC` for a read.
///
/// ```c
/// // Behind writes that were submitted: one answer for all of them.
/// err = ioe_prep_fdatasync(event, fd);
/// if (err == 0)
///     err = ioe_event_set_flags(event, IOE_BARRIER);
/// if (err == 0)
///     err = (int)ioe_submit_wait(ctx, event);
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_set_flags(event: *mut ioe_event, flags: u32) -> c_int {
    // SAFETY: by the caller's promise.
    guard(|| unsafe { set(event, |event| event.set_flags(flags)) })
}

/// Sets the I/O priority of a read or write. `ioprio` is IOPRIO_PRIO_VALUE(class, level) of
/// ioprio_set(2), which is class << 13 | level, or 0 for that of the thread that does it. The class
/// is 1 (real time; needs CAP_SYS_ADMIN or CAP_SYS_NICE, else `-EPERM` in the callback), 2 (best
/// effort) or 3 (idle), the level 0, the highest, to 7. What it does is the block layer's
/// scheduler's matter. After the prep, which clears it; it survives completion. Any thread that has
/// the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL, was never prepared, or is no read or write; `ioprio` is none of
///   these.
///
/// ```c
/// // A read of compaction's: best effort, the lowest level.
/// err = ioe_prep_read(event, fd, buf, len, offset);
/// if (err == 0)
///     err = ioe_event_set_priority(event, 2 << 13 | 7);
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_set_priority(event: *mut ioe_event, ioprio: c_int) -> c_int {
    // SAFETY: by the caller's promise.
    guard(|| unsafe { set(event, |event| event.set_priority(ioprio)) })
}

/// Sets how long the event may take, in nanoseconds. It counts from each acceptance; 0: as long as
/// it takes. When that time is up, an event that is still queued completes with `-ETIMEDOUT`, and
/// nothing reaches the disk. One in the kernel is cancelled where the driver can (see
/// `ioe_cancel`), and in any case its callback comes only when the kernel is done with its memory:
/// with its own result if it finished whole, a sync also if it failed, else with `-ETIMEDOUT`. With
/// `IOE_POLLED` limits are looked at inside `ioe_poll`, which wakes for them. After the prep, which
/// clears it; it survives completion. Any thread that has the event.
///
/// Returns 0, or, leaving the event as it was:
/// - `-EBUSY`: the event is in flight.
/// - `-EINVAL`: `event` is NULL or was never prepared; `ns` is negative.
///
/// ```c
/// err = ioe_event_set_timeout(event, INT64_C(50000000)); // 50 ms
/// int64_t n = err == 0 ? ioe_submit_wait(ctx, event) : err;
/// if (n == -ETIMEDOUT)
///     fprintf(stderr, "a slow disk\n");
/// ```
///
/// # Safety
/// `event` is NULL or an event.
#[no_mangle]
pub unsafe extern "C" fn ioe_event_set_timeout(event: *mut ioe_event, ns: i64) -> c_int {
    let limit = u64::try_from(ns).ok().map(Duration::from_nanos);
    // SAFETY: by the caller's promise.
    guard(|| unsafe {
        set(event, |event| match limit {
            None => Err(std::io::Error::from_raw_os_error(match event.is_in_flight() {
                true => libc::EBUSY,
                false => libc::EINVAL,
            })),
            Some(limit) => event.set_timeout(Some(limit).filter(|limit| !limit.is_zero())),
        })
    })
}
