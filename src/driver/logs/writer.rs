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

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawDir, Stat, flock, fstat, statat};
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
    id: (u64, u64),
    size: u64,
}

impl Left {
    fn is_still(&self, stat: &Stat) -> bool {
        self.id == id(stat) && self.size == size(stat)
    }
}

/// Device and inode.
fn id(stat: &Stat) -> (u64, u64) {
    // Their types differ between machines.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    (stat.st_dev as u64, stat.st_ino as u64)
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
            id: id(&stat),
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
        if !matches!((there, ours), (Ok(there), Ok(ours)) if id(&there) == id(&ours)) {
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
            id: id(&stat),
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
            id: id(&stat),
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
