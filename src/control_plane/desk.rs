//! What both services do alike: let a caller in, and hand what it says to the owner.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Request, Status};

use super::convert::BadMessage;
use super::doors::Containers;
use super::peer::Sockets;
use super::places::Line;
use super::token::{Bearer, Keyring};
use super::{Admission, TokenPolicy};
use crate::clock::Clock;
use crate::model::{
    InstanceId, Metrics, RegistrationRecord, RunChange, RunRecord, ServiceHealth, ServiceId,
};
use crate::reconciler::{
    Beat, Directory, Introduction, Note, Peer, ReconcilerHandle, Refusal, RegistryRefusal, Standing,
};

/// An answer waits this long until what it tells is recorded (crash-safe, which takes no fsync), and
/// is given then all the same: one client of the field waits for the answer to its registration
/// without an end, another exits when there is none.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// It waits this long for the container engine to say whose an address is.
const ENGINE_PATIENCE: Duration = Duration::from_secs(1);

/// Where every call arrives. Cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    pub owner: ReconcilerHandle,
    pub clock: Clock,
    pub admission: Arc<Admission>,
    pub sockets: Sockets,
    pub containers: Option<Arc<dyn Containers>>,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Our end, as the caller reached it.
    pub local: SocketAddr,
    /// Whose token it showed.
    pub token: Option<Bearer>,
}

impl Caller {
    /// The instance whose token it showed.
    fn instance(&self) -> Option<InstanceId> {
        match &self.token {
            Some(Bearer::Instance(instance)) => Some(instance.clone()),
            Some(Bearer::Outsider(_)) | None => None,
        }
    }

    /// The outsider whose token it showed, who may speak for nobody else.
    fn outsider(&self) -> Option<&ServiceId> {
        match &self.token {
            Some(Bearer::Outsider(name)) => Some(name),
            Some(Bearer::Instance(_)) | None => None,
        }
    }

    /// What a client has to know about this server.
    pub fn connection_info(&self) -> BTreeMap<String, String> {
        let reached = SocketAddr::new(self.local.ip().to_canonical(), self.local.port());
        [("control_plane_endpoint".to_owned(), reached.to_string())].into()
    }
}

