//! The only writer: one task that owns all state.
//!
//! **Expected flow.** Something happened (a command, a hint, an answer, time) → [`Core::handle`];
//! when nothing more waits, [`Core::turn`] plans what was touched → its changes are recorded →
//! its effects are carried out in tasks of their own → their answers come back as inputs.
//!
//! **Guarantees.** An effect begins only after the intent for it was recorded. Nothing here waits
//! for a driver or a disk, so one slow stop delays nobody. Readers take the latest snapshot and
//! never hold the owner up.
//!
//! **Assumptions.** The store answers commits in order; at most one reconciler runs per state
//! directory.

mod commands;
mod commit;
mod core;
mod handle;
mod handover;
mod ledger;
mod look;
mod pipeline;
mod probing;
mod progress;
mod registry;
mod run;
mod sighted;
#[cfg(test)]
mod sim;
mod snapshot;
mod stepped;
mod steps;
mod vitals;

pub use self::core::{Core, Input, Kept, Turn};
pub use handle::{
    Afterwards, Applied, Asker, Change, Command, Origin, ReconcilerHandle, Refusal, Request, Source,
};
pub use ledger::{Answer, Changes, Durability, Effect, Ending};
pub use probing::{Probing, ProbingChange};
pub use progress::WatchingChange;
pub use registry::{
    Ancestor, Beat, Beats, Directory, Identified, Identity, Introduction, Note, NoteKey, Notes,
    Peer, PeerProcess, RegistryCommand, RegistryRefusal, Room, Standing, TooMany,
};
pub use run::{Drivers, Environment, Probes, Reconciler, Recorder, TargetOf};
pub use vitals::{Action, Success, VitalFigures, Vitals};
