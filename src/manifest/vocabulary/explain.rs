//! What `flowctl explain` says of a field.

use super::component::COMPONENT;
use super::{Field, Kind, PIPELINE, Section};
use crate::manifest::suggest;

/// How much is said of what lies below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What is directly below it, a line each.
    Next,
    /// Everything below it, a line each.
    All,
}

/// There is no such field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a manifest has no field `{path}`")]
pub struct NoSuchField {
    /// As it was asked for, up to the word that is none.
    pub path: String,
    /// What may have been meant.
    pub fix: String,
}

/// What the field at `path` takes, what holds without it, what it means, and what an edit of it costs.
/// A path begins at a pipeline (`spec.env`) or at a component (`component.env`, `env`); an empty one
/// means the pipeline.
///
/// # Errors
/// When there is no such field.
pub fn explain(path: &str, depth: Depth) -> Result<String, NoSuchField> {
    let words: Vec<&str> = path.split('.').filter(|word| !word.is_empty()).collect();
    let (begin, mut at, mut section) = start(&words);
    let mut field = None;
    for word in &words[begin..] {
        // An item of a list is asked for by its field alone.
        let word = word.split('[').next().unwrap_or_default();
        let found = section.and_then(|section| named(section, word));
        let Some(found) = found else {
            return Err(no_such(&at, word, section));
        };
        if !at.is_empty() {
            at.push('.');
        }
        at.push_str(found.name);
        section = found.section();
        field = Some(found);
    }
    let mut text = format!("{}\n", if at.is_empty() { "pipeline" } else { &at });
    match field {
        Some(field) => text.push_str(&told(field)),
        None => text.push_str(&format!("  {}\n", section.map_or("", |one| one.text))),
    }
    if let Some(section) = section {
        if field.is_some() {
            text.push_str(&format!("\n  {}\n", section.text));
        }
        text.push_str("\nFields:\n");
        let mut rows = Vec::new();
        list(section, "", depth, &mut rows);
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, meaning) in rows {
            text.push_str(&format!("  {name:width$}  {meaning}\n"));
        }
    }
    Ok(text)
}

/// Where a path begins: how many words that takes, what it is called, and its fields.
fn start(words: &[&str]) -> (usize, String, Option<&'static Section>) {
    match words.first() {
        None => (0, String::new(), Some(&PIPELINE)),
        Some(&"pipeline") => (1, String::new(), Some(&PIPELINE)),
        Some(&"component") => (1, "component".to_owned(), Some(&COMPONENT)),
        Some(first) if named(&PIPELINE, first).is_some() => (0, String::new(), Some(&PIPELINE)),
        // What is asked about most.
        Some(_) => (0, "component".to_owned(), Some(&COMPONENT)),
    }
}

fn named(section: &'static Section, word: &str) -> Option<&'static Field> {
    section
        .fields
        .iter()
        .find(|field| field.name == word || field.others.contains(&word))
}

fn no_such(at: &str, word: &str, section: Option<&Section>) -> NoSuchField {
    let path = match at {
        "" => word.to_owned(),
        at => format!("{at}.{word}"),
    };
    let names = section
        .into_iter()
        .flat_map(|section| section.fields.iter().map(|field| field.name));
    let fix = match suggest::nearest(word, names.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => match names.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => format!("`{at}` has no fields of its own"),
            all => format!("known are {all}"),
        },
    };
    NoSuchField { path, fix }
}

/// All that is known of a field but for what lies below it.
fn told(field: &Field) -> String {
    let default = match field.default {
        "" => "none",
        default => default,
    };
    let mut text = format!("  {}\n\n", plain(field.text));
    for (name, value) in [
        ("type", takes(field.kind)),
        ("default", default.to_owned()),
        ("an edit", field.on_edit.as_str().to_owned()),
        ("example", field.example.to_owned()),
    ] {
        text.push_str(&format!("  {name:8} {value}\n"));
    }
    if !field.others.is_empty() {
        text.push_str(&format!("  {:8} {}\n", "also", field.others.join(", ")));
    }
    text
}

/// Markdown escapes what a table cannot hold.
fn plain(text: &str) -> String {
    text.replace("\\|", "|")
}

fn list(section: &Section, above: &str, depth: Depth, rows: &mut Vec<(String, String)>) {
    for field in section.fields {
        let name = format!("{above}{}", field.name);
        rows.push((name.clone(), plain(field.text)));
        if let (Depth::All, Some(below)) = (depth, field.section()) {
            list(below, &format!("{name}."), depth, rows);
        }
    }
}

/// The type, in words.
fn takes(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Word => "a single value".to_owned(),
        Kind::Label => "a DNS label".to_owned(),
        Kind::Truth => "`true` or `false`".to_owned(),
        Kind::Whole(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Number(least, most) => format!("a number from {least} to {most}"),
        Kind::Duration => "a duration, like `500ms`, `10s` or `1h 30m`".to_owned(),
        Kind::Amount => "a quantity, like `500m`, `64Mi` or `2G`".to_owned(),
        Kind::Port => "a port: a number, or the name of one of the component's ports".to_owned(),
        Kind::Octal => "permission bits in octal".to_owned(),
        Kind::Choice(words, _) => format!("one of {}", words.join(", ")),
        Kind::Texts | Kind::TextsOrOne => "a list of single values".to_owned(),
        Kind::WholeNumbers(least, most) => {
            format!("a list of whole numbers from {least} to {most}")
        }
        Kind::Map => "a mapping of names to single values".to_owned(),
        Kind::Section(_) => "a mapping".to_owned(),
        Kind::Sections(_) | Kind::PortsOr(_) => "a list of mappings".to_owned(),
        Kind::WordOr(words, ..) => format!("one of {}, or a mapping", words.join(", ")),
        Kind::PortOr(_) => "a port, or a mapping".to_owned(),
        Kind::LabelsOr(_) => "a list of ids and of mappings".to_owned(),
        Kind::TextsOr(_) => "a list of single values, or a mapping".to_owned(),
        Kind::Anything => "anything".to_owned(),
        Kind::Unused => "anything; it has no effect".to_owned(),
    }
}
