//! YAML text to a tree that knows where each value was written.
//!
//! **Guarantees.** A tree is at most [`MAX_DEPTH`] deep and [`MAX_NODES`] large, aliases written
//! out; its maps have text keys, each once; no text in it holds a NUL. Scalars keep the characters
//! of the file (`010` stays `010`): their type is the business of whoever reads them. Everything
//! takes time linear in the text, so a hostile file is refused as fast as a good one is read.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::problem::{Findings, Span, shown};

/// The largest file that is read, in bytes: the limit of etcd and of a ConfigMap.
pub const MAX_BYTES: usize = 1 << 20;

/// The deepest nesting. A manifest needs eight levels; free-form `config` may need more.
const MAX_DEPTH: usize = 64;

/// The most values in one file, with each alias counted as what it stands for. A thousand
/// components need about thirty thousand.
const MAX_NODES: usize = 250_000;

/// The most brackets and commas. The parser holds a bracketed value as a whole before it says what
/// is in it, and only this bounds how much that is. A thousand components in JSON need twenty
/// thousand.
const MAX_INDICATORS: usize = 150_000;

/// The bytes of text that weigh as much as one value.
const TEXT_OF_A_NODE: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node<'s> {
    pub at: Span,
    pub value: Value<'s>,
}

#[derive(Clone, Debug)]
pub(super) enum Value<'s> {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar<'s>),
    List(Vec<Node<'s>>),
    Map(Vec<Entry<'s>>),
}

/// A scalar as written, quotes and escapes undone.
#[derive(Clone, Debug)]
pub(super) struct Scalar<'s> {
    pub text: Cow<'s, str>,
    pub style: Style,
}

/// Whether a scalar may be anything but text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Unquoted: may be a number or a truth value.
    Plain,
    /// Quoted, a block, or tagged `!!str`: text.
    Text,
}

#[derive(Clone, Debug)]
pub(super) struct Entry<'s> {
    pub key: Cow<'s, str>,
    pub key_at: Span,
    pub node: Node<'s>,
}

impl Node<'_> {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Refuses characters that hide what a file says or break what reads it later: controls other
/// than tab and line ends, and those that reorder text on screen.
pub(super) fn check_characters(text: &str, findings: &mut Findings<'_>) {
    // All such characters have a byte below 0x20, 0x7f, or start with one of these lead bytes.
    let suspicious = |b: &u8| {
        (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r'))
            || matches!(b, 0x7f | 0xc2 | 0xd8 | 0xe2 | 0xef)
    };
    let mut from = 0;
    while let Some(offset) = text.as_bytes()[from..].iter().position(suspicious) {
        let at = from + offset;
        let Some(c) = text[at..].chars().next() else {
            return;
        };
        if let Some(name) = forbidden(c) {
            let fix = match c {
                '\0' => "remove it".to_owned(),
                _ => format!(
                    "remove it, or write \"\\u{:04x}\" in double quotes",
                    u32::from(c)
                ),
            };
            findings.error(
                Span::new(at, at + c.len_utf8()),
                format!("the file contains {name}"),
                Some(fix),
            );
            if findings.is_full() {
                return;
            }
        }
        from = at + c.len_utf8();
    }
}

fn forbidden(c: char) -> Option<String> {
    Some(match c {
        '\0' => "a NUL character".to_owned(),
        '\u{1b}' => "an escape character (ESC)".to_owned(),
        '\u{061c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => {
            format!(
                "an invisible character that reorders text (U+{:04X})",
                u32::from(c)
            )
        }
        '\u{feff}' => "a byte order mark in the middle".to_owned(),
        '\t' | '\n' | '\r' | '\u{85}' => return None,
        c if c.is_control() => format!("a control character (U+{:04X})", u32::from(c)),
        _ => return None,
    })
}

