//! Files that the daemon keeps for a component that runs as another user, while that runs.
//!
//! The state directory lets no other user through. So they lie in memory, in a folder of the
//! instance that others may pass and only we may change; each belongs to its reader.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::{ComponentSpec, InstanceId, StartFailure};

use super::secrets::{self, Place, discard, make};
use super::{context, launch};

/// Whom a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    uid: u32,
    gid: u32,
}

impl Reader {
    /// Whom a component runs as, where that is not the daemon's own user.
    ///
    /// # Errors
    /// When there is no such user, or it may not be become: then it is not started either.
    pub fn of(spec: &ComponentSpec) -> Result<Option<Self>, StartFailure> {
        let account = context::account_of(spec)?;
        let own = rustix::process::geteuid().as_raw();
        let other = account.filter(|who| who.uid != own);
        Ok(other.map(|who| Self {
            uid: who.uid,
            gid: who.gid,
        }))
    }
}

/// Where one kind of such files lies, a file per instance. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handed {
    dir: PathBuf,
    file: &'static str,
}

impl Handed {
    /// The place for files called `file` of what has `dir`; `None` on a host without a file system
    /// in memory, where no other user could be let through.
    pub fn find(dir: &Path, file: &'static str) -> Option<Self> {
        match Place::find(dir) {
            Place::Memory(dir) => Some(Self { dir, file }),
            Place::Disk(_) => None,
        }
    }

    /// The file of an instance.
    pub fn path_of(&self, instance: &InstanceId) -> PathBuf {
        self.dir.join(instance.to_string()).join(self.file)
    }

    /// Writes the file of an instance, whole or not at all, for `reader`.
    ///
    /// # Errors
    /// When it cannot be written, or given away.
    pub fn write(&self, instance: &InstanceId, text: &str, reader: Reader) -> io::Result<PathBuf> {
        let path = self.path_of(instance);
        let dir = self.dir.join(instance.to_string());
        if !dir.exists() {
            make(&dir, 0o711)?;
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o711))?;
        let draft = path.with_extension("new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        chown(&draft, Some(reader.uid), Some(reader.gid))?;
        fs::rename(draft, &path)?;
        Ok(path)
    }

    /// Every instance that has a file, with its reader and when its folder was last changed.
    ///
    /// # Errors
    /// When that cannot be listed.
    pub fn all(&self) -> io::Result<Vec<(InstanceId, Option<Reader>, SystemTime)>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(instance) = launch::instance_of(&entry.file_name()) else {
                continue;
            };
            let reader = fs::metadata(entry.path().join(self.file)).ok();
            let reader = reader.map(|it| Reader {
                uid: it.uid(),
                gid: it.gid(),
            });
            all.push((instance, reader, entry.metadata()?.modified()?));
        }
        Ok(all)
    }

    /// Removes the place when nothing is left in it. It is used no more.
    pub(super) fn leave(&self) {
        secrets::leave(&self.dir);
    }

    /// Removes the file of an instance.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, instance: &InstanceId) -> io::Result<()> {
        discard(&self.dir.join(instance.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_readers_and_can_be_reached_by_nobody_else() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root gives files away");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let Some(handed) = Handed::find(&root.path().join("tokens"), "token") else {
            println!("skipped: no file system in memory here");
            return;
        };
        let instance: InstanceId = "default.p.a.0.1".parse().unwrap();
        let mut spec = crate::model::fixtures::component("a", 1, &[]);
        assert_eq!(Reader::of(&spec), Ok(None));
        spec.user = Some("4242:4343".to_owned());
        let reader = Reader::of(&spec).unwrap().unwrap();
        for text in ["first", "renewed"] {
            let path = handed.write(&instance, text, reader).unwrap();
            let read = |uid: u32, gid: u32| {
                let groups = gid.to_ne_bytes();
                let asked = || fs::read_to_string(&path).ok();
                super::super::sys::with_rights_of(uid, gid, &groups, asked).unwrap()
            };
            assert_eq!(read(4242, 4343).as_deref(), Some(text));
            assert_eq!(read(4244, 4343), None, "of its group alone");
            assert_eq!(read(65534, 65534), None);
        }
        let all = handed.all().unwrap();
        assert_eq!((&all[0].0, all[0].1), (&instance, Some(reader)));
        handed.remove(&instance).unwrap();
        assert_eq!(handed.all().unwrap(), []);
        assert!(!handed.path_of(&instance).exists());
        handed.leave();
        assert!(!handed.dir.exists(), "nothing is left of it");
    }
}
