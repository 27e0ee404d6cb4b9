/*
 * Promise: every accepted event has its callback called exactly once, on the kind of thread that
 * was asked for, and inside the callback the event is the caller's again: to keep, to free, to
 * prepare and submit anew. Also what a submit accepts: batches in order, try_submit by room.
 */
#include "common.h"

#include <stdatomic.h>

#define BLOCKS 4096
#define SUBMITTERS 4
#define SHARED_CONTEXTS 3
#define SHARED_THREADS 2
#define MAX_CALLERS 16

/* ---- exactly once ---- */

enum kind { KEEP, FREE_INSIDE, PREPARE_AGAIN, SUBMIT_ANOTHER, KINDS };

typedef struct run {
    unsigned generation;
    int fd;
    atomic_uint wrong;
    atomic_uint seen;
    pid_t callers[MAX_CALLERS];
} run;

typedef struct item {
    run *run;
    ioe_context *ctx;
    ioe_event *event;
    uint64_t block;
    uint64_t got;
    atomic_uint calls;
    enum kind kind;
} item;

typedef struct submitter {
    run *run;
    ioe_context *const *contexts;
    unsigned context_count;
    item *items;
    size_t count;
    pid_t tid;
    bool polls;
    bool failed;
} submitter;

/* Threads end with their run, but the main thread calls back in several: hence the generation. */
static unsigned generations;
static _Thread_local unsigned noted_in;

static void note_caller(run *r)
{
    if (noted_in == r->generation)
        return;
    noted_in = r->generation;
    unsigned place = atomic_fetch_add(&r->seen, 1);
    if (place < MAX_CALLERS)
        r->callers[place] = gettid();
}

static int prepare_item(item *it, ioe_event *event)
{
    it->got = UINT64_MAX;
    return ioe_prep_read(event, it->run->fd, &it->got, sizeof it->got,
                         it->block * sizeof it->got);
}

static void on_item(ioe_event *event, void *arg)
{
    item *it = arg;
    run *r = it->run;
    unsigned call = atomic_fetch_add(&it->calls, 1) + 1;
    bool right = ioe_event_is_done(event) && ioe_event_result(event) == sizeof it->got &&
                 it->got == it->block;
    note_caller(r);
    if (it->kind == FREE_INSIDE) {
        right = right && ioe_event_free(event) == 0;
    } else if (it->kind == PREPARE_AGAIN && call == 1) {
        right = right && prepare_item(it, event) == 0 && ioe_submit(it->ctx, event) == 0;
    } else if (it->kind == SUBMIT_ANOTHER && call == 1) {
        ioe_event *another = ioe_event_new();
        right = right && another != NULL && prepare_item(it, another) == 0 &&
                ioe_event_set_callback(another, on_item, it) == 0 &&
                ioe_submit(it->ctx, another) == 0;
    } else if (it->kind == SUBMIT_ANOTHER && call == 2) {
        right = right && event != it->event && ioe_event_free(event) == 0;
    }
    if (!right)
        atomic_fetch_add(&r->wrong, 1);
}

static void *submit_items(void *arg)
{
    submitter *s = arg;
    s->tid = gettid();
    for (size_t i = 0; i < s->count; i++) {
        item *it = &s->items[i];
        it->run = s->run;
        it->kind = (enum kind)(i % KINDS);
        it->block = i * 31 % BLOCKS;
        it->ctx = s->contexts[i % s->context_count];
        it->event = ioe_event_new();
        int rc = it->event == NULL ? -ENOMEM : prepare_item(it, it->event);
        if (rc == 0)
            rc = ioe_event_set_callback(it->event, on_item, it);
        while (rc == 0 && (rc = ioe_submit(it->ctx, it->event)) == -EAGAIN && s->polls)
            rc = ioe_poll(it->ctx, 1, -1) < 0;
        if (rc != 0) {
            s->failed = true;
            break;
        }
    }
    return NULL;
}

/* Every block of the file holds its own number. */
static int numbered_file(void)
{
    static uint64_t numbers[BLOCKS];
    int fd = temp_file(IN_MEMORY);
    for (uint64_t i = 0; i < BLOCKS; i++)
        numbers[i] = i;
    assert_int_equal(write(fd, numbers, sizeof numbers), sizeof numbers);
    return fd;
}

/* Submits from several threads, or from this one where the context is polled, frees the contexts,
 * and leaves in the run which threads made the callbacks. */
