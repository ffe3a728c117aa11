//! Room for connections: so many at once, and less patience with each of them the fewer places are
//! left.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A request's head arrives within this while more than half of all places are taken: whoever means
/// it sends its head at once, and the others must not keep everyone else out.
const HURRIED: Duration = Duration::from_millis(500);
/// Distance to the next accept after one failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The places of one listener.
pub(super) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    patience: Duration,
}

/// One that is taken until it is dropped.
pub(super) struct Place(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

impl Places {
    /// So many places; a request's head arrives within `patience` as long as half of them are free.
    pub(super) fn new(most: usize, patience: Duration) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            patience,
        }
    }

    /// Waits until there is a place; others wait in the kernel. Cancel-safe.
    pub(super) async fn take(&self) -> Place {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        Place(permit.expect("the semaphore is never closed"))
    }

    /// How long a connection that has just come may take over the head of a request.
    pub(super) fn patience(&self) -> Duration {
        if self.free.available_permits() > self.most / 2 {
            self.patience
        } else {
            HURRIED.min(self.patience)
        }
    }
}

/// Rests after a connection could not be accepted. `whose` is whom it would have served.
pub(super) async fn rest_after(error: &io::Error, whose: &str) {
    tracing::warn!(%error, "could not accept the connection of {whose}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
