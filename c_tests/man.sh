#!/bin/sh
# Promise: the manual pages say what the header says. Each exported call has a page; a page has all its
# sections, the header's declarations and errors, examples that compile, and no name that does not
# exist; and man(1) has nothing to complain of. What is looked at is what a reader sees: the pages as
# man prints them. TAP on stdout. Arguments: the pages' directory, the header, the library; without
# them, those of `make man` and `make lib`.
cd "$(dirname "$0")/.." || exit 1
. c_tests/tap.sh
pages=${1:-target/man}
header=${2:-include/io_engine.h}
library=${3:-target/lib/libio_engine.so}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir "$work/narrow" "$work/wide"

# shown WIDTH PAGE: as man prints it, in ASCII, each paragraph on a line where the width allows it.
shown() {
    LC_ALL=C MANWIDTH=$1 man -l "$2" 2>&1
}

# ---- which pages there are ----

"${CC:-cc}" -E -P -x c "$header" | grep -o '\(ioe\|IOE\)_[A-Za-z0-9_]*' | sort -u >"$work/names"
sed -n 's/^#define \(IOE_[A-Z_]*\) .*/\1/p' "$header" >>"$work/names"
echo IOE_DRIVER >>"$work/names" # in the environment
sort -u -o "$work/names" "$work/names"

nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u \
    >"$work/calls"
(cd "$pages" && grep -L '^\.so ' man3/*.3 man7/*.7) >"$work/pages"
while read -r page; do
    name=$(basename "${page%.?}")
    shown 9999 "$pages/$page" >"$work/wide/$name"
    shown 80 "$pages/$page" >"$work/narrow/$name"
done <"$work/pages"

# The page that man finds for a call has it in its first section.
[ -s "$work/calls" ] || echo "the library exports nothing" >"$work/missing"
while read -r call; do
    page=$pages/man3/$call.3
    alias=$(sed -n 's/^\.so man3\/\(.*\)\.3$/\1/p' "$page" 2>&1)
    sed -n '/^NAME$/,/^LIBRARY$/p' "$work/wide/${alias:-$call}" 2>&1 |
        grep -q "^ *$call - ." || echo "$call has no page"
done <"$work/calls" >>"$work/missing"
report "every exported call has a page" "$work/missing"

(cd "$pages/man3" && ls) | sed 's/\.3$//' | sort >"$work/files"
comm -13 "$work/names" "$work/files" >"$work/extra"
report "every page is of something that the header declares" "$work/extra"

# ---- what is on them ----

required='NAME LIBRARY SYNOPSIS DESCRIPTION RETURN_VALUE ERRORS NOTES EXAMPLE SEE_ALSO'
overview='NAME LIBRARY SYNOPSIS DESCRIPTION CALLS OWNERSHIP THREADS DELIVERY SHORT_I/O MERGING'
overview="$overview DURABILITY SHUTDOWN FORK SIGNALS ENVIRONMENT EXAMPLE SEE_ALSO"
for page in "$work"/wide/*; do
    expected=$required
    [ "${page##*/}" = io_engine ] && expected=$overview
    awk -v expected="$expected" -v page="${page##*/}" '
        /^[A-Z][A-Z \/]*$/ {
            if (empty)
                print page ": " section " is empty"
            section = $0
            gsub(/ /, "_", section)
            found = found separator section
            separator = " "
            empty = 1
            next
        }
        /^ +[^ ]/ { empty = 0 }
        END {
            if (found != expected)
                print page ": " found
        }
    ' "$page"
done >"$work/sections"
report "each has its sections, in order and with something in them" "$work/sections"

# In C, declarations of one name that differ are an error.
for page in "$work"/wide/ioe_*; do
    sed -n '/^SYNOPSIS$/,/^DESCRIPTION$/p' "$page" | sed '1d;$d'
done >"$work/synopsis.c"
declared=$(grep -c '^ .*ioe_[a-z_]*(' "$work/synopsis.c")
{
    [ "$declared" = "$(wc -l <"$work/calls")" ] || echo "$declared declarations"
    "${CC:-cc}" -std=c11 -Werror -fsyntax-only -I"$(dirname "$header")" "$work/synopsis.c" 2>&1
} >"$work/declarations"
report "the declarations are the header's" "$work/declarations"

