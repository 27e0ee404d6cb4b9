/*
 * What the tests of order, cancels and time limits share: events that note what became of them,
 * threads that wait for one event, slots that are all taken, and callbacks that cannot start.
 */
#ifndef IOE_C_TESTS_NOTES_H
#define IOE_C_TESTS_NOTES_H

#include "operations.h"

enum { BLOCK = 4096, QUEUE = 256, DEPTH = 16 };

/* What writes write. */
static uint8_t memory[64 * BLOCK];

/* ---- events that note what became of them ---- */

typedef struct note {
    ioe_event *event;
    latch *done;
    atomic_uint calls;
    int64_t result;
    uint64_t transferred;
    uint64_t accepted_at, called_at; /* in the order of operations.h */
} note;

static inline void on_note(ioe_event *event, void *arg)
{
    note *n = arg;
    n->result = ioe_event_result(event);
    n->transferred = ioe_event_transferred(event);
    n->called_at = now_in_order();
    atomic_fetch_add(&n->calls, 1);
    latch_hit(n->done);
}

/* On the heap, as everything that a failing test leaves in flight. */
static inline note *new_notes(size_t count, latch *done)
{
    note *notes = calloc(count, sizeof *notes);
    assert_non_null(notes);
    for (size_t i = 0; i < count; i++) {
        notes[i].event = new_event();
        notes[i].done = done;
        notes[i].result = IOE_PENDING;
        assert_int_equal(ioe_event_set_callback(notes[i].event, on_note, &notes[i]), 0);
    }
    return notes;
}

static inline void free_notes(note *notes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ioe_event_free(notes[i].event), 0);
    free(notes);
}

static inline void check_note(const note *n, int64_t result)
{
    assert_int_equal(atomic_load(&n->calls), 1);
    assert_int_equal(n->result, result);
}

static inline void prepare_sync(ioe_event *event, int fd, int action)
{
    assert_int_equal(action == IOE_FSYNC ? ioe_prep_fsync(event, fd) : ioe_prep_fdatasync(event, fd), 0);
}

static inline void submit_sync(ioe_context *ctx, note *n, int fd, int action)
{
    prepare_sync(n->event, fd, action);
    ASSERT_CALL(ioe_submit(ctx, n->event), 0);
}

static inline void submit_barrier(ioe_context *ctx, note *n, int fd, int action)
{
    prepare_sync(n->event, fd, action);
    ASSERT_CALL(ioe_event_set_flags(n->event, IOE_BARRIER), 0);
    ASSERT_CALL(ioe_submit(ctx, n->event), 0);
}

static inline void prepare_write(note *n, int fd, uint64_t block, size_t blocks)
{
    assert_int_equal(ioe_prep_write(n->event, fd, memory, blocks * BLOCK, block * BLOCK), 0);
}

static inline void submit_write(ioe_context *ctx, note *n, int fd, uint64_t block)
{
    prepare_write(n, fd, block, 1);
    ASSERT_CALL(ioe_submit(ctx, n->event), 0);
}

/* ---- threads that wait for one event ---- */

typedef struct waiter {
    ioe_context *ctx;
    ioe_event *event;
    latch begun;
    pid_t tid;
    int64_t result;
    pthread_t thread;
} waiter;

static inline void *submit_and_wait(void *arg)
{
    waiter *w = arg;
    w->tid = gettid();
    latch_hit(&w->begun);
    w->result = ioe_submit_wait(w->ctx, w->event);
    return NULL;
}

/* The event is prepared. */
static inline waiter *start_waiter(ioe_context *ctx, ioe_event *event)
{
    waiter *w = calloc(1, sizeof *w);
    assert_non_null(w);
    *w = (waiter){.ctx = ctx, .event = event, .begun = LATCH_INIT, .result = IOE_PENDING};
    w->thread = start_thread(submit_and_wait, w);
    latch_wait(&w->begun, 1);
    return w;
}

static inline void end_waiter(waiter *w, int64_t result)
{
    join_thread(w->thread);
    assert_int_equal(w->result, result);
    assert_int_equal(ioe_event_free(w->event), 0);
    free(w);
}

