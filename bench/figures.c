/*
 * figures.c: one way of using the engine, for `make check-perf` to count under valgrind what an
 * operation costs: instructions, system calls, allocations, atomic operations. Times are bench's.
 *
 *   figures CASE DRIVER [REACTORS [short]]
 *
 * prints how many operations (or contexts) were counted, and for who traces memory the address of
 * the variable whose change begins and ends that, and where in memory the library is.
 *
 * A count is worth something only if it is the same each time. With threads it would depend on how
 * many events a reactor finds each time that it looks. So the events come in rounds: no reactor
 * leaves the system call in which it waits for work until a whole round is submitted, and a round
 * is submitted only when each of them is in there. All reads are of the page cache, where they
 * complete as they are submitted. Where contexts are counted, their threads begin only when who
 * makes the context sleeps until they do, and it is freed only when they sleep.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>
#include <io_engine.h>

enum {
    BLOCK = 4096,
    FILE_SIZE = 1 << 20,
    DEPTH = 128,
    BATCH = 32,
    MOST_EVENTS = 512,
    MERGE_LIMIT = 128 << 10,
    CONTEXTS = 20,
    WARM_UP_CONTEXTS = 5,
    MOST_REACTORS = 8,
    LEFT_OUT = 77, /* the exit status where the machine lacks the driver */
};

/* ---- the system calls in which reactors wait ------------------------------------------------ */

static bool counts_contexts;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool closed;
    bool awaited; /* the first thread sleeps, or did, until the context's threads began */
    uint32_t inside;
} door = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void door_pass(int entering)
{
    pthread_mutex_lock(&door.mutex);
    door.inside += (uint32_t)entering;
    pthread_cond_broadcast(&door.changed);
    while (door.closed)
        pthread_cond_wait(&door.changed, &door.mutex);
    pthread_mutex_unlock(&door.mutex);
}

/* Returns when so many threads are inside, and stay there. */
static void door_close(uint32_t reactors)
{
    pthread_mutex_lock(&door.mutex);
    door.closed = true;
    while (door.inside < reactors)
        pthread_cond_wait(&door.changed, &door.mutex);
    pthread_mutex_unlock(&door.mutex);
}

static void door_open(void)
{
    pthread_mutex_lock(&door.mutex);
    door.closed = false;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.mutex);
}

static void door_leave(void)
{
    pthread_mutex_lock(&door.mutex);
    door.inside--;
    pthread_mutex_unlock(&door.mutex);
}

