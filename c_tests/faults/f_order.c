/*
 * Promise: a sync with IOE_BARRIER begins at the device after the end of all writes that were accepted
 * before it, wherever they are, and tells of nothing that is not safe; it holds up nobody else, and
 * where such a write fails it asks for nothing and has that error. A sync without it overtakes them.
 *
 * See held.h. IOE_TEST_NBD_DEVICE is a block device of at least 16 MiB with slow writes, and
 * IOE_TEST_NBD_LOG what nbdkit's log filter notes of it.
 */
#include "held.h"
#include "members.h"

enum { PAGE = 4096, LIMIT = 65536, DEPTH = 32 };

/* ---- writes that the device holds ---- */

typedef struct plea {
    ioe_event *event;
    latch done;
} plea;

static plea *submit_sync(ioe_context *ctx, int fd, uint32_t flags)
{
    plea *p = calloc(1, sizeof *p);
    assert_non_null(p);
    *p = (plea){new_event(), LATCH_INIT};
    assert_int_equal(ioe_prep_fdatasync(p->event, fd), 0);
    assert_int_equal(ioe_event_set_flags(p->event, flags), 0);
    assert_int_equal(ioe_event_set_callback(p->event, hit_latch, &p->done), 0);
    assert_int_equal(ioe_submit(ctx, p->event), 0);
    return p;
}

static int64_t end_sync(ioe_context *ctx, const way *w, plea *p)
{
    await(ctx, w->how, &p->done, 1);
    int64_t result = ioe_event_result(p->event);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&p->done), 1);
    assert_int_equal(ioe_event_free(p->event), 0);
    free(p);
    return result;
}

typedef struct waiting {
    ioe_context *ctx;
    ioe_event *event;
} waiting;

static void *wait_for_event(void *arg)
{
    const waiting *one = arg;
    ioe_submit_wait(one->ctx, one->event);
    return NULL;
}

/* A buffered write is held by the page that it changes a part of: that has to be read. */
static void check_barrier(const way *w, int flags, manner how, bool by_waiting, bool bad)
{
    size_t count = by_waiting ? 1 : 3, len = flags & O_DIRECT ? PAGE : 100;
    uint64_t from = held_at() + (flags & O_DIRECT ? 0 : 100);
    ioe_merger *merger = NULL;
    pthread_t thread;
    hold_nothing();
    int fd = open_held_device(flags), other = open_held_device(flags);
    ioe_context *ctx = new_merging_context_in(w, DEPTH, DEPTH, how == BATCH ? LIMIT : 0);
    members *m = new_members(count, len, true), *later = new_members(1, PAGE, false);
    fill_members(m, (uint64_t)(w - ways), from);
    prepare_members(m, IOE_WRITE, fd, from);
    prepare_members(later, IOE_WRITE, fd, 0);
    waiting one = {ctx, m->each[0].event};
    uint64_t since = log_time(held_log());
    tell_held(HOLD, true);
    tell_held(BAD, bad);

    if (by_waiting) {
        thread = start_thread(wait_for_event, &one);
        await_held(ctx, w, since, "RW", 1);
    } else if (how == MERGER) {
        /* Nobody but the barrier flushes it. */
        assert_int_equal(ioe_merger_new(ctx, fd, IOE_WRITE, LIMIT, &merger), 0);
        for (m->handed = 0; m->handed < count; m->handed++)
            assert_int_equal(ioe_merger_add(merger, m->each[m->handed].event), 0);
    } else {
        hand_over(ctx, w, m, how, LIMIT);
    }
    plea *barrier = submit_sync(ctx, fd, IOE_BARRIER);
    await_held(ctx, w, since, "RW", 1);
    plea *overtaking = submit_sync(ctx, other, 0);
    hand_over(ctx, w, later, SINGLES, 0);
    await(ctx, w->how, &later->done, 1);
    await(ctx, w->how, &overtaking->done, 1);
    assert_int_equal(ioe_event_result(overtaking->event), 0);
    assert_int_equal(ioe_event_result(later->each[0].event), PAGE);
    assert_int_equal(latch_count(&m->done), 0);
    assert_int_equal(latch_count(&barrier->done), 0);
    assert_int_equal(count_held(since, "F"), 1);

    tell_held(HOLD, false);
    if (by_waiting)
        join_thread(thread);
    assert_int_equal(end_sync(ctx, w, barrier), bad ? -EIO : 0);
    assert_int_equal(count_held(since, "F"), bad ? 1 : 2);
    if (!bad) {
        request_log log = read_log(held_log(), since);
        assert_true(is_safe(&log, held_at(), from + count * len, UINT64_MAX));
        free_log(&log);
    }
    assert_int_equal(end_sync(ctx, w, overtaking), 0);
    if (!by_waiting)
        await_members(ctx, w, m);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ioe_event_result(m->each[i].event), bad ? -EIO : (int64_t)len);
    if (merger != NULL)
        assert_int_equal(ioe_merger_free(merger), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    hold_nothing();
    free_members(m);
    free_members(later);
    close(fd);
    close(other);
}

