/*
 * Promise: ioe_cancel takes any event whose callback has not started, wherever it is, from any
 * thread, by an id that no other event and no other life of it has. The event completes once: with
 * its own result where that was whole first, else with -ECANCELED; and not before the kernel is done
 * with its memory. Nobody else notices.
 */
#include <poll.h>
#include <semaphore.h>
#include <signal.h>

#include "merging.h"
#include "notes.h"

static int64_t whole_or_cancelled(const note *n, int64_t whole)
{
    assert_int_equal(atomic_load(&n->calls), 1);
    assert_true(n->result == whole || n->result == -ECANCELED);
    return n->result;
}

/* ---- ids ---- */

enum { MOST_IDS = 16 };

static void check_new_id(const ioe_event *event, uint64_t *known, size_t *count)
{
    const uint64_t id = ioe_event_id(event);
    assert_true(id != 0 && *count < MOST_IDS);
    for (size_t i = 0; i < *count; i++)
        assert_true(known[i] != id);
    assert_int_equal(ioe_event_id(event), id);
    known[(*count)++] = id;
}

static void every_life_has_its_id(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(2, &s->done);
    uint64_t known[MOST_IDS];
    size_t count = 0;
    for (int round = 0; round < 2; round++) {
        prepare_write(&notes[0], s->fd, 0, 2);
        check_new_id(notes[0].event, known, &count);
        /* Nothing but a prep and a completion gives another one. */
        ASSERT_CALL(ioe_event_set_flags(notes[0].event, IOE_DSYNC), 0);
        ASSERT_CALL(ioe_event_set_timeout(notes[0].event, INT64_MAX), 0);
        assert_int_equal(ioe_event_id(notes[0].event), known[count - 1]);
        prepare_write(&notes[1], s->fd, 0, 2);
        check_new_id(notes[1].event, known, &count);
        hold_next(s->fd, IOE_WRITE, 1);
        prepare_write(&notes[0], s->fd, 0, 2);
        check_new_id(notes[0].event, known, &count);
        ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
        await_held(s->ctx, how, 1);
        assert_int_equal(ioe_event_id(notes[0].event), known[count - 1]);
        assert_true(let_one_go(0, -ENOSPC));
        await(s->ctx, how, &s->done, (unsigned long)round * 2 + 1);
        check_new_id(notes[0].event, known, &count);
        /* Without a new prep as well. */
        ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
        await(s->ctx, how, &s->done, (unsigned long)round * 2 + 2);
        check_new_id(notes[0].event, known, &count);
        prepare_write(&notes[0], s->fd, 0, 1);
        check_new_id(notes[0].event, known, &count);
        ASSERT_CALL(ioe_submit_wait(s->ctx, notes[0].event), BLOCK);
        check_new_id(notes[0].event, known, &count);
    }
    free_notes(notes, 2);
    leave_scene(s);
}

/* ---- not there ---- */

static void what_is_not_in_flight_is_not_found(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    ioe_context *other = new_context(how, DEPTH, QUEUE);
    note *notes = new_notes(2, &s->done);
    ASSERT_CALL(ioe_cancel(s->ctx, 0), -ENOENT);
    ASSERT_CALL(ioe_cancel(s->ctx, UINT64_MAX), -ENOENT);
    prepare_write(&notes[0], s->fd, 0, 1);
    const uint64_t before = ioe_event_id(notes[0].event);
    ASSERT_CALL(ioe_cancel(s->ctx, before), -ENOENT);
    /* A new prep is another life. */
    prepare_write(&notes[0], s->fd, 1, 1);
    const uint64_t id = ioe_event_id(notes[0].event);
    hold_next(s->fd, IOE_WRITE, 1);
    ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
    await_held(s->ctx, how, 1);
    ASSERT_CALL(ioe_cancel(s->ctx, before), -ENOENT);
    ASSERT_CALL(ioe_cancel(other, id), -ENOENT);
    let_go(1);
    await(s->ctx, how, &s->done, 1);
    check_note(&notes[0], BLOCK);
    ASSERT_CALL(ioe_cancel(s->ctx, id), -ENOENT);
    ASSERT_CALL(ioe_cancel(s->ctx, ioe_event_id(notes[0].event)), -ENOENT);
    ASSERT_CALL(ioe_context_free(other), 0);
    free_notes(notes, 2);
    leave_scene(s);
}

/* The event's next life is not hit by the id of the one before, prepared anew or gone on with. */
static void successor_is_not_hit(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    note *n = new_notes(1, &s->done);
    for (int again = 0; again <= 1; again++) {
        prepare_write(n, s->fd, 0, 1);
        const uint64_t old = ioe_event_id(n->event);
        fail_next(s->fd, IOE_WRITE, 1, ENOSPC);
        ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
        await(s->ctx, how, &s->done, 2 * (unsigned long)again + 1);
        assert_int_equal(n->result, -ENOSPC);
        slots *taken = fill_slots(s->ctx, how);
        if (again)
            prepare_write(n, s->fd, 1, 1);
        ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
        ASSERT_CALL(ioe_cancel(s->ctx, old), -ENOENT);
        free_slots(taken);
        await(s->ctx, how, &s->done, 2 * (unsigned long)again + 2);
        assert_int_equal(n->result, BLOCK);
    }
    free_notes(n, 1);
    leave_scene(s);
}

/* ---- not yet in the kernel ---- */

typedef void (*prepare_fn)(ioe_event *event, int fd);

