//! The files that are named on the command line.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::exit::Failure;
use crate::api::SourceInput;

/// Each of `named` as a source: files by absolute path, `-` by its text. A folder stands for the
/// YAML files in it, by name.
///
/// # Errors
/// When nothing is named, a folder holds no YAML file, or something cannot be read.
pub fn gather(named: &[PathBuf]) -> Result<Vec<SourceInput>, Failure> {
    collect(named, Folders::AsTheirFiles)
}

/// The same, but a folder is a source itself, to which files may come later.
///
/// # Errors
/// As [`gather`].
pub fn gather_to_follow(named: &[PathBuf]) -> Result<Vec<SourceInput>, Failure> {
    collect(named, Folders::AsTheyAre)
}

/// What becomes of folders.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Folders {
    AsTheirFiles,
    AsTheyAre,
}

fn collect(named: &[PathBuf], folders: Folders) -> Result<Vec<SourceInput>, Failure> {
    if named.is_empty() {
        let message = "which file? write `-f FILE`, `-f FOLDER`, or `-f -` for standard input";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut sources = Vec::new();
    for path in named {
        if path.as_os_str() == "-" {
            sources.push(standard_input()?);
        } else if path.is_dir() {
            let files = in_folder(path)?;
            if files.is_empty() {
                let message = format!("there is no .yaml or .yml file in {}", path.display());
                return Err(Failure::Usage(message));
            }
            match folders {
                Folders::AsTheirFiles => {
                    sources.extend(files.into_iter().map(SourceInput::File));
                }
                // Links on the way to it are followed, as for its files.
                Folders::AsTheyAre => {
                    let folder = path.canonicalize().map_err(|source| Failure::File {
                        operation: "read",
                        path: path.clone(),
                        source,
                    })?;
                    sources.push(SourceInput::File(folder));
                }
            }
        } else {
            sources.push(SourceInput::File(absolute(path)?));
        }
    }
    Ok(sources)
}

fn standard_input() -> Result<SourceInput, Failure> {
    let named = |operation| {
        move |source| Failure::File {
            operation,
            path: PathBuf::from("-"),
            source,
        }
    };
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(named("read"))?;
    let folder = std::env::current_dir().map_err(named("find the folder of"))?;
    Ok(SourceInput::Text { text, folder })
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |source| Failure::File {
        operation: "read",
        path: folder.to_path_buf(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
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

/// `path` from the root. Links in its folder are followed, so that one file has one name; the file
/// itself may be a link that is swapped under us, and stays one.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let unreadable = |source| Failure::File {
        operation: "read",
        path: path.to_path_buf(),
        source,
    };
    let whole = std::path::absolute(path).map_err(unreadable)?;
    let (Some(folder), Some(name)) = (whole.parent(), whole.file_name()) else {
        return Ok(whole);
    };
    Ok(folder.canonicalize().map_err(unreadable)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_yaml_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", ".hidden.yaml", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(
            gather(&[dir.path().to_path_buf()]).unwrap(),
            [
                SourceInput::File(root.join("a.yaml")),
                SourceInput::File(root.join("b.yml"))
            ]
        );
        let empty = tempfile::tempdir().unwrap();
        assert!(gather(&[empty.path().to_path_buf()]).is_err());
        assert!(gather(&[]).is_err());
    }

    #[test]
    fn a_file_has_one_name_and_a_link_to_it_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/p.yaml"), "").unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("linked")).unwrap();
        std::os::unix::fs::symlink("p.yaml", root.join("real/current.yaml")).unwrap();
        assert_eq!(
            absolute(&root.join("linked/../linked/p.yaml")).unwrap(),
            root.join("real/p.yaml")
        );
        assert_eq!(
            absolute(&root.join("linked/current.yaml")).unwrap(),
            root.join("real/current.yaml")
        );
    }
}
