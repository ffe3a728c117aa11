//! The messages and services of `proto/`, generated at build time.

#![expect(
    missing_docs,
    clippy::module_inception,
    reason = "generated code; proto/ says what each field means"
)]

/// Classic assets.
pub mod asset {
    tonic::include_proto!("asset");
}

/// Token transfer events.
pub mod token_transfer {
    tonic::include_proto!("token_transfer");
}

/// The service that streams token transfer events.
pub mod token_transfer_service {
    tonic::include_proto!("token_transfer_service");
}

/// The service that streams ledgers.
pub mod raw_ledger_service {
    tonic::include_proto!("raw_ledger_service");
}

/// What components say to flowctl's control plane.
pub mod flowctl {
    tonic::include_proto!("flowctl");
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::asset::asset::AssetType;
    use super::asset::{Asset, IssuedAsset};
    use super::raw_ledger_service::{RawLedger, StreamLedgersRequest};
    use super::token_transfer::token_transfer_event::Event;
    use super::token_transfer::{
        Burn, Clawback, EventMeta, Fee, Mint, TokenTransferEvent, Transfer,
    };
    use super::token_transfer_service::GetEventsRequest;

    /// A message as it is sent, in hexadecimal.
    fn shown(message: &impl Message) -> String {
        let bytes = message.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn event(event: Event) -> String {
        let meta = None;
        let event = Some(event);
        shown(&TokenTransferEvent { meta, event })
    }

    /// Other programs read and write these messages, so what a field's number is can't change.
    #[test]
    fn messages_are_on_the_wire_what_existing_programs_exchange() {
        let (start_ledger, end_ledger) = (2, 0);
        assert_eq!(
            shown(&StreamLedgersRequest {
                start_ledger,
                end_ledger
            }),
            "0802"
        );
        assert_eq!(
            shown(&GetEventsRequest {
                start_ledger,
                end_ledger: 9
            }),
            "08021009"
        );
        let ledger = RawLedger {
            sequence: 3,
            ledger_close_meta_xdr: vec![0xab].into(),
        };
        assert_eq!(shown(&ledger), "08031201ab");

        let text = |text: &str| text.to_owned();
        let (from, to, amount) = (text("f"), text("t"), text("1"));
        let native = AssetType::Native(true);
        let issued = AssetType::IssuedAsset(IssuedAsset {
            asset_code: text("c"),
            issuer: text("i"),
        });
        let asset = |asset_type| {
            Some(Asset {
                asset_type: Some(asset_type),
            })
        };
        let transfer = Transfer {
            from: from.clone(),
            to: to.clone(),
            asset: asset(issued),
            amount: amount.clone(),
        };
        assert_eq!(
            event(Event::Transfer(transfer)),
            "1213 0a0166 120174 1a08 1206 0a0163 120169 220131".replace(' ', "")
        );
        let native = asset(native);
        let mint = Mint {
            to,
            asset: native.clone(),
            amount: amount.clone(),
        };
        let tail = "12020801 1a0131";
        let expected =
            |number: &str, party: &str| format!("{number}0a 0a01{party} {tail}").replace(' ', "");
        assert_eq!(event(Event::Mint(mint)), expected("1a", "74"));
        let asset = native;
        let burn = Burn {
            from: from.clone(),
            asset: asset.clone(),
            amount: amount.clone(),
        };
        assert_eq!(event(Event::Burn(burn)), expected("22", "66"));
        let clawback = Clawback {
            from: from.clone(),
            asset: asset.clone(),
            amount: amount.clone(),
        };
        assert_eq!(event(Event::Clawback(clawback)), expected("2a", "66"));
        let fee = Fee {
            from,
            asset,
            amount,
        };
        assert_eq!(event(Event::Fee(fee)), expected("32", "66"));
        let meta = EventMeta {
            ledger_sequence: 1,
            closed_at: Some(prost_types::Timestamp {
                seconds: 5,
                nanos: 0,
            }),
            tx_hash: text("h"),
            transaction_index: 2,
            operation_index: Some(0),
            contract_address: text("C"),
            to_muxed_info: None,
        };
        assert_eq!(
            shown(&meta),
            "0801 12020805 1a0168 2002 2800 320143".replace(' ', "")
        );
    }
}
