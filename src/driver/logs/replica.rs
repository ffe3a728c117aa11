//! The log of one replica, as if it were one file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::FileName;
use super::tail;
use crate::driver::{LogLine, OutputStream};
use crate::model::{ReplicaKey, Timestamp};

/// Where a text longer than this is cut, when it is put together from pieces.
const LONGEST_LINE: usize = 1 << 20;

/// `2026-11-21T03:04:05.123456789Z stdout F `.
pub(super) const HEADER: usize = 40;

/// Run and sequence of a log file; ordered as they were written.
pub(in crate::driver) type Name = (u64, u64);

/// The log files in `dir`, oldest first; none when there is no such directory.
pub(in crate::driver) fn files(dir: &Path) -> io::Result<Vec<Name>> {
    let mut files: Vec<Name> = super::names(dir)?
        .iter()
        .filter_map(|name| FileName::parse(name.as_bytes()))
        .map(|file| file.0)
        .collect();
    files.sort_unstable();
    Ok(files)
}

/// Where reading begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// With the oldest line kept.
    Beginning,
    /// With the last so many lines; a few more may come first.
    Tail(u64),
    /// With the first line at or after this; a few more may come first.
    At(Timestamp),
}

/// Reads the log of one replica.
pub(super) struct Replica {
    dir: PathBuf,
    key: ReplicaKey,
    /// Only this run.
    run: Option<u64>,
    since_nanos: Option<i64>,
    until_nanos: Option<i64>,
    /// The newest file that was opened.
    newest: Option<Name>,
    current: Option<Open>,
    /// Files after the current one, held open since they may be removed.
    later: VecDeque<Open>,
    /// Whether the current file is complete: a later one was seen before its end was read.
    complete: bool,
    record: Vec<u8>,
    pieces: [Option<LogLine>; 2],
    ready: VecDeque<LogLine>,
    finished: bool,
}

struct Open {
    name: Name,
    file: BufReader<File>,
}

impl Replica {
    /// A reader of `dir`; of one run only, if `run` says so.
    pub(super) fn new(dir: PathBuf, key: ReplicaKey, run: Option<u64>) -> Self {
        Self {
            dir,
            key,
            run,
            since_nanos: None,
            until_nanos: None,
            newest: None,
            current: None,
            later: VecDeque::new(),
            complete: false,
            record: Vec::new(),
            pieces: [None, None],
            ready: VecDeque::new(),
            finished: false,
        }
    }

    /// Leaves out lines from before `since`.
    pub(super) fn since(&mut self, since: Option<Timestamp>) {
        self.since_nanos = since.map(nanos);
    }

    /// Ends before the first line that is not before `until`.
    pub(super) fn until(&mut self, until: Option<Timestamp>) {
        self.until_nanos = until.map(nanos);
    }

    /// Goes to where reading begins.
    pub(super) fn seek(&mut self, start: Start) -> io::Result<()> {
        self.open_newer()?;
        let mut files: Vec<&mut File> = self
            .later
            .iter_mut()
            .map(|open| open.file.get_mut())
            .collect();
        let (skip, offset) = match start {
            Start::Beginning => (0, 0),
            Start::Tail(lines) => tail::find_tail(&mut files, lines, self.until_nanos)?,
            Start::At(since) => tail::find_time(&mut files, nanos(since))?,
        };
        self.later.drain(..skip.min(self.later.len()));
        if let Some(first) = self.later.front_mut() {
            first.file.seek(SeekFrom::Start(offset))?;
        }
        for later in self.later.iter_mut().skip(1) {
            later.file.seek(SeekFrom::Start(0))?;
        }
        Ok(())
    }

