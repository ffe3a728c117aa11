//! What is asked and answered, in the form that crosses the socket. Fields are only ever added.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::driver::logs::filter::{self, Level};
use crate::driver::logs::kept::KeptLog;
use crate::driver::{LogLine, OutputStream};
use crate::model::{
    ComponentId, Event, Generation, InstanceId, Namespace, PipelineKey, PipelineName, PipelineSpec,
    Problem, Pull, Timestamp, Volume, VolumeSource, path,
};
use crate::planner::diff::PipelineDiff;
use crate::reconciler::{Applied, Change, Request};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsForm {
    /// Prometheus' text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// Body of `POST /v1/apply` and `POST /v1/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// Where the manifests are. All are checked before any is applied.
    pub sources: Vec<SourceInput>,
    /// The namespace of pipelines that name none.
    #[serde(default)]
    pub namespace: Option<Namespace>,
    /// Whether saving a file applies it from now on.
    #[serde(default)]
    pub watch: Watching,
    /// Where components run whose file leaves that open.
    #[serde(default)]
    pub orchestrator: Option<Orchestrator>,
    /// What to do when the preflight finds problems.
    #[serde(default)]
    pub when_unready: WhenUnready,
    /// The variables of whoever asks, to be compared with the daemon's; absent = not told.
    #[serde(default)]
    pub caller: Option<CallerVariables>,
}

/// The variables of a caller in a form that tells whether a value is the same, and not which: it
/// travels with every `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerVariables {
    /// Makes the marks of each request others.
    salt: u64,
    /// Mark of each value by name.
    marks: BTreeMap<String, u64>,
}

impl CallerVariables {
    /// Those of `variables`.
    pub fn new(salt: u64, variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let marks = variables
            .filter_map(|(name, value)| {
                let mark = Self::mark(salt, &value);
                Some((name.into_string().ok()?, mark))
            })
            .collect();
        Self { salt, marks }
    }

    /// How the caller's value of `name` relates to `value`, ours.
    pub fn compare(&self, name: &str, value: Option<&OsStr>) -> CallerHas {
        match (self.marks.get(name), value) {
            (None, _) => CallerHas::None,
            (Some(mark), Some(value)) if *mark == Self::mark(self.salt, value) => CallerHas::Same,
            (Some(_), _) => CallerHas::Other,
        }
    }

    /// FNV-1a, which stays the same over releases.
    fn mark(salt: u64, value: &OsStr) -> u64 {
        let salted = salt
            .to_le_bytes()
            .into_iter()
            .chain(value.as_bytes().iter().copied());
        salted.fold(0xcbf2_9ce4_8422_2325, |mark, byte| {
            (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// What a caller has for a variable of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerHas {
    /// Nothing.
    None,
    /// The same value.
    Same,
    /// Another value, or one where we have none.
    Other,
}

/// One source of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceInput {
    /// A file on this host, by its absolute path; the daemon reads it.
    File(#[serde(with = "path::one")] PathBuf),
    /// The text itself, as from standard input.
    Text {
        /// YAML.
        text: String,
        /// The absolute folder that relative paths in it are meant from.
        #[serde(with = "path::one")]
        folder: PathBuf,
        /// What problems call it; `None` = standard input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

/// Whether a file is watched after it was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watching {
    /// Saving it applies it.
    #[default]
    Yes,
    /// Only `apply` applies it.
    No,
}

/// What an apply does when the preflight finds something that will not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnready {
    /// Change nothing and tell.
    #[default]
    Refuse,
    /// Go on and tell.
    Force,
}

/// Where components run whose file leaves that open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orchestrator {
    /// As local processes.
    Process,
    /// As containers.
    Container,
    /// As pods of a Kubernetes cluster.
    Kubernetes,
    /// As jobs of a Nomad cluster.
    Nomad,
}

/// What is worth telling about manifests that were accepted.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Remarks {
    /// All of it as text for people; empty when there is nothing.
    pub rendered: String,
    /// One by one.
    pub warnings: Vec<Problem>,
}

impl Remarks {
    /// Adds a warning about `file`, or about all of it.
    pub fn warn(&mut self, file: Option<PathBuf>, message: String) {
        self.rendered += &format!("warning: {message}\n");
        self.warnings.push(Problem {
            file,
            line: None,
            column: None,
            message,
        });
    }
}

/// Answer of `POST /v1/apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// What was done, one entry per pipeline.
    pub pipelines: Vec<AppliedPipeline>,
    /// Legacy spellings and the like.
    pub remarks: Remarks,
}

/// What an apply did to one pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedPipeline {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: PipelineName,
    /// The version that is wanted now.
    pub generation: Generation,
    /// What happened.
    pub change: ChangeWord,
    /// The file it was watched at before, when that was another one.
    #[serde(default, with = "path::optional")]
    pub moved_from: Option<PathBuf>,
    /// What its containers are given of the host's files.
    #[serde(default)]
    pub host_mounts: Vec<HostMount>,
}

