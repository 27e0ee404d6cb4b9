#!/bin/sh
# check.sh: the programs a user would copy do what their first lines say, also when they fail.
# TAP on stdout. Run as: prove examples_c/check.sh :: DIRECTORY
# The built programs are taken from $1, else $EXAMPLES, else target/examples.
set -u
LC_ALL=C
export LC_ALL
# shellcheck source=c_tests/tap.sh
. "$(dirname "$0")/../c_tests/tap.sh"
bin=$(cd "${1:-${EXAMPLES:-target/examples}}" && pwd) || {
    echo "Bail out! the examples are not built"
    exit 1
}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
cd "$dir" || exit 1

# What the program had printed.
explain() { cat out err 2>/dev/null; }

# run PROGRAM ARGS: its exit status in $status, what it printed in the files out and err.
run() {
    program=$1
    shift
    timeout 60 "$bin/$program" "$@" >out 2>err </dev/null
    status=$?
}

# refused NAME STATUS PATTERN: the last run ended with STATUS and said PATTERN on stderr.
refused() {
    [ "$status" -eq "$2" ] && grep -q -- "$3" err && [ ! -s out ]
    ok $? "$1"
}

same() { [ "$status" -eq 0 ] && cmp -s "$1" "$2"; }

block() { head -c "$1" /dev/urandom >"$2"; }

sizes="0 1 4095 4096 $((1024 * 1024 + 7))"
for size in $sizes; do block "$size" "in.$size"; done
big=$dir/in.$((1024 * 1024 + 7))

# ---- quickstart
run quickstart new.dat
[ "$status" -eq 0 ] && grep -q "read back" out && [ -s new.dat ]
ok $? "quickstart writes, reads back and compares"
run quickstart no/such/file
refused "quickstart names the errno of a file it cannot open" 1 "ENOENT"

run cpp/quickstart new.dat
[ "$status" -eq 0 ] && grep -q "read back" out && [ -s new.dat ]
ok $? "quickstart.cc writes, reads back and compares"
run cpp/quickstart no/such/file
refused "quickstart.cc names the errno of a file it cannot open" 1 "ENOENT"

# ---- coroutine_copy
block 20000001 long
for source in "$big" in.0 in.1 long; do
    block 30 to
    run cpp/coroutine_copy "$source" to
    same "$source" to && [ ! -s err ] &&
        [ "$(cat out)" = "copied and compared $(stat -c %s "$source") bytes" ]
    ok $? "coroutine_copy of $(stat -c %s "$source") bytes"
done
(
    ulimit -f 1024
    exec timeout 60 "$bin/cpp/coroutine_copy" long to
) >out 2>err </dev/null
status=$?
refused "coroutine_copy tells what a coroutine threw" 1 "write: File too large"
cp in.1 to
run cpp/coroutine_copy to ./to
[ "$status" -eq 1 ] && grep -q "same file" err && cmp -s in.1 to
ok $? "coroutine_copy refuses to copy a file onto itself"
run cpp/coroutine_copy missing to
refused "coroutine_copy names the file that is missing" 1 "missing: No such file"
run cpp/coroutine_copy long
refused "coroutine_copy with one file shows its usage" 2 "usage:"
rm -f long to

# ---- event_loop
for size in $sizes; do
    run event_loop "in.$size"
    sum=$(sum -s <"in.$size" | cut -d' ' -f1)
    [ "$status" -eq 0 ] && [ "$(cat out)" = "$size bytes, checksum $sum" ]
    ok $? "event_loop counts $size bytes as sum -s does"
done
block 20000001 large
run event_loop large
sum=$(sum -s <large | cut -d' ' -f1)
[ "$status" -eq 0 ] && [ "$(cat out)" = "20000001 bytes, checksum $sum" ]
ok $? "event_loop counts more blocks than it holds"
run event_loop missing
refused "event_loop names the errno of a missing file" 1 "missing: ENOENT"
run event_loop .
refused "event_loop refuses a directory" 1 "only regular files"
run event_loop
refused "event_loop without a file shows its usage" 2 "usage:"

