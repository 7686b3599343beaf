#!/bin/sh
# A Postgres server's programs (initdb, postgres), 14 or newer, for the demo and the tests. No system-wide
# server is set up or started.
set -eu
cd "$(dirname "$0")"
command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1 && exit 0
for programs in /usr/lib/postgresql/*/bin; do
  [ -x "$programs/postgres" ] && [ -x "$programs/initdb" ] && exit 0
done

# Debian's package creates and starts a server of its own unless told not to; told for this installation only.
as_root=""; [ "$(id -u)" = 0 ] || as_root=sudo
told=/etc/postgresql-common/createcluster.d/rowcast.conf
$as_root mkdir -p "$(dirname "$told")"
echo "create_main_cluster = false" | $as_root tee "$told" >/dev/null
trap '$as_root rm -f "$told"' EXIT
./apt-install.sh postgresql
