//! Heartbeats on their way to the owner: the latest of each id, taken in groups.
//!
//! A client that beats hundreds of times a second costs the owner one entry a second. What waits
//! is bounded by the number of ids, never by the number of heartbeats.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{Metrics, ServiceHealth, ServiceId, Timestamp};

use super::identity::Identity;
use super::merge;

/// Heartbeats are taken in no more often than this.
const PACE: Duration = Duration::from_secs(1);
/// Ids that may wait; beyond it only ids that wait already are merged.
const MAX_WAITING: usize = 16_384;

/// One or more heartbeats of one id.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// When the latest arrived.
    pub at: Timestamp,
    /// What it says of its health; `None` = only that it lives.
    pub said: Option<ServiceHealth>,
    /// The figures that came along.
    pub metrics: Metrics,
    /// Where it came from.
    pub ip: Option<IpAddr>,
    /// Who sends it; not looked for where nothing depends on it.
    pub who: Identity,
}

/// Whether a heartbeat may be sent away for want of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It is of a registration that has an owner, of which there are only so many.
    Always,
    /// While there is some.
    WhileLeft,
}

/// Too many ids wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// The heartbeats that the owner has not taken yet, shared between the servers and the owner.
#[derive(Clone, Debug, Default)]
pub struct Beats {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    beats: BTreeMap<ServiceId, Beat>,
    taken: Option<Instant>,
}

impl Beats {
    /// Hands in a heartbeat.
    ///
    /// # Errors
    /// When so many ids wait that a new one has no room.
    pub fn push(&self, id: ServiceId, beat: Beat, room: Room) -> Result<(), TooMany> {
        let mut waiting = self.lock();
        if let Some(before) = waiting.beats.get_mut(&id) {
            before.at = before.at.max(beat.at);
            before.said = beat.said.or(before.said);
            before.ip = beat.ip;
            before.who = beat.who;
            merge(&mut before.metrics, beat.metrics);
            return Ok(());
        }
        if room == Room::WhileLeft && waiting.beats.len() >= MAX_WAITING {
            return Err(TooMany);
        }
        waiting.beats.insert(id, beat);
        drop(waiting);
        self.inner.wake.notify_one();
        Ok(())
    }

    /// All that wait now.
    pub fn take(&self) -> BTreeMap<ServiceId, Beat> {
        let mut waiting = self.lock();
        waiting.taken = Some(Instant::now());
        std::mem::take(&mut waiting.beats)
    }

    /// Waits until something waits and the last group was taken a while ago. Cancel-safe: nothing
    /// is taken.
    pub async fn due(&self) {
        loop {
            let (empty, taken) = {
                let waiting = self.lock();
                (waiting.beats.is_empty(), waiting.taken)
            };
            if empty {
                self.inner.wake.notified().await;
                continue;
            }
            let Some(taken) = taken else { return };
            if taken.elapsed() >= PACE {
                return;
            }
            tokio::time::sleep_until(taken + PACE).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Metric;

    fn beat(at: i64, metrics: &[(&str, f64)]) -> Beat {
        Beat {
            at: Timestamp::from_millis(at),
            said: None,
            metrics: metrics
                .iter()
                .map(|(k, v)| ((*k).into(), Metric::number(*v)))
                .collect(),
            ip: None,
            who: Identity::Operator,
        }
    }

    #[test]
    fn a_thousand_heartbeats_of_one_client_are_one_entry() {
        let beats = Beats::default();
        let id: ServiceId = "node".parse().unwrap();
        for at in 0..1000 {
            beats
                .push(
                    id.clone(),
                    beat(at, &[("events", at as f64)]),
                    Room::WhileLeft,
                )
                .unwrap();
        }
        let taken = beats.take();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[&id], beat(999, &[("events", 999.0)]));
        assert!(beats.take().is_empty());
    }

    #[test]
    fn a_flood_of_made_up_ids_is_bounded_and_known_ones_still_get_through() {
        let beats = Beats::default();
        let id = |n: usize| format!("id-{n}").parse::<ServiceId>().unwrap();
        for n in 0..MAX_WAITING {
            beats.push(id(n), beat(0, &[]), Room::WhileLeft).unwrap();
        }
        let one_more = |room| beats.push(id(MAX_WAITING), beat(0, &[]), room);
        assert_eq!(one_more(Room::WhileLeft), Err(TooMany));
        assert_eq!(one_more(Room::Always), Ok(()), "who has an owner");
        assert_eq!(beats.push(id(7), beat(1, &[]), Room::WhileLeft), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_owner_is_woken_at_once_first_and_once_a_second_after() {
        let beats = Beats::default();
        let id: ServiceId = "a".parse().unwrap();
        let start = Instant::now();
        beats
            .push(id.clone(), beat(0, &[]), Room::WhileLeft)
            .unwrap();
        beats.due().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        beats.take();
        beats.push(id, beat(1, &[]), Room::WhileLeft).unwrap();
        beats.due().await;
        assert_eq!(start.elapsed(), PACE);
    }
}
