//! Handing events in.

use std::mem::ManuallyDrop;
use std::os::raw::c_int;

use super::context::{ioe_context, Inside};
use super::event::{callback, from_c, ioe_event};
use super::{answer, done, guard, CCallback};
use crate::tasks::IOEvent;

/// Takes one event from C for `submit`, checked in the order that the header lists.
///
/// # Safety
/// `event` is NULL or an event that was not freed.
#[inline(always)]
pub(super) unsafe fn take(
    event: *mut ioe_event,
    check_process: impl FnOnce() -> Result<(), i32>,
    submit: impl FnOnce(IOEvent<CCallback>) -> Result<(), (IOEvent<CCallback>, i32)>,
) -> Result<(), i32> {
    // SAFETY: by the caller's promise.
    let event = unsafe { from_c(event) }.ok_or(libc::EINVAL)?;
    check_process()?;
    if callback(&event).function.is_none() {
        return Err(event.fit().map_or_else(|unfit| unfit.errno(), |()| libc::EINVAL));
    }
    submit(ManuallyDrop::into_inner(event)).map_err(|(event, errno)| {
        // It is still the caller's.
        event.into_raw();
        errno
    })
}

/// Hands one event to a context.
///
/// # Safety
/// `event` is NULL or an event that was not freed.
unsafe fn submit(context: &Inside, event: *mut ioe_event, may_wait: bool) -> Result<(), i32> {
    // SAFETY: by the caller's promise.
    unsafe {
        if context.take_plain((&raw const event).cast(), 1) == 1 {
            return Ok(());
        }
        take(event, || context.check_process(), |event| context.submit(event, may_wait))
    }
}

/// Hands an event to the context. Until its callback starts it is the context's; its callback is
/// called exactly once. Waits while the queue is full; inside a callback, of whatever context, it
/// never waits and never fails for room. With `IOE_POLLED` it does not wait either. Order among
/// events in flight is undefined, but for `IOE_BARRIER`. Any thread; with `IOE_POLLED` the owner's.
///
/// An event that completed short or with an errno may be submitted again without a new prep: it
/// goes on where it stopped. (A vectored read with O_DIRECT that ended off a block boundary cannot:
/// the kernel answers `-EINVAL` in the callback. A plain one begins again at the boundary.)
///
/// Returns 0, or, leaving the event yours, as it was:
/// - `-EINVAL`: a pointer is NULL; the event was never prepared, has no callback, or is whole and
///   was not prepared again.
/// - `-EBUSY`: the event is in flight.
/// - `-EPERM`: not the owner of a polled context.
/// - `-ESHUTDOWN`: the context is being freed.
/// - `-EAGAIN`: the queue of a polled context is full: `ioe_poll` first.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// err = ioe_submit(ctx, event);
/// if (err != 0) { // no callback will come: the event is still ours
///     ioe_event_free(event);
///     return err;
/// }
/// ```
///
/// # Safety
/// `ctx` is NULL or a context; `event` is NULL or an event; its memory and descriptor live until
/// its callback.
#[no_mangle]
pub unsafe extern "C" fn ioe_submit(ctx: *mut ioe_context, event: *mut ioe_event) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        // SAFETY: by the caller's promise.
        done(context.and_then(|context| unsafe { submit(&context, event, true) }))
    })
}

/// Hands an event to the context, but never waits. Otherwise as `ioe_submit`. Any thread; with
/// `IOE_POLLED` the owner's.
///
/// Returns 0, or, leaving the event yours, as it was:
/// - `-EAGAIN`: the queue is full.
/// - `-EINVAL`, `-EBUSY`, `-EPERM`, `-ESHUTDOWN`, `-EOWNERDEAD`: as `ioe_submit`.
///
/// # Safety
/// As `ioe_submit`.
#[no_mangle]
pub unsafe extern "C" fn ioe_try_submit(ctx: *mut ioe_context, event: *mut ioe_event) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        // SAFETY: by the caller's promise.
        done(context.and_then(|context| unsafe { submit(&context, event, false) }))
    })
}

