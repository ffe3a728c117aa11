//! Requests on their way in, and what all of them together may hold.
//!
//! **Guarantees.** A request that has begun is whole within 5 s or refused. What has arrived of all
//! unfinished requests is bounded, however many connections and streams they come over; the first
//! 4 KiB of each are free, so that heartbeats pass while somebody else fills the rest. Another user of
//! this machine, or another host, fills a quarter of it at most.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tower::{Layer, Service};

use super::places::Line;

/// A request is whole within this.
const WHOLE_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of each request that count for nothing.
const FREE: usize = 4 * 1024;
/// Bytes of all unfinished requests together, beyond those.
const ROOM: usize = 16 * 1024 * 1024;
/// How much of that one origin may hold that is not the daemon's own user.
const ROOM_OF_A_STRANGER: usize = ROOM / 4;
/// Bytes of one request: the largest message and its frame; for a stream, all of its messages.
const LARGEST: usize = super::MAX_MESSAGE + FREE;
/// Services whose requests are streams, which may stay open.
const STREAMS: &str = "/grpc.";

/// The room for unfinished requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    left: Arc<AtomicUsize>,
}

impl Default for Intake {
    fn default() -> Self {
        Self::of(ROOM)
    }
}

impl Intake {
    /// The part of one origin, which counts beside the room of all.
    pub(super) fn of_a_stranger() -> Self {
        Self::of(ROOM_OF_A_STRANGER)
    }

    fn of(bytes: usize) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let left = |left: usize| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<S> Layer<S> for Intake {
    type Service = Weighing<S>;

    fn layer(&self, inner: S) -> Weighing<S> {
        let intake = self.clone();
        Weighing { inner, intake }
    }
}

/// A service that gets weighed requests.
#[derive(Clone)]
pub(super) struct Weighing<S> {
    inner: S,
    intake: Intake,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Weighing<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let pace = if request.uri().path().starts_with(STREAMS) {
            Pace::Any
        } else {
            Pace::Prompt(None)
        };
        let line = request.extensions().get::<Line>();
        let share = line.and_then(Line::intake).cloned();
        let weighed = |body| Weighed {
            body,
            pace,
            intake: self.intake.clone(),
            share,
            seen: 0,
            held: 0,
        };
        let request = request.map(|body| Body::new(weighed(body)));
        self.inner.call(request)
    }
}

/// How long a request may take to arrive.
enum Pace {
    /// As long as it likes.
    Any,
    /// [`WHOLE_WITHIN`]; the timer is set once something has to be waited for.
    Prompt(Option<Pin<Box<Sleep>>>),
}

/// The body of a request, weighed as it arrives.
struct Weighed {
    body: Body,
    pace: Pace,
    intake: Intake,
    /// What its origin may hold of that; `None` = all.
    share: Option<Intake>,
    seen: usize,
    held: usize,
}

impl Weighed {
    fn weigh(&mut self, bytes: usize) -> Result<(), Status> {
        self.seen += bytes;
        if self.seen > LARGEST {
            return Err(Status::resource_exhausted("the request is too large"));
        }
        let more = self.seen.saturating_sub(FREE) - self.held;
        let full = || Status::resource_exhausted("too many unfinished requests; try again later");
        if self.share.as_ref().is_some_and(|share| !share.take(more)) {
            return Err(full());
        }
        if !self.intake.take(more) {
            if let Some(share) = &self.share {
                share.give_back(more);
            }
            return Err(full());
        }
        self.held += more;
        Ok(())
    }

    /// Whether time is over that ran already. Frames without content may come without an end.
    fn was_late(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.pace {
            Pace::Any | Pace::Prompt(None) => false,
            Pace::Prompt(Some(timer)) => timer.as_mut().poll(context).is_ready(),
        }
    }

    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.pace {
            Pace::Any => false,
            Pace::Prompt(timer) => {
                let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(WHOLE_WITHIN)));
                timer.as_mut().poll(context).is_ready()
            }
        }
    }
}

impl HttpBody for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.was_late(context) {
            return Poll::Ready(Some(Err(late())));
        }
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(this.weigh(bytes).map(|()| frame)))
            }
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending if this.is_late(context) => Poll::Ready(Some(Err(late()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn late() -> Status {
    Status::deadline_exceeded("the request did not arrive whole in time")
}

impl Drop for Weighed {
    fn drop(&mut self) {
        for intake in [Some(&self.intake), self.share.as_ref()]
            .into_iter()
            .flatten()
        {
            intake.give_back(self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfinished(intake: &Intake) -> Weighed {
        of(None, intake)
    }

    fn of(share: Option<&Intake>, intake: &Intake) -> Weighed {
        Weighed {
            body: Body::empty(),
            pace: Pace::Any,
            intake: intake.clone(),
            share: share.cloned(),
            seen: 0,
            held: 0,
        }
    }

    #[test]
    fn unfinished_requests_fill_the_room_heartbeats_pass_and_the_room_is_given_back() {
        let intake = Intake::default();
        let mut slow: Vec<_> = (0..10_000).map(|_| unfinished(&intake)).collect();
        let whole = |request: &mut Weighed| (0..16).all(|_| request.weigh(FREE).is_ok());
        let taken = slow
            .iter_mut()
            .map(whole)
            .take_while(|whole| *whole)
            .count();
        assert_eq!(taken, ROOM / (15 * FREE));
        assert!(unfinished(&intake).weigh(1024).is_ok());
        assert!(unfinished(&intake).weigh(2 * FREE).is_err());
        drop(slow);
        assert_eq!(intake.left.load(Ordering::Relaxed), ROOM);
        assert!(unfinished(&intake).weigh(LARGEST + 1).is_err());
    }

    #[test]
    fn a_stranger_fills_its_own_part_of_the_room_and_leaves_the_rest_to_others() {
        let (intake, share) = (Intake::default(), Intake::of_a_stranger());
        let mut slow: Vec<_> = (0..10_000).map(|_| of(Some(&share), &intake)).collect();
        let whole = |request: &mut Weighed| (0..16).all(|_| request.weigh(FREE).is_ok());
        let taken = slow.iter_mut().map(whole).filter(|whole| *whole).count();
        assert_eq!(taken, ROOM_OF_A_STRANGER / (15 * FREE));
        assert!(unfinished(&intake).weigh(LARGEST).is_ok());
        assert!(of(Some(&share), &intake).weigh(1024).is_ok(), "a heartbeat");
        drop(slow);
        assert_eq!(intake.left.load(Ordering::Relaxed), ROOM);
        assert_eq!(share.left.load(Ordering::Relaxed), ROOM_OF_A_STRANGER);
        const { assert!(LARGEST < ROOM_OF_A_STRANGER) };
    }
}
