//! The variables that a component's files and the daemon's own environment give it, for every driver
//! whose engine sets them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use crate::model::{ComponentSpec, StartFailure};

/// What a service manager says to the daemon and to nobody else. A component that were told it could
/// speak for the daemon, and one that found them set would believe that it is a service of its own.
const SERVICE_MANAGER: [&str; 10] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
    "SYSTEMD_EXEC_PID",
];

/// A variable that an engine does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variable {0} is not UTF-8 text, and an engine takes nothing else: write it as text")]
pub(super) struct NotText(pub(super) String);

impl NotText {
    /// One word for scripts.
    pub(super) const REASON: &'static str = "VariableNotText";
}

impl From<NotText> for StartFailure {
    fn from(error: NotText) -> Self {
        Self {
            reason: NotText::REASON.to_owned(),
            message: error.to_string(),
        }
    }
}

/// Whether a component may be given the daemon's variable of this name.
pub(super) fn may_be_inherited(name: &OsStr) -> bool {
    !SERVICE_MANAGER.iter().any(|kept| name == *kept)
}

/// Whether `name` is one of `patterns`, which may end in `*`, as `inherit_env` has them.
pub fn is_named(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        })
}

/// The variables that `inherit_env` and env files name, as text; later sources win.
///
/// # Errors
/// When one of them is none.
pub(super) fn given(
    spec: &ComponentSpec,
    from_files: &[(String, Vec<u8>)],
) -> Result<BTreeMap<String, String>, NotText> {
    given_of(spec, std::env::vars_os(), from_files)
}

fn given_of(
    spec: &ComponentSpec,
    daemon: impl Iterator<Item = (OsString, OsString)>,
    from_files: &[(String, Vec<u8>)],
) -> Result<BTreeMap<String, String>, NotText> {
    let own = daemon.filter(|(name, _)| may_be_inherited(name));
    let own = own.filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        is_named(&spec.inherit_env, &name).then(|| (name, value.into_vec()))
    });
    let mut all: BTreeMap<String, Vec<u8>> = own.collect();
    all.extend(from_files.iter().cloned());
    let texts = all.into_iter().map(|(name, value)| {
        let text = String::from_utf8(value);
        text.map_or_else(
            |_| Err(NotText(name.clone())),
            |text| Ok((name.clone(), text)),
        )
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures;

    #[test]
    fn patterns_name_variables_to_pass_on() {
        let patterns = ["AWS_*".to_owned(), "TOKEN".to_owned()];
        assert!(is_named(&patterns, "AWS_REGION"));
        assert!(is_named(&patterns, "TOKEN"));
        assert!(!is_named(&patterns, "TOKEN_2"));
    }

    #[test]
    fn files_win_over_the_daemons_own_and_what_a_service_manager_said_goes_to_nobody() {
        let mut spec = fixtures::component("a", 1, &[]);
        spec.inherit_env = vec!["*".to_owned()];
        let daemon = [("A", "own"), ("B", "own"), ("NOTIFY_SOCKET", "/run/x")];
        let daemon = || {
            daemon
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
        };
        let files = [("B".to_owned(), b"file".to_vec())];
        let given = given_of(&spec, daemon(), &files).unwrap();
        let wanted = [("A", "own"), ("B", "file")];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(given, wanted.into());
        let files = [("C".to_owned(), vec![0xff])];
        let refused = given_of(&spec, daemon(), &files);
        assert_eq!(refused, Err(NotText("C".to_owned())));
    }
}
