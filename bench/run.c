/*
 * run.c: one side of the comparison, ready to work whenever it is told to.
 *
 *     target/bench/run --help
 *     printf 'warm 10000\nrun 100000\n' | target/bench/run --depth 128 --batch 32 polled
 *
 * It opens one side, says "ready", and obeys the lines on its standard input: each has the side do
 * so many transfers, and is answered by one line of JSON. A process is one side's alone, so that
 * its memory, its processor time (of all its threads, io_uring's among them) and the instructions
 * that callgrind counts are that side's. While it waits for a line nothing runs in it, and
 * another side can have the machine: bench.py has them take turns.
 *
 * Not in the processor time: interrupts that hit another process, the kernel's workers (of block
 * layer and file system), and what the host does.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <io_engine.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION ((void)0)
#define CALLGRIND_STOP_INSTRUMENTATION ((void)0)
#endif

enum { MAX_THREADS = 256, MAX_LATENCIES = 1 << 18, LIVES = 100, MAX_LINE = 64 };
enum { EXIT_USAGE = 2, EXIT_NOT_HERE = 3 };

struct options {
    struct work work; /* what is not known before the file is open is added later */
    const char *file, *name;
    uint64_t file_mib;
    double seconds;
    bool fill;
};

#define TABLE_ENTRY(name) &name,
static const struct side *const sides[] = {SIDES(TABLE_ENTRY)};
enum { N_SIDES = sizeof sides / sizeof *sides };

uint64_t resident_bytes(void)
{
    FILE *from = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    uint64_t kib = 0;

    while (from && fgets(line, sizeof line, from))
        if (sscanf(line, "Rss: %" SCNu64 " kB", &kib) == 1)
            break;
    if (from)
        fclose(from);
    return kib * 1024;
}

/* ---- one run --------------------------------------------------------------------------------- */

static uint64_t ns_of(struct timeval t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_usec * 1000u;
}

static uint64_t counter(uint64_t (*get)(void *self), void *self)
{
    return get ? get(self) : 0;
}

static struct measure measure_now(const struct side *side, void *self)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (struct measure){
        .ns = now_ns(),
        .user_ns = ns_of(usage.ru_utime),
        .system_ns = ns_of(usage.ru_stime),
        .system_calls = counter(side->system_calls, self),
        .operations = counter(side->operations, self),
        .syncs = counter(side->syncs, self),
    };
}

static struct measure difference(struct measure after, struct measure before)
{
    return (struct measure){
        .ns = after.ns - before.ns,
        .user_ns = after.user_ns - before.user_ns,
        .system_ns = after.system_ns - before.system_ns,
        .system_calls = after.system_calls - before.system_calls,
        .operations = after.operations - before.operations,
        .syncs = after.syncs - before.syncs,
    };
}

/*
 * How many of a sample of the blocks that this run wrote are not in the file. Drawn again by a
 * shadow of the thread's progress, which thereby follows it.
 */
static uint64_t missing(struct progress *shadow, uint64_t issued, char *data)
{
    enum { SAMPLE = 32 };
    const struct work *w = shadow->work;
    uint64_t step = (issued - shadow->issued) / SAMPLE + 1, n = 0;

    while (shadow->issued < issued) {
        uint64_t block = progress_next(shadow);
        if (w->writes == 0 || shadow->issued % step != 0 || !work_writes(w, block))
            continue;
        if (pread(w->fd, data, w->block, (off_t)(block * w->block)) != (ssize_t)w->block ||
            !block_is(w, data, block))
            n++;
    }
    return n;
}

static int by_latency(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The seven leading bits: less than one in a hundred off. */
static uint32_t rounded(uint32_t ns)
{
    enum { BITS = 7 };
    int shift = 32 - BITS - (ns != 0 ? __builtin_clz(ns) : 32);

    return shift > 0 ? ns >> shift << shift : ns;
}

/* All of them: the median as it is, and how often each was there, rounded. */
static void print_latencies(uint32_t *latencies, uint64_t n)
{
    qsort(latencies, n, sizeof *latencies, by_latency);
    printf(", \"p50_ns\": %" PRIu32 ", \"latencies\": {", latencies[n / 2]);
    for (uint64_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && rounded(latencies[next]) == rounded(latencies[i]);)
            next++;
        printf("%s\"%" PRIu32 "\": %" PRIu64, i > 0 ? ", " : "", rounded(latencies[i]), next - i);
    }
    printf("}");
}

