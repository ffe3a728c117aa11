//! Who calls: by its token, or as the kernel and the container engine say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::TokenPolicy;
use super::doors::{Bridges, Containers};
use super::peer::{Ends, LocalUser, OtherEnd};
use super::places::{Known, Line};
use super::token::{Bearer, Keyring};
use crate::clock::Clock;
use crate::model::{Evidence, InstanceId, ServiceId};
use crate::reconciler::{Identified, Identity, Peer, PeerProcess, ReconcilerHandle};

/// It waits this long for the container engine to say whose an address is.
const ENGINE_PATIENCE: Duration = Duration::from_secs(1);
/// And this long until a start was answered that may be the caller's.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at that.
const START_PAUSE: Duration = Duration::from_millis(20);
/// Somebody who is nobody is asked about again after this: its start may have been answered.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Keys for admission, shared with whoever issues tokens.
pub(super) type Keys = Option<Arc<Keyring>>;

/// What is needed to tell who calls.
pub(super) struct Admission {
    pub tokens: TokenPolicy,
    pub bridges: Bridges,
    pub keys: Keys,
    pub ends: Box<dyn Ends>,
    pub containers: Option<Arc<dyn Containers>>,
    pub owner: ReconcilerHandle,
    pub clock: Clock,
}

/// How near a caller is, by the address at which it reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nearness {
    /// On this machine.
    Here,
    /// On the bridge of this machine's containers.
    Bridge,
    /// Elsewhere.
    Far,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    line: Line,
    /// Whose token it showed.
    token: Option<Bearer>,
}

impl Caller {
    /// The address at the other end.
    pub fn ip(&self) -> IpAddr {
        self.line.peer.ip().to_canonical()
    }

    /// The outsider whose token it showed, who may speak for nobody else.
    pub fn outsider(&self) -> Option<&ServiceId> {
        match &self.token {
            Some(Bearer::Outsider(name)) => Some(name),
            Some(Bearer::Instance(_)) | None => None,
        }
    }

    /// What a client has to know about this server.
    pub fn connection_info(&self) -> BTreeMap<String, String> {
        let local = self.line.local;
        let reached = SocketAddr::new(local.ip().to_canonical(), local.port());
        [("control_plane_endpoint".to_owned(), reached.to_string())].into()
    }
}

/// What a caller brings along.
pub(super) struct Shown {
    pub line: Line,
    /// Its `authorization` header.
    pub authorization: Option<Vec<u8>>,
}

/// How near somebody is who reached us at `local`.
pub(super) fn nearness(bridges: &Bridges, local: IpAddr) -> Nearness {
    if bridges.contains(local) {
        Nearness::Bridge
    } else if local.to_canonical().is_loopback() {
        Nearness::Here
    } else {
        Nearness::Far
    }
}

impl Admission {
    fn nearness(&self, local: IpAddr) -> Nearness {
        nearness(&self.bridges, local)
    }

    /// Lets a caller in that is within its budget and shows a good token, or needs none: on this
    /// machine, and on a bridge as the container that it is.
    pub async fn admit(&self, shown: Shown) -> Result<Caller, Status> {
        let Shown {
            line,
            authorization,
        } = shown;
        let token = self.token_within_budget(&line, authorization.as_deref())?;
        match (&token, self.nearness(line.local.ip()), self.tokens) {
            (Some(Bearer::Instance(instance)), _, _) => {
                let known = self.owner.snapshots().borrow().is_live(instance);
                let lives = known || matches!(self.owner.lives(instance.clone()).await, Ok(true));
                if !lives {
                    return Err(Status::unauthenticated(format!(
                        "the token belongs to {instance}, which runs no more; use the one in \
                         COMPONENT_TOKEN_FILE"
                    )));
                }
            }
            (Some(Bearer::Outsider(_)), _, _)
            | (None, Nearness::Here, TokenPolicy::WhenForeign) => {}
            (None, Nearness::Bridge, TokenPolicy::WhenForeign) => {
                if self.seen(&line).await == Identity::Stranger {
                    return Err(Status::unauthenticated(
                        "no container of flowctl's has this address, so a token is required: send \
                         `authorization: Bearer $COMPONENT_TOKEN`",
                    ));
                }
            }
            (None, Nearness::Far, _) | (None, _, TokenPolicy::Required) => return Err(required()),
        }
        line.let_in();
        Ok(Caller { line, token })
    }

