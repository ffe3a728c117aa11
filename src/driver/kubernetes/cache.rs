//! What the cluster has of ours, as far as it was told: fed by lists, watches and answers, held in few
//! words per object. Pure; time is an input.
//!
//! **Guarantees.** Of two versions of one object the later one counts, whichever arrives first. What
//! this driver has written is there from the answer on: a list that began before takes nothing back.
//! A pod that was deleted stays for as long as its end has not been recorded.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::end::Recorded;
use super::objects::{self, identity};
use super::wire::{self, Condition, Container, Job, Pod, condition, holds};
use crate::driver::Description;
use crate::model::{InstanceId, Timestamp};

/// The label by which Kubernetes says of which Job a pod is.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const JOB_UID: &str = "batch.kubernetes.io/controller-uid";
/// For how long a deleted pod is remembered whose Job is gone too.
const REMEMBERED: Duration = Duration::from_secs(600);
/// For how long an engine that says unready of what was ready may take it back.
pub(super) const DEBOUNCE: Duration = Duration::from_secs(3);

/// A Job of ours.
#[derive(Clone, Debug)]
pub(super) struct JobSeen {
    pub(super) name: String,
    pub(super) uid: String,
    version: Option<u64>,
    /// What it was started from; `None` when its annotations cannot be read.
    pub(super) description: Option<Arc<Description>>,
    pub(super) created: Option<Timestamp>,
    /// Whether no pods are to be made of it.
    pub(super) suspended: bool,
    /// Whether that was us.
    pub(super) held: bool,
    /// Whether it is being deleted.
    pub(super) going: bool,
    /// Whether its controller makes no pod of it any more: it is suspended, complete or failed, and
    /// the controller has said so.
    pub(super) rests: bool,
    /// Whether it is complete or failed.
    pub(super) is_over: bool,
    /// How it ended, as we have recorded it.
    pub(super) record: Option<Recorded>,
    noticed: Instant,
}

/// What runs in a pod, or does not yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Main {
    /// Nobody says anything of it.
    Unknown,
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        since: Option<Timestamp>,
    },
    Terminated(wire::Terminated),
}

/// A pod of ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodSeen {
    pub(super) name: String,
    pub(super) uid: String,
    version: Option<u64>,
    /// The uid of its Job.
    job: String,
    pub(super) created: Option<Timestamp>,
    pub(super) node: Option<String>,
    pub(super) phase: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) deletion_asked: Option<Timestamp>,
    /// Why the cluster takes it from where it is, and in which words.
    pub(super) disruption: Option<(String, String)>,
    /// Why no node takes it, in one word, and in the scheduler's own.
    pub(super) unscheduled: Option<(String, String)>,
    pub(super) main: Main,
    /// What a container that runs before it waits for.
    pub(super) init: Option<(String, String)>,
    pub(super) ready: bool,
    pub(super) was_ready: bool,
    pub(super) unready_since: Option<Instant>,
    pub(super) image: String,
    pub(super) container: String,
    /// Whether it was ever seen to live.
    seen_live: bool,
    /// Whether the cluster has it no more.
    pub(super) gone: Option<Instant>,
    noticed: Instant,
}

impl PodSeen {
    /// Whether its program runs, or may run yet.
    pub(super) fn is_live(&self) -> bool {
        let is_over = matches!(self.phase.as_str(), "Succeeded" | "Failed");
        self.gone.is_none() && !is_over && !matches!(self.main, Main::Terminated(_))
    }
}

/// What is known of one instance.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) namespace: String,
    pub(super) job: Option<JobSeen>,
    /// By uid.
    pub(super) pods: BTreeMap<String, PodSeen>,
    /// What was found out about why it does not get on.
    pub(super) why: Option<String>,
}

impl Entry {
    fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            job: None,
            pods: BTreeMap::new(),
            why: None,
        }
    }

    /// The pods whose program runs, or may yet, the newest last.
    pub(super) fn live(&self) -> Vec<&PodSeen> {
        self.by_age(PodSeen::is_live)
    }

    /// The others.
    pub(super) fn ended(&self) -> Vec<&PodSeen> {
        self.by_age(|pod| !pod.is_live())
    }

    fn by_age(&self, is_wanted: impl Fn(&PodSeen) -> bool) -> Vec<&PodSeen> {
        let mut pods: Vec<&PodSeen> = self.pods.values().filter(|pod| is_wanted(pod)).collect();
        pods.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        pods
    }

    /// Whether a next run of the replica has to wait for this one: what may still run, or may come to.
    pub(super) fn is_in_the_way(&self) -> bool {
        let may_come = self.job.as_ref().is_some_and(|job| !job.rests);
        may_come || !self.live().is_empty()
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: BTreeMap<InstanceId, Entry>,
    /// Jobs that were deleted because their instances are forgotten, and since when: late words of them
    /// and of their pods bring nothing back.
    forgotten: HashMap<String, Instant>,
}

