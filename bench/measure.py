"""Runs the sides of bench/run.c, in turn, and gathers what they tell.

Medians over samples; a ratio is the median of the ratios of samples taken one right after the
other, so that whatever else happens on the machine hits both.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "..", "target", "bench", "run")
FIO = os.path.join(HERE, "fio.py")  # spoken to like run, of sides whose names begin with "fio-"
NOT_HERE = 3  # run.c's exit status: its side cannot be had on this machine
CALIBRATED_NS = 20e6


class Failed(Exception):
    """A side stopped, or a transfer went wrong: there is nothing to be told of this run."""


@dataclass(frozen=True)
class Contender:
    """A side, the engine's driver, and what it does otherwise than the others of its case."""

    side: str
    driver: str = ""
    options: tuple = ()

    @property
    def name(self):
        on = f" on {self.driver}" if self.driver else ""
        other = "".join(f", {value} {key}" for key, value in self.options)
        return self.side + on + other


def command(contender, options):
    """The command line of bench/run for one contender: its options come last, and win."""
    options = dict(options, **dict(contender.options))
    if contender.driver:
        options["driver"] = contender.driver
    words = [sys.executable, FIO] if contender.side.startswith("fio-") else [RUN]
    for key, value in options.items():
        if value is not None and value is not False:
            words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return words + [contender.side]


def _sentence(errors):
    return "; ".join(line.removeprefix("bench: ") for line in errors.strip().splitlines())


class NotHere(Exception):
    """A side cannot be had on this machine: the message says why."""


class Side:
    """One process of bench/run, which waits when it is not told to work."""

    def __init__(self, contender, options):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command(contender, options), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, bufsize=1)
        if self._answer() != "ready":
            self._ended()

    def _answer(self):
        return self.process.stdout.readline().strip()

    def _ended(self):
        status = self.process.wait()
        self.errors.seek(0)
        said = _sentence(self.errors.read())
        raise (NotHere if status == NOT_HERE else Failed)(said or f"ended with status {status}")

    def _tell(self, what, count):
        try:
            self.process.stdin.write(f"{what} {count}\n")
        except BrokenPipeError:
            self._ended()
        answer = self._answer()
        if not answer:
            self._ended()
        told = json.loads(answer)
        if told["wrong"]:
            self._ended()
        return told

    def warm(self, count):
        return self._tell("warm", max(1, int(count)))

    def run(self, count):
        return self._tell("run", max(1, int(count)))

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def sides_known():
    """The names of all sides, those included that cannot be had here."""
    told = [subprocess.run(words, capture_output=True, text=True, check=True).stdout
            for words in ([RUN, "sides"], [sys.executable, FIO, "sides"])]
    return {line.split()[0] for line in "".join(told).splitlines()}


