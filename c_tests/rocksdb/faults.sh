#!/bin/sh
# Runs faults.cc and stuck.cc on file systems and devices that it makes, mounts and removes again, also after
# a failure or a signal. TAP on stdout. Needs root, loop devices and FUSE.
#
#    faults.sh DIRECTORY-OF-PROGRAMS
#
# IOE_TEST_DISK is a directory on a disk.
set -u
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
programs=$(realpath "$1")
limit=600

# All names below are relative to this directory.
work=$(mktemp -d "${IOE_TEST_DISK:-$programs}/faults-XXXXXX") && cd "$work" || exit 1
child=
finish() {
    status=$?
    trap '' HUP INT TERM
    # A test that still runs keeps its file system busy.
    [ -z "$child" ] || { kill -KILL "-$child" && wait "$child"; } 2>/dev/null
    [ ! -e undo ] || tac undo >undo.now
    [ ! -e undo.now ] || while read -r command; do
        # What was killed takes a moment to let go of its files.
        eval "$command" 2>/dev/null || { sleep 1 && eval "$command"; } || echo "# failed: $command" >&2
    done <undo.now
    cd / && rm -rf --one-file-system "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# What the end undoes, last thing first.
undo() { echo "$*" >>undo; }

lacking() {
    echo "Bail out! $1: $(tail -n 1 log)"
    exit 1
}

# mounted NAME DEVICE: a fresh ext4 at ./NAME, without what the kernel would write to it later.
mounted() {
    mkdir "$1"
    { mkfs.ext4 -q -m 0 -E lazy_itable_init=0,lazy_journal_init=0 "$2" && mount "$2" "$1"; } >log 2>&1 ||
        lacking "no file system on $2"
    undo "umount $1"
}

# looped FILE [OPTION]: a loop device on it, in $device.
looped() {
    device=$(losetup --find --show ${2:+"$2"} "$1" 2>log) || lacking "no loop device on $1"
    undo "losetup --detach $device"
}

[ "$(id -u)" = 0 ] || {
    echo "run it as root" >log
    lacking "no mounts"
}
mkdir bad.files bad
# In memory: what is tested is not the speed of a disk.
mount -t tmpfs -o size=600M tmpfs bad.files 2>log || lacking "no tmpfs"
undo "umount bad.files"
"$programs/faultfs" -f bad.files bad.faults bad >log 2>&1 &
for _ in $(seq 200); do
    mountpoint --quiet bad && break
    sleep 0.05
done
mountpoint --quiet bad || lacking "no FUSE"
# With force: a read may be stuck in there.
undo "umount --force bad"

truncate -s 128M bad.files/image
looped bad/image --direct-io=on
nomerges=/sys/block/${device#/dev/}/queue/nomerges
undo "echo $(cat "$nomerges") >$nomerges"
# The kernel does not merge by itself: only what touches a bad block fails.
echo 2 >"$nomerges"
mounted device "$device"
truncate -s 40M full.image
looped full.image
mounted full "$device"

# In the background and as a group, so that a signal need not wait for it.
run() {
    setsid timeout --foreground --kill-after=5 $limit "$@" \
        "ioe://?driver=uring" "ioe://?driver=aio" "ioe://?driver=pool" &
    child=$!
    wait $child
    status=$?
    child=
    return $status
}

run "$programs/faults" bad bad.faults device full >faults.tap 2>&1
first=$?
run "$programs/stuck" bad bad.faults >stuck.tap 2>&1
second=$?
# One plan for both.
cat faults.tap stuck.tap | awk '
    /^1\.\./ { next }
    /^(not )?ok / { sub(/ok [0-9]+/, "ok " ++count) }
    { print }
    END { print "1.." count }'
[ $first -eq 0 ] && [ $second -eq 0 ]
