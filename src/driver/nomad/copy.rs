//! Copying what programs write from the files on their nodes into our own log files, while they run and
//! after they ended. Each file is read by its number and an offset: what follows a stream loses lines
//! where its files are rotated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::Ask;
use super::failure::Failure;
use super::names::MAIN;
use super::position::{self, Position, Positions};
use super::sight::Seen;
use super::wire::FileInfo;
use super::{Conduct, Inner, Place, lock};
use crate::driver::OutputStream;
use crate::driver::logs::{self, Copier, LogFile, Record, Unwritten, blocking};
use crate::model::{InstanceId, Life, LogLimits};

/// Between two looks at files that grow, and the longest pause while nothing is written.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(2);
/// After a failed try.
const LATER: Duration = Duration::from_secs(2);
/// How long the removal of a job waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;
/// A line is written in parts of this size where it is longer.
const LONGEST_LINE: usize = 16 << 10;

/// The tasks that copy, by instance.
pub(super) type Copiers = BTreeMap<InstanceId, Copying>;

/// The copying of the output of one instance.
pub(super) struct Copying {
    copier: Copier,
    /// Of which placement.
    placement: String,
    /// Cancelled once its program has ended: what is there then is all.
    ended: CancellationToken,
}

/// Whose output is copied.
struct Source {
    place: Arc<Place>,
    instance: InstanceId,
    placement: String,
    limits: LogLimits,
    ended: CancellationToken,
}

impl Inner {
    /// Copies the output of an instance from now on, unless that is done already.
    pub(super) fn copy_output(self: &Arc<Self>, place: &Arc<Place>, seen: &Seen) {
        if self.config.conduct == Conduct::OnlyLooks {
            return;
        }
        let Some(placement) = seen.latest() else {
            return;
        };
        let (runs, has_run) = match &seen.life {
            Life::Running { .. } => (true, true),
            Life::Exited(exit) | Life::RuntimeRestarted(exit) | Life::Disrupted { exit, .. } => {
                (false, exit.started_at.is_some())
            }
            Life::Created | Life::Pending(_) | Life::NotStarted { .. } => (false, false),
            Life::Lost { .. } | Life::HostReboot { .. } => (false, true),
        };
        if !has_run {
            return;
        }
        let mut copiers = lock(&self.copiers);
        let is_new = copiers
            .get(&seen.instance)
            .is_none_or(|copying| copying.placement != placement.id);
        if is_new {
            let ended = CancellationToken::new();
            let source = Source {
                place: Arc::clone(place),
                instance: seen.instance.clone(),
                placement: placement.id.clone(),
                limits: seen
                    .spec()
                    .map_or_else(LogLimits::default, |spec| spec.logs),
                ended: ended.clone(),
            };
            let copying = Copying {
                copier: Copier::spawn(Arc::clone(self).copy_to_the_end(source)),
                placement: placement.id.clone(),
                ended,
            };
            copiers.insert(seen.instance.clone(), copying);
        }
        if let (false, Some(copying)) = (runs, copiers.get(&seen.instance)) {
            copying.ended.cancel();
        }
    }

    /// Waits until the last lines of an ended instance are copied; false when they are not yet.
    pub(super) async fn copied(&self, instance: &InstanceId) -> bool {
        let done = lock(&self.copiers)
            .get(instance)
            .map(|copying| copying.copier.done_within(LAST_LINES));
        match done {
            Some(done) => done.await,
            None => true,
        }
    }

    async fn copy_to_the_end(self: Arc<Self>, source: Source) {
        let mut pause = LOOK_AGAIN;
        let mut away_since = None;
        loop {
            // Asked before the look: what is there then is all that there will be.
            let is_last = source.ended.is_cancelled();
            match self.copy_some(&source).await {
                Ok(0) if is_last => return,
                Ok(0) => pause = (pause * 2).min(QUIET),
                Ok(_) => pause = LOOK_AGAIN,
                // Its node is gone, or has collected it.
                Err(Failure::NodeAway(why) | Failure::Absent(why)) if is_last => {
                    let since = away_since.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > LAST_LINES / 2 {
                        tracing::warn!(instance = %source.instance, why, "its last lines are not to be had any more");
                        return;
                    }
                    pause = LOOK_AGAIN;
                }
                Err(Failure::Denied(why)) => {
                    tracing::warn!(instance = %source.instance, why, "its output cannot be read; the token needs `read-fs`");
                    return;
                }
                Err(failure) => {
                    tracing::debug!(instance = %source.instance, %failure, "output is copied later");
                    pause = LATER;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = source.ended.cancelled(), if !is_last => {}
            }
        }
    }

    /// Copies what is there; answers how many bytes that were.
    async fn copy_some(&self, source: &Source) -> Result<u64, Failure> {
        let dir = self.kept_dir();
        let (of, kept) = (source.instance.clone(), dir.clone());
        let positions = blocking(move || Ok(position::read(&kept, &of))).await;
        let mut positions = positions.map_err(Failure::Silent)?;
        if positions.placement != source.placement {
            positions = Positions {
                placement: source.placement.clone(),
                ..Positions::default()
            };
        }
        let files = Ask::read(&["client", "fs", "ls", &source.placement])
            .with("namespace", source.place.namespace.as_str())
            .with("path", "alloc/logs");
        let files: Vec<FileInfo> = source.place.client.json(files).await?.body;
        let mut copied = 0;
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            copied += self
                .copy_stream(source, stream, &files, &mut positions)
                .await?;
        }
        Ok(copied)
    }

