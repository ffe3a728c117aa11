//! `flowctl top`.

use std::cmp::Ordering;
use std::time::Duration;

use super::Context;
use super::args::{Resource, TextOrJson, Top};
use super::exit::{Exit, Failure};
use super::reader::{self, understood};
use super::render::{bytes, cores, limit, memory, pipeline_name, replica_name};
use super::target::narrowed;
use super::text::{Cell, Look, Tone, draw, tone, widths};
use crate::model::{ComponentStatus, PipelineStatus, ReplicaStatus, Snapshot};

/// Between two measurements.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run(cx: &mut Context<'_>, args: Top) -> Result<Exit, Failure> {
    let mut is_first = true;
    loop {
        let written = reader::usage_text(cx).await?;
        let snapshot = understood(cx, &written)?;
        let snapshot = narrowed(snapshot, cx.global.namespace.as_ref(), &args.pipelines)?;
        let is_redrawn = !args.once && cx.out.is_terminal() && args.output == TextOrJson::Text;
        if is_redrawn {
            cx.out.clear()?;
        } else if !is_first && args.output == TextOrJson::Text {
            cx.out.put("\n")?;
        }
        match args.output {
            TextOrJson::Text => {
                let look = cx.out.look();
                cx.out.put(&table(&snapshot, args.sort, look))?;
            }
            TextOrJson::Json => {
                let json = serde_json::to_vec(&snapshot).expect("a snapshot has string keys only");
                cx.out.line(&json)?;
            }
        }
        cx.out.flush()?;
        if args.once || snapshot.daemon.is_none() {
            return Ok(Exit::Done);
        }
        is_first = false;
        tokio::time::sleep(PAUSE).await;
    }
}

type Row<'a> = (&'a PipelineStatus, &'a ComponentStatus, &'a ReplicaStatus);

/// What runs and what it uses, that which uses most first. Pure.
fn table(snapshot: &Snapshot, by: Resource, look: Look) -> String {
    let mut rows: Vec<Row<'_>> = snapshot
        .replicas()
        .filter(|(_, _, replica)| replica.phase.lives())
        .collect();
    // What uses the same stays in the order of the data.
    rows.sort_by(|(_, _, one), (_, _, other)| match by {
        Resource::Cpu => larger(
            used(other, |usage| usage.cpu_cores),
            used(one, |usage| usage.cpu_cores),
        ),
        Resource::Mem => {
            used(other, |usage| usage.memory_bytes).cmp(&used(one, |usage| usage.memory_bytes))
        }
    });
    let titles = [
        "PIPELINE",
        "COMPONENT",
        "CPU",
        "MEM",
        "LIMIT",
        "PROCS",
        "FILES",
        "STATE",
    ];
    let mut cells = vec![
        titles
            .map(|title| Cell::new(title).toned(Tone::Dim))
            .to_vec(),
    ];
    cells.extend(rows.iter().map(line));
    let mut text = total(&rows);
    draw(&cells, &widths(&cells), look, &mut text);
    text
}

fn used<T>(
    replica: &ReplicaStatus,
    figure: impl Fn(&crate::model::Usage) -> Option<T>,
) -> Option<T> {
    replica.usage.as_ref().and_then(figure)
}

fn larger(one: Option<f64>, other: Option<f64>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        (one, other) => one.is_some().cmp(&other.is_some()),
    }
}

fn line((pipeline, component, replica): &Row<'_>) -> Vec<Cell> {
    let usage = replica.usage.as_ref();
    let shown = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".to_owned()));
    let count = |count: Option<u32>| shown(count.map(|count| count.to_string()));
    vec![
        Cell::new(pipeline_name(pipeline)),
        Cell::new(replica_name(component, replica)),
        shown(usage.and_then(cores)),
        shown(usage.and_then(memory)),
        shown(usage.and_then(limit)),
        count(usage.and_then(|usage| usage.processes)),
        count(usage.and_then(|usage| usage.open_files)),
        Cell::new(replica.phase.to_string()).toned(tone(replica.phase)),
    ]
}

/// All of them together.
fn total(rows: &[Row<'_>]) -> String {
    let usages = || {
        rows.iter()
            .filter_map(|(_, _, replica)| replica.usage.as_ref())
    };
    let cores: f64 = usages().filter_map(|usage| usage.cpu_cores).sum();
    let memory: u64 = usages().filter_map(|usage| usage.memory_bytes).sum();
    let running = rows.len();
    format!(
        "{running} running, {cores:.2} cores, {} memory\n",
        bytes(memory)
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{component, now, pipeline, replica};
    use super::super::text::Style;
    use super::*;
    use crate::model::{PhaseName, Role, STATUS_SCHEMA, Usage};
    use std::sync::Arc;

    fn using(id: &str, cores: Option<f64>, memory: u64, limit: Option<u64>) -> ComponentStatus {
        let mut replica = replica(id, 0, PhaseName::Running, 9, "");
        replica.usage = Some(Usage {
            cpu_seconds: Some(1.0),
            cpu_cores: cores,
            memory_bytes: Some(memory),
            memory_limit_bytes: limit,
            processes: Some(2),
            open_files: None,
            sampled_at: now(),
        });
        component(id, Role::Sink, vec![replica])
    }

    fn shown(by: Resource) -> String {
        let unmeasured = replica("fresh", 0, PhaseName::Starting, 0, "");
        let ended = replica("over", 0, PhaseName::Completed, 0, "");
        let snapshot = Snapshot {
            schema: STATUS_SCHEMA.to_owned(),
            daemon: None,
            conditions: Vec::new(),
            pipelines: vec![Arc::new(pipeline(vec![
                component("fresh", Role::Source, vec![unmeasured]),
                component("over", Role::Source, vec![ended]),
                using("busy", Some(1.504), 900, Some(2 << 20)),
                using("large", Some(0.25), 3 << 30, None),
            ]))],
        };
        let look = Look {
            style: Style::Plain,
            columns: None,
        };
        table(&snapshot, by, look)
    }

    #[test]
    fn what_uses_most_comes_first() {
        let by_cpu = shown(Resource::Cpu);
        let lines: Vec<&str> = by_cpu.lines().collect();
        assert_eq!(lines[0], "3 running, 1.75 cores, 3.0Gi memory");
        let words = |line: &str| -> Vec<String> {
            line.split_whitespace().map(ToOwned::to_owned).collect()
        };
        let busy = [
            "ttp", "busy", "1.50", "900B", "2.0Mi", "(0%)", "2", "-", "running",
        ];
        assert_eq!(words(lines[2]), busy, "{by_cpu}");
        assert!(
            lines[3].contains("large") && lines[4].contains("fresh"),
            "{by_cpu}"
        );
        assert!(
            !by_cpu.contains("over"),
            "what has ended uses nothing: {by_cpu}"
        );
        let by_memory = shown(Resource::Mem);
        let place = |id: &str| by_memory.find(id);
        assert!(
            place("large") < place("busy") && place("busy") < place("fresh"),
            "{by_memory}"
        );
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        let all = [0, 1023, 1024, 100 << 20, (1 << 30) - 1, u64::MAX].map(bytes);
        assert_eq!(all, ["0B", "1023B", "1.0Ki", "100Mi", "1.0Gi", "16384Pi"]);
    }
}
