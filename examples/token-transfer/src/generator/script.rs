//! What happens in each synthetic ledger.

use super::world::{Account, Coin, Dice};

/// A quantity of a coin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    /// How much, in the smallest unit.
    pub amount: i64,
    /// Of what.
    pub coin: Coin,
}

/// The other side of a trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealer {
    /// An account's offer in the order book.
    Offer(Account),
    /// The pool.
    Pool,
}

/// How an offer is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// To sell.
    Sell,
    /// To buy.
    Buy,
    /// To sell, without taking offers of the same price.
    Passive,
}

/// What a token contract is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCall {
    /// Move tokens to another account, maybe to a multiplexed one.
    Transfer(Account, Option<u64>),
    /// Make tokens for an account.
    Mint(Account),
    /// Destroy the caller's tokens.
    Burn,
    /// Take tokens from an account.
    Clawback(Account),
}

/// One operation, seen from its source account.
#[expect(missing_docs, reason = "the fields are named for what they are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Opens an account with a first balance.
    Create { to: Account, amount: i64 },
    /// Pays; from the issuer it is a mint, to the issuer a burn.
    Pay {
        to: Account,
        id: Option<u64>,
        money: Money,
    },
    /// Pays in one coin what arrives in another, with what is sent or what arrives being fixed.
    Path {
        to: Account,
        spent: Money,
        dealer: Dealer,
        got: Money,
        fixed: Fixed,
    },
    /// Places an offer that an existing one meets.
    Offer {
        placing: Placing,
        seller: Account,
        given: Money,
        got: Money,
    },
    /// Places an offer that nobody meets yet.
    LonelyOffer,
    /// Closes the account and gives what is left to another.
    Merge { to: Account, amount: i64 },
    /// Puts money aside for somebody to claim.
    Lock { number: u64, money: Money },
    /// Claims it.
    Claim { number: u64, money: Money },
    /// Takes back an issued coin.
    Clawback { from: Account, money: Money },
    /// Takes back what was put aside.
    ClawbackLocked { number: u64, money: Money },
    /// Puts both coins into the pool.
    Deposit { native: i64, short: i64 },
    /// Takes both out.
    Withdraw { native: i64, short: i64 },
    /// Revokes a trust line; the pool pays its holder's shares out.
    Revoke {
        holder: Account,
        native: i64,
        short: i64,
    },
    /// Trusts a coin, which moves nothing.
    Trust,
    /// Calls a contract's own token.
    Token { call: TokenCall, amount: i128 },
    /// Moves a classic coin through the contract that stands for it.
    Wrapped { to: Account, money: Money },
    /// Calls a contract that emits something else.
    Chatter,
}

/// Which amount of a path payment the sender fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// What is sent.
    Sent,
    /// What arrives.
    Received,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All its operations took effect.
    Success,
    /// None did; the fee is paid all the same.
    Failure,
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Whose it is.
    pub source: Account,
    /// Its operations, some with a source of their own.
    pub steps: Vec<(Account, Step)>,
    /// The number in its memo.
    pub memo: Option<u64>,
    /// Who pays its fee in its place.
    pub sponsor: Option<Account>,
    /// What was paid up front.
    pub fee: i64,
    /// What of it came back.
    pub refund: i64,
    /// How it ends.
    pub ending: Ending,
}

impl Planned {
    /// Whether it calls a contract.
    pub fn calls_contract(&self) -> bool {
        self.steps.iter().any(|(_, step)| {
            matches!(
                step,
                Step::Token { .. } | Step::Wrapped { .. } | Step::Chatter
            )
        })
    }
}

/// One ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Its sequence number.
    pub sequence: u32,
    /// The version of the protocol it closed under.
    pub protocol: u32,
    /// When, in seconds since 1970.
    pub closed_at: u64,
    /// What was applied, in this order.
    pub transactions: Vec<Planned>,
}

/// What happens in ledger `sequence` of a network that goes from protocol 22 to 23 with ledger
/// `upgrade`.
pub fn scene(sequence: u32, upgrade: u32) -> Scene {
    let mut dice = Dice::new(u64::from(sequence));
    let transactions = (0..2 + dice.below(4)).map(|place| transaction(&mut dice, sequence, place));
    Scene {
        sequence,
        protocol: if sequence >= upgrade { 23 } else { 22 },
        closed_at: 1_700_000_000 + 5 * u64::from(sequence),
        transactions: transactions.collect(),
    }
}

fn transaction(dice: &mut Dice, sequence: u32, place: u64) -> Planned {
    let source = dice.someone();
    let contract = dice.below(4) == 0;
    let mut steps = Vec::new();
    if contract {
        steps.push((source, contract_step(dice)));
    } else {
        for number in 0..1 + dice.below(3) {
            let unique = u64::from(sequence) * 100 + place * 10 + number;
            steps.push(classic_step(dice, source, unique));
        }
    }
    let sponsor = (dice.below(6) == 0).then(|| dice.someone());
    let (fee, refund) = if contract {
        (
            50_000 + dice.amount() % 1000,
            if dice.below(3) == 0 {
                0
            } else {
                1 + dice.amount() % 9000
            },
        )
    } else {
        (
            100 * i64::try_from(steps.len()).expect("a few")
                + if sponsor.is_some() { 100 } else { 0 },
            0,
        )
    };
    let ending = if dice.below(12) == 0 {
        Ending::Failure
    } else {
        Ending::Success
    };
    let memo = (dice.below(5) == 0).then(|| dice.below(1_000_000));
    Planned {
        source,
        steps,
        memo,
        sponsor,
        fee,
        refund,
        ending,
    }
}

