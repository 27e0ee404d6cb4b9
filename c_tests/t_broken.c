/*
 * Promise: a kernel interface that becomes forbidden while it runs costs no event. Everything
 * accepted has its one callback: with the errno where the kernel had it and can no longer tell, else
 * whole; what comes later is done by the pool; the info tells; ioe_context_free returns.
 *
 * seccomp(2) forbids it in all threads of a child, at a moment when there is work.
 */
#include <poll.h>

#include "refuse.h"
#include "stuck.h"

enum { BLOCK = 4096, MAX_CALLS = 3, DEPTH = 16, STUCK = 3, BURST = 40, LATER = 12 };

typedef struct breakage {
    int driver;
    refused_call calls[MAX_CALLS];
    size_t count;
} breakage;

static const breakage breakages[] = {
    {IOE_DRIVER_URING, {{SYS_io_uring_enter, EPERM, 0}}, 1},
    {IOE_DRIVER_URING, {{SYS_io_uring_enter, ENOSYS, 0}}, 1},
    {IOE_DRIVER_URING, {{SYS_io_uring_enter, EPERM, 0}, {SYS_io_uring_register, EPERM, 0}}, 2},
    {IOE_DRIVER_AIO, {{SYS_io_submit, EPERM, 0}}, 1},
    {IOE_DRIVER_AIO, {{SYS_io_submit, ENOSYS, 0}}, 1},
    {IOE_DRIVER_AIO, {{SYS_io_getevents, EPERM, 0}}, 1},
    {IOE_DRIVER_AIO, {{SYS_io_submit, EACCES, 0}, {SYS_io_getevents, EACCES, 0}}, 2},
    {IOE_DRIVER_AIO,
     {{SYS_io_submit, EPERM, 0}, {SYS_io_getevents, EPERM, 0}, {SYS_io_destroy, EPERM, 0}},
     3},
};

static const delivery sqpoll = {"one worker, IOE_SQPOLL", IOE_SQPOLL, 1};
static const delivery sqpoll_polled = {"polled, IOE_SQPOLL", IOE_POLLED | IOE_SQPOLL, 0};

typedef struct broken_case {
    const breakage *b;
    const delivery *how;
    int fd, direct;
    int error;
} broken_case;

/* The body once for each way to break, on a file with and without O_DIRECT. */
static void break_each(int (*body)(void *arg), const delivery *how)
{
    for (size_t i = 0; i < COUNT_OF(breakages); i++) {
        broken_case c = {.b = &breakages[i], .how = how, .error = breakages[i].calls[0].error};
        if ((how->flags & IOE_SQPOLL) && c.b->driver != IOE_DRIVER_URING)
            continue;
        if (!works_here(c.b->driver)) {
            printf("# %s does not work here\n", ioe_driver_name(c.b->driver));
            continue;
        }
        c.fd = temp_file(ON_DISK);
        c.direct = open_direct(c.fd);
        int step = in_child(body, &c);
        if (step != 0)
            printf("# %s, way %zu\n", ioe_driver_name(c.b->driver), i);
        assert_int_equal(step, 0);
        close(c.direct);
        close(c.fd);
    }
}

static log_lines said = LOG_LINES_INIT;

