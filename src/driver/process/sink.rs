//! Where a shim puts what its program writes: rotated files in the CRI line format.
//!
//! **Guarantees.** A record is whole or absent. The program waits for the disk at most: what the
//! disk refuses is dropped, counted, and said in the log when there is room again. No heap.
//!
//! Files are named `INCARNATION-SEQUENCE.log`; a replica's limits count over all of its runs.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::driver::OutputStream;
use crate::driver::logs::FileName;

use super::text::Text;

/// The longest piece of a line in one record, as the kubelet and containerd cut it.
pub(super) const PIECE: usize = 16 << 10;

/// `2026-11-21T03:04:05.123456789Z stdout F `.
const HEADER: usize = 40;
/// Where the `F` or `P` of a record is.
const TAG: usize = 38;

/// Bytes of output gathered before they are written: a full pipe of lines of usual length.
pub(super) const OUTPUT: usize = 256 << 10;

/// Where and how much.
pub(super) struct Limits<'a> {
    /// The replica's log directory, made when the first line arrives.
    pub(super) dir: &'a CStr,
    /// Which run of the replica this is.
    pub(super) incarnation: u64,
    /// A file ends at this size.
    pub(super) max_size: u64,
    /// Files kept, the one being written included; at least one.
    pub(super) max_files: u64,
}

/// Whether a record ends its line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// The line goes on in the next record of its stream.
    Part,
    /// The line ends here.
    Last,
}

/// The log of one run.
pub(super) struct Sink<'a> {
    limits: Limits<'a>,
    file: Option<File>,
    sequence: u64,
    output: &'a mut [u8],
    filled: usize,
    stamp: Stamp,
    streams: [Stream; 2],
    refused: Option<Errno>,
}

struct File {
    fd: OwnedFd,
    size: u64,
}

/// What was lost of one stream.
#[derive(Clone, Copy, Default)]
struct Stream {
    /// Lines lost and not yet said so.
    dropped: u64,
    /// The head of the present line was lost, so the rest of it goes too.
    headless: bool,
    /// The last record on disk says that its line goes on.
    open: bool,
}

impl<'a> Sink<'a> {
    /// A sink that gathers in `output`, which has [`OUTPUT`] bytes.
    pub(super) fn new(limits: Limits<'a>, output: &'a mut [u8]) -> Self {
        Self {
            limits,
            file: None,
            sequence: 0,
            output,
            filled: 0,
            stamp: Stamp::new(),
            streams: [Stream::default(); 2],
            refused: None,
        }
    }

    /// The time that the next records carry.
    pub(super) fn set_time(&mut self, now: Timespec) {
        self.stamp.set(now);
    }

    /// Takes one piece of a line, at most [`PIECE`] bytes.
    pub(super) fn record(&mut self, stream: OutputStream, piece: Piece, text: &[u8]) {
        let lost = &mut self.streams[stream as usize];
        if lost.headless {
            if piece == Piece::Last {
                lost.headless = false;
                lost.dropped += 1;
            }
            return;
        }
        let size = HEADER + text.len() + 1;
        let on_disk = self.file.as_ref().map_or(0, |file| file.size);
        let pending = self.filled as u64;
        let full = on_disk + pending + size as u64 > self.limits.max_size && on_disk + pending > 0;
        if self.filled + size > self.output.len() || full {
            self.flush();
            if self.streams[stream as usize].headless {
                return self.record(stream, piece, text);
            }
            if full {
                self.file = None;
            }
        }
        let out = &mut self.output[self.filled..self.filled + size];
        out[..30].copy_from_slice(&self.stamp.text);
        out[30..38].copy_from_slice(match stream {
            OutputStream::Stdout => b" stdout ",
            OutputStream::Stderr => b" stderr ",
        });
        out[TAG] = match piece {
            Piece::Part => b'P',
            Piece::Last => b'F',
        };
        out[TAG + 1] = b' ';
        out[HEADER..size - 1].copy_from_slice(text);
        out[size - 1] = b'\n';
        self.filled += size;
    }

    /// Whether lines were lost and the log does not say so yet.
    pub(super) fn owes_marker(&self) -> bool {
        self.streams.iter().any(|stream| stream.dropped > 0)
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self) {
        if self.filled == 0 {
            return;
        }
        if self.owes_marker() && !self.write_markers() {
            return self.drop_from(0);
        }
        let written = self.write(self.filled);
        if written < self.filled {
            self.drop_from(written);
        } else {
            self.note_open(written);
            self.filled = 0;
        }
    }

    /// Says in the log what was lost, if there is room by now.
    pub(super) fn settle(&mut self) {
        self.flush();
        if self.owes_marker() {
            self.write_markers();
        }
    }

    /// How much memory of the output was touched since it was last given back.
    pub(super) fn output(&mut self) -> &mut [u8] {
        debug_assert!(self.filled == 0, "only between batches");
        self.output
    }

