//! Where the API server is and who we are to it.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

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
        Some(path) => {
            let failed = |source| Error::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
        None => kube::Config::infer().await.map_err(Error::NoConfig)?,
    };
    if let Some(server) = server {
        config.cluster_url = server.clone();
    }
    Client::try_from(config).map_err(Error::Connect)
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
