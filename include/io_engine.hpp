/* io_engine for C++17 and later: the calls of io_engine.h with owners, any callable as a callback,
 * errors as std::error_code, and with C++20 awaitables. Header only.
 *
 * Names are those of io_engine.h without their prefix, and mean what they mean there: units, threads
 * and errors of a call are described with it. Here is what C++ adds.
 *
 * Errors: a call has two forms. f(args) throws std::system_error, whose what() names the call. f(args,
 * ec) is noexcept and sets ec: cleared on success. Codes are errnos, positive, of
 * std::generic_category(): they compare with std::errc. Without exceptions (-fno-exceptions) the first
 * form ends the process with a message.
 *
 * Owners (context, workers, merger, event, buffer) move and do not copy. Every call on one that was moved
 * from or closed, or whose constructor has set an ec, fails with EINVAL; testing it gives false. One owner
 * is used by one thread at a time, but for a context's calls, which any thread makes at once. What cannot
 * be told by a destructor, because the object may not go now, ends the process with a message, as that of a
 * joinable std::thread does.
 *
 * Callbacks: an exception that would leave one ends the process with a message, in std::terminate; one
 * that would leave the destructor of a callable ends it without.
 *
 * Everything is in an inline namespace, named for the version of this header and for whether there are
 * exceptions: objects that differ in these may be linked into one program, and each has its own. They
 * exchange C pointers then, as ioe:: types are different ones in each. */

#ifndef IO_ENGINE_HPP
#define IO_ENGINE_HPP

#if __cplusplus < 201703L
#error "io_engine.hpp needs C++17; io_engine.h serves C++ from C++11 on"
#endif

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

#include "io_engine.h"

#if defined(__cpp_impl_coroutine) && __has_include(<coroutine>)
#include <coroutine>
#endif
#if defined(__cpp_lib_coroutine)
/** Defined where `co_await` can be had: with a C++20 compiler and library. */
#define IOE_COROUTINES 1
#endif

#define IOE_CPP_JOIN(major, minor, patch, how) v##major##_##minor##_##patch##how
#define IOE_CPP_NAME(...) IOE_CPP_JOIN(__VA_ARGS__)
#if defined(__cpp_exceptions)
#define IOE_CPP_NAMESPACE IOE_CPP_NAME(IOE_VERSION_MAJOR, IOE_VERSION_MINOR, IOE_VERSION_PATCH, )
#else
#define IOE_CPP_NAMESPACE IOE_CPP_NAME(IOE_VERSION_MAJOR, IOE_VERSION_MINOR, IOE_VERSION_PATCH, _noexcept)
#endif

namespace ioe {
inline namespace IOE_CPP_NAMESPACE {

class event;

namespace detail {

class callable;

[[noreturn]] inline void die(const char *what, const char *why) noexcept
{
    std::fprintf(stderr, "io_engine: %s: %s\n", what, why);
    std::terminate();
}

/* The end of a destructor that may not go on. */
[[noreturn]] inline void die(const char *what, int err) noexcept
{
    die(what, ioe_strerror(err));
}

/* Takes the answer of a C call apart: this form throws. */
inline std::int64_t check(std::int64_t answer, const char *call)
{
    if (answer >= 0)
        return answer;
#if defined(__cpp_exceptions)
    throw std::system_error(static_cast<int>(-answer), std::generic_category(), call);
#else
    die(call, static_cast<int>(answer));
#endif
}

inline std::int64_t check(std::int64_t answer, std::error_code &ec) noexcept
{
    ec.assign(answer < 0 ? static_cast<int>(-answer) : 0, std::generic_category());
    return answer < 0 ? 0 : answer;
}

/* Where one errno is an answer, not an error: false for it. */
template <class Report>
bool check_unless(int ordinary, std::int64_t answer, Report &&report)
{
    check(answer == ordinary ? 0 : answer, report);
    return answer >= 0;
}

/* Runs what a callback runs: nothing is thrown into the library's frames. */
template <class Function>
void guarded(Function &&function) noexcept
{
#if defined(__cpp_exceptions)
    try {
        function();
    } catch (const std::exception &e) {
        die("an exception left a callback", e.what());
    } catch (...) {
        die("an exception left a callback", "it is no std::exception");
    }
#else
    function();
#endif
}

/* What is moved as it is. Of pointers and iovecs, what they point to was meant. */
template <class T>
inline constexpr bool is_data = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> &&
                                !std::is_same_v<std::remove_cv_t<T>, iovec>;

/* What `{pointer, length}` cannot mean: pointers, iovecs, and a class that has its memory elsewhere. That
 * std::data knows it is asked first: whether it can be copied may be asked of a complete type only. */
template <class T, class = void>
inline constexpr bool is_no_memory = std::is_pointer_v<T> || std::is_same_v<std::remove_cv_t<T>, iovec>;
template <class T>
inline constexpr bool is_no_memory<T, std::void_t<decltype(std::data(std::declval<T &>()))>> =
    std::is_class_v<T> && !std::is_trivially_copyable_v<T>;

/* Points to memory, and does not have it: so a const one does not make that const. */
template <class Range, class = void>
inline constexpr bool is_view = false;
template <class Range>
inline constexpr bool is_view<Range, std::void_t<decltype(std::data(std::declval<const Range &>()))>> =
    std::is_trivially_copyable_v<std::remove_const_t<Range>> &&
    std::is_same_v<decltype(std::data(std::declval<std::remove_const_t<Range> &>())),
                   decltype(std::data(std::declval<const Range &>()))>;

} // namespace detail

/** Memory that is read into or written from: a pointer and a length in bytes, as `{pointer, length}`, or
 * anything that std::data and std::size know, such as an array, a std::vector, a std::string_view, an
 * `ioe::buffer`. Does not own it: it must live until the operation has completed, so a temporary is refused
 * that has memory of its own. A string literal is an array: "abc" has four bytes. */
template <class Void>
class basic_bytes {
    template <class Range>
    using element = std::remove_pointer_t<decltype(std::data(std::declval<Range &>()))>;

  public:
    constexpr basic_bytes(Void *data, std::size_t size) noexcept : data_(data), size_(size) {}
    /** `{&vector, length}` would be the vector itself. A pointer to void, or to what is memory for all that
     * can be told, is taken as it is. */
    template <class T, class = std::enable_if_t<detail::is_no_memory<T>>>
    basic_bytes(T *, std::size_t) = delete;

    template <class Other, class = std::enable_if_t<std::is_convertible_v<Other *, Void *>>>
    constexpr basic_bytes(basic_bytes<Other> other) noexcept : data_(other.data()), size_(other.size())
    {
    }

    template <class Range, class = std::enable_if_t<
                               std::is_convertible_v<element<Range> *, Void *> &&
                               detail::is_data<element<Range>> &&
                               (std::is_lvalue_reference_v<Range> || detail::is_view<Range>)>>
    constexpr basic_bytes(Range &&range) noexcept
        : data_(std::data(range)), size_(std::size(range) * sizeof(element<Range>))
    {
    }

    constexpr Void *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

  private:
    Void *data_;
    std::size_t size_;
};
using mutable_bytes = basic_bytes<void>;
using const_bytes = basic_bytes<const void>;

/** `ioe_config`, filled with the defaults. */
struct config : ioe_config {
    config() noexcept { ioe_config_init(this, sizeof(ioe_config)); }
};

/** Sends messages of the library to a function, whose exceptions are treated as those of callbacks:
 * `ioe::set_log<my_log>(IOE_LOG_WARN, arg)`, with `void my_log(int level, const char *message, void *arg)`.
 * The C call, with NULL, turns them off again. */
template <auto Function>
void set_log(int max_level, void *arg = nullptr) noexcept
{
    ioe_set_log(
        [](int level, const char *message, void *its_arg) noexcept {
            detail::guarded([&] { Function(level, message, its_arg); });
        },
        arg, max_level);
}

/** What is done with an event that one has, by owner or by reference. All of it fails with `EBUSY` while
 * the event is in flight, which tells a mistake: that the callback has begun, the callback tells. The getters
 * may be called at any time, from any thread. */
class event_base {
  public:
    /** The C event, for getters that are not here. Its callback, and its hand-over to a context, are this
     * header's matter: a submit by the C call would not count as one. */
    ioe_event *get() const noexcept { return event_; }
    explicit operator bool() const noexcept { return event_ != nullptr; }

    void prep_read(int fd, mutable_bytes to, std::uint64_t offset)
    {
        detail::check(ioe_prep_read(event_, fd, to.data(), to.size(), offset), "ioe_prep_read");
    }
    void prep_read(int fd, mutable_bytes to, std::uint64_t offset, std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_read(event_, fd, to.data(), to.size(), offset), ec);
    }

    void prep_write(int fd, const_bytes from, std::uint64_t offset)
    {
        detail::check(ioe_prep_write(event_, fd, from.data(), from.size(), offset), "ioe_prep_write");
    }
    void prep_write(int fd, const_bytes from, std::uint64_t offset, std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_write(event_, fd, from.data(), from.size(), offset), ec);
    }

