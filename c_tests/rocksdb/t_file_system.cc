/*
 * Promise: each file of the file system does what RocksDB's own does, with the same answers, the same kinds
 * of errors and the same bytes on the disk; and what only this one can, reads that are not waited for, ends
 * once, where RocksDB asks for it, and gives memory back only when the kernel is done with it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <fstream>
#include <iterator>

#include "rocksdb/options.h"

#include "common.h"

using namespace rocksdb;

namespace {

constexpr size_t PAGE = 4096;

/* ---- what is compared ---- */

/* What a scenario saw, line by line. */
class transcript {
  public:
    explicit transcript(bool is_posix) : posix(is_posix) {}

    void say(const char *format, ...) __attribute__((format(printf, 2, 3)))
    {
        char line[1000];
        va_list args;
        va_start(args, format);
        vsnprintf(line, sizeof line, format, args);
        va_end(args);
        lines.push_back(line);
    }

    void number(const char *what, uint64_t value) { say("%s: %llu", what, (unsigned long long)value); }

    void bytes(const char *what, const Slice &data)
    {
        say("%s: %zu bytes, hash %zu", what, data.size(), std::hash<std::string>()(data.ToString()));
    }

    void status(const char *what, const IOStatus &s)
    {
        say("%s: code %d.%d, retryable %d, data loss %d, scope %d", what, s.code(), s.subcode(),
            s.GetRetryable(), s.GetDataLoss(), s.GetScope());
    }

    void ok(const char *what, const IOStatus &s)
    {
        if (!s.ok())
            FAIL("%s: %s", what, s.ToString().c_str());
    }

    /* The message names the file, and the errno: RocksDB's own by what it means, ours by its name too. What
     * is done to names is RocksDB's own in both. */
    void error(const char *what, const IOStatus &s, const std::string &file, int number,
               bool of_name = false)
    {
        std::string text = s.ToString(), name = ioe_strerror(number);
        name = posix || of_name ? strerror(number) : name.substr(0, name.find(':'));
        status(what, s);
        if (s.ok() || text.find(file) == std::string::npos || text.find(name) == std::string::npos)
            FAIL("%s: %s, which lacks %s or %s", what, text.c_str(), file.c_str(), name.c_str());
    }

    const bool posix;
    std::vector<std::string> lines;
};

/* Files below our directory that are open. */
unsigned open_files()
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != nullptr);
    while (struct dirent *entry = readdir(dir)) {
        char target[PATH_MAX] = "";
        std::string link = std::string("/proc/self/fd/") + entry->d_name;
        ssize_t len = readlink(link.c_str(), target, sizeof target - 1);
        if (len > 0 && std::string(target, (size_t)len).find(directory) == 0)
            count++;
    }
    closedir(dir);
    return count;
}

using scenario = void (*)(FileSystem &fs, const std::string &dir, transcript &t);

/* Done on RocksDB's own and on ours, each in a new directory. */
void compare(scenario body)
{
    std::vector<std::string> seen[2];
    for (int i = 0; i < 2; i++) {
        std::shared_ptr<FileSystem> fs = file_system(i == 0 ? "posix" : tested_uri);
        transcript t(i == 0 || is_posix());
        std::string dir = directory + (i == 0 ? "/posix" : "/ours");
        CHECK_EQ(system(("rm -rf " + dir).c_str()), 0);
        CHECK_EQ(mkdir(dir.c_str(), 0755), 0);
        body(*fs, dir, t);
        CHECK_EQ(open_files(), 0);
        CHECK_EQ(system(("rm -r " + dir).c_str()), 0);
        seen[i] = t.lines;
    }
    CHECK(!seen[0].empty());
    for (size_t i = 0; i < seen[0].size() && i < seen[1].size(); i++)
        if (seen[0][i] != seen[1][i])
            FAIL("line %zu is\n#    %s, but RocksDB's own says\n#    %s", i + 1, seen[1][i].c_str(),
                 seen[0][i].c_str());
    CHECK_EQ(seen[1].size(), seen[0].size());
}

/* ---- helpers ---- */

std::string contents(const std::string &path)
{
    std::ifstream file(path, std::ios::binary);
    CHECK(file.good());
    return std::string(std::istreambuf_iterator<char>(file), {});
}

void make_file(const std::string &path, const std::string &data)
{
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << data;
    file.close();
    CHECK(file.good());
}

/* So that reads ask the disk. */
void drop_from_cache(const std::string &path)
{
    int fd = open(path.c_str(), O_RDWR);
    CHECK(fd >= 0);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
}

struct stat status_of(const std::string &path)
{
    struct stat st;
    CHECK_EQ(stat(path.c_str(), &st), 0);
    return st;
}

