/*
 * Preloaded: who does I/O on the files of a database, libio_engine.so or somebody else. It stands before
 * those calls of the C library by which librocksdb does I/O, and asks each of them where it came from.
 *
 * Files are those below AROUND_DIRECTORY, RocksDB's own LOG aside, which is not the engine's to write; nor is
 * the directory itself.
 * At the end the file AROUND_REPORT has a line "engine=N around=N", and one for each kind that went around.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *directory;
static const char *report;
static atomic_ulong by_engine, around;
static FILE *out;

__attribute__((constructor)) static void begin(void)
{
    directory = getenv("AROUND_DIRECTORY");
    report = getenv("AROUND_REPORT");
    out = report != NULL ? fopen(report, "w") : NULL;
}

__attribute__((destructor)) static void end(void)
{
    if (out == NULL)
        return;
    fprintf(out, "engine=%lu around=%lu\n", by_engine, around);
    fclose(out);
}

static int is_of_the_database(int fd, char *name)
{
    char link[64];
    if (fd < 0 || directory == NULL || out == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, name, PATH_MAX - 1);
    if (len <= 0)
        return 0;
    name[len] = '\0';
    const char *base = strrchr(name, '/');
    size_t below = strlen(directory);
    return strncmp(name, directory, below) == 0 && name[below] == '/' && base != NULL &&
           strncmp(base, "/LOG", 4) != 0;
}

static void note(const char *call, int fd, const void *from)
{
    char name[PATH_MAX];
    Dl_info info;
    if (!is_of_the_database(fd, name))
        return;
    if (dladdr(from, &info) != 0 && strstr(info.dli_fname, "libio_engine.so") != NULL) {
        by_engine++;
    } else {
        around++;
        fprintf(out, "%s(%s) by %s\n", call, name, info.dli_fname);
    }
}

#define SEE(type, name, fd, parameters, arguments)                                                 \
    type name parameters                                                                           \
    {                                                                                              \
        __typeof__(&name) next;                                                                    \
        *(void **)&next = dlsym(RTLD_NEXT, #name);                                                 \
        note(#name, fd, __builtin_return_address(0));                                              \
        return next arguments;                                                                     \
    }

SEE(ssize_t, read, fd, (int fd, void *buf, size_t n), (fd, buf, n))
SEE(ssize_t, write, fd, (int fd, const void *buf, size_t n), (fd, buf, n))
SEE(ssize_t, pread, fd, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at))
SEE(ssize_t, pread64, fd, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at))
SEE(ssize_t, pwrite, fd, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at))
SEE(ssize_t, pwrite64, fd, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at))
SEE(ssize_t, preadv2, fd, (int fd, const struct iovec *iov, int n, off_t at, int flags),
    (fd, iov, n, at, flags))
SEE(ssize_t, preadv64v2, fd, (int fd, const struct iovec *iov, int n, off_t at, int flags),
    (fd, iov, n, at, flags))
SEE(ssize_t, pwritev2, fd, (int fd, const struct iovec *iov, int n, off_t at, int flags),
    (fd, iov, n, at, flags))
SEE(ssize_t, pwritev64v2, fd, (int fd, const struct iovec *iov, int n, off_t at, int flags),
    (fd, iov, n, at, flags))
SEE(int, fsync, fd, (int fd), (fd))
SEE(int, fdatasync, fd, (int fd), (fd))
SEE(int, sync_file_range, fd, (int fd, off_t at, off_t n, unsigned flags), (fd, at, n, flags))
SEE(int, ftruncate, fd, (int fd, off_t size), (fd, size))
SEE(int, ftruncate64, fd, (int fd, off_t size), (fd, size))
SEE(int, fallocate, fd, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
SEE(int, posix_fallocate, fd, (int fd, off_t at, off_t n), (fd, at, n))
SEE(int, posix_fadvise, fd, (int fd, off_t at, off_t n, int advice), (fd, at, n, advice))
SEE(ssize_t, readahead, fd, (int fd, off_t at, size_t n), (fd, at, n))
/* Of these two the header has macros. */
#undef fread_unlocked
#undef fwrite
SEE(size_t, fread_unlocked, fileno(file), (void *buf, size_t size, size_t n, FILE *file),
    (buf, size, n, file))
SEE(size_t, fwrite, fileno(file), (const void *buf, size_t size, size_t n, FILE *file),
    (buf, size, n, file))
SEE(void *, mmap, fd, (void *at, size_t n, int prot, int flags, int fd, off_t offset),
    (at, n, prot, flags, fd, offset))
