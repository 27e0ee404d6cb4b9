# io_engine: `make help` lists what can be made.

PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
MANDIR  ?= $(PREFIX)/share/man
CC      ?= cc
CXX     ?= c++
CARGO   ?= cargo
OBJCOPY ?= objcopy
STRIP   ?= strip
# Debian's, which has Debian's modules.
PYTHON  ?= /usr/bin/python3
RUST    := Rust 1.85 or newer: Debian 13 has it; before, take rustup
CFLAGS  ?= -O2 -g
CXXFLAGS ?= -O2 -g

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
BUILD   := target/lib
SONAME  := libio_engine.so.$(MAJOR)
SHARED  := $(BUILD)/libio_engine.so
STATIC  := $(BUILD)/libio_engine.a
HEADER  := include/io_engine.h
HPP     := include/io_engine.hpp

WARNINGS := -Wall -Wextra -Wpedantic -Werror
C_FLAGS  := -std=c11 -D_GNU_SOURCE $(WARNINGS) -Iinclude
LINK     := -L$(BUILD) -Wl,-rpath,$(CURDIR)/$(BUILD) -lio_engine -lpthread

EXAMPLES := $(patsubst examples_c/%.c,target/examples/%,$(wildcard examples_c/*.c))
CPP_EXAMPLES := $(patsubst examples_c/%.cc,target/examples/cpp/%,$(wildcard examples_c/*.cc))
C_TESTS  := $(patsubst c_tests/%.c,target/c_tests/%,$(wildcard c_tests/t_*.c)) \
            $(patsubst c_tests/%.cc,target/c_tests/%,$(wildcard c_tests/t_*.cc))
# Seconds that one test program may take.
TIME_LIMIT := 120
# A directory on a disk, for O_DIRECT and large files.
IOE_TEST_DISK ?= $(CURDIR)/target/c_tests
PROVE := IOE_TEST_DISK=$(IOE_TEST_DISK) EXAMPLES=target/examples prove --failures --comments --exec 'timeout --kill-after=5 $(TIME_LIMIT)'

REFERENCE := target/reference/release/reference

# Programs that meet faults from outside, and what they need beside cmocka.
FAULTS := $(patsubst c_tests/faults/%.c,target/faults/%,$(wildcard c_tests/faults/*.c))
# Each of these takes less than a few seconds with any driver.
QUICK_TESTS := $(addprefix target/c_tests/,t_deadlk t_event_misuse t_transfers)
OTHER_TESTS := $(filter-out $(QUICK_TESTS) target/c_tests/t_differential,$(C_TESTS))
BLOCKED := prove --failures --comments --exec 'timeout --kill-after=5 1200 sh' c_tests/faults/blocked.sh ::
BLOCKED_WITH := target/faults target/examples $(IOE_TEST_DISK)
BLOCKED_PROGRAMS := target/faults/deny target/faults/which $(EXAMPLES)

SOURCES := Cargo.toml Cargo.lock build.rs cbindgen.toml $(shell find src -name "*.rs" -o -name "*.txt")

# Whatever is no file.
.PHONY: FORCE $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' Makefile) \
        $(foreach compiler,g++ clang++,check-cpp-$(compiler)) \
        $(foreach part,uring aio pool choice,check-c-$(part) check-asan-$(part))
all: lib man examples ## the library, its header, the pages, the examples

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

lib: $(SHARED) $(STATIC) $(HEADER)

# The exported calls, from the list of them.
MAP   := abi/io_engine.map
CALLS := $(shell sed -n 's/^ *\(ioe_[a-z0-9_]*\);$$/\1/p' $(MAP))

# One crate type: beside an rlib, link-time optimisation would silently be off. Of what is in the
# archive, the calls and what they need are kept, and nothing but the calls can be seen from outside; nor is
# a group left that another Rust archive has by the same name.
$(BUILD)/io_engine.o: $(SOURCES) $(MAP)
	$(call need,$(CARGO),cargo ($(RUST)))
	$(call need,$(CC),gcc)
	$(call need,$(OBJCOPY),binutils)
	RUSTFLAGS="$$RUSTFLAGS --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}/registry/src=crates" \
	  $(CARGO) rustc --locked --release --lib --crate-type staticlib --target-dir target
	@mkdir -p $(@D)
	@echo "$@: the calls of $(MAP), and what they need"
	@$(CC) -r -nostdlib -Wl,--force-group-allocation -o $@.all $(CALLS:%=-Wl,-u,%) target/release/libio_engine.a
	@$(OBJCOPY) $(CALLS:%=--keep-global-symbol=%) $@.all $@
	@rm $@.all

$(STATIC): $(BUILD)/io_engine.o
	@rm -f $@
	$(AR) crs $@ $<

# Who loaded it as a plugin may close it before its last thread has ended: it stays.
$(SHARED): $(BUILD)/io_engine.o
	$(CC) -shared -o $(BUILD)/libio_engine.so.$(VERSION) $(LDFLAGS) -Wl,-soname,$(SONAME) \
	  -Wl,--version-script=$(MAP) -Wl,--gc-sections -Wl,-z,defs,-z,relro,-z,now,-z,nodelete $<
	@ln -sf libio_engine.so.$(VERSION) $(BUILD)/$(SONAME)
	@ln -sf $(SONAME) $@

# Those in C++ where there is a compiler for it: the library needs none.
examples: $(EXAMPLES) $(if $(shell command -v $(CXX)),$(CPP_EXAMPLES))

target/examples/%: examples_c/%.c $(HEADER) $(SHARED)
	$(call need,$(CC),gcc)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $< $(LINK)

target/examples/cpp/%: examples_c/%.cc $(HPP) $(HEADER) $(SHARED)
	$(call need,$(CXX),g++)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -std=c++20 -D_GNU_SOURCE $(WARNINGS) -Iinclude -o $@ $< $(LINK)

run: $(SHARED) target/examples/copy ## build the library and copy a file with it, verified
	@head -c 268435456 /dev/urandom > target/run.source
	target/examples/copy target/run.source target/run.copy
	@cmp target/run.source target/run.copy && echo "the copy is identical"
	@rm -f target/run.source target/run.copy

check: check-rust check-headers programs check-c check-cpp check-perf check-blocked-quick ## all tests
	@echo "all checks passed"

check-rust: tools-c ## the engine's own tests, the simulator among them
	$(CARGO) test --locked --profile checks -- --nocapture

sim: ## the simulator alone: make sim SEED=1 OPS=10000000
	$(if $(SEED),SEED=$(SEED)) $(if $(OPS),OPS=$(OPS)) $(CARGO) test --locked --profile checks --lib simulation -- --nocapture

# The exported calls, driven by arbitrary bytes: each target has its share of the time. What it reaches
# stays in target/fuzz, beside what made something fail. Sanitizers are for nightly compilers, or said so.
FUZZ_TARGETS := calls structs threads
SECONDS := 600
FUZZ := RUSTC_BOOTSTRAP=1 ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 $(CARGO) fuzz run --target-dir target/fuzz/build
FUZZ_LIMITS := -timeout=10 -rss_limit_mb=3000 -max_len=800 -len_control=0
fuzz: tools-fuzz ## the C interface under AddressSanitizer, fed with arbitrary calls: make fuzz SECONDS=600
	@mkdir -p $(FUZZ_TARGETS:%=target/fuzz/corpus/%)
	@for target in $(FUZZ_TARGETS); do \
	  $(FUZZ) $$target target/fuzz/corpus/$$target fuzz/corpus/$$target -- $(FUZZ_LIMITS) \
	    -max_total_time=$$(($(SECONDS) / $(words $(FUZZ_TARGETS)))) -artifact_prefix=target/fuzz/ \
	    -print_final_stats=1 || exit 1; \
	done

fuzz-corpus: tools-fuzz ## refresh fuzz/corpus: as few inputs as reach what target/fuzz does
	@for target in $(FUZZ_TARGETS); do \
	  rm -rf target/fuzz/least && mkdir -p target/fuzz/least target/fuzz/corpus/$$target && \
	  $(FUZZ) $$target target/fuzz/least fuzz/corpus/$$target target/fuzz/corpus/$$target -- $(FUZZ_LIMITS) \
	    -set_cover_merge=1 -use_counters=0 && \
	  rm -rf fuzz/corpus/$$target && mv target/fuzz/least fuzz/corpus/$$target || exit 1; \
	done

header: ## refresh include/io_engine.h
	IOE_UPDATE_HEADER=1 $(CARGO) test --locked --profile checks --test header

check-headers: $(SHARED) tools-c ## the headers alone, in every language they promise
	prove c_tests/header.sh c_tests/exports.sh c_tests/error_table.sh c_tests/mixed.sh

check-package: check-install check-abi check-man ## what is installed: programs, earlier releases, pages

check-install: lib man tools-install ## what make install brings serves programs that never saw this tree
	prove --failures --comments c_tests/install/install.sh

check-abi: $(SHARED) tools-abi ## programs built for earlier releases run on this library
	prove --failures --comments --exec python3 c_tests/abi/abi.py

ABI := abi/io_engine-$(VERSION)
release-abi: tools-abi ## for a release: its header and its ABI, which check-abi compares with from then on
	@[ ! -e $(ABI).h ] || cmp $(HEADER) $(ABI).h || \
	  { echo "$(ABI).* are there: those of a release never change; before it, remove them first" >&2; exit 1; }
	cp $(HEADER) $(ABI).h
	python3 c_tests/abi/surface.py $(HEADER) $(MAP) > $(ABI).abi

MAN      := target/man/man7/io_engine.7
MAN_TOOL := man/Cargo.toml man/Cargo.lock $(wildcard man/src/*.rs)
man: $(MAN) ## the manual pages, from the header: target/man

# All pages are written at once, this one among them.
$(MAN): $(HEADER) $(MAN_TOOL)
	$(call need,$(CARGO),cargo ($(RUST)))
	$(CARGO) run --locked --release --quiet --manifest-path man/Cargo.toml --target-dir target/man-tool \
	  -- $(HEADER) target/man
	@touch $@

check-man: $(MAN) $(SHARED) tools-c tools-man ## the manual pages say what the header says
	$(CARGO) test --locked --release --quiet --manifest-path man/Cargo.toml --target-dir target/man-tool
	prove --failures --comments c_tests/man.sh

FIGURES := python3 bench/figures.py target/bench/figures $(SHARED) bench/figures.txt
check-perf: target/bench/figures tools-perf ## what an operation costs, counted: nothing may rise
	$(FIGURES)

figures: target/bench/figures tools-perf ## refresh what check-perf compares with
	$(FIGURES) --update

# Programs about one driver, or about the choice, say themselves which drivers they need; all others
# run on each of the three, on the second and third with shorter counts.
ONE_RUN := differential choice lacking broken enter_faults pool aio
SCALE_uring := 1
SCALE_aio   := 10
SCALE_pool  := 10
# Ending an AIO context takes the kernel 32 ms, in which nothing runs.
JOBS_aio := --jobs 3
DRIVERS := uring aio pool
# $(call each_driver,DIRECTORY), $(call one_run,DIRECTORY)
one_run     = $(filter $(ONE_RUN:%=$(1)/t_%),$(C_TESTS:target/c_tests/%=$(1)/%))
each_driver = $(filter-out $(call one_run,$(1)),$(C_TESTS:target/c_tests/%=$(1)/%))

check-c: $(DRIVERS:%=check-c-%) check-c-reactors check-c-choice ## the C and C++ tests and the examples, on every driver

$(DRIVERS:%=check-c-%): check-c-%: $(C_TESTS) $(EXAMPLES) $(CPP_EXAMPLES) target/bench/allocs tools-c
	IOE_DRIVER=$* IOE_TEST_SCALE=$(SCALE_$*) \
	  $(PROVE) $(JOBS_$*) $(call each_driver,target/c_tests) target/bench/allocs examples_c/check.sh
	IOE_DRIVER=$* IOE_TEST_SCALE=$(SCALE_$*) IOE_TEST_MERGE=65536 $(PROVE) target/c_tests/t_transfers

# The same with three reactors behind each context that has threads.
check-c-reactors: $(C_TESTS) tools-c
	IOE_DRIVER=uring IOE_TEST_SCALE=10 IOE_TEST_REACTORS=3 \
	  $(PROVE) $(call each_driver,target/c_tests)

check-c-choice: $(C_TESTS) tools-c
	$(PROVE) $(call one_run,target/c_tests)
	IOE_TEST_MERGE=65536 $(PROVE) target/c_tests/t_differential

target/c_tests/%: c_tests/%.c $(wildcard c_tests/*.h) $(HEADER) $(SHARED) | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $< $(LINK) -lcmocka

target/c_tests/%: c_tests/%.cc $(wildcard c_tests/*.h) $(HPP) $(HEADER) $(SHARED) | tools-c
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -std=c++20 -D_GNU_SOURCE $(WARNINGS) -Iinclude -o $@ $< $(LINK) -lcmocka

# A file system for RocksDB, to be linked or preloaded. The packages are Debian's.
ROCKSDB := target/rocksdb/libioe_rocksdb.so
ROCKSDB_SOURCES := $(wildcard examples_c/rocksdb/*.cc)
rocksdb: $(ROCKSDB) ## RocksDB's files on the engine: LD_PRELOAD=target/rocksdb/libioe_rocksdb.so db_bench --fs_uri=ioe://

ROCKSDB_FLAGS = -std=c++17 -fPIC -D_GNU_SOURCE $(WARNINGS) -Wshadow -Iinclude -Iexamples_c/rocksdb
target/rocksdb/%.o: examples_c/rocksdb/%.cc $(wildcard examples_c/rocksdb/*.h) $(HPP) $(HEADER) | tools-rocksdb
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) $(ROCKSDB_FLAGS) -c -o $@ $<

$(ROCKSDB): $(ROCKSDB_SOURCES:examples_c/rocksdb/%.cc=target/rocksdb/%.o) $(SHARED)
	$(CXX) -shared -Wl,-z,defs -o $@ $(filter %.o,$^) $(LINK) -lrocksdb

ROCKSDB_TESTS := $(patsubst c_tests/%.cc,target/c_tests/%,$(wildcard c_tests/rocksdb/t_*.cc)) \
                 target/c_tests/rocksdb/around.so
ROCKSDB_CRASH := target/c_tests/rocksdb/crash
ROCKSDB_FAULTS := $(addprefix target/c_tests/rocksdb/,faults faultfs stuck)
ROCKSDB_PROVE = IOE_TEST_DISK=$(IOE_TEST_DISK) prove --failures --comments --timer \
  --exec 'timeout --kill-after=5 1200 sh' $(1:%=c_tests/rocksdb/%.sh) :: target/c_tests/rocksdb $(ROCKSDB) target/faults/deny
check-rocksdb: $(ROCKSDB) $(ROCKSDB_TESTS) $(ROCKSDB_CRASH) $(ROCKSDB_FAULTS) target/faults/deny | tools-c tools-crash ## RocksDB and its tools on the engine, killed, and with I/O errors: ten minutes, root
	@mkdir -p $(IOE_TEST_DISK)
	$(call ROCKSDB_PROVE,rocksdb crash faults)

check-rocksdb-crash: $(ROCKSDB_CRASH) tools-crash ## of these, what is acknowledged outlives crashes: ROUNDS=50
	@mkdir -p $(IOE_TEST_DISK)
	$(call ROCKSDB_PROVE,crash)

check-rocksdb-faults: $(ROCKSDB_FAULTS) ## of these, those on disks that fail
	@mkdir -p $(IOE_TEST_DISK)
	$(call ROCKSDB_PROVE,faults)

target/c_tests/rocksdb/%: c_tests/rocksdb/%.cc $(wildcard c_tests/rocksdb/*.h) examples_c/rocksdb/ioe_file_system.h $(ROCKSDB)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -std=c++17 -D_GNU_SOURCE $(WARNINGS) -Iinclude -Iexamples_c/rocksdb -o $@ $< \
	  -Ltarget/rocksdb -Wl,-rpath,$(CURDIR)/target/rocksdb -lioe_rocksdb -lrocksdb $(LINK)

target/c_tests/rocksdb/faultfs: c_tests/rocksdb/faultfs.c c_tests/rocksdb/faultfs.h
target/faults/shortfs: c_tests/faults/shortfs.c
target/c_tests/rocksdb/faultfs target/faults/shortfs: c_tests/passthrough.h | tools-faults
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $(filter %.c,$^) $$(pkg-config --cflags --libs fuse3)

target/c_tests/rocksdb/%.so: c_tests/rocksdb/%.c | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -shared -fPIC -o $@ $< -ldl

check-blocked: $(BLOCKED_PROGRAMS) $(C_TESTS) tools-c ## the C tests with interfaces forbidden and limits low
	$(BLOCKED) $(BLOCKED_WITH) $(QUICK_TESTS) -- $(OTHER_TESTS)

check-blocked-quick: $(BLOCKED_PROGRAMS) $(QUICK_TESTS) tools-c
	$(BLOCKED) $(BLOCKED_WITH) $(QUICK_TESTS)

check-faults: check-blocked $(FAULTS) target/c_tests/t_differential tools-faults ## faults of files and devices: needs root, FUSE, loop devices
	c_tests/faults/faults.sh target/faults target/c_tests/t_differential target/faults_asan/f_stalled

target/faults/%: c_tests/faults/%.c $(wildcard c_tests/*.h c_tests/faults/*.h) $(HEADER) $(SHARED) | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $< $(LINK) -lcmocka

# It knows nothing of the library.
target/faults/deny: c_tests/faults/deny.c | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $<

# Crashes of the machine that the test makes.
CRASHES ?= 100
check-crash: target/examples/wal target/crash/crash target/crash/unsafe tools-crash ## a log outlives crashes: needs root and a loop device; CRASHES=100
	c_tests/crash/crash.sh target/crash target/examples/wal $(CRASHES)

target/crash/crash: c_tests/crash/crash.c | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $<

target/crash/unsafe: c_tests/crash/unsafe.c examples_c/wal.c $(HEADER) $(SHARED) | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $< $(LINK)

# It includes the example.
target/c_tests/t_wal target/c_tests_asan/t_wal: examples_c/wal.c

# The same programs against a library built with AddressSanitizer, leaks included.
ASAN_BUILD := target/asan/x86_64-unknown-linux-gnu/release
ASAN_TESTS := $(patsubst target/c_tests/%,target/c_tests_asan/%,$(C_TESTS))
ASAN_LINK  = -fsanitize=address -L$(ASAN_BUILD) -Wl,-rpath,$(CURDIR)/$(ASAN_BUILD) -lio_engine -lpthread -lcmocka
ASAN_PROVE = ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 IOE_TEST_SCALE=10 $(PROVE)
check-asan: $(DRIVERS:%=check-asan-%) check-asan-choice ## the C and C++ tests under AddressSanitizer, on every driver

$(DRIVERS:%=check-asan-%): check-asan-%: $(ASAN_TESTS) tools-c
	@mkdir -p $(IOE_TEST_DISK)
	IOE_DRIVER=$* $(ASAN_PROVE) $(call each_driver,target/c_tests_asan)

check-asan-choice: $(ASAN_TESTS) tools-c
	@mkdir -p $(IOE_TEST_DISK)
	$(ASAN_PROVE) $(call one_run,target/c_tests_asan)

$(ASAN_BUILD)/libio_engine.so: $(SOURCES)
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address $(CARGO) rustc --locked --release --lib \
	  --crate-type cdylib --target x86_64-unknown-linux-gnu --target-dir target/asan \
	  --config profile.release.lto=false -- -C link-arg=-Wl,-soname,$(SONAME)
	@ln -sf libio_engine.so $(ASAN_BUILD)/$(SONAME)
	@touch $@

target/c_tests_asan/%: c_tests/%.c $(wildcard c_tests/*.h) $(HEADER) $(ASAN_BUILD)/libio_engine.so | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $< $(ASAN_LINK)

check-faults: target/faults_asan/f_stalled
target/faults_asan/%: c_tests/faults/%.c $(wildcard c_tests/*.h c_tests/faults/*.h) $(HEADER) $(ASAN_BUILD)/libio_engine.so | tools-c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $< $(ASAN_LINK)

target/c_tests_asan/%: c_tests/%.cc $(wildcard c_tests/*.h) $(HPP) $(HEADER) $(ASAN_BUILD)/libio_engine.so | tools-c
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -std=c++20 -D_GNU_SOURCE $(WARNINGS) -Iinclude -o $@ $< $(ASAN_LINK)

# The file system for RocksDB and the library with AddressSanitizer; RocksDB is the packaged one.
target/c_tests/rocksdb/stuck: c_tests/rocksdb/stuck.cc $(ROCKSDB_SOURCES) \
    $(wildcard c_tests/rocksdb/*.h examples_c/rocksdb/*.h) $(HPP) $(HEADER) $(ASAN_BUILD)/libio_engine.so | tools-rocksdb
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) $(ROCKSDB_FLAGS) -fsanitize=address -o $@ $(filter %.cc,$^) -L$(ASAN_BUILD) \
	  -Wl,-rpath,$(CURDIR)/$(ASAN_BUILD) -lio_engine -lpthread -lrocksdb

# The tests and examples of io_engine.hpp with both compilers and their sanitizers; of several clang++ the
# newest. What is about coroutines is C++20, the rest C++17.
CPP_COMPILERS := g++ clang++
NEWEST_clang++ = $(or $(lastword $(shell ls /usr/bin/clang++-[0-9]* 2>/dev/null | sort -V)),clang++)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
CPP_FLAGS := -O1 -g -D_GNU_SOURCE $(WARNINGS) -Wshadow -Wconversion $(SANITIZE) -Iinclude
CPP_TESTS := t_hpp t_coroutine
CPP_PROGRAMS := $(CPP_TESTS) $(CPP_EXAMPLES:target/examples/cpp/%=%)
# Side by side, whatever this make was told: it halves the time that two processors take.
programs: lib tools-c tools-cpp
	@$(MAKE) --no-print-directory -j$$(nproc) $(C_TESTS) $(EXAMPLES) $(CPP_EXAMPLES) target/bench/allocs \
	  $(foreach one,$(CPP_COMPILERS),$(CPP_PROGRAMS:%=target/cpp/$(one)/%))

check-cpp: $(CPP_COMPILERS:%=check-cpp-%) ## io_engine.hpp with g++ and clang++, under AddressSanitizer and UBSan

$(CPP_COMPILERS:%=check-cpp-%): check-cpp-%: $(foreach one,$(CPP_PROGRAMS),target/cpp/%/$(one))
	@mkdir -p $(IOE_TEST_DISK)
	$(foreach driver,$(DRIVERS),IOE_DRIVER=$(driver) IOE_TEST_SCALE=10 \
	  $(PROVE) $(CPP_TESTS:%=target/cpp/$*/%) && ) true
	target/cpp/$*/quickstart target/cpp/$*/quickstart.dat
	target/cpp/$*/coroutine_copy $(SHARED) target/cpp/$*/copy && cmp $(SHARED) target/cpp/$*/copy

