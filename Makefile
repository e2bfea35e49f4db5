# What each target needs is installed by it (Debian packages, as root); the Rust toolchain must be
# there. See README.md.

SHELL := /bin/bash
CARGO ?= cargo
KUBECTL := target/tools/kubectl

# Programs that pods and hosts of the lab run.
LAB_COMMANDS := nginx mariadbd mariadb dig curl ping
# Programs that tests look at the kernel with.
TEST_COMMANDS := $(LAB_COMMANDS) nft ip iptables conntrack

.PHONY: help run build test test-unit test-e2e lint format clean

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
	$(CARGO) build -p portolan
	$(CARGO) test -p e2e -- --test-threads=1

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
