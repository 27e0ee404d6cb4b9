/*
 * bench.h: what every side of the comparison shares, so that all of them do the same work: the
 * same file, the same blocks in the same order, the same buffers, the same checks. C and C++.
 *
 * A side is one way to do the work. It is opened once in a process of its own (run.c), which has it
 * do its work whenever bench.py says so. In between it waits, while other sides run.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SECTOR = 512,      /* each carries its number at both ends */
    SAMPLE_EVERY = 16, /* one block number in so many has its data checked */
    CACHE_LINE = 64,
};

/* What a side is asked to do. The same for all sides of a case, but for the driver. */
struct work {
    int driver; /* of the engine: IOE_DRIVER_* */
    int fd;
    uint32_t writes;      /* of a hundred transfers: 0, 100, or mixed. See work_writes() */
    bool direct;          /* fd is one of O_DIRECT */
    bool sequential;      /* else in random order */
    uint32_t block;       /* bytes per transfer */
    uint32_t depth;       /* transfers in flight at most, of all threads together */
    uint32_t queue;       /* events accepted at most, where a side has a queue before its depth */
    uint32_t held;        /* events that a polled side has in flight at most */
    uint32_t batch;       /* transfers handed over, and waited for, at once */
    uint32_t merge_limit; /* of the sides that merge */
    uint32_t threads;     /* that submit, or commit */
    uint32_t reactors;    /* of the engine */
    bool growing;         /* commits: the file starts empty */
    uint64_t blocks;      /* in the file */
    uint64_t seed;
    uint64_t generation; /* of what is written: another one for each run, never 0 then */
    char *buffers;       /* work_buffers() of them */
    size_t stride;       /* from one buffer to the next: the block, or more */
    uint32_t *latencies; /* in ns, room for max_latencies; NULL: not wanted */
    uint64_t max_latencies;
    uint32_t latency_every;
};

/*
 * Of each thread that submits: more than a queue and the batch before it take, so that the next one is
 * free again before the queue has room, and it is the engine that makes its caller wait.
 */
static inline uint32_t work_events(const struct work *work)
{
    return work->queue + work->batch + 4;
}

static inline uint32_t work_buffers(const struct work *work)
{
    return work_events(work) * work->threads;
}

/*
 * The progress of one thread that submits: draws the blocks to transfer, checks what came. The
 * second half belongs to whoever sees the completions, which may be another thread.
 */
struct progress {
    alignas(CACHE_LINE) const struct work *work;
    uint64_t random;
    uint64_t first; /* of a sequence */
    uint64_t issued;
    alignas(CACHE_LINE) _Atomic(uint64_t) wrong; /* failed, short, or with other data */
    _Atomic(uint64_t) timed;                     /* latencies stored */
    uint32_t *latencies;
    uint64_t room;
};

/* What a run cost, beside its latencies. */
struct measure {
    uint64_t ns, user_ns, system_ns;
    uint64_t system_calls, operations, syncs;
};

struct side {
    const char *name; /* no other side has it */
    const char *what;
    uint32_t max_threads; /* that submit; 0: one */
    bool no_writes;       /* it reads only */
    /* NULL after a sentence on stderr. Everything that is not a transfer happens here. */
    void *(*open)(const struct work *work);
    /* Returns 0 when count more transfers are done, of all threads, else a negated errno. */
    int (*run)(void *self, uint64_t count);
    uint64_t (*system_calls)(void *self); /* NULL: not to be known */
    uint64_t (*operations)(void *self);   /* handed to the kernel; NULL: as above */
    uint64_t (*syncs)(void *self);        /* handed to the kernel; NULL: not about commits */
    /*
     * NULL, or, of a side that does its work in another process: puts what that knows about the
     * last run in the place of what was measured in this one. Its latencies, and what went wrong,
     * it puts into its progress.
     */
    void (*amend)(void *self, struct measure *measure);
    /* That of a thread; NULL where there are no more. Those of commits share one. */
    struct progress *(*progress)(void *self, uint32_t thread);
    void (*close)(void *self);
};

