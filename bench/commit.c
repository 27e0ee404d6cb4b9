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

static void commit_records(struct commits *c, uint32_t thread)
{
    const struct work *w = c->progress.work;
    uint64_t room = w->max_latencies / w->threads, record;
    uint32_t *latencies = w->latencies + thread * room;
    struct committer *me = &c->committers[thread];

    me->timed = 0;
    while ((record = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed)) < c->end) {
        uint64_t start = now_ns();
        int err = c->commit(c, thread, record);
        if (err < 0) {
            atomic_store(&c->error, err);
            return;
        }
        if (me->timed < room)
            latencies[me->timed++] = (uint32_t)(now_ns() - start);
    }
}

static void *committer_main(void *arg)
{
    struct committer *me = arg;
    struct commits *c = me->commits;

    for (;;) {
        pthread_barrier_wait(&c->gate);
        if (c->ending)
            return NULL;
        commit_records(c, (uint32_t)(me - c->committers));
        pthread_barrier_wait(&c->gate);
    }
}

int commits_start(struct commits *c, const struct work *work, commit_fn *commit)
{
    progress_init(&c->progress, work, 0);
    c->progress.room = work->max_latencies; /* of all threads */
    c->commit = commit;
    if (work->growing && (ftruncate(work->fd, 0) < 0 || fsync(work->fd) < 0))
        return -errno;
    c->committers = calloc(work->threads, sizeof *c->committers);
    if (!c->committers)
        return -ENOMEM;
    pthread_barrier_init(&c->gate, NULL, work->threads + 1);
    for (uint32_t i = 0; i < work->threads; i++) {
        c->committers[i].commits = c;
        int err = pthread_create(&c->committers[i].thread, NULL, committer_main,
                                 &c->committers[i]);
        if (err != 0) { /* those before it wait for it: not to be undone */
            fprintf(stderr, "bench: a thread cannot be had: %s\n", strerror(err));
            exit(EXIT_FAILURE);
        }
    }
    return 0;
}

void commits_end(struct commits *c)
{
    if (!c->committers)
        return;
    c->ending = true;
    pthread_barrier_wait(&c->gate);
    for (uint32_t i = 0; i < c->progress.work->threads; i++)
        pthread_join(c->committers[i].thread, NULL);
    pthread_barrier_destroy(&c->gate);
    free(c->committers);
}

/* The threads' latencies, one behind the other. */
static void gather_latencies(struct commits *c)
{
    const struct work *w = c->progress.work;
    uint64_t room = w->max_latencies / w->threads, timed = 0;

    for (uint32_t i = 0; i < w->threads; i++) {
        memmove(w->latencies + timed, w->latencies + i * room,
                c->committers[i].timed * sizeof *w->latencies);
        timed += c->committers[i].timed;
    }
    c->progress.timed = timed;
}

int commits_run(void *self, uint64_t count)
{
    struct commits *c = self;

    atomic_store(&c->next, c->progress.issued);
    c->end = c->progress.issued += count;
    pthread_barrier_wait(&c->gate); /* they begin */
    pthread_barrier_wait(&c->gate); /* they are done */
    gather_latencies(c);
    return atomic_load(&c->error);
}

uint64_t commits_syncs(void *self)
{
    return atomic_load(&((struct commits *)self)->syncs);
}

struct progress *commits_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct commits *)self)->progress : NULL;
}
