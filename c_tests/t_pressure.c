/*
 * Promise: nothing ever waits in a circle, however small the queue. Callbacks submit without end
 * while other threads submit too, and both get on; a waiting caller may hold what the only callback
 * thread wants; a slow callback holds back those who submit, and no more than queue_size events
 * wait. The counters add up at the end.
 */
#include "stuck.h"

#include <stdatomic.h>
#include <sys/ioctl.h>

#define OUTSIDERS 4
/* What each outside thread must get through before a chain may end: neither lane starves. */
#define OUTSIDE_QUOTA 1000

/* ---- chains of submissions from callbacks, against submitters from outside ---- */

/* The chains go on until the outside threads were served too. Where those starve, that is for ever,
 * and the time limit of the test says so: how many links it takes is the scheduler's affair. */
enum { MAX_CHAINS = 8 };

/* All that the links of the chains and the submitters from outside have in common. */
typedef struct struggle {
    ioe_context *ctx;
    int fd;
    unsigned outsiders;
    long links;
    atomic_long made;
    atomic_uint served;
    atomic_bool over;
    atomic_uint wrong;
    latch ended;
} struggle;

typedef struct chain {
    struggle *all;
    ioe_event *event;
    uint64_t got;
    unsigned to_start; /* chains behind this one, which its first link starts */
} chain;

static bool submit_link(chain *c)
{
    return ioe_prep_read(c->event, c->all->fd, &c->got, sizeof c->got, 0) == 0 &&
           ioe_submit(c->all->ctx, c->event) == 0;
}

static void on_link(ioe_event *event, void *arg)
{
    chain *c = arg;
    struggle *s = c->all;
    bool right = ioe_event_result(event) == sizeof c->got;
    for (; c->to_start > 0; c->to_start--)
        right = right && submit_link(c + c->to_start);
    long made = atomic_fetch_add(&s->made, 1) + 1;
    bool go_on = made < s->links || atomic_load(&s->served) < s->outsiders;
    if (right && go_on)
        right = submit_link(c);
    if (!right)
        atomic_fetch_add(&s->wrong, 1);
    if (!right || !go_on) {
        atomic_store(&s->over, true);
        latch_hit(&s->ended);
    }
}

typedef struct outsider {
    struggle *all;
    uint64_t got;
    atomic_ulong called;
    unsigned long submitted;
} outsider;

static void on_outside_event(ioe_event *event, void *arg)
{
    outsider *o = arg;
    if (ioe_event_result(event) != sizeof o->got || ioe_event_free(event) != 0)
        atomic_fetch_add(&o->all->wrong, 1);
    if (atomic_fetch_add(&o->called, 1) + 1 == OUTSIDE_QUOTA)
        atomic_fetch_add(&o->all->served, 1);
}

static void *submit_from_outside(void *arg)
{
    outsider *o = arg;
    struggle *s = o->all;
    while (!atomic_load(&s->over)) {
        ioe_event *event = ioe_event_new();
        if (event == NULL || ioe_prep_read(event, s->fd, &o->got, sizeof o->got, 0) != 0 ||
            ioe_event_set_callback(event, on_outside_event, o) != 0 ||
            ioe_submit(s->ctx, event) != 0) {
            atomic_fetch_add(&s->wrong, 1);
            break;
        }
        o->submitted++;
    }
    return NULL;
}

static void run_chains(const delivery *how, unsigned chain_count, uint32_t queue_size,
                       unsigned long links)
{
    unsigned outsiders = how->flags & IOE_POLLED ? 0 : OUTSIDERS;
    ioe_context *ctx = new_context(how, 1, queue_size);
    /* Reads of a disk's page cache complete at once; those of a tmpfs visit a kernel thread. */
    int fd = temp_file(ON_DISK);
    struggle *s = calloc(1, sizeof *s);
    outsider *others = calloc(OUTSIDERS, sizeof *others);
    chain chains[MAX_CHAINS];
    pthread_t threads[OUTSIDERS];
    assert_true(s != NULL && others != NULL && chain_count <= MAX_CHAINS);
    *s = (struggle){.ctx = ctx,
                    .fd = fd,
                    .outsiders = outsiders,
                    .links = (long)links,
                    .ended = LATCH_INIT};
    assert_int_equal(write(fd, "8 bytes.", sizeof chains[0].got), sizeof chains[0].got);
    for (unsigned c = 0; c < chain_count; c++) {
        chains[c] = (chain){.all = s, .event = ioe_event_new()};
        assert_int_equal(ioe_event_set_callback(chains[c].event, on_link, &chains[c]), 0);
    }
    chains[0].to_start = chain_count - 1;
    assert_true(submit_link(&chains[0]));
    for (unsigned t = 0; t < outsiders; t++) {
        others[t].all = s;
        threads[t] = start_thread(submit_from_outside, &others[t]);
    }
    await(ctx, how, &s->ended, chain_count);
    for (unsigned t = 0; t < outsiders; t++)
        join_thread(threads[t]);
    ASSERT_CALL(ioe_context_free(ctx), 0);

    assert_int_equal(atomic_load(&s->wrong), 0);
    assert_true(atomic_load(&s->made) >= s->links);
    for (unsigned t = 0; t < outsiders; t++) {
        assert_int_equal(atomic_load(&others[t].called), others[t].submitted);
        assert_true(others[t].submitted >= OUTSIDE_QUOTA);
    }
    for (unsigned c = 0; c < chain_count; c++)
        assert_int_equal(ioe_event_free(chains[c].event), 0);
    free(others);
    free(s);
    close(fd);
}

