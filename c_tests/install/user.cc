// What a C++ program does with an installed library: writes a line to a file and reads it back.
#include <cstdio>
#include <exception>
#include <io_engine.hpp>
#include <string>

static std::string round_trip(int fd)
{
    const std::string line = "written and read back";
    std::string back(line.size(), '\0');
    std::error_code failure;
    ioe::event event([&](ioe::event_ref done) { failure = done.error(); });
    ioe::context ctx;
    event.prep_write(fd, line, 0);
    ctx.submit(event);
    ctx.drain();
    if (failure)
        throw std::system_error(failure, "write");
    event.prep_read(fd, back, 0);
    ctx.submit_wait(event);
    return back;
}

int main()
{
    std::FILE *file = std::tmpfile();
    if (file == nullptr)
        return 1;
    try {
        std::printf("%s by io_engine %s\n", round_trip(fileno(file)).c_str(), ioe_version());
    } catch (const std::exception &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return std::fclose(file);
}
