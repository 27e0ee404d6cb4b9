/*
 * Promise: NULL and out-of-range arguments are answered with -EINVAL (getters: their stated
 * value), never with a crash; a failing call writes nothing to its out parameter, leaves errno
 * alone, leaves the event as it was, and runs no callback.
 */
#include <limits.h>

#include "common.h"

#define BEYOND ((uint64_t)INT64_MAX + 1)

/* What an out parameter holds before a call that must not write it. */
#define UNTOUCHED(type) ((type *)(uintptr_t)0x5AA5)

static char buffer[8192];

/* ---- library ---- */

static void library_calls_take_anything(void **state)
{
    (void)state;
    static const int numbers[] = {INT_MIN, -1, 4, INT_MAX};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        errno = ERRNO_MARK;
        assert_non_null(ioe_strerror(numbers[i]));
        assert_non_null(ioe_driver_name(numbers[i]));
        ioe_set_log(NULL, NULL, numbers[i]);
        assert_int_equal(errno, ERRNO_MARK);
        ASSERT_CALL(ioe_probe(numbers[i]), -EINVAL);
    }
}

/* ---- context ---- */

static void refused_config(const ioe_config *cfg, int expected)
{
    ioe_context *out = UNTOUCHED(ioe_context);
    ASSERT_CALL(ioe_context_new(cfg, &out), expected);
    assert_ptr_equal(out, UNTOUCHED(ioe_context));
}

static ioe_config defaults(void)
{
    ioe_config cfg;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    return cfg;
}

static void config_of_null_is_refused(void **state)
{
    (void)state;
    ioe_config cfg = defaults();
    ASSERT_CALL(ioe_config_init(NULL, sizeof cfg), -EINVAL);
    ASSERT_CALL(ioe_context_new(&cfg, NULL), -EINVAL);
    ASSERT_CALL(ioe_context_new(NULL, NULL), -EINVAL);
}

static void config_numbers_have_bounds(void **state)
{
    (void)state;
    static const int32_t drivers[] = {INT32_MIN, -1, 4, 100, INT32_MAX};
    static const uint32_t depths[] = {0, 32769, UINT32_MAX / 2, UINT32_MAX};
    static const uint32_t queue_sizes[] = {0, 1048577, UINT32_MAX / 2, UINT32_MAX};
    static const uint32_t workers[] = {257, 65536, UINT32_MAX / 2, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(drivers); i++) {
        ioe_config cfg = defaults();
        cfg.driver = drivers[i];
        refused_config(&cfg, -EINVAL);
    }
    for (size_t i = 0; i < COUNT_OF(depths); i++) {
        ioe_config cfg = defaults();
        cfg.depth = depths[i];
        refused_config(&cfg, -EINVAL);
    }
    for (size_t i = 0; i < COUNT_OF(queue_sizes); i++) {
        ioe_config cfg = defaults();
        cfg.queue_size = queue_sizes[i];
        refused_config(&cfg, -EINVAL);
    }
    for (size_t i = 0; i < COUNT_OF(workers); i++) {
        ioe_config cfg = defaults();
        cfg.workers = workers[i];
        refused_config(&cfg, -EINVAL);
    }
}

static void config_flags_must_be_known(void **state)
{
    (void)state;
    for (unsigned bit = 4; bit < 32; bit++) {
        ioe_config cfg = defaults();
        cfg.flags = UINT32_C(1) << bit;
        refused_config(&cfg, -EINVAL);
        cfg.flags |= IOE_POLLED;
        refused_config(&cfg, -EINVAL);
    }
    ioe_config cfg = defaults();
    cfg.flags = UINT32_MAX;
    refused_config(&cfg, -EINVAL);
}

static void config_bounds_reactors(void **state)
{
    (void)state;
    static const uint32_t values[] = {65, 1024, UINT32_C(1) << 31, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        ioe_config cfg = defaults();
        cfg.reactors = values[i];
        refused_config(&cfg, -EINVAL);
    }
}

static void config_of_polled_has_one_reactor(void **state)
{
    (void)state;
    static const uint32_t values[] = {2, 64, 65};
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        ioe_config cfg = defaults();
        cfg.flags = IOE_POLLED;
        cfg.reactors = values[i];
        refused_config(&cfg, -EINVAL);
    }
}