/// A context that events of a list are to be handed to; `None` where there is no context, or no list.
///
/// # Safety
/// `ctx` is NULL or a context.
#[inline]
unsafe fn enter_with(ctx: *mut ioe_context, events: *const *mut ioe_event) -> Option<Inside> {
    // SAFETY: by the caller's promise.
    unsafe { Inside::enter(ctx) }.ok().filter(|_| !events.is_null())
}

/// Hands several events to the context. `n` of them, in order, waiting as `ioe_submit` does, up to
/// the first that is refused. With `merge_limit`, they reach the reactor together, but for those
/// that had to wait for room, and neighbours among them are joined, whatever their order. Any
/// thread; with `IOE_POLLED` the owner's.
///
/// Returns how many were accepted (at most INT_MAX are looked at); the others are yours, as they
/// were. Where there are events and none was accepted:
/// - `-EINVAL`: `ctx` or `events` is NULL, also where `n` is 0; the first event is NULL, was never
///   prepared, has no callback, or is whole and was not prepared again.
/// - `-EBUSY`: the first event is in flight.
/// - `-EPERM`: not the owner of a polled context.
/// - `-ESHUTDOWN`: the context is being freed.
/// - `-EAGAIN`: the queue of a polled context is full: `ioe_poll` first.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// int accepted = ioe_submit_batch(ctx, events, n);
/// for (size_t i = accepted < 0 ? 0 : (size_t)accepted; i < n; i++)
///     ioe_event_free(events[i]); // these are still ours
/// ```
///
/// # Safety
/// `events` is NULL or has `n` pointers; the rest as `ioe_submit`.
#[no_mangle]
pub unsafe extern "C" fn ioe_submit_batch(
    ctx: *mut ioe_context,
    events: *const *mut ioe_event,
    n: usize,
) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let Some(context) = (unsafe { enter_with(ctx, events) }) else { return -libc::EINVAL };
        let n = n.min(c_int::MAX as usize);
        // SAFETY: by the caller's promise.
        let mut accepted = unsafe { context.take_plain(events.cast(), n) } as c_int;
        if accepted as usize == n {
            return accepted;
        }
        let mut batch = context.batch();
        while (accepted as usize) < n {
            let add = |event| batch.add(event);
            let check = || if accepted == 0 { context.check_process() } else { Ok(()) };
            // SAFETY: by the caller's promise.
            let taken = unsafe { take(events.add(accepted as usize).read(), check, add) };
            match taken {
                Ok(()) => accepted += 1,
                Err(errno) if accepted == 0 => return -errno,
                Err(_) => break,
            }
        }
        answer(Ok(accepted))
    })
}

/// Runs an event and waits for it. It is done on the calling thread, whole, without the hand-over
/// to another. A sync that finds another one of its descriptor running waits for its end; then one
/// of those that wait syncs for all of them (not with `IOE_NO_SYNC_GROUP`, nor inside a callback of
/// another context). A barrier, and an event with a time limit or a priority, are handed to the
/// driver thread and waited for, also inside a callback of another context. It needs no callback,
/// and one that is set is not called; it needs no room in the queue. Any thread; with `IOE_POLLED`
/// the owner's, and callbacks of events in flight may run in here. With `workers` 0 hold no lock
/// that a callback takes: the driver thread may be who it waits for.
///
/// Returns the result of the event, as `ioe_event_result` has it afterwards; or, leaving the
/// event as it was:
/// - `-EINVAL`: a pointer is NULL; the event was never prepared, or is whole and was not prepared
///   again.
/// - `-EBUSY`: the event is in flight.
/// - `-EDEADLK`: called inside a callback of this context, or for what is handed over, inside the
///   log callback on its driver thread.
/// - `-EPERM`: not the owner of a polled context.
/// - `-ESHUTDOWN`: the context is being freed.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// err = ioe_prep_read(event, fd, buf, len, offset);
/// int64_t n = err == 0 ? ioe_submit_wait(ctx, event) : err;
/// if (n < 0)
///     fprintf(stderr, "read: %s\n", ioe_strerror((int)n));
/// else if ((size_t)n < len)
///     fprintf(stderr, "the file ends after %" PRId64 " bytes\n", n);
/// ```
///
/// # Safety
/// As `ioe_submit`.
#[no_mangle]
pub unsafe extern "C" fn ioe_submit_wait(ctx: *mut ioe_context, event: *mut ioe_event) -> i64 {
    guard(|| {
        // SAFETY: by the caller's promise.
        let (context, event) = unsafe { (Inside::enter(ctx), from_c(event)) };
        let (Ok(context), Some(mut event)) = (context, event) else {
            return -i64::from(libc::EINVAL);
        };
        context.submit_wait(&mut event).unwrap_or_else(|errno| -i64::from(errno))
    })
}

