/*
 * Promise: merging changes no result. Any split of any range into members, in any order, with any
 * limit, by any of the ways in which events come to wait together, gives each member the result, the
 * count and the bytes that it has without merging, in one callback; also where the file ends, where
 * transfers are short, and where one byte is bad: it fails the member that holds it and no other. A
 * write that failed is asked again once, member by member, for five errnos, and never on a
 * descriptor opened with O_SYNC or O_DSYNC, whose first error has used up the file's own: there all
 * members that were not whole have it.
 *
 * IOE_TEST_SEED chooses the histories; it is printed. IOE_TEST_ROUNDS says how many run with each
 * delivery.
 */
#include <inttypes.h>
#include <sys/mman.h>

#include "merging.h"

enum {
    MOST = 1300,             /* members of a history */
    MOST_SEGMENTS = 8 * MOST,
    ARENA = 3 << 20,         /* memory of all members */
    FILE_MAX = 1 << 20,
    CANARY = 0xA5,
    FIRST = 1,               /* seeds of patterns: the file's, and that of writes */
    WRITTEN = 2,
    LIMITS = 5,              /* contexts of a test, by limit; one more does not merge */
};

static uint64_t first_seed;
static unsigned long rounds, current_round;
static bool rounds_are_chosen;

/* ---- histories ---- */

typedef enum window { SINGLY, FROM_A_THREAD, BATCHED, MERGED, BETWEEN_POLLS, WINDOWS } window;

static const char *const window_names[] = {"one by one", "while the driver is busy", "batch",
                                           "merger", "between polls"};

typedef struct outcome {
    int64_t result;
    uint64_t transferred;
} outcome;

typedef struct history {
    uint64_t random;
    int action;
    int open_flags; /* O_DSYNC, O_SYNC or none */
    bool two_files; /* two descriptors of it */
    bool overlaps;
    uint64_t first, end;  /* the range */
    uint64_t file_size;   /* before */
    bad_byte bad;
    size_t longest;
    window how;
    size_t merger_limit;
    unsigned context;
    unsigned last; /* what hands on the rest of a merger: flush, free or drain */
    size_t count;
    size_t memory; /* of the arena, in use */
    member members[MOST];
    outcome unmerged[MOST];
    struct iovec iov[MOST_SEGMENTS];
    size_t arrival[MOST]; /* numbers of members */
} history;

/* What all histories of a program share. */
static history h;
static uint8_t arena[ARENA];
static uint8_t looked_at[ARENA];
static uint8_t stored[FILE_MAX];
static uint8_t model[FILE_MAX];

/* How often it happened what this is about. */
static unsigned long merged, failed_together, asked_again, ended_inside;

static uint64_t below(uint64_t limit)
{
    return next_random(&h.random) % limit;
}

static bool one_in(unsigned chances)
{
    return below(chances) == 0;
}

/* Each order of magnitude as likely as the others. */
static uint64_t choose_size(unsigned bits)
{
    return 1 + below(UINT64_C(1) << below(bits + 1));
}

static void shuffle(size_t *numbers, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = below(i), other = numbers[i - 1];
        numbers[i - 1] = numbers[j];
        numbers[j] = other;
    }
}

static void add_member(uint64_t offset, size_t len)
{
    if (h.count == MOST)
        return;
    member *m = &h.members[h.count++];
    m->offset = offset;
    m->len = len;
    m->action = h.action;
}

/* Cuts the range, now and then leaving something out, or adding what overlaps. */
static void choose_members(void)
{
    size_t count = one_in(40) ? 1100 + below(100) : choose_size(7);
    size_t mean = choose_size(14);
    if (mean > FILE_MAX / 4 / count)
        mean = FILE_MAX / 4 / count;
    const bool gaps = one_in(5), empty = one_in(6);
    uint64_t at = h.first = below(64 * 1024);
    h.overlaps = one_in(5);
    h.count = 0;
    for (size_t i = 0; i < count; i++) {
        size_t len = 1 + below(2 * mean - 1);
        if (empty && one_in(8))
            add_member(at, 0);
        if (!gaps || !one_in(6))
            add_member(at, len);
        at += len;
    }
    h.end = at;
    for (size_t i = 0; h.overlaps && i < 1 + count / 8; i++) {
        uint64_t from = h.first + below(h.end - h.first);
        size_t left = h.end - from;
        add_member(from, 1 + below(left < 4 * mean ? left : 4 * mean));
    }
}

