//! What can go wrong between us and the API server.

use std::path::PathBuf;

use model::ObjectName;

/// A failed conversation with the API server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kubeconfig can't be used.
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// An API server that was named can't be asked as is said.
    #[error("api server {url}: {source}")]
    Server {
        /// Where it is.
        url: String,
        /// What is wrong with what was said.
        source: kube::config::KubeconfigError,
    },
    /// There is no configuration to find.
    #[error("found neither a kubeconfig nor a service account (pass --kubeconfig): {0}")]
    NoConfig(#[source] kube::config::InferConfigError),
    /// A client can't be made of the configuration.
    #[error("api client: {0}")]
    Connect(#[source] kube::Error),
    /// A request failed or was refused.
    #[error("{verb} {kind} {name}: {}", reason(source))]
    Request {
        /// What was asked for.
        verb: &'static str,
        /// Kind of the object.
        kind: &'static str,
        /// Its name, or where a new one was to be.
        name: ObjectName,
        /// The answer.
        source: kube::Error,
    },
    /// A request could not even be made.
    #[error("{verb} {kind} {name}: {source}")]
    Build {
        /// What was asked for.
        verb: &'static str,
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: ObjectName,
        /// Why not.
        source: kube::core::request::Error,
    },
}

/// The API server's own sentence, where it said one.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// HTTP status of a refusal.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Error::Request { source: kube::Error::Api(status), .. } => Some(status.code),
            _ => None,
        }
    }

    /// The object, or what it is in, does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else was faster: read again and decide again. Also said of a name that is taken.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The namespace is going away, so nothing can be created in it.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        let Error::Request { source: kube::Error::Api(status), .. } = self else { return false };
        let cause = |details: &kube::core::response::StatusDetails| {
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        };
        status.code == 403 && status.details.as_ref().is_some_and(cause)
    }
}
