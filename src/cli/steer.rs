//! `flowctl start`, `stop` and `restart`.

use serde_json::json;

use super::args::{Steer, TextOrJson};
use super::exit::{Exit, Failure};
use super::goal::{Before, Goal};
use super::out::tell;
use super::target::{Target, all, component, labelled, pipeline};
use super::{Context, wait};
use crate::api::Asked;
use crate::model::{Namespace, Snapshot};

pub(super) async fn run(cx: &mut Context<'_>, args: Steer, asked: Asked) -> Result<Exit, Failure> {
    let snapshot = cx.client.status().await?;
    let namespace = cx.global.namespace.clone();
    // All names are understood before anything is asked for.
    let mut targets = if args.labels.is_empty() {
        let mut targets = Vec::new();
        for text in &args.components {
            targets.extend(named(&snapshot, namespace.as_ref(), text)?);
        }
        targets
    } else {
        let bearing = labelled(snapshot.clone(), &args.labels)?;
        all(&bearing, namespace.as_ref()).collect()
    };
    in_order(&mut targets, &snapshot, asked);
    let before: Vec<Before> = targets
        .iter()
        .map(|target| Before::of(&snapshot, target.clone()))
        .collect();
    for target in &targets {
        if asked == Asked::Pull {
            tell(&format!("pulling the image of {target}, which runs on"));
        }
        let answer = cx
            .client
            .request(&target.pipeline, &target.component, asked)
            .await?;
        for warning in answer.warnings {
            tell(&format!("warning: {warning}"));
        }
    }
    if args.patience.no_wait {
        return tell_all(cx, &args, &targets, &format!("{asked} requested"));
    }
    let (goal, word) = match asked {
        Asked::Start => (Goal::Running(before), "runs"),
        Asked::Stop => (Goal::Stopped(targets.clone()), "stopped"),
        Asked::Restart | Asked::Pull => (Goal::Replaced(before), "restarted"),
    };
    let reached = wait::until(&cx.client, &goal, args.patience.timeout).await?;
    tell_all(cx, &args, &targets, word)?;
    // What cannot be recorded is refused, but for a stop.
    if asked == Asked::Stop
        && let Some(why) = wait::unrecorded(reached)
    {
        tell(&format!(
            "warning: the stop is not recorded yet ({why}); a daemon that starts before it is \
             would start it again"
        ));
        return Ok(Exit::NotDurable);
    }
    Ok(Exit::Done)
}

/// The component that `text` means, or all of the pipeline that it means.
fn named(
    snapshot: &Snapshot,
    namespace: Option<&Namespace>,
    text: &str,
) -> Result<Vec<Target>, Failure> {
    let found = match component(snapshot, namespace, text) {
        Err(Failure::NotFound(why)) => match pipeline(snapshot, namespace, text) {
            Ok(key) => key,
            Err(Failure::NotFound(_)) => return Err(Failure::NotFound(why)),
            Err(failure) => return Err(failure),
        },
        one => return Ok(vec![one?]),
    };
    Ok(all(snapshot, namespace)
        .filter(|target| target.pipeline == found)
        .collect())
}

/// Each once, after those that it depends on; to be stopped, before them.
fn in_order(targets: &mut Vec<Target>, snapshot: &Snapshot, asked: Asked) {
    let listed: Vec<Target> = all(snapshot, None).collect();
    let place = |target: &Target| listed.iter().position(|one| one == target);
    targets.sort_by_key(place);
    targets.dedup();
    match asked {
        Asked::Stop => targets.reverse(),
        Asked::Start | Asked::Restart | Asked::Pull => {}
    }
}

fn tell_all(
    cx: &mut Context<'_>,
    args: &Steer,
    targets: &[Target],
    word: &str,
) -> Result<Exit, Failure> {
    if args.output == TextOrJson::Json {
        let all = targets.iter().map(|target| {
            json!({
                "namespace": target.pipeline.namespace,
                "pipeline": target.pipeline.name,
                "component": target.component,
                "outcome": word,
            })
        });
        let answer = json!({"components": all.collect::<Vec<_>>()});
        cx.out.line(answer.to_string().as_bytes())?;
        return Ok(Exit::Done);
    }
    for target in targets {
        cx.out.put(&format!("{target} {word}\n"))?;
    }
    Ok(Exit::Done)
}
