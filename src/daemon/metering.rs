//! What is measured, and the address for scrapers, where one is asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Backend, Exposition};
use crate::clock::Clock;
use crate::driver::docker::DockerDriver;
use crate::driver::process::ProcessDriver;
use crate::driver::usage::Meter;
use crate::metrics::Scrape;
use crate::model::DriverKind;
use crate::reconciler::ReconcilerHandle;
use crate::usage::Meters;

/// What measures what runs.
pub(super) fn meters(
    process: &Arc<ProcessDriver>,
    docker: &Arc<DockerDriver>,
    clock: &Clock,
    owner: &ReconcilerHandle,
) -> Meters {
    let process = Arc::clone(process) as Arc<dyn Meter>;
    let docker = Arc::clone(docker) as Arc<dyn Meter>;
    let all = BTreeMap::from([(DriverKind::Process, process), (DriverKind::Docker, docker)]);
    Meters::new(all, clock.clone(), owner.snapshots())
}

/// How soon it is tried again to listen on an address that somebody else has.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);

/// Answers scrapers on `address` until `stop`. An address that is taken keeps no daemon from
/// looking after its components: that is told, and tried again.
pub(super) async fn serve(address: SocketAddr, backend: Arc<dyn Backend>, stop: CancellationToken) {
    let mut told = None;
    let listening = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(error) => {
                    let why = error.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(
                            %address,
                            error = %why,
                            "metrics are not served there yet; tried again every 10 s"
                        );
                    }
                    told = Some(why);
                    tokio::time::sleep(LISTEN_AGAIN).await;
                }
            }
        }
    };
    // Cancel-safe: a listener that is not served yet is closed.
    let Some(listener) = stop.run_until_cancelled(listening).await else {
        return;
    };
    tracing::info!(%address, "metrics are served");
    api::serve_scrapers(listener, backend, stop.child_token()).await;
}

/// A scrape as the API hands it on.
pub(super) fn exposed(scrape: Scrape) -> Exposition {
    let Scrape { format, text } = scrape;
    Exposition {
        content_type: format.content_type(),
        text,
    }
}
