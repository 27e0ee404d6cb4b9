#!/bin/sh
# Promise: RocksDB and the tools of its package, unmodified, do on ioe:// what they do on their own file
# system, with each driver; all their I/O goes through the engine; and both read what the other wrote.
# TAP on stdout. Run as: prove c_tests/rocksdb/rocksdb.sh :: DIRECTORY-OF-PROGRAMS LIBRARY DENY
# DRIVERS= names those to test. SEED= repeats what was random in the programs.
set -u
LC_ALL=C
export LC_ALL
# shellcheck source=c_tests/tap.sh
. "$(dirname "$0")/../tap.sh"
programs=$(realpath "$1")
library=$(realpath "$2")
deny=$(realpath "$3")
work=$(mktemp -d "${IOE_TEST_DISK:-$programs}/rocksdb-XXXXXX") && cd "$work" || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# What the program had printed; db_bench tells its progress in between.
explain() { cat out err 2>/dev/null | tr '\r' '\n' | grep -v "^\.\.\. finished" | tail -n 40; }

# run PROGRAM ARGUMENT...: its exit status in $status, what it printed in the files out and err. What is in
# $preload is loaded before it.
run() {
    timeout --kill-after=5 100 env LD_PRELOAD="$preload" "$@" >out 2>err </dev/null
    status=$?
}

# bench URI BENCHMARKS [OPTION]...: db_bench on ./db. Small files, so that they are many; no cache.
bench() {
    fs=$1
    benchmarks=$2
    shift 2
    run db_bench --fs_uri="$fs" --db="$work/db" --benchmarks="$benchmarks" --num=20000 --value_size=400 \
        --write_buffer_size=1000000 --target_file_size_base=1000000 --max_bytes_for_level_base=4000000 \
        --cache_size=0 --compression_type=none --verify_checksum=true --seed=1 --reads=4000 "$@"
    [ "$status" -eq 0 ] && ! grep -q "rror:\|orrupt\|ailed:\|Assertion " out err
}

# found BENCHMARK: it found every key that it asked for.
found() { grep -q "^$1 .*(\([0-9]*\) of \1 found)" out; }

# tool URI COMMAND...: ldb on ./db.
tool() {
    fs=$1
    shift
    run ldb --fs_uri="$fs" --db="$work/db" "$@"
    [ "$status" -eq 0 ]
}

# field NAME: a number of the closing line.
field() { tr '\r' '\n' <err | sed -n "s/.*ioe: .* $1=\([0-9]*\).*/\1/p"; }

# ticker NAME: one of RocksDB's statistics.
ticker() { sed -n "s/^rocksdb\.$1 COUNT : \([0-9]*\)$/\1/p" out; }

# near A B: equal within one in a hundred, and not small.
near() { [ "$1" -gt 1000000 ] && [ $((($1 - $2) * 100)) -le "$2" ] && [ $((($2 - $1) * 100)) -le "$2" ]; }

# program NAME URI: one of ours, in an empty directory; its own failures are told.
program() {
    mkdir "$work/files"
    preload=
    timeout --kill-after=5 120 "$programs/$1" "$2" "$work/files" >out 2>err
    status=$?
    grep "^# " out
    grep -v "^ok\|^# " out >failed
    mv failed out
    ok "$status" "$1 $2"
    rm -rf "$work/files"
}

whole="driver=[a-z]* accepted=[0-9]* failed=[0-9]* operations=[0-9]* merged=[0-9]* continued=[0-9]*"
whole="^ioe: $whole syncs_joined=[0-9]* system_calls=[0-9]* bytes_read=[0-9]* bytes_written=[0-9]*\$"

# The control: the programs, and the tools' own answers, on RocksDB's own file system.
program t_file_system posix
program t_rocksdb posix

