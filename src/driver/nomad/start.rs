//! Starting an instance: a job that was never there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::Ask;
use super::failure::{Failure, refused};
use super::job::{self, Made, Order, Pull};
use super::ledger::{Entry, Holds, Keeps, Ordered};
use super::observe::Found;
use super::placement::Room;
use super::sight::Seen;
use super::wire::Registered;
use super::{Inner, Named, Place, lock, names, peers};
use crate::driver::inputs::Inputs;
use crate::driver::{Began, DriverError, Launch, Started, variables};
use crate::images::{Question, Runs, Standing};
use crate::model::{
    DriverKind, Exit, ImageChoice, Life, NomadSpec, PipelineKey, Prober, StartFailure, Workload,
};

const START: &str = "start a job";
/// A start whose program does not run by then is waited for by looks.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pauses between two looks at one that starts.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// For how long a program is seen to run before it counts as started.
const STEADY: Duration = Duration::from_millis(400);
/// One that runs for so long has started.
const OLD: Duration = Duration::from_secs(10);
/// What was sent and not answered may come through until then.
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// Where components are told that the control plane is.
const CONTROL_PLANE: [&str; 2] = ["FLOWCTL_ENDPOINT", "CONTROL_PLANE_ENDPOINT"];

fn lost(failure: &Failure) -> DriverError {
    failure.unreachable(START)
}

impl Inner {
    /// Starts an instance, or answers what an earlier call made of it.
    pub(super) async fn start_once(
        self: &Arc<Self>,
        launch: &Launch,
    ) -> Result<Started, DriverError> {
        let Workload::Nomad(nomad) = &launch.spec.workload else {
            let message = format!(
                "component {} is no job of Nomad's: this driver cannot run it",
                launch.spec.id
            );
            return Err(refused("WrongDriver", message));
        };
        let place = self.place(&Named::from(nomad));
        let place = place.map_err(|error| refused("SettingsInvalid", error.to_string()))?;
        match self.look_at_job(&place, &launch.instance).await {
            Ok(Found::There(seen)) => return self.comes_up(&place, launch, *seen).await,
            Ok(Found::Foreign(whose)) => return Err(conflict(&self.config.owner, launch, &whose)),
            Ok(Found::Gone) => {}
            Err(failure) => return Err(lost(&failure)),
        }
        let made = self.made(launch, nomad, &place).await?;
        let entry = Entry {
            address: nomad.address.clone(),
            namespace: nomad.namespace.clone(),
            job: made.id.clone(),
            meta: meta_of(&made.job),
            variable: if made.items.is_some() {
                Holds::Variable
            } else {
                Holds::Nothing
            },
            kept: Keeps::Untagged,
            stop: Ordered::Nothing,
        };
        let kept = self.ledger.put(&launch.instance, entry).await;
        kept.map_err(|error| DriverError::Unreachable {
            driver: DriverKind::Nomad,
            operation: START.to_owned(),
            why: format!("what is registered cannot be kept: {error}"),
        })?;
        if let Some(items) = &made.items {
            place.write_variable(&made.id, items).await?;
        }
        self.register(&place, launch, &made).await?;
        match place.tag(&made.id).await {
            Ok(()) => {
                let tagged = |entry: &mut Entry| entry.kept = Keeps::Tagged;
                if let Err(error) = self.ledger.change(&launch.instance, tagged).await {
                    tracing::warn!(%error, "it is not kept that Nomad keeps a job");
                }
            }
            Err(failure) => {
                tracing::warn!(instance = %launch.instance, %failure, "Nomad may collect its job once it has ended");
            }
        }
        match self.look_at_job(&place, &launch.instance).await {
            Ok(Found::There(seen)) => self.comes_up(&place, launch, *seen).await,
            Ok(Found::Foreign(whose)) => Err(conflict(&self.config.owner, launch, &whose)),
            Ok(Found::Gone) => Err(DriverError::Unreachable {
                driver: DriverKind::Nomad,
                operation: START.to_owned(),
                why: "its job is gone again".to_owned(),
            }),
            Err(failure) => Err(lost(&failure)),
        }
    }

