//! Looking: one list of what carries our mark, and a closer look at what changed since the last.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::LogsOptions;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::engine::{CHANGE, Failure, LOOK, found};
use super::failure::Refusal;
use super::outage::{self, Beginnings};
use super::sight::{Reach, Seen};
use super::{Conduct, Inner, dialect, evidence, identity};
use crate::model::{Exit, ExitStatus, InstanceId, Life, RestartMode, StartFailure, Workload};

/// Closer looks at once.
const AT_ONCE: usize = 16;
/// A container that could not execute its program ends sooner than this.
const BRIEF: Duration = Duration::from_secs(10);
/// How long an engine has to notice that a container's processes are gone.
const PHANTOM_DOUBT: Duration = Duration::from_millis(500);
/// Between two looks for the processes of containers on this host.
const COUNT: Duration = Duration::from_secs(2);
/// An engine in passing trouble describes its containers again within this.
const TROUBLE: Duration = Duration::from_secs(15);
/// A closer look is repeated after this, whatever the list says.
const STALE: Duration = Duration::from_secs(60);

/// What is known of each container, so that an unchanged one costs no call of its own.
#[derive(Default)]
pub(super) struct Album {
    pictures: HashMap<String, Picture>,
    /// Where each is reached, which does not change while it lives: kept when its picture is not.
    reaches: HashMap<InstanceId, Whereabouts>,
    /// Containers whose first process was seen on this host, under the number that the engine gave.
    at_home: HashSet<String>,
    /// Containers that the engine failed to describe, and since when.
    undescribed: HashMap<String, Instant>,
}

/// Where an instance is.
pub(super) struct Whereabouts {
    pub(super) reach: Reach,
    /// Its container.
    pub(super) container: String,
    /// The first process of that, as the engine counts.
    pub(super) pid: Option<u32>,
    seen: Instant,
}

struct Picture {
    /// As the list had it; `None` = whatever the list says, it is looked at anew.
    state: Option<ContainerSummaryStateEnum>,
    taken: Instant,
    seen: Seen,
}

impl Album {
    /// Where an instance is, if that was ever seen.
    pub(super) fn whereabouts(&self, instance: &InstanceId) -> Option<&Whereabouts> {
        self.reaches.get(instance)
    }

    fn insert(&mut self, picture: Picture) {
        let seen = &picture.seen;
        // One that is created or over has no address.
        if let Life::Running { .. } = seen.life {
            let whereabouts = Whereabouts {
                reach: seen.reach.clone(),
                container: seen.id.clone(),
                pid: seen.pid,
                seen: picture.taken,
            };
            self.reaches.insert(seen.instance.clone(), whereabouts);
            let here = |pid| evidence::is_of(pid, &seen.id);
            if !self.at_home.contains(&seen.id) && seen.pid.is_some_and(here) {
                self.at_home.insert(seen.id.clone());
            }
        }
        self.pictures.insert(seen.id.clone(), picture);
    }

    fn keep_only(&mut self, seen: &[Seen]) {
        let ids: BTreeSet<&str> = seen.iter().map(|seen| seen.id.as_str()).collect();
        self.pictures.retain(|id, _| ids.contains(id.as_str()));
        self.at_home.retain(|id| ids.contains(id.as_str()));
        self.undescribed.retain(|id, _| ids.contains(id.as_str()));
        let running = |seen: &&Seen| matches!(seen.life, Life::Running { .. });
        let live: BTreeSet<&InstanceId> = seen
            .iter()
            .filter(running)
            .map(|seen| &seen.instance)
            .collect();
        // One that has started since the list was made is not on it.
        self.reaches
            .retain(|instance, one| live.contains(instance) || one.seen.elapsed() < STALE);
    }

    /// The containers that were last seen running, and whose process, that was on this host, is gone.
    fn without_process(&self) -> BTreeSet<(String, InstanceId)> {
        let at_home = self.at_home.iter().filter_map(|id| self.pictures.get(id));
        at_home
            .map(|picture| &picture.seen)
            .filter(|seen| matches!(seen.life, Life::Running { .. }))
            .filter(|seen| seen.pid.is_some_and(|pid| !evidence::exists(pid)))
            .map(|seen| (seen.id.clone(), seen.instance.clone()))
            .collect()
    }

