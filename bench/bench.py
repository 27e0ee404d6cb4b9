#!/usr/bin/python3
"""The engine side by side with what a program would use otherwise.

    make bench                                  under three minutes
    make bench-full                             the whole matrix
    make bench BENCH='--only aio64,commit'
    make bench BENCH='--list'

Each side is a process of its own (bench/run.c). In every case all sides work in turn, slice after
slice; every few slices the processes are new ones. In a case every side transfers blocks of the
same file, in an order drawn the same way, with the same buffers and batches, and looks at every
result and at a sample of the data. Pinning to processors is left to the caller (taskset): the
engine's own threads and the caller's are the system's to place.

The engine's sides name their driver, so that none is compared that was only fallen back to. A side
that cannot be had here is left out, and says why.

The cases of merging compare the engine with itself, merging off and on, on the driver of --driver.
All of their sides have the same depth and the same room in the queue, enough for events to wait
while depth operations of the whole merge limit are under way. Their buffers are apart from each
other in memory, so that what is merged is vectored. What is written was written before: no extents
are converted under the clock.

The cases of commits have threads that each append a record and wait until it is durable: on a file
that was written before from end to end, so that an fdatasync has only the data to write, and on one
that grows, where it has the file system's journal to write as well. Their latencies are those of
every commit, from before its write until it is durable.
"""

import argparse
import fnmatch
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

import measure
from measure import Contender, Failed, NotHere

LIMIT = 128 << 10  # of merging: 32 events of 4 KiB make an operation,
QUEUE = 4096  # and 128 of those this many events
DRIVERS = ("uring", "aio", "pool")
FEW, SOME, MANY = (2, 2), (3, 3), (4, 5)  # rounds of new processes, slices in each


def c(side, driver="", **options):
    return Contender(side, driver, tuple(options.items()))


POLLED, INLINE, PRODUCER = c("polled", "uring"), c("inline", "uring"), c("producer", "uring")
FOUR = c("producer", "uring", threads=4)
# With O_DIRECT more threads and more descriptors are faster: peer_uv.c, peer_posix.c.
POOLS = ("libuv", "posixaio", "posixaio-2", "asio")
DIRECT_POOLS = (*POOLS, "libuv-wide", "posixaio-20")


@dataclass
class Case:
    name: str
    what: str
    options: dict
    sides: list  # the table's ratios are to the first
    samples: tuple = SOME
    seconds: float = 0.04  # of a slice
    family: tuple = ()  # what it is one value of, and the value: a point of a chart
    unit: str = "reads"

    @property
    def direct(self):
        return self.options.get("direct", False)

    @property
    def writes(self):
        return self.options.get("mode", "read") != "read"