/* Pages, as O_DIRECT wants them. */
class pages {
  public:
    explicit pages(size_t size)
        : length((size + PAGE - 1) / PAGE * PAGE + PAGE),
          memory((char *)mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
    {
        CHECK(memory != MAP_FAILED);
    }
    pages(const pages &) = delete;
    pages &operator=(const pages &) = delete;
    ~pages() { munmap(memory, length); }
    char *data() { return memory; }

    /* The page there is no memory any more. */
    void forbid(size_t offset) { CHECK_EQ(mprotect(memory + offset, PAGE, PROT_NONE), 0); }

  private:
    const size_t length;
    char *const memory;
};

FileOptions direct_options()
{
    FileOptions options;
    options.use_direct_reads = true;
    options.use_direct_writes = true;
    return options;
}

const IOOptions NONE;

std::unique_ptr<FSRandomAccessFile> open_random(FileSystem &fs, const std::string &path,
                                                const FileOptions &options = FileOptions())
{
    std::unique_ptr<FSRandomAccessFile> file;
    CHECK_OK(fs.NewRandomAccessFile(path, options, &file, nullptr));
    return file;
}

std::unique_ptr<FSWritableFile> open_writable(FileSystem &fs, const std::string &path,
                                              const FileOptions &options = FileOptions())
{
    std::unique_ptr<FSWritableFile> file;
    CHECK_OK(fs.NewWritableFile(path, options, &file, nullptr));
    return file;
}

/* ---- sequential files ---- */

void sequential(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(1);
    const std::string path = dir + "/file", data = random.bytes(100000);
    make_file(path, data);
    std::unique_ptr<FSSequentialFile> file;
    t.ok("open", fs.NewSequentialFile(path, FileOptions(), &file, nullptr));
    t.number("direct", file->use_direct_io());
    std::vector<char> scratch(200000);
    Slice result;
    size_t at = 0;
    for (size_t n : {1, 4095, 0, 10000, 1, 50000}) {
        t.ok("read", file->Read(n, NONE, &result, scratch.data(), nullptr));
        CHECK(result == Slice(data.data() + at, n));
        at += n;
        t.ok("skip", file->Skip(n / 7));
        at += n / 7;
    }
    t.ok("invalidate", file->InvalidateCache(0, 0));
    /* Over the end, and at it, twice. */
    t.ok("read", file->Read(100000, NONE, &result, scratch.data(), nullptr));
    CHECK(result == Slice(data.data() + at, data.size() - at));
    for (int i = 0; i < 2; i++) {
        t.ok("read", file->Read(10, NONE, &result, scratch.data(), nullptr));
        CHECK_EQ(result.size(), 0);
    }
    /* What comes behind the end that was seen, in pieces. */
    std::string more = random.bytes(30000);
    for (size_t i = 0; i < 3; i++) {
        std::ofstream(path, std::ios::app | std::ios::binary) << more.substr(i * 10000, 10000);
        for (size_t n : {3000, 20000}) {
            t.ok("read", file->Read(n, NONE, &result, scratch.data(), nullptr));
            t.bytes("grown", result);
        }
    }
    t.ok("skip", file->Skip(1000000));
    t.ok("read", file->Read(10, NONE, &result, scratch.data(), nullptr));
    CHECK_EQ(result.size(), 0);
    make_file(path, "");
    t.ok("open", fs.NewSequentialFile(path, FileOptions(), &file, nullptr));
    t.ok("read", file->Read(10, NONE, &result, scratch.data(), nullptr));
    CHECK_EQ(result.size(), 0);
}

void sequential_direct(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(2);
    const std::string path = dir + "/file", data = random.bytes(5 * PAGE + 1000);
    make_file(path, data);
    std::unique_ptr<FSSequentialFile> file;
    t.ok("open", fs.NewSequentialFile(path, direct_options(), &file, nullptr));
    t.number("direct", file->use_direct_io());
    size_t alignment = file->GetRequiredBufferAlignment();
    CHECK(alignment >= 512 && (alignment & (alignment - 1)) == 0);
    pages scratch(10 * PAGE);
    for (uint64_t offset : {0, 1, 3, 5, 6, 100}) {
        for (size_t n : {1, 2, 8}) {
            Slice result;
            t.ok("read",
                 file->PositionedRead(offset * PAGE, n * PAGE, NONE, &result, scratch.data(), nullptr));
            size_t begin = std::min(offset * PAGE, data.size());
            CHECK(result == Slice(data.data() + begin, std::min(n * PAGE, data.size() - begin)));
        }
    }
    t.ok("invalidate", file->InvalidateCache(0, 0));
}

/* ---- files read anywhere ---- */

void random_access(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(3);
    const std::string path = dir + "/file", data = random.bytes(100000);
    make_file(path, data);
    std::unique_ptr<FSRandomAccessFile> file = open_random(fs, path);
    t.number("direct", file->use_direct_io());
    std::vector<char> scratch(200000);
    for (uint64_t offset : {0, 1, 50000, 99999, 100000, 100001, 1 << 30}) {
        for (size_t n : {0, 1, 4096, 100000, 200000}) {
            Slice result;
            /* RocksDB's own calls this an error, with whatever errno there was. */
            if (n == 0 && t.posix)
                continue;
            t.ok("read", file->Read(offset, n, NONE, &result, scratch.data(), nullptr));
            size_t begin = std::min<size_t>(offset, data.size());
            CHECK(result == Slice(data.data() + begin, std::min(n, data.size() - begin)));
        }
    }
    for (auto hint : {FSRandomAccessFile::kNormal, FSRandomAccessFile::kRandom,
         FSRandomAccessFile::kSequential,
                      FSRandomAccessFile::kWillNeed, FSRandomAccessFile::kWontNeed})
        file->Hint(hint);
    t.status("prefetch", file->Prefetch(0, 10000, NONE, nullptr));
    t.status("prefetch behind the end", file->Prefetch(1 << 20, 10000, NONE, nullptr));
    t.status("prefetch nothing", file->Prefetch(0, 0, NONE, nullptr));
    t.status("invalidate", file->InvalidateCache(0, 0));
    t.status("invalidate", file->InvalidateCache(PAGE, PAGE));
    Slice result;
    t.ok("read", file->Read(10, 1000, NONE, &result, scratch.data(), nullptr));
    CHECK(result == Slice(data.data() + 10, 1000));
    t.error("far too far", file->Read(UINT64_MAX - 10, 10, NONE, &result, scratch.data(), nullptr),
            path, EINVAL);
    t.number("read nothing", result.size());
    pages forbidden(PAGE);
    forbidden.forbid(0);
    t.error("no memory", file->Read(0, 10, NONE, &result, forbidden.data(), nullptr), path, EFAULT);
}

void random_access_direct(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(4);
    const std::string path = dir + "/file", data = random.bytes(20 * PAGE + 1000);
    make_file(path, data);
    std::unique_ptr<FSRandomAccessFile> file = open_random(fs, path, direct_options());
    t.number("direct", file->use_direct_io());
    size_t alignment = file->GetRequiredBufferAlignment();
    CHECK(alignment >= 512 && (alignment & (alignment - 1)) == 0);
    pages scratch(40 * PAGE);
    for (uint64_t offset : {size_t(0), alignment, 7 * PAGE, 20 * PAGE, 21 * PAGE, 1000 * PAGE}) {
        for (size_t n : {alignment, PAGE, 20 * PAGE, 40 * PAGE}) {
            Slice result;
            t.ok("read", file->Read(offset, n, NONE, &result, scratch.data(), nullptr));
            size_t begin = std::min<size_t>(offset, data.size());
            CHECK(result == Slice(data.data() + begin, std::min(n, data.size() - begin)));
        }
    }
    file->Hint(FSRandomAccessFile::kRandom);
    t.status("prefetch", file->Prefetch(0, 10000, NONE, nullptr));
    t.status("invalidate", file->InvalidateCache(0, 0));
}

/* Of a file always the same, whoever tells it; of two files never. */
void unique_ids()
{
    std::vector<std::string> ids;
    for (const char *name : {"/one", "/two"}) {
        const std::string path = directory + name;
        make_file(path, name);
        for (const std::string &uri : {std::string("posix"), tested_uri, tested_uri}) {
            char id[100];
            size_t size = open_random(*file_system(uri), path)->GetUniqueId(id, sizeof id);
            ids.emplace_back(id, size);
            std::unique_ptr<FSWritableFile> file;
            CHECK_OK(file_system(uri)->ReopenWritableFile(path, FileOptions(), &file, nullptr));
            size = file->GetUniqueId(id, sizeof id);
            ids.emplace_back(id, size);
            CHECK_EQ(file->GetUniqueId(id, 3), 0);
        }
    }
    for (size_t i = 0; i < ids.size(); i++)
        CHECK(ids[i] == ids[i / 6 * 6]);
    CHECK(ids.front().empty() || ids.front() != ids.back());
    unlink((directory + "/one").c_str());
    unlink((directory + "/two").c_str());
}

/* ---- several at once ---- */

void check_multi_read(FSRandomAccessFile &file, const std::string &data, size_t count, size_t unit,
                      randomness &random, transcript &t)
{
    const size_t most = 4 * unit;
    pages memory(count * most);
    std::vector<FSReadRequest> requests(count);
    uint64_t next = 0;
    for (size_t i = 0; i < count; i++) {
        FSReadRequest &r = requests[i];
        /* Mostly neighbours; some with a gap, some across the end and behind it. */
        r.len = unit * (1 + random.below(4));
        if (random.one_in(10))
            next = random.below(data.size() + 10 * unit) / unit * unit;
        r.offset = next;
        next += r.len;
        r.scratch = memory.data() + i * most;
    }
    std::shuffle(requests.begin(), requests.end(), std::mt19937(random.below(1000)));
    t.ok("MultiRead", file.MultiRead(requests.data(), count, NONE, nullptr));
    for (const FSReadRequest &r : requests) {
        size_t begin = std::min<size_t>(r.offset, data.size());
        CHECK_OK(r.status);
        CHECK(r.result == Slice(data.data() + begin, std::min(r.len, data.size() - begin)));
        t.bytes("one of them", r.result);
    }
}

void multi_read(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(5);
    const std::string path = dir + "/file", data = random.bytes((1 << 20) + 1234);
    make_file(path, data);
    std::unique_ptr<FSRandomAccessFile> buffered = open_random(fs, path);
    std::unique_ptr<FSRandomAccessFile> direct = open_random(fs, path, direct_options());
    FSReadRequest unread;
    t.ok("nothing", buffered->MultiRead(&unread, 0, NONE, nullptr));
    for (size_t count : {1, 2, 32, 33, 1000}) {
        drop_from_cache(path);
        check_multi_read(*buffered, data, count, 700, random, t);
        check_multi_read(*buffered, data, count, PAGE, random, t);
        check_multi_read(*direct, data, count, PAGE, random, t);
    }
    /* One with no bytes among others: for RocksDB's own see random_access. */
    if (t.posix)
        return;
    char scratch[20];
    FSReadRequest requests[3];
    for (size_t i = 0; i < 3; i++) {
        requests[i].offset = 10 * i;
        requests[i].len = i == 1 ? 0 : 10;
        requests[i].scratch = scratch + (i == 0 ? 0 : 10);
    }
    t.ok("MultiRead", buffered->MultiRead(requests, 3, NONE, nullptr));
    for (const FSReadRequest &r : requests) {
        CHECK_OK(r.status);
        CHECK(r.result == Slice(data.data() + r.offset, r.len));
    }
}

/* Neighbours, of which one has no memory, or is nowhere: it fails, and no other. */
void multi_read_with_a_failure(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(6);
    const std::string path = dir + "/file", data = random.bytes(64 * PAGE);
    make_file(path, data);
    for (size_t bad : {0, 13, 31}) {
        for (int how = 0; how < 4; how++) {
            bool is_direct = how & 1, is_nowhere = how & 2;
            pages memory(32 * PAGE);
            if (!is_nowhere)
                memory.forbid(bad * PAGE);
            std::unique_ptr<FSRandomAccessFile> file =
                open_random(fs, path, is_direct ? direct_options() : FileOptions());
            FSReadRequest requests[32];
            for (size_t i = 0; i < 32; i++) {
                requests[i].offset = i * PAGE;
                requests[i].len = PAGE;
                requests[i].scratch = memory.data() + i * PAGE;
            }
            /* As a damaged index may have it. */
            if (is_nowhere)
                requests[bad].offset = UINT64_MAX / PAGE * PAGE;
            t.ok("MultiRead", file->MultiRead(requests, 32, NONE, nullptr));
            for (size_t i = 0; i < 32; i++) {
                if (i == bad) {
                    t.error("the bad one", requests[i].status, path, is_nowhere ? EINVAL : EFAULT);
                    CHECK_EQ(requests[i].result.size(), 0);
                } else {
                    CHECK_OK(requests[i].status);
                    CHECK(requests[i].result == Slice(data.data() + i * PAGE, PAGE));
                }
            }
        }
    }
}

/* One batch, of which neighbours travel together: those that the disk must be asked for. */
void merged()
{
    if (is_posix())
        return;
    randomness random(7);
    const std::string path = directory + "/file", data = random.bytes(64 * PAGE);
    make_file(path, data);
    for (const char *option : {"merge_limit=65536", "merge_limit=0"}) {
        std::shared_ptr<FileSystem> fs = file_system(uri_with(option));
        std::unique_ptr<FSRandomAccessFile> file = open_random(*fs, path, direct_options());
        ioe_stats before = IoeStats(*fs);
        pages memory(32 * PAGE);
        FSReadRequest requests[32];
        for (size_t i = 0; i < 32; i++) {
            requests[i].offset = i * PAGE;
            requests[i].len = PAGE;
            requests[i].scratch = memory.data() + i * PAGE;
        }
        CHECK_OK(file->MultiRead(requests, 32, NONE, nullptr));
        CHECK(memcmp(memory.data(), data.data(), 32 * PAGE) == 0);
        ioe_stats after = IoeStats(*fs);
        CHECK_EQ(after.accepted - before.accepted, 32);
        CHECK_EQ(after.bytes_read - before.bytes_read, 32 * PAGE);
        /* Two operations of 64 KiB. */
        bool joins = std::string(option) != "merge_limit=0";
        CHECK_EQ(after.merged - before.merged, joins ? 30 : 0);
        CHECK_EQ(after.operations - before.operations, joins ? 2 : 32);
    }
    unlink(path.c_str());
}

/* ---- files written at their end ---- */

void writable(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(8);
    const std::string path = dir + "/file";
    /* What was there before is gone. */
    make_file(path, random.bytes(1000));
    std::unique_ptr<FSWritableFile> file = open_writable(fs, path);
    t.number("size", file->GetFileSize(NONE, nullptr));
    t.number("size on the disk", status_of(path).st_size);
    t.number("mode", status_of(path).st_mode);
    t.number("direct", file->use_direct_io());
    t.number("syncs beside appends", file->IsSyncThreadSafe());
    std::string data;
    for (size_t n : {1, 0, 4096, 5000, 100000, 10 << 20, 3}) {
        std::string piece = random.bytes(n);
        t.ok("append", file->Append(piece, NONE, nullptr));
        t.ok("flush", file->Flush(NONE, nullptr));
        data += piece;
        t.number("size", file->GetFileSize(NONE, nullptr));
        /* Nothing waits in the program: the file has it. */
        t.number("size on the disk", status_of(path).st_size);
    }
    t.ok("sync", file->Sync(NONE, nullptr));
    t.ok("fsync", file->Fsync(NONE, nullptr));
    t.ok("range sync", file->RangeSync(0, 4096, NONE, nullptr));
    t.ok("range sync", file->RangeSync(4096, 1 << 20, NONE, nullptr));
    t.ok("range sync", file->RangeSync(0, 0, NONE, nullptr));
    t.status("invalidate", file->InvalidateCache(0, 0));
    DataVerificationInfo info;
    t.ok("append, with a checksum", file->Append(Slice("verified"), NONE, info, nullptr));
    data += "verified";
    file->SetWriteLifeTimeHint(Env::WLTH_SHORT);
    t.ok("close", file->Close(NONE, nullptr));
    CHECK(contents(path) == data);
    if (!t.posix)
        CHECK_OK(file->Close(NONE, nullptr));
}

void writable_truncated(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(9);
    const std::string path = dir + "/file", data = random.bytes(100000);
    for (uint64_t size : {0, 1, 50000, 100000, 200000}) {
        std::unique_ptr<FSWritableFile> file = open_writable(fs, path);
        t.ok("append", file->Append(data, NONE, nullptr));
        t.ok("truncate", file->Truncate(size, NONE, nullptr));
        t.number("size", file->GetFileSize(NONE, nullptr));
        t.ok("close", file->Close(NONE, nullptr));
        t.bytes("contents", contents(path));
    }
}

/* With O_DIRECT whole pages are written, the last one again and again, and the file cut at its end. */
void writable_direct(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(10);
    const std::string path = dir + "/file", data = random.bytes(10 * PAGE);
    std::unique_ptr<FSWritableFile> file = open_writable(fs, path, direct_options());
    t.number("direct", file->use_direct_io());
    size_t alignment = file->GetRequiredBufferAlignment();
    CHECK(alignment >= 512 && (alignment & (alignment - 1)) == 0);
    pages memory(10 * PAGE);
    memcpy(memory.data(), data.data(), data.size());
    for (size_t at = 0; at < 8; at++) {
        t.ok("append",
             file->PositionedAppend(Slice(memory.data() + at * PAGE, 2 * PAGE), at * PAGE, NONE, nullptr));
        t.number("size", file->GetFileSize(NONE, nullptr));
    }
    DataVerificationInfo info;
    t.ok("append, with a checksum",
         file->PositionedAppend(Slice(memory.data() + 8 * PAGE, alignment), 8 * PAGE, NONE, info,
                                nullptr));
    t.ok("truncate", file->Truncate(8 * PAGE + 100, NONE, nullptr));
    t.number("size", file->GetFileSize(NONE, nullptr));
    t.status("invalidate", file->InvalidateCache(0, 0));
    t.ok("sync", file->Sync(NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    CHECK(contents(path) == data.substr(0, 8 * PAGE + 100));

    file = open_writable(fs, path, direct_options());
    for (size_t at = 0; at < 3; at++)
        t.ok("append", file->Append(Slice(memory.data() + at * PAGE, PAGE), NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    CHECK(contents(path) == data.substr(0, 3 * PAGE));
}

/* Space is taken before it is written, and what was not used is given back. */
void preallocated(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(11);
    const std::string data = random.bytes(100000);
    for (bool keep_size : {true, false}) {
        for (bool allowed : {true, false}) {
            for (bool closed : {true, false}) {
                const std::string path = dir + "/file";
                FileOptions options;
                options.fallocate_with_keep_size = keep_size;
                options.allow_fallocate = allowed;
                std::unique_ptr<FSWritableFile> file = open_writable(fs, path, options);
                file->SetPreallocationBlockSize(1 << 20);
                file->PrepareWrite(0, data.size(), NONE, nullptr);
                t.ok("append", file->Append(data, NONE, nullptr));
                t.ok("fsync", file->Fsync(NONE, nullptr));
                struct stat st = status_of(path);
                t.number("size", st.st_size);
                t.number("has a mebibyte", st.st_blocks >= 2048);
                CHECK_EQ(st.st_blocks >= 2048, allowed);
                size_t block_size, last_block;
                file->GetPreallocationStatus(&block_size, &last_block);
                t.number("last block", last_block);
                t.number("size", file->GetFileSize(NONE, nullptr));
                if (closed)
                    t.ok("close", file->Close(NONE, nullptr));
                file.reset();
                st = status_of(path);
                t.number("size", st.st_size);
                t.number("has a mebibyte", st.st_blocks >= 2048);
                CHECK(contents(path) == data);
            }
        }
    }
    std::unique_ptr<FSWritableFile> file = open_writable(fs, dir + "/other");
    t.status("allocate", file->Allocate(0, 1 << 20, NONE, nullptr));
    t.status("allocate nothing", file->Allocate(0, 0, NONE, nullptr));
    t.number("size", status_of(dir + "/other").st_size);
    t.ok("close", file->Close(NONE, nullptr));
}

void writable_again(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(12);
    const std::string path = dir + "/file", data = random.bytes(5000), more = random.bytes(700);
    std::unique_ptr<FSWritableFile> file;
    /* Opened again: at its end, whatever was there. */
    t.ok("reopen what is not there", fs.ReopenWritableFile(path, FileOptions(), &file, nullptr));
    t.ok("append", file->Append(data, NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    t.ok("reopen", fs.ReopenWritableFile(path, FileOptions(), &file, nullptr));
    t.ok("append", file->Append(more, NONE, nullptr));
    t.ok("append", file->Append(more, NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    CHECK(contents(path) == data + more + more);
    /* As files that are deleted slowly. */
    t.ok("reopen", fs.ReopenWritableFile(path, FileOptions(), &file, nullptr));
    t.ok("truncate", file->Truncate(1000, NONE, nullptr));
    t.ok("fsync", file->Fsync(NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    CHECK(contents(path) == data.substr(0, 1000));
    /* RocksDB's own cuts off here what was there before. */
    if (!t.posix) {
        t.ok("reopen", fs.ReopenWritableFile(path, FileOptions(), &file, nullptr));
        file->SetPreallocationBlockSize(64 << 10);
        file->PrepareWrite(1000, more.size(), NONE, nullptr);
        t.ok("append", file->Append(more, NONE, nullptr));
        CHECK_EQ(file->GetFileSize(NONE, nullptr), 1000 + more.size());
        t.ok("close", file->Close(NONE, nullptr));
        CHECK(contents(path) == data.substr(0, 1000) + more);
    }

    /* As another file: from its beginning, over what is there. */
    for (bool preallocated : {false, true}) {
        make_file(dir + "/old", data);
        t.ok("reuse", fs.ReuseWritableFile(dir + "/new", dir + "/old", FileOptions(), &file, nullptr));
        CHECK(access((dir + "/old").c_str(), F_OK) != 0);
        t.number("size", file->GetFileSize(NONE, nullptr));
        if (preallocated) {
            file->SetPreallocationBlockSize(64 << 10);
            file->PrepareWrite(0, more.size(), NONE, nullptr);
        }
        t.ok("append", file->Append(more, NONE, nullptr));
        t.number("size", file->GetFileSize(NONE, nullptr));
        CHECK(contents(dir + "/new") == more + data.substr(more.size()));
        t.ok("close", file->Close(NONE, nullptr));
        t.bytes("contents", contents(dir + "/new"));
    }
    t.error("reuse what is not there",
            fs.ReuseWritableFile(dir + "/new", dir + "/missing", FileOptions(), &file, nullptr),
            dir + (t.posix ? "/new" : "/missing"), ENOENT);
    CHECK(file == nullptr);
}

/* Syncs beside appends, of one file; and many files beside each other. */
void written_by_many()
{
    std::shared_ptr<FileSystem> fs = file_system();
    crew writers(6, [&fs](unsigned number) {
        randomness random(20 + number);
        const std::string path = directory + "/" + std::to_string(number);
        std::unique_ptr<FSWritableFile> file = open_writable(*fs, path);
        std::string data;
        crew syncing(1, [&file](unsigned) {
            for (int i = 0; i < 10; i++)
                CHECK_OK(file->Sync(NONE, nullptr));
        });
        for (int i = 0; i < 200; i++) {
            std::string piece = random.bytes(random.below(20000));
            CHECK_OK(file->Append(piece, NONE, nullptr));
            data += piece;
            if (i % 20 == 0)
                CHECK_OK(file->RangeSync(0, data.size(), NONE, nullptr));
        }
        syncing.join();
        CHECK_OK(file->Close(NONE, nullptr));
        CHECK(contents(path) == data);
        unlink(path.c_str());
    });
    writers.join();
}

/* ---- files read and written anywhere ---- */

void random_rw(FileSystem &fs, const std::string &dir, transcript &t)
{
    randomness random(13);
    const std::string path = dir + "/file";
    std::unique_ptr<FSRandomRWFile> file;
    t.error("missing", fs.NewRandomRWFile(path, FileOptions(), &file, nullptr), path, ENOENT);
    make_file(path, "");
    t.ok("open", fs.NewRandomRWFile(path, FileOptions(), &file, nullptr));
    t.number("direct", file->use_direct_io());
    std::string data(50000, '\0');
    std::vector<char> scratch(60000);
    for (int i = 0; i < 100; i++) {
        size_t offset = random.below(49000), n = random.below(1000);
        std::string piece = random.bytes(n);
        t.ok("write", file->Write(offset, piece, NONE, nullptr));
        data.replace(offset, n, piece);
        size_t size = (size_t)status_of(path).st_size;
        t.number("size", size);
        offset = random.below(60000);
        Slice result;
        t.ok("read", file->Read(offset, n, NONE, &result, scratch.data(), nullptr));
        CHECK(offset < size ? result == Slice(data.data() + offset, std::min(n, size - offset))
                            : result.empty());
    }
    t.ok("flush", file->Flush(NONE, nullptr));
    t.ok("sync", file->Sync(NONE, nullptr));
    t.ok("fsync", file->Fsync(NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    CHECK(contents(path) == data.substr(0, (size_t)status_of(path).st_size));
}

/* ---- errors ---- */

void errors_of_opening(FileSystem &fs, const std::string &dir, transcript &t)
{
    make_file(dir + "/file", "x");
    CHECK_EQ(symlink("loop", (dir + "/loop").c_str()), 0);
    const struct {
        std::string path;
        int flags;
    } bad[] = {
        {dir + "/missing", O_RDONLY},
        {dir + "/no/such/file", O_WRONLY | O_CREAT},
        {dir + "/file/below", O_WRONLY | O_CREAT},
        {dir + "/loop", O_WRONLY | O_CREAT},
        {dir + "/" + std::string(300, 'n'), O_WRONLY | O_CREAT},
        {dir, O_WRONLY | O_CREAT},
        /* Not even root makes a file there. */
        {"/sys/ioe_no_such_file", O_WRONLY | O_CREAT},
        {"", O_WRONLY | O_CREAT},
    };
    for (const auto &b : bad) {
        errno = 0;
        int fd = open(b.path.c_str(), b.flags, 0600);
        int number = errno;
        CHECK(fd < 0);
        std::unique_ptr<FSSequentialFile> sequential;
        std::unique_ptr<FSRandomAccessFile> random;
        std::unique_ptr<FSWritableFile> writable;
        std::unique_ptr<FSRandomRWFile> random_rw;
        if (b.path != dir) {
            int missing = number == EACCES || number == EROFS || number == EPERM ? ENOENT : number;
            t.error("sequential", fs.NewSequentialFile(b.path, FileOptions(), &sequential, nullptr),
                    b.path, missing);
            t.error("random", fs.NewRandomAccessFile(b.path, FileOptions(), &random, nullptr), b.path,
                    missing);
            t.error("random rw", fs.NewRandomRWFile(b.path, FileOptions(), &random_rw, nullptr), b.path,
                    missing);
        }
        if (b.flags != O_RDONLY) {
            t.error("writable", fs.NewWritableFile(b.path, FileOptions(), &writable, nullptr), b.path,
                    number);
            t.error("again", fs.ReopenWritableFile(b.path, FileOptions(), &writable, nullptr), b.path,
                    number);
        }
        CHECK(!sequential && !random && !writable && !random_rw);
    }
    /* A directory can be opened, and not read. */
    char scratch[10];
    Slice result;
    std::unique_ptr<FSSequentialFile> sequential;
    t.ok("open", fs.NewSequentialFile(dir, FileOptions(), &sequential, nullptr));
    t.error("read", sequential->Read(10, NONE, &result, scratch, nullptr), dir, EISDIR);
    std::unique_ptr<FSRandomAccessFile> random = open_random(fs, dir);
    t.error("read", random->Read(0, 10, NONE, &result, scratch, nullptr), dir, EISDIR);
    CHECK_EQ(result.size(), 0);
}

volatile sig_atomic_t signals;

void too_large(FileSystem &fs, const std::string &dir, transcript &t)
{
    struct sigaction count = {}, before;
    count.sa_handler = [](int) { signals = signals + 1; };
    CHECK_EQ(sigaction(SIGXFSZ, &count, &before), 0);
    struct rlimit limit, old;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 1 << 20;
    randomness random(14);
    const std::string data = random.bytes(700000), path = dir + "/file";
    signals = 0;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    FileOptions options;
    options.fallocate_with_keep_size = false;
    std::unique_ptr<FSWritableFile> file = open_writable(fs, path, options);
    IOStatus first = file->Append(data, NONE, nullptr), second = file->Append(data, NONE, nullptr);
    IOStatus third = file->Truncate(2 << 20, NONE, nullptr), fourth = file->Allocate(0, 2 << 20, NONE,
                                                                                     nullptr);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
    CHECK_EQ(sigaction(SIGXFSZ, &before, nullptr), 0);
    t.ok("append", first);
    t.error("append", second, path, EFBIG);
    t.error("truncate", third, path, EFBIG);
    t.error("allocate", fourth, path, EFBIG);
    t.number("size on the disk", status_of(path).st_size);
    t.number("size", file->GetFileSize(NONE, nullptr));
    t.ok("close", file->Close(NONE, nullptr));
    if (!t.posix)
        CHECK_EQ(signals, 0);
}

/* Files in memory are no files of this engine: it says so. */
void mapped_files()
{
    if (is_posix())
        return;
    std::shared_ptr<FileSystem> fs = file_system();
    const std::string path = directory + "/file";
    make_file(path, "x");
    FileOptions options;
    options.use_mmap_reads = true;
    std::unique_ptr<FSRandomAccessFile> random;
    IOStatus status = fs->NewRandomAccessFile(path, options, &random, nullptr);
    CHECK(status.IsNotSupported() || status.IsInvalidArgument());
    CHECK(random == nullptr);
    CHECK(status.ToString().find("mmap") != std::string::npos);
    options = FileOptions();
    options.use_mmap_writes = true;
    std::unique_ptr<FSWritableFile> writable;
    for (bool again : {false, true}) {
        status = again ? fs->ReopenWritableFile(path, options, &writable, nullptr)
                       : fs->NewWritableFile(path, options, &writable, nullptr);
        CHECK(status.IsNotSupported() || status.IsInvalidArgument());
        CHECK(writable == nullptr);
        CHECK(status.ToString().find("mmap") != std::string::npos);
    }
    CHECK(contents(path) == "x");
    unlink(path.c_str());
}

/* ---- names, locks, directories ---- */

void names(FileSystem &fs, const std::string &dir, transcript &t)
{
    make_file(dir + "/file", "12345");
    uint64_t number = 0;
    bool answer = false;
    t.status("exists", fs.FileExists(dir + "/file", NONE, nullptr));
    t.status("exists", fs.FileExists(dir + "/missing", NONE, nullptr));
    t.ok("rename", fs.RenameFile(dir + "/file", dir + "/other", NONE, nullptr));
    t.ok("link", fs.LinkFile(dir + "/other", dir + "/link", NONE, nullptr));
    t.ok("links", fs.NumFileLinks(dir + "/other", NONE, &number, nullptr));
    t.number("links", number);
    t.ok("same", fs.AreFilesSame(dir + "/other", dir + "/link", NONE, &answer, nullptr));
    t.number("same", answer);
    t.ok("size", fs.GetFileSize(dir + "/link", NONE, &number, nullptr));
    t.number("size", number);
    t.ok("create", fs.CreateDir(dir + "/sub", NONE, nullptr));
    t.status("create", fs.CreateDir(dir + "/sub", NONE, nullptr));
    t.ok("create", fs.CreateDirIfMissing(dir + "/sub", NONE, nullptr));
    std::vector<std::string> children;
    t.ok("children", fs.GetChildren(dir, NONE, &children, nullptr));
    std::sort(children.begin(), children.end());
    for (const std::string &child : children)
        t.say("%s", child.c_str());
    std::unique_ptr<FSDirectory> opened;
    t.ok("directory", fs.NewDirectory(dir, NONE, &opened, nullptr));
    t.ok("fsync", opened->Fsync(NONE, nullptr));
    opened.reset();
    t.ok("delete", fs.DeleteFile(dir + "/link", NONE, nullptr));
    t.status("delete", fs.DeleteFile(dir + "/link", NONE, nullptr));
    t.ok("delete", fs.DeleteDir(dir + "/sub", NONE, nullptr));
    std::shared_ptr<Logger> logger;
    t.ok("logger", fs.NewLogger(dir + "/LOG", NONE, &logger, nullptr));
    Log(InfoLogLevel::ERROR_LEVEL, logger, "one line");
    LogFlush(logger);
    logger.reset();
    CHECK(contents(dir + "/LOG").find("one line") != std::string::npos);
}

/* A lock is one, whichever file system of the process took it. */
void locks()
{
    const std::string path = directory + "/LOCK";
    std::shared_ptr<FileSystem> fs = file_system(), other = file_system(), own = file_system("posix");
    FileLock *lock = nullptr, *second = nullptr;
    CHECK_OK(fs->LockFile(path, NONE, &lock, nullptr));
    for (FileSystem *each : {fs.get(), other.get(), own.get()})
        CHECK(!each->LockFile(path, NONE, &second, nullptr).ok());
    CHECK_OK(fs->UnlockFile(lock, NONE, nullptr));
    CHECK_OK(own->LockFile(path, NONE, &lock, nullptr));
    CHECK(!fs->LockFile(path, NONE, &second, nullptr).ok());
    CHECK_OK(own->UnlockFile(lock, NONE, nullptr));
    unlink(path.c_str());
}

/* What a child may not inherit it does not. */
void close_on_exec(FileSystem &fs, const std::string &dir, transcript &t)
{
    make_file(dir + "/file", "x");
    for (bool cloexec : {true, false}) {
        FileOptions options;
        options.set_fd_cloexec = cloexec;
        std::unique_ptr<FSRandomAccessFile> file = open_random(fs, dir + "/file", options);
        for (int fd = 3; fd < 256; fd++) {
            char target[PATH_MAX] = "";
            std::string link = "/proc/self/fd/" + std::to_string(fd);
            if (readlink(link.c_str(), target, sizeof target - 1) > 0 && dir + "/file" == target)
                t.number("close on exec", fcntl(fd, F_GETFD));
        }
    }
}

/* ---- reads that are not waited for ---- */

thread_local bool asking;

/* One of them: where its callback came, and with what. */
struct async_read {
    ~async_read()
    {
        if (handle != nullptr)
            del(handle);
    }

    void start(FSRandomAccessFile &file, uint64_t offset, size_t len, char *scratch)
    {
        request.offset = offset;
        request.len = len;
        request.scratch = scratch;
        CHECK_OK(file.ReadAsync(
            request, NONE,
            [](const FSReadRequest &done, void *arg) {
                async_read *self = (async_read *)arg;
                self->calls++;
                self->where = std::this_thread::get_id();
                self->was_asked = asking;
                self->status = done.status;
                self->result = done.result;
                self->same = done.offset == self->request.offset && done.len == self->request.len &&
                             done.scratch == self->request.scratch;
            },
            this, &handle, &del, nullptr));
        CHECK(handle != nullptr);
    }

    /* Called once, by this thread, while it asked. */
    void check_called() const
    {
        CHECK_EQ(calls.load(), 1);
        CHECK(was_asked);
        CHECK(where == std::this_thread::get_id());
    }

    void check_result(const std::string &data) const
    {
        CHECK_OK(status);
        CHECK(same);
        CHECK(result.data() == request.scratch);
        size_t begin = std::min<size_t>(request.offset, data.size());
        CHECK(result == Slice(data.data() + begin, std::min(request.len, data.size() - begin)));
    }

    FSReadRequest request;
    void *handle = nullptr;
    IOHandleDeleter del;
    std::atomic<int> calls{0};
    std::thread::id where;
    bool was_asked = false, same = false;
    IOStatus status;
    Slice result;
};

void poll(FileSystem &fs, std::vector<void *> handles, size_t least)
{
    asking = true;
    IOStatus status = fs.Poll(handles, least);
    asking = false;
    CHECK_OK(status);
}

void abort_io(FileSystem &fs, std::vector<void *> handles)
{
    asking = true;
    IOStatus status = fs.AbortIO(handles);
    asking = false;
    CHECK_OK(status);
}

/* A file for them, larger than what a read of it takes. */
struct async_file {
    explicit async_file(const char *name, bool is_direct = false)
        : path(directory + "/" + name), data(randomness(15).bytes(4 << 20)), fs(file_system())
    {
        make_file(path, data);
        drop_from_cache(path);
        file = open_random(*fs, path, is_direct ? direct_options() : FileOptions());
    }
    ~async_file() { unlink(path.c_str()); }

    const std::string path;
    const std::string data;
    std::shared_ptr<FileSystem> fs;
    std::unique_ptr<FSRandomAccessFile> file;
};

void async_polled()
{
    if (is_posix())
        return;
    for (bool is_direct : {false, true}) {
        async_file f("file", is_direct);
        pages memory(1 << 20);
        for (size_t len : {PAGE, size_t(1) << 20}) {
            for (uint64_t offset : {uint64_t(0), f.data.size() - PAGE, f.data.size(),
                 f.data.size() * 2}) {
                async_read one;
                one.start(*f.file, offset, len, memory.data());
                CHECK_EQ(one.calls.load(), 0);
                poll(*f.fs, {one.handle}, 1);
                one.check_called();
                one.check_result(f.data);
                /* Asked again, or to be given up, it is over. */
                poll(*f.fs, {one.handle}, 1);
                abort_io(*f.fs, {one.handle});
                one.check_called();
            }
        }
        poll(*f.fs, {}, 0);
        abort_io(*f.fs, {});
    }
}

/* Nobody has to ask for what is read from the disk, also beyond the end, and where some of it is in memory. */
void async_unasked()
{
    if (is_posix())
        return;
    for (bool tail_in_memory : {false, true}) {
        async_file f("file");
        if (tail_in_memory) {
            std::ifstream tail(f.path);
            tail.seekg(-1, std::ios::end);
            CHECK(tail.get() == (unsigned char)f.data.back());
        }
        const uint64_t before = IoeStats(*f.fs).bytes_read;
        pages memory(f.data.size() + PAGE);
        async_read one;
        one.start(*f.file, 0, f.data.size() + (tail_in_memory ? 0 : PAGE), memory.data());
        while (IoeStats(*f.fs).bytes_read - before < f.data.size())
            std::this_thread::yield();
        poll(*f.fs, {one.handle}, 1);
        one.check_called();
        one.check_result(f.data);
    }
}

void async_failed()
{
    if (is_posix())
        return;
    async_file f("file");
    pages memory(PAGE);
    memory.forbid(0);
    async_read one;
    one.start(*f.file, 0, PAGE, memory.data());
    poll(*f.fs, {one.handle}, 1);
    one.check_called();
    CHECK(one.status.IsIOError());
    CHECK(one.status.ToString().find(f.path) != std::string::npos);
    CHECK(one.status.ToString().find("EFAULT") != std::string::npos);
    CHECK_EQ(one.result.size(), 0);
}

/* Of several files, in one question, by another thread than began them, and when the files are gone. */
void async_of_several_files()
{
    if (is_posix())
        return;
    async_file first("first"), second("second", true);
    std::shared_ptr<FileSystem> fs = first.fs;
    std::unique_ptr<FSRandomAccessFile> files[] = {open_random(*fs, first.path),
                                                   open_random(*fs, second.path, direct_options())};
    for (size_t least : {size_t(1), size_t(20), size_t(40)}) {
        pages memory(40 * PAGE);
        std::vector<async_read> reads(40);
        std::vector<void *> handles;
        for (size_t i = 0; i < reads.size(); i++) {
            reads[i].start(*files[i % 2], (i * 7 % 40) * PAGE, PAGE, memory.data() + i * PAGE);
            handles.push_back(reads[i].handle);
        }
        if (least == 40)
            for (auto &file : files)
                file.reset();
        crew other(1, [&](unsigned) {
            poll(*fs, handles, least);
            size_t called = 0;
            for (const async_read &one : reads)
                called += (size_t)one.calls;
            CHECK(called >= least);
            poll(*fs, handles, handles.size());
            for (const async_read &one : reads) {
                one.check_called();
                one.check_result(first.data);
            }
        });
        other.join();
    }
}

/* Given up: the callback comes there and then, and afterwards nobody writes into the memory. */
void async_aborted()
{
    if (is_posix())
        return;
    for (bool is_direct : {false, true}) {
        async_file f("file", is_direct);
        const size_t len = 256 << 10;
        for (int round = 0; round < 20; round++) {
            pages memory(8 * len);
            std::vector<async_read> reads(8);
            std::vector<void *> handles;
            CHECK_OK(f.file->InvalidateCache(0, 0));
            for (size_t i = 0; i < reads.size(); i++) {
                reads[i].start(*f.file, i * len, len, memory.data() + i * len);
                handles.push_back(reads[i].handle);
            }
            /* In every second round some of them are done before. */
            if (round % 2 == 1)
                poll(*f.fs, {handles[0], handles[5]}, 2);
            abort_io(*f.fs, handles);
            memset(memory.data(), 'x', 8 * len);
            for (size_t i = 0; i < reads.size(); i++) {
                reads[i].check_called();
                if (round % 2 == 1 && (i == 0 || i == 5))
                    CHECK_OK(reads[i].status);
                else
                    CHECK(reads[i].status.IsAborted());
            }
            reads.clear();
            /* What still ran would be through by now: these go the same way. */
            pages later(len);
            async_read one;
            one.start(*f.file, 0, len, later.data());
            poll(*f.fs, {one.handle}, 1);
            one.check_result(f.data);
            for (size_t i = 0; i < 8 * len; i++)
                CHECK(memory.data()[i] == 'x');
        }
    }
}

void async_by_many()
{
    if (is_posix())
        return;
    async_file f("file");
    crew threads(6, [&f](unsigned number) {
        randomness random(30 + number);
        for (int round = 0; round < 60; round++) {
            size_t count = 1 + random.below(20), len = 1 + random.below(40000);
            CHECK_OK(f.file->InvalidateCache(0, 0));
            std::vector<char> memory(count * len);
            std::vector<async_read> reads(count);
            std::vector<void *> polled, aborted;
            for (size_t i = 0; i < count; i++) {
                reads[i].start(*f.file, random.below(f.data.size() + 1000), len,
                               memory.data() + i * len);
                (random.one_in(3) ? aborted : polled).push_back(reads[i].handle);
            }
            if (random.one_in(2))
                abort_io(*f.fs, aborted);
            poll(*f.fs, polled, polled.size());
            abort_io(*f.fs, aborted);
            for (const async_read &one : reads) {
                one.check_called();
                bool given_up = std::find(aborted.begin(), aborted.end(), one.handle) != aborted.end();
                if (!given_up)
                    one.check_result(f.data);
                CHECK(one.status.IsAborted() == given_up);
            }
        }
    });
    threads.join();
    ioe_stats stats = IoeStats(*f.fs);
    CHECK_EQ(stats.in_flight, 0);
    CHECK_EQ(stats.accepted, stats.completed);
}

/* Enough time is enough; with none, what comes is right, or was too late. */
void timeouts()
{
    std::shared_ptr<FileSystem> fs = file_system();
    const std::string path = directory + "/file", data = randomness(16).bytes(1 << 20);
    make_file(path, data);
    for (bool is_direct : {false, true}) {
        std::unique_ptr<FSRandomAccessFile> file =
            open_random(*fs, path, is_direct ? direct_options() : FileOptions());
        pages memory(1 << 20);
        for (bool hour : {true, false}) {
            IOOptions options;
            options.timeout = std::chrono::microseconds(hour ? 3600LL * 1000000 : 1);
            for (size_t i = 0; i < 50; i++) {
                Slice result;
                IOStatus status = file->Read(i * PAGE, 8 * PAGE, options, &result, memory.data(),
                                             nullptr);
                CHECK(status.ok() || (status.IsTimedOut() && !hour));
                CHECK(!status.ok() || result == Slice(data.data() + i * PAGE, 8 * PAGE));
                FSReadRequest requests[16];
                for (size_t j = 0; j < 16; j++) {
                    requests[j].offset = (i + j) * PAGE;
                    requests[j].len = PAGE;
                    requests[j].scratch = memory.data() + j * PAGE;
                }
                CHECK_OK(file->MultiRead(requests, 16, options, nullptr));
                for (const FSReadRequest &r : requests) {
                    CHECK(r.status.ok() || (r.status.IsTimedOut() && !hour));
                    CHECK(!r.status.ok() || r.result == Slice(data.data() + r.offset, PAGE));
                }
            }
        }
    }
    unlink(path.c_str());
}

void read_by_many()
{
    std::shared_ptr<FileSystem> fs = file_system();
    const std::string path = directory + "/file", data = randomness(17).bytes((2 << 20) + 77);
    make_file(path, data);
    drop_from_cache(path);
    std::unique_ptr<FSRandomAccessFile> buffered = open_random(*fs, path);
    std::unique_ptr<FSRandomAccessFile> direct = open_random(*fs, path, direct_options());
    crew readers(8, [&](unsigned number) {
        randomness random(40 + number);
        transcript unused(true);
        pages memory(100000);
        for (int i = 0; i < 50; i++) {
            Slice result;
            uint64_t offset = random.below(data.size());
            size_t n = random.below(100000);
            CHECK_OK(buffered->Read(offset, n, NONE, &result, memory.data(), nullptr));
            CHECK(result == Slice(data.data() + offset, std::min(n, data.size() - offset)));
            check_multi_read(number % 2 ? *direct : *buffered, data, 1 + random.below(40), PAGE, random,
                             unused);
        }
    });
    readers.join();
    unlink(path.c_str());
}

/* ---- the engine ---- */

/* Each call that does I/O is the engine's, and there is no more of it than RocksDB asked for. */
void each_call_is_the_engines()
{
    if (is_posix())
        return;
    std::shared_ptr<FileSystem> fs = file_system();
    const std::string path = directory + "/file", data = randomness(18).bytes(PAGE);
    ioe_stats before = IoeStats(*fs);
    auto one_more = [&](const char *what, const IOStatus &s, uint64_t read = 0, uint64_t written = 0) {
        CHECK_OK(s);
        ioe_stats now = IoeStats(*fs);
        if (now.accepted - before.accepted != 1 || now.bytes_read - before.bytes_read != read ||
            now.bytes_written - before.bytes_written != written || now.failed != 0)
            FAIL("%s: %llu events", what, (unsigned long long)(now.accepted - before.accepted));
        before = now;
    };
    char scratch[PAGE];
    Slice result;
    std::unique_ptr<FSWritableFile> writable = open_writable(*fs, path);
    one_more("Append", writable->Append(data, NONE, nullptr), 0, PAGE);
    one_more("Sync", writable->Sync(NONE, nullptr));
    one_more("Fsync", writable->Fsync(NONE, nullptr));
    one_more("RangeSync", writable->RangeSync(0, PAGE, NONE, nullptr));
    one_more("Allocate", writable->Allocate(0, 2 * PAGE, NONE, nullptr));
    one_more("Truncate", writable->Truncate(PAGE, NONE, nullptr));
    one_more("PositionedAppend", writable->PositionedAppend(data, PAGE, NONE, nullptr), 0, PAGE);
    one_more("InvalidateCache", writable->InvalidateCache(0, 0));
    CHECK_OK(writable->Close(NONE, nullptr));
    std::unique_ptr<FSRandomAccessFile> random = open_random(*fs, path);
    one_more("Prefetch", random->Prefetch(0, PAGE, NONE, nullptr));
    one_more("InvalidateCache", random->InvalidateCache(0, 0));
    random->Hint(FSRandomAccessFile::kRandom);
    one_more("Hint", IOStatus::OK());
    one_more("Read", random->Read(0, 100, NONE, &result, scratch, nullptr), 100);
    std::unique_ptr<FSSequentialFile> sequential;
    CHECK_OK(fs->NewSequentialFile(path, FileOptions(), &sequential, nullptr));
    one_more("Read", sequential->Read(100, NONE, &result, scratch, nullptr), 100);
    one_more("InvalidateCache", sequential->InvalidateCache(0, 0));
    std::unique_ptr<FSRandomRWFile> both;
    CHECK_OK(fs->NewRandomRWFile(path, FileOptions(), &both, nullptr));
    one_more("Write", both->Write(10, data, NONE, nullptr), 0, PAGE);
    one_more("Read", both->Read(10, 100, NONE, &result, scratch, nullptr), 100);
    one_more("Sync", both->Sync(NONE, nullptr));
    one_more("Fsync", both->Fsync(NONE, nullptr));
    unlink(path.c_str());
}

/* ---- URIs ---- */

/* The sentence says so itself, not only the URI behind it. */
void check_refused(const Status &status, const std::string &uri, const std::string &sentence)
{
    std::string text = status.ToString();
    if (!uri.empty())
        text = text.substr(0, text.rfind(": " + uri));
    if (!status.IsInvalidArgument() || text.find(sentence) == std::string::npos)
        FAIL("%s: %s, which lacks: %s", uri.c_str(), status.ToString().c_str(), sentence.c_str());
}

void wrong_uris()
{
    if (is_posix())
        return;
    const struct {
        const char *uri, *sentence;
    } wrong[] = {
        {"", "does not begin with ioe://"},
        {"posix://", "does not begin with ioe://"},
        {"ioe:/", "does not begin with ioe://"},
        {"ioe:", "does not begin with ioe://"},
        {"ioe://foo", "not 'foo'"},
        {"ioe://foo?depth=4", "not 'foo?depth=4'"},
        {"ioe://&depth=4", "not '&depth=4'"},
        {"ioe://?foo=1", "no option 'foo'"},
        {"ioe://?Depth=1", "no option 'Depth'"},
        {"ioe://?=1", "no option ''"},
        {"ioe://?depth", "'depth' is no option"},
        {"ioe://?&&", "'' is no option"},
        {"ioe://?depth=", "depth is ''"},
        {"ioe://?depth=0", "depth is '0'"},
        {"ioe://?depth=x", "depth is 'x'"},
        {"ioe://?depth=4x", "depth is '4x'"},
        {"ioe://?depth=-1", "depth is '-1'"},
        {"ioe://?depth=+1", "depth is '+1'"},
        {"ioe://?depth= 1", "depth is ' 1'"},
        {"ioe://?depth=0x10", "depth is '0x10'"},
        {"ioe://?depth=99999999999999999999", "depth is '99999999999999999999'"},
        {"ioe://?depth=4294967297", "depth is '4294967297'"},
        {"ioe://?depth=4&depth=5", "depth is there twice"},
        {"ioe://?depth=4=5", "depth is '4=5'"},
        {"ioe://?queue_size=0", "queue_size is '0'"},
        {"ioe://?workers=1000000", "workers is '1000000'"},
        {"ioe://?reactors=0", "reactors is '0'"},
        {"ioe://?merge_limit=4294967296", "merge_limit is '4294967296'"},
        {"ioe://?direct=2", "direct is '2'"},
        {"ioe://?direct=yes", "direct is 'yes'"},
        {"ioe://?stats=", "stats is ''"},
        {"ioe://?driver=", "driver is ''"},
        {"ioe://?driver=floppy", "driver is 'floppy', and may be auto, uring, aio or pool"},
        {"ioe://?driver=URING", "driver is 'URING'"},
        {"ioe://?driver=unknown", "driver is 'unknown'"},
    };
    for (const auto &w : wrong) {
        std::shared_ptr<FileSystem> fs;
        check_refused(NewIoeFileSystem(w.uri, &fs), w.uri, w.sentence);
        if (std::string(w.uri).find("ioe:") == 0)
            check_refused(FileSystem::CreateFromString(ConfigOptions(), w.uri, &fs), w.uri, w.sentence);
        CHECK(fs == nullptr);
    }
}

void right_uris()
{
    if (is_posix())
        return;
    for (const char *uri :
         {"ioe://", "ioe://?driver=pool", "ioe://?driver=auto&depth=1&queue_size=1&workers=3&reactors=2",
          "ioe://?merge_limit=0&direct=1&stats=0", "ioe://?stats=0&driver=pool&depth=4096"}) {
        std::shared_ptr<FileSystem> made, fs, again;
        CHECK_OK(NewIoeFileSystem(uri, &made));
        CHECK_OK(FileSystem::CreateFromString(ConfigOptions(), uri, &fs));
        /* What one is called makes another. */
        CHECK_OK(FileSystem::CreateFromString(ConfigOptions(), fs->GetId(), &again));
        CHECK(again != nullptr && again->GetId() == uri && again->IsInstanceOf("IoeFileSystem"));
        std::shared_ptr<Env> guard;
        Env *env = nullptr;
        CHECK_OK(Env::CreateFromUri(ConfigOptions(), "", uri, &env, &guard));
        const std::string path = directory + "/file";
        CHECK_OK(WriteStringToFile(env, "text", path, true));
        std::string text;
        CHECK_OK(ReadFileToString(env, path, &text));
        CHECK(text == "text");
        CHECK(IoeStats(*env->GetFileSystem()).bytes_written == 4);
        CHECK_OK(env->DeleteFile(path));
        CHECK_EQ(IoeStats(*FileSystem::Default()).accepted, 0);
    }
}

/* Only tables are read and written past the page cache, and only where the URI says so. */
void direct_by_uri()
{
    if (is_posix())
        return;
    for (const char *option : {"direct=0", "direct=1"}) {
        std::shared_ptr<FileSystem> fs = file_system(uri_with(option));
        bool wanted = std::string(option) == "direct=1";
        DBOptions db_options;
        for (const char *name : {"/000001.sst", "/000002.log", "/MANIFEST-000003", "/CURRENT"}) {
            const std::string path = directory + name;
            bool table = std::string(name).find(".sst") != std::string::npos;
            FileOptions options(db_options);
            std::unique_ptr<FSWritableFile> file = open_writable(*fs, path, options);
            CHECK_EQ(file->use_direct_io(), wanted && table);
            CHECK_OK(file->Close(NONE, nullptr));
            CHECK_EQ(open_random(*fs, path)->use_direct_io(), wanted && table);
            unlink(path.c_str());
        }
    }
}

} // namespace

int main(int argc, char **argv)
{
    return run_tests(
        argc, argv,
        {
            {"sequential", [] { compare(sequential); }},
            {"sequential_direct", [] { compare(sequential_direct); }},
            {"random_access", [] { compare(random_access); }},
            {"random_access_direct", [] { compare(random_access_direct); }},
            {"unique_ids", unique_ids},
            {"multi_read", [] { compare(multi_read); }},
            {"multi_read_with_a_failure", [] { compare(multi_read_with_a_failure); }},
            {"merged", merged},
            {"writable", [] { compare(writable); }},
            {"writable_truncated", [] { compare(writable_truncated); }},
            {"writable_direct", [] { compare(writable_direct); }},
            {"preallocated", [] { compare(preallocated); }},
            {"writable_again", [] { compare(writable_again); }},
            {"written_by_many", written_by_many},
            {"random_rw", [] { compare(random_rw); }},
            {"errors_of_opening", [] { compare(errors_of_opening); }},
            {"too_large", [] { compare(too_large); }},
            {"mapped_files", mapped_files},
            {"names", [] { compare(names); }},
            {"locks", locks},
            {"close_on_exec", [] { compare(close_on_exec); }},
            {"async_polled", async_polled},
            {"async_unasked", async_unasked},
            {"async_failed", async_failed},
            {"async_of_several_files", async_of_several_files},
            {"async_aborted", async_aborted},
            {"async_by_many", async_by_many},
            {"timeouts", timeouts},
            {"read_by_many", read_by_many},
            {"each_call_is_the_engines", each_call_is_the_engines},
            {"wrong_uris", wrong_uris},
            {"right_uris", right_uris},
            {"direct_by_uri", direct_by_uri},
        });
}
