/* A read that RocksDB does not wait for: what is behind its io_handle. */
#ifndef IOE_ROCKSDB_ASYNC_READ_H
#define IOE_ROCKSDB_ASYNC_READ_H

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <rocksdb/file_system.h>

#include "files.h"

namespace ioe_rocksdb {

/*
 * RocksDB fills its buffers in the callback, without a lock, on the thread that polls or aborts. So the
 * engine only notes here that it is done, and the callback runs when RocksDB asks. Used by one thread at a
 * time.
 *
 * What is in the page cache has no disk to wait for: it is copied at once, and not handed over.
 */
class AsyncRead {
  public:
    using Callback = std::function<void(const rocksdb::FSReadRequest &, void *)>;

    AsyncRead(std::shared_ptr<const Descriptor> file, const rocksdb::FSReadRequest &request,
              Callback callback, void *arg);
    AsyncRead(const AsyncRead &) = delete;
    AsyncRead &operator=(const AsyncRead &) = delete;
    /* Not before the kernel is done with the memory. */
    ~AsyncRead();

    /** Submits it, where it has to wait for the disk; `timeout`: how long, 0: as long as it takes. Once. */
    void Start(std::chrono::microseconds timeout, std::error_code &ec);
    /** Asks for it back, if it is still under way. */
    void Cancel();
    /** Waits for its end, and runs the callback with what came of it, or, `aborted`, with that. Once. An
     * aborted one has its callback, too, as with RocksDB's own file system and against file_system.h:
     * RocksDB's reader frees what it keeps for the read in there. */
    void Finish(bool aborted);

  private:
    bool ReadCached(std::error_code &ec);
    void Done();
    void Wait();

    /* Open as long as the read is under way. */
    const std::shared_ptr<const Descriptor> file_;
    rocksdb::FSReadRequest request_;
    const Callback callback_;
    void *const arg_;
    bool told_ = false;

    std::mutex mutex_;
    std::condition_variable ended_;
    bool under_way_ = false;

    /* What the engine does; none where the page cache had it. */
    std::optional<ioe::event> event_;
};

} // namespace ioe_rocksdb

#endif