/* The smallest queue there is. A link that is handed to another thread and back takes its time. */
static void one_chain_among_outsiders(void **state)
{
    const delivery *how = *state;
    bool handed_over = how->workers > 1 || tested_driver != IOE_DRIVER_URING;
    run_chains(how, 1, 1, scaled(handed_over ? 50000 : 1000000));
}

static void chains_among_outsiders(void **state)
{
    run_chains(*state, MAX_CHAINS, 2 * MAX_CHAINS, scaled(200000));
}

/* What callbacks submit is never refused, and must not keep the queue full for all others. */
static void chains_that_fill_the_queue(void **state)
{
    run_chains(*state, MAX_CHAINS, MAX_CHAINS / 2, scaled(100000));
}

/* ---- a waiting caller holds what the only callback wants ---- */

typedef struct contended {
    pthread_mutex_t mutex;
    latch entered;
    latch left;
} contended;

static void take_the_mutex(ioe_event *event, void *arg)
{
    contended *c = arg;
    (void)event;
    latch_hit(&c->entered);
    pthread_mutex_lock(&c->mutex);
    pthread_mutex_unlock(&c->mutex);
    latch_hit(&c->left);
}

static void waiter_holding_the_callbacks_mutex(void **state)
{
    const delivery *how = *state;
    enum { LENGTH = 8192 };
    static uint8_t written[LENGTH];
    static uint8_t read_back[LENGTH];
    ioe_context *ctx = new_context(how, 1, 1);
    int fd = temp_file(IN_MEMORY);
    contended c = {PTHREAD_MUTEX_INITIALIZER, LATCH_INIT, LATCH_INIT};
    ioe_event *blocked = ioe_event_new();
    ioe_event *filler = ioe_event_new();
    ioe_event *event = ioe_event_new();
    pattern_fill(written, LENGTH, 1, 0);

    pthread_mutex_lock(&c.mutex);
    assert_int_equal(ioe_prep_fsync(blocked, fd), 0);
    assert_int_equal(ioe_event_set_callback(blocked, take_the_mutex, &c), 0);
    ASSERT_CALL(ioe_submit(ctx, blocked), 0);
    latch_wait(&c.entered, 1);
    /* The callback thread is inside, and the one place in the queue is taken too. */
    assert_int_equal(ioe_prep_fsync(filler, fd), 0);
    assert_int_equal(ioe_event_set_callback(filler, hit_latch, &c.left), 0);
    ASSERT_CALL(ioe_try_submit(ctx, filler), 0);

    assert_int_equal(ioe_prep_fallocate(event, fd, 0, 0, 2 * LENGTH), 0);
    ASSERT_CALL(ioe_submit_wait(ctx, event), 0);
    assert_int_equal(ioe_prep_write(event, fd, written, LENGTH, 0), 0);
    ASSERT_CALL(ioe_submit_wait(ctx, event), LENGTH);
    assert_int_equal(ioe_prep_fsync(event, fd), 0);
    ASSERT_CALL(ioe_submit_wait(ctx, event), 0);
    assert_int_equal(ioe_prep_fdatasync(event, fd), 0);
    ASSERT_CALL(ioe_submit_wait(ctx, event), 0);
    assert_int_equal(ioe_prep_read(event, fd, read_back, LENGTH, 0), 0);
    ASSERT_CALL(ioe_submit_wait(ctx, event), LENGTH);
    assert_true(pattern_holds(read_back, LENGTH, 1, 0));
    assert_int_equal(latch_count(&c.left), 0);

    pthread_mutex_unlock(&c.mutex);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(latch_count(&c.left), 2);
    assert_int_equal(ioe_event_free(blocked), 0);
    assert_int_equal(ioe_event_free(filler), 0);
    assert_int_equal(ioe_event_free(event), 0);
    close(fd);
}