    /// Opens files that were made since the last look.
    fn open_newer(&mut self) -> io::Result<()> {
        for name in files(&self.dir)? {
            if self.newest.is_some_and(|newest| name <= newest)
                || self.run.is_some_and(|run| run != name.0)
            {
                continue;
            }
            match File::open(self.dir.join(FileName(name).to_string())) {
                Ok(file) => {
                    let file = BufReader::with_capacity(64 << 10, file);
                    self.later.push_back(Open { name, file });
                    self.newest = Some(name);
                }
                // Removed since it was listed, to make room.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next line, if there is one by now.
    pub(super) fn peek(&mut self) -> io::Result<Option<&LogLine>> {
        while self.ready.is_empty() && !self.finished {
            if !self.read_record()? {
                break;
            }
        }
        Ok(self.ready.front())
    }

    /// The next line, taken.
    pub(super) fn take(&mut self) -> io::Result<Option<LogLine>> {
        self.peek()?;
        Ok(self.ready.pop_front())
    }

    /// Beginnings of lines that have not ended.
    pub(super) fn rests(&mut self) -> Vec<LogLine> {
        if self.finished {
            return Vec::new();
        }
        self.end_lines();
        self.ready.drain(..).collect()
    }

    /// Reads one record; false at the end of what there is.
    fn read_record(&mut self) -> io::Result<bool> {
        let Some(open) = &mut self.current else {
            if self.later.is_empty() {
                self.open_newer()?;
            }
            let Some(next) = self.later.pop_front() else {
                return Ok(false);
            };
            self.current = Some(next);
            self.complete = !self.later.is_empty();
            return Ok(true);
        };
        let run = open.name.0;
        open.file.read_until(b'\n', &mut self.record)?;
        if self.record.last() == Some(&b'\n') {
            let record = std::mem::take(&mut self.record);
            self.accept(run, &record);
            self.record = record;
            self.record.clear();
            return Ok(true);
        }
        if self.complete {
            // Whatever is left without newline was cut off by a crash of the host.
            self.record.clear();
            self.current = None;
            if self.later.front().is_some_and(|next| next.name.0 != run) {
                self.end_lines();
            }
            return Ok(true);
        }
        // A file is complete once the next one exists; its end is read again after that is known.
        self.open_newer()?;
        self.complete = !self.later.is_empty();
        Ok(self.complete)
    }

    fn accept(&mut self, run: u64, record: &[u8]) {
        let Some((at_nanos, stream, ends, text)) = parse(record) else {
            return;
        };
        let piece = &mut self.pieces[stream as usize];
        let line = piece.get_or_insert_with(|| LogLine {
            at_nanos,
            replica: self.key.clone(),
            incarnation: run,
            stream,
            text: Vec::new(),
        });
        line.text.extend_from_slice(text);
        if (ends || line.text.len() >= LONGEST_LINE)
            && let Some(line) = piece.take()
        {
            self.offer(line);
        }
    }

    fn end_lines(&mut self) {
        for index in 0..self.pieces.len() {
            if let Some(line) = self.pieces[index].take() {
                self.offer(line);
            }
        }
    }

    fn offer(&mut self, line: LogLine) {
        if self.until_nanos.is_some_and(|until| line.at_nanos >= until) {
            self.finished = true;
        } else if self.since_nanos.is_none_or(|since| line.at_nanos >= since) {
            self.ready.push_back(line);
        }
    }
}

fn nanos(at: Timestamp) -> i64 {
    at.as_millis().saturating_mul(1_000_000)
}

/// Time, stream, whether the line ends here, and text of one record; `None` = not a record.
pub(in crate::driver) fn parse(record: &[u8]) -> Option<(i64, OutputStream, bool, &[u8])> {
    let (header, text) = record.split_at_checked(HEADER)?;
    let stream = match &header[30..38] {
        b" stdout " => OutputStream::Stdout,
        b" stderr " => OutputStream::Stderr,
        _ => return None,
    };
    let ends = match &header[38..] {
        b"F " => true,
        b"P " => false,
        _ => return None,
    };
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    Some((time(header)?, stream, ends, text))
}

/// The time at the start of a record, in nanoseconds since the Unix epoch.
pub(super) fn time(header: &[u8]) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        header.get(from..to)?.iter().try_fold(0, |number, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + i64::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days since the epoch of a date of the Gregorian calendar, years counted from 1 March.
    let year = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    Some(seconds * 1_000_000_000 + number(20, 29)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_record_is_read_exactly() {
        for millis in [0, 951_782_400_000, 1_795_228_980_123, 4_102_444_799_999] {
            let at = Timestamp::from_millis(millis);
            let text = format!(
                "{}000000Z stdout F x\n",
                at.to_string().trim_end_matches('Z')
            );
            assert_eq!(time(text.as_bytes()), Some(millis * 1_000_000), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_record_is_none() {
        for text in [
            "",
            "\0\0\0\0",
            "2026-11-21T03:04:05.123456789Z stdin  F x\n",
        ] {
            assert!(parse(text.as_bytes()).is_none());
        }
    }
}
