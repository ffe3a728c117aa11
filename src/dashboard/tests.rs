//! Pictures and keys, from fixture snapshots.

use std::sync::Arc;

use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Modifier;

use super::feed::{self, Told};
use super::frame::{self, draw};
use super::keys::key;
use super::page::{EventPage, LogPage};
use super::screen::Screen;
use super::state::{Content, Control, Effect, Link, Sort, Ui, View, World};
use super::table;
use crate::api::{Asked, LogBatch, LogEntry};
use crate::driver::{LogLine, OutputStream};
use crate::graph::Branch;
use crate::model::{
    Event, EventKind, PhaseName, PipelineKey, ReplicaKey, Role, Snapshot, Timestamp, Usage,
};
use crate::text::sample::{ago, component, now, pipeline, replica, snapshot};
use crate::text::{Style, Tone};

fn world(snapshot: Snapshot) -> World {
    World {
        snapshot: Some(Arc::new(snapshot)),
        link: Link::Answers,
        content: Content::None,
        trouble: None,
    }
}

fn ui(size: (u16, u16)) -> Ui {
    Ui::new(Control::Allowed, Style::Coloured, size)
}

fn screen(size: (u16, u16)) -> Screen<TestBackend> {
    Screen::new(TestBackend::new(size.0, size.1))
}

