/*
 * Promise: several reactors behind one context are one engine. Reads go to the submitting thread's
 * reactor, on a reactor's own thread to itself; everything else goes by its descriptor to one, so that
 * barriers and joined syncs are what they are with one reactor, whichever threads submit. Drains,
 * cancels, time limits, counters and the end of the context reach all of them; each has its own room,
 * and a callback never waits for another's.
 */
#include "notes.h"

enum { REACTORS = 4, THREADS = 8, EACH = 16, HOPS = 1000 };

static ioe_context *new_reactors(const delivery *how, uint32_t depth, uint32_t queue_size)
{
    ioe_config cfg;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.depth = depth;
    cfg.queue_size = queue_size;
    cfg.workers = how->workers;
    cfg.flags = how->flags;
    cfg.reactors = REACTORS;
    ioe_context *ctx = new_context_from(&cfg);
    assert_int_equal(get_info(ctx).reactors, REACTORS);
    return ctx;
}

/* ---- threads that submit ---- */

/* Where workers is 0, the callback's thread is its reactor's. */
typedef struct visit {
    ioe_event *event;
    latch *done;
    atomic_uint calls;
    int64_t result;
    pid_t tid;
} visit;

static void on_visit(ioe_event *event, void *arg)
{
    visit *v = arg;
    v->result = ioe_event_result(event);
    v->tid = gettid();
    atomic_fetch_add(&v->calls, 1);
    latch_hit(v->done);
}

static visit *new_visits(size_t count, latch *done)
{
    visit *visits = calloc(count, sizeof *visits);
    assert_non_null(visits);
    for (size_t i = 0; i < count; i++) {
        visits[i].event = new_event();
        visits[i].done = done;
        assert_int_equal(ioe_event_set_callback(visits[i].event, on_visit, &visits[i]), 0);
    }
    return visits;
}

/* Each came back once, with this result. */
static void check_visits(visit *visits, size_t count, int64_t result)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(atomic_load(&visits[i].calls), 1);
        assert_int_equal(visits[i].result, result);
    }
}

static void free_visits(visit *visits, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ioe_event_free(visits[i].event), 0);
    free(visits);
}

/* So many threads, each of which submits its part of the visits, prepared. */
typedef struct crowd {
    ioe_context *ctx;
    visit *visits;
    size_t each;
    atomic_uint next;
    atomic_uint refused;
    pthread_t threads[THREADS];
} crowd;

static void *submit_part(void *arg)
{
    crowd *c = arg;
    visit *mine = c->visits + atomic_fetch_add(&c->next, 1) * c->each;
    for (size_t i = 0; i < c->each; i++)
        if (ioe_submit(c->ctx, mine[i].event) != 0)
            atomic_fetch_add(&c->refused, 1);
    return NULL;
}

static void submit_by_threads(ioe_context *ctx, visit *visits, size_t each)
{
    crowd c = {.ctx = ctx, .visits = visits, .each = each};
    for (size_t i = 0; i < THREADS; i++)
        c.threads[i] = start_thread(submit_part, &c);
    for (size_t i = 0; i < THREADS; i++)
        join_thread(c.threads[i]);
    assert_int_equal(atomic_load(&c.refused), 0);
}

static size_t count_tids(const visit *visits, size_t count)
{
    size_t different = 0;
    for (size_t i = 0; i < count; i++) {
        size_t j = 0;
        while (visits[j].tid != visits[i].tid)
            j++;
        different += j == i;
    }
    return different;
}

/* ---- a file for each reactor ---- */

typedef struct files {
    size_t count;
    int all[256];
    int of_reactor[REACTORS];
} files;

