//! Properties over generated worlds.

use proptest::prelude::*;

use super::*;

fn policies() -> impl Strategy<Value = RestartPolicy> {
    let backoff = prop_oneof![
        Just(Backoff::Exponential),
        Just(Backoff::Linear),
        Just(Backoff::Fixed)
    ];
    (
        backoff,
        0_u64..120_000,
        0_u64..600_000,
        1.0..8.0_f64,
        0.0..1.0_f64,
    )
        .prop_map(|(backoff, initial, max, factor, jitter)| RestartPolicy {
            backoff,
            initial_delay: HumanDuration::from_millis(initial),
            max_delay: HumanDuration::from_millis(max),
            factor,
            jitter,
            ..RestartPolicy::default()
        })
}

/// Anything that one replica may look like.
fn records() -> impl Strategy<Value = Option<(Record, Option<InFlight>)>> {
    let phase = prop_oneof![
        Just(Phase::Starting {
            since: now(),
            pending: None,
        }),
        Just(Phase::Starting {
            since: now(),
            pending: Some(crate::model::Pending {
                since: now(),
                why: Some("no room".to_owned()),
            }),
        }),
        any::<bool>().prop_map(|ready| {
            let health = Health {
                started: true,
                ready,
                ..Health::default()
            };
            Phase::Running {
                since: now(),
                health,
            }
        }),
        Just(Phase::Stopping {
            since: now(),
            started_at: now(),
            cause: StopCause::SpecChanged,
            failed: None
        }),
    ];
    let instance = prop::option::of((phase, 1_u64..3));
    let intent = prop_oneof![
        Just(RunIntent::Run),
        Just(RunIntent::Stop { at: now() }),
        (0_u64..3).prop_map(|upto| RunIntent::Restart {
            at: now(),
            upto,
            pull: Pull::No
        }),
        (0_u64..3).prop_map(|upto| RunIntent::Start { at: now(), upto }),
    ];
    let end = prop::option::of((0_i32..2, any::<bool>(), 0_u64..100_000));
    let busy = prop::option::weighted(0.1, Just(InFlight::Stop));
    prop::option::of((instance, intent, end, busy)).prop_map(|all| {
        all.map(|(instance, intent, end, busy)| {
            let mut record = match end {
                Some((code, charged, ago)) => {
                    let charge = if charged {
                        Charge::Upstream("a".parse().unwrap())
                    } else {
                        Charge::Own
                    };
                    ended("x", EndCause::Itself(charge), ExitStatus::Code(code), ago)
                }
                None => Record::default(),
            };
            record.intent = intent;
            record.instance = instance.map(|(phase, revision)| Instance {
                phase,
                ..running("x", revision, true).instance.unwrap()
            });
            (record, busy)
        })
    })
}

proptest! {
    #[test]
    fn delays_never_shrink_and_never_exceed_the_cap_with_its_jitter(
        policy in policies(), failures in 1_u32..200
    ) {
        let plain = RestartPolicy { jitter: 0.0, ..policy.clone() };
        let one = restart::delay(&plain, failures, &id("a", 1));
        let next = restart::delay(&plain, failures + 1, &id("a", 1));
        prop_assert!(one <= next);
        prop_assert!(next <= policy.max_delay.get().max(Duration::ZERO));
        let jittered = restart::delay(&policy, failures, &id("a", 1));
        prop_assert!(jittered >= one && jittered <= one.mul_f64(1.0 + policy.jitter) + Duration::from_millis(1));
    }

    #[test]
    fn plans_are_safe_total_and_deterministic(
        a in records(), b in records(), c in records(), blind in any::<bool>(), full in any::<bool>(),
        wanted in 0_u32..8,
    ) {
        let all = [("a", a), ("b", b), ("c", c)];
        let mut kept = BTreeMap::new();
        let mut busy = BTreeMap::new();
        for (name, entry) in all {
            if let Some((mut record, call)) = entry {
                if let Some(instance) = &mut record.instance {
                    instance.id = id(name, 1);
                }
                kept.insert(key(name), record);
                if let Some(call) = call {
                    busy.insert(key(name), call);
                }
            }
        }
        let components = [("a", &[][..]), ("b", &["a"][..]), ("c", &["a", "b"][..])]
            .into_iter()
            .enumerate()
            .filter(|(index, _)| wanted & (1 << index) != 0)
            .map(|(_, (name, after))| component(name, 1, after))
            .collect();
        let desired = Desired::new(Arc::new(pipeline(components)));
        let mut seen = observed(&kept);
        seen.busy = Cow::Borrowed(&busy);
        if blind {
            seen.blind.drivers = [(DriverKind::Process, "down".to_owned())].into();
        }
        seen.frozen = full.then_some("disk full");
        let plan_one = plan(&desired, &seen, now());
        prop_assert_eq!(&plan_one, &plan(&desired, &seen, now()));
        let mut stepped = std::collections::BTreeSet::new();
        for step in &plan_one.steps {
            prop_assert!(stepped.insert(step.replica.clone()), "two steps for one replica");
            prop_assert!(!busy.contains_key(&step.replica), "a step for a busy replica");
            let record = kept.get(&step.replica);
            if let Action::Start { instance } = &step.action {
                prop_assert!(record.is_none_or(|r| r.instance.is_none()), "a second instance");
                prop_assert!(instance.incarnation > record.map_or(0, |r| r.incarnation));
                prop_assert!(!blind && !full);
            }
            if let Action::Stop { .. } = &step.action {
                prop_assert!(!blind, "a blind driver's component was touched");
            }
        }
        for (replica, _) in desired.replicas() {
            let record = kept.get(&replica);
            let fine = record.and_then(|r| r.instance.as_ref()).is_some_and(|instance| {
                instance.spec == hash(1)
                    && matches!(&instance.phase, Phase::Running { health, .. } if health.ready)
            });
            let told = stepped.contains(&replica) || plan_one.holds.contains_key(&replica);
            prop_assert!(fine || told, "{replica} is unsettled without a word");
        }
        for hold in plan_one.holds.values() {
            if let Hold::Backoff { until, .. } = hold {
                prop_assert!(plan_one.wake_at.is_some_and(|at| at <= *until));
            }
        }
    }
}