/// A file or folder of the host that the containers of a component are given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMount {
    /// Whose containers.
    pub component: ComponentId,
    /// What, where, and whether they may write to it.
    #[serde(flatten)]
    pub volume: Volume,
}

impl HostMount {
    /// All of a pipeline, in the order of its components.
    pub fn all_of(spec: &PipelineSpec) -> Vec<Self> {
        let components = spec.components.values();
        let volumes = components.flat_map(|one| one.volumes.iter().map(|volume| (&one.id, volume)));
        volumes
            .filter(|(_, volume)| matches!(volume.source, VolumeSource::Bind(_)))
            .map(|(component, volume)| Self {
                component: component.clone(),
                volume: volume.clone(),
            })
            .collect()
    }
}

impl AppliedPipeline {
    /// Which pipeline.
    pub fn key(&self) -> PipelineKey {
        PipelineKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl From<Applied> for AppliedPipeline {
    fn from(applied: Applied) -> Self {
        Self {
            namespace: applied.pipeline.namespace,
            name: applied.pipeline.name,
            generation: applied.generation,
            change: applied.change.into(),
            moved_from: applied.moved_from,
            host_mounts: Vec::new(),
        }
    }
}

/// [`Change`] in the form that crosses the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeWord {
    /// The pipeline is new.
    Created,
    /// Its definition changed.
    Changed,
    /// Its definition is the same.
    Unchanged,
    /// It left its file and is being taken down.
    Deleted,
}

impl From<Change> for ChangeWord {
    fn from(change: Change) -> Self {
        match change {
            Change::Created => Self::Created,
            Change::Changed => Self::Changed,
            Change::Unchanged => Self::Unchanged,
            Change::Deleted => Self::Deleted,
        }
    }
}

impl std::fmt::Display for ChangeWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        })
    }
}

/// Answer of `POST /v1/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffAnswer {
    /// One entry per pipeline, unchanged ones included.
    pub pipelines: Vec<PipelineDiff>,
    /// Legacy spellings and the like.
    pub remarks: Remarks,
}

/// The last word of `POST /v1/pipelines/{namespace}/{name}/components/{id}/{request}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// Run, whatever held it back.
    Start,
    /// Stay down.
    Stop,
    /// Be replaced.
    Restart,
    /// Be replaced by a container of what its image's name means after a pull.
    Pull,
}

impl From<Asked> for Request {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Start => Self::Start,
            Asked::Stop => Self::Stop,
            Asked::Restart => Self::Restart(Pull::No),
            Asked::Pull => Self::Restart(Pull::Yes),
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pull => "pull",
        })
    }
}

/// Answer of what a component was asked.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AskAnswer {
    /// What did not go as it might have; it was recorded all the same.
    pub warnings: Vec<String>,
}

/// What becomes of named volumes whose components are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// They stay, with their data.
    Keep,
    /// They go.
    Remove,
}

/// Question of `POST /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesRequest {
    /// Which; one that does not exist or is not ours is left out of the answer.
    pub names: Vec<String>,
    /// What becomes of them.
    pub fate: Fate,
}

/// Answer of `POST /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumesAnswer {
    /// Those that are there still.
    pub kept: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

/// Answer of `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionAnswer {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The version of this interface.
    pub api: u32,
}

/// Query of `GET /v1/events`. Conditions are joined by *and*.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventQuery {
    /// Only events after this `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only events at or after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Only of pipelines of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineName>,
    /// Only of components of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentId>,
    /// Only the last so many of what the other conditions leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
    /// Whether the stream goes on with what happens from now on.
    #[serde(default, deserialize_with = "flag")]
    pub follow: bool,
}

impl EventQuery {
    /// What of `events`, oldest first, is wanted: every condition counts, `tail` last.
    pub fn chosen(&self, mut events: Vec<Event>) -> Vec<Event> {
        events.retain(|event| self.wants(event));
        if let Some(tail) = self.tail {
            events.drain(..events.len().saturating_sub(tail));
        }
        events
    }

