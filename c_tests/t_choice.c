/*
 * Promise: a context gets the driver that is named, or, with IOE_DRIVER_AUTO, the first of uring,
 * aio and pool that works, at the depth asked for or as near to it as the limits allow. The info and
 * the log say which, and why not another one. Finding out costs once per process.
 *
 * Each case is a child of its own, because the process remembers what it found out.
 */
#include "intercept.h"
#include "plain.h"
#include "refuse.h"

/* Every case ends by showing that the context works, on a file of each kind. */
static int plain_file, direct_file;

static void run_case(int (*body)(void *arg), void *arg)
{
    plain_file = temp_file(ON_DISK);
    direct_file = open_direct(plain_file);
    assert_in_child(body, arg);
    close(direct_file);
    close(plain_file);
}

static void need(int driver)
{
    if (works_here(driver))
        return;
    printf("# %s does not work here\n", ioe_driver_name(driver));
    skip();
}

static ioe_config config_for(int driver, const delivery *how)
{
    ioe_config cfg;
    ioe_config_init(&cfg, sizeof cfg);
    cfg.driver = driver;
    cfg.flags = how->flags;
    cfg.workers = how->workers;
    return cfg;
}

static int works_and_ends(ioe_context *ctx)
{
    CHILD_CHECK(every_action_works(ctx, plain_file) == 0);
    CHILD_CHECK(every_action_works(ctx, direct_file) == 0);
    CHILD_CHECK(ioe_context_free(ctx) == 0);
    return 0;
}

static log_lines said = LOG_LINES_INIT;

static void listen_anew(void)
{
    said.count = 0;
    ioe_set_log(keep_line, &said, IOE_LOG_INFO);
}

/* ---- system calls counted, and answered in the kernel's place ---- */

enum { RING_SETUP, AIO_SETUP, RING_PROBE, RING_WORK, AIO_WORK, WATCHED };

static atomic_uint made[WATCHED];
/* 0: the kernel is asked. */
static atomic_int errno_for[WATCHED];

static bool answer_call(long number, long a[6], long *result)
{
    enum { REGISTER_PROBE = 8 };
    int which = number == SYS_io_uring_setup                                ? RING_SETUP
                : number == SYS_io_setup                                    ? AIO_SETUP
                : number == SYS_io_uring_register && a[1] == REGISTER_PROBE ? RING_PROBE
                : number == SYS_io_uring_enter && a[1] > 0                  ? RING_WORK
                : number == SYS_io_submit && a[1] > 0                       ? AIO_WORK
                                                                            : WATCHED;
    if (which == WATCHED)
        return false;
    atomic_fetch_add(&made[which], 1);
    *result = -atomic_load(&errno_for[which]);
    return *result != 0;
}

/* ---- nothing is in the way ---- */

static int first_choice(void *arg)
{
    ioe_config cfg = config_for(IOE_DRIVER_AUTO, arg);
    ioe_context *ctx = NULL;
    ioe_info info;
    listen_anew();
    CHILD_CHECK(ioe_probe(IOE_DRIVER_AUTO) == 0);
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == IOE_DRIVER_URING && info.depth == 128);
    CHILD_CHECK(info.uring_errno == 0 && info.aio_errno == 0);
    CHILD_CHECK(strcmp(info.reason, "") == 0);
    CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, "") == 0);
    CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, "") == 0);
    CHILD_CHECK(count_lines(&said, IOE_LOG_INFO, "") == 1);
    CHILD_CHECK(count_lines(&said, IOE_LOG_INFO, "uring") == 1);
    return works_and_ends(ctx);
}

static void auto_takes_the_ring_where_it_works(void **state)
{
    need(IOE_DRIVER_URING);
    run_case(first_choice, *state);
}

/* ---- a probe is more than a look ---- */

