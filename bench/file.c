/*
 * file.c: the file that is read or written, and the memory beside it.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, PAGE = 4096 };

static int complain(const char *path, const char *what)
{
    int err = errno;

    fprintf(stderr, "bench: %s: %s: %s\n", path, what, strerror(err));
    return -err;
}

static bool sector_is(int fd, uint64_t number)
{
    uint64_t stamp;

    return pread(fd, &stamp, sizeof stamp, (off_t)(number * SECTOR)) == sizeof stamp &&
           stamp == number + 1;
}

int file_fill(const struct bench_file *file, const char *path)
{
    static char chunk[CHUNK];

    for (uint64_t at = 0; at < file->size; at += CHUNK) {
        for (uint32_t i = 0; i < CHUNK; i += SECTOR) {
            uint64_t stamp = (at + i) / SECTOR + 1;
            memcpy(chunk + i, &stamp, sizeof stamp);
            memcpy(chunk + i + SECTOR - sizeof stamp, &stamp, sizeof stamp);
        }
        if (pwrite(file->buffered, chunk, CHUNK, (off_t)at) != CHUNK)
            return complain(path, "writing");
    }
    /* Dirty pages would be written back while the clock runs. */
    return fsync(file->buffered) < 0 ? complain(path, "syncing") : 0;
}

static int make_nameless(struct bench_file *file)
{
    char name[] = "io_engine-bench-XXXXXX";

    file->buffered = mkostemp(name, O_CLOEXEC);
    if (file->buffered < 0)
        return complain(name, "making");
    file->direct = open(name, O_RDWR | O_DIRECT | O_CLOEXEC);
    unlink(name);
    return file_fill(file, name);
}

void file_close(struct bench_file *file)
{
    close(file->buffered);
    if (file->direct >= 0)
        close(file->direct);
}

int file_open(struct bench_file *file, const char *path, uint64_t size, bool writable)
{
    struct stat st;

    file->size = size;
    if (!path)
        return make_nameless(file);
    file->buffered = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file->buffered < 0 || fstat(file->buffered, &st) < 0)
        return complain(path, "opening");
    file->direct = open(path, (writable ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
    if (st.st_size == 0)
        return file_fill(file, path);
    bool as_filled = writable || (sector_is(file->buffered, 0) &&
                                  sector_is(file->buffered, size / SECTOR - 1));
    if ((size != 0 && (uint64_t)st.st_size != size) || !as_filled) {
        fprintf(stderr, "bench: %s: holds something else: name a file that does not exist\n", path);
        return -EEXIST;
    }
    return 0;
}

int file_cache(const struct bench_file *file, bool cached)
{
    static _Alignas(PAGE) char chunk[CHUNK];
    int fd = cached ? file->buffered : file->direct;

    if (!cached && posix_fadvise(file->buffered, 0, 0, POSIX_FADV_DONTNEED) != 0)
        return complain("file", "dropping it from the page cache");
    /*
     * Also for direct reads: what caches lie below (of a disk, of a host) would else be cold for
     * the first side, and warmed by it for the others, which read the same blocks.
     */
    for (uint64_t at = 0; at < file->size; at += CHUNK)
        if (pread(fd, chunk, CHUNK, (off_t)at) != CHUNK)
            return complain("file", "reading it through");
    return 0;
}

char *buffers_new(uint32_t n, size_t stride)
{
    size_t len = (n * stride + PAGE - 1) / PAGE * PAGE;
    char *buffers = aligned_alloc(PAGE, len);

    if (buffers)
        memset(buffers, 0, len); /* page faults now, not under the clock */
    return buffers;
}
