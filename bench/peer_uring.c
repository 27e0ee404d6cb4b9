/*
 * peer_uring.c: the same transfers by liburing, as somebody would write them by hand who knows it
 * well. This is the yardstick, so it is written to be fast:
 *
 * - SINGLE_ISSUER and DEFER_TASKRUN: one thread owns the ring, and completions that come later
 *   are posted when it asks for them instead of interrupting it (Linux c0e0d6ba25f1, "io_uring: add
 *   IORING_SETUP_DEFER_TASKRUN"). They are the flags that the engine asks for. The variant with
 *   COOP_TASKRUN alone is what kernels before 6.1 can do.
 * - Submission and waiting are one system call per turn, for a batch of transfers.
 * - Completions are read in place, all there are, and given back by one store
 *   (io_uring_for_each_cqe and io_uring_cq_advance).
 * - The descriptor of the ring is registered, which spares each call a look-up. From liburing 2.6
 *   on the submission queue has no array of indices beside it, wherever the kernel can do without.
 * - Without registration of files or buffers, as in the engine, whose callers bring any descriptor
 *   and any memory. The variants with files registered, and with buffers as well, show what that
 *   costs.
 *
 * The closed loop is the other shape that such a program has: each transfer that is done is at once
 * submitted again from where its completion is seen, and the turn waits for one. It is what
 * callbacks that submit are compared with.
 *
 * With several threads each has a ring of its own.
 *
 * Its published like is fio's t/io_uring, which is what the author of io_uring measures with
 * (github.com/axboe/liburing/issues/427) and "is used to compute the max IOPS a single core can
 * get" (github.com/axboe/fio/pull/1272): 3.8 million a second in September 2021, on Optane disks
 * (phoronix.com/news/Linux-IO-3.8M-IOPS-Per-Core). What disks and polling add to that is not in
 * question here, but the program beside it: run in turn on the same cached file, `t/io_uring -d128
 * -s32 -c32 -b4096 -p0 -B0 -F0 -O0 FILE` of fio 3.33 did at best 1.09 million reads a second, and
 * this 1.07.
 */
#include "peer.h"

#if __has_include(<liburing.h>)

#include <errno.h>
#include <liburing.h>

enum registration { NOTHING, FILES, FILES_AND_BUFFERS };

struct uring_part {
    struct part part;
    struct io_uring ring;
    bool is_set_up;
    enum registration registered;
};

static int uring_set_up(struct uring_part *u, unsigned flags, enum registration registration)
{
    const struct work *w = u->part.progress.work;
    struct io_uring_params params = {.flags = flags};
    struct iovec memory = {u->part.transfers[0].data, (size_t)u->part.depth * w->stride};

    int err = io_uring_queue_init_params(u->part.depth, &u->ring, &params);
    if (err < 0)
        return err;
    u->is_set_up = true;
    u->registered = registration;
    io_uring_register_ring_fd(&u->ring); /* kernels before 5.18 cannot: then it is not */
    if (registration != NOTHING)
        err = io_uring_register_files(&u->ring, &w->fd, 1);
    if (err == 0 && registration == FILES_AND_BUFFERS)
        err = io_uring_register_buffers(&u->ring, &memory, 1);
    return err;
}

static int uring_deferring(void *part)
{
    return uring_set_up(part, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, NOTHING);
}

static int uring_cooperative(void *part)
{
    return uring_set_up(part, IORING_SETUP_COOP_TASKRUN, NOTHING);
}

static int uring_with_files(void *part)
{
    return uring_set_up(part, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, FILES);
}

static int uring_registered(void *part)
{
    return uring_set_up(part, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                        FILES_AND_BUFFERS);
}

static void uring_end(void *part)
{
    struct uring_part *u = part;

    if (u->is_set_up)
        io_uring_queue_exit(&u->ring);
}