# ---- wal
# recovers NAME FILE: the log has these lines, in order.
recovers() {
    run wal recover new.log
    [ "$status" -eq 0 ] && cmp -s out "$2"
    ok $? "$1"
}
run wal append new.log 4 500
sort -n out >lines
[ "$status" -eq 0 ] && [ "$(wc -l <lines)" -eq 2000 ]
ok $? "wal tells every record durable"
recovers "wal recovers what it told durable" lines
run wal append new.log 1 3
cat out >>lines
tail -n 1 lines | grep -q "^2003 epoch 2 thread 0 record 3,"
ok $? "wal continues a log"
recovers "wal recovers a log that was continued" lines
cp new.log whole.log
truncate -s -1 new.log
sed '$d' lines >fewer
recovers "wal recovers a torn log up to the torn record" fewer
cp whole.log new.log
# A record is 104 to 203 bytes long: this one is the last but one, or the one before.
printf X | dd of=new.log bs=1 seek=$(($(stat -c %s new.log) - 300)) conv=notrunc 2>dd.err
run wal recover new.log
[ "$status" -eq 0 ] && [ "$(wc -l <out)" -lt 2003 ] && [ "$(wc -l <out)" -ge 2000 ] &&
    head -n "$(wc -l <out)" lines | cmp -s - out
ok $? "wal believes nothing behind a damaged record"
run wal reset new.log 1000000
[ "$status" -eq 0 ] && [ "$(stat -c %s new.log)" -ge 1000000 ]
ok $? "wal resets a log, with room for more"
: >none
recovers "wal does not believe the records of before a reset" none
run wal append new.log 1 3
cp out lines
recovers "wal writes over the records of before a reset" lines
rm -f new.log
# It is killed by the pipe, with whatever it has in flight.
timeout 60 "$bin/wal" append new.log 8 1000000 2>err </dev/null | head -n 1000 | sort -n >lines
run wal recover new.log
[ "$status" -eq 0 ] && sort lines >told && sort out >found && [ "$(wc -l <told)" -eq 1000 ] &&
    [ "$(comm -23 told found | wc -l)" -eq 0 ]
ok $? "wal recovers what it told durable before it was killed"
run wal append no/such/file 1 1
refused "wal names the errno of a file it cannot open" 1 "ENOENT"
run wal recover missing.log
refused "wal does not make a log to recover" 1 "ENOENT"
block 10000 other
cp other other.before
run wal append other 1 1
[ "$status" -eq 1 ] && grep -q "other: EBADMSG" err && cmp -s other other.before
ok $? "wal leaves a file alone that is no log"
run wal
refused "wal without a file shows its usage" 2 "usage:"
run wal append new.log 1
refused "wal without a number of records shows its usage" 2 "usage:"
run wal append new.log 1 none
refused "wal refuses a number of records that is none" 2 "usage:"
run wal append new.log 1 1 70000
refused "wal refuses records that are too long" 2 "usage:"

# ---- copy: sizes, depths, blocks
for size in $sizes; do
    for depth in 1 7 64; do
        for block in 4k 3000 1m; do
            rm -f to
            run copy --depth "$depth" --block "$block" "in.$size" to
            same "in.$size" to
            ok $? "copy of $size bytes, depth $depth, block $block"
        done
    done
done

block 1 probe
run copy --direct probe probe.to
if grep -q "does not do O_DIRECT" err; then
    skip "copy --direct" "the file system of $dir does not do O_DIRECT"
else
    for size in $sizes; do
        for depth in 1 64; do
            rm -f to
            run copy --direct --depth "$depth" --block 64k "in.$size" to
            same "in.$size" to
            ok $? "copy --direct of $size bytes, depth $depth"
        done
    done
    block $((1024 * 1024)) aligned
    run copy --direct --block 4k aligned to
    same aligned to
    ok $? "copy --direct of whole blocks only"
fi

# ---- copy: drivers
for driver in auto uring aio pool; do
    rm -f to
    run copy --driver "$driver" "$big" to
    if [ "$status" -eq 1 ] && grep -q "$driver: this I/O driver cannot be used.*: E" err; then
        [ ! -e to ]
        ok $? "copy --driver $driver says that it cannot be used here"
    else
        same "$big" to && { [ "$driver" = auto ] || grep -q "($driver," out; }
        ok $? "copy --driver $driver"
    fi
done

# ---- copy: what it prints, and the mode
rm -f to
run copy "$big" to
[ "$status" -eq 0 ] && [ ! -s err ] &&
    grep -q "^copied 1048583 bytes, synced, compared: .*MB/s (.* operations, .* system calls)$" out
ok $? "copy closes with one line"
run copy --no-check "$big" to
same "$big" to && ! grep -q compared out
ok $? "copy --no-check claims no comparison"
run copy --quiet "$big" to
same "$big" to && [ ! -s out ] && [ ! -s err ]
ok $? "copy --quiet prints nothing"
run copy --help
[ "$status" -eq 0 ] && grep -q "^usage:" out && [ ! -s err ]
ok $? "copy --help"
for mode in 640 444 755; do
    rm -f to
    chmod "$mode" in.1
    run copy in.1 to
    same in.1 to && [ "$(stat -c %a to)" = "$mode" ]
    ok $? "copy preserves mode $mode"
