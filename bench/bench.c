/*
 * bench.c: the engine side by side with what a program would use otherwise.
 *
 *     make bench                                      (packages: liburing-dev, libuv1-dev)
 *     make bench BENCH='--only aio64,aio1'
 *     target/bench/bench --help
 *
 * Each case runs all its sides in turn, round after round, so that whatever else happens on the
 * machine hits all of them. In a round every side transfers the same blocks, as many, with the
 * same buffers, and looks at every result and at a sample of the data. Compared are medians over
 * the rounds; a ratio is the median of the rounds' ratios. Pinning to processors is left to the
 * caller (taskset): the engine's own threads and the caller's are the system's to place.
 *
 * The engine's sides name their driver, so that none is compared that was only fallen back to. A
 * side that cannot be set up here is left out, and a case whose first side that is; both are said.
 *
 * The cases of merging compare the engine with itself, merging off and on, on the driver of
 * --driver. All of a case's sides have the same depth and the same room in the queue, enough for
 * events to wait while depth operations of the whole merge limit are under way. Their buffers are
 * apart from each other in memory, so that what is merged is vectored. What is written was
 * written before: no extents are converted under the clock. CPU time is that of the whole process,
 * user and system, io_uring's own threads for it included. Not in it: interrupts that hit another
 * process, the kernel's workers (of block layer and file system), and what the host does.
 *
 * The cases of commits have threads that each append a record and wait until it is durable: on a
 * file that was written before from end to end, so that an fdatasync has only the data to write,
 * and on one that grows, where it has the file system's journal to write as well. Their latencies
 * are those of every commit, from before its write until it is durable.
 */
#include "bench.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <io_engine.h>

enum { MAX_ROUNDS = 99, DIRECT_FACTOR = 3, MAX_SIDES = 8, MAX_LATENCIES = 1 << 20, EXIT_USAGE = 2 };
enum { URING = IOE_DRIVER_URING, AIO = IOE_DRIVER_AIO, POOL = IOE_DRIVER_POOL, CHOSEN = -1 };
static int chosen = URING; /* --driver */
static const int drivers[] = {URING, AIO, POOL};
enum { N_DRIVERS = sizeof drivers / sizeof *drivers };

struct contender {
    const struct side *side;
    int driver; /* the engine's; 0 for its peers; CHOSEN: that of --driver */
};

struct test {
    const char *name;
    const char *what;
    bool direct, write, sequential;
    uint32_t block, depth, batch;
    uint32_t queue;         /* events in flight at most; 0: depth, twice that behind a queue */
    uint32_t merge_limit;   /* 0: not about merging */
    uint32_t threads;       /* 0: not about commits */
    bool growing;           /* there: the file */
    uint32_t latency_every; /* 0: not measured */
    struct contender sides[MAX_SIDES + 1]; /* the table's ratios are to the first */
};

/* 32 events of 4 KiB make an operation, and 128 of those 4096 events. */
enum { LIMIT = 128 << 10, QUEUE = 4096 };

