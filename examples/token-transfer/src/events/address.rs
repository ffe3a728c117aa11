//! Addresses as strkeys, assets as messages, and the contract that stands for a classic asset.

use sha2::{Digest, Sha256};
use stellar_strkey as strkey;
use stellar_xdr::{
    AccountId, Asset, AssetCode4, AssetCode12, ClaimableBalanceId, ContractIdPreimage, Hash,
    HashIdPreimage, HashIdPreimageContractId, Limits, MuxedAccount, PoolId, PublicKey, ScAddress,
    Uint256, WriteXdr,
};

use super::Network;
use crate::proto::asset as proto;

/// Bytes in lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

pub(super) fn account(id: &AccountId) -> String {
    let AccountId(PublicKey::PublicKeyTypeEd25519(Uint256(key))) = id;
    of_key(key)
}

fn of_key(key: &[u8; 32]) -> String {
    strkey::ed25519::PublicKey(*key)
        .to_string()
        .as_str()
        .to_owned()
}

pub(super) fn pool(id: &PoolId) -> String {
    strkey::LiquidityPool(id.0.0)
        .to_string()
        .as_str()
        .to_owned()
}

pub(super) fn balance(id: &ClaimableBalanceId) -> String {
    let ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(hash)) = id;
    strkey::ClaimableBalance::V0(*hash)
        .to_string()
        .as_str()
        .to_owned()
}

pub(super) fn contract(id: &[u8; 32]) -> String {
    strkey::Contract(*id).to_string().as_str().to_owned()
}

/// A contract's idea of an address.
pub(super) fn of_contract_value(address: &ScAddress) -> Option<String> {
    match address {
        ScAddress::Account(id) => Some(account(id)),
        ScAddress::Contract(id) => Some(contract(&id.0.0)),
        ScAddress::MuxedAccount(muxed) => Some(of_key(&muxed.ed25519.0)),
        ScAddress::ClaimableBalance(id) => Some(balance(id)),
        ScAddress::LiquidityPool(id) => Some(pool(id)),
        ScAddress::MuxedContract(_) => None,
    }
}

/// The account behind a multiplexed one.
pub(super) fn base(account: &MuxedAccount) -> AccountId {
    let key = match account {
        MuxedAccount::Ed25519(key) => key,
        MuxedAccount::MuxedEd25519(muxed) => &muxed.ed25519,
    };
    AccountId(PublicKey::PublicKeyTypeEd25519(key.clone()))
}

/// The issuer of an asset; the native one has none.
pub(super) fn issuer(asset: &Asset) -> Option<&AccountId> {
    match asset {
        Asset::Native => None,
        Asset::CreditAlphanum4(issued) => Some(&issued.issuer),
        Asset::CreditAlphanum12(issued) => Some(&issued.issuer),
    }
}

/// An asset as a message.
pub(super) fn message(asset: &Asset) -> proto::Asset {
    let text = |code: &[u8]| {
        let end = code
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(code.len());
        String::from_utf8_lossy(&code[..end]).into_owned()
    };
    let issued = |asset_code, issuer| {
        let issuer = account(issuer);
        proto::asset::AssetType::IssuedAsset(proto::IssuedAsset { asset_code, issuer })
    };
    let kind = match asset {
        Asset::Native => proto::asset::AssetType::Native(true),
        Asset::CreditAlphanum4(asset) => {
            let AssetCode4(code) = &asset.asset_code;
            issued(text(code), &asset.issuer)
        }
        Asset::CreditAlphanum12(asset) => {
            let AssetCode12(code) = &asset.asset_code;
            issued(text(code), &asset.issuer)
        }
    };
    proto::Asset {
        asset_type: Some(kind),
    }
}

/// The asset that contracts write as `text`.
pub(super) fn parse(text: &str) -> Option<Asset> {
    if text == "native" {
        return Some(Asset::Native);
    }
    let (code, issuer) = text.split_once(':')?;
    let strkey::ed25519::PublicKey(key) = strkey::ed25519::PublicKey::from_string(issuer).ok()?;
    let issuer = AccountId(PublicKey::PublicKeyTypeEd25519(Uint256(key)));
    let code = code.as_bytes();
    let mut padded = [0; 12];
    padded.get_mut(..code.len())?.copy_from_slice(code);
    match code.len() {
        1..=4 => {
            let code = AssetCode4([padded[0], padded[1], padded[2], padded[3]]);
            Some(Asset::CreditAlphanum4(stellar_xdr::AlphaNum4 {
                asset_code: code,
                issuer,
            }))
        }
        5..=12 => {
            let code = AssetCode12(padded);
            Some(Asset::CreditAlphanum12(stellar_xdr::AlphaNum12 {
                asset_code: code,
                issuer,
            }))
        }
        _ => None,
    }
}

/// The id of the contract that stands for a classic asset, whether or not it was deployed.
pub fn contract_of(network: Network, asset: &Asset) -> [u8; 32] {
    let preimage = HashIdPreimage::ContractId(HashIdPreimageContractId {
        network_id: Hash(network.id()),
        contract_id_preimage: ContractIdPreimage::Asset(asset.clone()),
    });
    let bytes = preimage
        .to_xdr(Limits::none())
        .expect("a preimage can be written to memory");
    Sha256::digest(bytes).into()
}
