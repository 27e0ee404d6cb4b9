/*
 * Promise: what RocksDB was told is written is there after its process was killed, and, where DEVICE is
 * given, after a crash of the machine.
 *
 *    crash URI DIRECTORY ROUNDS [WAY [DEVICE]]
 *
 * In each round a child opens one and the same DB, writes to it from several threads, each write synced,
 * and notes in shared memory what it begins and, once RocksDB has answered, what is acknowledged. After a
 * random number of acknowledgements, or at the first flush, compaction or new table after that, it is
 * killed: in some rounds while it still recovers what the round before has left. Another child opens the DB,
 * every second time with RocksDB's own file system, and compares all that is in it: each key has the newest
 * value that was acknowledged, or the one that was being written; of a batch all or nothing is there; and
 * nothing else is. Then the next round goes on with the same DB.
 *
 * SIGKILL takes away nothing that the kernel has. What it shows is that neither the file system nor the
 * engine holds a write back in the memory of the process. So with DEVICE, which has an ext4 file system to be
 * mounted on DIRECTORY, that file system is shut down first: EXT4_IOC_SHUTDOWN, no flush of the journal.
 * What was not synced is gone then.
 *
 * WAY is "safe", or what must lose writes, so that this test can be seen to find it: "early" has them
 * acknowledged before they are made, "unsynced" has them not synced.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <thread>
#include <vector>

#include "under_test.h"

using namespace rocksdb;

/* As in fs/ext4/ext4.h of Linux; the headers of the C library do not have it. */
#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)

namespace {

constexpr uint32_t EXT4_GOING_FLAGS_NOLOGFLUSH = 0x2;
constexpr unsigned THREADS = 8, KEYS = 256, FAMILIES = 2;
constexpr unsigned MAX_BATCH = 16, MAX_ACKNOWLEDGED = 1200;
constexpr int UMOUNT_TRIES = 30000; /* a millisecond apart */
/* What the child tells its parent, a byte each. */
constexpr char ACKNOWLEDGED = 'a', EVENT = 'e';

enum class way { safe, early, unsynced };

/* The versions of a key are numbered, from 1; 0 is what was never written. Its one writer is a thread. */
struct key_state {
    std::atomic<uint32_t> acknowledged;
    std::atomic<uint32_t> begun; /* not acknowledged yet; 0: none */
    std::atomic<uint32_t> last;  /* never used twice */
};

struct shared_state {
    key_state keys[THREADS][KEYS];
    std::atomic<uint64_t> lost;
};

shared_state *shared;
std::string uri, directory, device;
way how;

/* ---- what is written */

uint64_t mixed(unsigned thread, unsigned key, uint32_t version)
{
    return random_numbers((uint64_t)thread << 56 ^ (uint64_t)key << 32 ^ version).below(UINT64_MAX);
}

std::string name_of(unsigned thread, unsigned key)
{
    char name[32];
    snprintf(name, sizeof name, "%05u of %u", (unsigned)(mixed(thread, key, 0) % 100000),
             thread * KEYS + key);
    return name;
}

/* One version in eight is a deletion. */
std::optional<std::string> value_of(unsigned thread, unsigned key, uint32_t version)
{
    const uint64_t x = mixed(thread, key, version);
    if (version == 0 || x % 8 == 0)
        return std::nullopt;
    std::string value = std::to_string(version) + ",";
    value.resize(value.size() + 20 + x / 8 % 3000, (char)('a' + x % 26));
    return value;
}

/* ---- the DB */

/* A moment that a crash may be worse at than others. */
class events : public EventListener {
public:
    explicit events(int out) : out_(out) {}
    void OnFlushBegin(DB *, const FlushJobInfo &) override { tell(); }
    void OnFlushCompleted(DB *, const FlushJobInfo &) override { tell(); }
    void OnCompactionBegin(DB *, const CompactionJobInfo &) override { tell(); }
    void OnCompactionCompleted(DB *, const CompactionJobInfo &) override { tell(); }
    void OnTableFileCreationStarted(const TableFileCreationBriefInfo &) override { tell(); }
    void OnTableFileCreated(const TableFileCreationInfo &) override { tell(); }
    void OnTableFileDeleted(const TableFileDeletionInfo &) override { tell(); }

private:
    void tell()
    {
        if (out_ >= 0 && write(out_, &EVENT, 1) != 1)
            _exit(1);
    }
    int out_;
};

struct open_db {
    std::shared_ptr<FileSystem> fs;
    std::unique_ptr<Env> env;
    DB *db = nullptr;
    std::vector<ColumnFamilyHandle *> families;

