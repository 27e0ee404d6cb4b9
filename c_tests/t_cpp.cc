/*
 * Promise: the header serves C++ from C++11 on. Lambdas without captures are callbacks, threads of
 * the standard library submit, and what was written is read back.
 */
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "common.h"

namespace {

struct ContextFree {
    void operator()(ioe_context *ctx) const { ioe_context_free(ctx); }
};
struct EventFree {
    void operator()(ioe_event *event) const { ioe_event_free(event); }
};
struct BufferFree {
    void operator()(void *buf) const { ioe_buffer_free(buf); }
};
using Context = std::unique_ptr<ioe_context, ContextFree>;
using Event = std::unique_ptr<ioe_event, EventFree>;
using Buffer = std::unique_ptr<void, BufferFree>;

constexpr size_t len = 1000;

/* Counts completions; the failures are looked at by the main thread. */
class Counter {
  public:
    void hit(bool good)
    {
        std::lock_guard<std::mutex> hold(mutex_);
        ++count_;
        if (!good)
            ++bad_;
        raised_.notify_all();
    }
    int wait_for(int target)
    {
        std::unique_lock<std::mutex> hold(mutex_);
        raised_.wait(hold, [&] { return count_ >= target; });
        return bad_;
    }

  private:
    std::mutex mutex_;
    std::condition_variable raised_;
    int count_ = 0;
    int bad_ = 0;
};

/* The version's parts are numbers for the preprocessor too. */
#if !(IOE_VERSION_MAJOR >= 0 && IOE_VERSION_MINOR >= 0 && IOE_VERSION_PATCH >= 0)
#error "version macros"
#endif
static_assert(std::is_same<decltype(&ioe_event_is_done), bool (*)(const ioe_event *)>::value,
              "is_done is a bool");
static_assert(std::is_same<decltype(ioe_event_result(nullptr)), int64_t>::value,
              "a result has 64 bits");
static_assert(IOE_PENDING == INT64_MIN, "pending");

void version_agrees(void **)
{
    std::string expected = std::to_string(IOE_VERSION_MAJOR) + "." +
                           std::to_string(IOE_VERSION_MINOR) + "." +
                           std::to_string(IOE_VERSION_PATCH);
    assert_string_equal(ioe_version(), expected.c_str());
}

void lambda_is_a_callback(void **state)
{
    auto how = static_cast<const delivery *>(*state);
    Context ctx(new_context(how, 8, 64));
    Event event(new_event());
    Buffer buf(ioe_buffer_alloc(4096, 0));
    int fd = temp_file(ON_DISK);
    struct Seen {
        latch done;
        int64_t result;
    } seen = {LATCH_INIT, 0};
    assert_int_equal(ioe_prep_write(event.get(), fd, buf.get(), 4096, 0), 0);
    assert_int_equal(ioe_event_set_callback(
                         event.get(),
                         [](ioe_event *e, void *arg) {
                             auto s = static_cast<Seen *>(arg);
                             s->result = ioe_event_result(e);
                             latch_hit(&s->done);
                         },
                         &seen),
                     0);
    assert_int_equal(ioe_submit(ctx.get(), event.get()), 0);
    await(ctx.get(), how, &seen.done, 1);
    assert_int_equal(seen.result, 4096);
    close(fd);
}

void threads_submit_and_what_they_wrote_is_read(void **state)
{
    auto how = static_cast<const delivery *>(*state);
    /* A polled context belongs to one thread. */
    if (how->flags & IOE_POLLED)
        skip();
    constexpr int threads = 4, each = 50;
    Context ctx(new_context(how, 16, 64));
    int fd = temp_file(ON_DISK);
    Counter written;
    std::atomic<int> refused(0);
    std::vector<std::vector<uint8_t>> data(threads * each, std::vector<uint8_t>(len));
    std::vector<std::thread> submitters;
    for (int t = 0; t < threads; t++)
        submitters.emplace_back([&, t] {
            for (int i = t * each; i < (t + 1) * each; i++) {
                uint64_t offset = static_cast<uint64_t>(i) * len;
                auto &bytes = data[static_cast<size_t>(i)];
                pattern_fill(bytes.data(), len, 13, offset);
                ioe_event *event = ioe_event_new();
                /* The event is freed where it ends, in its callback. */
                int rc = ioe_prep_write(event, fd, bytes.data(), len, offset);
                if (rc == 0)
                    rc = ioe_event_set_callback(
                        event,
                        [](ioe_event *e, void *arg) {
                            bool good = ioe_event_result(e) == static_cast<int64_t>(len);
                            ioe_event_free(e);
                            static_cast<Counter *>(arg)->hit(good);
                        },
                        &written);
                if (rc == 0)
                    rc = ioe_submit(ctx.get(), event);
                if (rc != 0) {
                    ioe_event_free(event);
                    ++refused;
                    written.hit(false);
                }
            }
        });
    for (auto &thread : submitters)
        thread.join();
    assert_int_equal(written.wait_for(threads * each), 0);
    assert_int_equal(refused.load(), 0);

    std::vector<uint8_t> all(threads * each * len);
    Event event(new_event());
    assert_int_equal(ioe_prep_read(event.get(), fd, all.data(), all.size(), 0), 0);
    assert_int_equal(ioe_submit_wait(ctx.get(), event.get()), all.size());
    assert_true(pattern_holds(all.data(), all.size(), 13, 0));
    close(fd);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_agrees),
        for_each_delivery(lambda_is_a_callback),
        for_each_delivery(threads_submit_and_what_they_wrote_is_read),
    };
    return RUN_TESTS(tests);
}
