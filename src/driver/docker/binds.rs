//! Files and folders of this host that containers are given: what was judged is what is mounted.
//!
//! An engine is told a path and follows it by itself, later, as root. Whoever may rename something
//! on that path, or a component that may write there, could make it lead elsewhere after it was
//! judged. So a path is opened once, what it leads to is judged, and that is mounted where nobody
//! but root gets to: there the engine finds it. It stays there until the container has it.
//!
//! A daemon that may not mount, or whose engine does not see what it mounts, gives the engine the
//! path without its links, provided that only root and the daemon's own user could change it.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    unmount,
};

use super::failure::Refusal;
use super::power::Rules;
use crate::model::{Volume, VolumeSource};

/// Where mounts are made, each daemon's in a folder of its own.
const BASE: &str = "/run/flowctl/mounts";

/// Where the engine finds what the volumes of one container bind, in their order.
#[derive(Debug, Default)]
pub(super) struct Binds {
    sources: Vec<Option<PathBuf>>,
    /// Where they are mounted for the engine to find, until this is dropped.
    _place: Option<Place>,
}

impl Binds {
    /// Where the engine finds what the volume of this number binds; `None` = where it is written.
    pub(super) fn source(&self, volume: usize) -> Option<&Path> {
        self.sources.get(volume)?.as_deref()
    }
}

/// A folder of mounts. Dropping it takes all of them away.
#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.0) {
            tracing::warn!(place = %self.0.display(), %error, "a mount for the engine stays");
        }
    }
}

/// What a path led to when it was opened.
struct Held {
    what: OwnedFd,
    real: PathBuf,
    found: Metadata,
}

impl Held {
    fn open(path: &Path) -> io::Result<Self> {
        let what = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let link = PathBuf::from(format!("/proc/self/fd/{}", what.as_raw_fd()));
        let real = fs::read_link(&link)?;
        let found = fs::metadata(&link)?;
        Ok(Self { what, real, found })
    }

    /// Whether `path` is this very file or folder.
    fn is_at(&self, path: &Path) -> bool {
        let there = fs::symlink_metadata(path);
        there.is_ok_and(|there| same(&there, &self.found))
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Judges what `volumes` bind. Blocks for the files.
pub(super) fn look(volumes: &[Volume], rules: &Rules) -> Result<(), Refusal> {
    judged(volumes, rules).map(drop)
}

/// Holds and judges what `volumes` bind. In `place`, where there is one, the engine finds it.
/// Blocks for the files.
pub(super) fn hold(
    volumes: &[Volume],
    rules: &Rules,
    place: Option<PathBuf>,
) -> Result<Binds, Refusal> {
    let held = judged(volumes, rules)?;
    if held.iter().all(Option::is_none) {
        return Ok(Binds::default());
    }
    if let Some(place) = place {
        match pin(place, &held) {
            Ok(binds) => return Ok(binds),
            // As root of a container may not. Then it is as for everybody else.
            Err(error) => tracing::debug!(%error, "nothing can be mounted for the engine"),
        }
    }
    let mut sources = Vec::new();
    for one in held {
        sources.push(match one {
            Some((path, one)) => {
                unchanging(path, &one)?;
                Some(one.real)
            }
            None => None,
        });
    }
    let _place = None;
    Ok(Binds { sources, _place })
}

/// What each of `volumes` binds, held open and judged.
fn judged<'a>(
    volumes: &'a [Volume],
    rules: &Rules,
) -> Result<Vec<Option<(&'a PathBuf, Held)>>, Refusal> {
    let mut held = Vec::new();
    for volume in volumes {
        held.push(match &volume.source {
            VolumeSource::Bind(path) => {
                let one = Held::open(path).map_err(|error| {
                    let path = path.clone();
                    if error.kind() == io::ErrorKind::NotFound {
                        Refusal::MountMissing(path)
                    } else {
                        Refusal::MountUnreadable { path, error }
                    }
                })?;
                rules.judge(volume, path, &one.real)?;
                Some((path, one))
            }
            VolumeSource::Named(_) | VolumeSource::Tmpfs => None,
        });
    }
    Ok(held)
}

/// Mounts what is held below `place`.
fn pin(place: PathBuf, held: &[Option<(&PathBuf, Held)>]) -> io::Result<Binds> {
    make_private(Path::new(BASE))?;
    // What an earlier daemon left there.
    clear(&place)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&place)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(
        "flowctl",
        &place,
        "tmpfs",
        flags,
        Some(c"mode=0700,size=64k"),
    )?;
    let place = Place(place);
    // What happens here happens nowhere else, and the other way round: without this, to unmount a
    // copy of a shared folder would unmount what is mounted in the folder itself.
    mount_change(&place.0, MountPropagationFlags::PRIVATE)?;
    let mut sources = Vec::new();
    for (number, held) in held.iter().enumerate() {
        let Some((_, held)) = held else {
            sources.push(None);
            continue;
        };
        let at = place.0.join(number.to_string());
        if held.found.is_dir() {
            DirBuilder::new().mode(0o700).create(&at)?;
        } else {
            File::create_new(&at)?;
        }
        mount_bind_recursive(format!("/proc/self/fd/{}", held.what.as_raw_fd()), &at)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(&at, private)?;
        if !held.is_at(&at) {
            return Err(io::Error::other("something else is mounted there"));
        }
        sources.push(Some(at));
    }
    let _place = Some(place);
    Ok(Binds { sources, _place })
}