static int make(const broken_case *c, uint32_t queue_size, ioe_context **out)
{
    ioe_config cfg;
    ioe_info info;
    CHILD_CHECK(ioe_config_init(&cfg, sizeof cfg) == 0);
    cfg.driver = c->b->driver;
    cfg.flags = c->how->flags;
    cfg.workers = c->how->workers;
    cfg.depth = DEPTH;
    cfg.queue_size = queue_size;
    CHILD_CHECK(ioe_context_new(&cfg, out) == 0);
    CHILD_CHECK(ioe_context_info(*out, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == c->b->driver);
    CHILD_CHECK(info.uring_errno == 0 && info.aio_errno == 0);
    ioe_set_log(keep_line, &said, IOE_LOG_WARN);
    return 0;
}

static int forbid(const broken_case *c)
{
    CHILD_CHECK(refuse_calls(c->b->calls, c->b->count));
    return 0;
}

/* Where a kernel thread takes the work, a ring may do without being entered for a while. */
static int until_noticed(const broken_case *c, ioe_context *ctx)
{
    ioe_info info;
    ioe_event *event = ioe_event_new();
    CHILD_CHECK(event != NULL);
    do {
        latch done = LATCH_INIT;
        CHILD_CHECK(ioe_event_set_callback(event, hit_latch, &done) == 0);
        CHILD_CHECK(ioe_prep_fsync(event, c->fd) == 0);
        CHILD_CHECK(ioe_submit(ctx, event) == 0);
        CHILD_CHECK(ioe_drain(ctx, -1) == 0);
        CHILD_CHECK(latch_count(&done) == 1);
        CHILD_CHECK(ioe_event_result(event) == 0 || ioe_event_result(event) == -c->error);
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
    } while (info.driver != IOE_DRIVER_POOL);
    CHILD_CHECK(ioe_event_free(event) == 0);
    return 0;
}

/* The info and the log tell, the context works on, and ends with nothing left. */
static int goes_on_and_ends(const broken_case *c, ioe_context *ctx)
{
    ioe_info info;
    ioe_stats stats;
    if (c->how->flags & IOE_SQPOLL)
        CHILD_CHECK(until_noticed(c, ctx) == 0);
    CHILD_CHECK(every_action_works(ctx, c->fd) == 0);
    CHILD_CHECK(every_action_works(ctx, c->direct) == 0);
    CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == IOE_DRIVER_POOL);
    CHILD_CHECK(info.depth == DEPTH);
    CHILD_CHECK(info.uring_errno == (c->b->driver == IOE_DRIVER_URING ? c->error : 0));
    CHILD_CHECK(info.aio_errno == (c->b->driver == IOE_DRIVER_AIO ? c->error : 0));
    CHILD_CHECK(strstr(info.reason, ioe_driver_name(c->b->driver)) != NULL);
    CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, "") == 1);
    CHILD_CHECK(ioe_context_stats(ctx, &stats, sizeof stats) == 0);
    CHILD_CHECK(stats.accepted == stats.completed && stats.in_flight == 0);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    await_no_threads();
    return 0;
}

/* ---- an event, and what became of it ---- */

typedef struct record {
    ioe_event *event;
    atomic_uint calls;
    int64_t result;
    int64_t whole;
    latch *done;
} record;

static void note(ioe_event *event, void *arg)
{
    record *r = arg;
    r->result = ioe_event_result(event);
    atomic_fetch_add(&r->calls, 1);
    latch_hit(r->done);
}

/* The kinds of work in turn, each write in a block of its own. */
static int prepare(record *r, uint64_t number, const broken_case *c, uint8_t *bufs, latch *done)
{
    const int fd = number / 5 % 2 == 0 ? c->direct : c->fd;
    uint8_t *buf = bufs + number * BLOCK;
    const bool moves = number % 5 < 3;
    *r = (record){.event = ioe_event_new(), .whole = moves ? BLOCK : 0, .done = done};
    CHILD_CHECK(r->event != NULL);
    pattern_fill(buf, BLOCK, 3, number * BLOCK);
    CHILD_CHECK((number % 5 < 2    ? ioe_prep_write(r->event, fd, buf, BLOCK, number * BLOCK)
                 : number % 5 == 2 ? ioe_prep_read(r->event, fd, buf, BLOCK, 0)
                 : number % 5 == 3 ? ioe_prep_fsync(r->event, fd)
                                   : ioe_prep_fdatasync(r->event, fd)) == 0);
    CHILD_CHECK(ioe_event_set_callback(r->event, note, r) == 0);
    return 0;
}

static int is_complete(const record *r, const broken_case *c, bool errno_allowed)
{
    CHILD_CHECK(atomic_load(&r->calls) == 1);
    CHILD_CHECK(r->result == r->whole || (errno_allowed && r->result == -c->error));
    return 0;
}

/* What a write said it wrote is on the file. */
static int is_written(const record *r, uint64_t number, const broken_case *c)
{
    uint8_t block[BLOCK];
    if (ioe_event_action(r->event) != IOE_WRITE || r->result != BLOCK)
        return 0;
    CHILD_CHECK(syscall(SYS_pread64, c->fd, block, BLOCK, number * BLOCK) == BLOCK);
    CHILD_CHECK(pattern_holds(block, BLOCK, 3, number * BLOCK));
    return 0;
}