impl Cache {
    pub(super) fn get(&self, instance: &InstanceId) -> Option<&Entry> {
        self.entries.get(instance)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&InstanceId, &Entry)> {
        self.entries.iter()
    }

    /// The other instances of the replica of `instance`.
    pub(super) fn siblings(
        &self,
        instance: &InstanceId,
    ) -> impl Iterator<Item = (&InstanceId, &Entry)> {
        let of = |incarnation| InstanceId {
            incarnation,
            ..instance.clone()
        };
        let all = self.entries.range(of(0)..=of(u64::MAX));
        all.filter(move |(other, _)| other.incarnation != instance.incarnation)
    }

    /// Whether anything of `pipeline`'s component is there.
    pub(super) fn has(&self, is_of: impl Fn(&InstanceId) -> bool) -> bool {
        self.entries.keys().any(is_of)
    }

    /// Takes in a Job; answers whose it is where that is news.
    pub(super) fn note_job(
        &mut self,
        job: Job,
        namespace: &str,
        now: Instant,
    ) -> Option<InstanceId> {
        if self.forgotten.contains_key(&job.metadata.uid) {
            return None;
        }
        let instance = instance_of_job(&job)?;
        let entry = self.entry(&instance, namespace);
        let before = entry.job.as_mut();
        let version = job.metadata.version();
        if let Some(before) = before
            && before.uid == job.metadata.uid
            && is_older(version, before.version)
        {
            return None;
        }
        let known = entry.job.take().filter(|it| it.uid == job.metadata.uid);
        entry.job = Some(JobSeen::new(job, known.and_then(|it| it.description), now));
        Some(instance)
    }

    /// Takes in that a Job is gone.
    pub(super) fn job_gone(&mut self, job: &Job) -> Option<InstanceId> {
        if self.forgotten.contains_key(&job.metadata.uid) {
            return None;
        }
        let instance = instance_of_job(job)?;
        let entry = self.entries.get_mut(&instance)?;
        if entry
            .job
            .as_ref()
            .is_some_and(|it| it.uid == job.metadata.uid)
        {
            entry.job = None;
        }
        self.tidy(&instance);
        Some(instance)
    }

    /// Takes in a pod.
    pub(super) fn note_pod(
        &mut self,
        pod: Pod,
        namespace: &str,
        now: Instant,
    ) -> Option<InstanceId> {
        self.note_pod_as(pod, namespace, now, None)
    }

    /// Takes in the last that is told of a pod that is gone.
    pub(super) fn pod_gone(
        &mut self,
        pod: Pod,
        namespace: &str,
        now: Instant,
    ) -> Option<InstanceId> {
        self.note_pod_as(pod, namespace, now, Some(now))
    }

    fn note_pod_as(
        &mut self,
        pod: Pod,
        namespace: &str,
        now: Instant,
        gone: Option<Instant>,
    ) -> Option<InstanceId> {
        let (instance, job) = instance_of_pod(&pod)?;
        if self.forgotten.contains_key(&job) {
            if let Some(entry) = self.entries.get_mut(&instance) {
                entry.pods.remove(&pod.metadata.uid);
                self.tidy(&instance);
            }
            return None;
        }
        let entry = self.entry(&instance, namespace);
        let uid = pod.metadata.uid.clone();
        let before = entry.pods.get(&uid);
        let is_stale = before.is_some_and(|before| {
            before.gone.is_some()
                || (gone.is_none() && is_older(pod.metadata.version(), before.version))
        });
        if is_stale {
            return None;
        }
        let mut seen = PodSeen::new(pod, job, before, (now, gone));
        seen.seen_live = seen.is_live() || before.is_some_and(|before| before.seen_live);
        // What had ended before it was first seen, and whose Job is gone, was only being removed.
        if gone.is_some() && entry.job.is_none() && !seen.seen_live {
            entry.pods.remove(&uid);
            self.tidy(&instance);
        } else {
            entry.pods.insert(uid, seen);
        }
        Some(instance)
    }

