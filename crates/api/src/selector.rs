//! Label and field selectors, as they stand in a query.

use model::{BadSelector, LabelSelector};
use serde_json::Value;

use crate::resource::Kind;
use crate::status::{Result, Status};

/// Which objects a request is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: LabelSelector,
    fields: Vec<(String, bool, String)>,
}

impl Selector {
    /// Reads both selectors of a query; empty texts select everything.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self> {
        let labels =
            labels.parse().map_err(|error: BadSelector| Status::bad_request(error.to_string()))?;
        Ok(Self { labels, fields: parse_fields(fields)? })
    }

    /// Whether it selects everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Fails if the kind can't be selected by one of the fields.
    pub(crate) fn check(&self, kind: &Kind) -> Result<()> {
        let probe = Value::Object(serde_json::Map::new());
        for (path, ..) in &self.fields {
            let is_known = matches!(path.as_str(), "metadata.name" | "metadata.namespace")
                || kind.strategy.field(&probe, path).is_some();
            if !is_known {
                return Err(Status::bad_request(format!("field label not supported: {path}")));
            }
        }
        Ok(())
    }

    /// Whether an object is selected.
    pub(crate) fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.labels.selects(|key| object["metadata"]["labels"][key].as_str())
            && self.fields.iter().all(|(path, equal, wanted)| {
                let value = match path.as_str() {
                    "metadata.name" | "metadata.namespace" => {
                        object["metadata"][&path[9..]].as_str().unwrap_or_default().to_owned()
                    }
                    _ => kind.strategy.field(object, path).unwrap_or_default(),
                };
                (value == *wanted) == *equal
            })
    }
}

fn parse_fields(text: &str) -> Result<Vec<(String, bool, String)>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==") {
                (path, true, value)
            } else if let Some((path, value)) = part.split_once('=') {
                (path, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}': a field selector is path=value or path!=value"
                )));
            };
            Ok((path.trim().to_owned(), equal, value.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_selected_by_labels_and_fields() {
        let object = serde_json::json!({"metadata": {"name": "a", "labels": {"app": "web"}}});
        let kind = &crate::resource::kinds()[0];
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=web", "metadata.name=a", true),
            ("app=api", "metadata.name=a", false),
            ("app=web", "metadata.name!=a", false),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(kind, &object), expected, "{labels} {fields}");
        }
        assert_eq!(Selector::parse("app in web", "").unwrap_err().code, 400);
        assert!(Selector::parse("", "metadata.name").is_err());
    }
}