for driver in ${DRIVERS:-uring aio pool}; do
    uri="ioe://?driver=$driver"
    preload=$library
    tool "$uri&stats=1" --create_if_missing put key value
    if [ "$status" -ne 0 ] && grep -q "driver $driver cannot be had here" err; then
        skip "$driver" "$(grep -o "driver $driver cannot.*" err)"
        continue
    fi
    [ "$status" -eq 0 ] && [ "$(grep -c "$whole" err)" -eq 1 ] && [ "$(grep -c ioe: err)" -eq 1 ] &&
        grep -q "^ioe: driver=$driver " err
    ok $? "$driver: the closing line is there when asked for, once"
    tool "$uri" get key && [ "$(cat out)" = value ] && ! grep -q ioe: out err
    ok $? "$driver: ldb get says what ldb put had, and nothing else"
    rm -rf db

    program t_file_system "$uri"
    program t_rocksdb "$uri"
    preload=$library

    # ---- db_bench
    bench "$uri" fillsync,fillrandom,compact,verifychecksum --threads=8
    ok $? "$driver: db_bench fillsync, fillrandom with 8 threads"
    bench "$uri" fillseq,readrandom,overwrite,readseq,readreverse,seekrandom,readwhilewriting &&
        found readrandom && found seekrandom
    ok $? "$driver: db_bench fillseq, readrandom, overwrite, scans, readwhilewriting"
    bench "$uri" compact,multireadrandom,readrandom,verifychecksum --use_existing_db --multiread_batched \
        --batch_size=32 --threads=2 && found multireadrandom && found readrandom
    ok $? "$driver: db_bench compact, multireadrandom in batches"
    bench "$uri" multireadrandom,seekrandom,readseq,readreverse --use_existing_db --async_io \
        --multiread_batched --batch_size=32 --seek_nexts=50 --readahead_size=65536 --threads=2 &&
        found multireadrandom
    ok $? "$driver: db_bench multireadrandom, seekrandom, readseq, readreverse with async_io"
    # Not verifychecksum, which with async_io runs into an assertion of RocksDB 7.8.3 on every file system
    # that has it.
    bench "$uri" multireadrandom,seekrandom,readseq,overwrite,compact,readrandom --use_existing_db \
        --use_direct_reads --use_direct_io_for_flush_and_compaction --async_io --multiread_batched \
        --batch_size=32 --seek_nexts=50 && found multireadrandom && found readrandom
    ok $? "$driver: db_bench with direct reads and writes"
    bench "$uri&direct=1" overwrite,compact,readrandom,verifychecksum --use_existing_db --subcompactions=2 &&
        found readrandom
    ok $? "$driver: db_bench with the URI's direct"
    bench posix:// readrandom,readseq,verifychecksum,overwrite --use_existing_db && found readrandom
    ok $? "$driver: RocksDB's own file system reads what is written on ioe://"
    bench "$uri" readrandom,readseq,verifychecksum --use_existing_db && found readrandom
    ok $? "$driver: ioe:// reads what RocksDB's own file system has written"

    # ---- ldb
    tool posix:// scan && mv out scan.own && [ "$(wc -l <scan.own)" -eq 20000 ] && tool "$uri" scan &&
        cmp out scan.own >err
    ok $? "$driver: ldb scan"
    tool "$uri" checkconsistency && grep -q "^OK" out
    ok $? "$driver: ldb checkconsistency"
    tool "$uri" put another one && tool "$uri" get another && [ "$(cat out)" = one ] &&
        tool "$uri" delete another && ! tool "$uri" get another && grep -q "NotFound" out err
    ok $? "$driver: ldb put, get, delete"
    tool "$uri" dump_wal --walfile="$(ls -d db/*.log | tail -n 1)" --header && grep -q Sequence out
    ok $? "$driver: ldb dump_wal"
    tool "$uri" backup --backup_dir="$work/backup" --backup_fs_uri="$uri" &&
        tool "$uri" checkpoint --checkpoint_dir="$work/checkpoint" && rm -rf db &&
        tool "$uri" restore --backup_dir="$work/backup" --backup_fs_uri="$uri" && tool "$uri" scan &&
        cmp out scan.own >err
    ok $? "$driver: ldb backup and restore"
    rm -rf db && mv checkpoint db && tool "$uri" scan && cmp out scan.own >err
    ok $? "$driver: ldb checkpoint"
    tool posix:// manifest_dump && mv out dump.own && tool "$uri" manifest_dump && cmp out dump.own >err &&
        [ -s dump.own ]
    ok $? "$driver: ldb manifest_dump"
    tool "$uri" compact && tool "$uri" checkconsistency && tool "$uri" scan && cmp out scan.own >err
    ok $? "$driver: ldb compact"
    rm -f db/CURRENT && tool "$uri" repair && tool "$uri" scan && cmp out scan.own >err
    ok $? "$driver: ldb repair"
    rm -rf db backup

    # ---- all of it goes through the engine
    # Values so large that the headers of the log's records, which the tickers do not count, are small.
    bench "$uri&stats=1" fillrandom,overwrite,waitforcompaction,compact,waitforcompaction --statistics \
        --value_size=4000 --num=10000
    passed=$?
    expected=$(($(ticker wal.bytes) + $(ticker flush.write.bytes) + $(ticker compact.write.bytes)))
    echo "# $driver: bytes written: $(field bytes_written), RocksDB says $expected"
    [ $passed -eq 0 ] && near "$(field bytes_written)" "$expected"
    ok $? "$driver: the bytes written are those of RocksDB's statistics"
    expected=$(($(ticker last.level.read.bytes) + $(ticker non.last.level.read.bytes)))
    echo "# $driver: bytes read for compactions: $(field bytes_read), RocksDB says $expected"
    near "$(field bytes_read)" "$expected"
    ok $? "$driver: the bytes that compactions read are those of RocksDB's statistics"
    # A read that RocksDB gave up is in none of its statistics: with async_io scans that go on to the end.
    for how in "readrandom,multireadrandom,seekrandom,readseq,readreverse --seek_nexts=20" \
        "seekrandom --async_io --reads=10 --seek_nexts=100000"; do
        # The words of $how are options.
        # shellcheck disable=SC2086
        bench "$uri&stats=1" $how --use_existing_db --statistics --num=10000 --value_size=4000 \
            --multiread_batched --batch_size=32
        passed=$?
        expected=$(($(ticker last.level.read.bytes) + $(ticker non.last.level.read.bytes)))
        echo "# $driver: bytes read: $(field bytes_read), RocksDB says $expected"
        [ $passed -eq 0 ] && near "$(field bytes_read)" "$expected"
        ok $? "$driver: the bytes read are those of RocksDB's statistics: $how"
    done
    rm -rf db
    for fs in "$uri" posix://; do
        AROUND_DIRECTORY=$work/db AROUND_REPORT=$work/report
        export AROUND_DIRECTORY AROUND_REPORT
        preload="$programs/around.so $library"
        bench "$fs" fillrandom,fillsync,overwrite,compact,readrandom,multireadrandom,seekrandom,readseq \
            --num=3000 --multiread_batched --batch_size=32 --async_io --bytes_per_sync=65536 \
            --wal_bytes_per_sync=65536 --open_files=20
        passed=$?
        unset AROUND_DIRECTORY AROUND_REPORT
        preload=$library
        [ $passed -ne 0 ] || mv report out
        counted=$(tail -n 1 out)
        if [ "$fs" = posix:// ]; then
            [ $passed -eq 0 ] && expr "$counted" : "engine=0 around=[0-9]\{4\}" >/dev/null
            ok $? "$driver: who goes around the engine is seen"
        else
            echo "# $driver: calls of the C library on the files: $counted"
            [ $passed -eq 0 ] && expr "$counted" : "engine=[0-9]\{4,\} around=0\$" >/dev/null
            ok $? "$driver: nothing goes around the engine"
        fi
        rm -rf db
    done
done

# ---- a kernel that lacks the call, as some do that are not Linux: it only makes syncs shorter
preload=
mkdir files
run env IOE_TEST_ONLY='writ*' "$deny" sync_file_range=ENOSYS -- \
    "$programs/t_file_system" "ioe://?driver=pool" "$work/files"
[ "$status" -eq 0 ] && grep -q "^ok" out
ok $? "without sync_file_range, files are written"
rm -rf files

# ---- wrong URIs
preload=$library
for wrong in "?depth=x" "?driver=floppy" "?color=red" "host" "?depth=4&depth=5"; do
    tool "ioe://$wrong" scan
    [ "$status" -eq 1 ] && grep -q "Invalid argument: .*ioe://" out err
    ok $? "ldb says what is wrong with ioe://$wrong"
    run db_bench --fs_uri="ioe://$wrong" --db="$work/db" --benchmarks=fillseq --num=10
    [ "$status" -eq 1 ] && grep -q "Invalid argument: .*ioe://" out err
    ok $? "db_bench says what is wrong with ioe://$wrong"
done

plan
