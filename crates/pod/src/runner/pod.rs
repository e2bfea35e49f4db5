//! One pod: its sandbox, then its init containers one after the other, then the others together,
//! until all have ended for good or the pod is removed.
//!
//! A task for each pod; it owns what is remembered and told of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Update;
use super::backoff::Backoff;
use super::container::{self, News, Stop, is_restarted};
use super::sandbox::{Node, Sandbox};
use super::saved::{Saved, SavedContainer};
use super::summary::Summary;
use crate::spec::{Container, RestartPolicy};
use crate::status::{ContainerStatus, State};
use crate::{Error, Result};

/// How often taking a sandbox away is tried before it is left to the next start.
const DESTROY_ATTEMPTS: u32 = 5;
/// Wait between these.
const DESTROY_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    pub(super) node: Arc<Node>,
    pub(super) saved: Saved,
    pub(super) stop: Stop,
    pub(super) updates: mpsc::UnboundedSender<Update>,
    pub(super) summary: Summary,
}

impl Task {
    /// Runs the pod until it is removed.
    pub(super) async fn run(mut self) {
        if !self.saved.is_finished {
            self.live().await;
        }
        self.publish();
        if self.stop.wait_for(Option::is_some).await.is_err() {
            return;
        }
        self.destroy().await;
        let (node, uid) = (self.node.clone(), self.uid());
        let forgotten = self.blocking(move || node.forget(&uid)).await;
        if let Err(error) = forgotten.and_then(|result| result) {
            tracing::warn!(pod = self.saved.pod.metadata.name, %error, "directory not removed");
        }
        let _ = self.updates.send(Update::Removed(self.saved.pod.metadata.clone()));
    }

    /// Runs the containers until they have ended for good, or the pod is to stop.
    async fn live(&mut self) {
        let Some(sandbox) = self.sandbox().await else { return };
        self.summary.addresses = sandbox.addresses.clone();
        let sandbox = Arc::new(sandbox);
        let spec = self.saved.pod.spec.clone();
        let init_policy = match spec.restart_policy {
            RestartPolicy::Always => RestartPolicy::OnFailure,
            policy => policy,
        };
        let stages = spec
            .init_containers
            .iter()
            .map(|container| (std::slice::from_ref(container), init_policy, true))
            .chain([(&spec.containers[..], spec.restart_policy, false)]);
        for (containers, policy, is_init) in stages {
            self.stage(&sandbox, containers, policy).await;
            if self.is_stopping() {
                return;
            }
            let has_failed = containers.iter().any(|container| {
                !matches!(&self.container(container).status.state,
                    State::Terminated(ended) if ended.exit_code == 0)
            });
            if is_init && has_failed {
                break;
            }
        }
        drop(sandbox);
        self.destroy().await;
        self.saved.sandbox = None;
        self.saved.is_finished = true;
        self.remember();
    }

    /// Runs some containers beside each other until the last has ended for good.
    async fn stage(
        &mut self,
        sandbox: &Arc<Sandbox>,
        containers: &[Container],
        policy: RestartPolicy,
    ) {
        let (sender, mut news) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let pod = Arc::new(self.saved.pod.clone());
        for container in containers {
            let SavedContainer { mut status, process } = self.container(container);
            if !is_restarted(policy, &status.state) {
                continue;
            }
            let process = process.and_then(|process| process.open());
            if process.is_none() {
                // Not to be told of while its task finds out what became of it.
                (status.ready, status.started) = (false, false);
                let known = SavedContainer { status: status.clone(), process: None };
                self.saved.containers.insert(container.name.clone(), known);
            }
            let task = container::Task {
                node: self.node.clone(),
                pod: pod.clone(),
                sandbox: sandbox.clone(),
                container: container.clone(),
                policy,
                status,
                news: sender.clone(),
                stop: self.stop.clone(),
            };
            tasks.spawn(task.run(process));
        }
        drop(sender);
        self.publish();
        // The channel ends with the last task, after all that it had to say.
        while let Some(News { name, container }) = news.recv().await {
            self.saved.containers.insert(name, container);
            self.remember();
            self.publish();
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(pod = pod.metadata.name, %error, "a container's task failed");
            }
        }
    }

    /// The sandbox: the one that runs, or a new one, tried until it works. `None` if the pod is to
    /// stop.
    async fn sandbox(&mut self) -> Option<Sandbox> {
        let mut backoff = Backoff::new(self.node.config.backoff_base);
        while !self.is_stopping() {
            match self.try_sandbox().await {
                Ok(sandbox) => {
                    self.summary.failure = None;
                    return Some(sandbox);
                }
                Err(error) => {
                    let pod = &self.saved.pod.metadata;
                    tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "no sandbox");
                    self.summary.failure = Some(error.to_string());
                    self.publish();
                    tokio::select! {
                        () = sleep(backoff.after_failure()) => {}
                        _ = self.stop.wait_for(Option::is_some) => {}
                    }
                }
            }
        }
        None
    }

    async fn try_sandbox(&mut self) -> Result<Sandbox> {
        if self.saved.attempt > 0 {
            let (node, saved) = (self.node.clone(), self.saved.clone());
            if let Some(adopted) = self.blocking(move || node.adopt(&saved)).await?? {
                return Ok(adopted);
            }
            self.destroy().await;
            for container in self.saved.containers.values_mut() {
                container.process = None;
            }
        }
        self.publish();
        // Written first, so that what a crash leaves can be found.
        self.saved.attempt += 1;
        self.saved.sandbox = None;
        self.saved.boot = self.node.boot.clone();
        self.remember();
        let (node, pod, id) = (self.node.clone(), self.saved.pod.clone(), self.saved.sandbox_id());
        let sandbox = self.blocking(move || node.create(&pod, &id)).await??;
        self.saved.sandbox = Some(sandbox.addresses.clone());
        self.remember();
        Ok(sandbox)
    }

    /// Takes the sandbox away, however often that takes.
    async fn destroy(&self) {
        for attempt in 1..=DESTROY_ATTEMPTS {
            let (node, uid, id) = (self.node.clone(), self.uid(), self.saved.sandbox_id());
            let failures = self.blocking(move || node.destroy(&uid, &id)).await;
            let failures = failures.unwrap_or_else(|error| vec![error]);
            if failures.is_empty() {
                return;
            }
            for error in &failures {
                let pod = &self.saved.pod.metadata.name;
                tracing::warn!(pod, attempt, %error, "sandbox not removed");
            }
            sleep(DESTROY_PAUSE).await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let pod = &self.saved.pod.metadata.name;
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::Panicked { pod: pod.clone() })
    }

    fn container(&self, container: &Container) -> SavedContainer {
        self.saved.containers.get(&container.name).cloned().unwrap_or_else(|| SavedContainer {
            status: ContainerStatus {
                name: container.name.clone(),
                image: container.image.clone(),
                ..ContainerStatus::default()
            },
            process: None,
        })
    }

    fn uid(&self) -> String {
        self.saved.pod.metadata.uid.clone()
    }

    fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    fn remember(&self) {
        let directory = self.node.files(&self.uid()).directory;
        if let Err(error) = self.saved.write(&directory) {
            // The pod runs all the same; only a restart of the runner would not find it.
            tracing::warn!(pod = self.saved.pod.metadata.name, %error, "not remembered");
        }
    }

    fn publish(&mut self) {
        if let Some(status) = self.summary.update(&self.node.config, &self.saved) {
            let pod = self.saved.pod.metadata.clone();
            // Nobody listens once the runner is gone.
            let _ = self.updates.send(Update::Status { pod, status: Box::new(status) });
        }
    }
}
