/*
 * crew.h: the threads of a side. The caller is the first of them. The others wait at a gate between
 * the runs, so that no thread is started under the clock.
 */
#ifndef CREW_H
#define CREW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int crew_task(void *arg, uint32_t thread);

struct crew_member {
    struct crew *crew;
    pthread_t thread;
};

struct crew {
    uint32_t n; /* 0: not started */
    crew_task *task;
    void *arg;
    bool ending;
    _Atomic(int) error;
    pthread_barrier_t gate;
    struct crew_member *members; /* the first of them is the caller */
};

/* Returns 0 or -ENOMEM. */
int crew_start(struct crew *crew, uint32_t n);
/* Each thread does the task with its number. Returns when all are done: 0, or what one answered. */
int crew_run(struct crew *crew, crew_task *task, void *arg);
/* Fine after a start that failed. */
void crew_end(struct crew *crew);

#ifdef __cplusplus
}
#endif
#endif
