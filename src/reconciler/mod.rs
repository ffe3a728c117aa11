//! The only writer: one task that owns all state.

mod handle;

pub use handle::{Applied, Change, Command, Origin, ReconcilerHandle, Refusal, Request, Source};
