/*
 * examples_c/wal.c as it must not be: its syncs are ordinary ones, which may start before the writes
 * that they are to make durable are done. A crash test that finds nothing lost here finds nothing.
 */
#include <io_engine.h>

#define ioe_event_set_flags(event, flags) ((void)(event), (void)(flags), 0)
#include "../../examples_c/wal.c"