static inline void await_latch(ioe_context *ctx, const delivery *how, latch *l, unsigned long target)
{
    while ((how->flags & IOE_POLLED) && latch_count(l) < target) {
        assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
    latch_wait(l, target);
}

/* ---- a context and two files whose operations are watched ---- */

typedef struct scene {
    const delivery *how;
    ioe_context *ctx;
    int fd, other;
    latch done;
    ioe_stats before;
} scene;

static inline ioe_context *new_context_with(const delivery *how, uint32_t depth, uint32_t queue_size,
                                     uint32_t flags)
{
    const delivery with = {how->name, how->flags | flags, how->workers};
    return new_merging_context(&with, depth, queue_size, 0);
}

static inline scene *set_scene(const delivery *how, uint32_t depth, uint32_t queue_size, uint32_t flags)
{
    scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    *s = (scene){.how = how, .fd = temp_file(IN_MEMORY), .other = temp_file(IN_MEMORY),
                 .done = LATCH_INIT};
    s->ctx = new_context_with(how, depth, queue_size, flags);
    watch_operations((int[]){s->fd, s->other}, 2);
    s->before = get_stats(s->ctx);
    return s;
}

static inline void leave_scene(scene *s)
{
    ASSERT_CALL(ioe_context_free(s->ctx), 0);
    stop_watching_operations();
    close(s->fd);
    close(s->other);
    free(s);
}

/* ---- the page cache ---- */

/* Which of the file's pages are in memory. */
static inline size_t count_cached(int fd, uint64_t offset, size_t len)
{
    unsigned char present[64];
    size_t count = 0;
    void *at = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    assert_true(at != MAP_FAILED && len <= sizeof present * BLOCK);
    assert_int_equal(mincore(at, len, present), 0);
    for (size_t i = 0; i < (len + BLOCK - 1) / BLOCK; i++)
        count += present[i] & 1;
    munmap(at, len);
    return count;
}

/* Skips the test where pages stay. */
static inline void drop_from_cache(int fd, size_t len)
{
    const int own = open_again(fd, O_RDWR);
    assert_true(own >= 0);
    for (int i = 0; i < 100 && count_cached(own, 0, len) > 0; i++) {
        assert_int_equal(syscall(SYS_fsync, own), 0);
        assert_int_equal(posix_fadvise(own, 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    const size_t cached = count_cached(own, 0, len);
    close(own);
    if (cached > 0) {
        printf("# pages cannot be dropped from the cache here\n");
        skip();
    }
}

static inline void fill_file(int fd, size_t len)
{
    uint8_t *bytes = malloc(len);
    const int own = open_again(fd, O_RDWR);
    assert_true(bytes != NULL && own >= 0);
    pattern_fill(bytes, len, 2, 0);
    assert_int_equal(pwrite(own, bytes, len, 0), len);
    close(own);
    free(bytes);
}

/* ---- slots that are all taken ---- */

typedef struct slots {
    ioe_context *ctx;
    const delivery *how;
    size_t count;
    latch done;
    stuck_read reads[];
} slots;

/* Submits one, and returns when the kernel has it: by a ring, or in a plain call. */
static inline void submit_stuck(ioe_context *ctx, const delivery *how, const stuck_read *s)
{
    const bool by_ring = tested_driver == IOE_DRIVER_URING;
    const unsigned before = atomic_load(&plain_calls[IOE_READ]);
    if (by_ring)
        watch_one_more(s->ends[0]);
    ASSERT_CALL(ioe_submit(ctx, s->event), 0);
    do {
        if (how->flags & IOE_POLLED)
            assert_int_equal(ioe_poll(ctx, 0, 0), 0);
        sched_yield();
    } while (by_ring ? count_operations(s->ends[0], IOE_READ) == 0
                     : atomic_load(&plain_calls[IOE_READ]) == before);
}

/* As many as the depth of the reactor that the calling thread has. */
static inline void *fill_slots_of_one(void *arg)
{
    slots *s = arg;
    for (size_t depth = get_info(s->ctx).depth; depth > 0; depth--) {
        submit_stuck(s->ctx, s->how, &s->reads[s->count]);
        s->count++;
    }
    return NULL;
}

/* Of all reactors: threads that come one after the other have one after the other. */
static inline slots *fill_slots(ioe_context *ctx, const delivery *how)
{
    const size_t reactors = get_info(ctx).reactors;
    const size_t count = reactors * get_info(ctx).depth;
    slots *s = calloc(1, sizeof *s + count * sizeof *s->reads);
    assert_non_null(s);
    *s = (slots){.ctx = ctx, .how = how, .done = LATCH_INIT};
    for (size_t i = 0; i < count; i++)
        stuck_prepare(&s->reads[i], hit_latch, &s->done);
    if (reactors == 1)
        fill_slots_of_one(s);
    else
        for (size_t i = 0; i < reactors; i++)
            join_thread(start_thread(fill_slots_of_one, s));
    return s;
}

static inline void free_slots(slots *s)
{
    for (size_t i = 0; i < s->count; i++)
        assert_true(stuck_let_go(&s->reads[i]));
    await_latch(s->ctx, s->how, &s->done, s->count);
    for (size_t i = 0; i < s->count; i++) {
        assert_int_equal(ioe_event_result(s->reads[i].event), sizeof(uint64_t));
        assert_int_equal(s->reads[i].word, 1);
        stuck_free(&s->reads[i]);
    }
    free(s);
}

/* ---- callbacks that cannot start ---- */

typedef struct blockers {
    gate gate;
    size_t count;
    ioe_event *events[4];
} blockers;

/* Each worker is caught in a callback. */
static inline blockers *block_callbacks(ioe_context *ctx, const delivery *how, int fd)
{
    blockers *b = calloc(1, sizeof *b);
    assert_non_null(b);
    *b = (blockers){.gate = GATE_INIT, .count = how->workers};
    for (size_t i = 0; i < b->count; i++) {
        b->events[i] = new_event();
        assert_int_equal(ioe_prep_write(b->events[i], fd, memory, 1, i), 0);
        assert_int_equal(ioe_event_set_callback(b->events[i], hold_at_gate, &b->gate), 0);
        ASSERT_CALL(ioe_submit(ctx, b->events[i]), 0);
        latch_wait(&b->gate.entered, i + 1);
    }
    return b;
}

static inline void unblock_callbacks(ioe_context *ctx, blockers *b)
{
    latch_hit(&b->gate.opened);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    for (size_t i = 0; i < b->count; i++)
        assert_int_equal(ioe_event_free(b->events[i]), 0);
    free(b);
}

/* Where callbacks have threads of their own, which can be busy. */
#define for_each_worker_delivery(test)                                                             \
    {#test ", one worker", test, NULL, NULL, (void *)&deliveries[2]},                              \
    {#test ", four workers", test, NULL, NULL, (void *)&deliveries[3]}

/* For what only the owner of a polled context can do. */
#define polled_only(test)                                                                          \
    {#test, test, NULL, NULL, (void *)&deliveries[0]}

/* Returns when the thread has gone to sleep. */
static inline void await_sleep(pid_t tid)
{
    task sleeper;
    do
        sched_yield();
    while (read_task(tid, &sleeper) && sleeper.run_state != 'S');
}

#endif
