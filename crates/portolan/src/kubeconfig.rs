//! Writing kubeconfig files. Reading them is the client's business.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::server::pki::Identity;

/// Who connects to which server.
#[derive(Debug)]
pub(crate) struct Kubeconfig<'a> {
    /// Name of cluster and context.
    pub(crate) cluster: &'a str,
    /// URL of the API server.
    pub(crate) server: &'a str,
    /// Certificate that the server's is signed with, PEM.
    pub(crate) authority: &'a str,
    /// Who connects.
    pub(crate) user: &'a str,
    /// The user's certificate and key.
    pub(crate) identity: &'a Identity,
}

impl Kubeconfig<'_> {
    fn to_yaml(&self) -> String {
        let Self { cluster, server, user, .. } = self;
        let encode = |pem: &str| BASE64_STANDARD.encode(pem);
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: {cluster}\n\
             clusters:\n\
             - name: {cluster}\n  \
               cluster:\n    \
                 server: {server}\n    \
                 certificate-authority-data: {authority}\n\
             contexts:\n\
             - name: {cluster}\n  \
               context:\n    \
                 cluster: {cluster}\n    \
                 user: {user}\n\
             users:\n\
             - name: {user}\n  \
               user:\n    \
                 client-certificate-data: {certificate}\n    \
                 client-key-data: {key}\n",
            authority = encode(self.authority),
            certificate = encode(&self.identity.certificate),
            key = encode(&self.identity.key),
        )
    }

    /// Writes the file for its owner alone: it holds a key.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        io::Write::write_all(&mut file, self.to_yaml().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_reads_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/kubeconfig");
        let identity = Identity { certificate: "CERT".into(), key: "KEY".into() };
        let kubeconfig = Kubeconfig {
            cluster: "lab",
            server: "https://127.0.0.1:6443",
            authority: "CA",
            user: "admin",
            identity: &identity,
        };
        kubeconfig.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = kube::config::Kubeconfig::read_from(&path).unwrap();
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Q0E="));
        assert_eq!(read.contexts[0].context.as_ref().unwrap().user.as_deref(), Some("admin"));
        assert_eq!(read.current_context.as_deref(), Some("lab"));
    }
}
