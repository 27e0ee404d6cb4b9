#!/bin/sh
# Promise: the drivers are what they say. Of 10,000 aligned O_DIRECT transfers on aio at least 99 of
# 100 go in io_submit and none in a system call of its own; uring has them in the ring; the pool uses
# neither. The system calls are counted with strace. TAP on stdout.
#
#    calls.sh DIRECTORY-OF-PROGRAMS DIRECTORY-ON-A-DISK
set -u
# shellcheck source=c_tests/tap.sh
. "$(dirname "$0")/../tap.sh"
programs=$1
work=$(mktemp -d "$(realpath "$2")/calls-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

count=10000
file=$work/transferred

explain() {
    echo "io_submit $submitted, ring $ringed, own calls $own, set-up $(tr '\n' ' ' <"$work/setup")"
}

# counts DRIVER DELIVERY: runs the transfers and counts, each in its variable.
counts() {
    rm -f "$work"/trace.* "$file"
    strace -ff -qq -y -v -e abbrev=none -o "$work/trace" \
        -e trace=io_setup,io_submit,io_uring_setup,io_uring_enter,pread64,preadv,preadv2,pwrite64,pwritev,pwritev2 \
        "$programs/transfers" "$1" "$2" $count "$file" || return 1
    cat "$work"/trace.* >"$work/all"
    # What io_submit took, without polls.
    submitted=$(awk '/^io_submit/ { taken = $NF; if (taken > 0) sum += taken - gsub(/IOCB_CMD_POLL/, "") }
        END { print sum + 0 }' "$work/all")
    ringed=$(awk '/^io_uring_enter/ && $NF > 0 { sum += $NF } END { print sum + 0 }' "$work/all")
    own=$(grep -cE "^p(read|write).*<$file>" "$work/all")
    grep -oE "^io_(uring_)?setup" "$work/all" | sort | uniq >"$work/setup"
}

enough=$((count * 99 / 100))
for delivery in 0 1 2 3; do
    counts uring $delivery
    [ $? -eq 0 ] && [ "$ringed" -ge $enough ] && [ "$submitted" -eq 0 ] && [ "$own" -eq 0 ]
    ok $? "uring, delivery $delivery: $ringed operations in the ring, $own system calls of their own"
    counts aio $delivery
    [ $? -eq 0 ] && [ "$submitted" -ge $enough ] && [ "$ringed" -eq 0 ] && [ "$own" -eq 0 ]
    ok $? "aio, delivery $delivery: $submitted operations in io_submit, $own system calls of their own"
    counts pool $delivery
    [ $? -eq 0 ] && [ "$own" -eq $count ] && [ "$submitted$ringed" = 00 ] && [ ! -s "$work/setup" ]
    ok $? "pool, delivery $delivery: $own system calls of their own, no ring, no io_setup"
done
plan 12
