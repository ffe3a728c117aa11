//! How log files are named.

use std::ffi::CStr;
use std::io::Write as _;

/// Run that began a log file, and which file of it; ordered as they were written.
pub(in crate::driver) type Name = (u64, u64);

/// The name of a log file.
pub(in crate::driver) struct FileName(pub(in crate::driver) Name);

impl FileName {
    /// Reads a name; `None` = not one of ours.
    pub(in crate::driver) fn parse(name: &[u8]) -> Option<Self> {
        let stem = str::from_utf8(name).ok()?.strip_suffix(".log")?;
        let (incarnation, sequence) = stem.split_once('-')?;
        Some(Self((incarnation.parse().ok()?, sequence.parse().ok()?)))
    }

    /// The name as a path, without a heap.
    pub(super) fn path(&self) -> NamePath {
        // Two numbers of at most 20 digits each, `-` and `.log`, and the zero that ends it.
        let mut path = NamePath([0; 48]);
        let written = write!(&mut path.0[..47], "{self}");
        debug_assert!(written.is_ok(), "a name has at most 45 bytes");
        path
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:06}-{:06}.log", self.0.0, self.0.1)
    }
}

/// A name on the stack.
pub(super) struct NamePath([u8; 48]);

impl NamePath {
    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for name in [(1, 2), (1_796_071_075_290, 1), (u64::MAX, u64::MAX)] {
            let path = FileName(name).path();
            let read = FileName::parse(path.as_c_str().to_bytes());
            assert_eq!(read.map(|read| read.0), Some(name));
        }
        for foreign in ["notes.txt", "1-2.log.1", "x-1.log", "1.log", "1-2.log.gz"] {
            assert!(FileName::parse(foreign.as_bytes()).is_none(), "{foreign}");
        }
    }
}
