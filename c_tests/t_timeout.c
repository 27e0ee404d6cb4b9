/*
 * Promise: an event whose time is up while it is queued completes with -ETIMEDOUT, without touching
 * the disk, also when all slots are stuck; one in the kernel is cancelled where the driver can, and
 * completes when the kernel is done with it: with its own result if that is whole. One that is longer
 * in the kernel than stall_ms is reported, once.
 */
#include <poll.h>

#include "merging.h"
#include "notes.h"

#define MILLISECOND INT64_C(1000000)
#define HOUR (INT64_C(3600000) * MILLISECOND)
/* A limit within which an operation gets to the kernel, on a machine with a lot to do as well. */
#define TO_GET_THERE (200 * MILLISECOND)

static void limit(note *n, int64_t ns)
{
    ASSERT_CALL(ioe_event_set_timeout(n->event, ns), 0);
}

/* Returns when so much time has gone by for the engine: a sync that waits for one that stays has had
 * its limit. */
static void let_time_pass(scene *s, int64_t ns)
{
    latch done = LATCH_INIT, late_done = LATCH_INIT;
    note *running = new_notes(1, &done), *late = new_notes(1, &late_done);
    const size_t held = count_held();
    hold_next(s->other, IOE_FSYNC, 1);
    submit_sync(s->ctx, running, s->other, IOE_FSYNC);
    await_held(s->ctx, s->how, held + 1);
    prepare_sync(late->event, s->other, IOE_FSYNC);
    limit(late, ns);
    ASSERT_CALL(ioe_submit(s->ctx, late->event), 0);
    await_latch(s->ctx, s->how, &late_done, 1);
    check_note(late, -ETIMEDOUT);
    assert_true(let_one_go(held, WHOLE));
    await_latch(s->ctx, s->how, &done, 1);
    free_notes(running, 1);
    free_notes(late, 1);
}

/* ---- in the queue ---- */

/* Whatever it is, and however soon. */
static void queued_event_times_out(void **state)
{
    static const int64_t times[] = {1, 1000, MILLISECOND, 5 * MILLISECOND};
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    static uint8_t bytes[BLOCK];
    const struct iovec parts[2] = {{memory, 100}, {memory + BLOCK, 200}};
    for (size_t t = 0; t < COUNT_OF(times); t++) {
        enum { KINDS = 9 };
        latch done = LATCH_INIT;
        note *notes = new_notes(KINDS, &done);
        assert_int_equal(ioe_prep_write(notes[0].event, s->fd, memory, BLOCK, 0), 0);
        assert_int_equal(ioe_prep_read(notes[1].event, s->fd, bytes, BLOCK, 0), 0);
        assert_int_equal(ioe_prep_writev(notes[2].event, s->fd, parts, 2, 0), 0);
        assert_int_equal(ioe_prep_fsync(notes[3].event, s->fd), 0);
        assert_int_equal(ioe_prep_fdatasync(notes[4].event, s->other), 0);
        ASSERT_CALL(ioe_event_set_flags(notes[4].event, IOE_BARRIER), 0);
        assert_int_equal(ioe_prep_fallocate(notes[5].event, s->fd, 0, 0, BLOCK), 0);
        assert_int_equal(ioe_prep_sync_range(notes[6].event, s->fd, 0, BLOCK, SYNC_FILE_RANGE_WRITE), 0);
        assert_int_equal(ioe_prep_truncate(notes[7].event, s->fd, BLOCK), 0);
        assert_int_equal(ioe_prep_advise(notes[8].event, s->fd, 0, BLOCK, POSIX_FADV_NORMAL), 0);
        for (size_t i = 0; i < KINDS; i++) {
            limit(&notes[i], times[t]);
            ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
        }
        await(s->ctx, how, &done, KINDS);
        for (size_t i = 0; i < KINDS; i++) {
            check_note(&notes[i], -ETIMEDOUT);
            assert_int_equal(notes[i].transferred, 0);
        }
        free_notes(notes, KINDS);
    }
    assert_int_equal(latch_count(&taken->done), 0);
    free_slots(taken);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    for (int action = IOE_READ; action <= IOE_ADVISE; action++) {
        assert_int_equal(count_operations(s->fd, action), 0);
        assert_int_equal(count_operations(s->other, action), 0);
    }
    leave_scene(s);
}

