//! What a job and its placements mean. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::{self, MAIN};
use super::placement::Room;
use super::wire::{Allocation, Job, TaskState, at};
use crate::driver::Description;
use crate::model::{
    ComponentSpec, Disruption, DisruptionKind, DriverKind, EarlierEnd, Exit, ExitStatus, Facts,
    Handle, InstanceId, Life, Partition, Pending, Port, Sighting, Signal, StartFailure, StopPolicy,
    Timestamp, Workload,
};

/// A container whose init could not begin its program ends sooner than this.
const BRIEF: Duration = Duration::from_secs(10);

/// One instance as its cluster has it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) job: Job,
    pub(super) instance: InstanceId,
    /// What it was started from; `None` = its meta cannot be understood.
    pub(super) description: Option<Arc<Description>>,
    /// Its placements, the latest last.
    pub(super) placements: Vec<Allocation>,
    pub(super) life: Life,
    /// Whether it is known that it has no place.
    pub(super) room: Room,
    /// Why nothing is known of it: its node does not report.
    pub(super) hidden: Option<String>,
}

/// Whether we have asked for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// We have.
    Yes,
    /// Whatever ends it is somebody else, or itself.
    No,
}

/// How a job is addressed, as it is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kept {
    /// By its id and where that means something.
    Nomad {
        address: String,
        namespace: String,
        job: String,
    },
}

impl Seen {
    /// Reads a job of ours and its placements, in any order.
    pub(super) fn of(
        job: Job,
        description: Option<Arc<Description>>,
        mut placements: Vec<Allocation>,
        asked: Asked,
        now: Timestamp,
    ) -> Option<Self> {
        let instance = names::instance(&job)?;
        placements.sort_by_key(|it| it.create_index);
        let hidden = placements.last().and_then(|latest| {
            (latest.client_status == "unknown").then(|| {
                format!(
                    "node {} has lost contact with Nomad's servers",
                    latest.node_name
                )
            })
        });
        let spec = description.as_ref().map(|it| Arc::clone(&it.spec));
        let life = life(&job, placements.last(), spec.as_deref(), asked, now);
        Some(Self {
            job,
            instance,
            description,
            placements,
            life,
            room: Room::Unknown,
            hidden,
        })
    }

    /// The placement of one that ended so soon, and so, that its program may not have begun.
    pub(super) fn may_not_have_begun(&self) -> Option<String> {
        let Life::Exited(exit) = &self.life else {
            return None;
        };
        let is_such = matches!(exit.status, ExitStatus::Code(126 | 127));
        let is_brief = exit
            .started_at
            .is_some_and(|began| exit.at.since(began) < BRIEF);
        (is_such && is_brief).then(|| self.latest().map(|it| it.id.clone()))?
    }

    /// Takes in what it has `said`: whether it was the init of the container, which could not begin its
    /// program.
    pub(super) fn without_program(&mut self, said: &str) {
        let Life::Exited(exit) = &self.life else {
            return;
        };
        let Some(failure) = not_executed(said, self.spec()) else {
            return;
        };
        let at = exit.at;
        self.life = Life::NotStarted { failure, at };
    }

    pub(super) fn latest(&self) -> Option<&Allocation> {
        self.placements.last()
    }

    pub(super) fn spec(&self) -> Option<&ComponentSpec> {
        self.description.as_ref().map(|it| &*it.spec)
    }

    /// How it is stopped by what it was started with.
    pub(super) fn stop(&self) -> StopPolicy {
        self.spec()
            .map_or_else(StopPolicy::default, |spec| spec.stop)
    }

    /// Where each port that it was given is reached, by the port's name in its file.
    pub(super) fn addresses(&self) -> BTreeMap<String, String> {
        let ports = self.spec().map_or(&[][..], |spec| &spec.ports);
        let each = ports.iter().filter_map(|port| {
            let name = port
                .name
                .clone()
                .unwrap_or_else(|| port.container_port.to_string());
            Some((name, self.reach(port)?))
        });
        each.collect()
    }

    /// Where `port` is reached.
    pub(super) fn reach(&self, port: &Port) -> Option<String> {
        let label = super::job::label(port);
        let ports = &self.latest()?.allocated_resources.shared.ports;
        let given = ports.iter().find(|given| given.label == label)?;
        match given.host_ip.contains(':') {
            true => Some(format!("[{}]:{}", given.host_ip, given.value)),
            false => Some(format!("{}:{}", given.host_ip, given.value)),
        }
    }

