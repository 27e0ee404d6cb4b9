/*
 * Promise: co_await of a context's operations gives what the callback would be told, on each way that
 * callbacks are delivered: bytes, an exception, or an error code. A refused submission is told at once,
 * an operation allocates nothing, and a frame does not go while its operation is in flight. C++20.
 */
#include <array>
#include <dlfcn.h>
#include <span>
#include <thread>

#include "hpp.h"

#if !defined(IOE_COROUTINES)
#error "this compiler has no coroutines"
#endif

/* Stands before the library's own: the thread that asks for it stays in there. */
static thread_local gate *held_at = nullptr;
extern "C" int ioe_event_set_callback(ioe_event *event, ioe_callback cb, void *arg)
{
    static const auto next =
        reinterpret_cast<decltype(&ioe_event_set_callback)>(dlsym(RTLD_NEXT, "ioe_event_set_callback"));
    if (held_at != nullptr)
        hold_at_gate(nullptr, held_at);
    return next(event, cb, arg);
}

namespace {

/* What has options is as temporary as the operation: `auto &op = ctx.read(..).timeout(1s)` would dangle. */
using reading = ioe::operation<size_t>;
static_assert(std::is_same_v<decltype(std::declval<reading>().flags(0)), reading &&>);
static_assert(std::is_same_v<decltype(std::declval<reading>().priority(0)), reading &&>);
static_assert(std::is_same_v<decltype(std::declval<reading>().timeout(std::chrono::seconds(1))), reading &&>);
static_assert(std::is_same_v<decltype(std::declval<reading &>().flags(0)), reading &>);
static_assert(std::is_convertible_v<std::span<char>, ioe::mutable_bytes>);
static_assert(!std::is_convertible_v<std::span<const char>, ioe::mutable_bytes>);

/* A coroutine that begins at once. It raises a latch when it has ended, and its frame is gone by then. */
struct task {
    struct promise_type {
        latch *ended = nullptr;