/* Polled, sleeping on the descriptor of the context as an event loop does. */
static int wait_until(ioe_context *ctx, const delivery *how, latch *done, unsigned long target)
{
    if (how->flags & IOE_POLLED) {
        struct pollfd one = {.fd = ioe_context_fd(ctx), .events = POLLIN};
        CHILD_CHECK(one.fd >= 0);
        CHILD_CHECK(ioe_poll(ctx, 0, 0) >= 0);
        while (latch_count(done) < target) {
            CHILD_CHECK(poll(&one, 1, -1) == 1 || errno == EINTR);
            CHILD_CHECK(ioe_poll(ctx, 0, 0) >= 0);
        }
    }
    latch_wait(done, target);
    return 0;
}

static uint8_t *new_file_and_buffers(const broken_case *c, uint64_t blocks)
{
    uint8_t *bufs = ioe_buffer_alloc(blocks * BLOCK, 0);
    if (bufs == NULL || pwrite(c->fd, bufs, BLOCK, 0) != BLOCK || fsync(c->fd) != 0)
        return NULL;
    forget_plain_calls();
    return bufs;
}

/* ---- nothing was in the kernel: nothing may fail ---- */

static int breaks_while_idle(void *arg)
{
    static record later[LATER];
    const broken_case *c = arg;
    ioe_context *ctx = NULL;
    latch done = LATCH_INIT;
    uint8_t *bufs = new_file_and_buffers(c, LATER);
    unsigned synced = 0;
    CHILD_CHECK(bufs != NULL);
    size_t descriptors = count_descriptors();
    CHILD_CHECK(make(c, 64, &ctx) == 0);
    CHILD_CHECK(every_action_works(ctx, c->direct) == 0);
    CHILD_CHECK(forbid(c) == 0);
    forget_plain_calls();
    for (uint64_t i = 0; i < LATER; i++) {
        CHILD_CHECK(prepare(&later[i], i, c, bufs, &done) == 0);
        CHILD_CHECK(ioe_submit(ctx, later[i].event) == 0);
    }
    CHILD_CHECK(wait_until(ctx, c->how, &done, LATER) == 0);
    for (uint64_t i = 0; i < LATER; i++) {
        CHILD_CHECK(is_complete(&later[i], c, false) == 0);
        CHILD_CHECK(is_written(&later[i], i, c) == 0);
        synced += ioe_event_action(later[i].event) == IOE_FSYNC;
        CHILD_CHECK(ioe_event_free(later[i].event) == 0);
    }
    /* A sync that says so has been done. io_getevents(2) alone still lets AIO do it. */
    if (c->b->calls[0].number != SYS_io_getevents)
        CHILD_CHECK(atomic_load(&plain_calls[IOE_FSYNC]) == synced && synced > 0);
    CHILD_CHECK(goes_on_and_ends(c, ctx) == 0);
    CHILD_CHECK(count_descriptors() == descriptors);
    return 0;
}

static void interface_forbidden_while_idle(void **state)
{
    break_each(breaks_while_idle, *state);
}

/* ---- with work in the kernel, behind it, and after ---- */

static int breaks_at_work(void *arg)
{
    static stuck_read stuck[STUCK];
    static record held[STUCK], burst[BURST], later[LATER];
    const broken_case *c = arg;
    ioe_context *ctx = NULL;
    latch done = LATCH_INIT, held_done = LATCH_INIT;
    uint8_t *bufs = new_file_and_buffers(c, BURST + LATER);
    CHILD_CHECK(bufs != NULL);
    CHILD_CHECK(make(c, 64, &ctx) == 0);
    for (size_t i = 0; i < STUCK; i++) {
        stuck_prepare(&stuck[i], note, &held[i]);
        held[i] = (record){.event = stuck[i].event, .whole = 8, .done = &held_done};
        CHILD_CHECK(ioe_submit(ctx, stuck[i].event) == 0);
    }
    if (c->how->flags & IOE_POLLED)
        CHILD_CHECK(ioe_poll(ctx, 0, 0) >= 0);
    for (uint64_t i = 0; i < BURST; i++) {
        CHILD_CHECK(prepare(&burst[i], i, c, bufs, &done) == 0);
        CHILD_CHECK(ioe_submit(ctx, burst[i].event) == 0);
    }
    if (c->how->flags & IOE_POLLED)
        CHILD_CHECK(ioe_poll(ctx, 0, 0) >= 0);
    CHILD_CHECK(forbid(c) == 0);
    for (uint64_t i = 0; i < LATER; i++) {
        CHILD_CHECK(prepare(&later[i], BURST + i, c, bufs, &done) == 0);
        CHILD_CHECK(ioe_submit(ctx, later[i].event) == 0);
    }
    CHILD_CHECK(wait_until(ctx, c->how, &done, BURST + LATER) == 0);
    for (size_t i = 0; i < STUCK; i++)
        CHILD_CHECK(stuck_let_go(&stuck[i]));
    CHILD_CHECK(ioe_drain(ctx, -1) == 0);

    for (uint64_t i = 0; i < BURST + LATER; i++) {
        const record *r = i < BURST ? &burst[i] : &later[i - BURST];
        CHILD_CHECK(is_complete(r, c, true) == 0);
        CHILD_CHECK(is_written(r, i, c) == 0);
        CHILD_CHECK(ioe_event_free(r->event) == 0);
    }
    for (size_t i = 0; i < STUCK; i++) {
        CHILD_CHECK(is_complete(&held[i], c, true) == 0);
        CHILD_CHECK(held[i].result < 0 || stuck[i].word == 1);
        CHILD_CHECK(ioe_event_free(stuck[i].event) == 0);
    }
    return goes_on_and_ends(c, ctx);
}

