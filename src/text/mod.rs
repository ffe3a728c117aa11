//! Text as a terminal shows it: what is safe, how wide it is, which colour it has; and what a
//! replica, an event and a graph are in words. Pure.

mod event;
mod replica;
#[cfg(test)]
pub mod sample;

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::{PhaseName, Timestamp};

pub use event::{event_place, event_tone};
pub use replica::{bytes, cores, ended, limit, memory, replica_name, why};

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No escapes at all.
    Plain,
    /// ANSI colours.
    Coloured,
}

/// A colour by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Moving,
    /// Needs a look.
    Bad,
    /// Not known.
    Unknown,
    /// Less important.
    Dim,
    /// A title.
    Strong,
    /// One of six, to tell components apart.
    Series(usize),
}

impl Tone {
    fn code(self) -> &'static str {
        const SERIES: [&str; 6] = ["36", "33", "35", "32", "34", "31"];
        match self {
            Self::Good => "32",
            Self::Moving => "33",
            Self::Bad => "31",
            Self::Unknown => "35",
            Self::Dim => "2",
            Self::Strong => "1",
            Self::Series(n) => SERIES[n % SERIES.len()],
        }
    }
}

/// The colour of a state.
pub fn tone(phase: PhaseName) -> Tone {
    match phase {
        PhaseName::Running | PhaseName::Completed => Tone::Good,
        PhaseName::Pending | PhaseName::Starting | PhaseName::Stopping => Tone::Moving,
        PhaseName::Unhealthy | PhaseName::Backoff | PhaseName::Crashloop | PhaseName::Failed => {
            Tone::Bad
        }
        PhaseName::Stopped => Tone::Dim,
        PhaseName::Unknown => Tone::Unknown,
    }
}

/// `text` in the colour of `tone`.
pub fn paint(text: &str, tone: Tone, style: Style) -> String {
    match style {
        Style::Plain => text.to_owned(),
        Style::Coloured => format!("\x1b[{}m{text}\x1b[0m", tone.code()),
    }
}

/// `text` without anything that could move the cursor, change colours or the order of letters, or
/// that is there and cannot be seen: each such character is shown as its escape. Tabs stay.
pub fn clean(text: &str) -> Cow<'_, str> {
    if is_printable_ascii(text) || !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Whether each byte is a letter of one column, as nearly always: that is seen in a fraction of the
/// time that the rules for all of Unicode take.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t') || reorders(c) || is_invisible(c)
}

fn reorders(c: char) -> bool {
    matches!(
        c,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// What Unicode calls default-ignorable, and its separators of lines: two names that differ in one
/// of these look alike, and tags can carry a whole text that nobody sees. The two selectors by which
/// letters become emoji, and back, are common and change nothing else.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{00ad}' | '\u{034f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}'
            | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0d}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// `path` as a shell takes it, so that what a message says can be typed: as it is where that is
/// safe, else quoted.
pub fn shown(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(byte);
    match path.to_str() {
        Some(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Some(text) if !text.contains('\'') && !text.chars().any(is_unsafe) => {
            format!("'{text}'")
        }
        Some(_) | None => {
            let mut shown = "$'".to_owned();
            for byte in bytes {
                match byte {
                    b'\'' | b'\\' => shown.extend(['\\', char::from(*byte)]),
                    b' '..=b'~' => shown.push(char::from(*byte)),
                    _ => shown.push_str(&format!("\\{byte:03o}")),
                }
            }
            shown + "'"
        }
    }
}

/// How many columns `text` takes on a terminal.
pub fn width(text: &str) -> usize {
    if is_printable_ascii(text) {
        return text.len();
    }
    text.width()
}

/// How many columns `c` takes on a terminal.
pub fn columns_of(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// `text` in at most `columns`, its end replaced by `…` where it is longer.
pub fn truncated(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > columns {
            break;
        }
        used += wide;
        shown.push(c);
    }
    shown.push('…');
    Cow::Owned(shown)
}

/// A length of time in its two largest units: `4s`, `3m12s`, `2h5m`, `3d4h`.
pub fn short(length: Duration) -> String {
    let seconds = length.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    if seconds < 60 {
        format!("{seconds}s")
    } else if seconds < 3600 {
        format!("{minutes}m{}s", seconds % 60)
    } else if days == 0 {
        format!("{hours}h{minutes}m")
    } else {
        format!("{days}d{hours}h")
    }
}

/// `what` and when: `start in 12s`, or `start now` once that has come.
pub fn upcoming(what: &str, at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        None => what.to_owned(),
        Some(at) if at > now => {
            let left = at.since(now);
            if left <= Duration::from_millis(900) {
                // To the next tenth: "in 0ms" would read as now.
                return format!("{what} in {}ms", left.as_millis().div_ceil(100) * 100);
            }
            // Rounded up, as above.
            format!("{what} in {}", short(left + Duration::from_millis(999)))
        }
        Some(_) => format!("{what} now"),
    }
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A cell that shows `text`, cleaned.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self {
            text: clean(text.as_ref()).into_owned(),
            tone: None,
        }
    }

    /// The same in a colour.
    #[must_use]
    pub fn toned(mut self, tone: Tone) -> Self {
        self.tone = Some(tone);
        self
    }
}

