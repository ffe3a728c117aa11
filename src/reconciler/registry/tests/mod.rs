//! The registry inside the owner, under a time of its own.

mod absence;
mod callers;

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::*;
use crate::driver::Started;
use crate::model::fixtures::{component, daemon, pipeline};
use crate::model::{
    ComponentSpec, DriverKind, Evidence, Facts, Handle, HttpTarget, HumanDuration, Metric,
    PhaseName, Probe, ProbeCheck, ProcessIdentity, Registration, ReplicaStatus, Role,
};
use crate::reconciler::core::{Commit, Core, Input, Kept, Turn};
use crate::reconciler::handle::{Command, Origin, Source};
use crate::reconciler::ledger::{Changes, Effect};

/// An owner whose drivers and disk answer at once.
struct Owned {
    core: Core,
    now: Timestamp,
    pids: u32,
    disk: BTreeMap<ServiceId, RegistrationRecord>,
    commits: usize,
    kept: Kept,
}

impl Owned {
    fn of(components: Vec<ComponentSpec>) -> Self {
        let now = Timestamp::from_millis(1_000_000_000);
        let mut owned = Self {
            core: Core::new(Kept::default(), [DriverKind::Process], daemon(), now),
            now,
            pids: 100,
            disk: BTreeMap::new(),
            commits: 0,
            kept: Kept::default(),
        };
        let (reply, _answer) = oneshot::channel();
        let source = Source {
            file: None,
            watched: false,
            origin: Origin::Person,
        };
        let apply = Command::Apply {
            pipelines: vec![pipeline(components)],
            source,
            reply,
        };
        owned.input(Input::Command(apply));
        owned.pass(2_000);
        owned
    }

    fn input(&mut self, input: Input) {
        self.core.handle(input, self.now);
        self.settle();
    }

    /// Lets time pass in small steps.
    fn pass(&mut self, millis: i64) {
        let end = self.now.shifted(millis);
        while self.now < end {
            self.now = self.now.shifted(500).min(end);
            self.input(Input::Tick);
        }
    }

    fn settle(&mut self) {
        loop {
            let Turn {
                commit,
                effects,
                looks,
                ..
            } = self.core.turn(self.now);
            if commit.is_none() && effects.is_empty() && looks.is_empty() {
                return;
            }
            if let Some(Commit {
                number, changes, ..
            }) = commit
            {
                self.record(changes);
                let result = Ok(());
                self.core
                    .handle(Input::Recorded { number, result }, self.now);
            }
            for effect in effects {
                match effect {
                    Effect::Start(launch) => {
                        self.pids += 1;
                        let result = Ok(Started::running(process(self.pids), self.now, None));
                        let instance = launch.instance;
                        self.core
                            .handle(Input::StartAnswered { instance, result }, self.now);
                    }
                    Effect::Answer(answer) => crate::reconciler::commands::confirm(answer),
                    Effect::GiveUp { .. } | Effect::Stop { .. } | Effect::Forget { .. } => {}
                }
            }
            for (driver, _) in looks {
                let result = Ok(self.sightings().into());
                self.core.handle(Input::Looked { driver, result }, self.now);
            }
        }
    }

    fn sightings(&self) -> Vec<crate::model::Sighting> {
        let mut seen = Vec::new();
        for pipeline in self.core.pipelines.values() {
            for record in pipeline.records.values() {
                let Some(instance) = &record.instance else {
                    continue;
                };
                seen.push(crate::model::Sighting {
                    instance: instance.id.clone(),
                    spec: instance.spec.clone(),
                    handle: instance.handle.clone(),
                    facts: instance.facts.clone(),
                    stop: instance.stop,
                    after: instance.after.clone(),
                    driver: instance.driver,
                    partition: None,
                    life: crate::model::Life::Running { since: self.now },
                    earlier: Vec::new(),
                    outdated: false,
                    prober: Default::default(),
                    health: None,
                });
            }
        }
        seen
    }

    fn record(&mut self, changes: Changes) {
        self.commits += usize::from(changes != Changes::default());
        for (id, record) in changes.registrations {
            match record {
                Some(record) => self.disk.insert(id, record),
                None => self.disk.remove(&id),
            };
        }
        for (key, record) in changes.pipelines {
            if let Some(record) = record {
                self.kept.pipelines.insert(key, record);
            }
        }
        for ((key, replica), record) in changes.records {
            if let Some(record) = record {
                self.kept
                    .records
                    .entry(key)
                    .or_default()
                    .insert(replica, record);
            }
        }
    }

