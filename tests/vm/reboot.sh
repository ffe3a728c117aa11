#!/bin/sh
# After a reboot, with a clock that is years behind.
. /stage/common
export FLOWCTL_STATE_DIR=/stage/state
cp /stage/flowctl.service /etc/systemd/system/
systemctl daemon-reload
# Whose clock is older than systemd itself is set to the day when that was built.
check "the clock was set back" test "$(date +%s)" -lt "$(stat -c %Y /stage/before.json)"
check "it starts" systemctl start flowctl
check "steady is started again" lines /stage/steady.pid 2
status() { flowctl status | grep -e "^$1 "; }
check "steady runs, and a reboot is no restart" says 'running *yes *0 ' status steady
# Asked to end by the host, it ended with success: that is no reason to leave it ended.
check "obeys is started again" lines /stage/obeys.pid 2
check "obeys runs, and a reboot is no restart" says 'running *yes *0 ' status obeys
check "a stop stands" says ' stopped ' status bounded
# What waited for its next try when the host went down waits for no year.
tries=$(wc -l </stage/failing.pid)
check "what fails is tried again" test "$(wc -l </stage/failing.pid)" -gt 0
more() { [ "$(wc -l </stage/failing.pid)" -gt "$tries" ]; }
check "and again" more
check "bounded stays stopped" lines /stage/bounded.pid 1
check "down" flowctl down
echo END
