//! A scene of the script as a closed ledger.

use stellar_xdr::{
    AccountEntry, ExtensionPoint, FeeBumpTransaction, FeeBumpTransactionEnvelope,
    FeeBumpTransactionInnerTx, GeneralizedTransactionSet, Hash, InnerTransactionResult,
    InnerTransactionResultPair, InnerTransactionResultResult, LedgerCloseMeta, LedgerCloseMetaV1,
    LedgerCloseMetaV2, LedgerEntryChange, LedgerEntryChanges, LedgerEntryData, LedgerHeader,
    LedgerHeaderHistoryEntry, Memo, OperationMeta, OperationMetaV2, OperationResult,
    SequenceNumber, SorobanTransactionMeta, SorobanTransactionMetaV2, StellarValue, TimePoint,
    Transaction, TransactionEnvelope, TransactionExt, TransactionMeta, TransactionMetaV3,
    TransactionMetaV4, TransactionPhase, TransactionResult, TransactionResultMeta,
    TransactionResultMetaV1, TransactionResultPair, TransactionResultResult, TransactionSetV1,
    TransactionV1Envelope, TxSetComponent, TxSetComponentTxsMaybeDiscountedFee, VecM,
};

use super::meta;
use super::operations::{self, At, entry};
use super::script::{Ending, Planned, Scene, Step};
use super::truth;
use super::world::{self, Account, Coin};
use crate::consumer::record::Record;

/// A balance large enough for every fee.
const BALANCE: i64 = 1_000_000_000_000;

/// A synthetic ledger, and the events a correct pipeline finds in it.
#[derive(Debug, Clone)]
pub struct Made {
    /// The ledger.
    pub ledger: LedgerCloseMeta,
    /// Its events.
    pub events: Vec<Record>,
}

/// Makes the ledger of `scene`.
pub fn ledger(scene: &Scene) -> Made {
    let network = world::key(world::PASSPHRASE);
    let mut envelopes = Vec::new();
    let mut hashes = Vec::new();
    for (place, planned) in scene.transactions.iter().enumerate() {
        let envelope = envelope(planned, sequence_number(scene, place));
        hashes.push(envelope.hash(network).expect("a transaction can be hashed"));
        envelopes.push(envelope);
    }
    let revoked = |place: usize, operation: usize, coin: Coin| {
        operations::revoked(at(scene, place, operation), coin)
    };
    let events = truth::events(scene, &hashes, &revoked);

    let header = LedgerHeaderHistoryEntry {
        header: LedgerHeader {
            ledger_version: scene.protocol,
            ledger_seq: scene.sequence,
            scp_value: StellarValue {
                close_time: TimePoint(scene.closed_at),
                ..Default::default()
            },
            ..Default::default()
        },
        ..Default::default()
    };
    let applied = scene
        .transactions
        .iter()
        .zip(&envelopes)
        .zip(&hashes)
        .enumerate();
    let applied = applied
        .map(|(place, ((planned, envelope), hash))| apply(scene, place, planned, envelope, hash));
    let tx_set = set(&envelopes, &hashes);
    let ledger = if scene.protocol >= 23 {
        let outcomes = applied.map(|applied| TransactionResultMetaV1 {
            ext: ExtensionPoint::V0,
            result: applied.result,
            fee_processing: applied.fee,
            tx_apply_processing: applied.meta,
            post_tx_apply_fee_processing: applied.refund,
        });
        LedgerCloseMeta::V2(LedgerCloseMetaV2 {
            ledger_header: header,
            tx_set,
            tx_processing: list(outcomes),
            ..Default::default()
        })
    } else {
        let outcomes = applied.map(|applied| TransactionResultMeta {
            result: applied.result,
            fee_processing: applied.fee,
            tx_apply_processing: applied.meta,
        });
        LedgerCloseMeta::V1(LedgerCloseMetaV1 {
            ledger_header: header,
            tx_set,
            tx_processing: list(outcomes),
            ..Default::default()
        })
    };
    Made { ledger, events }
}

