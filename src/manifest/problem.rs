//! What is wrong with a file, in words, and where.
//!
//! A [`Finding`] holds its own line of the file, so that it outlives the text: the last problem of
//! a watched file is kept for as long as it lasts.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use crate::model::Problem;

/// Findings kept per file. A file with more is broken in one way, many times over.
const MAX_FINDINGS: usize = 100;

/// A line longer than this, in bytes, is machine-made: showing it would hide the finding.
const LONGEST_LINE: usize = 2_000;

/// A stretch of the file's text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// Whether a finding keeps the file from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used as it is.
    Error,
    /// The file is used; its author should know.
    Warning,
}

/// One thing to tell the author of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it keeps the file from being used.
    pub severity: Severity,
    /// Line, from 1; `None` when the whole file is meant.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub fix: Option<String>,
    excerpt: Option<Excerpt>,
    related: Option<(Excerpt, &'static str)>,
}

/// The line that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: u32,
    column: u32,
    text: Option<String>,
    mark: Range<usize>,
}

impl Excerpt {
    /// The line of `span`; without its text when that is too long to be read.
    fn cut(source: &str, span: Span) -> Self {
        let at = floor(source, span.start.min(source.len()));
        let before = &source.as_bytes()[..at];
        let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
        let length = memchr::memchr(b'\n', &source.as_bytes()[at..]);
        let end = length.map_or(source.len(), |length| at + length);
        let line = source[start..end].trim_end_matches('\r');
        let from = (at - start).min(line.len());
        // A mark of no width would not be drawn.
        let next = line[from..]
            .chars()
            .next()
            .map_or(from, |c| from + c.len_utf8());
        let stop = floor(source, span.end.clamp(at, end)) - start;
        Self {
            line: count(memchr::memchr_iter(b'\n', before).count()),
            column: count(source[start..at].chars().count()),
            text: (line.len() <= LONGEST_LINE).then(|| line.to_owned()),
            mark: from..stop.clamp(from, line.len()).max(next),
        }
    }
}

/// A count from 0 as a number from 1.
fn count(zero_based: usize) -> u32 {
    u32::try_from(zero_based)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// `text` as it can be shown inside a sentence: short, on one line, nothing invisible.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        cut.push('…');
    }
    cut.replace("\\'", "'").replace("\\\"", "\"")
}

/// Where the findings about one text are gathered.
#[derive(Debug)]
pub(super) struct Findings<'s> {
    source: &'s str,
    list: Vec<(usize, Finding)>,
    errors: usize,
    left_out: usize,
}

impl<'s> Findings<'s> {
    pub(super) fn about(source: &'s str) -> Self {
        Self {
            source,
            list: Vec::new(),
            errors: 0,
            left_out: 0,
        }
    }

    pub(super) fn error(
        &mut self,
        at: Span,
        message: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) {
        self.push(Severity::Error, at, message.into(), fix.into(), None);
    }

    /// An error about two places: `earlier` is shown too, labelled `why`.
    pub(super) fn clash(
        &mut self,
        at: Span,
        message: impl Into<String>,
        earlier: Span,
        why: &'static str,
    ) {
        self.push(
            Severity::Error,
            at,
            message.into(),
            None,
            Some((earlier, why)),
        );
    }

    /// A clash that can be mended in more ways than by removing one of the two.
    pub(super) fn clash_to_mend(
        &mut self,
        at: Span,
        message: impl Into<String>,
        fix: impl Into<String>,
        other: Span,
        why: &'static str,
    ) {
        let (message, fix) = (message.into(), Some(fix.into()));
        self.push(Severity::Error, at, message, fix, Some((other, why)));
    }

    pub(super) fn warn(
        &mut self,
        at: Span,
        message: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) {
        self.push(Severity::Warning, at, message.into(), fix.into(), None);
    }

    /// The line of `at`, from 1.
    pub(super) fn line(&self, at: Span) -> u32 {
        let before = &self.source.as_bytes()[..at.start.min(self.source.len())];
        count(memchr::memchr_iter(b'\n', before).count())
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether another finding would be kept: a costly suggestion is worth its time only then.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MAX_FINDINGS
    }

    fn push(
        &mut self,
        severity: Severity,
        at: Span,
        message: String,
        fix: Option<String>,
        related: Option<(Span, &'static str)>,
    ) {
        let errors_were = self.errors;
        self.errors += usize::from(severity == Severity::Error);
        // A warning must not take the place of the error that makes the file unusable.
        if self.is_full() && (severity == Severity::Warning || errors_were > 0) {
            self.left_out += 1;
            return;
        }
        // A value that several components share is read once for each of them.
        if self
            .list
            .iter()
            .any(|(start, known)| *start == at.start && known.message == message)
        {
            return;
        }
        let excerpt = Excerpt::cut(self.source, at);
        self.list.push((
            at.start,
            Finding {
                severity,
                line: Some(excerpt.line),
                column: Some(excerpt.column),
                message,
                fix,
                excerpt: Some(excerpt),
                related: related.map(|(span, why)| (Excerpt::cut(self.source, span), why)),
            },
        ));
    }

    /// All of them in the order of the text.
    pub(super) fn finish(mut self, file: &str) -> Problems {
        self.list.sort_by_key(|(start, _)| *start);
        Problems {
            file: file.to_owned(),
            findings: self.list.into_iter().map(|(_, finding)| finding).collect(),
            left_out: self.left_out,
        }
    }
}

/// Everything that is to be said about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file, as its author named it.
    pub file: String,
    /// In the order of the text.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub left_out: usize,
}

