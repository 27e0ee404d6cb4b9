/*
 * peer.h: what the peers share. Each is one program, run on as many threads as submit, each with a
 * ring, a loop or a descriptor of its own and its share of the depth; no thread knows of another.
 */
#ifndef PEER_H
#define PEER_H

#include "transfer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a thread of a side has. The first member of a peer's own. */
struct part {
    struct progress progress;
    uint32_t depth, batch;      /* its share */
    struct transfer *transfers; /* depth of them, with their buffers */
    uint32_t in_flight;
    uint32_t n_free;
    uint32_t *free_slots; /* a stack: the buffer last used is still in the processor's cache */
    uint64_t calls;       /* to the kernel, where the peer makes them itself */
};

struct peer {
    const char *what;
    size_t size;             /* of its part */
    int (*open)(void *part); /* on the thread that runs it; 0 or a negated errno */
    int (*run)(void *part, uint64_t count);
    void (*close)(void *part); /* fine after an open that failed; by the first thread */
};

/* Of a side. peer_open answers NULL after a sentence on stderr. */
void *peer_open(const struct work *work, const struct peer *peer);
int peer_run(void *self, uint64_t count);
uint64_t peer_calls(void *self);
struct progress *peer_progress(void *self, uint32_t thread);
void peer_close(void *self);

/* Defines a side, where calls is peer_calls or NULL. */
#define PEER_SIDE(id, side_name, side_what, part, set_up, turns, end, calls)                       \
    static const struct peer id##_peer = {side_what, sizeof(part), set_up, turns, end};            \
    static void *id##_open(const struct work *work)                                                \
    {                                                                                              \
        return peer_open(work, &id##_peer);                                                        \
    }                                                                                              \
    const struct side id = {.name = side_name,                                                     \
                              .what = side_what,                                                   \
                              .max_threads = MAX_SUBMITTERS,                                       \
                              .no_writes = false,                                                  \
                              .open = id##_open,                                                   \
                              .run = peer_run,                                                     \
                              .system_calls = calls,                                               \
                              .operations = NULL,                                                  \
                              .syncs = NULL,                                                       \
                              .amend = NULL,                                                       \
                              .progress = peer_progress,                                           \
                              .close = peer_close}

/* How many to hand over now: a batch, as far as there is room. */
static inline uint32_t part_batch(const struct part *part, uint64_t to_issue)
{
    uint32_t n = part->n_free < part->batch ? part->n_free : part->batch;

    return n < to_issue ? n : (uint32_t)to_issue;
}

/* How many to wait for then: with room for more there is nothing to wait for yet. */
static inline uint32_t part_wait(const struct part *part, uint64_t to_issue)
{
    bool full = to_issue == 0 || part->n_free == 0;

    return !full ? 0 : part->in_flight < part->batch ? part->in_flight : part->batch;
}

#ifdef __cplusplus
}
#endif
#endif
