/*
 * which: the driver that IOE_DRIVER_AUTO takes here, and what ioe_context_info says of the others,
 * in one line each. Writes to a file through it and reads it back; ends with 1 where that fails.
 *
 *     which [DEPTH]
 */
#include "../drivers.h"

static void print_message_line(int level, const char *message, void *arg)
{
    (void)arg;
    printf("log %d %s\n", level, message);
}

int main(int argc, char **argv)
{
    ioe_config cfg;
    ioe_context *ctx = NULL;
    ioe_info info;
    char out[] = "which driver", in[sizeof out];
    ioe_set_log(print_message_line, NULL, IOE_LOG_INFO);
    ioe_config_init(&cfg, sizeof cfg);
    if (argc > 1)
        cfg.depth = (uint32_t)strtoul(argv[1], NULL, 10);
    int rc = ioe_context_new(&cfg, &ctx);
    if (rc != 0 || ioe_context_info(ctx, &info, sizeof info) != 0) {
        printf("refused %s\n", ioe_strerror(rc));
        return 1;
    }
    printf("driver %s\ndepth %u\nuring_errno %s\naio_errno %s\nreason %s\n",
           ioe_driver_name(info.driver), info.depth, ioe_strerror(info.uring_errno),
           ioe_strerror(info.aio_errno), info.reason);
    FILE *file = tmpfile();
    ioe_event *event = ioe_event_new();
    latch done = LATCH_INIT;
    bool fine = file != NULL && event != NULL &&
                ioe_prep_write(event, fileno(file), out, sizeof out, 0) == 0 &&
                ioe_event_set_callback(event, hit_latch, &done) == 0 && ioe_submit(ctx, event) == 0;
    if (fine) {
        latch_wait(&done, 1);
        fine = ioe_event_result(event) == sizeof out &&
               pread(fileno(file), in, sizeof in, 0) == sizeof in && memcmp(in, out, sizeof in) == 0;
    }
    printf("writes %s\n", fine ? "fine" : "not");
    return ioe_context_free(ctx) != 0 || !fine;
}
