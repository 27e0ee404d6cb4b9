/*
 * peer_uring.c: the same reads by liburing, as somebody would write them by hand who knows it
 * well. This is the yardstick, so it is written to be fast:
 *
 * - SINGLE_ISSUER and DEFER_TASKRUN: one thread owns the ring, and completions that come later
 *   are posted when it asks for them instead of interrupting it. They are the flags the engine
 *   asks for. COOP_TASKRUN adds nothing to DEFER_TASKRUN.
 * - Submission and waiting are one system call per turn, for a batch of reads.
 * - Completions are read in place, all there are, and given back by one store
 *   (io_uring_for_each_cqe and io_uring_cq_advance).
 * - Without registration of files or buffers, as in the engine, whose callers bring any descriptor
 *   and any memory. The registered variant shows what that costs.
 *
 * Its published like is fio's t/io_uring: `t/io_uring -d128 -s32 -c32 -b4096 -p0 -B0 -F0 FILE`.
 * On the machine and in the hour of the figures in the project's notes that did 1.12 to 1.18
 * million cached 4 KiB reads a second on one thread.
 */
#include "bench.h"

#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>

struct uring_side {
    struct progress progress;
    struct io_uring ring;
    bool registered;
    uint64_t calls;
    uint32_t in_flight;
    uint32_t n_free;
    uint32_t *free_slots; /* a stack: the buffer last used is still in the processor's cache */
    uint64_t *block_of;
    uint64_t start; /* of the one read in flight, where latencies are wanted */
};

static void uring_free(void *self)
{
    struct uring_side *s = self;

    io_uring_queue_exit(&s->ring);
    free(s->free_slots);
    free(s->block_of);
    free(s);
}

static void *uring_open(const struct work *work)
{
    struct uring_side *s = side_new(sizeof *s);
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN};

    if (!s)
        return NULL;
    progress_init(&s->progress, work, 0);
    s->free_slots = calloc(work->depth, sizeof *s->free_slots);
    s->block_of = calloc(work->depth, sizeof *s->block_of);
    for (uint32_t i = 0; s->free_slots && i < work->depth; i++)
        s->free_slots[s->n_free++] = i;
    int err = s->free_slots && s->block_of
                  ? io_uring_queue_init_params(work->depth, &s->ring, &params)
                  : -ENOMEM;
    if (err < 0) {
        fprintf(stderr, "bench: a ring by hand cannot be set up: %s\n", strerror(-err));
        free(s->free_slots);
        free(s->block_of);
        free(s);
        return NULL;
    }
    return s;
}

static void *uring_open_registered(const struct work *work)
{
    struct uring_side *s = uring_open(work);
    struct iovec memory = {work->buffers, (size_t)work->depth * work->block};

    if (!s)
        return NULL;
    s->registered = true;
    int err = io_uring_register_files(&s->ring, &work->fd, 1);
    if (err == 0)
        err = io_uring_register_buffers(&s->ring, &memory, 1);
    if (err == 0)
        err = io_uring_register_ring_fd(&s->ring) == 1 ? 0 : -EINVAL;
    if (err < 0) {
        fprintf(stderr, "bench: file and buffers cannot be registered: %s\n", strerror(-err));
        uring_free(s);
        return NULL;
    }
    return s;
}

static void queue(struct uring_side *s)
{
    const struct work *w = s->progress.work;
    uint32_t slot = s->free_slots[--s->n_free];
    /* Never NULL: the submission queue holds depth entries, and there are depth slots. */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

    s->start = progress_clock(&s->progress);
    uint64_t block = s->block_of[slot] = progress_next(&s->progress);
    char *data = w->buffers + (size_t)slot * w->block;
    if (s->registered) {
        io_uring_prep_read_fixed(sqe, 0, data, w->block, block * w->block, 0);
        sqe->flags |= IOSQE_FIXED_FILE;
    } else {
        io_uring_prep_read(sqe, w->fd, data, w->block, block * w->block);
    }
    io_uring_sqe_set_data64(sqe, slot);
    s->in_flight++;
}

static uint32_t reap(struct uring_side *s)
{
    const struct work *w = s->progress.work;
    struct io_uring_cqe *cqe;
    unsigned head;
    uint32_t n = 0;

    io_uring_for_each_cqe(&s->ring, head, cqe) {
        uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
        char *data = w->buffers + (size_t)slot * w->block;
        progress_check(&s->progress, s->block_of[slot], data, cqe->res);
        s->free_slots[s->n_free++] = slot;
        n++;
    }
    io_uring_cq_advance(&s->ring, n);
    s->in_flight -= n;
    return n;
}

static int uring_run(void *self, uint64_t count)
{
    struct uring_side *s = self;
    const struct work *w = s->progress.work;
    uint64_t to_issue = count;

    for (uint64_t done = 0; done < count;) {
        for (uint32_t i = 0; i < w->batch && to_issue > 0 && s->n_free > 0; i++, to_issue--)
            queue(s);
        /* With room for more there is nothing to wait for yet. */
        bool full = to_issue == 0 || s->n_free == 0;
        unsigned wait = !full ? 0 : s->in_flight < w->batch ? s->in_flight : w->batch;
        int n = io_uring_submit_and_wait(&s->ring, wait);
        s->calls++;
        if (n < 0 && n != -EINTR)
            return n;
        uint32_t reaped = reap(s);
        if (reaped > 0)
            progress_time(&s->progress, s->start);
        done += reaped;
    }
    return 0;
}

static uint64_t uring_calls(void *self)
{
    return ((struct uring_side *)self)->calls;
}

static struct progress *uring_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct uring_side *)self)->progress : NULL;
}

const struct side peer_uring = {
    .name = "uring",
    .what = "liburing by hand",
    .open = uring_open,
    .run = uring_run,
    .system_calls = uring_calls,
    .progress = uring_progress,
    .close = uring_free,
};
const struct side peer_uring_registered = {
    .name = "uring-reg",
    .what = "liburing by hand, file and buffers registered (for information)",
    .open = uring_open_registered,
    .run = uring_run,
    .system_calls = uring_calls,
    .progress = uring_progress,
    .close = uring_free,
};
