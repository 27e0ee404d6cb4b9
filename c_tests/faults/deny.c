/*
 * deny: runs a program for which some system calls fail and some limits are low, as a container or
 * an older kernel would have it.
 *
 *     deny [CALL=ERRNO]... [--memlock BYTES] [--nofile N] -- PROGRAM [ARGUMENT]...
 *     deny io_uring_setup=EPERM io_setup=ENOSYS -- make run
 *
 * Needs no root. The filter is classic BPF, installed with prctl(2), and stays with all that the
 * program starts.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCHITECTURE AUDIT_ARCH_RISCV64
#else
#error "deny.c: name the AUDIT_ARCH_ of this machine here"
#endif

enum { EXIT_USAGE = 2, EXIT_CANNOT = 125, MAX_DENIALS = 16 };

typedef struct named {
    const char *name;
    unsigned number;
} named;

static const named calls[] = {
    {"io_uring_setup", SYS_io_uring_setup},
    {"io_uring_enter", SYS_io_uring_enter},
    {"io_uring_register", SYS_io_uring_register},
    {"io_setup", SYS_io_setup},
    {"io_submit", SYS_io_submit},
    {"io_getevents", SYS_io_getevents},
    {"io_pgetevents", SYS_io_pgetevents},
    {"sync_file_range", SYS_sync_file_range},
};

static const named errors[] = {
    {"EPERM", EPERM},   {"ENOSYS", ENOSYS}, {"ENOMEM", ENOMEM},
    {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE}, {"EACCES", EACCES},
};

static void die(int status, const char *what)
{
    if (status == EXIT_USAGE)
        fprintf(stderr,
                "deny: %s\nusage: deny [CALL=ERRNO]... [--memlock BYTES] [--nofile N] -- PROGRAM "
                "[ARGUMENT]...\n",
                what);
    else
        fprintf(stderr, "deny: %s: %s\n", what, strerror(errno));
    exit(status);
}

static unsigned find(const named *list, size_t count, const char *name, size_t len)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i].name) == len && memcmp(list[i].name, name, len) == 0)
            return list[i].number;
    die(EXIT_USAGE, name);
    return 0;
}

/* The call answers the errno; every other goes on to the next filter, or to the kernel. */
static void deny(const char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL)
        die(EXIT_USAGE, text);
    unsigned call = find(calls, COUNT_OF(calls), text, (size_t)(equals - text));
    unsigned error = find(errors, COUNT_OF(errors), equals + 1, strlen(equals + 1));
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT_OF(code), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        die(EXIT_CANNOT, text);
}

static void limit(int resource, const char *text)
{
    struct rlimit value;
    value.rlim_cur = value.rlim_max = text != NULL ? strtoull(text, NULL, 10) : 0;
    /* Root may lock what it likes, unless it loses that right. Others never had it. */
    if (resource == RLIMIT_MEMLOCK && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) != 0 &&
        geteuid() == 0)
        die(EXIT_CANNOT, "CAP_IPC_LOCK");
    if (text == NULL)
        die(EXIT_USAGE, "a limit without its value");
    if (setrlimit(resource, &value) != 0)
        die(EXIT_CANNOT, text);
}

int main(int argc, char **argv)
{
    int i = 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--memlock") == 0)
            limit(RLIMIT_MEMLOCK, argv[++i]);
        else if (strcmp(argv[i], "--nofile") == 0)
            limit(RLIMIT_NOFILE, argv[++i]);
        else
            deny(argv[i]);
    }
    if (i + 1 >= argc)
        die(EXIT_USAGE, "no program");
    execvp(argv[i + 1], argv + i + 1);
    die(EXIT_CANNOT, argv[i + 1]);
}
