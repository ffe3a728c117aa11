//! The log of one replica, as if it were one file.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::filter::Filter;
use super::name::{FileName, Name};
use super::runs::{Part, Runs, marker};
use super::tail;
use crate::driver::{LogLine, OutputStream};
use crate::model::{ReplicaKey, Timestamp};

/// A line is handed on in parts of about this size.
const PART: usize = 1 << 20;
/// A line that was begun and has not grown for so long is shown as far as it is.
const PATIENCE: Duration = Duration::from_millis(500);
/// Files that are held open before they are read, since they may be removed.
const HELD: usize = 8;
/// Bytes before the place where reading goes on, by which it is known again.
const ANCHOR: u64 = 128;

/// `2026-11-21T03:04:05.123456789Z stdout F `.
pub(super) const HEADER: usize = 40;

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
    sieve: Option<Sieve>,
    /// The files that were there at the last look.
    known: BTreeMap<Name, FileId>,
    /// The last of all that were ever there.
    newest: Option<Name>,
    current: Option<Current>,
    /// Files after the current one.
    later: VecDeque<Later>,
    /// Whether the current file is complete: a later one was seen before its end was read.
    complete: bool,
    record: Vec<u8>,
    /// How far reading has come.
    last: Mark,
    /// What was read already of a file that somebody else has changed.
    read_before: Option<Mark>,
    pieces: [Option<Piece>; 2],
    ready: VecDeque<LogLine>,
    finished: bool,
}

/// The same for as long as a file is the same: inodes are used again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl FileId {
    fn of(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
            created: about.created().ok(),
        }
    }
}

/// The file that is read.
struct Current {
    name: Name,
    /// Who wrote what is read now.
    run: u64,
    file: BufReader<File>,
    /// Bytes read of it.
    read: u64,
    /// What is before that, once the end was reached.
    anchor: Vec<u8>,
}

/// A file that is read later.
struct Later {
    name: Name,
    start: u64,
    /// `None` = it is opened when its turn comes.
    file: Option<File>,
    /// Whether what is in it may have been read already, under this or another name.
    is_changed: bool,
}

/// The last record that was read: so many of that time were.
#[derive(Clone, Copy)]
struct Mark {
    at_nanos: i64,
    count: u64,
}

/// A line that has not ended.
struct Piece {
    /// What of it was not handed on yet.
    line: LogLine,
    /// When the last of it was read.
    grown: Instant,
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
            sieve: None,
            known: BTreeMap::new(),
            newest: None,
            current: None,
            later: VecDeque::new(),
            complete: false,
            record: Vec::new(),
            last: Mark {
                at_nanos: i64::MIN,
                count: 0,
            },
            read_before: None,
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

    /// Leaves out lines that `filter` does not want.
    pub(super) fn filter(&mut self, filter: Option<Arc<Filter>>) {
        self.sieve = filter.map(Sieve::new);
    }

    /// Goes to where reading begins.
    pub(super) fn seek(&mut self, start: Start) -> io::Result<()> {
        self.open_newer()?;
        if let Some(run) = self.run {
            return self.seek_run(run);
        }
        let until = self.until_nanos;
        let (skip, offset) = match start {
            Start::Beginning => return Ok(()),
            Start::Tail(lines) => tail::find_tail(&mut self.opened()?, lines, until)?,
            Start::At(since) => tail::find_time(&mut self.opened()?, nanos(since))?,
        };
        self.later.drain(..skip.min(self.later.len()));
        if let Some(first) = self.later.front_mut() {
            first.start = offset;
        }
        for far in self.later.iter_mut().skip(HELD) {
            far.file = None;
        }
        Ok(())
    }

    /// Goes to where the parts of one run begin.
    fn seek_run(&mut self, run: u64) -> io::Result<()> {
        let parts = super::parts(&self.dir)?;
        let of_run: Vec<&Part> = parts.iter().filter(|part| part.run == run).collect();
        self.later
            .retain(|later| of_run.iter().any(|part| part.name == later.name));
        for later in &mut self.later {
            let part = of_run.iter().find(|part| part.name == later.name);
            later.start = part.map_or(0, |part| part.bytes.start);
        }
        Ok(())
    }

    /// All files that are still to be read, open.
    fn opened(&mut self) -> io::Result<Vec<&mut File>> {
        for later in &mut self.later {
            if later.file.is_none() {
                later.file = open(&self.dir, later.name)?;
            }
        }
        self.later.retain(|later| later.file.is_some());
        Ok(self
            .later
            .iter_mut()
            .filter_map(|later| later.file.as_mut())
            .collect())
    }

