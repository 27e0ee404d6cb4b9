/*
 * Promise: on Linux AIO each operation gets its own answer, however io_submit(2) takes a batch, and
 * the driver is what it says: direct transfers and syncs go to io_submit, all else does not, and
 * completions that are there are taken without a system call.
 */
#include <linux/aio_abi.h>

#include "intercept.h"
#include "plain.h"

enum { BLOCK = 4096, DEPTH = 64, BLOCKS = 256 };

/* ---- between the driver and the kernel ---- */

/* What io_submit(2) takes of a batch at most; 0 for all of it. */
static atomic_uint most_taken;
/* So many calls take nothing: EAGAIN. One in so many does so as well; 0 for none. */
static atomic_uint refusals_left, one_in;
/* Of a batch, those after the first so many are refused with EAGAIN at the next call; 0 for none. */
static atomic_uint refuse_after;

/* Counted: calls, the longest batch, and operations by command. */
static atomic_uint getevents_calls, longest_batch;
static atomic_uint handed_over[IOCB_CMD_PWRITEV + 1];

static unsigned longer(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static bool answer_submit(long a[6], long *result)
{
    struct iocb **batch = (struct iocb **)a[2];
    static atomic_uint calls;
    const unsigned every = atomic_load(&one_in), most = atomic_load(&most_taken);
    atomic_store(&longest_batch, longer(atomic_load(&longest_batch), (unsigned)a[1]));
    if (take_one(&refusals_left) || (every > 0 && atomic_fetch_add(&calls, 1) % every == 0)) {
        *result = -EAGAIN;
        return true;
    }
    if (most > 0 && a[1] > (long)most)
        a[1] = (long)most;
    if (atomic_load(&refuse_after) > 0 && a[1] > (long)atomic_load(&refuse_after)) {
        a[1] = (long)atomic_load(&refuse_after);
        atomic_store(&refusals_left, 3);
    }
    *result = ask_kernel(SYS_io_submit, a);
    for (long i = 0; i < *result; i++)
        if (batch[i]->aio_lio_opcode < COUNT_OF(handed_over))
            atomic_fetch_add(&handed_over[batch[i]->aio_lio_opcode], 1);
    return true;
}

static bool answer_call(long number, long a[6], long *result)
{
    if (number == SYS_io_getevents)
        atomic_fetch_add(&getevents_calls, 1);
    return number == SYS_io_submit && a[1] > 0 && answer_submit(a, result);
}

static void as_the_kernel_likes(void)
{
    atomic_store(&most_taken, 0);
    atomic_store(&refusals_left, 0);
    atomic_store(&one_in, 0);
    atomic_store(&refuse_after, 0);
}

static void count_anew(void)
{
    atomic_store(&getevents_calls, 0);
    atomic_store(&longest_batch, 0);
    for (size_t i = 0; i < COUNT_OF(handed_over); i++)
        atomic_store(&handed_over[i], 0);
    forget_plain_calls();
}

/* ---- a file, and events on it ---- */

typedef struct bench {
    int fd, direct;
    uint8_t *bufs;
    ioe_event *events[BLOCKS];
    latch done;
} bench;

static void bench_open(bench *b)
{
    as_the_kernel_likes();
    *b = (bench){.done = LATCH_INIT};
    b->fd = temp_file(ON_DISK);
    b->direct = open_direct(b->fd);
    b->bufs = ioe_buffer_alloc(BLOCKS * BLOCK, 0);
    assert_non_null(b->bufs);
    pattern_fill(b->bufs, BLOCKS * BLOCK, 1, 0);
    assert_int_equal(pwrite(b->fd, b->bufs, BLOCKS * BLOCK, 0), BLOCKS * BLOCK);
    assert_int_equal(fsync(b->fd), 0);
    for (size_t i = 0; i < BLOCKS; i++) {
        b->events[i] = new_event();
        assert_int_equal(ioe_event_set_callback(b->events[i], hit_latch, &b->done), 0);
    }
}

/* What it takes to make one does not count. */
static ioe_context *bench_context(const delivery *how, uint32_t queue_size)
{
    ioe_context *ctx = new_context(how, DEPTH, queue_size);
    count_anew();
    return ctx;
}

static void bench_close(bench *b)
{
    as_the_kernel_likes();
    for (size_t i = 0; i < BLOCKS; i++)
        assert_int_equal(ioe_event_free(b->events[i]), 0);
    ioe_buffer_free(b->bufs);
    close(b->direct);
    close(b->fd);
}

static void bench_prepare_reads(bench *b, size_t count, int fd)
{
    memset(b->bufs, 0, count * BLOCK);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ioe_prep_read(b->events[i], fd, b->bufs + i * BLOCK, BLOCK, i * BLOCK), 0);
}

