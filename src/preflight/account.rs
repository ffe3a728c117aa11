//! Whom a component runs as, and what that user may do with a file.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{getegid, geteuid};

use super::files::Trouble;

/// A user to run as.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// The daemon's own.
    Own,
    /// Another one.
    Other {
        uid: u32,
        /// All groups, the primary one first.
        gids: Vec<u32>,
    },
}

impl Account {
    /// Whether this user can reach `path` and has `wanted` rights to it.
    pub(super) fn may(&self, path: &Path, wanted: Access) -> bool {
        match self {
            Self::Own => accessat(CWD, path, wanted, AtFlags::EACCESS).is_ok(),
            Self::Other { uid: 0, .. } => {
                !wanted.contains(Access::EXEC_OK)
                    || fs::metadata(path).is_ok_and(|it| it.is_dir() || it.mode() & 0o111 != 0)
            }
            Self::Other { uid, gids } => {
                let allows = |path: &Path, bits: u32| {
                    fs::metadata(path).is_ok_and(|it| Self::allows(&it, *uid, gids, bits))
                };
                // The folders on the way have to be passable, too.
                let mut folders = path.ancestors().skip(1);
                let passable = folders.all(|folder| {
                    folder.as_os_str().is_empty() || allows(folder, Access::EXEC_OK.bits())
                });
                passable && allows(path, wanted.bits())
            }
        }
    }

    fn allows(file: &Metadata, uid: u32, gids: &[u32], bits: u32) -> bool {
        let shift = match () {
            () if file.uid() == uid => 6,
            () if gids.contains(&file.gid()) => 3,
            () => 0,
        };
        (file.mode() >> shift) & bits == bits
    }
}

/// The users and groups that this host's own files name.
pub(super) struct Accounts {
    /// Name to user id and primary group.
    users: BTreeMap<String, (u32, u32)>,
    /// Name to id and members.
    groups: BTreeMap<String, (u32, Vec<String>)>,
    /// Whether a directory service may know more.
    elsewhere: bool,
}

impl Accounts {
    /// Reads `/etc/passwd`, `/etc/group` and where else the host looks.
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(
            &text("/etc/passwd"),
            &text("/etc/group"),
            &text("/etc/nsswitch.conf"),
        )
    }

    fn parse(passwd: &str, group: &str, nsswitch: &str) -> Self {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let user = |line| match fields(line).as_slice() {
            [name, _, uid, gid, ..] => Some((name.clone(), (uid.parse().ok()?, gid.parse().ok()?))),
            [..] => None,
        };
        let group_of = |line| match fields(line).as_slice() {
            [name, _, gid, members] => {
                let members = members.split(',').map(str::to_owned).collect();
                Some((name.clone(), (gid.parse().ok()?, members)))
            }
            [..] => None,
        };
        let sources = nsswitch.lines().filter_map(|line| {
            let (database, sources) = line.split_once(':')?;
            matches!(database.trim(), "passwd" | "group").then_some(sources)
        });
        // `[NOTFOUND=return]` and the like are no sources.
        let mut sources = sources.flat_map(str::split_whitespace);
        let local = ["files", "compat", "systemd"];
        Self {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
            elsewhere: sources.any(|word| !local.contains(&word) && !word.starts_with('[')),
        }
    }

    /// Whom `user`, `user:group` or numbers mean; `None` = only a directory service can tell.
    pub(super) fn find(&self, text: &str) -> Result<Option<Account>, Trouble> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let by_number = |uid: u32| {
            let mut users = self.users.iter();
            users.find(|(_, (known, _))| *known == uid)
        };
        let (name, uid, primary) = match (self.users.get_key_value(name), name.parse::<u32>()) {
            (Some((name, (uid, gid))), _) => (Some(name), *uid, *gid),
            (None, Ok(uid)) => match by_number(uid) {
                Some((name, (_, gid))) => (Some(name), uid, *gid),
                None => (None, uid, uid),
            },
            (None, Err(_)) if self.elsewhere => return Ok(None),
            (None, Err(_)) => {
                let hint = "create it, or name another user";
                return Err(Trouble::new(format!("{name} does not exist"), hint));
            }
        };
        let gid = match group.map(|group| (group.parse(), self.groups.get(group), group)) {
            None => primary,
            Some((Ok(gid), _, _) | (Err(_), Some(&(gid, _)), _)) => gid,
            Some((Err(_), None, _)) if self.elsewhere => return Ok(None),
            Some((Err(_), None, group)) => {
                let hint = "create it, or name another group";
                return Err(Trouble::new(
                    format!("{text}: group {group} does not exist"),
                    hint,
                ));
            }
        };
        if !geteuid().is_root() {
            return match uid == geteuid().as_raw() && gid == getegid().as_raw() {
                true => Ok(Some(Account::Own)),
                false => Err(Trouble::new(
                    format!("{text} cannot be switched to"),
                    "run the daemon as root or as that user, or remove `user`",
                )),
            };
        }
        let mut gids = vec![gid];
        if let (Some(name), None) = (name, group) {
            let member_of = self.groups.values().filter(|(_, them)| them.contains(name));
            gids.extend(member_of.map(|(gid, _)| *gid));
        }
        Ok(Some(Account::Other { uid, gids }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1001:1002:App:/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1002:\ndata:x:1003:other,app\n";

    fn found(nsswitch: &str, text: &str) -> Result<Option<Account>, String> {
        let accounts = Accounts::parse(PASSWD, GROUP, nsswitch);
        accounts.find(text).map_err(|trouble| trouble.what)
    }

    #[test]
    fn a_user_is_found_by_name_by_number_and_with_a_group() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can switch to another user");
            return;
        }
        let account = |uid, gids: &[u32]| {
            let gids = gids.to_vec();
            Ok(Some(Account::Other { uid, gids }))
        };
        assert_eq!(found("", "app"), account(1001, &[1002, 1003]));
        assert_eq!(found("", "1001"), account(1001, &[1002, 1003]));
        assert_eq!(found("", "app:data"), account(1001, &[1003]));
        assert_eq!(found("", "4242"), account(4242, &[4242]));
        assert_eq!(found("", "4242:7"), account(4242, &[7]));
    }

    #[test]
    fn an_unknown_user_is_a_problem_unless_a_directory_service_may_know_it() {
        let local = "passwd: files systemd\ngroup: files [NOTFOUND=return] systemd\n";
        let missing = Err("nobody-here does not exist".to_owned());
        assert_eq!(found(local, "nobody-here"), missing);
        assert_eq!(found("passwd: files sss\n", "nobody-here"), Ok(None));
        let missing = Err("app:none: group none does not exist".to_owned());
        assert_eq!(found(local, "app:none"), missing);
    }
}
