//! What an operation did to pools and claimable balances, which its result does not tell.

use stellar_xdr::{
    Asset, ClaimableBalanceEntry, ClaimableBalanceId, LedgerEntry, LedgerEntryChange,
    LedgerEntryChanges, LedgerEntryData, LedgerKey, LiquidityPoolEntry, LiquidityPoolEntryBody,
    PoolId, TransactionMeta,
};

/// The changes of the operation at `index`.
pub(super) fn of_operation(meta: &TransactionMeta, index: usize) -> Option<&LedgerEntryChanges> {
    match meta {
        TransactionMeta::V0(operations) => operations.get(index).map(|meta| &meta.changes),
        TransactionMeta::V1(meta) => meta.operations.get(index).map(|meta| &meta.changes),
        TransactionMeta::V2(meta) => meta.operations.get(index).map(|meta| &meta.changes),
        TransactionMeta::V3(meta) => meta.operations.get(index).map(|meta| &meta.changes),
        TransactionMeta::V4(meta) => meta.operations.get(index).map(|meta| &meta.changes),
    }
}

/// What happened to one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolChange {
    pub id: PoolId,
    pub asset_a: Asset,
    pub asset_b: Asset,
    /// By how much the reserves changed, up or down.
    pub moved_a: i64,
    pub moved_b: i64,
}

/// The pools whose reserves or shares were touched, each once.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other kinds of entries are no pools"
)]
pub(super) fn pools(changes: &LedgerEntryChanges) -> Vec<PoolChange> {
    let pool = |entry: &LedgerEntry| match &entry.data {
        LedgerEntryData::LiquidityPool(pool) => Some(pool.clone()),
        _ => None,
    };
    let mut found: Vec<PoolChange> = Vec::new();
    let mut before: Option<LiquidityPoolEntry> = None;
    for change in changes.0.iter() {
        match change {
            LedgerEntryChange::State(entry) => before = pool(entry),
            LedgerEntryChange::Created(entry) => {
                found.extend(pool(entry).and_then(|after| difference(None, Some(after))));
            }
            LedgerEntryChange::Updated(entry) | LedgerEntryChange::Restored(entry) => {
                if let Some(after) = pool(entry) {
                    found.extend(difference(before.take(), Some(after)));
                }
            }
            LedgerEntryChange::Removed(LedgerKey::LiquidityPool(_)) => {
                found.extend(difference(before.take(), None));
            }
            LedgerEntryChange::Removed(_) => {}
        }
    }
    found
}

fn difference(
    before: Option<LiquidityPoolEntry>,
    after: Option<LiquidityPoolEntry>,
) -> Option<PoolChange> {
    let reserves = |entry: &LiquidityPoolEntry| {
        let LiquidityPoolEntryBody::LiquidityPoolConstantProduct(body) = &entry.body;
        (body.reserve_a, body.reserve_b)
    };
    let (a0, b0) = before.as_ref().map(reserves).unwrap_or_default();
    let (a1, b1) = after.as_ref().map(reserves).unwrap_or_default();
    let entry = after.or(before)?;
    let LiquidityPoolEntryBody::LiquidityPoolConstantProduct(body) = entry.body;
    Some(PoolChange {
        id: entry.liquidity_pool_id,
        asset_a: body.params.asset_a,
        asset_b: body.params.asset_b,
        moved_a: a1.saturating_sub(a0).saturating_abs(),
        moved_b: b1.saturating_sub(b0).saturating_abs(),
    })
}

/// The claimable balances that came to be.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other changes create no balance"
)]
pub(super) fn created_balances(changes: &LedgerEntryChanges) -> Vec<ClaimableBalanceEntry> {
    let created = changes.0.iter().filter_map(|change| match change {
        LedgerEntryChange::Created(entry) => balance(entry),
        _ => None,
    });
    created.cloned().collect()
}

/// The claimable balance `id` as it was before it was removed.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other changes remove no balance"
)]
pub(super) fn removed_balance<'a>(
    changes: &'a LedgerEntryChanges,
    id: &ClaimableBalanceId,
) -> Option<&'a ClaimableBalanceEntry> {
    let removed = changes.0.iter().any(|change| match change {
        LedgerEntryChange::Removed(LedgerKey::ClaimableBalance(key)) => key.balance_id == *id,
        _ => false,
    });
    let before = changes.0.iter().find_map(|change| match change {
        LedgerEntryChange::State(entry) => balance(entry).filter(|entry| entry.balance_id == *id),
        _ => None,
    });
    before.filter(|_| removed)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other kinds of entries are no balances"
)]
fn balance(entry: &LedgerEntry) -> Option<&ClaimableBalanceEntry> {
    match &entry.data {
        LedgerEntryData::ClaimableBalance(balance) => Some(balance),
        _ => None,
    }
}
