//! Reading typed fields out of a tree, with every mistake reported where it stands.
//!
//! A reader answers `None` after it reported, so that the caller goes on and finds the next
//! mistake; what it goes on with does not matter, since a file with errors is never used.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::model::HumanDuration;

use super::problem::{Findings, Span, shown};
use super::suggest;
use super::tree::{Entry, Node, Value};
use super::yaml;

/// The longest name or path, in bytes: what the kernel takes for a path.
const LONGEST_WORD: usize = 4096;

/// The fields of one mapping.
pub(super) struct Fields<'t> {
    /// What the mapping is, for messages: "a component".
    what: &'static str,
    pub at: Span,
    entries: &'t [Entry<'t>],
    taken: Vec<bool>,
    known: Vec<&'static str>,
    missing: Vec<Missing>,
}

/// A field that has to be there and is not. It is told of at the end, when it is known whether a
/// misspelled one stands in its place: one mistake gets one message.
struct Missing {
    at: Span,
    /// Any of these would do.
    names: &'static [&'static str],
    message: String,
    fix: Option<String>,
}

/// A field that was written.
#[derive(Clone, Copy)]
pub(super) struct Field<'t> {
    pub name: &'static str,
    pub key_at: Span,
    pub node: &'t Node<'t>,
}

/// A text of the file and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'t> {
    pub text: &'t str,
    pub at: Span,
}

