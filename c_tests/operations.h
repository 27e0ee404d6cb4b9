/*
 * What the library asks of the kernel, operation by operation, the same on every driver: those of a
 * watched file are noted, and on demand held until let go, or answered with an errno. On threads of
 * the pool and callers' own they are plain calls; Linux AIO's come with io_submit(2); a ring's are in
 * its submission queue when io_uring_enter(2) is called. One of a ring that is held or answered is
 * taken out of that queue, done here, and its completion is posted by another ring
 * (IORING_OP_MSG_RING, Linux 5.18).
 *
 * The library sees what it would see of a slow or a broken disk. A test must not use a watched
 * descriptor by itself: its own calls would be noted as well.
 */
#ifndef IOE_C_TESTS_OPERATIONS_H
#define IOE_C_TESTS_OPERATIONS_H

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/mman.h>

#include "intercept.h"
#include "stuck.h"

enum { ACTIONS = IOE_ADVISE + 1, MOST_WATCHED = 16, MOST_OPERATIONS = 1 << 14, MOST_RINGS = 1024 };

#define ALL_OF_THEM UINT32_MAX

/* Lets a held operation do what it was made for. */
#define WHOLE INT64_MAX

typedef struct operation {
    int action;
    int fd;
    uint64_t offset;
    size_t len;
    int flags;    /* RWF_ */
    int priority; /* of ioprio_set(2) */
    pid_t thread; /* that handed it to the kernel */
    /* Places in the order of everything that happened; 0: not yet, or it is not known. */
    uint64_t begun, ended;
    int64_t result;
    bool held;
    /* Bytes, a negated errno, or WHOLE. */
    int64_t answer;
    bool let_go;
    /* How to do it. */
    enum { BY_CALL, BY_AIO, BY_RING } by;
    const void *memory;
    int segments; /* 0: the memory is plain */
    int mode; /* of fallocate(2), or the flags or the advice of a range */
    int ring;
    uint64_t user_data;
    aio_context_t context;
    struct iocb iocb;
} operation;

typedef struct watched_file {
    int fd;
    struct {
        unsigned holds;
        unsigned fails;
        int error;
    } next[ACTIONS];
} watched_file;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    watched_file files[MOST_WATCHED];
    size_t watching;
    bool holds_nowait; /* else reads that may not wait are taken for tries of the pool's */
    uint64_t order;
    size_t held;
    size_t count;
    operation log[MOST_OPERATIONS];
} kernels = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- what is asked for ---- */

/* What the thread has set for itself. */
static _Thread_local int own_priority;

static inline operation operation_of_call(long number, const long a[6])
{
    operation op = {.by = BY_CALL, .fd = (int)a[0], .priority = own_priority};
    switch (number) {
    case SYS_fsync:
        op.action = IOE_FSYNC;
        break;
    case SYS_fdatasync:
        op.action = IOE_FDATASYNC;
        break;
    case SYS_fallocate:
        op.action = IOE_FALLOCATE;
        op.mode = (int)a[1];
        op.offset = (uint64_t)a[2];
        op.len = (size_t)a[3];
        break;
    case SYS_sync_file_range:
    case SYS_fadvise64:
        op.action = number == SYS_fadvise64 ? IOE_ADVISE : IOE_SYNC_RANGE;
        op.offset = (uint64_t)a[1];
        op.len = (size_t)a[2];
        op.mode = (int)a[3];
        break;
    case SYS_ftruncate:
        op.action = IOE_TRUNCATE;
        op.len = (size_t)a[1];
        break;
    case SYS_pread64:
    case SYS_pwrite64:
        op.action = number == SYS_pread64 ? IOE_READ : IOE_WRITE;
        op.len = (size_t)a[2];
        op.offset = (uint64_t)a[3];
        break;
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2:
        op.action = number == SYS_preadv || number == SYS_preadv2 ? IOE_READ : IOE_WRITE;
        op.memory = (const void *)a[1];
        op.segments = (int)a[2];
        op.len = bytes_of(op.memory, op.segments);
        op.offset = (uint64_t)a[3];
        if (number == SYS_preadv2 || number == SYS_pwritev2)
            op.flags = (int)a[5];
        break;
    default:
        break;
    }
    return op;
}

