# From the root of the repository:
#   docker build -f examples/token-transfer/docker/ttp-processor.Dockerfile -t token-transfer/ttp-processor:local .
# The first stage is the same for all three programs, so that it is built once.
FROM rust:1.90-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package token-transfer --bins

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/release/ttp-processor /usr/local/bin/ttp-processor
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/ttp-processor"]
