/*
 * Promise: the versioned structs have the published layout, and callers older or newer than the
 * library are served by their `size`: missing fields have defaults, unknown ones must be zero, and
 * nothing is read or written beyond the size given.
 */
#include "common.h"

#define LARGEST 4096
#define CANARY 0xA5
#define GUARD 64

/* ---- layout ---- */

_Static_assert(offsetof(ioe_config, size) == 0, "config.size");
_Static_assert(offsetof(ioe_config, driver) == 8, "config.driver");
_Static_assert(offsetof(ioe_config, depth) == 12, "config.depth");
_Static_assert(offsetof(ioe_config, queue_size) == 16, "config.queue_size");
_Static_assert(offsetof(ioe_config, workers) == 20, "config.workers");
_Static_assert(offsetof(ioe_config, merge_limit) == 24, "config.merge_limit");
_Static_assert(offsetof(ioe_config, flags) == 28, "config.flags");
_Static_assert(offsetof(ioe_config, shared) == 32, "config.shared");
_Static_assert(offsetof(ioe_config, stall_ms) == 40, "config.stall_ms");
_Static_assert(offsetof(ioe_config, reactors) == 44, "config.reactors");
_Static_assert(sizeof(ioe_config) % 8 == 0, "config grows in steps of 8");

_Static_assert(offsetof(ioe_info, size) == 0, "info.size");
_Static_assert(offsetof(ioe_info, driver) == 8, "info.driver");
_Static_assert(offsetof(ioe_info, depth) == 12, "info.depth");
_Static_assert(offsetof(ioe_info, queue_size) == 16, "info.queue_size");
_Static_assert(offsetof(ioe_info, workers) == 20, "info.workers");
_Static_assert(offsetof(ioe_info, merge_limit) == 24, "info.merge_limit");
_Static_assert(offsetof(ioe_info, flags) == 28, "info.flags");
_Static_assert(offsetof(ioe_info, uring_errno) == 32, "info.uring_errno");
_Static_assert(offsetof(ioe_info, aio_errno) == 36, "info.aio_errno");
_Static_assert(offsetof(ioe_info, reason) == 40, "info.reason");
_Static_assert(offsetof(ioe_info, reactors) == 48, "info.reactors");
_Static_assert(offsetof(ioe_info, reserved) == 52, "info.reserved");
_Static_assert(sizeof(ioe_info) % 8 == 0, "info grows in steps of 8");

_Static_assert(offsetof(ioe_stats, size) == 0, "stats.size");
_Static_assert(offsetof(ioe_stats, accepted) == 8, "stats.accepted");
_Static_assert(offsetof(ioe_stats, completed) == 16, "stats.completed");
_Static_assert(offsetof(ioe_stats, failed) == 24, "stats.failed");
_Static_assert(offsetof(ioe_stats, bytes_read) == 32, "stats.bytes_read");
_Static_assert(offsetof(ioe_stats, bytes_written) == 40, "stats.bytes_written");
_Static_assert(offsetof(ioe_stats, operations) == 48, "stats.operations");
_Static_assert(offsetof(ioe_stats, system_calls) == 56, "stats.system_calls");
_Static_assert(offsetof(ioe_stats, merged) == 64, "stats.merged");
_Static_assert(offsetof(ioe_stats, continued) == 72, "stats.continued");
_Static_assert(offsetof(ioe_stats, syncs_joined) == 80, "stats.syncs_joined");
_Static_assert(offsetof(ioe_stats, in_flight) == 88, "stats.in_flight");
_Static_assert(sizeof(ioe_stats) % 8 == 0, "stats grows in steps of 8");

/* The order is part of the ABI: programs carry the numbers, not the names. */
_Static_assert(IOE_DRIVER_AUTO == 0 && IOE_DRIVER_URING == 1 && IOE_DRIVER_AIO == 2 &&
                   IOE_DRIVER_POOL == 3,
               "drivers");
_Static_assert(IOE_POLLED == 1 && IOE_SQPOLL == 2 && IOE_IOPOLL == 4 && IOE_NO_SYNC_GROUP == 8,
               "flags");
_Static_assert(IOE_HIPRI == 0x01 && IOE_DSYNC == 0x02 && IOE_NOWAIT == 0x08 && IOE_APPEND == 0x10 &&
                   IOE_ATOMIC == 0x40 && IOE_DONTCACHE == 0x80 && IOE_BARRIER == 0x40000000,
               "flags of events");
