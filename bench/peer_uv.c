/*
 * peer_uv.c: the same reads by libuv's uv_fs_read, that is by its thread pool, in the way its
 * programs are written: requests made once, each submitted again from the callback of the one
 * before it, all callbacks in uv_run on one thread.
 *
 * The pool has its default of 4 threads, which was the fastest on the machine with 2 processors
 * where it was tried: 1 thread did 0.7 of it, 2 did 0.93, 8 did 0.8 and 16 did 0.2. The pool
 * is one for the process and made once; UV_THREADPOOL_SIZE=N in the environment changes it.
 *
 * Versions from 1.45 on can use io_uring where it is allowed. Here it is the thread pool that is
 * asked for: what a program has where io_uring is forbidden.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

struct uv_slot {
    uv_fs_t request; /* first: its address is the slot's */
    struct uv_side *side;
    uv_buf_t buffer;
    uint64_t block;
    uint64_t start; /* where latencies are wanted */
};

struct uv_side {
    struct progress progress;
    uv_loop_t loop;
    struct uv_slot *slots;
    uint64_t to_issue;
    int error;
};

static void libuv_free(void *self)
{
    struct uv_side *s = self;

    uv_loop_close(&s->loop);
    free(s->slots);
    free(s);
}

static void *libuv_open(const struct work *work)
{
    struct uv_side *s = side_new(sizeof *s);

    if (!s)
        return NULL;
    setenv("UV_USE_IO_URING", "0", 1);
    progress_init(&s->progress, work, 0);
    s->slots = calloc(work->depth, sizeof *s->slots);
    int err = s->slots ? uv_loop_init(&s->loop) : UV_ENOMEM;
    if (err < 0) {
        fprintf(stderr, "bench: libuv cannot be set up: %s\n", uv_strerror(err));
        free(s->slots);
        free(s);
        return NULL;
    }
    for (uint32_t i = 0; i < work->depth; i++) {
        s->slots[i].side = s;
        s->slots[i].buffer = uv_buf_init(work->buffers + (size_t)i * work->block, work->block);
    }
    return s;
}

static void on_read(uv_fs_t *request);

static void issue(struct uv_slot *slot)
{
    struct uv_side *s = slot->side;
    const struct work *w = s->progress.work;

    slot->start = progress_clock(&s->progress);
    slot->block = progress_next(&s->progress);
    int err = uv_fs_read(&s->loop, &slot->request, w->fd, &slot->buffer, 1,
                         (int64_t)(slot->block * w->block), on_read);
    if (err < 0)
        s->error = err;
}

static void on_read(uv_fs_t *request)
{
    struct uv_slot *slot = (struct uv_slot *)request;
    struct uv_side *s = slot->side;

    progress_check(&s->progress, slot->block, slot->buffer.base, request->result);
    progress_time(&s->progress, slot->start);
    uv_fs_req_cleanup(request);
    if (s->to_issue > 0) {
        s->to_issue--;
        issue(slot);
    }
}

static int libuv_run(void *self, uint64_t count)
{
    struct uv_side *s = self;
    const struct work *w = s->progress.work;
    uint32_t n = count < w->depth ? (uint32_t)count : w->depth;

    s->to_issue = count - n;
    for (uint32_t i = 0; i < n; i++)
        issue(&s->slots[i]);
    uv_run(&s->loop, UV_RUN_DEFAULT); /* until no request is left */
    return s->error;
}

static struct progress *libuv_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct uv_side *)self)->progress : NULL;
}

const struct side peer_uv = {
    .name = "libuv",
    .what = "libuv's uv_fs_read, its thread pool",
    .open = libuv_open,
    .run = libuv_run,
    .progress = libuv_progress,
    .close = libuv_free,
};
