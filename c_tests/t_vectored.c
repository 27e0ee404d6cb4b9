/*
 * Promise: vectored transfers put every byte in its place, wherever segments begin and end,
 * wherever the file ends, wherever an error cuts them; the iovec array itself is copied by the
 * preparation.
 */
#include <signal.h>
#include <sys/resource.h>

#include "common.h"

#define MOST 1024
#define GAP 16
#define CANARY 0xA5
#define SEED UINT64_C(20240229)

/* ---- segments: scattered in an arena, with gaps that nobody may write ---- */

typedef struct scatter {
    struct iovec iov[MOST];
    int count;
    size_t total;
    uint8_t *arena;
    size_t arena_len;
} scatter;

static const size_t awkward[] = {0, 1, 2, 3, 7, 8, 511, 512, 513, 1000, 4095, 4096, 4097, 8191};

/* Lays the segments out back to front, so that their order in memory is not that of the file. */
static void scatter_lay_out(scatter *s, const size_t *lens, int count)
{
    s->count = count;
    s->total = 0;
    for (int i = 0; i < count; i++)
        s->total += lens[i];
    s->arena_len = s->total + ((size_t)count + 1) * GAP;
    s->arena = malloc(s->arena_len);
    assert_non_null(s->arena);
    size_t at = s->arena_len;
    for (int i = 0; i < count; i++) {
        at -= GAP + lens[i];
        s->iov[i] = (struct iovec){s->arena + at, lens[i]};
    }
    memset(s->arena, CANARY, s->arena_len);
}

static void scatter_random(scatter *s, uint64_t *rng, int most)
{
    size_t lens[MOST];
    int count = 1 + (int)(next_random(rng) % (uint64_t)most);
    for (int i = 0; i < count; i++)
        lens[i] = awkward[next_random(rng) % COUNT_OF(awkward)];
    scatter_lay_out(s, lens, count);
}

/* The pattern of the file at offset, spread over the segments. */
static void scatter_fill(scatter *s, uint64_t seed, uint64_t offset)
{
    for (int i = 0; i < s->count; offset += s->iov[i++].iov_len)
        pattern_fill(s->iov[i].iov_base, s->iov[i].iov_len, seed, offset);
}

/* The first len bytes hold the pattern, and all else in the arena is as it was laid out. */
static void scatter_check(const scatter *s, size_t len, uint64_t seed, uint64_t offset)
{
    uint8_t *expected = malloc(s->arena_len);
    assert_non_null(expected);
    memset(expected, CANARY, s->arena_len);
    for (int i = 0; i < s->count && len > 0; i++) {
        size_t n = s->iov[i].iov_len < len ? s->iov[i].iov_len : len;
        pattern_fill(expected + ((uint8_t *)s->iov[i].iov_base - s->arena), n, seed, offset);
        offset += n;
        len -= n;
    }
    assert_memory_equal(s->arena, expected, s->arena_len);
    free(expected);
}

/* Prepares from a copy of the array that is worthless right after. */
static void prep(ioe_event *e, int action, int fd, const scatter *s, uint64_t offset)
{
    size_t bytes = (size_t)s->count * sizeof(struct iovec);
    struct iovec *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, s->iov, bytes);
    if (action == IOE_READ)
        assert_int_equal(ioe_prep_readv(e, fd, copy, s->count, offset), 0);
    else
        assert_int_equal(ioe_prep_writev(e, fd, copy, s->count, offset), 0);
    memset(copy, 0xEE, bytes);
    free(copy);
    assert_int_equal(ioe_event_size(e), s->total);
    assert_ptr_equal(ioe_event_buffer(e), s->iov[0].iov_base);
}

static void check_file(int fd, size_t len, uint64_t seed, uint64_t offset)
{
    uint8_t *buf = malloc(len + 1);
    assert_non_null(buf);
    assert_int_equal(pread(fd, buf, len, (off_t)offset), len);
    assert_true(pattern_holds(buf, len, seed, offset));
    free(buf);
}

