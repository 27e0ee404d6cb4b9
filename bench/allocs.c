/*
 * allocs.c: promises that a program which uses its events again costs no allocation per operation:
 * none at all in many reads after a warm-up, on the caller's threads and on the driver's. TAP on
 * stdout; exits non-zero when a promise is broken. The same where events are merged: sequential
 * reads in batches, through a merger, and one by one. What lists an operation's segments grows with
 * the longest that its slot has held, and the pool starts a thread when more operations wait than
 * ever before. Both have an end, so there is a round in which nothing grows; but not where an
 * operation allocates, if only one in a round. What callback threads allocate is bounded by
 * bench/figures.py.
 *
 * Every allocation of the process, the library's included, comes through the functions below:
 * the program's own malloc is the one the dynamic linker finds first.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { WARM_UP = 50000, READS = 200000, FILE_SIZE = 4 << 20, BLOCK = 4096, DEPTH = 128 };
enum { MERGE_LIMIT = 128 << 10, MERGED_READS = 50000, MOST_ROUNDS = 100 };

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t align, size_t size);
extern void __libc_free(void *p);

static atomic_bool counting;
static _Atomic uint64_t allocated, freed;

static void count(_Atomic uint64_t *counter)
{
    if (atomic_load_explicit(&counting, memory_order_relaxed))
        atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

void *malloc(size_t size)
{
    count(&allocated);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count(&allocated);
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    count(&allocated);
    return __libc_realloc(p, size);
}

void *memalign(size_t align, size_t size)
{
    count(&allocated);
    return __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    return memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size)
{
    void *p = memalign(align, size);

    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

void free(void *p)
{
    if (p)
        count(&freed);
    __libc_free(p);
}

static int test_number;

static void failed(const struct side *side, const char *why)
{
    printf("not ok %d - %s: %s\n", test_number, side->name, why);
}

/* Prints one line of TAP and returns whether the promise was kept. */
static bool check_side(const struct side *side, const struct work *work)
{
    void *self = side->open(work);

    test_number++;
    if (!self) {
        failed(side, "cannot be set up");
        return false;
    }
    uint64_t reads = work->sequential ? MERGED_READS : READS;
    int err = side->run(self, WARM_UP);
    for (int round = 0; err == 0 && round < MOST_ROUNDS; round++) {
        atomic_store(&allocated, 0);
        atomic_store(&freed, 0);
        atomic_store(&counting, true);
        err = side->run(self, reads);
        atomic_store(&counting, false);
        if (atomic_load(&allocated) == 0)
            break;
    }
    const struct progress *progress = side->progress(self, 0);
    uint64_t wrong = atomic_load(&progress->wrong);
    bool merged = side->operations(self) < progress->issued;
    side->close(self);

    uint64_t news = atomic_load(&allocated), frees = atomic_load(&freed);
    bool ok = err == 0 && wrong == 0 && merged == work->sequential && news == 0;
    if (err < 0)
        failed(side, strerror(-err));
    else if (wrong > 0)
        failed(side, "reads failed or brought wrong data");
    else if (merged != work->sequential)
        failed(side, merged ? "something was merged" : "nothing was merged");
    else
        printf("%sok %d - %s: %" PRIu64 " allocations and %" PRIu64 " frees in %" PRIu64
               " reads\n",
               ok ? "" : "not ", test_number, side->name, news, frees, reads);
    return ok;
}

int main(void)
{
    static const struct {
        const struct side *side;
        bool merging;
    } cases[] = {
        {&engine_polled, false},
        {&engine_wait, false},
        {&engine_inline, false},
        {&engine_producer, false},
        {&engine_polled_merging, true},
        {&engine_batches_merging, true},
        {&engine_producer_merging, true},
        {&engine_merger, true},
    };
    enum { N = sizeof cases / sizeof *cases };
    struct bench_file file;
    bool ok = true;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (file_open(&file, NULL, FILE_SIZE, false) < 0) {
        printf("Bail out! no file to read\n");
        return EXIT_FAILURE;
    }
    struct work work = {
        .block = BLOCK,
        .depth = DEPTH,
        .queue = 2 * DEPTH,
        .held = DEPTH,
        .batch = DEPTH / 4,
        .merge_limit = MERGE_LIMIT,
        .threads = 1,
        .reactors = 1,
        .blocks = FILE_SIZE / BLOCK,
        .seed = 1,
        .stride = BLOCK,
    };
    work.buffers = buffers_new(work_buffers(&work), work.stride);
    if (!work.buffers) {
        printf("Bail out! no memory\n");
        return EXIT_FAILURE;
    }
    printf("1..%d\n", (int)N);
    for (size_t i = 0; i < N; i++) {
        work.sequential = cases[i].merging;
        /* Direct where it can be: else the aio driver would hand everything to the pool. */
        work.fd = cases[i].merging && file.direct >= 0 ? file.direct : file.buffered;
        ok &= check_side(cases[i].side, &work);
    }
    free(work.buffers);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
