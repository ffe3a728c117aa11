//! `flowctl delete`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;

use super::args::{Delete, TextOrJson};
use super::exit::{Exit, Failure};
use super::goal::Goal;
use super::host::Question;
use super::logs::kept_targets;
use super::out::tell;
use super::sources::{PATIENCE, gather};
use super::target::{deleted_pipeline, in_namespace, pipeline};
use super::text::size;
use super::{Context, wait};
use crate::api::{ClientError, ErrorCode, Fate, VolumesRequest};
use crate::model::{ComponentSpec, PipelineKey};

/// The pipelines that files define.
async fn defined_in(cx: &Context<'_>, files: Vec<PathBuf>) -> Result<Vec<PipelineKey>, Failure> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let sources = gather(files, PATIENCE).await?;
    let approved = cx.host.check(&Question {
        sources: &sources,
        namespace: cx.global.namespace.as_ref(),
        orchestrator: None,
        style: cx.out.look().style,
    })?;
    let keys = approved.pipelines.into_iter().map(|(_, spec)| spec.key);
    Ok(keys.collect())
}

pub(super) async fn run(cx: &mut Context<'_>, args: Delete) -> Result<Exit, Failure> {
    let snapshot = cx.client.status().await?;
    let namespace = cx.global.namespace.clone();
    let namespace = namespace.as_ref();
    let (mut keys, mut gone) = (Vec::new(), Vec::new());
    let kept = if args.logs {
        kept_targets(cx).await?
    } else {
        Vec::new()
    };
    for text in &args.pipelines {
        match pipeline(&snapshot, namespace, text) {
            Err(Failure::NotFound(_)) if args.logs => {
                gone.push(deleted_pipeline(in_namespace(&kept, namespace), text)?);
            }
            found => keys.push(found?),
        }
    }
    for key in defined_in(cx, args.file.clone()).await? {
        // As `apply` would find it: what is not there is gone already.
        if snapshot.pipelines.iter().any(|status| status.key() == key) {
            keys.push(key);
        } else {
            tell(&format!("{key} is not there"));
        }
    }
    keys.sort();
    keys.dedup();
    // What still stops may use its volumes.
    let names = if args.patience.no_wait {
        Vec::new()
    } else {
        volumes_of(cx, &keys).await?
    };
    for key in &keys {
        cx.client.delete(key).await?;
    }
    let (word, unrecorded) = if args.patience.no_wait {
        ("is being taken down", None)
    } else {
        let goal = Goal::Gone(keys.clone());
        let reached = wait::until(&cx.client, &goal, args.patience.timeout).await?;
        ("deleted", wait::unrecorded(reached))
    };
    match args.output {
        TextOrJson::Text => {
            for key in &keys {
                cx.out.put(&format!("{key} {word}\n"))?;
            }
        }
        TextOrJson::Json => {
            let all = keys.iter().map(
                |key| json!({"namespace": key.namespace, "pipeline": key.name, "outcome": word}),
            );
            let answer = json!({
                "pipelines": all.collect::<Vec<_>>(),
                "recorded": unrecorded.is_none(),
            });
            cx.out.line(answer.to_string().as_bytes())?;
        }
    }
    if let Some(why) = unrecorded {
        tell(&format!(
            "warning: that is not recorded yet ({why}); a daemon that starts before it is would \
             start it again, so its named volumes are kept"
        ));
        return Ok(Exit::NotDurable);
    }
    if args.logs {
        for key in keys.iter().chain(&gone) {
            let bytes = cx.client.remove_logs(key).await?;
            say(
                cx,
                args.output,
                &format!("logs of {key} removed ({})", size(bytes)),
            )?;
        }
    }
    if names.is_empty() {
        return Ok(Exit::Done);
    }
    if args.volumes {
        tell_volumes(cx, args.output, names, Fate::Remove).await?;
    } else if let Err(error) = tell_volumes(cx, args.output, names, Fate::Keep).await {
        // What was asked for is done.
        tell(&format!(
            "warning: which volumes are kept is not known: {error}"
        ));
    }
    Ok(Exit::Done)
}

/// The named volumes of the containers of these pipelines. Those of one that is already going are
/// not known any more.
async fn volumes_of(cx: &Context<'_>, keys: &[PipelineKey]) -> Result<Vec<String>, Failure> {
    let mut names = BTreeSet::new();
    for key in keys {
        let spec = match cx.client.definition(key).await {
            Ok(spec) => spec,
            Err(ClientError::Answer(error)) if error.code == ErrorCode::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let components = spec.components.values();
        names.extend(
            components
                .flat_map(ComponentSpec::named_volumes)
                .map(str::to_owned),
        );
    }
    Ok(names.into_iter().collect())
}

/// A line for people: beside the answer, where that is for programs.
fn say(cx: &mut Context<'_>, output: TextOrJson, line: &str) -> Result<(), Failure> {
    match output {
        TextOrJson::Text => cx.out.put(&format!("{line}\n"))?,
        TextOrJson::Json => tell(line),
    }
    Ok(())
}

/// Says what became of named volumes.
async fn tell_volumes(
    cx: &mut Context<'_>,
    output: TextOrJson,
    names: Vec<String>,
    fate: Fate,
) -> Result<(), Failure> {
    let why = match fate {
        Fate::Keep => "`--volumes` would have removed it, and `flowctl down --volumes` does",
        Fate::Remove => "another pipeline names it, or a container uses it",
    };
    let answer = cx.client.volumes(&VolumesRequest { names, fate }).await?;
    for name in answer.removed {
        say(cx, output, &format!("volume {name} removed"))?;
    }
    for name in answer.kept {
        say(cx, output, &format!("volume {name} kept; {why}"))?;
    }
    Ok(())
}
