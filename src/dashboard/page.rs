//! Pages of lines: what components wrote, what happened, reasons, graphs. Pure.

use std::collections::VecDeque;

use crate::api::{LogBatch, LogEntry, StreamName};
use crate::model::{Event, InstanceId, ReplicaKey, Snapshot};
use crate::text::{Tone, clean, columns_of, event_place, event_tone, tone, width};

use super::state::{Content, Scroll, Ui, Wrap};

/// Lines that a page of logs or events holds.
const MOST_LINES: usize = 5_000;
/// Bytes that a page of logs holds.
const MOST_BYTES: usize = 8 << 20;
/// So much of one line is shown: what is longer is better looked at in the file.
const LONGEST: usize = 16 << 10;

/// What components wrote, the newest lines of it.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    lines: VecDeque<LogLine>,
    /// The number of the first line that is held.
    first: u64,
    bytes: usize,
    /// The names before the lines are this wide.
    name_width: usize,
    /// The components that were met, for their colours.
    met: Vec<ReplicaKey>,
}

#[derive(Clone, Debug)]
struct LogLine {
    /// Whose; `None` = a remark of ours.
    writer: Option<(InstanceId, StreamName)>,
    /// Where it was met first.
    series: usize,
    text: String,
    /// Whether its writer has not ended it yet.
    is_open: bool,
}

impl LogPage {
    /// Adds lines that came.
    pub fn add(&mut self, batch: LogBatch) {
        for entry in batch.entries {
            self.add_entry(entry);
        }
        for trouble in batch.troubles {
            self.remark(trouble.to_string());
        }
        if batch.left_out {
            self.remark("more is written than can be shown; lines are left out here".to_owned());
        }
    }

    fn add_entry(&mut self, entry: LogEntry) {
        let writer = (entry.instance.clone(), entry.stream);
        // Parts of a line follow each other closely.
        let mut recent = self.lines.iter_mut().rev().take(64);
        let open = recent.find(|line| line.writer.as_ref() == Some(&writer));
        if let Some(line) = open.filter(|line| line.is_open) {
            let before = line.text.len();
            append(&mut line.text, &entry.text);
            line.is_open = entry.partial;
            self.bytes += line.text.len() - before;
            return;
        }
        let replica = &entry.instance.replica;
        let series = self.met.iter().position(|known| known == replica);
        let series = series.unwrap_or_else(|| {
            self.met.push(replica.clone());
            self.name_width = self.name_width.max(width(&replica.to_string()));
            self.met.len() - 1
        });
        let mut text = String::new();
        append(&mut text, &entry.text);
        self.push(LogLine {
            writer: Some(writer),
            series,
            text,
            is_open: entry.partial,
        });
    }

    fn remark(&mut self, text: String) {
        self.push(LogLine {
            writer: None,
            series: 0,
            text: clean(&text).into_owned(),
            is_open: false,
        });
    }

    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > MOST_LINES || (self.bytes > MOST_BYTES && self.lines.len() > 1) {
            if let Some(gone) = self.lines.pop_front() {
                self.bytes -= gone.text.len();
                self.first += 1;
            }
        }
    }

    fn line(&self, index: usize) -> PageLine {
        let Some(line) = self.lines.get(index) else {
            return PageLine::default();
        };
        let Some((instance, stream)) = &line.writer else {
            return PageLine::toned(format!("-- {} --", line.text), Tone::Unknown);
        };
        let mut spans = Vec::new();
        if self.met.len() > 1 {
            let name = instance.replica.to_string();
            let padding = " ".repeat(self.name_width.saturating_sub(width(&name)));
            spans.push((name, Some(Tone::Series(line.series))));
            spans.push((format!("{padding} | "), Some(Tone::Dim)));
        }
        let tone = match stream {
            StreamName::Stdout => None,
            StreamName::Stderr => Some(Tone::Moving),
        };
        spans.push((line.text.clone(), tone));
        PageLine { spans }
    }
}

