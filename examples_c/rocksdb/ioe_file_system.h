/*
 * A file system for RocksDB 7.8 whose files go through io_engine. Names, locks and directories are the
 * default file system's; so is RocksDB's own LOG, which is to be there also when I/O fails. Files are regular
 * files and block devices; nothing is mapped into memory.
 *
 *     std::shared_ptr<rocksdb::FileSystem> fs;
 *     rocksdb::Status s = NewIoeFileSystem("ioe://?driver=uring&depth=64", &fs);
 *     std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(fs);
 *     options.env = env.get();
 *
 * Programs that take a URI, as db_bench and ldb do, have it once this is loaded:
 *
 *     LD_PRELOAD=./libioe_rocksdb.so db_bench --fs_uri='ioe://?driver=aio&stats=1' ...
 *
 * The URI is `ioe://`, or `ioe://?name=value&name=value`:
 *
 *     driver       auto, uring, aio or pool. auto takes the first that works here (IOE_DRIVER overrides it)
 *     depth        operations in the kernel at once                                              128
 *     queue_size   requests that wait or run at once; those beyond it wait for room             1024
 *     workers      threads that run callbacks; 0: the engine's own thread does                      0
 *     reactors     engine threads, each with a queue and a depth of its own                         1
 *     merge_limit  bytes that one operation of neighbouring requests may span; 0: none are joined
 *                                                                                              131072
 *     direct       1: table files are read and written with O_DIRECT, whatever RocksDB's options say 0
 *     stats        1: what the engine did is told on stderr when the file system goes                0
 */
#ifndef IOE_FILE_SYSTEM_H
#define IOE_FILE_SYSTEM_H

#include <io_engine.h>
#include <memory>
#include <rocksdb/file_system.h>
#include <rocksdb/status.h>
#include <string>

/** InvalidArgument, with a sentence, for a URI that says something else. */
rocksdb::Status NewIoeFileSystem(const std::string &uri, std::shared_ptr<rocksdb::FileSystem> *result);

/** What the engine below did so far; zeros for another file system. */
ioe_stats IoeStats(const rocksdb::FileSystem &fs);

#endif