    void prep_readv(int fd, const iovec *iov, int iovcnt, std::uint64_t offset)
    {
        detail::check(ioe_prep_readv(event_, fd, iov, iovcnt, offset), "ioe_prep_readv");
    }
    void prep_readv(int fd, const iovec *iov, int iovcnt, std::uint64_t offset, std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_readv(event_, fd, iov, iovcnt, offset), ec);
    }

    void prep_writev(int fd, const iovec *iov, int iovcnt, std::uint64_t offset)
    {
        detail::check(ioe_prep_writev(event_, fd, iov, iovcnt, offset), "ioe_prep_writev");
    }
    void prep_writev(int fd, const iovec *iov, int iovcnt, std::uint64_t offset, std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_writev(event_, fd, iov, iovcnt, offset), ec);
    }

    void prep_fsync(int fd) { detail::check(ioe_prep_fsync(event_, fd), "ioe_prep_fsync"); }
    void prep_fsync(int fd, std::error_code &ec) noexcept { detail::check(ioe_prep_fsync(event_, fd), ec); }

    void prep_fdatasync(int fd) { detail::check(ioe_prep_fdatasync(event_, fd), "ioe_prep_fdatasync"); }
    void prep_fdatasync(int fd, std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_fdatasync(event_, fd), ec);
    }

    void prep_fallocate(int fd, int mode, std::uint64_t offset, std::uint64_t len)
    {
        detail::check(ioe_prep_fallocate(event_, fd, mode, offset, len), "ioe_prep_fallocate");
    }
    void prep_fallocate(int fd, int mode, std::uint64_t offset, std::uint64_t len,
                        std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_fallocate(event_, fd, mode, offset, len), ec);
    }

    void prep_sync_range(int fd, std::uint64_t offset, std::uint64_t len, std::uint32_t flags)
    {
        detail::check(ioe_prep_sync_range(event_, fd, offset, len, flags), "ioe_prep_sync_range");
    }
    void prep_sync_range(int fd, std::uint64_t offset, std::uint64_t len, std::uint32_t flags,
                         std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_sync_range(event_, fd, offset, len, flags), ec);
    }

    void prep_truncate(int fd, std::uint64_t length)
    {
        detail::check(ioe_prep_truncate(event_, fd, length), "ioe_prep_truncate");
    }
    void prep_truncate(int fd, std::uint64_t length, std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_truncate(event_, fd, length), ec);
    }

    void prep_advise(int fd, std::uint64_t offset, std::uint64_t len, int advice)
    {
        detail::check(ioe_prep_advise(event_, fd, offset, len, advice), "ioe_prep_advise");
    }
    void prep_advise(int fd, std::uint64_t offset, std::uint64_t len, int advice,
                     std::error_code &ec) noexcept
    {
        detail::check(ioe_prep_advise(event_, fd, offset, len, advice), ec);
    }

    /** Bits of `ioe_event_flag`; after the prep, which clears them. So with the next two. */
    void set_flags(std::uint32_t flags)
    {
        detail::check(ioe_event_set_flags(event_, flags), "ioe_event_set_flags");
    }
    void set_flags(std::uint32_t flags, std::error_code &ec) noexcept
    {
        detail::check(ioe_event_set_flags(event_, flags), ec);
    }

    void set_priority(int ioprio)
    {
        detail::check(ioe_event_set_priority(event_, ioprio), "ioe_event_set_priority");
    }
    void set_priority(int ioprio, std::error_code &ec) noexcept
    {
        detail::check(ioe_event_set_priority(event_, ioprio), ec);
    }

    void set_timeout(std::chrono::nanoseconds limit)
    {
        detail::check(ioe_event_set_timeout(event_, limit.count()), "ioe_event_set_timeout");
    }
    void set_timeout(std::chrono::nanoseconds limit, std::error_code &ec) noexcept
    {
        detail::check(ioe_event_set_timeout(event_, limit.count()), ec);
    }

    /** Bytes, 0 for what is no transfer, or what went wrong: what() is "read", "write" and so on. Before
     * completion that is `EINPROGRESS`. */
    std::size_t result() const
    {
        static constexpr const char *names[] = {"event",     "read",       "write",    "fsync", "fdatasync",
                                                "fallocate", "sync_range", "truncate", "advise"};
        const auto which = static_cast<std::size_t>(action());
        return static_cast<std::size_t>(
            detail::check(outcome(), which < std::size(names) ? names[which] : names[0]));
    }
    std::size_t result(std::error_code &ec) const noexcept
    {
        return static_cast<std::size_t>(detail::check(outcome(), ec));
    }
    /** The error alone. */
    std::error_code error() const noexcept
    {
        std::error_code ec;
        result(ec);
        return ec;
    }

    std::uint64_t transferred() const noexcept { return ioe_event_transferred(event_); }
    bool is_done() const noexcept { return ioe_event_is_done(event_); }
    int fd() const noexcept { return ioe_event_fd(event_); }
    int action() const noexcept { return ioe_event_action(event_); }
    void *buffer() const noexcept { return ioe_event_buffer(event_); }
    std::size_t size() const noexcept { return ioe_event_size(event_); }
    std::uint64_t offset() const noexcept { return ioe_event_offset(event_); }
    /** For `context::cancel`; to be read before the event is submitted. */
    std::uint64_t id() const noexcept { return ioe_event_id(event_); }

  protected:
    explicit event_base(ioe_event *its) noexcept : event_(its) {}
    event_base(const event_base &) noexcept = default;
    event_base &operator=(const event_base &) noexcept = default;
    ~event_base() = default;

    std::int64_t outcome() const noexcept
    {
        const std::int64_t result = ioe_event_result(event_);
        return result == IOE_PENDING ? -EINPROGRESS : result;
    }

    ioe_event *event_;
};

