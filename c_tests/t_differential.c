/*
 * Promise: no caller can tell the drivers apart. One random history of events, many in flight at
 * once, gives on every driver and with every delivery the results and the files that a model in
 * memory has, byte for byte and errno for errno, with one callback for each event. As each way is
 * held to the same model, the ways agree with each other.
 *
 * The errno of an event that must fail is what the plain system call answers to the same. Events
 * that are in flight together touch different bytes, and none reads where the end of the file
 * moves: otherwise there would be no one right answer.
 *
 * IOE_TEST_SEED chooses the history; it is printed. With IOE_TEST_ROUNDS so many histories run, on
 * the disk alone (IOE_TEST_DISK); without, one runs there and one on a tmpfs. IOE_TEST_MERGE sets
 * merge_limit: the results are the same.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "drivers.h"

enum {
    FILES = 4,
    STEPS = 160,
    MAX_THREADS = 3,
    MAX_BATCH = 16,
    BLOCK = 4096, /* fits every device */
    FAULT_ROOM = 4 * BLOCK, /* what a file has from the start where an event must fail */
    CANARY = 0xA5,
    FAR_FD = 1 << 20,
};

static const uint64_t FILE_MAX = UINT64_C(12) << 20;
static const unsigned LEN_BITS = 23; /* 8 MiB */
/* Once a history has moved so many bytes, its transfers become small. */
static const uint64_t BYTES_MAX = UINT64_C(40) << 20;
static const uint64_t SMALL = 64 * 1024;

/* ---- what a history is made of ---- */

/* How a descriptor was opened. */
typedef enum door { BUFFERED, DIRECT, READ_ONLY, WRITE_ONLY, DOORS, NO_DOOR = DOORS } door;

static const char *const door_names[] = {"buffered", "direct", "read-only", "write-only", "bad"};

typedef enum submission { ALONE, TRYING, BATCHED, WAITING, IN_CALLBACK } submission;

static const char *const submission_names[] = {"submit", "try_submit", "batch", "wait",
                                               "submit in the callback before"};

struct run;

typedef struct step {
    /* Made once, with the history. */
    unsigned number, file;
    door door;
    int action, mode;
    uint64_t offset;
    size_t len;
    bool extends;         /* moves the end of the file, from: */
    uint64_t size_before; /* the file's size before this step */
    submission how;
    int iovcnt; /* 0: not vectored */
    struct iovec *iov;
    uint8_t *memory; /* of the segments, with gaps between them */
    size_t memory_len;
    int64_t answer; /* what the result must be */
    uint8_t *bytes; /* what a read must read */
    const char *why_it_fails;
    /* Anew in each run. */
    struct run *run;
    ioe_event *event;
    atomic_uint calls;
    int64_t result;
    uint64_t transferred;
    int refused; /* by the call that should have accepted it */
    bool done;
} step;

typedef struct history {
    uint64_t seed, random;
    step steps[STEPS];
    uint64_t first_size[FILES];
    struct model {
        uint8_t *bytes;
        uint64_t size;
        bool allocated; /* by fallocate */
    } files[FILES];
    uint64_t moved;
    unsigned threads;
    uint32_t depth, queue_size;
} history;

/* An event that must fail: always the same one, at a place in the file. */
typedef struct fault {
    const char *name;
    int action;
    door door;
    bool far;         /* where no file can be */
    uint64_t offset;  /* beyond a block's boundary */
    size_t len;
    size_t address;   /* beyond a block's boundary */
    int mode;
    int64_t answer;   /* of the plain system call; not negative where it does not fail here */
} fault;

