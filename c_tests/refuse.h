/*
 * System calls that fail, as in a container: seccomp(2), for good, in every thread of the process.
 * So it is done in a child, and a test that asserts is not.
 */
#ifndef IOE_C_TESTS_REFUSE_H
#define IOE_C_TESTS_REFUSE_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "common.h"

/* The child could not set up what it wanted to test. */
#define CANNOT 77

/* A system call that fails with an errno: always, or where its first argument is above a bound. */
typedef struct refused_call {
    unsigned number;
    int error;
    uint32_t above;
} refused_call;

static inline bool refuse_calls(const refused_call *calls, size_t count)
{
    enum { MOST = 16, EACH = 5 };
    struct sock_filter code[MOST * EACH + 2];
    size_t at = 0;
    if (count > MOST)
        return false;
#define ADD(...) code[at++] = (struct sock_filter)__VA_ARGS__
    ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    for (size_t i = 0; i < count; i++) {
        const uint32_t answer = SECCOMP_RET_ERRNO | (uint32_t)calls[i].error;
        if (calls[i].above == 0) {
            ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 1));
            ADD(BPF_STMT(BPF_RET | BPF_K, answer));
            continue;
        }
        ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 4));
        ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])));
        ADD(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, calls[i].above, 0, 1));
        ADD(BPF_STMT(BPF_RET | BPF_K, answer));
        ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
#undef ADD
    struct sock_fprog program = {(unsigned short)at, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}

static inline bool refuse(unsigned number, int error)
{
    const refused_call one = {number, error, 0};
    return refuse_calls(&one, 1);
}

/* Runs a case in a child and reports the step that went wrong in there. */
static inline void assert_in_child(int (*body)(void *arg), void *arg)
{
    int step = in_child(body, arg);
    if (step == CANNOT) {
        printf("# the case could not be set up here\n");
        skip();
    }
    assert_int_equal(step, 0);
}

#endif