/* A driver that takes work and fails it works no more than one that cannot be made. */
static int probe_works(void *arg)
{
    static const int work[] = {RING_WORK, AIO_WORK};
    const int driver = *(int *)arg;
    for (unsigned times = 1; times <= 3; times++) {
        unsigned before = driver == IOE_DRIVER_POOL ? 0 : atomic_load(&made[work[driver - 1]]);
        forget_plain_calls();
        CHILD_CHECK(ioe_probe(driver) == 0);
        if (driver == IOE_DRIVER_POOL) {
            CHILD_CHECK(atomic_load(&plain_calls[IOE_WRITE]) == 1);
            CHILD_CHECK(atomic_load(&plain_calls[IOE_READ]) == 1);
        } else {
            /* One is the wake-up's, in either. */
            CHILD_CHECK(atomic_load(&made[work[driver - 1]]) >= before + 2);
        }
    }
    if (driver == IOE_DRIVER_POOL)
        return 0;
    atomic_store(&errno_for[work[driver - 1]], EPERM);
    CHILD_CHECK(ioe_probe(driver) == -EPERM);
    CHILD_CHECK(ioe_probe(IOE_DRIVER_AUTO) == 0);
    atomic_store(&errno_for[work[driver - 1]], 0);
    CHILD_CHECK(ioe_probe(driver) == 0);
    return 0;
}

static void probe_does_real_work_each_time(void **state)
{
    (void)state;
    for (int driver = IOE_DRIVER_URING; driver <= IOE_DRIVER_POOL; driver++) {
        need(driver);
        run_case(probe_works, &driver);
    }
}

/* ---- the environment ---- */

/* Read at each creation, so one process sees them all. */
static int overridden(void *arg)
{
    static const char *const names[] = {"uring", "aio", "pool", "auto", ""};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        int first = works_here(IOE_DRIVER_URING) ? IOE_DRIVER_URING : IOE_DRIVER_AIO;
        int expected = i < 3 ? (int)i + IOE_DRIVER_URING : first;
        ioe_config cfg = config_for(IOE_DRIVER_AUTO, arg);
        ioe_context *ctx = NULL;
        ioe_info info;
        if (!works_here(expected))
            continue;
        setenv("IOE_DRIVER", names[i], 1);
        listen_anew();
        CHILD_CHECK(ioe_probe(IOE_DRIVER_AUTO) == 0);
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
        CHILD_CHECK(info.driver == expected);
        CHILD_CHECK(info.aio_errno == 0);
        /* A driver that was not tried was not passed over. */
        CHILD_CHECK(i >= 3 ||
                    (info.uring_errno == 0 && strcmp(info.reason, "") == 0));
        CHILD_CHECK(count_lines(&said, IOE_LOG_INFO, ioe_driver_name(expected)) == 1);
        CHILD_CHECK(works_and_ends(ctx) == 0);
    }
    unsetenv("IOE_DRIVER");
    return 0;
}

static void environment_overrides_auto(void **state)
{
    run_case(overridden, *state);
}

static int not_overridden(void *arg)
{
    static const char *const names[] = {"uring", "aio", "pool", "nonsense"};
    (void)arg;
    for (int driver = IOE_DRIVER_URING; driver <= IOE_DRIVER_POOL; driver++)
        for (size_t i = 0; i < COUNT_OF(names) && works_here(driver); i++) {
            ioe_config cfg = config_for(driver, &deliveries[0]);
            ioe_context *ctx = NULL;
            ioe_info info;
            setenv("IOE_DRIVER", names[i], 1);
            CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
            CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
            CHILD_CHECK(info.driver == driver);
            CHILD_CHECK(ioe_context_free(ctx) == 0);
            CHILD_CHECK(ioe_probe(driver) == 0);
        }
    return 0;
}

static void environment_overrides_only_auto(void **state)
{
    (void)state;
    run_case(not_overridden, NULL);
}

static int wrong_name(void *arg)
{
    static const char *const names[] = {"URING", "io_uring", "uring ", " aio", "poo",
                                        "pools", "none",     "1",      "\xff", "unknown"};
    ioe_context *const untouched = (ioe_context *)(uintptr_t)0x5AA5;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        ioe_config cfg = config_for(IOE_DRIVER_AUTO, arg);
        ioe_context *ctx = untouched;
        setenv("IOE_DRIVER", names[i], 1);
        listen_anew();
        errno = ERRNO_MARK;
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == -EINVAL && ctx == untouched);
        CHILD_CHECK(ioe_context_new(NULL, &ctx) == -EINVAL && ctx == untouched);
        CHILD_CHECK(errno == ERRNO_MARK);
        /* A sentence that says which variable it is about. */
        CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, "IOE_DRIVER") == 2);
        CHILD_CHECK(said.count == 2);
        CHILD_CHECK(ioe_probe(IOE_DRIVER_AUTO) == -EINVAL);
        CHILD_CHECK(errno == ERRNO_MARK);
    }
    return 0;
}

