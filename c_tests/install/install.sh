#!/bin/sh
# Promise: what `make install` brings into an empty prefix is all that a program needs, through pkg-config,
# CMake, static linking and C++; nothing of it refers to the source tree; and `make uninstall` leaves nothing.
# TAP on stdout. CXX2 is a second C++ compiler.
set -u
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")/../.." || exit 1
. c_tests/tap.sh
source=$PWD
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
CC=${CC:-cc} CXX=${CXX:-g++} CXX2=${CXX2:-clang++}

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# Where a distribution has it: lib/x86_64-linux-gnu, or lib.
prefix=$work/prefix libdir=$work/prefix/lib/$("$CC" -print-multiarch 2>/dev/null)
libdir=${libdir%/}
out=$work/out

# check NAME COMMAND...: a test passes where the command succeeds; else what it printed is shown.
check() {
    name=$1
    shift
    "$@" >"$out" 2>&1
    ok $? "$name" "$out"
}

refused() { ! "$@"; }

empty() { [ -z "$(find "$@" | tee /dev/stderr)" ]; }

make_in() { # TARGET VARIABLE=VALUE...
    # What this make was called with is not for that one.
    MAKEFLAGS='' MAKELEVEL='' make -s -C "$source" "$@" CC="$CC"
}

links_lead_to_it() {
    [ "$(readlink "$libdir/libio_engine.so")" = "libio_engine.so.$major" ] &&
        [ "$(readlink "$libdir/libio_engine.so.$major")" = "libio_engine.so.$version" ] &&
        readelf -d "$libdir/libio_engine.so" | grep -q "SONAME.*\[libio_engine.so.$major\]"
}

# As the map has them: node by node.
symbols_have_versions() {
    awk '/^[A-Z].* [{]/ { node = $1 } /^ *ioe_/ { sub(/;/, ""); print $1 "@@" node }' abi/io_engine.map |
        sort >"$work/expected"
    readelf --dyn-syms -W "$libdir/libio_engine.so" |
        awk '$7 ~ /^[0-9]+$/ && NF == 8 { print $8 }' | sort >"$work/symbols"
    [ -s "$work/symbols" ] && diff "$work/expected" "$work/symbols"
}

archive_shows_calls_only() {
    nm -g --defined-only "$libdir/libio_engine.a" | awk 'NF == 3 { print $3 }' | sort >"$work/globals"
    sed 's/@@.*//' "$work/symbols" | diff - "$work/globals"
}

# Neither paths of the source tree nor those of the directory that things were staged in.
says_nothing_of() { # PATH DIRECTORY
    find "$2" -type f \( -name '*.pc' -o -name '*.cmake' -o -name '*.h*' \) -exec grep -H "$1" {} + && return 1
    find "$2" -name 'libio_engine.so.*' -exec readelf -d {} + | grep "R.*PATH.*$1" && return 1
    return 0
}

# compile PROGRAM SOURCE COMPILER FLAGS...: away from the source tree, and seen not to look there.
compile() {
    program=$1 from=$2
    shift 2
    (cd "$work/user" && "$@" -o "$program" "$from" -MD -MF "$program.d" -Wl,--trace \
        $(pkg-config $static --cflags --libs io_engine) >"$program.trace" 2>&1) || {
        cat "$work/user/$program.trace"
        return 1
    }
    grep -H "$source/" "$work/user/$program".* && return 1
    grep -q "$prefix" "$work/user/$program.d" && grep -q "$libdir" "$work/user/$program.trace"
}

works() { # PROGRAM
    "$1" >"$work/said" || return 1
    cat "$work/said"
    [ "$(cat "$work/said")" = "written and read back by io_engine $version" ]
}

compiled_and_works() { # as compile
    compile "$@" && works "$work/user/$1"
}

is_fully_static() {
    ! readelf -lW "$1" | grep INTERP && ! readelf -d "$1" | grep NEEDED
}

# beside FIRST SECOND: the archive and another, in this order.
beside() {
    "${RUSTC:-rustc}" -O --crate-type staticlib -o "$work/libbeside.a" "$source/c_tests/install/beside.rs" &&
        "$CC" -o "$work/beside" "$source/c_tests/install/beside.c" $(pkg-config --cflags io_engine) "$1" "$2" \
            -lpthread -ldl -lm && [ "$("$work/beside")" = "0, 0, 1" ]
}

follows() {
    flags=$(PKG_CONFIG_PATH=$prefix/${libdir#"$work/prefix/"}/pkgconfig pkg-config --define-prefix --cflags --libs io_engine)
    echo "$flags"
    case $flags in *"$work/prefix"*) return 1 ;; *"-L$prefix/lib"*) return 0 ;; *) return 1 ;; esac
}

configure() { # DIRECTORY WANTED
    cmake -S "$work/user" -B "$work/$1" -DCMAKE_PREFIX_PATH="$prefix" -DWANTED="$2"
}

built_by_cmake() { # DIRECTORY
    cmake --build "$work/$1" --verbose || return 1
    grep -rlI "$source/" "$work/$1" && return 1
    return 0
}

mkdir "$prefix" "$work/user"
cp "$source"/c_tests/install/user.c "$source"/c_tests/install/user.cc "$source"/c_tests/install/CMakeLists.txt "$work/user"

