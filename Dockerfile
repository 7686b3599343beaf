# The program, and (target `tests`) its integration tests.

FROM rust:1.95-bookworm AS sources
WORKDIR /src
# First, so that a change of the sources installs nothing again.
COPY Cargo.toml ./
COPY scripts ./scripts
RUN scripts/install-build.sh

FROM sources AS build
COPY . .
RUN cargo build --release --locked --package rowcast

FROM debian:bookworm-slim AS rowcast
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --home-dir /var/lib/rowcast --create-home rowcast \
    && chmod 0700 /var/lib/rowcast
COPY --from=build /src/target/release/rowcast /usr/local/bin/
COPY LICENSE /usr/share/doc/rowcast/
USER rowcast
VOLUME /var/lib/rowcast
EXPOSE 8080
# Ready to serve clients; bash speaks TCP, so that the image needs no HTTP client.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["rowcast"]
CMD ["run", "--data", "/var/lib/rowcast", "--listen", "0.0.0.0:8080"]

# Last, so that a builder that makes the stages in order does not make this one for the program.
# Sources, toolchain, a browser, and the test binary ready to run against the servers that the environment names.
FROM sources AS tests
COPY tests/browser/package.json tests/browser/package-lock.json ./tests/browser/
RUN scripts/install-browser.sh && scripts/apt-install.sh curl openssl python3
COPY . .
RUN cargo test --locked --package rowcast --test tests --no-run \
    && useradd --create-home tester && chown -R tester target
USER tester
CMD ["cargo", "test", "--locked", "--offline", "--package", "rowcast", "--test", "tests"]

# What a plain `docker build .` gives.
FROM rowcast
