/*
 * Promise: examples_c/wal.c tells a record durable when it is, and what it recovers from a log that is
 * torn, damaged or reused are the records in front of the damage, and no others.
 *
 * The example's own functions are called here. The results that its events have go through this
 * program, which gives them errors of its own.
 */
#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "common.h"

static int64_t seen_result(const ioe_event *event);
static int64_t seen_submit_wait(ioe_context *ctx, ioe_event *event);

#define ioe_event_result seen_result
#define ioe_submit_wait seen_submit_wait
#define main wal_program
#include "../examples_c/wal.c"
#undef main
#undef ioe_submit_wait
#undef ioe_event_result

/* ---- results that are not the kernel's ---- */

static int failing_action = IOE_NONE; /* of the record with this number: */
static uint64_t failing_number;
static unsigned failing_reads_after = UINT_MAX; /* so many have worked */
static atomic_bool early;                       /* durable before its callbacks */

static int64_t seen_result(const ioe_event *event)
{
    struct slot *slot = ioe_event_arg(event);
    pthread_mutex_lock(&slot->wal->lock);
    if (slot->wal->durable >= slot->header.number)
        atomic_store(&early, true);
    pthread_mutex_unlock(&slot->wal->lock);
    if (ioe_event_action(event) == failing_action && slot->header.number == failing_number)
        return -EIO;
    return ioe_event_result(event);
}

static int64_t seen_submit_wait(ioe_context *ctx, ioe_event *event)
{
    if (ioe_event_action(event) == IOE_READ && failing_reads_after-- == 0)
        return -EIO;
    return ioe_submit_wait(ctx, event);
}

/* ---- a log in a file without a name ---- */

static struct wal wal;
static int file;

static int open_log(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return wal_open(&wal, path, O_RDWR);
}

typedef struct found {
    uint64_t count, next;
    bool wrong;
} found;

/* What record n of a test's log holds; version tells two of them with one number apart. */
static uint32_t make_payload(char *payload, uint64_t n, unsigned version)
{
    uint32_t length = 20 + (uint32_t)(n % 5);
    memset(payload, 'a' + (int)((n + version * 13) % 26), length);
    return length;
}

/* The version of each number: a record of another is wrong. */
static unsigned version_of[64];

static void count_record(uint64_t number, const void *payload, uint32_t length, void *arg)
{
    found *f = arg;
    char expected[64];
    if (number != ++f->count || number >= COUNT_OF(version_of) ||
        length != make_payload(expected, number, version_of[number]) ||
        memcmp(payload, expected, length) != 0)
        f->wrong = true;
}

/* How many records there are; each must be the one that was appended. */
static uint64_t recovered(void)
{
    found f = {0};
    assert_int_equal(wal_recover(&wal, count_record, &f), 0);
    assert_false(f.wrong);
    assert_int_equal(wal.appended, f.count);
    return f.count;
}

static void append_some(uint64_t count, unsigned version)
{
    char payload[64];
    for (; count > 0; count--) {
        uint64_t n = wal.appended + 1;
        version_of[n] = version;
        assert_int_equal(wal_append(&wal, payload, make_payload(payload, n, version)), (int64_t)n);
    }
}

/* A new epoch of the log; the value is how many records it begins with. */
static uint64_t start_log(void)
{
    assert_int_equal(open_log(), 0);
    uint64_t count = recovered();
    assert_int_equal(wal_start(&wal), 0);
    return count;
}

static int new_file(void **state)
{
    (void)state;
    file = temp_file(ON_DISK);
    return 0;
}

static int close_file(void **state)
{
    (void)state;
    return close(file);
}

/* ---- what goes in comes out ---- */

static void test_crc(void **state)
{
    (void)state;
    make_crc_table();
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283); /* the check value of CRC-32C */
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

typedef struct writer {
    pthread_t thread;
    uint64_t records;
    int64_t told; /* the last number */
    int64_t last; /* that, or an error */
} writer;

static void *write_records(void *arg)
{
    writer *w = arg;
    uint64_t left = w->records;
    do {
        w->last = wal_append(&wal, "some record", 11);
        if (w->last > 0)
            w->told = w->last;
    } while (--left > 0 && w->last > 0);
    return NULL;
}

