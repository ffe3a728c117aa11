//! Which lines a reader wants by what stands in them: a pattern, a level, fields.
//!
//! **Expected flow.** [`Filter::new`] takes what was asked apart once. The reader of a replica asks
//! `passes_over` about what it has read ahead, which takes whole records that nobody wants
//! without making lines of them, and `wants` about each line that is left.
//!
//! **Guarantees.** A line without a level that is left out for that is counted
//! ([`Filter::without_level`]). A line that goes on over several records is never judged by a part.
//!
//! **Caveats.** A line of more than 1 MiB is judged by the first part of that size, and after that by
//! each further one.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::replica::HEADER;

/// How much a line says that it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find a defect.
    Debug,
    /// What happens.
    Info,
    /// What may go wrong.
    Warn,
    /// What went wrong.
    Error,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// Whether upper and lower case are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Case {
    /// They are.
    #[default]
    Told,
    /// They are not.
    Ignored,
}

/// Which lines a pattern asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sense {
    /// Those that match.
    #[default]
    Matching,
    /// Those that do not.
    Others,
}

/// What is asked of lines. All of it has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A regular expression.
    pub pattern: Option<String>,
    /// How it compares letters.
    pub case: Case,
    /// Which lines it asks for.
    pub sense: Sense,
    /// So many lines before each wanted one are shown too.
    pub before: usize,
    /// So many lines after each wanted one are shown too.
    pub after: usize,
    /// This level or a higher one.
    pub level: Option<Level>,
    /// Fields of JSON and logfmt lines, and what they are.
    pub fields: Vec<(String, String)>,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a pattern: {why}")]
pub struct BadPattern {
    pattern: String,
    why: String,
}

/// What is asked of lines, ready to be compared.
#[derive(Debug)]
pub struct Filter {
    pattern: Option<Pattern>,
    sense: Sense,
    level: Option<Level>,
    fields: Vec<Field>,
    /// The fields of an object that are looked at.
    looked_at: Vec<String>,
    pub(super) before: usize,
    pub(super) after: usize,
    without_level: AtomicU64,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    /// The same, where it is a plain word.
    word: Option<Finder<'static>>,
}

#[derive(Debug)]
struct Field {
    /// As it was asked.
    name: String,
    /// The names on the way to it, where it is inside of another one.
    path: Vec<String>,
    value: String,
    /// What stands in each line that has the value; `None` = it may be written in several ways.
    sign: Option<Finder<'static>>,
}

/// What was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed<'a> {
    /// So many bytes, which are whole records.
    pub(super) bytes: usize,
    /// The beginning of the last of them.
    pub(super) last: &'a [u8],
    /// How many of the last ones have the same time.
    pub(super) of_its_time: u64,
}

/// Where a time is in a record.
const TIME: usize = 30;

impl Filter {
    /// Takes apart what was asked; `None` = nothing was.
    ///
    /// # Errors
    /// When the pattern is no regular expression.
    pub fn new(asked: &Asked) -> Result<Option<Self>, BadPattern> {
        if asked.pattern.is_none() && asked.level.is_none() && asked.fields.is_empty() {
            return Ok(None);
        }
        let pattern = match &asked.pattern {
            Some(text) => Some(Pattern::new(text, asked.case)?),
            None => None,
        };
        let fields: Vec<Field> = asked
            .fields
            .iter()
            .map(|(name, value)| Field::new(name, value))
            .collect();
        let mut looked_at: Vec<String> = Vec::new();
        for field in &fields {
            looked_at.push(field.name.clone());
            looked_at.extend(field.path.first().cloned());
        }
        Ok(Some(Self {
            pattern,
            sense: asked.sense,
            level: asked.level,
            fields,
            looked_at,
            before: asked.before,
            after: asked.after,
            without_level: AtomicU64::new(0),
        }))
    }

