/*
 * Promise: an error of the disk reaches RocksDB as what it is, with the file's name and the errno, and
 * RocksDB does with it what it does on its own file system: of many reads only those fail that touch what
 * is bad, a DB that cannot be written says so and goes on when the disk does, and nothing acknowledged is
 * lost.
 *
 *    faults DIRECTORY FAULTS DEVICE FULL URI...
 *
 * DIRECTORY is of faultfs, and FAULTS its file. DEVICE is a directory on a block device that stands on the
 * file "image" in DIRECTORY, FULL is one of a file system of 40 MiB. TAP on stdout.
 *
 * Each test runs in a child, on RocksDB's own file system first. What it says there, kinds of errors and what
 * followed from them, it has to say with each URI as well.
 */
#include <fcntl.h>
#include <rocksdb/env.h>
#include <rocksdb/listener.h>
#include <rocksdb/sst_file_manager.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "faultfs.h"
#include "under_test.h"

using namespace rocksdb;

namespace {

constexpr uint64_t EVERYWHERE = UINT64_MAX;
constexpr size_t BALLAST = 24 << 20;
constexpr unsigned TIME_LIMIT_S = 120; /* of a test, against hanging */
constexpr unsigned FIRST = 400, MORE = 40, IN_TABLES = 2000; /* keys */
constexpr size_t VALUE = 1000, LARGE_VALUE = 16384;

std::string mount_point, device_directory, full_directory;
faults *faulty;

/* ---- faults */

void set_fault(uint32_t actions, uint32_t files, int error, uint32_t let_through = 0, uint64_t from = 0,
               uint64_t to = EVERYWHERE)
{
    __atomic_store_n(&faulty->actions, 0, __ATOMIC_SEQ_CST);
    faulty->files = files;
    faulty->error = error;
    faulty->let_through = let_through;
    faulty->from = from;
    faulty->to = to;
    faulty->hits = 0;
    __atomic_store_n(&faulty->actions, actions, __ATOMIC_SEQ_CST);
}

void mend()
{
    __atomic_store_n(&faulty->actions, 0, __ATOMIC_SEQ_CST);
}

bool was_hit()
{
    return __atomic_load_n(&faulty->hits, __ATOMIC_SEQ_CST) > 0;
}

/* ---- what is said */

/* What a test saw, in words that must be the same on every file system. */
using account = std::vector<std::string>;

std::string said(const Status &status)
{
    return "code " + std::to_string(status.code()) + "." + std::to_string(status.subcode()) + " severity " +
           std::to_string(status.severity());
}

const char *kind_of(const std::string &path)
{
    const std::string name = path.substr(path.rfind('/') + 1);
    const std::string ending = name.substr(name.size() < 4 ? 0 : name.size() - 4);
    if (ending == ".sst" || ending == ".log")
        return ending == ".sst" ? "table" : "WAL";
    return name.rfind("MANIFEST-", 0) == 0 ? "MANIFEST" : "other";
}

const char *name_of_error(int error)
{
    return error == ENOSPC ? "ENOSPC" : "EIO";
}

bool has(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

/* Messages are not the same on every file system: ours has more to say. */
void check_message(const std::string &uri, const std::string &text, const std::string &file, int error)
{
    need(has(text, file), "no name of a file, %s, in: %s", file.c_str(), text.c_str());
    need(has(text, strerror(error)) || !is_posix(uri), "no errno in: %s", text.c_str());
    need(has(text, name_of_error(error)) || is_posix(uri), "no %s in: %s", name_of_error(error),
         text.c_str());
}

/* ---- what RocksDB tells */

class watcher : public EventListener {
public:
    explicit watcher(bool recovers) : recovers_(recovers) {}

    bool ShouldBeNotifiedOnFileIO() override { return true; }

    void OnIOError(const IOErrorInfo &info) override
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        const IOStatus &status = info.io_status;
        /* A read ahead that RocksDB itself takes back; its own file system, as packaged, has none. */
        if (status.IsAborted())
            return;
        seen_.insert(std::string(kind_of(info.file_path)) + ", operation " +
                     std::to_string((int)info.operation) + ": " + said(status) +
                     (status.GetRetryable() ? ", retryable" : "") +
                     (status.GetDataLoss() ? ", data loss" : "") + ", scope " +
                     std::to_string(status.GetScope()));
        messages_[status.ToString()] = info.file_path;
    }

    void OnBackgroundError(BackgroundErrorReason reason, Status *error) override
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        seen_.insert("background error, reason " + std::to_string((int)reason) + ": " + said(*error));
    }

