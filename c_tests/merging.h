/*
 * What the tests of merging share: members, which are events that note what their callbacks saw, and
 * the kernel's side of a file. The library reaches that through plain calls where the pool does the
 * work: always with its own driver, and for buffered files with aio's. There the transfers are noted,
 * and one byte of the file can be a bad one.
 */
#ifndef IOE_C_TESTS_MERGING_H
#define IOE_C_TESTS_MERGING_H

#include "stuck.h"

/* ---- members ---- */

typedef struct member {
    int fd;
    int action;
    uint64_t offset;
    size_t len;
    int iovcnt; /* 0: not vectored, and iov has one segment all the same */
    const struct iovec *iov;
    ioe_event *event;
    latch *done;
    atomic_uint calls;
    int64_t result;
    uint64_t transferred;
} member;

static inline void on_member(ioe_event *event, void *arg)
{
    member *m = (member *)arg;
    m->result = ioe_event_result(event);
    m->transferred = ioe_event_transferred(event);
    atomic_fetch_add(&m->calls, 1);
    latch_hit(m->done);
}

/* Makes the event, if there is none yet, ready to be submitted. */
static inline void prepare_member(member *m)
{
    if (m->event == NULL)
        m->event = new_event();
    const struct iovec *iov = m->iov;
    const bool reads = m->action == IOE_READ;
    atomic_store(&m->calls, 0);
    m->result = IOE_PENDING;
    m->transferred = 0;
    assert_int_equal(ioe_event_set_callback(m->event, on_member, m), 0);
    if (m->iovcnt > 0)
        assert_int_equal(reads ? ioe_prep_readv(m->event, m->fd, iov, m->iovcnt, m->offset)
                               : ioe_prep_writev(m->event, m->fd, iov, m->iovcnt, m->offset),
                         0);
    else
        assert_int_equal(reads ? ioe_prep_read(m->event, m->fd, iov->iov_base, m->len, m->offset)
                               : ioe_prep_write(m->event, m->fd, iov->iov_base, m->len, m->offset),
                         0);
}

/* Neighbours in a file, each with memory of its own. */
typedef struct row {
    size_t count;
    size_t each;
    size_t gap; /* in memory, between two */
    uint8_t *memory;
    latch done;
    member *members;
    struct iovec *iov;
} row;

enum { ROW_PATTERN = 9 };

/* On the heap: a failing test leaves its events in flight. */
static inline row *new_row(int fd, int action, uint64_t offset, size_t count, size_t each,
                           size_t gap)
{
    row *r = (row *)calloc(1, sizeof *r);
    assert_non_null(r);
    r->count = count;
    r->each = each;
    r->gap = gap;
    r->done = (latch)LATCH_INIT;
    r->memory = (uint8_t *)ioe_buffer_alloc(count * (each + gap) + 1, 0);
    r->members = (member *)calloc(count, sizeof *r->members);
    r->iov = (struct iovec *)calloc(count, sizeof *r->iov);
    assert_true(r->memory != NULL && r->members != NULL && r->iov != NULL);
    for (size_t i = 0; i < count; i++) {
        member *m = &r->members[i];
        r->iov[i].iov_base = r->memory + i * (each + gap);
        r->iov[i].iov_len = m->len = each;
        m->iov = &r->iov[i];
        m->fd = fd;
        m->action = action;
        m->offset = offset + i * each;
        m->done = &r->done;
        if (action == IOE_WRITE)
            pattern_fill(r->iov[i].iov_base, each, ROW_PATTERN, m->offset);
        prepare_member(m);
    }
    return r;
}

/* What a row of reads expects to find; and nothing, where one of writes is to show what it wrote. */
static inline void ready_file(int fd, int action, uint64_t offset, size_t len)
{
    uint8_t *bytes = (uint8_t *)malloc(len);
    assert_non_null(bytes);
    pattern_fill(bytes, len, ROW_PATTERN, offset);
    assert_int_equal(ftruncate(fd, 0), 0);
    if (action == IOE_READ)
        assert_int_equal(pwrite(fd, bytes, len, (off_t)offset), len);
    free(bytes);
}

static inline void check_member(const row *r, size_t i, int64_t result, uint64_t transferred)
{
    const member *m = &r->members[i];
    uint8_t bytes[65536];
    const uint8_t *moved = (const uint8_t *)m->iov->iov_base;
    if (atomic_load(&m->calls) != 1 || m->result != result || m->transferred != transferred)
        print_error("# member %zu of %zu: %lld, expected %lld\n", i, r->count, (long long)m->result,
                    (long long)result);
    assert_int_equal(atomic_load(&m->calls), 1);
    assert_int_equal(m->result, result);
    assert_int_equal(m->transferred, transferred);
    if (m->action == IOE_WRITE && transferred > 0) {
        /* By a descriptor that can read. */
        int fd = open_again(m->fd, O_RDONLY);
        assert_true(fd >= 0 && transferred <= sizeof bytes);
        assert_int_equal(pread(fd, bytes, transferred, (off_t)m->offset), transferred);
        close(fd);
        moved = bytes;
    }
    assert_true(pattern_holds(moved, transferred, ROW_PATTERN, m->offset));
    for (size_t at = transferred; m->action == IOE_READ && at < m->len + r->gap; at++)
        assert_int_equal(((const uint8_t *)m->iov->iov_base)[at], 0);
}

