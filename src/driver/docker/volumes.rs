//! Named volumes, and what is left of everything at the end.

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListNetworksOptions, ListVolumesOptions, RemoveVolumeOptions};

use super::engine::{CHANGE, Failure, LOOK, found};
use super::{CleanedUp, DockerDriver, Volumes, identity, network};
use crate::driver::DriverError;

impl DockerDriver {
    /// Makes a volume with our mark, unless it exists: then it is somebody's, and is used as it is.
    pub(super) async fn make_volume(&self, name: &str) -> Result<(), DriverError> {
        let engine = &self.inner.engine;
        let lost = |failure: Failure| failure.unreachable("make a volume");
        let known = engine
            .call(
                LOOK,
                |client| async move { client.inspect_volume(name).await },
            )
            .await;
        if found(known).map_err(lost)?.is_some() {
            return Ok(());
        }
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(identity::mark(&self.inner.config.owner)),
            ..VolumeCreateRequest::default()
        };
        let made = engine
            .call(CHANGE, |client| async move {
                client.create_volume(request).await
            })
            .await;
        made.map(drop).map_err(lost)
    }

    /// Removes our networks that nothing uses any more, and named volumes if so asked.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn clean_up(&self, volumes: Volumes) -> Result<CleanedUp, DriverError> {
        let lost = |failure: Failure| failure.unreachable("clean up");
        let engine = &self.inner.engine;
        let owned = || Some(identity::owned_by(&self.inner.config.owner));
        let mut cleaned = CleanedUp::default();

        let _turn = self.inner.networks.lock().await;
        let options = ListNetworksOptions { filters: owned() };
        let networks = engine
            .call(LOOK, |client| async move {
                client.list_networks(Some(options)).await
            })
            .await
            .map_err(lost)?;
        for name in networks.into_iter().filter_map(|network| network.name) {
            if network::remove(engine, &name).await.map_err(lost)? {
                cleaned.networks.push(name);
            } else {
                cleaned.networks_in_use.push(name);
            }
        }

        let options = ListVolumesOptions { filters: owned() };
        let listed = engine
            .call(LOOK, |client| async move {
                client.list_volumes(Some(options)).await
            })
            .await
            .map_err(lost)?;
        for volume in listed.volumes.unwrap_or_default() {
            let name = volume.name;
            match volumes {
                Volumes::Keep => cleaned.volumes_kept.push(name),
                Volumes::Remove if self.remove_volume(&name).await.map_err(lost)? => {
                    cleaned.volumes_removed.push(name);
                }
                Volumes::Remove => cleaned.volumes_kept.push(name),
            }
        }
        Ok(cleaned)
    }

    /// Removes a volume; false when a container still uses it.
    async fn remove_volume(&self, name: &str) -> Result<bool, Failure> {
        let answer = self
            .inner
            .engine
            .call(CHANGE, |client| async move {
                client
                    .remove_volume(name, None::<RemoveVolumeOptions>)
                    .await
            })
            .await;
        match answer {
            Ok(()) | Err(Failure::Answered { status: 404, .. }) => Ok(true),
            Err(Failure::Answered { status: 409, .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}
