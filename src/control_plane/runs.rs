//! Runs of pipelines as clients of the legacy service see them.
//!
//! Every pipeline that is applied here is a run: its id names it and its generation, its state is
//! read from what really runs, and stopping it stops its components. Beside those stand the runs
//! that other runners tell of, which are kept and handed out as they were told; one that bears the
//! name of a pipeline of ours is that pipeline's, with the state that this really has, and stopping
//! it stops the components, too.

use super::convert::{time_of, wire_time};
use super::wire::legacy::{
    ChunkRun, ComponentMetrics, PipelineRun, RunMetrics, RunStatus, UpdatePipelineRunRequest,
};
use crate::manifest;
use crate::model::{
    ChunkRecord, ComponentSpec, FlowFigures, Generation, Namespace, PhaseName, PipelineName,
    PipelineSpec, PipelineStatus, ReplicaStatus, Role, RunChange, RunFigures, RunRecord, RunState,
    Timestamp,
};

/// Runs that a list holds when the client does not say how many.
const DEFAULT_LIMIT: usize = 10;
/// Characters of an id that clients show.
const SHOWN: usize = 8;

/// How many entries a client asks for: 0 is the default, below it is all.
pub(super) fn limit(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(0) => DEFAULT_LIMIT,
        Ok(limit) => limit,
        Err(_) => usize::MAX,
    }
}

/// A pipeline of ours as the run `id`. Clients of the field read its figures without looking whether
/// there are any.
pub(super) fn own_run(pipeline: &PipelineStatus, id: String) -> PipelineRun {
    let key = pipeline.key();
    let state = state_of(pipeline);
    let replicas = || {
        pipeline
            .components
            .iter()
            .flat_map(|component| &component.replicas)
    };
    let started = replicas().map(|replica| replica.since).min();
    let ended = replicas().map(|replica| replica.since).max();
    let error = replicas().find(|replica| replica.phase == PhaseName::Failed);
    PipelineRun {
        run_id: id,
        pipeline_id: key.to_string(),
        pipeline_name: pipeline.name.to_string(),
        status: wire_state(state).into(),
        start_time: started.map(wire_time),
        end_time: ended.filter(|_| state.has_ended()).map(wire_time),
        config_yaml: String::new(),
        metrics: Some(RunMetrics::default()),
        error: error.map(|replica| replica.why.clone()).unwrap_or_default(),
        component_ids: pipeline
            .components
            .iter()
            .map(|c| c.id.to_string())
            .collect(),
    }
}

/// The id of a pipeline of ours as a run.
pub(super) fn own_id(pipeline: &PipelineStatus) -> String {
    run_id(&pipeline.namespace, &pipeline.name, pipeline.generation)
}

/// The id of the run of a pipeline by one version of its definition. Clients of the field show and take
/// the first eight characters of an id for the whole, so these tell it from every other.
pub(super) fn run_id(namespace: &Namespace, name: &PipelineName, generation: Generation) -> String {
    let plain = plain_id(namespace, name, generation);
    let digest = ring::digest::digest(&ring::digest::SHA256, plain.as_bytes());
    let start: String = digest.as_ref()[..SHOWN / 2]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{start}-{plain}")
}

/// The id that earlier versions gave.
fn plain_id(namespace: &Namespace, name: &PipelineName, generation: Generation) -> String {
    format!("{namespace}.{name}.{generation}")
}

/// Whether `id` is of a run of this pipeline, by its definition of now or an earlier one.
pub(super) fn is_id_of(pipeline: &PipelineStatus, id: &str) -> bool {
    let Some((_, generation)) = id.rsplit_once('.') else {
        return false;
    };
    let Ok(generation) = generation.parse().map(Generation) else {
        return false;
    };
    let PipelineStatus {
        namespace, name, ..
    } = pipeline;
    let is_past = Generation(1) <= generation && generation <= pipeline.generation;
    let ids = [run_id, plain_id].map(|id_of| id_of(namespace, name, generation));
    is_past && ids.iter().any(|known| known == id)
}