done
chmod 644 in.1
block 5000000 to
run copy "$big" to
same "$big" to
ok $? "copy over a longer file leaves nothing of it"
ln -sf to link
block 10 to
run copy "$big" link
same "$big" to && [ -L link ]
ok $? "copy through a symbolic link writes the file it names"
mkdir sub
run copy "$big" sub/to
same "$big" sub/to
ok $? "copy into another directory"

# ---- copy: what it refuses
block 100 kept
cp kept kept.before
ln kept hard
ln -s kept soft
for other in kept ./kept hard soft; do
    run copy kept "$other"
    [ "$status" -eq 1 ] && grep -q "same file" err && cmp -s kept kept.before
    ok $? "copy refuses to copy a file onto itself ($other)"
done
run copy missing kept
[ "$status" -eq 1 ] && grep -q "missing: .*ENOENT" err && cmp -s kept kept.before
ok $? "copy of a missing source leaves the target alone"
run copy kept sub
refused "copy refuses a directory as target" 1 "sub: .*EISDIR.*directory"
run copy sub to
refused "copy refuses a directory as source" 1 "sub: is a directory"
run copy kept no/such/place
refused "copy says that the target's directory is missing" 1 "no/such/place: .*ENOENT"
mkfifo pipe
run copy pipe to
refused "copy refuses a pipe as source, without waiting for it" 1 "pipe: .*only regular files"
run copy kept pipe
refused "copy refuses a pipe as target, without waiting for it" 1 "pipe: .*not a regular file"
run copy kept /dev/null
refused "copy refuses a device as target" 1 "not a regular file"
if [ -r /proc/version ]; then
    run copy /proc/version kept
    [ "$status" -eq 1 ] && grep -q "more than the size" err && cmp -s kept kept.before
    ok $? "copy refuses a source that hides its size"
else
    skip "copy refuses a source that hides its size" "no /proc"
fi
mkdir locked
chmod 555 locked
if touch locked/probe 2>/dev/null; then
    skip "copy into a directory that may not be written" "permissions do not bind this user"
else
    run copy kept locked/to
    refused "copy into a directory that may not be written" 1 "locked/to: .*EACCES"
fi

# ---- copy: no half copy stays
# limited ARGS: copy where no file may grow beyond half a mebibyte.
limited() {
    (
        ulimit -f 1024
        exec timeout 60 "$bin/copy" "$@"
    ) >out 2>err </dev/null
    status=$?
}
rm -f to
limited "$big" to
[ "$status" -eq 1 ] && grep -q "to: .*EFBIG" err && [ ! -e to ] && [ ! -s out ]
ok $? "copy removes a new target that could not be made whole"
block 10 to
limited "$big" to
[ "$status" -eq 1 ] && grep -q "to: emptied" err && [ -e to ] && [ ! -s to ] && [ ! -s out ]
ok $? "copy empties an old target that could not be made whole"

mkdir full
cat >full.sh <<'EOF'
mount -t tmpfs -o size=512k tmpfs full || exit 77
"$1" "$2" full/to
status=$?
[ -e full/to ] && echo "left over" >&2
exit $status
EOF
timeout 60 unshare --mount sh full.sh "$bin/copy" "$big" >out 2>err </dev/null
status=$?
if grep -q "^copy:" err; then
    [ "$status" -eq 1 ] && grep -q "full/to: .*ENOSPC.*free some space" err &&
        grep -q "removed" err && ! grep -q "left over" err
    ok $? "copy to a full file system says so and leaves nothing"
else
    skip "copy to a full file system" "cannot mount one here"
fi

# ---- copy: wrong command lines
wrong() {
    name=$1
    shift
    run copy "$@"
    refused "copy: $name" 2 "copy --help"
}
wrong "no arguments"
wrong "one argument" kept
wrong "three arguments" kept to more
wrong "unknown option" --bogus kept to
wrong "depth 0" --depth 0 kept to
wrong "depth with a sign" --depth -1 kept to
wrong "depth with a word" --depth many kept to
wrong "block 0" --block 0 kept to
wrong "block with an unknown unit" --block 4x kept to
wrong "block with two units" --block 4kk kept to
wrong "block that overflows" --block 99999999999999999999g kept to
wrong "block beyond the limit" --block 2g kept to
wrong "depth times block beyond the limit" --depth 4096 --block 1g kept to
wrong "unknown driver" --driver floppy kept to
wrong "unaligned block with --direct" --direct --block 3000 kept to

plan
