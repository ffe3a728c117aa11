//! What a key does: another [`Ui`], and what is to be done. Pure.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "keys are a foreign enum, and those without a meaning here do nothing"
)]

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::api::Asked;
use crate::model::{ComponentId, PipelineKey};
use crate::text::Tone;

use super::commands;
use super::frame;
use super::page::{self, Direction};
use super::state::{
    Control, Effect, Help, Link, Purpose, Question, Scroll, Typed, Ui, View, World,
};
use super::table;

/// What `key` does.
pub fn key(ui: &mut Ui, world: &World, key: KeyEvent) -> Option<Effect> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        match key.code {
            KeyCode::Char('c') => return Some(Effect::Quit),
            KeyCode::Char('z') => return Some(Effect::Suspend),
            KeyCode::Char('l') => return Some(Effect::Redraw),
            _ => {}
        }
    }
    ui.note = None;
    if ui.typed.is_some() {
        return type_on(ui, world, key);
    }
    if let Some(question) = ui.question.take() {
        return answer(ui, question, key);
    }
    if ui.help == Help::Shown {
        ui.help = Help::Hidden;
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return scroll_by_control(ui, world, key.code);
    }
    common(ui, world, key.code)
}

fn answer(ui: &mut Ui, question: Question, key: KeyEvent) -> Option<Effect> {
    match key.code {
        KeyCode::Char('y' | 'Y') => Some(Effect::Steer(question)),
        KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
            ui.tell("nothing was done", Tone::Dim);
            None
        }
        // Anything else is neither: it is asked on.
        _ => {
            ui.question = Some(question);
            None
        }
    }
}

fn scroll_by_control(ui: &mut Ui, world: &World, code: KeyCode) -> Option<Effect> {
    let height = frame::body_height(ui, world);
    match code {
        KeyCode::Char('d') => go(ui, world, signed(height / 2)),
        KeyCode::Char('u') => go(ui, world, -signed(height / 2)),
        KeyCode::Char('f') => go(ui, world, signed(height)),
        KeyCode::Char('b') => go(ui, world, -signed(height)),
        KeyCode::Char('n') => go(ui, world, 1),
        KeyCode::Char('p') => go(ui, world, -1),
        _ => {}
    }
    None
}

fn common(ui: &mut Ui, world: &World, code: KeyCode) -> Option<Effect> {
    let height = frame::body_height(ui, world);
    match code {
        KeyCode::Char('q') if ui.view == View::Table => return Some(Effect::Quit),
        KeyCode::Char('q') | KeyCode::Backspace | KeyCode::Left if ui.view != View::Table => {
            look_at(ui, View::Table);
        }
        KeyCode::Esc if ui.view != View::Table && !ui.search.is_empty() => ui.search.clear(),
        KeyCode::Esc if ui.view != View::Table => look_at(ui, View::Table),
        KeyCode::Esc => ui.filter.clear(),
        KeyCode::Char('?') | KeyCode::F(1) => ui.help = Help::Shown,
        KeyCode::Char(':') => begin(ui, Purpose::Command),
        KeyCode::Char('/') if ui.view == View::Table => begin(ui, Purpose::Filter),
        KeyCode::Char('/') => begin(ui, Purpose::Search),
        KeyCode::Char('n') => search(ui, world, Direction::Later),
        KeyCode::Char('N') => search(ui, world, Direction::Earlier),
        KeyCode::Char('j') | KeyCode::Down => go(ui, world, 1),
        KeyCode::Char('k') | KeyCode::Up => go(ui, world, -1),
        KeyCode::PageDown | KeyCode::Char(' ') => go(ui, world, signed(height)),
        KeyCode::PageUp | KeyCode::Char('b') => go(ui, world, -signed(height)),
        KeyCode::Home => go(ui, world, isize::MIN),
        KeyCode::End | KeyCode::Char('G') => go(ui, world, isize::MAX),
        KeyCode::Char('f') => ui.scroll = Scroll::End,
        KeyCode::Char('W') => commands::toggle_wrap(ui),
        KeyCode::Char('o') if ui.view == View::Table => {
            ui.sort = ui.sort.next();
            ui.tell(format!("sorted by {}", ui.sort.word()), Tone::Dim);
        }
        KeyCode::Char('t') => look_at(ui, View::Top),
        KeyCode::Char('E') => look_at(ui, View::Events(None)),
        KeyCode::Char('m') => merge(ui),
        KeyCode::Enter | KeyCode::Char('l' | 'L' | 'w' | 'e' | 'g') => open(ui, code),
        KeyCode::Char('s') => ask(ui, world, target(ui), Asked::Stop),
        KeyCode::Char('S') => ask(ui, world, target(ui), Asked::Start),
        KeyCode::Char('r') => ask(ui, world, target(ui), Asked::Restart),
        _ => {}
    }
    None
}