        template <class... Rest>
        explicit promise_type(latch &its, Rest &&...) : ended(&its)
        {
        }
        task get_return_object() { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        auto final_suspend() noexcept
        {
            struct end {
                bool await_ready() noexcept { return false; }
                void await_suspend(std::coroutine_handle<promise_type> self) noexcept
                {
                    latch *its = self.promise().ended;
                    self.destroy();
                    latch_hit(its);
                }
                void await_resume() noexcept {}
            };
            return end();
        }
        void return_void() {}
        void unhandled_exception() { throw; }
    };
};

struct seen {
    std::atomic<int> wrong{0};
    void expect(bool good, int line)
    {
        if (!good) {
            printf("# line %d\n", line);
            ++wrong;
        }
    }
};
#define EXPECT(condition) saw.expect(condition, __LINE__)

task every_operation(latch &, ioe::context &ctx, int fd, seen &saw)
{
    ioe::buffer out(4096), in(4096);
    pattern_fill(out.data(), out.size(), 3, 0);
    EXPECT(co_await ctx.write(fd, out, 0) == 4096);
    co_await ctx.fdatasync(fd);
    co_await ctx.fsync(fd);
    EXPECT(co_await ctx.read(fd, in, 0) == 4096);
    EXPECT(pattern_holds(in.data(), in.size(), 3, 0));
    const iovec from[] = {{out.data(), 100}, {out.data() + 100, 200}};
    const iovec to[] = {{in.data(), 150}, {in.data() + 150, 150}};
    EXPECT(co_await ctx.writev(fd, from, 2, 5000) == 300);
    memset(in.data(), 0, in.size());
    EXPECT(co_await ctx.readv(fd, to, 2, 5000) == 300);
    EXPECT(pattern_holds(in.data(), 300, 3, 0));
    co_await ctx.fallocate(fd, 0, 0, 100000);
    EXPECT(lseek(fd, 0, SEEK_END) == 100000);
    co_await ctx.sync_range(fd, 0, 4096, SYNC_FILE_RANGE_WRITE);
    co_await ctx.advise(fd, 0, 4096, POSIX_FADV_WILLNEED);
    co_await ctx.truncate(fd, 200000);
    EXPECT(lseek(fd, 0, SEEK_END) == 200000);
    co_await ctx.truncate(fd, 100000);
    EXPECT(lseek(fd, 0, SEEK_END) == 100000);
    /* Several in one expression. */
    const std::string x(3, 'x');
    EXPECT(co_await ctx.write(fd, x, 0) + co_await ctx.write(fd, std::string_view("yy"), 3) == 5);
    EXPECT(co_await ctx.read(fd, {in.data(), 6}, 0) == 6);
    EXPECT(memcmp(in.data(), "xxxyy", 5) == 0);
    /* Options, and one that is kept and awaited. */
    co_await ctx.fdatasync(fd).flags(IOE_BARRIER).timeout(std::chrono::minutes(1));
    auto kept = ctx.read(fd, {in.data(), 1}, 99999).priority(2 << 13 | 1).id();
    EXPECT(kept != 0);
    auto last = ctx.read(fd, {in.data(), 10}, 99999);
    EXPECT(co_await last == 1);
}

template <class Coroutine, class... Args>
void run_to_end(const delivery *how, Coroutine coroutine, Args &&...args)
{
    latch ended = LATCH_INIT;
    ioe::context ctx(config_for(how));
    coroutine(ended, ctx, args...);
    await(ctx.get(), how, &ended, 1);
}

void every_operation_is_awaited(void **state)
{
    file fd;
    seen saw;
    run_to_end(static_cast<const delivery *>(*state), every_operation, fd, saw);
    assert_int_equal(saw.wrong, 0);
}

task every_error(latch &, ioe::context &ctx, int fd, seen &saw)
{
    char byte = 0;
    std::error_code ec;
    /* From the kernel, and where the call refuses it: both kinds in both forms. */
    EXPECT(co_await ctx.read(-1, {&byte, 1}, 0, ec) == 0);
    EXPECT(ec == std::errc::bad_file_descriptor);
    try {
        co_await ctx.write(-1, {&byte, 1}, 0);
        EXPECT(false);
    } catch (const std::system_error &e) {
        EXPECT(e.code() == std::errc::bad_file_descriptor && strstr(e.what(), "write") == e.what());
    }
    EXPECT(co_await ctx.read(fd, {&byte, 1}, UINT64_MAX, ec) == 0);
    EXPECT(ec == std::errc::invalid_argument);
    for (int option = 0; option < 3; ++option) {
        auto read = ctx.read(fd, {&byte, 1}, 0, ec);
        if (option == 0)
            read.flags(IOE_DSYNC);
        else if (option == 1)
            read.priority(-1);
        else
            read.timeout(std::chrono::nanoseconds(-1));
        co_await read;
        EXPECT(ec == std::errc::invalid_argument);
    }
    co_await ctx.fsync(fd, ec);
    EXPECT(!ec);
    ioe::context empty(polled_config());
    const ioe::context moved(std::move(empty));
    co_await empty.fsync(fd, ec);
    EXPECT(ec == std::errc::invalid_argument);
    co_await ctx.fsync(-1, ec);
    EXPECT(ec == std::errc::bad_file_descriptor);
}

void every_error_is_told(void **state)
{
    file fd;
    seen saw;
    run_to_end(static_cast<const delivery *>(*state), every_error, fd, saw);
    assert_int_equal(saw.wrong, 0);
}

task read_one(latch &, ioe::context &ctx, int fd, std::error_code &ec)
{
    char byte = 0;
    co_await ctx.read(fd, {&byte, 1}, 0, ec);
}

/* Nothing is suspended where the submission is refused. */
void a_refusal_is_told_at_once(void **)
{
    latch ended = LATCH_INIT;
    ioe::config cfg = polled_config();
    cfg.queue_size = 1;
    ioe::context ctx(cfg);
    file fd;
    std::error_code first, second;
    read_one(ended, ctx, fd, first);
    assert_int_equal(latch_count(&ended), 0);
    read_one(ended, ctx, fd, second);
    assert_int_equal(latch_count(&ended), 1);
    assert_true(second == std::errc::resource_unavailable_try_again);
    ctx.poll(1, std::chrono::milliseconds(-1));
    assert_int_equal(latch_count(&ended), 2);
    assert_int_equal(first.value(), 0);
}

task await_kept(latch &, reading &kept, size_t &n)
{
    n = co_await kept;
}

task read_into(latch &, ioe::context &ctx, int fd, std::span<char> to, std::error_code &ec,
               std::vector<std::error_code> &history)
{
    auto read = ctx.read(fd, to, 0, ec);
    do {
        co_await read;
        history.push_back(ec);
    } while (ec == std::errc::resource_unavailable_try_again && ctx.poll(1) > 0);
}

/* What refused an operation once says nothing of the next time, nor of who awaits it beside. */
void an_operation_may_be_awaited_again(void **)
{
    latch ended = LATCH_INIT;
    ioe::config cfg = polled_config();
    cfg.queue_size = 1;
    ioe::context ctx(cfg);
    file fd;
    ioe::event fill;
    fill.prep_write(fd, "four", 0);
    ctx.submit_wait(fill);
    char bytes[5] = {};
    std::error_code first, second;
    std::vector<std::error_code> history;
    read_one(ended, ctx, fd, first);
    read_into(ended, ctx, fd, bytes, second, history);
    ctx.drain();
    assert_int_equal(latch_count(&ended), 2);
    assert_int_equal(history.size(), 2);
    assert_int_equal(history[0].value(), EAGAIN);
    assert_int_equal(history[1].value(), 0);
    assert_memory_equal(bytes, "four", 5);

    size_t n[2] = {99, 99};
    auto kept = ctx.read(fd, bytes, 0, second);
    await_kept(ended, kept, n[0]);
    await_kept(ended, kept, n[1]);
    assert_int_equal(latch_count(&ended), 3);
    assert_int_equal(n[1], 0);
    assert_int_equal(second.value(), EBUSY);
    ctx.drain();
    assert_int_equal(latch_count(&ended), 4);
    assert_int_equal(n[0], 5);
    assert_int_equal(second.value(), 0);
    /* A refused option is told once. */
    auto other = ctx.read(fd, bytes, 0, second);
    await_kept(ended, other.priority(-1), n[0]);
    assert_int_equal(latch_count(&ended), 5);
    assert_int_equal(second.value(), EINVAL);
    await_kept(ended, other, n[0]);
    ctx.drain();
    assert_int_equal(latch_count(&ended), 6);
    assert_int_equal(n[0], 5);
    assert_int_equal(second.value(), 0);
}

task cancelled(latch &, ioe::context &ctx, int fd, uint64_t &id, std::error_code &ec)
{
    char byte = 0;
    auto read = ctx.read(fd, {&byte, 1}, 0, ec);
    id = read.id();
    co_await read;
}

void an_operation_can_be_cancelled(void **)
{
    latch ended = LATCH_INIT;
    ioe::context ctx(polled_config());
    file fd;
    uint64_t id = 0;
    std::error_code ec;
    cancelled(ended, ctx, fd, id, ec);
    assert_true(ctx.cancel(id));
    ctx.drain();
    assert_int_equal(latch_count(&ended), 1);
    assert_true(ec == std::errc::operation_canceled);
}

task count_up(latch &, ioe::context &ctx, int fd, unsigned long rounds, uint64_t offset, seen &saw)
{
    std::array<uint64_t, 8> mine = {}, found = {};
    for (unsigned long round = 0; round < rounds; ++round) {
        mine.fill(offset + round);
        EXPECT(co_await ctx.write(fd, mine, offset) == sizeof mine);
        EXPECT(co_await ctx.read(fd, found, offset) == sizeof found);
        EXPECT(mine == found);
    }
}

/* Many at once, begun by several threads: the callback may run before the coroutine has suspended. */
void many_run_at_once(void **state)
{
    const auto *how = static_cast<const delivery *>(*state);
    latch ended = LATCH_INIT;
    ioe::config cfg = config_for(how);
    cfg.queue_size = 32;
    ioe::context ctx(cfg);
    file fd;
    seen saw;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            for (unsigned i = 0; i < 20; ++i)
                count_up(ended, ctx, fd, scaled(500), (t * 20 + i) * 64, saw);
        });
    for (auto &thread : threads)
        thread.join();
    latch_wait(&ended, 60);
    assert_int_equal(saw.wrong, 0);
}

