//! Generates the gRPC code from the protos of the control plane, without protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const PROTOS: &str = "src/control_plane/proto";
const FILES: [&str; 3] = [
    "flowctl/control_plane.proto",
    "flowctl/v1/common.proto",
    "flowctl/v1/control_plane.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOS}");
    let descriptors = protox::compile(FILES, [PROTOS])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Reflection answers from it.
    fs::write(out.join("control_plane.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Maps in one order make answers the same from run to run.
        .btree_map(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
