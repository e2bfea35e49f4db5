//! What an object has to be like before anything else is looked at: of the right types, and about
//! what the path names.

use serde_json::{Value, json};

use crate::http::query::{FieldValidation, Query};
use crate::http::route::Target;
use crate::resource::Kind;
use crate::status::{Result, Status};

/// Checks types and unknown fields; answers warnings.
pub(super) fn check_fields(kind: &Kind, object: &Value, query: &Query) -> Result<Vec<String>> {
    check_fields_as(kind, object, query.field_validation()?)
}

pub(super) fn check_fields_as(
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
pub(super) fn check_place(target: &Target<'_>, object: &mut Value) -> Result<()> {
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

pub(super) fn check_name(kind: &Kind, object: &Value, name: &str) -> Result<()> {
    match object["metadata"]["name"].as_str() {
        Some(given) if given == name => Ok(()),
        given => Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name}) of {}",
            given.unwrap_or_default(),
            kind.plural
        ))),
    }
}
