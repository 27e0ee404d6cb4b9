/*
 * peer_pread.c: the same reads one after the other by pread(2), into the same buffers in turn.
 */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct pread_side {
    struct reads reads;
};

static void *pread_open(const struct work *work)
{
    struct pread_side *s = calloc(1, sizeof *s);

    if (s)
        reads_init(&s->reads, work);
    else
        perror("bench: pread");
    return s;
}

static int pread_run(void *self, uint64_t count)
{
    struct pread_side *s = self;
    const struct work *w = s->reads.work;
    uint32_t slot = 0;

    while (count-- > 0) {
        uint64_t start = reads_clock(&s->reads);
        uint64_t block = reads_next(&s->reads);
        char *data = w->buffers + (size_t)slot * w->block;
        ssize_t n = pread(w->fd, data, w->block, (off_t)(block * w->block));
        reads_check(&s->reads, block, data, n < 0 ? -errno : n);
        reads_time(&s->reads, start);
        if (++slot == w->depth)
            slot = 0;
    }
    return 0;
}

static uint64_t pread_calls(void *self)
{
    return ((struct pread_side *)self)->reads.issued;
}

static struct reads *pread_reads(void *self)
{
    return &((struct pread_side *)self)->reads;
}

const struct side peer_pread = {
    "pread", "pread(2) in a loop", pread_open, pread_run, pread_calls, pread_reads, free,
};
