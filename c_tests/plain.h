/*
 * The plain system calls that the library makes for files, on threads of the pool or the caller's
 * own. The functions below stand in front of those of the C library: they count the calls, note the
 * thread, let a pipe be read, which the kernel refuses at an offset, and ask the program, which may
 * shorten a transfer or answer it with an errno.
 */
#ifndef IOE_C_TESTS_PLAIN_H
#define IOE_C_TESTS_PLAIN_H

#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common.h"

/* The kernel takes an offset in two halves, and on 64 bits looks at the first alone. */
_Static_assert(sizeof(long) == 8, "an offset in one register");

/* By ioe_action. Reads that would have had to wait, and did nothing, are not among them. */
static atomic_uint plain_calls[IOE_ADVISE + 1];
static atomic_int plain_caller;

static inline void note_plain_call(int action)
{
    atomic_fetch_add(&plain_calls[action], 1);
    atomic_store(&plain_caller, gettid());
}

static inline void forget_plain_calls(void)
{
    for (size_t i = 0; i < COUNT_OF(plain_calls); i++)
        atomic_store(&plain_calls[i], 0);
    atomic_store(&plain_caller, 0);
}

static inline bool is_pipe(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

/* A transfer as it was asked for. */
typedef struct plain_transfer {
    int action;
    bool vectored;
    bool at_once; /* what may not wait: an errno only sends it to those that may */
    int fd;
    uint64_t offset;
    size_t len;
} plain_transfer;

/* Where the program sets it, it says how many of the bytes the kernel is to be asked for, or answers
 * with a negated errno. On whichever thread makes the call. */
static ssize_t (*allow_plain_transfer)(const plain_transfer *t);

static inline size_t bytes_of(const struct iovec *iov, int count)
{
    size_t len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    return len;
}

/* The segments up to a length; the value is how many. */
static inline int cut_segments(struct iovec *cut, const struct iovec *iov, int count, size_t len)
{
    int kept = 0;
    for (; kept < count; kept++) {
        cut[kept] = iov[kept];
        if (cut[kept].iov_len > len)
            cut[kept].iov_len = len;
        len -= cut[kept].iov_len;
    }
    return kept;
}

/* Asks the program, then the kernel. */
static inline ssize_t transfer(long number, const plain_transfer *t, const struct iovec *iov,
                               int count, int flags)
{
    struct iovec cut[1024];
    ssize_t allowed = (ssize_t)t->len;
    if (!t->at_once)
        note_plain_call(t->action);
    if (allow_plain_transfer != NULL)
        allowed = allow_plain_transfer(t);
    if (allowed < 0) {
        errno = (int)-allowed;
        return -1;
    }
    if (!t->vectored)
        return syscall(number, t->fd, iov->iov_base, (size_t)allowed, t->offset);
    if ((size_t)allowed < t->len && count <= (int)COUNT_OF(cut)) {
        count = cut_segments(cut, iov, count, (size_t)allowed);
        iov = cut;
    }
    ssize_t result = syscall(number, t->fd, iov, count, t->offset, 0L, flags);
    if (t->at_once && result >= 0)
        note_plain_call(t->action);
    return result;
}

ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
    const struct iovec iov = {buf, len};
    const plain_transfer t = {IOE_READ, false, false, fd, (uint64_t)offset, len};
    if (is_pipe(fd)) {
        note_plain_call(IOE_READ);
        return read(fd, buf, len);
    }
    return transfer(SYS_pread64, &t, &iov, 1, 0);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    const plain_transfer t = {IOE_READ, true, false, fd, (uint64_t)offset, bytes_of(iov, count)};
    if (is_pipe(fd)) {
        note_plain_call(IOE_READ);
        return readv(fd, iov, count);
    }
    return transfer(SYS_preadv, &t, iov, count, 0);
}

/* For events with flags; and, asked for what needs no waiting, a pipe is left to the others. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    const bool at_once = flags & RWF_NOWAIT;
    const plain_transfer t = {IOE_READ, true, at_once, fd, (uint64_t)offset, bytes_of(iov, count)};
    if (is_pipe(fd) && at_once) {
        errno = EAGAIN;
        return -1;
    }
    return transfer(SYS_preadv2, &t, iov, count, flags);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    const plain_transfer t = {IOE_WRITE, true, false, fd, (uint64_t)offset, bytes_of(iov, count)};
    return transfer(SYS_pwritev2, &t, iov, count, flags);
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t offset)
{
    const struct iovec iov = {(void *)(uintptr_t)buf, len};
    const plain_transfer t = {IOE_WRITE, false, false, fd, (uint64_t)offset, len};
    return transfer(SYS_pwrite64, &t, &iov, 1, 0);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    const plain_transfer t = {IOE_WRITE, true, false, fd, (uint64_t)offset, bytes_of(iov, count)};
    return transfer(SYS_pwritev, &t, iov, count, 0);
}

int fsync(int fd)
{
    note_plain_call(IOE_FSYNC);
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    note_plain_call(IOE_FDATASYNC);
    return (int)syscall(SYS_fdatasync, fd);
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    note_plain_call(IOE_FALLOCATE);
    return (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

int sync_file_range(int fd, off_t offset, off_t len, unsigned flags)
{
    note_plain_call(IOE_SYNC_RANGE);
    return (int)syscall(SYS_sync_file_range, fd, offset, len, flags);
}

int ftruncate(int fd, off_t length)
{
    note_plain_call(IOE_TRUNCATE);
    return (int)syscall(SYS_ftruncate, fd, length);
}

/* It returns an errno, and leaves the thread's alone. */
int posix_fadvise(int fd, off_t offset, off_t len, int advice)
{
    const int before = errno;
    note_plain_call(IOE_ADVISE);
    const int error = syscall(SYS_fadvise64, fd, offset, len, advice) == 0 ? 0 : errno;
    errno = before;
    return error;
}

#endif