/* Short ones among long ones and such as have none, in any order: each has its own. */
static void each_has_its_own_time(void **state)
{
    enum { MANY = 90 };
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    note *notes = new_notes(MANY, &s->done);
    uint64_t random = 3;
    unsigned long short_ones = 0;
    bool is_short[MANY];
    for (size_t i = 0; i < MANY; i++) {
        const uint64_t kind = next_random(&random) % 4;
        is_short[i] = kind < 2;
        short_ones += is_short[i];
        prepare_write(&notes[i], s->fd, i, 1);
        limit(&notes[i], is_short[i] ? (int64_t)(next_random(&random) % 20) * MILLISECOND + 1
                         : kind == 2 ? HOUR + (int64_t)i
                                     : 0);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    }
    await(s->ctx, how, &s->done, short_ones);
    assert_int_equal(latch_count(&s->done), short_ones);
    free_slots(taken);
    await(s->ctx, how, &s->done, MANY);
    for (size_t i = 0; i < MANY; i++)
        check_note(&notes[i], is_short[i] ? -ETIMEDOUT : BLOCK);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), MANY - short_ones);
    free_notes(notes, MANY);
    leave_scene(s);
}

/* Values at the edge of what fits are far away, not over. */
static void far_times_do_not_come(void **state)
{
    static const int64_t times[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, INT64_C(1) << 62, HOUR, 0};
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    note *notes = new_notes(COUNT_OF(times) + 1, &s->done);
    slots *taken = fill_slots(s->ctx, how);
    for (size_t i = 0; i < COUNT_OF(times); i++) {
        prepare_write(&notes[i], s->fd, i, 1);
        limit(&notes[i], times[i]);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    }
    note *last = &notes[COUNT_OF(times)];
    prepare_write(last, s->fd, COUNT_OF(times), 1);
    limit(last, 2 * MILLISECOND);
    ASSERT_CALL(ioe_submit(s->ctx, last->event), 0);
    await(s->ctx, how, &s->done, 1);
    check_note(last, -ETIMEDOUT);
    assert_int_equal(latch_count(&s->done), 1);
    free_slots(taken);
    await(s->ctx, how, &s->done, COUNT_OF(times) + 1);
    for (size_t i = 0; i < COUNT_OF(times); i++)
        check_note(&notes[i], BLOCK);
    free_notes(notes, COUNT_OF(times) + 1);
    leave_scene(s);
}

/* A limit stays over a completion, counts from the next acceptance, and goes with a prep. */
static void limit_survives_completion_not_prep(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    note *notes = new_notes(2, &s->done);
    slots *taken = fill_slots(s->ctx, how);
    prepare_write(&notes[0], s->fd, 0, 1);
    limit(&notes[0], MILLISECOND);
    for (unsigned long round = 0; round < 3; round++) {
        ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
        await(s->ctx, how, &s->done, round + 1);
        assert_int_equal(notes[0].result, -ETIMEDOUT);
    }
    prepare_write(&notes[1], s->fd, 1, 1);
    limit(&notes[1], MILLISECOND);
    prepare_write(&notes[1], s->fd, 1, 1);
    ASSERT_CALL(ioe_submit(s->ctx, notes[1].event), 0);
    ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
    await(s->ctx, how, &s->done, 4);
    assert_int_equal(notes[0].result, -ETIMEDOUT);
    free_slots(taken);
    await(s->ctx, how, &s->done, 5);
    check_note(&notes[1], BLOCK);
    /* In time, and the limit taken away. */
    limit(&notes[0], HOUR);
    ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
    await(s->ctx, how, &s->done, 6);
    assert_int_equal(notes[0].result, BLOCK);
    free_notes(notes, 2);
    leave_scene(s);
}

/* ---- a sync that waits, and a barrier ---- */