static const struct test tests[] = {
    {.name = "cached4k",
     .what = "4 KiB random reads in the page cache, depth 128, batches of 32",
     .block = 4096, .depth = 128, .batch = 32,
     .sides = {{&peer_uring, 0}, {&engine_polled, URING}, {&engine_inline, URING},
               {&engine_producer, URING}, {&peer_uring_registered, 0}, {&peer_pread, 0}}},
    {.name = "cached512",
     .what = "512-byte random reads in the page cache, depth 128, batches of 32",
     .block = 512, .depth = 128, .batch = 32,
     .sides = {{&peer_uring, 0}, {&engine_polled, URING}, {&engine_inline, URING},
               {&engine_producer, URING}, {&peer_uring_registered, 0}, {&peer_pread, 0}}},
    {.name = "single",
     .what = "4 KiB random reads in the page cache, one at a time",
     .block = 4096, .depth = 1, .batch = 1, .latency_every = 8,
     .sides = {{&peer_pread, 0}, {&engine_wait, URING}, {&peer_uring, 0},
               {&engine_polled, URING}}},
    {.name = "direct1",
     .what = "4 KiB random reads with O_DIRECT, depth 1",
     .direct = true, .block = 4096, .depth = 1, .batch = 1, .latency_every = 1,
     .sides = {{&peer_uring, 0}, {&engine_polled, URING}, {&engine_inline, URING},
               {&engine_wait, URING}, {&peer_uring_registered, 0}, {&peer_pread, 0}}},
    {.name = "direct64",
     .what = "4 KiB random reads with O_DIRECT, depth 64, batches of 16",
     .direct = true, .block = 4096, .depth = 64, .batch = 16,
     .sides = {{&peer_uring, 0}, {&engine_polled, URING}, {&engine_inline, URING},
               {&engine_producer, URING}, {&peer_uring_registered, 0}}},
    {.name = "aio1",
     .what = "4 KiB random reads with O_DIRECT, depth 1",
     .direct = true, .block = 4096, .depth = 1, .batch = 1, .latency_every = 1,
     .sides = {{&peer_aio, 0}, {&engine_polled, AIO}, {&engine_polled, POOL},
               {&engine_polled, URING}}},
    {.name = "aio64",
     .what = "4 KiB random reads with O_DIRECT, depth 64, batches of 16",
     .direct = true, .block = 4096, .depth = 64, .batch = 16,
     .sides = {{&peer_aio, 0}, {&engine_polled, AIO}, {&engine_polled, POOL},
               {&engine_polled, URING}}},
    {.name = "pool128",
     .what = "4 KiB random reads in the page cache, depth 128, batches of 32",
     .block = 4096, .depth = 128, .batch = 32,
     .sides = {{&peer_uv, 0}, {&peer_posix, 0}, {&peer_posix_two, 0}, {&engine_polled, POOL},
               {&engine_inline, POOL}, {&engine_producer, POOL}, {&engine_polled, AIO}}},
    {.name = "mergewrite",
     .what = "4 KiB sequential writes with O_DIRECT, depth 128, merge limit 128 KiB, queue 4096",
     .direct = true, .write = true, .sequential = true,
     .block = 4096, .depth = 128, .batch = 32, .queue = QUEUE, .merge_limit = LIMIT,
     .sides = {{&engine_polled, CHOSEN}, {&engine_polled_merging, CHOSEN},
               {&engine_batches, CHOSEN}, {&engine_batches_merging, CHOSEN},
               {&engine_producer, CHOSEN}, {&engine_producer_merging, CHOSEN},
               {&engine_merger, CHOSEN}, {&peer_reference, CHOSEN}}},
    {.name = "mergeread",
     .what = "4 KiB sequential reads with O_DIRECT, depth 128, merge limit 128 KiB, queue 4096",
     .direct = true, .sequential = true,
     .block = 4096, .depth = 128, .batch = 32, .queue = QUEUE, .merge_limit = LIMIT,
     .sides = {{&engine_polled, CHOSEN}, {&engine_polled_merging, CHOSEN},
               {&engine_batches, CHOSEN}, {&engine_batches_merging, CHOSEN},
               {&engine_producer, CHOSEN}, {&engine_producer_merging, CHOSEN},
               {&engine_merger, CHOSEN}, {&peer_reference, CHOSEN}}},
    {.name = "mergerandom",
     .what = "4 KiB random reads with O_DIRECT, depth 128, batches of 32, merge limit 128 KiB",
     .direct = true, .block = 4096, .depth = 128, .batch = 32, .merge_limit = LIMIT,
     .sides = {{&engine_polled, CHOSEN}, {&engine_polled_merging, CHOSEN},
               {&engine_producer, CHOSEN}, {&engine_producer_merging, CHOSEN}}},
    {.name = "mergecached",
     .what = "4 KiB random reads in the page cache, depth 128, batches of 32, merge limit 128 KiB",
     .block = 4096, .depth = 128, .batch = 32, .merge_limit = LIMIT,
     .sides = {{&engine_polled, CHOSEN}, {&engine_polled_merging, CHOSEN}}},
    {.name = "mergesingle",
     .what = "4 KiB random reads with O_DIRECT, depth 1, merge limit 128 KiB",
     .direct = true, .block = 4096, .depth = 1, .batch = 1, .merge_limit = LIMIT,
     .latency_every = 1,
     .sides = {{&engine_inline, CHOSEN}, {&engine_inline_merging, CHOSEN}}},
    {.name = "commit",
     .what = "32 threads, each: append 512 bytes, wait until durable; file written before",
     .write = true, .sequential = true,
     .block = SECTOR, .depth = 128, .batch = 1, .threads = 32, .latency_every = 1,
     .sides = {{&peer_commit_group, 0}, {&peer_commit_group_writing, 0},
               {&engine_commit_wait, CHOSEN}, {&engine_commit_barrier, CHOSEN},
               {&engine_commit_ungrouped, CHOSEN}, {&peer_commit_alone, 0},
               {&peer_commit_uring, 0}}},
    {.name = "commitgrow",
     .what = "32 threads, each: append 512 bytes, wait until durable; file growing from nothing",
     .write = true, .sequential = true, .growing = true,
     .block = SECTOR, .depth = 128, .batch = 1, .threads = 32, .latency_every = 1,
     .sides = {{&peer_commit_group, 0}, {&peer_commit_group_writing, 0},
               {&engine_commit_wait, CHOSEN}, {&engine_commit_barrier, CHOSEN},
               {&engine_commit_ungrouped, CHOSEN}, {&peer_commit_alone, 0},
               {&peer_commit_uring, 0}}},
    {.name = "commit1",
     .what = "one thread: append 512 bytes, wait until durable; file written before",
     .write = true, .sequential = true,
     .block = SECTOR, .depth = 128, .batch = 1, .threads = 1, .latency_every = 1,
     .sides = {{&peer_commit_alone, 0}, {&engine_commit_wait, CHOSEN},
               {&engine_commit_barrier, CHOSEN}, {&peer_commit_uring, 0}}},
};
enum { N_TESTS = sizeof tests / sizeof *tests };

