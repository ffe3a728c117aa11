//! The picture: a snapshot and a [`Ui`] as cells of the terminal. Pure.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use crate::api::Asked;
use crate::model::{
    PhaseName, PipelineStatus, ReplicaStatus, Severity, Snapshot, StatusCondition, Timestamp,
};
use crate::text::{
    self, Tone, bytes, clean, cores, memory, replica_name, tone, truncated, why, width,
};

use super::ages::{Ages, Exactness};
use super::commands;
use super::page::{self, matches};
use super::state::{
    Content, Control, Help, Link, Purpose, Question, Scroll, Sort, Ui, View, World,
};
use super::table::{self, Row};

/// Below this the picture says that it is too small.
const LEAST: (u16, u16) = (40, 10);
/// So many of the things that are wrong are named above the table.
const MOST_TROUBLES: usize = 3;
/// On a terminal that is lower, none.
const ROWS_FOR_TROUBLES: u16 = 16;

/// Below so many columns what is needed least is left out.
const NARROW: u16 = 60;
/// Reasons that get less are not worth reading; that of the chosen line stands below the table.
const LEAST_REASON: u16 = 12;

/// Draws all of it. Answers when it looks different next, though nothing has happened.
pub fn draw(buffer: &mut Buffer, ui: &Ui, world: &World, now: Timestamp) -> Option<Timestamp> {
    let (columns, rows) = ui.size;
    let mut canvas = Canvas {
        buffer,
        style: ui.style,
        columns,
        rows,
    };
    if columns < LEAST.0 || rows < LEAST.1 {
        let words = format!("too small: {columns}x{rows}, needs {}x{}", LEAST.0, LEAST.1);
        canvas.text(0, 0, &words, None);
        return None;
    }
    let ages = Ages::at(now);
    header(&mut canvas, ui, world);
    let mut y = 1;
    for (line, tone) in banner(ui, world, &ages) {
        canvas.text(0, y, &line, Some(tone));
        y += 1;
    }
    let below = 1 + u16::from(ui.view == View::Table);
    let body = Rect::new(0, y, columns, rows.saturating_sub(y + below));
    match &ui.view {
        View::Table => {
            components(&mut canvas, body, ui, world, &ages);
            chosen(&mut canvas, rows - 2, ui, world, &ages);
        }
        View::Top => usage(&mut canvas, body, ui, world),
        View::Logs(..) | View::Why(..) | View::Events(_) | View::Graph(_) => {
            page_body(&mut canvas, body, ui, world);
        }
    }
    if ui.help == Help::Shown {
        help(&mut canvas, ui);
    }
    foot(&mut canvas, ui, world);
    ages.next()
}

/// Rows of the table, or of a page.
pub fn body_height(ui: &Ui, world: &World) -> usize {
    // How many lines there are does not depend on the time.
    let above = 1 + banner(ui, world, &Ages::at(Timestamp::from_millis(0))).len();
    let titles = usize::from(matches!(ui.view, View::Table | View::Top));
    let below = 1 + usize::from(ui.view == View::Table);
    usize::from(ui.size.1).saturating_sub(above + below + titles)
}

/// Columns and rows of a page.
pub fn window(ui: &Ui, world: &World) -> (usize, usize) {
    (usize::from(ui.size.0), body_height(ui, world))
}

/// Cells, and what colours mean.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    style: text::Style,
    columns: u16,
    rows: u16,
}