    /// Every instance there is a picture of.
    pub(super) fn instances(&self) -> BTreeSet<InstanceId> {
        let pictures = self.pictures.values();
        pictures
            .map(|picture| picture.seen.instance.clone())
            .collect()
    }

    /// Whether the engine that has these containers counts processes as this host does: one of them
    /// proves it for all.
    fn is_at_home(&self, seen: &[Seen]) -> bool {
        seen.iter().any(|seen| self.at_home.contains(&seen.id))
    }

    /// Notes that the engine failed to describe a container; answers for how long it has.
    fn failed_to_describe(&mut self, id: &str) -> Duration {
        let since = self.undescribed.entry(id.to_owned());
        since.or_insert_with(Instant::now).elapsed()
    }

    /// The next look at each is a close one.
    pub(super) fn doubt_all(&mut self) {
        for picture in self.pictures.values_mut() {
            picture.state = None;
        }
    }

    /// The next look at this container is a close one.
    pub(super) fn doubt(&mut self, id: &str) {
        if let Some(picture) = self.pictures.get_mut(id) {
            picture.state = None;
        }
    }

    pub(super) fn drop_instance(&mut self, instance: &InstanceId) {
        self.reaches.remove(instance);
        self.pictures
            .retain(|_, picture| picture.seen.instance != *instance);
    }

    /// Keeps what a look of another kind has found.
    pub(super) fn keep(&mut self, seen: &Seen) {
        let picture = Picture {
            // Unknown to a list so far: the next one looks closer.
            state: None,
            taken: Instant::now(),
            seen: seen.clone(),
        };
        self.insert(picture);
    }

    fn fresh(&self, id: &str, state: Option<ContainerSummaryStateEnum>) -> Option<Seen> {
        let picture = self.pictures.get(id)?;
        let same = state.is_some() && picture.state == state && picture.taken.elapsed() < STALE;
        same.then(|| picture.seen.clone())
    }
}

/// Whether the engine says that it runs, and this host has no process of the number it gives.
fn has_no_process(seen: &Seen) -> bool {
    let runs = matches!(seen.life, Life::Running { .. });
    runs && seen.pid.is_some_and(|pid| !evidence::lives(pid))
}

impl Inner {
    /// Sees for ever whether the processes of containers are there. An engine that has lost its
    /// guardian of one, or never heard of its end, tells of no end.
    pub(super) async fn keep_counting(self: Arc<Self>) {
        let mut known = BTreeSet::new();
        let mut told = BTreeSet::new();
        loop {
            tokio::time::sleep(COUNT).await;
            let gone = self.album().without_process();
            told.retain(|one| gone.contains(one));
            // An engine that does tell has told by now.
            for one in known.intersection(&gone) {
                if told.insert(one.clone()) {
                    let (id, instance) = one;
                    self.album().doubt(id);
                    self.hints.raise(instance.clone());
                }
            }
            known = gone;
        }
    }

    /// All containers of ours, in any state.
    pub(super) async fn look_at_all(self: &Arc<Self>) -> Result<Vec<Seen>, Failure> {
        let filters = identity::owned_by(&self.config.owner);
        let listed = self.containers(filters).await?;
        let seen = self.look_closer(listed).await?;
        self.look_at_images(&seen).await?;
        self.learn_about().await;
        self.album().keep_only(&seen);
        let ids: BTreeSet<&str> = seen.iter().map(|seen| seen.id.as_str()).collect();
        self.copiers()
            .retain(|id, copier| ids.contains(id.as_str()) || !copier.is_done());
        Ok(seen)
    }

    /// What the image names of containers mean by now.
    async fn look_at_images(&self, seen: &[Seen]) -> Result<(), Failure> {
        let names = seen.iter().filter_map(Seen::image_name).map(str::to_owned);
        let names: BTreeSet<String> = names.collect();
        let looks = names.into_iter().map(|name| self.image_of(name));
        let looks = futures_util::stream::iter(looks).buffer_unordered(AT_ONCE);
        let known: Vec<Option<(String, String)>> = looks.try_collect().await?;
        *self.images() = known.into_iter().flatten().collect();
        Ok(())
    }

