//! What is kept in the store, so that a daemon that dies owes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::message::Message;
use super::tracker::Entry;
use crate::model::{NotifySpec, TargetName, Timestamp};
use crate::store::{Batch, Durability, Store};

/// What a target was told of a condition: `notify.told/TARGET/CONDITION`.
const TOLD: &str = "notify.told/";
/// A message that nobody has taken: `notify.out/TARGET/NUMBER`.
const OUT: &str = "notify.out/";
/// The number of the next message.
const NEXT: &str = "notify.next";
/// What the file said when it was last good.
const GOOD: &str = "notify.good";

/// How long the disk is waited for before something is told that it does not hold.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an earlier daemon kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub told: Vec<(TargetName, String, Entry)>,
    /// By number.
    pub out: Vec<Message>,
    pub next: u64,
    pub good: NotifySpec,
}

impl Kept {
    /// What is kept in `settings`. What cannot be read is told in the log and left out.
    pub fn read(settings: &BTreeMap<String, String>, now: Timestamp) -> Self {
        // Numbers outrun those that a lost store may have given out.
        let base = u64::try_from(now.as_millis()).unwrap_or(0);
        let mut kept = Self {
            next: base,
            ..Self::default()
        };
        if let Some(next) = settings.get(NEXT).and_then(|text| text.parse().ok()) {
            kept.next = base.max(next);
        }
        if let Some(good) = settings.get(GOOD).and_then(|text| decoded(GOOD, text)) {
            kept.good = good;
        }
        for (name, text) in of(settings, TOLD) {
            let target = name.split_once('/').and_then(|(target, condition)| {
                Some((target.parse::<TargetName>().ok()?, condition))
            });
            if let (Some((target, condition)), Some(entry)) = (target, decoded(name, text)) {
                kept.told.push((target, condition.to_owned(), entry));
            }
        }
        for (name, text) in of(settings, OUT) {
            kept.out.extend(decoded::<Message>(name, text));
        }
        kept.out.sort_by_key(|message| message.id);
        if let Some(last) = kept.out.last() {
            kept.next = kept.next.max(last.id + 1);
        }
        kept
    }
}

fn of<'a>(
    settings: &'a BTreeMap<String, String>,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    settings
        .range(prefix.to_owned()..)
        .map_while(move |(name, text)| Some((name.strip_prefix(prefix)?, text.as_str())))
}

fn decoded<T: DeserializeOwned>(name: &str, text: &str) -> Option<T> {
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(%name, %error, "what was kept of notifications cannot be read");
            None
        }
    }
}

/// What is to be recorded as one.
#[derive(Debug, Default)]
pub(super) struct Changes {
    batch: Batch,
}

impl Changes {
    /// Keeps or forgets what a target was told.
    pub fn told(&mut self, target: &TargetName, condition: &str, entry: Option<&Entry>) {
        let name = format!("{TOLD}{target}/{condition}");
        match entry {
            Some(entry) => self.batch.put_setting(name, text(entry)),
            None => self.batch.forget_setting(name),
        }
    }

    /// Keeps a message, and the number of the next one.
    pub fn put(&mut self, message: &Message) {
        self.batch.put_setting(row(message), text(message));
        self.batch.put_setting(NEXT, (message.id + 1).to_string());
    }

    /// Forgets a message that was taken, or given up.
    pub fn forget(&mut self, message: &Message) {
        self.batch.forget_setting(row(message));
    }

    /// Keeps what a good file says.
    pub fn good(&mut self, spec: &NotifySpec) {
        self.batch.put_setting(GOOD, text(spec));
    }

    /// Whether nothing is to be recorded.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds what has changed since.
    pub fn append(&mut self, later: Self) {
        self.batch.append(later.batch);
    }

    /// Records them, and waits until that is done, but not for a disk that does not answer: what
    /// cannot be recorded is told all the same, and is recorded with the next changes.
    pub async fn record(&mut self, store: &Store) {
        if self.batch.is_empty() {
            return;
        }
        let (done, recorded) = oneshot::channel();
        store.commit(self.batch.clone(), Durability::CrashSafe, |result| {
            // Nobody waits any more for one that took too long.
            done.send(result).ok();
        });
        match tokio::time::timeout(PATIENCE, recorded).await {
            Ok(Ok(Ok(()))) => self.batch = Batch::new(),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "what was told is not recorded yet");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!("the disk does not answer; what is told is not recorded yet");
            }
        }
    }
}

fn row(message: &Message) -> String {
    format!("{OUT}{}/{:020}", message.target, message.id)
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("it has string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_could_not_be_recorded_is_recorded_with_what_comes_next() {
        let (broken, _, _folder) = Store::temporary();
        broken.clone().close().unwrap();
        let target: TargetName = "ops".parse().unwrap();
        let mut changes = Changes::default();
        changes.told(&target, "first", None);
        changes.good(&NotifySpec::default());
        changes.record(&broken).await;

        let (store, _, folder) = Store::temporary();
        changes.append(Changes::default());
        changes.record(&store).await;
        assert!(changes.batch.is_empty());
        store.close().unwrap();
        let dir = folder.path().join("store");
        let (_, loaded) = Store::open(&dir, Timestamp::from_millis(0)).unwrap();
        assert!(loaded.settings.contains_key(GOOD), "{:?}", loaded.settings);
    }
}