/// The documents of `text`. After a syntax error those before it are given back.
pub(super) fn parse<'s>(text: &'s str, findings: &mut Findings<'s>) -> Vec<Node<'s>> {
    let indicator = |(_, b): &(usize, u8)| matches!(b, b',' | b'[' | b']' | b'{' | b'}');
    if let Some((at, _)) = text
        .bytes()
        .enumerate()
        .filter(indicator)
        .nth(MAX_INDICATORS)
    {
        findings.error(
            Span::new(at, at + 1),
            format!("the file holds more than {MAX_INDICATORS} brackets and commas"),
            Some("split it into several files, or write lists with `- `".to_owned()),
        );
        return Vec::new();
    }
    let mut builder = Builder {
        offsets: Offsets {
            text,
            ascii: text.is_ascii(),
            char_index: 0,
            byte: 0,
        },
        findings,
        stack: Vec::new(),
        documents: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let taken = match event {
            Ok((event, span)) => {
                let span = Span::new(builder.offsets.of(span.start), builder.offsets.of(span.end));
                builder.take(event, span)
            }
            Err(error) => {
                builder.syntax_error(&error);
                Err(Stop)
            }
        };
        if taken.is_err() {
            break;
        }
    }
    builder.documents
}

/// The rest of the text cannot be made sense of; the finding says why.
struct Stop;

struct Builder<'s, 'f> {
    offsets: Offsets<'s>,
    findings: &'f mut Findings<'s>,
    stack: Vec<Open<'s>>,
    documents: Vec<Node<'s>>,
    anchors: HashMap<usize, Anchored<'s>>,
    nodes: usize,
}

/// A finished value that aliases may stand for.
struct Anchored<'s> {
    node: Node<'s>,
    nodes: usize,
    depth: usize,
}

/// A list or map whose end has not been seen.
struct Open<'s> {
    at: Span,
    anchor: usize,
    /// Nodes seen before it: tells how many are in it.
    nodes_before: usize,
    /// The depth of the deepest value in it.
    depth: usize,
    inside: Inside<'s>,
}