static fault faults[] = {
    {"read of a bad descriptor", IOE_READ, NO_DOOR, false, 0, BLOCK, 0, 0, 0},
    {"write of a bad descriptor", IOE_WRITE, NO_DOOR, false, 0, BLOCK, 0, 0, 0},
    {"fsync of a bad descriptor", IOE_FSYNC, NO_DOOR, false, 0, 0, 0, 0, 0},
    {"fdatasync of a bad descriptor", IOE_FDATASYNC, NO_DOOR, false, 0, 0, 0, 0, 0},
    {"fallocate of a bad descriptor", IOE_FALLOCATE, NO_DOOR, false, 0, BLOCK, 0, 0, 0},
    {"read of a write-only descriptor", IOE_READ, WRITE_ONLY, false, 0, BLOCK, 0, 0, 0},
    {"write of a read-only descriptor", IOE_WRITE, READ_ONLY, false, 0, BLOCK, 0, 0, 0},
    {"fallocate of a read-only descriptor", IOE_FALLOCATE, READ_ONLY, false, 0, BLOCK, 0, 0, 0},
    {"direct read at an odd offset", IOE_READ, DIRECT, false, 1, BLOCK, 0, 0, 0},
    {"direct write at an odd offset", IOE_WRITE, DIRECT, false, 1, BLOCK, 0, 0, 0},
    {"direct read of an odd length", IOE_READ, DIRECT, false, 0, BLOCK - 1, 0, 0, 0},
    {"direct write of an odd length", IOE_WRITE, DIRECT, false, 0, BLOCK - 1, 0, 0, 0},
    {"direct read to an odd address", IOE_READ, DIRECT, false, 0, BLOCK, 1, 0, 0},
    {"direct write from an odd address", IOE_WRITE, DIRECT, false, 0, BLOCK, 1, 0, 0},
    {"write beyond any file", IOE_WRITE, BUFFERED, true, 0, BLOCK, 0, 0, 0},
    {"direct write beyond any file", IOE_WRITE, DIRECT, true, 0, BLOCK, 0, 0, 0},
    {"fallocate beyond any file", IOE_FALLOCATE, BUFFERED, true, 0, BLOCK, 0, 0, 0},
    {"fallocate of nothing", IOE_FALLOCATE, BUFFERED, false, 0, 0, 0, 0, 0},
    {"fallocate in an unknown mode", IOE_FALLOCATE, BUFFERED, false, 0, BLOCK, 0, 0x4000, 0},
    {"fallocate in modes that exclude each other", IOE_FALLOCATE, BUFFERED, false, 0, BLOCK, 0,
     FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE, 0},
    {"fallocate that punches a hole and would grow", IOE_FALLOCATE, BUFFERED, false, 0, BLOCK, 0,
     FALLOC_FL_PUNCH_HOLE, 0},
    {"sync_range of a bad descriptor", IOE_SYNC_RANGE, NO_DOOR, false, 0, BLOCK, 0, 0, 0},
    {"sync_range with unknown flags", IOE_SYNC_RANGE, BUFFERED, false, 0, BLOCK, 0, 0x100, 0},
    {"truncate of a bad descriptor", IOE_TRUNCATE, NO_DOOR, false, 0, 0, 0, 0, 0},
    {"truncate of a read-only descriptor", IOE_TRUNCATE, READ_ONLY, false, 0, 0, 0, 0, 0},
    {"truncate beyond any file", IOE_TRUNCATE, BUFFERED, true, 0, 0, 0, 0, 0},
    {"advise of a bad descriptor", IOE_ADVISE, NO_DOOR, false, 0, BLOCK, 0, POSIX_FADV_NORMAL, 0},
    {"advise of an unknown kind", IOE_ADVISE, BUFFERED, false, 0, BLOCK, 0, 100, 0},
};

static const uint64_t FAR = (UINT64_C(1) << 63) - 4 * BLOCK;

/* What this file system answers to fallocate in each of these modes. */
static const int allocate_modes[] = {0, FALLOC_FL_KEEP_SIZE};
static int64_t allocate_answers[COUNT_OF(allocate_modes)];
static bool has_direct;

static const char *action_name(int action)
{
    static const char *const names[] = {"nothing", "read", "write", "fsync", "fdatasync",
                                        "fallocate", "sync_range", "truncate", "advise"};
    return names[action];
}

/* ---- the file system's own answers ---- */

static void open_doors(place where, int fds[DOORS])
{
    fds[BUFFERED] = temp_file(where);
    fds[DIRECT] = open_again(fds[BUFFERED], O_RDWR | O_DIRECT);
    fds[READ_ONLY] = open_again(fds[BUFFERED], O_RDONLY);
    fds[WRITE_ONLY] = open_again(fds[BUFFERED], O_WRONLY);
    assert_true(fds[READ_ONLY] >= 0 && fds[WRITE_ONLY] >= 0);
    assert_true(fds[DIRECT] >= 0 || errno == EINVAL);
}

static void close_doors(const int fds[DOORS])
{
    for (unsigned d = 0; d < DOORS; d++)
        if (fds[d] >= 0)
            close(fds[d]);
}

static int64_t plain_call(const fault *f, int fd, uint8_t *memory)
{
    off_t offset = (off_t)(f->far ? FAR : f->offset);
    int64_t result = -1;
    switch (f->action) {
    case IOE_READ: result = pread(fd, memory + f->address, f->len, offset); break;
    case IOE_WRITE: result = pwrite(fd, memory + f->address, f->len, offset); break;
    case IOE_FSYNC: result = fsync(fd); break;
    case IOE_FDATASYNC: result = fdatasync(fd); break;
    case IOE_FALLOCATE: result = fallocate(fd, f->mode, offset, (off_t)f->len); break;
    case IOE_SYNC_RANGE:
        result = sync_file_range(fd, offset, (off_t)f->len, (unsigned)f->mode);
        break;
    case IOE_TRUNCATE: result = ftruncate(fd, offset); break;
    case IOE_ADVISE: return -posix_fadvise(fd, offset, (off_t)f->len, f->mode);
    default: break;
    }
    return result < 0 ? -errno : result;
}

