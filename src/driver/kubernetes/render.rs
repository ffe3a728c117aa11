//! The objects of a whole pipeline as they would be sent, for whoever wants to look at them first.

use std::path::Path;

use serde_json::Value;

use super::objects::{self, Order, Values};
use crate::driver::Launch;
use crate::driver::rendering::{self, NOBODY, RenderError, first_run};
use crate::model::{ComponentSpec, PipelineSpec, Workload};

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
            let launch = first_run(pipeline, spec, replica, file);
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
    let variables = rendering::variables(spec)?;
    let order = Order {
        owner: NOBODY,
        namespace,
        launch,
        values: Values::Withheld(&variables),
        parent: None,
    };
    objects::of(&order).map_err(|failure| RenderError::refused(spec, failure))
}
