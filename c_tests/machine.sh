# What a test makes on this machine, directories, loop devices, file systems and programs, is gone at its end,
# also after a failure or a signal. To be sourced by a script that has `missing MESSAGE`, which tells what
# cannot be had here. What the commands said is in ./log.
# shellcheck shell=sh
set -u
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
child=

# work_in PREFIX: all names from here on are relative to a fresh directory, PREFIX-XXXXXX.
work_in() {
    work=$(mktemp -d "$1-XXXXXX") && cd "$work" || exit 1
    trap finish EXIT
    trap 'exit 1' HUP INT TERM
}

finish() {
    status=$?
    trap '' HUP INT TERM
    # A test that still runs keeps its file system busy.
    [ -z "$child" ] || { kill -KILL "-$child" && wait "$child"; } 2>/dev/null
    [ ! -e undo ] || tac undo >undo.now
    [ ! -e undo.now ] || while read -r command; do
        # What was killed takes a moment to let go of its files; a FUSE server that held a request, some seconds.
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            eval "$command" 2>/dev/null && continue 2
            sleep 1
        done
        echo "# failed: $command" >&2
        status=1
    done <undo.now
    # Nothing may be left: a mount keeps its directory, a loop device the name of its file.
    cd / && rm -rf --one-file-system "$work" && ! losetup --all | grep -F "$work/" >&2 || status=1
    exit "$status"
}

# What the end undoes, last thing first.
undo() { echo "$*" >>undo; }

# run PROGRAM [ARGUMENT]...: in the background and as a group, so that a signal need not wait for it.
run() {
    setsid "$@" &
    child=$!
    wait "$child"
    set -- $?
    child=
    return "$1"
}

# looped FILE [OPTION-OF-LOSETUP]: a loop device on it, in $device.
looped() {
    if device=$(losetup --find --show ${2:+"$2"} "$1" 2>log); then
        undo "losetup --detach $device"
    else
        missing "no loop device on $1: $(tail -n 1 log)"
        return 1
    fi
}

# unmerged: the kernel does not merge by itself what comes to $device.
unmerged() {
    nomerges=/sys/block/${device#/dev/}/queue/nomerges
    undo "echo $(cat "$nomerges") >$nomerges"
    echo 2 >"$nomerges"
}

# mounted NAME MAKER DEVICE, or NAME tmpfs SIZE: a fresh file system at ./NAME.
mounted() {
    mkdir "$1"
    if [ "$2" = tmpfs ]; then
        mount -t tmpfs -o "size=$3" tmpfs "$1"
    else
        $2 "$3" && mount "$3" "$1"
    fi >log 2>&1 || {
        missing "no $1 here: $(tail -n 1 log)"
        return 1
    }
    undo "umount $1"
}

# fused PATH PROGRAM [ARGUMENT]...: what PROGRAM mounts there, within 10 seconds.
fused() {
    place=$1
    shift
    "$@" >"$place.said" 2>&1 &
    for _ in $(seq 200); do
        if mountpoint --quiet "$place"; then
            # With force: a request may be stuck in there.
            undo "umount --force $place"
            return
        fi
        sleep 0.05
    done
    missing "$place did not appear: $(tail -n 1 "$place.said")"
    return 1
}
