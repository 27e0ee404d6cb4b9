/*
 * Promise: a polled context has no thread of its own, belongs to the first thread that submits or
 * polls, and hands out callbacks inside that thread's calls. Every other thread may look on and
 * cancel, and is told -EPERM by the rest, until the owner has ended and somebody frees what it left.
 */
#include "stuck.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define BLOCK 4096

static const delivery *const polled = &deliveries[0];

static ioe_event *fsync_event(int fd, latch *done)
{
    ioe_event *event = ioe_event_new();
    assert_non_null(event);
    assert_int_equal(ioe_prep_fsync(event, fd), 0);
    assert_int_equal(ioe_event_set_callback(event, hit_latch, done), 0);
    return event;
}

/* ---- who owns it ---- */

enum { SUBMIT, TRY_SUBMIT, BATCH, SUBMIT_WAIT, WAIT_BATCH, POLL, DRAIN, DESCRIPTOR, FREE, INFO, STATS, CANCEL, CALLS };

typedef struct visit {
    ioe_context *ctx;
    ioe_event *event;
    int64_t answers[CALLS];
} visit;

static void *make_every_call(void *arg)
{
    visit *v = arg;
    ioe_info info;
    ioe_stats stats;
    v->answers[SUBMIT] = ioe_submit(v->ctx, v->event);
    v->answers[TRY_SUBMIT] = ioe_try_submit(v->ctx, v->event);
    v->answers[BATCH] = ioe_submit_batch(v->ctx, &v->event, 1);
    v->answers[SUBMIT_WAIT] = ioe_submit_wait(v->ctx, v->event);
    v->answers[WAIT_BATCH] = ioe_submit_wait_batch(v->ctx, (ioe_event *[]){v->event, v->event}, 2);
    v->answers[POLL] = ioe_poll(v->ctx, 0, 0);
    v->answers[DRAIN] = ioe_drain(v->ctx, 0);
    v->answers[DESCRIPTOR] = ioe_context_fd(v->ctx);
    v->answers[FREE] = ioe_context_free(v->ctx);
    v->answers[INFO] = ioe_context_info(v->ctx, &info, sizeof info);
    v->answers[STATS] = ioe_context_stats(v->ctx, &stats, sizeof stats);
    v->answers[CANCEL] = ioe_cancel(v->ctx, ioe_event_id(v->event));
    return NULL;
}

static void assert_visitor_is_turned_away(const visit *v)
{
    for (int call = 0; call < CALLS; call++)
        assert_int_equal(v->answers[call], call == INFO || call == STATS ? 0
                                           : call == CANCEL              ? -ENOENT
                                                                         : -EPERM);
    assert_false(ioe_event_is_done(v->event));
    assert_int_equal(ioe_event_result(v->event), IOE_PENDING);
}

typedef int (*first_call)(ioe_context *ctx, ioe_event *event);

static int first_try(ioe_context *ctx, ioe_event *event)
{
    return ioe_try_submit(ctx, event);
}

static int first_batch(ioe_context *ctx, ioe_event *event)
{
    return ioe_submit_batch(ctx, &event, 1) == 1 ? 0 : -1;
}

static int first_wait(ioe_context *ctx, ioe_event *event)
{
    return (int)ioe_submit_wait(ctx, event);
}

static int first_poll(ioe_context *ctx, ioe_event *event)
{
    (void)event;
    return ioe_poll(ctx, 0, 0);
}

static void first_user_owns(void **state)
{
    static const first_call calls[] = {ioe_submit, first_try, first_batch, first_wait, first_poll};
    int fd = temp_file(IN_MEMORY);
    (void)state;
    for (size_t i = 0; i < COUNT_OF(calls); i++) {
        ioe_context *ctx = new_context(polled, 8, 8);
        latch done = LATCH_INIT;
        ioe_event *event = fsync_event(fd, &done);
        visit v = {.ctx = ctx, .event = fsync_event(fd, &done)};
        ASSERT_CALL(calls[i](ctx, event), 0);
        join_thread(start_thread(make_every_call, &v));
        assert_visitor_is_turned_away(&v);
        ASSERT_CALL(ioe_drain(ctx, -1), 0);
        /* The owner can use what the visitor could not. */
        ASSERT_CALL(ioe_submit_wait(ctx, v.event), 0);
        assert_true(ioe_context_fd(ctx) >= 0);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        bool calls_back = calls[i] != first_wait && calls[i] != first_poll;
        assert_int_equal(latch_count(&done), calls_back ? 1 : 0);
        assert_int_equal(ioe_event_free(event), 0);
        assert_int_equal(ioe_event_free(v.event), 0);
    }
    close(fd);
}

