//! Label and field selectors, as they stand in a query.

use serde_json::Value;

use crate::resource::Kind;
use crate::status::{Result, Status};

/// Which objects a request is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone, PartialEq)]
enum LabelRequirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Reads both selectors of a query; empty texts select everything.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(fields)? })
    }

    /// Whether it selects everything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
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
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let labels = self.labels.iter().all(|requirement| match requirement {
            LabelRequirement::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|v| v == value))
            }
            // An object without the label is not in the list either.
            LabelRequirement::NotIn(key, values) => {
                label(key).is_none_or(|value| values.iter().all(|v| v != value))
            }
            LabelRequirement::Exists(key) => label(key).is_some(),
            LabelRequirement::Missing(key) => label(key).is_none(),
        });
        labels
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

fn parse_labels(text: &str) -> Result<Vec<LabelRequirement>> {
    let mut requirements = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = end_of_requirement(rest);
        requirements.push(parse_requirement(rest[..end].trim())?);
        rest = rest[end..].trim_start_matches(',').trim();
    }
    Ok(requirements)
}

/// The comma that ends a requirement is the first one outside parentheses.
fn end_of_requirement(text: &str) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => return i,
            _ => {}
        }
    }
    text.len()
}

fn parse_requirement(text: &str) -> Result<LabelRequirement> {
    let refused = || {
        Status::bad_request(format!(
            "unable to parse requirement: '{text}': accepted are key, !key, key=value, key!=value, key in (a,b), key notin (a,b)"
        ))
    };
    if let Some(key) = text.strip_prefix('!') {
        return Ok(LabelRequirement::Missing(key.trim().to_owned()));
    }
    if let Some((head, list)) = text.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(refused)?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(LabelRequirement::In(key.to_owned(), values)),
            (Some(key), Some("notin"), None) => Ok(LabelRequirement::NotIn(key.to_owned(), values)),
            _ => Err(refused()),
        };
    }
    let pair = |(key, value): (&str, &str)| {
        (key.trim().to_owned(), vec![value.trim_start_matches('=').trim().to_owned()])
    };
    if let Some(split) = text.split_once("!=") {
        let (key, values) = pair(split);
        return Ok(LabelRequirement::NotIn(key, values));
    }
    if let Some(split) = text.split_once('=') {
        let (key, values) = pair(split);
        return Ok(LabelRequirement::In(key, values));
    }
    match text.contains(char::is_whitespace) || text.is_empty() {
        true => Err(refused()),
        false => Ok(LabelRequirement::Exists(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors() {
        let object = serde_json::json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        let kind = &crate::resource::kinds()[0];
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=api", false),
            ("app!=api", true),
            ("missing!=x", true),
            ("missing notin (x,y)", true),
            ("app in (api, web),tier", true),
            ("app notin (api,web)", false),
            ("!missing", true),
            ("!app", false),
        ] {
            let selector = Selector::parse(text, "").unwrap();
            assert_eq!(selector.matches(kind, &object), expected, "{text}");
        }
        assert!(Selector::parse("app in web", "").is_err());
        assert!(Selector::parse("", "metadata.name").is_err());
    }
}
