/*
 * peer_pread.c: the same reads one after the other by pread(2), into the same buffers in turn.
 */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct pread_side {
    struct progress progress;
};

static void *pread_open(const struct work *work)
{
    struct pread_side *s = side_new(sizeof *s);

    if (s)
        progress_init(&s->progress, work, 0);
    else
        perror("bench: pread");
    return s;
}

static int pread_run(void *self, uint64_t count)
{
    struct pread_side *s = self;
    const struct work *w = s->progress.work;
    uint32_t slot = 0;

    while (count-- > 0) {
        uint64_t start = progress_clock(&s->progress);
        uint64_t block = progress_next(&s->progress);
        char *data = w->buffers + (size_t)slot * w->block;
        ssize_t n = pread(w->fd, data, w->block, (off_t)(block * w->block));
        progress_check(&s->progress, block, data, n < 0 ? -errno : n);
        progress_time(&s->progress, start);
        if (++slot == w->depth)
            slot = 0;
    }
    return 0;
}

static uint64_t pread_calls(void *self)
{
    return ((struct pread_side *)self)->progress.issued;
}

static struct progress *pread_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct pread_side *)self)->progress : NULL;
}

const struct side peer_pread = {
    .name = "pread",
    .what = "pread(2) in a loop",
    .open = pread_open,
    .run = pread_run,
    .system_calls = pread_calls,
    .progress = pread_progress,
    .close = free,
};