/* What is promised, and to be found again in every run. */
enum kind { SPEED_AT_LEAST, TIME_AT_MOST, P50_AT_MOST, CALLS_AT_MOST, CPU_AT_MOST, COST_AT_MOST };
static const struct promise {
    const char *test;
    struct contender side, peer;
    enum kind kind;
    double limit;
} promises[] = {
    {"cached4k", {&engine_polled, URING}, {&peer_uring, 0}, SPEED_AT_LEAST, 0.95},
    {"cached4k", {&engine_inline, URING}, {&peer_uring, 0}, SPEED_AT_LEAST, 0.90},
    {"cached4k", {&engine_producer, URING}, {&peer_uring, 0}, SPEED_AT_LEAST, 0.70},
    {"cached4k", {&engine_polled, URING}, {NULL, 0}, CALLS_AT_MOST, 1.0 / 16},
    {"cached4k", {&engine_inline, URING}, {NULL, 0}, CALLS_AT_MOST, 1.0 / 16},
    {"cached4k", {&engine_producer, URING}, {NULL, 0}, CALLS_AT_MOST, 1.0 / 16},
    {"cached512", {&engine_polled, URING}, {&peer_uring, 0}, SPEED_AT_LEAST, 0.95},
    {"cached512", {&engine_inline, URING}, {&peer_uring, 0}, SPEED_AT_LEAST, 0.90},
    {"cached512", {&engine_producer, URING}, {&peer_uring, 0}, SPEED_AT_LEAST, 0.70},
    {"single", {&engine_wait, URING}, {&peer_pread, 0}, TIME_AT_MOST, 1.5},
    {"direct1", {&engine_wait, URING}, {&peer_pread, 0}, P50_AT_MOST, 1.05},
    {"aio1", {&engine_polled, AIO}, {&peer_aio, 0}, SPEED_AT_LEAST, 0.95},
    {"aio64", {&engine_polled, AIO}, {&peer_aio, 0}, SPEED_AT_LEAST, 0.95},
    {"aio64", {&engine_polled, POOL}, {&engine_polled, AIO}, SPEED_AT_LEAST, 0.90},
    {"pool128", {&engine_polled, POOL}, {&peer_uv, 0}, SPEED_AT_LEAST, 1.00},
    {"pool128", {&engine_polled, POOL}, {&peer_posix, 0}, SPEED_AT_LEAST, 1.00},
    {"pool128", {&engine_polled, POOL}, {&peer_posix_two, 0}, SPEED_AT_LEAST, 1.00},
    {"mergewrite", {&engine_polled_merging, CHOSEN}, {&engine_polled, CHOSEN},
     COST_AT_MOST, 1.0 / 3},
    {"mergewrite", {&engine_polled_merging, CHOSEN}, {&engine_polled, CHOSEN},
     SPEED_AT_LEAST, 1.00},
    {"mergewrite", {&engine_batches_merging, CHOSEN}, {&engine_batches, CHOSEN},
     COST_AT_MOST, 1.0 / 3},
    {"mergewrite", {&engine_batches_merging, CHOSEN}, {&engine_batches, CHOSEN},
     SPEED_AT_LEAST, 1.00},
    {"mergewrite", {&engine_producer_merging, CHOSEN}, {&engine_producer, CHOSEN},
     COST_AT_MOST, 1.0 / 3},
    {"mergewrite", {&engine_producer_merging, CHOSEN}, {&engine_producer, CHOSEN},
     SPEED_AT_LEAST, 1.00},
    {"mergewrite", {&engine_merger, CHOSEN}, {&peer_reference, CHOSEN}, SPEED_AT_LEAST, 1.00},
    {"mergewrite", {&engine_merger, CHOSEN}, {&peer_reference, CHOSEN}, COST_AT_MOST, 1.00},
    {"mergeread", {&engine_polled_merging, CHOSEN}, {&engine_polled, CHOSEN},
     COST_AT_MOST, 1.0 / 3},
    {"mergeread", {&engine_polled_merging, CHOSEN}, {&engine_polled, CHOSEN}, SPEED_AT_LEAST, 1.00},
    {"mergeread", {&engine_batches_merging, CHOSEN}, {&engine_batches, CHOSEN},
     COST_AT_MOST, 1.0 / 3},
    {"mergeread", {&engine_batches_merging, CHOSEN}, {&engine_batches, CHOSEN},
     SPEED_AT_LEAST, 1.00},
    {"mergeread", {&engine_producer_merging, CHOSEN}, {&engine_producer, CHOSEN},
     COST_AT_MOST, 1.0 / 3},
    {"mergeread", {&engine_producer_merging, CHOSEN}, {&engine_producer, CHOSEN},
     SPEED_AT_LEAST, 1.00},
    {"mergeread", {&engine_merger, CHOSEN}, {&peer_reference, CHOSEN}, SPEED_AT_LEAST, 1.00},
    {"mergeread", {&engine_merger, CHOSEN}, {&peer_reference, CHOSEN}, COST_AT_MOST, 1.00},
    {"mergerandom", {&engine_polled_merging, CHOSEN}, {&engine_polled, CHOSEN},
     SPEED_AT_LEAST, 0.98},
    {"mergerandom", {&engine_producer_merging, CHOSEN}, {&engine_producer, CHOSEN},
     SPEED_AT_LEAST, 0.98},
    {"commit", {&engine_commit_wait, CHOSEN}, {&peer_commit_alone, 0}, SPEED_AT_LEAST, 2.00},
    {"commit", {&engine_commit_wait, CHOSEN}, {&peer_commit_group, 0}, SPEED_AT_LEAST, 1.00},
    {"commit", {&engine_commit_barrier, CHOSEN}, {&peer_commit_alone, 0}, SPEED_AT_LEAST, 2.00},
    {"commit", {&engine_commit_barrier, CHOSEN}, {&peer_commit_group, 0}, SPEED_AT_LEAST, 1.00},
    {"commit1", {&engine_commit_wait, CHOSEN}, {&peer_commit_alone, 0}, P50_AT_MOST, 1.05},
};
enum { N_PROMISES = sizeof promises / sizeof *promises };

/*
 * Contexts that wait, with callback threads as a program would have them. Zero is what is
 * promised: the limit is what one wake-up a second would cost, so that none may be there.
 */
