/*
 * wal.c: an append-only log. Records are small, come from several threads, and each thread is told
 * when its record is durable. After a crash, recovery hands out what was made durable, in order.
 *
 *     cc -o wal wal.c -lio_engine -lpthread
 *     ./wal append FILE THREADS RECORDS [BYTES]  appends RECORDS from each thread, prints what is durable
 *     ./wal recover FILE                         prints the records that are in the log
 *     ./wal reset FILE [BYTES]                   empties it for reuse, with room for so many bytes
 *
 * The file is two headers of a block each, then record behind record. A record is believed when its
 * number is the next one, its checksum is right and its epoch is not older than that of the record
 * before it. Epochs are openings of the log for appending, counted in the headers: what an earlier
 * opening left behind the end of the log, whole and with a right checksum, stays dead when the bytes
 * before it are written anew. One process at a time has the log open.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <io_engine.h>

enum {
    BLOCK = 4096,
    MAX_PAYLOAD = 64 * 1024,
    SLOTS = 256,              /* records on their way to the disk */
    READ_AHEAD = 1024 * 1024, /* of recovery: more than a record */
    MERGE_LIMIT = 128 * 1024, /* bytes of neighbouring records that may travel in one write */
};

/* As in the file, in the byte order of the machine. */
struct log_header {
    char magic[8];
    uint64_t first;    /* records of an older epoch are not of this log: it was reset since */
    uint64_t epoch;    /* of the last opening, and the larger one tells which header counts */
    uint32_t reserved; /* 0 */
    uint32_t checksum; /* of what is above */
};

struct record_header {
    uint64_t number; /* 1, 2, 3 ... */
    uint64_t epoch;
    uint32_t length;   /* of the payload behind it */
    uint32_t checksum; /* of the payload, then of what is above */
};

struct wal;
struct slot {
    struct wal *wal;
    struct record_header header;
    ioe_event *write, *sync;
    unsigned pending; /* of the two */
};

struct wal {
    ioe_context *ctx;
    ioe_event *event; /* of open, recover, start and reset, which go step by step */
    int fd;
    uint64_t first, epoch; /* as in the header; 0: there is none yet */
    uint64_t end;          /* of the last record, in bytes */
    unsigned char *buffer; /* of recovery, and what it holds of the file */
    uint64_t buffer_at, buffer_end;

    pthread_mutex_t lock; /* for what follows, and for end */
    pthread_cond_t changed;
    uint64_t appended, durable; /* numbers of the last record and of the last durable one */
    int error;                  /* the first one, negated: the log has stopped */
    struct slot slots[SLOTS];   /* record n is in slot n % SLOTS */
};

static const char magic[8] = {'i', 'o', 'e', '-', 'w', 'a', 'l', '1'};
static const uint64_t records_begin = 2 * BLOCK;

/* ---- checksums: CRC-32C, bit by bit into a table --------------------------------------------- */

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        crc_table[i] = crc;
    }
}

