/*
 * Promise: what the machine refuses (a forbidden system call, a limit that is used up, memory) is
 * answered with its errno and told to the log, leaves nothing behind, and works once it is there.
 *
 * Each case runs in a child process, where seccomp(2) gives one system call the errno of choice.
 * This process never calls the library, so that no child inherits what it might have remembered.
 */
#include <sys/resource.h>

#include "refuse.h"

typedef struct refusal {
    unsigned call;
    int error;
    uint32_t flags;
    uint32_t workers;
} refusal;

/* A context of the driver, by its name; the value is what ioe_context_new says. */
static int new_named(const refusal *r, ioe_context **out)
{
    ioe_config cfg;
    ioe_config_init(&cfg, sizeof cfg);
    cfg.driver = tested_driver;
    cfg.flags = r->flags;
    cfg.workers = r->workers;
    return ioe_context_new(&cfg, out);
}

static int refused_creation(void *arg)
{
    const refusal *r = arg;
    ioe_context *const before = (ioe_context *)(uintptr_t)0x5AA5;
    ioe_context *out = before;
    static log_lines log = LOG_LINES_INIT;
    if (!refuse(r->call, r->error))
        return CANNOT;
    ioe_set_log(keep_line, &log, IOE_LOG_ERROR);
    size_t descriptors = count_descriptors();
    errno = ERRNO_MARK;
    CHILD_CHECK(new_named(r, &out) == -r->error);
    CHILD_CHECK(errno == ERRNO_MARK && out == before);
    CHILD_CHECK(count_lines(&log, IOE_LOG_ERROR, "") == 1);
    CHILD_CHECK(strlen(log.texts[0]) > 0);
    CHILD_CHECK(count_descriptors() == descriptors);
    await_no_threads();
    return 0;
}

static int refused_probe(void *arg)
{
    const refusal *r = arg;
    if (!refuse(r->call, r->error))
        return CANNOT;
    size_t descriptors = count_descriptors();
    errno = ERRNO_MARK;
    CHILD_CHECK(ioe_probe(tested_driver) == -r->error);
    CHILD_CHECK(errno == ERRNO_MARK);
    CHILD_CHECK(count_descriptors() == descriptors);
    return 0;
}

/* The body once for each errno that ioe_probe and ioe_context_new document. The pool has no system
 * call of its own that sets it up. */
static void refuse_the_driver(int (*body)(void *arg), const delivery *how)
{
    static const int errors[] = {-EPERM, -ENOSYS, -EAGAIN, -ENOMEM, -EMFILE, -ENFILE};
    for (size_t i = 0; i < COUNT_OF(errors) && tested_driver != IOE_DRIVER_POOL; i++) {
        unsigned call = tested_driver == IOE_DRIVER_URING ? SYS_io_uring_setup : SYS_io_setup;
        refusal r = {call, -errors[i], how->flags, how->workers};
        assert_in_child(body, &r);
    }
}

static void probe_says_why_a_driver_is_refused(void **state)
{
    (void)state;
    refuse_the_driver(refused_probe, &deliveries[0]);
}

static void creation_says_why_a_driver_is_refused(void **state)
{
    refuse_the_driver(refused_creation, *state);
}

/* What wakes a driver that sleeps is a descriptor, whichever driver it is. */
static void probe_and_creation_say_that_there_is_no_descriptor(void **state)
{
    const delivery *how = *state;
    static const int errors[] = {-EMFILE, -ENFILE};
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        refusal r = {SYS_eventfd2, -errors[i], how->flags, how->workers};
        assert_in_child(refused_probe, &r);
        assert_in_child(refused_creation, &r);
    }
}

