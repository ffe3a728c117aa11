//! One closed ledger to its token transfer events, in the shape of CAP-67. Pure.
//!
//! Classic operations are derived from the operation, its result and the ledger entries it
//! changed; contracts' events are taken from the transaction's meta. Events come in the order in
//! which the money moved: all fees first, then each transaction's operations, and refunds after
//! their transaction, or, from protocol 23 on, at the very end.

mod address;
mod changes;
mod classic;
mod contract;
mod fees;
mod ledger;
mod movement;
mod revocation;

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};
use stellar_xdr::{LedgerCloseMeta, Limits, OperationResultTr, ReadXdr};

use crate::lake::batch::MAX_DEPTH;
use crate::proto::token_transfer::TokenTransferEvent;
use ledger::Transaction;
use movement::Scene;

pub use address::contract_of;

/// The network that ledgers come from. It decides transactions' hashes and assets' contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    id: [u8; 32],
}

impl Network {
    /// The network of `passphrase`.
    pub fn new(passphrase: &str) -> Self {
        Self {
            id: Sha256::digest(passphrase.as_bytes()).into(),
        }
    }

    /// The hash of the passphrase.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }
}

/// Why a ledger's events can't be told.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum EventsError {
    /// The bytes are no ledger.
    #[error("not the XDR of a ledger: {0}")]
    Xdr(String),
    /// A transaction was applied that the ledger's transaction set does not hold.
    #[error(
        "transaction {0} was applied and is not in the ledger's transaction set; is the network passphrase right?"
    )]
    UnknownTransaction(String),
    /// An operation's outcome contradicts the operation, or lacks what it has to have.
    #[error("operation {operation} of transaction {transaction}: {reason}")]
    Contradiction {
        /// The transaction's hash.
        transaction: String,
        /// The operation's place in it, counted from 1.
        operation: usize,
        /// What does not fit.
        reason: &'static str,
    },
}

/// Decodes a ledger.
///
/// # Errors
/// The bytes are no ledger.
pub fn decode(xdr: &[u8]) -> Result<LedgerCloseMeta, EventsError> {
    let limits = Limits {
        depth: MAX_DEPTH,
        len: xdr.len(),
    };
    LedgerCloseMeta::from_xdr(xdr, limits).map_err(|error| EventsError::Xdr(error.to_string()))
}

/// All events of `ledger`, in order.
///
/// # Errors
/// The ledger contradicts itself, or belongs to another network.
pub fn of_ledger(
    network: Network,
    ledger: &LedgerCloseMeta,
) -> Result<Vec<TokenTransferEvent>, EventsError> {
    let ledger = ledger::Ledger::of(network, ledger)?;
    let refunds_last = ledger.protocol >= 23;
    let (mut all, mut operations, mut refunds) = (Vec::new(), Vec::new(), Vec::new());
    for transaction in &ledger.transactions {
        let (charge, refund) = fees::of(network, &ledger, transaction);
        all.push(charge);
        of_operations(network, &ledger, transaction, &mut operations)?;
        if refunds_last {
            refunds.extend(refund);
        } else {
            operations.extend(refund);
        }
    }
    all.append(&mut operations);
    all.append(&mut refunds);
    Ok(all)
}

fn of_operations(
    network: Network,
    ledger: &ledger::Ledger<'_>,
    transaction: &Transaction<'_>,
    out: &mut Vec<TokenTransferEvent>,
) -> Result<(), EventsError> {
    // A transaction that failed moved nothing but its fee.
    let Some(results) = transaction.results else {
        return Ok(());
    };
    for (index, operation) in transaction.operations.iter().enumerate() {
        let contradiction = |reason| EventsError::Contradiction {
            transaction: transaction.hash.clone(),
            operation: index + 1,
            reason,
        };
        let result: &OperationResultTr = match results.get(index) {
            Some(stellar_xdr::OperationResult::OpInner(result)) => result,
            Some(_) | None => return Err(contradiction("it has no result")),
        };
        let scene = Scene {
            network,
            ledger,
            transaction,
            operation,
            index,
        };
        classic::events(&scene, result, out).map_err(contradiction)?;
    }
    Ok(())
}
