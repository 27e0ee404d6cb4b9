/*
 * Promise: a context ends cleanly. ioe_context_free completes what was accepted and refuses the
 * rest, ioe_drain returns for what was accepted before it and no more, and ten thousand contexts
 * later the process holds nothing that it did not hold before. The engine's threads take no signal
 * from the program.
 */
#include "stuck.h"

#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define SHARED_THREADS 2

/* ---- freeing with work in flight ---- */

typedef struct tally {
    atomic_uint called;
    atomic_uint wrong;
} tally;

static void count_one(ioe_event *event, void *arg)
{
    tally *t = arg;
    atomic_fetch_add(&t->called, 1);
    if (ioe_event_result(event) != 4096)
        atomic_fetch_add(&t->wrong, 1);
}

static void free_completes_everything(ioe_context *ctx)
{
    enum { EVENTS = 5000 };
    static uint8_t bufs[16][4096];
    static ioe_event *events[EVENTS];
    tally t = {0};
    int fd = temp_file(IN_MEMORY);
    assert_int_equal(ftruncate(fd, 4096 * 64), 0);
    for (size_t i = 0; i < EVENTS; i++) {
        events[i] = ioe_event_new();
        if (i % 2 == 0)
            assert_int_equal(ioe_prep_read(events[i], fd, bufs[i % 16], 4096, i % 64 * 4096), 0);
        else
            assert_int_equal(ioe_prep_write(events[i], fd, bufs[i % 16], 4096, i % 64 * 4096), 0);
        assert_int_equal(ioe_event_set_callback(events[i], count_one, &t), 0);
    }
    ASSERT_CALL(ioe_submit_batch(ctx, events, EVENTS), EVENTS);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(atomic_load(&t.called), EVENTS);
    assert_int_equal(atomic_load(&t.wrong), 0);
    for (size_t i = 0; i < EVENTS; i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    close(fd);
}

static void free_runs_every_callback(void **state)
{
    free_completes_everything(new_context(*state, 32, 8192));
}

static void free_runs_every_callback_of_shared_workers(void **state)
{
    ioe_workers *workers = NULL;
    (void)state;
    ASSERT_CALL(ioe_workers_new(SHARED_THREADS, &workers), 0);
    free_completes_everything(new_shared_context(workers, 32, 8192));
    ASSERT_CALL(ioe_workers_free(workers), 0);
}

/* ---- freeing under those who wait in a submit ---- */

enum { BLOCKED = 4, ROOM = 4, BATCHED = 3 };

typedef struct blocked {
    ioe_context *ctx;
    ioe_event *events[BATCHED];
    bool in_batch;
    atomic_int tid;
    int rc;
} blocked;

static void *submit_and_block(void *arg)
{
    blocked *b = arg;
    atomic_store(&b->tid, gettid());
    b->rc = b->in_batch ? ioe_submit_batch(b->ctx, b->events, BATCHED)
                        : ioe_submit(b->ctx, b->events[0]);
    return NULL;
}

/* A thread that slept at each of many looks, with no switch in between, has come to rest. */
static void await_rest(atomic_int *tid)
{
    task before = {0};
    task now;
    unsigned rested = 0;
    while (atomic_load(tid) == 0)
        sched_yield();
    while (rested < 100) {
        sched_yield();
        assert_true(read_task(atomic_load(tid), &now));
        rested = now.run_state == 'S' && now.switches == before.switches ? rested + 1 : 0;
        before = now;
    }
}

static void *free_context(void *arg)
{
    return ioe_context_free(arg) == 0 ? arg : NULL;
}

static void blocked_submitters_are_refused(void **state)
{
    const delivery *how = *state;
    unsigned callers = how->workers == 0 ? 1 : how->workers;
    ioe_context *ctx = new_context(how, 2, ROOM);
    int fd = temp_file(IN_MEMORY);
    gate g = GATE_INIT;
    latch done = LATCH_INIT;
    ioe_event *accepted[8 + ROOM];
    blocked waiting[BLOCKED] = {0};
    pthread_t threads[BLOCKED];
    for (unsigned i = 0; i < callers + ROOM; i++) {
        accepted[i] = ioe_event_new();
        assert_int_equal(ioe_prep_fsync(accepted[i], fd), 0);
        if (i < callers)
            assert_int_equal(ioe_event_set_callback(accepted[i], hold_at_gate, &g), 0);
        else
            assert_int_equal(ioe_event_set_callback(accepted[i], hit_latch, &done), 0);
        ASSERT_CALL(ioe_submit(ctx, accepted[i]), 0);
        if (i < callers)
            latch_wait(&g.entered, i + 1);
    }
    for (unsigned t = 0; t < BLOCKED; t++) {
        waiting[t].ctx = ctx;
        waiting[t].in_batch = t % 2 == 1;
        for (unsigned i = 0; i < BATCHED; i++) {
            waiting[t].events[i] = ioe_event_new();
            assert_int_equal(ioe_prep_fsync(waiting[t].events[i], fd), 0);
            assert_int_equal(ioe_event_set_callback(waiting[t].events[i], hit_latch, &done), 0);
        }
        threads[t] = start_thread(submit_and_block, &waiting[t]);
    }
    for (unsigned t = 0; t < BLOCKED; t++)
        await_rest(&waiting[t].tid);

    /* They are let go while the callbacks are still held, so it is not for want of waiting. */
    pthread_t freeing = start_thread(free_context, ctx);
    for (unsigned t = 0; t < BLOCKED; t++)
        join_thread(threads[t]);
    assert_int_equal(latch_count(&done), 0);
    latch_hit(&g.opened);
    void *freed = NULL;
    assert_int_equal(pthread_join(freeing, &freed), 0);
    assert_ptr_equal(freed, ctx);

    assert_int_equal(latch_count(&done), ROOM);
    for (unsigned i = 0; i < callers + ROOM; i++)
        assert_int_equal(ioe_event_free(accepted[i]), 0);
    for (unsigned t = 0; t < BLOCKED; t++) {
        assert_int_equal(waiting[t].rc, -ESHUTDOWN);
        for (unsigned i = 0; i < BATCHED; i++) {
            assert_false(ioe_event_is_done(waiting[t].events[i]));
            assert_int_equal(ioe_event_free(waiting[t].events[i]), 0);
        }
    }
    close(fd);
}

/* ---- callbacks that submit while the context is freed ---- */

enum { CHAINS = 30 };

typedef struct endless {
    ioe_context *ctx;
    ioe_event *event;
    int fd;
    unsigned number;
    int refusal;
    unsigned called_after;
} endless;

/* Goes on for ever; only a refusal ends it. */
static void go_on(ioe_event *event, void *arg)
{
    endless *e = arg;
    int rc = ioe_prep_fsync(event, e->fd);
    if (e->refusal != 0)
        e->called_after++;
    if (rc == 0 && e->number % 3 == 0)
        rc = ioe_submit(e->ctx, event);
    else if (rc == 0 && e->number % 3 == 1)
        rc = ioe_try_submit(e->ctx, event);
    else if (rc == 0)
        rc = ioe_submit_batch(e->ctx, &event, 1);
    if (rc < 0)
        e->refusal = rc;
}

static void start_endless(endless *chains, ioe_context *ctx, int fd)
{
    for (unsigned i = 0; i < CHAINS; i++) {
        chains[i] = (endless){.ctx = ctx, .event = ioe_event_new(), .fd = fd, .number = i};
        assert_int_equal(ioe_prep_fsync(chains[i].event, fd), 0);
        assert_int_equal(ioe_event_set_callback(chains[i].event, go_on, &chains[i]), 0);
        ASSERT_CALL(ioe_submit(ctx, chains[i].event), 0);
    }
}

static void free_ended_them(endless *chains)
{
    for (unsigned i = 0; i < CHAINS; i++) {
        assert_int_equal(chains[i].refusal, -ESHUTDOWN);
        assert_int_equal(chains[i].called_after, 0);
        assert_int_equal(ioe_event_free(chains[i].event), 0);
    }
}

static void callbacks_are_refused_during_free(void **state)
{
    ioe_context *ctx = new_context(*state, 8, 64);
    int fd = temp_file(IN_MEMORY);
    endless chains[CHAINS];
    start_endless(chains, ctx, fd);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    free_ended_them(chains);
    close(fd);
}

static void callbacks_of_shared_workers_are_refused_during_free(void **state)
{
    ioe_workers *workers = NULL;
    endless chains[CHAINS];
    int fd = temp_file(IN_MEMORY);
    (void)state;
    ASSERT_CALL(ioe_workers_new(SHARED_THREADS, &workers), 0);
    ioe_context *ctx = new_shared_context(workers, 8, 64);
    start_endless(chains, ctx, fd);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    ASSERT_CALL(ioe_workers_free(workers), 0);
    free_ended_them(chains);
    close(fd);
}

/* ---- drain ---- */

static void drain_knows_its_time(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 8);
    latch done = LATCH_INIT;
    stuck_read stuck;
    ASSERT_CALL(ioe_drain(ctx, 0), 0);
    ASSERT_CALL(ioe_drain(ctx, 5), 0);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ASSERT_CALL(ioe_drain(ctx, -2), -EINVAL);
    ASSERT_CALL(ioe_drain(ctx, INT64_MIN), -EINVAL);
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    ASSERT_CALL(ioe_drain(ctx, 0), -ETIMEDOUT);
    ASSERT_CALL(ioe_drain(ctx, 1), -ETIMEDOUT);
    ASSERT_CALL(ioe_drain(ctx, 20), -ETIMEDOUT);
    ASSERT_CALL(ioe_drain(ctx, -2), -EINVAL);
    assert_int_equal(latch_count(&done), 0);
    assert_true(stuck_let_go(&stuck));
    ASSERT_CALL(ioe_drain(ctx, INT64_MAX), 0);
    assert_int_equal(latch_count(&done), 1);
    ASSERT_CALL(ioe_drain(ctx, 0), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stuck_free(&stuck);
}

/* A callback that has started is not one that has returned. */
static void drain_waits_for_the_return(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 8);
    int fd = temp_file(IN_MEMORY);
    gate g = GATE_INIT;
    ioe_event *event = ioe_event_new();
    assert_int_equal(ioe_prep_fsync(event, fd), 0);
    assert_int_equal(ioe_event_set_callback(event, hold_at_gate, &g), 0);
    ASSERT_CALL(ioe_submit(ctx, event), 0);
    latch_wait(&g.entered, 1);
    assert_int_equal(get_stats(ctx).in_flight, 0);
    ASSERT_CALL(ioe_drain(ctx, 0), -ETIMEDOUT);
    ASSERT_CALL(ioe_drain(ctx, 10), -ETIMEDOUT);
    latch_hit(&g.opened);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(event), 0);
    close(fd);
}

