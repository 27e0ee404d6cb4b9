/*
 * faultfs: a FUSE file system that keeps its files in another directory, and fails or holds those requests
 * that the file FAULTS names; see faultfs.h.
 *
 *    faultfs [options of FUSE] BACKING FAULTS MOUNTPOINT
 *
 * No page cache stands in between (direct_io): each read and write of a program comes here. What is held
 * fails with EIO after ten seconds, as no signal ends a program that waits in the kernel.
 */
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faultfs.h"

enum { REQUEST_MAX = 131072, IN_FLIGHT_MAX = 512, HELD_MAX_S = 10 };

typedef struct open_file {
    int fd;
    uint32_t kind;
} open_file;

static int backing;
static faults *shared;

/* FUSE's paths begin with a slash. */
static const char *name_of(const char *path)
{
    return path[1] == '\0' ? "." : path + 1;
}

static int answer(int rc)
{
    return rc < 0 ? -errno : rc;
}

static open_file *get(const struct fuse_file_info *info)
{
    return (open_file *)(uintptr_t)info->fh;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t length = strlen(name), end = strlen(ending);
    return length >= end && strcmp(name + length - end, ending) == 0;
}

static uint32_t kind_of(const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    if (ends_with(name, ".sst"))
        return FILE_TABLE;
    if (ends_with(name, ".log"))
        return FILE_WAL;
    if (strncmp(name, "MANIFEST-", 9) == 0)
        return FILE_MANIFEST;
    return strcmp(name, "image") == 0 ? FILE_IMAGE : FILE_OTHER;
}

/* ---- faults */

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
        (shared->files & file->kind) == 0)
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

/* ---- files */

static int open_file_at(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
    open_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return -ENOMEM;
    /* The file behind is read and written by any length, at any place. */
    flags = (flags & ~(O_ACCMODE | O_DIRECT | O_APPEND)) | O_RDWR | O_CLOEXEC;
    file->fd = openat(backing, name_of(path), flags, mode);
    if (file->fd < 0) {
        int error = errno;
        free(file);
        return -error;
    }
    file->kind = kind_of(path);
    info->fh = (uintptr_t)file;
    info->direct_io = 1;
    return 0;
}

static int fault_open(const char *path, struct fuse_file_info *info)
{
    return open_file_at(path, info->flags, 0, info);
}

static int fault_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return open_file_at(path, info->flags | O_CREAT, mode, info);
}

static int fault_release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    close(get(info)->fd);
    free(get(info));
    return 0;
}

static int fault_read(const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *info)
{
    const open_file *file = get(info);
    (void)path;
    __atomic_store_n(&shared->last_read[file->kind].offset, (uint64_t)offset, __ATOMIC_SEQ_CST);
    __atomic_store_n(&shared->last_read[file->kind].length, size, __ATOMIC_SEQ_CST);
    int rc = fault(file, FAULT_READ, size, (uint64_t)offset);
    return rc != 0 ? rc : answer((int)pread(file->fd, buf, size, offset));
}

static int fault_write(const char *path, const char *buf, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    const open_file *file = get(info);
    (void)path;
    int rc = fault(file, FAULT_WRITE, size, (uint64_t)offset);
    return rc != 0 ? rc : answer((int)pwrite(file->fd, buf, size, offset));
}

static int fault_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    const open_file *file = get(info);
    (void)path;
    int rc = fault(file, FAULT_SYNC, 0, 0);
    return rc != 0 ? rc : answer(data_only ? fdatasync(file->fd) : fsync(file->fd));
}

static int fault_fallocate(const char *path, int mode, off_t offset, off_t length,
                           struct fuse_file_info *info)
{
    (void)path;
    return answer(fallocate(get(info)->fd, mode, offset, length));
}

static int fault_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    return answer(info != NULL ? fstat(get(info)->fd, st)
                               : fstatat(backing, name_of(path), st, AT_SYMLINK_NOFOLLOW));
}

static int fault_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    if (info != NULL)
        return answer(ftruncate(get(info)->fd, size));
    int fd = openat(backing, name_of(path), O_WRONLY | O_CLOEXEC);
    int rc = answer(fd < 0 ? fd : ftruncate(fd, size));
    if (fd >= 0)
        close(fd);
    return rc;
}

/* ---- names */

static int fault_unlink(const char *path)
{
    return answer(unlinkat(backing, name_of(path), 0));
}

static int fault_rmdir(const char *path)
{
    return answer(unlinkat(backing, name_of(path), AT_REMOVEDIR));
}

static int fault_mkdir(const char *path, mode_t mode)
{
    return answer(mkdirat(backing, name_of(path), mode));
}

static int fault_rename(const char *from, const char *to, unsigned flags)
{
    return answer(renameat2(backing, name_of(from), backing, name_of(to), flags));
}

static int fault_link(const char *from, const char *to)
{
    return answer(linkat(backing, name_of(from), backing, name_of(to), 0));
}

static int fault_statfs(const char *path, struct statvfs *st)
{
    (void)path;
    return answer(fstatvfs(backing, st));
}

static int fault_opendir(const char *path, struct fuse_file_info *info)
{
    int fd = openat(backing, name_of(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return -error;
    }
    info->fh = (uintptr_t)dir;
    return 0;
}

static int fault_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
                         struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    DIR *dir = (DIR *)(uintptr_t)info->fh;
    (void)path, (void)offset, (void)flags;
    rewinddir(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        fill(buf, entry->d_name, NULL, 0, 0);
    return 0;
}

static int fault_releasedir(const char *path, struct fuse_file_info *info)
{
    (void)path;
    return answer(closedir((DIR *)(uintptr_t)info->fh));
}

static int fault_fsyncdir(const char *path, int data_only, struct fuse_file_info *info)
{
    (void)path, (void)data_only, (void)info;
    return 0;
}

static void *fault_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    /* Held requests must not keep others out of the kernel's queue. */
    conn->max_background = IN_FLIGHT_MAX;
    conn->congestion_threshold = IN_FLIGHT_MAX;
    conn->max_read = REQUEST_MAX;
    conn->max_write = REQUEST_MAX;
    /* An open file may lose its name. */
    config->hard_remove = 1;
    config->nullpath_ok = 1;
    config->attr_timeout = 0;
    config->entry_timeout = 0;
    config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = fault_init,
    .getattr = fault_getattr,
    .open = fault_open,
    .create = fault_create,
    .release = fault_release,
    .read = fault_read,
    .write = fault_write,
    .fsync = fault_fsync,
    .fallocate = fault_fallocate,
    .truncate = fault_truncate,
    .unlink = fault_unlink,
    .rmdir = fault_rmdir,
    .mkdir = fault_mkdir,
    .rename = fault_rename,
    .link = fault_link,
    .statfs = fault_statfs,
    .opendir = fault_opendir,
    .readdir = fault_readdir,
    .releasedir = fault_releasedir,
    .fsyncdir = fault_fsyncdir,
};

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: %s [options] BACKING FAULTS MOUNTPOINT\n", argv[0]);
        return 2;
    }
    backing = open(argv[argc - 3], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = open(argv[argc - 2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (backing < 0 || fd < 0 || ftruncate(fd, sizeof *shared) != 0) {
        perror(argv[0]);
        return 1;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    /* FUSE is to see all but the directory and the file behind. */
    char options[64];
    snprintf(options, sizeof options, "-omax_read=%d,max_threads=128", REQUEST_MAX);
    argv[argc - 3] = options;
    argv[argc - 2] = argv[argc - 1];
    return fuse_main(argc - 1, argv, &operations, NULL);
}
