/*
 * Promise: a transfer is whole, or ended by the end of the file, or an error, where the kernel
 * itself moves 1000 bytes at a time, or any number; and so is each of many that travel together. And
 * an operation that stays in the kernel holds nobody back but those who wait for it.
 *
 * IOE_TEST_FUSE is a directory of shortfs, where the name of a file says what happens to it.
 */
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "held.h"
#include "members.h"

enum {
    PAGE = 4096,
    SIZE = 200 * 1000 + 7, /* more than three requests of FUSE */
    REQUEST = 65536,
    BROKEN_AT = 70001,
    CANARY = 0xA5,
    DEPTH = 8,
};

/* ---- files of that file system ---- */

/* Open twice: with the page cache's flags and as direct. There is no cache in either. */
typedef struct nuisance {
    char path[512];
    int fds[2];
} nuisance;

static nuisance open_nuisance(const char *kind)
{
    nuisance n;
    snprintf(n.path, sizeof n.path, "%s/%s-%d", setting("IOE_TEST_FUSE"), kind, (int)getpid());
    n.fds[0] = open(n.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    n.fds[1] = open(n.path, O_RDWR | O_DIRECT | O_CLOEXEC);
    assert_true(n.fds[0] >= 0 && n.fds[1] >= 0);
    return n;
}

static void close_nuisance(const nuisance *n)
{
    close(n->fds[0]);
    close(n->fds[1]);
    assert_int_equal(unlink(n->path), 0);
}

static void store(int fd, const uint8_t *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t moved = pwrite(fd, bytes + at, len - at, (off_t)at);
        assert_true(moved > 0);
        at += (size_t)moved;
    }
}

/* The file is SIZE bytes long and begins with those. */
static void assert_content(int fd, const uint8_t *bytes, size_t len)
{
    struct stat st;
    uint8_t *buf = malloc(len);
    assert_non_null(buf);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    for (size_t at = 0; at < len;) {
        ssize_t moved = pread(fd, buf + at, len - at, (off_t)at);
        assert_true(moved > 0);
        at += (size_t)moved;
    }
    assert_memory_equal(buf, bytes, len);
    free(buf);
}

/* The file system does what this test is about. */
static void assert_short(int fd)
{
    uint8_t buf[5000];
    ssize_t moved = pread(fd, buf, sizeof buf, 0);
    assert_true(moved > 0 && moved < (ssize_t)sizeof buf);
}

/* ---- whole transfers ---- */

typedef struct shape {
    bool vectored, waiting;
} shape;

static const shape shapes[] = {{false, false}, {true, false}, {false, true}, {true, true}};

/* Odd pieces, an empty one, and one larger than a request. */
static int cut(struct iovec *iov, uint8_t *buf, size_t len)
{
    const size_t cuts[] = {1, 999, 0, 1001, len / 2, len};
    size_t at = 0;
    int count = 0;
    for (size_t i = 0; i < COUNT_OF(cuts); i++) {
        size_t end = i + 1 == COUNT_OF(cuts) ? len : at + cuts[i];
        end = end < len ? end : len;
        iov[count++] = (struct iovec){buf + at, end - at};
        at = end;
    }
    return count;
}

static int64_t transfer(ioe_context *ctx, const way *w, const shape *how, ioe_event *e, int action,
                        int fd, uint8_t *buf, size_t len, uint64_t offset)
{
    struct iovec iov[8];
    int count = cut(iov, buf, len);
    int rc;
    if (action == IOE_READ)
        rc = how->vectored ? ioe_prep_readv(e, fd, iov, count, offset)
                           : ioe_prep_read(e, fd, buf, len, offset);
    else
        rc = how->vectored ? ioe_prep_writev(e, fd, iov, count, offset)
                           : ioe_prep_write(e, fd, buf, len, offset);
    assert_int_equal(rc, 0);
    return how->waiting ? ioe_submit_wait(ctx, e) : run_event(ctx, w->how, e);
}

