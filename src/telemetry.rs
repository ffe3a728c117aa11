//! What the daemon says about itself, for operators.
//!
//! **Guarantees.** One line for each thing done and each change of state, on standard error, as
//! text or JSON. Values of variables, secrets and output of components are never among the fields:
//! no room hands them to `tracing`. A line that cannot be written is lost and hurts nobody.
//!
//! **What it does not do.** Events that users see are [`crate::model::Event`]; they are kept in the
//! store and are not this log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// What is logged when nobody says: our own steps, and only the troubles of the database.
const DEFAULT_FILTER: &str = "info,sled=warn";

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each.
    Human,
    /// A JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error(
        "`{filter}` is not a log filter: write a level like `info`, or `flowctl=debug,sled=warn`"
    )]
    Filter {
        /// What was written.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log of this process is set up already.
    #[error("the log is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets the log of this process up: what `filter` lets through (`None` = `info`), in
/// `format`. Lines of crates that use `log`, as the database does, are among them.
///
/// # Errors
/// When the filter is malformed, or the log was set up before.
pub fn init(filter: Option<&str>, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = parse(filter.unwrap_or(DEFAULT_FILTER))?;
    let outcome = match format {
        LogFormat::Human => builder(filter).try_init(),
        LogFormat::Json => builder(filter).json().flatten_event(true).try_init(),
    };
    outcome.map_err(TelemetryError::Twice)
}

type Builder = SubscriberBuilder<
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    EnvFilter,
    fn() -> std::io::Stderr,
>;

fn builder(filter: EnvFilter) -> Builder {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        .with_env_filter(filter)
        // A line that cannot be written would be complained of with `eprintln!`, which panics when
        // standard error is a file on a full disk, in whatever thread logs: a line is lost instead.
        .log_internal_errors(false)
        .with_writer(std::io::stderr as fn() -> std::io::Stderr)
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_filter_is_refused_with_an_example() {
        for good in ["info", "flowctl=debug,sled=warn", "off", DEFAULT_FILTER] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let error = parse("flowctl=loud").unwrap_err();
        assert!(error.to_string().contains("flowctl=debug"), "{error}");
    }
}
