//! Looking: from the files of instances to sightings.
//!
//! What cannot change is read once: an ended instance for good, a running one until its shim's
//! descriptor says that it ended. A look at five hundred idle instances lists one directory.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Signal, pidfd_send_signal};

use crate::driver::Scope;
use crate::model::{
    ComponentSpec, DriverKind, Exit, InstanceId, Life, Limit, ProcessIdentity, Sighting,
};

use super::address::Address;
use super::failure::Refusal;
use super::launch::instance_of;
use super::leftovers::Whose;
use super::record::{Description, End, Line, Start, State, StateFile};
use super::sentry::{Post, Sentry};
use super::wire::Orders;
use super::{Site, Stance, identity, leftovers};

/// What is known of the instances of one state directory.
#[derive(Default)]
pub(super) struct Album {
    seen: HashMap<OsString, Entry>,
}

struct Entry {
    spec: Option<Arc<ComponentSpec>>,
    sighting: Sighting,
    /// While the instance is guarded: its shim.
    guard: Option<Guard>,
}

/// A living shim.
#[derive(Clone)]
pub(super) struct Guard {
    /// Reaches it and nothing else.
    pub(super) process: Arc<OwnedFd>,
    post: Post,
}

/// What the file of one instance says.
pub(super) enum Finding {
    /// There is none.
    Absent,
    /// Its program was never started and never will be.
    Debris,
    /// Its shim lives.
    Guarded {
        /// Reaches the shim and nothing else.
        process: OwnedFd,
        /// Once the program runs.
        handle: Option<Address>,
        /// Created or running.
        life: Life,
        /// What the shim can be asked.
        orders: Orders,
    },
    /// It is over, and nothing of it is left.
    Over {
        /// If its program ever ran.
        handle: Option<Address>,
        /// How it ended.
        life: Life,
    },
    /// Its shim died before it could say that nothing is left.
    Abandoned {
        /// If its program ever ran.
        handle: Option<Address>,
        /// If the shim saw the program end.
        exit: Option<Exit>,
    },
}

/// What the file of one instance says.
///
/// # Errors
/// When it cannot be read; then nothing is known of the instance.
pub(super) fn examine(
    site: &Site,
    file: &Path,
    spec: Option<&ComponentSpec>,
) -> io::Result<Finding> {
    let about = |error: io::Error| about(file, &error);
    let Some(mut state) = State::read(file).map_err(about)? else {
        let exists = file.try_exists().map_err(about)?;
        return Ok(if exists {
            Finding::Debris
        } else {
            Finding::Absent
        });
    };
    let mut guard = None;
    if state.end.is_none()
        && !matches!(state.start, Some(Start::Failed { .. }))
        && let Some(shim) = &state.shim
    {
        guard = identity::open_guardian(shim, &site.boot).map_err(about)?;
        if guard.is_none() {
            // It may have finished its record between the read and the look.
            state = State::read(file).map_err(about)?.unwrap_or(state);
        }
    }
    let mut finding = classify(site, state, guard, spec);
    if let Finding::Over {
        life: Life::NotStarted { failure, .. },
        ..
    } = &mut finding
        && let Some(told) = file
            .file_name()
            .and_then(instance_of)
            .and_then(|it| site.failure(&it))
    {
        *failure = told;
    }
    Ok(finding)
}

