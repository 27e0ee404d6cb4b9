/*
 * peer_commit.c: a record appended and made durable, as programs do it without this library: an
 * fdatasync(2) for each record, by the thread or through a ring, and one for a group of them.
 *
 * The published like of the first is pg_test_fsync of PostgreSQL: 609 times a second 8 KiB and an
 * fdatasync, one behind the other, on a disk for desktops
 * (tanelpoder.com/posts/using-pg-test-fsync-for-testing-low-latency-writes). It is the disk's flush
 * that is measured. Of groups nothing is published that leaves the database's own work out.
 */
#include "commit.h"

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#if __has_include(<liburing.h>)
#include <liburing.h>
#endif

/* ---- common -------------------------------------------------------------------------------- */

static int cannot(const char *what, int err)
{
    fprintf(stderr, "bench: %s cannot be set up: %s\n", what, strerror(-err));
    return err;
}

static int write_record(const struct commits *c, uint32_t thread, uint64_t record)
{
    const struct work *w = c->progress.work;
    ssize_t n = pwrite(w->fd, commit_stamped(c, thread, record), w->block,
                       (off_t)commit_offset(c, record));

    return n == (ssize_t)w->block ? 0 : n < 0 ? -errno : -EIO;
}

static int sync_file(struct commits *c)
{
    commit_count_sync(c);
    return fdatasync(c->progress.work->fd) < 0 ? -errno : 0;
}

#define SIDE(side_name, side_what, side_open, side_close)                                          \
    {                                                                                              \
        .name = side_name, .what = side_what, .open = side_open, .run = commits_run,               \
        .max_threads = MAX_COMMITTERS,                                                             \
        .syncs = commits_syncs, .progress = commits_progress, .close = side_close,                 \
    }

/* ---- each thread for itself ------------------------------------------------------------------ */

static int alone_commit(struct commits *c, uint32_t thread, uint64_t record)
{
    int err = write_record(c, thread, record);

    return err < 0 ? err : sync_file(c);
}

static void alone_close(void *self)
{
    commits_end(self);
    free(self);
}

static void *alone_open(const struct work *work)
{
    struct commits *c = side_new(sizeof *c);
    int err = c ? commits_start(c, work, alone_commit) : -ENOMEM;

    if (err == 0)
        return c;
    cannot("fdatasync", err);
    free(c);
    return NULL;
}

const struct side peer_commit_alone =
    SIDE("fdatasync", "each thread: pwrite, fdatasync", alone_open, alone_close);

/* ---- a group, by hand ------------------------------------------------------------------------ */

/*
 * Leader and followers, as databases do it: a thread with a record that finds nobody syncing syncs
 * for all who are there by then; who comes while it does waits for the next group, whose leader
 * is the first of them. (RocksDB: JoinBatchGroup and ExitAsBatchGroupLeader in
 * db/write_thread.cc. PostgreSQL: XLogFlush in xlog.c, where LWLockAcquireOrWait either makes a
 * backend the one that flushes, or lets it wait for another's flush.) What makes it good:
 *
 * - Each waits on what is its own (in PostgreSQL a semaphore of the process, in RocksDB a condition
 *   variable of the writer): the leader wakes its followers and nobody else, and nobody wakes to
 *   find that it was for another. Semaphores, because they were faster: condition variables of
 *   their own did 0.93 of it, side by side.
 * - The next leader is woken first, so that the disk waits least, and takes its group when it runs,
 *   not when it was named: whoever is there by then is in it.
 * - The lock is held to change a list of pointers, never while writing, syncing or waking.
 *
 * In one way each thread writes its record before it comes; in the other, RocksDB's, the leader
 * writes those of the group, neighbours together: fewer system calls, where a program can leave its
 * records to others.
 */
struct member {
    struct member *next;
    bool leads; /* else its record is dealt with */
    int result;
    sem_t woken;
    char *data;
    uint64_t record;
};

