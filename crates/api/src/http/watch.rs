//! GET with `watch`: changes as they happen, as a stream of JSON frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, Form};
use super::query::Query;
use super::read::store_kind;
use super::route::Target;
use super::table::{Include, table};
use crate::resource::Kind;
use crate::selector::Selector;
use crate::status::{Result, Status};
use crate::store::{Change, Store, Stored};

/// Longest watch if the client does not say; it begins again by itself.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// How often a client that wants bookmarks is told the current revision.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Frames waiting for a slow client before the watch waits too.
const FRAMES_AHEAD: usize = 64;
/// The annotation of the bookmark that ends the initial state.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    store: Store,
    kind: &'static Kind,
    namespace: Option<Arc<str>>,
    name: Option<Arc<str>>,
    selector: Selector,
    form: Form,
    include: Include,
    bookmarks: bool,
    columns_sent: bool,
    frames: mpsc::Sender<Bytes>,
}

/// The client is gone.
struct Gone;

/// Starts a watch.
pub(super) fn watch(
    store: &Store,
    target: &Target<'_>,
    query: &Query,
    form: Form,
) -> Result<Answer> {
    let selector = query.selector()?;
    selector.check(target.kind)?;
    let asked = query.number("resourceVersion")?;
    let initial = query.flag("sendInitialEvents");
    if initial && query.text("resourceVersionMatch") != "NotOlderThan" {
        return Err(Status::bad_request(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let current = store.read().revision();
    if let Some(asked) = asked
        && asked > current
    {
        return Err(Status::too_large_version(asked, current));
    }
    let from = match asked {
        Some(revision) if revision > 0 && !initial => {
            // Found out now, a client gets an answer it understands.
            store.changes_since(revision)?;
            Some(revision)
        }
        _ => None,
    };
    let timeout = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let until = Instant::now() + timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let (frames, receiver) = mpsc::channel(FRAMES_AHEAD);
    let watch = Watch {
        store: store.clone(),
        kind: target.kind,
        namespace: target.namespace.map(Arc::from),
        name: target.name.map(Arc::from),
        selector,
        form,
        include: Include::parse(query.text("includeObject")),
        bookmarks: query.flag("allowWatchBookmarks"),
        columns_sent: false,
        frames,
    };
    tokio::spawn(async move {
        // A client that went away has ended the watch.
        let _ = watch.run(from, initial, until).await;
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok(Frame::data(bytes)), receiver))
    });
    let mut answer = Response::new(StreamBody::new(stream).boxed_unsync());
    *answer.status_mut() = StatusCode::OK;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(answer)
}

impl Watch {
    async fn run(mut self, from: Option<u64>, initial: bool, until: Instant) -> Result<(), Gone> {
        let mut revisions = self.store.revisions();
        let mut seen = match from {
            Some(revision) => revision,
            None => self.send_state(initial).await?,
        };
        let mut bookmark = Instant::now() + BOOKMARK_EVERY;
        loop {
            revisions.mark_unchanged();
            match self.store.changes_since(seen) {
                Ok(changes) => {
                    for change in changes {
                        self.send_change(&change).await?;
                        seen = change.revision;
                    }
                }
                Err(status) => return self.send("ERROR", &status.to_json()).await,
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(until) => return Ok(()),
                () = self.frames.closed() => return Err(Gone),
                () = sleep_until(bookmark), if self.bookmarks => {
                    // All up to here has been sent.
                    self.send_bookmark(seen, false).await?;
                    bookmark = Instant::now() + BOOKMARK_EVERY;
                }
            }
        }
    }

    /// Sends what is there, and answers the revision that it is of.
    async fn send_state(&mut self, with_end: bool) -> Result<u64, Gone> {
        let (revision, objects) = {
            let state = self.store.read();
            let of_kind = state.list(&store_kind(self.kind), self.namespace.as_ref(), None);
            let selected = of_kind.filter(|(_, stored)| self.selects(&stored.value));
            (state.revision(), selected.map(|(_, stored)| stored.clone()).collect::<Vec<_>>())
        };
        for stored in objects {
            self.send_object("ADDED", &stored).await?;
        }
        if with_end && self.bookmarks {
            self.send_bookmark(revision, true).await?;
        }
        Ok(revision)
    }

    fn selects(&self, value: &Value) -> bool {
        self.name.as_ref().is_none_or(|name| value["metadata"]["name"] == **name)
            && (self.selector.is_everything() || self.selector.matches(self.kind, value))
    }

    async fn send_change(&mut self, change: &Change) -> Result<(), Gone> {
        let of_namespace =
            self.namespace.as_ref().is_none_or(|namespace| change.key.namespace == *namespace);
        if *change.key.kind != *store_kind(self.kind) || !of_namespace {
            return Ok(());
        }
        let selected = |stored: &Option<Arc<Stored>>| {
            stored.as_ref().filter(|stored| self.selects(&stored.value)).cloned()
        };
        match (selected(&change.old), selected(&change.new)) {
            (None, Some(new)) => self.send_object("ADDED", &new).await,
            (Some(_), Some(new)) => self.send_object("MODIFIED", &new).await,
            (Some(old), None) => {
                // An object that is selected no longer is gone for this client: it gets the last
                // state that was selected, with the new revision.
                let gone = change.gone.clone().unwrap_or_else(|| old.at(change.revision));
                self.send_object("DELETED", &gone).await
            }
            (None, None) => Ok(()),
        }
    }

    async fn send_object(&mut self, event: &str, stored: &Stored) -> Result<(), Gone> {
        if self.form == Form::Table {
            let metadata = json!({"resourceVersion": stored.revision.to_string()});
            let one = std::iter::once(&stored.value);
            let table = table(self.kind, one, metadata, self.include, !self.columns_sent);
            self.columns_sent = true;
            return self.send(event, &table).await;
        }
        let mut frame = Vec::with_capacity(stored.json().len() + 40);
        frame.extend_from_slice(format!(r#"{{"type":"{event}","object":"#).as_bytes());
        frame.extend_from_slice(stored.json());
        frame.extend_from_slice(b"}\n");
        self.frames.send(frame.into()).await.map_err(|_| Gone)
    }

    async fn send_bookmark(&mut self, revision: u64, ends_initial: bool) -> Result<(), Gone> {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata,
        });
        if self.form == Form::Table {
            let rows = json!([{"cells": [], "object": object}]);
            let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                               "columnDefinitions": [], "rows": rows});
            return self.send("BOOKMARK", &table).await;
        }
        self.send("BOOKMARK", &object).await
    }

    async fn send(&mut self, event: &str, object: &Value) -> Result<(), Gone> {
        let frame = format!("{{\"type\":\"{event}\",\"object\":{object}}}\n");
        self.frames.send(frame.into()).await.map_err(|_| Gone)
    }
}
