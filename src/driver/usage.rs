//! What instances use of their host: an ability that not every driver has.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::model::InstanceId;

/// Measures instances.
#[async_trait]
pub trait Meter: Send + Sync + 'static {
    /// What each of `instances` uses now, over its whole tree. One that has ended, or of which
    /// nothing could be told in a few seconds, is absent.
    async fn measure(&self, instances: Vec<Metered>) -> BTreeMap<InstanceId, Reading>;
}

/// One instance that is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metered {
    /// Which.
    pub instance: InstanceId,
    /// Its container, where it is one.
    pub container: Option<String>,
}

/// What one instance uses. A figure that its driver cannot tell is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Reading {
    /// Processor time since its start, in seconds, of processes that have ended too.
    pub cpu_seconds: Option<f64>,
    /// Memory that cannot be taken from it without swapping, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most that it may have, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Processes.
    pub processes: Option<u32>,
    /// Open files of all of them.
    pub open_files: Option<u32>,
}
