/*
 * Promise: a context is used from any thread. Eight threads mix every way to submit, with drains
 * and looks at the counters in between, on one file whose blocks each belong to one thread; each
 * read must show the last write, each event come back once, and the file at the end be as written.
 *
 * The mix comes from a seed, printed first; IOE_TEST_SEED repeats it.
 */
#include "common.h"

#include <stdatomic.h>

enum { THREADS = 8, SLOTS = 16, SLOT_SIZE = 4096, MAX_BATCH = 6, MAX_CONTEXTS = 3 };

/* One block of the file, with what it must hold, and the one event that may be on its way to it. */
typedef struct slot {
    struct player *player;
    ioe_event *event;
    uint64_t offset;  /* of the block */
    uint32_t from;    /* the part of the block that the event is about */
    uint32_t len;
    bool reads;
    atomic_bool busy;
    atomic_ulong calls;
    unsigned long accepted;
    uint8_t bytes[SLOT_SIZE];
    uint8_t buf[SLOT_SIZE];
} slot;

typedef struct player {
    ioe_context *const *contexts;
    unsigned context_count;
    int fd;
    bool polls;
    uint64_t random;
    unsigned long moves;
    unsigned long waited;
    atomic_uint wrong;
    slot slots[SLOTS];
} player;

static void went_wrong(player *p)
{
    atomic_fetch_add(&p->wrong, 1);
}

/* The event has come back, to a callback or to the waiting caller: compare and let go. */
static void take_back(slot *s, int64_t result)
{
    if (result != (int64_t)s->len ||
        (s->reads && memcmp(s->buf, s->bytes + s->from, s->len) != 0))
        went_wrong(s->player);
    atomic_store(&s->busy, false);
}

static void on_slot(ioe_event *event, void *arg)
{
    slot *s = arg;
    atomic_fetch_add(&s->calls, 1);
    take_back(s, ioe_event_result(event));
}

static slot *idle_slot(player *p)
{
    size_t first = next_random(&p->random) % SLOTS;
    for (size_t i = 0; i < SLOTS; i++) {
        slot *s = &p->slots[(first + i) % SLOTS];
        if (!atomic_load(&s->busy))
            return s;
    }
    return NULL;
}

static void prepare_slot(player *p, slot *s)
{
    int rc;
    s->from = (uint32_t)(next_random(&p->random) % SLOT_SIZE);
    s->len = 1 + (uint32_t)(next_random(&p->random) % (SLOT_SIZE - s->from));
    s->reads = next_random(&p->random) % 2 == 0;
    if (s->reads) {
        memset(s->buf, 0, s->len);
        rc = ioe_prep_read(s->event, p->fd, s->buf, s->len, s->offset + s->from);
    } else {
        pattern_fill(s->buf, s->len, next_random(&p->random), 0);
        memcpy(s->bytes + s->from, s->buf, s->len);
        rc = ioe_prep_write(s->event, p->fd, s->buf, s->len, s->offset + s->from);
    }
    if (rc != 0)
        went_wrong(p);
    atomic_store(&s->busy, true);
}

/* Polled contexts say when they are full, and are then polled; others wait by themselves. */
static void submit_until_taken(player *p, slot *s, ioe_context *ctx, bool try_first)
{
    int rc = try_first ? ioe_try_submit(ctx, s->event) : -EAGAIN;
    while (rc == -EAGAIN) {
        rc = ioe_submit(ctx, s->event);
        if (rc == -EAGAIN && (!p->polls || ioe_poll(ctx, 1, -1) < 0))
            break;
    }
    if (rc == 0)
        s->accepted++;
    else
        went_wrong(p);
}

static void submit_some(player *p, ioe_context *ctx)
{
    slot *taken[MAX_BATCH];
    ioe_event *events[MAX_BATCH];
    size_t wanted = 1 + next_random(&p->random) % MAX_BATCH;
    size_t count = 0;
    while (count < wanted && (taken[count] = idle_slot(p)) != NULL) {
        prepare_slot(p, taken[count]);
        events[count] = taken[count]->event;
        count++;
    }
    int accepted = count > 0 ? ioe_submit_batch(ctx, events, count) : 0;
    if (accepted < 0 && p->polls && accepted == -EAGAIN)
        accepted = 0;
    if (accepted < 0 || (!p->polls && (size_t)accepted != count)) {
        went_wrong(p);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (i < (size_t)accepted)
            taken[i]->accepted++;
        else
            submit_until_taken(p, taken[i], ctx, false);
    }
}

