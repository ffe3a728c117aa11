//! What the service manager that started this daemon is told: systemd, or another that speaks its
//! protocol of datagrams on `$NOTIFY_SOCKET`.
//!
//! **Guarantees.** `READY=1` is told once the daemon looks after what ran before it; `STATUS=` when
//! its words change; `WATCHDOG=1` after each full look that the reconciler had a driver take and
//! after nothing else, so that a daemon whose reconciler hangs is found out; `STOPPING=1` at the end.
//! A service manager that does not listen costs nothing: no message is waited for, and none but
//! `READY=1` is repeated.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use crate::model::{DriverKind, PhaseName, Snapshot};
use crate::reconciler::ReconcilerHandle;

/// Names the socket: a path, or `@` and an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";
/// After how many microseconds without a word the daemon is taken for hung.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Of which process that is expected, where not of whoever has the variable.
const WATCHED: &str = "WATCHDOG_PID";

/// How long a driver that does not answer may keep the daemon from being ready. What it runs is left
/// alone until it answers, so nothing is lost by going on without it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two attempts to tell a service manager that is busy that the daemon is ready.
const AGAIN: Duration = Duration::from_millis(100);
/// So many conditions are named in the status.
const NAMED: usize = 3;

/// The service manager.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watches: bool,
}

impl ServiceManager {
    /// Whoever started this process, if it wants to be told.
    pub(super) fn of_this_process() -> Option<Self> {
        let place = std::env::var_os(SOCKET).filter(|place| !place.is_empty())?;
        let [period, watched] = [WATCHDOG, WATCHED].map(|name| {
            let value = std::env::var(name).ok()?;
            value.parse::<u64>().ok()
        });
        let is_us = watched.is_none_or(|pid| pid == u64::from(std::process::id()));
        let watches = is_us && period.is_some_and(|period| period > 0);
        match Self::at(&place, watches) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!(socket = ?place, %error, "the service manager cannot be told anything");
                None
            }
        }
    }

    fn at(place: &OsStr, watches: bool) -> io::Result<Self> {
        let address = match place.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
            Some((b'/', _)) => SocketAddr::from_pathname(Path::new(place))?,
            Some(_) | None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            watches,
        })
    }

    fn send(&self, words: &str) -> io::Result<()> {
        self.socket
            .send_to_addr(words.as_bytes(), &self.address)
            .map(drop)
    }

    /// Says something that need not arrive.
    fn say(&self, words: &str) {
        if let Err(error) = self.send(words) {
            tracing::debug!(%error, words, "the service manager was not told");
        }
    }

    /// Says that the daemon is about to end, in its order and for `why`.
    pub(super) fn stopping(&self, why: &str) {
        let why = why.replace('\n', " ");
        self.say(&format!("STOPPING=1\nSTATUS=Ending: {why}"));
    }

    /// Says how the daemon is, until it ends.
    pub(super) async fn follow(&self, owner: ReconcilerHandle) {
        let mut snapshots = owner.snapshots();
        let mut looks = owner.vitals().looks();
        if tokio::time::timeout(PATIENCE, all_seen(&owner))
            .await
            .is_err()
        {
            tracing::info!("a driver does not answer; ready without it");
        }
        let mut status = status(&snapshots.borrow_and_update());
        let ready = format!("READY=1\nSTATUS={status}");
        while let Err(error) = self.send(&ready) {
            if error.kind() != io::ErrorKind::WouldBlock {
                tracing::warn!(%error, "the service manager cannot be told that the daemon is ready");
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        loop {
            tokio::select! {
                // Cancel-safe: only the latest snapshot counts.
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = self::status(&snapshots.borrow_and_update());
                    if now != status {
                        self.say(&format!("STATUS={now}"));
                        status = now;
                    }
                }
                // Cancel-safe: only that there was one counts.
                looked = looks.changed() => {
                    if looked.is_err() {
                        return;
                    }
                    if self.watches {
                        self.say("WATCHDOG=1");
                    }
                }
            }
        }
    }
}

/// Waits until every driver that runs something has told all that it runs.
async fn all_seen(owner: &ReconcilerHandle) {
    let mut looks = owner.vitals().looks();
    loop {
        let seen = owner.vitals().figures().seen;
        let running = drivers(&owner.snapshots().borrow());
        if running.iter().all(|kind| seen.contains_key(kind)) {
            return;
        }
        if looks.changed().await.is_err() {
            return;
        }
    }
}

/// The drivers that run something, and that of processes, which always answers.
fn drivers(snapshot: &Snapshot) -> BTreeSet<DriverKind> {
    let of_components = snapshot
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.components)
        .map(|component| component.driver);
    of_components.chain([DriverKind::Process]).collect()
}