static void bench_check_reads(const bench *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(ioe_event_result(b->events[i]), BLOCK);
        assert_true(pattern_holds(b->bufs + i * BLOCK, BLOCK, 1, i * BLOCK));
    }
}

/* ---- errors in a batch ---- */

enum { FIVE = 5 };

/* The one with a bad descriptor stops io_submit(2) there, at every place, and in a row. */
static void bad_descriptor_stops_no_other(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, DEPTH);
    unsigned long submitted = 0;
    for (unsigned bad = 0; bad < 1 << FIVE; bad++) {
        bench_prepare_reads(&b, FIVE, b.direct);
        for (unsigned i = 0; i < FIVE; i++)
            if (bad >> i & 1)
                assert_int_equal(ioe_prep_read(b.events[i], -1, b.bufs, BLOCK, 0), 0);
        ASSERT_CALL(ioe_submit_batch(ctx, b.events, FIVE), FIVE);
        submitted += FIVE;
        await(ctx, how, &b.done, submitted);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        assert_int_equal(latch_count(&b.done), submitted);
        for (unsigned i = 0; i < FIVE; i++) {
            assert_int_equal(ioe_event_result(b.events[i]), bad >> i & 1 ? -EBADF : BLOCK);
            assert_true(bad >> i & 1 ||
                        pattern_holds(b.bufs + i * BLOCK, BLOCK, 1, (uint64_t)i * BLOCK));
        }
    }
    /* The good ones went there too, the polled ones five at a time. */
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREAD]), (FIVE << FIVE) / 2);
    assert_int_equal(atomic_load(&plain_calls[IOE_READ]), 0);
    if (how->flags & IOE_POLLED)
        assert_in_range(atomic_load(&longest_batch), FIVE, FIVE + 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

/* A security module's word on one file is not one on the driver. */
static void refused_file_stops_no_other(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, DEPTH);
    for (unsigned long round = 1; round <= 3; round++) {
        int read_only = open_again(b.fd, O_RDONLY | O_DIRECT);
        assert_true(read_only >= 0);
        bench_prepare_reads(&b, FIVE, b.direct);
        assert_int_equal(ioe_prep_write(b.events[2], read_only, b.bufs, BLOCK, 0), 0);
        ASSERT_CALL(ioe_submit_batch(ctx, b.events, FIVE), FIVE);
        await(ctx, how, &b.done, round * FIVE);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        for (unsigned i = 0; i < FIVE; i++)
            assert_int_equal(ioe_event_result(b.events[i]), i == 2 ? -EBADF : BLOCK);
        assert_int_equal(get_info(ctx).driver, IOE_DRIVER_AIO);
        close(read_only);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

/* ---- batches taken in parts ---- */

static void read_all(bench *b, ioe_context *ctx, const delivery *how)
{
    unsigned long before = latch_count(&b->done);
    bench_prepare_reads(b, BLOCKS, b->direct);
    ASSERT_CALL(ioe_submit_batch(ctx, b->events, BLOCKS), BLOCKS);
    await(ctx, how, &b->done, before + BLOCKS);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&b->done), before + BLOCKS);
    bench_check_reads(b, BLOCKS);
}

