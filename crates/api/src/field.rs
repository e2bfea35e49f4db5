//! What is wrong with one field of an object, in the API's own words.

use std::fmt;

use serde_json::{Value, json};

/// A broken rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldError {
    /// Path of the field, for example `spec.ports[0].nodePort`.
    pub path: String,
    /// Which kind of mistake.
    pub problem: Problem,
    /// The value found.
    pub value: Value,
    /// What would be right.
    pub detail: String,
}

/// Kinds of mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The value is not acceptable.
    Invalid,
    /// There has to be a value.
    Required,
    /// The value may stand only once.
    Duplicate,
    /// The value is not one of a list.
    NotSupported,
    /// There may be no value here.
    Forbidden,
    /// The list is too long.
    TooMany,
    /// The text is too long.
    TooLong,
}

impl FieldError {
    /// The value is not acceptable; `detail` says what would be.
    pub(crate) fn invalid(
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(path, Problem::Invalid, value.into(), detail)
    }

    /// There has to be a value.
    pub(crate) fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, Problem::Required, Value::Null, detail)
    }

    /// The value may stand only once.
    pub(crate) fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, Problem::Duplicate, value.into(), "")
    }

    /// The value is not one of `supported`.
    pub(crate) fn not_supported(
        path: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let mut supported = supported.to_vec();
        supported.sort_unstable();
        let list: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        Self::new(path, Problem::NotSupported, value.into(), detail)
    }

    /// There may be no value here.
    pub(crate) fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, Problem::Forbidden, Value::Null, detail)
    }

    /// The list has more than `limit` items.
    pub(crate) fn too_many(path: impl Into<String>, count: usize, limit: usize) -> Self {
        let detail = format!("must have at most {limit} items");
        Self::new(path, Problem::TooMany, count.into(), detail)
    }

    /// The text has more than `limit` bytes.
    pub(crate) fn too_long(path: impl Into<String>, limit: usize) -> Self {
        let detail = format!("may not be more than {limit} bytes");
        Self::new(path, Problem::TooLong, Value::Null, detail)
    }

    fn new(
        path: impl Into<String>,
        problem: Problem,
        value: Value,
        detail: impl Into<String>,
    ) -> Self {
        Self { path: path.into(), problem, value, detail: detail.into() }
    }

    /// The entry of `details.causes`.
    pub(crate) fn cause(&self) -> Value {
        json!({"reason": self.problem.reason(), "message": self.body(), "field": self.path})
    }

    /// The text without the path.
    fn body(&self) -> String {
        let mut text = self.problem.text().to_owned();
        if !matches!(self.problem, Problem::Required | Problem::Forbidden | Problem::TooLong) {
            text.push_str(": ");
            text.push_str(&self.value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Problem::Invalid => "Invalid value",
            Problem::Required => "Required value",
            Problem::Duplicate => "Duplicate value",
            Problem::NotSupported => "Unsupported value",
            Problem::Forbidden => "Forbidden",
            Problem::TooMany => "Too many",
            Problem::TooLong => "Too long",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Problem::Invalid => "FieldValueInvalid",
            Problem::Required => "FieldValueRequired",
            Problem::Duplicate => "FieldValueDuplicate",
            Problem::NotSupported => "FieldValueNotSupported",
            Problem::Forbidden => "FieldValueForbidden",
            Problem::TooMany => "FieldValueTooMany",
            Problem::TooLong => "FieldValueTooLong",
        }
    }
}

/// The entries of a list, by its path as in a JSON pointer (RFC 6901); none if it is not there. Asking leaves no trace.
pub(crate) fn entries_mut<'v>(
    object: &'v mut Value,
    path: &str,
) -> impl Iterator<Item = &'v mut Value> + use<'v> {
    object.pointer_mut(path).and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_users_know() {
        let port = FieldError::invalid(
            "spec.ports[0].nodePort",
            30080,
            "provided port is already allocated",
        );
        assert_eq!(
            port.to_string(),
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
        );
        let kind = FieldError::not_supported("spec.type", "NodePrt", &["NodePort", "ClusterIP"]);
        assert_eq!(
            kind.to_string(),
            r#"spec.type: Unsupported value: "NodePrt": supported values: "ClusterIP", "NodePort""#
        );
        assert_eq!(
            FieldError::required("spec.ports", "").to_string(),
            "spec.ports: Required value"
        );
    }

    #[test]
    fn asking_for_entries_leaves_no_trace() {
        let mut object = json!({"spec": {"ports": [{"port": 1}]}});
        let before = object.clone();
        assert_eq!(entries_mut(&mut object, "/spec/ports").count(), 1);
        assert_eq!(entries_mut(&mut object, "/spec/rules").count(), 0);
        assert_eq!(object, before);
    }
}