_Static_assert(IOE_NONE == 0 && IOE_READ == 1 && IOE_WRITE == 2 && IOE_FSYNC == 3 &&
                   IOE_FDATASYNC == 4 && IOE_FALLOCATE == 5 && IOE_SYNC_RANGE == 6 &&
                   IOE_TRUNCATE == 7 && IOE_ADVISE == 8,
               "actions");
_Static_assert(IOE_LOG_OFF == 0 && IOE_LOG_ERROR == 1 && IOE_LOG_WARN == 2 && IOE_LOG_INFO == 3 &&
                   IOE_LOG_DEBUG == 4,
               "log levels");
_Static_assert(IOE_PENDING == INT64_MIN, "pending");

/* ---- helpers ---- */

static bool all_bytes(const void *from, size_t len, uint8_t value)
{
    for (size_t i = 0; i < len; i++)
        if (((const uint8_t *)from)[i] != value)
            return false;
    return true;
}

/* Memory of exactly this many bytes, aligned as the structs are, so that a sanitizer sees any
 * access beyond it. */
static void *exactly(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);
    assert_non_null(p);
    return p;
}

static ioe_context *new_plain_context(void)
{
    return new_context(&deliveries[2], 16, 64);
}

/* Creates from a config and frees again; what ran is in info. */
static int try_config(const void *cfg, ioe_info *info)
{
    ioe_context *ctx = NULL;
    int rc = ioe_context_new((const ioe_config *)cfg, &ctx);
    if (rc != 0) {
        assert_null(ctx);
        return rc;
    }
    assert_int_equal(ioe_context_info(ctx, info, sizeof *info), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    return 0;
}

static const size_t refused_sizes[] = {0, 1, 4, 7, 9, 12, 15, 20, 33, 41, 4095};

/* ---- ioe_config ---- */

static void config_init_gives_the_defaults(void **state)
{
    (void)state;
    ioe_config cfg;
    memset(&cfg, CANARY, sizeof cfg);
    ASSERT_CALL(ioe_config_init(&cfg, sizeof cfg), 0);
    assert_int_equal(cfg.size, sizeof cfg);
    assert_int_equal(cfg.driver, IOE_DRIVER_AUTO);
    assert_int_equal(cfg.depth, 128);
    assert_int_equal(cfg.queue_size, 1024);
    assert_int_equal(cfg.workers, 1);
    assert_int_equal(cfg.merge_limit, 0);
    assert_int_equal(cfg.flags, 0);
    assert_null(cfg.shared);
    assert_int_equal(cfg.stall_ms, 0);
    assert_int_equal(cfg.reactors, 1);
}

static void config_init_fills_exactly_its_size(void **state)
{
    (void)state;
    ioe_config whole;
    assert_int_equal(ioe_config_init(&whole, sizeof whole), 0);
    for (size_t size = 8; size <= LARGEST; size = size < 64 ? size + 8 : size * 2) {
        uint8_t *room = exactly(size + GUARD);
        memset(room, CANARY, size + GUARD);
        ASSERT_CALL(ioe_config_init((ioe_config *)(void *)room, size), 0);
        size_t known = size < sizeof whole ? size : sizeof whole;
        size_t own_size;
        memcpy(&own_size, room, sizeof own_size);
        assert_int_equal(own_size, size);
        assert_memory_equal(room + 8, (const uint8_t *)&whole + 8, known - 8);
        assert_true(all_bytes(room + known, size - known, 0));
        assert_true(all_bytes(room + size, GUARD, CANARY));
        free(room);
    }
}

static void config_init_refuses_odd_sizes(void **state)
{
    (void)state;
    static const size_t too_large[] = {LARGEST + 8, LARGEST * 2, SIZE_MAX - 7};
    uint8_t *room = exactly(LARGEST);
    memset(room, CANARY, LARGEST);
    ioe_config *cfg = (ioe_config *)(void *)room;
    for (size_t i = 0; i < COUNT_OF(refused_sizes); i++)
        ASSERT_CALL(ioe_config_init(cfg, refused_sizes[i]), -EINVAL);
    for (size_t i = 0; i < COUNT_OF(too_large); i++)
        ASSERT_CALL(ioe_config_init(cfg, too_large[i]), -E2BIG);
    assert_true(ioe_config_init(cfg, SIZE_MAX) < 0);
    assert_true(all_bytes(room, LARGEST, CANARY));
    free(room);
}

static void config_of_an_older_caller_gets_defaults(void **state)
{
    (void)state;
    /* Every field differs from its default; only those inside the size may count. The pool works
     * everywhere. */
    ioe_config mine;
    assert_int_equal(ioe_config_init(&mine, sizeof mine), 0);
    mine.driver = IOE_DRIVER_POOL;
    mine.depth = 7;
    mine.queue_size = 77;
    mine.workers = 3;
    mine.merge_limit = 0;
    mine.flags = IOE_NO_SYNC_GROUP;
    mine.stall_ms = 1000;
    for (size_t size = 8; size <= sizeof mine; size += 8) {
        ioe_info info;
        void *older = exactly(size);
        mine.size = size;
        memcpy(older, &mine, size);
        assert_int_equal(try_config(older, &info), 0);
        assert_int_equal(info.driver, size >= 16 ? IOE_DRIVER_POOL : tested_driver);
        assert_int_equal(info.depth, size >= 16 ? 7 : 128);
        assert_int_equal(info.queue_size, size >= 24 ? 77 : 1024);
        assert_int_equal(info.workers, size >= 24 ? 3 : 1);
        assert_int_equal(info.flags, size >= 32 ? IOE_NO_SYNC_GROUP : 0);
        free(older);
    }
}

static void config_bytes_beyond_its_size_do_not_count(void **state)
{
    (void)state;
    for (size_t size = 8; size < sizeof(ioe_config); size += 8) {
        ioe_info info;
        ioe_config cfg;
        assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
        memset((uint8_t *)&cfg + size, 0xFF, sizeof cfg - size);
        cfg.size = size;
        assert_int_equal(try_config(&cfg, &info), 0);
        assert_int_equal(info.depth, 128);
        assert_int_equal(info.flags, 0);
    }
}

static void config_of_a_newer_caller_must_be_zero_beyond(void **state)
{
    (void)state;
    static const size_t sizes[] = {sizeof(ioe_config) + 8, sizeof(ioe_config) + 64, 2048, LARGEST};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t size = sizes[i];
        const size_t places[] = {sizeof(ioe_config), sizeof(ioe_config) + 7,
                                 (sizeof(ioe_config) + size) / 2, size - 1};
        ioe_info info;
        uint8_t *newer = exactly(size);
        assert_int_equal(ioe_config_init((ioe_config *)(void *)newer, size), 0);
        assert_int_equal(try_config(newer, &info), 0);
        assert_int_equal(info.depth, 128);
        for (size_t j = 0; j < COUNT_OF(places); j++) {
            newer[places[j]] = 1;
            ioe_context *ctx = NULL;
            ASSERT_CALL(ioe_context_new((ioe_config *)(void *)newer, &ctx), -E2BIG);
            assert_null(ctx);
            newer[places[j]] = 0;
        }
        assert_int_equal(try_config(newer, &info), 0);
        free(newer);
    }
}

