/*
 * What the tests of the RocksDB file system share: TAP without cmocka, whose assertions leave by longjmp
 * and so skip destructors; the file systems; a random generator.
 *
 * Each program is called with a URI and a directory that is empty. The URI `posix` is RocksDB's own file
 * system: with it every test must pass too, which shows that it asks for what RocksDB expects.
 */
#ifndef IOE_C_TESTS_ROCKSDB_COMMON_H
#define IOE_C_TESTS_ROCKSDB_COMMON_H

#include <fnmatch.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rocksdb/convenience.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"

#include "ioe_file_system.h"

/* A test that hangs is ended by SIGALRM after this many seconds. */
#ifndef TEST_TIME_LIMIT
#define TEST_TIME_LIMIT 110
#endif

/* Thrown by a check that fails, in any thread of a crew. */
struct failure {};

inline std::mutex printing;

[[noreturn]] inline void fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

[[noreturn]] inline void fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    {
        std::lock_guard<std::mutex> lock(printing);
        printf("# %s:%d: ", file, line);
        vprintf(format, args);
        printf("\n");
    }
    va_end(args);
    throw failure();
}

#define CHECK(condition) ((condition) ? (void)0 : fail(__FILE__, __LINE__, "%s", #condition))

/* Takes a Status or an IOStatus. */
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        const auto &status_ = (call);                                                              \
        if (!status_.ok())                                                                         \
            fail(__FILE__, __LINE__, "%s: %s", #call, status_.ToString().c_str());                 \
    } while (0)

/* Takes integers. */
#define CHECK_EQ(left, right)                                                                      \
    do {                                                                                           \
        const long long left_ = (long long)(left), right_ = (long long)(right);                    \
        if (left_ != right_)                                                                       \
            fail(__FILE__, __LINE__, "%s is %lld, not %lld", #left, left_, right_);                \
    } while (0)

/* Threads, each with its number; what one of them throws arrives at the join. */
class crew {
  public:
    template <class Body> crew(unsigned count, Body body)
    {
        for (unsigned i = 0; i < count; i++)
            threads.emplace_back([this, body, i] {
                try {
                    body(i);
                } catch (const failure &) {
                    failed = true;
                }
            });
    }

    void join()
    {
        join_all();
        if (failed)
            throw failure();
    }

    ~crew() { join_all(); }

  private:
    void join_all()
    {
        for (std::thread &thread : threads)
            if (thread.joinable())
                thread.join();
    }

    std::atomic<bool> failed{false};
    std::vector<std::thread> threads;
};

inline std::string tested_uri;
inline std::string directory;
inline uint64_t seed;

inline bool is_posix() { return tested_uri == "posix"; }

/* The tested URI with one more option; RocksDB's own file system knows none. */
inline std::string uri_with(const std::string &option)
{
    if (option.empty() || is_posix())
        return tested_uri;
    return tested_uri + (tested_uri.find('?') == std::string::npos ? "?" : "&") + option;
}

inline std::shared_ptr<rocksdb::FileSystem> file_system(const std::string &uri = tested_uri)
{
    std::shared_ptr<rocksdb::FileSystem> fs;
    if (uri == "posix")
        return rocksdb::FileSystem::Default();
    CHECK_OK(NewIoeFileSystem(uri, &fs));
    CHECK(fs != nullptr);
    return fs;
}

/* Random, and the same for one seed. */
class randomness {
  public:
    explicit randomness(uint64_t stream) : generator(seed * 1000003 + stream) {}
    uint64_t below(uint64_t limit) { return generator() % limit; }
    bool one_in(uint64_t n) { return below(n) == 0; }

    std::string bytes(size_t len)
    {
        std::string text(len, '\0');
        uint64_t word = generator();
        for (size_t i = 0; i < len; i++) {
            text[i] = (char)(word >> (i % 8 * 8));
            if (i % 8 == 7)
                word = word * 6364136223846793005u + 1442695040888963407u;
        }
        return text;
    }

  private:
    std::mt19937_64 generator;
};

struct test {
    const char *name;
    std::function<void()> body;
};

/* The value is main's. SEED= repeats a run, IOE_TEST_ONLY= takes one test, or several by * and ?. */
inline int run_tests(int argc, char **argv, const std::vector<test> &tests)
{
    setvbuf(stdout, nullptr, _IOLBF, 0);
    if (argc != 3) {
        fprintf(stderr, "usage: %s URI DIRECTORY\n", argv[0]);
        return 2;
    }
    tested_uri = argv[1];
    directory = argv[2];
    const char *text = getenv("SEED");
    seed = text != nullptr ? strtoull(text, nullptr, 10) : std::random_device()();
    const char *only = getenv("IOE_TEST_ONLY");
    printf("# %s, SEED=%llu\n", tested_uri.c_str(), (unsigned long long)seed);
    alarm(TEST_TIME_LIMIT);
    unsigned count = 0;
    bool all = true;
    for (const test &t : tests) {
        if (only != nullptr && fnmatch(only, t.name, 0) != 0)
            continue;
        bool passed = false;
        try {
            t.body();
            passed = true;
        } catch (const failure &) {
        }
        all = all && passed;
        printf("%s %u - %s\n", passed ? "ok" : "not ok", ++count, t.name);
    }
    printf("1..%u\n", count);
    return all ? 0 : 1;
}

#endif
