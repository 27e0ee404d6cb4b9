/*
 * t_enter_faults.c: whatever the kernel answers to the call that hands operations over and waits,
 * nothing is lost, nothing comes twice, and nobody waits for ever.
 *
 * Some of the io_uring_enter(2) calls are answered here.
 */
#include <sys/resource.h>

#include "intercept.h"

enum { READS = 500, DEPTH = 16 };

/* What the next calls are answered: 0 for what the kernel says. */
static atomic_uint refusals_left;
static atomic_int refusal;
/* One call in so many is refused at random; 0 for none. */
static atomic_uint one_in;
/* The next call that has more hands over so many operations, and two that follow are refused; 0
 * for all. */
static atomic_uint take_at_most;

static unsigned pseudo_random(void)
{
    static atomic_uint state = 1;
    unsigned next = atomic_load(&state) * 1664525u + 1013904223u;
    atomic_store(&state, next);
    return next >> 16;
}

static bool answer_call(long number, long a[6], long *result)
{
    if (number != SYS_io_uring_enter)
        return false;
    unsigned chance = atomic_load(&one_in);
    if (take_one(&refusals_left) || (chance > 0 && pseudo_random() % chance == 0)) {
        static const int errnos[] = {EAGAIN, EBUSY, EINTR};
        int fixed = atomic_load(&refusal);
        *result = -(fixed != 0 ? fixed : errnos[pseudo_random() % 3]);
        return true;
    }
    unsigned most = atomic_load(&take_at_most);
    if (most > 0 && a[1] > (long)most) {
        /* As the kernel does, a call that does not take all does not wait either. */
        a[1] = (long)most;
        a[2] = 0;
        atomic_store(&take_at_most, 0);
        atomic_store(&refusals_left, 2);
    }
    return false;
}

static void no_faults(void)
{
    atomic_store(&refusals_left, 0);
    atomic_store(&refusal, 0);
    atomic_store(&one_in, 0);
    atomic_store(&take_at_most, 0);
}

typedef struct read_one {
    ioe_event *event;
    uint64_t got;
    unsigned calls;
    bool wrong;
    latch *done;
} read_one;

static void on_read_one(ioe_event *event, void *arg)
{
    read_one *r = arg;
    r->calls++;
    r->wrong = ioe_event_result(event) != sizeof r->got;
    latch_hit(r->done);
}

/* Submits reads of a file in which each word holds its own number, and waits for all. */
static void read_words(ioe_context *ctx, const delivery *how, unsigned count)
{
    static uint64_t words[READS];
    static read_one reads[READS];
    latch done = LATCH_INIT;
    int fd = temp_file(ON_DISK);
    for (uint64_t i = 0; i < READS; i++)
        words[i] = i;
    assert_int_equal(write(fd, words, sizeof words), sizeof words);
    for (unsigned i = 0; i < count; i++) {
        read_one *r = &reads[i];
        *r = (read_one){.event = ioe_event_new(), .done = &done};
        assert_int_equal(ioe_prep_read(r->event, fd, &r->got, sizeof r->got, i * sizeof r->got), 0);
        assert_int_equal(ioe_event_set_callback(r->event, on_read_one, r), 0);
        ASSERT_CALL(ioe_submit(ctx, r->event), 0);
    }
    await(ctx, how, &done, count);
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(reads[i].calls, 1);
        assert_false(reads[i].wrong);
        assert_int_equal(reads[i].got, i);
        assert_int_equal(ioe_event_free(reads[i].event), 0);
    }
    close(fd);
}

static void first_calls_are_refused(void **state)
{
    static const int errnos[] = {EAGAIN, EBUSY, EINTR};
    const delivery *how = *state;
    for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++)
        /* One call is made with the context. */
        for (unsigned times = 2; times <= 4; times++) {
            no_faults();
            atomic_store(&refusal, errnos[i]);
            atomic_store(&refusals_left, times);
            ioe_context *ctx = new_context(how, DEPTH, READS);
            read_words(ctx, how, 1);
            ASSERT_CALL(ioe_context_free(ctx), 0);
        }
    no_faults();
}

