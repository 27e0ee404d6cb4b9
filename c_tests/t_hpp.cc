/*
 * Promise: io_engine.hpp owns what it makes. Nothing leaks, is freed twice or used after it was freed,
 * whenever handles and callables go: before a submission, in flight, in the callback, beside it. Each
 * accepted event has its callable called once. Errors come in both forms, an operation allocates
 * nothing, and no exception leaves a callback. C++17.
 */
#include <array>
#include <csignal>
#include <sys/mman.h>
#include <thread>

#include "hpp.h"

namespace {

template <class T>
constexpr bool is_owner = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                          !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(is_owner<ioe::context> && is_owner<ioe::event> && is_owner<ioe::buffer>);
static_assert(is_owner<ioe::merger> && is_owner<ioe::workers>);
static_assert(std::is_trivially_copyable_v<ioe::event_ref>);
static_assert(std::is_convertible_v<ioe::event &, ioe::event_ref>);
static_assert(!std::is_convertible_v<const std::vector<char> &, ioe::mutable_bytes>, "it is const");
static_assert(std::is_convertible_v<const std::vector<char> &, ioe::const_bytes>);
static_assert(!std::is_convertible_v<std::vector<std::string> &, ioe::mutable_bytes>, "bytes are no strings");
static_assert(!std::is_constructible_v<ioe::event, int>, "an int is no callback");
/* A temporary that has its memory is gone when the event runs; a view's memory is another's. */
template <class Range, class Bytes = ioe::const_bytes>
constexpr bool are_bytes = std::is_convertible_v<Range, Bytes>;
static_assert(!are_bytes<std::string> && !are_bytes<const std::string> && are_bytes<std::string &>);
static_assert(!are_bytes<std::vector<char>> && !are_bytes<std::vector<char>, ioe::mutable_bytes>);
static_assert(!are_bytes<std::array<char, 4>> && are_bytes<std::array<char, 4> &, ioe::mutable_bytes>);
static_assert(!are_bytes<char[4]> && !are_bytes<const char[4]> && are_bytes<const char (&)[4]>);
static_assert(!are_bytes<ioe::buffer> && are_bytes<ioe::buffer &, ioe::mutable_bytes>);
static_assert(are_bytes<std::string_view> && are_bytes<const std::string_view>);
static_assert(are_bytes<ioe::const_bytes> && are_bytes<ioe::mutable_bytes>);
static_assert(are_bytes<ioe::mutable_bytes &> && are_bytes<const ioe::mutable_bytes &>);
static_assert(!are_bytes<ioe::const_bytes, ioe::mutable_bytes>, "it is const");
static_assert(are_bytes<const ioe::buffer &> && !are_bytes<const ioe::buffer &, ioe::mutable_bytes>);
/* Pointers and what has them were not meant. */
static_assert(!are_bytes<iovec (&)[2]> && !are_bytes<const iovec (&)[2]>);
static_assert(!are_bytes<std::vector<char *> &>);
static_assert(std::is_constructible_v<ioe::mutable_bytes, std::array<char, 4> *, size_t>);
static_assert(std::is_constructible_v<ioe::mutable_bytes, std::nullptr_t, int>);
static_assert(!std::is_constructible_v<ioe::mutable_bytes, std::vector<char> *, size_t>);
static_assert(!std::is_constructible_v<ioe::const_bytes, const std::string *, size_t>);
static_assert(!std::is_constructible_v<ioe::mutable_bytes, iovec *, size_t>);
static_assert(!std::is_constructible_v<ioe::const_bytes, const char **, size_t>);
/* Memory that only its owner knows, and a page that is not copied. */
struct unknown;
struct page {
    page() = default;
    page(const page &) = delete;
    char bytes[4096];
};
static_assert(std::is_constructible_v<ioe::mutable_bytes, unknown *, size_t>);
static_assert(std::is_constructible_v<ioe::const_bytes, const unknown *, size_t>);
static_assert(!std::is_constructible_v<ioe::mutable_bytes, const unknown *, size_t>, "it is const");
static_assert(std::is_constructible_v<ioe::mutable_bytes, page *, size_t>);
static_assert(std::is_constructible_v<ioe::const_bytes, const page *, size_t>);
static_assert(std::is_constructible_v<ioe::mutable_bytes, page (*)[2], size_t>);
/* Whether one that has no const data() is a view cannot be told. */
struct mutable_only {
    char *begin;
    char *data() { return begin; }
    size_t size() const { return 1; }
};
static_assert(!are_bytes<mutable_only> && !are_bytes<const mutable_only>);
static_assert(are_bytes<mutable_only &, ioe::mutable_bytes>);
/* A reference is to an event that has an owner, or is that of a callback. */
static_assert(!std::is_constructible_v<ioe::event_ref, ioe::event>);
static_assert(!std::is_constructible_v<ioe::event_ref, ioe_event *>);
/* The two forms of a call. */
static_assert(noexcept(std::declval<ioe::context &>().submit(std::declval<ioe::event &>(),
                                                             std::declval<std::error_code &>())));
static_assert(!noexcept(std::declval<ioe::context &>().submit(std::declval<ioe::event &>())));

constexpr size_t len = 4096;

/* Counts its living copies. */
struct counted {
    static std::atomic<int> alive;
    counted() { ++alive; }
    counted(const counted &) { ++alive; }
    counted &operator=(const counted &) = default;
    ~counted() { --alive; }
};
std::atomic<int> counted::alive{0};

void what_was_written_is_read(void **state)
{
    const auto *how = static_cast<const delivery *>(*state);
    ioe::context ctx(config_for(how));
    file fd;
    ioe::buffer out(len), in(len);
    pattern_fill(out.data(), len, 1, 0);
    std::atomic<size_t> written{0}, read{0};
    ioe::event first([&](ioe::event_ref done) { written = done.result(); });
    first.prep_write(fd, out, 0);
    ctx.submit(first);
    ctx.drain();
    ioe::event second([&](ioe::event_ref done) { read = done.result(); });
    second.prep_read(fd, {in.data(), in.size()}, 0);
    assert_true(ctx.try_submit(second));
    assert_true(ctx.drain(std::chrono::minutes(1)));
    assert_int_equal(written, len);
    assert_int_equal(read, len);
    assert_true(pattern_holds(in.data(), len, 1, 0));
    assert_true(second.is_done() && !second.error());
    assert_int_equal(second.transferred(), len);
    assert_ptr_equal(second.buffer(), in.data());
    assert_true(second.fd() == fd && second.action() == IOE_READ && second.size() == len &&
                second.offset() == 0);
    assert_int_equal(ctx.stats().completed, 2);
    assert_int_equal(ctx.info().driver, tested_driver);
}

void every_action_and_option(void **state)
{
    ioe::context ctx(config_for(static_cast<const delivery *>(*state)));
    file fd;
    std::vector<char> out(len, 'x'), in(len);
    const iovec from[] = {{out.data(), len / 2}, {out.data() + len / 2, len / 2}};
    const iovec to[] = {{in.data(), len / 2}, {in.data() + len / 2, len / 2}};
    ioe::event event;
    event.prep_fallocate(fd, 0, 0, 4 * len);
    assert_int_equal(ctx.submit_wait(event), 0);
    event.prep_writev(fd, from, 2, len);
    event.set_timeout(std::chrono::minutes(1));
    event.set_priority(2 << 13 | 4);
    assert_int_equal(ctx.submit_wait(event), len);
    event.prep_readv(fd, to, 2, len);
    assert_int_equal(ctx.submit_wait(event), len);
    assert_memory_equal(in.data(), out.data(), len);
    event.prep_fdatasync(fd);
    event.set_flags(IOE_BARRIER);
    assert_int_equal(ctx.submit_wait(event), 0);
    event.prep_fsync(fd);
    assert_int_equal(ctx.submit_wait(event), 0);
    assert_int_equal(event.result(), 0);
    event.prep_sync_range(fd, 0, len, SYNC_FILE_RANGE_WRITE);
    assert_int_equal(ctx.submit_wait(event), 0);
    event.prep_truncate(fd, 2 * len);
    assert_int_equal(ctx.submit_wait(event), 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), 2 * len);
    event.prep_advise(fd, 0, len, POSIX_FADV_WILLNEED);
    assert_int_equal(ctx.submit_wait(event), 0);
    assert_int_equal(event.result(), 0);
    std::error_code ec;
    event.prep_sync_range(fd, UINT64_MAX, 1, 0, ec);
    assert_int_equal(ec.value(), EINVAL);
    event.prep_truncate(fd, UINT64_MAX, ec);
    assert_int_equal(ec.value(), EINVAL);
    event.prep_advise(fd, UINT64_MAX, 1, 0, ec);
    assert_int_equal(ec.value(), EINVAL);
    const auto name_of_failed = [&] {
        assert_true(ctx.submit_wait(event, ec) == 0 && ec.value() == EBADF);
        try {
            event.result();
        } catch (const std::system_error &e) {
            return std::string(e.what());
        }
        return std::string();
    };
    event.prep_fallocate(-1, 0, 0, 1);
    assert_true(name_of_failed().find("fallocate") == 0);
    event.prep_sync_range(-1, 0, 1, 0);
    assert_true(name_of_failed().find("sync_range") == 0);
    event.prep_truncate(-1, 1);
    assert_true(name_of_failed().find("truncate") == 0);
    event.prep_advise(-1, 0, 1, 0);
    assert_true(name_of_failed().find("advise") == 0);
    event.prep_write(fd, std::string_view("four"), 0);
    assert_int_equal(ctx.submit_wait(event), 4);
    page two[2];
    event.prep_read(fd, {&two[1], sizeof two[1]}, 0);
    assert_int_equal(ctx.submit_wait(event), sizeof two[1]);
    assert_memory_equal(two[1].bytes, "four", 4);
    auto *hidden = reinterpret_cast<unknown *>(&two[0]);
    event.prep_read(fd, {hidden, sizeof two[0]}, 0);
    assert_int_equal(ctx.submit_wait(event), sizeof two[0]);
    assert_memory_equal(two[0].bytes, "four", 4);
    int numbers[100] = {};
    event.prep_read(fd, numbers, 0);
    assert_int_equal(ctx.submit_wait(event), sizeof numbers);
}

