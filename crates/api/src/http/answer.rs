//! Building responses.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::status::Status;

/// A response to be sent.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A JSON body.
pub(super) fn json(code: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(code, "application/json", body)
}

/// A JSON value as body.
pub(super) fn value(code: StatusCode, value: &Value) -> Answer {
    json(code, value.to_string())
}

/// A text body.
pub(super) fn text(code: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(code, "text/plain; charset=utf-8", body)
}

/// A body of some media type.
pub(super) fn typed(code: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    answer
}

/// A refusal.
pub(super) fn status(status: &Status) -> Answer {
    let code = StatusCode::from_u16(status.code).expect("statuses have valid codes");
    value(code, &status.to_json())
}

/// Adds warnings, each as a header that kubectl prints (RFC 7234, code 299).
pub(super) fn warn(mut answer: Answer, warnings: &[String]) -> Answer {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        // What can't stand in a header is not worth failing for.
        if let Ok(value) = header::HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
    answer
}

/// How a client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Object,
    /// As rows of a table, for `kubectl get`.
    Table,
    /// The aggregated discovery documents.
    Discovery,
}

/// Reads the `Accept` header: the first form that this server has.
pub(super) fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    for wanted in accept.split(',') {
        let is_json = wanted.trim().starts_with("application/json");
        let parameters: Vec<&str> = wanted.split(';').map(str::trim).collect();
        let has = |parameter| parameters.contains(&parameter);
        if is_json && has("as=Table") && has("v=v1") {
            return Form::Table;
        }
        if is_json && has("as=APIGroupDiscoveryList") && has("v=v2") {
            return Form::Discovery;
        }
        if is_json && !wanted.contains("as=") {
            return Form::Object;
        }
    }
    Form::Object
}
