//! A closed ledger as its transactions in the order in which they were applied, whatever the
//! version of its meta.

use std::collections::HashMap;

use stellar_xdr::{
    FeeBumpTransactionInnerTx, GeneralizedTransactionSet, InnerTransactionResultResult,
    LedgerCloseMeta, LedgerEntryChanges, LedgerHeader, Memo, MuxedAccount, Operation,
    OperationResult, TransactionEnvelope, TransactionExt, TransactionMeta, TransactionPhase,
    TransactionResult, TransactionResultPair, TransactionResultResult, TxSetComponent,
};

use super::{EventsError, Network, address};

/// A closed ledger.
pub(super) struct Ledger<'a> {
    pub sequence: u32,
    pub protocol: u32,
    /// Seconds since 1970.
    pub closed_at: u64,
    pub transactions: Vec<Transaction<'a>>,
}

/// One applied transaction.
pub(super) struct Transaction<'a> {
    /// Its place in the order of application, counted from 1.
    pub index: u32,
    /// Its hash in hexadecimal.
    pub hash: String,
    /// The account that operations belong to which name no other.
    pub source: MuxedAccount,
    /// The account that paid the fee.
    pub fee_source: MuxedAccount,
    pub sequence_number: i64,
    pub memo: &'a Memo,
    pub operations: &'a [Operation],
    /// The operations' results; `None` when the transaction failed.
    pub results: Option<&'a [OperationResult]>,
    /// Whether it ran a contract, or changed the lifetime of a contract's data.
    pub soroban: bool,
    pub fee_charged: i64,
    pub meta: &'a TransactionMeta,
    /// What taking the fee changed.
    pub fee_changes: &'a LedgerEntryChanges,
    /// What giving back a part of the fee changed, where that happens after all transactions.
    pub refund_changes: Option<&'a LedgerEntryChanges>,
}

/// What one transaction left behind, whatever the version.
struct Outcome<'a> {
    pair: &'a TransactionResultPair,
    fee_changes: &'a LedgerEntryChanges,
    meta: &'a TransactionMeta,
    refund_changes: Option<&'a LedgerEntryChanges>,
}

impl<'a> Ledger<'a> {
    pub(super) fn of(network: Network, ledger: &'a LedgerCloseMeta) -> Result<Self, EventsError> {
        let mut envelopes = Vec::new();
        let header;
        let outcomes: Vec<Outcome<'a>> = match ledger {
            LedgerCloseMeta::V0(meta) => {
                header = &meta.ledger_header.header;
                envelopes.extend(meta.tx_set.txs.iter());
                meta.tx_processing
                    .iter()
                    .map(Outcome::before_protocol_23)
                    .collect()
            }
            LedgerCloseMeta::V1(meta) => {
                header = &meta.ledger_header.header;
                collect(&meta.tx_set, &mut envelopes);
                meta.tx_processing
                    .iter()
                    .map(Outcome::before_protocol_23)
                    .collect()
            }
            LedgerCloseMeta::V2(meta) => {
                header = &meta.ledger_header.header;
                collect(&meta.tx_set, &mut envelopes);
                let outcome = |applied: &'a stellar_xdr::TransactionResultMetaV1| Outcome {
                    pair: &applied.result,
                    fee_changes: &applied.fee_processing,
                    meta: &applied.tx_apply_processing,
                    refund_changes: Some(&applied.post_tx_apply_fee_processing),
                };
                meta.tx_processing.iter().map(outcome).collect()
            }
        };
        // The set is sorted by hash; the order of application is that of the results.
        let mut by_hash = HashMap::with_capacity(envelopes.len());
        for envelope in envelopes {
            let hash = envelope.hash(network.id());
            by_hash.insert(
                hash.map_err(|error| EventsError::Xdr(error.to_string()))?,
                envelope,
            );
        }
        let transactions = outcomes.into_iter().zip(1..).map(|(outcome, index)| {
            let hash = address::hexadecimal(&outcome.pair.transaction_hash.0);
            match by_hash.get(&outcome.pair.transaction_hash.0) {
                Some(envelope) => Ok(transaction(index, hash, envelope, &outcome)),
                None => Err(EventsError::UnknownTransaction(hash)),
            }
        });
        let transactions = transactions.collect::<Result<_, _>>()?;
        let LedgerHeader {
            ledger_seq,
            ledger_version,
            scp_value,
            ..
        } = header;
        Ok(Self {
            sequence: *ledger_seq,
            protocol: *ledger_version,
            closed_at: scp_value.close_time.0,
            transactions,
        })
    }
}

