/*
 * Promise: an iterator with async_io may be destroyed while its read ahead is under way. What the engine has
 * not given to the kernel is cancelled, also where the disk does not answer; of the rest the memory stays
 * until the kernel is done with it.
 *
 *    stuck DIRECTORY FAULTS URI...
 *
 * DIRECTORY is of faultfs, and FAULTS its file. To be built with AddressSanitizer, which keeps freed memory
 * aside and, told so, fills it: what the kernel still writes to it is seen. TAP on stdout.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <rocksdb/env.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <mutex>
#include <thread>
#include <vector>

#include "faultfs.h"
#include "under_test.h"

using namespace rocksdb;

#define FREED_BYTE 90
#define TEXT_OF(x) #x
#define OPTION(name, value) name "=" TEXT_OF(value)

/* Of the sanitizer's runtime; its headers are not everywhere. */
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                                         void (*on_free)(const volatile void *));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void *memory);

/* So that all of a buffer is filled when it is freed. */
extern "C" const char *__asan_default_options();
extern "C" const char *__asan_default_options()
{
    return "max_free_fill_size=1048576:" OPTION("free_fill_byte", FREED_BYTE);
}

namespace {

constexpr unsigned TIME_LIMIT_S = 120; /* of a test, against hanging */
constexpr unsigned KEYS = 2000, FILES = 4, READAHEAD = 65536;
/* The iterator's own first read of a file ends before, its read ahead after that. */
constexpr uint64_t HELD_FROM = READAHEAD / 2 + 8192;
/* A buffer is no smaller. */
constexpr size_t LEAST = 4096;
/* At the beginning of what is freed: by whom. */
constexpr size_t NOTES_OF_ASAN = 16;

std::string directory;
faults *faulty;
unsigned count, failed;

/* ---- what is freed while the disk holds a read */

struct block {
    const volatile unsigned char *begin;
    size_t size;
};

constexpr size_t MAX_BLOCKS = 65536;
block blocks[MAX_BLOCKS];
std::atomic<size_t> block_count;
std::atomic<bool> noting;

void on_free(const volatile void *memory)
{
    if (!noting || memory == nullptr)
        return;
    const size_t size = __sanitizer_get_allocated_size(memory);
    if (size < LEAST)
        return;
    const size_t i = block_count++;
    if (i < MAX_BLOCKS)
        blocks[i] = {static_cast<const volatile unsigned char *>(memory), size};
}

void on_malloc(const volatile void *, size_t) {}

/* It reads freed memory. */
__attribute__((no_sanitize("address"))) bool is_untouched(const block &b)
{
    for (size_t i = NOTES_OF_ASAN; i < b.size; i++)
        if (b.begin[i] != FREED_BYTE)
            return false;
    return true;
}

void check_blocks()
{
    noting = false;
    need(block_count <= MAX_BLOCKS, "too much is freed");
    for (size_t i = 0; i < block_count; i++)
        need(is_untouched(blocks[i]), "memory was written to after it was freed: %zu bytes", blocks[i].size);
}

/* ---- the disk */

void hold()
{
    __atomic_store_n(&faulty->actions, 0, __ATOMIC_SEQ_CST);
    faulty->files = FILE_TABLE;
    faulty->error = 0;
    faulty->let_through = 0;
    faulty->from = HELD_FROM;
    faulty->to = UINT64_MAX;
    faulty->hits = 0;
    faulty->answered = 0;
    faulty->hold = 1;
    __atomic_store_n(&faulty->actions, FAULT_READ, __ATOMIC_SEQ_CST);
}

void let_go()
{
    __atomic_store_n(&faulty->actions, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&faulty->hold, 0, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &faulty->hold, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

unsigned held()
{
    return __atomic_load_n(&faulty->hits, __ATOMIC_SEQ_CST);
}

unsigned answered()
{
    return __atomic_load_n(&faulty->answered, __ATOMIC_SEQ_CST);
}

void await_held(unsigned how_many)
{
    while (held() < how_many)
        std::this_thread::yield();
}

/* ---- a thread that waits */

/* It is in the kernel, in futex(2). */
bool waits(pid_t thread)
{
    char path[64], text[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)thread);
    FILE *file = fopen(path, "re");
    if (file == nullptr)
        return false;
    const bool read = fgets(text, sizeof text, file) != nullptr;
    fclose(file);
    return read && strtol(text, nullptr, 10) == SYS_futex;
}

/* Tells that AbortIO was called, and passes all on. */
class abort_noting : public FileSystemWrapper {
public:
    explicit abort_noting(const std::shared_ptr<FileSystem> &target) : FileSystemWrapper(target) {}
    const char *Name() const override { return "abort_noting"; }

    IOStatus AbortIO(std::vector<void *> &handles) override
    {
        aborts += (unsigned)handles.size();
        return FileSystemWrapper::AbortIO(handles);
    }

    std::atomic<unsigned> aborts{0};
};

/* ---- the DB */

struct test_db {
    std::shared_ptr<abort_noting> fs;
    std::unique_ptr<Env> env;
    Options options;
    DB *db = nullptr;
    ReadOptions read;

    test_db(const std::string &uri, bool direct)
    {
        fs = std::make_shared<abort_noting>(file_system(uri));
        env = NewCompositeEnv(fs);
        options = plain_options(env.get());
        options.use_direct_reads = direct;
        read.async_io = true;
        read.readahead_size = READAHEAD;
        need_ok(DestroyDB(directory, Options()), "DestroyDB");
        need_ok(DB::Open(options, directory, &db), "Open");
        /* Files that have all keys of one remainder. */
        for (unsigned file = 0; file < FILES; file++) {
            for (unsigned i = file; i < KEYS; i += FILES)
                need_ok(db->Put({}, key(i), value(i)), "Put");
            need_ok(db->Flush({}), "Flush");
        }
    }

    ~test_db() { delete db; }

    static std::string key(unsigned i) { return std::to_string(1000000 + i); }
    static std::string value(unsigned i) { return std::string(1000, (char)('a' + i % 26)); }

    /* One that has read its beginnings, and reads ahead. */
    std::unique_ptr<Iterator> iterator()
    {
        std::unique_ptr<Iterator> it(db->NewIterator(read));
        it->SeekToFirst();
        need(it->Valid() && it->key() == key(0), "SeekToFirst: %s", it->status().ToString().c_str());
        return it;
    }

    void check_scan()
    {
        std::unique_ptr<Iterator> it(db->NewIterator(read));
        unsigned i = 0;
        for (it->SeekToFirst(); it->Valid(); it->Next(), i++)
            need(it->key() == key(i) && it->value() == value(i), "key %u is wrong", i);
        need_ok(it->status(), "an iterator");
        need(i == KEYS, "%u keys are there", i);
    }
};

/* ---- the tests */

/* Its memory is the kernel's until the disk has answered. */
void destroyed_while_stuck(const std::string &uri, bool direct)
{
    {
        test_db t(uri, direct);
        t.check_scan();
        const unsigned aborts = t.fs->aborts;
        block_count = 0;
        hold();
        std::unique_ptr<Iterator> it = t.iterator();
        await_held(FILES);
        noting = true;
        std::atomic<pid_t> thread{0};
        std::atomic<bool> gone{false};
        std::thread destroyer([&] {
            thread = gettid();
            it.reset();
            gone = true;
        });
        /* Until it has gone as far as it goes. */
        while (!gone && !(t.fs->aborts > aborts && waits(thread)))
            std::this_thread::yield();
        const unsigned early = answered();
        let_go();
        destroyer.join();
        need(early == 0, "the disk has answered too early for this test");
        need(t.fs->aborts == aborts + FILES, "%u reads were aborted", t.fs->aborts - aborts);
        t.check_scan();
    }
    /* Here the engine is done with all. */
    check_blocks();
}

/* Of two the second is not in the kernel yet. */
void cancelled_while_stuck(const std::string &uri)
{
    test_db t(uri + "&depth=1", false);
    hold();
    std::unique_ptr<Iterator> first = t.iterator();
    await_held(1);
    std::unique_ptr<Iterator> second = t.iterator();
    const unsigned aborts = t.fs->aborts;
    second.reset();
    const bool fine = held() == 1 && answered() == 0;
    let_go();
    need(fine && t.fs->aborts > aborts, "it waits for the disk");
    first.reset();
    t.check_scan();
}

template <typename F> void test(const std::string &uri, const char *name, F run)
{
    std::string why;
    alarm(TIME_LIMIT_S);
    try {
        run();
    } catch (const broken &what) {
        why = what.what();
    }
    let_go();
    printf("%sok %u - %s: %s\n", why.empty() ? "" : "not ", ++count, uri.c_str(), name);
    if (!why.empty())
        printf("# %s\n", why.c_str());
    fflush(stdout);
    failed += !why.empty();
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: stuck DIRECTORY FAULTS URI...\n");
        return 2;
    }
    directory = std::string(argv[1]) + "/stuck";
    const int fd = open(argv[2], O_RDWR | O_CLOEXEC);
    void *memory = mmap(nullptr, sizeof *faulty, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED || __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) == 0) {
        perror(argv[2]);
        return 2;
    }
    faulty = static_cast<faults *>(memory);
    for (int i = 3; i < argc; i++) {
        const std::string uri = argv[i];
        test(uri, "an iterator is destroyed while the disk does not answer",
             [&] { destroyed_while_stuck(uri, false); });
        test(uri, "an iterator is destroyed while the disk does not answer, O_DIRECT",
             [&] { destroyed_while_stuck(uri, true); });
        test(uri, "a read ahead that the kernel does not have is cancelled",
             [&] { cancelled_while_stuck(uri); });
    }
    printf("1..%u\n", count);
    return failed > 0;
}
