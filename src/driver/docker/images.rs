//! From what the gate lets run to the one image that the engine runs: pulled when that is asked for,
//! then addressed by its digest, so that a tag that moves changes nothing that was decided.

use std::collections::HashMap;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, Failure, LOOK, found};
use super::failure::Refusal;
use crate::driver::DriverError;
use crate::images::credentials::{self, Credentials, Secret};
use crate::images::{Runs, VerifiedImage};
use crate::model::image::{DOCKER_HUB, Digest, ImageName, Repository};
use crate::model::{ContainerSpec, ImageChoice, ImagePullPolicy, StartFailure};

/// A pull that makes no progress for so long has failed.
const PULL_IDLE: Duration = Duration::from_secs(60);
/// A pull takes no longer than this.
const PULL_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The image that a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Names exactly this image to the engine: `repository@digest`, or its id where no registry
    /// gave it a digest.
    pub(super) reference: String,
    /// The user that it runs as unless told otherwise.
    pub(super) user: Option<String>,
}

/// Whether an image was looked for in its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Renewal {
    /// It was, and what is there is here now.
    Pulled,
    /// Its policy is never to pull.
    NeverPulled,
}

/// A reference taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    /// Host and port of the registry; Docker Hub's when none is written.
    pub(super) registry: &'a str,
    /// All before the tag or digest, as written.
    pub(super) repository: &'a str,
    /// Tag or digest; `latest` when none is written.
    pub(super) version: &'a str,
}

impl<'a> Reference<'a> {
    pub(super) fn parse(image: &'a str) -> Self {
        let (repository, version) = match image.split_once('@') {
            // A tag before a digest says nothing more.
            Some((name, digest)) => (Self::split_tag(name).0, digest),
            None => match Self::split_tag(image) {
                (name, Some(tag)) => (name, tag),
                (name, None) => (name, "latest"),
            },
        };
        let first = repository.split_once('/').map(|(first, _)| first);
        let registry = first.filter(|first| first.contains(['.', ':']) || *first == "localhost");
        Self {
            registry: registry.unwrap_or(DOCKER_HUB),
            repository,
            version,
        }
    }

    fn split_tag(name: &str) -> (&str, Option<&str>) {
        match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
            _ => (name, None),
        }
    }
}

/// When the image of `container` is pulled.
fn policy(container: &ContainerSpec) -> ImagePullPolicy {
    container.pull.unwrap_or_else(|| {
        if Reference::parse(&container.image).version == "latest" {
            ImagePullPolicy::Always
        } else {
            ImagePullPolicy::IfNotPresent
        }
    })
}

/// Finds or fetches what the gate lets `container` run; `tell` hears how a pull goes.
///
/// # Errors
/// [`DriverError::Refused`] when it is not to be had, or was `given_up` before it was.
pub(super) async fn resolve(
    engine: &Engine,
    container: &ContainerSpec,
    image: &VerifiedImage,
    choice: &ImageChoice,
    given_up: &CancellationToken,
    tell: &(dyn Fn(String) + Sync),
) -> Result<Resolved, DriverError> {
    let image = match image.runs() {
        Runs::AsWritten(image) => image,
        Runs::Local(image) => return local(engine, image, choice).await,
        Runs::Exactly(repository, digest) => {
            let exactly = exactly(engine, repository, digest, container.pull, tell);
            return tokio::select! {
                exactly = exactly => exactly,
                // The engine ends a pull that nobody listens to.
                () = given_up.cancelled() => Err(nobody_wants(&container.image)),
            };
        }
    };
    let policy = match choice {
        ImageChoice::ByPolicy => policy(container),
        // It was, before its container was stopped.
        ImageChoice::Pulled => match policy(container) {
            ImagePullPolicy::Always | ImagePullPolicy::IfNotPresent => {
                ImagePullPolicy::IfNotPresent
            }
            ImagePullPolicy::Never => ImagePullPolicy::Never,
        },
        ImageChoice::Recorded(reference) => {
            if let Some(recorded) = recorded(engine, reference).await? {
                return Ok(recorded);
            }
            tracing::warn!(image, reference, "the image that it ran is gone");
            policy(container)
        }
    };
    let local = look(engine, image).await?;
    let local = match (policy, local) {
        (ImagePullPolicy::IfNotPresent | ImagePullPolicy::Never, Some(local)) => Some(local),
        (ImagePullPolicy::Never, None) => {
            let image = image.to_owned();
            return Err(refuse(Refusal::ImagePullNever { image }));
        }
        (ImagePullPolicy::IfNotPresent, None) | (ImagePullPolicy::Always, _) => {
            let pulled = tokio::select! {
                pulled = pull(engine, image, tell) => pulled,
                // The engine ends a pull that nobody listens to.
                () = given_up.cancelled() => return Err(nobody_wants(image)),
            };
            match pulled {
                Ok(()) => look(engine, image).await?,
                Err(failure) => {
                    let Some(refusal) = Refusal::of_pull(&failure, image) else {
                        return Err(failure.unreachable("pull an image"));
                    };
                    let local = look(engine, image).await?;
                    if local.is_none() {
                        return Err(refuse(refusal));
                    }
                    tracing::warn!(image, why = %refusal, "going on with the local image");
                    local
                }
            }
        }
    };
    let vanished = || {
        let why = "it was removed while it was fetched".to_owned();
        let image = image.to_owned();
        refuse(Refusal::ImagePullFailed { image, why })
    };
    resolved(image, local.ok_or_else(vanished)?).ok_or_else(|| {
        Failure::Silent(format!("the engine gives no id of {image}")).unreachable("find an image")
    })
}