    void OnErrorRecoveryBegin(BackgroundErrorReason, Status, bool *recovers) override
    {
        *recovers = recovers_;
    }

    void OnErrorRecoveryEnd(const BackgroundErrorRecoveryInfo &info) override
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        recovered_ = info.new_bg_error.ok();
        changed_.notify_all();
    }

    void await_recovery()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return recovered_; });
    }

    void tell(account &said)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        said.insert(said.end(), seen_.begin(), seen_.end());
        seen_.clear();
    }

    void check_messages(const std::string &uri, int error)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const auto &message : messages_)
            check_message(uri, message.first, message.second, error);
        messages_.clear();
    }

private:
    const bool recovers_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool recovered_ = false;
    std::set<std::string> seen_;
    std::map<std::string, std::string> messages_; /* and the file of each */
};

/* ---- a DB, and what must be in it */

struct test_db {
    const std::string uri, directory;
    const std::shared_ptr<FileSystem> fs;
    std::unique_ptr<Env> env;
    const std::shared_ptr<watcher> seen;
    Options options;
    DB *db = nullptr;
    std::map<std::string, std::string> acknowledged;
    unsigned writes = 0;

    /* A fresh one. */
    test_db(const std::string &its_uri, const std::string &its_directory, bool recovers = false)
        : uri(its_uri), directory(its_directory), fs(file_system(uri)), env(NewCompositeEnv(fs)),
          seen(std::make_shared<watcher>(recovers))
    {
        options = plain_options(env.get());
        options.target_file_size_base = 1 << 20;
        options.wal_recovery_mode = WALRecoveryMode::kAbsoluteConsistency;
        options.max_background_jobs = 4;
        options.listeners.push_back(seen);
        need_ok(DestroyDB(directory, Options()), "DestroyDB");
        need_ok(open(), "Open");
    }

    /* What failed may not let itself be closed. It stays as it is, the child ends. */
    ~test_db()
    {
        if (std::uncaught_exceptions() > 0)
            static_cast<void>(env.release());
        else
            close();
    }

    Status open() { return DB::Open(options, directory, &db); }

    void close()
    {
        delete db;
        db = nullptr;
    }

    void reopen()
    {
        close();
        need_ok(open(), "Open");
    }

    static std::string key(unsigned i)
    {
        char name[16];
        snprintf(name, sizeof name, "%08u", i);
        return name;
    }

    Status put(unsigned i, size_t size = VALUE)
    {
        WriteOptions synced;
        synced.sync = true;
        std::string value = std::to_string(++writes) + ",";
        value.resize(size, (char)('a' + writes % 26));
        const Status status = db->Put(synced, key(i), value);
        if (status.ok())
            acknowledged[key(i)] = value;
        return status;
    }

    void put_all(unsigned from, unsigned to)
    {
        for (unsigned i = from; i < to; i++)
            need_ok(put(i), "Put");
    }

    Status flush() { return db->Flush(FlushOptions()); }
    Status compact() { return db->CompactRange(CompactRangeOptions(), nullptr, nullptr); }

    /* What was not acknowledged may be there as well: nobody knows. Where `all`, that is nothing. */
    void check_scan(const ReadOptions &read, bool all)
    {
        std::unique_ptr<Iterator> it(db->NewIterator(read));
        auto next = acknowledged.begin();
        for (it->SeekToFirst(); it->Valid(); it->Next()) {
            if (next != acknowledged.end() && it->key() == next->first) {
                need(!all || it->value() == next->second, "key %s is wrong", next->first.c_str());
                ++next;
            } else {
                need(!all, "key %s nobody wrote", it->key().ToString().c_str());
            }
        }
        need_ok(it->status(), "an iterator");
        if (next != acknowledged.end())
            throw broken("key " + next->first + " is lost");
    }

    void check_gets(const ReadOptions &read)
    {
        for (const auto &pair : acknowledged) {
            std::string value;
            need_ok(db->Get(read, pair.first, &value), "Get");
            need(value == pair.second, "key %s is wrong", pair.first.c_str());
        }
    }

