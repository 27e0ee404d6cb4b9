/*
 * wal.c: an append-only log of small records. Each record is a write of its own; a group of them
 * becomes durable by one fdatasync, which starts when all their writes have completed.
 *
 *     cc -o wal wal.c -lio_engine
 *     ./wal FILE [RECORDS]                            (FILE is overwritten)
 *
 * One thread and one polled context, so nothing needs a lock. Two groups take turns: while one is
 * written and synced, the other one gathers records. They lie in memory as in the file, one behind
 * the other, and the engine can join neighbours. The log is written in three ways, in turn: each
 * record for itself, joined by the engine (merge_limit), and joined through an ioe_merger.
 * (The file is not opened with O_APPEND: the offsets say where, and such writes stay apart.)
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <io_engine.h>

enum {
    GROUP_RECORDS = 4096,
    MAX_PAYLOAD = 200,
    LIMIT = 128 * 1024, /* bytes that one joined write may span */
    POLL_EVERY = 128,   /* records */
    ROUNDS = 3,
    EXIT_USAGE = 2,
};

struct header {
    uint32_t length; /* of the payload behind it */
    uint32_t checksum;
    uint64_t number; /* 0, 1, 2 ... */
};
enum { MAX_RECORD = sizeof(struct header) + MAX_PAYLOAD };

struct wal;
struct group {
    struct wal *wal;
    char *memory;
    size_t used;        /* bytes of memory */
    unsigned records;   /* gathered */
    unsigned unwritten; /* of them */
    ioe_event *events[GROUP_RECORDS];
};

struct wal {
    ioe_context *ctx;
    ioe_merger *merger; /* or NULL */
    int fd;
    uint64_t end;      /* of the log, in bytes */
    uint64_t appended; /* records */
    uint64_t durable;  /* of them: the first so many */
    ioe_event *sync;
    struct group groups[2], *gathering, *committing; /* NULL: nothing to commit */
};

static void check(const char *what, int64_t result)
{
    if (result < 0) {
        fprintf(stderr, "wal: %s: %s\n", what, ioe_strerror((int)result));
        exit(EXIT_FAILURE);
    }
}

static void *need(void *memory)
{
    check("memory", memory ? 0 : -ENOMEM);
    return memory;
}

/* ---- the log --------------------------------------------------------------------------------- */

/* All its records have been written: only an fdatasync that starts now makes them durable. */
static void sync_if_written(struct wal *w)
{
    if (w->committing->unwritten > 0)
        return;
    check("fdatasync", ioe_prep_fdatasync(w->sync, w->fd));
    check("fdatasync", ioe_submit(w->ctx, w->sync));
}

/* What was gathered becomes the group to commit, where none is on its way. */
static void commit(struct wal *w)
{
    if (w->committing || w->gathering->records == 0)
        return;
    w->committing = w->gathering;
    w->gathering = w->gathering == &w->groups[0] ? &w->groups[1] : &w->groups[0];
    if (w->merger)
        check("flush", ioe_merger_flush(w->merger));
    sync_if_written(w);
}

static void on_written(ioe_event *event, void *arg)
{
    struct group *g = arg;

    check("write", ioe_event_result(event)); /* no error: all of it is written */
    g->unwritten--;
    if (g == g->wal->committing)
        sync_if_written(g->wal);
}

static void on_synced(ioe_event *event, void *arg)
{
    struct wal *w = arg;

    /* After an error nobody knows what is on the disk: a log must stop here. */
    check("fdatasync", ioe_event_result(event));
    w->durable += w->committing->records;
    w->committing->records = 0;
    w->committing->used = 0;
    w->committing = NULL;
    commit(w);
}

static uint32_t checksum(const void *data, size_t len, uint64_t number)
{
    const unsigned char *bytes = data;
    uint32_t sum = (uint32_t)number ^ 2166136261u; /* FNV-1a */

    for (size_t i = 0; i < len; i++)
        sum = (sum ^ bytes[i]) * 16777619u;
    return sum;
}

static void append(struct wal *w, const void *payload, uint32_t length)
{
    struct header header = {length, checksum(payload, length, w->appended), w->appended};
    size_t size = sizeof header + length;

    while (w->gathering->records == GROUP_RECORDS) /* until the other one is durable */
        check("poll", ioe_poll(w->ctx, 1, -1));
    struct group *g = w->gathering;
    char *record = g->memory + g->used;
    ioe_event *event = g->events[g->records];
    memcpy(record, &header, sizeof header);
    memcpy(record + sizeof header, payload, length);
    check("write", ioe_prep_write(event, w->fd, record, size, w->end));
    check("write", w->merger ? ioe_merger_add(w->merger, event) : ioe_submit(w->ctx, event));
    g->used += size;
    g->records++;
    g->unwritten++;
    w->end += size;
    w->appended++;
    commit(w);
    if (w->appended % POLL_EVERY == 0)
        check("poll", ioe_poll(w->ctx, 0, 0));
}

