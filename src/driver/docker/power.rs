//! What a component may have of the host: which mounts and networks give power over it, and are
//! refused unless the daemon was told otherwise. Pure.
//!
//! A mount is judged by where it leads. It may be read wherever nothing rules the host, and written
//! to below the folder of its manifest and the places that the daemon was told of.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use super::Privileged;
use super::endpoint::Endpoint;
use super::failure::Refusal;
use super::network;
use crate::model::Volume;
use crate::ownership::kept_place;

/// Something of a host that rules it.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    /// What is there.
    what: Cow<'static, str>,
    kind: Kind,
}

/// Which mounts of a place give power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// All, those that only read too: a socket answers through them.
    Whole,
    /// The same, but the folder of a manifest that lies in it is its author's own.
    Home,
    /// Those that can be written to.
    Written,
}

/// What is in the folders that the kernel makes up: a program of any user id gets at the host's
/// processes through them, by reading alone.
const KERNEL: &str = "the kernel's files";
const ENGINE: &str = "the engine's socket";
const SOCKETS: &str = "the sockets of another runtime";
const DATA: &str = "the data of an engine";
/// The places of every host, as they are spelled below `/run`.
const PLACES: [(&str, &str, Kind); 33] = [
    ("/proc", KERNEL, Kind::Whole),
    ("/sys", KERNEL, Kind::Whole),
    ("/dev", "the host's devices", Kind::Whole),
    ("/etc", "the host's configuration", Kind::Home),
    ("/root", "the home of root", Kind::Home),
    ("/run/docker.sock", ENGINE, Kind::Whole),
    ("/run/docker", ENGINE, Kind::Whole),
    ("/run/podman", "the socket of Podman", Kind::Whole),
    ("/run/containerd", "the socket of containerd", Kind::Whole),
    ("/run/systemd", "the service manager", Kind::Whole),
    ("/run/dbus", "the system's bus", Kind::Whole),
    ("/run/user", "the sockets of users", Kind::Whole),
    ("/run/flowctl", "flowctl's own mounts", Kind::Whole),
    ("/run/crio", SOCKETS, Kind::Whole),
    ("/run/cri-dockerd.sock", SOCKETS, Kind::Whole),
    ("/run/dockershim.sock", SOCKETS, Kind::Whole),
    ("/run/buildkit", SOCKETS, Kind::Whole),
    ("/run/k3s", SOCKETS, Kind::Whole),
    ("/run/libvirt", SOCKETS, Kind::Whole),
    ("/run/lxd.socket", SOCKETS, Kind::Whole),
    ("/run/incus", SOCKETS, Kind::Whole),
    ("/run/snapd.socket", SOCKETS, Kind::Whole),
    ("/var/lib/docker", DATA, Kind::Whole),
    ("/var/lib/containerd", DATA, Kind::Whole),
    ("/var/lib/containers", DATA, Kind::Whole),
    ("/var/lib/kubelet", DATA, Kind::Whole),
    ("/var/lib/rancher", DATA, Kind::Whole),
    ("/var/lib/lxd", DATA, Kind::Whole),
    ("/var/lib/incus", DATA, Kind::Whole),
    ("/var/lib/libvirt", DATA, Kind::Whole),
    ("/var/lib/nomad", DATA, Kind::Whole),
    ("/var/snap/lxd", DATA, Kind::Whole),
    ("/boot", "what the host starts from", Kind::Written),
];
/// What anybody may read of a host, and programs commonly need to: its time, its names, whom it
/// trusts.
const HARMLESS: [&str; 9] = [
    "/etc/ca-certificates",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/machine-id",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/etc/timezone",
];

/// Refuses networks that are the host's own, unless the daemon was told otherwise.
pub(super) fn check_network(network: &str, privileged: Privileged) -> Result<(), Refusal> {
    let is_other = network == network::HOST || network.starts_with("container:");
    match privileged {
        Privileged::Refused if is_other => Err(Refusal::Privileged {
            what: format!("network `{network}`"),
        }),
        Privileged::Refused | Privileged::Allowed => Ok(()),
    }
}

/// What the mounts of one pipeline's components may show.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// What the daemon was told of.
    allowed: Vec<PathBuf>,
    /// The folder of the manifest.
    folder: Option<PathBuf>,
    places: Vec<Place>,
}

