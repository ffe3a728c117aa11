//! What is done beside the calls of the daemon: ends are recorded before anybody else may start again
//! what ended, output is copied, and it is found out why something does not get on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;

use super::cache::{DEBOUNCE, Entry, Main};
use super::client::{Call, encoded};
use super::end::Recorded;
use super::objects::identity;
use super::places::{core_path, jobs_path};
use super::wire::{Event, Job, List};
use super::{Conduct, Inner, sight, why};
use crate::model::InstanceId;

/// How often what gets on by itself is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How soon it is asked why something does not get on, and how often again.
const FIRST_ASK: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Events of one object that are read.
const EVENTS: u32 = 50;

/// Tends what has changed, for as long as the driver lives.
pub(super) async fn tend(inner: Weak<Inner>, mut changed: mpsc::UnboundedReceiver<InstanceId>) {
    let mut asked = BTreeMap::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            // Cancel-safe: what is not taken stays.
            instance = changed.recv() => {
                let Some(instance) = instance else { return };
                let Some(inner) = inner.upgrade() else { return };
                inner.tend(&instance);
            }
            // Cancel-safe.
            _ = tick.tick() => {
                let Some(inner) = inner.upgrade() else { return };
                inner.look_around(&mut asked);
            }
        }
    }
}

/// An end that is to be recorded.
struct Ended {
    namespace: String,
    job: String,
    uid: String,
    recorded: Recorded,
}

/// What is to be asked of events.
struct Question {
    instance: InstanceId,
    namespace: String,
    /// The object that they are about.
    of: String,
    about: About,
}

#[derive(Clone, Copy)]
enum About {
    /// Why a Job has no pod.
    Job,
    /// Why a pod does not run.
    Pod,
    /// Why a pod that runs is not ready.
    Probe,
}

impl Inner {
    /// Does what is to be done once something of `instance` has changed.
    fn tend(self: &Arc<Self>, instance: &InstanceId) {
        if self.config.conduct == Conduct::OnlyLooks {
            return;
        }
        let (ended, entry) = {
            let cache = self.cache();
            let Some(entry) = cache.get(instance) else {
                return;
            };
            (self.ended(entry), entry.clone())
        };
        self.copy_output(instance, &entry);
        if let Some(ended) = ended {
            let (inner, instance) = (Arc::clone(self), instance.clone());
            tokio::spawn(async move { inner.record(&instance, ended).await });
        }
    }

    /// The end of an instance that nobody of us asked for, and that is not recorded yet.
    fn ended(&self, entry: &Entry) -> Option<Ended> {
        let job = entry.job.as_ref()?;
        if job.held || job.record.is_some() || job.going {
            return None;
        }
        Some(Ended {
            namespace: entry.namespace.clone(),
            job: job.name.clone(),
            uid: job.uid.clone(),
            recorded: sight::ended(entry, self.clock.now())?,
        })
    }

    async fn record(&self, instance: &InstanceId, ended: Ended) {
        let recorded = self
            .write_end(&ended.namespace, &ended.job, &ended.uid, &ended.recorded)
            .await;
        if let Err(failure) = recorded {
            // The next look at the Job tries again.
            tracing::debug!(%instance, %failure, "its end could not be recorded on its Job");
        }
    }

    /// Suspends a Job, so that nobody makes another pod of it, and writes on it how it ended.
    pub(super) async fn write_end(
        &self,
        namespace: &str,
        job: &str,
        uid: &str,
        recorded: &Recorded,
    ) -> Result<(), super::Failure> {
        let text = serde_json::to_string(recorded);
        let text = text.map_err(|error| super::Failure::Silent(error.to_string()))?;
        let annotations = json!({ identity::HELD: "true", identity::EXIT: text });
        self.patch_job(namespace, job, uid, annotations).await
    }

    /// Suspends a Job with these annotations.
    pub(super) async fn patch_job(
        &self,
        namespace: &str,
        job: &str,
        uid: &str,
        annotations: serde_json::Value,
    ) -> Result<(), super::Failure> {
        let body = json!({
            "metadata": {"uid": uid, "annotations": annotations},
            "spec": {"suspend": true},
        });
        let path = format!("{}/{job}", jobs_path(namespace));
        let api = self.api().await?;
        let call = Call::patch(&path, &body).of_a_stop();
        let patched: Job = api.call(call).await?;
        let noted = self.cache().note_job(patched, namespace, Instant::now());
        self.changed(noted);
        Ok(())
    }

