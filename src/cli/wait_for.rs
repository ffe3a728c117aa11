//! `flowctl wait`.

use super::args::{Wait, WaitFor};
use super::exit::{Exit, Failure};
use super::goal::{Before, Goal};
use super::target::{Named, Target, all, either, find};
use super::{Context, wait};
use crate::model::PipelineKey;

pub(super) async fn run(cx: &mut Context<'_>, args: Wait) -> Result<Exit, Failure> {
    let snapshot = cx.client.status().await?;
    let namespace = cx.global.namespace.clone();
    let mut pipelines: Vec<PipelineKey> = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    for name in &args.names {
        match either(&snapshot, namespace.as_ref(), name) {
            Ok(Named::Pipeline(key)) => pipelines.push(key),
            Ok(Named::Component(target)) => targets.push(target),
            // It is gone already.
            Err(Failure::NotFound(_)) if args.goal == WaitFor::Gone => {}
            Err(failure) => return Err(failure),
        }
    }
    if args.goal == WaitFor::Gone {
        if let Some(target) = targets.first() {
            let message = format!("{target} is a component; only pipelines go");
            return Err(Failure::Usage(message));
        }
        wait::until(&cx.client, &Goal::Gone(pipelines), args.timeout).await?;
    } else {
        let of_pipelines = all(&snapshot, namespace.as_ref())
            .filter(|target| pipelines.contains(&target.pipeline))
            .filter(|target| find(&snapshot, target).is_some_and(|(_, found)| found.desired > 0));
        targets.extend(of_pipelines);
        let goal = goal(args.goal, targets);
        wait::until(&cx.client, &goal, args.timeout).await?;
    }
    let word = args.goal.word();
    for name in &args.names {
        cx.out.put(&format!("{name} {word}\n"))?;
    }
    Ok(Exit::Done)
}

fn goal(wanted: WaitFor, mut targets: Vec<Target>) -> Goal {
    targets.sort();
    targets.dedup();
    match wanted {
        // However long it has been so.
        WaitFor::Ready | WaitFor::Gone => {
            Goal::Running(targets.into_iter().map(Before::unseen).collect())
        }
        WaitFor::Completed => Goal::Completed(targets),
        WaitFor::Stopped => Goal::Stopped(targets),
    }
}