/* Those of the threads, one behind the other. */
static uint64_t gather_latencies(const struct side *side, void *self, uint32_t *latencies)
{
    struct progress *p;
    uint64_t n = 0;

    for (uint32_t i = 0; latencies && (p = side->progress(self, i)); i++) {
        uint64_t timed = atomic_load(&p->timed);
        timed = timed < p->room ? timed : p->room;
        memmove(latencies + n, p->latencies, timed * sizeof *latencies);
        n += timed;
        atomic_store(&p->timed, 0);
    }
    return n;
}

/* Returns whether all went well. */
static bool run(const struct side *side, void *self, struct work *work, struct progress *shadows,
                char *data, uint64_t count, bool counted)
{
    struct progress *p;
    uint64_t wrong = 0;

    work->generation++;
    struct measure before = measure_now(side, self);
    if (counted)
        CALLGRIND_START_INSTRUMENTATION;
    int err = side->run(self, count);
    if (counted)
        CALLGRIND_STOP_INSTRUMENTATION;
    struct measure cost = difference(measure_now(side, self), before);
    if (err < 0) {
        fprintf(stderr, "bench: %s: stopped: %s\n", side->name, strerror(-err));
        return false;
    }
    if (side->amend)
        side->amend(self, &cost);
    uint64_t resident = resident_bytes(), buffers = work_buffers(work) * work->stride;
    for (uint32_t i = 0; (p = side->progress(self, i)); i++)
        wrong += atomic_load(&p->wrong) + missing(&shadows[i], p->issued, data);
    printf("{\"count\": %" PRIu64 ", \"ns\": %" PRIu64 ", \"user_ns\": %" PRIu64
           ", \"system_ns\": %" PRIu64 ", \"resident\": %" PRIu64 ", \"wrong\": %" PRIu64,
           count, cost.ns, cost.user_ns, cost.system_ns,
           resident > buffers ? resident - buffers : 0, wrong);
    if (side->system_calls)
        printf(", \"system_calls\": %" PRIu64, cost.system_calls);
    if (side->operations)
        printf(", \"operations\": %" PRIu64, cost.operations);
    if (side->syncs)
        printf(", \"syncs\": %" PRIu64, cost.syncs);
    uint64_t timed = gather_latencies(side, self, work->latencies);
    if (timed > 0)
        print_latencies(work->latencies, timed);
    puts("}");
    if (wrong > 0)
        fprintf(stderr, "bench: %s: %" PRIu64 " transfers failed or brought wrong data\n",
                side->name, wrong);
    /* What the page cache holds would be written back while another side runs. */
    if (work->writes != 0 && !work->direct && fdatasync(work->fd) < 0)
        perror("bench: fdatasync");
    return wrong == 0;
}

/* ---- one side -------------------------------------------------------------------------------- */

/* Whether the side can do this work here; else says why not. */
static bool can(const struct side *side, const struct work *work)
{
    uint32_t most = side->max_threads > 0 ? side->max_threads : 1;

    if (work->threads > most)
        fprintf(stderr, "bench: %s: takes at most %" PRIu32 " threads\n", side->name, most);
    else if (work->writes != 0 && side->no_writes)
        fprintf(stderr, "bench: %s: reads only\n", side->name);
    else if (!work->growing && pread(work->fd, work->buffers, work->block, 0) != work->block)
        fprintf(stderr, "bench: the file takes no transfers of %" PRIu32 " bytes%s\n", work->block,
                work->direct ? " with O_DIRECT" : "");
    else
        return true;
    return false;
}