typedef struct made_elsewhere {
    ioe_context *ctx;
    int rc;
} made_elsewhere;

static void *make_context(void *arg)
{
    made_elsewhere *m = arg;
    ioe_config cfg;
    m->rc = ioe_config_init(&cfg, sizeof cfg);
    cfg.flags = IOE_POLLED;
    if (m->rc == 0)
        m->rc = ioe_context_new(&cfg, &m->ctx);
    return NULL;
}

static void *just_free(void *arg)
{
    made_elsewhere *m = arg;
    m->rc = ioe_context_free(m->ctx);
    return NULL;
}

/* Making it is not using it: one thread makes, another uses. Never used, anyone may free it. */
static void maker_is_not_owner(void **state)
{
    made_elsewhere m = {0};
    latch done = LATCH_INIT;
    int fd = temp_file(IN_MEMORY);
    (void)state;
    ASSERT_CALL(ioe_context_free(new_context(polled, 8, 8)), 0);
    join_thread(start_thread(make_context, &m));
    assert_int_equal(m.rc, 0);
    ioe_event *event = fsync_event(fd, &done);
    ASSERT_CALL(ioe_submit(m.ctx, event), 0);
    ASSERT_CALL(ioe_poll(m.ctx, 1, -1), 1);
    assert_int_equal(latch_count(&done), 1);
    ASSERT_CALL(ioe_context_free(m.ctx), 0);

    m.ctx = new_context(polled, 8, 8);
    join_thread(start_thread(just_free, &m));
    assert_int_equal(m.rc, 0);
    assert_int_equal(ioe_event_free(event), 0);
    close(fd);
}

static void *free_too_early(void *arg)
{
    made_elsewhere *m = arg;
    ioe_merger *merger = NULL;
    m->rc = ioe_merger_new(m->ctx, 0, IOE_READ, 1, &merger);
    if (m->rc == 0)
        m->rc = ioe_context_free(m->ctx);
    return ioe_merger_free(merger) == 0 ? NULL : merger;
}

/* A context that cannot be freed yet stays nobody's. */
static void who_could_not_free_is_not_owner(void **state)
{
    made_elsewhere m = {.ctx = new_context(polled, 8, 8)};
    (void)state;
    join_thread(start_thread(free_too_early, &m));
    assert_int_equal(m.rc, -EBUSY);
    ASSERT_CALL(ioe_poll(m.ctx, 0, 0), 0);
    ASSERT_CALL(ioe_context_free(m.ctx), 0);
}