fn contract_step(dice: &mut Dice) -> Step {
    // Beyond 64 bits now and then.
    let amount =
        i128::from(dice.amount()) << [0, 0, 0, 70][usize::try_from(dice.below(4)).unwrap_or(0)];
    match dice.below(7) {
        0 | 1 => {
            let id = (dice.below(3) == 0).then(|| dice.below(1000));
            Step::Token {
                call: TokenCall::Transfer(dice.someone(), id),
                amount,
            }
        }
        2 => Step::Token {
            call: TokenCall::Mint(dice.someone()),
            amount,
        },
        3 => Step::Token {
            call: TokenCall::Burn,
            amount,
        },
        4 => Step::Token {
            call: TokenCall::Clawback(dice.someone()),
            amount,
        },
        5 => Step::Chatter,
        _ => {
            let coin = dice.coin();
            let to = if dice.below(3) == 0 {
                coin.issuer()
            } else {
                None
            };
            let to = to.unwrap_or_else(|| dice.someone());
            Step::Wrapped {
                to,
                money: Money {
                    amount: dice.amount(),
                    coin,
                },
            }
        }
    }
}

/// A classic operation and the account it belongs to.
fn classic_step(dice: &mut Dice, source: Account, unique: u64) -> (Account, Step) {
    let money = |dice: &mut Dice| Money {
        amount: dice.amount(),
        coin: dice.coin(),
    };
    let issued = |dice: &mut Dice| {
        let coin = if dice.below(2) == 0 {
            Coin::Short
        } else {
            Coin::Long
        };
        Money {
            amount: dice.amount(),
            coin,
        }
    };
    let to = dice.someone();
    let step = match dice.below(20) {
        0..=5 => {
            let id = (dice.below(4) == 0).then(|| dice.below(1_000_000));
            Step::Pay {
                to,
                id,
                money: money(dice),
            }
        }
        6 => {
            let money = issued(dice);
            let issuer = money.coin.issuer().unwrap_or(source);
            return (
                issuer,
                Step::Pay {
                    to,
                    id: None,
                    money,
                },
            );
        }
        7 => {
            let money = issued(dice);
            Step::Pay {
                to: money.coin.issuer().unwrap_or(to),
                id: None,
                money,
            }
        }
        8 | 9 => {
            let dealer = if dice.below(2) == 0 {
                Dealer::Pool
            } else {
                Dealer::Offer(dice.someone())
            };
            let spent = Money {
                amount: dice.amount(),
                coin: Coin::Native,
            };
            let got = Money {
                amount: dice.amount(),
                coin: Coin::Short,
            };
            let fixed = if dice.below(2) == 0 {
                Fixed::Sent
            } else {
                Fixed::Received
            };
            Step::Path {
                to,
                spent,
                dealer,
                got,
                fixed,
            }
        }
        10 => {
            let placing = [Placing::Sell, Placing::Buy, Placing::Passive];
            let placing = placing[usize::try_from(dice.below(3)).unwrap_or_default()];
            let given = Money {
                amount: dice.amount(),
                coin: Coin::Long,
            };
            let got = Money {
                amount: dice.amount(),
                coin: Coin::Native,
            };
            Step::Offer {
                placing,
                seller: to,
                given,
                got,
            }
        }
        11 => Step::LonelyOffer,
        12 => Step::Create {
            to,
            amount: dice.amount(),
        },
        13 => Step::Merge {
            to,
            amount: dice.amount(),
        },
        14 => Step::Lock {
            number: unique,
            money: money(dice),
        },
        15 => Step::Claim {
            number: unique,
            money: money(dice),
        },
        16 => {
            let money = issued(dice);
            let issuer = money.coin.issuer().unwrap_or(source);
            let locked = dice.below(2) == 0;
            let step = if locked {
                Step::ClawbackLocked {
                    number: unique,
                    money,
                }
            } else {
                Step::Clawback { from: to, money }
            };
            return (issuer, step);
        }
        17 => Step::Deposit {
            native: dice.amount(),
            short: dice.amount(),
        },
        18 => Step::Withdraw {
            native: dice.amount(),
            short: dice.amount(),
        },
        _ => {
            if dice.below(2) == 0 {
                Step::Trust
            } else {
                let (native, short) = (dice.amount(), dice.amount());
                return (
                    Account(0),
                    Step::Revoke {
                        holder: to,
                        native,
                        short,
                    },
                );
            }
        }
    };
    (source, step)
}