/// Appends what a component wrote as it may be shown: cleaned, tabs as blanks, not too long.
fn append(text: &mut String, more: &str) {
    let mut end = more.len().min(LONGEST.saturating_sub(text.len()));
    while !more.is_char_boundary(end) {
        end -= 1;
    }
    let mut filled = width(text);
    for c in clean(&more[..end]).chars() {
        if text.len() >= LONGEST {
            return;
        }
        if c == '\t' {
            let blanks = 8 - filled % 8;
            text.extend(std::iter::repeat_n(' ', blanks));
            filled += blanks;
        } else {
            text.push(c);
            filled += columns_of(c);
        }
    }
    if end < more.len() && !text.ends_with('…') {
        text.push('…');
    }
}

/// What happened, the newest of it.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    events: VecDeque<Event>,
    first: u64,
}

impl EventPage {
    /// Adds what happened.
    pub fn add(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.events.push_back(event);
            if self.events.len() > MOST_LINES {
                self.events.pop_front();
                self.first += 1;
            }
        }
    }

    fn line(&self, index: usize) -> PageLine {
        let Some(event) = self.events.get(index) else {
            return PageLine::default();
        };
        let at = event.at.to_string();
        let at = at.get(..19).unwrap_or(&at).replace('T', " ");
        PageLine {
            spans: vec![
                (format!("{at}  "), Some(Tone::Dim)),
                (
                    format!("{:<13}  ", event.kind.to_string()),
                    Some(event_tone(event.kind)),
                ),
                (format!("{:<24}  ", event_place(event)), None),
                (clean(&event.message).into_owned(), None),
            ],
        }
    }
}

/// A line as it is shown.
#[derive(Clone, Debug, Default)]
pub struct PageLine {
    /// Its parts with their colours.
    pub spans: Vec<(String, Option<Tone>)>,
}

impl PageLine {
    fn toned(text: String, tone: Tone) -> Self {
        Self {
            spans: vec![(text, Some(tone))],
        }
    }

    fn plain(text: String) -> Self {
        Self {
            spans: vec![(text, None)],
        }
    }

    /// Without colours.
    pub fn text(&self) -> String {
        self.spans.iter().map(|(text, _)| text.as_str()).collect()
    }

    /// The line in rows of at most `columns`: the parts of each.
    pub fn rows(&self, columns: usize, wrap: Wrap) -> Vec<Vec<(String, Option<Tone>)>> {
        let mut rows = vec![Vec::new()];
        let mut used = 0;
        for (text, tone) in &self.spans {
            let mut part = String::new();
            for c in text.chars() {
                // It makes an emoji of the letter before, which is wider then.
                let wide = if c == '\u{fe0f}' { 1 } else { columns_of(c) };
                if used + wide > columns && used > 0 {
                    match wrap {
                        Wrap::Off => {
                            last(&mut rows).push((part, *tone));
                            return rows;
                        }
                        Wrap::On => {
                            last(&mut rows).push((std::mem::take(&mut part), *tone));
                            rows.push(Vec::new());
                            used = 0;
                        }
                    }
                }
                used += wide;
                part.push(c);
            }
            last(&mut rows).push((part, *tone));
        }
        rows
    }
}

fn last<T>(rows: &mut [T]) -> &mut T {
    rows.last_mut().expect("there is always one row")
}

/// The number of the first line, and that after the last one.
pub fn range(content: &Content) -> (u64, u64) {
    let (first, count) = match content {
        Content::None | Content::Usage(_) => (0, 0),
        Content::Logs(page) => (page.first, page.lines.len()),
        Content::Events(page) => (page.first, page.events.len()),
        Content::Why(lines) => (0, lines.len()),
        Content::Graph(tree) => (0, tree.len()),
    };
    (first, first + u64::try_from(count).unwrap_or(0))
}

