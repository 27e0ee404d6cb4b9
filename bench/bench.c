/*
 * bench.c: the engine side by side with what a program would use otherwise.
 *
 *     make bench                                      (package: liburing-dev)
 *     target/bench/bench --help
 *
 * Each case runs all its sides in turn, round after round, so that whatever else happens on the
 * machine hits all of them. In a round every side reads the same random blocks, as many, into the
 * same buffers, and looks at every result and at a sample of the data. Compared are medians over
 * the rounds; a ratio is the median of the rounds' ratios. Pinning to processors is left to the
 * caller (taskset): the engine's own threads and the caller's are the system's to place.
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

enum { MAX_ROUNDS = 99, MAX_SIDES = 7, MAX_LATENCIES = 1 << 20, EXIT_USAGE = 2 };

struct test {
    const char *name;
    const char *what;
    bool direct;
    uint32_t block, depth, batch;
    uint32_t latency_every; /* 0: not measured */
    const struct side *sides[MAX_SIDES + 1]; /* the first is the one compared with */
};

static const struct test tests[] = {
    {"cached4k", "4 KiB random reads in the page cache, depth 128, batches of 32", false, 4096,
     128, 32, 0,
     {&peer_uring, &engine_polled, &engine_inline, &engine_producer, &peer_uring_registered,
      &peer_pread}},
    {"cached512", "512-byte random reads in the page cache, depth 128, batches of 32", false, 512,
     128, 32, 0,
     {&peer_uring, &engine_polled, &engine_inline, &engine_producer, &peer_uring_registered,
      &peer_pread}},
    {"single", "4 KiB random reads in the page cache, one at a time", false, 4096, 1, 1, 8,
     {&peer_pread, &engine_wait, &peer_uring, &engine_polled}},
    {"direct1", "4 KiB random reads with O_DIRECT, depth 1", true, 4096, 1, 1, 1,
     {&peer_uring, &engine_polled, &engine_inline, &engine_wait, &peer_uring_registered,
      &peer_pread}},
    {"direct64", "4 KiB random reads with O_DIRECT, depth 64, batches of 16", true, 4096, 64, 16,
     0, {&peer_uring, &engine_polled, &engine_inline, &engine_producer, &peer_uring_registered}},
};
enum { N_TESTS = sizeof tests / sizeof *tests };

/* What is promised, and to be found again in every run. */
static const struct promise {
    const char *test;
    const struct side *side;
    enum { SPEED_AT_LEAST, TIME_AT_MOST, CALLS_AT_MOST } kind;
    double limit;
} promises[] = {
    {"cached4k", &engine_polled, SPEED_AT_LEAST, 0.95},
    {"cached4k", &engine_inline, SPEED_AT_LEAST, 0.90},
    {"cached4k", &engine_producer, SPEED_AT_LEAST, 0.70},
    {"cached4k", &engine_polled, CALLS_AT_MOST, 1.0 / 16},
    {"cached4k", &engine_inline, CALLS_AT_MOST, 1.0 / 16},
    {"cached4k", &engine_producer, CALLS_AT_MOST, 1.0 / 16},
    {"cached512", &engine_polled, SPEED_AT_LEAST, 0.95},
    {"cached512", &engine_inline, SPEED_AT_LEAST, 0.90},
    {"cached512", &engine_producer, SPEED_AT_LEAST, 0.70},
    {"single", &engine_wait, TIME_AT_MOST, 1.5},
};
enum { N_PROMISES = sizeof promises / sizeof *promises };

struct options {
    unsigned rounds;
    double seconds; /* of one side in one round */
    const char *file, *only, *json;
    uint64_t file_mib;
};

struct outcome {
    double iops[MAX_ROUNDS], ratio[MAX_ROUNDS], p50_us[MAX_ROUNDS], calls[MAX_ROUNDS];
};

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
    double sorted[MAX_ROUNDS];

    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    double middle = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    return (struct spread){middle, sorted[0], sorted[n - 1]};
}

