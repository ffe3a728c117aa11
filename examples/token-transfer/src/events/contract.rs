//! Token events that contracts emit, as SEP-41 and CAP-67 describe them.
//!
//! | event | topics after the name | since CAP-67 |
//! |---|---|---|
//! | `transfer` | from, to, \[asset\] | data may be a map of `amount` and `to_muxed_id` |
//! | `mint` | admin, to, \[asset\] | no admin; the same map |
//! | `clawback` | admin, from, \[asset\] | no admin |
//! | `burn` | from, \[asset\] | |
//!
//! Both shapes are told apart by their topics, so that tokens written before and after CAP-67 are
//! understood side by side. What has neither shape is some other event, and is passed over.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other type is no part of a token event"
)]

use stellar_xdr::{
    Asset, ContractEvent, ContractEventBody, ContractEventType, ScMap, ScVal, TransactionMeta,
};

use super::address;
use super::movement::{Scene, info};
use crate::proto::token_transfer::muxed_info::Content;
use crate::proto::token_transfer::token_transfer_event::Event;
use crate::proto::token_transfer::{Burn, Clawback, Mint, MuxedInfo, TokenTransferEvent, Transfer};

/// Adds the token events among those that the operation's contracts emitted.
pub(super) fn events(scene: &Scene<'_>, out: &mut Vec<TokenTransferEvent>) {
    let (emitted, before_cap_67) = match scene.transaction.meta {
        TransactionMeta::V0(_) | TransactionMeta::V1(_) | TransactionMeta::V2(_) => return,
        TransactionMeta::V3(meta) => match &meta.soroban_meta {
            Some(soroban) => (soroban.events.as_slice(), true),
            None => return,
        },
        TransactionMeta::V4(meta) => match meta.operations.get(scene.index) {
            Some(operation) => (operation.events.as_slice(), false),
            None => return,
        },
    };
    out.extend(
        emitted
            .iter()
            .filter_map(|event| token_event(scene, event, before_cap_67)),
    );
}

/// What a token event says, before it is known whether its token stands for a classic asset.
struct Said<'a> {
    what: What,
    /// The topic behind the addresses, where a classic asset's contract names the asset.
    asset: Option<&'a ScVal>,
}

enum What {
    Transfer { from: String, to: String },
    Mint { to: String },
    Burn { from: String },
    Clawback { from: String },
}

fn token_event(
    scene: &Scene<'_>,
    event: &ContractEvent,
    before_cap_67: bool,
) -> Option<TokenTransferEvent> {
    if event.type_ != ContractEventType::Contract {
        return None;
    }
    let contract = &event.contract_id.as_ref()?.0.0;
    let ContractEventBody::V0(body) = &event.body;
    let said = said(&body.topics)?;
    let (amount, told_apart) = amount(&body.data)?;
    let asset = said.asset.and_then(|topic| classic(scene, topic, contract));

    let mut meta = scene.meta(contract);
    meta.to_muxed_info = told_apart;
    let what = match (&asset, said.what) {
        // Before CAP-67 a classic asset's contract called everything a transfer.
        (Some(asset), What::Transfer { from, to }) => {
            let what = about_issuer(asset, from, to);
            let names_account = |to: &str| to.starts_with('G');
            match &what {
                What::Transfer { to, .. } | What::Mint { to }
                    if before_cap_67 && names_account(to) =>
                {
                    meta.to_muxed_info = meta.to_muxed_info.or_else(|| scene.memo());
                }
                What::Transfer { .. }
                | What::Mint { .. }
                | What::Burn { .. }
                | What::Clawback { .. } => {}
            }
            what
        }
        (_, what) => what,
    };
    let asset = asset.as_ref().map(address::message);
    let event = match what {
        What::Transfer { from, to } => Event::Transfer(Transfer {
            from,
            to,
            asset,
            amount,
        }),
        What::Mint { to } => Event::Mint(Mint { to, asset, amount }),
        What::Burn { from } => Event::Burn(Burn {
            from,
            asset,
            amount,
        }),
        What::Clawback { from } => Event::Clawback(Clawback {
            from,
            asset,
            amount,
        }),
    };
    Some(TokenTransferEvent {
        meta: Some(meta),
        event: Some(event),
    })
}

