//! Finding a place in log files without reading all of them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::replica::{HEADER, parse, time};
use super::runs::marker;
use crate::driver::OutputStream;

/// Bytes read at once, backwards.
const CHUNK: u64 = 128 << 10;
/// How far before the wanted lines the beginning of a long line is looked for.
const LOOK_BACK: u64 = 1 << 20;

/// Which file, counted from the oldest, and which byte of it.
type Place = (usize, u64);

/// Where the last `lines` lines begin; lines from `until` on are not counted.
pub(super) fn find_tail(
    files: &mut [&mut File],
    lines: u64,
    until_nanos: Option<i64>,
) -> io::Result<Place> {
    let mut search = TailSearch {
        left: lines,
        until_nanos,
        open: [false; 2],
        place: (files.len().saturating_sub(1), 0),
        looked_back: 0,
    };
    if let Some(last) = files.last_mut() {
        search.place.1 = last.seek(SeekFrom::End(0))?;
    }
    for index in (0..files.len()).rev() {
        if search.file(index, files[index])? {
            break;
        }
    }
    Ok(search.place)
}

struct TailSearch {
    left: u64,
    until_nanos: Option<i64>,
    /// Streams whose earliest line found may begin in an earlier record.
    open: [bool; 2],
    place: Place,
    /// Bytes gone back for such beginnings, since the last one found.
    looked_back: u64,
}

impl TailSearch {
    /// Searches one file backwards; true when the place is found.
    fn file(&mut self, index: usize, file: &mut File) -> io::Result<bool> {
        let mut end = file.seek(SeekFrom::End(0))?;
        // The part of a record whose beginning lies before `end`.
        let mut rest = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(CHUNK);
            let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)?;
            bytes.append(&mut rest);
            let mut upper = bytes.len();
            // A newline ends a record; what follows one begins a record.
            while let Some(newline) = memchr::memrchr(b'\n', &bytes[..upper.saturating_sub(1)]) {
                if self.record(
                    index,
                    start + newline as u64 + 1,
                    &bytes[newline + 1..upper],
                ) {
                    return Ok(true);
                }
                upper = newline + 1;
            }
            if start == 0 {
                return Ok(self.record(index, 0, &bytes[..upper]));
            }
            bytes.truncate(upper);
            rest = bytes;
            end = start;
        }
        Ok(false)
    }

    /// Takes the record before those seen so far; true when the place is found.
    fn record(&mut self, index: usize, at: u64, record: &[u8]) -> bool {
        let Some((at_nanos, stream, ends, _)) = parse(record) else {
            // A line does not begin in one run and end in another.
            if marker(record).is_some() {
                self.open = [false; 2];
            }
            return self.left == 0 && self.open == [false; 2];
        };
        let open = stream as usize;
        if self.left > 0 {
            if ends && self.until_nanos.is_none_or(|until| at_nanos < until) {
                self.left -= 1;
            }
            self.open[open] = true;
            self.place = (index, at);
            return false;
        }
        if ends {
            self.open[open] = false;
        } else if self.open[open] {
            self.place = (index, at);
            // Its parts may be many, and lie close together.
            self.looked_back = 0;
        }
        self.looked_back += record.len() as u64;
        self.open == [false; 2] || self.looked_back > LOOK_BACK
    }
}

/// Where lines of `since` or later begin; a little before that.
pub(super) fn find_time(files: &mut [&mut File], since_nanos: i64) -> io::Result<Place> {
    // The last file that begins before the time holds the place, or the next one's start is it.
    let mut index = 0;
    for (candidate, file) in files.iter_mut().enumerate() {
        if time_after(file, 0)?.is_some_and(|(_, at)| at < since_nanos) {
            index = candidate;
        }
    }
    let Some(file) = files.get_mut(index) else {
        return Ok((0, 0));
    };
    let (mut low, mut high) = (0, file.seek(SeekFrom::End(0))?);
    // Invariant: the record at or after `low` is too early, or `low` is the start.
    while high - low > CHUNK {
        let middle = low + (high - low) / 2;
        match time_after(file, middle)? {
            Some((place, at)) if at < since_nanos => low = place.max(middle),
            Some(_) | None => high = middle,
        }
    }
    // A line that is wanted whole may begin in records before it; too early ones are left out later.
    let back = low.saturating_sub(LOOK_BACK);
    let place = time_after(file, back)?.map_or(0, |(place, _)| place);
    Ok((index, place))
}

/// The first record that begins at or after `offset` (exactly there only for the start of the
/// file), and its time.
fn time_after(file: &mut File, offset: u64) -> io::Result<Option<(u64, i64)>> {
    // Longer than any record, so that a whole header is inside.
    const REACH: u64 = 20 << 10;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.by_ref().take(REACH).read_to_end(&mut bytes)?;
    let mut begin = 0;
    if offset > 0 {
        match memchr::memchr(b'\n', &bytes) {
            Some(newline) => begin = newline + 1,
            None => return Ok(None),
        }
    }
    Ok(bytes
        .get(begin..begin + HEADER)
        .and_then(time)
        .map(|at| (offset + begin as u64, at)))
}

/// The streams are told apart by index.
const _: () = assert!(OutputStream::Stdout as usize == 0 && OutputStream::Stderr as usize == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(records: &[String]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(records.concat().as_bytes()).unwrap();
        file
    }

    fn record(second: usize, stream: &str, tag: char, text: &str) -> String {
        let (minute, second) = (second / 60, second % 60);
        format!("2026-11-21T03:{minute:02}:{second:02}.000000000Z {stream} {tag} {text}\n")
    }

    #[test]
    fn the_tail_begins_at_the_head_of_a_split_line() {
        let records = [
            record(0, "stdout", 'F', "before"),
            record(1, "stdout", 'P', "a"),
            record(2, "stderr", 'F', "between"),
            record(3, "stdout", 'P', "b"),
            record(4, "stdout", 'F', "c"),
        ];
        let mut file = file(&records);
        let place = find_tail(&mut [&mut file], 1, None).unwrap();
        assert_eq!(place, (0, records[0].len() as u64));
    }

    #[test]
    fn the_tail_of_many_lines_is_found_over_files_and_chunks() {
        let long = "x".repeat(1_000);
        let records = |from: usize| -> Vec<String> {
            (from..from + 500)
                .map(|second| record(second, "stdout", 'F', &long))
                .collect()
        };
        let (mut old, mut new) = (file(&records(0)), file(&records(500)));
        let size = record(0, "stdout", 'F', &long).len() as u64;
        let mut files = [&mut old, &mut new];
        assert_eq!(find_tail(&mut files, 3, None).unwrap(), (1, 497 * size));
        assert_eq!(find_tail(&mut files, 600, None).unwrap(), (0, 400 * size));
        assert_eq!(find_tail(&mut files, 5_000, None).unwrap(), (0, 0));
        assert_eq!(find_tail(&mut files, 0, None).unwrap(), (1, 500 * size));
    }

    #[test]
    fn a_time_is_found_by_halving() {
        let long = "x".repeat(8_000);
        let records: Vec<String> = (0..1_000)
            .map(|second| record(second, "stdout", 'F', &long))
            .collect();
        let size = records[0].len() as u64;
        let mut file = file(&records);
        let wanted = time(record(900, "stdout", 'F', "").as_bytes()).unwrap();
        let (index, place) = find_time(&mut [&mut file], wanted).unwrap();
        assert_eq!(index, 0);
        assert!(place <= 900 * size && place > 600 * size && place.is_multiple_of(size));
        assert_eq!(find_time(&mut [], wanted).unwrap(), (0, 0));
    }
}
