//! What instances use: one look at all processes of the host, each counted to the guardian that it
//! lives below, and the control group of an instance where it has one.
//!
//! Processor time of processes that have ended is their parent's, and at last their guardian's, to
//! which orphans go. What an instance has used never falls but by children whose parent refuses to
//! hear of their end.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::driver::usage::{Meter, Metered, Reading};
use crate::model::{InstanceId, ProcessIdentity};

use super::sys::page_size;
use super::{ProcessDriver, Site};

/// Ticks of the clock by which `/proc` counts processor time; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Of a larger tree each process counts with its own pages, shared ones with those of each: what
/// they share is looked up for so many at most, since that walks all their memory.
const MOST_SHARERS: usize = 32;

#[async_trait]
impl Meter for ProcessDriver {
    async fn measure(&self, instances: Vec<Metered>) -> BTreeMap<InstanceId, Reading> {
        let measured = self.blocking("measure its instances", move |site, _| {
            Ok(measure(site, &instances))
        });
        match measured.await {
            Ok(readings) => readings,
            Err(error) => {
                tracing::debug!(%error, "what instances use is not known");
                BTreeMap::new()
            }
        }
    }
}

fn measure(site: &Site, instances: &[Metered]) -> BTreeMap<InstanceId, Reading> {
    let guardians: Vec<(InstanceId, ProcessIdentity, bool)> = {
        let album = site.album();
        let known = instances.iter().filter_map(|one| {
            let (shim, limited) = album.guardian_of(one.instance.to_string().as_ref())?;
            Some((one.instance.clone(), shim.clone(), limited))
        });
        known.collect()
    };
    let Some(host) = Host::look() else {
        return BTreeMap::new();
    };
    let of_one = |(instance, shim, limited): (InstanceId, ProcessIdentity, bool)| {
        if shim.boot_id != site.boot.id {
            return None;
        }
        let mut reading = host.reading(&shim)?;
        if limited {
            site.groups.measure(&instance, &mut reading);
        }
        Some((instance, reading))
    };
    guardians.into_iter().filter_map(of_one).collect()
}

/// All processes, as they were at one moment.
struct Host {
    proc: OwnedFd,
    processes: HashMap<u32, Process>,
    children: HashMap<u32, Vec<u32>>,
}

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// In ticks, its threads' together.
    own: u64,
    /// In ticks, of children that have ended and were waited for.
    ended: u64,
    /// Start time in ticks since boot.
    started: u64,
}