static void as_write(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_write(event, fd, memory, BLOCK, 0), 0);
}

static void as_read(ioe_event *event, int fd)
{
    static uint8_t bytes[BLOCK];
    assert_int_equal(ioe_prep_read(event, fd, bytes, BLOCK, 0), 0);
}

static void as_vectored_write(ioe_event *event, int fd)
{
    const struct iovec parts[2] = {{memory, 100}, {memory + BLOCK, 200}};
    assert_int_equal(ioe_prep_writev(event, fd, parts, 2, 0), 0);
}

static void as_fsync(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_fsync(event, fd), 0);
}

static void as_barrier(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_fdatasync(event, fd), 0);
    assert_int_equal(ioe_event_set_flags(event, IOE_BARRIER), 0);
}

static void as_fallocate(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_fallocate(event, fd, 0, 0, BLOCK), 0);
}

static void as_sync_range(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_sync_range(event, fd, 0, BLOCK, SYNC_FILE_RANGE_WRITE), 0);
}

static void as_truncate(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_truncate(event, fd, BLOCK), 0);
}

static void as_advise(ioe_event *event, int fd)
{
    assert_int_equal(ioe_prep_advise(event, fd, 0, BLOCK, POSIX_FADV_NORMAL), 0);
}

static const prepare_fn kinds[] = {as_write,   as_read,      as_vectored_write,
                                   as_fsync,   as_barrier,   as_fallocate,
                                   as_truncate, as_sync_range, as_advise};

static size_t count_all(int fd)
{
    size_t count = 0;
    for (int action = IOE_READ; action <= IOE_ADVISE; action++)
        count += count_operations(fd, action);
    return count;
}

/* All slots are stuck, and it completes all the same, without the disk. */
static void queued_event_is_cancelled(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        latch done = LATCH_INIT;
        note *notes = new_notes(2, &done);
        /* Seen by the reactor before it is cancelled, or not. */
        for (size_t j = 0; j < 2; j++) {
            kinds[i](notes[j].event, s->fd);
            const uint64_t id = ioe_event_id(notes[j].event);
            ASSERT_CALL(ioe_submit(s->ctx, notes[j].event), 0);
            if (j == 1 && how->flags & IOE_POLLED)
                ASSERT_CALL(ioe_poll(s->ctx, 0, 0), 0);
            ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
            await(s->ctx, how, &done, j + 1);
            check_note(&notes[j], -ECANCELED);
            assert_int_equal(notes[j].transferred, 0);
            ASSERT_CALL(ioe_cancel(s->ctx, id), -ENOENT);
        }
        free_notes(notes, 2);
    }
    assert_int_equal(latch_count(&taken->done), 0);
    assert_int_equal(get_stats(s->ctx).in_flight, taken->count);
    assert_int_equal(get_stats(s->ctx).failed, 2 * COUNT_OF(kinds));
    free_slots(taken);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(count_all(s->fd), 0);
    leave_scene(s);
}

/* As many as there are slots, and more, cancelled before anybody has looked at them. Without a thread
 * that could have been quicker, nothing of them reaches the disk. */
static void submitted_and_cancelled_at_once(void **state)
{
    enum { SLOTS = 4, MANY = 3 * SLOTS };
    const delivery *how = *state;
    scene *s = set_scene(how, SLOTS, QUEUE, 0);
    for (size_t count = 1; count <= MANY; count++) {
        latch done = LATCH_INIT;
        note *notes = new_notes(count, &done);
        uint64_t ids[MANY];
        for (size_t i = 0; i < count; i++) {
            prepare_write(&notes[i], s->fd, i, 1);
            ids[i] = ioe_event_id(notes[i].event);
            ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
        }
        for (size_t i = 0; i < count; i++) {
            const int rc = ioe_cancel(s->ctx, ids[i]);
            assert_true(rc == 0 || (rc == -ENOENT && !(how->flags & IOE_POLLED)));
        }
        await(s->ctx, how, &done, count);
        for (size_t i = 0; i < count; i++) {
            const int64_t result = whole_or_cancelled(&notes[i], BLOCK);
            assert_true(result == -ECANCELED || !(how->flags & IOE_POLLED));
        }
        free_notes(notes, count);
    }
    if (how->flags & IOE_POLLED)
        assert_int_equal(count_all(s->fd), 0);
    leave_scene(s);
}

/* The submission queue of a ring is full of operations that the kernel does not take at the moment:
 * what would ask for them back has no room in it. */
