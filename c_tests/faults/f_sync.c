/*
 * Promise: of the syncs that wait while one runs, one call of the kernel is made for all, and an error of
 * that call is told to each, once: none of them hides it by asking again, which would be answered with
 * success, as the kernel forgets. The next sync is a call of its own.
 *
 * See held.h.
 */
#include "held.h"

enum { PAGE = 4096, SYNCS = 32, DEPTH = 64 };

typedef struct waiters {
    ioe_context *ctx;
    ioe_event *first, *each[SYNCS], *writes[SYNCS];
    pthread_t threads[SYNCS];
    pid_t tids[SYNCS];
    unsigned begun;
    unsigned calls;
    latch first_done, done, written;
} waiters;

static void on_sync(ioe_event *event, void *arg)
{
    waiters *all = arg;
    (void)event;
    __atomic_fetch_add(&all->calls, 1, __ATOMIC_SEQ_CST);
    latch_hit(&all->done);
}

static void *wait_for_sync(void *arg)
{
    waiters *all = arg;
    unsigned me = __atomic_fetch_add(&all->begun, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&all->tids[me], gettid(), __ATOMIC_SEQ_CST);
    ioe_submit_wait(all->ctx, all->each[me]);
    return NULL;
}

/* Accepted, and asleep. */
static void await_waiting(waiters *all, size_t count, uint64_t accepted)
{
    task t;
    while (get_stats(all->ctx).accepted < accepted + count)
        sched_yield();
    for (size_t i = 0; i < count; i++)
        while (!read_task(__atomic_load_n(&all->tids[i], __ATOMIC_SEQ_CST), &t) || t.run_state != 'S')
            sched_yield();
}

static ioe_event *new_sync(int fd, size_t number)
{
    ioe_event *event = new_event();
    assert_int_equal(number % 3 == 2 ? ioe_prep_fsync(event, fd) : ioe_prep_fdatasync(event, fd), 0);
    return event;
}

static ioe_context *new_grouping_context(const way *w, uint32_t flags)
{
    ioe_config cfg;
    ioe_context *ctx = NULL;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.driver = w->driver;
    cfg.depth = DEPTH;
    cfg.workers = w->how->workers;
    cfg.flags = w->how->flags | flags;
    assert_int_equal(ioe_context_new(&cfg, &ctx), 0);
    return ctx;
}

/* Many syncs wait while the device holds the first one, which succeeds; the first of them in ioe_submit_wait.
 * Before they go on, either the next flush is made to fail, or all of what has been written meanwhile is
 * lost. The value is how many were told of the error. */
static size_t count_told(const way *w, int flags, uint32_t context_flags, bool lost, size_t callers)
{
    uint8_t *page = ioe_buffer_alloc(PAGE, 0);
    waiters *all = calloc(1, sizeof *all);
    size_t told = 0;
    assert_true(page != NULL && all != NULL);
    *all = (waiters){.first_done = LATCH_INIT, .done = LATCH_INIT, .written = LATCH_INIT};
    hold_nothing();
    int fd = open_held_device(flags);
    ioe_context *ctx = all->ctx = new_grouping_context(w, context_flags);
    uint64_t since = log_time(held_log());
    tell_held(HOLD_FLUSH, true);
    all->first = new_sync(fd, 0);
    assert_int_equal(ioe_event_set_callback(all->first, hit_latch, &all->first_done), 0);
    assert_int_equal(ioe_submit(ctx, all->first), 0);
    await_held(ctx, w, since, "F", 1);
    tell_held(lost ? BAD : BAD_FLUSH, true);
    for (size_t i = 0; i < SYNCS && lost; i++) {
        all->writes[i] = new_event();
        assert_int_equal(ioe_prep_write(all->writes[i], fd, page, PAGE, held_at() + i * PAGE), 0);
        assert_int_equal(ioe_event_set_callback(all->writes[i], hit_latch, &all->written), 0);
        assert_int_equal(ioe_submit(ctx, all->writes[i]), 0);
    }
    await(ctx, w->how, &all->written, lost ? SYNCS : 0);
    uint64_t accepted = get_stats(ctx).accepted;
    for (size_t i = 0; i < SYNCS; i++) {
        all->each[i] = new_sync(fd, i);
        assert_int_equal(ioe_event_set_callback(all->each[i], on_sync, all), 0);
    }
    for (size_t i = 0; i < callers; i++)
        all->threads[i] = start_thread(wait_for_sync, all);
    await_waiting(all, callers, accepted);
    for (size_t i = callers; i < SYNCS; i++)
        assert_int_equal(ioe_submit(ctx, all->each[i]), 0);
    if (!(context_flags & IOE_NO_SYNC_GROUP)) {
        assert_int_equal(latch_count(&all->first_done), 0);
        assert_int_equal(latch_count(&all->done), 0);
    }

    tell_held(HOLD_FLUSH, false);
    await(ctx, w->how, &all->first_done, 1);
    await(ctx, w->how, &all->done, SYNCS - callers);
    for (size_t i = 0; i < callers; i++)
        join_thread(all->threads[i]);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(all->calls, SYNCS - callers);
    assert_int_equal(latch_count(&all->first_done), 1);
    assert_int_equal(ioe_event_result(all->first), 0);
    for (size_t i = 0; i < SYNCS; i++) {
        int64_t result = ioe_event_result(all->each[i]);
        assert_true(result == 0 || result == -EIO);
        told += result == -EIO;
        if (lost)
            assert_int_equal(ioe_event_result(all->writes[i]), PAGE);
    }
    if (!(context_flags & IOE_NO_SYNC_GROUP)) {
        assert_int_equal(get_stats(ctx).operations, lost ? SYNCS + 2 : 2);
        assert_int_equal(get_stats(ctx).syncs_joined, SYNCS - 1);
        /* Where data was lost the kernel does not come to its flush. */
        assert_int_equal(count_held(since, "F"), lost ? 1 : 2);
    }
    hold_nothing();

    /* The next one asks the kernel, also where it is one that has failed. */
    for (size_t i = 0; i < 2; i++) {
        ioe_event *next = i == 0 ? all->first : all->each[SYNCS - 1];
        if (i == 0 || ioe_event_result(next) == 0)
            assert_int_equal(ioe_prep_fsync(next, fd), 0);
        since = log_time(held_log());
        assert_int_equal(run_event(ctx, w->how, next), 0);
        assert_int_equal(count_held(since, "F"), 1);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(all->first), 0);
    for (size_t i = 0; i < SYNCS; i++) {
        assert_int_equal(ioe_event_free(all->each[i]), 0);
        if (lost)
            assert_int_equal(ioe_event_free(all->writes[i]), 0);
    }
    close(fd);
    ioe_buffer_free(page);
    free(all);
    return told;
}

