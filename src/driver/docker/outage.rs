//! Whose doing an end was: the component's own, or that of an engine or host that went down and
//! took its containers along.

use std::sync::{Mutex, PoisonError};

use super::endpoint::Endpoint;
use super::evidence::{self, Listener};
use crate::model::{Exit, ExitStatus, Life, RestartMode, Timestamp};

/// Outages remembered; an end is judged soon after it.
const KEPT: usize = 16;
/// An end this close to an outage belongs to it.
const SLACK_MILLIS: i64 = 1_000;
/// An engine that goes down in order ends its containers so long before the next one begins.
const SHUTDOWN_MILLIS: i64 = 15_000;
/// An engine that begins ends what it finds for so long.
const START_MILLIS: i64 = 30_000;
/// Ticks of a process's start time in a second; the kernel's interface has had no other number.
const TICKS: u64 = 100;

/// When the engine did not answer.
pub(super) struct Outages {
    /// When we began to watch.
    watch: Timestamp,
    inner: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    over: Vec<(Timestamp, Timestamp)>,
    since: Option<Timestamp>,
}

impl Outages {
    /// None so far.
    pub(super) fn watched_from(now: Timestamp) -> Self {
        Self {
            watch: now,
            inner: Mutex::default(),
        }
    }

    /// When we began to watch.
    pub(super) fn watch(&self) -> Timestamp {
        self.watch
    }

    /// The engine went away.
    pub(super) fn began(&self, now: Timestamp) {
        self.lock().since.get_or_insert(now);
    }

    /// The engine is back.
    pub(super) fn ended(&self, now: Timestamp) {
        let mut known = self.lock();
        if let Some(since) = known.since.take() {
            if known.over.len() == KEPT {
                known.over.remove(0);
            }
            known.over.push((since, now));
        }
    }

    /// Every outage; one that lasts ends now.
    pub(super) fn all(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let known = self.lock();
        let open = known.since.map(|since| (since, now));
        known.over.iter().copied().chain(open).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this host knows about when things began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beginnings {
    /// The present boot.
    pub(super) boot: Option<Timestamp>,
    /// What the kernel calls the present boot.
    pub(super) boot_id: Option<String>,
    /// The engine's process.
    pub(super) engine: Option<Timestamp>,
    /// Our watch over the engine: nobody heard when it went away before that.
    pub(super) watch: Option<Timestamp>,
    /// Who serves the engine's socket.
    pub(super) listener: Listener,
}

impl Beginnings {
    /// Asks the kernel who serves the engine's socket. Nothing is known of one on another host.
    /// `watch` is when we began to watch it.
    pub(super) async fn find(endpoint: &Endpoint, watch: Timestamp, now: Timestamp) -> Self {
        let Endpoint::Unix(path) = endpoint else {
            return Self::default();
        };
        let boot = boot(now);
        let peer = match tokio::net::UnixStream::connect(path).await {
            Ok(stream) => stream.peer_cred().ok().and_then(|peer| peer.pid()),
            Err(_) => None,
        };
        let peer = peer.filter(|pid| *pid > 0);
        // A socket that a service manager opened says nothing about the engine's own start.
        let engine = peer
            .filter(|pid| *pid > 1)
            .and_then(|pid| started(pid, boot?));
        Self {
            boot,
            boot_id: evidence::boot_id(),
            engine,
            watch: Some(watch),
            listener: peer.map(Listener::of).unwrap_or_default(),
        }
    }
}

/// By the uptime, which is finer than the second that the kernel notes.
fn boot(now: Timestamp) -> Option<Timestamp> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, rest) = uptime.split_once('.')?;
    let hundredths: i64 = rest.split_whitespace().next()?.parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    Some(now.shifted(-(seconds * 1_000 + hundredths * 10)))
}

fn started(pid: i32, boot: Timestamp) -> Option<Timestamp> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything but ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let millis = i64::try_from(ticks.checked_mul(1_000)? / TICKS).ok()?;
    Some(boot.shifted(millis))
}

