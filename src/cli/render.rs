//! A snapshot as text. Pure: the moment, the width and the colours are inputs.

use std::fmt::Write as _;
use std::path::Path;

use crate::control_plane::DEFAULT_PORT;
use crate::model::{
    ComponentPath, ComponentStatus, ConditionKind, DaemonStatus, Limit, Namespace, PhaseName,
    PipelineStatus, ReplicaStatus, Severity, Snapshot, Timestamp,
};

use super::components::age;
use super::text::{Cell, Look, Tone, clean, draw, paint, short, tone, widths};
pub use super::text::{bytes, cores, ended, limit, memory, replica_name, why};

/// Which columns are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// What one wants to see every time, cut to the terminal's width.
    Usual,
    /// All, as wide as they need.
    All,
}

/// The table of `flowctl status`.
pub fn status(snapshot: &Snapshot, columns: Columns, look: Look, now: Timestamp) -> String {
    let look = match columns {
        Columns::Usual => look,
        Columns::All => Look {
            columns: None,
            ..look
        },
    };
    let mut text = String::new();
    if let Some(daemon) = &snapshot.daemon {
        not_durable(daemon, look, &mut text);
    }
    troubles(snapshot, look, now, &mut text);
    if let Some(daemon) = &snapshot.daemon {
        control_plane(daemon, columns, &mut text);
    }
    if snapshot.pipelines.is_empty() {
        text.push_str("no pipelines; `flowctl apply -f FILE` brings one\n");
        return text;
    }
    // One set of widths, so that the columns of all pipelines stand under each other.
    let mut tables: Vec<Vec<Vec<Cell>>> = snapshot
        .pipelines
        .iter()
        .map(|pipeline| rows(pipeline, columns, now))
        .collect();
    let mut shared = shared_widths(&tables);
    if look
        .columns
        .is_some_and(|columns| is_cramped(&shared, columns))
    {
        for row in tables.iter_mut().flatten() {
            for column in DISPENSABLE {
                row.remove(column);
            }
        }
        shared = shared_widths(&tables);
    }
    for (index, (pipeline, rows)) in snapshot.pipelines.iter().zip(&tables).enumerate() {
        if index > 0 {
            text.push('\n');
        }
        heading(pipeline, look, &mut text);
        notes(pipeline, look, &mut text);
        draw(rows, &shared, look, &mut text);
    }
    text
}

/// DRIVER and ROLE, the later one first: on a narrow terminal the reasons need their place more.
const DISPENSABLE: [usize; 2] = [6, 1];
/// Reasons that get less than this are cut too often to be worth reading.
const ROOM_FOR_REASONS: usize = 50;

fn is_cramped(widths: &[usize], columns: usize) -> bool {
    let (reasons, fixed) = widths.split_last().unwrap_or((&0, &[]));
    let fixed: usize = fixed.iter().map(|width| width + 2).sum();
    fixed + (*reasons).min(ROOM_FOR_REASONS) > columns
}

fn shared_widths(tables: &[Vec<Vec<Cell>>]) -> Vec<usize> {
    let mut shared: Vec<usize> = Vec::new();
    for of_one in tables.iter().map(|rows| widths(rows)) {
        shared.resize(shared.len().max(of_one.len()), 0);
        for (width, other) in shared.iter_mut().zip(of_one) {
            *width = (*width).max(other);
        }
    }
    shared
}

fn not_durable(daemon: &DaemonStatus, look: Look, text: &mut String) {
    if daemon.durable {
        return;
    }
    let why = daemon.durable_why.as_deref().unwrap_or("cause unknown");
    let line = format!(
        "state cannot be recorded: {}; nothing new is started until it can",
        clean(why)
    );
    text.push_str(&paint(&line, Tone::Bad, look.style));
    text.push_str("\n\n");
}

/// So many components that a condition holds up are named.
const NAMED: usize = 3;

