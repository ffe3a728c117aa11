//! How others speak to the owner: commands in, snapshots and answers out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::model::{
    ComponentId, Event, Generation, PipelineKey, PipelineSpec, Problem, Pull, Snapshot,
    StatusCondition,
};

use super::registry::{Beats, Directory, RegistryCommand};
use super::vitals::Vitals;

/// What the owner can be asked to do. Each carries where to send the answer.
#[derive(Debug)]
pub enum Command {
    /// Make these pipelines the desired ones of `source`.
    Apply {
        /// All pipelines that the source defines now.
        pipelines: Vec<PipelineSpec>,
        /// Where they come from.
        source: Source,
        /// Answered once the change is recorded power-safe.
        reply: oneshot::Sender<Result<Vec<Applied>, Refusal>>,
    },
    /// A source cannot be read as pipelines (`Some`), or can again (`None`).
    Problem {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: Option<Problem>,
    },
    /// Take a pipeline down and forget it.
    Delete {
        /// Which one.
        pipeline: PipelineKey,
        /// Answered once recorded; the snapshot tells when it is gone.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Take everything down and forget it.
    Down {
        /// What the owner does once nothing is left.
        afterwards: Afterwards,
        /// Answered once recorded; the snapshot tells when all is gone.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// `start`, `stop` or `restart` of a component.
    Ask {
        /// In which pipeline.
        pipeline: PipelineKey,
        /// Which component.
        component: ComponentId,
        /// What.
        request: Request,
        /// Answered with the moment of the request once it is recorded power-safe.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The definition that a pipeline runs by, for `diff`.
    Desired {
        /// Which one.
        pipeline: PipelineKey,
        /// `None` = there is no such pipeline.
        reply: oneshot::Sender<Option<(Generation, Arc<PipelineSpec>)>>,
    },
    /// Something about who is registered.
    Registry(RegistryCommand),
    /// What is worth knowing of a pipeline's components that nobody decides by, all of it.
    Note {
        /// Which pipeline.
        pipeline: PipelineKey,
        /// By component.
        notes: BTreeMap<ComponentId, Vec<String>>,
    },
    /// What another part of the daemon finds wrong, all of it.
    Reported {
        /// Who found them.
        asker: Asker,
        /// In place of what was said before.
        conditions: Vec<StatusCondition>,
    },
    /// Another image policy is in force: what was refused is judged anew.
    ImagePolicyChanged,
    /// The daemon ends, and what runs runs on.
    Leave {
        /// What made it end.
        why: String,
        /// Answered once that is recorded.
        reply: oneshot::Sender<()>,
    },
}

/// What becomes of the owner of an emptied state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It takes pipelines on as before.
    GoOn,
    /// It ends and takes on nothing more; an apply that is accepted before calls that off.
    End,
}

/// Where pipelines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The absolute path of the file; `None` = standard input.
    pub file: Option<PathBuf>,
    /// Whether saving the file applies it.
    pub watched: bool,
    /// Who applies it.
    pub origin: Origin,
}

/// Who applies a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A person, by `apply`: takes a pipeline over from another file.
    Person,
    /// The watch: a pipeline that left the file is deleted; one of another file is left alone.
    Watch,
}

/// What a person asks of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run, whatever held it back.
    Start,
    /// Stay down.
    Stop,
    /// Be replaced.
    Restart(Pull),
}

/// What an accepted `Apply` did to one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which pipeline.
    pub pipeline: PipelineKey,
    /// The version wanted now; unchanged when nothing changed.
    pub generation: Generation,
    /// Whether anything changed.
    pub change: Change,
    /// The file it was watched at before, when that was another one.
    pub moved_from: Option<PathBuf>,
}

/// Whether an apply changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The pipeline is new.
    Created,
    /// Its definition changed.
    Changed,
    /// Its definition is the same.
    Unchanged,
    /// It is gone from its file and is being taken down.
    Deleted,
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No pipeline of that name.
    #[error("there is no pipeline `{0}`")]
    NoSuchPipeline(PipelineKey),
    /// No component of that name in it.
    #[error("pipeline `{pipeline}` has no component `{component}`")]
    NoSuchComponent {
        /// Which pipeline.
        pipeline: PipelineKey,
        /// Which component.
        component: ComponentId,
    },
    /// The command cannot be recorded, so it is not carried out.
    #[error(
        "the state directory cannot record it: {why}; free space or mend the disk, then repeat"
    )]
    NotDurable {
        /// What went wrong.
        why: String,
    },
    /// The pipeline is being deleted.
    #[error("pipeline `{0}` is being deleted; wait until it is gone")]
    Deleting(PipelineKey),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// Who finds something wrong with the daemon as a whole. Each says all that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// Whoever tells people and programs.
    Notifier,
    /// Whoever follows the image policy.
    ImagePolicy,
    /// Whoever looks for lines of logs that were lost.
    Logs,
}

/// The way to the owner. Cheap to clone; readers take the latest snapshot from it.
#[derive(Clone, Debug)]
pub struct ReconcilerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
    pub(super) directories: watch::Receiver<Arc<Directory>>,
    pub(super) beats: Beats,
    pub(super) vitals: Vitals,
    /// Cancelled once it is decided that the owner ends.
    pub(super) ending: CancellationToken,
}

