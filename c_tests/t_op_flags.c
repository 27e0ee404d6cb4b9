/*
 * Promise: the flags of an event reach the kernel, on every driver, and do there what preadv2(2) says;
 * what kernel, file or driver lacks is refused in the callback; what makes no sense is refused at
 * once. Flags and priority stay until the next prep, and only like is merged with like.
 */
#include <linux/ioprio.h>

#include "merging.h"
#include "notes.h"

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif

#define BEST_EFFORT(level) (IOPRIO_CLASS_BE << 13 | (level))
#define IDLE (IOPRIO_CLASS_IDLE << 13)

enum { EVENTS_FLAGS = IOE_HIPRI | IOE_DSYNC | IOE_NOWAIT | IOE_APPEND | IOE_ATOMIC | IOE_DONTCACHE };

_Static_assert(IOE_HIPRI == RWF_HIPRI && IOE_DSYNC == RWF_DSYNC && IOE_NOWAIT == RWF_NOWAIT &&
                   IOE_APPEND == RWF_APPEND && IOE_DONTCACHE == RWF_DONTCACHE,
               "the kernel's numbers");

/* As set_scene, with files on a disk. */
static scene *set_scene_on_disk(const delivery *how)
{
    scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    *s = (scene){.how = how, .fd = temp_file(ON_DISK), .other = temp_file(ON_DISK), .done = LATCH_INIT};
    s->ctx = new_context_with(how, DEPTH, QUEUE, 0);
    watch_operations((int[]){s->fd, s->other}, 2);
    s->before = get_stats(s->ctx);
    return s;
}

static int64_t run(scene *s, ioe_event *event)
{
    return run_event(s->ctx, s->how, event);
}

/* ---- what is refused at once ---- */

static void prepare_action(ioe_event *event, int action, int fd)
{
    static uint8_t bytes[BLOCK];
    switch (action) {
    case IOE_READ:
        assert_int_equal(ioe_prep_read(event, fd, bytes, BLOCK, 0), 0);
        break;
    case IOE_WRITE:
        assert_int_equal(ioe_prep_write(event, fd, memory, BLOCK, 0), 0);
        break;
    case IOE_FALLOCATE:
        assert_int_equal(ioe_prep_fallocate(event, fd, 0, 0, BLOCK), 0);
        break;
    case IOE_SYNC_RANGE:
        assert_int_equal(ioe_prep_sync_range(event, fd, 0, BLOCK, SYNC_FILE_RANGE_WRITE), 0);
        break;
    case IOE_TRUNCATE:
        assert_int_equal(ioe_prep_truncate(event, fd, BLOCK), 0);
        break;
    case IOE_ADVISE:
        assert_int_equal(ioe_prep_advise(event, fd, 0, BLOCK, POSIX_FADV_NORMAL), 0);
        break;
    default:
        prepare_sync(event, fd, action);
        break;
    }
}

static void flags_must_fit_the_action(void **state)
{
    ioe_event *event = new_event();
    (void)state;
    ASSERT_CALL(ioe_event_set_flags(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_event_set_flags(event, 0), -EINVAL);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_DSYNC), -EINVAL);
    for (int action = IOE_READ; action <= IOE_ADVISE; action++) {
        const bool syncs = action == IOE_FSYNC || action == IOE_FDATASYNC;
        const uint32_t allowed = action == IOE_READ    ? IOE_HIPRI | IOE_NOWAIT | IOE_DONTCACHE
                                 : action == IOE_WRITE ? EVENTS_FLAGS
                                 : syncs               ? IOE_BARRIER
                                                       : 0;
        prepare_action(event, action, 5);
        ASSERT_CALL(ioe_event_set_flags(event, 0), 0);
        for (unsigned bit = 0; bit < 32; bit++) {
            const uint32_t flag = UINT32_C(1) << bit;
            ASSERT_CALL(ioe_event_set_flags(event, flag), flag & allowed ? 0 : -EINVAL);
            if (allowed != 0)
                ASSERT_CALL(ioe_event_set_flags(event, flag | allowed), flag & allowed ? 0 : -EINVAL);
        }
        ASSERT_CALL(ioe_event_set_flags(event, UINT32_MAX), -EINVAL);
        assert_int_equal(ioe_event_action(event), action);
        assert_int_equal(ioe_event_fd(event), 5);
    }
    assert_int_equal(ioe_event_free(event), 0);
}

