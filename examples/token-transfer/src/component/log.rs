//! The log: one JSON object a line on standard error.

use tracing_subscriber::EnvFilter;

/// Starts the log at `level` (`error`, `warn`, `info`, `debug`, `trace`, or a filter such as
/// `info,h2=debug`). A level that can't be understood means `info`, and is said so.
///
/// # Errors
/// The log was started before.
pub fn start(level: Option<&str>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let wanted = level.unwrap_or("info").to_ascii_lowercase();
    let filter = EnvFilter::try_new(&wanted);
    let understood = filter.is_ok();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .try_init()?;
    if !understood {
        tracing::warn!(level = wanted, "unknown LOG_LEVEL, using info");
    }
    Ok(())
}
