/*
 * Promise: a transfer is whole, or ended by the end of the file, or an error, on every delivery
 * and on the calling thread alike; what got through is told even then, and the event submitted
 * again goes on from there.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "common.h"

#define LEN 65536
#define PAGE 4096
#define CANARY 0xA5

typedef int64_t (*run_fn)(ioe_context *ctx, const delivery *how, ioe_event *event);

static int64_t run_here(ioe_context *ctx, const delivery *how, ioe_event *event)
{
    (void)how;
    int64_t result = ioe_submit_wait(ctx, event);
    assert_int_equal(ioe_event_result(event), result);
    assert_true(ioe_event_is_done(event));
    return result;
}

static const run_fn runs[] = {run_event, run_here};

static uint8_t *new_buffer(size_t len)
{
    uint8_t *buf = ioe_buffer_alloc(len, 0);
    assert_non_null(buf);
    return buf;
}

static void store(int fd, const void *buf, size_t len, off_t offset)
{
    assert_int_equal(pwrite(fd, buf, len, offset), len);
}

/* ---- whole transfers ---- */

static void check_file(int fd, uint64_t seed, size_t len, off_t offset)
{
    uint8_t *buf = new_buffer(len);
    assert_int_equal(pread(fd, buf, len, offset), len);
    assert_true(pattern_holds(buf, len, seed, (uint64_t)offset));
    ioe_buffer_free(buf);
}

