//! Which file of a lake holds which ledger, and what it is called.

use std::num::NonZeroU32;

/// The endings a ledger file may have: older writers spelled the compression out.
pub const EXTENSIONS: [&str; 2] = [".xdr.zstd", ".xdr.zst"];

/// How many ledgers go into a file and how many files into a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Ledgers in one file.
    pub ledgers_per_file: NonZeroU32,
    /// Files in one folder; 1 means that there are no folders.
    pub files_per_partition: NonZeroU32,
}

/// The ledgers of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first.
    pub first: u32,
    /// The last, inclusive.
    pub last: u32,
}

impl Layout {
    /// A layout of `ledgers_per_file` and `files_per_partition`; `None` when one is zero.
    pub fn new(ledgers_per_file: u32, files_per_partition: u32) -> Option<Self> {
        Some(Self {
            ledgers_per_file: NonZeroU32::new(ledgers_per_file)?,
            files_per_partition: NonZeroU32::new(files_per_partition)?,
        })
    }

    /// The file that holds `ledger`. Boundaries are multiples of the size, counted from 0.
    pub fn file_of(self, ledger: u32) -> Span {
        span(ledger, self.ledgers_per_file)
    }

    /// The name of `file` in the lake, without its ending.
    pub fn key(self, file: Span) -> String {
        let name = if self.ledgers_per_file.get() == 1 {
            format!("{:08X}--{}", u32::MAX - file.first, file.first)
        } else {
            format!(
                "{:08X}--{}-{}",
                u32::MAX - file.first,
                file.first,
                file.last
            )
        };
        if self.files_per_partition.get() == 1 {
            return name;
        }
        let size = self
            .ledgers_per_file
            .saturating_mul(self.files_per_partition);
        let folder = span(file.first, size);
        format!(
            "{:08X}--{}-{}/{name}",
            u32::MAX - folder.first,
            folder.first,
            folder.last
        )
    }
}

/// The stretch of `size` ledgers that `ledger` lies in.
fn span(ledger: u32, size: NonZeroU32) -> Span {
    let first = ledger - ledger % size;
    Span {
        first,
        last: first.saturating_add(size.get() - 1),
    }
}

/// The ledgers that a file or folder is named for, or `None` when it is named otherwise.
pub fn parse(name: &str) -> Option<Span> {
    let stem = EXTENSIONS
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name);
    let (complement, rest) = stem.split_once("--")?;
    let complement = u32::from_str_radix(complement, 16).ok()?;
    let (first, last) = match rest.split_once('-') {
        Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
        None => {
            let only = rest.parse().ok()?;
            (only, only)
        }
    };
    (u32::MAX - complement == first && first <= last).then_some(Span { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ledgers: u32, files: u32, ledger: u32) -> String {
        let layout = Layout::new(ledgers, files).unwrap();
        layout.key(layout.file_of(ledger))
    }

    #[test]
    fn files_are_named_as_published_lakes_name_them() {
        assert_eq!(key(1, 10, 27), "FFFFFFEB--20-29/FFFFFFE4--27");
        assert_eq!(key(1, 64_000, 2), "FFFFFFFF--0-63999/FFFFFFFD--2");
        assert_eq!(key(64, 10, 700), "FFFFFD7F--640-1279/FFFFFD7F--640-703");
        assert_eq!(key(1, 1, 5), "FFFFFFFA--5");
    }

    #[test]
    fn a_name_tells_its_ledgers_and_foreign_names_tell_nothing() {
        assert_eq!(
            parse("FFFFFFE4--27.xdr.zstd"),
            Some(Span {
                first: 27,
                last: 27
            })
        );
        assert_eq!(
            parse("FFFFFFEB--20-29"),
            Some(Span {
                first: 20,
                last: 29
            })
        );
        assert_eq!(
            parse("FFFFFFE4--27.xdr.zst"),
            Some(Span {
                first: 27,
                last: 27
            })
        );
        for foreign in [
            "manifest.json",
            ".config.json",
            "FFFFFFE4--28.xdr.zstd",
            "FFFFFFE4--27.tmp",
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
