/*
 * engine.c: the same transfers by the engine, in each of the ways a program may use it. Every event
 * is made once and used again: a callback that has checked its data makes the event free.
 *
 * The sides that merge run the same code as those that do not; only the configuration differs.
 */
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <io_engine.h>

struct engine;

struct slot {
    alignas(CACHE_LINE) ioe_event *event;
    struct engine *engine;
    char *data;
    uint64_t block;
    uint64_t start;      /* where latencies are wanted */
    atomic_bool is_free; /* producer: the callback is through with it */
};

struct engine {
    struct progress progress;
    ioe_context *ctx;
    struct slot *slots;
    uint32_t n_slots;

    ioe_event **batch;

    /* polled */
    uint32_t n_free;
    struct slot **free_slots; /* a stack, as the hand-written ring has */
    uint32_t in_flight;

    /* inline: touched by the driver thread alone once the first events are submitted */
    uint64_t to_issue, to_finish;
    int error;
    sem_t finished;

    /* producer */
    uint32_t next_slot;
    ioe_merger *merger;
};

/* ---- common -------------------------------------------------------------------------------- */

static void engine_free(void *self)
{
    struct engine *e = self;

    if (e->merger)
        ioe_merger_free(e->merger);
    if (e->ctx)
        ioe_context_free(e->ctx);
    for (uint32_t i = 0; e->slots && i < e->n_slots; i++)
        ioe_event_free(e->slots[i].event);
    free(e->slots);
    free(e->free_slots);
    free(e->batch);
    sem_destroy(&e->finished);
    free(e);
}

static struct engine *cannot(struct engine *e, int err)
{
    fprintf(stderr, "bench: the engine on %s cannot be set up: %s\n",
            ioe_driver_name(e->progress.work->driver), ioe_strerror(err));
    engine_free(e);
    return NULL;
}

static struct engine *engine_new(const struct work *work, ioe_callback callback,
                                 const ioe_config *config, uint32_t n_slots)
{
    struct engine *e = side_new(sizeof *e);

    if (!e)
        return NULL;
    progress_init(&e->progress, work, 0);
    sem_init(&e->finished, 0, 0);
    e->n_slots = n_slots;
    e->slots = aligned_alloc(CACHE_LINE, n_slots * sizeof *e->slots);
    e->free_slots = calloc(n_slots, sizeof *e->free_slots);
    e->batch = calloc(n_slots, sizeof *e->batch);
    int err = e->slots && e->free_slots && e->batch ? 0 : -ENOMEM;
    for (uint32_t i = 0; err == 0 && i < n_slots; i++) {
        struct slot *s = &e->slots[i];
        *s = (struct slot){.event = ioe_event_new(),
                           .engine = e,
                           .data = work->buffers + i * work->stride,
                           .is_free = true};
        e->free_slots[e->n_free++] = s;
        err = callback ? ioe_event_set_callback(s->event, callback, s) : s->event ? 0 : -ENOMEM;
    }
    if (err == 0)
        err = ioe_context_new(config, &e->ctx);
    return err < 0 ? cannot(e, err) : e;
}

static ioe_config config_of(const struct work *work, uint32_t workers, uint32_t flags)
{
    ioe_config config;

    ioe_config_init(&config, sizeof config);
    config.driver = work->driver;
    config.depth = work->depth;
    config.workers = workers;
    config.flags = flags;
    return config;
}

static int prepare(struct slot *s)
{
    struct engine *e = s->engine;
    const struct work *w = e->progress.work;

    s->block = progress_next(&e->progress);
    if (!work_writes(w, s->block))
        return ioe_prep_read(s->event, w->fd, s->data, w->block, s->block * w->block);
    block_stamp(w, s->data, s->block);
    return ioe_prep_write(s->event, w->fd, s->data, w->block, s->block * w->block);
}

static void check(struct slot *s)
{
    progress_check(&s->engine->progress, s->block, s->data, ioe_event_result(s->event));
}

static ioe_stats stats_of(void *self)
{
    ioe_stats stats;

    ioe_context_stats(((struct engine *)self)->ctx, &stats, sizeof stats);
    return stats;
}

static uint64_t engine_calls(void *self)
{
    return stats_of(self).system_calls;
}

static uint64_t engine_operations(void *self)
{
    return stats_of(self).operations;
}

static struct progress *engine_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct engine *)self)->progress : NULL;
}

#define SIDE(side_name, side_what, side_open, side_run)                                            \
    {                                                                                              \
        .name = side_name, .what = side_what, .open = side_open, .run = side_run,                  \
        .system_calls = engine_calls, .operations = engine_operations,                             \
        .progress = engine_progress, .close = engine_free,                                         \
    }

/* ---- polled: one thread, batches, callbacks inside ioe_poll ---------------------------------- */

