//! Where we are, and which state directory is meant.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::exit::Failure;
use super::text::shown;
use super::unit;
use crate::api::{ApiError, ErrorCode};

/// The file that marks a folder as flowctl's.
pub const MARKER: &str = ".flowctl";

/// What is in every state directory that was used.
const STORE: &str = "store";

/// What decides, in this order of weight. The option and its variable are one: clap joins them.
pub struct Clues {
    /// `--state-dir` or `$FLOWCTL_STATE_DIR`.
    pub given: Option<PathBuf>,
    /// Where we are; `None` = in a folder that was removed.
    pub here: Option<PathBuf>,
    /// The state directory of the host's service, where this user may look into it.
    pub host: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `$HOME`.
    pub home: Option<OsString>,
}

impl Clues {
    /// The clues of this process.
    pub fn of_this_process(given: Option<PathBuf>) -> Self {
        Self {
            given,
            here: here().ok(),
            host: Some(PathBuf::from(unit::STATE)).filter(|dir| dir.join(STORE).exists()),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
        }
    }

    /// The state directory, absolute; it need not be there yet.
    ///
    /// # Errors
    /// When nothing tells, a folder is needed that was removed, or the name is not UTF-8: it is told
    /// to components, by the text of a variable.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.whichever()?;
        if dir.to_str().is_some() {
            return Ok(dir);
        }
        Err(Failure::Told(
            ApiError::new(
                ErrorCode::Refused,
                format!(
                    "the state directory {} has a name that is not UTF-8, and components are told \
                     of it in variables, which are text",
                    shown(&dir)
                ),
            )
            .with_hint("name another one by --state-dir or $FLOWCTL_STATE_DIR"),
        ))
    }

    fn whichever(&self) -> Result<PathBuf, Failure> {
        if let Some(given) = self
            .given
            .as_ref()
            .filter(|dir| !dir.as_os_str().is_empty())
        {
            if given.is_absolute() {
                return Ok(given.clone());
            }
            let homeless = || Failure::Homeless {
                path: given.clone(),
            };
            return Ok(self.here.as_ref().ok_or_else(homeless)?.join(given));
        }
        let marked = self.here.as_ref().map(|here| here.join("state"));
        if let Some(marked) = marked.filter(|dir| dir.join(MARKER).exists()) {
            return Ok(marked);
        }
        if let Some(host) = &self.host {
            return Ok(host.clone());
        }
        // A relative XDG variable is invalid and to be ignored, says its specification.
        let absolute = |value: &Option<OsString>| {
            value
                .as_ref()
                .map(Path::new)
                .filter(|path| path.is_absolute())
                .map(Path::to_path_buf)
        };
        absolute(&self.xdg_state_home)
            .or_else(|| absolute(&self.home).map(|home| home.join(".local/state")))
            .map(|base| base.join("flowctl"))
            .ok_or_else(|| {
                Failure::Usage(
                    "where is the state kept? neither --state-dir nor $XDG_STATE_HOME nor $HOME \
                     tells"
                        .to_owned(),
                )
            })
    }
}

/// The working directory, by the name by which the shell came here: what is kept of a name that was
/// given in it goes through the links in it anew each time.
///
/// # Errors
/// When it was removed.
pub fn here() -> io::Result<PathBuf> {
    let shell = std::env::var_os("PWD").map(PathBuf::from);
    let resolved = std::env::current_dir()?;
    Ok(shell
        .filter(|shell| is_plain(shell) && is_same_folder(shell, &resolved))
        .unwrap_or(resolved))
}

/// Whether a path is absolute and without `.` and `..`.
fn is_plain(path: &Path) -> bool {
    let dots = |name: &&[u8]| *name == b"." || *name == b"..";
    let mut names = path
        .as_os_str()
        .as_encoded_bytes()
        .split(|byte| *byte == b'/');
    path.is_absolute() && !names.any(|name| dots(&name))
}

fn is_same_folder(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    id(one).is_some_and(|found| Some(found) == id(other))
}

