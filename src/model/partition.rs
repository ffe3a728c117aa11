//! Parts of what a driver runs that can be out of sight by themselves.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::InstanceId;

/// A part of what a driver runs that can be out of sight by itself, as a namespace of a cluster in which
/// somebody may not look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(String);

impl Partition {
    /// The partition of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a driver that answers knows nothing of. Whatever belongs to it is unknown, and never absent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hidden {
    /// All that it runs in this partition.
    Partition(Partition),
    /// This instance, as one on a node that does not report.
    Instance(InstanceId),
}
