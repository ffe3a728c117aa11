//! How much an instance may use: memory, CPU, files, logs.

use serde::{Deserialize, Serialize};

/// What an instance may use, and what is set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CPU limit in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u64>,
    /// CPU share asked for in MHz, which Nomad counts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<u64>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    /// CPU share asked for, in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millis: Option<u64>,
    /// Memory asked for, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_request_bytes: Option<u64>,
}

/// setrlimit(2) values of a process; soft and hard alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rlimits {
    /// RLIMIT_NOFILE: open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// RLIMIT_CORE in bytes; `None` = inherited, 0 where the component has secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u64>,
}

/// How much log of a component is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A file is rotated when it reaches this. Default 10 MiB (kubelet).
    pub max_size_bytes: u64,
    /// Files kept, the one being written included. Default 5 (kubelet).
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_size_bytes: 10 << 20,
            max_files: 5,
        }
    }
}
