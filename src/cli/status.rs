//! `flowctl status`.

use super::Context;
use super::args::{Status, StatusFormat};
use super::exit::{Exit, Failure};
use super::out::tell;
use super::render::{Columns, status, unsettled};
use super::target::narrowed;
use crate::api::ClientError;
use crate::model::Snapshot;

pub(super) async fn run(cx: &mut Context<'_>, args: Status) -> Result<Exit, Failure> {
    if args.watch {
        return watch(cx, &args).await;
    }
    let written = match cx.client.status_text().await {
        Ok(written) => written,
        Err(ClientError::NoDaemon { .. }) => return without_daemon(cx, &args),
        Err(
            error @ (ClientError::Silent { .. }
            | ClientError::Answer(_)
            | ClientError::Broken { .. }),
        ) => return Err(error.into()),
    };
    let is_whole = args.pipelines.is_empty() && cx.global.namespace.is_none();
    if is_whole && args.output == StatusFormat::Json && !args.check {
        // The daemon's own line, which need not be understood to be passed on.
        cx.out.put(&String::from_utf8_lossy(&written))?;
        return Ok(Exit::Done);
    }
    show(cx, &args, understood(&written)?)
}

/// Looks for itself: what runs does so without a daemon too.
fn without_daemon(cx: &mut Context<'_>, args: &Status) -> Result<Exit, Failure> {
    let Some(snapshot) = cx.host.look(&cx.state_dir)? else {
        return Err(Failure::NoState {
            state_dir: cx.state_dir.clone(),
        });
    };
    tell(&format!(
        "warning: no daemon runs for {}; nothing is restarted or applied until one does",
        cx.state_dir.display()
    ));
    show(cx, args, snapshot)
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

async fn watch(cx: &mut Context<'_>, args: &Status) -> Result<Exit, Failure> {
    let mut lines = cx.client.watch().await?;
    let is_table = matches!(args.output, StatusFormat::Table | StatusFormat::Wide);
    let mut is_first = true;
    while let Some(line) = lines.next().await? {
        let snapshot = understood(&line)?;
        let snapshot = narrowed(snapshot, cx.global.namespace.as_ref(), &args.pipelines)?;
        match (is_table, cx.out.is_terminal()) {
            (true, true) => cx.out.clear()?,
            (true, false) if !is_first => cx.out.put("\n")?,
            (true, false) | (false, _) => {}
        }
        print(cx, args.output, &snapshot)?;
        cx.out.flush()?;
        is_first = false;
    }
    tell("the daemon has ended");
    Ok(Exit::Done)
}

fn understood(written: &[u8]) -> Result<Snapshot, Failure> {
    serde_json::from_slice(written).map_err(|error| {
        Failure::Daemon(ClientError::Broken {
            question: "/v1/status".to_owned(),
            why: error.to_string(),
        })
    })
}
