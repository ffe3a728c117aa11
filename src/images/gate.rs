//! The one gate from a name to an image that runs.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::decide::{Demand, Ruling, rule};
use super::examine::{Case, Examined, Examiner, Subject};
use super::refusal::{Reason, Refused};
use super::registry::Client;
use super::source::{Loaded, load, of_parts};
use crate::clock::Clock;
use crate::manifest::Problems;
use crate::model::image::{Digest, ImageName, ImageRequirement, PolicyMode, Repository};
use crate::model::{Problem, Timestamp};

/// What a tag named so short a time ago it names now: a look ahead and the start that follows it are
/// one question, and so are the starts of many replicas.
const SAME: Duration = Duration::from_secs(5);
/// What the settings of verdicts begin with.
const SETTING: &str = "image/";
/// What the settings begin with that say when the image of a tag was signed.
const LATEST: &str = "image-latest/";
/// The most verdicts that are kept.
const MAX_KEPT: usize = 1_000;

/// What the policy is.
#[derive(Clone, Debug, Default)]
pub enum InForce {
    /// There is none: everything runs as it is written.
    #[default]
    Nothing,
    /// This one.
    Policy(Arc<Loaded>),
    /// There is one, and it was never read: nothing starts.
    Broken,
}

/// The policy, and what is wrong with its file.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What is in force.
    pub in_force: InForce,
    /// What is wrong with the file, and since when.
    pub problem: Option<(Problem, Timestamp)>,
    /// Grows each time something else comes into force.
    pub revision: u64,
}

/// What an image was found to be. It is kept, so that a restart needs nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The digest of all by which it was judged.
    pub by: Digest,
    /// What said what must hold.
    pub place: String,
    /// What was found.
    pub found: String,
    /// What runs instead of the image that was asked about: the one in it that is for this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Digest>,
    /// When.
    pub at: Timestamp,
    /// From when on it is judged anew, whatever the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it was signed, where its tag must not be turned back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Timestamp>,
}

impl Verdict {
    fn in_words(&self) -> String {
        format!("{} ({})", self.found, self.place)
    }
}

/// When the image that a tag named last was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Latest {
    signed: Timestamp,
    digest: Digest,
}

/// An image that may run. It is made here and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedImage {
    runs: Admitted,
    /// By which policy.
    revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Admitted {
    AsWritten(String),
    Exactly {
        repository: Repository,
        digest: Digest,
        verdict: Box<Verdict>,
    },
    Local(String),
}

/// What of an image runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs<'a> {
    /// Whatever this name means to the engine: no policy is in force for it.
    AsWritten(&'a str),
    /// Exactly this.
    Exactly(&'a Repository, &'a Digest),
    /// What the engine has by this name, by its id. It is never pulled.
    Local(&'a str),
}

impl VerifiedImage {
    /// What of it runs.
    pub fn runs(&self) -> Runs<'_> {
        match &self.runs {
            Admitted::AsWritten(image) => Runs::AsWritten(image),
            Admitted::Exactly {
                repository, digest, ..
            } => Runs::Exactly(repository, digest),
            Admitted::Local(image) => Runs::Local(image),
        }
    }

    /// What it was found to be; `None` where nothing was to be found out.
    pub fn verdict(&self) -> Option<&Verdict> {
        match &self.runs {
            Admitted::Exactly { verdict, .. } => Some(verdict.as_ref()),
            Admitted::AsWritten(_) | Admitted::Local(_) => None,
        }
    }
}

/// What is to run.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Its name, as written.
    pub image: &'a str,
    /// What its pipeline requires besides.
    pub besides: Option<&'a ImageRequirement>,
    /// What is known of it.
    pub standing: Standing<'a>,
}

/// What is known of an image that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nothing: its tag is read.
    Fresh,
    /// Its tag was read just now, by an earlier question.
    Renewed,
    /// An earlier run of the same revision ran this: `repository@digest`, or an engine's id.
    Recorded(&'a str),
}

/// Records a verdict under its setting, or forgets it.
pub type Keep = Box<dyn Fn(String, Option<String>) + Send + Sync>;

