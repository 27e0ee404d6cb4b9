//! Mergers: neighbouring events gathered by hand.

use std::mem::ManuallyDrop;
use std::os::raw::c_int;
use std::ptr::NonNull;

use super::context::{ioe_context, Inside};
use super::event::{ioe_action, ioe_event};
use super::submit::take;
use super::{done, guard, CCallback};
use crate::merger::Merger;
use crate::tasks::IOAction;

/// Gathers neighbouring events of one file, to be handed over as one operation. One thread uses it
/// at a time.
pub struct ioe_merger {
    _opaque: [u8; 0],
}

/// The merger behind a pointer.
///
/// # Safety
/// The pointer is NULL or a merger that was not freed.
unsafe fn merger<'a>(merger: *mut ioe_merger) -> Result<&'a Merger<CCallback>, i32> {
    // SAFETY: by the caller's promise; the handle is the pointer of a Box.
    unsafe { merger.cast::<Merger<CCallback>>().as_ref() }.ok_or(libc::EINVAL)
}

/// Makes a merger for events of one descriptor and action. `action` is `IOE_READ` or `IOE_WRITE`;
/// it joins up to `limit` bytes and 1024 segments of memory; more than 1 GiB counts as 1 GiB. It
/// needs no `merge_limit` in the context; where there is one, what a merger hands over may be
/// joined further up to that. `*out` is set on success. Freed with `ioe_merger_free`, before the
/// context. Any thread; with `IOE_POLLED` the owner's, as all calls of a merger.
///
/// An operation of several events works on their own memory: nothing is copied. Each event has its
/// own callback with its own result, as if it had travelled alone: a short transfer is continued
/// for the rest; where the file ends, the events before it are whole, the one across it is short,
/// and those behind it have 0. After an error, reads that are not whole go on one by one, and
/// writes as well, once, after `EIO`, `ENOSPC`, `EDQUOT`, `EFBIG` and `EINVAL`; but with any other
/// errno, and on a descriptor with O_SYNC or O_DSYNC, whose first error is the only one that the
/// kernel reports, every event of a write that is not whole has the error. Kept apart are events
/// that overlap, writes with O_APPEND, and, with O_DIRECT, events that are not aligned.
///
/// Returns 0, or:
/// - `-EINVAL`: `ctx` or `out` is NULL, `action` is another one, or `limit` is 0.
/// - `-EPERM`: not the owner of a polled context.
/// - `-ESHUTDOWN`: the context is being freed.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// err = ioe_merger_new(ctx, fd, IOE_WRITE, 1 << 20, &merger);
/// if (err != 0)
///     return err;
/// for (size_t i = 0; i < n && err == 0; i++)
///     err = ioe_merger_add(merger, events[i]);
/// ioe_merger_free(merger); // hands over what is left
/// ```
///
/// # Safety
/// `ctx` is NULL or a context; `out` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn ioe_merger_new(
    ctx: *mut ioe_context,
    fd: c_int,
    action: c_int,
    limit: usize,
    out: *mut *mut ioe_merger,
) -> c_int {
    guard(|| {
        let action = match action {
            action if action == ioe_action::IOE_READ as c_int => IOAction::Read,
            action if action == ioe_action::IOE_WRITE as c_int => IOAction::Write,
            _ => return -libc::EINVAL,
        };
        if out.is_null() || limit == 0 {
            return -libc::EINVAL;
        }
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        done(context.and_then(|context| {
            let merger = Merger::new(&context, fd, action, limit)?;
            // SAFETY: by the caller's promise.
            unsafe { out.write(Box::into_raw(Box::new(merger)).cast()) }
            Ok(())
        }))
    })
}

/// Hands an event in, and gathers it with its neighbours. It is accepted as by `ioe_submit`. One
/// that is not adjacent to what was gathered, at either end, or would exceed the limit, flushes
/// that first; reaching the limit flushes at once. Everything gathered in a context is also flushed
/// by `ioe_drain`, by `ioe_poll` with a `min` above 0, by a barrier (`IOE_BARRIER`), by
/// `ioe_cancel`, in a polled context by what waits for a batch or for what it hands over, and by
/// whoever finds the queue full of nothing but gathered events (with several `reactors`, what those
/// of that queue gathered); an event with a time limit goes at once, with what was gathered.
/// Without any of these, an event stays gathered, and its callback does not come, until
/// `ioe_merger_flush`. Any thread, one at a time; with `IOE_POLLED` the owner's.
///
/// Returns 0, or, leaving the event yours, as it was:
/// - `-EINVAL`: a pointer is NULL; the event has another descriptor or action than the merger, was
///   never prepared, has no callback, or is whole and was not prepared again.
/// - `-EBUSY`: the event is in flight.
/// - `-EPERM`: not the owner of a polled context.
/// - `-EAGAIN`: the queue of a polled context is full: `ioe_poll` first.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// // The records of a commit, one behind the other in the log.
/// for (size_t i = 0; i < n && err == 0; i++)
///     err = ioe_merger_add(merger, events[i]);
/// if (err == 0)
///     err = ioe_merger_flush(merger);
/// ```
///
/// # Safety
/// `merger` is NULL or a merger; `event` as in `ioe_submit`.
#[no_mangle]
pub unsafe extern "C" fn ioe_merger_add(merger: *mut ioe_merger, event: *mut ioe_event) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        done(unsafe { self::merger(merger) }.and_then(|merger| {
            let add = |event| merger.add(event);
            // SAFETY: by the caller's promise.
            unsafe { take(event, || merger.check_process(), add) }
        }))
    })
}

/// Hands over what was gathered. Any thread, one at a time; with `IOE_POLLED` the owner's.
///
/// Returns 0, also where that is nothing, or:
/// - `-EINVAL`: `merger` is NULL.
/// - `-EPERM`: not the owner of a polled context.
/// - `-EOWNERDEAD`: in a forked child.
///
/// # Safety
/// `merger` is NULL or a merger.
#[no_mangle]
pub unsafe extern "C" fn ioe_merger_flush(merger: *mut ioe_merger) -> c_int {
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { self::merger(merger) }.and_then(Merger::flush)))
}

/// Hands over what was gathered, and frees the merger. Any thread, one at a time; with `IOE_POLLED`
/// the owner's, or any once the owner has ended.
///
/// Returns 0, or, having done nothing:
/// - `-EINVAL`: `merger` is NULL.
/// - `-EPERM`: not the owner of a polled context whose owner lives.
/// - `-EOWNERDEAD`: in a forked child.
///
/// # Safety
/// `merger` is NULL or a merger; not used again after 0.
#[no_mangle]
pub unsafe extern "C" fn ioe_merger_free(merger: *mut ioe_merger) -> c_int {
    guard(|| {
        let Some(raw) = NonNull::new(merger.cast::<Merger<CCallback>>()) else {
            return -libc::EINVAL;
        };
        // SAFETY: by the caller's promise; freed below, if at all.
        let merger = ManuallyDrop::new(unsafe { Box::from_raw(raw.as_ptr()) });
        done(merger.check_free().map(|()| drop(ManuallyDrop::into_inner(merger))))
    })
}