# "call names: cause" of each line of the header's lists, and of the pages.
awk '
    /^ *\/\*\*/ { n = 0; open = 0 }
    /^ \* - `-E/ {
        error[++n] = substr($0, 6)
        open = 1
        next
    }
    / \*   / && open { error[n] = error[n] " " substr($0, 6); next }
    { open = 0 }
    /^[a-z].*ioe_[a-z0-9_]+\(/ {
        match($0, /ioe_[a-z0-9_]+\(/)
        for (i = 1; i <= n; i++)
            print substr($0, RSTART, RLENGTH - 1) " " error[i]
        n = 0
    }
' "$header" | sed 's/`//g; s/  */ /g' | sort >"$work/documented"
for page in "$work"/wide/ioe_*; do
    awk '
        /^[A-Z]/ { section = $0; next }
        section == "NAME" && / - / { calls[++count] = $1 }
        section != "ERRORS" { next }
        # Of these calls only.
        /^   ioe_/ {
            count = split($0, calls, /, */)
            for (i = 1; i <= count; i++)
                gsub(/[ ()]/, "", calls[i])
            next
        }
        /^       -E/ {
            match($0, /^ *-E[A-Z0-9]+(, -E[A-Z0-9]+)*/)
            names = substr($0, 8, RLENGTH - 7)
            cause = substr($0, RLENGTH + 1)
            if (cause == "")
                getline cause
            sub(/^ */, "", cause)
            for (i = 1; i <= count; i++)
                print calls[i] " " names ": " cause
        }
    ' "$page"
done | sed 's/\(ioe_[a-z_]*\)([3]*)/\1/g; s/  */ /g' | sort >"$work/printed"
{
    [ -s "$work/documented" ] || echo "the header documents no errors"
    comm -23 "$work/documented" "$work/printed" | sed 's/^/only in the header: /'
    comm -13 "$work/documented" "$work/printed" | sed 's/^/only on the page: /'
} >"$work/errors"
report "the errors are the header's, names and causes" "$work/errors"

grep -ow '\(ioe\|IOE\)_[A-Za-z0-9_]*' -h "$work"/wide/* | sort -u |
    comm -13 "$work/names" - >"$work/unknown"
grep -o 'ioe_[a-z0-9_]*(3)' -h "$work"/wide/* | sed 's/(3)//' | sort -u |
    comm -13 "$work/files" - >>"$work/unknown"
report "no call, type or constant is named that does not exist" "$work/unknown"

# ---- the examples ----

# Code is what is indented further than text. A program is taken as it is; lines of one are put into a
# function that has what they use, and the functions among them before it.
for page in "$work"/wide/*; do
    awk -v out="$work/${page##*/}" '
        /^[A-Z]/ { section = $0 }
        section != "EXAMPLE" { next }
        /^           / {
            if (!inside)
                n++
            inside = 1
            printf "%s%s\n", blank, substr($0, 12) >(out "." n ".lines")
            blank = ""
            next
        }
        /^$/ { blank = inside ? "\n" : ""; next }
        { inside = 0 }
    ' "$page"
done
for lines in "$work"/*.lines; do
    if grep -q '^int main(' "$lines"; then
        cp "$lines" "${lines%.lines}.c"
        continue
    fi
    awk '
        BEGIN {
            print "#define _GNU_SOURCE 1"
            split("errno fcntl inttypes io_engine stdio stdlib string unistd sys/epoll", names, " ")
            for (i in names)
                print "#include <" names[i] ".h>"
        }
        /^static .*\)$/ { outside = 1 }
        outside { print; if ($0 == "}") outside = 0; next }
        { body = body $0 "\n" }
        END {
            split("ioe_context *ctx,ioe_context **contexts,ioe_event *event,ioe_event **events," \
                  "size_t n,ioe_merger *merger,int fd,int epoll,void *buf,size_t len," \
                  "uint64_t offset,uint64_t header,int err", parameters, ",")
            for (i = 1; i in parameters; i++) {
                name = parameters[i]
                sub(/.*[ *]/, "", name)
                list = list (i > 1 ? ", " : "") parameters[i]
                used = used "(void)" name ";\n"
            }
            print "int64_t example(" list ");\nint64_t example(" list ")\n{"
            print used "{\n" body "}\nreturn 0;\n}"
        }
    ' "$lines" >"${lines%.lines}.c"
done
# compile COMPILER LANGUAGE STANDARD
compile() {
    for example in "$work"/*.[0-9].c; do
        "$1" -x "$2" -std="$3" -Wall -Wextra -Wpedantic -Werror -fsyntax-only \
            -I"$(dirname "$header")" "$example" 2>&1
    done >"$work/messages"
    for page in "$work"/wide/*; do
        [ -e "$work/${page##*/}.1.c" ] || echo "${page##*/}: no example"
    done >>"$work/messages"
    report "each has examples, which compile as $3" "$work/messages"
}
compile "${CC:-cc}" c c11
compile "${CXX:-c++}" c++ c++17

# ---- how they are set ----

grep -n '.\{81\}' "$work"/narrow/* /dev/null | sed 's/.*narrow\///' >"$work/long"
report "no line is wider than 80 columns" "$work/long"

# Where they are, so that an alias finds its page.
(
    cd "$pages" || exit
    for page in man3/*.3 man7/*.7; do
        LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings=w -l "$page" 2>&1 >/dev/null
    done
    mandoc -T lint -W error man3/*.3 man7/*.7
) >"$work/warnings" 2>&1
report "man and mandoc have nothing to complain of" "$work/warnings"
plan 10
