#!/bin/sh
# Counts the instructions of fixed pieces of the journal's work under callgrind and compares them with the committed
# numbers: more than 5% above fails, and so does more than 5% below, since what is not taken over can be lost again unseen.
# Takes no notice of how fast or busy the machine is. With --write the numbers are taken over.
set -eu
cd "$(dirname "$0")/.."
scripts/apt-install.sh valgrind

committed=engine/benches/instructions.toml
if [ "$(uname -m)" != x86_64 ]; then
  echo "The committed counts are those of x86_64, this is $(uname -m): nothing to compare with"
  exit 0
fi

cargo build --locked --profile instructions -p rowcast-engine --features instructions --bin instructions
binary=${CARGO_TARGET_DIR:-target}/instructions/instructions
work=$(mktemp -d "${binary%/*}/count.XXXXXX"); trap 'rm -rf "$work"' EXIT

# What the C library picks by the processor's model is turned off, so that another one gives the same counts.
GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM:glibc.cpu.x86_non_temporal_threshold=0x10000000 \
  valgrind --quiet --tool=callgrind --callgrind-out-file="$work/out" "$binary" "$work" </dev/null
callgrind_annotate --inclusive=yes --threshold=100 "$work/out" >"$work/functions"

# "name: function" of what is counted; the names are those of the committed file.
found="" failed=0
count() {
  counted=$(grep -F "$2" "$work/functions" | head -n 1 | sed 's/^ *\([0-9,]*\).*/\1/; s/,//g')
  if [ -z "$counted" ]; then
    echo "callgrind saw no function $2" >&2
    exit 1
  fi
  found="$found$1 = $counted
"
  before=$(sed -n "s/^$1 = \([0-9]*\)$/\1/p" "$committed")
  if [ -z "$before" ]; then
    printf '%-10s %12d instructions, not committed yet\n' "$1" "$counted"
    failed=1
    return
  fi
  per_mille=$(((counted - before) * 1000 / before))
  verdict="as committed"
  if [ "$per_mille" -gt 50 ]; then
    verdict="MORE than the committed $before by more than 5%" failed=1
  elif [ "$per_mille" -lt -50 ]; then
    verdict="LESS than the committed $before by more than 5%" failed=1
  fi
  printf '%-10s %12d instructions, %+d per mille: %s\n' "$1" "$counted" "$per_mille" "$verdict"
}

count build "instructions::counted_build"
count append "journal::writer::Writer::round"
count read "instructions::counted_read"
count events "instructions::counted_events"
count one_table "instructions::counted_one_table"

if [ "${1:-}" = --write ]; then
  { sed -n '/^#/p' "$committed"; printf '%s' "$found"; } >"$work/new"
  cp "$work/new" "$committed"
  echo "Written to $committed"
elif [ "$failed" = 1 ]; then
  echo "If the work is worth its instructions, or takes less now, take the numbers over: make bench-instructions WRITE=--write" >&2
  exit 1
fi
