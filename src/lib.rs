//! flowctl: a declarative reconciliation controller for data pipelines.

pub mod clock;
pub mod driver;
pub mod manifest;
pub mod model;
pub mod reconciler;
pub mod watch;
