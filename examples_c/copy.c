/*
 * copy.c: a file copier. Reads and writes DEPTH blocks at a time, syncs what it wrote, and reads
 * it back to compare.
 *
 *     cc -o copy copy.c -lio_engine
 *     ./copy [options] SRC DST                        (./copy --help)
 *
 * One thread and one polled context: the callbacks run inside ioe_poll, so nothing needs a lock.
 * Each block has a slot, and each slot's event travels in a circle: read a block of SRC, in that
 * callback write it to DST, in that callback take the next block. Memory is bounded by the slots.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <libgen.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <io_engine.h>

enum {
    DEFAULT_DEPTH = 32,
    MAX_DEPTH = 4096,
    DEFAULT_BLOCK = 256 * 1024,
    DIRECT_ALIGN = 4096, /* serves devices with sectors of 512 and of 4096 bytes */
    PROGRESS_MS = 100,
    BAR_WIDTH = 30,
    EXIT_USAGE = 2,
};
static const uint64_t MAX_BLOCK = UINT64_C(1) << 30;
static const uint64_t MAX_MEMORY = UINT64_C(2) << 30; /* depth x block */

struct options {
    const char *src_path, *dst_path;
    unsigned depth;
    uint64_t block;
    int driver;
    bool direct, check, quiet;
};

struct copier {
    struct options opt;
    ioe_context *ctx;
    int src, dst;
    int src_direct, dst_direct; /* the same files again with O_DIRECT, or -1 */
    struct stat src_stat;
    uint64_t size, next, done; /* of SRC; offset of the next block; bytes finished in this pass */
    unsigned active;           /* events in flight */
    bool created;              /* DST did not exist before */
    bool touched;              /* DST has lost what it held, and is not whole yet */
    bool checking;             /* second pass: compare instead of write */
    bool failed;
    bool bar; /* draw progress */
    struct timespec pass_start, last_drawn;
};

struct slot {
    struct copier *copier;
    ioe_event *event;
    char *data;  /* a block of SRC */
    char *again; /* the same block of DST, when checking */
    uint64_t offset;
    size_t len;
};

static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
    signalled = number;
}

/* ---- saying what happened ------------------------------------------------------------------ */

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static void clear_bar(const struct copier *c)
{
    if (c->bar)
        fputs("\r\033[K", stderr);
}

static const char *advice(int err)
{
    switch (abs(err)) {
    case ENOENT:
    case ENOTDIR: return "check the path";
    case EACCES:
    case EPERM: return "check the permissions, or run as the owner";
    case EISDIR: return "it is a directory: name the file itself";
    case EROFS: return "its file system is mounted read-only";
    case ENOSPC:
    case EDQUOT: return "free some space there, or choose another place";
    case EFBIG: return "it exceeds the limit of the file system or of `ulimit -f`";
    case ETXTBSY: return "it is a program that is running";
    case EIO: return "the device failed: see the kernel's log (dmesg)";
    case ENOMEM: return "try a smaller --depth or --block";
    case EMFILE:
    case ENFILE: return "too many files are open: see `ulimit -n`";
    default: return NULL;
    }
}

/* The first failure is told; what follows from it would only bury it. */
__attribute__((format(printf, 4, 5))) static void fail(struct copier *c, const char *path, int err,
                                                       const char *doing, ...)
{
    if (c->failed)
        return;
    c->failed = true;
    clear_bar(c);
    fprintf(stderr, "copy: %s: ", path);
    va_list args;
    va_start(args, doing);
    vfprintf(stderr, doing, args);
    va_end(args);
    if (err != 0)
        fprintf(stderr, ": %s", ioe_strerror(err));
    const char *hint = err != 0 ? advice(err) : NULL;
    if (hint)
        fprintf(stderr, " (%s)", hint);
    fputc('\n', stderr);
}

