//! What components call: both gRPC services of the field on one port, health and reflection.
//!
//! **Expected flow.** The daemon binds ([`ControlPlane::bind`]), tells components where by
//! [`injected`], and serves ([`ControlPlane::serve`]). Calls are turned into the one form in which
//! registrations are kept and handed to the owner; nothing is kept here.
//!
//! **Guarantees.** A heartbeat costs the owner nothing of its own: it is merged with those of its
//! client and taken in once a second. A registration is answered within two seconds, whatever the
//! disk does. No message crashes anything, and what one connection can cost is bounded
//! ([`Limits`]). A wrong token is refused everywhere, and so is one of an instance that has ended; a
//! missing one wherever the call comes from outside this machine and its own containers. Who shows
//! none changes only what has no owner, or what the kernel or the engine says is its own.
//!
//! **Caveats.** Whoever is the daemon's own user, or root, is believed what it says of itself; so is
//! every address on a bridge, which a container with raw sockets can take.

mod caller;
mod convert;
mod desk;
mod diag;
mod doors;
mod environment;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod intake;
mod legacy;
mod listen;
mod peer;
mod places;
mod remote;
mod runs;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod v1;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;

pub use doors::{Containers, Doors};
pub use environment::{Given, Reach, injected};
pub use listen::Limits;
pub use places::Connections;
pub use remote::{Elsewhere, RemoteError, components_at};
pub use tls::{AuthorityError, ClientTls, Speaks, Tls as Certificates, TlsError, TlsFiles};
pub use token::{Bearer, KeyError, Keyring, Refreshed, TOKEN_LIFE, TokenError};

use crate::clock::Clock;
use crate::model::Patience;
use crate::reconciler::ReconcilerHandle;
use caller::Admission;
use desk::Desk;
use doors::Door;
use intake::Intake;
use legacy::Legacy;
use places::Places;
use tls::Tls;
use v1::{Gate, Sdk};
use wire::legacy::control_plane_server::ControlPlaneServer;
use wire::v1::component_gate_server::ComponentGateServer;
use wire::v1::control_plane_service_server::ControlPlaneServiceServer;

/// The port that components of the field expect.
pub const DEFAULT_PORT: u16 = 8080;
/// The largest message.
const MAX_MESSAGE: usize = 64 * 1024;
/// The longest call, its body included.
const LONGEST_CALL: Duration = Duration::from_secs(30);
/// Streams of one connection at a time.
const STREAMS: u32 = 32;
/// Bytes that may be on their way on one stream, and on one connection.
const WINDOWS: (u32, u32) = (128 * 1024, 512 * 1024);
/// The largest set of headers of one call.
const MAX_HEADERS: u32 = 16 * 1024;
/// A silent connection is asked whether it lives after this, and closed when it does not answer
/// within half of it.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Open connections are closed this long after the stop.
const LINGER: Duration = Duration::from_millis(500);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where the control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// On [`DEFAULT_PORT`], or on a free port when that is taken.
    Default,
    /// On this one, or not at all.
    Exactly(u16),
    /// On this one, which it had before, or on another free one.
    Kept(u16),
    /// On any free one.
    Free,
}

/// Whether a caller has to show a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPolicy {
    /// A missing one is accepted from this machine and from containers of components here; a wrong
    /// one nowhere.
    WhenForeign,
    /// Everyone has to.
    Required,
}

/// How a control plane is set up.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    /// The address that it listens on. Default 127.0.0.1.
    pub address: IpAddr,
    /// The port.
    pub port: PortChoice,
    /// Where components of other machines reach it, as `host:port`; `None` = at its address, unless that
    /// is of this machine alone.
    pub advertise: Option<String>,
    /// Whether a caller has to show a token.
    pub tokens: TokenPolicy,
    /// Its certificate; `None` = plain.
    pub tls: Option<TlsFiles>,
    /// When a component counts as silent; the owner is told of it by the daemon.
    pub patience: Patience,
    /// What connections may cost.
    pub limits: Limits,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: PortChoice::Default,
            advertise: None,
            tokens: TokenPolicy::WhenForeign,
            tls: None,
            patience: Patience::default(),
            limits: Limits::default(),
        }
    }
}

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The address cannot be listened on.
    #[error(
        "the control plane cannot listen on {address}: {why}; choose another port, or 0 for a free one"
    )]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the host said.
        why: io::Error,
    },
    /// The certificate cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What stands behind a control plane.
pub struct Behind {
    /// Who keeps what components say.
    pub owner: ReconcilerHandle,
    /// What time it is.
    pub clock: Clock,
    /// What tokens are checked with; `None` = nobody was given one.
    pub keys: Option<Arc<Keyring>>,
    /// Whose an address on a bridge is; `None` = nobody's, as far as that is known.
    pub containers: Option<Arc<dyn Containers>>,
}

