//! What can be known to be wrong before anything is touched: a program that is not there, a port
//! that a stranger holds.
//!
//! **Guarantees.** [`preflight`] changes nothing, starts nothing and connects to nothing. It
//! reports all problems of all components in one list, in the order of their names, each once.
//! What it cannot know (files and users inside a container, a user of a directory service) it
//! does not report.
//!
//! **Assumptions.** It reads files and `/proc`, so it may block: async callers run it on a thread
//! of its own. Its answer is about now; what happens between it and a start is the driver's to
//! tell.

mod account;
mod files;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{
    ComponentId, ComponentSpec, InstanceId, PipelineKey, PipelineSpec, PipelineStatus, Port,
    ProcessSpec, Protocol, SecretSource, Snapshot, SpecHash, Workload,
};

use account::{Account, Accounts};
use files::Trouble;
use ports::{Holder, Sockets};

/// Something that would keep a component from running.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PreflightProblem {
    /// In which pipeline.
    pub pipeline: PipelineKey,
    /// Which component.
    pub component: ComponentId,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for PreflightProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.component, self.what, self.hint)
    }
}

/// An instance of ours that runs now, as far as its ports go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which one.
    pub instance: InstanceId,
    /// The revision that it runs; `None` = not known.
    pub spec: Option<SpecHash>,
    /// The process of its program; `None` for one that runs elsewhere, as in a container.
    pub pid: Option<u32>,
    /// The host's ports that are its own.
    pub ports: BTreeSet<u16>,
}

impl Running {
    /// Every running instance of `snapshot`.
    pub fn all(snapshot: &Snapshot) -> Vec<Self> {
        let pipelines = snapshot.pipelines.iter();
        pipelines.flat_map(|status| Self::of(status)).collect()
    }

    fn of(status: &PipelineStatus) -> impl Iterator<Item = Self> {
        let components = status.components.iter();
        let replicas = components.flat_map(|component| &component.replicas);
        replicas
            .filter(|replica| replica.pid.is_some() || replica.container.is_some())
            .filter_map(|replica| {
                let addresses = replica.addresses.values();
                Some(Self {
                    instance: replica.instance.clone()?,
                    spec: replica.spec.clone(),
                    pid: replica.pid,
                    ports: addresses
                        .filter_map(|address| address.rsplit_once(':')?.1.parse().ok())
                        .collect(),
                })
            })
    }

    fn is_of(&self, pipeline: &PipelineKey, component: &ComponentId) -> bool {
        self.instance.pipeline == *pipeline && self.instance.replica.component == *component
    }
}

/// What would keep these pipelines from running, beside `running`, what already does.
/// `search_path` is the daemon's own PATH; a component's `env` may name another.
///
/// A component of which nothing is to be started, since it runs as it is wanted, is not looked at.
pub fn preflight(
    pipelines: &[&PipelineSpec],
    running: &[Running],
    search_path: Option<&OsStr>,
) -> Vec<PreflightProblem> {
    let host = Host {
        search_path: search_path.unwrap_or(OsStr::new(files::DEFAULT_PATH)),
        accounts: Accounts::read(),
        sockets: Sockets::read(),
    };
    let mut problems = BTreeSet::new();
    for pipeline in pipelines {
        for spec in pipeline.components.values() {
            if runs_as_wanted(running, &pipeline.key, spec) {
                continue;
            }
            let mut list = List {
                pipeline: &pipeline.key,
                component: &spec.id,
                problems: &mut problems,
            };
            match &spec.workload {
                Workload::Process(process) => check_process(&host, spec, process, &mut list),
                // What is inside of an image is the engine's to know.
                Workload::Docker(_) | Workload::Nomad(_) | Workload::Kubernetes(_) => {}
            }
            for secret in &spec.secrets {
                if let SecretSource::File(path) = &secret.source {
                    let trouble = files::readable(path).err();
                    list.add(trouble, || format!("secret {}", secret.name));
                }
            }
            for port in &spec.ports {
                check_port(&host, pipelines, running, &spec.workload, port, &mut list);
            }
        }
    }
    problems.into_iter().collect()
}

fn runs_as_wanted(running: &[Running], pipeline: &PipelineKey, spec: &ComponentSpec) -> bool {
    let same = running
        .iter()
        .filter(|one| one.is_of(pipeline, &spec.id) && one.spec.as_ref() == Some(&spec.hash));
    u32::try_from(same.count()).is_ok_and(|count| count >= spec.replicas)
}

/// What is read of this host once.
struct Host<'a> {
    search_path: &'a OsStr,
    accounts: Accounts,
    sockets: Sockets,
}

/// Where the problems of one component go.
struct List<'a> {
    pipeline: &'a PipelineKey,
    component: &'a ComponentId,
    problems: &'a mut BTreeSet<PreflightProblem>,
}

impl List<'_> {
    fn add(&mut self, trouble: Option<Trouble>, subject: impl FnOnce() -> String) {
        if let Some(Trouble { what, hint }) = trouble {
            self.problems.insert(PreflightProblem {
                pipeline: self.pipeline.clone(),
                component: self.component.clone(),
                what: format!("{} {what}", subject()),
                hint: hint.to_owned(),
            });
        }
    }
}

