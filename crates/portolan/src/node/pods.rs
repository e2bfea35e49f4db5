//! The pods bound to this node: from the API to the runner, and their status back.
//!
//! The runner decides how a pod lives; here is only which pods there are, and that the API learns
//! what became of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::core::params::{DeleteParams, Preconditions};
use model::ObjectName;
use model::object::PodPhase;
use pod::runner::{Runner, Update};
use pod::spec::{Metadata, PodSpec};
use pod::status::PodStatus;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::pod_events::{News, news};
use crate::client::{self, Change, Client, Error, Recorder, Source, Watch, Watched};

/// Pause before failed writes are tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A pod as far as a node reads it.
#[derive(Debug, Clone, Deserialize)]
struct BoundPod {
    metadata: Meta,
    spec: PodSpec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default)]
    deletion_grace_period_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: PodPhase,
}

impl Watched for BoundPod {
    fn read(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

impl BoundPod {
    fn identity(&self) -> Metadata {
        let Meta { name, namespace, uid, .. } = self.metadata.clone();
        Metadata { name, namespace, uid }
    }
}

/// Runs the pods bound to `node` until the future is dropped.
pub(super) async fn keep(
    client: Client,
    node: Arc<str>,
    runner: Runner,
    updates: mpsc::UnboundedReceiver<Update>,
) {
    let (gone, deleted) = mpsc::unbounded_channel();
    let (tell, told) = mpsc::unbounded_channel();
    let recorder = Recorder::new(client.clone(), "portolan-node", Some(node.clone()));
    let reporter =
        Reporter { client: client.clone(), pending: BTreeMap::new(), last: HashMap::new(), tell };
    let watch = async {
        let source = Source::all::<Pod>().with_fields(format!("spec.nodeName={node}"));
        let mut watch = Watch::<BoundPod>::new(client, source);
        loop {
            follow(&runner, watch.next().await, &gone);
        }
    };
    tokio::join!(watch, reporter.run(updates, deleted), record(recorder, told));
}

/// Records what is to be told, beside the statuses, which matter more.
async fn record(recorder: Recorder, mut told: mpsc::UnboundedReceiver<(Metadata, News)>) {
    while let Some((pod, News { severity, reason, message })) = told.recv().await {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace),
            name: Some(pod.name),
            uid: Some(pod.uid),
            ..ObjectReference::default()
        };
        recorder.record(&about, severity, reason, message).await;
    }
}

/// Hands a change to the runner. Pods that are to go and aren't here are answered to `gone`.
fn follow(runner: &Runner, change: Change<BoundPod>, gone: &mpsc::UnboundedSender<Metadata>) {
    match change {
        Change::Listed { objects, .. } => {
            let known: HashSet<String> =
                objects.iter().map(|pod| pod.metadata.uid.clone()).collect();
            for pod in runner.list().iter().filter(|pod| !known.contains(&pod.uid)) {
                tracing::info!(namespace = pod.namespace, pod = pod.name, "pod is gone, ending it");
                runner.remove(&pod.uid, None);
            }
            for pod in objects {
                follow_one(runner, pod, gone);
            }
        }
        Change::Put(pod) => follow_one(runner, pod, gone),
        // Deleted without us having confirmed it: by force, or moved away by hand.
        Change::Removed(pod) => {
            runner.remove(&pod.metadata.uid, Some(Duration::ZERO));
        }
    }
}

fn follow_one(runner: &Runner, pod: BoundPod, gone: &mpsc::UnboundedSender<Metadata>) {
    let identity = pod.identity();
    if pod.metadata.deletion_timestamp.is_some() {
        let grace = pod.metadata.deletion_grace_period_seconds.map(Duration::from_secs);
        if !runner.remove(&identity.uid, grace) {
            // The reporter lives as long as this watch.
            let _ = gone.send(identity);
        }
        return;
    }
    if matches!(pod.status.phase, PodPhase::Succeeded | PodPhase::Failed) {
        return;
    }
    let BoundPod { spec, .. } = pod;
    let (namespace, name) = (identity.namespace.clone(), identity.name.clone());
    if let Err(error) = runner.ensure(pod::spec::Pod { metadata: identity, spec }) {
        tracing::error!(namespace, pod = name, %error, "pod can't run");
    }
}

/// What the API has still to be told about a pod.
enum Report {
    Status(Metadata, Box<PodStatus>),
    Removed(Metadata),
}

/// Tells the API what became of pods, the newest state of each.
struct Reporter {
    client: Client,
    pending: BTreeMap<String, Report>,
    /// The last status of each pod, by uid.
    last: HashMap<String, Box<PodStatus>>,
    /// News for the users.
    tell: mpsc::UnboundedSender<(Metadata, News)>,
}

impl Reporter {
    async fn run(
        mut self,
        mut updates: mpsc::UnboundedReceiver<Update>,
        mut deleted: mpsc::UnboundedReceiver<Metadata>,
    ) {
        loop {
            tokio::select! {
                Some(update) = updates.recv() => self.take(update),
                Some(pod) = deleted.recv() => self.take(Update::Removed(pod)),
                () = tokio::time::sleep(RETRY), if !self.pending.is_empty() => {}
                else => return,
            }
            while let Ok(update) = updates.try_recv() {
                self.take(update);
            }
            self.report().await;
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Status { pod, status } => {
                for news in news(self.last.get(&pod.uid).map(|last| &**last), &status) {
                    // It is recorded as long as we are polled.
                    let _ = self.tell.send((pod.clone(), news));
                }
                self.last.insert(pod.uid.clone(), status.clone());
                self.pending.insert(pod.uid.clone(), Report::Status(pod, status));
            }
            Update::Removed(pod) => {
                self.last.remove(&pod.uid);
                self.pending.insert(pod.uid.clone(), Report::Removed(pod));
            }
        }
    }

    /// Writes everything that is pending; what fails stays for the next time.
    async fn report(&mut self) {
        for (uid, report) in std::mem::take(&mut self.pending) {
            let written = match &report {
                Report::Status(pod, status) => patch(&self.client, pod, status).await,
                Report::Removed(pod) => delete(&self.client, pod).await,
            };
            match written {
                Ok(()) => {}
                // The pod is gone, or another one has its name now.
                Err(error) if error.is_not_found() || error.is_conflict() => {
                    tracing::debug!(%error, "nobody wants to know");
                }
                Err(error) => {
                    tracing::warn!(%error, "the API does not know what became of a pod");
                    self.pending.insert(uid, report);
                }
            }
        }
    }
}

async fn patch(client: &Client, pod: &Metadata, status: &PodStatus) -> Result<(), Error> {
    let mut status = serde_json::to_value(status).expect("a status has only text for keys");
    if let Value::Object(status) = &mut status {
        // A merge patch leaves out what it does not name: what is no longer so must be said.
        for field in ["reason", "message", "podIP", "podIPs", "initContainerStatuses"] {
            status.entry(field).or_insert(Value::Null);
        }
    }
    let change = json!({ "metadata": { "uid": pod.uid }, "status": status });
    client::patch_status::<Pod>(client, &name(pod), &change).await.map(drop)
}

async fn delete(client: &Client, pod: &Metadata) -> Result<(), Error> {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(pod.uid.clone()),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    client::delete::<Pod>(client, &name(pod), &params).await.map(drop)
}

fn name(pod: &Metadata) -> ObjectName {
    ObjectName::new(pod.namespace.as_str(), pod.name.as_str())
}
