#!/usr/bin/python3
"""RocksDB's own benchmark on the engine, side by side with the same on RocksDB's own file system.

    make bench-rocksdb                          under a quarter of an hour
    make bench-rocksdb BENCH_ROCKSDB=--quick    under four minutes
    make bench-rocksdb BENCH_ROCKSDB='--only multiread*'
    make bench-rocksdb BENCH_ROCKSDB=--control  db_bench beside itself: how far chance alone goes

Every sample is a new process of the packaged db_bench: as it is ("debian"), and once for each driver
with the file system of examples_c/rocksdb preloaded. In a round each side has its turn, in another
order than in the round before; a ratio is the median of the ratios of samples of one round. In a round
all sides have the same seed: they read the same keys in the same order.

The databases are made by db_bench as it is, once, and stay in --dir for the next time: 2 GiB, on a disk.
All sides read the same one, opened read-only, without a block cache, so that every block comes from
the file system. "Cached" is all of it in the page cache. "Cold" is none of it there at first, and as
much work for every side, so that the faster one has no more of it cached in the end. Writes go to a
new database, or to a copy, when the disk has nothing left to write.

Checksums are verified, values are 400 bytes and not compressed. What is timed is what db_bench times,
which is not the opening of the database; in CPU time, system calls and operations that is included.
Latencies are db_bench's own: of a whole batch with multireadrandom, of a seek and the 100 steps after it
with seekrandom. It sorts them into buckets half as wide as their value, so that a ratio of p50 tells little
within a tenth; but a machine that does other work as well moves it less than the speed.

Where several benchmarks make up one case their times are added, and the operations and the latencies are
those of the first.
"""

import argparse
import ctypes
import glob
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import bench
import measure
from measure import Contender, Failed, NotHere, Result

TARGET = os.path.realpath(os.path.join(measure.HERE, "..", "target"))
ADAPTER = os.path.join(TARGET, "rocksdb", "libioe_rocksdb.so")
LIBRARY = os.path.join(TARGET, "lib", "libio_engine.so")
DEBIAN, AGAIN = Contender("debian"), Contender("debian again")
TIME_LIMIT = 180  # seconds, of one process

BIG, SMALL = 2500000, 500000  # keys: 1 GiB, 200 MiB
COMMON = {"compression_type": "none", "key_size": 16, "value_size": 400, "verify_checksum": 1}
DATABASES = {
    # Whatever was merged before, compact leaves one file of this size.
    "one": dict(benchmarks="fillseq,compact,levelstats", num=BIG, target_file_size_base=8 << 30,
                write_buffer_size=256 << 20),
    "filled": dict(benchmarks="fillrandom,levelstats", num=BIG),
    "small": dict(benchmarks="fillrandom,levelstats", num=SMALL, write_buffer_size=16 << 20),
}
FILL_SEED = 1000  # none that reads: those would find keys in the order in which they were written
TIMED = {"histogram": 1, "ops_between_duration_checks": 100}
READ = {**TIMED, "use_existing_db": 1, "readonly": 1, "cache_size": 0, "num": BIG}
MULTI = {**READ, "benchmarks": "multireadrandom", "multiread_batched": 1, "batch_size": 32}
SEEK = {**READ, "benchmarks": "seekrandom", "seek_nexts": 100, "async_io": 1}
IN_ORDER = {**READ, "benchmarks": "readseq", "async_io": 1}
DIRECT = {"use_direct_reads": 1}
BUCKET_STEPS = 16


@dataclass
class Case:
    name: str
    what: str
    database: str  # one of DATABASES; "" where it makes its own
    options: dict  # of db_bench
    before: str = "cold"  # cached: all of it is in the page cache; cold: none; copied: and written to
    each_second: tuple = ()  # how much work is one second's; () where time ends it
    unit: str = "reads"
    family: tuple = ()  # none, for bench.py
    target: float = 0.95  # of the speed of db_bench as it is


