# What each target needs is installed by it (Debian packages, as root); the Rust toolchain must be
# there. See README.md.

SHELL := /bin/bash
CARGO ?= cargo
KUBECTL := target/tools/kubectl

# What building takes: a linker, and what compiles the programs in bpf/.
BUILD_COMMANDS := cc clang /usr/include/bpf/bpf_helpers.h
# Programs that pods and hosts of the lab run.
LAB_COMMANDS := nginx mariadbd mariadb dig curl ping
# Programs that the bench writes other proxies' rules with.
BENCH_COMMANDS := nft ip iptables conntrack
# What asks DNS, what is asked beside it, and what gives each a processor.
BENCH_DNS_COMMANDS := dnsperf unbound taskset
# Resolvers that names are asked by: of another C library, and of a library of their own.
RESOLVER_COMMANDS := musl-gcc /usr/include/ares.h
# Programs that tests look at the kernel with.
TEST_COMMANDS := $(LAB_COMMANDS) nft ip iptables conntrack $(RESOLVER_COMMANDS)

# Kernels that tests are also run under, and what that takes.
KERNELS := 6.1 6.12
VM_COMMANDS := qemu-system-x86_64 busybox depmod xz
# Programs that the packet tests run there. Of iptables, the VM takes all that belong to it.
PACKET_COMMANDS := nft ip ping iptables ip6tables conntrack
# Programs that tests of the binary run there besides.
BINARY_COMMANDS := curl ipvsadm pkill
# Data planes that are tested there. Leaving out those that write by iptables keeps it short.
VM_PLANES := nftables,ipvs,ebpf
# Cargo runs tests by this program. It starts it in the directory of their crate.
VM = $(CURDIR)/target/debug/vm run --kernel $(CURDIR)/target/kernels/$* --timeout 2400 \
	$(PACKET_COMMANDS:%=--command %) --file $(CURDIR)/crates --file $(CURDIR)/tests \
	--env PORTOLAN_PATIENCE=5 --env PORTOLAN_PLANES=$(VM_PLANES) $(VM_FLAGS)
# The same with the binary under test, and what it and its tests run.
VM_BINARY = $(VM) --memory 2048 --module ip_vs $(BINARY_COMMANDS:%=--command %) \
	$(patsubst %,--command $(CURDIR)/target/debug/%,portolan traffic)

# Where the matrix of data planes has what its runs say.
RESULTS := $(CURDIR)/target/dataplanes
# Data planes that this machine's own kernel is tested with; ipvs is for the VMs.
NATIVE_PLANES := nftables,iptables-nft,iptables-legacy,ebpf

.PHONY: help run build test test-unit test-e2e test-vm test-long dataplanes bench bench-quick bench-dns bench-vm fuzz lint format clean

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## Bring up a lab of two nodes on examples/ and print what reaches what.
	@scripts/install-packages $(BUILD_COMMANDS) $(LAB_COMMANDS)
	@scripts/fetch-kubectl
	$(CARGO) build --release -p portolan
	target/release/portolan lab up --tour -f examples

build: ## Build the release binary, target/release/portolan.
	@scripts/install-packages $(BUILD_COMMANDS)
	$(CARGO) build --release -p portolan

test: test-unit test-e2e test-vm ## Run all tests (root), also under older kernels in a VM.

test-unit: ## Run unit, property and kernel tests (root).
	@scripts/install-packages $(BUILD_COMMANDS) $(TEST_COMMANDS)
	$(CARGO) test --workspace --exclude e2e --no-fail-fast

test-e2e: $(KUBECTL) ## Run the end-to-end tests (root): a lab, pods, packets and kubectl.
	@scripts/install-packages $(BUILD_COMMANDS) $(TEST_COMMANDS)
	$(CARGO) build -p portolan -p bench
	$(CARGO) test -p e2e -- --test-threads=1

test-long: $(KUBECTL) ## Run what takes long: a proxy is killed a thousand times, 200,000 ports are served (root).
	@scripts/install-packages $(BUILD_COMMANDS) $(TEST_COMMANDS)
	$(CARGO) build -p portolan
	$(CARGO) test -p dataplane --test packets -- --ignored --nocapture
	PORTOLAN_KILLS=1000 $(CARGO) test -p e2e --test downtime -- killed --nocapture --test-threads=1

# A VM has one processor and this machine mostly two, so kernels have their turn beside each other. What must be there
# for that is there before.
test-vm: $(KERNELS:%=vm-kernel-%) ## Run tests of the data plane and of IPVS under older kernels, in a VM (no KVM needed).
	@scripts/install-packages $(BINARY_COMMANDS)
	$(CARGO) build -p portolan
	scripts/beside-each-other $(KERNELS:%=vm-packets-%) $(KERNELS:%=vm-binary-%)

# What nftables is made of is the same in both: once is enough here, `make dataplanes` has it in each.
vm-packets-6.12: VM_PLANES := ipvs,ebpf

# Packets through the data planes, whatever this machine's own kernel has.
vm-packets-%: vm-kernel-%
	$(CARGO) test -p dataplane --test packets --config 'target."cfg(all())".runner = "$(VM) --"'

# What only kernels with IPVS show of the binary.
vm-binary-%: vm-kernel-%
	@scripts/install-packages $(BINARY_COMMANDS)
	$(CARGO) build -p portolan
	$(CARGO) test -p portolan takeover --config 'target."cfg(all())".runner = "$(VM) --"'
	$(CARGO) test -p e2e --test ipvs --config 'target."cfg(all())".runner = "$(VM_BINARY) --"' -- --test-threads=1

