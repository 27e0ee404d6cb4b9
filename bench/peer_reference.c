/*
 * peer_reference.c: the same transfers by the Rust crate io-engine 0.12, in a program of its own:
 * bench/reference, which says how. That is told through a socket how many to do, and answers when
 * they are done with what they cost. File, blocks, depth, queue and limit are those of the other
 * sides. What its channel holds and the depth make the queue together, so that as much is accepted
 * as by the engine; on io_uring it does not hold to the depth, and may have all of it in the
 * kernel.
 *
 * Its author publishes no figures. Set up in this way it does 0.9 million cached 4 KiB reads a
 * second, where liburing by hand did 0.98.
 */
#include "transfer.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <io_engine.h>

enum { CHILD_FILE = 3 }; /* its descriptor of the file */

/* Which of its programs. */
struct program {
    uint32_t workers;
    bool merges, loops;
};

struct reference_side {
    struct progress progress[MAX_SUBMITTERS]; /* the first has the latencies of all */
    const struct work *work;
    const struct program *program;
    pid_t pid;
    int socket;
    FILE *answers;
    uint64_t user_ns, system_ns; /* of the last run */
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
    const struct work *w = s->work;
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"writes", w->writes},
        {"sequential", w->sequential},
        {"block", w->block},
        {"blocks", w->blocks},
        {"depth", w->depth},
        {"queue", w->queue},
        {"batch", w->batch},
        {"limit", s->program->merges ? w->merge_limit : 0},
        {"threads", w->threads},
        {"seed", w->seed},
        {"latency_every", w->latency_every},
        {"max_latencies", s->progress[0].room},
        {"workers", s->program->workers},
        {"loop", s->program->loops},
    };
    enum { N = sizeof numbers / sizeof *numbers, LEN = 48 };
    char arguments[N + 1][LEN], *argv[N + 3] = {path};
    posix_spawn_file_actions_t actions;

    snprintf(arguments[N], LEN, "driver=%s", ioe_driver_name(w->driver));
    for (size_t i = 0; i < N; i++)
        snprintf(arguments[i], LEN, "%s=%" PRIu64, numbers[i].name, numbers[i].value);
    for (size_t i = 0; i <= N; i++)
        argv[i + 1] = arguments[i];
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
    return err;
}

static int reference_run(void *self, uint64_t count)
{
    struct reference_side *s = self;
    struct progress *p = s->progress;
    char line[128];
    uint64_t wrong, timed;
    int n = snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 "\n", count, s->work->generation);

    if (send(s->socket, line, (size_t)n, MSG_NOSIGNAL) != n)
        return -EPIPE;
    if (!fgets(line, sizeof line, s->answers) ||
        sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &wrong, &s->user_ns,
               &s->system_ns, &timed) != 4)
        return -EPIPE;
    if (timed > 0 && (timed > p->room ||
                      fread(p->latencies, sizeof *p->latencies, timed, s->answers) != timed))
        return -EPIPE;
    atomic_store(&p->timed, timed);
    for (uint32_t i = 0; i < s->work->threads; i++)
        s->progress[i].issued += count_of(count, s->work, i);
    atomic_fetch_add(&p->wrong, wrong);
    return 0;
}

static void *reference_open(const struct work *work, const struct program *program)
{
    struct reference_side *s = side_new(sizeof *s);
    char path[PATH_MAX];
    int ends[2];

    if (!s)
        return NULL;
    s->work = work;
    for (uint32_t i = 0; i < work->threads; i++)
        progress_init(&s->progress[i], work, i);
    s->progress[0].room = work->max_latencies;
    s->program = program;
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
    const struct reference_side *s = self;

    measure->user_ns = s->user_ns;
    measure->system_ns = s->system_ns;
}

static struct progress *reference_progress(void *self, uint32_t thread)
{
    struct reference_side *s = self;

    return thread < s->work->threads ? &s->progress[thread] : NULL;
}

#define REFERENCE_SIDE(id, side_name, side_what, threads, ...)                                     \
    static void *id##_open(const struct work *work)                                                \
    {                                                                                              \
        static const struct program program = {__VA_ARGS__};                                       \
                                                                                                   \
        return reference_open(work, &program);                                                     \
    }                                                                                              \
    const struct side id = {.name = side_name,                                                     \
                              .what = "the crate io-engine 0.12" side_what,                        \
                              .max_threads = threads,                                              \
                              .open = id##_open,                                                   \
                              .run = reference_run,                                                \
                              .amend = reference_amend,                                            \
                              .progress = reference_progress,                                      \
                              .close = reference_free}
REFERENCE_SIDE(peer_reference, "reference", ", its MergeSubmitter", 1, .merges = true);
REFERENCE_SIDE(peer_reference_producer, "reference-producer", ": other threads submit one by one",
               MAX_SUBMITTERS, .workers = 0);
REFERENCE_SIDE(peer_reference_inline, "reference-inline", ": callbacks submit again", 1,
               .loops = true);
REFERENCE_SIDE(peer_reference_worker, "reference-worker1", ": callbacks on one thread",
               MAX_SUBMITTERS, .workers = 1);
REFERENCE_SIDE(peer_reference_workers, "reference-workers2", ": callbacks on two threads",
               MAX_SUBMITTERS, .workers = 2);