std::atomic<int> called{0};
void plain_function(ioe::event_ref) { ++called; }

/* Small, but for more than malloc aligns to. */
struct alignas(64) aligned_callable {
    counted count;
    void operator()(ioe::event_ref) { called += reinterpret_cast<uintptr_t>(this) % 64 == 0; }
};

/* Runs it in an event whose handle is gone before the callback. */
template <class Function>
void runs_once(ioe::context &ctx, int fd, Function function)
{
    called = 0;
    {
        ioe::event event(std::move(function));
        event.prep_fsync(fd);
        ctx.submit(event);
    }
    ctx.drain();
    assert_int_equal(called, 1);
    assert_int_equal(counted::alive, 0);
}

void any_callable_is_a_callback(void **state)
{
    ioe::context ctx(config_for(static_cast<const delivery *>(*state)));
    file fd;
    runs_once(ctx, fd, plain_function);
    runs_once(ctx, fd, [](auto) { ++called; });
    runs_once(ctx, fd, [own = std::make_unique<int>(7)](ioe::event_ref) { called += *own == 7; });
    runs_once(ctx, fd, [count = std::make_unique<counted>()](ioe::event_ref) { ++called; });
    std::array<char, 1000> large = {};
    large[999] = 1;
    runs_once(ctx, fd, [large, c = std::make_unique<counted>()](ioe::event_ref) { called += large[999]; });
    /* Made in place: an argument of runs_once would count as well. */
    {
        called = 0;
        std::vector<ioe::event> events;
        for (int i = 0; i < 16; ++i) {
            events.emplace_back(aligned_callable());
            events.back().prep_fsync(fd);
            ctx.submit(events.back());
        }
        ctx.drain();
        assert_int_equal(called, 16);
        assert_int_equal(counted::alive, 16);
    }
    assert_int_equal(counted::alive, 0);
    /* Never submitted, and replaced. */
    ioe::event idle([c = counted()](ioe::event_ref) {});
    assert_int_equal(counted::alive, 1);
    idle.on_complete([c = counted(), copy = large](ioe::event_ref) { called += copy[0]; });
    assert_int_equal(counted::alive, 1);
    idle = ioe::event();
    assert_int_equal(counted::alive, 0);
}