    /// Lets a caller in that asks how it could call us: as [`Admission::admit`], except that over a
    /// bridge a token is needed, since nobody is asked who it is.
    pub fn admit_to_reflection(&self, shown: &Shown) -> Result<(), Status> {
        let authorization = shown.authorization.as_deref();
        let token = self.token_within_budget(&shown.line, authorization)?;
        let nearness = self.nearness(shown.line.local.ip());
        match (token, nearness, self.tokens) {
            (Some(_), _, _) | (None, Nearness::Here, TokenPolicy::WhenForeign) => Ok(()),
            (None, Nearness::Bridge | Nearness::Far, _) | (None, _, TokenPolicy::Required) => {
                Err(required())
            }
        }
    }

    fn token_within_budget(
        &self,
        line: &Line,
        authorization: Option<&[u8]>,
    ) -> Result<Option<Bearer>, Status> {
        if !line.spend() {
            return Err(Status::resource_exhausted(
                "too many calls a second over this connection; slow down",
            ));
        }
        authorization
            .map(|header| self.token_of(header))
            .transpose()
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
        self.keys
            .as_ref()
            .ok_or_else(|| Status::unauthenticated("this server gave out no tokens"))?
            .verify(token, self.clock.now())
            .map_err(|error| Status::unauthenticated(error.to_string()))
    }

    /// Who a caller is. Without a token, it is found out once for each connection.
    pub async fn who(&self, caller: &Caller) -> Identity {
        match &caller.token {
            Some(Bearer::Instance(instance)) => Identity::Instance {
                id: instance.clone(),
                by: Evidence::Token,
            },
            Some(Bearer::Outsider(name)) => Identity::Outsider(name.clone()),
            None => self.seen(&caller.line).await,
        }
    }

    /// Who is at the other end of a connection, as the kernel and the engine say.
    async fn seen(&self, line: &Line) -> Identity {
        let mut known = line.who().lock().await;
        if let Some(known) = known.as_ref()
            && (!known.identity.is_unproven() || known.at.elapsed() < ASK_AGAIN)
        {
            return known.identity.clone();
        }
        let identity = self.look(line).await;
        *known = Some(Known {
            identity: identity.clone(),
            at: Instant::now(),
        });
        identity
    }

    async fn look(&self, line: &Line) -> Identity {
        let end = self.ends.other_end(line.peer, line.local).await;
        let OtherEnd { user, process } = end;
        let is_remote = user == LocalUser::Unknown && process == PeerProcess::Unknown;
        let container = if is_remote && self.nearness(line.local.ip()) == Nearness::Bridge {
            self.container(line.peer.ip().to_canonical()).await
        } else {
            None
        };
        let peer = Peer { process, container };
        let given_up = Instant::now() + START_PATIENCE;
        loop {
            let identified = self.owner.identify(peer.clone()).await;
            // A daemon that goes knows nobody any more.
            return match identified.unwrap_or(Identified::Nobody) {
                Identified::Instance { id, by } => Identity::Instance { id, by },
                Identified::Ended(id) => Identity::Instance {
                    id,
                    by: Evidence::Process,
                },
                Identified::NotYet if Instant::now() < given_up => {
                    tokio::time::sleep(START_PAUSE).await;
                    continue;
                }
                Identified::NotYet | Identified::Nobody => match user {
                    LocalUser::Operator => Identity::Operator,
                    LocalUser::Unseen => Identity::OwnUser,
                    LocalUser::Other(uid) => Identity::User(uid),
                    LocalUser::Unknown => Identity::Stranger,
                },
            };
        }
    }

    /// The instance whose container has an address on a bridge.
    async fn container(&self, address: IpAddr) -> Option<InstanceId> {
        let containers = self.containers.as_ref()?;
        let asked = tokio::time::timeout(ENGINE_PATIENCE, containers.at(address));
        asked.await.unwrap_or_default()
    }
}

fn required() -> Status {
    Status::unauthenticated("a token is required: send `authorization: Bearer $COMPONENT_TOKEN`")
}
