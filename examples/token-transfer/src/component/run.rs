//! The frame of a component: its health port and registration beside its work, and a quick end.

use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::env::{Env, SettingError};
use super::health::{self, Health};
use super::log;
use super::register::Registration;

/// How long work that was asked to stop may take. The whole exit stays under 2 s.
const GRACE: Duration = Duration::from_millis(1500);

/// What a component needs beside its work.
#[derive(Debug)]
pub struct Frame {
    /// Its health.
    pub health: Arc<Health>,
    /// Where the health is served.
    pub health_address: SocketAddr,
    /// How to register with flowctl, if at all.
    pub registration: Option<Registration>,
}

impl Frame {
    /// Runs `work` until it ends or the process is asked to stop; the token it gets is cancelled
    /// then. Fails, with the reason in the log, when the work fails or the health port is taken.
    pub async fn run<E, F>(self, work: impl FnOnce(CancellationToken) -> F) -> ExitCode
    where
        E: Display,
        F: Future<Output = Result<(), E>>,
    {
        let stop = CancellationToken::new();
        let component = self.health.component().to_owned();
        tracing::info!(component, pid = std::process::id(), "started");
        let health = health::serve(self.health.clone(), self.health_address, stop.clone());
        let mut health = tokio::spawn(health);
        let registered = self
            .registration
            .map(|registration| tokio::spawn(registration.keep(self.health, stop.clone())));

        let work = work(stop.clone());
        tokio::pin!(work);
        let code = tokio::select! {
            outcome = &mut work => finish(outcome),
            served = &mut health => {
                let reason = match served {
                    Ok(Ok(())) => "ended".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(panic) => panic.to_string(),
                };
                tracing::error!(address = %self.health_address, "health port: {reason}");
                ExitCode::FAILURE
            }
            name = asked_to_stop() => {
                tracing::info!(signal = name, "stopping");
                stop.cancel();
                match tokio::time::timeout(GRACE, work).await {
                    Ok(outcome) => finish(outcome),
                    Err(_) => {
                        tracing::warn!("work did not end in time");
                        ExitCode::SUCCESS
                    }
                }
            }
        };
        stop.cancel();
        if let Some(registered) = registered {
            registered.abort();
        }
        tracing::info!("stopped");
        code
    }
}

fn finish<E: Display>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for the first signal to stop, and says which it was.
async fn asked_to_stop() -> &'static str {
    let listen = |kind| signal(kind).expect("a handler for a catchable signal can be installed");
    let mut terminate = listen(SignalKind::terminate());
    let mut interrupt = listen(SignalKind::interrupt());
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Reads a program's settings from the environment and runs it with them, the log started.
pub fn configured<S, F: Future<Output = ExitCode>>(
    read: impl FnOnce(&Env) -> Result<S, SettingError>,
    main: impl FnOnce(S) -> F,
) -> ExitCode {
    let lookup = |name: &str| std::env::var(name).ok();
    let env = Env::new(&lookup);
    if let Err(error) = log::start(env.text(&["LOG_LEVEL"]).as_deref()) {
        eprintln!("no log: {error}");
    }
    match read(&env) {
        Ok(settings) => program(main(settings)),
        Err(error) => {
            tracing::error!("{error}; --help lists every setting");
            ExitCode::from(2)
        }
    }
}

/// Runs a program's asynchronous part, on two threads: one for the work, one for everything else.
/// What is left running when it ends is not waited for.
fn program(main: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(main);
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