static int obey(const struct side *side, void *self, struct work *work, char *data)
{
    static struct progress shadows[MAX_THREADS];
    char line[MAX_LINE];
    uint64_t count;

    for (uint32_t i = 0; i < work->threads; i++)
        progress_init(&shadows[i], work, i);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        bool counted = sscanf(line, "run %" SCNu64, &count) == 1;
        if ((!counted && sscanf(line, "warm %" SCNu64, &count) != 1) || count == 0) {
            fprintf(stderr, "bench: not understood: %s", line);
            return EXIT_USAGE;
        }
        if (!run(side, self, work, shadows, data, count, counted))
            return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

static int work_with(const struct side *side, struct work *work, const struct bench_file *file)
{
    work->fd = work->direct ? file->direct : file->buffered;
    work->blocks = work->growing ? UINT64_MAX : file->size / work->block;
    work->buffers = buffers_new(work_buffers(work), work->stride);
    char *data = buffers_new(1, work->block);
    if (work->latency_every > 0) {
        work->latencies = malloc(MAX_LATENCIES * sizeof *work->latencies);
        work->max_latencies = MAX_LATENCIES;
        if (work->latencies) /* page faults now, not under the clock */
            memset(work->latencies, 1, MAX_LATENCIES * sizeof *work->latencies);
    }
    if (!work->buffers || !data || (work->latency_every > 0 && !work->latencies)) {
        fprintf(stderr, "bench: no memory\n");
        return EXIT_FAILURE;
    }
    void *self = can(side, work) ? side->open(work) : NULL;
    int status = self ? obey(side, self, work, data) : EXIT_NOT_HERE;
    if (self)
        side->close(self);
    free(work->latencies);
    free(work->buffers);
    free(data);
    return status;
}

/* ---- what is no side ------------------------------------------------------------------------- */

static int not_here(const struct options *o, int err)
{
    fprintf(stderr, "bench: %s on %s: %s\n", o->name, ioe_driver_name(o->work.driver),
            ioe_strerror(err));
    return EXIT_NOT_HERE;
}

static int show_idle(const struct options *o, const struct bench_file *file)
{
    struct idle idle;
    int err = idle_measure(&idle, o->work.driver, file, o->seconds);

    if (err < 0)
        return not_here(o, err);
    printf("{\"contexts\": %d, \"seconds\": %g, \"processors\": %.9f, \"wake_ups\": %.3f, "
           "\"memory\": %" PRIu64 "}\n",
           (int)IDLE_CONTEXTS, o->seconds, idle.processors, idle.wake_ups, idle.memory);
    return EXIT_SUCCESS;
}

static int show_lives(const struct options *o)
{
    static uint64_t ns[LIVES];
    int err = lives_measure(ns, LIVES, o->work.driver);

    if (err < 0)
        return not_here(o, err);
    printf("{\"ns\": [");
    for (int i = 0; i < LIVES; i++)
        printf("%s%" PRIu64, i > 0 ? ", " : "", ns[i]);
    puts("]}");
    return EXIT_SUCCESS;
}

/* Makes it or fills it again, and brings it into the page cache or out of it. */
static int prepare_file(const struct options *o, const struct bench_file *file)
{
    if (o->work.direct && file->direct < 0) {
        fprintf(stderr, "bench: %s: the file system has no O_DIRECT\n", o->file);
        return EXIT_NOT_HERE;
    }
    if (o->fill && file_fill(file, o->file) < 0)
        return EXIT_FAILURE;
    return file_cache(file, !o->work.direct) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int show_sides(void)
{
    for (int i = 0; i < N_SIDES; i++)
        printf("%-12s %s\n", sides[i]->name, sides[i]->what);
    return EXIT_SUCCESS;
}

/* ---- command line ---------------------------------------------------------------------------- */

static void usage(FILE *to)
{
    fprintf(to,
            "usage: run [options] NAME\n"
            "\n"
            "NAME is one of:\n"
            "  a side         to work on the lines of standard input: 'warm COUNT', and\n"
            "                 'run COUNT', which callgrind counts (--instr-atstart=no); each is\n"
            "                 answered by a line of JSON, its latencies as {ns: how often}\n"
            "  file           make the file, bring it into the page cache (--direct: out of it)\n"
            "  idle           what contexts cost that wait\n"
            "  lives          how long it takes to make and free a context, %d times\n"
            "  sides          list the sides\n"
            "  version        that of the library\n"
            "\n"
            "  --file PATH    made if missing, then kept (default: one that has no name and is\n"
            "                 gone afterwards, in the current directory)\n"
            "  --size MIB     its size (default 128)\n"
            "  --fill         of 'file': write what it had at first\n"
            "  --seconds S    of 'idle' (default 2)\n"
            "  --driver NAME  of the engine and the crate: uring (default), aio, pool\n"
            "  --mode MODE    read (default), write, mixed (30 of 100 are writes)\n"
            "  --direct       with O_DIRECT\n"
            "  --sequential   else in random order\n"
            "  --growing      of commits: the file starts empty\n"
            "  --block N      bytes of a transfer (default 4096)\n"
            "  --depth N      transfers in flight, of all threads together (default 128)\n"
            "  --batch N      transfers handed over at once (default: a fourth of the depth)\n"
            "  --queue N      events accepted at most (default: twice the depth)\n"
            "  --held N       events that a polled side has in flight (default: depth)\n"
            "  --merge N      of the sides that merge: the limit\n"
            "  --threads N    that submit, or commit (default 1)\n"
            "  --reactors N   of the engine (default 1)\n"
            "  --apart        leave room between the buffers, so that what is merged is vectored\n"
            "  --latency N    one transfer in N is timed (default: none)\n"
            "  --seed N       of the random order (default 1)\n"
            "\n"
            "Exit status: 0; 1 when something failed or a transfer went wrong; 2 for a wrong\n"
            "command line; 3 when this is not to be had here, after a sentence that says why.\n",
            (int)LIVES);
}

static uint64_t number(const char *text, uint64_t min, uint64_t max, const char *option)
{
    char *end;

    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max) {
        fprintf(stderr, "bench: --%s: '%s' is not a number from %" PRIu64 " to %" PRIu64 "\n",
                option, text, min, max);
        exit(EXIT_USAGE);
    }
    return value;
}

/* The position of a word in a list that ends with NULL. */
static int choice(const char *text, const char *const *words, const char *option)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    fprintf(stderr, "bench: --%s: '%s' is none of those of --help\n", option, text);
    exit(EXIT_USAGE);
}

