/*
 * faultfs: a FUSE file system that keeps its files in another directory, and fails or holds those requests
 * that the file FAULTS names; see faultfs.h.
 *
 *    faultfs FAULTS [options of FUSE] BACKING MOUNTPOINT
 *
 * What is held fails with EIO after ten seconds, as no signal ends a program that waits in the kernel.
 */
#include "../passthrough.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "faultfs.h"

enum { REQUEST_MAX = 131072, HELD_MAX_S = 10 };

static faults *shared;

static bool ends_with(const char *name, const char *ending)
{
    size_t length = strlen(name), end = strlen(ending);
    return length >= end && strcmp(name + length - end, ending) == 0;
}

static uint32_t kind_of(const open_file *file)
{
    const char *slash = strrchr(file->name, '/'), *name = slash != NULL ? slash + 1 : file->name;
    if (ends_with(name, ".sst"))
        return FILE_TABLE;
    if (ends_with(name, ".log"))
        return FILE_WAL;
    if (strncmp(name, "MANIFEST-", 9) == 0)
        return FILE_MANIFEST;
    return strcmp(name, "image") == 0 ? FILE_IMAGE : FILE_OTHER;
}

/* Until the test lets it go; an error where it does not in time. */
static int stay(void)
{
    struct timespec limit;
    int rc = 0;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    limit.tv_sec += HELD_MAX_S;
    while (rc == 0 && __atomic_load_n(&shared->hold, __ATOMIC_SEQ_CST) != 0)
        if (syscall(SYS_futex, &shared->hold, FUTEX_WAIT_BITSET, 1, &limit, NULL,
                    FUTEX_BITSET_MATCH_ANY) != 0 && errno == ETIMEDOUT)
            rc = -EIO;
    __atomic_fetch_add(&shared->answered, 1, __ATOMIC_SEQ_CST);
    return rc;
}

static int fault(const open_file *file, uint32_t action, uint64_t size, uint64_t offset)
{
    if ((__atomic_load_n(&shared->actions, __ATOMIC_SEQ_CST) & action) == 0 ||
        (shared->files & kind_of(file)) == 0)
        return 0;
    if (action != FAULT_SYNC && (offset >= shared->to || offset + size <= shared->from))
        return 0;
    uint32_t left = __atomic_load_n(&shared->let_through, __ATOMIC_SEQ_CST);
    while (left > 0)
        if (__atomic_compare_exchange_n(&shared->let_through, &left, left - 1, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return 0;
    int error = shared->error;
    __atomic_fetch_add(&shared->hits, 1, __ATOMIC_SEQ_CST);
    return error != 0 ? -error : stay();
}

static int fault_read(const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *info)
{
    const open_file *file = get(info);
    fault_place *last = &shared->last_read[kind_of(file)];
    __atomic_store_n(&last->offset, (uint64_t)offset, __ATOMIC_SEQ_CST);
    __atomic_store_n(&last->length, size, __ATOMIC_SEQ_CST);
    int rc = fault(file, FAULT_READ, size, (uint64_t)offset);
    return rc != 0 ? rc : pass_read(path, buf, size, offset, info);
}

static int fault_write(const char *path, const char *buf, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    int rc = fault(get(info), FAULT_WRITE, size, (uint64_t)offset);
    return rc != 0 ? rc : pass_write(path, buf, size, offset, info);
}

static int fault_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    int rc = fault(get(info), FAULT_SYNC, 0, 0);
    return rc != 0 ? rc : pass_fsync(path, data_only, info);
}

int main(int argc, char **argv)
{
    struct fuse_operations operations = passed_on;
    if (argc < 4) {
        fprintf(stderr, "usage: %s FAULTS [options] BACKING MOUNTPOINT\n", argv[0]);
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *shared) != 0) {
        perror(argv[1]);
        return 1;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    operations.read = fault_read;
    operations.write = fault_write;
    operations.fsync = fault_fsync;
    argv[1] = argv[0];
    return pass_through(argc - 1, argv + 1, &operations, REQUEST_MAX);
}
