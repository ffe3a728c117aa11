//! Whether a process component could be started: its user, its files, its program.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::model::{ComponentSpec, ProcessSpec};

use super::account::Account;
use super::{List, World, files};

impl World<'_> {
    /// Whether one replica of `spec` could be started here, after another.
    pub(super) fn check_process(
        &self,
        spec: &ComponentSpec,
        process: &ProcessSpec,
        list: &mut List<'_>,
    ) {
        let account = match spec.user.as_deref().map(|user| self.accounts.find(user)) {
            None => Some(Account::Own),
            Some(Ok(account)) => account,
            Some(Err(trouble)) => {
                list.add(Some(trouble), || "user".to_owned());
                None
            }
        };
        let mut file_path = None;
        for path in &spec.env_file {
            let read = files::env_file_path(path);
            match read {
                Ok(found) => file_path = found.or(file_path),
                Err(trouble) => list.add(Some(trouble), || format!("env_file {}", path.display())),
            }
        }
        // Without an account nothing can be said about what it may execute.
        let Some(account) = account else {
            return;
        };
        for launch in launches(spec, process, self.search_path, file_path.as_deref()) {
            let dir = launch.working_dir.display();
            match files::folder(&launch.working_dir, &account) {
                Err(trouble) => list.add(Some(trouble), || format!("working_dir {dir}")),
                Ok(()) => {
                    let program = launch.program.as_str();
                    let found =
                        files::program(program, &launch.path, &launch.working_dir, &account);
                    list.add(found.err(), || format!("program {program}"));
                }
            }
        }
    }
}

/// What one replica is started from.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LaunchFiles {
    program: String,
    working_dir: PathBuf,
    path: OsString,
}

/// The different ones of all replicas: one, unless something names the replica's number.
fn launches(
    spec: &ComponentSpec,
    process: &ProcessSpec,
    search_path: &OsStr,
    file_path: Option<&str>,
) -> BTreeSet<LaunchFiles> {
    let launch = |replica| {
        let fill = |text: &str| ComponentSpec::for_replica(text, replica);
        let own = spec.env.get("PATH").map(|path| fill(path));
        LaunchFiles {
            program: fill(&process.program),
            working_dir: match process.working_dir.to_str() {
                Some(text) => fill(text).into(),
                None => process.working_dir.clone(),
            },
            path: own
                .as_deref()
                .or(file_path)
                .map_or_else(|| search_path.to_owned(), OsString::from),
        }
    };
    (0..spec.replicas).map(launch).collect()
}
