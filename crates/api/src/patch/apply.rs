//! Server-side apply: a manager says what it wants, and owns those fields from then on.
//!
//! Ownership is kept in `metadata.managedFields`, in the `FieldsV1` format: nested objects in which
//! `f:NAME` is a field, `k:{...}` an item of a list by its keys, `v:VALUE` an item of a set.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::schema::{ListKind, is_atomic_object, list_kind};

/// A field of an object: the steps that lead to it, in the notation of `FieldsV1`.
type Field = Vec<String>;

/// The outcome of an apply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Applied {
    /// The object with what the manager wants, `managedFields` included.
    pub object: Value,
    /// Fields that other managers own and that would change.
    pub conflicts: Vec<Conflict>,
}

/// A field that somebody else owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Who.
    pub manager: String,
    /// Which, for people: `.spec.replicas`.
    pub field: String,
}

/// Applies `wanted` for `manager` to `held`, or to nothing. With `force`, conflicting fields change
/// hands. `now` is an RFC 3339 time.
pub(crate) fn apply(
    held: Option<&Value>,
    wanted: &Value,
    manager: &str,
    force: bool,
    now: &str,
) -> Applied {
    let empty = Value::Object(Map::new());
    let before = held.unwrap_or(&empty);
    let mut fields = BTreeSet::new();
    collect(wanted, &mut Vec::new(), &mut Vec::new(), &mut fields);
    // What names the object belongs to nobody.
    for name in ["f:apiVersion", "f:kind"] {
        fields.retain(|field: &Field| field[0] != name);
    }
    fields.retain(|field| {
        field.first().map(String::as_str) != Some("f:metadata")
            || !matches!(
                field.get(1).map(String::as_str),
                Some(
                    "f:name"
                        | "f:namespace"
                        | "f:uid"
                        | "f:resourceVersion"
                        | "f:managedFields"
                        | "f:creationTimestamp"
                )
            )
    });

    let entries = before["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let (own, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].is_null()
    });
    let mut conflicts = Vec::new();
    for entry in &others {
        let owned = owned_fields(&entry["fieldsV1"]);
        for field in fields.intersection(&owned) {
            if lookup(before, field) != lookup(wanted, field) {
                let manager = entry["manager"].as_str().unwrap_or_default().to_owned();
                conflicts.push(Conflict { manager, field: readable(field) });
            }
        }
    }
    if !conflicts.is_empty() && !force {
        return Applied { object: before.clone(), conflicts };
    }

    let mut object = before.clone();
    overlay(&mut object, wanted, &mut Vec::new());
    // What this manager wanted before, wants no more, and nobody else owns, goes.
    let owned_by_others: BTreeSet<Field> =
        others.iter().flat_map(|entry| owned_fields(&entry["fieldsV1"])).collect();
    for entry in &own {
        for field in owned_fields(&entry["fieldsV1"]) {
            if !fields.contains(&field) && !owned_by_others.contains(&field) {
                remove(&mut object, &field);
            }
        }
    }
    let mut managed: Vec<Value> = others
        .into_iter()
        .filter_map(|mut entry| {
            if force {
                let mut owned = owned_fields(&entry["fieldsV1"]);
                owned.retain(|field| {
                    !fields.contains(field) || lookup(before, field) == lookup(wanted, field)
                });
                if owned.is_empty() {
                    return None;
                }
                entry["fieldsV1"] = to_fields_v1(&owned);
            }
            Some(entry)
        })
        .collect();
    managed.push(json!({
        "manager": manager, "operation": "Apply", "apiVersion": wanted["apiVersion"], "time": now,
        "fieldsType": "FieldsV1", "fieldsV1": to_fields_v1(&fields),
    }));
    object["metadata"]["managedFields"] = managed.into();
    Applied { object, conflicts }
}

