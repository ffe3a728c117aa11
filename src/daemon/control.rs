//! The control plane of this daemon: its port, its tokens, and what components are told of both.
//!
//! A port that components were told of is kept, whoever they are: no client of the field looks for
//! another one. Before anybody was told, the default port is left to a component that wants it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::tokens::{self, Tokens};
use crate::clock::Clock;
use crate::control_plane::{
    self, Behind, Certificates, Connections, Containers, ControlPlane, ControlPlaneError,
    ControlPlaneOptions, Doors, Given, KeyError, Keyring, PortChoice, Reach,
};
use crate::driver::Launch;
use crate::driver::process::Handed;
use crate::manifest::HOST_FROM_CONTAINER;
use crate::model::{ComponentId, ComponentSpec, DriverKind, InstanceId, Snapshot};
use crate::preflight::{PreflightProblem, wants_port};
use crate::reconciler::{Environment, ReconcilerHandle};
use crate::store;

/// The file of the port in the state directory. It has to outlive a damaged store, since what runs
/// does.
const PORT: &str = "control-plane.port";

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
    /// There are pipelines, so their components may, or somebody registered.
    Somebody,
    /// The default port is chosen anew.
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
    seat: Option<Seat>,
}

/// Where components find the control plane.
#[derive(Clone)]
enum Reached {
    /// Ours, and where components of other machines are told that it is.
    At(Doors, Option<String>),
    External(String),
    Nowhere,
}

impl Control {
    /// Takes the port that components were told of before, or the one that is asked for.
    pub fn open(
        state_dir: &Path,
        choice: ControlPlaneChoice,
        told: Told,
        handed: Option<Handed>,
        containers: tokens::Containers,
    ) -> Result<Self, ControlError> {
        let mut options = match choice {
            ControlPlaneChoice::Own(options) => options,
            ControlPlaneChoice::External(address) => {
                return Ok(Self {
                    plane: None,
                    reach: Reached::External(address),
                    tokens: None,
                    seat: None,
                });
            }
            ControlPlaneChoice::Absent => {
                return Ok(Self {
                    plane: None,
                    reach: Reached::Nowhere,
                    tokens: None,
                    seat: None,
                });
            }
        };
        let asked = options.port;
        let advertise = options.advertise.take();
        let kept = match (asked, told) {
            (PortChoice::Default, Told::Somebody) | (PortChoice::Free, _) => {
                port_before(state_dir)?
            }
            (PortChoice::Default, Told::Nobody)
            | (PortChoice::Exactly(_) | PortChoice::Kept(_), _) => None,
        };
        options.port = kept.map_or(asked, PortChoice::Kept);
        let tokens = Tokens::open(state_dir, handed, containers)?;
        let plane = ControlPlane::bind(options)?;
        keep_port(state_dir, plane.address().port())?;
        let reach = Reached::At(plane.doors(), advertise);
        let seat = Seat {
            doors: plane.doors(),
            state_dir: state_dir.to_owned(),
            asked,
        };
        Ok(Self {
            plane: Some(plane),
            reach,
            tokens: Some(tokens),
            seat: Some(seat),
        })
    }

    /// The certificates that it serves, if it does.
    pub fn certificates(&self) -> Option<Certificates> {
        self.plane.as_ref()?.certificates()
    }

    /// The port, as something that a component may want. `None` when the control plane is not ours.
    pub fn seat(&self) -> Option<Seat> {
        self.seat.clone()
    }

    /// What `status` shows: where this daemon's own listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plane.as_ref().map(ControlPlane::address)
    }

    /// What tokens are signed with; `None` = it is not ours.
    pub fn keys(&self) -> Option<Arc<Keyring>> {
        self.tokens.as_ref().map(Tokens::keys)
    }

    /// How many connections it has, while it serves too; `None` = it is not ours.
    pub fn connections(&self) -> Option<Connections> {
        self.plane.as_ref().map(ControlPlane::connections)
    }

    /// The way to answer containers, too: on their bridge, once that is there. `None` when the
    /// control plane is not ours.
    pub fn doors(&self) -> Option<Doors> {
        self.plane.as_ref().map(ControlPlane::doors)
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
                Some(tokens) => tokens.give(&launch.instance, &launch.spec, &clock, token),
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

    /// Answers components until `stop`. `containers` tells whose an address on a bridge is.
    pub async fn serve(
        self,
        owner: ReconcilerHandle,
        clock: Clock,
        containers: Option<Arc<dyn Containers>>,
        stop: CancellationToken,
    ) {
        let Self {
            plane: Some(plane),
            tokens: Some(tokens),
            ..
        } = self
        else {
            return;
        };
        let behind = Behind {
            owner: owner.clone(),
            clock: clock.clone(),
            keys: Some(tokens.keys()),
            containers,
        };
        let renewing = tokens.renew(owner, clock);
        tokio::select! {
            // Cancel-safe: it only ends with the daemon.
            () = plane.serve(behind, stop) => {}
            // Cancel-safe: a file is written whole or not at all.
            () = renewing => {}
        }
    }
}

