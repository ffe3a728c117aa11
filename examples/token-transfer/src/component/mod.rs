//! What the three programs of the pipeline share: how they read their settings, tell of their
//! health, register with flowctl, and end.

/// What `--help` says of the variables by which each of the programs registers.
macro_rules! registration_help {
    () => {
        "  FLOWCTL_COMPONENT_ID, COMPONENT_ID, FLOWCTL_SERVICE_ID, SERVICE_ID
                        its id in the pipeline
  ENABLE_FLOWCTL, FLOWCTL_ENABLED
                        true: register with the control plane and give signs of life
  FLOWCTL_ENDPOINT, CONTROL_PLANE_ENDPOINT
                        the control plane, as host:port; localhost:8080
  FLOWCTL_HEARTBEAT_INTERVAL, FLOWCTL_HEARTBEAT_INTERVAL_MS
                        time between two signs of life; 10s
  COMPONENT_TOKEN_FILE, COMPONENT_TOKEN
                        what the control plane knows it by
"
    };
}
pub(crate) use registration_help;

pub mod env;
pub mod health;
pub mod link;
pub mod log;
pub mod register;
pub mod run;

pub use env::{Env, SettingError};
pub use health::{Health, Metric};
