# What each target needs is installed by it (Debian packages, as root); the Rust toolchain must be
# there. See README.md.

SHELL := /bin/bash
CARGO ?= cargo
KUBECTL := target/tools/kubectl

# Programs that pods and hosts of the lab run.
LAB_COMMANDS := nginx mariadbd mariadb dig curl ping
# Programs that the bench writes other proxies' rules with.
BENCH_COMMANDS := nft ip iptables conntrack
# Programs that tests look at the kernel with.
TEST_COMMANDS := $(LAB_COMMANDS) nft ip iptables conntrack

# Kernels that tests are also run under, and what that takes.
KERNELS := 6.1 6.12
VM_COMMANDS := qemu-system-x86_64 busybox depmod xz
# Cargo runs tests by this program. It starts it in the directory of their crate.
VM = $(CURDIR)/target/debug/vm run --kernel $(CURDIR)/target/kernels/$* \
	--command nft --command ip --command ping --file $(CURDIR)/crates --file $(CURDIR)/tests \
	--env PORTOLAN_PATIENCE=3 --

.PHONY: help run build test test-unit test-e2e test-vm bench bench-quick lint format clean

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## Bring up a lab of two nodes on examples/ and print what reaches what.
	@scripts/install-packages cc $(LAB_COMMANDS)
	@scripts/fetch-kubectl
	$(CARGO) build --release -p portolan
	target/release/portolan lab up --tour -f examples

build: ## Build the release binary, target/release/portolan.
	@scripts/install-packages cc
	$(CARGO) build --release -p portolan

test: test-unit test-e2e ## Run all tests.

test-unit: ## Run unit, property and kernel tests (root).
	@scripts/install-packages cc $(TEST_COMMANDS)
	$(CARGO) test --workspace --exclude e2e

test-e2e: $(KUBECTL) ## Run the end-to-end tests (root): a lab, pods, packets and kubectl.
	@scripts/install-packages cc $(TEST_COMMANDS)
	$(CARGO) build -p portolan -p bench
	$(CARGO) test -p e2e -- --test-threads=1

test-vm: $(KERNELS:%=test-vm-%) ## Run tests of the data plane and of IPVS under older kernels, in a VM (no KVM needed).

test-vm-%:
	@scripts/install-packages cc $(VM_COMMANDS) nft ip ping
	@scripts/fetch-kernel $*
	$(CARGO) build -p vm
	$(CARGO) test -p dataplane --test packets --config 'target."cfg(all())".runner = "$(VM)"'
	$(CARGO) test -p portolan takeover --config 'target."cfg(all())".runner = "$(VM)"'

bench: ## Measure all and write docs/performance.md (root, half an hour). PEER=FILE adds a kube-proxy.
	@scripts/install-packages cc $(BENCH_COMMANDS)
	$(CARGO) build --release -p portolan -p bench
	target/release/bench run $(if $(PEER),--peer $(PEER)) $(BENCH_FLAGS)

bench-quick: ## Measure in some minutes; results go to target/bench (root).
	@scripts/install-packages cc $(BENCH_COMMANDS)
	$(CARGO) build --release -p portolan -p bench
	target/release/bench run --quick --out target/bench $(if $(PEER),--peer $(PEER)) $(BENCH_FLAGS)

$(KUBECTL):
	@scripts/fetch-kubectl

lint: ## Check the format and run clippy, warnings are errors.
	@scripts/install-packages cc
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

format: ## Format the code.
	$(CARGO) fmt --all

clean: ## Remove everything built or fetched.
	$(CARGO) clean