/* All of them. Their names on the command line are in the definitions. */
#define SIDES(side)                                                                                \
    side(engine_polled) side(engine_inline) side(engine_producer) side(engine_wait)                \
    side(engine_one_worker) side(engine_two_workers)                                               \
    /* The same programs again, merging: merge_limit in the context, or explicitly. */             \
    side(engine_polled_merging) side(engine_inline_merging) side(engine_producer_merging)          \
    side(engine_batches) side(engine_batches_merging) side(engine_merger)                          \
    side(peer_uring) side(peer_uring_cooperative) side(peer_uring_files)                           \
    side(peer_uring_registered) side(peer_uring_loop) side(peer_pread) side(peer_aio)              \
    side(peer_posix) side(peer_posix_two) side(peer_posix_many) side(peer_uv) side(peer_uv_wide)   \
    side(peer_asio) side(peer_reference) side(peer_reference_producer)                             \
    side(peer_reference_inline) side(peer_reference_worker) side(peer_reference_workers)           \
    /* Threads that each append a record and wait until it is durable: commit.h. */                \
    side(peer_commit_alone) side(peer_commit_uring)                                                \
    side(peer_commit_group) side(peer_commit_group_writing)                                        \
    side(engine_commit_wait) side(engine_commit_barrier) side(engine_commit_ungrouped)

#define DECLARE_SIDE(name) extern const struct side name;
SIDES(DECLARE_SIDE)

/* In the place of one whose library was not there when it was built: says what to install. */
#define SIDE_NOT_BUILT(id, side_name, side_what, package)                                          \
    static void *id##_cannot(const struct work *work)                                              \
    {                                                                                              \
        (void)work;                                                                                \
        fprintf(stderr, "bench: not built: apt-get install %s, and make it again\n", package);     \
        return NULL;                                                                               \
    }                                                                                              \
    const struct side id = {.name = side_name,                                                     \
                            .what = side_what,                                                     \
                            .max_threads = UINT32_MAX,                                             \
                            .no_writes = false,                                                    \
                            .open = id##_cannot,                                                   \
                            .run = NULL,                                                           \
                            .system_calls = NULL,                                                  \
                            .operations = NULL,                                                    \
                            .syncs = NULL,                                                         \
                            .amend = NULL,                                                         \
                            .progress = NULL,                                                      \
                            .close = NULL}

/* What contexts of a driver cost that were used and now have nothing to do. */
struct bench_file;
struct idle {
    double processors; /* of all contexts: 1: one processor kept busy */
    double wake_ups;   /* of their threads, a second */
    uint64_t memory;   /* of one context: resident bytes that it added */
};
enum { IDLE_CONTEXTS = 4 };
int idle_measure(struct idle *idle, int driver, const struct bench_file *file, double seconds);
/* How long it takes to make a context of default configuration and to free it: n times. */
int lives_measure(uint64_t *ns, uint32_t n, int driver);

/* Bytes of this process that are resident, counted page by page; 0: not to be known. */
uint64_t resident_bytes(void);

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* A number below limit (splitmix64, folded without a division). */
static inline uint64_t draw(uint64_t *random, uint64_t limit)
{
    uint64_t z = *random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return ((z >> 32) * limit) >> 32;
}

/* What a side keeps: zeroed, and on cache lines of its own. NULL where memory is short. */
static inline void *side_new(size_t size)
{
    size_t len = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    void *p = aligned_alloc(CACHE_LINE, len);

    return p ? memset(p, 0, len) : NULL;
}

/* Of a thread, which has its part of the file in sequence, and its own random numbers. */
static inline void progress_init(struct progress *r, const struct work *work, uint32_t thread)
{
    memset((void *)r, 0, sizeof *r);
    r->work = work;
    r->random = work->seed + ((uint64_t)thread << 32);
    r->first = work->blocks / work->threads * thread;
    r->room = work->max_latencies / work->threads;
    r->latencies = work->latencies ? work->latencies + thread * r->room : NULL;
}

