//! Further addresses that the control plane answers at, opened while it serves: the bridge of a
//! container network is made long after the daemon started.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{ControlPlaneError, listen_at};
use crate::model::InstanceId;

/// Opens the control plane to containers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Doors {
    own: SocketAddr,
    bridges: Bridges,
    opened: mpsc::UnboundedSender<TcpListener>,
}

impl Doors {
    /// The doors of a control plane at `own`, and where listeners arrive that are opened later.
    pub(super) fn new(own: SocketAddr) -> (Self, mpsc::UnboundedReceiver<TcpListener>) {
        let (opened, listeners) = mpsc::unbounded_channel();
        let bridges = Bridges::default();
        let doors = Self {
            own,
            bridges,
            opened,
        };
        (doors, listeners)
    }

    /// Answers on the bridge of a container network too: at `gateway`, the host's own address
    /// there, on the same port. Who comes that way is as near as this machine and needs no token
    /// unless all do. Open already is a success. Answers where it is reached.
    ///
    /// # Errors
    /// When the host does not let us listen there; nothing is changed then.
    pub fn open_bridge(&self, gateway: IpAddr) -> Result<SocketAddr, ControlPlaneError> {
        let address = SocketAddr::new(gateway, self.own.port());
        let mut bridges = self.bridges.write();
        if bridges.contains(&gateway) {
            return Ok(address);
        }
        if !self.own.ip().is_unspecified() {
            let listener =
                listen_at(address).map_err(|why| ControlPlaneError::Bind { address, why })?;
            if self.opened.send(listener).is_err() {
                tracing::debug!(%address, "the control plane is closing");
            }
        }
        bridges.insert(gateway);
        drop(bridges);
        tracing::info!(%address, "the control plane answers containers");
        Ok(address)
    }

    pub(super) fn bridges(&self) -> Bridges {
        self.bridges.clone()
    }

    /// Hands over a listener that was there before there were doors.
    pub(super) fn through(&self, listener: TcpListener) {
        self.opened
            .send(listener)
            .expect("the receiver is served by the one who calls this");
    }
}

/// The addresses of open bridges. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Bridges(Arc<RwLock<BTreeSet<IpAddr>>>);

impl Bridges {
    /// Whether a caller that reached us at `local` came over a bridge.
    pub fn contains(&self, local: IpAddr) -> bool {
        self.read().contains(&local.to_canonical())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeSet<IpAddr>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeSet<IpAddr>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose container has an address on a bridge.
#[tonic::async_trait]
pub trait Containers: Send + Sync {
    /// The instance whose container is at `address`; `None` when there is none, or the engine does not
    /// say. A caller waits for it, for a second at most.
    async fn at(&self, address: IpAddr) -> Option<InstanceId>;
}