    /// Whether a line is wanted.
    pub(super) fn wants(&self, text: &[u8]) -> bool {
        if let Some(pattern) = &self.pattern {
            let is_wanted = match self.sense {
                Sense::Matching => pattern.matches(text),
                Sense::Others => !pattern.matches(text),
            };
            if !is_wanted {
                return false;
            }
        }
        if !self.fields.iter().all(|field| field.may_be_in(text)) {
            return false;
        }
        if !self.fields.is_empty() {
            let object = object(text, |name| {
                self.looked_at.iter().any(|known| known == name)
            });
            if !self
                .fields
                .iter()
                .all(|field| field.is_in(object.as_deref(), text))
            {
                return false;
            }
        }
        match self.level {
            None => true,
            Some(least) => match level(text) {
                Some(level) => level >= least,
                None => {
                    self.without_level.fetch_add(1, Ordering::Relaxed);
                    false
                }
            },
        }
    }

    /// How many lines were left out since they have no level.
    pub fn without_level(&self) -> u64 {
        self.without_level.load(Ordering::Relaxed)
    }

    /// Whether lines around wanted ones are shown.
    pub(super) fn has_context(&self) -> bool {
        self.before > 0 || self.after > 0
    }

    /// The records at the beginning of `ahead` of which no line is wanted. It ends before the first
    /// one that is not a whole line. `judged` says whether a line of this time is asked about at
    /// all: one that is not is passed over.
    pub(super) fn passes_over<'a>(
        &self,
        ahead: &'a [u8],
        judged: impl Fn(&[u8]) -> bool,
    ) -> Option<Passed<'a>> {
        // Where a plain word is asked for, nothing before it has to be looked at.
        let word = self.pattern.as_ref().and_then(|it| it.word.as_ref());
        let word = word.filter(|_| self.sense == Sense::Matching);
        let clear = word.map_or(0, |word| word.find(ahead).unwrap_or(ahead.len()));
        let mut passed: Option<Passed<'a>> = None;
        let mut at = 0;
        while let Some(length) = memchr::memchr(b'\n', &ahead[at..]) {
            let end = at + length + 1;
            let record = &ahead[at..end];
            let Some(text) = whole_line(record) else {
                break;
            };
            let is_clear = end <= clear;
            if !is_clear && judged(record) && self.wants(text) {
                break;
            }
            let time = &record[..TIME];
            passed = Some(match passed {
                Some(before) if &before.last[..TIME] == time => Passed {
                    bytes: end,
                    last: record,
                    of_its_time: before.of_its_time + 1,
                },
                Some(_) | None => Passed {
                    bytes: end,
                    last: record,
                    of_its_time: 1,
                },
            });
            at = end;
        }
        passed
    }
}

/// The text of a record that is a whole line; `None` = it is something else.
fn whole_line(record: &[u8]) -> Option<&[u8]> {
    let (header, text) = record.split_at_checked(HEADER)?;
    let is_whole = matches!(&header[TIME..], b" stdout F " | b" stderr F ");
    is_whole.then(|| text.strip_suffix(b"\n").unwrap_or(text))
}

impl Pattern {
    fn new(text: &str, case: Case) -> Result<Self, BadPattern> {
        let bad = |why: String| BadPattern {
            pattern: text.to_owned(),
            why,
        };
        let regex = RegexBuilder::new(text)
            .case_insensitive(case == Case::Ignored)
            .build()
            .map_err(|error| bad(plain(&error)))?;
        let is_word = case == Case::Told && !text.is_empty() && regex::escape(text) == text;
        Ok(Self {
            regex,
            word: is_word.then(|| Finder::new(text).into_owned()),
        })
    }

    fn matches(&self, text: &[u8]) -> bool {
        match &self.word {
            Some(word) => word.find(text).is_some(),
            None => self.regex.is_match(text),
        }
    }
}

