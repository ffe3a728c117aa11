//! Whose container an address belongs to, asked of the engine when somebody calls from there: a
//! program may call before its start was answered, and addresses are used again at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bollard::models::ContainerSummary;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{DockerDriver, identity};
use crate::model::InstanceId;

/// A listing answers for this long, so that a hundred callers at once cost few of them; an address
/// that it does not hold asks for another.
const FRESH: Duration = Duration::from_millis(100);

/// A program runs for a moment before its engine lists its address, so it is asked again after these
/// milliseconds.
const AGAIN: [u64; 4] = [50, 100, 200, 300];

/// The latest listing.
#[derive(Default)]
pub(super) struct Callers(Mutex<Option<Listing>>);

struct Listing {
    asked: Instant,
    instances: HashMap<IpAddr, InstanceId>,
}

impl DockerDriver {
    /// The instance of ours whose container has this address; `None` when none has it, which takes two
    /// thirds of a second to be sure of, or the engine does not answer.
    pub async fn instance_at(&self, address: IpAddr) -> Option<InstanceId> {
        for pause in AGAIN {
            if let Some(found) = self.listed_at(address).await {
                return Some(found);
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.listed_at(address).await
    }

    async fn listed_at(&self, address: IpAddr) -> Option<InstanceId> {
        let mut latest = self.inner.callers.0.lock().await;
        let known = latest.as_ref().and_then(|listing| {
            let found = listing.instances.get(&address)?;
            (listing.asked.elapsed() < FRESH).then_some(found)
        });
        if let Some(known) = known {
            return Some(known.clone());
        }
        let asked = Instant::now();
        let ours = identity::owned_by(&self.inner.config.owner);
        match self.inner.containers(ours).await {
            Ok(listed) => {
                let instances: HashMap<_, _> = listed.iter().flat_map(addresses).collect();
                let found = instances.get(&address).cloned();
                *latest = Some(Listing { asked, instances });
                found
            }
            Err(failure) => {
                tracing::debug!(%address, ?failure, "whose address it is cannot be asked");
                // Who gives out addresses gives out none meanwhile, so the latest answer stands.
                let known = latest.as_ref()?.instances.get(&address)?;
                Some(known.clone())
            }
        }
    }
}

/// The addresses of a container, each with the instance that it is. One that has ended has none.
fn addresses(container: &ContainerSummary) -> Vec<(IpAddr, InstanceId)> {
    let instance = container.labels.as_ref().and_then(identity::instance);
    let networks = container.network_settings.as_ref();
    let networks = networks.and_then(|settings| settings.networks.as_ref());
    let ends = networks.into_iter().flat_map(HashMap::values);
    ends.filter_map(|end| {
        let address = end.ip_address.as_deref()?.parse().ok()?;
        Some((address, instance.clone()?))
    })
    .collect()
}
