//! What transactions paid, and what they got back.

use stellar_xdr::{Asset, LedgerEntryChange, LedgerEntryChanges, LedgerEntryData, TransactionMeta};

use super::ledger::{Ledger, Transaction};
use super::movement::meta;
use super::{Network, address};
use crate::proto::token_transfer::token_transfer_event::Event;
use crate::proto::token_transfer::{Fee, TokenTransferEvent};

/// The fee of a transaction, and its refund if there is one, as a negative fee.
///
/// A classic transaction's fee is what its result says. One that runs a contract pays up front
/// and gets back what it did not use; the result has the difference only, so both are read from
/// the payer's balance.
pub(super) fn of(
    network: Network,
    ledger: &Ledger<'_>,
    transaction: &Transaction<'_>,
) -> (TokenTransferEvent, Option<TokenTransferEvent>) {
    let payer = address::base(&transaction.fee_source);
    let contract = address::contract_of(network, &Asset::Native);
    let from = address::account(&payer);
    let event = |amount: i64| TokenTransferEvent {
        meta: Some(meta(ledger, transaction, None, &contract)),
        event: Some(Event::Fee(Fee {
            from: from.clone(),
            asset: Some(address::message(&Asset::Native)),
            amount: amount.to_string(),
        })),
    };
    if !transaction.soroban {
        return (event(transaction.fee_charged), None);
    }
    let charged = -gained(&payer, transaction.fee_changes).unwrap_or(-transaction.fee_charged);
    let refund = match transaction.refund_changes {
        Some(changes) if ledger.protocol >= 23 => gained(&payer, changes),
        Some(_) | None => after_apply(transaction.meta).and_then(|changes| gained(&payer, changes)),
    };
    let refund = refund.filter(|refund| *refund > 0);
    (event(charged), refund.map(|refund| event(-refund)))
}

fn after_apply(meta: &TransactionMeta) -> Option<&LedgerEntryChanges> {
    match meta {
        TransactionMeta::V0(_) | TransactionMeta::V1(_) => None,
        TransactionMeta::V2(meta) => Some(&meta.tx_changes_after),
        TransactionMeta::V3(meta) => Some(&meta.tx_changes_after),
        TransactionMeta::V4(meta) => Some(&meta.tx_changes_after),
    }
}

/// By how much the account's balance grew; `None` when the changes don't touch it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only accounts hold the native asset"
)]
fn gained(account: &stellar_xdr::AccountId, changes: &LedgerEntryChanges) -> Option<i64> {
    let balance = |entry: &stellar_xdr::LedgerEntry| match &entry.data {
        LedgerEntryData::Account(entry) if entry.account_id == *account => Some(entry.balance),
        _ => None,
    };
    let (mut before, mut after) = (None, None);
    for change in changes.0.iter() {
        match change {
            LedgerEntryChange::State(entry) => before = before.or(balance(entry)),
            LedgerEntryChange::Created(entry)
            | LedgerEntryChange::Updated(entry)
            | LedgerEntryChange::Restored(entry) => after = balance(entry).or(after),
            LedgerEntryChange::Removed(_) => {}
        }
    }
    after?.checked_sub(before?)
}