/* Learns the answers from plain system calls on a file of its own. */
static void ask_file_system(place where)
{
    int fds[DOORS];
    uint8_t *memory = aligned_alloc(BLOCK, 4 * BLOCK);
    assert_non_null(memory);
    memset(memory, 1, 4 * BLOCK);
    open_doors(where, fds);
    has_direct = fds[DIRECT] >= 0;
    if (!has_direct)
        print_message("# left out: the file system has no O_DIRECT\n");
    assert_int_equal(pwrite(fds[BUFFERED], memory, 4 * BLOCK, 0), 4 * BLOCK);
    for (size_t i = 0; i < COUNT_OF(faults); i++) {
        fault *f = &faults[i];
        if (f->door == DIRECT && !has_direct) {
            f->answer = 0;
            continue;
        }
        f->answer = plain_call(f, f->door == NO_DOOR ? -1 : fds[f->door], memory);
        if (f->answer >= 0)
            print_message("# left out, for it works here: %s\n", f->name);
    }
    for (size_t i = 0; i < COUNT_OF(allocate_modes); i++) {
        const fault f = {.action = IOE_FALLOCATE, .len = BLOCK, .mode = allocate_modes[i]};
        allocate_answers[i] = plain_call(&f, fds[BUFFERED], memory);
        if (allocate_answers[i] != 0)
            print_message("# fallocate in mode %d answers %s here\n", allocate_modes[i],
                          ioe_strerror((int)allocate_answers[i]));
    }
    close_doors(fds);
    free(memory);
}

/* ---- making a history ---- */

static uint64_t below(history *h, uint64_t limit)
{
    return next_random(&h->random) % limit;
}

static bool one_in(history *h, unsigned chances)
{
    return below(h, chances) == 0;
}

/* 1 byte to 8 MiB, each order of magnitude as likely as the others; rarely nothing. */
static size_t choose_len(history *h)
{
    if (one_in(h, 100))
        return 0;
    size_t len = (size_t)(1 + below(h, UINT64_C(1) << below(h, LEN_BITS + 1)));
    return h->moved > BYTES_MAX && len > SMALL ? SMALL : len;
}

/* Memory for the step's bytes: one piece or several, with gaps that nobody may touch. */
static void give_memory(history *h, step *s)
{
    /* The unit that segments are cut in, and the gap between them. */
    const size_t unit = s->door == DIRECT ? BLOCK : 1;
    const size_t gap = s->door == DIRECT ? BLOCK : 24 + 2 * (size_t)below(h, 8) + 1;
    size_t count = 1;
    if (one_in(h, 3)) {
        size_t most = one_in(h, 8) ? 1024 : 8;
        if (s->door == DIRECT && most > s->len / BLOCK)
            most = s->len / BLOCK;
        s->iovcnt = (int)(1 + (most > 0 ? below(h, most) : 0));
        count = (size_t)s->iovcnt;
    }
    s->iov = calloc(count, sizeof *s->iov);
    s->memory_len = s->len + (count + 1) * gap;
    s->memory_len += BLOCK - s->memory_len % BLOCK;
    s->memory = aligned_alloc(BLOCK, s->memory_len);
    assert_true(s->iov != NULL && s->memory != NULL);
    memset(s->memory, CANARY, s->memory_len);
    uint8_t *at = s->memory + gap;
    size_t left = s->len;
    for (size_t i = 0; i < count; i++) {
        /* A direct segment has bytes; each of those to come needs one unit. */
        size_t spare = left / unit - (s->door == DIRECT && left > 0 ? count - i - 1 : 0);
        size_t part = i + 1 == count ? left : below(h, 2 * (spare / (count - i)) + 1) * unit;
        if (part > spare * unit)
            part = spare * unit;
        if (s->door == DIRECT && part == 0 && left > 0)
            part = unit;
        s->iov[i] = (struct iovec){at, part};
        at += part + gap;
        left -= part;
    }
}

static void make_fault(history *h, step *s, const fault *f)
{
    uint64_t first = h->first_size[s->file];
    s->door = f->door;
    s->action = f->action;
    s->mode = f->mode;
    s->len = f->len;
    s->offset = f->far ? FAR : f->offset;
    if (!f->far && first >= FAULT_ROOM)
        s->offset += below(h, first / BLOCK - 2) * BLOCK;
    s->answer = f->answer;
    s->why_it_fails = f->name;
    if (s->action == IOE_READ || s->action == IOE_WRITE) {
        s->memory_len = 4 * BLOCK;
        s->memory = aligned_alloc(BLOCK, s->memory_len);
        s->iov = calloc(1, sizeof *s->iov);
        assert_true(s->memory != NULL && s->iov != NULL);
        memset(s->memory, CANARY, s->memory_len);
        s->iov[0] = (struct iovec){s->memory + BLOCK + f->address, f->len};
        s->iovcnt = one_in(h, 2) ? 1 : 0;
    }
}

static int pieces(const step *s)
{
    return s->iovcnt > 0 ? s->iovcnt : 1;
}

static void model_write(struct model *m, const step *s)
{
    uint64_t at = s->offset;
    for (int i = 0; i < pieces(s); at += s->iov[i].iov_len, i++)
        memcpy(m->bytes + at, s->iov[i].iov_base, s->iov[i].iov_len);
    if (s->len > 0 && at > m->size)
        m->size = at;
}

