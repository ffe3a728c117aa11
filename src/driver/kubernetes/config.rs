//! Which cluster, as whom, in which namespace: by the conventions of kubectl, found out once. A
//! person who changes the current context of a kubeconfig moves no daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{
    ExecInteractiveMode, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError,
};
use serde::{Deserialize, Serialize};

/// Where a pod finds its own cluster.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// Where people say which files are to be read.
const KUBECONFIG: &str = "KUBECONFIG";
const CONNECT: Duration = Duration::from_secs(3);

/// Which cluster components run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterChoice {
    /// The kubeconfig; `None` = it is looked for as kubectl does.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; `None` = its current one.
    pub context: Option<String>,
    /// The namespace of components that name none; `None` = the context's.
    pub namespace: Option<String>,
}

/// Why no cluster can be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error(
        "there is no kubeconfig: {0} does not exist, KUBECONFIG names none, and this is no pod: \
         start the daemon with --kubeconfig FILE"
    )]
    Nowhere(String),
    #[error("kubeconfig {} does not exist: see --kubeconfig and KUBECONFIG", .0.display())]
    Missing(PathBuf),
    #[error("cannot read kubeconfig {files}: {why}")]
    Unreadable { files: String, why: String },
    #[error(
        "kubeconfig {files} has no context `{context}`, only {known}: start the daemon with another \
         --kube-context"
    )]
    NoSuchContext {
        files: String,
        context: String,
        known: String,
    },
    #[error(
        "kubeconfig {files} names no current context: start the daemon with --kube-context, one of \
         {known}"
    )]
    NoContext { files: String, known: String },
    #[error(
        "context `{context}` of kubeconfig {files} gets its credentials from `{command}`, which asks \
         a person: a daemon cannot; use other credentials"
    )]
    Interactive {
        files: String,
        context: String,
        command: String,
    },
    #[error("context `{context}` of kubeconfig {files} cannot be used: {why}")]
    Unusable {
        files: String,
        context: String,
        why: String,
    },
    #[error("this is a pod, and what it is told of its cluster cannot be used: {0}")]
    InCluster(InClusterError),
    #[error("`{0}` is no name of a namespace: use lower-case letters, digits and `-`")]
    Namespace(String),
    #[error("cannot begin to talk to {url}: {why}")]
    Client { url: String, why: String },
    #[error(
        "context `{context}` of its kubeconfig has moved from {before} to {now} meanwhile: start the \
         daemon again if that is meant"
    )]
    Moved {
        context: String,
        before: String,
        now: String,
    },
}

/// Where a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Files {
        files: Vec<PathBuf>,
        context: String,
    },
    Pod,
}

/// The way to a cluster, found out.
#[derive(Clone, Debug)]
pub(super) struct Access {
    origin: Origin,
    config: kube::Config,
    namespace: String,
}

/// What tells one cluster from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterId {
    /// The uid of the namespace kube-system, where it may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    /// A digest of where it is and who vouches for it.
    pub(super) anchor: String,
    /// Where it is, for people.
    pub(super) url: String,
}

impl ClusterId {
    /// Whether this may be the same cluster as `other`.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.uid, &other.uid) {
            (Some(own), Some(others)) => own == others,
            (Some(_) | None, Some(_) | None) => self.anchor == other.anchor,
        }
    }
}

impl Access {
    /// Finds out what `choice` means, where `variable` tells the variables of this process.
    pub(super) async fn find(
        choice: &ClusterChoice,
        variable: &(dyn Fn(&str) -> Option<OsString> + Sync),
    ) -> Result<Self, ConfigError> {
        let named = variable(KUBECONFIG).filter(|value| !value.is_empty());
        let files = if let Some(file) = &choice.kubeconfig {
            if !file.exists() {
                return Err(ConfigError::Missing(file.clone()));
            }
            vec![file.clone()]
        } else if choice.context.is_none() && variable(IN_CLUSTER).is_some() {
            let config = kube::Config::incluster().map_err(ConfigError::InCluster)?;
            return Self::of(Origin::Pod, config, choice);
        } else if let Some(named) = named {
            let all: Vec<PathBuf> = std::env::split_paths(&named)
                .filter(|file| !file.as_os_str().is_empty())
                .collect();
            // As kubectl: those that are not there are passed over, unless none is.
            let there: Vec<PathBuf> = all.iter().filter(|file| file.exists()).cloned().collect();
            match (there.is_empty(), all.into_iter().next()) {
                (true, Some(first)) => return Err(ConfigError::Missing(first)),
                (true, None) | (false, _) => there,
            }
        } else {
            let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
            let file = home.join(".kube").join("config");
            if !file.exists() {
                return Err(ConfigError::Nowhere(file.display().to_string()));
            }
            vec![file]
        };
        let (config, context) = read(&files, choice.context.as_deref()).await?;
        Self::of(Origin::Files { files, context }, config, choice)
    }