static struct options parse_options(int argc, char **argv)
{
    enum { FILE_PATH = 256, SIZE, FILL, SECONDS, DRIVER, MODE, DIRECT, SEQUENTIAL, GROWING, BLOCK,
           DEPTH, BATCH, QUEUE, HELD, MERGE, THREADS, REACTORS, APART, LATENCY, SEED, HELP };
    static const struct option known[] = {
        {"file", required_argument, NULL, FILE_PATH}, {"size", required_argument, NULL, SIZE},
        {"fill", no_argument, NULL, FILL},            {"seconds", required_argument, NULL, SECONDS},
        {"driver", required_argument, NULL, DRIVER},  {"mode", required_argument, NULL, MODE},
        {"direct", no_argument, NULL, DIRECT},        {"sequential", no_argument, NULL, SEQUENTIAL},
        {"growing", no_argument, NULL, GROWING},      {"block", required_argument, NULL, BLOCK},
        {"depth", required_argument, NULL, DEPTH},    {"batch", required_argument, NULL, BATCH},
        {"queue", required_argument, NULL, QUEUE},    {"held", required_argument, NULL, HELD},
        {"merge", required_argument, NULL, MERGE},    {"threads", required_argument, NULL, THREADS},
        {"reactors", required_argument, NULL, REACTORS}, {"apart", no_argument, NULL, APART},
        {"latency", required_argument, NULL, LATENCY}, {"seed", required_argument, NULL, SEED},
        {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    static const char *const drivers[] = {"uring", "aio", "pool", NULL};
    static const int driver_numbers[] = {IOE_DRIVER_URING, IOE_DRIVER_AIO, IOE_DRIVER_POOL};
    static const char *const modes[] = {"read", "write", "mixed", NULL};
    static const uint32_t writes[] = {0, 100, 30};
    struct options o = {.file_mib = 128, .seconds = 2};
    struct work *w = &o.work;
    bool apart = false;
    int opt, at;

    *w = (struct work){.driver = IOE_DRIVER_URING, .block = 4096, .depth = 128, .threads = 1,
                       .reactors = 1, .seed = 1};
    while ((opt = getopt_long(argc, argv, "", known, &at)) != -1) {
        const char *name = opt != '?' ? known[at].name : "";
#define NUMBER(min, max) (uint32_t)number(optarg, min, max, name)
        switch (opt) {
        case FILE_PATH: o.file = optarg; break;
        case SIZE: o.file_mib = NUMBER(0, 65536); break;
        case FILL: o.fill = true; break;
        case SECONDS: o.seconds = NUMBER(1, 60); break;
        case DRIVER: w->driver = driver_numbers[choice(optarg, drivers, name)]; break;
        case MODE: w->writes = writes[choice(optarg, modes, name)]; break;
        case DIRECT: w->direct = true; break;
        case SEQUENTIAL: w->sequential = true; break;
        case GROWING: w->growing = true; break;
        case BLOCK: w->block = NUMBER(SECTOR, 1 << 26) / SECTOR * SECTOR; break;
        case DEPTH: w->depth = NUMBER(1, 32768); break;
        case BATCH: w->batch = NUMBER(1, 32768); break;
        case QUEUE: w->queue = NUMBER(1, 1 << 20); break;
        case HELD: w->held = NUMBER(1, 1 << 20); break;
        case MERGE: w->merge_limit = NUMBER(0, 1 << 30); break;
        case THREADS: w->threads = NUMBER(1, MAX_THREADS); break;
        case REACTORS: w->reactors = NUMBER(1, 64); break;
        case APART: apart = true; break;
        case LATENCY: w->latency_every = NUMBER(1, 1 << 20); break;
        case SEED: w->seed = number(optarg, 0, UINT32_MAX, name); break;
        case HELP: usage(stdout); exit(EXIT_SUCCESS);
        default: exit(EXIT_USAGE);
        }
    }
    if (optind != argc - 1) {
        usage(stderr);
        exit(EXIT_USAGE);
    }
    o.name = argv[optind];
    w->batch = w->batch ? w->batch : w->depth / 4 + (w->depth < 4);
    w->queue = w->queue ? w->queue : 2 * w->depth;
    w->held = w->held ? w->held : w->depth;
    w->stride = apart ? 2 * (size_t)w->block : w->block;
    return o;
}

int main(int argc, char **argv)
{
    struct options o = parse_options(argc, argv);
    const struct side *side = NULL;
    struct bench_file file;

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (int i = 0; i < N_SIDES; i++)
        if (strcmp(o.name, sides[i]->name) == 0)
            side = sides[i];
    bool is_file = strcmp(o.name, "file") == 0, is_idle = strcmp(o.name, "idle") == 0;
    if (strcmp(o.name, "sides") == 0)
        return show_sides();
    if (strcmp(o.name, "version") == 0)
        return puts(ioe_version()) == EOF;
    if (strcmp(o.name, "lives") == 0)
        return show_lives(&o);
    if (!side && !is_file && !is_idle) {
        fprintf(stderr, "bench: '%s' is no side: see --help\n", o.name);
        return EXIT_USAGE;
    }
    bool writable = o.work.writes != 0 || o.fill;
    if (file_open(&file, o.file, o.work.growing ? 0 : o.file_mib << 20, writable) < 0)
        return EXIT_FAILURE;
    int status = side      ? work_with(side, &o.work, &file)
                 : is_file ? prepare_file(&o, &file)
                           : show_idle(&o, &file);
    file_close(&file);
    return status;
}
