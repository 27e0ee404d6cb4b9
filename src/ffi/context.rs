//! Contexts and callback threads: made, asked, drained, polled, freed.

use std::ops::Deref;
use std::os::raw::{c_char, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use super::{answer, done, errno_of, guard, read_struct, write_struct, CCallback, Versioned};
use crate::callback_worker::IOWorkers;
use crate::context::{Config, Runs, Shard, Shards, Stats};
use crate::driver::Driver;
use crate::fork;
use crate::gate::{deadline_after, Deadline};

/// An engine for one stream of events. Used from any thread; with `IOE_POLLED`, from its owner's.
pub struct ioe_context {
    _opaque: [u8; 0],
}

/// Callback threads that several contexts share.
pub struct ioe_workers {
    workers: IOWorkers<CCallback>,
    generation: fork::Generation,
}

/// Bits of `ioe_config.flags`.
#[repr(C)]
pub enum ioe_flag {
    /// No driver thread and no callback thread. The first thread that submits or polls owns the
    /// context; any other gets `-EPERM` from everything but info, stats, `ioe_cancel` and, once the
    /// owner has ended, `ioe_context_free` and `ioe_merger_free`. Callbacks run inside `ioe_poll`,
    /// and inside `ioe_drain`, `ioe_submit_wait`, `ioe_submit_wait_batch` and `ioe_context_free`, which
    /// poll by themselves.
    IOE_POLLED = 1,
    /// A kernel thread takes submissions (IORING_SETUP_SQPOLL of io_uring_setup(2)): fewer system
    /// calls, for a processor that it keeps busy; one for each of several `reactors`. For
    /// `IOE_DRIVER_URING`; left out where `IOE_DRIVER_AUTO` takes another driver.
    IOE_SQPOLL = 2,
    /// Completions are looked for, not announced (IORING_SETUP_IOPOLL). Needs `IOE_POLLED`, and a
    /// device with poll queues: an O_DIRECT transfer of another is refused in the callback, with
    /// `-EOPNOTSUPP`. Everything but O_DIRECT transfers goes to the pool. Drivers as above.
    IOE_IOPOLL = 4,
    /// Each fsync and fdatasync is a system call of its own. Without it, those of one descriptor that
    /// wait while one runs are joined into the next: one call, whose result, also an error, is told
    /// to each. None joins one that had started before it was accepted; an fsync among them makes it
    /// an fsync. A sync that fails is also the answer to all that wait behind it: the kernel tells
    /// an error once, and would say yes to them.
    IOE_NO_SYNC_GROUP = 8,
}

const POLLED: u32 = ioe_flag::IOE_POLLED as u32;
const SQPOLL: u32 = ioe_flag::IOE_SQPOLL as u32;
const IOPOLL: u32 = ioe_flag::IOE_IOPOLL as u32;
const NO_SYNC_GROUP: u32 = ioe_flag::IOE_NO_SYNC_GROUP as u32;

/// How to make a context. Filled by `ioe_config_init`, then changed field by field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ioe_config {
    /// sizeof(ioe_config), set by `ioe_config_init`: lets the struct grow. A smaller one is an
    /// older caller's: fields that it lacks have their defaults. A larger one is a newer
    /// caller's: the bytes that the library does not know must be 0.
    pub size: usize,
    /// One of `ioe_driver`. Default `IOE_DRIVER_AUTO`.
    pub driver: i32,
    /// Operations in the kernel at once, of each reactor: 1 to 32768. Where the machine's limits do not
    /// allow it, half of it is tried, and half of that, down to 16; `ioe_info` says what runs. Default
    /// 128.
    pub depth: u32,
    /// Accepted events whose callback has not started, of each reactor: 1 to 1048576. Beyond it
    /// `ioe_submit` waits. Events submitted inside callbacks are never refused, and take no room
    /// from those outside. Default 1024.
    pub queue_size: u32,
    /// Callback threads: 0 to 256. With 0, callbacks run on the driver thread. Ignored with
    /// `IOE_POLLED` and with `shared`. Default 1.
    pub workers: u32,
    /// Bytes that one merged operation may span; 0: no merging. More than 1 GiB counts as 1 GiB.
    /// Events that wait together are joined: reads or writes of one descriptor, adjacent in the
    /// file, up to this many bytes and 1024 segments of memory (IOV_MAX). Nothing waits for it. See
    /// `ioe_merger_new` for what becomes of their results. Default 0.
    pub merge_limit: u32,
    /// Bits of `ioe_flag`. Default 0.
    pub flags: u32,
    /// Callback threads of `ioe_workers_new`, to be used instead of own ones. They must outlive
    /// the context. Not with `IOE_POLLED`. Default NULL.
    pub shared: *mut ioe_workers,
    /// Milliseconds. An operation that the kernel has for longer is reported, once, to the log
    /// callback (`ioe_set_log`, `IOE_LOG_WARN`): action, descriptor, file name, offset, length,
    /// age. With `IOE_POLLED` that is inside `ioe_poll`, and for what `ioe_submit_wait` does on the
    /// calling thread, when that returns. 0: never. Default 0.
    pub stall_ms: u32,
    /// Reactors: 1 to 64, with `IOE_POLLED` 1; 0 counts as 1. Each has its own ring or what the
    /// driver has instead, its own driver thread, `depth` and `queue_size`; callback threads serve
    /// all. Reads go to any: a thread submits its reads to one of them, the process's threads take
    /// turns in the choice, and a driver thread is its own. Writes, syncs and all else go by their
    /// descriptor, those of one to one, so that barriers and joined syncs mean what they mean with
    /// one reactor. Each pins memory of its own: where a limit allows fewer, there are fewer, and
    /// `ioe_info` says how many and why. Default 1.
    pub reactors: u32,
}

