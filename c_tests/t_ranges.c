/*
 * Promise: sync_range, truncate and advise ask the kernel for just what the program asked, however long
 * the range is, through every call that submits; they do what they say, and its errno arrives. They
 * are not joined, no barrier waits for them, and a failed sync_range is never asked for again.
 */
#include <sys/stat.h>

#include "notes.h"

typedef struct request {
    int action;
    uint64_t offset, len;
    int how; /* flags, or advice */
} request;

static void prepare(ioe_event *event, int fd, const request *r)
{
    if (r->action == IOE_TRUNCATE)
        assert_int_equal(ioe_prep_truncate(event, fd, r->len), 0);
    else if (r->action == IOE_ADVISE)
        assert_int_equal(ioe_prep_advise(event, fd, r->offset, r->len, r->how), 0);
    else
        assert_int_equal(ioe_prep_sync_range(event, fd, r->offset, r->len, (uint32_t)r->how), 0);
}

/* What the kernel says to the program itself. */
static int64_t plain_answer(int fd, const request *r)
{
    const long number = r->action == IOE_TRUNCATE ? SYS_ftruncate
                        : r->action == IOE_ADVISE ? SYS_fadvise64
                                                  : SYS_sync_file_range;
    if (r->action == IOE_TRUNCATE)
        return ask_kernel(number, (long[6]){fd, (long)r->len});
    return ask_kernel(number, (long[6]){fd, (long)r->offset, (long)r->len, r->how});
}

/* ---- the calls that submit ---- */

enum { BY_SUBMIT, BY_BATCH, BY_WAIT, CALLS };

static int64_t run_by(int call, ioe_context *ctx, const delivery *how, ioe_event *event)
{
    latch done = LATCH_INIT;
    switch (call) {
    case BY_SUBMIT:
        return run_event(ctx, how, event);
    case BY_BATCH:
        assert_int_equal(ioe_event_set_callback(event, hit_latch, &done), 0);
        assert_int_equal(ioe_submit_batch(ctx, &event, 1), 1);
        await(ctx, how, &done, 1);
        return ioe_event_result(event);
    default:
        return ioe_submit_wait(ctx, event);
    }
}

/* ---- what the kernel is asked ---- */

#define FOUR_GIB (UINT64_C(1) << 32)
#define ALL_FLAGS (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)

static const request requests[] = {
    {IOE_SYNC_RANGE, 0, 0, 0},
    {IOE_SYNC_RANGE, BLOCK, 3 * BLOCK, SYNC_FILE_RANGE_WRITE},
    {IOE_SYNC_RANGE, 1, FOUR_GIB - 1, ALL_FLAGS},
    {IOE_SYNC_RANGE, FOUR_GIB + 1, 1, SYNC_FILE_RANGE_WAIT_BEFORE},
    {IOE_SYNC_RANGE, 5, FOUR_GIB, SYNC_FILE_RANGE_WRITE},
    {IOE_SYNC_RANGE, 3 * FOUR_GIB + 5, 2 * FOUR_GIB + 7, SYNC_FILE_RANGE_WAIT_AFTER},
    {IOE_SYNC_RANGE, 0, INT64_MAX, SYNC_FILE_RANGE_WRITE},
    {IOE_TRUNCATE, 0, 0, 0},
    {IOE_TRUNCATE, 0, 1, 0},
    {IOE_TRUNCATE, 0, FOUR_GIB - 1, 0},
    {IOE_TRUNCATE, 0, FOUR_GIB, 0},
    {IOE_TRUNCATE, 0, 16 * FOUR_GIB + 3, 0},
    {IOE_TRUNCATE, 0, INT64_MAX, 0},
    {IOE_TRUNCATE, 0, BLOCK, 0},
    {IOE_ADVISE, 0, 0, POSIX_FADV_NORMAL},
    {IOE_ADVISE, BLOCK, 2 * BLOCK, POSIX_FADV_WILLNEED},
    {IOE_ADVISE, 1, FOUR_GIB - 1, POSIX_FADV_SEQUENTIAL},
    {IOE_ADVISE, FOUR_GIB + 1, 1, POSIX_FADV_RANDOM},
    {IOE_ADVISE, 5, FOUR_GIB, POSIX_FADV_DONTNEED},
    {IOE_ADVISE, 3 * FOUR_GIB + 5, 2 * FOUR_GIB + 7, POSIX_FADV_NOREUSE},
    {IOE_ADVISE, 0, INT64_MAX, POSIX_FADV_DONTNEED},
};

