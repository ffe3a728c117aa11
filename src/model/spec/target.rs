//! Who is told of what is wrong, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::condition::{ConditionKind, StatusCondition};
use super::super::ids::{ComponentId, Namespace, PipelineName, TargetName};
use super::super::time::HumanDuration;

/// All that a notification file says.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct NotifySpec {
    /// Who is told of conditions.
    pub targets: Vec<NotifyTarget>,
    /// Who is told that all is well, so that silence means that it is not.
    pub heartbeats: Vec<HeartbeatSpec>,
}

/// Who is told of which conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotifyTarget {
    /// Its name, once in a file.
    pub name: TargetName,
    /// Which conditions; empty = all.
    #[serde(default)]
    pub when: Vec<ConditionKind>,
    /// How long a condition has to last; `None` = what is usual for its kind.
    #[serde(default, rename = "for")]
    pub lasting: Option<HumanDuration>,
    /// How often a condition that lasts is told again; `None` = once.
    #[serde(default)]
    pub repeat: Option<HumanDuration>,
    /// Of which pipelines and components.
    #[serde(default, rename = "match")]
    pub only: NotifyMatch,
    /// Whether its end is told too.
    #[serde(default)]
    pub resolved: TellEnd,
    /// Where to.
    pub to: Destination,
}

/// Whether the end of a condition is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TellEnd {
    /// It is.
    #[default]
    Yes,
    /// It is not.
    No,
}

/// How long a condition of a kind lasts before anybody is told, where nothing else is asked for.
pub fn patience(kind: ConditionKind) -> Duration {
    match kind {
        ConditionKind::Unready => Duration::from_secs(300),
        ConditionKind::Blind => Duration::from_secs(120),
        ConditionKind::NotDurable
        | ConditionKind::Failed
        | ConditionKind::Crashloop
        | ConditionKind::Stalled
        | ConditionKind::Rejected
        | ConditionKind::Oom
        | ConditionKind::OverRestarting
        | ConditionKind::LogDropped
        | ConditionKind::Undelivered
        | ConditionKind::ImageRefused => Duration::ZERO,
    }
}

/// Of which pipelines and components a target is told; what is not said matches all.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NotifyMatch {
    /// Only of this namespace.
    #[serde(default)]
    pub namespace: Option<Namespace>,
    /// Only of this pipeline.
    #[serde(default)]
    pub pipeline: Option<PipelineName>,
    /// Only of this component.
    #[serde(default)]
    pub component: Option<ComponentId>,
    /// Only of pipelines that bear all of these.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl NotifyTarget {
    /// Whether it is told of `condition`, which is of a pipeline with these labels.
    pub fn wants(&self, condition: &StatusCondition, labels: &BTreeMap<String, String>) -> bool {
        let NotifyMatch {
            namespace,
            pipeline,
            component,
            labels: wanted,
        } = &self.only;
        // That it cannot be reached cannot be told to it.
        let is_itself = condition.kind == ConditionKind::Undelivered
            && condition.about.as_deref() == Some(self.name.as_str());
        !is_itself
            && (self.when.is_empty() || self.when.contains(&condition.kind))
            && (namespace.is_none() || *namespace == condition.namespace)
            && (pipeline.is_none() || *pipeline == condition.pipeline)
            && (component.is_none() || *component == condition.component)
            && wanted
                .iter()
                .all(|(name, value)| labels.get(name) == Some(value))
    }

    /// The files that it is read from at each message.
    pub fn files(&self) -> Vec<&Path> {
        match &self.to {
            Destination::Webhook {
                address,
                format: _,
                headers_file,
                secret_file,
            } => {
                let further = headers_file.iter().chain(secret_file);
                let further = further.map(PathBuf::as_path);
                address.file().into_iter().chain(further).collect()
            }
            Destination::Alertmanager { address } => address.file().into_iter().collect(),
            Destination::Exec { command: _ } => Vec::new(),
        }
    }

    /// How long `kind` has to last before it is told.
    pub fn patience(&self, kind: ConditionKind) -> Duration {
        self.lasting
            .map_or_else(|| patience(kind), HumanDuration::get)
    }
}

/// A service that is told as long as all is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatSpec {
    /// Its name, once in a file.
    pub name: TargetName,
    /// What is asked.
    pub address: Address,
    /// How often.
    pub every: HumanDuration,
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// An address that takes a POST.
    Webhook {
        /// Which one.
        address: Address,
        /// What is posted.
        format: WebhookFormat,
        /// A file of further header lines, `Name: value`.
        headers_file: Option<PathBuf>,
        /// A file that holds the key by which messages are signed.
        secret_file: Option<PathBuf>,
    },
    /// Prometheus' Alertmanager, by the address before `/api/v2/alerts`.
    Alertmanager {
        /// Which one.
        address: Address,
    },
    /// A program that reads the message from its standard input.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// A CloudEvent.
    Json,
    /// What Slack, Mattermost and others take.
    Slack,
    /// Plain text, with a title as ntfy takes it.
    Ntfy,
    /// Plain text.
    Text,
}

/// An address that may hold a secret: it is shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// As written.
    Url(String),
    /// What this file holds.
    UrlFile(PathBuf),
}

impl Address {
    /// The file that holds it.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::Url(_) => None,
            Self::UrlFile(path) => Some(path),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    /// Without what may be secret: `https://hooks.example.org/…`, `the address in FILE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                write!(f, "{scheme}://{host}/…")
            }
            Self::UrlFile(path) => write!(f, "the address in {}", path.display()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook {
                address, format, ..
            } => write!(f, "webhook ({format}) {address}"),
            Self::Alertmanager { address } => write!(f, "alertmanager {address}"),
            // Its arguments may hold a secret.
            Self::Exec { command } => {
                write!(f, "exec {}", command.first().map_or("", String::as_str))
            }
        }
    }
}

impl fmt::Display for WebhookFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Json => "json",
            Self::Slack => "slack",
            Self::Ntfy => "ntfy",
            Self::Text => "text",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_its_host_and_nothing_secret() {
        let shown = |url: &str| Address::Url(url.to_owned()).to_string();
        assert_eq!(
            shown("https://user:password@hooks.example.org:8443/T0/B0/xyz?token=1"),
            "https://hooks.example.org:8443/…"
        );
        let target = Destination::Webhook {
            address: Address::Url("https://hooks.example.org/secret".to_owned()),
            format: WebhookFormat::Slack,
            headers_file: None,
            secret_file: None,
        };
        assert!(!format!("{target} {target:?}").contains("secret/"));
        assert!(!format!("{target:?}").contains("org/s"));
    }
}