static void count_any(uint64_t number, const void *payload, uint32_t length, void *arg)
{
    found *f = arg;
    if (number != ++f->count || length != 11 || memcmp(payload, "some record", 11) != 0)
        f->wrong = true;
}

enum { WRITERS = 16 };

static void run_writers(writer *writers, uint64_t records)
{
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (writer){.records = records};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_records, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
}

static void test_threads(void **state)
{
    enum { RECORDS = 50 };
    writer writers[WRITERS];
    found f = {0};
    (void)state;
    assert_int_equal(start_log(), 0);
    run_writers(writers, RECORDS);
    for (int i = 0; i < WRITERS; i++)
        assert_true(writers[i].last > 0);
    assert_false(atomic_load(&early));
    assert_int_equal(wal.durable, WRITERS * RECORDS);
    wal_close(&wal);
    assert_int_equal(open_log(), 0);
    assert_int_equal(wal_recover(&wal, count_any, &f), 0);
    assert_int_equal(f.count, WRITERS * RECORDS);
    assert_false(f.wrong);
    wal_close(&wal);
}

static void test_lengths(void **state)
{
    static char payload[MAX_PAYLOAD + 1];
    (void)state;
    assert_int_equal(start_log(), 0);
    assert_int_equal(wal_append(&wal, payload, MAX_PAYLOAD + 1), -EINVAL);
    assert_int_equal(wal_append(&wal, payload, MAX_PAYLOAD), 1);
    assert_int_equal(wal_append(&wal, payload, 0), 2);
    assert_int_equal(wal_append(&wal, payload, MAX_PAYLOAD), 3);
    uint64_t end = wal.end;
    found f = {0};
    assert_int_equal(wal_recover(&wal, count_any, &f), 0);
    assert_int_equal(f.count, 3);
    assert_int_equal(wal.end, end);
    wal_close(&wal);
}

/* ---- damage ---- */

enum { LOG = 8, DAMAGED = 3 }; /* records of a log, and how many of its last ones are damaged */

/* A log whose records begin at starts[1], starts[2] ... and end at starts[LOG + 1]. */
static void make_log(uint64_t *starts)
{
    assert_int_equal(start_log(), 0);
    for (unsigned n = 1; n <= LOG; n++) {
        starts[n] = wal.end;
        append_some(1, 0);
    }
    starts[LOG + 1] = wal.end;
}

/* The records that end at or before this byte. */
static uint64_t whole_before(const uint64_t *starts, uint64_t at)
{
    uint64_t n = 0;
    while (n < LOG && starts[n + 2] <= at)
        n++;
    return n;
}

static void test_truncated_at_every_byte(void **state)
{
    uint64_t starts[LOG + 2];
    (void)state;
    make_log(starts);
    for (uint64_t at = starts[LOG + 1]; at >= starts[LOG + 1 - DAMAGED]; at--) {
        assert_int_equal(ftruncate(file, (off_t)at), 0);
        assert_int_equal(recovered(), whole_before(starts, at));
        assert_int_equal(wal.end, starts[wal.appended + 1]);
    }
    wal_close(&wal);
}

/* As a log whose blocks are there from the start is torn. */
static void test_zeros_from_every_byte(void **state)
{
    uint64_t starts[LOG + 2];
    const char zero = 0;
    (void)state;
    make_log(starts);
    for (uint64_t at = starts[LOG + 1]; at-- > starts[LOG + 1 - DAMAGED];) {
        assert_int_equal(pwrite(file, &zero, 1, (off_t)at), 1);
        assert_int_equal(recovered(), whole_before(starts, at));
    }
    wal_close(&wal);
}

/* A damaged byte ends the log there, however good what is behind it. */
static void test_every_byte_wrong(void **state)
{
    static const unsigned char flips[] = {0x01, 0x80, 0xff};
    uint64_t starts[LOG + 2];
    (void)state;
    make_log(starts);
    for (uint64_t at = starts[LOG + 1 - DAMAGED]; at < starts[LOG + 1]; at++)
        for (size_t i = 0; i < COUNT_OF(flips); i++) {
            unsigned char good, bad;
            assert_int_equal(pread(file, &good, 1, (off_t)at), 1);
            bad = good ^ flips[i];
            assert_int_equal(pwrite(file, &bad, 1, (off_t)at), 1);
            assert_int_equal(recovered(), whole_before(starts, at));
            assert_int_equal(pwrite(file, &good, 1, (off_t)at), 1);
        }
    assert_int_equal(recovered(), LOG);
    wal_close(&wal);
}