/* Whether FUSE has the transfer without the caller's waiting in a system call. Then the kernel has
 * its own answers (docs/drivers.md): EIO for a write that came out short, and where one request of
 * several fails, nothing on what the others moved. */
static bool is_asynchronous(const way *w, const shape *how, bool direct)
{
    return !how->waiting &&
           (w->driver == IOE_DRIVER_URING || (w->driver == IOE_DRIVER_AIO && direct));
}

static void check_whole(const way *w, const char *kind)
{
    nuisance n = open_nuisance(kind);
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    uint8_t *out = ioe_buffer_alloc(SIZE, 0), *in = ioe_buffer_alloc(SIZE + PAGE, 0);
    assert_true(out != NULL && in != NULL);
    pattern_fill(out, SIZE, 1, 0);
    store(n.fds[0], out, SIZE);
    assert_short(n.fds[0]);
    ioe_event *e = new_event();
    for (size_t i = 0; i < COUNT_OF(shapes) * COUNT_OF(n.fds); i++) {
        const shape *how = &shapes[i / COUNT_OF(n.fds)];
        int fd = n.fds[i % COUNT_OF(n.fds)];
        memset(in, CANARY, SIZE + PAGE);
        assert_int_equal(transfer(ctx, w, how, e, IOE_READ, fd, in, SIZE, 0), SIZE);
        assert_int_equal(ioe_event_transferred(e), SIZE);
        assert_memory_equal(in, out, SIZE);

        /* The end is where the file ends, not where a transfer was short. */
        memset(in, CANARY, SIZE + PAGE);
        assert_int_equal(transfer(ctx, w, how, e, IOE_READ, fd, in, SIZE, 50000), SIZE - 50000);
        assert_int_equal(ioe_event_transferred(e), SIZE - 50000);
        assert_memory_equal(in, out + 50000, SIZE - 50000);
        for (size_t j = SIZE - 50000; j < SIZE + PAGE; j++)
            assert_int_equal(in[j], CANARY);
        assert_int_equal(transfer(ctx, w, how, e, IOE_READ, fd, in, PAGE, SIZE - 1), 1);
        assert_int_equal(transfer(ctx, w, how, e, IOE_READ, fd, in, PAGE, SIZE), 0);

        pattern_fill(out, SIZE, 10 + i, 0);
        int64_t result = transfer(ctx, w, how, e, IOE_WRITE, fd, out, SIZE, 0);
        if (result == -EIO && is_asynchronous(w, how, i % COUNT_OF(n.fds) == 1)) {
            store(n.fds[0], out, SIZE);
            continue;
        }
        assert_int_equal(result, SIZE);
        assert_int_equal(ioe_event_transferred(e), SIZE);
        assert_content(n.fds[0], out, SIZE);
    }
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    ioe_buffer_free(in);
    ioe_buffer_free(out);
    close_nuisance(&n);
}

static void whole_at_1000_bytes_a_time(void **state)
{
    check_whole(*state, "short");
}

static void whole_at_random_lengths(void **state)
{
    check_whole(*state, "random");
}

/* ---- whole members ---- */

