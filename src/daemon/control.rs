//! The control plane of this daemon: its port, its tokens, and what components are told of both.
//!
//! A port that components were told of is kept for as long as there are pipelines: no client of
//! the field looks for another one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::tokens::Tokens;
use crate::clock::Clock;
use crate::control_plane::{
    self, Behind, Certificates, Containers, ControlPlane, ControlPlaneError, ControlPlaneOptions,
    Doors, Given, KeyError, PortChoice, Reach,
};
use crate::driver::Launch;
use crate::manifest::HOST_FROM_CONTAINER;
use crate::model::{DriverKind, InstanceId, Snapshot};
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
    At(SocketAddr),
    External(String),
    Nowhere,
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
        let tokens = Tokens::open(state_dir)?;
        let plane = ControlPlane::bind(options)?;
        keep_port(state_dir, plane.address().port())?;
        let reach = Reached::At(plane.address());
        Ok(Self {
            plane: Some(plane),
            reach,
            tokens: Some(tokens),
        })
    }

    /// The certificates that it serves, if it does.
    pub fn certificates(&self) -> Option<Certificates> {
        self.plane.as_ref()?.certificates()
    }

    /// What `status` shows: where this daemon's own listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plane.as_ref().map(ControlPlane::address)
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

impl Reached {
    fn from(&self, driver: DriverKind) -> Option<Reach> {
        let own = match self {
            Self::Nowhere => return None,
            Self::External(address) => return Some(Reach(address.clone())),
            Self::At(own) => own,
        };
        let ip = match (driver, own.ip()) {
            // By name: before its network is made, nobody knows the host's address on it.
            (DriverKind::Docker, _) => {
                return Some(Reach(format!("{HOST_FROM_CONTAINER}:{}", own.port())));
            }
            (_, IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            (_, IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            (DriverKind::Process | DriverKind::Nomad | DriverKind::Kubernetes, ip) => ip,
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