// SAFETY: repr(C), led by its size, integers and one pointer, 48 bytes without padding.
unsafe impl Versioned for ioe_config {}

/// What runs, and why what was passed over was.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ioe_info {
    /// Bytes filled by the library.
    pub size: usize,
    /// The driver in use, one of `ioe_driver`, never `IOE_DRIVER_AUTO`. It becomes
    /// `IOE_DRIVER_POOL` where the kernel forbids another one while it runs.
    pub driver: i32,
    /// Operations in the kernel at once, of each reactor, in force: lower than asked for where a
    /// limit was in the way.
    pub depth: u32,
    /// Accepted events whose callback has not started, of each reactor, in force.
    pub queue_size: u32,
    /// Callback threads; 0 with `IOE_POLLED`.
    pub workers: u32,
    /// Bytes that one merged operation may span, in force.
    pub merge_limit: u32,
    /// Bits of `ioe_flag` in force.
    pub flags: u32,
    /// Why io_uring was passed over or given up, a positive errno; 0 where not tried or fine.
    pub uring_errno: i32,
    /// Why Linux AIO was passed over or given up, a positive errno; 0 where not tried or fine.
    pub aio_errno: i32,
    /// One sentence that a person can act on: why other drivers were passed over, the depth is
    /// lower than asked for, or there are fewer reactors; "" where there is none. Lives as long as
    /// the context.
    pub reason: *const c_char,
    /// Reactors in force: fewer than asked for where a limit was in the way.
    pub reactors: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: repr(C), led by its size, integers and one pointer, 56 bytes without padding.
unsafe impl Versioned for ioe_info {}

