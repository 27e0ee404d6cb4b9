/*
 * peer_aio.c: the same reads by Linux AIO, its four system calls called by hand. This is the
 * yardstick of the aio driver, so it is written to be fast:
 *
 * - io_submit takes a batch of reads. The control blocks are filled in once, as are the buffers
 *   and the file; a read changes the offset alone.
 * - The completions lie in a ring that the kernel maps into the process, and are read there, all
 *   there are, without a system call, as fio's userspace_reap does. io_getevents is called only
 *   where more must be waited for than the ring holds.
 *
 * Its published like is fio: `fio --ioengine=libaio --userspace_reap --direct=1 --rw=randread
 * --bs=4k --iodepth=64 --iodepth_batch_submit=16 --iodepth_batch_complete_min=16`. Run in turn,
 * that did 75000 and 76000 reads a second, and this 69000 and 85000.
 */
#include "bench.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdio.h>
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

struct aio_side {
    struct progress progress;
    aio_context_t id;
    struct aio_ring *ring;
    uint64_t calls;
    uint32_t in_flight;
    uint32_t n_free;
    uint32_t *free_slots; /* a stack: the buffer last used is still in the processor's cache */
    uint64_t *block_of;
    struct iocb *blocks, **batch;
    struct io_event *events; /* what io_getevents brings */
    uint64_t start;          /* of the one read in flight, where latencies are wanted */
};

static void aio_free(void *self)
{
    struct aio_side *s = self;

    if (s->id)
        syscall(SYS_io_destroy, s->id);
    free(s->free_slots);
    free(s->block_of);
    free(s->blocks);
    free(s->batch);
    free(s->events);
    free(s);
}

static void *aio_open(const struct work *work)
{
    struct aio_side *s = side_new(sizeof *s);
    uint32_t depth = work->depth;

    if (!s)
        return NULL;
    progress_init(&s->progress, work, 0);
    s->free_slots = calloc(depth, sizeof *s->free_slots);
    s->block_of = calloc(depth, sizeof *s->block_of);
    s->blocks = calloc(depth, sizeof *s->blocks);
    s->batch = calloc(depth, sizeof(struct iocb *));
    s->events = calloc(depth, sizeof *s->events);
    int err = s->free_slots && s->block_of && s->blocks && s->batch && s->events ? 0 : ENOMEM;
    if (err == 0 && syscall(SYS_io_setup, depth, &s->id) < 0)
        err = errno;
    s->ring = (struct aio_ring *)(uintptr_t)s->id;
    if (err == 0 && (s->ring->magic != aio_ring_magic || s->ring->incompat_features != 0))
        err = EPROTO;
    if (err != 0) {
        fprintf(stderr, "bench: Linux AIO by hand cannot be set up: %s\n", strerror(err));
        aio_free(s);
        return NULL;
    }
    for (uint32_t i = 0; i < depth; i++) {
        s->free_slots[s->n_free++] = i;
        s->blocks[i] = (struct iocb){.aio_data = i,
                                     .aio_lio_opcode = IOCB_CMD_PREAD,
                                     .aio_fildes = (uint32_t)work->fd,
                                     .aio_buf = (uintptr_t)work->buffers + (size_t)i * work->block,
                                     .aio_nbytes = work->block};
    }
    return s;
}

static int submit(struct aio_side *s, uint32_t n)
{
    const struct work *w = s->progress.work;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = s->free_slots[--s->n_free];
        s->start = progress_clock(&s->progress);
        uint64_t block = s->block_of[slot] = progress_next(&s->progress);
        s->blocks[slot].aio_offset = (int64_t)(block * w->block);
        s->batch[i] = &s->blocks[slot];
    }
    s->in_flight += n;
    for (uint32_t taken = 0; taken < n;) {
        long got = syscall(SYS_io_submit, s->id, (long)(n - taken), s->batch + taken);
        s->calls++;
        if (got < 0)
            return -errno;
        taken += (uint32_t)got;
    }
    return 0;
}

static void take(struct aio_side *s, const struct io_event *event)
{
    const struct work *w = s->progress.work;
    uint32_t slot = (uint32_t)event->data;

    progress_check(&s->progress, s->block_of[slot], w->buffers + (size_t)slot * w->block,
                   event->res);
    s->free_slots[s->n_free++] = slot;
    s->in_flight--;
}

/* What has completed, at least min of it. Returns how many there were, or a negated errno. */
static int reap(struct aio_side *s, uint32_t min)
{
    struct aio_ring *ring = s->ring;
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint32_t n = 0;

    for (; head != tail; n++) {
        take(s, &ring->events[head]);
        head = head + 1 < ring->nr ? head + 1 : 0;
    }
    atomic_store_explicit(&ring->head, head, memory_order_release);
    if (n >= min)
        return (int)n;
    long got = syscall(SYS_io_getevents, s->id, (long)(min - n), (long)s->in_flight, s->events,
                       NULL);
    s->calls++;
    if (got < 0)
        return errno == EINTR ? (int)n : -errno;
    for (long i = 0; i < got; i++)
        take(s, &s->events[i]);
    return (int)n + (int)got;
}

static int aio_run(void *self, uint64_t count)
{
    struct aio_side *s = self;
    const struct work *w = s->progress.work;
    uint64_t to_issue = count;

    for (uint64_t done = 0; done < count;) {
        uint32_t n = s->n_free < w->batch ? s->n_free : w->batch;
        n = n < to_issue ? n : (uint32_t)to_issue;
        to_issue -= n;
        int err = submit(s, n);
        if (err < 0)
            return err;
        /* With room for more there is nothing to wait for yet. */
        bool full = to_issue == 0 || s->n_free == 0;
        uint32_t wait = !full ? 0 : s->in_flight < w->batch ? s->in_flight : w->batch;
        int reaped = reap(s, wait);
        if (reaped < 0)
            return reaped;
        if (reaped > 0)
            progress_time(&s->progress, s->start);
        done += (uint64_t)reaped;
    }
    return 0;
}

static uint64_t aio_calls(void *self)
{
    return ((struct aio_side *)self)->calls;
}

static struct progress *aio_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct aio_side *)self)->progress : NULL;
}

const struct side peer_aio = {
    .name = "io_submit",
    .what = "Linux AIO by hand",
    .open = aio_open,
    .run = aio_run,
    .system_calls = aio_calls,
    .progress = aio_progress,
    .close = aio_free,
};