/// The last line of what is wrong with a pattern: those before it draw it.
fn plain(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

impl Field {
    fn new(name: &str, value: &str) -> Self {
        let path: Vec<String> = name.split('.').map(str::to_owned).collect();
        // Whatever writes JSON writes these as they are.
        let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self {
            name: name.to_owned(),
            path: if path.len() > 1 { path } else { Vec::new() },
            value: value.to_owned(),
            sign: is_plain.then(|| Finder::new(value).into_owned()),
        }
    }

    /// Whether the value stands anywhere in the line.
    fn may_be_in(&self, text: &[u8]) -> bool {
        self.sign
            .as_ref()
            .is_none_or(|sign| sign.find(text).is_some())
    }

    fn is_in(&self, object: Option<&[(String, Value)]>, text: &[u8]) -> bool {
        let Some(object) = object else {
            return logfmt(text, self.name.as_bytes())
                .is_some_and(|found| *found == *self.value.as_bytes());
        };
        let member = |name: &str| object.iter().find(|(known, _)| known == name);
        if let Some((_, found)) = member(&self.name) {
            return is_value(found, &self.value);
        }
        let Some((first, rest)) = self.path.split_first() else {
            return false;
        };
        let found = member(first).and_then(|(_, outer)| {
            rest.iter()
                .try_fold(outer, |outer, name| outer.get(name.as_str()))
        });
        found.is_some_and(|found| is_value(found, &self.value))
    }
}

fn is_value(found: &Value, wanted: &str) -> bool {
    match found {
        Value::String(text) => text == wanted,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let written = found.to_string();
            written == wanted
        }
    }
}

/// Under which names programs write a level.
const LEVEL_NAMES: [&str; 6] = [
    "level",
    "severity",
    "lvl",
    "levelname",
    "log.level",
    "loglevel",
];

/// The level that a line gives itself; `None` = it gives none.
fn level(text: &[u8]) -> Option<Level> {
    let is_level = |name: &str| {
        LEVEL_NAMES
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    };
    if let Some(object) = object(text, |name| is_level(name) || name == "log") {
        return object.iter().find_map(|(name, value)| {
            if name == "log" {
                return value.get("level").and_then(level_of_value);
            }
            level_of_value(value)
        });
    }
    LEVEL_NAMES
        .iter()
        .find_map(|name| logfmt(text, name.as_bytes()))
        .and_then(|value| level_of_word(&value))
        .or_else(|| level_at_the_start(text))
}

fn level_of_value(value: &Value) -> Option<Level> {
    match value {
        Value::String(word) => level_of_word(word.as_bytes()),
        // As bunyan and pino count.
        Value::Number(number) => match number.as_u64()? {
            0..=10 => Some(Level::Trace),
            11..=20 => Some(Level::Debug),
            21..=30 => Some(Level::Info),
            31..=40 => Some(Level::Warn),
            _ => Some(Level::Error),
        },
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn level_of_word(word: &[u8]) -> Option<Level> {
    let is = |names: &[&str]| {
        names
            .iter()
            .any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    if is(&["info", "information", "informational", "notice"]) {
        Some(Level::Info)
    } else if is(&["warn", "warning"]) {
        Some(Level::Warn)
    } else if is(&["error", "err", "eror", "fatal", "critical", "crit", "panic"])
        || is(&["dpanic", "alert", "emerg", "emergency", "severe"])
    {
        Some(Level::Error)
    } else if is(&["debug", "dbg"]) {
        Some(Level::Debug)
    } else if is(&["trace", "verbose"]) {
        Some(Level::Trace)
    } else {
        None
    }
}

/// The level of a line that begins with it in capitals, or with a time and it.
fn level_at_the_start(text: &[u8]) -> Option<Level> {
    let head = &text[..text.len().min(160)];
    let head = without_escapes(head);
    for word in head
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        // `WARNING:root:..`, `[ERROR]`, `INFO:`.
        let bare = word.split(|byte| *byte == b':').next().unwrap_or(word);
        let bare = trimmed(bare, b"[]<>()|-");
        let is_capital = !bare.is_empty() && bare.iter().all(u8::is_ascii_uppercase);
        if is_capital && let Some(level) = level_of_word(bare) {
            return Some(level);
        }
        // Only what a time is made of may stand before it.
        if !word.iter().any(u8::is_ascii_digit) && !bare.is_empty() {
            return None;
        }
    }
    None
}

fn trimmed<'a>(mut word: &'a [u8], marks: &[u8]) -> &'a [u8] {
    while let [first, rest @ ..] = word
        && marks.contains(first)
    {
        word = rest;
    }
    while let [rest @ .., last] = word
        && marks.contains(last)
    {
        word = rest;
    }
    word
}

