//! Feeds a [`model::World`]: one watch of slim objects a kind, as [`model::Event`]s in a channel.

use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use model::object::{EndpointSlice, Namespace, Node, Pod, Service, ServiceCidr, SliceWithPodNames};
use model::{Event, Kind, Object};
use tokio::sync::mpsc;

use super::{Client, Page, Source, Step, Watch, Watched};

/// Watches `kind` and sends what happens to `events` until its receiver is gone.
///
/// `labels` narrows what the server sends. A node that only proxies leaves out Services of other
/// proxies (`!service.kubernetes.io/service-proxy-name`) and headless slices
/// (`!service.kubernetes.io/headless`); one that also answers DNS needs them all and passes `None`.
pub(crate) async fn feed(
    client: Client,
    kind: Kind,
    labels: Option<String>,
    events: mpsc::Sender<Event>,
) {
    let select = |source| selected(source, labels);
    match kind {
        Kind::Service => {
            let source = select(Source::all::<core::Service>());
            run(Watch::new(client, source), kind, Object::Service, events).await;
        }
        Kind::EndpointSlice => {
            let source = select(Source::all::<discovery::EndpointSlice>());
            run(Watch::new(client, source), kind, Object::EndpointSlice, events).await;
        }
        Kind::Node => {
            let source = select(Source::all::<core::Node>());
            run(Watch::new(client, source), kind, Object::Node, events).await;
        }
        Kind::Pod => {
            let source = select(Source::all::<core::Pod>());
            run(Watch::new(client, source), kind, Object::Pod, events).await;
        }
        Kind::Namespace => {
            let source = select(Source::all::<core::Namespace>());
            run(Watch::new(client, source), kind, Object::Namespace, events).await;
        }
        Kind::ServiceCidr => {
            let source = select(Source::all::<networking::ServiceCIDR>());
            run(Watch::new(client, source), kind, Object::ServiceCidr, events).await;
        }
    }
}

/// As [`feed`] of EndpointSlices, whose endpoints are called like their pods if they have no hostname.
pub(crate) async fn feed_slices_with_pod_names(
    client: Client,
    labels: Option<String>,
    events: mpsc::Sender<Event>,
) {
    let source = selected(Source::all::<discovery::EndpointSlice>(), labels);
    let wrap = |SliceWithPodNames(slice)| Object::EndpointSlice(slice);
    run(Watch::new(client, source), Kind::EndpointSlice, wrap, events).await;
}

fn selected(source: Source, labels: Option<String>) -> Source {
    match labels {
        Some(selector) => source.labelled(selector),
        None => source,
    }
}

async fn run<T: Watched>(
    mut watch: Watch<T>,
    kind: Kind,
    wrap: fn(T) -> Object,
    events: mpsc::Sender<Event>,
) {
    loop {
        let event = match watch.next_step().await {
            Step::Page { is_first, objects, version } => Event::Listed {
                kind,
                objects: objects.into_iter().map(wrap).collect(),
                is_first,
                is_last: version.is_some(),
            },
            Step::Put(object) => Event::Put(wrap(object)),
            Step::Removed(object) => Event::Removed(kind, wrap(object).name()),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

macro_rules! watched {
    ($($kind:ty),*) => {$(
        impl Watched for $kind {
            fn read(json: &str) -> serde_json::Result<Self> {
                serde_json::from_str(json)
            }

            fn read_page(json: &[u8]) -> Option<serde_json::Result<Page<Self>>> {
                // Once for all is cheaper than for each string.
                let text = str::from_utf8(json).ok()?;
                Some(serde_json::from_str(text))
            }
        }
    )*};
}

watched!(Service, EndpointSlice, SliceWithPodNames, Node, Pod, Namespace, ServiceCidr);
