/*
 * Events on neighbouring bytes of a file, and the manners in which they are handed over: those that
 * let them travel together, and one that does not.
 */
#ifndef IOE_C_TESTS_MEMBERS_H
#define IOE_C_TESTS_MEMBERS_H

#include "../drivers.h"

typedef enum manner {
    IN_TURN, /* each after the callback of the one before: never together */
    SINGLES, /* by one ioe_submit after the other */
    BATCH,   /* by one ioe_submit_batch */
    MERGER,
} manner;

static const char *const manner_names[] = {"in turn", "singles", "batch", "merger"};

/* Those that surely travel together, after the one that they are compared with. */
static const manner manners[] = {IN_TURN, BATCH, MERGER};

/* The context that a manner needs: a merger joins also where the context does not. */
static inline ioe_context *new_context_for(const way *w, manner how, uint32_t depth,
                                           uint32_t queue_size, uint32_t limit)
{
    return new_merging_context_in(w, depth, queue_size,
                                  how == SINGLES || how == BATCH ? limit : 0);
}

typedef struct member {
    ioe_event *event;
    uint8_t *memory;
    struct members *all;
    unsigned calls;
} member;

typedef struct members {
    size_t count, len;
    member *each;
    uint8_t *buffer; /* of all */
    size_t handed;   /* over, the last time */
    latch done;
} members;

static inline void on_member(ioe_event *event, void *arg)
{
    member *one = arg;
    if (event == one->event)
        __atomic_fetch_add(&one->calls, 1, __ATOMIC_SEQ_CST);
    latch_hit(&one->all->done);
}

/* Scattered: what are neighbours in the file are none in memory. */
static inline members *new_members(size_t count, size_t len, bool scattered)
{
    members *m = calloc(1, sizeof *m);
    assert_non_null(m);
    *m = (members){count, len, calloc(count, sizeof *m->each), ioe_buffer_alloc(count * len, 0),
                   0, LATCH_INIT};
    assert_true(m->each != NULL && m->buffer != NULL);
    for (size_t i = 0; i < count; i++) {
        member *one = &m->each[i];
        one->event = new_event();
        one->memory = m->buffer + (scattered ? count - 1 - i : i) * len;
        one->all = m;
        assert_int_equal(ioe_event_set_callback(one->event, on_member, one), 0);
    }
    return m;
}

static inline void free_members(members *m)
{
    for (size_t i = 0; i < m->count; i++)
        assert_int_equal(ioe_event_free(m->each[i].event), 0);
    ioe_buffer_free(m->buffer);
    free(m->each);
    free(m);
}

static inline void prepare_members(members *m, int action, int fd, uint64_t offset)
{
    for (size_t i = 0; i < m->count; i++, offset += m->len) {
        member *one = &m->each[i];
        assert_int_equal(action == IOE_READ
                             ? ioe_prep_read(one->event, fd, one->memory, m->len, offset)
                             : ioe_prep_write(one->event, fd, one->memory, m->len, offset),
                         0);
    }
}

/* What the statistics must say, where all fit into one operation. */
static inline uint64_t merged_of(const members *m, manner how)
{
    return how == IN_TURN ? 0 : m->count - 1;
}

/* Hands over all that are not whole, and does not wait. */
static inline void hand_over(ioe_context *ctx, const way *w, members *m, manner how, size_t limit)
{
    ioe_event **events = calloc(m->count, sizeof(ioe_event *));
    size_t count = 0;
    assert_non_null(events);
    m->done.count = 0;
    for (size_t i = 0; i < m->count; i++) {
        m->each[i].calls = 0;
        if (ioe_event_result(m->each[i].event) != (int64_t)m->len)
            events[count++] = m->each[i].event;
    }
    m->handed = count;
    ioe_merger *merger = NULL;
    if (how == MERGER)
        assert_int_equal(ioe_merger_new(ctx, ioe_event_fd(events[0]), ioe_event_action(events[0]),
                                        limit, &merger),
                         0);
    if (how == BATCH)
        assert_int_equal(ioe_submit_batch(ctx, events, count), count);
    for (size_t i = 0; i < count && how != BATCH; i++) {
        assert_int_equal(how == MERGER ? ioe_merger_add(merger, events[i])
                                       : ioe_submit(ctx, events[i]),
                         0);
        if (how == IN_TURN)
            await(ctx, w->how, &m->done, i + 1);
    }
    if (how == MERGER)
        assert_int_equal(ioe_merger_free(merger), 0);
    free(events);
}

/* Waits until the callbacks are over: one for each that was handed over. */
static inline void await_members(ioe_context *ctx, const way *w, members *m)
{
    size_t calls = 0;
    await(ctx, w->how, &m->done, m->handed);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    for (size_t i = 0; i < m->count; i++) {
        assert_true(m->each[i].calls <= 1);
        calls += m->each[i].calls;
    }
    assert_int_equal(calls, m->handed);
    assert_int_equal(latch_count(&m->done), m->handed);
}

/* All of it: member i at offset + i * len. */
static inline void transfer_members(ioe_context *ctx, const way *w, members *m, manner how,
                                    size_t limit, int action, int fd, uint64_t offset)
{
    prepare_members(m, action, fd, offset);
    hand_over(ctx, w, m, how, limit);
    await_members(ctx, w, m);
}

static inline void fill_members(members *m, uint64_t seed, uint64_t offset)
{
    for (size_t i = 0; i < m->count; i++)
        pattern_fill(m->each[i].memory, m->len, seed, offset + i * m->len);
}

/* The member has this result, and after a read the bytes to go with it. */
static inline void assert_member(const members *m, size_t i, int64_t result, uint64_t seed,
                                 uint64_t offset)
{
    const ioe_event *e = m->each[i].event;
    if (ioe_event_result(e) != result)
        print_message("# member %zu: %lld, %llu transferred\n", i, (long long)ioe_event_result(e),
                      (unsigned long long)ioe_event_transferred(e));
    assert_int_equal(ioe_event_result(e), result);
    if (result >= 0)
        assert_int_equal(ioe_event_transferred(e), result);
    if (ioe_event_action(e) == IOE_READ && result > 0)
        assert_true(pattern_holds(m->each[i].memory, (size_t)result, seed, offset + i * m->len));
}

/* What the members that are whole wrote is in the file, as plain calls have it. */
static inline void assert_members_in_file(const members *m, int fd, uint64_t seed, uint64_t offset)
{
    uint8_t *bytes = malloc(m->len);
    assert_non_null(bytes);
    for (size_t i = 0; i < m->count; i++) {
        uint64_t at = offset + i * m->len;
        if (ioe_event_result(m->each[i].event) != (int64_t)m->len)
            continue;
        assert_int_equal(pread(fd, bytes, m->len, (off_t)at), m->len);
        assert_true(pattern_holds(bytes, m->len, seed, at));
    }
    free(bytes);
}

#endif
