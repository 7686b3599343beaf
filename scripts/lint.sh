#!/bin/sh
# Formatting, lints and the scripts themselves.
set -eu
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --features rowcast-engine/instructions --locked -- -D warnings
if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check; fi

for script in scripts/*.sh; do sh -n "$script"; done
bash -n .ci/run
if command -v shellcheck >/dev/null 2>&1; then shellcheck scripts/*.sh .ci/run; fi
