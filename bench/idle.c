/*
 * idle.c: what contexts cost that have nothing to do, and how long it takes to make one.
 */
#include "bench.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <io_engine.h>

enum { READS = 64, BLOCK = 4096, SETTLE_MS = 200 };

struct usage {
    double cpu_seconds;
    long wake_ups;
};

/* Of all threads but the calling one: those that the library started, and the kernel for it. */
static struct usage others(void)
{
    struct timespec all, own;
    struct rusage all_switches, own_switches;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &all);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &own);
    getrusage(RUSAGE_SELF, &all_switches);
    getrusage(RUSAGE_THREAD, &own_switches);
    return (struct usage){
        (double)(all.tv_sec - own.tv_sec) + (double)(all.tv_nsec - own.tv_nsec) / 1e9,
        all_switches.ru_nvcsw - own_switches.ru_nvcsw,
    };
}

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&t, &t) < 0)
        ; /* a signal */
}

static void on_done(ioe_event *event, void *arg)
{
    if (ioe_event_result(event) < 0)
        atomic_fetch_add((_Atomic int *)arg, 1);
}

/* Reads and an fsync, so that every thread runs that a context in use has. */
static int use(ioe_context *ctx, const struct bench_file *file, char *buffers)
{
    ioe_event *events[READS + 1] = {NULL};
    _Atomic int failed = 0;
    int err = 0;

    for (uint32_t i = 0; err == 0 && i <= READS; i++) {
        int fd = i % 2 == 0 || file->direct < 0 ? file->buffered : file->direct;
        if (!(events[i] = ioe_event_new()))
            err = -ENOMEM;
        else if (i < READS)
            err = ioe_prep_read(events[i], fd, buffers + i * BLOCK, BLOCK, i * BLOCK);
        else
            err = ioe_prep_fsync(events[i], file->buffered);
        if (err == 0)
            err = ioe_event_set_callback(events[i], on_done, (void *)&failed);
        if (err == 0)
            err = ioe_submit(ctx, events[i]);
    }
    int drained = ioe_drain(ctx, -1);
    for (uint32_t i = 0; i <= READS; i++)
        ioe_event_free(events[i]);
    return err < 0 ? err : drained < 0 ? drained : failed > 0 ? -EIO : 0;
}

static uint64_t context_bytes(uint64_t before)
{
    uint64_t now = resident_bytes();

    return now > before && before != 0 ? (now - before) / IDLE_CONTEXTS : 0;
}

/* The first context brings what the process has once: it is made and freed beforehand. */
static int first_use(const ioe_config *config, const struct bench_file *file, char *buffers)
{
    ioe_context *ctx;
    int err = ioe_context_new(config, &ctx);

    if (err == 0) {
        err = use(ctx, file, buffers);
        ioe_context_free(ctx);
    }
    return err;
}

int idle_measure(struct idle *idle, int driver, const struct bench_file *file, double seconds)
{
    ioe_context *contexts[IDLE_CONTEXTS] = {NULL};
    char *buffers = buffers_new(READS, BLOCK);
    ioe_config config;

    ioe_config_init(&config, sizeof config);
    config.driver = driver;
    int err = buffers ? first_use(&config, file, buffers) : -ENOMEM;
    uint64_t resident = resident_bytes();
    for (uint32_t i = 0; err == 0 && i < IDLE_CONTEXTS; i++) {
        err = ioe_context_new(&config, &contexts[i]);
        if (err == 0)
            err = use(contexts[i], file, buffers);
    }
    if (err == 0) {
        nap(SETTLE_MS / 1e3);
        struct usage before = others();
        nap(seconds);
        struct usage after = others();
        /* The clocks of all and of one are read one after the other: a µs below 0 is none. */
        double spent = after.cpu_seconds - before.cpu_seconds;
        idle->processors = spent > 0 ? spent / seconds : 0;
        idle->wake_ups = (double)(after.wake_ups - before.wake_ups) / seconds;
        idle->memory = context_bytes(resident);
    }
    for (uint32_t i = 0; i < IDLE_CONTEXTS; i++)
        if (contexts[i])
            ioe_context_free(contexts[i]);
    free(buffers);
    return err;
}

int lives_measure(uint64_t *ns, uint32_t n, int driver)
{
    ioe_config config;
    int err = 0;

    ioe_config_init(&config, sizeof config);
    config.driver = driver;
    for (uint32_t i = 0; err == 0 && i < n; i++) {
        ioe_context *ctx;
        uint64_t start = now_ns();
        err = ioe_context_new(&config, &ctx);
        if (err == 0)
            err = ioe_context_free(ctx);
        ns[i] = now_ns() - start;
    }
    return err;
}