task read_for_ever(latch &, ioe::context &ctx, int fd, std::error_code &ec)
{
    char byte = 0;
    while (!ec)
        co_await ctx.read(fd, {&byte, 1}, 0, ec);
}

/* It goes on in callbacks while the context is being closed, and its frame is gone afterwards. */
void a_closed_context_is_an_error(void **state)
{
    latch ended = LATCH_INIT;
    ioe::context ctx(config_for(static_cast<const delivery *>(*state)));
    file fd;
    std::array<std::error_code, 20> errors;
    for (auto &ec : errors)
        read_for_ever(ended, ctx, fd, ec);
    ctx.close();
    assert_int_equal(latch_count(&ended), errors.size());
    for (const auto &ec : errors)
        assert_int_equal(ec.value(), ESHUTDOWN);
}

task read_often(latch &, ioe::context &ctx, int fd, int times, seen &saw)
{
    std::array<char, 64> bytes;
    for (int i = 0; i < times; ++i)
        EXPECT(co_await ctx.read(fd, bytes, 0) == 64);
}

void an_operation_allocates_nothing(void **)
{
    latch ended = LATCH_INIT;
    ioe::context ctx(polled_config());
    file fd;
    seen saw;
    assert_int_equal(ftruncate(fd, 64), 0);
    read_often(ended, ctx, fd, static_cast<int>(scaled(20000)) + 1000, saw);
    read_often(ended, ctx, fd, static_cast<int>(scaled(20000)) + 1000, saw);
    /* All but the last thousand of each. */
    while (ctx.stats().completed < 2 * scaled(20000))
        ctx.poll(1, std::chrono::milliseconds(-1));
    assert_int_equal(count_allocations([&] {
                         for (int i = 0; i < 100; ++i)
                             ctx.poll(1, std::chrono::milliseconds(-1));
                     }),
                     0);
    assert_int_equal(latch_count(&ended), 0);
    while (latch_count(&ended) < 2)
        ctx.poll(1, std::chrono::milliseconds(-1));
    assert_int_equal(saw.wrong, 0);
}

