//! The movements of each kind of operation.

use stellar_xdr::{
    AccountId, AccountMergeResult, Asset, ClaimAtom, CreateClaimableBalanceResult, InflationResult,
    LedgerEntryChanges, ManageBuyOfferResult, ManageSellOfferResult, OperationBody,
    OperationResultTr, PathPaymentStrictReceiveResult, PathPaymentStrictSendResult, PublicKey,
};

use super::address;
use super::changes::{self, PoolChange};
use super::contract;
use super::movement::{Party, Recipient, Scene};
use super::revocation;
use crate::proto::token_transfer::TokenTransferEvent;

type Events = Vec<TokenTransferEvent>;

const OTHER_RESULT: &str = "its result is that of another operation, or of one that failed";
const NO_CHANGES: &str = "the ledger does not tell what it changed";
const NO_BALANCE: &str = "the ledger does not tell which claimable balance it removed";
const NOT_ONE_POOL: &str = "it changed more or less than one liquidity pool";

/// Adds the events of a successful operation to `out`.
///
/// # Errors
/// What does not fit together.
pub(super) fn events(
    scene: &Scene<'_>,
    result: &OperationResultTr,
    out: &mut Events,
) -> Result<(), &'static str> {
    use OperationBody as Body;
    use OperationResultTr as Outcome;
    let source = Party::from(scene.source());
    let mut named = |asset: &Asset, from: &Party, to: &Party, amount| {
        out.push(scene.moved(asset, from, to, amount, Recipient::Named));
    };
    match (&scene.operation.body, result) {
        (Body::CreateAccount(op), Outcome::CreateAccount(_)) => {
            named(
                &Asset::Native,
                &source,
                &Party::from(&op.destination),
                op.starting_balance,
            );
        }
        (Body::Payment(op), Outcome::Payment(_)) => {
            named(
                &op.asset,
                &source,
                &op.destination.clone().into(),
                op.amount,
            );
        }
        (Body::AccountMerge(to), Outcome::AccountMerge(AccountMergeResult::Success(amount))) => {
            named(&Asset::Native, &source, &to.clone().into(), *amount);
        }
        (
            Body::PathPaymentStrictSend(op),
            Outcome::PathPaymentStrictSend(PathPaymentStrictSendResult::Success(done)),
        ) => {
            traded(scene, &done.offers, out);
            let (to, got) = (op.destination.clone().into(), done.last.amount);
            out.push(scene.moved(&op.dest_asset, &source, &to, got, Recipient::Named));
        }
        (
            Body::PathPaymentStrictReceive(op),
            Outcome::PathPaymentStrictReceive(PathPaymentStrictReceiveResult::Success(done)),
        ) => {
            traded(scene, &done.offers, out);
            let to = op.destination.clone().into();
            out.push(scene.moved(
                &op.dest_asset,
                &source,
                &to,
                op.dest_amount,
                Recipient::Named,
            ));
        }
        (
            Body::ManageSellOffer(_),
            Outcome::ManageSellOffer(ManageSellOfferResult::Success(done)),
        )
        | (
            Body::CreatePassiveSellOffer(_),
            // The network answers a passive offer with either kind of result.
            Outcome::CreatePassiveSellOffer(ManageSellOfferResult::Success(done))
            | Outcome::ManageSellOffer(ManageSellOfferResult::Success(done)),
        )
        | (Body::ManageBuyOffer(_), Outcome::ManageBuyOffer(ManageBuyOfferResult::Success(done))) =>
        {
            traded(scene, &done.offers_claimed, out);
        }
        (
            Body::CreateClaimableBalance(op),
            Outcome::CreateClaimableBalance(CreateClaimableBalanceResult::Success(id)),
        ) => {
            let to = Party::Balance(id.clone());
            out.push(scene.moved(&op.asset, &source, &to, op.amount, Recipient::Counterparty));
        }
        (Body::ClaimClaimableBalance(op), Outcome::ClaimClaimableBalance(_)) => {
            let changes = changed(scene)?;
            let balance = changes::removed_balance(changes, &op.balance_id).ok_or(NO_BALANCE)?;
            let from = Party::Balance(op.balance_id.clone());
            named(&balance.asset, &from, &source, balance.amount);
        }
        (Body::Clawback(op), Outcome::Clawback(_)) => {
            out.push(scene.clawed_back(&op.asset, &op.from.clone().into(), op.amount));
        }
        (Body::ClawbackClaimableBalance(op), Outcome::ClawbackClaimableBalance(_)) => {
            let changes = changed(scene)?;
            let balance = changes::removed_balance(changes, &op.balance_id).ok_or(NO_BALANCE)?;
            let from = Party::Balance(op.balance_id.clone());
            out.push(scene.clawed_back(&balance.asset, &from, balance.amount));
        }
        (Body::LiquidityPoolDeposit(_), Outcome::LiquidityPoolDeposit(_)) => {
            let pool = one_pool(scene)?;
            let into = Party::Pool(pool.id.clone());
            for (asset, amount) in [(&pool.asset_a, pool.moved_a), (&pool.asset_b, pool.moved_b)] {
                out.push(scene.moved(asset, &source, &into, amount, Recipient::Counterparty));
            }
        }
        (Body::LiquidityPoolWithdraw(_), Outcome::LiquidityPoolWithdraw(_)) => {
            let pool = one_pool(scene)?;
            let from = Party::Pool(pool.id.clone());
            named(&pool.asset_a, &from, &source, pool.moved_a);
            named(&pool.asset_b, &from, &source, pool.moved_b);
        }
        (Body::AllowTrust(_), Outcome::AllowTrust(_))
        | (Body::SetTrustLineFlags(_), Outcome::SetTrustLineFlags(_)) => {
            revocation::events(scene, changed(scene)?, out);
        }
        (Body::Inflation, Outcome::Inflation(InflationResult::Success(payouts))) => {
            out.extend(
                payouts
                    .iter()
                    .map(|paid| scene.inflated(&paid.destination, paid.amount)),
            );
        }
        (Body::InvokeHostFunction(_), Outcome::InvokeHostFunction(_)) => {
            contract::events(scene, out)
        }
        // These move no tokens, whatever their result.
        (
            Body::SetOptions(_)
            | Body::ChangeTrust(_)
            | Body::ManageData(_)
            | Body::BumpSequence(_)
            | Body::BeginSponsoringFutureReserves(_)
            | Body::EndSponsoringFutureReserves
            | Body::RevokeSponsorship(_)
            | Body::ExtendFootprintTtl(_)
            | Body::RestoreFootprint(_),
            _,
        ) => {}
        _ => return Err(OTHER_RESULT),
    }
    Ok(())
}