/// `2 pipelines, 5 of 6 ready; crashloop: default/ttp/sink`.
fn status(snapshot: &Snapshot) -> String {
    // What a person stopped, and what is done, is not waited for.
    let wanted = snapshot.replicas().filter(|(_, _, replica)| {
        !matches!(replica.phase, PhaseName::Stopped | PhaseName::Completed)
    });
    let (mut all, mut ready) = (0, 0);
    for (_, _, replica) in wanted {
        all += 1;
        ready += usize::from(replica.ready);
    }
    let count = snapshot.pipelines.len();
    let pipelines = if count == 1 { "pipeline" } else { "pipelines" };
    let mut text = format!("{count} {pipelines}, {ready} of {all} ready");
    let conditions = snapshot.all_conditions();
    for condition in conditions.iter().take(NAMED) {
        text.push_str(&format!("; {}: {}", condition.kind, condition.subject()));
    }
    if let Some(more) = conditions.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A service manager to listen to, and what tells it.
    fn told(place: &OsStr, address: &SocketAddr) -> (UnixDatagram, ServiceManager) {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        let limit = Some(Duration::from_secs(10));
        socket.set_read_timeout(limit).unwrap();
        (socket, ServiceManager::at(place, true).unwrap())
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn it_is_told_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let (socket, manager) = told(path.as_os_str(), &SocketAddr::from_pathname(&path).unwrap());
        manager.stopping("SIGTERM");
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=Ending: SIGTERM");

        let name = format!("flowctl-test-{}", std::process::id());
        let (socket, manager) = told(
            OsStr::new(&format!("@{name}")),
            &SocketAddr::from_abstract_name(&name).unwrap(),
        );
        manager.say("WATCHDOG=1");
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }

    #[test]
    fn a_place_that_is_no_socket_of_this_host_is_not_told_anything() {
        for place in ["vsock:2:1", "relative", ""] {
            assert!(
                ServiceManager::at(OsStr::new(place), false).is_err(),
                "{place}"
            );
        }
    }

    #[test]
    fn one_that_went_away_or_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let (socket, manager) = told(path.as_os_str(), &SocketAddr::from_pathname(&path).unwrap());
        // More than a socket that nobody reads takes.
        for _ in 0..10_000 {
            manager.say("WATCHDOG=1");
        }
        drop(socket);
        manager.stopping("SIGTERM");
    }

    fn handle(snapshot: Snapshot) -> (ReconcilerHandle, tokio::sync::watch::Sender<Arc<Snapshot>>) {
        let (commands, _) = tokio::sync::mpsc::channel(1);
        let (snapshots, seen) = tokio::sync::watch::channel(Arc::new(snapshot));
        let (events, _) = tokio::sync::broadcast::channel(1);
        (ReconcilerHandle::new(commands, seen, events), snapshots)
    }

    fn nothing() -> Snapshot {
        Snapshot {
            schema: String::new(),
            daemon: None,
            conditions: Vec::new(),
            pipelines: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_look_it_is_ready_after_a_while_and_the_watchdog_is_never_fed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let (socket, manager) = told(path.as_os_str(), &SocketAddr::from_pathname(&path).unwrap());
        socket.set_nonblocking(true).unwrap();
        let (owner, snapshots) = handle(nothing());
        let following = tokio::spawn(async move { manager.follow(owner).await });
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(socket.recv(&mut [0; 64]).is_err(), "not yet");
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(heard(&socket), "READY=1\nSTATUS=0 pipelines, 0 of 0 ready");
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!(
            socket.recv(&mut [0; 64]).is_err(),
            "nobody looked at anything"
        );
        drop(snapshots);
        following.await.unwrap();
    }

    #[test]
    fn the_status_counts_what_should_be_ready_and_names_what_is_wrong() {
        assert_eq!(status(&nothing()), "0 pipelines, 0 of 0 ready");
        let mut snapshot = nothing();
        let condition = |about: &str| crate::model::StatusCondition {
            kind: crate::model::ConditionKind::Blind,
            since: crate::model::Timestamp::from_millis(0),
            namespace: None,
            pipeline: None,
            component: None,
            replicas: Vec::new(),
            about: Some(about.to_owned()),
            why: String::new(),
            next: None,
            exit: None,
            blocks: Vec::new(),
        };
        snapshot.conditions = ["docker", "b", "c", "d", "e"].map(condition).to_vec();
        assert_eq!(
            status(&snapshot),
            "0 pipelines, 0 of 0 ready; blind: docker; blind: b; blind: c; and 2 more"
        );
    }
}