fn signed(rows: usize) -> isize {
    isize::try_from(rows.max(1)).unwrap_or(isize::MAX)
}

/// What the view, or the cursor in the table, is about.
pub fn target(ui: &Ui) -> Option<(PipelineKey, Option<ComponentId>)> {
    let cursor = || {
        let place = ui.cursor.as_ref()?;
        Some((place.pipeline.clone(), place.component().cloned()))
    };
    match &ui.view {
        View::Table | View::Top | View::Events(None) => cursor(),
        View::Logs(pipeline, component) => Some((pipeline.clone(), component.clone())),
        View::Why(pipeline, component) => Some((pipeline.clone(), Some(component.clone()))),
        View::Events(Some(about)) => Some(about.clone()),
        View::Graph(pipeline) => match cursor() {
            Some((of, component)) if of == *pipeline => Some((of, component)),
            Some(_) | None => Some((pipeline.clone(), None)),
        },
    }
}

/// Looks at `view`, from its end or its beginning as fits it.
pub fn look_at(ui: &mut Ui, view: View) {
    if ui.view == view {
        return;
    }
    ui.scroll = match view {
        View::Table | View::Logs(..) | View::Events(_) => Scroll::End,
        View::Why(..) | View::Graph(_) | View::Top => Scroll::From(0),
    };
    ui.search.clear();
    ui.view = view;
}

/// Opens what the key stands for, of what the cursor or the view is about.
fn open(ui: &mut Ui, code: KeyCode) {
    let Some((pipeline, component)) = target(ui) else {
        return;
    };
    let view = match (code, component) {
        (KeyCode::Char('L'), _) => View::Logs(pipeline, None),
        (KeyCode::Char('e'), component) => View::Events(Some((pipeline, component))),
        (KeyCode::Char('g'), _) => View::Graph(pipeline),
        (KeyCode::Char('w'), Some(component)) => View::Why(pipeline, component),
        (KeyCode::Char('w'), None) => {
            ui.tell(
                format!("{pipeline} is a pipeline; choose a component"),
                Tone::Bad,
            );
            return;
        }
        (_, component) => View::Logs(pipeline, component),
    };
    look_at(ui, view);
}

/// From the logs of one component to those of its pipeline, and back.
fn merge(ui: &mut Ui) {
    let View::Logs(pipeline, component) = &ui.view else {
        return;
    };
    let view = match component {
        Some(_) => View::Logs(pipeline.clone(), None),
        None => {
            let chosen = ui.cursor.as_ref();
            let chosen = chosen.filter(|place| place.pipeline == *pipeline);
            let component = chosen.and_then(|place| place.component().cloned());
            View::Logs(pipeline.clone(), component)
        }
    };
    look_at(ui, view);
}

/// Asks whether a component is to be steered so.
pub fn ask(
    ui: &mut Ui,
    world: &World,
    target: Option<(PipelineKey, Option<ComponentId>)>,
    asked: Asked,
) {
    match (ui.control, &world.link, target) {
        (Control::ReadOnly, ..) => ui.tell("this was started with --read-only", Tone::Bad),
        (_, Link::Waiting | Link::Alone | Link::Lost { .. }, _) => {
            ui.tell(
                "no daemon answers, so nothing can be asked of it",
                Tone::Bad,
            );
        }
        (_, Link::Answers, None) => ui.tell("choose a component", Tone::Bad),
        (_, Link::Answers, Some((pipeline, None))) => ui.tell(
            format!("{pipeline} is a pipeline; choose a component"),
            Tone::Bad,
        ),
        (_, Link::Answers, Some((pipeline, Some(component)))) => {
            ui.question = Some(Question {
                pipeline,
                component,
                asked,
            });
        }
    }
}

