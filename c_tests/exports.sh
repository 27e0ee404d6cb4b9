#!/bin/sh
# Promise: the shared library exports the functions that the header declares, all of them and
# nothing else; io_engine.hpp wraps each that needs it. TAP on stdout. The library is the first
# argument, or the one of `make lib`.
cd "$(dirname "$0")/.." || exit 1
. c_tests/tap.sh
library=${1:-target/lib/libio_engine.so}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# Preprocessed, so that names in comments do not count.
"${CC:-cc}" -E -P -x c include/io_engine.h | grep -o 'ioe_[a-z0-9_]*(' | tr -d '(' | sort -u \
    >"$work/declared"
# The nodes of a version script are absolute symbols and no functions.
nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u \
    >"$work/exported"

# Without names on both sides the comparison below would pass on nothing.
for side in declared exported; do
    [ -s "$work/$side" ] || echo "nothing is $side"
done >"$work/empty"
comm -23 "$work/declared" "$work/exported" >"$work/missing"
comm -13 "$work/declared" "$work/exported" >"$work/extra"
# What needs neither an owner nor an error code is called as it is. Comments do not count here either.
{
    "${CXX:-c++}" -E -std=c++17 -Iinclude -x c++ include/io_engine.hpp |
        awk '/^# [0-9]+ "/ { mine = /io_engine\.hpp"/ } mine' | grep -o 'ioe_[a-z0-9_]*'
    printf 'ioe_%s\n' version driver_name probe
} | sort -u >"$work/wrapped"
comm -23 "$work/declared" "$work/wrapped" >"$work/unwrapped"
report "there are declarations and exports" "$work/empty"
report "every declared function is exported" "$work/missing"
report "every exported symbol is a declared function" "$work/extra"
report "every declared function is in io_engine.hpp" "$work/unwrapped"
plan 4
