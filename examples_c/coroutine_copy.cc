/*
 * coroutine_copy.cc: copies a file with several blocks in flight, each moved by a coroutine; syncs the
 * copy, and compares it. C++20.
 *
 *     c++ -std=c++20 -o coroutine_copy coroutine_copy.cc -lio_engine
 *     ./coroutine_copy SOURCE COPY
 *
 * A coroutine goes on where callbacks run: here on the context's callback thread, one at a time.
 */
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <coroutine>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <io_engine.hpp>
#include <semaphore>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

/* ---- a coroutine that begins when it is waited for, and throws what it threw to whoever waits ---- */

class task {
  public:
    struct promise_type;
    using frame = std::coroutine_handle<promise_type>;

    struct promise_type {
        std::atomic<std::size_t> *left = nullptr; /* tasks that the waiting coroutine waits for */
        std::coroutine_handle<> waiting;
        std::exception_ptr failure;

        task get_return_object() { return task(frame::from_promise(*this)); }
        std::suspend_always initial_suspend() noexcept { return {}; }
        auto final_suspend() noexcept
        {
            struct last_one_goes_on {
                bool await_ready() noexcept { return false; }
                std::coroutine_handle<> await_suspend(frame self) noexcept
                {
                    promise_type &its = self.promise();
                    /* Whoever waits may free this frame as soon as it is counted. */
                    std::coroutine_handle<> next = its.waiting;
                    return its.left->fetch_sub(1) == 1 ? next : std::noop_coroutine();
                }
                void await_resume() noexcept {}
            };
            return last_one_goes_on();
        }
        void return_void() {}
        void unhandled_exception() { failure = std::current_exception(); }
    };

    task(task &&other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    task &operator=(task &&) = delete;
    ~task()
    {
        if (frame_)
            frame_.destroy();
    }

  private:
    friend class all;
    explicit task(frame its) : frame_(its) {}
    frame frame_;
};

/* `co_await all(tasks)`: begins them, goes on when the last has ended, throws what the first threw. */
class all {
  public:
    explicit all(std::vector<task> tasks) : tasks_(std::move(tasks)), left_(tasks_.size() + 1) {}

    bool await_ready() { return false; }
    bool await_suspend(std::coroutine_handle<> waiting)
    {
        for (task &one : tasks_) {
            one.frame_.promise().left = &left_;
            one.frame_.promise().waiting = waiting;
            one.frame_.resume();
        }
        /* One more was counted, so that none could go on before all had begun. */
        return left_.fetch_sub(1) != 1;
    }
    void await_resume()
    {
        for (task &one : tasks_)
            if (one.frame_.promise().failure)
                std::rethrow_exception(one.frame_.promise().failure);
    }

  private:
    std::vector<task> tasks_;
    std::atomic<std::size_t> left_;
};

/* ---- the copy ---- */

constexpr std::size_t BLOCK = 256 << 10, DEPTH = 8;

struct job {
    ioe::context &ctx;
    int from, to;
    std::uint64_t size;
    std::atomic<std::uint64_t> next{0}; /* the first byte that no coroutine has taken */
};

[[noreturn]] static void fail(int err, const char *what)
{
    throw std::system_error(err, std::generic_category(), what);
}

/* Takes the next block; false where there is none left. */
static bool take_block(job &its, std::uint64_t &offset, std::size_t &len)
{
    offset = its.next.fetch_add(BLOCK);
    len = offset < its.size ? static_cast<std::size_t>(std::min<std::uint64_t>(BLOCK, its.size - offset)) : 0;
    return len > 0;
}

static task copy_blocks(job &its)
{
    ioe::buffer block(BLOCK);
    std::uint64_t offset;
    std::size_t len;
    while (take_block(its, offset, len)) {
        if (co_await its.ctx.read(its.from, {block.data(), len}, offset) != len)
            fail(ESTALE, "the source became shorter");
        co_await its.ctx.write(its.to, {block.data(), len}, offset);
    }
}

static task compare_blocks(job &its)
{
    ioe::buffer wanted(BLOCK), found(BLOCK);
    std::uint64_t offset;
    std::size_t len;
    while (take_block(its, offset, len)) {
        if (co_await its.ctx.read(its.from, {wanted.data(), len}, offset) != len)
            fail(ESTALE, "the source became shorter");
        if (co_await its.ctx.read(its.to, {found.data(), len}, offset) != len)
            fail(EIO, "the copy is too short");
        if (std::memcmp(wanted.data(), found.data(), len) != 0)
            fail(EIO, "the copy differs");
    }
}

static std::vector<task> several(task (*coroutine)(job &), job &its)
{
    std::vector<task> tasks;
    for (std::size_t i = 0; i < DEPTH; ++i)
        tasks.push_back(coroutine(its));
    return tasks;
}

static task copy_file(job &its)
{
    co_await all(several(copy_blocks, its));
    /* The bytes. The name of a new file is in its directory: who needs that after a crash syncs it too. */
    co_await its.ctx.fsync(its.to);
    its.next = 0;
    co_await all(several(compare_blocks, its));
}

/* Nobody waits for this one but main, by the semaphore. */
struct detached {
    struct promise_type {
        detached get_return_object() { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::terminate(); }
    };
};

static detached run(job &its, std::exception_ptr &failure, std::binary_semaphore &ended)
{
    try {
        std::vector<task> whole;
        whole.push_back(copy_file(its));
        co_await all(std::move(whole));
    } catch (...) {
        failure = std::current_exception();
    }
    ended.release();
}

static void copy(const char *source, const char *target)
{
    struct stat in, out;
    const int from = open(source, O_RDONLY | O_CLOEXEC);
    if (from < 0 || fstat(from, &in) != 0)
        fail(errno, source);
    const int to = open(target, O_RDWR | O_CREAT | O_CLOEXEC, in.st_mode & 0777);
    if (to < 0 || fstat(to, &out) != 0)
        fail(errno, target);
    if (!S_ISREG(in.st_mode) || !S_ISREG(out.st_mode))
        fail(EINVAL, "only regular files are copied");
    if (in.st_dev == out.st_dev && in.st_ino == out.st_ino)
        fail(EINVAL, "source and copy are the same file");
    if (ftruncate(to, 0) != 0)
        fail(errno, target);

    std::exception_ptr failure;
    {
        std::binary_semaphore ended(0);
        ioe::context ctx; /* goes first: callbacks that use what is above have returned then */
        job its{ctx, from, to, static_cast<std::uint64_t>(in.st_size)};
        run(its, failure, ended);
        ended.acquire();
    }
    if (failure)
        std::rethrow_exception(failure);
    if (close(to) != 0)
        fail(errno, target);
    close(from);
    std::printf("copied and compared %lld bytes\n", static_cast<long long>(in.st_size));
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::fprintf(stderr, "usage: coroutine_copy SOURCE COPY\n");
        return 2;
    }
    try {
        copy(argv[1], argv[2]);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "coroutine_copy: %s\n", e.what());
        return 1;
    }
    return 0;
}
