/*
 * Promise: lengths, offsets and results are 64 bits wide. One event reads or writes more than
 * 5 GiB, though the kernel moves at most 2 GiB less a page at once.
 *
 * The memory is small: one chunk of tmpfs mapped over and over makes up the buffer, and only
 * around the places to be checked there are pages of its own. The file is sparse.
 */
#include <sys/mman.h>
#include <sys/statvfs.h>

#include "common.h"

#define PAGE ((size_t)4096)
#define GIB ((size_t)1 << 30)
#define CHUNK ((size_t)64 << 20)
#define TOTAL (5 * GIB)
#define KERNEL_MOST ((size_t)0x7ffff000)

/* Three segments of 1.7 GiB less a few bytes, none on a page boundary but one. */
#define THIRD (TOTAL / 3 + 1)

/* Where the bytes are checked, a page to either side: the ends, the seams, and where 30, 31 or 32
 * bits or one operation of the kernel come to their end. */
static const size_t marks[] = {
    PAGE,      GIB,     THIRD,           KERNEL_MOST,  2 * GIB, 3 * GIB, 3 * GIB + 12345 * 10,
    2 * THIRD, 4 * GIB, 2 * KERNEL_MOST, TOTAL - PAGE,
};

static uint64_t seed = 7;

/* ---- the buffer ---- */

static uint8_t *reserve(void)
{
    int memory = memfd_create("chunk", MFD_CLOEXEC);
    assert_true(memory >= 0);
    assert_int_equal(ftruncate(memory, CHUNK), 0);
    uint8_t *buf = mmap(NULL, TOTAL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(buf != MAP_FAILED);
    for (size_t at = 0; at < TOTAL; at += CHUNK)
        assert_ptr_equal(mmap(buf + at, CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                              memory, 0),
                         buf + at);
    close(memory);
    return buf;
}

/* The place in the buffer of a byte of the file: vectored, the thirds come in reverse. */
static size_t place_of(size_t in_file, bool vectored)
{
    if (!vectored)
        return in_file;
    if (in_file < THIRD)
        return in_file + TOTAL - THIRD;
    if (in_file < 2 * THIRD)
        return in_file + TOTAL - 3 * THIRD;
    return in_file - 2 * THIRD;
}

/* Calls visit for the bytes around every mark: in one piece, or in two where a seam lies there. */
typedef void (*visit_fn)(int fd, uint8_t *piece, size_t len, size_t in_file);

static void visit_marks(int fd, uint8_t *buf, bool vectored, visit_fn visit)
{
    for (size_t i = 0; i < COUNT_OF(marks); i++) {
        size_t from = marks[i] - PAGE, end = marks[i] + PAGE;
        while (from < end) {
            size_t place = place_of(from, vectored), len = 1;
            while (from + len < end && place_of(from + len, vectored) == place + len)
                len++;
            visit(fd, buf + place, len, from);
            from += len;
        }
    }
}

/* Gives the piece pages of its own in place of those of the chunk. */
static void own_pages(int fd, uint8_t *piece, size_t len, size_t in_file)
{
    (void)fd;
    (void)in_file;
    uint8_t *from = piece - (uintptr_t)piece % PAGE;
    size_t pages = ((size_t)(piece + len - from) + PAGE - 1) / PAGE;
    assert_ptr_equal(mmap(from, pages * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                     from);
}

static void put_in_file(int fd, uint8_t *piece, size_t len, size_t in_file)
{
    uint8_t bytes[2 * PAGE];
    (void)piece;
    pattern_fill(bytes, len, seed, in_file);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)in_file), len);
}

static void check_in_file(int fd, uint8_t *piece, size_t len, size_t in_file)
{
    uint8_t bytes[2 * PAGE];
    (void)piece;
    assert_int_equal(pread(fd, bytes, len, (off_t)in_file), len);
    assert_true(pattern_holds(bytes, len, seed, in_file));
}

static void put_in_buffer(int fd, uint8_t *piece, size_t len, size_t in_file)
{
    (void)fd;
    pattern_fill(piece, len, seed, in_file);
}

static void check_in_buffer(int fd, uint8_t *piece, size_t len, size_t in_file)
{
    (void)fd;
    assert_true(pattern_holds(piece, len, seed, in_file));
}

/* ---- the transfers ---- */

static const delivery *const how = &deliveries[2];

static void prep(ioe_event *e, int action, int fd, uint8_t *buf, bool vectored)
{
    struct iovec iov[3] = {{buf + place_of(0, true), THIRD},
                           {buf + place_of(THIRD, true), THIRD},
                           {buf + place_of(2 * THIRD, true), TOTAL - 2 * THIRD}};
    if (action == IOE_READ)
        assert_int_equal(vectored ? ioe_prep_readv(e, fd, iov, 3, 0)
                                  : ioe_prep_read(e, fd, buf, TOTAL, 0),
                         0);
    else
        assert_int_equal(vectored ? ioe_prep_writev(e, fd, iov, 3, 0)
                                  : ioe_prep_write(e, fd, buf, TOTAL, 0),
                         0);
    assert_int_equal(ioe_event_size(e), TOTAL);
}