impl Desk {
    /// Lets a caller in that is within its budget and shows a good token, or needs none.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let line = request.extensions().get::<Line>();
        let line = line.ok_or_else(|| Status::internal("the connection is not known"))?;
        if !line.spend() {
            return Err(Status::resource_exhausted(
                "too many calls a second over this connection; slow down",
            ));
        }
        let token = match request.metadata().get("authorization") {
            None => None,
            Some(value) => Some(self.token_of(value.as_bytes())?),
        };
        let required = self.admission.policy_of(line.local.ip()) == TokenPolicy::Required;
        if required && token.is_none() {
            return Err(Status::unauthenticated(
                "a token is required: send `authorization: Bearer $COMPONENT_TOKEN`",
            ));
        }
        line.let_in();
        Ok(Caller {
            peer: line.peer,
            local: line.local,
            token,
        })
    }

    fn token_of(&self, header: &[u8]) -> Result<Bearer, Status> {
        let text = std::str::from_utf8(header).ok();
        let token = text.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let token = token.ok_or_else(|| {
            Status::unauthenticated("`authorization` has to be `Bearer` and a token")
        })?;
        self.admission
            .keys
            .as_ref()
            .ok_or_else(|| Status::unauthenticated("this server gave out no tokens"))?
            .verify(token, self.clock.now())
            .map_err(|error| Status::unauthenticated(error.to_string()))
    }

    /// Registers a component and waits, for a while, until that is recorded.
    pub async fn register(
        &self,
        caller: &Caller,
        mut intro: Introduction,
    ) -> Result<Arc<RegistrationRecord>, Status> {
        if let Some(name) = caller.outsider() {
            match intro.names.iter().find(|claimed| *claimed != name.as_str()) {
                Some(claimed) => return Err(foreign(name, claimed)),
                None => intro.names = vec![name.to_string()],
            }
            intro.wanted = Some(name.clone());
        }
        intro.peer = self.peer(caller, || self.is_unclear(&intro.names)).await;
        intro.token = caller.instance();
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
        match (&caller.token, &known) {
            (Some(Bearer::Instance(token)), Some(record)) => check_owner(token, record)?,
            (Some(Bearer::Outsider(name)), known) => check_name(name, &id, known.as_deref())?,
            (Some(Bearer::Instance(_)) | None, _) => {}
        }
        let peer = self.peer(caller, || known.is_none()).await;
        let beat = Beat {
            at: self.clock.now(),
            said,
            metrics,
            peer,
            token: caller.instance(),
        };
        self.owner.beats().push(id, beat).map_err(|_| {
            Status::resource_exhausted("too many components send heartbeats; try again later")
        })
    }

    /// Takes a registration back.
    pub async fn unregister(&self, caller: &Caller, id: ServiceId) -> Result<(), Status> {
        if let Some(name) = caller.outsider() {
            let known = self.directory().await?.get(&id).cloned();
            check_name(name, &id, known.as_deref())?;
        }
        let done = self.owner.unregister(id, caller.instance()).await;
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
    ) -> Result<Option<Arc<RunRecord>>, Status> {
        let changed = self.owner.change_run(id, change).await.map_err(refused)?;
        match changed {
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
            Status::not_found(format!("no component is registered as `{}`", shown(id)))
        })
    }

    /// Keeps what a runner tells; waits, for a while, until that is recorded.
    pub async fn keep(&self, note: Note) -> Result<(), Status> {
        match tokio::time::timeout(DISK_PATIENCE, self.owner.tell_note(note)).await {
            Ok(told) => told.map_err(refused),
            // It stands, and is recorded once the disk works again.
            Err(_) => Ok(()),
        }
    }

    async fn peer(&self, caller: &Caller, has_to_be_traced: impl FnOnce() -> bool) -> Peer {
        let address = caller.peer.ip().to_canonical();
        let mut peer = Peer {
            ip: Some(address),
            ..Peer::default()
        };
        if caller.token.is_none() && has_to_be_traced() {
            peer.process = self.sockets.process(caller.peer, caller.local).await;
            peer.container = self.container(caller, address).await;
        }
        peer
    }

    /// The instance whose container a caller over a bridge is.
    async fn container(&self, caller: &Caller, address: IpAddr) -> Option<InstanceId> {
        let containers = self.containers.as_ref()?;
        if !self.admission.bridges.contains(caller.local.ip()) {
            return None;
        }
        let asked = tokio::time::timeout(ENGINE_PATIENCE, containers.at(address));
        asked.await.unwrap_or_default()
    }

    /// Whether `names` do not say which replica it is.
    fn is_unclear(&self, names: &[String]) -> bool {
        let snapshot = self.owner.snapshots().borrow().clone();
        let mut replicas = 0;
        for component in snapshot
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.components)
        {
            if names.iter().any(|name| name == component.id.as_str()) {
                replicas += component.replicas.len();
            }
        }
        replicas != 1
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

/// A token that belongs to another component than `record` is refused.
fn check_owner(token: &InstanceId, record: &RegistrationRecord) -> Result<(), Status> {
    let Some(owner) = &record.owner else {
        return Ok(());
    };
    let owner = &owner.instance;
    let same = owner.pipeline == token.pipeline && owner.replica == token.replica;
    if same && owner.incarnation <= token.incarnation {
        return Ok(());
    }
    if same {
        let ended = RegistryRefusal::EndedInstance(token.clone());
        return Err(registry_refused(&ended));
    }
    Err(Status::permission_denied(format!(
        "the token belongs to {token}, and `{}` to {owner}",
        record.service_id
    )))
}

/// An outsider speaks for the registration of its name, and for one that was given to it.
fn check_name(
    name: &ServiceId,
    id: &ServiceId,
    known: Option<&RegistrationRecord>,
) -> Result<(), Status> {
    if id == name || known.is_some_and(|record| record.component() == name.as_str()) {
        return Ok(());
    }
    Err(foreign(name, id.as_str()))
}

fn foreign(bearer: &ServiceId, named: &str) -> Status {
    let named = shown(named);
    Status::permission_denied(format!("the token belongs to {bearer}, not to `{named}`"))
}

fn registry_refused(error: &RegistryRefusal) -> Status {
    let code = match error {
        RegistryRefusal::EndedInstance(_) => Code::Unauthenticated,
        RegistryRefusal::Foreign { .. } => Code::PermissionDenied,
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
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}

/// Keys for admission, shared with whoever issues tokens.
pub(super) type Keys = Option<Arc<Keyring>>;
