//! Where on this host control groups may be made. Looks, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// The group that this makes for itself where it may: below the top of the common hierarchy.
const OWN: &str = "flowctl";
/// By which systemd marks a group that it gave away; the first needs no privilege to be read.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// What the kernel says of the hierarchies and of our own place in them.
pub(super) struct Host {
    own: String,
    mounts: String,
}

impl Host {
    /// As it is for this process.
    pub(super) fn read() -> Self {
        Self::read_for("self")
    }

    /// As it is for the process `pid`.
    pub(super) fn read_for(pid: &str) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            own: read(format!("/proc/{pid}/cgroup")),
            mounts: read("/proc/self/mountinfo".to_owned()),
        }
    }

    /// The daemon's own group in the hierarchy that `controller` has for itself, if groups may be
    /// made in it.
    pub(super) fn v1(&self, controller: &str) -> Option<PathBuf> {
        v1_dir(controller, &self.own, &self.mounts).filter(|dir| is_writable(dir))
    }

    /// Our group in the hierarchy of all controllers, as a path from its top.
    pub(super) fn path(&self) -> Option<&str> {
        self.own.lines().find_map(|line| line.strip_prefix("0::"))
    }

    /// Our group in the hierarchy of all controllers, as one that is ours to divide.
    pub(super) fn own(&self) -> Option<Top> {
        let (_, dir) = unified_place(self.path()?, &self.mounts)?;
        Some(Top {
            dir,
            below: None,
            vacate: true,
        })
    }

    /// Where groups may be made in the hierarchy of all controllers: for root below the top, for a user
    /// in the scope that was given to the daemon.
    pub(super) fn unified(&self) -> Option<Top> {
        let (mount, own) = unified_place(self.path()?, &self.mounts)?;
        let is_root = rustix::process::geteuid().is_root();
        if is_root && is_writable(&mount) {
            // Also under a unit that was delegated: see `is_ours`. Inside a namespace the top is an
            // ordinary group, and we may be in it.
            let vacate = own == mount && mount.join("cgroup.type").exists();
            return Some(Top {
                dir: mount.join(OWN),
                below: Some(mount),
                vacate,
            });
        }
        let is_ours = is_ours(&own, is_given_away) && is_writable(&own);
        is_ours.then_some(Top {
            dir: own,
            below: None,
            vacate: true,
        })
    }

    /// The group of that name that the process is in, or below.
    pub(super) fn named(&self, name: &str) -> Option<PathBuf> {
        let (_, own) = unified_place(self.path()?, &self.mounts)?;
        let mut above = own.ancestors();
        let group = above.find(|dir| dir.file_name().is_some_and(|own| own == name))?;
        Some(group.to_owned())
    }
}

/// A group of the hierarchy of all controllers below which ours are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Top {
    /// The group; made when it is needed.
    pub(super) dir: PathBuf,
    /// The group above, when that has to share out its controllers too.
    pub(super) below: Option<PathBuf>,
    /// Whether processes of ours may be in the topmost of the two, which can share out its
    /// controllers only without any.
    pub(super) vacate: bool,
}

impl Top {
    /// The topmost group, which exists.
    pub(super) fn topmost(&self) -> &Path {
        self.below.as_deref().unwrap_or(&self.dir)
    }

    /// Whether it can have `controller`.
    pub(super) fn offers(&self, controller: &str) -> bool {
        let controllers = fs::read_to_string(self.topmost().join("cgroup.controllers"));
        let controllers = controllers.unwrap_or_default();
        controllers
            .split_whitespace()
            .any(|named| named == controller)
    }
}

/// Whether groups may be made in `dir`.
fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, Access::WRITE_OK).is_ok()
}

/// Whether systemd says of `group` that whoever runs in it may do there as they like.
fn is_given_away(group: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(group, *name, &mut value[..]) == Ok(1) && value[0] == b'1'
    })
}

/// Whether `own` is a scope that was given to what runs in it.
///
/// The group of a service is of no use, even where systemd puts the daemon into a part of it
/// (`DelegateSubgroup=`): with controllers shared out it takes no process itself, and that is where
/// systemd begins a service; versions that know of parts do so too (systemd issue 41304). It could
/// never start the service again beside what runs on.
fn is_ours(own: &Path, is_given_away: impl Fn(&Path) -> bool) -> bool {
    let name = own.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(".scope")) && is_given_away(own)
}

/// The daemon's own group in the hierarchy that `controller` has for itself.
fn v1_dir(controller: &str, own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|named| named == controller)
            .then_some(path)
    })?;
    mounts
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| mount.kind == "cgroup")
        .find(|mount| mount.options.split(',').any(|option| option == controller))
        .and_then(|mount| mount.locate(path))
}

/// The top of the hierarchy of all controllers as far as it is seen here, and our group in it.
fn unified_place(path: &str, mounts: &str) -> Option<(PathBuf, PathBuf)> {
    let mount = mounts
        .lines()
        .filter_map(Mount::parse)
        .find(|mount| mount.kind == "cgroup2")?;
    let own = mount.locate(path)?;
    Some((PathBuf::from(mount.point), own))
}

/// One line of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1)?;
        Some(Self {
            root,
            point,
            kind,
            options,
        })
    }

    /// Where the group `path` is to be found.
    fn locate(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).ok()?;
        Some(Path::new(self.point).join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 24 0:28 /part /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 24 0:29 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
";

    #[test]
    fn our_own_group_is_found_where_its_hierarchy_is_mounted() {
        let own = "4:memory:/a/b\n3:cpu,cpuacct:/part/c\n0::/system.slice/x.service\n";
        let dir = |controller| v1_dir(controller, own, MOUNTS);
        assert_eq!(dir("memory"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(dir("cpu"), Some("/sys/fs/cgroup/cpu/c".into()));
        assert_eq!(dir("pids"), None);
        let (top, own) = unified_place("/system.slice/x.service", MOUNTS).unwrap();
        assert_eq!(top, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(own, top.join("system.slice/x.service"));
    }

    #[test]
    fn what_was_given_to_somebody_else_is_not_taken() {
        let user = "/c/user.slice/user-7.slice/user@7.service";
        let table = [
            // Where we run; which group was given away; what is ours of it.
            (
                "/c/system.slice/a.service",
                "/c/system.slice/a.service",
                false,
            ),
            ("/c/system.slice/a.scope", "/c/system.slice/a.scope", true),
            (
                "/c/system.slice/a.service/daemon",
                "/c/system.slice/a.service",
                false,
            ),
            (
                "/c/system.slice/b.service",
                "/c/system.slice/a.service",
                false,
            ),
            (
                "/c/user.slice/user-7.slice/user@7.service/init.scope",
                user,
                false,
            ),
            (
                "/c/user.slice/user-7.slice/user@7.service/app.slice/x.scope",
                user,
                false,
            ),
            ("/c/user.slice/user-7.slice/session-1.scope", user, false),
        ];
        for (own, given, is_ours) in table {
            let found = super::is_ours(Path::new(own), |group| group == Path::new(given));
            assert_eq!(found, is_ours, "{own}");
        }
    }
}
