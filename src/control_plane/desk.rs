//! What both services do alike: let a caller in, and hand what it says to the owner.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Request, Status};

use super::caller::{Admission, Caller, Shown};
use super::convert::BadMessage;
use super::places::Line;
use crate::clock::Clock;
use crate::model::{
    Metrics, PipelineKey, RegistrationRecord, RunChange, RunRecord, ServiceHealth, ServiceId,
};
use crate::reconciler::{
    Beat, Directory, Identity, Introduction, Note, ReconcilerHandle, Refusal, RegistryRefusal,
    Room, Standing,
};

/// An answer waits this long until what it tells is recorded (crash-safe, which takes no fsync), and
/// is given then all the same: one client of the field waits for the answer to its registration
/// without an end, another exits when there is none.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// Where every call arrives. Cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    pub owner: ReconcilerHandle,
    pub clock: Clock,
    pub admission: Arc<Admission>,
}

/// What a request brings along about its caller.
pub(super) fn shown<T>(request: &Request<T>) -> Result<Shown, Status> {
    let line = request.extensions().get::<Line>();
    let line = line.ok_or_else(|| Status::internal("the connection is not known"))?;
    let authorization = request.metadata().get("authorization");
    Ok(Shown {
        line: line.clone(),
        authorization: authorization.map(|value| value.as_bytes().to_vec()),
    })
}

impl Desk {
    /// Lets a caller in that is within its budget and shows a good token, or needs none.
    pub async fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let shown = shown(request);
        self.admission.admit(shown?).await
    }

    /// Who a caller is.
    pub async fn who(&self, caller: &Caller) -> Identity {
        self.admission.who(caller).await
    }

    /// Registers a component and waits, for a while, until that is recorded.
    pub async fn register(
        &self,
        caller: &Caller,
        mut intro: Introduction,
    ) -> Result<Arc<RegistrationRecord>, Status> {
        if let Some(name) = caller.outsider() {
            match intro.names.iter().find(|claimed| *claimed != name.as_str()) {
                Some(claimed) => {
                    let who = Identity::Outsider(name.clone());
                    return Err(registry_refused(&who.foreign(claimed)));
                }
                None => intro.names = vec![name.to_string()],
            }
            intro.wanted = Some(name.clone());
        }
        intro.ip = Some(caller.ip());
        intro.who = self.who(caller).await;
        let registered = self.owner.register(intro).await.map_err(refused)?;
        let registered = registered.map_err(|error| registry_refused(&error))?;
        Ok(once_recorded(registered, "a registration").await)
    }

    /// Takes in a heartbeat. Never waits for the owner, unless the sender is a stranger.
    pub async fn beat(
        &self,
        caller: &Caller,
        id: ServiceId,
        said: Option<ServiceHealth>,
        metrics: Metrics,
    ) -> Result<(), Status> {
        let known = self.owner.directories().borrow().get(&id).map(Arc::clone);
        let owned = known.as_ref().is_some_and(|record| record.owner.is_some());
        let (who, room) = match &known {
            Some(record) if owned || caller.outsider().is_some() => {
                let who = self.who(caller).await;
                who.check_speaks_for(record)
                    .map_err(|error| registry_refused(&error))?;
                (who, Room::Always)
            }
            // Anybody may, so it need not be known who does.
            Some(_) => (Identity::Stranger, Room::WhileLeft),
            None => {
                let who = self.who(caller).await;
                self.check_newcomer(&who, &id)?;
                let room = match who.instance() {
                    Some(_) => Room::Always,
                    None => Room::WhileLeft,
                };
                (who, room)
            }
        };
        let beat = Beat {
            at: self.clock.now(),
            said,
            metrics,
            ip: Some(caller.ip()),
            who,
        };
        self.owner.beats().push(id, beat, room).map_err(|_| {
            Status::resource_exhausted("too many components send heartbeats; try again later")
        })
    }

    /// Whether a heartbeat of an id that nobody registered may be taken in.
    fn check_newcomer(&self, who: &Identity, id: &ServiceId) -> Result<(), Status> {
        let refused = match who {
            Identity::Outsider(name) => name != id,
            Identity::User(_) | Identity::Stranger => self.is_component(id.as_str()),
            Identity::Instance { .. } | Identity::Operator | Identity::OwnUser => false,
        };
        if refused {
            return Err(registry_refused(&who.foreign(id.as_str())));
        }
        Ok(())
    }

    /// Whether `name` is what a component of a pipeline here is called.
    fn is_component(&self, name: &str) -> bool {
        let snapshot = self.owner.snapshots().borrow().clone();
        let mut components = snapshot.pipelines.iter().flat_map(|one| &one.components);
        components.any(|component| component.id.as_str() == name)
    }

    /// Takes a registration back.
    pub async fn unregister(&self, caller: &Caller, id: ServiceId) -> Result<(), Status> {
        let who = self.who(caller).await;
        if let Identity::Outsider(name) = &who
            && self.directory().await?.get(&id).is_none()
            && *name != id
        {
            return Err(registry_refused(&who.foreign(id.as_str())));
        }
        let done = self.owner.unregister(id, who).await;
        let done = done.map_err(refused)?;
        let done = done.map_err(|error| registry_refused(&error))?;
        once_recorded(done, "the end of a registration").await;
        Ok(())
    }

    /// Takes over what a runner says anew of a run; `None` when there is no such run.
    pub async fn change_run(
        &self,
        id: String,
        change: RunChange,
        who: Identity,
    ) -> Result<Option<Arc<RunRecord>>, Status> {
        let changed = self
            .owner
            .change_run(id, change, who)
            .await
            .map_err(refused)?;
        match changed.map_err(|error| registry_refused(&error))? {
            Some(changed) => Ok(Some(once_recorded(changed, "news of a run").await)),
            None => Ok(None),
        }
    }

    /// Who is registered, with every heartbeat that has arrived.
    pub async fn directory(&self) -> Result<Arc<Directory>, Status> {
        self.owner.directory().await.map_err(refused)
    }

    /// The registration of `id`.
    pub async fn find(&self, id: &str) -> Result<Arc<RegistrationRecord>, Status> {
        let directory = self.directory().await?;
        directory.get(id).cloned().ok_or_else(|| {
            Status::not_found(format!("no component is registered as `{}`", quoted(id)))
        })
    }

    /// Keeps what a runner tells; waits, for a while, until that is recorded.
    pub async fn keep(&self, note: Note, who: Identity) -> Result<(), Status> {
        let told = self.owner.tell_note(note, who).await.map_err(refused)?;
        let told = told.map_err(|error| registry_refused(&error))?;
        once_recorded(told, "what a runner tells").await;
        Ok(())
    }

    /// Whether somebody may end what a pipeline runs, or read its definition.
    pub fn check_commands(&self, who: &Identity, pipeline: &PipelineKey) -> Result<(), Status> {
        let may = match who {
            Identity::Operator | Identity::OwnUser => true,
            Identity::Instance { id, .. } => id.pipeline == *pipeline,
            Identity::Outsider(_) | Identity::User(_) | Identity::Stranger => false,
        };
        if may {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "only a component of {pipeline} itself, its token, or the daemon's own user may do that"
        )))
    }
}

