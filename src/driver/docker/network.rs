//! The network that containers share: made once, marked, removed when nothing uses it any more.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::NetworkCreateRequest;
use bollard::models::NetworkInspect;
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};

use super::engine::{CHANGE, Engine, Failure, LOOK, found};
use super::identity;

/// The network of components whose pipeline names none.
pub(super) const DEFAULT: &str = "flowctl-bridge";

/// The network that is the host's own.
pub(super) const HOST: &str = "host";

/// A network as the engine knows it.
pub(super) struct Network {
    /// The host's own address on it.
    pub(super) gateway: Option<IpAddr>,
}

/// Whether the engine itself has it, always.
fn is_built_in(name: &str) -> bool {
    matches!(name, HOST | "none" | "bridge" | "default")
}

/// Makes sure that the network is there; one that the engine has itself is not ours to make.
pub(super) async fn ensure(engine: &Engine, owner: &str, name: &str) -> Result<Network, Failure> {
    if let Some(network) = look(engine, name).await? {
        return Ok(network);
    }
    if is_built_in(name) {
        // To Podman these are ways to be connected, and no networks.
        return Ok(Network { gateway: None });
    }
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        attachable: Some(true),
        labels: Some(identity::mark(owner)),
        ..NetworkCreateRequest::default()
    };
    let made = engine
        .call(CHANGE, |client| async move {
            client.create_network(request).await
        })
        .await;
    match made {
        Ok(_) => {}
        // Someone else was faster.
        Err(Failure::Answered { status: 409, .. }) => {}
        Err(failure) if says_exists(&failure) => {}
        Err(failure) => return Err(failure),
    }
    let made = look(engine, name).await?;
    made.ok_or_else(|| Failure::Silent(format!("network {name} vanished while it was made")))
}

/// Podman's older ones say with the number of a failure that a network of this name is there.
fn says_exists(failure: &Failure) -> bool {
    matches!(failure, Failure::Answered { status: 500, message } if message.contains("already exists"))
}

/// The network, if it exists.
pub(super) async fn look(engine: &Engine, name: &str) -> Result<Option<Network>, Failure> {
    let inspect = || {
        engine.call(LOOK, |client| async move {
            let options = None::<InspectNetworkOptions>;
            client.inspect_network(name, options).await
        })
    };
    let answer = match inspect().await {
        Err(failure) if says_ambiguous(&failure) => {
            keep_the_oldest(engine, name).await?;
            inspect().await
        }
        answer => answer,
    };
    let network = found(answer)?;
    Ok(network.map(|network| Network {
        gateway: gateway(&network),
    }))
}

/// Whether the engine has two networks of one name, and cannot tell which is meant.
pub(super) fn says_ambiguous(failure: &Failure) -> bool {
    matches!(failure, Failure::Answered { message, .. } if message.contains("ambiguous"))
}

/// Docker makes two networks of one name when two flowctls ask at once, and then neither can be named
/// any more. Whoever finds that removes all of them that a flowctl made but the oldest; the engine
/// keeps those that something runs on.
async fn keep_the_oldest(engine: &Engine, name: &str) -> Result<(), Failure> {
    let named = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
    let options = ListNetworksOptions {
        filters: Some(named),
    };
    let listed = engine
        .call(LOOK, |client| async move {
            client.list_networks(Some(options)).await
        })
        .await?;
    let mut twins: Vec<_> = listed
        .into_iter()
        // The engine's filter also takes names that only contain it.
        .filter(|network| network.name.as_deref() == Some(name))
        .collect();
    twins.sort_by(|one, two| (&one.created, &one.id).cmp(&(&two.created, &two.id)));
    for twin in twins.into_iter().skip(1) {
        let is_flowctls = twin
            .labels
            .is_some_and(|labels| labels.contains_key(identity::OWNER));
        if let Some(id) = twin.id.filter(|_| is_flowctls) {
            remove(engine, &id).await?;
        }
    }
    Ok(())
}

fn gateway(network: &NetworkInspect) -> Option<IpAddr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    let gateways = configs.iter().filter_map(|config| config.gateway.as_ref());
    // Some engines write the prefix too.
    let parse = |text: &String| text.split('/').next()?.parse::<IpAddr>().ok();
    let mut addresses: Vec<IpAddr> = gateways.filter_map(parse).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.into_iter().next()
}

/// Removes a network of ours, by its id; false when a container is still on it.
pub(super) async fn remove(engine: &Engine, id: &str) -> Result<bool, Failure> {
    if has_containers(engine, id).await? {
        return Ok(false);
    }
    let answer = engine
        .call(
            CHANGE,
            |client| async move { client.remove_network(id).await },
        )
        .await;
    match answer {
        Ok(()) => Ok(true),
        Err(Failure::Answered { status: 404, .. }) => Ok(true),
        Err(Failure::Answered { status: 403, .. }) => Ok(false),
        Err(failure) if failure.is_conflict() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Whether a container is on this network, ended ones among them.
///
/// Podman removes a network of this id from under its containers, and without it cannot take
/// their names and addresses back: the names of every later network of this name are then looked
/// up where nobody answers (seen with 4.3).
async fn has_containers(engine: &Engine, id: &str) -> Result<bool, Failure> {
    let on_it = HashMap::from([("network".to_owned(), vec![id.to_owned()])]);
    Ok(!engine.containers(on_it).await?.is_empty())
}

/// Whether containers can have names of their own on it.
pub(super) fn has_aliases(name: &str) -> bool {
    !is_built_in(name)
}
