/*
 * Promise: the pool of threads works wherever plain files do. Its threads come with the first work,
 * are never more than 64, and end when there is none; where none can be started the work is done all
 * the same; a cached read needs none. A write beyond RLIMIT_FSIZE is an errno there too. It needs no
 * system call but those for files, threads, eventfd(2) and ppoll(2).
 */
#include <dlfcn.h>
#include <grp.h>
#include <poll.h>
#include <sys/resource.h>

#include "refuse.h"
#include "stuck.h"

enum { BLOCK = 4096, MOST_THREADS = 64 };

/* ---- threads that cannot be started ---- */

/* How many more may be; negative for any number. */
static atomic_int threads_left = -1;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg)
{
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int left = atomic_load(&threads_left);
    if (next == NULL)
        *(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
    if (left == 0)
        return EAGAIN;
    if (left > 0)
        atomic_fetch_sub(&threads_left, 1);
    return next(thread, attr, body, arg);
}

static ioe_config pool_config(const delivery *how, uint32_t depth, uint32_t queue_size)
{
    ioe_config cfg;
    ioe_config_init(&cfg, sizeof cfg);
    cfg.driver = IOE_DRIVER_POOL;
    cfg.flags = how->flags;
    cfg.workers = how->workers;
    cfg.depth = depth;
    cfg.queue_size = queue_size;
    return cfg;
}

static ioe_context *new_pool(const delivery *how, uint32_t depth, uint32_t queue_size)
{
    const ioe_config cfg = pool_config(how, depth, queue_size);
    return new_context_from(&cfg);
}

static size_t count_pool(void)
{
    return read_tasks("ioe-pool", NULL, 0);
}

static void await_pool(size_t count)
{
    while (count_pool() != count)
        sched_yield();
}

/* ---- first use, and the end of it ---- */

static void work_a_little(ioe_context *ctx, const delivery *how, int fd)
{
    static uint8_t buf[BLOCK];
    ioe_event *event = new_event();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(ioe_prep_write(event, fd, buf, BLOCK, 0), 0);
        assert_int_equal(run_event(ctx, how, event), BLOCK);
    }
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(ioe_event_free(event), 0);
}

/* A context of each delivery at the same time: going takes five seconds. */
static void threads_come_with_work_and_go_without(void **state)
{
    ioe_context *contexts[COUNT_OF(deliveries)];
    int fd = temp_file(IN_MEMORY);
    (void)state;
    for (size_t i = 0; i < COUNT_OF(deliveries); i++)
        contexts[i] = new_pool(&deliveries[i], 32, 64);
    for (int again = 0; again < 2; again++) {
        /* Three reactors, and one and four workers; a new thread takes a moment to get its name. */
        const size_t others = 3 + 1 + 4;
        assert_int_equal(count_pool(), 0);
        while (read_tasks("ioe-", NULL, 0) != others)
            sched_yield();
        for (size_t i = 0; i < COUNT_OF(deliveries); i++) {
            /* One at a time needs no more than one, and one that goes to sleep. */
            size_t before = count_pool();
            work_a_little(contexts[i], &deliveries[i], fd);
            assert_in_range(count_pool(), before + 1, before + 2);
        }
        while (again == 0 && count_pool() > 0)
            poll(NULL, 0, 50);
        if (again == 0)
            assert_int_equal(read_tasks("ioe-", NULL, 0), others);
    }
    for (size_t i = 0; i < COUNT_OF(deliveries); i++)
        ASSERT_CALL(ioe_context_free(contexts[i]), 0);
    await_no_threads();
    close(fd);
}

/* ---- no more than there may be ---- */

