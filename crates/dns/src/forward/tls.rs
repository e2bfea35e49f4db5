//! Who a server is that is asked by TLS, by the strict profile of RFC 8310: it shows a certificate for its name, of an
//! authority that is believed, or it is told nothing. What is asked is nothing of this.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where most machines have the authorities that they believe.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What names another file with them.
const VARIABLE: &str = "SSL_CERT_FILE";

/// A name, or an address, that a server's certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName(ServerName<'static>);

/// A text that can't be the name of a server.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no name of a server: accepted are such as dns.example and 192.0.2.1")]
pub struct BadPeerName(String);

impl FromStr for PeerName {
    type Err = BadPeerName;

    fn from_str(text: &str) -> Result<Self, BadPeerName> {
        let name = ServerName::try_from(text.to_owned());
        name.map(Self).map_err(|_| BadPeerName(text.to_owned()))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}

/// What servers have to show, and what they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// What their certificates are for; `None` for their addresses.
    pub server_name: Option<PeerName>,
    /// The file with the authorities that are believed, in PEM; `None` for those of the machine.
    pub authorities: Option<PathBuf>,
    /// The files with our own certificate and its key, in PEM; `None` to show none.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsOptions {
    /// The files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let of_identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(of_identity).map(PathBuf::as_path)
    }
}

/// Why servers can't be asked by TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("read {what} from {}: {source}: {accepted}", path.display())]
    Unread {
        /// What is to be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is accepted.
        accepted: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file has something else in it.
    #[error("read {what} from {}: {source}: accepted is PEM", path.display())]
    NoPem {
        /// What is to be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file has no authorities, or such as can't be used.
    #[error("{}: {unusable} certificates can't be used: accepted is at least one of an authority, in PEM", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
        /// How many can't be used.
        unusable: usize,
    },
    /// Our own certificate and its key can't be used.
    #[error("use the certificate of {} with the key of {}: {source}", certificate.display(), key.display())]
    Identity {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// TLS itself does not work.
    #[error("choose versions of TLS: {0}")]
    Versions(#[source] rustls::Error),
}

/// How a server is recognized.
#[derive(Debug, Clone)]
pub struct Tls {
    name: Option<PeerName>,
    /// The file with the authorities that are believed.
    authorities: Arc<Path>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files that options name.
    ///
    /// # Errors
    /// One of them can't be used.
    pub fn read(options: &TlsOptions) -> Result<Self, TlsError> {
        let (authorities, roots) = authorities(options.authorities.as_deref())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_root_certificates(roots);
        let config = match &options.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config
                .with_client_auth_cert(certificates("a certificate", certificate)?, secret(key)?)
                .map_err(|source| TlsError::Identity {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    source,
                })?,
        };
        let name = options.server_name.clone();
        Ok(Self { name, authorities: authorities.into(), config: Arc::new(config) })
    }

    /// A connection to a server that has shown who it is.
    pub(super) async fn connect(&self, server: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.name {
            Some(PeerName(name)) => name.clone(),
            None => server.ip().into(),
        };
        let stream = TcpStream::connect(server).await?;
        // Questions are small, and do not wait for each other.
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(name.clone(), stream).await.map_err(|error| {
            let reason = format!(
                "{error}: accepted is a certificate for {} of an authority in {}",
                name.to_str(),
                self.authorities.display()
            );
            io::Error::new(error.kind(), reason)
        })
    }
}

/// The authorities of a file, or those of the machine, and the file.
fn authorities(named: Option<&Path>) -> Result<(PathBuf, RootCertStore), TlsError> {
    let of_machine = || std::env::var_os(VARIABLE).map_or(AUTHORITIES.into(), PathBuf::from);
    let path = named.map_or_else(of_machine, Path::to_owned);
    let mut roots = RootCertStore::empty();
    let found = certificates("authorities", &path)?;
    let (used, unusable) = roots.add_parsable_certificates(found);
    // A machine may have old ones among them, that nobody has chosen.
    match used > 0 && (unusable == 0 || named.is_none()) {
        true => Ok((path, roots)),
        false => Err(TlsError::NoAuthority { path, unusable }),
    }
}

/// The certificates of a file.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found.map_err(|source| TlsError::NoPem { what, path: path.to_owned(), source })
}

/// The key of a file.
fn secret(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "a key";
    let text = read(what, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|source| TlsError::NoPem {
        what,
        path: path.to_owned(),
        source,
    })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unread {
        what,
        path: path.to_owned(),
        accepted: "accepted are files in PEM; authorities are those of --tls-ca, of tls in a Corefile or of SSL_CERT_FILE",
        source,
    })
}
