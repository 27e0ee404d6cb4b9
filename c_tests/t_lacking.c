/*
 * Promise: what a driver lacks is done by the pool behind it, operation by operation. An action that
 * the kernel's ring does not know (IORING_REGISTER_PROBE) goes there, and so does what AIO would
 * block on; all else stays in the kernel's interface. An errno is the answer to its operation: it
 * sends nothing else away.
 */
#include <linux/io_uring.h>

#include "intercept.h"
#include "plain.h"
#include "refuse.h"

/* One bit for each operation that the ring says it lacks. */
static uint64_t lacking;
/* And it does lack, here. */
static bool lacks_truncate;
/* Operations handed to io_submit(2). */
static atomic_uint submitted;

static bool answer_call(long number, long a[6], long *result)
{
    if (number == SYS_io_submit && a[1] > 0)
        atomic_fetch_add(&submitted, (unsigned)a[1]);
    if (number != SYS_io_uring_register || a[1] != IORING_REGISTER_PROBE)
        return false;
    struct io_uring_probe *probe = (struct io_uring_probe *)a[2];
    *result = ask_kernel(number, a);
    for (unsigned op = 0; *result == 0 && op < probe->ops_len; op++)
        if (lacking >> op & 1)
            probe->ops[op].flags &= (uint16_t)~IO_URING_OP_SUPPORTED;
    lacks_truncate = *result != 0 || probe->ops_len <= RING_FTRUNCATE ||
                     !(probe->ops[RING_FTRUNCATE].flags & IO_URING_OP_SUPPORTED);
    return true;
}

typedef struct lack {
    const delivery *how;
    uint64_t ring_lacks;
    int driver;
    int fd, direct;
    /* By ioe_action: what plain calls have to do. */
    bool plain[IOE_ADVISE + 1];
} lack;

static int make(const lack *l, ioe_context **out)
{
    ioe_config cfg;
    ioe_info info;
    lacking = l->ring_lacks;
    CHILD_CHECK(ioe_config_init(&cfg, sizeof cfg) == 0);
    cfg.driver = l->driver;
    cfg.flags = l->how->flags;
    cfg.workers = l->how->workers;
    CHILD_CHECK(ioe_context_new(&cfg, out) == 0);
    CHILD_CHECK(ioe_context_info(*out, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == l->driver);
    forget_plain_calls();
    return 0;
}

/* The plain calls since the last look are of those actions, and of no other. */
static int only_these_were_plain(const bool *plain)
{
    bool any = false;
    for (int action = IOE_READ; action <= IOE_ADVISE; action++) {
        CHILD_CHECK((atomic_load(&plain_calls[action]) > 0) == plain[action]);
        any = any || plain[action];
    }
    CHILD_CHECK(!any || read_tasks("ioe-pool", NULL, 0) > 0);
    forget_plain_calls();
    return 0;
}

static int only_lacking_actions_are_plain(void *arg)
{
    lack *l = arg;
    bool buffered[IOE_ADVISE + 1];
    ioe_context *ctx = NULL;
    ioe_info info;
    CHILD_CHECK(make(l, &ctx) == 0);
    l->plain[IOE_TRUNCATE] = l->plain[IOE_TRUNCATE] || lacks_truncate;
    CHILD_CHECK(read_tasks("ioe-pool", NULL, 0) == 0);
    CHILD_CHECK(every_action_works(ctx, l->direct) == 0);
    CHILD_CHECK(only_these_were_plain(l->plain) == 0);
    /* Transfers that AIO would block on. */
    memcpy(buffered, l->plain, sizeof buffered);
    if (l->driver == IOE_DRIVER_AIO)
        buffered[IOE_READ] = buffered[IOE_WRITE] = true;
    CHILD_CHECK(every_action_works(ctx, l->fd) == 0);
    CHILD_CHECK(only_these_were_plain(buffered) == 0);
    CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == l->driver);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    await_no_threads();
    return 0;
}

static void run_case(int (*body)(void *arg), lack *l)
{
    if (!works_here(l->driver)) {
        printf("# %s does not work here\n", ioe_driver_name(l->driver));
        skip();
    }
    l->fd = temp_file(ON_DISK);
    l->direct = open_direct(l->fd);
    assert_in_child(body, l);
    close(l->direct);
    close(l->fd);
}

static void lacks_of_aio(lack *l)
{
    l->plain[IOE_FALLOCATE] = l->plain[IOE_SYNC_RANGE] = true;
    l->plain[IOE_TRUNCATE] = l->plain[IOE_ADVISE] = true;
}