    pub(super) fn handle(&self, address: &str, namespace: &str) -> Handle {
        Handle::new(&Kept::Nomad {
            address: address.to_owned(),
            namespace: namespace.to_owned(),
            job: self.job.id.clone(),
        })
    }

    pub(super) fn facts(&self) -> Facts {
        let image = self.spec().and_then(|spec| spec.workload.image());
        Facts {
            name: Some(self.job.id.clone()),
            image: image.map(str::to_owned),
            node: self
                .latest()
                .map(|it| it.node_name.clone())
                .filter(|it| !it.is_empty()),
            addresses: self.addresses(),
            ..Facts::default()
        }
    }

    /// The ends of the placements before the latest: Nomad has made a new one by itself.
    fn earlier(&self, now: Timestamp) -> Vec<EarlierEnd> {
        let Some((_, before)) = self.placements.split_last() else {
            return Vec::new();
        };
        let ended = before.iter().filter(|it| is_over(it));
        ended
            .map(|one| {
                let exit = exit(one, now);
                EarlierEnd {
                    id: one.id.clone(),
                    exit,
                    disruption: disruption(&self.job, one),
                }
            })
            .collect()
    }

    pub(super) fn sighting(&self, address: &str, namespace: &str, now: Timestamp) -> Sighting {
        let spec = self.spec();
        Sighting {
            handle: Some(self.handle(address, namespace)),
            facts: self.facts(),
            stop: self.stop(),
            partition: spec.and_then(|spec| partition(&spec.workload)),
            earlier: self.earlier(now),
            ..Sighting::of(
                self.instance.clone(),
                DriverKind::Nomad,
                spec,
                self.life.clone(),
            )
        }
    }
}

/// In which part of its cluster a workload is.
pub(super) fn partition(workload: &Workload) -> Option<Partition> {
    workload.partition()
}

/// Whether nothing of a placement runs any more.
fn is_over(placement: &Allocation) -> bool {
    match placement.client_status.as_str() {
        "complete" | "failed" | "lost" => true,
        // Nobody has begun it, and nobody will.
        "pending" => {
            placement.desired_status != "run"
                && placement.task_states.is_empty()
                && placement.node_id.is_empty()
        }
        _ => placement
            .task_states
            .get(MAIN)
            .is_some_and(|task| task.state == "dead" && task.finished().is_some()),
    }
}

fn life(
    job: &Job,
    latest: Option<&Allocation>,
    spec: Option<&ComponentSpec>,
    asked: Asked,
    now: Timestamp,
) -> Life {
    let submitted = at(job.submit_time).unwrap_or(now);
    let Some(latest) = latest else {
        return match job.stop {
            true => Life::Disrupted {
                exit: Exit::unknown(None, now),
                disruption: Disruption {
                    kind: DisruptionKind::DeletedByHand,
                    message: Some("its job was stopped before it had a place".to_owned()),
                },
            },
            false => Life::Pending(Pending {
                since: submitted,
                why: None,
            }),
        };
    };
    if !is_over(latest) {
        let task = latest.task_states.get(MAIN);
        let began = task
            .filter(|task| task.state == "running")
            .and_then(TaskState::started);
        return match began {
            Some(since) => Life::Running { since },
            None => Life::Pending(Pending {
                since: at(latest.create_time).unwrap_or(submitted),
                why: Some(doing(latest)),
            }),
        };
    }
    let exit = exit(latest, now);
    if asked == Asked::Yes {
        return Life::Exited(exit);
    }
    if let Some(disruption) = disruption(job, latest) {
        return Life::Disrupted { exit, disruption };
    }
    let Some(task) = latest.task_states.get(MAIN) else {
        let failure = StartFailure {
            reason: "NotPlaced".to_owned(),
            message: format!(
                "node {} did not begin it: {}",
                latest.node_name, latest.client_description
            ),
        };
        return Life::NotStarted {
            failure,
            at: exit.at,
        };
    };
    let told = task.last("Terminated");
    if exit.status == ExitStatus::Code(0)
        && told.is_some_and(|event| event.detail("exit_message").is_some())
    {
        // Success needs no words: whoever watched it was lost, and the code is made up.
        return Life::RuntimeRestarted(Exit {
            status: ExitStatus::Unknown,
            ..exit
        });
    }
    if let Some(killing) = killed(task) {
        let why = killing
            .detail("kill_reason")
            .unwrap_or(&killing.display_message);
        return Life::Disrupted {
            exit,
            disruption: Disruption {
                kind: DisruptionKind::Evicted,
                message: Some(format!("Nomad ended it: {why}")),
            },
        };
    }
    if told.is_none() && exit.started_at.is_none() {
        return Life::NotStarted {
            failure: not_started(task, latest, spec),
            at: exit.at,
        };
    }
    Life::Exited(exit)
}