/* All in one operation, and the file ends inside of one. */
static void check_whole_members(const way *w, const char *kind)
{
    enum { COUNT = 52, LIMIT = 1 << 20 };
    static const shape alone = {false, false};
    nuisance n = open_nuisance(kind);
    uint8_t *bytes = malloc(SIZE);
    assert_non_null(bytes);
    for (size_t i = 0; i < COUNT_OF(manners) * COUNT_OF(n.fds); i++) {
        manner how = manners[i / COUNT_OF(n.fds)];
        bool direct = i % COUNT_OF(n.fds) == 1;
        int fd = n.fds[i % COUNT_OF(n.fds)];
        /* Direct ones travel together if they are aligned. */
        size_t len = direct ? PAGE : PAGE + 3;
        ioe_context *ctx = new_context_for(w, how, DEPTH, COUNT, LIMIT);
        members *m = new_members(COUNT, len, true);
        pattern_fill(bytes, SIZE, i, 0);
        store(n.fds[0], bytes, SIZE);
        transfer_members(ctx, w, m, how, LIMIT, IOE_READ, fd, 0);
        uint64_t merged = get_stats(ctx).merged;
        assert_int_equal(merged, merged_of(m, how));
        for (size_t j = 0; j < COUNT; j++) {
            size_t left = j * len < SIZE ? SIZE - j * len : 0;
            assert_member(m, j, (int64_t)(left < len ? left : len), i, 0);
        }
        free_members(m);

        m = new_members(SIZE / len, len, true);
        fill_members(m, 100 + i, 0);
        transfer_members(ctx, w, m, how, LIMIT, IOE_WRITE, fd, 0);
        assert_int_equal(get_stats(ctx).merged, merged + merged_of(m, how));
        for (size_t j = 0; j < m->count; j++)
            if (ioe_event_result(m->each[j].event) != -EIO || !is_asynchronous(w, &alone, direct))
                assert_member(m, j, (int64_t)len, 100 + i, 0);
        pattern_fill(bytes, SIZE / len * len, 100 + i, 0);
        if (!is_asynchronous(w, &alone, direct))
            assert_content(n.fds[0], bytes, SIZE);
        free_members(m);
        assert_int_equal(ioe_context_free(ctx), 0);
    }
    free(bytes);
    close_nuisance(&n);
}

static void members_at_1000_bytes_a_time(void **state)
{
    check_whole_members(*state, "short");
}

static void members_at_random_lengths(void **state)
{
    check_whole_members(*state, "random");
}

/* ---- an error in the middle ---- */

static void check_error(ioe_context *ctx, const way *w, const nuisance *n, int action,
                        const uint8_t *bytes)
{
    uint8_t *buf = ioe_buffer_alloc(SIZE, 0);
    ioe_event *e = new_event();
    assert_non_null(buf);
    for (size_t i = 0; i < COUNT_OF(shapes) * COUNT_OF(n->fds); i++) {
        const shape *how = &shapes[i / COUNT_OF(n->fds)];
        bool direct = i % COUNT_OF(n->fds) == 1;
        int fd = n->fds[i % COUNT_OF(n->fds)];
        uint64_t offset = BROKEN_AT - 30000;
        /* One request, unless it has segments. */
        size_t len = direct ? 50000 : SIZE - 50000;
        bool hidden =
            is_asynchronous(w, how, direct) && (action == IOE_WRITE || how->vectored || !direct);
        memcpy(buf, bytes + offset, len);
        if (action == IOE_READ)
            memset(buf, CANARY, len);
        for (int times = 0; times < 2; times++) {
            int64_t result = times == 0
                                 ? transfer(ctx, w, how, e, action, fd, buf, len, offset)
                                 : run_event(ctx, w->how, e); /* goes on at the bad byte */
            assert_int_equal(result, -EIO);
            if (!hidden)
                assert_int_equal(ioe_event_transferred(e), BROKEN_AT - offset);
        }
        if (action == IOE_READ && !hidden) {
            assert_memory_equal(buf, bytes + offset, BROKEN_AT - offset);
            for (size_t j = BROKEN_AT - offset; j < len; j++)
                assert_int_equal(buf[j], CANARY);
        }
        /* From the bad byte on nothing goes; before it, and afterwards, everything. */
        assert_int_equal(transfer(ctx, w, how, e, action, fd, buf, 10, BROKEN_AT), -EIO);
        assert_int_equal(ioe_event_transferred(e), 0);
        memcpy(buf, bytes, BROKEN_AT);
        assert_int_equal(transfer(ctx, w, how, e, action, fd, buf, BROKEN_AT, 0), BROKEN_AT);
        /* Many requests. */
        assert_int_equal(transfer(ctx, w, how, e, action, fd, buf, SIZE, 0), -EIO);
        assert_true(ioe_event_transferred(e) <= BROKEN_AT);
    }
    assert_content(n->fds[0], bytes, BROKEN_AT);
    assert_int_equal(ioe_event_free(e), 0);
    ioe_buffer_free(buf);
}

