#!/bin/sh
# The processor: makes a greeting of each name and hands it on through the pipe `greetings`.
set -u

mkdir -p "$PIPES"
for pipe in "$PIPES/names" "$PIPES/greetings"; do
  [ -p "$pipe" ] || mkfifo "$pipe" || [ -p "$pipe" ] || exit 1
done
exec 3<>"$PIPES/names" 4<>"$PIPES/greetings"

echo "processor: greeting with '$GREETING'"
trap 'echo "processor: bye"; exit 0' TERM INT

while read -r n name <&3; do
  printf '%s %s, %s!\n' "$n" "$GREETING" "$name" >&4
done
echo "processor: cannot read $PIPES/names" >&2
exit 1