static void barrier_waits_for_held_writes(void **state)
{
    static const manner manners_here[] = {SINGLES, BATCH, MERGER};
    const way *w = *state;
    for (int bad = 0; bad < 2; bad++)
        for (int direct = 0; direct < 2; direct++) {
            for (size_t i = 0; i < COUNT_OF(manners_here); i++)
                check_barrier(w, direct ? O_DIRECT : 0, manners_here[i], false, bad);
            if (!(w->how->flags & IOE_POLLED))
                check_barrier(w, direct ? O_DIRECT : 0, SINGLES, true, bad);
        }
}

/* ---- many writes and many syncs, from several threads ---- */

enum {
    THREADS = 3,
    ROUNDS = 6,
    WRITES = 5, /* in a round, before its sync */
    OF_THREAD = ROUNDS * WRITES,
    SYNCS = THREADS * ROUNDS,
};

struct crowd;

/* What it covers is what submit calls had returned for before its own. */
typedef struct covering {
    ioe_event *event;
    struct crowd *all;
    unsigned covered[THREADS];
    uint64_t told; /* the time of its callback */
} covering;

/* Each thread writes its own pages, in turn. */
typedef struct crowd {
    ioe_context *ctx;
    int fd;
    manner how;
    unsigned threads;
    uint8_t *memory;
    ioe_event *writes[THREADS * OF_THREAD];
    covering syncs[SYNCS];
    unsigned submitted[THREADS];
    unsigned begun, refused; /* threads, submissions */
    latch done;
} crowd;

static void on_sync(ioe_event *event, void *arg)
{
    covering *sync = arg;
    (void)event;
    sync->told = log_time(getenv("IOE_TEST_NBD_LOG"));
    latch_hit(&sync->all->done);
}

static void submit_round(crowd *c, unsigned me, unsigned round, ioe_merger *merger)
{
    ioe_event **events = &c->writes[me * OF_THREAD + round * WRITES];
    covering *sync = &c->syncs[me * ROUNDS + round];
    unsigned refused = 0;
    if (c->how == BATCH)
        refused += ioe_submit_batch(c->ctx, events, WRITES) != WRITES;
    for (size_t i = 0; i < WRITES && c->how != BATCH; i++)
        refused += (merger != NULL ? ioe_merger_add(merger, events[i]) : ioe_submit(c->ctx, events[i])) != 0;
    __atomic_store_n(&c->submitted[me], (round + 1) * WRITES, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < c->threads; i++)
        sync->covered[i] = __atomic_load_n(&c->submitted[i], __ATOMIC_SEQ_CST);
    refused += ioe_submit(c->ctx, sync->event) != 0;
    __atomic_fetch_add(&c->refused, refused, __ATOMIC_SEQ_CST);
}

static void *submit_rounds(void *arg)
{
    crowd *c = arg;
    unsigned me = __atomic_fetch_add(&c->begun, 1, __ATOMIC_SEQ_CST);
    ioe_merger *merger = NULL;
    unsigned refused = c->how == MERGER && ioe_merger_new(c->ctx, c->fd, IOE_WRITE, LIMIT, &merger) != 0;
    for (unsigned round = 0; round < ROUNDS && refused == 0; round++)
        submit_round(c, me, round, merger);
    refused += merger != NULL && ioe_merger_free(merger) != 0;
    __atomic_fetch_add(&c->refused, refused, __ATOMIC_SEQ_CST);
    return NULL;
}