impl<'t> Fields<'t> {
    /// The fields of `node`; nothing at all counts as a mapping without fields.
    pub(super) fn open(
        node: &'t Node<'t>,
        what: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let entries: &[Entry<'t>] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                findings.error(
                    node.at,
                    format!("{what} must be a mapping, not {}", node.kind()),
                    Some("write `name: value` lines under it".to_owned()),
                );
                return None;
            }
        };
        // A mapping spans many lines; its first key is where a reader looks for it.
        let at = entries.first().map_or(node.at, |first| first.key_at);
        Some(Self {
            what,
            at,
            entries,
            taken: vec![false; entries.len()],
            // Room for those of a component, the largest, so that it never grows.
            known: Vec::with_capacity(56),
            missing: Vec::new(),
        })
    }

    /// The field of this name.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Field<'t>> {
        self.known.push(name);
        let index = self.entries.iter().position(|entry| entry.key == name)?;
        Some(self.take(index, name))
    }

    /// The field of this name, or of its camelCase form, which other tools' files have.
    pub(super) fn get_cased(
        &mut self,
        findings: &mut Findings<'_>,
        name: &'static str,
    ) -> Option<Field<'t>> {
        self.first_of(findings, &[name], &[])
    }

    /// Where a field of this name stands, without reading it.
    pub(super) fn position(&self, name: &str) -> Option<Span> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(entry.key_at)
    }

    /// Whether a field stands there that nobody has asked for, and that may be a misspelling of one
    /// of `names`.
    pub(super) fn misspells(&self, names: &[&str]) -> bool {
        let untaken = self.entries.iter().zip(&self.taken);
        untaken
            .filter(|(_, taken)| !**taken)
            .any(|(entry, _)| suggest::nearest(&entry.key, names.iter().copied()).is_some())
    }

    /// Reports that none of `names` is there, unless one of them is misspelled: then that is told,
    /// and this would be a second word about one mistake.
    pub(super) fn missing(
        &mut self,
        names: &'static [&'static str],
        at: Span,
        message: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) {
        self.missing.push(Missing {
            at,
            names,
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// The field of this name, or of a spelling that older files use, which is warned of.
    pub(super) fn get_or_legacy(
        &mut self,
        findings: &mut Findings<'_>,
        name: &'static str,
        legacy: &[&'static str],
    ) -> Option<Field<'t>> {
        self.first_of(findings, &[name], legacy)
    }

    /// The one field among spellings that all mean `names[0]`.
    pub(super) fn first_of(
        &mut self,
        findings: &mut Findings<'_>,
        names: &[&'static str],
        legacy: &[&'static str],
    ) -> Option<Field<'t>> {
        self.known.extend(names);
        let mut found: Option<Field<'t>> = None;
        for index in 0..self.entries.len() {
            let key = self.entries[index].key.as_ref();
            let current = names.contains(&key);
            let old = legacy
                .iter()
                .copied()
                .find(|name| *name == key)
                .or_else(|| {
                    names
                        .iter()
                        .find(|name| is_camel_case_of(key, name))
                        .map(|_| key)
                });
            if !current && old.is_none() || self.taken[index] {
                continue;
            }
            let field = self.take(index, names[0]);
            if let Some(old) = old {
                findings.warn(
                    field.key_at,
                    format!("`{old}` is an old spelling"),
                    Some(format!("write `{}`", names[0])),
                );
            }
            match found {
                // The same key twice was reported with the tree.
                Some(first) if self.entries[index].key != key_at(self.entries, first) => findings
                    .clash(
                        field.key_at,
                        format!(
                            "`{key}` and `{}` mean the same",
                            key_at(self.entries, first)
                        ),
                        first.key_at,
                        "first written here",
                    ),
                Some(_) => {}
                None => found = Some(field),
            }
        }
        found
    }

    fn take(&mut self, index: usize, name: &'static str) -> Field<'t> {
        self.taken[index] = true;
        let entry = &self.entries[index];
        Field {
            name,
            key_at: entry.key_at,
            node: &entry.node,
        }
    }

    /// Marks a field that this release knows but does not use, and tells so.
    pub(super) fn unused(&mut self, findings: &mut Findings<'_>, name: &str, why: &str) {
        if let Some(index) = self.entries.iter().position(|entry| entry.key == name) {
            self.taken[index] = true;
            findings.warn(
                self.entries[index].key_at,
                format!("`{name}` has no effect"),
                Some(why.to_owned()),
            );
        }
    }

    /// Refuses a field that people write for another, with the words that help them.
    pub(super) fn refuse(&mut self, findings: &mut Findings<'_>, name: &str, fix: &str) {
        if let Some(index) = self.entries.iter().position(|entry| entry.key == name) {
            self.taken[index] = true;
            findings.error(
                self.entries[index].key_at,
                format!("`{name}` is not a field of {}", self.what),
                Some(fix.to_owned()),
            );
        }
    }

    /// Reports every field that nobody asked for, and what is missing.
    pub(super) fn close(self, findings: &mut Findings<'_>) {
        #[cfg(test)]
        asked::record(self.what, &self.known);
        let mut misspelled: Vec<&'static str> = Vec::new();
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            // A duplicate was reported with the tree.
            let repeats = self.known.iter().any(|known| *known == entry.key);
            if *taken || repeats {
                continue;
            }
            let fix = if findings.is_full() {
                None
            } else {
                // A long list would drown the message.
                let list = || {
                    (self.known.len() <= 12).then(|| format!("known are {}", listed(&self.known)))
                };
                let meant = suggest::nearest(&entry.key, self.known.iter().copied());
                misspelled.extend(self.known.iter().find(|known| Some(**known) == meant));
                meant
                    .map(|meant| format!("did you mean `{meant}`?"))
                    .or_else(list)
            };
            findings.error(
                entry.key_at,
                format!("unknown field `{}` in {}", shown(&entry.key), self.what),
                fix,
            );
        }
        for missing in self.missing {
            if !missing.names.iter().any(|name| misspelled.contains(name)) {
                findings.error(missing.at, missing.message, missing.fix);
            }
        }
    }
}

/// Whether `key` is `snakeCase` for the name `snake_case`.
fn is_camel_case_of(key: &str, name: &str) -> bool {
    if !name.contains('_') {
        return false;
    }
    let mut letters = key.chars();
    let mut up = false;
    for wanted in name.chars() {
        if wanted == '_' {
            up = true;
            continue;
        }
        let wanted = match up {
            true => wanted.to_ascii_uppercase(),
            false => wanted,
        };
        up = false;
        if letters.next() != Some(wanted) {
            return false;
        }
    }
    letters.next().is_none()
}

fn key_at<'t>(entries: &'t [Entry<'t>], field: Field<'_>) -> &'t str {
    entries
        .iter()
        .find(|entry| entry.key_at == field.key_at)
        .map_or(field.name, |entry| entry.key.as_ref())
}

fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

impl<'t> Field<'t> {
    /// Reports that the value is not what the field takes. `wanted` completes "must be".
    pub(super) fn mismatch(&self, findings: &mut Findings<'_>, wanted: &str, fix: Option<String>) {
        let found = match &self.node.value {
            Value::Scalar(scalar) => format!("`{}`", shown(&scalar.text)),
            Value::Null | Value::List(_) | Value::Map(_) => self.node.kind().to_owned(),
        };
        findings.error(
            self.node.at,
            format!("`{}` must be {wanted}, not {found}", self.name),
            fix,
        );
    }

    /// Any scalar, as written.
    pub(super) fn text(&self, findings: &mut Findings<'_>) -> Option<Text<'t>> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(Text {
                text: &scalar.text,
                at: self.node.at,
            }),
            Value::Null => {
                findings.error(self.key_at, format!("`{}` has no value", self.name), None);
                None
            }
            Value::List(_) | Value::Map(_) => {
                self.mismatch(findings, "a single value", None);
                None
            }
        }
    }

    /// A scalar that people and programs read as a name: not empty, no control characters, and no
    /// reference, since those are resolved elsewhere only.
    pub(super) fn word(&self, findings: &mut Findings<'_>) -> Option<Text<'t>> {
        let word = self.text(findings)?;
        check_word(self.name, word, findings).then_some(word)
    }

    /// As [`Field::word`], where references are resolved.
    pub(super) fn referring_word(&self, findings: &mut Findings<'_>) -> Option<Text<'t>> {
        let word = self.text(findings)?;
        check_characters(self.name, word, findings).then_some(word)
    }

    /// A scalar in the text form of `T`.
    pub(super) fn parsed<T>(&self, findings: &mut Findings<'_>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let word = self.word(findings)?;
        match word.text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                findings.error(word.at, format!("`{}`: {error}", self.name), None);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        findings: &mut Findings<'_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let Value::Scalar(scalar) = &self.node.value else {
            self.mismatch(findings, &format!("one of {}", listed(&names)), None);
            return None;
        };
        let chosen = choices
            .iter()
            .find(|(name, _)| *name == scalar.text)
            .map(|(_, choice)| *choice);
        if chosen.is_none() {
            let fix = suggest::did_you_mean(&scalar.text, names.iter().copied());
            self.mismatch(findings, &format!("one of {}", listed(&names)), fix);
        }
        chosen
    }

    /// A whole number within `range`.
    pub(super) fn integer(
        &self,
        findings: &mut Findings<'_>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let number = match &self.node.value {
            // Quoted numbers are accepted: upstream's decoder takes them.
            Value::Scalar(scalar) => decimal(&scalar.text).or_else(|| yaml::typed::<u64>(scalar)),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        };
        let inside = number.filter(|number| range.contains(number));
        if inside.is_none() {
            let wanted = if *range.end() == u64::MAX {
                format!("a whole number from {}", range.start())
            } else {
                format!("a whole number from {} to {}", range.start(), range.end())
            };
            self.mismatch(findings, &wanted, None);
        }
        inside
    }

    /// As [`Field::integer`], for ranges that fit a `u32`.
    pub(super) fn small(
        &self,
        findings: &mut Findings<'_>,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let number = self.integer(
            findings,
            u64::from(*range.start())..=u64::from(*range.end()),
        )?;
        u32::try_from(number).ok()
    }

    /// A port number.
    pub(super) fn port(&self, findings: &mut Findings<'_>) -> Option<u16> {
        let number = self.integer(findings, 1..=65_535)?;
        u16::try_from(number).ok()
    }

    /// A number, whole or not, within `range`.
    pub(super) fn number(
        &self,
        findings: &mut Findings<'_>,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        let number = match &self.node.value {
            Value::Scalar(scalar) => scalar
                .text
                .parse()
                .ok()
                .or_else(|| yaml::typed::<f64>(scalar)),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        };
        let inside = number.filter(|number| range.contains(number));
        if inside.is_none() {
            self.mismatch(
                findings,
                &format!("a number from {} to {}", range.start(), range.end()),
                None,
            );
        }
        inside
    }

    /// `true` or `false`.
    pub(super) fn truth(&self, findings: &mut Findings<'_>) -> Option<bool> {
        self.choice(findings, &[("true", true), ("false", false)])
    }

    /// A duration of at least `least`.
    pub(super) fn duration(
        &self,
        findings: &mut Findings<'_>,
        least: HumanDuration,
    ) -> Option<HumanDuration> {
        let word = self.text(findings)?;
        match word.text.parse::<HumanDuration>() {
            Ok(length) if length >= least => Some(length),
            Ok(_) => {
                self.mismatch(findings, &format!("at least {least}"), None);
                None
            }
            Err(error) => {
                let bare = !word.text.is_empty() && word.text.bytes().all(|b| b.is_ascii_digit());
                let fix = bare.then(|| format!("did you mean `{0}s` or `{0}ms`?", word.text));
                findings.error(word.at, format!("`{}`: {error}", self.name), fix);
                None
            }
        }
    }

    /// The items of a list; nothing counts as an empty one.
    pub(super) fn list(&self, findings: &mut Findings<'_>) -> Option<&'t [Node<'t>]> {
        match &self.node.value {
            Value::List(items) => Some(items),
            Value::Null => Some(&[]),
            Value::Scalar(_) | Value::Map(_) => {
                self.mismatch(
                    findings,
                    "a list",
                    Some("put `- ` before each item".to_owned()),
                );
                None
            }
        }
    }

    /// A list of scalars, as written.
    pub(super) fn texts(&self, findings: &mut Findings<'_>) -> Option<Vec<Text<'t>>> {
        let items = self.list(findings)?;
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Scalar(scalar) => texts.push(Text {
                    text: &scalar.text,
                    at: item.at,
                }),
                Value::Null | Value::List(_) | Value::Map(_) => findings.error(
                    if item.at.start == item.at.end {
                        self.key_at
                    } else {
                        item.at
                    },
                    format!(
                        "each item of `{}` must be a single value, not {}",
                        self.name,
                        item.kind()
                    ),
                    Some("quote a text that contains `: ` or is empty".to_owned()),
                ),
            }
        }
        Some(texts)
    }

    /// A list of scalars, or one scalar, which stands for a list of one and is warned of.
    pub(super) fn texts_or_one(&self, findings: &mut Findings<'_>) -> Option<Vec<Text<'t>>> {
        match &self.node.value {
            Value::Scalar(scalar) => {
                findings.warn(
                    self.node.at,
                    format!(
                        "`{}` is a list; a single value is read as its only item",
                        self.name
                    ),
                    Some("put `- ` before it".to_owned()),
                );
                Some(vec![Text {
                    text: &scalar.text,
                    at: self.node.at,
                }])
            }
            Value::Null | Value::List(_) | Value::Map(_) => self.texts(findings),
        }
    }

    /// A list of words, or one word.
    pub(super) fn words(&self, findings: &mut Findings<'_>) -> Option<Vec<Text<'t>>> {
        let mut words = match &self.node.value {
            Value::Scalar(scalar) => vec![Text {
                text: &scalar.text,
                at: self.node.at,
            }],
            Value::Null | Value::List(_) | Value::Map(_) => self.texts(findings)?,
        };
        words.retain(|word| check_word(self.name, *word, findings));
        Some(words)
    }

    /// A mapping of names to scalars, as written; nothing counts as an empty text.
    pub(super) fn text_map(
        &self,
        findings: &mut Findings<'_>,
    ) -> Option<BTreeMap<&'t str, Text<'t>>> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries,
            Value::Null => return Some(BTreeMap::new()),
            Value::Scalar(_) | Value::List(_) => {
                self.mismatch(
                    findings,
                    "a mapping",
                    Some("write `NAME: value` lines".to_owned()),
                );
                return None;
            }
        };
        let mut map = BTreeMap::new();
        for entry in entries {
            let text = match &entry.node.value {
                Value::Scalar(scalar) => scalar.text.as_ref(),
                Value::Null => "",
                Value::List(_) | Value::Map(_) => {
                    findings.error(
                        entry.node.at,
                        format!(
                            "`{}` must be a single value, not {}",
                            shown(&entry.key),
                            entry.node.kind()
                        ),
                        Some("quote a text that starts with `[` or `{`".to_owned()),
                    );
                    continue;
                }
            };
            map.insert(
                entry.key.as_ref(),
                Text {
                    text,
                    at: entry.node.at,
                },
            );
        }
        Some(map)
    }

    /// A mapping whose names and values people read: labels and annotations.
    pub(super) fn plain_map(&self, findings: &mut Findings<'_>) -> BTreeMap<String, String> {
        let map = self.text_map(findings).unwrap_or_default();
        map.into_iter()
            .map(|(name, text)| (name.to_owned(), text.text.to_owned()))
            .collect()
    }

    /// The fields of a mapping.
    pub(super) fn fields(
        &self,
        what: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<Fields<'t>> {
        Fields::open(self.node, what, findings)
    }
}