    /// Whether `event` meets every condition but `tail`.
    pub fn wants(&self, event: &Event) -> bool {
        fn meets<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none() || wanted == found
        }
        self.after.is_none_or(|after| event.seq > after)
            && self.since.is_none_or(|since| event.at >= since)
            && meets(self.namespace.as_ref(), event.namespace.as_ref())
            && meets(self.pipeline.as_ref(), event.pipeline.as_ref())
            && meets(self.component.as_ref(), event.component.as_ref())
    }
}

/// Query of `GET /v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogParams {
    /// Of which namespace.
    #[serde(default)]
    pub namespace: Namespace,
    /// Of which pipeline.
    pub pipeline: PipelineName,
    /// Of which components, separated by commas; empty = all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub components: String,
    /// Only lines at or after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only lines before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Only the last so many per component, of those that the rest asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// Only lines that match this regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    /// Whether it tells upper and lower case apart no more.
    #[serde(default, deserialize_with = "flag")]
    pub ignore_case: bool,
    /// Whether the lines are wanted that do not match.
    #[serde(default, deserialize_with = "flag")]
    pub invert: bool,
    /// So many lines before each wanted one.
    #[serde(default)]
    pub before: usize,
    /// So many lines after each wanted one.
    #[serde(default)]
    pub after_each: usize,
    /// Only lines of this level or a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Only lines with these fields, as `NAME=VALUE`, one a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fields: String,
    /// Only the instance before the latest, of each replica.
    #[serde(default, deserialize_with = "flag")]
    pub previous: bool,
    /// Only replicas that are defined now, not those that were scaled away.
    #[serde(default, deserialize_with = "flag")]
    pub defined: bool,
    /// Whether the stream goes on.
    #[serde(default, deserialize_with = "flag")]
    pub follow: bool,
}

impl LogParams {
    /// All that `components` of a pipeline wrote and that is kept; none = all of them.
    pub fn of(pipeline: &PipelineKey, components: String) -> Self {
        Self {
            namespace: pipeline.namespace.clone(),
            pipeline: pipeline.name.clone(),
            components,
            since: None,
            until: None,
            tail: None,
            grep: None,
            ignore_case: false,
            invert: false,
            before: 0,
            after_each: 0,
            level: None,
            fields: String::new(),
            previous: false,
            defined: false,
            follow: false,
        }
    }

    /// What is asked of the lines themselves.
    ///
    /// # Errors
    /// With a field that has no value.
    pub fn asked(&self) -> Result<filter::Asked, String> {
        let fields = self.fields.lines().map(|field| {
            let pair = field.split_once('=');
            let (name, value) = pair.ok_or_else(|| format!("`{field}` is not NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Ok(filter::Asked {
            pattern: self.grep.clone(),
            case: if self.ignore_case {
                filter::Case::Ignored
            } else {
                filter::Case::Told
            },
            sense: if self.invert {
                filter::Sense::Others
            } else {
                filter::Sense::Matching
            },
            before: self.before,
            after: self.after_each,
            level: self.level,
            fields: fields.collect::<Result<_, String>>()?,
        })
    }
}

/// A line of `GET /v1/logs` that is none of a component: what `level` has left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// So many lines have no level, since the stream began.
    pub without_level: u64,
    /// Of which pipeline.
    pub pipeline: PipelineKey,
}

/// A switch of a query: `follow`, `follow=true` and `follow=1` are on.
fn flag<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    match &*Cow::<str>::deserialize(d)? {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(serde::de::Error::custom(format!(
            "`{other}` is neither `true` nor `false`"
        ))),
    }
}

/// Answer of `GET /v1/logs/kept`: logs of what nothing defines any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLogs {
    /// Each of them.
    pub logs: Vec<KeptEntry>,
}

/// The log of a replica that nothing defines any more, and of `logs --deleted -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptEntry {
    /// Whose namespace.
    pub namespace: Namespace,
    /// Whose pipeline.
    pub pipeline: PipelineName,
    /// Which component.
    pub component: ComponentId,
    /// Which replica of it.
    pub replica: u32,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it was written to last.
    pub written_at: Option<Timestamp>,
    /// Since when nothing defines it, from which its time counts; `None` = nobody has looked yet.
    pub deleted_at: Option<Timestamp>,
}