static void door_await(bool awaited)
{
    pthread_mutex_lock(&door.mutex);
    door.awaited = awaited;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.mutex);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *libc_function(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static long ask_kernel(long number, const long a[6])
{
    static long (*next)(long, ...);

    if (!next)
        *(void **)&next = libc_function("syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/*
 * Waits in steps of a millisecond: valgrind before 3.22 lets no other thread run as long as one is
 * in io_uring_enter(2).
 */
static long enter_ring(const long a[6])
{
    const struct io_uring_getevents_arg *asked =
        a[3] & IORING_ENTER_EXT_ARG ? (const struct io_uring_getevents_arg *)a[4] : NULL;
    const struct __kernel_timespec *limit =
        asked && asked->ts ? (const struct __kernel_timespec *)(uintptr_t)asked->ts : NULL;
    const uint64_t until =
        limit ? now_ns() + (uint64_t)limit->tv_sec * 1000000000u + (uint64_t)limit->tv_nsec : 0;
    struct __kernel_timespec step = {.tv_nsec = 1000000};
    struct io_uring_getevents_arg arg = {.ts = (uintptr_t)&step};
    long submitted = 0, rc;

    if (a[1] > 0) {
        submitted = ask_kernel(SYS_io_uring_enter, (long[6]){a[0], a[1], 0, a[3], a[4], a[5]});
        if (submitted < 0)
            return submitted;
    }
    door_pass(1);
    do {
        rc = ask_kernel(SYS_io_uring_enter, (long[6]){a[0], 0, a[2], a[3] | IORING_ENTER_EXT_ARG,
                                                      (long)&arg, sizeof arg});
        sched_yield();
    } while (rc < 0 && errno == ETIME && (!limit || now_ns() < until));
    door_pass(0);
    door_leave();
    return submitted > 0 ? submitted : rc;
}

/* What a thread of the library's does first. */
int pthread_setname_np(pthread_t thread, const char *name)
{
    static int (*next)(pthread_t, const char *);

    if (!next)
        *(void **)&next = libc_function("pthread_setname_np");
    if (counts_contexts) {
        pthread_mutex_lock(&door.mutex);
        while (!door.awaited)
            pthread_cond_wait(&door.changed, &door.mutex);
        pthread_mutex_unlock(&door.mutex);
    }
    return next(thread, name);
}

long syscall(long number, ...)
{
    long a[6];
    va_list list;

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_io_uring_enter && a[2] > 0)
        return enter_ring(a);
    bool sleeps = number == SYS_io_getevents && a[1] > 0;
    if (counts_contexts && number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
        sleeps = gettid() != getpid();
        if (!sleeps)
            door_await(true);
    }
    if (!sleeps)
        return ask_kernel(number, a);
    door_pass(1);
    long rc = ask_kernel(number, a);
    door_pass(0);
    door_leave();
    return rc;
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *signals)
{
    static int (*next)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);

    if (!next)
        *(void **)&next = libc_function("ppoll");
    if (timeout && timeout->tv_sec == 0 && timeout->tv_nsec == 0)
        return next(fds, n, timeout, signals);
    door_pass(1);
    int rc = next(fds, n, timeout, signals);
    door_pass(0);
    door_leave();
    return rc;
}

/* ---- the engine's user ---------------------------------------------------------------------- */

static uint32_t round_events = MOST_EVENTS; /* of each submitting thread */
static uint32_t warm_up = 6, counted = 8;   /* rounds */

struct run;

struct slot {
    _Alignas(64) ioe_event *event;
    struct run *run;
    char *data;
    uint64_t block;
};

/* One submitting thread, and what only its own events touch. */
struct submitter {
    _Alignas(64) struct run *run;
    struct slot slots[MOST_EVENTS];
    ioe_event *events[MOST_EVENTS];
    ioe_merger *merger;
    pthread_t thread;
};

struct run {
    const struct way *way;
    ioe_context *ctx;
    int fd;
    uint32_t threads;
    struct submitter *submitters;
    pthread_barrier_t begin, end; /* of a round's submissions */
    _Alignas(64) atomic_long left; /* callbacks of the round; callbacks that submit again: events */
    atomic_long again;
    sem_t done;
    _Atomic uint64_t wrong;
};

/* How the events of a round are handed over. */
struct way {
    const char *name;
    uint32_t flags, workers;
    bool merging;
    int (*submit)(struct submitter *self);
    bool resubmit;
};

static void prepare(struct slot *s, uint64_t block)
{
    s->block = block;
    if (ioe_prep_read(s->event, s->run->fd, s->data, BLOCK, block * BLOCK) < 0)
        s->run->wrong++;
}

static void on_read(ioe_event *event, void *arg)
{
    struct slot *s = arg;
    struct run *r = s->run;

    if (ioe_event_result(event) != BLOCK)
        r->wrong++;
    if (r->way->resubmit && atomic_fetch_sub(&r->again, 1) > 0) {
        prepare(s, s->block ^ 1);
        if (ioe_submit(r->ctx, event) < 0)
            r->wrong++;
    } else if (atomic_fetch_sub(&r->left, 1) == 1) {
        sem_post(&r->done);
    }
}

static int submit_each(struct submitter *self)
{
    int err = 0;

    for (uint32_t i = 0; err == 0 && i < round_events; i++)
        err = ioe_submit(self->run->ctx, self->events[i]);
    return err;
}

static int submit_batches(struct submitter *self)
{
    int n = BATCH;

    for (uint32_t i = 0; n == BATCH && i < round_events; i += BATCH)
        n = ioe_submit_batch(self->run->ctx, self->events + i, BATCH);
    return n < 0 ? n : n == BATCH ? 0 : -EAGAIN;
}

static int submit_merger(struct submitter *self)
{
    int err = 0;

    for (uint32_t i = 0; err == 0 && i < round_events; i++)
        err = ioe_merger_add(self->merger, self->events[i]);
    return err == 0 ? ioe_merger_flush(self->merger) : err;
}

static int submit_wait(struct submitter *self)
{
    int64_t n = BLOCK;

    for (uint32_t i = 0; n == BLOCK && i < round_events; i++)
        n = ioe_submit_wait(self->run->ctx, self->events[i]);
    self->run->left = 0;
    sem_post(&self->run->done);
    return n < 0 ? (int)n : n == BLOCK ? 0 : -EIO;
}

/* Each batch finds the reactor asleep, where the context has one. */
static int submit_wait_batches(struct submitter *self)
{
    struct run *r = self->run;
    int n = BATCH;

    for (uint32_t i = 0; n == BATCH && i < round_events; i += BATCH) {
        if (!(r->way->flags & IOE_POLLED)) {
            door_close(1);
            door_open();
        }
        n = ioe_submit_wait_batch(r->ctx, self->events + i, BATCH);
    }
    r->left = 0;
    sem_post(&r->done);
    return n < 0 ? n : n == BATCH ? 0 : -EAGAIN;
}

static int submit_polled(struct submitter *self)
{
    struct run *r = self->run;
    int ran = 0;

    for (uint32_t i = 0; ran >= 0 && i < round_events; i += BATCH) {
        ran = ioe_submit_batch(r->ctx, self->events + i, BATCH);
        if (ran == BATCH)
            ran = ioe_poll(r->ctx, BATCH, -1);
    }
    while (ran >= 0 && r->left > 0)
        ran = ioe_poll(r->ctx, 1, -1);
    return ran < 0 ? ran : 0;
}

static void ignore(ioe_event *event, void *arg)
{
    (void)event;
    (void)arg;
}

/* One that was cancelled, long ago. */
static int submit_after_cancel(struct submitter *self)
{
    static bool cancelled;
    ioe_context *ctx = self->run->ctx;

    if (!cancelled) {
        char byte;
        ioe_event *event = ioe_event_new();
        int err = event ? ioe_prep_read(event, self->run->fd, &byte, 1, 0) : -ENOMEM;
        if (err == 0)
            err = ioe_event_set_callback(event, ignore, NULL);
        uint64_t id = err == 0 ? ioe_event_id(event) : 0;
        if (err == 0)
            err = ioe_submit(ctx, event);
        if (err == 0)
            err = ioe_cancel(ctx, id);
        if (err == 0 && ioe_poll(ctx, 1, -1) != 1)
            err = -EIO;
        if (err < 0)
            return err;
        ioe_event_free(event);
        cancelled = true;
    }
    return submit_polled(self);
}

static const struct way ways[] = {
    {"polled", IOE_POLLED, 0, false, submit_polled, false},
    {"polled-cancel", IOE_POLLED, 0, false, submit_after_cancel, false},
    {"polled-merging", IOE_POLLED, 0, true, submit_polled, false},
    {"polled-wait", IOE_POLLED, 0, false, submit_wait_batches, false},
    {"inline", 0, 0, false, submit_each, true},
    {"producer", 0, 0, false, submit_each, false},
    {"batches", 0, 0, false, submit_batches, false},
    {"batches-merging", 0, 0, true, submit_batches, false},
    {"merger", 0, 0, false, submit_merger, false},
    {"one-worker", 0, 1, false, submit_each, false},
    {"submit-wait", 0, 0, false, submit_wait, false},
    {"wait-batches", 0, 0, false, submit_wait_batches, false},
    {"context", 0, 1, false, NULL, false},
};

static int context_new(const struct way *way, int driver, uint32_t reactors, ioe_context **ctx)
{
    ioe_config config;

    ioe_config_init(&config, sizeof config);
    config.driver = driver;
    config.depth = DEPTH;
    config.queue_size = MOST_REACTORS * MOST_EVENTS;
    config.workers = way->workers;
    config.merge_limit = way->merging ? MERGE_LIMIT : 0;
    config.flags = way->flags;
    config.reactors = reactors;
    return ioe_context_new(&config, ctx);
}

static void check(struct run *r, int err)
{
    if (err == 0)
        return;
    fprintf(stderr, "figures: %s: %s\n", r->way->name, ioe_strerror(err));
    exit(EXIT_FAILURE);
}

static void *submitting_thread(void *arg)
{
    struct submitter *self = arg;
    struct run *r = self->run;

    for (uint32_t i = 0; i < warm_up + counted; i++) {
        pthread_barrier_wait(&r->begin);
        for (uint32_t e = 0; e < round_events; e++)
            prepare(&self->slots[e], e % (FILE_SIZE / BLOCK));
        check(r, r->way->submit(self));
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

/* ---- counting ------------------------------------------------------------------------------- */

static volatile uint64_t counting;

static void start_counting(void)
{
    counting = 1;
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

static void stop_counting(void)
{
    counting = 0;
    CALLGRIND_DUMP_STATS;
    CALLGRIND_STOP_INSTRUMENTATION;
}

static void report(uint32_t operations)
{
    Dl_info library = {0};

    dladdr((void *)(uintptr_t)ioe_submit, &library);
    printf("%u %#tx %#tx\n", operations, (uintptr_t)&counting, (uintptr_t)library.dli_fbase);
}

/* Reads of the page cache, but for Linux AIO, which is for O_DIRECT. */
static int file_new(int driver)
{
    static char zeros[FILE_SIZE];
    char name[] = "figures-XXXXXX", byte;
    struct iovec one = {&byte, 1};
    int fd = mkstemp(name);

    if (fd < 0)
        return -errno;
    int err = write(fd, zeros, sizeof zeros) == sizeof zeros ? 0 : -errno;
    if (err == 0 && driver == IOE_DRIVER_AIO) {
        close(fd);
        fd = open(name, O_RDWR | O_DIRECT);
        err = fd < 0 ? -errno : 0;
    } else if (err == 0 && preadv2(fd, &one, 1, 0, RWF_NOWAIT) < 0) {
        err = -errno; /* as on tmpfs: threads read it, whenever they come to it */
    }
    unlink(name);
    if (err < 0)
        close(fd);
    return err < 0 ? err : fd;
}

static void submitter_init(struct submitter *self, struct run *r)
{
    char *buffers = ioe_buffer_alloc((size_t)round_events * BLOCK, 0);

    check(r, buffers ? 0 : -ENOMEM);
    self->run = r;
    for (uint32_t i = 0; i < round_events; i++) {
        struct slot *s = &self->slots[i];
        *s = (struct slot){.event = ioe_event_new(), .run = r, .data = buffers + i * BLOCK};
        check(r, ioe_event_set_callback(s->event, on_read, s));
        self->events[i] = s->event;
    }
    if (r->way->submit == submit_merger)
        check(r, ioe_merger_new(r->ctx, r->fd, IOE_READ, MERGE_LIMIT, &self->merger));
    check(r, -pthread_create(&self->thread, NULL, submitting_thread, self));
}

static void run_events(struct run *r, int driver, uint32_t reactors)
{
    bool held = !(r->way->flags & IOE_POLLED);

    sem_init(&r->done, 0, 0);
    pthread_barrier_init(&r->begin, NULL, r->threads + 1);
    pthread_barrier_init(&r->end, NULL, r->threads + 1);
    check(r, context_new(r->way, driver, reactors, &r->ctx));
    r->submitters = aligned_alloc(64, r->threads * sizeof *r->submitters);
    check(r, r->submitters ? 0 : -ENOMEM);
    for (uint32_t i = 0; i < r->threads; i++)
        submitter_init(&r->submitters[i], r);
    for (uint32_t i = 0; i < warm_up + counted; i++) {
        r->left = (long)r->threads * round_events;
        r->again = r->way->resubmit ? 3 * r->left : 0;
        if (held)
            door_close(reactors);
        if (i == warm_up)
            start_counting();
        pthread_barrier_wait(&r->begin);
        pthread_barrier_wait(&r->end);
        door_open();
        if (held)
            while (sem_wait(&r->done) < 0)
                ;
    }
    if (held)
        door_close(reactors);
    stop_counting();
    door_open();
    for (uint32_t i = 0; i < r->threads; i++)
        pthread_join(r->submitters[i].thread, NULL);
    for (uint32_t i = 0; i < r->threads; i++)
        if (r->submitters[i].merger)
            ioe_merger_free(r->submitters[i].merger);
    check(r, ioe_context_free(r->ctx));
    check(r, r->wrong == 0 ? 0 : -EIO);
    report(counted * r->threads * round_events * (r->way->resubmit ? 4 : 1));
}

static void run_contexts(struct run *r, int driver, uint32_t reactors)
{
    counts_contexts = true;
    for (uint32_t i = 0; i < WARM_UP_CONTEXTS + CONTEXTS; i++) {
        if (i == WARM_UP_CONTEXTS)
            start_counting();
        door_await(false);
        check(r, context_new(r->way, driver, reactors, &r->ctx));
        door_close(reactors + r->way->workers);
        door_open();
        check(r, ioe_context_free(r->ctx));
    }
    stop_counting();
    report(CONTEXTS);
}

int main(int argc, char **argv)
{
    struct run run = {0};
    int driver = IOE_DRIVER_URING;
    uint32_t reactors = argc > 3 ? (uint32_t)atoi(argv[3]) : 1;

    for (size_t i = 0; argc > 2 && i < sizeof ways / sizeof *ways; i++)
        if (strcmp(argv[1], ways[i].name) == 0)
            run.way = &ways[i];
    while (run.way && driver <= IOE_DRIVER_POOL && strcmp(argv[2], ioe_driver_name(driver)) != 0)
        driver++;
    if (!run.way || driver > IOE_DRIVER_POOL || reactors < 1 || reactors > MOST_REACTORS) {
        fprintf(stderr, "usage: figures CASE DRIVER [REACTORS [short]]\n");
        return 2;
    }
    run.threads = reactors;
    if (argc > 4) {
        round_events = DEPTH / 2;
        warm_up = counted = 1;
    }
    run.fd = run.way->submit ? file_new(driver) : 0;
    int refused = run.fd < 0 ? run.fd : ioe_probe(driver);
    if (refused < 0) {
        printf("%s, with a file here: %s\n", argv[2], ioe_strerror(refused));
        return LEFT_OUT;
    }
    if (run.way->submit)
        run_events(&run, driver, reactors);
    else
        run_contexts(&run, driver, reactors);
    return EXIT_SUCCESS;
}