static inline operation operation_of_iocb(aio_context_t context, const struct iocb *iocb)
{
    operation op = {.by = BY_AIO, .fd = (int)iocb->aio_fildes, .context = context, .iocb = *iocb};
    op.offset = (uint64_t)iocb->aio_offset;
    op.memory = (const void *)iocb->aio_buf;
    op.len = iocb->aio_nbytes;
    op.flags = iocb->aio_rw_flags;
    op.priority = iocb->aio_flags & IOCB_FLAG_IOPRIO ? iocb->aio_reqprio : 0;
    switch (iocb->aio_lio_opcode) {
    case IOCB_CMD_PREADV:
    case IOCB_CMD_PWRITEV:
        op.segments = (int)iocb->aio_nbytes;
        op.len = bytes_of(op.memory, op.segments);
        op.action = iocb->aio_lio_opcode == IOCB_CMD_PREADV ? IOE_READ : IOE_WRITE;
        break;
    case IOCB_CMD_PREAD:
    case IOCB_CMD_PWRITE:
        op.action = iocb->aio_lio_opcode == IOCB_CMD_PREAD ? IOE_READ : IOE_WRITE;
        break;
    case IOCB_CMD_FSYNC:
    case IOCB_CMD_FDSYNC:
        op.action = iocb->aio_lio_opcode == IOCB_CMD_FSYNC ? IOE_FSYNC : IOE_FDATASYNC;
        break;
    default:
        break;
    }
    return op;
}

static inline operation operation_of_entry(int ring, const struct io_uring_sqe *entry)
{
    operation op = {.by = BY_RING, .fd = entry->fd, .ring = ring, .user_data = entry->user_data};
    op.memory = (const void *)(uintptr_t)entry->addr;
    op.offset = entry->off;
    op.len = entry->len;
    op.priority = entry->ioprio;
    switch (entry->opcode) {
    case IORING_OP_READV:
    case IORING_OP_WRITEV:
        op.segments = (int)entry->len;
        op.len = bytes_of(op.memory, op.segments);
        op.flags = entry->rw_flags;
        op.action = entry->opcode == IORING_OP_READV ? IOE_READ : IOE_WRITE;
        break;
    case IORING_OP_READ:
    case IORING_OP_WRITE:
        op.flags = entry->rw_flags;
        op.action = entry->opcode == IORING_OP_READ ? IOE_READ : IOE_WRITE;
        break;
    case IORING_OP_FSYNC:
        op.action = entry->fsync_flags & IORING_FSYNC_DATASYNC ? IOE_FDATASYNC : IOE_FSYNC;
        break;
    case IORING_OP_FALLOCATE:
        op.action = IOE_FALLOCATE;
        op.mode = (int)entry->len;
        op.len = entry->addr;
        break;
    case IORING_OP_SYNC_FILE_RANGE:
        op.action = IOE_SYNC_RANGE;
        op.mode = (int)entry->sync_range_flags;
        break;
    case RING_FTRUNCATE:
        op.action = IOE_TRUNCATE;
        op.len = entry->off;
        op.offset = 0;
        break;
    case IORING_OP_FADVISE:
        op.action = IOE_ADVISE;
        op.mode = (int)entry->fadvise_advice;
        break;
    default:
        break;
    }
    return op;
}

/* ---- what becomes of it ---- */

/* Notes it where its file is watched, and decides: an answer, held, or NULL where it is not of a
 * watched file. Under the lock. */
static inline operation *note_operation(const operation *asked)
{
    watched_file *file = NULL;
    for (size_t i = 0; asked->action != IOE_NONE && i < kernels.watching; i++)
        if (kernels.files[i].fd == asked->fd)
            file = &kernels.files[i];
    if (file == NULL || kernels.count == MOST_OPERATIONS)
        return NULL;
    operation *op = &kernels.log[kernels.count++];
    *op = *asked;
    op->thread = gettid();
    op->begun = ++kernels.order;
    op->answer = WHOLE;
    op->result = IOE_PENDING;
    if (file->next[op->action].holds > 0) {
        file->next[op->action].holds -= file->next[op->action].holds != ALL_OF_THEM;
        op->held = true;
        kernels.held++;
    } else if (file->next[op->action].fails > 0) {
        file->next[op->action].fails -= file->next[op->action].fails != ALL_OF_THEM;
        op->answer = -file->next[op->action].error;
    }
    pthread_cond_broadcast(&kernels.changed);
    return op;
}

static inline void end_operation(operation *op, int64_t result)
{
    pthread_mutex_lock(&kernels.mutex);
    op->result = result;
    op->ended = ++kernels.order;
    pthread_cond_broadcast(&kernels.changed);
    pthread_mutex_unlock(&kernels.mutex);
}