    /// A name with the id of the image that it means; `None` when it means none.
    async fn image_of(&self, name: String) -> Result<Option<(String, String)>, Failure> {
        let wanted = name.as_str();
        let answer = self
            .engine
            .call(
                LOOK,
                |client| async move { client.inspect_image(wanted).await },
            )
            .await;
        let id = match found(answer) {
            Ok(image) => image.and_then(|image| image.id),
            // It only tells whether there is a newer image.
            Err(Failure::Answered { .. }) => None,
            Err(failure) => return Err(failure),
        };
        Ok(id.map(|id| (name, id)))
    }

    /// The container of one instance, looked at closely.
    pub(super) async fn look_at(
        self: &Arc<Self>,
        instance: &InstanceId,
    ) -> Result<Option<Seen>, Failure> {
        let filters = identity::of_instance(&self.config.owner, instance);
        let listed = self.containers(filters).await?;
        for summary in &listed {
            if let Some(id) = &summary.id {
                self.album().doubt(id);
            }
        }
        Ok(self.look_closer(listed).await?.into_iter().next())
    }

    async fn look_closer(
        self: &Arc<Self>,
        listed: Vec<ContainerSummary>,
    ) -> Result<Vec<Seen>, Failure> {
        let looks = listed.into_iter().map(|summary| self.picture_of(summary));
        let looks = futures_util::stream::iter(looks).buffer_unordered(AT_ONCE);
        let seen: Vec<Option<Seen>> = looks.try_collect().await?;
        let mut seen: Vec<Seen> = seen.into_iter().flatten().collect();
        self.find_phantoms(&mut seen).await?;
        for seen in &seen {
            self.copy_output(seen);
        }
        Ok(seen)
    }

    /// Finds containers that the engine takes for running although their processes are gone, as it
    /// does when both it and their guardian were killed.
    async fn find_phantoms(&self, seen: &mut Vec<Seen>) -> Result<(), Failure> {
        let doubted = self.doubted(seen).await;
        if doubted.is_empty() {
            return Ok(());
        }
        // They may have ended since the engine was asked, and the engine needs a moment.
        tokio::time::sleep(PHANTOM_DOUBT).await;
        let looks = doubted.into_iter().map(|id| async {
            self.album().doubt(&id);
            let mut again = self.picture(id.clone(), None).await?;
            if let Some(seen) = again.as_mut().filter(|seen| has_no_process(seen)) {
                tracing::warn!(instance = %seen.instance, "its container has no process");
                seen.life = Life::Lost {
                    at: self.clock.now(),
                };
            }
            Ok::<_, Failure>((id, again))
        });
        let looks = futures_util::stream::iter(looks).buffer_unordered(AT_ONCE);
        let mut again: HashMap<String, Option<Seen>> = looks.try_collect().await?;
        for one in std::mem::take(seen) {
            // One that was removed meanwhile is not there any more.
            seen.extend(again.remove(&one.id).unwrap_or(Some(one)));
        }
        Ok(())
    }

    /// The containers whose process should be on this host, and is not. None where the engine may
    /// count processes otherwise than this host does.
    async fn doubted(&self, seen: &[Seen]) -> Vec<String> {
        let gone: Vec<&Seen> = seen.iter().filter(|seen| has_no_process(seen)).collect();
        if gone.is_empty() {
            return Vec::new();
        }
        let at_home = self.album().is_at_home(seen);
        let listener = self.beginnings().await.listener;
        gone.into_iter()
            .filter(|seen| at_home || listener.vouches_for(seen.record.as_deref()))
            .map(|seen| seen.id.clone())
            .collect()
    }

    /// Whether what we mount is there for the engine too.
    pub(super) async fn sees_our_mounts(&self) -> bool {
        let listener = self.beginnings().await.listener;
        tokio::task::spawn_blocking(move || listener.sees_our_mounts())
            .await
            .unwrap_or(false)
    }

    async fn beginnings(&self) -> Beginnings {
        let (watch, now) = (self.outages.watch(), self.clock.now());
        Beginnings::find(self.engine.endpoint(), watch, now).await
    }

