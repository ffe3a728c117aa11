//! `flowctl status`.

use std::time::Duration;

use tokio::time::timeout;

use super::args::{CheckHow, Status, StatusFormat};
use super::components;
use super::exit::{Exit, Failure};
use super::out::tell;
use super::reader::{self, understood};
use super::render::{Columns, status, unsettled};
use super::target::{in_phases, labelled, narrowed_to};
use super::text::clean;
use super::{Context, Stateless, version};
use crate::api::ClientError;
use crate::conditions::{Health, HealthColour, health};
use crate::model::{ComponentList, PhaseName, Snapshot};

pub(super) async fn run(cx: &mut Context<'_>, args: Status) -> Result<Exit, Failure> {
    if args.watch {
        return watch(cx, &args).await;
    }
    if args.check == Some(CheckHow::Nagios) {
        return plugin(cx, &args).await;
    }
    let measured = args.usage || args.output == StatusFormat::Wide;
    let written = if measured {
        reader::usage_text(cx).await?
    } else {
        reader::status_text(cx).await?
    };
    let is_whole = args.names.is_empty() && args.phase.is_empty() && args.labels.is_empty();
    let is_whole = is_whole && cx.global.namespace.is_none();
    if is_whole && args.output == StatusFormat::Json && args.check.is_none() {
        // The line as it came, which need not be understood to be passed on.
        cx.out.put(&String::from_utf8_lossy(&written))?;
        return Ok(Exit::Done);
    }
    let snapshot = understood(cx, &written)?;
    let daemon = snapshot.daemon.as_ref();
    if let Some(warning) = daemon.and_then(|daemon| version::skew(&daemon.version)) {
        tell(&warning);
    }
    show(cx, &args, snapshot)
}

/// Whether the verb is about a control plane that is not ours, so that no state is looked at.
pub(super) fn is_about_another(args: &Status) -> bool {
    args.remote.control_plane_address.is_some()
}

/// Who is registered with a control plane that may not be ours.
pub(super) async fn run_elsewhere(cx: &mut Stateless<'_>, args: Status) -> Result<Exit, Failure> {
    let Some(place) = args.remote.place()? else {
        return Err(Failure::Usage("which control plane?".to_owned()));
    };
    let entries = components::elsewhere(&place).await?;
    let list = ComponentList::new(entries);
    match args.output {
        StatusFormat::Table | StatusFormat::Wide => {
            let (look, now) = (cx.out.look(), cx.clock.now());
            cx.out
                .put(&components::table(&list.components, look, now))?;
        }
        StatusFormat::Json => {
            cx.out
                .line(&serde_json::to_vec(&list).expect("a list has string keys only"))?;
        }
        StatusFormat::Yaml => {
            let value = serde_json::to_value(&list).expect("a list has string keys only");
            cx.out.put(&cx.host.yaml(&value)?)?;
        }
    }
    Ok(Exit::Done)
}

fn show(cx: &mut Context<'_>, args: &Status, snapshot: Snapshot) -> Result<Exit, Failure> {
    let snapshot = meant(cx, args, snapshot)?;
    if args.check.is_some() && args.output == StatusFormat::Json {
        judged(cx, &snapshot)?;
    } else {
        print(cx, args.output, &snapshot)?;
    }
    if args.check.is_none() {
        return Ok(Exit::Done);
    }
    let open = unsettled(&snapshot, cx.clock.now());
    if open.is_empty() {
        return Ok(Exit::Done);
    }
    // The table has told already; a program's reader has the JSON.
    for line in &open {
        tell(line);
    }
    Ok(Exit::Differs)
}

/// What of a snapshot is asked for.
fn meant(cx: &Context<'_>, args: &Status, snapshot: Snapshot) -> Result<Snapshot, Failure> {
    let snapshot = labelled(snapshot, &args.labels)?;
    let snapshot = narrowed_to(snapshot, cx.global.namespace.as_ref(), &args.names)?;
    let phases: Vec<PhaseName> = args.phase.iter().map(|state| (*state).into()).collect();
    Ok(in_phases(snapshot, &phases))
}

/// The status with the verdict on it.
fn judged(cx: &mut Context<'_>, snapshot: &Snapshot) -> Result<(), Failure> {
    let mut value = serde_json::to_value(snapshot).expect("a snapshot has string keys only");
    value["health"] = serde_json::to_value(health(snapshot)).expect("a verdict is plain data");
    cx.out.line(value.to_string().as_bytes())?;
    Ok(())
}

