#!/bin/sh
# A real Chromium, and the JavaScript clients (tests/browser/package.json) that the tests drive.
set -eu
cd "$(dirname "$0")/.."

found=""
for browser in "${ROWCAST_TEST_CHROMIUM:-}" chromium chromium-browser google-chrome; do
  [ -n "$browser" ] && command -v "$browser" >/dev/null 2>&1 && found=$browser && break
done
[ -n "$found" ] || scripts/apt-install.sh chromium

command -v node >/dev/null 2>&1 || scripts/apt-install.sh nodejs
command -v npm >/dev/null 2>&1 || scripts/apt-install.sh npm
cd tests/browser
cmp -s package-lock.json node_modules/.installed-lock.json && exit 0
echo "Installing the JavaScript clients of the tests"
npm ci --silent --no-audit --no-fund </dev/null
cp package-lock.json node_modules/.installed-lock.json
