# What all scripts of a host share; `.` reads it.
export PATH=/stage:$PATH NO_COLOR=1 FLOWCTL_CONTROL_PLANE_PORT=0
echo BEGUN

# check NAME COMMAND...: the command succeeds within five minutes: an emulated host beside other work
# is that slow.
check() {
  name=$1
  shift
  deadline=$(($(cut -d. -f1 /proc/uptime) + 300))
  until "$@" >/tmp/said 2>&1; do
    if [ "$(cut -d. -f1 /proc/uptime)" -ge $deadline ]; then
      echo "CHECK failed $name: $* ($(tail -n 4 /tmp/said | tr '\n' ' '))"
      return
    fi
    sleep 0.5
  done
  echo "CHECK ok $name"
}

# says PATTERN COMMAND...: the command prints a line with the pattern.
says() {
  pattern=$1
  shift
  "$@" >/tmp/printed 2>&1
  cat /tmp/printed
  grep -q -e "$pattern" /tmp/printed
}

# lines FILE COUNT: the file has so many lines.
lines() { echo "lines: $(wc -l <"$1")"; [ "$(wc -l <"$1")" -eq "$2" ]; }

# at_most FILE COUNT: the same or fewer.
at_most() { echo "lines: $(wc -l <"$1")"; [ "$(wc -l <"$1")" -le "$2" ]; }

# group PLACE ID: the control group that the component's program is in.
group() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(tail -n 1 "$1/$2.pid")/cgroup")"; }

# counts FILE KEY: the key's number in a file of the kernel is not 0.
counts() { cat "$1"; [ "$(sed -n "s/^$2 //p" "$1")" -gt 0 ]; }

# lacks PATTERN COMMAND...: the command prints something, and no line with the pattern.
lacks() { says "$@" && return 1; [ -s /tmp/printed ]; }