static void config_of_an_odd_size_is_refused(void **state)
{
    (void)state;
    ioe_config cfg;
    ioe_context *ctx = NULL;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    for (size_t i = 0; i < COUNT_OF(refused_sizes); i++) {
        cfg.size = refused_sizes[i];
        ASSERT_CALL(ioe_context_new(&cfg, &ctx), -EINVAL);
    }
    /* Refused by the number alone: there are no such bytes to look at. */
    cfg.size = LARGEST + 8;
    ASSERT_CALL(ioe_context_new(&cfg, &ctx), -E2BIG);
    cfg.size = SIZE_MAX - 7;
    ASSERT_CALL(ioe_context_new(&cfg, &ctx), -E2BIG);
    cfg.size = SIZE_MAX;
    assert_true(ioe_context_new(&cfg, &ctx) < 0);
    assert_null(ctx);
}

/* ---- ioe_info and ioe_stats: one test body for both ---- */

typedef int (*fill_fn)(const ioe_context *ctx, void *out, size_t size);

static int fill_info(const ioe_context *ctx, void *out, size_t size)
{
    return ioe_context_info(ctx, (ioe_info *)out, size);
}

static int fill_stats(const ioe_context *ctx, void *out, size_t size)
{
    return ioe_context_stats(ctx, (ioe_stats *)out, size);
}

