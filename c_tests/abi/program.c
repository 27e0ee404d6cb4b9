/*
 * A program that knows the library only by the header that it was compiled with. Its structs may be
 * smaller than the library's, or larger (LARGER): what it does not know has its default, and what the library does not
 * know is 0, and nothing behind a struct is touched.
 */
#include <io_engine.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANARY = 0xA5, BEHIND = 64, EVENTS = 32, LEN = 4096 };

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* A struct, and what is behind it. */
#define GUARDED(type, name) \
    struct { \
        type its; \
        unsigned char behind[BEHIND]; \
    } name; \
    memset(&name, CANARY, sizeof name)

static void check_behind(const unsigned char *behind)
{
    for (size_t i = 0; i < BEHIND; i++)
        CHECK(behind[i] == CANARY);
}

static void keep_result(ioe_event *event, void *arg)
{
    *(int64_t *)arg = ioe_event_result(event);
}

/* Writes pages at once and reads them back one by one. */
static void use(ioe_context *ctx)
{
    static unsigned char pages[EVENTS][LEN], back[LEN];
    int64_t results[EVENTS];
    ioe_event *events[EVENTS];
    FILE *file = tmpfile();
    CHECK(file != NULL);
    for (size_t i = 0; i < EVENTS; i++) {
        memset(pages[i], (int)i + 1, LEN);
        results[i] = IOE_PENDING;
        CHECK((events[i] = ioe_event_new()) != NULL);
        CHECK(ioe_prep_write(events[i], fileno(file), pages[i], LEN, i * LEN) == 0);
        CHECK(ioe_event_set_callback(events[i], keep_result, &results[i]) == 0);
    }
    CHECK(ioe_submit_batch(ctx, events, EVENTS) == EVENTS);
    CHECK(ioe_drain(ctx, -1) == 0);
    for (size_t i = 0; i < EVENTS; i++) {
        CHECK(results[i] == LEN);
        CHECK(ioe_prep_read(events[i], fileno(file), back, LEN, i * LEN) == 0);
        CHECK(ioe_submit_wait(ctx, events[i]) == LEN);
        CHECK(memcmp(back, pages[i], LEN) == 0);
        CHECK(ioe_event_free(events[i]) == 0);
    }
    fclose(file);
}

int main(void)
{
    GUARDED(ioe_config, config);
    CHECK(ioe_config_init(&config.its, sizeof config.its) == 0);
    check_behind(config.behind);
    CHECK(config.its.size == sizeof config.its);
    CHECK(config.its.driver == IOE_DRIVER_AUTO && config.its.depth == 128 && config.its.queue_size == 1024);
    CHECK(config.its.workers == 1 && config.its.merge_limit == 0 && config.its.flags == 0);
    CHECK(config.its.shared == NULL);
    config.its.depth = 16;
    config.its.merge_limit = 65536;
    ioe_context *ctx = NULL;
#ifdef LARGER
    CHECK(config.its.later_0 == 0 && config.its.later_3 == 0);
    config.its.later_3 = 1;
    CHECK(ioe_context_new(&config.its, &ctx) == -7 /* E2BIG: it asks for what the library has not */);
    CHECK(ctx == NULL);
    config.its.later_3 = 0;
#endif
    CHECK(ioe_context_new(&config.its, &ctx) == 0);

    GUARDED(ioe_info, info);
    CHECK(ioe_context_info(ctx, &info.its, sizeof info.its) == 0);
    check_behind(info.behind);
    CHECK(info.its.driver != IOE_DRIVER_AUTO && info.its.depth == 16 && info.its.queue_size == 1024);
    CHECK(info.its.workers == 1 && info.its.merge_limit == 65536 && info.its.reason != NULL);

    use(ctx);

    GUARDED(ioe_stats, stats);
    CHECK(ioe_context_stats(ctx, &stats.its, sizeof stats.its) == 0);
    check_behind(stats.behind);
    CHECK(stats.its.accepted >= EVENTS && stats.its.completed == stats.its.accepted);
    CHECK(stats.its.bytes_written == EVENTS * LEN && stats.its.bytes_read == EVENTS * LEN);
    CHECK(stats.its.failed == 0 && stats.its.merged > 0);
#ifdef LARGER
    CHECK(info.its.later_0 == 0 && info.its.later_3 == 0);
    CHECK(stats.its.later_0 == 0 && stats.its.later_3 == 0);
#endif
    CHECK(ioe_context_free(ctx) == 0);
    printf("structs of %zu, %zu and %zu bytes on %s\n", sizeof config.its, sizeof info.its, sizeof stats.its,
           ioe_version());
    return 0;
}