    /// Whose doing the end of a container was.
    async fn judge(&self, seen: &mut Seen) {
        if let Life::Exited(exit) = &seen.life {
            if let Some(failure) = self.never_ran(seen, exit).await {
                let at = exit.at;
                seen.life = Life::NotStarted { failure, at };
                return;
            }
            let mode = seen.description.as_ref().map(|it| it.spec.restart.mode);
            let beginnings = self.beginnings().await;
            let outages = self.outages.all(self.clock.now());
            let mode = mode.unwrap_or(RestartMode::Always);
            seen.life = outage::judge(
                exit.clone(),
                mode,
                &outages,
                &beginnings,
                seen.boot.as_deref(),
            );
        }
    }

    /// Whether it was the container's init that ended, since it could not execute the program.
    async fn never_ran(&self, seen: &Seen, exit: &Exit) -> Option<StartFailure> {
        let brief = exit.started_at.is_some_and(|at| exit.at.since(at) < BRIEF);
        // The last is that of Podman's init, and of many a program.
        if !brief || !matches!(exit.status, ExitStatus::Code(126 | 127 | 1)) {
            return None;
        }
        let options = LogsOptions {
            stderr: true,
            tail: "1".to_owned(),
            ..LogsOptions::default()
        };
        let id = seen.id.as_str();
        let last: Vec<LogOutput> = self
            .engine
            .call(LOOK, |client| async move {
                client.logs(id, Some(options)).try_collect().await
            })
            .await
            // Without it the code stands for itself.
            .unwrap_or_default();
        let text = last.first()?.to_string();
        let why = dialect::words_of_init(&text)?;
        let spec = &seen.description.as_ref()?.spec;
        let Workload::Docker(container) = &spec.workload else {
            return None;
        };
        let program = container.command.iter().flatten().next();
        let program = program.map_or("of the image", String::as_str);
        Some(Refusal::of_init(why, program, &container.image).into())
    }

    /// Lets a container run on that somebody has paused: its pipeline says that it runs.
    async fn wake(&self, seen: &Seen) -> Result<(), Failure> {
        tracing::warn!(instance = %seen.instance, "its container was paused; it runs on");
        let id = seen.id.as_str();
        let answer = self
            .engine
            .call(CHANGE, |client| async move {
                client.unpause_container(id).await
            })
            .await;
        match answer {
            // Not paused any more, or gone.
            Ok(()) | Err(Failure::Answered { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// A closer look at what was listed. One container that the engine cannot describe, as happens
    /// to those whose removal failed half way, hides none of the others for long.
    async fn picture_of(&self, listed: ContainerSummary) -> Result<Option<Seen>, Failure> {
        let Some(id) = listed.id.clone() else {
            return Ok(None);
        };
        match self.picture(id.clone(), listed.state).await {
            Err(failure @ Failure::Answered { status: 500, .. }) => {
                let lasts = self.album().failed_to_describe(&id) > TROUBLE;
                let ended = || Seen::ended(&listed, self.clock.now()).filter(|_| lasts);
                let seen = self.seen_before(&listed).or_else(ended).ok_or(failure)?;
                tracing::debug!(instance = %seen.instance, "the engine cannot describe its container");
                Ok(Some(seen))
            }
            answer => {
                self.album().undescribed.remove(&id);
                answer
            }
        }
    }

    /// What was last seen of a container that still runs, by the list.
    fn seen_before(&self, listed: &ContainerSummary) -> Option<Seen> {
        let album = self.album();
        let picture = album.pictures.get(listed.id.as_deref()?)?;
        let runs = listed.state == Some(ContainerSummaryStateEnum::RUNNING);
        (runs && picture.seen.life.is_alive()).then(|| picture.seen.clone())
    }

    async fn picture(
        &self,
        id: String,
        state: Option<ContainerSummaryStateEnum>,
    ) -> Result<Option<Seen>, Failure> {
        let fresh = self.album().fresh(&id, state);
        if let Some(seen) = fresh {
            return Ok(Some(seen));
        }
        // Removed since it was listed.
        let Some(inspected) = self.engine.container(&id).await? else {
            return Ok(None);
        };
        let Some(mut seen) = Seen::read(inspected, self.clock.now())? else {
            return Ok(None);
        };
        self.judge(&mut seen).await;
        if seen.paused && self.config.conduct == Conduct::Tends {
            self.wake(&seen).await?;
        }
        let picture = Picture {
            state,
            taken: Instant::now(),
            seen: seen.clone(),
        };
        self.album().insert(picture);
        Ok(Some(seen))
    }
}
