"""The interface as a C program sees it, written by abidw: that of a shared object with the header's functions,
empty, under the versions of the map, and for each enum a function, because no other takes it by name.

The library's own debugging information would do for the functions, but it tells of every type inside the
engine, and tells it another way with each compiler.

    surface.py HEADER MAP > BASELINE
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile

CC = shlex.split(os.environ.get("CC", "cc"))
# A struct whose callers say how large theirs is.
SIZED_STRUCT = re.compile(r"typedef struct (\w+) \{\s*(size_t size;[^}]*)\}")


def run(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def preprocess(header):
    """What the compiler makes of it, without what only says how it is to be used."""
    text = run(*CC, "-E", "-P", "-xc", "-", input=header)
    return re.sub(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)", "", text)


def prototypes(text):
    return [part for part in text.split(";")
            if re.search(r"(?:^|[ *\n])ioe_\w+\(", part) and "typedef" not in part]


def members(header):
    return {name: body.count(";") for name, body in SIZED_STRUCT.findall(preprocess(header))}


def surface(header, version_map, released=None):
    """As text. With the header of a release, structs that may grow end where they ended there."""
    text = preprocess(header)
    most = members(released or header)

    def end_early(struct):
        body = struct[2].split(";")[: most.get(struct[1], -1)]
        return f"typedef struct {struct[1]} {{ {';'.join(body)}; }}"

    text = SIZED_STRUCT.sub(end_early, text)
    bodies = [call + " { __builtin_trap(); }\n" for call in prototypes(text)]
    enums = re.findall(r"typedef enum (\w+)", text)
    bodies += [f"void of_{enum}({enum} it) {{ __builtin_trap(); }}\n" for enum in enums]
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/surface.c", "w") as source:
            source.write(text + "".join(bodies))
        with open(f"{work}/surface.map", "w") as nodes:
            nodes.write(version_map + "\nENUMS { global: of_*; };\n")
        run(*CC, "-g", "-O0", "-w", "-fPIC", "-shared", "-o", "surface.so", "surface.c",
            "-Wl,-soname,libio_engine.so.1", "-Wl,--version-script=surface.map", cwd=work)
        return run("abidw", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "surface.so", cwd=work)


if __name__ == "__main__":
    with open(sys.argv[1]) as header, open(sys.argv[2]) as version_map:
        print(surface(header.read(), version_map.read()), end="")
