//! Control groups: limits on memory, processor time and processes, and what belongs together.
//!
//! A component with limits runs in control groups of its own: of version 1 below the daemon's own
//! groups, of version 2 below a group of ours. That is `flowctl` at the top of the hierarchy for root,
//! and for a user the scope in which the daemon was started, if that was delegated to it, or one that
//! the manager of the user's services gives. A component without limits costs nothing: its guardian was
//! forked inside the one group of all trees of this state directory, and its tree cannot leave that.
//!
//! Where no group may be made the limits are not enforced, and [`unenforced`] says so.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::model::{InstanceId, Limit, Resources};

use super::text::hash;

mod measure;
mod place;
mod scope;

use place::{Host, Top};

/// The period over which processor time is shared out, in microseconds; the kernel's default.
const PERIOD_US: u64 = 100_000;
/// Where the processes of a group go that has to share out its controllers.
const VACATED: &str = "flowctl-daemon";
/// So often is a group emptied: its processes fork meanwhile.
const ROUNDS: usize = 20;

/// The limits that this host does not let us enforce. Changes nothing.
pub fn unenforced() -> BTreeSet<Limit> {
    let host = Host::read();
    let missing = Groups::offered(&host, host.unified(), Path::new("")).missing();
    if !missing.is_empty() && host.path().is_some_and(scope::is_to_be_had) {
        return BTreeSet::new();
    }
    missing
}

/// Why limits are not enforced here, and what can be done about it, in words.
pub fn why_unenforced() -> &'static str {
    let is_user = !rustix::process::geteuid().is_root();
    if is_user && Path::new("/run/systemd/system").exists() {
        scope::ADVICE
    } else {
        "this host gives us no control group for that"
    }
}

/// The directories below which groups for instances are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    memory: Option<Parent>,
    cpu: Option<Parent>,
    pids: Option<Parent>,
    /// Where groups of version 2 are made, with or without controllers.
    top: Option<Top>,
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

impl Parent {
    fn dir(&self) -> &Path {
        let (Self::V1(dir) | Self::V2(dir)) = self;
        dir
    }
}

/// One group that limits call for.
struct Wanted<'a> {
    parent: &'a Parent,
    controller: &'static str,
    /// What is written into which file.
    files: Vec<(&'static str, String)>,
}

/// The groups of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// Files to which the program writes itself before it runs.
    pub(super) join: Vec<PathBuf>,
    /// The file that counts kills for want of memory.
    pub(super) oom: Option<PathBuf>,
    /// The file that kills all that are in the group.
    pub(super) kill: Option<PathBuf>,
}

impl Groups {
    /// What this host offers to the instances in `instances_dir`. Changes nothing.
    pub(super) fn find(instances_dir: &Path) -> Self {
        let host = Host::read();
        Self::offered(&host, host.unified(), instances_dir)
    }

    fn offered(host: &Host, top: Option<Top>, instances_dir: &Path) -> Self {
        let parent = |controller: &str| {
            let v2 = || {
                let top = top.as_ref().filter(|top| top.offers(controller))?;
                Some(Parent::V2(top.dir.clone()))
            };
            host.v1(controller).map(Parent::V1).or_else(v2)
        };
        Self {
            memory: parent("memory"),
            cpu: parent("cpu"),
            pids: parent("pids"),
            top: top.clone(),
            mark: format!(
                "flowctl-{:016x}",
                hash(instances_dir.as_os_str().as_bytes())
            ),
        }
    }

