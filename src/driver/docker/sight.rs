//! What the engine says of containers, as sightings.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, HealthConfig, HealthStatusEnum, NetworkSettings,
};

use serde::Serialize;

use super::engine::Failure;
use super::{identity, network};
use crate::driver::Description;
use crate::model::{
    ComponentSpec, DriverKind, EngineHealth, Exit, ExitStatus, Facts, Handle, InstanceId, Life,
    Sighting, Signal, StartFailure, StopPolicy, Timestamp, Workload,
};

use super::failure::Refusal;

/// How much later than it should be the first result of a check may come.
const SPARE: Duration = Duration::from_secs(10);
/// Characters that are kept of what a check says.
const LONGEST_WORDS: usize = 300;

/// A container of ours, as the engine described it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) instance: InstanceId,
    /// What it was started from; `None` when its labels cannot be read.
    pub(super) description: Option<Description>,
    pub(super) life: Life,
    pub(super) paused: bool,
    /// What the engine says of its health, if it runs and its image has a check.
    pub(super) health: Option<EngineHealth>,
    /// Its first process, as the engine counts, if it runs.
    pub(super) pid: Option<u32>,
    /// Where it can be reached from this host.
    pub(super) reach: Reach,
    /// The boot of the host in which it was made, if it says so.
    pub(super) boot: Option<String>,
    /// What its image says that asks it to end, unless the file said it.
    stop_signal: Option<Signal>,
    /// What its image was resolved to when it was made.
    pub(super) image: Option<String>,
    /// The engine's id of its image.
    pub(super) image_id: Option<String>,
    /// A file that the engine keeps for it, as the engine's host calls it.
    pub(super) record: Option<PathBuf>,
}

/// How a container is addressed, as it is kept.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Kept<'a> {
    /// By its full id.
    Docker {
        container: &'a str,
        /// The image that it runs: `repository@digest`, or an id. `None` = not known.
        #[serde(skip_serializing_if = "Option::is_none")]
        image: Option<&'a str>,
    },
}

/// Where a container can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// TCP ports published on this host.
    published: HashMap<u16, SocketAddr>,
    /// Its own address on its network.
    address: Option<IpAddr>,
}

impl Reach {
    /// Where `port` answers.
    pub(super) fn port(&self, port: u16) -> Option<SocketAddr> {
        let published = self.published.get(&port).copied();
        published.or_else(|| Some(SocketAddr::new(self.address?, port)))
    }

    /// Whether it is on the host's own network.
    pub(super) fn is_on_host(&self) -> bool {
        self.address.is_some_and(|address| address.is_loopback())
    }

    /// By how it is connected and what the engine made of that.
    fn of(mode: Option<&str>, settings: Option<&NetworkSettings>) -> Self {
        // Podman lists the host's own network nowhere else.
        if mode == Some(network::HOST) {
            return Self {
                published: HashMap::new(),
                address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            };
        }
        let Some(settings) = settings else {
            return Self::default();
        };
        let ports = settings.ports.iter().flatten();
        let published = ports.filter_map(|(name, bindings)| {
            let port = name.strip_suffix("/tcp")?.parse().ok()?;
            let binding = bindings.as_ref()?.first()?;
            let ip: IpAddr = binding.host_ip.as_deref()?.parse().ok()?;
            let ip = match ip {
                IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
                ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
            };
            let host_port = binding.host_port.as_deref()?.parse().ok()?;
            Some((port, SocketAddr::new(ip, host_port)))
        });
        let networks = settings.networks.iter().flatten();
        let mut addresses: Vec<IpAddr> = networks
            .filter_map(|(_, endpoint)| endpoint.ip_address.as_deref()?.parse().ok())
            .collect();
        addresses.sort();
        Self {
            published: published.collect(),
            address: addresses.into_iter().next(),
        }
    }
}