# $(call cpp_program,COMPILER,DIRECTORY OF SOURCES)
define cpp_program
target/cpp/$(1)/%: $(2)/%.cc $(wildcard c_tests/*.h) $(HPP) $(HEADER) $(SHARED) | tools-cpp
	@mkdir -p $$(@D)
	$$(or $$(NEWEST_$(1)),$(1)) -std=c++$$(if $$(findstring coroutine,$$*),20,17) $(CPP_FLAGS) \
	  -o $$@ $$< $(LINK) $(if $(filter c_tests,$(2)),-lcmocka)
endef
$(foreach one,$(CPP_COMPILERS),$(foreach dir,c_tests examples_c,$(eval $(call cpp_program,$(one),$(dir)))))

lint: ## rustfmt and clippy, warnings as errors
	$(call need,$(CARGO),cargo ($(RUST)))
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --release --all-targets -- -D warnings
	$(CARGO) fmt --check --manifest-path man/Cargo.toml
	$(CARGO) clippy --locked --release --all-targets --manifest-path man/Cargo.toml \
	  --target-dir target/man-tool -- -D warnings

REPORT := --dir target/bench --json target/bench/report.json --html target/bench/report.html
bench: target/bench/run $(REFERENCE) ## this engine beside what a program would use otherwise: three minutes
	$(PYTHON) bench/bench.py $(REPORT) $(BENCH)

bench-full: target/bench/run $(REFERENCE) ## the same over block sizes, depths, threads, reads and writes: half an hour
	$(PYTHON) bench/bench.py --full $(REPORT) $(BENCH)

bench-rocksdb: rocksdb ## RocksDB's db_bench on the engine beside the same without: under a quarter of an hour
	$(PYTHON) bench/rocksdb.py --json target/bench/rocksdb.json $(BENCH_ROCKSDB)

# A peer of the bench: a package of its own, built once. Where that fails its side is left out.
REFERENCE_SOURCES := $(addprefix bench/reference/,Cargo.toml Cargo.lock src/main.rs)
$(REFERENCE): $(REFERENCE_SOURCES) | tools-bench
	@$(CARGO) build --locked --release --manifest-path $< --target-dir target/reference || \
	  echo "bench/reference cannot be built (it needs libclang-dev, and the crates): left out" >&2

target/bench/run: $(filter-out bench/allocs.c bench/figures.c,$(wildcard bench/*.c)) target/bench/peer_asio.o
# What is not here is left out: bench/peer_*.c say so. What came or went since has them built again.
HASH := \#
present = $(shell printf '$(HASH)include <$(1)>\n' | $(CC) -E -xc - >/dev/null 2>&1 && echo $(2))
PEERS := liburing.h uv.h boost/asio/detail/io_uring_service.hpp valgrind/callgrind.h
target/bench/present: FORCE | tools-bench
	@mkdir -p $(@D)
	@echo $(foreach header,$(PEERS),$(call present,$(header),$(header))) > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
target/bench/run target/bench/peer_asio.o: target/bench/present
target/bench/run: BENCH_LIBS = $(call present,liburing.h,-luring) $(call present,uv.h,-luv) -lstdc++
target/bench/allocs: $(addprefix bench/,allocs.c crew.c engine.c file.c) | tools-c
target/bench/run: | tools-bench
target/bench/figures: bench/figures.c | tools-c tools-perf
target/bench/%: $(wildcard bench/*.h) $(HEADER) $(SHARED)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(C_FLAGS) -o $@ $(filter bench/%.c %.o,$^) $(LINK) $(BENCH_LIBS)

target/bench/%.o: bench/%.cc $(wildcard bench/*.h) | tools-bench
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -std=c++23 -D_GNU_SOURCE $(WARNINGS) -c -o $@ $<

# What the archive needs of the system; the unwinder comes with the compiler.
STATIC_LIBS := -lpthread -ldl -lm
DEST         := $(DESTDIR)$(PREFIX)
DEST_LIB     := $(DESTDIR)$(LIBDIR)
DEST_MAN     := $(DESTDIR)$(MANDIR)
DEST_PC      := $(DEST_LIB)/pkgconfig
DEST_CMAKE   := $(DEST_LIB)/cmake/io_engine
FILLED_IN    := sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|' \
  -e 's|@MAJOR@|$(MAJOR)|; s|@STATIC_LIBS@|$(STATIC_LIBS)|' \
  -e 's|@LIBDIR_OF_PREFIX@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|' \
  -e "s|@INCLUDE_FROM_LIBDIR@|$$(realpath -ms --relative-to=$(LIBDIR) $(PREFIX)/include)|" \
  -e "s|@POINTER_SIZE@|$$($(CC) -dM -E -xc /dev/null | sed -n 's/.*__SIZEOF_POINTER__ //p')|"

# Directories are written into files, and into commands.
define sane_directories
@for dir in '$(PREFIX)' '$(LIBDIR)' '$(MANDIR)' '/$(DESTDIR)'; do \
  case "$$dir" in \
    *[!A-Za-z0-9_./+,=@:~-]*) echo "$$dir: no spaces, no quotes, nothing that a shell knows" >&2; exit 1 ;; \
    /*) ;; \
    *) echo "$$dir: PREFIX, LIBDIR and MANDIR begin with a slash" >&2; exit 1 ;; \
  esac; \
done
endef

install: lib man ## into PREFIX: headers, libraries, pages, pkg-config, CMake: make install PREFIX= DESTDIR= LIBDIR=
	$(sane_directories)
	install -d $(DEST)/include $(DEST_LIB) $(DEST_PC) $(DEST_CMAKE) $(DEST_MAN)/man3 $(DEST_MAN)/man7
	install -m 644 $(HEADER) $(HPP) $(DEST)/include
	@echo "$(DEST_MAN)/man3, man7" && install -m 644 target/man/man3/* $(DEST_MAN)/man3
	@install -m 644 target/man/man7/* $(DEST_MAN)/man7
	install -m 644 $(SHARED) $(DEST_LIB)/libio_engine.so.$(VERSION)
	$(STRIP) --strip-unneeded $(DEST_LIB)/libio_engine.so.$(VERSION)
	ln -sf libio_engine.so.$(VERSION) $(DEST_LIB)/$(SONAME)
	ln -sf $(SONAME) $(DEST_LIB)/libio_engine.so
	install -m 644 $(STATIC) $(DEST_LIB)/libio_engine.a
	$(STRIP) --strip-debug $(DEST_LIB)/libio_engine.a
	@for file in $(DEST_PC)/io_engine.pc $(DEST_CMAKE)/io_engineConfig.cmake \
	    $(DEST_CMAKE)/io_engineConfigVersion.cmake; do \
	  echo "$$file" && $(FILLED_IN) packaging/$${file##*/}.in > $$file && chmod 644 $$file || exit 1; \
	done
	@[ -n "$(DESTDIR)" ] || ldconfig 2>/dev/null || \
	  echo "run ldconfig as root, or set LD_LIBRARY_PATH=$(LIBDIR)"

