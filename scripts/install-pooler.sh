#!/bin/sh
# PgBouncer, for the tests of what people are told who connect through it.
set -eu
cd "$(dirname "$0")"
[ -x /usr/sbin/pgbouncer ] && exit 0
./apt-install.sh pgbouncer
# The package starts one of its own where it can, which nobody has asked for.
[ -d /run/systemd/system ] || exit 0
as_root=""; [ "$(id -u)" = 0 ] || as_root=sudo
$as_root systemctl disable --quiet --now pgbouncer