def tool(name, contender=None, **options):
    """What bench/run tells at once and not line by line; NotHere where it cannot be had."""
    done = subprocess.run(command(contender or Contender(name), options), capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        said = _sentence(done.stderr)
        raise (NotHere if done.returncode == NOT_HERE else Failed)(said)
    return json.loads(done.stdout) if done.stdout else None


@dataclass
class Result:
    """What one contender did in one case: a list of samples for each figure."""

    contender: Contender
    samples: list = field(default_factory=list)
    latencies: Counter = field(default_factory=Counter)
    left_out: str = ""

    def add(self, told):
        for ns, often in told.pop("latencies", {}).items():
            self.latencies[int(ns)] += often
        self.samples.append(told)

    def each(self, what):
        """A figure of every sample; [] where this side does not know it."""
        known = {
            "speed": lambda t: t["count"] / t["ns"] * 1e9,
            "p50_us": lambda t: t["p50_ns"] / 1e3,
            "cpu_ns": lambda t: (t["user_ns"] + t["system_ns"]) / t["count"],
            "calls": lambda t: t["system_calls"] / t["count"],
            "operations": lambda t: t["operations"] / t["count"],
            "syncs": lambda t: t["syncs"] / t["ns"] * 1e9,
        }[what]
        try:
            return [known(t) for t in self.samples]
        except KeyError:
            return []

    def median(self, what):
        values = self.each(what)
        return statistics.median(values) if values else None

    def total(self, what):
        """Per transfer, over all samples: for what is counted too coarsely in one of them."""
        return sum(t[what] for t in self.samples) / sum(t["count"] for t in self.samples)

    def percentile_us(self, percent):
        """Of the latencies of all samples."""
        wanted, seen = sum(self.latencies.values()) * percent / 100, 0
        for ns in sorted(self.latencies):
            seen += self.latencies[ns]
            if seen >= wanted:
                return ns / 1e3
        return None


def ratios(result, peer, what):
    return [a / b for a, b in zip(result.each(what), peer.each(what)) if b]


def spread(values):
    """Median, quartiles, and the outermost."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high,
            "min": min(values), "max": max(values), "n": len(values)}


def calibrate(side, depth, seconds):
    """How many transfers this side does in the time wanted."""
    count = 2 * depth
    while True:
        told = side.warm(count)
        if told["ns"] >= min(CALIBRATED_NS, seconds * 1e9):
            return max(1, int(told["count"] / told["ns"] * seconds * 1e9))
        count *= 2


def compare(contenders, options, rounds, slices, seconds, say):
    """Rounds of new processes, in each of them slices in which every side works in its turn.

    Returns a Result for each contender.
    """
    results = [Result(c) for c in contenders]
    counts = {}
    for number in range(rounds):
        sides = {}
        try:
            for i, result in enumerate(results):
                if result.left_out:
                    continue
                try:
                    sides[i] = Side(result.contender, dict(options, seed=number + 1))
                    if i not in counts:
                        counts[i] = calibrate(sides[i], options["depth"], seconds)
                    else:
                        sides[i].warm(counts[i] / 10 + options["depth"])
                except NotHere as why:
                    result.left_out = str(why)
                    say(f"{result.contender.name} is left out: {why}")
                except Failed as why:
                    raise Failed(f"{result.contender.name}: {why}") from None
            order = list(sides)
            for turn in range(slices):
                # Another side begins each time: none has always the same one before it.
                first = (number + turn) % max(1, len(order))
                for i in order[first:] + order[:first]:
                    results[i].add(sides[i].run(counts[i]))
        finally:
            for side in sides.values():
                side.close()
    return results


# ---- what the machine counts ---------------------------------------------------------------------


def _lines(*counts):
    return "warm 2000\n" + "".join(f"run {count}\n" for count in counts)


def _run(words, lines):
    """Obeys the lines under a tool that counts."""
    try:
        done = subprocess.run(words, input=lines, capture_output=True, text=True, timeout=60,
                              check=False)
    except subprocess.TimeoutExpired:
        raise NotHere(f"{words[0]} did not come to an end") from None
    if done.returncode != 0:
        said = _sentence(done.stderr)
        raise (NotHere if done.returncode == NOT_HERE else Failed)(f"{words[0]}: {said}")


def instructions(contender, options, count=4096):
    """User-space instructions per transfer, by object file.

    Callgrind counts the transfers of 'run' lines and nothing else. It cannot run a ring that one
    thread waits in while others have to go on: sides of one thread only.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "callgrind.out")
        done = _run(
            ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
             f"--callgrind-out-file={out}", *command(contender, options)],
            _lines(count))
        with open(out, encoding="utf-8") as lines:
            return {name: n / count for name, n in parse_callgrind(lines).items()}


def parse_callgrind(lines):
    """The instructions of each object file, calls not included (callgrind's format, version 1)."""
    names, found, current, is_call = {}, Counter(), "", False
    for line in lines:
        if match := re.match(r"c?ob=\((\d+)\)(?: (.*))?", line):
            number, name = match.groups()
            if name is not None:
                names[number] = os.path.basename(name.strip())
            if line.startswith("ob="):
                current = names.get(number, "")
        elif line.startswith("calls="):
            is_call = True  # the next line is what the call cost, counted where it was spent
        elif match := re.match(r"[+\-*\d]\S* (\d+)", line):
            if not is_call:
                found[current] += int(match.group(1))
            is_call = False
    return found


PERF_EVENTS = {"all": "raw_syscalls:sys_enter", "enter": "syscalls:sys_enter_io_uring_enter",
               "yield": "syscalls:sys_enter_sched_yield"}


def perf_works():
    if not shutil.which("perf"):
        return False
    done = subprocess.run(["perf", "stat", "-e", ",".join(PERF_EVENTS.values()), "true"],
                          capture_output=True, check=False)
    return done.returncode == 0 and b"not supported" not in done.stderr


def system_calls(contender, options, count):
    """System calls per transfer, by perf: those of a long run less those of a short one."""
    def counted(*counts):
        with tempfile.NamedTemporaryFile("r") as out:
            _run(
                ["perf", "stat", "-x,", "-o", out.name, "-e", ",".join(PERF_EVENTS.values()),
                 *command(contender, options)],
                _lines(*counts))
            found = {line.split(",")[2]: line.split(",")[0] for line in out if "sys_enter" in line}
        return {key: int(found[event]) for key, event in PERF_EVENTS.items()}

    short, long = counted(count), counted(count, count)
    return {key: max(0, long[key] - short[key]) / count for key in short}


def memory_per_event(contender, options, small=128, large=4096):
    """Bytes of the process for one more event in flight, the data's own buffer not counted.

    The same work with few and with many in flight; what the process has more is divided by their
    difference. The kernel's own memory for them is in it as far as it is mapped: io_uring's queues.
    """
    def resident(depth):
        side = Side(contender, dict(options, depth=depth, held=depth, queue=depth, batch=32,
                                    latency=None))
        try:
            side.warm(4 * depth)
            return side.run(4 * depth)["resident"]
        finally:
            side.close()

    return (resident(large) - resident(small)) / (large - small)
