/*
 * peer_pread.c: the same transfers one after the other by pread(2) and pwrite(2), on as many
 * threads as submit, each into its own buffers in turn. There is no better practice for it: no call
 * does less, and where the data is in the page cache no interface is faster for a single read.
 *
 * Its published like is the loop of pread(2) that github.com/nazq/io-uring-bench begins with: 28400
 * random 4 KiB reads a second by one thread, off an NVMe disk of 35 us. Off the disk it is the disk
 * that is measured. In the page cache it is the call, for which fio's psync is beside it (`make
 * bench-full`): 0.7 million 4 KiB reads a second, where this did 1.0.
 */
#include "peer.h"

#include <errno.h>
#include <unistd.h>

static int pread_set_up(void *part)
{
    (void)part;
    return 0;
}

static void pread_end(void *part)
{
    (void)part;
}

static int pread_run(void *part, uint64_t count)
{
    struct part *p = part;
    const struct work *w = p->progress.work;
    uint32_t slot = 0;

    p->calls += count;
    while (count-- > 0) {
        struct transfer *t = &p->transfers[slot];
        bool writes = transfer_next(t, &p->progress);
        off_t offset = (off_t)transfer_offset(t, w);
        ssize_t n = writes ? pwrite(w->fd, t->data, w->block, offset)
                           : pread(w->fd, t->data, w->block, offset);
        transfer_done(t, &p->progress, n < 0 ? -errno : n);
        slot = slot + 1 < p->depth ? slot + 1 : 0;
    }
    return 0;
}

PEER_SIDE(peer_pread, "pread", "pread(2) and pwrite(2) in a loop", struct part, pread_set_up,
          pread_run, pread_end, peer_calls);