/* Reads that all stay, of one pipe: each keeps a thread. */
static void stay_and_count(const delivery *how, uint32_t depth, size_t events, size_t threads)
{
    ioe_context *ctx = new_pool(how, depth, 512);
    uint64_t *words = calloc(events, sizeof *words);
    ioe_event **all = calloc(events, sizeof *all);
    latch done = LATCH_INIT;
    int ends[2];
    assert_true(words != NULL && all != NULL);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    for (size_t i = 0; i < events; i++) {
        all[i] = new_event();
        assert_int_equal(ioe_prep_read(all[i], ends[0], &words[i], sizeof *words, 0), 0);
        assert_int_equal(ioe_event_set_callback(all[i], hit_latch, &done), 0);
        ASSERT_CALL(ioe_submit(ctx, all[i]), 0);
    }
    if (how->flags & IOE_POLLED)
        assert_int_equal(ioe_poll(ctx, 0, 0), 0);
    await_pool(threads);
    /* All of them are busy and more is waiting: were another one allowed, it would come now. */
    for (int look = 0; look < 100; look++) {
        if (how->flags & IOE_POLLED)
            assert_int_equal(ioe_poll(ctx, 0, 0), 0);
        poll(NULL, 0, 1);
        assert_int_equal(count_pool(), threads);
    }
    assert_int_equal(latch_count(&done), 0);
    for (uint64_t i = 0; i < events; i++) {
        const uint64_t word = i + 1;
        assert_int_equal(write(ends[1], &word, sizeof word), sizeof word);
    }
    await(ctx, how, &done, events);
    assert_true(count_pool() <= threads);
    uint64_t sum = 0;
    for (size_t i = 0; i < events; i++) {
        assert_int_equal(ioe_event_result(all[i]), sizeof *words);
        assert_int_equal(ioe_event_free(all[i]), 0);
        sum += words[i];
    }
    assert_int_equal(sum, events * (events + 1) / 2);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    await_no_threads();
    close(ends[0]);
    close(ends[1]);
    free(all);
    free(words);
}

static void no_more_threads_than_64_or_the_depth(void **state)
{
    stay_and_count(*state, 256, 300, MOST_THREADS);
    stay_and_count(*state, 4, 20, 4);
    stay_and_count(*state, 1, 3, 1);
}

/* ---- none to be had ---- */

typedef struct starved {
    const delivery *how;
    int fd, direct;
    int threads; /* so many can be started */
    int error;   /* of system calls that are refused */
} starved;

/* Without a thread of the pool's, the reactor does it: the polling thread, or the context's own. */
static pid_t find_reactor(void)
{
    task one;
    return read_tasks("ioe-reactor", &one, 1) > 0 ? one.tid : gettid();
}

/* A few at a time, so that more than one thread is asked for. */
static int batches_work(ioe_context *ctx, const starved *s)
{
    enum { EVENTS = 200 };
    uint8_t *bufs = ioe_buffer_alloc(EVENTS * BLOCK, 0);
    ioe_event *events[EVENTS];
    latch done = LATCH_INIT;
    CHILD_CHECK(bufs != NULL);
    for (int reading = 0; reading < 2; reading++) {
        for (uint64_t i = 0; i < EVENTS; i++) {
            uint8_t *buf = bufs + i * BLOCK;
            events[i] = reading ? events[i] : ioe_event_new();
            if (!reading)
                pattern_fill(buf, BLOCK, 8, i * BLOCK);
            else
                memset(buf, 0, BLOCK);
            const int fd = i % 2 == 0 ? s->direct : s->fd;
            CHILD_CHECK((reading ? ioe_prep_read(events[i], fd, buf, BLOCK, i * BLOCK)
                                 : ioe_prep_write(events[i], fd, buf, BLOCK, i * BLOCK)) == 0);
            CHILD_CHECK(ioe_event_set_callback(events[i], hit_latch, &done) == 0);
        }
        CHILD_CHECK(ioe_submit_batch(ctx, events, EVENTS) == EVENTS);
        CHILD_CHECK(ioe_drain(ctx, -1) == 0);
        CHILD_CHECK(latch_count(&done) == (unsigned long)(reading + 1) * EVENTS);
        for (uint64_t i = 0; i < EVENTS; i++) {
            CHILD_CHECK(ioe_event_result(events[i]) == BLOCK);
            CHILD_CHECK(pattern_holds(bufs + i * BLOCK, BLOCK, 8, i * BLOCK));
        }
    }
    for (uint64_t i = 0; i < EVENTS; i++)
        CHILD_CHECK(ioe_event_free(events[i]) == 0);
    ioe_buffer_free(bufs);
    return 0;
}