/* Does it, or less of it, as its answer says. */
static inline long do_operation(const operation *op)
{
    struct iovec parts[1024] = {{(void *)(uintptr_t)op->memory, op->len}};
    int count = 1;
    if (op->answer < 0)
        return (long)op->answer;
    switch (op->action) {
    case IOE_FSYNC:
    case IOE_FDATASYNC:
        return ask_kernel(op->action == IOE_FSYNC ? SYS_fsync : SYS_fdatasync, (long[6]){op->fd});
    case IOE_FALLOCATE:
        return ask_kernel(SYS_fallocate,
                          (long[6]){op->fd, op->mode, (long)op->offset, (long)op->len});
    case IOE_SYNC_RANGE:
    case IOE_ADVISE:
        return ask_kernel(op->action == IOE_ADVISE ? SYS_fadvise64 : SYS_sync_file_range,
                          (long[6]){op->fd, (long)op->offset, (long)op->len, op->mode});
    case IOE_TRUNCATE:
        return ask_kernel(SYS_ftruncate, (long[6]){op->fd, (long)op->len});
    default:
        break;
    }
    const struct iovec *from = op->segments > 0 ? op->memory : parts;
    const size_t len = op->answer < (int64_t)op->len ? (size_t)op->answer : op->len;
    count = cut_segments(parts, from, op->segments > 0 ? op->segments : 1, len);
    return ask_kernel(op->action == IOE_READ ? SYS_preadv2 : SYS_pwritev2,
                      (long[6]){op->fd, (long)parts, count, (long)op->offset, 0, op->flags});
}

/* ---- plain calls ---- */

static inline bool answer_plain_call(long number, const long a[6], long *result)
{
    const operation asked = operation_of_call(number, a);
    pthread_mutex_lock(&kernels.mutex);
    /* What may not wait is tried once more, waiting. */
    bool tried = asked.action == IOE_READ && asked.flags & RWF_NOWAIT && !kernels.holds_nowait;
    for (size_t i = 0; tried && i < kernels.watching; i++)
        if (kernels.files[i].fd == asked.fd && kernels.files[i].next[IOE_READ].holds > 0) {
            pthread_mutex_unlock(&kernels.mutex);
            *result = -EAGAIN;
            return true;
        }
    operation *op = note_operation(&asked);
    while (op != NULL && op->held && !op->let_go)
        pthread_cond_wait(&kernels.changed, &kernels.mutex);
    pthread_mutex_unlock(&kernels.mutex);
    if (op == NULL)
        return false;
    if (op->answer < 0)
        *result = (long)op->answer;
    else if (op->answer < (int64_t)op->len && number == SYS_pwrite64)
        *result = ask_kernel(number, (long[6]){a[0], a[1], (long)op->answer, a[3]});
    else
        *result = op->answer < (int64_t)op->len ? do_operation(op) : ask_kernel(number, a);
    end_operation(op, *result);
    return true;
}

/* ---- Linux AIO ---- */

static inline long submit_iocb(aio_context_t context, struct iocb *iocb)
{
    const operation asked = operation_of_iocb(context, iocb);
    pthread_mutex_lock(&kernels.mutex);
    operation *op = note_operation(&asked);
    const bool held = op != NULL && op->held;
    pthread_mutex_unlock(&kernels.mutex);
    if (held)
        return 1;
    if (op != NULL && op->answer < 0) {
        end_operation(op, op->answer);
        return (long)op->answer;
    }
    return ask_kernel(SYS_io_submit, (long[6]){(long)context, 1, (long)&iocb});
}

/* As io_submit(2): up to the first that is refused. */
static inline long submit_iocbs(const long a[6])
{
    struct iocb **list = (struct iocb **)a[2];
    long taken = 0;
    for (; taken < a[1]; taken++) {
        long rc = submit_iocb((aio_context_t)a[0], list[taken]);
        if (rc != 1)
            return taken > 0 ? taken : rc;
    }
    return taken;
}

/* ---- io_uring ---- */

/* By descriptor, as io_uring_setup(2) filled them. */
static struct io_uring_params ring_params[MOST_RINGS];

typedef struct ring_view {
    int fd;
    const struct io_uring_params *params;
    uint8_t *queue;
    size_t queue_size;
    struct io_uring_sqe *entries;
    size_t entries_size;
} ring_view;