/* Warns where its value is not used, and may only be allocated its own way. */
struct particular {
    std::array<char, 100> large = {};
    [[nodiscard]] int operator()(ioe::event_ref) { return ++called; }
    static void *operator new(size_t) = delete;
    static void operator delete(void *) = delete;
};

template <size_t size>
struct rvalue_only {
    char bytes[size] = {};
    void operator()(ioe::event_ref &&) { ++called; }
};

void what_std_invoke_takes_is_a_callback(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    called = 0;
    ioe::event event{particular()};
    const auto run = [&] {
        event.prep_fsync(fd);
        ctx.submit(event);
        assert_int_equal(ctx.poll(1), 1);
    };
    run();
    assert_int_equal(called, 1);
    event.on_complete(&ioe::event_ref::is_done);
    run();
    event.on_complete([]() -> void (*)(ioe::event_ref) { return plain_function; }());
    run();
    assert_int_equal(called, 2);
    event.on_complete(rvalue_only<1>());
    run();
    event.on_complete(rvalue_only<1000>());
    run();
    event.on_complete(std::function<void(ioe::event_ref)>(plain_function));
    run();
    assert_int_equal(called, 5);
    /* What is null calls nothing, and leaves the one before. */
    void (*null)(ioe::event_ref) = nullptr;
    bool (ioe::event_base::*null_member)() const noexcept = nullptr;
    assert_int_equal(thrown([&] { event.on_complete(null); }), EINVAL);
    assert_int_equal(thrown([&] { event.on_complete(null_member); }), EINVAL);
    assert_int_equal(thrown([&] { ioe::event none(null); }), EINVAL);
    std::error_code ec;
    ioe::event none(null, ec);
    assert_true(ec == std::errc::invalid_argument && !none);
    std::function<void(ioe::event_ref)> empty;
    assert_int_equal(thrown([&] { event.on_complete(empty); }), EINVAL);
    assert_int_equal(thrown([&] { ioe::event nothing(std::move(empty)); }), EINVAL);
    run();
    assert_int_equal(called, 6);
}

/* Its copies throw when told. */
struct fragile {
    static bool breaks;
    counted count;
    fragile() = default;
    fragile(const fragile &other) : count(other.count)
    {
        if (breaks)
            throw std::runtime_error("fragile");
    }
    void operator()(ioe::event_ref) { called += 100; }
};
bool fragile::breaks = false;

/* The same, small enough to be kept with the event. */
struct small_fragile : fragile {
    small_fragile() = default;
    small_fragile(const small_fragile &) = default;
    small_fragile(small_fragile &&) noexcept {}
};

template <class Fragile>
void a_callable_whose_copy_throws_changes_nothing(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    std::error_code ec;
    const Fragile original;
    static_assert(!noexcept(ioe::event(original, ec)) && noexcept(ioe::event(plain_function, ec)));
    ioe::event event([c = counted()](ioe::event_ref) { ++called; }, ec);
    assert_int_equal(ec.value(), 0);
    fragile::breaks = true;
    for (int with_ec = 0; with_ec < 2; ++with_ec) {
        bool threw = false;
        try {
            if (with_ec)
                event.on_complete(original, ec);
            else
                event.on_complete(original);
        } catch (const std::runtime_error &) {
            threw = true;
        }
        assert_true(threw);
    }
    assert_int_equal(counted::alive, 2);
    called = 0;
    event.prep_fsync(fd);
    ctx.submit(event);
    ctx.drain();
    assert_int_equal(called, 1);
    fragile::breaks = false;
    event.on_complete(original, ec);
    assert_int_equal(ec.value(), 0);
    event.prep_fsync(fd);
    ctx.submit(event);
    ctx.drain();
    assert_int_equal(called, 101);
}

/* Owns its own event, as an object does that gives itself to its callback. */
struct owns_itself {
    counted count;
    ioe::event event;
};

/* Does something when it is destroyed, once. */
template <class Function>
struct at_end {
    Function function;
    bool armed = true;
    explicit at_end(Function its) : function(std::move(its)) {}
    at_end(at_end &&other) noexcept : function(other.function), armed(std::exchange(other.armed, false)) {}
    ~at_end()
    {
        if (armed)
            function();
    }
    void operator()(ioe::event_ref) {}
};

void a_callable_that_goes_may_do_anything_with_its_event(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    /* It ends it: by another callable, by none, and by none in its callback. */
    for (int how = 0; how < 3; ++how) {
        auto own = std::make_shared<owns_itself>();
        owns_itself *its = own.get();
        if (how == 2) {
            own->event.on_complete([own](ioe::event_ref) { own->event.on_complete(nullptr); });
            own->event.prep_fsync(fd);
            ctx.submit(own->event);
        } else {
            own->event.on_complete([own](ioe::event_ref) {});
        }
        own.reset();
        assert_int_equal(counted::alive, 1);
        if (how == 0)
            its->event.on_complete([](ioe::event_ref) {});
        else if (how == 1)
            its->event.on_complete(nullptr);
        ctx.drain();
        assert_int_equal(counted::alive, 0);
    }
    /* It sets another, which is the last, also a larger one; it submits the event with the new one. */
    called = 0;
    ioe::event event;
    event.prep_fsync(fd);
    event.on_complete(at_end([&] { event.on_complete([c = counted()](ioe::event_ref) { called += 10; }); }));
    event.on_complete([c = counted()](ioe::event_ref) { called += 100; });
    assert_int_equal(counted::alive, 1);
    ctx.submit(event);
    ctx.drain();
    assert_int_equal(called, 10);
    event.prep_fsync(fd);
    event.on_complete(at_end([&] { ctx.submit(event); }));
    event.on_complete([](ioe::event_ref) { ++called; });
    ctx.drain();
    assert_int_equal(called, 11);
    /* It goes with the event, and submits that once more: there is none any more. */
    std::error_code ec;
    {
        ioe::event last;
        last.prep_fsync(fd);
        last.on_complete(at_end([&ctx, &ec, its = ioe::event_ref(last)] { ctx.submit(its, ec); }));
    }
    assert_int_equal(ec.value(), EINVAL);
    /* Without one it is refused. */
    event.prep_fsync(fd);
    event.on_complete(nullptr, ec);
    assert_int_equal(ec.value(), 0);
    assert_int_equal(thrown([&] { ctx.submit(event); }), EINVAL);
    assert_int_equal(ctx.submit_wait(event), 0);
}

