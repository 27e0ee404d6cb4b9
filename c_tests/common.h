/*
 * What every C test here shares: the driver of the run, temporary files, a completion counter, a byte
 * pattern, and the ways a context can deliver its callbacks. Needs Debian's libcmocka-dev.
 *
 * An assertion of cmocka leaves by longjmp, so it may stand in the main thread only: callbacks and
 * other threads record what they saw, and the test asserts on the record. It is C++ as well.
 */
#ifndef IOE_C_TESTS_COMMON_H
#define IOE_C_TESTS_COMMON_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* It does not know of C++ by itself. */
#ifdef __cplusplus
extern "C" {
#endif
#include <cmocka.h>
#ifdef __cplusplus
}
#endif

#include "io_engine.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* A test that hangs is ended by SIGALRM after this many seconds, so that the run goes on. */
#ifndef TEST_TIME_LIMIT
#define TEST_TIME_LIMIT 120
#endif

/* cmocka 1.1.5 calls a skipped test "not ok N # SKIP", which a TAP harness counts as failed. */
static inline ssize_t write_tap(void *out, const char *text, size_t len)
{
    FILE *file = (FILE *)out;
    size_t drop = 0;
    if (len > 7 && memcmp(text, "not ok ", 7) == 0 && memmem(text, len, " # SKIP ", 8) != NULL)
        drop = 4;
    bool written = fwrite(text + drop, 1, len - drop, file) == len - drop;
    return fflush(file) == 0 && written ? (ssize_t)len : 0;
}

/* ---- the driver of the run ---- */

/* What IOE_DRIVER names, as `make check-c` sets it, else what works first: one of ioe_driver. */
static int tested_driver;

static inline bool names_a_driver(const char *name)
{
    return name != NULL && name[0] != '\0' && strcmp(name, ioe_driver_name(IOE_DRIVER_AUTO)) != 0;
}

/* In a child, so that this process begins without anything that the library may remember. Where
 * there is no such driver the whole program is skipped; but the pool is everywhere. */
static inline void find_tested_driver(void)
{
    int status = 0;
    const char *name = getenv("IOE_DRIVER");
    pid_t pid = fork();
    if (pid == 0) {
        int rc = -EINVAL;
        for (int driver = IOE_DRIVER_URING; driver <= IOE_DRIVER_POOL; driver++) {
            if (names_a_driver(name) && strcmp(name, ioe_driver_name(driver)) != 0)
                continue;
            rc = ioe_probe(driver);
            if (rc == 0)
                _exit(driver);
        }
        bool may_lack = names_a_driver(name) && (strcmp(name, ioe_driver_name(IOE_DRIVER_URING)) == 0 ||
                                                 strcmp(name, ioe_driver_name(IOE_DRIVER_AIO)) == 0);
        dprintf(STDOUT_FILENO, may_lack ? "1..0 # SKIP %s does not work here: %s\n"
                                        : "Bail out! IOE_DRIVER=%s: %s\n",
                name != NULL ? name : "", ioe_strerror(rc));
        _exit(may_lack ? 0 : 255);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
        dprintf(STDOUT_FILENO, "Bail out! the drivers cannot be tried out\n");
        exit(1);
    }
    tested_driver = WEXITSTATUS(status);
    if (tested_driver < IOE_DRIVER_URING || tested_driver > IOE_DRIVER_POOL)
        exit(tested_driver);
}

/* Skips the test on all other drivers. */
static inline void only_on(int driver, const char *reason)
{
    if (tested_driver == driver)
        return;
    printf("# for %s only: %s\n", ioe_driver_name(driver), reason);
    skip();
}

/* Line by line, so that what a hanging test has said until then is not lost. */
static inline void begin_tap(void)
{
    find_tested_driver();
    cookie_io_functions_t functions;
    memset(&functions, 0, sizeof functions);
    functions.write = write_tap;
    FILE *file = fopencookie(stdout, "w", functions);
    if (file != NULL) {
        setvbuf(file, NULL, _IOLBF, 0);
        stdout = file;
    }
    cmocka_set_message_output(CM_OUTPUT_TAP);
    /* One test, or several by * and ?. */
    cmocka_set_test_filter(getenv("IOE_TEST_ONLY"));
    alarm(TEST_TIME_LIMIT);
}

/* TAP on stdout whatever the environment says; the value is main's exit status. */
#define RUN_TESTS(tests) (begin_tap(), cmocka_run_group_tests(tests, NULL, NULL))

