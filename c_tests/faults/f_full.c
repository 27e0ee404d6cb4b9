/*
 * Promise: a write for which there is no room fails with ENOSPC, or EDQUOT, tells how much of it got
 * through, and goes on from there when there is room again. Of many that travelled together, each has
 * what it would have had alone.
 *
 * IOE_TEST_FULL is a directory on a file system of its own with room for 4 to 12 MiB, or with
 * IOE_TEST_QUOTA for so many bytes.
 */
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "members.h"

enum { MIB = 1 << 20, PAGE = 4096, MANY = 512 };

static int new_file(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/full-XXXXXX", setting("IOE_TEST_FULL"));
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    return fd;
}

static int64_t no_room_error(void)
{
    return getenv("IOE_TEST_QUOTA") != NULL ? -EDQUOT : -ENOSPC;
}

/* How much room there is, when it is so much at least. What was freed comes back with the journal, and a
 * little later where the kernel still has a file in hand. */
static size_t await_room(int fd, size_t least)
{
    struct statvfs fs;
    const char *quota = getenv("IOE_TEST_QUOTA");
    size_t room;
    do {
        assert_int_equal(syncfs(fd), 0);
        assert_int_equal(fstatvfs(fd, &fs), 0);
        room = quota != NULL ? strtoul(quota, NULL, 10) : (size_t)fs.f_bfree * fs.f_frsize;
    } while (room < least);
    return room / PAGE * PAGE;
}

/* That of a file system without other files, but for what it needs for itself. */
static size_t await_all_room(int fd)
{
    static size_t all;
    const size_t room = await_room(fd, all / 16 * 15);
    all = all > room ? all : room;
    return room;
}

static int64_t run(ioe_context *ctx, const way *w, ioe_event *e, bool waiting)
{
    return waiting ? ioe_submit_wait(ctx, e) : run_event(ctx, w->how, e);
}

static void assert_content(int fd, size_t len)
{
    uint8_t *buf = malloc(len + 1);
    assert_non_null(buf);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(pread(fd, buf, len, 0), len);
    assert_true(pattern_holds(buf, len, 1, 0));
    free(buf);
}

/* Half of the room is taken by another file, which then goes. */
static void check_full(ioe_context *ctx, const way *w, bool direct, bool vectored, bool waiting)
{
    int filler = new_file(), plain = new_file();
    int fd = direct ? open_direct(plain) : plain;
    size_t room = await_all_room(plain);
    assert_true(room >= 3 * MIB && room <= 16 * MIB);
    assert_int_equal(fallocate(filler, 0, 0, (off_t)(room / 2)), 0);
    size_t len = room / 4 * 3 / PAGE * PAGE;
    uint8_t *buf = ioe_buffer_alloc(len, 0);
    struct iovec iov[] = {{buf, MIB}, {buf + MIB, len - MIB}};
    struct stat st;
    ioe_event *e = new_event();
    assert_non_null(buf);
    pattern_fill(buf, len, 1, 0);
    int rc = vectored ? ioe_prep_writev(e, fd, iov, 2, 0) : ioe_prep_write(e, fd, buf, len, 0);
    assert_int_equal(rc, 0);
    assert_int_equal(run(ctx, w, e, waiting), no_room_error());
    uint64_t through = ioe_event_transferred(e);
    assert_true(through < len && through % PAGE == 0);
    assert_int_equal(fstat(plain, &st), 0);
    assert_int_equal(st.st_size, through);
    assert_content(plain, through);
    /* A tmpfs is filled to the last page. */
    if (getenv("IOE_TEST_FULL_TELLS") != NULL)
        assert_true(through >= room / 4);
    /* The same again, without a byte more. */
    assert_int_equal(run(ctx, w, e, !waiting), no_room_error());
    assert_true(ioe_event_transferred(e) >= through);

    close(filler);
    await_room(plain, room / 4);
    assert_int_equal(run(ctx, w, e, waiting), len);
    assert_int_equal(ioe_event_transferred(e), len);
    assert_int_equal(fstat(plain, &st), 0);
    assert_int_equal(st.st_size, len);
    assert_content(plain, len);

    assert_int_equal(ioe_prep_fallocate(e, plain, 0, 0, 2 * room), 0);
    assert_int_equal(run(ctx, w, e, waiting), no_room_error());
    assert_int_equal(ioe_event_transferred(e), 0);

    assert_int_equal(ioe_event_free(e), 0);
    ioe_buffer_free(buf);
    if (direct)
        close(fd);
    close(plain);
}

