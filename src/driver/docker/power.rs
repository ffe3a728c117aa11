//! What gives a component power over the whole host, which is refused unless the daemon was told
//! otherwise.

use std::path::{Component, Path, PathBuf};

use super::Privileged;
use super::endpoint::Endpoint;
use super::failure::Refusal;
use super::network;
use crate::model::{ComponentSpec, Volume, VolumeSource};

/// Which mounts of a place give power.
#[derive(Clone, Copy)]
enum Danger {
    /// All: a socket answers through a read-only mount too.
    Any,
    /// Those that can be written to: exporters of metrics read there.
    Writable,
}

/// What is in the folders that the kernel makes up.
const KERNEL: &str = "the kernel's files (allowed with `readonly: true`)";
/// The places of every host, as they are spelled below `/run`, and what is there.
const PLACES: [(&str, &str, Danger); 5] = [
    ("/run/docker.sock", "the engine's socket", Danger::Any),
    (
        "/run/podman/podman.sock",
        "the socket of Podman",
        Danger::Any,
    ),
    ("/run/containerd", "the socket of containerd", Danger::Any),
    ("/proc", KERNEL, Danger::Writable),
    ("/sys", KERNEL, Danger::Writable),
];

/// Refuses what gives a component power over the whole host, unless the daemon was told otherwise.
/// What flowctl itself mounts, a token and secrets, is none of the specification's volumes.
pub(super) fn check(
    spec: &ComponentSpec,
    network: &str,
    privileged: Privileged,
    endpoint: &Endpoint,
    state_dir: &Path,
) -> Result<(), Refusal> {
    match privileged {
        Privileged::Allowed => return Ok(()),
        Privileged::Refused => {}
    }
    if network == network::HOST || network.starts_with("container:") {
        return Err(Refusal::Privileged {
            what: format!("network `{network}`"),
        });
    }
    let mut places = PLACES
        .map(|(place, what, danger)| (Path::new(place), what, danger))
        .to_vec();
    if let Endpoint::Unix(socket) = endpoint {
        places.push((socket.as_path(), "the engine's socket", Danger::Any));
    }
    // Whoever reaches the socket there can have any program run as a process.
    places.push((state_dir, "flowctl's state directory", Danger::Any));
    for volume in &spec.volumes {
        let VolumeSource::Bind(path) = &volume.source else {
            continue;
        };
        let found = places
            .iter()
            .find(|(place, _, danger)| is_reached(volume, *danger) && touch(path, place));
        if let Some((_, what, _)) = found {
            return Err(Refusal::Privileged {
                what: format!("{what}, through the mount of {}", path.display()),
            });
        }
    }
    Ok(())
}

fn is_reached(volume: &Volume, danger: Danger) -> bool {
    match danger {
        Danger::Any => true,
        Danger::Writable => !volume.read_only,
    }
}

/// Whether a mount of `path` shows `place` or a part of it: the folder of a socket is as good as the
/// socket.
fn touch(path: &Path, place: &Path) -> bool {
    let places = spellings(place);
    spellings(path).iter().any(|path| {
        places
            .iter()
            .any(|place| place.starts_with(path) || path.starts_with(place))
    })
}

/// A path as it is written and, where it exists on this host, as what it leads to. The engine may be
/// on another host, whose links are not known.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let real = std::fs::canonicalize(path).ok();
    std::iter::once(path)
        .chain(real.as_deref())
        .map(plain)
        .collect()
}

/// A path without `.` and `..`, as engines read it, in which `/var/run` is `/run`, as on every host.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => plain.push(part),
        }
    }
    match plain.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::conformance;

    fn bind(path: impl Into<PathBuf>) -> Volume {
        Volume {
            source: VolumeSource::Bind(path.into()),
            target: "/there".to_owned(),
            read_only: false,
        }
    }

    fn read_only(path: impl Into<PathBuf>) -> Volume {
        Volume {
            read_only: true,
            ..bind(path)
        }
    }

    /// What is said of a mount by a daemon whose state directory is `state`; `None` = it is allowed.
    fn refused(volume: &Volume, endpoint: &Endpoint, state: &Path) -> Option<String> {
        let mut spec = conformance::spec("a", "program", &[]);
        spec.volumes.push(volume.clone());
        let checked = |privileged| check(&spec, "net", privileged, endpoint, state);
        assert!(checked(Privileged::Allowed).is_ok(), "{volume:?}");
        checked(Privileged::Refused)
            .err()
            .map(|refusal| refusal.to_string())
    }

    fn elsewhere() -> Endpoint {
        Endpoint::Tcp("10.0.0.1:2375".to_owned())
    }

    #[test]
    fn a_mount_of_what_rules_the_host_is_refused_however_it_is_spelled() {
        for (path, what) in [
            ("/run/docker.sock", "the engine's socket"),
            ("/var/run/docker.sock", "the engine's socket"),
            ("/no/such/../../run/./docker.sock", "the engine's socket"),
            ("/run", "the engine's socket"),
            ("/", "the engine's socket"),
            ("/run/podman/podman.sock", "the socket of Podman"),
            ("/var/run/podman", "the socket of Podman"),
            ("/run/containerd", "the socket of containerd"),
            (
                "/var/run/containerd/containerd.sock",
                "the socket of containerd",
            ),
            ("/no/such/state", "flowctl's state directory"),
            ("/no/such/state/flowctl.sock", "flowctl's state directory"),
            ("/no/such", "flowctl's state directory"),
        ] {
            for volume in [bind(path), read_only(path)] {
                let why = refused(&volume, &elsewhere(), Path::new("/no/such/state"));
                let why = why.unwrap_or_else(|| panic!("{path} is allowed"));
                let expected = format!("{what}, through the mount of {path} gives power over");
                assert!(why.starts_with(&expected), "{why}");
                assert!(why.contains("--allow-privileged"), "{why}");
            }
        }
    }

    #[test]
    fn the_kernels_folders_can_be_mounted_to_read_but_not_to_write() {
        for path in ["/proc", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup"] {
            let state = Path::new("/no/such/state");
            let why = refused(&bind(path), &elsewhere(), state).expect(path);
            assert!(why.contains("readonly: true"), "{why}");
            assert_eq!(refused(&read_only(path), &elsewhere(), state), None);
        }
    }

    #[test]
    fn a_link_to_the_state_directory_or_a_socket_is_as_good_as_that() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["state", "engine"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::os::unix::fs::symlink(at(folder), at(&format!("to-{folder}"))).unwrap();
        }
        let endpoint = Endpoint::Unix(at("engine/own.sock"));
        std::fs::write(at("engine/own.sock"), "").unwrap();
        for name in [
            "state",
            "to-state",
            "engine",
            "to-engine",
            "to-engine/own.sock",
        ] {
            let why = refused(&bind(at(name)), &endpoint, &at("state"));
            assert!(why.is_some(), "{name} is allowed");
        }
        let why = refused(&bind(at("state")), &endpoint, &at("to-state"));
        assert!(why.is_some(), "the state directory is given as a link");
    }

    #[test]
    fn a_folder_beside_the_state_directory_can_be_mounted() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        for name in ["state", "state-of-mine", "data"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        for name in ["state-of-mine", "data"] {
            let volume = bind(root.path().join(name));
            assert_eq!(refused(&volume, &elsewhere(), &state), None);
        }
        assert_eq!(refused(&bind("/run/other"), &elsewhere(), &state), None);
        let named = Volume {
            source: VolumeSource::Named("proc".to_owned()),
            ..bind("/")
        };
        assert_eq!(refused(&named, &elsewhere(), &state), None);
    }
}
