//! Which places of a host flowctl keeps for itself, so that nobody gets at them by naming them in a
//! manifest: state directories, the folders of secrets in memory, and what the kernel tells of a
//! process.
//!
//! A daemon may read all of this. What a manifest names is read by the daemon, for whoever the
//! component runs as: without this, one line of a file hands over the key that tokens are signed
//! with.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// What each daemon makes in its state directory, by which that is known: a file, and two folders.
const LOCK: &str = "lock";
const FOLDERS: [&str; 2] = ["store", "instances"];
/// What is flowctl's in a state directory, or begins with one of these and a dot. Somebody may keep
/// files of their own beside it.
const NAMES: [&str; 13] = [
    LOCK,
    "flowctl.sock",
    "control-plane.port",
    "tokens",
    "owner",
    "docker-host",
    "kubernetes-cluster",
    "notify.yaml",
    "daemon.log",
    "store",
    "instances",
    "containers",
    "logs",
];
/// How folders in memory are called: this, the number of a user and that of a state directory.
const IN_MEMORY: &str = "flowctl-";
/// Where mounts are made for engines.
const MOUNTS: &str = "/run/flowctl";
/// The kernel's number of `/proc`.
const PROC: u64 = 0x9fa0;

/// The place that flowctl keeps for itself and in which the absolute `real` lies, without links;
/// `None` = it lies in none.
pub fn kept_place(real: &Path) -> Option<PathBuf> {
    let is_kept = |place: &Path| {
        place == Path::new(MOUNTS)
            || is_in_memory(place)
            || is_state_dir(place) && is_own(place, real)
    };
    let kept = real.ancestors().find(|place| is_kept(place));
    kept.map(Path::to_owned)
}

/// Whether what was `opened` may be read for a manifest.
///
/// # Errors
/// Why not, as it follows the name of its path.
pub(super) fn check(opened: &File) -> Result<(), String> {
    let unjudged = |error: io::Error| format!("cannot be judged: {error}");
    let real = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    if let Some(place) = kept_place(&real.map_err(unjudged)?) {
        return Err(format!(
            "lies in {}, which flowctl keeps for itself: no manifest is given anything of it; put the \
             file elsewhere",
            place.display()
        ));
    }
    let system = rustix::fs::fstatfs(opened).map_err(|error| unjudged(error.into()))?;
    if u64::try_from(system.f_type) == Ok(PROC) {
        return Err(
            "is what the kernel tells of a process, the daemon among them: no manifest is given \
             that; name a file of your own"
                .to_owned(),
        );
    }
    Ok(())
}

fn is_state_dir(place: &Path) -> bool {
    place.join(LOCK).is_file() && FOLDERS.iter().all(|name| place.join(name).is_dir())
}

/// Whether `real` is all of a state directory, or something of flowctl's in it.
fn is_own(state_dir: &Path, real: &Path) -> bool {
    let below = real.strip_prefix(state_dir).ok();
    let first = below.and_then(|below| below.iter().next());
    let Some(name) = first else {
        return true;
    };
    let name = name.to_string_lossy();
    NAMES.iter().any(|own| {
        let rest = name.strip_prefix(own);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether a folder is called as those are in which secrets lie in memory.
fn is_in_memory(place: &Path) -> bool {
    let name = place.file_name().and_then(|name| name.to_str());
    let Some(rest) = name.and_then(|name| name.strip_prefix(IN_MEMORY)) else {
        return false;
    };
    let mut parts = rest.splitn(3, '-');
    let is_of = |part: Option<&str>, length: usize| {
        part.is_some_and(|part| {
            part.len() >= length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    is_of(parts.next(), 1) && is_of(parts.next(), 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_state_directory_is_known_by_what_every_daemon_makes_there() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let state = base.join("state");
        fs::create_dir_all(state.join("store/db-1")).unwrap();
        fs::write(state.join("lock"), "1\n").unwrap();
        let file = state.join("store/db-1/db");
        fs::write(&file, "").unwrap();
        assert_eq!(kept_place(&file), None, "another program's folder");
        fs::create_dir(state.join("instances")).unwrap();
        for name in [
            "tokens.key",
            "daemon.log.1",
            "store.corrupt-1/db",
            "logs/default/p",
        ] {
            assert_eq!(kept_place(&state.join(name)), Some(state.clone()), "{name}");
        }
        assert_eq!(kept_place(&state), Some(state.clone()));
        for name in ["app.env", "logstash.yaml", "secrets/key"] {
            assert_eq!(kept_place(&state.join(name)), None, "{name}");
        }
        assert_eq!(kept_place(&base), None);
        // However it is named.
        symlink(&file, base.join("link")).unwrap();
        let said = check(&File::open(base.join("link")).unwrap()).unwrap_err();
        assert!(said.contains("state, which flowctl keeps"), "{said}");
        fs::write(base.join("mine"), "").unwrap();
        check(&File::open(base.join("mine")).unwrap()).unwrap();
    }

    #[test]
    fn folders_of_secrets_in_memory_are_known_by_their_names() {
        for (path, kept) in [
            ("/run/flowctl-0-c1dd2fecb2319421", true),
            (
                "/run/flowctl-1000-c1dd2fecb2319421/default.p.a.0.1/key",
                true,
            ),
            (
                "/dev/shm/flowctl-0-c1dd2fecb2319421-1666840b8fa1e768/x",
                true,
            ),
            ("/run/flowctl/mounts/0a", true),
            ("/run/flowctl-0-c1dd", false),
            ("/run/flowctl-data", false),
            ("/run/flowctl-exporter/key", false),
            ("/run/flowctld", false),
        ] {
            assert_eq!(kept_place(Path::new(path)).is_some(), kept, "{path}");
        }
    }

    #[test]
    fn what_the_kernel_tells_of_a_process_is_no_file_of_a_manifest() {
        for path in ["/proc/self/environ", "/proc/self/maps", "/proc/1/status"] {
            let Ok(opened) = File::open(path) else {
                continue;
            };
            let said = check(&opened).unwrap_err();
            assert!(said.contains("tells of a process"), "{path}: {said}");
        }
        // What it only leads to is judged by what it is.
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = file.reopen().unwrap();
        let through = format!("/proc/self/fd/{}", open.as_raw_fd());
        check(&File::open(through).unwrap()).unwrap();
    }
}
