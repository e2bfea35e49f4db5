//! One container: started, watched, probed, stopped, and started again as the policy says.
//!
//! A task for each container; it reports to the pod's task and knows nothing of other containers.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::cgroup::Cgroup;
use kernel::process::{self, Exit, Namespaces, Process, Program, Signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::backoff::Backoff;
use super::probe::{self, Finding, Purpose, Target};
use super::program::{self, Refusal};
use super::sandbox::{Node, Sandbox};
use super::saved::{ProcessName, SavedContainer};
use crate::spec::{Container, Pod, RestartPolicy};
use crate::status::{ContainerStatus, State, Termination, now};
use crate::{Error, Result};

/// How long processes that a crash left behind may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Grace when a container fails its probes and the pod says none, in seconds.
const DEFAULT_GRACE_SECONDS: u32 = 30;

/// How long a container may take to end; `None`: it is to go on.
pub(super) type Stop = watch::Receiver<Option<Duration>>;

/// News of a container for its pod.
#[derive(Debug)]
pub(super) struct News {
    pub(super) name: String,
    pub(super) container: SavedContainer,
}

/// What the task works with.
pub(super) struct Task {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Pod>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) container: Container,
    pub(super) policy: RestartPolicy,
    pub(super) status: ContainerStatus,
    pub(super) news: mpsc::UnboundedSender<News>,
    pub(super) stop: Stop,
}