    /// Finds files that were made since the last look, and those that somebody else has put in the
    /// place of what was there.
    fn open_newer(&mut self) -> io::Result<()> {
        let names = files(&self.dir)?;
        // Whoever removes the newest one may begin with its name again.
        let is_newest_gone = self
            .newest
            .is_some_and(|newest| names.binary_search(&newest).is_err());
        self.known
            .retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            let known = self.known.get(&name);
            let is_current = self.current.as_ref().is_some_and(|it| it.name == name);
            if known.is_some() && !is_current && !is_newest_gone {
                continue;
            }
            let path = self.dir.join(FileName(name).to_string());
            let about = match std::fs::metadata(&path) {
                Ok(about) => FileId::of(&about),
                // Removed since it was listed, to make room.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if known.is_some_and(|known| *known == about) {
                continue;
            }
            let file = if self.later.len() < HELD {
                match open(&self.dir, name)? {
                    Some(file) => Some(file),
                    None => continue,
                }
            } else {
                None
            };
            let is_changed = known.is_some() || self.newest.is_some_and(|newest| name <= newest);
            self.known.insert(name, about);
            self.newest = self.newest.max(Some(name));
            self.later.push_back(Later {
                name,
                start: 0,
                file,
                is_changed,
            });
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

    /// Beginnings of lines that have not ended, when no more is waited for.
    pub(super) fn rests(&mut self) -> Vec<LogLine> {
        if self.finished {
            return Vec::new();
        }
        for stream in 0..self.pieces.len() {
            if let Some(piece) = self.pieces[stream].take()
                && !piece.line.text.is_empty()
            {
                self.offer(piece.line);
            }
        }
        self.ready.drain(..).collect()
    }

    /// Beginnings of lines that have not ended for a while: whoever waits for an answer wrote one.
    pub(super) fn overdue(&mut self) -> Vec<LogLine> {
        // What is wanted is judged by whole lines.
        if self.finished || self.sieve.is_some() {
            return Vec::new();
        }
        for stream in 0..self.pieces.len() {
            let piece = self.pieces[stream].as_ref();
            if piece.is_some_and(|piece| piece.grown.elapsed() >= PATIENCE) {
                self.hand_on(stream);
            }
        }
        self.ready.drain(..).collect()
    }

    /// Reads one record; false at the end of what there is.
    fn read_record(&mut self) -> io::Result<bool> {
        let Some(current) = &mut self.current else {
            return self.open_next();
        };
        if !current.is_as_read()? {
            self.read_again()?;
            return Ok(true);
        }
        while self.pass_over()? {}
        if self.finished {
            return Ok(true);
        }
        let Some(current) = &mut self.current else {
            return Ok(true);
        };
        current.read += current.file.read_until(b'\n', &mut self.record)? as u64;
        if self.record.last() == Some(&b'\n') {
            let record = std::mem::take(&mut self.record);
            self.accept(&record);
            self.record = record;
            self.record.clear();
            return Ok(true);
        }
        if self.complete {
            // Whatever is left without newline was cut off by a crash of the host.
            self.record.clear();
            self.current = None;
            return Ok(true);
        }
        current.remember_the_end()?;
        // A file is complete once the next one exists; its end is read again after that is known.
        self.open_newer()?;
        self.complete = !self.later.is_empty();
        Ok(self.complete)
    }

    /// Passes over the records that were read ahead and of which no line is wanted, without making
    /// lines of them; false when there is none.
    fn pass_over(&mut self) -> io::Result<bool> {
        let (Some(sieve), Some(current)) = (&self.sieve, &mut self.current) else {
            return Ok(false);
        };
        let is_between_lines = self.record.is_empty() && self.pieces.iter().all(Option::is_none);
        if !is_between_lines || self.read_before.is_some() || sieve.filter.has_context() {
            return Ok(false);
        }
        let is_of_run = self.run.is_none_or(|run| current.run == run);
        let since = self.since_nanos;
        let judged = |record: &[u8]| {
            is_of_run && since.is_none_or(|since| time(record).is_none_or(|at| at >= since))
        };
        let Some(passed) = sieve.filter.passes_over(current.file.fill_buf()?, judged) else {
            return Ok(false);
        };
        let (bytes, count, last) = (passed.bytes, passed.of_its_time, time(passed.last));
        current.file.consume(bytes);
        current.read += bytes as u64;
        if let Some(at_nanos) = last {
            let before = self.last;
            let count = if before.at_nanos == at_nanos {
                before.count + count
            } else {
                count
            };
            self.last = Mark { at_nanos, count };
            self.finished = self.until_nanos.is_some_and(|until| at_nanos >= until);
        }
        Ok(!self.finished)
    }

    /// Goes on with the next file; false when there is none.
    fn open_next(&mut self) -> io::Result<bool> {
        if self.later.is_empty() {
            self.open_newer()?;
        }
        let Some(next) = self.later.pop_front() else {
            return Ok(false);
        };
        let found = match next.file {
            Some(file) => Some(file),
            None => open(&self.dir, next.name)?,
        };
        // One that was removed before it was read is over.
        let Some(mut file) = found else {
            return Ok(true);
        };
        let before = self.pieces.iter().flatten().next();
        let before = before.map(|piece| piece.line.incarnation);
        let run = if next.start == 0 && before.is_none_or(|before| before == next.name.0) {
            next.name.0
        } else {
            Runs::read(&file, next.name)?.at(next.start)
        };
        if before.is_some_and(|before| before != run) {
            self.end_lines();
        }
        file.seek(SeekFrom::Start(next.start))?;
        self.current = Some(Current {
            name: next.name,
            run,
            file: BufReader::with_capacity(64 << 10, file),
            read: next.start,
            anchor: Vec::new(),
        });
        if next.is_changed {
            self.read_before = Some(self.last);
        }
        self.complete = !self.later.is_empty();
        Ok(true)
    }

    /// Somebody has cut the file or written it anew: it is read from its start, without what was
    /// read already.
    fn read_again(&mut self) -> io::Result<()> {
        self.record.clear();
        self.read_before = Some(self.last);
        if let Some(current) = &mut self.current {
            current.file.seek(SeekFrom::Start(0))?;
            current.read = 0;
            current.anchor.clear();
            current.run = Runs::read(current.file.get_ref(), current.name)?.at(0);
        }
        Ok(())
    }

    fn accept(&mut self, record: &[u8]) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some((at_nanos, stream, ends, text)) = parse(record) else {
            if let Some(run) = marker(record)
                && current.run != run
            {
                current.run = run;
                self.end_lines();
            }
            return;
        };
        let run = current.run;
        if self.was_read(at_nanos) {
            return;
        }
        if self.last.at_nanos == at_nanos {
            self.last.count += 1;
        } else {
            self.last = Mark { at_nanos, count: 1 };
        }
        let stream_index = stream as usize;
        let piece = self.pieces[stream_index].get_or_insert_with(|| Piece {
            line: LogLine {
                at_nanos,
                replica: self.key.clone(),
                incarnation: run,
                stream,
                text: Vec::new(),
                ends: false,
            },
            grown: Instant::now(),
        });
        piece.line.text.extend_from_slice(text);
        if ends {
            self.end_line(stream_index);
        } else if piece.line.text.len() >= PART {
            self.hand_on(stream_index);
        } else {
            piece.grown = Instant::now();
        }
    }

