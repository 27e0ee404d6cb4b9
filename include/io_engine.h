/* io_engine: asynchronous disk I/O for Linux. A program prepares events, gives each a callback, and
 * submits them to a context. Every accepted event completes exactly once, whole.
 *
 * Calls that return int or int64_t answer 0 or a count on success and a negated errno on failure. None
 * touches errno. An out parameter is written only on success. A call that fails never runs a callback.
 * NULL and arguments out of range give `-EINVAL` (from getters: the value stated), never a crash. From
 * any of them, `-ENOTRECOVERABLE` is a defect of the library that it caught itself. Files are regular
 * files and block devices.
 *
 * OWNERSHIP
 *
 * An event is the program's, except between a successful submit and the start of its callback. In the
 * callback it is the program's again: to be read, freed, kept, or prepared and submitted once more. In
 * between, its buffers live, its descriptor stays open, and only its getters may be called, from any
 * thread. Otherwise one thread at a time has it. A submit that fails leaves it with the program, as it
 * was. What `ioe_submit_wait` and `ioe_submit_wait_batch` wait for is the program's again when they return.
 *
 * The library frees no buffer and closes no descriptor of the program's. It copies the array of a
 * vectored event, and nothing else.
 *
 * THREADS
 *
 * - A context is used from any thread. Callbacks run on its own threads (`workers` of `ioe_config`), on
 *   its driver thread where `workers` is 0, or on threads that contexts share (`ioe_workers_new`).
 * - With `IOE_POLLED` a context has no thread. The first that submits or polls owns it, and callbacks run
 *   inside its calls. `ioe_context_fd` puts such a context into an event loop. Where the owner ends
 *   first, what is in flight is finished, and its callbacks run in `ioe_context_free`.
 * - With several `reactors`, a context has as many driver threads, each with a queue of its own.
 * - What the kernel interface cannot do is done by a pool of threads, polled or not.
 *
 * The library's threads are called ioe-reactor, ioe-worker-N, ioe-pool and ioe-alarm.
 *
 * DELIVERY
 *
 * Every accepted event has its callback called exactly once, with its result, whatever fails.
 * `ioe_submit_wait` and `ioe_submit_wait_batch` are the exception: they return when all is done, and call
 * nothing. Callbacks of one context run at the same time where it has several callback threads. Order
 * among events in flight is undefined; a callback that submits the next, or `IOE_BARRIER`, makes order.
 *
 * `ioe_submit` waits while `queue_size` accepted events have not started their callbacks. Inside a
 * callback it never waits, so callbacks cannot block each other; `ioe_drain`, `ioe_context_free`,
 * `ioe_submit_wait`, `ioe_submit_wait_batch` and `ioe_poll` of the same context answer `-EDEADLK` there. A
 * callback that waits for another context can: with `workers` 0, its own context stands still meanwhile.
 *
 * `ioe_cancel` and `ioe_event_set_timeout` end an event early. Its callback comes all the same, when the
 * kernel is done with its memory.
 *
 * SHORT I/O
 *
 * A transfer is whole, or ended by the end of the file, or an error. A short one is continued by the
 * library, with buffer, length and offset moved on, on every driver and for every length, also beyond
 * 2 GiB. A write's result is its full length or a negated errno; a read's is less than its length only
 * where the file ends. `ioe_event_transferred` tells how much got through in any case. An event that
 * ended early may be submitted again as it is: it goes on where it stopped.
 *
 * MERGING
 *
 * With `merge_limit` of `ioe_config`, events that wait together and are neighbours in their file travel
 * in one operation. Nothing waits for the sake of it, and nothing is copied. `ioe_merger_new` gathers by
 * hand, for writers who know what comes next: there, events wait until they are flushed. Either way each
 * event has its own callback and the result that it would have had alone.
 *
 * DURABILITY
 *
 * A write that completed is not yet durable. It is once an fsync or fdatasync completes with 0 that was
 * submitted after it had completed, or with `IOE_BARRIER` after it was submitted; or if it had
 * `IOE_DSYNC`. A new file's name needs an fsync of its directory as well.
 *
 * Syncs of one descriptor that wait while another runs become one call of the kernel, whose result all
 * of them have. A sync that failed is never tried again: the kernel reports a lost write once, and the
 * next sync would say yes. What a program can do is to stop, and recover from what was durable before.
 *
 * `ioe_prep_sync_range` begins or awaits the write-back of a range. It is no sync: nothing is durable by it.
 *
 * SHUTDOWN
 *
 * `ioe_context_free` refuses new events, completes the accepted ones, runs their callbacks, and ends the
 * threads. Mergers are freed before their context, shared workers after it, events and buffers whenever
 * they are not in flight. What is in flight when the process ends without that may have reached the file
 * or not.
 *
 * FORK
 *
 * In a child of fork(2), calls on inherited contexts, mergers and workers answer `-EOWNERDEAD`; only
 * `ioe_context_free` does something: it gives back the child's copy. The parent notices nothing. Memory
 * of `ioe_buffer_alloc` is not there in the child. A child may make contexts of its own. One that a
 * callback forks must not return from it, but call _exit(2) or exec(3).
 *
 * SIGNALS
 *
 * The library's threads block all signals but those that their own instructions raise (SIGSEGV, SIGBUS,
 * SIGILL, SIGFPE, SIGTRAP, SIGSYS), so a program's handlers run on its own threads. A signal ends the wait
 * of `ioe_poll`, which returns how many callbacks ran; all other calls go on waiting, and none answers
 * `-EINTR`. Writing beyond RLIMIT_FSIZE is `-EFBIG`, without SIGXFSZ. No call is safe inside a signal
 * handler: see signal-safety(7).
 *
 * ENVIRONMENT
 *
 * `IOE_DRIVER`, one of auto, uring, aio and pool, takes the place of `IOE_DRIVER_AUTO`, and only of that.
 * See `ioe_probe` for what the drivers need.
 *
 * EXAMPLE
 *
 * A record, and a sync behind it: once that is done, the record is durable. It is compiled with
 * `cc log.c $(pkg-config --cflags --libs io_engine)`; in CMake, `find_package(io_engine 1 REQUIRED)` has
 * the targets io_engine::io_engine and io_engine::io_engine_static.
 *
 * ```c
 * #include <fcntl.h>
 * #include <io_engine.h>
 * #include <stdio.h>
 *
 * static void on_written(ioe_event *event, void *arg)
 * {
 *     (void)arg;
 *     printf("written: %d bytes\n", (int)ioe_event_result(event));
 * }
 *
 * int main(void)
 * {
 *     static char record[] = "one record\n";
 *     int fd = open("example.log", O_WRONLY | O_CREAT, 0644);
 *     ioe_event *write = ioe_event_new(), *sync = ioe_event_new();
 *     ioe_context *ctx;
 *     int err = ioe_context_new(NULL, &ctx);
 *     if (err != 0)
 *         return fprintf(stderr, "%s\n", ioe_strerror(err)), 1;
 *
 *     // Events that are NULL are refused with an error.
 *     ioe_prep_write(write, fd, record, sizeof record - 1, 0);
 *     ioe_event_set_callback(write, on_written, NULL);
 *     int64_t result = ioe_submit(ctx, write);
 *
 *     ioe_prep_fdatasync(sync, fd);
 *     ioe_event_set_flags(sync, IOE_BARRIER);
 *     if (result == 0)
 *         result = ioe_submit_wait(ctx, sync); // of the write, too
 *     if (result < 0)
 *         fprintf(stderr, "%s\n", ioe_strerror((int)result));
 *     ioe_context_free(ctx); // the callback has returned by then
 *     ioe_event_free(write);
 *     ioe_event_free(sync);
 *     return result < 0;
 * }
 * ```
 */

#ifndef IO_ENGINE_H
#define IO_ENGINE_H

/* Generated from src/ffi/ by `make header`: do not edit. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/** The version of this header. */
#define IOE_VERSION_MAJOR 1
#define IOE_VERSION_MINOR 0
#define IOE_VERSION_PATCH 0

