/* RocksDB's files. What they have in common is a descriptor, whose transfers go through the engine. */
#ifndef IOE_ROCKSDB_FILES_H
#define IOE_ROCKSDB_FILES_H

#include <chrono>
#include <memory>
#include <rocksdb/file_system.h>
#include <string>

#include "engine.h"

namespace ioe_rocksdb {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

/* An open file. */
class Descriptor {
  public:
    /* Opened at `path`, with the flags of open(2); messages call it `name`. */
    static IOStatus Open(std::shared_ptr<Engine> engine, const std::string &path, const std::string &name,
                         int flags, const rocksdb::EnvOptions &options, std::unique_ptr<Descriptor> *result);
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    ~Descriptor();

    void PrepareRead(ioe::event &event, const rocksdb::FSReadRequest &request, std::error_code &ec) const;
    /* Does a prepared read with what the page cache has. False where that is not all of it: the event goes on
     * from there, wherever it is submitted. */
    bool ReadCached(ioe::event &event, std::error_code &ec) const;
    /* Answers a request with what came of its event, or with why it was refused. */
    void Answer(rocksdb::FSReadRequest &request, const ioe::event_base &event, std::error_code ec) const;
    IOStatus Read(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result,
                  char *scratch) const;
    IOStatus Write(std::uint64_t offset, const Slice &data) const;
    IOStatus Sync() const;
    IOStatus Fsync() const;
    IOStatus Truncate(std::uint64_t size) const;
    IOStatus Advise(std::uint64_t offset, std::uint64_t len, int advice) const;
    IOStatus Allocate(int mode, std::uint64_t offset, std::uint64_t len) const;
    IOStatus SyncRange(std::uint64_t offset, std::uint64_t len, unsigned flags) const;
    IOStatus Size(std::uint64_t *size) const;
    /* Nothing for a file that is not open any more. */
    IOStatus Close();

    /* Of the same file always the same, and of no other. */
    std::size_t UniqueId(char *id, std::size_t max) const;

    const std::shared_ptr<Engine> &engine() const { return engine_; }
    const std::string &name() const { return name_; }
    int fd() const { return fd_; }
    bool direct() const { return direct_; }
    /* What O_DIRECT wants offsets, lengths and memory to be multiples of. */
    std::size_t alignment() const { return alignment_; }

  private:
    /* What every disk takes; the kernel knows better since Linux 6.1. */
    static constexpr std::size_t usual_alignment = 4096;

    Descriptor(std::shared_ptr<Engine> engine, std::string name, bool direct);
    /* Does, and waits for, what `prepare` prepares; `moved`: the bytes. */
    template <class Prepare>
    IOStatus Do(const Operation &operation, Prepare &&prepare, std::size_t *moved = nullptr) const;

    const std::shared_ptr<Engine> engine_;
    const std::string name_;
    int fd_ = -1;
    const bool direct_;
    std::size_t alignment_ = usual_alignment;
};

using File = std::unique_ptr<Descriptor>;

/* For a prepared event: how long RocksDB waits for it. */
void SetLimit(ioe::event &event, std::chrono::microseconds timeout, std::error_code &ec);

class SequentialFile : public rocksdb::FSSequentialFile {
  public:
    explicit SequentialFile(File file) : file_(std::move(file)) {}

    IOStatus Read(std::size_t n, const IOOptions &options, Slice *result, char *scratch,
                  IODebugContext *) override;
    IOStatus PositionedRead(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result,
                            char *scratch, IODebugContext *) override;
    IOStatus Skip(std::uint64_t n) override;
    IOStatus InvalidateCache(std::size_t offset, std::size_t length) override;
    bool use_direct_io() const override { return file_->direct(); }
    std::size_t GetRequiredBufferAlignment() const override { return file_->alignment(); }

  private:
    const File file_;
    std::uint64_t position_ = 0;
};

class RandomAccessFile : public rocksdb::FSRandomAccessFile {
  public:
    explicit RandomAccessFile(File file) : file_(std::move(file)) {}

