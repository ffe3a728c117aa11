//! Reading a source once: a file, a directory of files, or a stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::manifest::{self, Given, MAX_BYTES, Options, Parsed, Problems};
use crate::model::PipelineKey;
use crate::ownership::{End, Trusted};

use super::Update;

/// Reads a file, or each manifest of a directory, without watching it. Problems name the files as
/// `path` does.
pub fn read(path: &Path, given: &Given) -> Vec<Update> {
    let outcomes = texts(path).into_iter().map(|(file, text)| {
        let outcome = text.and_then(|text| parse(&file, &text, given));
        Update { file, outcome }
    });
    let mut updates: Vec<Update> = outcomes.collect();
    refuse_twins(&mut updates, &BTreeMap::new());
    updates
}

/// Reads pipelines from a stream, such as standard input. `name` is what problems call it;
/// relative paths in it are meant from `base_dir`.
pub fn read_stream(
    name: &str,
    stream: impl Read,
    base_dir: &Path,
    given: &Given,
) -> Result<Parsed, Problems> {
    let text = limited(stream).map_err(|error| unreadable(name, &error))?;
    let options = Options {
        base_dir: base_dir.to_path_buf(),
        given: given.clone(),
    };
    manifest::parse(name, &text, &options)
}

/// The manifests of a source, each with its text or why there is none.
pub(super) fn texts(path: &Path) -> Vec<(PathBuf, Result<Vec<u8>, Problems>)> {
    if !path.is_dir() {
        return vec![(path.to_path_buf(), text(path))];
    }
    let whole = |problem: Problems| vec![(path.to_path_buf(), Err(problem))];
    let files = match manifests(path) {
        Ok(files) => files,
        Err(error) => return whole(unreadable(&path.display().to_string(), &error)),
    };
    if files.is_empty() {
        return whole(Problems::whole_file(
            &path.display().to_string(),
            "the directory holds no *.yaml or *.yml file",
            None,
        ));
    }
    files
        .into_iter()
        .map(|file| {
            let text = text(&file);
            (file, text)
        })
        .collect()
}

/// The manifests in a directory, in the order of their names.
pub(super) fn manifests(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of a directory is one of its manifests. Hidden files are not: editors and
/// Kubernetes keep their own there.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let yaml = path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    yaml && !hidden
}

/// A pipe is never opened to wait for its writer: it can be read once, and may never end.
fn text(file: &Path) -> Result<Vec<u8>, Problems> {
    let name = file.display().to_string();
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(file, flags, Mode::empty()).map(File::from);
    let read = opened.map_err(io::Error::from).and_then(|opened| {
        let is_regular = opened.metadata()?.is_file();
        is_regular.then(|| limited(opened)).transpose()
    });
    match read {
        Ok(Some(text)) => Ok(text),
        // A socket cannot even be opened.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            Err(not_regular(&name))
        }
        Ok(None) => Err(not_regular(&name)),
        Err(error) => Err(unreadable(&name, &error)),
    }
}

fn not_regular(name: &str) -> Problems {
    Problems::whole_file(
        name,
        "this is not a regular file, so it cannot be watched",
        Some("`-f -` takes what can be read only once".to_owned()),
    )
}

/// As much of a stream as can be a manifest, and one byte more, by which a larger one is known.
fn limited(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    stream.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn unreadable(name: &str, error: &io::Error) -> Problems {
    if error.kind() == io::ErrorKind::NotFound {
        return Problems::whole_file(name, "there is no such file", None);
    }
    Problems::whole_file(name, format!("cannot read the file: {error}"), None)
}

/// What is wrong with following `path`: whoever else could change it could have us run anything.
pub(super) fn strange(path: &Path, end: End) -> Option<Problems> {
    let stranger = Trusted::ours().stranger(path, end)?;
    Some(Problems::whole_file(
        &path.display().to_string(),
        format!("it is not followed, since others could change it: {stranger}"),
        Some(stranger.advice()),
    ))
}

/// The pipelines in the text of `file`, whose folder relative paths are meant from.
pub(super) fn parse(file: &Path, text: &[u8], given: &Given) -> Result<Parsed, Problems> {
    let name = file.display().to_string();
    let absolute = std::path::absolute(file).map_err(|error| unreadable(&name, &error))?;
    let options = Options {
        base_dir: absolute.parent().unwrap_or(Path::new("/")).to_path_buf(),
        given: given.clone(),
    };
    manifest::parse(&name, text, &options)
}

/// Turns an update into a problem when another file of the directory defines the same pipeline:
/// one of `standing`, which did not change, or one earlier in `updates`.
pub(super) fn refuse_twins(updates: &mut [Update], standing: &BTreeMap<PipelineKey, PathBuf>) {
    let mut taken = standing.clone();
    for update in updates {
        let Ok(parsed) = &update.outcome else {
            continue;
        };
        let keys: Vec<PipelineKey> = parsed
            .pipelines
            .iter()
            .map(|spec| spec.key.clone())
            .collect();
        let twin = keys.iter().find_map(|key| Some((key, taken.get(key)?)));
        match twin {
            Some((key, other)) => {
                let other = other.file_name().unwrap_or(other.as_os_str());
                update.outcome = Err(Problems::whole_file(
                    &update.file.display().to_string(),
                    format!("pipeline `{key}` is also in {}", other.display()),
                    Some("keep it in one of the two files".to_owned()),
                ));
            }
            None => taken.extend(keys.into_iter().map(|key| (key, update.file.clone()))),
        }
    }
}
