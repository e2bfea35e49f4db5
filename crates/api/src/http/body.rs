//! Reading objects from request bodies.

use bytes::Bytes;
use http::HeaderMap;
use http::header;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::protobuf;
use crate::resource::Kind;
use crate::status::{Result, Status};

/// Largest body that is read: that of a kube-apiserver.
const LIMIT_BYTES: usize = 3 << 20;

/// Reads a whole body.
pub(super) async fn read(body: Incoming) -> Result<Bytes> {
    match Limited::new(body, LIMIT_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(Status {
            code: 413,
            reason: "RequestEntityTooLarge",
            ..Status::bad_request(format!("the body can't be read: {error}"))
        }),
    }
}

/// The media type of a body.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Decodes an object from JSON, YAML or protobuf, as its media type says.
pub(super) fn decode(media_type: &str, body: &[u8]) -> Result<Value> {
    let malformed = |error: &dyn std::fmt::Display| {
        Status::bad_request(format!("the object provided is unrecognized: {error}"))
    };
    let value: Value = match media_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => {
            serde_json::from_slice(body).map_err(|error| malformed(&error))?
        }
        "application/yaml" => {
            let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
            serde_saphyr::from_str(text).map_err(|error| malformed(&error))?
        }
        protobuf::MEDIA_TYPE => protobuf::decode(body).map_err(|error| malformed(&error))?,
        other => {
            return Err(Status::unsupported_media_type(
                other,
                &["application/json", "application/yaml", protobuf::MEDIA_TYPE],
            ));
        }
    };
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(malformed(&"an object is needed")),
    }
}

/// Checks that an object is of the kind that the path names, and completes what may be left out.
pub(super) fn check_kind(kind: &Kind, object: &mut Value) -> Result<()> {
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match &object[field] {
            Value::Null => object[field] = expected.into(),
            Value::String(given) if *given == expected => {}
            given => {
                return Err(Status::bad_request(format!(
                    "{field} in the object is {given}, and the path names {}, whose {field} is \"{expected}\"",
                    kind.plural
                )));
            }
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(serde_json::Map::new());
    }
    Ok(())
}
