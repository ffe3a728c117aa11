//! Every field that a manifest may have: what it takes, what holds without it, what it means, and
//! what an edit of it costs.
//!
//! **Guarantees.** The parser asks for exactly these names; a test of this room holds the two to each
//! other. `flowctl explain`, the JSON Schema and the tables of the help topics are made of nothing else.

mod beside;
mod component;
mod explain;
mod health;
mod kubernetes;
mod parts;
mod pipeline;
mod schema;
#[cfg(test)]
mod tests;

pub use explain::{Depth, NoSuchField, explain};
use pipeline::PIPELINE;
pub use schema::schema;

/// A mapping of the manifest.
#[derive(Debug)]
pub struct Section {
    /// What messages call it.
    pub what: &'static str,
    /// What it is for, in one sentence.
    pub text: &'static str,
    /// What it may hold, in the order in which people read about it.
    pub fields: &'static [Field],
}

/// A field of a mapping.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it, as Markdown; empty where that says nothing.
    pub default: &'static str,
    /// What an edit of it costs.
    pub on_edit: OnEdit,
    /// What it means, as Markdown.
    pub text: &'static str,
    /// A line as it may stand in a file.
    pub example: &'static str,
    /// Other spellings that are read. All but a few are warned of.
    pub others: &'static [&'static str],
}

/// Whether something has to be there.
pub const REQUIRED: &str = "required";

impl Field {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        on_edit: OnEdit,
        text: &'static str,
        example: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            default,
            on_edit,
            text,
            example,
            others: &[],
        }
    }

    const fn also(mut self, others: &'static [&'static str]) -> Self {
        self.others = others;
        self
    }

    /// The mapping that it holds, or that each of its items is.
    pub fn section(&self) -> Option<&'static Section> {
        match self.kind {
            Kind::Section(section)
            | Kind::Sections(section)
            | Kind::WordOr(_, _, section)
            | Kind::PortOr(section)
            | Kind::PortsOr(section)
            | Kind::LabelsOr(section)
            | Kind::TextsOr(section) => Some(section),
            Kind::Text
            | Kind::Word
            | Kind::Label
            | Kind::Truth
            | Kind::Whole(..)
            | Kind::Number(..)
            | Kind::Duration
            | Kind::Amount
            | Kind::Port
            | Kind::Octal
            | Kind::Choice(..)
            | Kind::Texts
            | Kind::TextsOrOne
            | Kind::WholeNumbers(..)
            | Kind::Map
            | Kind::Anything
            | Kind::Unused => None,
        }
    }
}

/// What a field takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any single value, kept as it is written.
    Text,
    /// A single value without control characters.
    Word,
    /// A DNS label.
    Label,
    /// `true` or `false`.
    Truth,
    /// A whole number from the first to the second.
    Whole(u64, u64),
    /// A number from the first to the second.
    Number(u32, u32),
    /// Numbers with units: `1m 30s`.
    Duration,
    /// A quantity as Kubernetes writes it: `500m`, `64Mi`.
    Amount,
    /// A port: its number, the name of one of the component's, or references.
    Port,
    /// Permission bits in octal.
    Octal,
    /// One of these words, or of their old spellings.
    Choice(&'static [&'static str], &'static [&'static str]),
    /// A list of single values.
    Texts,
    /// The same, or one of them.
    TextsOrOne,
    /// A list of whole numbers from the first to the second.
    WholeNumbers(u64, u64),
    /// Names and single values.
    Map,
    /// A mapping.
    Section(&'static Section),
    /// A list of mappings.
    Sections(&'static Section),
    /// One of these words, or of their old spellings, or a mapping.
    WordOr(
        &'static [&'static str],
        &'static [&'static str],
        &'static Section,
    ),
    /// A port, or a mapping.
    PortOr(&'static Section),
    /// A list of mappings, or of port numbers, which is an old form.
    PortsOr(&'static Section),
    /// A list of DNS labels and of mappings, or one label.
    LabelsOr(&'static Section),
    /// A list of single values, or a mapping.
    TextsOr(&'static Section),
    /// Whatever YAML has.
    Anything,
    /// Read, and of no effect.
    Unused,
}

/// What the edit of a field costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEdit {
    /// What runs goes on; the new value holds for it.
    AppliesLive,
    /// The component is replaced.
    Restarts,
    /// The component is replaced where it is told the value, in `HEALTH_PORT`.
    RestartsIfTold,
    /// As many copies are started or stopped as the numbers differ.
    StartsOrStops,
    /// It becomes another one: the former is taken down.
    Renames,
    /// It depends on what is below it.
    Depends,
    /// Nothing happens.
    Nothing,
}

impl OnEdit {
    /// As it completes "an edit of it".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AppliesLive => "applies live",
            Self::Restarts => "restarts the component",
            Self::RestartsIfTold => {
                "applies live, and restarts the component where it is told the port as `HEALTH_PORT`"
            }
            Self::StartsOrStops => "starts or stops copies, and leaves the others alone",
            Self::Renames => "takes down the former one, and starts another",
            Self::Depends => "depends on what is below it",
            Self::Nothing => "does nothing",
        }
    }
}

/// The table of a mapping in the help topics.
#[cfg(test)]
fn markdown(section: &Section) -> String {
    let mut text = String::from("| field | default | meaning |\n|---|---|---|\n");
    for field in section.fields {
        if matches!(field.kind, Kind::Unused) {
            continue;
        }
        let Field {
            name,
            default,
            text: meaning,
            ..
        } = field;
        text.push_str(&format!("| `{name}` | {default} | {meaning} |\n"));
    }
    text
}

/// What the edit of a component's field costs, by its path.
#[cfg(test)]
pub fn on_edit(path: &str) -> Option<OnEdit> {
    let mut section = Some(&component::COMPONENT);
    let mut cost = None;
    for word in path.split('.') {
        let Some(within) = section else { break };
        let field = within.fields.iter().find(|field| field.name == word)?;
        cost = Some(field.on_edit);
        section = field.section();
    }
    cost
}

/// The names of a component's fields.
#[cfg(test)]
pub fn component_fields() -> impl Iterator<Item = &'static str> {
    component::COMPONENT.fields.iter().map(|field| field.name)
}