/* ---- one side in one round ------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4), noreturn)) static void
broken(const struct test *t, const struct side *side, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "bench: %s: %s: ", t->name, side->name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

struct once {
    double seconds, calls, p50_us;
};

static struct once run_once(const struct test *t, const struct side *side, struct work *work,
                            uint64_t warm_up, uint64_t count)
{
    void *self = side->open(work);
    struct once once = {0};

    if (!self)
        broken(t, side, "cannot be set up");
    struct reads *reads = side->reads(self);
    int err = side->run(self, warm_up);
    reads->timed = 0;
    uint64_t calls = side->system_calls(self);
    uint64_t start = now_ns();
    if (err == 0)
        err = side->run(self, count);
    once.seconds = (double)(now_ns() - start) / 1e9;
    once.calls = (double)(side->system_calls(self) - calls) / (double)count;
    uint64_t wrong = atomic_load(&reads->wrong);
    if (err < 0)
        broken(t, side, "stopped: %s", strerror(-err));
    if (wrong > 0)
        broken(t, side, "%" PRIu64 " of %" PRIu64 " reads failed or brought wrong data", wrong,
               warm_up + count);
    if (reads->timed > 0) {
        qsort(work->latencies, reads->timed, sizeof *work->latencies, by_latency);
        once.p50_us = work->latencies[reads->timed / 2] / 1e3;
    }
    side->close(self);
    return once;
}

/* As many reads as the first side does in the time wanted. */
static uint64_t calibrate(const struct test *t, struct work *work, double seconds)
{
    const double enough = 0.05;
    uint64_t count = 1000;
    double took;

    while ((took = run_once(t, t->sides[0], work, t->depth, count).seconds) < enough)
        count *= 2;
    return (uint64_t)((double)count / took * seconds) + 1;
}

/* ---- one case -------------------------------------------------------------------------------- */

static unsigned count_sides(const struct test *t)
{
    unsigned n = 0;

    while (t->sides[n])
        n++;
    return n;
}

static void run_test(const struct test *t, const struct options *o, const struct bench_file *file,
                     struct outcome *outcomes)
{
    unsigned n = count_sides(t);
    struct work work = {
        .fd = t->direct ? file->direct : file->buffered,
        .block = t->block,
        .depth = t->depth,
        .batch = t->batch,
        .blocks = file->size / t->block,
        .seed = 1,
        .buffers = buffers_new(work_buffers(t->depth), t->block),
        .latencies = t->latency_every ? malloc(MAX_LATENCIES * sizeof(uint32_t)) : NULL,
        .max_latencies = MAX_LATENCIES,
        .latency_every = t->latency_every,
    };

    if (!work.buffers || (t->latency_every && !work.latencies)) {
        fprintf(stderr, "bench: %s: no memory\n", t->name);
        exit(EXIT_FAILURE);
    }
    int err = file_cache(file, !t->direct);
    if (err < 0)
        exit(EXIT_FAILURE);
    uint64_t count = calibrate(t, &work, o->seconds);
    for (unsigned round = 0; round < o->rounds; round++) {
        work.seed = round + 2;
        struct once runs[MAX_SIDES];
        /* Another side begins each round: none has always the same one before it. */
        for (unsigned k = 0; k < n; k++) {
            unsigned i = (k + round) % n;
            runs[i] = run_once(t, t->sides[i], &work, count / 10 + t->depth, count);
        }
        for (unsigned i = 0; i < n; i++) {
            outcomes[i].iops[round] = (double)count / runs[i].seconds;
            outcomes[i].ratio[round] = runs[0].seconds / runs[i].seconds;
            outcomes[i].calls[round] = runs[i].calls;
            outcomes[i].p50_us[round] = runs[i].p50_us;
        }
    }
    free(work.buffers);
    free(work.latencies);
}

static void print_table(const struct test *t, const struct options *o,
                        const struct outcome *outcomes)
{
    printf("\n%s: %s\n", t->name, t->what);
    printf("  %-12s %10s %22s %7s %9s %9s\n", "side", "reads/s", "min..max", "ratio", "calls/op",
           t->latency_every ? "p50 us" : "");
    for (unsigned i = 0; t->sides[i]; i++) {
        struct spread iops = spread_of(outcomes[i].iops, o->rounds);
        printf("  %-12s %10.0f %10.0f..%-10.0f %7.3f %9.4f", t->sides[i]->name, iops.median,
               iops.min, iops.max, spread_of(outcomes[i].ratio, o->rounds).median,
               spread_of(outcomes[i].calls, o->rounds).median);
        if (t->latency_every)
            printf(" %9.2f", spread_of(outcomes[i].p50_us, o->rounds).median);
        putchar('\n');
    }
}

