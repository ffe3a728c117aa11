//! Where pipelines come from: reads manifests for `apply`, and follows the files of those applied.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{
    ApiError, ApplyRequest, Checked, ErrorCode, Loaded, Orchestrator, Remarks, SourceInput,
    Watching,
};
use crate::manifest::{self, Colour, Parsed, Problems};
use crate::model::Namespace;
use crate::reconciler::{Origin, ReconcilerHandle, Source};
use crate::watch::{self, Method, OnProblem, Update, Watch};

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
    let all = sources.iter().flat_map(|input| read(input, reading));
    for (file, parsed) in all {
        match parsed {
            Ok(Parsed {
                pipelines,
                warnings,
            }) => {
                remark(
                    &mut checked.remarks,
                    &warnings,
                    file.as_deref(),
                    reading.colour,
                );
                let watched = file.is_some() && watch == Watching::Yes;
                let source = Source {
                    file,
                    watched,
                    origin: Origin::Person,
                };
                checked.loaded.push(Loaded { source, pipelines });
            }
            Err(found) => {
                rendered += &found.render(reading.colour);
                problems.extend(found.first(file.as_deref()));
            }
        }
    }
    if problems.is_empty() {
        Ok(checked)
    } else {
        Err(ApiError::manifest(rendered, problems))
    }
}

fn remark(remarks: &mut Remarks, warnings: &Problems, file: Option<&Path>, colour: Colour) {
    if !warnings.is_empty() {
        remarks.rendered += &warnings.render(colour);
        remarks.warnings.extend(warnings.first(file));
    }
}

fn read(
    input: &SourceInput,
    reading: &Reading,
) -> Vec<(Option<PathBuf>, Result<Parsed, Problems>)> {
    let orchestrator = reading.orchestrator.map(|orchestrator| match orchestrator {
        Orchestrator::Process => manifest::Orchestrator::Process,
        Orchestrator::Container => manifest::Orchestrator::Container,
    });
    match input {
        SourceInput::Text { text, folder } => {
            let name = "standard input";
            vec![(
                None,
                watch::read_stream(name, text.as_bytes(), folder, orchestrator),
            )]
        }
        SourceInput::File(path) => watch::read(path, orchestrator)
            .into_iter()
            .map(|update| (Some(update.file), update.outcome))
            .collect(),
    }
}

/// Reads manifests and follows their files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sources {
    watch: Arc<Watch>,
    owner: ReconcilerHandle,
    followed: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Sources {
    /// Follows `files`, whose pipelines are known already.
    ///
    /// # Errors
    /// When the watch cannot start.
    pub async fn start(
        owner: ReconcilerHandle,
        files: Vec<PathBuf>,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let (watch, updates) = Watch::new(Method::Events)?;
        let followed = Arc::default();
        let sources = Self {
            watch: Arc::new(watch),
            owner,
            followed,
        };
        for file in files {
            sources.begin(file).await;
        }
        tokio::spawn(sources.clone().hand_in(updates, stop.clone()));
        Ok(sources)
    }

    /// Reads and checks what a request names.
    pub async fn load(&self, request: &ApplyRequest) -> Result<Checked, ApiError> {
        let (sources, watch) = (request.sources.clone(), request.watch);
        let reading = Reading {
            namespace: request.namespace.clone(),
            orchestrator: request.orchestrator,
            colour: Colour::Off,
        };
        tokio::task::spawn_blocking(move || check(&sources, watch, &reading))
            .await
            .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?
    }

    /// Follows the file of an applied source from now on, or leaves it.
    pub async fn follow(&self, source: &Source) {
        let Some(file) = &source.file else { return };
        let known = self.followed().contains(file);
        match (source.watched, known) {
            (true, true) | (false, false) => {}
            (true, false) => self.begin(file.clone()).await,
            (false, true) => self.leave(file),
        }
    }

    async fn begin(&self, file: PathBuf) {
        self.followed().insert(file.clone());
        let source = watch::Source {
            path: file,
            orchestrator: None,
        };
        match self.watch.add(source, OnProblem::Wait).await {
            Ok(updates) => {
                for update in updates {
                    self.take(update).await;
                }
            }
            Err(error) => tracing::error!(%error, "edits are not noticed any more"),
        }
    }

    fn leave(&self, file: &Path) {
        self.followed().remove(file);
        if let Err(error) = self.watch.remove(file.to_owned()) {
            tracing::error!(%error, "edits are not noticed any more");
        }
    }

    async fn hand_in(self, mut updates: mpsc::UnboundedReceiver<Update>, stop: CancellationToken) {
        loop {
            tokio::select! {
                // Cancel-safe: receiving takes nothing out unless it wins.
                update = updates.recv() => match update {
                    Some(update) => self.take(update).await,
                    None => break,
                },
                // Cancel-safe: cancellation stays set.
                () = stop.cancelled() => break,
            }
        }
    }

    async fn take(&self, update: Update) {
        let Update { file, outcome } = update;
        let is_owned = self
            .owner
            .snapshots()
            .borrow()
            .pipelines
            .iter()
            .any(|pipeline| {
                pipeline.watched && !pipeline.deleting && pipeline.file.as_ref() == Some(&file)
            });
        if !is_owned {
            // Its pipelines were deleted, or moved to another file.
            self.leave(&file);
            return;
        }
        match outcome {
            Err(problems) => {
                self.owner
                    .report(file.clone(), problems.first(Some(&file)))
                    .await
            }
            Ok(parsed) => {
                let source = Source {
                    file: Some(file),
                    watched: true,
                    origin: Origin::Watch,
                };
                if let Err(error) = self.owner.apply(parsed.pipelines, source).await {
                    // The owner has it, and records it when it can.
                    tracing::warn!(%error, "an edit is not recorded yet");
                }
            }
        }
    }

    fn followed(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