    /// Takes in all Jobs of a namespace, as a list that began at `begun` told them.
    pub(super) fn replace_jobs(
        &mut self,
        jobs: Vec<Job>,
        namespace: &str,
        (begun, now): (Instant, Instant),
    ) -> BTreeSet<InstanceId> {
        let listed: HashSet<String> = jobs.iter().map(|job| job.metadata.uid.clone()).collect();
        let mut changed = BTreeSet::new();
        for (instance, entry) in &mut self.entries {
            let is_gone = |job: &JobSeen| !listed.contains(&job.uid) && job.noticed < begun;
            if entry.namespace == namespace && entry.job.as_ref().is_some_and(is_gone) {
                entry.job = None;
                changed.insert(instance.clone());
            }
        }
        let noted = jobs.into_iter();
        let noted = noted.filter_map(|job| self.note_job(job, namespace, now));
        changed.extend(noted.collect::<Vec<_>>());
        self.tidy_all(&changed);
        changed
    }

    /// Takes in all pods of a namespace, as a list that began at `begun` told them.
    pub(super) fn replace_pods(
        &mut self,
        pods: Vec<Pod>,
        namespace: &str,
        (begun, now): (Instant, Instant),
    ) -> BTreeSet<InstanceId> {
        let listed: HashSet<String> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        let mut changed = BTreeSet::new();
        for (instance, entry) in &mut self.entries {
            if entry.namespace != namespace {
                continue;
            }
            let has_job = entry.job.is_some();
            entry.pods.retain(|uid, pod| {
                let is_gone = !listed.contains(uid) && pod.noticed < begun;
                has_job || pod.seen_live || !is_gone
            });
            for pod in entry.pods.values_mut() {
                if !listed.contains(&pod.uid) && pod.noticed < begun && pod.gone.is_none() {
                    pod.gone = Some(now);
                    changed.insert(instance.clone());
                }
            }
        }
        let noted = pods.into_iter();
        let noted = noted.filter_map(|pod| self.note_pod(pod, namespace, now));
        changed.extend(noted.collect::<Vec<_>>());
        self.expire(now);
        changed
    }

    /// Takes in what was found out about why an instance does not get on; answers whether it is news.
    pub(super) fn note_why(&mut self, instance: &InstanceId, why: Option<String>) -> bool {
        let Some(entry) = self.entries.get_mut(instance) else {
            return false;
        };
        let is_news = entry.why != why;
        entry.why = why;
        is_news
    }

    /// Takes in that an instance is forgotten.
    pub(super) fn forget(&mut self, instance: &InstanceId, now: Instant) {
        if let Some(entry) = self.entries.remove(instance) {
            let pods = entry.pods.into_values().map(|pod| pod.job);
            let job = entry.job.map(|job| job.uid);
            let uids = pods.chain(job);
            self.forgotten.extend(uids.map(|uid| (uid, now)));
        }
    }

    fn entry(&mut self, instance: &InstanceId, namespace: &str) -> &mut Entry {
        let entry = self.entries.entry(instance.clone());
        entry.or_insert_with(|| Entry::new(namespace))
    }

    /// Drops what says nothing.
    fn tidy(&mut self, instance: &InstanceId) {
        let is_empty = |entry: &Entry| entry.job.is_none() && entry.pods.is_empty();
        if self.entries.get(instance).is_some_and(is_empty) {
            self.entries.remove(instance);
        }
    }

    fn tidy_all(&mut self, instances: &BTreeSet<InstanceId>) {
        for instance in instances {
            self.tidy(instance);
        }
    }

    /// Drops pods that are gone for long, and whose Job is.
    fn expire(&mut self, now: Instant) {
        self.forgotten
            .retain(|_, since| now.saturating_duration_since(*since) <= REMEMBERED);
        for entry in self.entries.values_mut() {
            if entry.job.is_none() {
                let is_old = |gone: Instant| now.saturating_duration_since(gone) > REMEMBERED;
                entry.pods.retain(|_, pod| !pod.gone.is_some_and(is_old));
            }
        }
        self.entries
            .retain(|_, entry| entry.job.is_some() || !entry.pods.is_empty());
    }
}

