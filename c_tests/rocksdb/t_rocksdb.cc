/*
 * Promise: a RocksDB database on the file system says what was put into it, whichever way it is asked,
 * written, compacted, copied, and opened again. A map that the test keeps is what it is compared with.
 */
#include <algorithm>
#include <map>

#include "rocksdb/db.h"
#include "rocksdb/file_checksum.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/sst_file_writer.h"
#include "rocksdb/table.h"
#include "rocksdb/utilities/backup_engine.h"
#include "rocksdb/utilities/checkpoint.h"

#include "common.h"

using namespace rocksdb;

namespace {

using model = std::map<std::string, std::string>;

constexpr uint64_t KEYS = 8000;

std::string key_of(uint64_t number)
{
    char text[32];
    snprintf(text, sizeof text, "key%010llu", (unsigned long long)number);
    return text;
}

/* No background error may pass unseen. */
class errors : public EventListener {
  public:
    void OnBackgroundError(BackgroundErrorReason, Status *status) override
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (first.empty())
            first = status->ToString();
    }

    void none()
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (!first.empty())
            FAIL("background error: %s", first.c_str());
    }

  private:
    std::mutex mutex;
    std::string first;
};

struct variation {
    const char *name;
    const char *uri_option;
    void (*set)(Options &);
};

/* So small that a few megabytes are flushed and compacted many times; no block comes from a cache. */
Options small_options(Env *env)
{
    Options options;
    BlockBasedTableOptions table;
    table.no_block_cache = true;
    table.filter_policy.reset(NewBloomFilterPolicy(10));
    options.table_factory.reset(NewBlockBasedTableFactory(table));
    options.env = env;
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    options.compression = kNoCompression;
    options.write_buffer_size = 256 << 10;
    options.target_file_size_base = 256 << 10;
    options.max_bytes_for_level_base = 1 << 20;
    options.level0_file_num_compaction_trigger = 3;
    options.max_background_jobs = 4;
    options.file_checksum_gen_factory = GetFileChecksumGenCrc32cFactory();
    return options;
}

ReadOptions reading(bool async_io, size_t readahead_size)
{
    ReadOptions options;
    options.async_io = async_io;
    options.readahead_size = readahead_size;
    return options;
}

/* Every entry of the map and no other, in both directions. */
void check_scan(DB *db, ColumnFamilyHandle *family, const model &expected, const ReadOptions &options)
{
    std::unique_ptr<Iterator> it(db->NewIterator(options, family));
    auto at = expected.begin();
    for (it->SeekToFirst(); it->Valid(); it->Next(), ++at) {
        CHECK(at != expected.end());
        CHECK(it->key() == at->first);
        CHECK(it->value() == at->second);
    }
    CHECK_OK(it->status());
    CHECK(at == expected.end());
    auto back = expected.rbegin();
    for (it->SeekToLast(); it->Valid(); it->Prev(), ++back) {
        CHECK(back != expected.rend());
        CHECK(it->key() == back->first);
        CHECK(it->value() == back->second);
    }
    CHECK_OK(it->status());
    CHECK(back == expected.rend());
}

void check_scan(DB *db, const model &expected)
{
    check_scan(db, db->DefaultColumnFamily(), expected, ReadOptions());
}

/* Keys that are there, and some that are not. */
void check_gets(DB *db, ColumnFamilyHandle *family, const model &expected, randomness &random, int count)
{
    for (int i = 0; i < count; i++) {
        std::string key = key_of(random.below(KEYS + KEYS / 10));
        PinnableSlice value;
        Status status = db->Get(ReadOptions(), family, key, &value);
        auto found = expected.find(key);
        if (found == expected.end()) {
            CHECK(status.IsNotFound());
        } else {
            CHECK_OK(status);
            CHECK(value == found->second);
        }
    }
}

void check_multigets(DB *db, ColumnFamilyHandle *family, const model &expected, randomness &random,
                     int count, size_t batch, bool async_io)
{
    for (int i = 0; i < count; i++) {
        std::vector<std::string> keys;
        std::vector<Slice> slices;
        std::vector<PinnableSlice> values(batch);
        std::vector<Status> statuses(batch);
        uint64_t first = random.below(KEYS);
        /* Half of them neighbours, whose blocks are neighbours too. */
        for (size_t j = 0; j < batch; j++)
            keys.push_back(key_of(i % 2 ? first + j : random.below(KEYS)));
        for (const std::string &key : keys)
            slices.emplace_back(key);
        db->MultiGet(reading(async_io, 0), family, batch, slices.data(), values.data(), statuses.data());
        for (size_t j = 0; j < batch; j++) {
            auto found = expected.find(keys[j]);
            if (found == expected.end()) {
                CHECK(statuses[j].IsNotFound());
            } else {
                CHECK_OK(statuses[j]);
                CHECK(values[j] == found->second);
            }
        }
    }
}