    /// Finds out why what does not get on does not.
    fn look_around(self: &Arc<Self>, asked: &mut BTreeMap<InstanceId, Instant>) {
        let now = Instant::now();
        let (mut questions, mut doubted, mut wake) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut known = BTreeSet::new();
        {
            let cache = self.cache();
            for (instance, entry) in cache.entries() {
                known.insert(instance.clone());
                let live = entry.live();
                let unready = live.iter().filter(|pod| !pod.ready);
                let running = unready.filter(|pod| matches!(pod.main, Main::Running { .. }));
                doubted.extend(running.filter_map(|pod| pod.node.clone()));
                let debounced = live.iter().filter_map(|pod| pod.unready_since);
                let debounced = debounced.map(|since| now.saturating_duration_since(since));
                let is_due = |passed: Duration| passed >= DEBOUNCE && passed < DEBOUNCE + 2 * TICK;
                if debounced.into_iter().any(is_due) {
                    wake.push(instance.clone());
                }
                let Some(question) = self.question(instance, entry) else {
                    asked.remove(instance);
                    continue;
                };
                // The first time is only noted: most of what waits does so for a moment.
                let due = *asked.entry(instance.clone()).or_insert(now + FIRST_ASK);
                if due <= now {
                    asked.insert(instance.clone(), now + ASK_AGAIN);
                    questions.push(question);
                }
            }
        }
        asked.retain(|instance, _| known.contains(instance));
        self.hints_for(wake);
        let nodes = super::lock(&self.nodes).due(doubted, now);
        if questions.is_empty() && nodes.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            for node in nodes {
                if inner.look_at_node(&node).await {
                    let on_it = inner.on_node(&node);
                    inner.hints_for(on_it);
                }
            }
            for question in questions {
                inner.answer(question).await;
            }
        });
    }

    fn hints_for(&self, instances: Vec<InstanceId>) {
        for instance in instances {
            self.hints.raise(instance);
        }
    }

    fn on_node(&self, node: &str) -> Vec<InstanceId> {
        let cache = self.cache();
        let on_it = cache.entries().filter(|(_, entry)| {
            let mut live = entry.live().into_iter();
            live.any(|pod| pod.node.as_deref() == Some(node))
        });
        on_it.map(|(instance, _)| instance.clone()).collect()
    }

    /// What is to be asked about an instance that does not get on; `None` where it does, or says itself
    /// why not.
    fn question(&self, instance: &InstanceId, entry: &Entry) -> Option<Question> {
        let question = |of: &str, about| {
            Some(Question {
                instance: instance.clone(),
                namespace: entry.namespace.clone(),
                of: of.to_owned(),
                about,
            })
        };
        let live = entry.live();
        if let Some(pod) = live.last() {
            return match &pod.main {
                Main::Running { .. } if !pod.ready => question(&pod.name, About::Probe),
                Main::Running { .. } | Main::Terminated(_) => None,
                Main::Unknown | Main::Waiting { .. } if why::of_pod(pod).is_some() => None,
                Main::Unknown | Main::Waiting { .. } => question(&pod.name, About::Pod),
            };
        }
        let job = entry.job.as_ref()?;
        let waits = !job.suspended && !job.going && job.record.is_none() && !job.is_over;
        match waits && entry.pods.is_empty() {
            true => question(&job.name, About::Job),
            false => None,
        }
    }

    async fn answer(&self, question: Question) {
        let events = self.events(&question.namespace, &question.of).await;
        let Ok(events) = events else {
            return;
        };
        let told = match question.about {
            About::Job => why::of_events(&events).or_else(|| Some(why::of_silence())),
            About::Pod => why::of_events(&events),
            About::Probe => why::of_probe(&events),
        };
        if self.cache().note_why(&question.instance, told) {
            self.hints.raise(question.instance);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// What is said of an object.
    pub(super) async fn events(
        &self,
        namespace: &str,
        of: &str,
    ) -> Result<Vec<Event>, super::Failure> {
        let field = encoded(&format!("involvedObject.name={of}"));
        let path = core_path(namespace, "events");
        let path = format!("{path}?fieldSelector={field}&limit={EVENTS}");
        let api = self.api().await?;
        let list: List<Event> = api.call(Call::get(path)).await?;
        Ok(list.items)
    }
}