/* A polled context has no callback threads, whatever was asked for, and can share none. */
static void there_are_no_threads(void **state)
{
    ioe_config cfg;
    ioe_info info;
    ioe_workers *workers = NULL;
    task tasks[1];
    (void)state;
    ASSERT_CALL(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.flags = IOE_POLLED;
    cfg.workers = 4;
    ioe_context *ctx = new_context_from(&cfg);
    ASSERT_CALL(ioe_context_info(ctx, &info, sizeof info), 0);
    assert_int_equal(info.workers, 0);
    assert_int_equal(info.flags, IOE_POLLED);
    assert_int_equal(read_tasks("ioe-", tasks, 1), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);

    ASSERT_CALL(ioe_workers_new(1, &workers), 0);
    cfg.shared = workers;
    ctx = NULL;
    ASSERT_CALL(ioe_context_new(&cfg, &ctx), -EINVAL);
    assert_null(ctx);
    ASSERT_CALL(ioe_workers_free(workers), 0);
}

/* ---- room ---- */

static void full_queue_says_again_until_polled(void **state)
{
    enum { ROOM = 4 };
    ioe_context *ctx = new_context(polled, 2, ROOM);
    int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    ioe_event *events[ROOM];
    ioe_event *late = fsync_event(fd, &done);
    (void)state;
    for (unsigned round = 0; round < 10; round++) {
        for (size_t i = 0; i < ROOM; i++) {
            events[i] = fsync_event(fd, &done);
            ASSERT_CALL(i % 2 == 0 ? ioe_submit(ctx, events[i]) : ioe_try_submit(ctx, events[i]),
                        0);
        }
        ASSERT_CALL(ioe_submit(ctx, late), -EAGAIN);
        ASSERT_CALL(ioe_try_submit(ctx, late), -EAGAIN);
        ASSERT_CALL(ioe_submit_batch(ctx, &late, 1), -EAGAIN);
        assert_int_equal(get_stats(ctx).in_flight, ROOM);
        int ran = ioe_poll(ctx, 1, -1);
        assert_in_range(ran, 1, ROOM);
        ASSERT_CALL(ioe_submit(ctx, late), 0);
        ASSERT_CALL(ioe_poll(ctx, ROOM, -1), ROOM + 1 - ran);
        assert_int_equal(latch_count(&done), (round + 1) * (ROOM + 1));
        assert_int_equal(ioe_prep_fsync(late, fd), 0);
        for (size_t i = 0; i < ROOM; i++)
            assert_int_equal(ioe_event_free(events[i]), 0);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(late), 0);
    close(fd);
}

/* ---- how long a poll waits ---- */

static void poll_waits_for_what_was_asked(void **state)
{
    enum { EVENTS = 7 };
    ioe_context *ctx = new_context(polled, 16, 16);
    int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    ioe_event *events[EVENTS];
    (void)state;
    /* Nothing in flight: nothing to wait for. */
    ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
    ASSERT_CALL(ioe_poll(ctx, 0, -1), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 0);
    ASSERT_CALL(ioe_poll(ctx, UINT32_MAX, -1), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, INT64_MAX), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, -2), -EINVAL);
    ASSERT_CALL(ioe_poll(ctx, 0, INT64_MIN), -EINVAL);
    for (size_t i = 0; i < EVENTS; i++) {
        events[i] = fsync_event(fd, &done);
        ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
    }
    /* More than is in flight means all that is in flight. */
    ASSERT_CALL(ioe_poll(ctx, 1000, -1), EVENTS);
    assert_int_equal(latch_count(&done), EVENTS);

    /* One that does not finish, among others that do. */
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    ASSERT_CALL(ioe_poll(ctx, 0, -1), 0);
    ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, 0), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, 1), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, 20), 0);
    for (size_t i = 0; i < EVENTS; i++) {
        assert_int_equal(ioe_prep_fsync(events[i], fd), 0);
        ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
    }
    ASSERT_CALL(ioe_poll(ctx, EVENTS, -1), EVENTS);
    for (size_t i = 0; i < EVENTS; i++) {
        assert_int_equal(ioe_prep_fsync(events[i], fd), 0);
        ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
    }
    ASSERT_CALL(ioe_poll(ctx, EVENTS + 1, 50), EVENTS);
    assert_true(stuck_let_go(&stuck));
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    assert_int_equal(latch_count(&done), 3 * EVENTS + 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stuck_free(&stuck);
    for (size_t i = 0; i < EVENTS; i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    close(fd);
}

typedef struct endless {
    ioe_context *ctx;
    int fd;
    unsigned calls;
    bool over;
} endless;

static void go_on(ioe_event *event, void *arg)
{
    endless *e = arg;
    e->calls++;
    if (!e->over && (ioe_prep_fsync(event, e->fd) != 0 || ioe_submit(e->ctx, event) != 0))
        e->over = true;
}

/* A callback that submits anew gives the next poll its work, and does not prolong this one. */
static void poll_ends_while_callbacks_resubmit(void **state)
{
    ioe_context *ctx = new_context(polled, 8, 8);
    endless e = {.ctx = ctx, .fd = temp_file(IN_MEMORY)};
    ioe_event *event = ioe_event_new();
    unsigned ran = 0;
    (void)state;
    assert_int_equal(ioe_prep_fsync(event, e.fd), 0);
    assert_int_equal(ioe_event_set_callback(event, go_on, &e), 0);
    ASSERT_CALL(ioe_submit(ctx, event), 0);
    for (unsigned round = 0; round < 1000; round++) {
        int rc = ioe_poll(ctx, 1, -1);
        assert_true(rc >= 1);
        ran += (unsigned)rc;
        assert_int_equal(e.calls, ran);
    }
    assert_false(e.over);
    e.over = true;
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(event), 0);
    close(e.fd);
}

/* ---- a poll that waits, seen from another thread ---- */