/// The control plane's port. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seat {
    doors: Doors,
    state_dir: PathBuf,
    asked: PortChoice,
}

/// Why the control plane does not leave its port to a component.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stays {
    /// A person chose it.
    #[error("port {0} is flowctl's own control plane, which was told to be there")]
    Chosen(u16),
    /// Somebody may look for it there.
    #[error(
        "port {0} is flowctl's own control plane, which components that run or have registered look for there"
    )]
    Known(u16),
    /// There is no other, or it could not be kept.
    #[error("port {port} is flowctl's own control plane, which cannot leave it: {why}")]
    Failed {
        /// The port.
        port: u16,
        /// What the host said.
        why: String,
    },
}

/// What to do about a port that stays the control plane's.
const MOVE_HINT: &str = "give this component another port, or start the daemon with another \
                         `--control-plane-port` (0 = any free one)";

/// Components that want the control plane's port and cannot have it.
#[derive(Debug)]
pub(super) struct Kept {
    port: u16,
    wanting: Vec<ComponentId>,
    why: Stays,
}

impl Kept {
    /// What to tell people, component by component.
    pub fn problems(&self) -> Vec<String> {
        let of = |component: &ComponentId| format!("{component}: {}; {MOVE_HINT}", self.why);
        self.wanting.iter().map(of).collect()
    }

    /// Whether `problem` is that the port is taken, which these tell better.
    pub fn tells(&self, problem: &PreflightProblem) -> bool {
        self.wanting.contains(&problem.component)
            && problem.what.starts_with(&format!("port {}/", self.port))
    }
}

impl Seat {
    /// Where the control plane is, when that is not where it is looked for by default and nobody
    /// chose so.
    pub fn displaced(&self) -> Option<SocketAddr> {
        let address = self.doors.address();
        let by_default = match self.asked {
            PortChoice::Default => true,
            PortChoice::Exactly(_) | PortChoice::Kept(_) | PortChoice::Free => false,
        };
        (by_default && address.port() != control_plane::DEFAULT_PORT).then_some(address)
    }

    /// Leaves the port to those of `components` that want it, which are about to start; otherwise
    /// answers who cannot have it, and why.
    pub async fn make_way(
        &self,
        components: &[&ComponentSpec],
        owner: &ReconcilerHandle,
    ) -> Option<Kept> {
        let port = self.doors.address().port();
        let wanting = components.iter().filter(|spec| wants_port(spec, port));
        let wanting: Vec<_> = wanting.map(|spec| spec.id.clone()).collect();
        if wanting.is_empty() {
            return None;
        }
        let why = self.leave(port, owner).await.err()?;
        Some(Kept { port, wanting, why })
    }

    async fn leave(&self, port: u16, owner: &ReconcilerHandle) -> Result<(), Stays> {
        match self.asked {
            PortChoice::Default => {}
            PortChoice::Free | PortChoice::Exactly(_) | PortChoice::Kept(_) => {
                return Err(Stays::Chosen(port));
            }
        }
        let somebody_runs = owner.snapshots().borrow().live().next().is_some();
        let somebody_registered = owner.directory().await.is_ok_and(|all| !all.is_empty());
        if somebody_runs || somebody_registered {
            return Err(Stays::Known(port));
        }
        let failed = |why: String| Stays::Failed { port, why };
        let moved = self.doors.move_away().await;
        let address = moved.map_err(|error| failed(super::in_full(error)))?;
        keep_port(&self.state_dir, address.port())
            .map_err(|error| failed(super::in_full(error)))?;
        owner.control_plane_moved(address.to_string()).await;
        Ok(())
    }
}

impl Reached {
    fn from(&self, driver: DriverKind) -> Option<Reach> {
        let (own, advertised) = match self {
            Self::Nowhere => return None,
            Self::External(address) => return Some(Reach(address.clone())),
            Self::At(doors, advertised) => (doors.address(), advertised),
        };
        let ip = match (driver, own.ip()) {
            // They are on other machines.
            (DriverKind::Nomad | DriverKind::Kubernetes, ip) => {
                let is_far = !ip.is_loopback() && !ip.is_unspecified();
                let at_address = is_far.then(|| Reach::from(own));
                return advertised.clone().map(Reach).or(at_address);
            }
            // By name: before its network is made, nobody knows the host's address on it.
            (DriverKind::Docker, _) => {
                return Some(Reach(format!("{HOST_FROM_CONTAINER}:{}", own.port())));
            }
            (_, IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            (_, IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            (DriverKind::Process, ip) => ip,
        };
        Some(SocketAddr::new(ip, own.port()).into())
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
    store::write_private(&path, format!("{port}\n").as_bytes()).map_err(|source| {
        let doing = "keep the control plane's port in";
        ControlError::Io {
            doing,
            path,
            source,
        }
    })
}

/// How often the replica of `instance` was restarted.
fn restarts(snapshot: &Snapshot, instance: &InstanceId) -> u64 {
    let shown = snapshot.replica_of(instance);
    shown.map_or(0, |replica| replica.restarts)
}