static inline bool map_ring(ring_view *v, int fd)
{
    *v = (ring_view){.fd = fd, .params = &ring_params[fd]};
    const struct io_uring_params *p = v->params;
    const size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    const size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    v->queue_size = sq > cq ? sq : cq;
    v->entries_size = p->sq_entries * sizeof *v->entries;
    v->queue = mmap(NULL, v->queue_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    v->entries = mmap(NULL, v->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    return v->queue != MAP_FAILED && v->entries != MAP_FAILED;
}

static inline void unmap_ring(ring_view *v)
{
    munmap(v->queue, v->queue_size);
    munmap(v->entries, v->entries_size);
}

static inline _Atomic uint32_t *ring_word(const ring_view *v, uint32_t offset)
{
    return (_Atomic uint32_t *)(void *)(v->queue + offset);
}

/* Posts a completion into another ring. */
static inline bool post_completion(int ring, uint64_t user_data, int32_t result)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static ring_view own = {.fd = -1};
    bool posted = false;
    pthread_mutex_lock(&mutex);
    if (own.fd < 0) {
        struct io_uring_params params = {0};
        long fd = ask_kernel(SYS_io_uring_setup, (long[6]){4, (long)&params});
        if (fd >= 0 && fd < MOST_RINGS) {
            ring_params[fd] = params;
            if (!map_ring(&own, (int)fd))
                own.fd = -1;
        }
    }
    if (own.fd >= 0) {
        const struct io_uring_params *p = own.params;
        const uint32_t tail = atomic_load(ring_word(&own, p->sq_off.tail));
        const uint32_t at = tail & (p->sq_entries - 1);
        own.entries[at] = (struct io_uring_sqe){.opcode = IORING_OP_MSG_RING, .fd = ring,
                                                .off = user_data, .len = (uint32_t)result};
        atomic_store(ring_word(&own, p->sq_off.array) + at, at);
        atomic_store(ring_word(&own, p->sq_off.tail), tail + 1);
        long taken;
        do
            taken = ask_kernel(SYS_io_uring_enter,
                               (long[6]){own.fd, 1, 1, IORING_ENTER_GETEVENTS, 0, 0});
        while (taken == -EINTR);
        const uint32_t head = atomic_load(ring_word(&own, p->cq_off.head));
        struct io_uring_cqe *done = (void *)(own.queue + p->cq_off.cqes);
        posted = taken == 1 && atomic_load(ring_word(&own, p->cq_off.tail)) != head &&
                 done[head & (p->cq_entries - 1)].res == 0;
        atomic_store(ring_word(&own, p->cq_off.head), head + 1);
    }
    pthread_mutex_unlock(&mutex);
    return posted;
}

static inline void post_or_say(const operation *op, long result)
{
    if (!post_completion(op->ring, op->user_data, (int32_t)result))
        dprintf(STDOUT_FILENO, "# a completion cannot be posted: the kernel lacks MSG_RING\n");
}

/* One that is held or answered goes out of the queue, leaving one that does nothing and says nothing. */
static inline void look_at_entry(int ring, struct io_uring_sqe *entry)
{
    const operation asked = operation_of_entry(ring, entry);
    pthread_mutex_lock(&kernels.mutex);
    operation *op = note_operation(&asked);
    const bool held = op != NULL && op->held;
    pthread_mutex_unlock(&kernels.mutex);
    if (op == NULL || (!held && op->answer == WHOLE))
        return;
    *entry = (struct io_uring_sqe){.opcode = IORING_OP_NOP, .flags = IOSQE_CQE_SKIP_SUCCESS, .fd = -1};
    if (!held) {
        post_or_say(op, (long)op->answer);
        end_operation(op, op->answer);
    }
}

static inline void look_at_queue(int fd, uint32_t count)
{
    ring_view v;
    if (fd < 0 || fd >= MOST_RINGS || ring_params[fd].sq_entries == 0)
        return;
    if (map_ring(&v, fd)) {
        const uint32_t tail = atomic_load(ring_word(&v, v.params->sq_off.tail));
        uint32_t at = atomic_load(ring_word(&v, v.params->sq_off.head));
        for (; at != tail && count > 0; at++, count--) {
            const uint32_t place = at & (v.params->sq_entries - 1);
            look_at_entry(fd, &v.entries[atomic_load(ring_word(&v, v.params->sq_off.array) + place)]);
        }
    }
    unmap_ring(&v);
}

/* So many calls that hand operations to a ring are refused: the queue stays as it is. */
static atomic_uint refused_entries;

static bool answer_call(long number, long a[6], long *result)
{
    pthread_mutex_lock(&kernels.mutex);
    const bool watching = kernels.watching > 0;
    pthread_mutex_unlock(&kernels.mutex);
    switch (number) {
    case SYS_io_uring_setup:
        *result = ask_kernel(number, a);
        if (*result >= 0 && *result < MOST_RINGS)
            ring_params[*result] = *(const struct io_uring_params *)a[1];
        return true;
    case SYS_io_uring_enter:
        if (a[1] > 0 && take_one(&refused_entries)) {
            *result = -EAGAIN;
            return true;
        }
        if (watching && a[1] > 0)
            look_at_queue((int)a[0], (uint32_t)a[1]);
        return false;
    case SYS_io_submit:
        if (watching && a[1] > 0)
            *result = submit_iocbs(a);
        return watching && a[1] > 0;
    case SYS_ioprio_set:
        *result = ask_kernel(number, a);
        if (*result == 0)
            own_priority = (int)a[2];
        return true;
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_fallocate:
    case SYS_sync_file_range:
    case SYS_ftruncate:
    case SYS_fadvise64:
    case SYS_pread64:
    case SYS_pwrite64:
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2:
        return watching && answer_plain_call(number, a, result);
    default:
        return false;
    }
}

/* ---- for the tests ---- */

/* From here on the operations of these files are noted; what was noted before is forgotten. Skips
 * the test where a ring's operations cannot be held. */
static inline void watch_operations(const int *fds, size_t count)
{
    assert_true(count <= MOST_WATCHED);
    if (tested_driver == IOE_DRIVER_URING) {
        struct io_uring_params params = {0};
        long fd = ask_kernel(SYS_io_uring_setup, (long[6]){4, (long)&params});
        const bool can = fd >= 0 && post_completion((int)fd, 1, 0);
        if (fd >= 0)
            close((int)fd);
        if (!can) {
            printf("# no completion can be posted into a ring: this needs Linux 5.18\n");
            skip();
        }
    }
    pthread_mutex_lock(&kernels.mutex);
    memset(kernels.files, 0, sizeof kernels.files);
    for (size_t i = 0; i < count; i++)
        kernels.files[i].fd = fds[i];
    kernels.count = kernels.held = 0;
    kernels.holds_nowait = false;
    kernels.watching = count;
    pthread_mutex_unlock(&kernels.mutex);
}

static inline void watch_one_more(int fd)
{
    pthread_mutex_lock(&kernels.mutex);
    const bool room = kernels.watching < MOST_WATCHED;
    if (room)
        kernels.files[kernels.watching++] = (watched_file){.fd = fd};
    pthread_mutex_unlock(&kernels.mutex);
    assert_true(room);
}

static inline void stop_watching_operations(void)
{
    pthread_mutex_lock(&kernels.mutex);
    const size_t held = kernels.held, count = kernels.count;
    kernels.watching = 0;
    pthread_mutex_unlock(&kernels.mutex);
    assert_int_equal(held, 0);
    assert_true(count < MOST_OPERATIONS);
}

/* How many of the next ones of an action are held. */
static inline void hold_next(int fd, int action, unsigned count)
{
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.watching; i++)
        if (kernels.files[i].fd == fd)
            kernels.files[i].next[action].holds = count;
    pthread_mutex_unlock(&kernels.mutex);
}

