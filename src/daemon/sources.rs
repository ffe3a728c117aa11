//! Where pipelines come from: reads manifests for `apply`, and follows the files of those applied.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::api::{
    ApiError, ApplyRequest, Checked, ErrorCode, Loaded, Orchestrator, Remarks, SourceInput,
    Watching,
};
use crate::manifest::{self, Colour, Parsed, Problems};
use crate::model::Namespace;
use crate::reconciler::{Origin, ReconcilerHandle, Source};

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
    for input in sources {
        let (file, parsed) = read(input, reading);
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

fn read(input: &SourceInput, reading: &Reading) -> (Option<PathBuf>, Result<Parsed, Problems>) {
    let options = |base_dir: &Path| manifest::Options {
        base_dir: base_dir.to_owned(),
        orchestrator: reading.orchestrator.map(|orchestrator| match orchestrator {
            Orchestrator::Process => manifest::Orchestrator::Process,
            Orchestrator::Container => manifest::Orchestrator::Container,
        }),
    };
    match input {
        SourceInput::Text { text, folder } => (
            None,
            manifest::parse("standard input", text.as_bytes(), &options(folder)),
        ),
        SourceInput::File(path) => {
            let name = path.display().to_string();
            let folder = path.parent().unwrap_or(Path::new("/"));
            let parsed = match std::fs::read(path) {
                Ok(text) => manifest::parse(&name, &text, &options(folder)),
                Err(error) => {
                    let message = format!("it cannot be read: {error}");
                    Err(Problems::whole_file(&name, message, None))
                }
            };
            (Some(path.clone()), parsed)
        }
    }
}

/// Reads manifests and follows their files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sources {}

impl Sources {
    pub async fn start(
        _owner: ReconcilerHandle,
        _files: Vec<PathBuf>,
        _stop: &CancellationToken,
    ) -> Self {
        Self {}
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

    /// Follows nothing from now on.
    pub fn close(&self) {}

    /// Follows the file of an applied source from now on, or leaves it.
    pub async fn follow(&self, _source: &Source) {}
}