impl ReconcilerHandle {
    /// Waits until a [`Self::down_and_end`] has left nothing. From then on no apply is accepted, so
    /// what is empty stays so.
    pub async fn downed(&self) {
        self.ending.cancelled().await;
    }

    /// Whether no apply is accepted any more.
    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Whether the owner is gone.
    pub fn has_ended(&self) -> bool {
        self.commands.is_closed()
    }

    /// Waits until the owner is gone: nothing is looked after any more, and what readers see stays
    /// as it was.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// The way to an owner that reads `commands`, publishes `snapshots` and tells `events`.
    pub fn new(
        commands: mpsc::Sender<Command>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        events: broadcast::Sender<Arc<Event>>,
    ) -> Self {
        Self {
            commands,
            snapshots,
            events,
            directories: watch::channel(Arc::default()).1,
            beats: Beats::default(),
            vitals: Vitals::default(),
            ending: CancellationToken::new(),
        }
    }

    /// The latest snapshot, and each later one.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// How the owner itself is doing.
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Events from now on. A reader that falls behind by 1,024 is told how many it missed and reads
    /// them from the store.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Makes `pipelines` the desired ones of `source`.
    ///
    /// # Errors
    /// When it cannot be recorded, or the daemon is going.
    pub async fn apply(
        &self,
        pipelines: Vec<PipelineSpec>,
        source: Source,
    ) -> Result<Vec<Applied>, Refusal> {
        self.ask(|reply| Command::Apply {
            pipelines,
            source,
            reply,
        })
        .await?
    }

    /// Says that a file is broken (`Some`) or good again (`None`).
    pub async fn report(&self, file: PathBuf, problem: Option<Problem>) {
        self.tell(Command::Problem { file, problem }).await;
    }

    /// Takes a pipeline down and forgets it.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be recorded.
    pub async fn delete(&self, pipeline: PipelineKey) -> Result<(), Refusal> {
        self.ask(|reply| Command::Delete { pipeline, reply })
            .await?
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn down(&self) -> Result<(), Refusal> {
        let afterwards = Afterwards::GoOn;
        self.ask(|reply| Command::Down { afterwards, reply })
            .await?
    }

    /// Takes everything down and has the owner end, which [`Self::downed`] tells, unless something
    /// is applied before all is gone. Both are one command: a caller that is dropped meanwhile has
    /// asked for both or for nothing.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn down_and_end(&self) -> Result<(), Refusal> {
        let afterwards = Afterwards::End;
        self.ask(|reply| Command::Down { afterwards, reply })
            .await?
    }

    /// Asks for a start, stop or restart.
    ///
    /// # Errors
    /// When there is no such component, or it cannot be recorded.
    pub async fn request(
        &self,
        pipeline: PipelineKey,
        component: ComponentId,
        request: Request,
    ) -> Result<(), Refusal> {
        self.ask(|reply| Command::Ask {
            pipeline,
            component,
            request,
            reply,
        })
        .await?
    }

    /// Says all that is worth knowing of a pipeline's components, in place of what was said before.
    pub async fn note(&self, pipeline: PipelineKey, notes: BTreeMap<ComponentId, Vec<String>>) {
        self.tell(Command::Note { pipeline, notes }).await;
    }

    /// Says all that the asker finds wrong with the daemon as a whole, in place of what was said
    /// before.
    pub async fn report_conditions(&self, asker: Asker, conditions: Vec<StatusCondition>) {
        self.tell(Command::Reported { asker, conditions }).await;
    }

    /// Says that another image policy is in force.
    pub async fn image_policy_changed(&self) {
        self.tell(Command::ImagePolicyChanged).await;
    }

    /// Records that the daemon ends, and what made it.
    ///
    /// # Errors
    /// When the owner is gone already.
    pub async fn leave(&self, why: &str) -> Result<(), Refusal> {
        let why = why.to_owned();
        self.ask(|reply| Command::Leave { why, reply }).await
    }

    /// The definition that a pipeline runs by.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn desired(
        &self,
        pipeline: PipelineKey,
    ) -> Result<Option<(Generation, Arc<PipelineSpec>)>, Refusal> {
        self.ask(|reply| Command::Desired { pipeline, reply }).await
    }

    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| Refusal::ShuttingDown)?;
        answer.await.map_err(|_| Refusal::ShuttingDown)
    }

    /// A message without an answer: when the owner is gone, nobody is left to care.
    async fn tell(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the reconciler is gone; a report was dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_owner_is_seen() {
        let (commands, owner) = mpsc::channel(1);
        let snapshot = Snapshot {
            schema: String::new(),
            daemon: None,
            conditions: Vec::new(),
            pipelines: Vec::new(),
        };
        let (_snapshot, snapshots) = watch::channel(Arc::new(snapshot));
        let handle = ReconcilerHandle::new(commands, snapshots, broadcast::channel(1).0);
        let waiting = tokio::spawn(async move { handle.ended().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(owner);
        waiting.await.unwrap();
    }
}
