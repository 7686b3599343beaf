#!/bin/sh
# Formatting, lints and the scripts themselves.
set -eu
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings

# What the tests kill can kill itself; what is shipped must not.
features() { cargo tree --package rowcast --locked --edges "normal,build,features$1"; }
if features "" | grep abort-points; then
  echo "A normal build of rowcast has the feature abort-points" >&2
  exit 1
fi
# Were it gone from the tests too, the lines above would find nothing for ever.
features ",dev" | grep -q abort-points

if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check; fi

for script in scripts/*.sh; do sh -n "$script"; done
bash -n .ci/run
if command -v shellcheck >/dev/null 2>&1; then shellcheck scripts/*.sh .ci/run; fi
