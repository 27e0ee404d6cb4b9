/*
 * allocs.c: promises that a program which uses its events again costs no allocation per operation:
 * none at all in 200000 reads after a warm-up, on the caller's threads and on the driver's. TAP on
 * stdout; exits non-zero when a promise is broken. The callback threads' figures are printed for
 * information: their queue takes a block of memory for 31 events.
 *
 * Every allocation of the process, the library's included, comes through the functions below:
 * the program's own malloc is the one the dynamic linker finds first.
 */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { WARM_UP = 50000, READS = 200000, FILE_SIZE = 4 << 20, BLOCK = 4096, DEPTH = 128 };
enum { NONE = 0, ANY = INT_MAX };

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
static bool check_side(const struct side *side, const struct work *work, uint64_t allowed)
{
    void *self = side->open(work);

    test_number++;
    if (!self) {
        failed(side, "cannot be set up");
        return false;
    }
    int err = side->run(self, WARM_UP);
    atomic_store(&allocated, 0);
    atomic_store(&freed, 0);
    atomic_store(&counting, true);
    if (err == 0)
        err = side->run(self, READS);
    atomic_store(&counting, false);
    uint64_t wrong = atomic_load(&side->progress(self)->wrong);
    side->close(self);

    uint64_t news = atomic_load(&allocated), frees = atomic_load(&freed);
    bool ok = err == 0 && wrong == 0 && news <= allowed;
    if (err < 0)
        failed(side, strerror(-err));
    else if (wrong > 0)
        failed(side, "reads failed or brought wrong data");
    else
        printf("%sok %d - %s: %" PRIu64 " allocations and %" PRIu64 " frees in %d reads%s\n",
               ok ? "" : "not ", test_number, side->name, news, frees, READS,
               allowed != ANY ? "" : " (for information)");
    return ok;
}

int main(void)
{
    static const struct {
        const struct side *side;
        uint64_t allowed;
    } cases[] = {
        {&engine_polled, NONE},   {&engine_wait, NONE},      {&engine_inline, NONE},
        {&engine_producer, NONE}, {&engine_one_worker, ANY}, {&engine_two_workers, ANY},
    };
    enum { N = sizeof cases / sizeof *cases };
    struct bench_file file;
    bool ok = true;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (file_open(&file, NULL, FILE_SIZE) < 0) {
        printf("Bail out! no file to read\n");
        return EXIT_FAILURE;
    }
    struct work work = {
        .fd = file.buffered,
        .block = BLOCK,
        .depth = DEPTH,
        .batch = DEPTH / 4,
        .blocks = FILE_SIZE / BLOCK,
        .seed = 1,
        .buffers = buffers_new(work_buffers(DEPTH), BLOCK),
    };
    if (!work.buffers) {
        printf("Bail out! no memory\n");
        return EXIT_FAILURE;
    }
    printf("1..%d\n", (int)N);
    for (size_t i = 0; i < N; i++)
        ok &= check_side(cases[i].side, &work, cases[i].allowed);
    free(work.buffers);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