/* A polled context: nothing completes until it is polled. */
void a_handle_may_go_in_flight(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    char byte = 'x';
    called = 0;
    for (int round = 0; round < 3; ++round) {
        std::error_code ec;
        {
            ioe::event event([c = counted()](ioe::event_ref done) { called += done.result() == 1; });
            event.prep_write(fd, {&byte, 1}, 0);
            std::unique_ptr<ioe::merger> merger;
            if (round == 0)
                ctx.submit(event);
            if (round == 1)
                assert_int_equal(ctx.submit_batch({event, event}, ec), 1);
            if (round == 2) {
                merger = std::make_unique<ioe::merger>(ctx, fd, IOE_WRITE, 1 << 20);
                merger->add(event);
            }
            /* In flight it is nobody's. */
            ctx.submit(event, ec);
            assert_true(ec == std::errc::device_or_resource_busy);
            event.prep_fsync(fd, ec);
            assert_true(ec == std::errc::device_or_resource_busy);
            event.on_complete([](ioe::event_ref) {}, ec);
            assert_true(ec == std::errc::device_or_resource_busy);
            assert_true(event.error() == std::errc::operation_in_progress);
        }
        assert_int_equal(called, round);
        assert_int_equal(counted::alive, 1);
        ctx.drain();
        assert_int_equal(called, round + 1);
        assert_int_equal(counted::alive, 0);
    }
    /* And with the context: it completes everything first. */
    {
        ioe::event event([c = counted()](ioe::event_ref) { ++called; });
        event.prep_write(fd, {&byte, 1}, 0);
        ctx.submit(event);
    }
    ctx = ioe::context(polled_config());
    assert_int_equal(called, 4);
    assert_int_equal(counted::alive, 0);
}

void a_handle_may_go_in_its_callback(void **state)
{
    ioe::context ctx(config_for(static_cast<const delivery *>(*state)));
    file fd;
    called = 0;
    auto event = std::make_unique<ioe::event>();
    event->on_complete([&event, c = counted()](ioe::event_ref done) {
        event.reset();
        called += counted::alive == 1 && done.result() == 0;
    });
    event->prep_fsync(fd);
    ctx.submit(*event);
    ctx.drain();
    assert_int_equal(called, 1);
    assert_int_equal(counted::alive, 0);
}

/* What a polled submit_wait waits for loses its handle to another's callback meanwhile. */
void a_handle_may_go_while_it_is_waited_for(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    called = 0;
    auto waited = std::make_unique<ioe::event>();
    ioe::event other([&, c = counted()](ioe::event_ref) {
        waited.reset();
        ++called;
    });
    other.prep_fsync(fd);
    ctx.submit(other);
    waited->on_complete([c = counted()](ioe::event_ref) { called = 100; });
    /* A barrier is handed over, and waits for its turn. */
    waited->prep_fsync(fd);
    waited->set_flags(IOE_BARRIER);
    assert_int_equal(ctx.submit_wait(*waited), 0);
    ctx.drain();
    assert_int_equal(called, 1);
    assert_null(waited.get());
    assert_int_equal(counted::alive, 1);
}

/* So do all of many, and their list goes with them. */
void a_batch_that_is_waited_for_may_lose_its_handles(void **)
{
    for (const unsigned n : {2u, 256u, 257u, 600u}) {
        ioe::context ctx(polled_config());
        file fd;
        called = 0;
        auto waited = std::make_unique<std::vector<ioe::event>>(n);
        ioe::event other([&, c = counted()](ioe::event_ref) {
            waited.reset();
            ++called;
        });
        other.prep_fsync(fd);
        ctx.submit(other);
        for (ioe::event &event : *waited) {
            event.on_complete([c = counted()](ioe::event_ref) { called = 100; });
            event.prep_fsync(fd);
        }
        assert_int_equal(ctx.submit_wait_batch(*waited), n);
        ctx.drain();
        assert_int_equal(called, 1);
        assert_null(waited.get());
        assert_int_equal(counted::alive, 1);
    }
    assert_int_equal(counted::alive, 0);
}

void a_batch_is_waited_for(void **)
{
    ioe::context ctx;
    file fd;
    std::error_code ec;
    char out[] = "both", in[5] = "";
    ioe::event first, second, bad([](ioe::event_ref) { called = 100; });
    called = 0;
    first.prep_write(fd, {out, 2}, 0);
    second.prep_write(fd, {out + 2, 3}, 2);
    assert_int_equal(ctx.submit_wait_batch({first, second}), 2);
    assert_int_equal(second.result(), 3);
    first.prep_read(fd, {in, 5}, 0);
    second.prep_read(-1, {in, 5}, 0);
    /* The last was never prepared. */
    assert_int_equal(ctx.submit_wait_batch({first, second, bad}, ec), 2);
    assert_int_equal(ec.value(), 0);
    assert_string_equal(in, "both");
    assert_int_equal(second.error().value(), EBADF);
    assert_int_equal(thrown([&] { ctx.submit_wait_batch({bad, first}); }), EINVAL);
    assert_int_equal(ctx.submit_wait_batch({bad}, ec), 0);
    assert_int_equal(ec.value(), EINVAL);
    assert_int_equal(ctx.submit_wait_batch(std::vector<ioe::event>(), ec), 0);
    assert_int_equal(ec.value(), 0);
    ctx.drain();
    assert_int_equal(called, 0);
}

bool is_mapped(const std::byte *memory)
{
    return msync(const_cast<std::byte *>(memory), len, MS_ASYNC) == 0;
}

void owners_free_what_they_made(void **)
{
    const std::byte *first, *second, *third;
    {
        ioe::workers shared(2);
        ioe::config cfg;
        cfg.shared = shared.get();
        ioe::context ctx(cfg), other;
        ioe::merger merger(ctx, 0, IOE_READ, len);
        ioe::buffer a(len), b(len), c(len, 2 * len);
        first = a.data();
        second = b.data();
        third = c.data();
        assert_true(is_mapped(first) && is_mapped(second) && is_mapped(third));
        assert_int_equal(reinterpret_cast<uintptr_t>(third) % (2 * len), 0);
        a = std::move(b);
        assert_false(is_mapped(first));
        assert_ptr_equal(a.data(), second);
    }
    assert_false(is_mapped(second) || is_mapped(third));
    await_no_threads();
}