/** The result of an event that has not completed. */
#define IOE_PENDING INT64_MIN


/**
 * The kernel interface behind a context.
 */
typedef enum ioe_driver {
    /**
     * The first of the following that works here. The environment variable `IOE_DRIVER`
     * (`auto`, `uring`, `aio` or `pool`) overrides this value, and only this one.
     */
    IOE_DRIVER_AUTO = 0,
    /**
     * io_uring(7). Needs Linux 5.11, and a seccomp profile and sysctl kernel.io_uring_disabled
     * that allow it.
     */
    IOE_DRIVER_URING = 1,
    /**
     * Linux AIO, io_submit(2), for transfers of descriptors opened with O_DIRECT, fsync and
     * fdatasync; the rest goes to a pool of threads, because io_submit would block on it. Needs
     * Linux 4.19, and room below sysctl fs.aio-max-nr.
     */
    IOE_DRIVER_AIO = 2,
    /**
     * pread(2), pwrite(2), fsync(2) and their like on a pool of at most 64 threads per reactor,
     * started when there is work and ended after 5 seconds without. Works wherever plain files
     * do.
     */
    IOE_DRIVER_POOL = 3,
} ioe_driver;

/**
 * How much a log message matters; a smaller number matters more.
 */
typedef enum ioe_log_level {
    /**
     * No messages.
     */
    IOE_LOG_OFF = 0,
    /**
     * Something failed and somebody has to act.
     */
    IOE_LOG_ERROR = 1,
    /**
     * Something is not as asked for, and the library goes on.
     */
    IOE_LOG_WARN = 2,
    /**
     * What was chosen and why.
     */
    IOE_LOG_INFO = 3,
    /**
     * For whoever works on the library itself.
     */
    IOE_LOG_DEBUG = 4,
} ioe_log_level;

/**
 * What an event does.
 */
typedef enum ioe_action {
    /**
     * Nothing yet: never prepared.
     */
    IOE_NONE = 0,
    /**
     * Reads, plain or vectored.
     */
    IOE_READ = 1,
    /**
     * Writes, plain or vectored.
     */
    IOE_WRITE = 2,
    /**
     * fsync(2).
     */
    IOE_FSYNC = 3,
    /**
     * fdatasync(2).
     */
    IOE_FDATASYNC = 4,
    /**
     * fallocate(2).
     */
    IOE_FALLOCATE = 5,
    /**
     * sync_file_range(2).
     */
    IOE_SYNC_RANGE = 6,
    /**
     * ftruncate(2).
     */
    IOE_TRUNCATE = 7,
    /**
     * posix_fadvise(2).
     */
    IOE_ADVISE = 8,
} ioe_action;

/**
 * Bits of `ioe_config.flags`.
 */
typedef enum ioe_flag {
    /**
     * No driver thread and no callback thread. The first thread that submits or polls owns the
     * context; any other gets `-EPERM` from everything but info, stats, `ioe_cancel` and, once the
     * owner has ended, `ioe_context_free` and `ioe_merger_free`. Callbacks run inside `ioe_poll`,
     * and inside `ioe_drain`, `ioe_submit_wait`, `ioe_submit_wait_batch` and `ioe_context_free`, which
     * poll by themselves.
     */
    IOE_POLLED = 1,
    /**
     * A kernel thread takes submissions (IORING_SETUP_SQPOLL of io_uring_setup(2)): fewer system
     * calls, for a processor that it keeps busy; one for each of several `reactors`. For
     * `IOE_DRIVER_URING`; left out where `IOE_DRIVER_AUTO` takes another driver.
     */
    IOE_SQPOLL = 2,
    /**
     * Completions are looked for, not announced (IORING_SETUP_IOPOLL). Needs `IOE_POLLED`, and a
     * device with poll queues: an O_DIRECT transfer of another is refused in the callback, with
     * `-EOPNOTSUPP`. Everything but O_DIRECT transfers goes to the pool. Drivers as above.
     */
    IOE_IOPOLL = 4,
    /**
     * Each fsync and fdatasync is a system call of its own. Without it, those of one descriptor that
     * wait while one runs are joined into the next: one call, whose result, also an error, is told
     * to each. None joins one that had started before it was accepted; an fsync among them makes it
     * an fsync. A sync that fails is also the answer to all that wait behind it: the kernel tells
     * an error once, and would say yes to them.
     */
    IOE_NO_SYNC_GROUP = 8,
} ioe_flag;

/**
 * What an event asks beside its action: bits of `ioe_event_set_flags`. But for `IOE_BARRIER` they
 * are the RWF_ flags of preadv2(2), with their values, and the kernel's to judge: what the kernel,
 * the file or the driver lacks arrives in the callback as `-EOPNOTSUPP`. Events are merged only
 * with events of the same flags and priority.
 */
typedef enum ioe_event_flag {
    /**
     * RWF_HIPRI: the completion is polled for. For O_DIRECT transfers of a context with
     * `IOE_IOPOLL`; `-EOPNOTSUPP` for all others, where the kernel would leave it out silently.
     * Never merged.
     */
    IOE_HIPRI = 1,
    /**
     * RWF_DSYNC (Linux 4.7), for writes: durable when it completes, as with O_DSYNC of open(2).
     */
    IOE_DSYNC = 2,
    /**
     * RWF_NOWAIT (Linux 4.14): `-EAGAIN` where the transfer would wait, for the disk or for a lock.
     * That is its answer, never tried again; what got through before it, `ioe_event_transferred`
     * tells. Never merged.
     */
    IOE_NOWAIT = 8,
    /**
     * RWF_APPEND (Linux 4.16), for writes: goes to the end of the file, wherever that is when the
     * kernel does it, and the offset does not matter. Never merged.
     */
    IOE_APPEND = 16,
    /**
     * RWF_ATOMIC (Linux 6.11), for writes: all of it reaches the disk, or nothing, also when power
     * fails. Length and alignment that the file allows: STATX_WRITE_ATOMIC of statx(2); `-EINVAL`
     * in the callback for others. Never split, merged or continued.
     */
    IOE_ATOMIC = 64,
    /**
     * RWF_DONTCACHE (Linux 6.14): what passes through the page cache does not stay there.
     */
    IOE_DONTCACHE = 128,
    /**
     * For fsync and fdatasync: it starts only when every write of the same descriptor is done that
     * was accepted before it and whose callback had not started then: in a queue, in the kernel,
     * gathered in a merger (which a barrier flushes), or in `ioe_submit_wait` on another thread;
     * with all its continuations. Where one of them failed, or was cancelled, the barrier completes
     * with that error and syncs nothing. Later writes, and other descriptors, go on meanwhile. The
     * order is that of the submit calls: what had returned before this one began was accepted
     * before.
     */
    IOE_BARRIER = 1073741824,
} ioe_event_flag;

/**
 * An engine for one stream of events. Used from any thread; with `IOE_POLLED`, from its owner's.
 */
typedef struct ioe_context ioe_context;

/**
 * One I/O request, and its result. An event is yours, except between a successful submit and the
 * start of its callback. In the callback it is yours again: read it, free it, keep it, or
 * prepare and submit it again. In between its buffers live, its descriptor stays open, and only
 * its getters may be called, from any thread.
 */
typedef struct ioe_event ioe_event;

/**
 * Gathers neighbouring events of one file, to be handed over as one operation. One thread uses it
 * at a time.
 */
typedef struct ioe_merger ioe_merger;

/**
 * Callback threads that several contexts share.
 */
typedef struct ioe_workers ioe_workers;

/**
 * Receives a message of at most the level asked for, one of `ioe_log_level`. `message` lives for
 * the call. Called on whichever thread has something to say, also on several at once; it may call
 * the library, but must not wait for a context.
 */
typedef void (*ioe_log_fn)(int level, const char *message, void *arg);

/**
 * How to make a context. Filled by `ioe_config_init`, then changed field by field.
 */