static void priority_must_be_one(void **state)
{
    static const int good[] = {0, 1 << 13, 1 << 13 | 7, 2 << 13 | 4, 2 << 13 | 7, 3 << 13, 3 << 13 | 7};
    static const int bad[] = {1, 7, 4 << 13, 7 << 13, 1 << 13 | 8, 2 << 13 | 8, 3 << 13 | 9, -1,
                              8191, 1 << 16, 1 << 30, INT32_MAX, INT32_MIN};
    ioe_event *event = new_event();
    (void)state;
    ASSERT_CALL(ioe_event_set_priority(NULL, 0), -EINVAL);
    ASSERT_CALL(ioe_event_set_priority(event, 0), -EINVAL);
    for (int action = IOE_READ; action <= IOE_ADVISE; action++) {
        prepare_action(event, action, 5);
        const bool moves = action == IOE_READ || action == IOE_WRITE;
        for (size_t i = moves ? 0 : 1; i < COUNT_OF(good); i++)
            ASSERT_CALL(ioe_event_set_priority(event, good[i]), moves ? 0 : -EINVAL);
        for (size_t i = 0; i < COUNT_OF(bad); i++)
            ASSERT_CALL(ioe_event_set_priority(event, bad[i]), -EINVAL);
    }
    assert_int_equal(ioe_event_free(event), 0);
}

static void time_limit_must_not_be_negative(void **state)
{
    static const int64_t good[] = {0, 1, 1000, INT64_MAX}, bad[] = {-1, -1000, INT64_MIN};
    ioe_event *event = new_event();
    (void)state;
    ASSERT_CALL(ioe_event_set_timeout(NULL, 1), -EINVAL);
    ASSERT_CALL(ioe_event_set_timeout(event, 1), -EINVAL);
    for (int action = IOE_READ; action <= IOE_ADVISE; action++) {
        prepare_action(event, action, 5);
        for (size_t i = 0; i < COUNT_OF(good); i++)
            ASSERT_CALL(ioe_event_set_timeout(event, good[i]), 0);
        for (size_t i = 0; i < COUNT_OF(bad); i++)
            ASSERT_CALL(ioe_event_set_timeout(event, bad[i]), -EINVAL);
    }
    assert_int_equal(ioe_event_free(event), 0);
}

/* ---- how long they stay ---- */

static void flags_stay_until_the_next_prep(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene_on_disk(how);
    ioe_event *event = new_event();
    prepare_action(event, IOE_WRITE, s->fd);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_DSYNC), 0);
    ASSERT_CALL(ioe_event_set_priority(event, BEST_EFFORT(7)), 0);
    /* What is refused changes nothing. */
    ASSERT_CALL(ioe_event_set_flags(event, IOE_BARRIER), -EINVAL);
    ASSERT_CALL(ioe_event_set_priority(event, 1), -EINVAL);
    fail_next(s->fd, IOE_WRITE, 1, ENOSPC);
    assert_int_equal(run(s, event), -ENOSPC);
    assert_int_equal(run(s, event), BLOCK);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(find_operation(s->fd, WRITES, i).flags, RWF_DSYNC);
        assert_int_equal(find_operation(s->fd, WRITES, i).priority, BEST_EFFORT(7));
    }
    prepare_action(event, IOE_WRITE, s->fd);
    assert_int_equal(run(s, event), BLOCK);
    assert_int_equal(find_operation(s->fd, WRITES, 2).flags, 0);
    assert_int_not_equal(find_operation(s->fd, WRITES, 2).priority, BEST_EFFORT(7));
    /* Another value takes the place of the one before. */
    prepare_action(event, IOE_WRITE, s->fd);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_DSYNC), 0);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_APPEND), 0);
    assert_int_equal(run(s, event), BLOCK);
    assert_int_equal(find_operation(s->fd, WRITES, 3).flags, RWF_APPEND);
    prepare_action(event, IOE_WRITE, s->fd);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_DSYNC), 0);
    ASSERT_CALL(ioe_event_set_flags(event, 0), 0);
    assert_int_equal(run(s, event), BLOCK);
    assert_int_equal(find_operation(s->fd, WRITES, 4).flags, 0);
    /* One that completes whole takes them along to the next submission. */
    prepare_action(event, IOE_READ, s->other);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_HIPRI), 0);
    assert_int_equal(run(s, event), -EOPNOTSUPP);
    assert_int_equal(run(s, event), -EOPNOTSUPP);
    prepare_action(event, IOE_READ, s->other);
    assert_int_equal(run(s, event), 0);
    assert_int_equal(ioe_event_free(event), 0);
    leave_scene(s);
}

