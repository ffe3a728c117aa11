//! Which state directory is meant.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::exit::Failure;

/// The file that marks a folder as flowctl's.
pub const MARKER: &str = ".flowctl";

/// What decides, in this order of weight. The option and its variable are one: clap joins them.
pub struct Clues {
    /// `--state-dir` or `$FLOWCTL_STATE_DIR`.
    pub given: Option<PathBuf>,
    /// Where we are.
    pub here: PathBuf,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `$HOME`.
    pub home: Option<OsString>,
}

impl Clues {
    /// The clues of this process.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn of_this_process(given: Option<PathBuf>) -> Result<Self, Failure> {
        let here = std::env::current_dir().map_err(|source| Failure::File {
            operation: "find",
            path: PathBuf::from("."),
            source,
        })?;
        Ok(Self {
            given,
            here,
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
        })
    }

    /// The state directory, absolute; it need not be there yet.
    ///
    /// # Errors
    /// When nothing tells.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(given) = self
            .given
            .as_ref()
            .filter(|dir| !dir.as_os_str().is_empty())
        {
            return Ok(self.here.join(given));
        }
        let marked = self.here.join("state");
        if marked.join(MARKER).exists() {
            return Ok(marked);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn clues(here: &Path) -> Clues {
        Clues {
            given: None,
            here: here.to_path_buf(),
            xdg_state_home: Some("/xdg".into()),
            home: Some("/home/u".into()),
        }
    }

    #[test]
    fn the_option_wins_then_the_marked_folder_then_the_user_s_own() {
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
}
