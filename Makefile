# SPDX-License-Identifier: Apache-2.0
# FastOCI: make help
SHELL := /bin/bash
.DELETE_ON_ERROR:
CXX ?= g++
KVERS ?= $(shell selftests/kernels)
CXXFLAGS ?= -O2 -g
OUT := build
LDFLAGS ?= -Wl,-z,relro,-z,now
FASTOCI_VERSION := $(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dkms.conf)

override CXXFLAGS += -std=c++20 -Wall -Wextra -Werror -Ihelper -Iinclude/uapi -I. -DFASTOCI_VERSION='"$(FASTOCI_VERSION)"' \
	-D_FILE_OFFSET_BITS=64 -fstack-protector-strong -pthread -MMD -MP -I/usr/include/libnl3
LDLIBS := -lcurl -lnl-genl-3 -lnl-3 -lext2fs -lcom_err -lsqlite3 -ldevmapper -lseccomp -lssl -lcrypto -lisal -lyaml -lz -llz4 -lzstd -luuid -pthread

# Libraries, uppermost first: each may use only those behind it.
LIBS := serve attach miss verify cache kernel config image registry codec http control base
lib_srcs = $(filter-out %_test.cc,$(wildcard helper/$(1)/*.cc))
objs = $(patsubst %.cc,$(OUT)/obj/%.o,$(1))
LIBFILES := $(LIBS:%=$(OUT)/lib/%.a)
# containerd's interface: sources made from helper/containerd/*.proto.
GEN := $(OUT)/gen
PROTOS := $(wildcard helper/containerd/*.proto)
PROTO_SRCS := $(foreach p,$(PROTOS:helper/%.proto=$(GEN)/%),$(p).pb.cc $(p).grpc.pb.cc)
LIBS_snapshotter := -lgrpc++ -lgrpc -lgpr -lprotobuf -labsl_synchronization
# Directories with unit tests.
TESTDIRS := $(sort $(patsubst %/,%,$(dir $(wildcard helper/*/*_test.cc))))
TESTS := $(TESTDIRS:helper/%=$(OUT)/test/%)
BINS := bin/fastoci-helperd bin/fastoci-fetcherd bin/fastoci-decoderd bin/convertor bin/fastoci bin/fastoci-snapshotter

.PHONY: all help helper tools kmod check unit unit-build vmtest vmtest-debug demo lint lint-kmod fuzz bench-quick bench-convert clean kunit
all: helper tools kmod
help:
	@sed -n 's/^## //p' Makefile
## make helper tools kmod   build user space in bin/, the module in build/kmod/<kernel>/
helper: bin/fastoci-helperd bin/fastoci-fetcherd bin/fastoci-decoderd
tools: bin/convertor bin/fastoci bin/fastoci-snapshotter

$(GEN)/%.pb.cc $(GEN)/%.pb.h $(GEN)/%.grpc.pb.cc $(GEN)/%.grpc.pb.h: helper/%.proto
	@mkdir -p $(@D)
	protoc -I helper --cpp_out=$(GEN) --grpc_out=$(GEN) --plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) $<
