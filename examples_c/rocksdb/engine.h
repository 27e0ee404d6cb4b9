/* The one context that all files share, and how its answers become RocksDB's. */
#ifndef IOE_ROCKSDB_ENGINE_H
#define IOE_ROCKSDB_ENGINE_H

#include <io_engine.hpp>
#include <rocksdb/io_status.h>
#include <string>
#include <vector>

#include "settings.h"

namespace ioe_rocksdb {

/* Something that was done to a file, for the message where it failed. */
struct Operation {
    const char *verb;
    std::uint64_t offset = 0;
    std::uint64_t len = 0;
};

/** OK where there is no error; else the kind that RocksDB acts on, with the file's name and the errno. */
rocksdb::IOStatus ToStatus(std::error_code ec, const Operation &operation, const std::string &file);

/* Events for the time of a call. Each thread keeps those that it used: they belong to no context. */
class Events {
  public:
    Events(std::size_t n, std::error_code &ec)
        : stack_(own_ != nullptr ? own_ : MakeOwn()), first_(stack_->used)
    {
        if (stack_->events.size() < first_ + n)
            Grow(first_ + n, ec);
        stack_->used = first_ + n;
    }
    Events(const Events &) = delete;
    Events &operator=(const Events &) = delete;
    ~Events()
    {
        stack_->used = first_;
        if (stack_->events.size() > stack_->kept)
            Shrink();
    }

    ioe::event &operator[](std::size_t i) { return stack_->events[first_ + i]; }

  private:
    /* Those of one thread; the first of them are in use. A MultiRead of more than it keeps makes the others
     * anew. */
    struct Stack {
        std::vector<ioe::event> events;
        std::size_t used = 0;
        std::size_t kept = 128;
    };
    struct Owner {
        ~Owner();
    };
    static Stack *MakeOwn();
    void Grow(std::size_t size, std::error_code &ec);
    void Shrink();

    /* A pointer, because files may be closed when what belongs to the thread was destroyed already. */
    [[gnu::tls_model("initial-exec")]] static thread_local Stack *own_;
    static thread_local Owner owner_;
    static thread_local bool ended_;

    Stack *const stack_;
    const std::size_t first_;
};

class Engine {
  public:
    /* Why there is none: the errno of ioe_context_new. */
    Engine(const Settings &settings, std::error_code &ec);
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;
    ~Engine();

    /** Does, and waits for, the event that `prepare` prepares. The bytes that it moved. */
    template <class Prepare>
    std::size_t Run(std::error_code &ec, Prepare &&prepare)
    {
        Events events(1, ec);
        if (!ec)
            prepare(events[0], ec);
        /* The C call: the event's owner is here, and need not be counted up. */
        const std::int64_t n = ec ? 0 : ioe_submit_wait(context_.get(), events[0].get());
        if (n < 0)
            ec.assign(static_cast<int>(-n), std::generic_category());
        return n < 0 ? 0 : static_cast<std::size_t>(n);
    }

    ioe::context &context() { return context_; }
    ioe_stats Stats() const;

  private:
    void Report() const;

    ioe::context context_;
    const bool report_;
};

} // namespace ioe_rocksdb

#endif