/* The number of the next block to transfer. */
static inline uint64_t progress_next(struct progress *r)
{
    const struct work *w = r->work;
    uint64_t n = r->issued++;

    return w->sequential ? (r->first + n) % w->blocks : draw(&r->random, w->blocks);
}

/*
 * Whether this block is one to be written. Where reads and writes are mixed its number decides:
 * what is read is never written, so that its data can be checked, and all sides do the same.
 */
static inline bool work_writes(const struct work *work, uint64_t block)
{
    uint64_t scattered = block;

    return work->writes == 100 || (work->writes != 0 && draw(&scattered, 100) < work->writes);
}

/* What a block carries at its two ends: the numbers of its sectors, and who wrote it. */
struct stamps {
    uint64_t first, last;
};

static inline struct stamps stamps_of(const struct work *work, uint64_t block)
{
    uint64_t sectors = work->block / SECTOR;
    uint64_t writer = work_writes(work, block) ? work->generation << 40 : 0;

    struct stamps stamps = {writer + block * sectors + 1, writer + (block + 1) * sectors};
    return stamps;
}

static inline void block_stamp(const struct work *work, char *data, uint64_t block)
{
    struct stamps stamps = stamps_of(work, block);

    memcpy(data, &stamps.first, sizeof stamps.first);
    memcpy(data + work->block - sizeof stamps.last, &stamps.last, sizeof stamps.last);
}

static inline bool block_is(const struct work *work, const char *data, uint64_t block)
{
    struct stamps stamps = stamps_of(work, block);

    return memcmp(data, &stamps.first, sizeof stamps.first) == 0 &&
           memcmp(data + work->block - sizeof stamps.last, &stamps.last, sizeof stamps.last) == 0;
}

/*
 * What a program does with a completion at the least: look at its result. And for the bench, on a
 * sample that the block's number decides and so is the same on all sides, at the data read.
 * (What was written is looked at afterwards.)
 */
static inline void progress_check(struct progress *r, uint64_t block, const char *data,
                                  int64_t result)
{
    if (result != (int64_t)r->work->block ||
        (block % SAMPLE_EVERY == 0 && !work_writes(r->work, block) &&
         !block_is(r->work, data, block)))
        atomic_fetch_add_explicit(&r->wrong, 1, memory_order_relaxed);
}

/*
 * The time from before a submission to the check of what came, of one transfer in so many: ask for
 * the clock before the block is drawn, keep it with the transfer, hand it back after the check.
 */
static inline uint64_t progress_clock(const struct progress *r)
{
    return r->latencies && r->issued % r->work->latency_every == 0 ? now_ns() : 0;
}

static inline void progress_time(struct progress *r, uint64_t start)
{
    if (start == 0)
        return;
    uint64_t n = atomic_fetch_add_explicit(&r->timed, 1, memory_order_relaxed);
    if (n < r->room)
        r->latencies[n] = (uint32_t)(now_ns() - start);
}

/* A file whose sectors carry their numbers; path NULL: a nameless one in the current directory. */
struct bench_file {
    int buffered, direct; /* direct: -1 where the file system has no O_DIRECT */
    uint64_t size;
};
/* Made where it is missing. One that may be written to is taken as it is, if it is there. */
int file_open(struct bench_file *file, const char *path, uint64_t size, bool writable);
/* Each sector carries its number again, and nothing is left to be written back. */
int file_fill(const struct bench_file *file, const char *path);
void file_close(struct bench_file *file);
/* Into the page cache, or out of it; in both cases read once from end to end. */
int file_cache(const struct bench_file *file, bool cached);
char *buffers_new(uint32_t n, size_t stride);

#ifdef __cplusplus
}
#endif
#endif