static void waiting_sync_times_out(void **state)
{
    enum { SYNCED = 3 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch others_done = LATCH_INIT;
    note *first = new_notes(2, &others_done), *late = new_notes(2, &s->done);
    note *notes = new_notes(SYNCED, &others_done);
    hold_next(s->fd, IOE_FSYNC, 1);
    hold_next(s->fd, IOE_WRITE, 1);
    submit_sync(s->ctx, &first[0], s->fd, IOE_FSYNC);
    submit_write(s->ctx, &first[1], s->fd, 0);
    await_held(s->ctx, how, 2);
    for (size_t i = 0; i < SYNCED; i++)
        submit_sync(s->ctx, &notes[i], s->fd, IOE_FDATASYNC);
    prepare_sync(late[0].event, s->fd, IOE_FSYNC);
    prepare_sync(late[1].event, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_event_set_flags(late[1].event, IOE_BARRIER), 0);
    for (size_t i = 0; i < 2; i++) {
        limit(&late[i], 2 * MILLISECOND);
        ASSERT_CALL(ioe_submit(s->ctx, late[i].event), 0);
    }
    await(s->ctx, how, &s->done, 2);
    check_note(&late[0], -ETIMEDOUT);
    check_note(&late[1], -ETIMEDOUT);
    assert_int_equal(latch_count(&others_done), 0);
    assert_int_equal(count_syncs(s->fd), 1);
    let_go(2);
    await(s->ctx, how, &others_done, 2 + SYNCED);
    for (size_t i = 0; i < SYNCED; i++)
        check_note(&notes[i], 0);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(count_syncs(s->fd), 2);
    assert_int_equal(find_operation(s->fd, SYNCS, 1).action, IOE_FDATASYNC);
    free_notes(first, 2);
    free_notes(late, 2);
    free_notes(notes, SYNCED);
    leave_scene(s);
}

/* ---- in a merger ---- */

/* One with a limit is handed over at once, with what was gathered; without it, nothing is. */
static void merger_hands_over_what_has_a_limit(void **state)
{
    enum { EACH = 5 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    if (how->flags & IOE_POLLED)
        assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    ioe_merger *merger = new_merger(s->ctx, s->fd, IOE_WRITE, 1 << 20);
    row *r = new_row(s->fd, IOE_WRITE, 0, EACH, BLOCK, 0);
    ASSERT_CALL(ioe_event_set_timeout(r->members[EACH - 1].event, HOUR), 0);
    for (size_t i = 0; i < EACH - 1; i++)
        ASSERT_CALL(ioe_merger_add(merger, r->members[i].event), 0);
    pass_by(s->ctx, how);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 0);
    ASSERT_CALL(ioe_merger_add(merger, r->members[EACH - 1].event), 0);
    await_latch(s->ctx, how, &r->done, EACH);
    stop_watching_operations();
    check_row(r);
    ASSERT_CALL(ioe_merger_free(merger), 0);
    free_row(r);
    leave_scene(s);
}

/* And is in time where all slots are stuck, while those it was gathered with go on waiting. */
static void gathered_event_times_out(void **state)
{
    enum { EACH = 4, LATE = 2 };
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    ioe_merger *merger = new_merger(s->ctx, s->fd, IOE_WRITE, 1 << 20);
    row *r = new_row(s->fd, IOE_WRITE, 0, EACH, BLOCK, 0);
    ASSERT_CALL(ioe_event_set_timeout(r->members[LATE].event, MILLISECOND), 0);
    add_row(merger, r);
    await_latch(s->ctx, how, &r->done, 1);
    assert_int_equal(atomic_load(&r->members[LATE].calls), 1);
    assert_int_equal(r->members[LATE].result, -ETIMEDOUT);
    assert_int_equal(latch_count(&r->done), 1);
    ASSERT_CALL(ioe_merger_flush(merger), 0);
    free_slots(taken);
    await(s->ctx, how, &r->done, EACH);
    stop_watching_operations();
    for (size_t i = 0; i < EACH; i++)
        check_member(r, i, i == LATE ? -ETIMEDOUT : BLOCK, i == LATE ? 0 : BLOCK);
    ASSERT_CALL(ioe_merger_free(merger), 0);
    free_row(r);
    leave_scene(s);
}

/* ---- in the kernel ---- */

/* Where the driver can, the read of a pipe ends, and what comes later does not get into its memory. */
static void read_in_the_kernel_times_out(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    stuck_read *stuck = calloc(1, sizeof *stuck);
    note *n = new_notes(1, &s->done);
    assert_non_null(stuck);
    stuck_prepare(stuck, on_note, n);
    ASSERT_CALL(ioe_event_set_timeout(stuck->event, TO_GET_THERE), 0);
    submit_stuck(s->ctx, how, stuck);
    if (tested_driver == IOE_DRIVER_URING) {
        await(s->ctx, how, &s->done, 1);
        check_note(n, -ETIMEDOUT);
        assert_true(stuck_let_go(stuck));
        pass_by(s->ctx, how);
        assert_int_equal(stuck->word, 0);
    } else {
        let_time_pass(s, TO_GET_THERE);
        assert_int_equal(latch_count(&s->done), 0);
        assert_true(stuck_let_go(stuck));
        await(s->ctx, how, &s->done, 1);
        check_note(n, (int64_t)sizeof stuck->word);
    }
    stuck_free(stuck);
    free(stuck);
    free_notes(n, 1);
    leave_scene(s);
}

/* What cannot be stopped is whole, or short and not gone on with, or failed and not asked again. */
static void callback_waits_for_the_kernel(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(4, &s->done);
    hold_next(s->fd, IOE_WRITE, 3);
    hold_next(s->fd, IOE_FSYNC, 1);
    for (size_t i = 0; i < 4; i++) {
        if (i < 3)
            prepare_write(&notes[i], s->fd, 2 * i, 2);
        else
            prepare_sync(notes[i].event, s->fd, IOE_FSYNC);
        limit(&notes[i], TO_GET_THERE);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
        await_held(s->ctx, how, i + 1);
    }
    let_time_pass(s, TO_GET_THERE);
    assert_int_equal(latch_count(&s->done), 0);
    let_go(1);
    assert_true(let_one_go(0, BLOCK));
    assert_true(let_one_go(0, -EINTR));
    let_go(1);
    await(s->ctx, how, &s->done, 4);
    check_note(&notes[0], 2 * BLOCK);
    check_note(&notes[1], -ETIMEDOUT);
    assert_int_equal(notes[1].transferred, BLOCK);
    check_note(&notes[2], -ETIMEDOUT);
    check_note(&notes[3], 0);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 3);
    free_notes(notes, 4);
    leave_scene(s);
}