/// The gate.
pub struct Gate {
    clock: Clock,
    client: Client,
    state: watch::Sender<State>,
    kept: Mutex<BTreeMap<String, Verdict>>,
    /// What tags may not be turned back from.
    latest: Mutex<BTreeMap<String, Latest>>,
    keep: Keep,
    /// What tags named when they were last read.
    read: Mutex<BTreeMap<String, (Digest, Instant)>>,
    /// One question about an image at a time: the next one finds the answer.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate that lets everything through, until it [has](Self::begin) a policy. `settings`
    /// are those of the store, where `keep` puts what is to be found there later.
    pub fn new(clock: Clock, settings: &BTreeMap<String, String>, keep: Keep) -> Self {
        Self {
            clock,
            client: Client::default(),
            state: watch::Sender::new(State::default()),
            // One that cannot be read is found out again.
            kept: Mutex::new(of_settings(settings, SETTING)),
            latest: Mutex::new(of_settings(settings, LATEST)),
            keep,
            read: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// The same, with another way to registries.
    #[cfg(test)]
    pub(super) fn by(self, client: Client) -> Self {
        Self { client, ..self }
    }

    /// The same a while later, when what tags named is read again.
    #[cfg(test)]
    pub(super) fn forgetting_tags(&self) -> &Self {
        self.read().clear();
        self
    }

    /// A gate that lets everything through.
    pub fn open() -> Self {
        Self::new(Clock::new(), &BTreeMap::new(), Box::new(|_, _| {}))
    }

    /// Whether there is a policy, be it a broken one.
    pub fn is_watched(&self) -> bool {
        match self.state.borrow().in_force {
            InForce::Nothing => false,
            InForce::Policy(_) | InForce::Broken => true,
        }
    }

    /// What is in force, and each later change of it.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Reads the policy for the first time. From then on nothing starts that it does not let.
    ///
    /// # Errors
    /// What is wrong with it; then nothing starts.
    pub fn begin(&self, file: &Path) -> Result<(), Problems> {
        let read = load(file);
        let failed = read.as_ref().err().cloned();
        self.take(file, read);
        match failed {
            None => Ok(()),
            Some(problems) => Err(problems),
        }
    }

    /// Reads the policy once more. One that is broken changes nothing.
    pub async fn look_again(&self, file: &Path) {
        let path = file.to_owned();
        match tokio::task::spawn_blocking(move || load(&path)).await {
            Ok(read) => self.take(file, read),
            Err(error) => tracing::error!(%error, "the image policy could not be read"),
        }
    }

    fn take(&self, file: &Path, read: Result<Loaded, Problems>) {
        let now = self.clock.now();
        self.state.send_if_modified(|state| match read {
            Ok(loaded) => {
                let had_problem = state.problem.take().is_some();
                if had_problem {
                    tracing::info!(file = %file.display(), "the image policy is good again");
                }
                let is_same = match &state.in_force {
                    InForce::Policy(known) => known.hash == loaded.hash,
                    InForce::Nothing | InForce::Broken => false,
                };
                if !is_same {
                    tracing::info!(file = %file.display(), hash = %loaded.hash, "an image policy is in force");
                    state.in_force = InForce::Policy(Arc::new(loaded));
                    state.revision += 1;
                }
                had_problem || !is_same
            }
            Err(problems) => {
                let Some(problem) = problems.first(Some(file)) else {
                    return false;
                };
                let since = state.problem.as_ref().map_or(now, |(_, since)| *since);
                let is_known = state.problem.as_ref().is_some_and(|(known, _)| *known == problem);
                if !is_known {
                    let why = problem.in_place();
                    tracing::warn!(why, "the image policy is not usable");
                    state.problem = Some((problem, since));
                }
                if let InForce::Nothing = state.in_force {
                    state.in_force = InForce::Broken;
                    state.revision += 1;
                }
                !is_known
            }
        });
    }

    /// Whether what was admitted was so by what is in force now.
    pub fn is_current(&self, image: &VerifiedImage) -> bool {
        self.state.borrow().revision == image.revision
    }

    /// Decides whether an image may run, and which one that is; `tell` hears what takes a while.
    ///
    /// # Errors
    /// Why it may not.
    pub async fn admit(
        &self,
        question: Question<'_>,
        tell: &(dyn Fn(String) + Sync),
    ) -> Result<VerifiedImage, Refused> {
        let image = question.image;
        let (in_force, revision, problem) = {
            let state = self.state.borrow();
            let problem = state
                .problem
                .as_ref()
                .map(|(problem, _)| problem.in_place());
            (state.in_force.clone(), state.revision, problem)
        };
        let as_written = || VerifiedImage {
            runs: Admitted::AsWritten(image.to_owned()),
            revision,
        };
        let policy = match (&in_force, question.besides) {
            (InForce::Nothing, None) => return Ok(as_written()),
            (InForce::Nothing, Some(_)) => None,
            (InForce::Policy(loaded), _) => Some(loaded.as_ref()),
            (InForce::Broken, _) => {
                return Err(Refused::new(
                    Reason::PolicyBroken,
                    format!(
                        "image {image} is not started: {}; mend the image policy",
                        problem.unwrap_or_default()
                    ),
                ));
            }
        };
        let judged = self.judge(question, policy, tell).await;
        let mode = policy.map_or(PolicyMode::Enforce, |loaded| loaded.policy.mode);
        match (judged, mode) {
            (Ok(runs), PolicyMode::Enforce | PolicyMode::Warn) => {
                Ok(VerifiedImage { runs, revision })
            }
            (Err(refused), PolicyMode::Enforce) => Err(refused),
            (Err(refused), PolicyMode::Warn) => {
                tracing::warn!(image, why = %refused, "the image policy would refuse it");
                tell(format!("the image policy only warns: {refused}"));
                Ok(as_written())
            }
        }
    }

    async fn judge(
        &self,
        question: Question<'_>,
        policy: Option<&Loaded>,
        tell: &(dyn Fn(String) + Sync),
    ) -> Result<Admitted, Refused> {
        let image = question.image;
        let name: ImageName = image.parse().map_err(|error| {
            Refused::new(
                Reason::NotAllowed,
                format!("image {image} is refused, since its name is not clear: {error}"),
            )
        })?;
        let demands = match rule(image, &name, policy, question.besides)? {
            Ruling::Unruled { .. } => return Ok(Admitted::AsWritten(image.to_owned())),
            Ruling::Local { .. } => return Ok(Admitted::Local(image.to_owned())),
            Ruling::Demands(demands) => demands,
        };
        let case = Case {
            image,
            name: &name,
            policy,
            by: judged_by(policy, &demands),
            tag: match (name.digest, question.standing) {
                (None, Standing::Fresh | Standing::Renewed) => Some(name.tag()),
                (Some(_), _) | (None, Standing::Recorded(_)) => None,
            },
            demands,
        };
        let asked = Instant::now();
        let turn = self.turn(&format!("{image} {}", case.by));
        let _turn = turn.lock().await;
        let known = match (name.digest, question.standing) {
            (Some(digest), _) => Some(digest),
            (None, Standing::Recorded(reference)) => recorded(reference, &name.repository),
            (None, Standing::Renewed) => self.read().get(image).map(|(digest, _)| *digest),
            (None, Standing::Fresh) => {
                let read = self.read();
                let read = read.get(image).filter(|(_, at)| *at + SAME >= asked);
                read.map(|(digest, _)| *digest)
            }
        };
        if let Some(digest) = known
            && let Some(verdict) = self.known(&name.repository, &digest, &case.by)
        {
            return self.admitted(&case, digest, verdict, tell);
        }
        self.examine(&case, known, tell).await
    }

    /// What runs by what is known of an image.
    fn admitted(
        &self,
        case: &Case<'_>,
        digest: Digest,
        verdict: Verdict,
        tell: &(dyn Fn(String) + Sync),
    ) -> Result<Admitted, Refused> {
        self.goes_forward(case, digest, verdict.signed)?;
        // A look ahead may have found it out, which nobody heard.
        if case.tag.is_some() {
            tell(verdict.in_words());
        }
        Ok(Admitted::Exactly {
            repository: case.name.repository.clone(),
            digest: verdict.runs.unwrap_or(digest),
            verdict: Box::new(verdict),
        })
    }

    /// Finds out what an image is, and keeps what is found.
    async fn examine(
        &self,
        case: &Case<'_>,
        known: Option<Digest>,
        tell: &(dyn Fn(String) + Sync),
    ) -> Result<Admitted, Refused> {
        let examiner = Examiner {
            client: &self.client,
            deadline: self.client.deadline(),
            now: self.clock.now(),
            tell,
        };
        let digest = match known {
            Some(digest) => Subject::Known(digest),
            None => {
                let fetched = examiner.read_tag(case).await?;
                let mut read = self.read();
                if read.len() > MAX_KEPT {
                    read.clear();
                }
                read.insert(case.image.to_owned(), (fetched.digest, Instant::now()));
                drop(read);
                // It may have been judged before: by an earlier run, or under another tag.
                let repository = &case.name.repository;
                if let Some(verdict) = self.known(repository, &fetched.digest, &case.by) {
                    return self.admitted(case, fetched.digest, verdict, tell);
                }
                Subject::Read(fetched)
            }
        };
        let Examined {
            digest,
            runs,
            found,
            until,
            signed,
        } = examiner.examine(case, digest).await?;
        self.goes_forward(case, digest, signed)?;
        let verdict = Verdict {
            by: case.by,
            place: case.places(),
            found,
            runs,
            at: self.clock.now(),
            until,
            signed,
        };
        tell(verdict.in_words());
        let repository = &case.name.repository;
        self.remember(repository, &digest, &verdict);
        if let Some(part) = &runs {
            self.remember(repository, part, &verdict);
        }
        Ok(Admitted::Exactly {
            repository: repository.clone(),
            digest: runs.unwrap_or(digest),
            verdict: Box::new(verdict),
        })
    }

    /// Whether the tag of an image names none now that was signed before the one that it named last.
    fn goes_forward(
        &self,
        case: &Case<'_>,
        digest: Digest,
        signed: Option<Timestamp>,
    ) -> Result<(), Refused> {
        let (Some(tag), Some(signed)) = (case.tag, signed) else {
            return Ok(());
        };
        let name = format!("{LATEST}{}:{tag}", case.name.repository);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = latest.get(&name) {
            if last.digest == digest {
                return Ok(());
            }
            if signed < last.signed {
                return Err(Refused::new(
                    Reason::Downgraded,
                    format!(
                        "image {} ({}) is refused: it was signed on {signed}, and the one that ran before ({}) on {} ({}). \
                         Name it by its digest to run it all the same",
                        case.image,
                        digest.short(),
                        last.digest.short(),
                        last.signed,
                        case.places()
                    ),
                ));
            }
        }
        let last = Latest { signed, digest };
        let text = serde_json::to_string(&last).expect("texts and numbers under text keys");
        (self.keep)(name.clone(), Some(text));
        latest.insert(name, last);
        let oldest = latest.iter().min_by_key(|(_, last)| last.signed);
        let oldest = oldest.map(|(name, _)| name.clone());
        if let Some(oldest) = oldest.filter(|_| latest.len() > MAX_KEPT) {
            latest.remove(&oldest);
            (self.keep)(oldest, None);
        }
        Ok(())
    }

    /// What is kept of an image, if it was judged by the same.
    fn known(&self, repository: &Repository, digest: &Digest, by: &Digest) -> Option<Verdict> {
        let now = self.clock.now();
        let kept = self.kept();
        let verdict = kept.get(&setting(repository, digest))?;
        let holds = verdict.by == *by && verdict.until.is_none_or(|until| now < until);
        holds.then(|| verdict.clone())
    }

    fn remember(&self, repository: &Repository, digest: &Digest, verdict: &Verdict) {
        let name = setting(repository, digest);
        let oldest = {
            let mut kept = self.kept();
            kept.insert(name.clone(), verdict.clone());
            let oldest = kept.iter().min_by_key(|(_, verdict)| verdict.at);
            let oldest = oldest.map(|(name, _)| name.clone());
            let oldest = oldest.filter(|_| kept.len() > MAX_KEPT);
            if let Some(oldest) = &oldest {
                kept.remove(oldest);
            }
            oldest
        };
        let text = serde_json::to_string(verdict).expect("texts and numbers under text keys");
        (self.keep)(name, Some(text));
        if let Some(oldest) = oldest {
            (self.keep)(oldest, None);
        }
    }

    fn turn(&self, what: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for or holds are not needed any more.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(what.to_owned()).or_default().clone()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Verdict>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> MutexGuard<'_, BTreeMap<String, (Digest, Instant)>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings whose names begin so, as far as they can be read.
fn of_settings<T: serde::de::DeserializeOwned>(
    settings: &BTreeMap<String, String>,
    begin: &str,
) -> BTreeMap<String, T> {
    let own = settings.iter().filter(|(name, _)| name.starts_with(begin));
    own.filter_map(|(name, text)| Some((name.clone(), serde_json::from_str(text).ok()?)))
        .collect()
}

/// The digest of all by which an image is judged.
fn judged_by(policy: Option<&Loaded>, demands: &[Demand<'_>]) -> Digest {
    let mut parts = Vec::new();
    parts.extend(policy.map(|loaded| loaded.hash.bytes().to_vec()));
    for demand in demands {
        let need = serde_json::to_vec(demand.need).expect("texts and numbers under text keys");
        parts.push(demand.place.clone().into_bytes());
        parts.push(need);
    }
    of_parts(&parts)
}

/// The digest of what an earlier run ran, if that was of this repository.
fn recorded(reference: &str, repository: &Repository) -> Option<Digest> {
    let name: ImageName = reference.parse().ok()?;
    name.digest.filter(|_| name.repository == *repository)
}

fn setting(repository: &Repository, digest: &Digest) -> String {
    format!("{SETTING}{repository}@{digest}")
}
