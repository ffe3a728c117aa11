//! Whether what an engine says of processes is about processes of this host. An engine may count
//! its own: in a virtual machine, or behind a socket that somebody forwards to another host. So
//! nothing of this host is killed, and no container is given up, without positive evidence.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// What engines are called among processes.
const ENGINES: [&str; 2] = ["dockerd", "podman"];
/// The letters of a full container id, which no other container on earth has.
const FULL_ID: usize = 64;

/// Whether a process of this number exists and is more than a zombie. One that is hidden from us
/// exists.
pub(super) fn lives(pid: u32) -> bool {
    if !exists(pid) {
        return false;
    }
    let Ok(stat) = std::fs::read_to_string(of_process(pid, "stat")) else {
        return true;
    };
    let state = stat
        .rsplit_once(')')
        .map_or("", |(_, fields)| fields.trim_start());
    !state.starts_with(['Z', 'X'])
}

/// Whether a process of this number exists, be it a zombie.
pub(super) fn exists(pid: u32) -> bool {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Unlike `/proc`, which may be mounted so that it hides the processes of others.
    number.is_some_and(|number| test_kill_process(number) != Err(Errno::SRCH))
}

/// Whether the process of this number is one of that container, by its control group, which is
/// called by the container's id and which everybody may read.
pub(super) fn is_of(pid: u32, container: &str) -> bool {
    container.len() == FULL_ID
        && std::fs::read_to_string(of_process(pid, "cgroup"))
            .is_ok_and(|groups| groups.contains(container))
}

/// Which boot of this host it is.
pub(super) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Who listens on the engine's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Listener {
    /// An engine that counts processes as we do.
    Engine,
    /// A service manager that counts as we do, and opened the socket for whom it starts.
    Manager,
    /// Anybody else: it may well pass on what is said to an engine that is elsewhere.
    #[default]
    Stranger,
}

impl Listener {
    /// What the process of this number is.
    pub(super) fn of(pid: i32) -> Self {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let theirs = namespace(&pid.to_string());
        if theirs.is_none() || theirs != namespace("self") {
            return Self::Stranger;
        }
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        match name.trim_end() {
            name if ENGINES.contains(&name) => Self::Engine,
            "systemd" => Self::Manager,
            _ => Self::Stranger,
        }
    }

    /// Whether every engine that may be the one behind this listener has the mounts that we have.
    pub(super) fn sees_our_mounts(self) -> bool {
        let mounts = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = mounts("self");
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut engines = all.filter(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm"));
            name.is_ok_and(|name| ENGINES.contains(&name.trim_end()))
        });
        let same = |entry: std::fs::DirEntry| {
            let pid = entry.file_name();
            ours.is_some() && pid.to_str().and_then(mounts) == ours
        };
        match self {
            Self::Engine | Self::Manager => {
                let first = engines.next();
                first.is_some_and(same) && engines.all(same)
            }
            Self::Stranger => false,
        }
    }

    /// Whether the pid that the engine gives a container is one of this host. `record` is a file
    /// that the engine keeps for that container alone.
    pub(super) fn vouches_for(self, record: Option<&Path>) -> bool {
        match self {
            Self::Engine => true,
            // It may have started a forwarder; then the file is not on this host.
            Self::Manager => record.is_some_and(Path::exists),
            Self::Stranger => false,
        }
    }
}

fn of_process(pid: u32, file: &str) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string()).join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_it_ends() {
        assert!(lives(std::process::id()));
        assert!(lives(1), "whoever may look at it");
        assert!(!lives(u32::MAX));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(!lives(child.id()));
    }

    #[test]
    fn a_process_of_this_host_is_of_no_container_that_its_control_group_does_not_name() {
        let me = std::process::id();
        assert!(!is_of(me, &"0".repeat(FULL_ID)));
        assert!(!is_of(me, ""), "an id that says nothing is in every name");
        assert!(!is_of(me, "/"));
    }

    #[test]
    fn only_an_engine_or_its_file_on_this_host_vouches_for_its_pids() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (here, elsewhere) = (Some(file.path()), Some(Path::new("/no/such/record")));
        assert!(Listener::Engine.vouches_for(None));
        assert!(Listener::Manager.vouches_for(here));
        assert!(!Listener::Manager.vouches_for(elsewhere));
        assert!(!Listener::Manager.vouches_for(None));
        assert!(!Listener::Stranger.vouches_for(here));
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Listener::of(me), Listener::Stranger, "we are no engine");
    }
}