/* A sync that ran to its end has its own result, and the error is told. */
static void late_error_of_a_sync_is_told(void **state)
{
    const delivery *how = *state;
    if (tested_driver == IOE_DRIVER_AIO)
        skip(); /* a sync of AIO that is held can only be let go */
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *n = new_notes(1, &s->done);
    hold_next(s->fd, IOE_FDATASYNC, 1);
    prepare_sync(n->event, s->fd, IOE_FDATASYNC);
    limit(n, TO_GET_THERE);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    await_held(s->ctx, how, 1);
    let_time_pass(s, TO_GET_THERE);
    assert_true(let_one_go(0, -EIO));
    await(s->ctx, how, &s->done, 1);
    check_note(n, -EIO);
    assert_int_equal(count_syncs(s->fd), 1);
    free_notes(n, 1);
    leave_scene(s);
}

/* Cancelled before its time, it was cancelled. */
static void cancel_comes_first(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    note *notes = new_notes(2, &s->done);
    prepare_write(&notes[0], s->fd, 0, 1);
    limit(&notes[0], HOUR);
    const uint64_t id = ioe_event_id(notes[0].event);
    ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    await(s->ctx, how, &s->done, 1);
    check_note(&notes[0], -ECANCELED);
    free_slots(taken);
    free_notes(notes, 2);
    leave_scene(s);
}

/* ---- somebody waits ---- */

