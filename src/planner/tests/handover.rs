//! What comes waits for what goes.

use std::path::PathBuf;

use crate::model::{
    Claim, ComponentSpec, ContainerSpec, Port, ProcessSpec, Protocol, Volume, VolumeSource,
    Workload,
};
use crate::planner::{Bond, Leaving, leaving};

use super::*;

fn port(number: u16) -> Port {
    Port {
        name: None,
        container_port: number,
        host_port: Some(number),
        host_ip: None,
        protocol: Protocol::Tcp,
    }
}

fn on_port(id: &str, revision: u64, number: u16) -> ComponentSpec {
    ComponentSpec {
        ports: vec![port(number)],
        ..component(id, revision, &[])
    }
}

fn has_port(number: u16) -> Claim {
    let protocol = Protocol::Tcp;
    Claim::Port { number, protocol }
}

/// A running instance of a definition that is gone.
fn holding(component: &str, revision: u64, holds: &[Claim]) -> Record {
    let mut record = running(component, revision, true);
    record.instance.as_mut().unwrap().holds = holds.to_vec();
    record
}

fn of_driver(mut record: Record, driver: DriverKind) -> Record {
    record.instance.as_mut().unwrap().driver = driver;
    record
}

#[test]
fn a_renamed_component_starts_once_its_predecessor_is_gone() {
    let spec = pipeline(vec![component("new", 1, &[])]);
    assert_eq!(
        planned(spec.clone(), &[("old", running("old", 1, true))]),
        [
            "stop old: removed from the pipeline",
            "hold new: waiting until these are gone: old"
        ]
    );
    let mut stopping = running("old", 1, true);
    stopping.instance.as_mut().unwrap().phase = Phase::Stopping {
        since: now(),
        started_at: now(),
        cause: StopCause::Removed,
        failed: None,
    };
    assert!(
        planned(spec.clone(), &[("old", stopping)])
            .contains(&"hold new: waiting until these are gone: old".to_owned())
    );
    let gone = crashed("old", 0);
    assert_eq!(
        planned(spec, &[("old", gone)]),
        [
            "start new: not running yet",
            "forget old: nothing is left of it"
        ]
    );
}

#[test]
fn what_ran_before_and_what_runs_elsewhere_does_not_wait_for_what_is_removed() {
    // It has crashed and comes back: the edit did not bring it.
    let spec = pipeline(vec![component("b", 1, &[])]);
    let records = [
        ("b", crashed("b", 90_000)),
        ("old", running("old", 1, true)),
    ];
    assert!(planned(spec, &records).contains(&"start b: exit 1 (failure 1)".to_owned()));
    // An engine that does not answer keeps no process from starting.
    let spec = pipeline(vec![component("new", 1, &[])]);
    let container = of_driver(running("old", 1, true), DriverKind::Docker);
    let planned = planned(spec, &[("old", container)]);
    assert!(
        planned.contains(&"start new: not running yet".to_owned()),
        "{planned:?}"
    );
}