static void check_all(const way *w, bool direct)
{
    ioe_context *ctx = new_context_in(w, 8, 8);
    for (int i = 0; i < 4; i++)
        check_full(ctx, w, direct, i & 1, i & 2);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void no_room(void **state)
{
    check_all(*state, false);
}

static void no_room_direct(void **state)
{
    check_all(*state, true);
}

/* ---- many that travel together ---- */

typedef struct outcome {
    int64_t result;
    uint64_t transferred;
} outcome;

/* The room ends in the middle of a member. One operation at a time: of several at once, any may have
 * the last of the room. */
static void write_members(const way *w, manner how, bool direct, outcome *outcomes)
{
    enum { MEMBER = 10 * PAGE, LIMIT = MIB };
    ioe_context *ctx = new_context_for(w, how, 1, MANY, LIMIT);
    int filler = new_file(), plain = new_file();
    int fd = direct ? open_direct(plain) : plain;
    size_t room = await_all_room(plain), whole = 0;
    assert_int_equal(fallocate(filler, 0, 0, (off_t)(room / 2)), 0);
    members *m = new_members(room / 4 * 3 / MEMBER, MEMBER, true);
    assert_true(m->count <= MANY);
    fill_members(m, 1, 0);
    transfer_members(ctx, w, m, how, LIMIT, IOE_WRITE, fd, 0);
    uint64_t merged = get_stats(ctx).merged;
    assert_true(how == IN_TURN ? merged == 0 : merged >= m->count / 2);
    for (size_t i = 0; i < m->count; i++) {
        const ioe_event *e = m->each[i].event;
        outcomes[i] = (outcome){ioe_event_result(e), ioe_event_transferred(e)};
        whole += outcomes[i].result == MEMBER;
        assert_true(outcomes[i].result == MEMBER || outcomes[i].result == no_room_error());
    }
    assert_true(whole > 0 && whole < m->count);
    assert_members_in_file(m, plain, 1, 0);

    /* They go on when there is room again. */
    close(filler);
    await_room(plain, room / 4);
    hand_over(ctx, w, m, how, LIMIT);
    await_members(ctx, w, m);
    for (size_t i = 0; i < m->count; i++)
        assert_member(m, i, MEMBER, 1, 0);
    assert_members_in_file(m, plain, 1, 0);
    free_members(m);
    assert_int_equal(ioe_context_free(ctx), 0);
    if (direct)
        close(fd);
    close(plain);
}

static void no_room_for_members(void **state)
{
    for (int direct = 0; direct < 2; direct++) {
        static outcome all[COUNT_OF(manners)][MANY];
        memset(all, 0, sizeof all);
        for (size_t i = 0; i < COUNT_OF(manners); i++) {
            const outcome *alone = all[0], *together = all[i];
            write_members(*state, manners[i], direct, all[i]);
            for (size_t j = 0; j < MANY; j++)
                if (memcmp(&together[j], &alone[j], sizeof alone[j]) != 0)
                    print_message("# %s, member %zu: %lld, %llu transferred; alone %lld, %llu\n",
                                  manner_names[manners[i]], j, (long long)together[j].result,
                                  (unsigned long long)together[j].transferred,
                                  (long long)alone[j].result,
                                  (unsigned long long)alone[j].transferred);
            assert_memory_equal(together, alone, sizeof all[0]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(no_room),
        for_each_way(no_room_direct),
        for_each_way(no_room_for_members),
    };
    return RUN_TESTS(tests);
}