static void waiting_caller_is_told_in_time(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    latch called = LATCH_INIT;
    slots *taken = fill_slots(s->ctx, how);
    ioe_event *event = new_event();
    assert_int_equal(ioe_event_set_callback(event, hit_latch, &called), 0);
    for (int kind = 0; kind < 3; kind++) {
        if (kind == 0)
            assert_int_equal(ioe_prep_write(event, s->fd, memory, BLOCK, 0), 0);
        else
            prepare_sync(event, s->fd, kind == 1 ? IOE_FSYNC : IOE_FDATASYNC);
        if (kind == 2)
            ASSERT_CALL(ioe_event_set_flags(event, IOE_BARRIER), 0);
        ASSERT_CALL(ioe_event_set_timeout(event, MILLISECOND), 0);
        ASSERT_CALL(ioe_submit_wait(s->ctx, event), -ETIMEDOUT);
        assert_int_equal(ioe_event_result(event), -ETIMEDOUT);
    }
    free_slots(taken);
    /* With time enough. */
    assert_int_equal(ioe_prep_write(event, s->fd, memory, BLOCK, 0), 0);
    ASSERT_CALL(ioe_event_set_timeout(event, INT64_MAX), 0);
    ASSERT_CALL(ioe_submit_wait(s->ctx, event), BLOCK);
    if (tested_driver == IOE_DRIVER_URING) {
        stuck_read stuck;
        stuck_prepare(&stuck, hit_latch, &called);
        ASSERT_CALL(ioe_event_set_timeout(stuck.event, MILLISECOND), 0);
        ASSERT_CALL(ioe_submit_wait(s->ctx, stuck.event), -ETIMEDOUT);
        stuck_free(&stuck);
    }
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(latch_count(&called), 0);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 1);
    assert_int_equal(count_syncs(s->fd), 0);
    assert_int_equal(ioe_event_free(event), 0);
    leave_scene(s);
}

/* ---- polled contexts ---- */

/* A poll without a limit of its own wakes for it; one with a limit keeps that. */
static void time_ends_the_owners_sleep(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    note *n = new_notes(1, &s->done);
    slots *taken = fill_slots(s->ctx, how);
    for (unsigned long round = 0; round < 5; round++) {
        prepare_write(n, s->fd, 0, 1);
        limit(n, (int64_t)round * 3 * MILLISECOND + 1);
        ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
        ASSERT_CALL(ioe_poll(s->ctx, 1, round % 2 == 0 ? -1 : 3600000), 1);
        assert_int_equal(n->result, -ETIMEDOUT);
    }
    prepare_write(n, s->fd, 0, 1);
    limit(n, HOUR);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    ASSERT_CALL(ioe_poll(s->ctx, 1, 2), 0);
    free_slots(taken);
    await(s->ctx, how, &s->done, 6);
    assert_int_equal(n->result, BLOCK);
    free_notes(n, 1);
    leave_scene(s);
}

/* The descriptor tells it, also with the nearest time set last. */
static void descriptor_tells_the_time(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    note *notes = new_notes(2, &s->done);
    assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    struct pollfd watched = {.fd = ioe_context_fd(s->ctx), .events = POLLIN};
    assert_true(watched.fd >= 0);
    slots *taken = fill_slots(s->ctx, how);
    prepare_write(&notes[0], s->fd, 0, 1);
    limit(&notes[0], HOUR);
    ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
    assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    assert_int_equal(poll(&watched, 1, 0), 0);
    for (unsigned long round = 0; round < 5; round++) {
        prepare_write(&notes[1], s->fd, 1, 1);
        limit(&notes[1], (int64_t)(round + 1) * 4 * MILLISECOND);
        ASSERT_CALL(ioe_submit(s->ctx, notes[1].event), 0);
        int ran = ioe_poll(s->ctx, 0, 0);
        while (ran == 0) {
            assert_int_equal(poll(&watched, 1, -1), 1);
            ran = ioe_poll(s->ctx, 0, 0);
        }
        assert_int_equal(ran, 1);
        assert_int_equal(notes[1].result, -ETIMEDOUT);
    }
    assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    assert_int_equal(poll(&watched, 1, 0), 0);
    free_slots(taken);
    await(s->ctx, how, &s->done, 6);
    check_note(&notes[0], BLOCK);
    free_notes(notes, 2);
    leave_scene(s);
}

/* ---- races ---- */

enum { RACERS = 24, STAMP = 0xEE, FILE_SEED = 5 };

typedef struct racer {
    ioe_event *event;
    uint8_t *memory;
    latch *done;
    unsigned calls, late, wrong;
} racer;

/* The memory is the program's from here on. */
static void on_racer(ioe_event *event, void *arg)
{
    racer *r = arg;
    const int64_t result = ioe_event_result(event);
    r->calls++;
    r->late += result == -ETIMEDOUT;
    r->wrong += result != BLOCK && result != -ETIMEDOUT;
    if (result == BLOCK)
        r->wrong += !pattern_holds(r->memory, BLOCK, FILE_SEED, ioe_event_offset(event));
    memset(r->memory, STAMP, BLOCK);
    latch_hit(r->done);
}