    /// Whether a record of this time was read before somebody else changed the file that it is in.
    fn was_read(&mut self, at_nanos: i64) -> bool {
        match &mut self.read_before {
            Some(before) if at_nanos < before.at_nanos => true,
            Some(before) if at_nanos == before.at_nanos && before.count > 0 => {
                before.count -= 1;
                true
            }
            Some(_) => {
                self.read_before = None;
                false
            }
            None => false,
        }
    }

    /// Hands on what there is of a line that goes on, in whole characters.
    fn hand_on(&mut self, stream: usize) {
        let Some(piece) = &mut self.pieces[stream] else {
            return;
        };
        let rest = piece
            .line
            .text
            .split_off(whole_characters(&piece.line.text));
        if piece.line.text.is_empty() {
            piece.line.text = rest;
            return;
        }
        let text = std::mem::replace(&mut piece.line.text, rest);
        let part = LogLine {
            text,
            ..piece.line.clone()
        };
        self.offer(part);
    }

    fn end_line(&mut self, stream: usize) {
        if let Some(piece) = self.pieces[stream].take() {
            self.offer(LogLine {
                ends: true,
                ..piece.line
            });
        }
    }

    fn end_lines(&mut self) {
        for stream in 0..self.pieces.len() {
            self.end_line(stream);
        }
    }

