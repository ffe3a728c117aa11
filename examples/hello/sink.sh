#!/bin/sh
# The sink: prints each greeting; `flowctl logs sink` shows them.
#
# The names were numbered at the source, so it sees whether one went missing on the way.
set -u
pipe=$PIPES/greetings

mkdir -p "$PIPES"
[ -p "$pipe" ] || mkfifo "$pipe" || [ -p "$pipe" ] || exit 1
exec 3<>"$pipe"

last=
missing=0
echo "sink: listening"
trap 'echo "sink: bye, $missing missing"; exit 0' TERM INT

while read -r n greeting <&3; do
  if [ -n "$last" ] && [ "$n" -gt $((last + 1)) ]; then
    missing=$((missing + n - last - 1))
  fi
  last=$n
  echo "$greeting (number $n, $missing missing)"
done
echo "sink: cannot read $pipe" >&2
exit 1
