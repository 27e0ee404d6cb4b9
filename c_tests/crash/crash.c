/*
 * Promise: what examples_c/wal.c printed as durable is in the log after a crash, and recovery believes
 * nothing else.
 *
 *    crash DEVICE DIRECTORY WAL ROUNDS [loses]
 *
 * DEVICE has an ext4 file system, and is to be mounted on DIRECTORY. In each round WAL appends from
 * several threads and tells this process, through a pipe, what is durable. At a random moment it is
 * killed and the file system shut down, so that what was not synced is gone: EXT4_IOC_SHUTDOWN, no
 * flush of the journal. (In either order: first the one or first the other.) The file system is
 * mounted again, which recovers its journal, and WAL recovers its log.
 *
 * Drivers and numbers of threads take turns, and two logs: one that grows, one whose blocks are there
 * from the start. Both are appended to for some rounds, then reset and written over.
 *
 * With "loses" WAL is a program that does lose records, and this test must find that out: there are
 * more rounds, if it has to be, until it has on every driver.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* As in fs/ext4/ext4.h of Linux; the headers of the C library do not have it. */
#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define EXT4_GOING_FLAGS_NOLOGFLUSH 0x2

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

enum {
    SHORT_RECORD = 200,
    MAX_RUN_MS = 400,
    MAX_RUN_BYTES = 32 * 1024 * 1024, /* on a fast device */
    TIME_LIMIT_MS = 30000,            /* against hanging */
    ROUNDS_TO_RESET = 4,              /* of one log */
    MORE_ROUNDS = 500,                /* in which a program that loses records must have done so */
};

/* A line of WAL: what its writer was, and which one of its own it is. */
struct record {
    uint64_t number, epoch, thread, index;
    size_t length;
};

struct records {
    struct record *items;
    size_t count, room;
};

struct log {
    const char *name, *room; /* of reset, in bytes; NULL: it grows */
    struct records there;    /* after the last recovery */
    uint64_t epoch;          /* the newest that was seen */
    unsigned rounds;
};

static const char *const drivers[] = {"uring", "aio", "pool"};

static const char *device, *directory, *program;
static const char *driver = ""; /* of this round */
static unsigned round_number;

__attribute__((noreturn, format(printf, 1, 2))) static void wrong(const char *format, ...)
{
    va_list list;

    printf("not ok: crash %u, %s: ", round_number, driver);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    exit(EXIT_FAILURE);
}

static void need(bool fine, const char *what)
{
    if (!fine)
        wrong("%s: %s", what, strerror(errno));
}

static uint64_t random_state;

