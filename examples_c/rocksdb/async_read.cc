#include "async_read.h"

#include <cerrno>
#include <utility>

namespace ioe_rocksdb {

AsyncRead::AsyncRead(std::shared_ptr<const Descriptor> file, const rocksdb::FSReadRequest &request,
                     Callback callback, void *arg)
    : file_(std::move(file)), callback_(std::move(callback)), arg_(arg)
{
    request_.offset = request.offset;
    request_.len = request.len;
    request_.scratch = request.scratch;
}

AsyncRead::~AsyncRead()
{
    Cancel();
    Wait();
}

bool AsyncRead::ReadCached(std::error_code &ec)
{
    Events events(1, ec);
    if (!ec)
        file_->PrepareRead(events[0], request_, ec);
    const bool cached = !ec && file_->ReadCached(events[0], ec);
    if (cached)
        file_->Answer(request_, events[0], ec);
    return cached;
}

void AsyncRead::Start(std::chrono::microseconds timeout, std::error_code &ec)
{
    if (ReadCached(ec) || ec)
        return;
    event_.emplace([this](ioe::event_ref) { Done(); }, ec);
    if (!ec)
        file_->PrepareRead(*event_, request_, ec);
    SetLimit(*event_, timeout, ec);
    if (ec)
        return;
    under_way_ = true;
    /* Where the queue is full it is done in Finish: nobody is to wait here. */
    if (!file_->engine()->context().try_submit(*event_, ec))
        under_way_ = false;
}

void AsyncRead::Done()
{
    /* Under the lock: who waits may destroy this as soon as it sees. */
    const std::lock_guard lock(mutex_);
    under_way_ = false;
    ended_.notify_all();
}

void AsyncRead::Cancel()
{
    if (!event_)
        return;
    {
        const std::lock_guard lock(mutex_);
        if (!under_way_)
            return;
    }
    /* One that ends just now is not found, which is as good. */
    std::error_code ec;
    file_->engine()->context().cancel(event_->id(), ec);
    /* In a forked child nothing is under way. */
    if (ec.value() == EOWNERDEAD)
        Done();
}

void AsyncRead::Wait()
{
    if (!event_)
        return;
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return !under_way_; });
}

void AsyncRead::Finish(bool aborted)
{
    Wait();
    if (std::exchange(told_, true))
        return;
    if (aborted) {
        request_.result = Slice(request_.scratch, 0);
        request_.status = IOStatus::Aborted("the read was aborted", file_->name());
    } else if (event_) {
        std::error_code ec;
        if (!event_->is_done())
            file_->engine()->context().submit_wait(*event_, ec);
        file_->Answer(request_, *event_, ec);
    }
    callback_(request_, arg_);
}

} // namespace ioe_rocksdb