typedef struct ioe_config {
    /**
     * sizeof(ioe_config), set by `ioe_config_init`: lets the struct grow. A smaller one is an
     * older caller's: fields that it lacks have their defaults. A larger one is a newer
     * caller's: the bytes that the library does not know must be 0.
     */
    size_t size;
    /**
     * One of `ioe_driver`. Default `IOE_DRIVER_AUTO`.
     */
    int32_t driver;
    /**
     * Operations in the kernel at once, of each reactor: 1 to 32768. Where the machine's limits do not
     * allow it, half of it is tried, and half of that, down to 16; `ioe_info` says what runs. Default
     * 128.
     */
    uint32_t depth;
    /**
     * Accepted events whose callback has not started, of each reactor: 1 to 1048576. Beyond it
     * `ioe_submit` waits. Events submitted inside callbacks are never refused, and take no room
     * from those outside. Default 1024.
     */
    uint32_t queue_size;
    /**
     * Callback threads: 0 to 256. With 0, callbacks run on the driver thread. Ignored with
     * `IOE_POLLED` and with `shared`. Default 1.
     */
    uint32_t workers;
    /**
     * Bytes that one merged operation may span; 0: no merging. More than 1 GiB counts as 1 GiB.
     * Events that wait together are joined: reads or writes of one descriptor, adjacent in the
     * file, up to this many bytes and 1024 segments of memory (IOV_MAX). Nothing waits for it. See
     * `ioe_merger_new` for what becomes of their results. Default 0.
     */
    uint32_t merge_limit;
    /**
     * Bits of `ioe_flag`. Default 0.
     */
    uint32_t flags;
    /**
     * Callback threads of `ioe_workers_new`, to be used instead of own ones. They must outlive
     * the context. Not with `IOE_POLLED`. Default NULL.
     */
    struct ioe_workers *shared;
    /**
     * Milliseconds. An operation that the kernel has for longer is reported, once, to the log
     * callback (`ioe_set_log`, `IOE_LOG_WARN`): action, descriptor, file name, offset, length,
     * age. With `IOE_POLLED` that is inside `ioe_poll`, and for what `ioe_submit_wait` does on the
     * calling thread, when that returns. 0: never. Default 0.
     */
    uint32_t stall_ms;
    /**
     * Reactors: 1 to 64, with `IOE_POLLED` 1; 0 counts as 1. Each has its own ring or what the
     * driver has instead, its own driver thread, `depth` and `queue_size`; callback threads serve
     * all. Reads go to any: a thread submits its reads to one of them, the process's threads take
     * turns in the choice, and a driver thread is its own. Writes, syncs and all else go by their
     * descriptor, those of one to one, so that barriers and joined syncs mean what they mean with
     * one reactor. Each pins memory of its own: where a limit allows fewer, there are fewer, and
     * `ioe_info` says how many and why. Default 1.
     */
    uint32_t reactors;
} ioe_config;

/**
 * What runs, and why what was passed over was.
 */
typedef struct ioe_info {
    /**
     * Bytes filled by the library.
     */
    size_t size;
    /**
     * The driver in use, one of `ioe_driver`, never `IOE_DRIVER_AUTO`. It becomes
     * `IOE_DRIVER_POOL` where the kernel forbids another one while it runs.
     */
    int32_t driver;
    /**
     * Operations in the kernel at once, of each reactor, in force: lower than asked for where a
     * limit was in the way.
     */
    uint32_t depth;
    /**
     * Accepted events whose callback has not started, of each reactor, in force.
     */
    uint32_t queue_size;
    /**
     * Callback threads; 0 with `IOE_POLLED`.
     */
    uint32_t workers;
    /**
     * Bytes that one merged operation may span, in force.
     */
    uint32_t merge_limit;
    /**
     * Bits of `ioe_flag` in force.
     */
    uint32_t flags;
    /**
     * Why io_uring was passed over or given up, a positive errno; 0 where not tried or fine.
     */
    int32_t uring_errno;
    /**
     * Why Linux AIO was passed over or given up, a positive errno; 0 where not tried or fine.
     */
    int32_t aio_errno;
    /**
     * One sentence that a person can act on: why other drivers were passed over, the depth is
     * lower than asked for, or there are fewer reactors; "" where there is none. Lives as long as
     * the context.
     */
    const char *reason;
    /**
     * Reactors in force: fewer than asked for where a limit was in the way.
     */
    uint32_t reactors;
    /**
     * 0.
     */
    uint32_t reserved;
} ioe_info;

/**
 * Counters since the context was made, of all its reactors together. Each is read by itself: they
 * may be an instant apart.
 */
typedef struct ioe_stats {
    /**
     * Bytes filled by the library.
     */
    size_t size;
    /**
     * Events accepted.
     */
    uint64_t accepted;
    /**
     * Events whose callback has started, or that are done, where their submitter waits for them.
     */
    uint64_t completed;
    /**
     * Events with an errno as their result, but for the `-EAGAIN` that `IOE_NOWAIT` asks for.
     */
    uint64_t failed;
    /**
     * Bytes moved from files to memory.
     */
    uint64_t bytes_read;
    /**
     * Bytes moved from memory to files.
     */
    uint64_t bytes_written;
    /**
     * Operations handed to the kernel.
     */
    uint64_t operations;
    /**
     * System calls made for them, wake-ups included.
     */
    uint64_t system_calls;
    /**
     * Events that travelled in another's operation: one less than there were in it, also where
     * they were asked for again, one by one.
     */
    uint64_t merged;
    /**
     * Operations issued for the rest of a short one.
     */
    uint64_t continued;
    /**
     * fsyncs and fdatasyncs answered by another's: one less than there were in a group.
     */
    uint64_t syncs_joined;
    /**
     * Events accepted, less those completed.
     */
    uint64_t in_flight;
} ioe_stats;

/**
 * Called exactly once for every accepted event, on a callback thread, on the driver thread
 * (`workers` 0) or inside the owner's poll (`IOE_POLLED`). `arg` is that of
 * `ioe_event_set_callback`. The event is yours again. The function must not throw, `longjmp`, or
 * end its thread; a child that it forks must not return from it, but call _exit(2) or exec(3).
 */
typedef void (*ioe_callback)(struct ioe_event *event, void *arg);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that runs. It may be newer than the header's, which
 * `IOE_VERSION_MAJOR`, `IOE_VERSION_MINOR` and `IOE_VERSION_PATCH` tell. Any thread.
 *
 * Returns "MAJOR.MINOR.PATCH": static, never NULL.
 *
 * ```c
 * printf("built with io_engine %d.%d.%d, runs %s\n", IOE_VERSION_MAJOR,
 *        IOE_VERSION_MINOR, IOE_VERSION_PATCH, ioe_version());
 * ```
 */
const char *ioe_version(void);

/**
 * The name and the meaning of an errno, negated or not. Any thread.
 *
 * Returns a text such as "EIO: Input/output error", "success" for 0, "unknown error" for what is
 * no errno: static, never NULL.
 *
 * ```c
 * int ret = ioe_submit(ctx, event);
 * if (ret < 0)
 *     fprintf(stderr, "submit: %s\n", ioe_strerror(ret));
 * ```
 */
const char *ioe_strerror(int err);

/**
 * Whether a driver works on this machine now. It is found out by real I/O on a file in memory,
 * each time; contexts probe a driver once per process. `IOE_DRIVER_AUTO`: whether any works. Any
 * thread.
 *
 * Returns 0 where it works, the negated errno of that I/O where it failed, else:
 * - `-EPERM`: forbidden by seccomp or by sysctl kernel.io_uring_disabled.
 * - `-ENOSYS`: not in this kernel, or hidden by seccomp.
 * - `-EAGAIN`, `-ENOMEM`, `-EMFILE`, `-ENFILE`: a limit is used up at the moment.
 * - `-EINVAL`: no such driver, or `IOE_DRIVER` in the environment names none.
 *
 * ```c
 * for (int i = IOE_DRIVER_URING; i <= IOE_DRIVER_POOL; i++) {
 *     int ret = ioe_probe(i);
 *     printf("%s: %s\n", ioe_driver_name(i),
 *            ret == 0 ? "works" : ioe_strerror(ret));
 * }
 * ```
 */
