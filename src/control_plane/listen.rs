//! Connections, and what one of them may cost.
//!
//! **Guarantees.** So many connections at a time, so many of them from one host off this machine, and
//! half of them for one other user of this machine; a
//! newcomer takes the place of the one that is of least use, see [`Places`]. One that does not open
//! with a whole HTTP/2 greeting within 5 s is closed. Each has a budget of calls per second, shared
//! by all its streams; all connections of a host off this machine share one.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::diag;
use super::doors::Door;
use super::places::{Line, Origin, Place, Places};
use super::tls::Tls;

/// What one server's connections may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. Default 1,024, and never more than half of the files that may be open.
    pub connections: usize,
    /// Of these, from one host that is not this machine. Default 64.
    pub connections_per_host: usize,
    /// Calls per second, and as many again in a burst: of one connection from this machine, or of
    /// all connections of another host. Default 5,000.
    pub calls_per_second: u32,
    /// A connection opens with a whole greeting within this. Default 5 s.
    pub greeting: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_host: 64,
            calls_per_second: 5000,
            greeting: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// At most half of the files that this process may open are connections: the owner needs some to
    /// start components with.
    fn within_open_files(self) -> Self {
        let may_open = getrlimit(Resource::Nofile).current;
        let half = may_open.map_or(usize::MAX, |files| {
            usize::try_from(files / 2).unwrap_or(usize::MAX)
        });
        Self {
            connections: self.connections.min(half),
            ..self
        }
    }
}

/// The preface of HTTP/2 and the head of the settings frame that follows it.
const GREETING_BYTES: usize = 24 + 9;
/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// After an error of accept, such as too many open files, it rests this long.
const REST: Duration = Duration::from_millis(100);

/// A stream that may be plain or encrypted.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// One connection, watched until it has greeted.
pub(super) struct Connection {
    io: Box<dyn Transport>,
    line: Line,
    greeting: Option<Greeting>,
    place: Place,
}

struct Greeting {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    /// Fails once its place was given to somebody else. Whoever waits for more is woken then.
    fn poll_place(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.place.poll_given_up(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Line;

    fn connect_info(&self) -> Line {
        self.line.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_place(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        let Some(greeting) = &mut this.greeting else {
            return read;
        };
        greeting.missing = greeting
            .missing
            .saturating_sub(buffer.filled().len() - before);
        if greeting.missing == 0 {
            this.greeting = None;
        } else if greeting.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // One that reads nothing of what it is sent is not asked for more, and has to go all the same.
        this.poll_place(context)?;
        Pin::new(&mut this.io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

/// Accepts on every listener that arrives, until `stop`; what is accepted within the limits arrives
/// on the channel.
pub(super) fn accept(
    mut listeners: mpsc::UnboundedReceiver<Door>,
    places: Places,
    limits: Limits,
    tls: Option<Tls>,
    stop: &CancellationToken,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (accepted, incoming) = mpsc::channel(BACKLOG);
    let porter = Porter {
        places,
        limits: limits.within_open_files(),
        tls,
        accepted,
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                // Cancel-safe: a listener that was not taken stays in the channel.
                listener = listeners.recv() => match listener {
                    Some(listener) => {
                        tokio::spawn(porter.clone().attend(listener, stop.clone()));
                    }
                    // Nobody is left who could open another; those that are open are attended.
                    None => return,
                },
                // Cancel-safe: cancellation stays set.
                () = stop.cancelled() => return,
            }
        }
    });
    incoming
}

/// Who stands at a listener.
#[derive(Clone)]
struct Porter {
    places: Places,
    limits: Limits,
    tls: Option<Tls>,
    accepted: mpsc::Sender<io::Result<Connection>>,
}

impl Porter {
    async fn attend(self, door: Door, stop: CancellationToken) {
        // What is bound first is dropped last: the listener is gone before its closing is told.
        let Door {
            _closed,
            listener,
            close,
        } = door;
        loop {
            let stream = tokio::select! {
                // Cancel-safe: a connection that was not taken stays in the backlog.
                stream = listener.accept() => stream,
                // Cancel-safe: cancellation stays set.
                () = close.cancelled() => return,
                // Cancel-safe: cancellation stays set.
                () = stop.cancelled() => return,
            };
            let (stream, peer) = match stream {
                Ok(pair) => pair,
                Err(error) => {
                    tracing::warn!(%error, "the control plane could not accept a connection");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let place = self.places.enter(origin(&stream, peer), &self.limits);
            tokio::spawn(self.clone().take(stream, peer, place));
        }
    }

    async fn take(self, stream: TcpStream, peer: SocketAddr, mut place: Place) {
        let deadline = Instant::now() + self.limits.greeting;
        let opened = tokio::select! {
            // Cancel-safe: what is dropped half open is closed.
            opened = tokio::time::timeout_at(deadline, open_transport(stream, self.tls)) => opened,
            // Cancel-safe: it only waits.
            () = poll_fn(|context| place.poll_given_up(context)) => {
                tracing::debug!(%peer, "a connection gave up its place before it was open");
                return;
            }
        };
        let (io, local) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a connection could not be opened");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "a connection did not open in time");
                return;
            }
        };
        let connection = Connection {
            io,
            line: place.line(peer, local),
            greeting: Some(Greeting {
                missing: GREETING_BYTES,
                deadline: Box::pin(tokio::time::sleep_until(deadline)),
            }),
            place,
        };
        if self.accepted.send(Ok(connection)).await.is_err() {
            tracing::debug!(%peer, "a connection came while the control plane was closing");
        }
    }
}

/// Where a connection comes from.
fn origin(stream: &TcpStream, peer: SocketAddr) -> Origin {
    let from = peer.ip().to_canonical();
    if !from.is_loopback() {
        return Origin::Host(from);
    }
    let socket = stream.local_addr().ok();
    let socket = socket.and_then(|local| diag::socket(peer, local));
    let own = rustix::process::geteuid().as_raw();
    match socket {
        Some(socket) if socket.uid != own && socket.uid != 0 => Origin::User(socket.uid),
        Some(_) | None => Origin::Here,
    }
}

async fn open_transport(
    stream: TcpStream,
    tls: Option<Tls>,
) -> io::Result<(Box<dyn Transport>, SocketAddr)> {
    let local = stream.local_addr()?;
    // Answers are small and each is waited for.
    stream.set_nodelay(true)?;
    let io: Box<dyn Transport> = match tls {
        Some(tls) => Box::new(tls.accept(stream).await?),
        None => Box::new(stream),
    };
    Ok((io, local))
}