fn refuse(refusal: Refusal) -> DriverError {
    DriverError::Refused(StartFailure::from(refusal))
}

pub(super) fn nobody_wants(image: &str) -> DriverError {
    let image = image.to_owned();
    refuse(Refusal::ImagePullGivenUp { image })
}

/// Finds or fetches exactly this image. No name that could mean another one is used on the way.
async fn exactly(
    engine: &Engine,
    repository: &Repository,
    digest: &Digest,
    pull_policy: Option<ImagePullPolicy>,
    tell: &(dyn Fn(String) + Sync),
) -> Result<Resolved, DriverError> {
    let reference = format!("{repository}@{digest}");
    let found = |local: ImageInspect| {
        let digests = local.repo_digests.as_deref().unwrap_or_default();
        let is_it = digests.iter().any(|known| {
            let known = known.parse::<ImageName>().ok();
            known.is_some_and(|it| it.repository == *repository && it.digest == Some(*digest))
        });
        is_it.then(|| Resolved {
            reference: reference.clone(),
            user: local.config.and_then(|config| config.user),
        })
    };
    if let Some(resolved) = look(engine, &reference).await?.and_then(found) {
        return Ok(resolved);
    }
    if pull_policy == Some(ImagePullPolicy::Never) {
        let image = reference;
        return Err(refuse(Refusal::ImagePullNever { image }));
    }
    if let Err(failure) = pull(engine, &reference, tell).await {
        return Err(match Refusal::of_pull(&failure, &reference) {
            Some(refusal) => refuse(refusal),
            None => failure.unreachable("pull an image"),
        });
    }
    let resolved = look(engine, &reference).await?.and_then(found);
    resolved.ok_or_else(|| {
        let image = reference;
        refuse(Refusal::ImageChanged { image })
    })
}

/// Finds what this host has by this name, whatever it is.
async fn local(
    engine: &Engine,
    image: &str,
    choice: &ImageChoice,
) -> Result<Resolved, DriverError> {
    if let ImageChoice::Recorded(reference) = choice
        && let Some(recorded) = recorded(engine, reference).await?
    {
        return Ok(recorded);
    }
    let local = look(engine, image).await?;
    let image = image.to_owned();
    let local = local.ok_or_else(|| refuse(Refusal::ImagePullNever { image }))?;
    let user = local.config.and_then(|config| config.user);
    let id = local.id.map(|reference| Resolved { reference, user });
    id.ok_or_else(|| {
        Failure::Silent("the engine gives no id of an image".to_owned())
            .unreachable("find an image")
    })
}