/* In the order of the file or another, one after the other or with gaps. */
static void give_memory(void)
{
    static size_t order[MOST];
    const bool touching = one_in(3), ordered = one_in(2);
    const unsigned vectored = one_in(2) ? 0 : 1 + below(4);
    size_t at = 1 + below(64), segments = 0;
    for (size_t i = 0; i < h.count; i++)
        order[i] = i;
    if (!ordered)
        shuffle(order, h.count);
    for (size_t i = 0; i < h.count; i++) {
        member *m = &h.members[order[i]];
        size_t left = m->len;
        m->iovcnt = vectored > 0 && one_in(vectored) ? (int)(1 + below(6)) : 0;
        m->iov = &h.iov[segments];
        const int pieces = m->iovcnt > 0 ? m->iovcnt : 1;
        for (int j = 0; j < pieces; j++) {
            size_t part = j + 1 == pieces ? left : below(left + 1);
            if (!touching && one_in(2))
                at += 1 + below(32);
            h.iov[segments++] = (struct iovec){arena + at, part};
            at += part;
            left -= part;
        }
    }
    h.memory = at + 64;
    assert_true(h.memory <= ARENA && segments <= MOST_SEGMENTS);
}

static void choose_arrival(void)
{
    const unsigned order = below(4);
    for (size_t i = 0; i < h.count; i++)
        h.arrival[i] = order == 0 ? h.count - 1 - i : i;
    if (order >= 2)
        shuffle(h.arrival, h.count);
}

/* The errnos that a write is asked again for, and others. */
static const int errors[] = {EIO,   ENOSPC, EDQUOT, EFBIG,  EINVAL, EIO,
                             EBADF, EROFS,  EPERM,  EFAULT, ENXIO};

static void choose_faults(void)
{
    h.bad = (bad_byte){0, 0, false, 0};
    h.longest = 0;
    h.open_flags = 0;
    if (!plain_calls_do_the_work())
        return;
    if (one_in(4))
        h.longest = 1 + (h.end - h.first) / (1 + below(8));
    if (!one_in(3)) {
        h.bad.at = h.first + below(h.end - h.first);
        h.bad.error = one_in(6) ? 0 : errors[below(COUNT_OF(errors))];
        h.bad.whole = one_in(2);
        h.bad.times = FOR_EVER;
        /* After a short read that is how a direct one says that the file has ended. */
        if (h.bad.error == EINVAL && h.action == IOE_READ)
            h.bad.whole = true, h.longest = 0;
        h.open_flags = one_in(4) ? O_DSYNC : one_in(6) ? O_SYNC : 0;
    }
}

static bool fails_together(void)
{
    return h.action == IOE_WRITE && h.bad.error != 0 &&
           (h.open_flags != 0 || !is_asked_again(h.bad.error));
}

static void make_history(uint64_t seed, const delivery *how)
{
    h.random = seed;
    h.action = one_in(2) ? IOE_READ : IOE_WRITE;
    choose_members();
    choose_faults();
    if (fails_together() && h.overlaps) {
        /* Who fails is told by the place alone. */
        h.bad.times = 0;
        h.bad.error = 0;
    }
    give_memory();
    choose_arrival();
    h.two_files = one_in(6);
    h.file_size = one_in(2) && h.action == IOE_READ ? h.end
                  : one_in(2)                       ? h.first + below(h.end - h.first)
                                                    : below(h.end + h.end / 8 + 1);
    if (h.action == IOE_READ && h.bad.at >= h.file_size)
        h.bad.times = 0; /* nothing is there to be bad */
    h.how = below(WINDOWS);
    if (h.how == FROM_A_THREAD && (how->flags & IOE_POLLED))
        h.how = BETWEEN_POLLS;
    if (h.how == BETWEEN_POLLS && !(how->flags & IOE_POLLED))
        h.how = FROM_A_THREAD;
    h.merger_limit = one_in(3) ? FILE_MAX : choose_size(19);
    h.context = below(LIMITS);
    h.last = below(3);
}

/* ---- running one ---- */