static void error_at_a_byte(void **state)
{
    const way *w = *state;
    char kind[64];
    snprintf(kind, sizeof kind, "broken-%d", BROKEN_AT);
    nuisance n = open_nuisance(kind);
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    uint8_t *bytes = malloc(SIZE);
    assert_non_null(bytes);
    pattern_fill(bytes, SIZE, 1, 0);
    store(n.fds[0], bytes, BROKEN_AT);
    /* So that the bad byte is inside of the file. */
    assert_int_equal(ftruncate(n.fds[0], SIZE), 0);
    check_error(ctx, w, &n, IOE_WRITE, bytes);
    check_error(ctx, w, &n, IOE_READ, bytes);
    assert_int_equal(ioe_context_free(ctx), 0);
    free(bytes);
    close_nuisance(&n);
}

/* ---- an operation that stays in the kernel ---- */

typedef struct stuck {
    nuisance file;
    latch done;
    ioe_event *events[2];
    uint8_t bytes[2][PAGE];
} stuck;

static void begin_stuck(stuck *s, ioe_context *ctx)
{
    static uint8_t bytes[PAGE];
    *s = (stuck){.file = open_nuisance("held-0"), .done = LATCH_INIT};
    pattern_fill(bytes, PAGE, 5, 0);
    store(s->file.fds[0], bytes, PAGE);
    assert_true(tell(s->file.path, HOLD, true));
    for (size_t i = 0; i < COUNT_OF(s->events); i++) {
        s->events[i] = new_event();
        assert_int_equal(ioe_prep_read(s->events[i], s->file.fds[i], s->bytes[i], PAGE, 0), 0);
        assert_int_equal(ioe_event_set_callback(s->events[i], hit_latch, &s->done), 0);
        assert_int_equal(ioe_submit(ctx, s->events[i]), 0);
    }
}

/* Without cmocka: also called by other threads. */
static bool let_go(const stuck *s)
{
    return tell(s->file.path, HOLD, false);
}

static void end_stuck(stuck *s)
{
    assert_int_equal(latch_count(&s->done), COUNT_OF(s->events));
    for (size_t i = 0; i < COUNT_OF(s->events); i++) {
        assert_int_equal(ioe_event_result(s->events[i]), PAGE);
        assert_true(pattern_holds(s->bytes[i], PAGE, 5, 0));
        assert_int_equal(ioe_event_free(s->events[i]), 0);
    }
    assert_true(tell(s->file.path, ".log", false));
    close_nuisance(&s->file);
}