static void cancelled_while_the_ring_is_full(void **state)
{
    enum { SLOTS = 4 };
    const delivery *how = *state;
    only_on(IOE_DRIVER_URING, "it has a queue of its own");
    scene *s = set_scene(how, SLOTS, QUEUE, 0);
    note *notes = new_notes(SLOTS, &s->done);
    uint64_t ids[SLOTS];
    latch stayed = LATCH_INIT;
    stuck_read others[SLOTS];
    /* What is in the page cache completes as soon as it is submitted. */
    static uint8_t bytes[SLOTS][BLOCK];
    const int file = temp_file(ON_DISK);
    assert_int_equal(pwrite(file, bytes, sizeof bytes, 0), sizeof bytes);
    /* The poll on the wake-up descriptor goes before. */
    pass_by(s->ctx, how);
    atomic_store(&refused_entries, 1);
    for (size_t i = 0; i < SLOTS; i++) {
        assert_int_equal(ioe_prep_read(notes[i].event, file, bytes[i], BLOCK, i * BLOCK), 0);
        ids[i] = ioe_event_id(notes[i].event);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    }
    assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    assert_int_equal(atomic_load(&refused_entries), 0);
    /* These have the slots next; nobody wants them back. */
    for (size_t i = 0; i < SLOTS; i++) {
        stuck_prepare(&others[i], hit_latch, &stayed);
        ASSERT_CALL(ioe_submit(s->ctx, others[i].event), 0);
    }
    for (size_t i = 0; i < SLOTS; i++)
        ASSERT_CALL(ioe_cancel(s->ctx, ids[i]), 0);
    await(s->ctx, how, &s->done, SLOTS);
    for (size_t i = 0; i < SLOTS; i++)
        whole_or_cancelled(&notes[i], BLOCK);
    assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    for (size_t i = 0; i < SLOTS; i++)
        assert_true(stuck_let_go(&others[i]));
    await(s->ctx, how, &stayed, SLOTS);
    for (size_t i = 0; i < SLOTS; i++) {
        assert_int_equal(ioe_event_result(others[i].event), sizeof others[i].word);
        stuck_free(&others[i]);
    }
    close(file);
    free_notes(notes, SLOTS);
    leave_scene(s);
}

/* Any of many, and it can be submitted again. */
static void queue_without_the_cancelled_goes_on(void **state)
{
    enum { MANY = 60 };
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    note *notes = new_notes(MANY, &s->done);
    uint64_t ids[MANY];
    unsigned long cancelled = 0;
    for (size_t i = 0; i < MANY; i++) {
        prepare_write(&notes[i], s->fd, i, 1);
        ids[i] = ioe_event_id(notes[i].event);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    }
    for (size_t i = MANY; i > 0; i--)
        if (i % 3 != 0) {
            ASSERT_CALL(ioe_cancel(s->ctx, ids[i - 1]), 0);
            cancelled++;
        }
    await(s->ctx, how, &s->done, cancelled);
    assert_int_equal(latch_count(&s->done), cancelled);
    free_slots(taken);
    await(s->ctx, how, &s->done, MANY);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), MANY - cancelled);
    for (size_t i = 0; i < MANY; i++)
        check_note(&notes[i], (i + 1) % 3 != 0 ? -ECANCELED : BLOCK);
    ASSERT_CALL(ioe_submit(s->ctx, notes[0].event), 0);
    await(s->ctx, how, &s->done, MANY + 1);
    assert_int_equal(notes[0].result, BLOCK);
    free_notes(notes, MANY);
    leave_scene(s);
}

/* Whatever becomes of the others, gathered or handed over: they are not lost, and leave a hole where
 * it was. */
static void gathered_event_is_cancelled(void **state)
{
    enum { EACH = 5, GONE = 2 };
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    slots *taken = fill_slots(s->ctx, how);
    ioe_merger *merger = new_merger(s->ctx, s->fd, IOE_WRITE, 1 << 20);
    row *r = new_row(s->fd, IOE_WRITE, 0, EACH, BLOCK, 0);
    const uint64_t id = ioe_event_id(r->members[GONE].event);
    add_row(merger, r);
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    await_latch(s->ctx, how, &r->done, 1);
    assert_int_equal(atomic_load(&r->members[GONE].calls), 1);
    assert_int_equal(r->members[GONE].result, -ECANCELED);
    ASSERT_CALL(ioe_cancel(s->ctx, id), -ENOENT);
    free_slots(taken);
    ASSERT_CALL(ioe_merger_flush(merger), 0);
    await_latch(s->ctx, how, &r->done, EACH);
    stop_watching_operations();
    for (size_t i = 0; i < EACH; i++)
        check_member(r, i, i == GONE ? -ECANCELED : BLOCK, i == GONE ? 0 : BLOCK);
    uint8_t bytes[BLOCK], zeros[BLOCK] = {0};
    assert_int_equal(pread(s->fd, bytes, BLOCK, GONE * BLOCK), BLOCK);
    assert_memory_equal(bytes, zeros, BLOCK);
    ASSERT_CALL(ioe_merger_free(merger), 0);
    free_row(r);
    leave_scene(s);
}