/// Counters since the context was made, of all its reactors together. Each is read by itself: they
/// may be an instant apart.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ioe_stats {
    /// Bytes filled by the library.
    pub size: usize,
    /// Events accepted.
    pub accepted: u64,
    /// Events whose callback has started, or that are done, where their submitter waits for them.
    pub completed: u64,
    /// Events with an errno as their result, but for the `-EAGAIN` that `IOE_NOWAIT` asks for.
    pub failed: u64,
    /// Bytes moved from files to memory.
    pub bytes_read: u64,
    /// Bytes moved from memory to files.
    pub bytes_written: u64,
    /// Operations handed to the kernel.
    pub operations: u64,
    /// System calls made for them, wake-ups included.
    pub system_calls: u64,
    /// Events that travelled in another's operation: one less than there were in it, also where
    /// they were asked for again, one by one.
    pub merged: u64,
    /// Operations issued for the rest of a short one.
    pub continued: u64,
    /// fsyncs and fdatasyncs answered by another's: one less than there were in a group.
    pub syncs_joined: u64,
    /// Events accepted, less those completed.
    pub in_flight: u64,
}

// SAFETY: repr(C), led by its size, nothing but 64-bit integers.
unsafe impl Versioned for ioe_stats {}

const DEFAULTS: ioe_config = ioe_config {
    size: size_of::<ioe_config>(),
    driver: Driver::Auto as i32,
    depth: 128,
    queue_size: 1024,
    workers: 1,
    merge_limit: 0,
    flags: 0,
    shared: std::ptr::null_mut(),
    stall_ms: 0,
    reactors: 1,
};

/// A context as long as a call is inside it: its memory outlives every caller that entered before
/// it was freed. A reactor's own thread needs no count, because the context outlives it, or it is
/// the one that frees; others are counted where not all of them write.
pub(super) struct Inside {
    shards: NonNull<Shards<CCallback>>,
    _counted: Option<Arc<Shard<CCallback>>>,
}

impl Inside {
    /// # Safety
    /// The pointer is NULL or a context that was not freed.
    #[inline]
    pub(super) unsafe fn enter(context: *const ioe_context) -> Result<Self, i32> {
        let handle = NonNull::new(context.cast_mut()).ok_or(libc::EINVAL)?;
        let shards = handle.cast::<Shards<CCallback>>();
        // SAFETY: by the caller's promise; the handle is the pointer of an Arc.
        let home = unsafe { shards.as_ref() }.home();
        let counted = !home.is_reactors_thread();
        Ok(Inside { shards, _counted: counted.then(|| Arc::clone(home)) })
    }
}

impl Deref for Inside {
    type Target = Shards<CCallback>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        // SAFETY: it outlives this call, as said above.
        unsafe { self.shards.as_ref() }
    }
}

/// A timeout of the interface: -1 waits for ever.
pub(super) fn timeout(timeout_ms: i64) -> Result<Deadline, i32> {
    match timeout_ms {
        ..-1 => Err(libc::EINVAL),
        _ => Ok(deadline_after(timeout_ms)),
    }
}

/// Fills a config with the defaults. `size` is sizeof(ioe_config): it is kept in the struct, and
/// what of it the library does not know is zeroed. Any thread.
///
/// Returns 0, or:
/// - `-EINVAL`: `cfg` is NULL, or `size` is below 8 or no multiple of 8.
/// - `-E2BIG`: `size` is above 4096.
///
/// ```c
/// ioe_config config;
/// ioe_config_init(&config, sizeof config);
/// config.depth = 64;
/// config.merge_limit = 128 * 1024;
/// err = ioe_context_new(&config, &ctx);
/// ```
///
/// # Safety
/// `cfg` is NULL or has `size` writable bytes.
#[no_mangle]
pub unsafe extern "C" fn ioe_config_init(cfg: *mut ioe_config, size: usize) -> c_int {
    guard(|| {
        if cfg.is_null() {
            return -libc::EINVAL;
        }
        // SAFETY: by the caller's promise.
        done(unsafe { write_struct(ioe_config { size, ..DEFAULTS }, cfg, size) })
    })
}