    /// What this host offers to the driver that owns `instances_dir` and forks by the process
    /// `server`, which may be moved. What already runs gets its limits again if it has lost them.
    pub(super) fn claim(
        instances_dir: &Path,
        server: Option<u32>,
        limits: impl Fn(&InstanceId) -> Option<Resources>,
    ) -> Self {
        let host = Host::read();
        let mut groups = Self::offered(&host, host.unified(), instances_dir);
        if let Some(server) = server
            && !groups.missing().is_empty()
            && host.path().is_some_and(scope::is_to_be_had)
        {
            let name = format!("{}-{}.scope", groups.mark, std::process::id());
            match scope::ask(&name, server) {
                Ok(()) => {
                    let host = Host::read_for(&server.to_string());
                    // It was given, whatever mark it bears.
                    groups = Self::offered(&host, host.own(), instances_dir);
                }
                Err(why) => tracing::warn!(%why, "limits of components are not enforced"),
            }
        }
        groups.restore(limits);
        groups
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

    /// The groups that `limits` call for.
    fn wanted(&self, limits: &Resources) -> Vec<Wanted<'_>> {
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
            wanted.push(Wanted {
                parent,
                controller: "memory",
                files,
            });
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
            wanted.push(Wanted {
                parent,
                controller: "cpu",
                files,
            });
        }
        if let (Some(parent), Some(count)) = (&self.pids, limits.pids_limit) {
            wanted.push(Wanted {
                parent,
                controller: "pids",
                files: vec![("pids.max", count.to_string())],
            });
        }
        wanted
    }

    fn dir(&self, parent: &Path, instance: &InstanceId) -> PathBuf {
        parent.join(format!("{}-{instance}", self.mark))
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
        for Wanted {
            parent,
            controller,
            files,
        } in self.wanted(limits)
        {
            let dir = self.dir(parent.dir(), instance);
            if let (Parent::V2(_), Some(top)) = (parent, &self.top) {
                share(top, controller)?;
                membership.kill = Some(dir.join("cgroup.kill"));
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
            if controller == "memory" {
                membership.oom = Some(match parent {
                    Parent::V1(_) => dir.join("memory.oom_control"),
                    Parent::V2(_) => dir.join("memory.events"),
                });
            }
        }
        Ok(membership)
    }

    /// Sets the limits of what runs already: systemd takes the controllers of a delegated group away
    /// when it starts the unit anew. Groups whose instance is forgotten are removed.
    fn restore(&self, limits: impl Fn(&InstanceId) -> Option<Resources>) {
        let Some(top) = &self.top else { return };
        let prefix = format!("{}-", self.mark);
        // There is none before the first.
        let entries = fs::read_dir(&top.dir).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let instance = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            let Some(instance) = instance.and_then(|id| id.parse::<InstanceId>().ok()) else {
                continue;
            };
            let again = match limits(&instance) {
                Some(limits) => self.make(&instance, &limits).map(drop),
                None => self
                    .forget(&instance)
                    .map_err(|error| (entry.path(), error)),
            };
            if let Err((path, error)) = again {
                let path = path.display();
                tracing::warn!(%instance, %path, %error, "its limits cannot be set again");
            }
        }
    }

    /// The files by which another program joins the groups that an instance has, whose process is
    /// `program`: an earlier daemon may have made them elsewhere.
    pub(super) fn of(&self, instance: &InstanceId, program: Option<u32>) -> Vec<PathBuf> {
        let parents = self.parents().into_iter();
        let dirs = parents.map(|parent| self.dir(parent, instance));
        let name = format!("{}-{instance}", self.mark);
        let own = program.and_then(|pid| Host::read_for(&pid.to_string()).named(&name));
        let dirs: BTreeSet<PathBuf> = dirs.chain(own).collect();
        let files = dirs.into_iter().map(|dir| dir.join("cgroup.procs"));
        files.filter(|file| file.exists()).collect()
    }

    /// Removes the groups of an instance that is gone.
    ///
    /// # Errors
    /// When the kernel still counts a process in one.
    pub(super) fn forget(&self, instance: &InstanceId) -> io::Result<()> {
        for parent in self.parents() {
            remove(&self.dir(parent, instance))?;
        }
        Ok(())
    }

    /// Where groups of instances may be.
    fn parents(&self) -> BTreeSet<&Path> {
        let limited = [&self.memory, &self.cpu, &self.pids].into_iter().flatten();
        limited.map(Parent::dir).collect()
    }

    /// Kills all in the group of this instance at once, where the kernel can.
    pub(super) fn kill(&self, instance: &InstanceId) {
        for parent in self.parents() {
            let file = self.dir(parent, instance).join("cgroup.kill");
            // Hierarchies of version 1 have no such file, nor has a group that is gone.
            if file.exists()
                && let Err(error) = fs::write(&file, "1")
            {
                tracing::debug!(file = %file.display(), %error, "a control group was not killed");
            }
        }
    }

    /// What the names of all groups of this state directory begin with. That of all trees has no
    /// other name, those of an instance go on with `-` and its id.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// The group of all trees of this state directory; made if it is not there. `None` where no
    /// groups may be made.
    pub(super) fn trees(&self) -> Option<PathBuf> {
        let dir = self.top.as_ref()?.dir.join(&self.mark);
        match fs::create_dir_all(&dir) {
            Ok(()) => Some(dir),
            Err(error) => {
                tracing::warn!(group = %dir.display(), %error, "cannot be made");
                None
            }
        }
    }

    /// Removes what no instance is in any more.
    pub(super) fn leave(&self) {
        let Some(top) = &self.top else { return };
        let own = top.below.as_ref().map(|_| top.dir.clone());
        for dir in std::iter::once(top.dir.join(&self.mark)).chain(own) {
            // It stays for as long as anything runs in it, or in a group of another directory.
            if let Err(error) = remove(&dir) {
                tracing::debug!(group = %dir.display(), %error, "a control group stays");
                return;
            }
        }
    }
}

fn remove(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        answer => answer,
    }
}

/// The processes of a group; none when there is no such group.
fn members(group: &Path) -> BTreeSet<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Has the groups below `top` get `controller`.
fn share(top: &Top, controller: &str) -> Result<(), (PathBuf, io::Error)> {
    fs::create_dir_all(&top.dir).map_err(|error| (top.dir.clone(), error))?;
    for group in top.below.iter().chain([&top.dir]) {
        let control = group.join("cgroup.subtree_control");
        let write = || fs::write(&control, format!("+{controller}"));
        let shared = match write() {
            // With processes in it a group keeps its controllers for itself.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EOPNOTSUPP))
                    && top.vacate
                    && group == top.topmost() =>
            {
                vacate(group).map_err(|error| (group.clone(), error))?;
                write()
            }
            answer => answer,
        };
        shared.map_err(|error| (control.clone(), error))?;
    }
    Ok(())
}

/// Moves all processes of a group of ours into one below it.
fn vacate(group: &Path) -> io::Result<()> {
    let leaf = group.join(VACATED);
    fs::create_dir_all(&leaf)?;
    for _ in 0..ROUNDS {
        let inside = members(group);
        if inside.is_empty() {
            break;
        }
        for pid in inside {
            match fs::write(leaf.join("cgroup.procs"), pid.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                answer => answer?,
            }
        }
    }
    Ok(())
}

/// Kills all in the control group that `file` belongs to. Uses no heap.
pub(super) fn kill_all(file: &std::ffi::CStr) -> Result<(), rustix::io::Errno> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"1").map(drop)
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

    #[test]
    fn limits_become_what_each_version_reads() {
        let groups = Groups {
            memory: Some(Parent::V1("/m".into())),
            cpu: Some(Parent::V2("/u".into())),
            pids: None,
            top: None,
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
        let first = |number: usize| wanted[number].files[0].clone();
        assert_eq!(first(0), ("memory.limit_in_bytes", "4096".to_owned()));
        assert_eq!(first(1), ("cpu.max", "150000 100000".to_owned()));
        assert!(groups.wanted(&Resources::default()).is_empty());
    }
}
