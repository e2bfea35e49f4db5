//! List, then watch, for ever: the one way objects come in.
//!
//! Holds no objects, only the version reached. Every change after the list is delivered once and in
//! order; after a lost connection the watch goes on from the last version, and when the server no
//! longer has that version (410 Gone), everything is listed again.
//!
//! Objects are read straight from the bytes of an answer: there may be hundreds of megabytes of them.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::Resource;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, Status};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Lines, ask, ask_lines};
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

/// What can be watched: slim or whole objects.
pub(crate) trait Watched: Sized + Send + 'static {
    /// Reads an object.
    fn read(json: &str) -> serde_json::Result<Self>;

    /// Reads a page of a list in one go, for kinds of which there are many; one object that can't be
    /// read fails it. `None` if such pages are read object by object.
    fn read_page(_json: &[u8]) -> Option<serde_json::Result<Page<Self>>> {
        None
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

/// What is new, with lists page by page, so that no more than one page is in memory.
#[derive(Debug, Clone)]
pub(crate) enum Step<T> {
    /// A page of everything there is.
    Page {
        /// The list begins; one that had begun before is given up.
        is_first: bool,
        /// Objects of it.
        objects: Vec<T>,
        /// The list ends, and this is its version.
        version: Option<String>,
    },
    /// An object was added or changed.
    Put(T),
    /// An object was deleted, or stopped matching the selectors: its last state.
    Removed(T),
}

/// A list and the watch that follows it.
pub(crate) struct Watch<T> {
    client: Client,
    source: Source,
    /// Where a list that has begun goes on.
    next_page: Option<String>,
    /// Objects of earlier pages, for who wants lists as a whole.
    listed: Vec<T>,
    /// Version reached; `None` asks for a list.
    version: Option<String>,
    events: Option<Lines>,
    backoff: Backoff,
}

impl<T: Watched> Watch<T> {
    /// Makes no request yet.
    pub(crate) fn new(client: Client, source: Source) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        Self {
            client,
            source,
            next_page: None,
            listed: Vec::new(),
            version: None,
            events: None,
            backoff,
        }
    }

    /// Waits for the next change; failures are logged and tried again for as long as it takes.
    ///
    /// Cancel safe: dropping the future loses no change.
    pub(crate) async fn next(&mut self) -> Change<T> {
        loop {
            match self.next_step().await {
                Step::Put(object) => return Change::Put(object),
                Step::Removed(object) => return Change::Removed(object),
                Step::Page { is_first, mut objects, version } => {
                    if is_first {
                        self.listed.clear();
                    }
                    self.listed.append(&mut objects);
                    if let Some(version) = version {
                        let objects = std::mem::take(&mut self.listed);
                        return Change::Listed { objects, version };
                    }
                }
            }
        }
    }

    /// As [`Watch::next`], with lists page by page.
    ///
    /// Cancel safe, too.
    pub(crate) async fn next_step(&mut self) -> Step<T> {
        loop {
            let Some(version) = self.version.clone() else {
                match page(&self.client, &self.source, self.next_page.as_deref()).await {
                    Ok(page) => return self.take_page(page),
                    Err(error) => {
                        // A list can't be continued for long: it begins anew.
                        self.next_page = None;
                        self.wait("list", &error).await;
                    }
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
                Ok(Some(line)) => {
                    if let Some(step) = self.take(&line).await {
                        return step;
                    }
                }
                Ok(None) => {
                    self.events = None;
                    // A server that ends every watch at once must not be asked in a tight loop.
                    tokio::time::sleep(self.backoff.advance()).await;
                }
                Err(error) => self.failed(error).await,
            }
        }
    }

    fn take_page(&mut self, page: Page<T>) -> Step<T> {
        self.backoff.reset();
        let is_first = self.next_page.is_none();
        self.next_page = page.metadata.next.filter(|token| !token.is_empty());
        if self.next_page.is_none() {
            self.version = Some(page.metadata.resource_version);
        }
        let objects = page.items.unwrap_or_default();
        Step::Page { is_first, objects, version: self.version.clone() }
    }

    async fn take(&mut self, line: &[u8]) -> Option<Step<T>> {
        let event: Event<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            // One event that can't be read must not stop the others.
            Err(error) => {
                tracing::warn!(path = self.source.path, %error, "unreadable event is skipped");
                return None;
            }
        };
        let json = event.object.get();
        if event.kind == "ERROR" {
            let status = serde_json::from_str(json).unwrap_or_else(|_| Status::failure(json, ""));
            self.failed(kube::Error::Api(Box::new(status))).await;
            return None;
        }
        if let Ok(head) = serde_json::from_str::<Head<'_>>(json) {
            self.version = Some(head.metadata.resource_version.into_owned());
        }
        self.backoff.reset();
        let step: fn(T) -> Step<T> = match &*event.kind {
            "ADDED" | "MODIFIED" => Step::Put,
            "DELETED" => Step::Removed,
            // A bookmark: the version is all it has to say.
            _ => return None,
        };
        match T::read(json) {
            Ok(object) => Some(step(object)),
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

/// A page of a list, from its beginning or from where an earlier one ended.
async fn page<T: Watched>(
    client: &Client,
    source: &Source,
    from: Option<&str>,
) -> kube::Result<Page<T>> {
    let params = ListParams {
        label_selector: source.labels.clone(),
        field_selector: source.fields.clone(),
        limit: Some(PAGE),
        continue_token: from.map(str::to_owned),
        ..ListParams::default()
    };
    let request = Request::new(&source.path).list(&params).map_err(kube::Error::BuildRequest)?;
    let json = ask(client, request).await?;
    if let Some(Ok(page)) = T::read_page(&json) {
        return Ok(page);
    }
    // Read one by one, because one may be unreadable.
    let page: Page<&RawValue> = serde_json::from_slice(&json).map_err(kube::Error::SerdeError)?;
    let read = |item: &RawValue| match T::read(item.get()) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::warn!(path = source.path, %error, "unreadable object is skipped");
            None
        }
    };
    let items = page.items.unwrap_or_default().into_iter().filter_map(read).collect();
    Ok(Page { metadata: page.metadata, items: Some(items) })
}

/// What happens after `version`.
async fn open(client: &Client, source: &Source, version: &str) -> kube::Result<Lines> {
    let params = WatchParams {
        label_selector: source.labels.clone(),
        field_selector: source.fields.clone(),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        send_initial_events: false,
    };
    let request = Request::new(&source.path).watch(&params, version);
    ask_lines(client, request.map_err(kube::Error::BuildRequest)?).await
}

/// One page of a list.
#[derive(Deserialize)]
pub(crate) struct Page<T> {
    metadata: PageMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// As much of an object as the watch itself needs.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: HeadMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta<'a> {
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
}
