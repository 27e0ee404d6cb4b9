#!/bin/sh
# Promise: every error the header documents for a call is tested. The header lists them in the
# comment above each function:
#
#    * - `-EINVAL`: the cause
#    * - `-EBUSY`, `-EPERM`: the cause of both
#
# One counts as tested where a C test has both the call and the error in its code: a test being a
# function together with the functions of its file that it names, callbacks for instance. That says
# nothing about the quality of the test; it finds what nobody has thought of. TAP on stdout.
cd "$(dirname "$0")/.." || exit 1
. c_tests/tap.sh

# What no test can bring about at will, with the reason.
exempt() {
    case "$1 $2" in
    # They do not wait for room, so nobody is still to be taken when ioe_context_free begins; a call that
    # begins later is an error of the caller, and inside a callback the answer is -EDEADLK.
    "ioe_submit_wait ESHUTDOWN" | "ioe_submit_wait_batch ESHUTDOWN") return 0 ;;
    *) return 1 ;;
    esac
}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# "call error" for each line of the tables.
awk '
    /^ *\/\*\*/ { n = 0 }
    /^ *\* - `-E[A-Z0-9]+`/ {
        line = $0
        sub(/`:.*/, "", line)
        while (match(line, /-E[A-Z0-9]+/)) {
            errors[++n] = substr(line, RSTART + 1, RLENGTH - 1)
            line = substr(line, RSTART + RLENGTH)
        }
    }
    /^[a-z].*ioe_[a-z0-9_]+\(/ {
        match($0, /ioe_[a-z0-9_]+\(/)
        call = substr($0, RSTART, RLENGTH - 1)
        for (i = 1; i <= n; i++)
            print call, errors[i]
        n = 0
    }
' include/io_engine.h | sort -u >"$work/documented"

# "call error" for each pair that a test has. Each function is read into has["call" or "error"] and
# names; what it names is added until nothing new comes.
awk '
    function end_of_file(    grown, i, j, f, g) {
        do {
            grown = 0
            for (i = 1; i <= functions; i++)
                for (j = 1; j <= functions; j++)
                    if (index(words[i], " " name[j] " ") && name[i] != "main")
                        grown += adopt(calls, i, j) + adopt(errors, i, j)
        } while (grown)
        for (i = 1; i <= functions; i++)
            pairs(calls[i], errors[i])
        functions = 0
    }
    # Adds to set[i] what set[j] has more.
    function adopt(set, i, j,    part, n, k, new) {
        new = 0
        n = split(set[j], part, " ")
        for (k = 1; k <= n; k++)
            if (!index(set[i], " " part[k] " ")) {
                set[i] = set[i] part[k] " "
                new++
            }
        return new
    }
    function pairs(some, others,    call, error, n, m, i, j) {
        n = split(some, call, " ")
        m = split(others, error, " ")
        for (i = 1; i <= n; i++)
            for (j = 1; j <= m; j++)
                print call[i], error[j]
    }
    FNR == 1 { end_of_file(); inside = 0 }
    /^ *(\/\*|\*)/ { next }
    # A definition begins in the first column and is no prototype, macro or variable.
    !inside && /^[a-z].*[a-z0-9_]+\(/ && !/;$/ {
        inside = 1
        f = ++functions
        match($0, /[a-zA-Z0-9_]+\(/)
        name[f] = substr($0, RSTART, RLENGTH - 1)
        words[f] = calls[f] = errors[f] = " "
    }
    inside {
        line = $0
        while (match(line, /-?[a-zA-Z_][a-zA-Z0-9_]*\(?/)) {
            word = substr(line, RSTART, RLENGTH)
            line = substr(line, RSTART + RLENGTH)
            if (word ~ /^-E[A-Z0-9]+$/)
                errors[f] = errors[f] substr(word, 2) " "
            sub(/^-/, "", word)
            if (word ~ /^ioe_.*\($/)
                calls[f] = calls[f] substr(word, 1, length(word) - 1) " "
            sub(/\($/, "", word)
            if (word != name[f])
                words[f] = words[f] word " "
        }
    }
    /^}/ { inside = 0 }
    END { end_of_file() }
' c_tests/*.c c_tests/*.cc | sort -u >"$work/tested"

[ -s "$work/documented" ] || ok 1 "the header has tables of errors"
while read -r call error; do
    if grep -qx "$call $error" "$work/tested"; then
        ok 0 "$call: $error"
    elif exempt "$call" "$error"; then
        skip "$call: $error" "no test can bring it about at will"
    else
        ok 1 "$call: $error is documented and not tested"
    fi
done <"$work/documented"
plan