# The library's files, of this major version, whichever minor. What is for building programs only where it is
# of this version: where another one was installed over it, that is the other's.
uninstall: man ## remove what install brought: with the same PREFIX= DESTDIR= LIBDIR=
	$(sane_directories)
	@case "$$(readlink $(DEST_LIB)/libio_engine.so)" in \
	'' | $(SONAME)) \
	  rm -fv $(DEST_LIB)/libio_engine.so $(DEST_LIB)/libio_engine.a $(DEST_PC)/io_engine.pc \
	    $(addprefix $(DEST_CMAKE)/,io_engineConfig.cmake io_engineConfigVersion.cmake) \
	    $(HEADER:include/%=$(DEST)/include/%) $(HPP:include/%=$(DEST)/include/%); \
	  (cd target/man && ls man3/* man7/*) | (cd $(DEST_MAN) 2>/dev/null && xargs rm -f) || true; \
	  rmdir $(DEST_CMAKE) 2>/dev/null || true ;; \
	*) echo "what is for building programs is of another version: it stays" ;; \
	esac
	@rm -fv $(DEST_LIB)/$(SONAME)
	@[ ! -d $(DEST_LIB) ] || find $(DEST_LIB)/ -maxdepth 1 -regex '.*/libio_engine\.so\.$(MAJOR)\.[0-9.]*' -print -delete
	@case $(abspath $(PREFIX)) in \
	/usr | /usr/local) ;; \
	*) cd $(DEST) 2>/dev/null && rmdir -p $(patsubst $(PREFIX)/%,%,$(LIBDIR)/cmake $(LIBDIR)/pkgconfig \
	     $(MANDIR)/man3 $(MANDIR)/man7 $(PREFIX)/include) 2>/dev/null || true ;; \
	esac

