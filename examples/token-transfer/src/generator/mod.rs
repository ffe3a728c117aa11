//! Makes lakes of synthetic ledgers whose events are known beforehand.
//!
//! A [`script`] says what happens in each ledger. From it come, independently of one another, the
//! ledger's XDR ([`encode`]) and the events that a correct pipeline has to find in it ([`truth`]).
//! Nothing here uses the code under [`crate::events`], so that the pipeline is checked against the
//! script and not against itself. The same number of ledgers always makes the same lake.

pub mod encode;
mod meta;
mod operations;
pub mod script;
pub mod truth;
pub mod world;
pub mod write;

pub use write::{LakePlan, MakeError};
