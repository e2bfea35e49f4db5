//! Runs pods as processes of the host's own file system: no images, no daemon.
//!
//! A pod is a sandbox (network, UTS and IPC namespaces, an address, a cgroup) and its containers are
//! programs of the host in mount and PID namespaces of their own. What a container writes to `/etc`,
//! `/var`, `/home`, `/root`, `/opt`, `/srv`, `/run` and `/tmp` is its own and gone with it; the rest
//! of the file system is the host's. A container's program is process 1 of its PID namespace, so a
//! program that does not handle SIGTERM ends by SIGKILL after the grace period, as elsewhere.
//!
//! Pods outlive the runner: a new one adopts what runs. [`cleanup`] takes everything away.
//!
//! Each pod is a task that owns it, each container a task below that; what blocks runs on tokio's
//! threads for that. All of it has to happen on threads in the node's network namespace: that is
//! where pods are attached and where probes are asked from.

mod backoff;
mod container;
mod files;
mod pod;
mod probe;
mod program;
mod sandbox;
mod saved;
mod summary;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::spec::{Metadata, Pod};
use crate::status::{PodStatus, now};
use crate::{Error, Result};
use sandbox::Node;
use saved::Saved;
use summary::Summary;

/// Grace period of pods that don't give one (the API's default).
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// What a runner has to know of its node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub node_name: String,
    /// Addresses of the node, the first is `status.hostIP`.
    pub node_addresses: Vec<IpAddr>,
    /// Ranges that pods get an address of each of, at most one a family.
    pub pod_ranges: Vec<IpNet>,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// MTU of pods' links, in bytes: that of the node's link to the others.
    pub mtu: u32,
    /// Where everything is kept; this runner's alone.
    pub directory: PathBuf,
    /// Cgroup of all pods, relative to the root of the hierarchy; this runner's alone.
    pub cgroup: PathBuf,
    /// Wait before the second restart of a container; it doubles from there.
    pub backoff_base: Duration,
}

impl Config {
    /// A node without pod ranges or cluster DNS, with the defaults for the rest.
    pub fn new(node_name: &str, directory: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_addresses: Vec::new(),
            pod_ranges: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            mtu: 1500,
            directory: directory.into(),
            cgroup: Path::new("portolan").join(node_name),
            backoff_base: Duration::from_secs(10),
        }
    }

    fn pods_directory(&self) -> PathBuf {
        self.directory.join("pods")
    }

    fn netns_directory(&self) -> PathBuf {
        self.directory.join("netns")
    }
}

/// News of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// Its status is now this one.
    Status {
        /// Which pod.
        pod: Metadata,
        /// Its status.
        status: Box<PodStatus>,
    },
    /// Nothing is left of it.
    Removed(Metadata),
}

/// Runs the pods of one node. Dropping it leaves them running.
#[derive(Debug)]
pub struct Runner {
    node: Arc<Node>,
    pods: Pods,
    updates: mpsc::UnboundedSender<Update>,
}

/// The pods that have a task, by uid.
type Pods = Arc<Mutex<HashMap<String, Handle>>>;

#[derive(Debug)]
struct Handle {
    pod: Metadata,
    grace: Duration,
    stop: watch::Sender<Option<Duration>>,
    task: AbortHandle,
}

impl Runner {
    /// Starts the runner of the node in whose network namespace the calling thread is: adopts the
    /// pods that an earlier runner left in `config.directory`, and takes away what belongs to none.
    /// Status of all pods comes by the channel, each time it changes.
    ///
    /// Has to be called inside of a tokio runtime with I/O and time.
    pub fn start(config: Config) -> Result<(Self, mpsc::UnboundedReceiver<Update>)> {
        let node = Arc::new(Node::open(config)?);
        let saved = Saved::read_all(&node.config.pods_directory())?;
        for error in node.collect(&saved) {
            tracing::warn!(%error, "taking away what is left of former pods");
        }
        let (updates, receiver) = mpsc::unbounded_channel();
        let runner = Self { node, pods: Pods::default(), updates };
        for pod in saved {
            runner.run(pod);
        }
        Ok((runner, receiver))
    }