    fn of(
        origin: Origin,
        mut config: kube::Config,
        choice: &ClusterChoice,
    ) -> Result<Self, ConfigError> {
        prepare(&mut config);
        let chosen = choice.namespace.clone();
        let namespace = chosen.unwrap_or_else(|| config.default_namespace.clone());
        if !is_namespace(&namespace) {
            return Err(ConfigError::Namespace(namespace));
        }
        Ok(Self {
            origin,
            config,
            namespace,
        })
    }

    /// Where its API server is.
    pub(super) fn url(&self) -> String {
        let url = self.config.cluster_url.to_string();
        url.trim_end_matches('/').to_owned()
    }

    /// The namespace of components that name none.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How it was found, for people.
    pub(super) fn by(&self) -> String {
        match &self.origin {
            Origin::Files { files, context } => {
                format!("context `{context}` of {}", listed(files))
            }
            Origin::Pod => "the service account of this pod".to_owned(),
        }
    }

    /// A digest of where it is and who vouches for it.
    pub(super) fn anchor(&self) -> String {
        let mut text = self.url().into_bytes();
        for certificate in self.config.root_cert.iter().flatten() {
            text.extend_from_slice(certificate);
        }
        super::digest(&text)
    }

    /// A client that goes this way.
    pub(super) fn client(&self) -> Result<kube::Client, ConfigError> {
        kube::Client::try_from(self.config.clone()).map_err(|error| ConfigError::Client {
            url: self.url(),
            why: error.to_string(),
        })
    }

    /// A client with the credentials as they are now, for the same cluster.
    pub(super) async fn again(&self) -> Result<kube::Client, ConfigError> {
        let mut again = self.clone();
        again.config = match &self.origin {
            Origin::Files { files, context } => read(files, Some(context)).await?.0,
            Origin::Pod => kube::Config::incluster().map_err(ConfigError::InCluster)?,
        };
        prepare(&mut again.config);
        if again.url() != self.url() {
            return Err(ConfigError::Moved {
                context: self.by(),
                before: self.url(),
                now: again.url(),
            });
        }
        again.client()
    }
}

/// Whether `text` names a namespace.
pub(super) fn is_namespace(text: &str) -> bool {
    text.parse::<crate::model::Namespace>().is_ok()
}

/// What holds for every client of ours.
fn prepare(config: &mut kube::Config) {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.disable_compression = true;
}

fn listed(files: &[PathBuf]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    files.join(", ")
}

