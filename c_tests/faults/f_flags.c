/*
 * Promise: what a flag of an event asks for happens, and without it does not, on every driver. IOE_DSYNC:
 * the device is asked to flush after the write, before the callback. IOE_APPEND: each write goes whole to
 * the end of the file. IOE_NOWAIT: -EAGAIN for what would have to be read. IOE_DONTCACHE: no page stays,
 * or the refusal of the file system.
 *
 * See held.h. IOE_TEST_NBD_DEVICE is a block device of at least 16 MiB, and IOE_TEST_NBD_LOG what nbdkit's
 * log filter notes of it. IOE_TEST_DISK is a directory on a file system with pages to cache, and
 * IOE_TEST_FUSE one of shortfs.
 */
#include <sys/mman.h>

#include "held.h"
#include "members.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif

enum { PAGE = 4096, LIMIT = 65536, DEPTH = 16 };

static void set_flags(const members *m, uint32_t flags)
{
    for (size_t i = 0; i < m->count; i++)
        assert_int_equal(ioe_event_set_flags(m->each[i].event, flags), 0);
}

static int64_t run(ioe_context *ctx, const way *w, ioe_event *event, bool waiting)
{
    return waiting ? ioe_submit_wait(ctx, event) : run_event(ctx, w->how, event);
}

/* ---- IOE_DSYNC ---- */

enum { WRITES = 4 };

static void check_dsync_of(const uint64_t since, size_t from, size_t to, uint32_t flags)
{
    const char *path = setting("IOE_TEST_NBD_LOG");
    request_log log = read_log(path, since);
    assert_int_equal(is_safe(&log, from * PAGE, to * PAGE, log_time(path)), flags == IOE_DSYNC);
    free_log(&log);
    if (flags == 0)
        assert_int_equal(count_requests(path, since, "F", 0, UINT64_MAX), 0);
}

static void check_dsync(const way *w, int open_flags, manner how, bool waiting, uint32_t flags)
{
    int fd = open_device(setting("IOE_TEST_NBD_DEVICE"), open_flags);
    ioe_context *ctx = new_context_for(w, how, DEPTH, DEPTH, LIMIT);
    members *m = new_members(WRITES, PAGE, true);
    uint64_t since = log_time(setting("IOE_TEST_NBD_LOG"));
    fill_members(m, flags, 0);
    prepare_members(m, IOE_WRITE, fd, 0);
    set_flags(m, flags);
    for (size_t i = 0; i < WRITES && how == IN_TURN; i++) {
        assert_int_equal(run(ctx, w, m->each[i].event, waiting), PAGE);
        check_dsync_of(since, i, i + 1, flags);
    }
    if (how != IN_TURN) {
        hand_over(ctx, w, m, how, LIMIT);
        await_members(ctx, w, m);
        check_dsync_of(since, 0, WRITES, flags);
    }
    for (size_t i = 0; i < WRITES; i++)
        assert_member(m, i, PAGE, flags, 0);
    assert_int_equal(get_stats(ctx).merged, merged_of(m, how));
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(fsync(fd), 0);
    free_members(m);
    close(fd);
}

static void dsync_flushes(void **state)
{
    static const uint32_t flags[] = {IOE_DSYNC, 0};
    for (size_t i = 0; i < 2 * COUNT_OF(flags); i++) {
        int open_flags = i & 1 ? O_DIRECT : 0;
        for (size_t how = 0; how < COUNT_OF(manners); how++)
            check_dsync(*state, open_flags, manners[how], false, flags[i / 2]);
        check_dsync(*state, open_flags, IN_TURN, true, flags[i / 2]);
    }
}

/* ---- IOE_APPEND ---- */

/* Each record is as long as its number tells, and says that in its first bytes. */
enum { RECORDS = 64, RECORD_MAX = 4 * PAGE, BEYOND = 16 << 20 };

static size_t length_of(size_t number, bool direct)
{
    return direct ? (number % 4 + 1) * PAGE : 100 + number * 131 % (RECORD_MAX - 100);
}