static void interface_forbidden_at_work(void **state)
{
    break_each(breaks_at_work, *state);
}

/* ---- at any moment, with submitters who wait for room ---- */

enum { SUBMITTERS = 2, EACH = 300, ROOM = 8 };

typedef struct submitter {
    const broken_case *c;
    ioe_context *ctx;
    record *records;
    uint8_t *bufs;
    latch *done;
    uint64_t first;
    atomic_uint *begun;
    int outcome;
} submitter;

static int submit_records(submitter *s)
{
    for (uint64_t i = s->first; i < s->first + EACH; i++) {
        CHILD_CHECK(prepare(&s->records[i], i, s->c, s->bufs, s->done) == 0);
        int rc;
        while ((rc = ioe_submit(s->ctx, s->records[i].event)) == -EAGAIN)
            CHILD_CHECK(ioe_poll(s->ctx, 1, -1) >= 0);
        CHILD_CHECK(rc == 0);
        if (atomic_fetch_add(s->begun, 1) == EACH / 3 && (s->c->how->flags & IOE_POLLED))
            CHILD_CHECK(forbid(s->c) == 0);
    }
    return 0;
}

static void *submit_in_thread(void *arg)
{
    submitter *s = arg;
    s->outcome = submit_records(s);
    return NULL;
}

static int breaks_in_a_storm(void *arg)
{
    static record records[SUBMITTERS * EACH];
    const broken_case *c = arg;
    const bool polls = c->how->flags & IOE_POLLED;
    const unsigned submitters = polls ? 1 : SUBMITTERS;
    ioe_context *ctx = NULL;
    latch done = LATCH_INIT;
    submitter all[SUBMITTERS];
    pthread_t threads[SUBMITTERS];
    atomic_uint begun = 0;
    unsigned failed = 0;
    uint8_t *bufs = new_file_and_buffers(c, SUBMITTERS * EACH);
    CHILD_CHECK(bufs != NULL);
    CHILD_CHECK(make(c, ROOM, &ctx) == 0);
    for (unsigned t = 0; t < submitters; t++) {
        all[t] = (submitter){c, ctx, records, bufs, &done, t * EACH, &begun, 0};
        if (polls)
            submit_in_thread(&all[t]);
        else
            CHILD_CHECK(pthread_create(&threads[t], NULL, submit_in_thread, &all[t]) == 0);
    }
    while (!polls && atomic_load(&begun) < EACH / 3)
        sched_yield();
    if (!polls)
        CHILD_CHECK(forbid(c) == 0);
    for (unsigned t = 0; t < submitters; t++) {
        if (!polls)
            CHILD_CHECK(pthread_join(threads[t], NULL) == 0);
        CHILD_CHECK(all[t].outcome == 0);
    }
    CHILD_CHECK(ioe_drain(ctx, -1) == 0);
    for (uint64_t i = 0; i < submitters * EACH; i++) {
        CHILD_CHECK(is_complete(&records[i], c, true) == 0);
        CHILD_CHECK(is_written(&records[i], i, c) == 0);
        failed += records[i].result < 0;
        CHILD_CHECK(ioe_event_free(records[i].event) == 0);
    }
    /* No more than the kernel can have had. */
    CHILD_CHECK(failed <= DEPTH);
    return goes_on_and_ends(c, ctx);
}