typedef struct stage {
    const delivery *how;
    int fds[2];
    ioe_context *plain; /* does not merge */
    ioe_context *contexts[LIMITS];
    uint32_t limits[LIMITS];
} stage;

static void fail_history(const char *what, size_t number)
{
    const member *m = &h.members[number];
    print_error("# IOE_TEST_SEED=%" PRIu64 ", round %lu: %s\n"
                "#   %s, %s, %zu members of [%" PRIu64 ", %" PRIu64 "), file of %" PRIu64
                " bytes, flags %#x, bad byte %" PRIu64 ": %s%s\n"
                "#   member %zu: %zu bytes at %" PRIu64 ", %d segments; callbacks %u, result %" PRId64
                ", transferred %" PRIu64 "; unmerged %" PRId64 ", %" PRIu64 "\n",
                first_seed, current_round, what, window_names[h.how],
                h.action == IOE_READ ? "reads" : "writes", h.count, h.first, h.end, h.file_size,
                h.open_flags, h.bad.at,
                h.bad.times == 0 ? "none" : ioe_strerror(h.bad.error), h.bad.whole ? ", whole" : "",
                number, m->len, m->offset, m->iovcnt, atomic_load(&m->calls), m->result,
                m->transferred, h.unmerged[number].result, h.unmerged[number].transferred);
    fail();
}

static void store_file(int fd)
{
    assert_int_equal(ftruncate(fd, 0), 0);
    pattern_fill(stored, h.file_size, FIRST, 0);
    assert_int_equal(pwrite(fd, stored, h.file_size, 0), h.file_size);
}

static void begin(const stage *s, latch *done)
{
    store_file(s->fds[0]);
    memset(arena, CANARY, h.memory);
    for (size_t i = 0; i < h.count; i++) {
        member *m = &h.members[i];
        uint64_t at = m->offset;
        m->fd = s->fds[h.two_files && m->offset / 4096 % 2];
        m->done = done;
        for (int j = 0; h.action == IOE_WRITE && j < (m->iovcnt > 0 ? m->iovcnt : 1); j++) {
            pattern_fill(m->iov[j].iov_base, m->iov[j].iov_len, WRITTEN, at);
            at += m->iov[j].iov_len;
        }
        prepare_member(m);
    }
    watch_files(s->fds[0], s->fds[1], h.bad);
    kernel.longest = h.longest;
}

typedef struct submission {
    ioe_context *ctx;
    const size_t *numbers;
    size_t count;
    int rc;
} submission;

static void *submit_singly(void *arg)
{
    submission *s = arg;
    for (size_t i = 0; i < s->count && s->rc == 0; i++)
        s->rc = ioe_submit(s->ctx, h.members[s->numbers[i]].event);
    return NULL;
}

/* Another thread submits while a read keeps the one slot. */
static void submit_from_a_thread(submission *s, latch *done)
{
    stuck_read stuck;
    stuck_prepare(&stuck, hit_latch, done);
    assert_int_equal(ioe_submit(s->ctx, stuck.event), 0);
    join_thread(start_thread(submit_singly, s));
    assert_true(stuck_let_go(&stuck));
    assert_int_equal(ioe_drain(s->ctx, -1), 0);
    stuck_free(&stuck);
}

static void submit_as_a_batch(const submission *s)
{
    static ioe_event *events[MOST];
    for (size_t i = 0; i < s->count; i++)
        events[i] = h.members[s->numbers[i]].event;
    assert_int_equal(ioe_submit_batch(s->ctx, events, s->count), s->count);
}

static void submit_through_mergers(const submission *s, const int fds[2])
{
    ioe_merger *mergers[2];
    for (int i = 0; i < 2; i++)
        mergers[i] = new_merger(s->ctx, fds[i], h.action, h.merger_limit);
    for (size_t i = 0; i < s->count; i++) {
        const member *m = &h.members[s->numbers[i]];
        ioe_merger *merger = mergers[m->fd == fds[1]];
        assert_int_equal(ioe_merger_add(merger, m->event), 0);
        if (one_in(64))
            assert_int_equal(ioe_merger_flush(merger), 0);
    }
    if (h.last == 0)
        assert_int_equal(ioe_drain(s->ctx, -1), 0);
    for (int i = 0; i < 2; i++) {
        if (h.last == 1)
            assert_int_equal(ioe_merger_flush(mergers[i]), 0);
        assert_int_equal(ioe_merger_free(mergers[i]), 0);
    }
}