    /* All that is to be there, also for RocksDB's own file system. */
    void check_after_fault()
    {
        check_gets({});
        check_scan({}, false);
        need_ok(db->VerifyChecksum(), "VerifyChecksum");
    }
};

/* ---- reads */

std::vector<Status> multi_get(test_db &t, const ReadOptions &read, const std::vector<std::string> &keys,
                              std::vector<std::string> *values)
{
    std::vector<Slice> names(keys.begin(), keys.end());
    std::vector<PinnableSlice> found(keys.size());
    std::vector<Status> statuses(keys.size());
    t.db->MultiGet(read, t.db->DefaultColumnFamily(), keys.size(), names.data(), found.data(),
                   statuses.data());
    values->clear();
    for (PinnableSlice &value : found)
        values->push_back(value.ToString());
    return statuses;
}

void fill_tables(test_db &t)
{
    t.put_all(0, 50);
    WriteOptions unsynced;
    for (unsigned i = 50; i < IN_TABLES; i++) {
        std::string value(VALUE, (char)('a' + i % 26));
        need_ok(t.db->Put(unsynced, test_db::key(i), value), "Put");
        t.acknowledged[test_db::key(i)] = value;
    }
    need_ok(t.flush(), "Flush");
    need_ok(t.compact(), "CompactRange");
}

/* All of these fail, and say so; when the fault is gone they are right. */
account reads_fail(const std::string &uri)
{
    account result;
    test_db t(uri, mount_point + "/db");
    fill_tables(t);
    for (int i = 0; i < 4; i++) {
        ReadOptions read;
        read.async_io = i & 1;
        read.readahead_size = read.async_io ? 65536 : 0;
        t.options.use_direct_reads = i & 2;
        t.reopen();
        std::unique_ptr<Iterator> it(t.db->NewIterator(read));

        set_fault(FAULT_READ, FILE_TABLE, EIO);
        std::string value;
        Status status = t.db->Get(read, test_db::key(100), &value);
        need(status.IsIOError() && value.empty(), "Get: %s", status.ToString().c_str());
        check_message(uri, status.ToString(), ".sst", EIO);
        result.push_back("Get: " + said(status));
        std::vector<std::string> keys, values;
        for (unsigned k = 0; k < 32; k++)
            keys.push_back(test_db::key(k * 60));
        for (const Status &one : multi_get(t, read, keys, &values)) {
            need(one.IsIOError(), "MultiGet: %s", one.ToString().c_str());
            check_message(uri, one.ToString(), ".sst", EIO);
            result.push_back("MultiGet: " + said(one));
        }
        it->SeekToFirst();
        need(!it->Valid() && it->status().IsIOError(), "SeekToFirst: %s", it->status().ToString().c_str());
        check_message(uri, it->status().ToString(), ".sst", EIO);
        result.push_back("SeekToFirst: " + said(it->status()));
        it->Seek(test_db::key(IN_TABLES / 2));
        need(!it->Valid() && it->status().IsIOError(), "Seek: %s", it->status().ToString().c_str());
        result.push_back("Seek: " + said(it->status()));

        /* In the midst of a scan: what came before is right. */
        set_fault(FAULT_READ, FILE_TABLE, EIO, 5);
        unsigned count = 0;
        for (it->SeekToFirst(); it->Valid(); it->Next(), count++)
            need(it->key() == test_db::key(count) && it->value() == t.acknowledged[test_db::key(count)],
                 "key %u is wrong", count);
        need(count > 0 && it->status().IsIOError(), "%u keys, and then %s", count,
             it->status().ToString().c_str());
        check_message(uri, it->status().ToString(), ".sst", EIO);
        result.push_back("Next: " + said(it->status()));

        mend();
        it->Seek(test_db::key(IN_TABLES / 2));
        need(it->Valid() && it->value() == t.acknowledged[test_db::key(IN_TABLES / 2)],
             "Seek, without a fault: %s", it->status().ToString().c_str());
        t.check_gets(read);
        t.check_scan(read, true);
        const std::vector<Status> statuses = multi_get(t, read, keys, &values);
        for (size_t k = 0; k < keys.size(); k++)
            need(statuses[k].ok() && values[k] == t.acknowledged[keys[k]], "MultiGet, without a fault: %s",
                 statuses[k].ToString().c_str());
    }
    t.seen->check_messages(uri, EIO);
    t.seen->tell(result);
    return result;
}