static void interface_forbidden_at_any_moment(void **state)
{
    break_each(breaks_in_a_storm, *state);
}

/* ---- the end of a context that nobody noticed was broken ---- */

static int ends_broken(void *arg)
{
    static stuck_read stuck[STUCK];
    static record held[STUCK], last;
    const broken_case *c = arg;
    ioe_context *ctx = NULL;
    latch done = LATCH_INIT, last_done = LATCH_INIT;
    CHILD_CHECK(make(c, 64, &ctx) == 0);
    for (size_t i = 0; i < STUCK; i++) {
        stuck_prepare(&stuck[i], note, &held[i]);
        held[i] = (record){.event = stuck[i].event, .whole = 8, .done = &done};
        CHILD_CHECK(ioe_submit(ctx, stuck[i].event) == 0);
    }
    /* Once this one is back, the kernel has the others: they came first. */
    last = (record){.event = ioe_event_new(), .done = &last_done};
    CHILD_CHECK(ioe_prep_fsync(last.event, c->fd) == 0);
    CHILD_CHECK(ioe_event_set_callback(last.event, note, &last) == 0);
    CHILD_CHECK(ioe_submit(ctx, last.event) == 0);
    CHILD_CHECK(wait_until(ctx, c->how, &last_done, 1) == 0);
    CHILD_CHECK(forbid(c) == 0);
    /* Who polls finds out, and what a ring has ends with the ring. What the pool has is nobody's to
     * end, and a reactor that sleeps in the kernel already is waiting for it there. */
    const bool finds_out = c->b->driver == IOE_DRIVER_URING && (c->how->flags & IOE_POLLED);
    for (size_t i = 0; i < STUCK && !finds_out; i++)
        CHILD_CHECK(stuck_let_go(&stuck[i]));
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    for (size_t i = 0; i < STUCK; i++)
        CHILD_CHECK(is_complete(&held[i], c, true) == 0);
    await_no_threads();
    return 0;
}

static void context_ends_though_forbidden(void **state)
{
    break_each(ends_broken, *state);
}

/* ---- a fork afterwards ---- */

static int free_in_grandchild(void *arg)
{
    alarm(CHILD_TIME_LIMIT);
    CHILD_CHECK(ioe_drain(arg, -1) == -EOWNERDEAD);
    CHILD_CHECK(ioe_context_free(arg) == 0);
    /* The numbers that the interface had may be somebody else's by now. */
    for (int fd = 3; fd < 64; fd++)
        CHILD_CHECK(fcntl(fd, F_GETFD) >= 0 || errno == EBADF);
    return 0;
}

static int forks_broken(void *arg)
{
    enum { MORE = 16 };
    const broken_case *c = arg;
    ioe_context *ctx = NULL;
    int more[MORE];
    CHILD_CHECK(make(c, 64, &ctx) == 0);
    CHILD_CHECK(forbid(c) == 0);
    CHILD_CHECK(every_action_works(ctx, c->direct) == 0);
    for (int i = 0; i < MORE; i++)
        CHILD_CHECK((more[i] = fcntl(c->fd, F_DUPFD_CLOEXEC, 0)) >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        int step = free_in_grandchild(ctx);
        for (int i = 0; i < MORE; i++)
            step = fcntl(more[i], F_GETFD) < 0 ? 2 : step;
        _exit(step);
    }
    int status = 0;
    CHILD_CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHILD_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return goes_on_and_ends(c, ctx);
}

static void child_of_a_broken_one_closes_nothing_else(void **state)
{
    break_each(forks_broken, *state);
}

#define with_sqpoll(test)                                                                          \
    {#test ", one worker, IOE_SQPOLL", test, NULL, NULL, (void *)&sqpoll},                         \
    {#test ", polled, IOE_SQPOLL", test, NULL, NULL, (void *)&sqpoll_polled}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(interface_forbidden_while_idle),
        for_each_delivery(interface_forbidden_at_work),
        with_sqpoll(interface_forbidden_at_work),
        for_each_delivery(interface_forbidden_at_any_moment),
        with_sqpoll(interface_forbidden_at_any_moment),
        with_and_without_thread(context_ends_though_forbidden),
        with_sqpoll(context_ends_though_forbidden),
        with_and_without_thread(child_of_a_broken_one_closes_nothing_else),
    };
    unsetenv("IOE_DRIVER");
    return RUN_TESTS(tests);
}
