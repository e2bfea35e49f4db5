//! List, then watch, for ever: the one way objects come in.
//!
//! Holds no objects, only the version reached. Every change after the list is delivered once and in
//! order; after a lost connection the watch goes on from the last version, and when the server no
//! longer has that version (410 Gone), everything is listed again.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use k8s_openapi::Resource;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Backoff, Client};

/// Objects asked for in one page of a list.
const PAGE: u32 = 500;

/// How long the server is asked to keep one watch open, below the client's own read timeout of
/// 295 s, so that an idle watch ends cleanly.
const WATCH_SECONDS: u32 = 280;

/// What to watch.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    path: String,
    labels: Option<String>,
    fields: Option<String>,
}

impl Source {
    /// All objects of a kind, in all namespaces.
    pub(crate) fn all<K: Resource>() -> Self {
        Self { path: super::write::path::<K>(""), labels: None, fields: None }
    }

    /// Only objects that match a label selector, in the API's syntax.
    pub(crate) fn labelled(self, selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..self }
    }

    /// Only objects that match a field selector, in the API's syntax.
    pub(crate) fn with_fields(self, selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..self }
    }
}

/// Anything with a `resourceVersion`: slim or whole objects.
pub(crate) trait Versioned: Clone + DeserializeOwned + Send + 'static {
    /// `metadata.resourceVersion`, opaque.
    fn version(&self) -> &str;

    /// Reads an object of a list, of which there may be many.
    fn read(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

/// What is new.
#[derive(Debug, Clone)]
pub(crate) enum Change<T> {
    /// Everything there is, as of `version`; what is not among it is gone.
    Listed {
        /// All objects.
        objects: Vec<T>,
        /// Version of the whole list.
        version: String,
    },
    /// An object was added or changed.
    Put(T),
    /// An object was deleted, or stopped matching the selectors: its last state.
    Removed(T),
}

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Value>>> + Send>>;

/// A list and the watch that follows it.
pub(crate) struct Watch<T> {
    client: Client,
    source: Source,
    /// Version reached; `None` asks for a list.
    version: Option<String>,
    events: Option<Events>,
    backoff: Backoff,
    objects: PhantomData<fn() -> T>,
}

impl<T: Versioned> Watch<T> {
    /// Makes no request yet.
    pub(crate) fn new(client: Client, source: Source) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        Self { client, source, version: None, events: None, backoff, objects: PhantomData }
    }

    /// Waits for the next change; failures are logged and tried again for as long as it takes.
    ///
    /// Cancel safe: dropping the future loses no change.
    pub(crate) async fn next(&mut self) -> Change<T> {
        loop {
            let Some(version) = self.version.clone() else {
                match list(&self.client, &self.source).await {
                    Ok((objects, version)) => {
                        self.version = Some(version.clone());
                        self.backoff.reset();
                        return Change::Listed { objects, version };
                    }
                    Err(error) => self.wait("list", &error).await,
                }
                continue;
            };
            let Some(events) = &mut self.events else {
                match open(&self.client, &self.source, &version).await {
                    Ok(events) => self.events = Some(events),
                    Err(error) => self.failed(error).await,
                }
                continue;
            };
            match events.next().await {
                Some(Ok(event)) => {
                    if let Some(change) = self.take(event).await {
                        return change;
                    }
                }
                // One event that can't be read must not stop the others.
                Some(Err(kube::Error::SerdeError(error))) => {
                    tracing::warn!(path = self.source.path, %error, "unreadable event is skipped");
                }
                Some(Err(error)) => self.failed(error).await,
                None => {
                    self.events = None;
                    // A server that ends every watch at once must not be asked in a tight loop.
                    tokio::time::sleep(self.backoff.advance()).await;
                }
            }
        }
    }

    async fn take(&mut self, event: WatchEvent<Value>) -> Option<Change<T>> {
        let change: fn(T) -> Change<T> = match &event {
            WatchEvent::Deleted(_) => Change::Removed,
            _ => Change::Put,
        };
        let object = match event {
            WatchEvent::Added(object)
            | WatchEvent::Modified(object)
            | WatchEvent::Deleted(object) => object,
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                self.backoff.reset();
                return None;
            }
            WatchEvent::Error(status) => {
                self.failed(kube::Error::Api(status)).await;
                return None;
            }
        };
        if let Some(version) = object["metadata"]["resourceVersion"].as_str() {
            self.version = Some(version.to_owned());
        }
        self.backoff.reset();
        match T::deserialize(&object) {
            Ok(object) => Some(change(object)),
            // One object that can't be read must not stop the others.
            Err(error) => {
                tracing::warn!(path = self.source.path, %error, "unreadable object is skipped");
                None
            }
        }
    }

    /// Goes on from the last version, or from a new list if that version is no longer kept.
    async fn failed(&mut self, error: kube::Error) {
        self.events = None;
        match &error {
            kube::Error::Api(status) if status.code == 410 => {
                tracing::debug!(path = self.source.path, "version is compacted, listing again");
                self.version = None;
            }
            _ => self.wait("watch", &error).await,
        }
    }

    async fn wait(&mut self, verb: &str, error: &kube::Error) {
        let delay = self.backoff.advance();
        tracing::warn!(path = self.source.path, %error, ?delay, "{verb} failed, trying again");
        tokio::time::sleep(delay).await;
    }
}

/// Everything there is, page by page.
async fn list<T: Versioned>(client: &Client, source: &Source) -> kube::Result<(Vec<T>, String)> {
    let mut params = ListParams {
        label_selector: source.labels.clone(),
        field_selector: source.fields.clone(),
        limit: Some(PAGE),
        ..ListParams::default()
    };
    let mut objects = Vec::new();
    loop {
        let request = Request::new(&source.path).list(&params);
        let page: Page = client.request(request.map_err(kube::Error::BuildRequest)?).await?;
        for item in page.items.unwrap_or_default() {
            match T::read(item.get()) {
                Ok(object) => objects.push(object),
                Err(error) => {
                    let path = &source.path;
                    tracing::warn!(path, %error, "unreadable object is skipped");
                }
            }
        }
        params.continue_token = page.metadata.next.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok((objects, page.metadata.resource_version));
        }
    }
}

/// What happens after `version`.
async fn open(client: &Client, source: &Source, version: &str) -> kube::Result<Events> {
    let params = WatchParams {
        label_selector: source.labels.clone(),
        field_selector: source.fields.clone(),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        send_initial_events: false,
    };
    let request = Request::new(&source.path).watch(&params, version);
    let request = request.map_err(kube::Error::BuildRequest)?;
    Ok(Box::pin(client.request_events::<Value>(request).await?))
}

/// One page of a list; items are read one by one, because one may be unreadable.
#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}