/* How many of the next ones that are not held have the errno for their answer. */
static inline void fail_next(int fd, int action, unsigned count, int error)
{
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.watching; i++)
        if (kernels.files[i].fd == fd) {
            kernels.files[i].next[action].fails = count;
            kernels.files[i].next[action].error = error;
        }
    pthread_mutex_unlock(&kernels.mutex);
}

/* Reads that may not wait are the program's own, and held as others are. */
static inline void hold_nowait(void)
{
    pthread_mutex_lock(&kernels.mutex);
    kernels.holds_nowait = true;
    pthread_mutex_unlock(&kernels.mutex);
}

static inline size_t count_held(void)
{
    pthread_mutex_lock(&kernels.mutex);
    const size_t held = kernels.held;
    pthread_mutex_unlock(&kernels.mutex);
    return held;
}

/* Returns when so many are held. */
static inline void await_held(ioe_context *ctx, const delivery *how, size_t count)
{
    while ((how->flags & IOE_POLLED) && count_held() < count) {
        assert_true(ioe_poll(ctx, 0, 0) >= 0);
        sched_yield();
    }
    pthread_mutex_lock(&kernels.mutex);
    while (kernels.held < count)
        pthread_cond_wait(&kernels.changed, &kernels.mutex);
    pthread_mutex_unlock(&kernels.mutex);
}

/* The held one with this number, counted from the oldest, is done or answered; the value is false
 * where there is none. */