void it_is_submitted_again_in_its_callback(void **state)
{
    const auto *how = static_cast<const delivery *>(*state);
    ioe::context ctx(config_for(how));
    file fd;
    char bytes[100] = {};
    latch done = LATCH_INIT;
    ioe::event fill;
    fill.prep_write(fd, bytes, 0);
    ctx.submit_wait(fill);
    called = 0;
    for (const bool keeps_handle : {true, false}) {
        ioe::event event;
        event.on_complete([&, c = counted()](ioe::event_ref read) {
            called += read.result() == 1;
            if (read.offset() + 1 < sizeof bytes) {
                read.prep_read(fd, {&bytes[read.offset()], 1}, read.offset() + 1);
                ctx.submit(read);
            } else {
                latch_hit(&done);
            }
        });
        event.prep_read(fd, {&bytes[0], 1}, 0);
        ctx.submit(event);
        if (!keeps_handle)
            event = ioe::event();
        /* What callbacks submit, a drain does not wait for. */
        await(ctx.get(), how, &done, keeps_handle ? 1 : 2);
        ctx.drain();
        assert_int_equal(counted::alive, keeps_handle);
    }
    assert_int_equal(called, 2 * sizeof bytes);
    assert_int_equal(counted::alive, 0);
}

/* A callable replaces itself by the next, which runs while it has not returned, and one in turn. */
void a_callable_may_be_replaced_in_its_callback(void **state)
{
    const auto *how = static_cast<const delivery *>(*state);
    ioe::context ctx(config_for(how));
    file fd;
    latch done = LATCH_INIT;
    std::atomic<bool> stayed{false};
    auto event = std::make_unique<ioe::event>();
    event->on_complete([&, how, c = counted(), text = std::string("still here, and not in the small room")](
                           ioe::event_ref first) {
        event->on_complete([&, d = counted()](ioe::event_ref second) {
            event->on_complete([&, e = counted()](ioe::event_ref) { latch_hit(&done); });
            second.prep_fsync(fd);
            ctx.submit(second);
            event.reset();
            latch_hit(&done);
        });
        first.prep_fsync(fd);
        ctx.submit(first);
        /* Where another thread can run the next ones, they run beside this. */
        if (how->workers > 1)
            latch_wait(&done, 2);
        stayed = text == "still here, and not in the small room" && first.get() != nullptr &&
                 first.action() == IOE_FSYNC;
    });
    event->prep_fsync(fd);
    ctx.submit(*event);
    await(ctx.get(), how, &done, 2);
    ctx.drain();
    assert_true(stayed);
    ctx.close();
    assert_int_equal(counted::alive, 0);
}

/* Of those that never ran, only the last stays while a callback runs. */
void a_callable_that_never_ran_goes_when_it_is_replaced(void **)
{
    ioe::context ctx;
    file fd;
    called = 0;
    gate hold = GATE_INIT;
    ioe::event event([&, c = counted()](ioe::event_ref) { hold_at_gate(nullptr, &hold); });
    event.prep_fsync(fd);
    ctx.submit(event);
    latch_wait(&hold.entered, 1);
    for (int i = 0; i < 100; ++i) {
        event.on_complete([c = counted(), i](ioe::event_ref) { called += i; });
        assert_int_equal(counted::alive, 2);
    }
    event.on_complete(nullptr);
    assert_int_equal(counted::alive, 1);
    event.on_complete([c = counted()](ioe::event_ref) { ++called; });
    event.prep_fsync(fd);
    ctx.submit(event);
    latch_hit(&hold.opened);
    ctx.drain();
    assert_int_equal(called, 1);
    ctx.close();
    assert_int_equal(counted::alive, 1);
}

/* The handle's thread goes on as soon as the callback tells it to, before that has returned. */
void a_callable_may_be_replaced_beside_its_callback(void **state)
{
    const auto *how = static_cast<const delivery *>(*state);
    ioe::context ctx(config_for(how));
    file fd;
    latch done = LATCH_INIT;
    {
        ioe::event event;
        for (unsigned long round = 1; round <= scaled(20000); ++round) {
            event.on_complete([&done, c = counted()](ioe::event_ref) { latch_hit(&done); });
            event.prep_read(fd, {&round, sizeof round}, 0);
            ctx.submit(event);
            latch_wait(&done, round);
        }
    }
    ctx.close();
    assert_int_equal(counted::alive, 0);
}

/* Each handle goes while its callback comes on other threads. */
void handles_go_while_callbacks_come(void **state)
{
    ioe::context ctx(config_for(static_cast<const delivery *>(*state)));
    file fd;
    called = 0;
    const int each = static_cast<int>(scaled(10000));
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < each; ++i) {
                auto memory = std::make_unique<char[]>(64);
                char *to = memory.get();
                ioe::event event([memory = std::move(memory), c = counted()](ioe::event_ref) { ++called; });
                event.prep_read(fd, {to, 64}, 0);
                ctx.submit(event);
                if ((i + t) % 3 == 0)
                    std::this_thread::yield();
                ioe::event moved(std::move(event));
            }
        });
    for (auto &thread : threads)
        thread.join();
    ctx.close();
    assert_int_equal(called, 3 * each);
    assert_int_equal(counted::alive, 0);
}

/* A callback replaces its callable while the batch waits for room; what the batch then gives back of the
 * same event is not the new one's. */
void a_callable_may_be_replaced_during_its_batch(void **)
{
    ioe::config cfg;
    cfg.queue_size = 1;
    file fd;
    {
        ioe::event first, second, third;
        ioe::context ctx(cfg);
        first.on_complete([&, c = counted()](ioe::event_ref) {
            first.on_complete([c = counted()](ioe::event_ref) {});
        });
        for (ioe::event *one : {&second, &third})
            one->on_complete([c = counted()](ioe::event_ref) {});
        for (ioe::event *one : {&first, &second, &third})
            one->prep_fsync(fd);
        assert_int_equal(ctx.submit_batch({first, second, third, third, first}), 3);
        ctx.close();
        assert_int_equal(counted::alive, 3);
    }
    assert_int_equal(counted::alive, 0);
}

