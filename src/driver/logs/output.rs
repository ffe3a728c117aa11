//! How much replicas write, for those who ask now and then.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::name::{FileName, Name};
use super::replica_dir;
use super::writer::LOST;
use crate::model::{PipelineKey, ReplicaKey, Timestamp};

/// A look answers for so long: it costs two questions to the disk for each replica.
const FRESH: Duration = Duration::from_secs(10);
/// A folder whose last change is at least this old when it is listed has changed again if and only if
/// it says so: file systems keep the time of a change to a few milliseconds at best.
const TELLING: Duration = Duration::from_secs(2);

/// A replica of a pipeline.
pub type Whose = (PipelineKey, ReplicaKey);

/// What a replica has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Bytes of its log since it was first looked at. What came and went between two looks is not
    /// among them.
    pub bytes: u64,
    /// When it last wrote a line.
    pub last_at: Timestamp,
    /// Lines that were lost since its log was begun.
    pub lost: u64,
}

/// What replicas have written since they were first looked at.
#[derive(Debug)]
pub struct Outputs {
    logs: PathBuf,
    seen: HashMap<Whose, Seen>,
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    newest: (Name, u64),
    /// Of the folder when it was listed; `None` = it may have changed since without that.
    listed: Option<SystemTime>,
    /// Whether there is a file that tells of lost lines.
    has_lost: bool,
    output: Output,
}

impl Outputs {
    /// Of the logs below `logs`.
    pub fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            seen: HashMap::new(),
            looked: None,
        }
    }

    /// Looks at these replicas and forgets all others, unless somebody just did. It blocks, on the
    /// disk at most.
    pub fn look(&mut self, replicas: impl Iterator<Item = Whose>, now: Timestamp) {
        if self.looked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let mut there = HashSet::new();
        for whose in replicas {
            let before = self.seen.get(&whose).copied();
            let (pipeline, key) = &whose;
            let seen = look(&replica_dir(&self.logs, pipeline, key), before, now);
            if let Some(mut seen) = seen {
                if seen.has_lost {
                    let lost = super::lost(&self.logs, pipeline, key);
                    seen.output.lost = lost.map_or(0, |lost| lost.lines);
                }
                self.seen.insert(whose.clone(), seen);
            }
            there.insert(whose);
        }
        self.seen.retain(|whose, _| there.contains(whose));
        self.looked = Some(Instant::now());
    }

    /// What a replica had written by the last look; `None` = nothing.
    pub fn of(&self, whose: &Whose) -> Option<Output> {
        self.seen.get(whose).map(|seen| seen.output)
    }
}

fn look(dir: &Path, before: Option<Seen>, now: Timestamp) -> Option<Seen> {
    let changed = std::fs::metadata(dir).ok()?.modified().ok();
    if let Some(before) = before
        && before.listed.is_some()
        && before.listed == changed
    {
        return still(dir, before);
    }
    let since_epoch = Duration::from_millis(now.as_millis().try_into().unwrap_or(0));
    let is_telling = |at: &SystemTime| *at + TELLING <= UNIX_EPOCH + since_epoch;
    let listed = changed.filter(is_telling);
    let names = super::names(dir).ok()?;
    let has_lost = names.iter().any(|name| name.as_bytes() == LOST.to_bytes());
    let files = names.iter().filter_map(|it| FileName::parse(it.as_bytes()));
    let mut files: Vec<Name> = files.map(|file| file.0).collect();
    files.sort_unstable();
    let newest = *files.last()?;
    let about_newest = about(dir, newest)?;
    let last_at = written_at(&about_newest)?;
    let size = about_newest.len();
    let grown = match before {
        // What there is when it is first looked at is where counting begins.
        None => 0,
        Some(Seen {
            newest: (name, known),
            ..
        }) if name == newest => size.saturating_sub(known),
        Some(Seen {
            newest: (name, known),
            ..
        }) => {
            let rest = about(dir, name).map_or(0, |it| it.len().saturating_sub(known));
            let between = files
                .iter()
                .filter(|other| **other > name && **other < newest);
            let whole: u64 = between.filter_map(|it| Some(about(dir, *it)?.len())).sum();
            rest + whole + size
        }
    };
    Some(Seen {
        newest: (newest, size),
        listed,
        has_lost,
        output: Output {
            bytes: before.map_or(0, |before| before.output.bytes) + grown,
            last_at,
            lost: 0,
        },
    })
}