typedef struct bystander {
    visit visit;
    const stuck_read *stuck;
    bool let_go;
} bystander;

static void *visit_and_let_go(void *arg)
{
    bystander *b = arg;
    make_every_call(&b->visit);
    b->let_go = stuck_let_go(b->stuck);
    return NULL;
}

static void others_look_on_while_poll_waits(void **state)
{
    ioe_context *ctx = new_context(polled, 8, 8);
    int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    stuck_read stuck;
    (void)state;
    bystander b = {.visit = {.ctx = ctx, .event = fsync_event(fd, &done)}, .stuck = &stuck};
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    pthread_t thread = start_thread(visit_and_let_go, &b);
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    join_thread(thread);
    assert_true(b.let_go);
    assert_visitor_is_turned_away(&b.visit);
    assert_int_equal(latch_count(&done), 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(b.visit.event), 0);
    stuck_free(&stuck);
    close(fd);
}

static void ignore_signal(int number)
{
    (void)number;
}

typedef struct alarmer {
    pthread_t target;
    pid_t tid;
    atomic_bool back;
} alarmer;

/* Again and again: a signal that comes before the poll has begun to wait ends nothing. */
static void *send_signals(void *arg)
{
    alarmer *a = arg;
    while (!atomic_load(&a->back)) {
        pthread_kill(a->target, SIGUSR1);
        usleep(1000);
    }
    return NULL;
}

/* For good, that is: not at a lock that another thread has for an instant. */
static bool is_asleep(pid_t tid)
{
    char path[64];
    long call = -1;
    task sleeper;
    if (!read_task(tid, &sleeper) || sleeper.run_state != 'S')
        return false;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)tid);
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        if (fscanf(file, "%ld", &call) != 1)
            call = SYS_futex; /* "running" */
        fclose(file);
    }
    return call != SYS_futex;
}

/* One signal, when the poll has gone to sleep. */
static void *send_one_signal(void *arg)
{
    alarmer *a = arg;
    do
        sched_yield();
    while (!is_asleep(a->tid));
    pthread_kill(a->target, SIGUSR1);
    return NULL;
}

/* Also one that submitted in the same call: the kernel answers that with what it took. */
static void one_signal_ends_a_poll_that_submits(void **state)
{
    ioe_context *ctx = new_context(polled, 8, 8);
    latch done = LATCH_INIT;
    stuck_read stuck;
    alarmer a = {.target = pthread_self(), .tid = gettid()};
    struct sigaction old;
    struct sigaction action = {.sa_handler = ignore_signal};
    (void)state;
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    pthread_t thread = start_thread(send_one_signal, &a);
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 0);
    join_thread(thread);
    assert_int_equal(sigaction(SIGUSR1, &old, NULL), 0);
    assert_true(stuck_let_go(&stuck));
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stuck_free(&stuck);
}

static void signal_ends_a_poll(void **state)
{
    ioe_context *ctx = new_context(polled, 8, 8);
    latch done = LATCH_INIT;
    stuck_read stuck;
    alarmer a = {.target = pthread_self()};
    struct sigaction old;
    struct sigaction action = {.sa_handler = ignore_signal};
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    (void)state;
    ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
    pthread_t thread = start_thread(send_signals, &a);
    int without_limit = ioe_poll(ctx, 1, -1);
    int with_limit = ioe_poll(ctx, 1, INT64_C(1000000000));
    atomic_store(&a.back, true);
    join_thread(thread);
    assert_int_equal(without_limit, 0);
    assert_int_equal(with_limit, 0);
    assert_int_equal(sigaction(SIGUSR1, &old, NULL), 0);
    assert_true(stuck_let_go(&stuck));
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(latch_count(&done), 1);
    stuck_free(&stuck);
}

/* ---- the owner has ended ---- */

enum leave { ONLY_SUBMITTED, IN_THE_KERNEL, PARTLY_HANDED_OUT, LEAVES };

typedef struct owner {
    ioe_context *ctx;
    ioe_event *const *events;
    size_t count;
    enum leave how;
    bool failed;
} owner;

static void *own_and_end(void *arg)
{
    owner *o = arg;
    o->failed = ioe_submit_batch(o->ctx, o->events, o->count) != (int)o->count;
    if (o->how == IN_THE_KERNEL)
        o->failed = o->failed || ioe_poll(o->ctx, 0, 0) < 0;
    else if (o->how == PARTLY_HANDED_OUT)
        o->failed = o->failed || ioe_poll(o->ctx, 1, -1) < 1;
    return NULL;
}