/// Makes a context and starts its threads. `cfg` NULL means all defaults; it is read during the
/// call only. `*out` is set on success. Freed with `ioe_context_free`. Any thread.
///
/// A driver that is named, in `cfg` or by `IOE_DRIVER`, is used or the call fails, with the errno
/// that `ioe_probe` has for it; with `IOE_DRIVER_AUTO` the first that works is used. What exactly
/// was refused, and what to do about it, goes to the log callback (`ioe_set_log`).
///
/// Returns 0, or:
/// - `-EINVAL`: `out` is NULL; `size` is below 8 or no multiple of 8; a field is out of its range;
///   an unknown bit in `flags`; `IOE_IOPOLL` without `IOE_POLLED`; `IOE_POLLED` with `shared`, or
///   with more than one of `reactors`; `IOE_SQPOLL` or `IOE_IOPOLL` with `IOE_DRIVER_AIO` or
///   `IOE_DRIVER_POOL`; `IOE_DRIVER` in the environment names no driver; or the kernel lacks what
///   `flags` ask for.
/// - `-E2BIG`: `size` is larger than the library's and bytes beyond it are not 0, or above 4096.
/// - `-EPERM`: the named driver is forbidden by seccomp, or by sysctl kernel.io_uring_disabled.
/// - `-ENOSYS`: the named driver is not in this kernel, or hidden by seccomp.
/// - `-ENOMEM`: the kernel has no memory for the named driver, not even at depth 16:
///   RLIMIT_MEMLOCK, or the cgroup's memory.max.
/// - `-EMFILE`, `-ENFILE`: no descriptor: RLIMIT_NOFILE, sysctl fs.file-max.
/// - `-EAGAIN`: no thread: RLIMIT_NPROC, or the cgroup's pids.max; or `IOE_DRIVER_AIO` does not
///   fit below sysctl fs.aio-max-nr, not even at depth 16.
/// - `-EOWNERDEAD`: `shared` was made before a fork(2), by the parent.
///
/// ```c
/// err = ioe_context_new(NULL, &ctx);
/// if (err != 0) {
///     fprintf(stderr, "no context: %s\n", ioe_strerror(err));
///     return err;
/// }
/// ```
///
/// # Safety
/// `cfg` is NULL or has as many readable bytes as its `size` says; `out` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn ioe_context_new(
    cfg: *const ioe_config,
    out: *mut *mut ioe_context,
) -> c_int {
    guard(|| {
        if out.is_null() {
            return -libc::EINVAL;
        }
        // SAFETY: by the caller's promise.
        match unsafe { new_context(cfg) } {
            Ok(shards) => {
                let handle = Arc::into_raw(shards).cast_mut().cast();
                // SAFETY: by the caller's promise.
                unsafe { out.write(handle) }
                0
            }
            Err(errno) => -errno,
        }
    })
}

/// # Safety
/// `cfg` is NULL or has as many readable bytes as its `size` says.
unsafe fn new_context(cfg: *const ioe_config) -> Result<Arc<Shards<CCallback>>, i32> {
    let cfg = match cfg.is_null() {
        true => DEFAULTS,
        // SAFETY: by the caller's promise.
        false => unsafe { read_struct(cfg, DEFAULTS)? },
    };
    let polled = cfg.flags & POLLED != 0;
    let known = POLLED | SQPOLL | IOPOLL | NO_SYNC_GROUP;
    if cfg.flags & !known != 0 || polled && !cfg.shared.is_null() {
        return Err(libc::EINVAL);
    }
    let config = Config {
        driver: Driver::from_number(cfg.driver).ok_or(libc::EINVAL)?,
        depth: cfg.depth,
        queue_size: cfg.queue_size,
        merge_limit: cfg.merge_limit,
        polled,
        sqpoll: cfg.flags & SQPOLL != 0,
        iopoll: cfg.flags & IOPOLL != 0,
        sync_groups: cfg.flags & NO_SYNC_GROUP == 0,
        stall_ms: cfg.stall_ms,
        reactors: cfg.reactors,
    };
    config.check().map_err(|error| errno_of(&error))?;
    // SAFETY: NULL, or callback threads that outlive the context by the caller's promise.
    let workers = match unsafe { cfg.shared.as_ref() } {
        Some(shared) if shared.generation != fork::generation() => return Err(libc::EOWNERDEAD),
        Some(shared) => shared.workers.share(),
        None if polled => IOWorkers::try_new(0).map_err(|error| errno_of(&error))?,
        None => IOWorkers::try_new(cfg.workers).map_err(|error| errno_of(&error))?,
    };
    Shards::new(config, &workers).map_err(|error| errno_of(&error))
}

