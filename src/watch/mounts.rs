//! Which file system a path lies on, found without asking that file system: it may hang.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What the kernel has mounted where, as this process sees it.
const TABLE: &str = "/proc/self/mountinfo";

/// Where the file system of the absolute `path` is mounted. Links are not followed, since that would
/// be asking: a linked file counts to where its link is.
pub(super) fn mount_of(path: &Path) -> PathBuf {
    match std::fs::read(TABLE) {
        Ok(table) => innermost(&table, path),
        Err(error) => {
            tracing::debug!(%error, "what is mounted is not known");
            PathBuf::from("/")
        }
    }
}

fn innermost(table: &[u8], path: &Path) -> PathBuf {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescaped)
        .filter(|mount| path.starts_with(mount))
        .max_by_key(|mount| mount.components().count())
        .unwrap_or_else(|| PathBuf::from("/"))
}

/// A path of the table, in which blanks and the like are a backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = match (first, behind.get(..3)) {
            (b'\\', Some(digits)) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok()),
            _ => None,
        };
        path.push(octal.unwrap_or(first));
        rest = if octal.is_some() {
            &behind[3..]
        } else {
            behind
        };
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_that_of_a_path() {
        let table = b"22 1 254:1 / / rw shared:1 - ext4 /dev/root rw\n\
            40 22 0:44 / /mnt/far\\040away rw - nfs4 host:/x rw\n\
            41 40 0:45 / /mnt/far\\040away/deep rw - tmpfs none rw\n";
        for (path, mount) in [
            ("/etc/p.yaml", "/"),
            ("/mnt/far awayness/p.yaml", "/"),
            ("/mnt/far away/p.yaml", "/mnt/far away"),
            ("/mnt/far away", "/mnt/far away"),
            ("/mnt/far away/deep/er/p.yaml", "/mnt/far away/deep"),
        ] {
            assert_eq!(
                innermost(table, Path::new(path)),
                Path::new(mount),
                "{path}"
            );
        }
        assert_eq!(innermost(b"", Path::new("/p.yaml")), Path::new("/"));
    }
}