/** A pointer to an event that somebody owns, or to the one of a callback, which lives until that returns,
 * and longer where the callback submits it again. */
class event_ref : public event_base {
  public:
    event_ref(const event &owner) noexcept;
    /** Would point to nothing. */
    event_ref(const event &&) = delete;
    event_ref(const event_ref &) noexcept = default;
    event_ref &operator=(const event_ref &) noexcept = default;
    ~event_ref() = default;

    friend bool operator==(event_ref a, event_ref b) noexcept { return a.event_ == b.event_; }
    friend bool operator!=(event_ref a, event_ref b) noexcept { return a.event_ != b.event_; }

  private:
    friend class detail::callable;
    explicit event_ref(ioe_event *its) noexcept : event_base(its) {}
};

namespace detail {

/* Empty where it is nullptr, as a pointer to a function and a std::function may be. */
template <class T, class = void>
inline constexpr bool may_be_empty = false;
template <class T>
inline constexpr bool may_be_empty<
    T, std::enable_if_t<std::is_constructible_v<T, std::nullptr_t>,
                        std::void_t<decltype(static_cast<bool>(std::declval<const T &>() == nullptr))>>> =
    !std::is_null_pointer_v<T>;

/* Any callable, or none. A small one is kept in here, a larger one in memory of its own. */
class callable {
    static constexpr std::size_t room = 64;
    template <class T>
    static constexpr bool fits = sizeof(T) <= room && alignof(T) <= alignof(std::max_align_t) &&
                                 std::is_nothrow_move_constructible_v<T>;

  public:
    callable() = default;
    callable(callable &&other) noexcept { take(other); }
    callable &operator=(callable &&) = delete;
    ~callable()
    {
        /* It may submit its event: that has none by then. */
        if (const actions *its = std::exchange(its_, nullptr))
            its->destroy(storage_);
    }

    explicit operator bool() const noexcept { return its_ != nullptr; }
    void operator()(ioe_event *done) { its_->call(storage_, event_ref(done)); }

    /* For an empty one, which stays so where this fails. */
    template <class Function>
    int set(Function &&function)
    {
        using T = std::decay_t<Function>;
        if constexpr (may_be_empty<T>) {
            const T &its = function;
            if (its == nullptr)
                return -EINVAL;
        }
        if constexpr (std::is_null_pointer_v<T>)
            return 0;
        else if constexpr (fits<T>)
            return keep<T>(std::forward<Function>(function));
        else if (T *apart = ::new (std::nothrow) T(std::forward<Function>(function)))
            return keep<large<T>>(apart);
        else
            return -ENOMEM;
    }

    /* For an empty one; the other is empty then. */
    void take(callable &other) noexcept
    {
        its_ = std::exchange(other.its_, nullptr);
        if (its_ != nullptr)
            its_->move(other.storage_, storage_);
    }

  private:
    template <class T>
    struct large {
        T *apart;
        explicit large(T *its) noexcept : apart(its) {}
        large(large &&other) noexcept : apart(std::exchange(other.apart, nullptr)) {}
        ~large() { ::delete apart; }
        void operator()(event_ref done) { static_cast<void>(std::invoke(*apart, std::move(done))); }
    };

    struct actions {
        void (*call)(void *function, event_ref done);
        void (*move)(void *from, void *to) noexcept;
        void (*destroy)(void *function) noexcept;
    };
    template <class T>
    static void call(void *function, event_ref done)
    {
        static_cast<void>(std::invoke(*std::launder(static_cast<T *>(function)), std::move(done)));
    }
    template <class T>
    static void move(void *from, void *to) noexcept
    {
        ::new (to) T(std::move(*std::launder(static_cast<T *>(from))));
        destroy<T>(from);
    }
    template <class T>
    static void destroy(void *function) noexcept
    {
        std::launder(static_cast<T *>(function))->~T();
    }
    template <class T>
    static constexpr actions of = {call<T>, move<T>, destroy<T>};

    template <class T, class From>
    int keep(From &&from)
    {
        ::new (static_cast<void *>(storage_)) T(std::forward<From>(from));
        its_ = &of<T>;
        return 0;
    }

    const actions *its_ = nullptr;
    alignas(std::max_align_t) unsigned char storage_[room];
};

/* An event and its callable. The event's `arg` is its node. References: one of the handle, and one of each
 * submission until its callback has returned; the last one frees it. So a handle may go while the event is
 * in flight, and in its callback. */
struct node {
    ioe_event *event;
    std::atomic<unsigned> references{1};
    /* Whether its callable may ever have run. */
    std::atomic<bool> submitted{false};
    /* Has the event since a callback that still runs was replaced; the event outlives that one too. */
    node *successor = nullptr;
    callable function;

    explicit node(ioe_event *its) noexcept : event(its) {}