static double measure(const struct promise *p, const struct outcome *outcome, unsigned rounds)
{
    switch (p->kind) {
    case SPEED_AT_LEAST: return spread_of(outcome->ratio, rounds).median;
    case TIME_AT_MOST: return 1 / spread_of(outcome->ratio, rounds).median;
    case CALLS_AT_MOST: return spread_of(outcome->calls, rounds).median;
    }
    return 0;
}

/* ---- the report ------------------------------------------------------------------------------ */

static bool wanted(const struct test *t, const struct options *o)
{
    return !o->only || strcmp(o->only, t->name) == 0;
}

struct verdict {
    const struct promise *promise;
    const struct side *peer;
    double value;
    bool kept;
};

/* The promises about the cases that ran. */
static size_t judge(const struct options *o, struct outcome (*outcomes)[MAX_SIDES],
                    struct verdict *verdicts)
{
    size_t n = 0;

    for (size_t k = 0; k < N_PROMISES; k++) {
        const struct promise *p = &promises[k];
        for (unsigned t = 0; t < N_TESTS; t++) {
            if (strcmp(tests[t].name, p->test) != 0 || !wanted(&tests[t], o))
                continue;
            for (unsigned i = 0; tests[t].sides[i]; i++) {
                if (tests[t].sides[i] != p->side)
                    continue;
                double value = measure(p, &outcomes[t][i], o->rounds);
                bool kept = p->kind == SPEED_AT_LEAST ? value >= p->limit : value <= p->limit;
                verdicts[n++] = (struct verdict){p, tests[t].sides[0], value, kept};
            }
        }
    }
    return n;
}

static void print_verdict(const struct verdict *v)
{
    const struct promise *p = v->promise;

    printf("%s  %-9s %-11s ", v->kept ? "PASS" : "MISS", p->test, p->side->name);
    switch (p->kind) {
    case SPEED_AT_LEAST:
        printf("%.3f of the speed of %s (at least %.2f)\n", v->value, v->peer->name, p->limit);
        break;
    case TIME_AT_MOST:
        printf("%.3f times the time of %s (at most %.2f)\n", v->value, v->peer->name, p->limit);
        break;
    case CALLS_AT_MOST:
        printf("%.4f system calls per operation (at most %.4f)\n", v->value, p->limit);
        break;
    }
}

static void json_verdict(FILE *to, const struct verdict *v)
{
    static const char *const kinds[] = {"speed_at_least", "time_at_most", "calls_at_most"};
    const struct promise *p = v->promise;

    fprintf(to,
            "{\"case\": \"%s\", \"side\": \"%s\", \"peer\": \"%s\", \"kind\": \"%s\", "
            "\"limit\": %.4f, \"value\": %.4f, \"pass\": %s}",
            p->test, p->side->name, v->peer->name, kinds[p->kind], p->limit, v->value,
            v->kept ? "true" : "false");
}

static void json_spread(FILE *to, const char *name, const double *values, unsigned n)
{
    struct spread s = spread_of(values, n);

    fprintf(to, ", \"%s\": {\"median\": %.4f, \"min\": %.4f, \"max\": %.4f}", name, s.median,
            s.min, s.max);
}

