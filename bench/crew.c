/*
 * crew.c: the threads of a side.
 */
#include "crew.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void do_task(struct crew *crew, uint32_t thread)
{
    int err = crew->task(crew->arg, thread);

    if (err < 0)
        atomic_store(&crew->error, err);
}

static void *member_main(void *arg)
{
    struct crew_member *me = arg;
    struct crew *crew = me->crew;

    for (;;) {
        pthread_barrier_wait(&crew->gate);
        if (crew->ending)
            return NULL;
        do_task(crew, (uint32_t)(me - crew->members));
        pthread_barrier_wait(&crew->gate);
    }
}

int crew_start(struct crew *crew, uint32_t n)
{
    memset(crew, 0, sizeof *crew);
    crew->members = calloc(n, sizeof *crew->members);
    if (!crew->members)
        return -ENOMEM;
    crew->n = n;
    pthread_barrier_init(&crew->gate, NULL, n);
    for (uint32_t i = 1; i < n; i++) {
        crew->members[i].crew = crew;
        int err = pthread_create(&crew->members[i].thread, NULL, member_main, &crew->members[i]);
        if (err != 0) { /* those before it wait for it: not to be undone */
            fprintf(stderr, "bench: a thread cannot be had: %s\n", strerror(err));
            exit(EXIT_FAILURE);
        }
    }
    return 0;
}

int crew_run(struct crew *crew, crew_task *task, void *arg)
{
    crew->task = task;
    crew->arg = arg;
    atomic_store(&crew->error, 0);
    pthread_barrier_wait(&crew->gate); /* they begin */
    do_task(crew, 0);
    pthread_barrier_wait(&crew->gate); /* they are done */
    return atomic_load(&crew->error);
}

void crew_end(struct crew *crew)
{
    if (crew->n == 0)
        return;
    crew->ending = true;
    pthread_barrier_wait(&crew->gate);
    for (uint32_t i = 1; i < crew->n; i++)
        pthread_join(crew->members[i].thread, NULL);
    pthread_barrier_destroy(&crew->gate);
    free(crew->members);
    crew->n = 0;
}
