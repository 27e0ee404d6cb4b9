/*
 * Promise: a bad descriptor, a descriptor that does not allow the action, a misaligned direct
 * transfer or a wild buffer is the kernel's to judge: its errno arrives in the callback, on every
 * action and delivery alike, and the process lives on.
 */
#include <limits.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "common.h"

/* As much as a direct transfer needs, and the buffer for two of them with a gap. */
#define UNIT 4096
#define LEN (4 * UNIT)

static _Alignas(UNIT) uint8_t buffer[LEN];

/* Every way to prepare; the names are for the message of a failure. */
enum {
    READ, WRITE, READV, WRITEV, FSYNC, FDATASYNC, FALLOCATE, SYNC_RANGE, TRUNCATE, ADVISE, PREPARATIONS
};
static const char *const names[] = {"read",  "write",     "readv",    "writev",
                                    "fsync", "fdatasync", "fallocate", "sync_range",
                                    "truncate", "advise"};

static void prep(ioe_event *e, int which, int fd, void *buf)
{
    struct iovec iov[2] = {{buf, UNIT}, {(uint8_t *)buf + 2 * UNIT, UNIT}};
    int rc = 0;
    switch (which) {
    case READ:
        rc = ioe_prep_read(e, fd, buf, UNIT, 0);
        break;
    case WRITE:
        rc = ioe_prep_write(e, fd, buf, UNIT, 0);
        break;
    case READV:
        rc = ioe_prep_readv(e, fd, iov, 2, 0);
        break;
    case WRITEV:
        rc = ioe_prep_writev(e, fd, iov, 2, 0);
        break;
    case FSYNC:
        rc = ioe_prep_fsync(e, fd);
        break;
    case FDATASYNC:
        rc = ioe_prep_fdatasync(e, fd);
        break;
    case SYNC_RANGE:
        rc = ioe_prep_sync_range(e, fd, 0, UNIT, SYNC_FILE_RANGE_WRITE);
        break;
    case TRUNCATE:
        rc = ioe_prep_truncate(e, fd, LEN);
        break;
    case ADVISE:
        rc = ioe_prep_advise(e, fd, 0, UNIT, POSIX_FADV_NORMAL);
        break;
    default:
        rc = ioe_prep_fallocate(e, fd, 0, 0, UNIT);
    }
    assert_int_equal(rc, 0);
}

static void check(const char *what, int fd, int64_t result, int64_t expected, const ioe_event *e)
{
    if (result != expected)
        print_error("%s of descriptor %d\n", what, fd);
    assert_int_equal(result, expected);
    assert_true(ioe_event_is_done(e));
    assert_int_equal(ioe_event_transferred(e), expected > 0 ? expected : 0);
}

/* Every preparation through a callback and on the calling thread, which must not differ.
 * IOE_PENDING: what comes of this one is not said. */
static void expect_each(ioe_context *ctx, const delivery *how, int fd, void *buf,
                        const int64_t expected[PREPARATIONS])
{
    ioe_event *e = new_event();
    for (int which = 0; which < PREPARATIONS; which++) {
        if (expected[which] == IOE_PENDING)
            continue;
        prep(e, which, fd, buf);
        check(names[which], fd, run_event(ctx, how, e), expected[which], e);
        prep(e, which, fd, buf);
        check(names[which], fd, ioe_submit_wait(ctx, e), expected[which], e);
    }
    assert_int_equal(ioe_event_free(e), 0);
}

/* The context still does its work. */
static void assert_alive(ioe_context *ctx, const delivery *how)
{
    int fd = temp_file(ON_DISK);
    ioe_event *e = new_event();
    assert_int_equal(ioe_prep_write(e, fd, buffer, LEN, 0), 0);
    assert_int_equal(run_event(ctx, how, e), LEN);
    assert_int_equal(ioe_event_free(e), 0);
    close(fd);
}