/* Whole, of this epoch, but not the one that comes next. */
static void test_record_in_a_wrong_place(void **state)
{
    unsigned char record[256];
    uint64_t starts[LOG + 2];
    (void)state;
    make_log(starts);
    for (unsigned n = 1; n <= LOG; n++) {
        const ssize_t length = (ssize_t)(starts[n + 1] - starts[n]);
        assert_int_equal(pread(file, record, (size_t)length, (off_t)starts[n]), length);
        assert_int_equal(pwrite(file, record, (size_t)length, (off_t)starts[LOG + 1]), length);
        assert_int_equal(recovered(), LOG);
    }
    wal_close(&wal);
}

/* ---- what is left from before ---- */

/* Record `number` is damaged, and the log continued: the new record ends where the damaged one did. */
static void test_left_behind_by_an_epoch(void **state)
{
    uint64_t starts[LOG + 2];
    const uint64_t number = LOG / 2;
    (void)state;
    make_log(starts);
    wal_close(&wal);
    assert_int_equal(pwrite(file, "xx", 2, (off_t)starts[number + 1] - 2), 2);
    /* An epoch that wrote nothing is one as well. */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(start_log(), number - 1);
        wal_close(&wal);
    }
    assert_int_equal(start_log(), number - 1);
    append_some(1, 1);
    assert_int_equal(wal.end, starts[number + 1]);
    assert_int_equal(recovered(), number);
    append_some(LOG - number, 1);
    assert_int_equal(recovered(), LOG);
    wal_close(&wal);
}

/* The newest epoch wrote records, but none of them is believed: the next one is not mistaken for it. */
static void test_epoch_without_a_believed_record(void **state)
{
    (void)state;
    assert_int_equal(start_log(), 0);
    append_some(1, 0);
    wal_close(&wal);
    assert_int_equal(start_log(), 1);
    const uint64_t first = wal.end;
    append_some(1, 0);
    const uint64_t second = wal.end;
    append_some(2, 0);
    wal_close(&wal);
    assert_int_equal(pwrite(file, "xx", 2, (off_t)second - 2), 2);
    assert_int_equal(start_log(), 1);
    assert_int_equal(wal.end, first);
    append_some(1, 1);
    assert_int_equal(wal.end, second);
    assert_int_equal(recovered(), 2);
    wal_close(&wal);
}

static void test_reset(void **state)
{
    uint64_t starts[LOG + 2];
    struct stat status;
    (void)state;
    make_log(starts);
    wal_close(&wal);
    assert_int_equal(open_log(), 0);
    assert_int_equal(wal_reset(&wal, 1 << 20), 0);
    assert_int_equal(recovered(), 0);
    wal_close(&wal);
    assert_int_equal(fstat(file, &status), 0);
    assert_int_equal(status.st_size, 2 * BLOCK + (1 << 20));
    assert_int_equal(start_log(), 0);
    append_some(3, 1);
    assert_int_equal(wal.end, starts[4]);
    assert_int_equal(recovered(), 3);
    wal_close(&wal);
}

/* ---- headers ---- */

static void test_damaged_header(void **state)
{
    (void)state;
    assert_int_equal(start_log(), 0);
    append_some(LOG, 0);
    wal_close(&wal);
    /* As a crash leaves it that comes while epoch 2 begins, in the first block. */
    for (size_t at = 0; at < sizeof(struct log_header); at++) {
        unsigned char good, bad;
        assert_int_equal(start_log(), LOG);
        assert_int_equal(wal.epoch, 2);
        wal_close(&wal);
        assert_int_equal(pread(file, &good, 1, (off_t)at), 1);
        bad = good ^ 0x40;
        assert_int_equal(pwrite(file, &bad, 1, (off_t)at), 1);
    }
    assert_int_equal(start_log(), LOG);
    append_some(1, 0);
    assert_int_equal(recovered(), LOG + 1);
    wal_close(&wal);
}

