//! What components wrote, whoever ran them: how it is kept, and how it is read: merged by time,
//! lines put together again, from the end where only the end is wanted, and on over rotations and
//! restarts.
//!
//! **Guarantees.** Reading needs no daemon and no driver: the files are all there is. Following
//! loses nothing that is still on disk when it is read, and repeats nothing, whatever others do to
//! the files. What of a line is handed on before its end says that it goes on, and breaks no
//! character.
//!
//! **Caveats.** Lines are merged by the time they carry; where the host's clock was set back, the
//! order within one replica stands. Times are searched for by halving, which a clock that was set
//! back can mislead by as much.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::time::Timespec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::driver::{DriverError, Follow, LogLine, LogQuery, LogStream, Runs};
use crate::model::{ComponentId, DriverKind, InstanceId, PipelineKey, ReplicaKey, Timestamp};

mod copied;
mod copier;
pub mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod kept;
mod name;
mod output;
mod replica;
mod runs;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use copied::{LogFile, Record, Unwritten};
pub(super) use copier::{Copier, blocking};
pub(super) use name::FileName;
pub use output::{Output, Outputs};
pub(super) use replica::parse;
pub(super) use runs::{Part, parts};
pub(super) use writer::{Budget, Writer};

use replica::{Replica, Start};

/// How often a follower looks for replicas that are new, and whether its reader has left.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Lines sent before the other replicas are asked again whether they have older ones.
const ROUND: usize = 4_096;
/// Rounds after which others than those who write all the time have their turn.
const ROUNDS: usize = 16;
/// So long a writer that is faster than this is tried to be caught up with.
const CATCHING_UP: Duration = Duration::from_secs(1);
/// Lines under way to a slow reader.
const BUFFER: usize = 1_024;

/// Where logs lie.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whose reader it is, for errors.
    pub driver: DriverKind,
    /// Log files, as `NAMESPACE/PIPELINE/COMPONENT/REPLICA/INCARNATION-SEQUENCE.log`.
    pub logs_dir: PathBuf,
    /// Files of instances: they tell of a latest run that has not written a line yet.
    pub instances_dir: PathBuf,
}

/// The log directory of one replica.
pub(super) fn replica_dir(logs: &Path, pipeline: &PipelineKey, replica: &ReplicaKey) -> PathBuf {
    pipeline_dir(logs, pipeline)
        .join(replica.component.as_str())
        .join(replica.replica.to_string())
}

fn pipeline_dir(logs: &Path, pipeline: &PipelineKey) -> PathBuf {
    logs.join(pipeline.namespace.as_str())
        .join(pipeline.name.as_str())
}

/// When the replica of `instance` last wrote a line that is kept; `None` = never, or nobody knows.
pub fn last_written(logs: &Path, instance: &InstanceId) -> Option<Timestamp> {
    let dir = replica_dir(logs, &instance.pipeline, &instance.replica);
    let newest = replica::files(&dir).ok()?.pop()?;
    let about = std::fs::metadata(dir.join(FileName(newest).to_string())).ok()?;
    let since = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(
        i64::try_from(since.as_millis()).ok()?,
    ))
}

/// Lines of a replica that were lost since its log was begun, since the disk did not take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub lines: u64,
    /// When the last of them were told.
    pub at: Timestamp,
}

/// What was lost of the log of a replica; `None` = nothing.
pub fn lost(logs: &Path, pipeline: &PipelineKey, replica: &ReplicaKey) -> Option<Lost> {
    let name = writer::LOST.to_str().ok()?;
    let path = replica_dir(logs, pipeline, replica).join(name);
    let text = std::fs::read(&path).ok()?;
    let about = std::fs::symlink_metadata(&path).ok()?;
    let since = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Lost {
        lines: writer::parse_lost(&text).filter(|lines| *lines > 0)?,
        at: Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?),
    })
}

