/*
 * quickstart.c: write a block to a file, read it back, compare.
 *
 *     cc -o quickstart quickstart.c -lio_engine
 *     ./quickstart [FILE]                             (FILE is overwritten)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <io_engine.h>

static void check(const char *what, int64_t result)
{
    if (result < 0) {
        fprintf(stderr, "quickstart: %s: %s\n", what, ioe_strerror((int)result));
        exit(EXIT_FAILURE);
    }
}

/* Runs on a callback thread of the context, once for every event that was accepted. */
static void on_done(ioe_event *event, void *arg)
{
    *(int64_t *)arg = ioe_event_result(event); /* bytes, or a negated errno */
}

int main(int argc, char **argv)
{
    static char out[] = "Hello from io_engine", in[sizeof out];
    const char *path = argc > 1 ? argv[1] : "quickstart.dat";
    int64_t result = 0;
    ioe_context *ctx;
    ioe_event *event = ioe_event_new();
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

    check(path, fd < 0 ? -errno : 0);
    check("event", event ? 0 : -ENOMEM);
    check("context", ioe_context_new(NULL, &ctx)); /* NULL: all defaults */
    check("callback", ioe_event_set_callback(event, on_done, &result));

    /* Until its callback starts, the event, its buffer and its descriptor are the engine's. */
    check("write", ioe_prep_write(event, fd, out, sizeof out, 0));
    check("write", ioe_submit(ctx, event));
    check("write", ioe_drain(ctx, -1)); /* returns when the callback has returned */
    check("write", result);

    check("read", ioe_prep_read(event, fd, in, sizeof in, 0)); /* ours again: used again */
    check("read", ioe_submit(ctx, event));
    check("read", ioe_drain(ctx, -1));
    check("read", result);
    check("compare", result == sizeof in && memcmp(in, out, sizeof in) == 0 ? 0 : -EIO);

    printf("wrote and read back %lld bytes: %s\n", (long long)result, in);
    check("close", ioe_context_free(ctx));
    ioe_event_free(event);
    return close(fd) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
