#include "files.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "async_read.h"

namespace ioe_rocksdb {
namespace {

constexpr std::size_t sector = 512;

std::size_t AlignmentOf(int fd, std::size_t fallback)
{
    struct statx its;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &its) != 0 ||
        (its.stx_mask & STATX_DIOALIGN) == 0 || its.stx_dio_offset_align == 0)
        return fallback;
    return std::max<std::size_t>({its.stx_dio_offset_align, its.stx_dio_mem_align, sector});
}

std::error_code Error(int number)
{
    return std::error_code(number, std::generic_category());
}

/* Seven bits a byte, the lowest first: no such number is the beginning of another. */
char *PutNumber(char *to, std::uint64_t number)
{
    for (; number >= 128; number >>= 7)
        *to++ = static_cast<char>(number | 128);
    *to++ = static_cast<char>(number);
    return to;
}
constexpr std::size_t longest_number = 10;

} // namespace

void SetLimit(ioe::event &event, std::chrono::microseconds timeout, std::error_code &ec)
{
    /* RocksDB's deadlines may be as far away as a microsecond count goes, and not in nanoseconds. */
    if (!ec && timeout.count() > 0)
        event.set_timeout(std::min<std::chrono::microseconds>(timeout, std::chrono::hours(24)), ec);
}

IOStatus Descriptor::Open(std::shared_ptr<Engine> engine, const std::string &path, const std::string &name,
                          int flags, const rocksdb::EnvOptions &options, File *result)
{
    if (options.use_mmap_reads || options.use_mmap_writes)
        return IOStatus::NotSupported("allow_mmap_reads and allow_mmap_writes: ioe:// reads and writes, it "
                                      "does not map",
                                      name);
    File file(new Descriptor(std::move(engine), name, (flags & O_DIRECT) != 0));
    do
        file->fd_ = open(path.c_str(), flags | (options.set_fd_cloexec ? O_CLOEXEC : 0), 0644);
    while (file->fd_ < 0 && errno == EINTR);
    if (file->fd_ < 0)
        return ToStatus(Error(errno), {"opening"}, path);
    if (file->direct_)
        file->alignment_ = AlignmentOf(file->fd_, usual_alignment);
    *result = std::move(file);
    return IOStatus::OK();
}

Descriptor::Descriptor(std::shared_ptr<Engine> engine, std::string name, bool direct)
    : engine_(std::move(engine)), name_(std::move(name)), direct_(direct)
{
}

Descriptor::~Descriptor()
{
    Close().PermitUncheckedError();
}

IOStatus Descriptor::Close()
{
    if (fd_ < 0)
        return IOStatus::OK();
    const int failed = close(std::exchange(fd_, -1));
    return ToStatus(failed != 0 ? Error(errno) : std::error_code(), {"closing"}, name_);
}

template <class Prepare>
IOStatus Descriptor::Do(const Operation &operation, Prepare &&prepare, std::size_t *moved) const
{
    std::error_code ec;
    const std::size_t n = engine_->Run(ec, prepare);
    if (moved != nullptr)
        *moved = n;
    return ToStatus(ec, operation, name_);
}

void Descriptor::PrepareRead(ioe::event &event, const rocksdb::FSReadRequest &request,
                             std::error_code &ec) const
{
    /* RocksDB may give no memory where it wants nothing. */
    static char nothing;
    event.prep_read(fd_, {request.len > 0 ? request.scratch : &nothing, request.len}, request.offset, ec);
}

void Descriptor::Answer(rocksdb::FSReadRequest &request, const ioe::event_base &event,
                        std::error_code ec) const
{
    const std::size_t n = ec ? 0 : event.result(ec);
    request.result = Slice(request.scratch, n);
    request.status = ToStatus(ec, {"reading", request.offset, request.len}, name_);
}

bool Descriptor::ReadCached(ioe::event &event, std::error_code &ec) const
{
    if (direct_)
        return false;
    std::error_code missing;
    event.set_flags(IOE_NOWAIT, ec);
    if (!ec)
        engine_->context().submit_wait(event, missing);
    if (!ec && missing)
        event.set_flags(0, ec);
    return !ec && !missing;
}

IOStatus Descriptor::Read(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result,
                          char *scratch) const
{
    const auto prepare = [&](ioe::event &event, std::error_code &ec) {
        event.prep_read(fd_, {scratch, n}, offset, ec);
        SetLimit(event, options.timeout, ec);
    };
    std::size_t got = 0;
    IOStatus status = n > 0 ? Do({"reading", offset, n}, prepare, &got) : IOStatus::OK();
    *result = Slice(scratch, got);
    return status;
}

IOStatus Descriptor::Write(std::uint64_t offset, const Slice &data) const
{
    if (data.empty())
        return IOStatus::OK();
    return Do({"writing", offset, data.size()}, [&](ioe::event &event, std::error_code &ec) {
        event.prep_write(fd_, {data.data(), data.size()}, offset, ec);
    });
}

IOStatus Descriptor::Sync() const
{
    return Do({"syncing"}, [&](ioe::event &event, std::error_code &ec) { event.prep_fdatasync(fd_, ec); });
}