fn said(topics: &[ScVal]) -> Option<Said<'_>> {
    let ScVal::Symbol(name) = topics.first()? else {
        return None;
    };
    let party = |index: usize| match topics.get(index)? {
        ScVal::Address(address) => address::of_contract_value(address),
        _ => None,
    };
    let name = std::str::from_utf8(name.as_slice()).ok()?;
    // The account a mint or clawback is about; an administrator may stand before it.
    let about = || match party(2) {
        Some(about) => party(1).map(|_| (about, 3)),
        None => party(1).map(|about| (about, 2)),
    };
    let (what, next) = match name {
        "transfer" => (
            What::Transfer {
                from: party(1)?,
                to: party(2)?,
            },
            3,
        ),
        "burn" => (What::Burn { from: party(1)? }, 2),
        "mint" => about().map(|(to, next)| (What::Mint { to }, next))?,
        "clawback" => about().map(|(from, next)| (What::Clawback { from }, next))?,
        _ => return None,
    };
    // The asset is the last topic; more of them mean something else.
    let asset = topics.get(next).filter(|_| topics.len() == next + 1);
    Some(Said { what, asset })
}

/// The amount, and what tells the recipient apart.
fn amount(data: &ScVal) -> Option<(String, Option<MuxedInfo>)> {
    match data {
        ScVal::I128(parts) => Some((decimal(parts), None)),
        ScVal::Map(Some(ScMap(entries))) => {
            let (mut amount, mut told_apart) = (None, None);
            for entry in entries.iter() {
                let ScVal::Symbol(key) = &entry.key else {
                    return None;
                };
                match (key.as_slice(), &entry.val) {
                    (b"amount", ScVal::I128(parts)) => amount = Some(decimal(parts)),
                    (b"amount", _) => return None,
                    (b"to_muxed_id", value) => told_apart = Some(info(content(value)?)),
                    _ => {}
                }
            }
            Some((amount?, told_apart))
        }
        _ => None,
    }
}

fn content(value: &ScVal) -> Option<Content> {
    match value {
        ScVal::U64(id) => Some(Content::Id(*id)),
        ScVal::Bytes(bytes) => {
            // A memo's hash has 32 bytes.
            let mut hash = bytes.as_slice().to_vec();
            hash.resize(32, 0);
            Some(Content::Hash(hash))
        }
        ScVal::String(text) => Some(Content::Text(
            String::from_utf8_lossy(text.as_slice()).into_owned(),
        )),
        _ => None,
    }
}

fn decimal(parts: &stellar_xdr::Int128Parts) -> String {
    ((i128::from(parts.hi) << 64) | i128::from(parts.lo)).to_string()
}

/// The classic asset that `topic` names, if `contract` is truly the one that stands for it.
fn classic(scene: &Scene<'_>, topic: &ScVal, contract: &[u8; 32]) -> Option<Asset> {
    let ScVal::String(text) = topic else {
        return None;
    };
    let asset = address::parse(std::str::from_utf8(text.as_slice()).ok()?)?;
    (address::contract_of(scene.network, &asset) == *contract).then_some(asset)
}

/// A transfer from the issuer is a mint, one to the issuer a burn, and one from the issuer to
/// itself a transfer all the same.
fn about_issuer(asset: &Asset, from: String, to: String) -> What {
    let issuer = address::issuer(asset).map(address::account);
    let is_issuer = |party: &str| issuer.as_deref() == Some(party);
    match (is_issuer(&from), is_issuer(&to)) {
        (true, false) => What::Mint { to },
        (false, true) => What::Burn { from },
        (true, true) | (false, false) => What::Transfer { from, to },
    }
}
