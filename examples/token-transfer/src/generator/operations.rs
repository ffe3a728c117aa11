//! One step of the script as an operation, its result, and the ledger entries it changed.

use sha2::{Digest, Sha256};
use stellar_xdr::{
    AccountMergeResult, Asset, ChangeTrustAsset, ChangeTrustOp, ClaimAtom, ClaimClaimableBalanceOp,
    ClaimClaimableBalanceResult, ClaimLiquidityAtom, ClaimOfferAtom, ClaimableBalanceEntry,
    ClaimableBalanceId, ClawbackClaimableBalanceOp, ClawbackOp, CreateAccountOp,
    CreateClaimableBalanceOp, CreateClaimableBalanceResult, CreatePassiveSellOfferOp, Hash,
    HashIdPreimage, HashIdPreimageRevokeId, HostFunction, InvokeContractArgs, InvokeHostFunctionOp,
    LedgerEntry, LedgerEntryChange, LedgerEntryChanges, LedgerEntryData, LedgerKey,
    LedgerKeyClaimableBalance, Limits, LiquidityPoolConstantProductParameters,
    LiquidityPoolDepositOp, LiquidityPoolEntry, LiquidityPoolEntryBody,
    LiquidityPoolEntryConstantProduct, LiquidityPoolWithdrawOp, ManageBuyOfferOp,
    ManageBuyOfferResult, ManageOfferSuccessResult, ManageOfferSuccessResultOffer,
    ManageSellOfferOp, ManageSellOfferResult, Operation, OperationBody, OperationResultTr,
    PathPaymentStrictReceiveOp, PathPaymentStrictReceiveResult,
    PathPaymentStrictReceiveResultSuccess, PathPaymentStrictSendOp, PathPaymentStrictSendResult,
    PathPaymentStrictSendResultSuccess, PaymentOp, PoolId, Price, SequenceNumber,
    SetTrustLineFlagsOp, SimplePaymentResult, WriteXdr,
};

use super::meta;
use super::script::{Dealer, Fixed, Money, Placing, Step};
use super::world::{self, Account, Coin};

/// What the pool holds before it is touched.
const RESERVE: i64 = 50_000_000_000;

const AT_PAR: Price = Price { n: 1, d: 1 };

/// Where an operation stands: enough to compute the ids of what it creates.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub transaction_source: Account,
    pub sequence_number: i64,
    pub operation: usize,
}

/// The operation for a step.
pub(super) fn operation(source: Account, step: &Step) -> Operation {
    Operation {
        source_account: Some(source.muxed(None)),
        body: body(step),
    }
}

fn body(step: &Step) -> OperationBody {
    let locked =
        |number| ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(world::balance(number)));
    let pool = PoolId(Hash(world::pool()));
    match *step {
        Step::Create { to, amount } => OperationBody::CreateAccount(CreateAccountOp {
            destination: to.id(),
            starting_balance: amount,
        }),
        Step::Pay { to, id, money } => OperationBody::Payment(PaymentOp {
            destination: to.muxed(id),
            asset: money.coin.asset(),
            amount: money.amount,
        }),
        Step::Path {
            to,
            spent,
            dealer: _,
            got,
            fixed: Fixed::Sent,
        } => {
            OperationBody::PathPaymentStrictSend(PathPaymentStrictSendOp {
                send_asset: spent.coin.asset(),
                send_amount: spent.amount,
                destination: to.muxed(None),
                dest_asset: got.coin.asset(),
                // What is asked for at least is not what arrives.
                dest_min: got.amount / 2,
                ..Default::default()
            })
        }
        Step::Path {
            to,
            spent,
            dealer: _,
            got,
            fixed: Fixed::Received,
        } => OperationBody::PathPaymentStrictReceive(PathPaymentStrictReceiveOp {
            send_asset: spent.coin.asset(),
            send_max: spent.amount * 2,
            destination: to.muxed(None),
            dest_asset: got.coin.asset(),
            dest_amount: got.amount,
            ..Default::default()
        }),
        Step::Offer {
            placing,
            seller: _,
            given,
            got,
        } => offer(placing, given, got),
        Step::LonelyOffer => {
            let coin = |coin| Money { amount: 5, coin };
            offer(Placing::Sell, coin(Coin::Native), coin(Coin::Short))
        }
        Step::Merge { to, amount: _ } => OperationBody::AccountMerge(to.muxed(None)),
        Step::Lock { number: _, money } => {
            OperationBody::CreateClaimableBalance(CreateClaimableBalanceOp {
                asset: money.coin.asset(),
                amount: money.amount,
                ..Default::default()
            })
        }
        Step::Claim { number, money: _ } => {
            OperationBody::ClaimClaimableBalance(ClaimClaimableBalanceOp {
                balance_id: locked(number),
            })
        }
        Step::Clawback { from, money } => OperationBody::Clawback(ClawbackOp {
            asset: money.coin.asset(),
            from: from.muxed(None),
            amount: money.amount,
        }),
        Step::ClawbackLocked { number, money: _ } => {
            let balance_id = locked(number);
            OperationBody::ClawbackClaimableBalance(ClawbackClaimableBalanceOp { balance_id })
        }
        Step::Deposit { native, short } => {
            OperationBody::LiquidityPoolDeposit(LiquidityPoolDepositOp {
                liquidity_pool_id: pool,
                // Again, what is allowed at most is not what is taken.
                max_amount_a: native * 2,
                max_amount_b: short * 2,
                min_price: AT_PAR,
                max_price: AT_PAR,
            })
        }
        Step::Withdraw {
            native: _,
            short: _,
        } => OperationBody::LiquidityPoolWithdraw(LiquidityPoolWithdrawOp {
            liquidity_pool_id: pool,
            amount: 7,
            min_amount_a: 1,
            min_amount_b: 1,
        }),
        Step::Revoke {
            holder,
            native: _,
            short: _,
        } => OperationBody::SetTrustLineFlags(SetTrustLineFlagsOp {
            trustor: holder.id(),
            asset: Coin::Short.asset(),
            clear_flags: 1,
            set_flags: 0,
        }),
        Step::Trust => OperationBody::ChangeTrust(ChangeTrustOp {
            line: ChangeTrustAsset::Native,
            limit: i64::MAX,
        }),
        Step::Token { .. } | Step::Wrapped { .. } | Step::Chatter => {
            OperationBody::InvokeHostFunction(InvokeHostFunctionOp {
                host_function: HostFunction::InvokeContract(InvokeContractArgs {
                    function_name: meta::symbol("call"),
                    ..Default::default()
                }),
                ..Default::default()
            })
        }
    }
}

