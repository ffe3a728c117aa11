//! Why a job waits for its place, in one sentence. Pure.

use super::wire::{Evaluation, Metric};
use crate::model::Timestamp;

/// An evaluation that nobody has looked at after so many seconds stands still.
const STANDS_STILL: i64 = 10_000;

/// Whether Nomad has found that there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It has: the job waits until there is one.
    None,
    /// It has a place, or is at finding one.
    Unknown,
}

/// Whether a job that has no placement is known to have no place, by its evaluations.
pub(super) fn room(evaluations: &[Evaluation]) -> Room {
    match evaluations.iter().any(|it| !it.failed.is_empty()) {
        true => Room::None,
        false => Room::Unknown,
    }
}

/// What a job waits for that has no placement, by its evaluations in any order; `wants_port` names the
/// ports that it asks for by number.
pub(super) fn why(evaluations: &[Evaluation], now: Timestamp) -> String {
    let Some(latest) = evaluations
        .iter()
        .max_by_key(|it| (it.create_index, &it.id))
    else {
        return "Nomad has not looked for a node yet".to_owned();
    };
    // The one that is blocked says what the one before it found.
    let told = evaluations.iter().filter(|it| !it.failed.is_empty());
    if let Some(found) = told.max_by_key(|it| it.create_index)
        && let Some(metric) = found.failed.values().next()
    {
        return sentence(metric);
    }
    match latest.status.as_str() {
        "pending" => {
            let age = super::wire::at(latest.create_time)
                .map_or(0, |at| now.as_millis() - at.as_millis());
            if age > STANDS_STILL {
                "Nomad's scheduler does not look for a node: it is paused, or no server has workers; \
                 see `nomad operator scheduler get-config`"
                    .to_owned()
            } else {
                "Nomad is looking for a node".to_owned()
            }
        }
        "failed" => format!(
            "Nomad could not look for a node: {}",
            latest.status_description
        ),
        _ => "Nomad has not placed it yet".to_owned(),
    }
}

fn sentence(metric: &Metric) -> String {
    if let [quota, ..] = &metric.quota_exhausted[..] {
        return format!("the quota is used up: {quota}");
    }
    if metric.nodes_available.is_empty() && metric.nodes_evaluated == 0 {
        return "no node of its datacenter takes work: it has none, or they are down, draining or not \
                eligible; see `nomad node status`"
            .to_owned();
    }
    if metric.nodes_evaluated == 0 {
        let there: Vec<String> = metric
            .nodes_available
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        return format!(
            "no node can be looked at (nodes by datacenter: {}): they are down, draining or in \
             another node pool",
            there.join(", ")
        );
    }
    let mut parts: Vec<String> = Vec::new();
    for (text, count) in &metric.dimension_exhausted {
        parts.push(exhausted(text, *count));
    }
    for (text, count) in &metric.constraint_filtered {
        parts.push(filtered(text, *count));
    }
    if parts.is_empty() {
        return "Nomad found no node that takes it".to_owned();
    }
    let looked = metric.nodes_evaluated;
    let nodes = if looked == 1 { "node" } else { "nodes" };
    format!("{looked} {nodes} looked at: {}", parts.join(", "))
}

fn exhausted(text: &str, count: u64) -> String {
    let verb = if count == 1 { "has" } else { "have" };
    if text.contains("port collision") || text.contains("reserved port") {
        return format!("on {count} a port that it asks for is taken ({text})");
    }
    match text {
        "memory" => format!("{count} {verb} too little memory free"),
        "cpu" => format!("{count} {verb} too little cpu free"),
        "cores" => format!("{count} {verb} too few cores free"),
        "disk" => format!("{count} {verb} too little disk free"),
        other => format!("{count} {verb} no room ({other})"),
    }
}

fn filtered(text: &str, count: u64) -> String {
    let verb = if count == 1 { "lacks" } else { "lack" };
    match text {
        "missing drivers" => {
            format!("{count} {verb} the docker driver (does Docker run there, and is it allowed?)")
        }
        "missing compatible host volumes" => format!("{count} {verb} its host volume"),
        "missing network" => format!("{count} {verb} its kind of network"),
        other => match other.strip_prefix("missing ") {
            Some(what) => format!("{count} {verb} {what}"),
            None => format!(
                "{count} {} not fit: {other}",
                if count == 1 { "does" } else { "do" }
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(metric: &str) -> String {
        let text = format!(r#"{{"Status":"blocked","FailedTGAllocs":{{"main":{metric}}}}}"#);
        let evaluation: Evaluation = serde_json::from_str(&text).unwrap();
        why(&[evaluation], Timestamp::from_millis(0))
    }

    #[test]
    fn a_wait_is_told_in_words_that_say_what_to_do() {
        for (metric, words) in [
            (
                r#"{"NodesEvaluated":3,"DimensionExhausted":{"memory":2},"ConstraintFiltered":{"missing drivers":1},"NodesAvailable":{"dc1":3}}"#,
                "3 nodes looked at: 2 have too little memory free, 1 lacks the docker driver (does Docker run there, and is it allowed?)",
            ),
            (
                r#"{"NodesEvaluated":1,"NodesAvailable":{"dc1":1},"ConstraintFiltered":{"${attr.kernel.name} = windows":1}}"#,
                "1 node looked at: 1 does not fit: ${attr.kernel.name} = windows",
            ),
            (
                r#"{"NodesEvaluated":1,"NodesAvailable":{"dc1":1},"DimensionExhausted":{"network: reserved port collision http=8080":1}}"#,
                "1 node looked at: on 1 a port that it asks for is taken (network: reserved port collision http=8080)",
            ),
            (
                r#"{"QuotaExhausted":["cpu exhausted (500 needed > 0 left)"]}"#,
                "the quota is used up: cpu exhausted (500 needed > 0 left)",
            ),
        ] {
            assert_eq!(told(metric), words);
        }
        assert!(told("{}").starts_with("no node of its datacenter takes work"));
        let elsewhere = told(r#"{"NodesAvailable":{"dc1":3}}"#);
        assert!(
            elsewhere.contains("nodes by datacenter: dc1 3"),
            "{elsewhere}"
        );
    }

    #[test]
    fn a_scheduler_that_stands_still_is_told_and_one_that_works_is_waited_for() {
        let pending = |created: i64| Evaluation {
            status: "pending".to_owned(),
            create_time: created,
            ..Evaluation::default()
        };
        let now = Timestamp::from_millis(100_000);
        assert_eq!(
            why(&[pending(99_000_000_000)], now),
            "Nomad is looking for a node"
        );
        assert!(why(&[pending(1_000_000_000)], now).contains("paused"));
        assert!(why(&[], now).contains("not looked"));
        assert_eq!(
            room(&[pending(1)]),
            Room::Unknown,
            "it may be given a place at this moment"
        );
    }
}
