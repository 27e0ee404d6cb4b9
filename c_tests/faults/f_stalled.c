/*
 * Promise: where the device does not answer, time limits end and ioe_cancel ends what is queued, without
 * the disk being touched; of what the kernel has the memory stays the kernel's until it is done with it,
 * and the result is the transfer's own if it was whole. A stalled operation is reported once.
 *
 * See held.h.
 */
#include <stdatomic.h>

#include "held.h"

enum {
    PAGE = 4096,
    CANARY = 0xA5,
    SEED = 3,
    HELD_IN_DOOR = 4, /* events, in three operations */
    ALL_HELD = 3 * HELD_IN_DOOR,
    SLOTS = ALL_HELD - 3,
    QUEUED = 4, /* behind them; the last one has no end */
    SECOND = 1000000000,
    MANY = 100,
    POOL_THREADS = 64, /* the most that it has */
};

/* ---- events whose memory is spoilt as soon as it is given back ---- */

typedef struct stalled {
    ioe_event *event;
    uint64_t id;
    uint8_t *memory;
    uint64_t offset;
    bool in_kernel;
    latch *done;
    atomic_uint calls;
    int64_t result;
    bool early; /* called back while the device held it */
    bool good;  /* what was read is what is there */
    struct timespec called;
} stalled;

static atomic_bool let_go;

static void on_stalled(ioe_event *event, void *arg)
{
    stalled *s = arg;
    s->result = ioe_event_result(event);
    s->early = s->in_kernel && !atomic_load(&let_go);
    s->good = s->result != PAGE || pattern_holds(s->memory, PAGE, SEED, s->offset);
    clock_gettime(CLOCK_MONOTONIC, &s->called);
    memset(s->memory, CANARY, PAGE);
    atomic_fetch_add(&s->calls, 1);
    latch_hit(s->done);
}

static bool is_spoilt(const uint8_t *memory)
{
    for (size_t i = 0; i < PAGE; i++)
        if (memory[i] != CANARY)
            return false;
    return true;
}

static void prepare(stalled *s, latch *done, int action, int fd, uint64_t offset, bool in_kernel)
{
    s->event = new_event();
    s->memory = ioe_buffer_alloc(PAGE, 0);
    s->offset = offset;
    s->in_kernel = in_kernel;
    s->done = done;
    s->result = IOE_PENDING;
    assert_non_null(s->memory);
    if (action == IOE_WRITE)
        pattern_fill(s->memory, PAGE, SEED, offset);
    assert_int_equal(action == IOE_READ    ? ioe_prep_read(s->event, fd, s->memory, PAGE, offset)
                     : action == IOE_WRITE ? ioe_prep_write(s->event, fd, s->memory, PAGE, offset)
                                           : ioe_prep_fdatasync(s->event, fd),
                     0);
    assert_int_equal(ioe_event_set_callback(s->event, on_stalled, s), 0);
    s->id = ioe_event_id(s->event);
}

static void finish(stalled *s)
{
    assert_int_equal(atomic_load(&s->calls), 1);
    assert_false(s->early);
    assert_true(s->good);
    assert_true(is_spoilt(s->memory));
    assert_int_equal(ioe_event_free(s->event), 0);
    ioe_buffer_free(s->memory);
}

/* ---- the ways to what is held */

enum { FILE_PLAIN, FILE_DIRECT, DEVICE, DOORS };

static int open_door(int door)
{
    int fd = door == DEVICE ? open_held_device(O_DIRECT)
                            : open(held_file(), O_RDWR | O_CLOEXEC | (door == FILE_DIRECT ? O_DIRECT : 0));
    assert_true(fd >= 0);
    return fd;
}

/* The pattern, in what is used of the file: a part before N, and one from N on. */
static void fill_file(void)
{
    enum { LEN = 64 * PAGE };
    uint8_t *bytes = ioe_buffer_alloc(LEN, 0);
    assert_non_null(bytes);
    hold_nothing();
    int fd = open_door(FILE_DIRECT);
    for (uint64_t at = 0; at <= held_at(); at += held_at()) {
        pattern_fill(bytes, LEN, SEED, at);
        assert_int_equal(pwrite(fd, bytes, LEN, (off_t)at), LEN);
    }
    close(fd);
    ioe_buffer_free(bytes);
}

