//! The end of a daemon, asked for by a `down`.

use super::*;
use crate::reconciler::handle::Afterwards;
use crate::reconciler::ledger::Ending;

impl World {
    fn down_and_end(&mut self) {
        let (reply, _) = tokio::sync::oneshot::channel();
        let afterwards = Afterwards::End;
        let command = Command::Down { afterwards, reply };
        self.core.handle(Input::Command(command), self.now);
    }

    fn steps_until(&mut self, holds: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.step();
        }
        panic!("it never came true");
    }
}

#[test]
fn a_down_stands_although_an_apply_before_it_could_not_be_recorded() {
    let mut world = World::new(21);
    (world.calm, world.disk_full) = (true, true);
    world.apply_from(Origin::Person, pipeline(vec![component("a", 1, &[])]));
    world.turn();
    assert_eq!(world.commits.len(), 1, "it is being recorded");
    world.down_and_end();
    world.steps_until(|world| world.commits.is_empty());
    world.disk_full = false;
    world.steps_until(|world| world.core.ending == Ending::Decided);
    assert_eq!(world.alive(), []);
}

#[test]
fn an_apply_calls_the_end_off_while_something_still_runs() {
    let mut world = World::new(22);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[])]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    world.down_and_end();
    world.turn();
    assert_eq!(world.core.ending, Ending::WhenEmpty);
    world.apply_from(Origin::Person, spec.clone());
    world.converge(&spec, &BTreeSet::new());
    assert_eq!(world.core.ending, Ending::No);
}

/// A world in which nothing can be recorded, with one component, after a `down` has ended it.
fn emptied_on_a_full_disk() -> World {
    let mut world = World::new(23);
    world.calm = true;
    let spec = pipeline(vec![component("a", 1, &[])]);
    world.apply(spec.clone());
    world.converge(&spec, &BTreeSet::new());
    world.disk_full = true;
    world.steps_until(|world| world.core.not_durable().is_some());
    world.down_and_end();
    world.steps_until(|world| world.core.is_empty());
    assert!(!world.disk.pipelines.is_empty(), "the disk has no room");
    world
}

#[test]
fn a_down_records_that_nothing_is_left_on_a_disk_that_has_room_again() {
    let mut world = emptied_on_a_full_disk();
    assert_eq!(world.core.ending, Ending::WhenEmpty);
    world.disk_full = false;
    world.steps_until(|world| world.core.ending == Ending::Decided);
    assert!(world.disk.pipelines.is_empty());
}

#[test]
fn a_down_ends_on_a_disk_that_stays_full() {
    let mut world = emptied_on_a_full_disk();
    world.steps_until(|world| world.core.ending == Ending::Decided);
}