/// What is wrong, the gravest first, a line each, and whom it holds up.
fn troubles(snapshot: &Snapshot, look: Look, now: Timestamp, text: &mut String) {
    let mut is_any = false;
    for condition in snapshot.all_conditions() {
        match condition.kind {
            // Told already, with what it means.
            ConditionKind::NotDurable => continue,
            ConditionKind::Blind
            | ConditionKind::Failed
            | ConditionKind::Crashloop
            | ConditionKind::Unready
            | ConditionKind::Stalled
            | ConditionKind::Rejected
            | ConditionKind::Oom
            | ConditionKind::OverRestarting
            | ConditionKind::LogDropped
            | ConditionKind::Undelivered
            | ConditionKind::ImageRefused => is_any = true,
        }
        let tone = match condition.kind.severity() {
            Severity::Critical => Tone::Bad,
            Severity::Warning => Tone::Moving,
        };
        let kind = paint(&condition.kind.to_string(), tone, look.style);
        let mut line = format!(
            "{kind}  {}  for {}",
            condition.subject(),
            short(now.since(condition.since))
        );
        if !condition.why.is_empty() {
            line.push_str(&format!(": {}", clean(&condition.why)));
        }
        line.push_str(&held_up(&condition.blocks));
        text.push_str(&line);
        text.push('\n');
    }
    if is_any {
        text.push('\n');
    }
}

/// `; holds up ttp/reader, ttp/sink and 3 more`.
fn held_up(blocks: &[ComponentPath]) -> String {
    let (named, more) = blocks.split_at(blocks.len().min(NAMED));
    let name = |path: &ComponentPath| format!("{}/{}", path.pipeline, path.component);
    let named: Vec<String> = named.iter().map(name).collect();
    match (named.is_empty(), more.len()) {
        (true, _) => String::new(),
        (false, 0) => format!("; holds up {}", named.join(", ")),
        (false, more) => format!("; holds up {} and {more} more", named.join(", ")),
    }
}

/// Where components reach us, when it is asked for or is not where they look by themselves.
fn control_plane(daemon: &DaemonStatus, columns: Columns, text: &mut String) {
    let Some(address) = &daemon.control_plane else {
        return;
    };
    let is_usual = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port == DEFAULT_PORT.to_string());
    if columns == Columns::All || !is_usual {
        push(text, |text| writeln!(text, "control plane  {address}\n"));
    }
}

/// The lines above a pipeline's table.
pub fn heading(pipeline: &PipelineStatus, look: Look, text: &mut String) {
    let (word, tone) = if pipeline.deleting {
        ("being deleted", Tone::Moving)
    } else if pipeline.settled {
        ("settled", Tone::Good)
    } else {
        ("not settled", Tone::Moving)
    };
    push(text, |text| {
        write!(
            text,
            "{}  generation {}  {}  {}  {}",
            paint(&pipeline_name(pipeline), Tone::Strong, look.style),
            pipeline.generation,
            paint(word, tone, look.style),
            tally(pipeline),
            origin(pipeline),
        )
    });
    text.push('\n');
    if let Some(problem) = &pipeline.problem {
        let place = [problem.line, problem.column].into_iter().flatten().fold(
            problem.file.as_deref().map(shown_path).unwrap_or_default(),
            |place, number| format!("{place}:{number}"),
        );
        let mut lines = problem.message.lines();
        let line = format!(
            "problem  {place}: {}",
            clean(lines.next().unwrap_or_default())
        );
        text.push_str(&paint(&line, Tone::Bad, look.style));
        text.push('\n');
        for line in lines {
            text.push_str(&format!("         {}\n", clean(line)));
        }
        text.push_str("         the last good version runs on\n");
    }
}

/// What a component asks for in vain, and what is wrong with it all the same.
pub fn notes_of(component: &ComponentStatus) -> impl Iterator<Item = String> {
    let in_vain = Limit::in_vain(&component.unenforced);
    let forced = component.notes.iter().map(|note| clean(note).into_owned());
    in_vain.into_iter().chain(forced)
}

/// The notes on a pipeline's components, a line each.
fn notes(pipeline: &PipelineStatus, look: Look, text: &mut String) {
    for component in &pipeline.components {
        for words in notes_of(component) {
            let line = format!("note     {}: {words}", component.id);
            text.push_str(&paint(&line, Tone::Unknown, look.style));
            text.push('\n');
        }
    }
}