impl Canvas<'_> {
    fn of(&self, tone: Option<Tone>) -> Style {
        let plain = Style::new();
        let Some(tone) = tone else {
            return plain;
        };
        let colour = |colour| match self.style {
            text::Style::Coloured => plain.fg(colour),
            text::Style::Plain => plain,
        };
        const SERIES: [Color; 6] = [
            Color::Cyan,
            Color::Yellow,
            Color::Magenta,
            Color::Green,
            Color::Blue,
            Color::Red,
        ];
        match tone {
            Tone::Good => colour(Color::Green),
            Tone::Moving => colour(Color::Yellow),
            Tone::Bad => colour(Color::Red),
            Tone::Unknown => colour(Color::Magenta),
            Tone::Dim => plain.add_modifier(Modifier::DIM),
            Tone::Strong => plain.add_modifier(Modifier::BOLD),
            Tone::Series(n) => colour(SERIES[n % SERIES.len()]),
        }
    }

    /// Writes `text`, cleaned, up to the right edge; answers where it ends.
    fn text(&mut self, x: u16, y: u16, text: &str, tone: Option<Tone>) -> u16 {
        self.within(x, y, self.columns.saturating_sub(x), text, tone)
    }

    /// Writes `text`, cleaned and cut, into at most so many columns; answers where it ends.
    fn within(&mut self, x: u16, y: u16, columns: u16, text: &str, tone: Option<Tone>) -> u16 {
        if y >= self.rows || x >= self.columns {
            return x;
        }
        let columns = columns.min(self.columns - x);
        let cleaned = clean(text);
        let shown = truncated(&cleaned, usize::from(columns));
        let style = self.of(tone);
        let (end, _) = self
            .buffer
            .set_stringn(x, y, shown, usize::from(columns), style);
        end
    }

    fn reverse(&mut self, area: Rect) {
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        self.buffer.set_style(area, reversed);
    }
}

fn header(canvas: &mut Canvas<'_>, ui: &Ui, world: &World) {
    let mut x = canvas.text(0, 0, "flowctl", Some(Tone::Strong)) + 2;
    let right = match (ui.control, &world.snapshot) {
        _ if canvas.columns < NARROW => String::new(),
        (Control::ReadOnly, _) => "read-only".to_owned(),
        (Control::Allowed, Some(snapshot)) => snapshot
            .daemon
            .as_ref()
            .map_or_else(String::new, |daemon| format!("daemon {}", daemon.version)),
        (Control::Allowed, None) => String::new(),
    };
    let room = canvas.columns.saturating_sub(x + u16_of(width(&right)) + 2);
    let end = x + room;
    let words = match (&ui.view, &world.snapshot) {
        (View::Table, None) => Vec::new(),
        (View::Table, Some(snapshot)) => tally(snapshot, ui),
        (View::Top, _) => {
            let mut words = vec![("top".to_owned(), Some(Tone::Strong))];
            if let Content::Usage(snapshot) = &world.content {
                words.push((used_together(snapshot), None));
            }
            words
        }
        (View::Logs(..) | View::Why(..) | View::Events(_) | View::Graph(_), _) => vec![
            (ui.view.title(), Some(Tone::Strong)),
            (page_state(ui, world), Some(Tone::Dim)),
        ],
    };
    for (text, tone) in words {
        if x < end {
            x = canvas.within(x, 0, end - x, &text, tone) + 2;
        }
    }
    let at = canvas.columns.saturating_sub(u16_of(width(&right)));
    canvas.text(at, 0, &right, Some(Tone::Dim));
}

