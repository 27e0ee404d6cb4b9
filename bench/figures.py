#!/usr/bin/env python3
"""What an operation costs where noise cannot hide it, beside the committed figures.

Runs PROGRAM (bench/figures.c) under callgrind, once for each of CASES, and counts what the library
did, and the C library for it; what the program's callbacks did does not count. Per operation:

  instructions   executed in user space
  system calls
  allocations    calls of malloc(3) and its like
  atomics        instructions that take a cache line from all others: lock prefix, xchg with memory

And under lackey, which tells each access to memory, for the cases of TRACED:

  shared writes  of the library, to cache lines that another thread uses as well
  crowded writes of those, the ones to lines that more than two threads use

A figure more than 5 % above the one in FILE fails the check, and so does one of SPREAD that grows
with the number of reactors, as many threads submitting. FILE holds a line for each: the case, the
figure, its value, and how far apart several runs of the same library were.
"""
import argparse
import collections
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

CASES = [f"{case} {driver}" for driver, cases in {
    "uring": ("polled", "polled-cancel", "polled-merging", "polled-wait",
              "inline", "producer", "batches", "batches-merging",
              "merger", "one-worker", "submit-wait", "wait-batches", "context"),
    "aio": ("polled", "producer"),
    "pool": ("polled", "producer", "context"),
}.items() for case in cases]
SPREAD = "producer uring"
SPREADING = [f"{SPREAD} {reactors}" for reactors in (2, 4, 8)]
TRACED = [f"{SPREAD} {reactors} short" for reactors in (1, 4)]
CASES += SPREADING
COUNTED = ("instructions", "system calls", "allocations", "atomics")
WRITES = ("shared writes", "crowded writes")
CACHE_LINE = 64
MACHINE = "x86_64"  # of which these are the instructions

LIMIT = 0.05
# Another compiler arranges the same program otherwise; and the disk, or how busy the machine is, says
# how many of a batch are done when io_getevents(2) is asked, and how many reads the pool's threads get.
LOOSE_LIMIT = 0.25
LOOSE = ("polled aio", "producer aio", "polled pool", "producer pool")
# A block for 31 messages to a callback thread, and how many events are one message is the machine's affair.
SELDOM = {"allocations": 0.001}
GROWTH = 0.1  # of a figure with the number of reactors: what happens in one of ten operations
RUNS_OF_UPDATE = 5
RUNS_OF_DOUBT = 3
TIME_LIMIT = 60  # seconds for a run, on however busy a machine
LEFT_OUT = 77

COUNT = ("--tool=callgrind", "--instr-atstart=no", "--dump-instr=yes", "--collect-systime=yes",
         "--compress-strings=no", "--compress-pos=no", "--callgrind-out-file=out")
TRACE = ("--tool=lackey", "--trace-mem=yes", "--trace-sched=yes", "--log-file=out")
ALLOCATE = {"malloc", "calloc", "realloc", "memalign", "posix_memalign", "aligned_alloc"}
# Stand between the library and the kernel: they make one call more than the library asked for.
BETWEEN = {"syscall", "ppoll"}
# How often the first is called, and whether the second finds its thread gone, depends on what else
# the machine does. The third is none: valgrind hides vdso(7).
NOT_COUNTED = {"sched_yield", "pthread_join", "clock_gettime"}
ATOMIC = re.compile(r"^\s*([0-9a-f]+):\s+(?:lock |xchg .*\()", re.MULTILINE)


def instructions_of(library):
    """The address behind the library's code, and the addresses of what counts as atomics in it."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library],
                          check=True, capture_output=True, text=True).stdout
    last = re.findall(r"^\s*([0-9a-f]+):\s", text, re.MULTILINE)[-1]
    return int(last, 16) + 1, {int(address, 16) for address in ATOMIC.findall(text)}


def count(path, library, atomics):
    """Sums up one file of callgrind's: https://valgrind.org/docs/manual/cl-format.html"""
    totals = collections.Counter()
    where = callee = callee_where = calls = None
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.rstrip("\n").partition("=")
            if key == "ob":
                where = callee_where = value
            elif key == "cob":
                callee_where = value
            elif key == "cfn":
                callee = value.split("@")[0].split("'")[0]
            elif key == "calls":
                calls = int(value.split()[0])
            elif line.startswith("0x"):
                address, _, instructions, *rest = line.split()
                instructions, system_calls = int(instructions), int(rest[0]) if rest else 0
                if os.path.realpath(where) == library:
                    if calls is None:
                        totals["instructions"] += instructions
                        totals["atomics"] += instructions * (int(address, 16) in atomics)
                    elif callee in BETWEEN:
                        totals["system calls"] += calls
                    elif os.path.basename(callee_where).startswith(("libc.", "ld-")):
                        totals["instructions"] += instructions
                        totals["system calls"] += system_calls * (callee not in NOT_COUNTED)
                        totals["allocations"] += calls * (callee in ALLOCATE)
                calls, callee_where = None, where
    return totals


