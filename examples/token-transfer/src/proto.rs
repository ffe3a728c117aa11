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