DEB := target/deb/io-engine-$(VERSION)
deb: tools-deb ## Debian packages of the library and of the development files, in target/deb
	@[ "$$(dpkg-parsechangelog -l packaging/debian/changelog -S Version)" = "$(VERSION)-1" ] || \
	  { echo "packaging/debian/changelog is of another version than $(VERSION)-1" >&2; exit 1; }
	@rm -rf target/deb && mkdir -p $(DEB)
	@cp -r packaging/debian $(DEB)
	@sed -n 's/^\(IOE_[0-9.]*\) {/\1/p' $(MAP) | while read -r node; do \
	  grep -q "(symver)$$node " packaging/debian/libio-engine1.symbols || \
	  { echo "packaging/debian/libio-engine1.symbols lacks $$node, which $(MAP) has" >&2; exit 1; }; \
	done
	cd $(DEB) && SOURCE='$(CURDIR)' dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
	lintian --fail-on error target/deb/*.changes

clean: ## remove everything that was made
	$(CARGO) clean

# $(call need,PROGRAM,PACKAGE): says by name what is missing.
define need
@command -v $(firstword $(1)) >/dev/null || { \
  echo "$(firstword $(1)) is missing: apt-get install $(2)" >&2; exit 1; }
endef

# $(call bring,PROGRAMS,HEADERS,PACKAGES): installs what a check needs, where that can be done.
bring = $(call bring_unless,for program in $(1); do command -v $$program || exit 1; done && \
  printf '#include <%s>\n' $(2) | $(CC) -include stdarg.h -include stddef.h -include stdint.h \
    -include setjmp.h -xc -E -,$(3))

# $(call bring_unless,COMMAND,PACKAGES): the same, where the command fails.
define bring_unless
@( $(1) ) >/dev/null 2>&1 || \
  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-remove $(2) >/dev/null; } || \
  { echo "missing: apt-get install $(2)" >&2; exit 1; }
endef

tools-c:
	$(call bring,$(CC) $(CXX) prove,cmocka.h,gcc g++ perl libcmocka-dev)

tools-install: tools-c tools-man
	$(call bring,clang++ cmake pkg-config readelf,stdio.h,clang cmake pkg-config binutils)

tools-deb:
	$(call bring,dpkg-buildpackage dh lintian,stdio.h,dpkg-dev debhelper lintian)

tools-abi: tools-c
	$(call bring,abidw abidiff readelf python3,stdio.h,abigail-tools binutils python3)

tools-man:
	$(call bring,man groff mandoc,stdio.h,man-db groff mandoc)

tools-cpp: tools-c
	$(call bring_unless,for compiler in g++ $(NEWEST_clang++); do echo 'int main() {}' | \
	  $$compiler -std=c++20 $(SANITIZE) -include coroutine -x c++ -o /dev/null - || exit 1; done,\
	  g++ clang libclang-rt-dev)

tools-perf:
	$(call bring,$(CC) valgrind objdump python3,valgrind/callgrind.h,gcc binutils valgrind python3)

tools-fuzz:
	$(call bring,$(CXX),stdio.h,g++)
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked --quiet cargo-fuzz

tools-faults: tools-c
	$(call bring,pkg-config fusermount3 nbdkit nbdfuse strace losetup mkfs.ext4 mkfs.xfs mkfs.btrfs,fuse3/fuse_opt.h,\
	  fuse3 libfuse3-dev pkg-config nbdkit libnbd-bin strace util-linux e2fsprogs xfsprogs btrfs-progs)

tools-rocksdb:
	$(call bring,$(CXX) db_bench ldb,stdio.h,g++ librocksdb-dev rocksdb-tools)
	$(call bring_unless,ls /usr/include/rocksdb/file_system.h,librocksdb-dev)

tools-crash:
	$(call bring,losetup mkfs.ext4,stdio.h,util-linux e2fsprogs)

# Debian 12 has a newer one of this name, which knows of files; from Debian 13 on the usual one does.
BOOST := $$(apt-cache show libboost1.81-dev >/dev/null 2>&1 && echo libboost1.81-dev || echo libboost-dev)
# A peer that cannot be had is left out.
tools-bench:
	$(call bring,$(CC) $(CXX),stdio.h,gcc g++)
	-$(call bring,$(CC),liburing.h,liburing-dev)
	-$(call bring,$(CC),uv.h,libuv1-dev)
	-$(call bring,$(CC),boost/asio/detail/io_uring_service.hpp,$(BOOST))
	-$(call bring,fio,stdio.h,fio)
	-$(call bring,valgrind,valgrind/callgrind.h,valgrind)
	-$(call bring_unless,ls /usr/lib/llvm-*/lib/libclang*.so*,libclang-dev)
	-$(call bring,perf,stdio.h,linux-perf)
	$(call bring,$(PYTHON),stdio.h,python3)
	-$(call bring_unless,$(PYTHON) -c 'import matplotlib',python3-matplotlib)
