/*
 * Promise: syncs of a descriptor that wait while one runs are answered together, by one call that
 * began after each of them was accepted, with its result, also an error, which is never asked for
 * again. A barrier starts when the writes accepted before it are done, wherever they are, has the
 * error of one that failed instead, and holds nothing else up.
 */
#include "merging.h"
#include "notes.h"

/* ---- events ---- */

static waiter *start_sync_waiter(ioe_context *ctx, int fd, int action)
{
    ioe_event *event = new_event();
    prepare_sync(event, fd, action);
    return start_waiter(ctx, event);
}

/* ---- a callback that submits ---- */

typedef struct helper {
    ioe_context *ctx;
    ioe_event *event;
    note *notes;
    size_t count;
    gate *gate; /* waits here first, where there is one */
    atomic_uint refused;
    latch done;
} helper;

static void submit_all(ioe_event *event, void *arg)
{
    helper *h = arg;
    (void)event;
    if (h->gate != NULL) {
        latch_hit(&h->gate->entered);
        latch_wait(&h->gate->opened, 1);
    }
    for (size_t i = 0; i < h->count; i++)
        if (ioe_submit(h->ctx, h->notes[i].event) != 0)
            atomic_fetch_add(&h->refused, 1);
    latch_hit(&h->done);
}

/* What it submits is prepared; its own event is a write to another file. */
static helper *new_helper(ioe_context *ctx, int other, note *notes, size_t count, gate *g)
{
    helper *h = calloc(1, sizeof *h);
    assert_non_null(h);
    *h = (helper){.ctx = ctx, .event = new_event(), .notes = notes, .count = count, .gate = g,
                  .done = LATCH_INIT};
    assert_int_equal(ioe_prep_write(h->event, other, memory, 1, 0), 0);
    assert_int_equal(ioe_event_set_callback(h->event, submit_all, h), 0);
    return h;
}

static void free_helper(helper *h)
{
    assert_int_equal(atomic_load(&h->refused), 0);
    assert_int_equal(ioe_event_free(h->event), 0);
    free(h);
}

/* A sync that the kernel has and keeps. */
static note *hold_a_sync(scene *s, int action, latch *done)
{
    note *first = new_notes(1, done);
    const uint64_t before = get_stats(s->ctx).operations;
    hold_next(s->fd, action, 1);
    submit_sync(s->ctx, first, s->fd, action);
    await_held(s->ctx, s->how, 1);
    /* Also while the thread that handed it over sleeps. */
    assert_int_equal(get_stats(s->ctx).operations - before, 1);
    return first;
}

/* ---- group commit ---- */

/* From outside, from a callback, and by threads that wait; fsync where the mix says so. */
static void check_group(const delivery *how, int first_action, unsigned every_fsync, int error)
{
    enum { OUTSIDE = 19, INSIDE = 8, WAITERS = 4 };
    const size_t waiters = how->flags & IOE_POLLED ? 0 : WAITERS;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(OUTSIDE + INSIDE, &s->done);
    waiter *waiting[WAITERS];
    latch first_done = LATCH_INIT;
    note *first = hold_a_sync(s, first_action, &first_done);
    helper *h = new_helper(s->ctx, s->other, notes + OUTSIDE, INSIDE, NULL);
    for (size_t i = 0; i < OUTSIDE + INSIDE; i++)
        prepare_sync(notes[i].event, s->fd,
                     every_fsync > 0 && i % every_fsync == 0 ? IOE_FSYNC : IOE_FDATASYNC);
    for (size_t i = 0; i < OUTSIDE; i++)
        ASSERT_CALL(ioe_submit(s->ctx, notes[i].event), 0);
    ASSERT_CALL(ioe_submit(s->ctx, h->event), 0);
    await_latch(s->ctx, how, &h->done, 1);
    for (size_t i = 0; i < waiters; i++)
        waiting[i] = start_sync_waiter(s->ctx, s->fd, IOE_FDATASYNC);
    for (size_t i = 0; i < waiters; i++)
        await_asleep(s->ctx, how, waiting[i]->tid);
    pass_by(s->ctx, how);
    assert_int_equal(count_syncs(s->fd), 1);
    assert_int_equal(latch_count(&s->done), 0);

    const ioe_stats before = get_stats(s->ctx);
    fail_next(s->fd, every_fsync > 0 ? IOE_FSYNC : IOE_FDATASYNC, error != 0, error);
    let_go(1);
    await(s->ctx, how, &first_done, 1);
    await(s->ctx, how, &s->done, OUTSIDE + INSIDE);
    for (size_t i = 0; i < waiters; i++)
        end_waiter(waiting[i], -error);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    const ioe_stats after = get_stats(s->ctx);
    check_note(first, 0);
    for (size_t i = 0; i < OUTSIDE + INSIDE; i++)
        check_note(&notes[i], -error);
    assert_int_equal(count_syncs(s->fd), 2);
    const operation running = find_operation(s->fd, SYNCS, 0), joint = find_operation(s->fd, SYNCS, 1);
    assert_int_equal(joint.action, every_fsync > 0 ? IOE_FSYNC : IOE_FDATASYNC);
    assert_true(joint.begun > running.ended);
    assert_int_equal(after.operations - before.operations, 1);
    assert_int_equal(after.syncs_joined - s->before.syncs_joined, OUTSIDE + INSIDE + waiters - 1);
    assert_int_equal(after.failed - s->before.failed, error != 0 ? OUTSIDE + INSIDE + waiters : 0);

    /* An error is told once: the next one asks anew, and joined nobody. */
    prepare_sync(first->event, s->fd, IOE_FSYNC);
    assert_int_equal(run_event(s->ctx, how, first->event), 0);
    assert_int_equal(count_syncs(s->fd), 3);
    assert_int_equal(get_stats(s->ctx).syncs_joined, after.syncs_joined);
    free_helper(h);
    free_notes(first, 1);
    free_notes(notes, OUTSIDE + INSIDE);
    leave_scene(s);
}

static void waiting_syncs_are_one_call(void **state)
{
    check_group(*state, IOE_FSYNC, 5, 0);
    check_group(*state, IOE_FDATASYNC, 5, 0);
    check_group(*state, IOE_FDATASYNC, 26, 0); /* the last one from outside, and the first */
}

