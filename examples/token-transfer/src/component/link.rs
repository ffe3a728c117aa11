//! Connections between components: how they are made, how a dead peer is noticed, how long to wait
//! before the next try.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Error};

/// The largest message that is accepted. A busy ledger of the public network has a few MiB, which
/// is more than gRPC's usual limit of 4 MiB.
pub const MAX_MESSAGE: usize = 128 << 20;

/// How often a silent peer is asked for a sign of life, and how long it has for the answer. This
/// is what tells a peer that hangs, or a network that swallows packets, from one with nothing to say.
pub const KEEPALIVE: Duration = Duration::from_secs(5);

/// Bytes a stream may be ahead of its reader. More than that waits at the sender: back-pressure.
pub const WINDOW: u32 = 1 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to `peer` (`host:port`).
///
/// # Errors
/// Nobody answers there, or not in time.
pub async fn connect(peer: &str) -> Result<Channel, Error> {
    Endpoint::from_shared(format!("http://{peer}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 2)
        .tcp_nodelay(true)
        .connect()
        .await
}

/// What went wrong, with its causes: the outermost error alone often says only "transport error".
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// Delays between tries: doubling from a first one up to a last one, back to the first on success.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays of `first`, then twice that, and so on up to `last`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            next: first,
        }
    }

    /// The delay before the next try.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.last);
        delay
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// 100 ms, doubling up to 3 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let delays: Vec<_> = (0..4).map(|_| backoff.delay().as_millis()).collect();
        assert_eq!(delays, [100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.delay().as_millis(), 100);
    }
}