/* Often a transfer goes on where the same thread's last one ended: they may travel together. */
static const step *neighbour_of(history *h, const step *s)
{
    if (s->number < h->threads || one_in(h, 3))
        return NULL;
    const step *last = s - h->threads;
    bool transfers = last->action == IOE_READ || last->action == IOE_WRITE;
    return transfers && last->why_it_fails == NULL ? last : NULL;
}

static void make_transfer(history *h, step *s)
{
    const step *last = neighbour_of(h, s);
    if (last != NULL) {
        s->file = last->file;
        if (last->how == BATCHED)
            s->how = BATCHED;
    }
    struct model *m = &h->files[s->file];
    s->size_before = m->size;
    s->action = last != NULL ? last->action : one_in(h, 2) ? IOE_READ : IOE_WRITE;
    s->door = last != NULL ? last->door : has_direct && one_in(h, 2) ? DIRECT : BUFFERED;
    s->len = choose_len(h);
    if (s->door == DIRECT)
        s->len = (s->len + BLOCK - 1) / BLOCK * BLOCK;
    if (s->action == IOE_WRITE) {
        /* Inside, at the end, or leaving a hole. */
        uint64_t where = below(h, 4);
        s->offset = where == 0 ? m->size : below(h, m->size + (where == 1 ? m->size / 4 : 0) + 1);
    } else {
        s->offset = below(h, m->size + m->size / 8 + 1);
    }
    if (last != NULL && last->offset + last->len <= FILE_MAX)
        s->offset = last->offset + last->len;
    if (s->door == DIRECT)
        s->offset -= s->offset % BLOCK;
    if (s->action == IOE_WRITE && s->offset + s->len > FILE_MAX)
        s->offset = FILE_MAX - s->len;
    /* After a fallocate xfs may answer EIO to a direct read that goes beyond the last block, because
     * of what it set aside there for later: docs/drivers.md. */
    uint64_t last_end = (m->size + BLOCK - 1) / BLOCK * BLOCK;
    if (s->action == IOE_READ && s->door == DIRECT && m->allocated && s->offset < last_end &&
        s->len > last_end - s->offset)
        s->len = (size_t)(last_end - s->offset);
    give_memory(h, s);
    h->moved += s->len;
    if (s->action == IOE_WRITE) {
        uint64_t at = s->offset;
        for (int i = 0; i < pieces(s); at += s->iov[i].iov_len, i++)
            pattern_fill(s->iov[i].iov_base, s->iov[i].iov_len, h->seed + s->number, at);
        s->extends = s->len > 0 && s->offset + s->len > m->size;
        s->answer = (int64_t)s->len;
        model_write(m, s);
    } else {
        uint64_t left = s->offset < m->size ? m->size - s->offset : 0;
        s->answer = (int64_t)(left < s->len ? left : s->len);
        s->bytes = malloc((size_t)s->answer + 1);
        assert_non_null(s->bytes);
        memcpy(s->bytes, m->bytes + s->offset, (size_t)s->answer);
    }
}

static void make_allocation(history *h, step *s)
{
    struct model *m = &h->files[s->file];
    size_t which = below(h, COUNT_OF(allocate_modes));
    s->action = IOE_FALLOCATE;
    s->door = BUFFERED;
    s->mode = allocate_modes[which];
    s->offset = one_in(h, 2) ? m->size : below(h, m->size + 1);
    s->len = choose_len(h) + 1;
    if (s->offset + s->len > FILE_MAX)
        s->offset = FILE_MAX - s->len;
    s->answer = allocate_answers[which];
    m->allocated = true;
    if (s->answer == 0 && s->mode == 0 && s->offset + s->len > m->size) {
        s->extends = true;
        m->size = s->offset + s->len;
    }
}

/* Cuts off what was added to the file, or some of it, or adds zeros. */
static void make_truncation(history *h, step *s)
{
    struct model *m = &h->files[s->file];
    const uint64_t first = h->first_size[s->file];
    s->action = IOE_TRUNCATE;
    s->door = has_direct && one_in(h, 2) ? DIRECT : BUFFERED;
    s->offset = first + below(h, m->size - first + (one_in(h, 2) ? choose_len(h) : 0) + 1);
    if (s->offset > FILE_MAX)
        s->offset = FILE_MAX;
    if (s->offset < m->size)
        memset(m->bytes + s->offset, 0, m->size - s->offset);
    m->size = s->offset;
}

/* Changes no byte, whatever is in flight. (Without POSIX_FADV_WILLNEED, which reads into the page cache
 * what a direct transfer may be writing.) */
static void make_hint(history *h, step *s)
{
    static const int advices[] = {POSIX_FADV_NORMAL, POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM,
                                  POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE};
    s->action = one_in(h, 2) ? IOE_SYNC_RANGE : IOE_ADVISE;
    s->door = (door)below(h, DOORS);
    if (s->door == DIRECT && !has_direct)
        s->door = BUFFERED;
    s->mode = s->action == IOE_SYNC_RANGE ? (int)below(h, SYNC_FILE_RANGE_WRITE_AND_WAIT + 1)
                                          : advices[below(h, COUNT_OF(advices))];
    s->offset = below(h, h->files[s->file].size + 1);
    s->len = choose_len(h);
}

