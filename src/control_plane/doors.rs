//! Where the control plane answers, which changes while it serves: the bridge of a container network
//! is made long after the daemon started, and a component may want the very port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{ControlPlaneError, listen_at};
use crate::model::InstanceId;

/// A listener that is to be closed is gone within this.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Opens the control plane to containers, and moves it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Doors {
    place: Arc<RwLock<Place>>,
    bridges: Bridges,
    opened: mpsc::UnboundedSender<Door>,
}

#[derive(Debug)]
struct Place {
    own: SocketAddr,
    open: Vec<Open>,
}

/// A listener as its opener holds it.
#[derive(Debug)]
struct Open {
    close: CancellationToken,
    closed: oneshot::Receiver<()>,
}

/// A listener, and when it is to be closed.
pub(super) struct Door {
    pub listener: TcpListener,
    pub close: CancellationToken,
    /// Dropped, after the listener, once that is closed.
    pub _closed: oneshot::Sender<()>,
}

impl Doors {
    /// The doors of a control plane at `own`, and where listeners arrive that are opened later.
    pub(super) fn new(own: SocketAddr) -> (Self, mpsc::UnboundedReceiver<Door>) {
        let (opened, listeners) = mpsc::unbounded_channel();
        let place = Place {
            own,
            open: Vec::new(),
        };
        let doors = Self {
            place: Arc::new(RwLock::new(place)),
            bridges: Bridges::default(),
            opened,
        };
        (doors, listeners)
    }

    /// Where processes of this machine find it.
    pub fn address(&self) -> SocketAddr {
        self.read().own
    }

    /// Answers on the bridge of a container network too: at `gateway`, the host's own address
    /// there, on the same port. A container of ours that comes that way needs no token unless all do.
    /// Open already is a success. Answers where it is reached.
    ///
    /// # Errors
    /// When the host does not let us listen there; nothing is changed then.
    pub fn open_bridge(&self, gateway: IpAddr) -> Result<SocketAddr, ControlPlaneError> {
        let mut place = self.write();
        let address = SocketAddr::new(gateway, place.own.port());
        let mut bridges = self.bridges.write();
        if bridges.contains(&gateway) {
            return Ok(address);
        }
        if !place.own.ip().is_unspecified() {
            let listener =
                listen_at(address).map_err(|why| ControlPlaneError::Bind { address, why })?;
            place.open.push(self.through(listener));
        }
        bridges.insert(gateway);
        drop(bridges);
        tracing::info!(%address, "the control plane answers containers");
        Ok(address)
    }

    /// Leaves its port to somebody else and answers on a free one. Bridges are opened anew as
    /// containers start. Answers where it is found from now on, once the old port is free.
    ///
    /// # Errors
    /// When the host does not let us listen anywhere else; nothing is changed then.
    pub async fn move_away(&self) -> Result<SocketAddr, ControlPlaneError> {
        let (left, own) = {
            let mut place = self.write();
            let address = SocketAddr::new(place.own.ip(), 0);
            let bound = listen_at(address).and_then(|it| Ok((it.local_addr()?, it)));
            let (own, listener) = bound.map_err(|why| ControlPlaneError::Bind { address, why })?;
            let opened = vec![self.through(listener)];
            let left = std::mem::replace(&mut *place, Place { own, open: opened });
            self.bridges.write().clear();
            (left, own)
        };
        tracing::info!(from = %left.own, to = %own, "the control plane leaves its port to a component");
        for Open { close, closed } in left.open {
            close.cancel();
            // It answers nothing: it is dropped with the listener.
            if tokio::time::timeout(CLOSED_WITHIN, closed).await.is_err() {
                tracing::warn!(address = %left.own, "a port of the control plane is not free yet");
            }
        }
        Ok(own)
    }

    pub(super) fn bridges(&self) -> Bridges {
        self.bridges.clone()
    }

    /// Hands over the listener that was there before there were doors.
    pub(super) fn begin(&self, listener: TcpListener) {
        let open = self.through(listener);
        self.write().open.push(open);
    }

    fn through(&self, listener: TcpListener) -> Open {
        let close = CancellationToken::new();
        let (sender, closed) = oneshot::channel();
        let door = Door {
            listener,
            close: close.clone(),
            _closed: sender,
        };
        if self.opened.send(door).is_err() {
            tracing::debug!("the control plane is closing");
        }
        Open { close, closed }
    }

    fn read(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Place> {
        self.place.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of open bridges. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Bridges(Arc<RwLock<BTreeSet<IpAddr>>>);

impl Bridges {
    /// Whether a caller that reached us at `local` came over a bridge.
    pub fn contains(&self, local: IpAddr) -> bool {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.contains(&local.to_canonical())
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeSet<IpAddr>> {
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
