//! The control plane of this daemon: its port, its tokens, and what components are told of both.
//!
//! A port that components were told of is kept for as long as there are pipelines: no client of
//! the field looks for another one.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::control_plane::{
    self, ControlPlane, ControlPlaneError, ControlPlaneOptions, Given, KeyError, Keyring,
    PortChoice, Reach, TOKEN_LIFE,
};
use crate::driver::Launch;
use crate::model::{DriverKind, InstanceId, PhaseName, ReplicaStatus, Snapshot};
use crate::reconciler::{Environment, ReconcilerHandle};

/// The file of the port in the state directory. It has to outlive a damaged store, since what runs
/// does.
const PORT: &str = "control-plane.port";
/// The folder of the token files in the state directory.
const TOKENS: &str = "tokens";
/// How often token files are looked through.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// The first look, after which what runs is known.
const FIRST_RENEWAL: Duration = Duration::from_secs(10);
/// A token file younger than this may belong to an instance that is only just being started.
const YOUNG: Duration = Duration::from_secs(60);

/// Which control plane components are told of.
#[derive(Clone, Debug)]
pub enum ControlPlaneChoice {
    /// This daemon's own.
    Own(ControlPlaneOptions),
    /// Another one, at `host:port`.
    External(String),
    /// None: nothing is started.
    Absent,
}

/// Why a daemon has no control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ControlPlaneError),
    /// Its token keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The host does not let us.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// Whether anybody may have been told of the port that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// There are pipelines, so their components may.
    Components,
    /// There are none, so the port is chosen anew.
    Nobody,
}

/// Which token file an environment names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// One that is written for an instance that starts.
    New,
    /// The one that the instance has already.
    Present,
}

/// A control plane that listens, and its tokens.
pub(super) struct Control {
    plane: Option<ControlPlane>,
    reach: Reached,
    tokens: Option<Tokens>,
}

/// Where components find the control plane.
#[derive(Clone)]
enum Reached {
    At {
        own: SocketAddr,
        bridge: Option<IpAddr>,
    },
    External(String),
    Nowhere,
}

#[derive(Clone)]
struct Tokens {
    keys: Arc<Keyring>,
    folder: PathBuf,
}

impl Control {
    /// Takes the port that components were told of before, or the one that is asked for.
    pub fn open(
        state_dir: &Path,
        choice: ControlPlaneChoice,
        told: Told,
    ) -> Result<Self, ControlError> {
        let mut options = match choice {
            ControlPlaneChoice::Own(options) => options,
            ControlPlaneChoice::External(address) => {
                return Ok(Self {
                    plane: None,
                    reach: Reached::External(address),
                    tokens: None,
                });
            }
            ControlPlaneChoice::Absent => {
                return Ok(Self {
                    plane: None,
                    reach: Reached::Nowhere,
                    tokens: None,
                });
            }
        };
        let kept = match told {
            Told::Components => port_before(state_dir)?,
            Told::Nobody => None,
        };
        options.port = match (options.port, kept) {
            (PortChoice::Default | PortChoice::Free, Some(port)) => PortChoice::Kept(port),
            (asked, _) => asked,
        };
        let folder = state_dir.join(TOKENS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| ControlError::Io {
                doing: "make the folder of token files",
                path: folder.clone(),
                source,
            })?;
        let keys = Arc::new(Keyring::open(state_dir)?);
        let bridge = options.bridge;
        let plane = ControlPlane::bind(options)?;
        keep_port(state_dir, plane.address().port())?;
        let reach = Reached::At {
            own: plane.address(),
            bridge,
        };
        Ok(Self {
            plane: Some(plane),
            reach,
            tokens: Some(Tokens { keys, folder }),
        })
    }

    /// What `status` shows: where this daemon's own listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plane.as_ref().map(ControlPlane::address)
    }

    /// What instances are given as they start, or were given.
    pub fn environment(&self, clock: Clock, owner: ReconcilerHandle, token: Token) -> Environment {
        let (reach, tokens) = (self.reach.clone(), self.tokens.clone());
        Arc::new(move |launch: &Launch| {
            let driver = launch.spec.driver();
            let Some(reach) = reach.from(driver) else {
                return BTreeMap::new();
            };
            let (token, token_file) = match &tokens {
                Some(tokens) => tokens.give(&launch.instance, driver, &clock, token),
                None => (None, None),
            };
            let attempt = restarts(&owner.snapshots().borrow(), &launch.instance) + 1;
            let given = Given {
                attempt,
                token,
                token_file,
            };
            control_plane::injected(launch, &reach, &given)
        })
    }

    /// Answers components until `stop`.
    pub async fn serve(self, owner: ReconcilerHandle, clock: Clock, stop: CancellationToken) {
        let Self {
            plane: Some(plane),
            tokens: Some(tokens),
            ..
        } = self
        else {
            return;
        };
        let keys = Arc::clone(&tokens.keys);
        let renewing = tokens.renew(owner.clone(), clock.clone());
        tokio::select! {
            // Cancel-safe: it only ends with the daemon.
            () = plane.serve(owner, clock, Some(keys), stop) => {}
            // Cancel-safe: a file is written whole or not at all.
            () = renewing => {}
        }
    }
}

