/*
 * engine.c: the same reads by the engine, in each of the ways a program may use it. Every event
 * is made once and used again: a callback that has checked its data makes the event free.
 */
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <io_engine.h>

enum { CACHE_LINE = 64 };

struct engine;

struct slot {
    _Alignas(CACHE_LINE) ioe_event *event;
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

    /* polled */
    uint32_t n_free;
    struct slot **free_slots; /* a stack, as the hand-written ring has */
    ioe_event **batch;
    uint32_t in_flight;

    /* inline: touched by the driver thread alone once the first reads are submitted */
    uint64_t to_issue, to_finish;
    int error;
    sem_t finished;

    /* producer */
    uint32_t next_slot;
};

/* ---- common -------------------------------------------------------------------------------- */

static void engine_free(void *self)
{
    struct engine *e = self;

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

static struct engine *engine_new(const struct work *work, ioe_callback callback,
                                 const ioe_config *config, uint32_t n_slots)
{
    struct engine *e = calloc(1, sizeof *e);

    if (!e)
        return NULL;
    progress_init(&e->progress, work);
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
                           .data = work->buffers + (size_t)i * work->block,
                           .is_free = true};
        e->free_slots[e->n_free++] = s;
        err = callback ? ioe_event_set_callback(s->event, callback, s) : s->event ? 0 : -ENOMEM;
    }
    if (err == 0)
        err = ioe_context_new(config, &e->ctx);
    if (err < 0) {
        fprintf(stderr, "bench: the engine on %s cannot be set up: %s\n",
                ioe_driver_name(config->driver), ioe_strerror(err));
        engine_free(e);
        return NULL;
    }
    return e;
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
    return ioe_prep_read(s->event, w->fd, s->data, w->block, s->block * w->block);
}

static void check(struct slot *s)
{
    progress_check(&s->engine->progress, s->block, s->data, ioe_event_result(s->event));
}

static uint64_t engine_calls(void *self)
{
    ioe_stats stats;

    ioe_context_stats(((struct engine *)self)->ctx, &stats, sizeof stats);
    return stats.system_calls;
}

static struct progress *engine_progress(void *self)
{
    return &((struct engine *)self)->progress;
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

static void *polled_open(const struct work *work)
{
    ioe_config config = config_of(work, 0, IOE_POLLED);

    return engine_new(work, on_polled, &config, work->depth);
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

const struct side engine_polled = {
    "polled", "engine, IOE_POLLED: submit a batch, poll",
    polled_open, polled_run, engine_calls, engine_progress, engine_free,
};

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

static void *inline_open(const struct work *work)
{
    ioe_config config = config_of(work, 0, 0);

    return engine_new(work, on_inline, &config, work->depth);
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

const struct side engine_inline = {
    "inline", "engine, workers = 0: callbacks submit again",
    inline_open, inline_run, engine_calls, engine_progress, engine_free,
};

/* ---- producer: one thread submits, callbacks give the events back ---------------------------- */

static void on_produced(ioe_event *event, void *arg)
{
    struct slot *s = arg;

    (void)event;
    check(s);
    atomic_store_explicit(&s->is_free, true, memory_order_release);
}

static struct engine *producer_new(const struct work *work, uint32_t workers)
{
    ioe_config config = config_of(work, workers, 0);
    uint32_t n_slots = work_buffers(work->depth);

    /*
     * More events than the queue takes: the next one is free again before the queue has room,
     * so that it is the engine that makes the producer wait.
     */
    config.queue_size = 2 * work->depth;
    return engine_new(work, on_produced, &config, n_slots);
}

static void *producer_open(const struct work *work)
{
    return producer_new(work, 0);
}

static void *one_worker_open(const struct work *work)
{
    return producer_new(work, 1);
}

static void *two_workers_open(const struct work *work)
{
    return producer_new(work, 2);
}

static int producer_run(void *self, uint64_t count)
{
    struct engine *e = self;

    while (count-- > 0) {
        struct slot *s = &e->slots[e->next_slot];
        e->next_slot = e->next_slot + 1 < e->n_slots ? e->next_slot + 1 : 0;
        while (!atomic_load_explicit(&s->is_free, memory_order_acquire))
            sched_yield();
        atomic_store_explicit(&s->is_free, false, memory_order_relaxed);
        int err = prepare(s);
        if (err == 0)
            err = ioe_submit(e->ctx, s->event);
        if (err < 0)
            return err;
    }
    return ioe_drain(e->ctx, -1);
}

const struct side engine_producer = {
    "producer", "engine, workers = 0: another thread submits one by one",
    producer_open, producer_run, engine_calls, engine_progress, engine_free,
};
const struct side engine_one_worker = {
    "1 worker", "engine, workers = 1: another thread submits one by one",
    one_worker_open, producer_run, engine_calls, engine_progress, engine_free,
};
const struct side engine_two_workers = {
    "2 workers", "engine, workers = 2: another thread submits one by one",
    two_workers_open, producer_run, engine_calls, engine_progress, engine_free,
};

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

const struct side engine_wait = {
    "submit_wait", "engine, ioe_submit_wait in a loop",
    wait_open, wait_run, engine_calls, engine_progress, engine_free,
};
