//! What an instance left running when its guardian died.
//!
//! A dead shim takes its program along, but not what that had forked. Three ties tell of it: the
//! instance's mark in its environment, which it may have cleared; control groups that it cannot
//! leave; and who its parents are: what is in the group of all trees, or was handed to the fork
//! server, and has no living guardian above it, belonged to a dead one. A mark alone proves nothing,
//! since anybody can bear it: it counts for processes of the users as whom the instance ran.
//!
//! A process is only ever signalled through a descriptor that was opened before it was looked at for
//! the second time. Where a look is not allowed it counts as guarded: it is left alone.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::model::InstanceId;

use super::environment::MARK_FILE;
use super::fork_server::ForkServer;
use super::launch::instance_of;
use super::record::Description;
use super::sys::{self, UserKey};
use super::{Site, identity};

/// How long the killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than any chain of parents.
const ANCESTORS: usize = 4096;

/// Whose processes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those that one of the instances can be shown to have.
    Theirs,
    /// Those of dead guardians as well, whichever it was: the instances' own are dead.
    Orphans,
}

/// A process that belongs to an instance.
pub(super) struct Leftover {
    /// The file of the instance; `None` = that of some dead guardian.
    file: Option<PathBuf>,
    /// For messages only.
    pub(super) pid: i32,
    process: OwnedFd,
}

impl Leftover {
    /// Whether it may be one of the instance that has `file`.
    pub(super) fn may_be_of(&self, file: &Path) -> bool {
        self.file.as_deref().is_none_or(|own| own == file)
    }
}

/// What is known of an instance whose processes are looked for.
struct Trace {
    file: PathBuf,
    instance: Option<InstanceId>,
    /// As whom it may run.
    users: BTreeSet<u32>,
}

impl Trace {
    fn of(file: &Path) -> Self {
        // What cannot be read names nobody.
        let description = Description::read(file).ok().flatten();
        let user = description.and_then(|read| uid_of(read.spec.user.as_deref()?));
        Self {
            file: file.to_owned(),
            instance: file.file_name().and_then(instance_of),
            users: [rustix::process::getuid().as_raw()]
                .into_iter()
                .chain(user)
                .collect(),
        }
    }
}

/// The number of a user who is written `user`, `user:group` or in numbers.
fn uid_of(user: &str) -> Option<u32> {
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    let number = name.parse().ok();
    number.or_else(|| Some(sys::user(&UserKey::Name(name)).ok()??.uid))
}

/// What ties processes to the instances.
struct Ties<'a> {
    site: &'a Site,
    /// By file.
    marks: HashMap<&'a [u8], &'a Trace>,
    /// By the name that its control groups end with.
    names: HashMap<String, &'a Trace>,
    whose: Whose,
}

impl<'a> Ties<'a> {
    fn new(site: &'a Site, traces: &'a [Trace], whose: Whose) -> Self {
        let named = |trace: &'a Trace| Some((trace.instance.as_ref()?.to_string(), trace));
        Self {
            site,
            marks: traces
                .iter()
                .map(|trace| (trace.file.as_os_str().as_bytes(), trace))
                .collect(),
            names: traces.iter().filter_map(named).collect(),
            whose,
        }
    }

    /// Whether a process is one of those looked for, and the file of its instance where that is
    /// known. A zombie is none.
    fn of(&self, pid: i32) -> Option<Option<&'a Path>> {
        if identity::stat(pid.unsigned_abs())?.is_dead {
            return None;
        }
        if let Some(trace) = self.mark_of(pid) {
            return Some(Some(&trace.file));
        }
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let names = groups.lines().flat_map(|line| line.split('/'));
        let mut is_in_trees = false;
        for rest in names.filter_map(|name| name.strip_prefix(self.site.groups.mark())) {
            is_in_trees |= rest.is_empty();
            let instance = rest.strip_prefix('-');
            if let Some(trace) = instance.and_then(|name| self.names.get(name)) {
                return Some(Some(&trace.file));
            }
        }
        let is_orphan = match self.whose {
            Whose::Theirs => false,
            Whose::Orphans => is_orphan(self.site, pid, is_in_trees),
        };
        is_orphan.then_some(None)
    }

    /// Which of the wanted marks a process bears that may bear it.
    fn mark_of(&self, pid: i32) -> Option<&'a Trace> {
        // Another user's environment cannot be read, and nothing of ours runs as another user unless
        // we are root.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let trace = environment.split(|byte| *byte == 0).find_map(|variable| {
            let value = variable.strip_prefix(MARK_FILE.as_bytes())?;
            self.marks.get(value.strip_prefix(b"=")?).copied()
        })?;
        let user = identity::uid(pid.unsigned_abs());
        let is_its_user = user.is_some_and(|user| trace.users.contains(&user));
        // A damaged file names no user, but its guardian may live.
        let is_its = is_its_user || is_guarded_by(self.site, pid, &trace.file);
        is_its.then_some(trace)
    }
}

