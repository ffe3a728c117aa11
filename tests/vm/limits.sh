#!/bin/sh
# Limits hold, whoever started the daemon.
. /stage/common

# manifest PLACE USER: components with limits; each leaves the number of its process and the group in
# which it was born.
manifest() {
  install -d -o "$2" "$1"
  sed "s,PLACE,$1,g" /stage/limits.yaml >"$1/p.yaml"
}

# holds NAME PLACE: what the manifest limits is limited.
holds() {
  check "$1: out of memory" says 'out of memory' flowctl events hungry
  check "$1: it is born in its group" says default.limits.busy cat "$2/busy.born"
  check "$1: processor time" counts "$(group "$2" busy)/cpu.stat" nr_throttled
  check "$1: processes" counts "$(group "$2" bomb)/pids.events" max
  check "$1: no more processes" at_most "$(group "$2" bomb)/cgroup.procs" 10
  check "$1: nothing is said to be unlimited" lacks 'not enforced' flowctl status
}

export FLOWCTL_STATE_DIR=/tmp/shell/state
manifest /tmp/shell root
check "shell: apply" flowctl apply -f /tmp/shell/p.yaml
holds shell /tmp/shell
check "shell: down" flowctl down
check "shell: no group is left" test ! -e /sys/fs/cgroup/flowctl

# A user whose services outlive the sessions.
worker=$(id -u worker)
loginctl enable-linger worker
check "user: there is a manager" test -S "/run/user/$worker/bus"
export FLOWCTL_STATE_DIR=/home/worker/state
cat >/tmp/as-worker <<W
#!/bin/sh
exec setpriv --reuid worker --regid worker --init-groups env HOME=/home/worker USER=worker \
  FLOWCTL_STATE_DIR=/home/worker/state XDG_RUNTIME_DIR=/run/user/$worker /stage/flowctl "\$@"
W
chmod 755 /tmp/as-worker
flowctl() { /tmp/as-worker "$@"; }
manifest /tmp/user worker
check "user: apply" flowctl apply -f /tmp/user/p.yaml
holds user /tmp/user
check "user: the group is the manager's" says "user@$worker.service" cat "/tmp/user/busy.born"
# The daemon is killed: what runs runs on, within its limits, and the next one finds it.
cp /tmp/user/busy.pid /tmp/before
kill -9 "$(pgrep -u worker -fx '/stage/flowctl daemon.*' | head -n 1)"
check "user: the next daemon" flowctl apply -f /tmp/user/p.yaml
check "user: nothing was started again" cmp /tmp/user/busy.pid /tmp/before
check "user: down" flowctl down
check "user: no scope is left" lacks "flowctl-.*scope" sh -c 'ls -R /sys/fs/cgroup/user.slice; echo .'

# A user without: it is said, with the command that would help.

# A unit of the system that runs as that user: its group may not be divided beside its own process.
cat >/etc/systemd/system/workers.service <<W
[Service]
User=worker
Environment=FLOWCTL_CONTROL_PLANE_PORT=0
ExecStart=/stage/flowctl daemon --state-dir /home/worker/unit
KillMode=process
Delegate=yes
W
systemctl daemon-reload
sed -i 's,/home/worker/state,/home/worker/unit,' /tmp/as-worker
manifest /tmp/unit worker
check "unit: it starts" systemctl start workers
check "unit: apply" flowctl apply -f /tmp/unit/p.yaml
holds unit /tmp/unit
cp /tmp/unit/busy.pid /tmp/before
check "unit: it starts again" systemctl restart workers
check "unit: it answers" flowctl apply -f /tmp/unit/p.yaml
check "unit: nothing was started again" cmp /tmp/unit/busy.pid /tmp/before
holds unit /tmp/unit
check "unit: down" flowctl down
systemctl stop workers

loginctl disable-linger worker
check "nobody: there is no manager" test ! -e "/run/user/$worker/bus"
check "nobody: it is said" says 'loginctl enable-linger' flowctl validate /tmp/user/p.yaml
echo END
