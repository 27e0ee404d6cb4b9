/*
 * peer_reference.c: the same transfers by the Rust crate io-engine 0.12 with its MergeSubmitter, in
 * a program of its own: bench/reference. That is told through a socket how many to do, and answers
 * when they are done; its CPU time is read from its clock. File, blocks, depth and limit are those
 * of the other sides. Beside depth merged operations it may have as many again in its channel.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <io_engine.h>

enum { CHILD_FILE = 3 }; /* its descriptor of the file */

struct reference_side {
    struct progress progress;
    pid_t pid;
    clockid_t cpu_clock;
    uint64_t cpu_ns, cpu_ns_before;
    int socket;
    FILE *answers;
};

static void reference_free(void *self)
{
    struct reference_side *s = self;

    if (s->answers)
        fclose(s->answers); /* the program ends */
    else if (s->socket >= 0)
        close(s->socket);
    if (s->pid > 0)
        waitpid(s->pid, NULL, 0);
    free(s);
}

/* Built by cargo next to the directory of this program. */
static int find_program(char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 1);

    if (n < 0)
        return errno;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    size_t left = size - (size_t)(slash - path);
    if (snprintf(slash, left, "/../reference/release/reference") >= (int)left)
        return ENAMETOOLONG;
    return access(path, X_OK) < 0 ? errno : 0;
}

/* Its standard input and output are the socket's other end. */
static int start(struct reference_side *s, char *path, int other_end)
{
    const struct work *w = s->progress.work;
    char numbers[5][24];
    char *argv[] = {path,
                    (char *)ioe_driver_name(w->driver),
                    w->writes != 0 ? "write" : "read",
                    numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], NULL};
    const uint64_t values[] = {w->block, w->blocks, w->depth, w->queue, w->merge_limit};
    posix_spawn_file_actions_t actions;

    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        snprintf(numbers[i], sizeof numbers[i], "%" PRIu64, values[i]);
    int err = posix_spawn_file_actions_init(&actions);
    if (err != 0)
        return err;
    err = posix_spawn_file_actions_adddup2(&actions, other_end, STDIN_FILENO);
    if (err == 0)
        err = posix_spawn_file_actions_adddup2(&actions, other_end, STDOUT_FILENO);
    if (err == 0)
        err = posix_spawn_file_actions_adddup2(&actions, w->fd, CHILD_FILE);
    if (err == 0)
        err = posix_spawn(&s->pid, path, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return err == 0 ? clock_getcpuclockid(s->pid, &s->cpu_clock) : err;
}

static int reference_run(void *self, uint64_t count)
{
    struct reference_side *s = self;
    char line[64];
    uint64_t wrong;
    int n = snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 "\n", count,
                     s->progress.work->generation);

    if (send(s->socket, line, (size_t)n, MSG_NOSIGNAL) != n)
        return -EPIPE;
    if (!fgets(line, sizeof line, s->answers) || sscanf(line, "%" SCNu64, &wrong) != 1)
        return -EPIPE;
    s->cpu_ns_before = s->cpu_ns;
    s->cpu_ns = clock_ns(s->cpu_clock);
    s->progress.issued += count;
    atomic_fetch_add(&s->progress.wrong, wrong);
    return 0;
}

static void *reference_open(const struct work *work)
{
    struct reference_side *s = side_new(sizeof *s);
    char path[PATH_MAX];
    int ends[2];

    if (!s)
        return NULL;
    progress_init(&s->progress, work, 0);
    s->socket = -1;
    int err = find_program(path, sizeof path);
    if (err == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        err = errno;
    if (err == 0) {
        s->socket = ends[0];
        s->answers = fdopen(ends[0], "r");
        err = s->answers ? start(s, path, ends[1]) : errno;
        close(ends[1]);
    }
    /* It says by an answer that it has been set up. */
    if (err == 0 && reference_run(s, 0) < 0)
        err = EOPNOTSUPP; /* and has said why */
    if (err != 0) {
        fprintf(stderr, "bench: the program of bench/reference cannot be set up: %s\n",
                strerror(err));
        reference_free(s);
        return NULL;
    }
    return s;
}

static void reference_amend(void *self, struct measure *measure)
{
    struct reference_side *s = self;

    measure->user_ns = s->cpu_ns - s->cpu_ns_before;
    measure->system_ns = 0; /* among the former */
}

static struct progress *reference_progress(void *self, uint32_t thread)
{
    return thread == 0 ? &((struct reference_side *)self)->progress : NULL;
}

const struct side peer_reference = {
    .name = "reference",
    .what = "the crate io-engine 0.12, its MergeSubmitter (bench/reference)",
    .open = reference_open,
    .run = reference_run,
    .amend = reference_amend,
    .progress = reference_progress,
    .close = reference_free,
};
