//! Whom a program runs as.

use std::io;
use std::path::Path;

use super::failure::Refusal;
use super::sys::{self, User, UserKey};

/// Whom a component runs as, where that is not the daemon's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// User id.
    pub(super) uid: u32,
    /// Group id.
    pub(super) gid: u32,
    /// All groups, as native 32-bit numbers one after the other.
    pub(super) groups: Vec<u8>,
    /// What its variables say of it.
    pub(super) login: Login,
}

/// A user's name and home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// Its name; the number of one whom the host does not know.
    pub(super) name: String,
    /// Its home directory; `/` of one whom the host does not know.
    pub(super) home: String,
}

impl Login {
    fn of(known: Option<User>, uid: u32) -> Self {
        match known {
            Some(user) => Self {
                name: user.name,
                home: user.home,
            },
            None => Self {
                name: uid.to_string(),
                home: "/".to_owned(),
            },
        }
    }

    /// That of this process's own user; `None` when the host does not know it.
    pub(super) fn own() -> Option<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let known = sys::user(&UserKey::Id(uid)).ok().flatten()?;
        Some(Self::of(Some(known), uid))
    }
}

impl Account {
    /// Whom `user` means, as `user`, `user:group` or numbers; `None` = whom the daemon runs as
    /// anyway.
    ///
    /// # Errors
    /// When the host knows no such user or group, or this process may not become it.
    pub(super) fn of(user: &str) -> Result<Option<Self>, Refusal> {
        let lookup = |error: io::Error| Refusal::UserLookup {
            user: user.to_owned(),
            error,
        };
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user, None),
        };
        let number = name.parse::<u32>().ok();
        let key = number.map_or(UserKey::Name(name), UserKey::Id);
        let known = sys::user(&key).map_err(lookup)?;
        let uid = known
            .as_ref()
            .map(|user| user.uid)
            .or(number)
            .ok_or_else(|| Refusal::NoSuchUser(name.to_owned()))?;
        let gid = match group {
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => sys::group(group)
                    .map_err(lookup)?
                    .ok_or_else(|| Refusal::NoSuchGroup(group.to_owned()))?,
            },
            // A number that the host does not know has no primary group; its own number is free.
            None => known.as_ref().map_or(uid, |user| user.gid),
        };
        if !rustix::process::geteuid().is_root() {
            let same = uid == rustix::process::geteuid().as_raw()
                && gid == rustix::process::getegid().as_raw();
            return if same {
                Ok(None)
            } else {
                Err(Refusal::UserNotPermitted(user.to_owned()))
            };
        }
        let groups = match (&known, group) {
            (Some(user), None) => sys::groups_of(&user.name, gid).map_err(lookup)?,
            (Some(_) | None, _) => vec![gid],
        };
        Ok(Some(Self {
            uid,
            gid,
            groups: groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect(),
            login: Login::of(known, uid),
        }))
    }

    /// Answers `question` about files with the rights of this account, or with our own where there
    /// is none.
    ///
    /// # Errors
    /// When its rights cannot be taken on.
    pub(super) fn ask<T: Send>(
        account: Option<&Self>,
        question: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        match account {
            None => Ok(question()),
            Some(who) => sys::with_rights_of(who.uid, who.gid, &who.groups, question),
        }
    }
}

/// Whether a file at `path` belongs to the user that this account is.
pub(super) fn owns(account: Option<&Account>, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let uid = account.map_or(rustix::process::geteuid().as_raw(), |who| who.uid);
    std::fs::metadata(path).is_ok_and(|it| it.uid() == uid)
}

/// Whether this account has all rights.
pub(super) fn is_root(account: Option<&Account>) -> bool {
    account.map_or(rustix::process::geteuid().as_raw(), |who| who.uid) == 0
}