check "make install into an empty prefix" make_in install PREFIX="$prefix" LIBDIR="$libdir"
check "the links lead to the library, which has a SONAME" links_lead_to_it
check "every exported symbol has its version" symbols_have_versions
check "nothing but the calls is global in the archive" archive_shows_calls_only
check "there is a page for a call" [ -s "$(man -M "$prefix/share/man" -w 3 ioe_try_submit)" ]
check "there is a page for the library" [ -s "$(man -M "$prefix/share/man" -w 7 io_engine)" ]
check "no installed file refers to the source tree" says_nothing_of "$source" "$prefix"

PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir
export PKG_CONFIG_PATH LD_LIBRARY_PATH
strict="-Wall -Wextra -Wpedantic -Werror"
static=
check "pkg-config knows the version" pkg-config --exact-version="$version" io_engine
check "C, by pkg-config" compiled_and_works by_pc user.c "$CC" $strict
check "C++, by $CXX" compiled_and_works by_cxx user.cc "$CXX" -std=c++17 $strict
check "C++, by $CXX2" compiled_and_works by_cxx2 user.cc "$CXX2" -std=c++17 $strict
static=--static
check "C, fully static" compiled_and_works by_static user.c "$CC" -static $strict
check "fully static is what it is" is_fully_static "$work/user/by_static"
check "C++, fully static" compiled_and_works by_cxx_static user.cc "$CXX" -static -std=c++17 $strict
check "beside another Rust archive" beside "$libdir/libio_engine.a" "$work/libbeside.a"
check "behind another Rust archive" beside "$work/libbeside.a" "$libdir/libio_engine.a"
check "a plugin: compiled" "$CC" $strict -o "$work/plugin" "$source/c_tests/install/plugin.c" -ldl -lpthread
check "a plugin: what was closed stays while it may have threads" "$work/plugin"
unset LD_LIBRARY_PATH

check "CMake finds it" configure by_cmake "$major"
check "CMake builds with both targets" built_by_cmake by_cmake
check "CMake: the shared library" works "$work/by_cmake/user_shared"
check "CMake: the shared library is in use" sh -c "ldd '$work/by_cmake/user_shared' | grep '$libdir/libio_engine.so.$major '"
check "CMake: the archive" works "$work/by_cmake/user_static"
check "CMake: with the archive it is not" refused sh -c "ldd '$work/by_cmake/user_static' | grep io_engine"
check "CMake finds it where no version is asked for" configure any ""
check "CMake finds this version exactly" configure exact "$version;EXACT"
check "CMake refuses the next major version" refused configure next $((major + 1))
check "CMake refuses the last major version" refused configure last $((major - 1)).9
check "CMake refuses what is newer" refused configure newer "$major.999"
check "CMake finds it in a range" configure range "$major...<$((major + 1))"
check "CMake refuses a range beyond" refused configure beyond "$((major + 1))...$((major + 2))"

stage=$work/stage
check "make install with DESTDIR" make_in install DESTDIR="$stage" PREFIX=/usr LIBDIR=/usr/lib
check "it says nothing of DESTDIR" says_nothing_of "$stage" "$stage"
check "nothing is outside of DESTDIR's /usr" empty "$stage" -mindepth 1 -maxdepth 1 -not -name usr
check "files and directories can be read by all" \
    empty "$stage/usr" -mindepth 1 -not -type l -not -perm -a+r -o -type d -not -perm -a+x
check "make uninstall with DESTDIR" make_in uninstall DESTDIR="$stage" PREFIX=/usr LIBDIR=/usr/lib
check "it leaves no file" empty "$stage" -not -type d

mkdir "$work/other_name"
ln -s "$prefix/lib" "$work/other_name/lib"
check "CMake finds it by another name of the directory" cmake -S "$work/user" -B "$work/by_other_name" \
    -DCMAKE_PREFIX_PATH="$work/other_name" -DWANTED="$major"
check "CMake refuses components" refused configure components "$major;COMPONENTS;more"
mv "$prefix" "$work/moved"
prefix=$work/moved
check "pkg-config follows a tree that was moved" follows
check "CMake finds it where the tree was moved" configure by_cmake_moved "$major"
mv "$work/moved" "$work/prefix"
prefix=$work/prefix
touch "$prefix/mine" "$libdir/libio_engine.so.$((major + 1))"
check "make uninstall" make_in uninstall PREFIX="$prefix" LIBDIR="$libdir"
check "what others brought is still there" rm "$prefix/mine" "$libdir/libio_engine.so.$((major + 1))"
check "no file is left" empty "$prefix" -not -type d
rm -rf "$prefix"
check "make install where no prefix is" make_in install PREFIX="$prefix" LIBDIR="$libdir"
check "make uninstall where nothing else is" make_in uninstall PREFIX="$prefix" LIBDIR="$libdir"
check "not even a directory is left in the prefix" empty "$prefix" -mindepth 1
check "make uninstall where nothing is" make_in uninstall PREFIX="$work/nowhere/at/all"
check "make install again" make_in install PREFIX="$prefix" LIBDIR="$libdir"
ln -sf "libio_engine.so.$((major + 1))" "$libdir/libio_engine.so"
check "make uninstall under the next major version" make_in uninstall PREFIX="$prefix" LIBDIR="$libdir"
check "it leaves what is that one's" ls "$prefix/include/io_engine.h" "$libdir/pkgconfig/io_engine.pc" \
    "$prefix/share/man/man3/ioe_submit.3"
check "it takes its own" [ ! -e "$libdir/libio_engine.so.$version" ]
for bad in "PREFIX=/with space" PREFIX=relative LIBDIR=lib 'MANDIR=/a"b'; do
    check "refused: $bad" refused make_in install DESTDIR="$work/none" "$bad"
done
check "nothing was installed by these" [ ! -e "$work/none" ]
plan
