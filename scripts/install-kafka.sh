#!/bin/sh
# A real Apache Kafka broker for the tests: its published jars (tests/kafka/pom.xml) into .cache/kafka/libs,
# and Java 17 or newer to run them.
set -eu
cd "$(dirname "$0")/.."

java_major() { java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }
if ! command -v java >/dev/null 2>&1 || [ "$(java_major)" -lt 17 ]; then
  scripts/apt-install.sh default-jre-headless
fi

libs=.cache/kafka/libs
cmp -s tests/kafka/pom.xml .cache/kafka/pom.xml && [ -d "$libs" ] && exit 0
command -v mvn >/dev/null 2>&1 || scripts/apt-install.sh maven
echo "Downloading Apache Kafka into $libs"
rm -rf .cache/kafka
mkdir -p .cache/kafka
mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/$libs" </dev/null
# Last: its presence says that the jars are complete.
cp tests/kafka/pom.xml .cache/kafka/pom.xml
