//! Named volumes, and what is left of everything at the end.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{ListNetworksOptions, ListVolumesOptions, RemoveVolumeOptions};
use tokio::sync::RwLockWriteGuard;

use super::engine::{CHANGE, Failure, LOOK, found};
use super::{CleanedUp, DockerDriver, Sweep, Volumes, identity, network};
use crate::driver::DriverError;
use crate::model::ContainerSpec;

impl DockerDriver {
    /// Makes a volume with our mark, unless it exists: then it is somebody's, and is used as it is.
    /// Answers the places of the host that it leads to.
    pub(super) async fn make_volume(&self, name: &str) -> Result<Vec<PathBuf>, DriverError> {
        let engine = &self.inner.engine;
        let lost = |failure: Failure| failure.unreachable("make a volume");
        let known = engine
            .call(
                LOOK,
                |client| async move { client.inspect_volume(name).await },
            )
            .await;
        if let Some(known) = found(known).map_err(lost)? {
            return Ok(places(&known.options));
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
        made.map(|_| Vec::new()).map_err(lost)
    }

    /// Removes our networks that nothing uses any more, and named volumes if so asked.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn clean_up(&self, volumes: Volumes) -> Result<CleanedUp, DriverError> {
        let lost = |failure: Failure| failure.unreachable("clean up");
        let mut cleaned = CleanedUp::default();
        // Nobody asks again after this one. What is waited for, a start or another sweep, ends with
        // its calls to the engine.
        let quiet = self.inner.making.write().await;
        // All is down: what still uses a network is somebody else's.
        let _swept = self
            .end_networks(quiet, &BTreeSet::new(), &mut cleaned)
            .await
            .map_err(lost)?;
        let fates = self.own_volumes().await.map_err(lost)?;
        let fates = fates.into_iter().map(|name| (name, volumes)).collect();
        self.end_volumes(fates, &mut cleaned).await.map_err(lost)?;
        Ok(cleaned)
    }

    /// The network that a container of this definition is on.
    pub fn network_of(container: &ContainerSpec) -> &str {
        container.network.as_deref().unwrap_or(network::DEFAULT)
    }

