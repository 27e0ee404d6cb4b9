/*
 * Promise: a bad sector in the middle of what travels together fails the member that holds it, and no
 * other: that one with EIO, the rest whole. Only on a descriptor opened O_SYNC or O_DSYNC, where the
 * error of a write is reported for all that was written, each member has it.
 *
 * IOE_TEST_BAD_FILE is a file of at least 4 MiB with a bad sector in its middle, at
 * IOE_TEST_BAD_AT, and IOE_TEST_BAD_DEVICE a block device with this file behind.
 */
#include "members.h"

enum { COUNT = 16, LEN = 4096, LIMIT = COUNT * LEN, DEPTH = 8 };

static uint64_t bad_at(void)
{
    return strtoull(setting("IOE_TEST_BAD_AT"), NULL, 10);
}

/* Of the first member. */
static uint64_t start(void)
{
    return bad_at() / LIMIT * LIMIT;
}

static size_t bad_member(void)
{
    return (bad_at() - start()) / LEN;
}

/* The ways into the file. */
typedef struct door {
    const char *name, *variable;
    int flags;
} door;

static const door doors[] = {
    {"file", "IOE_TEST_BAD_FILE", 0},
    {"file, O_DIRECT", "IOE_TEST_BAD_FILE", O_DIRECT},
    /* The device's queue joins what comes to it at once, and fails it as one: one by one must mean one
     * after the other. */
    {"device, O_DIRECT", "IOE_TEST_BAD_DEVICE", O_DIRECT},
    /* Without an error for a write: the page cache takes it. */
    {"device", "IOE_TEST_BAD_DEVICE", 0},
};

enum { READ_DOORS = COUNT_OF(doors), WRITE_DOORS = READ_DOORS - 1 };

static int open_door(const door *d, int flags)
{
    int fd = open(setting(d->variable), O_RDWR | O_CLOEXEC | d->flags | flags);
    assert_true(fd >= 0);
    /* What was read or written by another door. */
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    /* Reading ahead puts several pages into one folio, and a folio has one error: the neighbours of a
     * bad sector would fail for any caller. */
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    return fd;
}

/* By plain calls, page by page; a page that cannot be read is left out. */
static void assert_content(uint64_t seed)
{
    uint8_t *page = ioe_buffer_alloc(LEN, 0);
    int fd = open_door(&doors[1], 0);
    assert_non_null(page);
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t offset = start() + i * LEN;
        ssize_t got = pread(fd, page, LEN, (off_t)offset);
        assert_int_equal(got, i == bad_member() ? -1 : LEN);
        if (i != bad_member())
            assert_true(pattern_holds(page, LEN, seed, offset));
    }
    close(fd);
    ioe_buffer_free(page);
}

static void store(uint64_t seed)
{
    uint8_t *page = ioe_buffer_alloc(LEN, 0);
    int fd = open_door(&doors[1], 0);
    assert_non_null(page);
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t offset = start() + i * LEN;
        pattern_fill(page, LEN, seed, offset);
        assert_int_equal(pwrite(fd, page, LEN, (off_t)offset), i == bad_member() ? -1 : LEN);
    }
    close(fd);
    ioe_buffer_free(page);
}

static void transfer(const way *w, const door *d, int flags, manner how, int action, members *m)
{
    int fd = open_door(d, flags);
    ioe_context *ctx = new_context_for(w, how, DEPTH, 2 * COUNT, LIMIT);
    transfer_members(ctx, w, m, how, LIMIT, action, fd, start());
    assert_int_equal(get_stats(ctx).merged, merged_of(m, how));
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* EIO for the member with the bad sector, or for all. */
static void assert_results(const members *m, const door *d, manner how, bool all, uint64_t seed)
{
    for (size_t i = 0; i < COUNT; i++) {
        int64_t expected = all || i == bad_member() ? -EIO : LEN;
        if (ioe_event_result(m->each[i].event) != expected)
            print_message("# %s, %s\n", d->name, manner_names[how]);
        assert_member(m, i, expected, seed, start());
    }
}

static void reading(void **state)
{
    const way *w = *state;
    uint64_t seed = (uint64_t)(w - ways);
    store(seed);
    for (size_t i = 0; i < READ_DOORS * COUNT_OF(manners) * 2; i++) {
        const door *d = &doors[i / 2 % READ_DOORS];
        manner how = manners[i / 2 / READ_DOORS];
        members *m = new_members(COUNT, LEN, i & 1);
        transfer(w, d, 0, how, IOE_READ, m);
        assert_results(m, d, how, false, seed);
        free_members(m);
    }
}

static void writing(void **state)
{
    const way *w = *state;
    for (size_t i = 0; i < WRITE_DOORS * COUNT_OF(manners) * 2; i++) {
        const door *d = &doors[i / 2 % WRITE_DOORS];
        manner how = manners[i / 2 / WRITE_DOORS];
        members *m = new_members(COUNT, LEN, i & 1);
        fill_members(m, i, start());
        transfer(w, d, 0, how, IOE_WRITE, m);
        assert_results(m, d, how, false, i);
        assert_content(i);
        free_members(m);
    }
}

static void writing_synchronously(void **state)
{
    static const int flags[] = {O_DSYNC, O_SYNC};
    const way *w = *state;
    for (size_t i = 0; i < WRITE_DOORS * COUNT_OF(manners) * COUNT_OF(flags); i++) {
        const door *d = &doors[i / 2 % WRITE_DOORS];
        manner how = manners[i / 2 / WRITE_DOORS];
        members *m = new_members(COUNT, LEN, true);
        fill_members(m, i, start());
        transfer(w, d, flags[i & 1], how, IOE_WRITE, m);
        assert_results(m, d, how, how != IN_TURN, i);
        free_members(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(reading),
        for_each_way(writing),
        for_each_way(writing_synchronously),
    };
    return RUN_TESTS(tests);
}