/// The definition that a pipeline runs by, as YAML.
pub(super) fn config(spec: &PipelineSpec) -> String {
    let of_role = |role: Role| -> Vec<&ComponentSpec> {
        let components = spec.components.values();
        components
            .filter(|component| component.role == role)
            .collect()
    };
    let whole = serde_json::json!({
        "apiVersion": "flowctl/v1",
        "kind": "Pipeline",
        "metadata": {
            "name": spec.key.name,
            "namespace": spec.key.namespace,
            "labels": spec.labels,
            "annotations": spec.annotations,
        },
        "spec": {
            "description": spec.description,
            "sources": of_role(Role::Source),
            "processors": of_role(Role::Processor),
            "sinks": of_role(Role::Sink),
        },
    });
    manifest::yaml::to_string(&whole).expect("it has text keys only")
}

fn state_of(pipeline: &PipelineStatus) -> RunState {
    let replicas = || {
        pipeline
            .components
            .iter()
            .flat_map(|component| &component.replicas)
    };
    let all = |is: fn(&ReplicaStatus) -> bool| replicas().all(is);
    if all(|replica| matches!(replica.phase, PhaseName::Stopped)) || pipeline.deleting {
        RunState::Stopped
    } else if replicas().any(|replica| replica.phase == PhaseName::Failed) {
        RunState::Failed
    } else if all(|replica| replica.phase == PhaseName::Completed) {
        RunState::Completed
    } else if all(|replica| {
        replica.ready || matches!(replica.phase, PhaseName::Completed | PhaseName::Stopped)
    }) {
        RunState::Running
    } else {
        RunState::Starting
    }
}

/// A run that a runner told of.
pub(super) fn told_run(run: &RunRecord) -> PipelineRun {
    let figures = &run.figures;
    PipelineRun {
        run_id: run.id.clone(),
        pipeline_id: run.pipeline.clone(),
        pipeline_name: run.pipeline.clone(),
        status: wire_state(run.state).into(),
        start_time: Some(wire_time(run.started_at)),
        end_time: run.ended_at.map(wire_time),
        config_yaml: run.config.clone(),
        metrics: Some(RunMetrics {
            events_processed: figures.events_processed,
            events_per_second: figures.events_per_second,
            bytes_processed: figures.bytes_processed,
            component_metrics: figures
                .components
                .iter()
                .map(|(name, flow)| {
                    let flow = ComponentMetrics {
                        events_in: flow.events_in,
                        events_out: flow.events_out,
                        bytes_in: flow.bytes_in,
                        bytes_out: flow.bytes_out,
                        processing_time_ms: flow.processing_time_ms,
                    };
                    (name.clone(), flow)
                })
                .collect(),
        }),
        error: run.error.clone(),
        component_ids: run.components.clone(),
    }
}

/// What a runner says anew; an unknown state and an empty error say nothing.
pub(super) fn change_of(request: UpdatePipelineRunRequest) -> (String, RunChange) {
    let change = RunChange {
        state: state_of_wire(request.status),
        figures: request.metrics.map(figures_of),
        error: Some(request.error).filter(|error| !error.is_empty()),
    };
    (request.run_id, change)
}

fn figures_of(metrics: RunMetrics) -> RunFigures {
    RunFigures {
        events_processed: metrics.events_processed,
        events_per_second: finite(metrics.events_per_second),
        bytes_processed: metrics.bytes_processed,
        components: metrics
            .component_metrics
            .into_iter()
            .map(|(name, flow)| {
                let flow = FlowFigures {
                    events_in: flow.events_in,
                    events_out: flow.events_out,
                    bytes_in: flow.bytes_in,
                    bytes_out: flow.bytes_out,
                    processing_time_ms: finite(flow.processing_time_ms),
                };
                (name, flow)
            })
            .collect(),
    }
}

