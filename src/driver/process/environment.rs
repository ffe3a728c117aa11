//! The variables of a program.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::driver::Launch;
use crate::driver::variables::{is_named, may_be_inherited};
use crate::model::ComponentSpec;

use super::account::{Account, Login};

/// Variables of the daemon that every process gets.
const INHERITED: [&str; 4] = ["PATH", "LANG", "TZ", "TMPDIR"];
/// What says who somebody is. Another user's is never handed on.
const IDENTITY: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];
/// What means something to the daemon's user alone: places and agents that are that user's. To
/// another one it is handed only where the file names it in full.
const PERSONAL: [&str; 18] = [
    "TMPDIR",
    "MAIL",
    "PWD",
    "OLDPWD",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "GNUPGHOME",
    "KRB5CCNAME",
    "XAUTHORITY",
    "BASH_ENV",
    "ENV",
];
/// Where programs are looked up when the daemon itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The mark by which whatever an instance forked is found.
pub(super) const MARK: &str = "FLOWCTL_INSTANCE";
/// Tells instances of one name apart that belong to different state directories.
pub(super) const MARK_FILE: &str = "FLOWCTL_INSTANCE_FILE";
/// Where a component finds its secrets.
const SECRETS_DIR: &str = "FLOWCTL_SECRETS_DIR";

/// What the daemon itself has that its components may get.
#[derive(Clone, Debug)]
pub struct Inheritance {
    variables: BTreeMap<OsString, OsString>,
    login: Option<Login>,
}

impl Inheritance {
    /// That of this process.
    pub fn of_this_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// These variables, and the name of this process's user.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self {
            variables: variables
                .into_iter()
                .filter(|(name, _)| may_be_inherited(name))
                .collect(),
            login: Login::own(),
        }
    }

    /// The value of one variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
    }

    /// What the variables of a component begin with.
    fn base(&self, account: Option<&Account>) -> BTreeMap<String, Vec<u8>> {
        let mut variables = BTreeMap::new();
        variables.insert("PATH".to_owned(), DEFAULT_PATH.into());
        for name in INHERITED {
            let kept = is_foreign(account) && PERSONAL.contains(&name);
            if let Some(value) = self.get(name).filter(|_| !kept) {
                variables.insert(name.to_owned(), value.as_bytes().to_vec());
            }
        }
        // One whom the host does not know is who its variables say.
        let own = || {
            let text = |name| Some(self.get(name)?.to_string_lossy().into_owned());
            Some(Login {
                name: text("USER")?,
                home: text("HOME")?,
            })
        };
        let login = account.map(|who| who.login.clone());
        if let Some(login) = login.or_else(|| self.login.clone()).or_else(own) {
            variables.insert("USER".to_owned(), login.name.clone().into());
            variables.insert("LOGNAME".to_owned(), login.name.into());
            variables.insert("HOME".to_owned(), login.home.into());
        }
        variables
    }

    /// The variables of the daemon that `patterns` name, as far as they may go to `account`.
    pub(super) fn named(
        &self,
        patterns: &[String],
        account: Option<&Account>,
    ) -> BTreeMap<String, Vec<u8>> {
        let mut named = BTreeMap::new();
        for (name, value) in &self.variables {
            let Some(name) = name.to_str() else { continue };
            let in_full = patterns.iter().any(|pattern| pattern == name);
            let kept = is_foreign(account)
                && (IDENTITY.contains(&name) || (PERSONAL.contains(&name) && !in_full));
            if !kept && is_named(patterns, name) {
                named.insert(name.to_owned(), value.as_bytes().to_vec());
            }
        }
        named
    }
}

/// Whether this is another user than the daemon's.
fn is_foreign(account: Option<&Account>) -> bool {
    account.is_some_and(|who| who.uid != rustix::process::geteuid().as_raw())
}

/// What only an instance has: its marks.
pub(super) struct Marks<'a> {
    /// The instance's file.
    pub(super) file: &'a Path,
    /// Where its secrets lie, if it has any.
    pub(super) secrets: Option<&'a Path>,
}

/// Variables that files give, in their order.
pub(super) type FromFiles = [(String, Vec<u8>)];

/// The variables that are known before there is an instance; later sources win.
pub(super) fn of_component(
    spec: &ComponentSpec,
    replica: u32,
    injected: &BTreeMap<String, String>,
    inheritance: &Inheritance,
    account: Option<&Account>,
    from_files: &FromFiles,
) -> BTreeMap<String, Vec<u8>> {
    let mut variables = inheritance.base(account);
    variables.extend(inheritance.named(&spec.inherit_env, account));
    for (name, value) in injected {
        variables.insert(name.clone(), value.clone().into());
    }
    variables.extend(from_files.iter().cloned());
    for (name, value) in &spec.env {
        let value = ComponentSpec::for_replica(value, replica);
        variables.insert(name.clone(), value.into());
    }
    variables
}