/// A look at a folder that holds the same files as before.
fn still(dir: &Path, before: Seen) -> Option<Seen> {
    let (newest, known) = before.newest;
    let about_newest = about(dir, newest)?;
    let size = about_newest.len();
    Some(Seen {
        newest: (newest, size),
        output: Output {
            bytes: before.output.bytes + size.saturating_sub(known),
            last_at: written_at(&about_newest)?,
            lost: 0,
        },
        ..before
    })
}

fn about(dir: &Path, name: Name) -> Option<Metadata> {
    std::fs::metadata(dir.join(FileName(name).to_string())).ok()
}

fn written_at(about: &Metadata) -> Option<Timestamp> {
    let since = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(
        i64::try_from(since.as_millis()).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_written_is_counted_over_files_from_the_first_look_on() {
        let folder = tempfile::tempdir().unwrap();
        let whose: Whose = (
            PipelineKey {
                namespace: Default::default(),
                name: "p".parse().unwrap(),
            },
            ReplicaKey {
                component: "a".parse().unwrap(),
                replica: 0,
            },
        );
        let dir = replica_dir(folder.path(), &whose.0, &whose.1);
        std::fs::create_dir_all(&dir).unwrap();
        let mut outputs = Outputs::new(folder.path().to_owned());
        let now = crate::clock::Clock::new().now();
        let write = |name: &str, bytes: usize| {
            std::fs::write(dir.join(name), "x".repeat(bytes)).unwrap();
        };
        let mut seen = || {
            outputs.look([whose.clone()].into_iter(), now);
            outputs.of(&whose).map(|output| output.bytes)
        };
        assert_eq!(seen(), None);
        for (name, bytes, wanted) in [
            ("000001-000001.log", 100, 0),
            ("000001-000001.log", 130, 30),
            ("000001-000002.log", 50, 80),
        ] {
            write(name, bytes);
            tokio::time::advance(FRESH).await;
            assert_eq!(seen(), Some(wanted));
        }
        write("000001-000002.log", 60);
        write("000002-000001.log", 5);
        write("000002-000002.log", 7);
        assert_eq!(seen(), Some(80), "one that is fresh answers");
        tokio::time::advance(FRESH).await;
        assert_eq!(seen(), Some(102));
        // A folder that has been left alone is not listed again until something in it is new.
        let changed = std::fs::metadata(&dir).unwrap().modified().unwrap();
        let old = changed - Duration::from_secs(60);
        let folder_itself = std::fs::File::open(&dir).unwrap();
        folder_itself.set_modified(old).unwrap();
        for (bytes, wanted) in [(7, 102), (10, 105), (30, 125)] {
            write("000002-000002.log", bytes);
            tokio::time::advance(FRESH).await;
            outputs.look([whose.clone()].into_iter(), now);
            assert_eq!(outputs.of(&whose).unwrap().bytes, wanted);
        }
        std::fs::write(dir.join("lost"), "00000000000000000004\n").unwrap();
        write("000002-000003.log", 1);
        tokio::time::advance(FRESH).await;
        outputs.look([whose.clone()].into_iter(), now);
        let output = outputs.of(&whose).unwrap();
        assert_eq!((output.bytes, output.lost), (126, 4));
        outputs.look(std::iter::empty(), now);
        tokio::time::advance(FRESH).await;
        outputs.look(std::iter::empty(), now);
        assert_eq!(outputs.of(&whose), None, "what is gone is forgotten");
    }
}
