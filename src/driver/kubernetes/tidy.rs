//! What pipelines leave in the cluster once nobody wants it any more: Services, and the ConfigMap that
//! all else of a pipeline belongs to. Volumes stay.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::client::{Api, Call, Failure, unreachable};
use super::objects::{Kind, identity};
use super::start::path_of;
use super::wire::{Any, Meta};
use super::{Inner, KubernetesDriver, lock};
use crate::driver::DriverError;
use crate::model::{ComponentId, PipelineKey};

const TIDY: &str = "remove what pipelines have left";

/// A component that may have something in the cluster.
pub type Component = (PipelineKey, ComponentId);

/// Whether all was removed that nobody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Tidied {
    /// It was.
    Done,
    /// Something still belongs to an instance: ask again.
    Postponed,
}

impl KubernetesDriver {
    /// Whether anything of this state directory may be in a cluster.
    pub fn may_have_something(&self) -> bool {
        !lock(&self.inner.memory).namespaces().is_empty()
    }

    /// Removes what belongs to no component that is `wanted`, and to no instance that is there.
    ///
    /// # Errors
    /// When the cluster does not let it, or does not answer.
    pub async fn tidy(&self, wanted: &BTreeSet<Component>) -> Result<Tidied, DriverError> {
        self.inner.tidy(wanted).await
    }
}

/// Whose an object is.
fn whose(meta: &Meta) -> Option<(PipelineKey, Option<ComponentId>)> {
    let get = |key| meta.labels.get(key);
    let pipeline = PipelineKey {
        namespace: get(identity::NAMESPACE)?.parse().ok()?,
        name: get(identity::PIPELINE)?.parse().ok()?,
    };
    let component = get(identity::COMPONENT).and_then(|text| text.parse().ok());
    Some((pipeline, component))
}

impl Inner {
    async fn tidy(self: &Arc<Self>, wanted: &BTreeSet<Component>) -> Result<Tidied, DriverError> {
        let namespaces = lock(&self.memory).namespaces();
        if namespaces.is_empty() {
            return Ok(Tidied::Done);
        }
        let api = self.api().await;
        let api = api.map_err(|failure| failure.unreachable(TIDY))?;
        let mut all = Tidied::Done;
        for namespace in namespaces {
            self.in_sight(api, &namespace).await?;
            let tidied = self.tidy_namespace(api, &namespace, wanted).await;
            match tidied.map_err(|failure| unreachable(TIDY, failure))? {
                Tidied::Done => {}
                Tidied::Postponed => all = Tidied::Postponed,
            }
        }
        Ok(all)
    }

    async fn tidy_namespace(
        &self,
        api: &Api,
        namespace: &str,
        wanted: &BTreeSet<Component>,
    ) -> Result<Tidied, Failure> {
        let selector = identity::selector_of_owner(&self.owner);
        let mut tidied = Tidied::Done;
        let mut left = false;
        for kind in [Kind::Service, Kind::ConfigMap] {
            let path = path_of(kind, namespace);
            let (found, _): (Vec<Any>, _) = api.list(&path, &selector).await?;
            for Any { metadata } in found {
                let Some((pipeline, component)) = whose(&metadata) else {
                    continue;
                };
                let is_its = |(of, id): &Component| {
                    *of == pipeline && component.as_ref().is_none_or(|own| own == id)
                };
                if wanted.iter().any(is_its) {
                    left = true;
                    continue;
                }
                let has_instances = self.cache().has(|instance| {
                    let id = &instance.replica.component;
                    instance.pipeline == pipeline && component.as_ref().is_none_or(|own| own == id)
                });
                if has_instances {
                    (left, tidied) = (true, Tidied::Postponed);
                    continue;
                }
                let options = json!({
                    "propagationPolicy": "Background",
                    "preconditions": {"uid": metadata.uid},
                });
                let path = format!("{path}/{}", metadata.name);
                match api.tell(Call::delete(path, &options)).await {
                    Ok(()) => {}
                    Err(failure) if matches!(failure.code(), Some(404 | 409)) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        let has_any = self
            .cache()
            .entries()
            .any(|(_, entry)| entry.namespace == namespace);
        let is_blind = self
            .place(namespace)
            .is_none_or(|it| it.blind(Instant::now()).is_some());
        if !left && !has_any && !is_blind {
            self.nothing_in(namespace);
        }
        Ok(tidied)
    }
}
