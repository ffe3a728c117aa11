//! Who may do what, by who it is.

use super::*;

/// Whoever shows no token and is nobody that the kernel knows.
#[test]
fn a_stranger_takes_no_name_and_no_registration_of_a_component_and_may_have_its_own() {
    let mut owned = Owned::of(vec![with_port("a", 18089), component("b", 1, &[])]);
    let a = owned.instance("a");
    owned
        .register(Introduction {
            who: a,
            ..named("nickname")
        })
        .unwrap();
    for stranger in [Identity::User(1000), Identity::Stranger] {
        let by = |intro: Introduction| Introduction {
            who: stranger.clone(),
            ..intro
        };
        for claimed in ["a", "b", "nickname"] {
            let refused = owned.register(by(named(claimed))).unwrap_err();
            assert!(
                matches!(refused, RegistryRefusal::Unproven { .. }),
                "{claimed}: {refused}"
            );
        }
        let unnamed = owned.register(by(anonymous(18089))).unwrap();
        assert_eq!(unnamed.owner, None, "its health port proves nothing");
        let before = owned.entry("nickname");
        owned.pass(1_000);
        owned.beat_from("nickname", stranger.clone(), None, Metrics::new());
        assert_eq!(owned.entry("nickname"), before, "nor does it beat for it");
        owned.beat_from("b", stranger.clone(), None, Metrics::new());
        assert_eq!(owned.entry("b"), None);
        owned.register(by(named("outsider"))).unwrap();
        owned.beat_from("sim-1", stranger.clone(), None, Metrics::new());
        assert!(owned.entry("outsider").is_some() && owned.entry("sim-1").is_some());
    }
    assert_eq!(owned.status("b").registration, None);
}

/// What clients of the field send, known as what they are by the kernel alone.
#[test]
fn an_instance_that_the_kernel_knows_is_itself_whatever_it_sends_and_nobody_else() {
    let mut owned = Owned::of(vec![with_port("a", 1), with_port("b", 2)]);
    let (a, b) = (owned.instance("a"), owned.instance("b"));
    let by = |who: &Identity, intro: Introduction| Introduction {
        who: who.clone(),
        ..intro
    };
    let record = owned.register(by(&a, anonymous(7777))).unwrap();
    assert_eq!(record.owner.as_ref().unwrap().by, Evidence::Process);
    assert_eq!(record.service_id.as_str(), "a");
    let record = owned.register(by(&b, anonymous(2))).unwrap();
    assert_eq!(record.owner.as_ref().unwrap().by, Evidence::HealthPort);
    let refused = owned.register(by(&a, named("b"))).unwrap_err();
    assert!(
        matches!(refused, RegistryRefusal::Foreign { .. }),
        "{refused}"
    );
    // One that could not register makes up an id, and is itself all the same.
    owned.beat_from("sim-ttp-1", a, None, Metrics::new());
    assert_eq!(owned.entry("sim-ttp-1").unwrap().component(), "a");
}

#[test]
fn whoever_has_an_owner_always_has_room_and_one_replica_takes_its_own_share_only() {
    let mut owned = Owned::of(vec![component("a", 1, &[]), component("b", 1, &[])]);
    for number in 0..MAX_RECORDS {
        let stranger = Introduction {
            who: Identity::User(1000),
            ..named(&format!("stranger-{number}"))
        };
        owned
            .core
            .registry
            .register(stranger, None, owned.now)
            .unwrap();
    }
    let one_more = Introduction {
        who: Identity::User(1000),
        ..named("one-more")
    };
    assert_eq!(owned.register(one_more), Err(RegistryRefusal::Full));
    let a = owned.instance("a");
    let record = owned
        .register(Introduction {
            who: a,
            ..named("a")
        })
        .unwrap();
    assert_eq!(record.component(), "a");
    let b = owned.instance("b");
    for number in 0..3 * MAX_PER_REPLICA {
        let intro = Introduction {
            who: b.clone(),
            ..named(&format!("nickname-{number}"))
        };
        owned.pass(1_000);
        owned.register(intro).unwrap();
    }
    let directory = owned.core.directory();
    let of = |name: &str| {
        let records = directory.values();
        let owned = records.filter(|record| record.owner.is_some());
        owned.filter(|record| record.component() == name).count()
    };
    assert_eq!((of("a"), of("b")), (1, MAX_PER_REPLICA));
    let last = format!("nickname-{}", 3 * MAX_PER_REPLICA - 1);
    assert!(directory.contains_key(last.as_str()));
}

#[test]
fn what_one_told_is_changed_by_itself_and_the_operator_alone() {
    let mut owned = Owned::of(vec![component("a", 1, &[]), component("b", 1, &[])]);
    let (a, b) = (owned.instance("a"), owned.instance("b"));
    let run = |error: &str| {
        Note::Run(crate::model::RunRecord {
            id: "run-0001".to_owned(),
            pipeline: "elsewhere".to_owned(),
            state: crate::model::RunState::Running,
            started_at: Timestamp::default(),
            ended_at: None,
            config: String::new(),
            figures: Default::default(),
            error: error.to_owned(),
            components: vec![],
            teller: None,
        })
    };
    let mut tell = |who: &Identity, error: &str| {
        let (reply, mut answer) = oneshot::channel();
        let command = RegistryCommand::Tell {
            note: Box::new(run(error)),
            who: who.clone(),
            reply,
        };
        owned.input(Input::Command(Command::Registry(command)));
        answer.try_recv().unwrap().map(|_| ())
    };
    tell(&a, "first").unwrap();
    tell(&a, "second").unwrap();
    for other in [&b, &Identity::User(1000), &Identity::Stranger] {
        assert!(tell(other, "mine").is_err(), "{other:?}");
    }
    tell(&Identity::Operator, "third").unwrap();
    assert!(tell(&b, "mine").is_err(), "it stays the first one's");
    let mut change = |who: &Identity| {
        let (reply, mut answer) = oneshot::channel();
        let command = RegistryCommand::ChangeRun {
            id: "run-0001".to_owned(),
            change: Box::default(),
            who: who.clone(),
            reply,
        };
        owned.input(Input::Command(Command::Registry(command)));
        answer
            .try_recv()
            .unwrap()
            .map(|changed| changed.unwrap().answer.error.clone())
    };
    assert_eq!(change(&a).as_deref(), Ok("third"));
    assert!(change(&b).is_err());
}
