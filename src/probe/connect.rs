//! TCP connections to components, and whose fault it is when there is none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::net::TcpStream;

use super::metadata::{WHY, is_metadata};
use super::site::{Door, Whose};
use super::{AskError, Host, Trouble};

/// So often a shared port is asked for a connection of one's own. Of three that share it, all but one
/// in a hundred thousand asks find it.
const TRIES: usize = 30;
/// The pauses, in milliseconds, within which a component that is well takes a connection.
const TAKEN_WITHIN: [u64; 5] = [1, 2, 4, 8, 16];

impl Door<'_> {
    /// Connects to the first address of its host that accepts, and belongs to the component where
    /// it is one of this host.
    pub(super) async fn connect(&self) -> Result<TcpStream, Trouble> {
        let (host, port) = (&self.host, self.port);
        let addresses = match host {
            // A program that listens on `localhost` may have got either of the two.
            Host::Loopback => vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            ],
            Host::Ip(ip) => vec![SocketAddr::from((*ip, port))],
            Host::Name(name) => tokio::net::lookup_host((name.as_str(), port))
                .await
                .map_err(|_| Trouble::component(format!("cannot resolve {name}")))?
                .collect(),
        };
        let is_open = |address: &SocketAddr| !is_metadata(address.ip());
        if !addresses.is_empty() && !addresses.iter().any(is_open) {
            return Err(Trouble::component(format!("{host} {WHY}")));
        }
        let mut first = None;
        for address in addresses.into_iter().filter(is_open) {
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                // The first address is the one that people expect to answer: its error is told, and
                // not that this host has no IPv6.
                Err(trouble) => first = first.or(Some(trouble)),
            }
        }
        Err(first.unwrap_or_else(|| Trouble::component(format!("{host} has no address"))))
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, Trouble> {
        let failed = |error: io::Error| connecting_failed(address.ip(), &error);
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let (ours, theirs) = match (stream.local_addr(), stream.peer_addr()) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            // It was cut off meanwhile.
            (Err(error), _) | (_, Err(error)) => return Err(broken(&error)),
        };
        // Where nobody listens, the kernel may give the asker the very port that it asks, and
        // connects it to itself.
        if ours == theirs {
            // Without the reset the kernel would keep the component's port busy for a minute.
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%address, %error, "a port that asked itself stays busy for a while");
            }
            return Err(failed(io::ErrorKind::ConnectionRefused.into()));
        }
        // The kernel answers its own addresses from themselves.
        let is_of_this_host = theirs.ip().is_loopback() || theirs.ip() == ours.ip();
        if !is_of_this_host {
            return Ok(stream);
        }
        match self.whose(theirs).await {
            Whose::Own | Whose::Unknown => Ok(stream),
            Whose::Shared => self.connect_among(stream, address).await,
            Whose::Other(who) => Err(Trouble::component(format!(
                "port {} is answered by {who}, not by this component",
                theirs.port()
            ))),
        }
    }

    /// Connects to a port that others serve too, as replicas with `SO_REUSEPORT` do, until a
    /// connection comes to the component itself.
    async fn connect_among(
        &self,
        first: TcpStream,
        address: SocketAddr,
    ) -> Result<TcpStream, Trouble> {
        let mut stream = first;
        for _ in 0..TRIES {
            let ends = stream
                .local_addr()
                .and_then(|ours| Ok((ours, stream.peer_addr()?)));
            let (ours, theirs) = ends.map_err(|error| broken(&error))?;
            for pause in TAKEN_WITHIN {
                match self.taker(ours, theirs).await {
                    Some(Whose::Own | Whose::Unknown) => return Ok(stream),
                    Some(Whose::Other(_) | Whose::Shared) => break,
                    // Whoever it was has taken it and closed it already.
                    None if is_closed(&stream) => return Ok(stream),
                    // It waits: whose it is shows once it is taken.
                    None => tokio::time::sleep(Duration::from_millis(pause)).await,
                }
            }
            let connected = TcpStream::connect(address).await;
            stream = connected.map_err(|error| connecting_failed(address.ip(), &error))?;
        }
        let port = address.port();
        Err(Trouble::component(format!(
            "port {port} is shared with others, and it took none of {TRIES} connections"
        )))
    }
}

/// Whether the other side has ended the connection. What it said before that stays to be read.
fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    let peeked = recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok_and(|(count, _)| count == 0)
}

fn connecting_failed(ip: IpAddr, error: &io::Error) -> Trouble {
    // On loopback this errno means that no local port is left, elsewhere that there is no route.
    if Errno::from_io_error(error) == Some(Errno::ADDRNOTAVAIL) && ip.is_loopback() {
        return exhausted(error);
    }
    broken(error)
}

/// What an error on a socket means.
pub(super) fn broken(error: &io::Error) -> Trouble {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => exhausted(error),
        Some(_) | None => Trouble::component(error.kind().to_string()),
    }
}

/// The trouble of having run out of something.
pub(super) fn exhausted(error: &io::Error) -> Trouble {
    AskError::Exhausted {
        why: error.to_string(),
    }
    .into()
}