/// What the terminal shows, line by line.
fn shown(screen: &Screen<TestBackend>) -> String {
    let buffer = screen.backend().buffer();
    let rows = (0..buffer.area.height).map(|y| {
        let mut row = String::new();
        let mut skip = 0;
        for x in 0..buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            if skip == 0 {
                row.push_str(symbol);
                skip = crate::text::width(symbol).max(1);
            }
            skip -= 1;
        }
        row.trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn fit(ui: &mut Ui, world: &World) {
    let height = frame::body_height(ui, world);
    table::fit(ui, world.snapshot.as_ref().unwrap(), height);
}

fn picture(ui: &mut Ui, world: &World) -> String {
    fit(ui, world);
    let mut screen = screen(ui.size);
    screen
        .show(ui.size, |buffer| draw(buffer, ui, world, now()))
        .unwrap();
    shown(&screen)
}

/// A pipeline with a component in each state.
fn each_phase() -> Snapshot {
    let of = |phase: PhaseName| {
        let id = format!("is-{phase}");
        component(
            &id,
            Role::Sink,
            vec![replica(&id, 0, phase, 75, "for a reason")],
        )
    };
    let mut snapshot = snapshot();
    snapshot.pipelines = vec![Arc::new(pipeline(PhaseName::ALL.map(of).to_vec()))];
    snapshot
}

/// Names as long as they may be, and reasons in letters that are two columns wide.
fn long_and_wide() -> Snapshot {
    let id = "a-name-that-is-as-long-as-a-dns-label-may-be-which-is-63-letter";
    let wide = "プローブが応答しません: 接続が拒否されました";
    let mut snapshot = snapshot();
    snapshot.pipelines = vec![Arc::new(pipeline(vec![
        component(
            id,
            Role::Source,
            vec![replica(id, 0, PhaseName::Unhealthy, 5, wide)],
        ),
        component(
            "b",
            Role::Sink,
            vec![replica("b", 0, PhaseName::Running, 5, "")],
        ),
    ]))];
    snapshot
}

fn many(count: usize) -> Snapshot {
    let of = |n: usize| {
        let id = format!("c{n:03}");
        let phase = if n % 50 == 49 {
            PhaseName::Crashloop
        } else {
            PhaseName::Running
        };
        component(&id, Role::Sink, vec![replica(&id, 0, phase, 600, "")])
    };
    let mut snapshot = snapshot();
    snapshot.pipelines = vec![Arc::new(pipeline((0..count).map(of).collect()))];
    snapshot
}

fn press(ui: &mut Ui, world: &World, keys: &str) -> Option<Effect> {
    let mut effect = None;
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        effect = key(ui, world, KeyEvent::new(code, KeyModifiers::NONE));
        fit(ui, world);
    }
    effect
}

fn ttp() -> PipelineKey {
    PipelineKey {
        namespace: Default::default(),
        name: "ttp".parse().unwrap(),
    }
}

#[test]
fn the_table_of_everything_at_once_on_a_common_terminal() {
    let world = world(snapshot());
    insta::assert_snapshot!(picture(&mut ui((80, 24)), &world));
}

#[test]
fn a_wide_terminal_shows_roles_and_drivers_too() {
    let world = world(snapshot());
    insta::assert_snapshot!(picture(&mut ui((120, 40)), &world));
}

#[test]
fn a_small_terminal_shows_names_and_states() {
    let world = world(snapshot());
    insta::assert_snapshot!(picture(&mut ui((40, 10)), &world));
}

#[test]
fn each_state_has_a_line() {
    let world = world(each_phase());
    insta::assert_snapshot!(picture(&mut ui((80, 24)), &world));
}

#[test]
fn long_names_are_cut_and_wide_letters_keep_their_places() {
    let world = world(long_and_wide());
    let all = [(80, 24), (40, 10)].map(|size| picture(&mut ui(size), &world));
    insta::assert_snapshot!(all.join("\n---\n"));
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    let world = world(snapshot());
    let text = picture(&mut ui((39, 12)), &world);
    assert_eq!(text.lines().next(), Some("too small: 39x12, needs 40x10"));
}

#[test]
fn every_size_can_be_drawn() {
    let all = [snapshot(), each_phase(), long_and_wide(), many(30)].map(world);
    for columns in (1..130).step_by(13) {
        for rows in (1..45).step_by(7) {
            for world in &all {
                for keys in ["", "?", ":", "/a", "s", "jjl", "w", "g", "t", "E"] {
                    let mut ui = ui((columns, rows));
                    fit(&mut ui, world);
                    press(&mut ui, world, keys);
                    picture(&mut ui, world);
                }
            }
        }
    }
}

#[test]
fn of_500_components_those_around_the_cursor_are_shown() {
    let world = world(many(500));
    let mut ui = ui((80, 12));
    fit(&mut ui, &world);
    press(&mut ui, &world, "G");
    let end = picture(&mut ui, &world);
    assert!(end.contains("c499"), "{end}");
    assert!(!end.contains("c480"), "{end}");
    for _ in 0..3 {
        press(&mut ui, &world, "k");
    }
    let rows = |text: &str| text.lines().take(10).map(str::to_owned).collect::<Vec<_>>();
    let moved = picture(&mut ui, &world);
    assert_eq!(rows(&moved), rows(&end), "the window stays while it can");
    press(&mut ui, &world, "/crash\n");
    let chosen = picture(&mut ui, &world);
    assert!(chosen.contains("filter: crash"), "{chosen}");
    assert!(
        chosen.contains("c449") && !chosen.contains("c498"),
        "{chosen}"
    );
    press(&mut ui, &world, "\u{1b}oo");
    assert_eq!((ui.filter.as_str(), ui.sort), ("", Sort::Restarts));
}

#[test]
fn what_is_shown_already_is_not_written_again() {
    let size = (80, 24);
    let world = world(many(500));
    let mut ui = ui(size);
    fit(&mut ui, &world);
    let mut screen = screen(size);
    let mut changes_at = None;
    screen
        .show(size, |buffer| changes_at = draw(buffer, &ui, &world, now()))
        .unwrap();
    // All of it is well for ten minutes, but for those that are not.
    assert_eq!(
        changes_at,
        Some(now().after(std::time::Duration::from_secs(60)))
    );
    // Whatever is written now is seen.
    let blank = ratatui::buffer::Buffer::empty(screen.backend().buffer().area);
    let before = screen.backend().buffer().clone();
    assert_ne!(before, blank);
    let later = now().after(std::time::Duration::from_secs(3));
    let mut cells = 0;
    let mut next = before.clone();
    next.reset();
    draw(&mut next, &ui, &world, later);
    cells += before.diff(&next).len();
    assert_eq!(cells, 0, "ages of what is well are told in minutes");
}

#[test]
fn what_moves_is_told_by_the_second_and_counted_down() {
    let mut ui = ui((120, 40));
    let world = world(snapshot());
    fit(&mut ui, &world);
    let mut screen = screen(ui.size);
    let mut next = None;
    screen
        .show(ui.size, |buffer| next = draw(buffer, &ui, &world, now()))
        .unwrap();
    assert_eq!(next, Some(now().after(std::time::Duration::from_secs(1))));
    assert!(
        shown(&screen).contains("start in 12s"),
        "{}",
        shown(&screen)
    );
}

#[test]
fn a_daemon_that_does_not_answer_is_told_of_above_what_was_so_before() {
    let mut world = world(snapshot());
    world.link = Link::Lost {
        since: ago(0),
        why: "It has just ended.".to_owned(),
    };
    let text = picture(&mut ui((80, 24)), &world);
    let line = text.lines().nth(1).unwrap();
    assert!(
        line.starts_with("no daemon answers since 02:43:00; below is what was so then."),
        "{line}"
    );
    world.link = Link::Alone;
    let text = picture(&mut ui((80, 24)), &world);
    assert!(
        text.contains("no daemon runs: nothing is restarted"),
        "{text}"
    );
}

#[test]
fn what_is_wrong_stands_above_the_table() {
    let mut wrong = snapshot();
    let pipeline = Arc::make_mut(&mut wrong.pipelines[0]);
    pipeline.conditions = vec![crate::model::StatusCondition {
        component: Some("ttp-processor".parse().unwrap()),
        namespace: Some(pipeline.namespace.clone()),
        pipeline: Some(pipeline.name.clone()),
        blocks: vec!["default/ttp/sink".to_owned().try_into().unwrap()],
        ..crate::conditions::whole(
            crate::model::ConditionKind::Crashloop,
            ago(300),
            "exit 1 (failure 5)".to_owned(),
        )
    }];
    let text = picture(&mut ui((80, 24)), &world(wrong));
    assert_eq!(
        text.lines().nth(1),
        Some("crashloop  ttp/ttp-processor  for 5m: exit 1 (failure 5); holds up 1 component")
    );
}

#[test]
fn nothing_that_others_chose_reaches_the_terminal_as_an_escape() {
    let mut hostile = snapshot();
    let pipeline = Arc::make_mut(&mut hostile.pipelines[0]);
    pipeline.components[0].replicas[0].why = "\x1b[2J\u{202e}owned\x07".to_owned();
    let mut world = world(hostile);
    let mut ui = ui((120, 40));
    let text = picture(&mut ui, &world);
    assert!(text.contains("\\u{1b}[2J\\u{202e}owned\\u{7}"), "{text}");
    feed::add(&mut world, Told::Content(Content::Logs(LogPage::default())));
    let batch = batch(vec![entry("sink", 0, "\x1b]0;title\x07\t\u{9b}31mred")]);
    feed::add(&mut world, Told::Lines(batch));
    ui.view = View::Logs(ttp(), None);
    let text = picture(&mut ui, &world);
    assert!(text.contains("\\u{1b}]0;title\\u{7}"), "{text}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
}

#[test]
fn without_colours_nothing_has_one() {
    let world = world(snapshot());
    let mut ui = Ui::new(Control::Allowed, Style::Plain, (80, 24));
    fit(&mut ui, &world);
    let mut screen = screen(ui.size);
    screen
        .show(ui.size, |buffer| draw(buffer, &ui, &world, now()))
        .unwrap();
    let cells = screen.backend().buffer().content();
    assert!(
        cells
            .iter()
            .all(|cell| cell.fg == ratatui::style::Color::Reset)
    );
    let chosen = cells
        .iter()
        .filter(|cell| cell.modifier.contains(Modifier::REVERSED));
    assert_eq!(chosen.count(), 80, "the cursor is seen without colours");
}

#[test]
fn stop_start_and_restart_are_asked_for_after_a_yes() {
    let world = world(snapshot());
    let mut ui = ui((80, 24));
    fit(&mut ui, &world);
    for (letter, asked) in [
        ('s', Asked::Stop),
        ('S', Asked::Start),
        ('r', Asked::Restart),
    ] {
        press(&mut ui, &world, "\u{1b}");
        ui.cursor = None;
        ui.at = 1;
        fit(&mut ui, &world);
        assert_eq!(press(&mut ui, &world, &letter.to_string()), None);
        let text = picture(&mut ui, &world);
        let foot = text.lines().last().unwrap();
        assert!(
            foot.starts_with(&format!("y/n  {asked} ttp/ledger-source (1 replica)?")),
            "{foot}"
        );
        assert_eq!(press(&mut ui, &world, "x"), None, "it is asked on");
        let Some(Effect::Steer(question)) = press(&mut ui, &world, "y") else {
            panic!("a yes is a yes");
        };
        assert_eq!(
            (question.asked, question.component.as_str()),
            (asked, "ledger-source")
        );
    }
    press(&mut ui, &world, "s");
    assert_eq!(press(&mut ui, &world, "n"), None);
    assert_eq!(ui.question, None);
    assert_eq!(press(&mut ui, &world, "y"), None, "the question is over");
}

#[test]
fn nothing_is_asked_of_a_pipeline_when_read_only_or_without_a_daemon() {
    let mut world = world(snapshot());
    let mut reader = Ui::new(Control::ReadOnly, Style::Plain, (80, 24));
    fit(&mut reader, &world);
    press(&mut reader, &world, "js");
    assert_eq!(reader.question, None);
    assert!(reader.note.as_ref().unwrap().text.contains("--read-only"));
    let mut ui = ui((80, 24));
    fit(&mut ui, &world);
    press(&mut ui, &world, "s");
    assert!(
        ui.note
            .as_ref()
            .unwrap()
            .text
            .contains("choose a component")
    );
    world.link = Link::Alone;
    press(&mut ui, &world, "jr");
    assert_eq!(ui.question, None);
    assert!(ui.note.as_ref().unwrap().text.contains("no daemon answers"));
}

#[test]
fn the_cursor_stays_on_its_component_while_others_come_and_go() {
    let mut ui = ui((80, 24));
    let before = world(many(10));
    fit(&mut ui, &before);
    press(&mut ui, &before, "jjjj");
    let chosen = ui.cursor.clone().unwrap();
    assert_eq!(chosen.component().unwrap().as_str(), "c003");
    let mut after = many(10);
    Arc::make_mut(&mut after.pipelines[0]).components.remove(0);
    fit(&mut ui, &world(after.clone()));
    assert_eq!(ui.cursor, Some(chosen));
    Arc::make_mut(&mut after.pipelines[0])
        .components
        .retain(|one| one.id.as_str() != "c003");
    fit(&mut ui, &world(after));
    let neighbour = ui.cursor.unwrap();
    assert_eq!(neighbour.component().unwrap().as_str(), "c004");
}

#[test]
fn commands_are_typed_completed_and_carried_out() {
    let world = world(snapshot());
    let mut ui = ui((80, 24));
    fit(&mut ui, &world);
    press(&mut ui, &world, ":re\t");
    assert_eq!(ui.typed.as_ref().unwrap().text, "restart ");
    press(&mut ui, &world, "ttp/ttp\t");
    assert_eq!(ui.typed.as_ref().unwrap().text, "restart ttp/ttp-processor");
    let text = picture(&mut ui, &world);
    assert!(text.contains("replace its instances"), "{text}");
    press(&mut ui, &world, "\n");
    assert_eq!(ui.question.take().unwrap().asked, Asked::Restart);
    press(&mut ui, &world, ":logs sink\n");
    assert_eq!(ui.view, View::Logs(ttp(), Some("sink".parse().unwrap())));
    press(&mut ui, &world, ":sort state\n");
    assert_eq!((ui.view.clone(), ui.sort), (View::Table, Sort::State));
    for (typed, told) in [
        (
            ":stop nothing\n",
            "there is no pipeline or component `nothing`",
        ),
        (":fly\n", "there is no command `fly`"),
        (
            ":sort size\n",
            "sort by data, state, restarts, since or name",
        ),
    ] {
        press(&mut ui, &world, typed);
        assert!(ui.note.as_ref().unwrap().text.starts_with(told), "{typed}");
        assert_eq!(ui.note.as_ref().unwrap().tone, Tone::Bad);
    }
    assert_eq!(press(&mut ui, &world, ":q\n"), Some(Effect::Quit));
}

fn entry(id: &str, replica: u32, text: &str) -> LogEntry {
    let line = LogLine {
        at_nanos: 0,
        replica: ReplicaKey {
            component: id.parse().unwrap(),
            replica,
        },
        incarnation: 1,
        stream: OutputStream::Stdout,
        text: text.as_bytes().to_vec(),
        ends: true,
    };
    LogEntry::new(&ttp(), line)
}

fn batch(entries: Vec<LogEntry>) -> LogBatch {
    LogBatch {
        entries,
        ..LogBatch::default()
    }
}

#[test]
fn logs_follow_their_end_until_one_scrolls_and_again_at_the_end() {
    let mut world = world(snapshot());
    let mut ui = ui((40, 10));
    fit(&mut ui, &world);
    press(&mut ui, &world, "jl");
    assert_eq!(
        ui.view,
        View::Logs(ttp(), Some("ledger-source".parse().unwrap()))
    );
    feed::add(&mut world, Told::Content(Content::Logs(LogPage::default())));
    let lines = |from: u32, to: u32| {
        batch(
            (from..to)
                .map(|n| entry("ledger-source", 0, &format!("line {n}")))
                .collect(),
        )
    };
    feed::add(&mut world, Told::Lines(lines(0, 100)));
    let text = picture(&mut ui, &world);
    assert!(text.contains("line 99"), "{text}");
    press(&mut ui, &world, "k");
    feed::add(&mut world, Told::Lines(lines(100, 110)));
    let text = picture(&mut ui, &world);
    assert!(
        text.contains("line 98") && !text.contains("line 99"),
        "{text}"
    );
    press(&mut ui, &world, "/line 5\n");
    let text = picture(&mut ui, &world);
    assert!(
        text.lines().nth(1).unwrap().starts_with("line 59"),
        "{text}"
    );
    press(&mut ui, &world, "N");
    let text = picture(&mut ui, &world);
    assert!(
        text.lines().nth(1).unwrap().starts_with("line 58"),
        "{text}"
    );
    press(&mut ui, &world, "f");
    assert!(picture(&mut ui, &world).contains("line 109"));
    press(&mut ui, &world, "\u{1b}q");
    assert_eq!(ui.view, View::Table);
}

#[test]
fn a_long_line_is_cut_or_goes_on_and_a_huge_one_costs_little() {
    let mut world = world(snapshot());
    let mut ui = ui((40, 10));
    ui.view = View::Logs(ttp(), None);
    feed::add(&mut world, Told::Content(Content::Logs(LogPage::default())));
    let long = format!("{}end", "日本語".repeat(10));
    let huge = "x".repeat(1 << 20);
    let entries = vec![entry("sink", 0, &huge), entry("sink", 0, &long)];
    feed::add(&mut world, Told::Lines(batch(entries)));
    let text = picture(&mut ui, &world);
    assert!(!text.contains("end"), "{text}");
    press(&mut ui, &world, "W");
    let text = picture(&mut ui, &world);
    assert!(text.contains("end"), "{text}");
    let Content::Logs(page) = &world.content else {
        panic!("a page of logs");
    };
    assert!(
        format!("{page:?}").len() < 100_000,
        "most of it is left in the file"
    );
}

#[test]
fn lines_of_several_components_are_told_apart_and_what_is_left_out_is_said() {
    let mut world = world(snapshot());
    let mut ui = ui((80, 24));
    ui.view = View::Logs(ttp(), None);
    feed::add(&mut world, Told::Content(Content::Logs(LogPage::default())));
    let part = LogEntry {
        partial: true,
        ..entry("sink", 0, "be")
    };
    let entries = vec![
        part,
        entry("ttp-processor", 1, "two"),
        entry("sink", 0, "gun"),
    ];
    feed::add(
        &mut world,
        Told::Lines(LogBatch {
            left_out: true,
            ..batch(entries)
        }),
    );
    let text = picture(&mut ui, &world);
    let lines: Vec<&str> = text.lines().skip(1).take(3).collect();
    assert_eq!(
        lines,
        [
            "sink            | begun",
            "ttp-processor-1 | two",
            "-- more is written than can be shown; lines are left out here --",
        ]
    );
}

#[test]
fn a_page_of_logs_holds_what_is_newest_and_no_more() {
    let mut page = LogPage::default();
    for n in 0..60 {
        let text = format!("{n} {}", "x".repeat(1_000));
        page.add(batch((0..200).map(|_| entry("sink", 0, &text)).collect()));
    }
    let content = Content::Logs(page);
    let (first, end) = super::page::range(&content);
    assert_eq!((end, end - first), (12_000, 5_000));
}

#[test]
fn events_reasons_graphs_and_use_have_pages() {
    let mut world = world(snapshot());
    let mut ui = ui((80, 12));
    fit(&mut ui, &world);
    let event = Event {
        seq: 7,
        at: ago(0),
        namespace: Some(Default::default()),
        pipeline: "ttp".parse().ok(),
        component: "sink".parse().ok(),
        replica: Some(0),
        instance: None,
        kind: EventKind::Exited,
        reason: "exit 1".to_owned(),
        message: "exit 1 after 3s\x07".to_owned(),
        ended_by: None,
    };
    let mut events = EventPage::default();
    events.add([event]);
    let mut all = Vec::new();
    for (keys, content) in [
        ("E", Content::Events(events)),
        (
            "jw",
            Content::Why(vec![
                "sink: pending".to_owned(),
                "  why  it waits".to_owned(),
            ]),
        ),
        (
            "g",
            Content::Graph(vec![
                Branch {
                    trunk: String::new(),
                    id: "ledger-source".parse().unwrap(),
                    note: String::new(),
                },
                Branch {
                    trunk: "`- ".to_owned(),
                    id: "ttp-processor".parse().unwrap(),
                    note: String::new(),
                },
            ]),
        ),
        ("t", Content::Usage(Arc::new(using()))),
    ] {
        press(&mut ui, &world, "q");
        ui.view = View::Table;
        press(&mut ui, &world, keys);
        feed::add(&mut world, Told::Content(content));
        all.push(picture(&mut ui, &world));
    }
    insta::assert_snapshot!(all.join("\n---\n"));
}

fn using() -> Snapshot {
    let mut snapshot = snapshot();
    let pipeline = Arc::make_mut(&mut snapshot.pipelines[0]);
    pipeline.components[0].replicas[0].usage = Some(Usage {
        cpu_seconds: Some(1.0),
        cpu_cores: Some(1.504),
        memory_bytes: Some(3 << 30),
        memory_limit_bytes: None,
        processes: Some(2),
        open_files: Some(12),
        sampled_at: Timestamp::from_millis(0),
    });
    snapshot
}

#[test]
fn help_names_every_key_and_any_key_ends_it() {
    let world = world(snapshot());
    let mut ui = ui((80, 24));
    fit(&mut ui, &world);
    press(&mut ui, &world, "?");
    insta::assert_snapshot!(picture(&mut ui, &world));
    press(&mut ui, &world, "q");
    assert!(!picture(&mut ui, &world).contains("Ctrl+Z"));
}

#[test]
fn control_keys_end_suspend_and_draw_again() {
    let world = world(snapshot());
    let mut ui = ui((80, 24));
    for (letter, effect) in [
        ('c', Effect::Quit),
        ('z', Effect::Suspend),
        ('l', Effect::Redraw),
    ] {
        // Whatever is open.
        press(&mut ui, &world, ":");
        let event = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        assert_eq!(key(&mut ui, &world, event), Some(effect));
    }
}