static void submit_between_polls(submission *s)
{
    const submission all = *s;
    for (size_t from = 0; from < all.count; from += s->count) {
        s->numbers = all.numbers + from;
        s->count = 1 + below(all.count - from);
        submit_singly(s);
        assert_true(ioe_poll(s->ctx, 0, 0) >= 0);
    }
}

static void submit(ioe_context *ctx, window how, const int fds[2], const size_t *numbers,
                   size_t count, latch *done)
{
    submission s = {ctx, numbers, count, 0};
    switch (how) {
    case SINGLY: submit_singly(&s); break;
    case FROM_A_THREAD: submit_from_a_thread(&s, done); break;
    case BATCHED: submit_as_a_batch(&s); break;
    case MERGED: submit_through_mergers(&s, fds); break;
    case BETWEEN_POLLS: submit_between_polls(&s); break;
    default: break;
    }
    assert_int_equal(s.rc, 0);
    assert_int_equal(ioe_drain(ctx, -1), 0);
}

/* Each member alone: what it said it moved was moved, and nothing else was touched. */
static void check_bytes(int fd, unsigned calls)
{
    uint64_t size = h.file_size;
    pattern_fill(model, FILE_MAX, FIRST, 0);
    memset(model + size, 0, FILE_MAX - size);
    memcpy(looked_at, arena, h.memory);
    for (size_t i = 0; i < h.count; i++) {
        const member *m = &h.members[i];
        uint64_t left = m->transferred, at = m->offset;
        if (atomic_load(&m->calls) == 0 || atomic_load(&m->calls) > calls)
            fail_history("one callback each", i);
        if (m->transferred > m->len || (m->result >= 0 && m->result != (int64_t)m->transferred))
            fail_history("result and count", i);
        if (h.action == IOE_WRITE) {
            pattern_fill(model + at, left, WRITTEN, at);
            if (left > 0 && at + left > size)
                size = at + left;
            continue;
        }
        for (int j = 0; j < (m->iovcnt > 0 ? m->iovcnt : 1); j++) {
            uint8_t *bytes = looked_at + ((uint8_t *)m->iov[j].iov_base - arena);
            size_t read = left < m->iov[j].iov_len ? left : m->iov[j].iov_len;
            if (!pattern_holds(bytes, read, FIRST, at))
                fail_history("bytes read", i);
            /* What is left must be as it was: behind a short read, and around all. */
            memset(bytes, CANARY, read);
            at += read;
            left -= read;
        }
    }
    if (h.action == IOE_READ) {
        for (size_t i = 0; i < h.memory; i++)
            if (looked_at[i] != CANARY)
                fail_history("memory that nothing was read to", 0);
    } else {
        ssize_t got = pread(fd, stored, FILE_MAX, 0);
        if (got != (ssize_t)size || memcmp(stored, model, size) != 0)
            fail_history("bytes written", 0);
    }
}

/* Of the transfers that the pool made: none beyond the limit, but for an event that is. The value is
 * how many of them failed. */
static size_t check_transfers(size_t limit)
{
    size_t failures = 0;
    for (size_t i = 0; i < kernel.count; i++) {
        const plain_transfer *t = &kernel.log[i].t;
        bool one = t->len <= limit;
        failures += kernel.log[i].answer < 0;
        for (size_t j = 0; !one && j < h.count; j++)
            one = h.members[j].offset <= t->offset &&
                  h.members[j].offset + h.members[j].len == t->offset + t->len;
        if (!one)
            fail_history("an operation beyond the limit", 0);
    }
    return failures;
}

