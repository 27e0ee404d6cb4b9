/*
 * Promise: the library says truly who it is (version, driver names, errno texts), what works here
 * (probe), and what went wrong (log), from any thread and without touching errno.
 */
#include <limits.h>
#include <strings.h>

#include "common.h"

static void version_is_the_macros(void **state)
{
    (void)state;
    char expected[64];
    snprintf(expected, sizeof expected, "%d.%d.%d", IOE_VERSION_MAJOR, IOE_VERSION_MINOR,
             IOE_VERSION_PATCH);
    assert_non_null(ioe_version());
    assert_string_equal(ioe_version(), expected);
}

static const struct {
    int number;
    const char *name;
} errnos[] = {
    {EPERM, "EPERM"},         {ENOENT, "ENOENT"},       {EINTR, "EINTR"},
    {EIO, "EIO"},             {EBADF, "EBADF"},         {EAGAIN, "EAGAIN"},
    {ENOMEM, "ENOMEM"},       {EACCES, "EACCES"},       {EFAULT, "EFAULT"},
    {EBUSY, "EBUSY"},         {EISDIR, "EISDIR"},       {EINVAL, "EINVAL"},
    {EMFILE, "EMFILE"},       {EFBIG, "EFBIG"},         {ENOSPC, "ENOSPC"},
    {ESPIPE, "ESPIPE"},       {EROFS, "EROFS"},         {EDEADLK, "EDEADLK"},
    {ENOSYS, "ENOSYS"},       {EOVERFLOW, "EOVERFLOW"}, {EOPNOTSUPP, "EOPNOTSUPP"},
    {ESHUTDOWN, "ESHUTDOWN"}, {ETIMEDOUT, "ETIMEDOUT"}, {ECANCELED, "ECANCELED"},
    {E2BIG, "E2BIG"},         {EDQUOT, "EDQUOT"},       {EOWNERDEAD, "EOWNERDEAD"},
};

/* "EIO: what it means", and a meaning must follow the colon. */
static bool names(const char *text, const char *name)
{
    size_t n = strlen(name);
    return text != NULL && strncmp(text, name, n) == 0 && strncmp(text + n, ": ", 2) == 0 &&
           strlen(text) > n + 4;
}

static void strerror_names_every_errno(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(errnos); i++) {
        errno = ERRNO_MARK;
        const char *negated = ioe_strerror(-errnos[i].number);
        const char *plain = ioe_strerror(errnos[i].number);
        assert_int_equal(errno, ERRNO_MARK);
        assert_true(names(negated, errnos[i].name));
        assert_string_equal(plain, negated);
    }
}

static void strerror_answers_any_number(void **state)
{
    (void)state;
    static const int unknown[] = {INT_MIN, INT_MIN + 1, -100000, -4095, 4095, 100000, INT_MAX};
    assert_non_null(ioe_strerror(0));
    assert_non_null(strcasestr(ioe_strerror(0), "success"));
    for (size_t i = 0; i < COUNT_OF(unknown); i++) {
        const char *text = ioe_strerror(unknown[i]);
        assert_non_null(text);
        assert_non_null(strcasestr(text, "unknown"));
    }
    /* Whatever the number, there is text. */
    for (int err = -300; err <= 300; err++) {
        assert_non_null(ioe_strerror(err));
        assert_true(strlen(ioe_strerror(err)) > 0);
    }
}

static void *read_all_texts(void *arg)
{
    bool *right = arg;
    *right = true;
    for (int round = 0; round < 2000; round++) {
        size_t i = (size_t)round % COUNT_OF(errnos);
        if (!names(ioe_strerror(-errnos[i].number), errnos[i].name))
            *right = false;
    }
    return NULL;
}

static void strerror_is_thread_safe(void **state)
{
    (void)state;
    pthread_t threads[4];
    bool right[4];
    const char *kept = ioe_strerror(EIO);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        threads[i] = start_thread(read_all_texts, &right[i]);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        join_thread(threads[i]);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        assert_true(right[i]);
    /* A text once given is not overwritten by later calls, here or elsewhere. */
    assert_true(names(kept, "EIO"));
}

static void drivers_have_names(void **state)
{
    (void)state;
    static const int unknown[] = {INT_MIN, -1, 4, 5, 100, INT_MAX};
    assert_string_equal(ioe_driver_name(IOE_DRIVER_AUTO), "auto");
    assert_string_equal(ioe_driver_name(IOE_DRIVER_URING), "uring");
    assert_string_equal(ioe_driver_name(IOE_DRIVER_AIO), "aio");
    assert_string_equal(ioe_driver_name(IOE_DRIVER_POOL), "pool");
    for (size_t i = 0; i < COUNT_OF(unknown); i++)
        assert_string_equal(ioe_driver_name(unknown[i]), "unknown");
}