struct group {
    struct commits commits;
    bool leader_writes;
    pthread_mutex_t lock;
    bool syncing; /* somebody leads, or was named to */
    struct member *first, **last; /* who is in no group yet */
    struct member *members;
    struct member **sorted; /* the leader's, by record */
    struct iovec *segments;
};

static void wake(struct member *m, bool leads, int result)
{
    m->leads = leads;
    m->result = result;
    sem_post(&m->woken);
}

static int write_neighbours(struct group *g, uint32_t from, uint32_t to)
{
    const struct work *w = g->commits.progress.work;

    for (uint32_t i = from; i < to; i++)
        g->segments[i - from] = (struct iovec){g->sorted[i]->data, w->block};
    ssize_t n = pwritev(w->fd, g->segments, (int)(to - from),
                        (off_t)commit_offset(&g->commits, g->sorted[from]->record));
    return n == (ssize_t)((to - from) * w->block) ? 0 : n < 0 ? -errno : -EIO;
}

static int write_group(struct group *g, struct member *group)
{
    const struct commits *c = &g->commits;
    uint32_t n = 0, from = 0;
    int err = 0;

    for (struct member *m = group; m; m = m->next) { /* nearly in order */
        uint32_t at = n++;
        for (; at > 0 && g->sorted[at - 1]->record > m->record; at--)
            g->sorted[at] = g->sorted[at - 1];
        g->sorted[at] = m;
    }
    for (uint32_t i = 1; err == 0 && i <= n; i++)
        if (i == n || commit_offset(c, g->sorted[i]->record) !=
                          commit_offset(c, g->sorted[i - 1]->record) + c->progress.work->block) {
            err = write_neighbours(g, from, i);
            from = i;
        }
    return err;
}

static int lead(struct group *g, struct member *me)
{
    pthread_mutex_lock(&g->lock);
    struct member *group = g->first;
    g->first = NULL;
    g->last = &g->first;
    pthread_mutex_unlock(&g->lock);

    int result = g->leader_writes ? write_group(g, group) : 0;
    if (result == 0)
        result = sync_file(&g->commits);

    pthread_mutex_lock(&g->lock);
    struct member *heir = g->first;
    g->syncing = heir != NULL;
    pthread_mutex_unlock(&g->lock);
    if (heir)
        wake(heir, true, 0);
    for (struct member *m = group, *next; m; m = next) {
        next = m->next; /* who is woken may come again at once */
        if (m != me)
            wake(m, false, result);
    }
    return result;
}

static int group_commit(struct commits *c, uint32_t thread, uint64_t record)
{
    struct group *g = (struct group *)c;
    struct member *me = &g->members[thread];
    int err = g->leader_writes ? 0 : write_record(c, thread, record);

    if (err < 0)
        return err;
    if (g->leader_writes)
        me->data = commit_stamped(c, thread, record);
    me->record = record;
    me->next = NULL;
    pthread_mutex_lock(&g->lock);
    bool leads = !g->syncing;
    g->syncing = true;
    *g->last = me;
    g->last = &me->next;
    pthread_mutex_unlock(&g->lock);
    if (leads)
        return lead(g, me);
    while (sem_wait(&me->woken) < 0)
        ; /* a signal */
    return me->leads ? lead(g, me) : me->result;
}

static void group_close(void *self)
{
    struct group *g = self;

    commits_end(&g->commits);
    for (uint32_t i = 0; g->members && i < g->commits.progress.work->threads; i++)
        sem_destroy(&g->members[i].woken);
    pthread_mutex_destroy(&g->lock);
    free(g->members);
    free(g->sorted);
    free(g->segments);
    free(g);
}

static void *group_new(const struct work *work, bool leader_writes)
{
    struct group *g = side_new(sizeof *g);

    if (!g) {
        cannot("a group by hand", -ENOMEM);
        return NULL;
    }
    g->commits.progress.work = work;
    g->leader_writes = leader_writes;
    g->last = &g->first;
    pthread_mutex_init(&g->lock, NULL);
    g->members = calloc(work->threads, sizeof *g->members);
    g->sorted = calloc(work->threads, sizeof *g->sorted);
    g->segments = calloc(work->threads, sizeof *g->segments);
    for (uint32_t i = 0; g->members && i < work->threads; i++)
        sem_init(&g->members[i].woken, 0, 0);
    int err = g->members && g->sorted && g->segments
                  ? commits_start(&g->commits, work, group_commit)
                  : -ENOMEM;
    if (err == 0)
        return g;
    cannot("a group by hand", err);
    group_close(g);
    return NULL;
}

