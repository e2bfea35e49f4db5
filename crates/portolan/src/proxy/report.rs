//! What the owners of Services are told: by Events on them and, if asked for, by an annotation that
//! says whether this node has programmed them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use dataplane::{Backend, Status, Updates};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use model::{ObjectName, World};
use plan::{Group, GroupId, NodePlan};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::client::{self, Client, Recorder, Severity};

/// Reason of the Event on a Service that is not programmed.
pub(crate) const NOT_PROGRAMMED: &str = "NotProgrammed";
/// Reason of the Event on a Service that was not programmed and is now.
pub(crate) const PROGRAMMED: &str = "Programmed";
/// Reason of the Event on a Service with an external address that is not served.
const EXTERNAL_IP_REFUSED: &str = "ExternalIPRefused";

/// Name of the annotation, before the node's: an annotation of each node, as none may have to wait
/// for another.
const ANNOTATION: &str = "portolan.dev/programmed";

/// Records Events on Services.
#[derive(Clone)]
pub(super) struct Reporter {
    recorder: Recorder,
    known: Arc<Mutex<HashMap<GroupId, Known>>>,
    /// Name of the annotation.
    annotation: Arc<str>,
    /// Services whose annotation is to be looked at; `None` if nobody asked for that.
    to_annotate: Option<mpsc::UnboundedSender<GroupId>>,
}

/// Services whose annotation is to be looked at.
pub(super) type ToAnnotate = mpsc::UnboundedReceiver<GroupId>;

/// What has to be remembered of a Service.
struct Known {
    uid: Arc<str>,
    /// The annotation of this node that it has.
    annotation: Option<Arc<str>>,
    refused_external_ips: Vec<IpAddr>,
}

impl Reporter {
    pub(super) fn new(recorder: Recorder, node: &str) -> Self {
        let annotation = format!("{ANNOTATION}.{node}").into();
        Self { recorder, known: Arc::default(), annotation, to_annotate: None }
    }

    /// Also keeps the annotation, by [`Reporter::annotate`].
    pub(super) fn annotating(self) -> (Self, ToAnnotate) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { to_annotate: Some(sender), ..self }, receiver)
    }

    /// The data plane has been told of a Service's plan.
    pub(super) fn announced(&self, id: &GroupId) {
        if let Some(to_annotate) = &self.to_annotate {
            // Without a receiver the process is ending.
            let _ = to_annotate.send(id.clone());
        }
    }

    /// A Service is planned anew; `None` if it is no more. Has to be called within a tokio runtime.
    pub(super) fn follow(&self, world: &World, id: &GroupId, group: Option<&Group>) {
        let Some((namespace, name)) = id.split_once('/') else { return };
        let service = world.service(&ObjectName::new(namespace, name));
        let (Some(group), Some(service)) = (group, service) else {
            self.known().remove(id);
            return;
        };
        let refused = group.refused_external_ips.clone();
        let known = Known {
            uid: service.meta.uid.clone(),
            annotation: service.annotations.get(&self.annotation).cloned(),
            refused_external_ips: refused.clone(),
        };
        let before = self.known().insert(id.clone(), known);
        let is_said = before.is_some_and(|before| before.refused_external_ips == refused);
        if refused.is_empty() || is_said {
            return;
        }
        let (reporter, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let message = external_ip_message(&refused);
            reporter.service(&id, Severity::Warning, EXTERNAL_IP_REFUSED, message).await;
        });
    }

    /// Records that `reason` happened to the Service that a group is the plan of.
    pub(super) async fn service(
        &self,
        id: &GroupId,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let Some((namespace, name)) = id.split_once('/') else { return };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            // Without it, kubectl describe does not find the Event.
            uid: self.known().get(id).map(|known| known.uid.to_string()),
            ..ObjectReference::default()
        };
        self.recorder.record(&about, severity, reason, message).await;
    }

    /// Says on each Service that the kernel refuses why it does, and when it does no more.
    pub(super) async fn quarantine(self, mut status: watch::Receiver<Status>) {
        let mut reported = BTreeSet::new();
        while status.changed().await.is_ok() {
            let refused = status.borrow_and_update().quarantined.clone();
            let gone: Vec<GroupId> =
                reported.iter().filter(|id| !refused.contains_key(*id)).cloned().collect();
            for id in gone {
                reported.remove(&id);
                self.announced(&id);
                let message = "programmed, as it or what stood in its way has changed";
                self.service(&id, Severity::Normal, PROGRAMMED, message).await;
            }
            for (id, reason) in refused {
                if reported.insert(id.clone()) {
                    self.announced(&id);
                    self.service(&id, Severity::Warning, NOT_PROGRAMMED, reason).await;
                }
            }
        }
    }

    /// Keeps the annotation of each Service what it should be, until it is dropped. One write at a
    /// time: there are as many as Services.
    pub(super) async fn annotate(
        self,
        client: Client,
        mut ids: ToAnnotate,
        updates: Updates,
        mut status: watch::Receiver<Status>,
    ) {
        while let Some(first) = ids.recv().await {
            let mut batch = BTreeSet::from([first]);
            while let Ok(id) = ids.try_recv() {
                batch.insert(id);
            }
            // The loop has taken in what came before this question, and may still have to program it.
            let (reply, answered) = oneshot::channel();
            let look = move |_: &NodePlan, _: &mut dyn Backend, status: &Status| {
                // The process may be ending.
                let _ = reply.send((status.generation, status.pending_since.is_some()));
            };
            let Ok(()) = updates.inspect(look) else { return };
            let Ok((generation, is_pending)) = answered.await else { return };
            if is_pending && status.wait_for(|s| s.generation > generation).await.is_err() {
                return;
            }
            let quarantined = status.borrow().quarantined.clone();
            for id in batch {
                let value = match quarantined.get(&id) {
                    Some(why) => format!("false: {why}"),
                    None => "true".to_owned(),
                };
                self.write_annotation(&client, &id, value).await;
            }
        }
    }

    async fn write_annotation(&self, client: &Client, id: &GroupId, value: String) {
        let is_written = match self.known().get(id) {
            Some(known) => known.annotation.as_deref() == Some(&*value),
            None => true,
        };
        let Some((namespace, name)) = id.split_once('/').filter(|_| !is_written) else { return };
        let name = ObjectName::new(namespace, name);
        let change = json!({"metadata": {"annotations": {&*self.annotation: value}}});
        if let Err(error) = client::patch::<Service>(client, &name, &change).await {
            tracing::warn!(service = %id, %error, "the Service is not annotated");
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<GroupId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is refused and how it would be accepted.
fn external_ip_message(refused: &[IpAddr]) -> String {
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    format!(
        "externalIPs {} are not served: they are in no range of the proxy's --allow-external-ips",
        refused.join(", ")
    )
}
