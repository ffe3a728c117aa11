//! The output file and the checkpoint beside it: together they make every event appear exactly once,
//! however often and wherever the program is killed.
//!
//! Lines are appended first; then a checkpoint that covers them replaces the one before, in one
//! step (written aside, synced, renamed). On start the output is cut back to what the checkpoint
//! covers, and the events after it are asked for again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::Record;

/// How much may wait for a commit. One takes about as long for little as for much.
pub const COMMIT_BYTES: usize = 4 << 20;

/// How far the output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The ledger of the last event; 0 before the first one.
    pub ledger: u32,
    /// How many events of that ledger are written.
    pub events_of_ledger: u32,
    /// How many events are written in all.
    pub events: u64,
    /// The length of the output in bytes.
    pub bytes: u64,
    /// Whether every event of the range that was asked for is written, up to this last ledger.
    #[serde(default)]
    pub complete_to: Option<u32>,
}

/// Why the output can't be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another consumer writes the same output.
    #[error("{0} is written by another process; give each consumer an OUTPUT_FILE of its own")]
    Taken(PathBuf),
    /// The output is shorter than what was acknowledged as written.
    #[error(
        "{path} has {found} bytes and its checkpoint says {expected}: somebody cut it; \
         restore it, or remove it and its checkpoint to begin anew"
    )]
    Cut {
        /// The output.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it should have at least.
        expected: u64,
    },
    /// The checkpoint can't be understood.
    #[error(
        "the checkpoint {path} can't be read: {reason}; remove it and the output to begin anew"
    )]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The output, open for more.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: File,
    waiting: Vec<u8>,
    /// What the checkpoint on disk says.
    kept: Checkpoint,
    /// The same with what waits to be written.
    reached: Checkpoint,
}

impl Output {
    /// Opens the output at `path`, cut back to its checkpoint. Only one process at a time may.
    ///
    /// # Errors
    /// It is taken, was tampered with, or can't be read or written.
    pub fn open(path: &Path) -> Result<Self, OutputError> {
        let io = |error| OutputError::Io {
            path: path.to_owned(),
            error,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutputError::Taken(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let kept = read_checkpoint(&beside(path))?.unwrap_or_default();
        let found = file.metadata().map_err(io)?.len();
        if found < kept.bytes {
            let expected = kept.bytes;
            return Err(OutputError::Cut {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        file.set_len(kept.bytes).map_err(io)?;
        file.seek(SeekFrom::Start(kept.bytes)).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            waiting: Vec::new(),
            kept,
            reached: kept,
        })
    }

    /// How far the output goes, with what waits to be written.
    pub fn reached(&self) -> Checkpoint {
        self.reached
    }

    /// Whether something waits to be written.
    pub fn dirty(&self) -> bool {
        self.reached != self.kept
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Adds an event, to be written with the next commit.
    ///
    /// # Panics
    /// Never: a record can always be written as JSON.
    pub fn add(&mut self, record: &Record) {
        let before = self.waiting.len();
        serde_json::to_writer(&mut self.waiting, record).expect("a record is plain data");
        self.waiting.push(b'\n');
        let reached = &mut self.reached;
        reached.events_of_ledger = record.index + 1;
        reached.ledger = record.ledger;
        reached.events += 1;
        reached.bytes += (self.waiting.len() - before) as u64;
    }

    /// Notes that the range that was asked for ends with ledger `end`, and is complete.
    pub fn complete(&mut self, end: u32) {
        self.reached.complete_to = Some(end);
    }

    /// Writes what waits, then the checkpoint that covers it. When this returns, a kill or a power
    /// cut loses none of it.
    ///
    /// # Errors
    /// Writing failed. What was committed before is intact.
    pub fn commit(&mut self) -> Result<(), OutputError> {
        if !self.dirty() {
            return Ok(());
        }
        let io = |error| OutputError::Io {
            path: self.path.clone(),
            error,
        };
        self.file.write_all(&self.waiting).map_err(io)?;
        self.file.sync_data().map_err(io)?;
        self.waiting.clear();
        write_checkpoint(&beside(&self.path), &self.reached)?;
        self.kept = self.reached;
        Ok(())
    }
}

/// The checkpoint of the output at `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".checkpoint");
    name.into()
}

fn read_checkpoint(path: &Path) -> Result<Option<Checkpoint>, OutputError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(OutputError::Io {
                path: path.to_owned(),
                error,
            });
        }
    };
    let unclear = |error: serde_json::Error| OutputError::Checkpoint {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    serde_json::from_slice(&text).map(Some).map_err(unclear)
}

fn write_checkpoint(path: &Path, checkpoint: &Checkpoint) -> Result<(), OutputError> {
    let aside = path.with_extension("checkpoint.new");
    let write = || {
        let mut file = File::create(&aside)?;
        serde_json::to_writer(&mut file, checkpoint)?;
        file.sync_data()?;
        fs::rename(&aside, path)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_data()
    };
    write().map_err(|error| OutputError::Io {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::Kind;
    use super::*;

    fn record(ledger: u32, index: u32) -> Record {
        Record {
            ledger,
            index,
            closed_at: 1,
            tx_hash: "ab".to_owned(),
            transaction_index: 1,
            operation_index: None,
            contract_address: "C".to_owned(),
            kind: Kind::Fee,
            from: Some("G".to_owned()),
            to: None,
            asset: None,
            amount: "100".to_owned(),
            to_muxed: None,
        }
    }

    fn lines(path: &Path) -> usize {
        fs::read_to_string(path).unwrap().lines().count()
    }

    #[test]
    fn what_no_checkpoint_covers_is_cut_off_and_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let mut output = Output::open(&path).unwrap();
        output.add(&record(2, 0));
        output.add(&record(2, 1));
        output.commit().unwrap();
        // A kill between the lines and their checkpoint.
        output
            .file
            .write_all(b"{\"ledger\":2,\"index\":2}\n{\"led")
            .unwrap();
        drop(output);

        let mut output = Output::open(&path).unwrap();
        assert_eq!(lines(&path), 2);
        assert_eq!(
            (output.reached().ledger, output.reached().events_of_ledger),
            (2, 2)
        );
        output.add(&record(3, 0));
        output.commit().unwrap();
        assert_eq!(lines(&path), 3);
    }

    #[test]
    fn an_output_shorter_than_its_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let mut output = Output::open(&path).unwrap();
        output.add(&record(2, 0));
        output.commit().unwrap();
        drop(output);
        fs::write(&path, "").unwrap();
        assert!(matches!(
            Output::open(&path),
            Err(OutputError::Cut { found: 0, .. })
        ));
    }

    #[test]
    fn two_consumers_never_write_one_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        let _first = Output::open(&path).unwrap();
        assert!(matches!(Output::open(&path), Err(OutputError::Taken(_))));
    }
}
