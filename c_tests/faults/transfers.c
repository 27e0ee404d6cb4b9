/*
 * transfers: so many aligned O_DIRECT transfers of 4 KiB on a driver, for somebody who watches the
 * system calls. Plain and vectored, reads and writes by turns; ends with 1 where one went wrong.
 *
 *     transfers DRIVER DELIVERY COUNT FILE
 *
 * DELIVERY is the place in the array of common.h, from 0.
 */
#include "../drivers.h"

enum { BLOCK = 4096, BLOCKS = 256, DEPTH = 64 };

typedef struct walker {
    ioe_context *ctx;
    int fd;
    ioe_event *event;
    struct iovec iov[2];
    struct state {
        pthread_mutex_t mutex;
        unsigned long left, wrong;
        latch ended;
    } *state;
} walker;

/* Prepares the walker's next transfer; false at the end. */
static bool prepare_next(walker *w)
{
    pthread_mutex_lock(&w->state->mutex);
    unsigned long number = w->state->left;
    w->state->left -= number > 0;
    pthread_mutex_unlock(&w->state->mutex);
    uint64_t offset = number % BLOCKS * BLOCK;
    int rc = -1;
    if (number == 0)
        return false;
    switch (number % 4) {
    case 0: rc = ioe_prep_read(w->event, w->fd, w->iov[0].iov_base, BLOCK, offset); break;
    case 1: rc = ioe_prep_write(w->event, w->fd, w->iov[0].iov_base, BLOCK, offset); break;
    case 2: rc = ioe_prep_readv(w->event, w->fd, w->iov, 2, offset); break;
    case 3: rc = ioe_prep_writev(w->event, w->fd, w->iov, 2, offset); break;
    }
    return rc == 0;
}

static void on_transfer(ioe_event *event, void *arg)
{
    walker *w = arg;
    if (ioe_event_result(event) != BLOCK)
        __atomic_fetch_add(&w->state->wrong, 1, __ATOMIC_SEQ_CST);
    if (!prepare_next(w) || ioe_submit(w->ctx, event) != 0)
        latch_hit(&w->state->ended);
}

static int driver_of(const char *name)
{
    for (int driver = IOE_DRIVER_AUTO; driver <= IOE_DRIVER_POOL; driver++)
        if (strcmp(ioe_driver_name(driver), name) == 0)
            return driver;
    return -1;
}

int main(int argc, char **argv)
{
    static walker walkers[DEPTH];
    struct state state = {PTHREAD_MUTEX_INITIALIZER, 0, 0, LATCH_INIT};
    ioe_config cfg;
    if (argc != 5 || ioe_config_init(&cfg, sizeof cfg) != 0)
        return 2;
    const delivery *how = &deliveries[atoi(argv[2]) % (int)COUNT_OF(deliveries)];
    cfg.driver = driver_of(argv[1]);
    cfg.flags = how->flags;
    cfg.workers = how->workers;
    state.left = strtoul(argv[3], NULL, 10);
    int fd = open(argv[4], O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    uint8_t *memory = ioe_buffer_alloc((size_t)BLOCK * DEPTH, 0);
    ioe_context *ctx = NULL;
    int rc = ioe_context_new(&cfg, &ctx);
    if (fd < 0 || memory == NULL || rc != 0) {
        fprintf(stderr, "transfers: %s\n", ioe_strerror(rc != 0 ? rc : errno));
        return 1;
    }
    /* Written blocks: nothing here waits for the file system to allocate. */
    for (int i = 0; i < BLOCKS; i++)
        if (write(fd, memory, BLOCK) != BLOCK)
            return 1;
    for (size_t i = 0; i < DEPTH; i++) {
        uint8_t *at = memory + i * BLOCK;
        walkers[i] = (walker){ctx, fd, ioe_event_new(), {{at, 512}, {at + 512, BLOCK - 512}}, &state};
        if (ioe_event_set_callback(walkers[i].event, on_transfer, &walkers[i]) != 0)
            return 1;
    }
    for (size_t i = 0; i < DEPTH; i++)
        if (!prepare_next(&walkers[i]) || ioe_submit(ctx, walkers[i].event) != 0)
            return 1;
    while (how->flags & IOE_POLLED && latch_count(&state.ended) < DEPTH)
        if (ioe_poll(ctx, 1, -1) < 0)
            return 1;
    latch_wait(&state.ended, DEPTH);
    return ioe_context_free(ctx) != 0 || state.wrong != 0 || state.left != 0;
}