/// The error, with the file that it is about.
pub(super) fn about(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

fn classify(
    site: &Site,
    state: State,
    guard: Option<OwnedFd>,
    spec: Option<&ComponentSpec>,
) -> Finding {
    let handle = match (&state.shim, &state.start) {
        (Some(shim), Some(Start::Running { child, .. })) => Some(Address {
            shim: shim.clone(),
            child: child.clone(),
        }),
        (Some(_) | None, Some(_) | None) => None,
    };
    if let Some(Start::Failed { stage, errno, at }) = state.start {
        let failure = match spec {
            Some(spec) => Refusal::of_stage(stage, errno, spec),
            None => Refusal::Guardian(io::Error::from_raw_os_error(errno)),
        };
        let life = Life::NotStarted {
            failure: failure.into(),
            at,
        };
        return Finding::Over { handle, life };
    }
    let over = |handle, life| Finding::Over { handle, life };
    let is_of_this_boot = |shim: &ProcessIdentity| shim.boot_id == site.boot.id;
    let is_earlier = state
        .shim
        .as_ref()
        .is_some_and(|shim| !is_of_this_boot(shim));
    // Whoever takes a host down asks all that runs to end. How each of them did that is nobody's
    // failure, and no job's success.
    if is_earlier && state.all_asked {
        let at = site.boot.began_at;
        return over(handle, Life::HostReboot { at });
    }
    let orders = state.orders;
    match (state.end, state.exit, state.start) {
        (Some(End::Gone { killed }), Some(exit), _) => {
            over(handle, Life::Exited(Exit { killed, ..exit }))
        }
        (Some(End::Gone { .. }), None, None) => Finding::Debris,
        (Some(End::Gone { killed }), None, Some(Start::Running { .. } | Start::Failed { .. })) => {
            // It could not record the exit, but left in good order.
            let exit = Exit {
                killed,
                ..Exit::unknown(None, site.clock.now())
            };
            over(handle, Life::Exited(exit))
        }
        (Some(End::Lost { .. }), Some(exit), _) => over(handle, Life::Exited(exit)),
        (Some(End::Lost { at }), None, _) => over(handle, Life::Lost { at }),
        (None, exit, start) => match (guard, start) {
            (Some(process), Some(Start::Running { since, .. })) => Finding::Guarded {
                process,
                handle,
                life: Life::Running { since },
                orders,
            },
            (Some(process), Some(Start::Failed { .. }) | None) => Finding::Guarded {
                process,
                handle,
                life: Life::Created,
                orders,
            },
            (None, _) if is_earlier => {
                let at = site.boot.began_at;
                match exit {
                    Some(exit) => over(handle, Life::Exited(exit)),
                    None => over(handle, Life::HostReboot { at }),
                }
            }
            (None, _) => Finding::Abandoned { handle, exit },
        },
    }
}

/// What cannot be told by its file alone.
#[derive(Default)]
struct Puzzles {
    abandoned: Vec<Abandoned>,
    /// What no shim has claimed, as far as its file goes.
    debris: Vec<Sighting>,
}

/// An instance whose shim died, until it is known whether anything is left of it.
struct Abandoned {
    name: OsString,
    sighting: Sighting,
    exit: Option<Exit>,
}

/// Looks at the instances in `scope`.
///
/// # Errors
/// When the instances directory, or one instance in it, cannot be read.
pub(super) fn look(site: &Site, sentry: &Sentry, scope: &Scope) -> io::Result<Vec<Sighting>> {
    sentry.collect();
    let names: Vec<OsString> = match scope {
        Scope::All => list(&site.config.instances_dir)?,
        Scope::Instances(wanted) => wanted.iter().map(|id| id.to_string().into()).collect(),
    };
    let mut sightings = Vec::with_capacity(names.len());
    let mut puzzles = Puzzles::default();
    {
        let mut album = site.album();
        if *scope == Scope::All {
            album.retain(&names, sentry);
        }
        for name in names {
            if let Some(entry) = album.current(&name, sentry) {
                sightings.push(entry);
            } else {
                look_closely(site, sentry, &mut album, name, &mut sightings, &mut puzzles)?;
            }
        }
    }
    // Without the lock: whoever wants to start something does not wait for the dead.
    settle_abandoned(site, puzzles.abandoned, &mut sightings)?;
    settle_debris(site, puzzles.debris, &mut sightings)?;
    Ok(sightings)
}

/// Names in the instances directory; none when nothing was ever started.
fn list(dir: &Path) -> io::Result<Vec<OsString>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

impl Album {
    /// What is known for sure without looking again.
    fn current(&self, name: &OsStr, sentry: &Sentry) -> Option<Sighting> {
        let entry = self.seen.get(name)?;
        if let Some(guard) = &entry.guard {
            let settled = matches!(entry.sighting.life, Life::Running { .. });
            if !settled || !sentry.is_alive(guard.post) {
                return None;
            }
            // A shim that someone stopped would miss the end of its program. To one that runs
            // this does nothing, not even wake it.
            if let Err(error) = pidfd_send_signal(&guard.process, Signal::CONT) {
                tracing::debug!(instance = %entry.sighting.instance, %error, "shim is ending");
            }
        }
        Some(entry.sighting.clone())
    }

    /// Drops what is no longer there.
    fn retain(&mut self, names: &[OsString], sentry: &Sentry) {
        if self.seen.len() <= names.len() && names.iter().all(|name| self.seen.contains_key(name)) {
            return;
        }
        let names: std::collections::HashSet<&OsString> = names.iter().collect();
        self.seen.retain(|name, entry| {
            let stays = names.contains(name);
            if !stays && let Some(guard) = &entry.guard {
                sentry.dismiss(guard.post);
            }
            stays
        });
    }

    /// What the instance was started from, if that was read before: it cannot change.
    fn spec_of(&self, name: &OsStr) -> Option<Arc<ComponentSpec>> {
        self.seen.get(name)?.spec.clone()
    }

    /// The shim of one that runs, and whether it has limits of its own.
    pub(super) fn guardian_of(&self, name: &OsStr) -> Option<(&ProcessIdentity, bool)> {
        let entry = self.seen.get(name)?;
        let is_limited = entry.spec.as_ref().is_some_and(|spec| {
            let mut limits = Limit::of(&spec.resources);
            limits.next().is_some()
        });
        Some((entry.sighting.facts.processes.first()?, is_limited))
    }

    /// Drops one instance.
    pub(super) fn forget(&mut self, name: &OsStr, sentry: &Sentry) {
        if let Some(guard) = self.seen.remove(name).and_then(|entry| entry.guard) {
            sentry.dismiss(guard.post);
        }
    }

    /// Keeps what was found, and watches the shim if there is one.
    pub(super) fn keep(
        &mut self,
        spec: Option<Arc<ComponentSpec>>,
        sighting: Sighting,
        process: Option<OwnedFd>,
        sentry: &Sentry,
    ) -> io::Result<()> {
        let name: OsString = sighting.instance.to_string().into();
        self.forget(&name, sentry);
        let guard = match process {
            None => None,
            Some(process) => {
                let process = Arc::new(process);
                let post = sentry.watch(sighting.instance.clone(), process.clone())?;
                Some(Guard { process, post })
            }
        };
        let entry = Entry {
            spec,
            sighting,
            guard,
        };
        self.seen.insert(name, entry);
        Ok(())
    }
}

fn look_closely(
    site: &Site,
    sentry: &Sentry,
    album: &mut Album,
    name: OsString,
    sightings: &mut Vec<Sighting>,
    puzzles: &mut Puzzles,
) -> io::Result<()> {
    let Some(instance) = instance_of(&name) else {
        return Ok(());
    };
    let file = site.file_of(&instance);
    let starting = site.starting(&instance);
    let described = match starting.clone().or_else(|| album.spec_of(&name)) {
        Some(spec) => Some(spec),
        None => Description::read(&file)
            .map_err(|error| about(&file, &error))?
            .map(|description| description.spec),
    };
    let sighting = |handle, life| sighting_of(&instance, described.as_deref(), handle, life);
    match examine(site, &file, described.as_deref())? {
        Finding::Absent | Finding::Debris if starting.is_some() => {
            sightings.push(sighting(None, Life::Created));
        }
        // Why it did not start is just being found out.
        Finding::Over {
            life: Life::NotStarted { .. },
            ..
        } if starting.is_some() => sightings.push(sighting(None, Life::Created)),
        Finding::Absent => album.forget(&name, sentry),
        Finding::Debris => {
            album.forget(&name, sentry);
            puzzles.debris.push(sighting(None, Life::Created));
        }
        Finding::Guarded {
            process,
            handle,
            life,
            ..
        } => {
            let sighting = sighting(handle, life);
            album.keep(described, sighting.clone(), Some(process), sentry)?;
            sightings.push(sighting);
        }
        Finding::Over { handle, life } => {
            let sighting = sighting(handle, life);
            album.keep(described, sighting.clone(), None, sentry)?;
            sightings.push(sighting);
        }
        Finding::Abandoned { handle, exit } => {
            album.forget(&name, sentry);
            puzzles.abandoned.push(Abandoned {
                sighting: sighting(handle, Life::Created),
                name,
                exit,
            });
        }
    }
    Ok(())
}

/// Ends what is left of instances whose shims died, or, where we only look, says what is left.
fn settle_abandoned(
    site: &Site,
    abandoned: Vec<Abandoned>,
    sightings: &mut Vec<Sighting>,
) -> io::Result<()> {
    if abandoned.is_empty() {
        return Ok(());
    }
    let file_of = |name: &OsString| site.config.instances_dir.join(name);
    let files: Vec<PathBuf> = abandoned.iter().map(|lost| file_of(&lost.name)).collect();
    let left = match site.stance {
        Stance::Owner => leftovers::end(site, &files, Whose::Orphans)?,
        Stance::Onlooker => leftovers::find(site, &files, Whose::Orphans)?,
    };
    for Abandoned {
        name,
        mut sighting,
        exit,
    } in abandoned
    {
        let file = file_of(&name);
        let at = site.clock.now();
        sighting.life = if left.iter().any(|process| process.may_be_of(&file)) {
            // Alive until nothing is left, so that no second one is started beside it.
            Life::Running { since: at }
        } else {
            if site.stance == Stance::Owner {
                note_lost(&file, at.as_millis());
            }
            exit.map_or(Life::Lost { at }, Life::Exited)
        };
        sightings.push(sighting);
    }
    Ok(())
}

/// Removes what was never started. Where something runs all the same, the file was damaged: that is
/// shown as running, so that no second one is started beside it.
fn settle_debris(
    site: &Site,
    debris: Vec<Sighting>,
    sightings: &mut Vec<Sighting>,
) -> io::Result<()> {
    if debris.is_empty() {
        return Ok(());
    }
    let file_of = |sighting: &Sighting| site.file_of(&sighting.instance);
    let files: Vec<PathBuf> = debris.iter().map(file_of).collect();
    let left = leftovers::find(site, &files, Whose::Theirs)?;
    for mut sighting in debris {
        let file = file_of(&sighting);
        if left.iter().any(|process| process.may_be_of(&file)) {
            let since = site.clock.now();
            sighting.life = Life::Running { since };
            sightings.push(sighting);
        } else if site.starting(&sighting.instance).is_none() {
            site.clear_debris(&sighting.instance)?;
        }
    }
    Ok(())
}

/// Notes the loss for later looks. A disk that refuses must not make the others invisible: the next
/// look finds this instance abandoned again, and notes it then.
fn note_lost(file: &Path, at: i64) {
    let noted = StateFile::open(file).and_then(|state| state.write(&Line::Lost { at }));
    if let Err(error) = noted {
        tracing::debug!(file = %file.display(), %error, "a lost instance cannot be noted");
    }
}

/// A sighting of `instance`; one whose description is damaged is seen with what is safe to assume.
pub(super) fn sighting_of(
    instance: &InstanceId,
    spec: Option<&ComponentSpec>,
    handle: Option<Address>,
    life: Life,
) -> Sighting {
    Sighting {
        handle: handle.as_ref().map(Address::handle),
        facts: handle.as_ref().map(Address::facts).unwrap_or_default(),
        ..Sighting::of(instance.clone(), DriverKind::Process, spec, life)
    }
}