/* A sync that waits for another, and a barrier that waits for a write: those do not notice. */
static void waiting_sync_is_cancelled(void **state)
{
    enum { SYNCED = 4, GONE = 1 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch others_done = LATCH_INIT, cancelled = LATCH_INIT;
    note *first = new_notes(1, &others_done), *barrier = new_notes(1, &cancelled);
    note *write = new_notes(1, &others_done), *notes = new_notes(SYNCED, &others_done);
    uint64_t id = 0;
    hold_next(s->fd, IOE_FSYNC, 1);
    hold_next(s->fd, IOE_WRITE, 1);
    submit_sync(s->ctx, first, s->fd, IOE_FSYNC);
    submit_write(s->ctx, write, s->fd, 0);
    await_held(s->ctx, how, 2);
    notes[GONE].done = &cancelled;
    for (size_t i = 0; i < SYNCED; i++) {
        prepare_sync(notes[i].event, s->fd, i == GONE ? IOE_FSYNC : IOE_FDATASYNC);
        if (i == GONE)
            id = ioe_event_id(notes[i].event);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    }
    prepare_sync(barrier->event, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_event_set_flags(barrier->event, IOE_BARRIER), 0);
    const uint64_t barriers_id = ioe_event_id(barrier->event);
    ASSERT_CALL(ioe_submit(s->ctx, barrier->event), 0);
    pass_by(s->ctx, how);
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    ASSERT_CALL(ioe_cancel(s->ctx, barriers_id), 0);
    await(s->ctx, how, &cancelled, 2);
    check_note(&notes[GONE], -ECANCELED);
    check_note(barrier, -ECANCELED);
    assert_int_equal(latch_count(&others_done), 0);
    assert_int_equal(count_syncs(s->fd), 1);
    let_go(2);
    await(s->ctx, how, &others_done, 2 + SYNCED - 1);
    check_note(first, 0);
    check_note(write, BLOCK);
    for (size_t i = 0; i < SYNCED; i++)
        if (i != GONE)
            check_note(&notes[i], 0);
    /* Of fdatasyncs alone by now. */
    assert_int_equal(count_syncs(s->fd), 2);
    assert_int_equal(find_operation(s->fd, SYNCS, 1).action, IOE_FDATASYNC);
    assert_int_equal(get_stats(s->ctx).syncs_joined, SYNCED - 2);
    free_notes(first, 1);
    free_notes(write, 1);
    free_notes(barrier, 1);
    free_notes(notes, SYNCED);
    leave_scene(s);
}

/* ---- in the kernel ---- */

/* Where the driver can, the read of a pipe ends; else it has what was written. Nothing of what comes
 * later gets into its memory. */
static void read_in_the_kernel_is_cancelled(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    stuck_read *stuck = calloc(1, sizeof *stuck);
    note *n = new_notes(1, &s->done);
    assert_non_null(stuck);
    stuck_prepare(stuck, on_note, n);
    const uint64_t id = ioe_event_id(stuck->event);
    submit_stuck(s->ctx, how, stuck);
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    const bool ends = tested_driver == IOE_DRIVER_URING;
    if (!ends)
        assert_true(stuck_let_go(stuck));
    await(s->ctx, how, &s->done, 1);
    check_note(n, ends ? -ECANCELED : (int64_t)sizeof stuck->word);
    if (ends) {
        assert_true(stuck_let_go(stuck));
        pass_by(s->ctx, how);
        assert_int_equal(stuck->word, 0);
    }
    stuck_free(stuck);
    free(stuck);
    free_notes(n, 1);
    leave_scene(s);
}

/* One that cannot be stopped keeps its memory until the kernel is done with it. */
static void callback_waits_for_the_kernel(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(3, &s->done);
    uint64_t ids[3];
    hold_next(s->fd, IOE_WRITE, 3);
    for (size_t i = 0; i < 3; i++) {
        prepare_write(&notes[i], s->fd, 2 * i, 2);
        ids[i] = ioe_event_id(notes[i].event);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
        await_held(s->ctx, how, i + 1);
    }
    for (size_t i = 0; i < 3; i++)
        ASSERT_CALL(ioe_cancel(s->ctx, ids[i]), 0);
    pass_by(s->ctx, how);
    assert_int_equal(latch_count(&s->done), 0);
    /* Whole; short, which is not gone on with; and to be asked for again, which is not. */
    let_go(1);
    assert_true(let_one_go(0, BLOCK));
    assert_true(let_one_go(0, -EINTR));
    await(s->ctx, how, &s->done, 3);
    check_note(&notes[0], 2 * BLOCK);
    check_note(&notes[1], -ECANCELED);
    assert_int_equal(notes[1].transferred, BLOCK);
    check_note(&notes[2], -ECANCELED);
    assert_int_equal(notes[2].transferred, 0);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 3);
    /* Submitted again, it goes on where it stopped. */
    ASSERT_CALL(ioe_submit(s->ctx, notes[1].event), 0);
    await(s->ctx, how, &s->done, 4);
    assert_int_equal(notes[1].result, 2 * BLOCK);
    const operation rest = find_operation(s->fd, WRITES, 3);
    assert_int_equal(rest.offset, 3 * BLOCK);
    assert_int_equal(rest.len, BLOCK);
    free_notes(notes, 3);
    leave_scene(s);
}

/* What travels with it arrives. */
static void member_of_an_operation_is_cancelled(void **state)
{
    enum { EACH = 6 };
    const delivery *how = *state;
    for (int action = IOE_READ; action <= IOE_WRITE; action++)
        for (size_t gone = 0; gone < EACH; gone += 3) {
            scene *s = set_scene(how, DEPTH, QUEUE, 0);
            const int own = open_again(s->fd, O_RDWR);
            ready_file(own, action, 0, EACH * BLOCK);
            close(own);
            if (how->flags & IOE_POLLED)
                assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
            ioe_merger *merger = new_merger(s->ctx, s->fd, action, 1 << 20);
            row *r = new_row(s->fd, action, 0, EACH, BLOCK, 8);
            const uint64_t id = ioe_event_id(r->members[gone].event);
            hold_next(s->fd, action, 1);
            add_row(merger, r);
            ASSERT_CALL(ioe_merger_free(merger), 0);
            await_held(s->ctx, how, 1);
            ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
            pass_by(s->ctx, how);
            assert_int_equal(latch_count(&r->done), 0);
            let_go(1);
            await(s->ctx, how, &r->done, EACH);
            stop_watching_operations();
            for (size_t i = 0; i < EACH; i++)
                if (i != gone || r->members[i].result != -ECANCELED)
                    check_member(r, i, BLOCK, BLOCK);
            assert_int_equal(atomic_load(&r->members[gone].calls), 1);
            free_row(r);
            leave_scene(s);
        }
}

