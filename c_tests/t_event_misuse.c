/*
 * Promise: the one rule of ownership is enforced. An event in flight cannot be freed, prepared or
 * submitted; one that has nothing to do is refused; the getters tell the truth in every state; and
 * an event goes round as often as its owner likes.
 */
#include "common.h"


#define LEN 4096

static char buffer[LEN];
static char other_buffer[LEN];

/*
 * Keeps every callback from starting: each thread that runs callbacks is caught in one that waits
 * for the gate. Polled contexts need none of it, their callbacks wait for a poll. On the heap, for
 * a failing test leaves its threads at the gate.
 */
typedef struct stopper {
    gate gate;
    unsigned count;
    ioe_event *events[4];
} stopper;

static stopper *stop_callbacks(ioe_context *ctx, const delivery *how, int fd)
{
    stopper *s = malloc(sizeof *s);
    assert_non_null(s);
    *s = (stopper){.gate = GATE_INIT};
    if (how->flags & IOE_POLLED)
        return s;
    s->count = how->workers > 0 ? how->workers : 1;
    for (unsigned i = 0; i < s->count; i++) {
        s->events[i] = new_event();
        /* Of several reactors it is the one of this descriptor's writes. */
        assert_int_equal(ioe_prep_write(s->events[i], fd, other_buffer, 1, 0), 0);
        assert_int_equal(ioe_event_set_callback(s->events[i], hold_at_gate, &s->gate), 0);
        assert_int_equal(ioe_submit(ctx, s->events[i]), 0);
        latch_wait(&s->gate.entered, i + 1);
    }
    return s;
}

static void let_callbacks_go(stopper *s, ioe_context *ctx)
{
    latch_hit(&s->gate.opened);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    for (unsigned i = 0; i < s->count; i++)
        assert_int_equal(ioe_event_free(s->events[i]), 0);
    free(s);
}

static void assert_fields(const ioe_event *e, int action, int fd, void *buf, size_t size,
                          uint64_t offset)
{
    assert_int_equal(ioe_event_action(e), action);
    assert_int_equal(ioe_event_fd(e), fd);
    assert_ptr_equal(ioe_event_buffer(e), buf);
    assert_int_equal(ioe_event_size(e), size);
    assert_int_equal(ioe_event_offset(e), offset);
}

static void assert_state(const ioe_event *e, bool done, int64_t result, uint64_t transferred)
{
    assert_int_equal(ioe_event_is_done(e), done);
    assert_int_equal(ioe_event_result(e), result);
    assert_int_equal(ioe_event_transferred(e), transferred);
}

/* ---- in flight ---- */