static void check_fill(fill_fn fill, size_t own_size)
{
    /* Polled: without threads the counters stand still between two looks. */
    ioe_context *ctx = new_context(&deliveries[0], 16, 64);
    uint8_t *whole = exactly(own_size);
    assert_int_equal(fill(ctx, whole, own_size), 0);
    for (size_t size = 8; size <= LARGEST; size = size < 128 ? size + 8 : size * 2) {
        uint8_t *room = exactly(size + GUARD);
        memset(room, CANARY, size + GUARD);
        ASSERT_CALL(fill(ctx, room, size), 0);
        size_t known = size < own_size ? size : own_size;
        size_t filled;
        memcpy(&filled, room, sizeof filled);
        assert_int_equal(filled, known);
        assert_memory_equal(room + 8, whole + 8, known - 8);
        assert_true(all_bytes(room + known, size - known, 0));
        assert_true(all_bytes(room + size, GUARD, CANARY));
        free(room);
    }

    uint8_t *room = exactly(LARGEST);
    memset(room, CANARY, LARGEST);
    for (size_t i = 0; i < COUNT_OF(refused_sizes); i++)
        ASSERT_CALL(fill(ctx, room, refused_sizes[i]), -EINVAL);
    ASSERT_CALL(fill(ctx, room, LARGEST + 8), -E2BIG);
    ASSERT_CALL(fill(ctx, room, SIZE_MAX - 7), -E2BIG);
    assert_true(fill(ctx, room, SIZE_MAX) < 0);
    assert_true(all_bytes(room, LARGEST, CANARY));
    free(room);
    free(whole);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void info_is_filled_up_to_its_size(void **state)
{
    (void)state;
    check_fill(fill_info, sizeof(ioe_info));
}

static void stats_are_filled_up_to_their_size(void **state)
{
    (void)state;
    check_fill(fill_stats, sizeof(ioe_stats));
}

static void info_of_defaults_says_what_runs(void **state)
{
    (void)state;
    ioe_info info;
    ioe_context *ctx = NULL;
    ASSERT_CALL(ioe_context_new(NULL, &ctx), 0);
    memset(&info, CANARY, sizeof info);
    ASSERT_CALL(ioe_context_info(ctx, &info, sizeof info), 0);
    assert_int_equal(info.size, sizeof info);
    assert_int_equal(info.driver, tested_driver);
    assert_int_equal(info.depth, 128);
    assert_int_equal(info.queue_size, 1024);
    assert_int_equal(info.workers, 1);
    assert_int_equal(info.merge_limit, 0);
    assert_int_equal(info.flags, 0);
    assert_non_null(info.reason);
    /* What AUTO passed over is told. */
    bool passed = !names_a_driver(getenv("IOE_DRIVER")) && tested_driver != IOE_DRIVER_URING;
    assert_int_equal(info.uring_errno != 0, passed);
    assert_int_equal(info.aio_errno != 0, passed && tested_driver == IOE_DRIVER_POOL);
    assert_int_equal(info.reason[0] != '\0', passed);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void info_repeats_what_was_asked(void **state)
{
    const delivery *how = *state;
    ioe_info info;
    ioe_context *ctx = new_context(how, 5, 33);
    assert_int_equal(ioe_context_info(ctx, &info, sizeof info), 0);
    assert_int_equal(info.depth, 5);
    assert_int_equal(info.queue_size, 33);
    assert_int_equal(info.workers, how->workers);
    assert_int_equal(info.flags, how->flags);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void stats_begin_at_zero(void **state)
{
    (void)state;
    ioe_stats stats;
    ioe_context *ctx = new_plain_context();
    memset(&stats, CANARY, sizeof stats);
    ASSERT_CALL(ioe_context_stats(ctx, &stats, sizeof stats), 0);
    assert_int_equal(stats.size, sizeof stats);
    assert_int_equal(stats.accepted, 0);
    assert_int_equal(stats.completed, 0);
    assert_int_equal(stats.failed, 0);
    assert_int_equal(stats.bytes_read, 0);
    assert_int_equal(stats.bytes_written, 0);
    assert_int_equal(stats.operations, 0);
    assert_int_equal(stats.merged, 0);
    assert_int_equal(stats.continued, 0);
    assert_int_equal(stats.syncs_joined, 0);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(ioe_context_free(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_init_gives_the_defaults),
        cmocka_unit_test(config_init_fills_exactly_its_size),
        cmocka_unit_test(config_init_refuses_odd_sizes),
        cmocka_unit_test(config_of_an_older_caller_gets_defaults),
        cmocka_unit_test(config_bytes_beyond_its_size_do_not_count),
        cmocka_unit_test(config_of_a_newer_caller_must_be_zero_beyond),
        cmocka_unit_test(config_of_an_odd_size_is_refused),
        cmocka_unit_test(info_is_filled_up_to_its_size),
        cmocka_unit_test(stats_are_filled_up_to_their_size),
        cmocka_unit_test(info_of_defaults_says_what_runs),
        for_each_delivery(info_repeats_what_was_asked),
        cmocka_unit_test(stats_begin_at_zero),
    };
    return RUN_TESTS(tests);
}
