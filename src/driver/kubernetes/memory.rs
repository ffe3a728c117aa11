//! What is remembered of the cluster beside the store, so that it outlives one that was lost: which
//! cluster it is, and in which of its namespaces something of ours may be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::client::{Api, Call, Failure};
use super::config::{ClusterChoice, ClusterId};
use super::wire::Any;
use super::{Conduct, Inner, lock};
use crate::model::path;
use crate::store;

/// The file in the state directory.
const FILE: &str = "kubernetes-cluster";

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Memory {
    file: PathBuf,
    kept: Kept,
}

/// As it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterId>,
    #[serde(default)]
    namespaces: BTreeSet<String>,
    /// As the daemon was told, for those who look without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

impl Memory {
    /// That of a state directory. What cannot be read is as nothing: it is found out again.
    pub(super) fn of(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let text = std::fs::read(&file).unwrap_or_default();
        let kept = serde_json::from_slice(&text).unwrap_or_default();
        Self { file, kept }
    }

    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.kept.namespaces.clone()
    }

    fn change(&mut self, change: impl FnOnce(&mut Kept)) {
        let mut changed = self.kept.clone();
        change(&mut changed);
        if changed == self.kept {
            return;
        }
        self.kept = changed;
        let text = serde_json::to_vec(&self.kept).unwrap_or_default();
        if let Err(error) = store::write_private(&self.file, &text) {
            tracing::warn!(%error, "what is known of the cluster cannot be kept");
        }
    }
}

/// The cluster that the last daemon of this directory used, and had something in; `None` = none that is
/// known.
pub fn remembered(state_dir: &Path) -> Option<ClusterChoice> {
    let kept = Memory::of(state_dir).kept;
    (!kept.namespaces.is_empty()).then(|| ClusterChoice {
        kubeconfig: kept.kubeconfig.as_deref().map(path::from_text),
        context: kept.context,
        namespace: kept.namespace,
    })
}

impl Inner {
    /// Makes sure that the cluster is the one of before.
    pub(super) async fn pin(&self, api: &Arc<Api>) -> Result<(), Failure> {
        let path = "/api/v1/namespaces/kube-system".to_owned();
        let uid = match api.call::<Any>(Call::get(path)).await {
            Ok(namespace) => Some(namespace.metadata.uid).filter(|uid| !uid.is_empty()),
            // Not everybody may read it.
            Err(failure) if failure.code() == Some(403) || failure.is_not_found() => None,
            Err(failure) => return Err(failure),
        };
        let access = api.access();
        let found = ClusterId {
            uid,
            anchor: access.anchor(),
            url: access.url(),
        };
        let mut memory = lock(&self.memory);
        if let Some(before) = &memory.kept.cluster
            && !memory.kept.namespaces.is_empty()
            && !before.is_same(&found)
        {
            return Err(Failure::Config(format!(
                "{} ({}) is another cluster than {}, where this daemon's components run: start it \
                 with the kubeconfig and context of that one, or with another state directory",
                found.url,
                access.by(),
                before.url
            )));
        }
        if self.config.conduct == Conduct::OnlyLooks {
            return Ok(());
        }
        let choice = &self.config.cluster;
        memory.change(|kept| {
            // What was known better stays known.
            let known = kept.cluster.take().and_then(|before| before.uid);
            kept.cluster = Some(ClusterId {
                uid: found.uid.clone().or(known),
                ..found
            });
            kept.kubeconfig = choice
                .kubeconfig
                .as_deref()
                .map(|file| path::to_text(file).into_owned());
            kept.context.clone_from(&choice.context);
            kept.namespace.clone_from(&choice.namespace);
        });
        Ok(())
    }

    /// Remembers that something of ours may be in a namespace.
    pub(super) fn remember(&self, namespace: &str) {
        lock(&self.memory).change(|kept| {
            kept.namespaces.insert(namespace.to_owned());
        });
    }

    /// Forgets a namespace that has nothing of ours.
    pub(super) fn nothing_in(&self, namespace: &str) {
        lock(&self.memory).change(|kept| {
            kept.namespaces.remove(namespace);
        });
    }
}