/* The value is how many syncs told of a page that was not safe. */
static size_t count_untrue(const way *w, int flags, manner how, uint32_t sync_flags)
{
    const char *path = setting("IOE_TEST_NBD_LOG");
    crowd *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->fd = open_device(setting("IOE_TEST_NBD_DEVICE"), flags);
    c->how = how;
    c->threads = w->how->flags & IOE_POLLED ? 1 : THREADS;
    c->done = (latch)LATCH_INIT;
    c->memory = ioe_buffer_alloc((size_t)THREADS * OF_THREAD * PAGE, 0);
    assert_non_null(c->memory);
    size_t writes = c->threads * OF_THREAD, syncs = c->threads * ROUNDS;
    c->ctx = new_merging_context_in(w, DEPTH, THREADS * (OF_THREAD + ROUNDS), how == BATCH ? LIMIT : 0);
    for (size_t i = 0; i < writes; i++) {
        c->writes[i] = new_event();
        assert_int_equal(ioe_prep_write(c->writes[i], c->fd, c->memory + i * PAGE, PAGE, i * PAGE), 0);
        assert_int_equal(ioe_event_set_callback(c->writes[i], hit_latch, &c->done), 0);
    }
    for (size_t i = 0; i < syncs; i++) {
        covering *sync = &c->syncs[i];
        sync->all = c;
        sync->event = new_event();
        assert_int_equal(i % 2 ? ioe_prep_fsync(sync->event, c->fd)
                               : ioe_prep_fdatasync(sync->event, c->fd), 0);
        assert_int_equal(ioe_event_set_flags(sync->event, sync_flags), 0);
        assert_int_equal(ioe_event_set_callback(sync->event, on_sync, sync), 0);
    }

    uint64_t since = log_time(path);
    pthread_t threads[THREADS];
    for (unsigned i = 1; i < c->threads; i++)
        threads[i] = start_thread(submit_rounds, c);
    submit_rounds(c);
    for (unsigned i = 1; i < c->threads; i++)
        join_thread(threads[i]);
    assert_int_equal(c->refused, 0);
    await(c->ctx, w->how, &c->done, writes + syncs);
    assert_int_equal(ioe_drain(c->ctx, -1), 0);
    assert_int_equal(latch_count(&c->done), writes + syncs);

    size_t untrue = 0;
    request_log log = read_log(path, since);
    for (size_t i = 0; i < syncs; i++) {
        bool safe = true;
        assert_int_equal(ioe_event_result(c->syncs[i].event), 0);
        for (uint64_t t = 0; t < c->threads; t++) {
            uint64_t from = t * OF_THREAD * PAGE;
            safe = safe && is_safe(&log, from, from + c->syncs[i].covered[t] * PAGE, c->syncs[i].told);
        }
        untrue += !safe;
        assert_int_equal(ioe_event_free(c->syncs[i].event), 0);
    }
    free_log(&log);
    for (size_t i = 0; i < writes; i++) {
        assert_int_equal(ioe_event_result(c->writes[i]), PAGE);
        assert_int_equal(ioe_event_free(c->writes[i]), 0);
    }
    assert_int_equal(ioe_context_free(c->ctx), 0);
    assert_int_equal(fsync(c->fd), 0);
    close(c->fd);
    ioe_buffer_free(c->memory);
    free(c);
    return untrue;
}

static void barriers_tell_the_truth(void **state)
{
    static const manner manners_here[] = {SINGLES, BATCH, MERGER};
    for (size_t i = 0; i < COUNT_OF(manners_here); i++) {
        assert_int_equal(count_untrue(*state, O_DIRECT, manners_here[i], IOE_BARRIER), 0);
        assert_int_equal(count_untrue(*state, 0, manners_here[i], IOE_BARRIER), 0);
    }
    /* There is something to see: without it, they do not. */
    size_t untrue = 0;
    for (int tries = 0; tries < 20 && untrue == 0; tries++)
        untrue = count_untrue(*state, O_DIRECT, SINGLES, 0);
    assert_int_not_equal(untrue, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(barrier_waits_for_held_writes),
        for_each_way(barriers_tell_the_truth),
    };
    return RUN_TESTS(tests);
}
