# The only commands to remember. Each installs what it needs and lacks (Debian, Ubuntu; as root or with sudo).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-huge fuzz lint test-compose bench-capture bench-pgbench bench-huge bench-latency bench-snapshot bench-journal \
	bench-opening bench-instructions \
	install-deps

# Of PostgreSQL, for test-matrix.
VERSIONS ?= 14 15 16 17 18

# Where rustup puts cargo, for shells that have not read its settings.
export PATH := $(HOME)/.cargo/bin:$(PATH)

help: ## Show this
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 28

demo: ## A throw-away Postgres under load, with every door open; Ctrl-C ends it
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	cargo build --release --locked
	@exec target/release/rowcast demo

# The tests wait for servers more than they compute: with a thread for each processor half of the time is idle.
test: export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))
test: install-deps ## All tests, against real Postgres, Kafka and Chromium
	cargo test --workspace --locked

test-matrix: install-deps ## What the server's version can change, on PostgreSQL 14 to 18 (VERSIONS="14 18" for fewer)
	@$(if $(filter-out 15,$(VERSIONS)),scripts/install-postgres-matrix.sh $(filter-out 15,$(VERSIONS)))
	@scripts/test-matrix.sh $(VERSIONS)

test-huge: ## 5,000,000 rows in one transaction, sent whole and in pieces: memory stays flat, nobody waits (some minutes)
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	ROWCAST_TEST_HUGE_ROWS=5000000 cargo test --workspace --locked --test tests -- --nocapture --test-threads=1 huge::

fuzz: ## Models and fuzzers of journal, stream and snapshots, ROWCAST_FUZZ_SECONDS each (600); a seed that fails is printed
	@scripts/install-build.sh
	ROWCAST_FUZZ_SECONDS=$${ROWCAST_FUZZ_SECONDS:-600} cargo test -p rowcast-postgres --locked --test tests -- \
		--nocapture fuzz::
	ROWCAST_FUZZ_SECONDS=$${ROWCAST_FUZZ_SECONDS:-600} cargo test -p rowcast-postgres --locked --lib -- \
		--nocapture snapshot::model::
	ROWCAST_FUZZ_SECONDS=$${ROWCAST_FUZZ_SECONDS:-600} cargo test -p rowcast-engine --locked --test tests -- \
		--nocapture --test-threads=1 model:: fuzz::

lint: ## Formatting, clippy, shell scripts; dependencies where cargo-deny is installed
	@scripts/install-build.sh
	@scripts/lint.sh

test-compose: ## docker compose as a user tries it, then the integration tests inside, against its services
	@scripts/test-compose.sh

bench-capture: ## Rows per second from seven backlogs, beside pg_recvlogical (about 15 minutes)
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	cargo build --release --locked --workspace
	@exec target/release/rowcast-bench capture

bench-pgbench: ## What a reader costs the server: pgbench beside rowcast, beside pg_recvlogical, alone
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	cargo build --release --locked --workspace
	@exec target/release/rowcast-bench pgbench

bench-huge: ## A transaction of 2M rows and small ones beside it, with source.streaming off and on
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	cargo build --release --locked --workspace
	@exec target/release/rowcast-bench huge

bench-latency: ## From insert to SSE client, at 1 and at 500 transactions a second
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	cargo build --release --locked --workspace
	@exec target/release/rowcast-bench latency

bench-snapshot: ## Rows per second of a snapshot beside changes, beside COPY
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	cargo build --release --locked --workspace
	@exec target/release/rowcast-bench snapshot

bench-journal: ## The journal's appends and reads, beside what the disk and the memory can do
	@scripts/install-build.sh
	cargo bench --locked -p rowcast-engine --bench journal

bench-opening: ## Opening 10 GiB of journal, 10,000 segments, the removal of a huge one (10 GiB of disk; as root also uncached)
	@scripts/install-build.sh
	cargo bench --locked -p rowcast-engine --bench journal -- opening

bench-instructions: ## Instructions of appending and reading, beside the committed counts (WRITE=--write takes them over)
	@scripts/install-build.sh
	@scripts/bench-instructions.sh $(WRITE)

install-deps: ## Install what building and testing need, where it is missing
	@scripts/install-build.sh
	@scripts/install-postgres.sh
	@scripts/install-extensions.sh
	@scripts/install-kafka.sh
	@scripts/install-browser.sh
	@scripts/install-pooler.sh
	@scripts/apt-install.sh curl openssl python3