    /// The job of `launch`, with all that it needs.
    async fn made(
        &self,
        launch: &Launch,
        nomad: &NomadSpec,
        place: &Place,
    ) -> Result<Made, DriverError> {
        let container = &nomad.container;
        let tell = |what: String| self.hints.say(launch.instance.clone(), what);
        let standing = match &launch.image {
            ImageChoice::ByPolicy => Standing::Fresh,
            ImageChoice::Pulled => Standing::Renewed,
            ImageChoice::Recorded(reference) => Standing::Recorded(reference),
        };
        let question = Question {
            image: &container.image,
            besides: container.verify.as_ref(),
            standing,
        };
        let admitted = tokio::select! {
            admitted = self.config.gate.admit(question, &tell) => admitted,
            () = launch.given_up.cancelled() => {
                let message = format!("{} is not wanted any more", container.image);
                return Err(refused(StartFailure::GIVEN_UP, message));
            }
        };
        let admitted = admitted.map_err(|no| refused(no.reason.word(), no.to_string()))?;
        let (image, pull) = match admitted.runs() {
            Runs::AsWritten(image) | Runs::Local(image) => {
                (image.to_owned(), Pull::of(container.pull))
            }
            Runs::Exactly(repository, digest) => {
                (format!("{repository}@{digest}"), Pull::IfMissing)
            }
        };
        let inputs = Inputs::read(launch, &self.hints).await;
        let inputs = inputs.map_err(|error| DriverError::Refused(error.into()))?;
        let mut injected = launch.injected.clone();
        leave_out_loopback(&mut injected);
        let token = injected.remove(job::TOKEN);
        injected.remove(job::TOKEN_FILE);
        let given = variables::given(&launch.spec, &inputs.variables);
        injected.extend(given.map_err(|error| DriverError::Refused(error.into()))?);
        let mut injected = job::variables(injected, launch);
        let nomad = &self.with_peers(launch, nomad, &mut injected)?;
        let order = Order {
            owner: &self.config.owner,
            launch,
            nomad,
            namespace: &place.namespace,
            region: self
                .config
                .settings
                .as_ref()
                .ok()
                .and_then(|it| it.region.as_deref()),
            image,
            pull,
            variables: injected,
            token,
            secrets: &inputs.secrets,
        };
        job::job(&order).map_err(DriverError::Refused)
    }

    /// The workload and the variables of a start, with where other components are now.
    fn with_peers(
        &self,
        launch: &Launch,
        nomad: &NomadSpec,
        variables: &mut BTreeMap<String, String>,
    ) -> Result<NomadSpec, DriverError> {
        let mut filled = nomad.clone();
        let container = &mut filled.container;
        let words = container
            .command
            .iter_mut()
            .flatten()
            .chain(&mut container.args);
        let texts: Vec<&mut String> = words.chain(variables.values_mut()).collect();
        let named: BTreeSet<String> = texts
            .iter()
            .flat_map(|text| peers::named(text))
            .map(str::to_owned)
            .collect();
        if named.is_empty() {
            return Ok(filled);
        }
        let reached = self.reached(&launch.instance.pipeline, &named);
        for text in texts {
            *text = peers::filled(text, &reached).map_err(|what| DriverError::InTheWay { what })?;
        }
        Ok(filled)
    }