/* fd is what the engine works on, plain the same file as the test looks at it. */
static void check_whole(ioe_context *ctx, const delivery *how, run_fn run, int fd, int plain)
{
    ioe_event *e = new_event();
    uint8_t *out = new_buffer(LEN), *in = new_buffer(LEN);
    struct stat st;

    pattern_fill(out, LEN, 1, PAGE);
    assert_int_equal(ioe_prep_write(e, fd, out, LEN, PAGE), 0);
    assert_int_equal(run(ctx, how, e), LEN);
    assert_int_equal(ioe_event_transferred(e), LEN);
    assert_int_equal(ioe_prep_fsync(e, fd), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(ioe_event_transferred(e), 0);
    check_file(plain, 1, LEN, PAGE);
    assert_int_equal(fstat(plain, &st), 0);
    assert_int_equal(st.st_size, PAGE + LEN);

    memset(in, CANARY, LEN);
    assert_int_equal(ioe_prep_read(e, fd, in, LEN, PAGE), 0);
    assert_int_equal(run(ctx, how, e), LEN);
    assert_int_equal(ioe_event_transferred(e), LEN);
    assert_memory_equal(in, out, LEN);

    /* Vectored: the halves change places in memory, not in the file. */
    struct iovec iov[2] = {{out + LEN / 2, LEN / 2}, {out, LEN / 2}};
    pattern_fill(out + LEN / 2, LEN / 2, 2, 0);
    pattern_fill(out, LEN / 2, 2, LEN / 2);
    assert_int_equal(ioe_prep_writev(e, fd, iov, 2, 0), 0);
    assert_int_equal(run(ctx, how, e), LEN);
    assert_int_equal(ioe_prep_fdatasync(e, fd), 0);
    assert_int_equal(run(ctx, how, e), 0);
    check_file(plain, 2, LEN, 0);
    iov[0].iov_base = in + LEN / 2;
    iov[1].iov_base = in;
    memset(in, CANARY, LEN);
    assert_int_equal(ioe_prep_readv(e, fd, iov, 2, 0), 0);
    assert_int_equal(run(ctx, how, e), LEN);
    assert_memory_equal(in, out, LEN);

    /* Nothing at all is a whole transfer too. */
    assert_int_equal(ioe_prep_write(e, fd, out, 0, 0), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(ioe_prep_read(e, fd, in, 0, 0), 0);
    assert_int_equal(run(ctx, how, e), 0);

    assert_int_equal(ioe_prep_fallocate(e, fd, 0, PAGE, 4 * LEN), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(fstat(plain, &st), 0);
    assert_int_equal(st.st_size, PAGE + 4 * LEN);
    check_file(plain, 2, LEN, 0);
    assert_int_equal(ioe_prep_fallocate(e, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE),
                     0);
    assert_int_equal(run(ctx, how, e), 0);
    memset(out, 0, PAGE);
    assert_int_equal(pread(plain, in, PAGE, 0), PAGE);
    assert_memory_equal(in, out, PAGE);
    check_file(plain, 2, LEN - PAGE, PAGE);

    /* Shorter, and longer again: what was cut off is gone. */
    assert_int_equal(ioe_prep_truncate(e, fd, 2 * PAGE), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(ioe_event_transferred(e), 0);
    assert_int_equal(fstat(plain, &st), 0);
    assert_int_equal(st.st_size, 2 * PAGE);
    assert_int_equal(ioe_prep_truncate(e, fd, 3 * PAGE + 1), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(fstat(plain, &st), 0);
    assert_int_equal(st.st_size, 3 * PAGE + 1);
    check_file(plain, 2, PAGE, PAGE);
    memset(out, 0, PAGE + 1);
    assert_int_equal(pread(plain, in, 2 * PAGE, 2 * PAGE), PAGE + 1);
    assert_memory_equal(in, out, PAGE + 1);

    assert_int_equal(ioe_prep_sync_range(e, fd, PAGE, PAGE, SYNC_FILE_RANGE_WRITE), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(ioe_prep_advise(e, fd, PAGE, PAGE, POSIX_FADV_WILLNEED), 0);
    assert_int_equal(run(ctx, how, e), 0);
    assert_int_equal(ioe_event_transferred(e), 0);
    check_file(plain, 2, PAGE, PAGE);

    ioe_buffer_free(in);
    ioe_buffer_free(out);
    assert_int_equal(ioe_event_free(e), 0);
}

static void check_whole_in(const delivery *how, place where, int flags)
{
    ioe_context *ctx = new_context(how, 8, 64);
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        int plain = temp_file(where);
        int fd = flags & O_DIRECT ? open_direct(plain) : open_again(plain, O_RDWR);
        assert_true(fd >= 0);
        check_whole(ctx, how, runs[i], fd, plain);
        close(fd);
        close(plain);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* A kernel thread takes what is submitted: fewer system calls, the same transfers. */
static const delivery sqpoll = {"one worker, IOE_SQPOLL", IOE_SQPOLL, 1};
static const delivery sqpoll_polled = {"polled, IOE_SQPOLL", IOE_POLLED | IOE_SQPOLL, 0};

#define with_sqpoll(test)                                                                          \
    {#test ", one worker, IOE_SQPOLL", test, NULL, NULL, (void *)&sqpoll},                         \
    {#test ", polled, IOE_SQPOLL", test, NULL, NULL, (void *)&sqpoll_polled}

static void whole_on_disk(void **state)
{
    check_whole_in(*state, ON_DISK, 0);
}

static void whole_on_disk_direct(void **state)
{
    check_whole_in(*state, ON_DISK, O_DIRECT);
}

static void whole_in_memory(void **state)
{
    check_whole_in(*state, IN_MEMORY, 0);
}

static void whole_in_memory_direct(void **state)
{
    check_whole_in(*state, IN_MEMORY, O_DIRECT);
}

/* ---- the end of the file ---- */

/* One read; past its end the buffer must be as it was. */
static void check_read(ioe_context *ctx, const delivery *how, run_fn run, int fd, uint64_t size,
                       size_t len, uint64_t offset)
{
    uint64_t left = offset < size ? size - offset : 0;
    uint64_t expected = left < len ? left : len;
    uint8_t *buf = new_buffer(len + PAGE);
    ioe_event *e = new_event();
    memset(buf, CANARY, len + PAGE);
    assert_int_equal(ioe_prep_read(e, fd, buf, len, offset), 0);
    assert_int_equal(run(ctx, how, e), expected);
    assert_int_equal(ioe_event_transferred(e), expected);
    assert_true(pattern_holds(buf, expected, 3, offset));
    for (size_t i = len; i < len + PAGE; i++)
        assert_int_equal(buf[i], CANARY);
    /* A direct read may fill its last block; a buffered one writes what it read. */
    if (!(fcntl(fd, F_GETFL) & O_DIRECT))
        for (size_t i = expected; i < len; i++)
            assert_int_equal(buf[i], CANARY);
    assert_int_equal(ioe_event_free(e), 0);
    ioe_buffer_free(buf);
}

static void read_ends_with_the_file(void **state)
{
    const delivery *how = *state;
    static const size_t sizes[] = {0, 1, 4095, 4096, 10000};
    static const place places[] = {ON_DISK, IN_MEMORY};
    ioe_context *ctx = new_context(how, 8, 64);
    uint8_t *content = new_buffer(16384);
    pattern_fill(content, 16384, 3, 0);
    for (size_t i = 0; i < COUNT_OF(places) * COUNT_OF(runs) * COUNT_OF(sizes); i++) {
        size_t size = sizes[i % COUNT_OF(sizes)];
        run_fn run = runs[i / COUNT_OF(sizes) % COUNT_OF(runs)];
        int fd = temp_file(places[i / COUNT_OF(sizes) / COUNT_OF(runs)]);
        store(fd, content, size, 0);
        const uint64_t offsets[] = {0, size / 2, size > 0 ? size - 1 : 0, size, size + 1, 1u << 20,
                                    INT64_MAX - 20000};
        for (size_t j = 0; j < COUNT_OF(offsets); j++) {
            uint64_t left = offsets[j] < size ? size - offsets[j] : 0;
            const size_t lens[] = {0, 1, left > 0 ? left - 1 : 0, left, left + 1, 16384};
            for (size_t k = 0; k < COUNT_OF(lens); k++)
                check_read(ctx, how, run, fd, size, lens[k], offsets[j]);
        }
        close(fd);
    }
    ioe_buffer_free(content);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* The end is in the middle of a block: no place a direct read could be continued from. */
static void check_direct_end(const delivery *how, place where)
{
    static const size_t sizes[] = {0, 1, 511, 512, 4096, 8192 + 123, 12288};
    int probe = temp_file(where);
    close(open_direct(probe));
    close(probe);
    ioe_context *ctx = new_context(how, 8, 64);
    uint8_t *content = new_buffer(16384);
    pattern_fill(content, 16384, 3, 0);
    for (size_t i = 0; i < COUNT_OF(runs) * COUNT_OF(sizes); i++) {
        size_t size = sizes[i % COUNT_OF(sizes)];
        int plain = temp_file(where);
        store(plain, content, size, 0);
        int fd = open_direct(plain);
        for (uint64_t offset = 0; offset <= 20480; offset += PAGE)
            for (size_t len = PAGE; len <= 32768; len *= 2)
                check_read(ctx, how, runs[i / COUNT_OF(sizes)], fd, size, len, offset);
        close(fd);
        close(plain);
    }
    ioe_buffer_free(content);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void direct_read_ends_with_the_file_on_disk(void **state)
{
    check_direct_end(*state, ON_DISK);
}

static void direct_read_ends_with_the_file_in_memory(void **state)
{
    check_direct_end(*state, IN_MEMORY);
}

static void read_goes_on_when_the_file_has_grown(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    uint8_t *content = new_buffer(8192), *buf = new_buffer(8192);
    pattern_fill(content, 8192, 3, 0);
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        int fd = temp_file(ON_DISK);
        ioe_event *e = new_event();
        memset(buf, CANARY, 8192);
        assert_int_equal(ioe_prep_read(e, fd, buf, 4096, 100), 0);
        assert_int_equal(runs[i](ctx, how, e), 0);
        store(fd, content, 1000, 0);
        assert_int_equal(runs[i](ctx, how, e), 900);
        /* Not grown: the same again. */
        assert_int_equal(runs[i](ctx, how, e), 900);
        assert_int_equal(ioe_event_transferred(e), 900);
        /* What was read is not read again: other bytes there must not show. */
        memset(content, 0, 1000);
        store(fd, content, 1500, 0);
        assert_int_equal(runs[i](ctx, how, e), 1400);
        assert_int_equal(ioe_event_transferred(e), 1400);
        assert_int_equal(ioe_event_offset(e), 100);
        assert_int_equal(ioe_event_size(e), 4096);
        assert_ptr_equal(ioe_event_buffer(e), buf);
        store(fd, content, 8192, 0);
        assert_int_equal(runs[1 - i](ctx, how, e), 4096);
        assert_true(pattern_holds(buf, 4096, 3, 100));
        for (size_t j = 4096; j < 8192; j++)
            assert_int_equal(buf[j], CANARY);
        ASSERT_CALL(ioe_submit(ctx, e), -EINVAL);
        /* A new preparation begins anew. */
        assert_int_equal(ioe_prep_read(e, fd, buf, 4096, 100), 0);
        assert_int_equal(ioe_event_transferred(e), 0);
        assert_int_equal(runs[i](ctx, how, e), 4096);
        assert_memory_equal(buf, content + 100, 4096);
        pattern_fill(content, 1000, 3, 0);
        assert_int_equal(ioe_event_free(e), 0);
        close(fd);
    }
    ioe_buffer_free(buf);
    ioe_buffer_free(content);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* A direct read cannot begin where the file ended off a block, but the event goes on all the same. */
static void direct_read_goes_on_when_the_file_has_grown(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    uint8_t *content = new_buffer(16384), *buf = new_buffer(16384);
    pattern_fill(content, 16384, 3, 0);
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        int fd = temp_file(ON_DISK);
        int direct = open_direct(fd);
        ioe_event *e = new_event();
        store(fd, content, 5000, 0);
        assert_int_equal(fsync(fd), 0);
        assert_int_equal(ioe_prep_read(e, direct, buf, 16384, 0), 0);
        assert_int_equal(runs[i](ctx, how, e), 5000);
        assert_int_equal(runs[i](ctx, how, e), 5000);
        store(fd, content, 9000, 0);
        assert_int_equal(fsync(fd), 0);
        assert_int_equal(runs[1 - i](ctx, how, e), 9000);
        assert_int_equal(ioe_event_transferred(e), 9000);
        store(fd, content, 16384, 0);
        assert_int_equal(fsync(fd), 0);
        assert_int_equal(runs[i](ctx, how, e), 16384);
        assert_memory_equal(buf, content, 16384);
        assert_int_equal(ioe_event_free(e), 0);
        close(direct);
        close(fd);
    }
    ioe_buffer_free(buf);
    ioe_buffer_free(content);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* ---- errors in the middle ---- */

/* The second half of the buffer cannot be touched at first: the transfer fails there, tells what
 * got through, and goes on once the memory is there. */
static void check_fault(const delivery *how, int action, place where)
{
    ioe_context *ctx = new_context(how, 8, 64);
    uint8_t *content = new_buffer(LEN);
    pattern_fill(content, LEN, 4, 0);
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        int fd = temp_file(where);
        uint8_t *buf = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(buf != MAP_FAILED);
        ioe_event *e = new_event();
        if (action == IOE_READ) {
            store(fd, content, LEN, 0);
            assert_int_equal(ioe_prep_read(e, fd, buf, LEN, 0), 0);
        } else {
            memcpy(buf, content, LEN);
            assert_int_equal(ioe_prep_write(e, fd, buf, LEN, 0), 0);
        }
        assert_int_equal(mprotect(buf + LEN / 2, LEN / 2, PROT_NONE), 0);
        assert_int_equal(runs[i](ctx, how, e), -EFAULT);
        uint64_t through = ioe_event_transferred(e);
        assert_true(through > 0 && through <= LEN / 2);
        if (action == IOE_READ)
            assert_memory_equal(buf, content, through);
        else
            check_file(fd, 4, through, 0);

        assert_int_equal(mprotect(buf + LEN / 2, LEN / 2, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(runs[i](ctx, how, e), LEN);
        assert_int_equal(ioe_event_transferred(e), LEN);
        assert_memory_equal(buf, content, LEN);
        check_file(fd, 4, LEN, 0);
        ASSERT_CALL(ioe_submit(ctx, e), -EINVAL);
        assert_int_equal(ioe_event_free(e), 0);
        assert_int_equal(munmap(buf, LEN), 0);
        close(fd);
    }
    ioe_buffer_free(content);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void failed_read_tells_what_got_through_and_goes_on(void **state)
{
    check_fault(*state, IOE_READ, ON_DISK);
    check_fault(*state, IOE_READ, IN_MEMORY);
}

static void failed_write_tells_what_got_through_and_goes_on(void **state)
{
    check_fault(*state, IOE_WRITE, ON_DISK);
    check_fault(*state, IOE_WRITE, IN_MEMORY);
}

static void failed_event_without_progress_is_tried_again(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    /* A mode the kernel refuses, every time it is asked. */
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_fallocate(e, fd, -1, 0, PAGE), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run_event(ctx, how, e), -EOPNOTSUPP);
        assert_int_equal(run_here(ctx, how, e), -EOPNOTSUPP);
        assert_int_equal(ioe_event_transferred(e), 0);
    }
    assert_int_equal(ioe_prep_fallocate(e, fd, 0, 0, 0), 0);
    assert_int_equal(run_event(ctx, how, e), -EINVAL);
    assert_int_equal(run_here(ctx, how, e), -EINVAL);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- many at once, and the accounts ---- */

static void many_transfers_each_hit_their_place(void **state)
{
    enum { COUNT = 300, SMALL = 1536 };
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 16, 1024);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    uint8_t *buf = new_buffer(COUNT * SMALL);
    ioe_event *events[COUNT];
    pattern_fill(buf, COUNT * SMALL, 5, 0);
    for (size_t i = 0; i < COUNT; i++) {
        events[i] = new_event();
        assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
        assert_int_equal(ioe_prep_write(events[i], fd, buf + i * SMALL, SMALL, i * SMALL), 0);
        assert_int_equal(ioe_submit(ctx, events[i]), 0);
    }
    await(ctx, how, &done, COUNT);
    check_file(fd, 5, COUNT * SMALL, 0);
    memset(buf, CANARY, COUNT * SMALL);
    for (size_t i = 0; i < COUNT; i++) {
        size_t j = COUNT - 1 - i;
        assert_int_equal(ioe_event_result(events[i]), SMALL);
        assert_int_equal(ioe_prep_read(events[i], fd, buf + j * SMALL, SMALL, j * SMALL), 0);
    }
    assert_int_equal(ioe_submit_batch(ctx, events, COUNT), COUNT);
    await(ctx, how, &done, 2 * COUNT);
    assert_true(pattern_holds(buf, COUNT * SMALL, 5, 0));
    assert_int_equal(ioe_drain(ctx, -1), 0);
    ioe_stats stats = get_stats(ctx);
    assert_int_equal(stats.accepted, 2 * COUNT);
    assert_int_equal(stats.completed, 2 * COUNT);
    assert_int_equal(stats.failed, 0);
    assert_int_equal(stats.bytes_written, COUNT * SMALL);
    assert_int_equal(stats.bytes_read, COUNT * SMALL);
    assert_int_equal(stats.in_flight, 0);
    assert_true(stats.operations + stats.merged >= 2 * COUNT);
    assert_true(stats.system_calls > 0);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    ioe_buffer_free(buf);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

static void stats_see_failures_and_waiting_callers(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    uint8_t *buf = new_buffer(PAGE);
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, fd, buf, PAGE, 0), 0);
    assert_int_equal(run_here(ctx, how, e), PAGE);
    assert_int_equal(ioe_prep_read(e, fd, buf, PAGE, 1), 0);
    assert_int_equal(run_here(ctx, how, e), PAGE - 1);
    assert_int_equal(ioe_prep_read(e, -1, buf, PAGE, 0), 0);
    assert_int_equal(run_here(ctx, how, e), -EBADF);
    assert_int_equal(run_event(ctx, how, e), -EBADF);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    ioe_stats stats = get_stats(ctx);
    assert_int_equal(stats.accepted, 4);
    assert_int_equal(stats.completed, 4);
    assert_int_equal(stats.failed, 2);
    assert_int_equal(stats.bytes_written, PAGE);
    assert_int_equal(stats.bytes_read, PAGE - 1);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(ioe_event_free(e), 0);
    ioe_buffer_free(buf);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- memory ---- */

static void buffers_are_aligned_and_zero(void **state)
{
    (void)state;
    static const size_t lens[] = {1, 100, 4096, 5000, 1u << 20};
    static const size_t aligns[] = {0, 1, 8, 512, 4096, 65536, 1u << 21};
    for (size_t i = 0; i < COUNT_OF(lens); i++)
        for (size_t j = 0; j < COUNT_OF(aligns); j++) {
            errno = ERRNO_MARK;
            uint8_t *buf = ioe_buffer_alloc(lens[i], aligns[j]);
            assert_non_null(buf);
            assert_int_equal((uintptr_t)buf % (aligns[j] > 0 ? aligns[j] : PAGE), 0);
            for (size_t k = 0; k < lens[i]; k++)
                assert_int_equal(buf[k], 0);
            /* Used memory does not come back dirty. */
            memset(buf, CANARY, lens[i]);
            ioe_buffer_free(buf);
            assert_int_equal(errno, ERRNO_MARK);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(whole_on_disk),
        with_sqpoll(whole_on_disk),
        for_each_delivery(whole_on_disk_direct),
        with_sqpoll(whole_on_disk_direct),
        for_each_delivery(whole_in_memory),
        for_each_delivery(whole_in_memory_direct),
        for_each_delivery(read_ends_with_the_file),
        with_sqpoll(read_ends_with_the_file),
        for_each_delivery(direct_read_ends_with_the_file_on_disk),
        for_each_delivery(direct_read_ends_with_the_file_in_memory),
        for_each_delivery(read_goes_on_when_the_file_has_grown),
        for_each_delivery(direct_read_goes_on_when_the_file_has_grown),
        for_each_delivery(failed_read_tells_what_got_through_and_goes_on),
        for_each_delivery(failed_write_tells_what_got_through_and_goes_on),
        for_each_delivery(failed_event_without_progress_is_tried_again),
        for_each_delivery(many_transfers_each_hit_their_place),
        with_sqpoll(many_transfers_each_hit_their_place),
        for_each_delivery(stats_see_failures_and_waiting_callers),
        cmocka_unit_test(buffers_are_aligned_and_zero),
    };
    return RUN_TESTS(tests);
}
