/*
 * engine_commit.c: a record appended and made durable by the engine. The threads share a context,
 * and each waits for its own fdatasync; the engine makes groups of them.
 */
#include "commit.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <io_engine.h>

/* A thread's events. Two for its writes, in turn: see barrier_commit. */
enum { WRITES = 2 };
struct waiter {
    ioe_event *sync, *writes[WRITES];
    atomic_bool written[WRITES]; /* the callback has run */
    uint64_t turn;
};

struct engine_commits {
    struct commits commits;
    ioe_context *ctx;
    struct waiter *waiters;
};

static void engine_close(void *self)
{
    struct engine_commits *e = self;

    commits_end(&e->commits);
    if (e->ctx)
        ioe_context_free(e->ctx);
    for (uint32_t i = 0; e->waiters && i < e->commits.progress.work->threads; i++) {
        ioe_event_free(e->waiters[i].sync);
        for (int k = 0; k < WRITES; k++)
            ioe_event_free(e->waiters[i].writes[k]);
    }
    free(e->waiters);
    free(e);
}

static void on_written(ioe_event *event, void *arg)
{
    (void)event;
    atomic_store_explicit((atomic_bool *)arg, true, memory_order_release);
}

static void *engine_new(const struct work *work, uint32_t flags, commit_fn *commit)
{
    struct engine_commits *e = side_new(sizeof *e);
    ioe_config config;
    int err = e ? 0 : -ENOMEM;

    if (e)
        e->commits.progress.work = work;
    if (err == 0 && !(e->waiters = calloc(work->threads, sizeof *e->waiters)))
        err = -ENOMEM;
    for (uint32_t i = 0; err == 0 && i < work->threads; i++) {
        struct waiter *t = &e->waiters[i];
        if (!(t->sync = ioe_event_new()))
            err = -ENOMEM;
        for (int k = 0; err == 0 && k < WRITES; k++) {
            t->written[k] = true;
            t->writes[k] = ioe_event_new();
            err = t->writes[k] ? ioe_event_set_callback(t->writes[k], on_written, &t->written[k])
                               : -ENOMEM;
        }
    }
    ioe_config_init(&config, sizeof config);
    config.driver = work->driver;
    config.workers = 0; /* what little the callbacks do can be done on the driver thread */
    config.flags = flags;
    if (err == 0)
        err = ioe_context_new(&config, &e->ctx);
    if (err == 0)
        err = commits_start(&e->commits, work, commit);
    if (err == 0)
        return e;
    fprintf(stderr, "bench: the engine on %s cannot be set up: %s\n",
            ioe_driver_name(work->driver), ioe_strerror(err));
    if (e)
        engine_close(e);
    return NULL;
}

static int prepare_write(struct engine_commits *e, ioe_event *event, uint32_t buffer,
                         uint64_t record)
{
    const struct work *w = e->commits.progress.work;

    return ioe_prep_write(event, w->fd, commit_stamped(&e->commits, buffer, record), w->block,
                          commit_offset(&e->commits, record));
}

static uint64_t engine_syncs(void *self)
{
    struct engine_commits *e = self;
    ioe_stats stats;

    ioe_context_stats(e->ctx, &stats, sizeof stats);
    return commits_syncs(self) - stats.syncs_joined;
}

#define SIDE(side_name, side_what, side_open)                                                      \
    {                                                                                              \
        .name = side_name, .what = side_what, .open = side_open, .run = commits_run,               \
        .max_threads = MAX_COMMITTERS,                                                             \
        .syncs = engine_syncs, .progress = commits_progress, .close = engine_close,                \
    }

/* ---- wait for the write, then for the sync --------------------------------------------------- */

static int wait_commit(struct commits *c, uint32_t thread, uint64_t record)
{
    struct engine_commits *e = (struct engine_commits *)c;
    struct waiter *t = &e->waiters[thread];
    int err = prepare_write(e, t->writes[0], thread, record);

    if (err == 0)
        err = ioe_prep_fdatasync(t->sync, c->progress.work->fd);
    int64_t n = err < 0 ? err : ioe_submit_wait(e->ctx, t->writes[0]);
    if (n < 0)
        return (int)n;
    commit_count_sync(c);
    return (int)ioe_submit_wait(e->ctx, t->sync);
}

static void *wait_open(const struct work *work)
{
    return engine_new(work, 0, wait_commit);
}

const struct side engine_commit_wait =
    SIDE("wait", "engine, each thread: ioe_submit_wait of the write, then of the fdatasync",
         wait_open);

static void *ungrouped_open(const struct work *work)
{
    return engine_new(work, IOE_NO_SYNC_GROUP, wait_commit);
}

const struct side engine_commit_ungrouped =
    SIDE("ungrouped", "the same, IOE_NO_SYNC_GROUP", ungrouped_open);

/* ---- the write, and a sync that waits for it ------------------------------------------------- */

/*
 * The sync is durable once it is answered; the write's callback may come a little later, and its
 * event is free only then. So a thread has two, and seldom waits.
 */
static int barrier_commit(struct commits *c, uint32_t thread, uint64_t record)
{
    struct engine_commits *e = (struct engine_commits *)c;
    struct waiter *t = &e->waiters[thread];
    uint32_t k = t->turn++ % WRITES;

    while (!atomic_load_explicit(&t->written[k], memory_order_acquire))
        sched_yield();
    atomic_store_explicit(&t->written[k], false, memory_order_relaxed);
    int err = prepare_write(e, t->writes[k], thread * WRITES + k, record);
    if (err == 0)
        err = ioe_prep_fdatasync(t->sync, c->progress.work->fd);
    if (err == 0)
        err = ioe_event_set_flags(t->sync, IOE_BARRIER);
    if (err == 0)
        err = ioe_submit(e->ctx, t->writes[k]);
    if (err < 0)
        return err;
    commit_count_sync(c);
    return (int)ioe_submit_wait(e->ctx, t->sync); /* an error of the write as well */
}

static void *barrier_open(const struct work *work)
{
    return engine_new(work, 0, barrier_commit);
}

const struct side engine_commit_barrier =
    SIDE("barrier", "engine, each thread: ioe_submit of the write, ioe_submit_wait of an "
         "fdatasync with IOE_BARRIER", barrier_open);
