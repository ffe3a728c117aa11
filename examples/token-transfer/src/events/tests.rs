//! Every kind of movement, against what the generator's script says must come out.

use std::collections::BTreeMap;

use stellar_xdr::{Limits, WriteXdr};

use super::{EventsError, Network, decode, of_ledger};
use crate::consumer::record::{Kind, Record};
use crate::generator::{encode, script, world};

fn found(sequence: u32, upgrade: u32) -> (Vec<Record>, Vec<Record>) {
    let made = encode::ledger(&script::scene(sequence, upgrade));
    let xdr = made.ledger.to_xdr(Limits::none()).unwrap();
    let network = Network::new(world::PASSPHRASE);
    let events = of_ledger(network, &decode(&xdr).unwrap()).unwrap();
    let records = (0..)
        .zip(events)
        .map(|(index, event)| Record::of(event, index).unwrap());
    (records.collect(), made.events)
}

#[test]
fn every_ledger_yields_exactly_the_events_of_its_script() {
    let mut kinds = BTreeMap::new();
    for sequence in 2..1500 {
        // The same script under the older protocol and under the newer one.
        for upgrade in [0, u32::MAX] {
            let (found, expected) = found(sequence, upgrade);
            assert_eq!(found, expected, "ledger {sequence}, upgrade {upgrade}");
            for record in found {
                *kinds.entry(format!("{:?}", record.kind)).or_insert(0) += 1;
            }
        }
    }
    // A script that never does something proves nothing about it.
    for kind in [
        Kind::Transfer,
        Kind::Mint,
        Kind::Burn,
        Kind::Clawback,
        Kind::Fee,
    ] {
        assert!(kinds[&format!("{kind:?}")] > 200, "{kinds:?}");
    }
}

#[test]
fn refunds_follow_their_transaction_until_protocol_23_and_come_last_from_then_on() {
    let refunds_at = |upgrade: u32| {
        let scenes = (2..500).map(|sequence| encode::ledger(&script::scene(sequence, upgrade)));
        let late = scenes.map(|made| {
            let refund = made
                .events
                .iter()
                .position(|event| event.amount.starts_with('-'));
            refund.is_some_and(|at| {
                made.events[at..]
                    .iter()
                    .any(|event| event.operation_index.is_some())
            })
        });
        late.filter(|before_others| *before_others).count()
    };
    assert!(refunds_at(u32::MAX) > 0);
    assert_eq!(refunds_at(0), 0);
}

#[test]
fn the_wrong_network_is_noticed_rather_than_read_as_an_empty_ledger() {
    let made = encode::ledger(&script::scene(7, 0));
    let error = of_ledger(Network::new("some other network"), &made.ledger).unwrap_err();
    assert!(
        matches!(error, EventsError::UnknownTransaction(_)),
        "{error}"
    );
}

#[test]
fn bytes_that_are_no_ledger_are_an_error() {
    assert!(matches!(decode(b"not a ledger"), Err(EventsError::Xdr(_))));
}
