//! What a run tells whoever listens, who may be slow, pause, or go away.

use std::sync::Arc;

use tokio::sync::mpsc::error::SendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::driver::LogLine;

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Said {
    /// What happens.
    Progress(String),
    /// What a component wrote.
    Log(LogLine, Room),
}

/// The room that a line of a component takes while it waits to be shown; free again once dropped.
#[derive(Debug)]
pub struct Room(#[expect(dead_code, reason = "it is only held")] OwnedSemaphorePermit);

/// Where a run tells what happens, in the order in which it does.
#[derive(Clone, Debug)]
pub struct Voice {
    /// Without a limit: what a run itself says is little, and it must never wait for a reader.
    said: mpsc::UnboundedSender<Said>,
    /// What components write is much, and waits in their files.
    room: Arc<Semaphore>,
}

/// Nobody listens any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unheard;

impl Voice {
    /// A voice, and where it is heard. At most `waiting` lines of components wait there.
    pub fn new(waiting: usize) -> (Self, mpsc::UnboundedReceiver<Said>) {
        let (said, heard) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(waiting));
        (Self { said, room }, heard)
    }

    /// Tells what happens, without waiting. A reader that has gone needs no telling; the run goes
    /// on until it is stopped.
    pub(super) fn say(&self, line: &str) {
        if self.said.send(Said::Progress(line.to_owned())).is_err() {
            tracing::debug!(line, "nobody listens to the run");
        }
    }

    /// Passes on what a component wrote, once there is room for it.
    pub(super) async fn pass_on(&self, line: LogLine) -> Result<(), Unheard> {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let room = room.map_err(|_| Unheard)?;
        let sent = self.said.send(Said::Log(line, Room(room)));
        sent.map_err(|SendError(_)| Unheard)
    }
}
