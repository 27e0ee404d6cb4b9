/*
 * Promise: a fork costs the parent nothing and the child can do no harm. In the child an inherited
 * context answers -EOWNERDEAD to everything but ioe_context_free, which gives back the child's
 * memory and descriptors and touches nothing else; memory for transfers is not inherited; and the
 * child may make contexts of its own. In the parent every event completes once, with its bytes.
 */
#include "stuck.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define BLOCK 4096
#define MAX_RANGES 256
/* A child of gcc's AddressSanitizer inherits its allocator's locks as other threads held them. All
 * drivers but the ring have some, polled or not. */
static void skip_if_threads_spoil_the_fork(const delivery *how)
{
#ifdef __SANITIZE_ADDRESS__
    if ((how->flags & IOE_POLLED) == 0 || tested_driver != IOE_DRIVER_URING)
        skip();
#else
    (void)how;
#endif
}

/* ---- what a process has open and mapped ---- */

typedef struct open_descriptors {
    unsigned rings;
    unsigned eventfds;
    unsigned others;
} open_descriptors;

/* The directory stream's own descriptor counts too, each time alike. */
static open_descriptors look_at_descriptors(void)
{
    open_descriptors found = {0};
    char target[256];
    struct dirent *entry;
    DIR *dir = opendir("/proc/self/fd");
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
        if (len < 0)
            continue;
        target[len] = '\0';
        if (strcmp(target, "anon_inode:[io_uring]") == 0)
            found.rings++;
        else if (strcmp(target, "anon_inode:[eventfd]") == 0)
            found.eventfds++;
        else
            found.others++;
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

typedef struct range {
    uintptr_t start;
    uintptr_t end;
} range;

typedef struct ranges {
    range ring[MAX_RANGES]; /* mapped from a ring */
    size_t rings;
    range lasting[MAX_RANGES]; /* shared, or of a file: nobody's heap */
    size_t lastings;
} ranges;

static bool look_at_ranges(ranges *r)
{
    char line[1024];
    FILE *file = fopen("/proc/self/maps", "re");
    *r = (ranges){.rings = 0};
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        range one;
        char mode[8];
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &one.start, &one.end, mode) != 3)
            continue;
        if (strstr(line, "io_uring") != NULL && r->rings < MAX_RANGES)
            r->ring[r->rings++] = one;
        else if ((mode[3] == 's' || strchr(line, '/') != NULL) && r->lastings < MAX_RANGES)
            r->lasting[r->lastings++] = one;
    }
    if (file != NULL)
        fclose(file);
    return file != NULL;
}

static bool is_mapped(uintptr_t start, uintptr_t end)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (uintptr_t at = start; at < end; at += page) {
        unsigned char resident;
        if (mincore((void *)at, page, &resident) != 0)
            return false;
    }
    return true;
}

