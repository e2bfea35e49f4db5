//! Strategic merge patch: a merge patch that knows which lists are maps, with directives.

use serde_json::{Map, Value};

use super::schema::{ListKind, list_kind};
use crate::status::{Result, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `object`.
pub(super) fn merge(object: &mut Value, patch: &Value) -> Result<()> {
    merge_at(object, patch, &mut Vec::new())
}

fn merge_at<'p>(object: &mut Value, patch: &'p Value, path: &mut Vec<&'p str>) -> Result<()> {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return Ok(());
    };
    match fields.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            let kept = fields.iter().filter(|(key, _)| *key != PATCH);
            *object = Value::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect());
            return Ok(());
        }
        Some("delete") => {
            *object = Value::Null;
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(Status::bad_request(format!(
                "unknown {PATCH}: {other}; supported are \"delete\", \"merge\", \"replace\""
            )));
        }
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let target = object.as_object_mut().expect("it was made one");
    if let Some(Value::Array(keys)) = fields.get(RETAIN_KEYS) {
        target.retain(|key, _| keys.iter().any(|kept| kept == key));
    }
    for (key, value) in fields {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        path.push(key);
        let outcome =
            merge_field(target, key, value, fields.get(&format!("{SET_ORDER}{key}")), path);
        path.pop();
        outcome?;
    }
    Ok(())
}

fn merge_field<'p>(
    target: &mut Map<String, Value>,
    key: &'p str,
    value: &'p Value,
    order: Option<&Value>,
    path: &mut Vec<&'p str>,
) -> Result<()> {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Array(items) => {
            let held = target.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if !held.is_array() {
                *held = Value::Array(Vec::new());
            }
            let held = held.as_array_mut().expect("it was made one");
            match list_kind(path) {
                ListKind::Map(keys) => merge_map_list(held, items, keys[0], order, path)?,
                ListKind::Set => {
                    for item in items {
                        if !held.contains(item) {
                            held.push(item.clone());
                        }
                    }
                }
                ListKind::Atomic => held.clone_from(items),
            }
        }
        Value::Object(_) => {
            let held = target.entry(key).or_insert(Value::Null);
            merge_at(held, value, path)?;
            if held.is_null() {
                target.remove(key);
            }
        }
        plain => {
            target.insert(key.to_owned(), plain.clone());
        }
    }
    Ok(())
}

fn merge_map_list<'p>(
    held: &mut Vec<Value>,
    items: &'p [Value],
    key: &str,
    order: Option<&Value>,
    path: &mut Vec<&'p str>,
) -> Result<()> {
    if items.iter().any(|item| item.get(PATCH).and_then(Value::as_str) == Some("replace")) {
        let kept = items.iter().filter(|item| item.get(PATCH).is_none());
        *held = kept.cloned().collect();
        return Ok(());
    }
    for item in items {
        let Some(value) = item.get(key).filter(|value| !value.is_null()) else {
            return Err(Status::bad_request(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let position = held.iter().position(|other| other.get(key) == Some(value));
        match (item.get(PATCH).and_then(Value::as_str), position) {
            (Some("delete"), Some(position)) => {
                held.remove(position);
            }
            (Some("delete"), None) => {}
            (_, Some(position)) => merge_at(&mut held[position], item, path)?,
            (_, None) => {
                let mut new = Value::Null;
                merge_at(&mut new, item, path)?;
                held.push(new);
            }
        }
    }
    if let Some(Value::Array(order)) = order {
        // Items that are not in the order stay where they are among themselves, at the end.
        let place = |item: &Value| {
            let listed = order.iter().position(|o| o.get(key) == item.get(key));
            listed.unwrap_or(order.len())
        };
        held.sort_by_key(place);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(object: Value, patch: Value) -> Value {
        let mut object = object;
        merge(&mut object, &patch).unwrap();
        object
    }

    #[test]
    fn lists_of_ports_merge_by_port() {
        let object = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 81}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"$patch": "delete", "port": 81},
                                              {"port": 82}],
                           "$setElementOrder/ports": [{"port": 82}, {"port": 80}]}});
        let expected = json!({"spec": {"ports": [{"port": 82}, {"port": 80, "nodePort": 30080, "name": "web"}]}});
        assert_eq!(merged(object, patch), expected);
    }

    #[test]
    fn directives_and_nulls() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]},
                            "spec": {"strategy": {"type": "Recreate", "rollingUpdate": {}}}});
        let patch = json!({"metadata": {"labels": {"a": null}, "$deleteFromPrimitiveList/finalizers": ["x"]},
                           "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        let expected = json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["y"]},
                              "spec": {"strategy": {"type": "Recreate"}}});
        assert_eq!(merged(object, patch), expected);
        let replaced = merged(json!({"a": {"b": 1}}), json!({"a": {"$patch": "replace", "c": 2}}));
        assert_eq!(replaced, json!({"a": {"c": 2}}));
    }

    #[test]
    fn containers_merge_by_name_in_templates() {
        let object =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        let patch =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "y"}]}}}});
        assert_eq!(merged(object, patch.clone()), patch);
    }
}
