//! Limits on memory, processor time and processes, where the host lets us set them.
//!
//! A component with limits runs in control groups of its own: of version 1 below the daemon's own
//! groups, of version 2 where a subtree was delegated to us (systemd: `Delegate=yes` with
//! `DelegateSubgroup=`) or from the root. Where neither may be written the limits are not
//! enforced, and [`unenforced`] says so. A component without limits costs nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::model::{InstanceId, Limit, Resources};

use super::text::hash;

/// The period over which processor time is shared out, in microseconds; the kernel's default.
const PERIOD_US: u64 = 100_000;

/// The limits that this host does not let us enforce. Changes nothing.
pub fn unenforced() -> BTreeSet<Limit> {
    Groups::find(Path::new("")).missing()
}

/// The directories below which groups for instances are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    memory: Option<Parent>,
    cpu: Option<Parent>,
    pids: Option<Parent>,
    /// Tells the instances of several state directories apart.
    mark: String,
}

/// Where groups with one controller are made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parent {
    /// In the controller's own hierarchy.
    V1(PathBuf),
    /// In the hierarchy of all controllers.
    V2(PathBuf),
}

/// The groups of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// Files to which the program writes itself before it runs.
    pub(super) join: Vec<PathBuf>,
    /// The file that counts kills for want of memory.
    pub(super) oom: Option<PathBuf>,
}

