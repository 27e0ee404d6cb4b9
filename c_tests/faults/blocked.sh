#!/bin/sh
# Promise: where interfaces are forbidden or limits are low, the library starts all the same, says
# which driver runs and why each other was passed over, and every test passes. A driver asked for by
# name fails with the errno of what is forbidden. Needs no root. TAP on stdout.
#
#    blocked.sh DIRECTORY-OF-PROGRAMS DIRECTORY-OF-EXAMPLES DIRECTORY-ON-A-DISK
#               [QUICK-TEST]... [-- [OTHER-TEST]...]
#
# The quick tests run with every denial, the others once with each driver that can be left. Without
# "--", the quick ones run like the others.
set -u
LC_ALL=C
export LC_ALL
# shellcheck source=c_tests/tap.sh
. "$(dirname "$0")/../tap.sh"
unset IOE_DRIVER
programs=$1
examples=$2
disk=$3
shift 3
work=$(mktemp -d "$disk/blocked-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# How long one program may take, and what divides its long counts.
limit=300
: "${IOE_TEST_SCALE:=20}"
export IOE_TEST_SCALE
export IOE_TEST_DISK="$disk"

# What the program had printed.
explain() { grep -v "^ok" "$work/out" | tail -n 40; }

# denied ARGUMENTS-OF-DENY -- PROGRAM ARGUMENTS: what it printed is in the file out.
denied() { timeout --kill-after=5 $limit "$programs/deny" "$@" >"$work/out" 2>&1 </dev/null; }

says() { grep -qE "$1" "$work/out"; }

head -c 3000007 /dev/urandom >"$work/source"

# copies ARGUMENTS-OF-DENY -- ARGUMENTS-OF-COPY
copies() {
    rm -f "$work/copy"
    arguments=
    while [ "$1" != -- ]; do
        arguments="$arguments $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # they are words
    denied $arguments -- "$examples/copy" "$@" "$work/source" "$work/copy" &&
        cmp -s "$work/source" "$work/copy"
}

# What this machine has when nothing is denied.
works() { copies -- --driver "$1"; }
have_uring=no
have_aio=no
works uring && have_uring=yes
works aio && have_aio=yes
echo "# io_uring here: $have_uring; Linux AIO here: $have_aio"

# A test program passes, or says that all is skipped.
passes() {
    name=$1
    program=$2
    shift 2
    # shellcheck disable=SC2086
    denied "$@" -- "$program"
    ok $? "$name: $(basename "$program")"
}

# Whether the info, as which printed it, has a line like this.
told() { grep -qE "$1" "$work/told"; }

# all_of NAME DENIALS DRIVER URING-ERRNO AIO-ERRNO [TEST]...: the driver that AUTO must take, and what
# the info must say ("success": not passed over).
all_of() {
    name=$1 denials=$2 driver=$3 uring=$4 aio=$5
    shift 5
    # The denials are words.
    # shellcheck disable=SC2086
    if { [ "$uring" = success ] && [ $have_uring = no ]; } ||
        { [ "$driver" = aio ] && [ $have_aio = no ]; }; then
        skip "$name: the info names driver and reason" "the driver is not here anyway"
    else
        denied $denials -- "$programs/which"
        answer=$?
        cp "$work/out" "$work/told"
        [ $answer -eq 0 ] && told "^driver $driver$" && told "^uring_errno $uring" &&
            told "^aio_errno $aio" && told "^writes fine" && told "^log 3 .*$driver"
        ok $? "$name: the info says $driver, uring $uring, aio $aio"
        for other in uring aio; do
            [ $other = uring ] && errno=$uring || errno=$aio
            [ "$errno" = success ] && continue
            # In the reason, and as a warning of its own.
            told "^reason .*$other: [a-z]" && told "^log 2 $other: [a-z]"
            ok $? "$name: a sentence says why $other is passed over"
            copies $denials -- --driver $other
            [ $? -eq 1 ] && says "$other: this I/O driver cannot be used.*: $errno"
            ok $? "$name: $other by its name fails with $errno"
        done
    fi
    # shellcheck disable=SC2086
    copies $denials --
    ok $? "$name: copy"
    # shellcheck disable=SC2086
    IOE_DRIVER=pool copies $denials -- && says "[(]pool,"
    ok $? "$name: copy with IOE_DRIVER=pool"
    for test in "$@"; do
        # shellcheck disable=SC2086
        passes "$name" "$test" $denials
    done
}

# Whether there is a "--", and what stands before it.
has_others=no
quick=
for test in "$@"; do
    [ "$test" != -- ] || { has_others=yes && break; }
    quick="$quick $test"
done
others=
past=no
for test in "$@"; do
    [ $past = no ] || others="$others $test"
    [ "$test" != -- ] || past=yes
done

# Three states of the engine: without uring, without both, with uring alone.
# shellcheck disable=SC2086
{
    all_of "no io_uring_enter" io_uring_enter=EPERM aio EPERM success $quick $others
    all_of "neither" "io_uring_setup=EPERM io_setup=EPERM" pool EPERM EPERM $quick $others
    [ $has_others = yes ] || quick=
    all_of "no io_setup" io_setup=EPERM uring success success $quick $others
    # The same with other errnos.
    all_of "no io_uring_setup" io_uring_setup=EPERM aio EPERM success $quick
    all_of "no io_uring_setup, hidden" io_uring_setup=ENOSYS aio ENOSYS success $quick
    all_of "neither, hidden" "io_uring_setup=ENOSYS io_setup=ENOSYS" pool ENOSYS ENOSYS $quick
    all_of "rings too large for the limit" io_uring_setup=ENOMEM aio ENOMEM success $quick
    all_of "fs.aio-max-nr used up" "io_uring_setup=EPERM io_setup=EAGAIN" pool EPERM EAGAIN $quick
    all_of "no io_submit" "io_uring_enter=ENOSYS io_submit=EPERM" pool ENOSYS EPERM $quick
}

# ---- little locked memory: a ring counts against the limit, except that of a privileged user
denied --memlock 0 -- "$programs/which" && says "^writes fine" &&
    { says "^uring_errno success" || says "^reason .*RLIMIT_MEMLOCK"; }
ok $? "RLIMIT_MEMLOCK 0: uring runs, or the reason names the limit"
copies --memlock 0 --
ok $? "RLIMIT_MEMLOCK 0: copy"
denied --memlock 65536 -- "$programs/which" 4096 && says "^writes fine" &&
    { says "^depth 4096$" || { says "^depth (2048|1024|512|256|128|64|32|16)$" &&
        says "^driver uring" && says "^uring_errno success" && says "^reason .*RLIMIT_MEMLOCK"; }; }
ok $? "RLIMIT_MEMLOCK 64 KiB: a ring of depth 4096, or a smaller one with the reason"
for test in $quick; do
    passes "RLIMIT_MEMLOCK 0" "$test" --memlock 0
done

# ---- descriptors: what is just enough with the pool, which has none of its own, is enough

# lowest COMMAND: the lowest --nofile at which it works, in $low; searched by halves.
lowest() {
    low=1024
    "$@" || return 1
    high=$low
    fails=3
    while [ $((high - fails)) -gt 1 ]; do
        low=$(((high + fails) / 2))
        if "$@"; then high=$low; else fails=$low; fi
    done
    low=$high
}

copy_with_pool() { copies --nofile $low -- --driver pool; }
lowest copy_with_pool
ok $? "RLIMIT_NOFILE $low: the lowest at which copy works with the pool"
copies --nofile $low --
ok $? "RLIMIT_NOFILE $low: copy"
# Anyone passed over is passed over for want of descriptors, and the sentence says what to raise.
! says "copy: note:" || says "EMFILE|RLIMIT_NOFILE"
ok $? "RLIMIT_NOFILE $low: copy names the limit where it passes a driver over"
writes_with_pool() { IOE_DRIVER=pool denied --nofile $low -- "$programs/which" && says "^writes fine"; }
lowest writes_with_pool
denied --nofile $low -- "$programs/which" && says "^writes fine" &&
    { says "^uring_errno success" || { says "^uring_errno EMFILE" && says "^reason .*RLIMIT_NOFILE"; }; }
ok $? "RLIMIT_NOFILE $low: the info names the limit"
# (A test asserts that all its contexts have one driver. These have, with so few descriptors: never
# enough for a ring.)
for test in $quick; do
    test_with_pool() { IOE_DRIVER=pool denied --nofile $low -- "$test"; }
    if lowest test_with_pool; then
        passes "RLIMIT_NOFILE $low" "$test" --nofile $low
    else
        ok 1 "RLIMIT_NOFILE $low: $(basename "$test") with the pool"
    fi
done

plan
