/* Two archives that are written in Rust, in one program. */
#include <inttypes.h>
#include <io_engine.h>
#include <stdio.h>

uint64_t caught(uint64_t number);

int main(void)
{
    ioe_context *ctx = NULL;
    const int err = ioe_context_new(NULL, &ctx);
    printf("%d, %" PRIu64 ", %" PRIu64 "\n", err, caught(0), caught(1));
    return ioe_context_free(ctx);
}
