//! What happens to shares in pools when an issuer revokes the trust line behind them: the pool pays
//! both assets out into claimable balances, or burns the one whose issuer the holder is (CAP-38).

use sha2::{Digest, Sha256};
use stellar_xdr::{
    Asset, ClaimableBalanceId, Hash, HashIdPreimage, HashIdPreimageRevokeId, LedgerEntryChanges,
    Limits, PoolId, SequenceNumber, WriteXdr,
};

use super::address;
use super::changes;
use super::movement::{Party, Recipient, Scene};
use crate::proto::token_transfer::TokenTransferEvent;

/// Adds the payouts of every pool that the operation emptied for a holder.
///
/// The ledger does not tell which pool a new balance comes from, but a balance's id follows from
/// the pool and the asset, so it is computed and looked for.
pub(super) fn events(
    scene: &Scene<'_>,
    changes: &LedgerEntryChanges,
    out: &mut Vec<TokenTransferEvent>,
) {
    let created = changes::created_balances(changes);
    if created.is_empty() {
        return;
    }
    for pool in changes::pools(changes) {
        let paid = |asset: &Asset| {
            let id = balance_id(scene, &pool.id, asset);
            created.iter().find(|balance| balance.balance_id == id)
        };
        let (paid_a, paid_b) = (paid(&pool.asset_a), paid(&pool.asset_b));
        let from = Party::Pool(pool.id.clone());
        for balance in [paid_a, paid_b].into_iter().flatten() {
            let to = Party::Balance(balance.balance_id.clone());
            let amount = balance.amount;
            out.push(scene.moved(&balance.asset, &from, &to, amount, Recipient::Counterparty));
        }
        match (paid_a, paid_b) {
            (Some(_), None) => out.push(scene.burned(&pool.asset_b, &from, pool.moved_b)),
            (None, Some(_)) => out.push(scene.burned(&pool.asset_a, &from, pool.moved_a)),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

fn balance_id(scene: &Scene<'_>, pool: &PoolId, asset: &Asset) -> ClaimableBalanceId {
    let preimage = HashIdPreimage::PoolRevokeOpId(HashIdPreimageRevokeId {
        source_account: address::base(&scene.transaction.source),
        seq_num: SequenceNumber(scene.transaction.sequence_number),
        op_num: u32::try_from(scene.index).expect("a transaction has few operations"),
        liquidity_pool_id: pool.clone(),
        asset: asset.clone(),
    });
    let bytes = preimage
        .to_xdr(Limits::none())
        .expect("a preimage can be written to memory");
    ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(Sha256::digest(bytes).into()))
}