/// `path` from the root, as it was given: links in it stay links, so that what they mean is asked
/// each time that the path is used. Of `..` only those go that lead back from no link.
///
/// # Errors
/// When it is relative and the working directory was removed.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let whole = if path.is_absolute() {
        path.to_path_buf()
    } else {
        let homeless = |_| Failure::Homeless {
            path: path.to_path_buf(),
        };
        here().map_err(homeless)?.join(path)
    };
    let mut at = PathBuf::from("/");
    for component in whole.components() {
        match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::Normal(name) => at.push(name),
            // The parent of what a link leads to is not the folder that the link is in.
            Component::ParentDir if at.is_symlink() || at.ends_with("..") => at.push(".."),
            Component::ParentDir => {
                at.pop();
            }
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn clues(here: &Path) -> Clues {
        Clues {
            given: None,
            here: Some(here.to_path_buf()),
            host: None,
            xdg_state_home: Some("/xdg".into()),
            home: Some("/home/u".into()),
        }
    }

    #[test]
    fn the_option_wins_then_the_marked_folder_then_the_host_s_then_the_user_s_own() {
        let here = tempfile::tempdir().unwrap();
        let mut clues = clues(here.path());
        assert_eq!(clues.state_dir().unwrap(), Path::new("/xdg/flowctl"));
        clues.xdg_state_home = Some("relative".into());
        assert_eq!(
            clues.state_dir().unwrap(),
            Path::new("/home/u/.local/state/flowctl")
        );
        let state = here.path().join("state");
        std::fs::create_dir(&state).unwrap();
        assert_ne!(clues.state_dir().unwrap(), state, "it is not marked");
        clues.host = Some("/var/lib/flowctl".into());
        assert_eq!(clues.state_dir().unwrap(), Path::new("/var/lib/flowctl"));
        std::fs::write(state.join(MARKER), "").unwrap();
        assert_eq!(clues.state_dir().unwrap(), state);
        clues.given = Some("elsewhere".into());
        assert_eq!(clues.state_dir().unwrap(), here.path().join("elsewhere"));
    }

    #[test]
    fn without_any_clue_it_says_what_is_missing() {
        let mut clues = clues(Path::new("/nowhere"));
        (clues.xdg_state_home, clues.home) = (None, None);
        assert!(clues.state_dir().is_err());
    }

    #[test]
    fn a_folder_that_was_removed_is_missed_only_where_it_is_needed() {
        let mut clues = clues(Path::new("/nowhere"));
        clues.here = None;
        assert_eq!(clues.state_dir().unwrap(), Path::new("/xdg/flowctl"));
        clues.given = Some("/srv/state".into());
        assert_eq!(clues.state_dir().unwrap(), Path::new("/srv/state"));
        clues.given = Some("state".into());
        let error = clues.state_dir().unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("removed"), "{error}");
    }

    #[test]
    fn a_state_directory_that_is_not_text_is_refused_by_name() {
        let mut clues = clues(Path::new("/nowhere"));
        clues.given = Some(OsStr::from_bytes(b"/srv/caf\xe9").into());
        let error = clues.state_dir().unwrap_err();
        assert_eq!(error.exit(), Exit::Refused);
        assert!(error.to_string().contains(r"$'/srv/caf\351'"), "{error}");
    }

    #[test]
    fn a_name_stays_as_it_was_given_but_for_what_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/deep")).unwrap();
        symlink("real/deep", root.join("link")).unwrap();
        for (given, kept) in [
            ("link/p.yaml", "link/p.yaml"),
            ("./link//./p.yaml", "link/p.yaml"),
            ("real/../link/p.yaml", "link/p.yaml"),
            ("link/../p.yaml", "link/../p.yaml"),
            ("link/../../p.yaml", "link/../../p.yaml"),
            ("none/../p.yaml", "p.yaml"),
        ] {
            assert_eq!(absolute(&root.join(given)).unwrap(), root.join(kept));
        }
    }
}
