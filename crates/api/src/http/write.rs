//! POST, PUT, PATCH and DELETE: changing objects.
//!
//! Every change runs as one write of the store: what it reads, decides and allocates is consistent,
//! and durable before the client hears of it.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::Shared;
use super::answer::{self, Answer, Form};
use super::body;
use super::query::{FieldValidation, Query};
use super::read::{self, key, store_kind};
use super::route::Target;
use crate::metadata;
use crate::patch::{self, Format};
use crate::resource::{Kind, Write, kinds};
use crate::status::{Result, Status};
use crate::store::{Key, Stored, Transaction};

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
pub(super) async fn create(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    query: &Query,
    form: Form,
    media_type: &str,
    bytes: &Bytes,
) -> Result<Answer> {
    let mut object = body::decode(media_type, bytes)?;
    body::check_kind(target.kind, &mut object)?;
    let unknown = check_fields(target.kind, &object, query)?;
    check_place(target, &mut object)?;
    let place = Place::of(target, query)?;
    if let Some(name) = target.name {
        check_name(target.kind, &object, name)?;
    }
    let (place, shared_write) = (place, shared.clone());
    let stored = shared.store.write(move |tx| create_in(&shared_write, tx, &place, object)).await?;
    let warnings = [unknown, target.kind.strategy.warnings(&stored.value)].concat();
    let answer = read::object(target.kind, &stored, query, form, StatusCode::CREATED);
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
pub(super) async fn update(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    name: &str,
    query: &Query,
    form: Form,
    media_type: &str,
    bytes: &Bytes,
) -> Result<Answer> {
    let mut object = body::decode(media_type, bytes)?;
    body::check_kind(target.kind, &mut object)?;
    let unknown = check_fields(target.kind, &object, query)?;
    check_place(target, &mut object)?;
    check_name(target.kind, &object, name)?;
    let place = Place::of(target, query)?;
    let key = key(target, name);
    let shared_write = shared.clone();
    let (stored, created) = shared
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
    let warnings = [unknown, target.kind.strategy.warnings(&stored.value)].concat();
    Ok(answer::warn(read::object(target.kind, &stored, query, form, code), &warnings))
}

/// PATCH to an object.
pub(super) async fn patch(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    name: &str,
    query: &Query,
    form: Form,
    media_type: &str,
    bytes: &Bytes,
) -> Result<Answer> {
    let format = Format::of(media_type)?;
    let (patch, mut unknown) = match format {
        Format::Apply => {
            let mut wanted = body::decode("application/yaml", bytes)?;
            body::check_kind(target.kind, &mut wanted)?;
            check_place(target, &mut wanted)?;
            if wanted["metadata"]["name"].is_null() {
                wanted["metadata"]["name"] = name.into();
            }
            check_name(target.kind, &wanted, name)?;
            let unknown = check_fields(target.kind, &wanted, query)?;
            (wanted, unknown)
        }
        _ => {
            let patch = serde_json::from_slice(bytes).map_err(|error| {
                Status::bad_request(format!("the patch is not valid JSON: {error}"))
            })?;
            (patch, Vec::new())
        }
    };
    let place = Place::of(target, query)?;
    let manager = query.text("fieldManager").to_owned();
    if format == Format::Apply && manager.is_empty() {
        return Err(Status::bad_request("fieldManager is required for an apply patch"));
    }
    let force = query.flag("force");
    let validation = query.field_validation()?;
    let key = key(target, name);
    let shared_write = shared.clone();
    let (stored, created, warned) = shared
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
    unknown.extend(target.kind.strategy.warnings(&stored.value));
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::warn(read::object(target.kind, &stored, query, form, code), &unknown))
}

/// DELETE of an object.
pub(super) async fn delete(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    name: &str,
    query: &Query,
    media_type: &str,
    bytes: &Bytes,
) -> Result<Answer> {
    let options = Deletion::read(query, media_type, bytes)?;
    let key = key(target, name);
    let (kind, shared_write) = (target.kind, shared.clone());
    let (left, gone) =
        shared.store.write(move |tx| delete_in(&shared_write, tx, kind, &key, &options)).await?;
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
pub(super) async fn delete_collection(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    query: &Query,
    media_type: &str,
    bytes: &Bytes,
) -> Result<Answer> {
    let selector = query.selector()?;
    selector.check(target.kind)?;
    let options = Deletion::read(query, media_type, bytes)?;
    let (kind, namespace) = (target.kind, target.namespace.map(Arc::<str>::from));
    let shared_write = shared.clone();
    let deleted = shared
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
        "metadata": {"resourceVersion": shared.store.read().revision().to_string()},
        "items": items,
    });
    Ok(answer::value(StatusCode::OK, &list))
}

/// POST to `pods/NAME/binding`: gives a pod its node, once.
pub(super) async fn bind(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    name: &str,
    media_type: &str,
    bytes: &Bytes,
) -> Result<Answer> {
    let binding = body::decode(media_type, bytes)?;
    let node = binding["target"]["name"].as_str().filter(|node| !node.is_empty());
    let node =
        node.ok_or_else(|| Status::bad_request("target.name of a binding: the node is needed"))?;
    let (key, node, kind) = (key(target, name), node.to_owned(), target.kind);
    shared
        .store
        .write(move |tx| {
            let old = tx.objects().get(&key).ok_or_else(|| Status::not_found(kind, &key.name))?;
            let mut pod = old.value.clone();
            if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let why = format!("pod {} is already assigned to node \"{bound}\"", key.name);
                return Err(Status::conflict(kind, &key.name, &why));
            }
            pod["spec"]["nodeName"] = node.into();
            let scheduled = json!({"type": "PodScheduled", "status": "True",
                                   "lastProbeTime": null, "lastTransitionTime": metadata::now()});
            metadata::set_condition(&mut pod, scheduled);
            tx.put(key, pod);
            Ok(())
        })
        .await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                        "code": 201});
    Ok(answer::value(StatusCode::CREATED, &status))
}

