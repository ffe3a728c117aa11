//! The files that are named on the command line.
//!
//! What a name means to this process, and only to it, or only once (standard input, a named pipe,
//! `<(...)`), is read here and handed over as text. Whatever else is named is handed over by its
//! name, which the daemon goes through anew each time.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::exit::Failure;
use super::place::{absolute, here};
use super::text::shown;
use super::wait;
use crate::api::{ApiError, ErrorCode, SourceInput};
use crate::manifest::MAX_BYTES;
use crate::model::HumanDuration;

/// How long a file that is named may take where the command has no `--timeout`.
pub const PATIENCE: HumanDuration = HumanDuration::from_secs(60);

/// The kernel's limit on links in one path.
const MAX_LINKS: usize = 40;

/// Each of `named` as a source: files by absolute path, pipes and `-` by their text. A folder stands
/// for the YAML files in it, by name.
///
/// # Errors
/// When nothing is named, a folder holds no YAML file, something cannot be read, or takes longer
/// than `within` (zero = without end).
pub async fn gather(
    named: Vec<PathBuf>,
    within: HumanDuration,
) -> Result<Vec<SourceInput>, Failure> {
    in_time(named, Folders::AsTheirFiles, within).await
}

/// The same, but a folder is a source itself, to which files may come later.
///
/// # Errors
/// As [`gather`].
pub async fn gather_to_follow(
    named: Vec<PathBuf>,
    within: HumanDuration,
) -> Result<Vec<SourceInput>, Failure> {
    in_time(named, Folders::AsTheyAre, within).await
}

/// What becomes of folders.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Folders {
    AsTheirFiles,
    AsTheyAre,
}

/// A writer that never comes, and a file system that hangs, hold up a thread and not the command.
async fn in_time(
    named: Vec<PathBuf>,
    folders: Folders,
    within: HumanDuration,
) -> Result<Vec<SourceInput>, Failure> {
    let waiting: Vec<String> = named
        .iter()
        .map(|path| format!("the text of {}", shown(path)))
        .collect();
    let collecting = tokio::task::spawn_blocking(move || collect(&named, folders));
    match tokio::time::timeout(wait::limit(within).get(), collecting).await {
        Ok(Ok(collected)) => collected,
        Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Failure::Unread {
            after: within,
            waiting,
        }),
    }
}

fn collect(named: &[PathBuf], folders: Folders) -> Result<Vec<SourceInput>, Failure> {
    let usual;
    let named = if named.is_empty() {
        usual = [usual_file()?];
        &usual[..]
    } else {
        named
    };
    let mut sources = Vec::new();
    for path in named {
        if path.as_os_str() == "-" {
            sources.push(text(path, io::stdin().lock(), None)?);
        } else if path.is_dir() {
            let files = in_folder(path)?;
            if files.is_empty() {
                let message = format!("there is no .yaml or .yml file in {}", shown(path));
                return Err(Failure::Usage(message));
            }
            match folders {
                Folders::AsTheirFiles => {
                    sources.extend(files.into_iter().map(SourceInput::File));
                }
                Folders::AsTheyAre => sources.push(SourceInput::File(absolute(path)?)),
            }
        } else {
            sources.push(source(path)?);
        }
    }
    Ok(sources)
}

/// Looked for in this order when no file is named.
const USUAL: [&str; 4] = ["flow.yml", "pipeline.yaml", "flowctl.yaml", "flowctl.yml"];

/// The file that is meant where none is named.
fn usual_file() -> Result<PathBuf, Failure> {
    let mut found = USUAL.iter().map(PathBuf::from);
    found.find(|file| file.exists()).ok_or_else(|| {
        Failure::Usage(format!(
            "which file? there is none of {} here: write `-f FILE`, `-f FOLDER`, or `-f -` for \
             standard input; `flowctl init` writes a first one",
            USUAL.join(", ")
        ))
    })
}

/// The file of this name as a source. One that is not there stays a name: whoever reads it says so.
///
/// # Errors
/// When it is to be read here and cannot be.
fn source(path: &Path) -> Result<SourceInput, Failure> {
    let whole = absolute(path)?;
    let found = std::fs::metadata(&whole);
    let is_lasting = found.map_or(true, |found| found.is_file());
    if is_lasting && !is_of_this_process(&whole) {
        return Ok(SourceInput::File(whole));
    }
    let file = File::open(&whole).map_err(unreadable(path))?;
    text(path, file, Some(path.display().to_string()))
}

