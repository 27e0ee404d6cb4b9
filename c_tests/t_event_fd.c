/*
 * Promise: the descriptor of a polled context wakes a loop that sleeps on it whenever ioe_poll has
 * something to hand out. No wait here has a time limit: one wake-up lost and the test hangs. Once
 * everything is handed out the descriptor is quiet, without the program ever reading it.
 */
#include "stuck.h"

#include <poll.h>
#include <sys/epoll.h>

#define BLOCK 4096
#define BLOCKS 64
#define MAX_DEPTH 32

static const delivery *const polled = &deliveries[0];

/* A program's own event loop, as small as can be. */
typedef struct loop {
    ioe_context *ctx;
    int epoll;
    int fd;
} loop;

static void loop_watch(loop *l, ioe_context *ctx)
{
    struct epoll_event interest = {.events = EPOLLIN};
    l->ctx = ctx;
    l->fd = ioe_context_fd(ctx);
    assert_true(l->fd >= 0);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    assert_true(l->epoll >= 0);
    assert_int_equal(epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->fd, &interest), 0);
}

static bool is_readable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int ready = poll(&one, 1, 0);
    assert_in_range(ready, 0, 1);
    return ready == 1;
}

/* A ring's own business in the kernel may end a sleep with EINTR, as any signal may. */
static void loop_sleep(loop *l)
{
    struct epoll_event ready;
    int count;
    do {
        count = epoll_wait(l->epoll, &ready, 1, -1);
    } while (count < 0 && errno == EINTR);
    assert_int_equal(count, 1);
}

/* Sleeps and polls in turn until the latch stands at target. The value counts empty wake-ups. */
static unsigned loop_until(loop *l, latch *done, unsigned long target)
{
    unsigned idle = 0;
    assert_true(ioe_poll(l->ctx, 0, 0) >= 0);
    while (latch_count(done) < target) {
        loop_sleep(l);
        int ran = ioe_poll(l->ctx, 0, 0);
        assert_true(ran >= 0);
        idle += ran == 0;
    }
    return idle;
}

static int file_of_blocks(place where)
{
    static uint8_t block[BLOCK];
    int fd = temp_file(where);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        pattern_fill(block, BLOCK, 5, i * BLOCK);
        assert_int_equal(pwrite(fd, block, BLOCK, (off_t)(i * BLOCK)), BLOCK);
    }
    assert_int_equal(fsync(fd), 0);
    return fd;
}