/* Of many reads at once those fail that touch what is bad. Keys `apart` blocks from each other. */
void bad_block(test_db &t, uint32_t kind, unsigned apart, account &result)
{
    constexpr unsigned COUNT = 32, BAD = 10, KEYS_OF_BLOCK = 4;
    std::vector<std::string> keys, values;
    std::vector<fault_place> places;
    for (unsigned k = 0; k < COUNT; k++) {
        keys.push_back(test_db::key(100 + k * apart * KEYS_OF_BLOCK));
        /* Twice: what the file system below must know is known then. */
        for (int i = 0; i < 2; i++)
            need_ok(t.db->Get({}, keys[k], &values.emplace_back()), "Get");
        places.push_back(faulty->last_read[kind]);
    }
    const uint64_t from = places[BAD].offset, to = from + places[BAD].length;
    set_fault(FAULT_READ, kind, EIO, 0, from, to);
    const std::vector<Status> statuses = multi_get(t, {}, keys, &values);
    mend();
    std::string failed = "bad:";
    for (unsigned k = 0; k < COUNT; k++) {
        const bool touches = places[k].offset < to && from < places[k].offset + places[k].length;
        need(statuses[k].ok() || statuses[k].IsIOError(), "MultiGet: %s", statuses[k].ToString().c_str());
        /* RocksDB makes one read of blocks that are neighbours. */
        need(!touches || !statuses[k].ok(), "key %u should fail", k);
        need(apart == 1 || touches || statuses[k].ok(), "key %u: %s", k, statuses[k].ToString().c_str());
        need(!statuses[k].ok() || values[k] == t.acknowledged[keys[k]], "key %u is wrong", k);
        if (!statuses[k].ok()) {
            check_message(t.uri, statuses[k].ToString(), ".sst", EIO);
            failed += " " + std::to_string(k);
        }
    }
    result.push_back(failed);
    t.check_gets({});
}

account bad_blocks(const std::string &uri, const std::string &directory, uint32_t kind)
{
    account result;
    test_db t(uri, directory + "/db");
    fill_tables(t);
    for (int direct = kind == FILE_IMAGE; direct < 2; direct++) {
        t.options.use_direct_reads = direct;
        t.reopen();
        bad_block(t, kind, 3, result);
        bad_block(t, kind, 1, result);
    }
    t.seen->check_messages(uri, EIO);
    return result;
}

/* ---- writes */

enum class trigger { put, flush, compaction };

struct write_fault {
    const char *name;
    uint32_t actions, files;
    trigger by;
    int error;
};

Status pull(test_db &t, trigger by)
{
    return by == trigger::put ? t.put(FIRST + MORE) : by == trigger::flush ? t.flush() : t.compact();
}

account writes_fail(const std::string &uri, const write_fault &fault)
{
    account result;
    test_db t(uri, mount_point + "/db");
    t.put_all(0, FIRST);
    if (fault.by == trigger::compaction) {
        need_ok(t.flush(), "Flush");
        t.put_all(0, FIRST);
        need_ok(t.flush(), "Flush");
    }
    t.put_all(FIRST, FIRST + MORE);

    set_fault(fault.actions, fault.files, fault.error);
    Status status = pull(t, fault.by);
    need(!status.ok() && was_hit(), "%s", status.ToString().c_str());
    need(fault.error != ENOSPC || status.IsNoSpace(), "%s", status.ToString().c_str());
    const char *const file = fault.files == FILE_MANIFEST ? "MANIFEST-"
                             : fault.files == FILE_WAL    ? ".log"
                                                          : ".sst";
    check_message(uri, status.ToString(), file, fault.error);
    result.push_back("fails: " + said(status));
    result.push_back("Put: " + said(t.put(FIRST + MORE + 1)));
    std::string errors;
    need(t.db->GetProperty("rocksdb.background-errors", &errors), "GetProperty");
    result.push_back("background errors: " + errors);
    result.push_back("Resume: " + said(t.db->Resume()));
    mend();
    status = t.db->Resume();
    result.push_back("Resume, without a fault: " + said(status));
    const bool resumed = status.ok();
    status = t.put(FIRST + MORE + 2);
    need(!resumed || status.ok(), "Put after Resume: %s", status.ToString().c_str());
    result.push_back("Put, without a fault: " + said(status));
    t.check_gets({});
    t.seen->tell(result);
    t.seen->check_messages(uri, fault.error);

    t.reopen();
    t.check_after_fault();
    t.put_all(FIRST, FIRST + MORE);
    need_ok(t.flush(), "Flush");
    need_ok(t.compact(), "CompactRange");
    t.check_after_fault();
    t.options.env = Env::Default();
    t.reopen();
    t.check_after_fault();
    return result;
}