impl Task {
    /// Runs until the container has ended for good. `adopted` is its process, if it runs already.
    pub(super) async fn run(mut self, mut adopted: Option<Process>) {
        let mut backoff = Backoff::new(self.node.config.backoff_base);
        if adopted.is_none() && self.status.state.is_running() {
            // It ended while nobody watched.
            self.ended(Exit::Unknown, "");
            if !self.is_restarted() {
                return;
            }
            self.status.restart_count += 1;
        }
        while !self.is_stopping() {
            let is_adopted = adopted.is_some();
            let prepared = self.prepare(adopted.take()).await;
            let begun = Instant::now();
            match prepared {
                Ok((process, program)) => {
                    if !is_adopted {
                        self.status.started = self.container.startup_probe.is_none();
                        self.status.ready =
                            self.status.started && self.container.readiness_probe.is_none();
                        self.status.state = State::Running { started_at: now() };
                        let id = &self.sandbox.id;
                        let run = self.status.restart_count;
                        self.status.container_id =
                            Some(format!("portolan://{id}-{}-{run}", self.container.name));
                    }
                    self.supervise(process, program).await;
                    if self.is_stopping() || !self.is_restarted() {
                        return;
                    }
                    let delay = backoff.after_run(begun.elapsed());
                    if !delay.is_zero() {
                        let message = format!(
                            "back-off {} s restarting container {}",
                            delay.as_secs_f32(),
                            self.container.name
                        );
                        self.status.state = State::waiting("CrashLoopBackOff", message);
                        self.report(None);
                        self.pause(delay).await;
                    }
                    if self.is_stopping() {
                        return;
                    }
                    self.status.restart_count += 1;
                }
                Err(refusal) => {
                    self.status.state = State::waiting(refusal.reason, refusal.message);
                    self.report(None);
                    self.pause(backoff.after_failure()).await;
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Whether the policy asks for another run after the one that ended.
    fn is_restarted(&self) -> bool {
        is_restarted(self.policy, &self.status.state)
    }

    /// Waits, unless the container is to stop.
    async fn pause(&mut self, delay: Duration) {
        tokio::select! {
            () = sleep(delay) => {}
            // If the sender is gone, so is the pod's task, and this one is about to be aborted.
            _ = self.stop.wait_for(Option::is_some) => {}
        }
    }

    fn cgroup(&self) -> Cgroup {
        self.sandbox.cgroup.child(&self.container.name)
    }

    fn report(&self, process: Option<ProcessName>) {
        let container = SavedContainer { status: self.status.clone(), process };
        // The pod's task outlives this one, or is gone with it.
        let _ = self.news.send(News { name: self.container.name.clone(), container });
    }

    /// Finds out what to run and starts it, unless it runs.
    async fn prepare(&mut self, adopted: Option<Process>) -> Result<(Process, Program), Refusal> {
        let program = program::program(
            &self.node.config,
            &self.pod,
            &self.container,
            &self.sandbox.hostname,
            &self.sandbox.addresses,
        )?;
        self.status.image_id = format!("file://{}", program.path.display());
        if let Some(process) = adopted {
            return Ok((process, program));
        }
        let mounts = program::mounts(&self.pod, &self.container, &self.sandbox.files)?;
        let sandbox = self.sandbox.clone();
        let cgroup = self.cgroup();
        let log = sandbox.files.log(&self.container.name);
        let to_start = program.clone();
        let started = tokio::task::spawn_blocking(move || {
            let namespaces = Namespaces {
                net: &sandbox.netns,
                shared: Some(&sandbox.shared),
                mounts: &mounts,
                cgroup: &cgroup,
            };
            start(&to_start, &namespaces, &log)
        });
        let refuse = |message: String| Refusal { reason: "RunContainerError", message };
        match started.await {
            Ok(Ok(process)) => Ok((process, program)),
            Ok(Err(error)) => Err(refuse(error.to_string())),
            Err(error) => Err(refuse(error.to_string())),
        }
    }

    /// Watches a running process to its end. What is known of its readiness stands until a probe
    /// says otherwise: an adopted container gets traffic on.
    async fn supervise(&mut self, process: Process, program: Program) {
        let (findings, mut found) = mpsc::channel(8);
        let (started, _) = watch::channel(false);
        let mut probes = JoinSet::new();
        let name = ProcessName::of(&process).ok();
        match self.target(&process, program) {
            Ok(target) => {
                let target = Arc::new(target);
                let questions = [
                    (
                        Purpose::Startup,
                        self.container.startup_probe.as_ref().filter(|_| !self.status.started),
                    ),
                    (Purpose::Readiness, self.container.readiness_probe.as_ref()),
                    (Purpose::Liveness, self.container.liveness_probe.as_ref()),
                ];
                for (purpose, probe) in questions {
                    if let Some(probe) = probe.cloned() {
                        let (target, findings) = (target.clone(), findings.clone());
                        probes.spawn(probe::run(
                            purpose,
                            probe,
                            target,
                            started.subscribe(),
                            findings,
                        ));
                    }
                }
            }
            Err(error) => tracing::warn!(container = self.container.name, %error, "not probed"),
        }
        started.send_replace(self.status.started);
        self.report(name);

        let mut end = std::pin::pin!(probe::wait(&process));
        let mut deadline: Option<tokio::time::Instant> = None;
        let mut unhealthy = String::new();
        let mut stop = self.stop.clone();
        stop.mark_changed();
        let exit = loop {
            let killing = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                exit = &mut end => break exit,
                Ok(()) = stop.changed() => {
                    let Some(grace) = *stop.borrow_and_update() else { continue };
                    deadline = Some(self.terminate(&process, grace, deadline));
                }
                Some(finding) = found.recv() => match finding {
                    Finding::Started => {
                        self.status.started = true;
                        self.status.ready = self.container.readiness_probe.is_none();
                        started.send_replace(true);
                        self.report(name);
                    }
                    Finding::Ready(ready) => {
                        self.status.ready = ready;
                        self.report(name);
                    }
                    Finding::Unhealthy(message) if deadline.is_none() => {
                        tracing::info!(container = self.container.name, message, "unhealthy");
                        unhealthy = format!("failed its probe: {message}");
                        deadline = Some(self.terminate(&process, self.grace(), None));
                    }
                    Finding::Unhealthy(_) => {}
                },
                () = killing => {
                    if let Err(error) = self.cgroup().kill() {
                        tracing::warn!(container = self.container.name, %error, "not killed");
                    }
                    deadline = Some(tokio::time::Instant::now() + KILL_LIMIT);
                }
            }
        };
        self.ended(exit, &unhealthy);
    }

    fn target(&self, process: &Process, program: Program) -> Result<Target> {
        Ok(Target {
            container: self.container.clone(),
            address: self.sandbox.addresses.first().copied(),
            process: process.try_clone()?,
            cgroup: self.cgroup(),
            program,
            is_ready: self.status.ready,
        })
    }

    fn grace(&self) -> Duration {
        let seconds = self.pod.spec.termination_grace_period_seconds;
        Duration::from_secs(seconds.unwrap_or(DEFAULT_GRACE_SECONDS).into())
    }

    /// Asks the process to end; answers when it is to be killed.
    fn terminate(
        &self,
        process: &Process,
        grace: Duration,
        deadline: Option<tokio::time::Instant>,
    ) -> tokio::time::Instant {
        if let Err(error) = process.signal(Signal::SIGTERM) {
            tracing::warn!(container = self.container.name, %error, "not asked to end");
        }
        let asked = tokio::time::Instant::now() + grace;
        deadline.map_or(asked, |deadline| deadline.min(asked))
    }

    /// Notes how the run ended.
    fn ended(&mut self, exit: Exit, message: &str) {
        let finished_at = now();
        let started_at = match self.status.state {
            State::Running { started_at } => started_at,
            _ => finished_at,
        };
        let (exit_code, signal, reason) = match exit {
            Exit::Code(0) => (0, None, "Completed"),
            Exit::Code(code) => (code, None, "Error"),
            Exit::Signal(signal) => (128 + signal, Some(signal), "Error"),
            // What kubelet says of containers that it lost sight of.
            Exit::Unknown => (137, None, "ContainerStatusUnknown"),
        };
        let termination = State::Terminated(Termination {
            exit_code,
            signal,
            reason: reason.to_owned(),
            message: message.to_owned(),
            started_at,
            finished_at,
        });
        self.status.ready = false;
        self.status.started = false;
        self.status.state = termination.clone();
        if self.is_restarted() {
            self.status.last_state = Some(termination);
        }
        self.report(None);
    }
}

/// Whether a container in this state is started (again).
pub(super) fn is_restarted(policy: RestartPolicy, state: &State) -> bool {
    match (policy, state) {
        (_, State::Waiting { .. } | State::Running { .. }) | (RestartPolicy::Always, _) => true,
        (RestartPolicy::OnFailure, State::Terminated(ended)) => ended.exit_code != 0,
        (RestartPolicy::Never, State::Terminated(_)) => false,
    }
}

/// Starts the program; what a crash left in the container's cgroup is killed first.
fn start(program: &Program, namespaces: &Namespaces<'_>, log: &Path) -> Result<Process> {
    let cgroup = namespaces.cgroup;
    cgroup.create()?;
    if cgroup.is_populated()? {
        cgroup.kill()?;
        cgroup.wait_empty(KILL_LIMIT)?;
    }
    let stdout =
        File::options().create(true).append(true).open(log).map_err(Error::file("open", log))?;
    let stderr = stdout.try_clone().map_err(Error::file("open", log))?;
    Ok(process::start(program, namespaces, stdout, stderr)?)
}