static void fill_record(uint8_t *memory, size_t number, bool direct)
{
    pattern_fill(memory, length_of(number, direct), number, 0);
    memcpy(memory, &number, sizeof number);
}

/* All at once, or one by one; what their offsets say is nothing. */
static void check_append(const way *w, int fd, manner how, bool waiting)
{
    bool direct = fcntl(fd, F_GETFL) & O_DIRECT, found[RECORDS] = {false};
    uint8_t *memory = ioe_buffer_alloc((size_t)RECORDS * RECORD_MAX, 0);
    uint8_t *page = ioe_buffer_alloc(RECORD_MAX, 0);
    members *m = new_members(RECORDS, RECORD_MAX, false);
    ioe_context *ctx = new_context_for(w, how, DEPTH, 2 * RECORDS, LIMIT);
    size_t total = 0;
    assert_true(memory != NULL && page != NULL);
    int plain = open_again(fd, O_RDONLY);
    assert_true(plain >= 0);
    for (size_t i = 0; i < RECORDS; i++) {
        size_t len = length_of(i, direct);
        fill_record(m->each[i].memory, i, direct);
        /* Neighbours, as if they could be merged, and beyond the end. */
        assert_int_equal(ioe_prep_write(m->each[i].event, fd, m->each[i].memory, len, BEYOND + total), 0);
        total += len;
    }
    set_flags(m, IOE_APPEND);
    for (size_t i = 0; i < RECORDS && waiting; i++)
        assert_int_equal(ioe_submit_wait(ctx, m->each[i].event), length_of(i, direct));
    if (!waiting) {
        hand_over(ctx, w, m, how, LIMIT);
        await_members(ctx, w, m);
    }
    assert_int_equal(get_stats(ctx).merged, 0);
    assert_int_equal(lseek(plain, 0, SEEK_END), total);
    for (size_t at = 0; at < total;) {
        size_t number;
        assert_int_equal(pread(plain, &number, sizeof number, (off_t)at), sizeof number);
        assert_in_range(number, 0, RECORDS - 1);
        assert_false(found[number]);
        found[number] = true;
        size_t len = length_of(number, direct);
        for (size_t done = 0; done < len;) {
            ssize_t moved = pread(plain, page + done, len - done, (off_t)(at + done));
            assert_true(moved > 0);
            done += (size_t)moved;
        }
        assert_memory_equal(page, m->each[number].memory, len);
        assert_int_equal(ioe_event_result(m->each[number].event), len);
        at += len;
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(plain);
    free_members(m);
    ioe_buffer_free(memory);
    ioe_buffer_free(page);
}

static void append_goes_to_the_end(void **state)
{
    for (size_t i = 0; i < 2 * (COUNT_OF(manners) + 1); i++) {
        bool waiting = i / 2 == COUNT_OF(manners);
        int fd = temp_file(ON_DISK);
        int used = i & 1 ? open_direct(fd) : open_again(fd, O_RDWR);
        check_append(*state, used, waiting ? IN_TURN : manners[i / 2], waiting);
        close(used);
        close(fd);
    }
}

/* What was short goes on at the end, too. Only one at a time: others would come between the parts. Not in
 * a ring: there the kernel answers EIO where FUSE is short beyond the end of the file. */
static void append_in_parts(void **state)
{
    const way *w = *state;
    char path[512];
    snprintf(path, sizeof path, "%s/short-append", setting("IOE_TEST_FUSE"));
    for (int waiting = w->driver == IOE_DRIVER_URING; waiting < 2; waiting++) {
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        check_append(w, fd, IN_TURN, waiting);
        close(fd);
        assert_int_equal(unlink(path), 0);
    }
}

/* ---- IOE_NOWAIT ---- */

/* The page at N cannot be read for the moment, the one before it is cached. */
static void nowait_does_not_wait(void **state)
{
    const way *w = *state;
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    ioe_event *event = new_event();
    uint8_t *memory = ioe_buffer_alloc(2 * PAGE, 0);
    assert_non_null(memory);
    for (int waiting = 0; waiting < 2; waiting++) {
        hold_nothing();
        int fd = open_held_device(0);
        uint64_t before = held_at() - PAGE;
        assert_int_equal(pread(fd, memory, PAGE, (off_t)before), PAGE);
        tell_held(HOLD, true);
        for (size_t cached = 0; cached < 2; cached++) {
            assert_int_equal(ioe_prep_read(event, fd, memory, 2 * PAGE, before + (cached ? 0 : PAGE)), 0);
            assert_int_equal(ioe_event_set_flags(event, IOE_NOWAIT), 0);
            assert_int_equal(run(ctx, w, event, waiting), -EAGAIN);
            assert_int_equal(ioe_event_transferred(event), cached * PAGE);
        }
        tell_held(HOLD, false);
        /* The event goes on when told not to mind, and afterwards nothing has to be waited for. */
        assert_int_equal(ioe_event_set_flags(event, 0), 0);
        assert_int_equal(run(ctx, w, event, waiting), 2 * PAGE);
        assert_int_equal(ioe_prep_read(event, fd, memory, 2 * PAGE, before), 0);
        assert_int_equal(ioe_event_set_flags(event, IOE_NOWAIT), 0);
        assert_int_equal(run(ctx, w, event, waiting), 2 * PAGE);
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(event), 0);
    ioe_buffer_free(memory);
}

/* ---- IOE_DONTCACHE ---- */

enum { PAGES = 16 };

static size_t count_cached(int fd)
{
    unsigned char cached[PAGES];
    size_t count = 0;
    void *map = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, PAGES * PAGE, cached), 0);
    for (size_t i = 0; i < PAGES; i++)
        count += cached[i] & 1;
    assert_int_equal(munmap(map, PAGES * PAGE), 0);
    return count;
}

