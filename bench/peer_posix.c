/*
 * peer_posix.c: the same reads by POSIX AIO, that is by the C library's threads (glibc: aio(7)).
 * Written the way that came out fastest of those a program may honestly use:
 *
 * - lio_listio(LIO_NOWAIT) hands over a batch under one lock. (aio_read in a loop is as fast
 *   within what can be told apart.)
 * - SIGEV_NONE: a signal, or a thread, for every read costs many times the read.
 * - aio_error is a look at the control block, no system call; only where the read in question is
 *   still under way, aio_suspend sleeps. It sleeps for one read per descriptor, the last of a
 *   batch: glibc runs the requests of one descriptor in their order, so all before it are
 *   done too. (A list of all 128 for aio_suspend costs more, and wakes at each. To spin on
 *   aio_error instead of sleeping takes the processor from glibc's thread: half the speed.)
 *
 * One descriptor means one thread in glibc, however many it may start. With a second descriptor of
 * the file there are two threads at work: faster where the processors are idle, slower where they
 * are not; three and more were always slower. Both are shown.
 */
#include "bench.h"

#include <aio.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_FDS = 2 };

struct posix_side {
    struct progress progress;
    struct aiocb *blocks; /* a circle of depth: oldest to newest from head on */
    struct aiocb **batch;
    uint64_t *block_of;
    uint32_t head, in_flight;
    int fds[MAX_FDS];
    uint32_t n_fds;
    uint64_t start; /* of the newest read, where latencies are wanted */
};

static void posix_free(void *self)
{
    struct posix_side *s = self;

    for (uint32_t i = 0; i < s->n_fds; i++)
        close(s->fds[i]);
    free(s->blocks);
    free(s->batch);
    free(s->block_of);
    free(s);
}

static void *posix_new(const struct work *work, uint32_t n_fds)
{
    struct posix_side *s = side_new(sizeof *s);

    if (!s)
        return NULL;
    progress_init(&s->progress, work, 0);
    s->blocks = calloc(work->depth, sizeof *s->blocks);
    s->batch = calloc(work->depth, sizeof(struct aiocb *));
    s->block_of = calloc(work->depth, sizeof *s->block_of);
    bool ok = s->blocks && s->batch && s->block_of;
    while (ok && s->n_fds < n_fds) {
        int fd = dup(work->fd);
        ok = fd >= 0;
        if (ok)
            s->fds[s->n_fds++] = fd;
    }
    if (!ok) {
        perror("bench: POSIX AIO cannot be set up");
        posix_free(s);
        return NULL;
    }
    for (uint32_t i = 0; i < work->depth; i++)
        s->blocks[i] = (struct aiocb){.aio_fildes = s->fds[i % n_fds],
                                      .aio_lio_opcode = LIO_READ,
                                      .aio_buf = work->buffers + (size_t)i * work->block,
                                      .aio_nbytes = work->block,
                                      .aio_sigevent.sigev_notify = SIGEV_NONE};
    return s;
}

static void *one_open(const struct work *work)
{
    return posix_new(work, 1);
}

static void *two_open(const struct work *work)
{
    return posix_new(work, 2);
}

/* Of the circle, the one so many after the oldest. */
static uint32_t slot_after(const struct posix_side *s, uint32_t n)
{
    uint32_t slot = s->head + n, depth = s->progress.work->depth;

    return slot < depth ? slot : slot - depth;
}

static int submit(struct posix_side *s, uint32_t n)
{
    const struct work *w = s->progress.work;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = slot_after(s, s->in_flight + i);
        s->start = progress_clock(&s->progress);
        uint64_t block = s->block_of[slot] = progress_next(&s->progress);
        s->blocks[slot].aio_offset = (off_t)(block * w->block);
        s->batch[i] = &s->blocks[slot];
    }
    if (n > 0 && lio_listio(LIO_NOWAIT, s->batch, (int)n, NULL) < 0)
        return -errno;
    s->in_flight += n;
    return 0;
}

/* Until the n oldest are done. */
static int wait_for(struct posix_side *s, uint32_t n)
{
    for (uint32_t i = 1; i <= s->n_fds && i <= n; i++) {
        const struct aiocb *last = &s->blocks[slot_after(s, n - i)];
        while (aio_error(last) == EINPROGRESS)
            if (aio_suspend(&last, 1, NULL) < 0 && errno != EINTR)
                return -errno;
    }
    return 0;
}

static uint32_t reap(struct posix_side *s)
{
    const struct work *w = s->progress.work;
    uint32_t n = 0;
    int err;

    while (s->in_flight > 0 && (err = aio_error(&s->blocks[s->head])) != EINPROGRESS) {
        ssize_t result = aio_return(&s->blocks[s->head]);
        progress_check(&s->progress, s->block_of[s->head], w->buffers + (size_t)s->head * w->block,
                    err != 0 ? -err : result);
        s->head = slot_after(s, 1);
        s->in_flight--;
        n++;
    }
    return n;
}

static int posix_run(void *self, uint64_t count)
{
    struct posix_side *s = self;
    const struct work *w = s->progress.work;
    uint64_t to_issue = count;

    for (uint64_t done = 0; done < count;) {
        uint32_t room = w->depth - s->in_flight, n = room < w->batch ? room : w->batch;
        n = n < to_issue ? n : (uint32_t)to_issue;
        to_issue -= n;
        int err = submit(s, n);
        bool full = to_issue == 0 || s->in_flight == w->depth;
        if (err == 0 && full)
            err = wait_for(s, s->in_flight < w->batch ? s->in_flight : w->batch);
        if (err < 0)
            return err;
        uint32_t reaped = reap(s);
        if (reaped > 0)
            progress_time(&s->progress, s->start);
        done += reaped;
    }
    return 0;
}

static struct progress *posix_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct posix_side *)self)->progress : NULL;
}

const struct side peer_posix = {
    .name = "posixaio",
    .what = "POSIX AIO of the C library",
    .open = one_open,
    .run = posix_run,
    .progress = posix_progress,
    .close = posix_free,
};
const struct side peer_posix_two = {
    .name = "posixaio-2",
    .what = "POSIX AIO of the C library, two descriptors of the file",
    .open = two_open,
    .run = posix_run,
    .progress = posix_progress,
    .close = posix_free,
};
