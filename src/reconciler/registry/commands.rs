//! What the owner can be asked about registrations.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::model::{Evidence, InstanceId, RegistrationRecord, RunChange, RunRecord, ServiceId};

use super::{
    Beats, Directory, Identity, Introduction, Note, Notes, Peer, RegistryRefusal, Standing,
};
use crate::reconciler::handle::{Command, ReconcilerHandle, Refusal};

/// The instance at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identified {
    /// This one, which lives.
    Instance {
        /// Which one.
        id: InstanceId,
        /// By what.
        by: Evidence,
    },
    /// One that has ended; what is left of it calls.
    Ended(InstanceId),
    /// It may be one whose start has not been answered.
    NotYet,
    /// None that is known.
    Nobody,
}

/// What the owner can be asked about registrations. All are answered at once.
#[derive(Debug)]
pub enum RegistryCommand {
    /// Which instance is at the other end of a connection.
    Identify {
        /// What the kernel and the engine tell of it.
        peer: Box<Peer>,
        /// Gets the answer.
        reply: oneshot::Sender<Identified>,
    },
    /// The control plane is found somewhere else from now on.
    Moved {
        /// `host:port`.
        address: String,
    },
    /// Whether an instance lives, which may have begun a moment ago.
    Lives {
        /// Which one.
        instance: InstanceId,
        /// Gets the answer.
        reply: oneshot::Sender<bool>,
    },
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
        /// Who calls.
        who: Identity,
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
        /// Who calls.
        who: Identity,
        /// Gets what stands from now on.
        reply: oneshot::Sender<Result<Standing<()>, RegistryRefusal>>,
    },
    /// A runner says something anew about a run.
    ChangeRun {
        /// Which run.
        id: String,
        /// What.
        change: Box<RunChange>,
        /// Who calls.
        who: Identity,
        /// Gets the run as it is then; `None` = there is none of that id.
        reply: oneshot::Sender<Result<Option<Standing<Arc<RunRecord>>>, RegistryRefusal>>,
    },
    /// All that runners told.
    Notes {
        /// Gets all of it.
        reply: oneshot::Sender<Notes>,
    },
}

impl ReconcilerHandle {
    /// Which instance is at the other end of a connection.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn identify(&self, peer: Peer) -> Result<Identified, Refusal> {
        let peer = Box::new(peer);
        self.ask(|reply| Command::Registry(RegistryCommand::Identify { peer, reply }))
            .await
    }

    /// Says where the control plane is found from now on.
    pub async fn control_plane_moved(&self, address: String) {
        let command = Command::Registry(RegistryCommand::Moved { address });
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the daemon is going");
        }
    }

    /// Whether an instance lives, which may have begun a moment ago.
    ///
    /// # Errors
    /// When the daemon is going.
    pub async fn lives(&self, instance: InstanceId) -> Result<bool, Refusal> {
        self.ask(|reply| Command::Registry(RegistryCommand::Lives { instance, reply }))
            .await
    }

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
        who: Identity,
    ) -> Result<Result<Standing<()>, RegistryRefusal>, Refusal> {
        self.ask(|reply| Command::Registry(RegistryCommand::Unregister { id, who, reply }))
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

    /// Keeps what a runner tells.
    ///
    /// # Errors
    /// `Err` outside when the daemon is going; inside when somebody else told of it first.
    pub async fn tell_note(
        &self,
        note: Note,
        who: Identity,
    ) -> Result<Result<Standing<()>, RegistryRefusal>, Refusal> {
        let note = Box::new(note);
        self.ask(|reply| Command::Registry(RegistryCommand::Tell { note, who, reply }))
            .await
    }

    /// Takes over what a runner says anew; `None` when there is no such run.
    ///
    /// # Errors
    /// As [`ReconcilerHandle::tell_note`].
    pub async fn change_run(
        &self,
        id: String,
        change: RunChange,
        who: Identity,
    ) -> Result<Result<Option<Standing<Arc<RunRecord>>>, RegistryRefusal>, Refusal> {
        let change = Box::new(change);
        let command = |reply| RegistryCommand::ChangeRun {
            id,
            change,
            who,
            reply,
        };
        self.ask(|reply| Command::Registry(command(reply))).await
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
