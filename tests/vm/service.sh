#!/bin/sh
# As a service: nothing that happens to the daemon costs a component anything.
. /stage/common
export FLOWCTL_STATE_DIR=/stage/state
cp /stage/flowctl.service /etc/systemd/system/
systemctl daemon-reload
check "it starts" systemctl start flowctl
check "apply" flowctl apply -f /stage/service.yaml
check "steady runs" lines /stage/steady.pid 1
check "bounded runs" lines /stage/bounded.pid 1
limit() { cat "$(group /stage bounded)/memory.max"; }
check "it has its limit" says '^67108864$' limit

before=$(systemctl show -P MainPID flowctl)
is_another() { [ "$(systemctl show -P MainPID flowctl)" != "$before" ] && flowctl status; }
check "restart" systemctl restart flowctl
check "restart: another daemon answers" is_another
before=$(systemctl show -P MainPID flowctl)
kill -9 "$before"
check "killed: another daemon answers" is_another

# A daemon that hangs is ended by the watchdog.
before=$(systemctl show -P MainPID flowctl)
mkdir -p /run/systemd/system/flowctl.service.d
printf '[Service]\nWatchdogSec=20\n' >/run/systemd/system/flowctl.service.d/watchdog.conf
systemctl daemon-reload
check "watchdog: restart" systemctl restart flowctl
check "watchdog: another daemon answers" is_another
before=$(systemctl show -P MainPID flowctl)
kill -STOP "$before"
check "watchdog: it barks" says 'Watchdog timeout' journalctl -u flowctl
rm /run/systemd/system/flowctl.service.d/watchdog.conf
systemctl daemon-reload
check "watchdog: another daemon answers then" is_another
before=$(systemctl show -P MainPID flowctl)
check "restart after it" systemctl restart flowctl
check "restart after it: another daemon answers" is_another

check "it has its limit after all that" says '^67108864$' limit

check "a component ran out of memory" says 'out of memory' flowctl events hungry
check "out of memory: the service lives" systemctl is-active flowctl
check "it has its limit still" says '^67108864$' limit

dd if=/dev/zero of=/stage/filler bs=64k 2>/dev/null
check "full disk: it is said" says '"durable":false' flowctl status -o json
rm /stage/filler
check "full disk: it heals" says '"durable":true' flowctl status -o json

check "steady was started once" lines /stage/steady.pid 1
check "obeys was started once" lines /stage/obeys.pid 1
check "bounded was started once" lines /stage/bounded.pid 1
# For the next boot.
flowctl stop bounded >/dev/null
flowctl status -o json >/stage/before.json
sync
echo END
