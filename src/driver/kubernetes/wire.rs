//! What is read of the cluster's objects, and nothing else of them: unknown fields cost nothing to
//! skip, and what is missing or `null` is empty.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer};

use crate::model::Timestamp;

/// `null` as nothing.
fn lenient<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A time of the cluster's; one that cannot be read is none.
pub(super) fn time(text: Option<&str>) -> Option<Timestamp> {
    // The zero of a node's runtime means never.
    text.filter(|text| !text.starts_with("1970-") && !text.starts_with("0001-"))?
        .parse()
        .ok()
}

/// The metadata of an object.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    #[serde(deserialize_with = "lenient")]
    pub(super) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) uid: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) resource_version: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) deletion_grace_period_seconds: Option<i64>,
}

impl Meta {
    /// When it was made.
    pub(super) fn created(&self) -> Option<Timestamp> {
        time(self.creation_timestamp.as_deref())
    }

    /// Whether somebody has asked for its deletion.
    pub(super) fn is_going(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// When its deletion was asked for.
    pub(super) fn deletion_asked(&self) -> Option<Timestamp> {
        let due = time(self.deletion_timestamp.as_deref())?;
        let grace = self.deletion_grace_period_seconds.unwrap_or_default();
        Some(due.shifted(-grace.saturating_mul(1_000)))
    }

    /// Which of two versions of one object is the later one; `None` where that cannot be told.
    pub(super) fn version(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }
}

/// A condition of an object.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub(super) kind: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) status: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) message: String,
    /// When its node last reported, of a condition of one.
    pub(super) last_heartbeat_time: Option<String>,
}

/// The condition of this kind.
pub(super) fn condition<'c>(conditions: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Whether the condition of this kind holds.
pub(super) fn holds(conditions: &[Condition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// A Job.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Job {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    pub(super) spec: JobSpec,
    #[serde(deserialize_with = "lenient")]
    pub(super) status: JobStatus,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct JobSpec {
    #[serde(deserialize_with = "lenient")]
    pub(super) suspend: bool,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct JobStatus {
    #[serde(deserialize_with = "lenient")]
    pub(super) conditions: Vec<Condition>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    pub(super) spec: PodSpec,
    #[serde(deserialize_with = "lenient")]
    pub(super) status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    #[serde(deserialize_with = "lenient")]
    pub(super) phase: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) message: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) conditions: Vec<Condition>,
    #[serde(deserialize_with = "lenient")]
    pub(super) container_statuses: Vec<Container>,
    #[serde(deserialize_with = "lenient")]
    pub(super) init_container_statuses: Vec<Container>,
}

/// What a kubelet says of a container.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    #[serde(deserialize_with = "lenient")]
    pub(super) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) state: ContainerState,
    #[serde(rename = "imageID", deserialize_with = "lenient")]
    pub(super) image_id: String,
    #[serde(rename = "containerID", deserialize_with = "lenient")]
    pub(super) container_id: String,
}

/// At most one of them is there.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct ContainerState {
    pub(super) waiting: Option<Waiting>,
    pub(super) running: Option<RunningState>,
    pub(super) terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RunningState {
    pub(super) started_at: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Terminated {
    #[serde(deserialize_with = "lenient")]
    pub(super) exit_code: i32,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) message: String,
    pub(super) started_at: Option<String>,
    pub(super) finished_at: Option<String>,
}

/// What somebody has to say of an object.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Event {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) message: String,
    pub(super) last_timestamp: Option<String>,
    pub(super) event_time: Option<String>,
}

impl Event {
    /// When it was last said.
    pub(super) fn at(&self) -> Option<Timestamp> {
        time(self.last_timestamp.as_deref())
            .or_else(|| time(self.event_time.as_deref()))
            .or_else(|| self.metadata.created())
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Node {
    #[serde(deserialize_with = "lenient")]
    pub(super) status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    #[serde(deserialize_with = "lenient")]
    pub(super) conditions: Vec<Condition>,
}

/// Whatever has metadata.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Any {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: Meta,
}

/// A page of a list.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    // A list that says of no items that there are none is no answer.
    #[serde(deserialize_with = "lenient")]
    pub(super) items: Vec<T>,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    #[serde(deserialize_with = "lenient")]
    pub(super) resource_version: String,
    #[serde(rename = "continue", deserialize_with = "lenient")]
    pub(super) more: String,
}

/// A line of a watch.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct Line<T> {
    #[serde(rename = "type")]
    pub(super) kind: LineKind,
    pub(super) object: T,
}

/// What a line of a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum LineKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// Why the cluster did not do what it was asked.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(deserialize_with = "lenient")]
    pub(super) code: u16,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) message: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) details: Details,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Details {
    #[serde(deserialize_with = "lenient")]
    pub(super) causes: Vec<Cause>,
    #[serde(deserialize_with = "lenient")]
    pub(super) retry_after_seconds: u64,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Cause {
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_statuses_is_read_as_one_that_has_none() {
        let text = r#"{"metadata":{"name":"p","labels":null},"status":{"phase":"Failed",
            "reason":"OutOfmemory","containerStatuses":null,"conditions":null},"spec":null}"#;
        let pod: Pod = serde_json::from_str(text).unwrap();
        assert_eq!(pod.status.container_statuses, []);
        assert_eq!(pod.status.reason, "OutOfmemory");
    }

    #[test]
    fn a_deletion_was_asked_for_its_grace_earlier() {
        let text =
            r#"{"deletionTimestamp":"2026-11-21T02:43:10Z","deletionGracePeriodSeconds":10}"#;
        let meta: Meta = serde_json::from_str(text).unwrap();
        assert_eq!(meta.deletion_asked(), time(Some("2026-11-21T02:43:00Z")));
    }

    #[test]
    fn what_is_no_list_is_none() {
        assert!(serde_json::from_str::<List<Pod>>(r#"{"kind":"Status"}"#).is_err());
    }
}
