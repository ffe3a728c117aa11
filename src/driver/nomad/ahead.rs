//! A look ahead: what would keep a component from starting, found before anything is changed.

use super::client::Ask;
use super::failure::Failure;
use super::wire::Job;
use super::{Named, NomadDriver, job};
use crate::model::{ComponentSpec, Workload};

/// Why a component would not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// By what its file says.
    Component(String),
    /// Its cluster cannot be asked, or takes nothing from the daemon.
    Cluster(String),
}

impl NomadDriver {
    /// Looks whether Nomad could be asked for a component.
    ///
    /// # Errors
    /// Why not.
    pub async fn look_ahead(&self, spec: &ComponentSpec) -> Result<(), Obstacle> {
        let Workload::Nomad(nomad) = &spec.workload else {
            return Ok(());
        };
        job::check(spec).map_err(|failure| Obstacle::Component(failure.message))?;
        let place = self.inner.place(&Named::from(nomad));
        let place = place.map_err(|error| Obstacle::Component(error.to_string()))?;
        let namespace = Ask::read(&["namespace", &place.namespace]);
        match place.client.done(namespace).await {
            // Whoever may not read it may use it all the same.
            Ok(()) | Err(Failure::Denied(_)) => {}
            Err(Failure::Absent(_)) => {
                return Err(Obstacle::Component(format!(
                    "Nomad has no namespace `{0}`: make it with `nomad namespace apply {0}`",
                    place.namespace
                )));
            }
            Err(failure) => {
                return Err(Obstacle::Cluster(format!(
                    "Nomad does not answer: {failure}"
                )));
            }
        }
        let jobs = Ask::read(&["jobs"])
            .with("namespace", place.namespace.as_str())
            .with("per_page", "1");
        match place.client.json::<Vec<Job>>(jobs).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Obstacle::Cluster(failure.to_string())),
        }
    }
}
