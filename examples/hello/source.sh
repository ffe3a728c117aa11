#!/bin/sh
# The source: sends one numbered name a second down the pipe `names`.
#
# It notes the number it sent last in a file of one line, so a restart goes on where it stopped.
set -u
pipe=$PIPES/names
mark=$PIPES/source.last

mkdir -p "$PIPES"
[ -p "$pipe" ] || mkfifo "$pipe" || [ -p "$pipe" ] || exit 1
# A pipe that is opened for both directions never ends: it keeps what is in it (64 KiB, an hour of
# names) while the other side is away, and when it is full, the writer waits.
exec 3<>"$pipe"

n=0
[ -r "$mark" ] && read -r n <"$mark"
echo "source: on from number $n"
trap 'echo "source: bye after number $n"; exit 0' TERM INT

while :; do
  n=$((n + 1))
  set -- $NAMES
  shift $((n % $#))
  printf '%s %s\n' "$n" "$1" >&3
  echo "$n" >"$mark"
  sleep 1
done