/// Fills a caller's struct with what is seen of a context.
///
/// # Safety
/// `ctx` is NULL or a context; `out` is NULL or has `size` writable bytes.
unsafe fn observe<T: Versioned>(
    ctx: *const ioe_context,
    out: *mut T,
    size: usize,
    see: impl FnOnce(&Inside) -> T,
) -> Result<(), i32> {
    // SAFETY: by the caller's promise.
    let context = unsafe { Inside::enter(ctx) }?;
    if out.is_null() {
        return Err(libc::EINVAL);
    }
    context.check_process()?;
    // SAFETY: by the caller's promise.
    unsafe { write_struct(see(&context), out, size) }
}

/// Tells what runs: the driver, and what of the config is in force. Any thread.
///
/// Returns 0, or:
/// - `-EINVAL`: a pointer is NULL, or `size` is below 8 or no multiple of 8.
/// - `-E2BIG`: `size` is above 4096.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// ioe_info info;
/// if (ioe_context_info(ctx, &info, sizeof info) == 0)
///     printf("%s, depth %u. %s\n", ioe_driver_name(info.driver),
///            info.depth, info.reason);
/// ```
///
/// # Safety
/// `ctx` is NULL or a context; `out` is NULL or has `size` writable bytes.
#[no_mangle]
pub unsafe extern "C" fn ioe_context_info(
    ctx: *const ioe_context,
    out: *mut ioe_info,
    size: usize,
) -> c_int {
    let info = |context: &Inside| {
        let config = context.config();
        let Runs { driver, uring_errno, aio_errno, reason } = context.runs();
        let bits = [
            (config.polled, POLLED),
            (config.sqpoll, SQPOLL),
            (config.iopoll, IOPOLL),
            (!config.sync_groups, NO_SYNC_GROUP),
        ];
        ioe_info {
            size: size.min(size_of::<ioe_info>()),
            driver: driver as i32,
            depth: config.depth,
            queue_size: config.queue_size,
            workers: context.worker_threads(),
            merge_limit: config.merge_limit,
            flags: bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum(),
            uring_errno,
            aio_errno,
            reason: reason.as_ptr(),
            reactors: context.reactors(),
            reserved: 0,
        }
    };
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { observe(ctx, out, size, info) }))
}

/// Reads the counters of a context. That is cheap enough for once a second and more. Any thread.
///
/// Returns 0, or:
/// - `-EINVAL`: a pointer is NULL, or `size` is below 8 or no multiple of 8.
/// - `-E2BIG`: `size` is above 4096.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// ioe_stats stats;
/// if (ioe_context_stats(ctx, &stats, sizeof stats) == 0)
///     printf("%" PRIu64 " events, %" PRIu64 " operations\n",
///            stats.completed, stats.operations);
/// ```
///
/// # Safety
/// `ctx` is NULL or a context; `out` is NULL or has `size` writable bytes.
#[no_mangle]
pub unsafe extern "C" fn ioe_context_stats(
    ctx: *const ioe_context,
    out: *mut ioe_stats,
    size: usize,
) -> c_int {
    let stats = |context: &Inside| {
        let Stats {
            accepted,
            completed,
            failed,
            bytes_read,
            bytes_written,
            operations,
            system_calls,
            merged,
            continued,
            syncs_joined,
            in_flight,
        } = context.stats();
        ioe_stats {
            size: size.min(size_of::<ioe_stats>()),
            accepted,
            completed,
            failed,
            bytes_read,
            bytes_written,
            operations,
            system_calls,
            merged,
            continued,
            syncs_joined,
            in_flight,
        }
    };
    // SAFETY: by the caller's promise.
    guard(|| done(unsafe { observe(ctx, out, size, stats) }))
}