#define OP(name) (UINT64_C(1) << IORING_OP_##name)
#define TRUNCATE_OP (UINT64_C(1) << RING_FTRUNCATE)
#define TRANSFERS (OP(READ) | OP(WRITE) | OP(READV) | OP(WRITEV))

static void ring_lacks_nothing(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING};
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_fallocate(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING, .ring_lacks = OP(FALLOCATE)};
    l.plain[IOE_FALLOCATE] = true;
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_sync_range(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING, .ring_lacks = OP(SYNC_FILE_RANGE)};
    l.plain[IOE_SYNC_RANGE] = true;
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_truncate(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING, .ring_lacks = TRUNCATE_OP};
    l.plain[IOE_TRUNCATE] = true;
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_advise(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING, .ring_lacks = OP(FADVISE)};
    l.plain[IOE_ADVISE] = true;
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_fsync(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING, .ring_lacks = OP(FSYNC)};
    l.plain[IOE_FSYNC] = l.plain[IOE_FDATASYNC] = true;
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_transfers(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_URING, .ring_lacks = TRANSFERS};
    l.plain[IOE_READ] = l.plain[IOE_WRITE] = true;
    run_case(only_lacking_actions_are_plain, &l);
}

static void ring_lacks_everything(void **state)
{
    lack l = {.how = *state,
              .driver = IOE_DRIVER_URING,
              .ring_lacks = TRANSFERS | OP(FSYNC) | OP(FALLOCATE) | OP(SYNC_FILE_RANGE) |
                            TRUNCATE_OP | OP(FADVISE),
              .plain = {false, true, true, true, true, true, true, true, true}};
    run_case(only_lacking_actions_are_plain, &l);
}

/* It has transfers and syncs. */
static void aio_lacks_all_else_and_buffered_files(void **state)
{
    lack l = {.how = *state, .driver = IOE_DRIVER_AIO};
    lacks_of_aio(&l);
    run_case(only_lacking_actions_are_plain, &l);
}

/* ---- the kernel's interface and the pool have work at the same time ---- */

static int both_have_work(void *arg)
{
    enum { ROUNDS = 50, EVENTS = 60, BLOCK = 4096 };
    const lack *l = arg;
    ioe_context *ctx = NULL;
    ioe_event *events[EVENTS];
    latch done = LATCH_INIT;
    uint8_t *bufs = ioe_buffer_alloc(EVENTS * BLOCK, 0);
    CHILD_CHECK(bufs != NULL);
    pattern_fill(bufs, EVENTS * BLOCK, 6, 0);
    CHILD_CHECK(write(l->fd, bufs, EVENTS * BLOCK) == EVENTS * BLOCK);
    CHILD_CHECK(make(l, &ctx) == 0);
    for (uint64_t i = 0; i < EVENTS; i++) {
        events[i] = ioe_event_new();
        CHILD_CHECK(ioe_event_set_callback(events[i], hit_latch, &done) == 0);
    }
    for (unsigned long round = 1; round <= ROUNDS; round++) {
        memset(bufs, 0, EVENTS * BLOCK);
        for (uint64_t i = 0; i < EVENTS; i++) {
            int fd = i % 4 < 2 ? l->direct : l->fd;
            CHILD_CHECK((i % 10 == 8   ? ioe_prep_fsync(events[i], fd)
                         : i % 10 == 9 ? ioe_prep_fallocate(events[i], fd, FALLOC_FL_KEEP_SIZE, 0,
                                                            BLOCK)
                                       : ioe_prep_read(events[i], fd, bufs + i * BLOCK, BLOCK,
                                                       i * BLOCK)) == 0);
        }
        CHILD_CHECK(ioe_submit_batch(ctx, events, EVENTS) == EVENTS);
        /* All of them in one call, or one at a time, or as few as there are. */
        while ((l->how->flags & IOE_POLLED) && latch_count(&done) < round * EVENTS)
            CHILD_CHECK(ioe_poll(ctx, round % 3 == 0 ? EVENTS : round % 3 == 1, -1) >= 0);
        CHILD_CHECK(ioe_drain(ctx, -1) == 0);
        CHILD_CHECK(latch_count(&done) == round * EVENTS);
        for (uint64_t i = 0; i < EVENTS; i++) {
            bool reads = ioe_event_action(events[i]) == IOE_READ;
            CHILD_CHECK(ioe_event_result(events[i]) == (reads ? BLOCK : 0));
            CHILD_CHECK(!reads || pattern_holds(bufs + i * BLOCK, BLOCK, 6, i * BLOCK));
        }
    }
    for (uint64_t i = 0; i < EVENTS; i++)
        CHILD_CHECK(ioe_event_free(events[i]) == 0);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    ioe_buffer_free(bufs);
    return 0;
}

