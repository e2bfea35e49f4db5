//! Certificates of the embedded control plane: one authority for each data directory, kept; server
//! and client certificates signed by it whenever they are needed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// Common name of the authority.
const AUTHORITY: &str = "portolan";

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file of the authority.
    #[error("{verb} {}: {source}", path.display())]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    /// A certificate can't be made, or a kept key can't be read.
    #[error("certificate of {subject}: {source}")]
    Certificate { subject: String, source: rcgen::Error },
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Signs certificates that every part of this cluster trusts.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Opens the authority kept in `directory`, or makes it there.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let (key_path, certificate_path) = (directory.join("ca.key"), directory.join("ca.crt"));
        let failed = |source| Error::Certificate { subject: AUTHORITY.to_owned(), source };
        let params = authority_params();
        if let (Ok(key), Ok(certificate)) =
            (fs::read_to_string(&key_path), fs::read_to_string(&certificate_path))
        {
            let key = KeyPair::from_pem(&key).map_err(failed)?;
            return Ok(Self { issuer: Issuer::new(params, key), certificate });
        }
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let create = |source| Error::File { verb: "create", path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(create)?;
        write(&key_path, &key.serialize_pem())?;
        write(&certificate_path, &certificate)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a server that is reached by these names and addresses.
    pub(crate) fn server(&self, names: Vec<String>) -> Result<Identity, Error> {
        self.issue("kube-apiserver", None, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client: Kubernetes reads the user from the common name and a group from
    /// the organization.
    pub(crate) fn client(&self, user: &str, group: &str) -> Result<Identity, Error> {
        self.issue(user, Some(group), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        name: &str,
        organization: Option<&str>,
        alternative_names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, Error> {
        let failed = |source| Error::Certificate { subject: name.to_owned(), source };
        let mut params = CertificateParams::new(alternative_names).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn write(path: &Path, pem: &str) -> Result<(), Error> {
    fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(pem.as_bytes()))
        .map_err(|source| Error::File { verb: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = Authority::open(directory.path()).unwrap();
        let again = Authority::open(directory.path()).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        let identity = again.server(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        assert!(identity.certificate.contains("BEGIN CERTIFICATE"));
        assert!(!format!("{identity:?}").contains("PRIVATE"), "keys are not logged");
    }
}