/// Hands several events to the context together and waits for all. `n` of them, in order, up to the
/// first that is refused; with `merge_limit`, neighbours among them are joined. They are under way
/// at once, done by the driver, whose thread tells the caller when the last one is done: no
/// callback thread takes part. One alone is done as `ioe_submit_wait` does it. They need no
/// callbacks, and those that are set are not called; they need no room in the queue. Until the call
/// returns they are in flight, also those that are done. Any thread; with `IOE_POLLED` the owner's,
/// and callbacks of other events in flight may run in here. With `workers` 0 hold no lock that a
/// callback takes: the driver thread is who it waits for.
///
/// Returns how many were accepted (at most INT_MAX are looked at), which are done: each has its result
/// (`ioe_event_result`); the others are as they were. Where there are events and none was accepted:
/// - `-EINVAL`: `ctx` or `events` is NULL, also where `n` is 0; the first event is NULL, was never
///   prepared, or is whole and was not prepared again.
/// - `-EBUSY`: the first event is in flight.
/// - `-EDEADLK`: called inside a callback of this context, or for what is handed over, inside the log
///   callback on its driver thread.
/// - `-EPERM`: not the owner of a polled context.
/// - `-ESHUTDOWN`: the context is being freed.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// int done = ioe_submit_wait_batch(ctx, events, n);
/// for (int i = 0; i < done; i++) {
///     int64_t result = ioe_event_result(events[i]);
///     if (result < 0)
///         fprintf(stderr, "%d: %s\n", i, ioe_strerror((int)result));
/// }
/// ```
///
/// # Safety
/// As `ioe_submit_batch`.
#[no_mangle]
pub unsafe extern "C" fn ioe_submit_wait_batch(
    ctx: *mut ioe_context,
    events: *const *mut ioe_event,
    n: usize,
) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let Some(context) = (unsafe { enter_with(ctx, events) }) else { return -libc::EINVAL };
        let n = n.min(c_int::MAX as usize);
        // SAFETY: by the caller's promise.
        answer(unsafe { context.submit_wait_batch(events.cast(), n) }.map(|done| done as c_int))
    })
}

/// Asks for an event back by its `ioe_event_id`. It completes, in its callback, with `-ECANCELED`,
/// or with its own result if it finished whole first; the other events of a merged operation or of
/// joined syncs go on. What is still queued never reaches the kernel. What the kernel has is asked
/// for back where the driver can: io_uring (IORING_OP_ASYNC_CANCEL, mostly for what has not begun),
/// the pool what no thread has begun, AIO nothing; the callback comes only when the kernel is done
/// with the memory. A cancelled write may have been written in part, or whole:
/// `ioe_event_transferred` tells what got through for certain. What mergers gathered is flushed.
/// Any thread, also with `IOE_POLLED`, where the owner's next `ioe_poll` acts on it and one that it
/// sleeps in wakes.
///
/// Returns 0 where the event was found in flight in this context, or:
/// - `-ENOENT`: no event of this id is in flight in it: its callback has started, it was never
///   submitted, or it is in another context.
/// - `-EINVAL`: `ctx` is NULL.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// uint64_t id = ioe_event_id(event); // before it is out of our hands
/// err = ioe_submit(ctx, event);
/// if (err == 0 && ioe_cancel(ctx, id) == -ENOENT)
///     puts("its callback came first");
/// ```
///
/// # Safety
/// `ctx` is NULL or a context.
#[no_mangle]
pub unsafe extern "C" fn ioe_cancel(ctx: *mut ioe_context, id: u64) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        done(context.and_then(|context| context.cancel(id)))
    })
}
