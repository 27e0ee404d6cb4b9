/*
 * engine.c: the same transfers by the engine, in each of the ways a program may use it. Every event
 * is made once and used again: a callback that has checked its data makes the event free.
 *
 * As many threads as are asked for submit, each its own events: to one context, but those that poll
 * have one of their own each, as their peers have a ring. The sides that merge run the same code as
 * those that do not; only the configuration differs.
 */
#include "crew.h"
#include "transfer.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <io_engine.h>

struct submitter;

struct slot {
    alignas(CACHE_LINE) ioe_event *event;
    struct submitter *submitter;
    struct transfer transfer;
    atomic_bool is_free; /* producer: the callback is through with it */
};

/* A thread that submits. */
struct submitter {
    struct progress progress;
    struct engine *engine;
    ioe_context *ctx;
    struct slot *slots;
    uint32_t n_slots;
    uint32_t batch_size;
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

typedef int submitter_run(struct submitter *s, uint64_t count);

/* A way to use it. */
struct way {
    uint32_t workers, flags;
    bool merging;    /* the context has a merge_limit */
    bool has_merger; /* each thread has one, and the context none */
    bool on_reactor; /* a submitter belongs to the reactor that it has been given */
    bool drains;     /* what a run handed over is waited for at its end */
    ioe_callback callback;
    submitter_run *run;
    uint32_t (*n_slots)(const struct work *work); /* of a thread */
    uint32_t (*queue)(const struct work *work);   /* of a context; NULL: the default */
};

struct engine {
    const struct work *work;
    const struct way *way;
    ioe_context *ctx; /* NULL: each thread has its own */
    struct crew crew;
    uint64_t count; /* of this run */
    struct submitter *submitters;
};

/* ---- common -------------------------------------------------------------------------------- */

static void submitter_end(struct submitter *s)
{
    if (s->merger)
        ioe_merger_free(s->merger);
    if (s->ctx && s->ctx != s->engine->ctx)
        ioe_context_free(s->ctx);
}

static void engine_free(void *self)
{
    struct engine *e = self;
    uint32_t n = e->submitters ? e->work->threads : 0;

    crew_end(&e->crew); /* a polled context is freed by another thread once its owner has ended */
    for (uint32_t i = 0; i < n; i++)
        submitter_end(&e->submitters[i]);
    if (e->ctx)
        ioe_context_free(e->ctx);
    for (uint32_t i = 0; i < n; i++) {
        struct submitter *s = &e->submitters[i];
        for (uint32_t k = 0; s->slots && k < s->n_slots; k++)
            ioe_event_free(s->slots[k].event);
        free(s->slots);
        free(s->free_slots);
        free(s->batch);
        sem_destroy(&s->finished);
    }
    free(e->submitters);
    free(e);
}

/* A context of its own has a thread's share of what is asked for. */
static int context_new(const struct engine *e, bool own, ioe_context **out)
{
    const struct work *w = e->work;
    const struct way *way = e->way;
    ioe_config config;

    ioe_config_init(&config, sizeof config);
    config.driver = w->driver;
    config.depth = own ? share_of(w->depth, w) : w->depth;
    config.workers = way->workers;
    config.flags = way->flags;
    config.reactors = own ? 1 : w->reactors;
    if (way->queue)
        config.queue_size = own ? share_of(way->queue(w), w) : way->queue(w);
    if (way->merging)
        config.merge_limit = w->merge_limit;
    return ioe_context_new(&config, out);
}

/* It must not gather all events that the thread has: the next would be waited for in vain. */
static size_t merger_limit(const struct submitter *s, const struct work *work)
{
    size_t most = (size_t)(s->n_slots + 1) / 2 * work->block;

    return work->merge_limit < most ? work->merge_limit : most;
}

static int submitter_begin(struct engine *e, uint32_t thread)
{
    const struct work *w = e->work;
    struct submitter *s = &e->submitters[thread];

    s->engine = e;
    progress_init(&s->progress, w, thread);
    sem_init(&s->finished, 0, 0);
    s->n_slots = e->way->n_slots(w);
    s->batch_size = share_of(w->batch, w);
    s->slots = side_new(s->n_slots * sizeof *s->slots);
    s->free_slots = calloc(s->n_slots, sizeof *s->free_slots);
    s->batch = calloc(s->n_slots, sizeof *s->batch);
    if (!s->slots || !s->free_slots || !s->batch)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->n_slots; i++) {
        struct slot *slot = &s->slots[i];
        slot->event = ioe_event_new();
        slot->submitter = s;
        slot->transfer.data = w->buffers + (thread * s->n_slots + i) * w->stride;
        atomic_init(&slot->is_free, true);
        s->free_slots[s->n_free++] = slot;
        if (!slot->event)
            return -ENOMEM;
        if (e->way->callback)
            ioe_event_set_callback(slot->event, e->way->callback, slot);
    }
    s->ctx = e->ctx;
    int err = s->ctx ? 0 : context_new(e, true, &s->ctx);
    if (err == 0 && e->way->has_merger)
        err = ioe_merger_new(s->ctx, w->fd, w->writes != 0 ? IOE_WRITE : IOE_READ,
                             merger_limit(s, w), &s->merger);
    return err;
}