/// How many there are, and how they are.
fn tally(snapshot: &Snapshot, ui: &Ui) -> Vec<(String, Option<Tone>)> {
    let (mut meant, mut ready, mut failed) = (0_usize, 0_usize, 0_usize);
    for (_, _, replica) in snapshot.replicas() {
        meant += usize::from(replica.is_meant_to_run());
        ready += usize::from(replica.ready);
        failed += usize::from(replica.phase == PhaseName::Failed);
    }
    let count = snapshot.pipelines.len();
    let mut words = vec![(plural(count, "pipeline"), None)];
    let tone = if ready == meant {
        Tone::Good
    } else {
        Tone::Moving
    };
    words.push((format!("{ready} of {meant} ready"), Some(tone)));
    if failed > 0 {
        words.push((format!("{failed} failed"), Some(Tone::Bad)));
    }
    let wrong = snapshot.all_conditions().len();
    if wrong > 0 {
        words.push((format!("{wrong} wrong"), Some(Tone::Bad)));
    }
    if !ui.filter.is_empty() {
        words.push((format!("filter: {}", ui.filter), Some(Tone::Unknown)));
    }
    if ui.sort != Sort::Data {
        words.push((format!("by {}", ui.sort.word()), Some(Tone::Dim)));
    }
    words
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

/// Where in a page one is.
fn page_state(ui: &Ui, world: &World) -> String {
    let (first, end) = page::range(&world.content);
    match (&ui.view, ui.scroll) {
        (View::Logs(..) | View::Events(_), Scroll::End) => "following".to_owned(),
        (_, Scroll::End) => String::new(),
        (_, Scroll::From(_)) => {
            let top = page::top(
                &world.content,
                world.snapshot.as_deref(),
                ui,
                window(ui, world),
            );
            if end == first {
                String::new()
            } else {
                format!("line {} of {}", top - first + 1, end - first)
            }
        }
    }
}

/// What has to be seen first: no daemon, and what is wrong.
fn banner(ui: &Ui, world: &World, ages: &Ages) -> Vec<(String, Tone)> {
    let mut lines = Vec::new();
    match &world.link {
        Link::Answers => {}
        Link::Waiting => lines.push(("waiting for the daemon".to_owned(), Tone::Moving)),
        Link::Alone => lines.push((
            "no daemon runs: nothing is restarted or applied until one does".to_owned(),
            Tone::Bad,
        )),
        Link::Lost { since, why } => {
            let since = since.to_string();
            let since = since.get(11..19).unwrap_or(&since).to_owned();
            lines.push((
                format!("no daemon answers since {since}; below is what was so then. {why}"),
                Tone::Bad,
            ));
        }
    }
    let Some(snapshot) = world
        .snapshot
        .as_ref()
        .filter(|_| ui.view == View::Table && ui.size.1 >= ROWS_FOR_TROUBLES)
    else {
        return lines;
    };
    let conditions = snapshot.all_conditions();
    for condition in conditions.iter().take(MOST_TROUBLES) {
        lines.push(trouble(condition, ages));
    }
    if conditions.len() > MOST_TROUBLES {
        let more = conditions.len() - MOST_TROUBLES;
        if let Some((line, _)) = lines.last_mut() {
            line.push_str(&format!("; and {more} more"));
        }
    }
    lines
}

fn trouble(condition: &StatusCondition, ages: &Ages) -> (String, Tone) {
    let mut line = format!(
        "{}  {}  for {}",
        condition.kind,
        condition.subject(),
        ages.of(condition.since, Exactness::Minutes)
    );
    if !condition.why.is_empty() {
        line.push_str(&format!(": {}", condition.why));
    }
    if !condition.blocks.is_empty() {
        let count = plural(condition.blocks.len(), "component");
        line.push_str(&format!("; holds up {count}"));
    }
    let tone = match condition.kind.severity() {
        Severity::Critical => Tone::Bad,
        Severity::Warning => Tone::Moving,
    };
    (line, tone)
}

/// A column of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Role,
    State,
    Ready,
    Restarts,
    Since,
    Driver,
    Why,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Name => "COMPONENT",
            Self::Role => "ROLE",
            Self::State => "STATE",
            Self::Ready => "READY",
            Self::Restarts => "RESTARTS",
            Self::Since => "SINCE",
            Self::Driver => "DRIVER",
            Self::Why => "WHY",
        }
    }
}

/// The columns that fit, each with its width.
fn columns(total: u16, names: usize) -> Vec<(Column, u16)> {
    use Column as C;
    let (shown, share): (&[(C, u16)], u16) = if total < NARROW {
        (&[(C::State, 9), (C::Since, 6)], total.saturating_sub(19))
    } else if total < 110 {
        (
            &[
                (C::State, 9),
                (C::Ready, 5),
                (C::Restarts, 8),
                (C::Since, 6),
            ],
            total * 2 / 5,
        )
    } else {
        (
            &[
                (C::Role, 9),
                (C::State, 9),
                (C::Ready, 5),
                (C::Restarts, 8),
                (C::Since, 6),
                (C::Driver, 10),
            ],
            total * 2 / 5,
        )
    };
    let name = u16_of(names).clamp(9, share);
    let mut all = vec![(C::Name, name)];
    all.extend_from_slice(shown);
    let used: u16 = all.iter().map(|(_, width)| width + 2).sum();
    let left = total.saturating_sub(used);
    if left >= LEAST_REASON {
        all.push((C::Why, left));
    }
    all
}

