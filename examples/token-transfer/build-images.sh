#!/usr/bin/env bash
# Builds the images of the three programs FROM scratch, from static binaries, so that no image has
# to be fetched from anywhere. The Dockerfiles beside this script build the same images on a machine
# that reaches a registry.
#
#   examples/token-transfer/build-images.sh [TAG]      TAG is `local` by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
tag=${1:-local}
programs=(stellar-live-source-datalake ttp-processor consumer-app)
target=$(rustc -vV | sed -n 's/^host: //p')

# With --target the flag reaches the programs and not the build scripts, which need a dynamic loader.
RUSTFLAGS="-C target-feature=+crt-static" \
  cargo build --release --package token-transfer --bins --target "$target" --target-dir ../../target/static

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/certificates"
for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
  if [[ -r $bundle ]]; then cp "$bundle" "$context/certificates/ca-certificates.crt"; break; fi
done
for program in "${programs[@]}"; do
  cp "../../target/static/$target/release/$program" "$context/$program"
  strip "$context/$program" 2>/dev/null || true
  cat > "$context/$program.Dockerfile" <<DOCKERFILE
FROM scratch
COPY certificates /etc/ssl/certs
COPY $program /usr/local/bin/$program
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/$program"]
DOCKERFILE
  docker build --quiet --file "$context/$program.Dockerfile" --tag "token-transfer/$program:$tag" "$context" >/dev/null
  echo "token-transfer/$program:$tag  $(docker image inspect --format '{{.Size}}' "token-transfer/$program:$tag" | awk '{printf "%.1f MB", $1 / 1e6}')"
done
