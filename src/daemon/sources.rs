//! Where pipelines come from: reads manifests for `apply`, and follows the files of those applied.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::{
    ApiError, ApplyRequest, Checked, ErrorCode, Loaded, Orchestrator, Remarks, SourceInput,
    Watching,
};
use crate::driver::process;
use crate::images::Gate;
use crate::manifest::{self, Colour, Given, Parsed, Problems, Severity, Taken};
use crate::model::{DriverKind, Limit, Namespace, PipelineSpec, Problem, path};
use crate::ownership::{End, Stranger, Trusted};
use crate::reconciler::{Origin, ReconcilerHandle, Source};
use crate::store::{self, Batch, Store, StoreError};
use crate::watch::{self, Method, OnProblem, Touches, Update, Watch, WatchDied};

use super::images;

/// How manifests are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The namespace of pipelines that name none.
    pub namespace: Option<Namespace>,
    /// Where components run whose file leaves that open.
    pub orchestrator: Option<Orchestrator>,
    /// Whether rendered problems are coloured.
    pub colour: Colour,
}

impl Reading {
    /// What of it is about the manifest.
    pub(super) fn given(&self) -> Given {
        given(self.namespace.clone(), self.orchestrator)
    }
}

fn given(namespace: Option<Namespace>, orchestrator: Option<Orchestrator>) -> Given {
    Given {
        namespace,
        orchestrator: orchestrator.map(|orchestrator| match orchestrator {
            Orchestrator::Process => manifest::Orchestrator::Process,
            Orchestrator::Container => manifest::Orchestrator::Container,
            Orchestrator::Kubernetes => manifest::Orchestrator::Kubernetes,
            Orchestrator::Nomad => manifest::Orchestrator::Nomad,
        }),
    }
}

/// Reads and checks `sources`, all problems of all of them together.
///
/// # Errors
/// [`ApiError::manifest`] with everything that is wrong.
pub fn check(
    sources: &[SourceInput],
    watch: Watching,
    reading: &Reading,
) -> Result<Checked, ApiError> {
    let mut checked = Checked::default();
    let (mut rendered, mut problems) = (String::new(), Vec::new());
    let all = sources.iter().flat_map(|input| {
        let read = read(input, reading);
        read.into_iter()
            .map(move |(file, parsed)| (input, file, parsed))
    });
    for (source, file, parsed) in all {
        match parsed {
            Ok(Parsed {
                pipelines,
                warnings,
                text,
            }) => {
                remark(
                    &mut checked.remarks,
                    &warnings,
                    file.as_deref(),
                    reading.colour,
                );
                in_vain(&mut checked.remarks, &pipelines, file.as_deref());
                let is_followed = match (&file, watch) {
                    (Some(file), Watching::Yes) => follows(file, source, &mut checked.remarks),
                    (None, _) | (_, Watching::No) => false,
                };
                let source = Source {
                    file,
                    watched: is_followed,
                    origin: Origin::Person,
                };
                checked.loaded.push(Loaded {
                    source,
                    pipelines,
                    text,
                });
            }
            Err(found) => {
                rendered += &found.render(reading.colour);
                problems.extend(found.rows(Severity::Error, file.as_deref()));
                let warnings = &mut checked.remarks.warnings;
                warnings.extend(found.rows(Severity::Warning, file.as_deref()));
            }
        }
    }
    if problems.is_empty() {
        Ok(checked)
    } else {
        let warnings = checked.remarks.warnings;
        Err(ApiError::manifest(rendered, problems).with_warnings(warnings))
    }
}

/// Reads and checks what a request names.
///
/// # Errors
/// As [`check`].
pub(super) async fn load(request: &ApplyRequest) -> Result<Checked, ApiError> {
    let (sources, watch) = (request.sources.clone(), request.watch);
    let reading = Reading {
        namespace: request.namespace.clone(),
        orchestrator: request.orchestrator,
        colour: Colour::Off,
    };
    let checking = tokio::task::spawn_blocking(move || check(&sources, watch, &reading));
    match timeout(READING, checking).await {
        Ok(Ok(checked)) => checked,
        Ok(Err(error)) => Err(ApiError::new(ErrorCode::Internal, error.to_string())),
        Err(_) => Err(ApiError::new(
            ErrorCode::Unreachable,
            format!("what was named could not be read within {READING:?}"),
        )
        .with_hint("its file system may hang; nothing was changed")),
    }
}

