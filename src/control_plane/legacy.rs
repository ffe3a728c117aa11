//! `flowctl.ControlPlane`: what components have called since July 2025.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{self, BadMessage};
use super::desk::{Desk, quoted, refused};
use super::runs;
use super::wire::legacy::control_plane_server::ControlPlane;
use super::wire::legacy::{
    ChunkRun, CreatePipelineRunRequest, GetChunkRunRequest, GetPipelineRunRequest,
    ListChunkRunsRequest, ListChunkRunsResponse, ListPipelineRunsRequest, ListPipelineRunsResponse,
    PipelineRun, RegistrationAck, RunStatus, ServiceHeartbeat, ServiceInfo, ServiceList,
    ServiceStatus, StopPipelineRunRequest, UpdatePipelineRunRequest, UpsertChunkRunRequest,
};
use crate::model::{PipelineStatus, RunChange, RunRecord, RunState};
use crate::reconciler::{Identity, Note, Request as Asked};

/// The service.
pub(super) struct Legacy(pub Desk);

#[tonic::async_trait]
impl ControlPlane for Legacy {
    async fn register(
        &self,
        request: Request<ServiceInfo>,
    ) -> Result<Response<RegistrationAck>, Status> {
        let caller = self.0.admit(&request).await?;
        let intro = convert::introduction(request.into_inner())?;
        let record = self.0.register(&caller, intro).await?;
        Ok(Response::new(RegistrationAck {
            service_id: record.service_id.to_string(),
            topic_names: convert::topics(&record.about),
            connection_info: caller.connection_info(),
        }))
    }

    async fn heartbeat(&self, request: Request<ServiceHeartbeat>) -> Result<Response<()>, Status> {
        let caller = self.0.admit(&request).await?;
        let beat = request.into_inner();
        let id = convert::id("service_id", &beat.service_id)?;
        let metrics = convert::metrics_of_legacy(beat.metrics);
        self.0.beat(&caller, id, None, metrics).await?;
        Ok(Response::new(()))
    }

    async fn get_service_status(
        &self,
        request: Request<ServiceInfo>,
    ) -> Result<Response<ServiceStatus>, Status> {
        self.0.admit(&request).await?;
        let record = self.0.find(&request.get_ref().service_id).await?;
        Ok(Response::new(convert::legacy_status(&record)))
    }

    async fn list_services(&self, request: Request<()>) -> Result<Response<ServiceList>, Status> {
        self.0.admit(&request).await?;
        let directory = self.0.directory().await?;
        let services = directory
            .values()
            .map(Arc::as_ref)
            .map(convert::legacy_status)
            .collect();
        Ok(Response::new(ServiceList { services }))
    }

    async fn create_pipeline_run(
        &self,
        request: Request<CreatePipelineRunRequest>,
    ) -> Result<Response<PipelineRun>, Status> {
        let caller = self.0.admit(&request).await?;
        let who = self.0.who(&caller).await;
        let request = request.into_inner();
        convert::id("run_id", &request.run_id)?;
        if let Some(pipeline) = self.own(&request.run_id) {
            let run = self.own_run(&pipeline, &request.run_id, &who).await?;
            return Ok(Response::new(run));
        }
        let notes = self.0.owner.notes().await.map_err(refused)?;
        let known = notes.runs.get(&request.run_id);
        let run = RunRecord {
            id: request.run_id,
            pipeline: request.pipeline_name,
            state: known.map_or(RunState::Starting, |run| run.state),
            started_at: known.map_or_else(|| self.0.clock.now(), |run| run.started_at),
            ended_at: known.and_then(|run| run.ended_at),
            config: request.config_yaml,
            figures: known.map(|run| run.figures.clone()).unwrap_or_default(),
            error: known.map(|run| run.error.clone()).unwrap_or_default(),
            components: request.component_ids,
            teller: None,
        };
        let answer = self.as_it_runs(&run);
        self.0.keep(Note::Run(run), who).await?;
        Ok(Response::new(answer))
    }

    async fn update_pipeline_run(
        &self,
        request: Request<UpdatePipelineRunRequest>,
    ) -> Result<Response<PipelineRun>, Status> {
        let caller = self.0.admit(&request).await?;
        let who = self.0.who(&caller).await;
        let (id, change) = runs::change_of(request.into_inner());
        if self.own(&id).is_some() {
            return Err(Status::failed_precondition(
                "flowctl runs this pipeline itself and knows how it is doing",
            ));
        }
        let run = self.change(id, change, who).await?;
        Ok(Response::new(self.as_it_runs(&run)))
    }

