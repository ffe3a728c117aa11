//! A registration as scripts see it: the contract `flowctl.components/v1`, which only grows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::InstanceId;
use super::registry::{Evidence, RegistrationRecord, ServiceHealth, ServiceId, ServiceKind};
use super::time::Timestamp;

/// The name and version of the list of components.
pub const COMPONENTS_SCHEMA: &str = "flowctl.components/v1";

/// Everyone who is registered with a control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentList {
    /// [`COMPONENTS_SCHEMA`].
    pub schema: String,
    /// By service id.
    pub components: Vec<ComponentEntry>,
}

impl ComponentList {
    /// A list of these.
    pub fn new(components: Vec<ComponentEntry>) -> Self {
        Self {
            schema: COMPONENTS_SCHEMA.to_owned(),
            components,
        }
    }
}

/// One registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentEntry {
    /// The id under which it sends heartbeats.
    pub service_id: ServiceId,
    /// The component that it is, or claims to be; empty when it says nothing.
    pub component: String,
    /// What it is.
    pub kind: ServiceKind,
    /// How it is doing: what it says, or unhealthy once it is silent.
    pub health: ServiceHealth,
    /// When it registered last; `None` when the control plane does not tell.
    pub registered_at: Option<Timestamp>,
    /// Its latest heartbeat.
    pub last_heartbeat: Option<Timestamp>,
    /// The instance of ours that it is; `None` = it is no component of a pipeline here.
    pub instance: Option<InstanceId>,
    /// How that is known.
    pub known_by: Option<Evidence>,
    /// Its name for people.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it serves, as it says.
    pub endpoint: String,
    /// Where it answers health checks, as it says.
    pub health_endpoint: String,
    /// Event types that it reads.
    pub input_event_types: Vec<String>,
    /// Event types that it writes.
    pub output_event_types: Vec<String>,
    /// Whatever else it sent.
    pub metadata: BTreeMap<String, String>,
    /// The figures that it sends.
    pub metrics: BTreeMap<String, serde_json::Value>,
}

impl ComponentEntry {
    /// Whether it says that it works, and was heard of lately.
    pub fn is_healthy(&self) -> bool {
        self.health.works()
    }
}

impl From<&RegistrationRecord> for ComponentEntry {
    fn from(record: &RegistrationRecord) -> Self {
        let about = &record.about;
        Self {
            service_id: record.service_id.clone(),
            component: record.component().to_owned(),
            kind: about.kind,
            health: record.health(),
            registered_at: Some(record.registered_at),
            last_heartbeat: record.last_heartbeat,
            instance: record.owner.as_ref().map(|owner| owner.instance.clone()),
            known_by: record.owner.as_ref().map(|owner| owner.by),
            name: about.name.clone(),
            version: about.version.clone(),
            endpoint: about.endpoint.clone(),
            health_endpoint: about.health_endpoint.clone(),
            input_event_types: about.input_event_types.clone(),
            output_event_types: about.output_event_types.clone(),
            metadata: about.metadata.clone(),
            metrics: record
                .metrics
                .iter()
                .map(|(name, value)| (name.clone(), value.to_json()))
                .collect(),
        }
    }
}
