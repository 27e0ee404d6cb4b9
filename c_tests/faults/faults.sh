#!/bin/sh
# Runs the tests that meet faults from outside, on file systems and devices that it makes, mounts and
# removes again, also after a failure or a signal. Needs root, loop devices and FUSE. What cannot run
# here is named, and counts as a failure, as does a test that is skipped.
#
#    faults.sh DIRECTORY-OF-PROGRAMS DIFFERENTIAL-TEST F_STALLED-WITH-ASAN
# shellcheck source=c_tests/machine.sh
. "$(dirname "$0")/../machine.sh"
here=$(realpath "$(dirname "$0")")
programs=$(realpath "$1")
differential=$(realpath "$2")
stalled_asan=$(realpath "$3")
# Histories per file system, each on all drivers and deliveries.
: "${IOE_TEST_ROUNDS:=16}"
limit=600
direct=--direct-io=on

[ "$(id -u)" = 0 ] || {
    echo "check-faults: needs root, for loop devices and mounts" >&2
    exit 1
}

work_in "$programs/run"

failures=0
missing() {
    echo "not ok: $*"
    failures=$((failures + 1))
}

# part NAME [VARIABLE=VALUE]... PROGRAM [ARGUMENT]...: one test program, which must skip nothing.
part() {
    echo "# $1"
    shift
    settings=
    while [ "${1#*=}" != "$1" ]; do
        settings="$settings $1"
        shift
    done
    program=$1
    shift
    # The settings are our own words, without blanks.
    # shellcheck disable=SC2086
    if run env IOE_TEST_NO_SKIP=1 $settings prove --verbose --timer \
        --exec "timeout --foreground --kill-after=5 $limit" "$program" :: "$@" >log 2>&1; then
        grep "SEED\|left out\|answers\|: requests\|^Files=" log
    else
        grep -v "^ok" log
        failures=$((failures + 1))
    fi
    ! grep -q "# SKIP" log || missing "nothing may be skipped here"
}

# mounted_file NAME MAKER SIZE [OPTION-OF-LOSETUP]: as mounted, on the file ./NAME.img.
mounted_file() {
    truncate -s "$3" "$1.img"
    device=$(losetup --find --show ${4:+"$4"} "$1.img" 2>log) || {
        missing "no loop device on $1.img: $(tail -n 1 log)"
        return 1
    }
    mounted "$1" "$2" "$device"
    set -- $?
    # It goes with the mount.
    losetup --detach "$device"
    return "$1"
}

# unmounted NAME: away with it before the end, for the room.
unmounted() {
    umount "$1" && rm -f "$1.img" && sed -i "/^umount $1$/d" undo
}

# ---- the parts

mkdir short.files short
if fused short "$programs/shortfs" -f short.files short; then
    mkdir disk
    part "a FUSE file system that moves less than it is asked" \
        IOE_TEST_FUSE=short IOE_TEST_DISK=disk "$programs/f_short"
    # The eighth page of a merged operation.
    bad=$((1048576 + 7 * 4096 + 512))
    truncate -s 4M "short.files/bad-$bad"
    looped "short/bad-$bad" $direct &&
        part "a bad sector" "IOE_TEST_BAD_FILE=short/bad-$bad" "IOE_TEST_BAD_DEVICE=$device" \
            "IOE_TEST_BAD_AT=$bad" "$programs/f_sector"
    held=held-8388608
    truncate -s 16M short.files/$held
    if looped short/$held $direct; then
        # What is held goes on before the device is taken away.
        undo "rm -f short/$held.hold short/$held.hold-flush"
        held_device=$device
        part "syncs of a device that fails" "IOE_TEST_HELD=short/$held" \
            "IOE_TEST_HELD_DEVICE=$held_device" "$programs/f_sync"
        part "a device that does not answer" "IOE_TEST_HELD=short/$held" \
            "IOE_TEST_HELD_DEVICE=$held_device" "$programs/f_stalled"
        part "a device that does not answer, under AddressSanitizer" "IOE_TEST_HELD=short/$held" \
            "IOE_TEST_HELD_DEVICE=$held_device" ASAN_OPTIONS=detect_leaks=1 "$stalled_asan"
        : >logged
        if fused logged nbdfuse "$PWD/logged" --socket-activation nbdkit --filter=log --filter=delay \
            memory 64M "logfile=$PWD/logged.log" delay-write=2ms; then
            mounted_file flags-ext4 "mkfs.ext4 -q" 64M
            looped logged $direct && unmerged &&
                for program in f_order f_flags; do
                    part "requests as a device sees them: $program" "IOE_TEST_HELD=short/$held" \
                        "IOE_TEST_HELD_DEVICE=$held_device" "IOE_TEST_NBD_DEVICE=$device" \
                        IOE_TEST_NBD_LOG=logged.log IOE_TEST_DISK=flags-ext4 IOE_TEST_FUSE=short \
                        "$programs/$program"
                done
        fi
    fi
