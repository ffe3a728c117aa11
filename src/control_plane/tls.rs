//! TLS and mutual TLS: TLS 1.2 and 1.3 on ring, certificates that may change while it serves; and
//! the same as a client of another control plane.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client as rustls_stream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::files::{self, Looked, ReadError, Wanted};

/// The files of a server's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those that vouch for it, in PEM.
    pub certificate: PathBuf,
    /// The certificate's key, in PEM.
    pub key: PathBuf,
    /// Who vouches for clients; with it, a client without a certificate is refused.
    pub client_authority: Option<PathBuf>,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read at all.
    #[error("the {what} {} {source}", path.display())]
    Unread {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ReadError,
    },
    /// A file is a named pipe, whose content is there once; this is read again and again.
    #[error("the {what} {} is a named pipe: it has to be a file", path.display())]
    Pipe {
        /// What it should hold.
        what: &'static str,
        /// The pipe.
        path: PathBuf,
    },
    /// A file cannot be read as what it should be.
    #[error("cannot read the {what} in {}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file holds nothing of the kind.
    #[error("{} holds no {what}", path.display())]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not go together, or one of them cannot be used.
    #[error(
        "the certificate in {} and the key in {} cannot be used together",
        certificate.display(), key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The authority for clients cannot be used.
    #[error("the client authority in {} cannot be used", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: AuthorityError,
    },
}

/// What is wrong with an authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A certificate of it is not an authority's.
    #[error(transparent)]
    Certificate(#[from] rustls::Error),
    /// It vouches for nobody.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

/// The files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);
/// How long a file may take to be read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Larger than any chain of certificates.
const LARGEST: u64 = 4 * 1024 * 1024;

/// What is spoken inside of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// gRPC, over HTTP/2.
    Http2,
    /// What browsers are answered with.
    Http1,
}

impl Speaks {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http1 => b"http/1.1",
        }
    }
}

/// A server's identity, read anew when its files change. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    speaks: Speaks,
    current: Arc<Mutex<Current>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.files.certificate.display())
    }
}

struct Current {
    config: Arc<ServerConfig>,
    /// What it was made of.
    texts: Texts,
    looked: Instant,
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
}