static inline bool let_one_go(size_t number, int64_t answer)
{
    pthread_mutex_lock(&kernels.mutex);
    operation *op = NULL;
    for (size_t i = 0; i < kernels.count && op == NULL; i++)
        if (kernels.log[i].held && !kernels.log[i].let_go && number-- == 0)
            op = &kernels.log[i];
    if (op != NULL) {
        op->answer = answer;
        op->let_go = true;
        kernels.held--;
        pthread_cond_broadcast(&kernels.changed);
    }
    while (op != NULL && op->by == BY_CALL && op->ended == 0)
        pthread_cond_wait(&kernels.changed, &kernels.mutex);
    pthread_mutex_unlock(&kernels.mutex);
    if (op != NULL && op->by == BY_RING) {
        const long result = do_operation(op);
        end_operation(op, result);
        post_or_say(op, result);
    } else if (op != NULL && op->by == BY_AIO) {
        struct iocb *iocb = &op->iocb;
        end_operation(op, 0);
        return op->answer == WHOLE &&
               ask_kernel(SYS_io_submit, (long[6]){(long)op->context, 1, (long)&iocb}) == 1;
    }
    return op != NULL;
}

static inline void let_go(size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_true(let_one_go(0, WHOLE));
}

/* How many of the file's were handed to the kernel. */
static inline size_t count_operations(int fd, int action)
{
    size_t count = 0;
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.count; i++)
        count += kernels.log[i].fd == fd && kernels.log[i].action == action;
    pthread_mutex_unlock(&kernels.mutex);
    return count;
}

static inline size_t count_syncs(int fd)
{
    return count_operations(fd, IOE_FSYNC) + count_operations(fd, IOE_FDATASYNC);
}

/* The file's operation with this number; actions is a set of 1 << action. */
static inline operation find_operation(int fd, unsigned actions, size_t number)
{
    operation found = {.action = IOE_NONE};
    pthread_mutex_lock(&kernels.mutex);
    for (size_t i = 0; i < kernels.count; i++)
        if (kernels.log[i].fd == fd && actions & 1u << kernels.log[i].action && number-- == 0) {
            found = kernels.log[i];
            break;
        }
    pthread_mutex_unlock(&kernels.mutex);
    return found;
}

enum { SYNCS = 1 << IOE_FSYNC | 1 << IOE_FDATASYNC, WRITES = 1 << IOE_WRITE, READS = 1 << IOE_READ };

/* A place in the order of everything that happens. */
static inline uint64_t now_in_order(void)
{
    pthread_mutex_lock(&kernels.mutex);
    const uint64_t now = ++kernels.order;
    pthread_mutex_unlock(&kernels.mutex);
    return now;
}

/* Returns when the reactors have seen what was submitted before, and done with it what can be done:
 * another file's events come behind it, and go through. They want a slot, and flush no merger. */
static inline void pass_by(ioe_context *ctx, const delivery *how)
{
    enum { MANY = 8 }; /* so many descriptors a reactor, and each has one */
    static uint8_t byte;
    const size_t reactors = get_info(ctx).reactors, count = reactors == 1 ? 1 : MANY * reactors;
    const int file = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    ioe_event *event = new_event();
    assert_int_equal(ioe_prep_write(event, file, &byte, 1, 0), 0);
    assert_int_equal(ioe_event_set_callback(event, hit_latch, &done), 0);
    int fds[64 * MANY];
    for (size_t i = 0; i < count; i++)
        assert_true((fds[i] = dup(file)) >= 0);
    for (size_t i = 0; i < 2 * count; i++) {
        assert_int_equal(ioe_prep_write(event, fds[i % count], &byte, 1, 0), 0);
        assert_int_equal(ioe_submit(ctx, event), 0);
        while ((how->flags & IOE_POLLED) && latch_count(&done) == i) {
            assert_true(ioe_poll(ctx, 0, 0) >= 0);
            sched_yield();
        }
        latch_wait(&done, i + 1);
    }
    assert_int_equal(ioe_event_free(event), 0);
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    close(file);
}

/* Returns when the thread sleeps, and goes on sleeping while the context works. */
static inline void await_asleep(ioe_context *ctx, const delivery *how, pid_t tid)
{
    task before, after;
    do {
        while (!read_task(tid, &before) || before.run_state != 'S')
            sched_yield();
        pass_by(ctx, how);
    } while (!read_task(tid, &after) || after.run_state != 'S' || after.switches != before.switches);
}

#endif
