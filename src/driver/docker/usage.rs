//! What containers use, as their engine counts it: one question for each, a few at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt as _;

use crate::driver::usage::{Meter, Metered, Reading};
use crate::model::InstanceId;

use super::DockerDriver;

/// Questions under way at a time: an engine answers each from files of the kernel.
const AT_A_TIME: usize = 8;
/// One is waited for so long.
const DEADLINE: Duration = Duration::from_secs(2);

#[async_trait]
impl Meter for DockerDriver {
    async fn measure(&self, instances: Vec<Metered>) -> BTreeMap<InstanceId, Reading> {
        let host_memory = host_memory();
        let asking = instances.into_iter().filter_map(|one| {
            let container = one.container?;
            Some(async move {
                let stats = self.stats(&container).await?;
                Some((one.instance, reading(&stats, host_memory)))
            })
        });
        let answers = futures_util::stream::iter(asking).buffer_unordered(AT_A_TIME);
        answers.filter_map(std::future::ready).collect().await
    }
}

impl DockerDriver {
    async fn stats(&self, container: &str) -> Option<ContainerStatsResponse> {
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let asked = self.inner.engine.call(DEADLINE, |client| async move {
            let mut answers = Box::pin(client.stats(container, Some(options)));
            answers.next().await.transpose()
        });
        match asked.await {
            Ok(stats) => stats,
            Err(error) => {
                tracing::debug!(%container, %error, "what it uses is not known");
                None
            }
        }
    }
}

fn reading(stats: &ContainerStatsResponse, host_memory: Option<u64>) -> Reading {
    let cpu = stats
        .cpu_stats
        .as_ref()
        .and_then(|cpu| cpu.cpu_usage.as_ref());
    let memory = stats.memory_stats.as_ref();
    let droppable = memory.and_then(|memory| {
        let all = memory.stats.as_ref()?;
        // By the two versions of control groups.
        let droppable = all
            .get("total_inactive_file")
            .or_else(|| all.get("inactive_file"));
        droppable.copied()
    });
    let processes = stats.pids_stats.as_ref().and_then(|pids| pids.current);
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a life fit")]
    let cpu_seconds = cpu
        .and_then(|cpu| cpu.total_usage)
        .map(|nanos| nanos as f64 / 1e9);
    Reading {
        cpu_seconds,
        memory_bytes: memory
            .and_then(|memory| memory.usage)
            .map(|used| used.saturating_sub(droppable.unwrap_or(0))),
        // Without a limit an engine names all that the host has.
        memory_limit_bytes: memory
            .and_then(|memory| memory.limit)
            .filter(|limit| host_memory.is_none_or(|host| *limit < host) && *limit < 1 << 60),
        processes: processes.and_then(|count| u32::try_from(count).ok()),
        open_files: None,
    }
}

/// All memory of this host, in bytes.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_an_engine_is_a_reading() {
        let answer = serde_json::json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 2_500_000_000_u64 } },
            "memory_stats": { "usage": 3000, "limit": 8000, "stats": { "inactive_file": 1000 } },
            "pids_stats": { "current": 3 },
        });
        let stats: ContainerStatsResponse = serde_json::from_value(answer).unwrap();
        let wanted = Reading {
            cpu_seconds: Some(2.5),
            memory_bytes: Some(2000),
            memory_limit_bytes: Some(8000),
            processes: Some(3),
            open_files: None,
        };
        assert_eq!(reading(&stats, Some(1 << 30)), wanted);
        let unlimited = reading(&stats, Some(8000));
        assert_eq!(unlimited.memory_limit_bytes, None);
        // One that has just ended.
        let empty = reading(&ContainerStatsResponse::default(), None);
        assert_eq!(empty, Reading::default());
    }
}