int ioe_probe(int driver);

/**
 * The name of a driver, as `IOE_DRIVER` in the environment has it. Any thread.
 *
 * Returns "auto", "uring", "aio" or "pool"; "unknown" for other numbers: static, never NULL.
 */
const char *ioe_driver_name(int driver);

/**
 * Sets the function that receives the library's messages. There is one for the process; it is
 * given `arg`, and messages up to `max_level`, one of `ioe_log_level`. NULL turns them off, as
 * they are at the start. A call that has already begun on another thread may end after this
 * returns. Any thread.
 *
 * ```c
 * static void on_message(int level, const char *message, void *arg)
 * {
 *     fprintf((FILE *)arg, "io_engine[%d]: %s\n", level, message);
 * }
 *
 * ioe_set_log(on_message, stderr, IOE_LOG_WARN);
 * ```
 */
void ioe_set_log(ioe_log_fn fn, void *arg, int max_level);

/**
 * Fills a config with the defaults. `size` is sizeof(ioe_config): it is kept in the struct, and
 * what of it the library does not know is zeroed. Any thread.
 *
 * Returns 0, or:
 * - `-EINVAL`: `cfg` is NULL, or `size` is below 8 or no multiple of 8.
 * - `-E2BIG`: `size` is above 4096.
 *
 * ```c
 * ioe_config config;
 * ioe_config_init(&config, sizeof config);
 * config.depth = 64;
 * config.merge_limit = 128 * 1024;
 * err = ioe_context_new(&config, &ctx);
 * ```
 *
 * Requires:
 * `cfg` is NULL or has `size` writable bytes.
 */
int ioe_config_init(struct ioe_config *cfg, size_t size);

/**
 * Makes a context and starts its threads. `cfg` NULL means all defaults; it is read during the
 * call only. `*out` is set on success. Freed with `ioe_context_free`. Any thread.
 *
 * A driver that is named, in `cfg` or by `IOE_DRIVER`, is used or the call fails, with the errno
 * that `ioe_probe` has for it; with `IOE_DRIVER_AUTO` the first that works is used. What exactly
 * was refused, and what to do about it, goes to the log callback (`ioe_set_log`).
 *
 * Returns 0, or:
 * - `-EINVAL`: `out` is NULL; `size` is below 8 or no multiple of 8; a field is out of its range;
 *   an unknown bit in `flags`; `IOE_IOPOLL` without `IOE_POLLED`; `IOE_POLLED` with `shared`, or
 *   with more than one of `reactors`; `IOE_SQPOLL` or `IOE_IOPOLL` with `IOE_DRIVER_AIO` or
 *   `IOE_DRIVER_POOL`; `IOE_DRIVER` in the environment names no driver; or the kernel lacks what
 *   `flags` ask for.
 * - `-E2BIG`: `size` is larger than the library's and bytes beyond it are not 0, or above 4096.
 * - `-EPERM`: the named driver is forbidden by seccomp, or by sysctl kernel.io_uring_disabled.
 * - `-ENOSYS`: the named driver is not in this kernel, or hidden by seccomp.
 * - `-ENOMEM`: the kernel has no memory for the named driver, not even at depth 16:
 *   RLIMIT_MEMLOCK, or the cgroup's memory.max.
 * - `-EMFILE`, `-ENFILE`: no descriptor: RLIMIT_NOFILE, sysctl fs.file-max.
 * - `-EAGAIN`: no thread: RLIMIT_NPROC, or the cgroup's pids.max; or `IOE_DRIVER_AIO` does not
 *   fit below sysctl fs.aio-max-nr, not even at depth 16.
 * - `-EOWNERDEAD`: `shared` was made before a fork(2), by the parent.
 *
 * ```c
 * err = ioe_context_new(NULL, &ctx);
 * if (err != 0) {
 *     fprintf(stderr, "no context: %s\n", ioe_strerror(err));
 *     return err;
 * }
 * ```
 *
 * Requires:
 * `cfg` is NULL or has as many readable bytes as its `size` says; `out` is NULL or writable.
 */
int ioe_context_new(const struct ioe_config *cfg, struct ioe_context **out);

/**
 * Tells what runs: the driver, and what of the config is in force. Any thread.
 *
 * Returns 0, or:
 * - `-EINVAL`: a pointer is NULL, or `size` is below 8 or no multiple of 8.
 * - `-E2BIG`: `size` is above 4096.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * ioe_info info;
 * if (ioe_context_info(ctx, &info, sizeof info) == 0)
 *     printf("%s, depth %u. %s\n", ioe_driver_name(info.driver),
 *            info.depth, info.reason);
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context; `out` is NULL or has `size` writable bytes.
 */
int ioe_context_info(const struct ioe_context *ctx, struct ioe_info *out, size_t size);

/**
 * Reads the counters of a context. That is cheap enough for once a second and more. Any thread.
 *
 * Returns 0, or:
 * - `-EINVAL`: a pointer is NULL, or `size` is below 8 or no multiple of 8.
 * - `-E2BIG`: `size` is above 4096.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * ioe_stats stats;
 * if (ioe_context_stats(ctx, &stats, sizeof stats) == 0)
 *     printf("%" PRIu64 " events, %" PRIu64 " operations\n",
 *            stats.completed, stats.operations);
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context; `out` is NULL or has `size` writable bytes.
 */
int ioe_context_stats(const struct ioe_context *ctx, struct ioe_stats *out, size_t size);

/**
 * Waits for the callbacks of all events accepted before. It returns when each of them has
 * returned; later events do not hold it back. What mergers of the context gathered is handed over.
 * `timeout_ms` is in milliseconds; -1 waits for ever, 0 only looks. Any thread; with `IOE_POLLED`
 * the owner's, and callbacks run in here.
 *
 * Returns 0, or:
 * - `-ETIMEDOUT`: the time was up first.
 * - `-EDEADLK`: called inside a callback of this context, or on callback threads it shares.
 * - `-EPERM`: not the owner of a polled context.
 * - `-EINVAL`: `ctx` is NULL, or `timeout_ms` is below -1.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * while (ioe_drain(ctx, 1000) == -ETIMEDOUT)
 *     fprintf(stderr, "still waiting for the disk\n");
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context.
 */
int ioe_drain(struct ioe_context *ctx, int64_t timeout_ms);

/**
 * Completes all accepted events, and frees the context. New events are refused with `-ESHUTDOWN`,
 * the callbacks of the accepted ones run, and the threads end. Callers that are inside a submit
 * get `-ESHUTDOWN` before the memory goes; calls that begin later are the caller's error. Any
 * thread; with `IOE_POLLED` the owner's, or any once the owner has ended.
 *
 * In a forked child it closes the child's descriptors and frees what memory no other thread can
 * have been changing at the fork, without a lock, touching nothing of the parent's; events in
 * flight there stay as they are, and so does the memory of a context that has mergers.
 *
 * Returns 0, or, having done nothing:
 * - `-EDEADLK`: called inside a callback of this context, or on callback threads it shares.
 * - `-EPERM`: not the owner of a polled context whose owner lives.
 * - `-EBUSY`: a merger of the context was not freed.
 * - `-EINVAL`: `ctx` is NULL.
 *
 * ```c
 * err = ioe_context_free(ctx);
 * if (err != 0) // it is still there, and works
 *     fprintf(stderr, "not freed: %s\n", ioe_strerror(err));
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context; not used again after 0.
 */
int ioe_context_free(struct ioe_context *ctx);

/**
 * Starts callback threads for several contexts. There are 1 to 256, for `shared` of
 * `ioe_config`. `*out` is set on success. Freed with `ioe_workers_free`. Any thread.
 *
 * Returns 0, or:
 * - `-EINVAL`: `out` is NULL, or `threads` is out of range.
 * - `-EAGAIN`: no thread: RLIMIT_NPROC, or the cgroup's pids.max.
 *
 * ```c
 * ioe_config config;
 * ioe_config_init(&config, sizeof config);
 * err = ioe_workers_new(4, &config.shared);
 * for (int i = 0; i < 2 && err == 0; i++)
 *     err = ioe_context_new(&config, &contexts[i]);
 * ```
 *
 * Requires:
 * `out` is NULL or writable.
 */
