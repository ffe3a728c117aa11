#!/bin/sh
# Says what it is about to command and what was acknowledged, for ever.
. /stage/common
mkdir /tmp/disk
mount /dev/vdc /tmp/disk
export FLOWCTL_STATE_DIR=/tmp/disk/state
cp /stage/churn.yaml /tmp/disk/p.yaml
flowctl apply -f /tmp/disk/p.yaml --no-watch >/dev/null
echo UP
number=0
while :; do
  id=c$((number % 4))
  if [ $((number / 4 % 2)) -eq 0 ]; then verb=stop; else verb=start; fi
  echo "TRY $verb $id"
  flowctl "$verb" "$id" >/dev/null 2>&1 && echo "ACK $verb $id"
  sed "s/turn: .*/turn: '$number' } }/" /stage/churn.yaml >/tmp/disk/new
  mv /tmp/disk/new /tmp/disk/p.yaml
  flowctl apply -f /tmp/disk/p.yaml --no-watch >/tmp/applied 2>&1 &&
    echo "GENERATION $(sed -n 's/.*(generation \([0-9]*\)).*/\1/p' /tmp/applied)"
  flowctl status | awk '$1 == "failing" { print "RESTARTS", $5 }'
  number=$((number + 1))
done
