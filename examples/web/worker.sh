#!/bin/sh
# The worker: ships each order once. A move within a disk happens whole or not at all.
set -u
trap 'echo "worker: bye"; exit 0' TERM INT
while :; do
  for order in "$DATA"/orders/*; do
    [ -e "$order" ] || continue
    mv "$order" "$DATA/shipped/" && echo "worker: shipped ${order##*/}"
  done
  sleep 0.2
done