static void wrong_name_in_the_environment_is_refused(void **state)
{
    run_case(wrong_name, *state);
}

/* ---- drivers that are forbidden ---- */

enum { MAX_CALLS = 4 };

typedef struct sandbox {
    refused_call calls[MAX_CALLS];
    int driver; /* what AUTO takes there */
    int uring_errno;
    int aio_errno;
} sandbox;

#define RING_ONLY(call, error) {{{call, error, 0}}, IOE_DRIVER_AIO, error, 0}
#define BOTH(call, error, other, other_error)                                                      \
    {{{call, error, 0}, {other, other_error, 0}}, IOE_DRIVER_POOL, error, other_error}

static const sandbox sandboxes[] = {
    RING_ONLY(SYS_io_uring_setup, EPERM),
    RING_ONLY(SYS_io_uring_setup, ENOSYS),
    RING_ONLY(SYS_io_uring_setup, EACCES),
    RING_ONLY(SYS_io_uring_setup, ENOMEM),
    RING_ONLY(SYS_io_uring_setup, EMFILE),
    RING_ONLY(SYS_io_uring_enter, EPERM),
    RING_ONLY(SYS_io_uring_enter, ENOSYS),
    RING_ONLY(SYS_io_uring_register, EPERM),
    BOTH(SYS_io_uring_setup, EPERM, SYS_io_setup, EPERM),
    BOTH(SYS_io_uring_setup, ENOSYS, SYS_io_setup, ENOSYS),
    BOTH(SYS_io_uring_setup, ENOMEM, SYS_io_setup, EAGAIN),
    BOTH(SYS_io_uring_setup, EPERM, SYS_io_submit, EPERM),
    BOTH(SYS_io_uring_setup, EPERM, SYS_io_submit, ENOSYS),
    BOTH(SYS_io_uring_enter, EPERM, SYS_io_getevents, EPERM),
    /* What is not tried is not passed over. */
    {{{SYS_io_setup, EPERM, 0}}, IOE_DRIVER_URING, 0, 0},
};

static bool enter_sandbox(const sandbox *s)
{
    size_t count = 0;
    while (count < MAX_CALLS && s->calls[count].error != 0)
        count++;
    return refuse_calls(s->calls, count);
}

typedef struct sandbox_case {
    const sandbox *s;
    const delivery *how;
} sandbox_case;

static int falls_back(void *arg)
{
    const sandbox_case *c = arg;
    const sandbox *s = c->s;
    unsigned passed = (s->uring_errno != 0) + (s->aio_errno != 0);
    if (!enter_sandbox(s))
        return CANNOT;
    /* The second context knows already, and says the same. */
    for (int again = 0; again < 2; again++) {
        ioe_config cfg = config_for(IOE_DRIVER_AUTO, c->how);
        ioe_context *ctx = NULL;
        ioe_info info;
        listen_anew();
        errno = ERRNO_MARK;
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
        CHILD_CHECK(errno == ERRNO_MARK);
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
        CHILD_CHECK(info.driver == s->driver);
        CHILD_CHECK(info.depth == 128 && info.flags == c->how->flags);
        CHILD_CHECK(info.uring_errno == s->uring_errno);
        CHILD_CHECK(info.aio_errno == s->aio_errno);
        CHILD_CHECK((strstr(info.reason, "uring: ") != NULL) == (s->uring_errno != 0));
        CHILD_CHECK((strstr(info.reason, "aio: ") != NULL) == (s->aio_errno != 0));
        CHILD_CHECK((strcmp(info.reason, "") == 0) == (passed == 0));
        CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, "") == 0);
        CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, "") == passed);
        CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, "uring: ") == (s->uring_errno != 0));
        CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, "aio: ") == (s->aio_errno != 0));
        CHILD_CHECK(count_lines(&said, IOE_LOG_INFO, "") == 1);
        CHILD_CHECK(count_lines(&said, IOE_LOG_INFO, ioe_driver_name(s->driver)) == 1);
        CHILD_CHECK(works_and_ends(ctx) == 0);
    }
    CHILD_CHECK(ioe_probe(IOE_DRIVER_AUTO) == 0);
    CHILD_CHECK(ioe_probe(IOE_DRIVER_POOL) == 0);
    return 0;
}