fn components(canvas: &mut Canvas<'_>, body: Rect, ui: &Ui, world: &World, ages: &Ages) {
    let Some(snapshot) = &world.snapshot else {
        return;
    };
    let rows = table::rows(snapshot, ui);
    if rows.is_empty() {
        let words = if snapshot.pipelines.is_empty() {
            "no pipelines; `flowctl apply -f FILE` adds one"
        } else {
            "nothing matches the filter; Esc clears it"
        };
        canvas.text(0, body.y, words, None);
        return;
    }
    let names = rows.iter().map(|row| match row {
        Row::Pipeline(_) => 0,
        Row::Replica(..) | Row::Empty(..) => width(&row.name(ui.sort)),
    });
    let columns = columns(body.width, names.max().unwrap_or(0));
    let mut x = 0;
    for (column, width) in &columns {
        canvas.within(x, body.y, *width, column.title(), Some(Tone::Dim));
        x += width + 2;
    }
    let chosen = table::position(&rows, ui);
    let height = usize::from(body.height.saturating_sub(1));
    for (at, row) in rows.iter().enumerate().skip(ui.top).take(height) {
        let y = body.y + 1 + u16_of(at - ui.top);
        match row {
            Row::Pipeline(pipeline) => heading(canvas, y, pipeline),
            Row::Replica(_, component, replica) => {
                let cell = |column| match column {
                    Column::Name => (row.name(ui.sort), None),
                    Column::Role => (component.role.to_string(), None),
                    Column::State => (replica.phase.to_string(), Some(tone(replica.phase))),
                    Column::Ready => {
                        let ready = if replica.ready { "yes" } else { "no" };
                        (ready.to_owned(), None)
                    }
                    Column::Restarts => (replica.restarts.to_string(), None),
                    Column::Since => (ages.of(replica.since, exactness(replica)), None),
                    Column::Driver => (component.driver.to_string(), None),
                    Column::Why => (reason(replica, ages), None),
                };
                line(canvas, y, &columns, cell);
            }
            Row::Empty(_, component) => {
                let cell = |column| match column {
                    Column::Name => (row.name(ui.sort), None),
                    Column::Role => (component.role.to_string(), None),
                    Column::Driver => (component.driver.to_string(), None),
                    Column::State | Column::Ready | Column::Restarts | Column::Since => {
                        ("-".to_owned(), None)
                    }
                    Column::Why => (format!("{} replicas wanted", component.desired), None),
                };
                line(canvas, y, &columns, cell);
            }
        }
        if chosen == Some(at) {
            canvas.reverse(Rect::new(body.x, y, body.width, 1));
        }
    }
}

/// The chosen line in full, as far as there is room.
fn chosen(canvas: &mut Canvas<'_>, y: u16, ui: &Ui, world: &World, ages: &Ages) {
    let Some(snapshot) = &world.snapshot else {
        return;
    };
    let rows = table::rows(snapshot, ui);
    let Some(row) = table::position(&rows, ui).map(|at| rows[at]) else {
        return;
    };
    let Row::Replica(_, _, replica) = row else {
        return;
    };
    let mut words = format!("{}: {}", row.name(Sort::Name), replica.phase);
    let reason = reason(replica, ages);
    if !reason.is_empty() {
        words.push_str(&format!(": {reason}"));
    }
    if let Some(pid) = replica.pid {
        words.push_str(&format!(", pid {pid}"));
    }
    for (name, address) in &replica.addresses {
        words.push_str(&format!(", {name} {address}"));
    }
    canvas.text(0, y, &words, Some(Tone::Dim));
}

fn line(
    canvas: &mut Canvas<'_>,
    y: u16,
    columns: &[(Column, u16)],
    cell: impl Fn(Column) -> (String, Option<Tone>),
) {
    let mut x = 0;
    for (column, width) in columns {
        let (text, tone) = cell(*column);
        canvas.within(x, y, *width, &text, tone);
        x += width + 2;
    }
}

