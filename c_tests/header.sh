#!/bin/sh
# Promise: include/io_engine.h compiles by itself, and included twice, as C99, C11, C++11 and C++20,
# without a warning. TAP on stdout; a compiler that is not installed is skipped.
cd "$(dirname "$0")/.." || exit 1

number=0
status=0

# check COMPILER LANGUAGE STANDARD
check() {
    number=$((number + 1))
    if ! command -v "$1" >/dev/null; then
        echo "ok $number - $1 $3 # SKIP $1 is not installed"
        return
    fi
    if messages=$(printf '#include "io_engine.h"\n#include "io_engine.h"\n' |
        "$1" -x "$2" -std="$3" -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only - 2>&1)
    then
        echo "ok $number - $1 $3"
    else
        echo "not ok $number - $1 $3"
        echo "$messages" | sed 's/^/# /'
        status=1
    fi
}

echo 1..8
for standard in c99 c11; do
    check gcc c $standard
    check clang c $standard
done
for standard in c++11 c++20; do
    check g++ c++ $standard
    check clang++ c++ $standard
done
exit $status
