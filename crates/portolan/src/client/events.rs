//! Events: what a user sees at the end of `kubectl describe`.
//!
//! The same event about the same object is one Event with a count, as clients expect. Recording
//! never fails its caller: a lost Event is logged and forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use model::ObjectName;
use serde_json::json;

use super::{ApiObject, Client, create, patch};

/// Series remembered at most; beyond that counting starts anew, which costs only extra Events.
const REMEMBERED: usize = 1024;

/// `type` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Things go as they should.
    Normal,
    /// Somebody should have a look.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// Records Events in the name of one component.
#[derive(Clone)]
pub(crate) struct Recorder {
    client: Client,
    component: &'static str,
    host: Option<Arc<str>>,
    series: Arc<Mutex<HashMap<Occurrence, Series>>>,
}

/// What makes two events the same: object, reason, message.
type Occurrence = ([Option<String>; 3], &'static str, String);

#[derive(Clone)]
struct Series {
    event: ObjectName,
    count: i32,
}

impl Recorder {
    /// A recorder for `component`, for example `portolan-controllers`, on `host` if it belongs to
    /// one.
    pub(crate) fn new(client: Client, component: &'static str, host: Option<Arc<str>>) -> Self {
        Self { client, component, host, series: Arc::default() }
    }

    /// Records that `reason` happened to `about`, or counts it once more.
    pub(crate) async fn record(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let message = message.into();
        let object = [about.namespace.clone(), about.name.clone(), about.uid.clone()];
        let key = (object, reason, message.clone());
        let known = self.series().get(&key).cloned();
        if let Some(Series { event, count }) = known {
            let count = count.saturating_add(1);
            let change = json!({ "count": count, "lastTimestamp": Time(now()) });
            if patch::<Event>(&self.client, &event, &change).await.is_ok() {
                self.series().insert(key, Series { event, count });
                return;
            }
            // Events expire; this one has, so a new series begins.
        }
        let event = self.event(about, severity, reason, message);
        match create(&self.client, &event).await {
            Ok(_) => {
                let mut series = self.series();
                if series.len() >= REMEMBERED {
                    series.clear();
                }
                series.insert(key, Series { event: event.object_name(), count: 1 });
            }
            Err(error) if error.is_namespace_terminating() => {}
            Err(error) => tracing::debug!(%error, reason, "event is lost"),
        }
    }

    fn event(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) -> Event {
        let time = now();
        let name =
            format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), time.as_nanosecond());
        // Events about cluster-scoped objects live in `default`.
        let namespace = about.namespace.clone().filter(|ns| !ns.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.unwrap_or_else(|| "default".into())),
                ..ObjectMeta::default()
            },
            involved_object: about.clone(),
            reason: Some(reason.into()),
            message: Some(message),
            type_: Some(severity.as_str().into()),
            count: Some(1),
            first_timestamp: Some(Time(time)),
            last_timestamp: Some(Time(time)),
            source: Some(EventSource {
                component: Some(self.component.into()),
                host: self.host.as_deref().map(Into::into),
            }),
            reporting_component: Some(self.component.into()),
            reporting_instance: Some(self.host.as_deref().unwrap_or_default().into()),
            ..Event::default()
        }
    }

    fn series(&self) -> std::sync::MutexGuard<'_, HashMap<Occurrence, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reference to `object` for an Event about it.
pub(crate) fn reference<K: ApiObject>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}