/* ---- a slow callback holds back those who submit ---- */

#define ROOM 8

typedef struct crowd {
    ioe_context *ctx;
    int fd;
    unsigned long each;
    atomic_ulong called;
    atomic_uint running;
    atomic_uint wrong;
} crowd;

static void on_crowd_event(ioe_event *event, void *arg)
{
    crowd *c = arg;
    if (ioe_event_result(event) != 0 || ioe_event_free(event) != 0)
        atomic_fetch_add(&c->wrong, 1);
    atomic_fetch_add(&c->called, 1);
}

static void *submit_in_the_crowd(void *arg)
{
    crowd *c = arg;
    for (unsigned long i = 0; i < c->each; i++) {
        ioe_event *event = ioe_event_new();
        if (event == NULL || ioe_prep_fsync(event, c->fd) != 0 ||
            ioe_event_set_callback(event, on_crowd_event, c) != 0 ||
            ioe_submit(c->ctx, event) != 0) {
            atomic_fetch_add(&c->wrong, 1);
            break;
        }
    }
    atomic_fetch_sub(&c->running, 1);
    return NULL;
}

static void slow_callbacks_hold_submitters_back(void **state)
{
    const delivery *how = *state;
    unsigned callers = how->workers == 0 ? 1 : how->workers;
    ioe_context *ctx = new_context(how, 4, ROOM);
    crowd c = {.ctx = ctx, .fd = temp_file(IN_MEMORY), .each = scaled(5000)};
    gate g = GATE_INIT;
    ioe_event *holders[8];
    pthread_t threads[OUTSIDERS];
    assert_true(callers <= COUNT_OF(holders));
    for (unsigned i = 0; i < callers; i++) {
        holders[i] = ioe_event_new();
        assert_int_equal(ioe_prep_fsync(holders[i], c.fd), 0);
        assert_int_equal(ioe_event_set_callback(holders[i], hold_at_gate, &g), 0);
        ASSERT_CALL(ioe_submit(ctx, holders[i]), 0);
    }
    latch_wait(&g.entered, callers);
    atomic_store(&c.running, OUTSIDERS);
    for (unsigned t = 0; t < OUTSIDERS; t++)
        threads[t] = start_thread(submit_in_the_crowd, &c);

    /* Nothing moves on while every callback thread is held, so this state comes and stays. */
    while (get_stats(ctx).in_flight < ROOM)
        sched_yield();
    for (unsigned look = 0; look < 1000; look++) {
        ioe_stats stats = get_stats(ctx);
        assert_int_equal(stats.in_flight, ROOM);
        assert_int_equal(stats.accepted, callers + ROOM);
        assert_int_equal(stats.completed, callers);
    }
    assert_int_equal(atomic_load(&c.called), 0);

    latch_hit(&g.opened);
    uint64_t highest = 0;
    while (atomic_load(&c.running) > 0) {
        ioe_stats stats = get_stats(ctx);
        highest = stats.in_flight > highest ? stats.in_flight : highest;
        sched_yield();
    }
    for (unsigned t = 0; t < OUTSIDERS; t++)
        join_thread(threads[t]);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ioe_stats stats = get_stats(ctx);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_true(highest <= ROOM);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(stats.accepted, callers + OUTSIDERS * c.each);
    assert_int_equal(stats.completed, stats.accepted);
    assert_int_equal(stats.failed, 0);
    assert_int_equal(atomic_load(&c.called), OUTSIDERS * c.each);
    assert_int_equal(atomic_load(&c.wrong), 0);
    for (unsigned i = 0; i < callers; i++)
        assert_int_equal(ioe_event_free(holders[i]), 0);
    close(c.fd);
}

/* ---- the counters ---- */