/* Nor do those that a running sync answers. */
static void member_of_a_running_group_is_cancelled(void **state)
{
    enum { SYNCED = 4 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(SYNCED + 1, &s->done);
    uint64_t ids[SYNCED + 1];
    hold_next(s->fd, IOE_FSYNC, 2);
    for (size_t i = 0; i <= SYNCED; i++) {
        prepare_sync(notes[i].event, s->fd, IOE_FSYNC);
        ids[i] = ioe_event_id(notes[i].event);
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
        if (i == 0)
            await_held(s->ctx, how, 1);
    }
    pass_by(s->ctx, how);
    let_go(1);
    await_held(s->ctx, how, 1);
    ASSERT_CALL(ioe_cancel(s->ctx, ids[1]), 0);
    ASSERT_CALL(ioe_cancel(s->ctx, ids[3]), 0);
    pass_by(s->ctx, how);
    let_go(1);
    await(s->ctx, how, &s->done, SYNCED + 1);
    for (size_t i = 0; i <= SYNCED; i++)
        if (i % 2 == 0)
            check_note(&notes[i], 0);
        else
            whole_or_cancelled(&notes[i], 0);
    assert_int_equal(count_syncs(s->fd), 2);
    free_notes(notes, SYNCED + 1);
    leave_scene(s);
}

/* ---- done ---- */

/* Whole, and its callback cannot start: it is still there to be cancelled, and keeps its result. */
static void whole_event_keeps_its_result(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *n = new_notes(1, &s->done);
    blockers *b = block_callbacks(s->ctx, how, s->other);
    prepare_write(n, s->fd, 0, 1);
    const uint64_t id = ioe_event_id(n->event);
    ASSERT_CALL(ioe_submit(s->ctx, n->event), 0);
    while (!ioe_event_is_done(n->event))
        sched_yield();
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    assert_int_equal(ioe_event_result(n->event), BLOCK);
    unblock_callbacks(s->ctx, b);
    check_note(n, BLOCK);
    ASSERT_CALL(ioe_cancel(s->ctx, id), -ENOENT);
    free_notes(n, 1);
    leave_scene(s);
}

typedef struct own_cancel {
    ioe_context *ctx;
    uint64_t id;
    int answers[2];
    gate gate;
} own_cancel;

static void cancel_itself(ioe_event *event, void *arg)
{
    own_cancel *o = arg;
    o->answers[0] = ioe_cancel(o->ctx, o->id);
    o->answers[1] = ioe_cancel(o->ctx, ioe_event_id(event));
    latch_hit(&o->gate.entered);
    latch_wait(&o->gate.opened, 1);
}

static void started_callback_is_not_found(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    own_cancel *o = calloc(1, sizeof *o);
    ioe_event *event = new_event();
    assert_non_null(o);
    as_write(event, s->fd);
    *o = (own_cancel){.ctx = s->ctx, .id = ioe_event_id(event), .gate = GATE_INIT};
    assert_int_equal(ioe_event_set_callback(event, cancel_itself, o), 0);
    if (how->flags & IOE_POLLED)
        latch_hit(&o->gate.opened);
    ASSERT_CALL(ioe_submit(s->ctx, event), 0);
    await(s->ctx, how, &o->gate.entered, 1);
    ASSERT_CALL(ioe_cancel(s->ctx, o->id), -ENOENT);
    latch_hit(&o->gate.opened);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(o->answers[0], -ENOENT);
    assert_int_equal(o->answers[1], -ENOENT);
    assert_int_equal(ioe_event_result(event), BLOCK);
    assert_int_equal(ioe_event_free(event), 0);
    free(o);
    leave_scene(s);
}

/* A callback may cancel others. */
typedef struct other_cancel {
    ioe_context *ctx;
    uint64_t id;
    int answer;
    latch done;
} other_cancel;

static void cancel_another(ioe_event *event, void *arg)
{
    other_cancel *o = arg;
    (void)event;
    o->answer = ioe_cancel(o->ctx, o->id);
    latch_hit(&o->done);
}

static void callback_cancels_another(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(2, &s->done);
    other_cancel *o = calloc(1, sizeof *o);
    ioe_event *event = new_event();
    assert_non_null(o);
    hold_next(s->fd, IOE_FSYNC, 1);
    submit_sync(s->ctx, &notes[0], s->fd, IOE_FSYNC);
    await_held(s->ctx, how, 1);
    prepare_sync(notes[1].event, s->fd, IOE_FSYNC);
    *o = (other_cancel){.ctx = s->ctx, .id = ioe_event_id(notes[1].event), .done = LATCH_INIT};
    ASSERT_CALL(ioe_submit(s->ctx, notes[1].event), 0);
    as_write(event, s->other);
    assert_int_equal(ioe_event_set_callback(event, cancel_another, o), 0);
    ASSERT_CALL(ioe_submit(s->ctx, event), 0);
    await(s->ctx, how, &s->done, 1);
    check_note(&notes[1], -ECANCELED);
    await(s->ctx, how, &o->done, 1);
    assert_int_equal(o->answer, 0);
    let_go(1);
    await(s->ctx, how, &s->done, 2);
    check_note(&notes[0], 0);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(ioe_event_free(event), 0);
    free(o);
    free_notes(notes, 2);
    leave_scene(s);
}

/* ---- somebody waits for it ---- */

typedef struct canceller {
    ioe_context *ctx;
    uint64_t id;
    pid_t owner;
    int rc;
} canceller;

static void *cancel_when_asleep(void *arg)
{
    canceller *c = arg;
    /* It may sleep for an instant before it has submitted. */
    do {
        await_sleep(c->owner);
        c->rc = ioe_cancel(c->ctx, c->id);
    } while (c->rc == -ENOENT);
    return NULL;
}

/* On his own thread nothing stops it; in the queue, or in a group, he has the answer. */
static void waiting_caller_is_told(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    ioe_event *own = new_event(), *queued = new_event(), *synced = new_event();
    hold_next(s->fd, IOE_WRITE, 1);
    as_write(own, s->fd);
    const uint64_t own_id = ioe_event_id(own);
    waiter *w = start_waiter(s->ctx, own);
    await_held(s->ctx, how, 1);
    ASSERT_CALL(ioe_cancel(s->ctx, own_id), 0);
    let_go(1);
    end_waiter(w, BLOCK);

    note *first = new_notes(1, &s->done);
    hold_next(s->fd, IOE_FSYNC, 1);
    submit_sync(s->ctx, first, s->fd, IOE_FSYNC);
    await_held(s->ctx, how, 1);
    as_fsync(synced, s->fd);
    const uint64_t synced_id = ioe_event_id(synced);
    w = start_waiter(s->ctx, synced);
    await_asleep(s->ctx, how, w->tid);
    ASSERT_CALL(ioe_cancel(s->ctx, synced_id), 0);
    end_waiter(w, -ECANCELED);
    let_go(1);
    await(s->ctx, how, &s->done, 1);
    assert_int_equal(count_syncs(s->fd), 1);

    slots *taken = fill_slots(s->ctx, how);
    as_write(queued, s->fd);
    ASSERT_CALL(ioe_event_set_timeout(queued, INT64_MAX), 0);
    const uint64_t queued_id = ioe_event_id(queued);
    w = start_waiter(s->ctx, queued);
    canceller c = {.ctx = s->ctx, .id = queued_id, .owner = w->tid};
    cancel_when_asleep(&c);
    assert_int_equal(c.rc, 0);
    end_waiter(w, -ECANCELED);
    free_slots(taken);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 1);
    free_notes(first, 1);
    leave_scene(s);
}