/// What a placement is at whose program does not run yet.
fn doing(placement: &Allocation) -> String {
    let task = placement.task_states.get(MAIN);
    let latest = task.and_then(|task| task.events.last());
    let place = format!("node {}", placement.node_name);
    match latest {
        Some(event) => format!("{place}: {}", event.display_message),
        None => format!("{place} has not begun it"),
    }
}

/// Who has ended a program, if somebody has; what ends after that has not ended by itself.
fn killed(task: &TaskState) -> Option<&super::wire::TaskEvent> {
    task.last("Killing")
}

/// What took a placement away, where that was not us.
fn disruption(job: &Job, placement: &Allocation) -> Option<Disruption> {
    let because = |kind, message: String| {
        Some(Disruption {
            kind,
            message: Some(message),
        })
    };
    let node = &placement.node_name;
    if placement.client_status == "lost" {
        let message = format!("node {node}: {}", placement.client_description);
        return because(DisruptionKind::NodeLost, message);
    }
    if !placement.preempted_by_allocation.is_empty() || placement.desired_status == "evict" {
        let message = format!(
            "placement {} of a higher priority",
            placement.preempted_by_allocation
        );
        return because(DisruptionKind::Preempted, message);
    }
    let was_killed = placement
        .task_states
        .get(MAIN)
        .is_some_and(|task| killed(task).is_some());
    // What ended by itself before it was stopped has ended by itself.
    let began = placement
        .task_states
        .get(MAIN)
        .is_some_and(|task| task.started().is_some());
    if began && !was_killed {
        return None;
    }
    if placement.desired_transition.migrate == Some(true) {
        let message = format!("node {node} was drained, or somebody stopped its placement");
        return because(DisruptionKind::Drained, message);
    }
    if job.stop {
        return because(
            DisruptionKind::DeletedByHand,
            "somebody stopped its job".to_owned(),
        );
    }
    if placement.desired_status == "stop" {
        return because(
            DisruptionKind::Evicted,
            placement.desired_description.clone(),
        );
    }
    None
}

/// How the program of a placement ended.
fn exit(placement: &Allocation, now: Timestamp) -> Exit {
    let changed = at(placement.modify_time).unwrap_or(now);
    let Some(task) = placement.task_states.get(MAIN) else {
        return Exit::unknown(None, changed.min(now));
    };
    let told = task.last("Terminated");
    let ended = task
        .finished()
        .or_else(|| told.and_then(|event| at(event.time)));
    let started_at = task.started();
    // The node's clock, which may be another than ours.
    let ended = ended.unwrap_or(changed).min(now);
    let ended = started_at.map_or(ended, |started| ended.max(started.min(now)));
    let detail = |name: &str| told.and_then(|event| event.detail(name));
    let number = |name: &str| detail(name).and_then(|text| text.parse::<i32>().ok());
    let signal = number("signal")
        .filter(|it| *it != 0)
        .and_then(Signal::from_number);
    let status = match (told.is_some(), signal, number("exit_code")) {
        (true, Some(signal), _) => ExitStatus::Signal(signal),
        (true, None, Some(code)) => ExitStatus::Code(code),
        (true | false, None | Some(_), None | Some(_)) => ExitStatus::Unknown,
    };
    Exit {
        status,
        oom: detail("oom_killed") == Some("true"),
        started_at,
        at: ended,
        killed: 0,
    }
}