static void waiting_fdatasyncs_are_one_fdatasync(void **state)
{
    check_group(*state, IOE_FDATASYNC, 0, 0);
    check_group(*state, IOE_FSYNC, 0, 0);
}

static void error_of_a_group_is_told_to_all(void **state)
{
    check_group(*state, IOE_FSYNC, 3, EIO);
    check_group(*state, IOE_FSYNC, 0, ENOSPC);
    /* With these, a transfer is asked for again. */
    check_group(*state, IOE_FSYNC, 2, EINTR);
}

/* Those who wait behind one that fails hear of it, without a call of their own: the kernel would tell them
 * nothing of what it has told. A barrier as well, though its write is still on its way. Who comes later asks
 * the kernel again. */
static void error_of_the_running_one_is_for_those_behind(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch first_done = LATCH_INIT;
    note *first = new_notes(1, &first_done), *notes = new_notes(3, &s->done);
    latch later_done = LATCH_INIT, written = LATCH_INIT;
    note *later = new_notes(1, &later_done), *write = new_notes(1, &written);
    const bool by_call = tested_driver != IOE_DRIVER_AIO;
    /* One of AIO that is held can only be let go. */
    hold_next(s->fd, IOE_FSYNC, 1);
    submit_sync(s->ctx, first, s->fd, IOE_FSYNC);
    await_held(s->ctx, how, 1);
    hold_next(s->fd, IOE_WRITE, 1);
    prepare_write(write, s->fd, 0, 1);
    ASSERT_CALL(ioe_submit(s->ctx, write->event), 0);
    await_held(s->ctx, how, 2);
    submit_sync(s->ctx, &notes[0], s->fd, IOE_FSYNC);
    submit_sync(s->ctx, &notes[1], s->fd, IOE_FDATASYNC);
    submit_barrier(s->ctx, &notes[2], s->fd, IOE_FSYNC);
    pass_by(s->ctx, how);
    assert_true(let_one_go(0, by_call ? -EIO : WHOLE));
    if (!by_call)
        let_go(1);
    await(s->ctx, how, &s->done, 3);
    await(s->ctx, how, &first_done, 1);
    check_note(first, by_call ? -EIO : 0);
    for (size_t i = 0; i < 3; i++)
        check_note(&notes[i], by_call ? -EIO : 0);
    if (by_call) {
        assert_int_equal(count_syncs(s->fd), 1);
        let_go(1);
    }
    await(s->ctx, how, &written, 1);
    const size_t before = count_syncs(s->fd);
    submit_sync(s->ctx, later, s->fd, IOE_FSYNC);
    await(s->ctx, how, &later_done, 1);
    check_note(later, 0);
    assert_int_equal(count_syncs(s->fd), before + 1);
    free_notes(later, 1);
    free_notes(write, 1);
    free_notes(first, 1);
    free_notes(notes, 3);
    leave_scene(s);
}

/* Each group begins when the one before has ended, and has those that came until then. */
static void groups_follow_each_other(void **state)
{
    enum { GROUPS = 6, EACH = 3 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(GROUPS * EACH, &s->done);
    hold_next(s->fd, IOE_FSYNC, ALL_OF_THEM);
    hold_next(s->fd, IOE_FDATASYNC, ALL_OF_THEM);
    latch first_done = LATCH_INIT;
    note *first = new_notes(1, &first_done);
    submit_sync(s->ctx, first, s->fd, IOE_FSYNC);
    await_held(s->ctx, how, 1);
    for (size_t g = 0; g < GROUPS; g++) {
        for (size_t i = 0; i < EACH; i++) {
            note *n = &notes[g * EACH + i];
            submit_sync(s->ctx, n, s->fd, g % 2 == 1 && i == 1 ? IOE_FSYNC : IOE_FDATASYNC);
            n->accepted_at = now_in_order();
        }
        pass_by(s->ctx, how);
        assert_int_equal(count_syncs(s->fd), g + 1);
        let_go(1);
        await_held(s->ctx, how, 1);
    }
    let_go(1);
    await(s->ctx, how, &s->done, GROUPS * EACH);
    await(s->ctx, how, &first_done, 1);
    assert_int_equal(count_syncs(s->fd), GROUPS + 1);
    for (size_t g = 0; g < GROUPS; g++) {
        const operation one = find_operation(s->fd, SYNCS, g + 1);
        assert_int_equal(one.action, g % 2 == 1 ? IOE_FSYNC : IOE_FDATASYNC);
        for (size_t i = 0; i < EACH; i++) {
            check_note(&notes[g * EACH + i], 0);
            assert_true(one.begun > notes[g * EACH + i].accepted_at);
            assert_true(one.ended < notes[g * EACH + i].called_at);
        }
    }
    assert_int_equal(get_stats(s->ctx).syncs_joined, GROUPS * (EACH - 1));
    free_notes(first, 1);
    free_notes(notes, GROUPS * EACH);
    leave_scene(s);
}

/* A second descriptor of the same file is another one. */
static void other_descriptors_are_not_held_up(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch first_done = LATCH_INIT, waiting_done = LATCH_INIT;
    note *first = hold_a_sync(s, IOE_FSYNC, &first_done);
    note *waiting = new_notes(2, &waiting_done), *notes = new_notes(3, &s->done);
    const int again = open_again(s->fd, O_RDWR);
    assert_true(again >= 0);
    for (size_t i = 0; i < 2; i++)
        submit_sync(s->ctx, &waiting[i], s->fd, IOE_FSYNC);
    submit_sync(s->ctx, &notes[0], s->other, IOE_FSYNC);
    submit_sync(s->ctx, &notes[1], again, IOE_FDATASYNC);
    submit_write(s->ctx, &notes[2], s->fd, 3);
    await(s->ctx, how, &s->done, 3);
    check_note(&notes[0], 0);
    check_note(&notes[1], 0);
    check_note(&notes[2], BLOCK);
    assert_int_equal(latch_count(&waiting_done), 0);
    let_go(1);
    await(s->ctx, how, &waiting_done, 2);
    await(s->ctx, how, &first_done, 1);
    assert_int_equal(count_syncs(s->fd), 2);
    free_notes(first, 1);
    free_notes(waiting, 2);
    free_notes(notes, 3);
    close(again);
    leave_scene(s);
}

/* All at once in the kernel, each with its own answer. */
static void without_groups_each_has_its_call(void **state)
{
    enum { SYNCED = 9 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, IOE_NO_SYNC_GROUP);
    note *notes = new_notes(SYNCED, &s->done);
    assert_int_equal(get_info(s->ctx).flags & IOE_NO_SYNC_GROUP, IOE_NO_SYNC_GROUP);
    hold_next(s->fd, IOE_FSYNC, ALL_OF_THEM);
    hold_next(s->fd, IOE_FDATASYNC, ALL_OF_THEM);
    for (size_t i = 0; i < SYNCED; i++)
        submit_sync(s->ctx, &notes[i], s->fd, i % 2 == 0 ? IOE_FSYNC : IOE_FDATASYNC);
    await_held(s->ctx, how, SYNCED);
    let_go(SYNCED);
    await(s->ctx, how, &s->done, SYNCED);
    for (size_t i = 0; i < SYNCED; i++)
        check_note(&notes[i], 0);
    assert_int_equal(count_operations(s->fd, IOE_FSYNC), SYNCED / 2 + 1);
    assert_int_equal(count_operations(s->fd, IOE_FDATASYNC), SYNCED / 2);
    assert_int_equal(get_stats(s->ctx).operations - s->before.operations, SYNCED);
    assert_int_equal(get_stats(s->ctx).syncs_joined, 0);
    free_notes(notes, SYNCED);
    leave_scene(s);
}

/* The smallest context: one in the kernel, one that waits. */
static void groups_need_no_room(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 1, 2, 0);
    latch first_done = LATCH_INIT;
    note *notes = new_notes(3, &s->done);
    for (int round = 0; round < 20; round++) {
        note *first = hold_a_sync(s, IOE_FSYNC, &first_done);
        submit_sync(s->ctx, &notes[0], s->fd, IOE_FSYNC);
        prepare_sync(notes[1].event, s->fd, IOE_FSYNC);
        ASSERT_CALL(ioe_try_submit(s->ctx, notes[1].event), -EAGAIN);
        let_go(1);
        await(s->ctx, how, &first_done, (unsigned long)round + 1);
        ASSERT_CALL(ioe_submit(s->ctx, notes[1].event), 0);
        await(s->ctx, how, &s->done, 2 * (unsigned long)round + 2);
        assert_int_equal(notes[0].result, 0);
        assert_int_equal(notes[1].result, 0);
        free_notes(first, 1);
    }
    free_notes(notes, 3);
    leave_scene(s);
}

