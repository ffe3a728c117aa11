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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::component::Env;
    use super::component::env::SettingError;
    use super::consumer::{self, AtEnd, ConsumerSettings};
    use super::processor::{self, ProcessorSettings};
    use super::source::{self, SourceSettings};

    /// The variables that `read` asks for and `help` does not name.
    fn unnamed<T>(
        help: &str,
        read: impl FnOnce(&Env<'_>) -> Result<T, SettingError>,
    ) -> Vec<String> {
        // The last name of each that has to be set, so that those before it are asked for too.
        let set = [
            ("LAKE_URL", "/lake"),
            ("STELLAR_NETWORK", "testnet"),
            ("FLOWCTL_ENABLED", "true"),
        ];
        let asked = RefCell::new(BTreeSet::new());
        let lookup = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            let value = set.iter().find(|(known, _)| *known == name)?.1;
            Some(value.to_owned())
        };
        assert!(read(&Env::new(&lookup)).is_ok());
        let named: BTreeSet<_> = help
            .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .collect();
        let mut asked = asked.into_inner();
        asked.retain(|name| !named.contains(name.as_str()));
        asked.into_iter().collect()
    }

    #[test]
    fn every_variable_that_is_read_is_in_the_help() {
        assert_eq!(unnamed(source::HELP, SourceSettings::from_env), [""; 0]);
        assert_eq!(
            unnamed(processor::HELP, ProcessorSettings::from_env),
            [""; 0]
        );
        let consumer = |env: &Env<'_>| ConsumerSettings::from_env(env, None, None, AtEnd::Stay);
        assert_eq!(unnamed(consumer::HELP, consumer), [""; 0]);
    }
}