    /// Another daemon starts from what this one recorded.
    fn restart_daemon(&mut self) {
        let mut kept = self.kept.clone();
        kept.registrations = self.disk.clone();
        // What the disk gives back holds no metrics.
        for record in kept.registrations.values_mut() {
            record.metrics.clear();
        }
        self.core = Core::new(kept, [DriverKind::Process], daemon(), self.now);
        self.settle();
    }

    fn register(
        &mut self,
        intro: Introduction,
    ) -> Result<Arc<RegistrationRecord>, RegistryRefusal> {
        let (reply, mut answer) = oneshot::channel();
        let intro = Box::new(intro);
        let command = RegistryCommand::Register { intro, reply };
        self.input(Input::Command(Command::Registry(command)));
        let mut registered = answer.try_recv().unwrap()?;
        registered.recorded.try_recv().unwrap();
        Ok(registered.answer)
    }

    fn beat(&mut self, id: &str) {
        self.beat_with(id, None, &[]);
    }

    fn beat_with(&mut self, id: &str, said: Option<ServiceHealth>, metrics: &[(&str, f64)]) {
        let metrics = metrics
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Metric::number(*v)))
            .collect();
        self.beat_from(id, Identity::Operator, said, metrics);
    }

    fn beat_from(
        &mut self,
        id: &str,
        who: Identity,
        said: Option<ServiceHealth>,
        metrics: Metrics,
    ) {
        let beat = Beat {
            at: self.now,
            said,
            metrics,
            ip: None,
            who,
        };
        self.input(Input::Beats([(id.parse().unwrap(), beat)].into()));
    }

    /// Ends what runs of a component, as its driver would tell, and lets the next one begin.
    fn crash(&mut self, component: &str) {
        let before = self.status(component).instance.unwrap();
        let ended = crate::model::Sighting {
            life: crate::model::Life::Lost { at: self.now },
            ..self
                .sightings()
                .into_iter()
                .find(|seen| seen.instance == before)
                .unwrap()
        };
        let driver = DriverKind::Process;
        self.core.handle(
            Input::Hinted {
                driver,
                instances: [before.clone()].into(),
            },
            self.now,
        );
        let turn = self.core.turn(self.now);
        assert_eq!(turn.looks.len(), 1);
        self.core.handle(
            Input::Looked {
                driver,
                result: Ok(vec![ended].into()),
            },
            self.now,
        );
        self.pass(10_000);
        assert_ne!(self.status(component).instance, Some(before));
    }

    fn instance(&self, component: &str) -> Identity {
        Identity::Instance {
            id: self.status(component).instance.unwrap(),
            by: Evidence::Process,
        }
    }

    fn status(&self, component: &str) -> ReplicaStatus {
        let snapshot = self.core.snapshot();
        let found = snapshot.pipelines[0]
            .components
            .iter()
            .find(|c| c.id.as_str() == component);
        found.unwrap().replicas[0].clone()
    }

    fn entry(&mut self, id: &str) -> Option<Arc<RegistrationRecord>> {
        self.core.directory().get(id).cloned()
    }
}

fn process(pid: u32) -> (Handle, Facts) {
    let identity = |pid| ProcessIdentity {
        boot_id: "b".to_owned(),
        pid,
        start_ticks: 1,
    };
    let processes = vec![identity(pid + 1000), identity(pid)];
    let facts = Facts {
        processes,
        ..Facts::default()
    };
    (Handle::new(&pid), facts)
}

fn probe(check: ProbeCheck) -> Probe {
    Probe {
        check,
        period: HumanDuration::from_secs(10),
        timeout: HumanDuration::from_secs(2),
        failures: 1,
        successes: 1,
    }
}

/// A processor that was given `port` for its health checks.
fn with_port(id: &str, port: u16) -> ComponentSpec {
    let mut spec = component(id, 1, &[]);
    spec.env.insert("HEALTH_PORT".to_owned(), port.to_string());
    spec
}

fn named(name: &str) -> Introduction {
    Introduction {
        wanted: Some(name.parse().unwrap()),
        names: vec![name.to_owned()],
        who: Identity::Operator,
        ..Introduction::default()
    }
}

/// What the ttp-processor sends: no id, its kind, and where its health is.
fn anonymous(port: u16) -> Introduction {
    Introduction {
        about: About {
            kind: ServiceKind::Processor,
            health_endpoint: format!("http://localhost:{port}/health"),
            ..About::default()
        },
        who: Identity::Operator,
        ..Introduction::default()
    }
}

