//! What is wrong, since when, why, and whom it holds up: what people are told without asking.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{ComponentId, Namespace, PipelineKey, PipelineName};
use super::status::{ExitSummary, Next};
use super::time::Timestamp;

/// Something that is wrong, from its beginning to its end. Only the root cause is one: what waits
/// for it is in `blocks`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusCondition {
    /// What kind of thing.
    pub kind: ConditionKind,
    /// Since when it is so.
    pub since: Timestamp,
    /// Where; `None` for what concerns the daemon itself.
    pub namespace: Option<Namespace>,
    /// Which pipeline.
    pub pipeline: Option<PipelineName>,
    /// Which component; `None` for what concerns the whole pipeline.
    pub component: Option<ComponentId>,
    /// Which of its replicas.
    #[serde(default)]
    pub replicas: Vec<u32>,
    /// What else it is about, where there may be several of a kind: a driver, a notification target.
    #[serde(default)]
    pub about: Option<String>,
    /// Why, in words.
    pub why: String,
    /// What happens next, where that is known.
    #[serde(default)]
    pub next: Option<Next>,
    /// How its latest instance ended.
    #[serde(default)]
    pub exit: Option<ExitSummary>,
    /// Which components can do nothing until it is over.
    pub blocks: Vec<ComponentPath>,
}

/// What tells a condition from others at one time: as long as it is there, it is the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConditionKey {
    /// What kind of thing.
    pub kind: ConditionKind,
    /// Which pipeline.
    pub pipeline: Option<PipelineKey>,
    /// Which component.
    pub component: Option<ComponentId>,
    /// What else it is about.
    pub about: Option<String>,
}

impl fmt::Display for ConditionKey {
    /// `crashloop default/ttp/sink`, `blind docker`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(PipelineKey { namespace, name }) = &self.pipeline {
            write!(f, " {namespace}/{name}")?;
        }
        if let Some(component) = &self.component {
            write!(f, "/{component}")?;
        }
        match &self.about {
            Some(about) => write!(f, " {about}"),
            None => Ok(()),
        }
    }
}

impl StatusCondition {
    /// What tells it from others.
    pub fn key(&self) -> ConditionKey {
        ConditionKey {
            kind: self.kind,
            pipeline: self.pipeline_key(),
            component: self.component.clone(),
            about: self.about.clone(),
        }
    }

    /// The pipeline that it is of.
    pub fn pipeline_key(&self) -> Option<PipelineKey> {
        let (Some(namespace), Some(name)) = (&self.namespace, &self.pipeline) else {
            return None;
        };
        Some(PipelineKey {
            namespace: namespace.clone(),
            name: name.clone(),
        })
    }

    /// What it is about, as one types it: `ttp/sink`, `ttp`, `docker`, `daemon`.
    pub fn subject(&self) -> String {
        match (self.pipeline_key(), &self.component, &self.about) {
            (Some(pipeline), Some(component), _) => format!("{pipeline}/{component}"),
            (Some(pipeline), None, _) => pipeline.to_string(),
            (None, _, Some(about)) => about.clone(),
            (None, _, None) => "daemon".to_owned(),
        }
    }

    /// What to type to learn more or to mend it.
    pub fn action(&self) -> String {
        match (self.kind, self.pipeline_key(), &self.component) {
            (ConditionKind::Failed, Some(pipeline), Some(component)) => format!(
                "look at `flowctl logs {pipeline}/{component}`, mend the cause, then `flowctl start {pipeline}/{component}`"
            ),
            (ConditionKind::ImageRefused, Some(pipeline), Some(component)) => format!(
                "run an image that the policy accepts, or correct the policy; `flowctl describe {pipeline}/{component}`"
            ),
            (ConditionKind::LogDropped, Some(pipeline), Some(component)) => format!(
                "free space on the disk of the logs; `flowctl logs {pipeline}/{component}` says where lines are missing"
            ),
            (_, Some(pipeline), Some(component)) => {
                format!("`flowctl why {pipeline}/{component}`")
            }
            (ConditionKind::Rejected, Some(_), None) => {
                "mend the file and save it; the last good version runs on".to_owned()
            }
            (_, Some(pipeline), None) => format!("`flowctl describe {pipeline}`"),
            (ConditionKind::NotDurable, None, _) => {
                "free space in the state directory or mend its disk".to_owned()
            }
            (ConditionKind::Blind, None, _) => {
                "see that the engine runs; its components are left alone meanwhile".to_owned()
            }
            (ConditionKind::Rejected, None, _) => {
                "mend the file and save it; the last good version is in force".to_owned()
            }
            (ConditionKind::Undelivered, None, _) => "`flowctl notify pending`".to_owned(),
            (
                ConditionKind::Failed
                | ConditionKind::Crashloop
                | ConditionKind::Unready
                | ConditionKind::Stalled
                | ConditionKind::Oom
                | ConditionKind::OverRestarting
                | ConditionKind::LogDropped
                | ConditionKind::ImageRefused,
                None,
                _,
            ) => "`flowctl status`".to_owned(),
        }
    }
}

