//! Logs of what nothing defines any more: deleted pipelines, components that were taken out,
//! replicas that were scaled away. They are kept for a while, and end of their own.
//!
//! A replica's folder says itself since when nothing defines it, in a file beside the log, so that
//! neither a lost store nor a daemon that was away changes that.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::name::FileName;
use super::{names, pipeline_dir, replica_dir};
use crate::model::{ComponentId, PipelineKey, ReplicaKey, Timestamp};

/// The file that says since when nothing defines a replica.
const GONE: &str = "gone";

/// How long, and how much, is kept of what nothing defines any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So long.
    pub age: Duration,
    /// So many bytes of all of them together; the oldest go first.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(7 * 24 * 60 * 60),
            bytes: 4 << 30,
        }
    }
}

/// Whose log.
pub type Owner = (PipelineKey, ReplicaKey);

/// The log of one replica, as it lies on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLog {
    /// Of which pipeline.
    pub pipeline: PipelineKey,
    /// Of which replica.
    pub replica: ReplicaKey,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was written to last; `None` = never.
    pub written: Option<Timestamp>,
    /// Since when nothing defines the replica; `None` = something does, or nobody has looked yet.
    pub gone: Option<Timestamp>,
}

impl KeptLog {
    fn owner(&self) -> Owner {
        (self.pipeline.clone(), self.replica.clone())
    }
}

/// All logs below `logs`, in the order of their names.
///
/// # Errors
/// When the folders cannot be read.
pub fn kept(logs: &Path) -> io::Result<Vec<KeptLog>> {
    let mut all = Vec::new();
    for namespace in names(logs)? {
        let Ok(in_namespace) = namespace.parse() else {
            continue;
        };
        for name in names(&logs.join(&namespace))? {
            let Ok(name) = name.parse() else {
                continue;
            };
            let pipeline = PipelineKey {
                namespace: Clone::clone(&in_namespace),
                name,
            };
            all.extend(kept_of(logs, &pipeline)?);
        }
    }
    all.sort_by_cached_key(KeptLog::owner);
    Ok(all)
}

/// All logs of one pipeline.
///
/// # Errors
/// When the folders cannot be read.
pub fn kept_of(logs: &Path, pipeline: &PipelineKey) -> io::Result<Vec<KeptLog>> {
    let dir = pipeline_dir(logs, pipeline);
    let mut all = Vec::new();
    for component in names(&dir)? {
        let Ok(id) = component.parse::<ComponentId>() else {
            continue;
        };
        for number in names(&dir.join(&component))? {
            let Ok(replica) = number.parse() else {
                continue;
            };
            let replica = ReplicaKey {
                component: id.clone(),
                replica,
            };
            all.push(look_at(logs, pipeline, replica)?);
        }
    }
    Ok(all)
}