/// Puts what is wanted over what is there. Items of lists are told apart by all of their keys, as fields
/// are, and not by the first alone as in a strategic merge.
fn overlay<'w>(object: &mut Value, wanted: &'w Value, path: &mut Vec<&'w str>) {
    match wanted {
        Value::Object(fields) if !is_atomic_object(path) => {
            let mut held = match object.take() {
                Value::Object(held) => held,
                _ => Map::new(),
            };
            for (key, value) in fields {
                if value.is_null() {
                    held.remove(key);
                    continue;
                }
                path.push(key);
                overlay(held.entry(key).or_insert(Value::Null), value, path);
                path.pop();
            }
            *object = Value::Object(held);
        }
        Value::Array(items) => {
            let mut held = match (list_kind(path), object.take()) {
                (ListKind::Map(_) | ListKind::Set, Value::Array(held)) => held,
                _ => Vec::new(),
            };
            for item in items {
                let is_it = |held: &Value| match list_kind(path) {
                    ListKind::Map(keys) => matches_step(held, &item_step(item, keys)),
                    ListKind::Set => held == item,
                    ListKind::Atomic => false,
                };
                match held.iter_mut().find(|held| is_it(held)) {
                    Some(held) => overlay(held, item, path),
                    None => held.push(item.clone()),
                }
            }
            *object = Value::Array(held);
        }
        plain => object.clone_from(plain),
    }
}

/// Collects the leaves of an object as fields.
fn collect(value: &Value, names: &mut Vec<String>, steps: &mut Field, out: &mut BTreeSet<Field>) {
    let path: Vec<&str> = names.iter().map(String::as_str).collect();
    match value {
        Value::Object(map) if !map.is_empty() && !is_atomic_object(&path) => {
            for (key, value) in map {
                names.push(key.clone());
                steps.push(format!("f:{key}"));
                collect(value, names, steps, out);
                steps.pop();
                names.pop();
            }
        }
        Value::Array(items) => match list_kind(&path) {
            ListKind::Atomic => {
                out.insert(steps.clone());
            }
            ListKind::Set => {
                for item in items {
                    steps.push(format!("v:{item}"));
                    out.insert(steps.clone());
                    steps.pop();
                }
            }
            ListKind::Map(keys) => {
                for item in items {
                    steps.push(item_step(item, keys));
                    out.insert(steps.clone());
                    collect(item, names, steps, out);
                    steps.pop();
                }
            }
        },
        _ => {
            out.insert(steps.clone());
        }
    }
}

fn item_step(item: &Value, keys: &[&str]) -> String {
    let key: Map<String, Value> = keys
        .iter()
        .filter_map(|key| {
            let value = item.get(*key).cloned();
            // The API's default, which an applied port may leave out.
            let value = value.or_else(|| (*key == "protocol").then(|| "TCP".into()));
            Some(((*key).to_owned(), value?))
        })
        .collect();
    format!("k:{}", Value::Object(key))
}

fn matches_step(item: &Value, step: &str) -> bool {
    let Some(keys) = step.strip_prefix("k:").and_then(|k| serde_json::from_str::<Value>(k).ok())
    else {
        return step.strip_prefix("v:") == Some(&item.to_string());
    };
    let Value::Object(keys) = keys else { return false };
    keys.iter().all(|(key, value)| match item.get(key) {
        Some(held) => held == value,
        None => key == "protocol" && value == "TCP",
    })
}

fn lookup<'v>(object: &'v Value, field: &[String]) -> Option<&'v Value> {
    field.iter().try_fold(object, |value, step| match step.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => value.as_array()?.iter().find(|item| matches_step(item, step)),
    })
}

fn remove(object: &mut Value, field: &[String]) {
    let Some((last, parents)) = field.split_last() else { return };
    let mut value = object;
    for step in parents {
        let next = match step.strip_prefix("f:") {
            Some(name) => value.get_mut(name),
            None => value
                .as_array_mut()
                .and_then(|items| items.iter_mut().find(|item| matches_step(item, step))),
        };
        match next {
            Some(next) => value = next,
            None => return,
        }
    }
    match (last.strip_prefix("f:"), value) {
        (Some(name), Value::Object(map)) => {
            map.remove(name);
        }
        (None, Value::Array(items)) => items.retain(|item| !matches_step(item, last)),
        _ => {}
    }
}