/* Whose callers wait until all of them are answered. */
typedef struct ender {
    scene *s;
    bool frees;
    int rc;
    pid_t tid;
    unsigned long done;
    latch begun;
} ender;

static void *drain_or_free(void *arg)
{
    ender *e = arg;
    e->tid = gettid();
    latch_hit(&e->begun);
    e->rc = e->frees ? ioe_context_free(e->s->ctx) : ioe_drain(e->s->ctx, -1);
    e->done = latch_count(&e->s->done);
    return NULL;
}

static void *let_two_go(void *arg)
{
    (void)arg;
    for (int left = 2; left > 0; left--) {
        while (count_held() == 0)
            sched_yield();
        let_one_go(0, WHOLE);
    }
    return NULL;
}

static void drain_and_free_wait_for_groups(void **state)
{
    enum { SYNCED = 5 };
    const delivery *how = *state;
    for (int frees = 0; frees <= 1; frees++) {
        scene *s = set_scene(how, DEPTH, QUEUE, 0);
        note *notes = new_notes(SYNCED + 1, &s->done);
        ender e = {.s = s, .frees = frees != 0, .begun = LATCH_INIT};
        hold_next(s->fd, IOE_FSYNC, 2);
        submit_sync(s->ctx, &notes[SYNCED], s->fd, IOE_FSYNC);
        await_held(s->ctx, how, 1);
        for (size_t i = 0; i < SYNCED; i++)
            submit_sync(s->ctx, &notes[i], s->fd, IOE_FSYNC);
        if (how->flags & IOE_POLLED) {
            pthread_t thread = start_thread(let_two_go, NULL);
            drain_or_free(&e);
            join_thread(thread);
        } else {
            pthread_t thread = start_thread(drain_or_free, &e);
            latch_wait(&e.begun, 1);
            let_two_go(NULL);
            join_thread(thread);
        }
        assert_int_equal(e.rc, 0);
        assert_int_equal(e.done, SYNCED + 1);
        assert_int_equal(count_syncs(s->fd), 2);
        for (size_t i = 0; i <= SYNCED; i++)
            check_note(&notes[i], 0);
        if (!frees)
            ASSERT_CALL(ioe_context_free(s->ctx), 0);
        stop_watching_operations();
        free_notes(notes, SYNCED + 1);
        close(s->fd);
        close(s->other);
        free(s);
    }
}

/* Who waits does it himself where none runs, and it is one that others wait for. */
static void sync_of_a_waiting_caller_runs_there(void **state)
{
    enum { SYNCED = 6 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(SYNCED, &s->done);
    for (int action = IOE_FSYNC; action <= IOE_FDATASYNC; action++) {
        const size_t calls = count_syncs(s->fd);
        const unsigned long done = latch_count(&s->done);
        const uint64_t joined = get_stats(s->ctx).syncs_joined;
        hold_next(s->fd, action, 1);
        waiter *first = start_sync_waiter(s->ctx, s->fd, action);
        await_held(s->ctx, how, 1);
        waiter *second = start_sync_waiter(s->ctx, s->fd, IOE_FSYNC);
        await_asleep(s->ctx, how, second->tid);
        for (size_t i = 0; i < SYNCED; i++)
            submit_sync(s->ctx, &notes[i], s->fd, IOE_FDATASYNC);
        pass_by(s->ctx, how);
        assert_int_equal(count_syncs(s->fd), calls + 1);
        assert_int_equal(find_operation(s->fd, SYNCS, calls).thread, first->tid);
        assert_int_equal(find_operation(s->fd, SYNCS, calls).action, action);
        let_go(1);
        await(s->ctx, how, &s->done, done + SYNCED);
        end_waiter(first, 0);
        end_waiter(second, 0);
        assert_int_equal(count_syncs(s->fd), calls + 2);
        assert_int_equal(find_operation(s->fd, SYNCS, calls + 1).action, IOE_FSYNC);
        assert_int_equal(get_stats(s->ctx).syncs_joined - joined, SYNCED);
    }
    free_notes(notes, SYNCED);
    leave_scene(s);
}

/* ---- the same at random: who is answered was asked for after he came ---- */

typedef struct committer {
    ioe_context *ctx;
    int fd;
    unsigned number;
    unsigned long rounds;
    unsigned long wrong;
} committer;

/* The first operation of the kind, or of fsync's, that began after a place and ended before another. */
static bool was_synced(int fd, int action, uint64_t after, uint64_t before)
{
    bool found = false;
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.count && !found; i++) {
        const operation *op = &kernels.log[i];
        found = op->fd == fd && (op->action == action || op->action == IOE_FSYNC) &&
                op->begun > after && op->begun < before && op->ended < before;
    }
    pthread_mutex_unlock(&kernels.mutex);
    return found;
}

