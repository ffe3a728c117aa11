//! Lakes of ledgers: files of zstd-compressed XDR batches, in a directory or a bucket, named after
//! the complement of their first ledger so that the newest sorts first (SEP-54).

pub mod batch;
pub mod layout;
pub mod open;
pub mod reader;
pub mod store;

use std::time::Duration;

pub use layout::Layout;
pub use open::LakeSettings;
pub use reader::Reader;
pub use store::Lake;

/// A ledger as the lake holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLedger {
    /// Its sequence number.
    pub sequence: u32,
    /// The XDR of its `LedgerCloseMeta`.
    pub xdr: bytes::Bytes,
}

/// Why a lake can't hand out a ledger.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum LakeError {
    /// The lake itself can't be read now; that may pass.
    #[error("the lake {lake} can't be read: {reason}")]
    Unreachable {
        /// The lake's location.
        lake: String,
        /// What the storage said.
        reason: String,
    },
    /// A file is missing although the lake holds later ones.
    #[error(
        "ledger {ledger} is missing: the lake {lake} has no file {key}, yet it reaches to ledger {tip}"
    )]
    Gap {
        /// The lake's location.
        lake: String,
        /// The first ledger of the missing file.
        ledger: u32,
        /// The file's name.
        key: String,
        /// The last ledger the lake holds.
        tip: u32,
    },
    /// A file is there but not what it should be.
    #[error("the file {key} is damaged: {reason}")]
    Damaged {
        /// The file's name.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Whoever reads the lake is about to end.
    #[error("the source is stopping")]
    Stopping,
    /// The lake's location or layout makes no sense.
    #[error("the lake {lake} can't be used: {reason}")]
    Unusable {
        /// The lake's location.
        lake: String,
        /// What is wrong.
        reason: String,
    },
}

/// How long a file may be missing while later ones exist before that counts as a gap: those who
/// write lakes upload several files at a time.
pub const GAP_GRACE: Duration = Duration::from_secs(3);
