//! How a driver addresses what it started, and what it tells of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::ProcessIdentity;

/// How a driver addresses what it started. Enough to find it again after a crash of everything. Only that
/// driver reads it; whatever others need to know is in [`Facts`]. It is held as text, since a daemon
/// holds thousands of them, and written as what the text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle(Arc<str>);

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(Self(value.to_string().into()))
    }
}

impl Handle {
    /// A handle that says `address`.
    pub fn new(address: &impl Serialize) -> Self {
        // What cannot be written is no address: its driver finds the instance by its mark.
        let value = serde_json::to_value(address).unwrap_or_default();
        Self(value.to_string().into())
    }

    /// The address that its driver has put into it; `None` when it is another driver's.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.0).ok()
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// What a driver tells of an instance that it runs: for those who look, and to know its programs by. A
/// driver leaves empty what it has none of.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Its processes on this host: its guardian, where it has one, and its program last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessIdentity>,
    /// The full id of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The image that it runs: `repository@digest`, or an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What its cluster calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its ports are reached, as `host:port` by name, where its engine decides that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, String>,
    /// The machine of its cluster that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl Facts {
    /// Whether nothing is told.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The process of its program.
    pub fn pid(&self) -> Option<u32> {
        self.processes.last().map(|program| program.pid)
    }

    /// What a handle of the first format said to everybody. An instance that an older flowctl has
    /// recorded is known by that until it is looked at.
    pub fn of_first_format(handle: &Handle) -> Self {
        let value = handle.value();
        let at = |path: &str| value.pointer(path);
        let process = |path| ProcessIdentity::deserialize(at(path)?).ok();
        let text = |path| Some(at(path)?.as_str()?.to_owned());
        let processes = [process("/process/shim"), process("/process/child")];
        Self {
            processes: processes.into_iter().flatten().collect(),
            container: text("/docker/container"),
            image: text("/docker/image"),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_of_the_first_format_is_kept_as_it_was_and_says_what_it_said() {
        let process = r#"{"boot_id":"b","pid":7,"start_ticks":9}"#;
        let text = format!(r#"{{"process":{{"child":{process},"shim":{process}}}}}"#);
        let handle: Handle = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&handle).unwrap(), text);
        let facts = Facts::of_first_format(&handle);
        assert_eq!((facts.processes.len(), facts.pid()), (2, Some(7)));
        let text = r#"{"docker":{"container":"c0ffee","image":"a@sha256:0"}}"#;
        let handle: Handle = serde_json::from_str(text).unwrap();
        let facts = Facts::of_first_format(&handle);
        assert_eq!(facts.container.as_deref(), Some("c0ffee"));
        assert_eq!(facts.image.as_deref(), Some("a@sha256:0"));
        assert_eq!(facts.pid(), None);
    }
}
