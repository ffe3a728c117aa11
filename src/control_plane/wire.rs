//! What goes over the wire: code generated from the protos beside this file.

/// `flowctl`: the service of July 2025 and later.
pub(super) mod legacy {
    tonic::include_proto!("flowctl");
}

/// `flowctl.v1`: the service of the SDK.
pub(super) mod v1 {
    tonic::include_proto!("flowctl.v1");
}

/// All protos, for reflection.
pub(super) const DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/control_plane.bin"));