fn owned_fields(fields: &Value) -> BTreeSet<Field> {
    fn walk(value: &Value, steps: &mut Field, out: &mut BTreeSet<Field>) {
        let Value::Object(map) = value else { return };
        if map.is_empty() && !steps.is_empty() {
            out.insert(steps.clone());
        }
        for (key, value) in map {
            if key == "." {
                out.insert(steps.clone());
                continue;
            }
            steps.push(key.clone());
            walk(value, steps, out);
            steps.pop();
        }
    }
    let mut out = BTreeSet::new();
    walk(fields, &mut Vec::new(), &mut out);
    out
}

fn to_fields_v1(fields: &BTreeSet<Field>) -> Value {
    let mut root = Value::Object(Map::new());
    for field in fields {
        let mut value = &mut root;
        for step in field {
            value = &mut value[step.as_str()];
            if value.is_null() {
                *value = Value::Object(Map::new());
            }
        }
        // An item of a list that has fields below it is itself owned, too.
        if field.last().is_some_and(|step| step.starts_with("k:")) {
            value["."] = json!({});
        }
    }
    root
}

/// As messages name a field: `.spec.ports[port=80,protocol="TCP"].targetPort`.
fn readable(field: &[String]) -> String {
    let mut text = String::new();
    for step in field {
        match step.split_once(':') {
            Some(("f", name)) => {
                text.push('.');
                text.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
            _ => text.push_str(&format!("[{step}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn config(replicas: u32, labels: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
               "metadata": {"name": "web", "labels": labels}, "spec": {"replicas": replicas}})
    }

    #[test]
    fn what_is_no_longer_applied_goes() {
        let first = apply(None, &config(1, json!({"a": "1", "b": "2"})), "me", false, NOW);
        let second = apply(Some(&first.object), &config(1, json!({"a": "1"})), "me", false, NOW);
        assert_eq!(second.object["metadata"]["labels"], json!({"a": "1"}));
        assert_eq!(second.object["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn fields_of_others_conflict_unless_forced() {
        let first = apply(None, &config(1, json!({})), "me", false, NOW);
        let refused = apply(Some(&first.object), &config(2, json!({})), "you", false, NOW);
        let expected = Conflict { manager: "me".into(), field: ".spec.replicas".into() };
        assert_eq!(refused.conflicts, [expected]);
        assert_eq!(refused.object["spec"]["replicas"], 1);
        let forced = apply(Some(&first.object), &config(2, json!({})), "you", true, NOW);
        assert_eq!(forced.object["spec"]["replicas"], 2);
        let shared = apply(Some(&first.object), &config(1, json!({})), "you", false, NOW);
        assert!(shared.conflicts.is_empty(), "equal values are shared");
    }

    #[test]
    fn items_of_lists_are_owned_by_their_keys() {
        let service = |ports: Value| {
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web"}, "spec": {"ports": ports}})
        };
        let first = apply(None, &service(json!([{"port": 80}, {"port": 81}])), "me", false, NOW);
        let second = apply(Some(&first.object), &service(json!([{"port": 81}])), "me", false, NOW);
        assert_eq!(second.object["spec"]["ports"], json!([{"port": 81}]));
    }

    #[test]
    fn a_port_of_each_protocol_is_another() {
        let service = |ports: Value| {
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web"}, "spec": {"ports": ports}})
        };
        let both = json!([{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]);
        let first = apply(None, &service(both.clone()), "me", false, NOW);
        assert_eq!(first.object["spec"]["ports"], both);
        // As it is held, with the default that was left out.
        let mut held = first.object;
        held["spec"]["ports"][0]["protocol"] = "TCP".into();
        let again = apply(Some(&held), &service(both), "me", false, NOW);
        assert_eq!(again.object["spec"]["ports"], held["spec"]["ports"]);
    }
}