CASES = [
    Case("readrandom", "random reads, page cache, one compacted SST", "one",
         {**READ, "benchmarks": "readrandom"}, "cached"),
    Case("readrandom-direct", "random reads, O_DIRECT, one compacted SST", "one",
         {**READ, **DIRECT, "benchmarks": "readrandom"}),
    Case("multiread-one", "MultiGet of 32 random keys, O_DIRECT, one compacted SST", "one",
         {**MULTI, **DIRECT}, target=3.0),
    Case("multiread-filled", "MultiGet of 32 random keys, O_DIRECT, levels as filled", "filled",
         {**MULTI, **DIRECT}),
    Case("multiread-cached", "MultiGet of 32 random keys, page cache, one compacted SST", "one",
         MULTI, "cached"),
    Case("seekrandom", "seek and 100 steps, async_io, page cache, levels as filled", "filled",
         SEEK, "cached", unit="seeks"),
    Case("seekrandom-cold", "seek and 100 steps, async_io, page cache empty at first, levels as filled",
         "filled", SEEK, each_second=("reads", 300), unit="seeks"),
    Case("seekrandom-direct", "seek and 100 steps, async_io, O_DIRECT, levels as filled", "filled",
         {**SEEK, **DIRECT}, unit="seeks"),
    Case("readseq", "all in order, async_io, page cache, one compacted SST", "one", IN_ORDER, "cached",
         ("reads", 1000000)),
    Case("readseq-cold", "all in order, async_io, page cache empty at first, one compacted SST", "one",
         IN_ORDER, each_second=("reads", 1000000)),
    Case("readseq-direct", "all in order, async_io, O_DIRECT, one compacted SST", "one",
         {**IN_ORDER, **DIRECT}, each_second=("reads", 1000000)),
    Case("fillsync", "8 threads, each write synced", "",
         {**TIMED, "benchmarks": "fillsync", "threads": 8, "num": BIG}, "copied", unit="writes"),
    Case("overwrite", "overwriting, with compaction, and compacting all in the end", "small",
         {**TIMED, "use_existing_db": 1, "benchmarks": "overwrite,compact", "num": SMALL,
          "write_buffer_size": 16 << 20}, "copied", ("writes", 80000), unit="writes"),
]


# ---- one process ---------------------------------------------------------------------------------


def driver_missing(driver):
    """Why the engine's driver cannot be had here; "" where it can."""
    engine = ctypes.CDLL(LIBRARY)
    engine.ioe_strerror.restype = engine.ioe_driver_name.restype = ctypes.c_char_p
    by_name = {engine.ioe_driver_name(number).decode(): number for number in range(4)}
    error = engine.ioe_probe(by_name[driver])
    return engine.ioe_strerror(error).decode() if error else ""


def version():
    engine = ctypes.CDLL(LIBRARY)
    engine.ioe_version.restype = ctypes.c_char_p
    return engine.ioe_version().decode()


def run_db_bench(options, uri=""):
    """What it printed, and what it used of processors: user and system time in ns."""
    words = ["db_bench", *(f"--{key}={value}" for key, value in options.items())]
    environment = dict(os.environ)
    if uri:
        words.append(f"--fs_uri={uri}")
        environment["LD_PRELOAD"] = ADAPTER
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False,
                              timeout=TIME_LIMIT)
    except FileNotFoundError:
        raise NotHere("db_bench is missing: apt-get install rocksdb-tools") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"did not come to an end: {' '.join(words)}") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [""]
        raise Failed(f"status {done.returncode}: {said[0]}: {' '.join(words)}")
    return done.stdout, done.stderr, {
        "user_ns": round((after.ru_utime - before.ru_utime) * 1e9),
        "system_ns": round((after.ru_stime - before.ru_stime) * 1e9)}


def parse_results(text):
    """What each benchmark told; of latencies, in ns, how often they were."""
    found = []
    for line in text.splitlines():
        if match := re.match(r"\w+ +: .* ops/sec ([\d.]+) seconds (\d+) operations;", line):
            found.append({"ns": float(match.group(1)) * 1e9, "count": int(match.group(2)), "latencies": {}})
            if match := re.search(r"\((\d+) of (\d+) found\)", line):
                found[-1]["missing"] = int(match.group(2)) - int(match.group(1))
        elif match := re.match(r"Percentiles: P50: ([\d.]+) ", line):
            found[-1]["p50_ns"] = float(match.group(1)) * 1e3
        elif match := re.match(r"[\[(] *(\d+), *(\d+) [\])] *(\d+) ", line):
            low, high, often = map(int, match.groups())
            # Evenly over the bucket, as db_bench has it for its percentiles.
            for step in range(BUCKET_STEPS):
                us = low + (high - low) * (step + 0.5) / BUCKET_STEPS
                found[-1]["latencies"][us * 1e3] = often / BUCKET_STEPS
    return found


