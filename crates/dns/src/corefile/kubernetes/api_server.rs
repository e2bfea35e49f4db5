//! How to reach the API server: `kubeconfig`, or `endpoint` and `tls`.

use std::path::PathBuf;

use super::super::lines::{Directive, Refusal};

/// How to reach the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiServer {
    /// By a file as clients have it.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Which of its contexts; `None` for the current one.
        context: Option<String>,
    },
    /// By its address.
    Endpoint {
        /// The address, `http` or `https`.
        url: String,
        /// Who asks, and whom to believe.
        tls: Option<ClientFiles>,
    },
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate of who asks.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that sign the server's.
    pub authorities: PathBuf,
}

/// Reads it from all lines of the block, in whatever order they are.
pub(super) fn of(block: &[Directive]) -> Result<Option<ApiServer>, Refusal> {
    match (once(block, "kubeconfig")?, once(block, "endpoint")?, once(block, "tls")?) {
        (None, None, None) => Ok(None),
        (Some(line), None, None) => kubeconfig(line).map(Some),
        (None, Some(line), tls) => endpoint(line, tls).map(Some),
        (Some(_), Some(line), _) => Err(line.refused(
            "it is said twice where the API server is: accepted is one of kubeconfig and endpoint",
        )),
        (_, None, Some(line)) => Err(line.refused(
            "it is not said what is reached so: accepted is tls beside endpoint, such as endpoint https://192.0.2.1:6443",
        )),
    }
}

fn once<'d>(block: &'d [Directive], name: &str) -> Result<Option<&'d Directive>, Refusal> {
    let mut lines = block.iter().filter(|line| line.name() == name);
    match (lines.next(), lines.next()) {
        (_, Some(second)) => Err(second.refused(format!("{name} comes once"))),
        (first, None) => Ok(first),
    }
}

fn kubeconfig(line: &Directive) -> Result<ApiServer, Refusal> {
    match line.arguments() {
        [file] => Ok(ApiServer::Kubeconfig { file: file.into(), context: None }),
        [file, context] => {
            Ok(ApiServer::Kubeconfig { file: file.into(), context: Some(context.clone()) })
        }
        _ => Err(line.refused("accepted is kubeconfig FILE [CONTEXT]")),
    }
}

fn endpoint(line: &Directive, tls: Option<&Directive>) -> Result<ApiServer, Refusal> {
    let is_url = |text: &String| text.starts_with("https://") || text.starts_with("http://");
    let [url] = line.arguments() else {
        return Err(line.refused("accepted is one URL, such as https://192.0.2.1:6443"));
    };
    if !is_url(url) {
        return Err(
            line.refused(format!("{url} is no URL: accepted are such as https://192.0.2.1:6443"))
        );
    }
    let tls = tls.map(client_files).transpose()?;
    Ok(ApiServer::Endpoint { url: url.clone(), tls })
}

fn client_files(line: &Directive) -> Result<ClientFiles, Refusal> {
    let [certificate, key, authorities] = line.arguments() else {
        return Err(line.refused("accepted is tls CERT KEY CACERT"));
    };
    let [certificate, key, authorities] = [certificate, key, authorities].map(PathBuf::from);
    Ok(ClientFiles { certificate, key, authorities })
}
