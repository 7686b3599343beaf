#!/bin/sh
# Installs the named Debian or Ubuntu packages that are not there yet. As root, or through sudo.
# usage: apt-install.sh PACKAGE...
set -eu
missing=""
for package in "$@"; do
  case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
    installed) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "Missing:$missing. This script knows apt only; install their like with your package manager" >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "Missing:$missing. Install them as root, or install sudo" >&2
    exit 1
  fi
  as_root=sudo
fi

echo "Installing:$missing"
# Another one may be at work, and a mirror may be slow to answer.
patient="-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
# shellcheck disable=SC2086 # lists of words, on purpose
install() {
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install $patient -y -qq --no-install-recommends $missing </dev/null >"$log" 2>&1
}
log=$(mktemp); trap 'rm -f "$log"' EXIT
# A machine that never ran `apt-get update` knows no package at all.
# shellcheck disable=SC2086
install || { $as_root apt-get update $patient -o APT::Update::Error-Mode=any -qq </dev/null && install; } || { cat "$log" >&2; exit 1; }
