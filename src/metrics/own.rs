//! How flowctl itself is doing: its process, its state, its loop.

use std::collections::BTreeMap;

use crate::model::{DaemonStatus, TargetStatus, Timestamp};
use crate::reconciler::VitalFigures;

use super::text::{Kind, Labels, Text};

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    cpu_seconds: f64,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
    most_files: Option<u64>,
}

impl Process {
    /// Reads it.
    pub(super) fn read() -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        #[expect(clippy::cast_precision_loss, reason = "seconds of a life fit")]
        let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|text| text.split_ascii_whitespace().next());
        let kibibytes = kibibytes.and_then(|text| text.parse::<u64>().ok());
        Self {
            cpu_seconds,
            resident_bytes: kibibytes.map(|kibibytes| kibibytes * 1024),
            // The listing itself is one of them.
            open_files: entries("/proc/self/fd").map(|count| count.saturating_sub(1)),
            most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

fn entries(folder: &str) -> Option<u64> {
    Some(std::fs::read_dir(folder).ok()?.count() as u64)
}

/// Which program tells, whether or not it is a daemon.
pub(super) fn write_build(text: &mut Text) {
    text.family(
        "flowctl_build_info",
        Kind::Gauge,
        "Which flowctl tells; always 1.",
    );
    let version = env!("CARGO_PKG_VERSION");
    // Whoever packages it says from which commit; one that is built by hand is of none.
    let revision = option_env!("FLOWCTL_REVISION").unwrap_or("unknown");
    let labels = Labels::new(&[("version", version), ("revision", revision)]);
    text.sample(&labels, true);
}

/// What the daemon says of itself.
pub(super) fn write_daemon(daemon: &DaemonStatus, text: &mut Text) {
    let none = Labels::default();
    text.family(
        "flowctl_daemon_start_time_seconds",
        Kind::Gauge,
        "When the daemon started.",
    );
    text.sample(&none, daemon.started_at);
    text.family(
        "flowctl_durable",
        Kind::Gauge,
        "Whether what it decides can be recorded; without that nothing new is started.",
    );
    text.sample(&none, daemon.durable);
}

/// What the kernel says of its process, under the names that every exporter uses.
pub(super) fn write_process(process: &Process, started_at: Timestamp, text: &mut Text) {
    let none = Labels::default();
    text.family(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Processor time of the daemon.",
    );
    text.sample(&none, process.cpu_seconds);
    text.family(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory of the daemon.",
    );
    if let Some(bytes) = process.resident_bytes {
        text.sample(&none, bytes);
    }
    text.family("process_open_fds", Kind::Gauge, "Open files of the daemon.");
    if let Some(count) = process.open_files {
        text.sample(&none, count);
    }
    text.family(
        "process_max_fds",
        Kind::Gauge,
        "The most files that the daemon may have open.",
    );
    if let Some(count) = process.most_files {
        text.sample(&none, count);
    }
    text.family(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the daemon started.",
    );
    text.sample(&none, started_at);
}

/// How the owner of the state is doing.
pub(super) fn write_vitals(vitals: &VitalFigures, now: Timestamp, text: &mut Text) {
    let none = Labels::default();
    text.family(
        "flowctl_reconcile_duration_seconds",
        Kind::Histogram,
        "Rounds of planning, the hand-over of what they decided included.",
    );
    text.durations(&none, &vitals.rounds);
    text.family(
        "flowctl_reconcile_steps_total",
        Kind::Counter,
        "What drivers were asked to do, and whether it was done.",
    );
    for ((action, success), count) in &vitals.actions {
        let labels = Labels::new(&[("action", action.as_str()), ("result", success.as_str())]);
        text.sample(&labels, *count);
    }
    text.family(
        "flowctl_full_look_age_seconds",
        Kind::Gauge,
        "How long ago a driver last told all that it runs.",
    );
    for (driver, at) in &vitals.seen {
        let labels = Labels::new(&[("driver", &driver.to_string())]);
        text.sample(&labels, now.since(*at).as_secs_f64());
    }
    text.family(
        "flowctl_store_commit_duration_seconds",
        Kind::Histogram,
        "Commits, from the moment that they are handed over until they are recorded.",
    );
    text.durations(&none, &vitals.commits);
    text.family(
        "flowctl_store_commit_failures_total",
        Kind::Counter,
        "Commits that could not be recorded.",
    );
    text.sample(&none, vitals.commits_failed);
}

/// Those who are told of what is wrong.
pub(super) fn write_told(told: &[TargetStatus], text: &mut Text) {
    text.family(
        "flowctl_notifications_total",
        Kind::Counter,
        "Deliveries of messages since the daemon started, by what came of them: dropped is what was \
         given up, failed was or is tried again.",
    );
    for target in told {
        let labels = Labels::new(&[("target", target.name.as_str())]);
        for (result, count) in [
            ("delivered", target.delivered),
            ("failed", target.failed),
            ("dropped", target.dropped),
        ] {
            text.sample_with(&labels, ("result", result), count);
        }
    }
    text.family(
        "flowctl_notifications_pending",
        Kind::Gauge,
        "Messages that wait for a target.",
    );
    for target in told {
        let labels = Labels::new(&[("target", target.name.as_str())]);
        text.sample(&labels, target.pending);
    }
}

/// The connections of components.
pub(super) fn write_connections(connections: Option<usize>, text: &mut Text) {
    text.family(
        "flowctl_control_plane_connections",
        Kind::Gauge,
        "Open connections to the control plane.",
    );
    if let Some(count) = connections {
        text.sample(&Labels::default(), count as u64);
    }
}

/// Requests to the socket that were answered, by route and HTTP status.
pub(super) type Requests = BTreeMap<(&'static str, u16), u64>;

/// What was asked of the daemon's socket.
pub(super) fn write_requests(requests: &Requests, text: &mut Text) {
    text.family(
        "flowctl_api_requests_total",
        Kind::Counter,
        "Requests to the socket that were answered, by route and status.",
    );
    for ((route, code), count) in requests {
        let labels = Labels::new(&[("route", route), ("code", &code.to_string())]);
        text.sample(&labels, *count);
    }
}
