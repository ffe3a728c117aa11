//! Who else could change what a path names.
//!
//! Whoever can write a pipeline's file, or the state that a daemon goes by, has it run what they
//! like, as the daemon's user. So flowctl believes nothing that a stranger owns or may write: the
//! rule of ssh and git.
//!
//! **Guarantees.** A path is looked at from the root to its end, each folder and each symbolic link
//! on the way, as the kernel will follow it. Trusted are root, this process's own user, and whoever
//! owns `/` (in a user namespace root may be shown as nobody). A folder that others may write is no
//! hindrance where it is sticky, as `/tmp` is, and what is ours in it is ours.
//!
//! What a stranger may change is read all the same where the author of a manifest names it, since a
//! service's settings may well be its user's. But it may lead to nothing that is not the stranger's:
//! see [`Trusted::lured`]. Nor is anybody given what flowctl keeps for itself, see [`kept_place`].
//!
//! **What it does not do.** It opens nothing: once all who could change a path are trusted, nobody
//! else can change it between this look and the use.

mod kept;

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::model::path::names;

pub use kept::kept_place;

/// The kernel's limit on links in one path.
const MAX_LINKS: usize = 40;

const STICKY: u32 = 0o1000;
const GROUP_MAY_WRITE: u32 = 0o020;
const OTHERS_MAY_WRITE: u32 = 0o002;

/// Whose files are as good as our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    users: BTreeSet<u32>,
}

/// Somebody else could change what a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// What they could change: the path itself, or a folder or link on the way.
    pub path: PathBuf,
    /// Why.
    pub how: How,
}

/// Why somebody else could change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It belongs to the user of this number.
    Owns(u32),
    /// Members of the group of this number may write it.
    GroupWrites(u32),
    /// Everybody may write it.
    AllWrite,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.how {
            How::Owns(user) => write!(f, "{path} belongs to user {user}"),
            How::GroupWrites(group) => write!(f, "group {group} may write {path}"),
            How::AllWrite => write!(f, "everybody may write {path}"),
        }
    }
}

impl std::error::Error for Stranger {}

impl Stranger {
    /// What to do about it.
    pub fn advice(&self) -> String {
        let path = self.path.display();
        match self.how {
            How::Owns(user) => {
                format!("do it as user {user}, or give {path} to yourself with `chown`")
            }
            How::GroupWrites(_) | How::AllWrite => format!("`chmod go-w {path}` closes it"),
        }
    }
}

/// A path led to something that its author cannot have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lured {
    /// Somebody who could change the path made it lead to what is not theirs.
    To {
        /// What it led to.
        to: PathBuf,
        /// Who could.
        by: Stranger,
    },
    /// It leads elsewhere by now.
    Meanwhile,
}

impl fmt::Display for Lured {
    /// As it follows the name of the path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To { to, by } => write!(
                f,
                "leads to {}, which is not theirs who could make it lead anywhere ({by}): name that \
                 file itself, or take their rights to the path away",
                to.display()
            ),
            Self::Meanwhile => f.write_str("led elsewhere while it was opened"),
        }
    }
}

/// Where the names of a path lead, one after the other.
enum Way {
    /// A stranger could change one of them.
    Strange(Stranger),
    /// To nothing that could be seen.
    Nowhere,
    /// To this, which nobody else could exchange.
    To(Metadata),
}

/// What is asked about the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whether others could exchange it or its content; a folder may be sticky.
    Itself,
    /// Also whether others could put something into it.
    WithContents,
}

impl Trusted {
    /// Root, this process's user, and whoever owns `/`.
    pub fn ours() -> Self {
        let root = fs::symlink_metadata("/").map_or(0, |root| root.uid());
        Self::of([0, rustix::process::geteuid().as_raw(), root])
    }

    /// These users, by number.
    pub fn of(users: impl IntoIterator<Item = u32>) -> Self {
        Self {
            users: users.into_iter().collect(),
        }
    }

    /// Whether this user is among them.
    pub fn has(&self, user: u32) -> bool {
        self.users.contains(&user)
    }

    /// Who else could change what the absolute `path` names; `None` = nobody. A path whose end is
    /// missing is judged as far as it goes.
    pub fn stranger(&self, path: &Path, end: End) -> Option<Stranger> {
        match self.way(path, end) {
            Way::Strange(stranger) => Some(stranger),
            Way::Nowhere | Way::To(_) => None,
        }
    }