/* Maps exactly there, where nothing may be yet, and fills. */
static bool settle(uintptr_t start, size_t len)
{
    void *there = mmap((void *)start, len, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (there != (void *)start)
        return false;
    pattern_fill(there, len, 77, 0);
    return true;
}

static bool still_settled(uintptr_t start, size_t len)
{
    return is_mapped(start, start + len) && pattern_holds((void *)start, len, 77, 0);
}

/* ---- what a child does ---- */

typedef struct inherited {
    ioe_context *ctx;
    const delivery *how;
    ranges parents;
    open_descriptors before; /* what was open before there was a context, or is the test's */
} inherited;

static int refused_by_everything(ioe_context *ctx)
{
    ioe_info info;
    ioe_stats stats;
    latch done = LATCH_INIT;
    ioe_event *event = ioe_event_new();
    CHILD_CHECK(event != NULL);
    CHILD_CHECK(ioe_prep_fsync(event, STDIN_FILENO) == 0);
    CHILD_CHECK(ioe_event_set_callback(event, hit_latch, &done) == 0);
    CHILD_CHECK(ioe_submit(ctx, event) == -EOWNERDEAD);
    CHILD_CHECK(ioe_try_submit(ctx, event) == -EOWNERDEAD);
    CHILD_CHECK(ioe_submit_batch(ctx, &event, 1) == -EOWNERDEAD);
    CHILD_CHECK(ioe_submit_wait(ctx, event) == -EOWNERDEAD);
    CHILD_CHECK(ioe_submit_wait_batch(ctx, &event, 1) == -EOWNERDEAD);
    CHILD_CHECK(ioe_submit_wait_batch(ctx, (ioe_event *[]){event, event}, 2) == -EOWNERDEAD);
    CHILD_CHECK(ioe_poll(ctx, 0, 0) == -EOWNERDEAD);
    CHILD_CHECK(ioe_poll(ctx, 1, -1) == -EOWNERDEAD);
    CHILD_CHECK(ioe_drain(ctx, 0) == -EOWNERDEAD);
    CHILD_CHECK(ioe_drain(ctx, -1) == -EOWNERDEAD);
    CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == -EOWNERDEAD);
    CHILD_CHECK(ioe_context_stats(ctx, &stats, sizeof stats) == -EOWNERDEAD);
    CHILD_CHECK(ioe_context_fd(ctx) == -EOWNERDEAD);
    CHILD_CHECK(ioe_cancel(ctx, 0) == -EOWNERDEAD);
    CHILD_CHECK(ioe_cancel(ctx, ioe_event_id(event)) == -EOWNERDEAD);
    /* What is no context's works as ever, and changes nothing of that. */
    CHILD_CHECK(ioe_event_set_flags(event, IOE_BARRIER) == 0);
    CHILD_CHECK(ioe_event_set_timeout(event, 1) == 0);
    CHILD_CHECK(ioe_submit(ctx, event) == -EOWNERDEAD);
    CHILD_CHECK(ioe_submit_wait(ctx, event) == -EOWNERDEAD);
    CHILD_CHECK(latch_count(&done) == 0);
    CHILD_CHECK(!ioe_event_is_done(event));
    CHILD_CHECK(ioe_event_free(event) == 0);
    return 0;
}

/* A context made here does its work, then nothing is left of it. */
static int works_with_its_own(const delivery *how)
{
    ioe_config cfg;
    ioe_context *ctx = NULL;
    int fd = memfd_create("own", MFD_CLOEXEC);
    CHILD_CHECK(fd >= 0);
    CHILD_CHECK(ioe_config_init(&cfg, sizeof cfg) == 0);
    cfg.workers = how->workers;
    cfg.flags = how->flags;
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    CHILD_CHECK(every_action_works(ctx, fd) == 0);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    close(fd);
    return 0;
}

static int free_gives_back_no_more_than_its_own(const inherited *in)
{
    bool settled[MAX_RANGES];
    static ranges before;
    open_descriptors had = look_at_descriptors();
    CHILD_CHECK(tested_driver != IOE_DRIVER_URING || had.rings > in->before.rings);
    CHILD_CHECK(had.eventfds > in->before.eventfds);
    /* Where the parent's ring is mapped the child may have something else by now. */
    for (size_t i = 0; i < in->parents.rings; i++)
        settled[i] = settle(in->parents.ring[i].start,
                            in->parents.ring[i].end - in->parents.ring[i].start);
    CHILD_CHECK(look_at_ranges(&before));
    CHILD_CHECK(ioe_context_free(in->ctx) == 0);
    for (size_t i = 0; i < in->parents.rings; i++) {
        const range *ring = &in->parents.ring[i];
        CHILD_CHECK(!settled[i] || still_settled(ring->start, ring->end - ring->start));
    }
    for (size_t i = 0; i < before.lastings; i++)
        CHILD_CHECK(is_mapped(before.lasting[i].start, before.lasting[i].end));
    open_descriptors has = look_at_descriptors();
    CHILD_CHECK(has.rings == in->before.rings);
    CHILD_CHECK(has.eventfds == in->before.eventfds);
    CHILD_CHECK(has.others == in->before.others);
    return 0;
}

