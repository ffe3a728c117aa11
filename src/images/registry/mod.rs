//! What a registry says about an image, with every answer bounded, hashed by us, and told apart
//! from silence.
//!
//! **Guarantees.** A document is named by the digest of the bytes that came, whatever the registry
//! calls it. That something is not there is an answer (`None`); that it could not be looked at is
//! [`Trouble`], and never taken for the other. Credentials go to the registry and to whoever gives
//! its tokens, by TLS or on this host; a redirect to another server goes without them, and to no
//! nearer network.

mod auth;
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::time::Instant;

use super::credentials::{self, Credentials};
use super::oci::{self, Descriptor, Document};
use super::sha256;
use crate::model::HumanDuration;
use crate::model::image::{DOCKER_HUB, Digest, RegistrySpec, Repository, Transport};
use auth::{Challenge, TokenQuestion};
use http::{Answer, Ask, Asker, Url, Zone, is_loopback};

/// Where the engine's certificates of registries lie, in a folder for each.
const CERTIFICATES: &str = "/etc/docker/certs.d";
/// Where Docker Hub's registry is.
const HUB_HOST: &str = "registry-1.docker.io";
/// The longest manifest or index, in bytes.
const MANIFEST_LIMIT: usize = 4 << 20;
/// Redirects of one request.
const REDIRECTS: u32 = 5;
/// Pages of a list of referrers.
const PAGES: u32 = 10;
/// How long all questions about one image may take together.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a list of referrers is.
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It could not be looked at.
    #[error("{0}")]
    Silent(String),
    /// What came contradicts itself, or is not what was asked for.
    #[error("{0}")]
    Lies(String),
}

/// A document as it came.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The digest of its bytes, by us.
    pub digest: Digest,
    /// What it says.
    pub document: Document,
}

/// The way to registries.
pub struct Client {
    asker: Asker,
    /// How long all questions about one image may take together.
    patience: Duration,
    habits: Mutex<Habits>,
}

/// What registries were found to do. It saves questions, and decides nothing.
#[derive(Default)]
struct Habits {
    /// Repositories whose signatures were found by the list of what refers to an image.
    listing: BTreeSet<Repository>,
    /// Registries that have no such list, but a tag that stands in for it.
    without_list: BTreeSet<String>,
}

/// The most habits that are known.
const MAX_HABITS: usize = 1_000;

impl Default for Client {
    fn default() -> Self {
        Self {
            asker: Asker::default(),
            patience: PATIENCE,
            habits: Mutex::default(),
        }
    }
}

/// Questions about one repository: a handful, within one deadline.
pub struct Session<'c> {
    client: &'c Client,
    repository: Repository,
    server: Url,
    spec: RegistrySpec,
    /// A folder of certificates of authorities that vouch for it.
    trusts: PathBuf,
    deadline: Instant,
    /// The header by which we are known there, once we are.
    shown: Option<String>,
    credentials: Option<Option<Credentials>>,
    /// How far away the registry is, once that is known.
    zone: Option<Zone>,
}

impl Client {
    /// One that waits no longer than that for an answer, and for all of them.
    #[cfg(test)]
    pub(in crate::images) fn hurried(answer: Duration, all: Duration) -> Self {
        let mut client = Self {
            patience: all,
            ..Self::default()
        };
        client.asker.patience = answer;
        client
    }

    /// When whoever begins to ask now has asked for long enough.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Whether signatures of `repository` were found by the list of what refers to an image.
    pub fn is_listing(&self, repository: &Repository) -> bool {
        self.habits().listing.contains(repository)
    }

    /// Notes where signatures of `repository` were found.
    pub fn note(&self, repository: &Repository, is_listing: bool) {
        let listing = &mut self.habits().listing;
        if !is_listing {
            listing.remove(repository);
        } else if listing.len() < MAX_HABITS {
            listing.insert(repository.clone());
        }
    }

