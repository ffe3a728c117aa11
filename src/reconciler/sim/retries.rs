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
            Call::Stop(_) | Call::Forget(_) | Call::Look(_) | Call::Commit(_) | Call::Synced(_) => {
                None
            }
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
        spec: hash,
        after: vec![],
        life,
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