/* A rest that is asked for after a short transfer, and one asked for again, have them as well. */
static void continuations_have_the_flags(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *n = new_notes(1, &s->done);
    prepare_write(n, s->fd, 0, 2);
    ASSERT_CALL(ioe_event_set_flags(n->event, IOE_DSYNC), 0);
    ASSERT_CALL(ioe_event_set_priority(n->event, IDLE), 0);
    hold_next(s->fd, IOE_WRITE, 2);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    await_held(s->ctx, how, 1);
    assert_true(let_one_go(0, 1000));
    await_held(s->ctx, how, 1);
    assert_true(let_one_go(0, -EINTR));
    await(s->ctx, how, &s->done, 1);
    check_note(n, 2 * BLOCK);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(find_operation(s->fd, WRITES, i).flags, RWF_DSYNC);
        assert_int_equal(find_operation(s->fd, WRITES, i).priority, IDLE);
    }
    free_notes(n, 1);
    leave_scene(s);
}

/* ---- what the kernel makes of them ---- */

/* Through the page cache and past it, plain and vectored: each way to the kernel has the flag. */
static void flags_reach_the_kernel(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, DEPTH, QUEUE);
    for (int direct = 0; direct <= 1; direct++)
        for (int vectored = 0; vectored <= 1; vectored++)
            for (int waits = 0; waits <= 1; waits++) {
                const int fd = temp_file(ON_DISK), use = direct ? open_direct(fd) : fd;
                uint8_t *bytes = ioe_buffer_alloc(2 * BLOCK, 0);
                const struct iovec parts[2] = {{bytes, BLOCK}, {bytes + BLOCK, BLOCK}};
                ioe_event *event = new_event();
                assert_non_null(bytes);
                pattern_fill(bytes, 2 * BLOCK, 4, 0);
                watch_operations(&use, 1);
                assert_int_equal(vectored ? ioe_prep_writev(event, use, parts, 2, BLOCK)
                                          : ioe_prep_write(event, use, bytes, 2 * BLOCK, BLOCK),
                                 0);
                ASSERT_CALL(ioe_event_set_flags(event, IOE_DSYNC), 0);
                if (waits)
                    ASSERT_CALL(ioe_submit_wait(ctx, event), 2 * BLOCK);
                else
                    assert_int_equal(run_event(ctx, how, event), 2 * BLOCK);
                memset(bytes, 0, 2 * BLOCK);
                /* Cached, it is there at once; past the cache it may have to wait. */
                assert_int_equal(vectored ? ioe_prep_readv(event, use, parts, 2, BLOCK)
                                          : ioe_prep_read(event, use, bytes, 2 * BLOCK, BLOCK),
                                 0);
                ASSERT_CALL(ioe_event_set_flags(event, IOE_NOWAIT), 0);
                const int64_t got = waits ? ioe_submit_wait(ctx, event) : run_event(ctx, how, event);
                assert_true(got == 2 * BLOCK || (direct && got == -EAGAIN));
                if (got > 0)
                    assert_true(pattern_holds(bytes, 2 * BLOCK, 4, 0));
                assert_int_equal(count_operations(use, IOE_WRITE), 1);
                assert_int_equal(find_operation(use, WRITES, 0).flags, RWF_DSYNC);
                assert_int_equal(find_operation(use, WRITES, 0).offset, BLOCK);
                assert_int_equal(count_operations(use, IOE_READ), 1);
                assert_int_equal(find_operation(use, READS, 0).flags, RWF_NOWAIT);
                stop_watching_operations();
                assert_int_equal(ioe_event_free(event), 0);
                ioe_buffer_free(bytes);
                if (direct)
                    close(use);
                close(fd);
            }
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

