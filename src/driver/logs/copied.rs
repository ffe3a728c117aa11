//! The log of one run that an engine keeps: records appended with the engine's own times, so that the end of what
//! its run wrote is also the place to go on from. There is no cursor that could disagree.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Budget, FileName, Part, Writer, parse, parts};
use crate::driver::OutputStream;
use crate::model::{LogLimits, Timestamp};

/// How far back from the end the last records of both streams are looked for.
const WINDOW: u64 = 256 << 10;

const SECOND: i64 = 1_000_000_000;

/// One piece of output as the engine tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::driver) struct Record {
    pub(in crate::driver) at_nanos: i64,
    pub(in crate::driver) stream: OutputStream,
    /// Whether its line ends with it.
    pub(in crate::driver) ends: bool,
    pub(in crate::driver) text: Vec<u8>,
}

impl Record {
    /// Reads `TIME TEXT`, with a newline where the line ends; `None` = it has no time. Of Podman's
    /// times, whole seconds, the first is before the container `began`, which nothing of it can be.
    pub(in crate::driver) fn read(
        stream: OutputStream,
        message: &[u8],
        began: Option<Timestamp>,
    ) -> Option<Self> {
        let space = memchr::memchr(b' ', message)?;
        let told = nanos(str::from_utf8(&message[..space]).ok()?)?;
        let began = began.map(|began| began.as_millis() * 1_000_000);
        let of_its_second = began.filter(|began| began.div_euclid(SECOND) * SECOND == told);
        let at_nanos = of_its_second.unwrap_or(told);
        let text = &message[space + 1..];
        let ends = text.last() == Some(&b'\n');
        Some(Self {
            at_nanos,
            stream,
            ends,
            text: text.strip_suffix(b"\n").unwrap_or(text).to_vec(),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (stream, tag) = (
            match self.stream {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            },
            if self.ends { 'F' } else { 'P' },
        );
        let second = Timestamp::from_millis(self.at_nanos.div_euclid(1_000_000)).to_string();
        let second = second.split('.').next().unwrap_or_default();
        let nanos = self.at_nanos.rem_euclid(SECOND);
        out.extend_from_slice(format!("{second}.{nanos:09}Z {stream} {tag} ").as_bytes());
        out.extend_from_slice(&self.text);
        out.push(b'\n');
    }
}

/// The nanoseconds since the Unix epoch of a time of RFC 3339.
fn nanos(text: &str) -> Option<i64> {
    let (clock, zone) = match text.strip_suffix('Z') {
        Some(clock) => (clock, 0),
        None => {
            let at = text.rfind(['+', '-']).filter(|at| *at > 10)?;
            let (hours, minutes) = text[at + 1..].split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            let sign = if text[at..].starts_with('-') { -1 } else { 1 };
            (&text[..at], sign * minutes * 60)
        }
    };
    let (second, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    if fraction.len() > 9 {
        return None;
    }
    let second: Timestamp = format!("{second}Z").parse().ok()?;
    let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some((second.as_millis() / 1_000 - zone) * SECOND + fraction)
}

/// How far one stream was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Everything before this was.
    at_nanos: i64,
    /// So many records of exactly this time were, too.
    count: u32,
    /// Whether the present reading has come past it: from then on all is new, whatever its time.
    passed: bool,
}

impl Mark {
    const BEGINNING: Self = Self {
        at_nanos: i64::MIN,
        count: 0,
        passed: false,
    };

    /// Whether a record that is read after the mark was made is new.
    fn admits(&mut self, at_nanos: i64) -> bool {
        if !self.passed {
            if at_nanos < self.at_nanos {
                return false;
            }
            if at_nanos == self.at_nanos && self.count > 0 {
                self.count -= 1;
                return false;
            }
            self.passed = true;
        }
        true
    }
}

/// Lines that the disk did not take; the engine still has them, for as long as their container lasts.
#[derive(Debug)]
pub(in crate::driver) struct Unwritten {
    /// So many of those that were read.
    pub(in crate::driver) lines: u64,
    /// Why not.
    pub(in crate::driver) error: io::Error,
}

/// The log of one run, to be gone on with.
pub(in crate::driver) struct LogFile {
    log: Writer<CString>,
    marks: [Mark; 2],
}

impl LogFile {
    /// Looks at what there is, takes a record back that was cut short, and finds out how far it goes.
    pub(in crate::driver) fn open(
        dir: &Path,
        incarnation: u64,
        limits: LogLimits,
    ) -> io::Result<Self> {
        let budget = Budget {
            max_size: limits.max_size_bytes,
            max_files: limits.max_files.into(),
        };
        let path = CString::new(dir.as_os_str().as_bytes())?;
        let mut log = Writer::new(path, incarnation, budget);
        let mut parts = parts(dir)?;
        if let Some(newest) = parts.last_mut()
            && newest.run == incarnation
        {
            take_back(dir, newest)?;
            log.resume(newest.name);
        }
        parts.retain(|part| part.run == incarnation);
        let marks = if parts.is_empty() {
            [Mark::BEGINNING; 2]
        } else {
            marks_of(dir, &parts)?
        };
        Ok(Self { log, marks })
    }

    /// From which second on the engine has to be asked.
    pub(in crate::driver) fn since(&self) -> i64 {
        let earliest = self.marks.iter().map(|mark| mark.at_nanos).min();
        earliest.unwrap_or(0).max(0) / SECOND
    }

    /// Appends those of `records` that are new; answers how many those are.
    ///
    /// # Errors
    /// Why the disk did not take all of them.
    pub(in crate::driver) fn append(&mut self, records: &[Record]) -> Result<usize, Unwritten> {
        let (mut batch, mut new) = (Vec::new(), 0);
        for record in records {
            if self.marks[record.stream as usize].admits(record.at_nanos) {
                record.write(&mut batch);
                new += 1;
            }
        }
        let appended = self.log.append(&batch);
        // A container may be silent for long.
        self.log.close();
        appended.refused.map_or(Ok(new), |error| {
            let rest = batch.get(appended.bytes..).unwrap_or_default();
            Err(Unwritten {
                lines: memchr::memchr_iter(b'\n', rest).count() as u64,
                error: error.into(),
            })
        })
    }

    /// The time of the latest record; `None` = there is none.
    pub(in crate::driver) fn latest(&self) -> Option<i64> {
        let times = self.marks.iter().map(|mark| mark.at_nanos);
        times.max().filter(|at_nanos| *at_nanos > i64::MIN)
    }

    /// Says in the log that lines before those of `at_nanos` may be missing.
    pub(in crate::driver) fn append_gap(&mut self, at_nanos: i64) -> io::Result<()> {
        let record = Record {
            at_nanos,
            stream: OutputStream::Stderr,
            ends: true,
            text: b"flowctl: the copy of this log was interrupted; lines may be missing here"
                .to_vec(),
        };
        let mut marker = Vec::new();
        record.write(&mut marker);
        let appended = self.log.append(&marker);
        self.log.close();
        appended.refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Says, in the log and beside it, that lines were lost for good: `at` is when that was found.
    pub(in crate::driver) fn append_loss(
        &mut self,
        at: Timestamp,
        lost: &Unwritten,
    ) -> io::Result<()> {
        let Unwritten { lines, error } = lost;
        let record = Record {
            at_nanos: at.as_millis() * 1_000_000,
            stream: OutputStream::Stderr,
            ends: true,
            text: format!(
                "flowctl: dropped {lines} lines or more, which its container took along: {error}"
            )
            .into_bytes(),
        };
        let mut marker = Vec::new();
        record.write(&mut marker);
        let appended = self.log.append(&marker);
        if appended.refused.is_none() {
            self.log.note_lost(*lines);
        }
        self.log.close();
        appended.refused.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Takes a record at the end of the newest file back that was cut short.
fn take_back(dir: &Path, newest: &mut Part) -> io::Result<()> {
    let path = dir.join(FileName(newest.name).to_string());
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let end = tail(&mut file, size.saturating_sub(WINDOW), size)?;
    let whole = memchr::memrchr(b'\n', &end).map_or(0, |newline| newline + 1);
    newest.bytes.end = size - (end.len() - whole) as u64;
    if newest.bytes.end < size {
        file.set_len(newest.bytes.end)?;
    }
    Ok(())
}

/// How far each stream was copied, by the last records in these parts. As many of them are read as
/// it takes to count all that have the last one's time: Podman's times are whole seconds.
fn marks_of(dir: &Path, parts: &[Part]) -> io::Result<[Mark; 2]> {
    let mut window = WINDOW;
    loop {
        let (records, reach) = last_records(dir, parts, window)?;
        match marks(&records, reach) {
            Some(marks) => return Ok(marks),
            None => window *= 4,
        }
    }
}

/// The records in the last `window` bytes of these parts.
fn last_records(dir: &Path, parts: &[Part], window: u64) -> io::Result<(Vec<u8>, Reach)> {
    let mut left = window;
    let mut records = Vec::new();
    for Part { name, bytes, .. } in parts.iter().rev() {
        let mut file = File::open(dir.join(FileName(*name).to_string()))?;
        let start = bytes.end.saturating_sub(left).max(bytes.start);
        let mut earlier = tail(&mut file, start, bytes.end)?;
        earlier.append(&mut records);
        records = earlier;
        if start > bytes.start {
            return Ok((records, Reach::SomewhereBetween));
        }
        left -= bytes.end - bytes.start;
    }
    // A run begins with a file of its own, or with a marker in another one's.
    let begins = |part: &Part| part.bytes.start > 0 || part.name.0 != part.run || part.name.1 == 1;
    let reach = if parts.first().is_some_and(begins) {
        Reach::Beginning
    } else {
        Reach::OldestKept
    };
    Ok((records, reach))
}

/// How far back records go that were read from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// More could be read.
    SomewhereBetween,
    /// What was written before is deleted.
    OldestKept,
    /// These are all that there ever were.
    Beginning,
}

/// The bytes of a file from `start` to `end`; of a record that begins before, nothing.
fn tail(file: &mut File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    // With the byte before, which tells whether a record begins here.
    let before = start.saturating_sub(1);
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::new();
    file.take(end.saturating_sub(before))
        .read_to_end(&mut bytes)?;
    if start > 0 {
        let begin = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |newline| newline + 1);
        bytes.drain(..begin);
    }
    Ok(bytes)
}

/// How far each stream was copied, by the records at the end; `None` when more of them have to be
/// read, since there may be others of the same time.
fn marks(records: &[u8], reach: Reach) -> Option<[Mark; 2]> {
    let mut found = [None::<Mark>; 2];
    let mut earliest = None;
    for record in records.split_inclusive(|byte| *byte == b'\n') {
        let Some((at_nanos, stream, _, _)) = parse(record) else {
            continue;
        };
        earliest = Some(earliest.unwrap_or(at_nanos).min(at_nanos));
        let mark = &mut found[stream as usize];
        let count = match mark {
            Some(mark) if mark.at_nanos == at_nanos => mark.count + 1,
            Some(_) | None => 1,
        };
        *mark = Some(Mark {
            at_nanos,
            count,
            passed: false,
        });
    }
    let is_earlier = |than: &Mark| earliest.is_some_and(|earliest| earliest < than.at_nanos);
    let all_counted = earliest.is_some() && found.iter().flatten().all(is_earlier);
    let unseen = match (reach, earliest) {
        (Reach::SomewhereBetween, _) if !all_counted => return None,
        (Reach::Beginning, _) | (_, None) => Mark::BEGINNING,
        // What it wrote until then is before these records.
        (Reach::SomewhereBetween | Reach::OldestKept, Some(at_nanos)) => Mark {
            at_nanos,
            count: u32::MAX,
            passed: false,
        },
    };
    Some(found.map(|mark| mark.unwrap_or(unseen)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::driver::logs::replica::files;

    const LIMITS: LogLimits = LogLimits {
        max_size_bytes: 400,
        max_files: 3,
    };

    fn record(number: i64, stream: OutputStream) -> Record {
        Record {
            at_nanos: 1_795_228_980_000_000_000 + number / 2,
            stream,
            ends: true,
            text: format!("line {number}").into_bytes(),
        }
    }

    fn lines(dir: &std::path::Path) -> Vec<String> {
        let files = files(dir).unwrap().into_iter();
        let texts = files.map(|name| fs::read_to_string(dir.join(FileName(name).to_string())));
        texts
            .flat_map(|text| {
                let text = text.unwrap();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn the_engines_words_become_records() {
        let message = b"2026-11-21T02:43:00.000000005Z hello world\n";
        let read = Record::read(OutputStream::Stderr, message, None).unwrap();
        assert!(read.ends);
        let mut out = Vec::new();
        read.write(&mut out);
        let wanted = "2026-11-21T02:43:00.000000005Z stderr F hello world\n";
        assert_eq!(str::from_utf8(&out).unwrap(), wanted);
        let cut = Record::read(OutputStream::Stdout, b"2026-11-21T04:43:00+02:00 x", None);
        let cut = cut.unwrap();
        assert!(!cut.ends);
        assert_eq!(cut.at_nanos, read.at_nanos - 5);
        assert_eq!(Record::read(OutputStream::Stdout, b"nonsense", None), None);
    }

    #[test]
    fn nothing_is_written_before_its_container_began() {
        let began: Timestamp = "2026-11-21T02:43:00.250Z".parse().unwrap();
        let at = |text: &str| {
            let message = format!("{text} x\n");
            let read = Record::read(OutputStream::Stdout, message.as_bytes(), Some(began));
            read.unwrap().at_nanos
        };
        let zero = at("2026-11-21T02:42:00Z") + 60 * SECOND;
        assert_eq!(at("2026-11-21T02:43:00Z"), zero + SECOND / 4);
        assert_eq!(at("2026-11-21T02:43:01Z"), zero + SECOND);
        assert_eq!(at("2026-11-21T02:43:00.2Z"), zero + SECOND / 5);
    }

    #[test]
    fn going_on_after_any_crash_repeats_nothing_and_leaves_nothing_out() {
        let all: Vec<Record> = (0..12)
            .map(|number| match number % 3 {
                0 => record(number, OutputStream::Stderr),
                _ => record(number, OutputStream::Stdout),
            })
            .collect();
        let limits = LogLimits {
            max_files: 100,
            ..LIMITS
        };
        for crash in 0..all.len() {
            let dir = tempfile::tempdir().unwrap();
            let open = || LogFile::open(&dir.path().join("r"), 2, limits).unwrap();
            open().append(&all[..crash]).unwrap();
            if let Some(newest) = files(&dir.path().join("r")).unwrap().last() {
                // The crash came in the middle of a record.
                let newest = dir.path().join("r").join(FileName(*newest).to_string());
                let mut newest = OpenOptions::new().append(true).open(newest).unwrap();
                newest.write_all(b"2026-11-21T02:4").unwrap();
            }
            // The engine is asked again, and tells all.
            open().append(&all).unwrap();
            open().append(&all).unwrap();
            let lines = lines(&dir.path().join("r"));
            assert_eq!(lines.len(), all.len(), "crash at {crash}: {lines:#?}");
            for number in 0..all.len() {
                let wanted = format!("line {number}");
                let count = lines.iter().filter(|line| line.ends_with(&wanted)).count();
                assert_eq!(count, 1, "crash at {crash}, {wanted}: {lines:#?}");
            }
        }
    }

    #[test]
    fn lines_that_went_with_their_container_are_told_in_the_log_and_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(dir.path(), 1, LIMITS).unwrap();
        log.append(&[record(0, OutputStream::Stdout)]).unwrap();
        let lost = Unwritten {
            lines: 4,
            error: io::ErrorKind::StorageFull.into(),
        };
        log.append_loss(Timestamp::from_millis(1_795_228_990_000), &lost)
            .unwrap();
        log.append_loss(Timestamp::from_millis(1_795_228_991_000), &lost)
            .unwrap();
        let lines = lines(dir.path());
        assert_eq!(lines.len(), 3);
        let told = "stderr F flowctl: dropped 4 lines or more, which its container took along: ";
        assert!(lines[1].contains(told), "{lines:?}");
        let beside = fs::read_to_string(dir.path().join("lost")).unwrap();
        assert_eq!(beside.trim().parse(), Ok(8));
    }

    #[test]
    fn nothing_is_repeated_though_much_has_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits {
            max_size_bytes: WINDOW / 2,
            max_files: 100,
        };
        let open = || LogFile::open(dir.path(), 1, limits).unwrap();
        // As Podman tells it: a whole second for all of them.
        let of_a_second = |number: i64| Record {
            at_nanos: 1_795_228_980_000_000_000,
            ..record(
                number,
                [OutputStream::Stdout, OutputStream::Stderr][usize::from(number == 3)],
            )
        };
        let count = 4 * i64::try_from(WINDOW).unwrap() / 50;
        let all: Vec<Record> = (0..count).map(of_a_second).collect();
        open().append(&all).unwrap();
        open().append(&all).unwrap();
        assert_eq!(lines(dir.path()).len(), all.len());
    }

    #[test]
    fn an_interruption_is_told_where_it_was_and_moves_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let open = || LogFile::open(dir.path(), 1, LogLimits::default()).unwrap();
        assert_eq!(open().latest(), None);
        let all = [
            record(0, OutputStream::Stdout),
            record(8, OutputStream::Stdout),
        ];
        open().append(&all[..1]).unwrap();
        let mut log = open();
        assert_eq!(log.latest(), Some(all[0].at_nanos));
        log.append_gap(all[1].at_nanos).unwrap();
        log.append(&all[1..]).unwrap();
        let lines = lines(dir.path());
        assert!(lines[1].contains("lines may be missing here"), "{lines:?}");
        assert!(lines[2].ends_with("line 8"), "{lines:?}");
    }

    #[test]
    fn what_was_deleted_is_not_copied_again() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits {
            max_files: 2,
            ..LIMITS
        };
        let open = || LogFile::open(dir.path(), 1, limits).unwrap();
        let stream_of = |number| match number {
            0 => OutputStream::Stderr,
            _ => OutputStream::Stdout,
        };
        let all = (0..100).map(|number| record(number, stream_of(number)));
        let all: Vec<Record> = all.collect();
        open().append(&all).unwrap();
        let before = lines(dir.path());
        assert!(!before.iter().any(|line| line.contains("stderr")));
        open().append(&all).unwrap();
        assert_eq!(lines(dir.path()), before);
    }

    #[test]
    fn each_run_of_a_crash_loop_goes_on_where_it_was_left_whoever_wrote_since() {
        let dir = tempfile::tempdir().unwrap();
        let open = |run| LogFile::open(dir.path(), run, LogLimits::default()).unwrap();
        let of = |run: i64| {
            [
                record(10 * run, OutputStream::Stdout),
                record(10 * run + 1, OutputStream::Stderr),
            ]
        };
        let runs: [i64; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        for run in runs {
            open(run.unsigned_abs()).append(&of(run)[..1]).unwrap();
        }
        // The engine tells the end of each only now, and all of it.
        for run in runs {
            open(run.unsigned_abs()).append(&of(run)).unwrap();
        }
        assert_eq!(
            files(dir.path()).unwrap().len(),
            1,
            "they fit into one file"
        );
        let lines = lines(dir.path());
        let texts = lines.iter().filter_map(|line| line.split_once(" F "));
        let mut texts: Vec<&str> = texts.map(|(_, text)| text).collect();
        texts.sort_unstable();
        let mut wanted: Vec<String> = runs
            .iter()
            .flat_map(|run| {
                [
                    format!("line {}", 10 * run),
                    format!("line {}", 10 * run + 1),
                ]
            })
            .collect();
        wanted.sort_unstable();
        assert_eq!(texts, wanted);
        for part in parts(dir.path()).unwrap() {
            let file = File::open(dir.path().join(FileName(part.name).to_string()));
            let bytes = tail(&mut file.unwrap(), part.bytes.start, part.bytes.end).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            let numbers = text.lines().filter_map(|line| line.split_once(" F line "));
            for (_, number) in numbers {
                assert_eq!(number.parse::<u64>().unwrap() / 10, part.run, "{text}");
            }
        }
    }
}