/// What an exit means, given when things went down and began. `made_in` is the boot in which its
/// container was made, if that is known.
pub(super) fn judge(
    exit: Exit,
    mode: RestartMode,
    outages: &[(Timestamp, Timestamp)],
    beginnings: &Beginnings,
    made_in: Option<&str>,
) -> Life {
    let at = exit.at.as_millis();
    let started_before = |when: Timestamp| exit.started_at.is_some_and(|started| started < when);
    // A clock that was set forward moves the boot behind what has started since.
    let same_boot = made_in.is_some() && made_in == beginnings.boot_id.as_deref();
    if let Some(boot) = beginnings.boot
        && !same_boot
        && started_before(boot)
        && at >= boot.as_millis()
    {
        return Life::HostReboot { at: boot };
    }
    // A component that should run for ever may well end with 0 when it is told to stop. One that
    // ends for its own reasons while the engine is away keeps its code.
    let was_told = match exit.status {
        ExitStatus::Code(137 | 143) => true,
        ExitStatus::Code(0) => mode == RestartMode::Always,
        ExitStatus::Code(_) | ExitStatus::Signal(_) | ExitStatus::Unknown => false,
    };
    if exit.oom || !was_told {
        return Life::Exited(exit);
    }
    let within = |from: i64, to: i64| (from..=to).contains(&at);
    let in_outage = outages.iter().any(|(from, to)| {
        within(
            from.as_millis() - SLACK_MILLIS,
            to.as_millis() + SLACK_MILLIS,
        )
    });
    let by_restart = beginnings.engine.is_some_and(|engine| {
        let began = engine.as_millis();
        // An engine may be away for hours, and so may we.
        let unheard = beginnings.watch.is_some_and(|watch| exit.at < watch);
        let from = if unheard { 0 } else { began - SHUTDOWN_MILLIS };
        started_before(engine) && within(from, began + START_MILLIS)
    });
    if in_outage || by_restart {
        Life::RuntimeRestarted(exit)
    } else {
        Life::Exited(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn exit(code: i32, started: i64, ended: i64) -> Exit {
        Exit {
            status: ExitStatus::Code(code),
            oom: false,
            started_at: Some(at(started)),
            at: at(ended),
            killed: 0,
        }
    }

    #[test]
    fn what_an_outage_killed_is_not_a_crash_and_what_ended_by_itself_is() {
        let outage = [(at(100), at(120))];
        let judge = |code, ended| {
            let exit = exit(code, 50, ended);
            let nothing = Beginnings::default();
            super::judge(exit, RestartMode::Always, &outage, &nothing, None)
        };
        assert!(matches!(judge(137, 110), Life::RuntimeRestarted(_)));
        assert!(matches!(judge(0, 110), Life::RuntimeRestarted(_)));
        assert!(matches!(judge(42, 110), Life::Exited(_)));
        assert!(matches!(judge(137, 90), Life::Exited(_)));
        let job = super::judge(
            exit(0, 50, 110),
            RestartMode::OnFailure,
            &outage,
            &Beginnings::default(),
            None,
        );
        assert!(matches!(job, Life::Exited(_)), "a job that is done is done");
    }

    #[test]
    fn an_engine_or_a_host_that_began_later_tells_what_it_took_along() {
        let beginnings = Beginnings {
            boot: Some(at(100)),
            boot_id: Some("this".to_owned()),
            engine: Some(at(200)),
            watch: None,
            listener: Listener::Engine,
        };
        let judge = |exit| super::judge(exit, RestartMode::Always, &[], &beginnings, None);
        assert!(matches!(
            judge(exit(137, 150, 205)),
            Life::RuntimeRestarted(_)
        ));
        assert!(matches!(judge(exit(137, 201, 205)), Life::Exited(_)));
        assert!(matches!(judge(exit(137, 150, 300)), Life::Exited(_)));
        assert_eq!(judge(exit(255, 50, 150)), Life::HostReboot { at: at(100) });
    }

    #[test]
    fn a_host_whose_clock_was_set_forward_did_not_reboot() {
        let beginnings = Beginnings {
            boot: Some(at(100)),
            boot_id: Some("this".to_owned()),
            ..Beginnings::default()
        };
        let judge = |made_in| {
            let exit = exit(0, 50, 150);
            super::judge(exit, RestartMode::Never, &[], &beginnings, made_in)
        };
        assert!(matches!(judge(Some("this")), Life::Exited(_)));
        let reboot = Life::HostReboot { at: at(100) };
        assert_eq!(judge(Some("another")), reboot);
        assert_eq!(judge(None), reboot, "one that was made before it was noted");
    }

    #[test]
    fn what_ended_before_our_watch_and_before_the_engine_began_was_taken_along() {
        let judge = |watch, ended| {
            let beginnings = Beginnings {
                boot: Some(at(100)),
                boot_id: Some("this".to_owned()),
                engine: Some(at(900)),
                watch: Some(at(watch)),
                listener: Listener::Engine,
            };
            let exit = exit(143, 150, ended);
            super::judge(exit, RestartMode::Always, &[], &beginnings, None)
        };
        assert!(matches!(judge(950, 300), Life::RuntimeRestarted(_)));
        assert!(matches!(judge(200, 300), Life::Exited(_)), "we would know");
    }
}
