//! `flowctl status`.

use std::time::Duration;

use tokio::time::timeout;

use super::args::{Status, StatusFormat};
use super::components;
use super::exit::{Exit, Failure};
use super::out::tell;
use super::reader::{self, understood};
use super::render::{Columns, status, unsettled};
use super::target::narrowed;
use super::{Context, Stateless};
use crate::api::ClientError;
use crate::model::{ComponentList, Snapshot};

pub(super) async fn run(cx: &mut Context<'_>, args: Status) -> Result<Exit, Failure> {
    if args.watch {
        return watch(cx, &args).await;
    }
    let measured = args.usage || args.output == StatusFormat::Wide;
    let written = if measured {
        reader::usage_text(cx).await?
    } else {
        reader::status_text(cx).await?
    };
    let is_whole = args.pipelines.is_empty() && cx.global.namespace.is_none();
    if is_whole && args.output == StatusFormat::Json && !args.check {
        // The line as it came, which need not be understood to be passed on.
        cx.out.put(&String::from_utf8_lossy(&written))?;
        return Ok(Exit::Done);
    }
    let snapshot = understood(cx, &written)?;
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
    let snapshot = narrowed(snapshot, cx.global.namespace.as_ref(), &args.pipelines)?;
    print(cx, args.output, &snapshot)?;
    if !args.check {
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
            let namespace = cx.global.namespace.as_ref();
            shown = Some(narrowed(snapshot, namespace, &args.pipelines)?);
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