static void move(player *p)
{
    ioe_context *ctx = p->contexts[next_random(&p->random) % p->context_count];
    unsigned choice = next_random(&p->random) % 100;
    slot *s = idle_slot(p);
    if (choice < 2) {
        /* Afterwards nothing that this thread had there is still on its way. */
        if (ioe_drain(ctx, -1) != 0)
            went_wrong(p);
        for (size_t i = 0; i < SLOTS && p->context_count == 1; i++)
            if (atomic_load(&p->slots[i].busy))
                went_wrong(p);
    } else if (choice < 5) {
        ioe_stats stats;
        if (ioe_context_stats(ctx, &stats, sizeof stats) != 0 || stats.failed != 0)
            went_wrong(p);
    } else if (s == NULL) {
        if (ioe_drain(ctx, 1) == -EINVAL)
            went_wrong(p);
    } else if (choice < 30) {
        submit_some(p, ctx);
    } else if (choice < 60) {
        prepare_slot(p, s);
        submit_until_taken(p, s, ctx, choice < 45);
    } else if (choice < 70) {
        prepare_slot(p, s);
        take_back(s, ioe_submit_wait(ctx, s->event));
        p->waited++;
    } else {
        prepare_slot(p, s);
        submit_until_taken(p, s, ctx, true);
    }
}

static void *play(void *arg)
{
    player *p = arg;
    for (unsigned long i = 0; i < p->moves; i++)
        move(p);
    return NULL;
}

/* Frees the contexts. */
static void run_players(ioe_context *const *contexts, unsigned context_count, unsigned players,
                        unsigned long moves, bool polls)
{
    static uint8_t on_file[SLOT_SIZE];
    uint64_t seed = choose_seed();
    int fd = temp_file(IN_MEMORY);
    player *all = calloc(players, sizeof *all);
    pthread_t threads[THREADS];
    uint64_t accepted = 0;
    uint64_t waited = 0;
    uint64_t counted = 0;
    assert_non_null(all);
    assert_int_equal(ftruncate(fd, (off_t)players * SLOTS * SLOT_SIZE), 0);
    for (unsigned t = 0; t < players; t++) {
        player *p = &all[t];
        p->contexts = contexts;
        p->context_count = context_count;
        p->fd = fd;
        p->polls = polls;
        p->random = seed + t;
        p->moves = moves;
        for (unsigned i = 0; i < SLOTS; i++) {
            slot *s = &p->slots[i];
            s->player = p;
            s->offset = ((uint64_t)t * SLOTS + i) * SLOT_SIZE;
            s->event = ioe_event_new();
            assert_int_equal(ioe_event_set_callback(s->event, on_slot, s), 0);
        }
    }
    for (unsigned t = 0; t < players && !polls; t++)
        threads[t] = start_thread(play, &all[t]);
    if (polls)
        play(&all[0]);
    for (unsigned t = 0; t < players && !polls; t++)
        join_thread(threads[t]);
    for (unsigned c = 0; c < context_count; c++) {
        ASSERT_CALL(ioe_drain(contexts[c], -1), 0);
        ioe_stats stats = get_stats(contexts[c]);
        assert_int_equal(stats.in_flight, 0);
        assert_int_equal(stats.accepted, stats.completed);
        assert_int_equal(stats.failed, 0);
        counted += stats.completed;
        ASSERT_CALL(ioe_context_free(contexts[c]), 0);
    }
    for (unsigned t = 0; t < players; t++) {
        player *p = &all[t];
        assert_int_equal(atomic_load(&p->wrong), 0);
        waited += p->waited;
        for (unsigned i = 0; i < SLOTS; i++) {
            slot *s = &p->slots[i];
            accepted += s->accepted;
            assert_false(atomic_load(&s->busy));
            assert_int_equal(atomic_load(&s->calls), s->accepted);
            assert_int_equal(pread(fd, on_file, SLOT_SIZE, (off_t)s->offset), SLOT_SIZE);
            assert_memory_equal(on_file, s->bytes, SLOT_SIZE);
            assert_int_equal(ioe_event_free(s->event), 0);
        }
    }
    assert_int_equal(counted, accepted + waited);
    free(all);
    close(fd);
}

static void every_way_from_every_thread(void **state)
{
    const delivery *how = *state;
    bool polls = how->flags & IOE_POLLED;
    ioe_context *ctx = new_context(how, 16, 32);
    run_players(&ctx, 1, polls ? 1 : THREADS, scaled(polls ? 80000 : 8000), polls);
}

static void every_way_over_shared_workers(void **state)
{
    ioe_workers *workers = NULL;
    ioe_context *contexts[MAX_CONTEXTS];
    (void)state;
    ASSERT_CALL(ioe_workers_new(2, &workers), 0);
    for (unsigned c = 0; c < MAX_CONTEXTS; c++)
        contexts[c] = new_shared_context(workers, 16, 32);
    run_players(contexts, MAX_CONTEXTS, THREADS, scaled(8000), false);
    ASSERT_CALL(ioe_workers_free(workers), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(every_way_from_every_thread),
        cmocka_unit_test(every_way_over_shared_workers),
    };
    return RUN_TESTS(tests);
}