/// Reads the context of this name, or the current one.
async fn read(
    files: &[PathBuf],
    context: Option<&str>,
) -> Result<(kube::Config, String), ConfigError> {
    let named = listed(files);
    let mut merged = Kubeconfig::default();
    for file in files {
        let one = read_file(file)?;
        merged = merged.merge(one).map_err(|error| ConfigError::Unreadable {
            files: named.clone(),
            why: error.to_string(),
        })?;
    }
    let known: Vec<String> = merged
        .contexts
        .iter()
        .map(|context| format!("`{}`", context.name))
        .collect();
    let known = if known.is_empty() {
        "none at all".to_owned()
    } else {
        known.join(", ")
    };
    let current = merged.current_context.clone();
    let wanted = context.map(str::to_owned).or(current);
    let Some(context) = wanted.filter(|context| !context.is_empty()) else {
        return Err(ConfigError::NoContext {
            files: named,
            known,
        });
    };
    let Some(found) = merged.contexts.iter().find(|one| one.name == context) else {
        return Err(ConfigError::NoSuchContext {
            files: named,
            context,
            known,
        });
    };
    let user = found.context.as_ref().and_then(|found| found.user.clone());
    let user = merged
        .auth_infos
        .iter()
        .find(|info| Some(&info.name) == user.as_ref());
    let exec = user
        .and_then(|user| user.auth_info.as_ref())
        .and_then(|info| info.exec.as_ref());
    if let Some(exec) = exec
        && exec.interactive_mode == Some(ExecInteractiveMode::Always)
    {
        let command = exec.command.clone().unwrap_or_default();
        return Err(ConfigError::Interactive {
            files: named,
            context,
            command,
        });
    }
    let options = KubeConfigOptions {
        context: Some(context.clone()),
        ..KubeConfigOptions::default()
    };
    let config = kube::Config::from_custom_kubeconfig(merged, &options).await;
    match config {
        Ok(config) => Ok((config, context)),
        Err(error) => Err(ConfigError::Unusable {
            files: named,
            context,
            why: error.to_string(),
        }),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum")]
fn read_file(file: &Path) -> Result<Kubeconfig, ConfigError> {
    Kubeconfig::read_from(file).map_err(|error| ConfigError::Unreadable {
        files: file.display().to_string(),
        why: match error {
            KubeconfigError::ReadConfig(source, _) => source.to_string(),
            error => error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
apiVersion: v1
kind: Config
clusters:
- {name: c, cluster: {server: 'https://127.0.0.1:6443'}}
- {name: d, cluster: {server: 'https://127.0.0.2:6443'}}
users:
- {name: u, user: {token: x}}
- {name: asks, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: login, interactiveMode: Always}}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: flows}}
- {name: two, context: {cluster: d, user: u}}
- {name: person, context: {cluster: c, user: asks}}
current-context: one
";

    fn file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), FILE).unwrap();
        file
    }

    async fn find(choice: ClusterChoice) -> Result<Access, String> {
        let found = Access::find(&choice, &|_| None).await;
        found.map_err(|error| error.to_string())
    }

    fn choice(file: &Path, context: Option<&str>) -> ClusterChoice {
        ClusterChoice {
            kubeconfig: Some(file.to_owned()),
            context: context.map(str::to_owned),
            namespace: None,
        }
    }

    #[tokio::test]
    async fn the_context_says_where_and_in_which_namespace() {
        let file = file();
        let found = find(choice(file.path(), None)).await.unwrap();
        assert_eq!(found.url(), "https://127.0.0.1:6443");
        assert_eq!(found.namespace(), "flows");
        let found = find(choice(file.path(), Some("two"))).await.unwrap();
        assert_eq!(found.url(), "https://127.0.0.2:6443");
        assert_eq!(found.namespace(), "default");
        let named = ClusterChoice {
            namespace: Some("own".to_owned()),
            ..choice(file.path(), None)
        };
        assert_eq!(find(named).await.unwrap().namespace(), "own");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_says_what_to_do() {
        let file = file();
        let wrong = find(choice(file.path(), Some("prod"))).await.unwrap_err();
        assert!(
            wrong.contains("no context `prod`, only `one`, `two`, `person`"),
            "{wrong}"
        );
        let missing = find(choice(Path::new("/no/such/file"), None)).await;
        let missing = missing.unwrap_err();
        assert!(
            missing.contains("/no/such/file does not exist"),
            "{missing}"
        );
        let nowhere = find(ClusterChoice::default()).await.unwrap_err();
        assert!(
            nowhere.contains("start the daemon with --kubeconfig"),
            "{nowhere}"
        );
        let person = find(choice(file.path(), Some("person"))).await.unwrap_err();
        assert!(person.contains("`login`, which asks a person"), "{person}");
        std::fs::write(file.path(), "contexts: [").unwrap();
        let broken = find(choice(file.path(), None)).await.unwrap_err();
        assert!(broken.contains("cannot read kubeconfig"), "{broken}");
    }

    #[tokio::test]
    async fn the_variable_names_files_and_those_that_are_not_there_are_passed_over() {
        let file = file();
        let list = format!("/no/such/file:{}", file.path().display());
        let variable = |name: &str| (name == KUBECONFIG).then(|| list.clone().into());
        let choice = ClusterChoice::default();
        let found = Access::find(&choice, &variable).await;
        assert_eq!(found.unwrap().namespace(), "flows");
    }

    #[test]
    fn a_cluster_is_known_by_its_uid_or_by_where_it_is() {
        let id = |uid: Option<&str>, anchor: &str| ClusterId {
            uid: uid.map(str::to_owned),
            anchor: anchor.to_owned(),
            url: "u".to_owned(),
        };
        assert!(id(Some("1"), "a").is_same(&id(Some("1"), "b")));
        assert!(!id(Some("1"), "a").is_same(&id(Some("2"), "a")));
        assert!(id(None, "a").is_same(&id(Some("2"), "a")));
        assert!(!id(None, "a").is_same(&id(Some("2"), "b")));
    }
}