/// The line of number `number`.
pub fn line(content: &Content, number: u64, snapshot: Option<&Snapshot>, ui: &Ui) -> PageLine {
    let (first, _) = range(content);
    let index = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
    match content {
        Content::None | Content::Usage(_) => PageLine::default(),
        Content::Logs(page) => page.line(index),
        Content::Events(page) => page.line(index),
        Content::Why(lines) => {
            let text = lines.get(index).cloned().unwrap_or_default();
            let is_heading = !text.starts_with(' ');
            if is_heading {
                PageLine::toned(text, Tone::Strong)
            } else {
                PageLine::plain(text)
            }
        }
        Content::Graph(tree) => {
            let Some(branch) = tree.get(index) else {
                return PageLine::default();
            };
            let mut spans = vec![
                (format!("  {}", branch.trunk), Some(Tone::Dim)),
                (branch.id.to_string(), Some(Tone::Strong)),
                (branch.note.clone(), Some(Tone::Dim)),
            ];
            if let super::state::View::Graph(key) = &ui.view {
                let replicas = snapshot.iter().flat_map(|snapshot| snapshot.replicas());
                let of_it = replicas.filter(|(pipeline, component, _)| {
                    component.id == branch.id
                        && pipeline.name == key.name
                        && pipeline.namespace == key.namespace
                });
                for (_, _, replica) in of_it {
                    let phase = replica.phase;
                    spans.push((format!("  {phase}"), Some(tone(phase))));
                }
            }
            PageLine { spans }
        }
    }
}

/// The number of the first line that is shown in a window of `columns` and `height`.
pub fn top(
    content: &Content,
    snapshot: Option<&Snapshot>,
    ui: &Ui,
    (columns, height): (usize, usize),
) -> u64 {
    let (first, end) = range(content);
    let last_page = || {
        let mut left = height;
        let mut top = end;
        while top > first {
            let rows = match ui.wrap {
                Wrap::Off => 1,
                Wrap::On => line(content, top - 1, snapshot, ui)
                    .rows(columns, Wrap::On)
                    .len(),
            };
            if rows > left {
                // A line that is longer than the window is shown from its beginning.
                return if top == end { top - 1 } else { top };
            }
            left -= rows;
            top -= 1;
        }
        top
    };
    match ui.scroll {
        Scroll::End => last_page(),
        Scroll::From(at) => at.clamp(first, last_page().max(first)),
    }
}

/// Where `search` stands in `text`; without capitals in it they do not count.
pub fn matches(text: &str, search: &str) -> Vec<std::ops::Range<usize>> {
    if search.is_empty() {
        return Vec::new();
    }
    if search.chars().any(char::is_uppercase) {
        let found = text.match_indices(search);
        return found.map(|(at, found)| at..at + found.len()).collect();
    }
    let lower = text.to_lowercase();
    if lower.len() != text.len() {
        // Few letters change their length; where one does, exactly what was typed is found.
        let found = text.match_indices(search);
        return found.map(|(at, found)| at..at + found.len()).collect();
    }
    let found = lower.match_indices(search);
    found
        .map(|(at, found)| at..at + found.len())
        .filter(|range| text.is_char_boundary(range.start) && text.is_char_boundary(range.end))
        .collect()
}

/// The number of the next line that has what is searched for, beginning after `from`, or before it.
pub fn find(
    content: &Content,
    snapshot: Option<&Snapshot>,
    ui: &Ui,
    from: u64,
    direction: Direction,
) -> Option<u64> {
    let (first, end) = range(content);
    let has = |number: &u64| {
        let text = line(content, *number, snapshot, ui).text();
        !matches(&text, &ui.search).is_empty()
    };
    match direction {
        Direction::Later => (from.max(first)..end).find(has),
        Direction::Earlier => (first..from.min(end)).rev().find(has),
    }
}

/// Which way to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the end.
    Later,
    /// Towards the beginning.
    Earlier,
}
