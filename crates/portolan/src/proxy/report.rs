//! What the owners of Services are told, by Events on them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use dataplane::Status;
use k8s_openapi::api::core::v1::ObjectReference;
use model::{ObjectName, World};
use plan::{Group, GroupId};
use tokio::sync::watch;

use crate::client::{Recorder, Severity};

/// Reason of the Event on a Service that is not programmed.
pub(crate) const NOT_PROGRAMMED: &str = "NotProgrammed";
/// Reason of the Event on a Service that was not programmed and is now.
pub(crate) const PROGRAMMED: &str = "Programmed";
/// Reason of the Event on a Service with an external address that is not served.
const EXTERNAL_IP_REFUSED: &str = "ExternalIPRefused";

/// Records Events on Services.
#[derive(Clone)]
pub(super) struct Reporter {
    recorder: Recorder,
    known: Arc<Mutex<HashMap<GroupId, Known>>>,
}

/// What has to be remembered of a Service.
struct Known {
    uid: Arc<str>,
    refused_external_ips: Vec<IpAddr>,
}

impl Reporter {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, known: Arc::default() }
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
        let known = Known { uid: service.meta.uid.clone(), refused_external_ips: refused.clone() };
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
                let message = "programmed, as it or what stood in its way has changed";
                self.service(&id, Severity::Normal, PROGRAMMED, message).await;
            }
            for (id, reason) in refused {
                if reported.insert(id.clone()) {
                    self.service(&id, Severity::Warning, NOT_PROGRAMMED, reason).await;
                }
            }
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