static void any_call_may_be_refused(void **state)
{
    const delivery *how = *state;
    for (unsigned chance = 2; chance <= 5; chance++) {
        no_faults();
        ioe_context *ctx = new_context(how, DEPTH, READS);
        atomic_store(&one_in, chance);
        read_words(ctx, how, READS);
        no_faults();
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
}

/* The kernel takes some, then refuses the rest: a wait for all must not be one for ever. */
static void some_are_taken_and_the_rest_is_refused(void **state)
{
    const delivery *how = *state;
    for (unsigned taken = 1; taken < DEPTH; taken++) {
        no_faults();
        ioe_context *ctx = new_context(how, DEPTH, READS);
        atomic_store(&refusal, EAGAIN);
        atomic_store(&take_at_most, taken);
        read_words(ctx, how, DEPTH);
        ASSERT_CALL(ioe_context_free(ctx), 0);
    }
    no_faults();
}

typedef struct outcome {
    latch done;
    int64_t result;
    unsigned calls;
} outcome;

static void note_outcome(ioe_event *event, void *arg)
{
    outcome *o = arg;
    o->result = ioe_event_result(event);
    o->calls++;
    latch_hit(&o->done);
}

/* A refused call is made again, and the second is kept from SIGXFSZ like the first. */
static void refused_write_meets_the_file_size_limit(void **state)
{
    const delivery *how = *state;
    enum { BLOCK = 4096, LIMIT = 8192 };
    struct rlimit before, limit;
    outcome o = {.done = LATCH_INIT};
    no_faults();
    ioe_context *ctx = new_context(how, DEPTH, READS);
    int fd = temp_file(ON_DISK);
    int direct = open_direct(fd);
    void *block = ioe_buffer_alloc(BLOCK, 0);
    ioe_event *event = ioe_event_new();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = LIMIT;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(ioe_prep_write(event, direct, block, BLOCK, LIMIT), 0);
    assert_int_equal(ioe_event_set_callback(event, note_outcome, &o), 0);
    atomic_store(&refusal, EAGAIN);
    atomic_store(&refusals_left, 1);
    ASSERT_CALL(ioe_submit(ctx, event), 0);
    await(ctx, how, &o.done, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(o.result, -EFBIG);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    no_faults();
    assert_int_equal(ioe_event_free(event), 0);
    ioe_buffer_free(block);
    close(direct);
    close(fd);
}

/* A kernel that takes nothing any more is given up, sooner or later, and the pool goes on. */
static void calls_are_refused_for_ever(void **state)
{
    const delivery *how = *state;
    ioe_info info;
    no_faults();
    ioe_context *ctx = new_context(how, DEPTH, READS);
    read_words(ctx, how, DEPTH);
    atomic_store(&refusal, EAGAIN);
    atomic_store(&one_in, 1);
    read_words(ctx, how, READS);
    info = get_info(ctx);
    assert_int_equal(info.driver, IOE_DRIVER_POOL);
    assert_int_equal(info.uring_errno, EAGAIN);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    no_faults();
}

static ioe_context *logging_context;
static int answer_in_log;

static void poll_in_log(int level, const char *message, void *arg)
{
    (void)message;
    (void)arg;
    if (level == IOE_LOG_WARN)
        answer_in_log = ioe_poll(logging_context, 0, 0);
}

/* The log function may call the library, but not come back to where it was called from. */
static void poll_inside_the_log_function_is_refused(void **state)
{
    const delivery *how = *state;
    if (!(how->flags & IOE_POLLED))
        skip();
    no_faults();
    logging_context = new_context(how, DEPTH, READS);
    answer_in_log = 0;
    ioe_set_log(poll_in_log, NULL, IOE_LOG_WARN);
    atomic_store(&refusal, EAGAIN);
    atomic_store(&refusals_left, 1);
    read_words(logging_context, how, 4);
    ioe_set_log(NULL, NULL, IOE_LOG_OFF);
    assert_int_equal(answer_in_log, -EDEADLK);
    ASSERT_CALL(ioe_context_free(logging_context), 0);
    no_faults();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(first_calls_are_refused),
        for_each_delivery(any_call_may_be_refused),
        for_each_delivery(some_are_taken_and_the_rest_is_refused),
        for_each_delivery(refused_write_meets_the_file_size_limit),
        {"calls_are_refused_for_ever, one worker", calls_are_refused_for_ever, NULL, NULL,
         (void *)&deliveries[2]},
        for_each_delivery(poll_inside_the_log_function_is_refused),
    };
    setenv("IOE_DRIVER", "uring", 1);
    return RUN_TESTS(tests);
}
