//! Secrets of containers: files of this host that only their component sees, mounted read-only.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::failure::Refusal;
use crate::driver::process::{discard_secrets_dir, make_secrets_dir};
use crate::model::{ComponentSpec, InstanceId};

/// Who reads the secrets inside the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// This user and group.
    Known(u32, u32),
    /// A user of the image, whose number this host cannot tell.
    Named,
}

impl Reader {
    /// Whom `user`, of the component or of its image, means; nobody named is root.
    pub(super) fn of(user: Option<&str>) -> Self {
        let Some(user) = user.filter(|user| !user.is_empty()) else {
            return Self::Known(0, 0);
        };
        let (user, group) = user.split_once(':').unwrap_or((user, "0"));
        let user = if user == "root" { "0" } else { user };
        match (user.parse(), group.parse()) {
            (Ok(user), Ok(group)) => Self::Known(user, group),
            (Ok(user), Err(_)) => Self::Known(user, user),
            (Err(_), _) => Self::Named,
        }
    }
}

/// The folder of one instance's secrets, in `parent`.
pub(super) fn dir(parent: &Path, instance: &InstanceId) -> PathBuf {
    parent.join(instance.to_string())
}

/// Writes the secrets of `spec` and answers their folder; `None` when it has none.
///
/// The parent lets nobody but us pass, so the files may be open to the user inside, whom a mount
/// does not lead through it.
pub(super) fn write(
    parent: &Path,
    instance: &InstanceId,
    spec: &ComponentSpec,
    reader: Reader,
    values: &BTreeMap<String, Vec<u8>>,
) -> Result<Option<PathBuf>, Refusal> {
    if spec.secrets.is_empty() {
        return Ok(None);
    }
    let dir = dir(parent, instance);
    let failed = |error| Refusal::SecretWrite {
        path: dir.clone(),
        error,
    };
    forget(parent, instance).map_err(failed)?;
    make_secrets_dir(&dir, 0o700).map_err(failed)?;
    for secret in &spec.secrets {
        // A value was read for each of them.
        let value = values.get(&secret.name).map_or(&[][..], Vec::as_slice);
        let path = dir.join(&secret.name);
        write_one(&path, value, secret.mode & 0o777, reader)
            .map_err(|error| Refusal::SecretWrite { path, error })?;
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o555)).map_err(failed)?;
    Ok(Some(dir))
}

fn write_one(path: &Path, value: &[u8], mode: u32, reader: Reader) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(value)?;
    let mode = match reader {
        Reader::Known(user, group) => match chown(path, Some(user), Some(group)) {
            Ok(()) => mode,
            // Only root may give files away; the parent keeps others of this host out.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => mode | 0o444,
            Err(error) => return Err(error),
        },
        // Readable for whoever it is: the mount is in this container alone.
        Reader::Named => mode | 0o444,
    };
    file.set_permissions(Permissions::from_mode(mode))
}

/// Removes the secrets of an instance, if it had any.
pub(super) fn forget(parent: &Path, instance: &InstanceId) -> io::Result<()> {
    discard_secrets_dir(&dir(parent, instance))
}