/// Whether a file, of the source that was named, is followed: not where another user could change it,
/// which is told.
fn follows(file: &Path, source: &SourceInput, remarks: &mut Remarks) -> bool {
    let named = match source {
        SourceInput::File(path) => stranger(path),
        SourceInput::Text { .. } => None,
    };
    let trusted = Trusted::ours();
    let Some(stranger) = named.or_else(|| trusted.stranger(file, End::Itself)) else {
        return true;
    };
    let message = format!(
        "{} is applied this once and not followed, since others could change it: {stranger}; {}",
        file.display(),
        stranger.advice()
    );
    remarks.warn(Some(file.to_owned()), message);
    false
}

/// Who else could change what is followed by this name.
fn stranger(path: &Path) -> Option<Stranger> {
    let end = if path.is_dir() {
        End::WithContents
    } else {
        End::Itself
    };
    Trusted::ours().stranger(path, end)
}

fn remark(remarks: &mut Remarks, warnings: &Problems, file: Option<&Path>, colour: Colour) {
    if !warnings.is_empty() {
        remarks.rendered += &warnings.render(colour);
        remarks
            .warnings
            .extend(warnings.rows(Severity::Warning, file));
    }
}

/// Warns of limits that this host does not let us enforce.
fn in_vain(remarks: &mut Remarks, pipelines: &[PipelineSpec], file: Option<&Path>) {
    let missing = process::unenforced();
    let components = pipelines.iter().flat_map(|spec| spec.components.values());
    for component in components.filter(|one| one.driver() == DriverKind::Process) {
        let limits: Vec<Limit> = Limit::of(&component.resources)
            .filter(|limit| missing.contains(limit))
            .collect();
        let Some(words) = Limit::in_vain(&limits) else {
            continue;
        };
        let id = &component.id;
        let message = format!("{id}: {words}: {}", process::why_unenforced());
        remarks.warn(file.map(Path::to_owned), message);
    }
}

fn read(
    input: &SourceInput,
    reading: &Reading,
) -> Vec<(Option<PathBuf>, Result<Parsed, Problems>)> {
    let given = reading.given();
    match input {
        SourceInput::Text { text, folder, name } => {
            let name = name.as_deref().unwrap_or("standard input");
            vec![(
                None,
                watch::read_stream(name, text.as_bytes(), folder, &given),
            )]
        }
        SourceInput::File(path) => watch::read(path, &given)
            .into_iter()
            .map(|update| (Some(update.file), update.outcome))
            .collect(),
    }
}

/// The settings by which followed sources outlive the daemon.
const SOURCE: &str = "source/";

/// What is known of a followed file or folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Followed {
    /// What was asked for when it was applied.
    given: Given,
    /// Of a folder: its files that were applied once. A further one is new; one of these whose
    /// pipelines were deleted since is not.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "path::optional_many"
    )]
    files: Option<BTreeSet<PathBuf>>,
}

/// What a file of a followed source is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Pipelines of it run.
    Owned,
    /// It came into a followed folder.
    New,
    /// Its pipelines were deleted, or moved to another file.
    Forsaken,
}

/// Reads manifests and follows their files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sources {
    watch: Arc<Watch>,
    owner: ReconcilerHandle,
    store: Store,
    /// By the path of the file or folder.
    followed: Arc<Mutex<BTreeMap<PathBuf, Followed>>>,
    /// Decides which images may run.
    gate: Arc<Gate>,
    /// How often each file was edited.
    edits: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
    stop: CancellationToken,
}

/// How long an answer about files is waited for; one that comes later is taken when it comes.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the files of a request may take: less than its asker waits.
const READING: Duration = Duration::from_secs(30);
/// How long a file system may be silent before `status` says so.
const SILENCE: Duration = Duration::from_secs(5);

impl Sources {
    /// Follows `files`, whose pipelines are known already, and the folders that they came from. What
    /// lies on a file system that hangs is followed once that answers.
    ///
    /// # Errors
    /// When the watch cannot start.
    pub async fn start(
        owner: ReconcilerHandle,
        store: Store,
        settings: &BTreeMap<String, String>,
        files: Vec<PathBuf>,
        gate: Arc<Gate>,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let (watch, updates) = Watch::new(Method::Events)?;
        let sources = Self {
            watch: Arc::new(watch),
            owner,
            store,
            followed: Arc::default(),
            gate,
            edits: Arc::default(),
            stop: stop.clone(),
        };
        let mut known = kept(settings);
        let mut all: BTreeMap<PathBuf, Followed> = BTreeMap::new();
        for file in files {
            let folder = file.parent().unwrap_or(Path::new("/"));
            let (path, followed) = match known.get(folder) {
                Some(followed) => (folder.to_owned(), followed.clone()),
                None => {
                    let followed = known.get(&file).cloned();
                    let followed = followed.unwrap_or_else(|| sources.surmised(&file));
                    (file, followed)
                }
            };
            all.insert(path, followed);
        }
        known.retain(|path, _| !all.contains_key(path));
        for path in known.into_keys() {
            sources.record(path, None);
        }
        let following: Vec<JoinHandle<()>> = all
            .into_iter()
            .map(|(path, followed)| sources.follow_as(path, followed, Vec::new()))
            .collect();
        for_a_while(following).await;
        tokio::spawn(sources.clone().hand_in(updates));
        Ok(sources)
    }