    /// Runs a pod, unless it runs. A pod of the same uid never changes in what is used of it here.
    ///
    /// # Errors
    /// The pod's directory can't be made.
    pub fn ensure(&self, pod: Pod) -> Result<()> {
        if self.pods().contains_key(&pod.metadata.uid) {
            return Ok(());
        }
        let directory = self.node.files(&pod.metadata.uid).directory;
        std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        let saved = Saved::new(pod, self.node.boot.clone(), now());
        saved.write(&directory)?;
        self.run(saved);
        Ok(())
    }

    fn run(&self, saved: Saved) {
        let pod = saved.pod.metadata.clone();
        let seconds = saved.pod.spec.termination_grace_period_seconds;
        let grace = seconds.map_or(DEFAULT_GRACE, |s| Duration::from_secs(s.into()));
        let (stop, stopped) = watch::channel(None);
        let task = pod::Task {
            node: self.node.clone(),
            saved,
            stop: stopped,
            updates: self.updates.clone(),
            summary: Summary::default(),
        };
        let mut pods = self.pods();
        if let Entry::Vacant(entry) = pods.entry(pod.uid.clone()) {
            let (all, uid) = (self.pods.clone(), pod.uid.clone());
            let task = tokio::spawn(async move {
                task.run().await;
                lock(&all).remove(&uid);
            });
            entry.insert(Handle { pod, grace, stop, task: task.abort_handle() });
        }
    }

    /// Ends a pod and takes it away: SIGTERM, then SIGKILL after `grace`, or the pod's own grace
    /// period if that is `None`. Calling again can only shorten what is left. [`Update::Removed`]
    /// follows. False if there is no such pod.
    pub fn remove(&self, uid: &str, grace: Option<Duration>) -> bool {
        let pods = self.pods();
        let Some(handle) = pods.get(uid) else { return false };
        handle.stop.send_replace(Some(grace.unwrap_or(handle.grace)));
        true
    }

    /// The pods that are here, adopted ones too, also while they are being removed.
    pub fn list(&self) -> Vec<Metadata> {
        self.pods().values().map(|handle| handle.pod.clone()).collect()
    }

    /// Where the output of a container goes: both streams, all runs, as written.
    pub fn log_path(&self, uid: &str, container: &str) -> PathBuf {
        self.node.files(uid).log(container)
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        lock(&self.pods)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        for handle in self.pods().values() {
            handle.task.abort();
        }
    }
}

/// The map is whole between any two statements on it.
fn lock(pods: &Mutex<HashMap<String, Handle>>) -> MutexGuard<'_, HashMap<String, Handle>> {
    pods.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes away everything of a runner that does not run (any more): processes, namespaces, links,
/// leases, the whole directory. What is gone already is no error; answers what failed.
pub fn cleanup(config: &Config) -> Vec<Error> {
    sandbox::remove_all(config)
}

/// A container that runs, as found on disk: for tools beside the runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningContainer {
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
    /// Its first process.
    pub pid: u32,
    /// The environment that it was started with.
    pub environment: Vec<(OsString, OsString)>,
}

/// The containers that run, of the runner that keeps its things in `directory`; in the order of
/// their pods' specs.
pub fn running(directory: &Path) -> Result<Vec<RunningContainer>> {
    let mut running = Vec::new();
    for mut saved in Saved::read_all(&directory.join("pods"))? {
        let spec = &saved.pod.spec;
        for container in spec.containers.iter().chain(&spec.init_containers) {
            let known = saved.containers.remove(&container.name);
            let Some(process) = known.and_then(|known| known.process?.open()) else { continue };
            running.push(RunningContainer {
                namespace: saved.pod.metadata.namespace.clone(),
                pod: saved.pod.metadata.name.clone(),
                container: container.name.clone(),
                pid: process.pid(),
                environment: process.environment()?,
            });
        }
    }
    Ok(running)
}
