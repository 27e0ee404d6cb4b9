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
 * No page cache stands in between (direct_io), except for a bad sector, and no request is larger than
 * REQUEST_MAX.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, SHORT_MAX = 1000, REQUEST_MAX = 65536, IN_FLIGHT_MAX = 512, HELD_MAX_S = 60 };

typedef struct nuisance {
    int fd;
    bool is_short, is_random;
    int64_t broken_at, bad_at, held_at; /* -1: nowhere */
    int log;
    char name[256];
} nuisance;

static int backing;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t removed = PTHREAD_COND_INITIALIZER;

/* FUSE's paths begin with a slash. */
static const char *name_of(const char *path)
{
    return path[1] == '\0' ? "." : path + 1;
}

static nuisance *get(struct fuse_file_info *info)
{
    return (nuisance *)(uintptr_t)info->fh;
}

static int open_beside(const nuisance *n, const char *ending, int flags)
{
    char path[300];
    snprintf(path, sizeof path, "%s%s", n->name, ending);
    return openat(backing, path, flags | O_CLOEXEC, 0600);
}

static bool is_beside(const nuisance *n, const char *ending)
{
    int fd = open_beside(n, ending, O_PATH);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static int open_file(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
    const char *name = name_of(path);
    nuisance *n = calloc(1, sizeof *n);
    if (n == NULL)
        return -ENOMEM;
    /* The file behind is read and written by any length, at any place. */
    n->fd = openat(backing, name, (flags & ~(O_ACCMODE | O_DIRECT | O_APPEND)) | O_RDWR, mode);
    if (n->fd < 0) {
        int error = errno;
        free(n);
        return -error;
    }
    n->is_short = strncmp(name, "short", 5) == 0;
    n->is_random = strncmp(name, "random", 6) == 0;
    n->broken_at = strncmp(name, "broken-", 7) == 0 ? strtoll(name + 7, NULL, 10) : -1;
    n->bad_at = strncmp(name, "bad-", 4) == 0 ? strtoll(name + 4, NULL, 10) : -1;
    bool is_held = strncmp(name, "held-", 5) == 0 && strchr(name, '.') == NULL;
    n->held_at = is_held ? strtoll(name + 5, NULL, 10) : -1;
    n->log = -1;
    snprintf(n->name, sizeof n->name, "%s", name);
    if (is_held)
        n->log = open_beside(n, ".log", O_WRONLY | O_CREAT | O_APPEND);
    info->fh = (uintptr_t)n;
    info->direct_io = n->bad_at < 0;
    return 0;
}

static int short_open(const char *path, struct fuse_file_info *info)
{
    return open_file(path, info->flags, 0, info);
}

static int short_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return open_file(path, info->flags | O_CREAT, mode, info);
}

static int short_release(const char *path, struct fuse_file_info *info)
{
    nuisance *n = get(info);
    (void)path;
    close(n->fd);
    if (n->log >= 0)
        close(n->log);
    free(n);
    return 0;
}

