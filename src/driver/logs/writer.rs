//! Where what a replica writes goes: its log files, over all of its runs. Without a heap, since
//! guardians use it.
//!
//! **Guarantees.** A record is whole or absent. Bytes count, not runs: a run goes on in the file of
//! the one before while that is small, and only the oldest bytes beyond the limit are removed.
//! Whatever somebody else does to the files (move, cut, remove, replace them, or their folder), the
//! next record is where a reader looks for it.
//!
//! **Assumptions.** Of one replica one writer writes at a time. Where there are two for a moment,
//! each has a file of its own: the one that it writes to is locked.

use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RawDir, Stat, flock, fstat, openat, statat,
};
use rustix::io::Errno;

use super::name::{FileName, Name};
use super::runs::MARKERS_WITHIN;

/// How much is kept of a replica.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct Budget {
    /// A file ends at this size at the latest.
    pub(in crate::driver) max_size: u64,
    /// So many files of that size are kept, the one being written included.
    pub(in crate::driver) max_files: u64,
}

impl Budget {
    /// Bytes that all files of a replica may have.
    fn total(self) -> u64 {
        self.max_size.saturating_mul(self.max_files.max(1))
    }

    /// Where a file ends: what is removed at once is at most a quarter of what is kept.
    fn file(self) -> u64 {
        self.max_size.min(self.total() / 4).max(1)
    }

    /// A run goes on in the file of the one before up to this size.
    fn shared(self) -> u64 {
        (self.file() / 8).min(MARKERS_WITHIN)
    }
}

/// What became of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) struct Appended {
    /// Bytes of whole records that are in the log.
    pub(in crate::driver) bytes: usize,
    /// What kept the others out.
    pub(in crate::driver) refused: Option<Errno>,
}

/// The file that says how many lines of a replica were lost.
pub(super) const LOST: &CStr = c"lost";
/// A number and the end of its line.
const LOST_WIDTH: usize = 21;

/// What that file holds.
pub(super) fn parse_lost(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.trim_end().parse().ok()
}

/// Writes the log of one run.
pub(in crate::driver) struct Writer<D> {
    /// The replica's log directory, made when the first record arrives.
    dir: D,
    run: u64,
    budget: Budget,
    open: Option<Open>,
    left: Option<Left>,
}

struct Open {
    dir: OwnedFd,
    file: OwnedFd,
}

/// The file that is written to, as we left it.
#[derive(Clone, Copy)]
struct Left {
    name: Name,
    /// Which file it is; its size then is not kept up.
    file: Stat,
    size: u64,
}

impl Left {
    fn is_still(&self, stat: &Stat) -> bool {
        is_same(&self.file, stat) && self.size == size(stat)
    }
}

/// Whether both are of one file.
fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// All files of a replica but one.
#[derive(Default)]
struct Survey {
    /// Bytes of them.
    total: u64,
    oldest: Option<Name>,
    newest: Option<(Name, u64)>,
}

impl<D: AsRef<CStr>> Writer<D> {
    /// A writer of the log of `run` in `dir`.
    pub(in crate::driver) fn new(dir: D, run: u64, budget: Budget) -> Self {
        Self {
            dir,
            run,
            budget,
            open: None,
            left: None,
        }
    }

