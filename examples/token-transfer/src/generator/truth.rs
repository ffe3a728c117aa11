//! The events a correct pipeline finds in a synthetic ledger, told from the script alone.

use sha2::{Digest, Sha256};
use stellar_strkey as strkey;

use super::script::{Dealer, Ending, Money, Planned, Scene, Step, TokenCall};
use super::world::{self, Account, Coin};
use crate::consumer::record::{Kind, Record};

/// The events of `scene`, whose transactions have these hashes. `revoked` tells the numbers of the
/// balances that a revocation paid out into.
pub fn events(scene: &Scene, hashes: &[[u8; 32]], revoked: &Revoked<'_>) -> Vec<Record> {
    let mut fees = Vec::new();
    let mut operations = Vec::new();
    let mut refunds = Vec::new();
    for (place, (planned, hash)) in scene.transactions.iter().zip(hashes).enumerate() {
        let teller = Teller {
            scene,
            planned,
            hash,
            place,
        };
        fees.push(teller.fee(planned.fee));
        if planned.ending == Ending::Success {
            for (index, (source, step)) in planned.steps.iter().enumerate() {
                operations.extend(teller.step(index, *source, step, revoked));
            }
        }
        if planned.refund > 0 {
            let into = if scene.protocol >= 23 {
                &mut refunds
            } else {
                &mut operations
            };
            into.push(teller.fee(-planned.refund));
        }
    }
    let all = fees.into_iter().chain(operations).chain(refunds);
    (0..)
        .zip(all)
        .map(|(index, record)| Record { index, ..record })
        .collect()
}

/// The id of the balance that a revocation in (transaction, operation) made of a coin.
pub type Revoked<'a> = dyn Fn(usize, usize, Coin) -> [u8; 32] + 'a;

struct Teller<'a> {
    scene: &'a Scene,
    planned: &'a Planned,
    hash: &'a [u8; 32],
    place: usize,
}

fn account(account: Account) -> String {
    strkey::ed25519::PublicKey(account.key())
        .to_string()
        .as_str()
        .to_owned()
}

fn pool() -> String {
    strkey::LiquidityPool(world::pool())
        .to_string()
        .as_str()
        .to_owned()
}

fn balance(id: [u8; 32]) -> String {
    strkey::ClaimableBalance::V0(id)
        .to_string()
        .as_str()
        .to_owned()
}

fn contract(id: [u8; 32]) -> String {
    strkey::Contract(id).to_string().as_str().to_owned()
}

/// The contract that stands for a coin: a hash over the network and the coin, spelled out by hand.
pub fn contract_of(coin: Coin) -> [u8; 32] {
    let mut bytes = vec![0, 0, 0, 8];
    bytes.extend_from_slice(&world::key(world::PASSPHRASE));
    bytes.extend_from_slice(&[0, 0, 0, 1]);
    let padded = |size: usize| {
        let mut code = coin.code().unwrap_or_default().as_bytes().to_vec();
        code.resize(size, 0);
        code
    };
    match coin {
        Coin::Native => bytes.extend_from_slice(&[0, 0, 0, 0]),
        Coin::Short => {
            bytes.extend_from_slice(&[0, 0, 0, 1]);
            bytes.extend(padded(4));
        }
        Coin::Long => {
            bytes.extend_from_slice(&[0, 0, 0, 2]);
            bytes.extend(padded(12));
        }
    }
    if let Some(issuer) = coin.issuer() {
        bytes.extend_from_slice(&[0, 0, 0, 0]);
        bytes.extend_from_slice(&issuer.key());
    }
    Sha256::digest(bytes).into()
}

fn asset(coin: Coin) -> String {
    match (coin.code(), coin.issuer()) {
        (Some(code), Some(issuer)) => format!("{code}:{}", account(issuer)),
        _ => "native".to_owned(),
    }
}

