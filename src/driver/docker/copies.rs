//! Containers that bear our labels only because their image does: an image that somebody made of a
//! container of ours keeps its labels, and gives them to whatever is made of it, by whomever.
//!
//! Such a container is nobody's instance. It would else be stopped as a twin of the one that it was
//! copied from, or be let in at the control plane in that one's name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bollard::models::ContainerSummary;

use super::engine::{Failure, LOOK, found};
use super::{Inner, identity};

/// Which instance each image bears the label of, by the image's id, under which it never changes.
#[derive(Default)]
pub(super) struct Copies(Mutex<HashMap<String, Option<String>>>);

impl Inner {
    /// The containers that `filters` find and whose labels are their own.
    pub(super) async fn containers(
        &self,
        filters: HashMap<String, Vec<String>>,
    ) -> Result<Vec<ContainerSummary>, Failure> {
        let mut own = Vec::new();
        for listed in self.engine.containers(filters).await? {
            if !self
                .is_copy(listed.image_id.as_deref(), listed.labels.as_ref())
                .await?
            {
                own.push(listed);
            }
        }
        Ok(own)
    }

    /// Whether a container with these labels has them from its image.
    pub(super) async fn is_copy(
        &self,
        image: Option<&str>,
        labels: Option<&HashMap<String, String>>,
    ) -> Result<bool, Failure> {
        let instance = labels.and_then(|labels| labels.get(identity::INSTANCE));
        let (Some(image), Some(instance)) = (image, instance) else {
            return Ok(false);
        };
        Ok(self.instance_of_image(image).await?.as_ref() == Some(instance))
    }

    async fn instance_of_image(&self, image: &str) -> Result<Option<String>, Failure> {
        let known = self.copies.known(image);
        if let Some(known) = known {
            return Ok(known);
        }
        let answer = self
            .engine
            .call(
                LOOK,
                |client| async move { client.inspect_image(image).await },
            )
            .await;
        let labels = match found(answer) {
            Ok(Some(inspected)) => inspected.config.and_then(|config| config.labels),
            // It is gone, or cannot be described: nothing speaks against what was made of it.
            Ok(None) | Err(Failure::Answered { .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let instance = labels.and_then(|mut labels| labels.remove(identity::INSTANCE));
        if let Some(instance) = &instance {
            tracing::info!(
                image,
                instance,
                "an image was made of a container of flowctl's; what runs of it is not taken for that"
            );
        }
        self.copies.keep(image, instance.clone());
        Ok(instance)
    }
}

impl Copies {
    fn known(&self, image: &str) -> Option<Option<String>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(image).cloned()
    }

    fn keep(&self, image: &str, instance: Option<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(image.to_owned(), instance);
    }
}