static const char idle_name[] = "idle";
static const double idle_limit = 5e-6;

struct options {
    unsigned rounds;
    double seconds; /* of one side in one round */
    double idle_seconds;
    const char *file, *only, *json;
    uint64_t file_mib;
};

enum { ROOM = DIRECT_FACTOR * MAX_ROUNDS };
struct outcome {
    unsigned rounds; /* 0: did not run */
    double iops[ROOM], p50_us[ROOM], p99_us[ROOM], calls[ROOM], operations[ROOM];
    double syncs[ROOM]; /* a second */
    double cost[ROOM];  /* CPU seconds per GiB */
};

/*
 * A disk's speed drifts from one second to the next: more rounds there, and shorter ones. As many
 * as elsewhere do where the figures are far apart.
 */
static unsigned rounds_of(const struct test *t, const struct options *o)
{
    bool close = (t->direct && !t->sequential) || t->threads == 1;

    return close ? DIRECT_FACTOR * o->rounds : o->rounds;
}

/* Of the first side: among those of commits, it is several times as fast as others. */
static double seconds_each(const struct test *t, const struct options *o)
{
    return t->direct || t->threads ? o->seconds / 2 : o->seconds;
}

/* ---- statistics ------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int by_latency(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

struct spread {
    double median, min, max;
};

static struct spread spread_of(const double *values, unsigned n)
{
    double sorted[ROOM];

    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    double middle = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    return (struct spread){middle, sorted[0], sorted[n - 1]};
}

/* Of the rounds' ratios: what slowed a round down slowed both. */
static struct spread ratio_of(const double *side, const double *peer, unsigned rounds)
{
    double ratios[ROOM];

    for (unsigned i = 0; i < rounds; i++)
        ratios[i] = side[i] / peer[i];
    return spread_of(ratios, rounds);
}

/* ---- one side in one round ------------------------------------------------------------------- */

static int driver_number(const struct contender *c)
{
    return c->driver == CHOSEN ? chosen : c->driver;
}

static const char *driver_of(const struct contender *c)
{
    return c->driver != 0 ? ioe_driver_name(driver_number(c)) : "";
}

__attribute__((format(printf, 3, 4), noreturn)) static void
broken(const struct test *t, const struct contender *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "bench: %s: %s %s: ", t->name, c->side->name, driver_of(c));
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

struct once {
    double seconds, calls, operations, syncs, cpu_seconds, p50_us, p99_us;
};

static uint64_t counter(uint64_t (*get)(void *self), void *self)
{
    return get ? get(self) : 0;
}

static uint64_t cpu_ns(const struct side *side, void *self)
{
    return clock_ns(side->cpu_clock ? side->cpu_clock(self) : CLOCK_PROCESS_CPUTIME_ID);
}

static void *set_up(const struct contender *c, struct work *work)
{
    work->driver = driver_number(c);
    return c->side->open(work);
}

/* How many of a sample of the blocks written last, in sequence, are not in the file. */
static uint64_t missing(const struct progress *p)
{
    enum { SAMPLE = 32 };
    static _Alignas(4096) char data[4096];
    const struct work *w = p->work;
    uint64_t random = w->seed, written = p->issued < w->blocks ? p->issued : w->blocks, n = 0;

    for (int i = 0; i < SAMPLE; i++) {
        uint64_t block = (p->issued - 1 - draw(&random, written)) % w->blocks;
        if (pread(w->fd, data, w->block, (off_t)(block * w->block)) != (ssize_t)w->block ||
            !block_is(w, data, block))
            n++;
    }
    return n;
}

static struct once run_once(const struct test *t, const struct contender *c, struct work *work,
                            uint64_t warm_up, uint64_t count)
{
    const struct side *side = c->side;
    void *self = set_up(c, work);
    struct once once = {0};

    if (!self)
        broken(t, c, "cannot be set up again");
    struct progress *progress = side->progress(self);
    int err = side->run(self, warm_up);
    progress->timed = 0;
    uint64_t calls = counter(side->system_calls, self);
    uint64_t operations = counter(side->operations, self);
    uint64_t syncs = counter(side->syncs, self);
    uint64_t cpu = cpu_ns(side, self);
    uint64_t start = now_ns();
    if (err == 0)
        err = side->run(self, count);
    once.seconds = (double)(now_ns() - start) / 1e9;
    once.cpu_seconds = (double)(cpu_ns(side, self) - cpu) / 1e9;
    once.operations = (double)(counter(side->operations, self) - operations) / (double)count;
    once.calls = (double)(counter(side->system_calls, self) - calls) / (double)count;
    once.syncs = (double)(counter(side->syncs, self) - syncs) / once.seconds;
    if (err < 0)
        broken(t, c, "stopped: %s", strerror(-err));
    uint64_t wrong = atomic_load(&progress->wrong) + (work->write ? missing(progress) : 0);
    if (wrong > 0)
        broken(t, c, "%" PRIu64 " of %" PRIu64 " transfers failed or brought wrong data", wrong,
               warm_up + count);
    if (progress->timed > 0) {
        qsort(work->latencies, progress->timed, sizeof *work->latencies, by_latency);
        once.p50_us = work->latencies[progress->timed / 2] / 1e3;
        once.p99_us = work->latencies[progress->timed / 100 * 99] / 1e3;
    }
    side->close(self);
    return once;
}

