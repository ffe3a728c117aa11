//! Where a shim puts what its program writes: rotated files in the CRI line format.
//!
//! **Guarantees.** The program waits for the disk at most: what the disk refuses is dropped,
//! counted, and said in the log when there is room again. No heap. Where it is written is the
//! [`Writer`]'s.

use std::ffi::CStr;

use rustix::io::Errno;
use rustix::time::Timespec;

use crate::driver::OutputStream;
use crate::driver::logs::{Budget, Writer};

use super::sys::Pages;
use super::text::Text;

/// The longest piece of a line in one record, as the kubelet and containerd cut it.
pub(super) const PIECE: usize = 16 << 10;

/// `2026-11-21T03:04:05.123456789Z stdout F `.
const HEADER: usize = 40;
/// Where the `F` or `P` of a record is.
const TAG: usize = 38;

/// Bytes of output gathered before they are written: a full pipe of lines of usual length.
pub(super) const OUTPUT: usize = 256 << 10;

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
    log: Writer<&'a CStr>,
    output: Pages<'a>,
    filled: usize,
    stamp: Stamp,
    streams: [Stream; 2],
    refused: Option<Errno>,
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
    /// A sink for `run` that gathers in `output`, which has [`OUTPUT`] bytes. The directory is made
    /// when there is something to write.
    pub(super) fn new(dir: &'a CStr, run: u64, budget: Budget, output: Pages<'a>) -> Self {
        Self {
            log: Writer::new(dir, run, budget),
            output,
            filled: 0,
            stamp: Stamp::new(),
            streams: [Stream::default(); 2],
            refused: None,
        }
    }

    /// The time that the next records carry.
    pub(super) fn set_time(&mut self, now: Timespec) {
        if self.stamp.set(now) == Second::Another {
            self.log.look_around();
        }
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
        if self.filled + size > self.output.len() {
            self.flush();
            if self.streams[stream as usize].headless {
                return self.record(stream, piece, text);
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
        let appended = self.log.append(&self.output[..self.filled]);
        self.refused = appended.refused.or(self.refused);
        let written = appended.bytes;
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

    /// Gives the memory back that batches have touched.
    pub(super) fn give_back(&mut self) {
        debug_assert!(self.filled == 0, "only between batches");
        self.output.discard_from(self.filled);
    }

    /// Lets go of the file until there is more to write.
    pub(super) fn close(&mut self) {
        self.log.close();
    }

    /// Whether a file is held open.
    pub(super) fn is_open(&self) -> bool {
        self.log.is_open()
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
            let appended = self.log.append(marker.as_bytes());
            if appended.refused.is_some() {
                self.refused = appended.refused;
                return false;
            }
            self.log.note_lost(dropped);
            self.streams[index].dropped = 0;
            self.streams[index].open = false;
        }
        self.refused = None;
        true
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

/// Whether a time lies in another second than the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    Same,
    Another,
}

impl Stamp {
    fn new() -> Self {
        Self {
            second: -1,
            text: *b"1970-01-01T00:00:00.000000000Z",
        }
    }

    fn set(&mut self, now: Timespec) -> Second {
        let second = if now.tv_sec == self.second {
            Second::Same
        } else {
            self.second = now.tv_sec;
            self.set_second(now.tv_sec);
            Second::Another
        };
        put(&mut self.text[20..29], now.tv_nsec);
        second
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
    use crate::driver::process::sys::Mapping;
    use std::ffi::CString;

    fn sink_into<R>(dir: &std::path::Path, write: impl FnOnce(&mut Sink<'_>) -> R) -> R {
        let path = CString::new(dir.join("a/b").to_str().unwrap()).unwrap();
        let mut output = Mapping::new(OUTPUT).unwrap();
        let budget = Budget {
            max_size: 1 << 20,
            max_files: 5,
        };
        let mut sink = Sink::new(&path, 3, budget, output.pages());
        sink.set_time(Timespec {
            tv_sec: 1_795_228_980,
            tv_nsec: 5,
        });
        write(&mut sink)
    }

    #[test]
    fn records_have_the_cri_form() {
        let dir = tempfile::tempdir().unwrap();
        sink_into(dir.path(), |sink| {
            sink.record(OutputStream::Stdout, Piece::Part, b"he");
            sink.record(OutputStream::Stderr, Piece::Last, b"");
            sink.settle();
        });
        let text = std::fs::read_to_string(dir.path().join("a/b/000003-000001.log")).unwrap();
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
}