/* Short scans from anywhere, in both directions, most of them given up on the way. */
void check_seeks(DB *db, ColumnFamilyHandle *family, const model &expected, randomness &random, int count,
                 const ReadOptions &options)
{
    for (int i = 0; i < count; i++) {
        std::string key = key_of(random.below(KEYS + 10));
        std::unique_ptr<Iterator> it(db->NewIterator(options, family));
        uint64_t steps = random.below(random.one_in(4) ? 200 : 5);
        if (random.one_in(3)) {
            auto at = expected.upper_bound(key);
            for (it->SeekForPrev(key); it->Valid() && steps > 0; it->Prev(), steps--) {
                CHECK(at != expected.begin());
                --at;
                CHECK(it->key() == at->first);
                CHECK(it->value() == at->second);
            }
            CHECK(it->Valid() || at == expected.begin());
        } else {
            auto at = expected.lower_bound(key);
            for (it->Seek(key); it->Valid() && steps > 0; it->Next(), ++at, steps--) {
                CHECK(at != expected.end());
                CHECK(it->key() == at->first);
                CHECK(it->value() == at->second);
            }
            CHECK(it->Valid() || at == expected.end());
        }
        CHECK_OK(it->status());
    }
}

void check_all(DB *db, ColumnFamilyHandle *family, const model &expected, randomness &random)
{
    check_gets(db, family, expected, random, 200);
    for (bool async_io : {false, true}) {
        check_multigets(db, family, expected, random, 10, 32, async_io);
        check_multigets(db, family, expected, random, 1, 700, async_io);
        check_seeks(db, family, expected, random, 30, reading(async_io, 0));
        check_seeks(db, family, expected, random, 30, reading(async_io, 64 << 10));
    }
    check_scan(db, family, expected, reading(false, 0));
    check_scan(db, family, expected, reading(true, 0));
    check_scan(db, family, expected, reading(true, 256 << 10));
}

/* A database in the directory, what it should hold, and what writes both. */
class store {
  public:
    store(const std::string &name, uint64_t stream, const char *uri_option = "",
          void (*set)(Options &) = nullptr)
        : path(directory + "/" + name), fs(file_system(uri_with(uri_option))),
          env(NewCompositeEnv(fs)), options(small_options(env.get())), random(stream)
    {
        if (set != nullptr)
            set(options);
        options.listeners.push_back(seen);
        open();
    }

    ~store()
    {
        delete db;
        DestroyDB(path, options).PermitUncheckedError();
    }

    void open() { CHECK_OK(DB::Open(options, path, &db)); }

    void close()
    {
        CHECK_OK(db->Close());
        delete db;
        db = nullptr;
        seen->none();
    }

    void reopen()
    {
        close();
        open();
    }

    /* Closed, it is gone as a whole: nothing of it is left in the directory. */
    void destroy()
    {
        close();
        CHECK_OK(DestroyDB(path, options));
        CHECK(access(path.c_str(), F_OK) != 0);
    }

    std::string value()
    {
        return random.bytes(random.one_in(100) ? random.below(100000) : random.below(1200));
    }

    void put(WriteBatch &batch, const std::string &key)
    {
        std::string text = value();
        CHECK_OK(batch.Put(key, text));
        expected[key] = text;
    }

    void write(WriteBatch &batch)
    {
        WriteOptions how;
        how.sync = random.one_in(40);
        CHECK_OK(db->Write(how, &batch));
        batch.Clear();
    }

    /* Overwrites where the keys are there already. */
    void fill(int count)
    {
        WriteBatch batch;
        for (int i = 0; i < count; i++) {
            put(batch, key_of(random.below(KEYS)));
            if (random.one_in(8))
                write(batch);
        }
        write(batch);
    }

    void remove(int count)
    {
        WriteBatch batch;
        for (int i = 0; i < count; i++) {
            std::string key = key_of(random.below(KEYS));
            CHECK_OK(batch.Delete(key));
            expected.erase(key);
        }
        write(batch);
    }