#[test]
fn a_component_that_sends_no_id_is_known_and_keeps_its_id_over_restarts_of_both_sides() {
    let mut owned = Owned::of(vec![with_port("ttp", 18089), with_port("other", 18090)]);
    let record = owned.register(anonymous(18089)).unwrap();
    assert_eq!(record.service_id.as_str(), "ttp");
    assert_eq!(record.owner.as_ref().unwrap().by, Evidence::HealthPort);
    assert_eq!(owned.status("ttp").registration.unwrap().service_id, "ttp");
    owned.restart_daemon();
    assert_eq!(owned.status("ttp").registration.unwrap().service_id, "ttp");
    owned.beat("ttp");
    let again = owned.register(anonymous(18089)).unwrap();
    assert_eq!(again.service_id.as_str(), "ttp");
    assert_eq!(again.first_seen, record.first_seen, "history is kept");
}

#[test]
fn replicas_that_send_one_name_get_ids_of_their_own() {
    let mut spec = component("w", 1, &[]);
    spec.replicas = 3;
    let mut owned = Owned::of(vec![spec]);
    let mut ids: Vec<_> = (0..3)
        .map(|_| owned.register(named("w")).unwrap().service_id.to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["w", "w-1", "w-2"]);
}

#[test]
fn a_heartbeat_of_an_unknown_id_is_taken_in_and_not_recorded() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    let commits = owned.commits;
    owned.beat_with("sim-ttp-processor-20250711093000", None, &[("events", 3.0)]);
    let entry = owned.entry("sim-ttp-processor-20250711093000").unwrap();
    assert_eq!(entry.provenance, Provenance::Adopted);
    assert_eq!(entry.metrics["events"], Metric::Number(3.0));
    assert_eq!(owned.commits, commits);
}

#[test]
fn silence_is_told_and_any_heartbeat_even_of_unknown_health_ends_it() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("a")).unwrap();
    owned.beat("a");
    owned.pass(45_000);
    assert_eq!(owned.entry("a").unwrap().health(), ServiceHealth::Unhealthy);
    let status = owned.status("a");
    assert_eq!(
        status.phase,
        PhaseName::Running,
        "silence alone restarts nothing"
    );
    assert!(
        status.why.starts_with("no heartbeat since"),
        "{}",
        status.why
    );
    owned.beat("a");
    assert_eq!(owned.entry("a").unwrap().health(), ServiceHealth::Healthy);
    assert_eq!(owned.status("a").why, "");
}

#[test]
fn what_a_component_says_of_its_health_stands_until_it_says_otherwise() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("a")).unwrap();
    owned.beat_with("a", Some(ServiceHealth::Unhealthy), &[("x", 1.0)]);
    owned.beat_with("a", None, &[("y", 2.0)]);
    let entry = owned.entry("a").unwrap();
    assert_eq!(entry.health(), ServiceHealth::Unhealthy);
    assert_eq!(entry.metrics.len(), 2, "figures are merged");
}

#[test]
fn the_daemons_own_absence_makes_nobody_silent() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("a")).unwrap();
    owned.now = owned.now.shifted(3_600_000);
    owned.restart_daemon();
    owned.pass(15_000);
    assert_eq!(owned.entry("a").unwrap().silent_since, None);
}

#[test]
fn heartbeats_cost_nothing_durable() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("a")).unwrap();
    let commits = owned.commits;
    for _ in 0..700 {
        owned.beat_with("a", None, &[("n", 1.0)]);
        owned.pass(1_000);
    }
    assert_eq!(owned.commits, commits);
    for _ in 0..300 {
        owned.beat("a");
        owned.pass(1_000);
    }
    assert_eq!(
        owned.commits,
        commits + 1,
        "the moment of the last one lags by 15 minutes"
    );
}

#[test]
fn what_nobody_owns_is_forgotten_after_a_day() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("outsider")).unwrap();
    owned.register(named("a")).unwrap();
    assert!(owned.disk.contains_key("outsider"));
    owned.now = owned.now.after(FORGET_AFTER);
    owned.pass(11_000);
    assert!(owned.entry("outsider").is_none());
    assert!(!owned.disk.contains_key("outsider"));
    assert!(owned.entry("a").is_some());
}

#[test]
fn a_component_whose_registration_is_required_is_ready_once_it_registered() {
    let mut spec = component("a", 1, &[]);
    spec.registration = Registration::Required;
    let mut owned = Owned::of(vec![spec]);
    owned.pass(60_000);
    let status = owned.status("a");
    assert!(!status.ready);
    assert!(status.why.contains("has not registered"), "{}", status.why);
    owned.register(named("a")).unwrap();
    assert!(owned.status("a").ready);
    owned.restart_daemon();
    assert!(
        owned.status("a").ready,
        "a restart of the daemon flips nothing"
    );
}