void a_batch_may_be_of_any_size(void **)
{
    constexpr unsigned most = 600;
    ioe::config cfg = polled_config();
    cfg.queue_size = most;
    ioe::context ctx(cfg);
    file fd;
    for (const unsigned n : {1u, 255u, 256u, 257u, 512u, 513u, most}) {
        called = 0;
        std::vector<ioe::event> events;
        for (unsigned i = 0; i < n; ++i) {
            events.emplace_back([c = counted()](ioe::event_ref) { ++called; });
            events.back().prep_fsync(fd);
        }
        /* The last is refused as a whole batch, and otherwise is the end of one. */
        events.back() = ioe::event([c = counted()](ioe::event_ref) { ++called; });
        std::error_code ec;
        assert_int_equal(ctx.submit_batch(events, ec), n - 1);
        assert_int_equal(ec.value(), n == 1 ? EINVAL : 0);
        events.clear();
        ctx.drain();
        assert_int_equal(called, n - 1);
        assert_int_equal(counted::alive, 0);
    }
}

void a_refused_event_is_the_callers(void **)
{
    ioe::config cfg = polled_config();
    cfg.queue_size = 2;
    ioe::context ctx(cfg);
    file fd;
    std::error_code ec;
    called = 0;
    std::vector<ioe::event> events;
    for (int i = 0; i < 4; ++i)
        events.emplace_back([c = counted()](ioe::event_ref) { ++called; });
    /* Never prepared. */
    assert_int_equal(thrown([&] { ctx.submit(events[0]); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.submit_batch(events); }), EINVAL);
    for (auto &event : events)
        event.prep_fsync(fd);
    /* No callable. */
    ioe::event bare;
    bare.prep_fsync(fd);
    ctx.submit(bare, ec);
    assert_int_equal(ec.value(), EINVAL);
    events.insert(events.begin() + 1, std::move(bare));
    assert_int_equal(ctx.submit_batch(events), 1);
    events.erase(events.begin() + 1);
    assert_true(ctx.try_submit(events[1]));
    /* No room. */
    assert_false(ctx.try_submit(events[2]));
    assert_false(ctx.try_submit(events[2], ec));
    assert_int_equal(ec.value(), 0);
    assert_int_equal(thrown([&] { ctx.submit(events[2]); }), EAGAIN);
    const std::vector<ioe::event_ref> rest(events.begin() + 2, events.end());
    assert_int_equal(ctx.submit_batch(rest, ec), 0);
    assert_int_equal(ec.value(), EAGAIN);
    assert_int_equal(ctx.submit_batch(std::vector<ioe::event>(), ec), 0);
    assert_int_equal(ec.value(), 0);
    events.clear();
    assert_int_equal(counted::alive, 2);
    assert_int_equal(ctx.poll(2, std::chrono::milliseconds(-1)), 2);
    assert_int_equal(called, 2);
    assert_int_equal(counted::alive, 0);
}

void cancel_and_waiting_say_what_is_no_error(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    std::error_code ec(EIO, std::generic_category());
    int result = 0;
    ioe::event event([&](ioe::event_ref done) { result = done.error().value(); });
    char byte = 0;
    event.prep_read(fd, {&byte, 1}, 0);
    const uint64_t id = event.id();
    assert_false(ctx.cancel(id));
    assert_false(ctx.cancel(id, ec));
    assert_int_equal(ec.value(), 0);
    ctx.submit(event);
    assert_true(ctx.cancel(id));
    assert_false(ctx.drain(std::chrono::milliseconds(0), ec) && ec);
    ctx.drain();
    assert_int_equal(result, ECANCELED);
    assert_int_equal(thrown([&] { event.result(); }), ECANCELED);
    try {
        event.result();
    } catch (const std::system_error &e) {
        assert_non_null(strstr(e.what(), "read"));
    }
    assert_true(ctx.fd() >= 0);
    assert_int_equal(ctx.poll(), 0);

    ioe::context threaded{ioe::config()};
    gate hold = GATE_INIT;
    event.prep_fsync(fd);
    event.on_complete([&](ioe::event_ref) { hold_at_gate(nullptr, &hold); });
    threaded.submit(event);
    latch_wait(&hold.entered, 1);
    assert_false(threaded.drain(std::chrono::milliseconds(1)));
    assert_false(threaded.drain(std::chrono::milliseconds(1), ec));
    assert_int_equal(ec.value(), 0);
    latch_hit(&hold.opened);
    assert_true(threaded.drain(std::chrono::minutes(1)));
}