static void counters_add_up(void **state)
{
    const delivery *how = *state;
    enum { BLOCK = 4096, TAIL = 100, ROUNDS = 5 };
    static uint8_t buf[BLOCK];
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(IN_MEMORY);
    ioe_event *event = ioe_event_new();
    ioe_event *refused = ioe_event_new();
    struct iovec parts[2] = {{buf, 300}, {buf + 1000, 200}};
    assert_int_equal(ftruncate(fd, 16 * BLOCK + TAIL), 0);

    for (unsigned round = 0; round < ROUNDS; round++) {
        assert_int_equal(ioe_prep_read(event, fd, buf, BLOCK, round * BLOCK), 0);
        assert_int_equal(run_event(ctx, how, event), BLOCK);
        assert_int_equal(ioe_prep_write(event, fd, buf, 1000, round * BLOCK), 0);
        assert_int_equal(run_event(ctx, how, event), 1000);
        assert_int_equal(ioe_prep_writev(event, fd, parts, 2, round * BLOCK), 0);
        assert_int_equal(run_event(ctx, how, event), 500);
        assert_int_equal(ioe_prep_fsync(event, fd), 0);
        assert_int_equal(run_event(ctx, how, event), 0);
        assert_int_equal(ioe_prep_fallocate(event, fd, 0, 0, BLOCK), 0);
        assert_int_equal(run_event(ctx, how, event), 0);
        assert_int_equal(ioe_prep_read(event, -1, buf, BLOCK, 0), 0);
        assert_int_equal(run_event(ctx, how, event), -EBADF);
        assert_int_equal(ioe_prep_read(event, fd, buf, BLOCK, 16 * BLOCK), 0);
        assert_int_equal(run_event(ctx, how, event), TAIL);
        assert_int_equal(ioe_prep_read(event, fd, buf, BLOCK, 0), 0);
        ASSERT_CALL(ioe_submit_wait(ctx, event), BLOCK);
        assert_int_equal(ioe_prep_write(event, -1, buf, BLOCK, 0), 0);
        ASSERT_CALL(ioe_submit_wait(ctx, event), -EBADF);
        /* What is refused counts nowhere. */
        ASSERT_CALL(ioe_submit(ctx, refused), -EINVAL);
    }
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ioe_stats stats = get_stats(ctx);
    assert_int_equal(stats.accepted, 9 * ROUNDS);
    assert_int_equal(stats.completed, 9 * ROUNDS);
    assert_int_equal(stats.failed, 2 * ROUNDS);
    assert_int_equal(stats.bytes_read, ROUNDS * (2 * BLOCK + TAIL));
    assert_int_equal(stats.bytes_written, ROUNDS * (1000 + 500));
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(stats.merged, 0);
    assert_int_equal(stats.operations + stats.syncs_joined, stats.accepted + stats.continued);
    assert_true(stats.system_calls > 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(event), 0);
    assert_int_equal(ioe_event_free(refused), 0);
    close(fd);
}

static void in_flight_and_continued_are_counted(void **state)
{
    const delivery *how = *state;
    enum { PARTS = 3 };
    ioe_context *ctx = new_context(how, 8, 64);
    latch done = LATCH_INIT;
    stuck_read stuck;
    uint64_t words[PARTS] = {0};
    stuck_prepare(&stuck, hit_latch, &done);
    assert_int_equal(ioe_prep_read(stuck.event, stuck.ends[0], words, sizeof words, 0), 0);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    for (unsigned part = 0; part < PARTS; part++) {
        int unread = 1;
        ioe_stats stats = get_stats(ctx);
        assert_int_equal(stats.accepted, 1);
        assert_int_equal(stats.completed, 0);
        assert_int_equal(stats.in_flight, 1);
        assert_true(stuck_let_go(&stuck));
        /* Each part is taken before the next is there, so each but the last is a short read. */
        while (unread > 0) {
            if (how->flags & IOE_POLLED)
                assert_true(ioe_poll(ctx, 0, 0) >= 0);
            else
                sched_yield();
            assert_int_equal(ioctl(stuck.ends[0], FIONREAD, &unread), 0);
        }
    }
    await(ctx, how, &done, 1);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    ioe_stats stats = get_stats(ctx);
    assert_int_equal(ioe_event_result(stuck.event), sizeof words);
    for (unsigned part = 0; part < PARTS; part++)
        assert_int_equal(words[part], 1);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(stats.completed, 1);
    assert_int_equal(stats.continued, PARTS - 1);
    assert_int_equal(stats.operations, PARTS);
    assert_int_equal(stats.bytes_read, sizeof words);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stuck_free(&stuck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(one_chain_among_outsiders),
        for_each_delivery(chains_among_outsiders),
        for_each_delivery(chains_that_fill_the_queue),
        {"waiter_holding_the_callbacks_mutex, driver thread", waiter_holding_the_callbacks_mutex,
         NULL, NULL, (void *)&deliveries[1]},
        {"waiter_holding_the_callbacks_mutex, one worker", waiter_holding_the_callbacks_mutex,
         NULL, NULL, (void *)&deliveries[2]},
        for_each_threaded_delivery(slow_callbacks_hold_submitters_back),
        for_each_delivery(counters_add_up),
        for_each_delivery(in_flight_and_continued_are_counted),
    };
    return RUN_TESTS(tests);
}
