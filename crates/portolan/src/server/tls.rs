//! What the API server shows its clients, and whom it knows.

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;

use super::pki::Authority;

/// TLS for a server that is reached by `names`. A client may show a certificate of the authority;
/// one of anybody else ends the handshake.
pub(super) fn config(authority: &Authority, names: Vec<String>) -> anyhow::Result<ServerConfig> {
    let identity = authority.server(names)?;
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    let root = certificate(authority.certificate()).context("read the authority's certificate")?;
    let own = certificate(&identity.certificate).context("read the server's certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).context("read the server's key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).context("trust the authority")?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("trust the authority")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![own, root], key)
        .context("use the server's certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
