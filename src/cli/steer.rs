//! `flowctl start`, `stop` and `restart`.

use super::args::Steer;
use super::exit::{Exit, Failure};
use super::goal::{Before, Goal};
use super::out::tell;
use super::target::{Target, component};
use super::{Context, wait};
use crate::api::Asked;

pub(super) async fn run(cx: &mut Context<'_>, args: Steer, asked: Asked) -> Result<Exit, Failure> {
    let snapshot = cx.client.status().await?;
    let namespace = cx.global.namespace.clone();
    // All names are understood before anything is asked for.
    let mut targets = args
        .components
        .iter()
        .map(|text| component(&snapshot, namespace.as_ref(), text))
        .collect::<Result<Vec<Target>, _>>()?;
    targets.sort();
    targets.dedup();
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
        return tell_all(cx, &targets, &format!("{asked} requested"));
    }
    let (goal, word) = match asked {
        Asked::Start => (Goal::Running(before), "runs"),
        Asked::Stop => (Goal::Stopped(targets.clone()), "stopped"),
        Asked::Restart | Asked::Pull => (Goal::Replaced(before), "restarted"),
    };
    let reached = wait::until(&cx.client, &goal, args.patience.timeout).await?;
    tell_all(cx, &targets, word)?;
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

fn tell_all(cx: &mut Context<'_>, targets: &[Target], word: &str) -> Result<Exit, Failure> {
    for target in targets {
        cx.out.put(&format!("{target} {word}\n"))?;
    }
    Ok(Exit::Done)
}
