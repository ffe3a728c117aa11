//! Starting an instance: image, network, container, program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, NetworkDisconnectRequest};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, ListContainersOptions,
    RenameContainerOptions, StartContainerOptions,
};
use tokio::sync::OwnedRwLockReadGuard;

use super::binds::{self, Binds};
use super::engine::{CHANGE, Failure, LOOK, unreachable};
use super::failure::{Refusal, StartFailureText};
use super::images::{self, Resolved};
use super::mapping::{self, Parts};
use super::power::{self, Ground, Rules};
use super::secrets::{self, Reader};
use super::sight::Seen;
use super::{DockerDriver, Privileged, dialect, evidence, identity, network};
use crate::driver::inputs::Inputs;
use crate::driver::variables;
use crate::driver::{DriverError, Launch, Started};
use crate::images::{Question, Standing, VerifiedImage};
use crate::model::{
    ComponentSpec, ContainerSpec, ImageChoice, InstanceId, Life, StartFailure, Volume,
    VolumeSource, Workload,
};

/// What this is called in errors.
const OPERATION: &str = "start a container";
/// The pauses, in milliseconds, after which a name is asked for again that a dead container of ours
/// had: engines free it a moment after the container is gone.
const TAKE_OVERS: [u64; 5] = [0, 10, 50, 250, 1_000];
/// How often a network is made again that went while something started on it.
const NETWORKS: usize = 3;
/// What Podman says where the init of containers is not installed.
const NO_INIT: &str = "container-init binary not found";
/// Where a container's programs are looked up when its image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn refuse(refusal: Refusal) -> DriverError {
    DriverError::Refused(StartFailure::from(refusal))
}

fn in_the_way(what: &str) -> DriverError {
    let what = what.to_owned();
    DriverError::InTheWay { what }
}

fn lost(failure: Failure) -> DriverError {
    failure.unreachable(OPERATION)
}

impl DockerDriver {
    /// Starts an instance, or answers what an earlier call made of it.
    pub(super) async fn start_once(&self, launch: &Launch) -> Result<Started, DriverError> {
        let _turn = self.turn(&launch.instance).await;
        let Workload::Docker(container) = &launch.spec.workload else {
            return Err(refuse(Refusal::WrongDriver(launch.spec.id.to_string())));
        };
        if let Some(seen) = self.find(&launch.instance).await.map_err(lost)? {
            match seen.life {
                // Its network may be another by now, with another address of the host.
                Life::Created | Life::Pending(_) => {
                    self.remove(&seen.id, &launch.instance).await?;
                }
                Life::NotStarted { .. }
                | Life::Running { .. }
                | Life::Exited(_)
                | Life::RuntimeRestarted(_)
                | Life::Disrupted { .. }
                | Life::Lost { .. }
                | Life::HostReboot { .. } => return answer(seen),
            }
        }
        for _ in 0..NETWORKS {
            let made = self.create(launch, container).await?;
            // The policy may have changed during a pull of minutes.
            if !self.inner.config.gate.is_current(&made.image) {
                self.remove(&made.id, &launch.instance).await?;
                continue;
            }
            if let Some(started) = self.run(launch, container, &made.id).await? {
                return Ok(started);
            }
            self.remove(&made.id, &launch.instance).await?;
        }
        let what = "its network goes, or the image policy changes, again and again";
        Err(unreachable(OPERATION, what))
    }