    void remove_range()
    {
        uint64_t first = random.below(KEYS);
        std::string begin = key_of(first), end = key_of(first + 1 + random.below(KEYS / 20));
        CHECK_OK(db->DeleteRange(WriteOptions(), db->DefaultColumnFamily(), begin, end));
        expected.erase(expected.lower_bound(begin), expected.lower_bound(end));
    }

    void check() { check_all(db, db->DefaultColumnFamily(), expected, random); }

    const std::string path;
    std::shared_ptr<FileSystem> fs;
    std::unique_ptr<Env> env;
    Options options;
    randomness random;
    model expected;
    std::shared_ptr<errors> seen = std::make_shared<errors>();
    DB *db = nullptr;
};

/* ---- one life of a database, in many ways of keeping it ---- */

const variation variations[] = {
    {"plain", "", nullptr},
    {"no merging", "merge_limit=0", nullptr},
    {"callback threads and two reactors", "workers=2&reactors=2", nullptr},
    {"a queue of one", "depth=1&queue_size=1", nullptr},
    {"direct reads", "", [](Options &o) { o.use_direct_reads = true; }},
    {"direct reads and writes", "",
     [](Options &o) {
         o.use_direct_reads = true;
         o.use_direct_io_for_flush_and_compaction = true;
     }},
    {"the URI's direct", "direct=1", nullptr},
    {"subcompactions, with readahead", "",
     [](Options &o) {
         o.max_subcompactions = 4;
         o.compaction_readahead_size = 128 << 10;
     }},
    {"universal compaction", "", [](Options &o) { o.compaction_style = kCompactionStyleUniversal; }},
    {"blob files", "",
     [](Options &o) {
         o.enable_blob_files = true;
         o.min_blob_size = 500;
         o.enable_blob_garbage_collection = true;
         o.blob_garbage_collection_age_cutoff = 0.5;
     }},
    {"log files used again", "",
     [](Options &o) {
         o.recycle_log_file_num = 3;
         o.wal_recovery_mode = WALRecoveryMode::kPointInTimeRecovery;
     }},
    {"ranges synced", "",
     [](Options &o) {
         o.bytes_per_sync = 32 << 10;
         o.wal_bytes_per_sync = 32 << 10;
     }},
    {"ranges synced strictly", "",
     [](Options &o) {
         o.bytes_per_sync = 32 << 10;
         o.wal_bytes_per_sync = 32 << 10;
         o.strict_bytes_per_sync = true;
     }},
    {"no preallocation", "", [](Options &o) { o.allow_fallocate = false; }},
    {"preallocation in large pieces, every file synced with its metadata", "",
     [](Options &o) {
         o.manifest_preallocation_size = 16 << 20;
         o.use_fsync = true;
     }},
    {"advice on compaction, random access not assumed", "",
     [](Options &o) {
         o.advise_random_on_open = false;
         o.access_hint_on_compaction_start = Options::SEQUENTIAL;
     }},
    {"direct writes, checksums handed down", "",
     [](Options &o) {
         o.use_direct_io_for_flush_and_compaction = true;
         o.checksum_handoff_file_types.Add(FileType::kTableFile);
     }},
    {"few tables open at most", "", [](Options &o) { o.max_open_files = 12; }},
    {"pipelined writes, checksums handed down", "",
     [](Options &o) {
         o.enable_pipelined_write = true;
         o.checksum_handoff_file_types.Add(FileType::kWalFile);
         o.checksum_handoff_file_types.Add(FileType::kTableFile);
         o.checksum_handoff_file_types.Add(FileType::kDescriptorFile);
     }},
};

void one_life(const variation &v, uint64_t stream)
{
    store s("life", stream, v.uri_option, v.set);
    s.fill(2500);
    s.check();
    s.fill(1500);
    s.remove(300);
    s.remove_range();
    CHECK_OK(s.db->Flush(FlushOptions()));
    s.check();
    s.reopen();
    s.fill(500);
    s.remove_range();
    CompactRangeOptions compaction;
    compaction.bottommost_level_compaction = BottommostLevelCompaction::kForce;
    CHECK_OK(s.db->CompactRange(compaction, nullptr, nullptr));
    s.check();
    CHECK_OK(s.db->VerifyChecksum());
    CHECK_OK(s.db->VerifyFileChecksums(ReadOptions()));
    /* What is in the log alone is there after it is opened again. */
    s.fill(100);
    s.remove(20);
    s.reopen();
    s.check();
    s.destroy();
}

