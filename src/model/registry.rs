//! What components tell the control plane, and which instance of ours tells it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::InstanceId;
use super::spec::{ComponentSpec, ProbeCheck, ReplicaPort, Role};
use super::time::Timestamp;

/// The id under which a component sends its heartbeats: 1 to 200 bytes without control characters.
///
/// Components of the field choose their own (`sim-ttp-processor-20250711093000`), so it is wider
/// than a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ServiceId(String);

/// A text that cannot be a service id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a service id has 1 to {} bytes and no control characters",
    ServiceId::MAX_BYTES
)]
pub struct BadServiceId;

impl ServiceId {
    /// The longest id accepted.
    pub const MAX_BYTES: usize = 200;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceId {
    type Err = BadServiceId;

    fn from_str(text: &str) -> Result<Self, BadServiceId> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadServiceId)
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::borrow::Borrow<str> for ServiceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a component says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// It does not say.
    #[default]
    Unspecified,
    /// Produces data.
    Source,
    /// Turns data into data.
    Processor,
    /// Consumes data.
    Sink,
    /// A pipeline as a whole.
    Pipeline,
}

impl ServiceKind {
    /// The list of a manifest in which such a component stands.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Source => Some(Role::Source),
            Self::Processor => Some(Role::Processor),
            Self::Sink => Some(Role::Sink),
            Self::Unspecified | Self::Pipeline => None,
        }
    }
}

impl From<Role> for ServiceKind {
    fn from(role: Role) -> Self {
        match role {
            Role::Source => Self::Source,
            Role::Processor => Self::Processor,
            Role::Sink => Self::Sink,
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unspecified => "unspecified",
            Self::Source => "source",
            Self::Processor => "processor",
            Self::Sink => "sink",
            Self::Pipeline => "pipeline",
        })
    }
}

/// How a component says that it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceHealth {
    /// Not ready yet.
    Starting,
    /// Fine; also what a registration alone means.
    #[default]
    Healthy,
    /// Works, not as it should.
    Degraded,
    /// Does not work, or has not been heard of for too long.
    Unhealthy,
    /// Shutting down.
    Stopping,
    /// Not heard of since the daemon started; it was well before.
    Unknown,
}

impl ServiceHealth {
    /// Whether it counts as working.
    pub fn works(self) -> bool {
        match self {
            Self::Healthy | Self::Degraded | Self::Unknown => true,
            Self::Starting | Self::Unhealthy | Self::Stopping => false,
        }
    }
}

impl fmt::Display for ServiceHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        })
    }
}

/// One figure that a component sends along. Old components send numbers, those of the SDK texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metric {
    /// A finite number.
    Number(f64),
    /// Anything else.
    Text(String),
}

impl Metric {
    /// A number, as text where JSON has no number for it.
    pub fn number(value: f64) -> Self {
        if value.is_finite() {
            Self::Number(value)
        } else {
            Self::Text(value.to_string())
        }
    }

    /// A text, as a number where it is one.
    pub fn text(value: String) -> Self {
        match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Self::Number(number),
            Ok(_) | Err(_) => Self::Text(value),
        }
    }

    /// The figure as a number, for clients that know nothing else.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }

    /// The figure for readers: whole numbers stay whole.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked to be whole and small"
            )]
            Self::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                serde_json::Value::from(*number as i64)
            }
            Self::Number(number) => serde_json::Value::from(*number),
            Self::Text(text) => serde_json::Value::from(text.as_str()),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Figures by name.
pub type Metrics = BTreeMap<String, Metric>;

/// What a component says of itself when it registers. Empty where it says nothing.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The component id that it claims.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub component_id: String,
    /// Its name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Free text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What it is.
    pub kind: ServiceKind,
    /// Event types that it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input_event_types: Vec<String>,
    /// Event types that it writes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_event_types: Vec<String>,
    /// Where it serves, as it says: components of the SDK leave out the host (`:50051`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Where it answers health checks, as it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub health_endpoint: String,
    /// How many events it takes at a time.
    pub max_inflight: i32,
    /// Whatever else it sends.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// How it is known whose registration it is, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// It showed the instance's token.
    Token,
    /// It named the component.
    Name,
    /// It answers health checks on the port that was given to the instance.
    HealthPort,
    /// The connection belongs to a process of the instance.
    Process,
    /// The connection comes from the instance's container.
    Container,
    /// Only one component of its kind had not registered.
    Kind,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Token => "token",
            Self::Name => "name",
            Self::HealthPort => "health port",
            Self::Process => "process",
            Self::Container => "container",
            Self::Kind => "kind",
        })
    }
}