    /// Tells when what `file` says may have changed, which is not one of pipelines.
    ///
    /// # Errors
    /// When its thread has died.
    pub fn touches(&self, file: PathBuf) -> Result<Touches, WatchDied> {
        self.watch.touches(file)
    }

    /// What a lost setting must have said: the namespace that all pipelines of `file` share was
    /// given, or is the one that the file names.
    fn surmised(&self, file: &Path) -> Followed {
        let snapshot = self.owner.snapshots().borrow().clone();
        let of_file = snapshot
            .pipelines
            .iter()
            .filter(|pipeline| pipeline.file.as_deref() == Some(file));
        let mut namespaces: BTreeSet<Namespace> =
            of_file.map(|pipeline| pipeline.namespace.clone()).collect();
        let namespace = namespaces.pop_first().filter(|_| namespaces.is_empty());
        Followed {
            given: given(namespace, None),
            files: None,
        }
    }

    /// Follows what was applied from now on, or leaves it. `taken` are the files as they were read.
    pub async fn follow(&self, request: &ApplyRequest, taken: Vec<Taken>) {
        let given = given(request.namespace.clone(), request.orchestrator);
        for source in &request.sources {
            match (source, request.watch) {
                (SourceInput::Text { .. }, _) => {}
                (SourceInput::File(path), Watching::Yes) => {
                    self.begin(path.clone(), given.clone(), &taken).await;
                }
                (SourceInput::File(path), Watching::No) => self.leave(path),
            }
        }
    }

    /// Reads all that is followed again.
    pub fn look_again(&self) {
        self.watch.look_again();
    }

    /// Follows a file or a folder that was applied just now, as `taken` says.
    pub async fn begin(&self, path: PathBuf, given: Given, taken: &[Taken]) {
        let asked = path.clone();
        // One whose file system hangs is judged when it is read.
        let judged = timeout(
            PATIENCE,
            tokio::task::spawn_blocking(move || stranger(&asked)),
        )
        .await;
        if let Ok(Ok(Some(stranger))) = judged {
            tracing::warn!(%stranger, path = %path.display(), "it is not followed");
            self.leave(&path);
            return;
        }
        let is_covered = path.parent().is_some_and(|folder| {
            let followed = self.followed();
            followed
                .get(folder)
                .is_some_and(|known| known.given == given)
        });
        if is_covered {
            return;
        }
        let found = tokio::fs::metadata(&path).await;
        let files = if found.is_ok_and(|found| found.is_dir()) {
            let inside = |file: &PathBuf| file.parent() == Some(&path);
            let before: Vec<PathBuf> = self.followed().keys().cloned().collect();
            for file in before.iter().filter(|file| inside(file)) {
                self.leave(file);
            }
            let owned = self.owned_files();
            Some(owned.into_iter().filter(inside).collect())
        } else {
            None
        };
        let followed = Followed { given, files };
        self.record(path.clone(), Some(&followed));
        let of_it =
            |one: &&Taken| one.file == path || one.file.parent().is_some_and(|dir| dir == path);
        let taken: Vec<Taken> = taken.iter().filter(of_it).cloned().collect();
        for one in &taken {
            // An earlier edit that still waits for its images is none any more.
            self.edited(&one.file);
        }
        for_a_while([self.follow_as(path, followed, taken)]).await;
    }

    /// Follows a file or folder from now on; what it says beyond `taken` is taken in a task.
    fn follow_as(&self, path: PathBuf, followed: Followed, taken: Vec<Taken>) -> JoinHandle<()> {
        let source = watch::Source {
            path: path.clone(),
            given: followed.given.clone(),
        };
        self.followed().insert(path.clone(), followed);
        // In the order in which sources are followed and left.
        let adding = self.watch.add(source, taken, OnProblem::Wait);
        let sources = self.clone();
        tokio::spawn(async move {
            let stop = sources.stop.clone();
            // Cancel-safe: what was not taken is read again by the next daemon.
            stop.run_until_cancelled(sources.take_first(&path, adding))
                .await;
        })
    }

