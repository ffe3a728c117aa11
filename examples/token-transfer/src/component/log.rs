//! The log: one JSON object a line on standard error.

use tracing_subscriber::EnvFilter;

/// Starts the log at `level` (`error`, `warn`, `info`, `debug`, `trace`, or a filter such as
/// `info,h2=debug`). A level that can't be understood means `info`, and is said so.
///
/// # Errors
/// The log was started before.
pub fn start(level: Option<&str>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let wanted = level.unwrap_or("info").to_ascii_lowercase();
    // A plain level is meant for this program; the libraries below it would drown it out. A word
    // that is no level would be taken for the name of a library.
    let plain = wanted.chars().all(|letter| letter.is_ascii_alphabetic());
    let filter = match wanted.parse::<tracing::Level>() {
        Ok(level) => EnvFilter::try_new(format!("warn,token_transfer={level}")).ok(),
        Err(_) if plain => None,
        Err(_) => EnvFilter::try_new(&wanted).ok(),
    };
    let understood = filter.is_some();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("warn,token_transfer=info")))
        .try_init()?;
    if !understood {
        tracing::warn!(level = wanted, "unknown LOG_LEVEL, using info");
    }
    Ok(())
}