/* Reads and writes, of the page cache or of the disk, complete whole for whoever frees. */
static void what_an_ended_owner_left_is_completed(void **state)
{
    enum { EVENTS = 64 };
    const bool direct = *state != NULL;
    int fd = temp_file(direct ? ON_DISK : IN_MEMORY);
    int use = direct ? open_direct(fd) : fd;
    uint8_t *read_bufs = ioe_buffer_alloc(EVENTS * BLOCK, 0);
    uint8_t *write_bufs = ioe_buffer_alloc(EVENTS * BLOCK, 0);
    uint8_t *check = malloc(BLOCK);
    assert_true(read_bufs != NULL && write_bufs != NULL && check != NULL);
    for (int leaving = 0; leaving < LEAVES; leaving++) {
        ioe_context *ctx = new_context(polled, 16, EVENTS);
        latch done = LATCH_INIT;
        ioe_event *events[EVENTS];
        owner o = {.ctx = ctx, .events = events, .count = EVENTS, .how = (enum leave)leaving};
        pattern_fill(write_bufs, EVENTS * BLOCK, 7, 0);
        assert_int_equal(pwrite(fd, write_bufs, EVENTS * BLOCK, 0), EVENTS * BLOCK);
        assert_int_equal(fsync(fd), 0);
        memset(read_bufs, 0, EVENTS * BLOCK);
        pattern_fill(write_bufs, EVENTS * BLOCK, 8 + (uint64_t)leaving, 0);
        for (uint64_t i = 0; i < EVENTS; i++) {
            events[i] = fsync_event(fd, &done);
            assert_int_equal(i % 2 == 0 ? ioe_prep_read(events[i], use, read_bufs + i * BLOCK,
                                                        BLOCK, i * BLOCK)
                                        : ioe_prep_write(events[i], use, write_bufs + i * BLOCK,
                                                         BLOCK, i * BLOCK),
                             0);
        }
        join_thread(start_thread(own_and_end, &o));
        assert_false(o.failed);
        /* Freeing is all that another thread may do now. */
        ASSERT_CALL(ioe_poll(ctx, 0, 0), -EPERM);
        ASSERT_CALL(ioe_drain(ctx, 0), -EPERM);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        assert_int_equal(latch_count(&done), EVENTS);
        for (uint64_t i = 0; i < EVENTS; i++) {
            assert_int_equal(ioe_event_result(events[i]), BLOCK);
            if (i % 2 == 0) {
                assert_true(pattern_holds(read_bufs + i * BLOCK, BLOCK, 7, i * BLOCK));
            } else {
                assert_int_equal(pread(fd, check, BLOCK, (off_t)(i * BLOCK)), BLOCK);
                assert_true(pattern_holds(check, BLOCK, 8 + (uint64_t)leaving, i * BLOCK));
            }
            assert_int_equal(ioe_event_free(events[i]), 0);
        }
    }
    free(check);
    ioe_buffer_free(read_bufs);
    ioe_buffer_free(write_bufs);
    if (direct)
        close(use);
    close(fd);
}

/* ---- polled by the kernel too ---- */