impl Seen {
    /// Reads what the engine says; `None` when it is no instance.
    ///
    /// # Errors
    /// When the answer leaves open whether it runs: that is no absence.
    pub(super) fn read(
        inspected: ContainerInspectResponse,
        now: Timestamp,
    ) -> Result<Option<Self>, Failure> {
        let config = inspected.config.unwrap_or_default();
        let labels = config.labels.unwrap_or_default();
        let Some(instance) = identity::instance(&labels) else {
            return Ok(None);
        };
        let description = match identity::read(&labels) {
            Ok(description) => Some(description),
            Err(why) => {
                tracing::warn!(%instance, why, "a container does not say what it was started from");
                None
            }
        };
        let state = inspected.state.unwrap_or_default();
        let program = inspected.path.unwrap_or_default();
        let image = config.image.unwrap_or_default();
        let spec = description.as_ref().map(|it| &*it.spec);
        let senseless = || {
            Failure::Silent(format!(
                "the engine does not say in what state {instance} is"
            ))
        };
        let id = inspected.id.ok_or_else(senseless)?;
        let mode = inspected.host_config.and_then(|config| config.network_mode);
        // By its name it can be nobody else's.
        let record = inspected.hostname_path.filter(|path| path.contains(&id));
        Ok(Some(Self {
            id,
            life: life(&state, &program, &image, spec, now).ok_or_else(senseless)?,
            instance,
            description,
            paused: state.paused == Some(true),
            health: health(&state, config.healthcheck.as_ref(), now),
            pid: state
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid > 0),
            reach: Reach::of(mode.as_deref(), inspected.network_settings.as_ref()),
            boot: identity::boot(&labels),
            // One that is not understood here is as none: then the engine's default is ours.
            stop_signal: config.stop_signal.and_then(|signal| signal.parse().ok()),
            image: labels.get(identity::IMAGE).cloned(),
            image_id: inspected.image,
            record: record.map(PathBuf::from),
        }))
    }

    /// What a list alone tells of a container that does not run, and how it ended is not known;
    /// `None` when it may run, or is no instance.
    pub(super) fn ended(listed: &ContainerSummary, at: Timestamp) -> Option<Self> {
        match listed.state? {
            ContainerSummaryStateEnum::EXITED
            | ContainerSummaryStateEnum::DEAD
            | ContainerSummaryStateEnum::REMOVING => {}
            ContainerSummaryStateEnum::EMPTY
            | ContainerSummaryStateEnum::CREATED
            | ContainerSummaryStateEnum::RUNNING
            | ContainerSummaryStateEnum::PAUSED
            | ContainerSummaryStateEnum::RESTARTING
            | ContainerSummaryStateEnum::STOPPING => return None,
        }
        let labels = listed.labels.as_ref()?;
        Some(Self {
            id: listed.id.clone()?,
            instance: identity::instance(labels)?,
            description: identity::read(labels).ok(),
            life: Life::Lost { at },
            paused: false,
            health: None,
            pid: None,
            reach: Reach::default(),
            boot: identity::boot(labels),
            stop_signal: None,
            image: labels.get(identity::IMAGE).cloned(),
            image_id: listed.image_id.clone(),
            record: None,
        })
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::new(&Kept::Docker {
            container: &self.id,
            image: self.image.as_deref(),
        })
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            container: Some(self.id.clone()),
            image: self.image.clone(),
            ..Facts::default()
        }
    }

    /// What asks it to end: the file's word, the image's, or what every program knows.
    pub(super) fn asked_to_end_by(&self, how: &StopPolicy) -> Signal {
        let said = how.signal.or(self.stop_signal);
        said.unwrap_or_else(|| how.signal_or_term())
    }

    /// Its image's name, as the file had it.
    pub(super) fn image_name(&self) -> Option<&str> {
        match &self.description.as_ref()?.spec.workload {
            Workload::Docker(container) => Some(&container.image),
            Workload::Process(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => None,
        }
    }

    /// What is told of it, where `images` says what each name means now.
    pub(super) fn sighting(&self, images: &HashMap<String, String>) -> Sighting {
        let means = self.image_name().and_then(|name| images.get(name));
        let spec = self.description.as_ref().map(|it| &*it.spec);
        Sighting {
            handle: Some(self.handle()),
            facts: self.facts(),
            outdated: means.is_some() && means != self.image_id.as_ref(),
            health: self.health.clone(),
            ..Sighting::of(
                self.instance.clone(),
                DriverKind::Docker,
                spec,
                self.life.clone(),
            )
        }
    }
}

/// What the engine says of a running container's health; `None` when nothing is checked, or the engine
/// does not run the check: Podman's needs a systemd.
fn health(
    state: &ContainerState,
    check: Option<&HealthConfig>,
    now: Timestamp,
) -> Option<EngineHealth> {
    if state.status != Some(ContainerStateStatusEnum::RUNNING) {
        return None;
    }
    let said = state.health.as_ref()?;
    let last = said.log.iter().flatten().last();
    match said.status? {
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
        HealthStatusEnum::HEALTHY => Some(EngineHealth::Healthy),
        HealthStatusEnum::UNHEALTHY => {
            let output = last.and_then(|result| result.output.as_deref());
            let words = output.unwrap_or_default().trim();
            let words: String = words.chars().take(LONGEST_WORDS).collect();
            Some(EngineHealth::Unhealthy(words))
        }
        HealthStatusEnum::STARTING => {
            let first = time(state.started_at.as_deref()).map(|at| at.after(first_result(check)));
            let is_run = last.is_some() || first.is_none_or(|first| now < first);
            is_run.then_some(EngineHealth::Starting)
        }
    }
}

