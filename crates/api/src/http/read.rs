//! GET: one object, or a list of them.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{self, Answer, Form};
use super::query::Query;
use super::route::Target;
use super::table::{Include, table};
use crate::resource::Kind;
use crate::status::{Result, Status};
use crate::store::{Key, Store, Stored};

/// The store's name of a kind.
pub(crate) fn store_kind(kind: &Kind) -> Arc<str> {
    kind.resource().into()
}

/// The key of the object that a path names.
pub(super) fn key(target: &Target<'_>, name: &str) -> Key {
    Key {
        kind: store_kind(target.kind),
        namespace: target.namespace.unwrap_or_default().into(),
        name: name.into(),
    }
}

/// One object.
pub(super) fn get(
    store: &Store,
    target: &Target<'_>,
    name: &str,
    query: &Query,
    form: Form,
) -> Result<Answer> {
    let found = store.read().get(&key(target, name)).cloned();
    let stored = found.ok_or_else(|| Status::not_found(target.kind, name))?;
    Ok(object(target.kind, &stored, query, form, StatusCode::OK))
}

/// An object in the form that the client wants.
pub(super) fn object(
    kind: &Kind,
    stored: &Stored,
    query: &Query,
    form: Form,
    code: StatusCode,
) -> Answer {
    match form {
        Form::Table => {
            let metadata = json!({"resourceVersion": stored.revision.to_string()});
            let include = Include::parse(query.text("includeObject"));
            let one = std::iter::once(&stored.value);
            answer::value(code, &table(kind, one, metadata, include, true))
        }
        _ => answer::json(code, stored.json().clone()),
    }
}

/// A list of objects at the current revision.
pub(super) fn list(
    store: &Store,
    target: &Target<'_>,
    query: &Query,
    form: Form,
) -> Result<Answer> {
    let selector = query.selector()?;
    selector.check(target.kind)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let after = match query.text("continue") {
        "" => None,
        token => Some(continue_after(target, token)?),
    };
    let objects = store.read();
    let revision = objects.revision();
    check_version(query, revision)?;
    let namespace = target.namespace.map(Arc::from);
    let mut selected = objects
        .list(&store_kind(target.kind), namespace.as_ref(), after.as_ref())
        .filter(|(_, stored)| {
            target.name.is_none_or(|name| stored.value["metadata"]["name"] == name)
                && (selector.is_everything() || selector.matches(target.kind, &stored.value))
        });
    let mut page: Vec<Arc<Stored>> = Vec::new();
    let mut last: Option<Key> = None;
    let mut remaining = 0_u64;
    for (key, stored) in &mut selected {
        if limit.is_some_and(|limit| page.len() as u64 >= limit) {
            remaining += 1;
            continue;
        }
        page.push(stored.clone());
        last = Some(key.clone());
    }
    drop(selected);
    drop(objects);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if remaining > 0
        && let Some(last) = last
    {
        let token = json!({"namespace": *last.namespace, "name": *last.name}).to_string();
        metadata["continue"] = URL_SAFE_NO_PAD.encode(token).into();
        if selector.is_everything() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    if form == Form::Table {
        let include = Include::parse(query.text("includeObject"));
        let values = page.iter().map(|stored| &stored.value);
        let table = table(target.kind, values, metadata, include, true);
        return Ok(answer::value(StatusCode::OK, &table));
    }
    Ok(answer::json(StatusCode::OK, list_body(target.kind, &metadata, &page)))
}

/// The list as JSON, from the items' own bytes.
fn list_body(kind: &Kind, metadata: &Value, items: &[Arc<Stored>]) -> Vec<u8> {
    let size: usize = items.iter().map(|item| item.json().len() + 1).sum();
    let mut body = Vec::with_capacity(size + 200);
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
        kind.kind,
        kind.api_version()
    );
    body.extend_from_slice(head.as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item.json());
    }
    body.extend_from_slice(b"]}");
    body
}

fn continue_after(target: &Target<'_>, token: &str) -> Result<Key> {
    let refused = || Status::bad_request("continue key is not valid: use the one of the last page");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| refused())?;
    let text = |field: &str| token[field].as_str().map(Arc::from).ok_or_else(refused);
    Ok(Key { kind: store_kind(target.kind), namespace: text("namespace")?, name: text("name")? })
}

/// A list is always of the current state; what the query says of versions has to allow that.
fn check_version(query: &Query, current: u64) -> Result<()> {
    let asked = query.number("resourceVersion")?;
    match (asked, query.text("resourceVersionMatch")) {
        (Some(asked), _) if asked > current => Err(Status::too_large_version(asked, current)),
        (Some(asked), "Exact") if asked != current => Err(Status::expired(asked, current)),
        (None, "Exact" | "NotOlderThan") => Err(Status::bad_request(
            "resourceVersionMatch is forbidden unless resourceVersion is given",
        )),
        _ => Ok(()),
    }
}
