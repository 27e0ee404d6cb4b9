/*
 * The ways an event can go: every driver, named in the config, with every delivery of common.h. For
 * the programs that compare the drivers with each other, or with the kernel, in one run.
 */
#ifndef IOE_C_TESTS_DRIVERS_H
#define IOE_C_TESTS_DRIVERS_H

#include "common.h"

typedef struct way {
    const char *name;
    int driver;
    const delivery *how;
} way;

static const way ways[] = {
    {"uring, polled", IOE_DRIVER_URING, &deliveries[0]},
    {"uring, driver thread", IOE_DRIVER_URING, &deliveries[1]},
    {"uring, one worker", IOE_DRIVER_URING, &deliveries[2]},
    {"uring, four workers", IOE_DRIVER_URING, &deliveries[3]},
    {"aio, polled", IOE_DRIVER_AIO, &deliveries[0]},
    {"aio, driver thread", IOE_DRIVER_AIO, &deliveries[1]},
    {"aio, one worker", IOE_DRIVER_AIO, &deliveries[2]},
    {"aio, four workers", IOE_DRIVER_AIO, &deliveries[3]},
    {"pool, polled", IOE_DRIVER_POOL, &deliveries[0]},
    {"pool, driver thread", IOE_DRIVER_POOL, &deliveries[1]},
    {"pool, one worker", IOE_DRIVER_POOL, &deliveries[2]},
    {"pool, four workers", IOE_DRIVER_POOL, &deliveries[3]},
};

/* Entries of a CMUnitTest array: the test once per way, which it finds in *state. */
#define for_each_way(test)                                                                         \
    {#test ", uring, polled", test, NULL, NULL, (void *)&ways[0]},                                 \
    {#test ", uring, driver thread", test, NULL, NULL, (void *)&ways[1]},                          \
    {#test ", uring, one worker", test, NULL, NULL, (void *)&ways[2]},                             \
    {#test ", uring, four workers", test, NULL, NULL, (void *)&ways[3]},                           \
    {#test ", aio, polled", test, NULL, NULL, (void *)&ways[4]},                                   \
    {#test ", aio, driver thread", test, NULL, NULL, (void *)&ways[5]},                            \
    {#test ", aio, one worker", test, NULL, NULL, (void *)&ways[6]},                               \
    {#test ", aio, four workers", test, NULL, NULL, (void *)&ways[7]},                             \
    {#test ", pool, polled", test, NULL, NULL, (void *)&ways[8]},                                  \
    {#test ", pool, driver thread", test, NULL, NULL, (void *)&ways[9]},                           \
    {#test ", pool, one worker", test, NULL, NULL, (void *)&ways[10]},                             \
    {#test ", pool, four workers", test, NULL, NULL, (void *)&ways[11]}

/* Skips the test, saying why; where IOE_TEST_NO_SKIP is set, the test fails instead. */
static inline void leave_out(const char *what, const char *why)
{
    print_message("# left out: %s: %s\n", what, why);
    if (getenv("IOE_TEST_NO_SKIP") != NULL)
        fail();
    skip();
}

/* What the environment variable says; the test is left out where there is none. */
static inline const char *setting(const char *name)
{
    const char *text = getenv(name);
    if (text == NULL)
        leave_out(name, "it is not set");
    return text;
}

/* A context with the driver of the way; the test is left out where ioe_probe refuses that one. */
static inline ioe_context *new_merging_context_in(const way *w, uint32_t depth, uint32_t queue_size,
                                                  uint32_t merge_limit)
{
    ioe_context *ctx = NULL;
    ioe_config cfg;
    int refused = ioe_probe(w->driver);
    if (refused != 0)
        leave_out(ioe_driver_name(w->driver), ioe_strerror(refused));
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.driver = w->driver;
    cfg.depth = depth;
    cfg.queue_size = queue_size;
    cfg.workers = w->how->workers;
    cfg.merge_limit = merge_limit;
    cfg.flags = w->how->flags;
    cfg.reactors = usual_reactors(cfg.flags);
    assert_int_equal(ioe_context_new(&cfg, &ctx), 0);
    assert_int_equal(get_info(ctx).driver, w->driver);
    assert_int_equal(get_info(ctx).merge_limit, merge_limit);
    return ctx;
}

static inline ioe_context *new_context_in(const way *w, uint32_t depth, uint32_t queue_size)
{
    return new_merging_context_in(w, depth, queue_size, usual_merge_limit());
}

#endif