    /// Goes on in the file `name`, of which this run wrote the end.
    pub(in crate::driver) fn resume(&mut self, name: Name) {
        let path = FileName(name).path();
        let found = self.directory().and_then(|dir| {
            // One that is gone meanwhile is not gone on with.
            statat(&dir, path.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
        });
        self.left = found.ok().map(|stat| Left {
            name,
            file: stat,
            size: size(&stat),
        });
    }

    /// Appends whole records.
    pub(in crate::driver) fn append(&mut self, records: &[u8]) -> Appended {
        let mut bytes = 0;
        while bytes < records.len() {
            let rest = &records[bytes..];
            let written = self.prepare(rest).and_then(|fitting| {
                self.write(&rest[..fitting]).map_err(|(whole, error)| {
                    bytes += whole;
                    error
                })
            });
            match written {
                Ok(whole) => bytes += whole,
                Err(error) => {
                    return Appended {
                        bytes,
                        refused: Some(error),
                    };
                }
            }
        }
        Appended {
            bytes,
            refused: None,
        }
    }

    /// Adds to how many lines of the replica were lost, for those who do not read its log. Where that
    /// cannot be written, the log alone says so.
    pub(in crate::driver) fn note_lost(&mut self, lines: u64) {
        let Some(open) = &self.open else {
            return;
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(file) = openat(&open.dir, LOST, flags, Mode::RUSR | Mode::WUSR) else {
            return;
        };
        let mut text = [0; LOST_WIDTH];
        let read = rustix::io::pread(&file, &mut text, 0).unwrap_or(0);
        let all = parse_lost(&text[..read]).unwrap_or(0).saturating_add(lines);
        let written = writeln!(&mut text[..], "{all:020}");
        debug_assert!(written.is_ok(), "a number has at most 20 digits");
        // The next loss is added to what is there.
        rustix::io::pwrite(&file, &text, 0).ok();
    }

    /// Lets go of the file: until there is more to write, others may do with it what they want, and
    /// a removed one frees its disk.
    pub(in crate::driver) fn close(&mut self) {
        self.open = None;
    }

    /// Whether a file is held open.
    pub(in crate::driver) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Lets go of the file unless its folder is still where readers look for it.
    pub(in crate::driver) fn look_around(&mut self) {
        let Some(open) = &self.open else {
            return;
        };
        let there = rustix::fs::stat(self.dir.as_ref());
        let ours = fstat(&open.dir);
        if !matches!((there, ours), (Ok(there), Ok(ours)) if is_same(&there, &ours)) {
            self.open = None;
        }
    }

    /// Has a file to write to; answers how many bytes of `records` fit into it.
    fn prepare(&mut self, records: &[u8]) -> Result<usize, Errno> {
        if !self.is_as_left() {
            self.open = None;
        }
        if self.open.is_none() {
            self.reopen(records)?;
        }
        let length = |records: &[u8]| {
            memchr::memchr(b'\n', records).map_or(records.len(), |newline| newline + 1)
        };
        let first = length(records);
        let is_full = |left: &Left| left.size > 0 && left.size + first as u64 > self.budget.file();
        if self.left.as_ref().is_some_and(is_full) {
            self.next_file(records)?;
        }
        let size = self.left.map_or(0, |left| left.size);
        let room = usize::try_from(self.budget.file().saturating_sub(size)).unwrap_or(usize::MAX);
        if records.len() <= room {
            return Ok(records.len());
        }
        let fitting = memchr::memrchr(b'\n', &records[..room]).map_or(0, |newline| newline + 1);
        Ok(fitting.max(first))
    }

    /// Whether the open file still has its name and is as long as we left it.
    fn is_as_left(&self) -> bool {
        let (Some(open), Some(left)) = (&self.open, &self.left) else {
            return false;
        };
        let path = FileName(left.name).path();
        statat(&open.dir, path.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| left.is_still(&stat))
    }

    /// Opens the file that we left, or the newest one, where that is small, or a new one.
    fn reopen(&mut self, records: &[u8]) -> Result<(), Errno> {
        let dir = self.directory()?;
        if let Some(left) = self.left
            && let Ok(file) = open_file(&dir, left.name)
            && fstat(&file).is_ok_and(|stat| left.is_still(&stat))
            && is_free(&file)
        {
            self.open = Some(Open { dir, file });
            return Ok(());
        }
        let found = survey(&dir, None)?;
        let Some((name, _)) = found
            .newest
            .filter(|(_, size)| *size < self.budget.shared())
        else {
            return self.make_file(dir, &found, records);
        };
        let Ok(file) = open_file(&dir, name) else {
            return self.make_file(dir, &found, records);
        };
        let stat = fstat(&file)?;
        if !is_free(&file) || size(&stat) >= self.budget.shared() {
            return self.make_file(dir, &found, records);
        }
        self.make_room(&dir, Some(name))?;
        let is_torn = size(&stat) > 0 && !ends_a_record(&file, size(&stat))?;
        self.open = Some(Open { dir, file });
        self.left = Some(Left {
            name,
            file: stat,
            size: size(&stat),
        });
        if is_torn {
            self.write(b"\n").map_err(|(_, error)| error)?;
        }
        self.mark(records)
    }

    /// Begins the next file.
    fn next_file(&mut self, records: &[u8]) -> Result<(), Errno> {
        self.open = None;
        let dir = self.directory()?;
        let found = survey(&dir, None)?;
        self.make_file(dir, &found, records)
    }

    /// Makes the file after all others, once there is room for it: on a full disk that is what
    /// makes room.
    fn make_file(&mut self, dir: OwnedFd, found: &Survey, records: &[u8]) -> Result<(), Errno> {
        self.make_room(&dir, None)?;
        // Names sort as the files were written, also where the numbers of runs do not.
        let newest = found.newest.map(|(name, _)| name);
        let newest = newest.max(self.left.map(|left| left.name));
        let name = match newest {
            Some((run, sequence)) if run >= self.run => (run, sequence + 1),
            Some(_) | None => (self.run, 1),
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&dir, FileName(name).path().as_c_str(), flags, mode)?;
        let stat = fstat(&file)?;
        // Nobody else has it yet, unless locks are not to be had here at all.
        is_free(&file);
        self.open = Some(Open { dir, file });
        self.left = Some(Left {
            name,
            file: stat,
            size: 0,
        });
        if name.0 == self.run {
            return Ok(());
        }
        self.mark(records)
    }

    /// Writes that this run goes on from here, with the time of the first record.
    fn mark(&mut self, records: &[u8]) -> Result<(), Errno> {
        let time = records.get(..30).unwrap_or(records);
        let mut text = [0; 80];
        let mut rest = &mut text[..];
        let written = rest
            .write_all(time)
            .and_then(|()| writeln!(rest, " stdout R run {}", self.run));
        debug_assert!(written.is_ok(), "a marker has at most 66 bytes");
        let length = 80 - rest.len();
        let marked = self.write(&text[..length]);
        marked.map(drop).map_err(|(_, error)| {
            // Without it what follows would be the former run's.
            (self.open, self.left) = (None, None);
            error
        })
    }

    /// Writes all of `bytes`, or answers how many of them are in the file as whole records.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, (usize, Errno)> {
        let (Some(open), Some(left)) = (&self.open, &mut self.left) else {
            return Err((0, Errno::BADF));
        };
        let (mut done, mut refused) = (0, Errno::IO);
        while done < bytes.len() {
            match rustix::io::write(&open.file, &bytes[done..]) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => {
                    refused = error;
                    break;
                }
            }
        }
        if done == bytes.len() {
            left.size += done as u64;
            return Ok(done);
        }
        // A record that was cut short is taken back, which needs no room.
        let whole = memchr::memrchr(b'\n', &bytes[..done]).map_or(0, |newline| newline + 1);
        left.size += whole as u64;
        if whole < done && rustix::fs::ftruncate(&open.file, left.size).is_err() {
            // The fragment stays; what comes next does not grow onto it.
            (self.open, self.left) = (None, None);
        }
        Err((whole, refused))
    }

