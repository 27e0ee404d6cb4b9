/* What a program does with an installed library: writes a line to a file and reads it back. */
#include <io_engine.h>
#include <stdio.h>
#include <string.h>

static void keep_result(ioe_event *event, void *arg)
{
    *(int64_t *)arg = ioe_event_result(event);
}

int main(void)
{
    static const char line[] = "written and read back";
    char back[sizeof line] = "";
    int64_t result = IOE_PENDING;
    FILE *file = tmpfile();
    ioe_context *ctx = NULL;
    ioe_event *event = ioe_event_new();
    int err = ioe_context_new(NULL, &ctx);
    if (file == NULL || event == NULL || err != 0)
        return fprintf(stderr, "no file, event or context: %s\n", ioe_strerror(err)), 1;
    ioe_prep_write(event, fileno(file), line, sizeof line, 0);
    ioe_event_set_callback(event, keep_result, &result);
    err = ioe_submit(ctx, event);
    if (err == 0)
        err = ioe_drain(ctx, -1);
    if (err == 0 && result == sizeof line) {
        ioe_prep_read(event, fileno(file), back, sizeof back, 0);
        result = ioe_submit_wait(ctx, event);
    }
    ioe_event_free(event);
    ioe_context_free(ctx);
    fclose(file);
    if (err != 0 || result != sizeof line || strcmp(line, back) != 0)
        return fprintf(stderr, "%s, %lld: '%s'\n", ioe_strerror(err), (long long)result, back), 1;
    printf("%s by io_engine %s\n", back, ioe_version());
    return 0;
}
