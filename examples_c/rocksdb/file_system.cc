/* The file system itself, and its registration under ioe://. */
#include "ioe_file_system.h"

#include <algorithm>
#include <fcntl.h>
#include <rocksdb/utilities/object_registry.h>

#include "async_read.h"
#include "files.h"

namespace ioe_rocksdb {
namespace {

using rocksdb::FileOptions;
using rocksdb::FileSystem;

class IoeFileSystem : public rocksdb::FileSystemWrapper {
  public:
    IoeFileSystem(std::string uri, std::shared_ptr<Engine> engine, bool direct)
        : FileSystemWrapper(FileSystem::Default()), uri_(std::move(uri)), engine_(std::move(engine)),
          direct_(direct)
    {
    }

    static const char *kClassName() { return "IoeFileSystem"; }
    const char *Name() const override { return kClassName(); }
    /* What another one like this is made of. */
    std::string GetId() const override { return uri_; }

    ioe_stats Stats() const { return engine_->Stats(); }

    IOStatus NewSequentialFile(const std::string &name, const FileOptions &options,
                               std::unique_ptr<rocksdb::FSSequentialFile> *result, IODebugContext *) override
    {
        return Open<SequentialFile>(name, O_RDONLY | Direct(options.use_direct_reads), options, result);
    }

    IOStatus NewRandomAccessFile(const std::string &name, const FileOptions &options,
                                 std::unique_ptr<rocksdb::FSRandomAccessFile> *result,
                                 IODebugContext *) override
    {
        const bool direct = options.use_direct_reads || (direct_ && IsTable(name));
        return Open<RandomAccessFile>(name, O_RDONLY | Direct(direct), options, result);
    }

    IOStatus NewWritableFile(const std::string &name, const FileOptions &options,
                             std::unique_ptr<rocksdb::FSWritableFile> *result, IODebugContext *) override
    {
        return OpenWritable(name, name, O_CREAT | O_TRUNC, Behind::Nothing, options, result);
    }

    IOStatus ReopenWritableFile(const std::string &name, const FileOptions &options,
                                std::unique_ptr<rocksdb::FSWritableFile> *result, IODebugContext *) override
    {
        return OpenWritable(name, name, O_CREAT, Behind::WhatIsThere, options, result);
    }

    IOStatus ReuseWritableFile(const std::string &name, const std::string &old_name,
                               const FileOptions &options, std::unique_ptr<rocksdb::FSWritableFile> *result,
                               IODebugContext *dbg) override
    {
        /* What it had stays: a log is written over what it was, from its beginning. */
        IOStatus status = OpenWritable(old_name, name, 0, Behind::Nothing, options, result);
        if (status.ok())
            status = RenameFile(old_name, name, options.io_options, dbg);
        if (!status.ok())
            result->reset();
        return status;
    }

    IOStatus NewRandomRWFile(const std::string &name, const FileOptions &options,
                             std::unique_ptr<rocksdb::FSRandomRWFile> *result, IODebugContext *) override
    {
        return Open<RandomRWFile>(name, O_RDWR, options, result);
    }

    IOStatus Truncate(const std::string &name, std::size_t size, const IOOptions &, IODebugContext *) override
    {
        File file;
        IOStatus status = Descriptor::Open(engine_, name, name, O_WRONLY, rocksdb::EnvOptions(), &file);
        return status.ok() ? file->Truncate(size) : status;
    }

    IOStatus Poll(std::vector<void *> &handles, std::size_t) override
    {
        for (void *handle : handles)
            static_cast<AsyncRead *>(handle)->Finish(false);
        return IOStatus::OK();
    }

    IOStatus AbortIO(std::vector<void *> &handles) override
    {
        for (void *handle : handles)
            static_cast<AsyncRead *>(handle)->Cancel();
        for (void *handle : handles)
            static_cast<AsyncRead *>(handle)->Finish(true);
        return IOStatus::OK();
    }

  private:
    static int Direct(bool direct) { return direct ? O_DIRECT : 0; }

    static bool IsTable(const std::string &name)
    {
        const std::string kind = name.substr(std::min(name.size(), name.rfind('.')));
        return kind == ".sst" || kind == ".ldb" || kind == ".blob";
    }

    template <class Kind, class Base>
    IOStatus Open(const std::string &name, int flags, const FileOptions &options,
                  std::unique_ptr<Base> *result)
    {
        result->reset();
        File file;
        IOStatus status = Descriptor::Open(engine_, name, name, flags, options, &file);
        if (status.ok())
            result->reset(new Kind(std::move(file)));
        return status;
    }

    /* Where what is appended begins. */
    enum class Behind { Nothing, WhatIsThere };

    IOStatus OpenWritable(const std::string &path, const std::string &name, int flags, Behind behind,
                          const FileOptions &options, std::unique_ptr<rocksdb::FSWritableFile> *result)
    {
        result->reset();
        const bool direct = options.use_direct_writes || (direct_ && IsTable(name));
        File file;
        IOStatus status =
            Descriptor::Open(engine_, path, name, O_WRONLY | flags | Direct(direct), options, &file);
        std::uint64_t size = 0;
        if (status.ok() && behind == Behind::WhatIsThere)
            status = file->Size(&size);
        if (status.ok())
            result->reset(new WritableFile(std::move(file), size, options));
        return status;
    }

    const std::string uri_;
    const std::shared_ptr<Engine> engine_;
    const bool direct_;
};

/* What is wrong, as a sentence; empty where the file system was made. */
std::string Make(const std::string &uri, std::unique_ptr<FileSystem> *result)
{
    Settings settings;
    const std::string wrong = Parse(uri, &settings);
    if (!wrong.empty())
        return wrong;
    std::error_code ec;
    auto engine = std::make_shared<Engine>(settings, ec);
    if (ec)
        return std::string("driver ") + ioe_driver_name(settings.config.driver) + " cannot be had here: " +
               ioe_strerror(ec.value());
    result->reset(new IoeFileSystem(uri, std::move(engine), settings.direct));
    return "";
}

/* Whatever begins with ioe: comes here, to be told what is wrong with it. */
[[maybe_unused]] const auto &registered = rocksdb::ObjectLibrary::Default()->AddFactory<FileSystem>(
    rocksdb::ObjectLibrary::PatternEntry("ioe", false).AddSeparator(":", false),
    [](const std::string &uri, std::unique_ptr<FileSystem> *result, std::string *message) {
        *message = Make(uri, result);
        return result->get();
    });

} // namespace
} // namespace ioe_rocksdb

rocksdb::Status NewIoeFileSystem(const std::string &uri, std::shared_ptr<rocksdb::FileSystem> *result)
{
    std::unique_ptr<rocksdb::FileSystem> made;
    const std::string wrong = ioe_rocksdb::Make(uri, &made);
    if (!wrong.empty())
        return rocksdb::Status::InvalidArgument(wrong, uri);
    *result = std::move(made);
    return rocksdb::Status::OK();
}

ioe_stats IoeStats(const rocksdb::FileSystem &fs)
{
    const auto *its = fs.CheckedCast<ioe_rocksdb::IoeFileSystem>();
    return its != nullptr ? its->Stats() : ioe_stats{};
}