    fn habits(&self) -> MutexGuard<'_, Habits> {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to ask about `repository`, until `deadline`.
    pub fn ask_about(
        &self,
        repository: &Repository,
        registries: &BTreeMap<String, RegistrySpec>,
        deadline: Instant,
    ) -> Session<'_> {
        let spec = registries.get(repository.registry()).cloned();
        let spec = spec.unwrap_or_default();
        let name = match repository.registry() {
            DOCKER_HUB => HUB_HOST,
            other => other,
        };
        let secure = Url::parse(&format!("https://{name}/"));
        let mut server = secure.unwrap_or_else(|| Url {
            tls: true,
            host: name.to_owned(),
            port: 443,
            path: "/".to_owned(),
        });
        if is_loopback(&server.host) || spec.transport == Transport::Plain {
            server.tls = false;
            let has_port = name
                .rsplit_once(':')
                .is_some_and(|(_, it)| !it.contains(']'));
            if !has_port {
                server.port = 80;
            }
        }
        Session {
            client: self,
            repository: repository.clone(),
            server,
            spec,
            trusts: Path::new(CERTIFICATES).join(repository.registry()),
            deadline,
            shown: None,
            credentials: None,
            zone: None,
        }
    }
}

impl Session<'_> {
    /// The manifest or index of a tag; `None` = there is none. A tag is read once by whoever wants
    /// to rely on it: what it names next is another matter.
    ///
    /// # Errors
    /// When that could not be found out.
    pub async fn tag(&mut self, tag: &str) -> Result<Option<Fetched>, Trouble> {
        let path = format!("/v2/{}/manifests/{tag}", self.repository.path());
        let Some(answer) = self.get(&path, oci::ACCEPTED, MANIFEST_LIMIT).await? else {
            return Ok(None);
        };
        let digest = sha256(&answer.body);
        let said = answer.header("docker-content-digest");
        if !said.is_empty() && said != digest.to_string() {
            return Err(self.lies(&format!("it calls its manifest {said}, and it is {digest}")));
        }
        let document = oci::read(&answer.body, answer.header("content-type"));
        let document =
            document.map_err(|error| self.lies(&format!("its manifest is not usable: {error}")))?;
        Ok(Some(Fetched { digest, document }))
    }

    /// The manifest or index of this digest; `None` = there is none.
    ///
    /// # Errors
    /// When that could not be found out, or another came.
    pub async fn manifest(&mut self, digest: &Digest) -> Result<Option<Fetched>, Trouble> {
        let Some(found) = self.tag(&digest.to_string()).await? else {
            return Ok(None);
        };
        if found.digest != *digest {
            return Err(self.lies(&format!("asked for {digest}, it gives {}", found.digest)));
        }
        Ok(Some(found))
    }

    /// What `descriptor` names, of at most `limit` bytes; `None` = it is not there.
    ///
    /// # Errors
    /// When that could not be found out, or something else came.
    pub async fn blob(
        &mut self,
        descriptor: &Descriptor,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > u64::try_from(limit).unwrap_or(u64::MAX) {
            return Err(self.lies(&format!(
                "{digest} is {size} bytes long, which is more than {limit}"
            )));
        }
        let path = format!("/v2/{}/blobs/{digest}", self.repository.path());
        let Some(answer) = self.get(&path, "*/*", limit).await? else {
            return Ok(None);
        };
        let came = sha256(&answer.body);
        if came != *digest {
            return Err(self.lies(&format!("asked for {digest}, it gives {came}")));
        }
        Ok(Some(answer.body))
    }

    /// What refers to `digest`: by the interface for that, else by the tag that stands in for it.
    ///
    /// # Errors
    /// When that could not be found out.
    pub async fn referrers(
        &mut self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<Descriptor>, Trouble> {
        let registry = self.repository.registry().to_owned();
        let is_without = self.client.habits().without_list.contains(&registry);
        if is_without {
            let found = self.fallback(digest, limit).await?;
            // It may have learned it since.
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let mut path = format!("/v2/{}/referrers/{digest}", self.repository.path());
        let mut found = Vec::new();
        for page in 0..PAGES {
            let Some(answer) = self.get(&path, OCI_INDEX, MANIFEST_LIMIT).await? else {
                if page > 0 {
                    return Err(self.lies("a page of its list of referrers is not there"));
                }
                if is_without {
                    return Ok(Vec::new());
                }
                let found = self.fallback(digest, limit).await?;
                let without = &mut self.client.habits().without_list;
                if !found.is_empty() && without.len() < MAX_HABITS {
                    without.insert(registry);
                }
                return Ok(found);
            };
            let document = oci::read(&answer.body, answer.header("content-type"));
            // Some answer with a page for people where they do not know the interface.
            let Ok(Document::Index(listed)) = document else {
                if page == 0 && !answer.header("content-type").starts_with(OCI_INDEX) {
                    return self.fallback(digest, limit).await;
                }
                return Err(self.lies("its list of referrers is not usable"));
            };
            found.extend(listed);
            if found.len() > limit {
                return Err(self.lies(&format!("more than {limit} artifacts refer to {digest}")));
            }
            match next_page(answer.header("link")) {
                // Only there: whatever else it names is not its list.
                Some(next) if next.starts_with("/v2/") && next != path => path = next,
                Some(_) => return Err(self.lies("its list of referrers leads elsewhere")),
                // Some have the interface, and keep what is put by the tag apart from it.
                None if found.is_empty() => return self.fallback(digest, limit).await,
                None => return Ok(found),
            }
        }
        Err(self.lies(&format!(
            "its list of referrers has more than {PAGES} pages"
        )))
    }

    async fn fallback(
        &mut self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<Descriptor>, Trouble> {
        match self.tag(&format!("sha256-{}", digest.hex())).await? {
            None => Ok(Vec::new()),
            Some(Fetched {
                document: Document::Index(listed),
                ..
            }) if listed.len() <= limit => Ok(listed),
            Some(Fetched {
                document: Document::Index(_),
                ..
            }) => Err(self.lies(&format!("more than {limit} artifacts refer to {digest}"))),
            Some(Fetched {
                document: Document::Manifest(_),
                ..
            }) => Err(self.lies("its list of referrers is no index")),
        }
    }

    fn lies(&self, what: &str) -> Trouble {
        Trouble::Lies(format!("registry {}: {what}", self.repository.registry()))
    }

    /// Asks; `None` = what was asked for is not there.
    async fn get(
        &mut self,
        path: &str,
        accept: &str,
        limit: usize,
    ) -> Result<Option<Answer>, Trouble> {
        let deadline = self.deadline;
        let registry = self.repository.registry().to_owned();
        let silent = |why: String| Trouble::Silent(format!("registry {registry}: {why}"));
        let asking = self.get_patiently(path, accept, limit);
        let answered = tokio::time::timeout_at(deadline, asking).await;
        let patience = HumanDuration::new(self.client.patience);
        let late = || format!("no answers to all questions within {patience}");
        let answer = answered.map_err(|_| silent(late()))?.map_err(silent)?;
        match answer.status {
            status if status.is_success() => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(silent(format!(
                "it answers {status} (log in with `docker login`, as the daemon's user; one that may \
                 pull may lack the right to read signatures)"
            ))),
            status => Err(silent(format!("it answers {status}"))),
        }
    }

    async fn get_patiently(
        &mut self,
        path: &str,
        accept: &str,
        limit: usize,
    ) -> Result<Answer, String> {
        let url = Url {
            path: path.to_owned(),
            ..self.server.clone()
        };
        let answer = self.follow(&url, accept, limit).await?;
        if answer.status != StatusCode::UNAUTHORIZED || self.shown.is_some() {
            return Ok(answer);
        }
        let Some(challenge) = auth::challenge(answer.header("www-authenticate")) else {
            return Ok(answer);
        };
        let Some(shown) = self.show(challenge).await? else {
            return Ok(answer);
        };
        self.shown = Some(shown);
        self.follow(&url, accept, limit).await
    }

    /// What the registry is shown, as it wants it; `None` = we have nothing to show.
    async fn show(&mut self, challenge: Challenge) -> Result<Option<String>, String> {
        let may_know = self.server.tls || is_loopback(&self.server.host);
        if self.credentials.is_none() {
            let known = match may_know {
                true => credentials::credentials(self.repository.registry()).await,
                false => None,
            };
            self.credentials = Some(known);
        }
        let credentials = self.credentials.as_ref().and_then(Option::as_ref);
        match challenge {
            Challenge::Basic => Ok(credentials.and_then(|it| auth::basic(&it.secret))),
            Challenge::Bearer { realm, service } => {
                let realm = Url::parse(&realm).ok_or("it wants a token of nobody")?;
                let is_own = realm.is_same_server(&self.server);
                let question = TokenQuestion {
                    realm,
                    registry: &self.server,
                    service: service.as_deref(),
                    path: self.repository.path(),
                    credentials,
                    named: self.spec.token_host.as_deref(),
                    nearest: self.zone.unwrap_or(Zone::Public),
                    trusts: is_own.then_some(self.trusts.as_path()),
                };
                auth::token(&self.client.asker, question).await.map(Some)
            }
        }
    }

    /// Asks, and goes where the answer leads. Another server is not shown who asks, and is no nearer
    /// than the registry itself.
    async fn follow(&mut self, url: &Url, accept: &str, limit: usize) -> Result<Answer, String> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let is_registry = url.is_same_server(&self.server);
            let authorization = self.shown.as_deref().filter(|_| is_registry);
            let ask = Ask {
                method: Method::GET,
                url: &url,
                authorization,
                accept,
                form: None,
                limit,
                nearest: if is_registry { None } else { self.zone },
                trusts: is_registry.then_some(self.trusts.as_path()),
            };
            let answer = self.client.asker.ask(ask).await?;
            if is_registry {
                self.zone = Some(answer.zone);
            }
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let to = url.leads(answer.header("location"));
            let to = to.ok_or("it leads to nothing that could be asked")?;
            // Not from a safe way to one that others may read and change.
            if url.tls && !to.tls {
                return Err(format!("it leads to {to}, which is not safe"));
            }
            url = to;
        }
        Err(format!("it leads on more than {REDIRECTS} times"))
    }
}