/* What would have to wait is told, and not asked for again. */
static void nowait_is_told(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene_on_disk(how);
    static uint8_t bytes[16 * BLOCK];
    ioe_event *event = new_event();
    fill_file(s->fd, sizeof bytes);
    for (int waits = 0; waits <= 1; waits++) {
        int64_t result = 0;
        /* The kernel begins to read ahead before it says no, and may be there first. */
        for (int i = 0; i < 1000 && result != -EAGAIN; i++) {
            const size_t asked = count_operations(s->fd, IOE_READ);
            const uint64_t operations = get_stats(s->ctx).operations;
            drop_from_cache(s->fd, sizeof bytes);
            assert_int_equal(ioe_prep_read(event, s->fd, bytes, sizeof bytes, 0), 0);
            ASSERT_CALL(ioe_event_set_flags(event, IOE_NOWAIT), 0);
            result = waits ? ioe_submit_wait(s->ctx, event) : run(s, event);
            if (result == -EAGAIN)
                assert_int_equal(ioe_event_transferred(event), 0);
            else
                assert_int_equal(result, sizeof bytes);
            assert_int_equal(count_operations(s->fd, IOE_READ) - asked, 1);
            assert_int_equal(get_stats(s->ctx).operations - operations, 1);
        }
        assert_int_equal(result, -EAGAIN);
        /* Without the flag it is read, and then it is there. */
        assert_int_equal(ioe_prep_read(event, s->fd, bytes, sizeof bytes, 0), 0);
        assert_int_equal(run(s, event), sizeof bytes);
        memset(bytes, 0, sizeof bytes);
        assert_int_equal(ioe_prep_read(event, s->fd, bytes, sizeof bytes, 0), 0);
        ASSERT_CALL(ioe_event_set_flags(event, IOE_NOWAIT), 0);
        assert_int_equal(waits ? ioe_submit_wait(s->ctx, event) : run(s, event), sizeof bytes);
        assert_true(pattern_holds(bytes, sizeof bytes, 2, 0));
    }
    /* It was asked for: no failure. */
    assert_int_equal(get_stats(s->ctx).failed, 0);
    assert_int_equal(ioe_event_free(event), 0);
    leave_scene(s);
}

/* What got through before is kept, and the event can be submitted again for the rest. */
static void nowait_keeps_what_it_got(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene_on_disk(how);
    static uint8_t bytes[2 * BLOCK];
    note *n = new_notes(1, &s->done);
    fill_file(s->fd, sizeof bytes);
    hold_nowait();
    hold_next(s->fd, IOE_READ, 2);
    assert_int_equal(ioe_prep_read(n->event, s->fd, bytes, sizeof bytes, 0), 0);
    ASSERT_CALL(ioe_event_set_flags(n->event, IOE_NOWAIT), 0);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    await_held(s->ctx, how, 1);
    assert_true(let_one_go(0, BLOCK));
    await_held(s->ctx, how, 1);
    assert_true(let_one_go(0, -EAGAIN));
    await(s->ctx, how, &s->done, 1);
    check_note(n, -EAGAIN);
    assert_int_equal(n->transferred, BLOCK);
    assert_int_equal(count_operations(s->fd, IOE_READ), 2);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    await(s->ctx, how, &s->done, 2);
    assert_int_equal(n->result, sizeof bytes);
    assert_true(pattern_holds(bytes, sizeof bytes, 2, 0));
    free_notes(n, 1);
    leave_scene(s);
}

