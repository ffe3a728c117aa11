#!/usr/bin/env bash
# Makes the image of the hello pipeline's components, `flowctl-hello:1`: a static busybox and the
# three scripts. It takes nothing from a registry.
#
# Needs the docker command and a static busybox (Debian: docker.io, busybox-static).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
busybox=$(command -v busybox) || {
  echo "build-image.sh: there is no busybox; install busybox-static" >&2
  exit 1
}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,hello,tmp}
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for program in sh mkdir mkfifo sleep test '['; do
  ln -s busybox "$root/bin/$program"
done
cp ./*.sh "$root/hello/"
rm "$root/hello/build-image.sh"
tar --directory "$root" --create . |
  docker import --change 'WORKDIR /hello' --change 'ENV PATH=/bin' - flowctl-hello:1