static int works_starved(void *arg)
{
    const starved *s = arg;
    const ioe_config cfg = pool_config(s->how, 128, 512);
    static log_lines said = LOG_LINES_INIT;
    ioe_context *ctx = NULL;
    ioe_set_log(keep_line, &said, IOE_LOG_WARN);
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    const pid_t reactor = find_reactor();
    atomic_store(&threads_left, s->threads);
    CHILD_CHECK(batches_work(ctx, s) == 0);
    CHILD_CHECK(every_action_works(ctx, s->fd) == 0);
    CHILD_CHECK(every_action_works(ctx, s->direct) == 0);
    CHILD_CHECK(count_pool() <= (size_t)s->threads);
    if (s->threads == 0) {
        CHILD_CHECK(atomic_load(&plain_caller) == reactor);
        CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, "thread") > 0);
    }
    /* A shortage that is over is forgotten. */
    atomic_store(&threads_left, -1);
    forget_plain_calls();
    CHILD_CHECK(every_action_works(ctx, s->direct) == 0);
    CHILD_CHECK(count_pool() > 0);
    CHILD_CHECK(atomic_load(&plain_caller) != reactor);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    await_no_threads();
    return 0;
}

static void run_starved(int (*body)(void *arg), starved *s)
{
    s->fd = temp_file(ON_DISK);
    s->direct = open_direct(s->fd);
    assert_in_child(body, s);
    close(s->direct);
    close(s->fd);
}

static void events_complete_without_threads(void **state)
{
    static const int threads[] = {0, 1, 3};
    for (size_t i = 0; i < COUNT_OF(threads); i++) {
        starved s = {.how = *state, .threads = threads[i]};
        run_starved(works_starved, &s);
    }
}

/* The same by the kernel's own limit, which root does not have. */
static int works_without_processes(void *arg)
{
    enum { NOBODY = 65534 };
    const starved *s = arg;
    const ioe_config cfg = pool_config(s->how, 128, 512);
    const struct rlimit none = {0, 0};
    ioe_context *ctx = NULL;
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    const pid_t reactor = find_reactor();
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 ||
                           setresuid(NOBODY, NOBODY, NOBODY) != 0))
        return CANNOT;
    if (setrlimit(RLIMIT_NPROC, &none) != 0)
        return CANNOT;
    CHILD_CHECK(batches_work(ctx, s) == 0);
    CHILD_CHECK(every_action_works(ctx, s->direct) == 0);
    CHILD_CHECK(count_pool() == 0);
    CHILD_CHECK(atomic_load(&plain_caller) == reactor);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    return 0;
}

static void events_complete_without_processes(void **state)
{
    starved s = {.how = *state};
    run_starved(works_without_processes, &s);
}

/* ---- reads from the page cache: tried before they are handed over ---- */

enum { CACHED = 200, HUGE_READ = 4 << 20 };

/* How reads that are tried end, by the number of the block; and how many there were. */
static struct tries {
    atomic_uint count, direct;
    int every; /* one in so many ... */
    int error; /* ... is refused with this errno, and with 0 comes short */
} tries;

static ssize_t answer_try(const plain_transfer *t)
{
    if (!t->at_once)
        return (ssize_t)t->len;
    atomic_fetch_add(&tries.count, 1);
    if (fcntl(t->fd, F_GETFL) & O_DIRECT)
        atomic_fetch_add(&tries.direct, 1);
    if (tries.every == 0 || t->offset % BLOCK != 0 || t->offset / BLOCK % tries.every != 0)
        return (ssize_t)t->len;
    return tries.error ? -tries.error : (ssize_t)t->len / 2;
}

static void try_anew(int every, int error)
{
    atomic_store(&tries.count, 0);
    atomic_store(&tries.direct, 0);
    tries.every = every;
    tries.error = error;
    allow_plain_transfer = answer_try;
    forget_plain_calls();
}

typedef struct cached {
    int fd, direct;
    uint8_t *bufs;
    ioe_event *events[CACHED];
    latch done;
} cached;

static void cached_open(cached *c)
{
    *c = (cached){.done = LATCH_INIT, .bufs = ioe_buffer_alloc(HUGE_READ, 0)};
    assert_non_null(c->bufs);
    c->fd = temp_file(ON_DISK);
    c->direct = open_direct(c->fd);
    pattern_fill(c->bufs, HUGE_READ, 3, 0);
    assert_int_equal(pwrite(c->fd, c->bufs, HUGE_READ, 0), HUGE_READ);
    for (size_t i = 0; i < CACHED; i++) {
        c->events[i] = new_event();
        assert_int_equal(ioe_event_set_callback(c->events[i], hit_latch, &c->done), 0);
    }
}

static void cached_close(cached *c)
{
    allow_plain_transfer = NULL;
    for (size_t i = 0; i < CACHED; i++)
        assert_int_equal(ioe_event_free(c->events[i]), 0);
    ioe_buffer_free(c->bufs);
    close(c->direct);
    close(c->fd);
}