static void auto_falls_back_and_says_why(void **state)
{
    need(IOE_DRIVER_URING);
    need(IOE_DRIVER_AIO);
    for (size_t i = 0; i < COUNT_OF(sandboxes); i++) {
        sandbox_case c = {&sandboxes[i], *state};
        run_case(falls_back, &c);
    }
}

static int fails_by_name(void *arg)
{
    const sandbox *s = ((sandbox_case *)arg)->s;
    ioe_context *const untouched = (ioe_context *)(uintptr_t)0x5AA5;
    if (!enter_sandbox(s))
        return CANNOT;
    for (int driver = IOE_DRIVER_URING; driver <= IOE_DRIVER_AIO; driver++) {
        int error = driver == IOE_DRIVER_URING ? s->uring_errno : s->aio_errno;
        for (int by_environment = 0; by_environment < 2 && error != 0; by_environment++) {
            ioe_config cfg = config_for(driver, ((sandbox_case *)arg)->how);
            ioe_context *ctx = untouched;
            if (by_environment) {
                setenv("IOE_DRIVER", ioe_driver_name(driver), 1);
                cfg.driver = IOE_DRIVER_AUTO;
                CHILD_CHECK(ioe_probe(IOE_DRIVER_AUTO) == -error);
            }
            listen_anew();
            errno = ERRNO_MARK;
            CHILD_CHECK(ioe_context_new(&cfg, &ctx) == -error && ctx == untouched);
            CHILD_CHECK(errno == ERRNO_MARK);
            /* One sentence on this driver, and no word of another. */
            CHILD_CHECK(said.count == 1);
            CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, ioe_driver_name(driver)) == 1);
            CHILD_CHECK(ioe_probe(driver) == -error);
            unsetenv("IOE_DRIVER");
        }
    }
    return 0;
}

static void named_driver_fails_and_says_why(void **state)
{
    need(IOE_DRIVER_URING);
    need(IOE_DRIVER_AIO);
    for (size_t i = 0; i < COUNT_OF(sandboxes); i++) {
        sandbox_case c = {&sandboxes[i], *state};
        run_case(fails_by_name, &c);
    }
}

/* ---- limits: half the depth, and half of that ---- */

typedef struct bound {
    uint32_t most;  /* operations that there is room for */
    uint32_t asked;
    uint32_t depth; /* what runs; 0 for nothing */
} bound;

static const bound bounds[] = {
    {128, 128, 128}, {127, 128, 64}, {40, 128, 32},  {32, 128, 32}, {31, 128, 16},
    {16, 128, 16},   {15, 128, 0},   {99, 100, 50},  {30, 100, 25}, {20, 100, 16},
    {16, 17, 16},    {15, 17, 0},    {15, 16, 0},    {16, 16, 16},  {8, 8, 8},
    {7, 8, 0},       {3, 3, 3},      {2, 3, 0},      {16, 32768, 16},
};

typedef struct bound_case {
    const bound *b;
    const delivery *how;
    int driver;
    int error;
} bound_case;

/* A ring asks for as many entries as operations, AIO for one more. */
static bool set_bound(const bound_case *c)
{
    const refused_call ring = {SYS_io_uring_setup, c->error, c->b->most};
    const refused_call aio[] = {{SYS_io_uring_setup, EPERM, 0},
                                {SYS_io_setup, c->error, c->b->most + 1}};
    return c->driver == IOE_DRIVER_URING ? refuse_calls(&ring, 1) : refuse_calls(aio, 2);
}