    /* Small, so that flushes and compactions are always under way. */
    open_db(const std::string &with, random_numbers &random, int out)
    {
        fs = file_system(with);
        env = NewCompositeEnv(fs);
        Options options;
        options.env = env.get();
        options.create_if_missing = true;
        options.create_missing_column_families = true;
        options.write_buffer_size = 65536;
        options.target_file_size_base = 65536;
        options.max_bytes_for_level_base = 262144;
        options.level0_file_num_compaction_trigger = 2;
        options.max_background_jobs = 4;
        options.max_subcompactions = 1 + (unsigned)random.below(2);
        options.use_direct_io_for_flush_and_compaction = random.below(2);
        options.use_direct_reads = random.below(2);
        options.enable_pipelined_write = random.below(2);
        options.wal_bytes_per_sync = random.below(2) * 16384;
        options.bytes_per_sync = random.below(2) * 16384;
        options.strict_bytes_per_sync = random.below(2);
        options.avoid_flush_during_recovery = random.below(2);
        options.keep_log_file_num = 2;
        options.listeners.push_back(std::make_shared<events>(out));
        const ColumnFamilyOptions family(options);
        std::vector<ColumnFamilyDescriptor> all = {{kDefaultColumnFamilyName, family}, {"second", family}};
        need_ok(DB::Open(options, directory + "/db", all, &families, &db), "Open");
    }

    ~open_db()
    {
        for (ColumnFamilyHandle *family : families)
            db->DestroyColumnFamilyHandle(family);
        delete db;
    }

    ColumnFamilyHandle *family_of(unsigned key) const { return families[key % FAMILIES]; }
};

/* ---- the child that writes */

/* Keys from `key` on, in one write. */
Status write_keys(open_db &open, unsigned thread, unsigned key, unsigned count)
{
    WriteOptions options;
    options.sync = how != way::unsynced;
    if (count == 1) {
        const auto value = value_of(thread, key, shared->keys[thread][key].last);
        const std::string name = name_of(thread, key);
        return value ? open.db->Put(options, open.family_of(key), name, *value)
                     : open.db->Delete(options, open.family_of(key), name);
    }
    WriteBatch batch;
    for (unsigned i = key; i < key + count; i++) {
        const auto value = value_of(thread, i, shared->keys[thread][i].last);
        const std::string name = name_of(thread, i);
        if (value)
            batch.Put(open.family_of(i), name, *value);
        else
            batch.Delete(open.family_of(i), name);
    }
    return open.db->Write(options, &batch);
}

void acknowledge(unsigned thread, unsigned key, unsigned count)
{
    for (unsigned i = key; i < key + count; i++) {
        key_state &state = shared->keys[thread][i];
        state.acknowledged = state.last.load();
        state.begun = 0;
    }
}

/* Until it is killed, or the file system is gone. */
void write_for_ever(open_db &open, unsigned thread, uint64_t seed, int out)
{
    random_numbers random(seed);
    for (;;) {
        const unsigned count = random.below(4) > 0 ? 1 : 2 + (unsigned)random.below(MAX_BATCH - 1);
        const unsigned key = (unsigned)random.below(KEYS - count + 1);
        for (unsigned i = key; i < key + count; i++) {
            key_state &state = shared->keys[thread][i];
            state.begun = ++state.last;
        }
        if (how == way::early)
            acknowledge(thread, key, count);
        const Status status = write_keys(open, thread, key, count);
        if (!status.ok()) {
            if (device.empty())
                printf("# a write fails: %s\n", status.ToString().c_str());
            return;
        }
        acknowledge(thread, key, count);
        if (write(out, &ACKNOWLEDGED, 1) != 1)
            return;
    }
}

void run_writer(uint64_t seed, int out)
{
    random_numbers random(seed);
    open_db open(uri, random, out);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < THREADS; i++)
        threads.emplace_back(write_for_ever, std::ref(open), i, random.below(UINT64_MAX), out);
    for (std::thread &thread : threads)
        thread.join();
    /* A writer never ends by itself: without a file system it waits to be killed. */
    while (!device.empty())
        pause();
}