/// A component by its full name. In JSON and text `namespace/pipeline/component`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ComponentPath {
    /// The pipeline.
    pub pipeline: PipelineKey,
    /// The component in it.
    pub component: ComponentId,
}

impl fmt::Display for ComponentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PipelineKey { namespace, name } = &self.pipeline;
        write!(f, "{namespace}/{name}/{}", self.component)
    }
}

impl From<ComponentPath> for String {
    fn from(path: ComponentPath) -> Self {
        path.to_string()
    }
}

impl TryFrom<String> for ComponentPath {
    type Error = super::ids::IdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut words = text.splitn(3, '/');
        let mut word = || words.next().unwrap_or_default();
        Ok(Self {
            pipeline: PipelineKey {
                namespace: word().parse()?,
                name: word().parse()?,
            },
            component: word().parse()?,
        })
    }
}

/// What kind of thing is wrong. Each is among [`ConditionKind::ALL`], the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionKind {
    /// The state cannot be recorded.
    NotDurable,
    /// A driver does not answer.
    Blind,
    /// A component ended without success, for good.
    Failed,
    /// A component ended often enough that people should look.
    Crashloop,
    /// A component runs, or should, and is not ready.
    Unready,
    /// A component runs, says that it is well, and gets nowhere.
    Stalled,
    /// A file could not be taken over.
    Rejected,
    /// The kernel killed a component for want of memory, within the last hour.
    Oom,
    /// A component restarts again and again, too slowly for a crash loop.
    OverRestarting,
    /// Lines of a component's log were lost, within the last hour.
    LogDropped,
    /// A notification target has taken nothing for a while.
    Undelivered,
    /// A component runs an image that the image policy would not let start today.
    ImageRefused,
}

/// How much a condition matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It will not get well by itself, or nothing can be known.
    Critical,
    /// Somebody should look at it.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        })
    }
}

impl ConditionKind {
    /// All of them, the gravest first.
    pub const ALL: [Self; 12] = [
        Self::NotDurable,
        Self::Blind,
        Self::Failed,
        Self::Crashloop,
        Self::Unready,
        Self::Stalled,
        Self::Rejected,
        Self::Oom,
        Self::OverRestarting,
        Self::LogDropped,
        Self::Undelivered,
        Self::ImageRefused,
    ];

    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::NotDurable | Self::Blind | Self::Failed | Self::Crashloop => Severity::Critical,
            Self::Unready
            | Self::Stalled
            | Self::Rejected
            | Self::Oom
            | Self::OverRestarting
            | Self::LogDropped
            | Self::Undelivered
            | Self::ImageRefused => Severity::Warning,
        }
    }
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotDurable => "not-durable",
            Self::Blind => "blind",
            Self::Failed => "failed",
            Self::Crashloop => "crashloop",
            Self::Unready => "unready",
            Self::Stalled => "stalled",
            Self::Rejected => "rejected",
            Self::Oom => "oom",
            Self::OverRestarting => "over-restarting",
            Self::LogDropped => "log-dropped",
            Self::Undelivered => "undelivered",
            Self::ImageRefused => "image-refused",
        })
    }
}

/// A text that names no kind of condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no condition")]
pub struct NoSuchCondition(pub String);

impl FromStr for ConditionKind {
    type Err = NoSuchCondition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.to_string() == text)
            .ok_or_else(|| NoSuchCondition(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_written_and_read_by_one_name() {
        for kind in ConditionKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn a_blocked_component_is_named_in_full() {
        let path: ComponentPath = serde_json::from_str("\"default/ttp/sink\"").unwrap();
        assert_eq!(path.component.as_str(), "sink");
        assert_eq!(
            serde_json::to_string(&path).unwrap(),
            "\"default/ttp/sink\""
        );
        assert!(serde_json::from_str::<ComponentPath>("\"ttp\"").is_err());
    }
}