/// Why a program never ran, in words that say what to do.
fn not_started(
    task: &TaskState,
    placement: &Allocation,
    spec: Option<&ComponentSpec>,
) -> StartFailure {
    const TELLING: [&str; 6] = [
        "Driver Failure",
        "Failed Validation",
        "Setup Failure",
        "Failed Artifact Download",
        "Task hook failed",
        "Killing",
    ];
    let event = task
        .events
        .iter()
        .rev()
        .find(|event| TELLING.contains(&event.kind.as_str()));
    let said = match event {
        Some(event) => event.display_message.clone(),
        None => task.events.last().map_or_else(
            || placement.client_description.clone(),
            |event| event.display_message.clone(),
        ),
    };
    let image = spec
        .and_then(|spec| spec.workload.image())
        .unwrap_or("its image");
    let (reason, advice) = reason(event.map_or("", |event| &event.kind), &said);
    StartFailure {
        reason: reason.to_owned(),
        message: format!(
            "{image} could not be started on node {}: {said}; {advice}",
            placement.node_name
        ),
    }
}

/// Why the init of a container could not begin its program, if it says so.
fn not_executed(said: &str, spec: Option<&ComponentSpec>) -> Option<StartFailure> {
    let told = said
        .lines()
        .find_map(|line| line.strip_prefix("[FATAL tini (")?.split_once("exec "))?
        .1;
    let (program, why) = told.rsplit_once(" failed: ")?;
    let image = spec
        .and_then(|spec| spec.workload.image())
        .unwrap_or("its image");
    let (reason, message) = match why.trim() {
        "No such file or directory" => (
            "ExecNotFound",
            format!(
                "program `{program}` was not found in {image}: correct `command`, or the image"
            ),
        ),
        "Permission denied" => (
            "NotExecutable",
            format!("program `{program}` of {image} is not an executable file"),
        ),
        why => (
            "ExecFormat",
            format!("program `{program}` of {image} cannot be run there: {why}"),
        ),
    };
    Some(StartFailure {
        reason: reason.to_owned(),
        message,
    })
}