/// One line and an exit code, as check plugins have them. What cannot be found out is unknown.
async fn plugin(cx: &mut Context<'_>, args: &Status) -> Result<Exit, Failure> {
    let found = async {
        let snapshot = reader::status(cx).await?;
        meant(cx, args, snapshot)
    };
    let (line, exit) = match found.await {
        Ok(snapshot) => {
            let health = health(&snapshot);
            let exit = match health.status {
                HealthColour::Green => Exit::Done,
                HealthColour::Yellow => Exit::WARNING,
                HealthColour::Red => Exit::CRITICAL,
            };
            (plugin_line(&health), exit)
        }
        Err(failure) => (format!("FLOWCTL UNKNOWN - {failure}"), Exit::UNKNOWN),
    };
    // A line of its own, whatever was said; `|` would begin the figures.
    let (text, figures) = line.split_once(FIGURES).unwrap_or((line.as_str(), ""));
    let text = clean(&text.replace('|', "/").replace('\n', " ")).into_owned();
    cx.out.put(&format!("{text}{figures}\n"))?;
    Ok(exit)
}

/// Stands between the text and the figures until the text is clean.
const FIGURES: char = '\u{1f}';

/// `FLOWCTL CRITICAL - crashloop ttp/sink: exit 1 (failure 5); and 2 more | ready=3 wanted=5 ..`
fn plugin_line(health: &Health) -> String {
    let word = match health.status {
        HealthColour::Green => "OK",
        HealthColour::Yellow => "WARNING",
        HealthColour::Red => "CRITICAL",
    };
    let (ready, wanted, wrong) = (health.ready, health.wanted, health.indicators.len());
    let text = match health.indicators.as_slice() {
        [] => format!("{ready} of {wanted} ready"),
        [one] => format!("{} {}: {}", one.name, one.subject, one.cause),
        [first, rest @ ..] => format!(
            "{} {}: {}; and {} more",
            first.name,
            first.subject,
            first.cause,
            rest.len()
        ),
    };
    format!("FLOWCTL {word} - {text}{FIGURES} | ready={ready} wanted={wanted} wrong={wrong}")
}

fn print(cx: &mut Context<'_>, format: StatusFormat, snapshot: &Snapshot) -> Result<(), Failure> {
    let (look, now) = (cx.out.look(), cx.clock.now());
    match format {
        StatusFormat::Table => cx.out.put(&status(snapshot, Columns::Usual, look, now))?,
        StatusFormat::Wide => cx.out.put(&status(snapshot, Columns::All, look, now))?,
        StatusFormat::Json => {
            let json = serde_json::to_vec(snapshot).expect("a snapshot has string keys only");
            cx.out.line(&json)?;
        }
        StatusFormat::Yaml => {
            let value = serde_json::to_value(snapshot).expect("a snapshot has string keys only");
            let yaml = cx.host.yaml(&value)?;
            // Several are several documents.
            cx.out.put("---\n")?;
            cx.out.put(&yaml)?;
        }
    }
    Ok(())
}

/// On a terminal the table is drawn at least this often, so that ages move.
const REDRAW: Duration = Duration::from_secs(1);

async fn watch(cx: &mut Context<'_>, args: &Status) -> Result<Exit, Failure> {
    let mut lines = cx.client.watch().await?;
    let is_table = matches!(args.output, StatusFormat::Table | StatusFormat::Wide);
    let is_redrawn = is_table && cx.out.is_terminal();
    let mut shown: Option<Snapshot> = None;
    loop {
        let line = match &shown {
            // Cancel-safe: a line that is not whole yet stays in `lines`.
            Some(_) if is_redrawn => timeout(REDRAW, lines.next()).await.ok(),
            Some(_) | None => Some(lines.next().await),
        };
        let is_first = shown.is_none();
        if let Some(line) = line {
            let Some(line) = line? else {
                return Err(ended(cx));
            };
            let snapshot = understood(cx, &line)?;
            shown = Some(meant(cx, args, snapshot)?);
        }
        if is_redrawn {
            cx.out.clear()?;
        } else if is_table && !is_first {
            cx.out.put("\n")?;
        }
        if let Some(snapshot) = &shown {
            print(cx, args.output, snapshot)?;
        }
        cx.out.flush()?;
    }
}

/// The end of a stream that was to go on.
pub(super) fn ended(cx: &Context<'_>) -> Failure {
    Failure::Daemon(ClientError::NoDaemon {
        state_dir: cx.state_dir.clone(),
        why: "it has just ended".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::snapshot;
    use super::*;

    #[test]
    fn a_check_plugin_says_it_in_one_line() {
        let all = health(&snapshot());
        assert_eq!(all.status, HealthColour::Yellow);
        let line = plugin_line(&all);
        assert!(
            line.starts_with("FLOWCTL WARNING - settling ttp: "),
            "{line}"
        );
        assert!(line.ends_with(" | ready=1 wanted=6 wrong=1"), "{line}");
        let mut well = snapshot();
        well.pipelines.clear();
        assert!(plugin_line(&health(&well)).starts_with("FLOWCTL OK - 0 of 0 ready"));
        well.daemon = None;
        assert_eq!(health(&well).status, HealthColour::Red);
    }
}
