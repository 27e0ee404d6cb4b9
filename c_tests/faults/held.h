/*
 * Files of shortfs that hold requests until told, and what came to a device, in which order: as noted by
 * shortfs, or by nbdkit's log filter.
 *
 * IOE_TEST_HELD is a file of shortfs with a name of held-N, of 2 * N bytes, and IOE_TEST_HELD_DEVICE a
 * block device with this file behind.
 */
#ifndef IOE_C_TESTS_HELD_H
#define IOE_C_TESTS_HELD_H

#include <inttypes.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "../drivers.h"

/* ---- telling shortfs, by files beside the one it is about ---- */

#define HOLD ".hold"             /* what touches N and beyond stays */
#define HOLD_FLUSH ".hold-flush" /* so do syncs */
#define BAD ".bad"               /* what touches N and beyond will fail, as of its coming */
#define BAD_FLUSH ".bad-flush"

/* Without cmocka: also called by other threads. */
static inline bool tell(const char *path, const char *what, bool on)
{
    char beside[640];
    snprintf(beside, sizeof beside, "%s%s", path, what);
    if (!on)
        return unlink(beside) == 0 || errno == ENOENT;
    int fd = open(beside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 && close(fd) == 0;
}

static inline const char *held_file(void)
{
    return setting("IOE_TEST_HELD");
}

/* N of its name. */
static inline uint64_t held_at(void)
{
    const char *name = strrchr(held_file(), '-');
    return name != NULL ? strtoull(name + 1, NULL, 10) : 0;
}

static inline void tell_held(const char *what, bool on)
{
    assert_true(tell(held_file(), what, on));
}

/* Also what a test that failed has left. */
static inline void hold_nothing(void)
{
    tell_held(BAD, false);
    tell_held(BAD_FLUSH, false);
    tell_held(HOLD, false);
    tell_held(HOLD_FLUSH, false);
}

/* No page of the device is cached, and none will be read ahead. */
static inline int open_device(const char *path, int flags)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | flags);
    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, BLKFLSBUF), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    return fd;
}

static inline int open_held_device(int flags)
{
    return open_device(setting("IOE_TEST_HELD_DEVICE"), flags);
}

/* ---- what came to the device ---- */

/* Times are places in the log: a later line is further on. */
typedef struct request {
    char kind; /* 'R', 'W' or 'F' */
    uint64_t id, offset, len;
    uint64_t begun, ended; /* 0: not ended yet */
} request;

typedef struct request_log {
    size_t count, room;
    request *each;
} request_log;

/* Without cmocka: also called inside callbacks. The time is now; 0 where there is no log yet. */
static inline uint64_t log_time(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static inline void note_line(request_log *log, const char *line, uint64_t time)
{
    static const char *const kinds[] = {"Read id=", "Write id=", "Flush id="};
    request r = {.begun = time};
    const char *at = NULL;
    for (size_t i = 0; i < COUNT_OF(kinds) && at == NULL; i++) {
        at = strstr(line, kinds[i]);
        r.kind = kinds[i][0];
    }
    if (at == NULL)
        return;
    r.id = strtoull(strchr(at, '=') + 1, NULL, 10);
    if (at > line && at[-1] == '.') {
        for (size_t i = log->count; i-- > 0;)
            if (log->each[i].id == r.id && log->each[i].kind == r.kind) {
                log->each[i].ended = time;
                break;
            }
        return;
    }
    if (r.kind != 'F')
        assert_int_equal(sscanf(strstr(at, " offset="), " offset=%" SCNx64 " count=%" SCNx64, &r.offset,
                                &r.len), 2);
    if (log->count == log->room) {
        log->room = 2 * log->room + 64;
        log->each = realloc(log->each, log->room * sizeof *log->each);
        assert_non_null(log->each);
    }
    log->each[log->count++] = r;
}

/* What has come since a time. */
static inline request_log read_log(const char *path, uint64_t since)
{
    request_log log = {0, 0, NULL};
    char line[256];
    uint64_t time = since;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return log;
    assert_int_equal(fseeko(file, (off_t)since, SEEK_SET), 0);
    /* A line without an end is still being written. */
    while (fgets(line, sizeof line, file) != NULL && strchr(line, '\n') != NULL) {
        time += strlen(line);
        note_line(&log, line, time);
    }
    fclose(file);
    return log;
}

static inline void free_log(request_log *log)
{
    free(log->each);
    *log = (request_log){0, 0, NULL};
}

/* That touched these bytes; of syncs, all. */
static inline size_t count_requests(const char *path, uint64_t since, const char *kinds, uint64_t from,
                                    uint64_t to)
{
    size_t count = 0;
    request_log log = read_log(path, since);
    for (size_t i = 0; i < log.count; i++) {
        const request *r = &log.each[i];
        count += strchr(kinds, r->kind) != NULL &&
                 (r->kind == 'F' || (r->offset < to && from < r->offset + r->len));
    }
    free_log(&log);
    return count;
}

static inline const char *held_log(void)
{
    static char path[640];
    snprintf(path, sizeof path, "%s.log", held_file());
    return path;
}

/* Requests that touched N or beyond. */
static inline size_t count_held(uint64_t since, const char *kinds)
{
    return count_requests(held_log(), since, kinds, held_at(), UINT64_MAX);
}

/* Waits until so many of them have come. */
static inline void await_held(ioe_context *ctx, const way *w, uint64_t since, const char *kinds,
                              size_t count)
{
    while (count_held(since, kinds) < count) {
        if (w->how->flags & IOE_POLLED)
            assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
}

/* Whether what was written to these bytes, and each of them was, is safe: a sync that began after the end of
 * all these writes had ended by the time. */
static inline bool is_safe(const request_log *log, uint64_t from, uint64_t to, uint64_t by)
{
    uint64_t written = 0;
    for (uint64_t at = from; at < to;) {
        const request *w = NULL;
        for (size_t i = 0; i < log->count && w == NULL; i++) {
            const request *r = &log->each[i];
            if (r->kind == 'W' && r->offset <= at && at - r->offset < r->len)
                w = r;
        }
        if (w == NULL || w->ended == 0)
            return false;
        written = w->ended > written ? w->ended : written;
        at = w->offset + w->len;
    }
    for (size_t i = 0; i < log->count; i++) {
        const request *r = &log->each[i];
        if (r->kind == 'F' && r->begun > written && r->ended > 0 && r->ended <= by)
            return true;
    }
    return false;
}

#endif
