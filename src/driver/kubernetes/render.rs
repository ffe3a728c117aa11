//! The objects of a whole pipeline as they would be sent, for whoever wants to look at them first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::objects::{self, Order, Values};
use crate::driver::Launch;
use crate::driver::inputs::{Glance, InputError};
use crate::model::{
    ComponentId, ComponentSpec, Generation, ImageChoice, InstanceId, PipelineSpec, ReplicaKey,
    StartFailure, Workload,
};

/// Stands for the daemon, which is not asked.
const NOBODY: &str = "nobody";

/// What is to be rendered.
#[derive(Clone, Copy, Debug)]
pub struct Rendering<'a> {
    /// The pipeline.
    pub pipeline: &'a PipelineSpec,
    /// Its file.
    pub file: Option<&'a Path>,
    /// The cluster's namespace of pipelines that name none.
    pub namespace: &'a str,
}

/// Why there are no objects of a component.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// An env file of it.
    #[error("{component}: {error}")]
    Input {
        /// Which component.
        component: ComponentId,
        /// What is wrong.
        error: InputError,
    },
    /// What it says.
    #[error("{component}: {}", failure.message)]
    Refused {
        /// Which component.
        component: ComponentId,
        /// What is wrong.
        failure: StartFailure,
    },
}

/// The objects of the first run of every replica, in the order in which they are written, each once.
/// Values of secrets are not in them, nor what a daemon gives: its address, and tokens.
///
/// # Errors
/// What keeps a component from becoming objects.
pub fn rendered(rendering: &Rendering<'_>) -> Result<Vec<Value>, RenderError> {
    let Rendering {
        pipeline,
        file,
        namespace,
    } = *rendering;
    let mut shared: Vec<Value> = Vec::new();
    let mut jobs = Vec::new();
    let mut placed = None;
    for spec in pipeline.components.values() {
        let Workload::Kubernetes(pod) = &spec.workload else {
            continue;
        };
        let namespace = pod.namespace.as_deref().unwrap_or(namespace);
        placed = Some(namespace);
        for replica in 0..spec.replicas {
            let launch = first(pipeline, spec, replica, file);
            let objects = of(spec, &launch, namespace)?;
            for object in objects.before {
                if !shared.contains(&object.body) {
                    shared.push(object.body);
                }
            }
            jobs.push(objects.job.body);
        }
    }
    let parent = placed
        .map(|namespace| objects::parent(NOBODY, namespace, &pipeline.key, file))
        .map(|parent| parent.body);
    Ok(parent.into_iter().chain(shared).chain(jobs).collect())
}

fn of(
    spec: &ComponentSpec,
    launch: &Launch,
    namespace: &str,
) -> Result<objects::Objects, RenderError> {
    let component = || spec.id.clone();
    let variables = Glance::at_env_files(spec)
        .complete()
        .map_err(|error| RenderError::Input {
            component: component(),
            error,
        })?;
    let order = Order {
        owner: NOBODY,
        namespace,
        launch,
        values: Values::Withheld(&variables),
        parent: None,
    };
    objects::of(&order).map_err(|failure| RenderError::Refused {
        component: component(),
        failure,
    })
}

/// The first run of a replica.
fn first(
    pipeline: &PipelineSpec,
    spec: &ComponentSpec,
    replica: u32,
    file: Option<&Path>,
) -> Launch {
    Launch {
        instance: InstanceId {
            pipeline: pipeline.key.clone(),
            replica: ReplicaKey {
                component: spec.id.clone(),
                replica,
            },
            incarnation: 1,
        },
        spec: Arc::new(spec.clone()),
        generation: Generation(1),
        file: file.map(Path::to_path_buf),
        injected: BTreeMap::new(),
        image: ImageChoice::ByPolicy,
        given_up: CancellationToken::new(),
    }
}