fn look_at(logs: &Path, pipeline: &PipelineKey, replica: ReplicaKey) -> io::Result<KeptLog> {
    let dir = replica_dir(logs, pipeline, &replica);
    let (mut bytes, mut written) = (0, None);
    for name in names(&dir)? {
        if FileName::parse(name.as_bytes()).is_none() {
            continue;
        }
        match fs::symlink_metadata(dir.join(name)) {
            Ok(about) => {
                bytes += about.len();
                written = written.max(about.modified().ok().map(timestamp));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(KeptLog {
        pipeline: pipeline.clone(),
        replica,
        bytes,
        written,
        gone: gone_since(&dir.join(GONE))?,
    })
}

/// What a note says; one that cannot be understood, as after a crash, counts from when it was made.
fn gone_since(note: &Path) -> io::Result<Option<Timestamp>> {
    let text = match fs::read(note) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let said = str::from_utf8(&text).ok();
    match said.and_then(|said| said.trim().parse().ok()) {
        Some(at) => Ok(Some(at)),
        None => Ok(Some(timestamp(fs::metadata(note)?.modified()?))),
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What is to be done about one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Note that nothing defines the replica from now on.
    Gone,
    /// Forget that: something does again.
    Back,
    /// Its time is over.
    Remove,
}

/// What is to be done about which of `kept`. Pure.
fn steps(
    kept: &[KeptLog],
    defined: &BTreeSet<Owner>,
    retention: Retention,
    now: Timestamp,
) -> Vec<(usize, Step)> {
    let mut steps = Vec::new();
    let mut staying = Vec::new();
    for (index, log) in kept.iter().enumerate() {
        if defined.contains(&log.owner()) {
            if log.gone.is_some() {
                steps.push((index, Step::Back));
            }
            continue;
        }
        // A note from the future was made by a clock that was wrong: the time begins anew.
        let since = match log.gone.filter(|gone| *gone <= now) {
            // Where the clock was behind when it was made, the log itself knows better.
            Some(gone) => gone.max(log.written.filter(|at| *at <= now).unwrap_or(gone)),
            None => {
                steps.push((index, Step::Gone));
                now
            }
        };
        if now.since(since) >= retention.age {
            steps.push((index, Step::Remove));
        } else {
            staying.push((since, index, log.bytes));
        }
    }
    staying.sort_unstable();
    let mut room = retention.bytes;
    for (_, index, bytes) in staying.into_iter().rev() {
        match room.checked_sub(bytes) {
            Some(left) => room = left,
            None => {
                // Whatever is older goes too, or an old one that is small would outlive it.
                room = 0;
                steps.push((index, Step::Remove));
            }
        }
    }
    steps
}

/// Notes what nothing defines any more and removes what was kept long enough; answers what was
/// removed. What could not be is tried again the next time.
///
/// # Errors
/// When the folders cannot be read.
pub fn sweep(
    logs: &Path,
    defined: &BTreeSet<Owner>,
    retention: Retention,
    now: Timestamp,
) -> io::Result<Vec<KeptLog>> {
    let kept = kept(logs)?;
    let mut removed = Vec::new();
    for (index, step) in steps(&kept, defined, retention, now) {
        let log = &kept[index];
        let note = replica_dir(logs, &log.pipeline, &log.replica).join(GONE);
        let done = match step {
            Step::Gone => fs::write(&note, now.to_string()),
            Step::Back => fs::remove_file(&note),
            Step::Remove => remove(logs, log),
        };
        match (done, step) {
            (Ok(()), Step::Remove) => removed.push(log.clone()),
            (Ok(()), Step::Gone | Step::Back) => {}
            (Err(error), Step::Gone | Step::Back | Step::Remove) => {
                let note = note.display();
                tracing::warn!(%error, %note, ?step, "a log is looked after later");
            }
        }
    }
    Ok(removed)
}

/// Removes a log at once.
///
/// # Errors
/// When its folder could not be removed.
pub fn remove(logs: &Path, log: &KeptLog) -> io::Result<()> {
    let dir = replica_dir(logs, &log.pipeline, &log.replica);
    match fs::remove_dir_all(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The folders around it go with the last that is in them: of the component, the pipeline, the
    // namespace.
    let mut around: Option<&Path> = dir.parent();
    while let Some(folder) = around.filter(|folder| *folder != logs) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
        around = folder.parent();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn log(name: &str, bytes: u64, written: i64, gone: Option<i64>) -> KeptLog {
        KeptLog {
            pipeline: PipelineKey {
                namespace: Default::default(),
                name: name.parse().unwrap(),
            },
            replica: ReplicaKey {
                component: "a".parse().unwrap(),
                replica: 0,
            },
            bytes,
            written: Some(at(written)),
            gone: gone.map(at),
        }
    }

    const KEEP: Retention = Retention {
        age: Duration::from_secs(100),
        bytes: 1_000,
    };

    #[test]
    fn what_nothing_defines_is_kept_for_its_time_from_then_on_whatever_the_clock_did() {
        let defined = BTreeSet::from([log("living", 0, 0, None).owner()]);
        let table = [
            // Written, gone since, now: what is done.
            ("living", 900, None, 1_000, vec![]),
            ("living", 900, Some(950), 1_000, vec![Step::Back]),
            ("dead", 900, None, 1_000, vec![Step::Gone]),
            ("dead", 10, Some(950), 1_000, vec![]),
            ("dead", 10, Some(901), 1_000, vec![]),
            ("dead", 10, Some(900), 1_000, vec![Step::Remove]),
            // The clock was at the beginning of time when it went.
            ("dead", 950, Some(0), 1_000, vec![]),
            ("dead", 950, Some(0), 1_050, vec![Step::Remove]),
            // The clock was ahead when it went, or is behind now.
            ("dead", 10, Some(5_000), 1_000, vec![Step::Gone]),
            ("dead", 5_000, Some(990), 1_000, vec![]),
        ];
        for (name, written, gone, now, wanted) in table {
            let kept = [log(name, 1, written, gone)];
            let found = steps(&kept, &defined, KEEP, at(now));
            let found: Vec<Step> = found.into_iter().map(|(_, step)| step).collect();
            assert_eq!(found, wanted, "{name}, {written}, {gone:?}, {now}");
        }
        let none = Retention {
            age: Duration::ZERO,
            ..KEEP
        };
        let kept = [log("dead", 1, 900, None)];
        let found = steps(&kept, &defined, none, at(1_000));
        assert_eq!(found, [(0, Step::Gone), (0, Step::Remove)]);
    }

    #[test]
    fn beyond_the_limit_the_oldest_go_first() {
        let kept = [
            log("oldest", 1, 0, Some(910)),
            log("newest", 600, 0, Some(990)),
            log("older", 600, 0, Some(920)),
            log("newer", 300, 0, Some(980)),
        ];
        let found = steps(&kept, &BTreeSet::new(), KEEP, at(1_000));
        assert_eq!(found, [(2, Step::Remove), (0, Step::Remove)]);
    }

    #[test]
    fn a_sweep_leaves_what_is_defined_and_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        let write = |path: &str| {
            let path = logs.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        write("default/living/a/0/000001-000001.log");
        write("default/living/a/1/000001-000001.log");
        write("default/dead/a/0/000001-000001.log");
        write("notes/of the operator/x");
        let owner = log("living", 0, 0, None).owner();
        let defined = BTreeSet::from([owner]);
        let now = crate::clock::Clock::new().now();
        assert_eq!(sweep(&logs, &defined, KEEP, now).unwrap(), []);
        let since: Vec<_> = kept(&logs).unwrap();
        let since: Vec<bool> = since.iter().map(|log| log.gone.is_some()).collect();
        assert_eq!(since.iter().filter(|gone| **gone).count(), 2);
        let later = now.after(Duration::from_secs(200));
        assert_eq!(sweep(&logs, &defined, KEEP, later).unwrap().len(), 2);
        assert!(!logs.join("default/dead").exists());
        assert!(logs.join("default/living/a/0/000001-000001.log").exists());
        assert!(!logs.join("default/living/a/1").exists());
        assert!(logs.join("notes/of the operator/x").exists());
        // Nothing was ever logged: nothing to do.
        assert_eq!(
            sweep(&dir.path().join("no"), &defined, KEEP, now).unwrap(),
            []
        );
    }
}
