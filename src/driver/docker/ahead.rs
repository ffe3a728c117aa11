//! What can be known to keep a container from starting before anything is touched.

use std::path::Path;

use super::engine::{Failure, LOOK, found};
use super::{DockerDriver, Endpoint, Renewal, images};
use crate::driver::DriverError;
use crate::images::Standing;
use crate::model::{ComponentSpec, ContainerSpec, ImagePullPolicy};

/// What would keep a container from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Nothing starts on this engine.
    #[error(
        "the engine at {engine} does not answer: {why}; start it, or name another with --docker-host"
    )]
    NoAnswer {
        /// Where it should be.
        engine: Endpoint,
        /// What asking gave.
        why: String,
    },
    /// The image is not there, and the file says that it is never pulled.
    #[error(
        "image {0} is not on the engine and its pull policy is `never`; load it, or change the policy"
    )]
    NoImage(String),
    /// What it asks for of the host, or its image, is refused, in the words of the start.
    #[error("{0}")]
    Refused(String),
}

impl DockerDriver {
    /// Whether an image policy decides what runs.
    pub fn judges_images(&self) -> bool {
        self.inner.config.gate.is_watched()
    }

    /// Pulls the image of a container, unless its policy is never to, and changes nothing else.
    ///
    /// # Errors
    /// When it is not to be had, or the engine does not answer.
    pub async fn renew_image(&self, container: &ContainerSpec) -> Result<Renewal, DriverError> {
        let image = self.admit(container, Standing::Fresh, &|_| {}).await?;
        images::renew(&self.inner.engine, container, &image).await
    }

    /// Looks whether a container can be started for a component of the pipeline in `file`, changing
    /// nothing.
    ///
    /// # Errors
    /// What stands in the way, as far as it can be known.
    pub async fn look_ahead(
        &self,
        spec: &ComponentSpec,
        container: &ContainerSpec,
        file: Option<&Path>,
    ) -> Result<(), Obstacle> {
        self.look_at_image(container).await?;
        if let Err(refused) = self.admit(container, Standing::Fresh, &|_| {}).await {
            return Err(Obstacle::Refused(refused.to_string()));
        }
        match self.look_at_host(spec, container, file).await {
            Ok(()) => Ok(()),
            Err(DriverError::Refused(failure)) => Err(Obstacle::Refused(failure.message)),
            Err(
                error @ (DriverError::Unreachable { .. }
                | DriverError::StillAlive { .. }
                | DriverError::InTheWay { .. }),
            ) => Err(Obstacle::NoAnswer {
                engine: self.inner.engine.endpoint().clone(),
                why: error.to_string(),
            }),
        }
    }

    async fn look_at_image(&self, container: &ContainerSpec) -> Result<(), Obstacle> {
        let engine = &self.inner.engine;
        let no_answer = |failure: Failure| Obstacle::NoAnswer {
            engine: engine.endpoint().clone(),
            why: failure.to_string(),
        };
        match container.pull {
            Some(ImagePullPolicy::Never) => {
                let image = container.image.as_str();
                let answer = engine
                    .call(
                        LOOK,
                        |client| async move { client.inspect_image(image).await },
                    )
                    .await;
                match found(answer).map_err(no_answer)? {
                    Some(_) => Ok(()),
                    None => Err(Obstacle::NoImage(image.to_owned())),
                }
            }
            Some(ImagePullPolicy::Always | ImagePullPolicy::IfNotPresent) | None => {
                let answer = engine
                    .call(LOOK, |client| async move { client.ping().await })
                    .await;
                answer.map(drop).map_err(no_answer)
            }
        }
    }
}
