#!/usr/bin/env python3
"""Promise: a program that was built for a release of this major version runs on today's library.

For each release abi/ has the header, as programs were compiled with it, and what abidw said of it. TAP on
stdout; the library's directory is the first argument, or that of `make lib`.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

from surface import CC, SIZED_STRUCT, preprocess, prototypes, run, surface

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
LIBRARY = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/target/lib")
STRICT = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-deprecated-declarations"]
tests = failures = 0


def report(name, complaint):
    """One test: passes where there is nothing to complain about."""
    global tests, failures
    tests += 1
    failures += complaint != ""
    print(f"{'not ok' if complaint else 'ok'} {tests} - {name}")
    for line in complaint.splitlines():
        print(f"# {line}")


def read(path):
    with open(os.path.join(ROOT, path)) as file:
        return file.read()


def listen(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def compare(baseline, header, version_map, released):
    """What abidiff says of a break; "" where there is none."""
    with tempfile.NamedTemporaryFile("w", suffix=".abi") as today:
        today.write(surface(header, version_map, released))
        today.flush()
        diff = listen("abidiff", "--suppressions", f"{ROOT}/abi/opaque.suppr", f"{ROOT}/{baseline}", today.name)
        # The exit code's bits: 1 and 2 errors, 4 a change, 8 one that surely is a break. A new call changes
        # nothing for who does not know it.
        only_new = diff.returncode == 4 and re.search(r" 0 Removed, 0 Changed.*, [1-9]\d* Added f", diff.stdout)
        return "" if diff.returncode == 0 or only_new else diff.stdout or "abidiff failed"


def nodes(version_map):
    """The calls of each node, and the node that it inherits from."""
    text = re.sub(r"/\*.*?\*/", "", version_map, flags=re.S)
    found = re.findall(r"([\w.]+)\s*\{([^}]*)\}\s*([\w.]*)\s*;", text)
    return {name: (set(re.findall(r"\b(ioe_\w+);", body)), parent) for name, body, parent in found}


def changed_nodes(baseline, version_map):
    """A node that was released keeps its calls; a later one inherits from the one before it."""
    released = {}
    for symbol, node in re.findall(r"elf-symbol name='(ioe_\w+)' version='([\w.]+)'", baseline):
        released.setdefault(node, set()).add(symbol)
    complaints, before = [], ""
    for name, (calls, parent) in nodes(version_map).items():
        if released.pop(name, calls) != calls:
            complaints.append(f"{name} has other calls than it was released with")
        if parent != before:
            complaints.append(f"{name} inherits from '{parent}', and comes behind '{before}'")
        before = name
    return "\n".join(complaints + [f"{name} is gone" for name in released])


def source_that_uses(header):
    """A program, for the compiler alone, that has every declaration of a header again, and each field."""
    text = preprocess(header)
    lines = ["#include <io_engine.h>", *(call + ";" for call in prototypes(text))]
    for name, body in re.findall(r"typedef struct (\w+) \{([^}]*)\}", text):
        for field in re.findall(r"(\w+);", body) if name.startswith("ioe_") else []:
            lines.append(f"enum {{ {name}_{field} = sizeof(((struct {name} *)0)->{field}) }};")
    types = re.findall(r"typedef (?:enum|struct) (ioe_\w+)", text) + re.findall(r"\(\*(ioe_\w+)\)", text)
    return "\n".join(lines + [f"void use_{name}({name} *it);" for name in types]) + "\n"


def constants(header):
    """Of enums and macros, by name."""
    enums = re.findall(r"\b(IOE_\w+) = (-?\w+)", preprocess(header))
    versions = re.compile(r"#define (IOE_(?!VERSION_)\w+) (.+)")
    return dict(enums + versions.findall(header))


def compile_and_run(name, header, source, work, *flags):
    """Against a header of its own and the library of today; what went wrong."""
    os.makedirs(f"{work}/{name}")
    with open(f"{work}/{name}/io_engine.h", "w") as file:
        file.write(header)
    program = f"{work}/{name}/program"
    link = [f"-L{LIBRARY}", f"-Wl,-rpath,{LIBRARY}", "-lio_engine"]
    for command in ([*CC, *STRICT, *flags, f"-I{work}/{name}", "-o", program, source, *link],
                    ["timeout", "--kill-after=5", "60", program]):
        done = listen(*command)
        if done.returncode != 0:
            return f"{command[0]}: exit code {done.returncode}\n{done.stdout}"
    return ""


def compile_alone(source, header):
    """Against a header; what the compiler complained of."""
    with tempfile.TemporaryDirectory() as work:
        for name, text in (("source.c", source), ("io_engine.h", header)):
            with open(f"{work}/{name}", "w") as file:
                file.write(text)
        return listen(*CC, *STRICT, f"-I{work}", "-fsyntax-only", f"{work}/source.c").stdout


def grown(header, more):
    """The header with structs that end later, or (below 0) earlier, by so many words of 8 bytes."""
    def change(struct):
        body = struct[2]
        for _ in range(-more):
            body = without_last_word(body)
        body += "".join(f"uint64_t later_{i};\n" for i in range(more))
        return f"typedef struct {struct[1]} {{ {body}}}"
    return re.sub(SIZED_STRUCT.pattern, change, re.sub(r"/\*.*?\*/", "", header, flags=re.S))


def without_last_word(body):
    fields = body.split(";")[:-1]
    halves = 1 if re.search(r"(size_t|u?int64_t|\*)\s*\w+$", fields[-1]) else 2
    return ";".join(fields[:-halves]) + ";\n"


def replaced(text, old, new):
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def swapped(text, a, b):
    assert text.count(a) >= 1 and text.count(b) >= 1
    start = text.index("typedef struct ioe_config {")
    head, tail = text[:start], text[start:]
    return head + tail.replace(a, "\0", 1).replace(b, a, 1).replace("\0", b, 1)


def main():
    header, version_map = read("include/io_engine.h"), read("abi/io_engine.map")
    releases = sorted(path[len(ROOT) + 1:-2] for path in glob.glob(f"{ROOT}/abi/io_engine-*.h"))
    work = tempfile.TemporaryDirectory()
    exported = run("readelf", "--dyn-syms", "-W", f"{LIBRARY}/libio_engine.so.1")
    for release in releases:
        released, baseline = read(release + ".h"), release + ".abi"
        name = os.path.basename(release)
        report(f"{name}: its calls, structs and enums are as they were",
               compare(baseline, header, version_map, released))
        report(f"{name}: the nodes of its symbols are as they were", changed_nodes(read(baseline), version_map))
        symbols = re.findall(r"elf-symbol name='(ioe_\w+)' version='([\w.]+)'", read(baseline))
        lost = [f"{symbol}@{node}" for symbol, node in symbols
                if not re.search(rf" {symbol}@@?{re.escape(node)}\n", exported)]
        report(f"{name}: its symbols are in the library", "\n".join(lost) if symbols else "no symbols")
        today = constants(header)
        other = [f"{k}: {v}, today {today.get(k)}" for k, v in constants(released).items() if today.get(k) != v]
        report(f"{name}: its constants have their values", "\n".join(other))
        report(f"{name}: what was written for it compiles", compile_alone(source_that_uses(released), header))
        source = f"{ROOT}/c_tests/abi/program.c"
        report(f"{name}: a program of its time runs", compile_and_run(name, released, source, work.name))
        report(f"{name}: a program with smaller structs runs",
               compile_and_run(name + "-smaller", grown(released, -1), source, work.name))
    report("a program with larger structs runs",
           compile_and_run("larger", grown(header, 4), f"{ROOT}/c_tests/abi/program.c", work.name, "-DLARGER"))

    # That the comparison says no, and to what.
    def breaks(what, words, changed_header, changed_map=version_map):
        said = compare(baseline, changed_header, changed_map, released)
        missing = [word for word in words if word not in said]
        report(f"told: {what}", f"{missing} not in: {said}" if missing else "")

    baseline, released = releases[-1] + ".abi", read(releases[-1] + ".h")
    breaks("two fields that changed places", ["ioe_config", "'uint32_t depth' offset changed"],
           swapped(header, "    uint32_t depth;", "    uint32_t queue_size;"))
    breaks("a field put between", ["'uint32_t later'", "depth' offset changed"],
           header.replace("    int32_t driver;", "    int32_t driver; uint32_t later;", 1))
    breaks("a field of another type", ["ioe_config", "merge_limit"],
           header.replace("    uint32_t merge_limit;", "    uint64_t merge_limit;", 1))
    breaks("a parameter of another type", ["ioe_poll", "parameter 2"],
           re.sub(r"(ioe_poll\([^,]*,\s*)uint32_t", r"\1uint64_t", header))
    breaks("another result", ["ioe_event_result", "return type changed"],
           replaced(header, "int64_t ioe_event_result(", "int ioe_event_result("))
    breaks("another value of an enumerator", ["IOE_DRIVER_AIO", "from value '2' to '7'"],
           replaced(header, "IOE_DRIVER_AIO = 2", "IOE_DRIVER_AIO = 7"))
    breaks("a symbol that is gone", ["1 Removed function", "ioe_cancel"],
           header.replace("int ioe_cancel(", "int ioe_lost("), version_map.replace("    ioe_cancel;\n", ""))
    last = list(nodes(version_map))[-1]
    planted = f"IOE_PLANTED {{ global: %s; }} {last};\n"
    breaks("a symbol of another version", ["Removed", "ioe_cancel@@IOE_1"],
           header, version_map.replace("    ioe_cancel;\n", "") + planted % "ioe_cancel")
    breaks("a parameter of another opaque type", ["ioe_cancel", "ioe_event"],
           re.sub(r"(ioe_cancel\(struct )ioe_context", r"\1ioe_event", header))
    breaks("a field of another opaque type", ["ioe_config", "shared"],
           replaced(header, "    struct ioe_workers *shared;", "    struct ioe_context *shared;"))

    def told(what, complaint, words):
        report(f"told: {what}", "" if words in complaint else f"{words!r} is not in: {complaint}")

    told("a call put into a node that was released",
         changed_nodes(read(baseline), version_map.replace("    ioe_cancel;\n", "    ioe_cancel;\n    ioe_new;\n")),
         "IOE_1 has other calls")
    told("a node that inherits nothing", changed_nodes(read(baseline), version_map + "IOE_PLANTED { global: ioe_new; };\n"),
         "IOE_PLANTED inherits from ''")
    uses = source_that_uses(released)
    told("a field with another name", compile_alone(uses, header.replace(" continued;", " resumed;")), "continued")
    told("a result that is const no more",
         compile_alone(uses, header.replace("ioe_event_result(const struct", "ioe_event_result(struct")), "ioe_event_result")
    told("a type with another name", compile_alone(uses, header.replace("ioe_log_level", "ioe_level")), "ioe_log_level")

    def allows(what, changed_header, changed_map=version_map):
        report(f"allowed: {what}", compare(baseline, changed_header, changed_map, released))

    allows("structs that grow at their end", grown(header, 2))
    inside = replaced(header, "typedef struct ioe_event ioe_event;",
                      "typedef struct ioe_event { int64_t inside; } ioe_event;")
    allows("what is inside of an opaque type", inside)
    allows("an enumerator more", header.replace("IOE_DRIVER_POOL = 3", "IOE_DRIVER_POOL = 3, IOE_DRIVER_NEXT = 4"))
    allows("an enum more, and a call that takes it, in a node of its own",
           replaced(header, "void ioe_buffer_free(", "typedef enum ioe_planted_kind { IOE_PLANTED_ONE } ioe_planted_kind;\n"
                    "int ioe_planted(ioe_planted_kind kind);\nvoid ioe_buffer_free("),
           version_map + planted % "ioe_planted")
    allows("a call that is retired", re.sub(r"(int ioe_cancel\([^;]*);", r"\1 __attribute__((deprecated));", header))
    print(f"1..{tests}")
    return failures > 0


sys.exit(main())