/// `text` without the sequences that colour it.
fn without_escapes(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(0x1b, text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte == 0x1b {
            bytes.find(|byte| byte.is_ascii_alphabetic());
        } else {
            plain.push(*byte);
        }
    }
    Cow::Owned(plain)
}

/// Those members of the JSON object that a line is, or ends with, that `wanted` names; `None` = it is
/// no object.
fn object(text: &[u8], wanted: impl Fn(&str) -> bool) -> Option<Vec<(String, Value)>> {
    let text = text.trim_ascii_end();
    if text.last() != Some(&b'}') {
        return None;
    }
    let start = memchr::memchr(b'{', text)?;
    let mut reader = serde_json::Deserializer::from_slice(&text[start..]);
    let members = reader.deserialize_map(Members { wanted }).ok()?;
    reader.end().ok()?;
    Some(members)
}

struct Members<F> {
    wanted: F,
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Members<F> {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            if (self.wanted)(&name) {
                members.push((name.into_owned(), map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(members)
    }
}

/// A text that is borrowed where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The value of `name` in a line of `name=value` pairs; `None` = it has none.
fn logfmt<'a>(text: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let mut from = 0;
    while let Some(found) = memchr::memmem::find(&text[from..], name) {
        let start = from + found;
        let end = start + name.len();
        from = end;
        let begins = start == 0 || text[start - 1].is_ascii_whitespace();
        if begins && text.get(end) == Some(&b'=') {
            return Some(logfmt_value(&text[end + 1..]));
        }
    }
    None
}

fn logfmt_value(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(u8::is_ascii_whitespace);
        return Cow::Borrowed(&text[..end.unwrap_or(text.len())]);
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => value.extend(bytes.next()),
            other => value.push(*other),
        }
    }
    Cow::Owned(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(asked: Asked) -> Filter {
        Filter::new(&asked).unwrap().unwrap()
    }

    fn fields(pairs: &[(&str, &str)]) -> Filter {
        let fields = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        filter(Asked {
            fields: fields.collect(),
            ..Asked::default()
        })
    }

    fn pattern(text: &str) -> Asked {
        Asked {
            pattern: Some(text.to_owned()),
            ..Asked::default()
        }
    }

    #[test]
    fn the_level_of_a_line_is_found_in_the_ways_in_which_programs_write_it() {
        for (text, wanted) in [
            (r#"{"level":"warn","msg":"x"}"#, Some(Level::Warn)),
            (r#"{"msg":"level","severity":"ERROR"}"#, Some(Level::Error)),
            (r#"{"lvl":"dbg"}"#, Some(Level::Debug)),
            (r#"{"level":50,"pid":7}"#, Some(Level::Error)),
            (r#"{"level":30}"#, Some(Level::Info)),
            (r#"{"log":{"level":"fatal"}}"#, Some(Level::Error)),
            (r#"{"log.level":"critical"}"#, Some(Level::Error)),
            (r#"{"msg":"level=error"}"#, None),
            (r#"{"level":"unheard of"}"#, None),
            (
                r#"time=2026-11-21 level=info msg="level=error""#,
                Some(Level::Info),
            ),
            (r#"level="panic" x=1"#, Some(Level::Error)),
            ("sublevel=error", None),
            ("2026-11-21 03:04:05,123 WARNING disk", Some(Level::Warn)),
            ("WARNING:root:disk", Some(Level::Warn)),
            ("[2026-11-21] [ERROR] disk", Some(Level::Error)),
            (
                "\x1b[2m2026-11-21T03:04:05Z\x1b[0m \x1b[32m INFO\x1b[0m main: up",
                Some(Level::Info),
            ),
            ("no ERROR was found", None),
            ("error in lower case", None),
            ("", None),
            ("{", None),
            ("{}", None),
            ("} {", None),
        ] {
            assert_eq!(level(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn a_field_is_compared_as_it_is_written_whatever_the_line_is() {
        for (name, value, text, wanted) in [
            ("status", "500", r#"{"status":500}"#, true),
            ("status", "500", r#"{"status":"500"}"#, true),
            ("status", "500", r#"{"status":5000}"#, false),
            ("status", "500", r#"{"other":500}"#, false),
            ("user.id", "7", r#"{"user":{"id":7}}"#, true),
            ("user.id", "7", r#"{"user.id":7}"#, true),
            ("user.id", "7", r#"{"user":7}"#, false),
            ("ok", "true", r#"2026-11-21 {"ok":true}"#, true),
            ("msg", "a b", r#"{"msg":"a\u0020b"}"#, true),
            ("msg", "a b", r#"msg="a b" x=1"#, true),
            ("msg", r#"a "b""#, r#"msg="a \"b\"""#, true),
            ("status", "500", "status=500 path=/x", true),
            ("status", "500", "xstatus=500", false),
            ("status", "500", "500 of status", false),
        ] {
            let filter = fields(&[(name, value)]);
            assert_eq!(
                filter.wants(text.as_bytes()),
                wanted,
                "{name}={value}: {text}"
            );
        }
        let both = fields(&[("a", "1"), ("b", "2")]);
        assert!(both.wants(b"a=1 b=2") && !both.wants(b"a=1 b=3"));
    }

    #[test]
    fn lines_without_a_level_are_counted_and_only_those_that_all_else_wants() {
        let filter = filter(Asked {
            level: Some(Level::Warn),
            ..pattern("disk")
        });
        assert!(filter.wants(b"ERROR disk"));
        assert!(!filter.wants(b"INFO disk"));
        assert_eq!(filter.without_level(), 0);
        assert!(!filter.wants(b"the disk is full"));
        assert!(!filter.wants(b"something else"));
        assert_eq!(filter.without_level(), 1);
    }

    #[test]
    fn a_pattern_may_ignore_case_and_may_ask_for_the_others() {
        let exact = filter(pattern("Disk"));
        assert!(exact.wants(b"a Disk") && !exact.wants(b"a disk"));
        let any = filter(Asked {
            case: Case::Ignored,
            ..pattern("disk")
        });
        assert!(any.wants(b"a DISK"));
        let others = filter(Asked {
            sense: Sense::Others,
            ..pattern("^a.*z$")
        });
        assert!(others.wants(b"abc") && !others.wants(b"a to z"));
    }

    #[test]
    fn a_pattern_that_is_none_is_told_in_one_line() {
        let error = Filter::new(&pattern("a(b")).unwrap_err().to_string();
        assert_eq!(error, "`a(b` is not a pattern: unclosed group");
        assert!(Filter::new(&Asked::default()).unwrap().is_none());
    }

    #[test]
    fn whole_lines_that_nobody_wants_are_passed_over_and_nothing_else() {
        let record = |second: u8, tag: char, text: &str| {
            format!("2026-11-21T03:04:{second:02}.000000000Z stdout {tag} {text}\n")
        };
        let table = [
            // The word stands in a later record, in none, in a part of a line.
            (
                record(1, 'F', "a") + &record(1, 'F', "b") + &record(2, 'F', "disk"),
                2,
                2,
            ),
            (record(1, 'F', "a") + &record(2, 'F', "b"), 2, 1),
            (
                record(1, 'F', "a") + &record(2, 'P', "di") + &record(3, 'F', "sk"),
                1,
                1,
            ),
            (record(1, 'F', "disk"), 0, 0),
            (
                record(1, 'F', "a") + "2026-11-21T03:04:05.123456789Z stdout R run 9\n",
                1,
                1,
            ),
            (record(1, 'F', "a") + "2026-11-21T03", 1, 1),
        ];
        for (ahead, records, of_its_time) in table {
            for text in ["disk", "d.sk"] {
                let filter = filter(pattern(text));
                let passed = filter.passes_over(ahead.as_bytes(), |_| true);
                let size = record(1, 'F', "a").len();
                assert_eq!(passed.map_or(0, |it| it.bytes), records * size, "{ahead}");
                assert_eq!(
                    passed.map_or(0, |it| it.of_its_time),
                    of_its_time,
                    "{ahead}"
                );
            }
        }
        let filter = filter(pattern("disk"));
        let unasked = record(1, 'F', "disk");
        assert!(filter.passes_over(unasked.as_bytes(), |_| false).is_some());
    }
}
