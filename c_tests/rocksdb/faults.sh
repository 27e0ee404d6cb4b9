#!/bin/sh
# Runs faults.cc and stuck.cc on file systems and devices that it makes, mounts and removes again, also after
# a failure or a signal. TAP on stdout. Needs root, loop devices and FUSE.
#
#    faults.sh DIRECTORY-OF-PROGRAMS
#
# IOE_TEST_DISK is a directory on a disk.
# shellcheck source=c_tests/machine.sh
. "$(dirname "$0")/../machine.sh"
programs=$(realpath "$1")
limit=600
# Without what the kernel would write to it later.
ext4="mkfs.ext4 -q -m 0 -E lazy_itable_init=0,lazy_journal_init=0"

missing() {
    echo "Bail out! $*"
    exit 1
}
[ "$(id -u)" = 0 ] || missing "needs root, for mounts"

work_in "${IOE_TEST_DISK:-$programs}/faults"
# In memory: what is tested is not the speed of a disk.
mounted bad.files tmpfs 600M
mkdir bad
fused bad "$programs/faultfs" bad.faults -f bad.files bad
truncate -s 128M bad.files/image
looped bad/image --direct-io=on
# Only what touches a bad block fails.
unmerged
mounted device "$ext4" "$device"
truncate -s 40M full.image
looped full.image
mounted full "$ext4" "$device"

# on_drivers PROGRAM ARGUMENT...
on_drivers() {
    run timeout --foreground --kill-after=5 $limit "$@" \
        "ioe://?driver=uring" "ioe://?driver=aio" "ioe://?driver=pool"
}

on_drivers "$programs/faults" bad bad.faults device full >faults.tap 2>&1
first=$?
on_drivers "$programs/stuck" bad bad.faults >stuck.tap 2>&1
second=$?
# One plan for both.
cat faults.tap stuck.tap | awk '
    /^1\.\./ { next }
    /^(not )?ok / { sub(/ok [0-9]+/, "ok " ++count) }
    { print }
    END { print "1.." count }'
[ $first -eq 0 ] && [ $second -eq 0 ]
