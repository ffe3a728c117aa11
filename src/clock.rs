//! Wall time that follows tokio's clock.
//!
//! **Guarantees.** [`Clock::now`] never jumps: it is one reading of the wall clock plus what
//! tokio's clock says has passed since, so paused tests move it and a step of the host's clock
//! does not. [`Clock::realign`] takes a step over when asked to, and says how large it was. It costs
//! two readings of clocks, so its user asks before it handles anything: then nothing that others
//! wrote down by the host's clock is ever compared with a clock of before the step.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::Timestamp;

/// What the host's clock differs by from ours before it counts as set. Both follow the same
/// corrections of speed, so they do not drift apart.
const STEP_MILLIS: i64 = 1000;

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

    /// Takes over a step of the host's clock and answers by how many milliseconds that moved this
    /// one; `None` when it was not set. Persisted deadlines are moved by as much, so a step neither
    /// fires nor parks any of them.
    pub fn realign(&self) -> Option<i64> {
        self.realign_to(wall_millis())
    }

    /// As if the host's clock said `wall` milliseconds since the Unix epoch.
    pub(crate) fn realign_to(&self, wall: i64) -> Option<i64> {
        let anchor = wall - self.elapsed_millis();
        let millis = anchor - self.anchor.load(Ordering::Relaxed);
        if millis.abs() < STEP_MILLIS {
            return None;
        }
        self.anchor.store(anchor, Ordering::Relaxed);
        Some(millis)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const DAY: i64 = 24 * 3600 * 1000;

    #[tokio::test(start_paused = true)]
    async fn a_step_of_a_day_is_taken_over_once_and_moves_no_deadline() {
        for step in [DAY, -DAY] {
            let clock = Clock::new();
            let wall = clock.now().as_millis();
            let deadline = clock.now().after(Duration::from_secs(7));
            let instant = clock.instant_of(deadline);
            tokio::time::advance(Duration::from_secs(5)).await;
            assert_eq!(clock.realign_to(wall + 5_000), None, "nothing was set");
            assert_eq!(
                clock.realign_to(wall + 5_900),
                None,
                "too little to be a step"
            );
            assert_eq!(clock.now().as_millis(), wall + 5_000);
            assert_eq!(clock.realign_to(wall + 5_000 + step), Some(step));
            assert_eq!(clock.realign_to(wall + 5_000 + step), None, "only once");
            assert_eq!(clock.now().as_millis(), wall + 5_000 + step);
            assert_eq!(clock.instant_of(deadline.shifted(step)), instant);
        }
    }
}
