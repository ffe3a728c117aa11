//! Programs, folders and files that a component needs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::account::Account;

/// Where programs are looked up when the daemon has no PATH.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel reads so much of a `#!` line.
const SHEBANG_LIMIT: u64 = 256;

/// What is wrong with something, as the end of a sentence, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) hint: &'static str,
}

impl Trouble {
    pub(super) fn new(what: impl Into<String>, hint: &'static str) -> Self {
        let what = what.into();
        Self { what, hint }
    }

    fn of(error: &io::Error, hint: &'static str) -> Self {
        if error.kind() == ErrorKind::NotFound {
            Self::new("does not exist", hint)
        } else if error.kind() == ErrorKind::PermissionDenied {
            Self::new("may not be read", "change its permissions")
        } else {
            Self::new(format!("cannot be read: {error}"), hint)
        }
    }
}

/// A folder that a component can be started in.
pub(super) fn folder(path: &Path, account: &Account) -> Result<(), Trouble> {
    let hint = "create it, or correct `working_dir`";
    match fs::metadata(path) {
        Err(error) => Err(Trouble::of(&error, hint)),
        Ok(it) if !it.is_dir() => Err(Trouble::new("is not a directory", hint)),
        Ok(_) if !account.may(path, Access::EXEC_OK) => Err(Trouble::new(
            "may not be entered by the component's user",
            "change its permissions",
        )),
        Ok(_) => Ok(()),
    }
}

/// A file that the daemon reads.
pub(super) fn readable(path: &Path) -> Result<(), Trouble> {
    let hint = "create it, or correct its path";
    match fs::metadata(path) {
        Ok(it) if it.is_dir() => Err(Trouble::new("is a directory", hint)),
        // Opening a pipe would wait for its writer.
        Ok(it) if !it.is_file() => Ok(()),
        Ok(_) => File::open(path)
            .map(drop)
            .map_err(|e| Trouble::of(&e, hint)),
        Err(error) => Err(Trouble::of(&error, hint)),
    }
}

/// The PATH that a file of `NAME=value` lines sets, if it does.
pub(super) fn env_file_path(path: &Path) -> Result<Option<String>, Trouble> {
    readable(path)?;
    if !fs::metadata(path).is_ok_and(|it| it.is_file()) {
        return Ok(None);
    }
    let hint = "write it as UTF-8 lines of NAME=value";
    let text = fs::read_to_string(path).map_err(|error| Trouble::of(&error, hint))?;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        let line = line.strip_prefix("export ").unwrap_or(line);
        if let Some((name, value)) = line.split_once('=')
            && name.trim() == "PATH"
        {
            found = Some(value.trim().trim_matches(['"', '\'']).to_owned());
        }
    }
    Ok(found)
}

/// A program that `account` can execute: `program` itself when it is a path, else the first of
/// `path`, both meant from `working_dir`.
pub(super) fn program(
    program: &str,
    path: &OsStr,
    working_dir: &Path,
    account: &Account,
) -> Result<(), Trouble> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![working_dir.join(program)]
    } else {
        let folders = path.as_bytes().split(|byte| *byte == b':');
        // An empty entry means the working directory, as for a shell.
        folders
            .map(|folder| working_dir.join(OsStr::from_bytes(folder)).join(program))
            .collect()
    };
    let mut unfit = None;
    for candidate in &candidates {
        match fs::metadata(candidate) {
            Ok(it) if it.is_dir() => unfit = unfit.or(Some((candidate, "is a directory"))),
            Ok(_) if !account.may(candidate, Access::EXEC_OK) => {
                unfit = unfit.or(Some((candidate, "may not be executed")));
            }
            Ok(_) => return interpreter(candidate),
            Err(_) => {}
        }
    }
    Err(match unfit {
        Some((path, why)) => {
            let hint = match why {
                "is a directory" => "name a program",
                _ => "chmod +x it, or give its user the right to",
            };
            Trouble::new(format!("{why} ({})", path.display()), hint)
        }
        None if program.contains('/') => Trouble::new(
            "does not exist",
            "build or install it, or correct its path (relative ones are meant from working_dir)",
        ),
        None => Trouble::new(
            format!("is not in PATH ({})", path.to_string_lossy()),
            "install it, write its full path, or set PATH in the component's env",
        ),
    })
}

/// Whether what the first line of a script names is there.
fn interpreter(script: &Path) -> Result<(), Trouble> {
    let mut start = Vec::new();
    let read = File::open(script).and_then(|file| file.take(SHEBANG_LIMIT).read_to_end(&mut start));
    // A program that may be executed and not read is no script that the kernel could run.
    let (Ok(_), Some(line)) = (read, start.strip_prefix(b"#!")) else {
        return Ok(());
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
    let name = line
        .trim_ascii_start()
        .split(|byte| *byte == b' ' || *byte == b'\t')
        .next()
        .unwrap_or_default();
    if let Some(bare) = name.strip_suffix(b"\r") {
        let what = format!(
            "is a script with Windows line ends, so its interpreter {} is not found",
            String::from_utf8_lossy(bare)
        );
        return Err(Trouble::new(what, "save it with Unix line ends"));
    }
    if name.starts_with(b"/") && !Path::new(OsStr::from_bytes(name)).exists() {
        let shown = String::from_utf8_lossy(name);
        let what = format!("is a script whose interpreter {shown} does not exist");
        return Err(Trouble::new(
            what,
            "install it, or correct the script's first line",
        ));
    }
    Ok(())
}