static void read_blocks(cached *c, ioe_context *ctx, const delivery *how, int fd, size_t count)
{
    const unsigned long before = latch_count(&c->done);
    memset(c->bufs, 0, count * BLOCK);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ioe_prep_read(c->events[i], fd, c->bufs + i * BLOCK, BLOCK, i * BLOCK), 0);
    ASSERT_CALL(ioe_submit_batch(ctx, c->events, count), (int)count);
    await(ctx, how, &c->done, before + count);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(latch_count(&c->done), before + count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ioe_event_result(c->events[i]), BLOCK);
    assert_true(pattern_holds(c->bufs, count * BLOCK, 3, 0));
}

/* One by one they need no thread, and a direct one, which would wait for the device, is not tried. */
static void cached_reads_need_no_thread(void **state)
{
    const delivery *how = *state;
    cached c;
    cached_open(&c);
    ioe_context *ctx = new_pool(how, 64, 256);
    try_anew(0, 0);
    for (unsigned i = 0; i < 100; i++)
        read_blocks(&c, ctx, how, c.fd, 1 + i % 8);
    assert_int_equal(count_pool(), 0);
    assert_int_equal(atomic_load(&plain_caller), find_reactor());
    assert_int_equal(atomic_load(&tries.count), atomic_load(&plain_calls[IOE_READ]));
    read_blocks(&c, ctx, how, c.direct, CACHED);
    assert_int_equal(atomic_load(&tries.direct), 0);
    assert_true(count_pool() > 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    cached_close(&c);
}

/* Among many: tried by several threads at a time, each read is whole, and done once. */
static void some_tries_fail_or_come_short(void **state)
{
    static const int errors[] = {0, EAGAIN, EINTR, EIO};
    const delivery *how = *state;
    cached c;
    cached_open(&c);
    for (int driver = IOE_DRIVER_AIO; driver <= IOE_DRIVER_POOL; driver++) {
        ioe_config cfg = pool_config(how, 64, 256);
        cfg.driver = driver;
        if (!works_here(driver))
            continue;
        ioe_context *ctx = new_context_from(&cfg);
        for (size_t i = 0; i < COUNT_OF(errors); i++) {
            for (int every = 1; every <= 3; every++) {
                try_anew(every, errors[i]);
                read_blocks(&c, ctx, how, c.fd, 1);
                read_blocks(&c, ctx, how, c.fd, CACHED);
                assert_true(atomic_load(&tries.count) > CACHED);
            }
        }
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
    cached_close(&c);
}

/* A file system that cannot tell what would wait is left alone, others are not; and not for ever. */
static void refused_tries_are_not_repeated(void **state)
{
    static const int errors[] = {EOPNOTSUPP, ENOSYS, EPERM};
    const delivery *how = *state;
    cached c;
    cached_open(&c);
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        ioe_context *ctx = new_pool(how, 64, 256);
        try_anew(1, errors[i]);
        for (unsigned n = 0; n < 100; n++)
            read_blocks(&c, ctx, how, c.fd, 1);
        assert_int_equal(atomic_load(&tries.count), 1);
        assert_int_not_equal(atomic_load(&plain_caller), find_reactor());
        int other = dup(c.fd);
        assert_true(other >= 0);
        read_blocks(&c, ctx, how, other, 1);
        assert_int_equal(atomic_load(&tries.count), 2);
        close(other);
        try_anew(0, 0);
        for (unsigned n = 0; n < 1000; n++)
            read_blocks(&c, ctx, how, c.fd, 1);
        assert_in_range(atomic_load(&tries.count), 500, 1000);
        assert_int_equal(atomic_load(&plain_caller), find_reactor());
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
    cached_close(&c);
}

/* What takes long to copy is not the reactor's. */
static void huge_read_goes_to_a_thread(void **state)
{
    const delivery *how = *state;
    cached c;
    cached_open(&c);
    ioe_context *ctx = new_pool(how, 64, 256);
    try_anew(0, 0);
    for (int i = 0; i < 10; i++) {
        memset(c.bufs, 0, HUGE_READ);
        assert_int_equal(ioe_prep_read(c.events[0], c.fd, c.bufs, HUGE_READ, 0), 0);
        assert_int_equal(run_event(ctx, how, c.events[0]), HUGE_READ);
        assert_int_not_equal(atomic_load(&plain_caller), find_reactor());
        assert_true(pattern_holds(c.bufs, HUGE_READ, 3, 0));
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    cached_close(&c);
}

/* ---- RLIMIT_FSIZE: an errno, and the process lives ---- */

/* Also where the thread that writes is the program's own, which has SIGXFSZ. */
static int writes_past_the_limit(void *arg)
{
    const starved *s = arg;
    const ioe_config cfg = pool_config(s->how, 8, 64);
    const struct rlimit limit = {2 * BLOCK, RLIM_INFINITY}, no_core = {0, 0};
    ioe_context *ctx = NULL;
    ioe_event *event = ioe_event_new();
    latch done = LATCH_INIT;
    uint8_t *buf = ioe_buffer_alloc(3 * BLOCK, 0);
    CHILD_CHECK(event != NULL && buf != NULL);
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    CHILD_CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHILD_CHECK(ioe_event_set_callback(event, hit_latch, &done) == 0);
    atomic_store(&threads_left, s->threads);
    for (unsigned long step = 0; step < 6; step++) {
        const int fd = step % 2 == 0 ? s->direct : s->fd;
        CHILD_CHECK((step < 2    ? ioe_prep_write(event, fd, buf, BLOCK, 2 * BLOCK)
                     : step < 4  ? ioe_prep_write(event, fd, buf, 3 * BLOCK, 0)
                     : step == 4 ? ioe_prep_fallocate(event, fd, 0, 0, 3 * BLOCK)
                                 : ioe_prep_truncate(event, fd, 3 * BLOCK)) == 0);
        CHILD_CHECK(ioe_submit(ctx, event) == 0);
        CHILD_CHECK(ioe_drain(ctx, -1) == 0);
        CHILD_CHECK(latch_count(&done) == step + 1);
        CHILD_CHECK(ioe_event_result(event) == -EFBIG);
        CHILD_CHECK(ioe_event_transferred(event) == (step == 2 || step == 3 ? 2 * BLOCK : 0));
    }
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    CHILD_CHECK(ioe_event_free(event) == 0);
    return 0;
}

static void file_size_limit_is_an_errno(void **state)
{
    for (int threads = -1; threads <= 0; threads++) {
        starved s = {.how = *state, .threads = threads};
        run_starved(writes_past_the_limit, &s);
    }
}

/* ---- nothing but plain files ---- */

static int works_bare(void *arg)
{
    static const unsigned calls[] = {SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
                                     SYS_io_setup,       SYS_io_submit,      SYS_io_getevents,
                                     SYS_io_destroy,     SYS_preadv2,        SYS_pwritev2,
                                     SYS_memfd_create,   SYS_statx};
    const starved *s = arg;
    for (size_t i = 0; i < COUNT_OF(calls); i++)
        if (!refuse(calls[i], s->error))
            return CANNOT;
    for (int driver = IOE_DRIVER_AUTO; driver <= IOE_DRIVER_POOL; driver += IOE_DRIVER_POOL) {
        ioe_config cfg = pool_config(s->how, 128, 512);
        ioe_info info;
        ioe_context *ctx = NULL;
        cfg.driver = driver;
        CHILD_CHECK(ioe_probe(driver) == 0);
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
        CHILD_CHECK(info.driver == IOE_DRIVER_POOL);
        CHILD_CHECK(batches_work(ctx, s) == 0);
        CHILD_CHECK(every_action_works(ctx, s->fd) == 0);
        CHILD_CHECK(every_action_works(ctx, s->direct) == 0);
        CHILD_CHECK(ioe_context_free(ctx) == 0);
    }
    return 0;
}

static void needs_nothing_but_plain_files(void **state)
{
    static const int errors[] = {EPERM, ENOSYS};
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        starved s = {.how = *state, .error = errors[i]};
        run_starved(works_bare, &s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_come_with_work_and_go_without),
        for_each_delivery(no_more_threads_than_64_or_the_depth),
        for_each_delivery(events_complete_without_threads),
        for_each_delivery(events_complete_without_processes),
        for_each_delivery(cached_reads_need_no_thread),
        for_each_delivery(some_tries_fail_or_come_short),
        for_each_delivery(refused_tries_are_not_repeated),
        for_each_delivery(huge_read_goes_to_a_thread),
        for_each_delivery(file_size_limit_is_an_errno),
        for_each_delivery(needs_nothing_but_plain_files),
    };
    setenv("IOE_DRIVER", "pool", 1);
    return RUN_TESTS(tests);
}