/* ---- readers beside each other, and beside writers ---- */

void iterators_at_once()
{
    store s("iterators", 100);
    s.fill(4000);
    CHECK_OK(s.db->Flush(FlushOptions()));
    crew readers(4, [&s](unsigned number) {
        randomness random(101 + number);
        ColumnFamilyHandle *family = s.db->DefaultColumnFamily();
        for (int i = 0; i < 8; i++) {
            check_scan(s.db, family, s.expected, reading(true, 16 << 10 << number));
            check_seeks(s.db, family, s.expected, random, 40, reading(true, 8 << 10 << number));
            check_multigets(s.db, family, s.expected, random, 3, 32, number % 2);
        }
    });
    readers.join();
    /* Several of one thread: the requests of each are its own. */
    std::vector<std::unique_ptr<Iterator>> several;
    std::vector<model::const_iterator> places;
    for (int i = 0; i < 10; i++) {
        several.emplace_back(s.db->NewIterator(reading(true, 32 << 10)));
        std::string key = key_of(s.random.below(KEYS));
        several[i]->Seek(key);
        places.push_back(s.expected.lower_bound(key));
    }
    for (int i = 0; i < 3000; i++) {
        size_t one = s.random.below(several.size());
        CHECK_OK(several[one]->status());
        CHECK_EQ(several[one]->Valid(), places[one] != s.expected.end());
        if (!several[one]->Valid())
            continue;
        CHECK(several[one]->key() == places[one]->first);
        CHECK(several[one]->value() == places[one]->second);
        several[one]->Next();
        ++places[one];
    }
    several.clear();
    s.destroy();
}

/* Each snapshot shows the database as it was, while writers go on and files are compacted away. */
void readers_beside_writers()
{
    store s("beside", 110);
    s.fill(2000);
    std::atomic<bool> done{false};
    crew writers(2, [&s, &done](unsigned number) {
        randomness random(111 + number);
        for (int i = 0; i < 2000 && !done; i++)
            CHECK_OK(s.db->Put(WriteOptions(), "other" + std::to_string(number) + key_of(random.below(KEYS)),
                               random.bytes(random.below(2000))));
        CHECK_OK(s.db->CompactRange(CompactRangeOptions(), nullptr, nullptr));
    });
    const std::string end = "key:";
    const Slice upper(end);
    crew readers(2, [&s, &upper](unsigned number) {
        for (int i = 0; i < 10; i++) {
            ReadOptions options = reading(number % 2, 64 << 10);
            options.snapshot = s.db->GetSnapshot();
            options.iterate_upper_bound = &upper;
            check_scan(s.db, s.db->DefaultColumnFamily(), s.expected, options);
            s.db->ReleaseSnapshot(options.snapshot);
        }
    });
    readers.join();
    done = true;
    writers.join();
    s.destroy();
}

/* A request with no time at all may fail, but only as timed out; one with enough may not. */
void reads_with_a_deadline()
{
    store s("deadline", 120);
    s.fill(2000);
    CHECK_OK(s.db->CompactRange(CompactRangeOptions(), nullptr, nullptr));
    const std::chrono::microseconds hour(3600LL * 1000000), instant(1);
    for (bool async_io : {false, true}) {
        for (auto io_timeout : {hour, instant}) {
            for (const auto &entry : s.expected) {
                ReadOptions options = reading(async_io, 0);
                options.io_timeout = io_timeout;
                std::string value;
                Status status = s.db->Get(options, entry.first, &value);
                CHECK(status.ok() || (status.IsTimedOut() && io_timeout == instant));
                CHECK(!status.ok() || value == entry.second);
            }
            ReadOptions options = reading(async_io, 32 << 10);
            options.io_timeout = io_timeout;
            std::unique_ptr<Iterator> it(s.db->NewIterator(options));
            auto at = s.expected.begin();
            for (it->SeekToFirst(); it->Valid(); it->Next(), ++at) {
                CHECK(at != s.expected.end());
                CHECK(it->key() == at->first);
                CHECK(it->value() == at->second);
            }
            Status status = it->status();
            CHECK(status.ok() ? at == s.expected.end() : status.IsTimedOut() && io_timeout == instant);
        }
        ReadOptions options = reading(async_io, 0);
        options.deadline = std::chrono::microseconds(s.env->NowMicros()) + hour;
        PinnableSlice value;
        CHECK_OK(s.db->Get(options, s.db->DefaultColumnFamily(), s.expected.begin()->first, &value));
        CHECK(value == s.expected.begin()->second);
    }
    s.check();
    s.destroy();
}

