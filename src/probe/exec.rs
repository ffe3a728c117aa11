//! Exec probes: a program that exits with 0.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::ExitStatus;

use super::{AskError, ExecSite, NotBegun, Trouble};

/// So much of the first line of its output is shown.
const LINE_LIMIT: usize = 120;

/// Passes when the program exits with 0. Cancelling ends it, with all that it forked. `asked` is
/// false while nothing of the component has been asked yet.
pub(super) async fn run(
    command: &[String],
    site: &ExecSite,
    asked: &AtomicBool,
) -> Result<(), Trouble> {
    if command.is_empty() {
        return Err(Trouble::component("its command is empty"));
    }
    asked.store(false, Ordering::Relaxed);
    let ending = match site.inside.begin(&site.instance, command).await {
        Ok(ending) => ending,
        Err(NotBegun::Component(why)) => return Err(Trouble::Component(why)),
        Err(NotBegun::NoPlace(why)) => return Err(AskError::NoPlace { why }.into()),
    };
    asked.store(true, Ordering::Relaxed);
    let ended = ending.await.map_err(|why| AskError::NoPlace { why })?;
    let how = match ended.status {
        ExitStatus::Code(0) => return Ok(()),
        ExitStatus::Code(code) => format!("exit {code}"),
        ExitStatus::Signal(signal) => format!("killed by {signal}"),
        ExitStatus::Unknown => "nobody saw how it ended".to_owned(),
    };
    Err(Trouble::Component(told(&how, &ended.output)))
}

fn told(how: &str, output: &[u8]) -> String {
    match first_line(output) {
        Some(line) => format!("{how}: {line}"),
        None => how.to_owned(),
    }
}

/// The first line that says something, cut, and without what could steer a terminal.
fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let shown = line.trim().chars().filter(|c| !c.is_control());
    Some(shown.take(LINE_LIMIT).collect())
}
