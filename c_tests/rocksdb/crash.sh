#!/bin/sh
# Promise: what RocksDB was told is written outlives the death of its process, and a crash of the machine.
# TAP on stdout. The second needs root and a loop device: an ext4 file system in a file, made, mounted and
# removed again, also after a failure or a signal.
#
#    crash.sh DIRECTORY-OF-PROGRAMS
#
# ROUNDS: times that the process is killed, over the three drivers; SEED repeats a run. IOE_TEST_DISK is a
# directory on a disk.
# shellcheck source=c_tests/machine.sh
. "$(dirname "$0")/../machine.sh"
# shellcheck source=c_tests/tap.sh
. "$(dirname "$0")/../tap.sh"
programs=$(realpath "$1")
: "${ROUNDS:=50}"
# Of the machine: each mounts a file system.
machine_rounds=$(((ROUNDS + 1) / 2))
limit=600

work_in "${IOE_TEST_DISK:-$programs}/crash"

# result STATUS NAME: what the program said is in ./log.
result() {
    ok "$1" "$2"
    sed 's/^[^#]/# &/' log
}

missing() {
    echo "$*" >log
    result 1 "crashes of the machine"
}

# part NAME ARGUMENT...: a run of the test.
part() {
    name=$1
    shift
    run timeout --foreground --kill-after=5 $limit "$programs/crash" "$@" >log 2>&1
    result $? "$name"
}

# share ROUNDS WHICH: of so many rounds those of driver 0, 1 or 2.
share() { echo $((($1 + 2 - $2) / 3)); }

number=0
for uri in "ioe://?driver=uring" "ioe://?driver=aio&direct=1&depth=8" \
    "ioe://?driver=pool&workers=2&merge_limit=0"; do
    mkdir files
    part "$uri: killed" "$uri" files "$(share "$ROUNDS" $number)"
    rm -rf files
    number=$((number + 1))
done
mkdir files
part "writes that are acknowledged too early are found" posix files 100 early
rm -rf files

truncate -s 256M image
if [ "$(id -u)" != 0 ]; then
    missing "needs root"
elif looped image; then
    mkdir disk
    undo "! mountpoint --quiet disk || umount disk"
    number=0
    for uri in "ioe://?driver=uring&direct=1" "ioe://?driver=aio&workers=1" "ioe://?driver=pool"; do
        mkfs.ext4 -q "$device"
        part "$uri: crashes of the machine" "$uri" disk "$(share "$machine_rounds" $number)" safe "$device"
        # What a failure leaves.
        ! mountpoint --quiet disk || umount disk
        number=$((number + 1))
    done
    mkfs.ext4 -q "$device"
    part "writes that are not synced are found" posix disk 100 unsynced "$device"
fi
plan