    /// Appends `output[..end]` and answers how much of it is on disk as whole records.
    fn write(&mut self, end: usize) -> usize {
        if self.open_file().is_none() {
            return 0;
        }
        let Some(file) = &mut self.file else {
            return 0;
        };
        let mut done = 0;
        while done < end {
            match rustix::io::write(&file.fd, &self.output[done..end]) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.refused = Some(error);
                    break;
                }
            }
        }
        // A record that was cut short is taken back, which needs no room.
        let whole = if done == end {
            end
        } else {
            memchr::memrchr(b'\n', &self.output[..done]).map_or(0, |newline| newline + 1)
        };
        let size = file.size + whole as u64;
        if whole < done && rustix::fs::ftruncate(&file.fd, size).is_err() {
            // The fragment stays; a new file keeps the next record from growing onto it.
            self.file = None;
            return whole;
        }
        file.size = size;
        whole
    }

    /// Counts and forgets the gathered records from `start` on.
    fn drop_from(&mut self, start: usize) {
        self.note_open(start);
        let mut at = start;
        while at < self.filled {
            let record = &self.output[at..self.filled];
            let stream = &mut self.streams[usize::from(record[31..37] == *b"stderr")];
            stream.headless = record[TAG] == b'P';
            stream.dropped += u64::from(!stream.headless);
            at += memchr::memchr(b'\n', record).map_or(record.len(), |newline| newline + 1);
        }
        self.filled = 0;
    }

    /// Remembers, of the records in `output[..end]` that reached the disk, which lines go on.
    fn note_open(&mut self, end: usize) {
        // Only the last record of each stream matters, and only where lines are split at all:
        // the scan from the end stops at the first record of each.
        let mut seen = [false; 2];
        let mut end = end;
        while end > 0 && seen != [true; 2] {
            let start = memchr::memrchr(b'\n', &self.output[..end - 1]).map_or(0, |at| at + 1);
            let record = &self.output[start..end];
            let stream = usize::from(record[31..37] == *b"stderr");
            if !seen[stream] {
                seen[stream] = true;
                self.streams[stream].open = record[TAG] == b'P';
            }
            if !self.streams[1 - stream].open {
                break;
            }
            end = start;
        }
    }

    /// Writes one marker per stream that lost lines; false when there is no room yet.
    fn write_markers(&mut self) -> bool {
        for (index, name) in ["stdout", "stderr"].into_iter().enumerate() {
            let Stream { dropped, open, .. } = self.streams[index];
            if dropped == 0 {
                continue;
            }
            let stamp = str::from_utf8(&self.stamp.text).unwrap_or_default();
            let why = self.refused.map_or("the log was full", explain);
            // A line whose rest was lost is ended first, or the marker would become its rest.
            let end = Text::<64>::format(format_args!("{stamp} {name} F \n"));
            let end = if open { end.as_bytes() } else { b"" };
            let marker = Text::<256>::format(format_args!(
                "{}{stamp} {name} F flowctl: dropped {dropped} lines: {why}\n",
                str::from_utf8(end).unwrap_or_default()
            ));
            let Some(file) = self.open_file() else {
                return false;
            };
            let text = marker.as_bytes();
            if rustix::io::write(&file.fd, text) != Ok(text.len()) {
                if rustix::fs::ftruncate(&file.fd, file.size).is_err() {
                    self.file = None;
                }
                return false;
            }
            file.size += text.len() as u64;
            self.streams[index].dropped = 0;
            self.streams[index].open = false;
        }
        self.refused = None;
        true
    }

    /// The file to write to; a new one when there is none or it is full.
    fn open_file(&mut self) -> Option<&mut File> {
        if self.file.is_none() {
            match self.next_file() {
                Ok(fd) => self.file = Some(File { fd, size: 0 }),
                Err(error) => self.refused = Some(error),
            }
        }
        self.file.as_mut()
    }

    fn next_file(&mut self) -> Result<OwnedFd, Errno> {
        let dir = self.directory()?;
        // Files beyond the limit go first: on a full disk that is what makes room.
        while let Some(oldest) = self.survey(&dir)? {
            let name = Text::<64>::format(format_args!("{}", FileName(oldest)));
            rustix::fs::unlinkat(&dir, name.as_c_str(), AtFlags::empty())?;
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND;
        self.sequence += 1;
        let name = FileName((self.limits.incarnation, self.sequence));
        let name = Text::<64>::format(format_args!("{name}"));
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::openat(&dir, name.as_c_str(), flags | OFlags::CLOEXEC, mode)
    }

    /// The log directory, made with all its parents where it is missing.
    fn directory(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(self.limits.dir, flags, Mode::empty());
        match open() {
            Err(Errno::NOENT) => {}
            answer => return answer,
        }
        let path = self.limits.dir.to_bytes();
        let mode = Mode::from_raw_mode(0o700);
        for end in memchr::memchr_iter(b'/', path).skip(1).chain([path.len()]) {
            match rustix::fs::mkdir(&path[..end], mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        open()
    }

    /// Looks at the replica's files: takes over the highest sequence of this run, and answers the
    /// oldest file when there is no room for one more.
    fn survey(&mut self, dir: &OwnedFd) -> Result<Option<(u64, u64)>, Errno> {
        let mut count = 0;
        let mut oldest = None;
        let mut space = [std::mem::MaybeUninit::<u8>::uninit(); 2048];
        // `RawDir` reads on from the descriptor's position.
        rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
        let mut entries = RawDir::new(dir, &mut space);
        while let Some(entry) = entries.next() {
            let Some(file) = FileName::parse(entry?.file_name().to_bytes()) else {
                continue;
            };
            count += 1;
            if file.0.0 == self.limits.incarnation {
                self.sequence = self.sequence.max(file.0.1);
            }
            oldest = Some(oldest.map_or(file.0, |known: (u64, u64)| known.min(file.0)));
        }
        Ok(oldest.filter(|_| count >= self.limits.max_files.max(1)))
    }
}

fn explain(error: Errno) -> &'static str {
    match error {
        Errno::NOSPC => "no space left on the log disk",
        Errno::DQUOT => "the log disk's quota is used up",
        Errno::ROFS => "the log disk is read-only",
        Errno::ACCESS | Errno::PERM => "no permission to write the log",
        Errno::IO => "the log disk failed",
        _ => "the log could not be written",
    }
}

/// A time as text; only the fraction is written anew within one second.
struct Stamp {
    second: i64,
    text: [u8; 30],
}

impl Stamp {
    fn new() -> Self {
        Self {
            second: -1,
            text: *b"1970-01-01T00:00:00.000000000Z",
        }
    }

    fn set(&mut self, now: Timespec) {
        if now.tv_sec != self.second {
            self.second = now.tv_sec;
            self.set_second(now.tv_sec);
        }
        put(&mut self.text[20..29], now.tv_nsec);
    }

    fn set_second(&mut self, second: i64) {
        let (days, rest) = (second.div_euclid(86_400), second.rem_euclid(86_400));
        // Days to a date of the proleptic Gregorian calendar, years counted from 1 March.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        put(&mut self.text[0..4], year);
        put(&mut self.text[5..7], month);
        put(&mut self.text[8..10], day);
        put(&mut self.text[11..13], rest / 3_600);
        put(&mut self.text[14..16], rest / 60 % 60);
        put(&mut self.text[17..19], rest % 60);
    }
}

/// Writes the last decimal digits of `number`.
fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789"[(number % 10).unsigned_abs() as usize];
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    fn sink_into<R>(
        dir: &std::path::Path,
        max_size: u64,
        max_files: u64,
        write: impl FnOnce(&mut Sink<'_>) -> R,
    ) -> R {
        let path = CString::new(dir.join("a/b").to_str().unwrap()).unwrap();
        let mut output = vec![0; OUTPUT];
        let limits = Limits {
            dir: &path,
            incarnation: 3,
            max_size,
            max_files,
        };
        let mut sink = Sink::new(limits, &mut output);
        sink.set_time(Timespec {
            tv_sec: 1_795_228_980,
            tv_nsec: 5,
        });
        write(&mut sink)
    }

    fn files(dir: &std::path::Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = std::fs::read_dir(dir.join("a/b"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn records_have_the_cri_form() {
        let dir = tempfile::tempdir().unwrap();
        sink_into(dir.path(), 1 << 20, 2, |sink| {
            sink.record(OutputStream::Stdout, Piece::Part, b"he");
            sink.record(OutputStream::Stderr, Piece::Last, b"");
            sink.settle();
        });
        let (name, text) = files(dir.path()).remove(0);
        assert_eq!(name, "000003-000001.log");
        assert_eq!(
            text,
            "2026-11-21T02:43:00.000000005Z stdout P he\n\
             2026-11-21T02:43:00.000000005Z stderr F \n"
        );
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for second in [0, 951_782_399, 951_782_400, 4_102_444_799, 1_709_164_800] {
            let mut stamp = Stamp::new();
            stamp.set(Timespec {
                tv_sec: second,
                tv_nsec: 0,
            });
            let at = crate::model::Timestamp::from_millis(second * 1000).to_string();
            assert_eq!(str::from_utf8(&stamp.text[..19]).unwrap(), &at[..19]);
        }
    }

    #[test]
    fn files_end_at_their_size_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/000002-000009.log"), "old\n").unwrap();
        std::fs::write(dir.path().join("a/b/notes.txt"), "not ours\n").unwrap();
        sink_into(dir.path(), 200, 3, |sink| {
            for number in 0..20 {
                let line = format!("line {number}");
                sink.record(OutputStream::Stdout, Piece::Last, line.as_bytes());
            }
            sink.settle();
        });
        let files = files(dir.path());
        assert_eq!(files.len(), 4, "three of ours and a stranger: {files:?}");
        assert!(files.iter().all(|(_, text)| text.len() <= 200));
        assert!(files[2].1.ends_with("line 19\n"), "{files:?}");
        let kept: String = files[..3].iter().map(|(_, text)| text.as_str()).collect();
        let numbers: Vec<u32> = kept
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }
}
