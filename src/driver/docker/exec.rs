//! Programs that are run inside of a container: what its exec probes ask.

use std::sync::Arc;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process_group};

use super::engine::{CHANGE, Engine, Failure, LOOK};
use super::{DockerDriver, Inner, evidence};
use crate::driver::DriverError;
use crate::model::InstanceId;

/// What this is called in errors.
const OPERATION: &str = "run a program in a container";
/// So much of what it writes is kept; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 4 << 10;

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code, as the engine gives it.
    pub code: i64,
    /// The beginning of what it wrote.
    pub output: Vec<u8>,
}

impl DockerDriver {
    /// Begins `command` where an instance runs; what it answers waits for the end. Dropping either
    /// future kills the program and its process group, where the engine is on this host.
    ///
    /// # Errors
    /// When the engine does not begin it; then when it does not say how it ended.
    pub async fn exec(
        &self,
        instance: &InstanceId,
        command: &[String],
    ) -> Result<impl Future<Output = Result<Ran, DriverError>> + Send + use<>, DriverError> {
        let lost = |failure: Failure| failure.unreachable(OPERATION);
        let seen = self.find(instance).await.map_err(lost)?;
        let Some(container) = seen.map(|seen| seen.id) else {
            let gone = Failure::Silent("its container is gone".to_owned());
            return Err(lost(gone));
        };
        let wanted = CreateExecOptions {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let running = self.begin(container, wanted, None).await.map_err(lost)?;
        Ok(async move { running.ended().await.map_err(lost) })
    }

    pub(super) async fn begin(
        &self,
        container: String,
        wanted: CreateExecOptions<String>,
        start: Option<StartExecOptions>,
    ) -> Result<Running, Failure> {
        let engine = &self.inner.engine;
        let place = container.as_str();
        let made = engine
            .call(CHANGE, |client| async move {
                client.create_exec(place, wanted).await
            })
            .await?;
        // Before it is started: whether a call that is dropped was carried out is not known.
        let mut running = Running {
            inner: Arc::clone(&self.inner),
            container,
            id: made.id.clone(),
            over: false,
            output: StartExecResults::Detached,
        };
        let id = made.id.as_str();
        running.output = engine
            .call(CHANGE, |client| async move {
                client.start_exec(id, start).await
            })
            .await?;
        Ok(running)
    }
}

/// A program that runs. Dropped while it does, it is killed: no engine has a call for that.
pub(super) struct Running {
    inner: Arc<Inner>,
    container: String,
    id: String,
    over: bool,
    /// What it writes, while it runs.
    output: StartExecResults,
}

impl Running {
    /// What it writes and reads, once.
    pub(super) fn take_output(&mut self) -> StartExecResults {
        std::mem::replace(&mut self.output, StartExecResults::Detached)
    }

    /// What the engine calls it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whose it is.
    pub(super) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// It has ended: nothing is to be killed.
    pub(super) fn is_over(&mut self) {
        self.over = true;
    }

    /// Reads what it writes until it ends.
    async fn ended(mut self) -> Result<Ran, Failure> {
        let mut output = Vec::new();
        if let StartExecResults::Attached { output: lines, .. } = &mut self.output {
            while let Some(Ok(some)) = lines.next().await {
                let room = OUTPUT_LIMIT - output.len();
                let bytes = some.into_bytes();
                output.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        let id = self.id.as_str();
        let engine = &self.inner.engine;
        let ended = engine
            .call(LOOK, |client| async move { client.inspect_exec(id).await })
            .await?;
        self.over = true;
        let code = ended
            .exit_code
            .ok_or_else(|| Failure::Silent("the engine does not say how it ended".to_owned()))?;
        Ok(Ran { code, output })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.over || !self.inner.engine.endpoint().is_local() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let exec = std::mem::take(&mut self.id);
        let container = std::mem::take(&mut self.container);
        tokio::spawn(async move {
            let id = exec.as_str();
            let found = inner
                .engine
                .call(LOOK, |client| async move { client.inspect_exec(id).await })
                .await;
            let running = found.ok().filter(|it| it.running == Some(true));
            let pid = running.and_then(|it| u32::try_from(it.pid?).ok());
            // An engine in another pid namespace: there its program ends when it likes, and here
            // that number is somebody else's.
            let ours = pid.filter(|pid| evidence::is_of(*pid, &container));
            let pid = ours.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            if let Some(pid) = pid
                && let Err(error) = kill_process_group(pid, Signal::KILL)
            {
                tracing::debug!(%error, "a probe's program in a container is not ended");
            }
        });
    }
}