/* One operation failed, and each member with bytes in it has the errno; nobody asked again. */
static void check_failed_together(size_t failures)
{
    size_t f = 0, members = 0;
    if (failures > 1)
        fail_history("a failed write was asked again", 0);
    while (f < kernel.count && kernel.log[f].answer >= 0)
        f++;
    const uint64_t from = f < kernel.count ? kernel.log[f].t.offset : 0;
    const uint64_t to = f < kernel.count ? from + kernel.log[f].t.len : 0;
    for (size_t i = f + 1; i < kernel.count; i++)
        if (kernel.log[i].t.len > 0 && kernel.log[i].t.offset < to &&
            kernel.log[i].t.offset + kernel.log[i].t.len > from)
            fail_history("bytes of a failed write were asked again", 0);
    for (size_t i = 0; i < h.count; i++) {
        const member *m = &h.members[i];
        const bool fails = m->len > 0 && m->offset < to && m->offset + m->len > from;
        const uint64_t moved = !fails ? m->len : m->offset < from ? from - m->offset : 0;
        if (m->result != (fails ? -h.bad.error : (int64_t)m->len) || m->transferred != moved)
            fail_history("who shares the error of a write", i);
        members += fails;
    }
    failed_together += members > 1;
}

static void check_unmerged(void)
{
    bool error = false;
    for (size_t i = 0; i < h.count; i++) {
        const member *m = &h.members[i];
        if (m->result != h.unmerged[i].result || m->transferred != h.unmerged[i].transferred)
            fail_history("not as without merging", i);
        error |= m->result < 0;
        ended_inside += m->result >= 0 && m->transferred > 0 && m->transferred < m->len;
    }
    asked_again += error;
}

/* What is not whole is submitted again, once the reason is gone. */
static void go_on(const stage *s, ioe_context *ctx, latch *done)
{
    static size_t numbers[MOST];
    size_t count = 0;
    for (size_t i = 0; i < h.count; i++)
        if (h.members[h.arrival[i]].result != (int64_t)h.members[h.arrival[i]].len)
            numbers[count++] = h.arrival[i];
    if (count == 0)
        return;
    if (h.action == IOE_READ) {
        h.file_size = h.end;
        store_file(s->fds[0]);
    }
    submit(ctx, h.how, s->fds, numbers, count, done);
    for (size_t i = 0; i < count; i++)
        if (h.members[numbers[i]].result != (int64_t)h.members[numbers[i]].len)
            fail_history("submitted again, whole", numbers[i]);
}

static void run_history(const stage *s)
{
    latch done = LATCH_INIT;
    const window how = h.how;
    ioe_context *ctx = how == MERGED && one_in(2) ? s->plain : s->contexts[h.context];
    size_t limit = ctx == s->plain ? 0 : s->limits[h.context];
    if (how == MERGED && h.merger_limit > limit)
        limit = h.merger_limit;

    begin(s, &done);
    submit(s->plain, SINGLY, s->fds, h.arrival, h.count, &done);
    stop_watching();
    check_bytes(s->fds[0], 1);
    for (size_t i = 0; i < h.count; i++)
        h.unmerged[i] = (outcome){h.members[i].result, h.members[i].transferred};

    begin(s, &done);
    const ioe_stats before = get_stats(ctx);
    submit(ctx, how, s->fds, h.arrival, h.count, &done);
    stop_watching();
    const ioe_stats after = get_stats(ctx);
    const uint64_t joined = after.merged - before.merged;
    check_bytes(s->fds[0], 1);
    size_t failures = check_transfers(limit);
    if (fails_together())
        check_failed_together(failures);
    else
        check_unmerged();
    /* Every event is in an operation of its own or in another's. */
    if (failures == 0 && after.operations - before.operations + joined !=
                             h.count + (how == FROM_A_THREAD) + after.continued - before.continued)
        fail_history("operations and merged events are all", 0);
    merged += joined;
    go_on(s, ctx, &done);
    check_bytes(s->fds[0], 2);
}