static void test_not_a_log(void **state)
{
    (void)state;
    assert_int_equal(pwrite(file, "precious", 8, 4000), 8);
    assert_int_equal(open_log(), -EBADMSG);
    wal_close(&wal);
    /* A creation that was not finished. */
    assert_int_equal(ftruncate(file, 0), 0);
    assert_int_equal(ftruncate(file, 3 * BLOCK), 0);
    assert_int_equal(start_log(), 0);
    append_some(1, 0);
    assert_int_equal(recovered(), 1);
    wal_close(&wal);
}

/* ---- errors ---- */

/* The others succeed: those behind the failing one must not be told durable all the same. */
static void stops_at(int action)
{
    enum { NUMBER = 100 };
    writer writers[WRITERS];
    assert_int_equal(start_log(), 0);
    failing_action = action;
    failing_number = NUMBER;
    run_writers(writers, NUMBER);
    failing_action = IOE_NONE;
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(writers[i].last, -EIO);
        assert_true(writers[i].told < NUMBER);
    }
    /* For good, and without another try. */
    ioe_stats before = {0}, after = {0};
    assert_int_equal(ioe_context_stats(wal.ctx, &before, sizeof before), 0);
    assert_int_equal(wal_append(&wal, "some record", 11), -EIO);
    assert_int_equal(ioe_context_stats(wal.ctx, &after, sizeof after), 0);
    assert_int_equal(after.accepted, before.accepted);
    wal_close(&wal);
}

static void test_failed_sync(void **state)
{
    (void)state;
    stops_at(IOE_FDATASYNC);
}

static void test_failed_write(void **state)
{
    (void)state;
    stops_at(IOE_WRITE);
}

static void test_full(void **state)
{
    enum { RECORD = 4096 - sizeof(struct record_header) };
    static char payload[RECORD];
    int64_t number = 0;
    (void)state;
    assert_int_equal(start_log(), 0);
    rlim_t before = set_file_size_limit(2 * BLOCK + 3 * 4096 + 1000);
    do
        number = wal_append(&wal, payload, RECORD);
    while (number > 0);
    assert_int_equal(number, -EFBIG);
    set_file_size_limit(before);
    assert_int_equal(wal_append(&wal, payload, RECORD), -EFBIG);
    wal_close(&wal);
    assert_int_equal(open_log(), 0);
    found f = {0};
    assert_int_equal(wal_recover(&wal, count_any, &f), 0);
    assert_int_equal(f.count, 3);
    wal_close(&wal);
}

/* What cannot be read is not the end of the log. */
static void test_failed_read(void **state)
{
    static char payload[MAX_PAYLOAD];
    found f = {0};
    (void)state;
    assert_int_equal(start_log(), 0);
    for (int64_t i = 1; i <= 2 * READ_AHEAD / MAX_PAYLOAD; i++)
        assert_int_equal(wal_append(&wal, payload, MAX_PAYLOAD), i);
    for (unsigned worked = 0; worked < 3; worked++) {
        failing_reads_after = worked;
        assert_int_equal(wal_recover(&wal, count_any, &f), -EIO);
    }
    wal_close(&wal);
    failing_reads_after = 0;
    assert_int_equal(open_log(), -EIO);
    failing_reads_after = UINT_MAX;
    wal_close(&wal);
}

#define with_file(test) cmocka_unit_test_setup_teardown(test, new_file, close_file)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc),
        with_file(test_threads),
        with_file(test_lengths),
        with_file(test_truncated_at_every_byte),
        with_file(test_zeros_from_every_byte),
        with_file(test_every_byte_wrong),
        with_file(test_record_in_a_wrong_place),
        with_file(test_left_behind_by_an_epoch),
        with_file(test_epoch_without_a_believed_record),
        with_file(test_reset),
        with_file(test_damaged_header),
        with_file(test_not_a_log),
        with_file(test_failed_sync),
        with_file(test_failed_write),
        with_file(test_full),
        with_file(test_failed_read),
    };
    return RUN_TESTS(tests);
}