def work(block=4096, depth=128, **options):
    """What bench/run is told; latencies of a sample where there are many in flight."""
    batch = max(1, depth // 4)
    return {"block": block, "depth": depth, "batch": batch,
            "latency": 1 if depth == 1 else 16, **options}


def cached_cases(full):
    # Other ways of the same program.
    others = [c("uring-files"), c("uring-coop"), c("reference-inline", "uring"),
              c("workers2", "uring"), c("reference-workers2", "uring")] if full else []
    for size, block in (("4 KiB", 4096), ("512-byte", 512)):
        short = "cached4k" if block == 4096 else "cached512"
        yield Case(short, f"{size} random reads in the page cache, depth 128, batches of 32",
                   work(block), [
                       c("uring"), POLLED, c("uring-loop"), INLINE,
                       PRODUCER, FOUR,
                       c("worker1", "uring"), c("reference-producer", "uring"),
                       c("reference-worker1", "uring"), c("uring-reg"), c("pread"), *others],
                   MANY)
        yield Case(f"{short}-32", f"{size} random reads in the page cache, depth 32, batches of 8",
                   work(block, 32), [c("uring"), POLLED, c("uring-reg")], MANY)


def latency_cases():
    yield Case("single", "4 KiB random reads in the page cache, one at a time",
               work(4096, 1, latency=8),
               [c("pread"), c("submit_wait", "uring"), c("uring"), POLLED], MANY)
    yield Case("direct1", "4 KiB random reads with O_DIRECT, depth 1", work(4096, 1, direct=True),
               [c("uring"), POLLED, INLINE,
                c("submit_wait", "uring"), c("uring-reg"), c("pread")], (4, 8), 0.03)
    yield Case("direct64", "4 KiB random reads with O_DIRECT, depth 64, batches of 16",
               work(4096, 64, direct=True),
               [c("uring"), POLLED, INLINE, PRODUCER,
                c("uring-reg")])


def driver_cases():
    pools = [c(peer) for peer in POOLS]
    yield Case("aio1", "4 KiB random reads with O_DIRECT, depth 1", work(4096, 1, direct=True),
               [c("io_submit"), c("polled", "aio"), c("polled", "pool"), POLLED],
               (4, 8), 0.03)
    yield Case("aio64", "4 KiB random reads with O_DIRECT, depth 64, batches of 16",
               work(4096, 64, direct=True),
               [c("io_submit"), c("polled", "aio"), c("polled", "pool"), POLLED],
               (4, 5))
    yield Case("pool128", "4 KiB random reads in the page cache, depth 128, batches of 32", work(),
               pools + [c("polled", "pool"), c("inline", "pool"), c("producer", "pool"),
                        c("polled", "aio"), POLLED], (4, 4))
    yield Case("pooldirect", "4 KiB random reads with O_DIRECT, depth 64, batches of 16",
               work(4096, 64, direct=True), [c(peer) for peer in DIRECT_POOLS] +
               [c("polled", "pool"), POLLED], (4, 4))


def fio_cases(full):
    """How near the peers are to fio's engines, which start anew for every sample: few of them."""
    few = [c("uring"), c("fio-io_uring"), POLLED]
    every = [*few, c("posixaio"), c("fio-posixaio"), c("pread"), c("fio-psync")]
    yield Case("fio", "4 KiB random reads in the page cache, depth 128, batches of 32",
               work(latency=None), every if full else few, (1, 4), 0.1)
    if not full:
        return
    yield Case("fiodirect", "4 KiB random reads with O_DIRECT, depth 64, batches of 16",
               work(4096, 64, direct=True, latency=None),
               [c("io_submit"), c("fio-libaio"), c("polled", "aio"), c("uring"),
                c("fio-io_uring"), POLLED], (1, 4), 0.1)


def merging_cases(driver):
    merging = dict(merge=LIMIT, apart=True, latency=None)
    full = [c(side, driver) for side in ("polled", "polled+m", "batches", "batches+m", "producer",
                                         "producer+m", "merger", "reference")]
    for name, mode in (("mergewrite", "write"), ("mergeread", "read")):
        yield Case(name, f"4 KiB sequential {mode}s with O_DIRECT, depth 128, merge limit 128 KiB, "
                   "queue 4096", work(mode=mode, direct=True, sequential=True, queue=QUEUE,
                                      held=QUEUE, **merging), full, unit=f"{mode}s")
    yield Case("mergerandom", "4 KiB random reads with O_DIRECT, depth 128, batches of 32, merge "
               "limit 128 KiB", work(direct=True, **merging),
               [c(side, driver) for side in ("polled", "polled+m", "producer", "producer+m")],
               (4, 6), 0.03)
    yield Case("mergecached", "4 KiB random reads in the page cache, depth 128, batches of 32, "
               "merge limit 128 KiB", work(**merging), [c("polled", driver), c("polled+m", driver)])
    yield Case("mergesingle", "4 KiB random reads with O_DIRECT, depth 1, merge limit 128 KiB",
               work(4096, 1, direct=True, **dict(merging, latency=1)),
               [c("inline", driver), c("inline+m", driver)])


def commit_cases(driver):
    record = dict(block=512, batch=1, mode="write", sequential=True, latency=1)
    every = [c("group"), c("group-w"), c("wait", driver), c("barrier", driver),
             c("ungrouped", driver), c("fdatasync"), c("commit-ring")]
    yield Case("commit", "32 threads, each: append 512 bytes, wait until durable; file written "
               "before", work(threads=32, **record), every, (3, 4), 0.06, unit="commits")
    yield Case("commitgrow", "32 threads, each: append 512 bytes, wait until durable; file growing "
               "from nothing", work(threads=32, growing=True, **record), every, (3, 4), 0.06,
               unit="commits")
    yield Case("commit1", "one thread: append 512 bytes, wait until durable; file written before",
               work(threads=1, **record),
               [c("fdatasync"), c("wait", driver), c("barrier", driver), c("commit-ring")], (4, 5),
               unit="commits")


def family(name, what, sides, key, values, **options):
    for value in values:
        units = {"write": "writes", "mixed": "transfers"}
        yield Case(f"{name}-{value}", f"{what}; {key}: {value}", work(**{**options, key: value}),
                   sides, FEW, family=(name, value),
                   unit=units.get(options.get("mode"), "reads"))


DEPTHS, BLOCKS, THREADS = (1, 8, 32, 128, 256), (512, 4096, 65536, 1 << 20), (1, 2, 4, 8)


def scaling_cases():
    yield from family("depth", "4 KiB random reads in the page cache", [
        c("uring"), POLLED, PRODUCER], "depth", DEPTHS)
    yield from family("block", "random reads in the page cache, depth 32", [
        c("uring"), POLLED, c("pread")], "block", BLOCKS, depth=32)
    yield from family("threads", "4 KiB random reads in the page cache, depth 128", [
        c("pread"), c("uring"), PRODUCER, c("reference-producer", "uring")], "threads",
        THREADS)


def matrix_cases():
    """Every place, order, mode and block: over depths on one thread, and over threads."""
    for place in ("cached", "direct"):
        by_hand = c("io_submit") if place == "direct" else c("uring-reg")
        for order in ("random", "sequential"):
            for mode in ("read", "write", "mixed"):
                for block in BLOCKS:
                    what = f"{mode}, {order}, {block} bytes, " + (
                        "in the page cache" if place == "cached" else "with O_DIRECT")
                    name = f"{place}-{order}-{mode}-{block}"
                    options = dict(block=block, mode=mode, direct=place == "direct",
                                   sequential=order == "sequential")
                    yield from family(f"{name}-depth", what, [
                        c("uring"), by_hand, POLLED, PRODUCER,
                        c("polled", "aio"), c("polled", "pool")], "depth", DEPTHS, **options)
                    yield from family(f"{name}-threads", f"{what}, depth 128", [
                        c("uring"), c("pread"), PRODUCER], "threads",
                        THREADS, **options)


def all_cases(driver, full):
    return [*cached_cases(full), *latency_cases(), *driver_cases(), *fio_cases(full),
            *merging_cases(driver),
            *commit_cases(driver), *scaling_cases(), *(matrix_cases() if full else ())]


# ---- what is promised, and to be found again in every run ----------------------------------------


@dataclass
class Target:
    case: str
    side: Contender
    kind: str
    limit: float
    peer: Contender = None
    goal: float = None


KINDS = {  # how a value is said; whether it has to be at least the limit
    "speed": ("{:.3f} of the speed of {}", True),
    "time": ("{:.3f} times the time of {}", False),
    "p50": ("{:.3f} times the p50 of {}", False),
    "cost": ("{:.3f} of the CPU time per byte of {}", False),
    "calls": ("{:.4f} system calls per operation", False),
    "beside": ("{:.4f} system calls per operation beside io_uring_enter", False),
    "instructions": ("{:.0f} user-space instructions per operation in libraries", False),
    "cpu": ("{:.6f} of a processor while idle", False),
    "wakes": ("{:.1f} wake-ups per second while idle", False),
    "life": ("{:.3f} ms to make and free a context", False),
    "memory": ("{:.3f} MiB of memory for an idle context", False),
}


def targets(driver):
    for case in ("cached4k", "cached4k-32", "cached512", "cached512-32"):
        yield Target(case, POLLED, "speed", 0.98, c("uring"), goal=1.0)
    yield Target("direct1", POLLED, "p50", 1.03, c("uring"))
    for case, faster in (("cached4k", 1.3), ("cached512", 1.5)):
        yield Target(case, INLINE, "speed", 0.97, c("uring-loop"))
        yield Target(case, PRODUCER, "speed", faster, c("reference-producer", "uring"))
        yield Target(case, PRODUCER, "speed", 0.70, c("uring"))
        yield Target(case, FOUR, "speed", 1.0, PRODUCER)
        yield Target(case, c("worker1", "uring"), "speed", 1.2, c("reference-worker1", "uring"))
    for side in (POLLED, INLINE, PRODUCER):
        yield Target("cached4k", side, "calls", 1 / 16)
    for side in (POLLED, INLINE, PRODUCER, FOUR, c("worker1", "uring")):
        yield Target("calls", side, "beside", 0.05)
    yield Target("instructions", POLLED, "instructions", 250)
    yield Target("single", c("submit_wait", "uring"), "time", 1.3, c("pread"))
    yield Target("direct1", c("submit_wait", "uring"), "p50", 1.05, c("pread"))
    for case in ("aio1", "aio64"):
        yield Target(case, c("polled", "aio"), "speed", 0.97, c("io_submit"))
    yield Target("aio64", c("polled", "pool"), "speed", 0.90, c("polled", "aio"))
    for case, peers in (("pool128", POOLS), ("pooldirect", DIRECT_POOLS)):
        for peer in peers:
            yield Target(case, c("polled", "pool"), "speed", 1.0, c(peer))
    for case in ("mergewrite", "mergeread"):
        for side in ("polled", "batches", "producer"):
            yield Target(case, c(f"{side}+m", driver), "cost", 1 / 3, c(side, driver))
            yield Target(case, c(f"{side}+m", driver), "speed", 1.0, c(side, driver))
        yield Target(case, c("merger", driver), "speed", 1.0, c("reference", driver))
        yield Target(case, c("merger", driver), "cost", 1.0, c("reference", driver))
    for side in ("polled", "producer"):
        yield Target("mergerandom", c(f"{side}+m", driver), "speed", 0.98, c(side, driver))
    for side in ("wait", "barrier"):
        yield Target("commit", c(side, driver), "speed", 2.0, c("fdatasync"))
        yield Target("commit", c(side, driver), "speed", 1.0, c("group"))
    yield Target("commit1", c("wait", driver), "p50", 1.05, c("fdatasync"))
    for each in DRIVERS:
        # What one wake-up a second would cost is the limit: so that none may be there.
        yield Target("idle", c("idle", each), "cpu", 5e-6)
        yield Target("idle", c("idle", each), "wakes", 0.0)
        yield Target("idle", c("idle", each), "memory", 1.0)
    for each in ("uring", "pool"):
        yield Target("lives", c("lives", each), "life", 1.0)


def value_of(target, results):
    """The figure that a target is about; None where it was not measured."""
    found = results.get(target.case, {})
    side = found.get(target.side)
    if not isinstance(side, measure.Result):
        return (side or {}).get(target.kind)
    if target.kind == "calls":
        return side.median("calls")
    peer = found.get(target.peer)
    if not side.samples or not peer or not peer.samples:
        return None
    figure = {"speed": "speed", "time": "speed", "p50": "p50_us", "cost": "cpu_ns"}[target.kind]
    rounds = measure.ratios(side, peer, figure)
    ratio = statistics.median(rounds) if rounds else None
    return 1 / ratio if ratio and target.kind == "time" else ratio


def judge(target, results):
    value = value_of(target, results)
    says, at_least = KINDS[target.kind]
    peer = target.peer.name if target.peer else ""
    limit = f"{'at least' if at_least else 'at most'} {target.limit:.3g}"
    if target.goal:
        limit += f", goal {target.goal:.2f}"
    kept = None if value is None else (value >= target.limit if at_least else value <= target.limit)
    return {
        "case": target.case, "side": target.side.name, "peer": peer, "kind": target.kind,
        "limit": target.limit, "goal": target.goal, "value": value, "pass": kept,
        "text": says.format(value, peer) if value is not None
        else f"not measured{f' beside {peer}' if peer else ''}",
        "limit_text": limit,
    }


def wanted(only, *names):
    """Whether what is called this is among what --only asks for."""
    return not only or any(fnmatch.fnmatch(n, o) for n in names for o in only.split(","))


def unknown(only, names):
    """What --only asks for and nothing is called."""
    return [o for o in (only or "").split(",") if o and not any(fnmatch.fnmatch(n, o) for n in names)]


COUNTED = ("idle", "lives", "instructions", "calls", "memory")  # beside the cases

# ---- running -------------------------------------------------------------------------------------


class Bench:
    def __init__(self, options):
        self.options = options
        self.directory = tempfile.mkdtemp(prefix="io_engine-bench-", dir=options.dir)
        self.path = os.path.join(self.directory, "file")
        self.scratch = os.path.join(self.directory, "scratch")
        self.scratch_holds = None  # which blocks of it were written to, if any
        self.results = {}  # of a case: of a contender
        self.known = measure.sides_known()

    def close(self):
        shutil.rmtree(self.directory)

    def wants(self, *names):
        return wanted(self.options.only, *names)

    def say(self, case, text):
        print(f"bench: {case}: {text}", file=sys.stderr, flush=True)

    def prepared(self, case):
        """The options of a case with its file, which is there, and in the state that is wanted."""
        options = dict(case.options, size=self.options.size)
        if options.get("growing"):
            return dict(options, file=os.path.join(self.directory, "growing"))
        direct = dict(file=self.path, size=self.options.size, direct=case.direct)
        if case.writes:
            # Reads among the writes are of blocks that nobody has written to.
            holds = (options["mode"], options["block"])
            mixed_before = self.scratch_holds and options["mode"] == "mixed"
            direct.update(file=self.scratch, mode="write",
                          fill=bool(mixed_before and self.scratch_holds != holds))
            self.scratch_holds = holds
        measure.tool("file", **direct)
        return dict(options, file=direct["file"])

    def contenders(self, case):
        for contender in case.sides:
            if contender.side in self.known:
                yield contender
            else:
                self.say(case.name, f"{contender.name} is left out: there is no such side")

    def run_case(self, case):
        rounds, slices = case.samples
        scale = self.options.scale
        try:
            options = self.prepared(case)
        except NotHere as why:
            self.say(case.name, f"the case is left out: {why}")
            return
        results = measure.compare(
            list(self.contenders(case)), options, max(1, round(rounds * scale)), slices,
            case.seconds, lambda text: self.say(case.name, text))
        self.results[case.name] = {r.contender: r for r in results}
        print_case(case, results)

    def run_idle(self):
        print(f"\nidle: contexts that were used and now wait, {self.options.idle} s\n"
              f"  {'driver':30} {'processors':>12} {'wake-ups/s':>12} {'memory each':>12}")
        for driver in DRIVERS:
            try:
                told = measure.tool("idle", c("idle", driver), seconds=self.options.idle,
                                    file=self.path, size=self.options.size)
            except NotHere as why:
                self.say("idle", f"{driver} is left out: {why}")
                continue
            print(f"  {driver:30} {told['processors']:12.6f} {told['wake_ups']:12.1f} "
                  f"{told['memory']:12}")
            self.results.setdefault("idle", {})[c("idle", driver)] = {
                "cpu": told["processors"], "wakes": told["wake_ups"],
                "memory": told["memory"] / (1 << 20) or None}

    def run_lives(self):
        print(f"\nlives: making and freeing a context\n  {'driver':30} {'median ms':>12} "
              f"{'min..max':>22}")
        for driver in DRIVERS:
            try:
                ns = measure.tool("lives", c("lives", driver))["ns"]
            except NotHere as why:
                self.say("lives", f"{driver} is left out: {why}")
                continue
            ms = [n / 1e6 for n in ns]
            print(f"  {driver:30} {statistics.median(ms):12.3f} {min(ms):11.3f}..{max(ms):.3f}")
            self.results.setdefault("lives", {})[c("lives", driver)] = {
                "life": statistics.median(ms)}

    def counted(self, name, sides, count):
        """A figure that one run gives, of each of these sides where it can be had."""
        for contender in sides:
            if contender.side not in self.known:
                continue
            try:
                told = count(contender, work(file=self.path, size=self.options.size, latency=None))
            except NotHere as why:
                self.say(name, f"{contender.name} is left out: {why}")
                continue
            self.results.setdefault(name, {})[contender] = told
            yield contender, told

    def run_instructions(self):
        sides = [c("uring"), c("uring-reg"), POLLED, c("polled+m", "uring"),
                 c("submit_wait", "pool"), c("pread")]
        if not shutil.which("valgrind"):
            self.say("instructions", "left out: valgrind is missing (apt-get install valgrind)")
            return
        print(f"\ninstructions: in user space, per 4 KiB read in the page cache, depth 128\n"
              f"  {'side':30} {'the program':>12} {'libraries':>12}")

        def count(contender, options):
            found = measure.instructions(contender, dict(options, merge=LIMIT))
            own = found.pop("run", 0.0)  # the bench's: what to read next, and the checks
            return {"program": own, "instructions": sum(found.values())}

        for contender, told in self.counted("instructions", sides, count):
            print(f"  {contender.name:30} {told['program']:12.0f} {told['instructions']:12.0f}")

    def run_calls(self):
        sides = [c("uring"), POLLED, INLINE, PRODUCER, FOUR, c("worker1", "uring"),
                 c("reference-producer", "uring"), c("pread"), c("libuv"), c("posixaio"), c("asio"),
                 c("polled", "pool")]
        if not measure.perf_works():
            self.say("calls", "left out: perf is missing, or may not count system calls here")
            return
        print(f"\ncalls: system calls by perf, per 4 KiB read in the page cache, depth 128\n"
              f"  {'side':30} {'all':>12} {'uring_enter':>12} {'sched_yield':>12} {'others':>12}")

        def count(contender, options):
            told = measure.system_calls(contender, options, 50000)
            # sched_yield is how the bench's own submitting threads wait for a free event.
            return dict(told, beside=told["all"] - told["enter"] - told["yield"])

        for contender, told in self.counted("calls", sides, count):
            print(f"  {contender.name:30} {told['all']:12.4f} {told['enter']:12.4f} "
                  f"{told['yield']:12.4f} {told['beside']:12.4f}")

    def run_memory(self):
        sides = [c("uring"), POLLED, INLINE, PRODUCER, c("io_submit"), c("libuv"), c("posixaio"),
                 c("asio"), c("polled", "pool")]
        print(f"\nmemory: bytes of the process for one more event in flight, from 128 to 4096\n"
              f"  {'side':30} {'bytes':>12}")
        for contender, told in self.counted(
                "memory", sides, lambda contender, options: {
                    "per_event": measure.memory_per_event(contender, dict(options, block=512))}):
            print(f"  {contender.name:30} {told['per_event']:12.0f}")

    def run(self, cases):
        for case in cases:
            self.run_case(case)
        measure.tool("file", file=self.path, size=self.options.size)
        for name in COUNTED:
            if self.wants(name):
                getattr(self, f"run_{name}")()


def print_case(case, results):
    print(f"\n{case.name}: {case.what}")
    first = next((r for r in results if r.samples), None)
    if not first:
        return
    print(f"  {'side':30} {case.unit + '/s':>11} {'quartiles':>21} {'ratio':>7} {'calls/op':>9} "
          f"{'kernel/op':>9} {'user ns':>8} {'sys ns':>8} "
          f"{'p50 us':>9} {'p99 us':>9} {'p99.9 us':>9}"
          + (f" {'syncs/s':>8}" if case.unit == "commits" else ""))
    for r in results:
        if not r.samples:
            continue
        speed = measure.spread(r.each("speed"))
        figures = [(r.median("calls"), 9, 4), (r.median("operations"), 9, 4),
                   (r.total("user_ns"), 8, 0), (r.total("system_ns"), 8, 0),
                   (r.percentile_us(50), 9, 2), (r.percentile_us(99), 9, 2),
                   (r.percentile_us(99.9), 9, 2)]
        if case.unit == "commits":
            figures.append((r.median("syncs"), 8, 0))
        ratio = statistics.median(measure.ratios(r, first, "speed"))
        print(f"  {r.contender.name:30} {speed['median']:11.0f} {speed['q1']:10.0f}.."
              f"{speed['q3']:<9.0f} {ratio:7.3f} "
              + " ".join(f"{'?' if value is None else format(value, f'.{places}f'):>{width}}"
                         for value, width, places in figures), flush=True)


# ---- the report ----------------------------------------------------------------------------------


def result_data(r, first):
    if not isinstance(r, measure.Result):
        return r
    if not r.samples:
        return {"left_out": r.left_out}
    figures = {name: measure.spread(values) for name in
               ("speed", "cpu_ns", "calls", "operations", "syncs", "p50_us")
               if (values := r.each(name))}
    return {
        **figures, "ratio": measure.spread(measure.ratios(r, first, "speed")),
        "user_ns": r.total("user_ns"), "system_ns": r.total("system_ns"),
        "latency_us": {str(p): r.percentile_us(p) for p in (50, 99, 99.9)} if r.latencies else None,
    }


def case_data(name, case, results):
    first = next((r for r in results.values()
                  if isinstance(r, measure.Result) and r.samples), None)
    return {
        "name": name, "what": case.what if case else "", "unit": case.unit if case else "",
        "family": list(case.family) if case else [], "options": case.options if case else {},
        "results": [{"side": contender.name, "engine": bool(contender.driver) and not
                     contender.side.startswith("reference"), **result_data(r, first)}
                    for contender, r in results.items()],
    }


def version():
    """Of the library that is linked to."""
    return subprocess.run([measure.RUN, "version"], capture_output=True, text=True,
                          check=True).stdout.strip()


def machine(directory):
    """What the figures depend on; not whose it is."""
    def first_line(path, start):
        try:
            with open(path, encoding="utf-8") as lines:
                return next((line.split(":", 1)[1].strip() for line in lines
                             if line.startswith(start)), "")
        except OSError:
            return ""

    file_system = subprocess.run(["df", "--output=fstype", directory], capture_output=True,
                                 text=True, check=False).stdout.split()[-1:]
    kib = first_line("/proc/meminfo", "MemTotal").split()[0]
    return {"kernel": f"{platform.system()} {platform.release()}", "machine": platform.machine(),
            "cpu": first_line("/proc/cpuinfo", "model name") or platform.processor(),
            "processors": os.cpu_count(), "memory": f"{int(kib) / (1 << 20):.1f} GiB of memory",
            "files": "files on " + (file_system or ["?"])[0]}


def print_verdicts(verdicts):
    print()
    for v in verdicts:
        mark = {True: "PASS", False: "MISS", None: "----"}[v["pass"]]
        print(f"{mark}  {v['case']:12} {v['side']:30} {v['text']} ({v['limit_text']})")
    counts = [sum(v["pass"] is kept for v in verdicts) for kept in (True, False, None)]
    print("\n{} targets met, {} missed, {} not measured".format(*counts))


def parse_options():
    parser = argparse.ArgumentParser(
        prog="bench", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--full", action="store_true", help="the whole matrix as well")
    parser.add_argument("--only", metavar="CASE,...", help="some of the cases (see --list; *)")
    parser.add_argument("--list", action="store_true", help="what the cases are")
    parser.add_argument("--scale", type=float, default=1.0, metavar="N",
                        help="N times as many rounds")
    parser.add_argument("--driver", choices=DRIVERS, help="of the cases of merging and of commits "
                        "(default: that of IOE_DRIVER in the environment, else uring)")
    parser.add_argument("--dir", default=".", help="where the files are made that are read and "
                        "written, and removed afterwards (default: here)")
    parser.add_argument("--size", type=int, default=128, metavar="MIB",
                        help="of these files (default 128)")
    parser.add_argument("--idle", type=int, default=2, metavar="S",
                        help="seconds to watch idle contexts (default 2)")
    parser.add_argument("--json", metavar="PATH", help="write the results there as well")
    parser.add_argument("--html", metavar="PATH", help="write a page with charts")
    options = parser.parse_args()
    if not options.driver:
        env = os.environ.get("IOE_DRIVER")
        options.driver = env if env in DRIVERS else "uring"
    return options


def seconds_of(cases, scale):
    start = 0.06  # of a process: the file, the buffers, a warm-up
    return sum(len(case.sides) * case.samples[0] * scale *
               (case.samples[1] * case.seconds + start) for case in cases)


def main():
    options = parse_options()
    bench = Bench(options)
    try:
        known = all_cases(options.driver, options.full)
        cases = [case for case in known if bench.wants(case.name, *case.family[:1])]
        names = [*COUNTED, *(name for case in known for name in (case.name, *case.family[:1]))]
        if nothing := unknown(options.only, names):
            print(f"bench: --only: there is no {', '.join(nothing)}: see --list", file=sys.stderr)
            return 2
        if options.list:
            print("\n".join(f"{case.name:36} {case.what}" for case in cases))
            print("\n".join(name for name in COUNTED if bench.wants(name)))
            return 0
        where = machine(options.dir)
        print(f"io_engine {version()}, {where['kernel']}, {where['cpu']}, "
              f"{where['processors']} processors; "
              f"{len(cases)} cases, about {seconds_of(cases, options.scale):.0f} s and the counts")
        started = time.time()
        bench.run(cases)
        verdicts = [judge(t, bench.results) for t in targets(options.driver)
                    if bench.wants(t.case)]
        print_verdicts(verdicts)
        by_name = {case.name: case for case in cases}
        data = {"version": version(), "machine": where,
                "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
                "seconds": time.time() - started, "full": options.full, "targets": verdicts,
                "cases": [case_data(name, by_name.get(name), results)
                          for name, results in bench.results.items()]}
    except Failed as why:
        print(f"bench: {why}", file=sys.stderr)
        return 1
    finally:
        bench.close()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as to:
            json.dump(data, to, indent=1)
    if options.html:
        try:
            import report  # it needs matplotlib; the figures do not
        except ImportError:
            print("bench: no page: matplotlib is missing (apt-get install python3-matplotlib)",
                  file=sys.stderr)
        else:
            report.write(data, options.html)
            print(f"\nthe page: {options.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