/* splitmix64 */
static uint64_t random_below(uint64_t bound)
{
    uint64_t z = (random_state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (z ^ (z >> 31)) % bound;
}

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- records --------------------------------------------------------------------------------- */

/* All of the line must be what its writer made of its beginning: this does not rely on the checksum. */
static struct record parse(const char *line, size_t length)
{
    struct record r = {.length = length};
    size_t used = 0;
    int head = 0;

    if (sscanf(line, "%" SCNu64 " epoch %" SCNu64 " thread %" SCNu64 " record %" SCNu64 ",%n", &r.number,
               &r.epoch, &r.thread, &r.index, &head) == 4)
        used = (size_t)head;
    if (used > 0 && line[used] == ' ')
        for (used++; used < length && line[used] == (char)('a' + r.index % 26); used++)
            ;
    if (used == 0 || used < length)
        wrong("this record nobody wrote: %.100s", line);
    return r;
}

static void keep(struct records *r, struct record record)
{
    if (r->count == r->room) {
        r->room = r->room * 2 + 1024;
        r->items = realloc(r->items, r->room * sizeof *r->items);
        need(r->items != NULL, "memory");
    }
    r->items[r->count++] = record;
}

static bool is_there(const struct records *r, const struct record *record)
{
    return record->number <= r->count &&
           memcmp(&r->items[record->number - 1], record, sizeof *record) == 0;
}

/* ---- the writer and the reader --------------------------------------------------------------- */

struct run {
    pid_t pid;
    int out;
    size_t used;
    char buffer[1 << 20];
};

static void start(struct run *run, char *const argv[])
{
    int ends[2];

    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    fflush(stdout);
    run->pid = fork();
    need(run->pid >= 0, "fork");
    if (run->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it does not outlive this test */
        dup2(ends[1], STDOUT_FILENO);
        setenv("IOE_DRIVER", driver, 1);
        execv(argv[0], argv);
        _exit(127);
    }
    close(ends[1]);
    run->out = ends[0];
    run->used = 0;
}

/* Takes lines until the end of the output: true; or until the time is up or there are enough: false. */
static bool take_lines(struct run *run, struct records *lines, int64_t until_us, size_t enough)
{
    while (lines->count < enough) {
        struct pollfd ready = {.fd = run->out, .events = POLLIN};
        int64_t left = until_us - now_us();
        struct timespec time = {.tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000};
        if (left <= 0 || ppoll(&ready, 1, &time, NULL) == 0)
            return false;
        ssize_t n = read(run->out, run->buffer + run->used, sizeof run->buffer - run->used);
        need(n >= 0, "read");
        if (n == 0)
            return true; /* without the line that the writer had begun */
        run->used += (size_t)n;
        char *line = run->buffer, *newline;
        while ((newline = memchr(line, '\n', (size_t)(run->buffer + run->used - line))) != NULL) {
            *newline = '\0';
            keep(lines, parse(line, (size_t)(newline - line)));
            line = newline + 1;
        }
        run->used -= (size_t)(line - run->buffer);
        memmove(run->buffer, line, run->used);
    }
    return false;
}

static int64_t limit_us(void)
{
    return now_us() + (int64_t)TIME_LIMIT_MS * 1000;
}

static int ended(struct run *run)
{
    int status;

    need(waitpid(run->pid, &status, 0) == run->pid, "waitpid");
    close(run->out);
    return status;
}

static void run_to_end(struct records *lines, char *const argv[])
{
    struct run run;

    start(&run, argv);
    if (!take_lines(&run, lines, limit_us(), SIZE_MAX)) {
        kill(run.pid, SIGKILL);
        wrong("%s %s does not end", argv[0], argv[1]);
    }
    int status = ended(&run);
    if (status != 0)
        wrong("%s %s ends with status %d", argv[0], argv[1], status);
}

/* ---- the crash ------------------------------------------------------------------------------- */

static void shut_down(void)
{
    uint32_t flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    need(fd >= 0, directory);
    need(ioctl(fd, EXT4_IOC_SHUTDOWN, &flags) == 0, "EXT4_IOC_SHUTDOWN");
    close(fd);
}

static void remount(void)
{
    int64_t until = limit_us();

    /* A ring of a process that was killed lets go of its files a moment later. */
    while (umount(directory) != 0) {
        need(errno == EBUSY && now_us() < until, "umount");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    need(mount(device, directory, "ext4", 0, NULL) == 0, "mount");
}

/* Appends until a random moment, or until the first record thereafter is told durable, which is when
 * a wrong one is found most easily. Gives all that are. */
static void append_and_crash(struct records *durable, const char *path, unsigned threads,
                             unsigned length)
{
    struct run run;
    char count[16], bytes[16];
    const size_t enough = MAX_RUN_BYTES / (length > 0 ? length : SHORT_RECORD);
    const int64_t until_us = now_us() + (int64_t)random_below((uint64_t)MAX_RUN_MS * 1000);
    const bool at_record = random_below(4) > 0, kill_first = random_below(4) == 0;

    snprintf(count, sizeof count, "%u", threads);
    snprintf(bytes, sizeof bytes, "%u", length);
    start(&run, (char *[]){(char *)program, "append", (char *)path, count, "4294967295",
                           length > 0 ? bytes : NULL, NULL});
    bool at_end = take_lines(&run, durable, until_us, enough);
    if (!at_end && at_record) {
        const size_t before = durable->count;
        at_end = take_lines(&run, durable, limit_us(), before + 1);
        if (!at_end && durable->count == before)
            wrong("append does not go on");
    }
    if (at_end)
        wrong("append ends by itself, with status %d", ended(&run));
    if (kill_first)
        kill(run.pid, SIGKILL);
    shut_down();
    kill(run.pid, SIGKILL);
    if (!take_lines(&run, durable, limit_us(), SIZE_MAX))
        wrong("append does not end");
    ended(&run);
}

/* What recovery finds against what was durable: how many records are lost. */
static size_t compare(struct log *log, const struct records *durable, const struct records *found,
                      unsigned threads)
{
    size_t lost = 0, last = log->there.count;

    for (size_t i = 0; i < found->count; i++)
        if (found->items[i].number != i + 1)
            wrong("record %zu of the log has number %" PRIu64, i + 1, found->items[i].number);
    /* What an earlier recovery had found was durable once its writer had started. */
    for (size_t i = 0; i < log->there.count; i++)
        lost += !is_there(found, &log->there.items[i]);
    for (size_t i = 0; i < durable->count; i++) {
        const struct record *r = &durable->items[i];
        lost += !is_there(found, r);
        if (r->number > last)
            last = r->number;
    }
    /* What is behind are those that the threads waited for. */
    if (found->count > last + threads)
        wrong("%zu records are believed, %zu were durable, and %u threads waited", found->count, last,
              threads);
    for (size_t i = log->there.count; i < found->count; i++)
        if (found->items[i].epoch <= log->epoch)
            wrong("record %zu, of an older epoch, is believed", i + 1);
    if (durable->count > 0)
        log->epoch = durable->items[0].epoch;
    if (found->count > 0 && found->items[found->count - 1].epoch > log->epoch)
        log->epoch = found->items[found->count - 1].epoch;
    return lost;
}

/* One crash of the log; the value is how many durable records were lost. */
static size_t crash(struct log *log, size_t *durable_records)
{
    static const unsigned threads_of[] = {1, 2, 8, 64};
    static const unsigned lengths[] = {0, 4096, 16384, 65536}; /* 0: short ones, that differ */
    const unsigned threads = threads_of[random_below(COUNT_OF(threads_of))];
    const unsigned length = lengths[random_below(COUNT_OF(lengths))];
    struct records durable = {0}, found = {0}, none = {0};
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", directory, log->name);
    if (log->rounds++ % ROUNDS_TO_RESET == 0) {
        run_to_end(&none, (char *[]){(char *)program, "reset", path, (char *)log->room, NULL});
        log->there.count = 0;
    }
    append_and_crash(&durable, path, threads, length);
    remount();
    run_to_end(&found, (char *[]){(char *)program, "recover", path, NULL});
    size_t lost = compare(log, &durable, &found, threads);
    if (lost > 0)
        printf("# crash %u, %s, the log that is %s, %u threads, records of %u bytes: %zu of %zu durable ones "
               "are lost\n", round_number, driver, log->name, threads, length > 0 ? length : SHORT_RECORD,
               lost, durable.count);
    *durable_records += durable.count;
    free(log->there.items);
    log->there = found;
    free(durable.items);
    return lost;
}

int main(int argc, char **argv)
{
    static struct log logs[] = {{.name = "growing"}, {.name = "allocated", .room = "4194304"}};
    const bool loses = argc == 6 && strcmp(argv[5], "loses") == 0;
    const unsigned rounds = argc == 5 || loses ? (unsigned)strtoul(argv[4], NULL, 10) : 0;
    const char *seed = getenv("IOE_TEST_SEED");
    unsigned losing[COUNT_OF(drivers)] = {0};
    size_t durable = 0, lost = 0;

    if (rounds == 0) {
        fprintf(stderr, "usage: crash DEVICE DIRECTORY WAL ROUNDS [loses]\n");
        return EXIT_FAILURE;
    }
    device = argv[1];
    directory = argv[2];
    program = argv[3];
    random_state = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)now_us();
    printf("# IOE_TEST_SEED=%" PRIu64 "\n", random_state);
    need(mount(device, directory, "ext4", 0, NULL) == 0, "mount");
    do {
        const unsigned i = round_number++;
        driver = drivers[i % COUNT_OF(drivers)];
        size_t now = crash(&logs[i % COUNT_OF(logs)], &durable);
        lost += now;
        losing[i % COUNT_OF(drivers)] += now > 0;
    } while (round_number < rounds || (loses && round_number < MORE_ROUNDS &&
                                       (losing[0] == 0 || losing[1] == 0 || losing[2] == 0)));
    need(umount(directory) == 0, "umount");
    printf("# %u crashes, %zu records told durable, %zu of them lost; crashes with losses: ",
           round_number, durable, lost);
    for (size_t i = 0; i < COUNT_OF(drivers); i++)
        printf("%s %u%s", drivers[i], losing[i], i + 1 < COUNT_OF(drivers) ? ", " : "\n");
    if (loses)
        return losing[0] > 0 && losing[1] > 0 && losing[2] > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    return lost == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
