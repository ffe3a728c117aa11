//! Writing a synthetic lake: its ledger files, its description, and the events it holds.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use stellar_xdr::LedgerCloseMetaBatch;

use super::{encode, script, world};
use crate::lake::layout::EXTENSIONS;
use crate::lake::{Layout, batch};

/// What kind of lake to make.
#[derive(Debug, Clone, Copy)]
pub struct LakePlan {
    /// The first ledger.
    pub first: u32,
    /// The last ledger.
    pub last: u32,
    /// How the files are laid out.
    pub layout: Layout,
    /// How long to wait between two files, for a lake that grows before one's eyes.
    pub pace: Duration,
}

/// Why a lake could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A ledger could not be encoded.
    #[error("ledger {ledger}: {reason}")]
    Encode {
        /// The first ledger of the file.
        ledger: u32,
        /// What is wrong.
        reason: String,
    },
}

/// The name of the file that holds the expected events.
pub const MANIFEST: &str = "manifest.json";

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Ledgers written.
    pub ledgers: u32,
    /// Events in them.
    pub events: u64,
}

impl LakePlan {
    /// Ledgers 2 to `ledgers + 1`, one a file, ten files a folder, at once.
    pub fn of(ledgers: u32) -> Self {
        let layout = Layout::new(1, 10).expect("neither is zero");
        Self {
            first: 2,
            last: 1 + ledgers,
            layout,
            pace: Duration::ZERO,
        }
    }

    /// The ledger with which the synthetic network goes from protocol 22 to 23: half-way.
    fn upgrade(&self) -> u32 {
        self.first + (self.last - self.first) / 2
    }

    /// Makes the lake in `directory`.
    ///
    /// # Errors
    /// Writing or encoding failed.
    pub fn make(&self, directory: &Path) -> Result<Made, MakeError> {
        let events = self.begin(directory)?;
        let ledgers = self.add(directory, self.first..=self.last)?;
        Ok(Made { ledgers, events })
    }

    /// Writes what the lake says of itself, and the events expected of all its ledgers, so that
    /// whoever watches the lake grow knows already where it leads; answers how many events.
    ///
    /// # Errors
    /// Writing failed.
    pub fn begin(&self, directory: &Path) -> Result<u64, MakeError> {
        let io = |path: &Path, error| MakeError::Io {
            path: path.to_owned(),
            error,
        };
        fs::create_dir_all(directory).map_err(|error| io(directory, error))?;
        let path = directory.join(".config.json");
        fs::write(&path, self.describe()).map_err(|error| io(&path, error))?;
        let path = directory.join(MANIFEST);
        self.write_manifest(&path).map_err(|error| io(&path, error))
    }

    /// Writes those of `ledgers` whose files they fill, each at its pace; answers how many.
    ///
    /// # Errors
    /// Writing or encoding failed.
    pub fn add(&self, directory: &Path, ledgers: RangeInclusive<u32>) -> Result<u32, MakeError> {
        let (begin, end) = (*ledgers.start(), *ledgers.end());
        let mut first = begin;
        while first <= end {
            let span = self.layout.file_of(first);
            // A file is whole or not there: the last one may be short of ledgers.
            if end < span.last {
                break;
            }
            self.write_file(directory, first, span.last)?;
            if !self.pace.is_zero() {
                std::thread::sleep(self.pace);
            }
            first = span.last + 1;
        }
        Ok(first - begin)
    }

    fn describe(&self) -> String {
        let description = json!({
            "networkPassphrase": world::PASSPHRASE,
            "version": "1.0",
            "compression": "zstd",
            "ledgersPerBatch": self.layout.ledgers_per_file,
            "batchesPerPartition": self.layout.files_per_partition,
        });
        format!("{description:#}\n")
    }

    /// Writes `{"events": [..]}`, with the keys of the consumer's output, one event a line.
    fn write_manifest(&self, path: &Path) -> io::Result<u64> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut count = 0;
        write!(
            file,
            "{{\"first\":{},\"last\":{},\"events\":[",
            self.first, self.last
        )?;
        for sequence in self.first..=self.last {
            for event in encode::ledger(&script::scene(sequence, self.upgrade())).events {
                file.write_all(if count == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut file, &event)?;
                count += 1;
            }
        }
        file.write_all(b"\n]}\n")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(count)
    }

    /// Writes one file aside and moves it into place, as readers of a growing lake need it.
    fn write_file(&self, directory: &Path, first: u32, last: u32) -> Result<(), MakeError> {
        let encode = |reason| MakeError::Encode {
            ledger: first,
            reason,
        };
        let ledgers = (first..=last)
            .map(|sequence| encode::ledger(&script::scene(sequence, self.upgrade())).ledger);
        let ledgers: Vec<_> = ledgers.collect();
        let file = batch::encode(&LedgerCloseMetaBatch {
            start_sequence: first,
            end_sequence: last,
            ledger_close_metas: ledgers
                .try_into()
                .map_err(|error: stellar_xdr::Error| encode(error.to_string()))?,
        });
        let file = file.map_err(encode)?;
        let key = self.layout.key(self.layout.file_of(first));
        let path = directory.join(format!("{key}{}", EXTENSIONS[0]));
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let aside = path.with_extension("new");
            fs::write(&aside, &file)?;
            fs::rename(&aside, &path)
        };
        write().map_err(|error| MakeError::Io {
            path: path.clone(),
            error,
        })
    }
}