impl From<KeptLog> for KeptEntry {
    fn from(log: KeptLog) -> Self {
        Self {
            namespace: log.pipeline.namespace,
            pipeline: log.pipeline.name,
            component: log.replica.component,
            replica: log.replica.replica,
            bytes: log.bytes,
            written_at: log.written,
            deleted_at: log.gone,
        }
    }
}

/// Query of `DELETE /v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsOf {
    /// Of which namespace.
    #[serde(default)]
    pub namespace: Namespace,
    /// Of which pipeline.
    pub pipeline: PipelineName,
}

/// Answer of `DELETE /v1/logs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedLogs {
    /// Bytes that were removed.
    pub bytes: u64,
}

/// One line of `GET /v1/logs`, and of `logs -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it was written: RFC 3339, UTC, nanoseconds.
    pub at: String,
    /// Nanoseconds since the Unix epoch, to merge by.
    pub at_nanos: i64,
    /// Whose namespace.
    pub namespace: Namespace,
    /// Whose pipeline.
    pub pipeline: PipelineName,
    /// Which component.
    pub component: ComponentId,
    /// Which replica of it.
    pub replica: u32,
    /// Which run of that.
    pub instance: InstanceId,
    /// `stdout` or `stderr`.
    pub stream: StreamName,
    /// What was written. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub text: String,
    /// What was written exactly, as hexadecimal digits, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// Whether the line goes on in the next entry of the same instance and stream: one over 1 MiB is
    /// told in parts, and one that was begun a second ago as far as it is. No character is cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Where a program wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamName {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogEntry {
    /// `line`, which a component of `pipeline` wrote.
    pub fn new(pipeline: &PipelineKey, line: LogLine) -> Self {
        let instance = InstanceId {
            pipeline: pipeline.clone(),
            replica: line.replica,
            incarnation: line.incarnation,
        };
        let (text, hex) = match String::from_utf8(line.text) {
            Ok(text) => (text, None),
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                (text, Some(to_hex(error.as_bytes())))
            }
        };
        Self {
            at: rfc3339_nanos(line.at_nanos),
            at_nanos: line.at_nanos,
            namespace: pipeline.namespace.clone(),
            pipeline: pipeline.name.clone(),
            component: instance.replica.component.clone(),
            replica: instance.replica.replica,
            instance,
            stream: match line.stream {
                OutputStream::Stdout => StreamName::Stdout,
                OutputStream::Stderr => StreamName::Stderr,
            },
            partial: !line.ends,
            text,
            hex,
        }
    }

    /// What was written, byte for byte.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.hex.as_deref().and_then(from_hex) {
            Some(bytes) => Cow::Owned(bytes),
            None => Cow::Borrowed(self.text.as_bytes()),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// The bytes of hexadecimal digits; `None` = they are none.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes.filter(|_| rest.is_empty())
}

/// RFC 3339 with nanoseconds, as container runtimes write it: [`Timestamp`] knows milliseconds.
fn rfc3339_nanos(nanos: i64) -> String {
    let millis = Timestamp::from_millis(nanos.div_euclid(1_000_000)).to_string();
    let below = nanos.rem_euclid(1_000_000);
    let seconds = millis.strip_suffix('Z').unwrap_or(&millis);
    format!("{seconds}{below:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_times_keep_their_nanoseconds() {
        assert_eq!(
            rfc3339_nanos(1_795_228_980_123_456_789),
            "2026-11-21T02:43:00.123456789Z"
        );
    }

    #[test]
    fn the_instance_of_a_line_is_spelled_as_everywhere() {
        let line = LogLine {
            at_nanos: 0,
            replica: crate::model::ReplicaKey {
                component: "a".parse().unwrap(),
                replica: 1,
            },
            incarnation: 7,
            stream: OutputStream::Stderr,
            text: b"caf\xe9".to_vec(),
            ends: true,
        };
        let pipeline = PipelineKey {
            namespace: Namespace::default(),
            name: "p".parse().unwrap(),
        };
        let entry = LogEntry::new(&pipeline, line);
        assert_eq!(entry.instance.to_string(), "default.p.a.1.7");
        assert_eq!(entry.text, "caf\u{fffd}");
        let told = serde_json::to_string(&entry).unwrap();
        assert!(told.contains(r#""hex":"636166e9""#), "{told}");
        let read: LogEntry = serde_json::from_str(&told).unwrap();
        assert_eq!(*read.bytes(), *b"caf\xe9");
    }
}
