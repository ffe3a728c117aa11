//! TLS and mutual TLS: TLS 1.2 and 1.3 on ring, certificates that may change while it serves; and
//! the same as a client of another control plane.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

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

/// A server's identity, read anew when its files change. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    current: Arc<Mutex<Current>>,
}

struct Current {
    config: Arc<ServerConfig>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// What changes about a file when it is written or replaced.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used; it is named.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let config = Arc::new(config(&files)?);
        let current = Current {
            config,
            stamps,
            looked: Instant::now(),
        };
        Ok(Self {
            files: Arc::new(files),
            current: Arc::new(Mutex::new(current)),
        })
    }

    /// Greets a client.
    ///
    /// # Errors
    /// When it does not speak TLS, or shows no certificate that is asked for.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config();
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Reads the files, changed or not.
    pub fn read_again(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.looked = Instant::now();
        current.stamps = stamps(&self.files);
        self.take(&mut current);
    }

    /// What is served now. New files that cannot be used change nothing.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != current.stamps {
                current.stamps = stamps;
                self.take(&mut current);
            }
        }
        Arc::clone(&current.config)
    }

    fn take(&self, current: &mut Current) {
        match config(&self.files) {
            Ok(config) => {
                tracing::info!("the control plane serves a new certificate");
                current.config = Arc::new(config);
            }
            Err(error) => {
                tracing::error!(%error, "the control plane keeps its old certificate");
            }
        }
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    [
        Some(&files.certificate),
        Some(&files.key),
        files.client_authority.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(|path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
    .collect()
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates("certificate", &files.certificate)?;
    let key = private_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring speaks both versions");
    let builder = match &files.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refused = |source| TlsError::Authority {
                path: path.clone(),
                source,
            };
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client authority", path)? {
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
    config.alpn_protocols = vec![b"h2".to_vec()];
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
    let config = client_config(files).map_err(io::Error::other)?;
    let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(host, stream).await
}

fn client_config(files: &ClientTls) -> Result<ClientConfig, TlsError> {
    let path = &files.authority;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", path)? {
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
            let chain = certificates("certificate", certificate)?;
            let own = builder.with_client_auth_cert(chain, private_key(key)?);
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

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        what: "private key",
        path: path.to_owned(),
        source,
    })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect();
    let found = found.map_err(unreadable)?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            what,
            path: path.to_owned(),
        });
    }
    Ok(found)
}
