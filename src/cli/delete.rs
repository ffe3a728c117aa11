//! `flowctl delete`.

use super::args::Delete;
use super::exit::{Exit, Failure};
use super::goal::Goal;
use super::target::pipeline;
use super::{Context, wait};

pub(super) async fn run(cx: &mut Context<'_>, args: Delete) -> Result<Exit, Failure> {
    let snapshot = cx.client.status().await?;
    let namespace = cx.global.namespace.clone();
    let keys = args
        .pipelines
        .iter()
        .map(|text| pipeline(&snapshot, namespace.as_ref(), text))
        .collect::<Result<Vec<_>, _>>()?;
    for key in &keys {
        cx.client.delete(key).await?;
    }
    let word = if args.patience.no_wait {
        "is being taken down"
    } else {
        let goal = Goal::Gone(keys.clone());
        wait::until(&cx.client, &goal, args.patience.timeout).await?;
        "deleted"
    };
    for key in &keys {
        cx.out.put(&format!("{key} {word}\n"))?;
    }
    Ok(Exit::Done)
}
