//! Copying what pods write into our own log files, while they run and after they ended, so that one
//! reader serves all drivers and the lines outlive the pod and its node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::cache::{Entry, Main, PodSeen};
use super::client::{Call, Failure, LIST, encoded};
use super::places::core_path;
use super::{Conduct, Inner, lock, objects};
use crate::driver::OutputStream;
use crate::driver::logs::{Copier, LogFile, Record, blocking, replica_dir};
use crate::model::{InstanceId, LogLimits, Timestamp};

/// The first pause after a failed try; doubled up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the removal of a pod waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(5);
/// How often one that writes nothing is asked whether it still runs.
const QUIET: Duration = Duration::from_secs(30);

/// Whose output is copied.
#[derive(Clone)]
struct Source {
    instance: InstanceId,
    namespace: String,
    pod: String,
    uid: String,
    began: Option<Timestamp>,
    limits: LogLimits,
}

/// The tasks that copy, by the uid of the pod, each with whose output that is.
pub(super) type Copiers = HashMap<String, (InstanceId, Copier)>;

/// Whether the cluster is asked to go on as the pod writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

/// Whether a pod may write yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    Over,
    Gone,
}

impl Inner {
    /// Copies the output of an instance's pods from now on, unless that is done already.
    pub(super) fn copy_output(self: &Arc<Self>, instance: &InstanceId, entry: &Entry) {
        if self.config.conduct == Conduct::OnlyLooks {
            return;
        }
        let job = entry.job.as_ref();
        let spec = job.and_then(|job| job.description.as_ref());
        let limits = spec.map_or_else(LogLimits::default, |it| it.spec.logs);
        let mut copiers = lock(&self.copiers);
        for pod in entry.pods.values().filter(|pod| began(pod).is_some()) {
            if pod.gone.is_some() || copiers.contains_key(&pod.uid) {
                continue;
            }
            let source = Source {
                instance: instance.clone(),
                namespace: entry.namespace.clone(),
                pod: pod.name.clone(),
                uid: pod.uid.clone(),
                began: began(pod).flatten(),
                limits,
            };
            let copier = Copier::spawn(Arc::clone(self).copy_to_the_end(source));
            copiers.insert(pod.uid.clone(), (instance.clone(), copier));
        }
    }

    /// Waits until the last lines of an ended instance are copied, but not for long.
    pub(super) async fn copied(&self, instance: &InstanceId) {
        let done: Vec<_> = {
            let copiers = lock(&self.copiers);
            let own = copiers.values().filter(|(whose, _)| whose == instance);
            own.map(|(_, copier)| copier.done_within(LAST_LINES))
                .collect()
        };
        if join_all(done).await.contains(&false) {
            tracing::warn!(%instance, "its log may lack its last lines: the cluster does not tell them");
        }
        lock(&self.copiers).retain(|_, (whose, _)| whose != instance);
    }

    /// Whether a pod may still write.
    fn state(&self, source: &Source) -> State {
        let cache = self.cache();
        let entry = cache.get(&source.instance);
        match entry.and_then(|entry| entry.pods.get(&source.uid)) {
            None => State::Gone,
            Some(pod) if pod.gone.is_some() => State::Gone,
            Some(pod) if pod.is_live() => State::Runs,
            Some(_) => State::Over,
        }
    }

    async fn copy_to_the_end(self: Arc<Self>, source: Source) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let before = self.state(&source);
            let follow = match before {
                State::Runs => Follow::Yes,
                State::Over | State::Gone => Follow::No,
            };
            let copied = self.copy_some(&source, follow).await;
            match (copied, before) {
                // Nothing came after its end, which was known before this was asked for.
                (Ok(()), State::Over | State::Gone) => return,
                (Ok(()), State::Runs) => {
                    pause = SHORTEST_PAUSE;
                    self.settled(&source).await;
                }
                (Err(failure), _) if failure.is_not_found() => return,
                (Err(failure), State::Gone) => {
                    let instance = &source.instance;
                    tracing::debug!(%instance, %failure, "the last lines of a pod went with it");
                    return;
                }
                (Err(failure), State::Runs | State::Over) => {
                    let instance = &source.instance;
                    tracing::debug!(%instance, %failure, "output is copied later");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits a moment after a stream has ended, which is that of its pod most often.
    async fn settled(&self, source: &Source) {
        let mut changes = self.changes.subscribe();
        let over = async {
            while self.state(source) == State::Runs {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(SHORTEST_PAUSE, over).await.ok();
    }

    async fn copy_some(&self, source: &Source, follow: Follow) -> Result<(), Failure> {
        let InstanceId {
            pipeline,
            replica,
            incarnation,
        } = &source.instance;
        let dir = replica_dir(&self.logs_dir(), pipeline, replica);
        let (incarnation, limits) = (*incarnation, source.limits);
        let open = move || LogFile::open(&dir, incarnation, limits);
        let mut log = blocking(open).await.map_err(Failure::Silent)?;
        let mut path = format!(
            "{}/{}/log?container={}&timestamps=true",
            core_path(&source.namespace, "pods"),
            source.pod,
            objects::MAIN,
        );
        if follow == Follow::Yes {
            path.push_str("&follow=true");
        }
        // All of it comes as one stream, so its latest line is how far it was copied.
        if let Some(latest) = log.latest() {
            let since = Timestamp::from_millis(latest.div_euclid(1_000_000_000) * 1_000);
            let since = since.shifted(-1_000).to_string();
            path.push_str(&format!("&sinceTime={}", encoded(&since)));
        }
        let api = self.api().await?;
        let mut stream = api.begin(Call::get(path).within(LIST)).await?;
        // A node keeps the newest file of a log at hand alone.
        let mut copied_before = log.latest();
        loop {
            let lines = match timeout(QUIET, stream.lines()).await {
                Ok(lines) => lines?,
                // The stream may have died with a connection; a pod that is over writes no more.
                Err(_) if self.state(source) == State::Runs => continue,
                Err(_) => return Ok(()),
            };
            if lines.is_empty() {
                return Ok(());
            }
            let records = lines.iter().filter_map(|line| {
                // Lines of the two streams come as one.
                Record::read(OutputStream::Stdout, line, source.began)
            });
            let records: Vec<Record> = records.collect();
            let first = records.first().map(|record| record.at_nanos);
            let gap = first.filter(|first| copied_before.is_some_and(|last| last < *first));
            copied_before = copied_before.filter(|_| first.is_none());
            let appended = blocking(move || {
                if let Some(at_nanos) = gap {
                    log.append_gap(at_nanos)?;
                }
                let appended = log.append(&records);
                Ok((log, appended))
            });
            let (written, appended) = appended.await.map_err(Failure::Silent)?;
            log = written;
            if let Err(unwritten) = appended {
                let why = format!("cannot write its log: {}", unwritten.error);
                return Err(Failure::Silent(why));
            }
        }
    }
}

/// When the program of a pod began; `None` = it has not.
fn began(pod: &PodSeen) -> Option<Option<Timestamp>> {
    match &pod.main {
        Main::Unknown | Main::Waiting { .. } => None,
        Main::Running { since } => Some(*since),
        Main::Terminated(terminated) => Some(super::wire::time(terminated.started_at.as_deref())),
    }
}
