//! Where the ports of an instance are asked, found out anew for each ask, and whose the answer is.
//!
//! Nothing of it is kept from one ask to the next: an address that is not known when a daemon has
//! just adopted an instance is known a moment later, and a port that was the component's may be a
//! stranger's by now.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::model::InstanceId;

use super::{AskError, Host, Trouble};

/// What is known of an instance's ports at the moment at which they are asked.
#[async_trait]
pub trait Ports: Send + Sync {
    /// Where `port` of `instance` answers.
    fn locate(&self, instance: &InstanceId, port: u16) -> Located;

    /// Whose socket it is that answers at `address`, which is one of this host.
    async fn whose(&self, instance: &InstanceId, address: SocketAddr) -> Whose;

    /// Who of those that share a port has taken the connection from `ours` to `theirs`; `None` while
    /// nobody has.
    async fn taker(
        &self,
        instance: &InstanceId,
        ours: SocketAddr,
        theirs: SocketAddr,
    ) -> Option<Whose>;
}

/// Where a port answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// There, under this number.
    At(Host, u16),
    /// Nowhere that this host gets to, as in a container without a network.
    OutOfReach,
    /// It has not been seen yet: nothing is known about the component.
    NotSeen,
}

/// Whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The instance's own.
    Own,
    /// That of somebody else, in words: `pid 7 (nginx)`.
    Other(String),
    /// Its own and that of others, among which the kernel deals connections out.
    Shared,
    /// This user may not see who has the socket, and nothing speaks against the instance.
    Unknown,
}

/// The ports of one instance.
#[derive(Clone)]
pub struct PortSite {
    instance: InstanceId,
    ports: Arc<dyn Ports>,
}

impl PortSite {
    /// The ports of `instance`, of which `ports` knows.
    pub fn new(instance: InstanceId, ports: Arc<dyn Ports>) -> Self {
        Self { instance, ports }
    }

    /// Where `port` is asked now. A check may name another machine; by loopback it means its own.
    pub(super) fn door(&self, named: Option<Host>, port: u16) -> Result<Door<'_>, Trouble> {
        let (host, port) = match named {
            Some(named) if named != Host::Loopback => (named, port),
            Some(_) | None => match self.ports.locate(&self.instance, port) {
                Located::At(host, port) => (host, port),
                Located::OutOfReach => {
                    return Err(Trouble::component(format!(
                        "its port {port} cannot be reached from this host"
                    )));
                }
                Located::NotSeen => {
                    let instance = self.instance.clone();
                    return Err(AskError::NotSeen { instance, port }.into());
                }
            },
        };
        let site = self;
        Ok(Door { host, port, site })
    }
}

impl PartialEq for PortSite {
    /// What answers is looked up at each ask, so that nothing of it makes a difference before.
    fn eq(&self, other: &Self) -> bool {
        self.instance == other.instance
    }
}

impl Eq for PortSite {}

impl fmt::Debug for PortSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PortSite").field(&self.instance).finish()
    }
}

/// A host and a port that are asked on behalf of an instance.
pub(super) struct Door<'a> {
    pub(super) host: Host,
    pub(super) port: u16,
    site: &'a PortSite,
}

impl Door<'_> {
    /// Whose answer comes from `address`, which is one of this host.
    pub(super) async fn whose(&self, address: SocketAddr) -> Whose {
        self.site.ports.whose(&self.site.instance, address).await
    }

    /// Who has taken the connection from `ours` to `theirs`, if anybody.
    pub(super) async fn taker(&self, ours: SocketAddr, theirs: SocketAddr) -> Option<Whose> {
        let PortSite { instance, ports } = self.site;
        ports.taker(instance, ours, theirs).await
    }
}