static void merging_changes_no_result(void **state)
{
    stage s = {.how = *state};
    static const int flags[] = {0, O_DSYNC, O_SYNC};
    int fds[COUNT_OF(flags)][2];
    uint64_t random = first_seed + (uint64_t)(s.how - deliveries);
    fds[0][0] = temp_file(IN_MEMORY);
    for (size_t i = 0; i < COUNT_OF(flags); i++)
        for (int j = 0; j < 2; j++)
            if (i + (size_t)j > 0)
                assert_true((fds[i][j] = open_again(fds[0][0], O_RDWR | flags[i])) >= 0);
    merged = failed_together = asked_again = ended_inside = 0;
    s.plain = new_merging_context(s.how, 64, 2 * MOST, 0);
    for (size_t i = 0; i < LIMITS; i++) {
        /* From a byte to more than there is; a depth of one for those who wait. */
        h.random = next_random(&random);
        s.limits[i] = (uint32_t)choose_size(i == 0 ? 12 : 20);
        s.contexts[i] = new_merging_context(s.how, i % 2 == 0 ? 1 : 64, 2 * MOST, s.limits[i]);
    }
    for (current_round = 0; current_round < rounds; current_round++) {
        make_history(next_random(&random), s.how);
        /* A slot that is free for the read that keeps it. */
        if (h.how == FROM_A_THREAD)
            h.context -= h.context % 2;
        const size_t file = h.open_flags == O_SYNC ? 2 : h.open_flags == O_DSYNC ? 1 : 0;
        memcpy(s.fds, fds[file], sizeof s.fds);
        run_history(&s);
    }
    print_message("# %lu histories: %lu events merged, %lu joined writes failed, %lu histories with "
                  "errors apart, %lu reads across the end\n",
                  rounds, merged, failed_together, asked_again, ended_inside);
    /* Otherwise nothing was shown. */
    if (!rounds_are_chosen) {
        assert_true(merged > rounds && ended_inside > 0);
        if (plain_calls_do_the_work())
            assert_true(failed_together > 0 && asked_again > 0);
    }
    for (size_t i = 0; i < COUNT_OF(h.members); i++) {
        assert_int_equal(ioe_event_free(h.members[i].event), 0);
        h.members[i].event = NULL;
    }
    for (size_t i = 0; i < LIMITS; i++)
        assert_int_equal(ioe_context_free(s.contexts[i]), 0);
    assert_int_equal(ioe_context_free(s.plain), 0);
    for (size_t i = 0; i < COUNT_OF(flags); i++)
        for (int j = 0; j < 2; j++)
            close(fds[i][j]);
}

/* ---- one bad byte, and what is asked of the kernel ---- */

enum { BIG = 1 << 20, COUNT = 8, EACH = 1000, MIDDLE = 300 };

typedef struct trial {
    int action;
    int open_flags;
    int error;
    bool whole;
    size_t holder; /* the member with the byte */
    unsigned times;
} trial;

/* What was asked after the failure: each member that was not whole, once, for what it lacks. */
static void check_asked_again(size_t from, const row *r, size_t first, uint64_t start)
{
    bool asked[COUNT] = {false};
    assert_int_equal(kernel.count - from, COUNT - first);
    for (size_t i = from; i < kernel.count; i++) {
        const plain_transfer *t = &kernel.log[i].t;
        const size_t which = t->offset / EACH;
        const uint64_t begin = which == first ? start : which * EACH;
        assert_in_range(which, first, COUNT - 1);
        assert_false(asked[which]);
        asked[which] = true;
        assert_int_equal(t->offset, begin);
        assert_int_equal(t->len, r->members[which].offset + EACH - begin);
    }
}

static void try_bad_byte(ioe_context *ctx, int fd, const trial *t)
{
    const bool together = t->action == IOE_WRITE && (t->open_flags || !is_asked_again(t->error));
    const uint64_t at = t->holder * EACH + MIDDLE;
    const uint64_t start = t->whole ? 0 : at; /* of the operation that fails */
    const bad_byte bad = {at, t->error, t->whole, t->times};
    ready_file(fd, t->action, 0, COUNT * EACH);
    row *r = new_row(fd, t->action, 0, COUNT, EACH, 24);
    ioe_merger *merger = new_merger(ctx, fd, t->action, BIG);
    watch_files(fd, -1, bad);
    kernel.all_wait = true;
    add_row(merger, r);
    ASSERT_CALL(ioe_merger_flush(merger), 0);
    assert_int_equal(ioe_drain(ctx, -1), 0);
    stop_watching();
    ASSERT_CALL(ioe_merger_free(merger), 0);

    size_t failed = t->whole ? 0 : 1;
    assert_true(kernel.count > failed);
    assert_int_equal(kernel.log[0].t.offset, 0);
    assert_int_equal(kernel.log[0].t.len, COUNT * EACH);
    assert_true(kernel.log[0].t.vectored);
    assert_int_equal(kernel.log[failed].t.offset, start);
    assert_int_equal(kernel.log[failed].t.len, COUNT * EACH - start);
    assert_int_equal(kernel.log[failed].answer, -t->error);
    if (together)
        assert_int_equal(kernel.count, failed + 1);
    else
        check_asked_again(failed + 1, r, start / EACH, start);
    for (size_t i = 0; i < COUNT; i++) {
        const bool fails = together ? i >= start / EACH : i == t->holder && t->times == FOR_EVER;
        const uint64_t moved = !fails ? EACH : !t->whole && i == t->holder ? MIDDLE : 0;
        check_member(r, i, fails ? -t->error : EACH, moved);
    }
    free_row(r);
}

