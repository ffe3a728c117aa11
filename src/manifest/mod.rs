//! YAML text to pipelines, or to every problem of the text with its line and column.
//!
//! **Expected flow.** [`parse`] checks the characters, builds a tree that knows positions
//! (`tree`), reads each document into drafts (`document`, `component`), checks what only all of
//! them together can get wrong (`graph`), and resolves references between components into the
//! specifications of [`crate::model`].
//!
//! **Guarantees.** Pure: no IO, no clock, no environment. All problems of a text are found in one
//! go. Work and memory are linear in the text and bounded, whatever it holds. Two texts that say
//! the same give equal specifications.
//!
//! **What it does not do.** It reads no file (that is [`crate::watch`]), and looks at no host: a
//! program, image or secret that does not exist shows when the component starts.

mod attachments;
mod clients;
mod combinations;
mod component;
mod document;
mod drivers;
mod exposure;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod graph;
mod health;
mod image_need;
mod image_policy;
mod limits;
mod notifications;
mod pins;
mod policy;
mod problem;
mod progress;
mod quantity;
mod references;
mod suggest;
mod tree;
mod vocabulary;
mod workload;
pub mod yaml;

#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Namespace, PipelineKey, PipelineSpec};

pub use exposure::HOST_FROM_CONTAINER;
pub use image_policy::{ParsedImagePolicy, PolicyFiles, is_image_policy, parse_image_policy};
pub use notifications::{LookAt, ParsedNotify, check_url, is_notify, parse_notify};
pub use pins::{ImagePlace, images, with_images};
pub use problem::{Colour, Finding, Problems, Severity};
pub use tree::MAX_BYTES;
pub use vocabulary::{Depth, NoSuchField, explain, schema};
#[cfg(test)]
pub use vocabulary::{OnEdit, component_fields, on_edit};

use problem::Findings;
use tree::Value;

/// What the caller knows beside the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Absolute: the folder that relative paths in the text are meant from.
    pub base_dir: PathBuf,
    /// What was asked for beside it.
    pub given: Given,
}

/// What was asked for when a manifest was handed in; it holds for each reading of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The namespace of pipelines that name none; `None` = `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Where everything runs, whatever the text says; `None` = as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<Orchestrator>,
}

impl Options {
    /// For a file in `base_dir`, everything as it says.
    pub fn at(base_dir: impl Into<PathBuf>) -> Self {
        Self {
            base_dir: base_dir.into(),
            given: Given::default(),
        }
    }
}

/// Where `flowctl run --orchestrator` runs everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orchestrator {
    /// As local processes.
    Process,
    /// As containers of the Docker engine.
    Container,
    /// As pods of a Kubernetes cluster.
    Kubernetes,
    /// As jobs of a Nomad cluster.
    Nomad,
}

/// A text without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Its pipelines in the order of the text, at least one.
    pub pipelines: Vec<PipelineSpec>,
    /// Old spellings and fields without effect; often none.
    pub warnings: Problems,
    /// The text that says all this.
    pub text: Fingerprint,
}

/// Stands for the text of a manifest: while the process lives, the same text has the same one, and
/// another text another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// That of `text`.
    pub fn of(text: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A file whose text was read, and whose pipelines were applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// As its source names it.
    pub file: PathBuf,
    /// What it said then.
    pub text: Fingerprint,
    /// The pipelines that this defines.
    pub pipelines: Vec<PipelineKey>,
}

/// Reads a manifest. `file` is what problems call it.
///
/// # Errors
/// All problems of the text, warnings included.
pub fn parse(file: &str, text: &[u8], options: &Options) -> Result<Parsed, Problems> {
    let (documents, mut findings) = documents(file, text)?;
    let mut pipelines: Vec<(PipelineSpec, problem::Span)> = Vec::new();
    let mut empty = true;
    for document in documents
        .iter()
        .filter(|document| !matches!(document.value, Value::Null))
    {
        empty = false;
        let Some((pipeline, at)) = document::read(document, options, &mut findings) else {
            continue;
        };
        if let Some((known, first)) = pipelines
            .iter()
            .find(|(known, _)| known.key == pipeline.key)
        {
            findings.clash(
                at,
                format!("two pipelines are named `{}`", known.key),
                *first,
                "first used here",
            );
        }
        pipelines.push((pipeline, at));
    }
    if findings.has_errors() {
        return Err(findings.finish(file));
    }
    if empty {
        return Err(Problems::whole_file(
            file,
            "the file is empty",
            Some("`flowctl init` writes an example to start from".to_owned()),
        ));
    }
    let pipelines = pipelines
        .into_iter()
        .map(|(pipeline, _)| pipeline)
        .collect();
    Ok(Parsed {
        pipelines,
        warnings: findings.finish(file),
        text: Fingerprint::of(text),
    })
}

/// The documents of a file, and what was found wrong with them so far.
fn documents<'t>(
    file: &str,
    bytes: &'t [u8],
) -> Result<(Vec<tree::Node<'t>>, Findings<'t>), Problems> {
    let text = decode(file, bytes)?;
    let mut findings = Findings::about(text);
    tree::check_characters(text, &mut findings);
    if findings.has_errors() {
        return Err(findings.finish(file));
    }
    Ok((tree::parse(text, &mut findings), findings))
}

/// The bytes of a file as text.
fn decode<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str, Problems> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(file));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line_start = memchr::memrchr(b'\n', good).map_or(0, |newline| newline + 1);
        let line = memchr::memchr_iter(b'\n', good).count() + 1;
        let column = String::from_utf8_lossy(&good[line_start..]).chars().count() + 1;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let fix = match bytes {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it looks like UTF-16: save it as UTF-8",
            _ => "save it as UTF-8",
        };
        Problems::at(
            file,
            Some((number(line), number(column))),
            "the file is not UTF-8 text".to_owned(),
            Some(fix.to_owned()),
        )
    })
}

/// The problem of a file over [`MAX_BYTES`], for readers that stop before they hold all of it.
pub fn too_large(file: &str) -> Problems {
    Problems::whole_file(
        file,
        "the file is larger than 1 MiB, the largest manifest that is read",
        Some("split it into several files in one directory".to_owned()),
    )
}

/// The commented file that `flowctl init` writes. It runs as it stands.
pub fn starter() -> &'static str {
    include_str!("starter.yaml")
}