fi

truncate -s 16M loop
if looped loop $direct && unmerged; then
    part "requests of a device" "IOE_TEST_LOOP=$device" IOE_TEST_LOOP_FILE=loop "$programs/f_requests"
fi

: >nbd
fused nbd nbdfuse "$PWD/nbd" --socket-activation nbdkit --filter=error --filter=delay memory 64M \
    error-pread=EIO error-pread-rate=100% "error-pread-file=$PWD/bad-reads" \
    error-pwrite=EIO error-pwrite-rate=100% "error-pwrite-file=$PWD/bad-writes" \
    rdelay=5ms wdelay=5ms &&
    looped nbd $direct &&
    part "a slow device with errors" "IOE_TEST_DEVICE=$device" IOE_TEST_BAD_READS=bad-reads \
        IOE_TEST_BAD_WRITES=bad-writes "$programs/f_device"

mounted_file full-ext4 "mkfs.ext4 -q -m 0" 10M &&
    part "no room on ext4" IOE_TEST_FULL=full-ext4 "$programs/f_full"
mounted full-tmpfs tmpfs 8M &&
    part "no room on tmpfs" IOE_TEST_FULL=full-tmpfs IOE_TEST_FULL_TELLS=1 "$programs/f_full"
quota=8388608
if mounted_file quota-btrfs "mkfs.btrfs -q" 256M; then
    { btrfs quota enable quota-btrfs && btrfs subvolume create quota-btrfs/limited &&
        btrfs qgroup limit $quota quota-btrfs/limited; } >log 2>&1 ||
        missing "no quota on btrfs here: $(tail -n 1 log)"
    part "no room by the quota on btrfs" IOE_TEST_FULL=quota-btrfs/limited "IOE_TEST_QUOTA=$quota" \
        "$programs/f_full"
    unmounted quota-btrfs
fi

mkdir -p disk
part "RLIMIT_FSIZE" IOE_TEST_DISK=disk "$programs/f_limit"
part "the drivers are what they say" "$here/calls.sh" "$programs" disk

long() {
    for merge in 0 131072; do
        part "random histories on $1, merge_limit $merge" IOE_TEST_DISK="$1" \
            "IOE_TEST_ROUNDS=$IOE_TEST_ROUNDS" IOE_TEST_MERGE=$merge "$differential"
    done
}
mounted_file ext4 "mkfs.ext4 -q" 512M && long ext4 && unmounted ext4
mounted_file xfs "mkfs.xfs -q" 512M && long xfs && unmounted xfs
mounted_file btrfs "mkfs.btrfs -q" 512M && long btrfs && unmounted btrfs
mounted_file xfs-4096 "mkfs.xfs -q" 512M --sector-size=4096 && long xfs-4096 && unmounted xfs-4096
mounted tmpfs tmpfs 512M && long tmpfs && unmounted tmpfs

if [ $failures -gt 0 ]; then
    echo "check-faults: $failures of the above failed"
    exit 1
fi
echo "check-faults: all passed, nothing skipped"