    /// The log directory, made with all its parents where it is missing.
    fn directory(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(self.dir.as_ref(), flags, Mode::empty());
        match open() {
            Err(Errno::NOENT) => {}
            answer => return answer,
        }
        let path = self.dir.as_ref().to_bytes();
        let mode = Mode::from_raw_mode(0o700);
        for end in memchr::memchr_iter(b'/', path).skip(1).chain([path.len()]) {
            match rustix::fs::mkdir(&path[..end], mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        open()
    }

    /// Removes the oldest files but `kept`, until there is room for a full one beside the others.
    fn make_room(&self, dir: &OwnedFd, kept: Option<Name>) -> Result<(), Errno> {
        let allowed = self.budget.total().saturating_sub(self.budget.file());
        loop {
            let others = survey(dir, kept)?;
            let Some(oldest) = others.oldest.filter(|_| others.total > allowed) else {
                return Ok(());
            };
            match rustix::fs::unlinkat(dir, FileName(oldest).path().as_c_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn open_file(dir: &OwnedFd, name: Name) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = FileName(name).path();
    rustix::fs::openat(dir, path.as_c_str(), flags, Mode::empty())
}

/// Whether nobody else writes to a file; we do from now on, as long as it is open.
fn is_free(file: &OwnedFd) -> bool {
    // Where there are no locks, nobody has one.
    flock(file, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)
}

/// Whether a file of this size ends with a whole record.
fn ends_a_record(file: &OwnedFd, size: u64) -> Result<bool, Errno> {
    let mut last = [0];
    let read = rustix::io::pread(file, &mut last, size - 1)?;
    Ok(read == 1 && last == *b"\n")
}

/// Looks at the files in `dir` but `left_out`.
fn survey(dir: &OwnedFd, left_out: Option<Name>) -> Result<Survey, Errno> {
    let mut found = Survey::default();
    let mut space = [std::mem::MaybeUninit::<u8>::uninit(); 2048];
    // `RawDir` reads on from the descriptor's position.
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(dir, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let Some(FileName(name)) = FileName::parse(entry.file_name().to_bytes()) else {
            continue;
        };
        if left_out == Some(name) {
            continue;
        }
        let size = match statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => size(&stat),
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        found.total = found.total.saturating_add(size);
        found.oldest = Some(found.oldest.map_or(name, |known| known.min(name)));
        if found.newest.is_none_or(|(known, _)| known < name) {
            found.newest = Some((name, size));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::driver::logs::runs::parts;

    const BUDGET: Budget = Budget {
        max_size: 400,
        max_files: 5,
    };
    const TIME: &str = "2026-11-21T03:04:05.123456789Z";

    fn writer(dir: &Path, run: u64, budget: Budget) -> Writer<CString> {
        let dir = CString::new(dir.to_str().unwrap()).unwrap();
        Writer::new(dir, run, budget)
    }

    fn record(text: &str) -> String {
        format!("{TIME} stdout F {text}\n")
    }

    fn write(writer: &mut Writer<CString>, text: &str) {
        let record = record(text);
        let appended = writer.append(record.as_bytes());
        assert_eq!((appended.bytes, appended.refused), (record.len(), None));
    }

    fn paths(dir: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths
    }

    /// Each record with the run that it is of.
    fn kept(dir: &Path) -> Vec<(u64, String)> {
        let mut kept = Vec::new();
        for part in parts(dir).unwrap() {
            let bytes = fs::read(dir.join(FileName(part.name).to_string())).unwrap();
            let [start, end] = [part.bytes.start, part.bytes.end].map(|at| at as usize);
            for line in String::from_utf8(bytes[start..end].to_vec())
                .unwrap()
                .lines()
            {
                if let Some((_, text)) = line.split_once(" F ") {
                    kept.push((part.run, text.to_owned()));
                }
            }
        }
        kept
    }

    #[test]
    fn what_goes_is_the_oldest_bytes_and_never_a_small_run_for_being_one_more() {
        // However the bytes are spread over runs, most of the budget is kept, and no more.
        for (runs, lines) in [(1, 500), (200, 1), (60, 7), (5, 80)] {
            for budget in [1, 2, 3, 5, 9].map(|max_files| Budget {
                max_files,
                ..BUDGET
            }) {
                let dir = tempfile::tempdir().unwrap();
                let mut all = Vec::new();
                for run in 1..=runs {
                    let mut writer = writer(dir.path(), run, budget);
                    for line in 0..lines {
                        let text = format!("line {line} of run {run}");
                        write(&mut writer, &text);
                        all.push((run, text));
                    }
                }
                let what = format!("{runs} runs of {lines} lines, {budget:?}");
                let kept = kept(dir.path());
                assert!(
                    all.ends_with(&kept),
                    "{what}: the newest, without a gap: {kept:?}"
                );
                let sizes = paths(dir.path());
                let sizes = sizes.iter().map(|path| path.metadata().unwrap().len());
                let sizes: Vec<u64> = sizes.collect();
                let total: u64 = sizes.iter().sum();
                assert!(total <= budget.total(), "{what}: {total}");
                assert!(
                    sizes.iter().all(|size| *size <= budget.max_size),
                    "{what}: {sizes:?}"
                );
                if kept.len() < all.len() {
                    let most = budget.total() - budget.file() - 2 * record("x").len() as u64 - 60;
                    assert!(total > most - budget.file().min(most), "{what}: {total}");
                }
            }
        }
    }

    #[test]
    fn small_runs_share_a_file_and_the_first_of_them_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget {
            max_size: 10 << 20,
            max_files: 5,
        };
        for run in 1..=300 {
            write(&mut writer(dir.path(), run, budget), &format!("run {run}"));
        }
        let kept = kept(dir.path());
        assert_eq!(kept.len(), 300);
        assert_eq!(kept[0], (1, "run 1".to_owned()));
        assert_eq!(kept[299], (300, "run 300".to_owned()));
        assert_eq!(paths(dir.path()).len(), 1);
    }

    #[test]
    fn whatever_others_do_to_the_files_the_next_record_is_where_it_is_looked_for() {
        fn newest(dir: &Path) -> PathBuf {
            paths(dir).pop().unwrap()
        }
        type Tampering = fn(&Path);
        let table: [(&str, Tampering); 8] = [
            ("removed", |dir| fs::remove_file(newest(dir)).unwrap()),
            ("moved", |dir| {
                fs::rename(newest(dir), dir.with_extension("old")).unwrap()
            }),
            ("cut", |dir| fs::write(newest(dir), "").unwrap()),
            ("cut within a record", |dir| {
                let file = fs::OpenOptions::new().write(true).open(newest(dir));
                file.unwrap().set_len(55).unwrap();
            }),
            ("written anew", |dir| {
                let text = fs::read(newest(dir)).unwrap();
                fs::remove_file(newest(dir)).unwrap();
                fs::write(dir.join("000007-000001.log"), text).unwrap();
            }),
            ("grown", |dir| {
                let mut file = fs::OpenOptions::new()
                    .append(true)
                    .open(newest(dir))
                    .unwrap();
                file.write_all(b"a note of the operator").unwrap();
            }),
            ("folder removed", |dir| fs::remove_dir_all(dir).unwrap()),
            ("all folders removed", |dir| {
                fs::remove_dir_all(dir.parent().unwrap()).unwrap()
            }),
        ];
        let budget = Budget {
            max_size: 10 << 20,
            max_files: 5,
        };
        for (what, tamper) in table {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("logs/a/0");
            let mut writer = writer(&dir, 7, budget);
            for open in [true, false] {
                write(&mut writer, "before");
                if !open {
                    writer.close();
                }
                tamper(&dir);
                write(&mut writer, "after");
                write(&mut writer, "more");
                let kept = kept(&dir);
                let wanted = [(7, "after".to_owned()), (7, "more".to_owned())];
                assert!(kept.ends_with(&wanted), "{what}, open: {open}: {kept:?}");
            }
        }
    }

    #[test]
    fn a_folder_that_was_moved_is_left_at_the_next_look() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("logs/a/0");
        let mut writer = writer(&dir, 7, BUDGET);
        write(&mut writer, "before");
        fs::rename(root.path().join("logs"), root.path().join("away")).unwrap();
        writer.look_around();
        write(&mut writer, "after");
        assert_eq!(kept(&dir), [(7, "after".to_owned())]);
    }

    #[test]
    fn what_is_locked_is_somebody_elses_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, BUDGET);
        write(&mut first, "first");
        let mut second = writer(dir.path(), 2, BUDGET);
        write(&mut second, "second");
        write(&mut first, "more");
        let mut kept = kept(dir.path());
        kept.sort();
        let wanted = [(1, "first"), (1, "more"), (2, "second")];
        assert_eq!(kept, wanted.map(|(run, text)| (run, text.to_owned())));
    }

    #[test]
    fn files_sort_as_they_were_written_also_after_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        for run in [9, 3, 10, 2] {
            let long = format!("{run}").repeat(60);
            write(&mut writer(dir.path(), run, BUDGET), &long);
        }
        let runs: Vec<u64> = kept(dir.path()).iter().map(|(run, _)| *run).collect();
        assert_eq!(runs, [9, 3, 10, 2]);
    }

    #[test]
    fn strangers_in_the_folder_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), vec![0; 10_000]).unwrap();
        let mut writer = writer(dir.path(), 1, BUDGET);
        for line in 0..200 {
            write(&mut writer, &format!("line {line}"));
        }
        assert!(dir.path().join("notes.txt").exists());
        assert!(kept(dir.path()).len() > 10);
    }
}