/// Ages of what is as it should be are told in minutes: a quiet screen stays as it is.
fn exactness(replica: &ReplicaStatus) -> Exactness {
    if replica.is_fine() {
        Exactness::Minutes
    } else {
        Exactness::Seconds
    }
}

fn reason(replica: &ReplicaStatus, ages: &Ages) -> String {
    if let Some(at) = replica.next.as_ref().and_then(|next| next.at) {
        ages.counts_down_to(at);
    }
    why(replica, ages.now())
}

fn heading(canvas: &mut Canvas<'_>, y: u16, pipeline: &PipelineStatus) {
    let name = pipeline.key().to_string();
    let x = canvas.text(0, y, &name, Some(Tone::Strong)) + 2;
    let (word, tone) = if pipeline.problem.is_some() {
        ("its file has a problem", Tone::Bad)
    } else if pipeline.deleting {
        ("being deleted", Tone::Moving)
    } else if pipeline.settled {
        ("settled", Tone::Good)
    } else {
        ("not settled", Tone::Moving)
    };
    let x = canvas.text(x, y, word, Some(tone)) + 2;
    let more = match (&pipeline.problem, &pipeline.file) {
        (Some(problem), _) => problem.in_place(),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => "from standard input".to_owned(),
    };
    let generation = format!("generation {}  {more}", pipeline.generation);
    canvas.text(x, y, &generation, Some(Tone::Dim));
}

fn usage(canvas: &mut Canvas<'_>, body: Rect, ui: &Ui, world: &World) {
    let Content::Usage(snapshot) = &world.content else {
        let words = world.trouble.as_deref().unwrap_or("being measured");
        canvas.text(0, body.y, words, Some(Tone::Dim));
        return;
    };
    let mut rows: Vec<_> = snapshot
        .replicas()
        .filter(|(_, _, replica)| replica.phase.lives())
        .collect();
    let cores_of = |replica: &ReplicaStatus| replica.usage.as_ref().and_then(|it| it.cpu_cores);
    rows.sort_by(|(_, _, one), (_, _, other)| {
        let (one, other) = (cores_of(one), cores_of(other));
        other.unwrap_or(-1.0).total_cmp(&one.unwrap_or(-1.0))
    });
    let name = |pipeline: &PipelineStatus, component, replica| {
        format!("{}/{}", pipeline.key(), replica_name(component, replica))
    };
    let widest = rows
        .iter()
        .map(|(pipeline, component, replica)| width(&name(pipeline, component, replica)))
        .max()
        .unwrap_or(0);
    let room = body.width.saturating_sub(9 + 9 + 7 + 7).max(9);
    let names = u16_of(widest).clamp(9, room);
    let titles = ["COMPONENT", "CPU", "MEM", "PROCS", "FILES"];
    let widths = [names, 7, 7, 5, 5];
    let put = |canvas: &mut Canvas<'_>, y, cells: [String; 5], tone| {
        let mut x = 0;
        for (cell, width) in cells.iter().zip(widths) {
            canvas.within(x, y, width, cell, tone);
            x += width + 2;
        }
    };
    put(canvas, body.y, titles.map(str::to_owned), Some(Tone::Dim));
    let skipped = match ui.scroll {
        Scroll::End => 0,
        Scroll::From(at) => usize::try_from(at).unwrap_or(0),
    };
    let height = usize::from(body.height.saturating_sub(1));
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for (at, (pipeline, component, replica)) in rows.iter().skip(skipped).take(height).enumerate() {
        let usage = replica.usage.as_ref();
        let count = |count: Option<u32>| shown(count.map(|count| count.to_string()));
        let cells = [
            name(pipeline, component, replica),
            shown(usage.and_then(cores)),
            shown(usage.and_then(memory)),
            count(usage.and_then(|usage| usage.processes)),
            count(usage.and_then(|usage| usage.open_files)),
        ];
        put(canvas, body.y + 1 + u16_of(at), cells, None);
    }
}