static void store_pattern(int fd, size_t len, uint64_t seed, uint64_t offset)
{
    uint8_t *buf = malloc(len + 1);
    assert_non_null(buf);
    pattern_fill(buf, len, seed, offset);
    assert_int_equal(pwrite(fd, buf, len, (off_t)offset), len);
    free(buf);
}

/* Odd rounds go through a callback, even ones run on this thread. */
static int64_t run_either(ioe_context *ctx, const delivery *how, ioe_event *e, int round)
{
    return round % 2 ? run_event(ctx, how, e) : ioe_submit_wait(ctx, e);
}

static void write_and_read_back(ioe_context *ctx, const delivery *how, int fd, const scatter *shape,
                                uint64_t offset, int round)
{
    ioe_event *e = new_event();
    scatter s = *shape;
    uint64_t seed = (uint64_t)round + 1;
    scatter_fill(&s, seed, offset);
    prep(e, IOE_WRITE, fd, &s, offset);
    assert_int_equal(run_either(ctx, how, e, round), s.total);
    assert_int_equal(ioe_event_transferred(e), s.total);
    check_file(fd, s.total, seed, offset);
    memset(s.arena, CANARY, s.arena_len);
    prep(e, IOE_READ, fd, &s, offset);
    assert_int_equal(run_either(ctx, how, e, round), s.total);
    scatter_check(&s, s.total, seed, offset);
    assert_int_equal(ioe_event_free(e), 0);
}