/* Direct reads whose limits are about as long as they take. */
static void times_race_with_completion(void **state)
{
    const delivery *how = *state;
    const unsigned long rounds = scaled(120);
    ioe_context *ctx = new_context(how, 6, QUEUE);
    const int fd = temp_file(ON_DISK), direct = open_direct(fd);
    uint8_t *bytes = ioe_buffer_alloc(RACERS * BLOCK, 0), *file = malloc(RACERS * BLOCK);
    racer *racers = calloc(RACERS, sizeof *racers);
    uint64_t random = 17;
    latch done = LATCH_INIT;
    unsigned long late = 0;
    assert_true(bytes != NULL && file != NULL && racers != NULL);
    pattern_fill(file, RACERS * BLOCK, FILE_SEED, 0);
    assert_int_equal(pwrite(fd, file, RACERS * BLOCK, 0), RACERS * BLOCK);
    assert_int_equal(fsync(fd), 0);
    for (size_t i = 0; i < RACERS; i++) {
        racers[i] = (racer){.event = new_event(), .memory = bytes + i * BLOCK, .done = &done};
        assert_int_equal(ioe_event_set_callback(racers[i].event, on_racer, &racers[i]), 0);
    }
    for (unsigned long round = 0; round < rounds; round++) {
        for (size_t i = 0; i < RACERS; i++) {
            racer *r = &racers[i];
            assert_int_equal(ioe_prep_read(r->event, direct, r->memory, BLOCK, i * BLOCK), 0);
            /* The first cannot be in time, the last cannot be late. */
            const int64_t ns = i == 0            ? 1
                               : i == RACERS - 1 ? INT64_MAX
                                                 : (int64_t)(next_random(&random) % 2000000) + 1;
            ASSERT_CALL(ioe_event_set_timeout(r->event, ns), 0);
            ASSERT_CALL(ioe_submit(ctx, r->event), 0);
        }
        await(ctx, how, &done, (round + 1) * RACERS);
    }
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    for (size_t i = 0; i < RACERS; i++) {
        late += racers[i].late;
        assert_int_equal(racers[i].calls, rounds);
        assert_int_equal(racers[i].wrong, 0);
        for (size_t at = 0; at < BLOCK; at++)
            assert_int_equal(racers[i].memory[at], STAMP);
        assert_int_equal(ioe_event_free(racers[i].event), 0);
    }
    printf("# %lu of %lu late\n", late, rounds * RACERS);
    assert_int_equal(racers[RACERS - 1].late, 0);
    free(racers);
    free(file);
    ioe_buffer_free(bytes);
    close(direct);
    close(fd);
}

/* ---- stalls ---- */

static log_lines said = LOG_LINES_INIT;

/* From here on lines are kept, but not those about the choice of a driver. */
static ioe_context *new_stalling_context(const delivery *how, uint32_t stall_ms)
{
    ioe_config cfg;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.depth = 4;
    cfg.queue_size = QUEUE;
    cfg.workers = how->workers;
    cfg.flags = how->flags;
    cfg.stall_ms = stall_ms;
    ioe_context *ctx = new_context_from(&cfg);
    pthread_mutex_lock(&said.mutex);
    said.count = 0;
    pthread_mutex_unlock(&said.mutex);
    ioe_set_log(keep_line, &said, IOE_LOG_WARN);
    return ctx;
}

/* What a line about this operation has in it. */
static size_t count_reports(int fd, uint64_t offset, size_t len)
{
    char link[64], path[4096] = "", number[4][32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) < 0)
        return 0;
    char *name = strrchr(path, '/');
    name = name != NULL ? name + 1 : path;
    name[strcspn(name, " ")] = '\0'; /* without what /proc says of one that is deleted */
    snprintf(number[0], sizeof number[0], "%d", fd);
    snprintf(number[1], sizeof number[1], "%llu", (unsigned long long)offset);
    snprintf(number[2], sizeof number[2], "%zu", len);
    size_t count = 0;
    pthread_mutex_lock(&said.mutex);
    for (size_t i = 0; i < said.count && i < COUNT_OF(said.levels); i++)
        count += said.levels[i] == IOE_LOG_WARN && strstr(said.texts[i], name) != NULL &&
                 strstr(said.texts[i], number[0]) != NULL && strstr(said.texts[i], number[1]) != NULL &&
                 strstr(said.texts[i], number[2]) != NULL && strstr(said.texts[i], "ms") != NULL;
    pthread_mutex_unlock(&said.mutex);
    return count;
}