fn list<T: std::fmt::Debug, const MAX: u32>(items: impl Iterator<Item = T>) -> VecM<T, MAX> {
    let items: Vec<T> = items.collect();
    items.try_into().expect("a synthetic ledger is small")
}

fn sequence_number(scene: &Scene, place: usize) -> i64 {
    i64::from(scene.sequence) * 1000 + i64::try_from(place).expect("a few transactions")
}

fn at(scene: &Scene, place: usize, operation: usize) -> At {
    At {
        transaction_source: scene.transactions[place].source,
        sequence_number: sequence_number(scene, place),
        operation,
    }
}

/// The set of transactions, sorted by hash, as the network keeps it.
fn set(envelopes: &[TransactionEnvelope], hashes: &[[u8; 32]]) -> GeneralizedTransactionSet {
    let mut sorted: Vec<_> = hashes.iter().zip(envelopes.iter().cloned()).collect();
    sorted.sort_by_key(|(hash, _)| **hash);
    let component = TxSetComponentTxsMaybeDiscountedFee {
        base_fee: Some(100),
        txs: list(sorted.into_iter().map(|(_, envelope)| envelope)),
    };
    let component = TxSetComponent::TxsetCompTxsMaybeDiscountedFee(component);
    GeneralizedTransactionSet::V1(TransactionSetV1 {
        previous_ledger_hash: Hash::default(),
        phases: list([TransactionPhase::V0(list([component].into_iter()))].into_iter()),
    })
}

fn envelope(planned: &Planned, sequence_number: i64) -> TransactionEnvelope {
    let soroban = TransactionExt::V1(Default::default());
    let tx = Transaction {
        source_account: planned.source.muxed(None),
        fee: 100,
        seq_num: SequenceNumber(sequence_number),
        memo: planned.memo.map_or(Memo::None, Memo::Id),
        operations: list(
            planned
                .steps
                .iter()
                .map(|(source, step)| operations::operation(*source, step)),
        ),
        ext: if planned.calls_contract() {
            soroban
        } else {
            TransactionExt::V0
        },
        ..Default::default()
    };
    let inner = TransactionV1Envelope {
        tx,
        signatures: VecM::default(),
    };
    match planned.sponsor {
        None => TransactionEnvelope::Tx(inner),
        Some(sponsor) => TransactionEnvelope::TxFeeBump(FeeBumpTransactionEnvelope {
            tx: FeeBumpTransaction {
                fee_source: sponsor.muxed(Some(77)),
                fee: planned.fee,
                inner_tx: FeeBumpTransactionInnerTx::Tx(inner),
                ..Default::default()
            },
            signatures: VecM::default(),
        }),
    }
}

/// What one transaction left behind.
struct Applied {
    result: TransactionResultPair,
    fee: LedgerEntryChanges,
    meta: TransactionMeta,
    refund: LedgerEntryChanges,
}

fn apply(
    scene: &Scene,
    place: usize,
    planned: &Planned,
    envelope: &TransactionEnvelope,
    hash: &[u8; 32],
) -> Applied {
    let payer = planned.sponsor.unwrap_or(planned.source);
    let fee = balance(payer, BALANCE, BALANCE - planned.fee);
    let refund = match planned.refund {
        0 => LedgerEntryChanges::default(),
        refund => balance(payer, BALANCE - planned.fee, BALANCE - planned.fee + refund),
    };
    let (refund_within, refund) = if scene.protocol >= 23 {
        (LedgerEntryChanges::default(), refund)
    } else {
        (refund, LedgerEntryChanges::default())
    };
    let meta = match planned.ending {
        Ending::Success => meta_of(scene, place, planned, refund_within),
        Ending::Failure => failed_meta(scene, refund_within),
    };
    Applied {
        result: result(planned, envelope, hash),
        fee,
        meta,
        refund,
    }
}