static void open_log(struct wal *w, const char *path, uint32_t merge_limit, uint32_t merger_limit)
{
    ioe_config config;

    memset(w, 0, sizeof *w);
    w->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    check(path, w->fd < 0 ? -errno : 0);
    check("context", ioe_config_init(&config, sizeof config));
    config.flags = IOE_POLLED;
    config.queue_size = 2 * GROUP_RECORDS + 1; /* both groups, and the sync */
    config.merge_limit = merge_limit;
    check("context", ioe_context_new(&config, &w->ctx));
    if (merger_limit > 0)
        check("merger", ioe_merger_new(w->ctx, w->fd, IOE_WRITE, merger_limit, &w->merger));
    w->sync = need(ioe_event_new());
    check("callback", ioe_event_set_callback(w->sync, on_synced, w));
    for (struct group *g = w->groups; g < w->groups + 2; g++) {
        g->wal = w;
        g->memory = need(malloc((size_t)GROUP_RECORDS * MAX_RECORD));
        for (int i = 0; i < GROUP_RECORDS; i++) {
            g->events[i] = need(ioe_event_new());
            check("callback", ioe_event_set_callback(g->events[i], on_written, g));
        }
    }
    w->gathering = &w->groups[0];
}

static void make_durable(struct wal *w)
{
    commit(w);
    while (w->durable < w->appended)
        check("poll", ioe_poll(w->ctx, 1, -1));
}

static void close_log(struct wal *w)
{
    if (w->merger)
        check("merger", ioe_merger_free(w->merger));
    check("context", ioe_context_free(w->ctx));
    check("event", ioe_event_free(w->sync));
    for (struct group *g = w->groups; g < w->groups + 2; g++) {
        for (int i = 0; i < GROUP_RECORDS; i++)
            check("event", ioe_event_free(g->events[i]));
        free(g->memory);
    }
    check("close", close(w->fd) < 0 ? -errno : 0);
}

/* ---- what is logged, and whether it is all there --------------------------------------------- */

static uint32_t make_payload(unsigned char *payload, uint64_t number)
{
    uint32_t length = 40 + (uint32_t)(number * 7919 % (MAX_PAYLOAD - 40));

    memset(payload, (int)(number % 251), length);
    return length;
}

/* As recovery would: record after record, as long as they are whole. */
static void read_back(struct wal *w)
{
    char *log = need(malloc(w->end + 1)); /* one more: nothing may follow */
    unsigned char payload[MAX_PAYLOAD];
    struct header header;
    uint64_t at = 0, number = 0;

    check("read", ioe_prep_read(w->sync, w->fd, log, w->end + 1, 0));
    int64_t size = ioe_submit_wait(w->ctx, w->sync);
    check("read", size);
    for (; at + sizeof header <= (uint64_t)size; number++) {
        memcpy(&header, log + at, sizeof header);
        const char *data = log + at + sizeof header;
        if (header.number != number || header.length > (uint64_t)size - at - sizeof header ||
            header.checksum != checksum(data, header.length, number) ||
            header.length != make_payload(payload, number) ||
            memcmp(data, payload, header.length) != 0)
            break;
        at += sizeof header + header.length;
    }
    free(log);
    if (number != w->appended || at != w->end || size != (int64_t)w->end) {
        fprintf(stderr, "wal: the log ends after record %" PRIu64 " of %" PRIu64 "\n", number,
                w->appended);
        exit(EXIT_FAILURE);
    }
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Records per second, from the first append until the last is durable. */
static double write_log(const char *path, uint64_t records, uint32_t merge_limit,
                        uint32_t merger_limit)
{
    static struct wal w;
    unsigned char payload[MAX_PAYLOAD];

    open_log(&w, path, merge_limit, merger_limit);
    double start = now();
    for (uint64_t i = 0; i < records; i++)
        append(&w, payload, make_payload(payload, i));
    make_durable(&w);
    double seconds = now() - start;
    read_back(&w);
    close_log(&w);
    return (double)records / seconds;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint32_t merge_limit, merger_limit;
    } ways[] = {{"merging off", 0, 0}, {"merge_limit", LIMIT, 0}, {"ioe_merger", 0, LIMIT}};
    enum { WAYS = sizeof ways / sizeof *ways };
    double rates[WAYS][ROUNDS];
    char *end = "";
    long long records = argc > 2 ? strtoll(argv[2], &end, 10) : 100000;

    if (argc < 2 || argc > 3 || *end != '\0' || records <= 0) {
        fprintf(stderr, "usage: wal FILE [RECORDS]\n");
        return EXIT_USAGE;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < WAYS; i++)
            rates[i][round] = write_log(argv[1], (uint64_t)records, ways[i].merge_limit,
                                        ways[i].merger_limit);
    printf("%lld records, durable in order and read back; median of %d rounds\n", records,
           (int)ROUNDS);
    for (int i = 0; i < WAYS; i++) {
        qsort(rates[i], ROUNDS, sizeof rates[i][0], by_value);
        printf("%-12s %9.0f records/s %6.2f times\n", ways[i].name, rates[i][ROUNDS / 2],
               rates[i][ROUNDS / 2] / rates[0][ROUNDS / 2]);
    }
    return EXIT_SUCCESS;
}