static void draw_bar(struct copier *c)
{
    if (!c->bar || seconds_since(&c->last_drawn) < PROGRESS_MS / 1e3)
        return;
    clock_gettime(CLOCK_MONOTONIC, &c->last_drawn);

    double elapsed = seconds_since(&c->pass_start);
    double rate = elapsed > 0 ? (double)c->done / elapsed : 0;
    double share = (double)c->done / (double)c->size;
    int full = (int)(share * BAR_WIDTH);
    char bar[BAR_WIDTH + 1] = {0};
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', (size_t)full);
    fprintf(stderr, "\r%-8s [%s] %3d%%  %7.1f MB/s", c->checking ? "checking" : "copying", bar,
            (int)(share * 100), rate / 1e6);
    if (rate > 0) {
        unsigned long left = (unsigned long)((double)(c->size - c->done) / rate + 0.5);
        fprintf(stderr, "  ETA %lu:%02lu:%02lu", left / 3600, left / 60 % 60, left % 60);
    }
    fputs("\033[K", stderr);
}

/* ---- the circle of a block ----------------------------------------------------------------- */

static void start_block(struct slot *s);

/* Only whole aligned blocks may use O_DIRECT: the tail goes through the page cache. */
static bool is_direct(const struct slot *s)
{
    return s->copier->opt.direct && s->len % DIRECT_ALIGN == 0;
}

static void submit(struct slot *s, int prepared, ioe_callback then)
{
    struct copier *c = s->copier;
    int err = prepared;

    if (err == 0)
        err = ioe_event_set_callback(s->event, then, s);
    if (err == 0)
        err = ioe_submit(c->ctx, s->event);
    if (err < 0)
        fail(c, c->opt.src_path, err, "cannot submit the block at byte %" PRIu64, s->offset);
    else
        c->active++;
}

/* True when the transfer moved the whole block. Tells why when it did not. */
static bool is_whole(struct slot *s, const char *path, const char *doing)
{
    struct copier *c = s->copier;
    int64_t n = ioe_event_result(s->event);

    if (n < 0)
        fail(c, path, (int)n, "%s at byte %" PRIu64, doing, s->offset);
    else if ((uint64_t)n != s->len)
        fail(c, path, 0, "became shorter meanwhile: ends at byte %" PRIu64 " of %" PRIu64,
             s->offset + (uint64_t)n, c->size);
    return n == (int64_t)s->len;
}

static void finish_block(struct slot *s)
{
    s->copier->done += s->len;
    start_block(s);
}

static void on_written(ioe_event *event, void *arg)
{
    struct slot *s = arg;

    (void)event;
    s->copier->active--;
    if (is_whole(s, s->copier->opt.dst_path, "writing"))
        finish_block(s);
}

static void on_read_back(ioe_event *event, void *arg)
{
    struct slot *s = arg;

    (void)event;
    s->copier->active--;
    if (!is_whole(s, s->copier->opt.dst_path, "reading back"))
        return;
    if (memcmp(s->data, s->again, s->len) == 0)
        finish_block(s);
    else
        fail(s->copier, s->copier->opt.dst_path, 0,
             "differs from the source in the %zu bytes at byte %" PRIu64
             ": is another program writing to one of them? If not, suspect the device",
             s->len, s->offset);
}

static void on_read(ioe_event *event, void *arg)
{
    struct slot *s = arg;
    struct copier *c = s->copier;
    int dst = is_direct(s) ? c->dst_direct : c->dst;

    c->active--;
    if (!is_whole(s, c->opt.src_path, "reading"))
        return;
    if (c->checking)
        submit(s, ioe_prep_read(event, dst, s->again, s->len, s->offset), on_read_back);
    else
        submit(s, ioe_prep_write(event, dst, s->data, s->len, s->offset), on_written);
}

static void start_block(struct slot *s)
{
    struct copier *c = s->copier;

    if (c->failed || signalled || c->next >= c->size)
        return;
    uint64_t left = c->size - c->next;
    s->offset = c->next;
    s->len = (size_t)(left < c->opt.block ? left : c->opt.block);
    c->next += s->len;
    int src = is_direct(s) ? c->src_direct : c->src;
    submit(s, ioe_prep_read(s->event, src, s->data, s->len, s->offset), on_read);
}

