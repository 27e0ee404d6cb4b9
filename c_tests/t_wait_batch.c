/*
 * Promise: ioe_submit_wait_batch hands its events over together and returns when all that it accepted
 * are done, each with its own result; it needs neither callbacks nor room nor a callback thread.
 * Until it returns they are in flight. What it refuses, and what comes behind, is as it was.
 */
#include "merging.h"
#include "notes.h"

enum { MOST = 5000, SEED = 2 };

/* Events whose callbacks are not to be called; every other one has none. */
typedef struct batch {
    size_t count;
    ioe_event **events;
    uint8_t *bytes;
    latch called;
} batch;

static batch *new_batch(size_t count)
{
    batch *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->count = count;
    b->called = (latch)LATCH_INIT;
    b->events = calloc(count + 1, sizeof *b->events);
    b->bytes = ioe_buffer_alloc((count + 1) * BLOCK, 0);
    assert_true(b->events != NULL && b->bytes != NULL);
    for (size_t i = 0; i < count; i++) {
        b->events[i] = new_event();
        if (i % 2 == 0)
            assert_int_equal(ioe_event_set_callback(b->events[i], hit_latch, &b->called), 0);
    }
    return b;
}

static void free_batch(batch *b)
{
    assert_int_equal(latch_count(&b->called), 0);
    for (size_t i = 0; i < b->count; i++)
        ASSERT_CALL(ioe_event_free(b->events[i]), 0);
    ioe_buffer_free(b->bytes);
    free(b->events);
    free(b);
}

static void prepare_read_of(batch *b, size_t i, int fd)
{
    memset(b->bytes + i * BLOCK, 0, BLOCK);
    assert_int_equal(ioe_prep_read(b->events[i], fd, b->bytes + i * BLOCK, BLOCK, i * BLOCK), 0);
}

static void prepare_write_of(batch *b, size_t i, int fd)
{
    assert_int_equal(ioe_prep_write(b->events[i], fd, b->bytes + i * BLOCK, BLOCK, i * BLOCK), 0);
}

static void check_read_of(const batch *b, size_t i)
{
    assert_int_equal(ioe_event_result(b->events[i]), BLOCK);
    assert_true(pattern_holds(b->bytes + i * BLOCK, BLOCK, SEED, i * BLOCK));
}

/* ---- results ---- */

static void every_number_of_events(void **state)
{
    static const size_t counts[] = {0, 1, 2, 3, 33, MOST};
    const delivery *how = *state;
    const int fd = temp_file(ON_DISK), direct = open_direct(fd);
    fill_file(fd, MOST * BLOCK);
    ioe_context *ctx = new_context(how, 8, 4);
    batch *b = new_batch(MOST);
    for (size_t c = 0; c < COUNT_OF(counts); c++) {
        const size_t count = counts[c];
        const ioe_stats before = get_stats(ctx);
        for (size_t i = 0; i < count; i++)
            prepare_read_of(b, i, c % 2 == 0 ? fd : direct);
        ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events, count), count);
        for (size_t i = 0; i < count; i++)
            check_read_of(b, i);
        const ioe_stats after = get_stats(ctx);
        assert_int_equal(after.accepted - before.accepted, count);
        assert_int_equal(after.completed - before.completed, count);
        assert_int_equal(after.bytes_read - before.bytes_read, count * BLOCK);
        assert_int_equal(after.in_flight, 0);
    }
    /* They are whole. */
    ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events, 2), -EINVAL);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(direct);
    close(fd);
}

/* Submitted as usual afterwards, an event has its callback again. */
static void callbacks_come_back(void **state)
{
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    fill_file(fd, 2 * BLOCK);
    ioe_context *ctx = new_context(how, 8, 4);
    batch *b = new_batch(2);
    for (size_t i = 0; i < 2; i++)
        prepare_read_of(b, i, fd);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events, 2), 2);
    for (size_t i = 0; i < 2; i++) {
        prepare_read_of(b, i, fd);
        assert_int_equal(run_event(ctx, how, b->events[i]), BLOCK);
    }
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