static void json_result(FILE *to, const struct test *t, unsigned side, const struct outcome *r,
                        unsigned rounds)
{
    fprintf(to, "{\"case\": \"%s\", \"side\": \"%s\"", t->name, t->sides[side]->name);
    json_spread(to, "reads_per_second", r->iops, rounds);
    json_spread(to, "ratio", r->ratio, rounds);
    json_spread(to, "calls_per_operation", r->calls, rounds);
    if (t->latency_every)
        json_spread(to, "p50_us", r->p50_us, rounds);
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
        for (unsigned i = 0; wanted(&tests[t], o) && tests[t].sides[i]; i++) {
            fprintf(to, "%s\n  ", separator);
            json_result(to, &tests[t], i, &outcomes[t][i], o->rounds);
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

static void print_heading(const struct options *o)
{
    struct utsname u;

    uname(&u);
    printf("io_engine %s, Linux %s, %ld processors; %u rounds of %.2f s a side; "
           "file of %" PRIu64 " MiB\n",
           ioe_version(), u.release, sysconf(_SC_NPROCESSORS_ONLN), o->rounds, o->seconds,
           o->file_mib);
    printf("sides:\n");
    static const struct side *const all[] = {&peer_uring,      &engine_polled,
                                             &engine_inline,   &engine_producer,
                                             &engine_wait,     &peer_uring_registered,
                                             &peer_pread};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        printf("  %-12s %s\n", all[i]->name, all[i]->what);
}

/* -- command line ----------------------------------------------------------------------------- */

static void usage(FILE *to)
{
    fprintf(to,
            "usage: bench [options]\n"
            "\n"
            "  --rounds N       how often each side runs (default 7, at most %d)\n"
            "  --seconds S      how long, about, each time (default 0.5)\n"
            "  --quick          3 rounds of 0.1 s: a look, not a measurement\n"
            "  --only CASE      one of:",
            (int)MAX_ROUNDS);
    for (unsigned t = 0; t < N_TESTS; t++)
        fprintf(to, " %s", tests[t].name);
    fprintf(to,
            "\n"
            "  --file PATH      the file to read: made if missing, then kept (default: one that\n"
            "                   has no name and is gone afterwards, in the current directory)\n"
            "  --size MIB       its size (default 128)\n"
            "  --json PATH      write the results there as well\n"
            "  --help           print this\n"
            "\n"
            "Exit status: 0 when all was measured, kept promises or not; 1 when something failed\n"
            "or a read brought wrong data; 2 for a wrong command line.\n");
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

static struct options parse_options(int argc, char **argv)
{
    enum { ROUNDS = 256, SECONDS, QUICK, ONLY, FILE_PATH, SIZE, JSON, HELP };
    static const struct option known[] = {
        {"rounds", required_argument, NULL, ROUNDS}, {"seconds", required_argument, NULL, SECONDS},
        {"quick", no_argument, NULL, QUICK},         {"only", required_argument, NULL, ONLY},
        {"file", required_argument, NULL, FILE_PATH}, {"size", required_argument, NULL, SIZE},
        {"json", required_argument, NULL, JSON},     {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    struct options o = {.rounds = 7, .seconds = 0.5, .file_mib = 128};
    bool found = false;
    int opt;

    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (opt) {
        case ROUNDS: o.rounds = (unsigned)number(optarg, 1, MAX_ROUNDS, "--rounds"); break;
        case SECONDS: o.seconds = number(optarg, 0.001, 60, "--seconds"); break;
        case QUICK:
            o.rounds = 3;
            o.seconds = 0.1;
            break;
        case ONLY: o.only = optarg; break;
        case FILE_PATH: o.file = optarg; break;
        case SIZE: o.file_mib = (uint64_t)number(optarg, 1, 65536, "--size"); break;
        case JSON: o.json = optarg; break;
        case HELP: usage(stdout); exit(EXIT_SUCCESS);
        default: exit(EXIT_USAGE);
        }
    }
    for (unsigned t = 0; t < N_TESTS; t++)
        found |= wanted(&tests[t], &o);
    if (optind != argc || !found) {
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
    for (unsigned t = 0; t < N_TESTS; t++) {
        if (!wanted(&tests[t], &o))
            continue;
        if (tests[t].direct && file.direct < 0) {
            fprintf(stderr, "bench: %s: the file system has no O_DIRECT: try --file elsewhere\n",
                    tests[t].name);
            return EXIT_FAILURE;
        }
        run_test(&tests[t], &o, &file, outcomes[t]);
        print_table(&tests[t], &o, outcomes[t]);
    }
    putchar('\n');
    struct verdict verdicts[N_PROMISES];
    size_t n = judge(&o, outcomes, verdicts);
    for (size_t i = 0; i < n; i++)
        print_verdict(&verdicts[i]);
    return o.json && write_json(&o, outcomes, verdicts, n) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
