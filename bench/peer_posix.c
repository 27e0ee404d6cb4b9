/*
 * peer_posix.c: the same transfers by POSIX AIO, that is by the C library's threads (glibc:
 * aio(7)). Written the way that came out fastest of those a program may honestly use:
 *
 * - lio_listio(LIO_NOWAIT) hands over a batch under one lock. (aio_read in a loop is as fast
 *   within what can be told apart.)
 * - SIGEV_NONE: a signal, or a thread, for every transfer costs many times the transfer.
 * - aio_error is a look at the control block, no system call; only where the transfer in question
 *   is still under way, aio_suspend sleeps. It sleeps for one transfer per descriptor, the last of
 *   a batch: glibc runs the requests of one descriptor in their order, so all before it are done
 *   too. (A list of all 128 for aio_suspend costs more, and wakes at each. To spin on aio_error
 *   instead of sleeping takes the processor from glibc's thread: half the speed.)
 *
 * One descriptor means one request at a time in glibc, however many threads it may start
 * (lwn.net/Articles/417642). What programs do about it is to bring more descriptors of the file, as
 * QEMU did ("we hack around this by dup()'ing file descriptors", its commit de55306582ee). In the
 * page cache one or two descriptors are fastest; on a disk as many as glibc has threads by itself,
 * which are 20 (aio_init(3)). All three are shown.
 *
 * Its published like is fio's posixaio: 63000 random 4 KiB O_DIRECT reads and as many writes a
 * second on a bare NVMe disk at depth 32, with one descriptor, where its libaio did 350000
 * (hackmd.io/@Xo-wxO7bQkKidH1LrqACsw/B1isRuEyR).
 */
#include "peer.h"

#include <aio.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { GLIBC_THREADS = 20 };

struct posix_part {
    struct part part;
    struct aiocb *blocks; /* a circle of depth: oldest to newest from head on */
    struct aiocb **batch;
    uint32_t head;
    int fds[GLIBC_THREADS];
    uint32_t n_fds;
};

static int posix_set_up(struct posix_part *x, uint32_t n_fds)
{
    struct part *p = &x->part;
    const struct work *w = p->progress.work;

    x->blocks = calloc(p->depth, sizeof *x->blocks);
    x->batch = calloc(p->depth, sizeof(struct aiocb *));
    if (!x->blocks || !x->batch)
        return -ENOMEM;
    while (x->n_fds < n_fds && x->n_fds < p->depth) {
        int fd = dup(w->fd);
        if (fd < 0)
            return -errno;
        x->fds[x->n_fds++] = fd;
    }
    for (uint32_t i = 0; i < p->depth; i++)
        x->blocks[i] = (struct aiocb){.aio_buf = p->transfers[i].data,
                                      .aio_nbytes = w->block,
                                      .aio_sigevent.sigev_notify = SIGEV_NONE};
    return 0;
}

static int one_set_up(void *part)
{
    return posix_set_up(part, 1);
}

static int two_set_up(void *part)
{
    return posix_set_up(part, 2);
}

static int many_set_up(void *part)
{
    return posix_set_up(part, GLIBC_THREADS);
}

static void posix_end(void *part)
{
    struct posix_part *x = part;

    for (uint32_t i = 0; i < x->n_fds; i++)
        close(x->fds[i]);
    free(x->blocks);
    free(x->batch);
}

/* Of the circle, the one so many after the oldest. */
static uint32_t slot_after(const struct posix_part *x, uint32_t n)
{
    uint32_t slot = x->head + n;

    return slot < x->part.depth ? slot : slot - x->part.depth;
}

static int submit(struct posix_part *x, uint32_t n)
{
    struct part *p = &x->part;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = slot_after(x, p->in_flight + i);
        struct transfer *t = &p->transfers[slot];
        struct aiocb *block = x->batch[i] = &x->blocks[slot];
        block->aio_lio_opcode = transfer_next(t, &p->progress) ? LIO_WRITE : LIO_READ;
        block->aio_offset = (off_t)transfer_offset(t, p->progress.work);
        block->aio_fildes = x->fds[(p->progress.issued - 1) % x->n_fds];
    }
    if (n > 0 && lio_listio(LIO_NOWAIT, x->batch, (int)n, NULL) < 0)
        return -errno;
    p->in_flight += n;
    p->n_free -= n;
    return 0;
}

/* Until the n oldest are done: the last of them of each descriptor. */
static int wait_for(struct posix_part *x, uint32_t n)
{
    for (uint32_t i = 1; i <= x->n_fds && i <= n; i++) {
        const struct aiocb *last = &x->blocks[slot_after(x, n - i)];
        while (aio_error(last) == EINPROGRESS)
            if (aio_suspend(&last, 1, NULL) < 0 && errno != EINTR)
                return -errno;
    }
    return 0;
}

static uint32_t reap(struct posix_part *x)
{
    struct part *p = &x->part;
    uint32_t n = 0;
    int err;

    while (p->in_flight > 0 && (err = aio_error(&x->blocks[x->head])) != EINPROGRESS) {
        ssize_t result = aio_return(&x->blocks[x->head]);
        transfer_done(&p->transfers[x->head], &p->progress, err != 0 ? -err : result);
        x->head = slot_after(x, 1);
        p->in_flight--;
        p->n_free++;
        n++;
    }
    return n;
}

static int posix_run(void *part, uint64_t count)
{
    struct posix_part *x = part;

    for (uint64_t to_issue = count, done = 0; done < count;) {
        uint32_t n = part_batch(&x->part, to_issue);
        to_issue -= n;
        int err = submit(x, n);
        if (err == 0)
            err = wait_for(x, part_wait(&x->part, to_issue));
        if (err < 0)
            return err;
        done += reap(x);
    }
    return 0;
}

PEER_SIDE(peer_posix, "posixaio", "POSIX AIO of the C library", struct posix_part, one_set_up,
          posix_run, posix_end, NULL);
PEER_SIDE(peer_posix_two, "posixaio-2", "POSIX AIO of the C library, two descriptors of the file",
          struct posix_part, two_set_up, posix_run, posix_end, NULL);
PEER_SIDE(peer_posix_many, "posixaio-20", "POSIX AIO of the C library, 20 descriptors of the file",
          struct posix_part, many_set_up, posix_run, posix_end, NULL);