static void run_items(run *r, ioe_context *const *contexts, unsigned context_count, bool polls)
{
    unsigned threads = polls ? 1 : SUBMITTERS;
    size_t each = scaled(100000) / threads;
    item *items = calloc(each * threads, sizeof *items);
    submitter submitters[SUBMITTERS];
    pthread_t ids[SUBMITTERS];
    assert_non_null(items);
    *r = (run){.generation = ++generations, .fd = numbered_file()};
    for (unsigned t = 0; t < threads; t++) {
        submitters[t] = (submitter){.run = r,
                                    .contexts = contexts,
                                    .context_count = context_count,
                                    .items = items + t * each,
                                    .count = each,
                                    .polls = polls};
        if (polls)
            submit_items(&submitters[t]);
        else
            ids[t] = start_thread(submit_items, &submitters[t]);
    }
    for (unsigned t = 0; t < threads && !polls; t++)
        join_thread(ids[t]);
    for (unsigned c = 0; c < context_count; c++) {
        /* The first drain is for what was submitted here, the second for what that submitted. */
        ASSERT_CALL(ioe_drain(contexts[c], -1), 0);
        ASSERT_CALL(ioe_drain(contexts[c], -1), 0);
        ASSERT_CALL(ioe_context_free(contexts[c]), 0);
    }

    unsigned miscounted = 0;
    for (size_t i = 0; i < each * threads; i++) {
        unsigned expected = items[i].kind == KEEP || items[i].kind == FREE_INSIDE ? 1 : 2;
        miscounted += atomic_load(&items[i].calls) != expected;
        if (items[i].kind != FREE_INSIDE)
            assert_int_equal(ioe_event_free(items[i].event), 0);
    }
    for (unsigned t = 0; t < threads; t++) {
        assert_false(submitters[t].failed);
        for (unsigned c = 0; c < r->seen && c < MAX_CALLERS && !polls; c++)
            assert_int_not_equal(r->callers[c], submitters[t].tid);
    }
    assert_int_equal(miscounted, 0);
    assert_int_equal(atomic_load(&r->wrong), 0);
    free(items);
    close(r->fd);
}

static void called_once_on_the_right_thread(void **state)
{
    const delivery *how = *state;
    bool polled = how->flags & IOE_POLLED;
    ioe_context *ctx = new_context(how, 64, 256);
    run r;
    run_items(&r, &ctx, 1, polled);
    unsigned seen = atomic_load(&r.seen);
    if (how->workers == 0) {
        assert_in_range(seen, 1, usual_reactors(how->flags));
        if (polled)
            assert_int_equal(r.callers[0], gettid());
        else
            assert_int_not_equal(r.callers[0], gettid());
    } else {
        assert_in_range(seen, 1, how->workers);
    }
}

static void called_once_by_shared_workers(void **state)
{
    ioe_workers *workers = NULL;
    ioe_context *contexts[SHARED_CONTEXTS];
    ioe_info info;
    run r;
    (void)state;
    ASSERT_CALL(ioe_workers_new(SHARED_THREADS, &workers), 0);
    for (unsigned c = 0; c < SHARED_CONTEXTS; c++) {
        contexts[c] = new_shared_context(workers, 64, 256);
        ASSERT_CALL(ioe_context_info(contexts[c], &info, sizeof info), 0);
        assert_int_equal(info.workers, SHARED_THREADS);
    }
    run_items(&r, contexts, SHARED_CONTEXTS, false);
    ASSERT_CALL(ioe_workers_free(workers), 0);
    assert_in_range(atomic_load(&r.seen), 1, SHARED_THREADS);
}

/* ---- several workers work at the same time ---- */

static void meet_the_others(ioe_event *event, void *arg)
{
    (void)event;
    pthread_barrier_wait(arg);
}