/// The next page that a `Link` header names.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|one| {
        let (target, relation) = one.split_once(';')?;
        let relation = relation.replace(['"', ' '], "");
        let target = target.trim().strip_prefix('<')?.strip_suffix('>')?;
        (relation == "rel=next").then(|| target.to_owned())
    })
}

/// Reads `text` as what a registry says in headers.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(text: &str) {
    auth::challenge(text);
    next_page(text);
    if let Some(url) = Url::parse(text) {
        assert!(url.leads(text).is_some_and(|it| it.is_same_server(&url)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_asked_by_tls_unless_they_are_here_or_the_policy_says_otherwise() {
        let client = Client::default();
        let plain = RegistrySpec {
            transport: Transport::Plain,
            token_host: None,
        };
        let registries = [("10.0.0.5:5000".to_owned(), plain)].into();
        let server = |name: &str| {
            let repository: Repository = name.parse().unwrap();
            client
                .ask_about(&repository, &registries, client.deadline())
                .server
                .to_string()
        };
        assert_eq!(server("nginx"), "https://registry-1.docker.io/");
        assert_eq!(server("ghcr.io/a/b"), "https://ghcr.io/");
        assert_eq!(server("localhost/a"), "http://localhost/");
        assert_eq!(server("127.0.0.1:5000/a"), "http://127.0.0.1:5000/");
        assert_eq!(server("[::1]:5000/a"), "http://[::1]:5000/");
        assert_eq!(server("10.0.0.5:5000/a"), "http://10.0.0.5:5000/");
        assert_eq!(server("10.0.0.6:5000/a"), "https://10.0.0.6:5000/");
        assert_eq!(server("localhost.evil.io/a"), "https://localhost.evil.io/");
    }

    #[test]
    fn the_next_page_is_found() {
        let link = r#"</v2/a/referrers/x?n=2>; rel="next""#;
        assert_eq!(next_page(link).unwrap(), "/v2/a/referrers/x?n=2");
        assert_eq!(next_page("</x>; rel=\"prev\""), None);
        assert_eq!(next_page(""), None);
    }
}