/// When files are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Always,
    Changed,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used; it is named.
    pub fn load(files: TlsFiles, speaks: Speaks) -> Result<Self, TlsError> {
        let texts = Texts::read(&files)?;
        let current = Current {
            config: Arc::new(config(&files, &texts, speaks)?),
            texts,
            looked: Instant::now(),
        };
        Ok(Self {
            files: Arc::new(files),
            speaks,
            current: Arc::new(Mutex::new(current)),
        })
    }

    /// Greets a client.
    ///
    /// # Errors
    /// When it does not speak TLS, or shows no certificate that is asked for.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().await;
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Begins to read the files, changed or not. Call it inside a tokio runtime.
    pub fn read_again(&self) {
        let again = self.clone();
        tokio::task::spawn_blocking(move || again.take(Take::Always));
    }

    /// What is served now. New files that cannot be used, or that hang, change nothing.
    async fn config(&self) -> Arc<ServerConfig> {
        let is_due = {
            let mut current = self.current();
            let is_due = current.looked.elapsed() >= LOOK;
            if is_due {
                current.looked = Instant::now();
            }
            is_due
        };
        if is_due {
            let again = self.clone();
            // A panic in there is heard of by its hook.
            let looked = tokio::task::spawn_blocking(move || again.take(Take::Changed));
            looked.await.ok();
        }
        Arc::clone(&self.current().config)
    }

    /// Looks at the files. Blocks for them, each for [`PATIENCE`] at most.
    fn take(&self, which: Take) {
        let texts = Texts::read(&self.files);
        if which == Take::Changed && texts.as_ref().is_ok_and(|it| *it == self.current().texts) {
            return;
        }
        let read = texts.and_then(|texts| Ok((config(&self.files, &texts, self.speaks)?, texts)));
        match read {
            Ok((config, texts)) => {
                tracing::info!("a new certificate is served");
                let mut current = self.current();
                current.config = Arc::new(config);
                current.texts = texts;
            }
            Err(error) => {
                tracing::error!(%error, "the old certificate is served on");
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Texts {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let authority = files.client_authority.as_ref();
        Ok(Self {
            certificate: text("certificate", &files.certificate)?,
            key: text("private key", &files.key)?,
            client_authority: authority
                .map(|path| text("client authority", path))
                .transpose()?,
        })
    }
}

/// What a file holds. Blocks for [`PATIENCE`] at most.
fn text(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let path = path.to_owned();
    let wanted = Wanted {
        path: &path,
        limit: LARGEST,
        // Whoever chose the option chose the file.
        judge: |_, _| Ok(()),
    };
    match files::look(wanted, PATIENCE) {
        Ok(Looked::Whole(text)) => Ok(text),
        Ok(Looked::Pipe) => Err(TlsError::Pipe { what, path }),
        Err(source) => Err(TlsError::Unread { what, path, source }),
    }
}

fn config(files: &TlsFiles, texts: &Texts, speaks: Speaks) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates("certificate", &files.certificate, &texts.certificate)?;
    let key = private_key(&files.key, &texts.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring speaks both versions");
    let authority = files.client_authority.as_ref();
    let builder = match authority.zip(texts.client_authority.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((path, text)) => {
            let refused = |source| TlsError::Authority {
                path: path.clone(),
                source,
            };
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client authority", path, text)? {
                roots
                    .add(certificate)
                    .map_err(|error| refused(error.into()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| refused(error.into()))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        })?;
    config.alpn_protocols = vec![speaks.name().to_vec()];
    Ok(config)
}

/// Whom a client trusts, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Who vouches for servers.
    pub authority: PathBuf,
    /// Its own certificate and the key of that; `None` = it shows none.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Speaks TLS to the server called `host` over `stream`.
///
/// # Errors
/// When a file cannot be used, which is named, or the server is not whom the authority vouches for.
pub(super) async fn connect(
    files: &ClientTls,
    host: &str,
    stream: TcpStream,
) -> io::Result<rustls_stream::TlsStream<TcpStream>> {
    let files = files.clone();
    let reading = tokio::task::spawn_blocking(move || client_config(&files));
    let config = reading.await?.map_err(io::Error::other)?;
    let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(host, stream).await
}

fn client_config(files: &ClientTls) -> Result<ClientConfig, TlsError> {
    let path = &files.authority;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", path, &text("authority", path)?)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Authority {
            path: path.clone(),
            source: error.into(),
        })?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring speaks both versions")
        .with_root_certificates(roots);
    let mut config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = text("certificate", certificate)?;
            let chain = certificates("certificate", certificate, &chain)?;
            let secret = private_key(key, &text("private key", key)?)?;
            let own = builder.with_client_auth_cert(chain, secret);
            own.map_err(|source| TlsError::Pair {
                certificate: certificate.clone(),
                key: key.clone(),
                source,
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|source| TlsError::File {
        what: "private key",
        path: path.to_owned(),
        source,
    })
}

fn certificates(
    what: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|source| TlsError::File {
        what,
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            what,
            path: path.to_owned(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_pipe_as_a_certificate_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "no certificate").unwrap();
        let refused = |certificate: &Path, client_authority: Option<&Path>| {
            let files = TlsFiles {
                certificate: certificate.to_owned(),
                key: file.clone(),
                client_authority: client_authority.map(Path::to_owned),
            };
            Tls::load(files, Speaks::Http2)
                .map(drop)
                .unwrap_err()
                .to_string()
        };
        let said = refused(&pipe, None);
        assert!(said.contains("is a named pipe"), "{said}");
        let said = refused(&file, Some(&pipe));
        assert!(said.contains("the client authority"), "{said}");
        assert!(refused(&file, None).contains("holds no certificate"));
        let none = dir.path().join("none");
        assert!(refused(&none, None).contains("does not exist"));
        let own = Some((pipe.clone(), file.clone()));
        let files = ClientTls {
            authority: pipe,
            own,
        };
        assert!(client_config(&files).is_err());
    }
}
