//! A group of the user's own, asked of the user's service manager.
//!
//! A user may make no groups outside of those that the manager of the user's services has. It gives
//! one to who asks: a scope, into which the fork server is moved, and with it whatever runs from then
//! on; the daemon stays where it was started. That manager ends with the user's last session unless
//! the user lingers, and all that runs under it with it: only who runs there already, or lingers,
//! asks it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::driver::process::sys::{self, UserKey};

/// How long the manager may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a user has no group, and what would give one.
pub(super) const ADVICE: &str = "no control group was delegated to this user: say `loginctl \
    enable-linger` for the user, also of a unit with `User=`, or start the daemon by `systemd-run \
    --user --scope -p Delegate=yes flowctl daemon`";

/// Whether there is a manager to ask that outlives the sessions of this user.
pub(super) fn is_to_be_had(own: &str) -> bool {
    let user = rustix::process::getuid();
    if user.is_root() || !runtime_dir().is_some_and(|dir| dir.join("bus").exists()) {
        return false;
    }
    let user = user.as_raw();
    let is_inside = own.contains(&format!("/user@{user}.service/"));
    is_inside || lingers()
}

/// Whether this user's services outlive the user's sessions: the folder has a file for each such.
fn lingers() -> bool {
    let own = UserKey::Id(rustix::process::getuid().as_raw());
    let user = sys::user(&own).ok().flatten();
    user.is_some_and(|user| {
        Path::new("/var/lib/systemd/linger")
            .join(user.name)
            .exists()
    })
}

fn runtime_dir() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usual = || PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
    Some(named.unwrap_or_else(usual)).filter(|dir| dir.is_dir())
}

/// Moves the process `pid` into a scope of its own that is delegated to this user.
///
/// # Errors
/// What the manager said.
pub(super) fn ask(name: &str, pid: u32) -> Result<(), String> {
    let mut command = Command::new("busctl");
    command
        .args(["--user", "--quiet", "call", "org.freedesktop.systemd1"])
        .args([
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        ])
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", "4"])
        .args(["Description", "s", "flowctl and what it runs"])
        .args([
            "Delegate",
            "b",
            "true",
            "CollectMode",
            "s",
            "inactive-or-failed",
        ])
        .args(["PIDs", "au", "1", &pid.to_string(), "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(dir) = runtime_dir() {
        command.env("XDG_RUNTIME_DIR", dir);
    }
    let mut asking = command
        .spawn()
        .map_err(|error| format!("busctl: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match asking.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => {
                // It is reaped below, or is init's once we end.
                asking.kill().and_then(|()| asking.wait()).ok();
                return Err("the manager of the user's services does not answer".to_owned());
            }
        }
    };
    if !status.success() {
        let mut said = String::new();
        if let Some(mut stderr) = asking.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut said).ok();
        }
        return Err(said.trim().to_owned());
    }
    // The answer is that a job was begun.
    while Instant::now() < deadline {
        let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if own.lines().any(|line| line.ends_with(name)) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Err("the manager of the user's services moved nobody".to_owned())
}