impl Teller<'_> {
    fn record(
        &self,
        operation: Option<usize>,
        kind: Kind,
        coin: Option<Coin>,
        amount: String,
    ) -> Record {
        let number =
            |index: usize| u32::try_from(index + 1).expect("a ledger has few transactions");
        let contract_address = contract(coin.map_or_else(world::token, contract_of));
        Record {
            ledger: self.scene.sequence,
            index: 0,
            closed_at: i64::try_from(self.scene.closed_at).expect("a time of our century"),
            tx_hash: self.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            transaction_index: number(self.place),
            operation_index: operation.map(number),
            contract_address,
            kind,
            from: None,
            to: None,
            asset: coin.map(asset),
            amount,
            to_muxed: None,
        }
    }

    fn fee(&self, amount: i64) -> Record {
        let payer = self.planned.sponsor.unwrap_or(self.planned.source);
        let record = self.record(None, Kind::Fee, Some(Coin::Native), amount.to_string());
        Record {
            from: Some(account(payer)),
            ..record
        }
    }

    fn memo(&self) -> Option<String> {
        self.planned.memo.map(|memo| format!("id:{memo}"))
    }

    fn step(
        &self,
        index: usize,
        source: Account,
        step: &Step,
        revoked: &Revoked<'_>,
    ) -> Vec<Record> {
        let moved = |from: String, to: String, coin: Coin, amount: i64| Record {
            from: Some(from),
            to: Some(to),
            ..self.record(Some(index), Kind::Transfer, Some(coin), amount.to_string())
        };
        let us = account(source);
        let paid = |to: Account, id: Option<u64>, money: Money| {
            let muxed = id.map(|id| format!("id:{id}")).or_else(|| self.memo());
            let all = moved(us.clone(), account(to), money.coin, money.amount);
            match money.coin.issuer() {
                Some(issuer) if issuer == source => Record {
                    kind: Kind::Mint,
                    from: None,
                    to_muxed: muxed,
                    ..all
                },
                Some(issuer) if issuer == to => Record {
                    kind: Kind::Burn,
                    to: None,
                    ..all
                },
                _ => Record {
                    to_muxed: muxed,
                    ..all
                },
            }
        };
        let taken = |from: String, money: Money| Record {
            from: Some(from),
            ..self.record(
                Some(index),
                Kind::Clawback,
                Some(money.coin),
                money.amount.to_string(),
            )
        };
        let aside = |number: u64| balance(world::balance(number));
        match *step {
            Step::Create { to, amount } | Step::Merge { to, amount } => {
                vec![paid(
                    to,
                    None,
                    Money {
                        amount,
                        coin: Coin::Native,
                    },
                )]
            }
            Step::Pay { to, id, money } => vec![paid(to, id, money)],
            Step::Path {
                to,
                spent,
                dealer,
                got,
                fixed: _,
            } => {
                let dealer = match dealer {
                    Dealer::Offer(seller) => account(seller),
                    Dealer::Pool => pool(),
                };
                vec![
                    moved(dealer.clone(), us.clone(), got.coin, got.amount),
                    moved(us.clone(), dealer, spent.coin, spent.amount),
                    paid(to, None, got),
                ]
            }
            Step::Offer {
                placing: _,
                seller,
                given,
                got,
            } => vec![
                moved(account(seller), us.clone(), got.coin, got.amount),
                moved(us.clone(), account(seller), given.coin, given.amount),
            ],
            Step::Lock { number, money } => {
                vec![moved(us.clone(), aside(number), money.coin, money.amount)]
            }
            Step::Claim { number, money } => vec![Record {
                to_muxed: self.memo(),
                ..moved(aside(number), us.clone(), money.coin, money.amount)
            }],
            Step::Clawback { from, money } => vec![taken(account(from), money)],
            Step::ClawbackLocked { number, money } => vec![taken(aside(number), money)],
            Step::Deposit { native, short } => vec![
                moved(us.clone(), pool(), Coin::Native, native),
                moved(us.clone(), pool(), Coin::Short, short),
            ],
            Step::Withdraw { native, short } => [(Coin::Native, native), (Coin::Short, short)]
                .map(|(coin, amount)| Record {
                    to_muxed: self.memo(),
                    ..moved(pool(), us.clone(), coin, amount)
                })
                .into(),
            Step::Revoke {
                holder: _,
                native,
                short,
            } => [(Coin::Native, native), (Coin::Short, short)]
                .map(|(coin, amount)| {
                    let into = balance(revoked(self.place, index, coin));
                    moved(pool(), into, coin, amount)
                })
                .into(),
            Step::Trust | Step::LonelyOffer | Step::Chatter => Vec::new(),
            Step::Token { call, amount } => vec![self.token(index, source, call, amount)],
            Step::Wrapped { to, money } => {
                let record = paid(to, None, money);
                // Since CAP-67 the contract itself says who is meant, and here it does not.
                let to_muxed = record.to_muxed.clone().filter(|_| self.scene.protocol < 23);
                vec![Record { to_muxed, ..record }]
            }
        }
    }

    fn token(&self, index: usize, source: Account, call: TokenCall, amount: i128) -> Record {
        let record = |kind| self.record(Some(index), kind, None, amount.to_string());
        match call {
            TokenCall::Transfer(to, id) => Record {
                from: Some(account(source)),
                to: Some(account(to)),
                to_muxed: id
                    .filter(|_| self.scene.protocol >= 23)
                    .map(|id| format!("id:{id}")),
                ..record(Kind::Transfer)
            },
            TokenCall::Mint(to) => Record {
                to: Some(account(to)),
                ..record(Kind::Mint)
            },
            TokenCall::Burn => Record {
                from: Some(account(source)),
                ..record(Kind::Burn)
            },
            TokenCall::Clawback(from) => Record {
                from: Some(account(from)),
                ..record(Kind::Clawback)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_native_coins_contract_is_the_one_the_test_network_has() {
        let known = "CDLZFC3SYJYDZT7K67VZ75HPJVIEUVNIXF47ZG2FB2RMQQVU2HHGCYSC";
        assert_eq!(contract(contract_of(Coin::Native)), known);
    }
}