    /// Makes the container.
    pub(super) async fn create(
        &self,
        launch: &Launch,
        container: &ContainerSpec,
    ) -> Result<Made, DriverError> {
        let spec = &launch.spec;
        let on = Self::network_of(container);
        // Before a pull of minutes. What counts is the look after it.
        let file = launch.file.as_deref();
        self.look_at_host(spec, container, file).await?;
        let endpoint = self.inner.engine.endpoint();
        if !spec.secrets.is_empty() && !endpoint.is_local() {
            return Err(refuse(Refusal::SecretsNeedLocalEngine(
                endpoint.to_string(),
            )));
        }
        let token = self.token_dir(&launch.instance);
        let (admitted, image) = self.image(launch, container).await?;
        // After the image, since a pipe can be read once, and before anything is made or held: it
        // may take as long as the user likes.
        let inputs = Inputs::read(launch, &self.inner.hints).await;
        let inputs = inputs.map_err(|error| DriverError::Refused(error.into()))?;
        let variables = self.variables(launch, &inputs, token.as_deref())?;
        // From here on; a pull may have taken minutes.
        let keeps_network = self.inner.making.clone().read_owned().await;
        let network = self.network(on).await?;
        if let (Some(gateway), Some(tell)) = (network.gateway, self.inner.gateways.get()) {
            tell(gateway);
        }
        self.make_volumes(spec, file).await?;
        let binds = self
            .hold_binds(&spec.volumes, file, Purpose::Mount(&launch.instance))
            .await?;
        let secrets = self.write_secrets(launch, &image, inputs.secrets).await?;
        let owner = &self.inner.config.owner;
        let boot = endpoint.is_local().then(evidence::boot_id).flatten();
        let labels = identity::labels(owner, launch, &image.reference, boot)
            .map_err(|error| refuse(Refusal::Labels(error)))?;
        let body = mapping::container(Parts {
            launch,
            container,
            image: image.reference,
            labels,
            network: on,
            gateway: network.gateway,
            variables,
            binds: &binds,
            secrets,
            token,
        });
        let made = |id| Made {
            id,
            image: admitted.clone(),
            _network: keeps_network,
            _binds: binds,
        };
        let name = launch.instance.replica.container_name();
        let mut taken = String::new();
        for pause in TAKE_OVERS {
            let options = CreateContainerOptions {
                name: Some(name.clone()),
                ..CreateContainerOptions::default()
            };
            let wanted = body.clone();
            let answer = self
                .inner
                .engine
                .call(CHANGE, |client| async move {
                    client.create_container(Some(options), wanted).await
                })
                .await;
            match answer {
                Ok(answer) => {
                    self.tell_warnings(launch, &answer.warnings);
                    return Ok(made(answer.id));
                }
                Err(failure) if failure.is_conflict() => {
                    if let Some(id) = self.take_over(launch, &name).await? {
                        return Ok(made(id));
                    }
                    taken = failure.to_string();
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(failure) if network::says_ambiguous(&failure) => {
                    self.network(on).await?;
                    taken = failure.to_string();
                }
                Err(Failure::Answered { message, .. }) if message.contains(NO_INIT) => {
                    return Err(refuse(Refusal::NoInit(message)));
                }
                // 500: it tried, and has no room for example. Asked at once again, it would say so
                // again.
                Err(Failure::Answered {
                    status: 400 | 404 | 500,
                    message,
                }) => return Err(refuse(Refusal::Container(message))),
                Err(failure) => return Err(lost(failure)),
            }
        }
        Err(unreachable(
            OPERATION,
            format!("{name} cannot be made: {taken}"),
        ))
    }

    /// The folder of an instance's token, where it has one that the engine sees.
    fn token_dir(&self, instance: &InstanceId) -> Option<PathBuf> {
        let dir = super::token_dir(&self.inner.config.state_dir, instance);
        let local = self.inner.engine.endpoint().is_local();
        local.then(|| std::fs::canonicalize(dir).ok()).flatten()
    }

    async fn image(
        &self,
        launch: &Launch,
        container: &ContainerSpec,
    ) -> Result<(VerifiedImage, Resolved), DriverError> {
        let tell = |what: String| self.inner.hints.say(launch.instance.clone(), what);
        let (choice, given_up) = (&launch.image, &launch.given_up);
        let standing = match choice {
            ImageChoice::ByPolicy => Standing::Fresh,
            ImageChoice::Pulled => Standing::Renewed,
            ImageChoice::Recorded(reference) => Standing::Recorded(reference),
        };
        let admitted = tokio::select! {
            admitted = self.admit(container, standing, &tell) => admitted?,
            () = given_up.cancelled() => return Err(images::nobody_wants(&container.image)),
        };
        let engine = &self.inner.engine;
        let resolved = images::resolve(engine, container, &admitted, choice, given_up, &tell);
        Ok((admitted.clone(), resolved.await?))
    }

    /// What the gate lets `container` run.
    pub(super) async fn admit(
        &self,
        container: &ContainerSpec,
        standing: Standing<'_>,
        tell: &(dyn Fn(String) + Sync),
    ) -> Result<VerifiedImage, DriverError> {
        let question = Question {
            image: &container.image,
            besides: container.verify.as_ref(),
            standing,
        };
        let admitted = self.inner.config.gate.admit(question, tell).await;
        admitted.map_err(|refused| refuse(Refusal::Image(refused)))
    }

    /// Looks who has the name. A dead container of an earlier run of this replica is removed, also one
    /// that the engine takes for alive although its processes are gone; that of this very instance
    /// is answered.
    async fn take_over(&self, launch: &Launch, name: &str) -> Result<Option<String>, DriverError> {
        let Some(inspected) = self.inner.engine.container(name).await.map_err(lost)? else {
            return Ok(None);
        };
        let conflict = |whose: String| {
            let name = name.to_owned();
            refuse(Refusal::NameConflict { name, whose })
        };
        let labels = inspected.config.as_ref().and_then(|it| it.labels.as_ref());
        let image = inspected.image.as_deref();
        let is_copy = self.inner.is_copy(image, labels).await.map_err(lost)?;
        let owner = labels.and_then(|labels| labels.get(identity::OWNER));
        match owner.filter(|_| !is_copy) {
            None => return Err(conflict("flowctl did not make".to_owned())),
            Some(owner) if *owner != self.inner.config.owner => {
                return Err(conflict(format!("another flowctl made ({owner})")));
            }
            Some(_) => {}
        }
        let settings = inspected.network_settings.as_ref();
        let networks = settings.and_then(|settings| settings.networks.clone());
        let networks: Vec<String> = networks
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .collect();
        let read = Seen::read(inspected, self.inner.clock.now()).map_err(lost)?;
        let Some(seen) = read else {
            return Err(conflict(
                "has labels of flowctl that cannot be read".to_owned(),
            ));
        };
        if seen.instance == launch.instance {
            return Ok(Some(seen.id));
        }
        let same_replica = seen.instance.pipeline == launch.instance.pipeline
            && seen.instance.replica == launch.instance.replica;
        // The end of another replica may not be recorded yet.
        if !same_replica {
            return Err(conflict(format!(
                "is pipeline {}'s component {}",
                seen.instance.pipeline, seen.instance.replica
            )));
        }
        let what = format!("container {name} of the run before is being removed");
        self.inner.hints.say(launch.instance.clone(), what);
        if self.step_aside(&seen, &networks).await.map_err(lost)? {
            return Ok(None);
        }
        // Whoever is at it already reads its last lines, and removes it.
        let _turn = self.turn(&seen.instance).await;
        // Whoever had the turn before may have started it, or removed it. This look tells those that
        // run from those of which only the engine says so.
        let Some(now) = self.find(&seen.instance).await.map_err(lost)? else {
            return Ok(None);
        };
        match now.life {
            // It is nobody's to remove: once it is seen, it is stopped as is due.
            Life::Running { .. } => {
                self.inner.hints.raise(now.instance.clone());
                let run = now.instance.incarnation;
                return Err(in_the_way(&format!(
                    "its run {run} still runs, and is stopped"
                )));
            }
            // The engine believes that it still writes, so its output never ends.
            Life::Lost { .. } => {}
            Life::Created
            | Life::Pending(_)
            | Life::Exited(_)
            | Life::NotStarted { .. }
            | Life::HostReboot { .. }
            | Life::RuntimeRestarted(_)
            | Life::Disrupted { .. } => {
                if !self.inner.copied(&now.id).await {
                    tracing::warn!(instance = %now.instance, "its last lines could not be copied");
                }
            }
        }
        match self.remove(&now.id, &now.instance).await {
            Ok(()) => Ok(None),
            Err(error) => Err(in_the_way(&format!(
                "container {name} is not gone yet: {error}"
            ))),
        }
    }

    /// Takes its name and its ports from a container whose processes are gone, and which the engine
    /// takes for running: it kills that for 10 to 20 s before it removes it, as Docker 20.10 does.
    /// Whoever forgets it removes it all the same. Answers whether there is such a container.
    async fn step_aside(&self, old: &Seen, networks: &[String]) -> Result<bool, Failure> {
        let Some(seen) = self.find(&old.instance).await? else {
            return Ok(true);
        };
        let Life::Lost { .. } = seen.life else {
            return Ok(false);
        };
        let id = seen.id.as_str();
        for network in networks {
            let request = NetworkDisconnectRequest {
                container: id.to_owned(),
                force: Some(true),
            };
            let left = self
                .inner
                .engine
                .call(CHANGE, |client| async move {
                    client.disconnect_network(network, request).await
                })
                .await;
            if let Err(failure) = left {
                tracing::debug!(instance = %seen.instance, network, %failure, "it keeps its ports");
            }
        }
        let replica = &seen.instance.replica;
        let name = format!(
            "{}.lost-{}",
            replica.container_name(),
            seen.instance.incarnation
        );
        let options = RenameContainerOptions { name };
        let renamed = self
            .inner
            .engine
            .call(CHANGE, |client| async move {
                client.rename_container(id, options).await
            })
            .await;
        match renamed {
            Ok(()) => Ok(true),
            // Its removal is waited for.
            Err(failure) => {
                tracing::debug!(instance = %seen.instance, %failure, "it keeps its name");
                Ok(false)
            }
        }
    }

    /// Starts the program of a container that was created; `None` when another flowctl has removed
    /// its network meanwhile, since nothing was on it, or made a second one of its name.
    pub(super) async fn run(
        &self,
        launch: &Launch,
        container: &ContainerSpec,
        id: &str,
    ) -> Result<Option<Started>, DriverError> {
        if let Err(error) = self.check_program(container, id).await {
            if let DriverError::Refused(_) = &error {
                self.remove(id, &launch.instance).await?;
            }
            return Err(error);
        }
        let started = self
            .inner
            .engine
            .call(CHANGE, |client| async move {
                let options = None::<StartContainerOptions>;
                client.start_container(id, options).await
            })
            .await;
        let message = match started {
            Ok(()) | Err(Failure::Answered { status: 304, .. }) => None,
            Err(Failure::Answered {
                status: 404,
                message,
            }) if message.contains("network") => return Ok(None),
            Err(failure) if network::says_ambiguous(&failure) => return Ok(None),
            Err(Failure::Answered { message, .. }) => Some(message),
            Err(failure) => return Err(lost(failure)),
        };
        let inspected = self.inner.engine.container(id).await.map_err(lost)?;
        let program = inspected.as_ref().and_then(dialect::program);
        let program = program.unwrap_or_default();
        let seen = match inspected {
            Some(inspected) => Seen::read(inspected, self.inner.clock.now()).map_err(lost)?,
            None => None,
        };
        match (message, seen) {
            (_, Some(seen)) if matches!(seen.life, Life::Running { .. } | Life::Exited(_)) => {
                self.inner.notice(&seen);
                answer(seen).map(Some)
            }
            (Some(message), Some(_) | None) => {
                let spec = Some(&*launch.spec);
                let refusal = Refusal::of_start(&message, &program, &container.image, spec);
                Err(self.name_holder(launch, refusal).await)
            }
            (None, Some(_) | None) => {
                Err(unreachable(OPERATION, "it vanished once it was started"))
            }
        }
    }

    /// Says which container holds a host port that is taken, if one does. One of an earlier run of
    /// this replica is going.
    async fn name_holder(&self, launch: &Launch, refusal: Refusal) -> DriverError {
        let Refusal::HostPortTaken { port, by } = refusal else {
            return refuse(refusal);
        };
        let answer = self
            .inner
            .engine
            .read(LOOK, |client| async move {
                client.list_containers(None::<ListContainersOptions>).await
            })
            .await;
        let wanted = launch.spec.ports.iter().filter_map(|port| port.host_port);
        let wanted: Vec<u16> = wanted.collect();
        // Without an answer the port alone has to do.
        let holder = answer.unwrap_or_default().into_iter().find_map(|other| {
            let ports = other.ports.unwrap_or_default();
            let mut published = ports.iter().filter_map(|port| port.public_port);
            let taken = published.find(|port| wanted.contains(port))?;
            let name = other.names?.into_iter().next()?;
            let whose = other.labels.as_ref().and_then(identity::instance);
            Some((taken, name, whose))
        });
        let is_before = |whose: &InstanceId| {
            let InstanceId {
                pipeline, replica, ..
            } = &launch.instance;
            (&whose.pipeline, &whose.replica) == (pipeline, replica) && *whose != launch.instance
        };
        let Some((taken, name, whose)) = holder else {
            return refuse(Refusal::HostPortTaken { port, by });
        };
        let by = format!("container {}", name.trim_start_matches('/'));
        if let Some(before) = whose.filter(is_before) {
            self.inner.hints.raise(before);
            return in_the_way(&format!("host port {taken} is still held by {by}"));
        }
        let port = taken.to_string();
        refuse(Refusal::HostPortTaken { port, by })
    }

    /// Refuses a container whose program its image does not have: its init would start, and hide
    /// that. Whatever cannot be told here is told by the start itself.
    async fn check_program(&self, container: &ContainerSpec, id: &str) -> Result<(), DriverError> {
        let Some(inspected) = self.inner.engine.container(id).await.map_err(lost)? else {
            return Ok(());
        };
        let Some(program) = dialect::program(&inspected) else {
            return Ok(());
        };
        let known = (inspected.image.clone().unwrap_or_default(), program.clone());
        if self.inner.programs().contains(&known) {
            return Ok(());
        }
        for candidate in candidates(&inspected, &program) {
            let answer = self
                .inner
                .engine
                .call(LOOK, |client| async move {
                    let options = Some(ContainerArchiveInfoOptions { path: candidate });
                    client.get_container_archive_info(id, options).await
                })
                .await;
            match answer {
                Ok(_) => {
                    self.inner.programs().insert(known);
                    return Ok(());
                }
                Err(Failure::Answered { status: 404, .. }) => {}
                // It is only a look ahead.
                Err(Failure::Answered { .. }) => return Ok(()),
                Err(failure) => return Err(lost(failure)),
            }
        }
        let image = container.image.clone();
        Err(refuse(Refusal::ExecNotFound { program, image }))
    }

    async fn network(&self, name: &str) -> Result<network::Network, DriverError> {
        let _turn = self.inner.networks.lock().await;
        network::ensure(&self.inner.engine, &self.inner.config.owner, name)
            .await
            .map_err(|failure| failure.unreachable("make a network"))
    }

    /// Makes the named volumes that do not exist yet, so that they carry our mark. Those that lead to
    /// places of the host are judged as mounts of these are.
    async fn make_volumes(
        &self,
        spec: &ComponentSpec,
        file: Option<&Path>,
    ) -> Result<(), DriverError> {
        for volume in &spec.volumes {
            let name = match &volume.source {
                VolumeSource::Named(name) => name,
                VolumeSource::Bind(_) | VolumeSource::Tmpfs => continue,
            };
            let places = self.make_volume(name).await?.into_iter();
            let bound: Vec<Volume> = places
                .map(|place| Volume {
                    source: VolumeSource::Bind(place),
                    ..volume.clone()
                })
                .collect();
            match self.hold_binds(&bound, file, Purpose::Look).await {
                Ok(_) => {}
                Err(DriverError::Refused(mut failure)) => {
                    failure.message = format!("by volume `{name}`: {}", failure.message);
                    return Err(DriverError::Refused(failure));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Judges what a component asks for of its host.
    pub(super) async fn look_at_host(
        &self,
        spec: &ComponentSpec,
        container: &ContainerSpec,
        file: Option<&Path>,
    ) -> Result<(), DriverError> {
        let network = Self::network_of(container);
        power::check_network(network, self.inner.config.privileged).map_err(refuse)?;
        self.hold_binds(&spec.volumes, file, Purpose::Look)
            .await
            .map(drop)
    }

    /// Judges what volumes bind, and holds it so that it stays what it is until
    /// the container has it. An engine on another host has files that are not known here.
    async fn hold_binds(
        &self,
        volumes: &[Volume],
        file: Option<&Path>,
        purpose: Purpose<'_>,
    ) -> Result<Binds, DriverError> {
        let bound: Vec<(&Volume, &Path)> = volumes.iter().filter_map(bound).collect();
        if bound.is_empty() {
            return Ok(Binds::default());
        }
        let inner = &self.inner;
        let is_local = inner.engine.endpoint().is_local();
        match inner.config.privileged {
            Privileged::Allowed => {
                let missing = bound.iter().find(|(_, path)| is_local && !path.exists());
                return match missing {
                    Some((_, path)) => Err(refuse(Refusal::MountMissing(path.to_path_buf()))),
                    None => Ok(Binds::default()),
                };
            }
            Privileged::Refused => {}
        }
        let rules = self.rules(file).await?;
        if !is_local {
            for (volume, path) in bound {
                rules.judge(volume, path, path).map_err(refuse)?;
            }
            return Ok(Binds::default());
        }
        let place = match (purpose, &inner.binds) {
            (Purpose::Mount(instance), Some(folder)) if inner.sees_our_mounts().await => {
                Some(folder.join(instance.to_string()))
            }
            (Purpose::Mount(_) | Purpose::Look, _) => None,
        };
        let volumes = volumes.to_vec();
        let looks = matches!(purpose, Purpose::Look);
        let held = tokio::task::spawn_blocking(move || match looks {
            true => binds::look(&volumes, &rules).map(|()| Binds::default()),
            false => binds::hold(&volumes, &rules, place),
        });
        match tokio::time::timeout(LOOK, held).await {
            Ok(Ok(held)) => held.map_err(refuse),
            Ok(Err(error)) => Err(unreachable(OPERATION, error)),
            Err(_) => Err(unreachable(
                OPERATION,
                format!(
                    "what it mounts cannot be opened within {} s",
                    LOOK.as_secs()
                ),
            )),
        }
    }

    /// What mounts of the pipeline of this file may show.
    async fn rules(&self, file: Option<&Path>) -> Result<Rules, DriverError> {
        let inner = &self.inner;
        let data = inner.about().await.map_err(lost)?.data.as_deref();
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Ok(Rules::on(&Ground {
            allowed: &inner.config.allowed_mounts,
            endpoint: inner.engine.endpoint(),
            data: data.filter(|data| data.is_absolute()),
            state_dir: &inner.config.state_dir,
            home: home.as_deref(),
            file,
        }))
    }

    /// What the engine could not do as it was asked, such as limits that its host does not have.
    fn tell_warnings(&self, launch: &Launch, warnings: &[String]) {
        for warning in warnings.iter().filter(|warning| !warning.is_empty()) {
            tracing::warn!(instance = %launch.instance, warning, "the engine could not do all");
            self.inner
                .hints
                .say(launch.instance.clone(), warning.clone());
        }
    }

    async fn write_secrets(
        &self,
        launch: &Launch,
        image: &Resolved,
        values: BTreeMap<String, Vec<u8>>,
    ) -> Result<Option<PathBuf>, DriverError> {
        let user = launch.spec.user.as_deref().or(image.user.as_deref());
        let reader = Reader::of(user);
        let parent = self.inner.secrets.clone();
        let (instance, spec) = (launch.instance.clone(), launch.spec.clone());
        let written = tokio::task::spawn_blocking(move || {
            secrets::write(&parent, &instance, &spec, reader, &values)
        });
        let written = written
            .await
            .map_err(|error| unreachable(OPERATION, error))?;
        written.map_err(refuse)
    }

    /// The variables of a new container, whose token lies in `token`; later sources win.
    fn variables(
        &self,
        launch: &Launch,
        inputs: &Inputs,
        token: Option<&Path>,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let spec = &launch.spec;
        let mut variables = launch.injected.clone();
        match token {
            // Whoever may look at the container would read it there, and it grows old.
            Some(_) => drop(variables.remove(mapping::TOKEN)),
            None => variables.retain(|_, value| value != mapping::TOKEN_FILE),
        }
        let given = variables::given(spec, &inputs.variables)
            .map_err(|error| refuse(Refusal::Input(StartFailureText(error.into()))))?;
        variables.extend(given);
        for (name, value) in &spec.env {
            let value = ComponentSpec::for_replica(value, launch.instance.replica.replica);
            variables.insert(name.clone(), value);
        }
        variables.insert("FLOWCTL_INSTANCE".to_owned(), launch.instance.to_string());
        if !spec.secrets.is_empty() {
            let dir = mapping::SECRETS.to_owned();
            variables.insert("FLOWCTL_SECRETS_DIR".to_owned(), dir);
        }
        Ok(variables)
    }
}

/// A container that was made, and what it needs until it runs.
pub(super) struct Made {
    pub(super) id: String,
    /// What the gate let it run.
    image: VerifiedImage,
    /// Keeps its network.
    _network: OwnedRwLockReadGuard<()>,
    /// Keep what it mounts where the engine finds it.
    _binds: Binds,
}

/// What the volumes of a component are looked at for.
#[derive(Clone, Copy)]
enum Purpose<'a> {
    /// To know whether they may be mounted.
    Look,
    /// To mount them in the container of this instance.
    Mount(&'a InstanceId),
}

/// What a volume binds of the host.
fn bound(volume: &Volume) -> Option<(&Volume, &Path)> {
    match &volume.source {
        VolumeSource::Bind(path) => Some((volume, path.as_path())),
        VolumeSource::Named(_) | VolumeSource::Tmpfs => None,
    }
}

/// What an earlier call made of an instance.
fn answer(seen: Seen) -> Result<Started, DriverError> {
    let told = (seen.handle(), seen.facts());
    let since = match seen.life {
        Life::NotStarted { failure, .. } => return Err(DriverError::Refused(failure)),
        Life::Created | Life::Pending(_) => {
            return Err(unreachable(OPERATION, "it does not start"));
        }
        Life::Running { since } => since,
        Life::Exited(exit) | Life::RuntimeRestarted(exit) | Life::Disrupted { exit, .. } => {
            exit.started_at.unwrap_or(exit.at)
        }
        Life::Lost { at } | Life::HostReboot { at } => at,
    };
    let health = seen.health;
    Ok(Started::running(told, since, health))
}

/// Where `program` may lie in a container.
fn candidates(inspected: &ContainerInspectResponse, program: &str) -> Vec<String> {
    let config = inspected.config.as_ref();
    let dir = config
        .and_then(|config| config.working_dir.as_deref())
        .filter(|dir| !dir.is_empty())
        .unwrap_or("/");
    if program.starts_with('/') {
        return vec![program.to_owned()];
    }
    if program.contains('/') {
        return vec![format!("{}/{program}", dir.trim_end_matches('/'))];
    }
    let variables = config.and_then(|config| config.env.as_deref());
    let path = variables
        .unwrap_or_default()
        .iter()
        .rev()
        .find_map(|pair| pair.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|entry| if entry.is_empty() { dir } else { entry })
        .map(|entry| format!("{}/{program}", entry.trim_end_matches('/')))
        .collect()
}