/// One word for what a node says, and what to do about it.
fn reason(kind: &str, said: &str) -> (&'static str, &'static str) {
    let low = said.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| low.contains(word));
    if says(&["pull"]) {
        return if says(&["denied", "unauthorized", "authentication", "no basic auth"]) {
            (
                "ImagePullDenied",
                "give the clients of Nomad the credentials of the registry (`auth` of the docker plugin)",
            )
        } else if says(&[
            "not found",
            "manifest unknown",
            "no such image",
            "does not exist",
        ]) {
            ("ImagePullNotFound", "correct its name")
        } else {
            (
                "ImagePullFailed",
                "check its name, and that the node reaches the registry",
            )
        };
    }
    if says(&["executable file not found", "no such file or directory"]) && kind == "Driver Failure"
    {
        return ("ExecNotFound", "correct `command`, or the image");
    }
    if says(&["permission denied"]) && says(&["exec"]) {
        return ("NotExecutable", "its program is no executable file");
    }
    if says(&["exec format error"]) {
        return ("ExecFormat", "its image is for another machine");
    }
    if says(&["unable to find user", "no matching entries in passwd"]) {
        return ("NoSuchUser", "correct `user`");
    }
    if says(&["port is already allocated", "address already in use"]) {
        return (
            "HostPortTaken",
            "choose another `hostPort`, or leave it away",
        );
    }
    if says(&["volumes are not enabled"]) {
        return (
            "VolumesDisabled",
            "name a host volume of the cluster, or enable volumes in its docker plugin",
        );
    }
    match kind {
        "Failed Validation" => ("JobInvalid", "correct what it names"),
        "Setup Failure" | "Task hook failed" => ("SetupFailed", "see the node's log"),
        _ => ("StartFailed", "see the node's log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen of a job with one placement, as a node tells of it.
    fn look(placement: &str, asked: Asked) -> Seen {
        let job = r#"{"ID":"j","Meta":{"flowctl_instance":"default.p.a.0.1"},"Status":"running"}"#;
        let job: Job = serde_json::from_str(job).unwrap();
        let placement: Allocation = serde_json::from_str(placement).unwrap();
        let now = Timestamp::from_millis(60_000);
        Seen::of(job, None, vec![placement], asked, now).unwrap()
    }

    /// A placement whose program has begun at second 1 and ended at second 3, after these events.
    fn ended(fields: &str, events: &str) -> String {
        format!(
            r#"{{"ID":"x","NodeName":"n1","ClientStatus":"failed","DesiredStatus":"run",{fields}
            "TaskStates":{{"main":{{"State":"dead","Failed":true,"StartedAt":"1970-01-01T00:00:01Z",
            "FinishedAt":"1970-01-01T00:00:03Z","Events":[{{"Type":"Started"}},{events}]}}}}}}"#
        )
    }

    const KILLING: &str = r#"{"Type":"Killing","DisplayMessage":"Sent interrupt","Details":{}}"#;
    const KILLED: &str = r#"{"Type":"Terminated","Details":{"exit_code":"143","signal":"0",
        "oom_killed":"false","exit_message":"Docker container exited with non-zero exit code: 143"}}"#;

    fn code(code: i32) -> Exit {
        Exit {
            status: ExitStatus::Code(code),
            oom: false,
            started_at: Some(Timestamp::from_millis(1_000)),
            at: Timestamp::from_millis(3_000),
            killed: 0,
        }
    }

    #[test]
    fn what_ends_by_itself_has_its_code_and_its_times() {
        let seen = look(&ended("", &KILLED.replace("143", "3")), Asked::No);
        assert_eq!(seen.life, Life::Exited(code(3)));
    }

    #[test]
    fn a_code_that_a_lost_engine_made_up_is_no_success() {
        let events = r#"{"Type":"Terminated","Details":{"exit_code":"0","exit_message":"connection refused"}}"#;
        let seen = look(&ended("", events), Asked::No);
        let Life::RuntimeRestarted(exit) = seen.life else {
            panic!("{:?}", seen.life);
        };
        assert_eq!(exit.status, ExitStatus::Unknown);
    }

    #[test]
    fn who_has_ended_it_is_told() {
        let events = format!("{KILLING},{KILLED}");
        let stopped = look(&ended("", &events), Asked::Yes);
        assert_eq!(stopped.life, Life::Exited(code(143)), "we have");
        for (fields, kind) in [
            (
                r#""DesiredTransition":{"Migrate":true},"#,
                DisruptionKind::Drained,
            ),
            (r#""PreemptedByAllocation":"y","#, DisruptionKind::Preempted),
            ("", DisruptionKind::Evicted),
        ] {
            let seen = look(&ended(fields, &events), Asked::No);
            let Life::Disrupted { exit, disruption } = seen.life else {
                panic!("{:?}", seen.life);
            };
            assert_eq!((exit, disruption.kind), (code(143), kind));
        }
    }

    #[test]
    fn what_a_node_could_not_start_says_why() {
        let placement = r#"{"ID":"x","NodeName":"n1","ClientStatus":"failed","DesiredStatus":"run",
            "TaskStates":{"main":{"State":"dead","Failed":true,"FinishedAt":"1970-01-01T00:00:03Z","Events":[
            {"Type":"Driver Failure","DisplayMessage":"Failed to pull `a:1`: no such host"}]}}}"#;
        let Life::NotStarted { failure, .. } = look(placement, Asked::No).life else {
            panic!("it has not started");
        };
        assert_eq!(failure.reason, "ImagePullFailed");
        assert!(failure.is_image(), "it is no failure of the component");
        assert!(
            failure.message.contains("no such host"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn what_is_out_of_contact_is_unknown_and_what_is_lost_is_lost() {
        let running = r#"{"ID":"x","NodeName":"n1","ClientStatus":"unknown","DesiredStatus":"run",
            "TaskStates":{"main":{"State":"running","StartedAt":"1970-01-01T00:00:01Z"}}}"#;
        let away = look(running, Asked::No);
        assert!(away.hidden.unwrap().contains("n1"));
        let lost = look(&running.replace("unknown", "lost"), Asked::No);
        let Life::Disrupted { disruption, .. } = lost.life else {
            panic!("{:?}", lost.life);
        };
        assert_eq!(disruption.kind, DisruptionKind::NodeLost);
    }

    #[test]
    fn an_init_that_finds_no_program_is_no_program_that_ended() {
        let mut seen = look(&ended("", &KILLED.replace("143", "127")), Asked::No);
        assert_eq!(seen.may_not_have_begun().as_deref(), Some("x"));
        seen.without_program("nope: 1\n");
        assert_eq!(
            seen.life,
            Life::Exited(code(127)),
            "its own words say nothing"
        );
        seen.without_program("[FATAL tini (7)] exec nope failed: No such file or directory\n");
        let Life::NotStarted { failure, .. } = seen.life else {
            panic!("it never began");
        };
        assert_eq!(failure.reason, "ExecNotFound");
        assert!(failure.message.contains("`nope`"), "{}", failure.message);
    }
}
