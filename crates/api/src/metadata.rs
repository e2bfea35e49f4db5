//! `metadata`, the same for all kinds: what the server fills in, and what it may contain.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::FieldError;
use crate::names;
use crate::resource::Kind;

/// The current time as the API writes it: RFC 3339, whole seconds, UTC.
pub(crate) fn now() -> String {
    time(Timestamp::now())
}

/// A time as the API writes it.
pub(crate) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Fills in what the server gives a new object, and clears what clients may not set.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value) {
    let metadata = &mut object["metadata"];
    for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"]
    {
        remove(metadata, field);
    }
    if metadata["name"].as_str().unwrap_or_default().is_empty()
        && let Some(base) = metadata["generateName"].as_str().filter(|base| !base.is_empty())
    {
        metadata["name"] = names::generate(base).into();
    }
    metadata["uid"] = names::uid().into();
    metadata["creationTimestamp"] = now().into();
    match kind.generation {
        true => metadata["generation"] = 1.into(),
        false => remove(metadata, "generation"),
    }
}

/// Keeps what an update can't change.
pub(crate) fn prepare_update(object: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        copy_field(&old["metadata"], &mut object["metadata"], field);
    }
    if object["metadata"]["managedFields"].is_null() {
        copy_field(&old["metadata"], &mut object["metadata"], "managedFields");
    }
}

/// Makes a field of `to` what it is in `from`, absent included.
pub(crate) fn copy_field(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => remove(to, field),
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Bumps the generation if anything but metadata and status has changed.
pub(crate) fn update_generation(object: &mut Value, old: &Value) {
    let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
    let desired = |object: &Value| {
        let mut desired = object.clone();
        remove(&mut desired, "metadata");
        remove(&mut desired, "status");
        desired
    };
    let changed = desired(object) != desired(old);
    object["metadata"]["generation"] = (generation + u64::from(changed)).into();
}

/// Whether two states of an object differ in nothing that counts.
pub(crate) fn is_same(object: &Value, old: &Value) -> bool {
    let essence = |object: &Value| {
        let mut essence = object.clone();
        remove(&mut essence["metadata"], "resourceVersion");
        if let Some(entries) = essence["metadata"]["managedFields"].as_array_mut() {
            for entry in entries {
                remove(entry, "time");
            }
        }
        remove_nulls(&mut essence);
        essence
    };
    essence(object) == essence(old)
}

/// A field that is null says the same as one that is absent.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Whether anybody still holds the object back from being removed.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    let any = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    any(&object["metadata"]["finalizers"])
        || (object["kind"] == "Namespace" && any(&object["spec"]["finalizers"]))
}

/// Whether the object is marked for deletion and nothing holds it any more.
pub(crate) fn is_finished(object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata["deletionTimestamp"].is_string()
        && !has_finalizers(object)
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// Adds a finalizer, once.
pub(crate) fn add_finalizer(object: &mut Value, finalizer: &str) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|held| held == finalizer) => {}
        Some(list) => list.push(finalizer.into()),
        None => *finalizers = json!([finalizer]),
    }
}

/// Marks an object for deletion after a grace period; one that is marked already keeps its time
/// unless the new one is sooner.
pub(crate) fn mark_deleted(object: &mut Value, grace_seconds: i64) {
    let metadata = &mut object["metadata"];
    let held = metadata["deletionGracePeriodSeconds"].as_i64();
    if metadata["deletionTimestamp"].is_string() && held.is_some_and(|held| held <= grace_seconds) {
        return;
    }
    let when = Timestamp::now()
        .checked_add(jiff::SignedDuration::from_secs(grace_seconds))
        .unwrap_or(Timestamp::MAX);
    metadata["deletionTimestamp"] = time(when).into();
    metadata["deletionGracePeriodSeconds"] = grace_seconds.into();
    if let Some(generation) = metadata["generation"].as_u64() {
        metadata["generation"] = (generation + 1).into();
    }
}

/// Puts a condition in the place of the one of its type.
pub(crate) fn set_condition(object: &mut Value, condition: Value) {
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let list = conditions.as_array_mut().expect("it was made one");
    match list.iter_mut().find(|held| held["type"] == condition["type"]) {
        Some(held) => *held = condition,
        None => list.push(condition),
    }
}

/// The rules of metadata that hold for all kinds.
pub(crate) fn validate(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    match metadata["name"].as_str() {
        None | Some("") => {
            errors.push(FieldError::required("metadata.name", "name or generateName is required"));
        }
        // Names that exist are not judged again.
        Some(name) if old.is_none() => {
            if let Err(detail) = (kind.strategy.name_rule())(name) {
                errors.push(FieldError::invalid("metadata.name", name, detail));
            }
        }
        Some(_) => {}
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if let Err(detail) = names::qualified_name(key) {
            errors.push(FieldError::invalid("metadata.labels", key.as_str(), detail));
        }
        if let Err(detail) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid("metadata.labels", value.clone(), detail));
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        if let Err(detail) = names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", key.as_str(), detail));
        }
    }
    const ANNOTATIONS_LIMIT: usize = 256 << 10;
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    errors
}