IOStatus Descriptor::Fsync() const
{
    return Do({"syncing"}, [&](ioe::event &event, std::error_code &ec) { event.prep_fsync(fd_, ec); });
}

IOStatus Descriptor::Truncate(std::uint64_t size) const
{
    return Do({"truncating"},
              [&](ioe::event &event, std::error_code &ec) { event.prep_truncate(fd_, size, ec); });
}

IOStatus Descriptor::Advise(std::uint64_t offset, std::uint64_t len, int advice) const
{
    /* What does not pass through the page cache has none. */
    if (direct_)
        return IOStatus::OK();
    return Do({"advising on", offset, len}, [&](ioe::event &event, std::error_code &ec) {
        event.prep_advise(fd_, offset, len, advice, ec);
    });
}

IOStatus Descriptor::Allocate(int mode, std::uint64_t offset, std::uint64_t len) const
{
    return Do({"allocating", offset, len}, [&](ioe::event &event, std::error_code &ec) {
        event.prep_fallocate(fd_, mode, offset, len, ec);
    });
}

IOStatus Descriptor::SyncRange(std::uint64_t offset, std::uint64_t len, unsigned flags) const
{
    return Do({"writing back", offset, len}, [&](ioe::event &event, std::error_code &ec) {
        event.prep_sync_range(fd_, offset, len, flags, ec);
    });
}

IOStatus Descriptor::Size(std::uint64_t *size) const
{
    struct stat its;
    if (fstat(fd_, &its) != 0)
        return ToStatus(Error(errno), {"asking for the size"}, name_);
    *size = static_cast<std::uint64_t>(its.st_size);
    return IOStatus::OK();
}

std::size_t Descriptor::UniqueId(char *id, std::size_t max) const
{
    struct stat its;
    long generation = 0;
    if (max < 3 * longest_number || fstat(fd_, &its) != 0 || ioctl(fd_, FS_IOC_GETVERSION, &generation) != 0)
        return 0;
    char *end = PutNumber(id, its.st_dev);
    end = PutNumber(end, its.st_ino);
    end = PutNumber(end, static_cast<std::uint64_t>(generation));
    return static_cast<std::size_t>(end - id);
}

IOStatus SequentialFile::Read(std::size_t n, const IOOptions &options, Slice *result, char *scratch,
                              IODebugContext *)
{
    IOStatus status = file_->Read(position_, n, options, result, scratch);
    position_ += result->size();
    return status;
}

IOStatus SequentialFile::PositionedRead(std::uint64_t offset, std::size_t n, const IOOptions &options,
                                        Slice *result, char *scratch, IODebugContext *)
{
    return file_->Read(offset, n, options, result, scratch);
}

IOStatus SequentialFile::Skip(std::uint64_t n)
{
    position_ += n;
    return IOStatus::OK();
}

IOStatus SequentialFile::InvalidateCache(std::size_t offset, std::size_t length)
{
    return file_->Advise(offset, length, POSIX_FADV_DONTNEED);
}

IOStatus RandomAccessFile::Read(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result,
                                char *scratch, IODebugContext *) const
{
    return file_->Read(offset, n, options, result, scratch);
}

IOStatus RandomAccessFile::MultiRead(rocksdb::FSReadRequest *requests, std::size_t n,
                                     const IOOptions &options, IODebugContext *)
{
    std::error_code ec;
    Events events(n, ec);
    if (ec)
        return ToStatus(ec, {"reading"}, file_->name());
    std::vector<ioe::event_ref> batch;
    std::vector<rocksdb::FSReadRequest *> waiting;
    for (std::size_t i = 0; i < n; i++) {
        file_->PrepareRead(events[i], requests[i], ec);
        /* What is in memory needs no engine. With the first that is not, all others go together: neighbours
         * are joined, and the disk has them at once. */
        const bool waits = !ec && !(batch.empty() && file_->ReadCached(events[i], ec));
        if (waits)
            SetLimit(events[i], options.timeout, ec);
        if (!waits || ec) {
            file_->Answer(requests[i], events[i], ec);
            continue;
        }
        if (batch.empty()) {
            batch.reserve(n - i);
            waiting.reserve(n - i);
        }
        batch.push_back(events[i]);
        waiting.push_back(&requests[i]);
    }
    if (batch.empty())
        return IOStatus::OK();
    const std::size_t done = file_->engine()->context().submit_wait_batch(batch, ec);
    for (std::size_t i = 0; i < batch.size(); i++)
        file_->Answer(*waiting[i], batch[i], i < done ? std::error_code() : ec);
    return IOStatus::OK();
}

IOStatus RandomAccessFile::ReadAsync(rocksdb::FSReadRequest &request, const IOOptions &options,
                                     std::function<void(const rocksdb::FSReadRequest &, void *)> callback,
                                     void *arg, void **handle, rocksdb::IOHandleDeleter *deleter,
                                     IODebugContext *)
{
    auto read = std::make_unique<AsyncRead>(file_, request, std::move(callback), arg);
    std::error_code ec;
    read->Start(options.timeout, ec);
    if (ec)
        return ToStatus(ec, {"submitting a read of", request.offset, request.len}, file_->name());
    *handle = read.release();
    *deleter = [](void *its) { delete static_cast<AsyncRead *>(its); };
    return IOStatus::OK();
}