/* ---- the log ---- */

/* What was flushed and synced by one of several threads is in the file, whoever else writes. */
void log_flushed_by_hand()
{
    store s("by_hand", 130, "", [](Options &o) { o.manual_wal_flush = true; });
    std::vector<model> flushed(4);
    crew writers(4, [&](unsigned number) {
        randomness random(131 + number);
        model own;
        for (int i = 0; i < 600; i++) {
            std::string key = std::to_string(number) + key_of(random.below(KEYS));
            std::string value = random.bytes(random.below(3000));
            CHECK_OK(s.db->Put(WriteOptions(), key, value));
            own[key] = value;
            if (random.one_in(20)) {
                CHECK_OK(s.db->FlushWAL(number % 2 == 0));
                if (number % 2 != 0)
                    CHECK_OK(s.db->SyncWAL());
                flushed[number] = own;
            }
        }
        CHECK_OK(s.db->FlushWAL(true));
        flushed[number] = own;
    });
    writers.join();
    for (const model &one : flushed)
        s.expected.insert(one.begin(), one.end());
    /* Compactions may go on, and what the reader has found is to stay. */
    CHECK_OK(s.db->DisableFileDeletions());
    DB *reader = nullptr;
    CHECK_OK(DB::OpenForReadOnly(s.options, s.path, &reader));
    std::unique_ptr<DB> owner(reader);
    check_scan(reader, s.expected);
    owner.reset();
    CHECK_OK(s.db->EnableFileDeletions());
    s.reopen();
    check_scan(s.db, s.expected);
    s.destroy();
}

/* Syncs of one log from many threads, each with its own writes. */
void synced_writes_of_many()
{
    store s("synced", 140);
    std::mutex mutex;
    crew writers(8, [&](unsigned number) {
        randomness random(141 + number);
        WriteOptions how;
        how.sync = true;
        for (int i = 0; i < 25; i++) {
            std::string key = std::to_string(number) + key_of(random.below(KEYS)), value = random.bytes(500);
            CHECK_OK(s.db->Put(how, key, value));
            std::lock_guard<std::mutex> lock(mutex);
            s.expected[key] = value;
        }
    });
    writers.join();
    check_scan(s.db, s.expected);
    s.reopen();
    check_scan(s.db, s.expected);
    s.destroy();
}

/* A secondary instance reads the log and the manifest on from where they ended before. */
void secondary_catches_up()
{
    /* Flushed by hand only: a log that goes in the middle of a catching up is not seen by it. */
    store s("primary", 150, "", [](Options &o) { o.write_buffer_size = 64 << 20; });
    s.fill(300);
    Options options = s.options;
    options.max_open_files = -1;
    options.listeners.clear();
    DB *opened = nullptr;
    CHECK_OK(DB::OpenAsSecondary(options, s.path, directory + "/secondary", &opened));
    std::unique_ptr<DB> secondary(opened);
    check_scan(secondary.get(), s.expected);
    for (int i = 0; i < 20; i++) {
        s.fill(100);
        if (i % 5 == 4)
            CHECK_OK(s.db->Flush(FlushOptions()));
        CHECK_OK(secondary->TryCatchUpWithPrimary());
        check_scan(secondary.get(), s.expected);
    }
    secondary.reset();
    DestroyDB(directory + "/secondary", options).PermitUncheckedError();
    s.destroy();
}

/* The log as others are fed from it, up to its very end. */
void updates_since()
{
    store s("updates", 160, "", [](Options &o) { o.WAL_ttl_seconds = 3600; });
    SequenceNumber next = 1;
    std::unique_ptr<TransactionLogIterator> it;
    for (int i = 0; i < 10; i++) {
        s.fill(200);
        CHECK_OK(s.db->GetUpdatesSince(next, &it));
        for (; it->Valid(); it->Next()) {
            BatchResult batch = it->GetBatch();
            CHECK_EQ(batch.sequence, next);
            next += batch.writeBatchPtr->Count();
        }
        CHECK_EQ(next, s.db->GetLatestSequenceNumber() + 1);
    }
    it.reset();
    s.destroy();
}

