/* What a URI asks for. */
#ifndef IOE_ROCKSDB_SETTINGS_H
#define IOE_ROCKSDB_SETTINGS_H

#include <io_engine.hpp>
#include <string>

namespace ioe_rocksdb {

struct Settings {
    ioe::config config;
    bool direct = false;
    bool stats = false;

    Settings() noexcept
    {
        /* The callbacks here only wake who waits: no thread of their own is needed. */
        config.workers = 0;
        config.merge_limit = 128 << 10;
    }
};

/** What is wrong with the URI, as a sentence; empty where nothing is. */
std::string Parse(const std::string &uri, Settings *settings);

} // namespace ioe_rocksdb

#endif