int ioe_workers_new(uint32_t threads, struct ioe_workers **out);

/**
 * Ends callback threads that no context uses any more. Any thread.
 *
 * Returns 0, or, having done nothing:
 * - `-EBUSY`: a context uses them.
 * - `-EINVAL`: `workers` is NULL.
 * - `-EOWNERDEAD`: in a forked child, where the threads do not exist.
 *
 * Requires:
 * `workers` is NULL or came from `ioe_workers_new`; not used again after 0.
 */
int ioe_workers_free(struct ioe_workers *workers);

/**
 * Submits what is queued in a polled context, and runs callbacks. It waits until at least `min` of
 * them ran (at most what is in flight), or until `timeout_ms` milliseconds are over (-1: for ever,
 * 0: not at all), or for a signal. Owner's thread.
 *
 * Returns how many callbacks ran, or:
 * - `-EDEADLK`: called inside a callback of this context.
 * - `-EPERM`: not the owner.
 * - `-EINVAL`: `ctx` is NULL or has no `IOE_POLLED`, or `timeout_ms` is below -1.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * int ret;
 * while ((ret = ioe_submit(ctx, event)) == -EAGAIN) {
 *     ret = ioe_poll(ctx, 1, -1); // the queue is full: make room
 *     if (ret < 0)
 *         return ret;
 * }
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context.
 */
int ioe_poll(struct ioe_context *ctx, uint32_t min, int64_t timeout_ms);

/**
 * A descriptor that tells when to poll. It is an eventfd(2) for epoll, libuv, or a loop of your
 * own, readable when `ioe_poll` has something to hand out. Do not read it; the context closes it.
 * Call `ioe_poll(ctx, 0, 0)` after submitting and before sleeping on it. Best asked for before the
 * first submit: with `IOE_DRIVER_AIO`, operations already in the kernel cannot tell it, and it
 * stays readable until they are done. Owner's thread, or any before there is an owner.
 *
 * Returns the descriptor, or:
 * - `-EPERM`: not the owner.
 * - `-EINVAL`: `ctx` is NULL or has no `IOE_POLLED`.
 * - `-EMFILE`, `-ENFILE`: no descriptor: RLIMIT_NOFILE, sysctl fs.file-max.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * struct epoll_event want = {EPOLLIN, {ctx}};
 * int ready = ioe_context_fd(ctx);
 * if (ready < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, ready, &want) != 0)
 *     return -1;
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context.
 */
int ioe_context_fd(const struct ioe_context *ctx);

/**
 * Makes an event, to be prepared. Released with `ioe_event_free`. Any thread.
 *
 * Returns the event; NULL when out of memory.
 *
 * ```c
 * event = ioe_event_new();
 * if (event == NULL)
 *     return -ENOMEM;
 * ```
 */
struct ioe_event *ioe_event_new(void);

/**
 * Releases an event, not its buffers. NULL is fine. Also from its own callback. Any thread.
 *
 * Returns 0, or:
 * - `-EBUSY`: the event is in flight; nothing was freed.
 *
 * ```c
 * static void on_done(ioe_event *event, void *arg)
 * {
 *     *(int64_t *)arg = ioe_event_result(event);
 *     ioe_event_free(event); // in its callback it is the program's
 * }
 *
 * static int64_t result = IOE_PENDING;
 * err = ioe_event_set_callback(event, on_done, &result);
 * ```
 *
 * Requires:
 * `event` is NULL or came from `ioe_event_new` and was not freed.
 */
int ioe_event_free(struct ioe_event *event);

/**
 * Makes the event a read of `len` bytes at `offset` into `buf`. Both are in bytes, and `len` may
 * exceed 2 GiB. `fd` is not looked at: a bad one is the kernel's to judge, and arrives in the
 * callback as `-EBADF`. What the event was before is forgotten, but not its callback. Any thread
 * that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` or `buf` is NULL, or `offset` or `offset + len` is above INT64_MAX.
 *
 * ```c
 * err = ioe_prep_read(event, fd, buf, len, offset);
 * if (err == 0)
 *     err = ioe_submit(ctx, event);
 * ```
 *
 * Requires:
 * `event` is NULL or an event; `buf` has `len` writable bytes until the event completes.
 */
int ioe_prep_read(struct ioe_event *event, int fd, void *buf, size_t len, uint64_t offset);

/**
 * Makes the event a write of `len` bytes from `buf` at `offset`. As `ioe_prep_read`. Any thread
 * that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` or `buf` is NULL, or `offset` or `offset + len` is above INT64_MAX.
 *
 * ```c
 * err = ioe_prep_write(event, fd, buf, len, offset);
 * int64_t n = err == 0 ? ioe_submit_wait(ctx, event) : err;
 * if (n < 0)
 *     fprintf(stderr, "write: %s, %" PRIu64 " bytes got through\n",
 *             ioe_strerror((int)n), ioe_event_transferred(event));
 * ```
 *
 * Requires:
 * `event` is NULL or an event; `buf` has `len` readable bytes until the event completes.
 */
int ioe_prep_write(struct ioe_event *event, int fd, const void *buf, size_t len, uint64_t offset);

/**
 * Makes the event a read at `offset` into several segments. There are `iovcnt` of them in `iov`,
 * filled one after the other. The array is copied and may go; the segments' memory may not.
 * Otherwise as `ioe_prep_read`. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` or `iov` is NULL, `iov` is not aligned, `iovcnt` is below 1 or above
 *   IOV_MAX (1024), a segment with bytes has no memory, or `offset` or `offset` plus all lengths
 *   is above INT64_MAX.
 * - `-ENOMEM`: no memory for the copy of the array.
 *
 * Requires:
 * `event` is NULL or an event; `iov` has `iovcnt` segments, writable until the event completes.
 */
int ioe_prep_readv(struct ioe_event *event,
                   int fd,
                   const struct iovec *iov,
                   int iovcnt,
                   uint64_t offset);

/**
 * Makes the event a write at `offset` from several segments. These are the `iovcnt` of `iov`. As
 * `ioe_prep_readv`. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` or `iov` is NULL, `iov` is not aligned, `iovcnt` is below 1 or above
 *   IOV_MAX (1024), a segment with bytes has no memory, or `offset` or `offset` plus all lengths
 *   is above INT64_MAX.
 * - `-ENOMEM`: no memory for the copy of the array.
 *
 * ```c
 * struct iovec parts[] = {{&header, sizeof header}, {buf, len}};
 * err = ioe_prep_writev(event, fd, parts, 2, offset);
 * ```
 *
 * Requires:
 * `event` is NULL or an event; `iov` has `iovcnt` segments, readable until the event completes.
 */
int ioe_prep_writev(struct ioe_event *event,
                    int fd,
                    const struct iovec *iov,
                    int iovcnt,
                    uint64_t offset);