# What is made is no concern of our warnings.
$(OUT)/obj/$(GEN)/%.o: $(GEN)/%.cc
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -w -c $< -o $@
GRPC_OBJS := $(call objs,$(PROTO_SRCS) $(wildcard helper/containerd/*.cc helper/snapshotter/*.cc tools/snapshotter/*.cc))
$(GRPC_OBJS): override CXXFLAGS += -isystem $(GEN)
$(GRPC_OBJS): | $(PROTO_SRCS:.cc=.h)
# A unit test's own sources are built once and run for seconds: what counts is the compiler's time.
$(OUT)/obj/%_test.o: QUICKLY := -O1 -g0
$(OUT)/obj/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) $(QUICKLY) -c $< -o $@
define lib_rule
$(OUT)/lib/$(1).a: $(call objs,$(call lib_srcs,$(1)))
	@mkdir -p $$(@D)
	rm -f $$@; ar rcs $$@ $$^
endef
$(foreach l,$(LIBS),$(eval $(call lib_rule,$(l))))

# role or tool -> its directory; a *_main.cc there is the program's main, the rest is shared with its tests
# The broker speaks to the other roles through their clients.
EXTRA_snapshotter := $(call lib_srcs,snapshotter) $(PROTO_SRCS) $(wildcard helper/containerd/*.cc) helper/broker/exporter.cc helper/broker/notify.cc \
	tools/fastoci/output.cc tools/fastoci/access_options.cc
EXTRA_broker := helper/decoder/client.cc helper/decoder/message.cc $(wildcard helper/fetcher/client.cc)
EXTRA_miss := $(EXTRA_broker)
define bin_rule
$(1): $(call objs,$(filter-out %_test.cc,$(wildcard $(2)/*.cc)) $(EXTRA_$(notdir $(2)))) $(LIBFILES)
	@mkdir -p bin
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $$@ $$^ $(LIBS_$(notdir $(2))) $(LDLIBS)
endef
$(eval $(call bin_rule,bin/fastoci-helperd,helper/broker))
$(eval $(call bin_rule,bin/fastoci-fetcherd,helper/fetcher))
$(eval $(call bin_rule,bin/fastoci-decoderd,helper/decoder))
$(eval $(call bin_rule,bin/convertor,tools/convertor))
$(eval $(call bin_rule,bin/fastoci,tools/fastoci))
$(eval $(call bin_rule,bin/fastoci-snapshotter,tools/snapshotter))
define test_rule
$(OUT)/test/$(1): $(call objs,$(filter-out %_main.cc,$(wildcard helper/$(1)/*.cc)) $(EXTRA_$(1))) $(call objs,$(wildcard helper/testing/*.cc)) $(filter-out $(OUT)/lib/$(1).a,$(LIBFILES))
	@mkdir -p $$(@D)
	$(CXX) $(CXXFLAGS) -o $$@ $$^ -lgtest -lgtest_main -lgmock $(LIBS_$(1)) $(LDLIBS)
endef
$(foreach t,$(TESTDIRS:helper/%=%),$(eval $(call test_rule,$(t))))
$(OUT)/test/attach $(OUT)/test/decoder $(OUT)/test/miss: | bin/fastoci-decoderd
$(OUT)/test/fetcher: | bin/fastoci-fetcherd

kmod:
	@set -e; for k in $(KVERS); do $(MAKE) -s kmod-$$k; done
# For a kernel that is installed, one of selftests/mkkernel's, or one that selftests/kernel-package has got.
kmod-%:
	@if selftests/kernel-package have $* > /dev/null; then exec selftests/kernel-package module $*; fi; \
	mkdir -p $(OUT)/kmod/$* && cp -ru kmod/. $(OUT)/kmod/$*/ && cp -u include/uapi/*.h $(OUT)/kmod/$*/ && \
	build=/lib/modules/$*/build; case $* in debug|kcsan) build=$$(selftests/mkkernel $*) ;; esac && \
	for dir in . tests/pause; do $(MAKE) -C $$build M=$(CURDIR)/$(OUT)/kmod/$*/$$dir W=1 modules || exit; done

## make check   unit tests, and the selftests on Debian's 6.1 and 6.12 kernels
check:
	selftests/check
unit-build: $(TESTS)
unit: $(TESTS)
	@set -e; for t in $(TESTS); do $$t --gtest_brief=1; done
vmtest: all
	selftests/run
## make vmtest-debug   the kernel's selftests under KASAN, lockdep, kmemleak (CASES= chooses, "all" takes all)
CASES ?= $(notdir $(basename $(wildcard selftests/cases/kernel-*.sh)))
vmtest-debug: kmod-debug
	selftests/run -k debug $(filter-out all,$(CASES))
## make vmtest-kcsan   those of concurrency under the data-race detector (KCSAN_CASES)
KCSAN_CASES ?= kernel-hot kernel-races kernel-reread kernel-stress kernel-protocol
.PHONY: vmtest-kcsan
vmtest-kcsan: kmod-kcsan
	selftests/run -k kcsan $(KCSAN_CASES)
## make kernels-matrix   the module for each kernel whose headers Debian 12, 13 and sid have, amd64 and arm64: a table (ten minutes; 3 GB cached)
.PHONY: kernels-matrix check-newest
kernels-matrix:
	selftests/kernels-matrix
## make check-newest   the kernel's cases and the main job on the newest kernel of Debian 13's backports, and bench-quick's figures
NEWEST_CASES ?= $(addprefix kernel-,reads protocol policy reread suspend io corrupt hot races stress) netlink-client helperd main-job fastoci-cli
check-newest: helper tools
	@release=$$(selftests/kernel-package newest) && selftests/kernel-package get $$release > /dev/null && \
	$(MAKE) -s kmod-$$release && selftests/run -k $$release $(NEWEST_CASES) && KVERS=$$release selftests/bench-quick
## make kmod-image   an OCI image with the modules in build/kmod, in the layout build/kmod-image (packaging/kmod-image)
.PHONY: kmod-image check-packaging
kmod-image: kmod
	rm -rf $(OUT)/kmod-image
	packaging/kmod-image/kmod-image -o $(OUT)/kmod-image -t $(FASTOCI_VERSION) $(KVERS:%=$(OUT)/kmod/%/dm-fastoci.ko)
## make check-packaging   that image and its loader, Kubernetes' manifests, the system extension, RPM packages (no VM)
check-packaging: helper tools kmod
	selftests/kmod-image
	selftests/kubernetes
	selftests/sysext
	selftests/rpm
## make coverage-kmod   on the debug kernel: the module's lines that no case reaches, beside selftests/kmod-unreached
COVERAGE_CASES ?= $(addprefix kernel-,protocol policy reads reread suspend io corrupt races faults)
.PHONY: coverage-kmod
coverage-kmod:
	$(MAKE) -s kmod-debug GCOV_PROFILE=y
	selftests/run -k debug -j1 $(COVERAGE_CASES)
	selftests/coverage-kmod $(COVERAGE_CASES)
## make kunit   the kernel's KUnit suites under User-Mode Linux (KASAN, lockdep)
kunit:
	selftests/kunit
## make containerd-suite   containerd's own suite for snapshotters, over ours
.PHONY: containerd-suite
containerd-suite: bin/fastoci-snapshotter
	selftests/containerd-suite
## make containerd-long   50 containers of 10 images, 50 kills while they read, a reboot without registry, in VMs
.PHONY: containerd-long
containerd-long: helper tools kmod
	MANY_POINTS=50 KILLS_POINTS=50 PODS_POINTS=3 selftests/run -k $$(selftests/kernels | tail -1) containerd-many containerd-kills containerd-pods
	selftests/reboot containerd
## make demo   a real image converted, attached and started in a VM, with figures
demo:
	selftests/install-deps
	$(MAKE) -j$$(nproc) helper tools kmod
	selftests/demo
## make powercut   a VM killed at random moments while its cache fills and evicts (POWERCUT_ROUNDS, POWERCUT_SEED)
.PHONY: powercut
powercut: helper kmod
	selftests/powercut
## make nodetest   Debian with systemd and our packages in a VM: the documents' commands, reboots, crashes, purge (~1.7 GB cached)
## make nodetest-debian13   the same on Debian 13, with packages built there; before it, the unit tests there (an hour; ~4 GB cached)
.PHONY: nodetest nodetest-debian13
nodetest:
	selftests/nodetest
nodetest-debian13:
	selftests/in-release trixie make -j$$(nproc) helper tools unit-build
	selftests/in-release trixie make -s unit
	selftests/nodetest trixie
## make nodetest-containerd   the cases containerd, containerd-pods with containerd 1.7 and 2.x, of Debian 13 and sid (150 MB each, cached)
.PHONY: nodetest-containerd
nodetest-containerd: helper tools kmod
	selftests/nodetest-containerd
## make secureboot   a VM with Secure Boot: the unsigned module is refused, signed ones load; docs/secure-boot.md's commands
.PHONY: secureboot sleep
secureboot: helper tools kmod
	selftests/secureboot
## make sleep   suspend to RAM, hibernation, reboot and kexec of a node whose image is read (a VM with systemd, ~1.7 GB cached)
sleep: helper tools kmod
	selftests/sleep
## make registries   each kind of registry, with credentials from each way (a minute; no VM)
## make registries-all   also through nginx, and the helper with what each way keeps, over restarts and reboots (ten minutes; root)
.PHONY: registries registries-all
registries: helper tools
	selftests/registries
registries-all: helper tools $(OUT)/bench/cold_bench $(OUT)/bench/keep_attach
	selftests/registries all
## make soak   nothing grows while images come and go and the helper dies, for SOAK_SECONDS (120) in a VM
.PHONY: soak
soak: helper tools kmod
	selftests/soak
## make bench-cache   hit ratios of eviction policies on a recorded trace, in build/bench/cache.json
.PHONY: bench-cache
bench-cache: $(OUT)/bench/cache_bench
	zcat selftests/fixtures/cache-trace.gz > $(OUT)/bench/cache-trace
	$(OUT)/bench/cache_bench $(OUT)/bench/cache-trace $(OUT)/bench/cache.json
$(OUT)/bench/cache_bench: $(call objs,helper/bench/cache_bench.cc helper/cache/eviction.cc)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -o $@ $^
## make bench   all of the following groups, and docs/benchmarks.md from them; GROUP=hit: one (selftests/bench says which)
.PHONY: bench bench-lookup
bench:
	selftests/bench $(GROUP)
bench-lookup: $(OUT)/bench/lookup_bench
	$< $(OUT)/bench/lookup.json
# The module's own table, built in user space as its fuzzer does.
LOOKUP_FLAGS := -O2 -g -Wall -Wextra -Werror -Wno-sign-compare -Ikmod/tests/fuzz -Iinclude/uapi -Ikmod -I.
$(OUT)/bench/lookup_bench: helper/bench/lookup_bench.cc kmod/extent.c kmod/extent.h include/uapi/fastoci_meta.h
	@mkdir -p $(@D)
	$(CC) $(LOOKUP_FLAGS) -c kmod/extent.c -o $(OUT)/bench/extent.o
	$(CXX) -std=c++20 $(LOOKUP_FLAGS) $< $(OUT)/bench/extent.o -o $@
## make bench-cold   what a miss and an eager fetch cost, beside floors and ordinary pulls: no VM, build/bench/cold.json
.PHONY: bench-cold
bench-cold: helper tools $(OUT)/bench/cold_bench $(OUT)/bench/link_proxy
	selftests/bench-cold
## make bench-cost   what a node pays: CPU time, memory, bytes written: no VM, build/bench/cost.json
.PHONY: bench-cost
bench-cost: helper tools $(OUT)/bench/cold_bench
	selftests/bench-cost
## make bench-eager   all of a large image onto the node, beside ordinary pulls: no VM, build/bench/eager.json
.PHONY: bench-eager
bench-eager: helper tools $(OUT)/bench/cold_bench
	selftests/bench-eager
## make bench-service   from the pull to a service's first answer, beside containerd's own pull, in User-Mode Linux: build/bench/service.json
.PHONY: bench-service
bench-service: helper tools
	selftests/bench-service
## make bench-density   100 images, 1,000 devices, 50 containers at once, in User-Mode Linux: build/bench/density.json
.PHONY: bench-density
bench-density: helper tools
	selftests/bench-density
$(OUT)/bench/cold_bench: $(call objs,helper/bench/cold_bench.cc helper/bench/stand_in_kernel.cc) $(LIBFILES)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -o $@ $^ $(LDLIBS)
# The part of an attach that needs no kernel, for selftests/registries.
$(OUT)/bench/keep_attach: $(call objs,helper/bench/keep_attach.cc) $(LIBFILES)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -o $@ $^ $(LDLIBS)
$(OUT)/bench/link_proxy: $(call objs,helper/bench/link_proxy.cc)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -o $@ $^
# The helper's targets, see helper/fuzz/fuzz.h; built with what they reach.
FUZZ_CXX := $(if $(findstring ccache,$(CXX)),ccache )clang++
FUZZ_OPT ?= -O1
FUZZ_FLAGS := $(filter-out -O%,$(CXXFLAGS)) $(FUZZ_OPT) -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer
FUZZERS := $(patsubst helper/fuzz/%_fuzz.cc,%,$(wildcard helper/fuzz/*_fuzz.cc))
FUZZ_SRCS := $(call lib_srcs,codec) $(call lib_srcs,base) $(call lib_srcs,registry) $(call lib_srcs,http) $(addprefix helper/attach/,manifest.cc start_trace.cc) $(addprefix helper/serve/,http_server.cc notification.cc) helper/image/meta_image.cc \
	helper/miss/span_plan.cc helper/kernel/dm_control.cc \
	$(addprefix helper/image/,assemble.cc blob_codec.cc meta_layer.cc oci_image.cc platform.cc seed_data.cc seed_manifest.cc xattrs.cc) helper/testing/deflate_oracle.cc \
	$(addprefix helper/fetcher/,image.cc locations.cc places.cc redirects.cc)
fuzz_objs = $(patsubst %.cc,$(OUT)/fuzz/obj/%.o,$(1))
$(OUT)/fuzz/obj/%.o: %.cc
	@mkdir -p $(@D)
	$(FUZZ_CXX) $(FUZZ_FLAGS) -c $< -o $@
$(OUT)/fuzz/lib.a: $(call fuzz_objs,$(FUZZ_SRCS))
	rm -f $@; ar rcs $@ $^
$(FUZZERS:%=$(OUT)/fuzz/%): $(OUT)/fuzz/%: $(OUT)/fuzz/obj/helper/fuzz/%_fuzz.o $(OUT)/fuzz/lib.a
	$(FUZZ_CXX) $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)
.SECONDARY: $(call fuzz_objs,$(FUZZERS:%=helper/fuzz/%_fuzz.cc))
.PHONY: fuzz-kmod fuzz-helper fuzz-build
fuzz-build: $(FUZZERS:%=$(OUT)/fuzz/%)
fuzz-helper: fuzz-build
	selftests/fuzz $(FUZZ_SECONDS) $(FUZZERS)
## make bench-quick   guest instructions per random 4 KiB read; fails if they have grown by 5 % (KEEP=1 keeps them)
bench-quick:
	selftests/bench-quick
## make bench-scale   1,000 devices, 1,000,000 extents, 10,000 misses: seconds and kernel memory, in build/bench/scale.json
.PHONY: bench-scale
bench-scale:
	selftests/bench-scale
## make lint   what style.md's tools say; lint-kmod is the kernel half
lint: lint-kmod lint-shell lint-threads
.PHONY: lint-shell lint-threads
lint-shell:
	shellcheck -S warning -e SC2034,SC2120 -x -P SCRIPTDIR $$(grep -lIE '^#!/bin/(ba)?sh' .ci/* selftests/* selftests/lib/* selftests/cases/* packaging/* packaging/*/* 2>/dev/null)
## make lint-threads   clang's analysis of the locks in helper/
lint-threads:
	selftests/lint-threads
lint-kmod:
	selftests/lint-kmod
## make fuzz   each parser of untrusted bytes, the kernel's and the helper's, for FUZZ_SECONDS (60); needs clang
FUZZ_SECONDS ?= 60
fuzz: fuzz-kmod fuzz-helper
$(OUT)/fuzz/meta_fuzz: kmod/tests/fuzz/meta_fuzz.c kmod/metacheck.c kmod/extent.c $(wildcard kmod/*.h kmod/tests/fuzz/linux/*.h include/uapi/*.h)
	@mkdir -p $(@D)
	clang -g -O1 -Wall -Wextra -Werror -Wno-sign-compare -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		-Ikmod/tests/fuzz -Iinclude/uapi -Ikmod $(filter %.c,$^) -o $@
fuzz-kmod: $(OUT)/fuzz/meta_fuzz
	/usr/bin/python3 kmod/tests/fuzz/seeds.py $(OUT)/fuzz/meta_seeds
	@mkdir -p $(OUT)/fuzz/meta_corpus
	$< -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -print_final_stats=1 $(OUT)/fuzz/meta_corpus $(OUT)/fuzz/meta_seeds
## make bench-convert   size and cost of meta layers, into build/bench/convert.json
bench-convert: tools
	selftests/bench-convert
## make convert-releases   the convertor's digests with Debian 13's libraries (SUITES=trixie), from Debian's mirror
SUITES ?= trixie
.PHONY: convert-releases
convert-releases: tools
	selftests/convert-releases $(SUITES)
clean:
	rm -rf $(OUT) bin
include packaging/install.mk
-include $(shell find $(OUT)/obj $(OUT)/fuzz/obj -name '*.d' 2>/dev/null)