/* Both kernel modes are optional; what is promised is an answer, and data where it is yes. */
static void kernel_modes_work_or_say_why_not(void **state)
{
    enum { ROUNDS = 50, AT_ONCE = 4 };
    static const uint32_t modes[] = {IOE_SQPOLL, IOE_IOPOLL, IOE_SQPOLL | IOE_IOPOLL};
    int fd = temp_file(ON_DISK);
    int direct = open_direct(fd);
    uint8_t *bufs = ioe_buffer_alloc(AT_ONCE * BLOCK, 0);
    ioe_event *events[AT_ONCE];
    ioe_config cfg;
    (void)state;
    only_on(IOE_DRIVER_URING, "IOE_SQPOLL and IOE_IOPOLL are modes of a ring");
    assert_non_null(bufs);
    pattern_fill(bufs, AT_ONCE * BLOCK, 3, 0);
    assert_int_equal(pwrite(fd, bufs, AT_ONCE * BLOCK, 0), AT_ONCE * BLOCK);
    assert_int_equal(fsync(fd), 0);
    for (size_t i = 0; i < AT_ONCE; i++)
        events[i] = ioe_event_new();
    for (size_t m = 0; m < COUNT_OF(modes); m++) {
        ioe_context *ctx = NULL;
        latch done = LATCH_INIT;
        unsigned long whole = 0;
        ASSERT_CALL(ioe_config_init(&cfg, sizeof cfg), 0);
        cfg.flags = IOE_POLLED | modes[m];
        cfg.depth = 8;
        int rc = ioe_context_new(&cfg, &ctx);
        printf("# flags %u: %s\n", (unsigned)cfg.flags, ioe_strerror(rc));
        if (rc != 0) {
            assert_true(rc < 0);
            assert_null(ctx);
            continue;
        }
        for (unsigned round = 0; round < ROUNDS; round++) {
            memset(bufs, 0, AT_ONCE * BLOCK);
            for (uint64_t i = 0; i < AT_ONCE; i++) {
                assert_int_equal(
                    ioe_prep_read(events[i], direct, bufs + i * BLOCK, BLOCK, i * BLOCK), 0);
                assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
                ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
            }
            await(ctx, polled, &done, (round + 1) * AT_ONCE);
            for (uint64_t i = 0; i < AT_ONCE; i++) {
                int64_t result = ioe_event_result(events[i]);
                assert_true(result == BLOCK || (result < 0 && result != IOE_PENDING));
                if (result == BLOCK) {
                    assert_true(pattern_holds(bufs + i * BLOCK, BLOCK, 3, i * BLOCK));
                    whole++;
                }
            }
        }
        printf("# %lu of %u direct reads gave data, else %s\n", whole, ROUNDS * AT_ONCE,
               ioe_strerror((int)ioe_event_result(events[0])));
        if ((modes[m] & IOE_IOPOLL) == 0)
            assert_int_equal(whole, ROUNDS * AT_ONCE);
        ASSERT_CALL(ioe_submit(ctx, NULL), -EINVAL);
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
    for (size_t i = 0; i < AT_ONCE; i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    /* Without polling by the caller there is nobody to reap what the kernel polls. */
    for (size_t workers = 0; workers < 2; workers++) {
        ioe_context *ctx = NULL;
        ASSERT_CALL(ioe_config_init(&cfg, sizeof cfg), 0);
        cfg.flags = IOE_IOPOLL;
        cfg.workers = (uint32_t)workers;
        ASSERT_CALL(ioe_context_new(&cfg, &ctx), -EINVAL);
        assert_null(ctx);
    }
    ioe_buffer_free(bufs);
    close(direct);
    close(fd);
}

/* ---- what ioe_submit_wait waits for ---- */

typedef struct waiting {
    ioe_event *event;
    bool inside;
    latch done;
    ioe_context *ctx;
    ioe_event *barrier;
} waiting;

static void touch_what_is_waited_for(ioe_event *event, void *arg)
{
    waiting *w = arg;
    if (w->inside) {
        ASSERT_CALL(ioe_prep_fdatasync(w->event, -1), -EBUSY);
        ASSERT_CALL(ioe_event_set_callback(w->event, hit_latch, w), -EBUSY);
        ASSERT_CALL(ioe_event_free(w->event), -EBUSY);
    }
    hit_latch(event, &w->done);
}

/* Callbacks of others run inside ioe_submit_wait; until it returns its event is in flight. */
static void what_is_waited_for_is_in_flight(void **state)
{
    enum { ROUNDS = 100, OTHERS = 4 };
    const bool barrier = *state != NULL;
    int fd = temp_file(ON_DISK);
    ioe_context *ctx = new_context(polled, 8, 8);
    char byte = 1;
    for (int round = 0; round < ROUNDS; round++) {
        waiting w = {.event = new_event(), .inside = true, .done = LATCH_INIT};
        ioe_event *others[OTHERS];
        for (int i = 0; i < OTHERS; i++) {
            others[i] = new_event();
            ASSERT_CALL(ioe_prep_write(others[i], fd, &byte, 1, 0), 0);
            ASSERT_CALL(ioe_event_set_callback(others[i], touch_what_is_waited_for, &w), 0);
            ASSERT_CALL(ioe_submit(ctx, others[i]), 0);
        }
        if (barrier) {
            ASSERT_CALL(ioe_prep_fdatasync(w.event, fd), 0);
            ASSERT_CALL(ioe_event_set_flags(w.event, IOE_BARRIER), 0);
        } else {
            ASSERT_CALL(ioe_prep_write(w.event, fd, &byte, 1, 1), 0);
        }
        assert_true(ioe_submit_wait(ctx, w.event) >= 0);
        w.inside = false;
        await(ctx, polled, &w.done, OTHERS);
        for (int i = 0; i < OTHERS; i++)
            ASSERT_CALL(ioe_event_free(others[i]), 0);
        ASSERT_CALL(ioe_event_free(w.event), 0);
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

/* As long as it waits, nobody has been told that it failed. */
static void sync_behind_it(ioe_event *event, void *arg)
{
    waiting *w = arg;
    assert_true(w->inside);
    ASSERT_CALL(ioe_submit(w->ctx, w->barrier), 0);
    hit_latch(event, &w->done);
}

/* A barrier that such a callback submits is behind the write that is waited for, and hears of its error. */
static void barrier_inside_hears_of_what_is_waited_for(void **state)
{
    (void)state;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char byte = 1, read;
    waiting w = {.event = new_event(), .inside = true, .done = LATCH_INIT,
                 .ctx = new_context(polled, 8, 8), .barrier = new_event()};
    ioe_event *other = new_event();
    /* In memory, it is done at once. */
    ASSERT_CALL(ioe_prep_read(other, fd, &read, 1, 0), 0);
    ASSERT_CALL(ioe_event_set_callback(other, sync_behind_it, &w), 0);
    ASSERT_CALL(ioe_submit(w.ctx, other), 0);
    ASSERT_CALL(ioe_prep_fdatasync(w.barrier, fd), 0);
    ASSERT_CALL(ioe_event_set_flags(w.barrier, IOE_BARRIER), 0);
    ASSERT_CALL(ioe_event_set_callback(w.barrier, hit_latch, &w.done), 0);
    /* With a priority it is the reactor's to do. */
    ASSERT_CALL(ioe_prep_write(w.event, fd, &byte, 1, 0), 0);
    ASSERT_CALL(ioe_event_set_priority(w.event, 2 << 13), 0);
    ASSERT_CALL(ioe_submit_wait(w.ctx, w.event), -EBADF);
    w.inside = false;
    await(w.ctx, polled, &w.done, 2);
    assert_int_equal(ioe_event_result(w.barrier), -EBADF);
    ASSERT_CALL(ioe_event_free(other), 0);
    ASSERT_CALL(ioe_event_free(w.event), 0);
    ASSERT_CALL(ioe_event_free(w.barrier), 0);
    ASSERT_CALL(ioe_context_free(w.ctx), 0);
    close(fd);
}

static void threaded_contexts_are_not_polled(void **state)
{
    ioe_context *ctx = new_context(*state, 8, 8);
    ASSERT_CALL(ioe_poll(ctx, 0, 0), -EINVAL);
    ASSERT_CALL(ioe_context_fd(ctx), -EINVAL);
    ASSERT_CALL(ioe_context_free(ctx), 0);
}

int main(void)
{
    static bool direct = true;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_user_owns),
        cmocka_unit_test(maker_is_not_owner),
        cmocka_unit_test(who_could_not_free_is_not_owner),
        cmocka_unit_test(there_are_no_threads),
        cmocka_unit_test(full_queue_says_again_until_polled),
        cmocka_unit_test(poll_waits_for_what_was_asked),
        cmocka_unit_test(poll_ends_while_callbacks_resubmit),
        cmocka_unit_test(others_look_on_while_poll_waits),
        cmocka_unit_test(signal_ends_a_poll),
        cmocka_unit_test(one_signal_ends_a_poll_that_submits),
        cmocka_unit_test(what_an_ended_owner_left_is_completed),
        {"what_an_ended_owner_left_is_completed, O_DIRECT", what_an_ended_owner_left_is_completed,
         NULL, NULL, &direct},
        cmocka_unit_test(kernel_modes_work_or_say_why_not),
        cmocka_unit_test(what_is_waited_for_is_in_flight),
        {"what_is_waited_for_is_in_flight, a barrier", what_is_waited_for_is_in_flight, NULL, NULL,
         &direct},
        cmocka_unit_test(barrier_inside_hears_of_what_is_waited_for),
        for_each_threaded_delivery(threaded_contexts_are_not_polled),
    };
    return RUN_TESTS(tests);
}
