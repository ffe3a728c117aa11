//! `flowctl delete`.

use std::collections::BTreeSet;

use super::args::Delete;
use super::exit::{Exit, Failure};
use super::goal::Goal;
use super::target::pipeline;
use super::{Context, wait};
use crate::api::{Fate, VolumesRequest};
use crate::model::{PipelineKey, VolumeSource, Workload};

pub(super) async fn run(cx: &mut Context<'_>, args: Delete) -> Result<Exit, Failure> {
    let snapshot = cx.client.status().await?;
    let namespace = cx.global.namespace.clone();
    let keys = args
        .pipelines
        .iter()
        .map(|text| pipeline(&snapshot, namespace.as_ref(), text))
        .collect::<Result<Vec<_>, _>>()?;
    let names = volumes_of(cx, &keys).await?;
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
    // What still stops may use its volumes.
    if !args.patience.no_wait && !names.is_empty() {
        let fate = if args.volumes {
            Fate::Remove
        } else {
            Fate::Keep
        };
        tell_volumes(cx, names, fate).await?;
    }
    Ok(Exit::Done)
}

/// The named volumes of the containers of these pipelines.
async fn volumes_of(cx: &Context<'_>, keys: &[PipelineKey]) -> Result<Vec<String>, Failure> {
    let mut names = BTreeSet::new();
    for key in keys {
        let spec = cx.client.definition(key).await?;
        for component in spec.components.values() {
            let volumes = match &component.workload {
                Workload::Docker(_) => &component.volumes[..],
                Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => &[],
            };
            names.extend(volumes.iter().filter_map(|volume| match &volume.source {
                VolumeSource::Named(name) => Some(name.clone()),
                VolumeSource::Bind(_) | VolumeSource::Tmpfs => None,
            }));
        }
    }
    Ok(names.into_iter().collect())
}

/// Says what became of named volumes.
async fn tell_volumes(cx: &mut Context<'_>, names: Vec<String>, fate: Fate) -> Result<(), Failure> {
    let why = match fate {
        Fate::Keep => "`--volumes` would have removed it, and `flowctl down --volumes` does",
        Fate::Remove => "a container uses it",
    };
    let answer = cx.client.volumes(&VolumesRequest { names, fate }).await?;
    for name in answer.removed {
        cx.out.put(&format!("volume {name} removed\n"))?;
    }
    for name in answer.kept {
        cx.out.put(&format!("volume {name} kept; {why}\n"))?;
    }
    Ok(())
}
