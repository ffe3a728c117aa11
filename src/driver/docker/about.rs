//! What an engine says of itself and of its host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::SystemInfo;

use super::Inner;
use super::engine::{Failure, LOOK};
use crate::model::Limit;

/// A look waits for it this long. The next look asks again.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an engine says of itself.
#[derive(Debug, Default)]
pub(super) struct About {
    /// Where it keeps its data.
    pub(super) data: Option<PathBuf>,
    /// The limits that containers are given in vain.
    pub(super) unenforced: BTreeSet<Limit>,
    /// Whether its containers get to addresses of this host.
    pub(super) host: Reachable,
}

/// Whether containers get to addresses of the host that their engine runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachable {
    /// As everywhere.
    #[default]
    Yes,
    /// The engine has a network of its own, as a rootless one.
    No,
}

impl From<SystemInfo> for About {
    fn from(info: SystemInfo) -> Self {
        // What an engine does not tell of, it has.
        let limits = [
            (Limit::Memory, info.memory_limit),
            (Limit::Cpu, info.cpu_cfs_quota),
            (Limit::Pids, info.pids_limit),
        ];
        let options = info.security_options.unwrap_or_default();
        let is_rootless = options.iter().any(|option| option == "name=rootless");
        Self {
            host: if is_rootless {
                Reachable::No
            } else {
                Reachable::Yes
            },
            data: info.docker_root_dir.map(PathBuf::from),
            unenforced: limits
                .into_iter()
                .filter_map(|(limit, has)| (has == Some(false)).then_some(limit))
                .collect(),
        }
    }
}

impl Inner {
    /// What the engine says of itself, asked until it has answered once.
    pub(super) async fn about(&self) -> Result<&About, Failure> {
        let ask = || async {
            let asked = self
                .engine
                .call(LOOK, |client| async move { client.info().await });
            match asked.await {
                Ok(info) => Ok(info.into()),
                // One that does not tell is as all are.
                Err(Failure::Answered { .. }) => Ok(About::default()),
                Err(failure) => Err(failure),
            }
        };
        self.about.get_or_try_init(ask).await
    }

    /// Asks it, if that was not answered before, and waits no longer than a look may.
    pub(super) async fn learn_about(&self) {
        match tokio::time::timeout(PATIENCE, self.about()).await {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => tracing::debug!(?failure, "the engine says nothing of itself"),
            Err(_) => tracing::debug!("the engine says nothing of itself in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rootless_engine_without_control_groups_says_what_it_cannot_do() {
        let rootless = SystemInfo {
            memory_limit: Some(false),
            cpu_cfs_quota: Some(false),
            pids_limit: Some(false),
            security_options: Some(vec!["name=seccomp".to_owned(), "name=rootless".to_owned()]),
            ..SystemInfo::default()
        };
        let all = [Limit::Memory, Limit::Cpu, Limit::Pids];
        let rootless = About::from(rootless);
        assert_eq!(rootless.unenforced, all.into());
        assert_eq!(rootless.host, Reachable::No);
        let usual = SystemInfo {
            memory_limit: Some(true),
            ..SystemInfo::default()
        };
        let usual = About::from(usual);
        assert_eq!(usual.unenforced, [].into());
        assert_eq!(usual.host, Reachable::Yes);
    }
}
