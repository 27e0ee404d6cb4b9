/*
 * peer_asio.cc: the same transfers by Boost.Asio's random_access_file with io_uring, as its
 * documentation would have them done fast:
 *
 * - BOOST_ASIO_HAS_IO_URING and BOOST_ASIO_DISABLE_EPOLL: the ring is what io_context::run waits
 *   for. With the first alone it waits in epoll for an eventfd of the ring's, and then asks the
 *   ring (boost.org/doc/libs/1_78_0/doc/html/boost_asio/history.html).
 * - One io_context for each thread, and the concurrency hint that takes all locks out
 *   (BOOST_ASIO_CONCURRENCY_HINT_UNSAFE, boost_asio/overview/core/concurrency_hint.html).
 * - A file object for each transfer in flight, all of one file: an object has at most one read and
 *   one write in the ring, others wait behind them (detail/impl/io_uring_service.ipp, start_op).
 *   With one object for all the depth would be 1.
 * - Each handler submits the next transfer: its memory is then that of the operation before it, and
 *   what the handlers of a turn submit goes into the ring with one system call.
 *
 * No figure is published for its files. What it comes near to is its own ring without it: the
 * closed loop of peer_uring.c, with a readv for a read, no DEFER_TASKRUN, and Asio's queues
 * between.
 */
#if __has_include(<boost/asio/random_access_file.hpp>) && __has_include(<liburing.h>)
#define BOOST_ASIO_HAS_IO_URING 1
#define BOOST_ASIO_DISABLE_EPOLL 1
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/random_access_file.hpp>
#endif

#include "peer.h"

#ifdef BOOST_ASIO_HAS_FILE

#include <cerrno>
#include <new>
#include <vector>
#include <unistd.h>

namespace {

namespace asio = boost::asio;

struct asio_loop {
    asio::io_context context{BOOST_ASIO_CONCURRENCY_HINT_UNSAFE};
    std::vector<asio::random_access_file> files;
    uint64_t to_issue = 0;
};

struct asio_part {
    struct part part;
    asio_loop *loop;
};

int set_up(void *part)
{
    auto *a = static_cast<asio_part *>(part);

    try {
        a->loop = new asio_loop;
        for (uint32_t i = 0; i < a->part.depth; i++) {
            int fd = dup(a->part.progress.work->fd);
            if (fd < 0)
                return -errno;
            a->loop->files.emplace_back(a->loop->context, fd);
        }
    } catch (const boost::system::system_error &error) {
        return -error.code().value();
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    }
    return 0;
}

void end(void *part)
{
    delete static_cast<asio_part *>(part)->loop;
}

void issue(asio_part *a, uint32_t slot);

struct on_done {
    asio_part *a;
    uint32_t slot;

    void operator()(const boost::system::error_code &error, std::size_t size) const
    {
        int64_t result = error ? -error.value() : static_cast<int64_t>(size);

        transfer_done(&a->part.transfers[slot], &a->part.progress, result);
        if (a->loop->to_issue > 0) {
            a->loop->to_issue--;
            issue(a, slot);
        }
    }
};

void issue(asio_part *a, uint32_t slot)
{
    struct progress *progress = &a->part.progress;
    struct transfer *t = &a->part.transfers[slot];
    asio::random_access_file &file = a->loop->files[slot];
    bool writes = transfer_next(t, progress);
    uint64_t offset = transfer_offset(t, progress->work);
    asio::mutable_buffer buffer(t->data, progress->work->block);

    if (writes)
        file.async_write_some_at(offset, asio::const_buffer(buffer), on_done{a, slot});
    else
        file.async_read_some_at(offset, buffer, on_done{a, slot});
}

int run(void *part, uint64_t count)
{
    auto *a = static_cast<asio_part *>(part);
    uint32_t n = count < a->part.depth ? static_cast<uint32_t>(count) : a->part.depth;

    a->loop->to_issue = count - n;
    for (uint32_t slot = 0; slot < n; slot++)
        issue(a, slot);
    a->loop->context.run(); // until no transfer is left
    a->loop->context.restart();
    return 0;
}

} // namespace

PEER_SIDE(peer_asio, "asio", "Boost.Asio's random_access_file, io_uring", asio_part, set_up, run,
          end, nullptr);

#else

SIDE_NOT_BUILT(peer_asio, "asio", "Boost.Asio's random_access_file, io_uring",
               "libboost1.81-dev (or newer) and liburing-dev");

#endif
