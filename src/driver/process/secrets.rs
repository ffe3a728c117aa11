//! Secrets of a component: files that only it can read, in memory where the host has a place for
//! that, gone with the instance. Their values are in no state, no log and no environment.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::model::{ComponentSpec, InstanceId, SecretSpec};

use super::failure::Refusal;
use super::text::hash;

/// Where the secrets of all instances of one state directory lie.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A directory of ours in memory.
    Memory(PathBuf),
    /// A directory of ours on disk.
    Disk(PathBuf),
}

impl Place {
    /// The best place of this host for the instances in `instances_dir`. It is made with the first
    /// secret, and removed with the last one.
    pub(super) fn find(instances_dir: &Path) -> Self {
        // Several state directories of one user share the memory file system.
        let mark = hash(instances_dir.as_os_str().as_bytes());
        let uid = rustix::process::geteuid().as_raw();
        let name = format!("flowctl-{uid}-{mark:016x}");
        Self::among(&Self::parents(uid), &name)
            .map_or_else(|| Self::Disk(Self::on_disk(instances_dir)), Self::Memory)
    }

    /// Where the host may have a place in memory for this user.
    fn parents(uid: u32) -> Vec<PathBuf> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let candidates = [
            (uid == 0).then(|| PathBuf::from("/run")),
            runtime.filter(|_| uid != 0),
            Some(PathBuf::from("/dev/shm")),
        ];
        candidates
            .into_iter()
            .flatten()
            .filter(|parent| is_memory(parent) && is_open_to_us(parent))
            .collect()
    }

    /// The directory called `name` in the first of `parents` that has room for it. Where others may
    /// write, what it is called cannot be known before it is ours: nobody can take it first.
    fn among(parents: &[PathBuf], name: &str) -> Option<PathBuf> {
        parents.iter().find_map(|parent| {
            let plain = parent.join(name);
            if is_ours(&plain).unwrap_or(false) {
                return Some(plain);
            }
            if !is_shared(parent) {
                return is_free(&plain).then_some(plain);
            }
            let prefix = format!("{name}-");
            let entries = fs::read_dir(parent).ok()?;
            let own = entries.flatten().find(|entry| {
                let is_named = entry.file_name().as_bytes().starts_with(prefix.as_bytes());
                is_named && is_ours(&entry.path()).unwrap_or(false)
            });
            Some(match own {
                Some(own) => own.path(),
                None => parent.join(format!("{prefix}{:016x}", unguessable())),
            })
        })
    }

    /// Where they lie on a host without a place in memory.
    fn on_disk(instances_dir: &Path) -> PathBuf {
        instances_dir.with_extension("secrets")
    }

    /// The directory of one instance's secrets.
    pub(super) fn of(&self, instance: &InstanceId) -> PathBuf {
        self.dir().join(instance.to_string())
    }

    /// The directory of all.
    pub(super) fn dir(&self) -> &Path {
        let (Self::Memory(dir) | Self::Disk(dir)) = self;
        dir
    }

    /// Writes the secrets of `spec` for `owner` (user and group id; `None` = ours) and answers
    /// their directory; `None` when there are none.
    pub(super) fn write(
        &self,
        instance: &InstanceId,
        spec: &ComponentSpec,
        owner: Option<(u32, u32)>,
        values: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Option<PathBuf>, Refusal> {
        if spec.secrets.is_empty() {
            return Ok(None);
        }
        if matches!(self, Self::Disk(_)) && owner.is_some() {
            let user = spec.user.clone().unwrap_or_default();
            return Err(Refusal::NoSecretsPlace(user));
        }
        let dir = self.of(instance);
        let failed = |error| Refusal::StateDir {
            path: dir.clone(),
            error,
        };
        discard(&dir).map_err(failed)?;
        // Others may pass through to what is theirs, and list nothing.
        make(&dir, 0o711).map_err(failed)?;
        for secret in &spec.secrets {
            // A value was read for each of them.
            let value = values.get(&secret.name).map_or(&[][..], Vec::as_slice);
            write_one(&dir, secret, value, owner)?;
        }
        if let Some((uid, gid)) = owner {
            chown(&dir, Some(uid), Some(gid)).map_err(failed)?;
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o500)).map_err(failed)?;
        Ok(Some(dir))
    }

    /// Removes the place when nothing is left in it. It is used no more: where others may write they
    /// know its name by now, and could take it.
    pub(super) fn leave(&self) {
        leave(self.dir());
    }

    /// Removes the secrets of an instance, if it had any.
    pub(super) fn forget(&self, instance: &InstanceId) -> io::Result<()> {
        discard(&self.of(instance))
    }
}