/// `5 of 7 ready`, and how many have failed. What is done or was stopped is not meant to be ready.
fn tally(pipeline: &PipelineStatus) -> String {
    let replicas = || pipeline.replicas().map(|(_, replica)| replica);
    let all = replicas()
        .filter(|replica| replica.is_meant_to_run())
        .count();
    let ready = replicas().filter(|replica| replica.ready).count();
    let failed = replicas()
        .filter(|replica| replica.phase == PhaseName::Failed)
        .count();
    if failed == 0 {
        format!("{ready} of {all} ready")
    } else {
        format!("{ready} of {all} ready, {failed} failed")
    }
}

/// The pipeline's name as it is typed.
pub fn pipeline_name(pipeline: &PipelineStatus) -> String {
    if pipeline.namespace == Namespace::default() {
        pipeline.name.to_string()
    } else {
        format!("{}/{}", pipeline.namespace, pipeline.name)
    }
}

fn origin(pipeline: &PipelineStatus) -> String {
    match &pipeline.file {
        None => "from standard input".to_owned(),
        Some(file) if pipeline.watched => shown_path(file),
        Some(file) => format!("{} (not watched)", shown_path(file)),
    }
}

fn shown_path(path: &Path) -> String {
    clean(&path.to_string_lossy()).into_owned()
}

fn rows(pipeline: &PipelineStatus, columns: Columns, now: Timestamp) -> Vec<Vec<Cell>> {
    let mut titles = vec![
        "COMPONENT",
        "ROLE",
        "STATE",
        "READY",
        "RESTARTS",
        "SINCE",
        "DRIVER",
    ];
    if columns == Columns::All {
        titles.extend([
            "CPU",
            "MEM",
            "LIMIT",
            "PID/CONTAINER",
            "IMAGE",
            "INSTANCE",
            "SPEC",
            "ADDRESSES",
            "HEARTBEAT",
            "LAST EXIT",
        ]);
    }
    titles.push("WHY");
    let mut rows = vec![
        titles
            .into_iter()
            .map(|title| Cell::new(title).toned(Tone::Dim))
            .collect(),
    ];
    for component in &pipeline.components {
        if component.replicas.is_empty() {
            rows.push(without_replicas(component, columns));
        }
        for replica in &component.replicas {
            rows.push(row(component, replica, columns, now));
        }
    }
    rows
}

/// Why nothing is to be seen of a component that its file names.
pub const NONE_WANTED: &str = "no replica of it is wanted: `replicas: 0`";

fn without_replicas(component: &ComponentStatus, columns: Columns) -> Vec<Cell> {
    let blanks = match columns {
        Columns::Usual => 0,
        Columns::All => 10,
    };
    let mut row = vec![
        Cell::new(component.id.as_str()),
        Cell::new(component.role.to_string()),
        Cell::new("-"),
        Cell::new("-"),
        Cell::new("-"),
        Cell::new("-"),
        Cell::new(component.driver.to_string()),
    ];
    row.extend(std::iter::repeat_n(Cell::new("-"), blanks));
    row.push(Cell::new(format!("{} replicas wanted", component.desired)));
    row
}

fn row(
    component: &ComponentStatus,
    replica: &ReplicaStatus,
    columns: Columns,
    now: Timestamp,
) -> Vec<Cell> {
    let ready = if replica.ready { "yes" } else { "no" };
    let mut row = vec![
        Cell::new(replica_name(component, replica)),
        Cell::new(component.role.to_string()),
        Cell::new(replica.phase.to_string()).toned(tone(replica.phase)),
        Cell::new(ready),
        Cell::new(replica.restarts.to_string()),
        Cell::new(short(now.since(replica.since))),
        Cell::new(component.driver.to_string()),
    ];
    if columns == Columns::All {
        let usage = replica.usage.as_ref();
        row.extend(
            [
                usage.and_then(cores),
                usage.and_then(memory),
                usage.and_then(limit),
                carrier(replica),
                replica.image.as_ref().map(ToString::to_string),
                replica.instance.as_ref().map(ToString::to_string),
                replica.spec.as_ref().map(ToString::to_string),
                addresses(replica),
                replica
                    .registration
                    .as_ref()
                    .map(|told| age(told.last_heartbeat, now)),
                replica.exit.as_ref().map(|exit| ended(exit, now)),
            ]
            .map(|text| Cell::new(text.unwrap_or_else(|| "-".to_owned()))),
        );
    }
    row.push(Cell::new(why(replica, now)));
    row
}