static void queue(struct uring_part *u, uint32_t slot)
{
    const struct work *w = u->part.progress.work;
    struct transfer *t = &u->part.transfers[slot];
    /* Never NULL: the submission queue holds depth entries, and there are depth slots. */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    bool writes = transfer_next(t, &u->part.progress);
    uint64_t offset = transfer_offset(t, w);
    int fd = u->registered != NOTHING ? 0 : w->fd;

    if (u->registered == FILES_AND_BUFFERS && writes)
        io_uring_prep_write_fixed(sqe, fd, t->data, w->block, offset, 0);
    else if (u->registered == FILES_AND_BUFFERS)
        io_uring_prep_read_fixed(sqe, fd, t->data, w->block, offset, 0);
    else if (writes)
        io_uring_prep_write(sqe, fd, t->data, w->block, offset);
    else
        io_uring_prep_read(sqe, fd, t->data, w->block, offset);
    if (u->registered != NOTHING)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, slot);
    u->part.in_flight++;
}

/* Hands over what is queued. */
static int enter(struct uring_part *u, unsigned wait)
{
    int n = io_uring_submit_and_wait(&u->ring, wait);

    u->part.calls++;
    return n < 0 && n != -EINTR ? n : 0;
}

static int batches_run(void *part, uint64_t count)
{
    struct uring_part *u = part;
    struct part *p = &u->part;
    struct io_uring_cqe *cqe;
    unsigned head;

    for (uint64_t to_issue = count, done = 0; done < count;) {
        uint32_t n = part_batch(p, to_issue);
        to_issue -= n;
        while (n-- > 0)
            queue(u, p->free_slots[--p->n_free]);
        int err = enter(u, part_wait(p, to_issue));
        if (err < 0)
            return err;
        uint32_t reaped = 0;
        io_uring_for_each_cqe(&u->ring, head, cqe) {
            uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
            transfer_done(&p->transfers[slot], &p->progress, cqe->res);
            p->free_slots[p->n_free++] = slot;
            reaped++;
        }
        io_uring_cq_advance(&u->ring, reaped);
        p->in_flight -= reaped;
        done += reaped;
    }
    return 0;
}

static int loop_run(void *part, uint64_t count)
{
    struct uring_part *u = part;
    struct part *p = &u->part;
    struct io_uring_cqe *cqe;
    unsigned head;
    uint64_t to_issue = count;

    for (uint32_t slot = 0; slot < p->depth && to_issue > 0; slot++, to_issue--)
        queue(u, slot);
    while (p->in_flight > 0) {
        int err = enter(u, 1);
        if (err < 0)
            return err;
        uint32_t reaped = 0;
        io_uring_for_each_cqe(&u->ring, head, cqe) {
            uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
            transfer_done(&p->transfers[slot], &p->progress, cqe->res);
            p->in_flight--;
            reaped++;
            if (to_issue > 0) {
                to_issue--;
                queue(u, slot);
            }
        }
        io_uring_cq_advance(&u->ring, reaped);
    }
    return 0;
}

#define URING_SIDE(id, side_name, side_what, set_up, turns)                                        \
    PEER_SIDE(id, side_name, side_what, struct uring_part, set_up, turns, uring_end, peer_calls)

#else

#define URING_SIDE(id, side_name, side_what, set_up, turns)                                        \
    SIDE_NOT_BUILT(id, side_name, side_what, "liburing-dev")

#endif
URING_SIDE(peer_uring, "uring", "liburing by hand", uring_deferring, batches_run);
URING_SIDE(peer_uring_cooperative, "uring-coop", "liburing by hand, COOP_TASKRUN alone",
           uring_cooperative, batches_run);
URING_SIDE(peer_uring_files, "uring-files", "liburing by hand, file registered", uring_with_files,
           batches_run);
URING_SIDE(peer_uring_registered, "uring-reg", "liburing by hand, file and buffers registered",
           uring_registered, batches_run);
URING_SIDE(peer_uring_loop, "uring-loop", "liburing by hand, resubmitting from completions",
           uring_deferring, loop_run);