    IOStatus Read(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result, char *scratch,
                  IODebugContext *) const override;
    IOStatus MultiRead(rocksdb::FSReadRequest *requests, std::size_t n, const IOOptions &options,
                       IODebugContext *) override;
    IOStatus ReadAsync(rocksdb::FSReadRequest &request, const IOOptions &options,
                       std::function<void(const rocksdb::FSReadRequest &, void *)> callback, void *arg,
                       void **handle, rocksdb::IOHandleDeleter *deleter, IODebugContext *) override;
    IOStatus Prefetch(std::uint64_t offset, std::size_t n, const IOOptions &, IODebugContext *) override;
    void Hint(AccessPattern pattern) override;
    IOStatus InvalidateCache(std::size_t offset, std::size_t length) override;
    std::size_t GetUniqueId(char *id, std::size_t max) const override { return file_->UniqueId(id, max); }
    bool use_direct_io() const override { return file_->direct(); }
    std::size_t GetRequiredBufferAlignment() const override { return file_->alignment(); }

  private:
    /* Reads that nobody waits for have it too. */
    const std::shared_ptr<const Descriptor> file_;
};

class WritableFile : public rocksdb::FSWritableFile {
  public:
    /* What is appended goes behind `size`. */
    WritableFile(File file, std::uint64_t size, const rocksdb::FileOptions &options);
    ~WritableFile() override;

    IOStatus Append(const Slice &data, const IOOptions &, IODebugContext *) override;
    IOStatus PositionedAppend(const Slice &data, std::uint64_t offset, const IOOptions &,
                              IODebugContext *) override;
    /* The checksums that come along are for a device that checks them. */
    using FSWritableFile::Append;
    IOStatus PositionedAppend(const Slice &data, std::uint64_t offset, const IOOptions &options,
                              const rocksdb::DataVerificationInfo &, IODebugContext *dbg) override
    {
        return PositionedAppend(data, offset, options, dbg);
    }
    IOStatus Truncate(std::uint64_t size, const IOOptions &, IODebugContext *) override;
    IOStatus Close(const IOOptions &, IODebugContext *) override;
    IOStatus Flush(const IOOptions &, IODebugContext *) override { return IOStatus::OK(); }
    IOStatus Sync(const IOOptions &, IODebugContext *) override { return file_->Sync(); }
    IOStatus Fsync(const IOOptions &, IODebugContext *) override { return file_->Fsync(); }
    bool IsSyncThreadSafe() const override { return true; }
    IOStatus RangeSync(std::uint64_t offset, std::uint64_t n, const IOOptions &options,
                       IODebugContext *dbg) override;
    IOStatus Allocate(std::uint64_t offset, std::uint64_t len, const IOOptions &, IODebugContext *) override;
    void SetWriteLifeTimeHint(rocksdb::Env::WriteLifeTimeHint hint) override;
    std::uint64_t GetFileSize(const IOOptions &, IODebugContext *) override { return size_; }
    IOStatus InvalidateCache(std::size_t offset, std::size_t length) override;
    std::size_t GetUniqueId(char *id, std::size_t max) const override { return file_->UniqueId(id, max); }
    bool use_direct_io() const override { return file_->direct(); }
    std::size_t GetRequiredBufferAlignment() const override { return file_->alignment(); }

  private:
    void CutPreallocated();

    const File file_;
    std::uint64_t size_;
    const bool allocates_;
    const bool keeps_size_;
};

class RandomRWFile : public rocksdb::FSRandomRWFile {
  public:
    explicit RandomRWFile(File file) : file_(std::move(file)) {}

    IOStatus Write(std::uint64_t offset, const Slice &data, const IOOptions &, IODebugContext *) override;
    IOStatus Read(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result, char *scratch,
                  IODebugContext *) const override;
    IOStatus Flush(const IOOptions &, IODebugContext *) override { return IOStatus::OK(); }
    IOStatus Sync(const IOOptions &, IODebugContext *) override { return file_->Sync(); }
    IOStatus Fsync(const IOOptions &, IODebugContext *) override { return file_->Fsync(); }
    IOStatus Close(const IOOptions &, IODebugContext *) override { return file_->Close(); }

  private:
    const File file_;
};

} // namespace ioe_rocksdb

#endif
