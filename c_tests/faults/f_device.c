/*
 * Promise: an error of the device is that operation's answer, once, with its own errno, and changes
 * nothing for the next: no driver is given up, and what failed goes on when the device does. Of many
 * slow operations in flight none is lost.
 *
 * IOE_TEST_DEVICE is a slow block device of at least 8 MiB, whose reads fail with EIO while there is
 * a file IOE_TEST_BAD_READS, and whose writes while there is a file IOE_TEST_BAD_WRITES.
 */
#include "../drivers.h"

enum { LEN = 65536, DEPTH = 64, MANY = 128 };

static void set_bad(const char *which, bool bad)
{
    const char *path = setting(which);
    if (!bad) {
        assert_true(unlink(path) == 0 || errno == ENOENT);
        return;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void mend(void)
{
    set_bad("IOE_TEST_BAD_READS", false);
    set_bad("IOE_TEST_BAD_WRITES", false);
}

static int open_device(int flags)
{
    int fd = open(setting("IOE_TEST_DEVICE"), O_RDWR | O_CLOEXEC | flags);
    assert_true(fd >= 0);
    return fd;
}

/* So that the device is asked. */
static void drop_cache(int fd)
{
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

typedef struct count {
    latch done;
    unsigned calls;
} count;

static void on_event(ioe_event *event, void *arg)
{
    count *c = arg;
    (void)event;
    __atomic_fetch_add(&c->calls, 1, __ATOMIC_SEQ_CST);
    latch_hit(&c->done);
}

/* Submits, or waits in place; the value is the result, told by one callback or none. */
static int64_t run(ioe_context *ctx, const way *w, ioe_event *e, bool waiting)
{
    count c = {.done = LATCH_INIT};
    assert_int_equal(ioe_event_set_callback(e, on_event, &c), 0);
    if (waiting)
        ioe_submit_wait(ctx, e);
    else
        assert_int_equal(ioe_submit(ctx, e), 0);
    if (!waiting)
        await(ctx, w->how, &c.done, 1);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(c.calls, waiting ? 0 : 1);
    return ioe_event_result(e);
}

static void check_transfers(ioe_context *ctx, const way *w, int fd, bool waiting)
{
    uint8_t *out = ioe_buffer_alloc(LEN, 0), *in = ioe_buffer_alloc(LEN, 0);
    assert_true(out != NULL && in != NULL);
    ioe_event *e = new_event();
    bool direct = fcntl(fd, F_GETFL) & O_DIRECT;
    pattern_fill(out, LEN, (uint64_t)fd + waiting, 0);

    set_bad("IOE_TEST_BAD_WRITES", true);
    assert_int_equal(ioe_prep_write(e, fd, out, LEN, LEN), 0);
    if (direct) {
        assert_int_equal(run(ctx, w, e, waiting), -EIO);
        assert_int_equal(ioe_event_transferred(e), 0);
    } else {
        /* The page cache takes it. Who syncs hears of the loss, and hears of it once. */
        assert_int_equal(run(ctx, w, e, waiting), LEN);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(again ? ioe_prep_fdatasync(e, fd) : ioe_prep_fsync(e, fd), 0);
            assert_int_equal(run(ctx, w, e, waiting), again ? 0 : -EIO);
        }
    }
    set_bad("IOE_TEST_BAD_WRITES", false);
    assert_int_equal(ioe_prep_write(e, fd, out, LEN, LEN), 0);
    assert_int_equal(run(ctx, w, e, waiting), LEN);
    assert_int_equal(ioe_prep_fsync(e, fd), 0);
    assert_int_equal(run(ctx, w, e, waiting), 0);

    drop_cache(fd);
    set_bad("IOE_TEST_BAD_READS", true);
    assert_int_equal(ioe_prep_read(e, fd, in, LEN, LEN), 0);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(run(ctx, w, e, waiting), -EIO);
        assert_int_equal(ioe_event_transferred(e), 0);
    }
    set_bad("IOE_TEST_BAD_READS", false);
    /* The same event goes on. */
    assert_int_equal(run(ctx, w, e, waiting), LEN);
    assert_memory_equal(in, out, LEN);

    assert_int_equal(ioe_event_free(e), 0);
    ioe_buffer_free(in);
    ioe_buffer_free(out);
}

static void error_is_told_once(void **state)
{
    const way *w = *state;
    mend();
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    for (int i = 0; i < 4; i++) {
        int fd = open_device(i & 1 ? O_DIRECT : 0);
        check_transfers(ctx, w, fd, i & 2);
        close(fd);
    }
    ioe_info info = get_info(ctx);
    assert_int_equal(info.driver, w->driver);
    assert_string_equal(info.reason, "");
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* Reads and writes by turns; while the reads are bad, each of them fails and no write does. */
static void errors_among_many(void **state)
{
    const way *w = *state;
    mend();
    ioe_context *ctx = new_context_in(w, DEPTH, MANY);
    int fds[] = {open_device(0), open_device(O_DIRECT)};
    uint8_t *out = ioe_buffer_alloc((size_t)MANY * 4096, 0);
    uint8_t *in = ioe_buffer_alloc((size_t)MANY * 4096, 0);
    static ioe_event *events[MANY];
    count c = {.done = LATCH_INIT};
    assert_true(out != NULL && in != NULL);
    for (uint64_t i = 0; i < MANY; i++) {
        events[i] = new_event();
        pattern_fill(out + i * 4096, 4096, 1, i * 4096);
        assert_int_equal(ioe_event_set_callback(events[i], on_event, &c), 0);
    }
    assert_int_equal(pwrite(fds[1], out, (size_t)MANY * 4096, 0), (size_t)MANY * 4096);
    drop_cache(fds[0]);
    set_bad("IOE_TEST_BAD_READS", true);
    for (uint64_t i = 0; i < MANY; i++) {
        /* Buffered reads below the half, which no write touches the pages of. */
        int fd = fds[i >= MANY / 2];
        uint64_t offset = i * 4096;
        int rc = i % 2 ? ioe_prep_write(events[i], fds[1], out + offset, 4096, offset + LEN * DEPTH)
                       : ioe_prep_read(events[i], fd, in + offset, 4096, offset);
        assert_int_equal(rc, 0);
        assert_int_equal(ioe_submit(ctx, events[i]), 0);
    }
    await(ctx, w->how, &c.done, MANY);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(c.calls, MANY);
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(ioe_event_result(events[i]), i % 2 ? 4096 : -EIO);
    set_bad("IOE_TEST_BAD_READS", false);
    for (uint64_t i = 0; i < MANY; i += 2)
        assert_int_equal(ioe_submit(ctx, events[i]), 0);
    await(ctx, w->how, &c.done, MANY + MANY / 2);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(c.calls, MANY + MANY / 2);
    for (uint64_t i = 0; i < MANY; i++) {
        assert_int_equal(ioe_event_result(events[i]), 4096);
        if (i % 2 == 0)
            assert_memory_equal(in + i * 4096, out + i * 4096, 4096);
        assert_int_equal(ioe_event_free(events[i]), 0);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    ioe_buffer_free(in);
    ioe_buffer_free(out);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(error_is_told_once),
        for_each_way(errors_among_many),
    };
    return RUN_TESTS(tests);
}