static void failed_flush_is_told_to_all(void **state)
{
    assert_int_equal(count_told(*state, O_DIRECT, 0, false, 0), SYNCS);
    assert_int_equal(count_told(*state, 0, 0, false, 0), SYNCS);
}

static void lost_data_is_told_to_all(void **state)
{
    assert_int_equal(count_told(*state, 0, 0, true, 0), SYNCS);
    /* The kernel tells a descriptor once: of many calls, one hears of it. */
    assert_in_range(count_told(*state, 0, IOE_NO_SYNC_GROUP, true, 0), 1, SYNCS - 1);
}

/* All of them in ioe_submit_wait, and half of them. A polled context has no other callers than one. */
static void callers_are_told(void **state)
{
    const way *w = *state;
    if (w->how->flags & IOE_POLLED)
        return;
    for (int lost = 0; lost < 2; lost++)
        for (size_t callers = SYNCS / 2; callers <= SYNCS; callers += SYNCS / 2)
            assert_int_equal(count_told(w, 0, 0, lost, callers), SYNCS);
}

/* What the running call loses may be the page of somebody who waits behind it: it was written before that one
 * asked for its sync, and the kernel tells nobody but the call that runs. */
static void who_waits_behind_hears_of_it(void **state)
{
    const way *w = *state;
    uint8_t *page = ioe_buffer_alloc(PAGE, 0);
    waiters *all = calloc(1, sizeof *all);
    assert_true(page != NULL && all != NULL);
    *all = (waiters){.first_done = LATCH_INIT, .done = LATCH_INIT};
    hold_nothing();
    int fd = open_held_device(0);
    ioe_context *ctx = new_grouping_context(w, 0);
    uint64_t since = log_time(held_log());
    assert_int_equal(pwrite(fd, page, PAGE, (off_t)held_at()), PAGE);
    tell_held(BAD, true);
    tell_held(HOLD, true);
    all->first = new_sync(fd, 0);
    assert_int_equal(ioe_event_set_callback(all->first, hit_latch, &all->first_done), 0);
    assert_int_equal(ioe_submit(ctx, all->first), 0);
    await_held(ctx, w, since, "W", 1);
    for (size_t i = 0; i < SYNCS; i++) {
        all->each[i] = new_sync(fd, i);
        assert_int_equal(ioe_event_set_callback(all->each[i], on_sync, all), 0);
        assert_int_equal(ioe_submit(ctx, all->each[i]), 0);
    }
    hold_nothing();
    await(ctx, w->how, &all->first_done, 1);
    await(ctx, w->how, &all->done, SYNCS);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(all->calls, SYNCS);
    assert_int_equal(ioe_event_result(all->first), -EIO);
    for (size_t i = 0; i < SYNCS; i++)
        assert_int_equal(ioe_event_result(all->each[i]), -EIO);
    assert_int_equal(ioe_prep_fsync(all->first, fd), 0);
    assert_int_equal(run_event(ctx, w->how, all->first), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(all->first), 0);
    for (size_t i = 0; i < SYNCS; i++)
        assert_int_equal(ioe_event_free(all->each[i]), 0);
    close(fd);
    ioe_buffer_free(page);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(failed_flush_is_told_to_all),
        for_each_way(lost_data_is_told_to_all),
        for_each_way(callers_are_told),
        for_each_way(who_waits_behind_hears_of_it),
    };
    return RUN_TESTS(tests);
}