/* What can be made and not used is of no use. */
static void probe_and_creation_use_what_they_made(void **state)
{
    static const struct {
        int driver;
        unsigned call;
    } calls[] = {
        {IOE_DRIVER_URING, SYS_io_uring_enter}, {IOE_DRIVER_URING, SYS_io_uring_register},
        {IOE_DRIVER_AIO, SYS_io_submit},        {IOE_DRIVER_AIO, SYS_io_getevents},
    };
    static const int errors[] = {EPERM, ENOSYS, EACCES};
    const delivery *how = *state;
    for (size_t i = 0; i < COUNT_OF(calls) * COUNT_OF(errors); i++) {
        refusal r = {calls[i % COUNT_OF(calls)].call, errors[i / COUNT_OF(calls)], how->flags,
                     how->workers};
        if (calls[i % COUNT_OF(calls)].driver != tested_driver)
            continue;
        assert_in_child(refused_probe, &r);
        assert_in_child(refused_creation, &r);
    }
    if (tested_driver == IOE_DRIVER_POOL)
        skip(); /* it makes nothing beforehand */
}

/* ---- threads ---- */

static bool refuse_threads(void)
{
    return refuse(SYS_clone3, EAGAIN) && refuse(SYS_clone, EAGAIN);
}

static int context_without_threads(void *arg)
{
    const refusal *r = arg;
    static log_lines log = LOG_LINES_INIT;
    ioe_context *out = NULL;
    if (!refuse_threads())
        return CANNOT;
    ioe_set_log(keep_line, &log, IOE_LOG_ERROR);
    size_t descriptors = count_descriptors();
    CHILD_CHECK(new_named(r, &out) == -EAGAIN && out == NULL);
    CHILD_CHECK(count_descriptors() == descriptors);
    CHILD_CHECK(count_lines(&log, IOE_LOG_ERROR, "") == 1);
    return 0;
}

static void creation_says_that_there_is_no_thread(void **state)
{
    const delivery *how = *state;
    refusal r = {.workers = how->workers};
    /* A polled context has none. */
    if (how->flags & IOE_POLLED)
        skip();
    assert_in_child(context_without_threads, &r);
}

static int workers_without_threads(void *arg)
{
    ioe_workers *const before = (ioe_workers *)(uintptr_t)0x5AA5;
    ioe_workers *out = before;
    (void)arg;
    if (!refuse_threads())
        return CANNOT;
    if (ioe_workers_new(4, &out) != -EAGAIN || out != before)
        return 1;
    return 0;
}

static void workers_say_that_there_is_no_thread(void **state)
{
    (void)state;
    assert_in_child(workers_without_threads, NULL);
}

/* ---- descriptors ---- */

static int no_event_descriptor(void *arg)
{
    static const refusal polled = {.flags = IOE_POLLED};
    const int *error = arg;
    ioe_context *ctx = NULL;
    if (new_named(&polled, &ctx) != 0 || !refuse(SYS_eventfd2, -*error))
        return CANNOT;
    if (ioe_context_fd(ctx) != *error)
        return 1;
    return ioe_context_free(ctx) == 0 ? 0 : 2;
}

static void context_fd_says_why_there_is_none(void **state)
{
    (void)state;
    static int errors[] = {-EMFILE, -ENFILE};
    for (size_t i = 0; i < COUNT_OF(errors); i++)
        assert_in_child(no_event_descriptor, &errors[i]);
}

static int out_of_descriptors(void *arg)
{
    static const refusal polled = {.flags = IOE_POLLED};
    struct rlimit none, before;
    ioe_context *ctx = NULL;
    (void)arg;
    if (getrlimit(RLIMIT_NOFILE, &before) != 0)
        return CANNOT;
    none = before;
    none.rlim_cur = 0;
    if (ioe_probe(tested_driver) != 0)
        return CANNOT;
    if (setrlimit(RLIMIT_NOFILE, &none) != 0)
        return CANNOT;
    if (ioe_probe(tested_driver) != -EMFILE)
        return 1;
    if (new_named(&polled, &ctx) != -EMFILE || ctx != NULL)
        return 2;
    if (setrlimit(RLIMIT_NOFILE, &before) != 0)
        return CANNOT;
    /* A limit of the moment is not remembered. */
    if (ioe_probe(tested_driver) != 0)
        return 3;
    if (new_named(&polled, &ctx) != 0)
        return 4;
    if (setrlimit(RLIMIT_NOFILE, &none) != 0)
        return CANNOT;
    if (ioe_context_fd(ctx) != -EMFILE)
        return 5;
    if (setrlimit(RLIMIT_NOFILE, &before) != 0)
        return CANNOT;
    if (ioe_context_fd(ctx) < 0)
        return 6;
    return ioe_context_free(ctx) == 0 ? 0 : 7;
}