/* As many transfers as the first side does in the time wanted. */
static uint64_t calibrate(const struct test *t, struct work *work, double seconds)
{
    const double enough = 0.05;
    uint64_t count = 1000;
    double took;

    while ((took = run_once(t, &t->sides[0], work, t->depth, count).seconds) < enough)
        count *= 2;
    return (uint64_t)((double)count / took * seconds) + 1;
}

/* ---- one case -------------------------------------------------------------------------------- */

static unsigned count_sides(const struct test *t)
{
    unsigned n = 0;

    while (t->sides[n].side)
        n++;
    return n;
}

/* Which sides can be had here: one that cannot has said why. */
static bool find_sides(const struct test *t, struct work *work, unsigned rounds,
                       struct outcome *outcomes)
{
    for (unsigned i = 0; t->sides[i].side; i++) {
        void *self = set_up(&t->sides[i], work);
        outcomes[i].rounds = self ? rounds : 0;
        if (self)
            t->sides[i].side->close(self);
        else
            fprintf(stderr, "bench: %s: %s\n", t->name,
                    i == 0 ? "the case is left out" : "this side is left out");
        if (outcomes[0].rounds == 0)
            return false;
    }
    return true;
}

static bool run_test(const struct test *t, const struct options *o, const struct bench_file *file,
                     struct outcome *outcomes)
{
    unsigned n = count_sides(t);
    struct work work = {
        .fd = t->direct ? file->direct : file->buffered,
        .write = t->write,
        .sequential = t->sequential,
        .block = t->block,
        .depth = t->depth,
        .queue = t->queue ? t->queue : 2 * t->depth,
        .held = t->queue ? t->queue : t->depth,
        .batch = t->batch,
        .merge_limit = t->merge_limit,
        .threads = t->threads,
        .growing = t->growing,
        .blocks = t->growing ? UINT64_MAX : file->size / t->block,
        .seed = 1,
        .stride = t->merge_limit ? 2 * (size_t)t->block : t->block,
        .latencies = t->latency_every ? malloc(MAX_LATENCIES * sizeof(uint32_t)) : NULL,
        .max_latencies = MAX_LATENCIES,
        .latency_every = t->latency_every,
    };

    work.buffers = buffers_new(work_buffers(&work), work.stride);
    if (!work.buffers || (t->latency_every && !work.latencies)) {
        fprintf(stderr, "bench: %s: no memory\n", t->name);
        exit(EXIT_FAILURE);
    }
    int err = file_cache(file, !t->direct);
    if (err < 0)
        exit(EXIT_FAILURE);
    unsigned rounds = rounds_of(t, o);
    bool runs_here = find_sides(t, &work, rounds, outcomes);
    uint64_t count = runs_here ? calibrate(t, &work, seconds_each(t, o)) : 0;
    for (unsigned round = 0; runs_here && round < rounds; round++) {
        work.seed = round + 2;
        /* Another side begins each round: none has always the same one before it. */
        for (unsigned k = 0; k < n; k++) {
            unsigned i = (k + round) % n;
            if (outcomes[i].rounds == 0)
                continue;
            struct once once = run_once(t, &t->sides[i], &work, count / 10 + t->depth, count);
            outcomes[i].iops[round] = (double)count / once.seconds;
            outcomes[i].calls[round] = once.calls;
            outcomes[i].operations[round] = once.operations;
            outcomes[i].cost[round] =
                once.cpu_seconds / ((double)count * t->block) * (double)(1 << 30);
            outcomes[i].syncs[round] = once.syncs;
            outcomes[i].p50_us[round] = once.p50_us;
            outcomes[i].p99_us[round] = once.p99_us;
        }
    }
    free(work.buffers);
    free(work.latencies);
    return runs_here;
}

/* A figure that not all sides have. */
static void print_median(bool known, const double *values, unsigned rounds, int precision)
{
    if (known)
        printf(" %9.*f", precision, spread_of(values, rounds).median);
    else
        printf(" %9s", "?");
}

static void print_table(const struct test *t, const struct outcome *outcomes)
{
    bool merging = t->merge_limit != 0, latency = t->latency_every != 0;

    printf("\n%s: %s\n", t->name, t->what);
    printf("  %-12s %-6s %10s %22s %7s%s%s%s%s\n", "side", "driver",
           t->threads ? "commits/s" : t->write ? "writes/s" : "reads/s", "min..max", "ratio",
           t->threads ? "   syncs/s" : "  calls/op", merging ? " kernel/op CPU s/GiB" : "",
           latency ? "    p50 us" : "", t->threads ? "    p99 us" : "");
    for (unsigned i = 0; t->sides[i].side; i++) {
        const struct contender *c = &t->sides[i];
        const struct outcome *r = &outcomes[i];
        if (r->rounds == 0)
            continue;
        struct spread iops = spread_of(r->iops, r->rounds);
        printf("  %-12s %-6s %10.0f %10.0f..%-10.0f %7.3f", c->side->name, driver_of(c),
               iops.median, iops.min, iops.max,
               ratio_of(r->iops, outcomes[0].iops, r->rounds).median);
        if (t->threads)
            print_median(true, r->syncs, r->rounds, 0);
        else
            print_median(c->side->system_calls, r->calls, r->rounds, 4);
        if (merging) {
            print_median(c->side->operations, r->operations, r->rounds, 4);
            print_median(true, r->cost, r->rounds, 4);
        }
        if (latency)
            print_median(true, r->p50_us, r->rounds, 2);
        if (t->threads)
            print_median(true, r->p99_us, r->rounds, 2);
        putchar('\n');
    }
}