static void drain_gives_up_on_time(void **state)
{
    const way *w = *state;
    stuck s;
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    begin_stuck(&s, ctx);
    ASSERT_CALL(ioe_drain(ctx, 0), -ETIMEDOUT);
    ASSERT_CALL(ioe_drain(ctx, 30), -ETIMEDOUT);
    if (w->how->flags & IOE_POLLED)
        ASSERT_CALL(ioe_poll(ctx, 1, 30), 0);
    assert_int_equal(latch_count(&s.done), 0);
    for (size_t i = 0; i < COUNT_OF(s.events); i++) {
        assert_false(ioe_event_is_done(s.events[i]));
        ASSERT_CALL(ioe_event_free(s.events[i]), -EBUSY);
    }
    assert_true(let_go(&s));
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    end_stuck(&s);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* All kinds of events of another file, with both kinds of descriptors, and of the same file. */
static void others_overtake_it(void **state)
{
    const way *w = *state;
    enum { ROUNDS = 20, KINDS = 7 };
    static uint8_t buf[ROUNDS * KINDS][PAGE] __attribute__((aligned(PAGE)));
    ioe_event *events[ROUNDS * KINDS];
    latch done = LATCH_INIT;
    stuck s;
    ioe_context *ctx = new_context_in(w, DEPTH, 2 * COUNT_OF(events));
    int plain = temp_file(ON_DISK);
    int direct = open_direct(plain);
    uint8_t *bytes = calloc(1, COUNT_OF(events) * PAGE);
    assert_non_null(bytes);
    store(plain, bytes, COUNT_OF(events) * PAGE);
    free(bytes);
    begin_stuck(&s, ctx);
    for (size_t i = 0; i < COUNT_OF(events); i++) {
        ioe_event *e = events[i] = new_event();
        int rc = -1;
        switch (i % KINDS) {
        case 0: rc = ioe_prep_read(e, plain, buf[i], PAGE, i * PAGE); break;
        case 1: rc = ioe_prep_read(e, direct, buf[i], PAGE, i * PAGE); break;
        case 2: rc = ioe_prep_write(e, plain, buf[i], PAGE, i * PAGE); break;
        case 3: rc = ioe_prep_write(e, direct, buf[i], PAGE, i * PAGE); break;
        case 4: rc = ioe_prep_fdatasync(e, plain); break;
        case 5: rc = ioe_prep_fallocate(e, plain, 0, i * PAGE, PAGE); break;
        case 6: rc = ioe_prep_fsync(e, s.file.fds[0]); break;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(ioe_event_set_callback(e, hit_latch, &done), 0);
        assert_int_equal(ioe_submit(ctx, e), 0);
    }
    await(ctx, w->how, &done, COUNT_OF(events));
    assert_int_equal(latch_count(&s.done), 0);
    for (size_t i = 0; i < COUNT_OF(events); i++) {
        assert_int_equal(ioe_event_result(events[i]), i % KINDS < 4 ? PAGE : 0);
        assert_int_equal(ioe_event_free(events[i]), 0);
    }
    assert_true(let_go(&s));
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    end_stuck(&s);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(direct);
    close(plain);
}

typedef struct releaser {
    const stuck *s;
    pid_t freeing;
    atomic_bool begun, returned, let_go, failed;
} releaser;

/* Lets the reads go as soon as the thread that frees is asleep, or is back too early. */
static void *release_when_asleep(void *arg)
{
    releaser *r = arg;
    task t = {.run_state = 'R'};
    while (!atomic_load(&r->begun))
        sched_yield();
    while (!atomic_load(&r->returned) && read_task(r->freeing, &t) && t.run_state != 'S')
        sched_yield();
    atomic_store(&r->let_go, true);
    if (!let_go(r->s))
        atomic_store(&r->failed, true);
    return NULL;
}

static void free_waits_for_it(void **state)
{
    const way *w = *state;
    stuck s;
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    begin_stuck(&s, ctx);
    releaser r = {.s = &s, .freeing = gettid()};
    pthread_t thread = start_thread(release_when_asleep, &r);
    atomic_store(&r.begun, true);
    int rc = ioe_context_free(ctx);
    bool in_time = atomic_load(&r.let_go);
    unsigned long called = latch_count(&s.done);
    atomic_store(&r.returned, true);
    join_thread(thread);
    assert_int_equal(rc, 0);
    assert_true(in_time);
    assert_false(atomic_load(&r.failed));
    assert_int_equal(called, COUNT_OF(s.events));
    end_stuck(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(whole_at_1000_bytes_a_time),
        for_each_way(whole_at_random_lengths),
        for_each_way(members_at_1000_bytes_a_time),
        for_each_way(members_at_random_lengths),
        for_each_way(error_at_a_byte),
        for_each_way(drain_gives_up_on_time),
        for_each_way(others_overtake_it),
        for_each_way(free_waits_for_it),
    };
    return RUN_TESTS(tests);
}
