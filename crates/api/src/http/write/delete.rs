//! DELETE: of one object or of many, at once or marked.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::http::answer::{self, Answer};
use crate::http::read::{key, store_kind};
use crate::http::{Call, Shared, body};
use crate::metadata;
use crate::resource::Kind;
use crate::status::{Result, Status};
use crate::store::{Key, Stored, Transaction};

/// DELETE of an object.
pub(in crate::http) async fn delete(call: &Call<'_>, name: &str) -> Result<Answer> {
    let options = Deletion::read(call)?;
    let key = key(&call.target, name);
    let (kind, shared_write) = (call.target.kind, call.shared.clone());
    let (left, gone) = call
        .shared
        .store
        .write(move |tx| delete_in(&shared_write, tx, kind, &key, &options))
        .await?;
    if gone && !kind.delete_returns_object {
        let details = json!({"name": name, "group": kind.group, "kind": kind.plural,
                             "uid": left.value["metadata"]["uid"]});
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                            "status": "Success", "details": details});
        return Ok(answer::value(StatusCode::OK, &status));
    }
    Ok(answer::json(StatusCode::OK, left.json().clone()))
}

/// DELETE of a collection.
pub(in crate::http) async fn delete_collection(call: &Call<'_>) -> Result<Answer> {
    let selector = call.query.selector()?;
    selector.check(call.target.kind)?;
    let options = Deletion::read(call)?;
    let (kind, namespace) = (call.target.kind, call.target.namespace.map(Arc::<str>::from));
    let shared_write = call.shared.clone();
    let deleted = call
        .shared
        .store
        .write(move |tx| {
            let of_kind = tx.objects().list(&store_kind(kind), namespace.as_ref(), None);
            let selected = of_kind.filter(|(_, stored)| selector.matches(kind, &stored.value));
            let keys: Vec<Key> = selected.map(|(key, _)| key.clone()).collect();
            let delete = |key| delete_in(&shared_write, tx, kind, key, &options);
            keys.iter().map(delete).collect::<Result<Vec<_>>>()
        })
        .await?;
    let items: Vec<&Value> = deleted.iter().map(|(stored, _)| &stored.value).collect();
    let list = json!({
        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": call.shared.store.read().revision().to_string()},
        "items": items,
    });
    Ok(answer::value(StatusCode::OK, &list))
}

/// Options of a deletion.
struct Deletion {
    grace_seconds: Option<i64>,
    propagation: Option<String>,
    uid: Option<String>,
    version: Option<String>,
    dry_run: bool,
}

impl Deletion {
    fn read(call: &Call<'_>) -> Result<Self> {
        let body = match call.bytes.is_empty() {
            true => Value::Null,
            false => body::decode(call.media_type, &call.bytes)?,
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let in_query =
            |key: &str| Some(call.query.text(key).to_owned()).filter(|text| !text.is_empty());
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => call
                .query
                .number("gracePeriodSeconds")?
                .and_then(|seconds| i64::try_from(seconds).ok()),
        };
        let propagation = text(&body["propagationPolicy"]).or(in_query("propagationPolicy"));
        if let Some(policy) = &propagation
            && !["Background", "Foreground", "Orphan"].contains(&policy.as_str())
        {
            return Err(Status::bad_request(format!(
                "propagationPolicy: Unsupported value: \"{policy}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
        let in_body = body["dryRun"].as_array().is_some_and(|list| !list.is_empty());
        Ok(Self {
            grace_seconds: grace,
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: call.query.dry_run()? || in_body,
        })
    }
}

/// Deletes an object, or marks it; answers its last state and whether it is gone.
fn delete_in(
    shared: &Shared,
    tx: &mut Transaction<'_>,
    kind: &'static Kind,
    key: &Key,
    options: &Deletion,
) -> Result<(Arc<Stored>, bool)> {
    let old = tx.objects().get(key).cloned().ok_or_else(|| Status::not_found(kind, &key.name))?;
    let metadata = &old.value["metadata"];
    let version = old.revision.to_string();
    for (given, held, what) in [
        (&options.uid, metadata["uid"].as_str().unwrap_or_default(), "UID"),
        (&options.version, version.as_str(), "ResourceVersion"),
    ] {
        if given.as_deref().is_some_and(|given| given != held) {
            let given = given.as_deref().unwrap_or_default();
            let why = format!(
                "the {what} in the precondition ({given}) does not match the {what} in record ({held}). The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(kind, &key.name, &why));
        }
    }
    let mut object = old.value.clone();
    match options.propagation.as_deref() {
        Some("Foreground") => metadata::add_finalizer(&mut object, "foregroundDeletion"),
        Some("Orphan") => metadata::add_finalizer(&mut object, "orphan"),
        _ => {}
    }
    let grace = kind.strategy.grace_period(&object, options.grace_seconds);
    let has_finalizers = metadata::has_finalizers(&object);
    if grace.is_none() && !has_finalizers {
        if options.dry_run {
            return Ok((old, true));
        }
        shared.allocating(false, |write| {
            kind.strategy.release(&object, write);
            Ok(())
        })?;
        let gone = tx.remove(key).ok_or_else(|| Status::not_found(kind, &key.name))?;
        return Ok((gone, true));
    }
    metadata::mark_deleted(&mut object, grace.unwrap_or(0));
    if kind.plural == "namespaces" {
        object["status"]["phase"] = "Terminating".into();
    }
    if options.dry_run || metadata::is_same(&object, &old.value) {
        return Ok((old, false));
    }
    Ok((tx.put(key.clone(), object), false))
}