static int keeps_within(void *arg)
{
    const bound_case *c = arg;
    const bound *b = c->b;
    const char *name = ioe_driver_name(c->driver);
    bool lowered = b->depth != 0 && b->depth < b->asked;
    ioe_context *ctx = NULL;
    ioe_info info;
    char number[32];
    if (!set_bound(c))
        return CANNOT;
    snprintf(number, sizeof number, "depth %u", b->depth);

    ioe_config cfg = config_for(c->driver, c->how);
    cfg.depth = b->asked;
    listen_anew();
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == (b->depth != 0 ? 0 : -c->error));
    if (b->depth != 0) {
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
        CHILD_CHECK(info.driver == c->driver && info.depth == b->depth);
        CHILD_CHECK(info.uring_errno == 0 && info.aio_errno == 0);
        CHILD_CHECK((strstr(info.reason, name) != NULL) == lowered);
        CHILD_CHECK((strstr(info.reason, number) != NULL) == lowered);
        CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, name) == lowered);
        CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, "") == 0);
        CHILD_CHECK(count_lines(&said, IOE_LOG_INFO, number) == 1);
        CHILD_CHECK(works_and_ends(ctx) == 0);
    } else {
        CHILD_CHECK(ctx == NULL);
        CHILD_CHECK(said.count == 1 && count_lines(&said, IOE_LOG_ERROR, name) == 1);
    }

    cfg.driver = IOE_DRIVER_AUTO;
    listen_anew();
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == (b->depth != 0 ? c->driver : c->driver + 1));
    CHILD_CHECK(info.depth == (b->depth != 0 ? b->depth : b->asked));
    if (c->driver == IOE_DRIVER_URING) {
        CHILD_CHECK(info.uring_errno == (b->depth != 0 ? 0 : c->error));
    } else {
        CHILD_CHECK(info.uring_errno == EPERM);
        CHILD_CHECK(info.aio_errno == (b->depth != 0 ? 0 : c->error));
    }
    CHILD_CHECK((strstr(info.reason, name) != NULL) == (b->depth < b->asked));
    CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, name) == (b->depth < b->asked));
    CHILD_CHECK(count_lines(&said, IOE_LOG_ERROR, "") == 0);
    return works_and_ends(ctx);
}

static void keep_within_bounds(int driver, int error, const delivery *how)
{
    need(driver);
    need(driver + 1);
    for (size_t i = 0; i < COUNT_OF(bounds); i++) {
        bound_case c = {&bounds[i], how, driver, error};
        run_case(keeps_within, &c);
    }
}

static void ring_without_memory_is_smaller(void **state)
{
    keep_within_bounds(IOE_DRIVER_URING, ENOMEM, *state);
}

static void aio_without_room_is_smaller(void **state)
{
    keep_within_bounds(IOE_DRIVER_AIO, EAGAIN, *state);
}

static void aio_without_memory_is_smaller(void **state)
{
    keep_within_bounds(IOE_DRIVER_AIO, ENOMEM, *state);
}

/* ---- flags of a ring ---- */

static int flags_left_out(void *arg)
{
    static const uint32_t flags[] = {IOE_SQPOLL, IOE_POLLED | IOE_SQPOLL, IOE_POLLED | IOE_IOPOLL,
                                     IOE_POLLED | IOE_SQPOLL | IOE_IOPOLL};
    const sandbox *s = arg;
    if (!enter_sandbox(s))
        return CANNOT;
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        ioe_config cfg = config_for(IOE_DRIVER_AUTO, &deliveries[2]);
        ioe_context *ctx = NULL;
        ioe_info info;
        cfg.flags = flags[i];
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
        CHILD_CHECK(info.driver == s->driver);
        CHILD_CHECK(info.flags == (flags[i] & IOE_POLLED));
        CHILD_CHECK(works_and_ends(ctx) == 0);
        /* The operator's switch is no reason for a program to fail. */
        setenv("IOE_DRIVER", ioe_driver_name(s->driver), 1);
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
        CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
        CHILD_CHECK(info.flags == (flags[i] & IOE_POLLED));
        CHILD_CHECK(works_and_ends(ctx) == 0);
        unsetenv("IOE_DRIVER");
        /* The program's own word is one. */
        cfg.driver = s->driver;
        CHILD_CHECK(ioe_context_new(&cfg, &ctx) == -EINVAL);
    }
    return 0;
}

