//! TCP connections to components, and whose fault it is when there is none.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::task::Poll;

use rustix::io::Errno;
use tokio::net::TcpStream;

use super::{AskError, Host, Trouble};

/// Connects to the first address of `host` that accepts.
pub(super) async fn connect(host: &Host, port: u16) -> Result<TcpStream, Trouble> {
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
    let mut first = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            // The first address is the one that people expect to answer: its error is told, and
            // not that this host has no IPv6.
            Err(error) => first = first.or(Some((address.ip(), error))),
        }
    }
    Err(match first {
        Some((ip, error)) => connecting_failed(ip, &error),
        None => Trouble::component(format!("{host} has no address")),
    })
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

/// Runs an exchange together with the connection that carries it, until the exchange is over.
/// Both live in the caller's task, so giving up on the answer closes the socket.
pub(super) async fn alongside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    let mut open = true;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        if open && connection.as_mut().poll(cx).is_ready() {
            open = false;
            // What had arrived before the end has not been looked at yet.
            return exchange.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
}