impl Groups {
    /// What this host offers to the instances in `instances_dir`.
    pub(super) fn find(instances_dir: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (own, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
        let parent = |controller: &str| {
            let v1 = v1_dir(controller, &own, &mounts).map(Parent::V1);
            let found = v1.or_else(|| v2_dir(controller, &own, &mounts).map(Parent::V2))?;
            let (Parent::V1(dir) | Parent::V2(dir)) = &found;
            let writable = rustix::fs::access(dir, Access::WRITE_OK).is_ok();
            writable.then_some(found)
        };
        Self {
            memory: parent("memory"),
            cpu: parent("cpu"),
            pids: parent("pids"),
            mark: format!(
                "flowctl-{:016x}",
                hash(instances_dir.as_os_str().as_bytes())
            ),
        }
    }

    /// The limits for which there is no group.
    pub(super) fn missing(&self) -> BTreeSet<Limit> {
        let parents = [
            (Limit::Memory, &self.memory),
            (Limit::Cpu, &self.cpu),
            (Limit::Pids, &self.pids),
        ];
        let missing = parents.into_iter().filter(|(_, parent)| parent.is_none());
        missing.map(|(limit, _)| limit).collect()
    }

    /// The groups that `limits` call for: where, and what is written into which file.
    fn wanted(&self, limits: &Resources) -> Vec<(&Parent, Vec<(&'static str, String)>)> {
        let mut wanted = Vec::new();
        if let (Some(parent), Some(bytes)) = (&self.memory, limits.memory_limit_bytes) {
            let bytes = bytes.to_string();
            let files = match parent {
                // Swap counts with memory, where the kernel counts it at all.
                Parent::V1(_) => vec![
                    ("memory.limit_in_bytes", bytes.clone()),
                    ("memory.memsw.limit_in_bytes", bytes),
                ],
                Parent::V2(_) => vec![
                    ("memory.max", bytes),
                    ("memory.swap.max", "0".to_owned()),
                    ("memory.oom.group", "1".to_owned()),
                ],
            };
            wanted.push((parent, files));
        }
        if let (Some(parent), Some(millis)) = (&self.cpu, limits.cpu_limit_millis) {
            // The kernel takes no less than a millisecond per period.
            let quota = (millis * PERIOD_US / 1_000).max(1_000);
            let files = match parent {
                Parent::V1(_) => vec![
                    ("cpu.cfs_period_us", PERIOD_US.to_string()),
                    ("cpu.cfs_quota_us", quota.to_string()),
                ],
                Parent::V2(_) => vec![("cpu.max", format!("{quota} {PERIOD_US}"))],
            };
            wanted.push((parent, files));
        }
        if let (Some(parent), Some(count)) = (&self.pids, limits.pids_limit) {
            wanted.push((parent, vec![("pids.max", count.to_string())]));
        }
        wanted
    }

    fn dir(&self, parent: &Parent, instance: &InstanceId) -> PathBuf {
        let (Parent::V1(dir) | Parent::V2(dir)) = parent;
        dir.join(format!("{}-{instance}", self.mark))
    }

    /// Makes the groups of an instance and sets its limits.
    ///
    /// # Errors
    /// The file that could not be written, and why.
    pub(super) fn make(
        &self,
        instance: &InstanceId,
        limits: &Resources,
    ) -> Result<Membership, (PathBuf, io::Error)> {
        let mut membership = Membership::default();
        for (parent, files) in self.wanted(limits) {
            let dir = self.dir(parent, instance);
            if let Parent::V2(top) = parent {
                let control = top.join("cgroup.subtree_control");
                fs::write(&control, "+memory +cpu +pids").map_err(|error| (control, error))?;
            }
            fs::create_dir_all(&dir).map_err(|error| (dir.clone(), error))?;
            for (name, value) in files {
                let file = dir.join(name);
                // What only some kernels have is set where it is.
                let optional = ["memory.memsw.limit_in_bytes", "memory.swap.max"].contains(&name);
                if optional && !file.exists() {
                    continue;
                }
                fs::write(&file, value).map_err(|error| (file, error))?;
            }
            let join = dir.join("cgroup.procs");
            if !membership.join.contains(&join) {
                membership.join.push(join);
            }
            if self.memory.as_ref() == Some(parent) && limits.memory_limit_bytes.is_some() {
                membership.oom = Some(match parent {
                    Parent::V1(_) => dir.join("memory.oom_control"),
                    Parent::V2(_) => dir.join("memory.events"),
                });
            }
        }
        Ok(membership)
    }

    /// The files by which another program joins the groups that an instance has.
    pub(super) fn of(&self, instance: &InstanceId) -> Vec<PathBuf> {
        let mut join = Vec::new();
        for parent in [&self.memory, &self.cpu, &self.pids].into_iter().flatten() {
            let file = self.dir(parent, instance).join("cgroup.procs");
            if !join.contains(&file) && file.exists() {
                join.push(file);
            }
        }
        join
    }

    /// Removes the groups of an instance that is gone.
    ///
    /// # Errors
    /// When the kernel still counts a process in one.
    pub(super) fn forget(&self, instance: &InstanceId) -> io::Result<()> {
        for parent in [&self.memory, &self.cpu, &self.pids].into_iter().flatten() {
            let dir = self.dir(parent, instance);
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                answer => answer?,
            }
        }
        Ok(())
    }
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

/// A group of the common hierarchy that was delegated to us with `controller`.
fn v2_dir(controller: &str, own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let group = mounts
        .lines()
        .filter_map(Mount::parse)
        .find(|mount| mount.kind == "cgroup2")
        .and_then(|mount| mount.locate(path))?;
    // A group with processes cannot share out controllers, but for the root. Above us stands a
    // group of ours only where its owner says so.
    let top = if path == "/" {
        // Inside a namespace of groups the top is an ordinary group, and has this file.
        (!group.join("cgroup.type").exists()).then_some(group)?
    } else {
        let parent = group.parent()?.to_owned();
        let mut value = [0u8; 8];
        let delegated = rustix::fs::getxattr(&parent, "user.delegate", &mut value[..]);
        (delegated == Ok(1) && value[0] == b'1').then_some(parent)?
    };
    let controllers = fs::read_to_string(top.join("cgroup.controllers")).ok()?;
    controllers
        .split_whitespace()
        .any(|named| named == controller)
        .then_some(top)
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

/// Whether the file that counts kills for want of memory counts any. Uses no heap.
pub(super) fn was_out_of_memory(file: &std::ffi::CStr) -> bool {
    use rustix::fs::{Mode, OFlags};
    let mut text = [0; 1024];
    let read = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut text));
    let text = read.ok().and_then(|len| str::from_utf8(&text[..len]).ok());
    text.unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim() != "0")
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
        assert_eq!(v2_dir("memory", own, MOUNTS), None, "not delegated");
    }

    #[test]
    fn limits_become_what_each_version_reads() {
        let groups = Groups {
            memory: Some(Parent::V1("/m".into())),
            cpu: Some(Parent::V2("/u".into())),
            pids: None,
            mark: "flowctl-0".to_owned(),
        };
        let limits = Resources {
            cpu_limit_millis: Some(1_500),
            memory_limit_bytes: Some(4_096),
            pids_limit: Some(7),
            ..Resources::default()
        };
        let wanted = groups.wanted(&limits);
        assert_eq!(wanted.len(), 2, "no pids controller, no group for it");
        assert_eq!(wanted[0].1[0], ("memory.limit_in_bytes", "4096".to_owned()));
        assert_eq!(wanted[1].1[0], ("cpu.max", "150000 100000".to_owned()));
        assert!(groups.wanted(&Resources::default()).is_empty());
    }
}