#[test]
fn a_heartbeat_probe_replaces_a_component_that_fell_silent() {
    let mut spec = component("a", 1, &[]);
    let ttl = HumanDuration::from_secs(30);
    spec.probes.liveness = Some(probe(ProbeCheck::Heartbeat { ttl }));
    let mut owned = Owned::of(vec![spec]);
    for _ in 0..10 {
        owned.beat("a");
        owned.pass(10_000);
    }
    assert_eq!(owned.status("a").phase, PhaseName::Running);
    owned.pass(45_000);
    let status = owned.status("a");
    assert_eq!(status.phase, PhaseName::Stopping);
    assert!(status.why.contains("no heartbeat for"), "{}", status.why);
}

#[test]
fn a_heartbeat_probe_makes_ready_with_the_first_heartbeat() {
    let mut spec = component("a", 1, &[]);
    let ttl = HumanDuration::from_secs(30);
    spec.probes.readiness = Some(probe(ProbeCheck::Heartbeat { ttl }));
    let mut owned = Owned::of(vec![spec]);
    assert!(!owned.status("a").ready);
    owned.beat("a");
    assert!(owned.status("a").ready);
}

#[test]
fn a_token_decides_whose_registration_it_is_and_anothers_name_is_refused() {
    let mut owned = Owned::of(vec![with_port("a", 1), with_port("b", 2)]);
    let instance = owned.status("a").instance.unwrap();
    let by_token = |names: &[&str], token: &InstanceId| Introduction {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        who: Identity::Instance {
            id: token.clone(),
            by: Evidence::Token,
        },
        ..anonymous(2)
    };
    let record = owned.register(by_token(&["nickname"], &instance)).unwrap();
    assert_eq!(record.owner.as_ref().unwrap().by, Evidence::Token);
    assert_eq!(record.component(), "a");
    let refused = owned.register(by_token(&["b"], &instance)).unwrap_err();
    assert!(
        matches!(refused, RegistryRefusal::Foreign { .. }),
        "{refused}"
    );
    let ended = InstanceId {
        incarnation: instance.incarnation + 7,
        ..instance
    };
    let refused = owned.register(by_token(&[], &ended)).unwrap_err();
    assert!(
        matches!(refused, RegistryRefusal::EndedInstance(_)),
        "{refused}"
    );
}

#[test]
fn an_outsider_without_an_id_keeps_its_made_up_one_when_it_comes_again() {
    let mut owned = Owned::of(vec![]);
    let outsider = || Introduction {
        ip: "10.0.0.7".parse().ok(),
        who: Identity::User(1000),
        ..anonymous(8088)
    };
    let first = owned.register(outsider()).unwrap();
    owned.pass(60_000);
    let second = owned.register(outsider()).unwrap();
    assert_eq!(first.service_id, second.service_id);
    let elsewhere = Introduction {
        ip: None,
        ..anonymous(8088)
    };
    assert_ne!(
        owned.register(elsewhere).unwrap().service_id,
        first.service_id
    );
}

#[test]
fn a_flood_of_made_up_ids_pushes_out_no_component() {
    let mut owned = Owned::of(vec![component("a", 1, &[])]);
    owned.register(named("a")).unwrap();
    owned.register(named("outsider")).unwrap();
    for round in 0..20 {
        let beats = (0..200).map(|n| {
            let id = format!("flood-{round}-{n}").parse().unwrap();
            let beat = Beat {
                at: owned.now,
                said: None,
                metrics: Metrics::new(),
                ip: None,
                who: Identity::User(1000),
            };
            (id, beat)
        });
        let beats = beats.collect();
        owned.input(Input::Beats(beats));
    }
    let directory = owned.core.directory();
    assert_eq!(directory.len(), MAX_STRANGERS + 2);
    assert!(directory.contains_key("a") && directory.contains_key("outsider"));
}

#[test]
fn a_health_port_is_the_components_own_or_the_one_that_is_probed() {
    let mut spec = component("a", 1, &[]);
    assert_eq!(spec.health_port(), None);
    let target = HttpTarget {
        host: None,
        port: 18088.into(),
        path: "/health".to_owned(),
    };
    spec.probes.readiness = Some(probe(ProbeCheck::Http(target)));
    assert_eq!(spec.health_port(), Some(18088.into()));
    spec.env.insert("HEALTH_PORT".to_owned(), "9".to_owned());
    spec.role = Role::Sink;
    assert_eq!(spec.health_port(), Some(9.into()));
}