static void on_polled(ioe_event *event, void *arg)
{
    struct slot *s = arg;
    struct engine *e = s->engine;

    (void)event;
    check(s);
    e->free_slots[e->n_free++] = s;
    e->in_flight--;
}

static void *polled_new(const struct work *work, uint32_t merge_limit)
{
    ioe_config config = config_of(work, 0, IOE_POLLED);

    config.queue_size = work->held;
    config.merge_limit = merge_limit;
    return engine_new(work, on_polled, &config, work->held);
}

static void *polled_open(const struct work *work)
{
    return polled_new(work, 0);
}

static void *polled_open_merging(const struct work *work)
{
    return polled_new(work, work->merge_limit);
}

static int polled_run(void *self, uint64_t count)
{
    struct engine *e = self;
    const struct work *w = e->progress.work;
    uint64_t to_issue = count;

    for (uint64_t done = 0; done < count;) {
        uint32_t n = 0;
        uint64_t start = progress_clock(&e->progress);
        for (; n < w->batch && to_issue > 0 && e->n_free > 0; n++, to_issue--) {
            struct slot *s = e->free_slots[--e->n_free];
            int err = prepare(s);
            if (err < 0)
                return err;
            e->batch[n] = s->event;
        }
        int accepted = ioe_submit_batch(e->ctx, e->batch, n);
        if (accepted != (int)n)
            return accepted < 0 ? accepted : -EAGAIN;
        e->in_flight += n;
        /* As the hand-written ring: with room for more there is nothing to wait for yet. */
        bool full = to_issue == 0 || e->n_free == 0;
        uint32_t wait = !full ? 0 : e->in_flight < w->batch ? e->in_flight : w->batch;
        int ran = ioe_poll(e->ctx, wait, -1);
        if (ran < 0)
            return ran;
        if (ran > 0)
            progress_time(&e->progress, start);
        done += (uint64_t)ran;
    }
    return 0;
}

const struct side engine_polled =
    SIDE("polled", "engine, IOE_POLLED: submit a batch, poll", polled_open, polled_run);
const struct side engine_polled_merging =
    SIDE("polled+m", "the same, merging", polled_open_merging, polled_run);

/* ---- inline: callbacks on the driver thread submit the next read themselves ------------------ */

static void on_inline(ioe_event *event, void *arg)
{
    struct slot *s = arg;
    struct engine *e = s->engine;

    check(s);
    progress_time(&e->progress, s->start);
    if (e->to_issue > 0) {
        e->to_issue--;
        s->start = progress_clock(&e->progress);
        int err = prepare(s);
        if (err == 0)
            err = ioe_submit(e->ctx, event);
        if (err < 0) {
            e->error = err;
            e->to_finish--;
        }
    }
    if (--e->to_finish == 0)
        sem_post(&e->finished);
}

static void *inline_new(const struct work *work, uint32_t merge_limit)
{
    ioe_config config = config_of(work, 0, 0);

    config.merge_limit = merge_limit;
    return engine_new(work, on_inline, &config, work->depth);
}

static void *inline_open(const struct work *work)
{
    return inline_new(work, 0);
}

static void *inline_open_merging(const struct work *work)
{
    return inline_new(work, work->merge_limit);
}

static int inline_run(void *self, uint64_t count)
{
    struct engine *e = self;
    uint32_t n = count < e->n_slots ? (uint32_t)count : e->n_slots;

    e->to_issue = count - n;
    e->to_finish = count;
    for (uint32_t i = 0; i < n; i++) {
        e->slots[i].start = progress_clock(&e->progress);
        int err = prepare(&e->slots[i]);
        if (err < 0)
            return err;
        e->batch[i] = e->slots[i].event;
    }
    int accepted = ioe_submit_batch(e->ctx, e->batch, n);
    if (accepted != (int)n)
        return accepted < 0 ? accepted : -EAGAIN;
    while (sem_wait(&e->finished) < 0)
        ; /* a signal */
    return e->error;
}

const struct side engine_inline =
    SIDE("inline", "engine, workers = 0: callbacks submit again", inline_open, inline_run);
const struct side engine_inline_merging =
    SIDE("inline+m", "the same, merging", inline_open_merging, inline_run);

/* ---- producer: one thread submits, callbacks give the events back ---------------------------- */

static void on_produced(ioe_event *event, void *arg)
{
    struct slot *s = arg;

    (void)event;
    check(s);
    atomic_store_explicit(&s->is_free, true, memory_order_release);
}

static struct engine *producer_new(const struct work *work, uint32_t workers, uint32_t merge_limit)
{
    ioe_config config = config_of(work, workers, 0);

    config.queue_size = work->queue;
    config.merge_limit = merge_limit;
    return engine_new(work, on_produced, &config, work_buffers(work));
}