/// After how long the first result of an image's check is there, with time to spare.
fn first_result(check: Option<&HealthConfig>) -> Duration {
    let nanos = |nanos: Option<i64>, default| match nanos.and_then(|n| u64::try_from(n).ok()) {
        Some(nanos) if nanos > 0 => Duration::from_nanos(nanos),
        Some(_) | None => default,
    };
    // Docker's own defaults.
    let interval = nanos(check.and_then(|it| it.interval), Duration::from_secs(30));
    let timeout = nanos(check.and_then(|it| it.timeout), Duration::from_secs(30));
    interval + timeout + SPARE
}

/// What a container's state means; `None` when it means nothing to us.
fn life(
    state: &ContainerState,
    program: &str,
    image: &str,
    spec: Option<&ComponentSpec>,
    now: Timestamp,
) -> Option<Life> {
    let started = time(state.started_at.as_deref());
    let ended = time(state.finished_at.as_deref());
    let exit = |started_at| {
        Life::Exited(Exit {
            status: state
                .exit_code
                .and_then(|code| i32::try_from(code).ok())
                .map_or(ExitStatus::Unknown, ExitStatus::Code),
            oom: state.oom_killed == Some(true),
            started_at,
            at: ended.unwrap_or(now),
            killed: 0,
        })
    };
    match state.status? {
        ContainerStateStatusEnum::CREATED => {
            let error = state.error.as_deref().filter(|error| !error.is_empty());
            Some(match error {
                None => Life::Created,
                Some(error) => Life::NotStarted {
                    failure: StartFailure::from(Refusal::of_start(error, program, image, spec)),
                    at: ended.unwrap_or(now),
                },
            })
        }
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::RESTARTING
        | ContainerStateStatusEnum::STOPPING => Some(Life::Running {
            since: started.unwrap_or(now),
        }),
        // One that could not be started is removed as well: it has not ended, and succeeded least.
        ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING
            if started.is_none() =>
        {
            Some(Life::Created)
        }
        // A container that is being removed ran, and does no more.
        ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::DEAD
        | ContainerStateStatusEnum::REMOVING => Some(exit(started)),
        ContainerStateStatusEnum::EMPTY => None,
    }
}

/// A time of the engine's; its zero means never.
pub(super) fn time(text: Option<&str>) -> Option<Timestamp> {
    let text = text.filter(|text| !text.starts_with("0001-"))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(json: &str) -> ContainerState {
        serde_json::from_str(json).unwrap()
    }

    fn life_of(json: &str) -> Option<Life> {
        life(&state(json), "p", "i", None, Timestamp::from_millis(7))
    }

    #[test]
    fn a_state_becomes_a_life() {
        let zero = "0001-01-01T00:00:00Z";
        let created = format!(r#"{{"Status":"created","StartedAt":"{zero}","Error":""}}"#);
        assert_eq!(life_of(&created), Some(Life::Created));
        let failed = r#"{"Status":"created","ExitCode":127,"Error":"exec: \"x\": executable file not found in $PATH"}"#;
        let Some(Life::NotStarted { failure, .. }) = life_of(failed) else {
            panic!("{:?}", life_of(failed));
        };
        assert_eq!(failure.reason, "ExecNotFound");
        let exited = r#"{"Status":"exited","ExitCode":137,"OOMKilled":true,
            "StartedAt":"1970-01-01T00:00:01Z","FinishedAt":"1970-01-01T00:00:02.5Z"}"#;
        let exit = Exit {
            status: ExitStatus::Code(137),
            oom: true,
            started_at: Some(Timestamp::from_millis(1_000)),
            at: Timestamp::from_millis(2_500),
            killed: 0,
        };
        assert_eq!(life_of(exited), Some(Life::Exited(exit)));
        // What is removed since its program is not there has not run.
        let removed = format!(r#"{{"Status":"removing","ExitCode":0,"StartedAt":"{zero}"}}"#);
        assert_eq!(life_of(&removed), Some(Life::Created));
        assert_eq!(
            life_of(&exited.replace("exited", "removing")),
            life_of(exited)
        );
        assert_eq!(life_of("{}"), None);
    }
}