/// The lines that `query` asks for, oldest first. Reads in a thread of its own, which ends with the
/// stream; needs no runtime.
pub fn stream(place: Place, query: LogQuery) -> LogStream {
    let driver = place.driver;
    let (lines, stream) = mpsc::channel(BUFFER);
    let failed = lines.clone();
    let reader = std::thread::Builder::new().name("flowctl-logs".to_owned());
    let spawned = reader.spawn(move || {
        let outcome = Reading::new(place, query, lines.clone()).and_then(Reading::run);
        if let Err(Stopped::Failed(error)) = outcome
            && lines
                .blocking_send(Err(unreadable(driver, &error)))
                .is_err()
        {
            tracing::debug!(%error, "the reader of the logs left before it could be told");
        }
    });
    // The channel is empty, so this one message fits.
    if let Err(error) = spawned
        && failed.try_send(Err(unreadable(driver, &error))).is_err()
    {
        tracing::debug!(%error, "the reader of the logs left before it could be told");
    }
    stream
}

fn unreadable(driver: DriverKind, error: &io::Error) -> DriverError {
    DriverError::Unreachable {
        driver,
        operation: "read logs".to_owned(),
        why: error.to_string(),
    }
}

/// Why reading ended early.
enum Stopped {
    /// Nobody reads any more.
    Unwanted,
    Failed(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

struct Reading {
    place: Place,
    query: LogQuery,
    lines: mpsc::Sender<Result<LogLine, DriverError>>,
    replicas: BTreeMap<ReplicaKey, Replica>,
}

impl Reading {
    fn new(
        place: Place,
        query: LogQuery,
        lines: mpsc::Sender<Result<LogLine, DriverError>>,
    ) -> Result<Self, Stopped> {
        Ok(Self {
            place,
            query,
            lines,
            replicas: BTreeMap::new(),
        })
    }

    fn run(mut self) -> Result<(), Stopped> {
        let start = match (self.query.tail, self.query.since) {
            // The last lines that are wanted may lie far before the last lines.
            (Some(lines), _) if self.query.filter.is_none() => Start::Tail(lines),
            (_, Some(since)) => Start::At(since),
            (_, None) => Start::Beginning,
        };
        let over = match &self.query.follow {
            Follow::No => None,
            Follow::Yes => Some(CancellationToken::new()),
            Follow::Until(over) => Some(over.clone()),
        };
        let over = over.filter(|_| self.query.follows());
        // Watched before it is read, so that nothing falls between.
        let mut watch = over.map(|over| (over, Watch::new()));
        self.discover(start, watch.as_mut().map(|(_, watch)| watch))?;
        match self.query.tail {
            None => {
                let all: Vec<ReplicaKey> = self.replicas.keys().cloned().collect();
                while self.round(&all)? {}
            }
            Some(count) => self.send_tails(count)?,
        }
        match watch {
            None => self.send_rests(),
            Some((over, watch)) => self.follow(&over, watch),
        }
    }

    /// Opens replicas that are not open yet.
    fn discover(&mut self, start: Start, mut watch: Option<&mut Watch>) -> Result<(), Stopped> {
        let pipeline = pipeline_dir(&self.place.logs_dir, &self.query.pipeline);
        for component in names(&pipeline)? {
            let Ok(component) = component.parse::<ComponentId>() else {
                continue;
            };
            if !self.query.components.is_empty() && !self.query.components.contains(&component) {
                continue;
            }
            for number in names(&pipeline.join(component.as_str()))? {
                let Ok(replica) = number.parse() else {
                    continue;
                };
                let key = ReplicaKey {
                    component: component.clone(),
                    replica,
                };
                let dir = replica_dir(&self.place.logs_dir, &self.query.pipeline, &key);
                // Each time, since a folder that was made anew is another one.
                if let Some(watch) = &mut watch {
                    watch.add(&dir, &key);
                }
                if self.replicas.contains_key(&key) || self.query.without.contains(&key) {
                    continue;
                }
                let run = match self.query.runs {
                    Runs::All => None,
                    Runs::Previous => match self.previous(&dir, &key)? {
                        Some(run) => Some(run),
                        None => continue,
                    },
                };
                let mut reader = Replica::new(dir, key.clone(), run);
                reader.until(self.query.until);
                reader.since(self.query.since);
                reader.filter(self.query.filter.clone());
                reader.seek(start)?;
                self.replicas.insert(key, reader);
            }
        }
        Ok(())
    }

    /// The run before the latest, of those that wrote something.
    fn previous(&self, dir: &Path, key: &ReplicaKey) -> io::Result<Option<u64>> {
        // In the order in which they wrote, which is that of their numbers unless a clock was set
        // back.
        let mut written: Vec<u64> = Vec::new();
        for part in parts(dir)? {
            written.retain(|run| *run != part.run);
            written.push(part.run);
        }
        let known = names(&self.place.instances_dir)?
            .into_iter()
            .filter_map(|name| name.parse::<InstanceId>().ok())
            .filter(|id| id.pipeline == self.query.pipeline && id.replica == *key)
            .map(|id| id.incarnation);
        let last = written.last().copied();
        let is_silent = known.max().is_some_and(|known| Some(known) > last);
        if !is_silent {
            written.pop();
        }
        Ok(written.last().copied())
    }

    fn send(&self, line: LogLine) -> Result<(), Stopped> {
        self.lines
            .blocking_send(Ok(line))
            .map_err(|_| Stopped::Unwanted)
    }

    /// Sends lines of these replicas, merged; false once none of them has any more for now.
    fn round(&mut self, keys: &[ReplicaKey]) -> Result<bool, Stopped> {
        let mut heads = BinaryHeap::new();
        for (index, key) in keys.iter().enumerate() {
            if let Some(replica) = self.replicas.get_mut(key)
                && let Some(line) = replica.peek()?
            {
                heads.push(Reverse((line.at_nanos, index)));
            }
        }
        for _ in 0..ROUND {
            let Some(Reverse((_, index))) = heads.pop() else {
                return Ok(false);
            };
            let Some(replica) = self.replicas.get_mut(&keys[index]) else {
                continue;
            };
            if let Some(line) = replica.take()? {
                let next = replica.peek()?.map(|line| line.at_nanos);
                heads.extend(next.map(|at| Reverse((at, index))));
                self.send(line)?;
            }
        }
        Ok(true)
    }

    /// The last lines of each component, merged.
    fn send_tails(&mut self, count: u64) -> Result<(), Stopped> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut all = Vec::new();
        let mut by_component: BTreeMap<_, Vec<&mut Replica>> = BTreeMap::new();
        for (key, replica) in &mut self.replicas {
            by_component
                .entry(&key.component)
                .or_default()
                .push(replica);
        }
        let may_end = self.query.follows();
        let (begun, now) = (Instant::now(), Clock::new().now());
        let begun_nanos = now.as_millis().saturating_mul(1_000_000);
        for replicas in by_component.into_values() {
            let mut lines = Vec::new();
            for replica in replicas {
                let mut last = LastLines::new(count);
                while let Some(line) = replica.peek()? {
                    // Who writes faster than this reads would never be caught up with.
                    if line.at_nanos > begun_nanos && begun.elapsed() > CATCHING_UP {
                        break;
                    }
                    if let Some(line) = replica.take()? {
                        last.push(line);
                    }
                }
                if !may_end {
                    replica.rests().into_iter().for_each(|line| last.push(line));
                }
                lines.extend(last.lines);
            }
            lines.sort_by_key(|line| line[0].at_nanos);
            all.extend(lines.drain(lines.len().saturating_sub(count)..));
        }
        all.sort_by_key(|line| line[0].at_nanos);
        all.into_iter()
            .flatten()
            .try_for_each(|line| self.send(line))
    }

    /// The beginnings of lines that have not ended, when no more is waited for.
    fn send_rests(mut self) -> Result<(), Stopped> {
        let rests: Vec<LogLine> = self
            .replicas
            .values_mut()
            .flat_map(Replica::rests)
            .collect();
        rests.into_iter().try_for_each(|line| self.send(line))
    }

    /// Sends what is written, until nobody reads any more or it is over.
    fn follow(mut self, over: &CancellationToken, mut watch: Watch) -> Result<(), Stopped> {
        let mut looked = Instant::now();
        // Who has written more than was read of it yet.
        let mut behind: Vec<ReplicaKey> = Vec::new();
        loop {
            let patience = if behind.is_empty() {
                LOOK_AGAIN
            } else {
                Duration::ZERO
            };
            let mut changed = watch.wait(patience)?;
            behind.retain(|key| !changed.contains(key));
            changed.append(&mut behind);
            if self.lines.is_closed() {
                return Err(Stopped::Unwanted);
            }
            // Asked before the last look, so that what was written before is found by it.
            let is_over = over.is_cancelled();
            if is_over || looked.elapsed() >= LOOK_AGAIN {
                looked = Instant::now();
                self.discover(Start::Beginning, Some(&mut watch))?;
                changed = self.replicas.keys().cloned().collect();
            }
            let mut rounds = 0;
            while self.round(&changed)? {
                rounds += 1;
                if rounds >= ROUNDS && !is_over {
                    behind = changed;
                    break;
                }
            }
            if is_over {
                return self.send_rests();
            }
            let overdue = self.replicas.values_mut().flat_map(Replica::overdue);
            let overdue: Vec<LogLine> = overdue.collect();
            overdue.into_iter().try_for_each(|line| self.send(line))?;
        }
    }
}

/// The last lines of a replica, each in its parts.
struct LastLines {
    most: usize,
    lines: VecDeque<Vec<LogLine>>,
}

impl LastLines {
    fn new(most: usize) -> Self {
        Self {
            most,
            lines: VecDeque::new(),
        }
    }