    /// Whether what was `opened` at `path` is something that a stranger has put in the way of what
    /// its author meant; `None` = it is not. Where a stranger could have made the path lead
    /// elsewhere, good is only what is theirs: their own file, or one that lies below what they could
    /// change and has no second name.
    ///
    /// # Errors
    /// When the kernel does not say what was opened.
    pub fn lured(&self, path: &Path, opened: &File) -> io::Result<Option<Lured>> {
        let found = opened.metadata()?;
        let to = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
        Ok(match self.way(&std::path::absolute(path)?, End::Itself) {
            Way::Strange(by) => {
                let is_theirs = by.how == How::Owns(found.uid());
                let lies_there = found.nlink() == 1 && to.starts_with(&by.path);
                (!is_theirs && !lies_there).then_some(Lured::To { to, by })
            }
            // Looked at only now: a link of theirs may be gone again.
            Way::To(there) => {
                let same = (there.dev(), there.ino()) == (found.dev(), found.ino());
                (!same).then_some(Lured::Meanwhile)
            }
            // What never had a path, as a pipe between programs, has no stranger on it.
            Way::Nowhere => to.is_absolute().then_some(Lured::Meanwhile),
        })
    }

    /// Whether what was `opened` at `path` may be read for whoever looks after the host and named it.
    ///
    /// # Errors
    /// Why not, as it follows the name of the path.
    pub fn check_meant(&self, path: &Path, opened: &File) -> Result<(), String> {
        match self.lured(path, opened) {
            Ok(None) => Ok(()),
            Ok(Some(lured)) => Err(lured.to_string()),
            Err(error) => Err(format!("cannot be judged: {error}")),
        }
    }

    /// Whether what was `opened` at `path`, which a manifest names, may be read for that.
    ///
    /// # Errors
    /// Why not, as it follows the name of the path.
    pub fn check_named(&self, path: &Path, opened: &File) -> Result<(), String> {
        self.check_meant(path, opened)?;
        kept::check(opened)
    }

    /// Whether nobody else could change what `path` names, so that it may say what is run.
    ///
    /// # Errors
    /// Who could, as it follows the name of the path, and what to do.
    pub fn check_ours(&self, path: &Path) -> Result<(), String> {
        match self.stranger(path, End::Itself) {
            None => Ok(()),
            Some(stranger) => Err(format!(
                "is not believed, since others could change it: {stranger}; {}",
                stranger.advice()
            )),
        }
    }

    fn way(&self, path: &Path, end: End) -> Way {
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        let judged = |path: &Path, found: &Metadata, end: End| {
            let how = self.judge(&Facts::of(found), end)?;
            Some(Stranger {
                path: path.to_owned(),
                how,
            })
        };
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            // Missing, or not to be looked at by us: whoever may make it was judged before.
            let Ok(found) = fs::symlink_metadata(&next) else {
                return Way::Nowhere;
            };
            let at_end = if rest.is_empty() { end } else { End::Itself };
            if let Some(stranger) = judged(&next, &found, at_end) {
                return Way::Strange(stranger);
            }
            if !found.is_symlink() {
                if rest.is_empty() {
                    return Way::To(found);
                }
                at = next;
                continue;
            }
            links += 1;
            let target = fs::read_link(&next).ok().filter(|_| links <= MAX_LINKS);
            let Some(target) = target else {
                return Way::Nowhere;
            };
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        // It ends in `..`, or is the root.
        fs::symlink_metadata(&at).map_or(Way::Nowhere, Way::To)
    }

    /// The same of a folder and of what lies in it, one level deep: what was put there before the
    /// folder became ours is still theirs.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn stranger_in(&self, folder: &Path) -> io::Result<Option<Stranger>> {
        if let Some(stranger) = self.stranger(folder, End::WithContents) {
            return Ok(Some(stranger));
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            // One that has gone meanwhile is nobody's.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if !self.has(found.uid()) {
                return Ok(Some(Stranger {
                    path: entry.path(),
                    how: How::Owns(found.uid()),
                }));
            }
        }
        Ok(None)
    }

    fn judge(&self, facts: &Facts, end: End) -> Option<How> {
        if !self.has(facts.user) {
            return Some(How::Owns(facts.user));
        }
        // The mode of a link means nothing.
        if facts.kind == Kind::Link {
            return None;
        }
        let is_sheltered =
            facts.kind == Kind::Folder && facts.mode & STICKY != 0 && end == End::Itself;
        if is_sheltered {
            return None;
        }
        if facts.mode & OTHERS_MAY_WRITE != 0 {
            return Some(How::AllWrite);
        }
        // A group of its user's own number is that user's private one, as distributions make it.
        let is_private = facts.group == facts.user;
        (facts.mode & GROUP_MAY_WRITE != 0 && !is_private).then_some(How::GroupWrites(facts.group))
    }
}

/// What is judged of a file.
struct Facts {
    user: u32,
    group: u32,
    mode: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    Link,
    Other,
}