/// Pulls the image of `container`, unless its policy is never to.
///
/// # Errors
/// [`DriverError::Refused`] when it is not to be had.
pub(super) async fn renew(
    engine: &Engine,
    container: &ContainerSpec,
    image: &VerifiedImage,
) -> Result<Renewal, DriverError> {
    match policy(container) {
        ImagePullPolicy::Never => return Ok(Renewal::NeverPulled),
        ImagePullPolicy::Always | ImagePullPolicy::IfNotPresent => {}
    }
    let image = match image.runs() {
        Runs::AsWritten(image) => image,
        Runs::Local(_) => return Ok(Renewal::NeverPulled),
        Runs::Exactly(repository, digest) => {
            let pulled = exactly(engine, repository, digest, container.pull, &|_| {});
            return pulled.await.map(|_| Renewal::Pulled);
        }
    };
    let pulled = pull(engine, image, &|_| {}).await;
    pulled
        .map(|()| Renewal::Pulled)
        .map_err(|failure| match Refusal::of_pull(&failure, image) {
            Some(refusal) => DriverError::Refused(StartFailure::from(refusal)),
            None => failure.unreachable("pull an image"),
        })
}

/// The image that an earlier run ran, if the engine still has it.
async fn recorded(engine: &Engine, reference: &str) -> Result<Option<Resolved>, DriverError> {
    let local = look(engine, reference).await?;
    Ok(local.map(|local| Resolved {
        reference: reference.to_owned(),
        user: local.config.and_then(|config| config.user),
    }))
}

/// The image as the engine has it.
async fn look(engine: &Engine, image: &str) -> Result<Option<ImageInspect>, DriverError> {
    let answer = engine
        .call(
            LOOK,
            |client| async move { client.inspect_image(image).await },
        )
        .await;
    found(answer).map_err(|failure| failure.unreachable("find an image"))
}

fn resolved(image: &str, local: ImageInspect) -> Option<Resolved> {
    let repository = Reference::parse(image).repository;
    let digests = local.repo_digests.unwrap_or_default();
    let own = digests.into_iter().find(|digest| {
        digest
            .split_once('@')
            .is_some_and(|(name, _)| plain(name) == plain(repository))
    });
    Some(Resolved {
        reference: own.or(local.id)?,
        user: local.config.and_then(|config| config.user),
    })
}

/// A repository as Docker shows it: Podman writes Docker Hub's in full.
fn plain(repository: &str) -> &str {
    let short = repository.strip_prefix("docker.io/").unwrap_or(repository);
    short.strip_prefix("library/").unwrap_or(short)
}

async fn pull(engine: &Engine, image: &str, tell: &(dyn Fn(String) + Sync)) -> Result<(), Failure> {
    let Reference {
        registry,
        repository,
        version,
    } = Reference::parse(image);
    tracing::info!(image, "pulling");
    tell(format!("pulling {image}"));
    let mut progress = Progress::default();
    let credentials = credentials::credentials(registry).await.map(for_engine);
    let options = CreateImageOptions {
        from_image: Some(repository.to_owned()),
        tag: Some(version.to_owned()),
        ..CreateImageOptions::default()
    };
    let client = engine.client()?;
    let mut news = Box::pin(client.create_image(Some(options), None, credentials));
    let whole = async {
        loop {
            match tokio::time::timeout(PULL_IDLE, news.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(info))) => {
                    if let Some(so_far) = progress.heard(info) {
                        tell(format!("pulling {image}: {so_far}"));
                    }
                }
                Ok(Some(Err(error))) => return Err(engine.failure(error)),
                Err(_) => return Err(stuck(PULL_IDLE)),
            }
        }
    };
    let pulled = tokio::time::timeout(PULL_LIMIT, whole).await;
    pulled.unwrap_or_else(|_| Err(stuck(PULL_LIMIT)))
}

/// What is known of a registry, as the engine takes it.
fn for_engine(credentials: Credentials) -> DockerCredentials {
    let Credentials { server, secret } = credentials;
    let own = DockerCredentials {
        serveraddress: Some(server),
        ..DockerCredentials::default()
    };
    match secret {
        Secret::Password { user, password } => DockerCredentials {
            username: Some(user),
            password: Some(password),
            ..own
        },
        Secret::Identity(token) => DockerCredentials {
            identitytoken: Some(token),
            ..own
        },
    }
}