/* ---- more than one family, more than one copy ---- */

void column_families()
{
    store s("families", 170, "", [](Options &o) { o.atomic_flush = true; });
    std::vector<model> models(3);
    std::vector<ColumnFamilyHandle *> handles;
    const std::vector<std::string> names = {"one", "two", "three"};
    CHECK_OK(s.db->CreateColumnFamilies(s.options, names, &handles));
    for (int i = 0; i < 3000; i++) {
        WriteBatch batch;
        for (size_t j = 0; j < handles.size(); j++) {
            std::string key = key_of(s.random.below(KEYS)), value = s.value();
            CHECK_OK(batch.Put(handles[j], key, value));
            models[j][key] = value;
        }
        CHECK_OK(s.db->Write(WriteOptions(), &batch));
    }
    for (int round = 0; round < 2; round++) {
        for (size_t j = 0; j < handles.size(); j++)
            check_all(s.db, handles[j], models[j], s.random);
        CHECK_OK(s.db->Flush(FlushOptions(), handles));
        CHECK_OK(s.db->CompactRange(CompactRangeOptions(), handles[0], nullptr, nullptr));
    }
    CHECK_OK(s.db->DropColumnFamily(handles[1]));
    for (ColumnFamilyHandle *handle : handles)
        CHECK_OK(s.db->DestroyColumnFamilyHandle(handle));
    handles.clear();
    s.close();
    std::vector<std::string> listed;
    CHECK_OK(DB::ListColumnFamilies(s.options, s.path, &listed));
    std::sort(listed.begin(), listed.end());
    CHECK(listed == std::vector<std::string>({kDefaultColumnFamilyName, "one", "three"}));
    std::vector<ColumnFamilyDescriptor> families;
    for (const char *name : {"default", "one", "three"})
        families.emplace_back(name, s.options);
    CHECK_OK(DB::Open(s.options, s.path, families, &handles, &s.db));
    check_all(s.db, handles[1], models[0], s.random);
    check_all(s.db, handles[2], models[2], s.random);
    for (ColumnFamilyHandle *handle : handles)
        CHECK_OK(s.db->DestroyColumnFamilyHandle(handle));
    s.destroy();
}

void checkpoint()
{
    store s("checkpoint", 180);
    s.fill(2000);
    Checkpoint *made = nullptr;
    CHECK_OK(Checkpoint::Create(s.db, &made));
    std::unique_ptr<Checkpoint> owner(made);
    const std::string path = directory + "/of_checkpoint";
    /* The first takes the log with it, the second flushes before. */
    for (uint64_t log_size : {1 << 30, 0}) {
        CHECK_OK(made->CreateCheckpoint(path, log_size));
        model then = s.expected;
        s.fill(1000);
        CHECK_OK(s.db->CompactRange(CompactRangeOptions(), nullptr, nullptr));
        DB *opened = nullptr;
        Options options = s.options;
        CHECK_OK(DB::Open(options, path, &opened));
        std::unique_ptr<DB> copy(opened);
        check_all(opened, opened->DefaultColumnFamily(), then, s.random);
        CHECK_OK(opened->Put(WriteOptions(), "of the copy", "alone"));
        CHECK_OK(copy->Close());
        copy.reset();
        CHECK_OK(DestroyDB(path, options));
        s.check();
    }
    owner.reset();
    s.destroy();
}

void backup_and_restore()
{
    store s("backed_up", 190);
    BackupEngineOptions how(directory + "/backups");
    how.backup_env = s.env.get();
    how.max_background_operations = 4;
    how.share_files_with_checksum = true;
    BackupEngine *made = nullptr;
    CHECK_OK(BackupEngine::Open(how, s.env.get(), &made));
    std::unique_ptr<BackupEngine> backups(made);
    std::vector<model> then;
    for (int i = 0; i < 3; i++) {
        s.fill(1000);
        CHECK_OK(backups->CreateNewBackup(s.db, i == 1));
        then.push_back(s.expected);
    }
    for (BackupID id = 1; id <= 3; id++)
        CHECK_OK(backups->VerifyBackup(id, true));
    s.fill(500);
    s.close();
    for (BackupID id : {3, 1, 2}) {
        CHECK_OK(backups->RestoreDBFromBackup(id, s.path, s.path));
        s.open();
        s.expected = then[id - 1];
        s.check();
        CHECK_OK(s.db->VerifyChecksum());
        s.close();
    }
    CHECK_OK(backups->PurgeOldBackups(0));
    backups.reset();
    s.open();
    s.destroy();
}