enum Inside<'s> {
    List(Vec<Node<'s>>),
    Map {
        entries: Vec<Entry<'s>>,
        key: Option<(Cow<'s, str>, Span)>,
    },
}

impl<'s> Builder<'s, '_> {
    fn take(&mut self, event: Event<'s>, at: Span) -> Result<(), Stop> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {
                Ok(())
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let style = self.style(style, tag.as_deref(), at);
                let length = text.len();
                let node = self.scalar(text, style, at);
                // Aliases copy text too, so a long one counts as many values.
                let weight = 1 + length / TEXT_OF_A_NODE;
                self.count(weight, 0, at)?;
                self.finished(node, anchor, weight, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Inside::List(Vec::new()), anchor, tag.as_deref(), "seq", at)
            }
            Event::MappingStart(anchor, tag) => self.open(
                Inside::Map {
                    entries: Vec::new(),
                    key: None,
                },
                anchor,
                tag.as_deref(),
                "map",
                at,
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(anchor) => self.alias(anchor, at),
        }
    }

    fn style(&mut self, style: ScalarStyle, tag: Option<&Tag>, at: Span) -> Style {
        match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => return Style::Text,
            Some(tag)
                if tag.is_yaml_core_schema()
                    && matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null") => {}
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => return Style::Text,
            Some(tag) => self.unknown_tag(tag, at),
            None => {}
        }
        match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Style::Text,
        }
    }

    fn unknown_tag(&mut self, tag: &Tag, at: Span) {
        self.findings.error(
            at,
            format!(
                "the YAML tag `{}` is not supported",
                shown(&tag.to_string())
            ),
            Some("write the plain value".to_owned()),
        );
    }

    fn scalar(&mut self, text: Cow<'s, str>, style: Style, at: Span) -> Node<'s> {
        if text.contains('\0') {
            self.findings.error(
                at,
                "the value contains a NUL character",
                Some("remove the `\\0`".to_owned()),
            );
        }
        if style == Style::Plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL") {
            return Node {
                at,
                value: Value::Null,
            };
        }
        // A plain scalar's span may run on to the next token; what was written is what counts.
        let at = match (&text, style) {
            (Cow::Borrowed(text), Style::Plain) => Span::new(at.start, at.start + text.len()),
            _ => at,
        };
        Node {
            at,
            value: Value::Scalar(Scalar { text, style }),
        }
    }

    fn open(
        &mut self,
        inside: Inside<'s>,
        anchor: usize,
        tag: Option<&Tag>,
        kind: &str,
        at: Span,
    ) -> Result<(), Stop> {
        if let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == kind)) {
            self.unknown_tag(tag, at);
        }
        let nodes_before = self.nodes;
        self.count(1, 1, at)?;
        self.stack.push(Open {
            at,
            anchor,
            nodes_before,
            depth: 0,
            inside,
        });
        Ok(())
    }

    /// Counts `nodes` more, `depth` levels deep, against the limits.
    fn count(&mut self, nodes: usize, depth: usize, at: Span) -> Result<(), Stop> {
        if self.stack.len() + depth > MAX_DEPTH {
            self.too_deep(at);
            return Err(Stop);
        }
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            self.findings.error(
                at,
                format!("the file holds more than {MAX_NODES} values, with aliases written out"),
                Some("split it into several files, or use fewer aliases".to_owned()),
            );
            return Err(Stop);
        }
        Ok(())
    }

    fn too_deep(&mut self, at: Span) {
        self.findings.error(
            at,
            format!("values are nested more than {MAX_DEPTH} levels deep here"),
            Some("a pipeline needs about eight; is a bracket not closed?".to_owned()),
        );
    }

    fn close(&mut self, end: Span) -> Result<(), Stop> {
        let open = self.stack.pop().expect("the parser pairs starts and ends");
        let at = Span::new(open.at.start, end.end.max(open.at.start));
        let value = match open.inside {
            Inside::List(items) => Value::List(items),
            Inside::Map { entries, .. } => Value::Map(self.merged(entries)),
        };
        self.finished(
            Node { at, value },
            open.anchor,
            self.nodes - open.nodes_before,
            open.depth + 1,
        )
    }

    fn alias(&mut self, anchor: usize, at: Span) -> Result<(), Stop> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            self.findings.error(
                at,
                "this alias stands inside the value that it stands for",
                Some("write the value out".to_owned()),
            );
            return Err(Stop);
        };
        let (nodes, depth) = (anchored.nodes, anchored.depth);
        self.count(nodes, depth, at)?;
        // The limits are checked before anything is copied: a bomb never goes off.
        let node = self.anchors[&anchor].node.clone();
        self.finished(node, 0, nodes, depth)
    }

    fn finished(
        &mut self,
        node: Node<'s>,
        anchor: usize,
        nodes: usize,
        depth: usize,
    ) -> Result<(), Stop> {
        if anchor > 0 {
            // The copy that is kept for aliases takes memory too.
            self.count(nodes, 0, node.at)?;
            self.anchors.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    nodes,
                    depth,
                },
            );
        }
        let Some(open) = self.stack.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.depth = open.depth.max(depth);
        match &mut open.inside {
            Inside::List(items) => items.push(node),
            Inside::Map { entries, key } => match key.take() {
                Some((key, key_at)) => {
                    let mut node = node;
                    if matches!(node.value, Value::Null) && node.at.start == node.at.end {
                        // Nothing was written, so the parser points at whatever comes next.
                        node.at = key_at;
                    }
                    entries.push(Entry { key, key_at, node });
                }
                None => match node.value {
                    Value::Scalar(scalar) => *key = Some((scalar.text, node.at)),
                    Value::Null => *key = Some((Cow::Borrowed("null"), node.at)),
                    Value::List(_) | Value::Map(_) => {
                        *key = Some((Cow::Borrowed("?"), node.at));
                        self.findings.error(
                            node.at,
                            "a key must be text",
                            Some("quote values that start with `{` or `[`".to_owned()),
                        );
                    }
                },
            },
        }
        Ok(())
    }

    /// The entries with duplicates reported and `<<` written out.
    fn merged(&mut self, entries: Vec<Entry<'s>>) -> Vec<Entry<'s>> {
        self.report_duplicates(&entries);
        if !entries.iter().any(|entry| entry.key == "<<") {
            return entries;
        }
        let (merges, mut own): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.key == "<<");
        let mut names: HashSet<Cow<'s, str>> = own.iter().map(|entry| entry.key.clone()).collect();
        for merge in merges {
            let sources = match merge.node.value {
                Value::List(sources) => sources,
                Value::Null | Value::Scalar(_) | Value::Map(_) => vec![merge.node],
            };
            for source in sources {
                match source.value {
                    Value::Map(entries) => {
                        for entry in entries {
                            if names.insert(entry.key.clone()) {
                                own.push(entry);
                            }
                        }
                    }
                    Value::Null | Value::Scalar(_) | Value::List(_) => self.findings.error(
                        source.at,
                        "`<<` merges mappings only",
                        Some("give it an alias of a mapping, like `<<: *defaults`".to_owned()),
                    ),
                }
            }
        }
        own
    }

    fn report_duplicates(&mut self, entries: &[Entry<'s>]) {
        let mut clash = |first: &Entry<'s>, again: &Entry<'s>| {
            self.findings.clash(
                again.key_at,
                format!("the key `{}` is written twice", shown(&again.key)),
                first.key_at,
                "first written here",
            );
        };
        // Most maps are small, and comparing is then cheaper than hashing.
        if entries.len() <= 16 {
            for (index, entry) in entries.iter().enumerate() {
                if let Some(first) = entries[..index].iter().find(|first| first.key == entry.key) {
                    clash(first, entry);
                }
            }
            return;
        }
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = seen.get(entry.key.as_ref()) {
                clash(&entries[*first], entry);
            } else {
                seen.insert(&entry.key, index);
            }
        }
    }

    fn syntax_error(&mut self, error: &ScanError) {
        if error.info().contains("recursion limit") {
            let at = self.offsets.of(*error.marker());
            self.too_deep(Span::new(at, at + 1));
            return;
        }
        let start = self
            .offsets
            .of(*error.marker())
            .min(self.offsets.text.len());
        let (at, fix) = explain(self.offsets.text, start, error.info());
        self.findings
            .error(at, format!("this is not valid YAML: {}", error.info()), fix);
    }
}

