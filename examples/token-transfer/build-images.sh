#!/usr/bin/env bash
# Builds the images of the three programs FROM scratch, from static binaries, so that no image has
# to be fetched from anywhere. The Dockerfiles beside this script build the same images on a machine
# that reaches a registry.
#
#   examples/token-transfer/build-images.sh                     builds, and makes the images
#   examples/token-transfer/build-images.sh --tag TAG           another tag than `local`
#   examples/token-transfer/build-images.sh --programs FOLDER   takes the programs that lie there; the
#                                                               images get the libraries these load
#
# The engine is the one that `docker` uses. Where there is no `docker` it is asked through curl: at
# $DOCKER_HOST (unix:// or tcp://), or at /var/run/docker.sock.
set -euo pipefail

tag=local programs=
while (($#)); do
  case $1 in
    --tag) tag=${2:?a tag} && shift 2 ;;
    --programs) programs=$(realpath "${2:?a folder}") && shift 2 ;;
    --help | -h) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "build-images.sh: unknown option '$1'; see --help" >&2; exit 2 ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")"

die() {
  echo "build-images.sh: $*" >&2
  exit 1
}

encoded() {
  local text=$1 at
  for ((at = 0; at < ${#text}; at++)); do
    case ${text:at:1} in
      [A-Za-z0-9._~-]) printf '%s' "${text:at:1}" ;;
      *) printf '%%%02X' "'${text:at:1}" ;;
    esac
  done
}

# Makes an image of a tar file; each further word is a line of a Dockerfile.
import() {
  local file=$1 image=$2 change words=() host to=() query said
  shift 2
  if command -v docker >/dev/null; then
    for change; do words+=(--change "$change"); done
    docker import "${words[@]}" "$file" "$image" >/dev/null
  else
    host=${DOCKER_HOST:-unix:///var/run/docker.sock}
    case $host in
      unix://*) to=(--unix-socket "${host#unix://}" http://engine) ;;
      tcp://*) to=("http://${host#tcp://}") ;;
      *) die "DOCKER_HOST=$host needs the docker command" ;;
    esac
    query="fromSrc=-&repo=$(encoded "${image%:*}")&tag=$(encoded "${image##*:}")"
    for change; do query+="&changes=$(encoded "$change")"; done
    to[-1]+="/images/create?$query"
    said=$(curl --silent --show-error --max-time 300 --data-binary "@$file" \
      --header 'Content-Type: application/x-tar' "${to[@]}") ||
      die "no engine answers at $host; start one, or set DOCKER_HOST"
    # It says with status 200 that the image it began could not be made.
    [[ $said == *'"status":"sha256:'* ]] || die "the engine at $host made no image: $said"
  fi
}

if [[ -z $programs ]]; then
  target=$(rustc -vV | sed -n 's/^host: //p')
  # With --target the flag reaches the programs and not the build scripts, which need a dynamic loader.
  RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --package token-transfer --bins --target "$target" --target-dir ../../target/static
  programs=$(realpath "../../target/static/$target/release")
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for program in stellar-live-source-datalake ttp-processor consumer-app; do
  root=$work/$program
  # Also `/tmp`, which programs look for, and the folders that the pipeline's file mounts.
  mkdir -p "$root"/{tmp,data,usr/local/bin,etc/ssl/certs}
  chmod 1777 "$root/tmp"
  for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    if [[ -r $bundle ]]; then cp "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"; break; fi
  done
  cp "$programs/$program" "$root/usr/local/bin/$program"
  strip "$root/usr/local/bin/$program" 2>/dev/null || true
  # A static program loads nothing, and ldd says so.
  while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp --dereference "$library" "$root$library"
  done < <(ldd "$programs/$program" 2>/dev/null | grep -o '/[^ ]*' || true)
  tar --create --file "$root.tar" --directory "$root" --owner 0 --group 0 --numeric-owner --sort name .
  image=token-transfer/$program:$tag
  import "$root.tar" "$image" \
    "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" "WORKDIR /" "USER 65532:65532" \
    "ENTRYPOINT [\"/usr/local/bin/$program\"]"
  echo "$image  $(stat --format %s "$root.tar" | awk '{printf "%.1f MB", $1 / 1e6}')"
done