/**
 * Makes the event an fsync(2). Data and metadata of writes that completed before it was submitted
 * are durable when it completes with 0. A failed one is never retried by the library: the kernel
 * reports an error of the file once. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL.
 *
 * ```c
 * err = ioe_prep_fsync(event, fd);
 * int64_t ret = err == 0 ? ioe_submit_wait(ctx, event) : err;
 * if (ret < 0) // data is lost: another fsync would hide that
 *     abort();
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_prep_fsync(struct ioe_event *event, int fd);

/**
 * Makes the event an fdatasync(2). As `ioe_prep_fsync`, without metadata that reading the data
 * back does not need. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_prep_fdatasync(struct ioe_event *event, int fd);

/**
 * Makes the event a fallocate(2) of `len` bytes at `offset`. Both are in bytes; `mode` is that of
 * fallocate(2). What the file system makes of mode and length arrives in the callback. Any thread
 * that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL, or `offset` or `offset + len` is above INT64_MAX.
 *
 * ```c
 * // Room for a log of 64 MiB; 0 is the plain mode.
 * err = ioe_prep_fallocate(event, fd, 0, 0, 64 << 20);
 * if (err == 0)
 *     err = (int)ioe_submit_wait(ctx, event);
 * if (err == -EOPNOTSUPP) // not on this file system: do without
 *     err = 0;
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_prep_fallocate(struct ioe_event *event, int fd, int mode, uint64_t offset, uint64_t len);

/**
 * Makes the event a sync_file_range(2) of `len` bytes at `offset`. Both are in bytes; a `len` of 0 is
 * to the end of the file. `flags` are those of sync_file_range(2), and the kernel's to judge: with
 * SYNC_FILE_RANGE_WRITE the write-back of the range begins, with the other two the event waits for
 * it. So a sync that comes later has less to do. Nothing is durable by this: neither metadata nor
 * what is in the disk's cache. A failed one is never retried by the library: one that waits takes the
 * file's error, and the next fsync of the descriptor may say yes. It is not joined with others, and
 * no barrier waits for it. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL, or `offset` or `offset + len` is above INT64_MAX.
 *
 * ```c
 * // What was written goes to the disk meanwhile: a shorter fsync.
 * err = ioe_prep_sync_range(event, fd, offset, len,
 *                           SYNC_FILE_RANGE_WRITE);
 * if (err == 0)
 *     err = ioe_submit(ctx, event);
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_prep_sync_range(struct ioe_event *event,
                        int fd,
                        uint64_t offset,
                        uint64_t len,
                        uint32_t flags);

/**
 * Makes the event an ftruncate(2) to `length` bytes. What was beyond is gone; where the file was
 * shorter, it has zeros up to there. As with all events, order is the program's: a write in flight
 * may make the file longer again, and no barrier waits for a truncation. Any thread that has the
 * event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL, or `length` is above INT64_MAX.
 *
 * ```c
 * // The log ends with its last whole record.
 * err = ioe_prep_truncate(event, fd, offset + len);
 * if (err == 0)
 *     err = (int)ioe_submit_wait(ctx, event);
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_prep_truncate(struct ioe_event *event, int fd, uint64_t length);

/**
 * Makes the event a posix_fadvise(2) about `len` bytes at `offset`. Both are in bytes; a `len` of 0 is
 * to the end of the file. `advice` is one of POSIX_FADV_, and the kernel's to judge, which may do
 * nothing: POSIX_FADV_WILLNEED begins to read the range into the page cache, POSIX_FADV_DONTNEED
 * drops from there what needs no writing. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL, or `offset` or `offset + len` is above INT64_MAX.
 *
 * ```c
 * // These are read soon: the disk may begin.
 * err = ioe_prep_advise(event, fd, offset, len, POSIX_FADV_WILLNEED);
 * if (err == 0)
 *     err = ioe_submit(ctx, event);
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_prep_advise(struct ioe_event *event,
                    int fd,
                    uint64_t offset,
                    uint64_t len,
                    int advice);

/**
 * Sets what is called when the event completes. It is given `arg`. Both survive completion and a
 * new prep. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` or `cb` is NULL.
 *
 * ```c
 * static void on_read(ioe_event *event, void *arg)
 * {
 *     int64_t n = ioe_event_result(event);
 *     if (n < 0)
 *         fprintf(stderr, "read: %s\n", ioe_strerror((int)n));
 *     else
 *         fwrite(ioe_event_buffer(event), 1, (size_t)n, (FILE *)arg);
 * }
 *
 * err = ioe_event_set_callback(event, on_read, stdout);
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_event_set_callback(struct ioe_event *event, ioe_callback cb, void *arg);

/**
 * The result of an event: bytes transferred since it was prepared, 0 for what is no transfer, or a
 * negated errno. A write's is its full length or an errno; a read's is less than its length only
 * where the file ends. Any thread.
 *
 * An errno is what preadv2(2), pwritev2(2), fsync(2), fallocate(2), sync_file_range(2), ftruncate(2)
 * or posix_fadvise(2) said, such as `-EBADF`, `-EIO` or `-ENOSPC`; `-EOPNOTSUPP` for a flag that the
 * kernel, the file or the driver lacks; `-ECANCELED` after `ioe_cancel`; `-ETIMEDOUT` after
 * `ioe_event_set_timeout`; for a sync, that of the sync it was joined with; for a barrier, that of a
 * write before it.
 *
 * Returns the result; `IOE_PENDING` before completion. Where there is no event:
 * - `-EINVAL`: `event` is NULL.
 *
 * ```c
 * int64_t n = ioe_event_result(event);
 * if (n >= 0 && (size_t)n < ioe_event_size(event))
 *     memset((char *)buf + n, 0, len - (size_t)n); // the file ended
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int64_t ioe_event_result(const struct ioe_event *event);

/**
 * Bytes that got through since the event was prepared. They count also when its result is an
 * errno, and while it is in flight. Any thread.
 *
 * Returns them; 0 for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
uint64_t ioe_event_transferred(const struct ioe_event *event);

/**
 * Whether the event has a result. It may be true a little before the callback starts: it grants
 * no ownership. Any thread.
 *
 * Returns that; false for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
bool ioe_event_is_done(const struct ioe_event *event);

/**
 * The descriptor of the event. Any thread.
 *
 * Returns it; -1 where never prepared, or for NULL.
 *
 * ```c
 * // The next read of as many bytes, into the same memory.
 * err = ioe_prep_read(event, ioe_event_fd(event),
 *                     ioe_event_buffer(event), ioe_event_size(event),
 *                     ioe_event_offset(event) + ioe_event_size(event));
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_event_fd(const struct ioe_event *event);

/**
 * What the event does, one of `ioe_action`. Any thread.
 *
 * Returns it; `IOE_NONE` where never prepared, or for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_event_action(const struct ioe_event *event);

/**
 * The memory of the request, or of its first segment. Any thread.
 *
 * Returns it; NULL for what is no transfer, where never prepared, or for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
void *ioe_event_buffer(const struct ioe_event *event);

/**
 * The length of the whole request in bytes, all segments together; of a truncation, the file's. Any
 * thread.
 *
 * Returns it; 0 for a sync, where never prepared, or for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
size_t ioe_event_size(const struct ioe_event *event);

/**
 * The file offset in bytes at which the whole request begins. Any thread.
 *
 * Returns it; 0 for a sync or a truncation, where never prepared, or for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
uint64_t ioe_event_offset(const struct ioe_event *event);

/**
 * The `arg` of `ioe_event_set_callback`. Any thread.
 *
 * Returns it; NULL where none was set, or for NULL.
 *
 * Requires:
 * `event` is NULL or an event.
 */
void *ioe_event_arg(const struct ioe_event *event);

/**
 * Names the event, for `ioe_cancel`. The name is good until the event's next prep or its next
 * completion, and never another event's. To be read before the event is submitted: afterwards it
 * may have completed already. Any thread.
 *
 * Returns the name; 0 for NULL: no event has that.
 *
 * Requires:
 * `event` is NULL or an event.
 */
uint64_t ioe_event_id(const struct ioe_event *event);