/// Whether rendered text carries terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Off,
    /// ANSI escapes.
    On,
}

/// The form of a finding in `validate -o json`. Fields are only ever added.
#[derive(Serialize)]
struct Row<'a> {
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    severity: Severity,
    message: &'a str,
    fix: Option<&'a str>,
}

impl Problems {
    /// One error about a whole file: it cannot be read, is too large, is gone.
    pub fn whole_file(file: &str, message: impl Into<String>, fix: Option<String>) -> Self {
        Self::at(file, None, message.into(), fix)
    }

    /// One error at a line and column of a text that is not at hand, or not text at all.
    pub(super) fn at(
        file: &str,
        place: Option<(u32, u32)>,
        message: String,
        fix: Option<String>,
    ) -> Self {
        let finding = Finding {
            severity: Severity::Error,
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            message,
            fix,
            excerpt: None,
            related: None,
        };
        Self {
            file: file.to_owned(),
            findings: vec![finding],
            left_out: 0,
        }
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// The errors among the findings.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
    }

    /// All findings as people read them, in the look of rustc, ending with a newline.
    pub fn render(&self, colour: Colour) -> String {
        let renderer = match colour {
            Colour::Off => Renderer::plain(),
            Colour::On => Renderer::styled(),
        };
        let mut text = String::new();
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            text.push_str(&finding.render(&self.file, &renderer));
            text.push('\n');
        }
        if self.left_out > 0 {
            text.push_str(&format!("\n... and {} more\n", self.left_out));
        }
        text
    }

    /// All findings as a JSON list, for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let rows = self.findings.iter().map(|finding| Row {
            file: &self.file,
            line: finding.line,
            column: finding.column,
            severity: finding.severity,
            message: &finding.message,
            fix: finding.fix.as_deref(),
        });
        serde_json::to_value(rows.collect::<Vec<_>>()).expect("a row is plain data")
    }

    /// All findings of one kind, for programs; `path` is where the file lies.
    pub fn rows(&self, severity: Severity, path: Option<&Path>) -> Vec<Problem> {
        let of_kind = self.findings.iter().filter(|it| it.severity == severity);
        of_kind
            .map(|finding| Problem {
                file: path.map(Path::to_path_buf),
                line: finding.line,
                column: finding.column,
                message: finding.one_line(),
            })
            .collect()
    }

    /// The first error as `status` shows it, for the file at `path`; `None` without an error.
    pub fn first(&self, path: Option<&Path>) -> Option<Problem> {
        let first = self.errors().next()?;
        let others = self.errors().count() - 1 + self.left_out;
        let mut message = first.one_line();
        match others {
            0 => {}
            1 => message.push_str(" (and 1 more problem)"),
            _ => message.push_str(&format!(" (and {others} more problems)")),
        }
        Some(Problem {
            file: path.map(Path::to_path_buf),
            line: first.line,
            column: first.column,
            message,
        })
    }
}

impl fmt::Display for Problems {
    /// One line for each finding: `file:line:column: what is wrong; what to write`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let (Some(line), Some(column)) = (finding.line, finding.column) {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {}", finding.one_line())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Finding {
    /// What is wrong and what to write instead, without a line break.
    pub fn one_line(&self) -> String {
        match &self.fix {
            Some(fix) => format!("{}; {fix}", self.message),
            None => self.message.clone(),
        }
    }

    fn render(&self, file: &str, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let shown = self
            .excerpt
            .as_ref()
            .filter(|excerpt| excerpt.text.is_some());
        // A short fix stands at the caret, where the eye is; a long one below.
        let (label, help) = match &self.fix {
            Some(fix) if fix.chars().count() <= 56 && shown.is_some() => (Some(fix.as_str()), None),
            Some(fix) => (None, Some(fix.as_str())),
            None => (None, None),
        };
        let mut group = match shown {
            Some(excerpt) => title.element(excerpt.draw(file, AnnotationKind::Primary, label)),
            None => {
                let place = self.line.zip(self.column);
                title.element(place.map_or(Origin::path(file), |(line, column)| {
                    Origin::path(file)
                        .line(line as usize)
                        .char_column(column as usize)
                }))
            }
        };
        if let Some((excerpt, why)) = &self.related {
            group = group.element(excerpt.draw(file, AnnotationKind::Primary, Some(why)));
        }
        if let Some(help) = help {
            let help = annotate_snippets::normalize_untrusted_str(help);
            return renderer.render(&[group.element(Level::HELP.message(help))]);
        }
        renderer.render(&[group])
    }
}

impl Excerpt {
    fn draw<'a>(
        &'a self,
        file: &'a str,
        kind: AnnotationKind,
        label: Option<&'a str>,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        Snippet::source(self.text.as_deref().unwrap_or_default())
            .path(file)
            .line_start(self.line as usize)
            .annotation(kind.span(self.mark.clone()).label(label))
    }
}
