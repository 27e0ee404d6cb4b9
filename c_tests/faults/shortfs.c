/*
 * shortfs: a FUSE file system that keeps its files in another directory and is a nuisance, as the
 * beginning of a file's name says:
 *
 *     short…      one transfer moves at most 1000 bytes
 *     random…     one transfer moves 1 byte to all, told by its place and length
 *     broken-N…   the byte at N can be neither read nor written: EIO
 *     bad-N…      the sector of 512 bytes at N can be neither read nor written: all of a request that
 *                 touches it fails with EIO
 *     held-N…     what touches the byte at N, or one behind it, stays while there is a file of the name
 *                 with ".hold" behind it; after a minute it fails with EIO, as no signal ends a
 *                 program that waits in the kernel. It fails with EIO if there was a file with
 *                 ".bad" when it came. A sync obeys ".hold-flush" and ".bad-flush". Each request is
 *                 noted in ".log" when it comes and when it is answered, as nbdkit's log filter does
 *
 *     shortfs [options of FUSE] BACKING MOUNTPOINT
 *
 * A bad sector is met through the page cache, all else without. No request is larger than
 * REQUEST_MAX.
 */
#include "../passthrough.h"

#include <pthread.h>
#include <stdarg.h>
#include <time.h>

enum { SECTOR = 512, SHORT_MAX = 1000, REQUEST_MAX = 65536, HELD_MAX_S = 60 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t removed = PTHREAD_COND_INITIALIZER;

static bool begins(const open_file *file, const char *beginning)
{
    return strncmp(file->name, beginning, strlen(beginning)) == 0;
}

/* The N of a name that begins so; -1: it does not. */
static int64_t place(const open_file *file, const char *beginning)
{
    return begins(file, beginning) ? strtoll(file->name + strlen(beginning), NULL, 10) : -1;
}

static int open_beside(const open_file *file, const char *ending, int flags)
{
    char path[300];
    snprintf(path, sizeof path, "%s%s", file->name, ending);
    return openat(backing, path, flags | O_CLOEXEC, 0600);
}

static bool is_beside(const open_file *file, const char *ending)
{
    int fd = open_beside(file, ending, O_PATH);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* How much of a transfer goes through, or a negated errno. */
static int64_t allowed(const open_file *file, uint64_t size, int64_t offset)
{
    const int64_t broken_at = place(file, "broken-"), bad_at = place(file, "bad-");
    if (broken_at >= 0 && offset >= broken_at)
        return -EIO;
    if (bad_at >= 0 && offset < bad_at + SECTOR && bad_at < offset + (int64_t)size)
        return -EIO;
    if (broken_at >= 0 && (uint64_t)(broken_at - offset) < size)
        size = (uint64_t)(broken_at - offset);
    if (begins(file, "short") && size > SHORT_MAX)
        size = SHORT_MAX;
    if (begins(file, "random") && size > 1) {
        uint64_t x = ((uint64_t)offset ^ size << 32) * UINT64_C(0x9E3779B97F4A7C15);
        size = 1 + (x >> 32) % size;
    }
    return (int64_t)size;
}

/* ---- files that hold requests, and note them */

typedef struct request {
    const char *kind;
    unsigned id; /* 0: of a file without notes */
    bool fails;
} request;

/* One write each, so that lines do not mix. */
static void note(const open_file *file, const char *format, ...)
{
    char line[160];
    va_list list;
    va_start(list, format);
    int len = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    int log = open_beside(file, ".log", O_WRONLY | O_CREAT | O_APPEND);
    if (write(log, line, (size_t)len) != len)
        fprintf(stderr, "not noted: %s", line);
    close(log);
}

/* Waits until the file is gone; false where it does not go in time. */
static bool stays(const open_file *file, const char *ending)
{
    struct timespec end;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += HELD_MAX_S;
    pthread_mutex_lock(&mutex);
    while (rc == 0 && is_beside(file, ending))
        rc = pthread_cond_timedwait(&removed, &mutex, &end);
    pthread_mutex_unlock(&mutex);
    return rc == 0;
}

static request come(const open_file *file, const char *kind, size_t size, off_t offset)
{
    static unsigned last;
    const int64_t held_at = place(file, "held-");
    request r = {kind, 0, false};
    /* What stands beside it is not held itself. */
    if (held_at < 0 || strchr(file->name, '.') != NULL)
        return r;
    const bool syncs = strcmp(kind, "Flush") == 0;
    const bool obeys = syncs || offset + (int64_t)size > held_at;
    r.id = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    r.fails = obeys && is_beside(file, syncs ? ".bad-flush" : ".bad");
    if (syncs)
        note(file, "Flush id=%u ...\n", r.id);
    else
        note(file, "%s id=%u offset=0x%llx count=0x%zx ...\n", kind, r.id, (long long)offset, size);
    if (obeys && !stays(file, syncs ? ".hold-flush" : ".hold"))
        r.fails = true;
    return r;
}

/* The value is the answer. */
static int answered(const open_file *file, const request *r, int result)
{
    if (r->id > 0)
        note(file, "...%s id=%u return=%d\n", r->kind, r->id, result < 0 ? -1 : 0);
    return result;
}

static int short_read(const char *path, char *buf, size_t size, off_t offset,
                      struct fuse_file_info *info)
{
    const open_file *file = get(info);
    request r = come(file, "Read", size, offset);
    int64_t most = r.fails ? -EIO : allowed(file, size, offset);
    int result = most < 0 ? (int)most : pass_read(path, buf, (size_t)most, offset, info);
    return answered(file, &r, result);
}

static int short_write(const char *path, const char *buf, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    const open_file *file = get(info);
    request r = come(file, "Write", size, offset);
    int64_t most = r.fails ? -EIO : allowed(file, size, offset);
    int result = most < 0 ? (int)most : pass_write(path, buf, (size_t)most, offset, info);
    return answered(file, &r, result);
}

static int short_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    const open_file *file = get(info);
    request r = come(file, "Flush", 0, 0);
    return answered(file, &r, r.fails ? -EIO : pass_fsync(path, data_only, info));
}

static int short_open(const char *path, struct fuse_file_info *info)
{
    int rc = pass_open(path, info);
    info->direct_io = rc == 0 && place(get(info), "bad-") < 0;
    return rc;
}

static int short_unlink(const char *path)
{
    int rc = pass_unlink(path);
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&removed);
    pthread_mutex_unlock(&mutex);
    return rc;
}

int main(int argc, char **argv)
{
    struct fuse_operations operations = passed_on;
    if (argc < 3) {
        fprintf(stderr, "usage: %s [options] BACKING MOUNTPOINT\n", argv[0]);
        return 2;
    }
    operations.open = short_open;
    operations.read = short_read;
    operations.write = short_write;
    operations.fsync = short_fsync;
    operations.unlink = short_unlink;
    /* A device on a file here knows no discards. */
    operations.fallocate = NULL;
    return pass_through(argc, argv, &operations, REQUEST_MAX);
}