/* ---- polled contexts: another thread cancels ---- */

/* In the queue, and in the kernel where the driver can. */
static void cancel_ends_the_owners_sleep(void **state)
{
    enum { IN_POLL, IN_DRAIN, IN_WAIT, ON_DESCRIPTOR, SLEEPS };
    const delivery *how = *state;
    for (int sleep = IN_POLL; sleep < SLEEPS; sleep++)
        for (int in_kernel = 0; in_kernel <= 1; in_kernel++) {
            if (in_kernel && (tested_driver != IOE_DRIVER_URING || sleep == IN_WAIT))
                continue;
            scene *s = set_scene(how, 2, QUEUE, 0);
            note *n = new_notes(1, &s->done);
            stuck_read *stuck = calloc(1, sizeof *stuck);
            assert_non_null(stuck);
            assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
            const int fd = ioe_context_fd(s->ctx);
            assert_true(fd >= 0);
            slots *taken = in_kernel || sleep == IN_DRAIN ? NULL : fill_slots(s->ctx, how);
            stuck_prepare(stuck, on_note, n);
            /* A drain waits for all, so the slots are free then, and it is a sync that waits. */
            note *running = new_notes(1, &s->done);
            ioe_event *event = stuck->event;
            if (!in_kernel && sleep == IN_DRAIN) {
                hold_next(s->fd, IOE_FSYNC, 1);
                submit_sync(s->ctx, running, s->fd, IOE_FSYNC);
                await_held(s->ctx, how, 1);
                as_fsync(event, s->fd);
            }
            canceller c = {.ctx = s->ctx, .owner = gettid(), .rc = 1};
            if (sleep == IN_WAIT)
                ASSERT_CALL(ioe_event_set_timeout(event, INT64_MAX), 0);
            c.id = ioe_event_id(event);
            if (sleep != IN_WAIT) {
                ASSERT_CALL(ioe_submit(s->ctx, event), 0);
                assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
            }
            struct pollfd watched = {.fd = fd, .events = POLLIN};
            assert_int_equal(poll(&watched, 1, 0), 0);
            pthread_t thread = start_thread(cancel_when_asleep, &c);
            if (sleep == IN_POLL) {
                ASSERT_CALL(ioe_poll(s->ctx, 1, -1), 1);
            } else if (sleep == IN_DRAIN && !in_kernel) {
                /* It has to go on sleeping, for the one that runs. */
                int rc = 0;
                while (latch_count(&s->done) == 0 && rc >= 0)
                    rc = ioe_drain(s->ctx, 50) == -ETIMEDOUT ? 0 : -1;
                assert_true(rc >= 0);
            } else if (sleep == IN_DRAIN) {
                ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
            } else if (sleep == IN_WAIT) {
                ASSERT_CALL(ioe_submit_wait(s->ctx, event), -ECANCELED);
            } else {
                assert_int_equal(poll(&watched, 1, -1), 1);
                ASSERT_CALL(ioe_poll(s->ctx, 0, 0), 1);
            }
            join_thread(thread);
            assert_int_equal(c.rc, 0);
            if (sleep != IN_WAIT)
                check_note(n, -ECANCELED);
            if (!in_kernel && sleep == IN_DRAIN) {
                let_go(1);
                await(s->ctx, how, &s->done, 2);
            }
            if (taken != NULL)
                free_slots(taken);
            stuck_free(stuck);
            free(stuck);
            free_notes(n, 1);
            free_notes(running, 1);
            leave_scene(s);
        }
}

