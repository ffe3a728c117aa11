//! Panics, which are defects of ours: none is silent, and none leaves a daemon with less than all of
//! its parts.
//!
//! A thread or task that panicked is gone, and what it did is done no more, though everything else
//! looks well. So a daemon in which anything panicked begins again in its process once a pause is
//! over: what runs is adopted, as after a kill, and costs no component anything. The pause doubles
//! with each time, and what has not died goes on meanwhile.

use std::any::Any;
use std::ffi::OsString;
use std::panic::PanicHookInfo;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;

/// The variable that tells the next program in this process how often it began again, and when it
/// did last: `COUNT@MILLISECONDS`.
pub const VARIABLE: &str = "FLOWCTL_BEGAN_AGAIN";

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// After this long without one, the next panic is the first.
const FORGIVEN_MILLIS: i64 = 3_600_000;

/// How often this process began again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Beginnings {
    count: u32,
    last_millis: i64,
}

impl Beginnings {
    /// What the program before this one left in [`VARIABLE`].
    pub fn of_this_process() -> Self {
        let left = std::env::var(VARIABLE).unwrap_or_default();
        Self::parse(&left).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let (count, last) = text.split_once('@')?;
        Some(Self {
            count: count.parse().ok()?,
            last_millis: last.parse().ok()?,
        })
    }

    /// How often, counted at `now_millis`.
    fn counted(self, now_millis: i64) -> u32 {
        // A clock that was set back forgives too.
        let is_recent = (0..FORGIVEN_MILLIS).contains(&(now_millis - self.last_millis));
        if is_recent { self.count } else { 0 }
    }

    /// How long the next time waits.
    pub fn pause(self, now_millis: i64) -> Duration {
        let doubled = 2u32.saturating_pow(self.counted(now_millis));
        FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
    }

    /// What is left to the next program in [`VARIABLE`].
    pub fn next(self, now_millis: i64) -> OsString {
        let count = self.counted(now_millis).saturating_add(1);
        format!("{count}@{now_millis}").into()
    }
}

/// Hears of the panics of this process.
#[derive(Clone, Debug)]
pub struct Defects(watch::Receiver<bool>);

/// Has every panic of this process logged, in whatever thread it comes, and heard of.
pub fn watch() -> Defects {
    let (heard, defects) = watch::channel(false);
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        heard.send_replace(true);
    }));
    Defects(defects)
}

impl Defects {
    /// Waits for the first panic. Cancel-safe: one that has come stays known.
    async fn first(&mut self) {
        if self.0.wait_for(|heard| *heard).await.is_err() {
            // Another hook has taken the place of ours, as in tests.
            std::future::pending().await
        }
    }

    /// Waits until something has panicked and the pause after it is over: what did not die goes on
    /// meanwhile. Cancel-safe, but for the pause, which then begins anew.
    pub(super) async fn outlived(&mut self) {
        self.first().await;
        let pause = Beginnings::of_this_process().pause(Clock::new().now().as_millis());
        tracing::error!(?pause, "flowctl begins again after a pause");
        tokio::time::sleep(pause).await;
    }
}

fn tell(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        place,
        thread = thread.name(),
        "a part of flowctl panicked, which is a defect of it; please report this: {}",
        words(panic.payload())
    );
}

fn words(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(owned).unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_until_an_hour_went_well() {
        let mut now = 1_000_000;
        let mut beginnings = Beginnings::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pauses.push(beginnings.pause(now).as_secs());
            let left = beginnings.next(now);
            beginnings = Beginnings::parse(left.to_str().unwrap()).unwrap();
            now += 10_000;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(beginnings.pause(now + FORGIVEN_MILLIS), FIRST_PAUSE);
        assert_eq!(beginnings.pause(0), FIRST_PAUSE, "the clock was set back");
        assert_eq!(Beginnings::parse("nonsense"), None);
    }
}