/* The call gives what is expected, and leaves errno alone as every call of the library must. */
#define ERRNO_MARK 4321
#define ASSERT_CALL(call, expected)                                                                \
    do {                                                                                           \
        errno = ERRNO_MARK;                                                                        \
        int64_t answer_ = (call);                                                                  \
        int errno_ = errno;                                                                        \
        assert_int_equal(answer_, expected);                                                       \
        assert_int_equal(errno_, ERRNO_MARK);                                                      \
    } while (0)

/* ---- deliveries: who runs the callbacks ---- */

typedef struct delivery {
    const char *name;
    uint32_t flags;
    uint32_t workers;
} delivery;

static const delivery deliveries[] = {
    {"polled", IOE_POLLED, 0},
    {"driver thread", 0, 0},
    {"one worker", 0, 1},
    {"four workers", 0, 4},
};

/* Entries of a CMUnitTest array: the test once per delivery, which it finds in *state. */
#define for_each_delivery(test)                                                                    \
    {#test ", polled", test, NULL, NULL, (void *)&deliveries[0]},                                  \
    {#test ", driver thread", test, NULL, NULL, (void *)&deliveries[1]},                           \
    {#test ", one worker", test, NULL, NULL, (void *)&deliveries[2]},                              \
    {#test ", four workers", test, NULL, NULL, (void *)&deliveries[3]}

/* The same without the polled one, whose callbacks run on the test's own thread. */
#define for_each_threaded_delivery(test)                                                           \
    {#test ", driver thread", test, NULL, NULL, (void *)&deliveries[1]},                           \
    {#test ", one worker", test, NULL, NULL, (void *)&deliveries[2]},                              \
    {#test ", four workers", test, NULL, NULL, (void *)&deliveries[3]}

/* Where who runs the callbacks makes no difference: with and without a thread of the context. */
#define with_and_without_thread(test)                                                              \
    {#test ", polled", test, NULL, NULL, (void *)&deliveries[0]},                                  \
    {#test ", one worker", test, NULL, NULL, (void *)&deliveries[2]}

static inline ioe_info get_info(const ioe_context *ctx)
{
    ioe_info info;
    assert_int_equal(ioe_context_info(ctx, &info, sizeof info), 0);
    return info;
}

/* A context made as told, which runs on the tested driver unless it asks for another. */
static inline ioe_context *new_context_from(const ioe_config *cfg)
{
    ioe_context *ctx = NULL;
    assert_int_equal(ioe_context_new(cfg, &ctx), 0);
    assert_non_null(ctx);
    assert_int_equal(get_info(ctx).driver,
                     cfg->driver == IOE_DRIVER_AUTO ? tested_driver : cfg->driver);
    return ctx;
}

/* What IOE_TEST_MERGE asks for: bytes that one merged operation may span, 0 where it is not set. */
static inline uint32_t usual_merge_limit(void)
{
    const char *text = getenv("IOE_TEST_MERGE");
    return text != NULL ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

/* What IOE_TEST_REACTORS asks for: reactors of a context with threads, 1 where it is not set. */
static inline uint32_t usual_reactors(uint32_t flags)
{
    const char *text = getenv("IOE_TEST_REACTORS");
    return text != NULL && !(flags & IOE_POLLED) ? (uint32_t)strtoul(text, NULL, 10) : 1;
}

/* Leaves the test out where there are several: it knows which events wait for each other. */
static inline void only_with_one_reactor(const delivery *how)
{
    if (usual_reactors(how->flags) == 1)
        return;
    printf("# for one reactor only\n");
    skip();
}

static inline ioe_context *new_merging_context(const delivery *how, uint32_t depth,
                                               uint32_t queue_size, uint32_t merge_limit)
{
    ioe_config cfg;
    if (how->flags & (IOE_SQPOLL | IOE_IOPOLL))
        only_on(IOE_DRIVER_URING, "IOE_SQPOLL and IOE_IOPOLL are modes of a ring");
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.depth = depth;
    cfg.queue_size = queue_size;
    cfg.workers = how->workers;
    cfg.merge_limit = merge_limit;
    cfg.flags = how->flags;
    cfg.reactors = usual_reactors(cfg.flags);
    return new_context_from(&cfg);
}

static inline ioe_context *new_context(const delivery *how, uint32_t depth, uint32_t queue_size)
{
    return new_merging_context(how, depth, queue_size, usual_merge_limit());
}

/* The same with callback threads that are shared. */
static inline ioe_context *new_shared_context(ioe_workers *shared, uint32_t depth,
                                              uint32_t queue_size)
{
    ioe_config cfg;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.depth = depth;
    cfg.queue_size = queue_size;
    cfg.shared = shared;
    cfg.reactors = usual_reactors(0);
    return new_context_from(&cfg);
}

static inline ioe_stats get_stats(const ioe_context *ctx)
{
    ioe_stats stats;
    assert_int_equal(ioe_context_stats(ctx, &stats, sizeof stats), 0);
    return stats;
}

/* Long counts, divided by IOE_TEST_SCALE where a build is slow, as with sanitizers, and where one
 * driver has had the whole count already. */
static inline unsigned long scaled(unsigned long count)
{
    const char *text = getenv("IOE_TEST_SCALE");
    unsigned long scale = text != NULL ? strtoul(text, NULL, 10) : 1;
    return scale > 1 && count > scale ? count / scale : count;
}

/* Counts of contexts: the kernel takes 32 ms to end one of AIO (io_destroy(2)). */
static inline unsigned long scaled_contexts(unsigned long count)
{
    unsigned long scale = tested_driver == IOE_DRIVER_AIO ? 10 : 1;
    count = scaled(count);
    return count > scale ? count / scale : count;
}

/* ---- threads ---- */

static inline pthread_t start_thread(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, body, arg), 0);
    return thread;
}

static inline void join_thread(pthread_t thread)
{
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* ---- the log: what the library said ---- */

typedef struct log_lines {
    pthread_mutex_t mutex;
    size_t count;
    int levels[64];
    char texts[64][512];
} log_lines;

#define LOG_LINES_INIT {PTHREAD_MUTEX_INITIALIZER, 0, {0}, {{0}}}

/* The function for ioe_set_log; what comes when all lines are full is only counted. */
static inline void keep_line(int level, const char *message, void *arg)
{
    log_lines *lines = (log_lines *)arg;
    pthread_mutex_lock(&lines->mutex);
    if (lines->count < COUNT_OF(lines->levels)) {
        lines->levels[lines->count] = level;
        snprintf(lines->texts[lines->count], sizeof lines->texts[0], "%s", message);
    }
    lines->count++;
    pthread_mutex_unlock(&lines->mutex);
}

/* How many lines of a level have these words in them; "" for all. */
static inline size_t count_lines(log_lines *lines, int level, const char *words)
{
    size_t count = 0;
    pthread_mutex_lock(&lines->mutex);
    for (size_t i = 0; i < lines->count && i < COUNT_OF(lines->levels); i++)
        count += lines->levels[i] == level && strstr(lines->texts[i], words) != NULL;
    pthread_mutex_unlock(&lines->mutex);
    return count;
}

/* ---- latch: a counter that threads raise and others wait for ---- */

typedef struct latch {
    pthread_mutex_t mutex;
    pthread_cond_t raised;
    unsigned long count;
} latch;

#define LATCH_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static inline void latch_hit(latch *l)
{
    pthread_mutex_lock(&l->mutex);
    l->count++;
    pthread_cond_broadcast(&l->raised);
    pthread_mutex_unlock(&l->mutex);
}

static inline unsigned long latch_count(latch *l)
{
    pthread_mutex_lock(&l->mutex);
    unsigned long count = l->count;
    pthread_mutex_unlock(&l->mutex);
    return count;
}

static inline void latch_wait(latch *l, unsigned long target)
{
    pthread_mutex_lock(&l->mutex);
    while (l->count < target)
        pthread_cond_wait(&l->raised, &l->mutex);
    pthread_mutex_unlock(&l->mutex);
}

/* The plain ioe_callback: counts on the latch that is its argument. */
static inline void hit_latch(ioe_event *event, void *arg)
{
    (void)event;
    latch_hit((latch *)arg);
}

/* Waits until the latch stands at target, polling where that is what runs callbacks. */
static inline void await(ioe_context *ctx, const delivery *how, latch *l, unsigned long target)
{
    while ((how->flags & IOE_POLLED) && latch_count(l) < target)
        assert_true(ioe_poll(ctx, 1, -1) >= 0);
    latch_wait(l, target);
}

static inline ioe_event *new_event(void)
{
    ioe_event *event = ioe_event_new();
    assert_non_null(event);
    return event;
}

/* Submits a prepared event, waits for its callback, and gives the result. */
static inline int64_t run_event(ioe_context *ctx, const delivery *how, ioe_event *event)
{
    latch done = LATCH_INIT;
    assert_int_equal(ioe_event_set_callback(event, hit_latch, &done), 0);
    assert_int_equal(ioe_submit(ctx, event), 0);
    await(ctx, how, &done, 1);
    return ioe_event_result(event);
}

/* ---- events that stay where they are until told ---- */

/* A callback that announces itself and then stays, occupying its thread, until the gate opens. */
typedef struct gate {
    latch entered;
    latch opened;
} gate;

#define GATE_INIT {LATCH_INIT, LATCH_INIT}

static inline void hold_at_gate(ioe_event *event, void *arg)
{
    gate *g = (gate *)arg;
    (void)event;
    latch_hit(&g->entered);
    latch_wait(&g->opened, 1);
}

/* ---- descriptors, and threads as /proc shows them ---- */

/* Asks for each number, which needs no descriptor: a test may have used up all there are. */
static inline size_t count_descriptors(void)
{
    size_t count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

typedef struct task {
    pid_t tid;
    char name[16];
    char run_state;    /* 'R', 'S', ... */
    uint64_t cpu;      /* clock ticks used, in user space and in the kernel */
    uint64_t switches; /* voluntary and not */
    uint64_t blocked;  /* signals, number N as bit N - 1 */
} task;

/* False where the thread has ended. */
static inline bool read_task(pid_t tid, task *out)
{
    char path[64];
    char line[1024];
    unsigned long long number;
    unsigned long long system_ticks;
    memset(out, 0, sizeof *out);
    out->tid = tid;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)tid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "Name:", 5) == 0)
            sscanf(line, "Name: %15s", out->name);
        else if (sscanf(line, "SigBlk: %llx", &number) == 1)
            out->blocked = number;
        else if (sscanf(line, "voluntary_ctxt_switches: %llu", &number) == 1 ||
                 sscanf(line, "nonvoluntary_ctxt_switches: %llu", &number) == 1)
            out->switches += number;
    }
    fclose(file);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool read_all = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    /* The name, in parentheses, may hold anything. */
    const char *rest = read_all ? strrchr(line, ')') : NULL;
    if (rest == NULL || sscanf(rest, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu",
                               &out->run_state, &number, &system_ticks) != 3)
        return false;
    out->cpu = number + system_ticks;
    return true;
}

/* The threads whose names begin with prefix; "" for all. The value is how many there are. */
static inline size_t read_tasks(const char *prefix, task *out, size_t max)
{
    size_t count = 0;
    struct dirent *entry;
    task one;
    DIR *dir = opendir("/proc/self/task");
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (tid <= 0 || !read_task(tid, &one) || strncmp(one.name, prefix, strlen(prefix)) != 0)
            continue;
        if (count < max)
            out[count] = one;
        count++;
    }
    if (dir != NULL)
        closedir(dir);
    return count;
}

/* Returns when the library has no thread any more, and hangs where one stays: /proc shows one that
 * was joined for a moment longer. */
static inline void await_no_threads(void)
{
    while (read_tasks("ioe-", NULL, 0) > 0)
        sched_yield();
}

/* ---- files: without a name as soon as they are open ---- */

typedef enum place { ON_DISK, IN_MEMORY } place;

/* The disk is IOE_TEST_DISK, else TMPDIR, else the current directory. Memory is a tmpfs. */
static inline const char *place_dir(place where)
{
    if (where == IN_MEMORY)
        return "/dev/shm";
    const char *dir = getenv("IOE_TEST_DISK");
    if (dir == NULL)
        dir = getenv("TMPDIR");
    return dir != NULL ? dir : ".";
}

static inline int temp_file(place where)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/ioe-test-XXXXXX", place_dir(where));
    int fd = mkstemp(path);
    if (fd < 0 && where == IN_MEMORY)
        skip();
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    return fd;
}

/* Sets RLIMIT_FSIZE and gives what it was. The limit is the process's: nothing else may write files
 * meanwhile, stdout among them. */
static inline rlim_t set_file_size_limit(rlim_t value)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = value;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    return before;
}

/* The same file once more, with other flags; -1 and errno as from open(2). */
static inline int open_again(int fd, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

/* The same file with O_DIRECT; skips the test where the file system refuses it. */
static inline int open_direct(int fd)
{
    int direct = open_again(fd, O_RDWR | O_DIRECT);
    if (direct < 0 && errno == EINVAL) {
        close(fd);
        skip();
    }
    assert_true(direct >= 0);
    return direct;
}

/* ---- bytes: a pattern told by its seed and the place in the file, and a small generator ---- */

static inline uint8_t pattern_byte(uint64_t seed, uint64_t offset)
{
    uint64_t x = (offset + 1) * UINT64_C(0x9E3779B97F4A7C15) + seed * UINT64_C(0xD1B54A32D192ED03);
    return (uint8_t)((x ^ (x >> 32)) * UINT64_C(0x94D049BB133111EB) >> 56);
}

static inline void pattern_fill(void *buf, size_t len, uint64_t seed, uint64_t offset)
{
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = pattern_byte(seed, offset + i);
}

static inline bool pattern_holds(const void *buf, size_t len, uint64_t seed, uint64_t offset)
{
    for (size_t i = 0; i < len; i++)
        if (((const uint8_t *)buf)[i] != pattern_byte(seed, offset + i))
            return false;
    return true;
}

/* splitmix64: the same numbers from the same seed, on every machine. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* IOE_TEST_SEED, else another one each time. It is printed where prove shows it, also if the program
 * does not come to its end. */
static inline uint64_t choose_seed(void)
{
    const char *text = getenv("IOE_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = text != NULL ? strtoull(text, NULL, 10)
                                 : (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 20;
    fprintf(stderr, "# IOE_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

/* ---- children: they report by their exit status and a line of comment, cmocka is the parent's ---- */

#define CHILD_TIME_LIMIT 30

#define CHILD_CHECK(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(STDOUT_FILENO, "# child, line %d: %s\n", __LINE__, #condition);                \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* Runs the body in a child process; the value is its exit status, or 128 and the signal. */
static inline int in_child(int (*body)(void *arg), void *arg)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_TIME_LIMIT);
        _exit(body(arg));
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline int probe_driver(void *arg)
{
    return ioe_probe(*(int *)arg) == 0 ? 0 : 1;
}

/* Whether this machine has it, found out in a child, once. */
static inline bool works_here(int driver)
{
    static int known[IOE_DRIVER_POOL + 1];
    if (known[driver] == 0)
        known[driver] = in_child(probe_driver, &driver) == 0 ? 1 : -1;
    return known[driver] > 0;
}

/* Every action on a file of whatever kind, and what was written is read back. 0 where all is well. */
static inline int every_action_works(ioe_context *ctx, int fd)
{
    enum { HALF = 4096, LEN = 2 * HALF };
    latch done = LATCH_INIT;
    ioe_event *event = ioe_event_new();
    uint8_t *out = (uint8_t *)ioe_buffer_alloc(LEN, 0);
    uint8_t *in = (uint8_t *)ioe_buffer_alloc(LEN, 0);
    const struct iovec out_parts[2] = {{out, HALF}, {out + HALF, HALF}};
    const struct iovec in_parts[2] = {{in, HALF}, {in + HALF, HALF}};
    CHILD_CHECK(event != NULL && out != NULL && in != NULL);
    CHILD_CHECK(ioe_event_set_callback(event, hit_latch, &done) == 0);
    for (unsigned long step = 0; step < 11; step++) {
        const bool writes = step == 0 || step == 3;
        if (writes)
            pattern_fill(out, LEN, step, 0);
        memset(in, 0, LEN);
        CHILD_CHECK((step == 0   ? ioe_prep_write(event, fd, out, LEN, 0)
                     : step == 1 ? ioe_prep_fsync(event, fd)
                     : step == 2 ? ioe_prep_read(event, fd, in, LEN, 0)
                     : step == 3 ? ioe_prep_writev(event, fd, out_parts, 2, 0)
                     : step == 4 ? ioe_prep_fdatasync(event, fd)
                     : step == 5 ? ioe_prep_readv(event, fd, in_parts, 2, 0)
                     : step == 6 ? ioe_prep_fallocate(event, fd, 0, 0, 2 * LEN)
                     : step == 7 ? ioe_prep_advise(event, fd, 0, LEN, POSIX_FADV_SEQUENTIAL)
                     : step == 8 ? ioe_prep_sync_range(event, fd, 0, LEN, SYNC_FILE_RANGE_WRITE)
                     : step == 9 ? ioe_prep_truncate(event, fd, HALF + LEN)
                                 : ioe_prep_read(event, fd, in, LEN, HALF)) == 0);
        CHILD_CHECK(ioe_submit(ctx, event) == 0);
        CHILD_CHECK(ioe_drain(ctx, -1) == 0);
        CHILD_CHECK(latch_count(&done) == step + 1);
        const bool moves = ioe_event_action(event) == IOE_READ || writes;
        CHILD_CHECK(ioe_event_result(event) == (moves ? LEN : 0));
        if (step == 2 || step == 5)
            CHILD_CHECK(memcmp(in, out, LEN) == 0);
    }
    ioe_buffer_free(in);
    ioe_buffer_free(out);
    CHILD_CHECK(ioe_event_free(event) == 0);
    return 0;
}

#endif
