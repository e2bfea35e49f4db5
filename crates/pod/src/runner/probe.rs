//! Asking containers how they are: readiness, liveness and startup probes, each a loop of its own.
//!
//! Questions by network are asked from the node, as kubelet asks them: the connection comes from the
//! thread's own network namespace.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use kernel::cgroup::Cgroup;
use kernel::process::{Exit, Process, Program, Signal, exec_in};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::spec::{Container, HttpGetAction, Probe};

/// First wait between readiness questions while the container was never ready: it doubles up to
/// the period, so that a server that starts in milliseconds gets traffic in milliseconds.
const EAGER: Duration = Duration::from_millis(50);
/// Most of an HTTP answer that is looked at.
const ANSWER_BYTES: usize = 1024;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

/// What a probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The startup probe succeeded.
    Started,
    /// Readiness changed.
    Ready(bool),
    /// The startup or liveness probe failed: the container has to go.
    Unhealthy(String),
}

/// The container that is asked.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) container: Container,
    /// The pod's first address.
    pub(super) address: Option<IpAddr>,
    pub(super) process: Process,
    pub(super) cgroup: Cgroup,
    /// How its own program was started; commands get the same environment.
    pub(super) program: Program,
    /// What is known of its readiness at first.
    pub(super) is_ready: bool,
}

/// Asks until aborted. Begins when `started` is true, unless the purpose is to find that out.
pub(super) async fn run(
    purpose: Purpose,
    probe: Probe,
    target: Arc<Target>,
    mut started: watch::Receiver<bool>,
    findings: mpsc::Sender<Finding>,
) {
    if purpose != Purpose::Startup && started.wait_for(|started| *started).await.is_err() {
        return;
    }
    let seconds = |given: Option<u32>, default: u32| {
        Duration::from_secs(given.filter(|s| *s > 0).unwrap_or(default).into())
    };
    let period = seconds(probe.period_seconds, 10);
    let limit = seconds(probe.timeout_seconds, 1);
    let successes_needed = probe.success_threshold.unwrap_or(1).max(1);
    let failures_allowed = probe.failure_threshold.unwrap_or(3).max(1);
    sleep(Duration::from_secs(probe.initial_delay_seconds.into())).await;
    let (mut successes, mut failures) = (0u32, 0u32);
    let mut is_ready = target.is_ready;
    let mut eager = (purpose == Purpose::Readiness && !is_ready).then_some(EAGER);
    loop {
        let answer = match timeout(limit, ask(&probe, &target, limit)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        };
        let finding = match answer {
            Ok(()) => {
                (successes, failures) = (successes.saturating_add(1), 0);
                match purpose {
                    _ if successes < successes_needed => None,
                    Purpose::Startup => Some(Finding::Started),
                    Purpose::Readiness if !is_ready => Some(Finding::Ready(true)),
                    Purpose::Readiness | Purpose::Liveness => None,
                }
            }
            Err(message) => {
                (successes, failures) = (0, failures.saturating_add(1));
                match purpose {
                    _ if failures < failures_allowed => None,
                    Purpose::Readiness => is_ready.then_some(Finding::Ready(false)),
                    Purpose::Startup | Purpose::Liveness => Some(Finding::Unhealthy(message)),
                }
            }
        };
        if let Some(finding) = finding {
            match finding {
                Finding::Ready(ready) => {
                    is_ready = ready;
                    eager = None;
                }
                Finding::Unhealthy(_) => failures = 0,
                Finding::Started => {}
            }
            let is_last = finding == Finding::Started;
            if findings.send(finding).await.is_err() || is_last {
                return;
            }
        }
        let wait = eager.map_or(period, |wait| wait.min(period));
        eager = eager.map(|wait| wait * 2);
        sleep(wait).await;
    }
}

async fn ask(probe: &Probe, target: &Arc<Target>, limit: Duration) -> Result<(), String> {
    if let Some(action) = &probe.exec {
        return command(target.clone(), action.command.clone(), limit).await;
    }
    let (host, port) = match (&probe.http_get, &probe.tcp_socket) {
        (Some(action), _) => (&action.host, &action.port),
        (None, Some(action)) => (&action.host, &action.port),
        (None, None) => return Err("the probe asks nothing".to_owned()),
    };
    let port = port
        .resolve(&target.container.ports)
        .ok_or_else(|| format!("no port {port:?} in the container"))?;
    let host = host
        .clone()
        .or_else(|| target.address.map(|address| address.to_string()))
        .ok_or("the pod has no address")?;
    let mut connection = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| format!("connect to {host} port {port}: {error}"))?;
    match &probe.http_get {
        // Certificates are not looked at, so nothing is lost by asking for the connection alone.
        Some(action) if action.scheme.as_deref() != Some("HTTPS") => {
            http(&mut connection, action, &host, port)
                .await
                .map_err(|error| format!("GET {} from {host} port {port}: {error}", action.path))
        }
        _ => Ok(()),
    }
}

async fn http(
    connection: &mut TcpStream,
    action: &HttpGetAction,
    host: &str,
    port: u16,
) -> std::io::Result<()> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let path = action.path.trim_start_matches('/');
    let mut request = format!("GET /{path} HTTP/1.1\r\nConnection: close\r\nAccept: */*\r\n");
    let names_host = action.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case("host"));
    if !names_host {
        request.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    for header in &action.http_headers {
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    request.push_str("\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    connection.take(ANSWER_BYTES as u64).read_to_end(&mut answer).await?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        _ => Err(std::io::Error::other(format!("answered {line:?}"))),
    }
}

/// Runs a command in the container. It is waited for by a task of its own, so that its process is
/// reaped even when nobody wants the answer any more.
async fn command(target: Arc<Target>, words: Vec<String>, limit: Duration) -> Result<(), String> {
    let task = tokio::spawn(async move {
        let name = words.first().cloned().ok_or("the probe's command is empty")?;
        let mut words = words.into_iter().map(OsString::from);
        let program = Program {
            path: words.next().unwrap_or_default().into(),
            args: words.collect(),
            ..target.program.clone()
        };
        let start = move || {
            let child = exec_in(&target.process, &program, Some(&target.cgroup), |streams| {
                streams.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            })?;
            Process::of_child(&child)
        };
        let process = tokio::task::spawn_blocking(start)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        match timeout(limit, wait(&process)).await {
            Ok(Exit::Code(0)) => Ok(()),
            Ok(Exit::Code(code)) => Err(format!("{name} exited with {code}")),
            Ok(exit) => Err(format!("{name} ended: {exit:?}")),
            Err(_) => {
                process.signal(Signal::SIGKILL).map_err(|error| error.to_string())?;
                wait(&process).await;
                Err(format!("{name} ran longer than {} s", limit.as_secs()))
            }
        }
    });
    task.await.map_err(|error| error.to_string())?
}

/// Waits for the end of a process and reaps it if it is a child.
pub(super) async fn wait(process: &Process) -> Exit {
    loop {
        match process.try_wait() {
            Ok(Some(exit)) => return exit,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "waiting for a process");
                return Exit::Unknown;
            }
        }
        // The descriptor is readable from the end of the process on.
        match watch_end(process) {
            Ok(descriptor) => {
                if descriptor.readable().await.is_err() {
                    return Exit::Unknown;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watching a process");
                return Exit::Unknown;
            }
        }
    }
}

/// Registers the descriptor of a process with the reactor.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may close the descriptor; \
                               a borrowed one stays open, and unsafe code is for crate kernel"
)]
fn watch_end(process: &Process) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(process.as_fd(), Interest::READABLE)
}