/// Waits for the callbacks of all events accepted before. It returns when each of them has
/// returned; later events do not hold it back. What mergers of the context gathered is handed over.
/// `timeout_ms` is in milliseconds; -1 waits for ever, 0 only looks. Any thread; with `IOE_POLLED`
/// the owner's, and callbacks run in here.
///
/// Returns 0, or:
/// - `-ETIMEDOUT`: the time was up first.
/// - `-EDEADLK`: called inside a callback of this context, or on callback threads it shares.
/// - `-EPERM`: not the owner of a polled context.
/// - `-EINVAL`: `ctx` is NULL, or `timeout_ms` is below -1.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// while (ioe_drain(ctx, 1000) == -ETIMEDOUT)
///     fprintf(stderr, "still waiting for the disk\n");
/// ```
///
/// # Safety
/// `ctx` is NULL or a context.
#[no_mangle]
pub unsafe extern "C" fn ioe_drain(ctx: *mut ioe_context, timeout_ms: i64) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        done(context.and_then(|context| context.drain(timeout(timeout_ms)?)))
    })
}

/// Completes all accepted events, and frees the context. New events are refused with `-ESHUTDOWN`,
/// the callbacks of the accepted ones run, and the threads end. Callers that are inside a submit
/// get `-ESHUTDOWN` before the memory goes; calls that begin later are the caller's error. Any
/// thread; with `IOE_POLLED` the owner's, or any once the owner has ended.
///
/// In a forked child it closes the child's descriptors and frees what memory no other thread can
/// have been changing at the fork, without a lock, touching nothing of the parent's; events in
/// flight there stay as they are, and so does the memory of a context that has mergers.
///
/// Returns 0, or, having done nothing:
/// - `-EDEADLK`: called inside a callback of this context, or on callback threads it shares.
/// - `-EPERM`: not the owner of a polled context whose owner lives.
/// - `-EBUSY`: a merger of the context was not freed.
/// - `-EINVAL`: `ctx` is NULL.
///
/// ```c
/// err = ioe_context_free(ctx);
/// if (err != 0) // it is still there, and works
///     fprintf(stderr, "not freed: %s\n", ioe_strerror(err));
/// ```
///
/// # Safety
/// `ctx` is NULL or a context; not used again after 0.
#[no_mangle]
pub unsafe extern "C" fn ioe_context_free(ctx: *mut ioe_context) -> c_int {
    guard(|| {
        let Some(raw) = NonNull::new(ctx) else { return -libc::EINVAL };
        // SAFETY: by the caller's promise; the handle is the pointer of an Arc.
        let shards: Arc<Shards<CCallback>> =
            unsafe { Arc::from_raw(raw.as_ptr().cast_const().cast()) };
        if shards.check_process().is_err() {
            shards.abandon_in_child();
            return 0;
        }
        if let Err(errno) = shards.shut_down() {
            std::mem::forget(shards);
            return -errno;
        }
        // Callers that were inside are on their way out.
        while shards.is_held() {
            std::thread::yield_now();
        }
        0
    })
}

/// Starts callback threads for several contexts. There are 1 to 256, for `shared` of
/// `ioe_config`. `*out` is set on success. Freed with `ioe_workers_free`. Any thread.
///
/// Returns 0, or:
/// - `-EINVAL`: `out` is NULL, or `threads` is out of range.
/// - `-EAGAIN`: no thread: RLIMIT_NPROC, or the cgroup's pids.max.
///
/// ```c
/// ioe_config config;
/// ioe_config_init(&config, sizeof config);
/// err = ioe_workers_new(4, &config.shared);
/// for (int i = 0; i < 2 && err == 0; i++)
///     err = ioe_context_new(&config, &contexts[i]);
/// ```
///
/// # Safety
/// `out` is NULL or writable.
#[no_mangle]
pub unsafe extern "C" fn ioe_workers_new(threads: u32, out: *mut *mut ioe_workers) -> c_int {
    guard(|| {
        if out.is_null() || threads == 0 {
            return -libc::EINVAL;
        }
        match IOWorkers::try_new(threads) {
            Ok(workers) => {
                let workers = ioe_workers { workers, generation: fork::generation() };
                // SAFETY: by the caller's promise.
                unsafe { out.write(Box::into_raw(Box::new(workers))) }
                0
            }
            Err(error) => -errno_of(&error),
        }
    })
}