static void random_segments_go_out_and_come_back(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    uint64_t rng = SEED;
    for (int round = 0; round < 60; round++) {
        int fd = temp_file(round % 4 < 2 ? ON_DISK : IN_MEMORY);
        scatter s;
        scatter_random(&s, &rng, 64);
        write_and_read_back(ctx, how, fd, &s, next_random(&rng) % 10000, round);
        free(s.arena);
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void as_many_segments_as_there_may_be(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    size_t lens[MOST];
    for (int round = 0; round < 4; round++) {
        int fd = temp_file(ON_DISK);
        scatter s;
        for (size_t i = 0; i < MOST; i++)
            lens[i] = round < 2 ? 1 : i % 5 == 0 ? 0 : i % 97;
        scatter_lay_out(&s, lens, MOST);
        write_and_read_back(ctx, how, fd, &s, 7, round);
        free(s.arena);
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void only_empty_segments(void **state)
{
    const delivery *how = *state;
    static const size_t none[8] = {0};
    ioe_context *ctx = new_context(how, 8, 64);
    int fd = temp_file(ON_DISK);
    scatter s;
    for (int count = 1; count <= 8; count++) {
        scatter_lay_out(&s, none, count);
        write_and_read_back(ctx, how, fd, &s, 100, count);
        free(s.arena);
    }
    assert_int_equal(lseek(fd, 0, SEEK_END), 0);
    close(fd);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* ---- cuts: the file ends at, one before and one after each boundary ---- */

static void check_cut(ioe_context *ctx, const delivery *how, const size_t *lens, int count,
                      size_t cut, int round)
{
    const uint64_t offset = 300;
    scatter s;
    ioe_event *e = new_event();
    int fd = temp_file(IN_MEMORY);
    scatter_lay_out(&s, lens, count);
    if (cut > s.total)
        cut = s.total;
    store_pattern(fd, cut, 9, offset);
    prep(e, IOE_READ, fd, &s, offset);
    assert_int_equal(run_either(ctx, how, e, round), cut);
    assert_int_equal(ioe_event_transferred(e), cut);
    scatter_check(&s, cut, 9, offset);
    if (cut < s.total) {
        /* The file grows behind the cut only half, then whole. What was read stays read: other
         * bytes in its place must not show. */
        store_pattern(fd, cut, 99, offset);
        size_t half = cut + (s.total - cut) / 2;
        store_pattern(fd, half - cut, 9, offset + cut);
        assert_int_equal(run_either(ctx, how, e, round + 1), half);
        scatter_check(&s, half, 9, offset);
        store_pattern(fd, s.total - half + 5, 9, offset + half);
        assert_int_equal(run_either(ctx, how, e, round), s.total);
        scatter_check(&s, s.total, 9, offset);
    }
    ASSERT_CALL(ioe_submit_wait(ctx, e), -EINVAL);
    assert_int_equal(ioe_event_free(e), 0);
    free(s.arena);
    close(fd);
}

static void file_ends_at_every_boundary(void **state)
{
    const delivery *how = *state;
    static const size_t lens[] = {1, 511, 0, 512, 4096, 0, 0, 3, 8191, 1, 2, 4097, 0};
    ioe_context *ctx = new_context(how, 8, 64);
    size_t boundary = 0;
    for (size_t i = 0; i <= COUNT_OF(lens); i++) {
        for (size_t near = boundary > 0 ? boundary - 1 : 0; near <= boundary + 1; near++) {
            check_cut(ctx, how, lens, COUNT_OF(lens), near, 0);
            check_cut(ctx, how, lens, COUNT_OF(lens), near, 1);
        }
        if (i < COUNT_OF(lens))
            boundary += lens[i];
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void file_ends_at_every_byte(void **state)
{
    const delivery *how = *state;
    static const size_t lens[] = {0, 1, 2, 0, 3, 5, 8, 0, 13, 1, 0};
    ioe_context *ctx = new_context(how, 8, 64);
    for (size_t cut = 0; cut <= 33; cut++)
        check_cut(ctx, how, lens, COUNT_OF(lens), cut, (int)cut);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void file_ends_anywhere_in_random_segments(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    uint64_t rng = SEED + 1;
    for (int round = 0; round < 40; round++) {
        size_t lens[40], total = 0;
        int count = 1 + (int)(next_random(&rng) % COUNT_OF(lens));
        for (int i = 0; i < count; i++)
            total += lens[i] = awkward[next_random(&rng) % COUNT_OF(awkward)];
        check_cut(ctx, how, lens, count, next_random(&rng) % (total + 1), round);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* ---- a write that is cut: RLIMIT_FSIZE, in a child process of its own ---- */

enum { PLAIN, VECTORED, FALLOCATE, TRUNCATE };

typedef struct limited {
    const delivery *how;
    const scatter *segments;
    int fd;
    int kind;
    bool here;    /* on the calling thread */
    bool blocked; /* which blocks SIGXFSZ itself */
    size_t limit;
} limited;

/* An allocation and a truncation are refused whole. */
static bool moves_bytes(int kind)
{
    return kind < FALLOCATE;
}

static int64_t run_in_limits(const limited *l, ioe_context *ctx, ioe_event *e)
{
    latch done = LATCH_INIT;
    if (l->here)
        return ioe_submit_wait(ctx, e);
    if (ioe_event_set_callback(e, hit_latch, &done) != 0 || ioe_submit(ctx, e) != 0)
        return IOE_PENDING;
    while ((l->how->flags & IOE_POLLED) && latch_count(&done) == 0)
        if (ioe_poll(ctx, 1, -1) < 0)
            return IOE_PENDING;
    latch_wait(&done, 1);
    return ioe_event_result(e);
}

static int prep_in_limits(const limited *l, ioe_event *e)
{
    const struct iovec *iov = l->segments->iov;
    if (l->kind == FALLOCATE)
        return ioe_prep_fallocate(e, l->fd, 0, 0, l->segments->total);
    if (l->kind == TRUNCATE)
        return ioe_prep_truncate(e, l->fd, l->segments->total);
    if (l->kind == VECTORED)
        return ioe_prep_writev(e, l->fd, iov, l->segments->count, 0);
    return ioe_prep_write(e, l->fd, iov[0].iov_base, iov[0].iov_len, 0);
}

/* Which step went wrong, 0 for none. No assertion: this is not the process that reports. */
static int write_over_the_limit(void *arg)
{
    const limited *l = arg;
    const struct rlimit no_core = {0, 0}, low = {l->limit, RLIM_INFINITY},
                        high = {RLIM_INFINITY, RLIM_INFINITY};
    const size_t through = moves_bytes(l->kind) ? l->limit : 0;
    sigset_t xfsz, pending, before, after;
    ioe_config cfg;
    ioe_context *ctx;
    ioe_event *e = ioe_event_new();
    if (e == NULL || setrlimit(RLIMIT_CORE, &no_core) != 0 || setrlimit(RLIMIT_FSIZE, &low) != 0)
        return 1;
    sigemptyset(&xfsz);
    sigaddset(&xfsz, SIGXFSZ);
    if (l->blocked)
        pthread_sigmask(SIG_BLOCK, &xfsz, NULL);
    ioe_config_init(&cfg, sizeof cfg);
    cfg.flags = l->how->flags;
    cfg.workers = l->how->workers;
    if (ioe_context_new(&cfg, &ctx) != 0)
        return 2;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    if (prep_in_limits(l, e) != 0)
        return 3;
    int64_t size = (int64_t)ioe_event_size(e);
    if (run_in_limits(l, ctx, e) != -EFBIG)
        return 4;
    if (ioe_event_transferred(e) != through)
        return 5;
    /* The caller's signals are as they were, and none is left behind. */
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    for (int signal = 1; signal < SIGRTMIN; signal++)
        if (sigismember(&before, signal) != sigismember(&after, signal))
            return 6;
    if (sigpending(&pending) != 0 || sigismember(&pending, SIGXFSZ))
        return 7;
    if (lseek(l->fd, 0, SEEK_END) != (off_t)through)
        return 8;
    /* At the limit nothing gets through, and what had is still counted. */
    if (run_in_limits(l, ctx, e) != -EFBIG || ioe_event_transferred(e) != through)
        return 9;
    if (setrlimit(RLIMIT_FSIZE, &high) != 0)
        return 10;
    if (run_in_limits(l, ctx, e) != (moves_bytes(l->kind) ? size : 0))
        return 11;
    if (ioe_context_free(ctx) != 0)
        return 12;
    return 0;
}

static void check_limits(const delivery *how, int kind)
{
    static const size_t lens[] = {5000, 0, 1, 4096, 511, 0, 3000};
    static const size_t limits[] = {1, 4999, 5000, 5001, 7000, 9097, 9500, 12607};
    ioe_context_free(new_context(how, 8, 8));
    for (size_t i = 0; i < COUNT_OF(limits) * 4; i++) {
        scatter s;
        limited l = {.how = how, .segments = &s, .kind = kind, .limit = limits[i / 4]};
        l.here = i % 2;
        l.blocked = i / 2 % 2;
        scatter_lay_out(&s, lens, COUNT_OF(lens));
        size_t total = kind == PLAIN ? lens[0] : s.total;
        if (l.limit < total) {
            l.fd = temp_file(ON_DISK);
            scatter_fill(&s, 11, 0);
            int step = in_child(write_over_the_limit, &l);
            if (step != 0)
                print_error("limit %zu, %s%s\n", l.limit, l.here ? "calling thread" : "callback",
                            l.blocked ? ", SIGXFSZ blocked" : "");
            assert_int_equal(step, 0);
            if (moves_bytes(kind))
                check_file(l.fd, total, 11, 0);
            assert_int_equal(lseek(l.fd, 0, SEEK_END), total);
            close(l.fd);
        }
        free(s.arena);
    }
}

static void write_is_cut_by_a_limit(void **state)
{
    check_limits(*state, PLAIN);
}

static void vectored_write_is_cut_by_a_limit(void **state)
{
    check_limits(*state, VECTORED);
}

static void allocation_is_refused_by_a_limit(void **state)
{
    check_limits(*state, FALLOCATE);
}

static void truncation_is_refused_by_a_limit(void **state)
{
    check_limits(*state, TRUNCATE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(random_segments_go_out_and_come_back),
        for_each_delivery(as_many_segments_as_there_may_be),
        for_each_delivery(only_empty_segments),
        for_each_delivery(file_ends_at_every_boundary),
        for_each_delivery(file_ends_at_every_byte),
        for_each_delivery(file_ends_anywhere_in_random_segments),
        for_each_delivery(write_is_cut_by_a_limit),
        for_each_delivery(vectored_write_is_cut_by_a_limit),
        for_each_delivery(allocation_is_refused_by_a_limit),
        for_each_delivery(truncation_is_refused_by_a_limit),
    };
    return RUN_TESTS(tests);
}
