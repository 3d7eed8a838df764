# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies, in a layer that stays until the lock file changes: built for a program that is
# empty but has all the targets that Cargo.toml names.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches/lists benches/ratios \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs tests/it/main.rs \
    && cp src/main.rs benches/journal.rs \
    && cp src/main.rs benches/letters.rs \
    && cp src/main.rs benches/lists/main.rs \
    && cp src/main.rs benches/memory.rs \
    && cp src/main.rs benches/ratios/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin shipbell

# The program. Copied files keep their times, which may be older than the empty ones just built.
COPY askama.toml config.example.toml README.md ./
COPY src src
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin shipbell \
    && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/shipbell /usr/local/bin/shipbell
COPY --from=build --chown=65532:65532 /data /var/lib/shipbell
COPY LICENSE /usr/share/doc/shipbell/LICENSE

# What was acknowledged and is not delivered yet.
ENV SHIPBELL_DATA_DIR=/var/lib/shipbell
VOLUME /var/lib/shipbell
USER 65532:65532
# Notifications; livez, readyz and metrics. Both listen on loopback until the configuration says
# otherwise, and the first wants a token then.
EXPOSE 8580 8582
ENTRYPOINT ["/usr/local/bin/shipbell"]
CMD ["serve"]
