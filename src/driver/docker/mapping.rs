//! From a launch to the container that the engine is asked for. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountBindOptions, MountTmpfsOptions, MountType, NetworkingConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::binds::Binds;
use super::network;
use crate::driver::{CAPABILITIES, Launch};
use crate::manifest::HOST_FROM_CONTAINER;
use crate::model::{
    ComponentSpec, ContainerSpec, LogLimits, Port, Protocol, Resources, Volume, VolumeSource,
};

/// Where a container finds its secrets.
pub(super) const SECRETS: &str = "/run/flowctl/secrets";
/// The variable of a token.
pub(super) const TOKEN: &str = "COMPONENT_TOKEN";
/// Where a container finds its token, and the folder of that.
pub const TOKEN_FILE: &str = "/run/flowctl/token/token";
const TOKEN_DIR: &str = "/run/flowctl/token";
/// Processes and threads of a container that asks for no limit of its own.
const PIDS: u64 = 1_024;

/// What a container is made of.
pub(super) struct Parts<'a> {
    pub(super) launch: &'a Launch,
    pub(super) container: &'a ContainerSpec,
    /// What the image was resolved to.
    pub(super) image: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) network: &'a str,
    /// The host's address on the network.
    pub(super) gateway: Option<IpAddr>,
    pub(super) variables: BTreeMap<String, String>,
    /// Where the engine finds what its volumes bind.
    pub(super) binds: &'a Binds,
    /// Where its secrets lie on this host.
    pub(super) secrets: Option<PathBuf>,
    /// Where its token lies on this host.
    pub(super) token: Option<PathBuf>,
}

/// The container that `parts` describe.
pub(super) fn container(parts: Parts<'_>) -> ContainerCreateBody {
    let Parts {
        launch,
        container,
        image,
        labels,
        network,
        gateway,
        variables,
        binds,
        secrets,
        token,
    } = parts;
    let spec = &launch.spec;
    let replica = &launch.instance.replica;
    let fill = |text: &String| ComponentSpec::for_replica(text, replica.replica);
    let command: Vec<String> = container.command.iter().flatten().map(fill).collect();
    let words: Vec<String> = command
        .into_iter()
        .chain(container.args.iter().map(fill))
        .collect();
    let volumes = spec.volumes.iter().enumerate();
    let mut mounts: Vec<Mount> = volumes
        .map(|(number, volume)| mount(volume, binds.source(number)))
        .collect();
    if let Some(dir) = &token {
        mounts.push(bind(dir, TOKEN_DIR.to_owned(), ReadOnly::Yes));
    }
    if let Some(dir) = &secrets {
        mounts.push(bind(dir, SECRETS.to_owned(), ReadOnly::Yes));
        let further = spec.secrets.iter().filter_map(|secret| {
            let path = secret.container_path.clone()?;
            Some(bind(&dir.join(&secret.name), path, ReadOnly::Yes))
        });
        mounts.extend(further);
    }
    // On the host's own network the host is loopback.
    let of_host = match network {
        network::HOST => Some(Ipv4Addr::LOCALHOST.into()),
        _ => gateway,
    };
    let extra_hosts = of_host.map(|host| vec![format!("{HOST_FROM_CONTAINER}:{host}")]);
    let host = HostConfig {
        network_mode: Some(network.to_owned()),
        port_bindings: Some(bindings(&spec.ports)),
        mounts: Some(mounts),
        extra_hosts,
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(log_config(spec.logs)),
        init: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).into()),
        security_opt: (!spec.allow_new_privileges).then(|| vec!["no-new-privileges".to_owned()]),
        ..limits(&spec.resources)
    };
    let endpoint = EndpointSettings {
        aliases: Some(replica.container_aliases()),
        ..EndpointSettings::default()
    };
    let networks = [(network.to_owned(), endpoint)];
    ContainerCreateBody {
        image: Some(image),
        cmd: Some(words).filter(|words| !words.is_empty()),
        env: Some(
            variables
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        user: spec.user.clone(),
        working_dir: container.working_dir.as_ref().map(fill),
        labels: Some(labels),
        exposed_ports: Some(spec.ports.iter().map(exposed).collect()),
        stop_signal: spec.stop.signal.map(|signal| signal.number().to_string()),
        // A probe of the file decides; two judges would contradict each other.
        healthcheck: spec.probes.readiness.as_ref().map(|_| HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host),
        networking_config: network::has_aliases(network).then(|| NetworkingConfig {
            endpoints_config: Some(networks.into()),
        }),
        ..ContainerCreateBody::default()
    }
}

/// Limits, and what is set aside.
fn limits(resources: &Resources) -> HostConfig {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let memory = resources.memory_limit_bytes.map(signed);
    HostConfig {
        memory,
        // As much as memory alone: a limit that swap undoes is none.
        memory_swap: memory,
        memory_reservation: resources.memory_request_bytes.map(signed),
        nano_cpus: resources
            .cpu_limit_millis
            .map(|millis| signed(millis.saturating_mul(1_000_000))),
        // 1024 shares are one core; 2 is the least that the kernel takes.
        cpu_shares: resources
            .cpu_request_millis
            .map(|millis| signed(millis.saturating_mul(1_024) / 1_000).max(2)),
        pids_limit: Some(signed(resources.pids_limit.unwrap_or(PIDS))),
        ..HostConfig::default()
    }
}

/// The engine's own copy of the output. It is a buffer for ours, and what `docker logs` shows.
fn log_config(limits: LogLimits) -> HostConfigLogConfig {
    // The engine needs a second file to rotate at all.
    let files = limits.max_files.max(2);
    let options = [
        ("max-size", limits.max_size_bytes.max(1).to_string()),
        ("max-file", files.to_string()),
    ];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value)).into()),
    }
}

fn exposed(port: &Port) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    format!("{}/{protocol}", port.container_port)
}

fn bindings(ports: &[Port]) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in ports {
        let Some(host_port) = port.host_port else {
            continue;
        };
        let address = port
            .host_ip
            .map_or("127.0.0.1".to_owned(), |ip| ip.to_string());
        let binding = PortBinding {
            host_ip: Some(address),
            host_port: Some(host_port.to_string()),
        };
        bindings
            .entry(exposed(port))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    bindings
}

/// Whether a mount can be written to.
enum ReadOnly {
    Yes,
    No,
}

fn bind(source: &Path, target: String, read_only: ReadOnly) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target),
        read_only: Some(match read_only {
            ReadOnly::Yes => true,
            ReadOnly::No => false,
        }),
        bind_options: Some(MountBindOptions::default()),
        ..Mount::default()
    }
}

/// `source` is where the engine finds what the volume binds, where that is not as it is written.
fn mount(volume: &Volume, source: Option<&Path>) -> Mount {
    let target = volume.target.clone();
    match &volume.source {
        VolumeSource::Bind(path) => {
            let read_only = if volume.read_only {
                ReadOnly::Yes
            } else {
                ReadOnly::No
            };
            bind(source.unwrap_or(path), target, read_only)
        }
        VolumeSource::Named(name) => Mount {
            typ: Some(MountType::VOLUME),
            source: Some(name.clone()),
            target: Some(target),
            read_only: Some(volume.read_only),
            ..Mount::default()
        },
        VolumeSource::Tmpfs => Mount {
            typ: Some(MountType::TMPFS),
            target: Some(target),
            read_only: Some(volume.read_only),
            tmpfs_options: Some(MountTmpfsOptions::default()),
            ..Mount::default()
        },
    }
}