fn server_of(site: &Site) -> Option<i32> {
    let pid = site.server.as_ref().and_then(ForkServer::pid)?;
    i32::try_from(pid).ok()
}

/// A process and those above it up to the first, each with its parent; ends early where one cannot be
/// seen.
fn ancestors(pid: i32) -> impl Iterator<Item = (i32, Option<i32>)> {
    let mut next = Some(pid);
    std::iter::from_fn(move || {
        let pid = next?;
        let parent = identity::stat(pid.unsigned_abs()).map(|stat| stat.parent);
        next = parent.filter(|parent| *parent > 1);
        Some((pid, parent))
    })
    .take(ANCESTORS)
}

/// Whether a process was for sure left by a dead guardian: it is in the group of all trees, or was
/// handed to the fork server, and has no living guardian above it, and is none.
fn is_orphan(site: &Site, pid: i32, is_in_trees: bool) -> bool {
    let server = server_of(site);
    let chain: Vec<_> = ancestors(pid).collect();
    let is_handed_over = server.is_some() && chain.iter().any(|(_, parent)| *parent == server);
    if !is_in_trees && !is_handed_over {
        return false;
    }
    let Ok(folder) = site.config.instances_dir.canonicalize() else {
        return false;
    };
    let own = i32::try_from(std::process::id()).ok();
    for (pid, parent) in chain {
        let is_ours = Some(pid) == own || Some(pid) == server;
        match holds_file(pid, |file| file.parent() == Some(folder.as_path())) {
            Some(false) if !is_ours => {}
            Some(_) | None => return false,
        }
        let Some(parent) = parent else { return false };
        if Some(parent) == server {
            // A shim in the making holds no file yet; what was handed over runs something else.
            let program = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
            return match (program(pid), program(parent)) {
                (Some(own), Some(servers)) => own != servers,
                (Some(_) | None, Some(_) | None) => false,
            };
        }
    }
    is_in_trees
}

/// Whether a living guardian of the instance that has `file` stands above a process.
fn is_guarded_by(site: &Site, pid: i32, file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else {
        return false;
    };
    let own = rustix::process::getuid().as_raw();
    site.server.is_some()
        && ancestors(pid).any(|(pid, _)| {
            identity::uid(pid.unsigned_abs()) == Some(own)
                && holds_file(pid, |held| held == file) == Some(true)
        })
}

/// Whether a process has such a file open; `None` when that cannot be seen.
fn holds_file(pid: i32, wanted: impl Fn(&Path) -> bool) -> Option<bool> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        // A descriptor that was closed meanwhile is none.
        if let Ok(path) = std::fs::read_link(entry.ok()?.path())
            && wanted(&path)
        {
            return Some(true);
        }
    }
    Some(false)
}

/// All processes of the instances that have `files`.
///
/// # Errors
/// When the host's processes cannot be listed.
pub(super) fn find(site: &Site, files: &[PathBuf], whose: Whose) -> io::Result<Vec<Leftover>> {
    let traces: Vec<Trace> = files.iter().map(|file| Trace::of(file)).collect();
    look(site, &traces, whose)
}

fn look(site: &Site, traces: &[Trace], whose: Whose) -> io::Result<Vec<Leftover>> {
    let ties = Ties::new(site, traces, whose);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = pid_of(&entry.file_name()) else {
            continue;
        };
        let number = pid.as_raw_nonzero().get();
        if ties.of(number).is_none() {
            continue;
        }
        // The number could have changed hands since: the second look is at what is held.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                if let Some(file) = ties.of(number) {
                    found.push(Leftover {
                        file: file.map(Path::to_owned),
                        pid: number,
                        process,
                    });
                }
            }
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn pid_of(name: &OsStr) -> Option<Pid> {
    Pid::from_raw(name.to_str()?.parse().ok()?)
}

/// Kills all processes of the instances that have `files`, until none is left or patience ends;
/// answers who survived.
///
/// # Errors
/// When the host's processes cannot be listed.
pub(super) fn end(site: &Site, files: &[PathBuf], whose: Whose) -> io::Result<Vec<Leftover>> {
    let traces: Vec<Trace> = files.iter().map(|file| Trace::of(file)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = look(site, &traces, whose)?;
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(left);
        }
        for instance in traces.iter().filter_map(|trace| trace.instance.as_ref()) {
            site.groups.kill(instance);
        }
        for process in &left {
            // One that has ended meanwhile is what is wanted; one that may not be killed is
            // answered as a survivor.
            if let Err(error) = pidfd_send_signal(&process.process, Signal::KILL) {
                tracing::debug!(pid = process.pid, %error, "a leftover could not be killed");
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
