//! Starts that are tried more than once, by their driver or since it did not say what came of them.

use crate::model::EventKind;

use super::*;

impl World {
    /// A start that can be given up ends at once, having left nothing; others go on.
    pub(super) fn give_up(&mut self, instance: &InstanceId) {
        let start = self.calls.iter().position(
            |(_, call)| matches!(call, Call::Start(launch) if launch.instance == *instance),
        );
        let Some(start) = start.filter(|_| self.random.one_in(2)) else {
            return;
        };
        self.calls.remove(start);
        let failure = StartFailure {
            reason: StartFailure::GIVEN_UP.to_owned(),
            message: "it was being pulled".to_owned(),
        };
        let input = Input::StartAnswered {
            instance: instance.clone(),
            result: Err(DriverError::Refused(failure)),
        };
        self.core.handle(input, self.now);
    }
}

#[test]
fn what_a_driver_tries_again_within_one_start_is_no_failure() {
    let mut world = World::new(11);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[])]);
    world.apply(spec.clone());
    let under_way = |world: &mut World| {
        let mut starts = world.calls.iter_mut();
        starts.find_map(|(at, call)| match call {
            Call::Start(launch) => {
                *at = at.shifted(60_000);
                Some((launch.instance.clone(), launch.spec.hash.clone()))
            }
            Call::Stop(..)
            | Call::Forget(_)
            | Call::Look(..)
            | Call::Commit(_)
            | Call::Synced(_) => None,
        })
    };
    let (id, hash) = loop {
        world.step();
        world.turn();
        if let Some(start) = under_way(&mut world) {
            break start;
        }
    };
    // Its container did not start, since its network had gone; the driver makes both anew.
    let life = Life::NotStarted {
        failure: StartFailure {
            reason: "NoNetwork".to_owned(),
            message: "its network is gone".to_owned(),
        },
        at: world.now,
    };
    let thing = Thing {
        driver: DriverKind::Process,
        partition: None,
        spec: hash,
        after: vec![],
        life,
        earlier: vec![],
        health: None,
    };
    world.things.insert(id.clone(), thing);
    let until = world.now.shifted(30_000);
    while world.now < until {
        world.step();
    }
    world.things.remove(&id);
    world.converge(&spec, &BTreeSet::new());
    assert_eq!(world.alive(), [id]);
    let snapshot = world.core.snapshot();
    assert_eq!(snapshot.pipelines[0].components[0].replicas[0].restarts, 0);
}

#[test]
fn what_the_last_run_left_behind_is_waited_for_and_is_no_failure() {
    let mut world = World::new(13);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[])]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    let first = world.alive()[0].clone();
    // An engine still has its container for a while, and says so.
    world.left_behind = Some((first.clone(), world.now.shifted(8_000)));
    world.exit(&first, ExitStatus::Code(137));
    let (driver, instances) = (DriverKind::Process, [first].into());
    world
        .core
        .handle(Input::Hinted { driver, instances }, world.now);
    let ended = world.now;
    let mut told = BTreeSet::new();
    for _ in 0..2_000 {
        world.step();
        let snapshot = world.core.snapshot();
        let replica = &snapshot.pipelines[0].components[0].replicas[0];
        if let Some(crate::model::Hold::Leftover { .. }) = replica.hold {
            assert_eq!(replica.phase, PhaseName::Pending);
            told.insert(replica.why.clone());
        }
        if replica.ready && !world.alive().is_empty() {
            break;
        }
    }
    let expected = "waiting for what its last run left behind: container a is being removed";
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [expected]);
    assert!(world.now.since(ended).as_secs() <= 10, "{}", world.now);
    let snapshot = world.core.snapshot();
    let replica = &snapshot.pipelines[0].components[0].replicas[0];
    assert_eq!((replica.restarts, replica.phase), (1, PhaseName::Running));
    let kinds = world.events.values().map(|event| event.kind);
    let failed = kinds.filter(|kind| *kind == EventKind::StartFailed).count();
    assert_eq!(failed, 0);
}

#[test]
fn a_driver_that_cannot_say_what_came_of_its_starts_is_asked_ever_less_often() {
    let mut world = World::new(12);
    (world.calm, world.mute) = (true, true);
    let spec = pipeline(vec![component("a", 1, &[])]);
    world.apply(spec.clone());
    let until = world.now.shifted(600_000);
    while world.now < until {
        world.step();
    }
    let starts = |world: &World| {
        let kinds = world.events.values().map(|event| event.kind);
        kinds.filter(|kind| *kind == EventKind::Starting).count()
    };
    let replica = |world: &World| {
        let snapshot = world.core.snapshot();
        snapshot.pipelines[0].components[0].replicas[0].clone()
    };
    // One second, doubled up to half a minute.
    let tried = starts(&world);
    assert!((15..=30).contains(&tried), "{tried} starts in ten minutes");
    let shown = replica(&world);
    assert_eq!(shown.phase, PhaseName::Backoff);
    assert!(shown.why.contains("simulated"), "{}", shown.why);
    assert!(shown.next.is_some_and(|next| next.at.is_some()));

    // Nobody who asks for it has to wait.
    world.ask("a", Request::Start);
    let asked = world.now;
    while starts(&world) == tried {
        world.step();
    }
    assert!(world.now < asked.shifted(1_000));
    // What never was is no failure of the component, and leaves nothing.
    world.mute = false;
    world.converge(&spec, &BTreeSet::new());
    assert_eq!(world.laid_ready, BTreeSet::new());
    assert_eq!(replica(&world).restarts, 0);
    assert_eq!(
        world
            .core
            .pipelines
            .values()
            .next()
            .unwrap()
            .records
            .values()
            .next()
            .unwrap()
            .unanswered,
        None
    );
}