/* Wherever the file ends by then, whatever the offset; also what is left of a short one. */
static void append_goes_to_the_end(void **state)
{
    enum { EACH = 12 };
    const delivery *how = *state;
    for (int direct = 0; direct <= 1; direct++) {
        scene *s = set_scene_on_disk(how);
        const int use = direct ? open_direct(s->fd) : s->fd;
        uint8_t *bytes = ioe_buffer_alloc(EACH * BLOCK, 0), block[BLOCK];
        note *notes = new_notes(EACH, &s->done);
        bool found[EACH] = {false};
        assert_non_null(bytes);
        fill_file(s->fd, BLOCK);
        for (size_t i = 0; i < EACH; i++) {
            memset(bytes + i * BLOCK, (int)i + 1, BLOCK);
            assert_int_equal(ioe_prep_write(notes[i].event, use, bytes + i * BLOCK, BLOCK, i % 3 * BLOCK), 0);
            ASSERT_CALL(ioe_event_set_flags(notes[i].event, IOE_APPEND), 0);
        }
        for (size_t i = 0; i < EACH - 1; i++)
            ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
        await(s->ctx, how, &s->done, EACH - 1);
        ASSERT_CALL(ioe_submit_wait(s->ctx, notes[EACH - 1].event), BLOCK);
        const int reader = open_again(s->fd, O_RDONLY);
        assert_int_equal(lseek(reader, 0, SEEK_END), (1 + EACH) * BLOCK);
        assert_int_equal(pread(reader, block, BLOCK, 0), BLOCK);
        assert_true(pattern_holds(block, BLOCK, 2, 0));
        for (size_t i = 0; i < EACH; i++) {
            assert_int_equal(pread(reader, block, BLOCK, (off_t)((1 + i) * BLOCK)), BLOCK);
            assert_in_range(block[0], 1, EACH);
            assert_memory_equal(block, bytes + (size_t)(block[0] - 1) * BLOCK, BLOCK);
            assert_false(found[block[0] - 1]);
            found[block[0] - 1] = true;
        }
        /* The last one, as it was waited for. */
        assert_int_equal(block[0], EACH);
        for (size_t i = 0; i < EACH - 1; i++)
            check_note(&notes[i], BLOCK);
        close(reader);
        free_notes(notes, EACH);
        ioe_buffer_free(bytes);
        if (direct)
            close(use);
        leave_scene(s);
    }
}

static void short_append_goes_on_at_the_end(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    static uint8_t bytes[2 * BLOCK], file[3 * BLOCK];
    note *n = new_notes(1, &s->done);
    fill_file(s->fd, BLOCK);
    pattern_fill(bytes, sizeof bytes, 7, BLOCK);
    assert_int_equal(ioe_prep_write(n->event, s->fd, bytes, sizeof bytes, 0), 0);
    ASSERT_CALL(ioe_event_set_flags(n->event, IOE_APPEND), 0);
    hold_next(s->fd, IOE_WRITE, 1);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    await_held(s->ctx, how, 1);
    assert_true(let_one_go(0, 1000));
    await(s->ctx, how, &s->done, 1);
    check_note(n, sizeof bytes);
    stop_watching_operations();
    assert_int_equal(pread(s->fd, file, sizeof file, 0), sizeof file);
    assert_true(pattern_holds(file, BLOCK, 2, 0));
    assert_true(pattern_holds(file + BLOCK, sizeof bytes, 7, BLOCK));
    free_notes(n, 1);
    leave_scene(s);
}

/* It works, and leaves nothing behind in the cache, or it is refused. */
static void dontcache_leaves_no_pages(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene_on_disk(how);
    static uint8_t bytes[16 * BLOCK];
    ioe_event *event = new_event();
    fill_file(s->fd, sizeof bytes);
    for (int waits = 0; waits <= 1; waits++) {
        drop_from_cache(s->fd, sizeof bytes);
        assert_int_equal(ioe_prep_read(event, s->fd, bytes, sizeof bytes, 0), 0);
        ASSERT_CALL(ioe_event_set_flags(event, IOE_DONTCACHE), 0);
        const int64_t result = waits ? ioe_submit_wait(s->ctx, event) : run(s, event);
        if (result == -EOPNOTSUPP) {
            printf("# the kernel or the file system lacks RWF_DONTCACHE\n");
            assert_int_equal(ioe_event_transferred(event), 0);
            continue;
        }
        assert_int_equal(result, sizeof bytes);
        assert_true(pattern_holds(bytes, sizeof bytes, 2, 0));
        assert_int_equal(count_cached(s->fd, 0, sizeof bytes), 0);
    }
    assert_int_equal(ioe_event_free(event), 0);
    leave_scene(s);
}