/* Inherited twice over, with a context of the parent's own between. */
static int grandchild(void *arg)
{
    const inherited *const *both = arg;
    alarm(CHILD_TIME_LIMIT);
    for (int i = 0; i < 2; i++)
        if (refused_by_everything(both[i]->ctx) != 0)
            return 1;
    for (int i = 0; i < 2; i++)
        CHILD_CHECK(ioe_context_free(both[i]->ctx) == 0);
    return works_with_its_own(both[0]->how);
}

static int fork_again(const inherited *in)
{
    inherited own = {.how = in->how};
    const inherited *both[] = {in, &own};
    int status = 0;
    ioe_config cfg;
    CHILD_CHECK(ioe_config_init(&cfg, sizeof cfg) == 0);
    cfg.workers = in->how->workers;
    cfg.flags = in->how->flags;
    CHILD_CHECK(ioe_context_new(&cfg, &own.ctx) == 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(grandchild(both));
    CHILD_CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHILD_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHILD_CHECK(ioe_context_free(own.ctx) == 0);
    return 0;
}

static int child(void *arg)
{
    const inherited *in = arg;
    if (refused_by_everything(in->ctx) != 0 || works_with_its_own(in->how) != 0 ||
        fork_again(in) != 0 || free_gives_back_no_more_than_its_own(in) != 0)
        return 1;
    return works_with_its_own(in->how);
}

static int child_that_just_ends(void *arg)
{
    const inherited *in = arg;
    return refused_by_everything(in->ctx);
}

/* ---- one fork at a known moment: a read is in the kernel, others wait behind it ---- */

static void fork_with_a_read_in_the_kernel(ioe_workers *shared, const delivery *how)
{
    enum { BEHIND = 3, DEPTH = 1, ROOM = 8 };
    static uint8_t written[BEHIND][BLOCK];
    static uint8_t on_file[BLOCK];
    static inherited in;
    only_with_one_reactor(how);
    int fd = temp_file(IN_MEMORY);
    latch done = LATCH_INIT;
    stuck_read stuck;
    ioe_event *behind[BEHIND];
    stuck_prepare(&stuck, hit_latch, &done);
    in.before = look_at_descriptors();
    /* A depth of one keeps in the queue what was submitted behind the read. */
    ioe_context *ctx = shared != NULL ? new_shared_context(shared, DEPTH, ROOM)
                                      : new_context(how, DEPTH, ROOM);
    ASSERT_CALL(ioe_submit(ctx, stuck.event), 0);
    for (uint64_t i = 0; i < BEHIND; i++) {
        behind[i] = ioe_event_new();
        pattern_fill(written[i], BLOCK, 4, i * BLOCK);
        assert_int_equal(ioe_prep_write(behind[i], fd, written[i], BLOCK, i * BLOCK), 0);
        assert_int_equal(ioe_event_set_callback(behind[i], hit_latch, &done), 0);
        ASSERT_CALL(ioe_submit(ctx, behind[i]), 0);
    }
    if (how->flags & IOE_POLLED)
        ASSERT_CALL(ioe_poll(ctx, 0, 0), 0);
    in.ctx = ctx;
    in.how = how;
    assert_true(look_at_ranges(&in.parents));
    assert_true(in.parents.rings >= 1 || tested_driver != IOE_DRIVER_URING);
    assert_int_equal(in_child(child_that_just_ends, &in), 0);
    assert_int_equal(in_child(child, &in), 0);
    /* One that has asked for the descriptor has one more to give back. */
    if (how->flags & IOE_POLLED) {
        assert_true(ioe_context_fd(ctx) >= 0);
        assert_int_equal(in_child(child, &in), 0);
    }
    assert_int_equal(latch_count(&done), 0);

    assert_true(stuck_let_go(&stuck));
    ASSERT_CALL(ioe_context_free(ctx), 0);
    assert_int_equal(latch_count(&done), 1 + BEHIND);
    assert_int_equal(stuck.word, 1);
    for (uint64_t i = 0; i < BEHIND; i++) {
        assert_int_equal(ioe_event_result(behind[i]), BLOCK);
        assert_int_equal(pread(fd, on_file, BLOCK, (off_t)(i * BLOCK)), BLOCK);
        assert_memory_equal(on_file, written[i], BLOCK);
        assert_int_equal(ioe_event_free(behind[i]), 0);
    }
    stuck_free(&stuck);
    close(fd);
}

static void child_is_kept_out(void **state)
{
    const delivery *how = *state;
    skip_if_threads_spoil_the_fork(how);
    fork_with_a_read_in_the_kernel(NULL, how);
}

static void child_is_kept_out_of_shared_workers(void **state)
{
    ioe_workers *workers = NULL;
    (void)state;
    skip_if_threads_spoil_the_fork(&deliveries[2]);
    ASSERT_CALL(ioe_workers_new(2, &workers), 0);
    fork_with_a_read_in_the_kernel(workers, &deliveries[2]);
    ASSERT_CALL(ioe_workers_free(workers), 0);
}

/* ---- many forks at any moment ---- */

enum { WRITERS = 3, SLOTS = 32 };

typedef struct writer {
    ioe_context *ctx;
    int fd;
    unsigned number;
    atomic_bool *stop;
    uint8_t *bufs;
    ioe_event *events[SLOTS];
    atomic_ulong calls[SLOTS];
    unsigned long rounds;
    atomic_uint wrong;
} writer;

static void on_written(ioe_event *event, void *arg)
{
    writer *w = arg;
    size_t slot = ioe_event_offset(event) / BLOCK % SLOTS;
    if (ioe_event_result(event) != BLOCK)
        atomic_fetch_add(&w->wrong, 1);
    atomic_fetch_add(&w->calls[slot], 1);
}

/* Writes all its blocks anew, waits for them, and begins again. */
static void write_one_round(writer *w)
{
    w->rounds++;
    for (size_t i = 0; i < SLOTS; i++) {
        uint64_t offset = ((uint64_t)w->number * SLOTS + i) * BLOCK;
        pattern_fill(w->bufs + i * BLOCK, BLOCK, w->rounds, offset);
        if (ioe_prep_write(w->events[i], w->fd, w->bufs + i * BLOCK, BLOCK, offset) != 0 ||
            ioe_submit(w->ctx, w->events[i]) != 0)
            atomic_fetch_add(&w->wrong, 1);
    }
}

static void *keep_writing(void *arg)
{
    writer *w = arg;
    while (!atomic_load(w->stop)) {
        write_one_round(w);
        if (ioe_drain(w->ctx, -1) != 0)
            atomic_fetch_add(&w->wrong, 1);
    }
    return NULL;
}

/* No lock that a thread of the parent held in that instant is in the child's way. */
static int busy_child(void *arg)
{
    const inherited *in = arg;
    if (refused_by_everything(in->ctx) != 0)
        return 1;
    CHILD_CHECK(ioe_context_free(in->ctx) == 0);
    return works_with_its_own(in->how);
}

static void parent_notices_nothing(void **state)
{
    const delivery *how = *state;
    bool is_polled = how->flags & IOE_POLLED;
    skip_if_threads_spoil_the_fork(how);
    unsigned threads = is_polled ? 1 : WRITERS;
    unsigned long forks = scaled(60);
    static inherited in;
    static uint8_t on_file[BLOCK];
    ioe_context *ctx = new_context(how, 16, 64);
    int fd = temp_file(IN_MEMORY);
    writer *writers = calloc(WRITERS, sizeof *writers);
    pthread_t ids[WRITERS];
    atomic_bool stop = false;
    assert_non_null(writers);
    in.ctx = ctx;
    in.how = how;
    for (unsigned t = 0; t < threads; t++) {
        writer *w = &writers[t];
        w->ctx = ctx;
        w->fd = fd;
        w->number = t;
        w->stop = &stop;
        w->bufs = malloc(SLOTS * BLOCK);
        assert_non_null(w->bufs);
        for (size_t i = 0; i < SLOTS; i++) {
            w->events[i] = ioe_event_new();
            assert_int_equal(ioe_event_set_callback(w->events[i], on_written, w), 0);
        }
        if (!is_polled)
            ids[t] = start_thread(keep_writing, w);
    }
    for (unsigned long i = 0; i < forks; i++) {
        if (is_polled) {
            write_one_round(&writers[0]);
            assert_true(ioe_poll(ctx, i % 2 == 0 ? 0 : 1, -1) >= 0);
        }
        assert_int_equal(in_child(busy_child, &in), 0);
        if (is_polled)
            ASSERT_CALL(ioe_drain(ctx, -1), 0);
    }
    atomic_store(&stop, true);
    for (unsigned t = 0; t < threads && !is_polled; t++)
        join_thread(ids[t]);
    ASSERT_CALL(ioe_context_free(ctx), 0);
    for (unsigned t = 0; t < threads; t++) {
        writer *w = &writers[t];
        assert_int_equal(atomic_load(&w->wrong), 0);
        for (size_t i = 0; i < SLOTS; i++) {
            uint64_t offset = ((uint64_t)t * SLOTS + i) * BLOCK;
            assert_int_equal(atomic_load(&w->calls[i]), w->rounds);
            assert_int_equal(pread(fd, on_file, BLOCK, (off_t)offset), BLOCK);
            assert_true(w->rounds == 0 || pattern_holds(on_file, BLOCK, w->rounds, offset));
            assert_int_equal(ioe_event_free(w->events[i]), 0);
        }
        free(w->bufs);
    }
    free(writers);
    close(fd);
}

/* ---- memory for transfers ---- */

static const size_t buffer_sizes[] = {1, 4096, 100000, 4 << 20};

/* The kernel is asked to read it: a signal would tell less. */
static bool is_readable(const void *at)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return true;
    bool readable = write(ends[1], at, 1) == 1 || errno != EFAULT;
    close(ends[0]);
    close(ends[1]);
    return readable;
}

