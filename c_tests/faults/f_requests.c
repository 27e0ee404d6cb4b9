/*
 * Promise: neighbours travel together, as the kernel counts it: of 4,096 transfers of 4 KiB with a
 * limit of 64 KiB the device sees at most 1/15 as requests from a merger or a batch, at most 1/8 where
 * they were submitted one by one while no slot was free, and all where merging is off.
 * The statistics say the same, and each byte arrives at its place.
 *
 * IOE_TEST_LOOP is a loop device of at least 16 MiB whose own merging is off (nomerges 2), and
 * IOE_TEST_LOOP_FILE the file behind it.
 */
#include <inttypes.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "../stuck.h"
#include "members.h"

enum { COUNT = 4096, LEN = 4096, LIMIT = 65536, DEPTH = 4 };

/* Open until the end, and locked, which keeps udev from reading it (BLOCK_DEVICE_LOCKING of systemd). */
static int loop_device(void)
{
    static int fd = -1;
    if (fd >= 0)
        return fd;
    fd = open(setting("IOE_TEST_LOOP"), O_RDWR | O_DIRECT | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    return fd;
}

/* As the kernel counts them: Documentation/block/stat.rst. */
static uint64_t requests_of(int fd, int action)
{
    char path[64];
    struct stat st;
    uint64_t reads, writes;
    assert_int_equal(fstat(fd, &st), 0);
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/stat", major(st.st_rdev), minor(st.st_rdev));
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%" SCNu64 " %*u %*u %*u %" SCNu64, &reads, &writes), 2);
    fclose(file);
    return action == IOE_READ ? reads : writes;
}

/* Looked at in the file behind the device, which makes no requests. */
static void assert_written(uint64_t seed)
{
    static uint8_t bytes[1 << 20];
    int fd = open(setting("IOE_TEST_LOOP_FILE"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (uint64_t at = 0; at < (uint64_t)COUNT * LEN; at += sizeof bytes) {
        assert_int_equal(pread(fd, bytes, sizeof bytes, (off_t)at), sizeof bytes);
        assert_true(pattern_holds(bytes, sizeof bytes, seed, at));
    }
    close(fd);
}

typedef struct seen {
    uint64_t requests, operations, merged;
} seen;

/* Singles wait behind reads that take every slot, and stay until the last single is accepted: all of
 * them wait together, however fast the device is. */
static seen run(ioe_context *ctx, const way *w, members *m, manner how, int action, int fd)
{
    stuck_read held[DEPTH];
    latch let_go = LATCH_INIT;
    size_t holds = how == SINGLES ? DEPTH : 0;
    ioe_stats before = get_stats(ctx);
    seen s = {.requests = requests_of(fd, action)};
    prepare_members(m, action, fd, 0);
    for (size_t i = 0; i < holds; i++) {
        stuck_prepare(&held[i], hit_latch, &let_go);
        assert_int_equal(ioe_submit(ctx, held[i].event), 0);
    }
    hand_over(ctx, w, m, how, LIMIT);
    for (size_t i = 0; i < holds; i++)
        assert_true(stuck_let_go(&held[i]));
    await_members(ctx, w, m);
    for (size_t i = 0; i < holds; i++)
        stuck_free(&held[i]);
    ioe_stats after = get_stats(ctx);
    s.operations = after.operations - before.operations - holds;
    s.merged = after.merged - before.merged;
    /* The kernel counts a request a moment after it has told of its end. Each operation is one. */
    uint64_t first = s.requests;
    while ((s.requests = requests_of(fd, action) - first) < s.operations)
        sched_yield();
    return s;
}

/* Written, then read, from memory in one piece, then scattered. */
static void check_requests(const way *w, manner how, uint32_t limit, uint64_t least, uint64_t most)
{
    static const int actions[] = {IOE_WRITE, IOE_READ};
    seen all[4];
    int fd = loop_device();
    ioe_context *ctx = new_merging_context_in(w, DEPTH, 2 * COUNT, limit);
    for (size_t i = 0; i < COUNT_OF(all); i += COUNT_OF(actions)) {
        members *m = new_members(COUNT, LEN, i > 0);
        uint64_t seed = i + how * 8 + (uint64_t)(w - ways) * 64;
        fill_members(m, seed, 0);
        for (size_t a = 0; a < COUNT_OF(actions); a++) {
            if (actions[a] == IOE_READ)
                memset(m->buffer, 0, (size_t)COUNT * LEN);
            all[i + a] = run(ctx, w, m, how, actions[a], fd);
            for (size_t j = 0; j < COUNT; j++)
                assert_member(m, j, LEN, seed, 0);
            assert_written(seed);
        }
        free_members(m);
    }
    print_message("# %s, %s%s: requests %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
                  ", operations %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                  w->name, manner_names[how], limit > 0 || how == MERGER ? "" : ", merging off",
                  all[0].requests, all[1].requests, all[2].requests, all[3].requests,
                  all[0].operations, all[1].operations, all[2].operations, all[3].operations);
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        assert_in_range(all[i].requests, least, most);
        assert_in_range(all[i].operations, least, most);
        assert_int_equal(all[i].merged, COUNT - all[i].operations);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void from_a_merger(void **state)
{
    check_requests(*state, MERGER, 0, COUNT * LEN / LIMIT, COUNT / 15);
}

static void from_a_batch(void **state)
{
    check_requests(*state, BATCH, LIMIT, COUNT * LEN / LIMIT, COUNT / 15);
}

static void one_by_one(void **state)
{
    check_requests(*state, SINGLES, LIMIT, COUNT * LEN / LIMIT, COUNT / 8);
}

static void with_merging_off(void **state)
{
    check_requests(*state, SINGLES, 0, COUNT, COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(from_a_merger),
        for_each_way(from_a_batch),
        for_each_way(one_by_one),
        for_each_way(with_merging_off),
    };
    return RUN_TESTS(tests);
}
