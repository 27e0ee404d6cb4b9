/*
 * bench.h: what every side of the comparison shares, so that all of them do the same work: the
 * same file, the same random blocks in the same order, the same buffers, the same checks.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum {
    SECTOR = 512,      /* each carries its number at both ends */
    SAMPLE_EVERY = 16, /* one block number in so many has its data checked */
};

/* What a side is asked to do. The same for all sides of a round, but for the driver. */
struct work {
    int driver; /* of the engine: IOE_DRIVER_* */
    int fd;
    bool write;           /* else read */
    bool sequential;      /* else in random order */
    uint32_t block;       /* bytes per transfer */
    uint32_t depth;       /* transfers in flight at most */
    uint32_t queue;       /* events accepted at most, where a side has a queue before its depth */
    uint32_t held;        /* events that a polled side has in flight at most */
    uint32_t batch;       /* transfers handed over, and waited for, at once */
    uint32_t merge_limit; /* of the sides that merge */
    uint32_t threads;     /* of the cases of commits */
    bool growing;         /* there: the file starts empty */
    uint64_t blocks;      /* in the file */
    uint64_t seed;
    char *buffers;       /* work_buffers() of them */
    size_t stride;       /* from one buffer to the next: the block, or more */
    uint32_t *latencies; /* in ns, room for max_latencies; NULL: not wanted */
    uint64_t max_latencies;
    uint32_t latency_every;
};

/*
 * More than a queue and the batch before it take: the next one is free again before the queue has
 * room, so that it is the engine that makes its caller wait.
 */
static inline uint32_t work_buffers(const struct work *work)
{
    return work->queue + work->batch + 4;
}

/* A side's progress: draws the blocks to transfer, checks what came. */
struct progress {
    const struct work *work;
    uint64_t random;
    uint64_t issued;
    uint64_t timed;         /* latencies stored */
    _Atomic uint64_t wrong; /* transfers that failed, were short, or brought other data */
};

struct side {
    const char *name;
    const char *what;
    /* NULL after a sentence on stderr. Everything that is not a transfer happens here. */
    void *(*open)(const struct work *work);
    /* Returns 0 when count more transfers are done, else a negated errno. */
    int (*run)(void *self, uint64_t count);
    uint64_t (*system_calls)(void *self); /* NULL: not to be known */
    uint64_t (*operations)(void *self);   /* handed to the kernel; NULL: as above */
    uint64_t (*syncs)(void *self);        /* handed to the kernel; NULL: not about commits */
    clockid_t (*cpu_clock)(void *self);   /* NULL: that of this process */
    struct progress *(*progress)(void *self);
    void (*close)(void *self);
};

extern const struct side engine_polled, engine_inline, engine_producer, engine_wait;
extern const struct side engine_one_worker, engine_two_workers;
/* The same programs again, merging: merge_limit in the context, or explicitly. */
extern const struct side engine_polled_merging, engine_inline_merging, engine_producer_merging;
extern const struct side engine_batches, engine_batches_merging, engine_merger;
extern const struct side engine_one_worker_merging;
extern const struct side peer_uring, peer_uring_registered, peer_pread;
extern const struct side peer_aio, peer_posix, peer_posix_two, peer_uv, peer_reference;

/* Threads that each append a record and wait until it is durable: commit.h. */
extern const struct side peer_commit_alone, peer_commit_uring;
extern const struct side peer_commit_group, peer_commit_group_writing;
extern const struct side engine_commit_wait, engine_commit_barrier, engine_commit_ungrouped;

/* What contexts of a driver cost that were used and now have nothing to do, all together. */
struct bench_file;
struct idle {
    double processors; /* 1: one processor kept busy */
    double wake_ups;   /* of threads, a second */
};
enum { IDLE_CONTEXTS = 4 };
int idle_measure(struct idle *idle, int driver, const struct bench_file *file, double seconds);

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

static inline void progress_init(struct progress *r, const struct work *work)
{
    memset(r, 0, sizeof *r);
    r->work = work;
    r->random = work->seed;
}

/* A number below limit (splitmix64, folded without a division). */
static inline uint64_t draw(uint64_t *random, uint64_t limit)
{
    uint64_t z = *random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return ((z >> 32) * limit) >> 32;
}

/* The number of the next block to transfer. */
static inline uint64_t progress_next(struct progress *r)
{
    const struct work *w = r->work;
    uint64_t n = r->issued++;

    return w->sequential ? n % w->blocks : draw(&r->random, w->blocks);
}

/* What a block carries at its two ends: the numbers of its sectors, and who wrote it. */
struct stamps {
    uint64_t first, last;
};

static inline struct stamps stamps_of(const struct work *work, uint64_t block)
{
    uint64_t sectors = work->block / SECTOR, writer = work->write ? work->seed << 40 : 0;

    return (struct stamps){writer + block * sectors + 1, writer + (block + 1) * sectors};
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
        (!r->work->write && block % SAMPLE_EVERY == 0 && !block_is(r->work, data, block)))
        atomic_fetch_add_explicit(&r->wrong, 1, memory_order_relaxed);
}

/* Latencies are of use at depth 1 only: the time from before the submission to the check. */
static inline uint64_t progress_clock(const struct progress *r)
{
    const struct work *w = r->work;

    return w->latencies && r->issued % w->latency_every == 0 ? now_ns() : 0;
}

static inline void progress_time(struct progress *r, uint64_t start)
{
    if (start != 0 && r->timed < r->work->max_latencies)
        r->work->latencies[r->timed++] = (uint32_t)(now_ns() - start);
}

/* A file whose sectors carry their numbers; path NULL: a nameless one in the current directory. */
struct bench_file {
    int buffered, direct; /* direct: -1 where the file system has no O_DIRECT */
    uint64_t size;
};
int file_open(struct bench_file *file, const char *path, uint64_t size);
/* A nameless one in the directory of path (NULL: the current one), which may be written to. */
int file_scratch(struct bench_file *file, const char *path, uint64_t size);
void file_close(struct bench_file *file);
/* Into the page cache, or out of it; in both cases read once from end to end. */
int file_cache(const struct bench_file *file, bool cached);
char *buffers_new(uint32_t n, size_t stride);

#endif