/// The process id, or the short id of the container as its engine shows it.
fn carrier(replica: &ReplicaStatus) -> Option<String> {
    let container = || {
        let id = replica.container.as_ref()?;
        Some(id.chars().take(12).collect())
    };
    replica.pid.map(|pid| pid.to_string()).or_else(container)
}

fn addresses(replica: &ReplicaStatus) -> Option<String> {
    let words: Vec<String> = replica
        .addresses
        .iter()
        .map(|(name, address)| format!("{name}={address}"))
        .collect();
    (!words.is_empty()).then(|| words.join(","))
}

/// What keeps `snapshot` from passing `status --check`, a line each; empty = it passes.
pub fn unsettled(snapshot: &Snapshot, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    match &snapshot.daemon {
        None => lines.push("no daemon is in charge".to_owned()),
        Some(daemon) if !daemon.durable => lines.push("state cannot be recorded".to_owned()),
        Some(_) => {}
    }
    for pipeline in &snapshot.pipelines {
        let name = pipeline_name(pipeline);
        if let Some(problem) = &pipeline.problem {
            let first = problem.message.lines().next().unwrap_or_default();
            lines.push(format!("{name}: its file has a problem: {}", clean(first)));
        }
        let before = lines.len();
        for component in &pipeline.components {
            for replica in &component.replicas {
                if !replica.is_fine() {
                    let id = replica_name(component, replica);
                    lines.push(standing(&format!("{name}/{id}"), replica, now));
                }
            }
        }
        if !pipeline.settled && lines.len() == before {
            lines.push(format!("{name}: not settled"));
        }
    }
    lines
}

/// `name: state (why; what next)`.
pub fn standing(name: &str, replica: &ReplicaStatus, now: Timestamp) -> String {
    let why = why(replica, now);
    if why.is_empty() {
        format!("{name}: {}", replica.phase)
    } else {
        format!("{name}: {} ({})", replica.phase, clean(&why))
    }
}

/// Appends what `write` writes.
pub fn push(text: &mut String, write: impl FnOnce(&mut String) -> std::fmt::Result) {
    write(text).expect("writing to a string succeeds");
}

#[cfg(test)]
mod tests {
    use super::super::sample::{now, snapshot};
    use super::super::text::Style;
    use super::*;
    use crate::model::Problem;
    use std::sync::Arc;

    fn plain(columns: Option<usize>) -> Look {
        Look {
            style: Style::Plain,
            columns,
        }
    }

    fn edit(snapshot: &mut Snapshot, change: impl FnOnce(&mut PipelineStatus)) {
        change(Arc::make_mut(&mut snapshot.pipelines[0]));
    }