/// Makes the directory of one instance, and the one that it lies in with `mode`, unless that is
/// there and ours.
///
/// # Errors
/// When it cannot be made; `PermissionDenied` when the one that it lies in is somebody else's.
pub(in crate::driver) fn make(dir: &Path, mode: u32) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    loop {
        match DirBuilder::new().mode(mode).create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let made = match is_ours(parent) {
            Ok(true) => fs::set_permissions(parent, Permissions::from_mode(mode))
                .and_then(|()| DirBuilder::new().mode(0o700).create(dir)),
            Ok(false) => Err(io::ErrorKind::PermissionDenied.into()),
            Err(error) => Err(error),
        };
        match made {
            // The last one that had secrets left at this moment, and took the directory along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => return answer,
        }
    }
}

/// Removes the directory of all when nothing is left in it.
pub(in crate::driver) fn leave(dir: &Path) {
    match fs::remove_dir(dir) {
        Ok(()) => {}
        // Others still have theirs there, or the last one of them just left.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
            ) => {}
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "the place of secrets stays");
        }
    }
}

/// Removes the directory of one instance, if it has one, and with the last the one that they lie in.
///
/// # Errors
/// When it is there and stays.
pub(in crate::driver) fn discard(dir: &Path) -> io::Result<()> {
    let removed = fs::set_permissions(dir, Permissions::from_mode(0o700))
        .and_then(|()| fs::remove_dir_all(dir));
    match removed {
        Ok(()) => {
            // Where others may write it stays for as long as it is used: they know its name by now, and
            // could take it.
            let all = dir.parent().unwrap_or(dir);
            if !all.parent().is_some_and(is_shared) {
                leave(all);
            }
            Ok(())
        }
        // There were none, or somebody else has just removed them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_one(
    dir: &Path,
    secret: &SecretSpec,
    value: &[u8],
    owner: Option<(u32, u32)>,
) -> Result<(), Refusal> {
    let path = dir.join(&secret.name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(value)?;
        if let Some((uid, gid)) = owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        file.set_permissions(Permissions::from_mode(secret.mode & 0o777))
    };
    write().map_err(|error| Refusal::SecretWrite {
        name: secret.name.clone(),
        path,
        error,
    })
}

fn is_memory(dir: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs(dir).is_ok_and(|fs| fs.f_type == TMPFS)
}

/// Whether we may make something in `dir`.
fn is_open_to_us(dir: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether others may make something in `dir`, or whether that cannot be told.
fn is_shared(dir: &Path) -> bool {
    !fs::metadata(dir).is_ok_and(|it| it.mode() & 0o022 == 0)
}

/// A number that nobody else can tell.
fn unguessable() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Its keys are the kernel's random bytes.
    RandomState::new().hash_one(std::process::id())
}

/// Whether nothing is at `dir`, not even a link that leads nowhere.
fn is_free(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Whether no one else made `dir`: others may write beside it.
fn is_ours(dir: &Path) -> io::Result<bool> {
    let uid = rustix::process::geteuid().as_raw();
    let meta = fs::symlink_metadata(dir)?;
    Ok(meta.is_dir() && meta.uid() == uid && meta.permissions().mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_others_may_write_nobody_can_take_the_place_first() {
        let shared = tempfile::tempdir().unwrap();
        fs::set_permissions(shared.path(), Permissions::from_mode(0o1777)).unwrap();
        let parents = [shared.path().to_owned()];
        // What somebody else could have made, as far as we can tell: others may write to it.
        for taken in ["flowctl-1-a", "flowctl-1-a-0000000000000000"] {
            let taken = shared.path().join(taken);
            fs::create_dir(&taken).unwrap();
            fs::set_permissions(&taken, Permissions::from_mode(0o777)).unwrap();
        }
        let first = Place::among(&parents, "flowctl-1-a").unwrap();
        let second = Place::among(&parents, "flowctl-1-a").unwrap();
        assert_ne!(first, second, "it is not known before it is made");
        make(&first.join("instance"), 0o711).unwrap();
        assert_eq!(Place::among(&parents, "flowctl-1-a"), Some(first.clone()));
        discard(&first.join("instance")).unwrap();
        assert!(first.exists(), "its name is known now, so it stays ours");
    }

    #[test]
    fn nothing_is_made_in_a_place_that_others_could_have_made() {
        let shared = tempfile::tempdir().unwrap();
        let [taken, ours, link] = ["taken", "ours", "link"].map(|name| shared.path().join(name));
        for (place, mode) in [(&taken, 0o777), (&ours, 0o700)] {
            fs::create_dir(place).unwrap();
            fs::set_permissions(place, Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        for place in [taken, link] {
            let error = make(&place.join("instance"), 0o711).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        }
        make(&ours.join("instance"), 0o711).unwrap();
    }

    #[test]
    fn a_place_of_our_own_is_known_by_its_name_and_goes_with_the_last() {
        let own = tempfile::tempdir().unwrap();
        let parents = [own.path().to_owned()];
        let dir = own.path().join("flowctl-1-a");
        assert_eq!(Place::among(&parents, "flowctl-1-a"), Some(dir.clone()));
        make(&dir.join("instance"), 0o711).unwrap();
        discard(&dir.join("instance")).unwrap();
        assert!(!dir.exists());
    }
}