static void in_flight_event_is_left_alone(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    struct iovec iov = {other_buffer, 8};
    latch done = LATCH_INIT, wrong = LATCH_INIT;
    ioe_event *e = new_event();
    stopper *s = stop_callbacks(ctx, how, fd);
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 512), 0);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    const uint64_t id = ioe_event_id(e);
    ASSERT_CALL(ioe_submit(ctx, e), 0);

    ioe_event *batch[2] = {e, e};
    ASSERT_CALL(ioe_event_free(e), -EBUSY);
    ASSERT_CALL(ioe_prep_read(e, fd, other_buffer, 8, 0), -EBUSY);
    ASSERT_CALL(ioe_prep_write(e, fd, other_buffer, 8, 0), -EBUSY);
    ASSERT_CALL(ioe_prep_readv(e, fd, &iov, 1, 0), -EBUSY);
    ASSERT_CALL(ioe_prep_writev(e, fd, &iov, 1, 0), -EBUSY);
    ASSERT_CALL(ioe_prep_fsync(e, fd), -EBUSY);
    ASSERT_CALL(ioe_prep_fdatasync(e, fd), -EBUSY);
    ASSERT_CALL(ioe_prep_fallocate(e, fd, 0, 0, 8), -EBUSY);
    ASSERT_CALL(ioe_prep_sync_range(e, fd, 0, 8, SYNC_FILE_RANGE_WRITE), -EBUSY);
    ASSERT_CALL(ioe_prep_truncate(e, fd, 8), -EBUSY);
    ASSERT_CALL(ioe_prep_advise(e, fd, 0, 8, POSIX_FADV_NORMAL), -EBUSY);
    ASSERT_CALL(ioe_event_set_callback(e, hit_latch, &wrong), -EBUSY);
    ASSERT_CALL(ioe_event_set_flags(e, IOE_APPEND), -EBUSY);
    ASSERT_CALL(ioe_event_set_flags(e, 0), -EBUSY);
    ASSERT_CALL(ioe_event_set_priority(e, 2 << 13 | 7), -EBUSY);
    ASSERT_CALL(ioe_event_set_timeout(e, 1), -EBUSY);
    ASSERT_CALL(ioe_submit(ctx, e), -EBUSY);
    ASSERT_CALL(ioe_try_submit(ctx, e), -EBUSY);
    ASSERT_CALL(ioe_submit_batch(ctx, batch, 2), -EBUSY);
    ASSERT_CALL(ioe_submit_wait(ctx, e), -EBUSY);

    /* The getters may be called, and nothing above has changed what they say. */
    assert_int_equal(ioe_event_id(e), id);
    assert_fields(e, IOE_WRITE, fd, buffer, LEN, 512);
    assert_ptr_equal(ioe_event_arg(e), &done);
    assert_int_equal(latch_count(&done), 0);

    let_callbacks_go(s, ctx);
    assert_int_equal(latch_count(&done), 1);
    assert_int_equal(latch_count(&wrong), 0);
    assert_state(e, true, LEN, LEN);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* Done is not yet given back: that is for the start of the callback to do. */