/**
 * Sets what the event asks beside its action. `flags` are bits of `ioe_event_flag`, instead of
 * those set before. After the prep, which clears them; they survive completion. Any thread that
 * has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL or was never prepared; an unknown bit; `IOE_BARRIER` for anything
 *   but fsync and fdatasync, or another bit for anything but reads and writes; `IOE_DSYNC`,
 *   `IOE_APPEND` or `IOE_ATOMIC` for a read.
 *
 * ```c
 * // Behind writes that were submitted: one answer for all of them.
 * err = ioe_prep_fdatasync(event, fd);
 * if (err == 0)
 *     err = ioe_event_set_flags(event, IOE_BARRIER);
 * if (err == 0)
 *     err = (int)ioe_submit_wait(ctx, event);
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_event_set_flags(struct ioe_event *event, uint32_t flags);

/**
 * Sets the I/O priority of a read or write. `ioprio` is IOPRIO_PRIO_VALUE(class, level) of
 * ioprio_set(2), which is class << 13 | level, or 0 for that of the thread that does it. The class
 * is 1 (real time; needs CAP_SYS_ADMIN or CAP_SYS_NICE, else `-EPERM` in the callback), 2 (best
 * effort) or 3 (idle), the level 0, the highest, to 7. What it does is the block layer's
 * scheduler's matter. After the prep, which clears it; it survives completion. Any thread that has
 * the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL, was never prepared, or is no read or write; `ioprio` is none of
 *   these.
 *
 * ```c
 * // A read of compaction's: best effort, the lowest level.
 * err = ioe_prep_read(event, fd, buf, len, offset);
 * if (err == 0)
 *     err = ioe_event_set_priority(event, 2 << 13 | 7);
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_event_set_priority(struct ioe_event *event, int ioprio);

/**
 * Sets how long the event may take, in nanoseconds. It counts from each acceptance; 0: as long as
 * it takes. When that time is up, an event that is still queued completes with `-ETIMEDOUT`, and
 * nothing reaches the disk. One in the kernel is cancelled where the driver can (see
 * `ioe_cancel`), and in any case its callback comes only when the kernel is done with its memory:
 * with its own result if it finished whole, a sync also if it failed, else with `-ETIMEDOUT`. With
 * `IOE_POLLED` limits are looked at inside `ioe_poll`, which wakes for them. After the prep, which
 * clears it; it survives completion. Any thread that has the event.
 *
 * Returns 0, or, leaving the event as it was:
 * - `-EBUSY`: the event is in flight.
 * - `-EINVAL`: `event` is NULL or was never prepared; `ns` is negative.
 *
 * ```c
 * err = ioe_event_set_timeout(event, INT64_C(50000000)); // 50 ms
 * int64_t n = err == 0 ? ioe_submit_wait(ctx, event) : err;
 * if (n == -ETIMEDOUT)
 *     fprintf(stderr, "a slow disk\n");
 * ```
 *
 * Requires:
 * `event` is NULL or an event.
 */
int ioe_event_set_timeout(struct ioe_event *event, int64_t ns);

/**
 * Hands an event to the context. Until its callback starts it is the context's; its callback is
 * called exactly once. Waits while the queue is full; inside a callback, of whatever context, it
 * never waits and never fails for room. With `IOE_POLLED` it does not wait either. Order among
 * events in flight is undefined, but for `IOE_BARRIER`. Any thread; with `IOE_POLLED` the owner's.
 *
 * An event that completed short or with an errno may be submitted again without a new prep: it
 * goes on where it stopped. (A vectored read with O_DIRECT that ended off a block boundary cannot:
 * the kernel answers `-EINVAL` in the callback. A plain one begins again at the boundary.)
 *
 * Returns 0, or, leaving the event yours, as it was:
 * - `-EINVAL`: a pointer is NULL; the event was never prepared, has no callback, or is whole and
 *   was not prepared again.
 * - `-EBUSY`: the event is in flight.
 * - `-EPERM`: not the owner of a polled context.
 * - `-ESHUTDOWN`: the context is being freed.
 * - `-EAGAIN`: the queue of a polled context is full: `ioe_poll` first.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * err = ioe_submit(ctx, event);
 * if (err != 0) { // no callback will come: the event is still ours
 *     ioe_event_free(event);
 *     return err;
 * }
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context; `event` is NULL or an event; its memory and descriptor live until
 * its callback.
 */
int ioe_submit(struct ioe_context *ctx, struct ioe_event *event);

/**
 * Hands an event to the context, but never waits. Otherwise as `ioe_submit`. Any thread; with
 * `IOE_POLLED` the owner's.
 *
 * Returns 0, or, leaving the event yours, as it was:
 * - `-EAGAIN`: the queue is full.
 * - `-EINVAL`, `-EBUSY`, `-EPERM`, `-ESHUTDOWN`, `-EOWNERDEAD`: as `ioe_submit`.
 *
 * Requires:
 * As `ioe_submit`.
 */
int ioe_try_submit(struct ioe_context *ctx, struct ioe_event *event);

/**
 * Hands several events to the context. `n` of them, in order, waiting as `ioe_submit` does, up to
 * the first that is refused. With `merge_limit`, they reach the reactor together, but for those
 * that had to wait for room, and neighbours among them are joined, whatever their order. Any
 * thread; with `IOE_POLLED` the owner's.
 *
 * Returns how many were accepted (at most INT_MAX are looked at); the others are yours, as they
 * were. Where there are events and none was accepted:
 * - `-EINVAL`: `ctx` or `events` is NULL, also where `n` is 0; the first event is NULL, was never
 *   prepared, has no callback, or is whole and was not prepared again.
 * - `-EBUSY`: the first event is in flight.
 * - `-EPERM`: not the owner of a polled context.
 * - `-ESHUTDOWN`: the context is being freed.
 * - `-EAGAIN`: the queue of a polled context is full: `ioe_poll` first.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * int accepted = ioe_submit_batch(ctx, events, n);
 * for (size_t i = accepted < 0 ? 0 : (size_t)accepted; i < n; i++)
 *     ioe_event_free(events[i]); // these are still ours
 * ```
 *
 * Requires:
 * `events` is NULL or has `n` pointers; the rest as `ioe_submit`.
 */
int ioe_submit_batch(struct ioe_context *ctx, struct ioe_event *const *events, size_t n);

/**
 * Runs an event and waits for it. It is done on the calling thread, whole, without the hand-over
 * to another. A sync that finds another one of its descriptor running waits for its end; then one
 * of those that wait syncs for all of them (not with `IOE_NO_SYNC_GROUP`, nor inside a callback of
 * another context). A barrier, and an event with a time limit or a priority, are handed to the
 * driver thread and waited for, also inside a callback of another context. It needs no callback,
 * and one that is set is not called; it needs no room in the queue. Any thread; with `IOE_POLLED`
 * the owner's, and callbacks of events in flight may run in here. With `workers` 0 hold no lock
 * that a callback takes: the driver thread may be who it waits for.
 *
 * Returns the result of the event, as `ioe_event_result` has it afterwards; or, leaving the
 * event as it was:
 * - `-EINVAL`: a pointer is NULL; the event was never prepared, or is whole and was not prepared
 *   again.
 * - `-EBUSY`: the event is in flight.
 * - `-EDEADLK`: called inside a callback of this context, or for what is handed over, inside the
 *   log callback on its driver thread.
 * - `-EPERM`: not the owner of a polled context.
 * - `-ESHUTDOWN`: the context is being freed.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * err = ioe_prep_read(event, fd, buf, len, offset);
 * int64_t n = err == 0 ? ioe_submit_wait(ctx, event) : err;
 * if (n < 0)
 *     fprintf(stderr, "read: %s\n", ioe_strerror((int)n));
 * else if ((size_t)n < len)
 *     fprintf(stderr, "the file ends after %" PRId64 " bytes\n", n);
 * ```
 *
 * Requires:
 * As `ioe_submit`.
 */
int64_t ioe_submit_wait(struct ioe_context *ctx, struct ioe_event *event);

/**
 * Hands several events to the context together and waits for all. `n` of them, in order, up to the
 * first that is refused; with `merge_limit`, neighbours among them are joined. They are under way
 * at once, done by the driver, whose thread tells the caller when the last one is done: no
 * callback thread takes part. One alone is done as `ioe_submit_wait` does it. They need no
 * callbacks, and those that are set are not called; they need no room in the queue. Until the call
 * returns they are in flight, also those that are done. Any thread; with `IOE_POLLED` the owner's,
 * and callbacks of other events in flight may run in here. With `workers` 0 hold no lock that a
 * callback takes: the driver thread is who it waits for.
 *
 * Returns how many were accepted (at most INT_MAX are looked at), which are done: each has its result
 * (`ioe_event_result`); the others are as they were. Where there are events and none was accepted:
 * - `-EINVAL`: `ctx` or `events` is NULL, also where `n` is 0; the first event is NULL, was never
 *   prepared, or is whole and was not prepared again.
 * - `-EBUSY`: the first event is in flight.
 * - `-EDEADLK`: called inside a callback of this context, or for what is handed over, inside the log
 *   callback on its driver thread.
 * - `-EPERM`: not the owner of a polled context.
 * - `-ESHUTDOWN`: the context is being freed.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * int done = ioe_submit_wait_batch(ctx, events, n);
 * for (int i = 0; i < done; i++) {
 *     int64_t result = ioe_event_result(events[i]);
 *     if (result < 0)
 *         fprintf(stderr, "%d: %s\n", i, ioe_strerror((int)result));
 * }
 * ```
 *
 * Requires:
 * As `ioe_submit_batch`.
 */