#[test]
fn whatever_is_taken_over_is_waited_for_by_its_name() {
    let container = |volumes: Vec<Volume>| ComponentSpec {
        workload: Workload::Docker(ContainerSpec {
            image: "a:1".to_owned(),
            command: None,
            args: vec![],
            working_dir: None,
            pull: None,
            network: None,
            verify: None,
        }),
        volumes,
        ..component("x", 1, &[])
    };
    let volume = |source| Volume {
        source,
        target: "/data".to_owned(),
        read_only: false,
    };
    let place: PathBuf = "/srv/x".into();
    let in_place = ComponentSpec {
        workload: Workload::Process(ProcessSpec {
            program: "true".to_owned(),
            args: vec![],
            working_dir: place.clone(),
        }),
        ..component("x", 1, &[])
    };
    let table = [
        (on_port("x", 1, 80), has_port(80), "port 80/tcp"),
        (
            container(vec![]),
            Claim::Name("x-1".to_owned()),
            "the container name x-1",
        ),
        (
            container(vec![volume(VolumeSource::Named("data".to_owned()))]),
            Claim::Volume("data".to_owned()),
            "volume data",
        ),
        (
            container(vec![volume(VolumeSource::Bind(place.clone()))]),
            Claim::Place(place.clone()),
            "/srv/x",
        ),
        (in_place, Claim::Place(place), "/srv/x"),
    ];
    for (spec, claim, words) in table {
        let elsewhere = [Leaving {
            instance: "default.q.old.0.4".parse().unwrap(),
            driver: DriverKind::Kubernetes,
            claims: [claim].into(),
            bond: Bond::Stops,
        }];
        let records = BTreeMap::new();
        let mut seen = observed(&records);
        seen.drivers = [DriverKind::Process, DriverKind::Docker].into();
        seen.leaving_elsewhere = Cow::Borrowed(&elsewhere);
        let desired = Desired::new(Arc::new(pipeline(vec![spec])));
        let desired = desired.of_folder(Some(std::path::Path::new("/etc/flow")));
        let plan = plan(&desired, &seen, now());
        let holds: Vec<String> = plan.holds.values().map(ToString::to_string).collect();
        let expected = format!("waiting until these are gone: old of pipeline q (has {words})");
        assert_eq!((holds, plan.steps.len()), (vec![expected], 0));
        // Another one has something else.
        let elsewhere = [Leaving {
            claims: [has_port(81)].into(),
            ..elsewhere[0].clone()
        }];
        seen.leaving_elsewhere = Cow::Borrowed(&elsewhere);
        let plan = super::super::plan(&desired, &seen, now());
        assert_eq!(plan.steps.len(), 1, "{words}");
    }
}

#[test]
fn one_that_moves_onto_a_port_serves_on_its_own_until_that_is_free() {
    let spec = pipeline(vec![on_port("a", 2, 80)]);
    let records = [
        ("a", holding("a", 1, &[has_port(79)])),
        ("old", holding("old", 1, &[has_port(80)])),
    ];
    assert_eq!(
        planned(spec, &records),
        [
            "stop old: removed from the pipeline",
            "hold a: waiting until these are gone: old (has port 80/tcp)"
        ]
    );
}

#[test]
fn ports_that_are_swapped_change_hands_while_both_are_down() {
    let spec = || pipeline(vec![on_port("a", 2, 80), on_port("b", 2, 79)]);
    let a = || holding("a", 1, &[has_port(79)]);
    let b = || holding("b", 1, &[has_port(80)]);
    assert_eq!(
        planned(spec(), &[("a", a()), ("b", b())]),
        [
            "stop b: its definition changed",
            "stop a: its definition changed"
        ]
    );
    let stopped = |id| {
        ended(
            id,
            EndCause::Stopped(StopCause::SpecChanged),
            ExitStatus::Code(0),
            0,
        )
    };
    assert_eq!(
        planned(spec(), &[("a", stopped("a")), ("b", b())]),
        [
            "stop b: its definition changed",
            "hold a: waiting until these are gone: b (has port 80/tcp)"
        ]
    );
}

#[test]
fn one_that_waits_for_its_upstream_makes_room_for_that() {
    // The upstream gets the port of its own dependent, which would wait for it.
    let sink = ComponentSpec {
        dependencies: component("x", 1, &["source"]).dependencies,
        ..on_port("sink", 2, 81)
    };
    let spec = pipeline(vec![on_port("source", 2, 80), sink]);
    let stopped = ended(
        "source",
        EndCause::Stopped(StopCause::SpecChanged),
        ExitStatus::Code(0),
        0,
    );
    let records = [
        ("source", stopped),
        ("sink", holding("sink", 1, &[has_port(80)])),
    ];
    assert_eq!(
        planned(spec, &records),
        [
            "stop sink: its definition changed",
            "hold source: waiting until these are gone: sink (has port 80/tcp)"
        ]
    );
}

#[test]
fn what_stays_as_it_is_leaves_nothing() {
    let spec = pipeline(vec![on_port("a", 1, 80), on_port("b", 2, 81)]);
    let records: BTreeMap<ReplicaKey, Record> = [
        (key("a"), running("a", 1, true)),
        (key("b"), holding("b", 1, &[has_port(81), has_port(82)])),
    ]
    .into();
    let leaving = leaving(&Desired::new(Arc::new(spec)), &records);
    let leaving: Vec<_> = leaving
        .into_iter()
        .map(|one| (one.bond, one.claims))
        .collect();
    // Its port is its own in the next definition, too.
    assert_eq!(leaving, [(Bond::Replaced, [has_port(82)].into())]);
}