def parse_closing(text, driver):
    """The engine's counters, and its line."""
    for line in text.splitlines():
        if line.startswith("ioe: "):
            told = dict(re.findall(r"(\w+)=(\w+)", line))
            if told["driver"] != driver or int(told["operations"]) == 0:
                raise Failed(f"not on {driver}: {line}")
            return {key: int(told[key]) for key in ("system_calls", "operations")}, line
    raise Failed("the engine's closing line is missing: its file system was not used")


# ---- databases -----------------------------------------------------------------------------------


def files_of(directory):
    return sorted(glob.glob(os.path.join(directory, "*.sst")))


def into_page_cache(directory):
    block = bytearray(1 << 20)
    for path in files_of(directory):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass


def out_of_page_cache(directory):
    for path in files_of(directory):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_database(source, to):
    """Tables are never written to again: they are linked."""
    os.mkdir(to)
    for name in os.listdir(source):
        link_or_copy = os.link if name.endswith(".sst") else shutil.copy
        link_or_copy(os.path.join(source, name), os.path.join(to, name))


class Databases:
    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.written = os.path.join(self.directory, "written")

    def close(self):
        shutil.rmtree(self.written, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.directory, name)

    def make(self, name):
        """The database, unless it is there and was made this way."""
        options = {**COMMON, **DATABASES[name], "seed": FILL_SEED, "disable_wal": 1,
                   "db": self.path(name)}
        note = self.path(f"{name}.json")
        try:
            with open(note, encoding="utf-8") as known:
                if json.load(known) == options:
                    return
        except (FileNotFoundError, ValueError):
            pass
        if os.path.exists(note):
            os.unlink(note)
        shutil.rmtree(self.path(name), ignore_errors=True)
        started = time.monotonic()
        text, _, _ = run_db_bench(options)
        os.sync()
        levels = [int(files) for files in re.findall(r"(?m)^ +\d +(\d+) +\d+$", text)]
        if "compact" in options["benchmarks"] and sum(levels) != 1:
            raise Failed(f"the database {name!r} is not one table, but on each level: {levels}")
        print(f"made the database {name!r} in {time.monotonic() - started:.0f} s; "
              f"tables on each level: {levels}", flush=True)
        with open(note, "w", encoding="utf-8") as to:
            json.dump(options, to)

    def prepared(self, case):
        """Where the database of a case is, in the state that is wanted before every sample."""
        path = self.path(case.database)
        if case.before == "copied":
            self.close()
            if case.database:
                copy_database(path, self.written)
            os.sync()
            return self.written
        for log in glob.glob(os.path.join(path, "LOG.old.*")):
            os.unlink(log)
        (into_page_cache if case.before == "cached" else out_of_page_cache)(path)
        return path


# ---- running -------------------------------------------------------------------------------------


def sample(case, contender, databases, settings, seed):
    options = {**COMMON, **case.options, "seed": seed, "db": databases.prepared(case)}
    wanted = 0  # operations, where it is known
    if case.each_second:
        what, amount = case.each_second
        options[what] = wanted = round(amount * settings.seconds)
    else:
        options["duration"] = max(1, round(settings.seconds))
    more = f"&{settings.uri}" if settings.uri else ""
    uri = f"ioe://?driver={contender.driver}&stats=1{more}" if contender.driver else ""
    text, errors, told = run_db_bench(options, uri)
    found = parse_results(text)
    if len(found) != len(case.options["benchmarks"].split(",")) or not found[0]["count"]:
        raise Failed(f"db_bench told something else than expected:\n{text}{errors}")
    if wanted and found[0]["count"] != wanted:
        raise Failed(f"{found[0]['count']} operations in place of {wanted}")
    if case.database == "one" and found[0].get("missing"):
        raise Failed(f"{found[0]['missing']} keys were not found")
    told.update(found[0], ns=sum(each["ns"] for each in found))
    closing = ""
    if contender.driver:
        counters, closing = parse_closing(errors, contender.driver)
        told.update(counters)
    return told, closing


def run_case(case, contenders, databases, settings, left_out):
    """A Result for each contender, and the engine's closing lines of the last round."""
    results = [Result(each, left_out=left_out.get(each, "")) for each in contenders]
    there = [result for result in results if not result.left_out]
    closing = {}
    if case.database:
        databases.make(case.database)
    for number in range(settings.rounds):
        first = number // 2 % len(there)
        order = there[first:] + there[:first]
        for result in order if number % 2 == 0 else reversed(order):
            try:
                told, line = sample(case, result.contender, databases, settings, number + 1)
            except Failed as why:
                raise Failed(f"{case.name}: {result.contender.name}: {why}") from None
            result.add(told)
            if line:
                closing[result.contender] = line
    return results, list(closing.values())


