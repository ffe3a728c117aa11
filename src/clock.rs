//! Wall time that follows tokio's clock.
//!
//! **Guarantees.** [`Clock::now`] never jumps: it is one reading of the wall clock plus what
//! tokio's clock says has passed since, so paused tests move it and a step of the host's clock
//! does not. [`Clock::realign`] takes a step over when asked to, and says how large it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::Timestamp;

/// The daemon's clock. Cheap to clone; all clones are one clock.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    /// Wall clock at `started`, in milliseconds since the Unix epoch.
    anchor: Arc<AtomicI64>,
}

impl Clock {
    /// A clock set by the host's.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            anchor: Arc::new(AtomicI64::new(wall_millis())),
        }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.anchor.load(Ordering::Relaxed) + self.elapsed_millis())
    }

    /// The instant of tokio's clock at which [`Clock::now`] will say `at`; now if that has passed.
    pub fn instant_of(&self, at: Timestamp) -> Instant {
        Instant::now() + at.since(self.now())
    }

    /// Takes over the host's clock and answers by how many milliseconds that moved this one.
    /// Persisted deadlines are moved by as much, so a step neither fires nor parks any of them.
    pub fn realign(&self) -> i64 {
        let anchor = wall_millis() - self.elapsed_millis();
        anchor - self.anchor.swap(anchor, Ordering::Relaxed)
    }

    fn elapsed_millis(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn wall_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