/// Whether the absolute `path` leads through `/proc`, as `/dev/stdin` and `/dev/fd/63` do: what it
/// means depends on who asks.
fn is_of_this_process(path: &Path) -> bool {
    let mut at = PathBuf::from("/");
    let names = |path: &Path| -> Vec<OsString> {
        path.iter()
            .filter(|name| *name != "/")
            .map(ToOwned::to_owned)
            .collect()
    };
    let mut rest = VecDeque::from(names(path));
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        if next == Path::new("/proc") {
            return true;
        }
        match std::fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    rest.push_front(name);
                }
            }
            Ok(_) | Err(_) => at = next,
        }
    }
    false
}

/// What `stream` gives, of no more than can be a manifest, and one byte by which more is known.
fn text(path: &Path, stream: impl Read, name: Option<String>) -> Result<SourceInput, Failure> {
    let mut bytes = Vec::new();
    stream
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable(path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        let name = name.as_deref().unwrap_or("standard input");
        let message = format!("error: {name} is no YAML: byte {at} is not UTF-8");
        Failure::Told(ApiError::new(ErrorCode::ManifestInvalid, message))
    })?;
    // Relative paths in it are meant from where its writer is.
    let folder = here().map_err(|_| Failure::Homeless {
        path: path.to_path_buf(),
    })?;
    Ok(SourceInput::Text { text, folder, name })
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::File {
        operation: "read",
        path: path.to_path_buf(),
        source,
    }
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && !is_hidden && path.is_file() {
            files.push(absolute(&path)?);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SOON: HumanDuration = HumanDuration::from_millis(50);

    #[tokio::test]
    async fn a_folder_stands_for_its_yaml_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", ".hidden.yaml", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let root = dir.path();
        assert_eq!(
            gather(vec![root.to_path_buf()], PATIENCE).await.unwrap(),
            [
                SourceInput::File(root.join("a.yaml")),
                SourceInput::File(root.join("b.yml"))
            ]
        );
        let empty = tempfile::tempdir().unwrap();
        let empty = vec![empty.path().to_path_buf()];
        assert!(gather(empty, PATIENCE).await.is_err());
        let none = gather(Vec::new(), PATIENCE).await.unwrap_err().to_string();
        assert!(none.contains("none of flow.yml, pipeline.yaml"), "{none}");
    }

    #[tokio::test]
    async fn a_name_with_links_in_it_stays_that_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/p.yaml"), "").unwrap();
        symlink("real", root.join("current")).unwrap();
        for name in ["current/p.yaml", "current"] {
            let given = root.join(name);
            let sources = gather_to_follow(vec![given.clone()], PATIENCE).await;
            assert_eq!(sources.unwrap(), [SourceInput::File(given)]);
        }
    }

    #[tokio::test]
    async fn what_can_be_read_once_or_by_us_alone_is_read_here() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let writing = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, "a: 1\n").unwrap()
        });
        let open = File::open("/dev/null").unwrap();
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        symlink(&own, dir.path().join("link.yaml")).unwrap();
        for (path, expected) in [
            (pipe, "a: 1\n"),
            (PathBuf::from(own), ""),
            (dir.path().join("link.yaml"), ""),
            (PathBuf::from("/dev/null"), ""),
        ] {
            let sources = gather_to_follow(vec![path.clone()], PATIENCE).await;
            let sources = sources.unwrap();
            let [SourceInput::Text { text, folder, name }] = &sources[..] else {
                panic!("{path:?} stays a name");
            };
            assert_eq!((text.as_str(), folder), (expected, &here().unwrap()));
            assert_eq!(*name, Some(path.display().to_string()));
        }
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn a_writer_that_never_comes_is_not_waited_for_longer_than_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let late = gather_to_follow(vec![pipe.clone()], SOON).await;
        let error = late.unwrap_err();
        assert_eq!(error.exit(), super::super::exit::Exit::TimedOut);
        assert!(error.to_string().contains("pipe"), "{error}");
        // The thread that waits is let go, or the runtime would wait for it.
        drop(File::options().write(true).open(&pipe).unwrap());
    }
}