static void *group_open(const struct work *work)
{
    return group_new(work, false);
}

static void *group_open_writing(const struct work *work)
{
    return group_new(work, true);
}

const struct side peer_commit_group =
    SIDE("group", "each thread: pwrite; fdatasync by a leader for its group, by hand", group_open,
         group_close);
const struct side peer_commit_group_writing =
    SIDE("group-w", "the same, the leader writes as well: one pwritev of the group",
         group_open_writing, group_close);

/* ---- through a ring -------------------------------------------------------------------------- */

#if __has_include(<liburing.h>)

/*
 * A ring for each thread, so that none waits for another's lock: the write with the fdatasync
 * linked behind it, handed over and waited for in one system call. Without the flags of
 * peer_uring.c, which want the thread that makes a ring to be the one that uses it: the sync goes to
 * a thread of the kernel's in any case, and the flush takes a thousand times what they save.
 */
struct rings {
    struct commits commits;
    struct io_uring *rings;
    uint32_t n_rings;
};

static int rings_commit(struct commits *c, uint32_t thread, uint64_t record)
{
    enum { PARTS = 2 };
    const struct work *w = c->progress.work;
    struct io_uring *ring = &((struct rings *)c)->rings[thread];
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring); /* never NULL: room for both */
    const int wanted[PARTS] = {(int)w->block, 0};

    io_uring_prep_write(sqe, w->fd, commit_stamped(c, thread, record), w->block,
                        commit_offset(c, record));
    io_uring_sqe_set_data64(sqe, 0);
    sqe->flags |= IOSQE_IO_LINK;
    sqe = io_uring_get_sqe(ring);
    io_uring_prep_fsync(sqe, w->fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(sqe, 1);
    commit_count_sync(c);
    int err = io_uring_submit_and_wait(ring, PARTS);
    if (err < 0)
        return err;
    err = 0;
    for (int i = 0; i < PARTS; i++) {
        struct io_uring_cqe *cqe;
        int waited = io_uring_wait_cqe(ring, &cqe); /* there already */
        if (waited < 0)
            return waited;
        if (cqe->res != wanted[io_uring_cqe_get_data64(cqe)])
            err = cqe->res < 0 ? cqe->res : -EIO;
        io_uring_cqe_seen(ring, cqe);
    }
    return err;
}

static void rings_close(void *self)
{
    struct rings *r = self;

    commits_end(&r->commits);
    for (uint32_t i = 0; i < r->n_rings; i++)
        io_uring_queue_exit(&r->rings[i]);
    free(r->rings);
    free(r);
}

static void *rings_open(const struct work *work)
{
    enum { ENTRIES = 2 };
    struct rings *r = side_new(sizeof *r);
    int err = r ? 0 : -ENOMEM;

    if (err == 0 && !(r->rings = calloc(work->threads, sizeof *r->rings)))
        err = -ENOMEM;
    while (err == 0 && r->n_rings < work->threads) {
        err = io_uring_queue_init(ENTRIES, &r->rings[r->n_rings], 0);
        if (err == 0)
            r->n_rings++;
    }
    if (err == 0)
        err = commits_start(&r->commits, work, rings_commit);
    if (err == 0)
        return r;
    cannot("a ring for each thread", err);
    if (r)
        rings_close(r);
    return NULL;
}

const struct side peer_commit_uring =
    SIDE("commit-ring", "each thread: write and fdatasync, linked, on a ring of its own",
         rings_open, rings_close);

#else

SIDE_NOT_BUILT(peer_commit_uring, "commit-ring",
               "each thread: write and fdatasync, linked, on a ring of its own", "liburing-dev");

#endif