static void kernel_is_asked_for_just_that(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    ioe_event *event = new_event();
    for (size_t i = 0; i < COUNT_OF(requests) * CALLS; i++) {
        const request *r = &requests[i / CALLS];
        const int call = (int)(i % CALLS);
        const size_t before = count_operations(s->fd, r->action);
        prepare(event, s->fd, r);
        assert_int_equal(run_by(call, s->ctx, how, event), plain_answer(s->other, r));
        assert_int_equal(ioe_event_transferred(event), 0);
        assert_int_equal(count_operations(s->fd, r->action), before + 1);
        const operation op = find_operation(s->fd, 1u << r->action, before);
        assert_int_equal(op.offset, r->offset);
        assert_int_equal(op.len, r->len);
        assert_int_equal(op.mode, r->how);
        /* A ring's entry has 32 bits for the length of a range. (Truncation came to rings later.) */
        if (tested_driver == IOE_DRIVER_URING && call != BY_WAIT && r->action != IOE_TRUNCATE)
            assert_int_equal(op.by, r->len < FOUR_GIB ? BY_RING : BY_CALL);
        if (call == BY_WAIT)
            assert_int_equal(op.thread, gettid());
        if (r->action == IOE_TRUNCATE)
            assert_int_equal(lseek(s->fd, 0, SEEK_END), lseek(s->other, 0, SEEK_END));
    }
    assert_int_equal(ioe_event_free(event), 0);
    leave_scene(s);
}

static void errno_is_the_kernels(void **state)
{
    static const struct {
        enum { NONE, PIPE, READER, PLAIN } file;
        request request;
        int64_t result;
    } cases[] = {
        {NONE, {IOE_SYNC_RANGE, 0, BLOCK, SYNC_FILE_RANGE_WRITE}, -EBADF},
        {NONE, {IOE_TRUNCATE, 0, BLOCK, 0}, -EBADF},
        {NONE, {IOE_ADVISE, 0, BLOCK, POSIX_FADV_NORMAL}, -EBADF},
        {PIPE, {IOE_SYNC_RANGE, 0, BLOCK, SYNC_FILE_RANGE_WRITE}, -ESPIPE},
        {PIPE, {IOE_TRUNCATE, 0, BLOCK, 0}, -EINVAL},
        {PIPE, {IOE_ADVISE, 0, BLOCK, POSIX_FADV_NORMAL}, -ESPIPE},
        {READER, {IOE_SYNC_RANGE, 0, BLOCK, SYNC_FILE_RANGE_WRITE}, 0},
        {READER, {IOE_TRUNCATE, 0, BLOCK, 0}, -EINVAL},
        {READER, {IOE_ADVISE, 0, BLOCK, POSIX_FADV_NORMAL}, 0},
        {PLAIN, {IOE_SYNC_RANGE, 0, BLOCK, 8}, -EINVAL},
        {PLAIN, {IOE_SYNC_RANGE, 0, BLOCK, -1}, -EINVAL},
        {PLAIN, {IOE_SYNC_RANGE, 0, 2 * FOUR_GIB, 8}, -EINVAL},
        {PLAIN, {IOE_ADVISE, 0, BLOCK, -1}, -EINVAL},
        {PLAIN, {IOE_ADVISE, 0, 2 * FOUR_GIB, 100}, -EINVAL},
    };
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, DEPTH, QUEUE);
    ioe_event *event = new_event();
    int ends[2];
    const int plain = temp_file(ON_DISK), reader = open_again(plain, O_RDONLY);
    assert_true(reader >= 0 && pipe2(ends, O_CLOEXEC) == 0);
    const int fds[] = {-1, ends[0], reader, plain};
    for (size_t i = 0; i < COUNT_OF(cases) * CALLS; i++) {
        const request *r = &cases[i / CALLS].request;
        prepare(event, fds[cases[i / CALLS].file], r);
        errno = 77;
        assert_int_equal(run_by((int)(i % CALLS), ctx, how, event), cases[i / CALLS].result);
        assert_int_equal(errno, 77);
        assert_int_equal(ioe_event_transferred(event), 0);
    }
    assert_int_equal(ioe_event_free(event), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(ends[0]);
    close(ends[1]);
    close(reader);
    close(plain);
}

/* ---- what they do ---- */

