/*
 * What the tests of the RocksDB file system share beside under_test.h: TAP without cmocka, whose assertions
 * leave by longjmp and so skip destructors.
 *
 * Each program is called with a URI and a directory that is empty. The URI `posix` is RocksDB's own file
 * system: with it every test must pass too, which shows that it asks for what RocksDB expects.
 */
#ifndef IOE_C_TESTS_ROCKSDB_COMMON_H
#define IOE_C_TESTS_ROCKSDB_COMMON_H

#include <fnmatch.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "rocksdb/convenience.h"
#include "rocksdb/env.h"

#include "under_test.h"

/* A test that hangs is ended by SIGALRM after this many seconds. */
#ifndef TEST_TIME_LIMIT
#define TEST_TIME_LIMIT 110
#endif

#define FAIL(format, ...) need(false, "%s:%d: " format, __FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition) ((condition) ? (void)0 : FAIL("%s", #condition))

/* Takes a Status or an IOStatus. */
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        const auto &status_ = (call);                                                              \
        if (!status_.ok())                                                                         \
            FAIL("%s: %s", #call, status_.ToString().c_str());                                     \
    } while (0)

/* Takes integers. */
#define CHECK_EQ(left, right)                                                                      \
    do {                                                                                           \
        const long long left_ = (long long)(left), right_ = (long long)(right);                    \
        if (left_ != right_)                                                                       \
            FAIL("%s is %lld, not %lld", #left, left_, right_);                                    \
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
                } catch (const broken &) {
                    std::lock_guard<std::mutex> lock(mutex);
                    thrown = std::current_exception();
                }
            });
    }

    void join()
    {
        join_all();
        if (thrown)
            std::rethrow_exception(thrown);
    }

    ~crew() { join_all(); }

  private:
    void join_all()
    {
        for (std::thread &thread : threads)
            if (thread.joinable())
                thread.join();
    }

    std::mutex mutex;
    std::exception_ptr thrown;
    std::vector<std::thread> threads;
};

inline std::string tested_uri;
inline std::string directory;
inline uint64_t seed;

inline bool is_posix() { return is_posix(tested_uri); }

inline std::shared_ptr<rocksdb::FileSystem> file_system() { return file_system(tested_uri); }

/* The tested URI with one more option; RocksDB's own file system knows none. */
inline std::string uri_with(const std::string &option)
{
    if (option.empty() || is_posix())
        return tested_uri;
    return tested_uri + (tested_uri.find('?') == std::string::npos ? "?" : "&") + option;
}

/* Random, and the same for one seed. */
class randomness : public random_numbers {
  public:
    explicit randomness(uint64_t stream) : random_numbers(seed * 1000003 + stream) {}
    bool one_in(uint64_t n) { return below(n) == 0; }

    std::string bytes(size_t len)
    {
        std::string text(len, '\0');
        uint64_t word = below(UINT64_MAX);
        for (size_t i = 0; i < len; i++) {
            text[i] = (char)(word >> (i % 8 * 8));
            if (i % 8 == 7)
                word = word * 6364136223846793005u + 1442695040888963407u;
        }
        return text;
    }
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
        } catch (const broken &what) {
            printf("# %s\n", what.what());
        }
        all = all && passed;
        printf("%s %u - %s\n", passed ? "ok" : "not ok", ++count, t.name);
    }
    printf("1..%u\n", count);
    return all ? 0 : 1;
}

#endif