/* ---- the report ------------------------------------------------------------------------------ */

/* Whether a name is in the list of --only: names with commas between them. */
static bool wanted(const char *name, const struct options *o)
{
    size_t len = strlen(name);

    for (const char *at = o->only; at; at = strchr(at, ','), at += at != NULL)
        if (strncmp(at, name, len) == 0 && (at[len] == ',' || at[len] == '\0'))
            return true;
    return !o->only;
}

struct verdict {
    const char *test;
    struct contender side, peer;
    enum kind kind;
    double limit, value;
    bool kept;
};

static struct verdict verdict_of(const struct promise *p, double value)
{
    bool kept = p->kind == SPEED_AT_LEAST ? value >= p->limit : value <= p->limit;

    return (struct verdict){p->test, p->side, p->peer, p->kind, p->limit, value, kept};
}

/* What a contender did in a case; NULL where it did not run. */
static const struct outcome *outcome_of(const struct contender *wish, unsigned test,
                                        struct outcome (*outcomes)[MAX_SIDES])
{
    for (unsigned i = 0; tests[test].sides[i].side; i++) {
        const struct contender *c = &tests[test].sides[i];
        if (c->side == wish->side && c->driver == wish->driver && outcomes[test][i].rounds > 0)
            return &outcomes[test][i];
    }
    return NULL;
}

/* The promises about the cases and sides that ran. */
static size_t judge(struct outcome (*outcomes)[MAX_SIDES], struct verdict *verdicts)
{
    size_t n = 0;

    for (size_t k = 0; k < N_PROMISES; k++) {
        const struct promise *p = &promises[k];
        unsigned t = 0;
        while (strcmp(tests[t].name, p->test) != 0)
            t++;
        const struct outcome *side = outcome_of(&p->side, t, outcomes);
        const struct outcome *peer = outcome_of(&p->peer, t, outcomes);
        if (!side || (p->peer.side && !peer))
            continue;
        unsigned rounds = side->rounds;
        double value = p->kind == CALLS_AT_MOST ? spread_of(side->calls, rounds).median
                       : p->kind == COST_AT_MOST
                           ? ratio_of(side->cost, peer->cost, rounds).median
                       : p->kind == P50_AT_MOST
                           ? ratio_of(side->p50_us, peer->p50_us, rounds).median
                           : ratio_of(side->iops, peer->iops, rounds).median;
        verdicts[n++] = verdict_of(p, p->kind == TIME_AT_MOST ? 1 / value : value);
    }
    return n;
}

static void print_verdict(const struct verdict *v)
{
    const struct contender *p = &v->peer;

    printf("%s  %-11s %-11s %-6s ", v->kept ? "PASS" : "MISS", v->test,
           v->side.side ? v->side.side->name : "threaded", driver_of(&v->side));
    switch (v->kind) {
    case SPEED_AT_LEAST:
        printf("%.3f of the speed of %s%s%s (at least %.2f)\n", v->value, p->side->name,
               p->driver != 0 ? " on " : "", driver_of(p), v->limit);
        break;
    case TIME_AT_MOST:
        printf("%.3f times the time of %s (at most %.2f)\n", v->value, p->side->name, v->limit);
        break;
    case P50_AT_MOST:
        printf("%.3f times the p50 of %s (at most %.2f)\n", v->value, p->side->name, v->limit);
        break;
    case CALLS_AT_MOST:
        printf("%.4f system calls per operation (at most %.4f)\n", v->value, v->limit);
        break;
    case CPU_AT_MOST:
        printf("%.6f of a processor (at most %.6f)\n", v->value, v->limit);
        break;
    case COST_AT_MOST:
        printf("%.3f of the CPU time per GiB of %s (at most %.3f)\n", v->value, p->side->name,
               v->limit);
        break;
    }
}

static void json_verdict(FILE *to, const struct verdict *v)
{
    static const char *const kinds[] = {"speed_at_least", "time_at_most", "p50_at_most",
                                        "calls_at_most", "cpu_at_most", "cpu_per_gib_at_most"};

    fprintf(to, "{\"case\": \"%s\", \"side\": \"%s\", \"driver\": \"%s\", ", v->test,
            v->side.side ? v->side.side->name : "threaded", driver_of(&v->side));
    if (v->peer.side)
        fprintf(to, "\"peer\": \"%s\", \"peer_driver\": \"%s\", ", v->peer.side->name,
                driver_of(&v->peer));
    fprintf(to, "\"kind\": \"%s\", \"limit\": %.6f, \"value\": %.6f, \"pass\": %s}",
            kinds[v->kind], v->limit, v->value, v->kept ? "true" : "false");
}

static void json_spread(FILE *to, const char *name, struct spread s)
{
    fprintf(to, ", \"%s\": {\"median\": %.4f, \"min\": %.4f, \"max\": %.4f}", name, s.median,
            s.min, s.max);
}