/// `/scale` of workloads: the number of replicas alone, as `autoscaling/v1` Scale.
pub(super) async fn scale(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    name: &str,
    query: &Query,
    change: Option<(&str, &Bytes)>,
) -> Result<Answer> {
    let key = key(target, name);
    let kind = target.kind;
    let read = |shared: &Shared, key: &Key| {
        let found = shared.store.read().get(key).cloned();
        found.ok_or_else(|| Status::not_found(kind, &key.name))
    };
    let old = read(shared, &key)?;
    let Some((media_type, bytes)) = change else {
        return Ok(answer::value(StatusCode::OK, &scale_of(&old.value)));
    };
    let wanted = match Format::of(media_type) {
        Ok(format) => {
            let patch = serde_json::from_slice(bytes).map_err(|error| {
                Status::bad_request(format!("the patch is not valid JSON: {error}"))
            })?;
            patch::patch(format, &scale_of(&old.value), &patch)?
        }
        Err(_) => body::decode(media_type, bytes)?,
    };
    let replicas = wanted["spec"]["replicas"].as_u64().unwrap_or(0);
    let version = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let place = Place {
        kind,
        namespace: key.namespace.clone(),
        part: Part::Main,
        dry_run: query.dry_run()?,
    };
    let shared_write = shared.clone();
    let stored = shared
        .store
        .write(move |tx| {
            let old = tx.objects().get(&key).cloned();
            let old = old.ok_or_else(|| Status::not_found(kind, &key.name))?;
            let mut object = old.value.clone();
            object["spec"]["replicas"] = replicas.into();
            if !version.is_empty() {
                object["metadata"]["resourceVersion"] = version.into();
            }
            replace_in(&shared_write, tx, &place, &old, object)
        })
        .await?;
    Ok(answer::value(StatusCode::OK, &scale_of(&stored.value)))
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_u64().unwrap_or(0),
                   "selector": selector.join(",")},
    })
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
    fn read(query: &Query, media_type: &str, bytes: &Bytes) -> Result<Self> {
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => body::decode(media_type, bytes)?,
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let in_query = |key: &str| Some(query.text(key).to_owned()).filter(|text| !text.is_empty());
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => {
                query.number("gracePeriodSeconds")?.and_then(|seconds| i64::try_from(seconds).ok())
            }
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
            dry_run: query.dry_run()? || in_body,
        })
    }
}

/// Creates an object.
fn create_in(
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
fn replace_in(
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

/// Checks types and unknown fields; answers warnings.
fn check_fields(kind: &Kind, object: &Value, query: &Query) -> Result<Vec<String>> {
    check_fields_as(kind, object, query.field_validation()?)
}

fn check_fields_as(
    kind: &Kind,
    object: &Value,
    validation: FieldValidation,
) -> Result<Vec<String>> {
    let unknown = kind.strategy.decode(object).map_err(|detail| {
        let message = format!(
            "{} in version \"{}\" cannot be handled as a {}: {detail}",
            kind.kind, kind.version, kind.kind
        );
        // The detail begins with the field's path.
        let field = detail.split_once(": ").map_or("", |(path, _)| path);
        undecodable(message, &[field])
    })?;
    let texts: Vec<String> =
        unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match validation {
        _ if texts.is_empty() => Ok(texts),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(texts),
        FieldValidation::Strict => {
            let paths: Vec<&str> = unknown.iter().map(String::as_str).collect();
            Err(undecodable(format!("strict decoding error: {}", texts.join(", ")), &paths))
        }
    }
}

/// A refusal that names the fields it is about, for programs to find them.
fn undecodable(message: String, fields: &[&str]) -> Status {
    let fields = fields.iter().filter(|field| !field.is_empty());
    let causes: Vec<Value> = fields
        .map(|field| json!({"reason": "FieldValueInvalid", "message": message, "field": field}))
        .collect();
    Status { details: json!({ "causes": causes }), ..Status::bad_request(message) }
}

/// An object's namespace is the path's; it may leave it out, not contradict it.
fn check_place(target: &Target<'_>, object: &mut Value) -> Result<()> {
    if !target.kind.namespaced {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    let Some(namespace) = target.namespace else {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    };
    match object["metadata"]["namespace"].as_str() {
        None | Some("") => object["metadata"]["namespace"] = namespace.into(),
        Some(given) if given == namespace => {}
        Some(given) => {
            return Err(Status::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: {given} against {namespace}"
            )));
        }
    }
    Ok(())
}

fn check_name(kind: &Kind, object: &Value, name: &str) -> Result<()> {
    match object["metadata"]["name"].as_str() {
        Some(given) if given == name => Ok(()),
        given => Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name}) of {}",
            given.unwrap_or_default(),
            kind.plural
        ))),
    }
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

impl Shared {
    /// Runs a step that may allocate: what it took is kept if it succeeds and is no dry run.
    fn allocating<T>(
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
