//! What contracts emitted: the events of token contracts before and since CAP-67.

use stellar_xdr::{
    ContractEvent, ContractEventBody, ContractEventType, ContractEventV0, ContractId,
    ExtensionPoint, Hash, Int128Parts, ScAddress, ScMap, ScMapEntry, ScString, ScSymbol, ScVal,
};

use super::script::{Step, TokenCall};
use super::truth;
use super::world::{self, Account, Coin};

/// A name as contracts write it.
pub(super) fn symbol(name: &str) -> ScSymbol {
    ScSymbol(name.try_into().expect("a short name fits"))
}

/// What a step emitted under a version of the protocol.
pub(super) fn emitted(source: Account, step: &Step, protocol: u32) -> Vec<ContractEvent> {
    let cap_67 = protocol >= 23;
    let name = |name: &str| ScVal::Symbol(symbol(name));
    let administrator = name_of(Account(3));
    match *step {
        Step::Token { call, amount } => {
            let (topics, id) = match call {
                TokenCall::Transfer(to, id) => {
                    (vec![name("transfer"), name_of(source), name_of(to)], id)
                }
                TokenCall::Mint(to) if cap_67 => (vec![name("mint"), name_of(to)], None),
                TokenCall::Mint(to) => (vec![name("mint"), administrator, name_of(to)], None),
                TokenCall::Burn => (vec![name("burn"), name_of(source)], None),
                TokenCall::Clawback(from) if cap_67 => {
                    (vec![name("clawback"), name_of(from)], None)
                }
                TokenCall::Clawback(from) => {
                    (vec![name("clawback"), administrator, name_of(from)], None)
                }
            };
            let data = match id {
                Some(id) if cap_67 => named_amount(amount, id),
                Some(_) | None => number(amount),
            };
            let nearby = event(
                world::key("another"),
                vec![name("updated"), number(1)],
                number(1),
            );
            vec![nearby, event(world::token(), topics, data)]
        }
        Step::Wrapped { to, money } => {
            let to_issuer = money.coin.issuer() == Some(to);
            let mut topics = if cap_67 && to_issuer {
                vec![name("burn"), name_of(source)]
            } else {
                vec![name("transfer"), name_of(source), name_of(to)]
            };
            topics.push(spelled(money.coin));
            let contract = truth::contract_of(money.coin);
            vec![event(contract, topics, number(money.amount.into()))]
        }
        // A transfer of something that cannot be counted, and a word that no token uses.
        Step::Chatter => {
            let odd = vec![name("transfer"), name_of(source), name_of(Account(5))];
            let word = vec![name("approve"), name_of(source), name_of(Account(5))];
            vec![
                event(world::token(), odd, ScVal::Void),
                event(world::token(), word, number(7)),
            ]
        }
        Step::Create { .. }
        | Step::Pay { .. }
        | Step::Path { .. }
        | Step::Offer { .. }
        | Step::LonelyOffer
        | Step::Merge { .. }
        | Step::Lock { .. }
        | Step::Claim { .. }
        | Step::Clawback { .. }
        | Step::ClawbackLocked { .. }
        | Step::Deposit { .. }
        | Step::Withdraw { .. }
        | Step::Revoke { .. }
        | Step::Trust => Vec::new(),
    }
}

fn event(contract: [u8; 32], topics: Vec<ScVal>, data: ScVal) -> ContractEvent {
    ContractEvent {
        ext: ExtensionPoint::V0,
        contract_id: Some(ContractId(Hash(contract))),
        type_: ContractEventType::Contract,
        body: ContractEventBody::V0(ContractEventV0 {
            topics: topics.try_into().expect("a few topics fit"),
            data,
        }),
    }
}

fn name_of(account: Account) -> ScVal {
    ScVal::Address(ScAddress::Account(account.id()))
}

fn number(amount: i128) -> ScVal {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the two halves"
    )]
    let parts = Int128Parts {
        hi: (amount >> 64) as i64,
        lo: amount as u64,
    };
    ScVal::I128(parts)
}

fn named_amount(amount: i128, id: u64) -> ScVal {
    let entry = |key: &str, val| ScMapEntry {
        key: ScVal::Symbol(symbol(key)),
        val,
    };
    let entries = [
        entry("amount", number(amount)),
        entry("to_muxed_id", ScVal::U64(id)),
    ];
    ScVal::Map(Some(ScMap(entries.try_into().expect("two entries fit"))))
}

fn spelled(coin: Coin) -> ScVal {
    let text = match (coin.code(), coin.issuer()) {
        (Some(code), Some(issuer)) => {
            let key = stellar_strkey::ed25519::PublicKey(issuer.key());
            format!("{code}:{}", key.to_string().as_str())
        }
        _ => "native".to_owned(),
    };
    ScVal::String(ScString(
        text.as_str().try_into().expect("a short text fits"),
    ))
}