/* What was just written is read in the callback of the write, with the write's event. */
static bool make_reading_back(history *h, step *s)
{
    const step *before = s - 1;
    if (s->number == 0 || before->action != IOE_WRITE || before->answer <= 0 ||
        before->how == WAITING || !one_in(h, 4))
        return false;
    s->how = IN_CALLBACK;
    s->file = before->file;
    s->action = IOE_READ;
    s->door = before->door;
    s->offset = before->offset;
    s->len = before->len;
    s->size_before = h->files[s->file].size;
    give_memory(h, s);
    s->answer = before->answer;
    s->bytes = malloc(s->len);
    assert_non_null(s->bytes);
    memcpy(s->bytes, h->files[s->file].bytes + s->offset, s->len);
    h->moved += s->len;
    return true;
}

static void make_step(history *h, step *s)
{
    if (make_reading_back(h, s))
        return;
    s->how = (submission)below(h, IN_CALLBACK);
    s->file = (unsigned)below(h, FILES);
    s->size_before = h->files[s->file].size;
    uint64_t kind = below(h, 100);
    const fault *f = &faults[below(h, COUNT_OF(faults))];
    /* A file system need not look at the alignment of a read in a hole or beyond the end. */
    bool needs_bytes = f->door == DIRECT && !f->far;
    if (kind < 15 && f->answer < 0 && (!needs_bytes || h->first_size[s->file] >= FAULT_ROOM)) {
        make_fault(h, s, f);
    } else if (kind < 24) {
        make_allocation(h, s);
    } else if (kind < 28) {
        make_truncation(h, s);
    } else if (kind < 34) {
        make_hint(h, s);
    } else if (kind < 42) {
        s->action = one_in(h, 2) ? IOE_FSYNC : IOE_FDATASYNC;
        /* A descriptor that cannot write can sync all the same. */
        s->door = (door)below(h, DOORS);
        if (s->door == DIRECT && !has_direct)
            s->door = BUFFERED;
    } else {
        make_transfer(h, s);
    }
}

static history *make_history(uint64_t seed)
{
    history *h = calloc(1, sizeof *h);
    assert_non_null(h);
    h->seed = h->random = seed;
    for (unsigned i = 0; i < FILES; i++) {
        h->files[i].bytes = calloc(1, FILE_MAX);
        assert_non_null(h->files[i].bytes);
        h->files[i].size = h->first_size[i] = one_in(h, 4) ? 0 : below(h, 1 << 20);
        pattern_fill(h->files[i].bytes, h->files[i].size, seed + i, 0);
    }
    h->threads = 1 + (unsigned)below(h, MAX_THREADS);
    h->depth = 1u << below(h, 8);
    h->queue_size = 1u << below(h, 9);
    for (unsigned i = 0; i < STEPS; i++) {
        h->steps[i].number = i;
        make_step(h, &h->steps[i]);
    }
    return h;
}

static void free_history(history *h)
{
    for (unsigned i = 0; i < STEPS; i++) {
        free(h->steps[i].iov);
        free(h->steps[i].memory);
        free(h->steps[i].bytes);
    }
    for (unsigned i = 0; i < FILES; i++)
        free(h->files[i].bytes);
    free(h);
}

/* ---- which steps may be in flight together ---- */

static bool changes(const step *s)
{
    return s->action == IOE_WRITE || s->action == IOE_FALLOCATE;
}

static bool moves_nothing(const step *s)
{
    return s->action == IOE_FSYNC || s->action == IOE_FDATASYNC || s->action == IOE_SYNC_RANGE ||
           s->action == IOE_ADVISE;
}

/* Whether a read and a step that may move the end of the file must not meet. The later of the two
 * knows the size that the file has after the earlier. */
static bool meets_moving_end(const step *a, const step *b)
{
    if (b->action == IOE_READ)
        return a->extends && b->offset + b->len > a->size_before;
    return a->action == IOE_READ && a->offset + a->len > a->size_before &&
           b->offset + b->len > a->size_before;
}

/* Whether step b has to wait until the earlier step a is done. */
static bool conflict(const step *a, const step *b)
{
    if (a->file != b->file || moves_nothing(a) || moves_nothing(b))
        return false;
    if (a->action == IOE_TRUNCATE || b->action == IOE_TRUNCATE)
        return true;
    if (!changes(a) && !changes(b))
        return false;
    /* The page cache and direct transfers at one moment: open(2) says to keep them apart. */
    if ((a->door == DIRECT) != (b->door == DIRECT))
        return true;
    return (a->offset < b->offset + b->len && b->offset < a->offset + a->len) ||
           meets_moving_end(a, b);
}

/* ---- running it ---- */

typedef struct run {
    history *h;
    const way *w;
    ioe_context *ctx;
    int fds[FILES][DOORS];
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} run;