/* What opens a DB meets a bad file. */
account open_fails(const std::string &uri, uint32_t files)
{
    account result;
    test_db t(uri, mount_point + "/db");
    t.put_all(0, FIRST);
    need_ok(t.flush(), "Flush");
    t.put_all(FIRST, FIRST + MORE);
    t.close();
    set_fault(FAULT_READ, files, EIO);
    const Status status = t.open();
    need(status.IsIOError() && was_hit(), "Open: %s", status.ToString().c_str());
    check_message(uri, status.ToString(), "/db/", EIO);
    result.push_back(said(status));
    mend();
    need_ok(t.open(), "Open, without a fault");
    t.check_after_fault();
    t.check_scan({}, true);
    return result;
}

/* ---- a disk that is full */

account no_room(const std::string &uri)
{
    const std::string ballast = full_directory + "/ballast";
    test_db t(uri, full_directory + "/db", true);
    t.options.write_buffer_size = 1 << 20;
    t.reopen();
    const int fd = open(ballast.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    need(fd >= 0 && posix_fallocate(fd, 0, BALLAST) == 0, "no ballast");
    close(fd);
    Status status;
    for (unsigned i = 0; status.ok(); i++)
        status = t.put(i, LARGE_VALUE);
    need(status.IsNoSpace(), "%s", status.ToString().c_str());
    need(has(status.ToString(), "/db/"), "no name of a file in: %s", status.ToString().c_str());
    t.check_gets({});
    /* RocksDB looks every five seconds. */
    need(unlink(ballast.c_str()) == 0, "unlink");
    /* What was freed comes back with the journal. */
    const int directory = open(full_directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    need(directory >= 0 && syncfs(directory) == 0, "syncfs");
    close(directory);
    t.seen->await_recovery();
    t.put_all(0, FIRST);
    need_ok(t.flush(), "Flush");
    t.check_after_fault();
    t.reopen();
    t.check_after_fault();
    t.close();
    need_ok(DestroyDB(t.directory, Options()), "DestroyDB");
    return {};
}

/* ---- the tests, each in a child */

struct test {
    std::string name;
    std::function<account(const std::string &uri)> run;
};

/* What the child says, a line each. False where it failed: then that is why. */
bool in_child(const test &t, const std::string &uri, std::string *said)
{
    int ends[2];
    need(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    mend();
    fflush(stdout);
    const pid_t parent = getpid(), pid = fork();
    need(pid >= 0, "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        alarm(TIME_LIMIT_S);
        int status = 0;
        std::string text;
        try {
            for (const std::string &line : t.run(uri))
                text += line + "\n";
        } catch (const broken &what) {
            text = what.what();
            status = 1;
        }
        for (size_t at = 0; at < text.size();) {
            const ssize_t n = write(ends[1], text.data() + at, text.size() - at);
            if (n <= 0)
                _exit(1);
            at += (size_t)n;
        }
        _exit(status);
    }
    close(ends[1]);
    char buffer[4096];
    said->clear();
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
        said->append(buffer, (size_t)n);
    close(ends[0]);
    int status;
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    if (WIFSIGNALED(status))
        *said += std::string("ended by signal ") + strsignal(WTERMSIG(status));
    return status == 0;
}

/* Where they differ first. */
std::string difference(const std::string &own, const std::string &theirs)
{
    size_t line = 0;
    for (size_t i = 0; i < own.size() && i < theirs.size() && own[i] == theirs[i]; i++)
        line = own[i] == '\n' ? i + 1 : line;
    return own.substr(line, own.find('\n', line) - line) + "\n# posix: " +
           theirs.substr(line, theirs.find('\n', line) - line);
}

std::vector<test> all_tests()
{
    static const write_fault faults_of_writes[] = {
        {"EIO: a write to the WAL", FAULT_WRITE, FILE_WAL, trigger::put, EIO},
        {"EIO: a sync of the WAL", FAULT_SYNC, FILE_WAL, trigger::put, EIO},
        {"EIO: a flush's write", FAULT_WRITE, FILE_TABLE, trigger::flush, EIO},
        {"EIO: a flush's sync", FAULT_SYNC, FILE_TABLE, trigger::flush, EIO},
        {"EIO: a compaction's read", FAULT_READ, FILE_TABLE, trigger::compaction, EIO},
        {"EIO: a compaction's write", FAULT_WRITE, FILE_TABLE, trigger::compaction, EIO},
        {"EIO: a compaction's sync", FAULT_SYNC, FILE_TABLE, trigger::compaction, EIO},
        {"EIO: a write to the MANIFEST", FAULT_WRITE, FILE_MANIFEST, trigger::flush, EIO},
        {"EIO: a sync of the MANIFEST", FAULT_SYNC, FILE_MANIFEST, trigger::flush, EIO},
        {"ENOSPC: a write to the WAL", FAULT_WRITE, FILE_WAL, trigger::put, ENOSPC},
        {"ENOSPC: a flush's write", FAULT_WRITE, FILE_TABLE, trigger::flush, ENOSPC},
        {"ENOSPC: a compaction's write", FAULT_WRITE, FILE_TABLE, trigger::compaction, ENOSPC},
        {"ENOSPC: a write to the MANIFEST", FAULT_WRITE, FILE_MANIFEST, trigger::flush, ENOSPC},
    };
    std::vector<test> tests = {
        {"EIO: reads of tables", reads_fail},
        {"EIO: a bad block of a file",
         [](const std::string &uri) { return bad_blocks(uri, mount_point, FILE_TABLE); }},
        {"EIO: a bad block of a device",
         [](const std::string &uri) { return bad_blocks(uri, device_directory, FILE_IMAGE); }},
        {"EIO: Open cannot read the MANIFEST",
         [](const std::string &uri) { return open_fails(uri, FILE_MANIFEST); }},
        {"EIO: Open cannot read the WAL", [](const std::string &uri) { return open_fails(uri, FILE_WAL); }},
        {"EIO: Open cannot read a table", [](const std::string &uri) { return open_fails(uri, FILE_TABLE); }},
        {"EIO: Open cannot read CURRENT", [](const std::string &uri) { return open_fails(uri, FILE_OTHER); }},
        {"no room", no_room},
    };
    for (const write_fault &fault : faults_of_writes)
        tests.push_back({fault.name, [&fault](const std::string &uri) { return writes_fail(uri, fault); }});
    return tests;
}

int run(const std::vector<std::string> &uris)
{
    unsigned count = 0, failed = 0;
    for (const test &t : all_tests()) {
        std::string theirs, own;
        const bool control = in_child(t, "posix", &theirs);
        const auto result = [&](bool fine, const std::string &uri, const std::string &why) {
            printf("%sok %u - %s: %s\n", fine ? "" : "not ", ++count, uri.c_str(), t.name.c_str());
            if (!fine)
                printf("# %s\n", why.c_str());
            failed += !fine;
        };
        result(control, "posix", theirs);
        for (const std::string &uri : uris) {
            const bool fine = in_child(t, uri, &own);
            result(fine && (!control || own == theirs), uri, fine ? difference(own, theirs) : own);
        }
    }
    printf("1..%u\n", count);
    return failed > 0;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: faults DIRECTORY FAULTS DEVICE FULL URI...\n");
        return 2;
    }
    mount_point = argv[1];
    device_directory = argv[3];
    full_directory = argv[4];
    const int fd = open(argv[2], O_RDWR | O_CLOEXEC);
    void *memory = mmap(nullptr, sizeof *faulty, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        perror(argv[2]);
        return 2;
    }
    faulty = static_cast<faults *>(memory);
    return run(std::vector<std::string>(argv + 5, argv + argc));
}