/// The instance that a registration belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Which one.
    pub instance: InstanceId,
    /// How that is known.
    pub by: Evidence,
}

/// How a registration came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// The component registered.
    #[default]
    Registered,
    /// It only ever sent heartbeats under an id of its own making.
    Adopted,
}

/// Which daemon heard of a registration last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Hearing {
    /// This one.
    #[default]
    Current,
    /// An earlier one: how it is doing now is not known yet.
    Earlier,
}

/// What is kept of one registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistrationRecord {
    /// Its id.
    pub service_id: ServiceId,
    /// What the component says of itself.
    pub about: About,
    /// Whose it is; `None` = no component of a pipeline here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How it came about.
    #[serde(default)]
    pub provenance: Provenance,
    /// Where the connection came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// When it registered first, or was first heard of.
    pub first_seen: Timestamp,
    /// When it registered last, or was first heard of.
    pub registered_at: Timestamp,
    /// The latest heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<Timestamp>,
    /// What it last said of its health.
    #[serde(default)]
    pub said: ServiceHealth,
    /// The figures that it sent; not kept over a restart, since the next heartbeat brings them.
    #[serde(skip)]
    pub metrics: Metrics,
    /// Since when it counts as silent; decided by the sweep, cleared by any heartbeat.
    #[serde(skip)]
    pub silent_since: Option<Timestamp>,
    /// Which daemon heard of it last.
    #[serde(skip)]
    pub hearing: Hearing,
}

impl RegistrationRecord {
    /// When it was last heard of in any way.
    pub fn last_seen(&self) -> Timestamp {
        self.last_heartbeat
            .map_or(self.registered_at, |at| at.max(self.registered_at))
    }

    /// Its health: what it said, or unhealthy once it is silent. What an earlier daemon was told is
    /// not what holds now.
    pub fn health(&self) -> ServiceHealth {
        match (self.silent_since, self.hearing) {
            (Some(_), _) => ServiceHealth::Unhealthy,
            (None, Hearing::Earlier) if self.said.works() => ServiceHealth::Unknown,
            (None, Hearing::Earlier | Hearing::Current) => self.said,
        }
    }

    /// Whether it was heard of lately and says that it works.
    pub fn is_healthy(&self) -> bool {
        self.health().works()
    }

    /// The component that it is: its owner's, or the one that it claims to be.
    pub fn component(&self) -> &str {
        match &self.owner {
            Some(owner) => owner.instance.replica.component.as_str(),
            None => &self.about.component_id,
        }
    }
}

/// When a registration counts as silent, and how often that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Without a heartbeat for this long it is silent. Default 30 s.
    pub ttl: Duration,
    /// Distance between two looks. Default 10 s.
    pub sweep: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            sweep: Duration::from_secs(10),
        }
    }
}

impl ComponentSpec {
    /// The port on which the component was told to answer health checks: its own `HEALTH_PORT`,
    /// else the one that its http readiness probe asks.
    pub fn health_port(&self) -> Option<ReplicaPort> {
        let own = self.env.get("HEALTH_PORT");
        let own = own.and_then(|port| port.parse().ok());
        let probed = || match &self.probes.readiness.as_ref()?.check {
            ProbeCheck::Http(target) => Some(target.port),
            ProbeCheck::Grpc { .. }
            | ProbeCheck::Tcp { .. }
            | ProbeCheck::Exec { .. }
            | ProbeCheck::Heartbeat { .. } => None,
        };
        own.or_else(probed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_field_are_accepted_and_control_characters_are_not() {
        for good in [
            "ttp",
            "sim-ttp-processor-20250711093000",
            "SERVICE_TYPE_SOURCE-17",
            "ä b",
        ] {
            assert!(good.parse::<ServiceId>().is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "a\0", &"x".repeat(201)] {
            assert!(bad.parse::<ServiceId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn figures_survive_the_way_between_numbers_and_texts() {
        assert_eq!(Metric::text("12".into()).as_number(), Some(12.0));
        assert_eq!(Metric::number(12.0).to_string(), "12");
        assert_eq!(Metric::number(12.0).to_json(), 12);
        assert_eq!(Metric::text("1.5ms".into()).as_number(), None);
        assert_eq!(Metric::number(f64::NAN), Metric::Text("NaN".into()));
        assert!(
            Metric::number(f64::INFINITY)
                .as_number()
                .is_some_and(f64::is_infinite)
        );
    }
}