static void *cancel_a_strange_id(void *arg)
{
    canceller *c = arg;
    c->rc = ioe_cancel(c->ctx, c->id);
    return NULL;
}

/* And own nothing by that: the first that submits or polls does. */
static void other_threads_are_told_too(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *n = new_notes(1, &s->done);
    canceller c = {.ctx = s->ctx, .id = 0};
    join_thread(start_thread(cancel_a_strange_id, &c));
    assert_int_equal(c.rc, -ENOENT);
    submit_write(s->ctx, n, s->fd, 0);
    await(s->ctx, how, &s->done, 1);
    c = (canceller){.ctx = s->ctx, .id = ioe_event_id(n->event)};
    join_thread(start_thread(cancel_a_strange_id, &c));
    assert_int_equal(c.rc, -ENOENT);
    free_notes(n, 1);
    leave_scene(s);
}

/* ---- races ---- */

enum { RACERS = 24, STAMP = 0xEE, FILE_SEED = 5, WRITE_SEED = 6 };

typedef struct racer {
    ioe_event *event;
    uint8_t *memory;
    _Atomic uint64_t id;
    latch *done;
    unsigned calls;
    unsigned wrong;
} racer;

/* From here on the memory is the program's: it is written over, and may neither change nor get to the
 * disk any more. */
static void on_racer(ioe_event *event, void *arg)
{
    racer *r = arg;
    const int64_t result = ioe_event_result(event);
    const bool reads = ioe_event_action(event) == IOE_READ;
    r->calls++;
    r->wrong += result != BLOCK && result != -ECANCELED;
    if (reads && result == BLOCK)
        r->wrong += !pattern_holds(r->memory, BLOCK, FILE_SEED, ioe_event_offset(event));
    memset(r->memory, STAMP, BLOCK);
    latch_hit(r->done);
}

typedef struct hunt {
    ioe_context *ctx;
    racer *racers;
    atomic_bool over;
    unsigned long found, missed, wrong;
} hunt;

static void *cancel_at_random(void *arg)
{
    hunt *h = arg;
    uint64_t random = 11;
    while (!atomic_load(&h->over)) {
        const int rc = ioe_cancel(h->ctx, atomic_load(&h->racers[next_random(&random) % RACERS].id));
        h->found += rc == 0;
        h->missed += rc == -ENOENT;
        h->wrong += rc != 0 && rc != -ENOENT;
    }
    return NULL;
}

/* Direct transfers, which take their time, against two threads that cancel. */
static void cancels_race_with_completion(void **state)
{
    const delivery *how = *state;
    const unsigned long rounds = scaled(120);
    ioe_context *ctx = new_context(how, 6, QUEUE);
    const int fd = temp_file(ON_DISK), direct = open_direct(fd);
    uint8_t *bytes = ioe_buffer_alloc(2 * RACERS * BLOCK, 0);
    uint8_t *file = malloc(RACERS * BLOCK);
    racer *racers = calloc(RACERS, sizeof *racers);
    latch done = LATCH_INIT;
    hunt hunts[2];
    pthread_t threads[2];
    assert_true(bytes != NULL && file != NULL && racers != NULL);
    pattern_fill(file, RACERS * BLOCK, FILE_SEED, 0);
    assert_int_equal(pwrite(fd, file, RACERS * BLOCK, 0), RACERS * BLOCK);
    assert_int_equal(ftruncate(fd, 2 * RACERS * BLOCK), 0);
    assert_int_equal(fsync(fd), 0);
    if (how->flags & IOE_POLLED)
        assert_int_equal(ioe_poll(ctx, 0, 0), 0);
    for (size_t i = 0; i < RACERS; i++) {
        racers[i] = (racer){.event = new_event(), .memory = bytes + i * BLOCK, .done = &done};
        assert_int_equal(ioe_event_set_callback(racers[i].event, on_racer, &racers[i]), 0);
    }
    for (size_t t = 0; t < 2; t++) {
        hunts[t] = (hunt){.ctx = ctx, .racers = racers};
        threads[t] = start_thread(cancel_at_random, &hunts[t]);
    }
    for (unsigned long round = 0; round < rounds; round++) {
        for (size_t i = 0; i < RACERS; i++) {
            racer *r = &racers[i];
            if (i % 2 == 0) {
                assert_int_equal(ioe_prep_read(r->event, direct, r->memory, BLOCK, i * BLOCK), 0);
            } else {
                pattern_fill(r->memory, BLOCK, WRITE_SEED, i);
                assert_int_equal(ioe_prep_write(r->event, direct, r->memory, BLOCK,
                                                (RACERS + i) * BLOCK), 0);
            }
            atomic_store(&r->id, ioe_event_id(r->event));
            ASSERT_CALL(ioe_submit(ctx, r->event), 0);
        }
        await(ctx, how, &done, (round + 1) * RACERS);
    }
    for (size_t t = 0; t < 2; t++) {
        atomic_store(&hunts[t].over, true);
        join_thread(threads[t]);
        assert_int_equal(hunts[t].wrong, 0);
    }
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    const ioe_stats stats = get_stats(ctx);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    printf("# %llu of %lu cancelled\n", (unsigned long long)stats.failed, rounds * RACERS);
    assert_true(stats.failed > 0);
    assert_true(stats.failed <= hunts[0].found + hunts[1].found);
    for (size_t i = 0; i < RACERS; i++) {
        assert_int_equal(racers[i].calls, rounds);
        assert_int_equal(racers[i].wrong, 0);
        for (size_t at = 0; at < BLOCK; at++)
            assert_int_equal(racers[i].memory[at], STAMP);
        if (i % 2 == 1) {
            assert_int_equal(pread(fd, file, BLOCK, (off_t)((RACERS + i) * BLOCK)), BLOCK);
            assert_true(pattern_holds(file, BLOCK, WRITE_SEED, i) || (file[0] == 0 && file[BLOCK - 1] == 0));
        }
        assert_int_equal(ioe_event_free(racers[i].event), 0);
    }
    free(racers);
    free(file);
    ioe_buffer_free(bytes);
    close(direct);
    close(fd);
}