/* Opens until the writes of one file go to each. What is between them is closed in the end. */
static files *new_files(void)
{
    const delivery *how = &deliveries[1];
    ioe_context *ctx = new_reactors(how, DEPTH, QUEUE);
    files *f = calloc(1, sizeof *f);
    pid_t tids[REACTORS];
    size_t found = 0;
    assert_non_null(f);
    while (found < REACTORS) {
        latch done = LATCH_INIT;
        visit *v = new_visits(1, &done);
        assert_true(f->count < COUNT_OF(f->all));
        const int fd = f->all[f->count++] = temp_file(IN_MEMORY);
        assert_int_equal(ioe_prep_write(v->event, fd, memory, 1, 0), 0);
        ASSERT_CALL(ioe_submit(ctx, v->event), 0);
        latch_wait(&done, 1);
        size_t i = 0;
        while (i < found && tids[i] != v->tid)
            i++;
        if (i == found) {
            tids[found] = v->tid;
            f->of_reactor[found++] = fd;
        }
        free_visits(v, 1);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    return f;
}

static void free_files(files *f)
{
    for (size_t i = 0; i < f->count; i++)
        close(f->all[i]);
    free(f);
}

/* Returns when the reactor of the file's writes has seen what was submitted before. */
static void pass_on(ioe_context *ctx, int fd)
{
    latch done = LATCH_INIT;
    visit *v = new_visits(1, &done);
    for (unsigned long round = 1; round <= 2; round++) {
        assert_int_equal(ioe_prep_write(v->event, fd, memory, 1, 0), 0);
        ASSERT_CALL(ioe_submit(ctx, v->event), 0);
        latch_wait(&done, round);
    }
    free_visits(v, 1);
}

/* ---- how many there are ---- */

static void info_tells_how_many(void **state)
{
    const delivery *how = *state;
    static const uint32_t asked[] = {0, 1, 2, 5};
    char first[2048] = "";
    for (size_t i = 0; i < COUNT_OF(asked) - (how->flags & IOE_POLLED ? 2 : 0); i++) {
        ioe_config cfg;
        assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
        cfg.flags = how->flags;
        cfg.workers = how->workers;
        cfg.depth = DEPTH;
        cfg.queue_size = QUEUE;
        cfg.reactors = asked[i];
        ioe_context *ctx = new_context_from(&cfg);
        assert_int_equal(get_info(ctx).reactors, asked[i] > 0 ? asked[i] : 1);
        assert_int_equal(get_info(ctx).depth, DEPTH);
        assert_int_equal(get_info(ctx).queue_size, QUEUE);
        assert_int_equal(get_info(ctx).workers, how->workers);
        /* A driver that was passed over is named; of the reactors there is nothing to say. */
        if (i == 0 && getenv("IOE_DRIVER") == NULL && tested_driver != IOE_DRIVER_URING)
            snprintf(first, sizeof first, "%s", get_info(ctx).reason);
        assert_string_equal(get_info(ctx).reason, first);
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
}

/* What an older program has behind its struct is not the library's to read. */
static void older_callers_have_one(void **state)
{
    ioe_config cfg;
    (void)state;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.size = offsetof(ioe_config, stall_ms);
    cfg.reactors = REACTORS;
    ioe_context *ctx = new_context_from(&cfg);
    assert_int_equal(get_info(ctx).reactors, 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

/* ---- who goes where ---- */

static void reads_go_by_their_thread(void **state)
{
    ioe_context *ctx = new_reactors(*state, DEPTH, QUEUE);
    const int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    visit *visits = new_visits(THREADS * EACH, &done);
    static uint8_t bytes[THREADS * EACH];
    assert_int_equal(pwrite(fd, memory, EACH, 0), EACH);
    for (size_t i = 0; i < THREADS * EACH; i++)
        assert_int_equal(ioe_prep_read(visits[i].event, fd, &bytes[i], 1, i % EACH), 0);
    submit_by_threads(ctx, visits, EACH);
    latch_wait(&done, THREADS * EACH);
    check_visits(visits, THREADS * EACH, 1);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(count_tids(visits + i * EACH, EACH), 1);
    /* Threads take turns in the choice. */
    assert_int_equal(count_tids(visits, THREADS * EACH), REACTORS);
    free_visits(visits, THREADS * EACH);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

typedef struct echo {
    visit first;
    ioe_context *ctx;
    int fd;
    int rc;
    uint8_t byte;
    visit *second;
} echo;

static void on_first(ioe_event *event, void *arg)
{
    echo *e = arg;
    e->first.tid = gettid();
    (void)event;
    e->rc = ioe_submit(e->ctx, e->second->event);
}

/* A read that a callback submits stays where it is; the files take the callbacks to every reactor. */
static void reads_of_a_reactors_thread_stay_there(void **state)
{
    files *f = new_files();
    ioe_context *ctx = new_reactors(*state, DEPTH, QUEUE);
    for (size_t i = 0; i < REACTORS; i++) {
        latch done = LATCH_INIT;
        echo *e = calloc(1, sizeof *e);
        assert_non_null(e);
        *e = (echo){.ctx = ctx, .fd = f->of_reactor[i], .second = new_visits(1, &done)};
        e->first.event = new_event();
        assert_int_equal(ioe_event_set_callback(e->first.event, on_first, e), 0);
        assert_int_equal(ioe_prep_write(e->first.event, e->fd, memory, 1, 0), 0);
        assert_int_equal(ioe_prep_read(e->second->event, f->of_reactor[0], &e->byte, 1, 0), 0);
        ASSERT_CALL(ioe_submit(ctx, e->first.event), 0);
        latch_wait(&done, 1);
        assert_int_equal(e->rc, 0);
        assert_int_equal(e->second->tid, e->first.tid);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        free_visits(e->second, 1);
        assert_int_equal(ioe_event_free(e->first.event), 0);
        free(e);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    free_files(f);
}

static void prepare_change(ioe_event *event, int fd, size_t which)
{
    switch (which % 7) {
    case 0:
        assert_int_equal(ioe_prep_fsync(event, fd), 0);
        break;
    case 1:
        assert_int_equal(ioe_prep_fdatasync(event, fd), 0);
        break;
    case 2:
        assert_int_equal(ioe_prep_fallocate(event, fd, 0, 0, BLOCK), 0);
        break;
    case 3:
        assert_int_equal(ioe_prep_sync_range(event, fd, 0, BLOCK, SYNC_FILE_RANGE_WRITE), 0);
        break;
    case 4:
        assert_int_equal(ioe_prep_truncate(event, fd, BLOCK), 0);
        break;
    case 5:
        assert_int_equal(ioe_prep_advise(event, fd, 0, BLOCK, POSIX_FADV_NORMAL), 0);
        break;
    default:
        assert_int_equal(ioe_prep_write(event, fd, memory, 0, which), 0);
        break;
    }
}

static void changes_of_a_descriptor_go_to_one(void **state)
{
    ioe_context *ctx = new_reactors(*state, DEPTH, QUEUE);
    latch done = LATCH_INIT;
    visit *visits = new_visits(THREADS * EACH, &done);
    const int fd = temp_file(IN_MEMORY);
    for (size_t i = 0; i < THREADS * EACH; i++)
        prepare_change(visits[i].event, fd, i);
    submit_by_threads(ctx, visits, EACH);
    latch_wait(&done, THREADS * EACH);
    check_visits(visits, THREADS * EACH, 0);
    assert_int_equal(count_tids(visits, THREADS * EACH), 1);
    free_visits(visits, THREADS * EACH);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- order and groups ---- */

/* Writes of many threads, held by the kernel, and a barrier of yet another thread behind them. */
static void barrier_waits_for_every_threads_writes(void **state)
{
    enum { WRITES_EACH = 4, ALL = THREADS * WRITES_EACH };
    const delivery *how = *state;
    ioe_context *ctx = new_reactors(how, 2 * ALL, QUEUE);
    const int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT, synced = LATCH_INIT;
    visit *visits = new_visits(ALL, &done);
    note *barrier = new_notes(1, &synced);
    watch_operations(&fd, 1);
    hold_next(fd, IOE_WRITE, ALL);
    for (size_t i = 0; i < ALL; i++)
        assert_int_equal(ioe_prep_write(visits[i].event, fd, memory, BLOCK, i * BLOCK), 0);
    submit_by_threads(ctx, visits, WRITES_EACH);
    await_held(ctx, how, ALL);
    submit_barrier(ctx, barrier, fd, IOE_FDATASYNC);
    pass_on(ctx, fd);
    let_go(ALL - 1);
    latch_wait(&done, ALL - 1);
    pass_on(ctx, fd);
    assert_int_equal(count_syncs(fd), 0);
    assert_int_equal(latch_count(&synced), 0);
    let_go(1);
    latch_wait(&synced, 1);
    latch_wait(&done, ALL);
    check_note(barrier, 0);
    check_visits(visits, ALL, BLOCK);
    const operation sync = find_operation(fd, SYNCS, 0);
    for (size_t i = 0; i < ALL; i++)
        assert_true(find_operation(fd, WRITES, i).ended < sync.begun);
    free_notes(barrier, 1);
    free_visits(visits, ALL);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stop_watching_operations();
    close(fd);
}

static void syncs_of_every_thread_are_one_call(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_reactors(how, DEPTH, QUEUE);
    const int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT, first_done = LATCH_INIT;
    visit *visits = new_visits(THREADS * EACH, &done);
    note *first = new_notes(1, &first_done);
    watch_operations(&fd, 1);
    hold_next(fd, IOE_FDATASYNC, 1);
    submit_sync(ctx, first, fd, IOE_FDATASYNC);
    await_held(ctx, how, 1);
    for (size_t i = 0; i < THREADS * EACH; i++)
        prepare_sync(visits[i].event, fd, IOE_FDATASYNC);
    submit_by_threads(ctx, visits, EACH);
    pass_on(ctx, fd);
    assert_int_equal(count_syncs(fd), 1);
    let_go(1);
    latch_wait(&done, THREADS * EACH);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    check_note(first, 0);
    check_visits(visits, THREADS * EACH, 0);
    assert_int_equal(count_syncs(fd), 2);
    assert_int_equal(get_stats(ctx).syncs_joined, THREADS * EACH - 1);
    free_notes(first, 1);
    free_visits(visits, THREADS * EACH);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stop_watching_operations();
    close(fd);
}

/* ---- what reaches all of them ---- */

/* One write on each reactor that the kernel keeps, and takes the only slot; one that waits behind. */
typedef struct jam {
    files *files;
    ioe_context *ctx;
    const delivery *how;
    latch kept_done, waiting_done;
    note *kept, *waiting;
} jam;

static jam *new_jam(const delivery *how, uint32_t queue_size)
{
    jam *j = calloc(1, sizeof *j);
    assert_non_null(j);
    *j = (jam){.files = new_files(), .how = how, .kept_done = LATCH_INIT, .waiting_done = LATCH_INIT};
    j->ctx = new_reactors(how, 1, queue_size);
    j->kept = new_notes(REACTORS, &j->kept_done);
    j->waiting = new_notes(REACTORS, &j->waiting_done);
    watch_operations(j->files->of_reactor, REACTORS);
    for (size_t i = 0; i < REACTORS; i++) {
        hold_next(j->files->of_reactor[i], IOE_WRITE, 1);
        submit_write(j->ctx, &j->kept[i], j->files->of_reactor[i], 0);
        prepare_write(&j->waiting[i], j->files->of_reactor[i], 1, 1);
    }
    await_held(j->ctx, how, REACTORS);
    return j;
}

/* All of them are let go. */
static void free_jam(jam *j)
{
    ASSERT_CALL(ioe_drain(j->ctx, -1), 0);
    for (size_t i = 0; i < REACTORS; i++)
        check_note(&j->kept[i], BLOCK);
    free_notes(j->kept, REACTORS);
    free_notes(j->waiting, REACTORS);
    ASSERT_CALL(ioe_context_free(j->ctx), 0);
    stop_watching_operations();
    free_files(j->files);
    free(j);
}

static void cancel_finds_it_anywhere(void **state)
{
    jam *j = new_jam(*state, QUEUE);
    uint64_t ids[REACTORS];
    for (size_t i = 0; i < REACTORS; i++) {
        ids[i] = ioe_event_id(j->waiting[i].event);
        ASSERT_CALL(ioe_submit(j->ctx, j->waiting[i].event), 0);
    }
    for (size_t i = 0; i < REACTORS; i++)
        ASSERT_CALL(ioe_cancel(j->ctx, ids[i]), 0);
    latch_wait(&j->waiting_done, REACTORS);
    for (size_t i = 0; i < REACTORS; i++) {
        check_note(&j->waiting[i], -ECANCELED);
        ASSERT_CALL(ioe_cancel(j->ctx, ids[i]), -ENOENT);
    }
    assert_int_equal(latch_count(&j->kept_done), 0);
    let_go(REACTORS);
    free_jam(j);
}

static void time_limits_end_it_anywhere(void **state)
{
    jam *j = new_jam(*state, QUEUE);
    for (size_t i = 0; i < REACTORS; i++) {
        ASSERT_CALL(ioe_event_set_timeout(j->waiting[i].event, 1000000), 0);
        ASSERT_CALL(ioe_submit(j->ctx, j->waiting[i].event), 0);
    }
    latch_wait(&j->waiting_done, REACTORS);
    for (size_t i = 0; i < REACTORS; i++)
        check_note(&j->waiting[i], -ETIMEDOUT);
    assert_int_equal(latch_count(&j->kept_done), 0);
    let_go(REACTORS);
    free_jam(j);
}

static void drain_waits_for_each(void **state)
{
    jam *j = new_jam(*state, QUEUE);
    for (unsigned long i = 0; i < REACTORS; i++) {
        ASSERT_CALL(ioe_drain(j->ctx, 0), -ETIMEDOUT);
        assert_int_equal(get_stats(j->ctx).in_flight, REACTORS - i);
        let_go(1);
        latch_wait(&j->kept_done, i + 1);
    }
    free_jam(j);
}

/* A reactor's room is its own. */
static void full_queue_is_of_one(void **state)
{
    for (size_t number = 0; number < REACTORS; number++) {
        jam *j = new_jam(*state, 1);
        size_t with_room = 0;
        for (size_t i = 0; i < REACTORS; i++)
            ASSERT_CALL(ioe_try_submit(j->ctx, j->waiting[i].event), -EAGAIN);
        assert_true(let_one_go(number, WHOLE));
        latch_wait(&j->kept_done, 1);
        while (atomic_load(&j->kept[with_room].calls) == 0)
            with_room++;
        for (size_t i = 0; i < REACTORS; i++)
            ASSERT_CALL(ioe_try_submit(j->ctx, j->waiting[i].event), i == with_room ? 0 : -EAGAIN);
        latch_wait(&j->waiting_done, 1);
        check_note(&j->waiting[with_room], BLOCK);
        let_go(REACTORS - 1);
        free_jam(j);
    }
}

/* ---- callbacks that submit to other reactors ---- */

typedef struct chain {
    ioe_context *ctx;
    const int *fds;
    ioe_event *event;
    latch *done;
    unsigned hops;
    unsigned wrong;
} chain;

static void on_hop(ioe_event *event, void *arg)
{
    chain *c = arg;
    c->wrong += ioe_event_result(event) != 1;
    if (c->hops-- == 0) {
        latch_hit(c->done);
        return;
    }
    c->wrong += ioe_prep_write(event, c->fds[c->hops % REACTORS], memory, 1, 0) != 0;
    if (ioe_submit(c->ctx, event) != 0) {
        c->wrong++;
        latch_hit(c->done);
    }
}

/* Events that go round the reactors, more than have room, while other threads fill what there is. */
static void callbacks_never_wait_for_another(void **state)
{
    static const uint32_t rooms[] = {1, 2, DEPTH};
    files *f = new_files();
    for (size_t room = 0; room < COUNT_OF(rooms); room++) {
        ioe_context *ctx = new_reactors(*state, 1, rooms[room]);
        latch done = LATCH_INIT, others_done = LATCH_INIT;
        chain *chains = calloc(THREADS, sizeof *chains);
        visit *visits = new_visits(THREADS * EACH, &others_done);
        assert_non_null(chains);
        for (size_t i = 0; i < THREADS; i++) {
            chains[i] = (chain){.ctx = ctx, .fds = f->of_reactor, .event = new_event(),
                                .done = &done, .hops = HOPS};
            assert_int_equal(ioe_event_set_callback(chains[i].event, on_hop, &chains[i]), 0);
            assert_int_equal(ioe_prep_write(chains[i].event, f->of_reactor[i % REACTORS], memory, 1, 0), 0);
            ASSERT_CALL(ioe_submit(ctx, chains[i].event), 0);
        }
        for (size_t i = 0; i < THREADS * EACH; i++)
            assert_int_equal(
                ioe_prep_write(visits[i].event, f->of_reactor[i % REACTORS], memory, 1, 0), 0);
        submit_by_threads(ctx, visits, EACH);
        latch_wait(&others_done, THREADS * EACH);
        latch_wait(&done, THREADS);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        check_visits(visits, THREADS * EACH, 1);
        for (size_t i = 0; i < THREADS; i++) {
            assert_int_equal(chains[i].wrong, 0);
            assert_int_equal(ioe_event_free(chains[i].event), 0);
        }
        assert_int_equal(get_stats(ctx).completed, THREADS * (HOPS + 1 + EACH));
        free(chains);
        free_visits(visits, THREADS * EACH);
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
    free_files(f);
}

/* ---- the end, and the counters ---- */

/* Reads and writes of many threads, some of a descriptor that is none; then the end, at once. */
static void free_completes_everywhere(void **state)
{
    enum { ALL = THREADS * EACH };
    for (int drains = 0; drains < 2; drains++) {
        files *f = new_files();
        ioe_context *ctx = new_reactors(*state, 2, 8);
        latch done = LATCH_INIT;
        visit *visits = new_visits(ALL, &done);
        uint8_t *bytes = calloc(ALL, BLOCK);
        assert_non_null(bytes);
        for (size_t i = 0; i < REACTORS; i++)
            assert_int_equal(pwrite(f->of_reactor[i], memory, BLOCK, 0), BLOCK);
        for (size_t i = 0; i < ALL; i++) {
            const int fd = i % 8 == 7 ? -1 : f->of_reactor[i % REACTORS];
            assert_int_equal(i % 2 == 0
                                 ? ioe_prep_read(visits[i].event, fd, bytes + i * BLOCK, BLOCK, 0)
                                 : ioe_prep_write(visits[i].event, fd, memory, 100, BLOCK),
                             0);
        }
        submit_by_threads(ctx, visits, EACH);
        if (drains) {
            ASSERT_CALL(ioe_drain(ctx, -1), 0);
            const ioe_stats stats = get_stats(ctx);
            assert_int_equal(stats.accepted, ALL);
            assert_int_equal(stats.completed, ALL);
            assert_int_equal(stats.in_flight, 0);
            assert_int_equal(stats.failed, ALL / 8);
            assert_int_equal(stats.bytes_read, ALL / 2 * BLOCK);
            assert_int_equal(stats.bytes_written, (ALL / 2 - ALL / 8) * 100);
            assert_int_equal(stats.operations, ALL);
        }
        ASSERT_CALL(ioe_context_free(ctx), 0);
        assert_int_equal(latch_count(&done), ALL);
        for (size_t i = 0; i < ALL; i++) {
            assert_int_equal(atomic_load(&visits[i].calls), 1);
            assert_int_equal(visits[i].result, i % 8 == 7 ? -EBADF : i % 2 == 0 ? BLOCK : 100);
        }
        free_visits(visits, ALL);
        free(bytes);
        free_files(f);
    }
}

/* ---- mergers ---- */

typedef struct gatherer {
    ioe_context *ctx;
    int fd;
    int action;
    ioe_merger *merger;
    visit *visits;
    uint8_t *bytes;
    int wrong;
} gatherer;

static void *gather(void *arg)
{
    gatherer *g = arg;
    g->wrong = ioe_merger_new(g->ctx, g->fd, g->action, EACH * BLOCK + 1, &g->merger) != 0;
    for (size_t i = 0; i < EACH && !g->wrong; i++) {
        ioe_event *event = g->visits[i].event;
        g->wrong = (g->action == IOE_READ
                        ? ioe_prep_read(event, g->fd, g->bytes + i * BLOCK, BLOCK, i * BLOCK)
                        : ioe_prep_write(event, g->fd, g->bytes + i * BLOCK, BLOCK, i * BLOCK)) != 0 ||
                   ioe_merger_add(g->merger, event) != 0;
    }
    return NULL;
}

/* Gathered by threads of different reactors, for files of different ones. */
static void check_flush(const delivery *how, bool by_barrier)
{
    files *f = new_files();
    ioe_context *ctx = new_reactors(how, DEPTH, QUEUE);
    latch done = LATCH_INIT, synced = LATCH_INIT;
    note *barrier = new_notes(1, &synced);
    visit *visits = new_visits(THREADS * EACH, &done);
    gatherer *gatherers = calloc(THREADS, sizeof *gatherers);
    uint8_t *bytes = calloc(THREADS * EACH, BLOCK);
    assert_true(gatherers != NULL && bytes != NULL);
    for (size_t i = 0; i < REACTORS; i++)
        assert_int_equal(ftruncate(f->of_reactor[i], EACH * BLOCK), 0);
    for (size_t i = 0; i < THREADS; i++) {
        gatherers[i] = (gatherer){.ctx = ctx, .fd = f->of_reactor[i % REACTORS],
                                  .action = i < THREADS / 2 ? IOE_READ : IOE_WRITE,
                                  .visits = visits + i * EACH, .bytes = bytes + i * EACH * BLOCK};
        join_thread(start_thread(gather, &gatherers[i]));
        assert_int_equal(gatherers[i].wrong, 0);
    }
    assert_int_equal(latch_count(&done), 0);
    ASSERT_CALL(ioe_context_free(ctx), -EBUSY);
    if (by_barrier) {
        submit_barrier(ctx, barrier, f->of_reactor[0], IOE_FSYNC);
        latch_wait(&done, THREADS * EACH);
        latch_wait(&synced, 1);
        check_note(barrier, 0);
    } else {
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
    }
    check_visits(visits, THREADS * EACH, BLOCK);
    assert_int_equal(get_stats(ctx).merged, THREADS * (EACH - 1));
    assert_int_equal(get_stats(ctx).operations, THREADS + by_barrier);
    for (size_t i = 0; i < THREADS; i++)
        ASSERT_CALL(ioe_merger_free(gatherers[i].merger), 0);
    free_notes(barrier, 1);
    free_visits(visits, THREADS * EACH);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    free(gatherers);
    free(bytes);
    free_files(f);
}

static void drain_flushes_everywhere(void **state)
{
    check_flush(*state, false);
}

static void barrier_flushes_everywhere(void **state)
{
    check_flush(*state, true);
}

/* ---- fork ---- */

typedef struct inherited {
    ioe_context *ctx;
    ioe_event *event;
    int fd;
} inherited;

static int use_in_child(void *arg)
{
    inherited *i = arg;
    CHILD_CHECK(ioe_submit(i->ctx, i->event) == -EOWNERDEAD);
    CHILD_CHECK(ioe_drain(i->ctx, 0) == -EOWNERDEAD);
    CHILD_CHECK(ioe_context_free(i->ctx) == 0);
    /* Where the parent's write is on its way, the library's descriptors are closed: the file's is left. */
    CHILD_CHECK(fcntl(i->fd, F_GETFD) >= 0);
    return 0;
}

static void child_is_kept_out(void **state)
{
    jam *j = new_jam(*state, QUEUE);
    latch done = LATCH_INIT;
    visit *v = new_visits(1, &done);
    inherited i = {.ctx = j->ctx, .event = v->event, .fd = j->files->of_reactor[0]};
    assert_int_equal(ioe_prep_write(v->event, i.fd, memory, 1, 0), 0);
    assert_int_equal(in_child(use_in_child, &i), 0);
    let_go(REACTORS);
    ASSERT_CALL(ioe_drain(j->ctx, -1), 0);
    for (size_t n = 0; n < REACTORS; n++)
        pass_on(j->ctx, j->files->of_reactor[n]);
    free_visits(v, 1);
    free_jam(j);
}

#define on_driver_thread(test)                                                                     \
    {#test, test, NULL, NULL, (void *)&deliveries[1]}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(info_tells_how_many),
        cmocka_unit_test(older_callers_have_one),
        on_driver_thread(reads_go_by_their_thread),
        on_driver_thread(reads_of_a_reactors_thread_stay_there),
        on_driver_thread(changes_of_a_descriptor_go_to_one),
        for_each_threaded_delivery(barrier_waits_for_every_threads_writes),
        for_each_threaded_delivery(syncs_of_every_thread_are_one_call),
        for_each_threaded_delivery(cancel_finds_it_anywhere),
        for_each_threaded_delivery(time_limits_end_it_anywhere),
        for_each_threaded_delivery(drain_waits_for_each),
        for_each_threaded_delivery(full_queue_is_of_one),
        for_each_threaded_delivery(callbacks_never_wait_for_another),
        for_each_threaded_delivery(free_completes_everywhere),
        for_each_threaded_delivery(drain_flushes_everywhere),
        for_each_threaded_delivery(barrier_flushes_everywhere),
        for_each_threaded_delivery(child_is_kept_out),
    };
    return RUN_TESTS(tests);
}