static void *engine_new(const struct work *work, const struct way *way)
{
    struct engine *e = side_new(sizeof *e);

    if (!e)
        return NULL;
    e->work = work;
    e->way = way;
    e->submitters = side_new(work->threads * sizeof *e->submitters);
    int err = e->submitters ? crew_start(&e->crew, work->threads) : -ENOMEM;
    if (err == 0 && way->on_reactor && work->reactors > 1 && work->writes != 0)
        err = -EOPNOTSUPP; /* a write's callback runs on the reactor of its descriptor */
    if (err == 0 && !(way->flags & IOE_POLLED))
        err = context_new(e, false, &e->ctx);
    for (uint32_t i = 0; err == 0 && i < work->threads; i++)
        err = submitter_begin(e, i);
    if (err < 0) {
        fprintf(stderr, "bench: the engine on %s cannot be set up: %s\n",
                ioe_driver_name(work->driver), ioe_strerror(err));
        engine_free(e);
        return NULL;
    }
    return e;
}

static int run_submitter(void *self, uint32_t thread)
{
    struct engine *e = self;

    return e->way->run(&e->submitters[thread], count_of(e->count, e->work, thread));
}

static int engine_run(void *self, uint64_t count)
{
    struct engine *e = self;

    e->count = count;
    int err = crew_run(&e->crew, run_submitter, e);
    return err < 0 || !e->way->drains ? err : ioe_drain(e->ctx, -1);
}

static int prepare(struct slot *slot)
{
    struct transfer *t = &slot->transfer;
    const struct work *w = slot->submitter->progress.work;
    bool writes = transfer_next(t, &slot->submitter->progress);

    return writes ? ioe_prep_write(slot->event, w->fd, t->data, w->block, transfer_offset(t, w))
                  : ioe_prep_read(slot->event, w->fd, t->data, w->block, transfer_offset(t, w));
}

static void check(struct slot *slot)
{
    transfer_done(&slot->transfer, &slot->submitter->progress, ioe_event_result(slot->event));
}

/* The counters of all contexts, whichever of them is asked for. */
static ioe_stats stats_of(void *self)
{
    const struct engine *e = self;
    ioe_stats sum = {0}, stats;

    for (uint32_t i = 0; i < (e->ctx ? 1 : e->work->threads); i++) {
        ioe_context_stats(e->submitters[i].ctx, &stats, sizeof stats);
        sum.system_calls += stats.system_calls;
        sum.operations += stats.operations;
    }
    return sum;
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
    struct engine *e = self;

    return thread < e->work->threads ? &e->submitters[thread].progress : NULL;
}

