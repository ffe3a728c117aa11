//! The flowctl of this checkout, beside the programs of this build.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The flowctl that lies in `folder`, built anew unless it is newer than what it is made of. Cargo is
/// not asked about that: on its own it may choose other features of what flowctl depends on than for
/// the whole workspace, and then builds for minutes what is there.
pub fn flowctl(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = folder.join("flowctl");
    let sources = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];
    let newest = sources.map(|source| newest(&root.join(source)).expect("sources can be read"));
    let built = fs::metadata(&program).and_then(|file| file.modified());
    if built.is_ok_and(|built| newest.iter().all(|source| *source < built)) {
        return program;
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--bin", "flowctl"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    let done = build.current_dir(root).status();
    let done = done.expect("cargo runs, since it built this");
    assert!(done.success(), "flowctl does not build");
    program
}

/// When a file, or the latest file of a folder, was changed.
fn newest(path: &Path) -> io::Result<SystemTime> {
    let file = fs::metadata(path)?;
    let mut newest = file.modified()?;
    if file.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}