/// A change of an account's balance.
fn balance(account: Account, before: i64, after: i64) -> LedgerEntryChanges {
    let entry = |balance| {
        let account_id = account.id();
        entry(LedgerEntryData::Account(AccountEntry {
            account_id,
            balance,
            ..Default::default()
        }))
    };
    let changes = [
        LedgerEntryChange::State(entry(before)),
        LedgerEntryChange::Updated(entry(after)),
    ];
    LedgerEntryChanges(list(changes.into_iter()))
}

fn meta_of(
    scene: &Scene,
    place: usize,
    planned: &Planned,
    tx_changes_after: LedgerEntryChanges,
) -> TransactionMeta {
    let steps = || planned.steps.iter().enumerate();
    let changes = |index, step: &Step| operations::changes(step, at(scene, place, index));
    let emitted = |source, step: &Step| meta::emitted(source, step, scene.protocol);
    let contract = planned.calls_contract();
    if scene.protocol >= 23 {
        let operation = |(index, (source, step)): (usize, &(Account, Step))| OperationMetaV2 {
            ext: ExtensionPoint::V0,
            changes: changes(index, step),
            events: list(emitted(*source, step).into_iter()),
        };
        return TransactionMeta::V4(TransactionMetaV4 {
            operations: list(steps().map(operation)),
            tx_changes_after,
            soroban_meta: contract.then(SorobanTransactionMetaV2::default),
            ..Default::default()
        });
    }
    let soroban = || SorobanTransactionMeta {
        events: list(
            planned
                .steps
                .iter()
                .flat_map(|(source, step)| emitted(*source, step)),
        ),
        ..Default::default()
    };
    TransactionMeta::V3(TransactionMetaV3 {
        operations: list(steps().map(|(index, (_, step))| OperationMeta {
            changes: changes(index, step),
        })),
        tx_changes_after,
        soroban_meta: contract.then(soroban),
        ..Default::default()
    })
}

/// What a failed transaction leaves: no operation's changes.
fn failed_meta(scene: &Scene, tx_changes_after: LedgerEntryChanges) -> TransactionMeta {
    if scene.protocol >= 23 {
        TransactionMeta::V4(TransactionMetaV4 {
            tx_changes_after,
            ..Default::default()
        })
    } else {
        TransactionMeta::V3(TransactionMetaV3 {
            tx_changes_after,
            ..Default::default()
        })
    }
}

fn result(
    planned: &Planned,
    envelope: &TransactionEnvelope,
    hash: &[u8; 32],
) -> TransactionResultPair {
    let each = || {
        planned
            .steps
            .iter()
            .map(|(_, step)| OperationResult::OpInner(operations::result(step)))
    };
    // Inside a failed transaction an operation may have succeeded; nothing of it stays.
    let failed = || {
        each()
            .take(1)
            .chain(each().skip(1).map(|_| OperationResult::OpBadAuth))
    };
    let fee_charged = planned.fee - planned.refund;
    let result = match (envelope, planned.ending) {
        (TransactionEnvelope::TxFeeBump(_), ending) => {
            let result = match ending {
                Ending::Success => InnerTransactionResultResult::TxSuccess(list(each())),
                Ending::Failure => InnerTransactionResultResult::TxFailed(list(failed())),
            };
            let inner = InnerTransactionResultPair {
                transaction_hash: Hash::default(),
                result: InnerTransactionResult {
                    fee_charged: 0,
                    result,
                    ..Default::default()
                },
            };
            match ending {
                Ending::Success => TransactionResultResult::TxFeeBumpInnerSuccess(inner),
                Ending::Failure => TransactionResultResult::TxFeeBumpInnerFailed(inner),
            }
        }
        (_, Ending::Success) => TransactionResultResult::TxSuccess(list(each())),
        (_, Ending::Failure) => TransactionResultResult::TxFailed(list(failed())),
    };
    TransactionResultPair {
        transaction_hash: Hash(*hash),
        result: TransactionResult {
            fee_charged,
            result,
            ..Default::default()
        },
    }
}