static void probe_agrees_with_creation(void **state)
{
    (void)state;
    for (int driver = IOE_DRIVER_AUTO; driver <= IOE_DRIVER_POOL; driver++) {
        ioe_config cfg;
        ioe_context *ctx = NULL;
        errno = ERRNO_MARK;
        int probed = ioe_probe(driver);
        assert_int_equal(errno, ERRNO_MARK);
        assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
        cfg.driver = driver;
        assert_int_equal(ioe_context_new(&cfg, &ctx), probed);
        printf("# %s: %s\n", ioe_driver_name(driver), ioe_strerror(probed));
        if (probed == 0)
            assert_int_equal(ioe_context_free(ctx), 0);
        else
            assert_true(probed < 0);
    }
    /* Plain files are there, and so is the driver of this run. */
    assert_int_equal(ioe_probe(IOE_DRIVER_POOL), 0);
    assert_int_equal(ioe_probe(IOE_DRIVER_AUTO), 0);
    assert_int_equal(ioe_probe(tested_driver), 0);
}

static void probe_refuses_what_is_not_there(void **state)
{
    (void)state;
    static const int unknown[] = {INT_MIN, -1, 4, 5, 100, INT_MAX};
    for (size_t i = 0; i < COUNT_OF(unknown); i++)
        ASSERT_CALL(ioe_probe(unknown[i]), -EINVAL);
}

static void probe_leaves_nothing_behind(void **state)
{
    (void)state;
    for (int driver = IOE_DRIVER_AUTO; driver <= IOE_DRIVER_POOL; driver++)
        ioe_probe(driver);
    size_t before = count_descriptors();
    for (int driver = IOE_DRIVER_AUTO; driver <= IOE_DRIVER_POOL; driver++)
        for (int i = 0; i < 10; i++)
            ioe_probe(driver);
    assert_int_equal(count_descriptors(), before);
    await_no_threads();
}

/* The pool has no ring for a flag of rings: creation is refused, and that is worth a message. */
static void refuse_a_context(void)
{
    ioe_config cfg;
    ioe_context *ctx = NULL;
    assert_int_equal(ioe_config_init(&cfg, sizeof cfg), 0);
    cfg.driver = IOE_DRIVER_POOL;
    cfg.flags = IOE_SQPOLL;
    assert_int_equal(ioe_context_new(&cfg, &ctx), -EINVAL);
    assert_null(ctx);
}

static int log_off(void **state)
{
    (void)state;
    ioe_set_log(NULL, NULL, IOE_LOG_OFF);
    return 0;
}

static void log_tells_of_a_refused_context(void **state)
{
    (void)state;
    static log_lines log = LOG_LINES_INIT;
    ioe_set_log(keep_line, &log, IOE_LOG_DEBUG);
    refuse_a_context();
    assert_in_range(log.count, 1, COUNT_OF(log.levels));
    for (size_t i = 0; i < log.count; i++) {
        assert_in_range(log.levels[i], IOE_LOG_ERROR, IOE_LOG_DEBUG);
        assert_true(strlen(log.texts[i]) > 0);
    }
    assert_int_equal(count_lines(&log, IOE_LOG_ERROR, ""), 1);
}

static void log_stays_within_its_level(void **state)
{
    (void)state;
    static log_lines log = LOG_LINES_INIT;
    for (int level = IOE_LOG_OFF; level <= IOE_LOG_DEBUG; level++) {
        log.count = 0;
        ioe_set_log(keep_line, &log, level);
        refuse_a_context();
        ioe_context_free(new_context(&deliveries[2], 8, 8));
        assert_true(log.count <= COUNT_OF(log.levels));
        for (size_t i = 0; i < log.count; i++)
            assert_in_range(log.levels[i], IOE_LOG_ERROR, level);
        assert_int_equal(log.count == 0, level == IOE_LOG_OFF);
    }
}

static void log_of_null_is_silent(void **state)
{
    (void)state;
    static log_lines log = LOG_LINES_INIT;
    ioe_set_log(keep_line, &log, IOE_LOG_DEBUG);
    ioe_set_log(NULL, &log, IOE_LOG_DEBUG);
    refuse_a_context();
    assert_int_equal(log.count, 0);
}

static void log_goes_to_the_newest_argument(void **state)
{
    (void)state;
    static log_lines first = LOG_LINES_INIT, second = LOG_LINES_INIT;
    ioe_set_log(keep_line, &first, IOE_LOG_DEBUG);
    ioe_set_log(keep_line, &second, IOE_LOG_DEBUG);
    refuse_a_context();
    assert_int_equal(first.count, 0);
    assert_true(second.count > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_is_the_macros),
        cmocka_unit_test(strerror_names_every_errno),
        cmocka_unit_test(strerror_answers_any_number),
        cmocka_unit_test(strerror_is_thread_safe),
        cmocka_unit_test(drivers_have_names),
        cmocka_unit_test(probe_agrees_with_creation),
        cmocka_unit_test(probe_refuses_what_is_not_there),
        cmocka_unit_test(probe_leaves_nothing_behind),
        cmocka_unit_test_teardown(log_tells_of_a_refused_context, log_off),
        cmocka_unit_test_teardown(log_stays_within_its_level, log_off),
        cmocka_unit_test_teardown(log_of_null_is_silent, log_off),
        cmocka_unit_test_teardown(log_goes_to_the_newest_argument, log_off),
    };
    return RUN_TESTS(tests);
}
