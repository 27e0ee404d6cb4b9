/*
 * One half of a program whose other half is this file too: one is compiled with exceptions, one without.
 * mixed.sh links them, in both orders. The half with exceptions throws in a callback, and is thrown at.
 */
#include <io_engine.hpp>

#if defined(__cpp_exceptions)

#include <cstdio>
#include <cstring>
#include <stdexcept>

int other_half();

static bool is_thrown_at()
{
    ioe::context ctx;
    ioe::event unprepared([](ioe::event_ref) {});
    try {
        ctx.submit(unprepared);
    } catch (const std::system_error &e) {
        return e.code() == std::errc::invalid_argument;
    }
    return false;
}

int main(int argc, char **)
{
    if (other_half() != 0)
        return 1;
    if (argc == 1)
        return is_thrown_at() ? 0 : 2;
    ioe::context ctx;
    ioe::event event([](ioe::event_ref) { throw std::runtime_error("a bad day"); });
    event.prep_fsync(0);
    ctx.submit(event);
    ctx.drain();
    return 3;
}

#else

/* Has code of its own for all that the other half calls. */
int other_half()
{
    ioe::context ctx;
    ioe::event event([](ioe::event_ref) {});
    std::error_code ec;
    event.prep_fsync(0, ec);
    if (!ec)
        ctx.submit(event, ec);
    ctx.drain();
    return ec.value();
}

#endif
