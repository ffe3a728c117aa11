//! What the command line, scripts and the web page talk to: HTTP/JSON on a Unix socket.
//!
//! **Expected flow.** The daemon binds the socket of its state directory ([`socket::bind`]) and
//! hands it to [`server::serve`] with a [`Backend`]. Everyone else uses [`Client`].
//!
//! **Guarantees.** Only the daemon's own user and root get an answer. What a peer can cost is
//! bounded: connections, streams, header time, body size and time, and a peer that stops reading.
//! Every failure is `{"error": {"code", "message", "hint"}}`; streams are one JSON object a line.
//!
//! **What it does not do.** It decides nothing and keeps nothing: commands go to the reconciler's
//! handle, answers come from the latest snapshot.

mod backend;
mod body;
mod client;
mod error;
#[cfg(test)]
mod field_effects;
mod following;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod lines;
mod newest;
mod places;
mod routes;
mod scrapers;
pub mod server;
pub mod socket;
mod stall;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Checked, Exposition, Loaded, nobody_is_told};
pub use client::{Client, ClientError, DaemonProcess};
pub use error::{ApiError, ErrorBody, ErrorCode};
pub use following::{Heard, Link, follow};
pub use lines::{Lines, LogItem};
pub use newest::{LogBatch, NewestLines};
pub use scrapers::serve_scrapers;
pub use stall::{Impatient, Streaming};
pub use wire::{
    AppliedPipeline, ApplyAnswer, ApplyRequest, AskAnswer, Asked, CallerHas, CallerVariables,
    ChangeWord, DiffAnswer, EventQuery, Fate, HostMount, KeptEntry, KeptLogs, LeftOut, LogEntry,
    LogParams, LogsOf, MetricsForm, Orchestrator, Remarks, RemovedLogs, SourceInput, StreamName,
    VersionAnswer, VolumesAnswer, VolumesRequest, Watching, WhenUnready,
};