static void json_result(FILE *to, const struct test *t, unsigned side,
                        const struct outcome *outcomes)
{
    const struct contender *c = &t->sides[side];
    const struct outcome *r = &outcomes[side];

    fprintf(to, "{\"case\": \"%s\", \"side\": \"%s\", \"driver\": \"%s\", \"rounds\": %u",
            t->name, c->side->name, driver_of(c), r->rounds);
    json_spread(to,
                t->threads ? "commits_per_second"
                : t->write ? "writes_per_second"
                           : "reads_per_second",
                spread_of(r->iops, r->rounds));
    json_spread(to, "ratio", ratio_of(r->iops, outcomes[0].iops, r->rounds));
    if (c->side->system_calls)
        json_spread(to, "calls_per_operation", spread_of(r->calls, r->rounds));
    if (t->merge_limit && c->side->operations)
        json_spread(to, "kernel_operations_per_event", spread_of(r->operations, r->rounds));
    if (t->merge_limit)
        json_spread(to, "cpu_seconds_per_gib", spread_of(r->cost, r->rounds));
    if (t->latency_every)
        json_spread(to, "p50_us", spread_of(r->p50_us, r->rounds));
    if (t->threads) {
        json_spread(to, "p99_us", spread_of(r->p99_us, r->rounds));
        json_spread(to, "syncs_per_second", spread_of(r->syncs, r->rounds));
    }
    fputc('}', to);
}

static int write_json(const struct options *o, struct outcome (*outcomes)[MAX_SIDES],
                      const struct verdict *verdicts, size_t n)
{
    const char *separator = "";
    FILE *to = fopen(o->json, "w");

    if (!to) {
        perror(o->json);
        return -1;
    }
    fprintf(to, "{\"version\": \"%s\", \"rounds\": %u, \"seconds\": %g,\n", ioe_version(),
            o->rounds, o->seconds);
    fprintf(to, " \"results\": [");
    for (unsigned t = 0; t < N_TESTS; t++) {
        for (unsigned i = 0; tests[t].sides[i].side; i++) {
            if (outcomes[t][i].rounds == 0)
                continue;
            fprintf(to, "%s\n  ", separator);
            json_result(to, &tests[t], i, outcomes[t]);
            separator = ",";
        }
    }
    fprintf(to, "],\n \"promises\": [");
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "%s\n  ", i > 0 ? "," : "");
        json_verdict(to, &verdicts[i]);
    }
    fprintf(to, "]}\n");
    return fclose(to);
}

/* For the impatient: how long all of it takes, about. */
static double seconds_of(const struct options *o)
{
    const double warm_up = 1.1, file = 1; /* and for the file, in each case */
    double sum = wanted(idle_name, o) ? N_DRIVERS * o->idle_seconds : 0;

    for (unsigned t = 0; t < N_TESTS; t++)
        if (wanted(tests[t].name, o))
            sum += file + rounds_of(&tests[t], o) * seconds_each(&tests[t], o) * warm_up *
                              count_sides(&tests[t]);
    return sum;
}

static void print_heading(const struct options *o)
{
    struct utsname u;

    uname(&u);
    printf("io_engine %s, Linux %s, %ld processors; %u rounds of %.2f s a side; "
           "file of %" PRIu64 " MiB; about %.0f s\n",
           ioe_version(), u.release, sysconf(_SC_NPROCESSORS_ONLN), o->rounds, o->seconds,
           o->file_mib, seconds_of(o));
    printf("sides:\n");
    static const struct side *const all[] = {
        &peer_uring, &engine_polled, &engine_inline, &engine_producer, &engine_wait,
        &peer_uring_registered, &peer_pread, &peer_aio, &peer_posix, &peer_posix_two, &peer_uv,
        &engine_batches, &engine_merger, &peer_reference};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        printf("  %-12s %s\n", all[i]->name, all[i]->what);
    printf("  %-12s the same, with a merge_limit\n", "...+m");
    printf("of the cases of commits:\n");
    static const struct side *const commits[] = {
        &peer_commit_group, &peer_commit_group_writing, &peer_commit_alone, &peer_commit_uring,
        &engine_commit_wait, &engine_commit_barrier, &engine_commit_ungrouped};
    for (size_t i = 0; i < sizeof commits / sizeof *commits; i++)
        printf("  %-12s %s\n", commits[i]->name, commits[i]->what);
}

/* ---- idle contexts --------------------------------------------------------------------------- */

/* The verdicts on the drivers that work here; returns how many. */
static size_t run_idle(const struct options *o, const struct bench_file *file,
                       struct verdict *verdicts)
{
    size_t n = 0;

    printf("\n%s: %d contexts that were used and now wait, %.1f s\n", idle_name,
           (int)IDLE_CONTEXTS, o->idle_seconds);
    printf("  %-12s %-6s %12s %12s\n", "side", "driver", "processors", "wake-ups/s");
    for (size_t i = 0; i < N_DRIVERS; i++) {
        struct promise promise = {idle_name, {NULL, drivers[i]}, {NULL, 0}, CPU_AT_MOST,
                                  idle_limit};
        struct idle idle;
        int err = idle_measure(&idle, drivers[i], file, o->idle_seconds);
        if (err < 0) {
            fprintf(stderr, "bench: %s: %s is left out: %s\n", idle_name,
                    ioe_driver_name(drivers[i]), ioe_strerror(err));
            continue;
        }
        printf("  %-12s %-6s %12.6f %12.1f\n", "threaded", ioe_driver_name(drivers[i]),
               idle.processors, idle.wake_ups);
        verdicts[n++] = verdict_of(&promise, idle.processors);
    }
    return n;
}

/* -- command line ----------------------------------------------------------------------------- */

