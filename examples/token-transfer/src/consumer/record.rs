//! An event as a line of the output.

use serde::{Deserialize, Serialize};

use crate::proto::asset::asset::AssetType;
use crate::proto::token_transfer::muxed_info::Content;
use crate::proto::token_transfer::token_transfer_event::Event;
use crate::proto::token_transfer::{EventMeta, MuxedInfo, TokenTransferEvent};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Tokens moved between two holders.
    Transfer,
    /// Tokens came into being.
    Mint,
    /// Tokens ceased to be.
    Burn,
    /// The issuer took tokens back.
    Clawback,
    /// A transaction paid its fee, or got a part of it back.
    Fee,
}

/// One event. `ledger` and `index` together name it for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The ledger it happened in.
    pub ledger: u32,
    /// Its place among the ledger's events, counted from 0.
    pub index: u32,
    /// When the ledger closed, in seconds since 1970.
    pub closed_at: i64,
    /// The transaction's hash.
    pub tx_hash: String,
    /// The transaction's place in the ledger, counted from 1.
    pub transaction_index: u32,
    /// The operation's place in the transaction, counted from 1; absent for fees.
    pub operation_index: Option<u32>,
    /// The token's contract.
    pub contract_address: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Who gave.
    pub from: Option<String>,
    /// Who got.
    pub to: Option<String>,
    /// `native`, or `CODE:ISSUER`; absent for a contract's own token.
    pub asset: Option<String>,
    /// A whole number of the smallest unit.
    pub amount: String,
    /// What tells apart the recipients behind `to`: `id:..`, `text:..` or `hash:..`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to_muxed: Option<String>,
}

/// Why a message is no event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the processor sent a message without {0}")]
pub struct Incomplete(&'static str);

impl Record {
    /// The line for `message`, which is event number `index` of its ledger.
    ///
    /// # Errors
    /// The message lacks a part.
    pub fn of(message: TokenTransferEvent, index: u32) -> Result<Self, Incomplete> {
        let meta: EventMeta = message.meta.ok_or(Incomplete("its position"))?;
        let (kind, from, to, asset, amount) = match message.event.ok_or(Incomplete("an event"))? {
            Event::Transfer(it) => (
                Kind::Transfer,
                Some(it.from),
                Some(it.to),
                it.asset,
                it.amount,
            ),
            Event::Mint(it) => (Kind::Mint, None, Some(it.to), it.asset, it.amount),
            Event::Burn(it) => (Kind::Burn, Some(it.from), None, it.asset, it.amount),
            Event::Clawback(it) => (Kind::Clawback, Some(it.from), None, it.asset, it.amount),
            Event::Fee(it) => (Kind::Fee, Some(it.from), None, it.asset, it.amount),
        };
        let asset = asset
            .and_then(|asset| asset.asset_type)
            .map(|asset| match asset {
                AssetType::Native(_) => "native".to_owned(),
                AssetType::IssuedAsset(issued) => {
                    format!("{}:{}", issued.asset_code, issued.issuer)
                }
            });
        Ok(Self {
            ledger: meta.ledger_sequence,
            index,
            closed_at: meta.closed_at.map(|at| at.seconds).unwrap_or_default(),
            tx_hash: meta.tx_hash,
            transaction_index: meta.transaction_index,
            operation_index: meta.operation_index,
            contract_address: meta.contract_address,
            kind,
            from,
            to,
            asset,
            amount,
            to_muxed: meta.to_muxed_info.and_then(|info| told_apart(&info)),
        })
    }
}

fn told_apart(info: &MuxedInfo) -> Option<String> {
    Some(match info.content.as_ref()? {
        Content::Id(id) => format!("id:{id}"),
        Content::Text(text) => format!("text:{text}"),
        Content::Hash(hash) => {
            let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("hash:{digits}")
        }
    })
}