    /// Takes what a source says that has just been added.
    async fn take_first(
        &self,
        path: &Path,
        adding: impl Future<Output = Result<Vec<Update>, WatchDied>>,
    ) {
        let mut adding = pin!(adding);
        let (added, silent) = match timeout(SILENCE, adding.as_mut()).await {
            Ok(added) => (added, BTreeSet::new()),
            Err(_) => {
                let silent = self.tell_of_silence(path).await;
                (adding.await, silent)
            }
        };
        let updates = match added {
            Ok(updates) => updates,
            Err(error) => {
                tracing::error!(%error, "edits are not noticed any more");
                return;
            }
        };
        let read = |file: &PathBuf| updates.iter().any(|update| update.file == *file);
        for file in silent.into_iter().filter(|file| !read(file)) {
            self.owner.report(file, None).await;
        }
        for update in updates {
            self.take(update).await;
        }
    }

    /// Says of the pipelines of a source that their files cannot be read yet. Answers the files.
    async fn tell_of_silence(&self, source: &Path) -> BTreeSet<PathBuf> {
        tracing::warn!(path = %source.display(), "its file system does not answer");
        let files = self.files_of(source);
        for file in &files {
            let problem = Problem {
                file: Some(file.clone()),
                line: None,
                column: None,
                message: "cannot read the file yet: its file system does not answer".to_owned(),
            };
            self.owner.report(file.clone(), Some(problem)).await;
        }
        files
    }

    fn leave(&self, path: &Path) {
        if self.followed().remove(path).is_none() {
            return;
        }
        self.record(path.to_owned(), None);
        if let Err(error) = self.watch.remove(path.to_owned()) {
            tracing::error!(%error, "edits are not noticed any more");
        }
    }

    /// Keeps what is known of a source for the next daemon. Without it that one knows only which
    /// file a pipeline came from, which is enough to go on.
    fn record(&self, path: PathBuf, followed: Option<&Followed>) {
        let name = format!("{SOURCE}{}", path::to_text(&path));
        let row = followed.map(|followed| {
            serde_json::to_string(followed).expect("a source has string keys only")
        });
        let mut batch = Batch::new();
        match row {
            Some(row) => batch.put_setting(name, row),
            None => batch.forget_setting(name),
        }
        let done = |result: Result<(), StoreError>| {
            if let Err(error) = result {
                tracing::warn!(%error, "a followed source is not recorded yet");
            }
        };
        self.store.commit(batch, store::Durability::CrashSafe, done);
    }

    async fn hand_in(self, mut updates: mpsc::UnboundedReceiver<Update>) {
        loop {
            tokio::select! {
                // Cancel-safe: receiving takes nothing out unless it wins.
                update = updates.recv() => match update {
                    Some(update) => self.take(update).await,
                    None => break,
                },
                // Cancel-safe: cancellation stays set.
                () = self.stop.cancelled() => break,
            }
        }
    }

    async fn take(&self, update: Update) {
        let Update { file, outcome } = update;
        let Some(source) = self.source_of(&file) else {
            return;
        };
        match (self.standing(&source, &file), outcome) {
            (Standing::Forsaken, _) => {
                if !self.is_in_use(&source) {
                    self.leave(&source);
                }
            }
            (Standing::New, Err(problems)) => {
                // Nothing runs by it, so there is no status to show it in.
                tracing::warn!(file = %file.display(), %problems, "a new file is not applied");
            }
            (Standing::Owned, Err(problems)) => {
                if is_gone(&file).await {
                    self.note(&source, &file, BTreeSet::remove);
                }
                let problem = problems.first(Some(&file));
                self.owner.report(file, problem).await;
            }
            (Standing::Owned | Standing::New, Ok(parsed)) => {
                self.note(&source, &file, |files, file| files.insert(file.to_owned()));
                let number = self.edited(&file);
                if self.gate.is_watched() {
                    // Registries are asked, and nobody else's edit waits for that.
                    let sources = self.clone();
                    tokio::spawn(sources.hand_in_once_let(file, parsed.pipelines, number));
                } else {
                    self.apply(file, parsed.pipelines).await;
                }
            }
        }
    }

    async fn apply(&self, file: PathBuf, pipelines: Vec<PipelineSpec>) {
        let source = Source {
            file: Some(file),
            watched: true,
            origin: Origin::Watch,
        };
        if let Err(error) = self.owner.apply(pipelines, source).await {
            // The owner has it, and records it when it can.
            tracing::warn!(%error, "an edit is not recorded yet");
        }
    }