static void each_has_its_own_result(void **state)
{
    enum { WHOLE_ONE, SHORT, BEHIND, BAD, WRITTEN, SYNCED, LAST, COUNT };
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY), other = temp_file(IN_MEMORY);
    fill_file(fd, (LAST + 1) * BLOCK);
    assert_int_equal(ftruncate(fd, SHORT * BLOCK + 100), 0);
    ioe_context *ctx = new_context(how, 8, 4);
    batch *b = new_batch(COUNT);
    prepare_read_of(b, WHOLE_ONE, fd);
    prepare_read_of(b, SHORT, fd);
    prepare_read_of(b, BEHIND, fd);
    prepare_read_of(b, BAD, -1);
    prepare_write_of(b, WRITTEN, other);
    prepare_sync(b->events[SYNCED], fd, IOE_FDATASYNC);
    assert_int_equal(ioe_prep_read(b->events[LAST], fd, b->bytes + LAST * BLOCK, 100, 50), 0);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events, COUNT), COUNT);
    check_read_of(b, WHOLE_ONE);
    assert_int_equal(ioe_event_result(b->events[SHORT]), 100);
    assert_int_equal(ioe_event_result(b->events[BEHIND]), 0);
    assert_int_equal(ioe_event_result(b->events[BAD]), -EBADF);
    assert_int_equal(ioe_event_result(b->events[WRITTEN]), BLOCK);
    assert_int_equal(ioe_event_result(b->events[SYNCED]), 0);
    assert_int_equal(ioe_event_result(b->events[LAST]), 100);
    assert_true(pattern_holds(b->bytes + LAST * BLOCK, 100, SEED, 50));
    assert_int_equal(get_stats(ctx).failed, 1);
    /* What ended early goes on where it stopped. */
    fill_file(fd, (LAST + 1) * BLOCK);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events + SHORT, 2), 2);
    check_read_of(b, SHORT);
    check_read_of(b, BEHIND);
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(other);
    close(fd);
}

/* ---- what is refused ---- */

static void stops_at_the_first_refused(void **state)
{
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    fill_file(fd, 8 * BLOCK);
    ioe_context *ctx = new_context(how, 8, 8);
    batch *b = new_batch(4);
    ioe_event *unprepared = new_event();
    gate g = GATE_INIT;
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, &g.entered);
    submit_stuck(ctx, how, &stuck);
    ioe_event *refused[] = {NULL, unprepared, stuck.event};
    const int errnos[] = {-EINVAL, -EINVAL, -EBUSY};
    for (size_t r = 0; r < COUNT_OF(refused); r++) {
        for (size_t at = 0; at < 3; at++) {
            ioe_event *list[] = {b->events[0], b->events[1], b->events[2], b->events[3]};
            for (size_t i = 0; i < 4; i++)
                prepare_read_of(b, i, fd);
            list[at] = refused[r];
            ASSERT_CALL(ioe_submit_wait_batch(ctx, list, 4), at == 0 ? errnos[r] : (int)at);
            for (size_t i = 0; i < at; i++)
                check_read_of(b, i);
            for (size_t i = at; i < 4; i++)
                assert_int_equal(ioe_event_result(b->events[i]), IOE_PENDING);
            if (at == 0)
                ASSERT_CALL(ioe_submit_wait_batch(ctx, list, 1), errnos[r]);
        }
    }
    /* One that comes again is in flight by then. */
    for (size_t i = 0; i < 4; i++)
        prepare_read_of(b, i, fd);
    ioe_event *twice[] = {b->events[0], b->events[1], b->events[0], b->events[2]};
    ASSERT_CALL(ioe_submit_wait_batch(ctx, twice, 4), 2);
    check_read_of(b, 0);
    check_read_of(b, 1);
    assert_int_equal(ioe_event_result(b->events[2]), IOE_PENDING);
    assert_true(stuck_let_go(&stuck));
    await(ctx, how, &g.entered, 1);
    stuck_free(&stuck);
    ASSERT_CALL(ioe_event_free(unprepared), 0);
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

