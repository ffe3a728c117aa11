//! Programs that are run beside an instance, as its exec probes are: as its own program runs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::driver::Launch;
use crate::model::{ComponentSpec, ExitStatus, ImageChoice, InstanceId, Signal};

use super::context::Context;
use super::failure::Refusal;
use super::fork_server::Duty;
use super::record::Description;
use super::start::receive;
use super::wire::{self, Reply, Stage};
use super::{ProcessDriver, Site, foresee, launch};

/// A file system that does not say by then what is wrong with a program is not waited for.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(2);

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of what it wrote to either output, 4 KiB at most.
    pub output: Vec<u8>,
}

/// Why a program was not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// It cannot be run as the component has it, in words.
    Component(String),
    /// What it should find around it is not known, or this host has no room, in words.
    NoPlace(String),
}

impl ProcessDriver {
    /// Begins `command` beside `instance`, given what flowctl injected into that; what it answers
    /// waits for the end. Dropping either future kills the program and all that it forked.
    ///
    /// # Errors
    /// Why it does not run; then why it is not known how it ended.
    pub async fn exec(
        &self,
        instance: &InstanceId,
        command: &[String],
        injected: impl FnOnce(&Launch) -> BTreeMap<String, String> + Send + 'static,
    ) -> Result<BoxFuture<'static, Result<Ran, String>>, NotBegun> {
        let no_place = |error: &dyn std::fmt::Display| NotBegun::NoPlace(error.to_string());
        let (wanted, argv) = (instance.clone(), command.to_vec());
        let begun = self
            .blocking("run a program beside an instance", move |site, _| {
                Ok(begin(site, &wanted, &argv, injected))
            })
            .await
            .map_err(|error| no_place(&error))?;
        let Begun {
            control,
            request,
            context,
            spec,
        } = begun.map_err(|refusal| no_place(&refusal))?;
        let mut control = UnixStream::from_std(control).map_err(|error| no_place(&error))?;
        let sent = control.write_all(&request).await;
        sent.map_err(|error| no_place(&error))?;
        match receive(&mut control).await {
            Ok(Reply::Started { .. }) => Ok(Box::pin(async move {
                let ended = ended(&mut control).await;
                ended.map_err(|error| format!("its guardian ended: {error}"))
            })),
            Ok(Reply::Failed { stage, errno, .. }) => {
                let failed = (Some(stage), errno);
                let refusal = explain(failed, &spec, command.to_vec(), context).await;
                Err(match stage {
                    Stage::Limits
                    | Stage::Groups
                    | Stage::Group
                    | Stage::User
                    | Stage::Privileges
                    | Stage::WorkingDir
                    | Stage::Exec => NotBegun::Component(refusal.to_string()),
                    Stage::Shim
                    | Stage::Claim
                    | Stage::Spawn
                    | Stage::Session
                    | Stage::Descriptors
                    | Stage::Cgroup => NotBegun::NoPlace(refusal.to_string()),
                })
            }
            Ok(Reply::Ready { .. }) => Err(no_place(&"its guardian stutters")),
            Err(error) => Err(no_place(&format!("its guardian ended: {error}"))),
        }
    }
}

struct Begun {
    control: StdUnixStream,
    request: Vec<u8>,
    context: Arc<Context>,
    spec: Arc<ComponentSpec>,
}

/// Asks for a shim, and says what for.
fn begin(
    site: &Site,
    instance: &InstanceId,
    argv: &[String],
    injected: impl FnOnce(&Launch) -> BTreeMap<String, String>,
) -> Result<Begun, Refusal> {
    let server = site.server.as_ref().ok_or(Refusal::OnlyLooks)?;
    let file = site.file_of(instance);
    let unreadable = |error| Refusal::StateDir {
        path: file.clone(),
        error,
    };
    let read = Description::read(&file).map_err(unreadable)?;
    let read = read.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
    let spec = read.spec.clone();
    let context = match site.context(instance) {
        Some(context) => context,
        None => {
            let mut launch = Launch {
                instance: read.instance,
                spec: read.spec,
                generation: read.generation,
                file: read.file,
                injected: BTreeMap::new(),
                image: ImageChoice::ByPolicy,
                given_up: CancellationToken::new(),
            };
            launch.injected = injected(&launch);
            launch::context(site, &launch)?
        }
    };
    let groups = site.groups.of(instance, site.program(instance));
    let prepared = context.prepare(argv, &groups)?;
    let request = prepared.program().encode();
    let open = || -> io::Result<StdUnixStream> {
        let (ours, theirs) = StdUnixStream::pair()?;
        server.launch(Duty::Exec, theirs.as_fd())?;
        ours.set_nonblocking(true)?;
        Ok(ours)
    };
    Ok(Begun {
        control: open().map_err(Refusal::Process)?,
        request,
        context,
        spec,
    })
}

async fn ended(control: &mut UnixStream) -> io::Result<Ran> {
    let mut bytes = [0; wire::Ran::SIZE];
    control.read_exact(&mut bytes).await?;
    let told = wire::Ran::decode(bytes).ok_or(io::ErrorKind::InvalidData)?;
    let mut output = vec![0; told.output as usize];
    control.read_exact(&mut output).await?;
    let status = match told.status {
        code @ 0.. => ExitStatus::Code(code),
        signal => Signal::from_number(-signal).map_or(ExitStatus::Unknown, ExitStatus::Signal),
    };
    Ok(Ran { status, output })
}

/// Why a program could not be executed: the file that is wrong, where that can be seen, else what
/// the kernel said.
pub(super) async fn explain(
    (stage, errno): (Option<Stage>, i32),
    spec: &ComponentSpec,
    argv: Vec<String>,
    context: Arc<Context>,
) -> Refusal {
    let said = Refusal::of_stage(stage, errno, spec);
    if !matches!(stage, Some(Stage::Exec | Stage::WorkingDir)) {
        return said;
    }
    let looking = tokio::task::spawn_blocking(move || foresee::can_run(&argv, &context));
    match timeout(EXPLAIN_PATIENCE, looking).await {
        Ok(Ok(Err(seen))) => seen,
        Ok(Ok(Ok(())) | Err(_)) | Err(_) => said,
    }
}