    /// Counts an edit of a file; answers its number.
    fn edited(&self, file: &Path) -> u64 {
        let mut edits = self.edits.lock().unwrap_or_else(PoisonError::into_inner);
        let number = edits.entry(file.to_owned()).or_default();
        *number += 1;
        *number
    }

    /// Whether no later edit of the file is known.
    fn is_latest(&self, file: &Path, number: u64) -> bool {
        let edits = self.edits.lock().unwrap_or_else(PoisonError::into_inner);
        edits.get(file) == Some(&number)
    }

    /// Applies an edit once the images that it brings may run. Until then what it would replace runs
    /// on, and `status` says why.
    async fn hand_in_once_let(self, file: PathBuf, pipelines: Vec<PipelineSpec>, number: u64) {
        let mut states = self.gate.states();
        loop {
            states.borrow_and_update();
            let barred = images::barred(&self.gate, &self.owner, &pipelines).await;
            if !self.is_latest(&file, number) {
                return;
            }
            let Some(why) = barred else {
                self.apply(file, pipelines).await;
                return;
            };
            let problem = Problem {
                file: Some(file.clone()),
                line: None,
                column: None,
                message: why,
            };
            self.owner.report(file.clone(), Some(problem)).await;
            tokio::select! {
                // Cancel-safe, all of them: they only wait.
                () = tokio::time::sleep(images::AGAIN) => {}
                changed = states.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// The followed file or folder that `file` belongs to; `None` when it was left meanwhile.
    fn source_of(&self, file: &Path) -> Option<PathBuf> {
        let followed = self.followed();
        let mut candidates = [Some(file), file.parent()].into_iter().flatten();
        let path = candidates.find(|path| followed.contains_key(*path))?;
        Some(path.to_owned())
    }

    fn standing(&self, source: &Path, file: &Path) -> Standing {
        if self.owned_files().contains(file) {
            return Standing::Owned;
        }
        let is_new = match self.followed().get(source) {
            Some(Followed {
                files: Some(files), ..
            }) => source != file && !files.contains(file),
            Some(Followed { files: None, .. }) | None => false,
        };
        if is_new && self.is_in_use(source) {
            Standing::New
        } else {
            Standing::Forsaken
        }
    }

    /// Whether pipelines run by it, or by a file in it.
    fn is_in_use(&self, source: &Path) -> bool {
        !self.files_of(source).is_empty()
    }

    /// The files of a source by which pipelines run.
    fn files_of(&self, source: &Path) -> BTreeSet<PathBuf> {
        let mut files = self.owned_files();
        files.retain(|file| file == source || file.parent() == Some(source));
        files
    }

    /// The files by which pipelines run.
    fn owned_files(&self) -> BTreeSet<PathBuf> {
        let snapshot = self.owner.snapshots().borrow().clone();
        let pipelines = snapshot.pipelines.iter();
        pipelines
            .filter(|pipeline| pipeline.watched && !pipeline.deleting)
            .filter_map(|pipeline| pipeline.file.clone())
            .collect()
    }

    /// Changes which files of a folder were applied once.
    fn note(
        &self,
        source: &Path,
        file: &Path,
        change: impl FnOnce(&mut BTreeSet<PathBuf>, &Path) -> bool,
    ) {
        let changed = match self.followed().get_mut(source) {
            Some(followed) => match &mut followed.files {
                Some(files) => change(files, file).then(|| followed.clone()),
                None => None,
            },
            None => None,
        };
        if let Some(followed) = changed {
            self.record(source.to_owned(), Some(&followed));
        }
    }

    fn followed(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for tasks, but not for those that a file system holds up; they go on.
async fn for_a_while(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    let all = async {
        for task in tasks {
            // One that panicked has said so already.
            task.await.ok();
        }
    };
    if timeout(PATIENCE, all).await.is_err() {
        tracing::info!("some files are not read yet; nobody waits for them");
    }
}

/// Whether there is certainly no such file. One whose file system does not answer may be there.
async fn is_gone(file: &Path) -> bool {
    let found = timeout(PATIENCE, tokio::fs::try_exists(file)).await;
    matches!(found, Ok(Ok(false)))
}

/// The sources among `settings`.
fn kept(settings: &BTreeMap<String, String>) -> BTreeMap<PathBuf, Followed> {
    let rows = settings.iter().filter_map(|(name, row)| {
        let path = name.strip_prefix(SOURCE)?;
        match serde_json::from_str(row) {
            Ok(followed) => Some((path::from_text(path), followed)),
            Err(error) => {
                tracing::warn!(%name, %error, "a followed source could not be read");
                None
            }
        }
    });
    rows.collect()
}