static void run_pass(struct copier *c, struct slot *slots, size_t n)
{
    c->next = c->done = 0;
    clock_gettime(CLOCK_MONOTONIC, &c->pass_start);
    for (size_t i = 0; i < n; i++)
        start_block(&slots[i]);
    while (c->active > 0) {
        int ran = ioe_poll(c->ctx, 1, PROGRESS_MS);
        if (ran < 0) {
            /* Blocks are in flight and cannot be had back: their memory must stay. */
            fail(c, c->opt.src_path, ran, "the I/O engine stopped");
            return;
        }
        draw_bar(c);
    }
    clear_bar(c);
    if (signalled)
        fail(c, c->opt.dst_path, 0, "stopped by a signal");
}

/* ---- files --------------------------------------------------------------------------------- */

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* O_DIRECT belongs to the open file, not to the request: it takes a second descriptor. */
static int open_direct(struct copier *c, const char *path, int flags, int plain)
{
    struct stat a, b;
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC);

    if (fd < 0 && errno == EINVAL) {
        fail(c, path, 0, "its file system does not do O_DIRECT: leave out --direct");
    } else if (fd < 0) {
        fail(c, path, -errno, "cannot be opened with O_DIRECT");
    } else if (fstat(plain, &a) < 0 || fstat(fd, &b) < 0 || !is_same_file(&a, &b)) {
        fail(c, path, 0, "was replaced by another file just now: try again");
        close(fd);
        return -1;
    }
    return fd;
}

static bool ends_where_it_says(const struct copier *c)
{
    char more;

    return pread(c->src, &more, 1, c->src_stat.st_size) == 0;
}

static bool open_source(struct copier *c)
{
    const char *path = c->opt.src_path;

    /* Asked before it is opened: opening a pipe would wait, opening a device may do things. */
    if (stat(path, &c->src_stat) < 0) {
        fail(c, path, -errno, "cannot be read");
        return false;
    }
    if (!S_ISREG(c->src_stat.st_mode)) {
        fail(c, path, 0, "is %s: only regular files can be copied",
             S_ISDIR(c->src_stat.st_mode) ? "a directory" : "not a regular file");
        return false;
    }
    c->src = open(path, O_RDONLY | O_CLOEXEC);
    if (c->src < 0 || fstat(c->src, &c->src_stat) < 0) {
        fail(c, path, -errno, "cannot be opened for reading");
        return false;
    }
    c->size = (uint64_t)c->src_stat.st_size;
    if (!ends_where_it_says(c)) {
        fail(c, path, 0, "holds more than the size it states, as files in /proc do: try `cat`");
        return false;
    }
    if (c->opt.direct)
        c->src_direct = open_direct(c, path, O_RDONLY, c->src);
    return !c->failed;
}