/// Makes sure that nobody but us gets into `base`, or could put another folder in its place.
fn make_private(base: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(base)?;
    // Somebody may have made it for us.
    fs::set_permissions(base, Permissions::from_mode(0o700))?;
    for (folder, others) in base.ancestors().zip([0o077, 0o022]) {
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != 0 || found.mode() & others != 0 {
            let why = format!("{} is not root's alone", folder.display());
            return Err(io::Error::other(why));
        }
    }
    Ok(())
}

/// Takes a folder of mounts away, if it is there.
fn clear(place: &Path) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    // It fails where nothing is mounted any more. One that was cut off half way may share what is
    // mounted in it with what it is a copy of.
    while mount_change(place, private).is_ok() {
        unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match fs::remove_dir(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where a daemon with this mark mounts; nowhere where it is not root.
pub(super) fn folder_of(owner: &str) -> Option<PathBuf> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    owner.hash(&mut hasher);
    let name = format!("{:016x}", hasher.finish());
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| Path::new(BASE).join(name))
}

/// Takes away what an earlier daemon left mounted in `folder`.
pub(super) fn sweep(folder: &Path) {
    let left = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in left {
        if let Err(error) = clear(&entry.path()) {
            tracing::warn!(place = %entry.path().display(), %error, "a mount for the engine stays");
        }
    }
}

/// Leaves no empty folder behind. One that is in use stays, and one that was never made is no matter.
pub(super) fn leave(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder) {
        tracing::debug!(place = %folder.display(), %error, "a folder of mounts was not removed");
    }
}

/// Whether the way to what is held can be changed by nobody but root and the daemon's own user.
fn unchanging(written: &Path, held: &Held) -> Result<(), Refusal> {
    let us = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let loose = |by: &Path| Refusal::MountLoose {
        path: written.to_owned(),
        by: by.to_owned(),
    };
    // It was renamed meanwhile.
    if !held.is_at(&held.real) {
        return Err(loose(&held.real));
    }
    let mut below = held.found.uid();
    for folder in held.real.ancestors().skip(1) {
        let found = fs::symlink_metadata(folder).map_err(|_| loose(folder))?;
        if !found.is_dir() || !is_ours(&found, below, us) {
            return Err(loose(folder));
        }
        below = found.uid();
    }
    Ok(())
}