/// What replicas use together.
fn used_together(snapshot: &Snapshot) -> String {
    let usages = || {
        snapshot
            .replicas()
            .filter_map(|(_, _, replica)| replica.usage.as_ref())
    };
    let cores: f64 = usages().filter_map(|usage| usage.cpu_cores).sum();
    let memory: u64 = usages().filter_map(|usage| usage.memory_bytes).sum();
    format!("{cores:.2} cores, {} memory", bytes(memory))
}

fn page_body(canvas: &mut Canvas<'_>, body: Rect, ui: &Ui, world: &World) {
    let snapshot = world.snapshot.as_deref();
    let (first, end) = page::range(&world.content);
    if first == end {
        let words = match (&world.trouble, &world.content) {
            (Some(trouble), _) => trouble.as_str(),
            (None, Content::None) => "being read",
            (None, Content::Logs(_)) => "it has written nothing",
            (None, _) => "there is nothing",
        };
        canvas.text(0, body.y, words, Some(Tone::Dim));
        return;
    }
    let (columns, height) = (usize::from(body.width), usize::from(body.height));
    let mut number = page::top(&world.content, snapshot, ui, (columns, height));
    let mut y = body.y;
    let bottom = body.y + body.height;
    while y < bottom && number < end {
        let line = page::line(&world.content, number, snapshot, ui);
        for row in line.rows(columns, ui.wrap) {
            if y >= bottom {
                break;
            }
            let mut x = 0;
            for (text, tone) in &row {
                // What is cleaned already stays as it is.
                x = canvas.text(x, y, text, *tone);
            }
            mark(canvas, y, &row, &ui.search);
            y += 1;
        }
        number += 1;
    }
    if let Some(trouble) = world.trouble.as_ref().filter(|_| y < bottom) {
        canvas.text(0, y, trouble, Some(Tone::Bad));
    }
}

/// Marks what is searched for in a row.
fn mark(canvas: &mut Canvas<'_>, y: u16, row: &[(String, Option<Tone>)], search: &str) {
    if search.is_empty() {
        return;
    }
    let text: String = row.iter().map(|(text, _)| text.as_str()).collect();
    for range in matches(&text, search) {
        let from = u16_of(width(&text[..range.start]));
        let wide = u16_of(width(&text[range]));
        let area = Rect::new(from, y, wide.min(canvas.columns.saturating_sub(from)), 1);
        canvas.reverse(area);
    }
}

/// What the keys do, the most needed first.
const KEYS: [(&str, &str); 19] = [
    ("arrows j k", "move; PgUp PgDn Home End"),
    ("Enter l", "logs of the component"),
    ("L", "logs of its pipeline, merged"),
    ("w", "why it is in its state"),
    ("e E", "its events, all events"),
    ("g", "graph of its pipeline"),
    ("t", "top: what replicas use"),
    ("s S r", "stop, start, restart; y confirms"),
    ("/", "filter the table; search a page"),
    ("n N", "next match, the one before"),
    ("o", "sort by state, restarts, since, name"),
    ("f End", "follow the end of a page"),
    ("W", "wrap long lines, or cut them"),
    ("m", "merge logs, or one component's"),
    (":", "commands; Tab completes"),
    ("Ctrl+L", "draw all of it again"),
    ("Ctrl+Z", "suspend"),
    ("Esc q", "back to the table"),
    ("q", "quit, from the table"),
];

fn help(canvas: &mut Canvas<'_>, _: &Ui) {
    let wide = canvas.columns.min(52);
    let lines: Vec<String> = KEYS
        .iter()
        .map(|(keys, what)| format!(" {keys:<11} {what}"))
        .collect();
    let high = u16_of(lines.len() + 2).min(canvas.rows.saturating_sub(2));
    let area = Rect::new(canvas.columns - wide, 1, wide, high);
    popup(canvas, area, " keys ", &lines);
}