fn offer(placing: Placing, given: Money, got: Money) -> OperationBody {
    let (selling, buying) = (given.coin.asset(), got.coin.asset());
    let (amount, price, offer_id) = (given.amount * 2, AT_PAR, 0);
    match placing {
        Placing::Sell => OperationBody::ManageSellOffer(ManageSellOfferOp {
            selling,
            buying,
            amount,
            price,
            offer_id,
        }),
        Placing::Buy => {
            let buy_amount = got.amount * 2;
            OperationBody::ManageBuyOffer(ManageBuyOfferOp {
                selling,
                buying,
                buy_amount,
                price,
                offer_id,
            })
        }
        Placing::Passive => OperationBody::CreatePassiveSellOffer(CreatePassiveSellOfferOp {
            selling,
            buying,
            amount,
            price,
        }),
    }
}

/// The result of a step that took effect.
pub(super) fn result(step: &Step) -> OperationResultTr {
    match *step {
        Step::Create { .. } => OperationResultTr::CreateAccount(Default::default()),
        Step::Pay { .. } => OperationResultTr::Payment(Default::default()),
        Step::Path {
            to,
            spent,
            dealer,
            got,
            fixed,
        } => {
            let offers = one(claim(dealer, spent, got));
            let last = SimplePaymentResult {
                destination: to.id(),
                asset: got.coin.asset(),
                amount: got.amount,
            };
            match fixed {
                Fixed::Sent => {
                    OperationResultTr::PathPaymentStrictSend(PathPaymentStrictSendResult::Success(
                        PathPaymentStrictSendResultSuccess { offers, last },
                    ))
                }
                Fixed::Received => OperationResultTr::PathPaymentStrictReceive(
                    PathPaymentStrictReceiveResult::Success(
                        PathPaymentStrictReceiveResultSuccess { offers, last },
                    ),
                ),
            }
        }
        Step::Offer {
            placing,
            seller,
            given,
            got,
        } => {
            let done = ManageOfferSuccessResult {
                offers_claimed: one(claim(Dealer::Offer(seller), given, got)),
                offer: ManageOfferSuccessResultOffer::Deleted,
            };
            match placing {
                Placing::Sell => {
                    OperationResultTr::ManageSellOffer(ManageSellOfferResult::Success(done))
                }
                Placing::Buy => {
                    OperationResultTr::ManageBuyOffer(ManageBuyOfferResult::Success(done))
                }
                Placing::Passive => {
                    OperationResultTr::CreatePassiveSellOffer(ManageSellOfferResult::Success(done))
                }
            }
        }
        Step::LonelyOffer => OperationResultTr::ManageSellOffer(ManageSellOfferResult::Success(
            ManageOfferSuccessResult::default(),
        )),
        Step::Merge { to: _, amount } => {
            OperationResultTr::AccountMerge(AccountMergeResult::Success(amount))
        }
        Step::Lock { number, money: _ } => {
            let id = ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(world::balance(number)));
            OperationResultTr::CreateClaimableBalance(CreateClaimableBalanceResult::Success(id))
        }
        Step::Claim { .. } => {
            OperationResultTr::ClaimClaimableBalance(ClaimClaimableBalanceResult::Success)
        }
        Step::Clawback { .. } => OperationResultTr::Clawback(Default::default()),
        Step::ClawbackLocked { .. } => {
            OperationResultTr::ClawbackClaimableBalance(Default::default())
        }
        Step::Deposit { .. } => OperationResultTr::LiquidityPoolDeposit(Default::default()),
        Step::Withdraw { .. } => OperationResultTr::LiquidityPoolWithdraw(Default::default()),
        Step::Revoke { .. } => OperationResultTr::SetTrustLineFlags(Default::default()),
        Step::Trust => OperationResultTr::ChangeTrust(Default::default()),
        Step::Token { .. } | Step::Wrapped { .. } | Step::Chatter => {
            OperationResultTr::InvokeHostFunction(Default::default())
        }
    }
}

