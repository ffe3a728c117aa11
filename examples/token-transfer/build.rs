//! Turns the files of `proto/` into Rust at build time, without an installed `protoc`.

use std::error::Error;

const PROTOS: [&str; 3] = [
    "raw_ledger_service.proto",
    "event_service.proto",
    "control_plane.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".raw_ledger_service")
        .compile_fds(files)?;
    Ok(())
}