/// How a table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours or none.
    pub style: Style,
    /// Columns of the terminal; `None` = no terminal, so nothing is cut.
    pub columns: Option<usize>,
}

/// The least that the last column gets, however narrow the terminal is.
const LEAST: usize = 16;
/// Between two columns: blanks.
const GAP: &str = "  ";

/// The widths of the columns of `rows`, title row included.
pub fn widths(rows: &[Vec<Cell>]) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..count)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(&cell.text))
                .max()
                .unwrap_or(0)
        })
        .collect()
}

/// Writes `rows` with columns of `widths`. Only the last column is ever cut, since ids stand in the
/// others.
pub fn draw(rows: &[Vec<Cell>], widths: &[usize], look: Look, text: &mut String) {
    let fixed: usize = widths
        .iter()
        .take(widths.len().saturating_sub(1))
        .map(|width| width + GAP.len())
        .sum();
    let last_width = look
        .columns
        .map(|columns| columns.saturating_sub(fixed).max(LEAST));
    for row in rows {
        // Trailing blanks are left out: they wrap on a narrow terminal.
        let filled = row
            .iter()
            .rposition(|cell| !cell.text.is_empty())
            .map_or(0, |at| at + 1);
        for (column, cell) in row.iter().take(filled).enumerate() {
            let is_last_of_table = column + 1 == widths.len();
            let shown = match last_width {
                Some(columns) if is_last_of_table => truncated(&cell.text, columns),
                Some(_) | None => Cow::Borrowed(cell.text.as_str()),
            };
            match (cell.tone, look.style) {
                (Some(tone), Style::Coloured) => text.push_str(&paint(&shown, tone, look.style)),
                (Some(_), Style::Plain) | (None, _) => text.push_str(&shown),
            }
            if column + 1 < filled {
                let padding = widths[column].saturating_sub(width(&cell.text));
                text.extend(std::iter::repeat_n(' ', padding + GAP.len()));
            }
        }
        text.push('\n');
    }
}

/// So many bytes, as people say it: `312 B`, `2.0 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1_000, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        let told = [0, 999, 1_000, 2_000_000, 999_999, 5_250_000_000].map(size);
        assert_eq!(
            told,
            ["0 B", "999 B", "1.0 kB", "2.0 MB", "999.9 kB", "5.2 GB"]
        );
    }

    #[test]
    fn nothing_from_a_component_reaches_the_terminal_as_an_escape() {
        assert_eq!(
            clean("a\x1b[2J\u{9b}31m\u{202e}\r\n\tb"),
            "a\\u{1b}[2J\\u{9b}31m\\u{202e}\\r\\n\tb"
        );
        assert!(matches!(
            clean("plain äöü 日本 ❤\u{fe0f}"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn nothing_reaches_the_terminal_that_cannot_be_seen() {
        for hidden in [
            '\u{ad}',
            '\u{200b}',
            '\u{200d}',
            '\u{200f}',
            '\u{2028}',
            '\u{202e}',
            '\u{2060}',
            '\u{2069}',
            '\u{3164}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{7f}',
            '\u{85}',
        ] {
            let text = clean(&format!("a{hidden}b")).into_owned();
            assert_eq!(text, format!("a{}b", hidden.escape_default()));
        }
    }

    #[test]
    fn a_path_is_shown_as_a_shell_takes_it() {
        use std::ffi::OsStr;
        for (bytes, text) in [
            (&b"/srv/p.yaml"[..], "/srv/p.yaml"),
            (b"my pipe.yaml", "'my pipe.yaml'"),
            (b"it's", r"$'it\'s'"),
            (b"caf\xe9/p.yaml", r"$'caf\351/p.yaml'"),
            (b"a\n\x1b[2J", r"$'a\012\033[2J'"),
            (b"$(id)", "'$(id)'"),
            ("äöü".as_bytes(), "'äöü'"),
            (b"", "''"),
        ] {
            assert_eq!(shown(Path::new(OsStr::from_bytes(bytes))), text);
        }
    }

    #[test]
    fn wide_letters_count_as_two_columns() {
        assert_eq!(truncated("日本語のログ", 7), "日本語…");
        assert_eq!(truncated("short", 7), "short");
    }

    #[test]
    fn lengths_show_their_two_largest_units() {
        let shown: Vec<String> = [0, 59, 60, 3_599, 7_500, 273_600]
            .into_iter()
            .map(|seconds| short(Duration::from_secs(seconds)))
            .collect();
        assert_eq!(shown, ["0s", "59s", "1m0s", "59m59s", "2h5m", "3d4h"]);
    }

    #[test]
    fn only_the_last_column_is_cut() {
        let rows = vec![
            vec![Cell::new("NAME"), Cell::new("WHY")],
            vec![
                Cell::new("a-very-long-component-id-that-must-stay"),
                Cell::new("because of something that takes long to tell"),
            ],
        ];
        let look = Look {
            style: Style::Plain,
            columns: Some(40),
        };
        let mut text = String::new();
        draw(&rows, &widths(&rows), look, &mut text);
        assert_eq!(
            text,
            "NAME                                     WHY\n\
             a-very-long-component-id-that-must-stay  because of some…\n"
        );
    }
}
