/*
 * event_loop.c: the engine inside a program's own epoll loop, with no thread but its own.
 *
 *     cc -o event_loop event_loop.c -lio_engine
 *     ./event_loop FILE
 *
 * Reads FILE whole, 32 reads at a time, and prints its size and checksum as `sum -s FILE` counts
 * them. Beside the context the loop serves a timer (progress on stderr, twice a second) and
 * SIGINT and SIGTERM, on which it stops reading, lets what is in flight come home, and ends.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <io_engine.h>

enum { DEPTH = 32, BLOCK = 128 * 1024 };

struct reader {
    ioe_context *ctx;
    int fd;
    uint64_t size, next; /* of the file; offset of the next read */
    uint64_t bytes;      /* read so far */
    uint32_t sum;        /* of all bytes: the order in which the blocks arrive is no matter */
    unsigned active;     /* reads in flight */
    bool stopped;
    int error; /* the first one, negated */
};

static void fail(const char *what, int err)
{
    fprintf(stderr, "event_loop: %s: %s\n", what, ioe_strerror(err));
    exit(EXIT_FAILURE);
}

static void stop(struct reader *r, int err)
{
    r->stopped = true;
    if (r->error == 0)
        r->error = err;
}

static void read_next(struct reader *r, ioe_event *event)
{
    if (r->stopped || r->next >= r->size)
        return;
    /* The event still knows its buffer: nothing else has to be kept beside it. */
    int err = ioe_prep_read(event, r->fd, ioe_event_buffer(event), BLOCK, r->next);
    if (err == 0)
        err = ioe_submit(r->ctx, event);
    if (err < 0) {
        stop(r, err);
        return;
    }
    r->next += BLOCK;
    r->active++;
}

/* Runs inside ioe_poll, on the thread of the loop: no lock is needed anywhere. */
static void on_read(ioe_event *event, void *arg)
{
    struct reader *r = arg;
    const unsigned char *data = ioe_event_buffer(event);
    int64_t n = ioe_event_result(event);

    r->active--;
    if (n < 0) {
        stop(r, (int)n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        r->sum += data[i];
    r->bytes += (uint64_t)n;
    read_next(r, event);
}

static void watch(int epoll, int fd, const char *what)
{
    struct epoll_event want = {.events = EPOLLIN, .data.fd = fd};

    if (fd < 0)
        fail(what, -errno);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &want) < 0)
        fail(what, -errno);
}

/* Sleeps without a timeout: everything that may happen arrives by a descriptor. */
static void run(struct reader *r, int epoll, int timer, int signals)
{
    while (r->active > 0) {
        /*
         * Submits what is queued and hands out what is done. Callbacks that ran may have queued
         * more: then look at the other descriptors without sleeping, and come back.
         */
        int ran = ioe_poll(r->ctx, 0, 0);
        if (ran < 0)
            fail("poll", ran);

        struct epoll_event ready[4];
        int n = epoll_wait(epoll, ready, 4, ran > 0 || r->active == 0 ? 0 : -1);
        if (n < 0 && errno != EINTR)
            fail("epoll_wait", -errno);

        for (int i = 0; i < n; i++) {
            uint64_t ticks;
            struct signalfd_siginfo info;

            if (ready[i].data.fd == timer && read(timer, &ticks, sizeof ticks) == sizeof ticks)
                fprintf(stderr, "event_loop: %" PRIu64 " of %" PRIu64 " bytes\n", r->bytes,
                        r->size);
            else if (ready[i].data.fd == signals &&
                     read(signals, &info, sizeof info) == sizeof info)
                stop(r, -EINTR);
            /* The context's own descriptor is not read: ioe_poll at the top serves it. */
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }

    struct reader r = {.fd = open(argv[1], O_RDONLY | O_CLOEXEC)};
    struct stat st;
    if (r.fd < 0 || fstat(r.fd, &st) < 0)
        fail(argv[1], -errno);
    if (!S_ISREG(st.st_mode))
        fail("only regular files can be read", -EINVAL);
    r.size = (uint64_t)st.st_size;

    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &mask, NULL);

    ioe_config config;
    ioe_config_init(&config, sizeof config);
    config.depth = DEPTH;
    config.flags = IOE_POLLED;
    int err = ioe_context_new(&config, &r.ctx);
    if (err < 0)
        fail("context", err);

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    int context = ioe_context_fd(r.ctx);
    if (context < 0)
        fail("context descriptor", context);
    watch(epoll, timer, "timer");
    watch(epoll, signals, "signals");
    watch(epoll, context, "context descriptor");
    struct itimerspec twice_a_second = {{0, 500000000}, {0, 500000000}};
    if (timerfd_settime(timer, 0, &twice_a_second, NULL) < 0)
        fail("timer", -errno);

    ioe_event *events[DEPTH];
    char *buffers = ioe_buffer_alloc((size_t)DEPTH * BLOCK, 0);
    for (int i = 0; i < DEPTH; i++) {
        events[i] = ioe_event_new();
        if (!buffers || !events[i])
            fail("memory", -ENOMEM);
        ioe_event_set_callback(events[i], on_read, &r);
        /* The first prep gives each event its buffer, which read_next takes from there. */
        err = ioe_prep_read(events[i], r.fd, buffers + (size_t)i * BLOCK, BLOCK, 0);
        if (err < 0)
            fail("read", err);
        read_next(&r, events[i]);
    }

    run(&r, epoll, timer, signals);

    ioe_context_free(r.ctx);
    for (int i = 0; i < DEPTH; i++)
        ioe_event_free(events[i]);
    ioe_buffer_free(buffers);
    close(timer);
    close(signals);
    close(epoll);
    close(r.fd);

    if (r.error < 0)
        fail(r.error == -EINTR ? "stopped by a signal" : argv[1], r.error);
    if (r.bytes != r.size)
        fail("the file changed while it was read", -EIO);
    uint32_t folded = (r.sum & 0xffff) + (r.sum >> 16);
    folded = (folded & 0xffff) + (folded >> 16);
    printf("%" PRIu64 " bytes, checksum %" PRIu32 "\n", r.bytes, folded);
    return EXIT_SUCCESS;
}
