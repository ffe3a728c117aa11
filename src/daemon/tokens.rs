//! The tokens of instances: given as they start, renewed in files while they live.

use std::collections::HashMap;
use std::fs::{self, DirEntry, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::ControlError;
use super::control::Token;
use crate::clock::Clock;
use crate::control_plane::{Bearer, Keyring, Refreshed};
use crate::driver::docker;
use crate::driver::process::{Handed, Reader};
use crate::model::{ComponentSpec, DriverKind, InstanceId, PipelineKey, ReplicaKey, Snapshot};
use crate::reconciler::ReconcilerHandle;
use crate::store;

/// The folder of the state directory that has a token file for each replica.
pub(super) const FOLDER: &str = "tokens";
/// How often token files are looked through.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// How often it is looked whether somebody rotated the keys. By the first look it is known what
/// runs.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A token file younger than this may belong to an instance that is only just being started.
const YOUNG: Duration = Duration::from_secs(60);

/// What gives out tokens. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tokens {
    keys: Arc<Keyring>,
    state_dir: PathBuf,
    folder: PathBuf,
    /// Held while a file of processes is written: an instance that starts and a renewal for the one
    /// before it would mix up their tokens.
    writing: Arc<Mutex<()>>,
    /// Where the files of processes lie that run as another user, who cannot enter `folder`.
    handed: Option<Handed>,
    /// Whether all containers that have a token are known.
    containers: Containers,
}

/// Whether all containers that have a token are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Containers {
    /// One that is not shown is gone.
    AllKnown,
    /// The engine was silent when the store had been lost: any may live, and keeps its folder.
    SomeUnknown,
}

/// The place of token files of processes that run as another user.
pub(super) fn handed(state_dir: &Path) -> Option<Handed> {
    Handed::find(&state_dir.join(FOLDER), "token")
}

impl Tokens {
    /// The keys and the folder of a state directory; made when they do not exist. `handed` is where
    /// the driver of processes removes files.
    pub fn open(
        state_dir: &Path,
        handed: Option<Handed>,
        containers: Containers,
    ) -> Result<Self, ControlError> {
        let folder = state_dir.join(FOLDER);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.map_err(|source| ControlError::Io {
            doing: "make the folder of token files",
            path: folder.clone(),
            source,
        })?;
        let keys = Arc::new(Keyring::open(state_dir)?);
        Ok(Self {
            keys,
            state_dir: state_dir.to_owned(),
            handed,
            containers,
            folder,
            writing: Arc::default(),
        })
    }