static void kernel_and_pool_work_side_by_side(void **state)
{
    lack ring = {.how = *state,
                 .driver = IOE_DRIVER_URING,
                 .ring_lacks = OP(FALLOCATE) | OP(FSYNC)};
    lack aio = {.how = *state, .driver = IOE_DRIVER_AIO};
    run_case(both_have_work, &ring);
    run_case(both_have_work, &aio);
}

/* ---- errors ---- */

static int run_one(ioe_context *ctx, ioe_event *event, int64_t *result)
{
    latch done = LATCH_INIT;
    CHILD_CHECK(ioe_event_set_callback(event, hit_latch, &done) == 0);
    CHILD_CHECK(ioe_submit(ctx, event) == 0);
    CHILD_CHECK(ioe_drain(ctx, -1) == 0);
    CHILD_CHECK(latch_count(&done) == 1);
    *result = ioe_event_result(event);
    return 0;
}

/* What each kind of refusal sends to the pool afterwards: nothing. */
static int errors_exile_nothing(void *arg)
{
    enum { BLOCK = 4096 };
    lack *l = arg;
    ioe_context *ctx = NULL;
    ioe_event *event = ioe_event_new();
    uint8_t *buf = ioe_buffer_alloc(BLOCK, 0);
    int64_t result = 0;
    int unseekable[2];
    CHILD_CHECK(event != NULL && buf != NULL && pipe2(unseekable, O_CLOEXEC) == 0);
    /* On the disk, so that alignment is asked for. */
    CHILD_CHECK(write(l->fd, buf, BLOCK) == BLOCK && syscall(SYS_fsync, l->fd) == 0);
    CHILD_CHECK(make(l, &ctx) == 0);
    l->plain[IOE_TRUNCATE] = l->plain[IOE_TRUNCATE] || lacks_truncate;
    for (int error = 0; error < 5; error++) {
        static const int64_t expected[] = {-EINVAL, -EOPNOTSUPP, -EBADF, -EFAULT, -EINVAL};
        CHILD_CHECK((error == 0   ? ioe_prep_read(event, l->direct, buf, 511, 1)
                     : error == 1 ? ioe_prep_fallocate(event, l->direct, -1, 0, BLOCK)
                     : error == 2 ? ioe_prep_fdatasync(event, -1)
                     : error == 3 ? ioe_prep_write(event, l->direct, (void *)4096, BLOCK, 0)
                                  : ioe_prep_fsync(event, unseekable[0])) == 0);
        CHILD_CHECK(run_one(ctx, event, &result) == 0);
        /* Some file systems take what is misaligned. */
        CHILD_CHECK(result == expected[error] || (error == 0 && result >= 0));
        forget_plain_calls();
        unsigned before = atomic_load(&submitted);
        CHILD_CHECK(every_action_works(ctx, l->direct) == 0);
        CHILD_CHECK(only_these_were_plain(l->plain) == 0);
        if (l->driver == IOE_DRIVER_AIO)
            CHILD_CHECK(atomic_load(&submitted) >= before + 7);
    }
    CHILD_CHECK(ioe_event_free(event) == 0);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    ioe_buffer_free(buf);
    return 0;
}

static void error_is_the_answer_to_one_operation(void **state)
{
    lack ring = {.how = *state, .driver = IOE_DRIVER_URING};
    lack aio = {.how = *state, .driver = IOE_DRIVER_AIO};
    lacks_of_aio(&aio);
    run_case(errors_exile_nothing, &ring);
    run_case(errors_exile_nothing, &aio);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(ring_lacks_nothing),
        for_each_delivery(ring_lacks_fallocate),
        for_each_delivery(ring_lacks_sync_range),
        for_each_delivery(ring_lacks_truncate),
        for_each_delivery(ring_lacks_advise),
        for_each_delivery(ring_lacks_fsync),
        for_each_delivery(ring_lacks_transfers),
        for_each_delivery(ring_lacks_everything),
        for_each_delivery(aio_lacks_all_else_and_buffered_files),
        for_each_delivery(kernel_and_pool_work_side_by_side),
        for_each_delivery(error_is_the_answer_to_one_operation),
    };
    unsetenv("IOE_DRIVER");
    return RUN_TESTS(tests);
}