static void truncation_sets_the_size(void **state)
{
    static const off_t sizes[] = {0, 10 * BLOCK, BLOCK + 1, 3 * BLOCK, 0, 1, 64 * BLOCK + 5, 0};
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, DEPTH, QUEUE);
    ioe_event *event = new_event();
    const int fd = temp_file(ON_DISK);
    for (size_t i = 0; i < COUNT_OF(sizes) * CALLS; i++) {
        struct stat st;
        const off_t size = sizes[i / CALLS];
        assert_int_equal(ftruncate(fd, (off_t)(i % 2) * 5 * BLOCK), 0);
        prepare(event, fd, &(request){IOE_TRUNCATE, 0, (uint64_t)size, 0});
        assert_int_equal(run_by((int)(i % CALLS), ctx, how, event), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, size);
    }
    assert_int_equal(ioe_event_free(event), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* Dropped from the page cache, and read into it again. */
static void advice_is_heard(void **state)
{
    enum { PAGES = 32, SIZE = PAGES * BLOCK };
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, DEPTH, QUEUE);
    ioe_event *event = new_event();
    const int fd = temp_file(ON_DISK);
    for (int call = 0; call < CALLS; call++) {
        fill_file(fd, SIZE);
        assert_int_equal(count_cached(fd, 0, SIZE), PAGES);
        /* What is written still, or looked at, stays. */
        for (int i = 0; i < 100 && count_cached(fd, 0, SIZE) > 0; i++) {
            assert_int_equal(fsync(fd), 0);
            prepare(event, fd, &(request){IOE_ADVISE, 0, SIZE, POSIX_FADV_DONTNEED});
            assert_int_equal(run_by(call, ctx, how, event), 0);
        }
        if (count_cached(fd, 0, SIZE) > 0) {
            drop_from_cache(fd, SIZE);
            fail_msg("the kernel can drop them, and was not asked to");
        }
        prepare(event, fd, &(request){IOE_ADVISE, 0, SIZE, POSIX_FADV_WILLNEED});
        assert_int_equal(run_by(call, ctx, how, event), 0);
        /* It has begun. */
        while (count_cached(fd, 0, SIZE) < PAGES)
            sched_yield();
    }
    assert_int_equal(ioe_event_free(event), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- what they are not ---- */

static const request each[] = {
    {IOE_SYNC_RANGE, 0, BLOCK, SYNC_FILE_RANGE_WRITE},
    {IOE_TRUNCATE, 0, BLOCK, 0},
    {IOE_ADVISE, 0, BLOCK, POSIX_FADV_NORMAL},
};

/* Neighbours, where others would be merged: all are in the kernel at once, and a barrier is done before
 * any of them. */
static void neither_joined_nor_waited_for(void **state)
{
    enum { SAME = 3, MANY = SAME * COUNT_OF(each) };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    ASSERT_CALL(ioe_context_free(s->ctx), 0);
    s->ctx = new_merging_context(how, DEPTH, QUEUE, MANY * BLOCK);
    s->before = get_stats(s->ctx);
    note *notes = new_notes(MANY, &s->done);
    latch synced = LATCH_INIT;
    note *barrier = new_notes(1, &synced);
    for (size_t i = 0; i < COUNT_OF(each); i++)
        hold_next(s->fd, each[i].action, SAME);
    for (size_t i = 0; i < MANY; i++) {
        request r = each[i % COUNT_OF(each)];
        r.offset = i / COUNT_OF(each) * BLOCK;
        prepare(notes[i].event, s->fd, &r);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    }
    await_held(s->ctx, how, MANY);
    submit_barrier(s->ctx, barrier, s->fd, IOE_FDATASYNC);
    await_latch(s->ctx, how, &synced, 1);
    check_note(barrier, 0);
    assert_int_equal(latch_count(&s->done), 0);
    let_go(MANY);
    await_latch(s->ctx, how, &s->done, MANY);
    for (size_t i = 0; i < MANY; i++)
        check_note(&notes[i], 0);
    assert_int_equal(get_stats(s->ctx).merged, s->before.merged);
    assert_int_equal(get_stats(s->ctx).syncs_joined, s->before.syncs_joined);
    assert_int_equal(get_stats(s->ctx).operations, s->before.operations + MANY + 1);
    free_notes(notes, MANY);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* A sync_range that waits takes the file's error, so that a second one would say yes. The others are
 * asked again for what only passes by. */
static void failed_sync_range_is_not_asked_again(void **state)
{
    static const int errors[] = {EINTR, EAGAIN, EIO, ENOSPC};
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    ioe_event *event = new_event();
    for (size_t i = 0; i < COUNT_OF(errors) * COUNT_OF(each) * CALLS; i++) {
        const request *r = &each[i / CALLS % COUNT_OF(each)];
        const int error = errors[i / CALLS / COUNT_OF(each)];
        const bool again = r->action != IOE_SYNC_RANGE && (error == EINTR || error == EAGAIN);
        const size_t before = count_operations(s->fd, r->action);
        fail_next(s->fd, r->action, 1, error);
        prepare(event, s->fd, r);
        assert_int_equal(run_by((int)(i % CALLS), s->ctx, how, event), again ? 0 : -error);
        assert_int_equal(count_operations(s->fd, r->action), before + (again ? 2 : 1));
    }
    assert_int_equal(ioe_event_free(event), 0);
    leave_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(kernel_is_asked_for_just_that),
        for_each_delivery(errno_is_the_kernels),
        for_each_delivery(truncation_sets_the_size),
        for_each_delivery(advice_is_heard),
        for_each_delivery(neither_joined_nor_waited_for),
        for_each_delivery(failed_sync_range_is_not_asked_again),
    };
    return RUN_TESTS(tests);
}