static void check_dontcache(const way *w, int fd, bool waiting, uint32_t flags)
{
    ioe_context *ctx = new_context_in(w, DEPTH, DEPTH);
    ioe_event *event = new_event();
    uint8_t *memory = ioe_buffer_alloc(PAGES * PAGE, 0);
    const struct iovec iov = {memory, PAGES * PAGE};
    const size_t expected = flags ? 0 : PAGES;
    assert_non_null(memory);
    pattern_fill(memory, PAGES * PAGE, flags, 0);
    /* Behind those that are looked at: what is new on the disk is dropped, what is not may stay. */
    bool known = pwritev2(fd, &iov, 1, PAGES * PAGE, RWF_DONTCACHE) == PAGES * PAGE;
    if (!known)
        assert_int_equal(errno, EOPNOTSUPP);
    for (int reads = 0; reads < 2; reads++) {
        assert_int_equal(fsync(fd), 0);
        assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        assert_int_equal(reads ? ioe_prep_read(event, fd, memory, PAGES * PAGE, 0)
                               : ioe_prep_write(event, fd, memory, PAGES * PAGE, 0),
                         0);
        assert_int_equal(ioe_event_set_flags(event, flags), 0);
        int64_t result = run(ctx, w, event, waiting);
        assert_int_equal(result, known || flags == 0 ? PAGES * PAGE : -EOPNOTSUPP);
        if (!known)
            continue;
        /* Pages that were written go when they are on the disk, a moment after. */
        assert_int_equal(fsync(fd), 0);
        while (flags && count_cached(fd) > expected)
            sched_yield();
        assert_int_equal(count_cached(fd), expected);
        if (reads)
            assert_true(pattern_holds(memory, PAGES * PAGE, flags, 0));
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    assert_int_equal(ioe_event_free(event), 0);
    ioe_buffer_free(memory);
}

static void dontcache_leaves_no_page(void **state)
{
    for (int i = 0; i < 8; i++) {
        int fd = temp_file(i & 4 ? IN_MEMORY : ON_DISK);
        check_dontcache(*state, fd, i & 1, i & 2 ? IOE_DONTCACHE : 0);
        close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_way(dsync_flushes),
        for_each_way(append_goes_to_the_end),
        for_each_way(append_in_parts),
        for_each_way(nowait_does_not_wait),
        for_each_way(dontcache_leaves_no_page),
    };
    return RUN_TESTS(tests);
}
