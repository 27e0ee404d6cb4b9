/*
 * commit.h: threads that each append a record and wait until it is durable, again and again. What
 * the sides of these cases share; each brings its way to commit one record.
 */
#ifndef COMMIT_H
#define COMMIT_H

#include "bench.h"
#include "crew.h"

enum { MAX_COMMITTERS = 256 };

struct commits;

/* A way to commit: returns 0 when the record is durable, else a negated errno. */
typedef int commit_fn(struct commits *c, uint32_t thread, uint64_t record);

/* The first member of a side. */
struct commits {
    struct progress progress;
    commit_fn *commit;
    _Atomic uint64_t next; /* record */
    uint64_t end;          /* of this run */
    _Atomic uint64_t syncs;
    struct crew crew;
};

/* Empties a file that is to grow, and starts the threads. Returns 0 or a negated errno. */
int commits_start(struct commits *c, const struct work *work, commit_fn *commit);
/* Ends them. Fine after a start that failed. */
void commits_end(struct commits *c);

/* Of a side. */
int commits_run(void *self, uint64_t count);
uint64_t commits_syncs(void *self);
struct progress *commits_progress(void *self, uint32_t thread);

/* A buffer with the record in it. There are at least two for each thread. */
static inline char *commit_stamped(const struct commits *c, uint32_t buffer, uint64_t record)
{
    const struct work *w = c->progress.work;
    char *data = w->buffers + buffer * w->stride;

    block_stamp(w, data, record % w->blocks);
    return data;
}

/* Where it goes. */
static inline uint64_t commit_offset(const struct commits *c, uint64_t record)
{
    const struct work *w = c->progress.work;

    return record % w->blocks * w->block;
}

static inline void commit_count_sync(struct commits *c)
{
    atomic_fetch_add_explicit(&c->syncs, 1, memory_order_relaxed);
}

#endif