impl Facts {
    fn of(found: &Metadata) -> Self {
        let kind = if found.is_dir() {
            Kind::Folder
        } else if found.is_symlink() {
            Kind::Link
        } else {
            Kind::Other
        };
        Self {
            user: found.uid(),
            group: found.gid(),
            mode: found.mode(),
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn who_may_change_a_file_follows_from_owner_group_and_mode() {
        let trusted = Trusted::of([0, 1000]);
        let judge = |user, group, mode, kind, end| {
            let facts = Facts {
                user,
                group,
                mode,
                kind,
            };
            trusted.judge(&facts, end)
        };
        let (folder, file, link) = (Kind::Folder, Kind::Other, Kind::Link);
        let (itself, contents) = (End::Itself, End::WithContents);
        for (user, group, mode, kind, end, how) in [
            (0, 0, 0o755, folder, itself, None),
            (1000, 100, 0o700, folder, contents, None),
            (1000, 1000, 0o664, file, itself, None),
            (1000, 1000, 0o2775, folder, contents, None),
            (0, 0, 0o1777, folder, itself, None),
            (0, 0, 0o1777, folder, contents, Some(How::AllWrite)),
            (0, 0, 0o1777, file, itself, Some(How::AllWrite)),
            (0, 0, 0o777, folder, itself, Some(How::AllWrite)),
            (1000, 50, 0o664, file, itself, Some(How::GroupWrites(50))),
            (0, 50, 0o775, folder, itself, Some(How::GroupWrites(50))),
            (0, 50, 0o1775, folder, itself, None),
            (65534, 0, 0o700, folder, itself, Some(How::Owns(65534))),
            (65534, 0, 0o777, link, itself, Some(How::Owns(65534))),
            (1000, 50, 0o777, link, itself, None),
        ] {
            assert_eq!(
                judge(user, group, mode, kind, end),
                how,
                "{user} {group} {mode:o}"
            );
        }
    }

    #[test]
    fn every_folder_and_every_link_on_the_way_counts() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let open = base.join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("p.yaml"), "").unwrap();
        symlink("open/p.yaml", base.join("link.yaml")).unwrap();
        let trusted = Trusted::ours();
        let found = |name: &str| trusted.stranger(&base.join(name), End::Itself);
        assert_eq!(found("open/p.yaml"), None);
        assert_eq!(found("link.yaml"), None);
        assert_eq!(found("none/at/all"), None);
        assert_eq!(trusted.stranger_in(&base).unwrap(), None);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let all = Some(Stranger {
            path: open.clone(),
            how: How::AllWrite,
        });
        assert_eq!(found("open/p.yaml"), all);
        assert_eq!(found("open/../open/p.yaml"), all);
        assert_eq!(found("link.yaml"), all, "it leads through the folder");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(
            found("link.yaml"),
            None,
            "the sticky bit keeps what is ours"
        );
        // Only root may give something away.
        if chown(&open, Some(54321), None).is_ok() {
            let owned = found("link.yaml").unwrap();
            assert_eq!(owned.how, How::Owns(54321));
            assert_eq!(trusted.stranger_in(&base).unwrap(), Some(owned));
        }
    }

    #[test]
    fn what_a_stranger_could_make_a_path_lead_to_is_theirs_or_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let theirs = base.join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(base.join("secret"), "").unwrap();
        fs::write(theirs.join("settings"), "").unwrap();
        symlink("settings", theirs.join("current")).unwrap();
        symlink("../secret", theirs.join("trap")).unwrap();
        fs::hard_link(base.join("secret"), theirs.join("second-name")).unwrap();
        symlink("theirs/settings", base.join("ours")).unwrap();
        let trusted = Trusted::ours();
        let lured = |name: &str| {
            let path = base.join(name);
            trusted.lured(&path, &File::open(&path).unwrap()).unwrap()
        };
        let names = ["settings", "current", "trap", "second-name"];
        for name in names {
            assert_eq!(
                lured(&format!("theirs/{name}")),
                None,
                "all is ours: {name}"
            );
        }
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        let is_lured = |name: &str| matches!(lured(name), Some(Lured::To { .. }));
        assert_eq!(
            names.map(|name| is_lured(&format!("theirs/{name}"))),
            [false, false, true, true]
        );
        assert!(!is_lured("ours"));
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
        // One that was exchanged after it was opened, and put back.
        let opened = File::open(base.join("secret")).unwrap();
        let settings = theirs.join("settings");
        assert_eq!(
            trusted.lured(&settings, &opened).unwrap(),
            Some(Lured::Meanwhile)
        );
        let gone = trusted.lured(&theirs.join("none"), &opened).unwrap();
        assert_eq!(gone, Some(Lured::Meanwhile));
        if chown(&theirs, Some(54321), None).is_ok() {
            assert!(is_lured("theirs/trap"));
            chown(base.join("secret"), Some(54321), None).unwrap();
            assert!(!is_lured("theirs/trap"), "it is their own");
        }
    }
}