/* ---- the child that looks */

struct comparison {
    uint64_t lost = 0;
    /* Of what a thread was writing: all or nothing must be there. */
    unsigned made[THREADS] = {}, not_made[THREADS] = {};
};

void compare_key(comparison &result, unsigned thread, unsigned key, const std::string *found)
{
    key_state &state = shared->keys[thread][key];
    const uint32_t acknowledged = state.acknowledged, begun = state.begun;
    uint32_t version = 0;
    if (found != nullptr) {
        version = (uint32_t)strtoul(found->c_str(), nullptr, 10);
        const auto expected = value_of(thread, key, version);
        need(version <= state.last && expected && *expected == *found,
             "thread %u, key %u: this value nobody wrote: %.40s (of %zu bytes)", thread, key, found->c_str(),
             found->size());
    } else if (begun != 0 && !value_of(thread, key, begun)) {
        version = begun;
    } else if (!value_of(thread, key, acknowledged)) {
        version = acknowledged;
    }
    if (version != acknowledged && (begun == 0 || version != begun)) {
        need(version < acknowledged, "thread %u, key %u: version %u is there, %u was acknowledged, %u begun",
             thread, key, version, acknowledged, begun);
        if (how == way::safe)
            printf("# thread %u, key %u: version %u is there, %u was acknowledged\n", thread, key, version,
                   acknowledged);
        result.lost++;
    } else if (begun != 0 && begun != acknowledged &&
               (value_of(thread, key, begun) || value_of(thread, key, acknowledged))) {
        (version == begun ? result.made : result.not_made)[thread]++;
    }
    state.acknowledged = version;
    state.begun = 0;
}

void run_reader(uint64_t seed, const std::string &with)
{
    random_numbers random(seed);
    open_db open(with, random, -1);
    comparison result;
    uint64_t in_db = 0, known = 0;
    for (unsigned thread = 0; thread < THREADS; thread++) {
        for (unsigned key = 0; key < KEYS; key++) {
            std::string value;
            const Status status = open.db->Get({}, open.family_of(key), name_of(thread, key), &value);
            need(status.ok() || status.IsNotFound(), "Get: %s", status.ToString().c_str());
            compare_key(result, thread, key, status.ok() ? &value : nullptr);
            known += status.ok();
        }
        need(result.made[thread] == 0 || result.not_made[thread] == 0,
             "thread %u: of a batch %u keys are there, and %u are not", thread, result.made[thread],
             result.not_made[thread]);
    }
    for (ColumnFamilyHandle *family : open.families) {
        std::unique_ptr<Iterator> it(open.db->NewIterator({}, family));
        for (it->SeekToFirst(); it->Valid(); it->Next())
            in_db++;
        need_ok(it->status(), "an iterator");
    }
    need(in_db == known, "%lu keys are in the DB, of which %lu were written", (unsigned long)in_db,
         (unsigned long)known);
    need_ok(open.db->VerifyChecksum(), "VerifyChecksum");
    shared->lost += result.lost;
}

/* ---- the parent: it has no thread and no DB of its own, and so may fork at any time */

void need_call(bool fine, const char *what)
{
    need(fine, "%s: %s", what, strerror(errno));
}

template <typename F> pid_t child(F run)
{
    fflush(stdout);
    const pid_t parent = getpid(), pid = fork();
    need_call(pid >= 0, "fork");
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it does not outlive this test */
    if (getppid() != parent)
        _exit(1);
    int status = 0;
    try {
        run();
    } catch (const broken &what) {
        printf("# %s\n", what.what());
        status = 1;
    }
    fflush(stdout);
    _exit(status);
}

/* True where the child has told enough, false at the end of what it tells. */
bool wait_for(int in, uint64_t acknowledged, bool then_event)
{
    char told;
    while (acknowledged > 0 || then_event) {
        const ssize_t n = read(in, &told, 1);
        need_call(n >= 0, "read");
        if (n == 0)
            return false;
        if (acknowledged == 0 && told == EVENT)
            return true;
        if (acknowledged > 0 && told == ACKNOWLEDGED)
            acknowledged--;
    }
    return true;
}

