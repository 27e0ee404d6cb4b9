# TAP on stdout, from a test script that sources this: `ok`, `report` or `skip` for each test, and `plan` at
# the end. A script that ends before has told no plan: prove takes it as failed, whatever its exit status.
# shellcheck shell=sh
tests=0
failed=0

# ok STATUS NAME [FILE]...: a test, passed where STATUS is 0; if not, what is known of it is shown.
ok() {
    tests=$((tests + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $tests - $2"
    else
        failed=$((failed + 1))
        echo "not ok $tests - $2"
        shift 2
        explain "$@" | sed 's/^/# /'
    fi
}

# What is known of a failure: the files. A script that has it elsewhere defines its own, after sourcing this.
explain() { cat /dev/null "$@"; }

# report NAME FILE: a test, passed where the file of what is wrong is empty.
report() {
    [ ! -s "$2" ]
    ok $? "$1" "$2"
}

# skip NAME REASON
skip() {
    tests=$((tests + 1))
    echo "ok $tests - $1 # SKIP $2"
}

# plan [NUMBER]: the last command of a script: how many tests there were, or should have been, and the exit
# status.
plan() {
    echo "1..${1:-$tests}"
    exit $((failed > 0))
}