vm-kernel-%:
	@scripts/install-packages $(BUILD_COMMANDS) $(VM_COMMANDS) $(PACKET_COMMANDS)
	@scripts/fetch-kernel $*
	$(CARGO) build -p vm

# What is tested is the commit that this begins at. The page is written also if something failed, and says it;
# then this fails. A run that left no results at all ends it at once.
dataplanes: COMMIT := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
dataplanes: $(RESULTS)/native.jsonl $(KERNELS:%=$(RESULTS)/vm-%.jsonl) ## Test every data plane, also in VMs, and write docs/dataplanes.md (root).
	$(CARGO) run -p matrix -- --commit $(COMMIT) $^
	@! ls $(RESULTS)/*.failed 2>/dev/null

$(RESULTS)/native.jsonl: FORCE
	@scripts/install-packages $(BUILD_COMMANDS) $(PACKET_COMMANDS)
	@mkdir -p $(RESULTS)
	@rm -f $@ $@.failed
	$(CARGO) test -p dataplane --test packets --no-run
	PORTOLAN_RESULTS=$@ PORTOLAN_PLANES=$(NATIVE_PLANES) $(CARGO) test -p dataplane --test packets || touch $@.failed
	@test -s $@

$(RESULTS)/vm-%.jsonl: FORCE
	@mkdir -p $(RESULTS)
	@rm -f $@ $@.failed
	$(MAKE) vm-packets-$* VM_PLANES=$(VM_PLANES) VM_FLAGS="--env PORTOLAN_RESULTS=/run/results --fetch /run/results=$@" || touch $@.failed
	@test -s $@

FORCE:

bench: ## Measure all and write docs/performance.md (root, hours; BENCH_FLAGS="--runs 2" an hour). PEER=FILE adds a kube-proxy.
	@scripts/install-packages $(BUILD_COMMANDS) $(BENCH_COMMANDS)
	$(CARGO) build --release -p portolan -p bench
	target/release/bench run $(if $(PEER),--peer $(PEER)) $(BENCH_FLAGS)

bench-quick: ## Measure in some minutes; results go to target/bench (root).
	@scripts/install-packages $(BUILD_COMMANDS) $(BENCH_COMMANDS)
	$(CARGO) build --release -p portolan -p bench
	target/release/bench run --quick --out target/bench $(if $(PEER),--peer $(PEER)) $(BENCH_FLAGS)

bench-dns: ## Measure cluster DNS beside unbound and an echo, some minutes (root). PEER=FILE adds a CoreDNS.
	@scripts/install-packages $(BUILD_COMMANDS) $(BENCH_DNS_COMMANDS)
	$(CARGO) build --release -p portolan -p bench
	target/release/bench dns $(if $(PEER),--peer $(PEER)) $(BENCH_FLAGS)

# How long each part of `make fuzz` takes.
FUZZ_SECONDS ?= 3600

fuzz: ## Send DNS what no honest client or server sends, for an hour (FUZZ_SECONDS).
	@scripts/install-packages $(BUILD_COMMANDS)
	PORTOLAN_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --release -p dns --test fuzz -- --nocapture

# The machine of `make bench-vm`: its kernel, and megabytes for 10,000 Services on each data plane at once.
KERNEL ?= 6.12
BENCH_VM_MEMORY := 4096
# Connections are left out: on two processors that do other work as well, their rates vary tenfold there.
# Empty, they are measured too.
BENCH_VM_PARTS ?= --only-control
# Without any, the proxy does not start.
CA_CERTIFICATES := /etc/ssl/certs/ca-certificates.crt

bench-vm: COMMIT := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
bench-vm: ## Measure IPVS beside nftables in a VM, five minutes, into docs/performance.md. KERNEL=6.1 or 6.12.
	@scripts/install-packages $(BUILD_COMMANDS) $(VM_COMMANDS) $(BENCH_COMMANDS)
	@scripts/fetch-kernel $(KERNEL)
	$(CARGO) build -p vm
	$(CARGO) build --release -p portolan -p bench
	@mkdir -p target/bench
	target/debug/vm run --kernel target/kernels/$(KERNEL) --memory $(BENCH_VM_MEMORY) --timeout 3600 \
		$(BENCH_COMMANDS:%=--command %) --file $(CA_CERTIFICATES) --command $(CURDIR)/target/release/portolan \
		--fetch /run/bench/performance/results.json=target/bench/ipvs.json \
		-- $(CURDIR)/target/release/bench run --out /run/bench --portolan $(CURDIR)/target/release/portolan \
		--imitated --commit $(COMMIT) --dataplanes nftables,ipvs --services 1000,10000 \
		$(BENCH_VM_PARTS) --no-shapes --churn 4000 --runs 3 $(BENCH_FLAGS)
	cp target/bench/ipvs.json docs/performance/ipvs.json
	target/release/bench page

$(KUBECTL):
	@scripts/fetch-kubectl

lint: ## Check the format and run clippy, warnings are errors.
	@scripts/install-packages $(BUILD_COMMANDS)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

format: ## Format the code.
	$(CARGO) fmt --all

clean: ## Remove everything built or fetched.
	$(CARGO) clean
