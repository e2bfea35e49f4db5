//! The options in a request's query.

use std::collections::HashMap;

use crate::selector::Selector;
use crate::status::{Result, Status};

/// Options of all verbs; each verb reads its own.
#[derive(Debug, Default)]
pub(super) struct Query(HashMap<String, String>);

/// What is done about fields that a kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped with a warning.
    Warn,
    /// The request is refused.
    Strict,
}

impl Query {
    /// Reads a query string.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.0.get(key).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "true" | "1")
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        match self.text(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("{key}={text} in the query: a whole number is needed"))
            }),
        }
    }

    pub(super) fn selector(&self) -> Result<Selector> {
        Selector::parse(self.text("labelSelector"), self.text("fieldSelector"))
    }

    pub(super) fn dry_run(&self) -> Result<bool> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Status::bad_request(format!(
                "dryRun={other} in the query: supported values: \"All\""
            ))),
        }
    }

    pub(super) fn field_validation(&self) -> Result<FieldValidation> {
        match self.text("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(Status::bad_request(format!(
                "fieldValidation={other} in the query: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Percent-decodes; `+` is a space. What is no valid escape stays as it is.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (escaped, first) {
            (Some(byte), _) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (None, b'+') => bytes.push(b' '),
            (None, other) => bytes.push(*other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query =
            Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch=1&limit=x&bad=%zz");
        assert_eq!(query.text("labelSelector"), "app=web,tier in (a)");
        assert!(query.flag("watch"));
        assert_eq!(query.text("bad"), "%zz");
        assert_eq!(query.number("limit").unwrap_err().code, 400);
        assert_eq!(query.number("absent"), Ok(None));
    }
}
