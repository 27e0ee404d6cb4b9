#!/bin/sh
# The crash test: what wal.c tells durable is there after a crash, and the same test finds what its
# unsafe variant loses. On an ext4 file system in a file, made, mounted and removed again, also after a
# failure or a signal. Needs root and a loop device.
#
#    crash.sh DIRECTORY-OF-PROGRAMS WAL CRASHES
set -u
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
programs=$(realpath "$1")
wal=$(realpath "$2")
crashes=$3
limit=1200

[ "$(id -u)" = 0 ] || {
    echo "check-crash: needs root, for a loop device and mounts" >&2
    exit 1
}

work=$(mktemp -d "$programs/run-XXXXXX") && cd "$work" || exit 1
child=
device=
finish() {
    status=$?
    trap '' HUP INT TERM
    # timeout ends what it runs; what that had started may keep the file system busy for a moment.
    [ -z "$child" ] || { kill -KILL "-$child" && wait "$child"; } 2>/dev/null
    ! mountpoint --quiet disk || umount disk || { sleep 1 && umount disk; }
    [ -z "$device" ] || losetup --detach "$device"
    cd / && rm -rf --one-file-system "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

mkdir disk
truncate -s 1G image
mkfs.ext4 -q image && device=$(losetup --find --show image) || {
    echo "check-crash: no ext4 file system on a loop device here" >&2
    exit 1
}

# part NAME ARGUMENT...: a run of the test, as a group, so that a signal need not wait for it.
part() {
    echo "# $1"
    shift
    setsid timeout --foreground --kill-after=5 $limit "$programs/crash" "$device" disk "$@" 2>log &
    child=$!
    wait $child
    status=$?
    child=
    [ $status -eq 0 ] || {
        echo "check-crash: failed; the last that its programs said:"
        tail -n 3 log
        exit 1
    }
}

part "what is durable outlives a crash" "$wal" "$crashes"
part "the unsafe variant loses records, and that is found" "$programs/unsafe" "$crashes" loses
echo "check-crash: passed"