/// The variables of an instance.
pub(super) fn of_instance(
    launch: &Launch,
    inheritance: &Inheritance,
    account: Option<&Account>,
    marks: &Marks<'_>,
    from_files: &FromFiles,
) -> BTreeMap<String, Vec<u8>> {
    let replica = launch.instance.replica.replica;
    let mut variables = of_component(
        &launch.spec,
        replica,
        &launch.injected,
        inheritance,
        account,
        from_files,
    );
    // The marks stand above all: without them what an instance forked could not be found.
    let own = [
        (MARK, Some(launch.instance.to_string().into())),
        (MARK_FILE, Some(marks.file.as_os_str().to_owned())),
        (
            SECRETS_DIR,
            marks.secrets.map(|dir| dir.as_os_str().to_owned()),
        ),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            let value: &OsStr = &value;
            variables.insert(name.to_owned(), value.as_bytes().to_vec());
        }
    }
    variables
}

/// What a container is given of its files, its manifest and the daemon's own.
pub(super) fn for_container(
    spec: &ComponentSpec,
    inheritance: &Inheritance,
    from_files: &FromFiles,
) -> BTreeMap<String, Vec<u8>> {
    let mut variables = inheritance.named(&spec.inherit_env, None);
    variables.extend(from_files.iter().cloned());
    let own = spec.env.iter();
    variables.extend(own.map(|(name, value)| (name.clone(), value.clone().into())));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_of_root() -> Inheritance {
        let variables = [
            ("PATH", "/root/bin:/bin"),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/zsh"),
            ("TMPDIR", "/tmp/user/0"),
            ("LANG", "C.UTF-8"),
            ("XDG_RUNTIME_DIR", "/run/user/0"),
            ("XDG_REGION", "eu"),
            ("SSH_AUTH_SOCK", "/tmp/agent"),
        ];
        Inheritance {
            variables: variables.map(|(n, v)| (n.into(), v.into())).into(),
            login: Some(Login {
                name: "root".to_owned(),
                home: "/root".to_owned(),
            }),
        }
    }

    fn numeric() -> Account {
        Account {
            uid: 4242,
            gid: 4242,
            groups: Vec::new(),
            login: Login {
                name: "4242".to_owned(),
                home: "/".to_owned(),
            },
        }
    }

    /// What of the daemon's a component with these patterns gets.
    fn gets(patterns: &[&str], account: Option<&Account>) -> BTreeMap<String, String> {
        let inheritance = daemon_of_root();
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.into()).collect();
        let mut all = inheritance.base(account);
        all.extend(inheritance.named(&patterns, account));
        all.into_iter()
            .map(|(name, value)| (name, String::from_utf8(value).unwrap()))
            .collect()
    }

    #[test]
    fn with_a_user_each_inherited_variable_is_that_users_or_absent() {
        let who = numeric();
        for patterns in [&[][..], &["*"], &["XDG_*", "HOME", "USER", "SHELL"]] {
            let got = gets(patterns, Some(&who));
            assert_eq!(got["HOME"], "/", "{patterns:?}");
            assert_eq!(got["USER"], "4242");
            assert_eq!(got["LOGNAME"], "4242");
            assert_eq!(got["LANG"], "C.UTF-8");
            for name in ["TMPDIR", "SHELL", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"] {
                assert_eq!(got.get(name), None, "{patterns:?}");
            }
            assert_eq!(got.contains_key("XDG_REGION"), !patterns.is_empty());
        }
        let got = gets(&["SSH_AUTH_SOCK"], Some(&who));
        assert_eq!(got["SSH_AUTH_SOCK"], "/tmp/agent", "named in full");
    }

    #[test]
    fn without_a_user_names_are_the_hosts_and_not_the_callers() {
        let mut inheritance = daemon_of_root();
        inheritance
            .variables
            .insert("HOME".into(), "/home/of/who/said/sudo".into());
        let got = inheritance.base(None);
        assert_eq!(got["HOME"], b"/root");
        assert_eq!(got["TMPDIR"], b"/tmp/user/0");
        let named = inheritance.named(&["HOME".to_owned()], None);
        assert_eq!(named["HOME"], b"/home/of/who/said/sudo");
    }
}