static void a_bad_byte_fails_its_member(void **state)
{
    const delivery *how = *state;
    static const int flags[] = {0, O_DSYNC, O_SYNC};
    if (!plain_calls_do_the_work())
        skip(); /* what a ring is answered cannot be chosen */
    ioe_context *ctx = new_merging_context(how, 64, 64, 0);
    int plain = temp_file(IN_MEMORY);
    for (size_t f = 0; f < COUNT_OF(flags); f++) {
        int fd = open_again(plain, O_RDWR | flags[f]);
        assert_true(fd >= 0);
        for (size_t i = 0; i < COUNT_OF(errors) * 2 * 2 * 2 * 3; i++) {
            size_t at = i;
            trial t = {.open_flags = flags[f], .error = errors[at % COUNT_OF(errors)]};
            at /= COUNT_OF(errors);
            t.action = at % 2 == 0 ? IOE_READ : IOE_WRITE;
            t.whole = at / 2 % 2;
            t.times = at / 4 % 2 ? FOR_EVER : 1;
            t.holder = (size_t[]){0, 3, COUNT - 2}[at / 8];
            if (t.action == IOE_READ && t.error == EINVAL && !t.whole)
                continue; /* so ends a direct read */
            try_bad_byte(ctx, fd, &t);
        }
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(plain);
}

/* Interrupted, or short wherever it may be: asked again together, for what is left. */
static void a_short_operation_goes_on_together(void **state)
{
    const delivery *how = *state;
    static const int transient[] = {EINTR, EAGAIN};
    if (!plain_calls_do_the_work())
        skip();
    ioe_context *ctx = new_merging_context(how, 64, 64, 0);
    int fd = temp_file(IN_MEMORY);
    for (size_t i = 0; i < 2 * COUNT_OF(transient); i++) {
        const int action = i % 2 == 0 ? IOE_READ : IOE_WRITE;
        const bad_byte bad = {EACH, transient[i / 2], true, 3};
        ready_file(fd, action, 0, COUNT * EACH);
        row *r = new_row(fd, action, 0, COUNT, EACH, 24);
        ioe_merger *merger = new_merger(ctx, fd, action, BIG);
        const ioe_stats before = get_stats(ctx);
        watch_files(fd, -1, bad);
        kernel.all_wait = true;
        kernel.longest = 3 * EACH + 1;
        add_row(merger, r);
        ASSERT_CALL(ioe_merger_free(merger), 0);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        stop_watching();
        const ioe_stats after = get_stats(ctx);
        check_row(r);
        assert_int_equal(kernel.count, 3 + 3);
        for (size_t j = 0; j < kernel.count; j++)
            assert_int_equal(kernel.log[j].t.offset, j < 3 ? 0 : (j - 3) * kernel.longest);
        assert_int_equal(after.operations - before.operations, 6);
        assert_int_equal(after.continued - before.continued, 2);
        assert_int_equal(after.merged - before.merged, COUNT - 1);
        free_row(r);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* ---- faults that every driver meets ---- */

enum { PAGE = 4096, PAGES = 16, SIZE_LIMIT = 1 << 20 };

/* The limit is in the middle of a merged write, or before it. */
static void check_size_limit(ioe_context *ctx, int fd, int open_flags, uint64_t below_limit)
{
    const uint64_t first = SIZE_LIMIT - below_limit;
    const size_t whole = below_limit / PAGE;
    for (int batched = 0; batched < 2; batched++) {
        assert_int_equal(ftruncate(fd, 0), 0);
        row *r = new_row(fd, IOE_WRITE, first, PAGES, PAGE, PAGE);
        ioe_merger *merger = new_merger(ctx, fd, IOE_WRITE, BIG);
        const ioe_stats before = get_stats(ctx);
        const rlim_t limit = set_file_size_limit(SIZE_LIMIT);
        if (batched) {
            batch_row(ctx, r);
        } else {
            add_row(merger, r);
            ASSERT_CALL(ioe_merger_flush(merger), 0);
        }
        int rc = ioe_drain(ctx, -1);
        set_file_size_limit(limit);
        const ioe_stats after = get_stats(ctx);
        assert_int_equal(rc, 0);
        assert_int_equal(ioe_merger_free(merger), 0);
        for (size_t i = 0; i < PAGES; i++)
            check_member(r, i, i < whole ? PAGE : -EFBIG,
                         i < whole ? PAGE : i == whole ? below_limit % PAGE : 0);
        assert_int_equal(after.merged - before.merged, PAGES - 1);
        assert_int_equal(after.failed - before.failed, PAGES - whole);
        /* What comes up to the limit, what fails there, and each that is not whole once more. */
        assert_int_equal(after.operations - before.operations,
                         (below_limit > 0) + 1 + (open_flags & O_DSYNC ? 0 : PAGES - whole));
        assert_int_equal(after.continued - before.continued, below_limit > 0);
        free_row(r);
    }
}

static void a_file_size_limit_inside(void **state)
{
    const delivery *how = *state;
    static const int flags[] = {0, O_DSYNC, O_SYNC, O_DIRECT, O_DIRECT | O_DSYNC};
    ioe_context *ctx = new_merging_context(how, 64, 64, BIG);
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        int plain = temp_file(ON_DISK);
        if (flags[i] & O_DIRECT)
            close(open_direct(plain));
        int fd = open_again(plain, O_RDWR | flags[i]);
        assert_true(fd >= 0);
        check_size_limit(ctx, fd, flags[i], 6 * PAGE + (flags[i] & O_DIRECT ? 0 : PAGE / 2));
        check_size_limit(ctx, fd, flags[i], 0);
        close(fd);
        close(plain);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* Memory that cannot be touched: EFAULT, at what place of the operation is the kernel's choice. */
static void memory_of_one_member_is_bad(void **state)
{
    const delivery *how = *state;
    enum { BAD = 5 };
    ioe_context *ctx = new_merging_context(how, 64, 64, BIG);
    for (int i = 0; i < 4; i++) {
        const int action = i % 2 == 0 ? IOE_READ : IOE_WRITE;
        int plain = temp_file(ON_DISK);
        int fd = i < 2 ? dup(plain) : open_direct(plain);
        ready_file(plain, action, 0, PAGES * PAGE);
        assert_int_equal(fsync(plain), 0);
        row *r = new_row(fd, action, 0, PAGES, PAGE, PAGE);
        void *bad = r->members[BAD].iov->iov_base;
        const ioe_stats before = get_stats(ctx);
        assert_int_equal(mprotect(bad, PAGE, PROT_NONE), 0);
        batch_row(ctx, r);
        assert_int_equal(ioe_drain(ctx, -1), 0);
        assert_int_equal(mprotect(bad, PAGE, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(get_stats(ctx).merged - before.merged, PAGES - 1);
        check_member(r, BAD, -EFAULT, 0);
        for (size_t j = 0; j < PAGES; j++) {
            const member *m = &r->members[j];
            /* A failed write is not asked again for this one. */
            if (action == IOE_READ && j != BAD)
                check_member(r, j, PAGE, PAGE);
            else if (m->result != PAGE)
                check_member(r, j, -EFAULT, m->transferred);
        }
        free_row(r);
        close(fd);
        close(plain);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(merging_changes_no_result),
        for_each_delivery(a_bad_byte_fails_its_member),
        for_each_delivery(a_short_operation_goes_on_together),
        for_each_delivery(a_file_size_limit_inside),
        for_each_delivery(memory_of_one_member_is_bad),
    };
    const char *text = getenv("IOE_TEST_ROUNDS");
    rounds_are_chosen = text != NULL;
    rounds = text != NULL ? strtoul(text, NULL, 10) : 300;
    first_seed = choose_seed();
    return RUN_TESTS(tests);
}