    /// What tokens are signed with.
    pub fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys)
    }

    /// A token for `instance` of `spec`, and the file where its renewals are found.
    pub fn give(
        &self,
        instance: &InstanceId,
        spec: &ComponentSpec,
        clock: &Clock,
        which: Token,
    ) -> (Option<String>, Option<String>) {
        let token = self.keys.issue(instance, clock.now());
        let file = match (spec.driver(), which) {
            (DriverKind::Process, which) => match Reader::of(spec) {
                Ok(Some(reader)) => self.hand_over(instance, &token, reader, which),
                Ok(None) if which == Token::New => self.write(instance, &token),
                // One that cannot become its user is not started, and then says why.
                Ok(None) | Err(_) => self.path_of(instance).to_str().map(str::to_owned),
            },
            // It is found where the driver mounts its folder.
            (DriverKind::Docker, Token::New) => self.write_for_container(instance, &token),
            (DriverKind::Docker, Token::Present) => Some(docker::TOKEN_FILE.to_owned()),
            // Those do not see our files.
            (DriverKind::Nomad | DriverKind::Kubernetes, _) => None,
        };
        (Some(token), file)
    }

    /// One file for all instances of a replica, which never live at one time: a restart costs the
    /// disk no inode.
    fn path_of(&self, instance: &InstanceId) -> PathBuf {
        let InstanceId {
            pipeline: PipelineKey { namespace, name },
            replica: ReplicaKey { component, replica },
            ..
        } = instance;
        let file = format!("{namespace}.{name}.{component}.{replica}");
        self.folder.join(file)
    }

    fn write(&self, instance: &InstanceId, token: &str) -> Option<String> {
        let path = self.path_of(instance);
        let _writing = self.writing();
        match write_new(&path, token) {
            Ok(()) => path.to_str().map(str::to_owned),
            Err(error) => {
                tracing::warn!(%instance, %error, "its token file could not be written");
                None
            }
        }
    }

    /// The file of a process that runs as `reader`.
    fn hand_over(
        &self,
        instance: &InstanceId,
        token: &str,
        reader: Reader,
        which: Token,
    ) -> Option<String> {
        // On a host without a place for it, its variable has to do.
        let handed = self.handed.as_ref()?;
        let path = match which {
            Token::Present => Ok(handed.path_of(instance)),
            Token::New => handed.write(instance, token, reader),
        };
        match path {
            Ok(path) => path.to_str().map(str::to_owned),
            Err(error) => {
                tracing::warn!(%instance, %error, "its token file could not be written");
                None
            }
        }
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_container(&self, instance: &InstanceId, token: &str) -> Option<String> {
        let dir = docker::token_dir(&self.state_dir, instance);
        match write_readable(&dir, token) {
            Ok(()) => Some(docker::TOKEN_FILE.to_owned()),
            Err(error) => {
                tracing::warn!(%instance, %error, "its token file could not be written");
                None
            }
        }
    }

    /// Writes tokens anew at half of their life and once the keys were rotated, and removes those
    /// of instances that ended.
    pub async fn renew(self, owner: ReconcilerHandle, clock: Clock) {
        let mut renewed = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.keys.refresh() {
                Ok(Refreshed::Same) => {}
                Ok(Refreshed::Changed) => {
                    tracing::info!("tokens are signed with a new key from now on");
                    renewed = None;
                }
                Err(error) => tracing::error!(%error, "tokens are signed with the key as before"),
            }
            if renewed.is_some_and(|at: Instant| at.elapsed() < RENEW_EVERY) {
                continue;
            }
            renewed = Some(Instant::now());
            let snapshot = owner.snapshots().borrow().clone();
            let (tokens, clock) = (self.clone(), clock.clone());
            let done = tokio::task::spawn_blocking(move || tokens.look_through(&snapshot, &clock));
            match done.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "token files could not be renewed"),
                Err(error) => tracing::error!(%error, "token files could not be renewed"),
            }
        }
    }

    fn look_through(&self, snapshot: &Snapshot, clock: &Clock) -> io::Result<()> {
        let live: HashMap<PathBuf, &InstanceId> = snapshot
            .live()
            .map(|instance| (self.path_of(instance), instance))
            .collect();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // The folder of those of containers.
            if entry.file_type()?.is_dir() {
                continue;
            }
            let path = entry.path();
            let _writing = self.writing();
            match live.get(&path) {
                Some(instance) => {
                    if let Some(token) = self.renewed(instance, &path, clock)? {
                        store::write_private(&path, token.as_bytes())?;
                    }
                }
                None if age_of(entry.metadata()?.modified()?, clock) > YOUNG => {
                    fs::remove_file(path)?;
                }
                None => {}
            }
        }
        self.look_through_handed(snapshot, clock)?;
        let of_containers = match fs::read_dir(docker::token_dirs(&self.state_dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in of_containers {
            let entry = entry?;
            let dir = entry.path();
            match live_one(&entry, snapshot) {
                Some(instance) => {
                    let file = dir.join(docker::TOKEN_NAME);
                    if let Some(token) = self.renewed(&instance, &file, clock)? {
                        write_readable(&dir, &token)?;
                    }
                }
                None if self.containers == Containers::AllKnown
                    && age_of(entry.metadata()?.modified()?, clock) > YOUNG =>
                {
                    fs::remove_dir_all(dir)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    fn look_through_handed(&self, snapshot: &Snapshot, clock: &Clock) -> io::Result<()> {
        let Some(handed) = &self.handed else {
            return Ok(());
        };
        for (instance, reader, changed) in handed.all()? {
            match (snapshot.is_live(&instance), reader) {
                (true, Some(reader)) => {
                    let file = handed.path_of(&instance);
                    if let Some(token) = self.renewed(&instance, &file, clock)? {
                        handed.write(&instance, &token, reader)?;
                    }
                }
                (true, None) => {}
                (false, _) if age_of(changed, clock) > YOUNG => handed.remove(&instance)?,
                (false, _) => {}
            }
        }
        Ok(())
    }

    /// The token that replaces the one in `file`; `None` while that is good for long.
    fn renewed(
        &self,
        instance: &InstanceId,
        file: &Path,
        clock: &Clock,
    ) -> io::Result<Option<String>> {
        let token = fs::read_to_string(file)?;
        let (now, of_this) = (clock.now(), Bearer::Instance(instance.clone()));
        // A good token of another instance is that of the next one, which starts at this moment.
        let stale = match self.keys.verify(&token, now) {
            Ok(bearer) => bearer == of_this && self.keys.is_stale(&token, now),
            Err(_) => true,
        };
        Ok(stale.then(|| self.keys.issue(instance, clock.now())))
    }
}

/// The instance that an entry is named after, while it lives.
fn live_one(entry: &DirEntry, snapshot: &Snapshot) -> Option<InstanceId> {
    let instance: InstanceId = entry.file_name().to_str()?.parse().ok()?;
    snapshot.is_live(&instance).then_some(instance)
}

/// Puts a token where the user inside of a container can read it, whoever that is. The folder is
/// mounted there; on this host, nobody else gets through the folder that it lies in.
fn write_readable(dir: &Path, token: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    let path = dir.join(docker::TOKEN_NAME);
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write_new(&draft, token)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o444))?;
    fs::rename(draft, path)
}

/// How long ago a file was written, by our clock.
fn age_of(written: SystemTime, clock: &Clock) -> Duration {
    let written = written
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(clock.now().as_millis()).unwrap_or_default();
    Duration::from_millis(now).saturating_sub(written)
}

/// A file whose reader starts once it is written, so it needs no rename; nor a flush, since
/// no instance outlives a reboot. One that is there is written over and not emptied first: the disk
/// would free its block and look for another, which took most of a millisecond of each start.
fn write_new(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.write_all(content.as_bytes())?;
    let length = u64::try_from(content.len()).expect("a length fits in 64 bits");
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::Bearer;
    use crate::model::{
        ComponentStatus, ContainerSpec, DaemonStatus, Generation, PhaseName, PipelineStatus,
        ReplicaStatus, Role, STATUS_SCHEMA, Timestamp, Workload, fixtures,
    };

    fn open(dir: &Path) -> Tokens {
        Tokens::open(dir, handed(dir), Containers::AllKnown).unwrap()
    }

    fn instance(run: u32) -> InstanceId {
        format!("default.p.a.0.{run}").parse().unwrap()
    }

    fn process() -> ComponentSpec {
        fixtures::component("a", 1, &[])
    }

    fn container() -> ComponentSpec {
        let mut spec = process();
        spec.workload = Workload::Docker(ContainerSpec {
            image: "x".to_owned(),
            command: None,
            args: vec![],
            working_dir: None,
            pull: None,
            network: None,
            verify: None,
        });
        spec
    }

    /// What is shown while `live` runs.
    fn showing(live: &InstanceId) -> Snapshot {
        let replica = ReplicaStatus {
            replica: 0,
            instance: Some(live.clone()),
            phase: PhaseName::Running,
            ready: true,
            since: Timestamp::default(),
            why: String::new(),
            next: None,
            restarts: 0,
            pid: None,
            container: None,
            name: None,
            node: None,
            image: None,
            exit: None,
            spec: None,
            addresses: Default::default(),
            registration: None,
            hold: None,
            started_at: None,
            progress: None,
            usage: None,
        };
        let component = ComponentStatus {
            id: live.replica.component.clone(),
            role: Role::Source,
            driver: DriverKind::Process,
            desired: 1,
            unenforced: Vec::new(),
            notes: Vec::new(),
            replicas: vec![replica],
        };
        let pipeline = PipelineStatus {
            namespace: live.pipeline.namespace.clone(),
            name: live.pipeline.name.clone(),
            file: None,
            watched: false,
            generation: Generation(1),
            observed_generation: Generation(1),
            settled: true,
            deleting: false,
            problem: None,
            labels: Default::default(),
            conditions: Vec::new(),
            components: vec![component],
        };
        Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: None::<DaemonStatus>,
            conditions: Vec::new(),
            pipelines: vec![Arc::new(pipeline)],
        }
    }

    fn read(file: Option<&str>) -> String {
        fs::read_to_string(file.unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_holds_a_good_token_for_as_long_as_its_instance_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, clock) = (open(dir.path()), Clock::new());
        let live = instance(2);
        let (first, file) = tokens.give(&live, &process(), &clock, Token::New);
        let (first, file) = (first.unwrap(), file.as_deref());
        assert_eq!(read(file), first);
        let mode = fs::metadata(file.unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let hour = Duration::from_secs(3600);
        tokio::time::advance(11 * hour).await;
        tokens.look_through(&showing(&live), &clock).unwrap();
        assert_eq!(read(file), first, "it is good for a while");
        for day in 0..3 {
            tokio::time::advance(13 * hour).await;
            tokens.look_through(&showing(&live), &clock).unwrap();
            let now = clock.now();
            assert_eq!(
                tokens.keys.verify(&read(file), now),
                Ok(Bearer::Instance(live.clone())),
                "{day}"
            );
            assert!(!tokens.keys.is_stale(&read(file), now), "{day}");
        }
        assert!(tokens.keys.verify(&first, clock.now()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_signed_anew_after_a_rotation_and_the_old_tokens_stay_good() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, clock) = (open(dir.path()), Clock::new());
        let live = instance(2);
        let (first, file) = tokens.give(&live, &process(), &clock, Token::New);
        Keyring::open(dir.path()).unwrap().rotate().unwrap();
        assert_eq!(tokens.keys.refresh().unwrap(), Refreshed::Changed);
        tokens.look_through(&showing(&live), &clock).unwrap();
        let second = read(file.as_deref());
        assert_ne!(Some(&second), first.as_ref());
        for token in [first.unwrap(), second] {
            assert_eq!(
                tokens.keys.verify(&token, clock.now()),
                Ok(Bearer::Instance(live.clone()))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_of_an_ended_instance_goes_and_one_that_is_being_started_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, clock) = (open(dir.path()), Clock::new());
        let live = instance(2);
        let ended: InstanceId = "default.p.b.0.1".parse().unwrap();
        let (_, ended) = tokens.give(&ended, &process(), &clock, Token::New);
        let ended = PathBuf::from(ended.unwrap());
        tokens.look_through(&showing(&live), &clock).unwrap();
        assert!(ended.exists(), "nobody knows yet that it does not start");
        tokio::time::advance(2 * YOUNG).await;
        tokens.look_through(&showing(&live), &clock).unwrap();
        assert!(!ended.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_gets_a_folder_of_its_own_where_its_token_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, clock) = (open(dir.path()), Clock::new());
        let live = instance(2);
        let (first, file) = tokens.give(&live, &container(), &clock, Token::New);
        assert_eq!(file.as_deref(), Some(docker::TOKEN_FILE));
        let folder = docker::token_dir(dir.path(), &live);
        let path = folder.join(docker::TOKEN_NAME);
        let held = || fs::read_to_string(&path).unwrap();
        assert_eq!(Some(held()), first);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "the user inside may be anybody");
        tokio::time::advance(Duration::from_secs(13 * 3600)).await;
        tokens.look_through(&showing(&live), &clock).unwrap();
        assert_ne!(Some(held()), first);
        assert!(!tokens.keys.is_stale(&held(), clock.now()));
        let mut unsure = tokens.clone();
        unsure.containers = Containers::SomeUnknown;
        unsure.look_through(&showing(&instance(3)), &clock).unwrap();
        assert!(folder.exists(), "it may live behind a silent engine");
        tokens.look_through(&showing(&instance(3)), &clock).unwrap();
        assert!(!folder.exists());
    }
}