static void config_of_iopoll_needs_polled(void **state)
{
    (void)state;
    ioe_config cfg = defaults();
    cfg.flags = IOE_IOPOLL;
    refused_config(&cfg, -EINVAL);
    cfg.flags = IOE_IOPOLL | IOE_SQPOLL;
    refused_config(&cfg, -EINVAL);
}

static void config_of_polled_excludes_shared_workers(void **state)
{
    (void)state;
    ioe_config cfg = defaults();
    ioe_workers *workers = NULL;
    assert_int_equal(ioe_workers_new(1, &workers), 0);
    cfg.flags = IOE_POLLED;
    cfg.shared = workers;
    refused_config(&cfg, -EINVAL);
    assert_int_equal(ioe_workers_free(workers), 0);
}

static void config_of_a_rings_flags_needs_a_ring(void **state)
{
    (void)state;
    static const int32_t drivers[] = {IOE_DRIVER_AIO, IOE_DRIVER_POOL};
    static const uint32_t flags[] = {IOE_SQPOLL, IOE_POLLED | IOE_SQPOLL, IOE_POLLED | IOE_IOPOLL,
                                     IOE_POLLED | IOE_SQPOLL | IOE_IOPOLL};
    for (size_t i = 0; i < COUNT_OF(drivers); i++)
        for (size_t j = 0; j < COUNT_OF(flags); j++) {
            ioe_config cfg = defaults();
            cfg.driver = drivers[i];
            cfg.flags = flags[j];
            refused_config(&cfg, -EINVAL);
        }
}

static void workers_have_bounds(void **state)
{
    (void)state;
    static const uint32_t counts[] = {0, 257, UINT32_MAX / 2, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        ioe_workers *out = UNTOUCHED(ioe_workers);
        ASSERT_CALL(ioe_workers_new(counts[i], &out), -EINVAL);
        assert_ptr_equal(out, UNTOUCHED(ioe_workers));
    }
    ASSERT_CALL(ioe_workers_new(1, NULL), -EINVAL);
    ASSERT_CALL(ioe_workers_free(NULL), -EINVAL);
}

