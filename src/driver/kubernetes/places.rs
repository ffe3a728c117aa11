//! Namespaces that are watched: a list, a watch that goes on from it, and a question whether anybody is
//! there at all, since a watch that is silent may be one that died.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::cache::Cache;
use super::client::{Answer, Api, Call, Failure, LIST, PROBE, encoded};
use super::objects::identity;
use super::wire::{Any, Job, Line, LineKind, List, Meta, Pod, Status};
use super::{Inner, lock};
use crate::model::InstanceId;

/// The first pause after a failed try; doubled up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How soon all is listed again: it heals what a watch has lost.
const RELIST: Duration = Duration::from_secs(300);
/// For how long the cluster is to keep a watch open, in seconds.
const WATCH: u32 = 60;
/// How long a watch may be silent, which tells of the time now and then.
const IDLE: Duration = Duration::from_secs(90);
/// How often it is asked whether anybody is there.
const ASK: Duration = Duration::from_secs(5);
/// How long nobody may have answered.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a look waits for the first list.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// The namespaces that are watched.
#[derive(Default)]
pub(super) struct Places(BTreeMap<String, (Arc<Place>, JoinHandle<()>)>);

impl Places {
    pub(super) fn get(&self, namespace: &str) -> Option<Arc<Place>> {
        self.0.get(namespace).map(|(place, _)| Arc::clone(place))
    }

    pub(super) fn clear(&mut self) {
        for (_, task) in self.0.values() {
            task.abort();
        }
        self.0.clear();
    }
}

/// A namespace that is watched.
pub(super) struct Place {
    namespace: String,
    state: Mutex<State>,
}

/// What is known of the ways to look at a namespace.
#[derive(Debug, Default)]
struct State {
    jobs: Way,
    pods: Way,
    /// When anything was last heard.
    heard: Option<Instant>,
}

/// One kind of objects.
#[derive(Debug, Default)]
struct Way {
    listed: bool,
    /// Since when it is not current, and why.
    broken: Option<(Instant, Failure)>,
}

/// Which way.
#[derive(Clone, Copy, Debug)]
enum Which {
    Jobs,
    Pods,
}

impl State {
    fn way(&mut self, which: Which) -> &mut Way {
        match which {
            Which::Jobs => &mut self.jobs,
            Which::Pods => &mut self.pods,
        }
    }

    /// Why nothing is known, if so.
    fn blind(&self, namespace: &str, now: Instant) -> Option<String> {
        let since = |at: Instant| now.saturating_duration_since(at);
        for way in [&self.jobs, &self.pods] {
            match &way.broken {
                Some((_, failure)) if failure.is_refused() => return Some(failure.to_string()),
                Some((_, failure)) if !way.listed => return Some(failure.to_string()),
                Some((at, failure)) if since(*at) > SILENCE => {
                    let seconds = since(*at).as_secs();
                    return Some(format!(
                        "namespace {namespace} could not be looked at for {seconds} s: {failure}"
                    ));
                }
                None if !way.listed => {
                    return Some(format!("namespace {namespace} has not been listed yet"));
                }
                Some(_) | None => {}
            }
        }
        let silent = self.heard.map(since).filter(|silent| *silent > SILENCE)?;
        Some(format!(
            "the cluster has not answered for {} s",
            silent.as_secs()
        ))
    }

    fn is_tried(&self) -> bool {
        let is_tried = |way: &Way| way.listed || way.broken.is_some();
        is_tried(&self.jobs) && is_tried(&self.pods)
    }
}

impl Place {
    /// Why nothing is known of it, if so.
    pub(super) fn blind(&self, now: Instant) -> Option<String> {
        lock(&self.state).blind(&self.namespace, now)
    }

    fn is_tried(&self) -> bool {
        lock(&self.state).is_tried()
    }

    fn heard(&self) {
        lock(&self.state).heard = Some(Instant::now());
    }

    fn listed(&self, which: Which) {
        let mut state = lock(&self.state);
        state.way(which).listed = true;
        state.way(which).broken = None;
        state.heard = Some(Instant::now());
    }

    fn current(&self, which: Which) {
        let mut state = lock(&self.state);
        state.way(which).broken = None;
        state.heard = Some(Instant::now());
    }

    fn broken(&self, which: Which, failure: Failure) {
        let (mut state, now) = (lock(&self.state), Instant::now());
        if failure.code().is_some() {
            state.heard = Some(now);
        }
        let way = state.way(which);
        let since = way.broken.take().map_or(now, |(since, _)| since);
        if since == now {
            tracing::debug!(namespace = self.namespace, %failure, "a watch of the cluster broke");
        }
        way.broken = Some((since, failure));
    }
}