task fsync_one(latch &, ioe::context &ctx, int fd, std::error_code &ec)
{
    co_await ctx.fsync(fd, ec);
}

/* Another thread is giving an operation's event back when the process forks; the child has no such thread. */
void a_forked_child_is_told(void **)
{
    gate hold = GATE_INIT;
    ioe::context ctx;
    std::thread other([&] {
        const auto never_awaited = ctx.fsync(0);
        held_at = &hold;
    });
    latch_wait(&hold.entered, 1);
    const int status = in_child(
        [](void *arg) {
            latch ended = LATCH_INIT;
            std::error_code ec;
            fsync_one(ended, *static_cast<ioe::context *>(arg), 0, ec);
            CHILD_CHECK(latch_count(&ended) == 1 && ec.value() == EOWNERDEAD);
            return 0;
        },
        &ctx);
    latch_hit(&hold.opened);
    other.join();
    assert_int_equal(status, 0);
}

/* ---- what may not be ends in std::terminate ---- */

struct held {
    struct promise_type {
        held get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { throw; }
    };
    std::coroutine_handle<promise_type> frame;
};

held read_into_frame(ioe::context &ctx)
{
    char byte = 0;
    co_await ctx.read(0, {&byte, 1}, 0);
}

void a_frame_that_goes_in_flight_ends_the_process(void **)
{
    ASSERT_SAYS(last_words([](void *) {
                    ioe::context ctx(polled_config());
                    read_into_frame(ctx).frame.destroy();
                    return 0;
                }),
                "io_engine: a coroutine was destroyed: its operation is in flight");
}

held keep_operation(ioe::context &ctx, std::error_code &ec)
{
    char byte = 0;
    auto read = ctx.read(0, {&byte, 1}, 0, ec);
    co_await std::suspend_always();
    co_await read;
}

/* One that has not been awaited may outlive its context. */
void an_operation_outlives_its_context(void **)
{
    auto ctx = std::make_unique<ioe::context>(polled_config());
    std::error_code ec;
    const held one = keep_operation(*ctx, ec), other = keep_operation(*ctx, ec);
    ctx.reset();
    one.frame.destroy();
    other.frame.resume();
    assert_true(ec == std::errc::invalid_argument);
    other.frame.destroy();
}

held throws_later(ioe::context &ctx)
{
    std::error_code ec;
    co_await ctx.fsync(0, ec);
    throw std::runtime_error("too late");
}

void an_exception_ends_the_process(void **)
{
    ASSERT_SAYS(last_words([](void *) {
                    ioe::context ctx;
                    throws_later(ctx);
                    ctx.drain();
                    return 0;
                }),
                "io_engine: an exception left a callback: too late");
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        for_each_delivery(every_operation_is_awaited),
        for_each_delivery(every_error_is_told),
        cmocka_unit_test(a_refusal_is_told_at_once),
        cmocka_unit_test(an_operation_may_be_awaited_again),
        cmocka_unit_test(an_operation_can_be_cancelled),
        for_each_threaded_delivery(many_run_at_once),
        for_each_delivery(a_closed_context_is_an_error),
        cmocka_unit_test(an_operation_allocates_nothing),
        cmocka_unit_test(an_operation_outlives_its_context),
        cmocka_unit_test(a_forked_child_is_told),
        cmocka_unit_test(a_frame_that_goes_in_flight_ends_the_process),
        cmocka_unit_test(an_exception_ends_the_process),
    };
    return RUN_TESTS(tests);
}