int ioe_submit_wait_batch(struct ioe_context *ctx,
                          struct ioe_event *const *events,
                          size_t n);

/**
 * Asks for an event back by its `ioe_event_id`. It completes, in its callback, with `-ECANCELED`,
 * or with its own result if it finished whole first; the other events of a merged operation or of
 * joined syncs go on. What is still queued never reaches the kernel. What the kernel has is asked
 * for back where the driver can: io_uring (IORING_OP_ASYNC_CANCEL, mostly for what has not begun),
 * the pool what no thread has begun, AIO nothing; the callback comes only when the kernel is done
 * with the memory. A cancelled write may have been written in part, or whole:
 * `ioe_event_transferred` tells what got through for certain. What mergers gathered is flushed.
 * Any thread, also with `IOE_POLLED`, where the owner's next `ioe_poll` acts on it and one that it
 * sleeps in wakes.
 *
 * Returns 0 where the event was found in flight in this context, or:
 * - `-ENOENT`: no event of this id is in flight in it: its callback has started, it was never
 *   submitted, or it is in another context.
 * - `-EINVAL`: `ctx` is NULL.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * uint64_t id = ioe_event_id(event); // before it is out of our hands
 * err = ioe_submit(ctx, event);
 * if (err == 0 && ioe_cancel(ctx, id) == -ENOENT)
 *     puts("its callback came first");
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context.
 */
int ioe_cancel(struct ioe_context *ctx, uint64_t id);

/**
 * Makes a merger for events of one descriptor and action. `action` is `IOE_READ` or `IOE_WRITE`;
 * it joins up to `limit` bytes and 1024 segments of memory; more than 1 GiB counts as 1 GiB. It
 * needs no `merge_limit` in the context; where there is one, what a merger hands over may be
 * joined further up to that. `*out` is set on success. Freed with `ioe_merger_free`, before the
 * context. Any thread; with `IOE_POLLED` the owner's, as all calls of a merger.
 *
 * An operation of several events works on their own memory: nothing is copied. Each event has its
 * own callback with its own result, as if it had travelled alone: a short transfer is continued
 * for the rest; where the file ends, the events before it are whole, the one across it is short,
 * and those behind it have 0. After an error, reads that are not whole go on one by one, and
 * writes as well, once, after `EIO`, `ENOSPC`, `EDQUOT`, `EFBIG` and `EINVAL`; but with any other
 * errno, and on a descriptor with O_SYNC or O_DSYNC, whose first error is the only one that the
 * kernel reports, every event of a write that is not whole has the error. Kept apart are events
 * that overlap, writes with O_APPEND, and, with O_DIRECT, events that are not aligned.
 *
 * Returns 0, or:
 * - `-EINVAL`: `ctx` or `out` is NULL, `action` is another one, or `limit` is 0.
 * - `-EPERM`: not the owner of a polled context.
 * - `-ESHUTDOWN`: the context is being freed.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * err = ioe_merger_new(ctx, fd, IOE_WRITE, 1 << 20, &merger);
 * if (err != 0)
 *     return err;
 * for (size_t i = 0; i < n && err == 0; i++)
 *     err = ioe_merger_add(merger, events[i]);
 * ioe_merger_free(merger); // hands over what is left
 * ```
 *
 * Requires:
 * `ctx` is NULL or a context; `out` is NULL or writable.
 */
int ioe_merger_new(struct ioe_context *ctx,
                   int fd,
                   int action,
                   size_t limit,
                   struct ioe_merger **out);

/**
 * Hands an event in, and gathers it with its neighbours. It is accepted as by `ioe_submit`. One
 * that is not adjacent to what was gathered, at either end, or would exceed the limit, flushes
 * that first; reaching the limit flushes at once. Everything gathered in a context is also flushed
 * by `ioe_drain`, by `ioe_poll` with a `min` above 0, by a barrier (`IOE_BARRIER`), by
 * `ioe_cancel`, in a polled context by what waits for a batch or for what it hands over, and by
 * whoever finds the queue full of nothing but gathered events (with several `reactors`, what those
 * of that queue gathered); an event with a time limit goes at once, with what was gathered.
 * Without any of these, an event stays gathered, and its callback does not come, until
 * `ioe_merger_flush`. Any thread, one at a time; with `IOE_POLLED` the owner's.
 *
 * Returns 0, or, leaving the event yours, as it was:
 * - `-EINVAL`: a pointer is NULL; the event has another descriptor or action than the merger, was
 *   never prepared, has no callback, or is whole and was not prepared again.
 * - `-EBUSY`: the event is in flight.
 * - `-EPERM`: not the owner of a polled context.
 * - `-EAGAIN`: the queue of a polled context is full: `ioe_poll` first.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * ```c
 * // The records of a commit, one behind the other in the log.
 * for (size_t i = 0; i < n && err == 0; i++)
 *     err = ioe_merger_add(merger, events[i]);
 * if (err == 0)
 *     err = ioe_merger_flush(merger);
 * ```
 *
 * Requires:
 * `merger` is NULL or a merger; `event` as in `ioe_submit`.
 */
int ioe_merger_add(struct ioe_merger *merger, struct ioe_event *event);

/**
 * Hands over what was gathered. Any thread, one at a time; with `IOE_POLLED` the owner's.
 *
 * Returns 0, also where that is nothing, or:
 * - `-EINVAL`: `merger` is NULL.
 * - `-EPERM`: not the owner of a polled context.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * Requires:
 * `merger` is NULL or a merger.
 */
int ioe_merger_flush(struct ioe_merger *merger);

/**
 * Hands over what was gathered, and frees the merger. Any thread, one at a time; with `IOE_POLLED`
 * the owner's, or any once the owner has ended.
 *
 * Returns 0, or, having done nothing:
 * - `-EINVAL`: `merger` is NULL.
 * - `-EPERM`: not the owner of a polled context whose owner lives.
 * - `-EOWNERDEAD`: in a forked child.
 *
 * Requires:
 * `merger` is NULL or a merger; not used again after 0.
 */
int ioe_merger_free(struct ioe_merger *merger);

/**
 * Allocates memory that direct I/O can use, O_DIRECT of open(2). It has `len` zeroed bytes,
 * aligned to `align`, a power of two, and to the page in any case; 0 for `align` means the page.
 * Kept out of forked children. Release it with `ioe_buffer_free`. Any thread.
 *
 * Each buffer is a mapping of its own and takes one page more than it holds: make few large ones
 * and divide them (sysctl vm.max_map_count bounds their number).
 *
 * Returns the memory; NULL where `len` is 0, `align` is no power of two, or memory is short.
 *
 * ```c
 * char *pool = (char *)ioe_buffer_alloc(64 * len, 4096);
 * for (size_t i = 0; pool != NULL && i < n && i < 64; i++)
 *     ioe_prep_read(events[i], fd, pool + i * len, len, i * len);
 * ```
 */
void *ioe_buffer_alloc(size_t len, size_t align);

/**
 * Releases a buffer of `ioe_buffer_alloc`. Once, when no event in flight uses it. NULL is fine. In
 * a forked child it does nothing. Any thread.
 *
 * Requires:
 * `buf` is NULL or came from `ioe_buffer_alloc` and was not released.
 */
void ioe_buffer_free(void *buf);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* IO_ENGINE_H */
