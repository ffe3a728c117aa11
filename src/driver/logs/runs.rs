//! Which run wrote which part of a log file: a file is begun by the run of its name, and where
//! another one goes on in it, a marker says so (`TIME stdout R run NUMBER`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::name::{FileName, Name};
use super::replica::{files, time};

/// Markers begin within so many bytes of a file.
pub(super) const MARKERS_WITHIN: u64 = 1 << 20;

/// What stands between the time and the number of a marker.
const MARKER: &[u8] = b" stdout R run ";
/// Where that is in a marker.
const AT: usize = 30;

/// The run that a marker names; `None` = the record is none.
pub(super) fn marker(record: &[u8]) -> Option<u64> {
    let number = record.get(AT..)?.strip_prefix(MARKER)?;
    time(record)?;
    str::from_utf8(number).ok()?.trim_end().parse().ok()
}

/// The runs of one file.
pub(super) struct Runs {
    /// Where each begins, in order; the first at 0.
    begins: Vec<(u64, u64)>,
}

impl Runs {
    /// The runs of `file`, which has this name.
    pub(super) fn read(file: &File, name: Name) -> io::Result<Self> {
        let mut begins = vec![(0, name.0)];
        let size = file.metadata()?.len().min(MARKERS_WITHIN + 128);
        let mut head = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while filled < head.len() {
            match file.read_at(&mut head[filled..], filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        for found in memchr::memmem::find_iter(&head[..filled], MARKER) {
            let Some(start) = found.checked_sub(AT) else {
                continue;
            };
            let begins_a_record = start == 0 || head[start - 1] == b'\n';
            if begins_a_record && let Some(run) = marker(line_at(&head[..filled], start)) {
                begins.push((start as u64, run));
            }
        }
        Ok(Self { begins })
    }

    /// The run that wrote what is at `offset`.
    pub(super) fn at(&self, offset: u64) -> u64 {
        let later = self.begins.partition_point(|(begin, _)| *begin <= offset);
        self.begins[later.saturating_sub(1)].1
    }

    /// Each part with its run, of a file of this size; one may be empty.
    pub(super) fn parts(&self, size: u64) -> impl DoubleEndedIterator<Item = (Range<u64>, u64)> {
        let ends = self.begins.iter().skip(1).map(|(begin, _)| *begin);
        let ends: Vec<u64> = ends.chain([size]).collect();
        let parts = self.begins.iter().zip(ends);
        parts.map(|((begin, run), end)| (*begin..end.max(*begin), *run))
    }
}

fn line_at(bytes: &[u8], start: usize) -> &[u8] {
    let rest = &bytes[start..];
    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    &rest[..end]
}

/// A part of the log of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::driver) struct Part {
    /// In which file.
    pub(in crate::driver) name: Name,
    /// Which bytes of it.
    pub(in crate::driver) bytes: Range<u64>,
    /// Who wrote them.
    pub(in crate::driver) run: u64,
}

/// What the runs of a replica wrote into `dir`, oldest first. Files that go meanwhile are left out.
pub(in crate::driver) fn parts(dir: &Path) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for name in files(dir)? {
        let file = match File::open(dir.join(FileName(name).to_string())) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        let runs = Runs::read(&file, name)?;
        let of_file = runs
            .parts(size)
            .map(|(bytes, run)| Part { name, bytes, run });
        parts.extend(of_file.filter(|part| !part.bytes.is_empty()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-21T03:04:05.123456789Z";

    #[test]
    fn a_file_tells_which_run_wrote_what() {
        let dir = tempfile::tempdir().unwrap();
        let first = format!("{TIME} stdout F one\n");
        let marker = format!("{TIME} stdout R run 9\n");
        // What a program writes is no marker, whatever it writes.
        let forged = format!("{TIME} stdout F {TIME} stdout R run 7\n");
        let text = format!("{first}{forged}{marker}{first}");
        std::fs::write(dir.path().join("000003-000001.log"), &text).unwrap();
        let middle = (first.len() + forged.len()) as u64;
        let end = text.len() as u64;
        let part = |bytes, run| Part {
            name: (3, 1),
            bytes,
            run,
        };
        let wanted = [part(0..middle, 3), part(middle..end, 9)];
        assert_eq!(parts(dir.path()).unwrap(), wanted);
        let file = File::open(dir.path().join("000003-000001.log")).unwrap();
        let runs = Runs::read(&file, (3, 1)).unwrap();
        assert_eq!(
            [
                runs.at(0),
                runs.at(middle - 1),
                runs.at(middle),
                runs.at(end)
            ],
            [3, 3, 9, 9]
        );
    }
}