/// A box over the view.
fn popup(canvas: &mut Canvas<'_>, area: Rect, title: &str, lines: &[String]) {
    let blank = " ".repeat(usize::from(area.width));
    for y in area.y..area.y + area.height {
        canvas
            .buffer
            .set_style(Rect::new(area.x, y, area.width, 1), Style::reset());
        canvas.within(area.x, y, area.width, &blank, None);
    }
    let dashes = usize::from(area.width).saturating_sub(3 + width(title));
    let above = format!("┌─{title}{}┐", "─".repeat(dashes));
    let below = format!(
        "└{}┘",
        "─".repeat(usize::from(area.width).saturating_sub(2))
    );
    canvas.within(area.x, area.y, area.width, &above, Some(Tone::Dim));
    let last = area.y + area.height.saturating_sub(1);
    canvas.within(area.x, last, area.width, &below, Some(Tone::Dim));
    let inside = usize::from(area.height.saturating_sub(2));
    for (line, y) in lines.iter().take(inside).zip(area.y + 1..) {
        canvas.within(area.x, y, 1, "│", Some(Tone::Dim));
        canvas.within(area.x + 1, y, area.width.saturating_sub(2), line, None);
        let edge = area.x + area.width.saturating_sub(1);
        canvas.within(edge, y, 1, "│", Some(Tone::Dim));
    }
}

fn foot(canvas: &mut Canvas<'_>, ui: &Ui, world: &World) {
    let y = canvas.rows - 1;
    if let Some(typed) = &ui.typed {
        let sign = match typed.purpose {
            Purpose::Filter | Purpose::Search => "/",
            Purpose::Command => ":",
        };
        // The end of it is what is being typed.
        let room = usize::from(canvas.columns).saturating_sub(2);
        let mut shown = typed.text.as_str();
        while width(shown) > room {
            let mut letters = shown.chars();
            letters.next();
            shown = letters.as_str();
        }
        let x = canvas.text(0, y, &format!("{sign}{shown}"), None);
        canvas.reverse(Rect::new(x.min(canvas.columns - 1), y, 1, 1));
        if typed.purpose == Purpose::Command {
            let commands = commands::candidates(&typed.text);
            let lines: Vec<String> = commands
                .iter()
                .map(|command| format!(" {:<8} {}", command.word(), command.about()))
                .collect();
            let high = u16_of(lines.len() + 2).min(canvas.rows.saturating_sub(2));
            let wide = canvas.columns.min(52);
            popup(canvas, Rect::new(0, y - high, wide, high), "", &lines);
        }
        return;
    }
    if let Some(question) = &ui.question {
        let words = asked(question, world);
        canvas.text(0, y, &words, Some(Tone::Moving));
        canvas.reverse(Rect::new(0, y, canvas.columns, 1));
        return;
    }
    if let Some(note) = &ui.note {
        canvas.text(0, y, &note.text, Some(note.tone));
        return;
    }
    let keys = match (&ui.view, ui.control) {
        (View::Table, Control::Allowed) => {
            "? help  q quit  Enter logs  w why  e events  g graph  t top  / filter  s S r stop start \
             restart  : commands"
        }
        (View::Table, Control::ReadOnly) => {
            "? help  q quit  Enter logs  w why  e events  g graph  t top  / filter  : commands"
        }
        (View::Logs(..), _) => {
            "? help  q back  / search  n N next  f follow  W wrap  m merge  w why  e events"
        }
        (View::Top, _) => "? help  q back",
        (View::Why(..) | View::Events(_) | View::Graph(_), _) => {
            "? help  q back  / search  n N next  W wrap  l logs  w why  e events"
        }
    };
    canvas.text(0, y, keys, Some(Tone::Dim));
}

fn asked(question: &Question, world: &World) -> String {
    let Question {
        pipeline,
        component,
        asked,
    } = question;
    let snapshot = world.snapshot.iter();
    let count = snapshot
        .flat_map(|snapshot| snapshot.replicas())
        .filter(|(of, one, _)| {
            one.id == *component && of.name == pipeline.name && of.namespace == pipeline.namespace
        })
        .count();
    let replicas = plural(count, "replica");
    let what = match asked {
        Asked::Stop => {
            format!("stop {pipeline}/{component} ({replicas})? It stays down until `start`.")
        }
        Asked::Start => format!("start {pipeline}/{component} ({replicas})?"),
        Asked::Restart | Asked::Pull => {
            format!("restart {pipeline}/{component} ({replicas})?")
        }
    };
    format!("y/n  {what}")
}

fn u16_of(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