static void bad_descriptors(void **state)
{
    const delivery *how = *state;
    static const int64_t all_bad[PREPARATIONS] = {-EBADF, -EBADF, -EBADF, -EBADF, -EBADF,
                                                  -EBADF, -EBADF, -EBADF, -EBADF, -EBADF};
    ioe_context *ctx = new_context(how, 8, 64);
    /* A number high enough that nobody takes it again while this runs. */
    int file = temp_file(ON_DISK);
    int closed = fcntl(file, F_DUPFD_CLOEXEC, 500);
    assert_true(closed >= 500);
    close(closed);
    close(file);
    const int fds[] = {-1, closed, 1 << 20, INT_MAX, INT_MIN, -100};
    for (size_t i = 0; i < COUNT_OF(fds); i++)
        expect_each(ctx, how, fds[i], buffer, all_bad);
    assert_alive(ctx, how);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* A failure in a batch is the failure of one event only. */
static void bad_descriptor_among_good_ones(void **state)
{
    const delivery *how = *state;
    enum { COUNT = 40 };
    ioe_context *ctx = new_context(how, 4, 64);
    int fd = temp_file(ON_DISK);
    latch done = LATCH_INIT;
    ioe_event *events[COUNT];
    for (int i = 0; i < COUNT; i++) {
        events[i] = new_event();
        assert_int_equal(ioe_event_set_callback(events[i], hit_latch, &done), 0);
        assert_int_equal(
            ioe_prep_write(events[i], i % 3 == 0 ? -1 : fd, buffer, 100, 100 * (uint64_t)i), 0);
    }
    assert_int_equal(ioe_submit_batch(ctx, events, COUNT), COUNT);
    await(ctx, how, &done, COUNT);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(ioe_event_result(events[i]), i % 3 == 0 ? -EBADF : 100);
        assert_int_equal(ioe_event_free(events[i]), 0);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

/* Files of each place, each with the page cache and without. */
static const struct {
    place where;
    int flags;
} kinds[] = {{ON_DISK, 0}, {ON_DISK, O_DIRECT}, {IN_MEMORY, 0}, {IN_MEMORY, O_DIRECT}};

static void descriptors_of_the_wrong_mode(void **state)
{
    const delivery *how = *state;
    static const int64_t read_only[PREPARATIONS] = {UNIT, -EBADF, 2 * UNIT, -EBADF, 0,
                                                    0,    -EBADF, 0,        -EINVAL, 0};
    static const int64_t write_only[PREPARATIONS] = {-EBADF, UNIT, -EBADF, 2 * UNIT, 0,
                                                     0,      0,    0,      0,        0};
    ioe_context *ctx = new_context(how, 8, 64);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        int fd = temp_file(kinds[i].where);
        assert_int_equal(ftruncate(fd, LEN), 0);
        int reader = open_again(fd, O_RDONLY | kinds[i].flags);
        int writer = open_again(fd, O_WRONLY | kinds[i].flags);
        /* Not every file system has direct I/O. */
        if (kinds[i].flags == 0 || reader >= 0 || errno != EINVAL) {
            assert_true(reader >= 0 && writer >= 0);
            expect_each(ctx, how, reader, buffer, read_only);
            expect_each(ctx, how, writer, buffer, write_only);
            close(writer);
            close(reader);
        }
        close(fd);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* O_APPEND puts every write at the end, whatever its offset says. */
static void appending_descriptors(void **state)
{
    const delivery *how = *state;
    ioe_context *ctx = new_context(how, 8, 64);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        int plain = temp_file(kinds[i].where);
        int fd = open_again(plain, O_WRONLY | O_APPEND | kinds[i].flags);
        assert_true(fd >= 0 || (kinds[i].flags != 0 && errno == EINVAL));
        for (uint64_t at = 0; at < 8 && fd >= 0; at++) {
            ioe_event *e = new_event();
            uint8_t *out = ioe_buffer_alloc(UNIT, 0);
            pattern_fill(out, UNIT, 5, at * UNIT);
            assert_int_equal(ioe_prep_write(e, fd, out, UNIT, 0), 0);
            assert_int_equal(at % 2 == 0 ? run_event(ctx, how, e) : ioe_submit_wait(ctx, e), UNIT);
            assert_int_equal(lseek(plain, 0, SEEK_END), (at + 1) * UNIT);
            memset(out, 0, UNIT);
            assert_int_equal(pread(plain, out, UNIT, (off_t)(at * UNIT)), UNIT);
            assert_true(pattern_holds(out, UNIT, 5, at * UNIT));
            ioe_buffer_free(out);
            assert_int_equal(ioe_event_free(e), 0);
        }
        if (fd >= 0)
            close(fd);
        close(plain);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* Further out than the file system goes: the errno that a plain write has. */
static void offsets_beyond_what_there_can_be(void **state)
{
    const delivery *how = *state;
    static const uint64_t offsets[] = {INT64_MAX - UNIT - (INT64_MAX - UNIT) % UNIT,
                                       UINT64_C(1) << 62, UINT64_C(1) << 56};
    ioe_context *ctx = new_context(how, 8, 64);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        int plain = temp_file(kinds[i].where);
        int fd = open_again(plain, O_RDWR | kinds[i].flags);
        assert_true(fd >= 0 || (kinds[i].flags != 0 && errno == EINVAL));
        for (size_t j = 0; j < COUNT_OF(offsets) && fd >= 0; j++) {
            ioe_event *e = new_event();
            int64_t expected = pwrite(fd, buffer, UNIT, (off_t)offsets[j]);
            expected = expected < 0 ? -errno : expected;
            assert_int_equal(ftruncate(fd, 0), 0);
            assert_int_equal(ioe_prep_write(e, fd, buffer, UNIT, offsets[j]), 0);
            check("far write", fd, run_event(ctx, how, e), expected, e);
            assert_int_equal(ioe_prep_write(e, fd, buffer, UNIT, offsets[j]), 0);
            check("far write", fd, ioe_submit_wait(ctx, e), expected, e);
            assert_int_equal(ftruncate(fd, 0), 0);
            assert_int_equal(ioe_prep_read(e, fd, buffer, UNIT, offsets[j]), 0);
            check("far read", fd, run_event(ctx, how, e), 0, e);
            assert_int_equal(ioe_event_free(e), 0);
        }
        if (fd >= 0)
            close(fd);
        close(plain);
    }
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* A failed event goes round again, here on the calling thread, and fails again. */
static void expect_misaligned(ioe_context *ctx, const delivery *how, ioe_event *e)
{
    int fd = ioe_event_fd(e);
    check("misaligned", fd, run_event(ctx, how, e), -EINVAL, e);
    check("misaligned", fd, ioe_submit_wait(ctx, e), -EINVAL, e);
}

static void misaligned_direct_transfers(void **state)
{
    const delivery *how = *state;
    struct statfs fs;
    int plain = temp_file(ON_DISK);
    int fd = open_direct(plain);
    assert_int_equal(fstatfs(fd, &fs), 0);
    if (fs.f_type != EXT4_SUPER_MAGIC) {
        /* Others take what is misaligned, or do as if. */
        close(fd);
        close(plain);
        skip();
    }
    ioe_context *ctx = new_context(how, 8, 64);
    uint8_t *buf = ioe_buffer_alloc(LEN, 0);
    ioe_event *e = new_event();
    assert_non_null(buf);
    /* Blocks that are on the disk: a hole is not read from there, and no alignment is asked. */
    for (off_t at = 0; at < 4 * LEN; at += LEN)
        assert_int_equal(pwrite(plain, buf, LEN, at), LEN);
    assert_int_equal(fsync(plain), 0);
    const struct {
        size_t len;
        uint64_t offset;
    } cases[] = {{4096, 1}, {4096, 511}, {1, 0}, {511, 0}, {4097, 4096}, {100, 100}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct iovec iov[2] = {{buf, 1}, {buf + 4096, cases[i].len - 1}};
        if (cases[i].len == 4096)
            iov[1].iov_len = 4096;
        assert_int_equal(ioe_prep_read(e, fd, buf, cases[i].len, cases[i].offset), 0);
        expect_misaligned(ctx, how, e);
        assert_int_equal(ioe_prep_write(e, fd, buf, cases[i].len, cases[i].offset), 0);
        expect_misaligned(ctx, how, e);
        assert_int_equal(ioe_prep_readv(e, fd, iov, 2, cases[i].offset), 0);
        expect_misaligned(ctx, how, e);
        assert_int_equal(ioe_prep_writev(e, fd, iov, 2, cases[i].offset), 0);
        expect_misaligned(ctx, how, e);
    }
    assert_int_equal(ioe_prep_write(e, fd, buf + 1, 4096, 0), 0);
    expect_misaligned(ctx, how, e);
    assert_int_equal(ioe_event_free(e), 0);
    ioe_buffer_free(buf);
    assert_alive(ctx, how);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
    close(plain);
}

static void directories(void **state)
{
    const delivery *how = *state;
    static const int64_t expected[PREPARATIONS] = {
        -EISDIR,     -EBADF, -EISDIR,     -EBADF,  IOE_PENDING,
        IOE_PENDING, -EBADF, IOE_PENDING, -EINVAL, IOE_PENDING};
    ioe_context *ctx = new_context(how, 8, 64);
    static const place places[] = {ON_DISK, IN_MEMORY};
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        int fd = open(place_dir(places[i]), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            continue;
        expect_each(ctx, how, fd, buffer, expected);
        close(fd);
    }
    assert_alive(ctx, how);
    assert_int_equal(ioe_context_free(ctx), 0);
}

static void wild_buffers(void **state)
{
    const delivery *how = *state;
    static const int64_t expected[PREPARATIONS] = {
        -EFAULT,     -EFAULT,     -EFAULT,     -EFAULT,     IOE_PENDING,
        IOE_PENDING, IOE_PENDING, IOE_PENDING, IOE_PENDING, IOE_PENDING};
    ioe_context *ctx = new_context(how, 8, 64);
    void *forbidden = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(forbidden != MAP_FAILED);
    void *const wild[] = {forbidden, (void *)(uintptr_t)4096,
                          (void *)(UINTPTR_MAX - 65535) /* the kernel's half */};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        int plain = temp_file(kinds[i].where);
        /* Written, because a hole is read without the disk. */
        assert_int_equal(pwrite(plain, buffer, LEN, 0), LEN);
        assert_int_equal(fsync(plain), 0);
        int fd = open_again(plain, O_RDWR | kinds[i].flags);
        assert_true(fd >= 0 || (kinds[i].flags != 0 && errno == EINVAL));
        for (size_t j = 0; j < COUNT_OF(wild) && fd >= 0; j++)
            expect_each(ctx, how, fd, wild[j], expected);
        if (fd >= 0)
            close(fd);
        close(plain);
    }
    assert_int_equal(munmap(forbidden, LEN), 0);
    assert_alive(ctx, how);
    assert_int_equal(ioe_context_free(ctx), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(bad_descriptors),
        for_each_delivery(bad_descriptor_among_good_ones),
        for_each_delivery(descriptors_of_the_wrong_mode),
        for_each_delivery(appending_descriptors),
        for_each_delivery(offsets_beyond_what_there_can_be),
        for_each_delivery(misaligned_direct_transfers),
        for_each_delivery(directories),
        for_each_delivery(wild_buffers),
    };
    return RUN_TESTS(tests);
}
