//! Where the API server is and who we are to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster,
    NamedContext,
};

use super::{Backoff, Client, Error};

/// Connects with the current context of `kubeconfig`, or without one as every Kubernetes client
/// does: `$KUBECONFIG`, `~/.kube/config`, then the service account of the pod we run in.
///
/// No request is made: a server that is not there yet is found by whoever asks it first.
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    connect_to(kubeconfig, None).await
}

/// As [`connect`], to another address of the API server; without a kubeconfig, as nobody in particular.
pub(crate) async fn connect_to(
    kubeconfig: Option<&Path>,
    server: Option<&http::Uri>,
) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        None if let Some(server) = server => kube::Config::new(server.clone()),
        Some(path) => of_file(path, None).await?,
        None => kube::Config::infer().await.map_err(Error::NoConfig)?,
    };
    if let Some(server) = server {
        config.cluster_url = server.clone();
    }
    Client::try_from(config).map_err(Error::Connect)
}

/// How to reach an API server, if not as [`connect`] does without a kubeconfig.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// By a kubeconfig.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Which of its contexts; `None` for the current one.
        context: Option<String>,
    },
    /// By its address.
    Server {
        /// The address.
        url: String,
        /// Certificate and key of who asks, and the authorities that sign the server's, in PEM.
        tls: Option<[PathBuf; 3]>,
    },
}

/// As [`connect`], as is said.
pub(crate) async fn connect_by(access: Option<&Access>) -> Result<Client, Error> {
    let config = match access {
        None => return connect(None).await,
        Some(Access::Kubeconfig { file, context }) => of_file(file, context.clone()).await?,
        Some(Access::Server { url, tls }) => {
            let failed = |source| Error::Server { url: url.clone(), source };
            let file = kubeconfig_of(url, tls.as_ref());
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?
        }
    };
    Client::try_from(config).map_err(Error::Connect)
}

async fn of_file(path: &Path, context: Option<String>) -> Result<kube::Config, Error> {
    let failed = |source| Error::Kubeconfig { path: path.to_owned(), source };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    kube::Config::from_custom_kubeconfig(file, &options).await.map_err(failed)
}

/// What a kubeconfig would be that says so.
fn kubeconfig_of(url: &str, tls: Option<&[PathBuf; 3]>) -> Kubeconfig {
    const NAME: &str = "only";
    let path = |at: usize| tls.map(|files| files[at].display().to_string());
    let cluster = Cluster {
        server: Some(url.to_owned()),
        certificate_authority: path(2),
        ..Cluster::default()
    };
    let auth_info =
        AuthInfo { client_certificate: path(0), client_key: path(1), ..AuthInfo::default() };
    let context =
        Context { cluster: NAME.to_owned(), user: Some(NAME.to_owned()), ..Context::default() };
    let name = || NAME.to_owned();
    Kubeconfig {
        clusters: vec![NamedCluster {
            name: name(),
            cluster: Some(cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name(),
            auth_info: Some(auth_info),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: name(),
            context: Some(context),
            ..NamedContext::default()
        }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    }
}

/// Waits for the API server to answer, soon at first: both may just have been started.
pub(crate) async fn wait_for(client: &Client) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
    while let Err(error) = client.apiserver_version().await {
        let wait = backoff.advance();
        if wait > Duration::from_secs(1) {
            tracing::warn!(%error, "the API server does not answer, trying again");
        }
        tokio::time::sleep(wait).await;
    }
}