static int buffers_are_not_here(void *arg)
{
    uint8_t *const *bufs = arg;
    for (size_t i = 0; i < COUNT_OF(buffer_sizes); i++) {
        size_t len = (buffer_sizes[i] + BLOCK - 1) / BLOCK * BLOCK;
        uintptr_t start = (uintptr_t)bufs[i];
        CHILD_CHECK(!is_readable(bufs[i]));
        CHILD_CHECK(!is_readable(bufs[i] + buffer_sizes[i] - 1));
        CHILD_CHECK(settle(start, len));
        ioe_buffer_free(bufs[i]);
        CHILD_CHECK(still_settled(start, len));
    }
    for (size_t i = 0; i < COUNT_OF(buffer_sizes); i++) {
        uint8_t *own = ioe_buffer_alloc(buffer_sizes[i], 0);
        CHILD_CHECK(own != NULL);
        CHILD_CHECK(own[0] == 0 && own[buffer_sizes[i] - 1] == 0);
        memset(own, 1, buffer_sizes[i]);
        ioe_buffer_free(own);
    }
    ioe_buffer_free(NULL);
    return 0;
}

static void buffers_stay_with_the_parent(void **state)
{
    uint8_t *bufs[COUNT_OF(buffer_sizes)];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(buffer_sizes); i++) {
        bufs[i] = ioe_buffer_alloc(buffer_sizes[i], 0);
        assert_non_null(bufs[i]);
        assert_int_equal((uintptr_t)bufs[i] % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
        pattern_fill(bufs[i], buffer_sizes[i], i, 0);
    }
    assert_int_equal(in_child(buffers_are_not_here, bufs), 0);
    for (size_t i = 0; i < COUNT_OF(buffer_sizes); i++) {
        assert_true(pattern_holds(bufs[i], buffer_sizes[i], i, 0));
        ioe_buffer_free(bufs[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(child_is_kept_out),
        cmocka_unit_test(child_is_kept_out_of_shared_workers),
        for_each_delivery(parent_notices_nothing),
        cmocka_unit_test(buffers_stay_with_the_parent),
    };
    return RUN_TESTS(tests);
}