    async fn get_pipeline_run(
        &self,
        request: Request<GetPipelineRunRequest>,
    ) -> Result<Response<PipelineRun>, Status> {
        let caller = self.0.admit(&request).await?;
        let id = &request.get_ref().run_id;
        if let Some(pipeline) = self.own(id) {
            let who = self.0.who(&caller).await;
            let run = self.own_run(&pipeline, id, &who).await?;
            return Ok(Response::new(run));
        }
        let notes = self.0.owner.notes().await.map_err(refused)?;
        let run = notes.runs.get(id).ok_or_else(|| no_run(id))?;
        Ok(Response::new(self.as_it_runs(run)))
    }

    async fn list_pipeline_runs(
        &self,
        request: Request<ListPipelineRunsRequest>,
    ) -> Result<Response<ListPipelineRunsResponse>, Status> {
        self.0.admit(&request).await?;
        let asked = request.into_inner();
        let snapshot = self.0.owner.snapshots().borrow().clone();
        let notes = self.0.owner.notes().await.map_err(refused)?;
        let own = snapshot
            .pipelines
            .iter()
            .map(|pipeline| runs::own_run(pipeline, runs::own_id(pipeline)));
        let told = notes.runs.values().map(|run| self.as_it_runs(run));
        let state = runs::state_of_wire(asked.status).map(|_| asked.status);
        let mut found: Vec<PipelineRun> = own
            .chain(told)
            .filter(|run| {
                asked.pipeline_name.is_empty() || run.pipeline_name == asked.pipeline_name
            })
            .filter(|run| state.is_none_or(|state| run.status == state))
            .collect();
        // Newest first; runs of one moment by id.
        let started =
            |run: &PipelineRun| run.start_time.map_or((0, 0), |at| (at.seconds, at.nanos));
        found.sort_by(|a, b| {
            started(b)
                .cmp(&started(a))
                .then_with(|| a.run_id.cmp(&b.run_id))
        });
        found.truncate(runs::limit(asked.limit));
        Ok(Response::new(ListPipelineRunsResponse { runs: found }))
    }

    async fn stop_pipeline_run(
        &self,
        request: Request<StopPipelineRunRequest>,
    ) -> Result<Response<PipelineRun>, Status> {
        let caller = self.0.admit(&request).await?;
        let who = self.0.who(&caller).await;
        let id = request.into_inner().run_id;
        if let Some(pipeline) = self.own(&id) {
            self.stop(&who, &pipeline).await?;
            let mut run = self.own_run(&pipeline, &id, &who).await?;
            // It is being stopped; what it comes to is told by the next question.
            run.status = RunStatus::Stopped.into();
            return Ok(Response::new(run));
        }
        let notes = self.0.owner.notes().await.map_err(refused)?;
        let run = notes.runs.get(&id).ok_or_else(|| no_run(&id))?;
        if !who.may_change(run.teller.as_ref()) {
            let told = "somebody else told of this run, who alone may stop it";
            return Err(Status::permission_denied(told));
        }
        if let Some(pipeline) = self.behind(run) {
            self.stop(&who, &pipeline).await?;
        }
        let change = RunChange {
            state: Some(RunState::Stopped),
            ..RunChange::default()
        };
        let run = self.change(id, change, who).await?;
        Ok(Response::new(runs::told_run(&run)))
    }

    async fn upsert_chunk_run(
        &self,
        request: Request<UpsertChunkRunRequest>,
    ) -> Result<Response<ChunkRun>, Status> {
        let caller = self.0.admit(&request).await?;
        let who = self.0.who(&caller).await;
        let chunk = request
            .into_inner()
            .chunk
            .ok_or(BadMessage::Missing("chunk"))?;
        convert::id("chunk.chunk_id", &chunk.chunk_id)?;
        let kept = runs::chunk_of(chunk, self.0.clock.now());
        let answer = runs::wire_chunk(&kept);
        self.0.keep(Note::Chunk(kept), who).await?;
        Ok(Response::new(answer))
    }

