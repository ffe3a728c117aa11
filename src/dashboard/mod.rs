//! `flowctl ui`: all of it at a glance, in a terminal.
//!
//! **Expected flow.** The command line calls `run` with a client of the daemon. [`follow`](crate::api::follow)
//! follows the daemon's snapshots; `keys::key` turns keys into another `Ui` and into
//! effects; `frame::draw` turns a snapshot and a `Ui` into a picture; only what differs from
//! the picture before is written.
//!
//! **Guarantees.** Nothing is written while nothing that is shown changes: ages of what is well are
//! told in minutes. The terminal is given back as it was, however the program ends, but for a
//! `kill -9`. What components write and what they are called never reaches the terminal as an
//! escape. A daemon that ends, hangs or restarts is told of and waited for.
//!
//! **What it does not do.** It decides nothing: it asks the daemon as `start`, `stop` and `restart`
//! do. It runs in the client, never in the daemon.

mod ages;
mod commands;
mod feed;
mod frame;
mod keys;
mod page;
mod run;
mod screen;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use run::{Describe, Ended, Options, run};
pub use screen::DashboardError;
pub use state::Control;