typedef struct submitter {
    run *r;
    unsigned first, threads;
    step *batch[MAX_BATCH];
    size_t batched;
} submitter;

static int prepare(step *s, ioe_event *event)
{
    run *r = s->run;
    int fd = s->door == NO_DOOR ? (s->number % 2 ? FAR_FD : -1) : r->fds[s->file][s->door];
    switch (s->action) {
    case IOE_READ:
        return s->iovcnt > 0 ? ioe_prep_readv(event, fd, s->iov, s->iovcnt, s->offset)
                             : ioe_prep_read(event, fd, s->iov[0].iov_base, s->len, s->offset);
    case IOE_WRITE:
        return s->iovcnt > 0 ? ioe_prep_writev(event, fd, s->iov, s->iovcnt, s->offset)
                             : ioe_prep_write(event, fd, s->iov[0].iov_base, s->len, s->offset);
    case IOE_FSYNC: return ioe_prep_fsync(event, fd);
    case IOE_FDATASYNC: return ioe_prep_fdatasync(event, fd);
    case IOE_FALLOCATE: return ioe_prep_fallocate(event, fd, s->mode, s->offset, s->len);
    case IOE_SYNC_RANGE:
        return ioe_prep_sync_range(event, fd, s->offset, s->len, (uint32_t)s->mode);
    case IOE_TRUNCATE: return ioe_prep_truncate(event, fd, s->offset);
    case IOE_ADVISE: return ioe_prep_advise(event, fd, s->offset, s->len, s->mode);
    default: return -EINVAL;
    }
}