static ioe_context *new_stalling_context(const way *w, uint32_t depth, uint32_t stall_ms)
{
    ioe_config cfg;
    ioe_context *ctx = NULL;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.driver = w->driver;
    cfg.depth = depth;
    cfg.workers = w->how->workers;
    cfg.flags = w->how->flags;
    cfg.stall_ms = stall_ms;
    assert_int_equal(ioe_context_new(&cfg, &ctx), 0);
    return ctx;
}

/* ---- the ends: by a time limit, or by ioe_cancel from another thread ---- */

typedef struct ending {
    ioe_context *ctx;
    const uint64_t *ids;
    size_t count;
    int answers[MANY];
} ending;

static void *cancel_all(void *arg)
{
    ending *e = arg;
    for (size_t i = 0; i < e->count; i++)
        e->answers[i] = ioe_cancel(e->ctx, e->ids[i]);
    return NULL;
}

static void assert_answers(ioe_context *ctx, const uint64_t *ids, size_t count, int expected)
{
    assert_in_range(count, 1, MANY);
    ending e = {.ctx = ctx, .ids = ids, .count = count};
    join_thread(start_thread(cancel_all, &e));
    for (size_t i = 0; i < count; i++)
        assert_int_equal(e.answers[i], expected);
}

/* Of the held ones: a plain transfer, a vectored one, and two that travel together, of which the first has
 * no end. By the device it is writes. */
static bool is_to_end(size_t held)
{
    return held % HELD_IN_DOOR != 2;
}

static int64_t elapsed_ns(const struct timespec *from, const struct timespec *to)
{
    return (to->tv_sec - from->tv_sec) * INT64_C(1) * SECOND + to->tv_nsec - from->tv_nsec;
}

/* What is queued has twice the time, so that when it ends the other's time is over, too. False where the
 * machine was so slow that not all came to the device within the time. */
