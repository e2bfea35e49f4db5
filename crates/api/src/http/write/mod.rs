//! POST, PUT, PATCH and DELETE: changing objects.
//!
//! Every change runs as one write of the store: what it reads, decides and allocates is consistent,
//! and durable before the client hears of it.

mod change;
mod check;
mod delete;
mod subresource;

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::query::Query;
use super::read::{self, key, store_kind};
use super::route::Target;
use super::{Call, Shared, body};
use crate::metadata;
use crate::patch::{self, Format};
use crate::resource::Kind;
use crate::status::{Result, Status};
use crate::store::{Key, Transaction};
use change::{create_in, replace_in};
use check::{check_fields, check_fields_as, check_name, check_place};
pub(super) use delete::{delete, delete_collection};
pub(super) use subresource::{bind, get_scale, set_scale};

/// What of an object is being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All but the status.
    Main,
    /// The status alone.
    Status,
    /// The finalizers of a namespace's spec.
    Finalize,
}

impl Part {
    fn of(target: &Target<'_>) -> Result<Self> {
        match target.subresource {
            None => Ok(Part::Main),
            Some("status") if target.kind.status_subresource => Ok(Part::Status),
            Some("finalize") if target.kind.plural == "namespaces" => Ok(Part::Finalize),
            Some(_) => Err(Status::no_such_path()),
        }
    }
}

/// Where a write goes, owned, because the store runs it on its own thread.
#[derive(Clone)]
struct Place {
    kind: &'static Kind,
    namespace: Arc<str>,
    part: Part,
    dry_run: bool,
}

impl Place {
    fn of(target: &Target<'_>, query: &Query) -> Result<Self> {
        Ok(Self {
            kind: target.kind,
            namespace: target.namespace.unwrap_or_default().into(),
            part: Part::of(target)?,
            dry_run: query.dry_run()?,
        })
    }

    fn key(&self, name: &str) -> Key {
        Key { kind: store_kind(self.kind), namespace: self.namespace.clone(), name: name.into() }
    }
}

/// POST to a collection.
pub(super) async fn create(call: &Call<'_>) -> Result<Answer> {
    let mut object = body::decode(call.media_type, &call.bytes)?;
    body::check_kind(call.target.kind, &mut object)?;
    let unknown = check_fields(call.target.kind, &object, &call.query)?;
    check_place(&call.target, &mut object)?;
    let place = Place::of(&call.target, &call.query)?;
    if let Some(name) = call.target.name {
        check_name(call.target.kind, &object, name)?;
    }
    let (place, shared_write) = (place, call.shared.clone());
    let stored =
        call.shared.store.write(move |tx| create_in(&shared_write, tx, &place, object)).await?;
    let warnings = [unknown, call.target.kind.strategy.warnings(&stored.value)].concat();
    let answer =
        read::object(call.target.kind, &stored, &call.query, call.form, StatusCode::CREATED);
    Ok(answer::warn(answer, &warnings))
}

/// Creates an object outside of namespaces as the server itself, unless it is there.
pub(crate) async fn ensure(shared: &Arc<Shared>, kind: &'static Kind, object: Value) -> Result<()> {
    let place = Place { kind, namespace: "".into(), part: Part::Main, dry_run: false };
    let shared_write = shared.clone();
    let create = move |tx: &mut Transaction<'_>| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match tx.objects().get(&place.key(name)) {
            Some(_) => Ok(()),
            None => create_in(&shared_write, tx, &place, object).map(drop),
        }
    };
    shared.store.write(create).await
}

/// PUT to an object.
pub(super) async fn update(call: &Call<'_>, name: &str) -> Result<Answer> {
    let mut object = body::decode(call.media_type, &call.bytes)?;
    body::check_kind(call.target.kind, &mut object)?;
    let unknown = check_fields(call.target.kind, &object, &call.query)?;
    check_place(&call.target, &mut object)?;
    check_name(call.target.kind, &object, name)?;
    let place = Place::of(&call.target, &call.query)?;
    let key = key(&call.target, name);
    let shared_write = call.shared.clone();
    let (stored, created) = call
        .shared
        .store
        .write(move |tx| match tx.objects().get(&key).cloned() {
            Some(old) => Ok((replace_in(&shared_write, tx, &place, &old, object)?, false)),
            None if place.kind.create_on_update && place.part == Part::Main => {
                Ok((create_in(&shared_write, tx, &place, object)?, true))
            }
            None => Err(Status::not_found(place.kind, &key.name)),
        })
        .await?;
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    let warnings = [unknown, call.target.kind.strategy.warnings(&stored.value)].concat();
    Ok(answer::warn(
        read::object(call.target.kind, &stored, &call.query, call.form, code),
        &warnings,
    ))
}