typedef struct chase {
    ioe_context *ctx;
    _Atomic(uint64_t) id; /* 0: the end */
} chase;

static void *cancel_as_soon_as_found(void *arg)
{
    chase *c = arg;
    uint64_t last = 0;
    for (uint64_t id; (id = atomic_load(&c->id)) != 0;) {
        if (id != last && ioe_cancel(c->ctx, id) == 0)
            last = id;
    }
    return NULL;
}

/* Cancelled while it is being submitted, whatever the reactor has seen of it then: a read that nothing
 * else ends. */
static void cancelled_on_its_way(void **state)
{
    const delivery *how = *state;
    only_on(IOE_DRIVER_URING, "the others cannot end a read of a pipe");
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch done = LATCH_INIT;
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, &done);
    chase c = {.ctx = s->ctx, .id = ioe_event_id(stuck.event)};
    pthread_t thread = start_thread(cancel_as_soon_as_found, &c);
    const unsigned long rounds = scaled(20000);
    for (unsigned long round = 1; round <= rounds; round++) {
        ASSERT_CALL(ioe_submit(s->ctx, stuck.event), 0);
        await(s->ctx, how, &done, round);
        assert_int_equal(ioe_event_result(stuck.event), -ECANCELED);
        atomic_store(&c.id, round < rounds ? ioe_event_id(stuck.event) : 0);
    }
    join_thread(thread);
    stuck_free(&stuck);
    leave_scene(s);
}

/* ---- whose an event is that a thread waits for ---- */

static sem_t held, go_on;

static void hold_thread(int signal)
{
    (void)signal;
    sem_post(&held);
    while (sem_wait(&go_on) != 0)
        continue;
}

/* Also when the reactor is done with it: until ioe_submit_wait returns, which cannot be while its thread is in
 * a signal handler. */
static void what_is_waited_for_is_in_flight(void **state)
{
    const delivery *how = *state;
    const struct sigaction action = {.sa_handler = hold_thread};
    struct sigaction before;
    ioe_context *ctx = new_context(how, 8, 8);
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, NULL);
    /* It is the driver thread's to do. */
    ASSERT_CALL(ioe_event_set_priority(stuck.event, 2 << 13), 0);
    assert_int_equal(sem_init(&held, 0, 0) + sem_init(&go_on, 0, 0), 0);
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    waiter *w = start_waiter(ctx, stuck.event);
    await_asleep(ctx, how, w->tid);
    assert_int_equal(pthread_kill(w->thread, SIGUSR1), 0);
    while (sem_wait(&held) != 0)
        continue;
    assert_true(stuck_let_go(&stuck));
    while (!ioe_event_is_done(stuck.event))
        sched_yield();
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    pass_by(ctx, how);
    ASSERT_CALL(ioe_event_set_timeout(stuck.event, 1), -EBUSY);
    ASSERT_CALL(ioe_prep_fsync(stuck.event, -1), -EBUSY);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), -EBUSY);
    ASSERT_CALL(ioe_event_free(stuck.event), -EBUSY);
    sem_post(&go_on);
    join_thread(w->thread);
    assert_int_equal(w->result, sizeof stuck.word);
    ASSERT_CALL(ioe_event_set_timeout(stuck.event, 1), 0);
    free(w);
    stuck_free(&stuck);
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(every_life_has_its_id),
        for_each_delivery(what_is_not_in_flight_is_not_found),
        for_each_delivery(successor_is_not_hit),
        for_each_delivery(queued_event_is_cancelled),
        for_each_delivery(submitted_and_cancelled_at_once),
        polled_only(cancelled_while_the_ring_is_full),
        for_each_delivery(queue_without_the_cancelled_goes_on),
        for_each_delivery(gathered_event_is_cancelled),
        for_each_delivery(waiting_sync_is_cancelled),
        for_each_delivery(read_in_the_kernel_is_cancelled),
        for_each_delivery(callback_waits_for_the_kernel),
        for_each_delivery(member_of_an_operation_is_cancelled),
        for_each_delivery(member_of_a_running_group_is_cancelled),
        for_each_worker_delivery(whole_event_keeps_its_result),
        for_each_delivery(started_callback_is_not_found),
        for_each_delivery(callback_cancels_another),
        for_each_threaded_delivery(waiting_caller_is_told),
        polled_only(cancel_ends_the_owners_sleep),
        for_each_delivery(other_threads_are_told_too),
        for_each_delivery(cancels_race_with_completion),
        for_each_delivery(cancelled_on_its_way),
        for_each_threaded_delivery(what_is_waited_for_is_in_flight),
    };
    return RUN_TESTS(tests);
}