def trace(path, marker, begin, end):
    """Sums up the writes of the code from begin to end, in what lackey and the scheduler said."""
    thread, inside, counting = 0, False, False
    threads, writes = collections.defaultdict(set), collections.Counter()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            kind = line[:2]
            if kind == "I ":
                inside = counting and begin <= int(line[3:].split(",")[0], 16) < end
            elif kind in (" L", " S", " M"):
                address = int(line[3:].split(",")[0], 16)
                if address == marker and kind == " S":
                    counting = not counting
                elif counting:
                    threads[address // CACHE_LINE].add(thread)
                    writes[address // CACHE_LINE] += inside and kind != " L"
            elif "acquired lock" in line:
                thread = int(re.search(r"SCHED\[(\d+)\]", line).group(1))
    return {name: sum(count for at, count in writes.items() if len(threads[at]) >= least)
            for name, least in zip(WRITES, (2, 3))}


class Bench:
    """The program and the library, as they are now."""

    def __init__(self, program, library):
        self.program, self.library = os.path.realpath(program), os.path.realpath(library)
        self.end, self.atomics = instructions_of(self.library)
        comment = subprocess.run(["readelf", "-p", ".comment", self.library],
                                 check=True, capture_output=True, text=True).stdout
        compiler = re.search(r"rustc version (\S+)", comment)
        self.made_with = (f"rustc {compiler.group(1) if compiler else 'unknown'}, "
                          f"{os.confstr('CS_GNU_LIBC_VERSION')}, {os.uname().machine}")

    def run(self, case):
        """Each figure of a case, or why there are none."""
        traced = case in TRACED
        tool = TRACE if traced else COUNT
        with tempfile.TemporaryDirectory(dir=os.path.dirname(self.program)) as place:
            run = subprocess.run(["valgrind", *tool, self.program, *case.split()], cwd=place,
                                 capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
            if run.returncode == LEFT_OUT:
                return run.stdout.strip()
            if run.returncode != 0:
                sys.exit(f"{case}: exit status {run.returncode}\n{run.stderr}")
            operations, marker, base = (int(word, 0) for word in run.stdout.split())
            if traced:
                totals = trace(os.path.join(place, "out"), marker, base, base + self.end)
            else:
                totals = count(os.path.join(place, "out.1"), self.library, self.atomics)
        return {name: totals[name] / operations for name in (WRITES if traced else COUNTED)}

    def run_all(self, cases):
        """The figures of each case; cases run beside each other."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(self.run, cases))


def read(path):
    """What made the figures, and {case: {figure: (value, spread)}}."""
    figures = collections.defaultdict(dict)
    with open(path, encoding="utf-8") as lines:
        made_with = next(lines).lstrip("# ").strip()
        for line in lines:
            if not line.startswith("#"):
                case, name, value, spread = (field.strip() for field in line.split("|"))
                figures[case][name] = float(value), float(spread)
    return made_with, figures


def update(bench, path, cases):
    """Measures and writes the file anew."""
    runs = bench.run_all(cases * RUNS_OF_UPDATE)
    with open(path, "w", encoding="utf-8") as out:
        print(f"# {bench.made_with}", file=out)
        print("# Written by `make figures`: case | figure, per operation | value | spread of "
              f"{RUNS_OF_UPDATE} runs", file=out)
        for i, case in enumerate(cases):
            of_case = runs[i::len(cases)]
            if isinstance(of_case[0], str):
                sys.exit(of_case[0])
            for name in of_case[0]:
                values = [run[name] for run in of_case]
                print(f"{case:22} | {name:14} | {min(values):12.4f} | "
                      f"{max(values) - min(values):9.4f}", file=out)


def check(bench, path, cases):
    """Prints a line for each case, and returns how many figures rose."""
    made_with, committed = read(path)
    same = made_with == bench.made_with
    rises, falls = [], []
    results = dict(zip(cases, bench.run_all(cases)))

    def judge(case, name, old, spread, what):
        loose = case in LOOSE or not same and name == "instructions"
        relative = LOOSE_LIMIT if loose else LIMIT
        limit = old * (1 + relative) + spread + SELDOM.get(name, 0)
        # A rise is there each time; what a busy machine does to a run with threads is not.
        value = results[case][name]
        for _ in range(RUNS_OF_DOUBT):
            if value > limit:
                value = min(value, bench.run(case)[name])
        if value > limit:
            rises.append(f"{case}, {name}: {old:.4f} {what}, {value:.4f} now")
        elif value < old * (1 - relative) - spread:
            falls.append(f"{case}, {name}: {old:.4f} {what}, {value:.4f} now")

    for case, now in results.items():
        if isinstance(now, str):
            print(f"{case:24} left out: {now}")
            continue
        print(f"{case:24}", ", ".join(f"{value:.4f} {name}" for name, value in now.items()))
        for name in now:
            if name in committed[case]:
                judge(case, name, *committed[case][name], "committed")
            else:
                rises.append(f"{case}, {name}: none committed, {now[name]:.4f} now")
        for group in (SPREADING, TRACED):
            if case in group and group[0] in results:
                for name in now:
                    judge(case, name, results[group[0]][name], GROWTH, f"for {group[0]}")
    for change in falls:
        print(f"fell: {change}: `make figures` notes it")
    for change in rises:
        print(f"ROSE: {change}", file=sys.stderr)
    if rises:
        print(f"{len(rises)} figures rose by more than {LIMIT:.0%}. Where that is worth it, `make "
              f"figures` notes them in {path}, to be committed.\nThey were counted with "
              f"{made_with}; now with {bench.made_with}.", file=sys.stderr)
    elif not same:
        print(f"the figures were counted with {made_with}; now with {bench.made_with}: "
              f"instructions may rise by {LOOSE_LIMIT:.0%}")
    return len(rises)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("library")
    parser.add_argument("file")
    parser.add_argument("--update", action="store_true", help="write FILE anew")
    parser.add_argument("--only", default="", help="cases with this in their name")
    args = parser.parse_args()
    cases = [case for case in CASES + TRACED if args.only in case]
    if os.uname().machine != MACHINE:
        print(f"left out: the figures are those of {MACHINE}")
        return 0
    bench = Bench(args.program, args.library)
    if args.update:
        update(bench, args.file, CASES + TRACED)
        return 0
    return check(bench, args.file, cases) > 0


if __name__ == "__main__":
    sys.exit(main())
