/*
 * transfer.h: one transfer of a side, from before its submission until its data is checked; and
 * what part of the work each of the threads has that submit.
 */
#ifndef TRANSFER_H
#define TRANSFER_H

#include "bench.h"

enum { MAX_SUBMITTERS = 8 };

struct transfer {
    char *data;
    uint64_t block;
    uint64_t start; /* where latencies are wanted */
};

/* Draws the next block; returns whether it is to be written, and then stamps the data. */
static inline bool transfer_next(struct transfer *t, struct progress *progress)
{
    const struct work *w = progress->work;

    t->start = progress_clock(progress);
    t->block = progress_next(progress);
    bool writes = work_writes(w, t->block);
    if (writes)
        block_stamp(w, t->data, t->block);
    return writes;
}

static inline uint64_t transfer_offset(const struct transfer *t, const struct work *work)
{
    return t->block * work->block;
}

/* Of bytes transferred, or a negated errno. */
static inline void transfer_done(const struct transfer *t, struct progress *progress,
                                 int64_t result)
{
    progress_check(progress, t->block, t->data, result);
    progress_time(progress, t->start);
}

/* A thread's part of a depth, a batch, a queue: all threads together have what is asked for. */
static inline uint32_t share_of(uint32_t whole, const struct work *work)
{
    return whole > work->threads ? whole / work->threads : 1;
}

/* A thread's part of a run. */
static inline uint64_t count_of(uint64_t count, const struct work *work, uint32_t thread)
{
    return count / work->threads + (thread < count % work->threads ? 1 : 0);
}

#endif