    void submitting() noexcept
    {
        submitted.store(true, std::memory_order_relaxed);
        references.fetch_add(1, std::memory_order_relaxed);
    }
};

inline node *node_of(const ioe_event *event) noexcept
{
    return static_cast<node *>(ioe_event_arg(event));
}

inline void release(node *n) noexcept
{
    while (n != nullptr && n->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        node *next = n->successor;
        ioe_event *event = n->event;
        delete n;
        ioe_event_free(event);
        n = next;
    }
}

/* Not extern "C", which would be one function in all of a program. */
inline void completed(ioe_event *event, void *arg) noexcept
{
    node *n = static_cast<node *>(arg);
    guarded([&] { n->function(event); });
    release(n);
}

/* NULL where memory is short. */
inline ioe_event *new_event() noexcept
{
    ioe_event *event = ioe_event_new();
    node *n = event != nullptr ? new (std::nothrow) node(event) : nullptr;
    if (n == nullptr) {
        ioe_event_free(event);
        return nullptr;
    }
    ioe_event_set_callback(event, completed, n);
    return event;
}

/* The one before goes with the argument, when all is done: its destructor may do anything with the event. */
inline int exchange_callable(ioe_event *event, callable &fresh) noexcept
{
    node *n = node_of(event);
    if (n->references.load(std::memory_order_acquire) == 1 || !n->submitted.load(std::memory_order_relaxed)) {
        callable before(std::move(n->function));
        n->function.take(fresh);
        fresh.take(before);
        return 0;
    }
    /* A callback runs, and keeps the callable with its node: the handle gets another. */
    std::unique_ptr<node> next(new (std::nothrow) node(event));
    if (next == nullptr)
        return -ENOMEM;
    next->function.take(fresh);
    next->references.store(2, std::memory_order_relaxed);
    const int err = ioe_event_set_callback(event, completed, next.get());
    if (err != 0)
        return err;
    n->event = nullptr;
    n->successor = next.release();
    release(n);
    return 0;
}

/* By the handle, whose reference is one of those counted. */
template <class Function>
int set_callable(ioe_event *event, Function &&function)
{
    /* This tells whether the event is in flight, or none. */
    int err = ioe_event_set_callback(event, completed, node_of(event));
    callable fresh;
    if (err == 0)
        err = fresh.set(std::forward<Function>(function));
    return err == 0 ? exchange_callable(event, fresh) : err;
}

/* Makes a reference before the event may be in flight, and takes it back where it was refused. */
template <class Call>
std::int64_t hand_over(ioe_event *event, Call call) noexcept
{
    node *n = node_of(event);
    if (n == nullptr || !n->function)
        return -EINVAL;
    n->submitting();
    const std::int64_t answer = call();
    if (answer < 0)
        release(n);
    return answer;
}

/* Portions, because the nodes are remembered: an event that was refused may have another one by then. */
inline std::int64_t hand_over_all(ioe_context *ctx, ioe_event *const *events, std::size_t n) noexcept
{
    /* An empty std::vector may give a null pointer, which the C call refuses. */
    if (n == 0)
        return ctx != nullptr ? 0 : -EINVAL;
    constexpr std::size_t portion = 256;
    node *nodes[portion];
    std::size_t accepted = 0, taken = portion;
    for (; accepted < n && taken == portion; accepted += taken) {
        std::size_t held = 0;
        for (; held < portion && held < n - accepted; ++held) {
            nodes[held] = node_of(events[accepted + held]);
            if (nodes[held] == nullptr || !nodes[held]->function)
                break;
            nodes[held]->submitting();
        }
        const std::int64_t answer = held > 0 ? ioe_submit_batch(ctx, events + accepted, held) : -EINVAL;
        taken = answer < 0 ? 0 : static_cast<std::size_t>(answer);
        for (std::size_t i = taken; i < held; ++i)
            release(nodes[i]);
        if (accepted == 0 && answer < 0)
            return answer;
    }
    return static_cast<std::int64_t>(accepted);
}

/* Its callback is not called; but callbacks of others, which run in here, may end its handle. */
inline std::int64_t wait_for(ioe_context *ctx, ioe_event *event) noexcept
{
    node *n = node_of(event);
    if (n == nullptr)
        return -EINVAL;
    n->references.fetch_add(1, std::memory_order_relaxed);
    const std::int64_t answer = ioe_submit_wait(ctx, event);
    release(n);
    return answer;
}

/* The same for many, whose nodes are remembered: one that was refused may have another by then. */
inline std::int64_t wait_for_all(ioe_context *ctx, ioe_event *const *events, std::size_t n) noexcept
{
    /* An empty std::vector may give a null pointer, which the C call refuses. */
    if (n == 0)
        return ctx != nullptr ? 0 : -EINVAL;
    constexpr std::size_t few = 256;
    node *some[few];
    std::unique_ptr<node *[]> many(n > few ? new (std::nothrow) node *[n] : nullptr);
    node **nodes = n > few ? many.get() : some;
    if (nodes == nullptr)
        return -ENOMEM;
    std::size_t held = 0;
    for (; held < n && (nodes[held] = node_of(events[held])) != nullptr; ++held)
        nodes[held]->references.fetch_add(1, std::memory_order_relaxed);
    const std::int64_t answer = held > 0 ? ioe_submit_wait_batch(ctx, events, held) : -EINVAL;
    for (std::size_t i = 0; i < held; ++i)
        release(nodes[i]);
    return answer;
}

/* A C context, and events for `co_await` that are used again: a list of them, linked by their `arg`. It
 * belongs to its handle and to each operation: one that was refused because the context is being freed still
 * gives its event back. */
struct engine {
    std::atomic<unsigned> references{1};
    ioe_context *ctx = nullptr;
    /* A thread has the list. No other waits for it: in a forked child that thread may not exist. */
    std::atomic<bool> busy{false};
    ioe_event *spare = nullptr;

    engine() = default;
    engine(const engine &) = delete;
    engine &operator=(const engine &) = delete;

    ~engine()
    {
        while (ioe_event *event = spare) {
            spare = static_cast<ioe_event *>(ioe_event_arg(event));
            ioe_event_free(event);
        }
    }

    struct leave {
        void operator()(engine *its) const noexcept
        {
            if (its->references.fetch_sub(1, std::memory_order_acq_rel) == 1)
                delete its;
        }
    };
    using owner = std::unique_ptr<engine, leave>;

    owner share() noexcept
    {
        references.fetch_add(1, std::memory_order_relaxed);
        return owner(this);
    }

    /* NULL where memory is short. */
    ioe_event *take() noexcept
    {
        ioe_event *event = nullptr;
        if (!busy.exchange(true, std::memory_order_acquire)) {
            event = spare;
            if (event != nullptr)
                spare = static_cast<ioe_event *>(ioe_event_arg(event));
            busy.store(false, std::memory_order_release);
        }
        return event != nullptr ? event : ioe_event_new();
    }