    #[test]
    fn the_table_tells_state_since_when_why_and_what_next() {
        let text = status(&snapshot(), Columns::Usual, plain(None), now());
        insta::assert_snapshot!(text, @r"
        ttp  generation 3  not settled  1 of 6 ready, 1 failed  /srv/ttp/pipeline.yaml
        COMPONENT        ROLE       STATE      READY  RESTARTS  SINCE  DRIVER   WHY
        ledger-source    source     running    yes    0         3h4m   process
        ttp-processor    processor  starting   no     0         0s     process  not ready yet: no probe answered
        ttp-processor-1  processor  crashloop  no     5         16s    process  exit 1 (failure 5); start in 12s
        sink             sink       pending    no     0         20s    process  waiting for ttp-processor (unready since 02:43:00: connection refused)
        audit            sink       failed     no     0         3d11h  process  gave up after 3 restarts (SIGSEGV); `flowctl start` revives it
        import           source     completed  no     0         1m30s  process  exit 0
        cache            sink       unknown    no     0         1m1s   process  the docker driver does not answer: connection refused
        spare            sink       -          -      -         -      process  0 replicas wanted
        ");
    }

    #[test]
    fn the_wide_table_adds_identity_and_the_last_exit() {
        let text = status(&snapshot(), Columns::All, plain(Some(40)), now());
        insta::assert_snapshot!(text, @r"
        control plane  127.0.0.1:8080

        ttp  generation 3  not settled  1 of 6 ready, 1 failed  /srv/ttp/pipeline.yaml
        COMPONENT        ROLE       STATE      READY  RESTARTS  SINCE  DRIVER   CPU  MEM  LIMIT  PID/CONTAINER  IMAGE  INSTANCE                       SPEC                 ADDRESSES             HEARTBEAT  LAST EXIT           WHY
        ledger-source    source     running    yes    0         3h4m   process  -    -    -      4711           -      default.ttp.ledger-source.0.1  v1:00000000000000aa  grpc=localhost:50051  -          -
        ttp-processor    processor  starting   no     0         0s     process  -    -    -      -              -      default.ttp.ttp-processor.0.1  v1:00000000000000aa  -                     -          -                   not ready yet: no probe answered
        ttp-processor-1  processor  crashloop  no     5         16s    process  -    -    -      -              -      default.ttp.ttp-processor.1.1  v1:00000000000000aa  -                     -          exit 1, 16s ago     exit 1 (failure 5); start in 12s
        sink             sink       pending    no     0         20s    process  -    -    -      -              -      default.ttp.sink.0.1           v1:00000000000000aa  -                     -          -                   waiting for ttp-processor (unready since 02:43:00: connection refused)
        audit            sink       failed     no     0         3d11h  process  -    -    -      -              -      default.ttp.audit.0.1          v1:00000000000000aa  -                     -          SIGSEGV, 3d11h ago  gave up after 3 restarts (SIGSEGV); `flowctl start` revives it
        import           source     completed  no     0         1m30s  process  -    -    -      -              -      default.ttp.import.0.1         v1:00000000000000aa  -                     -          -                   exit 0
        cache            sink       unknown    no     0         1m1s   process  -    -    -      -              -      default.ttp.cache.0.1          v1:00000000000000aa  -                     -          -                   the docker driver does not answer: connection refused
        spare            sink       -          -      -         -      process  -    -    -      -              -      -                              -                    -                     -          -                   0 replicas wanted
        ");
    }

    #[test]
    fn what_is_wrong_comes_first_with_its_cause_and_whom_it_holds_up() {
        let mut wrong = snapshot();
        edit(&mut wrong, |pipeline| {
            pipeline.components.truncate(1);
            let path = |id: &str| format!("default/ttp/{id}").try_into().unwrap();
            pipeline.conditions = vec![crate::model::StatusCondition {
                component: Some("ttp-processor".parse().unwrap()),
                namespace: Some(pipeline.namespace.clone()),
                pipeline: Some(pipeline.name.clone()),
                blocks: ["a", "b", "c", "d"].map(path).to_vec(),
                ..crate::conditions::whole(
                    ConditionKind::Crashloop,
                    super::super::sample::ago(300),
                    "exit 1 (failure 5)".to_owned(),
                )
            }];
        });
        insta::assert_snapshot!(status(&wrong, Columns::Usual, plain(None), now()), @r"
        crashloop  ttp/ttp-processor  for 5m0s: exit 1 (failure 5); holds up ttp/a, ttp/b, ttp/c and 1 more

        ttp  generation 3  not settled  1 of 1 ready  /srv/ttp/pipeline.yaml
        COMPONENT      ROLE    STATE    READY  RESTARTS  SINCE  DRIVER   WHY
        ledger-source  source  running  yes    0         3h4m   process
        ");
    }

    #[test]
    fn a_narrow_terminal_cuts_reasons_and_never_ids() {
        let text = status(&snapshot(), Columns::Usual, plain(Some(90)), now());
        insta::assert_snapshot!(text, @r"
        ttp  generation 3  not settled  1 of 6 ready, 1 failed  /srv/ttp/pipeline.yaml
        COMPONENT        STATE      READY  RESTARTS  SINCE  WHY
        ledger-source    running    yes    0         3h4m
        ttp-processor    starting   no     0         0s     not ready yet: no probe answered
        ttp-processor-1  crashloop  no     5         16s    exit 1 (failure 5); start in 12s
        sink             pending    no     0         20s    waiting for ttp-processor (unready si…
        audit            failed     no     0         3d11h  gave up after 3 restarts (SIGSEGV); `…
        import           completed  no     0         1m30s  exit 0
        cache            unknown    no     0         1m1s   the docker driver does not answer: co…
        spare            -          -      -         -      0 replicas wanted
        ");
    }

    #[test]
    fn nothing_at_all_says_how_to_begin() {
        let mut empty = snapshot();
        empty.pipelines.clear();
        insta::assert_snapshot!(status(&empty, Columns::Usual, plain(None), now()), @r"
        no pipelines; `flowctl apply -f FILE` brings one
        ");
    }

    #[test]
    fn a_broken_file_is_shown_above_the_table_with_its_place() {
        let mut broken = snapshot();
        edit(&mut broken, |pipeline| {
            pipeline.components.truncate(1);
            pipeline.problem = Some(Problem {
                file: Some("/srv/ttp/pipeline.yaml".into()),
                line: Some(7),
                column: Some(3),
                message: "unknown field `imputs`\ndid you mean `inputs`?".to_owned(),
            });
        });
        insta::assert_snapshot!(status(&broken, Columns::Usual, plain(None), now()), @r"
        ttp  generation 3  not settled  1 of 1 ready  /srv/ttp/pipeline.yaml
        problem  /srv/ttp/pipeline.yaml:7:3: unknown field `imputs`
                 did you mean `inputs`?
                 the last good version runs on
        COMPONENT      ROLE    STATE    READY  RESTARTS  SINCE  DRIVER   WHY
        ledger-source  source  running  yes    0         3h4m   process
        ");
    }

    #[test]
    fn state_that_cannot_be_recorded_comes_first() {
        let mut stuck = snapshot();
        if let Some(daemon) = &mut stuck.daemon {
            daemon.durable = false;
            daemon.durable_why = Some("no space left on device".to_owned());
        }
        edit(&mut stuck, |pipeline| pipeline.components.truncate(1));
        insta::assert_snapshot!(status(&stuck, Columns::Usual, plain(None), now()), @r"
        state cannot be recorded: no space left on device; nothing new is started until it can

        ttp  generation 3  not settled  1 of 1 ready  /srv/ttp/pipeline.yaml
        COMPONENT      ROLE    STATE    READY  RESTARTS  SINCE  DRIVER   WHY
        ledger-source  source  running  yes    0         3h4m   process
        ");
    }

    #[test]
    fn colours_are_only_escapes_around_the_same_text() {
        let coloured = Look {
            style: Style::Coloured,
            columns: None,
        };
        let text = status(&snapshot(), Columns::Usual, coloured, now());
        assert!(text.contains("\x1b[32mrunning\x1b[0m"));
        let mut stripped = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            stripped.push_str(before);
            rest = after.split_once('m').map_or("", |(_, after)| after);
        }
        stripped.push_str(rest);
        assert_eq!(
            stripped,
            status(&snapshot(), Columns::Usual, plain(None), now())
        );
    }

    #[test]
    fn what_a_component_says_cannot_reach_the_terminal() {
        let mut hostile = snapshot();
        edit(&mut hostile, |pipeline| {
            pipeline.components.truncate(1);
            pipeline.components[0].replicas[0].why = "\x1b[2J\u{202e}owned".to_owned();
        });
        let text = status(&hostile, Columns::Usual, plain(None), now());
        assert!(text.contains("\\u{1b}[2J\\u{202e}owned"), "{text}");
    }

    #[test]
    fn a_check_names_all_that_is_not_as_it_should_be() {
        let mut observed = snapshot();
        insta::assert_snapshot!(unsettled(&observed, now()).join("\n"), @r"
        ttp/ttp-processor: starting (not ready yet: no probe answered)
        ttp/ttp-processor-1: crashloop (exit 1 (failure 5); start in 12s)
        ttp/sink: pending (waiting for ttp-processor (unready since 02:43:00: connection refused))
        ttp/audit: failed (gave up after 3 restarts (SIGSEGV); `flowctl start` revives it)
        ttp/cache: unknown (the docker driver does not answer: connection refused)
        ");
        edit(&mut observed, |pipeline| {
            pipeline.settled = true;
            pipeline.components.truncate(1);
        });
        assert!(unsettled(&observed, now()).is_empty());
        observed.daemon = None;
        assert_eq!(unsettled(&observed, now()), ["no daemon is in charge"]);
    }
}