IOStatus RandomAccessFile::Prefetch(std::uint64_t offset, std::size_t n, const IOOptions &, IODebugContext *)
{
    return file_->Advise(offset, n, POSIX_FADV_WILLNEED);
}

void RandomAccessFile::Hint(AccessPattern pattern)
{
    int advice = POSIX_FADV_NORMAL;
    switch (pattern) {
    case kNormal: advice = POSIX_FADV_NORMAL; break;
    case kRandom: advice = POSIX_FADV_RANDOM; break;
    case kSequential: advice = POSIX_FADV_SEQUENTIAL; break;
    case kWillNeed: advice = POSIX_FADV_WILLNEED; break;
    case kWontNeed: advice = POSIX_FADV_DONTNEED; break;
    }
    file_->Advise(0, 0, advice).PermitUncheckedError();
}

IOStatus RandomAccessFile::InvalidateCache(std::size_t offset, std::size_t length)
{
    return file_->Advise(offset, length, POSIX_FADV_DONTNEED);
}

WritableFile::WritableFile(File file, std::uint64_t size, const rocksdb::FileOptions &options)
    : FSWritableFile(options), file_(std::move(file)), size_(size), allocates_(options.allow_fallocate),
      keeps_size_(options.fallocate_with_keep_size)
{
}

WritableFile::~WritableFile()
{
    WritableFile::Close(IOOptions(), nullptr).PermitUncheckedError();
}

IOStatus WritableFile::Append(const Slice &data, const IOOptions &, IODebugContext *)
{
    IOStatus status = file_->Write(size_, data);
    if (status.ok())
        size_ += data.size();
    return status;
}

IOStatus WritableFile::PositionedAppend(const Slice &data, std::uint64_t offset, const IOOptions &,
                                        IODebugContext *)
{
    IOStatus status = file_->Write(offset, data);
    if (status.ok())
        size_ = offset + data.size();
    return status;
}

IOStatus WritableFile::Truncate(std::uint64_t size, const IOOptions &, IODebugContext *)
{
    IOStatus status = file_->Truncate(size);
    if (status.ok())
        size_ = size;
    return status;
}

/* What was allocated and not written. It costs room only: that it failed is no error. */
void WritableFile::CutPreallocated()
{
    std::size_t block = 0, blocks = 0;
    GetPreallocationStatus(&block, &blocks);
    if (blocks == 0)
        return;
    file_->Truncate(size_).PermitUncheckedError();
    /* Some file systems keep what is behind the end, where the end did not move. */
    struct stat its;
    const std::uint64_t reserved = std::uint64_t(block) * blocks;
    if (allocates_ && reserved > size_ && fstat(file_->fd(), &its) == 0 &&
        std::uint64_t(its.st_blocks) * 512 > size_ + std::uint64_t(its.st_blksize))
        file_->Allocate(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, size_, reserved - size_)
            .PermitUncheckedError();
}

IOStatus WritableFile::Close(const IOOptions &, IODebugContext *)
{
    if (file_->fd() >= 0)
        CutPreallocated();
    return file_->Close();
}

IOStatus WritableFile::RangeSync(std::uint64_t offset, std::uint64_t n, const IOOptions &options,
                                 IODebugContext *dbg)
{
    /* With strict_bytes_per_sync what was begun earlier is waited for: only this is ever under way. */
    IOStatus status =
        strict_bytes_per_sync_
            ? file_->SyncRange(0, offset + n, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE)
            : file_->SyncRange(offset, n, SYNC_FILE_RANGE_WRITE);
    /* Some kernels that are not Linux lack the call: then there is nothing to begin, or a sync. */
    return status.IsNotSupported() ? FSWritableFile::RangeSync(offset, n, options, dbg) : status;
}

IOStatus WritableFile::Allocate(std::uint64_t offset, std::uint64_t len, const IOOptions &, IODebugContext *)
{
    return allocates_ ? file_->Allocate(keeps_size_ ? FALLOC_FL_KEEP_SIZE : 0, offset, len) : IOStatus::OK();
}

void WritableFile::SetWriteLifeTimeHint(rocksdb::Env::WriteLifeTimeHint hint)
{
    const std::uint64_t its = static_cast<std::uint64_t>(hint);
    if (hint != write_hint_ && fcntl(file_->fd(), F_SET_RW_HINT, &its) == 0)
        write_hint_ = hint;
}

IOStatus WritableFile::InvalidateCache(std::size_t offset, std::size_t length)
{
    return file_->Advise(offset, length, POSIX_FADV_DONTNEED);
}

IOStatus RandomRWFile::Write(std::uint64_t offset, const Slice &data, const IOOptions &, IODebugContext *)
{
    return file_->Write(offset, data);
}

IOStatus RandomRWFile::Read(std::uint64_t offset, std::size_t n, const IOOptions &options, Slice *result,
                            char *scratch, IODebugContext *) const
{
    return file_->Read(offset, n, options, result, scratch);
}

} // namespace ioe_rocksdb
