//! What the three programs of the pipeline share: how they read their settings, tell of their
//! health, register with flowctl, and end.

pub mod env;
pub mod health;
pub mod link;
pub mod log;
pub mod register;
pub mod run;

pub use env::{Env, SettingError};
pub use health::{Health, Metric};
