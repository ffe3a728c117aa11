//! How much replicas write, for those who ask now and then.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

use super::name::{FileName, Name};
use super::{replica, replica_dir};
use crate::model::{PipelineKey, ReplicaKey, Timestamp};

/// A look answers for so long: it costs a listing of each replica's folder.
const FRESH: Duration = Duration::from_secs(10);

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
    pub fn look(&mut self, replicas: impl Iterator<Item = Whose>) {
        if self.looked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let mut there = HashSet::new();
        for whose in replicas {
            let before = self.seen.get(&whose).copied();
            let (pipeline, key) = &whose;
            let seen = look(&replica_dir(&self.logs, pipeline, key), before);
            if let Some(mut seen) = seen {
                let lost = super::lost(&self.logs, pipeline, key);
                seen.output.lost = lost.map_or(0, |lost| lost.lines);
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

fn look(dir: &Path, before: Option<Seen>) -> Option<Seen> {
    let names = replica::files(dir).ok()?;
    let newest = *names.last()?;
    let about = |name: Name| std::fs::metadata(dir.join(FileName(name).to_string())).ok();
    let about_newest = about(newest)?;
    let since = about_newest.modified().ok()?.duration_since(UNIX_EPOCH);
    let last_at = Timestamp::from_millis(i64::try_from(since.ok()?.as_millis()).ok()?);
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
            let rest = about(name).map_or(0, |it| it.len().saturating_sub(known));
            let between = names
                .iter()
                .filter(|other| **other > name && **other < newest);
            let whole: u64 = between.filter_map(|it| Some(about(*it)?.len())).sum();
            rest + whole + size
        }
    };
    Some(Seen {
        newest: (newest, size),
        output: Output {
            bytes: before.map_or(0, |before| before.output.bytes) + grown,
            last_at,
            lost: 0,
        },
    })
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
        let write = |name: &str, bytes: usize| {
            std::fs::write(dir.join(name), "x".repeat(bytes)).unwrap();
        };
        let mut seen = || {
            outputs.look([whose.clone()].into_iter());
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
        outputs.look(std::iter::empty());
        tokio::time::advance(FRESH).await;
        outputs.look(std::iter::empty());
        assert_eq!(outputs.of(&whose), None, "what is gone is forgotten");
    }
}
