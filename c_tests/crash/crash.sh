#!/bin/sh
# The crash test: what wal.c tells durable is there after a crash, and the same test finds what its
# unsafe variant loses. On an ext4 file system in a file, made, mounted and removed again, also after a
# failure or a signal. Needs root and a loop device.
#
#    crash.sh DIRECTORY-OF-PROGRAMS WAL CRASHES
# shellcheck source=c_tests/machine.sh
. "$(dirname "$0")/../machine.sh"
programs=$(realpath "$1")
wal=$(realpath "$2")
crashes=$3
limit=1200

missing() {
    echo "check-crash: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || missing "needs root, for a loop device and mounts"

work_in "$programs/run"
mkdir disk
truncate -s 1G image
mkfs.ext4 -q image || missing "no ext4 file system here"
looped image
undo "! mountpoint --quiet disk || umount disk"

# part NAME ARGUMENT...: a run of the test.
part() {
    echo "# $1"
    shift
    run timeout --foreground --kill-after=5 $limit "$programs/crash" "$device" disk "$@" 2>log || {
        echo "check-crash: failed; the last that its programs said:"
        tail -n 3 log
        exit 1
    }
}

part "what is durable outlives a crash" "$wal" "$crashes"
part "the unsafe variant loses records, and that is found" "$programs/unsafe" "$crashes" loses
echo "check-crash: passed"
