//! Who asks.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use dataplane::mode::Wish;
use serde::de::DeserializeOwned;

use super::{Question, Request, SOCKET, SOCKET_NAME, StatusAnswer, TraceAnswer};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(3);
/// How long it may take to read a large table, or all connections.
const LONG_LIMIT: Duration = Duration::from_secs(60);

/// A proxy that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    path: PathBuf,
}

impl Agent {
    /// The proxy that answers at `path`.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The proxy of a node: of a lab, if the kubeconfig is a lab's, or of this host. `None` if there
    /// is none that answers.
    pub(crate) fn of_node(node: &str, kubeconfig: Option<&Path>) -> Option<Self> {
        let of_lab = kubeconfig
            .and_then(Path::parent)
            .map(|directory| directory.join(node).join(SOCKET_NAME));
        let found = of_lab.into_iter().chain([PathBuf::from(SOCKET)]).map(Self::at);
        found.into_iter().find(|agent| agent.status(false).is_ok_and(|status| status.node == node))
    }

    /// How far it is; with the connections of each Service, which takes longer.
    pub(crate) fn status(&self, connections: bool) -> anyhow::Result<StatusAnswer> {
        self.ask(&Request::Status { connections })
    }

    /// What it does to a packet.
    pub(crate) fn trace(&self, question: Question) -> anyhow::Result<TraceAnswer> {
        self.ask(&Request::Trace(question))
    }

    /// In which ways the kernel differs from what it should hold.
    pub(crate) fn verify(&self) -> anyhow::Result<Vec<String>> {
        self.ask(&Request::Verify)
    }

    /// Has another data plane take over. Answers a sentence about what happened.
    pub(crate) fn switch_to(&self, wish: Wish) -> anyhow::Result<String> {
        self.ask(&Request::SwitchDataPlane { mode: wish.to_string() })
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> anyhow::Result<T> {
        let path = self.path.display();
        let mut stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                anyhow::anyhow!("no proxy answers at {path}: is it running here? (--socket)")
            }
            ErrorKind::PermissionDenied => anyhow::anyhow!("{path} answers root only"),
            _ => anyhow::Error::new(error).context(format!("connect to {path}")),
        })?;
        let limit = match request {
            Request::Status { connections: false } | Request::Trace(_) => LIMIT,
            Request::Status { .. } | Request::Verify | Request::SwitchDataPlane { .. } => {
                LONG_LIMIT
            }
        };
        stream.set_read_timeout(Some(limit))?;
        let line = serde_json::to_string(request)? + "\n";
        stream.write_all(line.as_bytes()).with_context(|| format!("ask at {path}"))?;
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .with_context(|| format!("no answer at {path}"))?;
        let answer: Result<T, String> = serde_json::from_str(&answer)
            .with_context(|| format!("what answers at {path} is another version"))?;
        answer.map_err(anyhow::Error::msg)
    }
}
