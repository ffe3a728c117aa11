//! A replica in words: its name, what it uses, why it is as it is, how its last run ended. Pure.

use super::{short, upcoming};
use crate::model::{
    ComponentStatus, ExitSummary, ReplicaKey, ReplicaStatus, Signal, Timestamp, Usage,
};

/// The replica as it is named elsewhere: `id`, `id-1`.
pub fn replica_name(component: &ComponentStatus, replica: &ReplicaStatus) -> String {
    ReplicaKey {
        component: component.id.clone(),
        replica: replica.replica,
    }
    .to_string()
}

/// How busy it is, in cores.
pub fn cores(usage: &Usage) -> Option<String> {
    usage.cpu_cores.map(|cores| format!("{cores:.2}"))
}

/// The memory that it has.
pub fn memory(usage: &Usage) -> Option<String> {
    usage.memory_bytes.map(bytes)
}

/// The most memory that it may have, and how much of that it has.
pub fn limit(usage: &Usage) -> Option<String> {
    let limit = usage.memory_limit_bytes?;
    let share = usage
        .memory_bytes
        .map(|used| used.saturating_mul(100) / limit.max(1));
    Some(match share {
        Some(share) => format!("{} ({share}%)", bytes(limit)),
        None => bytes(limit),
    })
}

/// A number of bytes in the unit that fits: `1023B`, `12.3Mi`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["Ki", "Mi", "Gi", "Ti", "Pi"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut left = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if left < 1023.5 {
            break;
        }
        left /= 1024.0;
        unit = larger;
    }
    if left < 99.95 {
        format!("{left:.1}{unit}")
    } else {
        format!("{left:.0}{unit}")
    }
}

/// Why it is so, and what comes next, on one line.
pub fn why(replica: &ReplicaStatus, now: Timestamp) -> String {
    let next = replica
        .next
        .as_ref()
        .map(|next| upcoming(&next.what, next.at, now));
    match (replica.why.is_empty(), next) {
        (true, None) => String::new(),
        (true, Some(next)) => next,
        (false, None) => replica.why.clone(),
        (false, Some(next)) => format!("{}; {next}", replica.why),
    }
}

/// How and when an instance ended: `exit 1, 12s ago`.
pub fn ended(exit: &ExitSummary, now: Timestamp) -> String {
    let ago = short(now.since(exit.at));
    let signal = exit.signal.and_then(Signal::from_number);
    let how = match (exit.oom, exit.code, signal) {
        (true, _, _) => "out of memory".to_owned(),
        (false, Some(code), Some(signal)) => format!("exit {code} ({signal})"),
        (false, Some(code), None) => format!("exit {code}"),
        (false, None, Some(signal)) => signal.to_string(),
        (false, None, None) => "exit unknown".to_owned(),
    };
    format!("{how}, {ago} ago")
}
