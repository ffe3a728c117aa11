//! `flowctl.v1`: what components of the SDK call, and the gate beside it.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::convert::{self, BadMessage};
use super::desk::{Desk, quoted};
use super::wire::v1::component_gate_server::ComponentGate;
use super::wire::v1::control_plane_service_server::ControlPlaneService;
use super::wire::v1::{
    ComponentStatusRequest, ComponentStatusResponse, DiscoveryRequest, DiscoveryResponse,
    HeartbeatRequest, ListComponentsRequest, ListComponentsResponse, RegisterRequest,
    RegisterResponse, UnregisterRequest, WaitForComponentRequest,
};
use crate::model::{RegistrationRecord, ServiceKind, Snapshot};
use crate::reconciler::Directory;

/// How long the gate waits when the caller does not say.
const WAIT: Duration = Duration::from_secs(20);
/// How long it waits at most.
const MAX_WAIT: Duration = Duration::from_secs(25);

/// The service of the SDK.
pub(super) struct Sdk(pub Desk);

/// The gate.
pub(super) struct Gate(pub Desk);

#[tonic::async_trait]
impl ControlPlaneService for Sdk {
    async fn register_component(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let caller = self.0.admit(&request).await?;
        let intro = convert::introduction_v1(request.into_inner())?;
        let record = self.0.register(&caller, intro).await?;
        Ok(Response::new(RegisterResponse {
            service_id: record.service_id.to_string(),
            assigned_topics: convert::topics(&record.about),
            connection_info: caller.connection_info(),
        }))
    }

    async fn unregister_component(
        &self,
        request: Request<UnregisterRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = self.0.admit(&request).await?;
        let id = convert::id("service_id", &request.get_ref().service_id)?;
        self.0.unregister(&caller, id).await?;
        Ok(Response::new(()))
    }

    async fn discover_components(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        self.0.admit(&request).await?;
        let wanted = request.into_inner();
        let directory = self.0.directory().await?;
        let snapshot = self.0.owner.snapshots().borrow().clone();
        let components = directory
            .values()
            .filter(|record| record.is_healthy() && is_wanted(record, &wanted))
            .filter(|record| is_current(record, &snapshot))
            .map(|record| convert::component_info(record))
            .collect();
        Ok(Response::new(DiscoveryResponse { components }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<()>, Status> {
        let caller = self.0.admit(&request).await?;
        let beat = request.into_inner();
        let id = convert::id("service_id", &beat.service_id)?;
        let said = convert::health_of_v1(beat.status);
        let metrics = convert::metrics_of_v1(beat.metrics);
        self.0.beat(&caller, id, said, metrics).await?;
        Ok(Response::new(()))
    }

    async fn get_component_status(
        &self,
        request: Request<ComponentStatusRequest>,
    ) -> Result<Response<ComponentStatusResponse>, Status> {
        self.0.admit(&request).await?;
        let record = self.0.find(&request.get_ref().service_id).await?;
        Ok(Response::new(convert::component_status(&record)))
    }

    async fn list_components(
        &self,
        request: Request<ListComponentsRequest>,
    ) -> Result<Response<ListComponentsResponse>, Status> {
        self.0.admit(&request).await?;
        let wanted = request.into_inner();
        let kind = convert::kind_of_v1(wanted.type_filter);
        let directory = self.0.directory().await?;
        let components = directory
            .values()
            .filter(|record| kind == ServiceKind::Unspecified || record.about.kind == kind)
            .filter(|record| wanted.include_unhealthy || record.is_healthy())
            .map(|record| convert::component_status(record))
            .collect();
        Ok(Response::new(ListComponentsResponse { components }))
    }
}

/// Any of the event types, all of the metadata.
fn is_wanted(record: &RegistrationRecord, wanted: &DiscoveryRequest) -> bool {
    let about = &record.about;
    let kind = convert::kind_of_v1(wanted.r#type);
    let of_kind = kind == ServiceKind::Unspecified || about.kind == kind;
    let handled = || {
        about
            .input_event_types
            .iter()
            .chain(&about.output_event_types)
    };
    let handles = wanted.event_types.is_empty()
        || handled().any(|event_type| wanted.event_types.contains(event_type));
    let carries = wanted
        .metadata_filters
        .iter()
        .all(|(name, value)| about.metadata.get(name) == Some(value));
    of_kind && handles && carries
}

#[tonic::async_trait]
impl ComponentGate for Gate {
    async fn wait_for_component(
        &self,
        request: Request<WaitForComponentRequest>,
    ) -> Result<Response<ComponentStatusResponse>, Status> {
        self.0.admit(&request).await?;
        let WaitForComponentRequest {
            component_id,
            timeout,
        } = request.into_inner();
        if component_id.is_empty() {
            return Err(BadMessage::Missing("component_id").into());
        }
        let patience = timeout
            .and_then(|timeout| Duration::try_from(timeout).ok())
            .map_or(WAIT, |timeout| timeout.min(MAX_WAIT));
        let arrived = self.arrival_of(&component_id);
        match tokio::time::timeout(patience, arrived).await {
            Ok(Some(record)) => Ok(Response::new(convert::component_status(&record))),
            Ok(None) => Err(Status::unavailable("the daemon is shutting down")),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "`{}` has not registered within {} s",
                quoted(&component_id),
                patience.as_secs_f64()
            ))),
        }
    }
}

impl Gate {
    /// Waits until `id` is registered and what registered still runs; `None` when the daemon goes.
    async fn arrival_of(&self, id: &str) -> Option<Arc<RegistrationRecord>> {
        let mut directories = self.0.owner.directories();
        let mut snapshots = self.0.owner.snapshots();
        loop {
            let directory = directories.borrow_and_update().clone();
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(record) = find(&directory, &snapshot, id) {
                return Some(Arc::clone(record));
            }
            tokio::select! {
                // Cancel-safe, both: a change that was not seen stays one.
                changed = directories.changed() => changed.ok()?,
                changed = snapshots.changed() => changed.ok()?,
            }
        }
    }
}

/// A component by either of its ids.
fn find<'a>(
    directory: &'a Directory,
    snapshot: &Snapshot,
    id: &str,
) -> Option<&'a Arc<RegistrationRecord>> {
    let is_meant =
        |record: &RegistrationRecord| record.service_id.as_str() == id || record.component() == id;
    // Whoever takes the name of a component here is not the one that is waited for.
    let mut components = snapshot.pipelines.iter().flat_map(|one| &one.components);
    let is_ours = components.any(|component| component.id.as_str() == id);
    directory.values().find(|record| {
        is_meant(record)
            && record.silent_since.is_none()
            && (record.owner.is_some() || !is_ours)
            && is_current(record, snapshot)
    })
}

/// Whether what registered still runs. A registration outlives its instance, so that the next one
/// gets the same id; until that has registered, nobody is there. Who is no component of ours is
/// there as long as it is heard of.
fn is_current(record: &RegistrationRecord, snapshot: &Snapshot) -> bool {
    let owner = record.owner.as_ref();
    owner.is_none_or(|owner| snapshot.is_live(&owner.instance))
}
