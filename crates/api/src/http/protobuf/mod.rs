//! Objects in Kubernetes' protobuf form, which kubectl sends for what it makes itself (`kubectl
//! create`, `kubectl run`). Only reading: answers are JSON, which every client takes.
//!
//! What arrives becomes the same JSON as if it had been sent as such. Fields that this server does
//! not know are refused, not lost.

mod schema;
mod wire;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use schema::{Field, Type, message};
use wire::{Fields, Raw};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What the bytes begin with.
const MAGIC: &[u8] = b"k8s\0";

type Result<T> = std::result::Result<T, String>;

/// Decodes an object in its envelope (`runtime.Unknown`).
pub(super) fn decode(body: &[u8]) -> Result<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the bytes do not begin with \"k8s\\0\"")?;
    let (mut api_version, mut kind, mut object) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Raw::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Raw::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Raw::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(bytes)) => object = bytes,
            _ => {}
        }
    }
    let mut value = read_message(&kind, object)?;
    value.insert("apiVersion".to_owned(), api_version.into());
    value.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(value))
}

fn read_message(name: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    let known =
        message(name).ok_or_else(|| format!("{name} is not known in protobuf: use JSON"))?;
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, raw) = field?;
        let Some(field) = known.iter().find(|field| field.number == number) else {
            return Err(format!("field {number} of {name} is not known in protobuf: use JSON"));
        };
        read_field(field, raw, &mut object).map_err(|error| match field.name {
            "." => error,
            name => format!("{name}: {error}"),
        })?;
    }
    Ok(object)
}

fn read_field(field: &Field, raw: Raw<'_>, object: &mut Map<String, Value>) -> Result<()> {
    let name = field.name;
    if name == "." {
        // Go embeds the message: in JSON its fields are those of what is around it.
        let Type::Message(inner) = field.kind else { return Err("not a message".to_owned()) };
        object.extend(read_message(inner, raw.bytes()?)?);
        return Ok(());
    }
    if field.is_map {
        let (key, value) = read_entry(field, raw.bytes()?)?;
        let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
        map[key.as_str()] = value;
        return Ok(());
    }
    let value = read_value(field.kind, raw)?;
    if field.is_list {
        let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
        return Ok(());
    }
    // What has no value in Go is written all the same, unless a missing one means something else.
    if field.keeps_zero || !is_zero(&value) {
        object.insert(name.to_owned(), value);
    }
    Ok(())
}

/// One entry of a map.
fn read_entry(field: &Field, bytes: &[u8]) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), Value::Null);
    for part in Fields(bytes) {
        match part? {
            (1, raw) => key = text(raw.bytes()?)?,
            (2, raw) => value = read_value(field.kind, raw)?,
            _ => {}
        }
    }
    if value.is_null() {
        value = "".into();
    }
    Ok((key, value))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn read_value(kind: Type, raw: Raw<'_>) -> Result<Value> {
    Ok(match kind {
        Type::Text => text(raw.bytes()?)?.into(),
        Type::Bytes => BASE64_STANDARD.encode(raw.bytes()?).into(),
        Type::Integer => raw.integer()?.into(),
        Type::Bool => (raw.integer()? != 0).into(),
        Type::Double => f64::from_bits(raw.fixed()?).into(),
        Type::Time => time(raw.bytes()?, 0)?,
        Type::MicroTime => time(raw.bytes()?, 6)?,
        Type::IntOrString => int_or_string(raw.bytes()?)?,
        Type::Quantity => first_text(raw.bytes()?)?.into(),
        Type::Json => {
            let inner = first_bytes(raw.bytes()?)?;
            match inner.is_empty() {
                true => Value::Null,
                false => serde_json::from_slice(inner).map_err(|error| error.to_string())?,
            }
        }
        Type::Message(name) => Value::Object(read_message(name, raw.bytes()?)?),
    })
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
}

fn first_bytes(bytes: &[u8]) -> Result<&[u8]> {
    for field in Fields(bytes) {
        if let (1, raw) = field? {
            return raw.bytes();
        }
    }
    Ok(&[])
}

fn first_text(bytes: &[u8]) -> Result<String> {
    text(first_bytes(bytes)?)
}

/// Seconds and nanoseconds since 1970; no time at all is empty.
fn time(bytes: &[u8], digits: u8) -> Result<Value> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, raw) => seconds = raw.integer()?,
            (2, raw) => nanoseconds = i32::try_from(raw.integer()?).unwrap_or(0),
            _ => {}
        }
    }
    // Go's zero time is in the year 1.
    if bytes.is_empty() || seconds < -60_000_000_000 {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds, nanoseconds).map_err(|error| error.to_string())?;
    Ok(format!("{time:.*}", usize::from(digits)).into())
}

/// Which of the two it is, a number, a text.
fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, raw) => is_text = raw.integer()? != 0,
            (2, raw) => number = raw.integer()?,
            (3, raw) => string = text(raw.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A field with contents.
    fn field(number: u8, contents: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(contents.len()).unwrap()], contents].concat()
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn envelope(kind: &str, object: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &type_meta), &field(2, object)].concat()
    }

    #[test]
    fn a_service_becomes_the_json_that_says_the_same() {
        let entry = [field(1, b"app"), field(2, b"web")].concat();
        let target = [number(1, 1), number(2, 0), field(3, b"http")].concat();
        let port =
            [field(1, b""), field(2, b"TCP"), number(3, 80), field(4, &target), number(5, 0)];
        let spec =
            [field(1, &port.concat()), field(2, &entry), field(3, b""), field(4, b"NodePort")];
        let metadata = [field(1, b"web"), field(3, b""), field(8, b"")].concat();
        let service = [field(1, &metadata), field(2, &spec.concat())].concat();
        assert_eq!(
            decode(&envelope("Service", &service)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                "spec": {"type": "NodePort", "selector": {"app": "web"},
                         "ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}]},
            })
        );
    }

    #[test]
    fn zero_is_kept_where_nothing_means_something_else() {
        let spec = [number(1, 0), number(5, 0)].concat();
        let deployment = field(2, &spec);
        let value = decode(&envelope("Deployment", &deployment)).unwrap();
        assert_eq!(value["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let error = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert!(error(b"{}").contains("k8s"));
        assert_eq!(error(&envelope("Gadget", &[])), "Gadget is not known in protobuf: use JSON");
        let unknown = field(2, &field(15, b"x"));
        assert_eq!(
            error(&envelope("Namespace", &unknown)),
            "spec: field 15 of NamespaceSpec is not known in protobuf: use JSON"
        );
        let cut = &envelope("Namespace", &field(1, b"abcdef"))[..20];
        assert!(decode(cut).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = envelope("Service", &field(2, &field(1, &number(3, 80))));
        for end in 0..good.len() {
            let _ = decode(&good[..end]);
        }
        for at in 0..good.len() {
            for flip in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << flip;
                let _ = decode(&bad);
            }
        }
    }
}