    async fn copy_stream(
        &self,
        source: &Source,
        stream: OutputStream,
        files: &[FileInfo],
        positions: &mut Positions,
    ) -> Result<u64, Failure> {
        let (word, mut at) = match stream {
            OutputStream::Stdout => ("stdout", positions.stdout),
            OutputStream::Stderr => ("stderr", positions.stderr),
        };
        let prefix = format!("{MAIN}.{word}.");
        let number = |file: &FileInfo| file.name.strip_prefix(&prefix)?.parse::<u64>().ok();
        let mut there: Vec<(u64, u64)> = files
            .iter()
            .filter_map(|file| Some((number(file)?, file.size)))
            .collect();
        there.sort_unstable();
        let mut copied = 0;
        for (index, (file, size)) in there.iter().enumerate() {
            if *file < at.file {
                continue;
            }
            if *file > at.file {
                if index == 0 && (at.file, at.offset) != (0, 0) {
                    tracing::warn!(instance = %source.instance, "lines of its {word} were removed before they were copied");
                }
                at = Position {
                    file: *file,
                    offset: 0,
                };
            }
            let is_last_file = index + 1 == there.len();
            while at.offset < *size {
                let left = size - at.offset;
                let piece = Ask::read(&["client", "fs", "readat", &source.placement])
                    .with("namespace", source.place.namespace.as_str())
                    .with("path", format!("alloc/logs/{prefix}{file}"))
                    .with("offset", at.offset.to_string())
                    .with("limit", left.min(PIECE).to_string());
                let bytes = source.place.client.bytes(piece).await?.body;
                if bytes.is_empty() {
                    break;
                }
                // A line that is not ended waits for its rest, which may be in the next file.
                let is_whole = source.ended.is_cancelled() || !is_last_file;
                let is_end = is_whole && bytes.len() as u64 == left;
                let now = (self.clock.now().as_millis() * 1_000_000).max(positions.at_nanos + 1);
                let (records, taken) = records(stream, &bytes, now, is_end);
                let Some(last) = records.last() else {
                    break;
                };
                positions.at_nanos = last.at_nanos;
                self.append(source, records).await?;
                at.offset += taken;
                copied += taken;
                match stream {
                    OutputStream::Stdout => positions.stdout = at,
                    OutputStream::Stderr => positions.stderr = at,
                }
                let (dir, of, kept) = (self.kept_dir(), source.instance.clone(), positions.clone());
                let written = blocking(move || position::write(&dir, &of, &kept)).await;
                written.map_err(Failure::Silent)?;
            }
        }
        Ok(copied)
    }

    async fn append(&self, source: &Source, records: Vec<Record>) -> Result<(), Failure> {
        let InstanceId {
            pipeline,
            replica,
            incarnation,
        } = &source.instance;
        let dir = logs::replica_dir(&self.logs_dir(), pipeline, replica);
        let (incarnation, limits) = (*incarnation, source.limits);
        let appended = blocking(move || {
            let mut log = LogFile::open(&dir, incarnation, limits)?;
            let written = log.append(&records);
            written.map(drop).map_err(|Unwritten { error, .. }| error)
        });
        appended.await.map_err(Failure::Silent)
    }
}

/// The whole lines of `bytes`, and how many bytes those are. At the end of a file that does not grow any
/// more, what is left is a part of one.
fn records(stream: OutputStream, bytes: &[u8], now: i64, is_end: bool) -> (Vec<Record>, u64) {
    let mut records = Vec::new();
    let mut taken = 0;
    while taken < bytes.len() {
        let rest = &bytes[taken..];
        let (text, used, ends) = match memchr::memchr(b'\n', rest) {
            Some(end) if end <= LONGEST_LINE => (&rest[..end], end + 1, true),
            Some(_) => (&rest[..LONGEST_LINE], LONGEST_LINE, false),
            None if rest.len() >= LONGEST_LINE => (&rest[..LONGEST_LINE], LONGEST_LINE, false),
            None if is_end => (rest, rest.len(), false),
            None => break,
        };
        records.push(Record {
            // A reader keeps what has one time in its order.
            at_nanos: now + i64::try_from(records.len()).unwrap_or(i64::MAX),
            stream,
            ends,
            text: text.to_vec(),
        });
        taken += used;
    }
    (records, taken as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8], is_end: bool) -> (Vec<(String, bool)>, u64) {
        let (records, taken) = records(OutputStream::Stdout, bytes, 7, is_end);
        let texts = records
            .iter()
            .map(|it| (String::from_utf8_lossy(&it.text).into_owned(), it.ends));
        (texts.collect(), taken)
    }

    #[test]
    fn lines_are_whole_and_a_begun_one_waits_for_its_rest_while_there_may_be_one() {
        let whole = |text: &str| (text.to_owned(), true);
        assert_eq!(texts(b"a\n\nb", false), (vec![whole("a"), whole("")], 3));
        let begun = ("b".to_owned(), false);
        assert_eq!(texts(b"a\nb", true), (vec![whole("a"), begun], 3));
        assert_eq!(texts(b"b", false), (vec![], 0));
    }

    #[test]
    fn a_line_without_an_end_is_written_in_parts() {
        let long = vec![b'x'; LONGEST_LINE + 3];
        let (texts, taken) = texts(&long, false);
        assert_eq!(texts.len(), 1);
        assert!(!texts[0].1);
        assert_eq!(taken, LONGEST_LINE as u64);
    }
}