static void done_event_is_left_alone_until_its_callback(void **state)
{
    const delivery *how = *state;
    if (how->workers == 0)
        skip(); /* an event that is done has its callback next, on the same thread */
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *e = new_event();
    stopper *s = stop_callbacks(ctx, how, fd);
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    ASSERT_CALL(ioe_submit(ctx, e), 0);
    while (!ioe_event_is_done(e))
        sched_yield();

    ASSERT_CALL(ioe_event_free(e), -EBUSY);
    ASSERT_CALL(ioe_prep_fsync(e, fd), -EBUSY);
    ASSERT_CALL(ioe_event_set_flags(e, IOE_DSYNC), -EBUSY);
    ASSERT_CALL(ioe_event_set_priority(e, 0), -EBUSY);
    ASSERT_CALL(ioe_event_set_timeout(e, 0), -EBUSY);
    ASSERT_CALL(ioe_submit(ctx, e), -EBUSY);
    assert_int_equal(latch_count(&done), 0);
    let_callbacks_go(s, ctx);
    assert_int_equal(latch_count(&done), 1);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void in_flight_event_is_refused_by_another_context(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    ioe_context *other = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *e = new_event();
    stopper *s = stop_callbacks(ctx, how, fd);
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    assert_int_equal(ioe_submit(ctx, e), 0);
    ASSERT_CALL(ioe_submit(other, e), -EBUSY);
    ASSERT_CALL(ioe_try_submit(other, e), -EBUSY);
    ASSERT_CALL(ioe_submit_wait(other, e), -EBUSY);
    assert_int_equal(ioe_drain(other, -1), 0);
    let_callbacks_go(s, ctx);
    assert_int_equal(latch_count(&done), 1);
    /* Done in one context, an event is free to go to the other. */
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(run_event(other, how, e), LEN);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(other), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void batch_stops_at_an_event_given_twice(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *e = new_event();
    ioe_event *batch[2] = {e, e};
    stopper *s = stop_callbacks(ctx, how, fd);
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    ASSERT_CALL(ioe_submit_batch(ctx, batch, 2), 1);
    let_callbacks_go(s, ctx);
    assert_int_equal(latch_count(&done), 1);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- nothing to do ---- */

static void assert_every_submit_refuses(ioe_context *ctx, ioe_event *e, int expected)
{
    ioe_event *batch[1] = {e};
    ASSERT_CALL(ioe_submit(ctx, e), expected);
    ASSERT_CALL(ioe_try_submit(ctx, e), expected);
    ASSERT_CALL(ioe_submit_batch(ctx, batch, 1), expected);
}

static void never_prepared_is_refused(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    latch done = LATCH_INIT;
    ioe_event *e = new_event();
    assert_every_submit_refuses(ctx, e, -EINVAL);
    ASSERT_CALL(ioe_submit_wait(ctx, e), -EINVAL);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    assert_every_submit_refuses(ctx, e, -EINVAL);
    ASSERT_CALL(ioe_submit_wait(ctx, e), -EINVAL);
    assert_state(e, false, IOE_PENDING, 0);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&done), 0);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void no_callback_is_refused(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    int mark = 0;
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_every_submit_refuses(ctx, e, -EINVAL);
    /* None is not one, and the argument is not taken either. */
    ASSERT_CALL(ioe_event_set_callback(e, NULL, &mark), -EINVAL);
    assert_null(ioe_event_arg(e));
    assert_every_submit_refuses(ctx, e, -EINVAL);
    assert_state(e, false, IOE_PENDING, 0);
    /* Who waits for the result needs none. */
    ASSERT_CALL(ioe_submit_wait(ctx, e), LEN);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void whole_event_is_refused_again(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *e = new_event();
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    for (int action = IOE_READ; action <= IOE_ADVISE; action++) {
        int64_t result = 0;
        if (action == IOE_WRITE)
            assert_int_equal(ioe_prep_write(e, fd, buffer, result = LEN, 0), 0);
        else if (action == IOE_READ)
            assert_int_equal(ioe_prep_read(e, fd, other_buffer, 0, 0), 0);
        else if (action == IOE_FSYNC)
            assert_int_equal(ioe_prep_fsync(e, fd), 0);
        else if (action == IOE_FDATASYNC)
            assert_int_equal(ioe_prep_fdatasync(e, fd), 0);
        else if (action == IOE_FALLOCATE)
            assert_int_equal(ioe_prep_fallocate(e, fd, 0, 0, LEN), 0);
        else if (action == IOE_SYNC_RANGE)
            assert_int_equal(ioe_prep_sync_range(e, fd, 0, LEN, SYNC_FILE_RANGE_WRITE), 0);
        else if (action == IOE_TRUNCATE)
            assert_int_equal(ioe_prep_truncate(e, fd, LEN), 0);
        else
            assert_int_equal(ioe_prep_advise(e, fd, 0, LEN, POSIX_FADV_RANDOM), 0);
        assert_int_equal(ioe_event_action(e), action);
        assert_int_equal(ioe_submit(ctx, e), 0);
        await(ctx, how, &done, (unsigned long)action);
        assert_state(e, true, result, (uint64_t)result);

        assert_every_submit_refuses(ctx, e, -EINVAL);
        ASSERT_CALL(ioe_submit_wait(ctx, e), -EINVAL);
        assert_state(e, true, result, (uint64_t)result);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        assert_int_equal(latch_count(&done), (unsigned long)action);
    }
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void whole_event_of_submit_wait_is_refused_again(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    ASSERT_CALL(ioe_submit_wait(ctx, e), LEN);
    assert_state(e, true, LEN, LEN);
    ASSERT_CALL(ioe_submit_wait(ctx, e), -EINVAL);
    assert_every_submit_refuses(ctx, e, -EINVAL);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&done), 0);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- getters ---- */

static void getters_before_submission(void **state)
{
    (void)state;
    struct iovec iov[3] = {{buffer + 1, 10}, {buffer + 100, 20}, {other_buffer, 30}};
    int mark = 0;
    ioe_event *e = new_event();
    assert_state(e, false, IOE_PENDING, 0);
    assert_fields(e, IOE_NONE, -1, NULL, 0, 0);
    assert_null(ioe_event_arg(e));
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &mark), 0);
    assert_ptr_equal(ioe_event_arg(e), &mark);

    assert_int_equal(ioe_prep_read(e, 5, buffer, 100, 7), 0);
    assert_fields(e, IOE_READ, 5, buffer, 100, 7);
    assert_int_equal(ioe_prep_write(e, 6, other_buffer, 101, 8), 0);
    assert_fields(e, IOE_WRITE, 6, other_buffer, 101, 8);
    assert_int_equal(ioe_prep_readv(e, 7, iov, 3, 9), 0);
    assert_fields(e, IOE_READ, 7, buffer + 1, 60, 9);
    assert_int_equal(ioe_prep_writev(e, 8, iov + 1, 2, INT64_MAX - 50), 0);
    assert_fields(e, IOE_WRITE, 8, buffer + 100, 50, INT64_MAX - 50);
    assert_int_equal(ioe_prep_fallocate(e, 9, 0, 10, UINT64_C(1) << 40), 0);
    assert_fields(e, IOE_FALLOCATE, 9, NULL, (size_t)1 << 40, 10);
    assert_int_equal(ioe_prep_sync_range(e, 12, 11, UINT64_C(1) << 41, 7), 0);
    assert_fields(e, IOE_SYNC_RANGE, 12, NULL, (size_t)1 << 41, 11);
    assert_int_equal(ioe_prep_truncate(e, 13, UINT64_C(1) << 42), 0);
    assert_fields(e, IOE_TRUNCATE, 13, NULL, (size_t)1 << 42, 0);
    assert_int_equal(ioe_prep_advise(e, 14, 12, UINT64_C(1) << 43, POSIX_FADV_DONTNEED), 0);
    assert_fields(e, IOE_ADVISE, 14, NULL, (size_t)1 << 43, 12);
    assert_int_equal(ioe_prep_fsync(e, 10), 0);
    assert_fields(e, IOE_FSYNC, 10, NULL, 0, 0);
    assert_int_equal(ioe_prep_fdatasync(e, 11), 0);
    assert_fields(e, IOE_FDATASYNC, 11, NULL, 0, 0);

    assert_state(e, false, IOE_PENDING, 0);
    assert_ptr_equal(ioe_event_arg(e), &mark);
    assert_int_equal(ioe_event_free(e), 0);
}

/* What the getters said inside the callback, to be judged by the main thread. */
typedef struct seen {
    latch done;
    ioe_event *event;
    bool is_done;
    int64_t result;
    uint64_t transferred;
    uint64_t offset;
    size_t size;
    void *arg;
    int prep;
} seen;

static void look(ioe_event *event, void *arg)
{
    seen *s = arg;
    s->event = event;
    s->is_done = ioe_event_is_done(event);
    s->result = ioe_event_result(event);
    s->transferred = ioe_event_transferred(event);
    s->offset = ioe_event_offset(event);
    s->size = ioe_event_size(event);
    s->arg = ioe_event_arg(event);
    /* The event is its owner's again, so this is allowed. */
    s->prep = ioe_prep_read(event, ioe_event_fd(event), buffer, LEN, 0);
    latch_hit(&s->done);
}

static void getters_in_and_after_the_callback(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    seen s = {.done = LATCH_INIT};
    ioe_event *e = new_event();
    assert_int_equal(ftruncate(fd, 1000), 0);
    assert_int_equal(ioe_prep_read(e, fd, buffer, LEN, 900), 0);
    assert_int_equal(ioe_event_set_callback(e, look, &s), 0);
    assert_int_equal(ioe_submit(ctx, e), 0);
    await(ctx, how, &s.done, 1);
    assert_ptr_equal(s.event, e);
    assert_ptr_equal(s.arg, &s);
    assert_true(s.is_done);
    assert_int_equal(s.result, 100);
    assert_int_equal(s.transferred, 100);
    assert_int_equal(s.offset, 900);
    assert_int_equal(s.size, LEN);
    assert_int_equal(s.prep, 0);
    /* Prepared anew it is as good as new. */
    assert_state(e, false, IOE_PENDING, 0);
    assert_fields(e, IOE_READ, fd, buffer, LEN, 0);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void getters_of_a_failed_event(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_read(e, -1, buffer, LEN, 8192), 0);
    assert_int_equal(run_event(ctx, how, e), -EBADF);
    assert_state(e, true, -EBADF, 0);
    assert_fields(e, IOE_READ, -1, buffer, LEN, 8192);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* ---- life goes on ---- */

static void callback_survives_completion_and_preparation(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT, second = LATCH_INIT;
    ioe_event *e = new_event();
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
    for (unsigned long round = 1; round <= 10; round++) {
        assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, round * LEN), 0);
        assert_int_equal(ioe_submit(ctx, e), 0);
        await(ctx, how, &done, round);
        assert_int_equal(ioe_event_result(e), LEN);
        assert_ptr_equal(ioe_event_arg(e), &done);
    }
    /* NULL takes nothing away, and a new one takes the place of the old one. */
    ASSERT_CALL(ioe_event_set_callback(e, NULL, NULL), -EINVAL);
    assert_ptr_equal(ioe_event_arg(e), &done);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &second), 0);
    assert_int_equal(ioe_prep_fsync(e, fd), 0);
    assert_int_equal(ioe_submit(ctx, e), 0);
    await(ctx, how, &second, 1);
    assert_int_equal(latch_count(&done), 10);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void free_in_callback(ioe_event *event, void *arg)
{
    seen *s = arg;
    s->result = ioe_event_free(event);
    latch_hit(&s->done);
}