static void usage(FILE *to)
{
    fprintf(to,
            "usage: bench [options]\n"
            "\n"
            "  --rounds N       how often each side runs (default 9, at most %d)\n"
            "  --seconds S      how long, about, each time (default 0.25)\n"
            "                   (with O_DIRECT: three times as often, and half as long)\n"
            "  --quick          3 rounds of 0.1 s: a look, not a measurement\n"
            "  --only CASE,...  some of: %s",
            (int)MAX_ROUNDS, idle_name);
    for (unsigned t = 0; t < N_TESTS; t++)
        fprintf(to, " %s", tests[t].name);
    fprintf(to,
            "\n"
            "  --driver NAME    of the cases of merging and of commits: uring, aio, pool\n"
            "                   (default: that of IOE_DRIVER in the environment, else uring)\n"
            "  --file PATH      the file to read: made if missing, then kept (default: one that\n"
            "                   has no name and is gone afterwards, in the current directory);\n"
            "                   what is written goes to a nameless one beside it\n"
            "  --size MIB       its size (default 128)\n"
            "  --json PATH      write the results there as well\n"
            "  --help           print this\n"
            "\n"
            "Exit status: 0 when all was measured, kept promises or not; 1 when something failed\n"
            "or a transfer went wrong; 2 for a wrong command line.\n");
}

static double number(const char *text, double min, double max, const char *option)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= min && value <= max)) {
        fprintf(stderr, "bench: %s: '%s' is not a number from %g to %g\n", option, text, min, max);
        exit(EXIT_USAGE);
    }
    return value;
}

static int driver_named(const char *name)
{
    for (size_t i = 0; i < N_DRIVERS; i++)
        if (strcmp(name, ioe_driver_name(drivers[i])) == 0)
            return drivers[i];
    fprintf(stderr, "bench: '%s' is no driver: uring, aio or pool\n", name);
    exit(EXIT_USAGE);
}

static bool names_are_cases(const struct options *o)
{
    size_t named = o->only ? 1 : 0, found = o->only && wanted(idle_name, o) ? 1 : 0;

    for (const char *at = o->only; at && (at = strchr(at, ',')); at++)
        named++;
    for (unsigned t = 0; o->only && t < N_TESTS; t++)
        found += wanted(tests[t].name, o) ? 1 : 0;
    return named == found;
}

static struct options parse_options(int argc, char **argv)
{
    enum { ROUNDS = 256, SECONDS, QUICK, ONLY, DRIVER, FILE_PATH, SIZE, JSON, HELP };
    static const struct option known[] = {
        {"rounds", required_argument, NULL, ROUNDS}, {"seconds", required_argument, NULL, SECONDS},
        {"quick", no_argument, NULL, QUICK},         {"only", required_argument, NULL, ONLY},
        {"driver", required_argument, NULL, DRIVER}, {"file", required_argument, NULL, FILE_PATH},
        {"size", required_argument, NULL, SIZE},     {"json", required_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    struct options o = {.rounds = 9, .seconds = 0.25, .idle_seconds = 2, .file_mib = 128};
    const char *driver = getenv("IOE_DRIVER");
    int opt;

    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (opt) {
        case ROUNDS: o.rounds = (unsigned)number(optarg, 1, MAX_ROUNDS, "--rounds"); break;
        case SECONDS: o.seconds = number(optarg, 0.001, 60, "--seconds"); break;
        case QUICK:
            o.rounds = 3;
            o.seconds = 0.1;
            o.idle_seconds = 0.5;
            break;
        case ONLY: o.only = optarg; break;
        case DRIVER: driver = optarg; break;
        case FILE_PATH: o.file = optarg; break;
        case SIZE: o.file_mib = (uint64_t)number(optarg, 1, 65536, "--size"); break;
        case JSON: o.json = optarg; break;
        case HELP: usage(stdout); exit(EXIT_SUCCESS);
        default: exit(EXIT_USAGE);
        }
    }
    if (driver && *driver && strcmp(driver, ioe_driver_name(IOE_DRIVER_AUTO)) != 0)
        chosen = driver_named(driver);
    if (optind != argc || !names_are_cases(&o)) {
        usage(stderr);
        exit(EXIT_USAGE);
    }
    return o;
}

int main(int argc, char **argv)
{
    static struct outcome outcomes[N_TESTS][MAX_SIDES];
    struct options o = parse_options(argc, argv);
    struct bench_file file;

    if (file_open(&file, o.file, o.file_mib << 20) < 0)
        return EXIT_FAILURE;
    setvbuf(stdout, NULL, _IOLBF, 0);
    print_heading(&o);
    struct verdict verdicts[N_DRIVERS + N_PROMISES];
    size_t n = wanted(idle_name, &o) ? run_idle(&o, &file, verdicts) : 0;
    for (unsigned t = 0; t < N_TESTS; t++) {
        if (!wanted(tests[t].name, &o))
            continue;
        if (tests[t].direct && file.direct < 0) {
            fprintf(stderr, "bench: %s: the file system has no O_DIRECT: try --file elsewhere\n",
                    tests[t].name);
            return EXIT_FAILURE;
        }
        struct bench_file scratch;
        if (tests[t].write && file_scratch(&scratch, o.file, tests[t].growing ? 0 : file.size) < 0)
            return EXIT_FAILURE;
        if (run_test(&tests[t], &o, tests[t].write ? &scratch : &file, outcomes[t]))
            print_table(&tests[t], outcomes[t]);
        if (tests[t].write)
            file_close(&scratch);
    }
    putchar('\n');
    n += judge(outcomes, verdicts + n);
    for (size_t i = 0; i < n; i++)
        print_verdict(&verdicts[i]);
    return o.json && write_json(&o, outcomes, verdicts, n) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
