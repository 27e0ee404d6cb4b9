#include "engine.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <utility>

namespace ioe_rocksdb {

thread_local Events::Stack *Events::own_ = nullptr;
thread_local Events::Owner Events::owner_;
thread_local bool Events::ended_ = false;

Events::Owner::~Owner()
{
    ended_ = true;
    delete std::exchange(own_, nullptr);
}

Events::Stack *Events::MakeOwn()
{
    static_cast<void>(&owner_);
    own_ = new Stack;
    if (ended_)
        own_->kept = 0;
    return own_;
}

void Events::Grow(std::size_t size, std::error_code &ec)
{
    while (!ec && stack_->events.size() < size) {
        ioe::event event(ec);
        if (!ec)
            stack_->events.push_back(std::move(event));
    }
}

void Events::Shrink()
{
    while (stack_->events.size() > std::max(stack_->kept, first_))
        stack_->events.pop_back();
    if (stack_->events.empty())
        delete std::exchange(own_, nullptr);
}

rocksdb::IOStatus ToStatus(std::error_code ec, const Operation &operation, const std::string &file)
{
    using rocksdb::IOStatus;
    if (!ec)
        return IOStatus::OK();
    std::string what = std::string("While ") + operation.verb;
    if (operation.len != 0)
        what += " " + std::to_string(operation.len) + " bytes at offset " + std::to_string(operation.offset);
    what += ": " + file;
    const char *why = ioe_strerror(ec.value());
    switch (ec.value()) {
    case ENOSPC: {
        IOStatus status = IOStatus::NoSpace(what, why);
        status.SetRetryable(true);
        return status;
    }
    case ENOENT:
        return IOStatus::PathNotFound(what, why);
    case ESTALE:
        /* This kind takes no message. */
        return IOStatus::IOError(IOStatus::kStaleFile);
    case ETIMEDOUT:
        return IOStatus::TimedOut(what, why);
    case ENOSYS:
        return IOStatus::NotSupported(what, why);
    case ECANCELED:
        return IOStatus::Aborted(what, why);
    default:
        return IOStatus::IOError(what, why);
    }
}

Engine::Engine(const Settings &settings, std::error_code &ec)
    : context_(settings.config, ec), report_(settings.stats)
{
}

Engine::~Engine()
{
    if (report_ && context_)
        Report();
}

ioe_stats Engine::Stats() const
{
    std::error_code ec;
    return context_.stats(ec);
}

void Engine::Report() const
{
    std::error_code ec;
    const ioe_info info = context_.info(ec);
    /* In a forked child it did nothing. */
    if (ec)
        return;
    const ioe_stats stats = Stats();
    std::fprintf(stderr,
                 "ioe: driver=%s accepted=%" PRIu64 " failed=%" PRIu64 " operations=%" PRIu64
                 " merged=%" PRIu64 " continued=%" PRIu64 " syncs_joined=%" PRIu64 " system_calls=%" PRIu64
                 " bytes_read=%" PRIu64 " bytes_written=%" PRIu64 "\n",
                 ioe_driver_name(info.driver), stats.accepted, stats.failed, stats.operations, stats.merged,
                 stats.continued, stats.syncs_joined, stats.system_calls, stats.bytes_read,
                 stats.bytes_written);
}

} // namespace ioe_rocksdb