impl<'a> Outcome<'a> {
    fn before_protocol_23(applied: &'a stellar_xdr::TransactionResultMeta) -> Self {
        Self {
            pair: &applied.result,
            fee_changes: &applied.fee_processing,
            meta: &applied.tx_apply_processing,
            refund_changes: None,
        }
    }
}

fn collect<'a>(set: &'a GeneralizedTransactionSet, into: &mut Vec<&'a TransactionEnvelope>) {
    let GeneralizedTransactionSet::V1(set) = set;
    for phase in set.phases.iter() {
        match phase {
            TransactionPhase::V0(components) => {
                for component in components.iter() {
                    let TxSetComponent::TxsetCompTxsMaybeDiscountedFee(component) = component;
                    into.extend(component.txs.iter());
                }
            }
            TransactionPhase::V1(parallel) => {
                let clusters = parallel
                    .execution_stages
                    .iter()
                    .flat_map(|stage| stage.0.iter());
                into.extend(clusters.flat_map(|cluster| cluster.0.iter()));
            }
        }
    }
}

fn transaction<'a>(
    index: u32,
    hash: String,
    envelope: &'a TransactionEnvelope,
    outcome: &Outcome<'a>,
) -> Transaction<'a> {
    let mut fee_source = None;
    let inner = match envelope {
        TransactionEnvelope::TxFeeBump(bump) => {
            let FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
            fee_source = Some(bump.tx.fee_source.clone());
            Inner::V1(&inner.tx)
        }
        TransactionEnvelope::Tx(envelope) => Inner::V1(&envelope.tx),
        TransactionEnvelope::TxV0(envelope) => Inner::V0(&envelope.tx),
    };
    let (source, sequence_number, memo, operations, soroban) = match inner {
        Inner::V1(tx) => {
            let soroban = matches!(tx.ext, TransactionExt::V1(_));
            let source = tx.source_account.clone();
            (
                source,
                tx.seq_num.0,
                &tx.memo,
                tx.operations.as_slice(),
                soroban,
            )
        }
        Inner::V0(tx) => {
            let source = MuxedAccount::Ed25519(tx.source_account_ed25519.clone());
            (
                source,
                tx.seq_num.0,
                &tx.memo,
                tx.operations.as_slice(),
                false,
            )
        }
    };
    Transaction {
        index,
        hash,
        fee_source: fee_source.unwrap_or_else(|| source.clone()),
        source,
        sequence_number,
        memo,
        operations,
        results: results(&outcome.pair.result),
        soroban,
        fee_charged: outcome.pair.result.fee_charged,
        meta: outcome.meta,
        fee_changes: outcome.fee_changes,
        refund_changes: outcome.refund_changes,
    }
}

enum Inner<'a> {
    V0(&'a stellar_xdr::TransactionV0),
    V1(&'a stellar_xdr::Transaction),
}

/// The results of a successful transaction's operations.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other outcome is a failure"
)]
fn results(result: &TransactionResult) -> Option<&[OperationResult]> {
    match &result.result {
        TransactionResultResult::TxSuccess(results) => Some(results),
        TransactionResultResult::TxFeeBumpInnerSuccess(inner) => match &inner.result.result {
            InnerTransactionResultResult::TxSuccess(results) => Some(results),
            _ => None,
        },
        _ => None,
    }
}
