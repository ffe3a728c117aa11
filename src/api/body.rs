//! Bodies of requests on their way in, and what senders can make us hold.
//!
//! **Guarantees.** A small body, as nearly all are, waits for nobody. Few larger ones are read at
//! once, of one process one at a time, and one that comes slowly loses its turn once others wait: so
//! neither one process nor many can keep a request of somebody else out for long.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::FromRequest;
use axum::http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body as _;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{ApiError, ErrorCode};

/// Largest body: sixteen manifests of the largest size that is read.
const BODY_LIMIT: usize = 16 << 20;
/// The beginning of a body, which is all of most of them, arrives within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Up to this a body is read without a turn: nearly all are, and wait for no slow sender.
const SMALL_BODY: usize = 64 << 10;
/// Larger request bodies read at once: with [`BODY_LIMIT`] this bounds what senders can make us hold.
const MAX_BODIES: usize = 4;
/// How long a larger one waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// And how long it may hold it. A sender that means it needs a tenth of a second for the largest.
const TURN: Duration = Duration::from_secs(2);
/// While others wait, a turn goes on only as long as at least [`LEAST`] came in each of these.
const PACE: Duration = Duration::from_millis(250);
/// A fortieth of what a sender that means it gives in that time.
const LEAST: usize = 1 << 20;

/// The process at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer(Option<i32>);

impl Peer {
    /// Who has connected.
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self(stream.peer_cred().ok().and_then(|peer| peer.pid()))
    }
}

/// A body that has not been read yet, and whose it is.
pub(super) struct Sent {
    peer: Peer,
    body: Body,
}

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Infallible;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Infallible> {
        let peer = request.extensions().get().copied();
        Ok(Self {
            peer: peer.unwrap_or(Peer(None)),
            body: request.into_body(),
        })
    }
}

/// All bodies that are being read.
pub(super) struct Bodies {
    turns: Semaphore,
    /// How many wait for one of those.
    waiting: AtomicUsize,
    /// Of each process one, while somebody has it or waits for it.
    peers: Mutex<HashMap<Peer, Weak<Semaphore>>>,
}

/// The right to send a large body.
struct Turn<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_peer: OwnedSemaphorePermit,
}

impl Bodies {
    pub(super) fn new() -> Self {
        Self {
            turns: Semaphore::new(MAX_BODIES),
            waiting: AtomicUsize::new(0),
            peers: Mutex::default(),
        }
    }

    /// Reads all of a body, within limits of size, time and number.
    pub(super) async fn read(&self, sent: Sent) -> Result<Bytes, ApiError> {
        let Sent { peer, body } = sent;
        // A length that is announced is judged before a single byte is read.
        if usize::try_from(body.size_hint().lower()).is_ok_and(|length| length > BODY_LIMIT) {
            return Err(unreadable(&"it is larger"));
        }
        let mut body = Limited::new(body, BODY_LIMIT);
        let mut read = Vec::new();
        let until = Instant::now() + BODY_TIMEOUT;
        match fill(&mut body, &mut read, SMALL_BODY, until).await? {
            Filled::Whole => return Ok(read.into()),
            Filled::InPart => {}
            Filled::Late => return Err(late(BODY_TIMEOUT)),
        }
        let turn = timeout(TURN_PATIENCE, self.turn(peer)).await;
        let _turn = turn
            .map_err(|_| ApiError::new(ErrorCode::Busy, "too many send large requests at once"))?;
        let over = Instant::now() + TURN;
        loop {
            let due = read.len() + LEAST;
            let until = over.min(Instant::now() + PACE);
            match fill(&mut body, &mut read, usize::MAX, until).await? {
                Filled::Whole => return Ok(read.into()),
                Filled::InPart | Filled::Late => {}
            }
            let is_slow = read.len() < due && self.waiting.load(Ordering::Relaxed) > 0;
            if is_slow || Instant::now() >= over {
                return Err(late(if is_slow { PACE } else { TURN }));
            }
        }
    }

    async fn turn(&self, peer: Peer) -> Turn<'_> {
        const OPEN: &str = "no semaphore is ever closed";
        let own = self.of(peer);
        // First among its own: what waits there keeps nobody else waiting.
        let _of_peer = own.acquire_owned().await.expect(OPEN);
        let _waiting = Waiting::begin(&self.waiting);
        let _of_all = self.turns.acquire().await.expect(OPEN);
        Turn { _of_all, _of_peer }
    }

    fn of(&self, peer: Peer) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        peers.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(1));
        peers.insert(peer, Arc::downgrade(&own));
        own
    }
}