/// What rules depend on beside what every host has.
pub(super) struct Ground<'a> {
    /// Places of `--allow-mounts`.
    pub(super) allowed: &'a [PathBuf],
    pub(super) endpoint: &'a Endpoint,
    /// Where the engine keeps its data, if it says so.
    pub(super) data: Option<&'a Path>,
    pub(super) state_dir: &'a Path,
    /// The home of the daemon's user.
    pub(super) home: Option<&'a Path>,
    /// The manifest.
    pub(super) file: Option<&'a Path>,
}

impl Rules {
    /// The rules on this ground. Follows links of this host.
    pub(super) fn on(ground: &Ground<'_>) -> Self {
        let mut places = Vec::new();
        let mut add = |path: &Path, what: Cow<'static, str>, kind| {
            places.extend(spellings(path).into_iter().map(|path| Place {
                path,
                what: what.clone(),
                kind,
            }));
        };
        // Whoever reaches the socket there can have any program run as a process.
        add(
            ground.state_dir,
            "flowctl's state directory".into(),
            Kind::Whole,
        );
        if let Endpoint::Unix(socket) = ground.endpoint {
            add(socket, ENGINE.into(), Kind::Whole);
        }
        if let Some(data) = ground.data {
            add(data, DATA.into(), Kind::Whole);
        }
        for (place, what, kind) in PLACES {
            add(Path::new(place), what.into(), kind);
        }
        // What it says is what the daemon runs next.
        if let Some(file) = ground.file {
            add(file, "the manifest itself".into(), Kind::Written);
        }
        if let Some(home) = ground.home.filter(|home| home.is_absolute()) {
            for name in [
                ".ssh",
                ".docker",
                ".config",
                ".local/share/containers",
                ".local/share/docker",
            ] {
                add(
                    &home.join(name),
                    format!("`{name}` of the daemon's user").into(),
                    Kind::Home,
                );
            }
        }
        let folder = ground.file.and_then(Path::parent);
        Self {
            allowed: ground
                .allowed
                .iter()
                .flat_map(|path| spellings(path))
                .collect(),
            folder: folder.map(real),
            places,
        }
    }

    /// Judges a mount that the file calls `written` and that leads to `real`.
    pub(super) fn judge(
        &self,
        volume: &Volume,
        written: &Path,
        real: &Path,
    ) -> Result<(), Refusal> {
        let real = plain(real);
        let told = self
            .allowed
            .iter()
            .find(|allowed| real.starts_with(allowed));
        let ruling = self.places.iter().find(|place| {
            let meant = told.is_some_and(|told| told.starts_with(&place.path));
            touch(&real, &place.path) && !meant && !self.is_spared(place, volume, &real)
        });
        let kept = kept_place(&real).map(|_| Cow::from("what flowctl keeps for itself"));
        if let Some(what) = ruling.map(|place| place.what.clone()).or(kept) {
            return Err(Refusal::Privileged {
                what: format!("{what}, through the mount of {}", written.display()),
            });
        }
        let in_folder = |folder: &PathBuf| folder != Path::new("/") && real.starts_with(folder);
        if volume.read_only || told.is_some() || self.folder.as_ref().is_some_and(in_folder) {
            return Ok(());
        }
        let path = written.to_owned();
        Err(Refusal::MountWritable { path })
    }

    /// Whether a mount of what touches `place` gives no power all the same.
    fn is_spared(&self, place: &Place, volume: &Volume, real: &Path) -> bool {
        match place.kind {
            Kind::Whole => false,
            Kind::Written => volume.read_only,
            Kind::Home => {
                let is_harmless = || HARMLESS.iter().any(|known| real.starts_with(known));
                let is_own = |folder: &PathBuf| {
                    folder.starts_with(&place.path)
                        && *folder != place.path
                        && real.starts_with(folder)
                };
                volume.read_only && is_harmless() || self.folder.as_ref().is_some_and(is_own)
            }
        }
    }
}

/// Whether a mount of `path` shows `place` or a part of it: the folder of a socket is as good as the
/// socket.
fn touch(path: &Path, place: &Path) -> bool {
    place.starts_with(path) || path.starts_with(place)
}

/// A path as it is written and, where it exists on this host, as what it leads to. The engine may be
/// on another host, whose links are not known.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let (written, leads_to) = (plain(path), real(path));
    if written == leads_to {
        return vec![written];
    }
    vec![written, leads_to]
}

