#!/bin/sh
# What the README says of `docker compose up`, as its reader would try it, from outside: a row that psql inserts comes
# from the published port and out of Kafka. The argument is the compose command; test-compose.sh calls this.
set -eu
cd "$(dirname "$0")/.."
compose=$1

# Seconds until rowcast has to be healthy: Kafka formats its storage before, and Postgres its cluster.
patience=300

failed() {
  echo "docker compose up: $1" >&2
  $compose ps >&2 || true
  $compose logs --tail 100 >&2 || true
  exit 1
}

health() { docker inspect --format '{{.State.Health.Status}}' "$($compose ps -q rowcast)" 2>/dev/null || echo missing; }

# The new row of the one event, or record, that standard input has.
row() { sed -n 's/.*"after":\({[^}]*}\).*/\1/p'; }

psql() { $compose exec -T postgres psql -U postgres -q -v ON_ERROR_STOP=1 -c "$1" || failed "psql refuses: $1"; }

$compose up -d || failed "it does not start"
waited=0
until [ "$(health)" = healthy ]; do
  if [ "$waited" -ge "$patience" ]; then failed "rowcast is $(health) after $patience s, not healthy"; fi
  sleep 1
  waited=$((waited + 1))
done

psql "create table visitors (id integer primary key, name text)"
psql "insert into visitors values (7, 'Ada')"
expected='{"id":7,"name":"Ada"}'

address=$($compose port rowcast 8080)
page=$(curl -fsS --max-time 90 "http://$address/v1/events?channel=public.visitors&from=earliest&limit=10&wait=60s") ||
  failed "nothing answers at the published port, $address"
event=$(printf '%s\n' "$page" | row)
if [ "$event" != "$expected" ]; then failed "http://$address has $page instead of $expected"; fi

records=$($compose exec -T kafka /opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:29092 \
  --topic rowcast.public.visitors --from-beginning --max-messages 1 --timeout-ms 60000) ||
  failed "Kafka's consumer gets nothing"
record=$(printf '%s\n' "$records" | row)
if [ "$record" != "$expected" ]; then failed "Kafka has $records instead of $expected"; fi

# The tests that come next find the database as it was.
psql "drop table visitors"
echo "docker compose up: $expected came from http://$address and out of Kafka"