void ingested_files()
{
    store s("ingested", 200);
    s.fill(1000);
    for (bool move : {false, true}) {
        for (int i = 0; i < 3; i++) {
            const std::string file = directory + "/external.sst";
            SstFileWriter writer(EnvOptions(), s.options);
            CHECK_OK(writer.Open(file));
            uint64_t first = s.random.below(KEYS);
            for (uint64_t key = first; key < first + 500; key++) {
                std::string value = s.value();
                CHECK_OK(writer.Put(key_of(key), value));
                s.expected[key_of(key)] = value;
            }
            CHECK_OK(writer.Finish());
            IngestExternalFileOptions how;
            how.move_files = move;
            how.write_global_seqno = i == 1;
            how.verify_checksums_before_ingest = true;
            CHECK_OK(s.db->IngestExternalFile({file}, how));
            CHECK_EQ(access(file.c_str(), F_OK) == 0, !move);
            unlink(file.c_str());
        }
        s.check();
        CHECK_OK(s.db->VerifyChecksum());
        s.reopen();
        s.check();
    }
    s.destroy();
}

/* The manifest is made anew from the tables alone. */
void repaired()
{
    store s("repaired", 210);
    s.fill(2000);
    s.close();
    unlink((s.path + "/CURRENT").c_str());
    CHECK_OK(RepairDB(s.path, s.options));
    s.open();
    s.check();
    s.close();
    /* It keeps there what it replaced. */
    CHECK_EQ(system(("rm -r " + s.path + "/lost").c_str()), 0);
    s.open();
    s.destroy();
}

/* ---- the engine ---- */

void through_the_engine()
{
    if (is_posix())
        return;
    store s("engine", 220);
    ioe_stats before = IoeStats(*s.fs);
    s.fill(2000);
    CHECK_OK(s.db->Flush(FlushOptions()));
    ioe_stats written = IoeStats(*s.fs);
    uint64_t payload = 0;
    for (const auto &entry : s.expected)
        payload += entry.first.size() + entry.second.size();
    /* Into the log, and into tables. */
    CHECK(written.bytes_written - before.bytes_written >= payload * 2);
    CHECK_OK(s.db->CompactRange(CompactRangeOptions(), nullptr, nullptr));
    written = IoeStats(*s.fs);
    check_scan(s.db, s.expected);
    ioe_stats read = IoeStats(*s.fs);
    CHECK(read.bytes_read - written.bytes_read >= payload * 2);
    CHECK(read.operations > written.operations);
    s.close();
    read = IoeStats(*s.fs);
    CHECK_EQ(read.in_flight, 0);
    CHECK_EQ(read.completed, read.accepted);
    CHECK_EQ(read.failed, 0);
    s.open();
    s.destroy();
}

} // namespace

int main(int argc, char **argv)
{
    std::vector<test> tests;
    uint64_t stream = 0;
    static std::vector<std::string> names;
    names.reserve(sizeof variations / sizeof *variations);
    for (const variation &v : variations) {
        if (argc == 3 && std::string(argv[1]) == "posix" && *v.uri_option != '\0')
            continue;
        names.push_back(std::string("a life: ") + v.name);
        tests.push_back({names.back().c_str(), [&v, stream] { one_life(v, stream); }});
        stream++;
    }
    const test others[] = {
        {"iterators_at_once", iterators_at_once},
        {"readers_beside_writers", readers_beside_writers},
        {"reads_with_a_deadline", reads_with_a_deadline},
        {"log_flushed_by_hand", log_flushed_by_hand},
        {"synced_writes_of_many", synced_writes_of_many},
        {"secondary_catches_up", secondary_catches_up},
        {"updates_since", updates_since},
        {"column_families", column_families},
        {"checkpoint", checkpoint},
        {"backup_and_restore", backup_and_restore},
        {"ingested_files", ingested_files},
        {"repaired", repaired},
        {"through_the_engine", through_the_engine},
    };
    tests.insert(tests.end(), std::begin(others), std::end(others));
    return run_tests(argc, argv, tests);
}
