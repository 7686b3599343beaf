#!/bin/sh
# Builds the images, tries what `docker compose up` gives from outside, runs the integration tests inside docker compose
# against its Postgres, Kafka and rowcast, and removes all of it again.
set -eu
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then
  compose="docker compose"
elif command -v docker-compose >/dev/null 2>&1; then
  compose=docker-compose
else
  echo "Neither 'docker compose' nor 'docker-compose' is there: https://docs.docker.com/engine/install" >&2
  exit 1
fi
if ! docker info >/dev/null 2>&1; then
  echo "The Docker engine does not answer: is it running, and may you use it?" >&2
  exit 1
fi

# A project of its own, and host ports of Docker's choice: a running `docker compose up` is not disturbed.
export COMPOSE_PROJECT_NAME="rowcast-test-$$"
export ROWCAST_PORT="" ROWCAST_POSTGRES_PORT="" ROWCAST_KAFKA_PORT=""
# shellcheck disable=SC2317 # the trap calls it
clean() { $compose --profile test down -v --remove-orphans --rmi local >/dev/null 2>&1 || true; }
trap clean EXIT
trap 'exit 130' INT TERM

$compose --profile test build
scripts/try-compose.sh "$compose"
status=0
$compose --profile test run --rm tests || status=$?
if [ "$status" != 0 ]; then $compose logs --tail 100; fi
exit "$status"
