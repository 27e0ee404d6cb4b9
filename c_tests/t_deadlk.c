/*
 * Promise: a callback that asks its own context to wait for callbacks is answered -EDEADLK and
 * nothing is done, also where the thread it would wait for is one that several contexts share.
 * Callback threads that a context uses cannot be freed. Contexts that have nothing in common may
 * be waited for.
 */
#include "common.h"

typedef struct attempt {
    ioe_context *ctx;
    ioe_workers *workers;
    ioe_event *event; /* prepared, for ioe_submit_wait */
    int fd;
    int drain[3];
    int freed;
    int poll[2];
    int workers_freed;
    int64_t waited;
    int batch;
    int64_t left;
    latch done;
} attempt;

static attempt *new_attempt(int fd)
{
    attempt *a = calloc(1, sizeof *a);
    assert_non_null(a);
    a->done = (latch)LATCH_INIT;
    a->fd = fd;
    a->event = ioe_event_new();
    assert_non_null(a->event);
    assert_int_equal(ioe_prep_fsync(a->event, fd), 0);
    return a;
}

static void try_everything(ioe_event *event, void *arg)
{
    attempt *a = arg;
    (void)event;
    a->drain[0] = ioe_drain(a->ctx, -1);
    a->drain[1] = ioe_drain(a->ctx, 0);
    a->drain[2] = ioe_drain(a->ctx, 10);
    a->waited = ioe_submit_wait(a->ctx, a->event);
    a->batch = ioe_submit_wait_batch(a->ctx, (ioe_event *[]){a->event, a->event}, 2);
    a->left = ioe_event_result(a->event);
    a->poll[0] = ioe_poll(a->ctx, 0, 0);
    a->poll[1] = ioe_poll(a->ctx, 1, -1);
    a->freed = ioe_context_free(a->ctx);
    if (a->workers != NULL)
        a->workers_freed = ioe_workers_free(a->workers);
    latch_hit(&a->done);
}

static void assert_deadlocks(const attempt *a)
{
    for (size_t i = 0; i < COUNT_OF(a->drain); i++)
        assert_int_equal(a->drain[i], -EDEADLK);
    for (size_t i = 0; i < COUNT_OF(a->poll); i++)
        assert_int_equal(a->poll[i], -EDEADLK);
    assert_int_equal(a->waited, -EDEADLK);
    assert_int_equal(a->batch, -EDEADLK);
    assert_int_equal(a->freed, -EDEADLK);
    assert_int_equal(a->left, IOE_PENDING);
}

static void run_attempt(ioe_context *ctx, const delivery *how, attempt *a)
{
    ioe_event *event = ioe_event_new();
    assert_int_equal(ioe_prep_fsync(event, a->fd), 0);
    assert_int_equal(ioe_event_set_callback(event, try_everything, a), 0);
    ASSERT_CALL(ioe_submit(ctx, event), 0);
    await(ctx, how, &a->done, 1);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(ioe_event_free(event), 0);
}

/* Nothing was done: the context works, and the event that could not wait can be waited for. */
static void assert_unharmed(ioe_context *ctx, attempt *a)
{
    ASSERT_CALL(ioe_submit_wait(ctx, a->event), 0);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(ioe_event_free(a->event), 0);
    free(a);
}

