/*
 * Promise: what is joined, and what is kept apart, as the counters tell it, through a merger, a batch,
 * between two polls, and while the driver is busy. A merger holds events back until something asks
 * for them, and never longer: nobody who waits, for callbacks or for room, waits for a merger. Its
 * errors are those that the header lists.
 */
#include <limits.h>

#include "merging.h"

enum { BLOCK = 4096, LIMIT = 16 * BLOCK, MANY = 100, HUGE_LIMIT = 1 << 30, QUEUE = 4096 };

/* As await, by means that flush no merger. */
static void await_unflushed(ioe_context *ctx, const delivery *how, latch *l, unsigned long target)
{
    while ((how->flags & IOE_POLLED) && latch_count(l) < target) {
        assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
    latch_wait(l, target);
}

/* Since the last time it was asked. */
static void check_counts(const ioe_context *ctx, ioe_stats *before, uint64_t operations,
                         uint64_t merged)
{
    const ioe_stats now = get_stats(ctx);
    assert_int_equal(now.operations - before->operations, operations);
    assert_int_equal(now.merged - before->merged, merged);
    *before = now;
}

static void add(ioe_merger *merger, const row *r, size_t number)
{
    ASSERT_CALL(ioe_merger_add(merger, r->members[number].event), 0);
}

static int ready(int action, place where, size_t len)
{
    int fd = temp_file(where);
    ready_file(fd, action, 0, len);
    return fd;
}

/* ---- the limit ---- */

typedef struct limited {
    size_t count, each, limit, operations;
} limited;

static const limited all_limited[] = {
    {100, BLOCK, LIMIT, 7},       {100, BLOCK, 100 * BLOCK, 1}, {100, BLOCK, 100 * BLOCK - 1, 2},
    {10, BLOCK, 10000, 5},        {10, BLOCK, BLOCK, 10},       {10, BLOCK, BLOCK + 1, 10},
    {10, BLOCK, 2 * BLOCK, 5},    {10, BLOCK, 1, 10},           {1000, 1, 1000, 1},
    {1000, 1, 999, 2},            {10, 3, 8, 5},                {1, BLOCK, LIMIT, 1},
    {10, BLOCK, UINT32_MAX, 1},
};

typedef void (*hand_in)(ioe_context *ctx, const limited *l, const row *r);

static void hand_in_forward(ioe_context *ctx, const limited *l, const row *r)
{
    ioe_merger *merger = new_merger(ctx, r->members[0].fd, r->members[0].action, l->limit);
    add_row(merger, r);
    ASSERT_CALL(ioe_merger_flush(merger), 0);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    ASSERT_CALL(ioe_merger_free(merger), 0);
}

static void hand_in_backward(ioe_context *ctx, const limited *l, const row *r)
{
    ioe_merger *merger = new_merger(ctx, r->members[0].fd, r->members[0].action, l->limit);
    for (size_t i = r->count; i > 0; i--)
        add(merger, r, i - 1);
    ASSERT_CALL(ioe_merger_free(merger), 0);
}

static void hand_in_as_a_batch(ioe_context *ctx, const limited *l, const row *r)
{
    (void)l;
    batch_row(ctx, r);
}

static void submit_row(ioe_context *ctx, const row *r)
{
    for (size_t i = 0; i < r->count; i++)
        ASSERT_CALL(ioe_submit(ctx, r->members[i].event), 0);
}

/* Between two polls. */
static void hand_in_singly(ioe_context *ctx, const limited *l, const row *r)
{
    (void)l;
    submit_row(ctx, r);
}

static void check_limited(ioe_context *ctx, const limited *l, hand_in way)
{
    for (int action = IOE_READ; action <= IOE_WRITE; action++) {
        int fd = ready(action, IN_MEMORY, l->count * l->each);
        row *r = new_row(fd, action, 0, l->count, l->each, 8);
        ioe_stats before = get_stats(ctx), after;
        way(ctx, l, r);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        after = get_stats(ctx);
        assert_int_equal(after.completed - before.completed, l->count);
        assert_int_equal(after.continued, 0);
        check_counts(ctx, &before, l->operations, l->count - l->operations);
        check_row(r);
        free_row(r);
        close(fd);
    }
}

static void merger_joins_up_to_its_limit(void **state)
{
    ioe_context *ctx = new_merging_context(*state, 64, QUEUE, 0);
    for (size_t i = 0; i < COUNT_OF(all_limited); i++) {
        check_limited(ctx, &all_limited[i], hand_in_forward);
        check_limited(ctx, &all_limited[i], hand_in_backward);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void what_waits_is_joined_up_to_the_limit(void **state)
{
    const delivery *how = *state;
    for (size_t i = 0; i < COUNT_OF(all_limited); i++) {
        const limited *l = &all_limited[i];
        ioe_context *ctx = new_merging_context(how, 64, QUEUE, (uint32_t)l->limit);
        check_limited(ctx, l, hand_in_as_a_batch);
        if (how->flags & IOE_POLLED)
            check_limited(ctx, l, hand_in_singly);
        assert_int_equal(ioe_context_free(ctx), 0);
    }
}

/* Whatever the order. A hole that is left between two full ones can be smaller than the limit. */
static void order_does_not_matter(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_merging_context(how, 64, QUEUE, LIMIT);
    ioe_event *events[MANY];
    uint64_t random = 1;
    for (int order = 0; order < 8; order++) {
        const int action = order % 2 == 0 ? IOE_READ : IOE_WRITE;
        int fd = ready(action, IN_MEMORY, MANY * BLOCK);
        row *r = new_row(fd, action, 0, MANY, BLOCK, 8);
        for (size_t i = 0; i < MANY; i++)
            events[i] = r->members[order < 2 ? MANY - 1 - i : i].event;
        for (size_t i = MANY; order >= 2 && i > 1; i--) {
            size_t j = next_random(&random) % i;
            ioe_event *other = events[i - 1];
            events[i - 1] = events[j];
            events[j] = other;
        }
        const ioe_stats before = get_stats(ctx);
        if ((how->flags & IOE_POLLED) && order % 4 < 2)
            for (size_t i = 0; i < MANY; i++)
                ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
        else
            ASSERT_CALL(ioe_submit_batch(ctx, events, MANY), MANY);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        const ioe_stats after = get_stats(ctx);
        const uint64_t operations = after.operations - before.operations;
        assert_int_equal(operations + after.merged - before.merged, MANY);
        assert_in_range(operations, 7, order < 2 ? 7 : 2 * (MANY / 16) + 1);
        check_row(r);
        free_row(r);
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

typedef struct producer {
    ioe_context *ctx;
    const row *r;
    int rc;
} producer;

static void *submit_a_row(void *arg)
{
    producer *p = arg;
    for (size_t i = 0; i < p->r->count && p->rc == 0; i++)
        p->rc = ioe_submit(p->ctx, p->r->members[i].event);
    return NULL;
}

/* Another thread submits one by one; a read keeps the only slot meanwhile. */
static void what_waits_for_a_slot_is_joined(void **state)
{
    const delivery *how = *state;
    only_with_one_reactor(how);
    ioe_context *ctx = new_merging_context(how, 1, QUEUE, LIMIT);
    for (int i = 0; i < 2; i++) {
        const int action = i % 2 == 0 ? IOE_READ : IOE_WRITE;
        int fd = ready(action, IN_MEMORY, MANY * BLOCK);
        row *r = new_row(fd, action, 0, MANY, BLOCK, 8);
        producer p = {ctx, r, 0};
        latch done = LATCH_INIT;
        stuck_read stuck;
        ioe_stats before = get_stats(ctx);
        stuck_prepare(&stuck, hit_latch, &done);
        ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
        join_thread(start_thread(submit_a_row, &p));
        assert_int_equal(p.rc, 0);
        assert_true(stuck_let_go(&stuck));
        assert_int_equal(ioe_drain(ctx, -1), 0);
        check_counts(ctx, &before, 1 + 7, MANY - 7);
        check_row(r);
        free_row(r);
        stuck_free(&stuck);
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* The second read's callback keeps the driver thread, which has the first of the row, and a slot. */
static void what_came_meanwhile_is_joined(void **state)
{
    const delivery *how = *state;
    only_with_one_reactor(how);
    ioe_context *ctx = new_merging_context(how, 1, QUEUE, LIMIT);
    int fd = ready(IOE_WRITE, IN_MEMORY, MANY * BLOCK);
    row *r = new_row(fd, IOE_WRITE, 0, MANY, BLOCK, 8);
    gate gates[] = {GATE_INIT, GATE_INIT};
    stuck_read stuck[COUNT_OF(gates)];
    ioe_stats before = get_stats(ctx);
    size_t submitted = 0;
    for (size_t i = 0; i < COUNT_OF(gates); i++) {
        stuck_prepare(&stuck[i], hold_at_gate, &gates[i]);
        ASSERT_CALL(ioe_submit(ctx, stuck[i].event), 0);
        if (i > 0) {
            ASSERT_CALL(ioe_submit(ctx, r->members[submitted++].event), 0);
            latch_hit(&gates[i - 1].opened);
        }
        assert_true(stuck_let_go(&stuck[i]));
        latch_wait(&gates[i].entered, 1);
    }
    while (submitted < MANY)
        ASSERT_CALL(ioe_submit(ctx, r->members[submitted++].event), 0);
    latch_hit(&gates[1].opened);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    check_counts(ctx, &before, COUNT_OF(gates) + 7, MANY - 7);
    check_row(r);
    free_row(r);
    for (size_t i = 0; i < COUNT_OF(gates); i++)
        stuck_free(&stuck[i]);
    close(fd);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void info_tells_the_limit(void **state)
{
    const delivery *how = *state;
    static const uint32_t limits[][2] = {{0, 0}, {1, 1}, {BLOCK, BLOCK}, {HUGE_LIMIT, HUGE_LIMIT},
                                         {HUGE_LIMIT + 1u, HUGE_LIMIT}, {UINT32_MAX, HUGE_LIMIT}};
    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        ioe_context *ctx = new_merging_context(how, 4, 4, limits[i][0]);
        assert_int_equal(get_info(ctx).merge_limit, limits[i][1]);
        assert_int_equal(ioe_context_free(ctx), 0);
    }
}

/* ---- what hands on ---- */

typedef struct scene {
    const delivery *how;
    ioe_context *ctx;
    int fd;
    row *r;
    ioe_merger *merger;
    ioe_stats before;
} scene;

/* A row of writes and a merger that could take all of it. */
static scene set_scene(const delivery *how, uint32_t queue_size)
{
    scene s = {.how = how};
    s.ctx = new_merging_context(how, 8, queue_size, 0);
    s.fd = ready(IOE_WRITE, IN_MEMORY, 0);
    s.r = new_row(s.fd, IOE_WRITE, 0, MANY, BLOCK, 8);
    if (how->flags & IOE_POLLED)
        assert_int_equal(ioe_poll(s.ctx, 0, 0), 0); /* owned from here on */
    s.merger = new_merger(s.ctx, s.fd, IOE_WRITE, HUGE_LIMIT);
    s.before = get_stats(s.ctx);
    return s;
}

static void end_scene(scene *s)
{
    ASSERT_CALL(ioe_context_free(s->ctx), 0);
    free_row(s->r);
    close(s->fd);
}

/* So many have arrived by themselves; what came later is held back. */
static void check_handed_on(scene *s, unsigned long count, uint64_t operations, uint64_t merged)
{
    await_unflushed(s->ctx, s->how, &s->r->done, count);
    for (int look = 0; (s->how->flags & IOE_POLLED) && look < 3; look++)
        assert_int_equal(ioe_poll(s->ctx, 0, 0), 0);
    assert_int_equal(latch_count(&s->r->done), count);
    check_counts(s->ctx, &s->before, operations, merged);
}

static void flush_and_free_hand_on(void **state)
{
    scene s = set_scene(*state, QUEUE);
    ASSERT_CALL(ioe_merger_flush(s.merger), 0);
    for (size_t i = 0; i < 3; i++)
        add(s.merger, s.r, i);
    ioe_stats now = get_stats(s.ctx);
    assert_int_equal(now.accepted, 3);
    assert_int_equal(now.in_flight, 3);
    assert_int_equal(ioe_event_result(s.r->members[0].event), IOE_PENDING);
    check_handed_on(&s, 0, 0, 0);
    ASSERT_CALL(ioe_merger_flush(s.merger), 0);
    check_handed_on(&s, 3, 1, 2);
    ASSERT_CALL(ioe_merger_flush(s.merger), 0);
    /* Not with what was flushed, which it touches. */
    add(s.merger, s.r, 3);
    add(s.merger, s.r, 4);
    check_handed_on(&s, 3, 0, 0);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    check_handed_on(&s, 5, 1, 1);
    end_scene(&s);
}

static void a_gap_hands_on(void **state)
{
    scene s = set_scene(*state, QUEUE);
    add(s.merger, s.r, 10);
    add(s.merger, s.r, 11);
    add(s.merger, s.r, 13);
    check_handed_on(&s, 2, 1, 1);
    add(s.merger, s.r, 12); /* before it */
    add(s.merger, s.r, 14);
    check_handed_on(&s, 2, 0, 0);
    add(s.merger, s.r, 0);
    check_handed_on(&s, 5, 1, 2);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    check_handed_on(&s, 6, 1, 0);
    end_scene(&s);
}

/* Both ends grow; at each its own number is the next. */
static void a_merger_grows_at_both_ends(void **state)
{
    scene s = set_scene(*state, QUEUE);
    for (size_t i = 0; i < MANY; i++)
        add(s.merger, s.r, i % 2 == 0 ? MANY / 2 + i / 2 : MANY / 2 - 1 - i / 2);
    check_handed_on(&s, 0, 0, 0);
    ASSERT_CALL(ioe_merger_flush(s.merger), 0);
    check_handed_on(&s, MANY, 1, MANY - 1);
    check_row(s.r);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    end_scene(&s);
}

static void an_overlap_hands_on(void **state)
{
    scene s = set_scene(*state, QUEUE);
    /* Later by half a block, earlier by half a block, and the same again. */
    row *later = new_row(s.fd, IOE_WRITE, 10 * BLOCK + BLOCK / 2, 1, BLOCK, 8);
    row *earlier = new_row(s.fd, IOE_WRITE, 10 * BLOCK, 1, BLOCK, 8);
    row *same = new_row(s.fd, IOE_WRITE, 10 * BLOCK, 1, BLOCK, 8);
    add(s.merger, s.r, 10);
    add(s.merger, later, 0);
    check_handed_on(&s, 1, 1, 0);
    add(s.merger, earlier, 0);
    await_unflushed(s.ctx, s.how, &later->done, 1);
    check_handed_on(&s, 1, 1, 0);
    add(s.merger, same, 0);
    await_unflushed(s.ctx, s.how, &earlier->done, 1);
    check_handed_on(&s, 1, 1, 0);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    await_unflushed(s.ctx, s.how, &same->done, 1);
    check_handed_on(&s, 1, 1, 0);
    check_row(later);
    check_row(earlier);
    check_row(same);
    end_scene(&s);
    free_row(later);
    free_row(earlier);
    free_row(same);
}

/* Full, too large, or empty: it goes at once, without being asked for. */
static void what_needs_no_company_goes_at_once(void **state)
{
    const delivery *how = *state;
    scene s = set_scene(how, QUEUE);
    row *large = new_row(s.fd, IOE_WRITE, 4 * BLOCK, 1, 4 * BLOCK, 0);
    row *larger = new_row(s.fd, IOE_WRITE, 8 * BLOCK, 1, 5 * BLOCK, 0);
    row *empty = new_row(s.fd, IOE_WRITE, 2 * BLOCK, 1, 0, 1);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    s.merger = new_merger(s.ctx, s.fd, IOE_WRITE, 4 * BLOCK);
    for (size_t i = 0; i < 4; i++)
        add(s.merger, s.r, 3 - i);
    check_handed_on(&s, 4, 1, 3);
    /* A sum above the limit is no full one: what was there goes. */
    add(s.merger, s.r, 20);
    add(s.merger, large, 0);
    await_unflushed(s.ctx, how, &large->done, 1);
    check_handed_on(&s, 5, 2, 0);
    add(s.merger, larger, 0);
    await_unflushed(s.ctx, how, &larger->done, 1);
    check_handed_on(&s, 5, 1, 0);
    add(s.merger, empty, 0);
    await_unflushed(s.ctx, how, &empty->done, 1);
    check_handed_on(&s, 5, 1, 0);
    check_row(large);
    check_row(larger);
    check_row(empty);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    end_scene(&s);
    free_row(large);
    free_row(larger);
    free_row(empty);
}

static void drain_and_poll_hand_on(void **state)
{
    const delivery *how = *state;
    scene s = set_scene(how, QUEUE);
    ioe_merger *other = new_merger(s.ctx, s.fd, IOE_WRITE, HUGE_LIMIT);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < 4; i++) {
            add(s.merger, s.r, 8 * round + i);
            add(other, s.r, 8 * round + 4 + i);
        }
        check_handed_on(&s, 8 * round, 0, 0);
        if (round == 0)
            ASSERT_CALL(ioe_drain(s.ctx, -1), 0);
        else if (round == 1)
            assert_true(ioe_drain(s.ctx, 0) <= 0); /* it only looks, and yet */
        else if (how->flags & IOE_POLLED)
            assert_in_range(ioe_poll(s.ctx, 1, -1), 1, 8);
        else
            ASSERT_CALL(ioe_drain(s.ctx, 10000), 0);
        check_handed_on(&s, 8 * round + 8, 2, 6);
    }
    ASSERT_CALL(ioe_merger_free(other), 0);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    end_scene(&s);
}

/* ---- a queue that is full ---- */

static void free_places(ioe_context *ctx)
{
    while (ioe_poll(ctx, 0, 0) == 0)
        sched_yield();
}

/* As a program does that gathers more than there is room for. */
static void add_to_full_queue(ioe_context *ctx, const delivery *how, ioe_merger *merger,
                              ioe_event *event)
{
    int rc = ioe_merger_add(merger, event);
    while (rc == -EAGAIN && (how->flags & IOE_POLLED)) {
        free_places(ctx);
        rc = ioe_merger_add(merger, event);
    }
    assert_int_equal(rc, 0);
}

/* Mergers hold all the places, and none of them would ever be full. */
static void gathering_more_than_there_is_room_for(void **state)
{
    const delivery *how = *state;
    enum { MERGERS = 5 };
    for (uint32_t queue_size = 1; queue_size <= 2 * MERGERS; queue_size += 3) {
        ioe_context *ctx = new_merging_context(how, 8, queue_size, 0);
        int fd = ready(IOE_WRITE, IN_MEMORY, 0);
        row *rows[MERGERS];
        ioe_merger *mergers[MERGERS];
        for (size_t i = 0; i < MERGERS; i++) {
            rows[i] = new_row(fd, IOE_WRITE, i * MANY * BLOCK, MANY, BLOCK, 8);
            mergers[i] = new_merger(ctx, fd, IOE_WRITE, HUGE_LIMIT);
        }
        for (size_t i = 0; i < MANY * MERGERS; i++)
            add_to_full_queue(ctx, how, mergers[i % MERGERS],
                              rows[i % MERGERS]->members[i / MERGERS].event);
        for (size_t i = 0; i < MERGERS; i++)
            ASSERT_CALL(ioe_merger_free(mergers[i]), 0);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        for (size_t i = 0; i < MERGERS; i++) {
            check_row(rows[i]);
            free_row(rows[i]);
        }
        close(fd);
    }
}

/* Whatever it is that finds the queue full. */
static void who_finds_the_queue_full_flushes(void **state)
{
    const delivery *how = *state;
    enum { ROOM = 4 };
    const bool polls = how->flags & IOE_POLLED;
    for (int call = 0; call < 3; call++) {
        scene s = set_scene(how, ROOM);
        ioe_event *event = s.r->members[MANY - 1].event;
        int rc = -EAGAIN;
        for (size_t i = 0; i < ROOM; i++)
            add(s.merger, s.r, i);
        if (polls)
            assert_int_equal(ioe_poll(s.ctx, 0, 0), 0);
        for (bool first = true; rc == -EAGAIN; first = false) {
            rc = call == 0   ? ioe_submit(s.ctx, event)
                 : call == 1 ? ioe_try_submit(s.ctx, event)
                             : ioe_submit_batch(s.ctx, &event, 1);
            if (first && (polls || call == 1))
                assert_int_equal(rc, -EAGAIN);
            if (polls && rc == -EAGAIN)
                free_places(s.ctx);
        }
        assert_int_equal(rc, call == 2 ? 1 : 0);
        await_unflushed(s.ctx, how, &s.r->done, ROOM + 1);
        check_counts(s.ctx, &s.before, 2, ROOM - 1);
        ASSERT_CALL(ioe_merger_free(s.merger), 0);
        end_scene(&s);
    }
}

typedef struct gatherer {
    ioe_context *ctx;
    row *r;
    int rc;
} gatherer;

static void *gather(void *arg)
{
    gatherer *g = arg;
    ioe_merger *merger = NULL;
    g->rc = ioe_merger_new(g->ctx, g->r->members[0].fd, IOE_WRITE, HUGE_LIMIT, &merger);
    for (size_t i = 0; i < g->r->count && g->rc == 0; i++)
        g->rc = ioe_merger_add(merger, g->r->members[i].event);
    if (merger != NULL && ioe_merger_free(merger) != 0)
        g->rc = -1;
    return NULL;
}

static void threads_gather_for_a_small_queue(void **state)
{
    const delivery *how = *state;
    enum { THREADS = 4, ROUNDS = 4 };
    int fd = ready(IOE_WRITE, IN_MEMORY, 0);
    ioe_context *ctx = new_merging_context(how, 4, 3, LIMIT);
    for (unsigned round = 0; round < ROUNDS; round++) {
        gatherer g[THREADS];
        pthread_t threads[THREADS];
        for (size_t i = 0; i < THREADS; i++) {
            g[i] = (gatherer){ctx, new_row(fd, IOE_WRITE, i * MANY * BLOCK, MANY, BLOCK, 8), 0};
            threads[i] = start_thread(gather, &g[i]);
        }
        /* Those who wait for callbacks are not held up either. */
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        for (size_t i = 0; i < THREADS; i++)
            join_thread(threads[i]);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        for (size_t i = 0; i < THREADS; i++) {
            assert_int_equal(g[i].rc, 0);
            check_row(g[i].r);
            free_row(g[i].r);
        }
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- a drain on another thread ---- */

static void *drain(void *arg)
{
    ioe_context *ctx = arg;
    return ioe_drain(ctx, -1) == 0 ? ctx : NULL;
}

/* What is gathered while somebody drains does not hold the drain back. */
static void a_drain_waits_for_nothing_gathered_later(void **state)
{
    scene s = set_scene(*state, QUEUE);
    latch done = LATCH_INIT;
    stuck_read stuck;
    void *drained = NULL;
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(s.ctx, stuck.event), 0);
    add(s.merger, s.r, 0);
    pthread_t drainer = start_thread(drain, s.ctx);
    /* By nobody else's doing: so the drain has begun. It waits for the read. */
    latch_wait(&s.r->done, 1);
    for (size_t i = 1; i < 6; i++)
        add(s.merger, s.r, i);
    assert_int_equal(latch_count(&done), 0);
    assert_true(stuck_let_go(&stuck));
    assert_int_equal(pthread_join(drainer, &drained), 0);
    assert_ptr_equal(drained, s.ctx);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    latch_wait(&s.r->done, 6);
    stuck_free(&stuck);
    end_scene(&s);
}

/* ---- inside callbacks ---- */

typedef struct inside {
    ioe_context *ctx;
    row *r;
    ioe_merger *merger; /* made outside; NULL: one is made inside */
    int made, added, flushed, freed;
    latch done;
} inside;

static void gather_inside(ioe_event *event, void *arg)
{
    inside *in = arg;
    const member *m = in->r->members;
    ioe_merger *merger = in->merger;
    (void)event;
    if (merger == NULL)
        in->made = ioe_merger_new(in->ctx, m->fd, m->action, LIMIT, &merger);
    for (size_t i = 0; i < in->r->count && in->made == 0 && in->added == 0; i++)
        in->added = ioe_merger_add(merger, m[i].event);
    if (in->merger != NULL)
        in->flushed = ioe_merger_flush(merger);
    else if (merger != NULL)
        in->freed = ioe_merger_free(merger);
    latch_hit(&in->done);
}

/* It never waits, and there is always room. */
static void mergers_inside_callbacks(void **state)
{
    const delivery *how = *state;
    for (int outside = 0; outside < 2; outside++) {
        ioe_context *ctx = new_merging_context(how, 8, 4, 0);
        int fd = ready(IOE_WRITE, IN_MEMORY, 0);
        inside in = {.ctx = ctx, .done = LATCH_INIT};
        in.r = new_row(fd, IOE_WRITE, 0, MANY, BLOCK, 8);
        in.merger = outside ? new_merger(ctx, fd, IOE_WRITE, LIMIT) : NULL;
        ioe_event *event = new_event();
        ioe_stats before = get_stats(ctx);
        assert_int_equal(ioe_prep_fsync(event, fd), 0);
        assert_int_equal(ioe_event_set_callback(event, gather_inside, &in), 0);
        ASSERT_CALL(ioe_submit(ctx, event), 0);
        await(ctx, how, &in.done, 1);
        await_unflushed(ctx, how, &in.r->done, MANY);
        assert_int_equal(in.made, 0);
        assert_int_equal(in.added, 0);
        assert_int_equal(in.flushed, 0);
        assert_int_equal(in.freed, 0);
        check_counts(ctx, &before, 1 + 7, MANY - 7);
        check_row(in.r);
        if (outside)
            ASSERT_CALL(ioe_merger_free(in.merger), 0);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        assert_int_equal(ioe_event_free(event), 0);
        free_row(in.r);
        close(fd);
    }
}

/* ---- while a context is freed ---- */

typedef struct ending {
    ioe_context *ctx;
    int fd;
    int made, freed, made_later;
} ending;

static void make_until_refused(ioe_event *event, void *arg)
{
    ending *e = arg;
    ioe_merger *merger;
    (void)event;
    while ((e->made = ioe_merger_new(e->ctx, e->fd, IOE_READ, LIMIT, &merger)) == 0) {
        ioe_merger_free(merger);
        sched_yield();
    }
    e->freed = ioe_context_free(e->ctx);
    e->made_later = ioe_merger_new(e->ctx, e->fd, IOE_READ, LIMIT, &merger);
}

/* Callbacks run meanwhile, but no merger is made, also after a free that is refused. */
static void mergers_while_a_context_is_freed(void **state)
{
    const delivery *how = *state;
    ending e = {.ctx = new_merging_context(how, 8, 4, 0), .fd = ready(IOE_WRITE, IN_MEMORY, 0)};
    ioe_event *event = new_event();
    assert_int_equal(ioe_prep_fsync(event, e.fd), 0);
    assert_int_equal(ioe_event_set_callback(event, make_until_refused, &e), 0);
    ASSERT_CALL(ioe_submit(e.ctx, event), 0);
    int freed;
    while ((freed = ioe_context_free(e.ctx)) == -EBUSY)
        sched_yield();
    assert_int_equal(freed, 0);
    assert_int_equal(e.made, -ESHUTDOWN);
    assert_int_equal(e.freed, -EDEADLK);
    assert_int_equal(e.made_later, -ESHUTDOWN);
    assert_int_equal(ioe_event_free(event), 0);
    close(e.fd);
}

/* ---- kept apart ---- */

/* How many operations a batch took, or, where a merger is given, what was added to that. */
static uint64_t run_events(ioe_context *ctx, ioe_merger *merger, ioe_event *const *events,
                           size_t count)
{
    const ioe_stats before = get_stats(ctx);
    for (size_t i = 0; merger != NULL && i < count; i++)
        ASSERT_CALL(ioe_merger_add(merger, events[i]), 0);
    if (merger != NULL)
        ASSERT_CALL(ioe_merger_free(merger), 0);
    else
        ASSERT_CALL(ioe_submit_batch(ctx, events, count), count);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    const ioe_stats after = get_stats(ctx);
    assert_int_equal(after.completed - before.completed, count);
    assert_int_equal(after.operations - before.operations + after.merged - before.merged,
                     count + after.continued - before.continued);
    return after.operations - before.operations;
}

static void row_events(const row *r, ioe_event **events)
{
    for (size_t i = 0; i < r->count; i++)
        events[i] = r->members[i].event;
}

/* Where appended bytes go is not for the offset to say; each event's are in one piece. */
static void appended_writes_are_kept_apart(void **state)
{
    const delivery *how = *state;
    enum { EACH = 100 };
    ioe_context *ctx = new_merging_context(how, 8, QUEUE, LIMIT);
    int fd = temp_file(IN_MEMORY), appends = open_again(fd, O_RDWR | O_APPEND);
    ioe_event *events[MANY];
    assert_true(appends >= 0);
    for (int i = 0; i < 2; i++) {
        row *r = new_row(appends, IOE_WRITE, 0, MANY, EACH, 8);
        uint8_t bytes[MANY * EACH + 1];
        bool seen[MANY] = {false};
        assert_int_equal(ftruncate(fd, 0), 0);
        for (size_t j = 0; j < MANY; j++)
            memset(r->iov[j].iov_base, (int)j, EACH);
        row_events(r, events);
        ioe_merger *merger = i == 1 ? new_merger(ctx, appends, IOE_WRITE, LIMIT) : NULL;
        assert_int_equal(run_events(ctx, merger, events, MANY), MANY);
        assert_int_equal(pread(fd, bytes, sizeof bytes, 0), MANY * EACH);
        for (size_t j = 0; j < MANY; j++) {
            const uint8_t *piece = bytes + j * EACH;
            assert_true(piece[0] < MANY && !seen[piece[0]]);
            seen[piece[0]] = true;
            assert_memory_equal(piece, r->iov[piece[0]].iov_base, EACH);
            assert_int_equal(r->members[j].result, EACH);
        }
        free_row(r);
    }
    /* Reads there are like any others. */
    ready_file(fd, IOE_READ, 0, MANY * BLOCK);
    row *r = new_row(appends, IOE_READ, 0, MANY, BLOCK, 8);
    row_events(r, events);
    assert_int_equal(run_events(ctx, NULL, events, MANY), 7);
    check_row(r);
    free_row(r);
    close(appends);
    close(fd);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* Two descriptors of one file, two actions, what is not adjacent, what overlaps, what is no transfer. */
static void only_neighbours_are_joined(void **state)
{
    const delivery *how = *state;
    enum { HALF = MANY / 2 };
    ioe_context *ctx = new_merging_context(how, 8, QUEUE, HUGE_LIMIT);
    int fd = ready(IOE_READ, IN_MEMORY, 2 * MANY * BLOCK), other = dup(fd);
    row *here = new_row(fd, IOE_READ, 0, MANY, BLOCK, 8);
    row *there = new_row(other, IOE_READ, 0, MANY, BLOCK, 8);
    row *writes = new_row(fd, IOE_WRITE, MANY * BLOCK, MANY, BLOCK, 8);
    row *across = new_row(fd, IOE_READ, BLOCK / 2, 1, BLOCK, 8);
    row *empty = new_row(fd, IOE_READ, 3 * BLOCK, 1, 0, 8);
    ioe_event *events[2 * MANY], *sync = new_event();
    latch synced = LATCH_INIT;
    assert_true(other >= 0);
    assert_int_equal(ioe_event_set_callback(sync, hit_latch, &synced), 0);

    for (size_t i = 0; i < MANY; i++)
        events[i] = (i % 2 == 0 ? here : there)->members[i].event;
    assert_int_equal(run_events(ctx, NULL, events, MANY), MANY);
    for (size_t i = 0; i < MANY; i++)
        prepare_member(&(i % 2 == 0 ? here : there)->members[i]);
    for (size_t i = 0; i < MANY; i++)
        events[i] = (i < HALF ? here : there)->members[i].event;
    assert_int_equal(run_events(ctx, NULL, events, MANY), 2);

    for (size_t i = 0; i < HALF; i++) {
        prepare_member(&here->members[i]);
        events[2 * i] = here->members[i].event;
        events[2 * i + 1] = writes->members[i].event;
    }
    /* The end of the reads is the beginning of the writes. */
    for (size_t i = HALF; i < MANY; i++) {
        prepare_member(&here->members[i]);
        events[HALF + i] = here->members[i].event;
    }
    assert_int_equal(run_events(ctx, NULL, events, HALF + MANY), 2);

    for (size_t i = 0; i < HALF; i++) {
        prepare_member(&here->members[2 * i]);
        events[i] = here->members[2 * i].event;
    }
    assert_int_equal(run_events(ctx, NULL, events, HALF), HALF);

    /* Of two with the same bytes one goes with the neighbours, of either half an overlap none. */
    for (size_t i = 0; i < 4; i++) {
        prepare_member(&here->members[i]);
        events[i] = here->members[i].event;
    }
    row *same = new_row(fd, IOE_READ, BLOCK, 1, BLOCK, 8);
    events[4] = same->members[0].event;
    events[5] = across->members[0].event;
    assert_int_equal(run_events(ctx, NULL, events, 6), 3);

    assert_int_equal(ioe_prep_fsync(sync, fd), 0);
    for (size_t i = 0; i < 4; i++)
        prepare_member(&here->members[i]);
    events[4] = events[3];
    events[3] = events[2];
    events[2] = sync;
    events[5] = empty->members[0].event;
    assert_int_equal(run_events(ctx, NULL, events, 6), 3);
    assert_int_equal(latch_count(&synced), 1);

    check_row(across);
    check_row(same);
    check_row(empty);
    for (size_t i = 0; i < HALF; i++)
        check_member(writes, i, BLOCK, BLOCK);
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(sync), 0);
    free_row(here);
    free_row(there);
    free_row(writes);
    free_row(across);
    free_row(same);
    free_row(empty);
    close(other);
    close(fd);
}

/* The same again at many places: whatever way neighbours are found by, it is by all they have in
 * common. */
static void neighbours_have_all_in_common(void **state)
{
    const delivery *how = *state;
    enum { EACH = 16, FEW = 8, ROUNDS = 500, OTHERS = 64 };
    ioe_context *ctx = new_merging_context(how, 8, QUEUE, HUGE_LIMIT);
    int fd = ready(IOE_READ, IN_MEMORY, ROUNDS * FEW * EACH), others[OTHERS];
    for (size_t i = 0; i < OTHERS; i++)
        assert_true((others[i] = dup(fd)) >= 0);
    for (size_t round = 0; round < 2 * ROUNDS; round++) {
        const uint64_t offset = round / 2 * FEW * EACH;
        row *r = new_row(fd, IOE_READ, offset, FEW, EACH, 8);
        ioe_event *events[FEW];
        for (size_t i = 1; i < FEW; i += 2) {
            member *m = &r->members[i];
            if (round % 2 == 0)
                m->fd = others[round / 2 % OTHERS];
            else
                m->action = IOE_WRITE;
            if (m->action == IOE_WRITE)
                pattern_fill(m->iov->iov_base, EACH, ROW_PATTERN, m->offset);
            prepare_member(m);
        }
        row_events(r, events);
        assert_int_equal(run_events(ctx, NULL, events, FEW), FEW);
        check_row(r);
        free_row(r);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    for (size_t i = 0; i < OTHERS; i++)
        close(others[i]);
    close(fd);
}

/* ---- direct I/O ---- */

/* Memory, length or place that the device does not take: each event has what it has by itself. */
static void check_direct(ioe_context *apart, ioe_context *ctx, int fd, int action, size_t each,
                         size_t address, bool joined)
{
    /* All members are so, or the one in the middle alone. */
    for (int one = 0; one < 1 + (each <= BLOCK); one++) {
        const size_t count = 16, middle = 7;
        int64_t results[16] = {0};
        for (int run = 0; run < 3; run++) {
            row *r = new_row(fd, action, 0, count, one ? BLOCK : each,
                             one ? BLOCK : 2 * BLOCK - each % BLOCK);
            ioe_event *events[16];
            for (size_t i = 0; i < count; i++) {
                member *m = &r->members[i];
                if (one && i == middle)
                    r->iov[i].iov_len = m->len = each;
                if (!one || i == middle)
                    r->iov[i].iov_base = (uint8_t *)r->iov[i].iov_base + address;
                prepare_member(m);
                events[i] = m->event;
            }
            ioe_merger *merger = run == 2 ? new_merger(ctx, fd, action, HUGE_LIMIT) : NULL;
            const uint64_t operations = run_events(run == 0 ? apart : ctx, merger, events, count);
            for (size_t i = 0; i < count; i++) {
                const member *m = &r->members[i];
                if (run == 0)
                    results[i] = m->result;
                assert_int_equal(m->result, results[i]);
                assert_int_equal(atomic_load(&m->calls), 1);
                if (m->result >= 0 && address == 0)
                    check_member(r, i, (int64_t)m->len, m->len);
            }
            if (run > 0 && joined && !one)
                assert_int_equal(operations, 1);
            free_row(r);
        }
    }
}

static void direct_members_have_what_they_have_alone(void **state)
{
    ioe_context *apart = new_merging_context(*state, 16, QUEUE, 0);
    ioe_context *ctx = new_merging_context(*state, 16, QUEUE, HUGE_LIMIT);
    for (int action = IOE_READ; action <= IOE_WRITE; action++) {
        int plain = temp_file(ON_DISK), fd = open_direct(plain);
        ready_file(plain, IOE_READ, 0, 64 * BLOCK);
        assert_int_equal(fsync(plain), 0);
        check_direct(apart, ctx, fd, action, BLOCK, 0, true);
        check_direct(apart, ctx, fd, action, 2 * BLOCK, 0, true);
        check_direct(apart, ctx, fd, action, 512, 0, false);
        check_direct(apart, ctx, fd, action, BLOCK - 512, 0, false);
        check_direct(apart, ctx, fd, action, BLOCK, 512, false);
        check_direct(apart, ctx, fd, action, BLOCK, 1, false);
        check_direct(apart, ctx, fd, action, 1000, 0, false);
        close(fd);
        close(plain);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_context_free(apart), 0);
}

/* ---- segments ---- */

enum { CROWD = 2500, SMALL = 16, SEGMENTS_MAX = 1024 };

static void check_segments(ioe_context *ctx, int action, size_t gap, size_t pieces, bool explicit)
{
    int fd = ready(action, IN_MEMORY, CROWD * SMALL);
    row *r = new_row(fd, action, 0, CROWD, SMALL, gap);
    struct iovec *parts = calloc(CROWD * pieces, sizeof *parts);
    ioe_event **events = calloc(CROWD, sizeof *events);
    assert_true(parts != NULL && events != NULL);
    for (size_t i = 0; pieces > 1 && i < CROWD; i++) {
        /* The last byte moves on, so that the parts do not touch. */
        member *m = &r->members[i];
        uint8_t *bytes = r->iov[i].iov_base;
        parts[i * pieces] = (struct iovec){bytes, SMALL - 1};
        parts[i * pieces + 1] = (struct iovec){bytes + SMALL, 1};
        bytes[SMALL] = action == IOE_WRITE ? bytes[SMALL - 1] : 0;
        m->iov = &parts[i * pieces];
        m->iovcnt = (int)pieces;
        prepare_member(m);
    }
    row_events(r, events);
    watch_files(fd, -1, (bad_byte){0});
    kernel.all_wait = true;
    ioe_merger *merger = explicit ? new_merger(ctx, fd, action, HUGE_LIMIT) : NULL;
    const size_t each = SEGMENTS_MAX / pieces;
    const uint64_t expected = gap == 0 ? 1 : (CROWD + each - 1) / each;
    assert_int_equal(run_events(ctx, merger, events, CROWD), expected);
    stop_watching();
    if (plain_calls_do_the_work()) {
        assert_int_equal(kernel.count, expected);
        assert_int_equal(kernel.log[0].t.vectored, gap > 0);
    }
    for (size_t i = 0; i < CROWD; i++) {
        uint8_t *bytes = r->iov[i].iov_base;
        if (pieces > 1 && action == IOE_READ) {
            bytes[SMALL - 1] = bytes[SMALL];
            bytes[SMALL] = 0;
        }
        r->members[i].iov = &r->iov[i];
        /* The byte behind a member is another's where there is no gap. */
        if (gap > 0)
            check_member(r, i, SMALL, SMALL);
        else
            assert_int_equal(r->members[i].result, SMALL);
    }
    if (gap == 0 && action == IOE_READ)
        assert_true(pattern_holds(r->memory, CROWD * SMALL, ROW_PATTERN, 0));
    free_row(r);
    free(parts);
    free(events);
    close(fd);
}

/* At most IOV_MAX of them; those that touch are one, down to a plain transfer. */
static void segments_are_counted_and_joined(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_merging_context(how, 16, QUEUE, HUGE_LIMIT);
    for (int i = 0; i < 4; i++) {
        const int action = i % 2 == 0 ? IOE_READ : IOE_WRITE;
        check_segments(ctx, action, 8, 1, i / 2);
        check_segments(ctx, action, 8, 2, i / 2);
        check_segments(ctx, action, 0, 1, i / 2);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* ---- again ---- */

/* The file ends in the middle of the fifth; when it has grown, what is missing is joined again. */
static void incomplete_members_are_joined_again(void **state)
{
    scene s = set_scene(*state, QUEUE);
    enum { IN = 5, ALL = 10 };
    row *r = new_row(s.fd, IOE_READ, 0, ALL, BLOCK, 8);
    ioe_merger *merger = new_merger(s.ctx, s.fd, IOE_READ, HUGE_LIMIT);
    ready_file(s.fd, IOE_READ, 0, IN * BLOCK + BLOCK / 2);
    add_row(merger, r);
    assert_int_equal(ioe_drain(s.ctx, -1), 0);
    for (size_t i = 0; i < ALL; i++) {
        const int64_t read = i < IN ? BLOCK : i == IN ? BLOCK / 2 : 0;
        check_member(r, i, read, (uint64_t)read);
    }
    ready_file(s.fd, IOE_READ, 0, ALL * BLOCK);
    s.before = get_stats(s.ctx);
    for (size_t i = 0; i < ALL; i++) {
        if (i < IN) {
            ASSERT_CALL(ioe_merger_add(merger, r->members[i].event), -EINVAL);
            continue;
        }
        atomic_store(&r->members[i].calls, 0);
        ASSERT_CALL(ioe_merger_add(merger, r->members[i].event), 0);
    }
    ASSERT_CALL(ioe_merger_free(merger), 0);
    assert_int_equal(ioe_drain(s.ctx, -1), 0);
    check_counts(s.ctx, &s.before, 1, ALL - IN - 1);
    check_row(r);
    free_row(r);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    end_scene(&s);
}

/* The same where the end is no place that a direct read could go on from. */
static void incomplete_direct_members_go_on(void **state)
{
    enum { IN = 3, ALL = 8, TAIL = 123 };
    ioe_context *ctx = new_merging_context(*state, 8, QUEUE, 0);
    int plain = temp_file(ON_DISK), fd = open_direct(plain);
    for (int again = 0; again < 2; again++) {
        row *r = new_row(fd, IOE_READ, 0, ALL, BLOCK, BLOCK);
        ioe_merger *merger = new_merger(ctx, fd, IOE_READ, HUGE_LIMIT);
        ready_file(plain, IOE_READ, 0, IN * BLOCK + TAIL);
        assert_int_equal(fsync(plain), 0);
        ioe_stats before = get_stats(ctx);
        add_row(merger, r);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        assert_int_equal(get_stats(ctx).merged - before.merged, ALL - 1);
        for (size_t i = 0; i < ALL; i++) {
            const member *m = &r->members[i];
            assert_int_equal(atomic_load(&m->calls), 1);
            assert_int_equal(m->result, i < IN ? BLOCK : i == IN ? TAIL : 0);
            assert_int_equal(m->transferred, m->result);
            assert_true(pattern_holds(m->iov->iov_base, m->transferred, ROW_PATTERN, m->offset));
        }
        ready_file(plain, IOE_READ, 0, ALL * BLOCK);
        assert_int_equal(fsync(plain), 0);
        for (size_t i = IN; i < ALL; i++) {
            atomic_store(&r->members[i].calls, 0);
            ASSERT_CALL(ioe_merger_add(merger, r->members[i].event), 0);
        }
        ASSERT_CALL(ioe_merger_free(merger), 0);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        check_row(r);
        free_row(r);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
    close(plain);
}

/* ---- errors ---- */

#define UNTOUCHED ((ioe_merger *)(uintptr_t)0x5AA5)

static void new_mergers_check_their_arguments(void **state)
{
    static const int actions[] = {INT_MIN, -1, IOE_NONE, IOE_FSYNC, IOE_FDATASYNC, IOE_FALLOCATE,
                                  IOE_SYNC_RANGE, IOE_TRUNCATE, IOE_ADVISE, IOE_ADVISE + 1, INT_MAX};
    scene s = set_scene(*state, QUEUE);
    ioe_merger *out = UNTOUCHED;
    for (size_t i = 0; i < COUNT_OF(actions); i++)
        ASSERT_CALL(ioe_merger_new(s.ctx, s.fd, actions[i], LIMIT, &out), -EINVAL);
    ASSERT_CALL(ioe_merger_new(NULL, s.fd, IOE_READ, LIMIT, &out), -EINVAL);
    ASSERT_CALL(ioe_merger_new(s.ctx, s.fd, IOE_READ, 0, &out), -EINVAL);
    ASSERT_CALL(ioe_merger_new(s.ctx, s.fd, IOE_READ, LIMIT, NULL), -EINVAL);
    assert_ptr_equal(out, UNTOUCHED);
    ASSERT_CALL(ioe_merger_flush(NULL), -EINVAL);
    ASSERT_CALL(ioe_merger_free(NULL), -EINVAL);
    ASSERT_CALL(ioe_merger_add(NULL, s.r->members[0].event), -EINVAL);
    /* As large as it may be. */
    ASSERT_CALL(ioe_merger_new(s.ctx, s.fd, IOE_WRITE, SIZE_MAX, &out), 0);
    add_row(out, s.r);
    ASSERT_CALL(ioe_merger_free(out), 0);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    assert_int_equal(ioe_drain(s.ctx, -1), 0);
    check_counts(s.ctx, &s.before, 1, MANY - 1);
    check_row(s.r);
    end_scene(&s);
}

/* Refused, an event is as it was, and what was gathered stays. */
static void added_events_are_checked(void **state)
{
    scene s = set_scene(*state, QUEUE);
    latch done = LATCH_INIT;
    uint8_t byte = 0;
    ioe_event *event = new_event(), *gathered = s.r->members[0].event;
    add(s.merger, s.r, 0);
    ASSERT_CALL(ioe_merger_add(s.merger, NULL), -EINVAL);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL); /* never prepared */
    assert_int_equal(ioe_prep_write(event, s.fd, &byte, 1, 3 * BLOCK), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL); /* no callback */
    assert_int_equal(ioe_event_set_callback(event, hit_latch, &done), 0);
    assert_int_equal(ioe_prep_read(event, s.fd, &byte, 1, 3 * BLOCK), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_prep_write(event, s.fd + 1, &byte, 1, 3 * BLOCK), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_prep_fsync(event, s.fd), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_prep_fallocate(event, s.fd, 0, 0, 1), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_prep_sync_range(event, s.fd, 0, 1, SYNC_FILE_RANGE_WRITE), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_prep_truncate(event, s.fd, 1), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_prep_advise(event, s.fd, 0, 1, POSIX_FADV_NORMAL), 0);
    ASSERT_CALL(ioe_merger_add(s.merger, event), -EINVAL);
    assert_int_equal(ioe_event_result(event), IOE_PENDING);

    /* Gathered is in flight. */
    ASSERT_CALL(ioe_merger_add(s.merger, gathered), -EBUSY);
    ASSERT_CALL(ioe_submit(s.ctx, gathered), -EBUSY);
    ASSERT_CALL(ioe_submit_batch(s.ctx, &gathered, 1), -EBUSY);
    ASSERT_CALL(ioe_submit_wait(s.ctx, gathered), -EBUSY);
    ASSERT_CALL(ioe_prep_write(gathered, s.fd, &byte, 1, 0), -EBUSY);
    ASSERT_CALL(ioe_event_free(gathered), -EBUSY);
    check_handed_on(&s, 0, 0, 0);
    add(s.merger, s.r, 1);
    ASSERT_CALL(ioe_merger_flush(s.merger), 0);
    check_handed_on(&s, 2, 1, 1);
    ASSERT_CALL(ioe_merger_add(s.merger, gathered), -EINVAL); /* whole */
    assert_int_equal(latch_count(&done), 0);
    assert_int_equal(get_stats(s.ctx).accepted, 2);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    assert_int_equal(ioe_event_free(event), 0);
    end_scene(&s);
}

/* The kernel's to judge, for each member. */
static void bad_descriptors_arrive_in_the_callbacks(void **state)
{
    const delivery *how = *state;
    enum { FEW = 5 };
    ioe_context *ctx = new_merging_context(how, 8, QUEUE, LIMIT);
    int fd = ready(IOE_READ, IN_MEMORY, FEW * BLOCK), read_only = open_again(fd, O_RDONLY);
    const int fds[] = {-1, INT_MIN, 1 << 20, read_only};
    assert_true(read_only >= 0);
    for (size_t i = 0; i < 2 * COUNT_OF(fds); i++) {
        row *r = new_row(fds[i / 2], IOE_WRITE, 0, FEW, BLOCK, 8);
        ioe_event *events[FEW];
        row_events(r, events);
        ioe_merger *merger = i % 2 == 0 ? new_merger(ctx, fds[i / 2], IOE_WRITE, LIMIT) : NULL;
        if (merger != NULL) {
            add_row(merger, r);
            ASSERT_CALL(ioe_merger_free(merger), 0);
        } else {
            batch_row(ctx, r);
        }
        assert_int_equal(ioe_drain(ctx, -1), 0);
        for (size_t j = 0; j < FEW; j++)
            check_member(r, j, -EBADF, 0);
        free_row(r);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(read_only);
    close(fd);
}

/* -EBUSY, and everything goes on. */
static void a_context_with_a_merger_is_not_freed(void **state)
{
    scene s = set_scene(*state, QUEUE);
    ioe_merger *other = new_merger(s.ctx, s.fd, IOE_WRITE, LIMIT);
    ASSERT_CALL(ioe_context_free(s.ctx), -EBUSY);
    add(s.merger, s.r, 0);
    ASSERT_CALL(ioe_context_free(s.ctx), -EBUSY);
    add(s.merger, s.r, 1);
    check_handed_on(&s, 0, 0, 0);
    ASSERT_CALL(ioe_submit(s.ctx, s.r->members[5].event), 0);
    check_handed_on(&s, 1, 1, 0);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    ASSERT_CALL(ioe_context_free(s.ctx), -EBUSY);
    check_handed_on(&s, 3, 1, 1);
    add(other, s.r, 2);
    ASSERT_CALL(ioe_merger_free(other), 0);
    end_scene(&s);
}

/* ---- a polled context has an owner ---- */

typedef struct stranger {
    scene *s;
    int made, added, flushed, freed;
} stranger;

static void *meddle(void *arg)
{
    stranger *other = arg;
    scene *s = other->s;
    ioe_merger *merger = UNTOUCHED;
    other->made = ioe_merger_new(s->ctx, s->fd, IOE_WRITE, LIMIT, &merger);
    if (merger != UNTOUCHED)
        other->made = 1;
    other->added = ioe_merger_add(s->merger, s->r->members[1].event);
    other->flushed = ioe_merger_flush(s->merger);
    other->freed = ioe_merger_free(s->merger);
    return NULL;
}

static void a_merger_belongs_to_the_owner(void **state)
{
    scene s = set_scene(*state, 2);
    stranger other = {.s = &s};
    add(s.merger, s.r, 0);
    join_thread(start_thread(meddle, &other));
    assert_int_equal(other.made, -EPERM);
    assert_int_equal(other.added, -EPERM);
    assert_int_equal(other.flushed, -EPERM);
    assert_int_equal(other.freed, -EPERM);
    add(s.merger, s.r, 1);
    check_handed_on(&s, 0, 0, 0);
    /* Full: it does not wait, but what was gathered comes. */
    ASSERT_CALL(ioe_merger_add(s.merger, s.r->members[2].event), -EAGAIN);
    assert_int_equal(ioe_event_result(s.r->members[2].event), IOE_PENDING);
    check_handed_on(&s, 2, 1, 1);
    add(s.merger, s.r, 2);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    check_handed_on(&s, 3, 1, 0);
    end_scene(&s);
}

static void *own_for_a_while(void *arg)
{
    scene *s = arg;
    int rc = ioe_poll(s->ctx, 0, 0);
    if (rc == 0)
        rc = ioe_merger_new(s->ctx, s->fd, IOE_WRITE, LIMIT, &s->merger);
    for (size_t i = 0; i < 5 && rc == 0; i++)
        rc = ioe_merger_add(s->merger, s->r->members[i].event);
    return rc == 0 ? s : NULL;
}

/* The owner's thread has ended: whoever clears up frees the merger first. */
static void a_merger_that_an_owner_left(void **state)
{
    const delivery *how = *state;
    scene s = {.how = how, .ctx = new_merging_context(how, 8, QUEUE, 0)};
    void *owned = NULL;
    s.fd = ready(IOE_WRITE, IN_MEMORY, 0);
    s.r = new_row(s.fd, IOE_WRITE, 0, MANY, BLOCK, 8);
    assert_int_equal(pthread_join(start_thread(own_for_a_while, &s), &owned), 0);
    assert_ptr_equal(owned, &s);
    ASSERT_CALL(ioe_merger_add(s.merger, s.r->members[5].event), -EPERM);
    ASSERT_CALL(ioe_merger_flush(s.merger), -EPERM);
    ASSERT_CALL(ioe_context_free(s.ctx), -EBUSY);
    /* The thread's end handed over what it had gathered, and finished it. */
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(ioe_event_result(s.r->members[i].event), BLOCK);
    assert_int_equal(latch_count(&s.r->done), 0);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    ASSERT_CALL(ioe_context_free(s.ctx), 0);
    for (size_t i = 0; i < 5; i++)
        check_member(s.r, i, BLOCK, BLOCK);
    assert_int_equal(latch_count(&s.r->done), 5);
    free_row(s.r);
    close(s.fd);
}

/* ---- a forked child ---- */

static int child_has_no_mergers(void *arg)
{
    scene *s = arg;
    ioe_merger *merger = UNTOUCHED;
    CHILD_CHECK(ioe_merger_new(s->ctx, s->fd, IOE_WRITE, LIMIT, &merger) == -EOWNERDEAD);
    CHILD_CHECK(merger == UNTOUCHED);
    CHILD_CHECK(ioe_merger_add(s->merger, s->r->members[2].event) == -EOWNERDEAD);
    CHILD_CHECK(ioe_merger_flush(s->merger) == -EOWNERDEAD);
    CHILD_CHECK(ioe_merger_free(s->merger) == -EOWNERDEAD);
    CHILD_CHECK(ioe_event_result(s->r->members[2].event) == IOE_PENDING);
    CHILD_CHECK(ioe_context_free(s->ctx) == 0);
    return 0;
}

static void a_forked_child_has_no_mergers(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    if (!(((const delivery *)*state)->flags & IOE_POLLED))
        return; /* its allocator's locks are as another thread held them */
#endif
    scene s = set_scene(*state, QUEUE);
    add(s.merger, s.r, 0);
    add(s.merger, s.r, 1);
    assert_int_equal(in_child(child_has_no_mergers, &s), 0);
    check_handed_on(&s, 0, 0, 0);
    add(s.merger, s.r, 2);
    ASSERT_CALL(ioe_merger_free(s.merger), 0);
    check_handed_on(&s, 3, 1, 2);
    end_scene(&s);
}

/* An entry for a test of polled contexts alone. */
#define polled_alone(test) {#test ", polled", test, NULL, NULL, (void *)&deliveries[0]}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(merger_joins_up_to_its_limit),
        with_and_without_thread(what_waits_is_joined_up_to_the_limit),
        for_each_delivery(order_does_not_matter),
        for_each_threaded_delivery(what_waits_for_a_slot_is_joined),
        {"what_came_meanwhile_is_joined, driver thread", what_came_meanwhile_is_joined, NULL, NULL,
         (void *)&deliveries[1]},
        with_and_without_thread(info_tells_the_limit),
        for_each_delivery(flush_and_free_hand_on),
        for_each_delivery(a_gap_hands_on),
        for_each_delivery(a_merger_grows_at_both_ends),
        for_each_delivery(an_overlap_hands_on),
        for_each_delivery(what_needs_no_company_goes_at_once),
        for_each_delivery(drain_and_poll_hand_on),
        for_each_delivery(gathering_more_than_there_is_room_for),
        for_each_delivery(who_finds_the_queue_full_flushes),
        for_each_threaded_delivery(threads_gather_for_a_small_queue),
        for_each_threaded_delivery(a_drain_waits_for_nothing_gathered_later),
        for_each_delivery(mergers_inside_callbacks),
        polled_alone(mergers_while_a_context_is_freed),
        for_each_delivery(appended_writes_are_kept_apart),
        for_each_delivery(only_neighbours_are_joined),
        with_and_without_thread(neighbours_have_all_in_common),
        for_each_delivery(direct_members_have_what_they_have_alone),
        for_each_delivery(segments_are_counted_and_joined),
        for_each_delivery(incomplete_members_are_joined_again),
        for_each_delivery(incomplete_direct_members_go_on),
        with_and_without_thread(new_mergers_check_their_arguments),
        for_each_delivery(added_events_are_checked),
        for_each_delivery(bad_descriptors_arrive_in_the_callbacks),
        for_each_delivery(a_context_with_a_merger_is_not_freed),
        polled_alone(a_merger_belongs_to_the_owner),
        polled_alone(a_merger_that_an_owner_left),
        for_each_delivery(a_forked_child_has_no_mergers),
    };
    return RUN_TESTS(tests);
}