/* How much of a transfer goes through, or a negated errno. */
static int64_t allowed(const nuisance *n, uint64_t size, int64_t offset)
{
    if (n->broken_at >= 0 && offset >= n->broken_at)
        return -EIO;
    if (n->bad_at >= 0 && offset < n->bad_at + SECTOR && n->bad_at < offset + (int64_t)size)
        return -EIO;
    if (n->broken_at >= 0 && (uint64_t)(n->broken_at - offset) < size)
        size = (uint64_t)(n->broken_at - offset);
    if (n->is_short && size > SHORT_MAX)
        size = SHORT_MAX;
    if (n->is_random && size > 1) {
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
static void note(const nuisance *n, const char *format, ...)
{
    char line[160];
    va_list list;
    va_start(list, format);
    int len = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (write(n->log, line, (size_t)len) != len)
        fprintf(stderr, "not noted: %s", line);
}

/* Waits until the file is gone; false where it does not go in time. */
static bool stays(const nuisance *n, const char *ending)
{
    struct timespec end;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += HELD_MAX_S;
    pthread_mutex_lock(&mutex);
    while (rc == 0 && is_beside(n, ending))
        rc = pthread_cond_timedwait(&removed, &mutex, &end);
    pthread_mutex_unlock(&mutex);
    return rc == 0;
}

static request come(const nuisance *n, const char *kind, size_t size, off_t offset)
{
    static unsigned last;
    request r = {kind, 0, false};
    if (n->held_at < 0)
        return r;
    bool syncs = strcmp(kind, "Flush") == 0;
    r.id = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    if (syncs || offset + (int64_t)size > n->held_at)
        r.fails = is_beside(n, syncs ? ".bad-flush" : ".bad");
    if (syncs)
        note(n, "Flush id=%u ...\n", r.id);
    else
        note(n, "%s id=%u offset=0x%llx count=0x%zx ...\n", kind, r.id, (long long)offset, size);
    if ((syncs || offset + (int64_t)size > n->held_at) && !stays(n, syncs ? ".hold-flush" : ".hold"))
        r.fails = true;
    return r;
}

/* The value is the answer. */
static int answer(const nuisance *n, const request *r, int64_t result)
{
    if (r->id > 0)
        note(n, "...%s id=%u return=%d\n", r->kind, r->id, result < 0 ? -1 : 0);
    return (int)result;
}

static int short_read(const char *path, char *buf, size_t size, off_t offset,
                      struct fuse_file_info *info)
{
    const nuisance *n = get(info);
    request r = come(n, "Read", size, offset);
    int64_t most = r.fails ? -EIO : allowed(n, size, offset);
    (void)path;
    ssize_t got = most < 0 ? most : pread(n->fd, buf, (size_t)most, offset);
    return answer(n, &r, got == -1 ? -errno : got);
}

static int short_write(const char *path, const char *buf, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    const nuisance *n = get(info);
    request r = come(n, "Write", size, offset);
    int64_t most = r.fails ? -EIO : allowed(n, size, offset);
    (void)path;
    ssize_t got = most < 0 ? most : pwrite(n->fd, buf, (size_t)most, offset);
    return answer(n, &r, got == -1 ? -errno : got);
}

static int short_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    const nuisance *n = get(info);
    request r = come(n, "Flush", 0, 0);
    (void)path;
    int rc = r.fails ? -EIO : (data_only ? fdatasync(n->fd) : fsync(n->fd)) == 0 ? 0 : -errno;
    return answer(n, &r, rc);
}

static int short_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    int rc = info != NULL ? fstat(get(info)->fd, st)
                          : fstatat(backing, name_of(path), st, AT_SYMLINK_NOFOLLOW);
    return rc == 0 ? 0 : -errno;
}

static int short_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    int fd = info != NULL ? get(info)->fd : openat(backing, name_of(path), O_WRONLY | O_CLOEXEC);
    int rc = fd < 0 || ftruncate(fd, size) != 0 ? -errno : 0;
    if (info == NULL && fd >= 0)
        close(fd);
    return rc;
}

static int short_unlink(const char *path)
{
    int rc = unlinkat(backing, name_of(path), 0) == 0 ? 0 : -errno;
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&removed);
    pthread_mutex_unlock(&mutex);
    return rc;
}

static void *short_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    /* Held requests must not keep others out of the kernel's queue. */
    conn->max_background = IN_FLIGHT_MAX;
    conn->congestion_threshold = IN_FLIGHT_MAX;
    conn->max_read = REQUEST_MAX;
    conn->max_write = REQUEST_MAX;
    /* An open file may lose its name. */
    config->hard_remove = 1;
    config->nullpath_ok = 1;
    config->attr_timeout = 0;
    config->entry_timeout = 0;
    config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = short_init,
    .getattr = short_getattr,
    .open = short_open,
    .create = short_create,
    .release = short_release,
    .read = short_read,
    .write = short_write,
    .fsync = short_fsync,
    .truncate = short_truncate,
    .unlink = short_unlink,
};

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s [options] BACKING MOUNTPOINT\n", argv[0]);
        return 2;
    }
    backing = open(argv[argc - 2], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (backing < 0) {
        perror(argv[argc - 2]);
        return 1;
    }
    /* FUSE is to see all but the directory behind. */
    char options[64];
    snprintf(options, sizeof options, "-omax_read=%d,max_threads=128", REQUEST_MAX);
    char **args = calloc((size_t)argc + 1, sizeof *args);
    if (args == NULL)
        return 1;
    memcpy(args, argv, (size_t)(argc - 2) * sizeof *args);
    args[argc - 2] = options;
    args[argc - 1] = argv[argc - 1];
    int status = fuse_main(argc, args, &operations, NULL);
    free(args);
    return status;
}