static void nothing_of_nothing(void **state)
{
    ioe_context *ctx = new_context(*state, 8, 8);
    ioe_event *none[2] = {NULL, NULL};
    ASSERT_CALL(ioe_submit_wait_batch(NULL, NULL, 2), -EINVAL);
    ASSERT_CALL(ioe_submit_wait_batch(NULL, none, 2), -EINVAL);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, NULL, 2), -EINVAL);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, none, 1), -EINVAL);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, none, 2), -EINVAL);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, none, SIZE_MAX), -EINVAL);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, none, 0), 0);
    assert_int_equal(get_stats(ctx).accepted, 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

/* ---- together ---- */

static void neighbours_are_merged(void **state)
{
    enum { COUNT = 32 };
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    fill_file(fd, COUNT * BLOCK);
    ioe_context *ctx = new_merging_context(how, 8, 4, COUNT * BLOCK);
    batch *b = new_batch(COUNT);
    ioe_event *backwards[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        prepare_read_of(b, i, fd);
        backwards[COUNT - 1 - i] = b->events[i];
    }
    ASSERT_CALL(ioe_submit_wait_batch(ctx, backwards, COUNT), COUNT);
    for (size_t i = 0; i < COUNT; i++)
        check_read_of(b, i);
    assert_int_equal(get_stats(ctx).merged, COUNT - 1);
    assert_int_equal(get_stats(ctx).operations, 1);
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* The kernel has all of them before any is done. */
static void all_are_under_way_at_once(void **state)
{
    enum { COUNT = 8 };
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, COUNT, COUNT);
    int ends[COUNT][2];
    uint64_t words[COUNT];
    ioe_event *events[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(pipe2(ends[i], O_CLOEXEC), 0);
        events[i] = new_event();
        assert_int_equal(ioe_prep_read(events[i], ends[i][0], &words[i], sizeof words[i], 0), 0);
    }
    const pid_t child = fork();
    if (child == 0) {
        /* The last one first. */
        for (size_t i = COUNT; i-- > 0;)
            if (write(ends[i][1], &(uint64_t){i}, sizeof(uint64_t)) != sizeof(uint64_t))
                _exit(1);
        _exit(0);
    }
    ASSERT_CALL(ioe_submit_wait_batch(ctx, events, COUNT), COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(ioe_event_result(events[i]), sizeof words[i]);
        assert_int_equal(words[i], i);
        ASSERT_CALL(ioe_event_free(events[i]), 0);
        close(ends[i][0]);
        close(ends[i][1]);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

static void barrier_is_behind_what_is_before_it(void **state)
{
    enum { WRITES_BEFORE = 4, BARRIER = WRITES_BEFORE, COUNT };
    const delivery *how = *state;
    for (int failing = 0; failing < 2; failing++) {
        scene *s = set_scene(how, DEPTH, 4, 0);
        batch *b = new_batch(COUNT);
        for (size_t i = 0; i < WRITES_BEFORE; i++)
            prepare_write_of(b, i, s->fd);
        prepare_sync(b->events[BARRIER], s->fd, IOE_FDATASYNC);
        ASSERT_CALL(ioe_event_set_flags(b->events[BARRIER], IOE_BARRIER), 0);
        if (failing)
            fail_next(s->fd, IOE_WRITE, 1, EDQUOT);
        ASSERT_CALL(ioe_submit_wait_batch(s->ctx, b->events, COUNT), COUNT);
        size_t failed = 0;
        for (size_t i = 0; i < WRITES_BEFORE; i++)
            failed += ioe_event_result(b->events[i]) == -EDQUOT;
        assert_int_equal(failed, failing);
        assert_int_equal(ioe_event_result(b->events[BARRIER]), failing ? -EDQUOT : 0);
        assert_int_equal(count_syncs(s->fd), !failing);
        const uint64_t begun = find_operation(s->fd, SYNCS, 0).begun;
        for (size_t i = 0; i < WRITES_BEFORE && !failing; i++)
            assert_true(find_operation(s->fd, WRITES, i).ended < begun);
        free_batch(b);
        leave_scene(s);
    }
}

/* Also what a merger holds back. */
static void barrier_is_behind_what_was_gathered(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, DEPTH, 4, 0);
    ioe_merger *merger = NULL;
    ASSERT_CALL(ioe_merger_new(s->ctx, s->fd, IOE_WRITE, 1 << 16, &merger), 0);
    note *gathered = new_notes(1, &s->done);
    prepare_write(gathered, s->fd, 0, 1);
    ASSERT_CALL(ioe_merger_add(merger, gathered->event), 0);
    batch *b = new_batch(2);
    prepare_write_of(b, 0, s->other);
    prepare_sync(b->events[1], s->fd, IOE_FDATASYNC);
    ASSERT_CALL(ioe_event_set_flags(b->events[1], IOE_BARRIER), 0);
    ASSERT_CALL(ioe_submit_wait_batch(s->ctx, b->events, 2), 2);
    assert_int_equal(count_operations(s->fd, IOE_WRITE), 1);
    assert_true(find_operation(s->fd, WRITES, 0).ended < find_operation(s->fd, SYNCS, 0).begun);
    ASSERT_CALL(ioe_merger_free(merger), 0);
    await(s->ctx, how, &s->done, 1);
    check_note(gathered, BLOCK);
    free_notes(gathered, 1);
    free_batch(b);
    leave_scene(s);
}

/* ---- while it waits ---- */

typedef struct helper {
    ioe_context *ctx;
    ioe_event *cancelled, *timed, *other;
    uint64_t id;
    slots *taken;
    bool other_done;
    int freed, prepared, submitted;
} helper;

/* Ends two of the events, looks at them, and lets the others go on. */
static void *end_two(void *arg)
{
    helper *h = arg;
    while (ioe_cancel(h->ctx, h->id) != 0)
        sched_yield();
    while (!ioe_event_is_done(h->cancelled) || !ioe_event_is_done(h->timed))
        sched_yield();
    h->other_done = ioe_event_is_done(h->other);
    h->freed = ioe_event_free(h->cancelled);
    h->prepared = ioe_prep_fsync(h->timed, -1);
    h->submitted = ioe_submit_wait_batch(h->ctx, &h->cancelled, 1);
    for (size_t i = 0; i < h->taken->count; i++)
        stuck_let_go(&h->taken->reads[i]);
    return NULL;
}

static void some_end_early(void **state)
{
    enum { COUNT = 4, CANCELLED = 1, TIMED = 2, OTHER = 3 };
    const delivery *how = *state;
    scene *s = set_scene(how, 2, 4, 0);
    slots *taken = fill_slots(s->ctx, how);
    batch *b = new_batch(COUNT);
    for (size_t i = 0; i < COUNT; i++)
        prepare_write_of(b, i, s->fd);
    ASSERT_CALL(ioe_event_set_timeout(b->events[TIMED], 1000000), 0);
    helper h = {.ctx = s->ctx, .cancelled = b->events[CANCELLED], .timed = b->events[TIMED],
                .other = b->events[OTHER], .id = ioe_event_id(b->events[CANCELLED]), .taken = taken};
    const pthread_t thread = start_thread(end_two, &h);
    ASSERT_CALL(ioe_submit_wait_batch(s->ctx, b->events, COUNT), COUNT);
    join_thread(thread);
    assert_false(h.other_done);
    /* Done, but in flight until the call returned; nobody else owns a polled context. */
    assert_int_equal(h.freed, -EBUSY);
    assert_int_equal(h.prepared, -EBUSY);
    assert_int_equal(h.submitted, how->flags & IOE_POLLED ? -EPERM : -EBUSY);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(ioe_event_result(b->events[i]), i == CANCELLED ? -ECANCELED
                                                         : i == TIMED   ? -ETIMEDOUT
                                                                        : BLOCK);
    free_slots(taken);
    free_batch(b);
    leave_scene(s);
}

/* It waits for no callback: what it waits for may be what one waits for. */
static void callback_threads_may_be_busy(void **state)
{
    enum { COUNT = 8 };
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    fill_file(fd, COUNT * BLOCK);
    ioe_context *ctx = new_context(how, 8, 4);
    blockers *blocked = block_callbacks(ctx, how, fd);
    /* No room is left either. */
    latch done = LATCH_INIT;
    note *notes = new_notes(4, &done);
    for (size_t i = 0; i < 4; i++)
        submit_write(ctx, &notes[i], fd, COUNT);
    batch *b = new_batch(COUNT);
    for (size_t i = 1; i < COUNT; i++)
        prepare_read_of(b, i, fd);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events + 1, COUNT - 1), COUNT - 1);
    for (size_t i = 1; i < COUNT; i++)
        check_read_of(b, i);
    assert_int_equal(latch_count(&done), 0);
    unblock_callbacks(ctx, blocked);
    latch_wait(&done, 4);
    free_notes(notes, 4);
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

typedef struct caller {
    ioe_context *ctx;
    batch *batch;
    int answer;
} caller;

static void *call_it(void *arg)
{
    caller *c = arg;
    c->answer = ioe_submit_wait_batch(c->ctx, c->batch->events, c->batch->count);
    return NULL;
}

/* Who is inside when the context is freed is answered: what was accepted is done, the rest as it was. */
static void freed_meanwhile(void **state)
{
    const delivery *how = *state;
    const unsigned long rounds = scaled_contexts(60);
    unsigned long cut = 0;
    const int fd = temp_file(IN_MEMORY);
    batch *b = new_batch(2000);
    for (unsigned long round = 0; round < rounds; round++) {
        caller c = {.ctx = new_context(how, 8, 4), .batch = b};
        for (size_t i = 0; i < b->count; i++)
            prepare_write_of(b, i, fd);
        const pthread_t thread = start_thread(call_it, &c);
        while (get_stats(c.ctx).accepted == 0)
            sched_yield();
        ASSERT_CALL(ioe_context_free(c.ctx), 0);
        join_thread(thread);
        assert_true(c.answer > 0 && (size_t)c.answer <= b->count);
        for (size_t i = 0; i < b->count; i++)
            assert_int_equal(ioe_event_result(b->events[i]), i < (size_t)c.answer ? BLOCK : IOE_PENDING);
        cut += (size_t)c.answer < b->count;
    }
    printf("# cut short: %lu of %lu\n", cut, rounds);
    free_batch(b);
    close(fd);
}

/* ---- many threads ---- */

enum { THREADS = 8, WIDTH = 32 };

typedef struct player {
    ioe_context *ctx;
    int fd;
    uint64_t place, random;
    unsigned long rounds, wrong;
    ioe_event *events[WIDTH + 1];
    uint8_t *out, *in;
} player;

static void play_round(player *p)
{
    const size_t count = 1 + next_random(&p->random) % WIDTH;
    const size_t each = 1 + next_random(&p->random) % 600;
    const uint64_t seed = next_random(&p->random);
    const bool barrier = next_random(&p->random) % 16 == 0;
    for (size_t i = 0; i < count; i++) {
        pattern_fill(p->out + i * each, each, seed, i * each);
        p->wrong += ioe_prep_write(p->events[i], p->fd, p->out + i * each, each, p->place + i * each) != 0;
    }
    if (barrier) {
        p->wrong += ioe_prep_fdatasync(p->events[count], p->fd) != 0;
        p->wrong += ioe_event_set_flags(p->events[count], IOE_BARRIER) != 0;
    }
    p->wrong += ioe_submit_wait_batch(p->ctx, p->events, count + barrier) != (int)(count + barrier);
    for (size_t i = 0; i < count; i++)
        p->wrong += ioe_event_result(p->events[i]) != (int64_t)each;
    if (barrier)
        p->wrong += ioe_event_result(p->events[count]) != 0;
    memset(p->in, 0, count * each);
    for (size_t i = 0; i < count; i++)
        p->wrong += ioe_prep_read(p->events[i], p->fd, p->in + i * each, each, p->place + i * each) != 0;
    p->wrong += ioe_submit_wait_batch(p->ctx, p->events, count) != (int)count;
    for (size_t i = 0; i < count; i++)
        p->wrong += ioe_event_result(p->events[i]) != (int64_t)each;
    p->wrong += memcmp(p->in, p->out, count * each) != 0;
}

static void *play(void *arg)
{
    player *p = arg;
    for (unsigned long i = 0; i < p->rounds; i++)
        play_round(p);
    return NULL;
}

static void many_threads_at_once(void **state)
{
    const delivery *how = *state;
    const uint64_t seed = choose_seed();
    const int fd = temp_file(IN_MEMORY);
    for (int merging = 0; merging < 2; merging++) {
        ioe_context *ctx = new_merging_context(how, 16, 4, merging ? 1 << 16 : 0);
        player players[THREADS];
        pthread_t threads[THREADS];
        for (size_t t = 0; t < THREADS; t++) {
            players[t] = (player){.ctx = ctx, .fd = fd, .place = t << 20, .random = seed + t,
                                  .rounds = scaled(1000), .out = malloc(WIDTH * 600),
                                  .in = malloc(WIDTH * 600)};
            assert_true(players[t].out != NULL && players[t].in != NULL);
            for (size_t i = 0; i <= WIDTH; i++)
                players[t].events[i] = new_event();
        }
        for (size_t t = 0; t < THREADS; t++)
            threads[t] = start_thread(play, &players[t]);
        for (size_t t = 0; t < THREADS; t++) {
            join_thread(threads[t]);
            assert_int_equal(players[t].wrong, 0);
            for (size_t i = 0; i <= WIDTH; i++)
                ASSERT_CALL(ioe_event_free(players[t].events[i]), 0);
            free(players[t].out);
            free(players[t].in);
        }
        assert_int_equal(get_stats(ctx).in_flight, 0);
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
    close(fd);
}

/* ---- callbacks ---- */

typedef struct errand {
    ioe_context *ctx;
    batch *batch;
    int answers[3];
    latch done;
} errand;

static void call_it_inside(ioe_event *event, void *arg)
{
    errand *e = arg;
    (void)event;
    for (size_t n = 0; n < COUNT_OF(e->answers); n++)
        e->answers[n] = ioe_submit_wait_batch(e->ctx, e->batch->events, n == 0 ? 0 : e->batch->count * n / 2);
    latch_hit(&e->done);
}

static void call_inside_a_callback_of(ioe_context *inside, const delivery *how, ioe_context *ctx, int fd)
{
    enum { COUNT = 4 };
    const bool own = inside == ctx;
    errand e = {.ctx = ctx, .batch = new_batch(COUNT), .done = LATCH_INIT};
    ioe_event *event = new_event();
    fill_file(fd, COUNT * BLOCK);
    for (size_t i = 0; i < COUNT; i++)
        prepare_read_of(e.batch, i, fd);
    prepare_sync(event, fd, IOE_FDATASYNC);
    assert_int_equal(ioe_event_set_callback(event, call_it_inside, &e), 0);
    ASSERT_CALL(ioe_submit(inside, event), 0);
    await(inside, how, &e.done, 1);
    ASSERT_CALL(ioe_drain(inside, -1), 0);
    assert_int_equal(e.answers[0], 0);
    assert_int_equal(e.answers[1], own ? -EDEADLK : COUNT / 2);
    /* The first of them are whole by then. */
    assert_int_equal(e.answers[2], own ? -EDEADLK : -EINVAL);
    for (size_t i = 0; i < COUNT; i++)
        if (!own && i < COUNT / 2)
            check_read_of(e.batch, i);
        else
            assert_int_equal(ioe_event_result(e.batch->events[i]), IOE_PENDING);
    ASSERT_CALL(ioe_event_free(event), 0);
    free_batch(e.batch);
}

static void inside_a_callback(void **state)
{
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    ioe_context *ctx = new_context(how, 8, 4), *other = new_context(how, 8, 4);
    call_inside_a_callback_of(ctx, how, ctx, fd);
    call_inside_a_callback_of(other, how, ctx, fd);
    ASSERT_CALL(ioe_context_free(other), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* What is waited for needs none of them. */
static void inside_a_callback_on_the_same_thread(void **state)
{
    const int fd = temp_file(IN_MEMORY);
    (void)state;
    ioe_workers *workers = NULL;
    ASSERT_CALL(ioe_workers_new(1, &workers), 0);
    ioe_context *ctx = new_shared_context(workers, 8, 4), *other = new_shared_context(workers, 8, 4);
    call_inside_a_callback_of(other, &deliveries[2], ctx, fd);
    ASSERT_CALL(ioe_context_free(other), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    ASSERT_CALL(ioe_workers_free(workers), 0);
    close(fd);
}

/* ---- in the log function ---- */

static void call_it_in_log(int level, const char *message, void *arg)
{
    errand *e = arg;
    (void)level;
    if (strncmp(message, "stalled", strlen("stalled")) != 0 || latch_count(&e->done) > 0)
        return;
    e->answers[0] = ioe_submit_wait_batch(e->ctx, e->batch->events, 2);
    e->answers[1] = ioe_submit_wait_batch(e->ctx, e->batch->events, 1);
    latch_hit(&e->done);
}

/* Whom it would wait for is who called that. One alone does not need him. */
static void inside_the_log_function(void **state)
{
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    ioe_config cfg;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.workers = how->workers;
    cfg.flags = how->flags;
    cfg.reactors = usual_reactors(cfg.flags);
    cfg.stall_ms = 1;
    errand e = {.ctx = new_context_from(&cfg), .batch = new_batch(2), .done = LATCH_INIT};
    latch done = LATCH_INIT;
    stuck_read stuck;
    fill_file(fd, 2 * BLOCK);
    for (size_t i = 0; i < 2; i++)
        prepare_read_of(e.batch, i, fd);
    ioe_set_log(call_it_in_log, &e, IOE_LOG_WARN);
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(e.ctx, stuck.event), 0);
    while ((how->flags & IOE_POLLED) && latch_count(&e.done) == 0)
        ASSERT_CALL(ioe_poll(e.ctx, 1, 10), 0);
    latch_wait(&e.done, 1);
    ioe_set_log(NULL, NULL, IOE_LOG_OFF);
    assert_int_equal(e.answers[0], -EDEADLK);
    assert_int_equal(e.answers[1], 1);
    check_read_of(e.batch, 0);
    assert_int_equal(ioe_event_result(e.batch->events[1]), IOE_PENDING);
    assert_true(stuck_let_go(&stuck));
    await(e.ctx, how, &done, 1);
    ASSERT_CALL(ioe_context_free(e.ctx), 0);
    stuck_free(&stuck);
    free_batch(e.batch);
    close(fd);
}

/* ---- in a polled context ---- */

typedef struct look {
    batch *batch;
    ioe_event **list;
    unsigned busy;
    latch called;
} look;

static void look_at_the_batch(ioe_event *event, void *arg)
{
    look *l = arg;
    for (size_t i = 0; i < l->batch->count; i++)
        l->busy += ioe_event_free(l->batch->events[i]) == -EBUSY;
    memset(l->list, 0, l->batch->count * sizeof *l->list);
    hit_latch(event, &l->called);
}

/* Callbacks of others run in there, and find all of them in flight; the list is not looked at any more, and a
 * full queue is none of its business. */
static void callbacks_of_others_run_inside(void **state)
{
    enum { COUNT = 40, OTHERS = 4 };
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    fill_file(fd, COUNT * BLOCK);
    ioe_context *ctx = new_context(how, OTHERS, OTHERS);
    ioe_event *list[COUNT];
    look l = {.batch = new_batch(COUNT), .list = list, .called = LATCH_INIT};
    memcpy(list, l.batch->events, sizeof list);
    batch *others = new_batch(OTHERS);
    for (size_t i = 0; i < OTHERS; i++) {
        prepare_read_of(others, i, fd);
        assert_int_equal(ioe_event_set_callback(others->events[i], look_at_the_batch, &l), 0);
        ASSERT_CALL(ioe_submit(ctx, others->events[i]), 0);
    }
    for (size_t i = 0; i < COUNT; i++)
        prepare_read_of(l.batch, i, fd);
    assert_int_equal(ioe_event_set_callback(l.batch->events[1], hit_latch, &l.called), 0);
    ASSERT_CALL(ioe_submit_batch(ctx, l.batch->events + 1, 1), -EAGAIN);
    ASSERT_CALL(ioe_submit_wait_batch(ctx, list, COUNT), COUNT);
    assert_null(list[COUNT - 1]);
    for (size_t i = 0; i < COUNT; i++)
        check_read_of(l.batch, i);
    assert_int_equal(latch_count(&l.called), OTHERS);
    assert_int_equal(l.busy, OTHERS * COUNT);
    free_batch(l.batch);
    free_batch(others);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* What a merger holds back is in flight, and takes no part. */
static void mergers_hold_nothing_up(void **state)
{
    enum { COUNT = 3 };
    const delivery *how = *state;
    const int fd = temp_file(IN_MEMORY);
    fill_file(fd, 2 * COUNT * BLOCK);
    ioe_context *ctx = new_context(how, 8, 8);
    ioe_merger *merger = NULL;
    ASSERT_CALL(ioe_merger_new(ctx, fd, IOE_READ, 1 << 16, &merger), 0);
    latch done = LATCH_INIT;
    note *gathered = new_notes(COUNT, &done);
    batch *b = new_batch(COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(ioe_prep_read(gathered[i].event, fd, memory + i * BLOCK, BLOCK, (COUNT + i) * BLOCK),
                         0);
        ASSERT_CALL(ioe_merger_add(merger, gathered[i].event), 0);
        prepare_read_of(b, i, fd);
    }
    ASSERT_CALL(ioe_submit_wait_batch(ctx, b->events, COUNT), COUNT);
    for (size_t i = 0; i < COUNT; i++)
        check_read_of(b, i);
    ASSERT_CALL(ioe_merger_free(merger), 0);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    for (size_t i = 0; i < COUNT; i++)
        check_note(&gathered[i], BLOCK);
    free_notes(gathered, COUNT);
    free_batch(b);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- a thread that ends ---- */

/* What the destructor of a thread's own data waits for, in each round that destructors run, also when all
 * others have. */
typedef struct last_words {
    pthread_key_t key;
    ioe_context *ctx;
    int fd;
    batch *reads;
    ioe_event *sync;
    pid_t tid;
    latch go, batched, ended;
    unsigned rounds, batches, syncs, barriers;
} last_words;

static void say_last_words(void *arg)
{
    last_words *w = arg;
    latch_wait(&w->go, ++w->rounds);
    for (size_t i = 0; i < 2; i++)
        prepare_read_of(w->reads, i, w->fd);
    w->batches += ioe_submit_wait_batch(w->ctx, w->reads->events, 2) == 2;
    latch_hit(&w->batched);
    w->syncs += ioe_prep_fsync(w->sync, w->fd) == 0 && ioe_submit_wait(w->ctx, w->sync) == 0;
    w->barriers += ioe_prep_fdatasync(w->sync, w->fd) == 0 &&
                   ioe_event_set_flags(w->sync, IOE_BARRIER) == 0 &&
                   ioe_submit_wait(w->ctx, w->sync) == 0;
    if (w->rounds < PTHREAD_DESTRUCTOR_ITERATIONS)
        pthread_setspecific(w->key, w);
    latch_hit(&w->ended);
}

static void *end_at_once(void *arg)
{
    last_words *w = arg;
    w->tid = gettid();
    pthread_setspecific(w->key, w);
    return NULL;
}

static void by_a_thread_that_ends(void **state)
{
    const delivery *how = *state;
    scene *s = set_scene(how, 8, 8, 0);
    fill_file(s->fd, 2 * BLOCK);
    last_words w = {.ctx = s->ctx, .fd = s->fd, .reads = new_batch(2), .sync = new_event(),
                    .go = LATCH_INIT, .batched = LATCH_INIT, .ended = LATCH_INIT};
    assert_int_equal(pthread_key_create(&w.key, say_last_words), 0);
    const pthread_t thread = start_thread(end_at_once, &w);
    for (unsigned round = 1; round <= PTHREAD_DESTRUCTOR_ITERATIONS; round++) {
        /* It finds another caller's sync under way, and waits for its turn. */
        ioe_event *sync = new_event();
        prepare_sync(sync, s->fd, IOE_FSYNC);
        hold_next(s->fd, IOE_FSYNC, 1);
        waiter *other = start_waiter(s->ctx, sync);
        await_held(s->ctx, how, 1);
        latch_hit(&w.go);
        latch_wait(&w.batched, round);
        await_asleep(s->ctx, how, w.tid);
        let_go(1);
        end_waiter(other, 0);
        latch_wait(&w.ended, round);
        assert_int_equal(w.batches, round);
        assert_int_equal(w.syncs, round);
        assert_int_equal(w.barriers, round);
    }
    join_thread(thread);
    for (size_t i = 0; i < 2; i++)
        check_read_of(w.reads, i);
    assert_int_equal(pthread_key_delete(w.key), 0);
    ASSERT_CALL(ioe_event_free(w.sync), 0);
    free_batch(w.reads);
    leave_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(every_number_of_events),
        for_each_delivery(callbacks_come_back),
        for_each_delivery(each_has_its_own_result),
        for_each_delivery(stops_at_the_first_refused),
        with_and_without_thread(nothing_of_nothing),
        for_each_delivery(neighbours_are_merged),
        for_each_delivery(all_are_under_way_at_once),
        for_each_delivery(barrier_is_behind_what_is_before_it),
        for_each_delivery(barrier_is_behind_what_was_gathered),
        for_each_delivery(some_end_early),
        for_each_worker_delivery(callback_threads_may_be_busy),
        for_each_threaded_delivery(freed_meanwhile),
        for_each_threaded_delivery(many_threads_at_once),
        for_each_delivery(inside_a_callback),
        cmocka_unit_test(inside_a_callback_on_the_same_thread),
        for_each_delivery(inside_the_log_function),
        polled_only(callbacks_of_others_run_inside),
        for_each_delivery(mergers_hold_nothing_up),
        for_each_threaded_delivery(by_a_thread_that_ends),
    };
    return RUN_TESTS(tests);
}