/// A control plane that listens and does not answer yet.
pub struct ControlPlane {
    listeners: mpsc::UnboundedReceiver<Door>,
    doors: Doors,
    options: ControlPlaneOptions,
    tls: Option<Tls>,
    places: Places,
}

impl ControlPlane {
    /// Takes the port. Connections wait until [`ControlPlane::serve`].
    ///
    /// # Errors
    /// When the address cannot be listened on, or the certificate cannot be served.
    pub fn bind(options: ControlPlaneOptions) -> Result<Self, ControlPlaneError> {
        let tls = options.tls.clone();
        let tls = tls.map(|files| Tls::load(files, Speaks::Http2));
        let tls = tls.transpose()?;
        let (wanted, otherwise) = match options.port {
            PortChoice::Default => (DEFAULT_PORT, Some(0)),
            PortChoice::Exactly(port) => (port, None),
            PortChoice::Kept(port) => (port, Some(0)),
            PortChoice::Free => (0, None),
        };
        let on = |port| SocketAddr::new(options.address, port);
        let listener = listen_at(on(wanted)).or_else(|error| match (error.kind(), otherwise) {
            (io::ErrorKind::AddrInUse, Some(port)) => listen_at(on(port)),
            _ => Err(error),
        });
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|why| ControlPlaneError::Bind {
            address: on(wanted),
            why,
        })?;
        let (doors, listeners) = Doors::new(address);
        doors.begin(listener);
        Ok(Self {
            listeners,
            doors,
            options,
            tls,
            places: Places::default(),
        })
    }

    /// What it serves by, if by TLS.
    pub fn certificates(&self) -> Option<Certificates> {
        self.tls.clone()
    }

    /// Where it listens: what `status` shows and processes are told.
    pub fn address(&self) -> SocketAddr {
        self.doors.address()
    }

    /// How many connections it has, while it serves too.
    pub fn connections(&self) -> Connections {
        Connections(self.places.clone())
    }

    /// The way to open it to containers later.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Answers until `stop` is cancelled. Open connections are closed then.
    pub async fn serve(self, behind: Behind, stop: CancellationToken) {
        self.serve_to(behind, Box::new(peer::Sockets::default()), stop)
            .await;
    }

    /// The same for callers of whom `ends` tells who they are.
    async fn serve_to(self, behind: Behind, ends: Box<dyn peer::Ends>, stop: CancellationToken) {
        let admission = Admission {
            tokens: self.options.tokens,
            bridges: self.doors.bridges(),
            keys: behind.keys,
            ends,
            containers: behind.containers,
            owner: behind.owner.clone(),
            clock: behind.clock.clone(),
        };
        let desk = Desk {
            owner: behind.owner,
            clock: behind.clock,
            admission: Arc::new(admission),
        };
        let admission = Arc::clone(&desk.admission);
        let admitted = move |request: tonic::Request<()>| {
            admission.admit_to_reflection(&desk::shown(&request)?)?;
            Ok(request)
        };
        let incoming = listen::accept(
            self.listeners,
            self.places,
            self.options.limits,
            self.tls,
            &stop,
        );
        let (health, health_server) = tonic_health::server::health_reporter();
        for service in ["", "flowctl.ControlPlane", "flowctl.v1.ControlPlaneService"] {
            health
                .set_service_status(service, ServingStatus::Serving)
                .await;
        }
        let server = Server::builder()
            .layer(Intake::default())
            .timeout(LONGEST_CALL)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_concurrent_streams(STREAMS)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE / 2))
            .add_service(
                ControlPlaneServer::new(Legacy(desk.clone()))
                    .max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                ControlPlaneServiceServer::new(Sdk(desk.clone()))
                    .max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                ComponentGateServer::new(Gate(desk)).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(health_server)
            .add_service(InterceptedService::new(
                reflection().build_v1().expect(SOUND),
                admitted.clone(),
            ))
            .add_service(InterceptedService::new(
                reflection().build_v1alpha().expect(SOUND),
                admitted,
            ))
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled());
        let ended = tokio::select! {
            // Cancel-safe: what is dropped with it are connections that are closed anyway.
            ended = server => ended,
            // Cancel-safe: cancellation stays set, and the wait begins with it.
            () = async { stop.cancelled().await; tokio::time::sleep(LINGER).await } => Ok(()),
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the control plane ended");
        }
    }
}

/// What the reflection service may rely on.
const SOUND: &str = "the descriptors were made by this crate's build";

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A daemon that starts again must not wait for the connections of the one before to expire.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
