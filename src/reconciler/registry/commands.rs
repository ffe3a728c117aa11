//! What the owner can be asked about registrations.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::model::{InstanceId, RegistrationRecord, RunChange, RunRecord, ServiceId};

use super::{Beats, Directory, Introduction, Note, Notes, RegistryRefusal, Standing};
use crate::reconciler::handle::{Command, ReconcilerHandle, Refusal};

/// What the owner can be asked about registrations. All are answered at once.
#[derive(Debug)]
pub enum RegistryCommand {
    /// A component registers.
    Register {
        /// What it says, and what is known of the caller.
        intro: Box<Introduction>,
        /// Gets what is known of it from now on.
        reply: oneshot::Sender<Result<Standing<Arc<RegistrationRecord>>, RegistryRefusal>>,
    },
    /// A component takes its registration back; one that is not known is a success.
    Unregister {
        /// Which registration.
        id: ServiceId,
        /// The instance whose token the caller showed.
        token: Option<InstanceId>,
        /// Whether it was its own.
        reply: oneshot::Sender<Result<Standing<()>, RegistryRefusal>>,
    },
    /// Who is registered, with every heartbeat that has arrived.
    Directory {
        /// Gets all of it.
        reply: oneshot::Sender<Arc<Directory>>,
    },
    /// A runner tells something.
    Tell {
        /// What.
        note: Box<Note>,
        /// Fires once it is recorded; closed when it cannot be.
        recorded: oneshot::Sender<()>,
    },
    /// A runner says something anew about a run.
    ChangeRun {
        /// Which run.
        id: String,
        /// What.
        change: Box<RunChange>,
        /// Gets the run as it is then; `None` = there is none of that id.
        reply: oneshot::Sender<Option<Standing<Arc<RunRecord>>>>,
    },
    /// All that runners told.
    Notes {
        /// Gets all of it.
        reply: oneshot::Sender<Notes>,
    },
}

impl ReconcilerHandle {
    /// Registers a component.
    ///
    /// # Errors
    /// `Err` outside when the daemon is going; inside when its token does not fit or no room is
    /// left.
    pub async fn register(
        &self,
        intro: Introduction,
    ) -> Result<Result<Standing<Arc<RegistrationRecord>>, RegistryRefusal>, Refusal> {
        let intro = Box::new(intro);
        self.ask(|reply| Command::Registry(RegistryCommand::Register { intro, reply }))
            .await
    }

    /// Takes a registration back.
    ///
    /// # Errors
    /// As [`ReconcilerHandle::register`].
    pub async fn unregister(
        &self,
        id: ServiceId,
        token: Option<InstanceId>,
    ) -> Result<Result<Standing<()>, RegistryRefusal>, Refusal> {
        self.ask(|reply| Command::Registry(RegistryCommand::Unregister { id, token, reply }))
            .await
    }

    /// Who is registered, with every heartbeat that has arrived.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn directory(&self) -> Result<Arc<Directory>, Refusal> {
        self.ask(|reply| Command::Registry(RegistryCommand::Directory { reply }))
            .await
    }

    /// Keeps what a runner tells, and answers once that is recorded or cannot be.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn tell_note(&self, note: Note) -> Result<(), Refusal> {
        let note = Box::new(note);
        self.ask(|recorded| Command::Registry(RegistryCommand::Tell { note, recorded }))
            .await
    }

    /// Takes over what a runner says anew; `None` when there is no such run.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn change_run(
        &self,
        id: String,
        change: RunChange,
    ) -> Result<Option<Standing<Arc<RunRecord>>>, Refusal> {
        let change = Box::new(change);
        self.ask(|reply| Command::Registry(RegistryCommand::ChangeRun { id, change, reply }))
            .await
    }

    /// All that runners told.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn notes(&self) -> Result<Notes, Refusal> {
        self.ask(|reply| Command::Registry(RegistryCommand::Notes { reply }))
            .await
    }

    /// Who is registered, and each later state; up to a second behind the heartbeats.
    pub fn directories(&self) -> watch::Receiver<Arc<Directory>> {
        self.directories.clone()
    }

    /// Where heartbeats go.
    pub fn beats(&self) -> &Beats {
        &self.beats
    }
}
