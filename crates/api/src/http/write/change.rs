//! Changes within a transaction of the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Part, Place};
use crate::http::Shared;
use crate::http::read::store_kind;
use crate::metadata;
use crate::resource::{Kind, Write, kinds};
use crate::status::{Result, Status};
use crate::store::{Key, Stored, Transaction};

/// Creates an object.
pub(super) fn create_in(
    shared: &Shared,
    tx: &mut Transaction<'_>,
    place: &Place,
    mut object: Value,
) -> Result<Arc<Stored>> {
    let kind = place.kind;
    check_namespace(tx, place, &object)?;
    metadata::prepare_create(kind, &mut object);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = place.key(&name);
    if !name.is_empty() && tx.objects().get(&key).is_some() {
        return Err(Status::already_exists(kind, &name));
    }
    kind.strategy.default(&mut object);
    let object = shared.allocating(place.dry_run, |write| {
        kind.strategy.prepare_create(&mut object, write)?;
        validate(kind, &name, &object, None)?;
        Ok(object)
    })?;
    if place.dry_run {
        return Ok(Stored::unsaved(object));
    }
    Ok(tx.put(key, object))
}

/// Replaces a part of an object.
pub(super) fn replace_in(
    shared: &Shared,
    tx: &mut Transaction<'_>,
    place: &Place,
    old: &Arc<Stored>,
    mut object: Value,
) -> Result<Arc<Stored>> {
    let kind = place.kind;
    let old_value = &old.value;
    let name = old_value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let given = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !given.is_empty() && given != old.revision.to_string() {
        return Err(Status::modified(kind, &name));
    }
    let uid = &object["metadata"]["uid"];
    if uid.is_string() && *uid != old_value["metadata"]["uid"] {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            uid.as_str().unwrap_or_default(),
            old_value["metadata"]["uid"].as_str().unwrap_or_default()
        );
        return Err(Status::conflict(kind, &name, &why));
    }
    match place.part {
        Part::Main => {
            if kind.status_subresource {
                metadata::copy_field(old_value, &mut object, "status");
            }
        }
        Part::Status => {
            let mut kept = old_value.clone();
            kept["status"] = object["status"].take();
            if kept["status"].is_null() {
                kept.as_object_mut().map(|fields| fields.remove("status"));
            }
            object = kept;
        }
        Part::Finalize => {
            let mut kept = old_value.clone();
            kept["spec"]["finalizers"] = object["spec"]["finalizers"].take();
            object = kept;
        }
    }
    metadata::prepare_update(&mut object, old_value);
    kind.strategy.default(&mut object);
    let object = shared.allocating(place.dry_run, |write| {
        if place.part == Part::Main {
            kind.strategy.prepare_update(&mut object, old_value, write)?;
        }
        validate(kind, &name, &object, Some(old_value))?;
        if kind.generation {
            metadata::update_generation(&mut object, old_value);
        }
        // An object being deleted goes with its last finalizer.
        if !place.dry_run && metadata::is_finished(&object) {
            kind.strategy.release(&object, write);
        }
        Ok(object)
    })?;
    if place.dry_run {
        return Ok(Stored::unsaved(object));
    }
    let key = place.key(&name);
    if metadata::is_finished(&object) {
        tx.put(key.clone(), object);
        return tx.remove(&key).ok_or_else(|| Status::not_found(kind, &name));
    }
    if metadata::is_same(&object, old_value) {
        return Ok(old.clone());
    }
    Ok(tx.put(key, object))
}

fn validate(kind: &Kind, name: &str, object: &Value, old: Option<&Value>) -> Result<()> {
    let mut errors = metadata::validate(kind, object, old);
    errors.extend(kind.strategy.validate(object, old));
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(kind, name, &errors)),
    }
}

fn check_namespace(tx: &Transaction<'_>, place: &Place, object: &Value) -> Result<()> {
    if !place.kind.namespaced {
        return Ok(());
    }
    let namespaces = kinds().iter().find(|kind| kind.plural == "namespaces");
    let namespaces = namespaces.ok_or_else(Status::no_such_path)?;
    let key =
        Key { kind: store_kind(namespaces), namespace: "".into(), name: place.namespace.clone() };
    let namespace =
        tx.objects().get(&key).ok_or_else(|| Status::not_found(namespaces, &place.namespace))?;
    if namespace.value["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        place.namespace
    );
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut status = Status::forbidden(place.kind, name, &why);
    status.details["causes"] = json!([{
        "reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {} is being terminated", place.namespace),
    }]);
    Err(status)
}

impl Shared {
    /// Runs a step that may allocate: what it took is kept if it succeeds and is no dry run.
    pub(super) fn allocating<T>(
        &self,
        dry_run: bool,
        step: impl FnOnce(&mut Write<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut allocations = self.allocations.lock().unwrap_or_else(|p| p.into_inner());
        let outcome = step(&mut Write { allocations: &mut allocations });
        match outcome.is_ok() && !dry_run {
            true => allocations.commit(),
            false => allocations.roll_back(),
        }
        outcome
    }
}
