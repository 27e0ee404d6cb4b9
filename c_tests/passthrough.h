/*
 * A FUSE file system that passes all on to another directory. What includes this takes `passed_on`,
 * puts its own operations in, and calls pass_through.
 *
 * No page cache stands in between (direct_io): each read and write of a program comes here.
 */
#ifndef IOE_C_TESTS_PASSTHROUGH_H
#define IOE_C_TESTS_PASSTHROUGH_H

#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { IN_FLIGHT_MAX = 512 };

typedef struct open_file {
    int fd;
    char name[256]; /* that it was opened by */
} open_file;

static int backing;
static unsigned request_max;

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

/* ---- files */

static int open_with(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
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
    snprintf(file->name, sizeof file->name, "%s", name_of(path));
    info->fh = (uintptr_t)file;
    info->direct_io = 1;
    return 0;
}

static int pass_open(const char *path, struct fuse_file_info *info)
{
    return open_with(path, info->flags, 0, info);
}

static int pass_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return open_with(path, info->flags | O_CREAT, mode, info);
}

static int pass_release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    close(get(info)->fd);
    free(get(info));
    return 0;
}

static int pass_read(const char *path, char *buf, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    (void)path;
    return answer((int)pread(get(info)->fd, buf, size, offset));
}

static int pass_write(const char *path, const char *buf, size_t size, off_t offset,
                      struct fuse_file_info *info)
{
    (void)path;
    return answer((int)pwrite(get(info)->fd, buf, size, offset));
}

static int pass_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    (void)path;
    return answer(data_only ? fdatasync(get(info)->fd) : fsync(get(info)->fd));
}

static int pass_fallocate(const char *path, int mode, off_t offset, off_t length,
                          struct fuse_file_info *info)
{
    (void)path;
    return answer(fallocate(get(info)->fd, mode, offset, length));
}

static int pass_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    return answer(info != NULL ? fstat(get(info)->fd, st)
                               : fstatat(backing, name_of(path), st, AT_SYMLINK_NOFOLLOW));
}

static int pass_truncate(const char *path, off_t size, struct fuse_file_info *info)
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

static int pass_unlink(const char *path)
{
    return answer(unlinkat(backing, name_of(path), 0));
}

static int pass_rmdir(const char *path)
{
    return answer(unlinkat(backing, name_of(path), AT_REMOVEDIR));
}

static int pass_mkdir(const char *path, mode_t mode)
{
    return answer(mkdirat(backing, name_of(path), mode));
}

static int pass_rename(const char *from, const char *to, unsigned flags)
{
    return answer(renameat2(backing, name_of(from), backing, name_of(to), flags));
}

static int pass_link(const char *from, const char *to)
{
    return answer(linkat(backing, name_of(from), backing, name_of(to), 0));
}

static int pass_statfs(const char *path, struct statvfs *st)
{
    (void)path;
    return answer(fstatvfs(backing, st));
}

static int pass_opendir(const char *path, struct fuse_file_info *info)
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

static int pass_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    DIR *dir = (DIR *)(uintptr_t)info->fh;
    (void)path, (void)offset, (void)flags;
    rewinddir(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        fill(buf, entry->d_name, NULL, 0, 0);
    return 0;
}

static int pass_releasedir(const char *path, struct fuse_file_info *info)
{
    (void)path;
    return answer(closedir((DIR *)(uintptr_t)info->fh));
}

static int pass_fsyncdir(const char *path, int data_only, struct fuse_file_info *info)
{
    (void)path, (void)data_only, (void)info;
    return 0;
}

static void *pass_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    /* Held requests must not keep others out of the kernel's queue. */
    conn->max_background = IN_FLIGHT_MAX;
    conn->congestion_threshold = IN_FLIGHT_MAX;
    conn->max_read = request_max;
    conn->max_write = request_max;
    /* An open file may lose its name. */
    config->hard_remove = 1;
    config->nullpath_ok = 1;
    config->attr_timeout = 0;
    config->entry_timeout = 0;
    config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations passed_on = {
    .init = pass_init,
    .getattr = pass_getattr,
    .open = pass_open,
    .create = pass_create,
    .release = pass_release,
    .read = pass_read,
    .write = pass_write,
    .fsync = pass_fsync,
    .fallocate = pass_fallocate,
    .truncate = pass_truncate,
    .unlink = pass_unlink,
    .rmdir = pass_rmdir,
    .mkdir = pass_mkdir,
    .rename = pass_rename,
    .link = pass_link,
    .statfs = pass_statfs,
    .opendir = pass_opendir,
    .readdir = pass_readdir,
    .releasedir = pass_releasedir,
    .fsyncdir = pass_fsyncdir,
};

/* The value is main's. The arguments end with BACKING MOUNTPOINT. */
static int pass_through(int argc, char **argv, const struct fuse_operations *operations,
                        unsigned largest)
{
    char options[64];
    backing = open(argv[argc - 2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (backing < 0) {
        perror(argv[argc - 2]);
        return 1;
    }
    request_max = largest;
    /* FUSE is to see all but the directory behind. */
    snprintf(options, sizeof options, "-omax_read=%u,max_threads=128", request_max);
    argv[argc - 2] = options;
    return fuse_main(argc, argv, operations, NULL);
}

#endif
