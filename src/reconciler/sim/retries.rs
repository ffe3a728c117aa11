//! A start that its driver tries more than once: only its answer tells what came of it.

use super::*;

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