typedef struct noise {
    ioe_context *ctx;
    int fd;
    unsigned drains;
    atomic_bool stop;
    atomic_uint wrong;
} noise;

static void free_inside(ioe_event *event, void *arg)
{
    noise *n = arg;
    if (ioe_event_free(event) != 0)
        atomic_fetch_add(&n->wrong, 1);
}

static void *submit_for_ever(void *arg)
{
    noise *n = arg;
    while (!atomic_load(&n->stop)) {
        ioe_event *event = ioe_event_new();
        if (ioe_prep_fsync(event, n->fd) != 0 ||
            ioe_event_set_callback(event, free_inside, n) != 0 || ioe_submit(n->ctx, event) != 0)
            atomic_fetch_add(&n->wrong, 1);
    }
    return NULL;
}

static void count_call(ioe_event *event, void *arg)
{
    (void)event;
    atomic_fetch_add((atomic_uint *)arg, 1);
}

/* What this thread submitted before its drain has been called back after it, every time. */
static void *submit_and_drain(void *arg)
{
    enum { MINE = 8 };
    noise *n = arg;
    ioe_event *events[MINE];
    atomic_uint called = 0;
    for (size_t i = 0; i < MINE; i++)
        events[i] = ioe_event_new();
    for (unsigned round = 1; round <= n->drains; round++) {
        for (size_t i = 0; i < MINE; i++) {
            if (ioe_prep_fsync(events[i], n->fd) != 0 ||
                ioe_event_set_callback(events[i], count_call, &called) != 0 ||
                ioe_submit(n->ctx, events[i]) != 0)
                atomic_fetch_add(&n->wrong, 1);
        }
        if (ioe_drain(n->ctx, -1) != 0 || atomic_load(&called) != round * MINE)
            atomic_fetch_add(&n->wrong, 1);
    }
    for (size_t i = 0; i < MINE; i++)
        if (ioe_event_free(events[i]) != 0)
            atomic_fetch_add(&n->wrong, 1);
    return NULL;
}

