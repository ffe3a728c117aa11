//! Places at which a test makes this program fail on purpose, as a defect of ours would.
//!
//! `FLOWCTL_FAILPOINTS` names a folder. A point is armed by a file of its name in it; whoever reaches
//! it removes the file and panics, once. Release builds have none of this.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The variable that names the folder.
const VARIABLE: &str = "FLOWCTL_FAILPOINTS";

/// Panics if a test has armed `point`.
///
/// # Panics
/// For a test that wants it, in a debug build.
pub fn reach(point: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let is_armed = |folder: &Path| std::fs::remove_file(folder.join(point)).is_ok();
    assert!(
        !folder.as_deref().is_some_and(is_armed),
        "a test wants {point} to fail"
    );
}
