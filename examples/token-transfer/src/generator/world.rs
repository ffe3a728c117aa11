//! The inhabitants of synthetic ledgers: accounts, coins, a pool, a token contract.

use sha2::{Digest, Sha256};
use stellar_xdr::{
    AccountId, AlphaNum4, AlphaNum12, Asset, AssetCode4, AssetCode12, MuxedAccount,
    MuxedAccountMed25519, PublicKey, Uint256,
};

/// The network synthetic ledgers claim to come from.
pub const PASSPHRASE: &str = "Test SDF Network ; September 2015";

/// How many accounts there are. The first two issue coins and do nothing else.
pub const ACCOUNTS: u64 = 40;

/// The 32 bytes that stand for `name`.
pub fn key(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

/// An account, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account(pub u64);

impl Account {
    /// Its public key.
    pub fn key(self) -> [u8; 32] {
        key(&format!("account {}", self.0))
    }

    /// Its id in a ledger.
    pub fn id(self) -> AccountId {
        AccountId(PublicKey::PublicKeyTypeEd25519(Uint256(self.key())))
    }

    /// It as a party that may be multiplexed.
    pub fn muxed(self, id: Option<u64>) -> MuxedAccount {
        let ed25519 = Uint256(self.key());
        match id {
            Some(id) => MuxedAccount::MuxedEd25519(MuxedAccountMed25519 { id, ed25519 }),
            None => MuxedAccount::Ed25519(ed25519),
        }
    }
}

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coin {
    /// The network's own currency.
    Native,
    /// A coin with a short code, issued by account 0.
    Short,
    /// A coin with a long code, issued by account 1.
    Long,
}

impl Coin {
    /// Its code; the native one has none.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::Short => Some("USDC"),
            Self::Long => Some("LAKEDOLLAR"),
        }
    }

    /// Who issues it.
    pub fn issuer(self) -> Option<Account> {
        match self {
            Self::Native => None,
            Self::Short => Some(Account(0)),
            Self::Long => Some(Account(1)),
        }
    }

    /// It in a ledger.
    pub fn asset(self) -> Asset {
        match self {
            Self::Native => Asset::Native,
            Self::Short => Asset::CreditAlphanum4(AlphaNum4 {
                asset_code: AssetCode4(*b"USDC"),
                issuer: Account(0).id(),
            }),
            Self::Long => Asset::CreditAlphanum12(AlphaNum12 {
                asset_code: AssetCode12(*b"LAKEDOLLAR\0\0"),
                issuer: Account(1).id(),
            }),
        }
    }
}

/// The pool of the native currency and the short coin.
pub fn pool() -> [u8; 32] {
    key("pool")
}

/// The contract of a token that is no classic asset.
pub fn token() -> [u8; 32] {
    key("token")
}

/// The claimable balance of this number.
pub fn balance(number: u64) -> [u8; 32] {
    key(&format!("balance {number}"))
}

/// Throws dice that fall the same way for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// An amount of a coin.
    pub fn amount(&mut self) -> i64 {
        i64::try_from(1 + self.below(1_000_000_000)).expect("a billion fits")
    }

    /// An account that is no issuer.
    pub fn someone(&mut self) -> Account {
        Account(2 + self.below(ACCOUNTS - 2))
    }

    /// A coin.
    pub fn coin(&mut self) -> Coin {
        [Coin::Native, Coin::Short, Coin::Long][usize::try_from(self.below(3)).unwrap_or_default()]
    }
}
