//! What the control groups of an instance say of it.

use std::fs;
use std::path::Path;

use crate::driver::usage::Reading;
use crate::model::InstanceId;

use super::{Groups, Parent};

/// What the first version of memory control says where there is no limit: a number of pages that no
/// host has.
const NO_LIMIT: u64 = 1 << 60;

impl Groups {
    /// Takes over into `reading` what the groups of `instance` count, which is more than its
    /// processes tell: what has ended, and what the kernel holds for them.
    pub(in super::super) fn measure(&self, instance: &InstanceId, reading: &mut Reading) {
        if let Some(parent) = &self.memory {
            let dir = self.dir(parent.dir(), instance);
            if let Some((used, limit)) = memory(parent, &dir) {
                reading.memory_bytes = Some(used);
                reading.memory_limit_bytes = limit;
            }
        }
        if let Some(parent) = &self.cpu {
            let dir = self.dir(parent.dir(), instance);
            if let Some(seconds) = cpu_seconds(parent, &dir) {
                reading.cpu_seconds = Some(seconds);
            }
        }
    }
}

/// Memory in use without what can be dropped at once, and the limit.
fn memory(parent: &Parent, dir: &Path) -> Option<(u64, Option<u64>)> {
    let (used, limit, droppable) = match parent {
        Parent::V1(_) => (
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "total_inactive_file ",
        ),
        Parent::V2(_) => ("memory.current", "memory.max", "inactive_file "),
    };
    let used = number(&dir.join(used))?;
    let limit = number(&dir.join(limit)).filter(|limit| *limit < NO_LIMIT);
    let droppable = field(&dir.join("memory.stat"), droppable).unwrap_or(0);
    Some((used.saturating_sub(droppable), limit))
}

fn cpu_seconds(parent: &Parent, dir: &Path) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a life fit")]
    match parent {
        // Where accounting is mounted elsewhere the processes tell.
        Parent::V1(_) => number(&dir.join("cpuacct.usage")).map(|nanos| nanos as f64 / 1e9),
        Parent::V2(_) => {
            field(&dir.join("cpu.stat"), "usage_usec ").map(|micros| micros as f64 / 1e6)
        }
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .parse()
        .ok()
}
