//! flowctl: a declarative reconciliation controller for data pipelines.

pub mod api;
pub mod clock;
pub mod driver;
pub mod manifest;
pub mod model;
pub mod planner;
pub mod probe;
pub mod reconciler;
pub mod store;
