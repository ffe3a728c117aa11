//! Names and identities, checked once when they are made.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a DNS label (RFC 1123).
    #[error(
        "`{text}` is not a valid {what}: use 1 to 63 lower-case letters, digits and `-`, \
         starting and ending with a letter or digit"
    )]
    NotALabel {
        /// Which kind of name was wanted.
        what: &'static str,
        /// What was written, cut to 80 characters.
        text: String,
    },
    /// Not of the form `namespace.pipeline.component.replica.incarnation`.
    #[error("`{text}` is not an instance id (namespace.pipeline.component.replica.incarnation)")]
    NotAnInstance {
        /// What was read.
        text: String,
    },
}

/// Whether `text` is a DNS label of RFC 1123: the form that container names, network aliases,
/// Kubernetes objects and paths all accept.
fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_label(text) {
                    Ok(Self(text.into()))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(IdError::NotALabel { what: $what, text })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

label!(
    /// The name of a component within its pipeline. A DNS label.
    ComponentId,
    "component id"
);
label!(
    /// The name of a pipeline within its namespace. A DNS label.
    PipelineName,
    "pipeline name"
);
label!(
    /// A group of pipelines; `default` when the file names none. A DNS label.
    Namespace,
    "namespace"
);

/// The name of somebody who is told of what is wrong: a DNS label, or, where a pipeline's own file
/// says so, `NAMESPACE.PIPELINE.LABEL`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TargetName(Arc<str>);

impl TargetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last word of it.
    pub fn label(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or_default()
    }

    /// Whether the file of some pipeline says so.
    pub fn is_of_a_pipeline(&self) -> bool {
        self.0.contains('.')
    }

    /// Whether the file of this pipeline says so.
    pub fn is_of(&self, pipeline: &PipelineKey) -> bool {
        self.within(pipeline) == *self
    }

    /// The name of the same label in the file of `pipeline`.
    #[must_use]
    pub fn within(&self, pipeline: &PipelineKey) -> Self {
        let PipelineKey { namespace, name } = pipeline;
        Self(format!("{namespace}.{name}.{}", self.label()).into())
    }
}

impl FromStr for TargetName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let words = text.split('.').count();
        if (words == 1 || words == 3) && text.split('.').all(is_label) {
            Ok(Self(text.into()))
        } else {
            let text = text.chars().take(80).collect();
            let what = "target name";
            Err(IdError::NotALabel { what, text })
        }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for TargetName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

/// What identifies a pipeline on a host: two pipelines of one name in two namespaces are two.
/// Shown as `name` in the default namespace, as `namespace/name` in others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PipelineKey {
    /// The group the pipeline belongs to.
    pub namespace: Namespace,
    /// The pipeline's name in it.
    pub name: PipelineName,
}

impl fmt::Display for PipelineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace == Namespace::default() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One replica of one component: the unit that is planned, restarted and backed off.
/// Replicas count from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaKey {
    /// The component it belongs to.
    pub component: ComponentId,
    /// Its number, from 0.
    pub replica: u32,
}

impl fmt::Display for ReplicaKey {
    /// `id` for the first replica, `id-N` for the others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.replica == 0 {
            write!(f, "{}", self.component)
        } else {
            write!(f, "{}-{}", self.component, self.replica)
        }
    }
}

impl ReplicaKey {
    /// The name of its container: `id`, `id-N` for further replicas. Engines refuse names of one
    /// letter, so those get a number always.
    pub fn container_name(&self) -> String {
        match (self.component.as_str().len(), self.replica) {
            (1, 0) => format!("{}-1", self.component),
            // The first replica has that name already.
            (1, number) => format!("{}-{}", self.component, number + 1),
            _ => self.to_string(),
        }
    }

    /// The names by which other containers reach its container.
    pub fn container_aliases(&self) -> Vec<String> {
        let mut aliases = vec![self.component.to_string()];
        let numbered = format!("{}-{}", self.component, self.replica);
        aliases.extend([self.container_name(), numbered]);
        aliases.sort();
        aliases.dedup();
        aliases
    }
}

/// One run of one replica, never reused: the mark that processes and containers carry.
///
/// Its text form `namespace.pipeline.component.replica.incarnation` is unambiguous (labels hold
/// no dots) and safe as a file name. The planner mints it from the replica's record, so no random
/// numbers are involved and a person can read it in `ps` and `docker ps`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The pipeline that it runs in.
    pub pipeline: PipelineKey,
    /// The replica that it is a run of.
    pub replica: ReplicaKey,
    /// Which run this is; grows by one with each start of the replica, from 1.
    pub incarnation: u64,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PipelineKey { namespace, name } = &self.pipeline;
        let ReplicaKey { component, replica } = &self.replica;
        write!(
            f,
            "{namespace}.{name}.{component}.{replica}.{}",
            self.incarnation
        )
    }
}

impl FromStr for InstanceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::NotAnInstance {
            text: text.chars().take(300).collect(),
        };
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or_else(malformed);
        let id = Self {
            pipeline: PipelineKey {
                namespace: next()?.parse()?,
                name: next()?.parse()?,
            },
            replica: ReplicaKey {
                component: next()?.parse()?,
                replica: next()?.parse().map_err(|_| malformed())?,
            },
            incarnation: next()?.parse().map_err(|_| malformed())?,
        };
        // Only the canonical spelling is an identity: `00` and `+0` name the same number.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(malformed())
        }
    }
}

impl Serialize for InstanceId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A version of a pipeline's desired state; grows by one with each accepted change, from 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A digest of what the user wrote that affects the running thing, as `v1:<16 hex digits>`.
/// It changes exactly when the running thing must be replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecHash(Arc<str>);

impl SpecHash {
    /// The hash as it was made by [`crate::manifest`] or read back from a label.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The hash as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_labels_name_components() {
        for good in ["a", "ttp-processor", "0", "a1-b2", &"x".repeat(63)] {
            assert!(good.parse::<ComponentId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "a_b",
            "ä",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<ComponentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_containers_are_those_that_an_engine_accepts() {
        let name_of = |component: &str, replica| {
            let component = component.parse().unwrap();
            ReplicaKey { component, replica }.container_name()
        };
        assert_eq!(name_of("ttp-processor", 0), "ttp-processor");
        assert_eq!(name_of("ttp-processor", 2), "ttp-processor-2");
        assert_eq!(name_of("a", 0), "a-1");
        assert_ne!(name_of("a", 0), name_of("a", 1));
    }

    #[test]
    fn an_instance_id_survives_its_text_form_and_has_one_spelling() {
        let id: InstanceId = "default.ttp.ledger-source.0.17".parse().unwrap();
        assert_eq!(id.to_string(), "default.ttp.ledger-source.0.17");
        for bad in [
            "default.ttp.x.0",
            "default.ttp.x.00.1",
            "default.ttp.x.0.1.2",
            "..a.0.1",
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }
}