    void give(ioe_event *event) noexcept
    {
        if (busy.exchange(true, std::memory_order_acquire)) {
            ioe_event_free(event);
            return;
        }
        ioe_event_set_callback(event, [](ioe_event *, void *) {}, spare);
        spare = event;
        busy.store(false, std::memory_order_release);
    }
};

} // namespace detail

/** An event and the callable that is its callback. May be destroyed at any time: while it is in flight,
 * then it, its callable and what that has captured go when the callback has returned; in that callback, and
 * beside it. What it reads and writes is not its own, but a callable can capture the owner of that.
 *
 * The callable is called with an `event_ref`, as std::invoke does, once for each submission that was
 * accepted, where callbacks run. Where it has submitted the event again, it may run once more before it has
 * returned, on another thread. Up to 64 bytes of it, if moving them throws nothing, are kept with the event,
 * a larger one in memory of its own: setting it may allocate, and so does the constructor; for a submission
 * this header allocates nothing.
 *
 * A callable that has captured what owns its own event keeps both alive: until it is replaced, by
 * `on_complete(nullptr)` in itself for instance. */
class event : public event_base {
    template <class Function>
    using if_callable = std::enable_if_t<!std::is_base_of_v<event_base, std::decay_t<Function>> &&
                                         (std::is_null_pointer_v<std::decay_t<Function>> ||
                                          std::is_invocable_v<std::decay_t<Function> &, event_ref>)>;
    /* What its own constructor throws is no error code. */
    template <class Function>
    static constexpr bool is_kept_noexcept =
        std::is_nothrow_constructible_v<std::decay_t<Function>, Function &&>;

  public:
    /** Has no callable yet: submitting it fails with `EINVAL`, but for `submit_wait` and
     * `submit_wait_batch`. */
    event() : event_base(detail::new_event())
    {
        detail::check(event_ != nullptr ? 0 : -ENOMEM, "ioe_event_new");
    }
    explicit event(std::error_code &ec) noexcept : event_base(detail::new_event())
    {
        detail::check(event_ != nullptr ? 0 : -ENOMEM, ec);
    }

    template <class Function, class = if_callable<Function>>
    explicit event(Function &&function) : event()
    {
        on_complete(std::forward<Function>(function));
    }
    template <class Function, class = if_callable<Function>>
    event(Function &&function, std::error_code &ec) noexcept(is_kept_noexcept<Function>) : event(ec)
    {
        if (!ec)
            on_complete(std::forward<Function>(function), ec);
        if (ec)
            detail::release(detail::node_of(std::exchange(event_, nullptr)));
    }

    event(event &&other) noexcept : event_base(std::exchange(other.event_, nullptr)) {}
    event &operator=(event &&other) noexcept
    {
        event moved(std::move(other));
        std::swap(event_, moved.event_);
        return *this;
    }
    ~event() { detail::release(detail::node_of(event_)); }

    /** Sets the callable, or with `nullptr` none, and destroys the one before, when no callback runs it any
     * more: so a callable may replace itself, and its destructor may end its event. Where it throws what the
     * construction of the callable throws, or fails, with `EBUSY` while the event is in flight, with
     * `EINVAL` for a null pointer to a function or an empty std::function, with `ENOMEM`, the event keeps the
     * one it has. */
    template <class Function, class = if_callable<Function>>
    void on_complete(Function &&function)
    {
        detail::check(detail::set_callable(event_, std::forward<Function>(function)),
                      "ioe_event_set_callback");
    }
    template <class Function, class = if_callable<Function>>
    void on_complete(Function &&function, std::error_code &ec) noexcept(is_kept_noexcept<Function>)
    {
        detail::check(detail::set_callable(event_, std::forward<Function>(function)), ec);
    }
};

inline event_ref::event_ref(const event &owner) noexcept : event_base(owner) {}

/** Memory for direct I/O: `ioe_buffer_alloc`. Must live until no event in flight uses it. A const one is
 * not read into. */
class buffer {
  public:
    explicit buffer(std::size_t size, std::size_t align = 0) : buffer(raw(), size, align)
    {
        detail::check(outcome(size, align), "ioe_buffer_alloc");
    }
    buffer(std::size_t size, std::size_t align, std::error_code &ec) noexcept : buffer(raw(), size, align)
    {
        detail::check(outcome(size, align), ec);
    }
    buffer(std::size_t size, std::error_code &ec) noexcept : buffer(size, 0, ec) {}
    buffer(buffer &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0))
    {
    }
    buffer &operator=(buffer &&other) noexcept
    {
        buffer moved(std::move(other));
        std::swap(data_, moved.data_);
        std::swap(size_, moved.size_);
        return *this;
    }
    ~buffer() { ioe_buffer_free(data_); }

    std::byte *data() noexcept { return static_cast<std::byte *>(data_); }
    const std::byte *data() const noexcept { return static_cast<const std::byte *>(data_); }
    std::size_t size() const noexcept { return size_; }
    explicit operator bool() const noexcept { return data_ != nullptr; }

  private:
    struct raw {};
    buffer(raw, std::size_t size, std::size_t align) noexcept
        : data_(ioe_buffer_alloc(size, align)), size_(data_ != nullptr ? size : 0)
    {
    }
    int outcome(std::size_t size, std::size_t align) const noexcept
    {
        if (data_ != nullptr)
            return 0;
        return size == 0 || (align & (align - 1)) != 0 ? -EINVAL : -ENOMEM;
    }

    void *data_;
    std::size_t size_;
};

namespace detail {

/* What frees a handle, and what is said where its owner goes and it cannot be freed. */
struct free_workers {
    using handle = ioe_workers;
    static constexpr const char *call = "ioe_workers_free";
    static constexpr const char *refused = "workers were destroyed that cannot be freed";
    static int free(handle *its) noexcept { return ioe_workers_free(its); }
};
struct free_merger {
    using handle = ioe_merger;
    static constexpr const char *call = "ioe_merger_free";
    static constexpr const char *refused = "a merger was destroyed that cannot be freed";
    static int free(handle *its) noexcept { return ioe_merger_free(its); }
};

/* The owner of a handle that may not be freed at any time. */
template <class Free>
class owned {
  public:
    owned(owned &&other) noexcept : its_(std::exchange(other.its_, nullptr)) {}
    owned &operator=(owned &&other) noexcept
    {
        owned moved(std::move(other));
        std::swap(its_, moved.its_);
        return *this;
    }

