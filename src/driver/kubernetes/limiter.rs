//! How many calls a second the cluster is asked: client libraries of the field limit themselves, and
//! so does this driver. Stops have a share of their own, so that they never queue behind starts.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls a second, and how many at once after a rest.
const USUAL: (f64, f64) = (50.0, 100.0);
const FOR_STOPS: (f64, f64) = (20.0, 40.0);

/// Which share of the calls one takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// That of everything.
    Usual,
    /// That of what ends something.
    Stops,
}

/// Lets calls through at a bounded rate.
pub(super) struct Limiter {
    usual: Mutex<Bucket>,
    stops: Mutex<Bucket>,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            usual: Mutex::new(Bucket::full(USUAL, now)),
            stops: Mutex::new(Bucket::full(FOR_STOPS, now)),
        }
    }

    /// Waits until a call of this share may be made.
    pub(super) async fn admit(&self, share: Share) {
        let bucket = match share {
            Share::Usual => &self.usual,
            Share::Stops => &self.stops,
        };
        loop {
            let taken = {
                let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                bucket.take(Instant::now())
            };
            match taken {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}

struct Bucket {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full((rate, burst): (f64, f64), now: Instant) -> Self {
        Self {
            rate,
            burst,
            left: burst,
            at: now,
        }
    }

    /// Takes one; else answers how long to wait before the next try.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.rate).min(self.burst);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_through_and_then_so_many_a_second() {
        let begin = Instant::now();
        let mut bucket = Bucket::full((10.0, 3.0), begin);
        for _ in 0..3 {
            assert_eq!(bucket.take(begin), Ok(()));
        }
        let wait = bucket.take(begin).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(bucket.take(begin + wait), Ok(()));
        assert!(bucket.take(begin + wait).is_err());
        let later = begin + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(bucket.take(later), Ok(()));
        }
        assert!(
            bucket.take(later).is_err(),
            "a rest saves no more than that"
        );
    }
}