/// What a path leads to, as far as it exists on this host.
fn real(path: &Path) -> PathBuf {
    plain(&std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
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
    use crate::model::VolumeSource;

    const STATE: &str = "/no/such/state";
    const SECRETS: &str = "what flowctl keeps for itself";

    fn volume(path: &Path, read_only: bool) -> Volume {
        Volume {
            source: VolumeSource::Bind(path.to_owned()),
            target: "/there".to_owned(),
            read_only,
        }
    }

    fn ground<'a>(
        file: Option<&'a str>,
        allowed: &'a [PathBuf],
        endpoint: &'a Endpoint,
    ) -> Ground<'a> {
        Ground {
            allowed,
            endpoint,
            data: Some(Path::new("/no/such/engine")),
            state_dir: Path::new(STATE),
            home: Some(Path::new("/home/flow")),
            file: file.map(Path::new),
        }
    }

    fn elsewhere() -> Endpoint {
        Endpoint::Tcp("10.0.0.1:2375".to_owned())
    }

    /// What is said of a mount of a file in `/pipes`; `None` = it is allowed.
    fn refused(rules: &Rules, path: &str, read_only: bool) -> Option<String> {
        let path = Path::new(path);
        let judged = rules.judge(&volume(path, read_only), path, &real(path));
        judged.err().map(|refusal| refusal.to_string())
    }

    fn rules(file: &str, allowed: &[&str]) -> Rules {
        let allowed: Vec<PathBuf> = allowed.iter().map(PathBuf::from).collect();
        Rules::on(&ground(Some(file), &allowed, &elsewhere()))
    }

    #[test]
    fn a_mount_of_what_rules_the_host_is_refused_however_it_is_spelled_and_to_read_too() {
        let rules = rules("/pipes/p.yaml", &[]);
        for (path, what) in [
            ("/run/docker.sock", ENGINE),
            ("/var/run/docker.sock", ENGINE),
            ("/no/such/../../run/./docker.sock", ENGINE),
            ("/run", ENGINE),
            ("/", "flowctl's state directory"),
            ("/run/podman/podman.sock", "the socket of Podman"),
            ("/var/run/podman", "the socket of Podman"),
            ("/run/containerd", "the socket of containerd"),
            ("/run/crio/crio.sock", SOCKETS),
            ("/run/user/1000/podman/podman.sock", "the sockets of users"),
            ("/run/systemd/private", "the service manager"),
            ("/run/dbus/system_bus_socket", "the system's bus"),
            ("/no/such/state", "flowctl's state directory"),
            ("/no/such/state/flowctl.sock", "flowctl's state directory"),
            ("/no/such", "flowctl's state directory"),
            ("/proc", KERNEL),
            ("/proc/1/root", KERNEL),
            ("/proc/sys/kernel", KERNEL),
            ("/sys", KERNEL),
            ("/sys/fs/cgroup", KERNEL),
            ("/dev", "the host's devices"),
            ("/dev/sda", "the host's devices"),
            ("/etc", "the host's configuration"),
            ("/etc/shadow", "the host's configuration"),
            ("/etc/ssl", "the host's configuration"),
            ("/etc/cron.d", "the host's configuration"),
            ("/root", "the home of root"),
            ("/root/.ssh", "the home of root"),
            ("/var/lib/docker", DATA),
            ("/var/lib/docker/volumes/x/_data", DATA),
            ("/var/lib/containers/storage", DATA),
            ("/var/lib", DATA),
            ("/no/such/engine/overlay2", DATA),
            ("/home/flow/.ssh", "`.ssh` of the daemon's user"),
            ("/home", "`.ssh` of the daemon's user"),
            ("/run/flowctl-0-c1dd2fecb2319421", SECRETS),
            (
                "/run/flowctl-0-c1dd2fecb2319421/default.p.a.0.1/key",
                SECRETS,
            ),
        ] {
            for read_only in [false, true] {
                let why = refused(&rules, path, read_only);
                let why = why.unwrap_or_else(|| panic!("{path} is allowed"));
                let expected = format!("{what}, through the mount of {path} gives power over");
                assert!(why.starts_with(&expected), "{path}: {why}");
                assert!(why.contains("--allow-privileged"), "{why}");
            }
        }
    }

    #[test]
    fn what_anybody_may_read_can_be_mounted_to_read_alone() {
        let rules = rules("/pipes/p.yaml", &[]);
        for path in HARMLESS
            .into_iter()
            .chain(["/srv/models", "/boot", "/usr/share/zoneinfo"])
        {
            // What these lead to on the host of the test may be elsewhere.
            let path = Path::new(path);
            assert!(
                rules.judge(&volume(path, true), path, path).is_ok(),
                "{path:?}"
            );
            assert!(
                rules.judge(&volume(path, false), path, path).is_err(),
                "{path:?}"
            );
        }
    }

    #[test]
    fn what_is_written_lies_in_the_manifests_folder_or_where_the_daemon_was_told() {
        let rules = rules(
            "/pipes/p.yaml",
            &["/srv/data", "/var/spool/feeds", "/etc/feeds"],
        );
        for path in [
            "/pipes/data",
            "/pipes/a/b",
            "/srv/data",
            "/srv/data/x",
            "/var/spool/feeds/new",
            "/etc/feeds/x",
        ] {
            assert_eq!(refused(&rules, path, false), None, "{path}");
        }
        for path in [
            "/srv",
            "/srv/database",
            "/home/other",
            "/usr/local/bin",
            "/pipes/../srv/x",
        ] {
            let why = refused(&rules, path, false).expect(path);
            assert!(
                why.contains("--allow-mounts") && why.contains("readonly"),
                "{why}"
            );
            assert_eq!(refused(&rules, path, true), None, "{path}");
        }
        for path in ["/pipes", "/pipes/p.yaml"] {
            let why = refused(&rules, path, false).expect(path);
            assert!(why.contains("the manifest itself"), "{why}");
            assert_eq!(refused(&rules, path, true), None, "{path}");
        }
        // To be told of a folder is not to be told of what lies above it.
        assert!(refused(&rules, "/etc", true).is_some());
    }

    #[test]
    fn a_folder_of_manifests_in_a_home_is_its_authors_own_and_the_home_is_not() {
        let configured = rules("/home/flow/.config/pipes/p.yaml", &[]);
        assert_eq!(
            refused(&configured, "/home/flow/.config/pipes/data", false),
            None
        );
        assert!(refused(&configured, "/home/flow/.config/systemd", false).is_some());
        let inside = rules("/root/pipes/p.yaml", &[]);
        assert_eq!(refused(&inside, "/root/pipes/data", false), None);
        for path in ["/root", "/root/.ssh", "/root/other", "/etc/passwd"] {
            assert!(refused(&inside, path, false).is_some(), "{path}");
        }
        let at_home = rules("/root/p.yaml", &[]);
        assert!(refused(&at_home, "/root/.ssh", false).is_some());
        assert!(refused(&at_home, "/root/data", false).is_some());
        // Everything lies below the root of all.
        assert!(refused(&rules("/p.yaml", &[]), "/srv/x", false).is_some());
    }

    #[test]
    fn without_a_file_nothing_is_written_but_what_the_daemon_was_told_of() {
        let allowed = [PathBuf::from("/srv/data")];
        let endpoint = elsewhere();
        let rules = Rules::on(&ground(None, &allowed, &endpoint));
        assert!(refused(&rules, "/pipes/data", false).is_some());
        assert_eq!(refused(&rules, "/pipes/data", true), None);
        assert_eq!(refused(&rules, "/srv/data", false), None);
    }

    #[test]
    fn a_link_to_the_state_directory_or_a_socket_is_as_good_as_that() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["state", "engine", "state-of-mine"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::os::unix::fs::symlink(at(folder), at(&format!("to-{folder}"))).unwrap();
        }
        let endpoint = Endpoint::Unix(at("engine/own.sock"));
        std::fs::write(at("engine/own.sock"), "").unwrap();
        let file = at("p.yaml");
        for state in [at("state"), at("to-state")] {
            let ground = Ground {
                state_dir: &state,
                file: Some(&file),
                ..ground(None, &[], &endpoint)
            };
            let rules = Rules::on(&ground);
            for name in [
                "state",
                "to-state",
                "engine",
                "to-engine",
                "to-engine/own.sock",
            ] {
                let path = at(name);
                assert!(
                    refused(&rules, path.to_str().unwrap(), true).is_some(),
                    "{name}"
                );
            }
            for name in ["state-of-mine", "to-state-of-mine"] {
                let path = at(name);
                assert_eq!(
                    refused(&rules, path.to_str().unwrap(), false),
                    None,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn the_networks_of_others_are_refused() {
        for network in ["host", "container:other"] {
            assert!(check_network(network, Privileged::Refused).is_err());
            assert!(check_network(network, Privileged::Allowed).is_ok());
        }
        assert!(check_network("flowctl-bridge", Privileged::Refused).is_ok());
    }
}
