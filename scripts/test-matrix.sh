#!/bin/sh
# The tests that a server's version can change, on several versions of PostgreSQL: the connector's own, and the
# scenarios of the whole program that capture. One line a version, with the tests that could not be run on it, for want
# of a program or of an extension, or of what only later versions have; what failed is printed.
# usage: [ROWCAST_MATRIX=short] test-matrix.sh MAJOR...
set -eu
cd "$(dirname "$0")/.."

# Of the whole program: what connections, rows, tables, types, slots, snapshots, positions and custom events become, and
# the commands that ask the source. Doors, sinks, journal and page see only what capture has made of them.
scenarios="abort:: adopt:: commands:: confirm:: connection:: custom:: extensions:: filling:: flow:: hangup:: huge:: keyless::
  large:: liveness:: naps:: neighbours:: resnapshot:: resume:: setup:: slot:: snapshot:: start:: tables::
  type_changes:: types:: unrendered:: workload:: yielding::"

# `short` leaves out what takes long and is made by us, by the network or by the disk, on any version: the versions of a
# CI run have an hour and a half with all the rest.
of_connector="" of_program=""
if [ "${ROWCAST_MATRIX:-whole}" = short ]; then
  for name in network:: liveness::confirmations_that_do_not_arrive budget::slots_that_are_not_given_up \
    full::a_full_journal_costs_no_connection full::an_order_does_not full::a_table_is_not_locked refusals:: \
    pooler:: rotated:: slow:: snapshot::stalled::rows_that_do_not_arrive snapshot::overlapping:: \
    snapshot::room:: snapshot::unread:: snapshot::failing:: snapshot::selective:: snapshot::slow:: \
    snapshot::wide:: snapshot::busy:: snapshot::generated:: snapshot::keyless::under_full_write_load_sinks; do
    of_connector="$of_connector --skip capture::$name"
  done
  for name in abort:: yielding:: flow:: hangup:: huge:: liveness:: naps:: workload:: filling::killed_at_every_step \
    keyless::killed_at_every_step; do
    of_program="$of_program --skip $name"
  done
fi

# Each test waits for its servers most of the time: with twice as many as there are processors half of them were idle.
threads=$(($(nproc) * 3))

programs_of() {
  bin=$PWD/.cache/postgres/$1/native/bin
  [ "$1" != 15 ] || bin=/usr/lib/postgresql/15/bin
  if [ ! -x "$bin/postgres" ]; then
    echo "PostgreSQL $1 is not in $bin: scripts/install-postgres-matrix.sh $1 (15: apt install postgresql-15)" >&2
    return 1
  fi
  echo "$bin"
}

# All at once, as `make test` builds them: a package by itself has its dependencies built anew, with fewer features.
built=$(cargo test --locked --workspace --no-run --message-format=json-render-diagnostics)

binary_of() { # FOLDER: the integration tests of the package there
  printf '%s\n' "$built" | grep -F "\"manifest_path\":\"$PWD/${1}Cargo.toml\"" |
    sed -n '/"kind":\["test"\]/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

connector=$(binary_of connectors/postgres/)
program=$(binary_of "")
if [ -z "$connector" ] || [ -z "$program" ]; then
  echo "The tests do not build" >&2
  exit 1
fi
logs=target/test-matrix
mkdir -p "$logs"

# shellcheck disable=SC2086 # the scenarios are words, on purpose
run() { # PROGRAMS
  export ROWCAST_TEST_POSTGRES_BIN="$1"
  # As cargo does: a test looks for its files from its own package on. What a network does is not the server's; those
  # who wait for it to be noticed take minutes. What the server says of a session that reads rows is its own; of the
  # three that take two minutes for it, two are left out, since the others hear the same from it.
  failed=0
  (cd connectors/postgres && "$connector" --test-threads "$threads" --show-output --skip fuzz:: \
    --skip capture::stalled:: \
    --skip capture::snapshot::stalled::a_question_that_does_not_arrive_is_asked_again \
    --skip capture::snapshot::stalled::so_are_those_of_a_table_without_a_key $of_connector) || failed=1
  # Whatever came of the first half: a version is known by both.
  "$program" --test-threads "$threads" --show-output $scenarios $of_program || failed=1
  return "$failed"
}

# A test that passes because it cannot be run says so.
skipped_in() { # LOG
  awk '/^---- .* stdout ----$/ { name = $2 } /^SKIPPED/ && name { print name; name = "" }' "$1" | sort -u
}

status=0
for major in "$@"; do
  bin=$(programs_of "$major")
  version=$("$bin/postgres" --version | awk '{ print $3 }')
  log=$logs/$major.log
  start=$(date +%s)
  if run "$bin" >"$log" 2>&1; then
    passed=$(awk '/^test result:/ { sum += $4 } END { print sum }' "$log")
    skipped=$(skipped_in "$log")
    count=$(printf '%s' "$skipped" | grep -c . || true)
    echo "PostgreSQL $version: $((passed - count)) tests passed, $count skipped, $(($(date +%s) - start)) s"
    [ "$count" = 0 ] || printf '%s\n' "$skipped" | sed 's/^/  skipped: /'
  else
    status=1
    grep -E '^test .*FAILED$|^thread .* panicked|^test result:' -A 3 "$log" || tail -n 50 "$log"
    echo "PostgreSQL $version: FAILED, $(($(date +%s) - start)) s; see $log"
  fi
done
exit "$status"