/// How far a pull is. It tells of each tenth, or where the engine tells no size, of each step.
#[derive(Default)]
struct Progress {
    /// What was fetched of each layer, and how large it is as far as that is known; in bytes.
    layers: HashMap<String, (u64, u64)>,
    told: u64,
}

impl Progress {
    /// How often it is told how far a pull of unknown size is.
    const STEP: u64 = 50_000_000;

    /// Takes in what the engine says; answers what is worth telling.
    fn heard(&mut self, info: CreateImageInfo) -> Option<String> {
        let layer = self.layers.entry(info.id?).or_default();
        let bytes = |number: Option<i64>| u64::try_from(number.unwrap_or_default()).unwrap_or(0);
        let detail = info.progress_detail.unwrap_or_default();
        match info.status.as_deref() {
            Some("Downloading") => *layer = (bytes(detail.current), bytes(detail.total)),
            Some("Download complete" | "Pull complete") => layer.0 = layer.1.max(layer.0),
            Some(_) | None => return None,
        }
        let sum = |part: fn(&(u64, u64)) -> u64| self.layers.values().map(part).sum::<u64>();
        let (fetched, size) = (sum(|layer| layer.0), sum(|layer| layer.1));
        let megabytes = |bytes: u64| format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10);
        let (mark, text) = match fetched.saturating_mul(10).checked_div(size) {
            Some(tenths) => (tenths, format!("{} % of {}", tenths * 10, megabytes(size))),
            None => (fetched / Self::STEP, megabytes(fetched)),
        };
        // Layers become known one by one, so it may go back.
        (mark > self.told).then(|| {
            self.told = mark;
            text
        })
    }
}

fn stuck(after: Duration) -> Failure {
    Failure::Answered {
        status: 504,
        message: format!("no progress for {} s", after.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(image: &str) -> (&str, &str, &str) {
        let Reference {
            registry,
            repository,
            version,
        } = Reference::parse(image);
        (registry, repository, version)
    }

    #[test]
    fn a_reference_is_taken_apart_as_docker_does() {
        assert_eq!(parts("busybox"), ("docker.io", "busybox", "latest"));
        assert_eq!(parts("a/b:1"), ("docker.io", "a/b", "1"));
        assert_eq!(
            parts("localhost:5000/a:2"),
            ("localhost:5000", "localhost:5000/a", "2")
        );
        assert_eq!(parts("r.io:5/a"), ("r.io:5", "r.io:5/a", "latest"));
        assert_eq!(parts("r.io/a:1@sha256:00"), ("r.io", "r.io/a", "sha256:00"));
    }

    #[test]
    fn a_pull_tells_each_tenth_and_never_goes_back() {
        let mut progress = Progress::default();
        let mut hear = |layer: &str, current: i64, total: i64| {
            progress.heard(
                serde_json::from_value(serde_json::json!({
                    "id": layer, "status": "Downloading",
                    "progressDetail": { "current": current, "total": total },
                }))
                .unwrap(),
            )
        };
        assert_eq!(hear("a", 100_000, 2_000_000), None);
        assert_eq!(hear("a", 500_000, 2_000_000).unwrap(), "20 % of 2.0 MB");
        assert_eq!(hear("b", 0, 2_000_000), None);
        assert_eq!(hear("b", 1_000_000, 2_000_000).unwrap(), "30 % of 4.0 MB");
        let mut unknown = Progress::default();
        let info = r#"{"id":"a","status":"Downloading","progressDetail":{"current":75000000}}"#;
        let said = unknown.heard(serde_json::from_str(info).unwrap());
        assert_eq!(said.unwrap(), "75.0 MB");
    }

    #[test]
    fn latest_is_pulled_always_and_a_version_once() {
        let policy_of = |image: &str| {
            policy(&ContainerSpec {
                image: image.to_owned(),
                command: None,
                args: Vec::new(),
                working_dir: None,
                pull: None,
                network: None,
                verify: None,
            })
        };
        assert_eq!(policy_of("a"), ImagePullPolicy::Always);
        assert_eq!(policy_of("a:latest"), ImagePullPolicy::Always);
        assert_eq!(policy_of("a:1"), ImagePullPolicy::IfNotPresent);
    }
}
