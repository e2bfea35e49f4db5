//! Checking an object against the types of its API version: wrong types, and fields it does not have.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes `object` as `T`. Answers the paths of fields that `T` does not have; the error names the
/// path of a value of a wrong type.
pub(super) fn decode<T: DeserializeOwned + Serialize>(
    object: &Value,
) -> Result<Vec<String>, String> {
    let typed: T = match T::deserialize(object) {
        Ok(typed) => typed,
        Err(error) => return Err(locate::<T>(object, &error.to_string())),
    };
    let known = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    let mut unknown = Vec::new();
    compare(object, &known, &mut String::new(), &mut unknown);
    Ok(unknown)
}

/// What decoding has lost.
fn compare(given: &Value, known: &Value, path: &mut String, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given {
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                match known.get(key) {
                    Some(known) => compare(value, known, path, unknown),
                    // What is empty may be left out by the encoder.
                    None if is_empty(value) => {}
                    None => unknown.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (i, (given, known)) in given.iter().zip(known).enumerate() {
                let length = path.len();
                path.push_str(&format!("[{i}]"));
                compare(given, known, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Finds the value that keeps the object from decoding: without it, decoding gets further.
fn locate<T: DeserializeOwned>(object: &Value, error: &str) -> String {
    let mut paths = Vec::new();
    leaves(object, &mut Vec::new(), &mut paths);
    for path in paths {
        let mut without = object.clone();
        remove(&mut without, &path);
        let further = match T::deserialize(&without) {
            Ok(_) => true,
            Err(other) => other.to_string() != error,
        };
        if further {
            let mut text = String::new();
            for step in &path {
                match step {
                    Step::Field(name) if text.is_empty() => text.push_str(name),
                    Step::Field(name) => text.push_str(&format!(".{name}")),
                    Step::Item(i) => text.push_str(&format!("[{i}]")),
                }
            }
            return format!("{text}: {error}");
        }
    }
    error.to_owned()
}

#[derive(Clone)]
enum Step {
    Field(String),
    Item(usize),
}

/// All values that hold no others, and all that hold some, inner ones first.
fn leaves(value: &Value, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                path.push(Step::Field(key.clone()));
                leaves(value, path, out);
                out.push(path.clone());
                path.pop();
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                path.push(Step::Item(i));
                leaves(value, path, out);
                out.push(path.clone());
                path.pop();
            }
        }
        _ => {}
    }
}

fn remove(value: &mut Value, path: &[Step]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut value = value;
    for step in parents {
        let next = match step {
            Step::Field(name) => value.get_mut(name),
            Step::Item(i) => value.get_mut(i),
        };
        match next {
            Some(next) => value = next,
            None => return,
        }
    }
    match (last, value) {
        (Step::Field(name), Value::Object(fields)) => {
            fields.remove(name);
        }
        (Step::Item(i), Value::Array(items)) => {
            items.remove(*i);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn service(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    }

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let object =
            service(json!({"ports": [{"port": 80, "nodeprot": 3}], "sellector": {"a": "b"}}));
        let unknown = decode::<Service>(&object).unwrap();
        assert_eq!(unknown, ["spec.ports[0].nodeprot", "spec.sellector"]);
        let fine =
            service(json!({"ports": [{"port": 80, "targetPort": "web"}], "externalIPs": []}));
        assert!(decode::<Service>(&fine).unwrap().is_empty());
    }

    #[test]
    fn wrong_types_are_named_by_their_path() {
        let object = service(json!({"ports": [{"port": 80}, {"port": "http"}]}));
        let error = decode::<Service>(&object).unwrap_err();
        assert!(error.starts_with("spec.ports[1].port: invalid type: string \"http\""), "{error}");
    }
}