static bool try_ends(const way *w, bool bad, int64_t limit)
{
    stalled held[ALL_HELD], queued[QUEUED];
    int fds[DOORS];
    latch held_done = LATCH_INIT, queued_done = LATCH_INIT;
    uint64_t ids[ALL_HELD + QUEUED];
    size_t end_count = 0;
    struct timespec begin;
    const int error = limit > 0 ? -ETIMEDOUT : -ECANCELED;
    memset(held, 0, sizeof held);
    memset(queued, 0, sizeof queued);
    fill_file();
    for (int door = 0; door < DOORS; door++)
        fds[door] = open_door(door);
    ioe_context *ctx = new_stalling_context(w, SLOTS, 0);
    uint64_t since = log_time(held_log());
    atomic_store(&let_go, false);
    tell_held(BAD, bad);
    tell_held(HOLD, true);

    for (size_t i = 0; i < ALL_HELD; i++) {
        int door = (int)(i / HELD_IN_DOOR), action = door == DEVICE ? IOE_WRITE : IOE_READ;
        /* With a gap before each but the last of a door, which follows the one before it. */
        uint64_t offset = held_at() + (2 * i - (i % HELD_IN_DOOR == 3)) * PAGE;
        prepare(&held[i], &held_done, action, fds[door], offset, true);
        struct iovec iov[2] = {{held[i].memory, PAGE / 2}, {held[i].memory + PAGE / 2, PAGE / 2}};
        if (i % HELD_IN_DOOR == 1)
            assert_int_equal(action == IOE_READ ? ioe_prep_readv(held[i].event, fds[door], iov, 2, offset)
                                                : ioe_prep_writev(held[i].event, fds[door], iov, 2, offset),
                             0);
        held[i].id = ioe_event_id(held[i].event);
        if (is_to_end(i)) {
            assert_int_equal(ioe_event_set_timeout(held[i].event, limit), 0);
            ids[end_count++] = held[i].id;
        }
    }
    for (size_t i = 0; i < ALL_HELD; i += HELD_IN_DOOR) {
        ioe_merger *merger = NULL;
        assert_int_equal(ioe_merger_new(ctx, ioe_event_fd(held[i].event), ioe_event_action(held[i].event),
                                        2 * PAGE, &merger), 0);
        for (size_t j = 0; j < 2; j++) {
            assert_int_equal(ioe_submit(ctx, held[i + j].event), 0);
            assert_int_equal(ioe_merger_add(merger, held[i + 2 + j].event), 0);
        }
        assert_int_equal(ioe_merger_free(merger), 0);
    }
    /* Where one has ended already, its time was over before it began. */
    while (count_held(since, "RW") < SLOTS && latch_count(&held_done) == 0) {
        if (w->how->flags & IOE_POLLED)
            assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
    bool in_time = latch_count(&held_done) == 0;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (size_t i = 0; i < QUEUED && in_time; i++) {
        prepare(&queued[i], &queued_done, i == 1 ? IOE_WRITE : i == 2 ? IOE_FDATASYNC : IOE_READ,
                fds[DEVICE], i * PAGE, false);
        if (i + 1 < QUEUED) {
            assert_int_equal(ioe_event_set_timeout(queued[i].event, 2 * limit), 0);
            ids[end_count++] = queued[i].id;
        }
        assert_int_equal(ioe_submit(ctx, queued[i].event), 0);
    }
    if (in_time) {
        if (limit == 0)
            assert_answers(ctx, ids, end_count, 0);
        await(ctx, w->how, &queued_done, QUEUED - 1);
        /* The disk has not been asked. */
        assert_int_equal(count_requests(held_log(), since, "RW", 0, held_at()), 0);
        assert_int_equal(count_held(since, "F"), 0);
        assert_int_equal(latch_count(&held_done), 0);
        assert_answers(ctx, ids, end_count - (QUEUED - 1), 0);
        assert_answers(ctx, ids + end_count - (QUEUED - 1), QUEUED - 1, -ENOENT);
        for (size_t i = 0; i + 1 < QUEUED; i++) {
            assert_int_equal(queued[i].result, error);
            int64_t elapsed = elapsed_ns(&begin, &queued[i].called);
            assert_in_range(elapsed, 2 * limit, 2 * limit + INT64_C(10) * SECOND);
        }
        assert_int_equal(atomic_load(&queued[QUEUED - 1].calls), 0);
    }

    /* The requests at the device fail, but what is asked again does not. */
    tell_held(BAD, false);
    atomic_store(&let_go, true);
    tell_held(HOLD, false);
    await(ctx, w->how, &held_done, ALL_HELD);
    await(ctx, w->how, &queued_done, in_time ? QUEUED : 0);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    for (size_t i = 0; i < ALL_HELD; i++) {
        if (in_time)
            assert_int_equal(held[i].result, bad && is_to_end(i) ? error : PAGE);
        else
            held[i].early = false;
        finish(&held[i]);
    }
    if (in_time) {
        assert_int_equal(queued[QUEUED - 1].result, PAGE);
        /* What was written is what was in the memory before it was given back. */
        uint8_t *bytes = ioe_buffer_alloc(PAGE, 0);
        assert_non_null(bytes);
        for (size_t i = DEVICE * HELD_IN_DOOR; i < ALL_HELD; i++) {
            assert_int_equal(pread(fds[DEVICE], bytes, PAGE, (off_t)held[i].offset), PAGE);
            assert_true(pattern_holds(bytes, PAGE, SEED, held[i].offset));
        }
        ioe_buffer_free(bytes);
        for (size_t i = 0; i < QUEUED; i++)
            finish(&queued[i]);
    }
    for (int door = 0; door < DOORS; door++)
        close(fds[door]);
    return in_time;
}

static void time_limits_end(void **state)
{
    for (int bad = 0; bad < 2; bad++) {
        int64_t limit = SECOND / 50;
        while (!try_ends(*state, bad, limit))
            limit *= 2;
    }
}

static void cancel_ends(void **state)
{
    for (int bad = 0; bad < 2; bad++)
        assert_true(try_ends(*state, bad, 0));
}

/* A sync that ran to its end has its own result, whatever that is. */
static bool try_sync(const way *w, int flags, bool bad, int64_t limit)
{
    stalled s, queued;
    latch done = LATCH_INIT, queued_done = LATCH_INIT;
    memset(&s, 0, sizeof s);
    memset(&queued, 0, sizeof queued);
    hold_nothing();
    int fd = open_held_device(flags);
    ioe_context *ctx = new_stalling_context(w, 1, 0);
    uint64_t since = log_time(held_log());
    atomic_store(&let_go, false);
    tell_held(BAD_FLUSH, bad);
    tell_held(HOLD_FLUSH, true);
    prepare(&s, &done, IOE_FDATASYNC, fd, 0, true);
    prepare(&queued, &queued_done, IOE_FDATASYNC, fd, 0, false);
    assert_int_equal(ioe_event_set_timeout(s.event, limit), 0);
    assert_int_equal(ioe_event_set_timeout(queued.event, 2 * limit), 0);
    assert_int_equal(ioe_submit(ctx, s.event), 0);
    while (count_held(since, "F") == 0 && latch_count(&done) == 0) {
        if (w->how->flags & IOE_POLLED)
            assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
    bool in_time = latch_count(&done) == 0;
    assert_int_equal(ioe_submit(ctx, queued.event), 0);
    if (in_time && limit == 0)
        assert_answers(ctx, (uint64_t[]){s.id, queued.id}, 2, 0);
    if (in_time) {
        await(ctx, w->how, &queued_done, 1);
        assert_int_equal(queued.result, limit > 0 ? -ETIMEDOUT : -ECANCELED);
        assert_int_equal(latch_count(&done), 0);
        assert_int_equal(count_held(since, "F"), 1);
    }
    atomic_store(&let_go, true);
    tell_held(HOLD_FLUSH, false);
    await(ctx, w->how, &done, 1);
    await(ctx, w->how, &queued_done, 1);
    assert_int_equal(ioe_context_free(ctx), 0);
    if (in_time) {
        assert_int_equal(s.result, bad ? -EIO : 0);
        assert_int_equal(count_held(since, "F"), 1);
    } else {
        s.early = false;
    }
    hold_nothing();
    finish(&s);
    finish(&queued);
    close(fd);
    return in_time;
}

static void sync_has_its_own_result(void **state)
{
    for (int i = 0; i < 4; i++) {
        int flags = i & 1 ? O_DIRECT : 0;
        int64_t limit = SECOND / 50;
        while (!try_sync(*state, flags, i & 2, limit))
            limit *= 2;
        assert_true(try_sync(*state, flags, i & 2, 0));
    }
}

/* More than the pool has threads for, and than a ring has: what none has begun comes back at once, and
 * exactly what came to the device is read. */
static void what_has_not_begun_comes_back(void **state)
{
    const way *w = *state;
    stalled *all = calloc(MANY, sizeof *all);
    uint64_t ids[MANY];
    latch done = LATCH_INIT;
    size_t whole = 0;
    assert_non_null(all);
    fill_file();
    int fd = open_door(FILE_PLAIN);
    ioe_context *ctx = new_stalling_context(w, 2 * MANY, 0);
    uint64_t since = log_time(held_log());
    atomic_store(&let_go, false);
    tell_held(HOLD, true);
    for (size_t i = 0; i < MANY; i++) {
        prepare(&all[i], &done, IOE_READ, fd, held_at() + (i % 64) * PAGE, false);
        ids[i] = all[i].id;
        assert_int_equal(ioe_submit(ctx, all[i].event), 0);
    }
    bool pool = w->driver != IOE_DRIVER_URING;
    await_held(ctx, w, since, "R", pool ? POOL_THREADS : 1);
    assert_answers(ctx, ids, MANY, 0);
    if (pool)
        await(ctx, w->how, &done, MANY - POOL_THREADS);
    tell_held(HOLD, false);
    await(ctx, w->how, &done, MANY);
    assert_int_equal(ioe_context_free(ctx), 0);
    for (size_t i = 0; i < MANY; i++) {
        assert_true(all[i].result == PAGE || all[i].result == -ECANCELED);
        whole += all[i].result == PAGE;
        finish(&all[i]);
    }
    assert_int_equal(whole, count_held(since, "R"));
    if (pool)
        assert_int_equal(whole, POOL_THREADS);
    free(all);
    close(fd);
}

/* ---- stall_ms ---- */

enum { STALL_MS = 20 };

static log_lines lines = LOG_LINES_INIT;

/* The value is how many lines tell of this operation; each says an age that is old enough. */
static size_t count_reports(const char *action, int fd, uint64_t offset, uint64_t len)
{
    char words[768], link[64], name[512];
    size_t count = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t name_len = readlink(link, name, sizeof name - 1);
    assert_true(name_len > 0);
    name[name_len] = '\0';
    snprintf(words, sizeof words, "%s of descriptor %d (%s), offset %" PRIu64 ", length %" PRIu64 ", ",
             action, fd, name, offset, len);
    pthread_mutex_lock(&lines.mutex);
    for (size_t i = 0; i < lines.count && i < COUNT_OF(lines.levels); i++) {
        const char *age = strstr(lines.texts[i], " for ");
        count += lines.levels[i] == IOE_LOG_WARN && strstr(lines.texts[i], words) != NULL && age != NULL &&
                 strtoul(age + 5, NULL, 10) >= STALL_MS;
    }
    pthread_mutex_unlock(&lines.mutex);
    return count;
}

static void await_report(ioe_context *ctx, const way *w, const char *action, int fd, uint64_t offset,
                         uint64_t len)
{
    while (count_reports(action, fd, offset, len) == 0) {
        if (w->how->flags & IOE_POLLED)
            assert_true(ioe_poll(ctx, 1, 1) >= 0);
        sched_yield();
    }
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

static void stalled_is_reported_once(void **state)
{
    const way *w = *state;
    bool polled = w->how->flags & IOE_POLLED;
    uint64_t at = held_at();
    stalled s[6];
    latch done = LATCH_INIT;
    ioe_merger *merger = NULL;
    pthread_t thread;
    memset(s, 0, sizeof s);
    fill_file();
    int file = open_door(FILE_DIRECT), device = open_door(DEVICE);
    ioe_context *ctx = new_stalling_context(w, 16, STALL_MS);
    lines.count = 0;
    ioe_set_log(keep_line, &lines, IOE_LOG_WARN);
    uint64_t since = log_time(held_log());
    atomic_store(&let_go, false);
    tell_held(HOLD, true);
    tell_held(HOLD_FLUSH, true);
    prepare(&s[0], &done, IOE_READ, file, at, true);
    prepare(&s[1], &done, IOE_WRITE, device, at + 3 * PAGE, true);
    prepare(&s[2], &done, IOE_WRITE, device, at + 4 * PAGE, true);
    prepare(&s[3], &done, IOE_FDATASYNC, device, 0, true);
    prepare(&s[4], &done, IOE_READ, file, at + 8 * PAGE, true);
    prepare(&s[5], &done, IOE_READ, file, at + 9 * PAGE, true);
    waiting one = {ctx, s[5].event};
    if (!polled) {
        thread = start_thread(wait_for_event, &one);
        await_held(ctx, w, since, "R", 1);
    }

    /* Each is reported after the one before it: when the last one is, the first would have been again. */
    assert_int_equal(ioe_submit(ctx, s[0].event), 0);
    await_report(ctx, w, "Read", file, at, PAGE);
    assert_int_equal(ioe_merger_new(ctx, device, IOE_WRITE, 2 * PAGE, &merger), 0);
    assert_int_equal(ioe_merger_add(merger, s[1].event), 0);
    assert_int_equal(ioe_merger_add(merger, s[2].event), 0);
    await_report(ctx, w, "Write", device, at + 3 * PAGE, 2 * PAGE);
    assert_int_equal(ioe_submit(ctx, s[3].event), 0);
    await_report(ctx, w, "Fdatasync", device, 0, 0);
    assert_int_equal(ioe_submit(ctx, s[4].event), 0);
    await_report(ctx, w, "Read", file, at + 8 * PAGE, PAGE);
    if (!polled)
        await_report(ctx, w, "Read", file, at + 9 * PAGE, PAGE);
    assert_int_equal(latch_count(&done), 0);

    atomic_store(&let_go, true);
    hold_nothing();
    await(ctx, w->how, &done, 5);
    if (!polled)
        join_thread(thread);
    assert_int_equal(ioe_merger_free(merger), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    ioe_set_log(NULL, NULL, IOE_LOG_OFF);
    assert_int_equal(count_reports("Read", file, at, PAGE), 1);
    assert_int_equal(count_reports("Write", device, at + 3 * PAGE, 2 * PAGE), 1);
    assert_int_equal(count_reports("Fdatasync", device, 0, 0), 1);
    assert_int_equal(count_reports("Read", file, at + 8 * PAGE, PAGE), 1);
    assert_int_equal(count_reports("Read", file, at + 9 * PAGE, PAGE), !polled);
    assert_int_equal(lines.count, polled ? 4 : 5);
    if (!polled)
        assert_int_equal(ioe_event_result(s[5].event), PAGE);
    on_stalled(s[5].event, &s[5]);
    for (size_t i = 0; i < COUNT_OF(s); i++)
        finish(&s[i]);
    close(file);
    close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(time_limits_end),
        for_each_way(cancel_ends),
        for_each_way(sync_has_its_own_result),
        for_each_way(what_has_not_begun_comes_back),
        for_each_way(stalled_is_reported_once),
    };
    return RUN_TESTS(tests);
}