    async fn get_chunk_run(
        &self,
        request: Request<GetChunkRunRequest>,
    ) -> Result<Response<ChunkRun>, Status> {
        self.0.admit(&request).await?;
        let id = &request.get_ref().chunk_id;
        let notes = self.0.owner.notes().await.map_err(refused)?;
        let chunk = notes
            .chunks
            .get(id)
            .ok_or_else(|| Status::not_found(format!("no chunk `{}` was told of", quoted(id))))?;
        Ok(Response::new(runs::wire_chunk(chunk)))
    }

    async fn list_chunk_runs(
        &self,
        request: Request<ListChunkRunsRequest>,
    ) -> Result<Response<ListChunkRunsResponse>, Status> {
        self.0.admit(&request).await?;
        let asked = request.into_inner();
        let notes = self.0.owner.notes().await.map_err(refused)?;
        let mut found: Vec<_> = notes
            .chunks
            .values()
            .filter(|chunk| asked.pipeline_run_id.is_empty() || chunk.run == asked.pipeline_run_id)
            .filter(|chunk| asked.component_id.is_empty() || chunk.component == asked.component_id)
            .filter(|chunk| asked.status == 0 || chunk.status == asked.status)
            .collect();
        found.sort_by_key(|chunk| std::cmp::Reverse(chunk.told_at));
        let chunks = found.into_iter().take(runs::limit(asked.limit));
        let chunks = chunks.map(|chunk| runs::wire_chunk(chunk)).collect();
        Ok(Response::new(ListChunkRunsResponse { chunks }))
    }
}

impl Legacy {
    /// The pipeline of ours that is the run `id`, by its definition of now or an earlier one: what
    /// runs keeps the id that it was started with.
    fn own(&self, id: &str) -> Option<Arc<PipelineStatus>> {
        let snapshot = self.0.owner.snapshots().borrow().clone();
        snapshot
            .pipelines
            .iter()
            .find(|pipeline| runs::is_id_of(pipeline, id))
            .cloned()
    }

    /// A pipeline of ours as the run `id`, with its definition for those who may read that.
    async fn own_run(
        &self,
        pipeline: &PipelineStatus,
        id: &str,
        who: &Identity,
    ) -> Result<PipelineRun, Status> {
        let mut run = runs::own_run(pipeline, id.to_owned());
        let key = pipeline.key();
        if self.0.check_commands(who, &key).is_ok()
            && let Some((_, spec)) = self.0.owner.desired(key).await.map_err(refused)?
        {
            run.config_yaml = runs::config(&spec);
        }
        Ok(run)
    }

    /// The pipeline of ours that a run of somebody else's is about: the only one of its name,
    /// until that run has ended.
    fn behind(&self, run: &RunRecord) -> Option<Arc<PipelineStatus>> {
        if run.state.has_ended() {
            return None;
        }
        let snapshot = self.0.owner.snapshots().borrow().clone();
        let is_meant = |pipeline: &&Arc<PipelineStatus>| {
            pipeline.name.as_str() == run.pipeline || pipeline.key().to_string() == run.pipeline
        };
        let mut meant = snapshot.pipelines.iter().filter(is_meant);
        match (meant.next(), meant.next()) {
            (Some(only), None) => Some(Arc::clone(only)),
            (Some(_) | None, _) => None,
        }
    }

    /// A run that was told of; when its pipeline runs here, with the state that this really has.
    fn as_it_runs(&self, run: &RunRecord) -> PipelineRun {
        let mut answer = runs::told_run(run);
        if let Some(pipeline) = self.behind(run) {
            let own = runs::own_run(&pipeline, String::new());
            answer.status = own.status;
            answer.end_time = own.end_time;
            if answer.error.is_empty() {
                answer.error = own.error;
            }
        }
        answer
    }

    /// Stops every component of a pipeline.
    async fn stop(&self, who: &Identity, pipeline: &PipelineStatus) -> Result<(), Status> {
        let key = pipeline.key();
        self.0.check_commands(who, &key)?;
        for component in &pipeline.components {
            let asked = self
                .0
                .owner
                .request(key.clone(), component.id.clone(), Asked::Stop)
                .await;
            asked.map_err(refused)?;
        }
        Ok(())
    }

    async fn change(
        &self,
        id: String,
        change: RunChange,
        who: Identity,
    ) -> Result<Arc<RunRecord>, Status> {
        let changed = self.0.change_run(id.clone(), change, who).await?;
        changed.ok_or_else(|| no_run(&id))
    }
}

fn no_run(id: &str) -> Status {
    Status::not_found(format!("there is no run `{}`", quoted(id)))
}