static void *commit_again_and_again(void *arg)
{
    committer *c = arg;
    latch done = LATCH_INIT;
    unsigned long submitted = 0;
    note n = {.event = ioe_event_new(), .done = &done};
    ioe_event_set_callback(n.event, on_note, &n);
    for (unsigned long i = 0; i < c->rounds; i++) {
        const int action = (i + c->number) % 3 == 0 ? IOE_FSYNC : IOE_FDATASYNC;
        const uint64_t before = now_in_order();
        c->wrong += (action == IOE_FSYNC ? ioe_prep_fsync(n.event, c->fd)
                                         : ioe_prep_fdatasync(n.event, c->fd)) != 0;
        if ((i + c->number) % 2 == 0) {
            c->wrong += ioe_submit_wait(c->ctx, n.event) != 0;
        } else {
            c->wrong += ioe_submit(c->ctx, n.event) != 0;
            latch_wait(&done, ++submitted);
            c->wrong += n.result != 0;
        }
        c->wrong += !was_synced(c->fd, action, before, now_in_order());
    }
    c->wrong += ioe_event_free(n.event) != 0;
    return NULL;
}

static void nobody_is_answered_by_an_older_sync(void **state)
{
    enum { THREADS = 6 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    committer all[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        all[i] = (committer){s->ctx, s->fd, i, scaled(300), 0};
        threads[i] = start_thread(commit_again_and_again, &all[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        join_thread(threads[i]);
        assert_int_equal(all[i].wrong, 0);
    }
    const ioe_stats stats = get_stats(s->ctx);
    assert_int_equal(stats.syncs_joined + count_syncs(s->fd), stats.completed);
    leave_scene(s);
}

/* ---- barriers ---- */

/* Every write that counts had ended when the barrier's sync began. */
static void check_barrier(const scene *s, size_t writes, int action)
{
    const operation sync = find_operation(s->fd, SYNCS, 0);
    assert_int_equal(count_syncs(s->fd), 1);
    assert_int_equal(sync.action, action);
    for (size_t i = 0; i < writes; i++) {
        const operation w = find_operation(s->fd, WRITES, i);
        assert_true(w.ended != 0 && w.ended < sync.begun);
    }
}

/* In the kernel, one of them come back short and gone on with. Later ones, other files, and the rest
 * of the context go on. */
static void barrier_waits_for_the_kernel(void **state)
{
    enum { EARLIER = 5 };
    const delivery *how = *state;
    for (int action = IOE_FSYNC; action <= IOE_FDATASYNC; action++) {
        scene *s = set_scene(how, DEPTH, QUEUE, 0);
        latch writes_done = LATCH_INIT, later_done = LATCH_INIT;
        note *writes = new_notes(EARLIER, &writes_done), *later = new_notes(4, &later_done);
        note *barrier = new_notes(1, &s->done);
        hold_next(s->fd, IOE_WRITE, EARLIER);
        for (size_t i = 0; i < EARLIER; i++) {
            prepare_write(&writes[i], s->fd, 4 * i, 2);
            ASSERT_CALL(ioe_submit(s->ctx, writes[i].event), 0);
        }
        await_held(s->ctx, how, EARLIER);
        submit_barrier(s->ctx, barrier, s->fd, action);
        submit_write(s->ctx, &later[0], s->fd, 60);
        submit_write(s->ctx, &later[1], s->other, 0);
        await(s->ctx, how, &later_done, 2);
        submit_sync(s->ctx, &later[2], s->other, IOE_FSYNC);
        submit_barrier(s->ctx, &later[3], s->other, IOE_FSYNC);
        await(s->ctx, how, &later_done, 4);
        for (size_t i = 0; i < EARLIER - 1; i++) {
            let_go(1);
            await(s->ctx, how, &writes_done, i + 1);
            pass_by(s->ctx, how);
            assert_int_equal(count_syncs(s->fd), 0);
        }
        /* Half of it, and the other half is held again. */
        hold_next(s->fd, IOE_WRITE, 1);
        assert_true(let_one_go(0, BLOCK));
        await_held(s->ctx, how, 1);
        pass_by(s->ctx, how);
        assert_int_equal(count_syncs(s->fd), 0);
        assert_int_equal(latch_count(&s->done), 0);
        let_go(1);
        await(s->ctx, how, &s->done, 1);
        await(s->ctx, how, &writes_done, EARLIER);
        check_note(barrier, 0);
        for (size_t i = 0; i < EARLIER; i++)
            check_note(&writes[i], 2 * BLOCK);
        for (size_t i = 0; i < 4; i++)
            check_note(&later[i], i < 2 ? BLOCK : 0);
        assert_int_equal(find_operation(s->fd, WRITES, EARLIER + 1).offset,
                         find_operation(s->fd, WRITES, EARLIER - 1).offset + BLOCK);
        check_barrier(s, EARLIER, action);
        assert_true(find_operation(s->fd, WRITES, EARLIER + 1).ended < find_operation(s->fd, SYNCS, 0).begun);
        free_notes(writes, EARLIER);
        free_notes(later, 4);
        free_notes(barrier, 1);
        leave_scene(s);
    }
}

/* One that is asked for again is not done. */
static void barrier_waits_for_a_retry(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch write_done = LATCH_INIT;
    note *write = new_notes(1, &write_done), *barrier = new_notes(1, &s->done);
    hold_next(s->fd, IOE_WRITE, 2);
    submit_write(s->ctx, write, s->fd, 0);
    await_held(s->ctx, how, 1);
    submit_barrier(s->ctx, barrier, s->fd, IOE_FSYNC);
    assert_true(let_one_go(0, -EINTR));
    await_held(s->ctx, how, 1);
    pass_by(s->ctx, how);
    assert_int_equal(count_syncs(s->fd), 0);
    let_go(1);
    await(s->ctx, how, &s->done, 1);
    await(s->ctx, how, &write_done, 1);
    check_note(barrier, 0);
    check_note(write, BLOCK);
    check_barrier(s, 2, IOE_FSYNC);
    free_notes(write, 1);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* Fewer slots than writes, which are handed in as a batch; and the barrier in one as well. */
static void barrier_waits_for_the_queue(void **state)
{
    enum { EARLIER = 12, SLOTS = 3 };
    const delivery *how = *state;
    scene *s = set_scene(how, SLOTS, QUEUE, 0);
    latch writes_done = LATCH_INIT;
    note *writes = new_notes(EARLIER, &writes_done), *barrier = new_notes(1, &s->done);
    ioe_event *batch[EARLIER];
    hold_next(s->fd, IOE_WRITE, EARLIER - 1);
    for (size_t i = 0; i < EARLIER; i++) {
        prepare_write(&writes[i], s->fd, i, 1);
        batch[i] = writes[i].event;
    }
    ASSERT_CALL(ioe_submit_batch(s->ctx, batch, EARLIER - 1), EARLIER - 1);
    prepare_sync(barrier->event, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_event_set_flags(barrier->event, IOE_BARRIER), 0);
    batch[0] = barrier->event;
    batch[1] = writes[EARLIER - 1].event;
    ASSERT_CALL(ioe_submit_batch(s->ctx, batch, 2), 2);
    /* The newest first: a slot is free again while older ones are held. */
    for (size_t left = EARLIER - 1; left > 0; left--) {
        const size_t slots = left < SLOTS ? left : SLOTS;
        await_held(s->ctx, how, slots);
        assert_int_equal(count_syncs(s->fd), 0);
        assert_true(let_one_go(slots - 1, WHOLE));
    }
    await(s->ctx, how, &s->done, 1);
    await(s->ctx, how, &writes_done, EARLIER);
    check_note(barrier, 0);
    for (size_t i = 0; i < EARLIER - 1; i++) {
        const operation w = find_operation(s->fd, WRITES, i);
        assert_true(w.offset == (EARLIER - 1) * BLOCK || w.ended < find_operation(s->fd, SYNCS, 0).begun);
        check_note(&writes[i], BLOCK);
    }
    free_notes(writes, EARLIER);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* In one batch the order is the batch's. */
static void barrier_waits_for_its_own_batch(void **state)
{
    enum { EARLIER = 4 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *notes = new_notes(EARLIER + 1, &s->done);
    ioe_event *batch[EARLIER + 1];
    hold_next(s->fd, IOE_WRITE, EARLIER);
    for (size_t i = 0; i <= EARLIER; i++) {
        batch[i] = notes[i].event;
        if (i < EARLIER)
            prepare_write(&notes[i], s->fd, i, 1);
    }
    prepare_sync(batch[EARLIER], s->fd, IOE_FDATASYNC);
    ASSERT_CALL(ioe_event_set_flags(batch[EARLIER], IOE_BARRIER), 0);
    ASSERT_CALL(ioe_submit_batch(s->ctx, batch, EARLIER + 1), EARLIER + 1);
    await_held(s->ctx, how, EARLIER);
    pass_by(s->ctx, how);
    assert_int_equal(count_syncs(s->fd), 0);
    let_go(EARLIER);
    await(s->ctx, how, &s->done, EARLIER + 1);
    check_note(&notes[EARLIER], 0);
    check_barrier(s, EARLIER, IOE_FDATASYNC);
    free_notes(notes, EARLIER + 1);
    leave_scene(s);
}

/* Gathered events go on, those of other files as well, and a barrier waits for its own. */
static void barrier_flushes_mergers(void **state)
{
    enum { EACH = 4 };
    const delivery *how = *state;
    only_with_one_reactor(how);
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    row *own = new_row(s->fd, IOE_WRITE, 0, EACH, BLOCK, 0);
    row *others = new_row(s->other, IOE_WRITE, 0, EACH, BLOCK, 0);
    note *barrier = new_notes(1, &s->done);
    if (how->flags & IOE_POLLED)
        assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    ioe_merger *mergers[2] = {new_merger(s->ctx, s->fd, IOE_WRITE, 1 << 20),
                              new_merger(s->ctx, s->other, IOE_WRITE, 1 << 20)};
    add_row(mergers[0], own);
    add_row(mergers[1], others);
    pass_by(s->ctx, how);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 0);
    hold_next(s->fd, IOE_WRITE, 1);
    submit_barrier(s->ctx, barrier, s->fd, IOE_FSYNC);
    await_held(s->ctx, how, 1);
    await_latch(s->ctx, how, &others->done, EACH);
    pass_by(s->ctx, how);
    assert_int_equal(count_syncs(s->fd), 0);
    assert_int_equal(latch_count(&own->done), 0);
    let_go(1);
    await_latch(s->ctx, how, &s->done, 1);
    await_latch(s->ctx, how, &own->done, EACH);
    check_note(barrier, 0);
    check_barrier(s, 1, IOE_FSYNC);
    assert_int_equal(find_operation(s->fd, WRITES, 0).len, EACH * BLOCK);
    stop_watching_operations();
    check_row(own);
    check_row(others);
    for (size_t i = 0; i < 2; i++)
        ASSERT_CALL(ioe_merger_free(mergers[i]), 0);
    free_row(own);
    free_row(others);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* What others wait for on their own threads. */
static void barrier_waits_for_waiting_callers(void **state)
{
    enum { WAITERS = 3 };
    const delivery *how = *state;
    for (int error = 0; error <= EIO; error += EIO) {
        scene *s = set_scene(how, DEPTH, QUEUE, 0);
        waiter *waiting[WAITERS];
        note *barrier = new_notes(1, &s->done);
        hold_next(s->fd, IOE_WRITE, WAITERS);
        for (size_t i = 0; i < WAITERS; i++) {
            ioe_event *event = new_event();
            assert_int_equal(ioe_prep_write(event, s->fd, memory, BLOCK, i * BLOCK), 0);
            waiting[i] = start_waiter(s->ctx, event);
            await_held(s->ctx, how, i + 1);
            assert_int_equal(find_operation(s->fd, WRITES, i).thread, waiting[i]->tid);
        }
        submit_barrier(s->ctx, barrier, s->fd, IOE_FSYNC);
        let_go(WAITERS - 1);
        pass_by(s->ctx, how);
        assert_int_equal(count_syncs(s->fd), 0);
        assert_int_equal(latch_count(&s->done), 0);
        assert_true(let_one_go(0, error == 0 ? WHOLE : -error));
        await(s->ctx, how, &s->done, 1);
        check_note(barrier, -error);
        for (size_t i = 0; i < WAITERS; i++) {
            const operation w = find_operation(s->fd, WRITES, i);
            end_waiter(waiting[i], w.result);
        }
        if (error == 0)
            check_barrier(s, WAITERS, IOE_FSYNC);
        else
            assert_int_equal(count_syncs(s->fd), 0);
        free_notes(barrier, 1);
        leave_scene(s);
    }
}

/* A barrier that is waited for goes the way of all others. */
static void barrier_is_waited_for(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *write = new_notes(1, &s->done);
    ioe_event *event = new_event();
    hold_next(s->fd, IOE_WRITE, 1);
    submit_write(s->ctx, write, s->fd, 0);
    await_held(s->ctx, how, 1);
    prepare_sync(event, s->fd, IOE_FDATASYNC);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_BARRIER), 0);
    waiter *w = start_waiter(s->ctx, event);
    await_asleep(s->ctx, how, w->tid);
    assert_int_equal(count_syncs(s->fd), 0);
    let_go(1);
    await(s->ctx, how, &s->done, 1);
    end_waiter(w, 0);
    check_barrier(s, 1, IOE_FDATASYNC);
    free_notes(write, 1);
    leave_scene(s);
}

static void *let_one_held_go(void *arg)
{
    (void)arg;
    while (!let_one_go(0, WHOLE))
        sched_yield();
    return NULL;
}

/* The owner of a polled context waits for it and turns the reactor meanwhile. */
static void barrier_is_waited_for_by_the_owner(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *write = new_notes(1, &s->done);
    ioe_event *event = new_event();
    hold_next(s->fd, IOE_WRITE, 1);
    submit_write(s->ctx, write, s->fd, 0);
    prepare_sync(event, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_event_set_flags(event, IOE_BARRIER), 0);
    pthread_t thread = start_thread(let_one_held_go, NULL);
    ASSERT_CALL(ioe_submit_wait(s->ctx, event), 0);
    join_thread(thread);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    check_note(write, BLOCK);
    check_barrier(s, 1, IOE_FSYNC);
    assert_int_equal(ioe_event_free(event), 0);
    free_notes(write, 1);
    leave_scene(s);
}

/* The two ways in: what was submitted outside before a callback submits a barrier, and in a callback
 * before somebody outside does. */
static void barrier_waits_across_the_lanes(void **state)
{
    const delivery *how = *state;
    const bool is_polled = how->flags & IOE_POLLED;
    for (int inside = 0; inside <= 1; inside++) {
        scene *s = set_scene(how, DEPTH, QUEUE, 0);
        note *write = new_notes(1, &s->done), *barrier = new_notes(1, &s->done);
        gate *g = calloc(1, sizeof *g);
        assert_non_null(g);
        *g = (gate)GATE_INIT;
        helper *h = new_helper(s->ctx, s->other, inside ? barrier : write, 1, is_polled ? NULL : g);
        prepare_write(write, s->fd, 0, 1);
        prepare_sync(barrier->event, s->fd, IOE_FSYNC);
        ASSERT_CALL(ioe_event_set_flags(barrier->event, IOE_BARRIER), 0);
        hold_next(s->fd, IOE_WRITE, 1);
        ASSERT_CALL(ioe_submit(s->ctx, h->event), 0);
        if (!is_polled)
            latch_wait(&g->entered, 1);
        if (inside)
            ASSERT_CALL(ioe_submit(s->ctx, write->event), 0);
        latch_hit(&g->opened);
        await_latch(s->ctx, how, &h->done, 1);
        if (!inside)
            ASSERT_CALL(ioe_submit(s->ctx, barrier->event), 0);
        await_held(s->ctx, how, 1);
        pass_by(s->ctx, how);
        assert_int_equal(count_syncs(s->fd), 0);
        let_go(1);
        await(s->ctx, how, &s->done, 2);
        check_note(write, BLOCK);
        check_note(barrier, 0);
        check_barrier(s, 1, IOE_FSYNC);
        free(g);
        free_helper(h);
        free_notes(write, 1);
        free_notes(barrier, 1);
        leave_scene(s);
    }
}

/* Those that came first are still in their queue, for all slots are taken, and the barrier comes by
 * another. */
static void barrier_waits_for_the_other_queue(void **state)
{
    enum { EARLIER = 3, SLOTS = 2 };
    const delivery *how = *state;
    scene *s = set_scene(how, SLOTS, QUEUE, 0);
    latch writes_done = LATCH_INIT;
    note *writes = new_notes(EARLIER, &writes_done), *barrier = new_notes(1, &s->done);
    gate *g = calloc(1, sizeof *g);
    assert_non_null(g);
    *g = (gate)GATE_INIT;
    helper *h = new_helper(s->ctx, s->other, barrier, 1, g);
    prepare_sync(barrier->event, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_event_set_flags(barrier->event, IOE_BARRIER), 0);
    ASSERT_CALL(ioe_submit(s->ctx, h->event), 0);
    latch_wait(&g->entered, 1);
    slots *taken = fill_slots(s->ctx, how);
    hold_next(s->fd, IOE_WRITE, EARLIER);
    for (size_t i = 0; i < EARLIER; i++)
        submit_write(s->ctx, &writes[i], s->fd, i);
    latch_hit(&g->opened);
    latch_wait(&h->done, 1);
    free_slots(taken);
    for (size_t left = EARLIER; left > 0; left--) {
        const size_t held = left < SLOTS ? left : SLOTS;
        await_held(s->ctx, how, held);
        assert_int_equal(count_syncs(s->fd), 0);
        assert_true(let_one_go(held - 1, WHOLE));
    }
    await(s->ctx, how, &s->done, 1);
    await(s->ctx, how, &writes_done, EARLIER);
    check_note(barrier, 0);
    check_barrier(s, EARLIER, IOE_FSYNC);
    free(g);
    free_helper(h);
    free_notes(writes, EARLIER);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* Nothing to wait for: as any sync; reads and syncs do not count. */
static void barrier_alone_is_a_sync(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch read_done = LATCH_INIT;
    note *barrier = new_notes(1, &s->done), *read = new_notes(1, &read_done);
    uint8_t bytes[8];
    assert_int_equal(ioe_prep_read(read->event, s->fd, bytes, sizeof bytes, 0), 0);
    hold_next(s->fd, IOE_READ, 1);
    ASSERT_CALL(ioe_submit(s->ctx, read->event), 0);
    await_held(s->ctx, how, 1);
    submit_barrier(s->ctx, barrier, s->fd, IOE_FSYNC);
    await(s->ctx, how, &s->done, 1);
    check_note(barrier, 0);
    assert_int_equal(count_syncs(s->fd), 1);
    let_go(1);
    await(s->ctx, how, &read_done, 1);
    check_note(read, 0);
    free_notes(read, 1);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* ---- writes that failed ---- */

static void barrier_has_the_error_of_a_write(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch writes_done = LATCH_INIT;
    note *writes = new_notes(3, &writes_done), *barriers = new_notes(3, &s->done);
    hold_next(s->fd, IOE_WRITE, 3);
    for (size_t i = 0; i < 3; i++) {
        submit_write(s->ctx, &writes[i], s->fd, i);
        await_held(s->ctx, how, i + 1);
    }
    submit_barrier(s->ctx, &barriers[0], s->fd, IOE_FSYNC);
    submit_barrier(s->ctx, &barriers[1], s->fd, IOE_FDATASYNC);
    assert_true(let_one_go(1, -EIO));
    let_go(2);
    await(s->ctx, how, &s->done, 2);
    await(s->ctx, how, &writes_done, 3);
    check_note(&barriers[0], -EIO);
    check_note(&barriers[1], -EIO);
    assert_int_equal(count_syncs(s->fd), 0);
    check_note(&writes[0], BLOCK);
    check_note(&writes[1], -EIO);
    check_note(&writes[2], BLOCK);
    /* That callback has started, so the next one has nothing to do with it. */
    submit_barrier(s->ctx, &barriers[2], s->fd, IOE_FSYNC);
    await(s->ctx, how, &s->done, 3);
    check_note(&barriers[2], 0);
    assert_int_equal(count_syncs(s->fd), 1);
    free_notes(writes, 3);
    free_notes(barriers, 3);
    leave_scene(s);
}

/* The program cannot know of it yet: the threads that would tell it are busy. */
static void barrier_has_an_error_not_told_yet(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    latch write_done = LATCH_INIT;
    note *write = new_notes(1, &write_done), *barriers = new_notes(2, &s->done);
    blockers *b = block_callbacks(s->ctx, how, s->other);
    fail_next(s->fd, IOE_WRITE, 1, ENOSPC);
    submit_write(s->ctx, write, s->fd, 0);
    while (!ioe_event_is_done(write->event))
        sched_yield();
    assert_int_equal(latch_count(&write_done), 0);
    submit_barrier(s->ctx, &barriers[0], s->fd, IOE_FSYNC);
    while (!ioe_event_is_done(barriers[0].event))
        sched_yield();
    unblock_callbacks(s->ctx, b);
    check_note(write, -ENOSPC);
    check_note(&barriers[0], -ENOSPC);
    assert_int_equal(count_syncs(s->fd), 0);
    submit_barrier(s->ctx, &barriers[1], s->fd, IOE_FSYNC);
    await(s->ctx, how, &s->done, 2);
    check_note(&barriers[1], 0);
    free_notes(write, 1);
    free_notes(barriers, 2);
    leave_scene(s);
}

/* In the failed write's own callback it is told already. */
typedef struct recovery {
    ioe_context *ctx;
    note *barrier;
    int64_t seen;
    int rc;
} recovery;

static void submit_the_barrier(ioe_event *event, void *arg)
{
    recovery *r = arg;
    r->seen = ioe_event_result(event);
    r->rc = ioe_submit(r->ctx, r->barrier->event);
}

static void barrier_in_the_failed_ones_callback_is_clean(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    note *barrier = new_notes(1, &s->done);
    recovery r = {.ctx = s->ctx, .barrier = barrier};
    ioe_event *write = new_event();
    fail_next(s->fd, IOE_WRITE, 1, EIO);
    prepare_sync(barrier->event, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_event_set_flags(barrier->event, IOE_BARRIER), 0);
    assert_int_equal(ioe_prep_write(write, s->fd, memory, BLOCK, 0), 0);
    assert_int_equal(ioe_event_set_callback(write, submit_the_barrier, &r), 0);
    ASSERT_CALL(ioe_submit(s->ctx, write), 0);
    await(s->ctx, how, &s->done, 1);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.seen, -EIO);
    check_note(barrier, 0);
    assert_int_equal(count_syncs(s->fd), 1);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(ioe_event_free(write), 0);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* Cancelled before it got to the disk, it is a write that failed. */
static void barrier_has_the_cancel_of_a_write(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 2, QUEUE, 0);
    latch write_done = LATCH_INIT;
    note *write = new_notes(1, &write_done), *barrier = new_notes(1, &s->done);
    slots *taken = fill_slots(s->ctx, how);
    prepare_write(write, s->fd, 0, 1);
    const uint64_t id = ioe_event_id(write->event);
    ASSERT_CALL(ioe_submit(s->ctx, write->event), 0);
    submit_barrier(s->ctx, barrier, s->fd, IOE_FSYNC);
    ASSERT_CALL(ioe_cancel(s->ctx, id), 0);
    await(s->ctx, how, &write_done, 1);
    await(s->ctx, how, &s->done, 1);
    check_note(write, -ECANCELED);
    check_note(barrier, -ECANCELED);
    free_slots(taken);
    ASSERT_CALL(ioe_drain(s->ctx, -1), 0);
    assert_int_equal(count_syncs(s->fd), 0);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 0);
    free_notes(write, 1);
    free_notes(barrier, 1);
    leave_scene(s);
}

/* ---- the same at random: no write that was accepted before a barrier ends after its sync began ---- */

typedef struct writer {
    ioe_context *ctx;
    int fd;
    unsigned number;
    unsigned long rounds;
    unsigned long wrong;
} writer;

static uint64_t last_end_of_block(int fd, uint64_t block)
{
    uint64_t last = UINT64_MAX;
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.count; i++)
        if (kernels.log[i].fd == fd && kernels.log[i].action == IOE_WRITE &&
            kernels.log[i].offset == block * BLOCK)
            last = kernels.log[i].ended != 0 ? kernels.log[i].ended : UINT64_MAX;
    pthread_mutex_unlock(&kernels.mutex);
    return last;
}

/* A sync that began after all of these, and before now. */
static bool was_synced_after(int fd, uint64_t place)
{
    bool found = false;
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.count && !found; i++)
        found = kernels.log[i].fd == fd && (SYNCS & 1 << kernels.log[i].action) &&
                kernels.log[i].begun > place;
    pthread_mutex_unlock(&kernels.mutex);
    return found;
}

/* Each round writes blocks of its own, and a barrier behind them. */
static void *write_and_sync(void *arg)
{
    enum { EACH = 3 };
    writer *w = arg;
    latch done = LATCH_INIT;
    note notes[EACH + 1] = {{0}};
    for (size_t i = 0; i <= EACH; i++) {
        notes[i].event = ioe_event_new();
        notes[i].done = &done;
        w->wrong += ioe_event_set_callback(notes[i].event, on_note, &notes[i]) != 0;
    }
    for (unsigned long round = 0; round < w->rounds; round++) {
        const uint64_t block = (w->number * w->rounds + round) * EACH;
        ioe_event *barrier = notes[EACH].event;
        for (size_t i = 0; i < EACH; i++)
            w->wrong += ioe_prep_write(notes[i].event, w->fd, memory, BLOCK, (block + i) * BLOCK) != 0 ||
                        ioe_submit(w->ctx, notes[i].event) != 0;
        w->wrong += ioe_prep_fdatasync(barrier, w->fd) != 0 ||
                    ioe_event_set_flags(barrier, IOE_BARRIER) != 0 || ioe_submit(w->ctx, barrier) != 0;
        latch_wait(&done, (round + 1) * (EACH + 1));
        w->wrong += notes[EACH].result != 0;
        uint64_t last = 0;
        for (size_t i = 0; i < EACH; i++) {
            const uint64_t ended = last_end_of_block(w->fd, block + i);
            last = ended > last ? ended : last;
        }
        w->wrong += !was_synced_after(w->fd, last);
    }
    for (size_t i = 0; i <= EACH; i++)
        w->wrong += ioe_event_free(notes[i].event) != 0;
    return NULL;
}

static atomic_bool all_written;

/* In any order but theirs. */
static void *let_go_at_random(void *arg)
{
    uint64_t random = *(uint64_t *)arg;
    while (!atomic_load(&all_written))
        if (!let_one_go(next_random(&random) % 8, WHOLE) && !let_one_go(0, WHOLE))
            sched_yield();
    return NULL;
}

static void no_write_is_overtaken(void **state)
{
    enum { THREADS = 4 };
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, QUEUE, 0);
    writer all[THREADS];
    pthread_t threads[THREADS];
    uint64_t seed = choose_seed();
    hold_next(s->fd, IOE_WRITE, ALL_OF_THEM);
    atomic_store(&all_written, false);
    pthread_t other = start_thread(let_go_at_random, &seed);
    for (unsigned i = 0; i < THREADS; i++) {
        all[i] = (writer){s->ctx, s->fd, i, scaled(200), 0};
        threads[i] = start_thread(write_and_sync, &all[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        join_thread(threads[i]);
    atomic_store(&all_written, true);
    join_thread(other);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(all[i].wrong, 0);
    leave_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(waiting_syncs_are_one_call),
        for_each_delivery(waiting_fdatasyncs_are_one_fdatasync),
        for_each_delivery(error_of_a_group_is_told_to_all),
        for_each_delivery(error_of_the_running_one_is_for_those_behind),
        for_each_delivery(groups_follow_each_other),
        for_each_delivery(other_descriptors_are_not_held_up),
        for_each_delivery(without_groups_each_has_its_call),
        for_each_delivery(groups_need_no_room),
        for_each_delivery(drain_and_free_wait_for_groups),
        for_each_threaded_delivery(sync_of_a_waiting_caller_runs_there),
        for_each_threaded_delivery(nobody_is_answered_by_an_older_sync),
        for_each_delivery(barrier_waits_for_the_kernel),
        for_each_delivery(barrier_waits_for_a_retry),
        for_each_delivery(barrier_waits_for_the_queue),
        for_each_delivery(barrier_waits_for_its_own_batch),
        for_each_delivery(barrier_flushes_mergers),
        for_each_threaded_delivery(barrier_waits_for_waiting_callers),
        for_each_threaded_delivery(barrier_is_waited_for),
        polled_only(barrier_is_waited_for_by_the_owner),
        for_each_delivery(barrier_waits_across_the_lanes),
        for_each_worker_delivery(barrier_waits_for_the_other_queue),
        for_each_delivery(barrier_alone_is_a_sync),
        for_each_delivery(barrier_has_the_error_of_a_write),
        for_each_worker_delivery(barrier_has_an_error_not_told_yet),
        for_each_delivery(barrier_in_the_failed_ones_callback_is_clean),
        for_each_delivery(barrier_has_the_cancel_of_a_write),
        for_each_threaded_delivery(no_write_is_overtaken),
    };
    return RUN_TESTS(tests);
}
