//! The messages that wait for one target, in order.

use std::collections::VecDeque;
use std::time::Duration;

use super::http::Failure;
use super::message::Message;
use crate::model::{MessageStatus, TargetName, TargetStatus, Timestamp};

/// The most messages that wait for a target.
const MOST: usize = 10_000;
/// The first pause after a failed delivery; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// A message that could not be delivered for so long is given up.
const GIVEN_UP: Duration = Duration::from_secs(24 * 3600);

/// What waits for one target, and how that does.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Message>,
    /// Whether the first of them is being delivered.
    under_way: bool,
    failures: u32,
    retry_at: Option<Timestamp>,
    failing_since: Option<Timestamp>,
    last_error: Option<String>,
    delivered: u64,
    failed: u64,
    dropped: u64,
    last_delivered: Option<Timestamp>,
}

impl Queue {
    /// Adds a message. Answers those that it takes the place of.
    pub fn push(&mut self, message: Message) -> Vec<Message> {
        let mut gone = Vec::new();
        if message.status == MessageStatus::Repeated {
            // One that still waits says nothing that this one does not.
            let first = usize::from(self.under_way);
            while let Some(index) = self
                .messages
                .iter()
                .skip(first)
                .position(|one| one.status == MessageStatus::Repeated)
            {
                gone.extend(self.messages.remove(first + index));
            }
        }
        self.messages.push_back(message);
        while self.messages.len() > MOST {
            // The one under way is not taken from its delivery.
            gone.extend(self.messages.remove(usize::from(self.under_way)));
            self.dropped += 1;
        }
        gone
    }

    /// The message to deliver now, if one is due; it is under way from then on.
    pub fn begin(&mut self, now: Timestamp) -> Option<Message> {
        if self.under_way || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let message = self.messages.front()?.clone();
        self.under_way = true;
        Some(message)
    }

    /// Takes in what became of the delivery. Answers the message, if it is done with.
    pub fn ended(&mut self, result: Result<(), Failure>, now: Timestamp) -> Option<Message> {
        self.under_way = false;
        match result {
            Ok(()) => {
                self.well(now);
                self.delivered += 1;
                self.messages.pop_front()
            }
            Err(Failure { why, pause: asked }) => {
                self.ill(why, now);
                let pause =
                    FIRST_PAUSE.saturating_mul(1 << self.failures.min(16).saturating_sub(1));
                let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
                self.retry_at = Some(now.after(pause.min(LONGEST_PAUSE).max(asked)));
                let is_old = |message: &Message| message.at.after(GIVEN_UP) <= now;
                let old = self.messages.front().is_some_and(is_old);
                self.dropped += u64::from(old);
                old.then(|| self.messages.pop_front())?
            }
        }
    }

    /// It took something.
    pub fn well(&mut self, now: Timestamp) {
        self.failures = 0;
        self.retry_at = None;
        self.failing_since = None;
        self.last_error = None;
        self.last_delivered = Some(now);
    }

    /// It did not.
    pub fn ill(&mut self, why: String, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.failed += 1;
        self.failing_since.get_or_insert(now);
        self.last_error = Some(why);
    }

    /// When something is due.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.retry_at
            .filter(|_| !self.under_way && !self.messages.is_empty())
    }

    /// Since when it takes nothing, and what it answers instead.
    pub fn failing(&self) -> Option<(Timestamp, &str)> {
        Some((
            self.failing_since?,
            self.last_error.as_deref().unwrap_or_default(),
        ))
    }

    /// All that wait, with when each is tried.
    pub fn waiting(&self) -> impl Iterator<Item = (&Message, Option<Timestamp>)> {
        let first = self.retry_at.filter(|_| !self.under_way);
        let messages = self.messages.iter().enumerate();
        messages.map(move |(index, message)| (message, first.filter(|_| index == 0)))
    }

    /// What readers see.
    pub fn status(&self, name: TargetName, to: String, when: String) -> TargetStatus {
        TargetStatus {
            name,
            to,
            when,
            delivered: self.delivered,
            failed: self.failed,
            dropped: self.dropped,
            pending: self.messages.len() as u64,
            last_delivered: self.last_delivered,
            failing_since: self.failing_since,
            last_error: self.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).after(Duration::from_secs(seconds))
    }

    fn message(id: u64, status: MessageStatus) -> Message {
        Message {
            id,
            target: "ops".parse().unwrap(),
            status,
            at: at(0),
            conditions: Vec::new(),
        }
    }

    #[test]
    fn messages_go_one_after_the_other_and_a_failed_one_is_tried_again_later_and_later() {
        let mut queue = Queue::default();
        queue.push(message(1, MessageStatus::Firing));
        queue.push(message(2, MessageStatus::Resolved));
        assert_eq!(queue.begin(at(0)).unwrap().id, 1);
        assert_eq!(queue.begin(at(0)), None);
        queue.ended(Err("500".to_owned().into()), at(0));
        assert_eq!((queue.begin(at(0)), queue.wake_at()), (None, Some(at(1))));
        assert_eq!(queue.begin(at(1)).unwrap().id, 1);
        queue.ended(Err("500".to_owned().into()), at(1));
        assert_eq!(queue.wake_at(), Some(at(3)));
        assert_eq!(queue.begin(at(3)).unwrap().id, 1);
        assert_eq!(queue.ended(Ok(()), at(3)).unwrap().id, 1);
        assert_eq!(queue.begin(at(3)).unwrap().id, 2);
    }

    #[test]
    fn one_that_asks_for_a_pause_gets_it() {
        let mut queue = Queue::default();
        queue.push(message(1, MessageStatus::Firing));
        // When it is tried, for how long it asks then, and when it is tried next.
        for (tried, asked, next) in [(0, 30, 30), (30, 0, 32), (32, 1_000_000, 3_632)] {
            queue.begin(at(tried)).unwrap();
            let failure = Failure {
                why: "429".to_owned(),
                pause: Some(Duration::from_secs(asked)),
            };
            queue.ended(Err(failure), at(tried));
            assert_eq!(queue.wake_at(), Some(at(next)));
        }
    }

    #[test]
    fn what_nobody_takes_for_a_day_is_given_up() {
        let mut queue = Queue::default();
        queue.push(message(1, MessageStatus::Firing));
        queue.begin(at(0)).unwrap();
        assert_eq!(queue.ended(Err("no".to_owned().into()), at(10)), None);
        queue.begin(at(90_000)).unwrap();
        let gone = queue.ended(Err("no".to_owned().into()), at(90_000));
        assert_eq!(gone.unwrap().id, 1);
    }

    #[test]
    fn a_line_is_bounded_and_says_how_many_it_dropped() {
        let mut queue = Queue::default();
        let gone: Vec<Message> = (0..10_003)
            .flat_map(|id| queue.push(message(id, MessageStatus::Firing)))
            .collect();
        assert_eq!(gone.iter().map(|one| one.id).collect::<Vec<_>>(), [0, 1, 2]);
        let status = queue.status("ops".parse().unwrap(), String::new(), String::new());
        assert_eq!((status.pending, status.dropped), (10_000, 3));
    }

    #[test]
    fn a_repeat_takes_the_place_of_one_that_still_waits() {
        let mut queue = Queue::default();
        queue.push(message(1, MessageStatus::Firing));
        queue.push(message(2, MessageStatus::Repeated));
        let gone = queue.push(message(3, MessageStatus::Repeated));
        assert_eq!(gone[0].id, 2);
    }
}