/* From the two descriptors in turn. */
static void read_in_rounds(int even, int odd, unsigned depth, unsigned long rounds)
{
    ioe_context *ctx = new_context(polled, depth, depth);
    uint8_t *bufs = ioe_buffer_alloc(MAX_DEPTH * BLOCK, 0);
    ioe_event *events[MAX_DEPTH];
    latch done = LATCH_INIT;
    loop l;
    uint64_t random = 1;
    unsigned idle = 0;
    assert_non_null(bufs);
    loop_watch(&l, ctx);
    for (size_t i = 0; i < depth; i++) {
        events[i] = ioe_event_new();
        assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
    }
    for (unsigned long round = 1; round <= rounds; round++) {
        for (size_t i = 0; i < depth; i++) {
            uint64_t offset = next_random(&random) % BLOCKS * BLOCK;
            int fd = (round + i) % 2 == 0 ? even : odd;
            assert_int_equal(ioe_prep_read(events[i], fd, bufs + i * BLOCK, BLOCK, offset), 0);
            ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
        }
        idle += loop_until(&l, &done, round * depth);
        assert_false(is_readable(l.fd));
        for (size_t i = 0; i < depth; i++) {
            assert_int_equal(ioe_event_result(events[i]), BLOCK);
            assert_int_equal(bufs[i * BLOCK], pattern_byte(5, ioe_event_offset(events[i])));
        }
    }
    printf("# depth %u: %lu rounds, %u wake-ups with nothing to hand out\n", depth, rounds, idle);
    for (size_t i = 0; i < depth; i++)
        assert_int_equal(ioe_event_free(events[i]), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(l.epoll);
    ioe_buffer_free(bufs);
}

static void buffered_reads_wake_the_loop(void **state)
{
    int fd = file_of_blocks(ON_DISK);
    (void)state;
    read_in_rounds(fd, fd, 1, scaled(20000));
    read_in_rounds(fd, fd, MAX_DEPTH, scaled(3000));
    close(fd);
}

static void direct_reads_wake_the_loop(void **state)
{
    int fd = file_of_blocks(ON_DISK);
    int direct = open_direct(fd);
    (void)state;
    read_in_rounds(direct, direct, 1, scaled(5000));
    read_in_rounds(direct, direct, MAX_DEPTH, scaled(1000));
    close(direct);
    close(fd);
}

/* AIO has the one kind and its pool the other. */
static void reads_of_both_kinds_wake_the_loop(void **state)
{
    int fd = file_of_blocks(ON_DISK);
    int direct = open_direct(fd);
    (void)state;
    read_in_rounds(direct, fd, 1, scaled(5000));
    read_in_rounds(direct, fd, MAX_DEPTH, scaled(1000));
    close(direct);
    close(fd);
}

/* ---- whenever it is asked for ---- */

enum moment { BEFORE_USE, AFTER_SUBMIT, IN_THE_KERNEL, COMPLETE_BUT_UNSEEN, MOMENTS };

static void *let_go(void *arg)
{
    return stuck_let_go(arg) ? arg : NULL;
}

static void asked_for_at_any_moment(void **state)
{
    (void)state;
    for (int moment = 0; moment < MOMENTS; moment++) {
        ioe_context *ctx = new_context(polled, 8, 8);
        latch done = LATCH_INIT;
        loop l;
        stuck_read stuck;
        void *written = NULL;
        stuck_prepare(&stuck, hit_latch, &done);
        if (moment == BEFORE_USE)
            loop_watch(&l, ctx);
        ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
        if (moment == AFTER_SUBMIT)
            loop_watch(&l, ctx);
        ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
        /* What is there already must be told to one who asks only now. */
        if (moment == COMPLETE_BUT_UNSEEN)
            assert_true(stuck_let_go(&stuck));
        if (moment == IN_THE_KERNEL || moment == COMPLETE_BUT_UNSEEN)
            loop_watch(&l, ctx);
        if (moment == COMPLETE_BUT_UNSEEN) {
            loop_sleep(&l);
            loop_until(&l, &done, 1);
        } else {
            pthread_t thread = start_thread(let_go, &stuck);
            loop_until(&l, &done, 1);
            assert_int_equal(pthread_join(thread, &written), 0);
            assert_non_null(written);
        }
        assert_false(is_readable(l.fd));
        assert_int_equal(ioe_context_fd(ctx), l.fd);
        ASSERT_CALL(ioe_context_free(ctx), 0);
        /* It went with the context. */
        assert_int_equal(fcntl(l.fd, F_GETFD), -1);
        close(l.epoll);
        stuck_free(&stuck);
    }
}

/* While something to hand out remains, the descriptor says so, however little a poll took. */
static void what_remains_is_told(void **state)
{
    enum { READS = 4 };
    ioe_context *ctx = new_context(polled, 8, 8);
    latch done = LATCH_INIT;
    stuck_read stuck[READS];
    loop l;
    (void)state;
    loop_watch(&l, ctx);
    assert_false(is_readable(l.fd));
    for (size_t i = 0; i < READS; i++) {
        stuck_prepare(&stuck[i], hit_latch, &done);
        ASSERT_CALL(ioe_submit(ctx, stuck[i].event), 0);
    }
    ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
    for (size_t i = 0; i < READS; i++) {
        assert_int_equal(latch_count(&done), i);
        assert_true(stuck_let_go(&stuck[i]));
        loop_until(&l, &done, i + 1);
        assert_false(is_readable(l.fd));
    }
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(l.epoll);
    for (size_t i = 0; i < READS; i++)
        stuck_free(&stuck[i]);
}

typedef struct succession {
    ioe_context *ctx;
    latch done;
    int fd;
    unsigned long left;
    bool failed;
} succession;

static void submit_next(ioe_event *event, void *arg)
{
    succession *n = arg;
    if (--n->left > 0)
        n->failed = n->failed || ioe_prep_fsync(event, n->fd) != 0 ||
                    ioe_submit(n->ctx, event) != 0;
    latch_hit(&n->done);
}

/* What a callback submits inside ioe_poll is not forgotten when the loop goes back to sleep. */
static void submits_from_callbacks_wake_the_loop(void **state)
{
    unsigned long links = scaled(10000);
    ioe_context *ctx = new_context(polled, 1, 1);
    succession n = {.ctx = ctx, .done = LATCH_INIT, .fd = temp_file(IN_MEMORY), .left = links};
    ioe_event *event = ioe_event_new();
    loop l;
    (void)state;
    loop_watch(&l, ctx);
    assert_int_equal(ioe_prep_fsync(event, n.fd), 0);
    assert_int_equal(ioe_event_set_callback(event, submit_next, &n), 0);
    ASSERT_CALL(ioe_submit(ctx, event), 0);
    loop_until(&l, &n.done, links);
    assert_false(n.failed);
    assert_false(is_readable(l.fd));
    assert_int_equal(ioe_event_free(event), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(l.epoll);
    close(n.fd);
}

typedef struct asker {
    ioe_context *ctx;
    ioe_event *next;
    int fd;
} asker;

/* Asks for the descriptor where the context is at work, and leaves something for it to tell. */
static void ask_inside(ioe_event *event, void *arg)
{
    asker *a = arg;
    (void)event;
    a->fd = ioe_context_fd(a->ctx);
    if (a->fd >= 0)
        a->fd = ioe_submit(a->ctx, a->next) == 0 ? a->fd : -EIO;
}

static void asked_for_in_a_callback(void **state)
{
    ioe_context *ctx = new_context(polled, 8, 8);
    asker a = {.ctx = ctx, .next = ioe_event_new()};
    latch done = LATCH_INIT;
    int file = temp_file(IN_MEMORY);
    ioe_event *event = ioe_event_new();
    (void)state;
    assert_int_equal(ioe_prep_fsync(a.next, file), 0);
    assert_int_equal(ioe_event_set_callback(a.next, hit_latch, &done), 0);
    assert_int_equal(ioe_prep_fsync(event, file), 0);
    assert_int_equal(ioe_event_set_callback(event, ask_inside, &a), 0);
    ASSERT_CALL(ioe_submit(ctx, event), 0);
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    assert_true(a.fd >= 0);
    struct pollfd p = {.fd = a.fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 30000), 1);
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    assert_int_equal(latch_count(&done), 1);
    assert_false(is_readable(a.fd));
    assert_int_equal(ioe_event_free(event), 0);
    assert_int_equal(ioe_event_free(a.next), 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(file);
}

/* A sync that waits for another one, and a barrier that waits for a write, start when that is done: the
 * owner, who sleeps by then, has to hear of it. */
static void waiting_syncs_wake_the_loop(void **state)
{
    enum { ROUNDS = 200, EVENTS = 4 };
    static const uint8_t block[BLOCK];
    int file = temp_file(IN_MEMORY);
    ioe_context *ctx = new_context(polled, 4, 16);
    ioe_event *events[EVENTS];
    latch done = LATCH_INIT;
    loop l;
    (void)state;
    loop_watch(&l, ctx);
    for (int i = 0; i < EVENTS; i++) {
        assert_non_null(events[i] = ioe_event_new());
        assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
    }
    for (unsigned long round = 1; round <= ROUNDS; round++) {
        assert_int_equal(ioe_prep_fdatasync(events[0], file), 0);
        assert_int_equal(ioe_prep_fsync(events[1], file), 0);
        assert_int_equal(ioe_prep_write(events[2], file, block, BLOCK, 0), 0);
        assert_int_equal(ioe_prep_fdatasync(events[3], file), 0);
        assert_int_equal(ioe_event_set_flags(events[3], IOE_BARRIER), 0);
        for (int i = 0; i < EVENTS; i++) {
            ASSERT_CALL(ioe_submit(ctx, events[i]), 0);
            if (round % 2 != 0)
                assert_true(ioe_poll(ctx, 0, 0) >= 0);
        }
        loop_until(&l, &done, round * EVENTS);
    }
    for (int i = 0; i < EVENTS; i++) {
        assert_int_equal(ioe_event_result(events[i]), i == 2 ? BLOCK : 0);
        assert_int_equal(ioe_event_free(events[i]), 0);
    }
    assert_false(is_readable(l.fd));
    close(l.epoll);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffered_reads_wake_the_loop),
        cmocka_unit_test(direct_reads_wake_the_loop),
        cmocka_unit_test(reads_of_both_kinds_wake_the_loop),
        cmocka_unit_test(asked_for_at_any_moment),
        cmocka_unit_test(asked_for_in_a_callback),
        cmocka_unit_test(what_remains_is_told),
        cmocka_unit_test(submits_from_callbacks_wake_the_loop),
        cmocka_unit_test(waiting_syncs_wake_the_loop),
    };
    return RUN_TESTS(tests);
}