    fn push(&mut self, part: LogLine) {
        let mut lines = self.lines.iter_mut().rev();
        let begun = lines.find(|line| line[0].stream == part.stream);
        match begun {
            Some(line) if line.last().is_some_and(|last| !last.ends) => line.push(part),
            Some(_) | None => {
                self.lines.push_back(vec![part]);
                if self.lines.len() > self.most {
                    self.lines.pop_front();
                }
            }
        }
    }
}

/// Names in a directory; none when it is not there.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // Not there, or what somebody else has put there.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Tells which replicas have written. Without inotify, whose instances are limited per user, the
/// regular look serves alone.
struct Watch {
    queue: Option<OwnedFd>,
    replicas: HashMap<i32, ReplicaKey>,
}

impl Watch {
    fn new() -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Self {
            queue: inotify::init(flags).ok(),
            replicas: HashMap::new(),
        }
    }

    fn add(&mut self, dir: &Path, key: &ReplicaKey) {
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        if let Some(queue) = &self.queue
            && let Ok(watched) = inotify::add_watch(queue, dir, events)
        {
            self.replicas.insert(watched, key.clone());
        }
    }

    /// Who has written; empty after `at_most` without a word.
    fn wait(&mut self, at_most: Duration) -> io::Result<Vec<ReplicaKey>> {
        let Some(queue) = &self.queue else {
            std::thread::sleep(at_most);
            return Ok(Vec::new());
        };
        let patience = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(queue, PollFlags::IN)], Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(queue, &mut space);
        let mut changed = std::collections::BTreeSet::new();
        loop {
            match events.next() {
                Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    changed.extend(self.replicas.values().cloned());
                }
                Ok(event) => changed.extend(self.replicas.get(&event.wd()).cloned()),
                Err(Errno::AGAIN) => return Ok(changed.into_iter().collect()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