    /** Frees it now: `ioe_workers_free`, or `ioe_merger_free`, which hands over what was gathered. */
    void close() { check(free(), Free::call); }
    void close(std::error_code &ec) noexcept { check(free(), ec); }

    typename Free::handle *get() const noexcept { return its_; }
    explicit operator bool() const noexcept { return its_ != nullptr; }

  protected:
    owned() = default;
    ~owned()
    {
        const int err = its_ != nullptr ? free() : 0;
        /* In a forked child there is nothing of it. */
        if (err != 0 && err != -EOWNERDEAD)
            die(Free::refused, err);
    }

    typename Free::handle *its_ = nullptr;

  private:
    int free() noexcept
    {
        const int err = Free::free(its_);
        if (err == 0)
            its_ = nullptr;
        return err;
    }
};

} // namespace detail

/** Callback threads that contexts share, by `config.shared = workers.get()`. Must outlive them: its
 * destructor ends the process where one still uses them. */
class workers : public detail::owned<detail::free_workers> {
  public:
    explicit workers(std::uint32_t threads)
    {
        detail::check(ioe_workers_new(threads, &its_), "ioe_workers_new");
    }
    workers(std::uint32_t threads, std::error_code &ec) noexcept
    {
        detail::check(ioe_workers_new(threads, &its_), ec);
    }
};

#if defined(IOE_COROUTINES)

/** Where an operation's error goes: into a std::error_code, or, where none is given, it is thrown. */
class error_out {
  public:
    error_out() = default;
    error_out(std::error_code &ec) noexcept : ec_(&ec) {}

    std::int64_t check(std::int64_t answer, const char *call) const
    {
        return ec_ != nullptr ? detail::check(answer, *ec_) : detail::check(answer, call);
    }

  private:
    std::error_code *ec_ = nullptr;
};

namespace detail {

/* An operation that a coroutine waits for. It lives in the coroutine's frame, and so does not move. */
class operation_base {
  public:
    operation_base(const operation_base &) = delete;
    operation_base &operator=(const operation_base &) = delete;

    /** For `context::cancel`; to be read before it is awaited. */
    std::uint64_t id() const noexcept { return ioe_event_id(event_); }

  protected:
    /* True where it is in flight. No part of the frame may be touched after the submit: the coroutine may run
     * elsewhere by then, and have ended. Not inlined, so that no compiler keeps a variable of this function
     * in the frame. */
    [[gnu::noinline]] bool start(std::coroutine_handle<> coroutine, int &refused) noexcept
    {
        if (err_ != 0 || in_flight_.exchange(true, std::memory_order_acquire)) {
            refused = err_ != 0 ? err_ : -EBUSY;
            return false;
        }
        int err = std::exchange(option_err_, 0);
        if (err == 0)
            err = ioe_event_set_callback(event_, completed, this);
        if (err == 0) {
            coroutine_ = coroutine;
            err = ioe_submit(engine_->ctx, event_);
            if (err == 0)
                return true;
        }
        in_flight_.store(false, std::memory_order_release);
        refused = err;
        return false;
    }

    std::int64_t outcome(int refused) const
    {
        return errors_.check(refused != 0 ? refused : ioe_event_result(event_), call_);
    }

    template <class Prepare>
    operation_base(engine *its, const char *call, error_out errors, Prepare prepare) noexcept
        : engine_(its != nullptr ? its->share() : nullptr), event_(its != nullptr ? its->take() : nullptr),
          err_(its == nullptr      ? -EINVAL
               : event_ == nullptr ? -ENOMEM
                                   : prepare(event_)),
          call_(call), errors_(errors)
    {
    }

    ~operation_base()
    {
        if (in_flight_.load(std::memory_order_relaxed))
            die("a coroutine was destroyed", "its operation is in flight, and would go on in its memory");
        if (event_ != nullptr)
            engine_->give(event_);
    }

    void option(int err) noexcept
    {
        if (option_err_ == 0)
            option_err_ = err;
    }

    ioe_event *event() const noexcept { return event_; }

  private:
    static void completed(ioe_event *, void *arg) noexcept
    {
        auto *self = static_cast<operation_base *>(arg);
        const std::coroutine_handle<> coroutine = self->coroutine_;
        self->in_flight_.store(false, std::memory_order_release);
        guarded([&] { coroutine.resume(); });
    }

    engine::owner engine_;
    ioe_event *event_;
    /* What the prep refused, and what the options did, until that has been told. */
    int err_, option_err_ = 0;
    const char *call_;
    error_out errors_;
    std::coroutine_handle<> coroutine_;
    std::atomic<bool> in_flight_{false};
};

} // namespace detail

/** What the calls of a context for `co_await` give. It is submitted when it is awaited, and the coroutine
 * goes on where callbacks run; where the submission is refused, it goes on at once, with that error, and may
 * await the operation again. One coroutine awaits it at a time: another gets `EBUSY`. A coroutine that is
 * destroyed while its operation is in flight ends the process: the kernel has its memory. */
template <class Result>
class [[nodiscard]] operation : public detail::operation_base {
  public:
    /** `ioe_event_set_flags`, `_priority` and `_timeout`: `co_await ctx.read(fd, to, 0).flags(IOE_NOWAIT)`.
     * What they refuse is the error of the next await, which submits nothing then. */
    operation &flags(std::uint32_t bits) & noexcept
    {
        option(ioe_event_set_flags(event(), bits));
        return *this;
    }
    operation &&flags(std::uint32_t bits) && noexcept { return std::move(flags(bits)); }
    operation &priority(int ioprio) & noexcept
    {
        option(ioe_event_set_priority(event(), ioprio));
        return *this;
    }
    operation &&priority(int ioprio) && noexcept { return std::move(priority(ioprio)); }
    operation &timeout(std::chrono::nanoseconds limit) & noexcept
    {
        option(ioe_event_set_timeout(event(), limit.count()));
        return *this;
    }
    operation &&timeout(std::chrono::nanoseconds limit) && noexcept { return std::move(timeout(limit)); }

    /* Apart from the operation, because GCC 12 would copy one that is awaited behind its options. */
    class awaiter {
      public:
        bool await_ready() const noexcept { return false; }
        bool await_suspend(std::coroutine_handle<> coroutine) noexcept
        {
            return its_.start(coroutine, refused_);
        }
        Result await_resume() const { return static_cast<Result>(its_.outcome(refused_)); }

      private:
        friend class operation;
        explicit awaiter(operation &its) noexcept : its_(its) {}
        operation &its_;
        int refused_ = 0;
    };
    awaiter operator co_await() noexcept { return awaiter(*this); }