/// Ends callback threads that no context uses any more. Any thread.
///
/// Returns 0, or, having done nothing:
/// - `-EBUSY`: a context uses them.
/// - `-EINVAL`: `workers` is NULL.
/// - `-EOWNERDEAD`: in a forked child, where the threads do not exist.
///
/// # Safety
/// `workers` is NULL or came from `ioe_workers_new`; not used again after 0.
#[no_mangle]
pub unsafe extern "C" fn ioe_workers_free(workers: *mut ioe_workers) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let Some(shared) = (unsafe { workers.as_ref() }) else { return -libc::EINVAL };
        if shared.generation != fork::generation() {
            return -libc::EOWNERDEAD;
        }
        if shared.workers.contexts() > 0 {
            return -libc::EBUSY;
        }
        // SAFETY: by the caller's promise, this is the last use of the box.
        drop(unsafe { Box::from_raw(workers) });
        0
    })
}

/// Submits what is queued in a polled context, and runs callbacks. It waits until at least `min` of
/// them ran (at most what is in flight), or until `timeout_ms` milliseconds are over (-1: for ever,
/// 0: not at all), or for a signal. Owner's thread.
///
/// Returns how many callbacks ran, or:
/// - `-EDEADLK`: called inside a callback of this context.
/// - `-EPERM`: not the owner.
/// - `-EINVAL`: `ctx` is NULL or has no `IOE_POLLED`, or `timeout_ms` is below -1.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// int ret;
/// while ((ret = ioe_submit(ctx, event)) == -EAGAIN) {
///     ret = ioe_poll(ctx, 1, -1); // the queue is full: make room
///     if (ret < 0)
///         return ret;
/// }
/// ```
///
/// # Safety
/// `ctx` is NULL or a context.
#[no_mangle]
pub unsafe extern "C" fn ioe_poll(ctx: *mut ioe_context, min: u32, timeout_ms: i64) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        answer(context.and_then(|context| context.poll(min, timeout(timeout_ms)?)))
    })
}

/// A descriptor that tells when to poll. It is an eventfd(2) for epoll, libuv, or a loop of your
/// own, readable when `ioe_poll` has something to hand out. Do not read it; the context closes it.
/// Call `ioe_poll(ctx, 0, 0)` after submitting and before sleeping on it. Best asked for before the
/// first submit: with `IOE_DRIVER_AIO`, operations already in the kernel cannot tell it, and it
/// stays readable until they are done. Owner's thread, or any before there is an owner.
///
/// Returns the descriptor, or:
/// - `-EPERM`: not the owner.
/// - `-EINVAL`: `ctx` is NULL or has no `IOE_POLLED`.
/// - `-EMFILE`, `-ENFILE`: no descriptor: RLIMIT_NOFILE, sysctl fs.file-max.
/// - `-EOWNERDEAD`: in a forked child.
///
/// ```c
/// struct epoll_event want = {EPOLLIN, {ctx}};
/// int ready = ioe_context_fd(ctx);
/// if (ready < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, ready, &want) != 0)
///     return -1;
/// ```
///
/// # Safety
/// `ctx` is NULL or a context.
#[no_mangle]
pub unsafe extern "C" fn ioe_context_fd(ctx: *const ioe_context) -> c_int {
    guard(|| {
        // SAFETY: by the caller's promise.
        let context = unsafe { Inside::enter(ctx) };
        answer(context.and_then(|context| context.notify_descriptor()))
    })
}