fn changed<'a>(scene: &Scene<'a>) -> Result<&'a LedgerEntryChanges, &'static str> {
    changes::of_operation(scene.transaction.meta, scene.index).ok_or(NO_CHANGES)
}

fn one_pool(scene: &Scene<'_>) -> Result<PoolChange, &'static str> {
    <[PoolChange; 1]>::try_from(changes::pools(changed(scene)?))
        .map(|[pool]| pool)
        .map_err(|_| NOT_ONE_POOL)
}

/// Each trade is two movements: what was sold to us, and what we gave for it.
fn traded(scene: &Scene<'_>, claims: &[ClaimAtom], out: &mut Events) {
    let us = Party::from(&address::base(&scene.source()));
    for claim in claims {
        let (seller, sold, bought) = match claim {
            ClaimAtom::V0(offer) => {
                let seller = AccountId(PublicKey::PublicKeyTypeEd25519(
                    offer.seller_ed25519.clone(),
                ));
                (
                    Party::from(&seller),
                    (&offer.asset_sold, offer.amount_sold),
                    (&offer.asset_bought, offer.amount_bought),
                )
            }
            ClaimAtom::OrderBook(offer) => {
                let seller = Party::from(&offer.seller_id);
                (
                    seller,
                    (&offer.asset_sold, offer.amount_sold),
                    (&offer.asset_bought, offer.amount_bought),
                )
            }
            ClaimAtom::LiquidityPool(pool) => {
                let seller = Party::Pool(pool.liquidity_pool_id.clone());
                (
                    seller,
                    (&pool.asset_sold, pool.amount_sold),
                    (&pool.asset_bought, pool.amount_bought),
                )
            }
        };
        out.push(scene.moved(sold.0, &seller, &us, sold.1, Recipient::Counterparty));
        out.push(scene.moved(bought.0, &us, &seller, bought.1, Recipient::Counterparty));
    }
}
