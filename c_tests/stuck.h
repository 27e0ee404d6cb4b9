/*
 * A read that stays until it is let go, the same on every driver: of a pipe with nothing in it. Pipes
 * are not among the files the library promises, but no regular file keeps a read waiting on demand.
 *
 * A ring reads a pipe by itself. All else is read by preadv2(2), pread(2) and preadv(2), which a pipe
 * refuses: the functions below stand in front of those of the C library, and give it read(2).
 */
#ifndef IOE_C_TESTS_STUCK_H
#define IOE_C_TESTS_STUCK_H

#include <sys/stat.h>
#include <sys/syscall.h>

#include "common.h"

/* The kernel takes an offset in two halves, and on 64 bits looks at the first alone. */
_Static_assert(sizeof(long) == 8, "an offset in one register");

static inline bool is_pipe(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
    if (is_pipe(fd))
        return read(fd, buf, len);
    return syscall(SYS_pread64, fd, buf, len, offset);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (is_pipe(fd))
        return readv(fd, iov, count);
    return syscall(SYS_preadv, fd, iov, count, offset, 0L);
}

ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (!is_pipe(fd))
        return syscall(SYS_preadv2, fd, iov, count, offset, 0L, flags);
    if ((flags & RWF_NOWAIT) == 0)
        return readv(fd, iov, count);
    errno = EAGAIN;
    return -1;
}

typedef struct stuck_read {
    int ends[2];
    uint64_t word;
    ioe_event *event;
} stuck_read;

static inline void stuck_prepare(stuck_read *s, ioe_callback callback, void *arg)
{
    assert_int_equal(pipe2(s->ends, O_CLOEXEC), 0);
    s->word = 0;
    s->event = ioe_event_new();
    assert_non_null(s->event);
    assert_int_equal(ioe_prep_read(s->event, s->ends[0], &s->word, sizeof s->word, 0), 0);
    assert_int_equal(ioe_event_set_callback(s->event, callback, arg), 0);
}

static inline bool stuck_let_go(const stuck_read *s)
{
    const uint64_t word = 1;
    return write(s->ends[1], &word, sizeof word) == (ssize_t)sizeof word;
}

static inline void stuck_free(stuck_read *s)
{
    assert_int_equal(ioe_event_free(s->event), 0);
    close(s->ends[0]);
    close(s->ends[1]);
}

#endif