/// The answer, as soon as what it tells is recorded, and not much later when it cannot be.
async fn once_recorded<T>(standing: Standing<T>, what: &'static str) -> T {
    match tokio::time::timeout(DISK_PATIENCE, standing.recorded).await {
        Ok(Ok(())) => {}
        // It stands, and is recorded once the disk works again.
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("{what} is answered before it could be recorded");
        }
    }
    standing.answer
}

fn registry_refused(error: &RegistryRefusal) -> Status {
    let code = match error {
        RegistryRefusal::EndedInstance(_) => Code::Unauthenticated,
        RegistryRefusal::Foreign { .. }
        | RegistryRefusal::Unproven { .. }
        | RegistryRefusal::ToldByAnother { .. } => Code::PermissionDenied,
        RegistryRefusal::Full => Code::ResourceExhausted,
    };
    Status::new(code, error.to_string())
}

pub(super) fn refused(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::NoSuchPipeline(_) | Refusal::NoSuchComponent { .. } => Code::NotFound,
        Refusal::NotDurable { .. } | Refusal::ShuttingDown => Code::Unavailable,
        Refusal::Deleting(_) => Code::FailedPrecondition,
    };
    Status::new(code, refusal.to_string())
}

impl From<BadMessage> for Status {
    fn from(error: BadMessage) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

/// Someone else's text in a message of ours.
pub(super) fn quoted(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}
