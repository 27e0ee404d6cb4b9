/*
 * What a test and faultfs share: a file of this one struct, mapped by both. The test writes which requests
 * are to fail or to stay; faultfs counts them, and notes the last read of each kind of file.
 */
#ifndef IOE_C_TESTS_FAULTFS_H
#define IOE_C_TESTS_FAULTFS_H

#include <stdint.h>

enum { FAULT_READ = 1, FAULT_WRITE = 2, FAULT_SYNC = 4 };

/* Files as RocksDB names them; IMAGE is the one that a loop device stands on. */
enum { FILE_TABLE = 1, FILE_WAL = 2, FILE_MANIFEST = 4, FILE_IMAGE = 8, FILE_OTHER = 16 };

typedef struct fault_place {
    uint64_t offset, length;
} fault_place;

typedef struct faults {
    uint32_t actions;     /* FAULT_*; 0: all is well. Written last */
    uint32_t files;       /* FILE_* */
    uint32_t let_through; /* so many requests first */
    int32_t error;        /* an errno; 0: they stay while `hold` is 1 */
    uint64_t from, to;    /* requests that touch these bytes; of syncs, all */
    uint32_t hold;        /* a futex */
    uint32_t hits;        /* requests that failed or stayed */
    uint32_t answered;    /* of those that stayed */
    uint32_t reserved;
    fault_place last_read[FILE_OTHER + 1]; /* by FILE_* */
} faults;

#endif