void errors_come_in_both_forms(void **)
{
    std::error_code ec;
    ioe::config cfg;
    cfg.depth = 0;
    assert_int_equal(thrown([&] { ioe::context ctx(cfg); }), EINVAL);
    ioe::context none(cfg, ec);
    assert_true(ec == std::errc::invalid_argument && !none);
    cfg = ioe::config();
    cfg.flags = 1u << 31;
    assert_int_equal(thrown([&] { ioe::context ctx(cfg); }), EINVAL);
    cfg = ioe::config();
    cfg.driver = 77;
    assert_int_equal(thrown([&] { ioe::context ctx(cfg); }), EINVAL);
    try {
        ioe::context ctx(cfg);
    } catch (const std::system_error &e) {
        assert_non_null(strstr(e.what(), "ioe_context_new"));
    }
    assert_int_equal(thrown([] { ioe::buffer b(0); }), EINVAL);
    assert_int_equal(thrown([] { ioe::buffer b(1, 3); }), EINVAL);
    ioe::buffer small(1, ec), empty(0, ec);
    assert_true(ec == std::errc::invalid_argument && small && !empty);
    assert_int_equal(thrown([] { ioe::buffer b(SIZE_MAX / 2); }), ENOMEM);
    ioe::buffer no_buffer(1, 3, ec);
    assert_true(ec == std::errc::invalid_argument && !no_buffer && no_buffer.size() == 0);
    assert_int_equal(thrown([] { ioe::workers w(0); }), EINVAL);
    ioe::workers no_workers(0, ec);
    assert_true(ec == std::errc::invalid_argument && !no_workers);

    ioe::context ctx{ioe::config(), ec};
    assert_true(!ec && ctx);
    file fd;
    assert_int_equal(thrown([&] { ioe::merger m(ctx, fd, IOE_FSYNC, 1); }), EINVAL);
    ioe::merger no_merger(ctx, fd, IOE_READ, 0, ec);
    assert_true(ec == std::errc::invalid_argument && !no_merger);
    char byte = 0;
    ioe::event event(ec);
    event.prep_read(fd, {&byte, 1}, UINT64_MAX, ec);
    assert_int_equal(ec.value(), EINVAL);
    assert_int_equal(thrown([&] { event.prep_read(fd, {&byte, 1}, UINT64_MAX); }), EINVAL);
    event.prep_read(fd, {&byte, 1}, 0);
    assert_int_equal(thrown([&] { event.set_flags(IOE_DSYNC); }), EINVAL);
    assert_int_equal(thrown([&] { event.set_priority(-1); }), EINVAL);
    assert_int_equal(thrown([&] { event.set_timeout(std::chrono::nanoseconds(-1)); }), EINVAL);
    event.prep_read(-1, {&byte, 1}, 0, ec);
    assert_int_equal(ec.value(), 0);
    assert_int_equal(ctx.submit_wait(event, ec), 0);
    assert_true(ec == std::errc::bad_file_descriptor);
    assert_int_equal(thrown([&] { ctx.submit_wait(event); }), EBADF);
    assert_int_equal(thrown([&] { ctx.poll(); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.fd(); }), EINVAL);
}

void one_that_was_moved_from_says_einval(void **)
{
    std::error_code ec;
    file fd;
    char byte = 0;
    ioe::workers shared(1);
    ioe::config cfg;
    cfg.shared = shared.get();
    ioe::context ctx(cfg);
    ioe::merger merger(ctx, fd, IOE_READ, 4096);
    ioe::event event([](ioe::event_ref) {});
    ioe::buffer buffer(len);
    event.prep_read(fd, buffer, 0);

    ioe::context ctx2(std::move(ctx));
    ioe::merger merger2(std::move(merger));
    ioe::event event2(std::move(event));
    ioe::buffer buffer2(std::move(buffer));
    ioe::workers shared2(std::move(shared));
    assert_true(!ctx && !merger && !event && !buffer && !shared && buffer.size() == 0);
    assert_true(ctx2 && merger2 && event2 && buffer2 && shared2 && buffer2.size() == len);

    assert_int_equal(thrown([&] { ctx.submit(event2); }), EINVAL);
    assert_int_equal(thrown([&] { (void)ctx.try_submit(event2); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.submit_batch(std::vector<ioe::event_ref>{event2}); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.submit_wait(event2); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.submit_wait_batch({event2}); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.drain(); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.cancel(1); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.poll(); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.info(); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.stats(); }), EINVAL);
    assert_int_equal(thrown([&] { ctx.close(); }), EINVAL);
    assert_int_equal(thrown([&] { merger.add(event2); }), EINVAL);
    assert_int_equal(thrown([&] { merger.flush(); }), EINVAL);
    assert_int_equal(thrown([&] { merger.close(); }), EINVAL);
    assert_int_equal(thrown([&] { shared.close(); }), EINVAL);
    assert_int_equal(thrown([&] { event.prep_read(fd, {&byte, 1}, 0); }), EINVAL);
    assert_int_equal(thrown([&] { event.on_complete([](ioe::event_ref) {}); }), EINVAL);
    assert_int_equal(thrown([&] { event.set_flags(0); }), EINVAL);
    assert_int_equal(thrown([&] { event.result(); }), EINVAL);
    assert_int_equal(thrown([&] { ctx2.submit(event); }), EINVAL);
    assert_int_equal(thrown([&] { ctx2.submit_wait(event); }), EINVAL);
    assert_int_equal(thrown([&] { ctx2.submit_wait_batch({event}); }), EINVAL);

    /* What was moved to works, and closes in its order. */
    assert_int_equal(thrown([&] { ctx2.close(); }), EBUSY);
    assert_int_equal(thrown([&] { shared2.close(); }), EBUSY);
    merger2.add(event2);
    merger2.flush();
    ctx2.drain();
    assert_int_equal(event2.error().value(), 0);
    merger2.close();
    ctx2.close(ec);
    assert_int_equal(ec.value(), 0);
    shared2.close();
    assert_false(ctx2 || merger2 || shared2);
    event = std::move(event2);
    assert_true(event && !event2);
    const ioe::event_ref one = event;
    assert_true(one == event && one != event2);
    ctx = ioe::context();
    assert_true(bool(ctx));
    const struct engine {
        ioe::context ctx;
        ioe::event event;
    } defaults{};
    assert_true(defaults.ctx && defaults.event);
}

void an_operation_allocates_nothing(void **)
{
    ioe::context ctx(polled_config());
    file fd;
    unsigned long left = 0;
    std::array<char, 200> large = {};
    char bytes[64][16] = {};
    std::vector<ioe::event> events;
    for (int i = 0; i < 64; ++i)
        events.emplace_back([&left, large](ioe::event_ref done) { left -= done.is_done() && large[0] == 0; });
    const auto run = [&](unsigned long rounds) {
        for (unsigned long round = 0; round < rounds; ++round) {
            left = 64;
            for (int i = 0; i < 64; ++i) {
                ioe::event &event = events[static_cast<size_t>(i)];
                event.prep_write(fd, bytes[i], 16);
                if (round % 2 == 0)
                    ctx.submit(event);
            }
            if (round % 2 == 1)
                ctx.submit_batch(events);
            while (left > 0)
                ctx.poll(1, std::chrono::milliseconds(-1));
        }
    };
    run(scaled(1000));
    assert_int_equal(count_allocations([&] { run(100); }), 0);
    /* Nor does a small callable that is set anew for each. */
    const auto set = [&] {
        for (auto &event : events)
            event.on_complete([&left, round = 7](ioe::event_ref) { left -= round == 7; });
        run(1);
    };
    set();
    assert_int_equal(count_allocations(set), 0);
}

/* ---- what may not be ends in std::terminate ---- */