void shut_down()
{
    uint32_t flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
    const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    need_call(fd >= 0, directory.c_str());
    need_call(ioctl(fd, EXT4_IOC_SHUTDOWN, &flags) == 0, "EXT4_IOC_SHUTDOWN");
    close(fd);
}

void mount_device()
{
    need_call(mount(device.c_str(), directory.c_str(), "ext4", 0, nullptr) == 0, "mount");
}

/* A ring of a process that was killed lets go of its files a moment later. */
void unmount_device()
{
    for (int i = 0; umount(directory.c_str()) != 0; i++) {
        need_call(errno == EBUSY && i < UMOUNT_TRIES, "umount");
        const timespec millisecond = {0, 1000000};
        nanosleep(&millisecond, nullptr);
    }
}

void write_and_crash(random_numbers &random)
{
    int ends[2];
    need_call(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    const uint64_t seed = random.below(UINT64_MAX);
    const bool recovering = random.below(8) == 0, at_event = recovering || random.below(2);
    const uint64_t acknowledged = recovering ? 0 : random.below(MAX_ACKNOWLEDGED);
    const pid_t pid = child([&] {
        close(ends[0]);
        run_writer(seed, ends[1]);
    });
    close(ends[1]);
    const bool told = wait_for(ends[0], acknowledged, at_event);
    if (told && !device.empty())
        shut_down();
    kill(pid, SIGKILL);
    int status;
    need_call(waitpid(pid, &status, 0) == pid, "waitpid");
    close(ends[0]);
    /* Without a file system it may end before it is killed: RocksDB has assertions about failed files. */
    need(told && (!device.empty() || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)),
         "the writer ends by itself, with status %d", status);
    if (!device.empty()) {
        unmount_device();
        mount_device();
    }
}

void look(random_numbers &random, bool with_posix)
{
    const uint64_t seed = random.below(UINT64_MAX);
    const pid_t pid = child([&] { run_reader(seed, with_posix ? "posix" : uri); });
    int status;
    need_call(waitpid(pid, &status, 0) == pid, "waitpid");
    need(status == 0, "the reader, with %s, ends with status %d", with_posix ? "posix" : uri.c_str(), status);
}

uint64_t writes_begun()
{
    uint64_t count = 0;
    for (const auto &keys : shared->keys)
        for (const key_state &key : keys)
            count += key.last;
    return count;
}

void run(unsigned rounds, random_numbers &random)
{
    unsigned round = 0;
    void *memory = mmap(nullptr, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need_call(memory != MAP_FAILED, "mmap");
    shared = static_cast<shared_state *>(memory);
    if (!device.empty())
        mount_device();
    try {
        for (; round < rounds && (how == way::safe || shared->lost == 0); round++) {
            write_and_crash(random);
            look(random, round % 2 == 1);
            need(how != way::safe || shared->lost == 0, "acknowledged writes are lost");
        }
    } catch (const broken &what) {
        throw broken("round " + std::to_string(round + 1) + ": " + what.what());
    }
    if (!device.empty())
        unmount_device();
    printf("# %u crashes, %lu writes begun, %lu lost\n", round, (unsigned long)writes_begun(),
           (unsigned long)shared->lost);
    need(how == way::safe || shared->lost > 0, "nothing was lost: this test finds nothing");
}

} // namespace

int main(int argc, char **argv)
{
    const unsigned rounds = argc >= 4 && argc <= 6 ? (unsigned)strtoul(argv[3], nullptr, 10) : 0;
    const std::string named = argc >= 5 ? argv[4] : "safe";
    if (rounds == 0 || (named != "safe" && named != "early" && named != "unsynced")) {
        fprintf(stderr, "usage: crash URI DIRECTORY ROUNDS [safe|early|unsynced [DEVICE]]\n");
        return 2;
    }
    uri = argv[1];
    directory = argv[2];
    how = named == "safe" ? way::safe : named == "early" ? way::early : way::unsynced;
    device = argc == 6 ? argv[5] : "";
    const char *given = getenv("SEED");
    const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 10)
                                           : (uint64_t)time(nullptr) << 16 ^ (uint64_t)getpid();
    printf("# SEED=%lu\n", (unsigned long)seed);
    random_numbers random(seed);
    try {
        run(rounds, random);
    } catch (const broken &what) {
        printf("# %s\n", what.what());
        return 1;
    }
    return 0;
}