static void await_reports(ioe_context *ctx, const delivery *how, int fd, uint64_t offset, size_t len)
{
    while (count_reports(fd, offset, len) == 0) {
        if (how->flags & IOE_POLLED)
            assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
}

/* Each of several that stay, one line; what waits for a slot is in no kernel, and quick ones have
 * nothing to report. */
static void stall_is_reported_once(void **state)
{
    enum { STALLED = 3 };
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY), other = temp_file(IN_MEMORY);
    latch done = LATCH_INIT, quick_done = LATCH_INIT;
    note *notes = new_notes(STALLED, &done), *quick = new_notes(1, &quick_done);
    ioe_context *ctx = new_stalling_context(how, 5);
    watch_operations((int[]){fd}, 1);
    hold_next(fd, IOE_WRITE, STALLED);
    /* When the next one is reported, the one before has stalled twice as long. */
    for (size_t i = 0; i < STALLED; i++) {
        assert_int_equal(ioe_prep_write(notes[i].event, fd, memory, 777 + i, 123456 + 1000 * i), 0);
        ASSERT_CALL(ioe_submit(ctx, notes[i].event), 0);
        await_held(ctx, how, i + 1);
        await_reports(ctx, how, fd, 123456 + 1000 * i, 777 + i);
        for (size_t j = 0; j <= i; j++)
            assert_int_equal(count_reports(fd, 123456 + 1000 * j, 777 + j), 1);
        assert_int_equal(count_lines(&said, IOE_LOG_WARN, ""), i + 1);
    }
    /* The last slot is stuck as well, and one waits for it. */
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, &quick_done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    prepare_write(quick, other, 0, 1);
    ASSERT_CALL(ioe_submit(ctx, quick->event), 0);
    await_reports(ctx, how, stuck.ends[0], 0, sizeof stuck.word);
    assert_int_equal(count_lines(&said, IOE_LOG_WARN, ""), STALLED + 1);
    assert_int_equal(count_reports(other, 0, BLOCK), 0);
    assert_true(stuck_let_go(&stuck));
    await(ctx, how, &quick_done, 2);
    let_go(STALLED);
    await(ctx, how, &done, STALLED);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    for (size_t i = 0; i < STALLED; i++) {
        check_note(&notes[i], (int64_t)(777 + i));
        assert_int_equal(count_reports(fd, 123456 + 1000 * i, 777 + i), 1);
    }
    assert_int_equal(count_reports(stuck.ends[0], 0, sizeof stuck.word), 1);
    assert_int_equal(count_lines(&said, IOE_LOG_ERROR, ""), 0);
    ioe_set_log(NULL, NULL, 0);
    stop_watching_operations();
    stuck_free(&stuck);
    free_notes(notes, STALLED);
    free_notes(quick, 1);
    close(fd);
    close(other);
}

/* The owner who sleeps in a poll says it as well; the wait goes on. */
static void stall_is_reported_from_a_sleep(void **state)
{
    const delivery *how = *state;
    latch done = LATCH_INIT;
    ioe_context *ctx = new_stalling_context(how, 2);
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    while (count_reports(stuck.ends[0], 0, sizeof stuck.word) == 0)
        ASSERT_CALL(ioe_poll(ctx, 1, 60), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, 20), 0);
    assert_int_equal(count_lines(&said, IOE_LOG_WARN, ""), 1);
    assert_true(stuck_let_go(&stuck));
    await(ctx, how, &done, 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    ioe_set_log(NULL, NULL, 0);
    stuck_free(&stuck);
}