/// Whether `new` is an older version than `known`. Where versions are no numbers, what comes later is
/// later.
fn is_older(new: Option<u64>, known: Option<u64>) -> bool {
    matches!((new, known), (Some(new), Some(known)) if new < known)
}

fn instance_of_job(job: &Job) -> Option<InstanceId> {
    let instance = identity::instance(&job.metadata.labels)?;
    // A copy that somebody made by hand bears our labels under another name.
    (job.metadata.name == objects::names::job(&instance)).then_some(instance)
}

/// Whose a pod is, and the uid of its Job. One that somebody made by hand with our labels is nobody's.
fn instance_of_pod(pod: &Pod) -> Option<(InstanceId, String)> {
    let labels = &pod.metadata.labels;
    let instance = identity::instance(labels)?;
    let is_ours = labels.get(JOB_NAME) == Some(&objects::names::job(&instance));
    let job = labels.get(JOB_UID)?.clone();
    is_ours.then_some((instance, job))
}

impl JobSeen {
    fn new(job: Job, known: Option<Arc<Description>>, now: Instant) -> Self {
        let (created, version) = (job.metadata.created(), job.metadata.version());
        let going = job.metadata.is_going();
        let wire::Meta {
            name,
            uid,
            annotations,
            ..
        } = job.metadata;
        let description = known.or_else(|| match identity::read(&annotations) {
            Ok(description) => Some(Arc::new(description)),
            Err(why) => {
                tracing::warn!(
                    job = name,
                    why,
                    "a Job does not say what it was started from"
                );
                None
            }
        });
        let conditions = &job.status.conditions;
        let is_over = holds(conditions, "Complete") || holds(conditions, "Failed");
        let record = annotations.get(identity::EXIT);
        let record = record.and_then(|text| serde_json::from_str(text).ok());
        Self {
            name,
            uid,
            version,
            description,
            created,
            suspended: job.spec.suspend,
            held: annotations.contains_key(identity::HELD),
            going,
            rests: is_over || (job.spec.suspend && holds(conditions, "Suspended")),
            is_over,
            record,
            noticed: now,
        }
    }
}

impl PodSeen {
    fn new(
        pod: Pod,
        job: String,
        before: Option<&Self>,
        (now, gone): (Instant, Option<Instant>),
    ) -> Self {
        let meta = pod.metadata;
        let status = pod.status;
        let condition = |kind| condition(&status.conditions, kind);
        let said = |condition: &Condition| (condition.reason.clone(), condition.message.clone());
        let disruption = condition("DisruptionTarget").filter(|it| it.status == "True");
        let unscheduled = condition("PodScheduled").filter(|it| it.status == "False");
        let ready = holds(&status.conditions, "Ready");
        let was_ready = ready || before.is_some_and(|before| before.was_ready);
        let since = before.and_then(|before| before.unready_since);
        let is_main = |container: &&Container| container.name == objects::MAIN;
        let main = status.container_statuses.iter().find(is_main);
        let mut init = status.init_container_statuses.iter();
        let init = init.find_map(|container| container.state.waiting.as_ref());
        Self {
            version: meta.version(),
            created: meta.created(),
            deletion_asked: meta.deletion_asked(),
            name: meta.name,
            uid: meta.uid,
            job,
            node: pod.spec.node_name,
            disruption: disruption.map(said),
            unscheduled: unscheduled.map(said),
            main: main.map_or(Main::Unknown, |container| Main::of(&container.state)),
            init: init.map(|waiting| (waiting.reason.clone(), waiting.message.clone())),
            ready,
            was_ready,
            unready_since: (was_ready && !ready).then(|| since.unwrap_or(now)),
            image: main.map_or_else(String::new, |it| it.image_id.clone()),
            container: main.map_or_else(String::new, |it| it.container_id.clone()),
            seen_live: false,
            phase: status.phase,
            reason: status.reason,
            message: status.message,
            gone,
            noticed: now,
        }
    }
}

impl Main {
    fn of(state: &wire::ContainerState) -> Self {
        if let Some(terminated) = &state.terminated {
            return Self::Terminated(terminated.clone());
        }
        if let Some(running) = &state.running {
            let since = wire::time(running.started_at.as_deref());
            return Self::Running { since };
        }
        state.waiting.as_ref().map_or(Self::Unknown, |waiting| {
            let (reason, message) = (waiting.reason.clone(), waiting.message.clone());
            Self::Waiting { reason, message }
        })
    }
}
