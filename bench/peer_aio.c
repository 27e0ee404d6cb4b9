/*
 * peer_aio.c: the same transfers by Linux AIO, its four system calls called by hand. This is the
 * yardstick of the aio driver, so it is written to be fast:
 *
 * - io_submit takes a batch of transfers. The control blocks are filled in once, as are the buffers
 *   and the file; a transfer changes opcode and offset alone.
 * - The completions lie in a ring that the kernel maps into the process, and are read there, all
 *   there are, without a system call, as fio's userspace_reap does (its engines/libaio.c).
 *   io_getevents is called only where more must be waited for than the ring holds.
 *
 * With several threads each has a context of its own.
 *
 * Its published like is fio's libaio: 350000 random 4 KiB O_DIRECT reads and as many writes a
 * second against 417000 of its io_uring, 0.84 of them, at depth 32 on a bare NVMe disk
 * (hackmd.io/@Xo-wxO7bQkKidH1LrqACsw/B1isRuEyR). Run in turn with this one, on a virtual disk, `fio
 * --ioengine=libaio --userspace_reap --direct=1 --rw=randread --bs=4k --iodepth=64
 * --iodepth_batch_submit=16 --iodepth_batch_complete_min=16` did 75000 and 76000 reads a second, and
 * this 69000 and 85000.
 */
#include "peer.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the kernel maps at the address that io_setup returns: struct aio_ring of its fs/aio.c. */
struct aio_ring {
    uint32_t id;
    uint32_t nr;
    _Atomic uint32_t head; /* moved by whoever takes events out */
    _Atomic uint32_t tail; /* moved by the kernel */
    uint32_t magic;
    uint32_t compat_features;
    uint32_t incompat_features;
    uint32_t header_length;
    struct io_event events[];
};
static const uint32_t aio_ring_magic = 0xa10a10a1;

struct aio_part {
    struct part part;
    aio_context_t id;
    struct aio_ring *ring;
    struct iocb *blocks, **batch;
    struct io_event *events; /* what io_getevents brings */
};

static int aio_set_up(void *part)
{
    struct aio_part *a = part;
    struct part *p = &a->part;
    const struct work *w = p->progress.work;

    a->blocks = calloc(p->depth, sizeof *a->blocks);
    a->batch = calloc(p->depth, sizeof(struct iocb *));
    a->events = calloc(p->depth, sizeof *a->events);
    if (!a->blocks || !a->batch || !a->events)
        return -ENOMEM;
    if (syscall(SYS_io_setup, p->depth, &a->id) < 0)
        return -errno;
    a->ring = (struct aio_ring *)(uintptr_t)a->id;
    if (a->ring->magic != aio_ring_magic || a->ring->incompat_features != 0)
        return -EPROTO;
    for (uint32_t i = 0; i < p->depth; i++)
        a->blocks[i] = (struct iocb){.aio_data = i,
                                     .aio_fildes = (uint32_t)w->fd,
                                     .aio_buf = (uintptr_t)p->transfers[i].data,
                                     .aio_nbytes = w->block};
    return 0;
}

static void aio_end(void *part)
{
    struct aio_part *a = part;

    if (a->id)
        syscall(SYS_io_destroy, a->id);
    free(a->blocks);
    free(a->batch);
    free(a->events);
}

static int submit(struct aio_part *a, uint32_t n)
{
    struct part *p = &a->part;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = p->free_slots[--p->n_free];
        struct transfer *t = &p->transfers[slot];
        struct iocb *block = a->batch[i] = &a->blocks[slot];
        block->aio_lio_opcode = transfer_next(t, &p->progress) ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        block->aio_offset = (int64_t)transfer_offset(t, p->progress.work);
    }
    p->in_flight += n;
    for (uint32_t taken = 0; taken < n;) {
        long got = syscall(SYS_io_submit, a->id, (long)(n - taken), a->batch + taken);
        p->calls++;
        if (got < 0)
            return -errno;
        taken += (uint32_t)got;
    }
    return 0;
}

static void take(struct part *p, const struct io_event *event)
{
    uint32_t slot = (uint32_t)event->data;

    transfer_done(&p->transfers[slot], &p->progress, event->res);
    p->free_slots[p->n_free++] = slot;
    p->in_flight--;
}

/* What has completed, at least min of it. Returns how many there were, or a negated errno. */
static int reap(struct aio_part *a, uint32_t min)
{
    struct part *p = &a->part;
    struct aio_ring *ring = a->ring;
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint32_t n = 0;

    for (; head != tail; n++) {
        take(p, &ring->events[head]);
        head = head + 1 < ring->nr ? head + 1 : 0;
    }
    atomic_store_explicit(&ring->head, head, memory_order_release);
    if (n >= min)
        return (int)n;
    long got = syscall(SYS_io_getevents, a->id, (long)(min - n), (long)p->in_flight, a->events,
                       NULL);
    p->calls++;
    if (got < 0)
        return errno == EINTR ? (int)n : -errno;
    for (long i = 0; i < got; i++)
        take(p, &a->events[i]);
    return (int)n + (int)got;
}

static int aio_run(void *part, uint64_t count)
{
    struct aio_part *a = part;

    for (uint64_t to_issue = count, done = 0; done < count;) {
        uint32_t n = part_batch(&a->part, to_issue);
        to_issue -= n;
        int err = submit(a, n);
        if (err < 0)
            return err;
        int reaped = reap(a, part_wait(&a->part, to_issue));
        if (reaped < 0)
            return reaped;
        done += (uint64_t)reaped;
    }
    return 0;
}

PEER_SIDE(peer_aio, "io_submit", "Linux AIO by hand", struct aio_part, aio_set_up, aio_run, aio_end,
          peer_calls);