static void batch_is_taken_in_parts(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, BLOCKS);
    for (unsigned most = 1; most <= 3; most++) {
        atomic_store(&most_taken, most);
        read_all(&b, ctx, how);
    }
    assert_true(atomic_load(&longest_batch) > 3);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREAD]), 3 * BLOCKS);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

static void nothing_is_taken_for_a_while(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, BLOCKS);
    /* At first; at random; in the middle of a batch, again and again. */
    for (unsigned times = 1; times <= 5; times++) {
        atomic_store(&refusals_left, times);
        read_all(&b, ctx, how);
    }
    for (unsigned chance = 2; chance <= 4; chance++) {
        atomic_store(&one_in, chance);
        read_all(&b, ctx, how);
    }
    as_the_kernel_likes();
    for (unsigned taken = 1; taken <= DEPTH / 2; taken *= 2) {
        atomic_store(&refuse_after, taken);
        read_all(&b, ctx, how);
    }
    assert_int_equal(get_info(ctx).driver, IOE_DRIVER_AIO);
    assert_int_equal(atomic_load(&plain_calls[IOE_READ]), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

/* A kernel that takes nothing any more is given up, sooner or later, and the pool goes on. */
static void nothing_is_taken_for_ever(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, BLOCKS);
    atomic_store(&one_in, 1);
    read_all(&b, ctx, how);
    assert_int_equal(atomic_load(&plain_calls[IOE_READ]), BLOCKS);
    ioe_info info = get_info(ctx);
    assert_int_equal(info.driver, IOE_DRIVER_POOL);
    assert_int_equal(info.aio_errno, EAGAIN);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

/* ---- what goes where ---- */

static void direct_transfers_and_syncs_are_submitted(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    struct iovec parts[2] = {{b.bufs, BLOCK}, {b.bufs + BLOCK, BLOCK}};
    ioe_context *ctx = bench_context(how, BLOCKS);
    enum { ROUNDS = 20 };
    for (int round = 0; round < ROUNDS; round++) {
        ioe_event *e = b.events[0];
        for (int buffered = 0; buffered < 2; buffered++) {
            const int fd = buffered ? b.fd : b.direct;
            assert_int_equal(ioe_prep_write(e, fd, b.bufs, BLOCK, 0), 0);
            assert_int_equal(run_event(ctx, how, e), BLOCK);
            assert_int_equal(ioe_prep_writev(e, fd, parts, 2, BLOCK), 0);
            assert_int_equal(run_event(ctx, how, e), 2 * BLOCK);
            assert_int_equal(ioe_prep_fdatasync(e, fd), 0);
            assert_int_equal(run_event(ctx, how, e), 0);
            assert_int_equal(ioe_prep_fsync(e, fd), 0);
            assert_int_equal(run_event(ctx, how, e), 0);
            assert_int_equal(ioe_prep_read(e, fd, b.bufs, BLOCK, 0), 0);
            assert_int_equal(run_event(ctx, how, e), BLOCK);
            assert_int_equal(ioe_prep_readv(e, fd, parts, 2, 0), 0);
            assert_int_equal(run_event(ctx, how, e), 2 * BLOCK);
            assert_int_equal(ioe_prep_fallocate(e, fd, 0, 0, BLOCK), 0);
            assert_int_equal(run_event(ctx, how, e), 0);
            assert_int_equal(ioe_prep_sync_range(e, fd, 0, BLOCK, SYNC_FILE_RANGE_WRITE), 0);
            assert_int_equal(run_event(ctx, how, e), 0);
            assert_int_equal(ioe_prep_truncate(e, fd, 3 * BLOCK), 0);
            assert_int_equal(run_event(ctx, how, e), 0);
            assert_int_equal(ioe_prep_advise(e, fd, 0, BLOCK, POSIX_FADV_NORMAL), 0);
            assert_int_equal(run_event(ctx, how, e), 0);
        }
    }
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREAD]), ROUNDS);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREADV]), ROUNDS);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PWRITE]), ROUNDS);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PWRITEV]), ROUNDS);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_FSYNC]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_FDSYNC]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&plain_calls[IOE_READ]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&plain_calls[IOE_WRITE]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&plain_calls[IOE_FSYNC]), 0);
    assert_int_equal(atomic_load(&plain_calls[IOE_FDATASYNC]), 0);
    assert_int_equal(atomic_load(&plain_calls[IOE_FALLOCATE]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&plain_calls[IOE_SYNC_RANGE]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&plain_calls[IOE_TRUNCATE]), 2 * ROUNDS);
    assert_int_equal(atomic_load(&plain_calls[IOE_ADVISE]), 2 * ROUNDS);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

