//! Connections, and what one of them may cost.
//!
//! **Guarantees.** So many connections at a time, so many of them from one host off this machine.
//! One that does not open with a whole HTTP/2 greeting within 5 s is closed. Each has a budget of
//! calls per second, shared by all its streams; all connections of a host off this machine share
//! one.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::tls::Tls;

/// What one server's connections may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. Default 1,024.
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

/// The preface of HTTP/2 and the head of the settings frame that follows it.
const GREETING_BYTES: usize = 24 + 9;
/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// After an error of accept, such as too many open files, it rests this long.
const REST: Duration = Duration::from_millis(100);

/// What is known of the connection that a call came over.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The other end.
    pub peer: SocketAddr,
    /// Our end, as the client reached it.
    pub local: SocketAddr,
    budget: Arc<Mutex<Budget>>,
}

impl Line {
    /// Takes one call off the budget; `false` when none is left.
    pub fn spend(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.spend(Instant::now())
    }
}

/// A bucket that fills at the allowed rate.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second,
            filled: now,
        }
    }

    fn spend(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.per_second);
        self.filled = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// The connections that are open, by host.
#[derive(Clone, Debug, Default)]
struct Open {
    hosts: Arc<Mutex<HashMap<IpAddr, Guest>>>,
}

/// A host that has connections.
#[derive(Debug)]
struct Guest {
    connections: usize,
    budget: Arc<Mutex<Budget>>,
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
struct Place {
    open: Open,
    host: IpAddr,
    budget: Arc<Mutex<Budget>>,
}

impl Open {
    fn enter(&self, host: IpAddr, limits: &Limits) -> Option<Place> {
        let host = host.to_canonical();
        let new_budget = || {
            let budget = Budget::new(limits.calls_per_second, Instant::now());
            Arc::new(Mutex::new(budget))
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = hosts.values().map(|guest| guest.connections).sum();
        let of_host = hosts.get(&host).map_or(0, |guest| guest.connections);
        let crowded = !host.is_loopback() && of_host >= limits.connections_per_host;
        if all >= limits.connections || crowded {
            return None;
        }
        let guest = hosts.entry(host).or_insert_with(|| Guest {
            connections: 0,
            budget: new_budget(),
        });
        guest.connections += 1;
        Some(Place {
            open: self.clone(),
            host,
            // On this machine, each connection is another component's.
            budget: if host.is_loopback() {
                new_budget()
            } else {
                Arc::clone(&guest.budget)
            },
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let hosts = &self.open.hosts;
        let mut hosts = hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = hosts.get_mut(&self.host) {
            guest.connections -= 1;
            if guest.connections == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// A stream that may be plain or encrypted.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// One connection, watched until it has greeted.
pub(super) struct Connection {
    io: Box<dyn Transport>,
    line: Line,
    greeting: Option<Greeting>,
    _place: Place,
}

struct Greeting {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
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
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
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
    mut listeners: mpsc::UnboundedReceiver<TcpListener>,
    limits: Limits,
    tls: Option<Tls>,
    stop: &CancellationToken,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (accepted, incoming) = mpsc::channel(BACKLOG);
    let porter = Porter {
        open: Open::default(),
        limits,
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
    open: Open,
    limits: Limits,
    tls: Option<Tls>,
    accepted: mpsc::Sender<io::Result<Connection>>,
}

impl Porter {
    async fn attend(self, listener: TcpListener, stop: CancellationToken) {
        loop {
            let stream = tokio::select! {
                // Cancel-safe: a connection that was not taken stays in the backlog.
                stream = listener.accept() => stream,
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
            let Some(place) = self.open.enter(peer.ip(), &self.limits) else {
                tracing::debug!(%peer, "too many connections; this one is closed");
                continue;
            };
            tokio::spawn(self.clone().take(stream, peer, place));
        }
    }

    async fn take(self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let deadline = Instant::now() + self.limits.greeting;
        let opened = tokio::time::timeout_at(deadline, open_transport(stream, self.tls)).await;
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
            line: Line {
                peer,
                local,
                budget: Arc::clone(&place.budget),
            },
            greeting: Some(Greeting {
                missing: GREETING_BYTES,
                deadline: Box::pin(tokio::time::sleep_until(deadline)),
            }),
            _place: place,
        };
        if self.accepted.send(Ok(connection)).await.is_err() {
            tracing::debug!(%peer, "a connection came while the control plane was closing");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_fills_again_at_its_rate_and_holds_one_second_of_calls() {
        let mut budget = Budget::new(100, Instant::now());
        let spent = |budget: &mut Budget| {
            (0..1000)
                .take_while(|_| budget.spend(Instant::now()))
                .count()
        };
        assert_eq!(spent(&mut budget), 100);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(spent(&mut budget), 50);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(spent(&mut budget), 100);
    }

    #[test]
    fn one_foreign_host_cannot_take_every_place() {
        let limits = Limits {
            connections: 10,
            connections_per_host: 3,
            ..Limits::default()
        };
        let open = Open::default();
        let far: IpAddr = "10.0.0.9".parse().unwrap();
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        let mut places: Vec<_> = (0..5).filter_map(|_| open.enter(far, &limits)).collect();
        assert_eq!(places.len(), 3);
        places.extend((0..20).filter_map(|_| open.enter(near, &limits)));
        assert_eq!(places.len(), 10);
        places.clear();
        assert!(open.enter(far, &limits).is_some(), "places are given back");
        assert!(open.hosts.lock().unwrap().is_empty());
    }

    #[test]
    fn the_connections_of_one_foreign_host_share_one_budget_and_local_ones_do_not() {
        let limits = Limits {
            calls_per_second: 10,
            ..Limits::default()
        };
        let open = Open::default();
        let spent = |host: &str| {
            let places: Vec<_> = (0..3)
                .filter_map(|_| open.enter(host.parse().unwrap(), &limits))
                .collect();
            let now = Instant::now();
            let spend = |place: &Place| place.budget.lock().unwrap().spend(now);
            let calls = |place| (0..20).filter(|_| spend(place)).count();
            places.iter().map(calls).sum::<usize>()
        };
        assert_eq!(spent("127.0.0.1"), 30);
        assert_eq!(spent("10.0.0.9"), 10);
    }
}