/// What is kept has no form for the other values.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// The state that a number of the wire means; `None` when it says nothing.
pub(super) fn state_of_wire(state: i32) -> Option<RunState> {
    match RunStatus::try_from(state) {
        Ok(RunStatus::Starting) => Some(RunState::Starting),
        Ok(RunStatus::Running) => Some(RunState::Running),
        Ok(RunStatus::Completed) => Some(RunState::Completed),
        Ok(RunStatus::Failed) => Some(RunState::Failed),
        Ok(RunStatus::Stopped) => Some(RunState::Stopped),
        Ok(RunStatus::Unknown) | Err(_) => None,
    }
}

fn wire_state(state: RunState) -> RunStatus {
    match state {
        RunState::Unknown => RunStatus::Unknown,
        RunState::Starting => RunStatus::Starting,
        RunState::Running => RunStatus::Running,
        RunState::Completed => RunStatus::Completed,
        RunState::Failed => RunStatus::Failed,
        RunState::Stopped => RunStatus::Stopped,
    }
}

/// A chunk as it is kept.
pub(super) fn chunk_of(chunk: ChunkRun, now: Timestamp) -> ChunkRecord {
    ChunkRecord {
        id: chunk.chunk_id,
        run: chunk.pipeline_run_id,
        component: chunk.component_id,
        start: chunk.chunk_start,
        end: chunk.chunk_end,
        attempt: chunk.attempt,
        status: chunk.status,
        failure_class: chunk.failure_class,
        phase: chunk.phase,
        error: chunk.error,
        recommended_action: chunk.recommended_action,
        started_at: chunk.started_at.map(time_of),
        completed_at: chunk.completed_at.map(time_of),
        verified_at: chunk.verified_at.map(time_of),
        row_counts: chunk.row_counts,
        verification: chunk.verification,
        metadata: chunk.metadata,
        told_at: now,
        teller: None,
    }
}

/// A chunk as it was told.
pub(super) fn wire_chunk(chunk: &ChunkRecord) -> ChunkRun {
    ChunkRun {
        chunk_id: chunk.id.clone(),
        pipeline_run_id: chunk.run.clone(),
        component_id: chunk.component.clone(),
        chunk_start: chunk.start,
        chunk_end: chunk.end,
        attempt: chunk.attempt,
        status: chunk.status,
        failure_class: chunk.failure_class,
        phase: chunk.phase.clone(),
        error: chunk.error.clone(),
        recommended_action: chunk.recommended_action.clone(),
        started_at: chunk.started_at.map(wire_time),
        completed_at: chunk.completed_at.map(wire_time),
        verified_at: chunk.verified_at.map(wire_time),
        row_counts: chunk.row_counts.clone(),
        verification: chunk.verification.clone(),
        metadata: chunk.metadata.clone(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp as WireTime;

    use super::*;

    #[test]
    fn lists_are_as_long_as_upstreams_clients_expect() {
        assert_eq!((limit(0), limit(3), limit(-1)), (10, 3, usize::MAX));
    }

    #[test]
    fn a_chunk_comes_back_as_it_was_told() {
        let chunk = ChunkRun {
            chunk_id: "c".to_owned(),
            chunk_start: 5,
            chunk_end: i64::MIN,
            status: 77,
            started_at: Some(WireTime {
                seconds: 12,
                nanos: 5_000_000,
            }),
            row_counts: [("ledgers".to_owned(), 7)].into(),
            ..ChunkRun::default()
        };
        assert_eq!(
            wire_chunk(&chunk_of(chunk.clone(), Timestamp::default())),
            chunk
        );
    }

    #[test]
    fn times_out_of_range_and_figures_without_a_value_are_kept_readable() {
        let at = time_of(WireTime {
            seconds: i64::MAX,
            nanos: i32::MIN,
        });
        assert_eq!(at.to_string().get(..4), Some("9999"));
        let metrics = RunMetrics {
            events_per_second: f64::NAN,
            ..RunMetrics::default()
        };
        assert_eq!(figures_of(metrics).events_per_second, 0.0);
    }
}