static void event_is_freed_in_its_callback(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    for (int i = 0; i < 50; i++) {
        seen s = {.done = LATCH_INIT, .result = 1};
        ioe_event *e = new_event();
        assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
        assert_int_equal(ioe_event_set_callback(e, free_in_callback, &s), 0);
        assert_int_equal(ioe_submit(ctx, e), 0);
        await(ctx, how, &s.done, 1);
        assert_int_equal(s.result, 0);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

typedef struct rounds {
    latch finished;
    ioe_context *ctx;
    int left;
    int failures;
} rounds;

static void go_round(ioe_event *event, void *arg)
{
    rounds *r = arg;
    if (ioe_event_result(event) != LEN)
        r->failures++;
    if (r->left-- > 0 && ioe_prep_write(event, ioe_event_fd(event), buffer, LEN, 0) == 0 &&
        ioe_submit(r->ctx, event) == 0)
        return;
    latch_hit(&r->finished);
}

static void event_is_submitted_again_in_its_callback(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    rounds r = {.finished = LATCH_INIT, .ctx = ctx, .left = 200};
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(ioe_event_set_callback(e, go_round, &r), 0);
    assert_int_equal(ioe_submit(ctx, e), 0);
    await(ctx, how, &r.finished, 1);
    assert_int_equal(r.left, -1);
    assert_int_equal(r.failures, 0);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void event_outlives_its_context(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(run_event(ctx, how, e), LEN);
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_state(e, true, LEN, LEN);
    assert_int_equal(ioe_event_free(e), 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(in_flight_event_is_left_alone),
        for_each_threaded_delivery(done_event_is_left_alone_until_its_callback),
        for_each_delivery(in_flight_event_is_refused_by_another_context),
        for_each_delivery(batch_stops_at_an_event_given_twice),
        for_each_delivery(never_prepared_is_refused),
        for_each_delivery(no_callback_is_refused),
        for_each_delivery(whole_event_is_refused_again),
        for_each_delivery(whole_event_of_submit_wait_is_refused_again),
        cmocka_unit_test(getters_before_submission),
        for_each_delivery(getters_in_and_after_the_callback),
        for_each_delivery(getters_of_a_failed_event),
        for_each_delivery(callback_survives_completion_and_preparation),
        for_each_delivery(event_is_freed_in_its_callback),
        for_each_delivery(event_is_submitted_again_in_its_callback),
        for_each_delivery(event_outlives_its_context),
    };
    return RUN_TESTS(tests);
}
