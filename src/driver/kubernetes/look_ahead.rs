//! What can be known to keep a component from starting on the cluster before anything is touched.

use std::sync::Arc;

use serde_json::json;

use super::client::{Api, Call, Failure};
use super::wire::Any;
use super::{KubernetesDriver, RIGHTS, config, failure};
use crate::model::{ComponentSpec, Workload};

/// Where it is asked what one may do.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Why nothing runs there where a policy says which images may, in one word.
pub(super) const UNJUDGED: &str = "ImagePolicyNotKept";

/// The same in a sentence.
pub(super) fn unjudged() -> String {
    "nodes of a cluster pull images by themselves, so the daemon's image policy cannot be kept there: \
     use an admission policy of the cluster, and a daemon without --image-policy"
        .to_owned()
}

/// The answer to that.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Review {
    status: ReviewStatus,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct ReviewStatus {
    allowed: bool,
}

/// What would keep components from starting on the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Nothing starts on this cluster.
    #[error("{0}")]
    NoAnswer(String),
    /// The namespace does not do.
    #[error("{0}")]
    Namespace(String),
    /// An image policy cannot be kept there.
    #[error("{0}")]
    Policy(String),
    /// The account lacks rights.
    #[error(
        "the daemon's account ({who}) may not {missing} in namespace {namespace} of the cluster: give it \
         that right (`flowctl kubernetes manifest` prints a Role)"
    )]
    Rights {
        /// By what it is who it is.
        who: String,
        /// What it lacks.
        missing: String,
        /// Where.
        namespace: String,
    },
}

impl KubernetesDriver {
    /// Looks whether a component can be started where it is to run, changing nothing.
    ///
    /// # Errors
    /// What stands in the way, as far as it can be known.
    pub async fn look_ahead(&self, spec: &ComponentSpec) -> Result<(), Obstacle> {
        let Workload::Kubernetes(pod) = &spec.workload else {
            return Ok(());
        };
        if self.inner.config.gate.is_watched() {
            return Err(Obstacle::Policy(unjudged()));
        }
        let no_answer = |failure: Failure| Obstacle::NoAnswer(failure.to_string());
        let api = self.inner.api().await.map_err(no_answer)?;
        let home = api.access().namespace();
        let namespace = pod.namespace.as_deref().unwrap_or(home);
        if !config::is_namespace(namespace) {
            let error = config::ConfigError::Namespace(namespace.to_owned());
            return Err(Obstacle::Namespace(error.to_string()));
        }
        let path = format!("/api/v1/namespaces/{namespace}");
        match api.call::<Any>(Call::get(path)).await {
            Ok(found) if found.metadata.is_going() => {
                return Err(Obstacle::Namespace(format!(
                    "namespace {namespace} of the cluster is being deleted"
                )));
            }
            Ok(_) => {}
            Err(failure) if failure.is_not_found() => {
                let missing = failure::missing_namespace(namespace);
                return Err(Obstacle::Namespace(missing));
            }
            // Not everybody may read it.
            Err(failure) if failure.code() == Some(403) => {}
            Err(failure) => return Err(no_answer(failure)),
        }
        rights(api, namespace).await
    }
}

async fn rights(api: &Arc<Api>, namespace: &str) -> Result<(), Obstacle> {
    let all = RIGHTS.iter().flat_map(|right| {
        let resources = right.resources.iter();
        resources.flat_map(|resource| {
            right
                .verbs
                .iter()
                .map(|verb| (right.group, *resource, *verb))
        })
    });
    let asked = all.map(|asked| async move {
        let may = may(api, namespace, asked).await;
        let (_, resource, verb) = asked;
        (!may).then(|| format!("{verb} {resource}"))
    });
    let answers = futures_util::future::join_all(asked).await;
    let missing: Vec<String> = answers.into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Obstacle::Rights {
        who: api.access().by(),
        missing: missing.join(", "),
        namespace: namespace.to_owned(),
    })
}

/// Whether this may be done; as if it might where nobody says.
async fn may(api: &Api, namespace: &str, (group, resource, verb): (&str, &str, &str)) -> bool {
    let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": namespace,
            "group": group,
            "resource": resource,
            "subresource": part,
            "verb": verb,
        }},
    });
    let call = Call::create(REVIEWS.to_owned(), &body);
    match api.call::<Review>(call).await {
        Ok(review) => review.status.allowed,
        Err(_) => true,
    }
}