    fn offer(&mut self, line: LogLine) {
        if self.until_nanos.is_some_and(|until| line.at_nanos >= until) {
            self.finished = true;
        } else if self.since_nanos.is_none_or(|since| line.at_nanos >= since)
            && self.run.is_none_or(|run| line.incarnation == run)
        {
            match &mut self.sieve {
                Some(sieve) => sieve.sift(line, &mut self.ready),
                None => self.ready.push_back(line),
            }
        }
    }
}

/// Keeps the lines that are wanted, and those around them.
struct Sieve {
    filter: Arc<Filter>,
    /// The last lines that were not wanted, which a wanted one takes along.
    before: VecDeque<LogLine>,
    /// Lines that the last wanted one takes along, still to come.
    after: usize,
    /// Whether a part of the line that a stream is in was wanted: the rest is, then.
    goes_on: [bool; 2],
}

impl Sieve {
    fn new(filter: Arc<Filter>) -> Self {
        Self {
            filter,
            before: VecDeque::new(),
            after: 0,
            goes_on: [false; 2],
        }
    }

    fn sift(&mut self, line: LogLine, ready: &mut VecDeque<LogLine>) {
        let stream = line.stream as usize;
        let is_wanted = self.goes_on[stream] || self.filter.wants(&line.text);
        self.goes_on[stream] = is_wanted && !line.ends;
        if is_wanted {
            ready.append(&mut self.before);
            self.after = self.filter.after;
            ready.push_back(line);
        } else if self.after > 0 {
            self.after -= usize::from(line.ends);
            ready.push_back(line);
        } else if self.filter.before > 0 {
            if self.before.len() == self.filter.before {
                self.before.pop_front();
            }
            self.before.push_back(line);
        }
    }
}

impl Current {
    /// Whether what was read is still there, as far as its end tells.
    fn is_as_read(&mut self) -> io::Result<bool> {
        if self.anchor.is_empty() {
            return Ok(true);
        }
        let file = self.file.get_ref();
        let size = file.metadata()?.len();
        if size < self.read {
            return Ok(false);
        }
        // The size alone tells nothing: it may have grown again by as much.
        let mut found = vec![0; self.anchor.len()];
        let place = self.read - found.len() as u64;
        let is_as_read = match file.read_exact_at(&mut found, place) {
            Ok(()) => found == self.anchor,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(error),
        };
        if size > self.read {
            self.anchor.clear();
        }
        Ok(is_as_read)
    }

    /// Keeps what is before the end, to know it again.
    fn remember_the_end(&mut self) -> io::Result<()> {
        let length = self.read.min(ANCHOR);
        self.anchor
            .resize(usize::try_from(length).unwrap_or_default(), 0);
        let place = self.read - length;
        match self.file.get_ref().read_exact_at(&mut self.anchor, place) {
            Ok(()) => Ok(()),
            // It was cut this very moment, which the next look finds.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Opens a file; `None` = it is gone.
fn open(dir: &Path, name: Name) -> io::Result<Option<File>> {
    match File::open(dir.join(FileName(name).to_string())) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How much of `text` is whole characters, where it is UTF-8: at its end may be the beginning of one.
fn whole_characters(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let wanted = match text[text.len() - back] {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if wanted > back {
            text.len() - back
        } else {
            text.len()
        };
    }
    text.len()
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
    // The years of four digits go on longer than 64 bits of nanoseconds do.
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(number(20, 29)?)
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
    fn a_time_that_cannot_be_counted_is_none() {
        assert_eq!(time(b"9999-12-31T23:59:59.999999999Z"), None);
        assert!(time(b"2262-04-11T23:47:16.854775807Z").is_some());
    }

    #[test]
    fn a_cut_falls_between_characters() {
        let text = "a\u{e9}\u{20ac}\u{1f600}";
        for end in 0..=text.len() {
            let whole = whole_characters(&text.as_bytes()[..end]);
            assert!(
                text.is_char_boundary(whole) && end - whole < 4,
                "{end}: {whole}"
            );
            assert!(!text.is_char_boundary(end) || whole == end);
        }
        // What is no UTF-8 is not held back for ever.
        assert_eq!(whole_characters(b"caf\xe9 "), 5);
        assert_eq!(whole_characters(b"\xff\x80\x80\x80"), 4);
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
