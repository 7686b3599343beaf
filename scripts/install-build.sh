#!/bin/sh
# What building needs: a C and C++ compiler and cmake (for librdkafka, whose headers name curl's even when it is left
# out), and Rust.
set -eu
cd "$(dirname "$0")"
./apt-install.sh ca-certificates cmake g++ libcurl4-openssl-dev libssl-dev make pkg-config zlib1g-dev

[ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' ../Cargo.toml | head -n 1)
if ! command -v cargo >/dev/null 2>&1; then
  cat >&2 <<END
Rust $want or newer is missing. Install it with rustup, then run this again:
  https://rustup.rs        (or: apt-get install rustup, on Debian 13 and Ubuntu 24.04)
END
  exit 1
fi
have=$(cargo --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
  echo "Rust $have is too old: $want or newer is needed. Install it with rustup: https://rustup.rs" >&2
  exit 1
fi
