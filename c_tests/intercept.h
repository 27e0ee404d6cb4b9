/*
 * A program between the library and the kernel. The library makes the system calls of io_uring and
 * Linux AIO through syscall(2) of the C library; the one below stands in front of it, and asks the
 * program first.
 */
#ifndef IOE_C_TESTS_INTERCEPT_H
#define IOE_C_TESTS_INTERCEPT_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "common.h"

/* IORING_OP_FTRUNCATE, of Linux 6.9: the headers may be older. */
enum { RING_FTRUNCATE = 55 };

/* Defined by the program. True where it answers the call itself: *result is then what the kernel
 * would say, a negated errno for a failure. False: the kernel is asked, with the arguments as they
 * are now. */
static bool answer_call(long number, long a[6], long *result);

/* What the kernel says, a negated errno for a failure. */
static inline long ask_kernel(long number, const long a[6])
{
    static long (*next)(long, ...);
    if (next == NULL)
        *(void **)&next = dlsym(RTLD_NEXT, "syscall");
    long result = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return result == -1 ? -errno : result;
}

/* Six arguments are passed on, however many there are: what the C library's own does. */
__attribute__((no_sanitize_address)) long syscall(long number, ...)
{
    va_list list;
    long a[6];
    long result = 0;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    int before = errno;
    if (!answer_call(number, a, &result))
        result = ask_kernel(number, a);
    errno = before;
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

/* Takes one of a number of occasions; false where none is left. */
static inline bool take_one(atomic_uint *left)
{
    unsigned now = atomic_load(left);
    while (now > 0)
        if (atomic_compare_exchange_weak(left, &now, now - 1))
            return true;
    return false;
}

#endif