/// Moves the cursor of the table, or the window of a page.
fn go(ui: &mut Ui, world: &World, by: isize) {
    let snapshot = world.snapshot.as_deref();
    if ui.view == View::Table {
        if let Some(snapshot) = snapshot {
            table::step(ui, snapshot, by);
        }
        return;
    }
    if ui.view == View::Top {
        let count = snapshot.map_or(0, |snapshot| snapshot.replicas().count());
        let height = frame::body_height(ui, world);
        let last = u64::try_from(count.saturating_sub(height)).unwrap_or(0);
        let at = match ui.scroll {
            Scroll::End => last,
            Scroll::From(at) => at,
        };
        ui.scroll = Scroll::From(moved(at, by).min(last));
        return;
    }
    let window = frame::window(ui, world);
    let top = page::top(&world.content, snapshot, ui, window);
    let to = moved(top, by);
    let mut at_end = ui.clone();
    at_end.scroll = Scroll::End;
    let last = page::top(&world.content, snapshot, &at_end, window);
    ui.scroll = if to >= last && by > 0 {
        Scroll::End
    } else {
        Scroll::From(to)
    };
}

fn moved(at: u64, by: isize) -> u64 {
    at.saturating_add_signed(i64::try_from(by).unwrap_or(i64::MAX))
}

fn begin(ui: &mut Ui, purpose: Purpose) {
    let before = match purpose {
        Purpose::Filter => ui.filter.clone(),
        Purpose::Search => ui.search.clone(),
        Purpose::Command => String::new(),
    };
    ui.typed = Some(Typed {
        purpose,
        text: before.clone(),
        before,
    });
}

fn type_on(ui: &mut Ui, world: &World, key: KeyEvent) -> Option<Effect> {
    let mut typed = ui.typed.take()?;
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Esc => {
            set(ui, typed.purpose, typed.before);
            return None;
        }
        KeyCode::Enter => return done(ui, world, typed),
        KeyCode::Backspace if typed.text.is_empty() => {
            set(ui, typed.purpose, String::new());
            return None;
        }
        KeyCode::Backspace => {
            typed.text.pop();
        }
        KeyCode::Tab if typed.purpose == Purpose::Command => {
            if let Some(text) = commands::completed(&typed.text, world.snapshot.as_deref()) {
                typed.text = text;
            }
        }
        KeyCode::Char('u') if is_control => typed.text.clear(),
        KeyCode::Char('w') if is_control => {
            let kept = typed.text.trim_end();
            let end = kept.rfind(char::is_whitespace).map_or(0, |at| at + 1);
            typed.text.truncate(end);
        }
        KeyCode::Char(c) if !is_control => typed.text.push(c),
        _ => {}
    }
    // Seen while it is typed.
    set(ui, typed.purpose, typed.text.clone());
    ui.typed = Some(typed);
    None
}

fn set(ui: &mut Ui, purpose: Purpose, text: String) {
    match purpose {
        Purpose::Filter => ui.filter = text,
        Purpose::Search => ui.search = text,
        Purpose::Command => {}
    }
}

fn done(ui: &mut Ui, world: &World, typed: Typed) -> Option<Effect> {
    match typed.purpose {
        Purpose::Filter => {
            ui.filter = typed.text;
            None
        }
        Purpose::Search => {
            ui.search = typed.text;
            search(ui, world, Direction::Earlier);
            None
        }
        Purpose::Command => commands::carry_out(ui, world, &typed.text),
    }
}

/// Shows the next line that has what is searched for.
fn search(ui: &mut Ui, world: &World, direction: Direction) {
    if ui.search.is_empty() || ui.view == View::Table {
        return;
    }
    let snapshot = world.snapshot.as_deref();
    let (_, end) = page::range(&world.content);
    let from = match (ui.scroll, direction) {
        // What was searched for first is looked for from the end.
        (Scroll::End, Direction::Earlier) => end,
        (Scroll::End, Direction::Later) => {
            page::top(&world.content, snapshot, ui, frame::window(ui, world)) + 1
        }
        (Scroll::From(at), Direction::Earlier) => at,
        (Scroll::From(at), Direction::Later) => at + 1,
    };
    match page::find(&world.content, snapshot, ui, from, direction) {
        Some(number) => ui.scroll = Scroll::From(number),
        None => ui.tell(
            format!("`{}` is not found further on", ui.search),
            Tone::Dim,
        ),
    }
}