/* Comes to an end only if each of the callbacks has a thread of its own at one moment. */
static void workers_call_back_side_by_side(void **state)
{
    const delivery *how = &deliveries[3];
    ioe_event *events[4];
    pthread_barrier_t all_here;
    (void)state;
    assert_int_equal(COUNT_OF(events), how->workers);
    assert_int_equal(pthread_barrier_init(&all_here, NULL, how->workers), 0);
    ioe_context *ctx = new_context(how, 16, 16);
    int fd = temp_file(IN_MEMORY);
    for (unsigned round = 0; round < 100; round++) {
        for (size_t i = 0; i < COUNT_OF(events); i++) {
            events[i] = round == 0 ? ioe_event_new() : events[i];
            assert_int_equal(ioe_prep_fsync(events[i], fd), 0);
            assert_int_equal(ioe_event_set_callback(events[i], meet_the_others, &all_here), 0);
        }
        assert_int_equal(ioe_submit_batch(ctx, events, COUNT_OF(events)), COUNT_OF(events));
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
    }
    for (size_t i = 0; i < COUNT_OF(events); i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    pthread_barrier_destroy(&all_here);
    close(fd);
}

/* ---- batches ---- */

#define BATCH 8
#define ODD_ONE 3

enum oddity { NO_EVENT, NEVER_PREPARED, NO_CALLBACK, TWICE, COMPLETE, ODDITIES };

static void batch_stops_at_the_first_refused(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 16, 64);
    int fd = temp_file(IN_MEMORY);
    for (int oddity = 0; oddity < ODDITIES; oddity++) {
        ioe_event *events[BATCH];
        ioe_event *batch[BATCH];
        latch done = LATCH_INIT;
        for (size_t i = 0; i < BATCH; i++) {
            batch[i] = events[i] = ioe_event_new();
            assert_non_null(events[i]);
            if (i == ODD_ONE && oddity == NEVER_PREPARED) {
                assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
                continue;
            }
            assert_int_equal(ioe_prep_fsync(events[i], fd), 0);
            if (i != ODD_ONE || oddity != NO_CALLBACK)
                assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
        }
        unsigned long before = 0;
        if (oddity == COMPLETE) {
            ASSERT_CALL(ioe_submit(ctx, events[ODD_ONE]), 0);
            ASSERT_CALL(ioe_drain(ctx, -1), 0);
            before = 1;
        } else if (oddity == NO_EVENT) {
            batch[ODD_ONE] = NULL;
        } else if (oddity == TWICE) {
            batch[ODD_ONE] = events[0];
        }
        ASSERT_CALL(ioe_submit_batch(ctx, batch, BATCH), ODD_ONE);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        assert_int_equal(latch_count(&done), before + ODD_ONE);
        for (size_t i = 0; i < BATCH; i++) {
            assert_int_equal(ioe_event_is_done(events[i]),
                             i < ODD_ONE || (i == ODD_ONE && oddity == COMPLETE));
            assert_int_equal(ioe_event_result(events[i]),
                             ioe_event_is_done(events[i]) ? 0 : IOE_PENDING);
        }
        /* The refused one first: nothing is accepted, and the answer says why. */
        if (oddity != TWICE)
            ASSERT_CALL(ioe_submit_batch(ctx, batch + ODD_ONE, BATCH - ODD_ONE), -EINVAL);
        /* The rest was left alone and can still go. */
        ASSERT_CALL(ioe_submit_batch(ctx, events + ODD_ONE + 1, BATCH - ODD_ONE - 1),
                    BATCH - ODD_ONE - 1);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        assert_int_equal(latch_count(&done), before + BATCH - 1);
        for (size_t i = 0; i < BATCH; i++)
            assert_int_equal(ioe_event_free(events[i]), 0);
    }
    ioe_event *nothing[1] = {NULL};
    ASSERT_CALL(ioe_submit_batch(ctx, nothing, 0), 0);
    ASSERT_CALL(ioe_submit_batch(ctx, NULL, 1), -EINVAL);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* A batch longer than the queue: waits for room, or, polled, takes what there is room for. */
static void batch_longer_than_the_queue(void **state)
{
    const delivery *how = *state;
    enum { LONG_BATCH = 1000, ROOM = 4 };
    ioe_context *ctx = new_context(how, 2, ROOM);
    int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    ioe_event *events[LONG_BATCH];
    for (size_t i = 0; i < LONG_BATCH; i++) {
        events[i] = ioe_event_new();
        assert_int_equal(ioe_prep_fsync(events[i], fd), 0);
        assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
    }
    if (how->flags & IOE_POLLED) {
        size_t accepted = 0;
        ASSERT_CALL(ioe_submit_batch(ctx, events, LONG_BATCH), ROOM);
        ASSERT_CALL(ioe_submit_batch(ctx, events + ROOM, LONG_BATCH - ROOM), -EAGAIN);
        for (accepted = ROOM; accepted < LONG_BATCH;) {
            assert_in_range(ioe_poll(ctx, 1, -1), 1, ROOM);
            int more = ioe_submit_batch(ctx, events + accepted, LONG_BATCH - accepted);
            assert_in_range(more, 1, ROOM);
            accepted += (size_t)more;
        }
    } else {
        ASSERT_CALL(ioe_submit_batch(ctx, events, LONG_BATCH), LONG_BATCH);
    }
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&done), LONG_BATCH);
    for (size_t i = 0; i < LONG_BATCH; i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- a full queue ---- */

typedef struct held {
    gate gate;
    ioe_context *ctx;
    ioe_event *extra[3];
    int answers[3];
} held;

/* Inside a callback no submit fails for want of room. */
static void hold_then_submit(ioe_event *event, void *arg)
{
    held *h = arg;
    hold_at_gate(event, &h->gate);
    h->answers[0] = ioe_submit(h->ctx, h->extra[0]);
    h->answers[1] = ioe_try_submit(h->ctx, h->extra[1]);
    h->answers[2] = ioe_submit_batch(h->ctx, &h->extra[2], 1);
}

static ioe_event *fsync_event(int fd, ioe_callback callback, void *arg)
{
    ioe_event *event = ioe_event_new();
    assert_non_null(event);
    assert_int_equal(ioe_prep_fsync(event, fd), 0);
    assert_int_equal(ioe_event_set_callback(event, callback, arg), 0);
    return event;
}

static void full_queue_says_again(void **state)
{
    const delivery *how = *state;
    enum { ROOM = 5 };
    unsigned callers = how->workers == 0 ? 1 : how->workers;
    int fd = temp_file(IN_MEMORY);
    ioe_context *ctx = new_context(how, 4, ROOM);
    held *h = calloc(1, sizeof *h);
    latch done = LATCH_INIT;
    ioe_event *holders[8];
    ioe_event *waiting[ROOM];
    assert_non_null(h);
    assert_true(callers <= COUNT_OF(holders));
    h->gate = (gate)GATE_INIT;
    h->ctx = ctx;
    for (size_t i = 0; i < COUNT_OF(h->extra); i++)
        h->extra[i] = fsync_event(fd, hit_latch, &done);
    for (unsigned i = 0; i < callers; i++) {
        holders[i] = i == 0 ? fsync_event(fd, hold_then_submit, h)
                            : fsync_event(fd, hold_at_gate, &h->gate);
        ASSERT_CALL(ioe_submit(ctx, holders[i]), 0);
        latch_wait(&h->gate.entered, i + 1);
    }
    /* A callback that has started takes no room: all of it is there. */
    for (size_t i = 0; i < ROOM; i++) {
        waiting[i] = fsync_event(fd, hit_latch, &done);
        ASSERT_CALL(ioe_try_submit(ctx, waiting[i]), 0);
    }
    ioe_event *late = fsync_event(fd, hit_latch, &done);
    ASSERT_CALL(ioe_try_submit(ctx, late), -EAGAIN);
    ASSERT_CALL(ioe_try_submit(ctx, late), -EAGAIN);
    assert_false(ioe_event_is_done(late));
    assert_int_equal(get_stats(ctx).in_flight, ROOM);
    assert_int_equal(latch_count(&done), 0);

    latch_hit(&h->gate.opened);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ASSERT_CALL(ioe_try_submit(ctx, late), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(h->answers[0], 0);
    assert_int_equal(h->answers[1], 0);
    assert_int_equal(h->answers[2], 1);
    assert_int_equal(latch_count(&done), ROOM + COUNT_OF(h->extra) + 1);

    for (unsigned i = 0; i < callers; i++)
        assert_int_equal(ioe_event_free(holders[i]), 0);
    for (size_t i = 0; i < ROOM; i++)
        assert_int_equal(ioe_event_free(waiting[i]), 0);
    for (size_t i = 0; i < COUNT_OF(h->extra); i++)
        assert_int_equal(ioe_event_free(h->extra[i]), 0);
    assert_int_equal(ioe_event_free(late), 0);
    free(h);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(called_once_on_the_right_thread),
        cmocka_unit_test(called_once_by_shared_workers),
        cmocka_unit_test(workers_call_back_side_by_side),
        for_each_delivery(batch_stops_at_the_first_refused),
        for_each_delivery(batch_longer_than_the_queue),
        for_each_threaded_delivery(full_queue_says_again),
    };
    return RUN_TESTS(tests);
}
