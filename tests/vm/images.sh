#!/bin/sh
# Looks at every disk that a power cut left.
. /stage/common
mkdir /tmp/disk
for disk in /dev/vd[c-z]; do
  mount "$disk" /tmp/disk || echo "CHECK failed $disk is not mounted"
  export FLOWCTL_STATE_DIR=/tmp/disk/state
  flowctl daemon >/tmp/daemon.log 2>&1 &
  daemon=$!
  check "$disk answers" says '"daemon":{' flowctl status -o json
  # Whatever is to run is begun.
  begun() { flowctl status -o json >/tmp/status; ! grep -q -e '"phase":"pending"' -e '"phase":"starting"' /tmp/status; }
  check "$disk is begun" begun
  for number in 0 1 2 3; do
    count=$(pgrep -c -fx "sleep 10000$number")
    [ "$count" -le 1 ] || echo "CHECK failed $disk runs c$number $count times"
  done
  [ "$(flowctl events | grep -c rebuilt)" -eq 0 ] || echo "CHECK failed $disk has a damaged store"
  echo "IMAGE $(cat /tmp/status)"
  kill -9 $daemon
  wait $daemon 2>/dev/null
  pkill -9 flowctl-shim
  while pgrep -f '^sleep 10000' >/dev/null; do sleep 0.1; done
  umount -l /tmp/disk
done
echo END
