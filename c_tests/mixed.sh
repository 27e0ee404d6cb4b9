#!/bin/sh
# Promise: objects with exceptions and objects without, each with io_engine.hpp, are linked into one program,
# in any order, and each keeps its own: those with exceptions are thrown at, and one that would leave a
# callback ends the process with a message. TAP on stdout; a compiler that is not installed is skipped.
cd "$(dirname "$0")/.." || exit 1
. c_tests/tap.sh

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# check COMPILER OBJECT OBJECT
check() {
    name="$1, $2 before $3"
    if ! command -v "$1" >/dev/null; then
        skip "$name" "$1 is not installed"
        return
    fi
    # Not inlined, so that the linker takes the first of what has one name.
    for half in exceptions no-exceptions; do
        "$1" -std=c++17 -O0 -f$half -Iinclude -c -o "$work/$half" c_tests/mixed.cc
    done
    "$1" -o "$work/program" "$work/$2" "$work/$3" -Ltarget/lib -Wl,-rpath,"$PWD/target/lib" -lio_engine
    timeout 20 "$work/program" 2>"$work/said"
    thrown=$?
    # In a shell of its own, which would say here that the program was aborted.
    sh -c 'timeout 20 "$0" throw; exit $?' "$work/program" 2>>"$work/said"
    ended=$?
    words="io_engine: an exception left a callback: a bad day"
    [ $thrown = 0 ] && [ $ended = 134 ] && [ "$(head -n 1 "$work/said")" = "$words" ]
    ok $? "$name" "$work/said"
    rm -f "$work"/*
}

for compiler in g++ clang++; do
    check $compiler exceptions no-exceptions
    check $compiler no-exceptions exceptions
done
plan 4
