/*
 * The plain system calls that the library makes for files, on threads of the pool or the caller's
 * own. The functions below stand in front of those of the C library: they count the calls, note the
 * thread, and let a pipe be read, which the kernel refuses at an offset.
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
static atomic_uint plain_calls[IOE_FALLOCATE + 1];
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

ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
    note_plain_call(IOE_READ);
    return is_pipe(fd) ? read(fd, buf, len) : syscall(SYS_pread64, fd, buf, len, offset);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    note_plain_call(IOE_READ);
    return is_pipe(fd) ? readv(fd, iov, count) : syscall(SYS_preadv, fd, iov, count, offset, 0L);
}

/* Asked for what needs no waiting, a pipe is left to the others. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    ssize_t result = -1;
    if (is_pipe(fd))
        errno = EAGAIN;
    else
        result = syscall(SYS_preadv2, fd, iov, count, offset, 0L, flags);
    if (result >= 0)
        note_plain_call(IOE_READ);
    return result;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t offset)
{
    note_plain_call(IOE_WRITE);
    return syscall(SYS_pwrite64, fd, buf, len, offset);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    note_plain_call(IOE_WRITE);
    return syscall(SYS_pwritev, fd, iov, count, offset, 0L);
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

#endif