impl Host {
    fn look() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).ok()?;
        let mut host = Self {
            proc,
            processes: HashMap::new(),
            children: HashMap::new(),
        };
        for entry in rustix::fs::Dir::read_from(&host.proc).ok()? {
            let name = entry.ok()?;
            let number = name.file_name().to_str().ok();
            let Some(pid) = number.and_then(|name| name.parse().ok()) else {
                continue;
            };
            let mut buffer = [0; 1024];
            let stat = host.read(&format!("{pid}/stat"), &mut buffer);
            // It may have ended meanwhile.
            if let Some(process) = stat.and_then(parse_stat) {
                host.processes.insert(pid, process);
                host.children.entry(process.parent).or_default().push(pid);
            }
        }
        Some(host)
    }

    /// The beginning of a file below `/proc`.
    fn read<'a>(&self, path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.proc, path, flags, Mode::empty()).ok()?;
        let length = rustix::io::read(&file, &mut *buffer).ok()?;
        buffer.get(..length)
    }

    /// What everything below the guardian `shim` uses; `None` when that is gone.
    fn reading(&self, shim: &ProcessIdentity) -> Option<Reading> {
        let guardian = self.processes.get(&shim.pid)?;
        if guardian.started != shim.start_ticks {
            return None;
        }
        let tree = self.below(shim.pid);
        let ticks = tree.iter().filter_map(|pid| self.processes.get(pid));
        let ticks: u64 = ticks.map(|one| one.own + one.ended).sum::<u64>() + guardian.ended;
        let files = tree.iter().map(|pid| self.open_files(*pid));
        #[expect(clippy::cast_precision_loss, reason = "ticks of a life fit")]
        let cpu_seconds = ticks as f64 / TICKS_PER_SECOND;
        Some(Reading {
            cpu_seconds: Some(cpu_seconds),
            memory_bytes: Some(self.memory(&tree)),
            memory_limit_bytes: None,
            processes: u32::try_from(tree.len()).ok(),
            // Of a process that hides itself it is not known, so of the tree it is not either.
            open_files: files.sum::<Option<u32>>(),
        })
    }

    /// The processes below `root`, each once.
    fn below(&self, root: u32) -> Vec<u32> {
        let mut tree = Vec::new();
        let mut open = vec![root];
        while let Some(pid) = open.pop() {
            for child in self.children.get(&pid).into_iter().flatten() {
                tree.push(*child);
                open.push(*child);
            }
        }
        tree
    }

    fn memory(&self, tree: &[u32]) -> u64 {
        let of_one = |pid: &u32| {
            // What a tree forked shares its pages until somebody writes to them.
            let shared = (2..=MOST_SHARERS).contains(&tree.len());
            let share = shared.then(|| self.share(*pid)).flatten();
            share.or_else(|| self.anonymous(*pid)).unwrap_or(0)
        };
        tree.iter().map(of_one).sum()
    }

    /// Pages of a process that no file stands behind, shared ones in part.
    fn share(&self, pid: u32) -> Option<u64> {
        let mut buffer = [0; 2048];
        let text = self.read(&format!("{pid}/smaps_rollup"), &mut buffer)?;
        let text = str::from_utf8(text).ok()?;
        let kibibytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        Some((kibibytes("Pss_Anon:")? + kibibytes("Pss_Shmem:")?) * 1024)
    }

    /// Pages of a process that no file stands behind.
    fn anonymous(&self, pid: u32) -> Option<u64> {
        let mut buffer = [0; 256];
        let text = self.read(&format!("{pid}/statm"), &mut buffer)?;
        let mut pages = str::from_utf8(text).ok()?.split_ascii_whitespace().skip(1);
        let resident: u64 = pages.next()?.parse().ok()?;
        let shared: u64 = pages.next()?.parse().ok()?;
        Some(resident.saturating_sub(shared) * page_size() as u64)
    }

    fn open_files(&self, pid: u32) -> Option<u32> {
        let path = format!("{pid}/fd");
        let stat = rustix::fs::statat(&self.proc, path.as_str(), AtFlags::empty()).ok()?;
        if stat.st_size > 0 {
            // Kernels from 6.2 on say how many there are.
            return u32::try_from(stat.st_size).ok();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.proc, path, flags, Mode::empty()).ok()?;
        let entries = rustix::fs::Dir::new(folder).ok()?;
        // Two of them are `.` and `..`.
        u32::try_from(entries.count().saturating_sub(2)).ok()
    }
}

fn parse_stat(text: &[u8]) -> Option<Process> {
    // The name in field 2 may hold anything, `)` and spaces too.
    let after_name = memchr::memrchr(b')', text)? + 2;
    let fields = str::from_utf8(text.get(after_name..)?).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().take(20).collect();
    // Field 3 is the first of these.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        own: number(14)? + number(15)?,
        ended: number(16)? + number(17)?,
        started: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_understood_whatever_the_program_is_called() {
        let line = b"7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 50 20 7 3 20 0 1 0 4711 1 2 3 4\n";
        let process = parse_stat(line);
        let wanted = Process {
            parent: 3,
            own: 70,
            ended: 10,
            started: 4711,
        };
        assert_eq!(process, Some(wanted));
    }

    #[test]
    fn a_tree_is_counted_once_however_deep() {
        let mut sh = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60 & wait"])
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let root = std::process::id();
        loop {
            let host = Host::look().unwrap();
            let tree = host.below(root);
            let mut unique = tree.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), tree.len());
            if host.below(sh.id()).len() == 2 {
                assert!(host.memory(&host.below(sh.id())) > 0);
                assert!(host.open_files(sh.id()).is_some_and(|count| count >= 3));
                break;
            }
            assert!(std::time::Instant::now() < deadline, "they do not start");
            std::thread::yield_now();
        }
        for child in Host::look().unwrap().below(sh.id()) {
            let pid = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        sh.kill().unwrap();
        sh.wait().unwrap();
    }
}