/* Not on a file that cannot, on no driver, and nothing is written. */
static void what_is_lacking_is_refused_in_the_callback(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene_on_disk(how);
    static uint8_t bytes[BLOCK];
    const int direct = open_direct(s->fd);
    uint8_t *aligned = ioe_buffer_alloc(BLOCK, 0);
    ioe_event *event = new_event();
    const int files[] = {s->fd, direct};
    assert_non_null(aligned);
    for (int waits = 0; waits <= 1; waits++)
        for (size_t f = 0; f < COUNT_OF(files); f++)
            for (int action = IOE_READ; action <= IOE_WRITE; action++) {
                assert_int_equal(action == IOE_READ ? ioe_prep_read(event, files[f], aligned, BLOCK, 0)
                                                    : ioe_prep_write(event, files[f], aligned, BLOCK, 0),
                                 0);
                ASSERT_CALL(ioe_event_set_flags(event, IOE_HIPRI), 0);
                assert_int_equal(waits ? ioe_submit_wait(s->ctx, event) : run(s, event), -EOPNOTSUPP);
                assert_int_equal(ioe_event_transferred(event), 0);
            }
    /* No file is written through the cache atomically; tmpfs not at all. */
    const int plain[] = {s->fd, temp_file(IN_MEMORY)};
    for (int waits = 0; waits <= 1; waits++)
        for (size_t f = 0; f < COUNT_OF(plain); f++) {
            assert_int_equal(ioe_prep_write(event, plain[f], bytes, BLOCK, 0), 0);
            ASSERT_CALL(ioe_event_set_flags(event, IOE_ATOMIC), 0);
            assert_int_equal(waits ? ioe_submit_wait(s->ctx, event) : run(s, event), -EOPNOTSUPP);
        }
    assert_int_equal(lseek(s->fd, 0, SEEK_END), 0);
    assert_int_equal(lseek(plain[1], 0, SEEK_END), 0);
    /* Where the device can it is whole. */
    assert_int_equal(ioe_prep_write(event, direct, aligned, BLOCK, 0), 0);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_ATOMIC), 0);
    const int64_t atomic = run(s, event);
    printf("# an atomic write: %s\n", atomic < 0 ? ioe_strerror((int)atomic) : "whole");
    assert_true(atomic == BLOCK || atomic == -EOPNOTSUPP);
    assert_int_equal(ioe_event_free(event), 0);
    ioe_buffer_free(aligned);
    close(plain[1]);
    close(direct);
    leave_scene(s);
}

/* ---- priority ---- */

static void priority_reaches_the_kernel(void **state)
{
    static const int priorities[] = {BEST_EFFORT(7), BEST_EFFORT(0), IDLE, 0, BEST_EFFORT(3)};
    const delivery *how = *state;
    for (int direct = 0; direct <= 1; direct++) {
        scene *s = set_scene_on_disk(how);
        const int use = direct ? open_direct(s->other) : s->other;
        uint8_t *bytes = ioe_buffer_alloc(BLOCK, 0);
        ioe_event *event = new_event();
        assert_non_null(bytes);
        watch_operations(&use, 1);
        for (size_t i = 0; i < COUNT_OF(priorities); i++) {
            assert_int_equal(ioe_prep_write(event, use, bytes, BLOCK, 0), 0);
            ASSERT_CALL(ioe_event_set_priority(event, priorities[i]), 0);
            assert_int_equal(i % 2 == 0 ? run(s, event) : ioe_submit_wait(s->ctx, event), BLOCK);
            const operation op = find_operation(use, WRITES, i);
            if (priorities[i] != 0)
                assert_int_equal(op.priority, priorities[i]);
            else
                for (size_t j = 0; j < COUNT_OF(priorities); j++)
                    assert_true(priorities[j] == 0 || op.priority != priorities[j]);
        }
        /* The thread that did it has no priority left for others. */
        for (size_t i = 0; i < 20; i++) {
            assert_int_equal(ioe_prep_write(event, use, bytes, BLOCK, 0), 0);
            assert_int_equal(run(s, event), BLOCK);
            const operation op = find_operation(use, WRITES, COUNT_OF(priorities) + i);
            for (size_t j = 0; j < COUNT_OF(priorities); j++)
                assert_true(priorities[j] == 0 || op.priority != priorities[j]);
        }
        assert_int_equal(ioe_event_free(event), 0);
        ioe_buffer_free(bytes);
        if (direct)
            close(use);
        leave_scene(s);
    }
}

/* ---- merging ---- */

/* Eight neighbours, of which the second half may have flags or a priority: how many operations. */
typedef struct mixture {
    uint32_t flags[2];
    int priorities[2];
    size_t operations;
} mixture;