static void flags_of_a_ring_are_left_out_elsewhere(void **state)
{
    static sandbox without_ring = RING_ONLY(SYS_io_uring_setup, EPERM);
    static sandbox without_both = BOTH(SYS_io_uring_setup, EPERM, SYS_io_setup, EPERM);
    (void)state;
    need(IOE_DRIVER_AIO);
    run_case(flags_left_out, &without_ring);
    run_case(flags_left_out, &without_both);
}

static int flags_kept(void *arg)
{
    ioe_config cfg = config_for(IOE_DRIVER_AUTO, arg);
    ioe_context *ctx = NULL;
    ioe_info info;
    cfg.flags |= IOE_SQPOLL;
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    CHILD_CHECK(ioe_context_info(ctx, &info, sizeof info) == 0);
    CHILD_CHECK(info.driver == IOE_DRIVER_URING && info.flags == cfg.flags);
    return works_and_ends(ctx);
}

static void ring_keeps_its_flags(void **state)
{
    need(IOE_DRIVER_URING);
    run_case(flags_kept, *state);
}

/* ---- what it costs ---- */

enum { CONTEXTS = 10 };

static void *make_one(void *arg)
{
    ioe_config cfg = config_for(*(int *)arg, &deliveries[0]);
    ioe_context *ctx = NULL;
    return ioe_context_new(&cfg, &ctx) == 0 && ioe_context_free(ctx) == 0 ? arg : NULL;
}

static int probed_once(void *arg)
{
    const int which = *(int *)arg == IOE_DRIVER_AIO ? AIO_SETUP : RING_SETUP;
    CHILD_CHECK(make_one(arg) != NULL);
    unsigned first = atomic_load(&made[which]);
    CHILD_CHECK(make_one(arg) != NULL);
    unsigned each = atomic_load(&made[which]) - first;
    for (int i = 2; i < CONTEXTS; i++)
        CHILD_CHECK(make_one(arg) != NULL);
    CHILD_CHECK(each >= 1 && first == 2 * each);
    CHILD_CHECK(atomic_load(&made[which]) == first + (CONTEXTS - 1) * each);
    CHILD_CHECK(which != RING_SETUP || atomic_load(&made[RING_PROBE]) == 1);
    CHILD_CHECK(which != RING_SETUP || atomic_load(&made[AIO_SETUP]) == 0);
    return 0;
}

/* Nobody waits for another's probe; but once there is one, it is enough. */
static int probed_by_many(void *arg)
{
    const int which = *(int *)arg == IOE_DRIVER_AIO ? AIO_SETUP : RING_SETUP;
    pthread_t threads[CONTEXTS];
    void *fine = NULL;
    for (int i = 0; i < CONTEXTS; i++)
        CHILD_CHECK(pthread_create(&threads[i], NULL, make_one, arg) == 0);
    for (int i = 0; i < CONTEXTS; i++)
        CHILD_CHECK(pthread_join(threads[i], &fine) == 0 && fine != NULL);
    unsigned all = atomic_load(&made[which]);
    unsigned asked = atomic_load(&made[RING_PROBE]);
    CHILD_CHECK(make_one(arg) != NULL);
    unsigned each = atomic_load(&made[which]) - all;
    CHILD_CHECK(each >= 1 && all >= (CONTEXTS + 1) * each && all <= 2 * CONTEXTS * each);
    CHILD_CHECK(make_one(arg) != NULL);
    CHILD_CHECK(atomic_load(&made[which]) == all + 2 * each);
    CHILD_CHECK(atomic_load(&made[RING_PROBE]) == asked);
    return 0;
}

static void probing_costs_once(void **state)
{
    static int drivers[] = {IOE_DRIVER_URING, IOE_DRIVER_AIO, IOE_DRIVER_AUTO};
    (void)state;
    need(IOE_DRIVER_URING);
    need(IOE_DRIVER_AIO);
    for (size_t i = 0; i < COUNT_OF(drivers); i++) {
        run_case(probed_once, &drivers[i]);
        run_case(probed_by_many, &drivers[i]);
    }
}

