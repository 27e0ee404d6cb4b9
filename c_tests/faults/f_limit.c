/*
 * Promise: beyond RLIMIT_FSIZE a write, an allocation and a truncation fail with EFBIG, having moved what the limit
 * allows, and the signal SIGXFSZ never reaches the program. Of many that travelled together, each has
 * what it would have had alone.
 */
#include <signal.h>
#include <sys/stat.h>

#include "members.h"

enum { LIMIT = 1 << 20, LEN = 256 * 1024, PAGE = 4096 };

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

typedef struct attempt {
    const char *name;
    int action;
    uint64_t offset;
    int64_t result;
    uint64_t transferred;
} attempt;

static const attempt attempts[] = {
    {"up to the limit", IOE_WRITE, LIMIT - LEN, LEN, LEN},
    {"across", IOE_WRITE, LIMIT - LEN + 16 * PAGE, -EFBIG, LEN - 16 * PAGE},
    {"at the limit", IOE_WRITE, LIMIT, -EFBIG, 0},
    {"far beyond", IOE_WRITE, LIMIT + 100 * PAGE, -EFBIG, 0},
    {"allocation up to the limit", IOE_FALLOCATE, LIMIT - LEN, 0, 0},
    {"allocation across", IOE_FALLOCATE, LIMIT - PAGE, -EFBIG, 0},
    {"allocation beyond", IOE_FALLOCATE, LIMIT + PAGE, -EFBIG, 0},
    {"truncation to the limit", IOE_TRUNCATE, LIMIT - LEN, 0, 0},
    {"truncation beyond", IOE_TRUNCATE, LIMIT - LEN + 1, -EFBIG, 0},
};

typedef struct outcome {
    int64_t result;
    uint64_t transferred;
    int signals;
} outcome;

static outcome try(ioe_context *ctx, const way *w, const attempt *a, int fd, uint8_t *buf,
                   bool vectored, bool waiting)
{
    struct iovec iov[] = {{buf, PAGE}, {buf + PAGE, LEN - PAGE}};
    ioe_event *e = new_event();
    outcome o;
    int rc = a->action == IOE_FALLOCATE  ? ioe_prep_fallocate(e, fd, 0, a->offset, LEN)
             : a->action == IOE_TRUNCATE ? ioe_prep_truncate(e, fd, a->offset + LEN)
             : vectored                  ? ioe_prep_writev(e, fd, iov, 2, a->offset)
                                         : ioe_prep_write(e, fd, buf, LEN, a->offset);
    assert_int_equal(rc, 0);
    signals = 0;
    rlim_t before = set_file_size_limit(LIMIT);
    o.result = waiting ? ioe_submit_wait(ctx, e) : run_event(ctx, w->how, e);
    set_file_size_limit(before);
    o.transferred = ioe_event_transferred(e);
    o.signals = signals;
    assert_int_equal(ioe_event_free(e), 0);
    return o;
}

static void check_limit(const way *w, bool direct)
{
    ioe_context *ctx = new_context_in(w, 8, 8);
    uint8_t *buf = ioe_buffer_alloc(LEN, 0);
    assert_non_null(buf);
    pattern_fill(buf, LEN, 1, 0);
    for (size_t i = 0; i < COUNT_OF(attempts) * 4; i++) {
        const attempt *a = &attempts[i / 4];
        struct stat st;
        int plain = temp_file(ON_DISK);
        int fd = direct ? open_direct(plain) : plain;
        outcome o = try(ctx, w, a, fd, buf, i & 1, i & 2);
        assert_int_equal(fstat(plain, &st), 0);
        off_t size = (off_t)(o.transferred > 0 ? a->offset + o.transferred : 0);
        if (o.result != a->result || o.transferred != a->transferred)
            print_message("# %s: %lld, %llu transferred\n", a->name, (long long)o.result,
                          (unsigned long long)o.transferred);
        assert_int_equal(o.result, a->result);
        assert_int_equal(o.transferred, a->transferred);
        assert_int_equal(o.signals, 0);
        if (a->action == IOE_WRITE)
            assert_int_equal(st.st_size, size);
        if (direct)
            close(fd);
        close(plain);
    }
    ioe_buffer_free(buf);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void file_size_limit(void **state)
{
    check_limit(*state, false);
}

static void file_size_limit_direct(void **state)
{
    check_limit(*state, true);
}

/* The limit is in the middle of one member. */
static void file_size_limit_for_members(void **state)
{
    enum { COUNT = 16, MEMBER = LEN / COUNT, ACROSS = COUNT / 2 };
    const uint64_t offset = LIMIT - ACROSS * MEMBER - MEMBER / 2;
    const way *w = *state;
    for (size_t i = 0; i < COUNT_OF(manners) * 4; i++) {
        manner how = manners[i / 4];
        ioe_context *ctx = new_context_for(w, how, 8, COUNT, LEN);
        members *m = new_members(COUNT, MEMBER, i & 2);
        struct stat st;
        int plain = temp_file(ON_DISK);
        int fd = i & 1 ? open_direct(plain) : plain;
        fill_members(m, i, offset);
        signals = 0;
        rlim_t before = set_file_size_limit(LIMIT);
        transfer_members(ctx, w, m, how, LEN, IOE_WRITE, fd, offset);
        set_file_size_limit(before);
        assert_int_equal(signals, 0);
        assert_int_equal(get_stats(ctx).merged, merged_of(m, how));
        for (size_t j = 0; j < COUNT; j++) {
            assert_member(m, j, j < ACROSS ? MEMBER : -EFBIG, i, offset);
            if (j >= ACROSS)
                assert_int_equal(ioe_event_transferred(m->each[j].event),
                                 j == ACROSS ? MEMBER / 2 : 0);
        }
        assert_int_equal(fstat(plain, &st), 0);
        assert_int_equal(st.st_size, LIMIT);
        /* Without the limit they go on. */
        hand_over(ctx, w, m, how, LEN);
        await_members(ctx, w, m);
        for (size_t j = 0; j < COUNT; j++)
            assert_member(m, j, MEMBER, i, offset);
        assert_members_in_file(m, plain, i, offset);
        if (fd != plain)
            close(fd);
        close(plain);
        free_members(m);
        assert_int_equal(ioe_context_free(ctx), 0);
    }
}

int main(void)
{
    struct sigaction count = {.sa_handler = count_signal};
    const struct CMUnitTest tests[] = {
        for_each_way(file_size_limit),
        for_each_way(file_size_limit_direct),
        for_each_way(file_size_limit_for_members),
    };
    sigaction(SIGXFSZ, &count, NULL);
    return RUN_TESTS(tests);
}
