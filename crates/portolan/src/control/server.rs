//! Who answers: the process that programs.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use dataplane::mode::{UnknownMode, Wish};
use dataplane::{Backend, Status, Updates};
use plan::NodePlan;
use plan::trace::trace;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use crate::errors::sentence;
use crate::proxy::dataplane::Running;

use super::connections::{self, Asked};
use super::{FateAnswer, PlanSettings, Question, Request, StatusAnswer, TraceAnswer};

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 4096;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers at `path` until it is dropped. Only root can ask. Has to be called on a thread of the
/// node's network namespace; fails if another process answers there.
pub(crate) fn serve(
    path: &Path,
    updates: Updates,
    running: Running,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let listener = bind(path).with_context(|| format!("listen on {}", path.display()))?;
    let asked = connections::open(running.options())?;
    let own = OwnFile(path.to_owned());
    Ok(async move {
        let _own = own;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (updates, asked) = (updates.clone(), asked.clone());
                    let running = running.clone();
                    tokio::spawn(async move {
                        // How it ends is the client's business.
                        let _ = converse(stream, &updates, asked, &running).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a question was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

/// A file that goes with its owner.
struct OwnFile(PathBuf);

impl Drop for OwnFile {
    fn drop(&mut self) {
        // Who starts next takes what is left.
        let _ = fs::remove_file(&self.0);
    }
}

/// Binds, in the place of a socket that nobody listens on any more.
fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!("another process answers there");
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn converse(
    stream: UnixStream,
    updates: &Updates,
    asked: Asked,
    running: &Running,
) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut stream).take(MAX_REQUEST);
    tokio::time::timeout(PATIENCE, limited.read_line(&mut line)).await??;
    let answer: Result<Value, String> = match serde_json::from_str::<Request>(&line) {
        Ok(Request::SwitchDataPlane { mode }) => switch(running, &mode).await,
        Ok(request) => answer(request, updates, asked).await,
        Err(error) => Err(format!("this is no question of this version: {error}")),
    };
    let text = serde_json::to_string(&answer)? + "\n";
    stream.into_inner().write_all(text.as_bytes()).await?;
    Ok(())
}

async fn switch(running: &Running, mode: &str) -> Result<Value, String> {
    let wish: Wish = mode.parse().map_err(|error: UnknownMode| error.to_string())?;
    running.switch_to(wish).await.map(|said| json(&said)).map_err(|error| sentence(&error))
}

async fn answer(request: Request, updates: &Updates, asked: Asked) -> Result<Value, String> {
    let tally = match request {
        Request::Status { connections: true } => Some(connections::tally(asked).await?),
        _ => None,
    };
    let (reply, answered) = oneshot::channel();
    let look = move |plan: &NodePlan, backend: &mut dyn Backend, status: &Status| {
        let answer = match request {
            Request::Status { .. } => {
                let mut answer = status_answer(plan, backend, status);
                answer.connections = tally.map(|tally| connections::by_service(plan, &tally));
                json(&answer)
            }
            Request::Trace(question) => json(&trace_answer(plan, backend, status, &question)?),
            Request::Verify => {
                let whole = dataplane::sync::whole(plan, &status.quarantined);
                let differences = backend.verify(&whole).map_err(|error| error.to_string())?;
                json(&differences)
            }
            Request::SwitchDataPlane { .. } => return Err("that is no question".to_owned()),
        };
        Ok(answer)
    };
    let look = move |plan: &NodePlan, backend: &mut dyn Backend, status: &Status| {
        // The client may be gone.
        let _ = reply.send(look(plan, backend, status));
    };
    updates.inspect(look).map_err(|_| "the data plane has ended".to_owned())?;
    answered.await.map_err(|_| "the data plane has ended".to_owned())?
}

fn json(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).expect("answers are plain data")
}

fn status_answer(plan: &NodePlan, backend: &dyn Backend, status: &Status) -> StatusAnswer {
    let ids = |ids: &std::collections::BTreeSet<plan::GroupId>| {
        ids.iter().map(ToString::to_string).collect()
    };
    StatusAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        node: plan.node.settings.node_name.to_string(),
        data_plane: backend.name().to_owned(),
        asks_sockets: backend.asks_sockets(),
        settings: PlanSettings::of(&plan.node.settings),
        generation: status.generation,
        programmed_seconds_ago: status.programmed_at.map(seconds),
        pending_seconds: status.pending_since.map(seconds),
        failure: status.failure.clone(),
        repairs: status.repairs,
        services: plan.len(),
        frontends: plan.groups().map(|group| group.frontends.len()).sum(),
        endpoints: plan.groups().flat_map(|group| &group.sets).map(|set| set.backends.len()).sum(),
        quarantined: status
            .quarantined
            .iter()
            .map(|(id, why)| (id.to_string(), why.clone()))
            .collect(),
        contested: plan.contested().iter().map(|(key, by)| (key.to_string(), ids(by))).collect(),
        connections: None,
    }
}

fn trace_answer(
    plan: &NodePlan,
    backend: &dyn Backend,
    status: &Status,
    question: &Question,
) -> Result<TraceAnswer, String> {
    let packet = question.packet(backend.asks_sockets()).ok_or("there is no such protocol")?;
    let is_local = |ip: IpAddr| ip.is_loopback() || plan.node.addresses.contains(&ip);
    let traced = trace(plan, &packet, is_local);
    let quarantined =
        traced.frontend.as_ref().and_then(|(_, id)| status.quarantined.get(&id.group)).cloned();
    Ok(TraceAnswer {
        generation: status.generation,
        fate: FateAnswer::of(&traced),
        quarantined,
        pending_seconds: status.pending_since.map(seconds),
        failure: status.failure.clone(),
    })
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
