//! What the program does itself rather than ask a daemon for. The composition root provides it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args;
use super::engine::Engine;
use super::exit::{Exit, Failure};
use super::out::Out;
use super::text::Style;
use crate::api::{Backend, Orchestrator, Remarks, SourceInput};
use crate::daemon::OtlpEndpoint;
use crate::daemon::{CleanedUp, Volumes};
use crate::model::{HumanDuration, Namespace, PipelineSpec};
use crate::notify::Source;
use crate::telemetry::LogFormat;

/// The rest of the program, as the command line sees it. None of its functions needs a runtime;
/// those that serve or wait make their own.
pub trait Host {
    /// Runs the daemon until it is told to end.
    ///
    /// # Errors
    /// When the state directory is held by another daemon or cannot be used.
    fn serve(&self, options: &DaemonOptions) -> Result<Exit, Failure>;

    /// Runs one pipeline in the foreground, telling on `out` what happens.
    ///
    /// # Errors
    /// When it cannot be read or a component fails to start.
    fn run(&self, options: &RunOptions, out: &mut Out) -> Result<Exit, Failure>;

    /// What runs, found without a daemon: it answers whatever only reads. `Ok(None)` = there is no
    /// state.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn look(&self, state_dir: &Path) -> Result<Option<Arc<dyn Backend>>, Failure>;

    /// Ends everything that the state directory owns, without a daemon.
    ///
    /// # Errors
    /// When a daemon holds the directory, or something is still alive after `within`.
    fn end_all(&self, state_dir: &Path, within: HumanDuration) -> Result<(), Failure>;

    /// Removes or keeps the named volumes of what is down, and tells which.
    ///
    /// # Errors
    /// When they are to be removed and the engine does not answer.
    fn volumes(&self, state_dir: &Path, fate: Volumes) -> Result<CleanedUp, Failure>;

    /// Reads and checks manifests.
    ///
    /// # Errors
    /// [`crate::api::ApiError::manifest`] with all problems of all of them.
    fn check(&self, question: &Question<'_>) -> Result<Approved, Failure>;

    /// `value` as YAML.
    ///
    /// # Errors
    /// When it has no such form.
    fn yaml(&self, value: &serde_json::Value) -> Result<String, Failure>;
}

/// Which manifests are to be checked, and how the answer is to look.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Where they are.
    pub sources: &'a [SourceInput],
    /// The namespace of pipelines that name none.
    pub namespace: Option<&'a Namespace>,
    /// Where components run whose file leaves that open.
    pub orchestrator: Option<Orchestrator>,
    /// Whether rendered problems are coloured.
    pub style: Style,
}

/// Manifests without problems.
#[derive(Clone, Debug, Default)]
pub struct Approved {
    /// All pipelines, each with the index of the source that defines it.
    pub pipelines: Vec<(usize, PipelineSpec)>,
    /// What is worth telling.
    pub remarks: Remarks,
}

/// How the daemon is to run.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Where it keeps its state.
    pub state_dir: PathBuf,
    /// What it logs, as tracing-subscriber's filter; `None` = `info`.
    pub log: Option<String>,
    /// How it logs.
    pub log_format: LogFormat,
    /// Where components reach the control plane.
    pub control_plane: args::ControlPlane,
    /// Where containers run.
    pub engine: Engine,
    /// How long logs are kept of what is deleted.
    pub keep_logs: HumanDuration,
    /// Where scrapers are answered beside the socket.
    pub metrics_address: Option<std::net::SocketAddr>,
    /// Where components are told that a collector is.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Which file says who is told of what is wrong.
    pub notify: Source,
}

/// How `flowctl run` is to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where it keeps its state.
    pub state_dir: PathBuf,
    /// Where the pipeline is defined.
    pub sources: Vec<SourceInput>,
    /// The namespace if the file names none.
    pub namespace: Option<Namespace>,
    /// All that was typed.
    pub args: args::Run,
    /// What it logs about itself; `None` = nothing but warnings.
    pub log: Option<String>,
    /// Whether output is coloured.
    pub style: Style,
}
