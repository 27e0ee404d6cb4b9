/*
 * What all programs here share: the file system that a URI names, what is said of a test that fails, and
 * random numbers that a seed repeats.
 */
#ifndef IOE_C_TESTS_UNDER_TEST_H
#define IOE_C_TESTS_UNDER_TEST_H

#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/table.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

#include "ioe_file_system.h"

/* A promise that is not kept: what was seen. */
struct broken : std::runtime_error {
    using std::runtime_error::runtime_error;
};

__attribute__((format(printf, 2, 3))) inline void need(bool fine, const char *format, ...)
{
    if (fine)
        return;
    char text[4096];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    throw broken(text);
}

inline void need_ok(const rocksdb::Status &status, const char *what)
{
    need(status.ok(), "%s: %s", what, status.ToString().c_str());
}

/* "posix" is RocksDB's own: the control of each test. */
inline bool is_posix(const std::string &uri)
{
    return uri == "posix";
}

inline std::shared_ptr<rocksdb::FileSystem> file_system(const std::string &uri)
{
    std::shared_ptr<rocksdb::FileSystem> fs = rocksdb::FileSystem::Default();
    if (!is_posix(uri))
        need_ok(NewIoeFileSystem(uri, &fs), uri.c_str());
    return fs;
}

/* What is read comes from the files: no cache, no compression. Compactions come when they are asked for. */
inline rocksdb::Options plain_options(rocksdb::Env *env)
{
    rocksdb::BlockBasedTableOptions table;
    table.no_block_cache = true;
    rocksdb::Options options;
    options.env = env;
    options.create_if_missing = true;
    options.disable_auto_compactions = true;
    options.compression = rocksdb::kNoCompression;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    return options;
}

class random_numbers {
public:
    explicit random_numbers(uint64_t seed) : state_(seed) {}

    /* splitmix64 */
    uint64_t below(uint64_t bound)
    {
        uint64_t z = (state_ += UINT64_C(0x9E3779B97F4A7C15));
        z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
        return (z ^ (z >> 31)) % bound;
    }

private:
    uint64_t state_;
};

#endif
