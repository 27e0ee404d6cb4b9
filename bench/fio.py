#!/usr/bin/env python3
"""fio's own engines on the same work, spoken to like target/bench/run.

    printf 'warm 10000\\nrun 100000\\n' | bench/fio.py --file FILE --depth 128 fio-io_uring

The options are those of run; the ones that say nothing about a transfer are left alone. Each line
starts fio anew, with so many transfers, and its JSON is told as run tells its own: what took place
before fio's clock ran is not in it. It is asked for what makes it fast and like the other sides:

- batches as theirs, no registered files or buffers, plain reads in the place of vectored ones;
- gtod_reduce, so that it does not read the clock for every transfer; where latencies are wanted
  another run, a fourth as long, reads it for all of them;
- norandommap, as the others draw blocks that they have drawn before;
- threads in the place of processes; userspace_reap, of libaio.

It checks results, not data. Where there are writes it has a file of its own, so that the data which
the others check is left alone. Its runtimes are whole ms.

It is the published like of several peers: see what peer_uring.c, peer_aio.c and peer_posix.c say.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys

EXIT_NOT_HERE = 3
ENGINES = {
    "fio-io_uring": ["--ioengine=io_uring", "--registerfiles=0", "--fixedbufs=0",
                     "--nonvectored=1"],
    "fio-libaio": ["--ioengine=libaio", "--userspace_reap=1"],
    "fio-posixaio": ["--ioengine=posixaio"],
    "fio-psync": ["--ioengine=psync"],
}
MIXED = 30  # of a hundred transfers are writes
SHORTER = 4  # times, the run whose latencies are measured


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", choices=[*ENGINES, "sides"])
    parser.add_argument("--file")
    parser.add_argument("--size", type=int, default=128, metavar="MIB")
    parser.add_argument("--mode", choices=["read", "write", "mixed"], default="read")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--depth", type=int, default=128)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latency", type=int)
    for ignored in ("--driver", "--seed", "--queue", "--held", "--merge", "--reactors"):
        parser.add_argument(ignored, help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def not_here(why):
    print(f"bench: {why}", file=sys.stderr)
    sys.exit(EXIT_NOT_HERE)


def share(whole, threads):
    """As share_of in transfer.h: all threads together have what is asked for."""
    return max(1, whole // threads)


def command(arguments, path, count, timed):
    """What transfers count blocks."""
    kinds = {"read": "read", "write": "write", "mixed": "rw"}
    kind = kinds[arguments.mode] if arguments.sequential else "rand" + kinds[arguments.mode]
    batch = share(arguments.batch or max(1, arguments.depth // 4), arguments.threads)
    timing = (["--lat_percentiles=1", "--disable_slat=1", "--disable_clat=1"]
              if timed else ["--gtod_reduce=1"])
    return [
        "fio", "--name=bench", "--output-format=json+", "--thread", "--group_reporting",
        f"--filename={path}", f"--size={arguments.size}M", "--invalidate=0", "--overwrite=1",
        f"--rw={kind}", f"--rwmixwrite={MIXED}", "--norandommap=1", "--randrepeat=0",
        f"--bs={arguments.block}", f"--direct={int(arguments.direct)}",
        f"--numjobs={arguments.threads}", f"--iodepth={share(arguments.depth, arguments.threads)}",
        f"--iodepth_batch_submit={batch}", f"--iodepth_batch_complete_min={batch}",
        f"--iodepth_batch_complete_max={share(arguments.depth, arguments.threads)}",
        f"--io_size={-(-count // arguments.threads) * arguments.block}",
        *timing, *ENGINES[arguments.name]]


def run_fio(arguments, path, count, timed):
    """What it tells of its reads and of its writes, and of both; None after a sentence."""
    done = subprocess.run(command(arguments, path, count, timed), capture_output=True, text=True)
    try:
        job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
        return [job["read"], job["write"]], job
    except (ValueError, KeyError, IndexError):
        print(f"bench: {arguments.name}: {done.stderr.strip() or done.stdout.strip()}",
              file=sys.stderr)
        return None


def transfer(arguments, path, count):
    """What run would have said."""
    told = run_fio(arguments, path, count, False)
    if not told:
        return None
    ways, job = told
    count = sum(way["total_ios"] for way in ways)
    cpu_ns = job["job_runtime"] * 1e6 / 100  # of a per cent
    answer = {
        "count": count,
        "ns": max(1, max(way["runtime"] for way in ways)) * 1000000,
        "user_ns": round(job["usr_cpu"] * cpu_ns),
        "system_ns": round(job["sys_cpu"] * cpu_ns),
        "wrong": count if job["error"] else 0,
    }
    if not arguments.latency:
        return answer
    told = run_fio(arguments, path, -(-count // SHORTER), True)
    if not told:
        return None
    latencies = {}
    for way in told[0]:
        for ns, times in way.get("lat_ns", {}).get("bins", {}).items():
            latencies[ns] = latencies.get(ns, 0) + times
    return {**answer, "p50_ns": median(latencies), "latencies": latencies}


def median(latencies):
    left = sum(latencies.values()) // 2
    for ns in sorted(latencies, key=int):
        left -= latencies[ns]
        if left < 0:
            return int(ns)
    return 0


def obey(arguments, path):
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if len(words) != 2 or words[0] not in ("warm", "run") or not words[1].isdecimal():
            print(f"bench: not understood: {line}", end="", file=sys.stderr)
            return 2
        answer = transfer(arguments, path, int(words[1]))
        if not answer:
            return 1
        print(json.dumps(answer), flush=True)
    return 0


def main():
    arguments = parse_arguments()
    if arguments.name == "sides":
        for name, options in ENGINES.items():
            print(f"{name:<12} fio, its engine {options[0].partition('=')[2]}")
        return 0
    if not shutil.which("fio"):
        not_here("fio is missing: apt-get install fio")
    if not arguments.file:
        not_here("fio: name a file")
    if arguments.mode == "read":
        return obey(arguments, arguments.file)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    path = f"{arguments.file}.{os.getpid()}"
    try:
        return obey(arguments, path)
    finally:
        if os.path.exists(path):
            os.unlink(path)


if __name__ == "__main__":
    sys.exit(main())