/* A side, and the way it goes. */
#define ENGINE_SIDE(id, side_name, side_what, ...)                                                 \
    static const struct way id##_way = {__VA_ARGS__};                                              \
    static void *id##_open(const struct work *work)                                                \
    {                                                                                              \
        return engine_new(work, &id##_way);                                                        \
    }                                                                                              \
    const struct side id = {.name = side_name,                                                     \
                              .what = side_what,                                                   \
                              .max_threads = MAX_SUBMITTERS,                                       \
                              .open = id##_open,                                                   \
                              .run = engine_run,                                                   \
                              .system_calls = engine_calls,                                        \
                              .operations = engine_operations,                                     \
                              .progress = engine_progress,                                         \
                              .close = engine_free}

/* ---- polled: batches, callbacks inside ioe_poll ---------------------------------------------- */

static void on_polled(ioe_event *event, void *arg)
{
    struct slot *slot = arg;
    struct submitter *s = slot->submitter;

    (void)event;
    check(slot);
    s->free_slots[s->n_free++] = slot;
    s->in_flight--;
}

static uint32_t polled_queue(const struct work *work)
{
    return work->held;
}

static uint32_t polled_slots(const struct work *work)
{
    return share_of(work->held, work);
}

static int polled_run(struct submitter *s, uint64_t count)
{
    for (uint64_t to_issue = count, done = 0; done < count;) {
        uint32_t n = 0;
        for (; n < s->batch_size && to_issue > 0 && s->n_free > 0; n++, to_issue--) {
            struct slot *slot = s->free_slots[--s->n_free];
            int err = prepare(slot);
            if (err < 0)
                return err;
            s->batch[n] = slot->event;
        }
        int accepted = ioe_submit_batch(s->ctx, s->batch, n);
        if (accepted != (int)n)
            return accepted < 0 ? accepted : -EAGAIN;
        s->in_flight += n;
        /* As the hand-written ring: with room for more there is nothing to wait for yet. */
        bool full = to_issue == 0 || s->n_free == 0;
        uint32_t wait = !full ? 0 : s->in_flight < s->batch_size ? s->in_flight : s->batch_size;
        int ran = ioe_poll(s->ctx, wait, -1);
        if (ran < 0)
            return ran;
        done += (uint64_t)ran;
    }
    return 0;
}

#define POLLED                                                                                     \
    .flags = IOE_POLLED, .callback = on_polled, .run = polled_run, .n_slots = polled_slots,        \
    .queue = polled_queue
ENGINE_SIDE(engine_polled, "polled", "engine, IOE_POLLED: submit a batch, poll", POLLED);
ENGINE_SIDE(engine_polled_merging, "polled+m", "the same, merging", POLLED, .merging = true);

/* ---- inline: callbacks on the driver thread submit the next transfer themselves -------------- */

static void on_inline(ioe_event *event, void *arg)
{
    struct slot *slot = arg;
    struct submitter *s = slot->submitter;

    check(slot);
    if (s->to_issue > 0) {
        s->to_issue--;
        int err = prepare(slot);
        if (err == 0)
            err = ioe_submit(s->ctx, event);
        if (err < 0) {
            s->error = err;
            s->to_finish--;
        }
    }
    if (--s->to_finish == 0)
        sem_post(&s->finished);
}

static uint32_t depth_slots(const struct work *work)
{
    return share_of(work->depth, work);
}

static int inline_run(struct submitter *s, uint64_t count)
{
    uint32_t n = count < s->n_slots ? (uint32_t)count : s->n_slots;

    if (n == 0)
        return 0;
    s->to_issue = count - n;
    s->to_finish = count;
    for (uint32_t i = 0; i < n; i++) {
        int err = prepare(&s->slots[i]);
        if (err < 0)
            return err;
        s->batch[i] = s->slots[i].event;
    }
    int accepted = ioe_submit_batch(s->ctx, s->batch, n);
    if (accepted != (int)n)
        return accepted < 0 ? accepted : -EAGAIN;
    while (sem_wait(&s->finished) < 0)
        ; /* a signal */
    return s->error;
}

#define INLINE                                                                                     \
    .callback = on_inline, .run = inline_run, .n_slots = depth_slots, .on_reactor = true
ENGINE_SIDE(engine_inline, "inline", "engine, workers = 0: callbacks submit again", INLINE);
ENGINE_SIDE(engine_inline_merging, "inline+m", "the same, merging", INLINE, .merging = true);

/* ---- producer: other threads submit, callbacks give the events back -------------------------- */

static void on_produced(ioe_event *event, void *arg)
{
    struct slot *slot = arg;

    (void)event;
    check(slot);
    atomic_store_explicit(&slot->is_free, true, memory_order_release);
}

static uint32_t producer_queue(const struct work *work)
{
    return work->queue;
}

static uint32_t producer_slots(const struct work *work)
{
    return work_events(work);
}

/* The next event of the circle, prepared; waits until its callback is through with it. */
static int next_event(struct submitter *s, ioe_event **event)
{
    struct slot *slot = &s->slots[s->next_slot];

    s->next_slot = s->next_slot + 1 < s->n_slots ? s->next_slot + 1 : 0;
    while (!atomic_load_explicit(&slot->is_free, memory_order_acquire))
        sched_yield();
    atomic_store_explicit(&slot->is_free, false, memory_order_relaxed);
    *event = slot->event;
    return prepare(slot);
}

static int producer_run(struct submitter *s, uint64_t count)
{
    ioe_event *event;

    while (count-- > 0) {
        int err = next_event(s, &event);
        if (err == 0)
            err = ioe_submit(s->ctx, event);
        if (err < 0)
            return err;
    }
    return 0;
}

static int batches_run(struct submitter *s, uint64_t count)
{
    while (count > 0) {
        uint32_t n = count < s->batch_size ? (uint32_t)count : s->batch_size;
        for (uint32_t i = 0; i < n; i++) {
            int err = next_event(s, &s->batch[i]);
            if (err < 0)
                return err;
        }
        int accepted = ioe_submit_batch(s->ctx, s->batch, n);
        if (accepted != (int)n)
            return accepted < 0 ? accepted : -EAGAIN;
        count -= n;
    }
    return 0;
}

static int merger_run(struct submitter *s, uint64_t count)
{
    ioe_event *event;

    while (count-- > 0) {
        int err = next_event(s, &event);
        if (err == 0)
            err = ioe_merger_add(s->merger, event);
        if (err < 0)
            return err;
    }
    return 0;
}

#define PRODUCER                                                                                   \
    .callback = on_produced, .n_slots = producer_slots, .queue = producer_queue, .drains = true
ENGINE_SIDE(engine_producer, "producer", "engine, workers = 0: other threads submit one by one",
            PRODUCER, .run = producer_run);
ENGINE_SIDE(engine_producer_merging, "producer+m", "the same, merging", PRODUCER,
            .run = producer_run, .merging = true);
ENGINE_SIDE(engine_batches, "batches", "engine, workers = 0: other threads submit batches",
            PRODUCER, .run = batches_run);
ENGINE_SIDE(engine_batches_merging, "batches+m", "the same, merging", PRODUCER, .run = batches_run,
            .merging = true);
ENGINE_SIDE(engine_merger, "merger", "engine, workers = 0: other threads add to an ioe_merger",
            PRODUCER, .run = merger_run, .has_merger = true);
ENGINE_SIDE(engine_one_worker, "worker1", "engine, workers = 1: other threads submit one by one",
            PRODUCER, .run = producer_run, .workers = 1);
ENGINE_SIDE(engine_two_workers, "workers2", "engine, workers = 2: other threads submit one by one",
            PRODUCER, .run = producer_run, .workers = 2);

/* ---- wait: ioe_submit_wait ------------------------------------------------------------------- */

static int wait_run(struct submitter *s, uint64_t count)
{
    uint32_t k = 0;

    while (count-- > 0) {
        struct slot *slot = &s->slots[k];
        int err = prepare(slot);
        if (err < 0)
            return err;
        int64_t result = ioe_submit_wait(s->ctx, slot->event);
        transfer_done(&slot->transfer, &s->progress, result);
        k = k + 1 < s->n_slots ? k + 1 : 0;
    }
    return 0;
}

ENGINE_SIDE(engine_wait, "submit_wait", "engine, ioe_submit_wait in a loop", .run = wait_run,
            .n_slots = depth_slots);