/// What the dealer sold us, and what we gave for it.
fn claim(dealer: Dealer, given: Money, got: Money) -> ClaimAtom {
    let (asset_sold, amount_sold) = (got.coin.asset(), got.amount);
    let (asset_bought, amount_bought) = (given.coin.asset(), given.amount);
    match dealer {
        Dealer::Offer(seller) => ClaimAtom::OrderBook(ClaimOfferAtom {
            seller_id: seller.id(),
            offer_id: 9,
            asset_sold,
            amount_sold,
            asset_bought,
            amount_bought,
        }),
        Dealer::Pool => ClaimAtom::LiquidityPool(ClaimLiquidityAtom {
            liquidity_pool_id: PoolId(Hash(world::pool())),
            asset_sold,
            amount_sold,
            asset_bought,
            amount_bought,
        }),
    }
}

/// The ledger entries that a step changed, as far as anybody reads them.
pub(super) fn changes(step: &Step, at: At) -> LedgerEntryChanges {
    let changes = match *step {
        Step::Claim { number, money } | Step::ClawbackLocked { number, money } => {
            let balance = locked(world::balance(number), money);
            let key = LedgerKeyClaimableBalance {
                balance_id: balance.balance_id.clone(),
            };
            vec![
                LedgerEntryChange::State(entry(LedgerEntryData::ClaimableBalance(balance))),
                LedgerEntryChange::Removed(LedgerKey::ClaimableBalance(key)),
            ]
        }
        Step::Lock { number, money } => {
            let balance = locked(world::balance(number), money);
            vec![LedgerEntryChange::Created(entry(
                LedgerEntryData::ClaimableBalance(balance),
            ))]
        }
        Step::Deposit { native, short } => pool_change(native, short).into(),
        Step::Withdraw { native, short } => pool_change(-native, -short).into(),
        Step::Revoke {
            holder: _,
            native,
            short,
        } => {
            let mut changes: Vec<_> = pool_change(-native, -short).into();
            for (coin, amount) in [(Coin::Short, short), (Coin::Native, native)] {
                let balance = locked(revoked(at, coin), Money { amount, coin });
                changes.push(LedgerEntryChange::Created(entry(
                    LedgerEntryData::ClaimableBalance(balance),
                )));
            }
            changes
        }
        Step::Create { .. }
        | Step::Pay { .. }
        | Step::Path { .. }
        | Step::Offer { .. }
        | Step::LonelyOffer
        | Step::Merge { .. }
        | Step::Clawback { .. }
        | Step::Trust
        | Step::Token { .. }
        | Step::Wrapped { .. }
        | Step::Chatter => Vec::new(),
    };
    LedgerEntryChanges(changes.try_into().expect("a few changes fit"))
}

fn locked(id: [u8; 32], money: Money) -> ClaimableBalanceEntry {
    ClaimableBalanceEntry {
        balance_id: ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(id)),
        asset: money.coin.asset(),
        amount: money.amount,
        ..Default::default()
    }
}

fn pool_change(native: i64, short: i64) -> [LedgerEntryChange; 2] {
    let pool = |reserve_a, reserve_b| {
        entry(LedgerEntryData::LiquidityPool(LiquidityPoolEntry {
            liquidity_pool_id: PoolId(Hash(world::pool())),
            body: LiquidityPoolEntryBody::LiquidityPoolConstantProduct(
                LiquidityPoolEntryConstantProduct {
                    params: LiquidityPoolConstantProductParameters {
                        asset_a: Asset::Native,
                        asset_b: Coin::Short.asset(),
                        fee: 30,
                    },
                    reserve_a,
                    reserve_b,
                    ..Default::default()
                },
            ),
        }))
    };
    [
        LedgerEntryChange::State(pool(RESERVE, RESERVE)),
        LedgerEntryChange::Updated(pool(RESERVE + native, RESERVE + short)),
    ]
}

pub(super) fn entry(data: LedgerEntryData) -> LedgerEntry {
    LedgerEntry {
        data,
        ..Default::default()
    }
}

/// The id of the balance that a revocation makes of a coin of the pool.
pub(super) fn revoked(at: At, coin: Coin) -> [u8; 32] {
    let preimage = HashIdPreimage::PoolRevokeOpId(HashIdPreimageRevokeId {
        source_account: at.transaction_source.id(),
        seq_num: SequenceNumber(at.sequence_number),
        op_num: u32::try_from(at.operation).expect("a transaction has few operations"),
        liquidity_pool_id: PoolId(Hash(world::pool())),
        asset: coin.asset(),
    });
    Sha256::digest(
        preimage
            .to_xdr(Limits::none())
            .expect("it fits into memory"),
    )
    .into()
}

fn one<T: Clone>(item: T) -> stellar_xdr::VecM<T> {
    [item].try_into().expect("one item fits")
}