  private:
    friend class context;
    using operation_base::operation_base;
};

#endif

/** A context. The destructor frees it as `close` does, and ends the process where that is refused: while a
 * merger of it lives, in a callback of it (so does exit(3) there, where the context is static), or off the
 * thread that owns a polled one. Declare it behind what callbacks use, and behind buffers: it goes before
 * them then, and completes what is in flight. */
class context {
  public:
    context() : context(config()) {}
    explicit context(const ioe_config &cfg) { detail::check(open(cfg), "ioe_context_new"); }
    context(const ioe_config &cfg, std::error_code &ec) noexcept { detail::check(open(cfg), ec); }
    context(context &&other) noexcept = default;
    context &operator=(context &&other) noexcept
    {
        context moved(std::move(other));
        std::swap(engine_, moved.engine_);
        return *this;
    }
    ~context()
    {
        const int err = engine_ != nullptr ? free() : 0;
        if (err != 0)
            detail::die("a context was destroyed that cannot be freed", err);
    }

    /** Completes what was accepted, runs the callbacks, and frees: `ioe_context_free`. Where it is refused
     * nothing is done. */
    void close() { detail::check(free(), "ioe_context_free"); }
    void close(std::error_code &ec) noexcept { detail::check(free(), ec); }

    ioe_context *get() const noexcept { return engine_ != nullptr ? engine_->ctx : nullptr; }
    explicit operator bool() const noexcept { return engine_ != nullptr; }

    void submit(event_ref event)
    {
        detail::check(detail::hand_over(event.get(), [&] { return ioe_submit(get(), event.get()); }),
                      "ioe_submit");
    }
    void submit(event_ref event, std::error_code &ec) noexcept
    {
        detail::check(detail::hand_over(event.get(), [&] { return ioe_submit(get(), event.get()); }), ec);
    }

    /** False, and no error, where the queue is full. */
    [[nodiscard]] bool try_submit(event_ref event) { return try_submit_as(event, "ioe_try_submit"); }
    [[nodiscard]] bool try_submit(event_ref event, std::error_code &ec) noexcept
    {
        return try_submit_as(event, ec);
    }

    /** Of an array, std::vector or the like, of `event` or `event_ref`, or `{a, b}`. Gives how many were
     * accepted; it is an error only where there are events and none was. More than 256 are handed over 256
     * at a time. An event may be in it once: one that comes again and is in flight is refused (`EBUSY`), and
     * those behind it; behind the first 256 this is undefined, as it may be gone by then. */
    template <class Events = std::initializer_list<event_ref>>
    std::size_t submit_batch(const Events &events)
    {
        return static_cast<std::size_t>(
            detail::check(with_all(events, detail::hand_over_all), "ioe_submit_batch"));
    }
    template <class Events = std::initializer_list<event_ref>>
    std::size_t submit_batch(const Events &events, std::error_code &ec) noexcept
    {
        return static_cast<std::size_t>(detail::check(with_all(events, detail::hand_over_all), ec));
    }

    /** Does the event, waits, and gives its result; a callable is not needed, and not called. */
    std::size_t submit_wait(event_ref event)
    {
        return static_cast<std::size_t>(
            detail::check(detail::wait_for(get(), event.get()), "ioe_submit_wait"));
    }
    std::size_t submit_wait(event_ref event, std::error_code &ec) noexcept
    {
        return static_cast<std::size_t>(detail::check(detail::wait_for(get(), event.get()), ec));
    }

    /** The same for many together, given as for `submit_batch`; but all of them are handed over at once, and
     * more than 256 take memory for a list meanwhile (`ENOMEM`). Gives how many were accepted, which are
     * done: `result` of each tells how. */
    template <class Events = std::initializer_list<event_ref>>
    std::size_t submit_wait_batch(const Events &events)
    {
        return static_cast<std::size_t>(
            detail::check(with_all(events, detail::wait_for_all), "ioe_submit_wait_batch"));
    }
    template <class Events = std::initializer_list<event_ref>>
    std::size_t submit_wait_batch(const Events &events, std::error_code &ec) noexcept
    {
        return static_cast<std::size_t>(detail::check(with_all(events, detail::wait_for_all), ec));
    }

    void drain() { detail::check(ioe_drain(get(), -1), "ioe_drain"); }
    void drain(std::error_code &ec) noexcept { detail::check(ioe_drain(get(), -1), ec); }
    /** False, and no error, where the time was up first. */
    [[nodiscard]] bool drain(std::chrono::milliseconds timeout)
    {
        return detail::check_unless(-ETIMEDOUT, ioe_drain(get(), timeout.count()), "ioe_drain");
    }
    [[nodiscard]] bool drain(std::chrono::milliseconds timeout, std::error_code &ec) noexcept
    {
        return detail::check_unless(-ETIMEDOUT, ioe_drain(get(), timeout.count()), ec);
    }

    /** Gives how many callbacks ran. -1 ms waits for `min` of them for ever. */
    unsigned poll(std::uint32_t min = 0, std::chrono::milliseconds timeout = std::chrono::milliseconds(-1))
    {
        return static_cast<unsigned>(detail::check(ioe_poll(get(), min, timeout.count()), "ioe_poll"));
    }
    unsigned poll(std::uint32_t min, std::chrono::milliseconds timeout, std::error_code &ec) noexcept
    {
        return static_cast<unsigned>(detail::check(ioe_poll(get(), min, timeout.count()), ec));
    }

    /** False, and no error, where no event of this id is in flight. */
    bool cancel(std::uint64_t id)
    {
        return detail::check_unless(-ENOENT, ioe_cancel(get(), id), "ioe_cancel");
    }
    bool cancel(std::uint64_t id, std::error_code &ec) noexcept
    {
        return detail::check_unless(-ENOENT, ioe_cancel(get(), id), ec);
    }

    ioe_info info() const
    {
        ioe_info out = {};
        detail::check(ioe_context_info(get(), &out, sizeof out), "ioe_context_info");
        return out;
    }
    ioe_info info(std::error_code &ec) const noexcept
    {
        ioe_info out = {};
        detail::check(ioe_context_info(get(), &out, sizeof out), ec);
        return out;
    }

    ioe_stats stats() const
    {
        ioe_stats out = {};
        detail::check(ioe_context_stats(get(), &out, sizeof out), "ioe_context_stats");
        return out;
    }
    ioe_stats stats(std::error_code &ec) const noexcept
    {
        ioe_stats out = {};
        detail::check(ioe_context_stats(get(), &out, sizeof out), ec);
        return out;
    }