/* A sync that answers many is one operation. */
static void stalled_sync_is_reported(void **state)
{
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    note *notes = new_notes(3, &done);
    ioe_context *ctx = new_stalling_context(how, 3);
    watch_operations((int[]){fd}, 1);
    hold_next(fd, IOE_FSYNC, 1);
    for (size_t i = 0; i < 3; i++)
        submit_sync(ctx, &notes[i], fd, IOE_FSYNC);
    await_held(ctx, how, 1);
    await_reports(ctx, how, fd, 0, 0);
    pass_by(ctx, how);
    assert_int_equal(count_reports(fd, 0, 0), 1);
    let_go(1);
    await(ctx, how, &done, 3);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    ioe_set_log(NULL, NULL, 0);
    stop_watching_operations();
    free_notes(notes, 3);
    close(fd);
}

/* What a waiting caller does on its own thread is reported while it is stuck, once each time; in a polled
 * context there is nobody to do so. */
static void stalled_caller_is_reported(void **state)
{
    const delivery *how = *state;
    if (how->flags & IOE_POLLED)
        skip();
    ioe_context *ctx = new_stalling_context(how, 3);
    for (size_t round = 1; round <= 3; round++) {
        const int fd = temp_file(IN_MEMORY);
        watch_operations((int[]){fd}, 1);
        hold_next(fd, IOE_WRITE, 1);
        ioe_event *event = new_event();
        assert_int_equal(ioe_prep_write(event, fd, memory, 321 + round, 654321), 0);
        waiter *w = start_waiter(ctx, event);
        await_held(ctx, how, 1);
        await_reports(ctx, how, fd, 654321, 321 + round);
        let_go(1);
        end_waiter(w, (int64_t)(321 + round));
        assert_int_equal(count_reports(fd, 654321, 321 + round), 1);
        assert_int_equal(count_lines(&said, IOE_LOG_WARN, ""), round);
        stop_watching_operations();
        close(fd);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    ioe_set_log(NULL, NULL, 0);
}

/* Not asked for, or not for so long. */
static void no_stall_no_line(void **state)
{
    const delivery *how = *state;
    for (uint32_t stall_ms = 0; stall_ms <= 3600000; stall_ms += 3600000) {
        scene *s = set_scene(how, DEPTH, QUEUE, 0);
        ASSERT_CALL(ioe_context_free(s->ctx), 0);
        s->ctx = new_stalling_context(how, stall_ms);
        note *notes = new_notes(2, &s->done);
        unsigned long done = 0;
        hold_next(s->fd, IOE_FSYNC, 1);
        submit_sync(s->ctx, &notes[0], s->fd, IOE_FSYNC);
        await_held(s->ctx, how, 1);
        for (int i = 0; i < 200; i++) {
            submit_write(s->ctx, &notes[1], s->fd, 0);
            await(s->ctx, how, &s->done, ++done);
        }
        /* And a while for the sync. */
        prepare_sync(notes[1].event, s->fd, IOE_FSYNC);
        limit(&notes[1], 20 * MILLISECOND);
        ASSERT_CALL(ioe_submit(s->ctx, notes[1].event), 0);
        await(s->ctx, how, &s->done, ++done);
        let_go(1);
        await(s->ctx, how, &s->done, ++done);
        assert_int_equal(count_lines(&said, IOE_LOG_WARN, ""), 0);
        ioe_set_log(NULL, NULL, 0);
        free_notes(notes, 2);
        leave_scene(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(queued_event_times_out),
        for_each_delivery(each_has_its_own_time),
        for_each_delivery(far_times_do_not_come),
        for_each_delivery(limit_survives_completion_not_prep),
        for_each_delivery(waiting_sync_times_out),
        for_each_delivery(merger_hands_over_what_has_a_limit),
        for_each_delivery(gathered_event_times_out),
        for_each_delivery(read_in_the_kernel_times_out),
        for_each_delivery(callback_waits_for_the_kernel),
        for_each_delivery(late_error_of_a_sync_is_told),
        for_each_delivery(cancel_comes_first),
        for_each_delivery(waiting_caller_is_told_in_time),
        polled_only(time_ends_the_owners_sleep),
        polled_only(descriptor_tells_the_time),
        for_each_delivery(times_race_with_completion),
        for_each_delivery(stall_is_reported_once),
        polled_only(stall_is_reported_from_a_sleep),
        for_each_delivery(stalled_sync_is_reported),
        for_each_delivery(stalled_caller_is_reported),
        for_each_delivery(no_stall_no_line),
    };
    return RUN_TESTS(tests);
}