    /// Removes those networks of ours which no component is on and none of `wanted` names, and the
    /// common one even when another owner made it.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn drop_networks(&self, wanted: &BTreeSet<String>) -> Result<Sweep, DriverError> {
        // To wait here would make all that starts meanwhile wait too.
        let Ok(quiet) = self.inner.making.try_write() else {
            return Ok(Sweep::Postponed);
        };
        let mut cleaned = CleanedUp::default();
        let dropped = self.end_networks(quiet, wanted, &mut cleaned).await;
        dropped.map_err(|failure| failure.unreachable("remove networks"))
    }

    /// Our own networks, and the common one, whoever made it: the last that leaves removes it. One
    /// that begins to use it at that moment makes it anew.
    async fn end_networks(
        &self,
        _quiet: RwLockWriteGuard<'_, ()>,
        wanted: &BTreeSet<String>,
        cleaned: &mut CleanedUp,
    ) -> Result<Sweep, Failure> {
        let engine = &self.inner.engine;
        let options = ListNetworksOptions {
            filters: Some(identity::of_anybody()),
        };
        let networks = engine
            .call(LOOK, |client| async move {
                client.list_networks(Some(options)).await
            })
            .await?;
        let mut sweep = Sweep::Done;
        for found in networks {
            let labels = found.labels.unwrap_or_default();
            let (Some(name), Some(id)) = (found.name, found.id) else {
                continue;
            };
            if wanted.contains(&name) {
                continue;
            }
            let ours = labels.get(identity::OWNER) == Some(&self.inner.config.owner);
            if !ours && name != network::DEFAULT {
                continue;
            }
            // By its id: two may have one name.
            if network::remove(engine, &id).await? {
                cleaned.networks.push(name);
            } else if ours {
                cleaned.networks_in_use.push(name);
                sweep = Sweep::Postponed;
            }
        }
        Ok(sweep)
    }

    /// Removes or keeps those of these volumes that carry our mark. Those of `wanted` stay.
    ///
    /// # Errors
    /// When the engine does not answer before a volume was removed.
    pub async fn dispose(
        &self,
        names: &[String],
        fate: Volumes,
        wanted: &BTreeSet<String>,
    ) -> Result<CleanedUp, DriverError> {
        let lost = |failure: Failure| failure.unreachable("look after volumes");
        let mut cleaned = CleanedUp::default();
        let mut fates = Vec::new();
        for name in self.own_volumes().await.map_err(lost)? {
            if wanted.contains(&name) && names.contains(&name) {
                fates.push((name, Volumes::Keep));
            } else if names.contains(&name) {
                fates.push((name, fate));
            }
        }
        self.end_volumes(fates, &mut cleaned).await.map_err(lost)?;
        Ok(cleaned)
    }

    /// Removes or keeps volumes. What was removed is always told: when the engine is lost after
    /// that, the others count as kept.
    async fn end_volumes(
        &self,
        fates: Vec<(String, Volumes)>,
        cleaned: &mut CleanedUp,
    ) -> Result<(), Failure> {
        let mut fates = fates.into_iter();
        while let Some((name, fate)) = fates.next() {
            let gone = match fate {
                Volumes::Keep => Ok(false),
                Volumes::Remove => self.remove_volume(&name).await,
            };
            match gone {
                Ok(true) => cleaned.volumes_removed.push(name),
                Ok(false) => cleaned.volumes_kept.push(name),
                Err(failure) if cleaned.volumes_removed.is_empty() => return Err(failure),
                Err(failure) => {
                    tracing::warn!(volume = name, %failure, "volumes could not be removed");
                    cleaned.volumes_kept.push(name);
                    cleaned
                        .volumes_kept
                        .extend(fates.by_ref().map(|(name, _)| name));
                }
            }
        }
        Ok(())
    }

    /// The named volumes that carry our mark.
    async fn own_volumes(&self) -> Result<Vec<String>, Failure> {
        let filters = Some(identity::owned_by(&self.inner.config.owner));
        let options = ListVolumesOptions { filters };
        let listed = self
            .inner
            .engine
            .call(LOOK, |client| async move {
                client.list_volumes(Some(options)).await
            })
            .await?;
        let volumes = listed.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.name).collect())
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
            Err(failure) if failure.is_conflict() => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

/// The places of the host that a volume leads to by the options that somebody gave it: what it binds,
/// the disk that it mounts, the layers that it lays over one another.
fn places(options: &HashMap<String, String>) -> Vec<PathBuf> {
    const LAYERS: [&str; 3] = ["lowerdir=", "upperdir=", "workdir="];
    let device = options.get("device").map(String::as_str);
    let mount = options.get("o").into_iter().flat_map(|o| o.split(','));
    let layers = mount.filter_map(|one| LAYERS.iter().find_map(|layer| one.strip_prefix(layer)));
    device
        .into_iter()
        .chain(layers.flat_map(|paths| paths.split(':')))
        .map(Path::new)
        .filter(|path| path.is_absolute())
        .map(Path::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_leads_to_what_its_options_name_of_the_host() {
        let of = |options: &[(&str, &str)]| {
            let options = options.iter();
            places(
                &options
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect(),
            )
        };
        assert_eq!(of(&[]), [""; 0].map(PathBuf::from));
        assert_eq!(
            of(&[("type", "none"), ("o", "rw,bind"), ("device", "/etc")]),
            ["/etc"].map(PathBuf::from)
        );
        assert_eq!(
            of(&[("type", "ext4"), ("device", "/dev/sda1")]),
            ["/dev/sda1"].map(PathBuf::from)
        );
        assert_eq!(
            of(&[
                ("type", "overlay"),
                ("device", "overlay"),
                ("o", "lowerdir=/a:/b,upperdir=/c,workdir=/d"),
            ]),
            ["/a", "/b", "/c", "/d"].map(PathBuf::from)
        );
        let share = [
            ("type", "nfs"),
            ("o", "addr=10.0.0.1,rw"),
            ("device", ":/share"),
        ];
        assert_eq!(of(&share), [""; 0].map(PathBuf::from));
    }
}