/// Counts one that waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn unreadable(why: &dyn Display) -> ApiError {
    let message = format!("could not read the request's body (at most {BODY_LIMIT} bytes): {why}");
    ApiError::new(ErrorCode::BadRequest, message)
}

fn late(within: Duration) -> ApiError {
    let message = format!("the request's body did not arrive within {within:?}");
    ApiError::new(ErrorCode::Busy, message)
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    Whole,
    /// More than enough is there.
    InPart,
    /// Time was over first. What had come is there.
    Late,
}

/// Reads `body` into `read` until it ends, more than `enough` is there, or time is over.
async fn fill(
    body: &mut Limited<Body>,
    read: &mut Vec<u8>,
    enough: usize,
    until: Instant,
) -> Result<Filled, ApiError> {
    while read.len() <= enough {
        // Cancel-safe: a frame is handed over whole or stays where it is.
        let Ok(frame) = timeout_at(until, body.frame()).await else {
            return Ok(Filled::Late);
        };
        let Some(frame) = frame else {
            return Ok(Filled::Whole);
        };
        let frame = frame.map_err(|error: Box<dyn Error + Send + Sync>| unreadable(&error))?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
        }
    }
    Ok(Filled::InPart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;

    /// A body whose bytes come when they are sent.
    fn body_of(peer: i32) -> (mpsc::Sender<Bytes>, Sent) {
        let (sender, bytes) = mpsc::channel(1);
        let stream = ReceiverStream::new(bytes).map(Ok::<_, Infallible>);
        let body = Body::from_stream(stream);
        let peer = Peer(Some(peer));
        (sender, Sent { peer, body })
    }

    /// Sends `first` and then, for as long as it is listened to, a byte every tenth of a second.
    async fn dribble(sender: mpsc::Sender<Bytes>, first: usize) {
        let mut next = Bytes::from(vec![b'x'; first]);
        while sender.send(next).await.is_ok() {
            next = Bytes::from_static(b"x");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn slow(bodies: &Arc<Bodies>, peer: i32) {
        let (sender, sent) = body_of(peer);
        tokio::spawn(dribble(sender, SMALL_BODY + 1));
        let bodies = Arc::clone(bodies);
        tokio::spawn(async move { bodies.read(sent).await });
    }

    async fn honest(bodies: &Bodies, peer: i32) -> Result<usize, ApiError> {
        let (sender, sent) = body_of(peer);
        let send = async move {
            for _ in 0..4 {
                let piece = Bytes::from(vec![b'x'; 1 << 20]);
                sender.send(piece).await.expect("somebody reads it");
            }
        };
        let (read, ()) = tokio::join!(bodies.read(sent), send);
        Ok(read?.len())
    }

    #[tokio::test(start_paused = true)]
    async fn two_hundred_slow_senders_of_one_process_keep_nobody_else_waiting() {
        let bodies = Arc::new(Bodies::new());
        for _ in 0..200 {
            slow(&bodies, 1);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        assert_eq!(honest(&bodies, 2).await.unwrap(), 4 << 20);
        assert!(begun.elapsed() < Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_senders_of_many_processes_lose_their_turns_once_others_wait() {
        let bodies = Arc::new(Bodies::new());
        for peer in 1..=200 {
            slow(&bodies, peer);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        let read = join_all((0..4).map(|peer| honest(&bodies, 1000 + peer))).await;
        for read in read {
            assert_eq!(read.unwrap(), 4 << 20);
        }
        assert!(begun.elapsed() < Duration::from_secs(15));
        assert!(bodies.peers.lock().unwrap().len() <= 205);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_while_nobody_waits_has_its_whole_turn() {
        let bodies = Bodies::new();
        let (sender, sent) = body_of(1);
        let send = async move {
            sender.send(vec![b'x'; SMALL_BODY + 1].into()).await.ok();
            tokio::time::sleep(TURN - Duration::from_millis(10)).await;
            sender.send(Bytes::from_static(b"the end")).await.ok();
        };
        let (read, ()) = tokio::join!(bodies.read(sent), send);
        assert!(read.unwrap().ends_with(b"the end"));
    }
}
