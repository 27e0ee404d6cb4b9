/*
 * quickstart.cc: write a block to a file, read it back, compare. C++17.
 *
 *     c++ -std=c++17 -o quickstart quickstart.cc -lio_engine
 *     ./quickstart [FILE]                             (FILE is overwritten)
 */
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <io_engine.hpp>
#include <string>
#include <unistd.h>

static void round_trip(int fd)
{
    const std::string out = "Hello from io_engine";
    std::string in(out.size(), '\0');

    /* The callable runs on a callback thread, once for every submission that was accepted. */
    std::error_code failure;
    ioe::event event([&](ioe::event_ref done) { failure = done.error(); });

    /* All defaults. Declared last, it goes first, and completes what others here are used for. */
    ioe::context ctx;

    /* Until it runs, the event, its buffer and its descriptor are the engine's. */
    event.prep_write(fd, out, 0);
    ctx.submit(event);
    ctx.drain(); /* returns when the callback has returned */
    if (failure)
        throw std::system_error(failure, "write");

    event.prep_read(fd, in, 0); /* ours again: used again */
    ctx.submit(event);
    ctx.drain();
    if (event.result() != in.size() || in != out) /* result() throws what went wrong */
        throw std::system_error(EIO, std::generic_category(), "compare");
    std::printf("wrote and read back %zu bytes: %s\n", in.size(), in.c_str());
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "quickstart.dat";
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        std::fprintf(stderr, "quickstart: %s: %s\n", path, ioe_strerror(errno));
        return 1;
    }
    try {
        round_trip(fd);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "quickstart: %s\n", e.what());
        return 1;
    }
    return close(fd) == 0 ? 0 : 1;
}