impl Reached {
    fn from(&self, driver: DriverKind) -> Option<Reach> {
        match (self, driver) {
            (Self::Nowhere, _) => None,
            (Self::External(address), _) => Some(Reach(address.clone())),
            (
                Self::At {
                    own,
                    bridge: Some(bridge),
                },
                DriverKind::Docker,
            ) => Some(SocketAddr::new(*bridge, own.port()).into()),
            (
                Self::At { own, .. },
                DriverKind::Process
                | DriverKind::Docker
                | DriverKind::Nomad
                | DriverKind::Kubernetes,
            ) => {
                let ip = match own.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
                };
                Some(SocketAddr::new(ip, own.port()).into())
            }
        }
    }
}

impl Tokens {
    /// A token for `instance`, and the file where its renewals are found.
    fn give(
        &self,
        instance: &InstanceId,
        driver: DriverKind,
        clock: &Clock,
        which: Token,
    ) -> (Option<String>, Option<String>) {
        let token = self.keys.issue(instance, clock.now());
        let file = match (driver, which) {
            // Only a process sees our files.
            (DriverKind::Process, Token::New) => self.write(instance, &token),
            (DriverKind::Process, Token::Present) => {
                let path = self.folder.join(instance.to_string());
                path.to_str().map(str::to_owned)
            }
            (DriverKind::Docker | DriverKind::Nomad | DriverKind::Kubernetes, _) => None,
        };
        (Some(token), file)
    }

    fn write(&self, instance: &InstanceId, token: &str) -> Option<String> {
        let path = self.folder.join(instance.to_string());
        match write_new(&path, token) {
            Ok(()) => path.to_str().map(str::to_owned),
            Err(error) => {
                tracing::warn!(%instance, %error, "its token file could not be written");
                None
            }
        }
    }

    /// Writes tokens anew at half of their life, and removes those of instances that ended.
    async fn renew(self, owner: ReconcilerHandle, clock: Clock) {
        let mut pause = FIRST_RENEWAL;
        loop {
            tokio::time::sleep(pause).await;
            pause = RENEW_EVERY;
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
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let written = file.metadata()?.modified()?;
            let age = age_of(written, clock);
            let name = file.file_name();
            let instance = name
                .to_str()
                .and_then(|name| name.parse::<InstanceId>().ok());
            match instance.filter(|instance| is_live(snapshot, instance)) {
                Some(instance) if age > TOKEN_LIFE / 2 => {
                    let token = self.keys.issue(&instance, clock.now());
                    control_plane::write_private(&file.path(), token.as_bytes())?;
                }
                Some(_) => {}
                None if age > YOUNG => fs::remove_file(file.path())?,
                None => {}
            }
        }
        Ok(())
    }
}

/// The port that this directory's daemon had before. A file that holds something else tells of
/// none.
fn port_before(state_dir: &Path) -> Result<Option<u16>, ControlError> {
    let path = state_dir.join(PORT);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            let doing = "read the control plane's port in";
            Err(ControlError::Io {
                doing,
                path,
                source,
            })
        }
    }
}

/// Keeps the port, before any component is told of it.
fn keep_port(state_dir: &Path, port: u16) -> Result<(), ControlError> {
    if port_before(state_dir)? == Some(port) {
        return Ok(());
    }
    let path = state_dir.join(PORT);
    control_plane::write_private(&path, format!("{port}\n").as_bytes()).map_err(|source| {
        let doing = "keep the control plane's port in";
        ControlError::Io {
            doing,
            path,
            source,
        }
    })
}

/// How long ago a file was written, by our clock.
fn age_of(written: SystemTime, clock: &Clock) -> Duration {
    let written = written
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(clock.now().as_millis()).unwrap_or_default();
    Duration::from_millis(now).saturating_sub(written)
}

/// How often the replica of `instance` was restarted.
fn restarts(snapshot: &Snapshot, instance: &InstanceId) -> u64 {
    let mut shown = replicas(snapshot);
    let found = shown.find(|replica| replica.instance.as_ref() == Some(instance));
    found.map_or(0, |replica| replica.restarts)
}

fn replicas(snapshot: &Snapshot) -> impl Iterator<Item = &ReplicaStatus> {
    let components = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.components);
    components.flat_map(|component| &component.replicas)
}

fn is_live(snapshot: &Snapshot, instance: &InstanceId) -> bool {
    replicas(snapshot).any(|replica| {
        replica.instance.as_ref() == Some(instance)
            && match replica.phase {
                PhaseName::Starting
                | PhaseName::Running
                | PhaseName::Unhealthy
                | PhaseName::Stopping
                | PhaseName::Unknown => true,
                PhaseName::Pending
                | PhaseName::Backoff
                | PhaseName::Crashloop
                | PhaseName::Stopped
                | PhaseName::Completed
                | PhaseName::Failed => false,
            }
    })
}

/// A file that nobody reads before its instance starts, so it needs no rename; nor a flush, since
/// no instance outlives a reboot.
fn write_new(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content.as_bytes())
}