static bool open_target(struct copier *c)
{
    const char *path = c->opt.dst_path;
    int access = c->opt.check ? O_RDWR : O_WRONLY;
    struct stat st;

    if (stat(path, &st) == 0 && is_same_file(&st, &c->src_stat)) {
        fail(c, path, 0, "is the same file as %s: nothing was copied", c->opt.src_path);
        return false;
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
        fail(c, path, 0, "is not a regular file: nothing was copied");
        return false;
    }
    c->dst = open(path, access | O_CLOEXEC);
    if (c->dst < 0 && errno == ENOENT) {
        /* Nobody else may read it before it has the source's mode. */
        c->dst = open(path, access | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
        c->created = c->touched = c->dst >= 0;
    }
    if (c->dst < 0) {
        fail(c, path, -errno, "cannot be opened for writing");
        return false;
    }
    /* Between the first look and the open the name may have been given to another file. */
    if (fstat(c->dst, &st) < 0 || is_same_file(&st, &c->src_stat)) {
        fail(c, path, 0, "is the same file as %s: nothing was copied", c->opt.src_path);
        return false;
    }
    if (c->opt.direct)
        c->dst_direct = open_direct(c, path, access, c->dst);
    return !c->failed;
}

/* An empty file cannot be taken for a copy, whenever this program is stopped. */
static bool empty_target(struct copier *c)
{
    c->touched = true;
    if (ftruncate(c->dst, 0) < 0)
        fail(c, c->opt.dst_path, -errno, "cannot be emptied");
    return !c->failed;
}

/* A new name survives a power cut only when its directory was synced too. */
static bool sync_directory(struct copier *c)
{
    char *copy = strdup(c->opt.dst_path);
    int err = copy ? 0 : -ENOMEM;

    if (copy) {
        int dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        /* A directory that may be written but not read cannot be opened: sync all there is. */
        if ((dir >= 0 ? fsync(dir) : syncfs(c->dst)) < 0)
            err = -errno;
        if (dir >= 0)
            close(dir);
        free(copy);
    }
    if (err < 0)
        fail(c, c->opt.dst_path, err, "syncing its directory");
    return err == 0;
}

/* True when SRC is still what was copied. */
static bool source_is_unchanged(struct copier *c)
{
    struct stat now;

    if (fstat(c->src, &now) == 0 && now.st_size == c->src_stat.st_size &&
        now.st_mtim.tv_sec == c->src_stat.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == c->src_stat.st_mtim.tv_nsec && ends_where_it_says(c))
        return true;
    fail(c, c->opt.src_path, 0, "changed while it was copied: try again");
    return false;
}

static bool finish_target(struct copier *c)
{
    const char *path = c->opt.dst_path;

    if (ftruncate(c->dst, c->src_stat.st_size) < 0) {
        fail(c, path, -errno, "cannot be given its size");
        return false;
    }
    /* Without set-user-ID and its like: the copy may belong to somebody else. */
    if (fchmod(c->dst, c->src_stat.st_mode & 0777) < 0) {
        fail(c, path, -errno, "cannot be given the mode of the source");
        return false;
    }
    ioe_event *sync = ioe_event_new();
    int64_t err = sync ? ioe_prep_fsync(sync, c->dst) : -ENOMEM;
    if (err == 0)
        err = ioe_submit_wait(c->ctx, sync);
    ioe_event_free(sync);
    if (err < 0) {
        fail(c, path, (int)err, "syncing");
        return false;
    }
    return !c->created || sync_directory(c);
}

/* What is not a whole copy does not stay where it could be taken for one. */
static void abandon_target(struct copier *c)
{
    const char *path = c->opt.dst_path;

    if (!c->touched)
        return;
    if (c->created && unlink(path) == 0)
        fprintf(stderr, "copy: %s: removed, it was not whole\n", path);
    else if (ftruncate(c->dst, 0) == 0)
        fprintf(stderr, "copy: %s: emptied, it was not whole\n", path);
    else
        fprintf(stderr, "copy: %s: IS NOT WHOLE and could not be removed: do not use it\n", path);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static bool open_context(struct copier *c)
{
    ioe_config config;
    int err = ioe_config_init(&config, sizeof config);

    config.driver = c->opt.driver;
    config.depth = c->opt.depth;
    config.queue_size = c->opt.depth;
    config.flags = IOE_POLLED;
    if (err == 0)
        err = ioe_context_new(&config, &c->ctx);
    if (err < 0)
        fail(c, ioe_driver_name(c->opt.driver), err, "this I/O driver cannot be used%s",
             c->opt.driver == IOE_DRIVER_AUTO ? "" : ", try without --driver");
    return err == 0;
}

static void free_slots(struct slot *slots, size_t n)
{
    for (size_t i = 0; slots && i < n; i++) {
        ioe_event_free(slots[i].event);
        ioe_buffer_free(slots[i].data);
        ioe_buffer_free(slots[i].again);
    }
    free(slots);
}

static struct slot *new_slots(struct copier *c, size_t n)
{
    struct slot *slots = calloc(n, sizeof *slots);
    bool ok = slots != NULL;

    for (size_t i = 0; ok && i < n; i++) {
        slots[i].copier = c;
        slots[i].event = ioe_event_new();
        slots[i].data = ioe_buffer_alloc((size_t)c->opt.block, 0);
        if (c->opt.check)
            slots[i].again = ioe_buffer_alloc((size_t)c->opt.block, 0);
        ok = slots[i].event && slots[i].data && (slots[i].again || !c->opt.check);
    }
    if (ok)
        return slots;
    free_slots(slots, n);
    fail(c, c->opt.src_path, -ENOMEM, "no memory for %zu blocks", n);
    return NULL;
}

static void print_summary(const struct copier *c, double seconds)
{
    ioe_info info;
    ioe_stats stats;

    if (ioe_context_info(c->ctx, &info, sizeof info) < 0 ||
        ioe_context_stats(c->ctx, &stats, sizeof stats) < 0)
        return;
    if (info.reason[0] != '\0')
        fprintf(stderr, "copy: note: %s\n", info.reason);
    printf("copied %" PRIu64 " bytes, synced%s: %.1f MB/s (%s, %" PRIu64 " operations, %" PRIu64
           " system calls)\n",
           c->size, c->opt.check ? ", compared" : "",
           seconds > 0 ? (double)c->size / seconds / 1e6 : 0, ioe_driver_name(info.driver),
           stats.operations, stats.system_calls);
}

static void copy(struct copier *c, struct slot *slots, size_t n)
{
    struct timespec start;

    clock_gettime(CLOCK_MONOTONIC, &start);
    if (!empty_target(c))
        return;
    run_pass(c, slots, n);
    if (c->failed || !source_is_unchanged(c) || !finish_target(c))
        return;
    double seconds = seconds_since(&start);

    if (c->opt.check) {
        /* A wish, not an order: compare with what the device holds, not with the page cache. */
        (void)posix_fadvise(c->dst, 0, 0, POSIX_FADV_DONTNEED);
        c->checking = true;
        run_pass(c, slots, n);
        if (c->failed)
            return;
    }
    c->touched = false;
    if (!c->opt.quiet)
        print_summary(c, seconds);
}

static void usage(FILE *to)
{
    fprintf(to,
            "usage: copy [options] SRC DST\n"
            "Copies the regular file SRC to DST, syncs the copy and compares it with SRC.\n"
            "\n"
            "  -d, --depth N      blocks in flight at once, 1 to %d (default %d)\n"
            "  -b, --block SIZE   bytes per block, with k, m or g for units of 1024\n"
            "                     (default %dk)\n"
            "  -D, --direct       bypass the page cache (O_DIRECT); SIZE in steps of %d\n"
            "      --driver NAME  auto, uring, aio or pool (default auto)\n"
            "  -n, --no-check     do not read the copy back\n"
            "  -q, --quiet        print nothing but errors\n"
            "  -h, --help         print this\n"
            "\n"
            "Exit status: 0 for a whole copy, 1 for a failure, 2 for a wrong command line.\n"
            "On failure a DST that is not whole is removed, or emptied where it existed before.\n",
            (int)MAX_DEPTH, (int)DEFAULT_DEPTH, DEFAULT_BLOCK / 1024, (int)DIRECT_ALIGN);
}

__attribute__((format(printf, 1, 2), noreturn)) static void bad_usage(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("copy: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\nTry: copy --help\n", stderr);
    exit(EXIT_USAGE);
}

/* A whole number from 1 to max; with units also one that ends in k, m or g. */
static uint64_t parse_number(const char *text, bool units, uint64_t max, const char *option)
{
    char *end;

    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    /* strtoull takes a sign and leading blanks, which no count has. */
    bool ok = errno == 0 && text[0] >= '0' && text[0] <= '9';
    if (ok && units && *end != '\0') {
        const char *all = "kmg", *unit = strchr(all, *end | 0x20);
        int shift = unit ? 10 * (int)(unit - all + 1) : 0;
        ok = unit && n <= max >> shift;
        n <<= ok ? shift : 0;
        end++;
    }
    if (!ok || *end != '\0' || n < 1 || n > max)
        bad_usage("%s: '%s' is not a number from 1 to %" PRIu64, option, text, max);
    return n;
}

static int parse_driver(const char *name)
{
    for (int d = IOE_DRIVER_AUTO; d <= IOE_DRIVER_POOL; d++)
        if (strcmp(name, ioe_driver_name(d)) == 0)
            return d;
    bad_usage("--driver: '%s' is not one of auto, uring, aio, pool", name);
}

static struct options parse_options(int argc, char **argv)
{
    enum { OPT_DRIVER = 256 };
    static const struct option known[] = {
        {"depth", required_argument, NULL, 'd'},
        {"block", required_argument, NULL, 'b'},
        {"direct", no_argument, NULL, 'D'},
        {"driver", required_argument, NULL, OPT_DRIVER},
        {"no-check", no_argument, NULL, 'n'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options o = {
        .depth = DEFAULT_DEPTH, .block = DEFAULT_BLOCK, .driver = IOE_DRIVER_AUTO, .check = true};
    int opt;

    while ((opt = getopt_long(argc, argv, "d:b:Dnqh", known, NULL)) != -1) {
        switch (opt) {
        case 'd': o.depth = (unsigned)parse_number(optarg, false, MAX_DEPTH, "--depth"); break;
        case 'b': o.block = parse_number(optarg, true, MAX_BLOCK, "--block"); break;
        case 'D': o.direct = true; break;
        case OPT_DRIVER: o.driver = parse_driver(optarg); break;
        case 'n': o.check = false; break;
        case 'q': o.quiet = true; break;
        case 'h': usage(stdout); exit(EXIT_SUCCESS);
        default: fputs("Try: copy --help\n", stderr); exit(EXIT_USAGE);
        }
    }
    if (argc - optind != 2)
        bad_usage("needs a source and a target");
    if (o.direct && o.block % DIRECT_ALIGN != 0)
        bad_usage("--direct: the block size must be a multiple of %d", (int)DIRECT_ALIGN);
    if (o.block * o.depth > MAX_MEMORY)
        bad_usage("--depth times --block must not exceed %" PRIu64 " bytes", MAX_MEMORY);
    o.src_path = argv[optind];
    o.dst_path = argv[optind + 1];
    return o;
}

static void catch_signals(void)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    /* Once: a second signal ends the program at once, should a device not answer. */
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        sigaction(ends[i], &stop, NULL);
    /* Beyond `ulimit -f` a write is then an error that can be told, not the end of the process. */
    signal(SIGXFSZ, SIG_IGN);
}

int main(int argc, char **argv)
{
    struct copier c = {.src = -1, .dst = -1, .src_direct = -1, .dst_direct = -1};
    struct slot *slots = NULL;

    c.opt = parse_options(argc, argv);
    c.bar = !c.opt.quiet && isatty(STDERR_FILENO);
    catch_signals();

    if (open_source(&c) && open_context(&c)) {
        uint64_t blocks = c.size / c.opt.block + (c.size % c.opt.block != 0);
        size_t n = (size_t)(blocks < c.opt.depth ? blocks : c.opt.depth);

        slots = n > 0 ? new_slots(&c, n) : NULL;
        if (!c.failed && open_target(&c))
            copy(&c, slots, n);
        if (c.failed)
            abandon_target(&c);
        if (c.active > 0)
            return EXIT_FAILURE; /* the engine still owns the blocks: let the kernel clean up */
        ioe_context_free(c.ctx);
        free_slots(slots, n);
    }
    if (c.dst >= 0 && close(c.dst) < 0)
        fail(&c, c.opt.dst_path, -errno, "closing");
    if (c.failed && signalled)
        raise(signalled); /* so that a shell sees what ended it; the handler is gone by now */
    return c.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