/* Drains from several threads at once, while others submit and callbacks resubmit for ever. */
static void drains_return_under_endless_work(void **state)
{
    const delivery *how = *state;
    enum { NOISY = 3, DRAINING = 3 };
    ioe_context *ctx = new_context(how, 8, 64);
    noise n = {.ctx = ctx, .fd = temp_file(IN_MEMORY), .drains = (unsigned)scaled(200)};
    endless chains[CHAINS];
    pthread_t noisy[NOISY];
    pthread_t draining[DRAINING];
    start_endless(chains, ctx, n.fd);
    for (unsigned t = 0; t < NOISY; t++)
        noisy[t] = start_thread(submit_for_ever, &n);
    for (unsigned t = 0; t < DRAINING; t++)
        draining[t] = start_thread(submit_and_drain, &n);
    for (unsigned t = 0; t < DRAINING; t++)
        join_thread(draining[t]);
    atomic_store(&n.stop, true);
    for (unsigned t = 0; t < NOISY; t++)
        join_thread(noisy[t]);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    free_ended_them(chains);
    assert_int_equal(atomic_load(&n.wrong), 0);
    close(n.fd);
}

/* Polled, the drain itself turns what resubmits itself; it ends all the same. */
static void polled_drain_returns_under_endless_work(void **state)
{
    ioe_context *ctx = new_context(&deliveries[0], 8, 64);
    noise n = {.ctx = ctx, .fd = temp_file(IN_MEMORY), .drains = (unsigned)scaled(200)};
    endless chains[CHAINS];
    (void)state;
    start_endless(chains, ctx, n.fd);
    submit_and_drain(&n);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    free_ended_them(chains);
    assert_int_equal(atomic_load(&n.wrong), 0);
    close(n.fd);
}