static void context_of_null_is_refused(void **state)
{
    (void)state;
    ioe_info info;
    ioe_stats stats;
    memset(&info, 0x5A, sizeof info);
    memset(&stats, 0x5A, sizeof stats);
    ioe_info info_before = info;
    ioe_stats stats_before = stats;
    ASSERT_CALL(ioe_context_info(NULL, &info, sizeof info), -EINVAL);
    ASSERT_CALL(ioe_context_stats(NULL, &stats, sizeof stats), -EINVAL);
    assert_memory_equal(&info, &info_before, sizeof info);
    assert_memory_equal(&stats, &stats_before, sizeof stats);
    ASSERT_CALL(ioe_drain(NULL, -1), -EINVAL);
    ASSERT_CALL(ioe_drain(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_context_free(NULL), -EINVAL);
    ASSERT_CALL(ioe_poll(NULL, 0, 0), -EINVAL);
    ASSERT_CALL(ioe_context_fd(NULL), -EINVAL);
    ASSERT_CALL(ioe_cancel(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_cancel(NULL, UINT64_MAX), -EINVAL);
}

static void context_calls_check_their_arguments(void **state)
{
    const delivery *how = *state;
    static const int64_t times[] = {-2, -1000, INT64_MIN};
    ioe_context *ctx = new_context(how, 8, 8);
    ASSERT_CALL(ioe_context_info(ctx, NULL, sizeof(ioe_info)), -EINVAL);
    ASSERT_CALL(ioe_context_stats(ctx, NULL, sizeof(ioe_stats)), -EINVAL);
    for (size_t i = 0; i < COUNT_OF(times); i++) {
        ASSERT_CALL(ioe_drain(ctx, times[i]), -EINVAL);
        ASSERT_CALL(ioe_poll(ctx, 0, times[i]), -EINVAL);
        ASSERT_CALL(ioe_poll(ctx, UINT32_MAX, times[i]), -EINVAL);
    }
    if (how->flags & IOE_POLLED) {
        /* Nothing is in flight, so at least UINT32_MAX callbacks means none. */
        ASSERT_CALL(ioe_poll(ctx, UINT32_MAX, -1), 0);
        ASSERT_CALL(ioe_poll(ctx, UINT32_MAX, INT64_MAX), 0);
    } else {
        ASSERT_CALL(ioe_poll(ctx, 0, 0), -EINVAL);
        ASSERT_CALL(ioe_poll(ctx, 1, -1), -EINVAL);
        ASSERT_CALL(ioe_context_fd(ctx), -EINVAL);
    }
    ASSERT_CALL(ioe_drain(ctx, INT64_MAX), 0);
    ASSERT_CALL(ioe_drain(ctx, 0), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* ---- events ---- */

static void event_of_null_is_refused(void **state)
{
    (void)state;
    struct iovec iov = {buffer, 16};
    ASSERT_CALL(ioe_event_free(NULL), 0);
    ASSERT_CALL(ioe_prep_read(NULL, 0, buffer, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_write(NULL, 0, buffer, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_readv(NULL, 0, &iov, 1, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(NULL, 0, &iov, 1, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_fsync(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_fdatasync(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_fallocate(NULL, 0, 0, 0, 16), -EINVAL);
    ASSERT_CALL(ioe_prep_sync_range(NULL, 0, 0, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_truncate(NULL, 0, 16), -EINVAL);
    ASSERT_CALL(ioe_prep_advise(NULL, 0, 0, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_event_set_callback(NULL, hit_latch, NULL), -EINVAL);
    ASSERT_CALL(ioe_event_set_flags(NULL, IOE_DSYNC), -EINVAL);
    ASSERT_CALL(ioe_event_set_priority(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_event_set_timeout(NULL, 0), -EINVAL);
}

static void getters_of_null_have_values(void **state)
{
    (void)state;
    errno = ERRNO_MARK;
    assert_int_equal(ioe_event_result(NULL), -EINVAL);
    assert_int_equal(ioe_event_transferred(NULL), 0);
    assert_false(ioe_event_is_done(NULL));
    assert_int_equal(ioe_event_fd(NULL), -1);
    assert_int_equal(ioe_event_action(NULL), IOE_NONE);
    assert_null(ioe_event_buffer(NULL));
    assert_int_equal(ioe_event_size(NULL), 0);
    assert_int_equal(ioe_event_offset(NULL), 0);
    assert_null(ioe_event_arg(NULL));
    assert_int_equal(ioe_event_id(NULL), 0);
    assert_int_equal(errno, ERRNO_MARK);
}

/* Every way a preparation can be refused; the event must not notice. */
static void refuse_all_preparations(ioe_event *e)
{
    static const int counts[] = {INT_MIN, -1, 0, 1025, INT_MAX};
    static struct iovec iov[1025];
    struct iovec null_base[2] = {{buffer, 16}, {NULL, 16}};
    struct iovec huge[2] = {{buffer, (size_t)INT64_MAX}, {buffer, 1}};
    struct iovec wrapping[2] = {{buffer, SIZE_MAX}, {buffer, 2}};
    struct iovec one_huge[1] = {{buffer, SIZE_MAX}};
    struct iovec small[1] = {{buffer, 16}};
    for (size_t i = 0; i < COUNT_OF(iov); i++)
        iov[i] = (struct iovec){buffer, 1};

    ASSERT_CALL(ioe_prep_read(e, 3, NULL, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_write(e, 3, NULL, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_read(e, 3, NULL, 0, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_write(e, 3, NULL, 0, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_readv(e, 3, NULL, 1, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(e, 3, NULL, 1, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_readv(e, 3, null_base, 2, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(e, 3, null_base, 2, 0), -EINVAL);

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        ASSERT_CALL(ioe_prep_readv(e, 3, iov, counts[i], 0), -EINVAL);
        ASSERT_CALL(ioe_prep_writev(e, 3, iov, counts[i], 0), -EINVAL);
    }

    static const uint64_t offsets[] = {BEYOND, BEYOND + 4096, UINT64_MAX};
    for (size_t i = 0; i < COUNT_OF(offsets); i++) {
        ASSERT_CALL(ioe_prep_read(e, 3, buffer, 16, offsets[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_write(e, 3, buffer, 16, offsets[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_read(e, 3, buffer, 0, offsets[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_write(e, 3, buffer, 0, offsets[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_readv(e, 3, small, 1, offsets[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_writev(e, 3, small, 1, offsets[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_fallocate(e, 3, 0, offsets[i], 16), -EINVAL);
        ASSERT_CALL(ioe_prep_sync_range(e, 3, offsets[i], 16, 0), -EINVAL);
        ASSERT_CALL(ioe_prep_sync_range(e, 3, offsets[i], 0, 0), -EINVAL);
        ASSERT_CALL(ioe_prep_advise(e, 3, offsets[i], 16, 0), -EINVAL);
        ASSERT_CALL(ioe_prep_advise(e, 3, offsets[i], 0, 0), -EINVAL);
    }

    /* The offset is fine, and the length is, but not their sum. */
    ASSERT_CALL(ioe_prep_read(e, 3, buffer, 16, INT64_MAX - 15), -EINVAL);
    ASSERT_CALL(ioe_prep_write(e, 3, buffer, 16, INT64_MAX - 15), -EINVAL);
    ASSERT_CALL(ioe_prep_readv(e, 3, small, 1, INT64_MAX - 15), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(e, 3, small, 1, INT64_MAX - 15), -EINVAL);
    ASSERT_CALL(ioe_prep_fallocate(e, 3, 0, INT64_MAX - 15, 16), -EINVAL);
    ASSERT_CALL(ioe_prep_sync_range(e, 3, INT64_MAX - 15, 16, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_advise(e, 3, INT64_MAX - 15, 16, 0), -EINVAL);

    static const size_t lengths[] = {BEYOND, SIZE_MAX - 4096, SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        ASSERT_CALL(ioe_prep_read(e, 3, buffer, lengths[i], 0), -EINVAL);
        ASSERT_CALL(ioe_prep_write(e, 3, buffer, lengths[i], 0), -EINVAL);
        ASSERT_CALL(ioe_prep_read(e, 3, buffer, lengths[i], INT64_MAX), -EINVAL);
        ASSERT_CALL(ioe_prep_write(e, 3, buffer, lengths[i], INT64_MAX), -EINVAL);
        ASSERT_CALL(ioe_prep_fallocate(e, 3, 0, 0, lengths[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_fallocate(e, 3, 0, 4096, lengths[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_sync_range(e, 3, 0, lengths[i], 0), -EINVAL);
        ASSERT_CALL(ioe_prep_sync_range(e, 3, 4096, lengths[i], 0), -EINVAL);
        ASSERT_CALL(ioe_prep_truncate(e, 3, lengths[i]), -EINVAL);
        ASSERT_CALL(ioe_prep_advise(e, 3, 0, lengths[i], 0), -EINVAL);
        ASSERT_CALL(ioe_prep_advise(e, 3, 4096, lengths[i], 0), -EINVAL);
    }
    ASSERT_CALL(ioe_prep_readv(e, 3, huge, 2, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(e, 3, huge, 2, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_readv(e, 3, wrapping, 2, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(e, 3, wrapping, 2, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_readv(e, 3, one_huge, 1, 0), -EINVAL);
    ASSERT_CALL(ioe_prep_writev(e, 3, one_huge, 1, 0), -EINVAL);
}

static void refused_preparation_leaves_a_new_event_new(void **state)
{
    (void)state;
    ioe_event *e = new_event();
    refuse_all_preparations(e);
    assert_int_equal(ioe_event_action(e), IOE_NONE);
    assert_int_equal(ioe_event_fd(e), -1);
    assert_null(ioe_event_buffer(e));
    assert_int_equal(ioe_event_size(e), 0);
    assert_int_equal(ioe_event_offset(e), 0);
    assert_int_equal(ioe_event_free(e), 0);
}

static void refused_preparation_leaves_a_prepared_event_prepared(void **state)
{
    (void)state;
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, 77, buffer + 8, 100, 4096), 0);
    refuse_all_preparations(e);
    assert_int_equal(ioe_event_action(e), IOE_WRITE);
    assert_int_equal(ioe_event_fd(e), 77);
    assert_ptr_equal(ioe_event_buffer(e), buffer + 8);
    assert_int_equal(ioe_event_size(e), 100);
    assert_int_equal(ioe_event_offset(e), 4096);
    assert_int_equal(ioe_event_result(e), IOE_PENDING);
    assert_int_equal(ioe_event_free(e), 0);
}

static void refused_preparation_keeps_the_result(void **state)
{
    (void)state;
    ioe_context *ctx = new_context(&deliveries[2], 8, 8);
    ioe_event *e = new_event();
    int fd = temp_file(ON_DISK);
    assert_int_equal(ftruncate(fd, 100), 0);
    assert_int_equal(ioe_prep_read(e, fd, buffer, 200, 0), 0);
    assert_int_equal(run_event(ctx, &deliveries[2], e), 100);
    refuse_all_preparations(e);
    assert_true(ioe_event_is_done(e));
    assert_int_equal(ioe_event_result(e), 100);
    assert_int_equal(ioe_event_transferred(e), 100);
    assert_int_equal(ioe_event_size(e), 200);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void preparation_takes_the_extremes(void **state)
{
    (void)state;
    static struct iovec iov[1024];
    struct iovec empty_null = {NULL, 0};
    ioe_event *e = new_event();
    for (size_t i = 0; i < COUNT_OF(iov); i++)
        iov[i] = (struct iovec){buffer, 1};
    ASSERT_CALL(ioe_prep_read(e, -1, buffer, 16, INT64_MAX - 16), 0);
    ASSERT_CALL(ioe_prep_write(e, INT_MIN, buffer, INT64_MAX, 0), 0);
    ASSERT_CALL(ioe_prep_read(e, INT_MAX, buffer, 0, INT64_MAX), 0);
    ASSERT_CALL(ioe_prep_readv(e, -1, iov, 1024, INT64_MAX - 1024), 0);
    assert_int_equal(ioe_event_size(e), 1024);
    ASSERT_CALL(ioe_prep_writev(e, -1, iov, 1, 0), 0);
    ASSERT_CALL(ioe_prep_readv(e, -1, &empty_null, 1, 0), 0);
    ASSERT_CALL(ioe_prep_fsync(e, -1), 0);
    ASSERT_CALL(ioe_prep_fdatasync(e, -1), 0);
    ASSERT_CALL(ioe_prep_fallocate(e, -1, -1, INT64_MAX - 16, 16), 0);
    ASSERT_CALL(ioe_prep_fallocate(e, -1, INT_MIN, 0, 0), 0);
    ASSERT_CALL(ioe_prep_sync_range(e, -1, INT64_MAX - 16, 16, UINT32_MAX), 0);
    ASSERT_CALL(ioe_prep_sync_range(e, INT_MIN, INT64_MAX, 0, 0), 0);
    ASSERT_CALL(ioe_prep_truncate(e, -1, INT64_MAX), 0);
    assert_int_equal(ioe_event_size(e), INT64_MAX);
    ASSERT_CALL(ioe_prep_advise(e, -1, INT64_MAX - 16, 16, INT_MIN), 0);
    ASSERT_CALL(ioe_prep_advise(e, INT_MAX, 0, INT64_MAX, -1), 0);
    ASSERT_CALL(ioe_event_free(e), 0);
}

/* ---- submitting ---- */

static void submits_of_null_are_refused(void **state)
{
    enum { DEPTH = 8 };
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, DEPTH, DEPTH);
    ioe_event *e = new_event();
    ioe_event *one[1] = {e};
    ioe_event *none[1] = {NULL};
    latch callbacks = LATCH_INIT;
    assert_int_equal(ioe_prep_read(e, 0, buffer, 16, 0), 0);
    assert_int_equal(ioe_event_set_callback(e, hit_latch, &callbacks), 0);

    ASSERT_CALL(ioe_submit(NULL, NULL), -EINVAL);
    ASSERT_CALL(ioe_submit(ctx, NULL), -EINVAL);
    ASSERT_CALL(ioe_submit(NULL, e), -EINVAL);
    ASSERT_CALL(ioe_try_submit(NULL, NULL), -EINVAL);
    ASSERT_CALL(ioe_try_submit(ctx, NULL), -EINVAL);
    ASSERT_CALL(ioe_try_submit(NULL, e), -EINVAL);
    ASSERT_CALL(ioe_submit_wait(NULL, NULL), -EINVAL);
    ASSERT_CALL(ioe_submit_wait(ctx, NULL), -EINVAL);
    ASSERT_CALL(ioe_submit_wait(NULL, e), -EINVAL);
    ASSERT_CALL(ioe_submit_batch(NULL, NULL, 1), -EINVAL);
    ASSERT_CALL(ioe_submit_batch(ctx, NULL, 1), -EINVAL);
    ASSERT_CALL(ioe_submit_batch(NULL, one, 1), -EINVAL);
    ASSERT_CALL(ioe_submit_batch(ctx, none, 1), -EINVAL);
    ASSERT_CALL(ioe_submit_batch(ctx, none, SIZE_MAX), -EINVAL);
    ASSERT_CALL(ioe_submit_batch(ctx, one, 0), 0);

    /* None of these took the event. */
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&callbacks), 0);
    assert_int_equal(ioe_event_result(e), IOE_PENDING);

    /* Nor did they take anything of the context. */
    int fd = temp_file(IN_MEMORY);
    for (unsigned i = 0; i < DEPTH; i++) {
        ASSERT_CALL(ioe_submit(ctx, NULL), -EINVAL);
        ASSERT_CALL(ioe_try_submit(ctx, NULL), -EINVAL);
        ASSERT_CALL(ioe_submit_batch(ctx, none, 1), -EINVAL);
        ASSERT_CALL(ioe_submit_wait_batch(ctx, none, 2), -EINVAL);
    }
    assert_int_equal(ioe_prep_write(e, fd, buffer, 16, 0), 0);
    assert_int_equal(run_event(ctx, how, e), 16);
    close(fd);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void batch_stops_at_a_null(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 8);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *events[3] = {new_event(), NULL, new_event()};
    for (size_t i = 0; i < COUNT_OF(events); i += 2) {
        assert_int_equal(ioe_prep_write(events[i], fd, buffer, 16, 16 * i), 0);
        assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
    }
    ASSERT_CALL(ioe_submit_batch(ctx, events, 3), 1);
    await(ctx, how, &done, 1);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&done), 1);
    assert_int_equal(ioe_event_result(events[0]), 16);
    assert_int_equal(ioe_event_result(events[2]), IOE_PENDING);
    assert_int_equal(ioe_event_free(events[0]), 0);
    assert_int_equal(ioe_event_free(events[2]), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- memory ---- */

static void buffers_have_bounds(void **state)
{
    (void)state;
    static const size_t no_power_of_two[] = {3, 5, 12, 4095, 4097, SIZE_MAX};
    errno = ERRNO_MARK;
    assert_null(ioe_buffer_alloc(0, 0));
    assert_null(ioe_buffer_alloc(0, 4096));
    assert_null(ioe_buffer_alloc(SIZE_MAX, 0));
    assert_null(ioe_buffer_alloc(SIZE_MAX, 4096));
    assert_null(ioe_buffer_alloc(SIZE_MAX / 2, 0));
    assert_null(ioe_buffer_alloc(4096, SIZE_MAX / 2 + 1));
    assert_null(ioe_buffer_alloc(SIZE_MAX, SIZE_MAX / 2 + 1));
    for (size_t i = 0; i < COUNT_OF(no_power_of_two); i++)
        assert_null(ioe_buffer_alloc(4096, no_power_of_two[i]));
    ioe_buffer_free(NULL);
    assert_int_equal(errno, ERRNO_MARK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(library_calls_take_anything),
        cmocka_unit_test(config_of_null_is_refused),
        cmocka_unit_test(config_numbers_have_bounds),
        cmocka_unit_test(config_flags_must_be_known),
        cmocka_unit_test(config_bounds_reactors),
        cmocka_unit_test(config_of_polled_has_one_reactor),
        cmocka_unit_test(config_of_iopoll_needs_polled),
        cmocka_unit_test(config_of_polled_excludes_shared_workers),
        cmocka_unit_test(config_of_a_rings_flags_needs_a_ring),
        cmocka_unit_test(workers_have_bounds),
        cmocka_unit_test(context_of_null_is_refused),
        for_each_delivery(context_calls_check_their_arguments),
        cmocka_unit_test(event_of_null_is_refused),
        cmocka_unit_test(getters_of_null_have_values),
        cmocka_unit_test(refused_preparation_leaves_a_new_event_new),
        cmocka_unit_test(refused_preparation_leaves_a_prepared_event_prepared),
        cmocka_unit_test(refused_preparation_keeps_the_result),
        cmocka_unit_test(preparation_takes_the_extremes),
        for_each_delivery(submits_of_null_are_refused),
        for_each_delivery(batch_stops_at_a_null),
        cmocka_unit_test(buffers_have_bounds),
    };
    return RUN_TESTS(tests);
}