/// Objects that are watched.
trait Watched: DeserializeOwned + Send + 'static {
    const WHICH: Which;
    fn path(namespace: &str) -> String;
    fn meta(&self) -> &Meta;
    fn replace(
        cache: &mut Cache,
        all: Vec<Self>,
        namespace: &str,
        times: (Instant, Instant),
    ) -> BTreeSet<InstanceId>;
    fn note(cache: &mut Cache, one: Self, namespace: &str, now: Instant) -> Option<InstanceId>;
    fn gone(cache: &mut Cache, one: Self, namespace: &str, now: Instant) -> Option<InstanceId>;
}

/// Where the Jobs of a namespace are.
pub(super) fn jobs_path(namespace: &str) -> String {
    format!("/apis/batch/v1/namespaces/{namespace}/jobs")
}

/// Where the objects of the first group of a namespace are.
pub(super) fn core_path(namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

impl Watched for Job {
    const WHICH: Which = Which::Jobs;

    fn path(namespace: &str) -> String {
        jobs_path(namespace)
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn replace(
        cache: &mut Cache,
        all: Vec<Self>,
        namespace: &str,
        times: (Instant, Instant),
    ) -> BTreeSet<InstanceId> {
        cache.replace_jobs(all, namespace, times)
    }

    fn note(cache: &mut Cache, one: Self, namespace: &str, now: Instant) -> Option<InstanceId> {
        cache.note_job(one, namespace, now)
    }

    fn gone(cache: &mut Cache, one: Self, _: &str, _: Instant) -> Option<InstanceId> {
        cache.job_gone(&one)
    }
}

impl Watched for Pod {
    const WHICH: Which = Which::Pods;

    fn path(namespace: &str) -> String {
        core_path(namespace, "pods")
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn replace(
        cache: &mut Cache,
        all: Vec<Self>,
        namespace: &str,
        times: (Instant, Instant),
    ) -> BTreeSet<InstanceId> {
        cache.replace_pods(all, namespace, times)
    }

    fn note(cache: &mut Cache, one: Self, namespace: &str, now: Instant) -> Option<InstanceId> {
        cache.note_pod(one, namespace, now)
    }

    fn gone(cache: &mut Cache, one: Self, namespace: &str, now: Instant) -> Option<InstanceId> {
        cache.pod_gone(one, namespace, now)
    }
}

/// What became of a watch.
enum Watch {
    /// The cluster ended it, and it can be gone on with.
    Closed,
    /// The cluster does not know the version any more from which on it is asked.
    Expired,
}

impl Inner {
    /// Watches these namespaces from now on, and those only.
    pub(super) fn watch_over(self: &Arc<Self>, api: &Arc<Api>, namespaces: &BTreeSet<String>) {
        let mut places = lock(&self.places);
        places.0.retain(|namespace, (_, task)| {
            let is_wanted = namespaces.contains(namespace);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for namespace in namespaces {
            places.0.entry(namespace.clone()).or_insert_with(|| {
                let place = Arc::new(Place {
                    namespace: namespace.clone(),
                    state: Mutex::default(),
                });
                let watching = watch(Arc::downgrade(self), Arc::clone(api), Arc::clone(&place));
                (place, tokio::spawn(watching))
            });
        }
    }

    /// Waits until each of these was listed, or could not be, but not for long.
    pub(super) async fn listed(&self, namespaces: &BTreeSet<String>) {
        let mut changes = self.changes.subscribe();
        let all_tried = || {
            let places = namespaces.iter().filter_map(|name| self.place(name));
            places.into_iter().all(|place| place.is_tried())
        };
        let waiting = async {
            while !all_tried() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(FIRST_LIST, waiting).await.ok();
    }

    fn take(&self, take: impl FnOnce(&mut Cache, Instant) -> BTreeSet<InstanceId>) {
        let changed = take(&mut self.cache(), Instant::now());
        self.changed(changed);
    }

    /// Wakes those who wait for something to be known.
    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

async fn watch(inner: Weak<Inner>, api: Arc<Api>, place: Arc<Place>) {
    tokio::join!(
        follow::<Job>(&inner, &api, &place),
        follow::<Pod>(&inner, &api, &place),
        ask(&inner, &api, &place),
    );
}

/// Asks again and again whether anybody is there.
async fn ask(inner: &Weak<Inner>, api: &Api, place: &Place) {
    loop {
        sleep(ASK).await;
        let Some(owner) = inner.upgrade().map(|inner| inner.owner.clone()) else {
            return;
        };
        let selector = encoded(&identity::selector_of_owner(&owner));
        let path = Job::path(&place.namespace);
        let path = format!("{path}?limit=1&labelSelector={selector}");
        let asked = api.call::<List<Any>>(Call::get(path).within(PROBE)).await;
        // One who says no is there; whether that matters is told by the lists.
        let is_there = match &asked {
            Ok(_) => true,
            Err(failure) => failure.code().is_some(),
        };
        if is_there {
            place.heard();
        }
    }
}

async fn follow<T: Watched>(inner: &Weak<Inner>, api: &Api, place: &Place) {
    let mut pause = SHORTEST_PAUSE;
    let namespace = &place.namespace;
    let path = T::path(namespace);
    loop {
        let begun = Instant::now();
        let Some(selector) = inner.upgrade().map(|it| selector(&it)) else {
            return;
        };
        let listed = api.list::<T>(&path, &selector).await;
        let Some(inner_now) = inner.upgrade() else {
            return;
        };
        let mut version = match listed {
            Ok((all, version)) => {
                inner_now.take(|cache, now| T::replace(cache, all, namespace, (begun, now)));
                place.listed(T::WHICH);
                inner_now.wake();
                pause = SHORTEST_PAUSE;
                version
            }
            Err(failure) => {
                place.broken(T::WHICH, failure);
                inner_now.wake();
                drop(inner_now);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        drop(inner_now);
        while begun.elapsed() < RELIST {
            match once::<T>(inner, api, place, &selector, &mut version).await {
                Ok(Watch::Closed) => pause = SHORTEST_PAUSE,
                Ok(Watch::Expired) => break,
                Err(failure) => {
                    let is_refused = failure.is_refused();
                    place.broken(T::WHICH, failure);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if is_refused {
                        break;
                    }
                }
            }
            if inner.strong_count() == 0 {
                return;
            }
        }
    }
}

fn selector(inner: &Inner) -> String {
    identity::selector_of_owner(&inner.owner)
}

/// Watches from `version` on, until the cluster ends that.
async fn once<T: Watched>(
    inner: &Weak<Inner>,
    api: &Api,
    place: &Place,
    selector: &str,
    version: &mut String,
) -> Result<Watch, Failure> {
    let namespace = &place.namespace;
    let path = format!(
        "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH}&labelSelector={}&\
         resourceVersion={}",
        T::path(namespace),
        encoded(selector),
        encoded(version),
    );
    let mut stream = match api.begin(Call::get(path).within(LIST)).await {
        Ok(stream) => stream,
        Err(failure) if failure.code() == Some(410) => return Ok(Watch::Expired),
        Err(failure) => return Err(failure),
    };
    place.current(T::WHICH);
    loop {
        let Ok(line) = timeout(IDLE, stream.line()).await else {
            let seconds = IDLE.as_secs();
            return Err(Failure::Silent(format!(
                "a watch was silent for {seconds} s"
            )));
        };
        let Some(line) = line? else {
            return Ok(Watch::Closed);
        };
        place.heard();
        let Ok(told) = serde_json::from_slice::<Line<T>>(&line) else {
            // Cut off, or nonsense: all that it may have told is listed again.
            return Ok(Watch::Expired);
        };
        let Some(inner) = inner.upgrade() else {
            return Ok(Watch::Closed);
        };
        let told_version = told.object.meta().resource_version.clone();
        match told.kind {
            LineKind::Added | LineKind::Modified => {
                inner.take(|cache, now| {
                    let noted = T::note(cache, told.object, namespace, now);
                    noted.into_iter().collect()
                });
            }
            LineKind::Deleted => inner.take(|cache, now| {
                let noted = T::gone(cache, told.object, namespace, now);
                noted.into_iter().collect()
            }),
            LineKind::Bookmark => {}
            LineKind::Error => return Err(of_error(&line)).or_else(expired),
        }
        if !told_version.is_empty() {
            *version = told_version;
        }
    }
}

/// What an error in a watch says.
fn of_error(line: &[u8]) -> Failure {
    match serde_json::from_slice::<Line<Status>>(line) {
        Ok(told) => {
            let code = told.object.code;
            Failure::Answered(Box::new(Answer::of(code, told.object)))
        }
        Err(error) => Failure::Silent(format!("a watch told nonsense: {error}")),
    }
}

fn expired(failure: Failure) -> Result<Watch, Failure> {
    match failure.code() {
        Some(410) => Ok(Watch::Expired),
        Some(_) | None => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_out_of_sight_until_listed_when_forbidden_and_after_a_silence() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut state = State::default();
        assert!(state.blind("a", begin).unwrap().contains("not been listed"));
        for which in [Which::Jobs, Which::Pods] {
            state.way(which).listed = true;
        }
        state.heard = Some(begin);
        assert_eq!(state.blind("a", after(15)), None);
        let silent = state.blind("a", after(16)).unwrap();
        assert!(silent.contains("has not answered for 16 s"), "{silent}");

        state.heard = Some(after(16));
        let broke = Failure::Silent("refused".to_owned());
        state.pods.broken = Some((after(16), broke));
        assert_eq!(state.blind("a", after(20)), None);
        state.heard = Some(after(40));
        let long = state.blind("a", after(40)).unwrap();
        assert!(
            long.contains("could not be looked at for 24 s: refused"),
            "{long}"
        );

        let forbidden = Failure::Answered(Box::new(Answer {
            code: 403,
            message: "pods is forbidden".to_owned(),
            ..Answer::default()
        }));
        state.pods.broken = Some((after(40), forbidden));
        let forbidden = state.blind("a", after(40));
        assert_eq!(forbidden.as_deref(), Some("pods is forbidden"));
    }
}