def print_p50(results):
    """The ratios of the latencies that half of the operations exceed, which slow moments hardly move."""
    first, *others = [result for result in results if result.samples]
    said = [f"{result.contender.name} {statistics.median(measure.ratios(result, first, 'p50_us')):.3f}"
            for result in others]
    if said:
        print(f"  p50, times that of {first.contender.name}: {', '.join(said)}")


def parse_options():
    parser = argparse.ArgumentParser(
        prog="rocksdb", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--only", metavar="CASE,...", help="some of the cases (see --list; *)")
    parser.add_argument("--list", action="store_true", help="what the cases are")
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--rounds", type=int, help="samples of each side (default 9)")
    parser.add_argument("--seconds", type=float, help="about as long as one takes (default 1)")
    parser.add_argument("--drivers", default=",".join(bench.DRIVERS), help="of the engine, with commas")
    parser.add_argument("--uri", default="", metavar="NAME=VALUE&...",
                        help="more options for the engine's file system")
    parser.add_argument("--control", action="store_true",
                        help="no engine: db_bench as it is beside itself")
    parser.add_argument("--dir", default=os.path.join(TARGET, "bench", "rocksdb"),
                        help="where the databases are (default target/bench/rocksdb)")
    parser.add_argument("--json", metavar="PATH", help="write the results there as well")
    settings = parser.parse_args()
    settings.rounds = settings.rounds or (3 if settings.quick else 9)
    settings.seconds = settings.seconds or 1
    settings.drivers = settings.drivers.split(",")
    if unknown := [driver for driver in settings.drivers if driver not in bench.DRIVERS]:
        parser.error(f"--drivers: there is no {', '.join(unknown)}")
    return settings


def contenders_of(settings):
    """All sides, and why some of them cannot be had."""
    needed = LIBRARY if settings.control else ADAPTER
    if not os.path.exists(needed):
        raise NotHere(f"{needed} is not there: make rocksdb")
    if settings.control:
        return [DEBIAN, AGAIN], {}
    engine = [Contender("io_engine", driver) for driver in settings.drivers]
    left_out = {each: why for each in engine if (why := driver_missing(each.driver))}
    for each, why in left_out.items():
        print(f"bench: {each.name} is left out: {why}", file=sys.stderr)
    return [DEBIAN, *engine], left_out


def main():
    settings = parse_options()
    cases = [case for case in CASES if bench.wanted(settings.only, case.name)]
    if unknown := bench.unknown(settings.only, [case.name for case in CASES]):
        print(f"bench: --only: there is no {', '.join(unknown)}: see --list", file=sys.stderr)
        return 2
    if settings.list:
        print("\n".join(f"{case.name:20} {case.what}" for case in cases))
        return 0
    databases = Databases(settings.dir)
    started = time.time()
    results, lines = {}, {}
    try:
        contenders, left_out = contenders_of(settings)
        where = bench.machine(settings.dir)
        print(f"io_engine {version()}, {where['kernel']}, {where['cpu']}, "
              f"{where['processors']} processors, {where['files']}; {len(cases)} cases, "
              f"{settings.rounds} rounds of {settings.seconds:g} s")
        for case in cases:
            found, lines[case.name] = run_case(case, contenders, databases, settings, left_out)
            results[case.name] = {result.contender: result for result in found}
            bench.print_case(case, found)
            print_p50(found)
            print("".join(f"  {line}\n" for line in lines[case.name]), end="", flush=True)
    except (Failed, NotHere) as why:
        print(f"bench: {why}", file=sys.stderr)
        return 1
    finally:
        databases.close()
    verdicts = [bench.judge(bench.Target(case.name, each, "speed", 0.95 if settings.control else case.target,
                                         DEBIAN), results)
                for case in cases for each in contenders[1:]]
    bench.print_verdicts(verdicts)
    if settings.json:
        data = {"version": version(), "machine": where,
                "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
                "seconds": time.time() - started, "targets": verdicts,
                "cases": [{**bench.case_data(case.name, case, results[case.name]),
                           "closing": lines[case.name]} for case in cases]}
        with open(settings.json, "w", encoding="utf-8") as to:
            json.dump(data, to, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
