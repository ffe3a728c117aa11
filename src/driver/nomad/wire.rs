//! What Nomad's API says, as far as it is read. Names are Go's; what is missing or `null` is empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::model::Timestamp;

/// `null` where a list, a map or a number is meant is usual in Go.
fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Nanoseconds since the Unix epoch, as Nomad counts; `None` = never.
pub(super) fn at(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_millis(nanos / 1_000_000))
}

/// A job, listed or whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Job {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) meta: BTreeMap<String, String>,
    pub(super) stop: bool,
    pub(super) status: String,
    pub(super) create_index: u64,
    pub(super) job_modify_index: u64,
    pub(super) submit_time: i64,
}

/// One placement of a job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Allocation {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "JobID")]
    pub(super) job_id: String,
    #[serde(rename = "NodeID")]
    pub(super) node_id: String,
    pub(super) node_name: String,
    pub(super) desired_status: String,
    pub(super) desired_description: String,
    pub(super) client_status: String,
    pub(super) client_description: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) desired_transition: Transition,
    #[serde(deserialize_with = "or_empty")]
    pub(super) task_states: BTreeMap<String, TaskState>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) allocated_resources: Resources,
    pub(super) preempted_by_allocation: String,
    pub(super) create_index: u64,
    pub(super) create_time: i64,
    pub(super) modify_time: i64,
}

/// What servers want of a placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Transition {
    pub(super) migrate: Option<bool>,
}

/// What a placement was given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Resources {
    #[serde(deserialize_with = "or_empty")]
    pub(super) shared: Shared,
}

/// What its tasks share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Shared {
    #[serde(deserialize_with = "or_empty")]
    pub(super) ports: Vec<Port>,
}

/// A port that it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Port {
    pub(super) label: String,
    pub(super) value: u16,
    #[serde(rename = "HostIP")]
    pub(super) host_ip: String,
}

/// How the program of a placement does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TaskState {
    pub(super) state: String,
    pub(super) failed: bool,
    pub(super) restarts: u64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) started_at: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) finished_at: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) events: Vec<TaskEvent>,
}

impl TaskState {
    /// When its program began.
    pub(super) fn started(&self) -> Option<Timestamp> {
        time(&self.started_at)
    }

    /// When it ended.
    pub(super) fn finished(&self) -> Option<Timestamp> {
        time(&self.finished_at)
    }

    /// The latest event of this type.
    pub(super) fn last(&self, kind: &str) -> Option<&TaskEvent> {
        self.events.iter().rev().find(|event| event.kind == kind)
    }
}

/// A time of Nomad's; its zero means never.
fn time(text: &str) -> Option<Timestamp> {
    let text = Some(text).filter(|text| !text.is_empty() && !text.starts_with("0001-"))?;
    text.parse().ok()
}

/// One thing that happened to a program; ten are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TaskEvent {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) time: i64,
    pub(super) display_message: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) details: BTreeMap<String, String>,
}

impl TaskEvent {
    /// A detail that says something.
    pub(super) fn detail(&self, name: &str) -> Option<&str> {
        self.details
            .get(name)
            .map(String::as_str)
            .filter(|it| !it.is_empty())
    }
}

/// A try of the servers to place a job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Evaluation {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) status: String,
    pub(super) status_description: String,
    pub(super) create_index: u64,
    pub(super) create_time: i64,
    #[serde(rename = "FailedTGAllocs", deserialize_with = "or_empty")]
    pub(super) failed: BTreeMap<String, Metric>,
}

/// Why there was no place.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Metric {
    pub(super) nodes_evaluated: u64,
    pub(super) nodes_filtered: u64,
    pub(super) nodes_in_pool: u64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) nodes_available: BTreeMap<String, u64>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) constraint_filtered: BTreeMap<String, u64>,
    pub(super) nodes_exhausted: u64,
    #[serde(deserialize_with = "or_empty")]
    pub(super) dimension_exhausted: BTreeMap<String, u64>,
    #[serde(deserialize_with = "or_empty")]
    pub(super) quota_exhausted: Vec<String>,
}

/// What a registration answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Registered {
    #[serde(deserialize_with = "or_empty")]
    pub(super) warnings: String,
}

/// One file of a placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct FileInfo {
    pub(super) name: String,
    pub(super) size: u64,
}

/// One line of the event stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Batch {
    #[serde(deserialize_with = "or_empty")]
    pub(super) events: Vec<Happened>,
}

/// That something changed; what it is now is looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Happened {
    pub(super) topic: String,
    pub(super) key: String,
    #[serde(deserialize_with = "or_empty")]
    pub(super) filter_keys: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_leaves_out_or_calls_null_is_empty() {
        let text = r#"{"ID":"a","JobID":"j","TaskStates":null,"AllocatedResources":null,
            "DesiredTransition":{"Migrate":null},"Unknown":[1]}"#;
        let read: Allocation = serde_json::from_str(text).unwrap();
        assert_eq!(read.id, "a");
        assert!(read.task_states.is_empty());
        let state = r#"{"StartedAt":null,"FinishedAt":"0001-01-01T00:00:00Z","Events":null}"#;
        let read: TaskState = serde_json::from_str(state).unwrap();
        assert_eq!((read.started(), read.finished()), (None, None));
    }
}