    /// Where those of `named` are reached that run, each at its first replica that does.
    fn reached(
        &self,
        pipeline: &PipelineKey,
        named: &BTreeSet<String>,
    ) -> BTreeMap<String, peers::Reached> {
        let album = lock(&self.album);
        let mut all: BTreeMap<String, peers::Reached> = BTreeMap::new();
        for (instance, (_, seen)) in album.iter() {
            let component = instance.replica.component.as_str();
            let is_meant = instance.pipeline == *pipeline && named.contains(component);
            let (true, Life::Running { .. }, Some(spec)) = (is_meant, &seen.life, seen.spec())
            else {
                continue;
            };
            if all.contains_key(component) {
                continue;
            }
            let mut ports = peers::Reached::new();
            for port in &spec.ports {
                let at = seen
                    .reach(port)
                    .and_then(|at| at.parse::<SocketAddr>().ok());
                let Some(at) = at.map(|at| (at.ip().to_string(), at.port())) else {
                    continue;
                };
                ports.entry(String::new()).or_insert_with(|| at.clone());
                if let Some(name) = &port.name {
                    ports.insert(name.clone(), at);
                }
            }
            all.insert(component.to_owned(), ports);
        }
        all
    }

    /// Registers a job that must not be there; once it answers, it is.
    async fn register(
        &self,
        place: &Place,
        launch: &Launch,
        made: &Made,
    ) -> Result<(), DriverError> {
        let body = json!({"Job": made.job, "EnforceIndex": true, "JobModifyIndex": 0});
        let mut left = 2;
        loop {
            let ask = Ask::write(&["jobs"], &body).with("namespace", place.namespace.as_str());
            let failure = match place.client.json::<Registered>(ask).await {
                Ok(answer) => {
                    let warnings = answer.body.warnings;
                    if !warnings.is_empty() {
                        tracing::warn!(instance = %launch.instance, warnings, "Nomad warns of a job");
                        self.hints.say(launch.instance.clone(), warnings);
                    }
                    return Ok(());
                }
                // Whose it is tells the look that follows.
                Err(Failure::Conflict(_)) => return Ok(()),
                // Nothing was registered, so that nothing is left to be looked for.
                Err(failure @ Failure::Denied(_)) => {
                    self.forgotten(place, &launch.instance).await?;
                    return Err(lost(&failure));
                }
                Err(failure @ Failure::Refused { .. }) => {
                    self.forgotten(place, &launch.instance).await?;
                    return Err(failure.of_start(START));
                }
                Err(failure) => failure,
            };
            // It may have come through, or be on its way.
            let job = Ask::read(&["job", &made.id]).with("namespace", place.namespace.as_str());
            match place.client.done(job).await {
                Ok(()) => return Ok(()),
                Err(Failure::Absent(_)) if left > 0 => {
                    left -= 1;
                    sleep(IN_FLIGHT).await;
                }
                Err(_) => return Err(lost(&failure)),
            }
        }
    }