static inline void check_row(const row *r)
{
    for (size_t i = 0; i < r->count; i++)
        check_member(r, i, (int64_t)r->each, r->each);
}

static inline void batch_row(ioe_context *ctx, const row *r)
{
    ioe_event **events = (ioe_event **)calloc(r->count, sizeof *events);
    assert_non_null(events);
    for (size_t i = 0; i < r->count; i++)
        events[i] = r->members[i].event;
    assert_int_equal(ioe_submit_batch(ctx, events, r->count), r->count);
    free(events);
}

static inline void add_row(ioe_merger *merger, const row *r)
{
    for (size_t i = 0; i < r->count; i++)
        ASSERT_CALL(ioe_merger_add(merger, r->members[i].event), 0);
}

static inline void free_row(row *r)
{
    for (size_t i = 0; i < r->count; i++)
        assert_int_equal(ioe_event_free(r->members[i].event), 0);
    ioe_buffer_free(r->memory);
    free(r->members);
    free(r->iov);
    free(r);
}

static inline ioe_merger *new_merger(ioe_context *ctx, int fd, int action, size_t limit)
{
    ioe_merger *merger = NULL;
    assert_int_equal(ioe_merger_new(ctx, fd, action, limit, &merger), 0);
    assert_non_null(merger);
    return merger;
}

/* ---- the kernel's side ---- */

typedef struct bad_byte {
    uint64_t at;
    int error;  /* what a transfer that begins there is answered; 0: nothing */
    bool whole; /* one that begins earlier has the same answer, else it ends short of the byte */
    unsigned times; /* so many errors, then the byte is good */
} bad_byte;

#define FOR_EVER UINT32_MAX

typedef struct watched {
    pthread_mutex_t mutex;
    int fds[2];
    bad_byte bad;
    size_t longest; /* where not 0, longer transfers come back short */
    bool all_wait;  /* nothing can be done at once: each operation is one call */
    size_t count;
    struct {
        plain_transfer t;
        ssize_t answer;
    } log[16384];
} watched;

static watched kernel = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fds = {-1, -1}};

static inline ssize_t judge_transfer(const plain_transfer *t)
{
    bad_byte *bad = &kernel.bad;
    if (kernel.all_wait && t->at_once)
        return -EAGAIN;
    if (bad->times > 0 && t->offset <= bad->at && bad->at - t->offset < t->len) {
        if (!bad->whole && bad->at > t->offset)
            return (ssize_t)(bad->at - t->offset);
        if (bad->error != 0 && t->at_once)
            return -EAGAIN;
        if (bad->error != 0) {
            bad->times -= bad->times != FOR_EVER;
            return -bad->error;
        }
    }
    return (ssize_t)(kernel.longest > 0 && t->len > kernel.longest ? kernel.longest : t->len);
}

static ssize_t watch_transfer(const plain_transfer *t)
{
    ssize_t answer = (ssize_t)t->len;
    pthread_mutex_lock(&kernel.mutex);
    if (t->fd == kernel.fds[0] || t->fd == kernel.fds[1]) {
        answer = judge_transfer(t);
        if (kernel.count < COUNT_OF(kernel.log) && !(t->at_once && answer < 0)) {
            kernel.log[kernel.count].t = *t;
            kernel.log[kernel.count].answer = answer;
            kernel.count++;
        }
    }
    pthread_mutex_unlock(&kernel.mutex);
    return answer;
}

/* From here on the transfers of the files are noted, and the byte is bad. The other one may be -1. */
static inline void watch_files(int fd, int other, bad_byte bad)
{
    pthread_mutex_lock(&kernel.mutex);
    allow_plain_transfer = watch_transfer;
    kernel.fds[0] = fd;
    kernel.fds[1] = other;
    kernel.bad = bad;
    kernel.longest = 0;
    kernel.all_wait = false;
    kernel.count = 0;
    pthread_mutex_unlock(&kernel.mutex);
}

/* What was noted stays. */
static inline void stop_watching(void)
{
    pthread_mutex_lock(&kernel.mutex);
    kernel.fds[0] = kernel.fds[1] = -1;
    pthread_mutex_unlock(&kernel.mutex);
    assert_true(kernel.count < COUNT_OF(kernel.log));
}

static inline bool plain_calls_do_the_work(void)
{
    return tested_driver != IOE_DRIVER_URING;
}

/* A write that fails with one of these is asked again, once, unless the file is synchronous. */
static inline bool is_asked_again(int error)
{
    return error == EIO || error == ENOSPC || error == EDQUOT || error == EFBIG || error == EINVAL;
}

#endif