/* before: of the bytes in front of these; 0 where there are none. */
static uint32_t crc32c(uint32_t before, const void *data, size_t len)
{
    const unsigned char *bytes = data;
    uint32_t crc = ~before;

    for (size_t i = 0; i < len; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

static uint32_t header_checksum(const struct log_header *h)
{
    return crc32c(0, h, offsetof(struct log_header, checksum));
}

/* of_payload: its checksum, which threads can find out without waiting for each other. */
static uint32_t record_checksum(const struct record_header *h, uint32_t of_payload)
{
    return crc32c(of_payload, h, offsetof(struct record_header, checksum));
}

/* ---- open ------------------------------------------------------------------------------------ */

/* One step: the answer of the prep before it, or the result of the event. */
static int64_t run(struct wal *w, int prepared)
{
    return prepared < 0 ? prepared : ioe_submit_wait(w->ctx, w->event);
}

static int read_headers(struct wal *w)
{
    unsigned char blocks[2 * BLOCK] = {0};
    struct log_header h;
    bool zero = true;
    int64_t n = run(w, ioe_prep_read(w->event, w->fd, blocks, sizeof blocks, 0));

    if (n < 0)
        return (int)n;
    for (size_t i = 0; i < 2; i++) {
        memcpy(&h, blocks + i * BLOCK, sizeof h);
        if (memcmp(h.magic, magic, sizeof magic) == 0 && h.checksum == header_checksum(&h) &&
            h.epoch > w->epoch) {
            w->first = h.first;
            w->epoch = h.epoch;
        }
    }
    /* Its creation was not finished, so nothing is in it. Anything else is somebody else's file. */
    for (size_t i = 0; i < sizeof blocks; i++)
        zero = zero && blocks[i] == 0;
    return w->epoch > 0 || zero ? 0 : -EBADMSG;
}

static void on_done(ioe_event *event, void *arg);

static int make_events(struct wal *w)
{
    w->buffer = malloc(READ_AHEAD);
    w->event = ioe_event_new();
    if (!w->buffer || !w->event)
        return -ENOMEM;
    for (struct slot *s = w->slots; s < w->slots + SLOTS; s++) {
        s->wal = w;
        s->write = ioe_event_new();
        s->sync = ioe_event_new();
        if (!s->write || !s->sync)
            return -ENOMEM;
        ioe_event_set_callback(s->write, on_done, s);
        ioe_event_set_callback(s->sync, on_done, s);
    }
    return 0;
}

/* Also after an error of wal_open. No thread may be in wal_append. */
static void wal_close(struct wal *w)
{
    if (w->ctx)
        ioe_context_free(w->ctx); /* completes everything first */
    for (struct slot *s = w->slots; s < w->slots + SLOTS; s++) {
        ioe_event_free(s->write);
        ioe_event_free(s->sync);
    }
    ioe_event_free(w->event);
    free(w->buffer);
    if (w->fd >= 0)
        close(w->fd);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
}

/* A new file is durable when its name is. */
static int sync_directory(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int err = fd < 0 || fsync(fd) < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    free(copy);
    return err;
}

/* flags: as of open(2). */
static int wal_open(struct wal *w, const char *path, int flags)
{
    ioe_config config;
    int err;

    memset(w, 0, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    make_crc_table();
    w->fd = open(path, flags | O_CLOEXEC, 0644);
    if (w->fd < 0)
        return -errno;
    err = flags & O_CREAT ? sync_directory(path) : 0;
    if (err < 0)
        return err;
    ioe_config_init(&config, sizeof config);
    config.workers = 0;            /* on_done is short: it may run on the driver thread */
    config.queue_size = 2 * SLOTS; /* so that ioe_submit, with the lock held, never waits for room */
    config.merge_limit = MERGE_LIMIT;
    err = ioe_context_new(&config, &w->ctx);
    if (err == 0)
        err = make_events(w);
    /* After an fsync that failed the page cache may hold what the disk does not. */
    if (err == 0)
        err = -posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
    return err < 0 ? err : read_headers(w);
}

/* ---- recovery -------------------------------------------------------------------------------- */

typedef void (*wal_visitor)(uint64_t number, const void *payload, uint32_t length, void *arg);

/* How many of the bytes wanted at this offset the file has. They are in *bytes until the next call. */
static int64_t look_at(struct wal *w, uint64_t at, size_t wanted, const unsigned char **bytes)
{
    if (at < w->buffer_at || at + wanted > w->buffer_end) {
        int64_t n = run(w, ioe_prep_read(w->event, w->fd, w->buffer, READ_AHEAD, at));
        if (n < 0)
            return n;
        w->buffer_at = at;
        w->buffer_end = at + (uint64_t)n;
    }
    uint64_t there = w->buffer_end - at;
    *bytes = w->buffer + (at - w->buffer_at);
    return (int64_t)(there < wanted ? there : wanted);
}

/*
 * Hands out the records, and finds the end of the log: it is where the first one is missing, torn or
 * wrong. What follows there was never told durable, or was of an earlier epoch. An error of reading
 * is not the end of the log: it is returned.
 */
static int wal_recover(struct wal *w, wal_visitor visit, void *arg)
{
    struct record_header h;
    const unsigned char *bytes;
    uint64_t epoch = w->first;

    w->buffer_at = w->buffer_end = 0;
    w->end = records_begin;
    w->appended = 0;
    for (;;) {
        int64_t n = look_at(w, w->end, sizeof h, &bytes);
        if (n < 0)
            return (int)n;
        if (n < (int64_t)sizeof h)
            break;
        memcpy(&h, bytes, sizeof h);
        if (h.number != w->appended + 1 || h.epoch < epoch || h.epoch > w->epoch ||
            h.length > MAX_PAYLOAD)
            break;
        n = look_at(w, w->end + sizeof h, h.length, &bytes);
        if (n < 0)
            return (int)n;
        if (n < (int64_t)h.length || h.checksum != record_checksum(&h, crc32c(0, bytes, h.length)))
            break;
        visit(h.number, bytes, h.length, arg);
        epoch = h.epoch;
        w->appended = h.number;
        w->end += sizeof h + h.length;
    }
    w->durable = w->appended;
    return 0;
}

/* ---- a new epoch ----------------------------------------------------------------------------- */

/* The header that does not count is overwritten: a crash meanwhile leaves the other one whole. */
static int write_header(struct wal *w)
{
    struct log_header h = {.first = w->first, .epoch = w->epoch};
    int64_t n;

    memcpy(h.magic, magic, sizeof magic);
    h.checksum = header_checksum(&h);
    n = run(w, ioe_prep_write(w->event, w->fd, &h, sizeof h, h.epoch % 2 * BLOCK));
    if (n >= 0)
        n = run(w, ioe_prep_fsync(w->event, w->fd));
    return n < 0 ? (int)n : 0;
}

/* After wal_recover, before wal_append. The fsync also makes durable what recovery believed. */
static int wal_start(struct wal *w)
{
    w->epoch++;
    if (w->first == 0)
        w->first = w->epoch;
    return write_header(w);
}

/* Empties the log without touching its records: those there are of an older epoch from now on. */
static int wal_reset(struct wal *w, uint64_t room)
{
    int64_t n = 0;

    if (room > 0)
        n = run(w, ioe_prep_fallocate(w->event, w->fd, 0, 0, records_begin + room));
    if (n < 0)
        return (int)n;
    w->first = ++w->epoch;
    return write_header(w);
}

/* ---- append ---------------------------------------------------------------------------------- */

/*
 * Of a write or of a sync. Records become durable in order: recovery stops at the first that is
 * missing, so none is worth more than those before it.
 *
 * An error stops the log for good. After a write that failed there is a hole in it. After a sync
 * that failed nobody knows what is on the disk, and a second one would only tell that no further
 * write was lost since: the kernel reports a lost one once. Recovery, later, says what is there.
 */
static void on_done(ioe_event *event, void *arg)
{
    struct slot *slot = arg;
    struct wal *w = slot->wal;
    int64_t result = ioe_event_result(event);
    uint64_t durable;

    pthread_mutex_lock(&w->lock);
    durable = w->durable;
    slot->pending--;
    if (result < 0 && w->error == 0)
        w->error = (int)result;
    while (w->error == 0 && w->durable < w->appended &&
           w->slots[(w->durable + 1) % SLOTS].pending == 0)
        w->durable++;
    if (w->durable != durable || w->error != 0)
        pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/*
 * Hands a record to the engine, with the lock held, so that writes are accepted in the order of the
 * log. A thread that waited for its own write and synced then would not do: a record before its own
 * may still be on its way, and recovery would stop there. IOE_BARRIER makes the sync start when
 * every write accepted before it is done, those of other threads too, and no thread waits between
 * the two. While a sync runs, the next ones gather: one fdatasync answers all of them. That is the
 * group commit, without a leader and without a timer.
 */
static int submit_record(struct wal *w, struct slot *s, const void *payload, uint32_t length)
{
    const struct iovec parts[] = {{&s->header, sizeof s->header}, {(void *)payload, length}};
    int err = ioe_prep_writev(s->write, w->fd, parts, 2, w->end);

    if (err == 0)
        err = ioe_prep_fdatasync(s->sync, w->fd);
    if (err == 0)
        err = ioe_event_set_flags(s->sync, IOE_BARRIER);
    s->pending = 0;
    if (err == 0)
        err = ioe_submit(w->ctx, s->write);
    if (err == 0) {
        s->pending = 1;
        err = ioe_submit(w->ctx, s->sync);
    }
    if (err == 0)
        s->pending = 2;
    return err;
}

/* Returns when the record is durable, with its number. After an error it may be in the log or not. */
static int64_t wal_append(struct wal *w, const void *payload, uint32_t length)
{
    uint32_t of_payload;
    int64_t answer;

    if (length > MAX_PAYLOAD)
        return -EINVAL;
    of_payload = crc32c(0, payload, length);
    pthread_mutex_lock(&w->lock);
    while (w->error == 0 && w->appended - w->durable == SLOTS)
        pthread_cond_wait(&w->changed, &w->lock);
    answer = w->error;
    if (answer == 0) {
        uint64_t number = ++w->appended;
        struct slot *s = &w->slots[number % SLOTS];
        s->header = (struct record_header){.number = number, .epoch = w->epoch, .length = length};
        s->header.checksum = record_checksum(&s->header, of_payload);
        w->error = submit_record(w, s, payload, length);
        w->end += sizeof s->header + length;
        /* Until its write is done the payload is the engine's, also when the log has stopped. */
        while (w->durable < number && (w->error == 0 || s->pending > 0))
            pthread_cond_wait(&w->changed, &w->lock);
        answer = w->durable < number ? w->error : (int64_t)number;
    }
    pthread_mutex_unlock(&w->lock);
    return answer;
}

/* ---- the program ----------------------------------------------------------------------------- */

enum { MIN_LINE = 80, MAX_THREADS = SLOTS, EXIT_USAGE = 2 };

struct appender {
    pthread_t thread;
    struct wal *wal;
    unsigned index;
    uint64_t records;
    uint32_t length; /* of each; 0: they differ */
    int64_t result;
};

static void check(const char *what, int64_t result)
{
    if (result < 0) {
        fprintf(stderr, "wal: %s: %s\n", what, ioe_strerror((int)result));
        exit(EXIT_FAILURE);
    }
}

/* A record is a line of text, so that what was appended can be compared with what is recovered. */
static void print_record(uint64_t number, const void *payload, uint32_t length, void *arg)
{
    (void)arg;
    int n = printf("%" PRIu64 " %.*s\n", number, (int)length, (const char *)payload);
    check("stdout", n < 0 ? -errno : 0);
}

static void *append_records(void *arg)
{
    struct appender *a = arg;
    char line[MAX_PAYLOAD];

    for (uint64_t i = 1; i <= a->records && a->result >= 0; i++) {
        uint32_t length = a->length > 0 ? a->length : MIN_LINE + (uint32_t)(i * 7919 % 100);
        memset(line, 'a' + (int)(i % 26), length);
        int used = snprintf(line, MIN_LINE, "epoch %" PRIu64 " thread %u record %" PRIu64 ",",
                            a->wal->epoch, a->index, i);
        line[used] = ' ';
        a->result = wal_append(a->wal, line, length);
        if (a->result > 0) /* it is durable: who reads this may rely on it */
            print_record((uint64_t)a->result, line, length, NULL);
    }
    return NULL;
}

static void skip_record(uint64_t number, const void *payload, uint32_t length, void *arg)
{
    (void)number, (void)payload, (void)length, (void)arg;
}

static void append(struct wal *w, const char *path, unsigned threads, uint64_t records,
                   uint32_t length)
{
    static struct appender appenders[MAX_THREADS];

    check(path, wal_open(w, path, O_RDWR | O_CREAT));
    check(path, wal_recover(w, skip_record, NULL));
    check(path, wal_start(w));
    for (unsigned i = 0; i < threads; i++) {
        appenders[i] = (struct appender){.wal = w, .index = i, .records = records, .length = length};
        check("thread", -pthread_create(&appenders[i].thread, NULL, append_records, &appenders[i]));
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(appenders[i].thread, NULL);
    for (unsigned i = 0; i < threads; i++)
        check("append", appenders[i].result);
}

static void recover(struct wal *w, const char *path)
{
    check(path, wal_open(w, path, O_RDONLY));
    check(path, wal_recover(w, print_record, NULL));
}

static void reset(struct wal *w, const char *path, uint64_t room)
{
    check(path, wal_open(w, path, O_RDWR | O_CREAT));
    check(path, wal_reset(w, room));
}

/* A number from 1 to max; 0 where the text is none. */
static uint64_t number_of(const char *text, uint64_t max)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);

    return *text >= '0' && *text <= '9' && *end == '\0' && number <= max ? number : 0;
}

int main(int argc, char **argv)
{
    static struct wal w;
    const char *mode = argc > 2 ? argv[1] : "";
    uint64_t threads = argc >= 5 ? number_of(argv[3], MAX_THREADS) : 0;
    uint64_t records = argc >= 5 ? number_of(argv[4], UINT32_MAX) : 0;
    uint64_t length = argc == 6 ? number_of(argv[5], MAX_PAYLOAD) : 0;
    uint64_t room = argc == 4 ? number_of(argv[3], INT64_MAX / 2) : 0;

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* a line is out when print_record returns */
    if (strcmp(mode, "append") == 0 && threads > 0 && records > 0 && (argc == 5 || length >= MIN_LINE)) {
        append(&w, argv[2], (unsigned)threads, records, (uint32_t)length);
    } else if (strcmp(mode, "recover") == 0 && argc == 3) {
        recover(&w, argv[2]);
    } else if (strcmp(mode, "reset") == 0 && (argc == 3 || room > 0)) {
        reset(&w, argv[2], room);
    } else {
        fprintf(stderr, "usage: wal append FILE THREADS RECORDS [BYTES]\n"
                        "       wal recover FILE\n"
                        "       wal reset FILE [BYTES]\n");
        return EXIT_USAGE;
    }
    fprintf(stderr, "%" PRIu64 " records, epoch %" PRIu64 "\n", w.durable, w.epoch);
    wal_close(&w);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