static void *producer_open(const struct work *work)
{
    return producer_new(work, 0, 0);
}

static void *producer_open_merging(const struct work *work)
{
    return producer_new(work, 0, work->merge_limit);
}

static void *one_worker_open(const struct work *work)
{
    return producer_new(work, 1, 0);
}

static void *one_worker_open_merging(const struct work *work)
{
    return producer_new(work, 1, work->merge_limit);
}

static void *two_workers_open(const struct work *work)
{
    return producer_new(work, 2, 0);
}

/* Its own limit; the context has none. */
static void *merger_open(const struct work *work)
{
    struct engine *e = producer_new(work, 0, 0);

    if (!e)
        return NULL;
    int err = ioe_merger_new(e->ctx, work->fd, work->writes != 0 ? IOE_WRITE : IOE_READ,
                             work->merge_limit, &e->merger);
    return err < 0 ? cannot(e, err) : e;
}

/* The next event of the circle, prepared; waits until its callback is through with it. */
static int next_event(struct engine *e, ioe_event **event)
{
    struct slot *s = &e->slots[e->next_slot];

    e->next_slot = e->next_slot + 1 < e->n_slots ? e->next_slot + 1 : 0;
    while (!atomic_load_explicit(&s->is_free, memory_order_acquire))
        sched_yield();
    atomic_store_explicit(&s->is_free, false, memory_order_relaxed);
    *event = s->event;
    return prepare(s);
}

static int producer_run(void *self, uint64_t count)
{
    struct engine *e = self;
    ioe_event *event;

    while (count-- > 0) {
        int err = next_event(e, &event);
        if (err == 0)
            err = ioe_submit(e->ctx, event);
        if (err < 0)
            return err;
    }
    return ioe_drain(e->ctx, -1);
}

static int batches_run(void *self, uint64_t count)
{
    struct engine *e = self;
    uint32_t batch = e->progress.work->batch;

    for (uint64_t left = count; left > 0;) {
        uint32_t n = left < batch ? (uint32_t)left : batch;
        for (uint32_t i = 0; i < n; i++) {
            int err = next_event(e, &e->batch[i]);
            if (err < 0)
                return err;
        }
        int accepted = ioe_submit_batch(e->ctx, e->batch, n);
        if (accepted != (int)n)
            return accepted < 0 ? accepted : -EAGAIN;
        left -= n;
    }
    return ioe_drain(e->ctx, -1);
}

static int merger_run(void *self, uint64_t count)
{
    struct engine *e = self;
    ioe_event *event;

    while (count-- > 0) {
        int err = next_event(e, &event);
        if (err == 0)
            err = ioe_merger_add(e->merger, event);
        if (err < 0)
            return err;
    }
    return ioe_drain(e->ctx, -1); /* flushes it */
}

const struct side engine_producer =
    SIDE("producer", "engine, workers = 0: another thread submits one by one",
         producer_open, producer_run);
const struct side engine_producer_merging =
    SIDE("producer+m", "the same, merging", producer_open_merging, producer_run);
const struct side engine_batches =
    SIDE("batches", "engine, workers = 0: another thread submits batches",
         producer_open, batches_run);
const struct side engine_batches_merging =
    SIDE("batches+m", "the same, merging", producer_open_merging, batches_run);
const struct side engine_merger =
    SIDE("merger", "engine, workers = 0: another thread adds to an ioe_merger",
         merger_open, merger_run);
const struct side engine_one_worker =
    SIDE("worker1", "engine, workers = 1: another thread submits one by one",
         one_worker_open, producer_run);
const struct side engine_one_worker_merging =
    SIDE("worker1+m", "the same, merging", one_worker_open_merging, producer_run);
const struct side engine_two_workers =
    SIDE("workers2", "engine, workers = 2: another thread submits one by one",
         two_workers_open, producer_run);

/* ---- wait: ioe_submit_wait ------------------------------------------------------------------ */

static void *wait_open(const struct work *work)
{
    ioe_config config = config_of(work, 0, 0);

    return engine_new(work, NULL, &config, work->depth);
}

static int wait_run(void *self, uint64_t count)
{
    struct engine *e = self;
    uint32_t slot = 0;

    while (count-- > 0) {
        struct slot *s = &e->slots[slot];
        uint64_t start = progress_clock(&e->progress);
        int err = prepare(s);
        if (err < 0)
            return err;
        int64_t result = ioe_submit_wait(e->ctx, s->event);
        progress_check(&e->progress, s->block, s->data, result);
        progress_time(&e->progress, start);
        if (++slot == e->n_slots)
            slot = 0;
    }
    return 0;
}

const struct side engine_wait =
    SIDE("submit_wait", "engine, ioe_submit_wait in a loop", wait_open, wait_run);
