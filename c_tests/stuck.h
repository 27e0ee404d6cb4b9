/*
 * A read that stays until it is let go, the same on every driver: of a pipe with nothing in it. Pipes
 * are not among the files the library promises, but no regular file keeps a read waiting on demand.
 * A ring reads a pipe by itself, plain calls need plain.h for it.
 */
#ifndef IOE_C_TESTS_STUCK_H
#define IOE_C_TESTS_STUCK_H

#include "plain.h"

typedef struct stuck_read {
    int ends[2];
    uint64_t word;
    ioe_event *event;
} stuck_read;

static inline void stuck_prepare(stuck_read *s, ioe_callback callback, void *arg)
{
    assert_int_equal(pipe2(s->ends, O_CLOEXEC), 0);
    s->word = 0;
    s->event = ioe_event_new();
    assert_non_null(s->event);
    assert_int_equal(ioe_prep_read(s->event, s->ends[0], &s->word, sizeof s->word, 0), 0);
    assert_int_equal(ioe_event_set_callback(s->event, callback, arg), 0);
}

static inline bool stuck_let_go(const stuck_read *s)
{
    const uint64_t word = 1;
    return write(s->ends[1], &word, sizeof word) == (ssize_t)sizeof word;
}

static inline void stuck_free(stuck_read *s)
{
    assert_int_equal(ioe_event_free(s->event), 0);
    close(s->ends[0]);
    close(s->ends[1]);
}

#endif
