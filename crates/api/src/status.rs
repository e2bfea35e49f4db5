//! What a request is answered with when it fails: `v1` Status, in the words that clients know.

use serde_json::{Value, json};

use crate::field::FieldError;
use crate::resource::Kind;

/// A refusal. The code is an HTTP status; reason and message are what `kubectl` prints and what
/// client libraries tell cases apart by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, for example `NotFound`.
    pub reason: &'static str,
    /// What is said to the user.
    pub message: String,
    /// `details`, or null.
    pub details: Value,
}

/// Result of handling a request.
pub(crate) type Result<T, E = Status> = std::result::Result<T, E>;

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    /// The request can't be understood.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Nobody has said who asks.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            401,
            "Unauthorized",
            "Unauthorized: a client certificate of this cluster is needed",
        )
    }

    /// It would be understood, and is not allowed.
    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.resource());
        Self { details: about(kind, name), ..Self::new(403, "Forbidden", message) }
    }

    /// There is no such object.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self { details: about(kind, name), ..Self::new(404, "NotFound", message) }
    }

    /// There is no such path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// The kind does not have that verb.
    pub(crate) fn method_not_allowed(verb: &str, kind: &Kind) -> Self {
        let message =
            format!("{verb} is not supported on resources of kind \"{}\"", kind.resource());
        Self::new(405, "MethodNotAllowed", message)
    }

    /// There is one already.
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.resource());
        Self { details: about(kind, name), ..Self::new(409, "AlreadyExists", message) }
    }

    /// The object has changed since the client read it.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self { details: about(kind, name), ..Self::new(409, "Conflict", message) }
    }

    /// As [`Status::conflict`], in the words for a stale resourceVersion.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// History does not go back that far.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// The body is in a format that is not taken here.
    pub(crate) fn unsupported_media_type(given: &str, accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format ({given}) - accepted media types include: {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The object breaks rules of its kind.
    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let text = match texts.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {text}", kind.qualified_kind());
        let causes: Vec<Value> = errors.iter().map(FieldError::cause).collect();
        let details =
            json!({"name": name, "group": kind.group, "kind": kind.kind, "causes": causes});
        Self { details, ..Self::new(422, "Invalid", message) }
    }

    /// A watch or list asks for a version that does not exist yet.
    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        Self { details, ..Self::new(504, "Timeout", message) }
    }

    /// Something here failed.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {error}"))
    }

    /// Nobody is there to answer.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message)
    }

    /// The object on the wire.
    pub(crate) fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn about(kind: &Kind, name: &str) -> Value {
    json!({"name": name, "group": kind.group, "kind": kind.plural})
}
