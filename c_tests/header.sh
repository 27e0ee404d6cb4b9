#!/bin/sh
# Promise: include/io_engine.h compiles by itself, and included twice, as C99, C11, C++11 and C++20,
# without a warning; include/io_engine.hpp from C++17 on, also without exceptions and RTTI. TAP on
# stdout; a compiler that is not installed is skipped.
cd "$(dirname "$0")/.." || exit 1
. c_tests/tap.sh

explain() { echo "$messages"; }

# check COMPILER LANGUAGE STANDARD HEADER [OPTION]...
check() {
    compiler=$1
    language=$2
    standard=$3
    header=$4
    shift 4
    name="$header, $compiler $standard $*"
    if ! command -v "$compiler" >/dev/null; then
        skip "$name" "$compiler is not installed"
        return
    fi
    messages=$(printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
        "$compiler" -x "$language" -std="$standard" -Wall -Wextra -Wpedantic -Werror -Iinclude \
            "$@" -fsyntax-only - 2>&1)
    ok $? "$name"
}

for standard in c99 c11; do
    check gcc c $standard io_engine.h
    check clang c $standard io_engine.h
done
for compiler in g++ clang++; do
    for standard in c++11 c++20; do
        check $compiler c++ $standard io_engine.h
    done
    for standard in c++17 c++20 c++2b; do
        for options in "-fexceptions" "-fno-exceptions -fno-rtti"; do
            # shellcheck disable=SC2086 # they are several
            check $compiler c++ $standard io_engine.hpp -Wshadow -Wconversion $options
        done
    done
done
plan 20