    /** The eventfd of a polled context; the context closes it. */
    int fd() const { return static_cast<int>(detail::check(ioe_context_fd(get()), "ioe_context_fd")); }
    int fd(std::error_code &ec) const noexcept
    {
        return static_cast<int>(detail::check(ioe_context_fd(get()), ec));
    }

#if defined(IOE_COROUTINES)
    /** `std::size_t n = co_await ctx.read(fd, buffer, offset)`: bytes, or an error: thrown, or with `ec`
     * last, stored there, which must live until then. What is awaited is an `operation`. In steady state
     * this header allocates nothing for one, the context keeping as many events as were ever in use at once;
     * but where two threads begin or end one in the same moment, one of them has an event made or freed.
     * Awaiting blocks the thread while the queue is full, as `ioe_submit` does: never in a callback, so
     * never in a coroutine that has been resumed by one. */
    operation<std::size_t> read(int fd, mutable_bytes to, std::uint64_t offset, error_out ec = {}) noexcept
    {
        return {engine_.get(), "read", ec, [&](ioe_event *event) {
                    return ioe_prep_read(event, fd, to.data(), to.size(), offset);
                }};
    }
    operation<std::size_t> write(int fd, const_bytes from, std::uint64_t offset, error_out ec = {}) noexcept
    {
        return {engine_.get(), "write", ec, [&](ioe_event *event) {
                    return ioe_prep_write(event, fd, from.data(), from.size(), offset);
                }};
    }
    operation<std::size_t> readv(int fd, const iovec *iov, int iovcnt, std::uint64_t offset,
                                 error_out ec = {}) noexcept
    {
        return {engine_.get(), "readv", ec, [&](ioe_event *event) {
                    return ioe_prep_readv(event, fd, iov, iovcnt, offset);
                }};
    }
    operation<std::size_t> writev(int fd, const iovec *iov, int iovcnt, std::uint64_t offset,
                                  error_out ec = {}) noexcept
    {
        return {engine_.get(), "writev", ec, [&](ioe_event *event) {
                    return ioe_prep_writev(event, fd, iov, iovcnt, offset);
                }};
    }
    operation<void> fsync(int fd, error_out ec = {}) noexcept
    {
        return {engine_.get(), "fsync", ec, [&](ioe_event *event) { return ioe_prep_fsync(event, fd); }};
    }
    operation<void> fdatasync(int fd, error_out ec = {}) noexcept
    {
        return {engine_.get(), "fdatasync", ec,
                [&](ioe_event *event) { return ioe_prep_fdatasync(event, fd); }};
    }
    operation<void> fallocate(int fd, int mode, std::uint64_t offset, std::uint64_t len,
                              error_out ec = {}) noexcept
    {
        return {engine_.get(), "fallocate", ec, [&](ioe_event *event) {
                    return ioe_prep_fallocate(event, fd, mode, offset, len);
                }};
    }
    operation<void> sync_range(int fd, std::uint64_t offset, std::uint64_t len, std::uint32_t flags,
                               error_out ec = {}) noexcept
    {
        return {engine_.get(), "sync_range", ec, [&](ioe_event *event) {
                    return ioe_prep_sync_range(event, fd, offset, len, flags);
                }};
    }
    operation<void> truncate(int fd, std::uint64_t length, error_out ec = {}) noexcept
    {
        return {engine_.get(), "truncate", ec,
                [&](ioe_event *event) { return ioe_prep_truncate(event, fd, length); }};
    }
    operation<void> advise(int fd, std::uint64_t offset, std::uint64_t len, int advice,
                           error_out ec = {}) noexcept
    {
        return {engine_.get(), "advise", ec, [&](ioe_event *event) {
                    return ioe_prep_advise(event, fd, offset, len, advice);
                }};
    }
#endif

  private:
    int open(const ioe_config &cfg) noexcept
    {
        detail::engine::owner fresh(new (std::nothrow) detail::engine);
        if (fresh == nullptr)
            return -ENOMEM;
        const int err = ioe_context_new(&cfg, &fresh->ctx);
        if (err == 0)
            engine_ = std::move(fresh);
        return err;
    }

    int free() noexcept
    {
        const int err = ioe_context_free(get());
        if (err == 0) {
            engine_->ctx = nullptr;
            engine_.reset();
        }
        return err;
    }

    template <class Report>
    bool try_submit_as(event_ref event, Report &&report)
    {
        return detail::check_unless(
            -EAGAIN, detail::hand_over(event.get(), [&] { return ioe_try_submit(get(), event.get()); }),
            report);
    }

    template <class Events>
    std::int64_t with_all(const Events &events,
                          std::int64_t call(ioe_context *, ioe_event *const *, std::size_t) noexcept) noexcept
    {
        using one = std::remove_pointer_t<decltype(std::data(events))>;
        static_assert(std::is_base_of_v<event_base, one>, "a batch is of events");
        /* They are what the C call wants: pointers to C events, one after the other. */
        static_assert(sizeof(one) == sizeof(ioe_event *) && std::is_standard_layout_v<one>);
        return call(get(), reinterpret_cast<ioe_event *const *>(std::data(events)), std::size(events));
    }

    detail::engine::owner engine_;
};

/** Gathers neighbouring events of one file: `ioe_merger_new` says how. Its destructor hands over what was
 * gathered, before that of the context, and ends the process where that is refused: off the thread that
 * owns a polled context. */
class merger : public detail::owned<detail::free_merger> {
  public:
    merger(context &ctx, int fd, int action, std::size_t limit)
    {
        detail::check(ioe_merger_new(ctx.get(), fd, action, limit, &its_), "ioe_merger_new");
    }
    merger(context &ctx, int fd, int action, std::size_t limit, std::error_code &ec) noexcept
    {
        detail::check(ioe_merger_new(ctx.get(), fd, action, limit, &its_), ec);
    }

    void add(event_ref event)
    {
        detail::check(detail::hand_over(event.get(), [&] { return ioe_merger_add(its_, event.get()); }),
                      "ioe_merger_add");
    }
    void add(event_ref event, std::error_code &ec) noexcept
    {
        detail::check(detail::hand_over(event.get(), [&] { return ioe_merger_add(its_, event.get()); }), ec);
    }

    void flush() { detail::check(ioe_merger_flush(its_), "ioe_merger_flush"); }
    void flush(std::error_code &ec) noexcept { detail::check(ioe_merger_flush(its_), ec); }
};

} // namespace IOE_CPP_NAMESPACE
} // namespace ioe

#undef IOE_CPP_JOIN
#undef IOE_CPP_NAME
#undef IOE_CPP_NAMESPACE

#endif
