//! The file that says who is told, read again when it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::{self, Wanted};
use crate::manifest::{self, Problems};
use crate::model::{NotifySpec, Problem};
use crate::ownership::Trusted;

/// The file in the state directory.
pub const FILE: &str = "notify.yaml";
/// How long its file system may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one of the state directory, which need not be there.
    Usual(PathBuf),
    /// The one that was named when the daemon was started.
    Named(PathBuf),
}

impl Source {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Self::Usual(path) | Self::Named(path) => path,
        }
    }
}

/// What the file says now.
pub(super) enum Reading {
    /// The same as before.
    Same,
    /// It holds this text, which is good.
    Good { text: Vec<u8>, spec: NotifySpec },
    /// It cannot be taken over.
    Bad {
        text: Vec<u8>,
        problem: Option<Problem>,
    },
}

/// Reads the file. Blocks, for a while at most. `known` is what it held before.
pub(super) fn read(source: &Source, known: Option<&[u8]>) -> Reading {
    let path = source.path();
    let bad = |why: String, known: Option<&[u8]>| {
        let problems = Problems::whole_file(&path.to_string_lossy(), why.clone(), None);
        // Told apart from any text that a file could hold and be good.
        let text = [b"\0".as_slice(), why.as_bytes()].concat();
        if known == Some(&text) {
            return Reading::Same;
        }
        Reading::Bad {
            text,
            problem: problems.first(Some(path)),
        }
    };
    match (
        files::look(
            Wanted {
                path,
                limit: files::LARGEST,
                // It says which programs are run as us.
                judge: |path, _| Trusted::ours().check_ours(path),
            },
            PATIENCE,
        ),
        source,
    ) {
        (Ok(files::Looked::Whole(text)), _) => {
            if known == Some(&text) {
                return Reading::Same;
            }
            let base = path.parent().unwrap_or(Path::new("/"));
            // A secret that is not there yet is a delivery that fails, and is tried again.
            let parsed = manifest::parse_notify(&path.to_string_lossy(), &text, base, &|_| Ok(()));
            match parsed {
                Ok(parsed) => Reading::Good {
                    text,
                    spec: parsed.spec,
                },
                Err(problems) => Reading::Bad {
                    text,
                    problem: problems.first(Some(path)),
                },
            }
        }
        (Ok(files::Looked::Pipe), _) => bad("the file is a pipe".to_owned(), known),
        (Err(files::ReadError::Io(error)), Source::Usual(_))
            if error.kind() == std::io::ErrorKind::NotFound =>
        {
            let text = Vec::new();
            if known == Some(&text) {
                return Reading::Same;
            }
            Reading::Good {
                text,
                spec: NotifySpec::default(),
            }
        }
        (Err(error), _) => bad(format!("the file {error}"), known),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_could_change_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("who.yaml");
        fs::write(&file, "- name: a\n  to: {exec: [touch, /x]}\n").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for source in [Source::Named(file.clone()), Source::Usual(file.clone())] {
            assert!(matches!(read(&source, None), Reading::Good { .. }));
            for (path, open, closed) in [(&*file, 0o666, 0o600), (folder.path(), 0o777, 0o700)] {
                mode(path, open).unwrap();
                let Reading::Bad { problem, .. } = read(&source, None) else {
                    panic!("it is believed");
                };
                let message = problem.unwrap().message;
                assert!(message.contains("everybody may write"), "{message}");
                mode(path, closed).unwrap();
            }
        }
    }
}
