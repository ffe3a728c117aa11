//! How log files are named.

/// The name of a log file: which run, which file of it.
pub(in crate::driver) struct FileName(pub(in crate::driver) (u64, u64));

impl FileName {
    /// Reads a name; `None` = not one of ours.
    pub(in crate::driver) fn parse(name: &[u8]) -> Option<Self> {
        let stem = str::from_utf8(name).ok()?.strip_suffix(".log")?;
        let (incarnation, sequence) = stem.split_once('-')?;
        Some(Self((incarnation.parse().ok()?, sequence.parse().ok()?)))
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:06}-{:06}.log", self.0.0, self.0.1)
    }
}