/// Where a syntax error is best shown, and the likely mistake.
fn explain(text: &str, start: usize, info: &str) -> (Span, Option<String>) {
    // An error at the end of the text is best shown at the last line that says something.
    let start = if text[start..].trim().is_empty() {
        text.trim_end().len()
    } else {
        start
    };
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or("");
    let at = Span::new(start, (start + 1).min(text.len()));
    let indent = &line[..line.len() - line.trim_start().len()];
    if let Some(tab) = indent.find('\t') {
        let tab = line_start + tab;
        return (
            Span::new(tab, tab + 1),
            Some("YAML forbids tabs for indentation: use spaces".to_owned()),
        );
    }
    let fix = if info.contains("mapping values are not allowed") {
        "check the indentation; quote a value that contains `: `"
    } else if info.contains("quote") || info.contains("quoted") {
        "close the quote, and indent each further line of the text"
    } else if info.contains("anchor") {
        "define it first with `&name`, or quote a value that starts with `*`"
    } else if info.contains("flow") || info.contains("','") {
        "close the bracket, and put a comma between values"
    } else if info.contains("block") || info.contains("simple key") || info.contains("':'") {
        "check that this line and its neighbours are indented alike, and that each key ends with `: `"
    } else {
        return (at, None);
    };
    (at, Some(fix.to_owned()))
}

/// From the parser's positions, in characters, to bytes. They come in order, nearly, so each is
/// found from the one before.
struct Offsets<'s> {
    text: &'s str,
    ascii: bool,
    char_index: usize,
    byte: usize,
}

impl Offsets<'_> {
    fn of(&mut self, marker: Marker) -> usize {
        let wanted = marker.index();
        if self.ascii {
            return wanted.min(self.text.len());
        }
        let bytes = self.text.as_bytes();
        let continues = |byte: usize| bytes.get(byte).is_some_and(|b| b & 0xc0 == 0x80);
        while self.char_index < wanted && self.byte < bytes.len() {
            self.byte += 1;
            while continues(self.byte) {
                self.byte += 1;
            }
            self.char_index += 1;
        }
        while self.char_index > wanted {
            self.byte -= 1;
            while continues(self.byte) {
                self.byte -= 1;
            }
            self.char_index -= 1;
        }
        self.byte
    }
}
