/*
 * peer.c: one program on each of the threads that submit.
 */
#include "crew.h"
#include "peer.h"

#include <errno.h>
#include <stdlib.h>

struct peer_side {
    const struct work *work;
    const struct peer *peer;
    struct crew crew;
    uint64_t count; /* of this run */
    struct part **parts;
};

static int open_part(void *self, uint32_t thread)
{
    struct peer_side *s = self;
    size_t size = (s->peer->size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    struct part *part = s->parts[thread] = aligned_alloc(CACHE_LINE, size);

    if (!part)
        return -ENOMEM;
    memset((void *)part, 0, size);
    progress_init(&part->progress, s->work, thread);
    part->depth = share_of(s->work->depth, s->work);
    part->batch = share_of(s->work->batch, s->work);
    part->transfers = calloc(part->depth, sizeof *part->transfers);
    part->free_slots = calloc(part->depth, sizeof *part->free_slots);
    if (!part->transfers || !part->free_slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < part->depth; i++) {
        part->transfers[i].data =
            s->work->buffers + (size_t)(thread * part->depth + i) * s->work->stride;
        part->free_slots[part->n_free++] = i;
    }
    return s->peer->open(part);
}

static int run_part(void *self, uint32_t thread)
{
    struct peer_side *s = self;

    return s->peer->run(s->parts[thread], count_of(s->count, s->work, thread));
}

void peer_close(void *self)
{
    struct peer_side *s = self;

    crew_end(&s->crew);
    for (uint32_t i = 0; s->parts && i < s->work->threads; i++) {
        if (!s->parts[i])
            continue;
        s->peer->close(s->parts[i]);
        free(s->parts[i]->transfers);
        free(s->parts[i]->free_slots);
        free(s->parts[i]);
    }
    free(s->parts);
    free(s);
}

void *peer_open(const struct work *work, const struct peer *peer)
{
    struct peer_side *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->work = work;
    s->peer = peer;
    s->parts = calloc(work->threads, sizeof(struct part *));
    int err = s->parts ? crew_start(&s->crew, work->threads) : -ENOMEM;
    if (err == 0)
        err = crew_run(&s->crew, open_part, s);
    if (err < 0) {
        fprintf(stderr, "bench: %s cannot be set up: %s\n", peer->what, strerror(-err));
        peer_close(s);
        return NULL;
    }
    return s;
}

int peer_run(void *self, uint64_t count)
{
    struct peer_side *s = self;

    s->count = count;
    return crew_run(&s->crew, run_part, s);
}

uint64_t peer_calls(void *self)
{
    struct peer_side *s = self;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < s->work->threads; i++)
        sum += s->parts[i]->calls;
    return sum;
}

struct progress *peer_progress(void *self, uint32_t thread)
{
    struct peer_side *s = self;

    return thread < s->work->threads ? &s->parts[thread]->progress : NULL;
}