    /// Waits until the program runs, or it is clear that it does not yet, or never.
    async fn comes_up(
        self: &Arc<Self>,
        place: &Arc<Place>,
        launch: &Launch,
        mut seen: Seen,
    ) -> Result<Started, DriverError> {
        let until = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        let (mut said, mut runs_since) = (None, None);
        loop {
            let waits = match &seen.life {
                Life::Pending(pending) => {
                    if pending.why != said {
                        said.clone_from(&pending.why);
                        let what = said.clone().unwrap_or_default();
                        self.hints.say(launch.instance.clone(), what);
                    }
                    seen.room == Room::Unknown
                }
                // One whose program is not there runs for a moment, and its node tells of its end a
                // moment after that.
                Life::Running { since } => {
                    let first = *runs_since.get_or_insert_with(Instant::now);
                    first.elapsed() < STEADY && self.clock.now().since(*since) < OLD
                }
                Life::Created
                | Life::Exited(_)
                | Life::NotStarted { .. }
                | Life::Lost { .. }
                | Life::HostReboot { .. }
                | Life::RuntimeRestarted(_)
                | Life::Disrupted { .. } => false,
            };
            if !waits || Instant::now() > until || launch.given_up.is_cancelled() {
                return self.answer(place, seen);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            seen = match self.look_at_job(place, &launch.instance).await {
                Ok(Found::There(seen)) => *seen,
                Ok(Found::Gone | Found::Foreign(_)) => {
                    return Err(DriverError::Unreachable {
                        driver: DriverKind::Nomad,
                        operation: START.to_owned(),
                        why: "its job went while it started".to_owned(),
                    });
                }
                Err(failure) => return Err(lost(&failure)),
            };
        }
    }

    /// What a start makes of what is seen.
    fn answer(self: &Arc<Self>, place: &Arc<Place>, seen: Seen) -> Result<Started, DriverError> {
        let address = place.client.address().to_string();
        let (handle, facts) = (seen.handle(&address, &place.namespace), seen.facts());
        let ran = |exit: &Exit| exit.started_at.unwrap_or(exit.at);
        let state = match &seen.life {
            Life::Pending(pending) => Began::Pending(pending.clone()),
            Life::NotStarted { failure, .. } => {
                let failure = failure.clone();
                self.tell(place, seen);
                return Err(DriverError::Refused(failure));
            }
            Life::Running { since } => running(*since),
            Life::Exited(exit) | Life::RuntimeRestarted(exit) | Life::Disrupted { exit, .. } => {
                running(ran(exit))
            }
            Life::Created | Life::Lost { .. } | Life::HostReboot { .. } => {
                running(self.clock.now())
            }
        };
        self.tell(place, seen);
        Ok(Started {
            handle,
            facts,
            prober: Prober::Flowctl,
            state,
        })
    }
}

fn running(since: crate::model::Timestamp) -> Began {
    Began::Running {
        since,
        health: None,
    }
}

fn conflict(owner: &str, launch: &Launch, whose: &str) -> DriverError {
    let id = names::job(owner, &launch.instance);
    refused(
        "NameConflict",
        format!("the job `{id}` {whose}: remove it with `nomad job stop -purge {id}`"),
    )
}

fn meta_of(job: &Value) -> BTreeMap<String, String> {
    let meta = job.get("Meta").and_then(Value::as_object);
    let each = meta.into_iter().flatten();
    each.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A node does not reach this host at its loopback address, so a component is told of no control plane
/// there.
fn leave_out_loopback(injected: &mut BTreeMap<String, String>) {
    let is_loopback = |text: &String| {
        let host = text.parse::<SocketAddr>().map(|it| it.ip());
        host.is_ok_and(|ip| match ip {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        })
    };
    if CONTROL_PLANE
        .iter()
        .filter_map(|name| injected.get(*name))
        .any(is_loopback)
    {
        for name in CONTROL_PLANE.into_iter().chain([
            job::TOKEN,
            job::TOKEN_FILE,
            "FLOWCTL_ENABLED",
            "ENABLE_FLOWCTL",
        ]) {
            injected.remove(name);
        }
    }
}

impl Place {
    async fn write_variable(
        &self,
        job: &str,
        items: &serde_json::Map<String, Value>,
    ) -> Result<(), DriverError> {
        let path = names::variable(job);
        let body = json!({"Namespace": self.namespace, "Path": path, "Items": items});
        let mut parts = vec!["var"];
        parts.extend(path.split('/'));
        let ask = Ask::write(&parts, &body).with("namespace", self.namespace.as_str());
        match self.client.done(ask).await {
            Ok(()) => Ok(()),
            Err(Failure::Denied(why)) => Err(refused(
                "VariablesDenied",
                format!(
                    "its secrets cannot be given to Nomad as a variable ({why}): add \
                     `variables {{ path \"nomad/jobs/*\" {{ capabilities = [\"write\", \"read\", \
                     \"destroy\", \"list\"] }} }}` to the policy of the daemon's token"
                ),
            )),
            Err(failure) => Err(failure.of_start(START)),
        }
    }

    /// Has Nomad keep a job when it has ended.
    async fn tag(&self, job: &str) -> Result<(), Failure> {
        let body =
            json!({"Version": 0, "Description": "kept by flowctl until its end is recorded"});
        let ask = Ask::write(&["job", job, "versions", names::TAG, "tag"], &body)
            .with("namespace", self.namespace.as_str());
        self.client.done(ask).await
    }
}