/* ---- nothing is left ---- */

typedef struct holdings {
    size_t descriptors;
    size_t threads;
    size_t maps;
    size_t heap;
    size_t resident_kib;
} holdings;

/* Without the threads that the kernel keeps for a while for those who used a ring. */
static size_t count_threads(void)
{
    return read_tasks("", NULL, 0) - read_tasks("iou-", NULL, 0);
}

static holdings look_at_holdings(void)
{
    char line[1024];
    unsigned long kib;
    holdings h = {.descriptors = count_descriptors(), .threads = count_threads()};
    FILE *file = fopen("/proc/self/maps", "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        h.maps++;
    fclose(file);
    file = fopen("/proc/self/status", "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmRSS: %lu kB", &kib) == 1)
            h.resident_kib = kib;
    fclose(file);
    h.heap = mallinfo2().uordblks;
    return h;
}

static void live_a_short_life(const delivery *how, ioe_event *event, int fd)
{
    static uint8_t buf[512];
    ioe_context *ctx = new_context(how, 8, 16);
    assert_int_equal(ioe_prep_read(event, fd, buf, sizeof buf, 0), 0);
    assert_int_equal(run_event(ctx, how, event), sizeof buf);
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

static void ten_thousand_contexts_leave_nothing(void **state)
{
    /* Allocators and stack caches take what they keep for good in the first contexts. */
    unsigned long warm_up = scaled_contexts(200);
    unsigned long lives = scaled_contexts(10000);
    int fd = temp_file(IN_MEMORY);
    ioe_event *event = ioe_event_new();
    (void)state;
    assert_int_equal(ftruncate(fd, 4096), 0);
    for (unsigned long i = 0; i < warm_up; i++)
        live_a_short_life(&deliveries[i % COUNT_OF(deliveries)], event, fd);
    await_no_threads();
    holdings before = look_at_holdings();
    for (unsigned long i = 0; i < lives; i++)
        live_a_short_life(&deliveries[i % COUNT_OF(deliveries)], event, fd);
    await_no_threads();
    holdings after = look_at_holdings();
    assert_int_equal(after.descriptors, before.descriptors);
    assert_int_equal(after.threads, before.threads);
    /* A leak of one mapping or one byte in each context would show as ten thousand. */
    assert_true(after.maps <= before.maps + 32);
    assert_true(after.heap <= before.heap + 64 * 1024);
#ifndef __SANITIZE_ADDRESS__
    assert_true(after.resident_kib <= before.resident_kib + 4096);
#endif
    assert_int_equal(ioe_event_free(event), 0);
    close(fd);
}

/* ---- signals ---- */

static bool is_synchronous(int number)
{
    static const int synchronous[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < COUNT_OF(synchronous); i++)
        if (number == synchronous[i])
            return true;
    return false;
}

/* The program's signals are the program's: only what a thread does itself reaches it there. */
static void engine_threads_take_no_signals(void **state)
{
    const delivery *how = *state;
    task before;
    task tasks[64];
    assert_true(read_task(gettid(), &before));
    await_no_threads();
    ioe_context *ctx = new_context(how, 8, 8);
    int fd = temp_file(IN_MEMORY);
    ioe_event *event = ioe_event_new();
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(ioe_prep_fsync(event, fd), 0);
        assert_int_equal(run_event(ctx, how, event), 0);
    }
    const unsigned threads = how->flags & IOE_POLLED ? 0 : usual_reactors(how->flags);
    size_t expected = threads + how->workers;
    size_t pool = tested_driver == IOE_DRIVER_POOL ? 1 : 0;
    unsigned reactors = 0;
    /* Each gives itself its name, sooner or later. */
    size_t count;
    while ((count = read_tasks("ioe-", tasks, COUNT_OF(tasks))) < expected + pool)
        sched_yield();
    assert_true(count <= COUNT_OF(tasks));
    for (size_t i = 0; i < count; i++) {
        reactors += strcmp(tasks[i].name, "ioe-reactor") == 0;
        expected += strcmp(tasks[i].name, "ioe-pool") == 0;
        for (int number = 1; number <= SIGRTMAX; number++) {
            bool is_blocked = tasks[i].blocked >> (number - 1) & 1;
            bool is_libcs_own = number >= 32 && number < SIGRTMIN;
            /* abort(3) unblocks its signal by itself, so either is right. */
            bool is_free = number == SIGABRT || number == SIGKILL || number == SIGSTOP;
            if (is_synchronous(number))
                assert_false(is_blocked);
            else if (!is_free && !is_libcs_own)
                assert_true(is_blocked);
        }
    }
    assert_int_equal(count, expected);
    assert_int_equal(reactors, threads);
    for (unsigned worker = 0; worker < how->workers; worker++) {
        char name[32];
        unsigned found = 0;
        snprintf(name, sizeof name, "ioe-worker-%u", worker);
        for (size_t i = 0; i < count; i++)
            found += strcmp(tasks[i].name, name) == 0;
        assert_int_equal(found, 1);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    task after;
    assert_true(read_task(gettid(), &after));
    assert_true(after.blocked == before.blocked);
    assert_int_equal(ioe_event_free(event), 0);
    close(fd);
}

enum { FINE, NOT_SET_UP, NOT_REFUSED, NOT_REFUSED_WAITING };

/*
 * A write past the file size limit is an errno, not the end of the process by SIGXFSZ. A direct one
 * is done by the kernel on whichever thread hands it over.
 */
static int write_past_the_limit(void *arg)
{
    const delivery *how = arg;
    static _Alignas(4096) uint8_t buf[4096];
    struct rlimit limit = {8192, 8192};
    latch done = LATCH_INIT;
    ioe_config cfg;
    ioe_context *ctx = NULL;
    int fd = temp_file(ON_DISK);
    int flags = fcntl(fd, F_GETFL);
    ioe_event *event = ioe_event_new();
    /* Where the disk has no direct I/O, the write is an ordinary one. */
    if (fcntl(fd, F_SETFL, flags | O_DIRECT) != 0 && errno != EINVAL)
        return NOT_SET_UP;
    if (ioe_config_init(&cfg, sizeof cfg) != 0)
        return NOT_SET_UP;
    cfg.workers = how->workers;
    cfg.flags = how->flags;
    if (ioe_context_new(&cfg, &ctx) != 0 || setrlimit(RLIMIT_FSIZE, &limit) != 0 ||
        ioe_event_set_callback(event, hit_latch, &done) != 0 ||
        ioe_prep_write(event, fd, buf, sizeof buf, limit.rlim_cur) != 0 ||
        ioe_submit(ctx, event) != 0 || ioe_drain(ctx, -1) != 0)
        return NOT_SET_UP;
    if (ioe_event_result(event) != -EFBIG)
        return NOT_REFUSED;
    if (ioe_prep_write(event, fd, buf, sizeof buf, limit.rlim_cur) != 0 ||
        ioe_submit_wait(ctx, event) != -EFBIG)
        return NOT_REFUSED_WAITING;
    return ioe_context_free(ctx) == 0 && ioe_event_free(event) == 0 ? FINE : NOT_SET_UP;
}

static void file_size_limit_is_an_errno(void **state)
{
    ASSERT_CALL(ioe_context_free(new_context(*state, 8, 8)), 0);
    assert_int_equal(in_child(write_past_the_limit, *state), FINE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(free_runs_every_callback),
        cmocka_unit_test(free_runs_every_callback_of_shared_workers),
        for_each_threaded_delivery(blocked_submitters_are_refused),
        for_each_delivery(callbacks_are_refused_during_free),
        cmocka_unit_test(callbacks_of_shared_workers_are_refused_during_free),
        for_each_delivery(drain_knows_its_time),
        for_each_threaded_delivery(drain_waits_for_the_return),
        for_each_threaded_delivery(drains_return_under_endless_work),
        cmocka_unit_test(polled_drain_returns_under_endless_work),
        cmocka_unit_test(ten_thousand_contexts_leave_nothing),
        for_each_delivery(engine_threads_take_no_signals),
        for_each_delivery(file_size_limit_is_an_errno),
    };
    return RUN_TESTS(tests);
}