fn check_characters(name: &str, word: Text<'_>, findings: &mut Findings<'_>) -> bool {
    let wrong = if word.text.trim().is_empty() {
        Some("is empty")
    } else if word.text.len() > LONGEST_WORD {
        Some("is longer than 4096 bytes")
    } else if word.text.chars().any(char::is_control) {
        Some("contains a control character")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        findings.error(word.at, format!("`{name}` {wrong}"), None);
        return false;
    }
    true
}

fn check_word(name: &str, word: Text<'_>, findings: &mut Findings<'_>) -> bool {
    if !check_characters(name, word, findings) {
        return false;
    }
    if word.text.contains("${{") {
        findings.error(
            word.at,
            format!("`{name}` cannot hold a reference"),
            Some(
                "references work in env, args, command, config, exec probes and http paths"
                    .to_owned(),
            ),
        );
        return false;
    }
    true
}

/// The common case of a number, without YAML's other bases; `010` is ten here as everywhere.
fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// A text from the file as an owned one.
pub(super) fn owned(texts: Vec<Text<'_>>) -> Vec<String> {
    texts.into_iter().map(|text| text.text.to_owned()).collect()
}

/// A scalar's text, for lists of mixed forms.
pub(super) fn scalar<'t>(node: &'t Node<'t>) -> Option<&'t Cow<'t, str>> {
    match &node.value {
        Value::Scalar(scalar) => Some(&scalar.text),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// What the parser asked for, for the test that holds it to the vocabulary.
#[cfg(test)]
pub(super) mod asked {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    type Names = BTreeMap<&'static str, BTreeSet<&'static str>>;

    thread_local! {
        static NAMES: RefCell<Names> = const { RefCell::new(BTreeMap::new()) };
    }

    pub(in crate::manifest) fn record(what: &'static str, names: &[&'static str]) {
        NAMES.with_borrow_mut(|all| all.entry(what).or_default().extend(names));
    }

    /// All of it since it was taken last, by this thread.
    pub(in crate::manifest) fn take() -> Names {
        NAMES.take()
    }
}
