//! Making events: who gave how much of what to whom becomes a transfer, a mint or a burn.

use prost_types::Timestamp;
use stellar_xdr::{AccountId, Asset, ClaimableBalanceId, Memo, MuxedAccount, Operation, PoolId};

use super::ledger::{Ledger, Transaction};
use super::{Network, address};
use crate::proto::token_transfer::muxed_info::Content;
use crate::proto::token_transfer::token_transfer_event::Event;
use crate::proto::token_transfer::{
    Burn, Clawback, EventMeta, Mint, MuxedInfo, TokenTransferEvent, Transfer,
};

/// An operation and all that surrounds it.
pub(super) struct Scene<'a> {
    pub network: Network,
    pub ledger: &'a Ledger<'a>,
    pub transaction: &'a Transaction<'a>,
    pub operation: &'a Operation,
    /// The operation's place in the transaction, counted from 0.
    pub index: usize,
}

/// One side of a movement.
#[derive(Debug, Clone)]
pub(super) enum Party {
    Account(MuxedAccount),
    Balance(ClaimableBalanceId),
    Pool(PoolId),
}

impl From<MuxedAccount> for Party {
    fn from(account: MuxedAccount) -> Self {
        Self::Account(account)
    }
}

impl From<&AccountId> for Party {
    fn from(account: &AccountId) -> Self {
        let AccountId(stellar_xdr::PublicKey::PublicKeyTypeEd25519(key)) = account;
        Self::Account(MuxedAccount::Ed25519(key.clone()))
    }
}

impl Party {
    fn text(&self) -> String {
        match self {
            Self::Account(account) => address::account(&address::base(account)),
            Self::Balance(id) => address::balance(id),
            Self::Pool(id) => address::pool(id),
        }
    }

    fn issues(&self, asset: &Asset) -> bool {
        match self {
            Self::Account(account) => address::issuer(asset) == Some(&address::base(account)),
            Self::Balance(_) | Self::Pool(_) => false,
        }
    }
}

/// Whether the recipient is told apart by its multiplexed id or the transaction's memo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipient {
    /// Told apart: the sender named it.
    Named,
    /// Not: it is the other side of a trade or a pool.
    Counterparty,
}

impl Scene<'_> {
    /// The account the operation belongs to.
    pub(super) fn source(&self) -> MuxedAccount {
        let own = self.operation.source_account.as_ref();
        own.unwrap_or(&self.transaction.source).clone()
    }

    /// The position of this operation's events.
    pub(super) fn meta(&self, contract: &[u8; 32]) -> EventMeta {
        let operation = u32::try_from(self.index + 1).expect("a transaction has few operations");
        meta(self.ledger, self.transaction, Some(operation), contract)
    }

    pub(super) fn asset_meta(&self, asset: &Asset) -> EventMeta {
        self.meta(&address::contract_of(self.network, asset))
    }

    /// `amount` of `asset` moved from one party to another. The issuer has none of its own asset:
    /// what it gives comes into being, and what it gets ceases to be.
    pub(super) fn moved(
        &self,
        asset: &Asset,
        from: &Party,
        to: &Party,
        amount: i64,
        recipient: Recipient,
    ) -> TokenTransferEvent {
        let mut meta = self.asset_meta(asset);
        let (minted, burned) = (from.issues(asset), to.issues(asset));
        if recipient == Recipient::Named && !burned {
            meta.to_muxed_info = self.told_apart(to);
        }
        let amount = amount.to_string();
        let kind = Some(address::message(asset));
        let event = match (minted, burned) {
            (true, false) => Event::Mint(Mint {
                to: to.text(),
                asset: kind,
                amount,
            }),
            (false, true) => Event::Burn(Burn {
                from: from.text(),
                asset: kind,
                amount,
            }),
            (true, true) | (false, false) => Event::Transfer(Transfer {
                from: from.text(),
                to: to.text(),
                asset: kind,
                amount,
            }),
        };
        TokenTransferEvent {
            meta: Some(meta),
            event: Some(event),
        }
    }

    /// The issuer took back `amount` of `asset`.
    pub(super) fn clawed_back(
        &self,
        asset: &Asset,
        from: &Party,
        amount: i64,
    ) -> TokenTransferEvent {
        let event = Clawback {
            from: from.text(),
            asset: Some(address::message(asset)),
            amount: amount.to_string(),
        };
        TokenTransferEvent {
            meta: Some(self.asset_meta(asset)),
            event: Some(Event::Clawback(event)),
        }
    }

    /// `amount` of `asset` ceased to be, without going to the issuer's account.
    pub(super) fn burned(&self, asset: &Asset, from: &Party, amount: i64) -> TokenTransferEvent {
        let event = Burn {
            from: from.text(),
            asset: Some(address::message(asset)),
            amount: amount.to_string(),
        };
        TokenTransferEvent {
            meta: Some(self.asset_meta(asset)),
            event: Some(Event::Burn(event)),
        }
    }

    /// `amount` of the native asset came into being.
    pub(super) fn inflated(&self, to: &AccountId, amount: i64) -> TokenTransferEvent {
        let event = Mint {
            to: address::account(to),
            asset: Some(address::message(&Asset::Native)),
            amount: amount.to_string(),
        };
        TokenTransferEvent {
            meta: Some(self.asset_meta(&Asset::Native)),
            event: Some(Event::Mint(event)),
        }
    }

    /// What tells the recipient apart: its multiplexed id, else the transaction's memo.
    fn told_apart(&self, to: &Party) -> Option<MuxedInfo> {
        match to {
            Party::Account(MuxedAccount::MuxedEd25519(muxed)) => Some(info(Content::Id(muxed.id))),
            Party::Account(MuxedAccount::Ed25519(_)) => self.memo(),
            Party::Balance(_) | Party::Pool(_) => None,
        }
    }

    /// The transaction's memo as what tells a recipient apart.
    pub(super) fn memo(&self) -> Option<MuxedInfo> {
        match self.transaction.memo {
            Memo::None => None,
            Memo::Text(text) => Some(info(Content::Text(
                String::from_utf8_lossy(text.as_slice()).into_owned(),
            ))),
            Memo::Id(id) => Some(info(Content::Id(*id))),
            Memo::Hash(hash) | Memo::Return(hash) => Some(info(Content::Hash(hash.0.to_vec()))),
        }
    }
}

pub(super) fn info(content: Content) -> MuxedInfo {
    MuxedInfo {
        content: Some(content),
    }
}

/// The position of an event; an operation's is counted from 1, fees have none.
pub(super) fn meta(
    ledger: &Ledger<'_>,
    transaction: &Transaction<'_>,
    operation_index: Option<u32>,
    contract: &[u8; 32],
) -> EventMeta {
    let seconds = i64::try_from(ledger.closed_at).unwrap_or(i64::MAX);
    EventMeta {
        ledger_sequence: ledger.sequence,
        closed_at: Some(Timestamp { seconds, nanos: 0 }),
        tx_hash: transaction.hash.clone(),
        transaction_index: transaction.index,
        operation_index,
        contract_address: address::contract(contract),
        to_muxed_info: None,
    }
}