static void finish(step *s)
{
    run *r = s->run;
    if (s->refused == 0) {
        s->result = ioe_event_result(s->event);
        s->transferred = ioe_event_transferred(s->event);
    }
    pthread_mutex_lock(&r->mutex);
    s->done = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

static void refuse(step *s, int64_t answer)
{
    s->refused = answer < 0 ? (int)answer : -EPROTO;
    finish(s);
}

static void on_step(ioe_event *event, void *arg)
{
    step *s = arg;
    step *next = s + 1;
    if (atomic_fetch_add(&s->calls, 1) > 0 || event != s->event)
        return;
    finish(s);
    if (s->number + 1 == STEPS || next->how != IN_CALLBACK)
        return;
    next->event = event;
    int rc = prepare(next, event);
    if (rc == 0)
        rc = ioe_event_set_callback(event, on_step, next);
    if (rc == 0)
        rc = ioe_submit(s->run->ctx, event);
    if (rc != 0)
        refuse(next, rc);
}

static bool is_polled(const run *r)
{
    return (r->w->how->flags & IOE_POLLED) != 0;
}

/* A full queue of a polled context is emptied by polling. */
static void make_room(const run *r)
{
    if (is_polled(r))
        ioe_poll(r->ctx, 1, -1);
}

static void submit_batch(submitter *t)
{
    size_t from = 0;
    while (from < t->batched) {
        ioe_event *events[MAX_BATCH];
        for (size_t i = from; i < t->batched; i++)
            events[i - from] = t->batch[i]->event;
        int taken = ioe_submit_batch(t->r->ctx, events, t->batched - from);
        if (taken > 0)
            from += (size_t)taken;
        else if (taken == -EAGAIN && is_polled(t->r))
            make_room(t->r);
        else
            refuse(t->batch[from++], taken);
    }
    t->batched = 0;
}

static void submit(submitter *t, step *s)
{
    run *r = t->r;
    int rc = 0;
    switch (s->how) {
    case BATCHED:
        t->batch[t->batched++] = s;
        if (t->batched == MAX_BATCH)
            submit_batch(t);
        return;
    case WAITING:
        if (ioe_submit_wait(r->ctx, s->event) != ioe_event_result(s->event))
            s->refused = -EPROTO;
        finish(s);
        return;
    case TRYING: rc = ioe_try_submit(r->ctx, s->event); break;
    default: rc = -EAGAIN; break;
    }
    while (rc == -EAGAIN) {
        rc = ioe_submit(r->ctx, s->event);
        if (rc == -EAGAIN) {
            if (!is_polled(r))
                break;
            make_room(r);
        }
    }
    if (rc != 0)
        refuse(s, rc);
}

static void wait_until_done(submitter *t, const step *s)
{
    run *r = t->r;
    pthread_mutex_lock(&r->mutex);
    while (!s->done) {
        if (t->batched > 0 || is_polled(r)) {
            pthread_mutex_unlock(&r->mutex);
            if (t->batched > 0)
                submit_batch(t);
            else
                ioe_poll(r->ctx, 1, -1);
            pthread_mutex_lock(&r->mutex);
        } else {
            pthread_cond_wait(&r->changed, &r->mutex);
        }
    }
    pthread_mutex_unlock(&r->mutex);
}

/* Submits each so-many-th step, in order. A step waits for earlier ones only, so there is always one
 * that can go on. */
static void *submit_steps(void *arg)
{
    submitter *t = arg;
    history *h = t->r->h;
    for (unsigned i = t->first; i < STEPS; i += t->threads) {
        step *s = &h->steps[i];
        if (s->how == IN_CALLBACK)
            continue;
        for (unsigned j = 0; j < i; j++)
            if (conflict(&h->steps[j], s))
                wait_until_done(t, &h->steps[j]);
        submit(t, s);
    }
    submit_batch(t);
    return NULL;
}

/* ---- looking at what came of it ---- */

static bool is_canary(const uint8_t *from, const uint8_t *to)
{
    for (; from < to; from++)
        if (*from != CANARY)
            return false;
    return true;
}

/* NULL, or what is wrong with the memory of a read. */
static const char *wrong_memory(const step *s)
{
    const uint8_t *gap = s->memory;
    const uint8_t *end = s->memory + s->memory_len;
    const uint8_t *expected = s->bytes;
    uint64_t left = s->answer > 0 ? (uint64_t)s->answer : 0;
    for (int i = 0; i < pieces(s); i++) {
        const uint8_t *at = s->iov[i].iov_base;
        size_t len = s->iov[i].iov_len;
        size_t got = left < len ? (size_t)left : len;
        if (!is_canary(gap, at))
            return "it wrote outside of its memory";
        if (got > 0 && memcmp(at, expected, got) != 0)
            return "it read other bytes";
        /* A direct read may fill the block in which the file ends. */
        if (s->door != DIRECT && !is_canary(at + got, at + len))
            return "it wrote more than it read";
        expected += got;
        left -= got;
        gap = at + len;
    }
    return is_canary(gap, end) ? NULL : "it wrote outside of its memory";
}

static bool check_step(const step *s)
{
    const char *wrong = NULL;
    uint64_t transferred = s->answer > 0 ? (uint64_t)s->answer : 0;
    if (s->refused != 0)
        wrong = "it was refused, or answered other than its result";
    else if (!s->done)
        wrong = "it never completed";
    else if (atomic_load(&s->calls) != (s->how == WAITING ? 0 : 1))
        wrong = "it did not have its one callback";
    else if (s->result != s->answer)
        wrong = "another result";
    else if (s->transferred != transferred)
        wrong = "another number of bytes transferred";
    else if (s->action == IOE_READ)
        wrong = wrong_memory(s);
    if (wrong == NULL)
        return true;
    const run *r = s->run;
    print_error("# %s: IOE_TEST_SEED=%" PRIu64 ", step %u: %s\n"
                  "#   %s %s file %u, mode %d, %zu bytes at %" PRIu64 ", %d segments, %s%s%s\n"
                  "#   result %" PRId64 " (%s), expected %" PRId64 " (%s); transferred %" PRIu64
                  "; callbacks %u; refused %d; file of %" PRIu64 " bytes\n",
                  r->w->name, r->h->seed, s->number, wrong, action_name(s->action),
                  door_names[s->door], s->file, s->mode, s->len, s->offset, s->iovcnt,
                  submission_names[s->how], s->why_it_fails ? ": " : "",
                  s->why_it_fails ? s->why_it_fails : "", s->result,
                  s->result < 0 ? ioe_strerror((int)s->result) : "fine", s->answer,
                  s->answer < 0 ? ioe_strerror((int)s->answer) : "fine", s->transferred,
                  atomic_load(&s->calls), s->refused, s->size_before);
    return false;
}

/* As the device has it, where there is one: the page cache is dropped first. */
static bool check_file(const run *r, unsigned file)
{
    const struct model *m = &r->h->files[file];
    int fd = r->fds[file][BUFFERED];
    struct stat st;
    uint8_t *bytes = malloc(m->size + 1);
    assert_non_null(bytes);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(fstat(fd, &st), 0);
    ssize_t got = pread(fd, bytes, m->size + 1, 0);
    bool same = (uint64_t)st.st_size == m->size && got == (ssize_t)m->size &&
                memcmp(bytes, m->bytes, m->size) == 0;
    if (!same) {
        uint64_t at = 0;
        while (at < m->size && (ssize_t)at < got && bytes[at] == m->bytes[at])
            at++;
        print_error("# %s: IOE_TEST_SEED=%" PRIu64 ", file %u: %" PRIu64
                      " bytes, expected %" PRIu64 "; the first other byte is %" PRIu64 "\n",
                      r->w->name, r->h->seed, file, (uint64_t)st.st_size, m->size, at);
    }
    free(bytes);
    return same;
}

static bool check_counters(const run *r)
{
    ioe_stats stats = get_stats(r->ctx);
    uint64_t read = 0, written = 0, failed = 0;
    for (unsigned i = 0; i < STEPS; i++) {
        const step *s = &r->h->steps[i];
        failed += s->answer < 0;
        if (s->answer > 0 && s->action == IOE_READ)
            read += (uint64_t)s->answer;
        if (s->answer > 0 && s->action == IOE_WRITE)
            written += (uint64_t)s->answer;
    }
    bool right = stats.accepted == STEPS && stats.completed == STEPS && stats.in_flight == 0 &&
                 stats.failed == failed && stats.bytes_read == read &&
                 stats.bytes_written == written;
    if (!right)
        print_error("# %s: IOE_TEST_SEED=%" PRIu64 ": accepted %" PRIu64 ", completed %" PRIu64
                      ", in flight %" PRIu64 ", failed %" PRIu64 " of %" PRIu64 ", read %" PRIu64
                      " of %" PRIu64 ", written %" PRIu64 " of %" PRIu64 "\n",
                      r->w->name, r->h->seed, stats.accepted, stats.completed, stats.in_flight,
                      stats.failed, failed, stats.bytes_read, read, stats.bytes_written, written);
    return right;
}

/* ---- one history, one way ---- */

static uint64_t first_seed;
static unsigned long rounds;
static uint64_t merged; /* events of one way, in all histories */

static void begin_run(run *r, place where)
{
    history *h = r->h;
    for (unsigned i = 0; i < FILES; i++) {
        uint8_t *first = malloc(h->first_size[i] + 1);
        assert_non_null(first);
        pattern_fill(first, h->first_size[i], h->seed + i, 0);
        open_doors(where, r->fds[i]);
        assert_int_equal(pwrite(r->fds[i][BUFFERED], first, h->first_size[i], 0),
                         h->first_size[i]);
        free(first);
    }
    for (unsigned i = 0; i < STEPS; i++) {
        step *s = &h->steps[i];
        s->run = r;
        s->result = IOE_PENDING;
        s->transferred = 0;
        s->refused = 0;
        s->done = false;
        atomic_store(&s->calls, 0);
        if (s->action == IOE_READ)
            memset(s->memory, CANARY, s->memory_len);
        s->event = NULL;
        if (s->how == IN_CALLBACK)
            continue;
        s->event = new_event();
        assert_int_equal(prepare(s, s->event), 0);
        if (s->how != WAITING)
            assert_int_equal(ioe_event_set_callback(s->event, on_step, s), 0);
    }
}

static void run_history(history *h, const way *w, place where)
{
    run r = {.h = h, .w = w};
    submitter submitters[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    bool right = true;
    assert_int_equal(pthread_mutex_init(&r.mutex, NULL), 0);
    assert_int_equal(pthread_cond_init(&r.changed, NULL), 0);
    r.ctx = new_context_in(w, h->depth, h->queue_size);
    begin_run(&r, where);
    unsigned count = is_polled(&r) ? 1 : h->threads;
    for (unsigned i = 0; i < count; i++)
        submitters[i] = (submitter){.r = &r, .first = i, .threads = count};
    if (is_polled(&r)) {
        submit_steps(&submitters[0]);
    } else {
        for (unsigned i = 0; i < count; i++)
            threads[i] = start_thread(submit_steps, &submitters[i]);
        for (unsigned i = 0; i < count; i++)
            join_thread(threads[i]);
    }
    /* One that is submitted in a callback holds no drain back that began before. */
    for (unsigned i = 0; i < STEPS; i++)
        wait_until_done(&submitters[0], &h->steps[i]);
    assert_int_equal(ioe_drain(r.ctx, -1), 0);
    right = check_counters(&r) && right;
    merged += get_stats(r.ctx).merged;
    assert_int_equal(ioe_context_free(r.ctx), 0);
    for (unsigned i = 0; i < STEPS; i++)
        right = check_step(&h->steps[i]) && right;
    for (unsigned i = 0; i < FILES; i++)
        right = check_file(&r, i) && right;
    assert_true(right);
    for (unsigned i = 0; i < FILES; i++)
        close_doors(r.fds[i]);
    for (unsigned i = 0; i < STEPS; i++)
        if (h->steps[i].how != IN_CALLBACK)
            assert_int_equal(ioe_event_free(h->steps[i].event), 0);
    pthread_cond_destroy(&r.changed);
    pthread_mutex_destroy(&r.mutex);
}

static void run_histories(const way *w, place where)
{
    static int asked = -1;
    merged = 0;
    if (asked != (int)where)
        ask_file_system(where);
    asked = (int)where;
    alarm(TEST_TIME_LIMIT);
    for (unsigned long i = 0; i < rounds; i++) {
        history *h = make_history(first_seed + i);
        run_history(h, w, where);
        free_history(h);
    }
    /* Where the queue is short, nothing need ever wait together. */
    if (usual_merge_limit() > 0 && rounds >= 8)
        assert_true(merged > 0);
}

static void on_disk(void **state)
{
    run_histories(*state, ON_DISK);
}

static void in_memory(void **state)
{
    run_histories(*state, IN_MEMORY);
}

int main(void)
{
    const struct CMUnitTest on_disk_alone[] = {for_each_way(on_disk)};
    const struct CMUnitTest both[] = {for_each_way(on_disk), for_each_way(in_memory)};
    const char *text = getenv("IOE_TEST_ROUNDS");
    rounds = text != NULL ? strtoul(text, NULL, 10) : 1;
    first_seed = choose_seed();
    return text != NULL ? RUN_TESTS(on_disk_alone) : RUN_TESTS(both);
}