template <class Function>
int submit_and_drain(Function function)
{
    ioe::context ctx;
    ioe::event event(std::move(function));
    event.prep_fsync(0);
    ctx.submit(event);
    ctx.drain();
    return 0;
}

void throws(int, const char *, void *)
{
    throw std::runtime_error("no paper");
}

void an_exception_ends_the_process(void **)
{
    ASSERT_SAYS(last_words([](void *) {
                    return submit_and_drain([](ioe::event_ref) { throw std::runtime_error("a bad day"); });
                }),
                "io_engine: an exception left a callback: a bad day");
    ASSERT_SAYS(last_words([](void *) { return submit_and_drain([](ioe::event_ref) { throw 7; }); }),
                "io_engine: an exception left a callback: it is no std::exception");
    /* It is also what result() throws. */
    ASSERT_SAYS(last_words([](void *) {
                    ioe::context ctx(polled_config());
                    char byte = 0;
                    ioe::event event([](ioe::event_ref done) { done.result(); });
                    event.prep_read(-1, {&byte, 1}, 0);
                    ctx.submit(event);
                    ctx.poll(1, std::chrono::milliseconds(-1));
                    return 0;
                }),
                "io_engine: an exception left a callback: read: Bad file descriptor");
    ASSERT_SAYS(last_words([](void *) {
                    ioe::set_log<throws>(IOE_LOG_DEBUG);
                    ioe::context ctx;
                    return 0;
                }),
                "io_engine: an exception left a callback: no paper");
}

void an_owner_that_may_not_go_ends_the_process(void **)
{
    ASSERT_SAYS(last_words([](void *) {
                    auto ctx = std::make_unique<ioe::context>();
                    ioe::merger merger(*ctx, 0, IOE_READ, 4096);
                    ctx.reset();
                    return 0;
                }),
                "io_engine: a context was destroyed that cannot be freed: EBUSY");
    ASSERT_SAYS(last_words([](void *) {
                    auto ctx = std::make_unique<ioe::context>();
                    ioe::event event([&](ioe::event_ref) { ctx.reset(); });
                    event.prep_fsync(0);
                    ctx->submit(event);
                    ctx->drain();
                    return 0;
                }),
                "io_engine: a context was destroyed that cannot be freed: EDEADLK");
    ASSERT_SAYS(last_words([](void *) {
                    auto ctx = std::make_unique<ioe::context>(polled_config());
                    ctx->poll();
                    std::thread([&] { ctx.reset(); }).join();
                    return 0;
                }),
                "io_engine: a context was destroyed that cannot be freed: EPERM");
    ASSERT_SAYS(last_words([](void *) {
                    auto shared = std::make_unique<ioe::workers>(1);
                    ioe::config cfg;
                    cfg.shared = shared->get();
                    ioe::context ctx(cfg);
                    shared.reset();
                    return 0;
                }),
                "io_engine: workers were destroyed that cannot be freed: EBUSY");
}

struct owners {
    ioe::workers shared{1};
    ioe::context ctx;
    ioe::context plain;
    ioe::merger merger;
    ioe::event gathered{[](ioe::event_ref) {}};
    ioe::event idle;
    ioe::buffer buffer{len};

    explicit owners(int fd) : ctx(with(shared)), merger(plain, fd, IOE_READ, 4 * len)
    {
        gathered.prep_read(fd, buffer, 0);
        merger.add(gathered);
    }
    static ioe::config with(const ioe::workers &shared)
    {
        ioe::config cfg;
        cfg.shared = shared.get();
        return cfg;
    }
};

/* In a child the threads do not exist: owners go there without harm to either. */
void owners_go_in_a_forked_child(void **)
{
    file fd;
    auto all = std::make_unique<owners>(fd);
    const int status = in_child(
        [](void *arg) {
            auto *in = static_cast<std::unique_ptr<owners> *>(arg);
            CHILD_CHECK(thrown([&] { (*in)->ctx.drain(); }) == EOWNERDEAD);
            CHILD_CHECK(thrown([&] { (*in)->ctx.submit((*in)->idle); }) == EINVAL);
            in->reset();
            return 0;
        },
        &all);
    assert_int_equal(status, 0);
    all->merger.flush();
    all->plain.drain();
    assert_int_equal(all->gathered.error().value(), 0);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(what_was_written_is_read),
        with_and_without_thread(every_action_and_option),
        for_each_delivery(any_callable_is_a_callback),
        cmocka_unit_test(what_std_invoke_takes_is_a_callback),
        cmocka_unit_test(a_callable_whose_copy_throws_changes_nothing<fragile>),
        cmocka_unit_test(a_callable_whose_copy_throws_changes_nothing<small_fragile>),
        cmocka_unit_test(a_callable_that_goes_may_do_anything_with_its_event),
        cmocka_unit_test(a_handle_may_go_in_flight),
        for_each_delivery(a_handle_may_go_in_its_callback),
        cmocka_unit_test(a_handle_may_go_while_it_is_waited_for),
        cmocka_unit_test(a_batch_that_is_waited_for_may_lose_its_handles),
        cmocka_unit_test(a_batch_is_waited_for),
        cmocka_unit_test(owners_free_what_they_made),
        for_each_delivery(it_is_submitted_again_in_its_callback),
        for_each_delivery(a_callable_may_be_replaced_in_its_callback),
        cmocka_unit_test(a_callable_that_never_ran_goes_when_it_is_replaced),
        for_each_threaded_delivery(a_callable_may_be_replaced_beside_its_callback),
        for_each_threaded_delivery(handles_go_while_callbacks_come),
        cmocka_unit_test(a_callable_may_be_replaced_during_its_batch),
        cmocka_unit_test(a_batch_may_be_of_any_size),
        cmocka_unit_test(a_refused_event_is_the_callers),
        cmocka_unit_test(cancel_and_waiting_say_what_is_no_error),
        cmocka_unit_test(errors_come_in_both_forms),
        cmocka_unit_test(one_that_was_moved_from_says_einval),
        cmocka_unit_test(an_operation_allocates_nothing),
        cmocka_unit_test(an_exception_ends_the_process),
        cmocka_unit_test(an_owner_that_may_not_go_ends_the_process),
        cmocka_unit_test(owners_go_in_a_forked_child),
    };
    return RUN_TESTS(tests);
}
