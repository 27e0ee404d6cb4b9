/*
 * peer_uv.c: the same transfers by libuv's uv_fs_read and uv_fs_write, that is by its thread pool,
 * in the way its programs are written: requests made once, each submitted again from the callback
 * of the one before it, all callbacks in uv_run on one thread. With several threads each has a loop
 * of its own; the pool is one for the process.
 *
 * The pool has its default of 4 threads, which was the fastest in the page cache on the machine
 * with 2 processors where it was tried: 1 thread did 0.7 of it, 2 did 0.93, 8 did 0.8 and 16 did
 * 0.2. On a disk more are in flight with more threads (docs.libuv.org/en/stable/threadpool.html:
 * "More threads usually means more throughput"): the wide variant has 32, with which it did the
 * most of 4 to 64 with O_DIRECT at depth 64. UV_THREADPOOL_SIZE=N in the environment changes the
 * first.
 *
 * Versions from 1.45 on can use io_uring where it is allowed, with 8 times the throughput of the
 * pool by the word of who brought it in (github.com/libuv/libuv/pull/3952); 1.49 and later only for
 * who asks for it. Here it is the thread pool that is asked for: what a program has where io_uring
 * is forbidden.
 *
 * No figure of its reads is published. Its published like is libuv's own benchmark of uv_fs_stat on
 * the same pool of 4 threads: 634000 a second with 16 in flight, 591000 with 32
 * (github.com/libuv/libuv/pull/5232), 10000 in 12.1 ms with 64 (pull/5236). This did 520000 to
 * 900000 cached 4 KiB reads a second with 128, by what else the machine did.
 */
#include "peer.h"

#define WIDE "32"

#if __has_include(<uv.h>)

#include <errno.h>
#include <stdlib.h>
#include <uv.h>

struct uv_slot {
    uv_fs_t request; /* first: its address is the slot's */
    struct uv_part *part;
    struct transfer *transfer;
    uv_buf_t buffer;
};

struct uv_part {
    struct part part;
    uv_loop_t loop;
    bool has_loop;
    struct uv_slot *slots;
    uint64_t to_issue;
    int error;
};

static int libuv_set_up(void *part)
{
    struct uv_part *u = part;
    struct part *p = &u->part;

    setenv("UV_USE_IO_URING", "0", 1);
    u->slots = calloc(p->depth, sizeof *u->slots);
    if (!u->slots)
        return -ENOMEM;
    int err = uv_loop_init(&u->loop);
    if (err < 0)
        return err;
    u->has_loop = true;
    for (uint32_t i = 0; i < p->depth; i++) {
        u->slots[i].part = u;
        u->slots[i].transfer = &p->transfers[i];
        u->slots[i].buffer = uv_buf_init(p->transfers[i].data, p->progress.work->block);
    }
    return 0;
}

static int libuv_set_up_wide(void *part)
{
    setenv("UV_THREADPOOL_SIZE", WIDE, 1); /* read when the pool is made, at the first request */
    return libuv_set_up(part);
}

static void libuv_end(void *part)
{
    struct uv_part *u = part;

    if (u->has_loop)
        uv_loop_close(&u->loop);
    free(u->slots);
}

static void on_done(uv_fs_t *request);

static void issue(struct uv_slot *slot)
{
    struct uv_part *u = slot->part;
    struct progress *progress = &u->part.progress;
    const struct work *w = progress->work;
    bool writes = transfer_next(slot->transfer, progress);
    int64_t offset = (int64_t)transfer_offset(slot->transfer, w);

    int err = writes ? uv_fs_write(&u->loop, &slot->request, w->fd, &slot->buffer, 1, offset,
                                   on_done)
                     : uv_fs_read(&u->loop, &slot->request, w->fd, &slot->buffer, 1, offset,
                                  on_done);
    if (err < 0)
        u->error = err;
}

static void on_done(uv_fs_t *request)
{
    struct uv_slot *slot = (struct uv_slot *)request;
    struct uv_part *u = slot->part;

    transfer_done(slot->transfer, &u->part.progress, request->result);
    uv_fs_req_cleanup(request);
    if (u->to_issue > 0) {
        u->to_issue--;
        issue(slot);
    }
}

static int libuv_run(void *part, uint64_t count)
{
    struct uv_part *u = part;
    uint32_t n = count < u->part.depth ? (uint32_t)count : u->part.depth;

    u->to_issue = count - n;
    for (uint32_t i = 0; i < n; i++)
        issue(&u->slots[i]);
    uv_run(&u->loop, UV_RUN_DEFAULT); /* until no request is left */
    return u->error;
}

#define UV_SIDE(id, side_name, side_what, set_up)                                                  \
    PEER_SIDE(id, side_name, side_what, struct uv_part, set_up, libuv_run, libuv_end, NULL)

#else

#define UV_SIDE(id, side_name, side_what, set_up)                                                  \
    SIDE_NOT_BUILT(id, side_name, side_what, "libuv1-dev")

#endif
UV_SIDE(peer_uv, "libuv", "libuv's file requests, its thread pool", libuv_set_up);
UV_SIDE(peer_uv_wide, "libuv-wide", "the same, " WIDE " threads in the pool",
        libuv_set_up_wide);
