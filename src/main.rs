//! The `flowctl` program.

fn main() {}
