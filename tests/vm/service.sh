#!/bin/sh
# As a service: nothing that happens to the daemon costs a component anything.
. /stage/common
export FLOWCTL_STATE_DIR=/stage/state
# As anybody would, with what is the default.
verify() { flowctl install --print >/tmp/flowctl.service && systemd-analyze verify /tmp/flowctl.service; }
check "the unit is good" verify
check "install" env -u FLOWCTL_STATE_DIR flowctl install --now
check "install: it is enabled" systemctl is-enabled flowctl
check "install: its state is found" env -u FLOWCTL_STATE_DIR flowctl status --check
check "uninstall" flowctl uninstall
check "uninstall: nothing is left" [ ! -e /etc/systemd/system/flowctl.service ]
rm -r /var/lib/flowctl

cp /stage/flowctl.service /etc/systemd/system/
systemctl daemon-reload
check "it starts" systemctl start flowctl
check "apply" flowctl apply -f /stage/service.yaml
check "steady runs" lines /stage/steady.pid 1
check "bounded runs" lines /stage/bounded.pid 1
check "systemd is told how it is" says '^1 pipeline, [0-9]* of [0-9]* ready' systemctl show -P StatusText flowctl
limit() { cat "$(group /stage bounded)/memory.max"; }
check "it has its limit" says '^67108864$' limit

before=$(systemctl show -P MainPID flowctl)
is_another() { [ "$(systemctl show -P MainPID flowctl)" != "$before" ] && flowctl status; }
check "restart" systemctl restart flowctl
check "restart: another daemon answers" is_another
before=$(systemctl show -P MainPID flowctl)
kill -9 "$before"
check "killed: another daemon answers" is_another

# A daemon that hangs is ended by the watchdog, which watches one that has said that it is ready. It
# answers a moment before that.
check "killed: it is ready again" systemctl is-active flowctl
before=$(systemctl show -P MainPID flowctl)
kill -STOP "$before"
check "watchdog: it barks" says 'Watchdog timeout' journalctl -u flowctl
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
