//! YAML (or JSON, which is YAML) with the line of every field.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// One document, and where its fields are.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    /// Line of every field by its path, for example `spec.ports[0].port`; the document's own under
    /// the empty path.
    pub(super) lines: BTreeMap<String, u64>,
}

/// Why a text is no YAML.
#[derive(Debug)]
pub(super) struct Malformed {
    /// Line, from 1; `None` if it can't be told.
    pub(super) line: Option<u64>,
    pub(super) reason: String,
}

/// The documents of a text; empty ones are left out.
pub(super) fn read(text: &str) -> Result<Vec<Document>, Malformed> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let trees: Vec<Spanned<Tree>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| Malformed {
            line: error.location().map(|location| location.line()).filter(|line| *line > 0),
            reason: without_place(&error.to_string()),
        })?;
    let documents = trees.into_iter().map(|tree| {
        let mut lines = BTreeMap::new();
        let value = flatten(tree, "", &mut lines);
        Document { value, lines }
    });
    Ok(documents.filter(|document| !document.value.is_null()).collect())
}

/// The reader's sentence without the place, which is told in our own way.
fn without_place(text: &str) -> String {
    let is_place = |word: &str| word.starts_with("at line") || word.starts_with("line ");
    let parts: Vec<&str> = text.split(", ").filter(|part| !is_place(part)).collect();
    let text = parts.join(", ");
    text.split(" at line ").next().unwrap_or(&text).replace('\n', " ")
}

/// A value with the place of everything in it.
#[derive(Debug)]
enum Tree {
    Leaf(Value),
    List(Vec<Spanned<Tree>>),
    Fields(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            fields.push(entry);
        }
        Ok(Tree::Fields(fields))
    }
}

fn flatten(tree: Spanned<Tree>, path: &str, lines: &mut BTreeMap<String, u64>) -> Value {
    // A field's line is that of its name, which was noted on the way here.
    lines.entry(path.to_owned()).or_insert(tree.referenced.line());
    match tree.value {
        Tree::Leaf(value) => value,
        Tree::List(list) => {
            let items = list.into_iter().enumerate();
            items.map(|(i, item)| flatten(item, &format!("{path}[{i}]"), lines)).collect()
        }
        Tree::Fields(fields) => {
            let mut map = Map::new();
            for (name, tree) in fields {
                let path = match path.is_empty() {
                    true => name.value.clone(),
                    false => format!("{path}.{}", name.value),
                };
                lines.insert(path.clone(), name.referenced.line());
                map.insert(name.value, flatten(tree, &path, lines));
            }
            Value::Object(map)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_has_its_line() {
        let text = "# a comment\nkind: Service\nspec:\n  ports:\n  - port: 80\n    name: a\n  - {port: 81}\n---\n---\nkind: Pod\n";
        let documents = read(text).unwrap();
        assert_eq!(documents.len(), 2);
        let spec = json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]});
        assert_eq!(documents[0].value, json!({"kind": "Service", "spec": spec}));
        let line = |path: &str| documents[0].lines[path];
        assert_eq!(line("kind"), 2);
        assert_eq!(line("spec.ports[0]"), 5);
        assert_eq!(line("spec.ports[0].name"), 6);
        assert_eq!(line("spec.ports[1].port"), 7);
        assert_eq!(documents[1].lines["kind"], 10);
    }

    #[test]
    fn json_is_read_too() {
        let documents = read("{\"kind\": \"Service\",\n \"spec\": {\"ports\": []}}").unwrap();
        assert_eq!(documents[0].value, json!({"kind": "Service", "spec": {"ports": []}}));
        assert_eq!(documents[0].lines["spec.ports"], 2);
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, line) in [
            ("kind: Service\nmetadata:\n  name: a\n  name: b\n", 4),
            ("kind: Service\nspec: [1, 2\nmetadata: {}\n", 3),
            ("kind: \"Service\nspec: 1\n", 1),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.line.is_some_and(|found| found >= line), "{error:?}");
            assert!(!error.reason.contains("line "), "{error:?}");
        }
    }
}