fn check_process(
    host: &Host<'_>,
    spec: &ComponentSpec,
    process: &ProcessSpec,
    list: &mut List<'_>,
) {
    let account = match spec.user.as_deref().map(|user| host.accounts.find(user)) {
        None => Some(Account::Own),
        Some(Ok(account)) => account,
        Some(Err(trouble)) => {
            list.add(Some(trouble), || "user".to_owned());
            None
        }
    };
    let mut file_path = None;
    for path in &spec.env_file {
        let read = files::env_file_path(path);
        match read {
            Ok(found) => file_path = found.or(file_path),
            Err(trouble) => list.add(Some(trouble), || format!("env_file {}", path.display())),
        }
    }
    // Without an account nothing can be said about what it may execute.
    let Some(account) = account else {
        return;
    };
    for launch in launches(spec, process, host.search_path, file_path.as_deref()) {
        let dir = launch.working_dir.display();
        match files::folder(&launch.working_dir, &account) {
            Err(trouble) => list.add(Some(trouble), || format!("working_dir {dir}")),
            Ok(()) => {
                let program = launch.program.as_str();
                let found = files::program(program, &launch.path, &launch.working_dir, &account);
                list.add(found.err(), || format!("program {program}"));
            }
        }
    }
}

/// What one replica is started from.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LaunchFiles {
    program: String,
    working_dir: PathBuf,
    path: OsString,
}

/// The different ones of all replicas: one, unless something names the replica's number.
fn launches(
    spec: &ComponentSpec,
    process: &ProcessSpec,
    search_path: &OsStr,
    file_path: Option<&str>,
) -> BTreeSet<LaunchFiles> {
    let launch = |replica| {
        let fill = |text: &str| ComponentSpec::for_replica(text, replica);
        let own = spec.env.get("PATH").map(|path| fill(path));
        LaunchFiles {
            program: fill(&process.program),
            working_dir: match process.working_dir.to_str() {
                Some(text) => fill(text).into(),
                None => process.working_dir.clone(),
            },
            path: own
                .as_deref()
                .or(file_path)
                .map_or_else(|| search_path.to_owned(), OsString::from),
        }
    };
    (0..spec.replicas).map(launch).collect()
}

fn check_port(
    host: &Host<'_>,
    pipelines: &[&PipelineSpec],
    running: &[Running],
    workload: &Workload,
    port: &Port,
    list: &mut List<'_>,
) {
    let Some((number, address)) = ports::on_host(workload, port) else {
        return;
    };
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        // The kernel does not show who holds an SCTP port.
        Protocol::Sctp => return,
    };
    let subject = || format!("port {number}/{protocol}");
    let twin = wanted_before(pipelines, list.pipeline, port, number);
    if let Some((pipeline, component)) = twin {
        let what = format!("is wanted by {component} of pipeline {pipeline}, too");
        list.add(Some(Trouble::new(what, PORT_HINT)), subject);
    }
    let own = running
        .iter()
        .filter(|one| one.is_of(list.pipeline, list.component));
    let own: Vec<_> = own.collect();
    for socket in host.sockets.taking(port.protocol, number, address) {
        let holders = host.sockets.holders_of(socket);
        if holders.is_empty() && socket.is_gone() {
            continue;
        }
        let ours = |one: &Running| {
            one.pid
                .is_some_and(|pid| holders.iter().any(|holder| holder.belongs_to(pid)))
        };
        // A container's port is held by its engine, or by nobody who can be seen.
        let engine = own
            .iter()
            .any(|one| one.pid.is_none() && one.ports.contains(&number));
        let unseen = holders.is_empty() && own.iter().any(|one| one.ports.contains(&number));
        if engine || unseen || own.iter().any(|one| ours(one)) {
            continue;
        }
        let other = running.iter().find(|one| ours(one));
        if other.is_some_and(|other| gives_up(pipelines, other, port.protocol, number)) {
            continue;
        }
        let what = match (other, holders.first()) {
            (Some(other), _) => format!(
                "is held by {} of pipeline {}",
                other.instance.replica, other.instance.pipeline
            ),
            (None, Some(Holder { pid, command })) => format!("is held by pid {pid} ({command})"),
            (None, None) => "is held by a process of another user".to_owned(),
        };
        list.add(Some(Trouble::new(what, PORT_HINT)), subject);
        return;
    }
}

const PORT_HINT: &str = "stop that, or give this component another port";

/// Whether what is about to be applied takes this port from a running component of ours.
fn gives_up(
    pipelines: &[&PipelineSpec],
    holder: &Running,
    protocol: Protocol,
    number: u16,
) -> bool {
    let InstanceId {
        pipeline, replica, ..
    } = &holder.instance;
    let applied = pipelines.iter().find(|one| one.key == *pipeline);
    applied.is_some_and(|applied| {
        let spec = applied.components.get(&replica.component);
        !spec.is_some_and(|spec| wants(spec, protocol, number))
    })
}

/// Which component of a pipeline before this one wants the same port. Within one pipeline the
/// manifest's own check has told.
fn wanted_before<'a>(
    pipelines: &[&'a PipelineSpec],
    this: &PipelineKey,
    port: &Port,
    number: u16,
) -> Option<(&'a PipelineKey, &'a ComponentId)> {
    let before = pipelines
        .iter()
        .take_while(|pipeline| pipeline.key != *this);
    let components = before.flat_map(|pipeline| {
        let specs: &BTreeMap<_, _> = &pipeline.components;
        specs.values().map(move |spec| (&pipeline.key, spec))
    });
    components
        .filter(|(_, spec)| wants(spec, port.protocol, number))
        .map(|(pipeline, spec)| (pipeline, &spec.id))
        .next()
}

fn wants(spec: &ComponentSpec, protocol: Protocol, number: u16) -> bool {
    spec.ports.iter().any(|port| {
        let wanted = ports::on_host(&spec.workload, port);
        port.protocol == protocol && wanted.is_some_and(|(wanted, _)| wanted == number)
    })
}
