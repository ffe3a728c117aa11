//! What the program of a running instance found around it, for a person who runs another one beside
//! it.
//!
//! **Guarantees.** It is read from the process itself, so it is what the program was given, and not
//! what it would be given now. A process that does not bear the mark of the instance is never taken
//! for it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::model::InstanceId;

use super::environment::{MARK, MARK_FILE};

/// Variables, folder and user of a running program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// All variables, in the order in which it was given them.
    pub variables: Vec<(OsString, OsString)>,
    /// Where it works.
    pub working_dir: PathBuf,
    /// Whom it runs as.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
    /// Permission bits that its files are created without.
    pub umask: u32,
}

/// Why nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// The kernel does not show it.
    #[error("its process {pid} cannot be looked into: {source}")]
    Closed {
        /// Which process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// It has written over what it was given, or has just ended.
    #[error("its process {pid} no longer shows the variables that it was given")]
    Unmarked {
        /// Which process.
        pid: u32,
    },
}

/// What the program of `instance`, which runs as process `pid`, found around it.
///
/// # Errors
/// When the process may not be looked into, or is not that instance.
pub fn around(pid: u32, instance: &InstanceId) -> Result<Around, Unknown> {
    let closed = |source| Unknown::Closed { pid, source };
    let place = PathBuf::from(format!("/proc/{pid}"));
    let mut variables = variables(&fs::read(place.join("environ")).map_err(closed)?);
    let mark = instance.to_string();
    let is_marked = |(name, value): &(OsString, OsString)| name == MARK && *value == *mark;
    if !variables.iter().any(is_marked) {
        return Err(Unknown::Unmarked { pid });
    }
    // What bears the marks is the component's: it would end with it.
    variables.retain(|(name, _)| name != MARK && name != MARK_FILE);
    let status = fs::read_to_string(place.join("status")).map_err(closed)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| {
            line.split_whitespace()
                .nth(1)
                .or(line.split_whitespace().next())
        })
        .map(str::to_owned)
        .ok_or_else(|| closed(io::Error::other(format!("its status has no `{name}`"))))
    };
    let number = |text: String, radix| {
        u32::from_str_radix(&text, radix).map_err(|error| closed(io::Error::other(error)))
    };
    Ok(Around {
        variables,
        working_dir: fs::read_link(place.join("cwd")).map_err(closed)?,
        // The effective ones come second.
        uid: number(field("Uid:")?, 10)?,
        gid: number(field("Gid:")?, 10)?,
        umask: number(field("Umask:")?, 8)?,
    })
}

fn variables(text: &[u8]) -> Vec<(OsString, OsString)> {
    let pairs = text
        .split(|byte| *byte == 0)
        .filter(|pair| !pair.is_empty());
    pairs
        .filter_map(|pair| {
            let equals = memchr::memchr(b'=', pair)?;
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            Some((
                OsStr::from_bytes(name).to_owned(),
                OsStr::from_bytes(value).to_owned(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_they_were_given() {
        let read = variables(b"A=1\0EMPTY=\0E=a=b\0broken\0");
        let pair = |name: &str, value: &str| (name.into(), value.into());
        assert_eq!(read, [pair("A", "1"), pair("EMPTY", ""), pair("E", "a=b")]);
    }

    #[test]
    fn a_process_without_the_mark_is_not_taken_for_the_instance() {
        let instance: InstanceId = "default.p.a.0.1".parse().unwrap();
        let found = around(std::process::id(), &instance);
        assert!(matches!(found, Err(Unknown::Unmarked { .. })), "{found:?}");
    }
}