/* O_DIRECT is a matter of the moment: F_SETFL changes it. */
static void direct_is_asked_for_each_time(void **state)
{
    const delivery *how = *state;
    bench b;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, BLOCKS);
    int flags = fcntl(b.direct, F_GETFL);
    for (unsigned round = 1; round <= 3; round++) {
        assert_int_equal(fcntl(b.direct, F_SETFL, flags & ~O_DIRECT), 0);
        bench_prepare_reads(&b, 1, b.direct);
        assert_int_equal(run_event(ctx, how, b.events[0]), BLOCK);
        assert_int_equal(atomic_load(&plain_calls[IOE_READ]), round);
        assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREAD]), round - 1);
        assert_int_equal(fcntl(b.direct, F_SETFL, flags | O_DIRECT), 0);
        bench_prepare_reads(&b, 1, b.direct);
        assert_int_equal(run_event(ctx, how, b.events[0]), BLOCK);
        assert_int_equal(atomic_load(&plain_calls[IOE_READ]), round);
        assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREAD]), round);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

/* ---- completions without a system call ---- */

static void completions_are_taken_without_a_call(void **state)
{
    enum { ROUNDS = 50 };
    const delivery *how = &deliveries[0];
    bench b;
    (void)state;
    bench_open(&b);
    ioe_context *ctx = bench_context(how, DEPTH);
    /* Looked for, not waited for: never. */
    for (unsigned long round = 1; round <= ROUNDS; round++) {
        bench_prepare_reads(&b, DEPTH, b.direct);
        ASSERT_CALL(ioe_submit_batch(ctx, b.events, DEPTH), DEPTH);
        while (latch_count(&b.done) < round * DEPTH)
            assert_true(ioe_poll(ctx, 0, 0) >= 0);
        bench_check_reads(&b, DEPTH);
    }
    assert_int_equal(atomic_load(&getevents_calls), 0);
    assert_int_equal(atomic_load(&handed_over[IOCB_CMD_PREAD]), ROUNDS * DEPTH);
    /* Waited for, all of them: once for each wait, and not for each completion. */
    for (unsigned long round = 1; round <= ROUNDS; round++) {
        bench_prepare_reads(&b, DEPTH, b.direct);
        ASSERT_CALL(ioe_submit_batch(ctx, b.events, DEPTH), DEPTH);
        ASSERT_CALL(ioe_poll(ctx, DEPTH, -1), DEPTH);
        bench_check_reads(&b, DEPTH);
    }
    printf("# %u calls for %u completions\n", atomic_load(&getevents_calls), ROUNDS * DEPTH);
    assert_true(atomic_load(&getevents_calls) <= 2 * ROUNDS);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(bad_descriptor_stops_no_other),
        for_each_delivery(refused_file_stops_no_other),
        for_each_delivery(batch_is_taken_in_parts),
        for_each_delivery(nothing_is_taken_for_a_while),
        {"nothing_is_taken_for_ever, polled", nothing_is_taken_for_ever, NULL, NULL,
         (void *)&deliveries[0]},
        for_each_delivery(direct_transfers_and_syncs_are_submitted),
        for_each_delivery(direct_is_asked_for_each_time),
        cmocka_unit_test(completions_are_taken_without_a_call),
    };
    setenv("IOE_DRIVER", "aio", 1);
    return RUN_TESTS(tests);
}