static const mixture mixtures[] = {
    {{0, 0}, {0, 0}, 1},
    {{IOE_DSYNC, IOE_DSYNC}, {0, 0}, 1},
    {{0, IOE_DSYNC}, {0, 0}, 2},
    {{IOE_DSYNC, 0}, {0, 0}, 2},
    {{0, 0}, {BEST_EFFORT(7), BEST_EFFORT(7)}, 1},
    {{0, 0}, {0, BEST_EFFORT(7)}, 2},
    {{0, 0}, {BEST_EFFORT(1), BEST_EFFORT(2)}, 2},
    {{IOE_DSYNC, IOE_DSYNC}, {IDLE, IDLE}, 1},
    {{IOE_APPEND, IOE_APPEND}, {0, 0}, 8},
    {{0, IOE_APPEND}, {0, 0}, 5},
    {{IOE_NOWAIT, IOE_NOWAIT}, {0, 0}, 8},
    {{IOE_ATOMIC, IOE_ATOMIC}, {0, 0}, 8},
    {{IOE_HIPRI, IOE_HIPRI}, {0, 0}, 8},
};

/* With a merger where the context does not merge by itself. */
static void check_mixture(ioe_context *ctx, const delivery *how, const mixture *m)
{
    enum { EACH = 8 };
    const int fd = temp_file(ON_DISK);
    const ioe_stats before = get_stats(ctx);
    row *r = new_row(fd, IOE_WRITE, 0, EACH, BLOCK, 0);
    for (size_t i = 0; i < EACH; i++) {
        ASSERT_CALL(ioe_event_set_flags(r->members[i].event, m->flags[i / (EACH / 2)]), 0);
        ASSERT_CALL(ioe_event_set_priority(r->members[i].event, m->priorities[i / (EACH / 2)]), 0);
    }
    watch_operations(&fd, 1);
    if (get_info(ctx).merge_limit > 0) {
        batch_row(ctx, r);
    } else {
        ioe_merger *merger = new_merger(ctx, fd, IOE_WRITE, 1 << 20);
        add_row(merger, r);
        ASSERT_CALL(ioe_merger_free(merger), 0);
    }
    await(ctx, how, &r->done, EACH);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(get_stats(ctx).merged - before.merged, EACH - m->operations);
    /* Who travels in an operation finds his own there. */
    size_t found = 0;
    for (size_t i = 0; i < count_operations(fd, IOE_WRITE); i++) {
        const operation op = find_operation(fd, WRITES, i);
        for (size_t j = op.offset / BLOCK; j < (op.offset + op.len) / BLOCK; j++, found++) {
            assert_int_equal(op.flags, m->flags[j / (EACH / 2)]);
            if (m->priorities[j / (EACH / 2)] != 0)
                assert_int_equal(op.priority, m->priorities[j / (EACH / 2)]);
        }
    }
    /* Some are refused without the kernel, or by it. */
    const bool works = ((m->flags[0] | m->flags[1]) & (uint32_t)~(IOE_DSYNC | IOE_APPEND)) == 0;
    assert_true(found == EACH || !works);
    for (size_t i = 0; i < EACH; i++) {
        assert_int_equal(atomic_load(&r->members[i].calls), 1);
        assert_true(r->members[i].result == BLOCK || !works);
    }
    stop_watching_operations();
    free_row(r);
    close(fd);
}

static void only_like_is_merged_with_like(void **state)
{
    const delivery *how = *state;
    for (uint32_t merge_limit = 0; merge_limit <= 1 << 20; merge_limit += 1 << 20) {
        ioe_context *ctx = new_merging_context(how, DEPTH, QUEUE, merge_limit);
        if (how->flags & IOE_POLLED)
            assert_int_equal(ioe_poll(ctx, 0, 0), 0);
        for (size_t i = 0; i < COUNT_OF(mixtures); i++)
            check_mixture(ctx, how, &mixtures[i]);
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_must_fit_the_action),
        cmocka_unit_test(priority_must_be_one),
        cmocka_unit_test(time_limit_must_not_be_negative),
        for_each_delivery(flags_stay_until_the_next_prep),
        for_each_delivery(continuations_have_the_flags),
        for_each_delivery(flags_reach_the_kernel),
        for_each_delivery(nowait_is_told),
        for_each_delivery(nowait_keeps_what_it_got),
        for_each_delivery(append_goes_to_the_end),
        for_each_delivery(short_append_goes_on_at_the_end),
        for_each_delivery(dontcache_leaves_no_pages),
        for_each_delivery(what_is_lacking_is_refused_in_the_callback),
        for_each_delivery(priority_reaches_the_kernel),
        for_each_delivery(only_like_is_merged_with_like),
    };
    return RUN_TESTS(tests);
}