static void callback_of_the_same_context(void **state)
{
    const delivery *how = *state;
    int fd = temp_file(IN_MEMORY);
    ioe_context *ctx = new_context(how, 8, 8);
    attempt *a = new_attempt(fd);
    a->ctx = ctx;
    run_attempt(ctx, how, a);
    assert_deadlocks(a);
    assert_unharmed(ctx, a);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* Polled, callbacks also run inside drain, submit_wait and free, which are no way round it. */
static void callback_inside_each_call_that_polls(void **state)
{
    enum { IN_POLL, IN_DRAIN, IN_WAIT, IN_FREE, CALLS };
    int fd = temp_file(IN_MEMORY);
    (void)state;
    for (int call = 0; call < CALLS; call++) {
        ioe_context *ctx = new_context(&deliveries[0], 8, 8);
        attempt *a = new_attempt(fd);
        ioe_event *event = ioe_event_new();
        ioe_event *waited = ioe_event_new();
        a->ctx = ctx;
        assert_int_equal(ioe_prep_fsync(event, fd), 0);
        assert_int_equal(ioe_event_set_callback(event, try_everything, a), 0);
        assert_int_equal(ioe_prep_fsync(waited, fd), 0);
        ASSERT_CALL(ioe_submit(ctx, event), 0);
        if (call == IN_WAIT)
            ASSERT_CALL(ioe_submit_wait(ctx, waited), 0);
        if (call == IN_POLL || call == IN_WAIT)
            while (latch_count(&a->done) == 0)
                assert_true(ioe_poll(ctx, 1, -1) >= 0);
        if (call == IN_DRAIN)
            ASSERT_CALL(ioe_drain(ctx, -1), 0);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        assert_int_equal(latch_count(&a->done), 1);
        assert_deadlocks(a);
        assert_int_equal(ioe_event_free(a->event), 0);
        assert_int_equal(ioe_event_free(event), 0);
        assert_int_equal(ioe_event_free(waited), 0);
        free(a);
    }
    close(fd);
}

/* ---- callback threads shared by two contexts ---- */

static void callback_of_shared_workers(void **state)
{
    int fd = temp_file(IN_MEMORY);
    (void)state;
    for (uint32_t threads = 1; threads <= 4; threads += 3) {
        ioe_workers *workers = NULL;
        ASSERT_CALL(ioe_workers_new(threads, &workers), 0);
        ioe_context *ours = new_shared_context(workers, 8, 8);
        ioe_context *sibling = new_shared_context(workers, 8, 8);

        attempt *own = new_attempt(fd);
        own->ctx = ours;
        own->workers = workers;
        run_attempt(ours, &deliveries[2], own);
        assert_deadlocks(own);
        assert_int_equal(own->workers_freed, -EBUSY);
        assert_unharmed(ours, own);

        attempt *across = new_attempt(fd);
        across->ctx = sibling;
        across->workers = workers;
        run_attempt(ours, &deliveries[2], across);
        for (size_t i = 0; i < COUNT_OF(across->drain); i++)
            assert_int_equal(across->drain[i], -EDEADLK);
        assert_int_equal(across->freed, -EDEADLK);
        assert_int_equal(across->workers_freed, -EBUSY);
        /* The transfer runs on the thread that waits, so waiting for it is no circle. */
        if (across->waited == 0)
            assert_int_equal(ioe_prep_fsync(across->event, fd), 0);
        else
            assert_int_equal(across->waited, -EDEADLK);
        assert_unharmed(sibling, across);

        ASSERT_CALL(ioe_workers_free(workers), -EBUSY);
        ASSERT_CALL(ioe_context_free(ours), 0);
        ASSERT_CALL(ioe_workers_free(workers), -EBUSY);
        ASSERT_CALL(ioe_context_free(sibling), 0);
        ASSERT_CALL(ioe_workers_free(workers), 0);
    }
    close(fd);
}

/* ---- another context, with nothing in common ---- */

typedef struct errand {
    ioe_context *other;
    ioe_event *waited;
    ioe_event *submitted;
    int64_t answers[4];
    latch other_done;
    latch done;
} errand;

static void use_the_other(ioe_event *event, void *arg)
{
    errand *e = arg;
    (void)event;
    e->answers[0] = ioe_submit(e->other, e->submitted);
    e->answers[1] = ioe_submit_wait(e->other, e->waited);
    e->answers[2] = ioe_drain(e->other, -1);
    e->answers[3] = ioe_context_free(e->other);
    latch_hit(&e->done);
}

static void another_context_may_be_waited_for(void **state)
{
    const delivery *how = *state;
    int fd = temp_file(IN_MEMORY);
    for (size_t other = 0; other < COUNT_OF(deliveries); other++) {
        ioe_context *ctx = new_context(how, 8, 8);
        errand *e = calloc(1, sizeof *e);
        ioe_event *event = ioe_event_new();
        assert_non_null(e);
        e->other = new_context(&deliveries[other], 8, 8);
        e->other_done = (latch)LATCH_INIT;
        e->done = (latch)LATCH_INIT;
        e->waited = ioe_event_new();
        e->submitted = ioe_event_new();
        assert_int_equal(ioe_prep_fsync(e->waited, fd), 0);
        assert_int_equal(ioe_prep_fsync(e->submitted, fd), 0);
        assert_int_equal(ioe_event_set_callback(e->submitted, hit_latch, &e->other_done), 0);
        assert_int_equal(ioe_prep_fsync(event, fd), 0);
        assert_int_equal(ioe_event_set_callback(event, use_the_other, e), 0);
        ASSERT_CALL(ioe_submit(ctx, event), 0);
        await(ctx, how, &e->done, 1);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        for (size_t i = 0; i < COUNT_OF(e->answers); i++)
            assert_int_equal(e->answers[i], 0);
        assert_int_equal(latch_count(&e->other_done), 1);
        assert_int_equal(ioe_event_free(e->waited), 0);
        assert_int_equal(ioe_event_free(e->submitted), 0);
        assert_int_equal(ioe_event_free(event), 0);
        free(e);
    }
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(callback_of_the_same_context),
        cmocka_unit_test(callback_inside_each_call_that_polls),
        cmocka_unit_test(callback_of_shared_workers),
        for_each_delivery(another_context_may_be_waited_for),
    };
    return RUN_TESTS(tests);
}