/// Whether only root and `us` can rename what `below` owns in a folder.
fn is_ours(folder: &Metadata, below: u32, (user, group): (u32, u32)) -> bool {
    let trusted = |uid| uid == 0 || uid == user;
    let writers_trusted = folder.mode() & 0o002 == 0
        && (folder.mode() & 0o020 == 0 || folder.gid() == 0 || folder.gid() == group);
    // In a sticky folder everybody renames only what is his own.
    let is_sticky = folder.mode() & 0o1000 != 0 && trusted(below);
    trusted(folder.uid()) && (writers_trusted || is_sticky)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;
    use crate::driver::docker::endpoint::Endpoint;
    use crate::driver::docker::power::Ground;

    fn rules(file: &Path) -> Rules {
        Rules::on(&Ground {
            allowed: &[],
            endpoint: &Endpoint::Tcp("10.0.0.1:2375".to_owned()),
            data: None,
            state_dir: &file.with_file_name("state"),
            home: None,
            file: Some(file),
        })
    }

    fn bind(path: PathBuf) -> Volume {
        Volume {
            source: VolumeSource::Bind(path),
            target: "/there".to_owned(),
            read_only: false,
        }
    }

    /// A place to mount; `None`, said loudly, where that is not allowed.
    fn a_place(name: &str) -> Option<PathBuf> {
        let folder = folder_of(&format!("{name} {}", std::process::id()))?;
        let probe = pin(folder.join("probe"), &[]);
        if let Err(error) = &probe {
            eprintln!("SKIPPED: nothing can be mounted here: {error}");
        }
        probe.ok()?;
        Some(folder)
    }

    #[test]
    fn what_was_judged_is_what_the_engine_finds_whatever_its_path_leads_to_by_then() {
        let Some(folder) = a_place("swapped") else {
            return;
        };
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("data/inner")).unwrap();
        fs::write(at("data/inner/mine"), "mine").unwrap();
        fs::write(at("file"), "a file").unwrap();
        let volumes = [bind(at("data/inner")), bind(at("file"))];
        let binds = hold(&volumes, &rules(&at("p.yaml")), Some(folder.join("one"))).unwrap();
        // A folder on the way, and the file itself, are put elsewhere.
        fs::rename(at("data"), at("away")).unwrap();
        fs::create_dir_all(at("secret/inner")).unwrap();
        symlink(at("secret"), at("data")).unwrap();
        fs::remove_file(at("file")).unwrap();
        symlink("/etc/shadow", at("file")).unwrap();
        let found = binds.source(0).unwrap().join("mine");
        assert_eq!(fs::read_to_string(found).unwrap(), "mine");
        assert_eq!(
            fs::read_to_string(binds.source(1).unwrap()).unwrap(),
            "a file"
        );
        drop(binds);
        assert!(!folder.join("one").exists());
        assert_eq!(fs::read_to_string(at("away/inner/mine")).unwrap(), "mine");
        fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn what_a_killed_daemon_left_mounted_goes_and_takes_nothing_along() {
        let Some(folder) = a_place("left") else {
            return;
        };
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir_all(data.join("deep")).unwrap();
        // Something is mounted in what is given.
        let (plain, nothing) = (MountFlags::empty(), None::<&std::ffi::CStr>);
        mount("none", data.join("deep"), "tmpfs", plain, nothing).unwrap();
        fs::write(data.join("deep/kept"), "kept").unwrap();
        let volumes = [bind(data.clone())];
        let rules = rules(&root.path().join("p.yaml"));
        let binds = hold(&volumes, &rules, Some(folder.join("one"))).unwrap();
        assert!(binds.source(0).unwrap().join("deep/kept").exists());
        std::mem::forget(binds);
        sweep(&folder);
        assert!(!folder.join("one").exists());
        assert_eq!(fs::read_to_string(data.join("deep/kept")).unwrap(), "kept");
        unmount(data.join("deep"), UnmountFlags::empty()).unwrap();
        fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn a_link_is_judged_by_what_it_leads_to_wherever_it_is_on_the_path() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        symlink("/etc", at("last")).unwrap();
        symlink("/", at("middle")).unwrap();
        for path in [
            at("last"),
            at("middle/etc"),
            at("middle/proc/1"),
            at("last/../root"),
        ] {
            let held = hold(&[bind(path.clone())], &rules(&at("p.yaml")), None);
            assert!(
                matches!(held, Err(Refusal::Privileged { .. })),
                "{path:?}: {held:?}"
            );
        }
        let missing = hold(&[bind(at("none"))], &rules(&at("p.yaml")), None);
        assert!(
            matches!(missing, Err(Refusal::MountMissing(_))),
            "{missing:?}"
        );
    }

    #[test]
    fn without_a_mount_a_path_that_others_can_change_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("theirs/data");
        fs::create_dir_all(&data).unwrap();
        let rules = rules(&root.path().join("p.yaml"));
        let held = hold(&[bind(data.clone())], &rules, None).unwrap();
        assert_eq!(
            held.source(0),
            Some(fs::canonicalize(&data).unwrap().as_path())
        );
        let theirs = data.parent().unwrap();
        let mode = |mode| fs::set_permissions(theirs, fs::Permissions::from_mode(mode)).unwrap();
        let refused = || {
            let held = hold(&[bind(data.clone())], &rules, None);
            matches!(held, Err(Refusal::MountLoose { .. }))
        };
        mode(0o777);
        assert!(refused());
        mode(0o1777);
        assert!(!refused(), "only its owner can rename it there");
        mode(0o755);
        if rustix::process::geteuid().is_root() {
            chown(theirs, Some(12_345), None).unwrap();
            assert!(refused());
        }
    }
}
