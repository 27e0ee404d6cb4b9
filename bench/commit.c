/*
 * commit.c: the threads of the cases of commits, the same for all sides. They wait at a gate
 * between the runs, so that no thread is started under the clock; within a run each takes the next
 * record when it has committed one, until all are taken.
 */
#include "commit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int commit_records(void *self, uint32_t thread)
{
    struct commits *c = self;
    uint64_t record;

    while ((record = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed)) < c->end) {
        uint64_t start = c->progress.latencies ? now_ns() : 0;
        int err = c->commit(c, thread, record);
        if (err < 0)
            return err;
        progress_time(&c->progress, start);
    }
    return 0;
}

int commits_start(struct commits *c, const struct work *work, commit_fn *commit)
{
    progress_init(&c->progress, work, 0);
    c->progress.room = work->max_latencies; /* of all threads */
    c->commit = commit;
    if (work->growing && (ftruncate(work->fd, 0) < 0 || fsync(work->fd) < 0))
        return -errno;
    return crew_start(&c->crew, work->threads);
}

void commits_end(struct commits *c)
{
    crew_end(&c->crew);
}

int commits_run(void *self, uint64_t count)
{
    struct commits *c = self;

    atomic_store(&c->next, c->progress.issued);
    c->end = c->progress.issued += count;
    return crew_run(&c->crew, commit_records, c);
}

uint64_t commits_syncs(void *self)
{
    return atomic_load(&((struct commits *)self)->syncs);
}

struct progress *commits_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct commits *)self)->progress : NULL;
}