static void check_account(ioe_context *ctx, int action)
{
    assert_int_equal(ioe_drain(ctx, -1), 0);
    ioe_stats stats = get_stats(ctx);
    assert_int_equal(action == IOE_READ ? stats.bytes_read : stats.bytes_written, TOTAL);
    assert_int_equal(stats.accepted, 1);
    assert_int_equal(stats.completed, 1);
    assert_true(stats.operations >= 3);
}

/* The engine works on fd; plain is the same file as the test looks at it. */
static void check_large(int action, bool vectored, int fd, int plain)
{
    ioe_context *ctx = new_context(how, 8, 8);
    ioe_event *e = new_event();
    uint8_t *buf = reserve();
    visit_marks(plain, buf, vectored, own_pages);
    if (action == IOE_READ) {
        /* One byte more than is asked for, which must stay out of it. */
        assert_int_equal(ftruncate(plain, (off_t)(TOTAL + 1)), 0);
        visit_marks(plain, buf, vectored, put_in_file);
    } else {
        visit_marks(plain, buf, vectored, put_in_buffer);
    }
    prep(e, action, fd, buf, vectored);
    assert_int_equal(run_event(ctx, how, e), TOTAL);
    assert_int_equal(ioe_event_transferred(e), TOTAL);
    visit_marks(plain, buf, vectored, action == IOE_READ ? check_in_buffer : check_in_file);
    if (action == IOE_WRITE)
        assert_int_equal(lseek(plain, 0, SEEK_END), TOTAL);
    check_account(ctx, action);
    assert_int_equal(munmap(buf, TOTAL), 0);
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
}

/* Direct: holes are then read without filling the page cache. */
static void one_read_of_5_gib(void **state)
{
    (void)state;
    int plain = temp_file(ON_DISK);
    int fd = open_direct(plain);
    check_large(IOE_READ, false, fd, plain);
    close(fd);
    close(plain);
}

static uint64_t available_memory(void)
{
    unsigned long long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return kib * 1024;
}

/* Into memory, which has to be there; on a disk it would take too long. What was written is read
 * back into three segments, after the bytes at the marks were replaced. */
static void one_write_of_5_gib_and_a_vectored_read_of_3_times_1_7_gib(void **state)
{
    (void)state;
    struct statvfs fs;
    if (tested_driver == IOE_DRIVER_AIO) {
        print_message("# transfers of this file are the pool's, which is tested by itself\n");
        skip();
    }
    int fd = temp_file(IN_MEMORY);
    assert_int_equal(fstatvfs(fd, &fs), 0);
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room < TOTAL + GIB || available_memory() < TOTAL + GIB) {
        print_message("# a large write needs 6 GiB of free memory and of room on the tmpfs\n");
        close(fd);
        skip();
    }
    check_large(IOE_WRITE, false, fd, fd);
    seed++;
    check_large(IOE_READ, true, fd, fd);
    close(fd);
}

/* Offsets beyond 4 GiB, though the transfer is small. */
static void small_transfers_at_large_offsets(void **state)
{
    (void)state;
    static const uint64_t offsets[] = {2 * GIB - 10, 4 * GIB - 10, 4 * GIB, 8 * GIB + 1,
                                       UINT64_C(1) << 42};
    ioe_context *ctx = new_context(how, 8, 8);
    ioe_event *e = new_event();
    int fd = temp_file(ON_DISK);
    uint8_t out[100], in[100];
    for (size_t i = 0; i < COUNT_OF(offsets); i++) {
        pattern_fill(out, sizeof out, seed, offsets[i]);
        assert_int_equal(ioe_prep_write(e, fd, out, sizeof out, offsets[i]), 0);
        assert_int_equal(run_event(ctx, how, e), sizeof out);
        assert_int_equal(pread(fd, in, sizeof in, (off_t)offsets[i]), sizeof in);
        assert_memory_equal(in, out, sizeof in);
        memset(in, 0, sizeof in);
        assert_int_equal(ioe_prep_read(e, fd, in, sizeof in, offsets[i]), 0);
        assert_int_equal(ioe_submit_wait(ctx, e), sizeof in);
        assert_memory_equal(in, out, sizeof in);
    }
    assert_int_equal(ioe_event_free(e), 0);
    assert_int_equal(ioe_context_free(ctx), 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_transfers_at_large_offsets),
        cmocka_unit_test(one_read_of_5_gib),
        cmocka_unit_test(one_write_of_5_gib_and_a_vectored_read_of_3_times_1_7_gib),
    };
    return RUN_TESTS(tests);
}
