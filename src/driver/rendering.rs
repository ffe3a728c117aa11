//! What drivers need to show the objects of a pipeline as an engine would be sent them, without an
//! engine and without a daemon.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Launch;
use super::inputs::{Glance, InputError};
use crate::model::{
    ComponentId, ComponentSpec, Generation, ImageChoice, InstanceId, PipelineSpec, ReplicaKey,
    StartFailure,
};

/// Stands for the daemon, which is not asked.
pub(super) const NOBODY: &str = "nobody";

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

impl RenderError {
    /// What `component` says is wrong.
    pub(super) fn refused(component: &ComponentSpec, failure: StartFailure) -> Self {
        Self::Refused {
            component: component.id.clone(),
            failure,
        }
    }
}

/// The variables of the env files of `component`.
///
/// # Errors
/// When one of them cannot be read.
pub(super) fn variables(component: &ComponentSpec) -> Result<Vec<(String, Vec<u8>)>, RenderError> {
    let read = Glance::at_env_files(component).complete();
    read.map_err(|error| RenderError::Input {
        component: component.id.clone(),
        error,
    })
}

/// The first run of a replica of `component`.
pub(super) fn first_run(
    pipeline: &PipelineSpec,
    component: &ComponentSpec,
    replica: u32,
    file: Option<&Path>,
) -> Launch {
    Launch {
        instance: InstanceId {
            pipeline: pipeline.key.clone(),
            replica: ReplicaKey {
                component: component.id.clone(),
                replica,
            },
            incarnation: 1,
        },
        spec: Arc::new(component.clone()),
        generation: Generation(1),
        file: file.map(Path::to_path_buf),
        injected: BTreeMap::new(),
        image: ImageChoice::ByPolicy,
        given_up: CancellationToken::new(),
    }
}