static int taken_by_auto(ioe_info *info)
{
    ioe_config cfg = config_for(IOE_DRIVER_AUTO, &deliveries[0]);
    ioe_context *ctx = NULL;
    CHILD_CHECK(ioe_context_new(&cfg, &ctx) == 0);
    CHILD_CHECK(ioe_context_info(ctx, info, sizeof *info) == 0);
    CHILD_CHECK(works_and_ends(ctx) == 0);
    return 0;
}

/* What is forbidden stays so, and is not asked for again; only ioe_probe does. */
static int refusal_remembered(void *arg)
{
    ioe_info info;
    (void)arg;
    atomic_store(&errno_for[RING_SETUP], EPERM);
    atomic_store(&errno_for[AIO_SETUP], ENOSYS);
    for (int i = 0; i < CONTEXTS; i++) {
        listen_anew();
        CHILD_CHECK(taken_by_auto(&info) == 0);
        CHILD_CHECK(info.driver == IOE_DRIVER_POOL);
        CHILD_CHECK(info.uring_errno == EPERM && info.aio_errno == ENOSYS);
        CHILD_CHECK(count_lines(&said, IOE_LOG_WARN, "") == 2);
    }
    CHILD_CHECK(atomic_load(&made[RING_SETUP]) == 1);
    CHILD_CHECK(atomic_load(&made[AIO_SETUP]) == 1);
    atomic_store(&errno_for[RING_SETUP], 0);
    CHILD_CHECK(taken_by_auto(&info) == 0);
    CHILD_CHECK(info.driver == IOE_DRIVER_POOL && info.uring_errno == EPERM);
    CHILD_CHECK(ioe_probe(IOE_DRIVER_URING) == 0);
    return 0;
}

/* What a limit of the moment kept away is tried again. */
static int shortage_forgotten(void *arg)
{
    static const int errors[] = {ENOMEM, EMFILE, ENFILE, EAGAIN};
    ioe_info info;
    (void)arg;
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        atomic_store(&errno_for[RING_SETUP], errors[i]);
        atomic_store(&errno_for[AIO_SETUP], errors[i]);
        CHILD_CHECK(taken_by_auto(&info) == 0);
        CHILD_CHECK(info.driver == IOE_DRIVER_POOL);
        CHILD_CHECK(info.uring_errno == errors[i] && info.aio_errno == errors[i]);
        atomic_store(&errno_for[AIO_SETUP], 0);
        CHILD_CHECK(taken_by_auto(&info) == 0);
        CHILD_CHECK(info.driver == IOE_DRIVER_AIO);
        CHILD_CHECK(info.uring_errno == errors[i] && info.aio_errno == 0);
        atomic_store(&errno_for[RING_SETUP], 0);
        CHILD_CHECK(taken_by_auto(&info) == 0);
        CHILD_CHECK(info.driver == IOE_DRIVER_URING && info.uring_errno == 0);
    }
    return 0;
}

static void refusals_are_remembered_and_shortages_are_not(void **state)
{
    (void)state;
    need(IOE_DRIVER_URING);
    need(IOE_DRIVER_AIO);
    run_case(refusal_remembered, NULL);
    run_case(shortage_forgotten, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(auto_takes_the_ring_where_it_works),
        cmocka_unit_test(probe_does_real_work_each_time),
        for_each_delivery(environment_overrides_auto),
        cmocka_unit_test(environment_overrides_only_auto),
        for_each_delivery(wrong_name_in_the_environment_is_refused),
        with_and_without_thread(auto_falls_back_and_says_why),
        with_and_without_thread(named_driver_fails_and_says_why),
        with_and_without_thread(ring_without_memory_is_smaller),
        with_and_without_thread(aio_without_room_is_smaller),
        with_and_without_thread(aio_without_memory_is_smaller),
        cmocka_unit_test(flags_of_a_ring_are_left_out_elsewhere),
        for_each_delivery(ring_keeps_its_flags),
        cmocka_unit_test(probing_costs_once),
        cmocka_unit_test(refusals_are_remembered_and_shortages_are_not),
    };
    unsetenv("IOE_DRIVER");
    return RUN_TESTS(tests);
}
