/*
 * Promise: a context with nothing to do uses no CPU. Its threads are not even woken: across a wait
 * their context switches and clock ticks stand still, whether the context is new, has worked, has
 * a read in the kernel that does not end, or has callers who wait. Threads of the pool that are not
 * needed end.
 *
 * Here alone waiting is the subject of the test; the caller's poll(2) on nothing is the wait.
 */
#include "stuck.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define WAIT_MS 300
/* What was just used goes to sleep first, and the kernel's clean-up on its threads is over. On a busy
 * machine that takes longer; a thread that never sleeps fails after the most. */
#define SETTLE_MS 50
#define MAX_SETTLES 200
#define MAX_TASKS 128

static void wait_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* The threads of the process, as soon as all but this one sleep. */
static size_t read_sleeping(task *tasks)
{
    for (unsigned i = 0; i < MAX_SETTLES; i++) {
        wait_ms(SETTLE_MS);
        size_t count = read_tasks("", tasks, MAX_TASKS);
        assert_in_range(count, 1, MAX_TASKS);
        size_t asleep = 0;
        while (asleep < count && (tasks[asleep].tid == gettid() || tasks[asleep].run_state == 'S'))
            asleep++;
        if (asleep == count)
            return count;
    }
    fail_msg("a thread does not go to sleep");
    return 0;
}

/* Every thread of the process but this one stands still. */
static void assert_stillness(size_t engine_threads)
{
    task before[MAX_TASKS];
    task after;
    size_t count = read_sleeping(before);
    wait_ms(WAIT_MS);
    for (size_t i = 0; i < count; i++) {
        if (before[i].tid == gettid())
            continue;
        /* The kernel's own threads for the ring may end in the meantime; the engine's may not. */
        if (!read_task(before[i].tid, &after)) {
            assert_int_not_equal(strncmp(before[i].name, "ioe-", 4), 0);
            continue;
        }
        assert_int_equal(after.switches, before[i].switches);
        assert_int_equal(after.cpu, before[i].cpu);
    }
    assert_int_equal(read_tasks("ioe-", NULL, 0) - read_tasks("ioe-pool", NULL, 0), engine_threads);
}

static size_t threads_of(const delivery *how)
{
    return how->flags & IOE_POLLED ? 0 : usual_reactors(how->flags) + how->workers;
}

static void work_a_little(ioe_context *ctx, const delivery *how, int fd)
{
    static uint8_t buf[4096];
    ioe_event *event = ioe_event_new();
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(ioe_prep_write(event, fd, buf, sizeof buf, i % 16 * sizeof buf), 0);
        assert_int_equal(run_event(ctx, how, event), sizeof buf);
    }
    ASSERT_CALL(ioe_drain(ctx, -1), 0);
    assert_int_equal(ioe_event_free(event), 0);
}

static void idle_context_sleeps(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 32, 64);
    int fd = temp_file(IN_MEMORY);
    assert_stillness(threads_of(how));
    work_a_little(ctx, how, fd);
    assert_stillness(threads_of(how));
    ASSERT_CALL(ioe_context_free(ctx), 0);
    close(fd);
}

static void idle_shared_workers_sleep(void **state)
{
    enum { CONTEXTS = 3, THREADS = 2 };
    ioe_workers *workers = NULL;
    ioe_context *contexts[CONTEXTS];
    int fd = temp_file(IN_MEMORY);
    (void)state;
    ASSERT_CALL(ioe_workers_new(THREADS, &workers), 0);
    for (unsigned i = 0; i < CONTEXTS; i++) {
        contexts[i] = new_shared_context(workers, 32, 64);
        work_a_little(contexts[i], &deliveries[2], fd);
    }
    assert_stillness(CONTEXTS * usual_reactors(0) + THREADS);
    for (unsigned i = 0; i < CONTEXTS; i++)
        ASSERT_CALL(ioe_context_free(contexts[i]), 0);
    assert_stillness(THREADS);
    ASSERT_CALL(ioe_workers_free(workers), 0);
    close(fd);
}

/* ---- waiting for something that does not come ---- */

typedef struct waiter {
    ioe_context *ctx;
    ioe_event *event;
    atomic_int tid;
    int rc;
} waiter;

static void *wait_in_submit(void *arg)
{
    waiter *w = arg;
    atomic_store(&w->tid, gettid());
    w->rc = ioe_submit(w->ctx, w->event);
    return NULL;
}

static void *wait_in_drain(void *arg)
{
    waiter *w = arg;
    atomic_store(&w->tid, gettid());
    w->rc = ioe_drain(w->ctx, -1);
    return NULL;
}

static void waiting_callers_sleep(void **state)
{
    const delivery *how = *state;
    only_with_one_reactor(how);
    ioe_context *ctx = new_context(how, 1, 1);
    int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    stuck_read stuck;
    waiter submitter = {.ctx = ctx, .event = ioe_event_new()};
    waiter drainer = {.ctx = ctx};
    work_a_little(ctx, how, fd);
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    assert_stillness(threads_of(how));

    assert_int_equal(ioe_prep_fsync(submitter.event, fd), 0);
    assert_int_equal(ioe_event_set_callback(submitter.event, hit_latch, &done), 0);
    pthread_t submitting = start_thread(wait_in_submit, &submitter);
    pthread_t draining = start_thread(wait_in_drain, &drainer);
    while (atomic_load(&submitter.tid) == 0 || atomic_load(&drainer.tid) == 0)
        sched_yield();
    assert_stillness(threads_of(how));
    assert_int_equal(latch_count(&done), 0);

    assert_true(stuck_let_go(&stuck));
    join_thread(submitting);
    join_thread(draining);
    assert_int_equal(submitter.rc, 0);
    assert_int_equal(drainer.rc, 0);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(latch_count(&done), 2);
    assert_int_equal(ioe_event_free(submitter.event), 0);
    stuck_free(&stuck);
    close(fd);
}

static int64_t own_cpu_us(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_THREAD, &usage), 0);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) +
           usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

/* The caller of a poll that waits is the context's only thread, and sleeps through the wait. */
static void waiting_poll_sleeps(void **state)
{
    const delivery *how = &deliveries[0];
    ioe_context *ctx = new_context(how, 8, 8);
    latch done = LATCH_INIT;
    stuck_read stuck;
    (void)state;
    stuck_prepare(&stuck, hit_latch, &done);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
    int64_t before = own_cpu_us();
    ASSERT_CALL(ioe_poll(ctx, 1, WAIT_MS), 0);
    ASSERT_CALL(ioe_drain(ctx, WAIT_MS), -ETIMEDOUT);
    assert_true(own_cpu_us() - before < WAIT_MS * 1000 / 10);
    assert_true(stuck_let_go(&stuck));
    ASSERT_CALL(ioe_poll(ctx, 1, -1), 1);
    assert_int_equal(latch_count(&done), 1);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    stuck_free(&stuck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(idle_context_sleeps),
        cmocka_unit_test(idle_shared_workers_sleep),
        for_each_threaded_delivery(waiting_callers_sleep),
        cmocka_unit_test(waiting_poll_sleeps),
    };
    return RUN_TESTS(tests);
}