static void descriptors_that_are_back_are_used(void **state)
{
    (void)state;
    assert_in_child(out_of_descriptors, NULL);
}

/* ---- memory ---- */

/* A sanitizer has an allocator of its own, which does not fail but ends the process. */
#if defined(__SANITIZE_ADDRESS__)
#define OWN_ALLOCATOR 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OWN_ALLOCATOR 1
#endif
#endif
#ifndef OWN_ALLOCATOR
#define OWN_ALLOCATOR 0
#endif

/* Takes what the heap has left. The blocks form a list, so that they can be given back. */
static void **exhaust_memory(void)
{
    void **list = NULL, **block;
    for (size_t size = 1 << 20; size >= sizeof(void *); size /= 2)
        while ((block = malloc(size)) != NULL) {
            *block = list;
            list = block;
        }
    return list;
}

static void give_back(void **list)
{
    while (list != NULL) {
        void **next = *list;
        free(list);
        list = next;
    }
}

static int out_of_memory(void *arg)
{
    static struct iovec iov[1024];
    static char byte;
    (void)arg;
    for (size_t i = 0; i < COUNT_OF(iov); i++)
        iov[i] = (struct iovec){&byte, 1};
    ioe_event *e = ioe_event_new();
    struct rlimit memory;
    if (e == NULL || getrlimit(RLIMIT_AS, &memory) != 0)
        return CANNOT;
    memory.rlim_cur = 0;
    if (setrlimit(RLIMIT_AS, &memory) != 0)
        return CANNOT;
    if (ioe_prep_write(e, 7, &byte, 1, 99) != 0)
        return 1;
    void **list = exhaust_memory();
    errno = ERRNO_MARK;
    ioe_event *none = ioe_event_new();
    void *no_buffer = ioe_buffer_alloc(1 << 20, 0);
    int read_rc = ioe_prep_readv(e, 7, iov, 1024, 0);
    int write_rc = ioe_prep_writev(e, 7, iov, 1024, 0);
    bool errno_kept = errno == ERRNO_MARK;
    give_back(list);
    if (none != NULL || no_buffer != NULL)
        return 2;
    if (read_rc != -ENOMEM || write_rc != -ENOMEM)
        return 3;
    if (!errno_kept)
        return 4;
    /* As it was. */
    if (ioe_event_action(e) != IOE_WRITE || ioe_event_size(e) != 1 || ioe_event_offset(e) != 99 ||
        ioe_event_buffer(e) != &byte)
        return 5;
    if (ioe_prep_readv(e, 7, iov, 1024, 0) != 0)
        return 6;
    return ioe_event_free(e) == 0 ? 0 : 7;
}

static void events_say_that_memory_is_short(void **state)
{
    (void)state;
    if (OWN_ALLOCATOR)
        skip();
    assert_in_child(out_of_memory, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probe_says_why_a_driver_is_refused),
        for_each_delivery(creation_says_why_a_driver_is_refused),
        for_each_delivery(probe_and_creation_say_that_there_is_no_descriptor),
        for_each_delivery(probe_and_creation_use_what_they_made),
        for_each_delivery(creation_says_that_there_is_no_thread),
        cmocka_unit_test(workers_say_that_there_is_no_thread),
        cmocka_unit_test(context_fd_says_why_there_is_none),
        cmocka_unit_test(descriptors_that_are_back_are_used),
        cmocka_unit_test(events_say_that_memory_is_short),
    };
    return RUN_TESTS(tests);
}
