//! The token-transfer pipeline: three programs that hand each other typed data directly.
//!
//! ```text
//! lake of ledgers -> stellar-live-source-datalake -> ttp-processor -> consumer-app -> NDJSON file
//!    (files or                 gRPC: raw ledgers    gRPC: events
//!     a bucket)
//! ```
//!
//! - [`lake`]: files of compressed ledgers, in a directory or a bucket; what they are called, how
//!   they are read, how new ones are noticed.
//! - [`source`]: streams the lake's ledgers.
//! - [`events`]: one ledger to its token transfer events; pure.
//! - [`processor`]: streams the events of the ledgers that a source streams.
//! - [`consumer`]: writes each event exactly once.
//! - [`generator`]: makes lakes whose events are known beforehand.
//! - [`component`]: what the three programs share: settings, health, registration, shutdown.

pub mod component;
pub mod consumer;
pub mod events;
pub mod generator;
pub mod lake;
pub mod processor;
pub mod proto;
pub mod source;