/// PATCH to an object.
pub(super) async fn patch(call: &Call<'_>, name: &str) -> Result<Answer> {
    let format = Format::of(call.media_type)?;
    let (patch, mut unknown) = match format {
        Format::Apply => {
            let mut wanted = body::decode("application/yaml", &call.bytes)?;
            body::check_kind(call.target.kind, &mut wanted)?;
            check_place(&call.target, &mut wanted)?;
            if wanted["metadata"]["name"].is_null() {
                wanted["metadata"]["name"] = name.into();
            }
            check_name(call.target.kind, &wanted, name)?;
            let unknown = check_fields(call.target.kind, &wanted, &call.query)?;
            (wanted, unknown)
        }
        _ => {
            let patch = serde_json::from_slice(&call.bytes).map_err(|error| {
                Status::bad_request(format!("the patch is not valid JSON: {error}"))
            })?;
            (patch, Vec::new())
        }
    };
    let place = Place::of(&call.target, &call.query)?;
    let manager = call.query.text("fieldManager").to_owned();
    if format == Format::Apply && manager.is_empty() {
        return Err(Status::bad_request("fieldManager is required for an apply patch"));
    }
    let force = call.query.flag("force");
    let validation = call.query.field_validation()?;
    let key = key(&call.target, name);
    let shared_write = call.shared.clone();
    let (stored, created, warned) = call
        .shared
        .store
        .write(move |tx| {
            let old = tx.objects().get(&key).cloned();
            let (patched, warned) = match (&old, format) {
                (old, Format::Apply) => {
                    let held = old.as_ref().map(|old| &old.value);
                    let now = metadata::now();
                    let applied = patch::apply(held, &patch, &manager, force, &now);
                    if !applied.conflicts.is_empty() && !force {
                        return Err(apply_conflict(place.kind, &key.name, &applied.conflicts));
                    }
                    (applied.object, Vec::new())
                }
                (None, _) => return Err(Status::not_found(place.kind, &key.name)),
                (Some(old), format) => {
                    let mut patched = patch::patch(format, &old.value, &patch)?;
                    body::check_kind(place.kind, &mut patched)?;
                    check_name(place.kind, &patched, &key.name)?;
                    let warned = check_fields_as(place.kind, &patched, validation)?;
                    (patched, warned)
                }
            };
            match old {
                Some(old) => {
                    Ok((replace_in(&shared_write, tx, &place, &old, patched)?, false, warned))
                }
                None => Ok((create_in(&shared_write, tx, &place, patched)?, true, warned)),
            }
        })
        .await?;
    unknown.extend(warned);
    unknown.extend(call.target.kind.strategy.warnings(&stored.value));
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::warn(
        read::object(call.target.kind, &stored, &call.query, call.form, code),
        &unknown,
    ))
}

fn apply_conflict(kind: &Kind, name: &str, conflicts: &[patch::Conflict]) -> Status {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| {
            json!({"reason": "FieldManagerConflict", "field": c.field,
                   "message": format!("conflict with \"{}\"", c.manager)})
        })
        .collect();
    let list: Vec<String> =
        conflicts.iter().map(|c| format!("conflict with \"{}\": {}", c.manager, c.field)).collect();
    let mut status = Status::conflict(kind, name, "");
    status.message = format!(
        "Apply failed with {} conflict{}: {}",
        conflicts.len(),
        if conflicts.len() == 1 { "" } else { "s" },
        list.join(", ")
    );
    status.details = Value::Object(Map::from_iter([("causes".to_owned(), causes.into())]));
    status
}
